//! `include/legatus_module.h` in Rust; a test compares sizes and places.

use std::ffi::{c_char, c_void};

/// Version of the contract.
pub(super) const ABI: u32 = 1;

pub(super) const OK: i32 = 0;
pub(super) const END: i32 = 1;
pub(super) const GONE: i32 = -1;
pub(super) const CANCELLED: i32 = -2;
pub(super) const TOO_LONG: i32 = -3;
pub(super) const FAILED: i32 = -4;

pub(super) const FAULT: i32 = -1;
pub(super) const AS_OUTCOME: i32 = -2;

pub(super) const MESSAGE_READY: u32 = 1;
pub(super) const IS_CANCELLED: u32 = 2;

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Bytes {
    pub(super) data: *const u8,
    pub(super) length: usize,
}

#[repr(C)]
pub(super) struct Given {
    pub(super) name: *const c_char,
    pub(super) values: *const Bytes,
    pub(super) value_count: usize,
}

#[repr(C)]
pub(super) struct OutcomeTold {
    pub(super) kind: u32,
    pub(super) status: u32,
}

#[repr(C)]
pub(super) struct CallTold {
    pub(super) size: u32,
    pub(super) reserved: u32,
    pub(super) module: *const c_char,
    pub(super) id: *const c_char,
    pub(super) peer: *const c_char,
    pub(super) arguments: *const Bytes,
    pub(super) argument_count: usize,
    pub(super) milliseconds: u64,
}

#[repr(C)]
pub(super) struct Host {
    pub(super) size: u32,
    pub(super) abi: u32,
    pub(super) context: *mut c_void,
    pub(super) receive: extern "C" fn(*mut c_void, *mut Bytes) -> i32,
    pub(super) send: extern "C" fn(*mut c_void, Bytes) -> i32,
    pub(super) finish: extern "C" fn(*mut c_void),
    pub(super) wait: extern "C" fn(*mut c_void, i64) -> u32,
    pub(super) log: extern "C" fn(*mut c_void, u32, Bytes),
    pub(super) fail: extern "C" fn(*mut c_void, Bytes, Bytes),
    pub(super) open: extern "C" fn(*mut c_void, *const Bytes, usize) -> i32,
    pub(super) outcome: extern "C" fn(*mut c_void, *mut OutcomeTold) -> i32,
    pub(super) read_input: extern "C" fn(*mut c_void, *mut Bytes) -> i32,
    pub(super) write_output: extern "C" fn(*mut c_void, Bytes) -> i32,
    pub(super) write_error: extern "C" fn(*mut c_void, Bytes) -> i32,
    pub(super) open_file: extern "C" fn(*mut c_void, Bytes, *mut u32) -> i32,
    pub(super) read_file: extern "C" fn(*mut c_void, u32, *mut Bytes) -> i32,
    pub(super) close_file: extern "C" fn(*mut c_void, u32),
}

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

#[repr(C)]
pub(super) struct ExampleTold {
    pub(super) command: *const c_char,
    pub(super) explanation: *const c_char,
}

pub(super) type ExecuteFunction = extern "C" fn(*const Host, *const CallTold) -> i32;
pub(super) type SendFunction =
    extern "C" fn(*const Host, *const c_char, *const Given, usize) -> i32;

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

#[repr(C)]
pub(super) struct LibraryTold {
    pub(super) abi: u32,
    pub(super) module_count: u32,
    pub(super) modules: *const *const ModuleTold,
}

pub(super) type ModulesFunction = extern "C" fn(u32) -> *const LibraryTold;
