//! The Sender in the hands of a user: keys, signals, a terminal, a reader that goes away.

use std::time::Duration;

use bytes::Bytes;
use legatus_core::{
    BoxFuture, Caller, Control, Conversation, Fault, Link, Request as CoreRequest, TerminalSize,
    UserSignal,
};
use prost::Message;
use tokio::sync::mpsc;

use super::user_kit::{Hands, Stuck, User};
use super::*;
use crate::shell::messages::{self, Request, input, output};

#[tokio::test]
async fn an_interactive_shell_has_the_terminal_of_the_user() {
    let (user, hands) = User::new(true);
    let drive = async {
        hands.press("echo $TERM $(stty size)\r").await;
        hands.see("vt100 31 91\r\n").await;
        let size = TerminalSize {
            columns: 70,
            rows: 20,
        };
        hands.sizes.send(size).await.unwrap();
        hands
            .press("until test \"$(stty size)\" = '20 70'; do :; done; echo res''ized\r")
            .await;
        hands.see("resized").await;
        hands.press("exit 8\r").await;
    };
    let (outcome, ()) = tokio::join!(user.run(Arguments::new()), drive);
    assert_eq!(outcome, Outcome::Exit(8));
}

#[tokio::test]
async fn the_escape_leaves_a_session_even_if_nothing_moves() {
    let (user, hands) = User::new(true);
    let stuck = Stuck::default();
    let drive = async {
        // More than the channel takes.
        for _ in 0..50 {
            hands.press("some keys\r").await;
        }
        hands.press("~").await;
        hands.press(".").await;
    };
    let (outcome, ()) = tokio::join!(user.run_with(Arguments::new(), &stuck), drive);
    assert_eq!(outcome, Outcome::Cancelled);
    assert_eq!(stuck.next_control().await, Some(Control::Cancel));
}

#[tokio::test]
async fn whoever_leaves_a_session_does_not_end_its_input() {
    let (user, hands) = User::new(true);
    let stuck = Stuck::default();
    let drive = async {
        hands.press("~d").await;
        while stuck.calls.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        let control = stuck.next_control().await;
        let (mut channel, decide) = stuck.calls.lock().unwrap().pop().unwrap();
        let end = tokio::time::timeout(Duration::ZERO, channel.receive()).await;
        decide.send(Outcome::SUCCESS).unwrap();
        (control, end)
    };
    let (outcome, (control, end)) = tokio::join!(user.run_with(Arguments::new(), &stuck), drive);
    assert_eq!(
        (outcome, control),
        (Outcome::SUCCESS, Some(Control::Detach))
    );
    assert!(end.is_err(), "the input ended with {end:?}");
}

#[tokio::test]
async fn whoever_leaves_has_said_what_was_typed_before_and_finds_the_terminal_as_it_was() {
    let (user, hands) = User::new(true);
    let stuck = Stuck::default();
    let drive = async {
        while stuck.calls.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        let (mut channel, decide) = stuck.calls.lock().unwrap().pop().unwrap();
        let started = output::Part::Started(messages::Started {
            call_id: "17".to_owned(),
            process_id: 1,
        });
        for part in [started, output::Part::Stdout("\x1b[?1049hediting".into())] {
            let message = messages::Output { part: Some(part) };
            channel.send(message.encode_to_vec().into()).await.unwrap();
        }
        hands.see("editing").await;
        hands.press(":wq\r~d").await;
        let typed = channel.receive().await.unwrap();
        let control = stuck.next_control().await;
        decide.send(Outcome::SUCCESS).unwrap();
        (messages::Input::decode(typed).unwrap().part, control)
    };
    let (outcome, (typed, control)) = tokio::join!(user.run_with(Arguments::new(), &stuck), drive);
    assert_eq!(typed, Some(input::Part::Stdin(":wq\r".into())));
    assert_eq!(
        (outcome, control),
        (Outcome::SUCCESS, Some(Control::Detach))
    );
    let shown = user.screen.shown.lock().unwrap().clone();
    assert!(
        shown.starts_with(b"\x1b[?1049hediting\x1b[?1049l\r\ndetached"),
        "{shown:?}"
    );
    assert_eq!(
        *user.reports.lock().unwrap(),
        ["detached; `legatus attach HOST 17` returns to the session"]
    );
}

/// A server to which the connection is lost once the session has begun, and found again.
pub(super) struct Found {
    pub(super) stuck: Stuck,
    pub(super) links: tokio::sync::Mutex<mpsc::Receiver<Link>>,
}

