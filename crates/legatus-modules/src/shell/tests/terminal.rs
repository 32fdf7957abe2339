//! Commands and login shells on a terminal, from the Commander's side.

use bytes::Bytes;
use legatus_core::{Control, Conversation, TerminalSize};
use prost::Message;

use super::wire::{Raw, caller, command_request};
use super::*;
use crate::shell::messages::{
    Empty, Input, Login, Output, Request, Terminal, Variable, input::Part, output, request::Mode,
};

fn on_terminal(request: Request) -> Request {
    Request {
        terminal: Some(Terminal {
            kind: "xterm-256color".into(),
            columns: 100,
            rows: 30,
        }),
        ..request
    }
}

fn login() -> Request {
    on_terminal(Request {
        mode: Some(Mode::Login(Login {})),
        // Without the prompt and the history of whoever runs the tests.
        environment: vec![Variable {
            name: "HISTFILE".into(),
            value: "/dev/null".into(),
        }],
        ..Request::default()
    })
}

/// A line that says `ready` in the foreground; a shell with job control puts its command there only
/// some time after it has started it. (Fields 5 and 8 of proc(5)'s stat: its process group, and the
/// one in the foreground.)
const FOREGROUND: &[u8] = b"sh -c 'until test $(cut -d\\  -f5 /proc/$$/stat) = \
    $(cut -d\\  -f8 /proc/$$/stat); do :; done; echo rea\"\"dy; exec sleep 1000'\n";

async fn on_terminal_argv(words: &[&str]) -> (Outcome, String) {
    let raw = Raw::open(&caller(), on_terminal(command_request(words))).await;
    raw.finish().await
}

#[tokio::test]
async fn a_command_that_does_not_exist_is_told_on_a_terminal_too() {
    let local = MemoryLocal::new();
    let outcome = run(command(&["/no/such"]).with_flag("tty"), &local).await;
    assert_eq!(outcome, Outcome::Exit(127));
    let expected = "legatus: cannot run `/no/such`: No such file or directory\r\n";
    assert_eq!(stderr(&local), expected);
}

#[tokio::test]
async fn a_command_sees_a_terminal_of_the_right_kind_and_size() {
    let script = "test -t 0 && test -t 1 && test -t 2 && echo $TERM; stty size; \
        stty -a | grep -o ' iutf8'; tty </dev/tty | grep -o /dev/; exit 6";
    let told = on_terminal_argv(&["sh", "-c", script]).await;
    let expected = "xterm-256color\r\n30 100\r\n iutf8\r\n/dev/\r\n";
    assert_eq!(told, (Outcome::Exit(6), expected.into()));
}

#[tokio::test]
async fn an_interactive_login_shell_takes_lines_and_gives_its_exit_status() {
    let mut raw = Raw::open(&caller(), login()).await;
    raw.send(Part::Stdin(Bytes::from_static(
        b"echo \"<$0>\" $((40 + 2))\n",
    )))
    .await;
    let shell = super::super::account::Account::current()
        .unwrap()
        .shell_name(true);
    raw.wait_for(&format!("<{}> 42\r\n", shell.display())).await;
    raw.send(Part::Stdin(Bytes::from_static(b"exit 3\n"))).await;
    assert_eq!(raw.finish().await.0, Outcome::Exit(3));
}

#[tokio::test]
async fn a_new_size_reaches_the_terminal() {
    let script = "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.01; done";
    let mut raw = Raw::open(
        &caller(),
        on_terminal(command_request(&["sh", "-c", script])),
    )
    .await;
    raw.wait_for("ready").await;
    let size = TerminalSize {
        columns: 132,
        rows: 43,
    };
    assert!(raw.conversation.controls.send(Control::Resize(size)));
    let (outcome, text) = raw.finish().await;
    assert_eq!(
        (outcome, text.as_str()),
        (Outcome::SUCCESS, "ready\r\n43 132\r\n")
    );
}

#[tokio::test]
async fn a_typed_interrupt_ends_the_foreground_command_and_not_the_shell() {
    let mut raw = Raw::open(&caller(), login()).await;
    raw.send(Part::Stdin(Bytes::from_static(FOREGROUND))).await;
    raw.wait_for("ready").await;
    raw.send(Part::Stdin(Bytes::from_static(b"\x03"))).await;
    raw.send(Part::Stdin(Bytes::from_static(b"exit 5\n"))).await;
    assert_eq!(raw.finish().await.0, Outcome::Exit(5));
}

