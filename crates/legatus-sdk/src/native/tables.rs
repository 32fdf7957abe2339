//! The records of `include/legatus_module.h`, member by member.

use std::ffi::{c_char, c_void};

/// `legatus_bytes`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Slice {
    pub(super) data: *const u8,
    pub(super) length: usize,
}

impl Slice {
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self {
            data: bytes.as_ptr(),
            length: bytes.len(),
        }
    }
}

/// `legatus_given`.
#[repr(C)]
pub(super) struct GivenTold {
    pub(super) name: *const c_char,
    pub(super) values: *const Slice,
    pub(super) value_count: usize,
}

/// `legatus_outcome`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct OutcomeTold {
    pub(super) kind: u32,
    pub(super) status: u32,
}

/// `legatus_call`.
#[repr(C)]
pub(super) struct CallTold {
    pub(super) size: u32,
    pub(super) reserved: u32,
    pub(super) module: *const c_char,
    pub(super) id: *const c_char,
    pub(super) peer: *const c_char,
    pub(super) arguments: *const Slice,
    pub(super) argument_count: usize,
    pub(super) milliseconds: u64,
}

/// `legatus_host`.
#[repr(C)]
pub(super) struct Table {
    pub(super) size: u32,
    pub(super) abi: u32,
    pub(super) context: *mut c_void,
    pub(super) receive: extern "C" fn(*mut c_void, *mut Slice) -> i32,
    pub(super) send: extern "C" fn(*mut c_void, Slice) -> i32,
    pub(super) finish: extern "C" fn(*mut c_void),
    pub(super) wait: extern "C" fn(*mut c_void, i64) -> u32,
    pub(super) log: extern "C" fn(*mut c_void, u32, Slice),
    pub(super) fail: extern "C" fn(*mut c_void, Slice, Slice),
    pub(super) open: extern "C" fn(*mut c_void, *const Slice, usize) -> i32,
    pub(super) outcome: extern "C" fn(*mut c_void, *mut OutcomeTold) -> i32,
    pub(super) read_input: extern "C" fn(*mut c_void, *mut Slice) -> i32,
    pub(super) write_output: extern "C" fn(*mut c_void, Slice) -> i32,
    pub(super) write_error: extern "C" fn(*mut c_void, Slice) -> i32,
    pub(super) open_file: extern "C" fn(*mut c_void, Slice, *mut u32) -> i32,
    pub(super) read_file: extern "C" fn(*mut c_void, u32, *mut Slice) -> i32,
    pub(super) close_file: extern "C" fn(*mut c_void, u32),
}

/// `legatus_argument`.
#[repr(C)]
pub(super) struct ArgumentTold {
    pub(super) name: *const c_char,
    pub(super) value_name: *const c_char,
    pub(super) help: *const c_char,
    pub(super) kind: u32,
    pub(super) value: u32,
    pub(super) marks: u32,
    pub(super) short_name: u32,
}

/// `legatus_example`.
#[repr(C)]
pub(super) struct ExampleTold {
    pub(super) command: *const c_char,
    pub(super) explanation: *const c_char,
}

/// `execute` of `legatus_module`.
pub(super) type ExecuteFunction = extern "C" fn(*const Table, *const CallTold) -> i32;

/// `send` of `legatus_module`.
pub(super) type SendFunction =
    extern "C" fn(*const Table, *const c_char, *const GivenTold, usize) -> i32;

/// `legatus_module`.
#[repr(C)]
pub(super) struct ModuleTold {
    pub(super) size: u32,
    pub(super) effects: u32,
    pub(super) name: *const c_char,
    pub(super) version: *const c_char,
    pub(super) summary: *const c_char,
    pub(super) details: *const c_char,
    pub(super) arguments: *const ArgumentTold,
    pub(super) argument_count: usize,
    pub(super) examples: *const ExampleTold,
    pub(super) example_count: usize,
    pub(super) execute: Option<ExecuteFunction>,
    pub(super) send: Option<SendFunction>,
}

/// `legatus_library`: what [`module!`](crate::module) exports.
#[repr(C)]
#[derive(Debug)]
pub struct Library {
    pub(super) abi: u32,
    pub(super) module_count: u32,
    pub(super) modules: *const *const ModuleTold,
}
