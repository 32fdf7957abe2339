//! The functions of `wit/v1/module.wit` that a host offers.

use super::records::{Opened, OpenedFile, OutcomeTold, Read, Received, Sent, Slice, Wrote};

#[link(wasm_import_module = "legatus:module/channel@1.0.0")]
unsafe extern "C" {
    pub(super) fn receive(received: *mut Received);
    pub(super) fn send(data: *const u8, length: usize, sent: *mut Sent);
    pub(super) fn finish();
}

#[link(wasm_import_module = "legatus:module/host@1.0.0")]
unsafe extern "C" {
    pub(super) fn log(level: u32, data: *const u8, length: usize);
    pub(super) fn wait(has_time: u32, milliseconds: u64) -> u32;
}

#[link(wasm_import_module = "legatus:module/caller@1.0.0")]
unsafe extern "C" {
    pub(super) fn open(arguments: *const Slice, count: usize, opened: *mut Opened);
    #[link_name = "wait-outcome"]
    pub(super) fn wait_outcome(outcome: *mut OutcomeTold);
}

#[link(wasm_import_module = "legatus:module/local@1.0.0")]
unsafe extern "C" {
    #[link_name = "read-input"]
    pub(super) fn read_input(read: *mut Read);
    #[link_name = "write-output"]
    pub(super) fn write_output(data: *const u8, length: usize, wrote: *mut Wrote);
    #[link_name = "write-error"]
    pub(super) fn write_error(data: *const u8, length: usize, wrote: *mut Wrote);
    #[link_name = "open-file"]
    pub(super) fn open_file(data: *const u8, length: usize, opened: *mut OpenedFile);
    #[link_name = "read-file"]
    pub(super) fn read_file(file: u32, read: *mut Read);
    #[link_name = "close-file"]
    pub(super) fn close_file(file: u32);
}
