//! WebAssembly guests that mean harm: each fails its own call, with a reason, and nothing else.

use std::sync::Arc;

use bytes::Bytes;
use legatus_core::testing::{MemoryCaller, MemoryLocal};
use legatus_core::{Arguments, Fault, Outcome};

use crate::guests::{ECHO, HELLO, Wat};
use crate::kit::{Kit, call, failure, start};

const SHORT: &str = "[limits]\ncpu = 0.2\nmemory = 8\nlog-lines = 10\n";

/// Enough time for whoever has to share the processor.
const ROOMY: &str = "[limits]\ncpu = 60\nmemory = 8\nlog-lines = 10\n";

/// A module of one guest, with small limits of all but time.
fn module(body: &'static str) -> (Kit, Arc<dyn legatus_core::Module>) {
    limited(body, ROOMY)
}

/// A module of one guest, with these limits.
fn limited(body: &'static str, limits: &str) -> (Kit, Arc<dyn legatus_core::Module>) {
    let kit = Kit::new();
    let component = Wat::new("guest", body).component();
    kit.put_with_manifest("guest", &component, "wasm", limits);
    let module = kit.module("guest");
    (kit, module)
}

pub(crate) async fn what_loops_for_ever_ends_at_its_limit_and_others_go_on() {
    let (_kit, looping) = limited("(loop $for_ever (br $for_ever)) unreachable", SHORT);
    let (_other_kit, echo) = module(ECHO);
    // As many as there are threads: others run all the same.
    let running: Vec<_> = (0..4).map(|_| start(&looping, &[])).collect();
    let (output, outcome) = call(&echo, &[], b"still here").await;
    assert_eq!(
        (output.as_slice(), outcome),
        (&b"still here"[..], Outcome::SUCCESS)
    );
    for one in running {
        let told = failure(&one.outcome().await);
        assert!(
            told.contains("acme/guest") && told.contains("processor time"),
            "{told}"
        );
    }
}

pub(crate) async fn what_waits_for_ever_ends_when_its_call_is_cancelled() {
    let (_kit, waiting) = module("(drop (call $wait (i32.const 0) (i64.const 0))) (i32.const 9)");
    let running = start(&waiting, &[]);
    running.cancellation.cancel();
    // It is told of it, and may end by itself.
    assert_eq!(running.outcome().await, Outcome::Exit(9));
    // One that does not listen is ended.
    let (_kit, stubborn) = module(
        "(loop $again (drop (call $wait (i32.const 1) (i64.const 5))) (br $again)) unreachable",
    );
    let running = start(&stubborn, &[]);
    running.cancellation.cancel();
    let told = failure(&running.outcome().await);
    assert!(
        told.contains("cancelled") || told.contains("processor time"),
        "{told}"
    );
}

pub(crate) async fn what_takes_too_much_memory_is_told_its_limit() {
    let grow = "(if (i32.eq (memory.grow (i32.const 65534)) (i32.const -1)) (then unreachable))
                (i32.const 0)";
    let (_kit, greedy) = module(grow);
    let (_, outcome) = call(&greedy, &[], b"").await;
    let told = failure(&outcome);
    assert!(
        told.contains("acme/guest") && told.contains("8 MiB of memory"),
        "{told}"
    );
}

pub(crate) async fn what_recurses_traps_or_panics_is_a_failed_call() {
    for (body, expected) in [
        (
            "(drop (call $recurse (i64.const 0))) (i32.const 0)",
            "recurses",
        ),
        ("unreachable", "unreachable"),
        ("(i32.div_u (i32.const 1) (i32.const 0))", "divide by zero"),
        ("(i32.load (i32.const -4))", "out of bounds"),
    ] {
        let (_kit, guest) = module(body);
        let (_, outcome) = call(&guest, &[], b"").await;
        let told = failure(&outcome);
        assert!(
            told.contains("acme/guest") && told.contains(expected),
            "{told}"
        );
        // It can be called again.
        let (_, again) = call(&guest, &[], b"").await;
        assert_eq!(again, outcome);
    }
}

