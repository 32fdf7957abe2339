//! Modules that do what they should, of each kind.

use std::fs;
use std::sync::{Arc, Mutex};

use legatus_core::testing::{MemoryCaller, MemoryLocal};
use legatus_core::{Arguments, Module, Outcome, Registry};
use legatus_host::external::{Catalogue, ClientHalves, USAGE};
use tracing::field::{Field, Visit};
use tracing::instrument::WithSubscriber as _;
use tracing::span;

use crate::guests::{self, ECHO, HELLO, Wat};
use crate::kit::{Kit, call, start};

fn large() -> Vec<u8> {
    (0..500_000_u32).flat_map(u32::to_le_bytes).collect()
}

pub(crate) async fn a_component_echoes_large_input() {
    let kit = Kit::new();
    kit.put("echo.wasm", Wat::new("wasm-echo", ECHO).component());
    let input = large();
    let (output, outcome) = call(&kit.module("wasm-echo"), &[], &input).await;
    assert_eq!(outcome, Outcome::SUCCESS);
    assert!(output == input);
}

pub(crate) async fn a_plain_command_writes_to_its_caller() {
    for (body, expected) in [
        ("(i32.const 0)", Outcome::Exit(0)),
        ("(i32.const 1)", Outcome::Exit(1)),
        ("(call $exit (i32.const 1)) (i32.const 0)", Outcome::Exit(1)),
        ("(call $exit (i32.const 0)) (i32.const 1)", Outcome::Exit(0)),
    ] {
        let kit = Kit::new();
        kit.put("plain.wasm", guests::command(body));
        let (output, outcome) = call(&kit.module("plain"), &[], b"").await;
        assert_eq!(outcome, expected, "{body}");
        assert_eq!(output, b"hello from a command\n");
    }
}

pub(crate) async fn a_library_echoes_large_input_and_tells_faults() {
    let kit = Kit::new();
    guests::library(&crate::hostile_native::source(), &kit.path("hostile.so"));
    let module = kit.module("hostile");
    let input = large();
    let (output, outcome) = call(&module, &[], &input).await;
    assert_eq!(outcome, Outcome::SUCCESS);
    assert!(output == input);
}

/// In as few lines as the protocol needs.
pub(crate) const EXECUTABLE: &str = r#"#!/usr/bin/python3
import json, struct, sys
source, sink = sys.stdin.buffer, sys.stdout.buffer
def take():
    length, kind = struct.unpack("<IB3x", source.read(8))
    return kind, source.read(length)
def give(kind, payload=b""):
    sink.write(struct.pack("<IB3x", len(payload), kind) + payload)
    sink.flush()
kind, payload = take()
if kind == 2:
    about = {"name": "upper", "version": "1.0.0", "summary": "In capitals", "commander": True}
    give(33, json.dumps({"protocol": 1, "modules": [about]}).encode())
elif kind == 3:
    while True:
        give(34, struct.pack("<I", 1))
        kind, payload = take()
        if kind != 5:
            break
        give(5, payload.upper())
    print("about to end", file=sys.stderr)
    give(36, json.dumps({"exit": 4}).encode())
"#;

/// An interpreter needs more than the usual.
pub(crate) const ROOM: &str = "[limits]\nmemory = 256\n";

pub(crate) async fn an_executable_speaks_the_protocol() {
    let kit = Kit::new();
    kit.put_with_manifest("upper", EXECUTABLE.as_bytes(), "executable", ROOM);
    let (output, outcome) = call(&kit.module("upper"), &[], b"hello").await;
    assert_eq!(
        (output.as_slice(), outcome),
        (&b"HELLO"[..], Outcome::Exit(4))
    );
}

/// An executable that goes on talking after it has told how its call ended.
const LATE: &str = r#"
    give(5, b"in time")
    give(36, json.dumps({"exit": 4}).encode())
    for _ in range(1000):
        give(5, b"too late")
        give(36, json.dumps({"exit": 5}).encode())
        give(35, b"\4too late")
"#;

