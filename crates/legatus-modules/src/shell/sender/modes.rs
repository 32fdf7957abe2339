//! What a program has changed about the user's terminal, so that it can be undone when the user leaves
//! while the program goes on; and in which column it has left the cursor.

use std::collections::BTreeSet;

use anstyle_parse::{DefaultCharAccumulator, Params, Parser, Perform};
use memchr::{memchr, memrchr};

const ESCAPE: u8 = 0x1b;

/// Modes of DEC that are set unless a program has reset them (xterm's `ctlseqs`): lines wrap, the
/// cursor is seen.
const SET_AT_FIRST: [u16; 2] = [7, 25];

/// Modes that programs change and that are in the way of whoever comes after them: keys of the cursor
/// and the mouse, the other screen, focus, paste, what is shown at once.
const KNOWN: [u16; 17] = [
    1, 7, 9, 25, 47, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1015, 1047, 1049, 2004, 2026,
];

/// Modes that show the other screen, as full-screen programs do.
const OTHER_SCREEN: [u16; 3] = [47, 1047, 1049];

/// Modes of [`KNOWN`] that move the cursor, or change what moves it.
const MOVING: [u16; 4] = [7, 47, 1047, 1049];

/// Beyond so many bytes of one line the cursor's column is not counted.
const LINE_BYTES: usize = 1024;

/// Follows the output of a program to a terminal.
#[derive(Default)]
pub(super) struct Modes {
    parser: Parser<DefaultCharAccumulator>,
    /// Whether the parser is in the middle of a sequence.
    within: bool,
    changes: Changes,
    /// The cursor's column, from 0; `None` if it is not known.
    column: Option<usize>,
}

#[derive(Default)]
struct Changes {
    /// Modes that are not as they were at first.
    modes: BTreeSet<u16>,
    /// Whether the keypad sends sequences of its own (DECKPAM).
    keypad: bool,
    /// Whether text has other attributes.
    styled: bool,
    /// A sequence has ended.
    ended: bool,
    /// A sequence has ended that may have moved the cursor.
    moved: bool,
    /// A program has put something somewhere on the screen.
    painted: bool,
}

impl Modes {
    /// Looks at what goes to the terminal.
    pub(super) fn see(&mut self, mut output: &[u8]) {
        loop {
            if !self.within {
                let start = memchr(ESCAPE, output).unwrap_or(output.len());
                let (text, rest) = output.split_at(start);
                self.column = column_after(text, self.column);
                output = rest;
                self.within = !rest.is_empty();
            }
            let Some((byte, rest)) = output.split_first() else {
                return;
            };
            self.changes.ended = false;
            self.changes.moved = true;
            self.parser.advance(&mut self.changes, *byte);
            self.within = !self.changes.ended;
            if self.changes.ended && self.changes.moved {
                self.column = None;
            }
            output = rest;
        }
    }

    /// Whether a full-screen program shows itself.
    pub(super) fn is_full_screen(&self) -> bool {
        let modes = &self.changes.modes;
        OTHER_SCREEN.iter().any(|mode| modes.contains(mode))
    }

    /// Whether a program has the screen, or has put something somewhere on it since it was cleared.
    pub(super) fn is_painted(&self) -> bool {
        self.changes.painted || self.is_full_screen()
    }

    /// The cursor's column, from 0, if it is known and no sequence has come in part.
    pub(super) fn column(&self) -> Option<usize> {
        self.column.filter(|_| !self.within)
    }

    /// Something else was written to the terminal.
    pub(super) fn lose_column(&mut self) {
        self.column = None;
    }

    /// What puts the terminal into the state of before; nothing if it is in it.
    pub(super) fn undo(&self) -> Vec<u8> {
        let Changes {
            modes,
            keypad,
            styled,
            ..
        } = &self.changes;
        let mut undo = String::new();
        if self.within {
            // CAN ends a sequence that has come in part.
            undo.push('\u{18}');
        }
        if *styled {
            undo.push_str("\u{1b}[0m");
        }
        if *keypad {
            undo.push_str("\u{1b}>");
        }
        for mode in modes {
            let end = if SET_AT_FIRST.contains(mode) {
                'h'
            } else {
                'l'
            };
            undo.push_str(&format!("\u{1b}[?{mode}{end}"));
        }
        undo.into_bytes()
    }
}

