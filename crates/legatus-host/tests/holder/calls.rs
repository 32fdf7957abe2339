//! What passes between a server and a holder.

use bytes::Bytes;
use legatus_core::{Control, Fault, Outcome, Request, limits};
use legatus_host::Launcher;

use crate::subject::{self, Running, call, call_module, launcher, numbered};

const MESSAGES: usize = 64;

async fn echo_everything(launcher: Launcher) {
    let Running {
        to,
        mut from,
        outcome,
        ..
    } = call(launcher, &["echo"]);
    let sending = tokio::spawn(async move {
        for index in 0..MESSAGES {
            to.send(numbered(index)).await.unwrap();
        }
    });
    for index in 0..MESSAGES {
        let message = from.receive().await.expect("every message comes back");
        assert!(message == numbered(index), "message {index}");
    }
    sending.await.unwrap();
    assert_eq!(from.receive().await, None);
    assert_eq!(outcome.await.unwrap(), Ok(Outcome::Exit(7)));
}

pub(crate) async fn messages_of_all_sizes_come_back_whole_and_in_order() {
    echo_everything(launcher()).await;
}

pub(crate) async fn messages_are_whole_without_shared_memory_too() {
    echo_everything(Launcher {
        inline_bytes: usize::MAX,
        ..launcher()
    })
    .await;
}

pub(crate) async fn the_call_arrives_with_everything_the_server_knows() {
    let (report, outcome) = call(launcher(), &["report"]).finish().await;
    assert_eq!(outcome, Outcome::SUCCESS);
    let first = r#"test tester "test kit" read+exec deadline=true"#;
    assert_eq!(report.lines().next(), Some(first), "{report}");
    let home = std::env::var("HOME").unwrap_or_else(|_| "/".to_owned());
    assert!(report.contains(&format!("folder={home}\n")), "{report}");
    assert!(!report.contains("CARGO"), "{report}");
}

pub(crate) async fn a_request_of_the_greatest_size_arrives() {
    let mut arguments = vec![Bytes::from_static(b"size")];
    let rest = limits::REQUEST_BYTES - 4;
    arguments.extend((0..rest).map(|_| Bytes::from_static(b"x")));
    let request = Request::from_arguments(arguments);
    let module = std::sync::Arc::new(subject::module());
    let (size, outcome) = call_module(module, launcher(), request).finish().await;
    assert_eq!(outcome, Outcome::SUCCESS);
    assert_eq!(size, limits::REQUEST_BYTES.to_string());
}

pub(crate) async fn a_control_reaches_a_commander_that_does_not_read_its_messages() {
    let running = call(launcher(), &["control"]);
    // Four fill the slots between the processes, four the queue before them.
    for _ in 0..8 {
        let message = Bytes::from(vec![0; limits::CHUNK_BYTES]);
        running.to.send(message).await.unwrap();
    }
    assert!(running.controls.send(Control::Signal(15)));
    assert_eq!(running.outcome().await, Outcome::Signal(15));
}

pub(crate) async fn a_commander_that_stops_reading_stops_its_sender() {
    let running = call(launcher(), &["deaf"]);
    while running
        .to
        .send(Bytes::from(vec![0; limits::CHUNK_BYTES]))
        .await
        .is_ok()
    {}
    running.cancellation.cancel();
    assert_eq!(running.outcome().await, Outcome::Exit(8));
}

pub(crate) async fn a_client_that_stops_reading_stops_the_commander() {
    let mut running = call(launcher(), &["flood"]);
    assert!(running.from.receive().await.is_some());
    let (_, closed) = legatus_core::Channel::pair(1).1.split();
    running.from = closed;
    let gone = Outcome::Failed(Fault::new("the other half has gone"));
    assert_eq!(running.outcome().await, gone);
}

pub(crate) async fn the_outcome_comes_behind_all_messages() {
    let Running {
        to,
        mut from,
        outcome,
        ..
    } = call(launcher(), &["send", "40"]);
    for index in 0..40 {
        assert!(from.receive().await.expect("it was sent") == numbered(index));
    }
    assert_eq!(from.receive().await, None);
    assert_eq!(outcome.await.unwrap(), Ok(Outcome::SUCCESS));
    drop(to);
}

pub(crate) async fn messages_kept_for_long_delay_but_do_not_lose_others() {
    let mut running = call(launcher(), &["send", "100"]);
    let mut kept = std::collections::VecDeque::new();
    for index in 0..100 {
        let message = running.from.receive().await.expect("it was sent");
        assert!(message == numbered(index));
        kept.push_back((index, message));
        if kept.len() > 5 {
            let (index, message) = kept.pop_front().expect("it is not empty");
            assert!(
                message == numbered(index),
                "nothing changed while it was kept"
            );
        }
    }
    assert_eq!(running.outcome().await, Outcome::SUCCESS);
    assert!(
        kept.iter()
            .all(|(index, message)| *message == numbered(*index))
    );
}

pub(crate) async fn a_holder_has_none_of_the_servers_descriptors_or_terminal() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    let (report, outcome) = call(launcher(), &["report"]).finish().await;
    assert_eq!(outcome, Outcome::SUCCESS);
    assert!(report.contains("session=true"), "{report}");
    let open = report.lines().last().expect("it tells them");
    assert!(!open.contains(secret.path().to_str().unwrap()), "{open}");
    assert_eq!(open.matches("memfd:legatus-call").count(), 1, "{open}");
    // Programs that a Commander starts must not inherit the sockets by accident.
    let standard = r#"standard=["/dev/null", "/dev/null"]"#;
    assert!(report.contains(standard), "{report}");
}
