//! The calls of a host, as the canonical ABI makes them, with a host of the test's own.

use std::cell::RefCell;
use std::collections::VecDeque;

use super::records::{DescriptionTold, Slice};
use super::{CallTold, describe, execute, owned_fault, send};
use crate::{
    Argument, Call, Client, Commander, Description, Effects, Entry, Fault, Given, Host, Level,
    Module, Outcome, Sender,
};

#[derive(Default)]
struct Script {
    incoming: VecDeque<&'static str>,
    outgoing: Vec<String>,
    input: VecDeque<&'static str>,
    output: String,
    errors: String,
    log: Vec<(u32, String)>,
    opened: Vec<Vec<u8>>,
    closed_files: Vec<u32>,
}

thread_local! {
    static SCRIPT: RefCell<Script> = RefCell::default();
}

fn script<T>(with: impl FnOnce(&mut Script) -> T) -> T {
    SCRIPT.with_borrow_mut(with)
}

/// What a host passes: memory that the guest takes over.
fn pass(bytes: &[u8]) -> Slice {
    Slice::leak(bytes.to_vec())
}

fn pass_all(texts: &[&str]) -> Slice {
    Slice::leak(texts.iter().map(|text| pass(text.as_bytes())).collect())
}

/// In the place of the host's functions.
#[expect(
    clippy::missing_safety_doc,
    reason = "they stand for foreign functions"
)]
pub(super) mod imports {
    use super::super::records::{
        BytesOrError, Carried, FaultTold, NumberOrError, Opened, OpenedFile, Optional, OutcomeTold,
        Read, Received, Sent, Slice, Wrote,
    };
    use super::{pass, script};
    use crate::wasm::elements;

    fn bytes<'a>(data: *const u8, length: usize) -> &'a [u8] {
        // SAFETY: the guest says that so many are there.
        unsafe { std::slice::from_raw_parts(data, length) }
    }

    fn text(data: *const u8, length: usize) -> String {
        String::from_utf8_lossy(bytes(data, length)).into_owned()
    }

    fn optional(text: Option<&str>) -> Optional {
        Optional {
            some: text.is_some().into(),
            value: pass(text.unwrap_or_default().as_bytes()),
        }
    }

    fn put<T>(place: *mut T, value: T) {
        // SAFETY: the guest made room for one.
        unsafe { place.write(value) };
    }

    pub(in super::super) unsafe fn receive(to: *mut Received) {
        let next = script(|script| script.incoming.pop_front());
        let failed = u8::from(next == Some("(cancelled)"));
        let message = match failed {
            0 => optional(next),
            _ => Optional {
                some: 1,
                ..optional(None)
            },
        };
        put(to, Received { failed, message });
    }

    pub(in super::super) unsafe fn send(data: *const u8, length: usize, to: *mut Sent) {
        script(|script| script.outgoing.push(text(data, length)));
        put(
            to,
            Sent {
                failed: 0,
                error: 0,
            },
        );
    }

    pub(in super::super) unsafe fn finish() {
        script(|script| script.outgoing.push("(end)".to_owned()));
    }

    pub(in super::super) unsafe fn log(level: u32, data: *const u8, length: usize) {
        script(|script| script.log.push((level, text(data, length))));
    }

    pub(in super::super) unsafe fn wait(has_time: u32, milliseconds: u64) -> u32 {
        assert_eq!((has_time, milliseconds), (1, 20));
        3
    }

    pub(in super::super) unsafe fn open(data: *const Slice, count: usize, to: *mut Opened) {
        let given = elements::<Slice>(Slice {
            data: data.cast(),
            length: count,
        });
        let given = given
            .into_iter()
            .map(|one| bytes(one.data, one.length).to_vec());
        script(|script| script.opened.extend(given));
        let denied = script(|script| script.opened.is_empty());
        let fault = FaultTold {
            message: pass(b"it was denied"),
            hint: optional(Some("ask somebody")),
        };
        let failed = denied.into();
        put(to, Opened { failed, fault });
    }