/// The cursor's column after some text without escape sequences.
fn column_after(text: &[u8], before: Option<usize>) -> Option<usize> {
    let (line, begin) = match memrchr(b'\r', text) {
        Some(start) => (text.get(start + 1..).unwrap_or_default(), Some(0)),
        None => (text, before),
    };
    let mut column = begin.filter(|_| line.len() <= LINE_BYTES)?;
    for byte in line {
        match byte {
            b' '..=b'~' => column += 1,
            // A line feed alone does not return the carriage, a bell moves nothing.
            b'\n' | 0x07 => {}
            _ => return None,
        }
    }
    Some(column)
}

impl Perform for Changes {
    fn csi_dispatch(&mut self, params: &Params, intermediates: &[u8], _ignore: bool, end: u8) {
        self.ended = true;
        match (intermediates, end) {
            (b"?", b'h' | b'l') => {
                self.moved = (params.iter().flatten())
                    .any(|mode| MOVING.contains(mode) || !KNOWN.contains(mode));
                self.painted &= !(params.iter().flatten()).any(|mode| OTHER_SCREEN.contains(mode));
                for mode in params.iter().flatten().filter(|mode| KNOWN.contains(mode)) {
                    if SET_AT_FIRST.contains(mode) == (end == b'h') {
                        self.modes.remove(mode);
                    } else {
                        self.modes.insert(*mode);
                    }
                }
            }
            // A soft reset (DECSTR).
            (b"!", b'p') => {
                *self = Self {
                    ended: true,
                    moved: true,
                    ..Self::default()
                }
            }
            (b"", b'm') => {
                self.moved = false;
                self.styled = !params.iter().all(|values| values == [0]);
            }
            // Something is erased (ED, EL).
            (b"", b'J' | b'K') => {
                self.moved = false;
                self.painted &= !(end == b'J' && params.iter().flatten().any(|what| *what >= 2));
            }
            // The cursor goes to a place (CUP, HVP, VPA) that is not the first, or a region scrolls (DECSTBM).
            (b"", b'H' | b'f' | b'd' | b'r') => {
                self.painted |= end == b'r' || params.iter().flatten().any(|place| *place > 1);
            }
            _ => {}
        }
    }

    fn esc_dispatch(&mut self, _intermediates: &[u8], _ignore: bool, byte: u8) {
        self.ended = true;
        match byte {
            b'=' => {
                self.moved = false;
                self.keypad = true;
            }
            b'>' => {
                self.moved = false;
                self.keypad = false;
            }
            // The end of a string (ST).
            b'\\' => self.moved = false,
            // A full reset (RIS).
            b'c' => {
                *self = Self {
                    ended: true,
                    moved: true,
                    ..Self::default()
                }
            }
            _ => {}
        }
    }

    fn osc_dispatch(&mut self, _params: &[&[u8]], bell_terminated: bool) {
        // Otherwise the terminator's second byte comes yet.
        self.ended = bell_terminated;
        self.moved = false;
    }

    fn print(&mut self, _character: char) {
        self.ended = true;
    }

