//! The escapes of an interactive session: what a tilde at the beginning of a line means, as in
//! OpenSSH.

use bytes::{BufMut, Bytes, BytesMut};

/// What `~?` shows, line by line.
pub(super) const HELP: [&str; 5] = [
    "escapes at the beginning of a line:",
    "  ~.  leave and end the session",
    "  ~d  leave and let the session go on",
    "  ~~  send one tilde",
    "  ~?  show this",
];

/// Finds escapes in what a user types.
#[derive(Debug)]
pub(super) struct EscapeFilter {
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    LineStart,
    /// Behind a tilde that has not been passed on.
    Tilde,
    InLine,
}

/// What is left of some input, and what it asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Filtered {
    /// What goes to the other side.
    pub(super) bytes: Bytes,
    /// The user wants to see [`HELP`].
    pub(super) help: bool,
    /// The user leaves; input behind that is dropped.
    pub(super) leave: Option<Leave>,
}

/// How a user leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// The session ends.
    Ending,
    /// The session goes on.
    Detaching,
}

impl EscapeFilter {
    /// A filter at the beginning of a line.
    pub(super) fn new() -> Self {
        Self {
            state: State::LineStart,
        }
    }

    /// Takes the escapes out of the next input.
    pub(super) fn filter(&mut self, input: &Bytes) -> Filtered {
        let mut passed = BytesMut::with_capacity(input.len() + 1);
        let mut filtered = Filtered::default();
        for &byte in input {
            match (self.state, byte) {
                (State::LineStart, b'~') => {
                    self.state = State::Tilde;
                    continue;
                }
                (State::Tilde, b'.') => {
                    filtered.leave = Some(Leave::Ending);
                    break;
                }
                (State::Tilde, b'd') => {
                    filtered.leave = Some(Leave::Detaching);
                    break;
                }
                (State::Tilde, b'?') => {
                    filtered.help = true;
                    self.state = State::LineStart;
                    continue;
                }
                (State::Tilde, b'~') | (State::LineStart | State::InLine, _) => {}
                // No escape, so the tilde was meant.
                (State::Tilde, _) => passed.put_u8(b'~'),
            }
            passed.put_u8(byte);
            self.state = match byte {
                b'\r' | b'\n' => State::LineStart,
                _ => State::InLine,
            };
        }
        filtered.bytes = passed.freeze();
        filtered
    }

    /// What was held back when the input ends.
    pub(super) fn rest(&self) -> Bytes {
        Bytes::from_static(if self.state == State::Tilde {
            b"~"
        } else {
            b""
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All that the filter makes of some pieces of input.
    fn run(pieces: &[&[u8]]) -> (Vec<u8>, bool, bool) {
        let mut filter = EscapeFilter::new();
        let (mut bytes, mut help, mut leave) = (Vec::new(), false, false);
        for piece in pieces {
            let filtered = filter.filter(&Bytes::copy_from_slice(piece));
            bytes.extend_from_slice(&filtered.bytes);
            help |= filtered.help;
            leave |= filtered.leave.is_some();
            if leave {
                return (bytes, help, leave);
            }
        }
        bytes.extend_from_slice(&filter.rest());
        (bytes, help, leave)
    }

    #[test]
    fn only_a_tilde_at_the_beginning_of_a_line_escapes() {
        for (input, output, help, leave) in [
            ("~.", "", false, true),
            ("~d", "", false, true),
            ("a~d", "a~d", false, false),
            ("a~.", "a~.", false, false),
            ("a\r~.b", "a\r", false, true),
            ("a\n~.", "a\n", false, true),
            ("~~.", "~.", false, false),
            ("~~", "~", false, false),
            ("~", "~", false, false),
            ("~a~.", "~a~.", false, false),
            ("~\r~.", "~\r", false, true),
            ("~?~.", "", true, true),
            ("~?x", "x", true, false),
        ] {
            let told = run(&[input.as_bytes()]);
            assert_eq!(told, (output.into(), help, leave), "{input:?}");
        }
    }

    proptest! {
        #[test]
        fn bytes_without_a_tilde_at_the_beginning_of_a_line_pass_unchanged(
            lines in proptest::collection::vec("[^~\r\n][^\r\n]{0,20}", 0..5),
        ) {
            let text = lines.join("\r");
            prop_assert_eq!(run(&[text.as_bytes()]), (text.clone().into_bytes(), false, false));
        }

        #[test]
        fn it_does_not_matter_where_the_input_is_cut(input in "[~.?da\r\n]{0,30}", cut in 0..30_usize) {
            let input = input.as_bytes();
            let (left, right) = input.split_at(cut.min(input.len()));
            prop_assert_eq!(run(&[left, right]), run(&[input]));
        }
    }
}