    pub(in super::super) unsafe fn wait_outcome(to: *mut OutcomeTold) {
        let carried = Carried { status: 44 };
        put(to, OutcomeTold { kind: 0, carried });
    }

    pub(in super::super) unsafe fn read_input(to: *mut Read) {
        let bytes = optional(script(|script| script.input.pop_front()));
        let told = BytesOrError { bytes };
        put(to, Read { failed: 0, told });
    }

    pub(in super::super) unsafe fn write_output(data: *const u8, length: usize, to: *mut Wrote) {
        script(|script| script.output.push_str(&text(data, length)));
        let error = Slice::EMPTY;
        put(to, Wrote { failed: 0, error });
    }

    pub(in super::super) unsafe fn write_error(data: *const u8, length: usize, to: *mut Wrote) {
        script(|script| script.errors.push_str(&text(data, length)));
        let error = Slice::EMPTY;
        put(to, Wrote { failed: 0, error });
    }

    pub(in super::super) unsafe fn open_file(data: *const u8, length: usize, to: *mut OpenedFile) {
        let (failed, told) = match bytes(data, length) {
            b"known" => (0, NumberOrError { number: 70_000 }),
            _ => (
                1,
                NumberOrError {
                    error: pass(b"not on the command line"),
                },
            ),
        };
        put(to, OpenedFile { failed, told });
    }

    pub(in super::super) unsafe fn read_file(file: u32, to: *mut Read) {
        assert_eq!(file, 70_000);
        // SAFETY: the guest made room for one.
        unsafe { read_input(to) };
    }

    pub(in super::super) unsafe fn close_file(file: u32) {
        script(|script| script.closed_files.push(file));
    }
}

struct Both;

impl Module for Both {
    fn describe() -> Description {
        Description {
            details: "At length",
            effects: Effects {
                read: true,
                exec: true,
                ..Effects::default()
            },
            arguments: vec![Argument {
                name: "file",
                short: Some('f'),
                ..Argument::default()
            }],
            examples: vec![("legatus both web1", "Does both")],
            ..Description::new("both", "1.2.3", "Has both halves")
        }
    }
}

impl Commander for Both {
    fn execute(call: &Call, host: &mut Host) -> Result<u8, Fault> {
        let first = String::from_utf8_lossy(&call.arguments[0]).into_owned();
        host.log(
            Level::Warn,
            &format!("{} {} {:?}", call.id, call.peer, call.milliseconds),
        );
        assert_eq!(host.wait(Some(20)), (true, true));
        if first == "fail" {
            return Err(Fault::new("no").with_hint("try again"));
        }
        while let Some(message) = host.receive()? {
            host.send(&[first.as_bytes(), &message].concat())?;
        }
        host.finish();
        Ok(42)
    }
}

impl Sender for Both {
    fn send(arguments: &[Given], client: &mut Client) -> Result<Outcome, Fault> {
        let values: Vec<_> = arguments.iter().flat_map(|one| &one.values).collect();
        let values: Vec<_> = values.iter().map(|value| value.as_slice()).collect();
        client.open(&values)?;
        while let Some(bytes) = client.read_input()? {
            client.write_output(&bytes)?;
        }
        let mut file = client.open_file(b"known")?;
        assert_eq!(file.read()?, None);
        drop(file);
        let refused = client.open_file(b"unknown").map(drop).unwrap_err();
        client.write_error(refused.message.as_bytes())?;
        client.outcome()
    }
}

const ENTRIES: &[Entry] = &[Entry::commander::<Both>(), Entry::sender::<Both>()];

