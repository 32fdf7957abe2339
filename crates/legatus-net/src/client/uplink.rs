//! What a client sends of a kept call: its half's messages, until the other side has taken them, and
//! acknowledgements of the other half's.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use legatus_core::wire::{Empty, Open, call_request::Part};
use legatus_core::{ChannelReceiver, limits};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::framing::{Piece, Pieces};

/// Messages are acknowledged after so many bytes or messages: often enough for the other side to
/// forget them in time, and seldom enough to cost nothing.
const ACKNOWLEDGE_BYTES: usize = 2 * limits::CHUNK_BYTES;
const ACKNOWLEDGE_MESSAGES: u64 = 128;

/// What one kept call sends, over all its connections.
#[derive(Debug)]
pub(super) struct Uplink {
    source: tokio::sync::Mutex<ChannelReceiver>,
    state: Mutex<State>,
    changes: watch::Sender<u64>,
    /// Fires when the conversation was dropped.
    dropped: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    /// The number of the oldest message that was not taken.
    first: u64,
    untaken: VecDeque<Bytes>,
    untaken_bytes: usize,
    /// The half has no more messages.
    ended: bool,
    /// The other half's messages, and what has come since they were acknowledged.
    received: u64,
    acknowledged: u64,
    unacknowledged_bytes: usize,
    /// The outcome has arrived.
    fetched: bool,
    /// Whether the other side has said on this connection what it has taken.
    knows: bool,
}

/// How far one connection has come.
struct Cursor {
    place: u64,
    /// Whether the other side has said where to begin.
    knows_place: bool,
    told_end: bool,
    told_fetched: bool,
    changes: watch::Receiver<u64>,
    stop: CancellationToken,
}

impl Uplink {
    pub(super) fn new(source: ChannelReceiver, dropped: CancellationToken) -> Self {
        Self {
            dropped,
            source: tokio::sync::Mutex::new(source),
            state: Mutex::default(),
            changes: watch::Sender::new(0),
        }
    }

    /// What goes over one connection: `open`, then what the other side lacks. Of a call that is not
    /// new nothing is sent before the other side has said what it has.
    pub(super) fn requests(
        self: &Arc<Self>,
        open: Open,
        is_new: bool,
        stop: CancellationToken,
    ) -> Pieces {
        let cursor = Cursor {
            place: 0,
            knows_place: is_new,
            told_end: false,
            told_fetched: false,
            changes: self.changes.subscribe(),
            stop,
        };
        if !is_new {
            self.state().untold();
        }
        let uplink = Arc::clone(self);
        let first = stream::iter([Ok(Piece::from(Part::Open(open)))]);
        let rest = stream::unfold((uplink, cursor), move |(uplink, mut cursor)| async move {
            let part = uplink.next(&mut cursor).await?;
            Some((Ok(Piece::from(part)), (uplink, cursor)))
        });
        Box::pin(first.chain(rest))
    }

    /// One of the other half's messages has come.
    pub(super) fn received(&self, bytes: usize) {
        let due = {
            let mut state = self.state();
            state.received += 1;
            state.unacknowledged_bytes += bytes;
            state.acknowledgement_is_due()
        };
        if due {
            self.changed();
        }
    }

    /// The other half's messages begin with this one.
    pub(super) fn starts_at(&self, next: u64) {
        let mut state = self.state();
        state.received = state.received.max(next);
    }

    /// The other side has taken so many messages; false if it cannot have.
    pub(super) fn taken(&self, count: u64) -> bool {
        let possible = self.state().taken(count);
        self.changed();
        possible
    }

    /// The outcome has arrived.
    pub(super) fn fetched(&self) {
        self.state().fetched = true;
        self.changed();
    }

