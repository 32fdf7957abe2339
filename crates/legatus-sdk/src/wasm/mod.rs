//! Modules as WebAssembly components of `wit/v1/module.wit`.
//!
//! What other languages leave to a generator of bindings stands here by hand, so that a project
//! needs none: the contract has few functions, and never changes.

#![expect(
    unsafe_code,
    reason = "the host and the guest share the guest's memory"
)]

#[cfg(not(test))]
mod imports;
mod records;
#[cfg(test)]
mod tests;
mod worlds;

use std::alloc::{Layout, alloc, realloc};

pub use records::{Executed, SendEnded, Slice};
pub use worlds::{COMMANDER_MODULE, MODULE, SENDER_MODULE};

use crate::entries::{self, Entry, Whole};
use crate::host::{Call, ChannelError, Client, Fault, Given, Host, Level, Local, Outcome, Talk};
use crate::panics;
use records::{
    ArgumentTold, BytesOrError, Carried, DescriptionTold, ExampleTold, FaultTold, GivenTold,
    NumberOrError, Opened, OpenedFile, Optional, OutcomeOrFault, OutcomeTold, Read, Received, Sent,
    Wrote,
};
#[cfg(test)]
use tests::imports;

/// `cabi_realloc`: room for what the host passes.
///
/// # Safety
/// As the canonical ABI says: `old` was returned by this function for `old_size` and `align`.
#[must_use]
pub unsafe fn allocate(old: *mut u8, old_size: usize, align: usize, size: usize) -> *mut u8 {
    if size == 0 {
        return std::ptr::without_provenance_mut(align);
    }
    let room = if old_size == 0 {
        Layout::from_size_align(size, align).map_or(std::ptr::null_mut(), |layout| {
            // SAFETY: the size is not zero.
            unsafe { alloc(layout) }
        })
    } else {
        Layout::from_size_align(old_size, align).map_or(std::ptr::null_mut(), |layout| {
            // SAFETY: the caller says that `old` was made with this layout; the size is not zero.
            unsafe { realloc(old, layout, size) }
        })
    };
    if room.is_null() {
        std::process::abort();
    }
    room
}

/// Bytes that the host has put where [`allocate`] made room.
fn owned(slice: Slice) -> Vec<u8> {
    if slice.length == 0 {
        return Vec::new();
    }
    // SAFETY: the host has taken the room with this length, and hands it over.
    unsafe { Vec::from_raw_parts(slice.data.cast_mut(), slice.length, slice.length) }
}

fn owned_text(slice: Slice) -> String {
    String::from_utf8(owned(slice)).unwrap_or_default()
}

/// A list's elements, which the host has put where [`allocate`] made room. They are not freed.
fn elements<T: Copy>(list: Slice) -> Vec<T> {
    if list.length == 0 {
        return Vec::new();
    }
    // SAFETY: the contract says that so many of these are there.
    unsafe { std::slice::from_raw_parts(list.data.cast::<T>(), list.length) }.to_vec()
}

fn owned_list(list: Slice) -> Vec<Vec<u8>> {
    let values = elements::<Slice>(list).into_iter();
    values.map(owned).collect()
}

fn owned_fault(told: FaultTold) -> Fault {
    Fault {
        message: owned_text(told.message),
        hint: match told.hint.some {
            0 => String::new(),
            _ => owned_text(told.hint.value),
        },
    }
}

fn optional(told: Optional) -> Option<Vec<u8>> {
    (told.some != 0).then(|| owned(told.value))
}

fn channel_error(code: u8) -> ChannelError {
    match code {
        1 => ChannelError::Cancelled,
        2 => ChannelError::TooLong,
        _ => ChannelError::Gone,
    }
}

const NOTHING: Optional = Optional {
    some: 0,
    value: Slice::EMPTY,
};

/// The host's functions.
#[derive(Clone, Copy)]
struct Imports;

impl Talk for Imports {
    fn receive(&mut self) -> Result<Option<Vec<u8>>, ChannelError> {
        let mut received = Received {
            failed: 0,
            message: NOTHING,
        };
        // SAFETY: there is room for one.
        unsafe { imports::receive(&raw mut received) };
        match received.failed {
            0 => Ok(optional(received.message)),
            _ => Err(channel_error(received.message.some)),
        }
    }

    fn send(&mut self, message: &[u8]) -> Result<(), ChannelError> {
        let mut sent = Sent {
            failed: 0,
            error: 0,
        };
        // SAFETY: the bytes are there, and room for one result.
        unsafe { imports::send(message.as_ptr(), message.len(), &raw mut sent) };
        match sent.failed {
            0 => Ok(()),
            _ => Err(channel_error(sent.error)),
        }
    }