fn run(argument: &str) -> Result<u8, Fault> {
    let ended = execute(
        ENTRIES,
        &CallTold {
            module: pass(b"both"),
            id: pass(b"7f"),
            peer: pass(b"alice"),
            arguments: pass_all(&[argument, ""]),
            has_time: 1,
            milliseconds: 1500,
        },
    );
    // SAFETY: it was leaked for its caller.
    let ended = unsafe { &*ended };
    match ended.failed {
        // SAFETY: it did not fail, so this is a status.
        0 => Ok(unsafe { ended.carried.status }),
        // SAFETY: it failed, so this is a fault.
        _ => Err(owned_fault(unsafe { ended.carried.fault })),
    }
}

#[test]
fn a_description_arrives_whole() {
    // SAFETY: it was leaked for its caller.
    let list = unsafe { *describe(ENTRIES) };
    assert_eq!(list.length, 1);
    // SAFETY: there is one.
    let told = unsafe { &*list.data.cast::<DescriptionTold>() };
    let texts = [told.name, told.version, told.details].map(|text| {
        // SAFETY: so many bytes are there.
        unsafe { std::slice::from_raw_parts(text.data, text.length) }
    });
    assert_eq!(texts, [&b"both"[..], b"1.2.3", b"At length"]);
    assert_eq!((told.effects, told.commander, told.sender), (5, 1, 1));
    assert_eq!((told.arguments.length, told.examples.length), (1, 1));
}

#[test]
fn a_server_half_gets_its_call_and_talks() {
    script(|script| script.incoming = ["a", "b"].into());
    assert_eq!(run("> "), Ok(42));
    script(|script| {
        assert_eq!(script.outgoing, ["> a", "> b", "(end)"]);
        assert_eq!(script.log, [(3, "7f alice Some(1500)".to_owned())]);
    });
}

#[test]
fn a_fault_of_a_server_half_reaches_its_caller() {
    assert_eq!(run("fail"), Err(Fault::new("no").with_hint("try again")));
}

#[test]
fn a_cancelled_call_is_told_to_its_server_half() {
    script(|script| script.incoming = ["a", "(cancelled)"].into());
    assert_eq!(run(""), Err(Fault::new("the call was cancelled")));
}

fn send_half(values: &[&str]) -> Result<Outcome, Fault> {
    let given = super::GivenTold {
        name: pass(b"file"),
        values: pass_all(values),
    };
    let ended = send(ENTRIES, pass(b"both"), Slice::leak(vec![given]));
    // SAFETY: it was leaked for its caller.
    let ended = unsafe { &*ended };
    match ended.failed {
        // SAFETY: it did not fail, so this is an outcome.
        0 => Ok(super::outcome(unsafe { ended.told.outcome })),
        // SAFETY: it failed, so this is a fault.
        _ => Err(owned_fault(unsafe { ended.told.fault })),
    }
}

#[test]
fn a_client_half_opens_its_call_and_returns_its_outcome() {
    script(|script| script.input = ["x", "y"].into());
    assert_eq!(send_half(&["one", "two"]), Ok(Outcome::Exit(44)));
    script(|script| {
        assert_eq!(script.opened, [b"one", b"two"]);
        assert_eq!(script.output, "xy");
        assert_eq!(script.errors, "not on the command line");
        assert_eq!(script.closed_files, [70_000]);
    });
}

#[test]
fn a_call_that_was_denied_is_told_to_its_client_half() {
    let denied = Fault::new("it was denied").with_hint("ask somebody");
    assert_eq!(send_half(&[]), Err(denied));
}

#[test]
fn every_outcome_survives_its_record() {
    let fault = || Fault::new("why").with_hint("what to do");
    for told in [
        Outcome::Exit(3),
        Outcome::Signal(9),
        Outcome::Timeout,
        Outcome::Cancelled,
        Outcome::Denied(fault()),
        Outcome::Unavailable(fault()),
        Outcome::Lost(Fault::new("why")),
        Outcome::Failed(fault()),
    ] {
        assert_eq!(super::outcome(super::leak_outcome(told.clone())), told);
    }
}