    async fn next(&self, cursor: &mut Cursor) -> Option<Part> {
        loop {
            cursor.changes.borrow_and_update();
            let (part, may_take_more) = {
                let mut state = self.state();
                (state.next(cursor), state.may_take_more())
            };
            match part {
                Poll::Ready(part) => return part,
                Poll::Pending => {}
            }
            let more = async {
                if !(may_take_more && cursor.knows_place) {
                    return std::future::pending().await;
                }
                self.source.lock().await.receive().await
            };
            tokio::select! {
                biased;
                () = cursor.stop.cancelled() => return None,
                changed = cursor.changes.changed() => changed.ok()?,
                message = more => match message {
                    // What was said is not all there is: the goodbye tells what becomes of it.
                    None if self.dropped.is_cancelled() => return None,
                    message => self.state().push(message),
                },
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

impl State {
    /// What is to be sent next; `None` when nothing more is.
    fn next(&mut self, cursor: &mut Cursor) -> Poll<Option<Part>> {
        if self.fetched {
            if cursor.told_fetched {
                return Poll::Ready(None);
            }
            cursor.told_fetched = true;
            return Poll::Ready(Some(Part::Fetched(Empty {})));
        }
        if self.acknowledgement_is_due() {
            self.acknowledged = self.received;
            self.unacknowledged_bytes = 0;
            return Poll::Ready(Some(Part::Received(self.received)));
        }
        // On a new connection the first thing heard tells what was taken.
        cursor.knows_place |= self.knows;
        if !cursor.knows_place {
            return Poll::Pending;
        }
        cursor.place = cursor.place.max(self.first);
        let index = usize::try_from(cursor.place - self.first).unwrap_or(usize::MAX);
        if let Some(message) = self.untaken.get(index) {
            cursor.place += 1;
            return Poll::Ready(Some(Part::Message(message.clone())));
        }
        if self.ended && !cursor.told_end {
            cursor.told_end = true;
            return Poll::Ready(Some(Part::End(Empty {})));
        }
        Poll::Pending
    }

    fn acknowledgement_is_due(&self) -> bool {
        self.unacknowledged_bytes >= ACKNOWLEDGE_BYTES
            || self.received >= self.acknowledged + ACKNOWLEDGE_MESSAGES
    }

    fn may_take_more(&self) -> bool {
        !self.ended && self.untaken_bytes < limits::UNTAKEN_BYTES
    }

    fn push(&mut self, message: Option<Bytes>) {
        match message {
            Some(message) => {
                self.untaken_bytes += message.len() + limits::KEPT_MESSAGE_BYTES;
                self.untaken.push_back(message);
            }
            None => self.ended = true,
        }
    }

    fn taken(&mut self, count: u64) -> bool {
        self.knows = true;
        while self.first < count {
            let Some(message) = self.untaken.pop_front() else {
                return false;
            };
            self.untaken_bytes -= message.len() + limits::KEPT_MESSAGE_BYTES;
            self.first += 1;
        }
        // Fewer than before would mean that some were forgotten there.
        count == self.first
    }

    fn untold(&mut self) {
        self.knows = false;
    }
}

#[cfg(test)]
mod tests {
    use legatus_core::{Channel, PendingOutcome};

    use super::*;

    /// What is sent of a half that has said something and is dropped then, two parts at most.
    async fn sent(outcome_is_dropped_first: bool) -> [Option<Part>; 2] {
        let (ours, theirs) = Channel::pair(100);
        let (_decide, outcome) = PendingOutcome::new();
        let uplink = Uplink::new(theirs.split().1, outcome.dropped());
        let (sink, _source) = ours.split();
        sink.send(Bytes::from_static(b"half")).await.unwrap();
        let _outcome = Some(outcome).filter(|_| !outcome_is_dropped_first);
        drop(sink);
        let mut cursor = Cursor {
            place: 0,
            knows_place: true,
            told_end: false,
            told_fetched: false,
            changes: uplink.changes.subscribe(),
            stop: CancellationToken::new(),
        };
        [
            uplink.next(&mut cursor).await,
            uplink.next(&mut cursor).await,
        ]
    }

    #[tokio::test]
    async fn the_end_of_a_half_is_told() {
        let message = Part::Message(Bytes::from_static(b"half"));
        assert_eq!(
            sent(false).await,
            [Some(message), Some(Part::End(Empty {}))]
        );
    }

    #[tokio::test]
    async fn a_conversation_that_is_dropped_is_not_the_end_of_its_messages() {
        let message = Part::Message(Bytes::from_static(b"half"));
        assert_eq!(sent(true).await, [Some(message), None]);
    }
}