#[tokio::test]
async fn a_signal_goes_to_the_foreground_process_group() {
    let mut raw = Raw::open(&caller(), login()).await;
    raw.send(Part::Stdin(Bytes::from_static(FOREGROUND))).await;
    raw.wait_for("ready").await;
    assert!(raw.conversation.controls.send(Control::Signal(15)));
    raw.send(Part::Stdin(Bytes::from_static(b"exit $?\n")))
        .await;
    assert_eq!(raw.finish().await.0, Outcome::Exit(128 + 15));
}

#[tokio::test]
async fn all_output_arrives_before_the_outcome() {
    for _ in 0..20 {
        let (outcome, text) = on_terminal_argv(&["seq", "1", "5000"]).await;
        let expected: String = (1..=5000).map(|number| format!("{number}\r\n")).collect();
        assert_eq!(outcome, Outcome::SUCCESS);
        assert!(text == expected, "{} of {}", text.len(), expected.len());
    }
}

#[tokio::test]
async fn a_large_paste_passes_while_output_comes_back() {
    // Without echo: the kernel may leave out echoes when much is typed at once.
    let request = command_request(&["sh", "-c", "stty -echo; echo ready; exec cat"]);
    let mut raw = Raw::open(&caller(), on_terminal(request)).await;
    raw.wait_for("ready\r\n").await;
    let Conversation {
        channel, outcome, ..
    } = raw.conversation;
    let (sender, mut receiver) = channel.split();
    let lines: Vec<String> = (0..20_000).map(|number| format!("line {number}")).collect();
    let paste = async {
        let text = lines.join("\n") + "\n";
        for chunk in text.as_bytes().chunks(10_000) {
            let part = Part::Stdin(Bytes::copy_from_slice(chunk));
            let message = Input { part: Some(part) }.encode_to_vec();
            sender.send(message.into()).await.unwrap();
        }
        drop(sender);
    };
    let echo = async {
        let mut text = Vec::new();
        while let Some(message) = receiver.receive().await {
            if let Some(output::Part::Stdout(bytes)) = Output::decode(message).unwrap().part {
                text.extend_from_slice(&bytes);
            }
        }
        text
    };
    let ((), text) = tokio::join!(paste, echo);
    assert_eq!(outcome.wait().await, Outcome::SUCCESS);
    assert!(String::from_utf8(text).unwrap() == lines.join("\r\n") + "\r\n");
}

#[tokio::test]
async fn the_end_of_stdin_is_the_end_of_file_character() {
    for typed in ["", "line\n", "no line end"] {
        let raw = Raw::open(&caller(), on_terminal(command_request(&["cat"]))).await;
        raw.send(Part::Stdin(Bytes::copy_from_slice(typed.as_bytes())))
            .await;
        raw.send(Part::StdinEnd(Empty {})).await;
        assert_eq!(raw.finish().await.0, Outcome::SUCCESS, "{typed:?}");
    }
}

#[tokio::test]
async fn a_background_process_does_not_keep_the_call() {
    let script = "trap '' HUP; sleep 1000 & echo $!";
    let (outcome, text) = on_terminal_argv(&["sh", "-c", script]).await;
    assert_eq!(outcome, Outcome::SUCCESS);
    let sleep = rustix::process::Pid::from_raw(text.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(sleep, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_background_process_that_never_stops_writing_does_not_keep_the_call() {
    let (outcome, _) = on_terminal_argv(&["sh", "-c", "trap '' HUP; yes & exit 4"]).await;
    assert_eq!(outcome, Outcome::Exit(4));
}

#[tokio::test]
async fn cancelling_ends_an_interactive_shell_at_once() {
    let caller = caller();
    let mut raw = Raw::open(&caller, login()).await;
    raw.send(Part::Stdin(Bytes::from_static(b"echo rea''dy\n")))
        .await;
    raw.wait_for("ready").await;
    caller.cancellation().cancel();
    assert_eq!(raw.finish().await.0, Outcome::Cancelled);
}
