//! Runs Commanders in child processes ("holders") of the same executable, behind the Channel.
//!
//! The server relays; whatever touches files or processes runs in a holder, which takes the
//! caller's user before it does anything. [`isolate_all`] is the server's side, [`holder_main`] the
//! child's. Two Unix sockets join them: one for data, one for controls, so that a control never
//! waits behind data. Large messages pass through shared memory
//! (`docs/decisions/0002-bulk-data-between-server-and-holder.md`).

mod cgroup;
mod child;
mod descriptors;
pub mod external;
mod fork_server;
mod frame;
mod holder;
mod isolated;
mod launcher;
mod messages;
mod pump;
mod relay;
mod sealing;
mod session;
mod sessions;
mod slab;
mod user;

pub use fork_server::{Newborn, serve as fork_on_request};
pub use holder::holder_main;
pub use isolated::{isolate, isolate_all};
pub use launcher::{DEFAULT_INLINE_BYTES, Forking, Launcher};
pub use sessions::SessionFolder;
pub use user::{User, UserError, UserLimits, Users};
