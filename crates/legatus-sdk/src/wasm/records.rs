//! The records of `wit/v1/module.wit` as the canonical ABI lays them out in memory.

use std::fmt;

use crate::host::Fault;

/// A list or a string.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Slice {
    pub(super) data: *const u8,
    pub(super) length: usize,
}

impl Slice {
    pub(super) const EMPTY: Self = Self {
        data: std::ptr::null(),
        length: 0,
    };

    pub(super) fn of(bytes: &[u8]) -> Self {
        Self {
            data: bytes.as_ptr(),
            length: bytes.len(),
        }
    }

    /// A list that is never freed: the instance ends with its call.
    pub(super) fn leak<T>(values: Vec<T>) -> Self {
        let values = Box::leak(values.into_boxed_slice());
        Self {
            data: values.as_ptr().cast(),
            length: values.len(),
        }
    }
}

/// `option<list<u8>>` and `option<string>`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Optional {
    pub(super) some: u8,
    pub(super) value: Slice,
}

/// `fault`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct FaultTold {
    pub(super) message: Slice,
    pub(super) hint: Optional,
}

impl FaultTold {
    pub(super) const NONE: Self = Self {
        message: Slice::EMPTY,
        hint: Optional {
            some: 0,
            value: Slice::EMPTY,
        },
    };

    pub(super) fn leak(fault: Fault) -> Self {
        Self {
            hint: Optional {
                some: (!fault.hint.is_empty()).into(),
                value: Slice::leak(fault.hint.into_bytes()),
            },
            message: Slice::leak(fault.message.into_bytes()),
        }
    }
}

/// `result<option<list<u8>>, channel-error>`; an error stands where `some` does.
#[repr(C)]
pub(super) struct Received {
    pub(super) failed: u8,
    pub(super) message: Optional,
}

/// `result<_, channel-error>`.
#[repr(C)]
pub(super) struct Sent {
    pub(super) failed: u8,
    pub(super) error: u8,
}

/// `result<_, fault>`.
#[repr(C)]
pub(super) struct Opened {
    pub(super) failed: u8,
    pub(super) fault: FaultTold,
}

/// What [`Outcome`](crate::Outcome)s carry.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) union Carried {
    pub(super) status: u8,
    pub(super) fault: FaultTold,
}

/// `outcome`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct OutcomeTold {
    pub(super) kind: u8,
    pub(super) carried: Carried,
}

/// Bytes, or why there are none.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) union BytesOrError {
    pub(super) bytes: Optional,
    pub(super) error: Slice,
}

/// `result<option<list<u8>>, string>`.
#[repr(C)]
pub(super) struct Read {
    pub(super) failed: u8,
    pub(super) told: BytesOrError,
}

/// `result<_, string>`.
#[repr(C)]
pub(super) struct Wrote {
    pub(super) failed: u8,
    pub(super) error: Slice,
}

/// A file's number, or why there is none.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) union NumberOrError {
    pub(super) number: u32,
    pub(super) error: Slice,
}

/// `result<u32, string>`.
#[repr(C)]
pub(super) struct OpenedFile {
    pub(super) failed: u8,
    pub(super) told: NumberOrError,
}

/// `result<u8, fault>`: what `execute` returns.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Executed {
    pub(super) failed: u8,
    pub(super) carried: Carried,
}

/// An outcome, or a fault.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) union OutcomeOrFault {
    pub(super) outcome: OutcomeTold,
    pub(super) fault: FaultTold,
}

/// `result<outcome, fault>`: what `send` returns.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SendEnded {
    pub(super) failed: u8,
    pub(super) told: OutcomeOrFault,
}

/// `given`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct GivenTold {
    pub(super) name: Slice,
    pub(super) values: Slice,
}

/// `argument`.
#[repr(C)]
pub(super) struct ArgumentTold {
    pub(super) name: Slice,
    pub(super) has_short: u8,
    pub(super) short: u32,
    pub(super) kind: u8,
    pub(super) value: u8,
    pub(super) value_name: Slice,
    pub(super) help: Slice,
    pub(super) required: u8,
    pub(super) repeated: u8,
}

/// `example`.
#[repr(C)]
pub(super) struct ExampleTold {
    pub(super) command: Slice,
    pub(super) explanation: Slice,
}

/// `description`.
#[repr(C)]
pub(super) struct DescriptionTold {
    pub(super) name: Slice,
    pub(super) version: Slice,
    pub(super) summary: Slice,
    pub(super) details: Slice,
    pub(super) effects: u8,
    pub(super) arguments: Slice,
    pub(super) examples: Slice,
    pub(super) commander: u8,
    pub(super) sender: u8,
}

/// Sizes where pointers have 32 bits, by the rules of the canonical ABI.
#[cfg(target_pointer_width = "32")]
const _: () = {
    assert!(size_of::<FaultTold>() == 20);
    assert!(size_of::<Received>() == 16);
    assert!(size_of::<Sent>() == 2);
    assert!(size_of::<Opened>() == 24);
    assert!(size_of::<OutcomeTold>() == 24);
    assert!(size_of::<Read>() == 16);
    assert!(size_of::<Wrote>() == 12);
    assert!(size_of::<OpenedFile>() == 12);
    assert!(size_of::<Executed>() == 24);
    assert!(size_of::<SendEnded>() == 28);
    assert!(size_of::<GivenTold>() == 16);
    assert!(size_of::<ArgumentTold>() == 40);
    assert!(size_of::<ExampleTold>() == 16);
    assert!(size_of::<DescriptionTold>() == 56);
};

impl fmt::Debug for Executed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executed").finish_non_exhaustive()
    }
}

impl fmt::Debug for SendEnded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendEnded").finish_non_exhaustive()
    }
}
