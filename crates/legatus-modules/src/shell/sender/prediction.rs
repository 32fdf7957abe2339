//! Which typed characters are shown before they have come back, and what becomes of them.
//!
//! What is shown is exactly what is expected to come back, so that a terminal gets the same bytes as
//! without, only earlier. Where something else comes back, it is erased first.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

/// So many characters of a line must have come back alone before the next ones are shown at once: a
/// password's first one does not.
const PROOF: usize = 2;

/// So many characters may be under way.
const UNDER_WAY: usize = 64;

/// Characters that were typed and have not come back.
#[derive(Debug, Default)]
pub(super) struct Prediction {
    /// Oldest first.
    under_way: VecDeque<u8>,
    /// So many of them stand on the screen, the oldest ones.
    shown: usize,
    line: Line,
}

/// The line that the user types now.
#[derive(Debug, Default)]
struct Line {
    /// Characters typed so far.
    typed: usize,
    /// So many of them have come back, and nothing else has.
    proven: usize,
    /// Something else was typed or has come back. Until the next line nothing is shown at once.
    spoilt: bool,
}

impl Prediction {
    /// Takes a character or another byte that was typed.
    pub(super) fn typed(&mut self, byte: u8) {
        match byte {
            b'\r' | b'\n' | CTRL_C => self.line = Line::default(),
            b' '..=b'~' if self.under_way.len() < UNDER_WAY && !self.line.spoilt => {
                self.line.typed += 1;
                self.under_way.push_back(byte);
            }
            _ => self.line.spoilt = true,
        }
    }

    /// What is to be shown now of what is under way. `room`: so many characters can be shown behind the cursor, and
    /// erased again.
    pub(super) fn show(&mut self, room: usize) -> Bytes {
        let is_proven = self.line.proven >= PROOF && !self.line.spoilt;
        if !is_proven || self.under_way.len() > self.line.typed {
            return Bytes::new();
        }
        let more = self.under_way.iter().skip(self.shown).take(room);
        let more: Bytes = more.copied().collect();
        self.shown += more.len();
        more
    }

    /// Takes what has come from the other side; returns what of it the terminal lacks.
    pub(super) fn came(&mut self, mut output: Bytes) -> Bytes {
        let mut lacking = BytesMut::new();
        while let Some(&byte) = output.first()
            && self.under_way.front() == Some(&byte)
        {
            output.advance(1);
            // Only what belongs to this line: those of the one before may be the beginning of a command that
            // asks for a password now.
            if self.under_way.len() <= self.line.typed {
                self.line.proven += 1;
            }
            self.under_way.pop_front();
            match self.shown.checked_sub(1) {
                Some(others) => self.shown = others,
                None => lacking.extend_from_slice(&[byte]),
            }
        }
        if output.is_empty() {
            return lacking.freeze();
        }
        lacking.extend_from_slice(&self.give_up());
        if lacking.is_empty() {
            return output;
        }
        lacking.extend_from_slice(&output);
        lacking.freeze()
    }

    /// Expects nothing of what is under way any more; returns what erases it from the screen.
    pub(super) fn give_up(&mut self) -> Bytes {
        let erased = [BACKSPACE, b' ', BACKSPACE].map(|byte| [byte].repeat(self.shown));
        // What still comes back of a line before would be taken for proof.
        self.line.spoilt |= self.line.typed > 0 || !self.under_way.is_empty();
        self.shown = 0;
        self.under_way.clear();
        erased.concat().into()
    }

    /// How many characters stand on the screen that have not come back.
    pub(super) fn shown(&self) -> usize {
        self.shown
    }
}

