//! Starts processes of this program by forking one that is ready. To execute a program means to
//! load it, to relocate it and to build up its tables, for each call anew; a copy of a process that
//! has done all that takes a tenth of the time, and shares its memory
//! (`docs/decisions/0009-processes-from-a-fork-server.md`).
//!
//! [`ForkServer`] is the asking side; [`serve`] is the loop in the process that is forked, which has
//! a single thread and holds nothing of any call. They talk over a socket pair: a byte that says
//! whether the process goes into a control group, along with the descriptors that the process gets,
//! is answered with its id. The new process is a child of whoever asked (`CLONE_PARENT`), which
//! waits for it as for any other child.

mod forked;
mod inside;
mod outside;

pub(crate) use forked::Forked;
pub(crate) use inside::set_environment;
pub use inside::{Newborn, serve};
pub(crate) use outside::{ForkServer, Program};

/// A request: the descriptors that came along are the process's own.
const PLAIN: u8 = 0;

/// A request: the last of the descriptors is the control group that the process is born in.
const IN_GROUP: u8 = 1;

/// Bytes of an answer: the process id, or the negated error number, in the byte order of the
/// machine.
const ANSWER_BYTES: usize = 4;
