//! WebAssembly modules: one engine, one store for each call, and no store without limits.

mod bindings;
mod command;
mod component;
mod conversions;
mod denials;
mod describing;
mod engine;
mod failures;
mod functions;
mod prepared;
mod state;
mod surroundings;

pub(crate) use component::{WasmModule, World};
pub(crate) use engine::Engines;