pub(crate) async fn what_floods_the_log_is_cut_off() {
    let (_kit, chatty) = module(
        "(local.set $status (i32.const 1000))
         (loop $again
           (call $log (i32.const 2) (i32.const 256) (i32.const 15))
           (local.set $status (i32.sub (local.get $status) (i32.const 1)))
           (br_if $again (local.get $status)))
         (i32.const 4)",
    );
    let lines = crate::useful::logged(async {
        let (_, outcome) = call(&chatty, &[], b"").await;
        assert_eq!(outcome, Outcome::Exit(4));
    })
    .await;
    assert_eq!(
        lines.len(),
        11,
        "ten lines, and one that says that there were more"
    );
}

pub(crate) async fn what_floods_the_peer_waits_for_it() {
    let (_kit, flood) = module(
        "(loop $again
           (call $send (i32.const 0) (i32.const 65536) (i32.const 720))
           (br_if $again (i32.eqz (i32.load8_u (i32.const 720)))))
         (i32.load8_u (i32.const 724))",
    );
    let mut running = start(&flood, &[]);
    // Nothing is taken for now: it must wait, and not fill memory. Then somebody listens, and goes.
    for _ in 0..100 {
        assert_eq!(running.channel.receive().await.unwrap().len(), 65536);
    }
    assert_eq!(running.outcome_without_listener().await, Outcome::Exit(0));
}

pub(crate) async fn what_never_reads_holds_nobody() {
    let (_kit, deaf) = module("(i32.const 6)");
    let running = start(&deaf, &[]);
    let sending = async {
        while running
            .channel
            .send(Bytes::from(vec![0; 100_000]))
            .await
            .is_ok()
        {}
    };
    sending.await;
    assert_eq!(running.outcome().await, Outcome::Exit(6));
}

/// A module whose client half reads what it should not.
fn thief(sender: &'static str) -> (Kit, Arc<dyn legatus_core::Module>) {
    let kit = Kit::new();
    let guest = Wat {
        sender: Some(sender),
        ..Wat::new("thief", HELLO)
    };
    kit.put("thief.wasm", guest.component());
    let module = kit.module("thief");
    (kit, module)
}

/// Runs a module's client half for a user who has named no file.
async fn steal(module: &Arc<dyn legatus_core::Module>) -> Result<Outcome, Fault> {
    let caller = MemoryCaller::new(Arc::clone(module), 1000);
    let local = MemoryLocal::new();
    let half = module.sender().unwrap();
    half.send(Arguments::new(), &caller, &local).await
}

pub(crate) async fn a_client_half_opens_no_file_that_the_user_did_not_name() {
    // It asks for /etc/passwd, and returns whether that was refused.
    let sender = r#"
      (call $open_file (i32.const 320) (i32.const 11) (i32.const 720))
      (local.set $result (i32.load8_u (i32.const 720)))
      (i32.store8 (i32.const 640) (i32.const 0))
      (i32.store8 (i32.const 644) (i32.const 0))
      (i32.store8 (i32.const 648) (local.get $result))
      (i32.const 640)"#;
    let (_kit, module) = thief(sender);
    let ended = steal(&module).await;
    assert_eq!(ended, Ok(Outcome::Exit(1)), "it was refused");
}

pub(crate) async fn a_client_half_from_a_server_cannot_read_the_users_key() {
    // It tells what it was told, as its own fault.
    let sender = r#"
      (call $open_file (i32.const 352) (i32.const 21) (i32.const 720))
      (if (i32.eqz (i32.load8_u (i32.const 720))) (then unreachable))
      (i32.store8 (i32.const 640) (i32.const 1))
      (i32.store (i32.const 644) (i32.load (i32.const 724)))
      (i32.store (i32.const 648) (i32.load (i32.const 728)))
      (i32.store8 (i32.const 652) (i32.const 0))
      (i32.const 640)"#;
    let (_kit, module) = thief(sender);
    let lines = crate::useful::logged(async {
        let told = steal(&module).await.unwrap_err().to_string();
        assert!(
            told.contains(
                "`/root/.ssh/id_ed25519` may not be opened: it is not on the command line"
            ),
            "{told}"
        );
    });
    let lines = lines.await;
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains("denied") && lines[0].contains("`/root/.ssh/id_ed25519`"),
        "{lines:?}"
    );
}
