//! Opening one connection through a server, at the client's side.

use std::time::Duration;

use bytes::Bytes;
use legatus_core::{
    Caller, ChannelReceiver, ChannelSender, Connection, ControlSender, Conversation, Fault,
    Outcome, PendingOutcome, SocketName,
};
use tokio::time::Instant;

use super::carry;
use super::messages::{Refused, output};
use super::request::What;

/// How long a connection waits until the server takes one call more: others end meanwhile.
const ROOM_WITHIN: Duration = Duration::from_secs(10);

/// How long it waits before it asks again, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(320));

/// Bytes that wait in each direction between the caller's end of a stream and its call.
const STREAM_BYTES: usize = 256 << 10;

/// A connection that the server has opened.
pub(super) struct Opened {
    pub(super) sink: ChannelSender,
    pub(super) source: ChannelReceiver,
    pub(super) outcome: PendingOutcome,
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
        outcome,
    } = caller.open(what.encode()).await.map_err(failed)?;
    let (sink, mut source) = channel.split();
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

/// Asks for a connection again while the server has no room for one call more: a call that has ended
/// here may count there for a moment still.
pub(super) async fn open_in_time(caller: &dyn Caller, what: What) -> Result<Opened, NotOpened> {
    let until = Instant::now() + ROOM_WITHIN;
    let (mut pause, longest) = PAUSES;
    loop {
        match open(caller, what.clone()).await {
            Err(not)
                if matches!(not.outcome, Outcome::Unavailable(_)) && Instant::now() < until =>
            {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(longest);
            }
            opened => return opened,
        }
    }
}

impl Opened {
    /// Waits until the call ends, of which nothing is wanted but that.
    pub(super) async fn end(self) -> Outcome {
        let _until_then = (self.sink, self.source, self._controls);
        self.outcome.wait().await
    }

    /// Carries a connection until it has ended.
    pub(super) async fn carry(self, connection: impl Connection) -> Result<(), Fault> {
        carry::drive(connection, self.sink, self.source).await
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
    tokio::spawn(opened.carry(theirs));
    Ok(ours)
}

/// A data message, for whoever has no socket.
pub(super) fn data(bytes: &[u8]) -> Bytes {
    carry::data(bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use legatus_core::testing::MemoryCaller;
    use legatus_core::{BoxFuture, Channel, Control, Module, Request};

    use super::*;

    /// A server that has no room for the first calls.
    struct Crowded {
        refusals: AtomicUsize,
        outcome: Outcome,
        server: MemoryCaller,
    }

    impl Caller for Crowded {
        fn open(&self, request: Request) -> BoxFuture<'_, Result<Conversation, Fault>> {
            let left = self.refusals.load(Ordering::Relaxed);
            if left == 0 {
                return self.server.open(request);
            }
            self.refusals.store(left - 1, Ordering::Relaxed);
            let (decide, outcome) = PendingOutcome::new();
            decide.send(self.outcome.clone()).ok();
            let conversation = Conversation {
                channel: Channel::pair(1).0,
                controls: Control::queue().0,
                outcome,
            };
            Box::pin(std::future::ready(Ok(conversation)))
        }
    }

    fn crowded(outcome: Outcome) -> Crowded {
        let module: Arc<dyn Module> = Arc::new(crate::forward::module());
        Crowded {
            refusals: AtomicUsize::new(2),
            outcome,
            server: MemoryCaller::new(module, 7),
        }
    }

    #[tokio::test]
    async fn what_is_denied_is_not_asked_for_again() {
        let server = crowded(Outcome::Denied(Fault::new("no")));
        let not = open_in_time(&server, What::Hold).await.err().unwrap();
        assert!(matches!(not.outcome, Outcome::Denied(_)));
        assert_eq!(server.refusals.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_connection_waits_until_the_server_has_room_for_it() {
        let server = crowded(Outcome::Unavailable(Fault::new("the limit is reached")));
        assert!(open_in_time(&server, What::Hold).await.is_ok());
        assert_eq!(server.refusals.load(Ordering::Relaxed), 0);
    }
}
