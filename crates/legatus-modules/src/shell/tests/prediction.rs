//! Typed characters on the user's terminal, and the other side in the hands of the test.

use bytes::Bytes;
use legatus_core::{Caller, Channel, Link, TerminalSize};
use prost::Message;
use tokio::sync::{mpsc, oneshot};

use super::user::Found;
use super::user_kit::{Hands, Stuck, User};
use super::*;
use crate::shell::messages::{Input, Output, input, output};

/// The other side of a session.
struct Far {
    channel: Channel,
    decide: oneshot::Sender<Outcome>,
}

impl Far {
    /// A session in which two characters have come back, so that the next ones are shown at once.
    async fn proven(stuck: &Stuck, hands: &Hands) -> Self {
        let mut far = Self::open(stuck).await;
        far.write("READY\r\n").await;
        hands.see("READY\r\n").await;
        for key in ["a", "b"] {
            hands.press(key).await;
            far.expect(key).await;
            far.write(key).await;
            hands.see(key).await;
        }
        far
    }

    async fn open(stuck: &Stuck) -> Self {
        while stuck.calls.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        let (channel, decide) = stuck.calls.lock().unwrap().pop().unwrap();
        Self { channel, decide }
    }

    async fn write(&self, text: &'static str) {
        let message = Output {
            part: Some(output::Part::Stdout(Bytes::from_static(text.as_bytes()))),
        };
        let sent = self.channel.send(message.encode_to_vec().into()).await;
        sent.unwrap();
    }

    /// Takes what was typed.
    async fn expect(&mut self, keys: &'static str) {
        let mut typed = Vec::new();
        while typed.len() < keys.len() {
            let message = self.channel.receive().await.unwrap();
            let Some(input::Part::Stdin(bytes)) = Input::decode(message).unwrap().part else {
                continue;
            };
            typed.extend_from_slice(&bytes);
        }
        assert_eq!(typed, keys.as_bytes());
    }

    fn end(self) {
        self.decide.send(Outcome::SUCCESS).unwrap();
    }
}

/// The session, and beside it what the test does.
async fn run_beside(
    user: &User,
    arguments: Arguments,
    caller: &dyn Caller,
    drive: impl Future<Output = ()>,
) {
    let (outcome, ()) = tokio::join!(user.run_with(arguments, caller), drive);
    assert_eq!(outcome, Outcome::SUCCESS);
}

fn shown(user: &User) -> String {
    String::from_utf8(user.screen.shown.lock().unwrap().clone()).unwrap()
}

#[tokio::test]
async fn a_typed_character_is_shown_before_it_has_come_back_and_not_again_then() {
    let (user, hands) = User::new(true);
    let stuck = Stuck::default();
    let drive = async {
        let mut far = Far::proven(&stuck, &hands).await;
        hands.press("c").await;
        hands.see("abc").await;
        hands.press("d").await;
        hands.see("abcd").await;
        far.expect("cd").await;
        hands.press("\r").await;
        far.expect("\r").await;
        far.write("c").await;
        far.write("d\r\nabcd\r\n").await;
        hands.see("\nabcd\r\nabcd\r\n").await;
        far.end();
    };
    run_beside(&user, Arguments::new(), &stuck, drive).await;
    assert_eq!(shown(&user), "READY\r\nabcd\r\nabcd\r\n");
}

#[tokio::test]
async fn whoever_wants_no_prediction_sees_only_what_has_come_back() {
    for by_environment in [false, true] {
        let (mut user, hands) = User::new(true);
        user.wants_no_prediction = by_environment;
        let stuck = Stuck::default();
        let drive = async {
            let mut far = Far::proven(&stuck, &hands).await;
            hands.press("c").await;
            far.expect("c").await;
            far.write("*").await;
            hands.see("ab*").await;
            far.end();
        };
        let mut arguments = Arguments::new();
        if !by_environment {
            arguments = arguments.with_flag("no-prediction");
        }
        run_beside(&user, arguments, &stuck, drive).await;
        assert_eq!(shown(&user), "READY\r\nab*");
    }
}

