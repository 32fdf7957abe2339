//! What a program has changed about the user's terminal, so that it can be undone when the user leaves
//! while the program goes on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anstyle_parse::{DefaultCharAccumulator, Params, Parser, Perform};
use memchr::memchr;

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

/// Follows the output of a program to a terminal.
#[derive(Default)]
pub(super) struct Modes {
    parser: Parser<DefaultCharAccumulator>,
    /// Whether the parser is in the middle of a sequence.
    within: bool,
    changes: Changes,
    /// Whether a full-screen program shows itself.
    full_screen: Arc<AtomicBool>,
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
}

impl Modes {
    /// Looks at what goes to the terminal.
    pub(super) fn see(&mut self, mut output: &[u8]) {
        loop {
            if !self.within {
                let Some(start) = memchr(ESCAPE, output) else {
                    return;
                };
                output = output.get(start..).unwrap_or_default();
                self.within = true;
            }
            let Some((byte, rest)) = output.split_first() else {
                return;
            };
            self.changes.ended = false;
            self.parser.advance(&mut self.changes, *byte);
            self.within = !self.changes.ended;
            if self.changes.ended {
                let modes = &self.changes.modes;
                let is_full = OTHER_SCREEN.iter().any(|mode| modes.contains(mode));
                self.full_screen.store(is_full, Ordering::Relaxed);
            }
            output = rest;
        }
    }

    /// Whether a full-screen program shows itself, from now on.
    pub(super) fn full_screen(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.full_screen)
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

impl Perform for Changes {
    fn csi_dispatch(&mut self, params: &Params, intermediates: &[u8], _ignore: bool, end: u8) {
        self.ended = true;
        match (intermediates, end) {
            (b"?", b'h' | b'l') => {
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
                    ..Self::default()
                }
            }
            (b"", b'm') => self.styled = !params.iter().all(|values| values == [0]),
            _ => {}
        }
    }

    fn esc_dispatch(&mut self, _intermediates: &[u8], _ignore: bool, byte: u8) {
        self.ended = true;
        match byte {
            b'=' => self.keypad = true,
            b'>' => self.keypad = false,
            // A full reset (RIS).
            b'c' => {
                *self = Self {
                    ended: true,
                    ..Self::default()
                }
            }
            _ => {}
        }
    }

    fn osc_dispatch(&mut self, _params: &[&[u8]], bell_terminated: bool) {
        // Otherwise the terminator's second byte comes yet.
        self.ended = bell_terminated;
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
