//! Opening one connection through a server, at the client's side.

use std::time::Duration;

use bytes::Bytes;
use legatus_core::{
    Caller, ChannelReceiver, ChannelSender, Connection, ControlSender, Conversation, Fault,
    Outcome, PendingOutcome, SocketName,
};

use super::carry;
use super::messages::{Refused, output};
use super::request::What;

/// Bytes that wait in each direction between the caller's end of a stream and its call.
const STREAM_BYTES: usize = 256 << 10;

/// How long a stream goes on that its user has left: what was said last leaves at once, and whoever is behind
/// may never say anything again.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// A connection that the server has opened.
pub(super) struct Opened {
    pub(super) outcome: PendingOutcome,
    pub(super) sink: ChannelSender,
    pub(super) source: ChannelReceiver,
    /// As long as it lives, so does the call.
    _controls: ControlSender,
}

/// A connection that the server has not opened.
pub(super) struct NotOpened {
    /// The server's word for machines, if it was the socket that failed.
    pub(super) refused: Option<Refused>,
    /// How the call ended.
    pub(super) outcome: Outcome,
}

/// Asks for a connection, and waits until it is there.
pub(super) async fn open(caller: &dyn Caller, what: What) -> Result<Opened, NotOpened> {
    let failed = |fault| NotOpened {
        refused: None,
        outcome: Outcome::Failed(fault),
    };
    let Conversation {
        channel,
        controls,
        outcome: pending,
    } = caller.open(what.encode()).await.map_err(failed)?;
    let (sink, mut source) = channel.split();
    let outcome = pending; // goes before the sink does
    let mut refused = None;
    while let Some(message) = source.receive().await {
        match carry::decode(message).map_err(failed)? {
            Some(output::Part::Opened(_)) => {
                return Ok(Opened {
                    sink,
                    source,
                    outcome,
                    _controls: controls,
                });
            }
            Some(output::Part::Refused(told)) => refused = Some(told),
            _ => {}
        }
    }
    Err(NotOpened {
        refused,
        outcome: outcome.wait().await,
    })
}

impl Opened {
    /// Waits until the call ends, of which nothing is wanted but that.
    pub(super) async fn end(self) -> Outcome {
        let _until_then = (self.sink, self.source, self._controls);
        self.outcome.wait().await
    }

    /// Carries a connection until it has ended; for no longer than `patience` after it has said all.
    pub(super) async fn carry(
        self,
        connection: impl Connection,
        patience: Option<Duration>,
    ) -> Result<(), Fault> {
        carry::drive(connection, self.sink, self.source, self.outcome, patience).await
    }
}

/// A stream to a socket that the server reaches, for calls through it to a server behind.
///
/// # Errors
/// What the server says to it, as the outcome of a call.
pub async fn dial(caller: &dyn Caller, to: SocketName) -> Result<impl Connection + use<>, Outcome> {
    let opened = open(caller, What::Connect(to)).await;
    let opened = opened.map_err(|not| not.outcome)?;
    let (ours, theirs) = tokio::io::duplex(STREAM_BYTES);
    tokio::spawn(opened.carry(theirs, Some(LAST_WORDS)));
    Ok(ours)
}

/// A data message, for whoever has no socket.
pub(super) fn data(bytes: &[u8]) -> Bytes {
    carry::data(bytes)
}