#[tokio::test]
async fn characters_that_were_typed_fast_are_shown_when_the_first_have_come_back() {
    let (user, hands) = User::new(true);
    let stuck = Stuck::default();
    let drive = async {
        let mut far = Far::open(&stuck).await;
        far.write("READY\r\n").await;
        hands.see("READY\r\n").await;
        hands.press("abcdef").await;
        far.expect("abcdef").await;
        far.write("ab").await;
        hands.see("abcdef").await;
        far.write("cdef").await;
        far.write("!").await;
        hands.see("abcdef!").await;
        far.end();
    };
    run_beside(&user, Arguments::new(), &stuck, drive).await;
}

#[tokio::test]
async fn the_last_column_and_full_screen_programs_show_only_what_has_come_back() {
    let line = "0123456789".repeat(9).leak();
    // The terminal has 91 columns: this leaves one behind the two that are typed, the last.
    let almost_full: &'static str = line.get(..88).unwrap();
    for before in [almost_full, "\x1b[?1049h\r", "\x1b[10;10H", "\t"] {
        let (user, hands) = User::new(true);
        let stuck = Stuck::default();
        let drive = async {
            let mut far = Far::open(&stuck).await;
            far.write("\r").await;
            far.write(before).await;
            hands.see(before).await;
            for key in ["x", "y"] {
                hands.press(key).await;
                far.expect(key).await;
                far.write(key).await;
                hands.see(key).await;
            }
            hands.press("z").await;
            far.expect("z").await;
            far.write("*").await;
            hands.see("xy*").await;
            far.end();
        };
        run_beside(&user, Arguments::new(), &stuck, drive).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_does_not_come_back_in_time_is_erased() {
    let (user, hands) = User::new(true);
    let stuck = Stuck::default();
    let drive = async {
        let mut far = Far::proven(&stuck, &hands).await;
        hands.press("cd").await;
        hands.see("abcd\u{8}\u{8}  \u{8}\u{8}").await;
        far.expect("cd").await;
        far.write("cd").await;
        hands.see("\u{8}cd").await;
        far.end();
    };
    run_beside(&user, Arguments::new(), &stuck, drive).await;
}

#[tokio::test]
async fn what_is_told_of_the_connection_does_not_stand_behind_what_has_not_come_back() {
    // The order is left to chance otherwise.
    for _ in 0..50 {
        lose_the_connection().await;
    }
}

async fn lose_the_connection() {
    let (user, hands) = User::new(true);
    let (tell, links) = mpsc::channel(1);
    let found = Found {
        stuck: Stuck::default(),
        links: links.into(),
    };
    let drive = async {
        let mut far = Far::proven(&found.stuck, &hands).await;
        hands.press("c").await;
        hands.see("abc").await;
        far.expect("c").await;
        tell.send(Link::Lost("cut".to_owned())).await.unwrap();
        hands
            .see("abc\u{8} \u{8}connection lost (cut); reconnecting")
            .await;
        far.write("c").await;
        hands.see("reconnectingc").await;
        far.end();
    };
    run_beside(&user, Arguments::new(), &found, drive).await;
}

#[tokio::test]
async fn a_terminal_of_another_size_shows_only_what_has_come_back() {
    let (user, hands) = User::new(true);
    let stuck = Stuck::default();
    let drive = async {
        let mut far = Far::proven(&stuck, &hands).await;
        let size = TerminalSize {
            columns: 70,
            rows: 20,
        };
        hands.sizes.send(size).await.unwrap();
        stuck.next_control().await.unwrap();
        hands.press("c").await;
        far.expect("c").await;
        far.write("*").await;
        hands.see("ab*").await;
        far.end();
    };
    run_beside(&user, Arguments::new(), &stuck, drive).await;
}