pub(crate) async fn what_an_executable_says_after_its_call_has_ended_counts_for_nothing() {
    let kit = Kit::new();
    let (before, _) = EXECUTABLE.split_once("    while True").unwrap();
    let late = format!("{before}{}", LATE.trim_start_matches('\n'));
    kit.put_with_manifest("upper", late.as_bytes(), "executable", ROOM);
    let module = kit.module("upper");
    let lines = logged(async {
        for _ in 0..3 {
            let (output, outcome) = call(&module, &[], b"").await;
            assert_eq!(
                (output.as_slice(), outcome),
                (&b"in time"[..], Outcome::Exit(4))
            );
        }
    });
    let lines = lines.await;
    assert!(
        !lines.iter().any(|line| line.contains("too late")),
        "{lines:?}"
    );
}

/// The client half opens the call, writes what comes to standard output, and returns its outcome.
const CLIENT_HALF: &str = r#"
      (call $open (i32.const 0) (i32.const 0) (i32.const 720))
      (call $receive (i32.const 704))
      (call $write (i32.load (i32.const 712)) (i32.load (i32.const 716)) (i32.const 720))
      (call $outcome (i32.const 800))
      (i32.store8 (i32.const 640) (i32.const 0))
      (memory.copy (i32.const 644) (i32.const 800) (i32.const 24))
      (i32.const 640)"#;

/// A component with both halves.
pub(crate) fn pair() -> Vec<u8> {
    let guest = Wat {
        sender: Some(CLIENT_HALF),
        ..Wat::new("pair", HELLO)
    };
    guest.component()
}

pub(crate) async fn both_halves_of_a_component_talk_to_each_other() {
    let kit = Kit::new();
    kit.put("pair.wasm", pair());
    let module = kit.module("pair");
    let caller = MemoryCaller::new(Arc::clone(&module), 7);
    let local = MemoryLocal::new();
    let half = module.sender().unwrap();
    let ended = half.send(Arguments::new(), &caller, &local).await;
    assert_eq!(ended, Ok(Outcome::Exit(3)));
    assert_eq!(local.stdout(), b"hello from wasm\n");
}

pub(crate) async fn a_client_half_is_handed_out_by_its_digest_only() {
    let kit = Kit::new();
    kit.put("pair.wasm", pair());
    kit.put("hello.wasm", Wat::new("hello", HELLO).component());
    let catalogue = Arc::new(kit.catalogue());
    let listed = catalogue.listed();
    let digest = |name: &str| {
        let found = listed.iter().find(|one| one.qualified == name);
        found.unwrap().digest.clone()
    };
    let told = kit.module("pair").origin().travelling;
    assert_eq!(told, Some(digest("local/pair")));
    assert_eq!(kit.module("hello").origin().travelling, None);
    let errand: Arc<dyn Module> = Arc::new(ClientHalves::new(Arc::clone(&catalogue)));
    let (bytes, outcome) = call(&errand, &[&digest("local/pair")], b"").await;
    assert_eq!(outcome, Outcome::SUCCESS);
    assert!(bytes == pair());
    for none in [digest("local/hello"), "0".repeat(64)] {
        let (bytes, outcome) = call(&errand, &[&none], b"").await;
        assert!(matches!(outcome, Outcome::Failed(_)) && bytes.is_empty());
    }
}

pub(crate) async fn what_changes_takes_effect_and_running_calls_keep_the_old_one() {
    let kit = Kit::new();
    kit.put("a.wasm", Wat::new("changing", ECHO).component());
    let catalogue = kit.catalogue();
    let resolve = |catalogue: &Catalogue| {
        let registry = catalogue.registry(&Registry::new());
        registry.resolve("changing").cloned()
    };
    assert!(!catalogue.scan(), "nothing has changed");
    let running = start(&resolve(&catalogue).unwrap(), &[]);
    fs::remove_file(kit.path("a.wasm")).unwrap();
    kit.put("b.wasm", Wat::new("changing", HELLO).component());
    assert!(catalogue.scan());
    let (output, outcome) = call(&resolve(&catalogue).unwrap(), &[], b"").await;
    assert_eq!(
        (output.as_slice(), outcome),
        (&b"hello from wasm\n"[..], Outcome::Exit(3))
    );
    let (sender, mut receiver, outcome) = running.split();
    sender.send("old".into()).await.unwrap();
    drop(sender);
    assert_eq!(receiver.receive().await.unwrap(), "old");
    assert_eq!(outcome.await.unwrap(), Outcome::SUCCESS);
    fs::remove_file(kit.path("b.wasm")).unwrap();
    assert!(catalogue.scan());
    assert!(resolve(&catalogue).is_err());
}

