//! The invariants that ARCHITECTURE.md lists, and what the documents promise, checked against the
//! repository itself.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod code;
mod crates;
mod documents;
mod repository;