impl Caller for Found {
    fn open(&self, request: CoreRequest) -> BoxFuture<'_, Result<Conversation, Fault>> {
        self.stuck.open(request)
    }

    fn link(&self) -> BoxFuture<'_, Link> {
        Box::pin(async {
            match self.links.lock().await.recv().await {
                Some(link) => link,
                None => std::future::pending().await,
            }
        })
    }
}

#[tokio::test]
async fn a_full_screen_program_is_made_to_draw_anew_over_what_was_told_of_the_connection() {
    for (shown, rows) in [("\x1b[?1049hediting", &[30, 31][..]), ("$ ", &[31])] {
        let (user, hands) = User::new(true);
        let (tell, links) = mpsc::channel(2);
        let found = Found {
            stuck: Stuck::default(),
            links: links.into(),
        };
        let drive = async {
            while found.stuck.calls.lock().unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
            let (channel, decide) = found.stuck.calls.lock().unwrap().pop().unwrap();
            let message = messages::Output {
                part: Some(output::Part::Stdout(shown.into())),
            };
            channel.send(message.encode_to_vec().into()).await.unwrap();
            hands.see(shown).await;
            tell.send(Link::Lost("cut".to_owned())).await.unwrap();
            tell.send(Link::Back).await.unwrap();
            for rows in rows {
                let size = TerminalSize {
                    columns: 91,
                    rows: *rows,
                };
                let control = found.stuck.next_control().await;
                assert_eq!(control, Some(Control::Resize(size)));
            }
            drop(channel);
            decide.send(Outcome::SUCCESS).unwrap();
        };
        let (outcome, ()) = tokio::join!(user.run_with(Arguments::new(), &found), drive);
        assert_eq!(outcome, Outcome::SUCCESS);
    }
}

#[tokio::test]
async fn the_escapes_can_be_shown_and_passed_on() {
    let (user, hands) = User::new(true);
    let drive = async {
        hands.press("~?echo a").await;
        hands.press("\r~~\x15echo b''c\r").await;
        hands.see("bc").await;
        hands.press("exit\r").await;
    };
    let (outcome, ()) = tokio::join!(user.run(Arguments::new()), drive);
    assert_eq!(outcome, Outcome::SUCCESS);
    assert!(
        user.reports
            .lock()
            .unwrap()
            .iter()
            .any(|line| line.contains("~."))
    );
    let shown = user.screen.shown.lock().unwrap().clone();
    let shown = String::from_utf8_lossy(&shown).into_owned();
    let (_, shown) = shown.split_once("show this").unwrap();
    assert!(shown.contains('~') && !shown.contains("~~"), "{shown:?}");
}

#[tokio::test]
async fn without_a_terminal_a_tilde_is_a_tilde() {
    let (user, hands) = User::new(false);
    hands.press("~.\n").await;
    let Hands { keys, screen, .. } = hands;
    drop(keys);
    assert_eq!(user.run(command(&["cat"])).await, Outcome::SUCCESS);
    assert_eq!(*screen.shown.lock().unwrap(), b"~.\n");
}

#[tokio::test]
async fn an_interrupt_interrupts_the_command() {
    let (user, hands) = User::new(false);
    let script = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.01; done";
    let drive = async {
        hands.see("ready").await;
        hands.signals.send(UserSignal::Interrupt).await.unwrap();
    };
    let (outcome, ()) = tokio::join!(user.run(command(&["sh", "-c", script])), drive);
    assert_eq!(outcome, Outcome::Exit(9));
    hands.see("caught").await;
}

