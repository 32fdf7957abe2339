//! Libraries that mean harm: each in a process of its own, which fails its own call only.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use legatus_core::{Module, Outcome};
use legatus_host::external::Grants;

use crate::guests;
use crate::kit::{Kit, call, failure, start};

/// The library that does what it is asked to, with small limits.
fn hostile(wants: &str, granted: Option<Grants>) -> (Kit, Arc<dyn Module>) {
    let mut kit = Kit::new();
    let compiled = kit.path("hostile.o");
    guests::library(&source(), &compiled);
    let library = fs::read(&compiled).unwrap();
    fs::remove_file(compiled).unwrap();
    let rest = format!("[limits]\ncpu = 1\nmemory = 64\nlog-lines = 10\n{wants}");
    kit.put_with_manifest("hostile", &library, "native", &rest);
    if let Some(granted) = granted {
        kit.grant("acme/hostile", granted);
    }
    let module = kit.module("hostile");
    (kit, module)
}

pub(crate) fn source() -> PathBuf {
    guests::root().join("crates/legatus-host/tests/modules/hostile.c")
}

async fn told(module: &Arc<dyn Module>, what: &str) -> String {
    let (_, outcome) = call(module, &[what], b"").await;
    let told = failure(&outcome);
    assert!(told.contains("acme/hostile"), "{told}");
    told
}

async fn answer(module: &Arc<dyn Module>, what: &str) -> String {
    let (output, outcome) = call(module, &[what], b"").await;
    assert_eq!(outcome, Outcome::SUCCESS, "{what}");
    String::from_utf8(output).unwrap()
}

pub(crate) async fn what_crashes_is_a_failed_call_that_tells_how() {
    let (_kit, module) = hostile("", None);
    assert!(told(&module, "segfault").await.contains("SIGSEGV"));
    assert!(told(&module, "abort").await.contains("SIGABRT"));
    assert!(told(&module, "exit").await.contains("status 3"));
    let (output, outcome) = call(&module, &[], b"and goes on").await;
    assert_eq!(
        (output.as_slice(), outcome),
        (&b"and goes on"[..], Outcome::SUCCESS)
    );
}

pub(crate) async fn what_loops_or_recurses_or_takes_too_much_ends() {
    let (_kit, module) = hostile("", None);
    assert!(told(&module, "loop").await.contains("processor time"));
    let recursed = told(&module, "recurse").await;
    assert!(recursed.contains("it crashed"), "{recursed}");
    assert_eq!(answer(&module, "allocate").await, "no memory\n");
}

pub(crate) async fn what_does_not_end_when_cancelled_is_killed_with_all_that_it_started() {
    let (_kit, module) = hostile("[grants]\nrun = true\n", None);
    let running = start(&module, &["sleep"]);
    running.cancellation.cancel();
    assert_eq!(
        running.outcome().await,
        Outcome::Exit(9),
        "it may end by itself"
    );
    let running = start(&module, &["stubborn"]);
    running.cancellation.cancel();
    assert!(failure(&running.outcome().await).contains("cancelled"));
    // It leaves a child behind, which goes with its group.
    let (output, outcome) = call(&module, &["orphan"], b"").await;
    assert_eq!(outcome, Outcome::SUCCESS);
    is_gone(output).await;
    let (output, outcome) = call(&module, &["leave"], b"").await;
    assert!(failure(&outcome).contains("status 0"), "{outcome:?}");
    is_gone(output).await;
}

pub(crate) async fn what_leaves_its_process_group_goes_with_its_control_group() {
    let (_kit, module) = hostile("[grants]\nrun = true\n", None);
    let mut running = start(&module, &["escape"]);
    let process = running.channel.receive().await.unwrap().to_vec();
    let group = |process: &str| fs::read_to_string(format!("/proc/{process}/cgroup"));
    let of_child = group(str::from_utf8(&process).unwrap()).unwrap();
    assert_eq!(running.outcome_without_listener().await, Outcome::SUCCESS);
    if of_child != group("self").unwrap() {
        return is_gone(process).await;
    }
    // There are no control groups here: nobody finds it but us.
    let process = str::from_utf8(&process).unwrap().parse().unwrap();
    let process = rustix::process::Pid::from_raw(process).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
}

/// Waits until there is no such process any more.
async fn is_gone(process: Vec<u8>) {
    let process = String::from_utf8(process).unwrap();
    let gone = async {
        while fs::exists(format!("/proc/{process}/root")).unwrap_or(false) {
            tokio::task::yield_now().await;
        }
    };
    let limit = std::time::Duration::from_secs(60);
    tokio::time::timeout(limit, gone).await.expect("it is gone");
}

pub(crate) async fn what_was_not_granted_cannot_be_reached() {
    let wants = "[grants]\nread = ['/etc/passwd']\nenvironment = ['SECRET']\nrun = true\n";
    let (_kit, module) = hostile(wants, None);
    assert_eq!(answer(&module, "passwd").await, "Permission denied");
    assert_eq!(answer(&module, "connect").await, "Permission denied");
    assert_eq!(answer(&module, "run").await, "Permission denied");
    assert_eq!(answer(&module, "environment").await, "unset");
    assert_eq!(answer(&module, "privileges").await, "no new ones");
    // Its standard streams, the socket, and its own artefact.
    assert_eq!(answer(&module, "descriptors").await, "5");
}

pub(crate) async fn what_was_granted_can_be_reached() {
    let wants = "[grants]\nread = ['/etc']\nenvironment = ['SECRET']\nconnect = ['*:9']\n";
    let granted = Grants {
        read: vec!["/etc/passwd".into()],
        environment: vec!["SECRET".into()],
        connect: vec!["*:9".into()],
        ..Grants::default()
    };
    let (_kit, module) = hostile(wants, Some(granted));
    assert_eq!(answer(&module, "passwd").await, "read it\n");
    assert_eq!(answer(&module, "connect").await, "Connection refused");
    assert_eq!(answer(&module, "environment").await, "sesame");
}

pub(crate) async fn floods_and_garbage_hurt_nobody() {
    let (_kit, module) = hostile("", None);
    let lines = crate::useful::logged(async {
        let (_, outcome) = call(&module, &["flood-log"], b"").await;
        assert_eq!(outcome, Outcome::SUCCESS);
    })
    .await;
    assert_eq!(
        lines.len(),
        11,
        "ten lines, and one that says that there were more"
    );
    let mut running = start(&module, &["flood-peer"]);
    for _ in 0..1000 {
        assert_eq!(running.channel.receive().await.unwrap(), "flood\n");
    }
    running.cancellation.cancel();
    let outcome = running.outcome_without_listener().await;
    assert!(
        matches!(outcome, Outcome::Exit(5) | Outcome::Failed(_)),
        "{outcome:?}"
    );
    assert!(told(&module, "garbage").await.contains("protocol"));
    let (_, outcome) = call(&module, &["fault"], b"").await;
    assert!(
        matches!(&outcome, Outcome::Failed(fault) if fault.hint() == Some("mend it")),
        "{outcome:?}"
    );
    let (_, outcome) = call(&module, &["nonsense"], b"").await;
    assert!(failure(&outcome).contains("4711"));
}