const CTRL_C: u8 = 3;
const BACKSPACE: u8 = 8;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A user's line of a screen, and what is under way to it.
    #[derive(Default)]
    struct Screen {
        prediction: Prediction,
        text: Vec<u8>,
        cursor: usize,
    }

    impl Screen {
        fn write(&mut self, output: &[u8]) {
            for &byte in output {
                if byte == BACKSPACE {
                    self.cursor -= 1;
                    continue;
                }
                if self.cursor == self.text.len() {
                    self.text.push(byte);
                } else {
                    self.text[self.cursor] = byte;
                }
                self.cursor += 1;
            }
        }

        fn types(&mut self, keys: &str) {
            for byte in keys.bytes() {
                self.prediction.typed(byte);
                self.shows();
            }
        }

        fn shows(&mut self) {
            let more = self.prediction.show(usize::MAX);
            self.write(&more);
        }

        fn comes(&mut self, output: &str) {
            let lacking = self
                .prediction
                .came(Bytes::copy_from_slice(output.as_bytes()));
            self.write(&lacking);
            self.shows();
        }

        fn shown(&self) -> String {
            String::from_utf8(self.text.clone()).unwrap()
        }

        /// One whose line is proven.
        fn proven() -> Self {
            let mut screen = Self::default();
            for key in ["a", "b"] {
                screen.types(key);
                screen.comes(key);
            }
            screen
        }
    }

    #[test]
    fn what_never_came_back_is_not_shown_at_once() {
        let mut screen = Screen::default();
        screen.comes("Password: ");
        screen.types("secret");
        assert_eq!(screen.shown(), "Password: ");
        screen.comes("\nwrong");
        assert_eq!(screen.shown(), "Password: \nwrong");
    }

    #[test]
    fn a_password_is_not_shown_although_its_command_came_back_late() {
        let mut screen = Screen::default();
        screen.types("sudo -s\r");
        screen.types("sec");
        screen.comes("sudo -s");
        screen.types("ret");
        assert_eq!(screen.shown(), "sudo -s");
        screen.comes("\r\nPassword: ");
        screen.types("secret");
        assert_eq!(screen.shown(), "sudo -s\r\nPassword: ");
    }

    #[test]
    fn what_comes_back_alone_proves_that_the_next_characters_can_be_shown() {
        let mut screen = Screen::default();
        screen.comes("$ ");
        screen.types("l");
        assert_eq!(screen.shown(), "$ ");
        screen.comes("l");
        screen.types("s");
        screen.comes("s");
        screen.types(" -l");
        assert_eq!(screen.shown(), "$ ls -l");
        screen.comes(" -");
        screen.comes("l");
        assert_eq!(screen.shown(), "$ ls -l");
    }

    #[test]
    fn what_was_typed_before_the_proof_came_is_shown_with_it() {
        let mut screen = Screen::default();
        screen.types("abcdef");
        screen.comes("a");
        assert_eq!(screen.shown(), "a");
        screen.comes("b");
        assert_eq!(screen.shown(), "abcdef");
        screen.types("g");
        screen.comes("cdefg");
        assert_eq!(screen.shown(), "abcdefg");
    }

    #[test]
    fn what_comes_late_of_a_line_that_was_given_up_is_no_proof() {
        let mut screen = Screen::default();
        screen.types("su -s\r");
        screen.comes("[job done]");
        screen.types("su");
        screen.comes("s");
        screen.comes("u");
        screen.types("per");
        assert_eq!(screen.shown(), "[job done]su");
    }

    #[test]
    fn characters_that_stand_for_something_else_are_erased() {
        let mut screen = Screen::proven();
        screen.types("cd");
        assert_eq!(screen.shown(), "abcd");
        screen.comes("**");
        assert_eq!(screen.shown(), "ab**");
        screen.types("e");
        assert_eq!(screen.shown(), "ab**");
    }

    #[test]
    fn what_others_write_comes_before_what_was_shown() {
        let mut screen = Screen::proven();
        screen.types("cd");
        screen.comes("c [job done] ");
        assert_eq!(screen.shown().trim_end(), "abc [job done]");
        screen.comes("d");
        assert_eq!(screen.shown(), "abc [job done] d");
    }

    #[test]
    fn a_suggestion_behind_a_character_is_no_proof() {
        let mut screen = Screen::default();
        for key in ["g", "i", "t"] {
            screen.types(key);
            screen.comes(key);
            screen.comes("?");
            screen.comes("\u{8}");
        }
        screen.types("x");
        assert_eq!(screen.shown(), "git?");
    }

    #[test]
    fn a_key_that_is_no_character_ends_it_until_the_next_line() {
        for key in ["\u{7f}", "\t", "\u{1b}[D", "\u{e4}", "\u{1}"] {
            let mut screen = Screen::proven();
            screen.types(key);
            screen.types("cd");
            assert_eq!(screen.shown(), "ab", "{key:?}");
            screen.types("\r");
            screen.comes("cd");
            for character in ["e", "f"] {
                screen.types(character);
                screen.comes(character);
            }
            screen.types("g");
            assert_eq!(screen.shown(), "abcdefg", "{key:?}");
        }
    }

    #[test]
    fn each_line_needs_its_own_proof() {
        let mut screen = Screen::proven();
        screen.types("c\r");
        screen.comes("c");
        screen.types("x");
        assert_eq!(screen.shown(), "abc");
        assert_eq!(screen.prediction.shown(), 0);
    }

    #[test]
    fn as_much_is_shown_as_there_is_room() {
        let mut screen = Screen::proven();
        for byte in *b"cde" {
            screen.prediction.typed(byte);
        }
        assert_eq!(screen.prediction.show(0), "");
        assert_eq!(screen.prediction.show(2), "cd");
        screen.comes("cd");
        assert_eq!(screen.shown(), "abe");
    }

    #[test]
    fn what_is_under_way_is_bounded() {
        let mut screen = Screen::proven();
        screen.types(&"x".repeat(10 * UNDER_WAY));
        assert_eq!(screen.prediction.shown(), UNDER_WAY);
        screen.comes(&"x".repeat(10 * UNDER_WAY));
        assert_eq!(screen.shown(), format!("ab{}", "x".repeat(10 * UNDER_WAY)));
    }

    /// What happens at a terminal.
    #[derive(Clone, Debug)]
    enum Event {
        Type(u8),
        /// The oldest key comes back, if one is under way.
        Echo,
        /// Something else comes.
        Output(String),
        GiveUp,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            6 => "[a-c\r\t]".prop_map(|key| Event::Type(key.as_bytes()[0])),
            6 => Just(Event::Echo),
            1 => "[a-c*\r]{1,3}".prop_map(Event::Output),
            1 => Just(Event::GiveUp),
        ]
    }

    proptest! {
        /// Whatever is typed and comes: when all has come, the screen shows what it would without prediction,
        /// but for the blanks where something stood.
        #[test]
        fn the_screen_is_as_without(events in proptest::collection::vec(event(), 0..60)) {
            let mut screen = Screen::default();
            let mut plain = Screen::default();
            let mut echoes = VecDeque::new();
            for event in events {
                let output = match event {
                    Event::Type(byte) => {
                        screen.types(&char::from(byte).to_string());
                        echoes.push_back(byte);
                        continue;
                    }
                    Event::GiveUp => {
                        let erasing = screen.prediction.give_up();
                        screen.write(&erasing);
                        continue;
                    }
                    Event::Echo => match echoes.pop_front() {
                        Some(byte) => char::from(byte).to_string(),
                        None => continue,
                    },
                    Event::Output(output) => output,
                };
                screen.comes(&output);
                plain.write(output.as_bytes());
            }
            let rest: Vec<u8> = echoes.into();
            screen.comes(std::str::from_utf8(&rest).unwrap());
            plain.write(&rest);
            let erasing = screen.prediction.give_up();
            screen.write(&erasing);
            prop_assert_eq!(screen.cursor, plain.cursor);
            let (shown, expected) = (screen.shown(), plain.shown());
            prop_assert_eq!(shown.trim_end_matches(' '), expected.trim_end_matches(' '));
        }
    }
}
