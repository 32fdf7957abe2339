//! The module contract and the wire vocabulary of Legatus.
//!
//! Whoever writes a module needs only this crate: [`Module`] with its [`Spec`] and its two halves,
//! [`Commander`] (on the server) and [`Sender`] (in the client), which talk through a [`Channel`].
//! It opens no socket, file or process.

mod arguments;
mod buffers;
mod call;
mod channel;
mod control;
mod execution;
mod fault;
mod host;
pub mod limits;
mod local;
mod module;
mod outcome;
mod peer;
mod policy;
mod processes;
mod registry;
mod server;
mod session;
mod settings;
mod socket;
mod spec;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod wire;

pub use arguments::{ArgumentError, Arguments};
pub use buffers::{BufferPool, PooledBuffer, PooledMemory};
pub use call::{Account, Call, CallId, InvalidCallId, Request};
pub use channel::{Channel, ChannelClosed, ChannelReceiver, ChannelSender, Traffic};
pub use control::{Control, ControlReceiver, ControlSender, TerminalSize};
pub use execution::{Abort, Execution};
pub use fault::Fault;
pub use host::{DEFAULT_PORT, Host, InvalidHost, Location};
pub use local::{Input, Local, Output, Progress, Stream, Terminal, UserSignal};
pub use module::{
    BoxFuture, Caller, Commander, Conversation, Inspection, Link, Module, Origin, PendingOutcome,
    Reconnection, Sender,
};
pub use outcome::Outcome;
pub use peer::Peer;
pub use policy::{Decision, Denied, Misnamed, Pattern, Permit, Policy, Rule};
pub use processes::ProcessGroup;
pub use registry::{Registry, RegistryError, UnknownModule};
pub use server::{ServerAccess, ServerControl, ServerFacts};
pub use session::{
    Attach, FETCHED, Keeping, Kept, Persistence, SessionInfo, Sessions, Taken, is_fetched,
};
pub use settings::{Settings, line_of};
pub use socket::{Connection, Listener, SocketName};
pub use spec::{
    Alias, Argument, ArgumentKind, Effect, Effects, Example, Placement, Spec, Target, Text,
    ValueKind,
};

/// The example of the document is compiled and run with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/adding-a-module.md")]
mod adding_a_module {}