    fn execute(&mut self, byte: u8) {
        // CAN and SUB abort a sequence; other controls stand in the middle of one.
        self.ended |= matches!(byte, 0x18 | 0x1a);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn undone(output: &[u8]) -> String {
        let mut modes = Modes::default();
        modes.see(output);
        String::from_utf8(modes.undo())
            .unwrap()
            .replace('\u{1b}', "^")
    }

    #[test]
    fn what_a_program_has_changed_is_undone_and_nothing_else() {
        for (output, undo) in [
            ("text\r\n", ""),
            ("\x1b[?1049h\x1b[?25l\x1b=editing", "^>^[?25h^[?1049l"),
            ("\x1b[?1049hdone\x1b[?1049l", ""),
            ("\x1b[?1;2004h", "^[?1l^[?2004l"),
            ("\x1b[?25l\x1b[?25h\x1b[?7l", "^[?7h"),
            ("\x1b[1;31mred", "^[0m"),
            ("\x1b[1;31mred\x1b[0m", ""),
            ("\x1b[1mbold\x1b[m", ""),
            ("\x1b[38:5:1mred", "^[0m"),
            ("\x1b[?1049h\x1b=\x1bc", ""),
            ("\x1b[?1049h\x1b[!p", ""),
            ("\x1b]0;[?1049h\x07\x1b[?25l", "^[?25h"),
            ("\x1b]0;title\x1b\\\x1b[?25l", "^[?25h"),
            ("\x1bP$q\x1b\\\x1b[?25l", "^[?25h"),
            ("\x1b(0\x1b[?9999h\x1b[4h", ""),
            ("\x1b[?104", "\u{18}"),
        ] {
            assert_eq!(undone(output.as_bytes()), undo, "{output:?}");
        }
    }

    #[test]
    fn the_column_is_known_from_a_carriage_return_until_something_else_moves_the_cursor() {
        for (output, column) in [
            ("text", None),
            ("text\r", Some(0)),
            ("text\r\n$ ", Some(2)),
            (
                "\r\x1b[?2004h\x1b[01;32muser\x1b[00m:\x1b[34m~\x1b[m$ ls",
                Some(10),
            ),
            ("\r\x1b]0;a title\x07$ ", Some(2)),
            ("\r\x1b]0;a title\x1b\\$ ", Some(2)),
            ("\r\x07$ \x1b[K\x1b[J", Some(2)),
            ("\r$ \x1b[3", None),
            ("\r$ \x1b[3D", None),
            ("\r$ \x1b[3D\r", Some(0)),
            ("\r$ \x1b7", None),
            ("\r\t", None),
            ("\rab\u{8}", None),
            ("\r\u{e4}", None),
            ("\r\x1b[?1049h", None),
            ("\r\x1b[?6h", None),
        ] {
            let mut modes = Modes::default();
            modes.see(output.as_bytes());
            assert_eq!(modes.column(), column, "{output:?}");
        }
    }

    #[test]
    fn a_screen_is_painted_until_it_is_cleared() {
        for (output, painted) in [
            ("text\r\n$ ls\x1b[K", false),
            ("\x1b[H\x1b[2J$ ", false),
            ("\x1b[10;20Htext", true),
            ("\x1b[5dtext", true),
            ("\x1b[2;20r", true),
            ("\x1b[10;20Htext\x1b[J", true),
            ("\x1b[10;20Htext\x1b[H\x1b[2J", false),
            ("\x1b[10;20Htext\x1bc", false),
            ("\x1b[?1049h\x1b[10;20Htext", true),
            ("\x1b[?1049h\x1b[10;20Htext\x1b[?1049l", false),
        ] {
            let mut modes = Modes::default();
            modes.see(output.as_bytes());
            assert_eq!(modes.is_painted(), painted, "{output:?}");
        }
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_the_output_is_cut(
            output in "(\x1b|\\[|\\?|!|;|1049|25|2004|h|l|p|m|=|>|c|\\]|\\\\|P|\x07|\x18|a|\u{e4}){0,40}",
            cut in 0..80_usize,
        ) {
            let output = output.as_bytes();
            let (left, right) = output.split_at(cut.min(output.len()));
            let mut modes = Modes::default();
            modes.see(left);
            modes.see(right);
            let mut whole = Modes::default();
            whole.see(output);
            prop_assert_eq!(modes.undo(), whole.undo());
            prop_assert_eq!(modes.within, whole.within);
            prop_assert_eq!(modes.column(), whole.column());
        }

        #[test]
        fn what_undoes_leaves_nothing_to_undo(
            output in "(\x1b\\[|\\?|!|;|1049|25|7|2004|h|l|p|m|\x1b=|a){0,40}",
        ) {
            let mut modes = Modes::default();
            modes.see(output.as_bytes());
            let undo = modes.undo();
            modes.see(&undo);
            prop_assert_eq!(modes.undo(), Vec::<u8>::new());
        }
    }
}
