//! What is left of a command's processes, and when.

use legatus_core::Control;

use super::wire::{Raw, caller, command_request};
use super::*;

/// Leaves its parent, its session and its streams, and tells its process id.
const DAEMON: &str = "setsid sh -c 'sleep 1000 >&- 2>&- <&- & echo $!'";

/// Whether a process is there, and neither dead nor dying: such a one has no environment left.
fn is_running(process: &str) -> bool {
    std::fs::read(format!("/proc/{process}/environ")).is_ok_and(|text| !text.is_empty())
}

/// Waits for a process that may be just becoming another program.
async fn until_running(process: &str) {
    while !is_running(process) {
        tokio::task::yield_now().await;
    }
}

/// The process ids that a command has printed, a line each, before it printed `ready`.
fn processes(raw: &Raw) -> Vec<String> {
    let text = String::from_utf8_lossy(&raw.stdout);
    let lines = text.lines().map(str::trim);
    lines
        .filter(|line| *line != "ready")
        .map(str::to_owned)
        .collect()
}

/// Cancels a call that runs this, and returns whether any of its processes is left.
async fn left_after_cancelling(script: &str) -> Vec<String> {
    let caller = caller();
    let mut raw = Raw::open(&caller, command_request(&["sh", "-c", script])).await;
    raw.wait_for("ready").await;
    let mut processes = processes(&raw);
    assert!(processes.len() > 1, "{processes:?}");
    for process in &processes {
        until_running(process).await;
    }
    caller.cancellation().cancel();
    assert_eq!(raw.finish().await.0, Outcome::Cancelled);
    processes.retain(|process| is_running(process));
    processes
}

#[tokio::test]
async fn cancelling_ends_children_and_their_children() {
    let script = "echo $$; sleep 1000 & echo $!; \
        sh -c 'echo $$; sleep 1000 & echo $!; echo ready; wait' & wait";
    assert!(left_after_cancelling(script).await.is_empty());
}

#[tokio::test]
async fn cancelling_ends_daemons() {
    let script = format!("echo $$; {DAEMON}; {DAEMON}; echo ready; sleep 1000");
    assert!(left_after_cancelling(&script).await.is_empty());
}

#[tokio::test]
async fn cancelling_ends_what_ignores_the_request_to_end() {
    let script = format!(
        "trap '' TERM HUP INT; echo $$; {DAEMON}; echo ready; \
        while :; do sleep 1000; done"
    );
    assert!(left_after_cancelling(&script).await.is_empty());
}

#[tokio::test]
async fn cancelling_ends_what_is_stopped() {
    let script = "echo $$; sleep 1000 & echo $!; kill -STOP $!; echo ready; wait";
    assert!(left_after_cancelling(script).await.is_empty());
}

#[tokio::test]
async fn a_command_may_tidy_up_before_it_ends() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tidied");
    let script = format!(
        "trap 'echo bye; echo yes > {}; exit' TERM; echo ready; while :; do sleep 0.01; done",
        file.display()
    );
    let caller = caller();
    let mut raw = Raw::open(&caller, command_request(&["sh", "-c", &script])).await;
    raw.wait_for("ready").await;
    caller.cancellation().cancel();
    assert_eq!(raw.conversation.outcome.wait().await, Outcome::Cancelled);
    assert_eq!(std::fs::read_to_string(file).unwrap(), "yes\n");
}

#[tokio::test]
async fn a_control_can_cancel_too() {
    let mut raw = Raw::open(
        &caller(),
        command_request(&["sh", "-c", "echo ready; sleep 1000"]),
    )
    .await;
    raw.wait_for("ready").await;
    raw.conversation.controls.send(Control::Cancel);
    assert_eq!(raw.finish().await.0, Outcome::Cancelled);
}

#[tokio::test]
async fn a_caller_that_goes_away_ends_a_silent_command() {
    let script = format!("echo $$; {DAEMON}; echo ready; sleep 1000");
    let mut raw = Raw::open(&caller(), command_request(&["sh", "-c", &script])).await;
    raw.wait_for("ready").await;
    let processes = processes(&raw);
    drop(raw.conversation.channel);
    assert_eq!(raw.conversation.outcome.wait().await, Outcome::Cancelled);
    assert!(
        !processes.iter().any(|process| is_running(process)),
        "{processes:?}"
    );
}

#[tokio::test]
async fn a_caller_that_goes_away_before_its_script_is_whole_leaves_nothing() {
    use crate::shell::messages::{Request, Script, request::Mode};
    let request = Request {
        mode: Some(Mode::Script(Script::default())),
        ..Request::default()
    };
    let raw = Raw::open(&caller(), request).await;
    drop(raw.conversation.channel);
    let outcome = raw.conversation.outcome.wait().await;
    assert!(matches!(outcome, Outcome::Cancelled | Outcome::Failed(_)));
}

#[tokio::test]
async fn dropping_the_commander_kills_all_at_once() {
    use legatus_core::{Channel, Module, Request as CoreRequest};
    use prost::Message;
    let script =
        format!("trap '' TERM; echo $$; {DAEMON}; echo ready; while :; do sleep 1000; done");
    let request = command_request(&["sh", "-c", &script]).encode_to_vec();
    let (controls, receiver) = Control::queue();
    let module = module();
    let call = testing::call(&module, CoreRequest::from_body(request), receiver).unwrap();
    let (ours, theirs) = Channel::pair(100);
    let (_, outcome) = legatus_core::PendingOutcome::new();
    let mut raw = Raw {
        conversation: legatus_core::Conversation {
            channel: ours,
            controls,
            outcome,
        },
        stdout: Vec::new(),
    };
    tokio::select! {
        _ = module.commander().unwrap().execute(call, theirs) => panic!("ended"),
        () = raw.wait_for("ready") => {}
    }
    let processes = processes(&raw);
    assert_eq!(processes.len(), 2);
    for process in processes {
        // Dying takes the kernel a moment.
        while is_running(&process) {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_daemon_survives_the_ordinary_end_of_its_command() {
    let (outcome, local) = argv(&["sh", "-c", DAEMON]).await;
    assert_eq!(outcome, Outcome::SUCCESS);
    let daemon = stdout(&local).trim().to_owned();
    until_running(&daemon).await;
    let daemon = rustix::process::Pid::from_raw(daemon.parse().unwrap()).unwrap();
    rustix::process::kill_process(daemon, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn orphans_are_reaped_while_the_command_goes_on() {
    let mut raw = Raw::open(
        &caller(),
        command_request(&["sh", "-c", "sh -c 'true & echo $!'; echo ready; sleep 1000"]),
    )
    .await;
    raw.wait_for("ready").await;
    let orphan = processes(&raw).remove(0);
    // With other tests in this process (`cargo test`) it stays, dead, until that ends.
    while is_running(&orphan) {
        tokio::task::yield_now().await;
    }
    raw.conversation.controls.send(Control::Cancel);
    assert_eq!(raw.finish().await.0, Outcome::Cancelled);
}
