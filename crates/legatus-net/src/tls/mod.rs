//! Mutual TLS 1.3: who may talk to whom, with which certificates.
//!
//! [`ServerTls`] and [`ClientTls`] hold certificates, keys and trusted authorities and follow
//! changes of their files; [`accept`] and [`connect`] make the handshakes; [`explain()`] tells a
//! person what went wrong in one.
//!
//! There is no resumption of sessions: a resumed one would skip the verification of certificates.

mod client;
mod error;
mod explain;
mod handshake;
mod identity;
mod incoming;
mod keys;
mod outgoing;
mod provider;
mod record;
mod role;
mod server;
mod source;
mod stream;
#[cfg(test)]
mod tests;
mod watch;

pub use client::ClientTls;
pub use error::TlsError;
pub use explain::{Rejection, TlsProblem, explain};
pub use handshake::{accept, connect, server_name};
pub use identity::{IdentityError, MAX_IDENTITY, peer_from_certificates};
pub(crate) use identity::{check_identity, identity_of};
pub use role::Role;
pub use server::ServerTls;
pub use source::{Origin, PairSource, PemSource, RootSource};
pub use stream::TlsStream;
