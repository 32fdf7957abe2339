//! A client that knows only the `.proto` file, and one that breaks its rules.

use bytes::Bytes;
use legatus_core::limits::CHUNK_BYTES;
use legatus_core::testing::MemoryCaller;
use legatus_core::{Caller, Control, Conversation, Fault, Request as CoreRequest};
use prost::Message;

use super::*;
use crate::shell::messages::{
    Command, Empty, Input, Output, Request, Script, Terminal, input, output, request::Mode,
};

/// A call at the level of messages.
pub(super) struct Raw {
    pub(super) conversation: Conversation,
    pub(super) stdout: Vec<u8>,
}

impl Raw {
    pub(super) async fn open(caller: &MemoryCaller, request: Request) -> Self {
        let request = CoreRequest::from_body(request.encode_to_vec());
        Self {
            conversation: caller.open(request).await.unwrap(),
            stdout: Vec::new(),
        }
    }

    pub(super) async fn send(&self, part: input::Part) {
        let message = Input { part: Some(part) }.encode_to_vec();
        self.conversation
            .channel
            .send(message.into())
            .await
            .unwrap();
    }

    pub(super) async fn next(&mut self) -> Option<output::Part> {
        let message = self.conversation.channel.receive().await?;
        let part = Output::decode(message).unwrap().part.unwrap();
        if let output::Part::Stdout(bytes) = &part {
            self.stdout.extend_from_slice(bytes);
        }
        Some(part)
    }

    /// Receives until stdout contains this.
    pub(super) async fn wait_for(&mut self, text: &str) {
        while !String::from_utf8_lossy(&self.stdout).contains(text) {
            let shown = self.stdout.escape_ascii().to_string();
            assert!(self.next().await.is_some(), "no {text:?} in {shown}");
        }
    }

    /// Receives all that is left, and the outcome.
    pub(super) async fn finish(mut self) -> (Outcome, String) {
        while self.next().await.is_some() {}
        let stdout = String::from_utf8_lossy(&self.stdout).into_owned();
        (self.conversation.outcome.wait().await, stdout)
    }
}

pub(super) fn caller() -> MemoryCaller {
    MemoryCaller::new(Arc::new(module()), 7)
}

pub(super) fn command_request(words: &[&str]) -> Request {
    Request {
        mode: Some(Mode::Command(Command {
            arguments: words
                .iter()
                .map(|word| Bytes::copy_from_slice(word.as_bytes()))
                .collect(),
        })),
        ..Request::default()
    }
}

#[tokio::test]
async fn a_message_that_cannot_be_understood_ends_the_call() {
    let raw = Raw::open(&caller(), command_request(&["sleep", "1000"])).await;
    raw.conversation
        .channel
        .send(Bytes::from_static(b"\xff"))
        .await
        .unwrap();
    let (outcome, _) = raw.finish().await;
    assert_eq!(
        outcome,
        Outcome::Failed(Fault::new("a message is no `legatus.shell.v1.Input`"))
    );
}

#[tokio::test]
async fn a_script_where_none_is_expected_ends_the_call() {
    let raw = Raw::open(&caller(), command_request(&["sleep", "1000"])).await;
    raw.send(input::Part::Script(Bytes::from_static(b"x")))
        .await;
    assert!(fault(&raw.finish().await.0).contains("where none was expected"));
}

#[tokio::test]
async fn a_script_that_does_not_arrive_whole_is_not_run() {
    let request = || Request {
        mode: Some(Mode::Script(Script::default())),
        ..Request::default()
    };
    let raw = Raw::open(&caller(), request()).await;
    let content = Bytes::from_static(b"#!/bin/sh\necho ran\n");
    raw.send(input::Part::Script(content.clone())).await;
    let Conversation {
        channel, outcome, ..
    } = raw.conversation;
    let (sender, mut receiver) = channel.split();
    drop(sender);
    assert_eq!(receiver.receive().await, None);
    assert!(fault(&outcome.wait().await).contains("did not arrive whole"));

    let raw = Raw::open(&caller(), request()).await;
    raw.send(input::Part::Script(content)).await;
    raw.send(input::Part::StdinEnd(Empty {})).await;
    assert!(fault(&raw.finish().await.0).contains("before the script's end"));
}

#[tokio::test]
async fn a_script_beyond_the_limit_is_refused() {
    let caller = MemoryCaller::new(Arc::new(module()), 8 << 20);
    let request = Request {
        mode: Some(Mode::Script(Script::default())),
        ..Request::default()
    };
    let raw = Raw::open(&caller, request).await;
    let chunk = Bytes::from(vec![b'x'; 1 << 20]);
    let message = Input {
        part: Some(input::Part::Script(chunk)),
    };
    let message = Bytes::from(message.encode_to_vec());
    // The Commander stops listening at the limit.
    while raw.conversation.channel.send(message.clone()).await.is_ok() {}
    assert!(fault(&raw.finish().await.0).contains("longer than the limit of 64 MiB"));
}

