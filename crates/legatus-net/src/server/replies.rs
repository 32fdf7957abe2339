//! The server's side of a call's stream: the module's messages, then the outcome.

use legatus_core::wire::call_reply;
use legatus_core::{ChannelReceiver, Fault, Outcome};
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::keeping::{Guard, KeptStream};
use crate::framing::{Piece, Pieces};

/// Says what a call has to say. If its stream ends before, because the caller has reset it or its
/// connection is lost, the call is cancelled, or its client lost if it is kept.
///
/// `pending` tells the outcome, or that there is none because the call goes on without this client.
pub(super) fn stream(
    receiver: ChannelReceiver,
    pending: oneshot::Receiver<Option<Outcome>>,
    cancellation: &CancellationToken,
    kept: Option<KeptStream>,
) -> Pieces {
    let at_end = match &kept {
        None => AtEnd::Cancels(cancellation.clone().drop_guard()),
        Some(kept) => AtEnd::MayBeLost(Guard(Some(kept.clone()))),
    };
    let replying = Replying {
        receiver,
        drained: false,
        pending,
        told: None,
        finished: false,
        taken: kept,
        is_kept: false,
        _at_end: at_end,
    };
    Box::pin(futures_util::stream::unfold(
        replying,
        |mut replying| async move {
            let part = replying.next().await?;
            Some((Ok(Piece::from(part)), replying))
        },
    ))
}

struct Replying {
    receiver: ChannelReceiver,
    drained: bool,
    pending: oneshot::Receiver<Option<Outcome>>,
    told: Option<Option<Outcome>>,
    finished: bool,
    /// Tells how far the client's messages have come, if the call is kept; first of all whether it
    /// is.
    taken: Option<KeptStream>,
    is_kept: bool,
    _at_end: AtEnd,
}

/// What the end of a call's stream means, unless the call has ended before.
enum AtEnd {
    Cancels(#[expect(dead_code, reason = "acts when dropped")] DropGuard),
    MayBeLost(#[expect(dead_code, reason = "acts when dropped")] Guard),
}

impl Replying {
    async fn next(&mut self) -> Option<call_reply::Part> {
        while !self.drained || self.told.is_none() {
            // Nothing is sent before the client knows where that belongs.
            let knows = self.is_kept || self.taken.is_none() || self.told.is_some();
            tokio::select! {
                biased;
                taken = next_taken(&mut self.taken) => match taken {
                    Some(taken) => {
                        self.is_kept = true;
                        return Some(taken);
                    }
                    None => self.taken = None,
                },
                message = self.receiver.receive(), if !self.drained && knows => match message {
                    Some(message) => {
                        return Some(call_reply::Part::Message(message));
                    }
                    None => self.drained = true,
                },
                told = &mut self.pending, if self.told.is_none() => {
                    let vanished = |_| Some(Outcome::Lost(Fault::new("the server lost the call")));
                    self.told = Some(told.unwrap_or_else(vanished));
                    // A Commander may leave someone behind who still holds its channel: nothing
                    // more is waited for, but what was sent before the outcome is passed on.
                    self.receiver.close();
                }
            }
        }
        let told = self.told.take().filter(|_| !self.finished)?;
        self.finished = true;
        // Keeps the loop above from waiting if the stream is asked once more.
        self.told = Some(None);
        told.map(|outcome| call_reply::Part::Outcome(outcome.into()))
    }
}

/// What is to be told next of the client's messages, waiting for ever where nothing ever is.
async fn next_taken(kept: &mut Option<KeptStream>) -> Option<call_reply::Part> {
    match kept {
        Some(kept) => kept.taken().await,
        None => std::future::pending().await,
    }
}