    fn finish(&mut self) {
        // SAFETY: it takes nothing.
        unsafe { imports::finish() };
    }

    fn wait(&mut self, milliseconds: Option<u64>) -> (bool, bool) {
        let has_time = milliseconds.is_some().into();
        // SAFETY: it takes numbers.
        let ready = unsafe { imports::wait(has_time, milliseconds.unwrap_or(0)) };
        (ready & 1 != 0, ready & 2 != 0)
    }

    fn log(&mut self, level: Level, text: &str) {
        log(level, text);
    }
}

impl Local for Imports {
    fn open(&mut self, arguments: &[&[u8]]) -> Result<(), Fault> {
        let slices: Vec<_> = arguments.iter().map(|one| Slice::of(one)).collect();
        let mut opened = Opened {
            failed: 0,
            fault: FaultTold::NONE,
        };
        // SAFETY: so many are there, and room for one result.
        unsafe { imports::open(slices.as_ptr(), slices.len(), &raw mut opened) };
        match opened.failed {
            0 => Ok(()),
            _ => Err(owned_fault(opened.fault)),
        }
    }

    fn outcome(&mut self) -> Result<Outcome, Fault> {
        let mut told = OutcomeTold {
            kind: 0,
            carried: Carried {
                fault: FaultTold::NONE,
            },
        };
        // SAFETY: there is room for one.
        unsafe { imports::wait_outcome(&raw mut told) };
        Ok(outcome(told))
    }

    fn read_input(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        // SAFETY: there is room for one.
        read(|told| unsafe { imports::read_input(told) })
    }

    fn write_output(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        // SAFETY: the bytes are there, and room for one result.
        write(|told| unsafe { imports::write_output(bytes.as_ptr(), bytes.len(), told) })
    }

    fn write_error(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        // SAFETY: the bytes are there, and room for one result.
        write(|told| unsafe { imports::write_error(bytes.as_ptr(), bytes.len(), told) })
    }

    fn open_file(&mut self, name: &[u8]) -> Result<u32, Fault> {
        let mut opened = OpenedFile {
            failed: 0,
            told: NumberOrError {
                error: Slice::EMPTY,
            },
        };
        // SAFETY: the bytes are there, and room for one result.
        unsafe { imports::open_file(name.as_ptr(), name.len(), &raw mut opened) };
        if opened.failed == 0 {
            // SAFETY: it did not fail, so this is a number.
            return Ok(unsafe { opened.told.number });
        }
        // SAFETY: it failed, so this is a text.
        Err(Fault::new(owned_text(unsafe { opened.told.error })))
    }

    fn read_file(&mut self, file: u32) -> Result<Option<Vec<u8>>, Fault> {
        // SAFETY: there is room for one.
        read(|told| unsafe { imports::read_file(file, told) })
    }

    fn close_file(&mut self, file: u32) {
        // SAFETY: it takes a number.
        unsafe { imports::close_file(file) };
    }
}

fn log(level: Level, text: &str) {
    // SAFETY: the bytes are there.
    unsafe { imports::log(level as u32, text.as_ptr(), text.len()) };
}

fn read(ask: impl FnOnce(*mut Read)) -> Result<Option<Vec<u8>>, Fault> {
    let mut told = Read {
        failed: 0,
        told: BytesOrError { bytes: NOTHING },
    };
    ask(&raw mut told);
    if told.failed == 0 {
        // SAFETY: it did not fail, so this is bytes.
        return Ok(optional(unsafe { told.told.bytes }));
    }
    // SAFETY: it failed, so this is a text.
    Err(Fault::new(owned_text(unsafe { told.told.error })))
}

fn write(ask: impl FnOnce(*mut Wrote)) -> Result<(), Fault> {
    let mut told = Wrote {
        failed: 0,
        error: Slice::EMPTY,
    };
    ask(&raw mut told);
    match told.failed {
        0 => Ok(()),
        _ => Err(Fault::new(owned_text(told.error))),
    }
}

fn outcome(told: OutcomeTold) -> Outcome {
    // SAFETY: a number in all kinds, for which any first byte will do.
    let status = || unsafe { told.carried.status };
    // SAFETY: the kinds that ask for it carry one.
    let fault = || owned_fault(unsafe { told.carried.fault });
    match told.kind {
        0 => Outcome::Exit(status()),
        1 => Outcome::Signal(status()),
        2 => Outcome::Timeout,
        3 => Outcome::Cancelled,
        4 => Outcome::Denied(fault()),
        5 => Outcome::Unavailable(fault()),
        6 => Outcome::Lost(fault()),
        _ => Outcome::Failed(fault()),
    }
}