#[tokio::test]
async fn half_closing_is_the_end_of_stdin() {
    let raw = Raw::open(&caller(), command_request(&["cat"])).await;
    raw.send(input::Part::Stdin(Bytes::from_static(b"hello")))
        .await;
    let Conversation {
        channel, outcome, ..
    } = raw.conversation;
    let (sender, mut receiver) = channel.split();
    drop(sender);
    while receiver.receive().await.is_some() {}
    assert_eq!(outcome.wait().await, Outcome::SUCCESS);
}

#[tokio::test]
async fn the_first_message_tells_the_process() {
    let mut raw = Raw::open(&caller(), command_request(&["sh", "-c", "echo $$"])).await;
    let Some(output::Part::Started(started)) = raw.next().await else {
        panic!("not started");
    };
    assert_eq!(raw.finish().await.1, format!("{}\n", started.process_id));
}

#[tokio::test]
async fn data_messages_are_large_but_within_the_limit() {
    let caller = MemoryCaller::new(Arc::new(module()), 1 << 20);
    let mut raw = Raw::open(
        &caller,
        command_request(&["head", "-c", "20000000", "/dev/zero"]),
    )
    .await;
    let mut longest = 0;
    while let Some(part) = raw.next().await {
        if let output::Part::Stdout(bytes) = part {
            longest = longest.max(bytes.len());
        }
    }
    assert_eq!(raw.stdout.len(), 20_000_000);
    assert!(longest <= CHUNK_BYTES, "{longest}");
}

#[tokio::test]
async fn a_signal_passes_stdin_that_nobody_reads() {
    let raw = Raw::open(&caller(), command_request(&["sleep", "1000"])).await;
    let Conversation {
        channel,
        controls,
        outcome,
    } = raw.conversation;
    let (sender, mut receiver) = channel.split();
    receiver.receive().await.unwrap();
    let message = Input {
        part: Some(input::Part::Stdin(Bytes::from(vec![0; 100_000]))),
    };
    let message = Bytes::from(message.encode_to_vec());
    let flood = async {
        // Until the pipe and the channel are full; then until the call has ended.
        while sender.send(message.clone()).await.is_ok() {}
    };
    let interrupt = async {
        // The pipe takes no more when the command's stdin is full: nothing moves any longer.
        tokio::task::yield_now().await;
        assert!(controls.send(Control::Signal(2)));
        let last = receiver.receive().await.map(Output::decode).unwrap();
        assert!(matches!(last.unwrap().part, Some(output::Part::Usage(_))));
        assert_eq!(receiver.receive().await, None);
    };
    tokio::join!(flood, interrupt);
    assert_eq!(outcome.wait().await, Outcome::Signal(2));
}

#[tokio::test]
async fn a_signal_reaches_the_whole_process_group() {
    let script = "trap 'echo got; exit 4' TERM; sh -c 'trap \"echo child; exit\" TERM; \
        echo ready; while :; do sleep 0.01; done'; wait";
    let mut raw = Raw::open(&caller(), command_request(&["sh", "-c", script])).await;
    raw.wait_for("ready").await;
    assert!(raw.conversation.controls.send(Control::Signal(15)));
    let (outcome, text) = raw.finish().await;
    assert_eq!(
        (outcome, text.as_str()),
        (Outcome::Exit(4), "ready\nchild\ngot\n")
    );
}

#[tokio::test]
async fn signals_and_sizes_that_make_no_sense_change_nothing() {
    let mut raw = Raw::open(&caller(), command_request(&["cat"])).await;
    raw.next().await;
    for control in [
        Control::Signal(0),
        Control::Signal(255),
        Control::Resize(legatus_core::TerminalSize {
            columns: 1,
            rows: 1,
        }),
    ] {
        assert!(raw.conversation.controls.send(control));
    }
    raw.send(input::Part::Stdin(Bytes::from_static(b"still here")))
        .await;
    raw.wait_for("still here").await;
    raw.send(input::Part::StdinEnd(Empty {})).await;
    assert_eq!(raw.finish().await.0, Outcome::SUCCESS);
}

#[tokio::test]
async fn sizes_beyond_a_terminal_become_the_usual_one() {
    let request = Request {
        terminal: Some(Terminal {
            kind: Bytes::new(),
            columns: 70_000,
            rows: 0,
        }),
        ..command_request(&["sh", "-c", "stty size; echo $TERM"])
    };
    let raw = Raw::open(&caller(), request).await;
    assert_eq!(
        raw.finish().await,
        (Outcome::SUCCESS, "24 80\r\ndumb\r\n".into())
    );
}