#[tokio::test]
async fn a_second_interrupt_within_a_second_cancels() {
    let (user, hands) = User::new(false);
    let drive = async {
        hands.see("ready").await;
        hands.signals.send(UserSignal::Interrupt).await.unwrap();
        hands.signals.send(UserSignal::Interrupt).await.unwrap();
    };
    let script = "trap '' INT; echo ready; sleep 1000";
    let (outcome, ()) = tokio::join!(user.run(command(&["sh", "-c", script])), drive);
    assert_eq!(outcome, Outcome::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn interrupts_far_apart_are_all_passed_on_and_a_third_leaves() {
    let (user, hands) = User::new(false);
    let stuck = Stuck::default();
    let drive = async {
        let signal = UserSignal::Interrupt;
        hands.signals.send(signal).await.unwrap();
        assert_eq!(stuck.next_control().await, Some(Control::Signal(2)));
        tokio::time::advance(Duration::from_secs(2)).await;
        hands.signals.send(signal).await.unwrap();
        assert_eq!(stuck.next_control().await, Some(Control::Signal(2)));
        hands.signals.send(UserSignal::Quit).await.unwrap();
        assert_eq!(stuck.next_control().await, Some(Control::Signal(3)));
        hands.signals.send(signal).await.unwrap();
        assert_eq!(stuck.next_control().await, Some(Control::Cancel));
        hands.signals.send(signal).await.unwrap();
    };
    let (outcome, ()) = tokio::join!(user.run_with(command(&["x"]), &stuck), drive);
    assert_eq!(outcome, Outcome::Cancelled);
}

#[tokio::test]
async fn being_told_to_end_cancels_and_leaves() {
    for signal in [UserSignal::Terminate, UserSignal::HangUp] {
        let (user, hands) = User::new(true);
        let stuck = Stuck::default();
        hands.signals.send(signal).await.unwrap();
        let outcome = user.run_with(Arguments::new(), &stuck).await;
        assert_eq!(outcome, Outcome::Cancelled);
        assert_eq!(stuck.next_control().await, Some(Control::Cancel));
    }
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_the_call_quietly() {
    let (mut user, _hands) = User::new(false);
    user.nobody_reads = true;
    assert_eq!(user.run(command(&["yes"])).await, Outcome::Signal(13));
    assert!(user.reports.lock().unwrap().is_empty());
}

#[tokio::test]
async fn the_call_ends_although_the_user_types_nothing() {
    let (user, _hands) = User::new(false);
    assert_eq!(user.run(command(&["true"])).await, Outcome::SUCCESS);
}

#[tokio::test]
async fn a_command_gets_a_terminal_only_if_it_is_asked_for() {
    for (arguments, expected) in [
        (command(&["x"]), false),
        (command(&["x"]).with_flag("tty"), true),
        (Arguments::new().with("command", "x"), false),
        (Arguments::new(), true),
    ] {
        let (user, hands) = User::new(true);
        let stuck = Stuck::default();
        hands.signals.send(UserSignal::HangUp).await.unwrap();
        let outcome = user.run_with(arguments, &stuck).await;
        assert_eq!(outcome, Outcome::Cancelled);
        let request = stuck.request.lock().unwrap().take().unwrap();
        let request = Request::decode(request.body).unwrap();
        assert_eq!(request.terminal.is_some(), expected, "{request:?}");
    }
}

#[tokio::test]
async fn a_server_that_sends_nonsense_is_told() {
    let (user, _hands) = User::new(false);
    let stuck = Stuck::default();
    let answer = async {
        while stuck.calls.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        let (channel, _decide) = stuck.calls.lock().unwrap().pop().unwrap();
        channel.send(Bytes::from_static(b"\xff")).await.unwrap();
        channel
    };
    let (outcome, _channel) = tokio::join!(user.run_with(command(&["x"]), &stuck), answer);
    assert!(fault(&outcome).contains("no `legatus.shell.v1.Output`"));
}

#[test]
fn what_the_commander_writes_by_hand_is_what_the_schema_says() {
    use crate::shell::output::{Field, message};
    for text in ["", "x", &"x".repeat(200), &"x".repeat(20_000)] {
        for field in [Field::Stdout, Field::Stderr] {
            let bytes = Bytes::copy_from_slice(text.as_bytes());
            let part = match field {
                Field::Stdout => output::Part::Stdout(bytes),
                Field::Stderr => output::Part::Stderr(bytes),
            };
            let expected = messages::Output { part: Some(part) }.encode_to_vec();
            assert_eq!(message(field, text), expected, "{}", text.len());
        }
    }
    // The Sender's messages are prost's own.
    let part = input::Part::Stdin(Bytes::from_static(b"x"));
    assert_eq!(
        messages::Input { part: Some(part) }.encode_to_vec(),
        b"\x0a\x01x"
    );
}

#[tokio::test]
async fn the_last_of_many_sizes_arrives_although_the_line_is_slow() {
    let (user, hands) = User::new(true);
    let (controls, mut received) = Control::queue();
    let told = async {
        for columns in 1..=100 {
            let size = TerminalSize { columns, rows: 1 };
            hands.sizes.send(size).await.unwrap();
        }
        tokio::task::yield_now().await;
        while let Some(control) = received.receive().await {
            if matches!(control, Control::Resize(size) if size.columns == 100) {
                return;
            }
        }
    };
    tokio::select! {
        () = told => {}
        never = crate::shell::sender::pass_sizes(Some(&user), None, &controls) => match never {},
    }
}
