//! `include/legatus_module.h` in Rust; a test compares sizes and places.

use std::ffi::{c_char, c_void};

/// Version of the contract.
pub(crate) const ABI: u32 = 1;

pub(crate) const OK: i32 = 0;
pub(crate) const END: i32 = 1;
pub(crate) const GONE: i32 = -1;
pub(crate) const CANCELLED: i32 = -2;
pub(crate) const TOO_LONG: i32 = -3;
pub(crate) const FAILED: i32 = -4;

pub(crate) const FAULT: i32 = -1;
pub(crate) const AS_OUTCOME: i32 = -2;

pub(crate) const MESSAGE_READY: u32 = 1;
pub(crate) const IS_CANCELLED: u32 = 2;

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Bytes {
    pub(crate) data: *const u8,
    pub(crate) length: usize,
}

#[repr(C)]
pub(crate) struct Given {
    pub(crate) name: *const c_char,
    pub(crate) values: *const Bytes,
    pub(crate) value_count: usize,
}

#[repr(C)]
pub(crate) struct OutcomeTold {
    pub(crate) kind: u32,
    pub(crate) status: u32,
}

#[repr(C)]
pub(crate) struct CallTold {
    pub(crate) size: u32,
    pub(crate) reserved: u32,
    pub(crate) module: *const c_char,
    pub(crate) id: *const c_char,
    pub(crate) peer: *const c_char,
    pub(crate) arguments: *const Bytes,
    pub(crate) argument_count: usize,
    pub(crate) milliseconds: u64,
}

#[repr(C)]
pub(crate) struct Host {
    pub(crate) size: u32,
    pub(crate) abi: u32,
    pub(crate) context: *mut c_void,
    pub(crate) receive: extern "C" fn(*mut c_void, *mut Bytes) -> i32,
    pub(crate) send: extern "C" fn(*mut c_void, Bytes) -> i32,
    pub(crate) finish: extern "C" fn(*mut c_void),
    pub(crate) wait: extern "C" fn(*mut c_void, i64) -> u32,
    pub(crate) log: extern "C" fn(*mut c_void, u32, Bytes),
    pub(crate) fail: extern "C" fn(*mut c_void, Bytes, Bytes),
    pub(crate) open: extern "C" fn(*mut c_void, *const Bytes, usize) -> i32,
    pub(crate) outcome: extern "C" fn(*mut c_void, *mut OutcomeTold) -> i32,
    pub(crate) read_input: extern "C" fn(*mut c_void, *mut Bytes) -> i32,
    pub(crate) write_output: extern "C" fn(*mut c_void, Bytes) -> i32,
    pub(crate) write_error: extern "C" fn(*mut c_void, Bytes) -> i32,
    pub(crate) open_file: extern "C" fn(*mut c_void, Bytes, *mut u32) -> i32,
    pub(crate) read_file: extern "C" fn(*mut c_void, u32, *mut Bytes) -> i32,
    pub(crate) close_file: extern "C" fn(*mut c_void, u32),
}

#[repr(C)]
pub(crate) struct ArgumentTold {
    pub(crate) name: *const c_char,
    pub(crate) value_name: *const c_char,
    pub(crate) help: *const c_char,
    pub(crate) kind: u32,
    pub(crate) value: u32,
    pub(crate) marks: u32,
    pub(crate) short_name: u32,
}

#[repr(C)]
pub(crate) struct ExampleTold {
    pub(crate) command: *const c_char,
    pub(crate) explanation: *const c_char,
}

pub(crate) type ExecuteFunction = extern "C" fn(*const Host, *const CallTold) -> i32;
pub(crate) type SendFunction =
    extern "C" fn(*const Host, *const c_char, *const Given, usize) -> i32;

#[repr(C)]
pub(crate) struct ModuleTold {
    pub(crate) size: u32,
    pub(crate) effects: u32,
    pub(crate) name: *const c_char,
    pub(crate) version: *const c_char,
    pub(crate) summary: *const c_char,
    pub(crate) details: *const c_char,
    pub(crate) arguments: *const ArgumentTold,
    pub(crate) argument_count: usize,
    pub(crate) examples: *const ExampleTold,
    pub(crate) example_count: usize,
    pub(crate) execute: Option<ExecuteFunction>,
    pub(crate) send: Option<SendFunction>,
}

#[repr(C)]
pub(crate) struct LibraryTold {
    pub(crate) abi: u32,
    pub(crate) module_count: u32,
    pub(crate) modules: *const *const ModuleTold,
}

pub(crate) type ModulesFunction = extern "C" fn(u32) -> *const LibraryTold;