pub(crate) async fn what_was_compiled_once_is_not_compiled_again() {
    let kit = Kit::new();
    kit.put("a.wasm", Wat::new("once", HELLO).component());
    kit.module("once");
    let written = |kit: &Kit| {
        let entries = fs::read_dir(&kit.settings.cache).unwrap().flatten();
        let mut all: Vec<_> = entries
            .filter(|entry| entry.file_name() != "index.json" && entry.file_name() != "nothing")
            .map(|entry| (entry.path(), entry.metadata().unwrap().modified().unwrap()))
            .collect();
        all.sort();
        all
    };
    let before = written(&kit);
    assert_eq!(before.len(), 2, "code and description: {before:?}");
    let (_, outcome) = call(&kit.module("once"), &[], b"").await;
    assert_eq!(outcome, Outcome::Exit(3));
    assert_eq!(written(&kit), before);
}

pub(crate) async fn a_module_of_the_first_contract_still_loads() {
    // Its source and the contract that it was written against are kept as they were published.
    let kit = Kit::new();
    kit.put(
        "first.wasm",
        Wat::new("first", HELLO).component_of_first_contract(),
    );
    let (output, outcome) = call(&kit.module("first"), &[], b"").await;
    assert_eq!(
        (output.as_slice(), outcome),
        (&b"hello from wasm\n"[..], Outcome::Exit(3))
    );
    guests::library_of_first_contract(&kit.path("first.so"));
    let (output, outcome) = call(&kit.module("first-library"), &[], b"still").await;
    assert_eq!(
        (output.as_slice(), outcome),
        (&b"still"[..], Outcome::SUCCESS)
    );
}

pub(crate) async fn a_call_tells_what_it_took_of_its_limits() {
    let kit = Kit::new();
    kit.put("echo.wasm", Wat::new("wasm-echo", ECHO).component());
    kit.put("plain.wasm", guests::command("(i32.const 0)"));
    guests::library(&crate::hostile_native::source(), &kit.path("hostile.so"));
    kit.put_with_manifest("upper", EXECUTABLE.as_bytes(), "executable", ROOM);
    for (name, memory) in [
        ("wasm-echo", "memory 0.1 of 64 MiB, processor 0."),
        ("plain", "memory 0.0 of 64 MiB, processor 0."),
        ("hostile", " of 64 MiB, processor 0."),
        ("upper", " of 256 MiB, processor "),
    ] {
        let module = kit.module(name);
        let lines = lines_of(true, async {
            let (_, outcome) = call(&module, &[], b"hello").await;
            assert!(matches!(outcome, Outcome::Exit(_)), "{outcome:?}");
        });
        let lines = lines.await;
        assert_eq!(lines.len(), 1, "{lines:?}");
        let rest = lines[0].strip_prefix("limits used: server half: memory ");
        assert!(rest.is_some(), "{lines:?}");
        assert!(lines[0].contains(memory), "{lines:?}");
        assert!(lines[0].contains(" lines"), "{lines:?}");
        // A library is measured before it ends, an executable only if it takes its time.
        let is_known = !lines[0].contains("unknown");
        assert!(is_known || name == "upper", "{lines:?}");
    }
}

/// What guests log during some work: the lines that name a module.
pub(crate) async fn logged(work: impl Future<Output = ()>) -> Vec<String> {
    lines_of(false, work).await
}

/// What is logged during some work: what calls took of their limits, or the lines that name a module.
async fn lines_of(usage: bool, work: impl Future<Output = ()>) -> Vec<String> {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let keeper = Keeper {
        usage,
        lines: Arc::clone(&lines),
    };
    work.with_subscriber(keeper).await;
    let mut lines = lines.lock().unwrap();
    std::mem::take(&mut *lines)
}

/// Keeps the lines of guests, or what they took.
struct Keeper {
    usage: bool,
    lines: Arc<Mutex<Vec<String>>>,
}

#[derive(Default)]
struct Line {
    of_module: bool,
    text: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.of_module |= field.name() == "module";
        if field.name() == "message" {
            self.text = format!("{value:?}");
        }
    }
}

impl tracing::Subscriber for Keeper {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("legatus_host")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let of_usage = event.metadata().target() == USAGE;
        if of_usage == self.usage && (of_usage || line.of_module) {
            self.lines.lock().unwrap().push(line.text);
        }
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
