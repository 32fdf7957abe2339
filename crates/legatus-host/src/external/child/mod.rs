//! Native modules run in a process of their own, the module host: a child of this program that
//! gives up what it does not need, and then becomes an executable or loads a library.

mod conversation;
mod endings;
mod functions;
#[cfg(feature = "wasm")]
mod guest;
mod host;
mod inside;
mod link;
mod native;
pub(crate) mod native_types;
mod process;
pub(crate) mod protocol;
mod sandbox;

pub(crate) use host::ChildModule;
pub use inside::module_host_main;
pub(crate) use process::{ChildSettings, Form};
