//! Kept calls as the server sees them: one client's stream, whose loss is not the call's end.

use std::sync::Arc;
use std::time::Duration;

use legatus_core::wire::{self, Open, call_reply};
use legatus_core::{Attach, FETCHED, Kept, Persistence, Taken, is_fetched};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::connection::Connection;

/// How long after a stream its connection may end, so that the client counts as lost. A stream that
/// ends while its connection lives on was reset, which is a goodbye.
const CONNECTION_ENDS_WITHIN: Duration = Duration::from_secs(1);

/// One client's stream of a kept call.
#[derive(Clone, Debug)]
pub(super) struct KeptStream {
    received: watch::Sender<u64>,
    taken: watch::Receiver<Option<Taken>>,
    cancellation: CancellationToken,
    connection: Arc<Connection>,
    /// Fires when the client is lost without goodbye.
    pub(super) lost: CancellationToken,
    /// Whether the call goes on although this client has gone.
    pub(super) kept: Kept,
}

impl KeptStream {
    /// What a client asks for, if it is to be kept; what the call needs of that comes with it.
    pub(super) fn new(
        open: &mut Open,
        connection: &Arc<Connection>,
        cancellation: &CancellationToken,
    ) -> Option<(Self, Persistence)> {
        let attach = open.attach.take().map(Attach::from);
        let keeping = open
            .keeping
            .take()
            .filter(|keeping| keeping.linger_milliseconds > 0);
        if attach.is_none() && keeping.is_none() {
            return None;
        }
        let (received, acknowledged) = watch::channel(0);
        let (told, taken) = watch::channel(None);
        let stream = Self {
            received,
            taken,
            cancellation: cancellation.clone(),
            connection: Arc::clone(connection),
            lost: CancellationToken::new(),
            kept: Kept::default(),
        };
        let persistence = Persistence {
            keeping: keeping.map(Into::into).unwrap_or_default(),
            attach,
            summary: String::new(),
            received: acknowledged,
            taken: told,
            lost: stream.lost.clone(),
            kept: stream.kept.clone(),
            others: false,
        };
        Some((stream, persistence))
    }

    /// The client has acknowledged so many messages.
    pub(super) fn received(&self, count: u64) {
        self.received.send_replace(count);
    }

    /// The client has got the outcome.
    pub(super) fn fetched(&self) {
        self.received(FETCHED);
    }

    /// Waits until the client has got the outcome, or cannot say so any more, or not in time; whether
    /// it has.
    pub(super) fn until_fetched(self) -> impl Future<Output = bool> {
        let received = self.received.subscribe();
        drop(self);
        is_fetched(received)
    }

    /// What the client is to be told next of its messages; `None` if the call is not kept.
    pub(super) async fn taken(&mut self) -> Option<call_reply::Part> {
        self.taken.changed().await.ok()?;
        let taken = (*self.taken.borrow_and_update())?;
        Some(call_reply::Part::Taken(wire::Taken {
            messages: taken.messages,
            next: taken.next,
        }))
    }

    /// The stream has ended before the call: finds out whether that is a goodbye.
    async fn gone(self) {
        let closed = self.connection.closed.cancelled();
        match tokio::time::timeout(CONNECTION_ENDS_WITHIN, closed).await {
            Ok(()) => self.lost.cancel(),
            Err(_) => self.cancellation.cancel(),
        }
    }
}

/// Notices the end of a client's stream.
#[derive(Debug)]
pub(super) struct Guard(pub(super) Option<KeptStream>);

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(stream) = self.0.take() else {
            return;
        };
        // Without a runtime the server is ending, and its holders see that.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(stream.gone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> KeptStream {
        let address = (std::net::Ipv4Addr::LOCALHOST, 1).into();
        let peer = legatus_core::Peer::assert_verified("ann");
        let connection = Arc::new(Connection::new(peer, address));
        let mut open = Open {
            keeping: Some(wire::Keeping {
                linger_milliseconds: 1000,
                ..wire::Keeping::default()
            }),
            ..Open::default()
        };
        let made = KeptStream::new(&mut open, &connection, &CancellationToken::new());
        made.expect("it asks to be kept").0
    }

    #[tokio::test]
    async fn whoever_waits_for_an_outcome_to_arrive_is_told_of_it() {
        let client = kept();
        let fetched = client.clone().until_fetched();
        client.received(7);
        client.fetched();
        assert!(fetched.await);
    }

    #[tokio::test]
    async fn whoever_waits_for_an_outcome_to_arrive_does_not_wait_for_a_client_that_has_gone() {
        let client = kept();
        let fetched = client.clone().until_fetched();
        drop(client);
        assert!(!fetched.await);
    }
}
