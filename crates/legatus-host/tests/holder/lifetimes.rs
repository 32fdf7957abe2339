//! How calls end, and what is left of them: nothing.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use bytes::Bytes;
use legatus_core::{Keeping, Kept, Outcome, Persistence, limits};
use legatus_host::SessionFolder;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::failures::script;
use crate::subject::{Running, call, call_kept, descriptors, launcher, until};

async fn process_of(running: &mut Running) -> String {
    let process = running.from.receive().await.expect("it sends its id");
    String::from_utf8_lossy(&process).into_owned()
}

async fn gone(process: &str) {
    let folder = format!("/proc/{process}");
    until(|| !Path::new(&folder).exists()).await;
}

pub(crate) async fn cancellation_reaches_a_commander_that_does_not_read_its_messages() {
    let mut running = call(launcher(), &["wait"]);
    let process = process_of(&mut running).await;
    let (to, token) = (running.to.clone(), running.cancellation.clone());
    let filling = tokio::spawn(async move {
        while to
            .send(Bytes::from(vec![0; limits::CHUNK_BYTES]))
            .await
            .is_ok()
        {}
    });
    token.cancel();
    assert_eq!(running.outcome().await, Outcome::Exit(9));
    filling.await.unwrap();
    gone(&process).await;
}

pub(crate) async fn a_commander_that_ignores_its_cancellation_is_dropped() {
    let running = call(launcher(), &["ignore"]);
    running.cancellation.cancel();
    assert_eq!(running.outcome().await, Outcome::Cancelled);
}

pub(crate) async fn a_holder_that_ignores_its_cancellation_is_killed() {
    let running = script("exec sleep 1000000");
    running.cancellation.cancel();
    let outcome = running.outcome().await;
    let Outcome::Lost(fault) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(fault.message().contains("killed"), "{fault}");
    until(|| children().is_empty()).await;
}

pub(crate) async fn a_cancelled_call_ends_though_its_client_does_not_read() {
    let mut running = call(launcher(), &["flood"]);
    assert!(running.from.receive().await.is_some());
    running.cancellation.cancel();
    assert_eq!(running.outcome().await, Outcome::Exit(9));
}

pub(crate) async fn a_goodbye_to_a_kept_call_is_heard_after_its_clients_stream_has_gone() {
    let folder = tempfile::tempdir().unwrap();
    let told = folder.path().join("told");
    let sessions = SessionFolder::open(folder.path()).unwrap();
    let persistence = Persistence {
        keeping: Keeping::default(),
        attach: None,
        summary: String::new(),
        received: watch::channel(0).1,
        taken: watch::Sender::new(None),
        lost: CancellationToken::new(),
        kept: Kept::default(),
        others: false,
    };
    let launcher = launcher().with_sessions(Arc::new(sessions));
    let running = call_kept(launcher, ["flood", told.to_str().unwrap()], persistence);
    // As when its connection lives on, and it is not yet known why the stream ended.
    drop(running.from);
    let enough = limits::SESSION_BYTES - limits::CHUNK_BYTES;
    until(|| {
        let count = std::fs::read_to_string(&told).ok();
        count.is_some_and(|count| count.parse().is_ok_and(|count: usize| count >= enough))
    })
    .await;
    running.cancellation.cancel();
    let outcome = running.outcome.await.unwrap().unwrap();
    assert_eq!(outcome, Outcome::Cancelled);
}

pub(crate) async fn a_dropped_call_is_cleaned_up_and_reaped() {
    let folder = tempfile::tempdir().unwrap();
    let marker = folder.path().join("marker");
    let mut running = call(launcher(), &["wait", marker.to_str().unwrap()]);
    let process = process_of(&mut running).await;
    running.outcome.abort();
    assert!(running.outcome.await.unwrap_err().is_cancelled());
    gone(&process).await;
    assert!(marker.exists());
    until(|| children().is_empty()).await;
}

/// A server that runs one call, for a test that kills it.
pub(crate) async fn server() -> ExitCode {
    let marker = std::env::args().nth(2).expect("the marker's path");
    let mut running = call(launcher(), &["wait", &marker]);
    println!("{}", process_of(&mut running).await);
    ExitCode::from(running.outcome().await.exit_status())
}

pub(crate) async fn a_killed_server_leaves_no_holder_behind() {
    let folder = tempfile::tempdir().unwrap();
    let marker = folder.path().join("marker");
    let this = std::env::current_exe().expect("this program has a path");
    let mut server = tokio::process::Command::new(this)
        .arg("server")
        .arg(&marker)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("it starts");
    let stdout = server.stdout.take().expect("it is piped");
    let mut lines = BufReader::new(stdout).lines();
    let holder = lines
        .next_line()
        .await
        .unwrap()
        .expect("it tells its holder");
    server.kill().await.unwrap();
    until(|| marker.exists()).await;
    until(|| !lives(&holder)).await;
}

/// Whether a process, perhaps of another parent that does not reap it, still runs.
fn lives(process: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{process}/stat"))
        .is_ok_and(|stat| !stat.contains(") Z "))
}

fn children() -> Vec<String> {
    std::fs::read_dir("/proc/self/task")
        .expect("/proc is there")
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok())
        .flat_map(|ids| {
            ids.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect()
}

pub(crate) async fn a_fork_server_that_was_killed_is_replaced() {
    let launcher = launcher();
    let one = || async { call(launcher.clone(), &["echo"]).finish().await.1 };
    assert_eq!(one().await, Outcome::Exit(7));
    // The call's own process is waited for first.
    until(|| children().len() == 1).await;
    let fork_server = children().remove(0);
    let process = fork_server
        .parse()
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(process.unwrap(), rustix::process::Signal::KILL).unwrap();
    let state = format!("/proc/{fork_server}/stat");
    until(|| std::fs::read_to_string(&state).is_ok_and(|state| state.contains(") Z "))).await;
    assert_eq!(one().await, Outcome::Exit(7));
}

pub(crate) async fn a_thousand_calls_leave_no_descriptor_and_no_process() {
    let one = || async {
        let running = call(launcher(), &["echo"]);
        running.to.send(Bytes::from(vec![1; 50_000])).await.unwrap();
        let (text, outcome) = running.finish().await;
        assert_eq!((text.len(), outcome), (50_000, Outcome::Exit(7)));
    };
    one().await;
    until(|| children().is_empty()).await;
    let before = descriptors().len();
    for _ in 0..1000 {
        one().await;
    }
    until(|| children().is_empty() && descriptors().len() == before).await;
}
