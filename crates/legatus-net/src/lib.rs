//! TLS, PKI, the wire in motion, server, client, policy files and audit of Legatus.

mod audit;
mod client;
mod framing;
mod io;
pub mod pki;
mod policy_file;
mod server;
pub mod tls;

pub use audit::{Audit, AuditError};
pub use client::{Client, ClientOptions, ConnectError, Endpoint, ModuleCaller, Way};
pub use policy_file::{PolicyFileError, parse_policy};
pub use server::{Restart, Server, ServerHandle, ServerLimits, ServerOptions};

/// The generated gRPC service; its messages are those of [`legatus_core::wire`].
mod service {
    #![expect(
        unused_qualifications,
        unreachable_pub,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        reason = "generated"
    )]
    tonic::include_proto!("legatus.v1");
}

/// All schemas of the wire, for gRPC reflection.
const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Windows and frames of HTTP/2, at both ends.
mod http2 {
    use std::time::Duration;

    /// Bytes of one call that may be on their way to a reader that does not read. It is credit; memory
    /// is taken only by what has come and was not read.
    ///
    /// 1 Gbit/s over 100 ms have 12.5 MB on their way, and h2 gives new credit by the third: two thirds
    /// of the window are always on their way.
    ///
    /// It holds 84 whole data messages with what surrounds them: a message that only fits in part
    /// would travel in two frames, and be put together by copying.
    pub(crate) const STREAM_WINDOW: u32 = (21 << 20) + 84 * 64;

    /// Bytes of one HTTP/2 data frame, at most: a data message fits into one frame, and nothing
    /// has to be put together again.
    pub(crate) const FRAME_BYTES: u32 = 1 << 20;

    /// Bytes that wait in one stream to be sent.
    pub(crate) const SEND_BUFFER: usize = 1 << 20;

    /// A peer that says nothing is asked so often whether it is there...
    pub(crate) const PING_INTERVAL: Duration = Duration::from_secs(15);

    /// ...and the connection is dead if the other end's kernel acknowledges nothing of what was sent, a ping at
    /// least, or takes nothing, for so long (`TCP_USER_TIMEOUT` of tcp(7)). What is under way on a slow line is
    /// acknowledged bit by bit, however long the answer takes.
    pub(crate) const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(15);

    /// A client asks its server more often, for people wait for it: a dead connection is noticed
    /// within ten seconds, or within about a minute if it is that of a host behind another.
    pub(crate) const CLIENT_PING_INTERVAL: Duration = Duration::from_secs(4);

    /// How long the server's kernel may acknowledge nothing.
    pub(crate) const CLIENT_ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(6);

    /// A peer whose kernel is there, but who answers no ping for so long, is dead, too. An answer waits behind
    /// what the line has taken before: 4 MiB in the buffers of a socket and of a router take 34 seconds at 1 Mbit/s.
    pub(crate) const PING_TIMEOUT: Duration = Duration::from_secs(60);

    /// The connection's window: more than all its streams can pin, so that one stuck call never
    /// stops another.
    pub(crate) fn connection_window(streams: u32) -> u32 {
        let window = u64::from(STREAM_WINDOW) * (u64::from(streams) + 1);
        // 2^31-1 is the largest window of RFC 9113, 6.9.1: of the 96 calls that a connection may have.
        u32::try_from(window.min((1 << 31) - 1)).unwrap_or(u32::MAX >> 1)
    }
}
