//! External modules: found in folders, sandboxed or isolated, changeable while the program runs.
//!
//! A [`Catalogue`] looks through folders for modules, compiles and describes what it finds into a
//! cache that only this program writes, and makes a registry of what can be used. WebAssembly runs
//! inside this process, in a store with a deadline and a limit of memory; native code runs in a
//! child process of its own ([`module_host_main`]). The contract has four spellings: the traits of
//! `legatus-core`, `wit/`, `include/legatus_module.h`, and the frames of `child::protocol`.

mod artefact;
mod asks;
mod catalogue;
pub(crate) mod child;
mod description;
mod discovery;
mod errands;
mod fault;
mod generic;
mod granting;
mod grants;
mod halves;
mod install;
mod listing;
mod loading;
mod log;
mod manifest;
mod module;
mod runner;
mod runtime;
mod signature;
mod store;
#[cfg(test)]
mod tests;
mod usage;
#[cfg(feature = "wasm")]
mod wasm;

pub use catalogue::{Catalogue, CatalogueError, CatalogueSettings, Listed, State};
pub use child::module_host_main;
pub use description::spec_from_wire;
pub use errands::ToldModule;
pub use generic::Remote;
pub use grants::Grants;
pub use halves::{CLIENT_HALVES, ClientHalves};
pub use install::{INSTALL_MODULE, InstallModule, Parcel, ParcelFile, files_to_install};
pub use listing::{LIST_MODULES, ListModules};
pub use manifest::{Limits, MANIFEST, ModuleKind};
pub use signature::{SignatureError, new_key, public_key, sign, verify};
pub use store::{CacheError, SHA256_DIGITS, digest as sha256};
pub use usage::{USAGE, USAGE_PREFIX};
