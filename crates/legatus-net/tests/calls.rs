//! Calls over the whole wire: server, TLS, HTTP/2, client.
#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::field_reassign_with_default,
    clippy::large_futures,
    reason = "tests fail by panicking"
)]

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use legatus_core::{
    Attach, Caller as _, Control, Conversation, Decision, Effects, Outcome, Pattern, Policy,
    Request, Rule, limits,
};
use legatus_net::{Audit, Client, ServerLimits};

use self::common::{Options, TestServer};

async fn open(client: &Client, module: &str, arguments: &[&'static str]) -> Conversation {
    let request = Request::from_arguments(arguments.iter().map(|word| Bytes::from(*word)));
    client.module(module).open(request).await.unwrap()
}

async fn outcome(client: &Client, module: &str, arguments: &[&'static str]) -> Outcome {
    open(client, module, arguments).await.outcome.wait().await
}

fn message_of(outcome: &Outcome) -> &str {
    outcome.fault().unwrap().message()
}

#[tokio::test]
async fn an_unknown_module_is_unavailable_and_the_nearest_is_named() {
    let server = TestServer::start(Options::default()).await;
    let client = server.connect("ann").await;
    let Outcome::Unavailable(fault) = outcome(&client, "ecko", &[]).await else {
        panic!()
    };
    assert_eq!(fault.message(), "there is no module `ecko`");
    assert_eq!(fault.hint(), Some("did you mean `echo`?"));
}

#[tokio::test]
async fn a_module_without_a_server_half_is_unavailable() {
    let server = TestServer::start(Options::default()).await;
    let client = server.connect("ann").await;
    let told = outcome(&client, "half", &[]).await;
    assert_eq!(
        message_of(&told),
        "the module `half` has no server half here"
    );
}

#[tokio::test]
async fn a_commander_that_panics_fails_its_call_and_the_connection_goes_on() {
    let server = TestServer::start(Options::default()).await;
    let client = server.connect("ann").await;
    let told = outcome(&client, "panics", &[]).await;
    assert_eq!(message_of(&told), "the module panicked");
    assert_eq!(outcome(&client, "exits", &["7"]).await, Outcome::Exit(7));
}

#[tokio::test]
async fn a_denied_call_never_reaches_a_commander() {
    let deny = Policy::new(vec![Rule {
        name: "bob only".into(),
        identity: Pattern::new("bob"),
        module: Pattern::new("*"),
        effects: Effects::ALL,
        decision: Decision::Allow,
        others: false,
    }]);
    let server = TestServer::start(Options {
        policy: deny,
        ..Options::default()
    })
    .await;
    let ann = server.connect("ann").await;
    let told = outcome(&ann, "exits", &["0"]).await;
    assert!(matches!(told, Outcome::Denied(_)), "{told:?}");
    assert_eq!(server.executed.load(Ordering::SeqCst), 0);
    let bob = server.connect("bob").await;
    assert_eq!(outcome(&bob, "exits", &["0"]).await, Outcome::SUCCESS);
    assert_eq!(server.executed.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn attaching_to_a_module_inside_the_server_runs_nothing() {
    let server = TestServer::start(Options::default()).await;
    let client = server.connect("ann").await;
    let attach = Attach {
        session: "any".to_owned(),
        ..Attach::default()
    };
    let call = client.module("inside").attach(attach).await.unwrap();
    let outcome = call.outcome.wait().await;
    assert!(message_of(&outcome).contains("not kept"), "{outcome:?}");
    assert_eq!(server.executed.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_call_that_cannot_be_audited_does_not_run() {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/full", folder.path().join("audit.jsonl")).unwrap();
    let audit = Audit::open(folder.path()).unwrap();
    let server = TestServer::start(Options {
        audit,
        ..Options::default()
    })
    .await;
    let client = server.connect("ann").await;
    let told = outcome(&client, "exits", &["0"]).await;
    assert!(matches!(told, Outcome::Unavailable(_)), "{told:?}");
    assert_eq!(server.executed.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_malformed_request_fails_without_running() {
    let server = TestServer::start(Options::default()).await;
    let client = server.connect("ann").await;
    let told = outcome(&client, "exits", &["malformed"]).await;
    assert!(matches!(told, Outcome::Failed(_)), "{told:?}");
    assert_eq!(server.executed.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_oversized_request_is_refused_before_it_is_sent() {
    let server = TestServer::start(Options::default()).await;
    let client = server.connect("ann").await;
    let request = Request::from_body(vec![0; limits::REQUEST_BYTES + 1]);
    let fault = client.module("echo").open(request).await.unwrap_err();
    assert!(fault.message().contains("longer than the limit"), "{fault}");
}

#[tokio::test]
async fn messages_of_every_size_come_back_whole_and_in_order() {
    let server = TestServer::start(Options::default()).await;
    let client = server.connect("ann").await;
    let conversation = open(&client, "echo", &[]).await;
    let (sender, mut receiver) = conversation.channel.split();
    let sizes = [
        0,
        1,
        16_383,
        16_384,
        65_535,
        limits::CHUNK_BYTES,
        limits::MESSAGE_BYTES,
    ];
    let messages =
        sizes.map(|size| Bytes::from((0..size).map(|i| (i % 251) as u8).collect::<Vec<_>>()));
    let sending = messages.clone();
    tokio::spawn(async move {
        for message in sending {
            sender.send(message).await.unwrap();
        }
    });
    for message in messages {
        assert!(receiver.receive().await.unwrap() == message);
    }
    assert_eq!(receiver.receive().await, None);
    assert_eq!(conversation.outcome.wait().await, Outcome::SUCCESS);
}

#[tokio::test]
async fn control_never_waits_behind_data_that_nobody_reads() {
    let server = TestServer::start(Options::default()).await;
    let client = server.connect("ann").await;
    let conversation = open(&client, "controls", &[]).await;
    let (sender, _receiver) = conversation.channel.split();
    // Fill every buffer and window on the way, until nothing moves any more.
    let chunk = Bytes::from(vec![0; limits::CHUNK_BYTES]);
    while tokio::time::timeout(Duration::from_secs(1), sender.send(chunk.clone()))
        .await
        .is_ok()
    {}
    assert!(conversation.controls.send(Control::Signal(2)));
    assert_eq!(conversation.outcome.wait().await, Outcome::Signal(2));
}

#[tokio::test]
async fn sixty_four_stuck_calls_do_not_slow_another_on_the_same_connection() {
    let server = TestServer::start(Options::default()).await;
    let client = server.connect("ann").await;
    let chunk = Bytes::from(vec![0; limits::CHUNK_BYTES]);
    let mut stuck = Vec::new();
    for _ in 0..64 {
        // Both directions are filled: one module reads nothing, the other's flood is not read.
        let module = if stuck.len() % 2 == 0 {
            "stuck"
        } else {
            "flood"
        };
        let conversation = open(&client, module, &[]).await;
        while tokio::time::timeout(
            Duration::from_millis(20),
            conversation.channel.send(chunk.clone()),
        )
        .await
        .is_ok()
        {}
        stuck.push(conversation);
    }
    let fast = open(&client, "echo", &[]).await;
    let (sender, mut receiver) = fast.channel.split();
    for _ in 0..64 {
        sender.send(chunk.clone()).await.unwrap();
        assert!(receiver.receive().await.unwrap() == chunk);
    }
    drop(sender);
    assert_eq!(fast.outcome.wait().await, Outcome::SUCCESS);
}

#[tokio::test]
async fn dropping_a_conversation_cancels_the_call_and_closing_it_frees_its_id() {
    let server = TestServer::start(Options::default()).await;
    let client = server.connect("ann").await;
    let limits = ServerLimits {
        calls_per_identity: 1,
        ..ServerLimits::default()
    };
    let limited = TestServer::start(Options {
        limits,
        ..Options::default()
    })
    .await;
    let other = limited.connect("ann").await;
    drop(open(&client, "stuck", &[]).await);
    // The limit of one call tells when the dropped call has really ended.
    let stuck = open(&other, "stuck", &[]).await;
    let refused = outcome(&other, "exits", &["0"]).await;
    assert_eq!(
        message_of(&refused),
        "the limit of 1 calls of one identity is reached"
    );
    drop(stuck);
    while outcome(&other, "exits", &["3"]).await != Outcome::Exit(3) {}
}

#[tokio::test]
async fn a_cancelled_call_says_so() {
    let server = TestServer::start(Options::default()).await;
    let client = server.connect("ann").await;
    let conversation = open(&client, "stuck", &[]).await;
    assert!(conversation.controls.send(Control::Cancel));
    assert_eq!(conversation.outcome.wait().await, Outcome::Cancelled);
}

#[tokio::test]
async fn a_call_beyond_its_deadline_is_a_timeout() {
    let server = TestServer::start(Options::default()).await;
    let client = server.connect("ann").await;
    let mut request = Request::default();
    request.timeout = Some(Duration::from_millis(50));
    let conversation = client.module("stuck").open(request).await.unwrap();
    assert_eq!(conversation.outcome.wait().await, Outcome::Timeout);
}

#[tokio::test]
async fn too_many_calls_on_one_connection_are_told_the_limit() {
    let limits = ServerLimits {
        calls_per_connection: 2,
        ..ServerLimits::default()
    };
    let server = TestServer::start(Options {
        limits,
        ..Options::default()
    })
    .await;
    let client = server.connect("ann").await;
    let _stuck = [
        open(&client, "stuck", &[]).await,
        open(&client, "stuck", &[]).await,
    ];
    // Calls are opened one after the other on one connection, so that the third comes last.
    let refused = outcome(&client, "exits", &["0"]).await;
    assert_eq!(
        message_of(&refused),
        "the limit of 2 calls of one connection is reached"
    );
}

#[tokio::test]
async fn draining_finishes_running_calls_and_takes_no_more() {
    let server = TestServer::start(Options::default()).await;
    let client = server.connect("ann").await;
    let conversation = open(&client, "echo", &[]).await;
    let (sender, mut receiver) = conversation.channel.split();
    sender.send(Bytes::from("before")).await.unwrap();
    assert_eq!(receiver.receive().await.unwrap(), "before");
    server.handle.drain();
    // The client learns of it with the next answers from the server.
    while outcome(&client, "exits", &["0"]).await == Outcome::SUCCESS {}
    sender.send(Bytes::from("after")).await.unwrap();
    assert_eq!(receiver.receive().await.unwrap(), "after");
    drop(sender);
    assert_eq!(conversation.outcome.wait().await, Outcome::SUCCESS);
    server.running.await.unwrap();
}

#[tokio::test]
async fn describe_tells_identity_limits_and_modules() {
    let server = TestServer::start(Options::default()).await;
    let client = server.connect("ann").await;
    let told = client.describe().await.unwrap();
    assert_eq!(told.identity, "ann");
    assert_eq!(told.protocol, 1);
    assert_eq!(
        told.limits.unwrap().message_bytes,
        limits::MESSAGE_BYTES as u64
    );
    let half = told
        .modules
        .iter()
        .find(|module| module.name == "half")
        .unwrap();
    assert!(!half.has_commander);
    let echo = told
        .modules
        .iter()
        .find(|module| module.name == "echo")
        .unwrap();
    assert!(echo.has_commander && echo.version == "1.2.3");
}

#[tokio::test]
async fn closing_the_last_client_closes_the_connection() {
    let server = TestServer::start(Options::default()).await;
    let client = server.connect("ann").await;
    let clone = client.clone();
    assert_eq!(outcome(&client, "exits", &["0"]).await, Outcome::SUCCESS);
    client.close().await;
    assert_eq!(outcome(&clone, "exits", &["0"]).await, Outcome::SUCCESS);
    clone.close().await;
    server.handle.drain();
    server.running.await.unwrap();
}

#[tokio::test]
async fn a_caller_that_goes_away_is_never_taken_for_the_end_of_its_input() {
    let server = TestServer::start(Options::default()).await;
    let client = server.connect("ann").await;
    for _ in 0..100 {
        let conversation = open(&client, "ends", &[]).await;
        let message = Bytes::from_static(b"half of it");
        conversation.channel.send(message).await.unwrap();
        drop(conversation);
    }
    client.close().await;
    server.handle.drain();
    server.running.await.unwrap();
    assert!(server.executed.load(Ordering::SeqCst) <= 100);
}

#[tokio::test]
async fn a_drained_server_has_noted_the_end_of_every_call() {
    let folder = tempfile::tempdir().unwrap();
    let audit = Audit::open(folder.path()).unwrap();
    let server = TestServer::start(Options {
        audit,
        ..Options::default()
    })
    .await;
    let client = server.connect("ann").await;
    let conversation = open(&client, "lingers", &[]).await;
    let text = || std::fs::read_to_string(folder.path().join("audit.jsonl")).unwrap();
    while !text().contains("begin") {
        tokio::task::yield_now().await;
    }
    drop(conversation);
    client.close().await;
    server.handle.drain();
    server.running.await.unwrap();
    assert!(text().contains("\"outcome\":\"cancelled\""), "{}", text());
}

#[tokio::test]
async fn a_connection_that_was_just_made_can_still_call_a_server_that_drains() {
    let server = TestServer::start(Options::default()).await;
    let client = server.connect("ann").await;
    server.handle.drain();
    assert_eq!(outcome(&client, "exits", &["5"]).await, Outcome::Exit(5));
    server.running.await.unwrap();
}

#[tokio::test]
async fn names_that_are_too_long_are_cut_and_the_call_has_an_outcome() {
    let server = TestServer::start(Options::default()).await;
    let client = server.connect("ann").await;
    let name = "x\n".repeat(500_000);
    let call = client.module(&name).open(Request::default()).await.unwrap();
    let told = call.outcome.wait().await;
    assert!(message_of(&told).len() < 200, "{told:?}");
}
