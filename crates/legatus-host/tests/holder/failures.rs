//! Holders that fail, die or lie.

use std::sync::Arc;

use bytes::Bytes;
use legatus_core::{Fault, Module, Outcome, Request, Spec};
use legatus_host::Launcher;

use crate::subject::{self, Running, call, call_module, launcher};

/// A holder that is this shell script; its standard input is the data socket, its standard output
/// the control socket.
pub(crate) fn script(text: &str) -> Running {
    call(Launcher::new(["script", text]), &["echo"])
}

async fn lost(running: Running) -> String {
    match running.outcome().await {
        Outcome::Lost(fault) => fault.message().to_owned(),
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn a_program_that_does_not_exist_makes_the_call_unavailable() {
    let launcher = Launcher {
        executable: "/nonexistent/legatus".into(),
        ..Launcher::new(["holder"])
    };
    let outcome = call(launcher, &["echo"]).outcome().await;
    let Outcome::Unavailable(fault) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(fault.hint().is_some() && !fault.message().contains("nonexistent"));
}

pub(crate) async fn a_holder_that_exits_at_once_is_lost_with_its_status() {
    let told = lost(script("exit 3")).await;
    assert!(told.contains("exited with status 3"), "{told}");
}

pub(crate) async fn a_holder_that_is_killed_is_lost_with_its_signal() {
    let told = lost(call(launcher(), &["die"])).await;
    assert!(told.contains("signal 9"), "{told}");
}

async fn misbehaves(frame: &str, socket: u8) {
    // It would go on for ever; that `lost` returns and the process goes is what is tested. It
    // waits for an answer, because what it sends on the two sockets arrives in no certain order.
    let mut running = script(&format!(
        "printf '\\001\\006\\000\\000\\000'$(printf %06d $$ | cut -c1-6) >&0; \
         head -c 6 >/dev/null; printf '{frame}' >&{socket}; exec sleep 1000000"
    ));
    let process = running.from.receive().await.expect("it sends its id");
    running.to.send(Bytes::from_static(b"x")).await.unwrap();
    let process = String::from_utf8_lossy(&process).into_owned();
    let told = lost(running).await;
    assert!(told.contains("broke its protocol"), "{told}");
    gone(&process).await;
}

async fn gone(process: &str) {
    let process: u32 = process.parse().expect("a process id");
    subject::until(|| !std::path::Path::new(&format!("/proc/{process}")).exists()).await;
}

pub(crate) async fn a_frame_longer_than_the_limit_gets_its_holder_killed() {
    misbehaves(r"\001\377\377\377\377", 0).await;
}

pub(crate) async fn a_slot_that_does_not_exist_gets_its_holder_killed() {
    misbehaves(r"\002\005\000\000\000\011\001\000\000\000", 0).await;
}

pub(crate) async fn a_release_of_slots_that_are_free_gets_its_holder_killed() {
    misbehaves(r"\010\001\000\000\000\377", 1).await;
}

pub(crate) async fn an_outcome_that_is_garbage_gets_its_holder_killed() {
    misbehaves(r"\004\003\000\000\000\377\377\377", 0).await;
}

pub(crate) async fn a_holder_that_closes_its_sockets_and_lives_on_is_killed() {
    let mut running = script(
        "printf '\\001\\006\\000\\000\\000'$(printf %06d $$ | cut -c1-6) >&0; \
         exec <&- >&-; exec sleep 1000000",
    );
    let process = running.from.receive().await.expect("it sends its id");
    let told = lost(running).await;
    assert!(told.contains("closed its connection"), "{told}");
    gone(&String::from_utf8_lossy(&process)).await;
}

pub(crate) async fn a_panic_is_a_failed_call() {
    let outcome = call(launcher(), &["panic"]).outcome().await;
    assert_eq!(outcome, Outcome::Failed(Fault::new("the module panicked")));
}

pub(crate) async fn a_module_that_the_holder_lacks_makes_the_call_unavailable() {
    struct Renamed(Spec, Box<dyn Module>);

    impl Module for Renamed {
        fn spec(&self) -> &Spec {
            &self.0
        }

        fn commander(&self) -> Option<&dyn legatus_core::Commander> {
            self.1.commander()
        }
    }

    let spec = Spec {
        name: "subjekt".into(),
        ..Spec::default()
    };
    let module = Arc::new(Renamed(spec, Box::new(subject::module())));
    let running = call_module(module, launcher(), Request::from_arguments([Bytes::new()]));
    let outcome = running.outcome().await;
    let Outcome::Unavailable(fault) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(fault.message(), "there is no module `subjekt`");
}

pub(crate) async fn a_holder_started_by_hand_says_so_and_fails() {
    let this = std::env::current_exe().expect("this program has a path");
    let output = tokio::process::Command::new(this)
        .arg("holder")
        .stdin(std::process::Stdio::null())
        .output()
        .await
        .expect("it starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
}
