//! The invariants that ARCHITECTURE.md lists, and what the documents promise, checked against the
//! repository itself.

mod code;
mod crates;
mod documents;
mod repository;