fn leak_outcome(outcome: Outcome) -> OutcomeTold {
    let status = |status| Carried { status };
    let fault = |fault| Carried {
        fault: FaultTold::leak(fault),
    };
    let (kind, carried) = match outcome {
        Outcome::Exit(code) => (0, status(code)),
        Outcome::Signal(signal) => (1, status(signal)),
        Outcome::Timeout => (2, status(0)),
        Outcome::Cancelled => (3, status(0)),
        Outcome::Denied(why) => (4, fault(why)),
        Outcome::Unavailable(why) => (5, fault(why)),
        Outcome::Lost(why) => (6, fault(why)),
        Outcome::Failed(why) => (7, fault(why)),
    };
    OutcomeTold { kind, carried }
}

/// `describe` of the contract.
#[must_use]
pub fn describe(entries: &[Entry]) -> *const Slice {
    let told = entries::modules(entries);
    let told: Vec<_> = told.iter().map(description).collect();
    Box::leak(Box::new(Slice::leak(told)))
}

fn description(whole: &Whole) -> DescriptionTold {
    let told = &whole.told;
    let arguments = told.arguments.iter().map(|one| ArgumentTold {
        name: Slice::of(one.name.as_bytes()),
        has_short: one.short.is_some().into(),
        short: one.short.map_or(0, u32::from),
        kind: one.kind as u8,
        value: one.value as u8,
        value_name: Slice::of(one.value_name.as_bytes()),
        help: Slice::of(one.help.as_bytes()),
        required: one.required.into(),
        repeated: one.repeated.into(),
    });
    let examples = told
        .examples
        .iter()
        .map(|(command, explanation)| ExampleTold {
            command: Slice::of(command.as_bytes()),
            explanation: Slice::of(explanation.as_bytes()),
        });
    DescriptionTold {
        name: Slice::of(told.name.as_bytes()),
        version: Slice::of(told.version.as_bytes()),
        summary: Slice::of(told.summary.as_bytes()),
        details: Slice::of(told.details.as_bytes()),
        effects: told.effects.bits(),
        arguments: Slice::leak(arguments.collect()),
        examples: Slice::leak(examples.collect()),
        commander: whole.execute.is_some().into(),
        sender: whole.send.is_some().into(),
    }
}

/// What the host passes to `execute`.
#[derive(Debug)]
pub struct CallTold {
    /// The module's name.
    pub module: Slice,
    /// The call's id.
    pub id: Slice,
    /// The caller's identity.
    pub peer: Slice,
    /// A list of lists.
    pub arguments: Slice,
    /// Whether there is a deadline.
    pub has_time: u32,
    /// What is left until then.
    pub milliseconds: u64,
}

/// A list or string of two flat values.
#[must_use]
pub fn slice(data: *const u8, length: usize) -> Slice {
    Slice { data, length }
}

/// `execute` of the contract.
#[must_use]
pub fn execute(entries: &[Entry], told: &CallTold) -> *const Executed {
    panics::tell(|text| log(Level::Error, text));
    let call = Call {
        id: owned_text(told.id),
        peer: owned_text(told.peer),
        arguments: owned_list(told.arguments),
        milliseconds: (told.has_time != 0).then_some(told.milliseconds),
    };
    let module = owned_text(told.module);
    let ended = entries::execute(entries, &module, &call, &mut Host::new(Imports));
    Box::leak(Box::new(match ended {
        Ok(status) => Executed {
            failed: 0,
            carried: Carried { status },
        },
        Err(fault) => Executed {
            failed: 1,
            carried: Carried {
                fault: FaultTold::leak(fault),
            },
        },
    }))
}

/// `send` of the contract.
#[must_use]
pub fn send(entries: &[Entry], module: Slice, arguments: Slice) -> *const SendEnded {
    panics::tell(|text| log(Level::Error, text));
    let given = elements::<GivenTold>(arguments).into_iter();
    let given: Vec<_> = given
        .map(|one| Given {
            name: owned_text(one.name),
            values: owned_list(one.values),
        })
        .collect();
    let module = owned_text(module);
    let ended = entries::send(entries, &module, &given, &mut Client::new(Imports));
    Box::leak(Box::new(match ended {
        Ok(outcome) => SendEnded {
            failed: 0,
            told: OutcomeOrFault {
                outcome: leak_outcome(outcome),
            },
        },
        Err(fault) => SendEnded {
            failed: 1,
            told: OutcomeOrFault {
                fault: FaultTold::leak(fault),
            },
        },
    }))
}
