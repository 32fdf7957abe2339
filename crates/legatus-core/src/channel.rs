//! The bounded two-way message stream between a Sender and a Commander.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::{BufferPool, limits};

/// One half's end of the message stream to the other half. Neither half sees a socket.
///
/// Messages arrive whole and in order. Whoever sends faster than the other half receives, waits:
/// nothing is kept in memory beyond the channel's capacity.
#[derive(Debug)]
pub struct Channel {
    sender: ChannelSender,
    receiver: ChannelReceiver,
}

/// Bytes of messages that have gone through a channel, as seen from one end.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
}

impl Traffic {
    /// Bytes of the messages that this end has sent.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes of the messages that the other end has sent.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// The end that sends messages. Dropping the last one tells the other half that no more will come.
#[derive(Clone, Debug)]
pub struct ChannelSender {
    messages: mpsc::Sender<Queued>,
    room: Arc<Semaphore>,
    capacity: usize,
    bytes: Arc<AtomicU64>,
    buffers: Option<Arc<dyn BufferPool>>,
}

/// The end that receives messages.
#[derive(Debug)]
pub struct ChannelReceiver {
    messages: mpsc::Receiver<Queued>,
    bytes: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Queued {
    message: Bytes,
    _room: OwnedSemaphorePermit,
}

/// A message could not be sent.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ChannelClosed {
    /// The other half no longer receives.
    #[error("the other half has gone")]
    Gone,
    /// The message is longer than [`limits::MESSAGE_BYTES`].
    #[error("a message of {0} bytes is longer than the limit of {limit}", limit = limits::MESSAGE_BYTES)]
    TooLong(usize),
}

impl Channel {
    /// Two ends that are connected to each other, each direction holding at most `capacity` bytes
    /// (one message more if a single one is longer).
    pub fn pair(capacity: usize) -> (Self, Self) {
        let (left_tx, right_rx) = direction(capacity);
        let (right_tx, left_rx) = direction(capacity);
        (
            Self::from_parts(left_tx, left_rx),
            Self::from_parts(right_tx, right_rx),
        )
    }

    /// A channel made of a sending and a receiving end.
    pub fn from_parts(sender: ChannelSender, receiver: ChannelReceiver) -> Self {
        Self { sender, receiver }
    }

    /// The same, with buffers in which messages to send are best made, if there are any.
    #[must_use]
    pub fn with_buffers(mut self, buffers: Option<Arc<dyn BufferPool>>) -> Self {
        self.sender.buffers = buffers;
        self
    }

    /// Buffers in which long messages to send are best made, if there are any: those are not copied.
    pub fn buffers(&self) -> Option<Arc<dyn BufferPool>> {
        self.sender.buffers.clone()
    }

    /// Sends one message, waiting for room.
    ///
    /// # Errors
    /// When the other half has gone, or the message is longer than [`limits::MESSAGE_BYTES`].
    pub async fn send(&self, message: Bytes) -> Result<(), ChannelClosed> {
        self.sender.send(message).await
    }

    /// The next message; `None` when the other half will send no more.
    pub async fn receive(&mut self) -> Option<Bytes> {
        self.receiver.receive().await
    }

    /// Counts what goes through the channel, also after it was split.
    pub fn traffic(&self) -> Traffic {
        Traffic {
            sent: Arc::clone(&self.sender.bytes),
            received: Arc::clone(&self.receiver.bytes),
        }
    }

    /// The two ends apart, for halves that send and receive at the same time.
    pub fn split(self) -> (ChannelSender, ChannelReceiver) {
        (self.sender, self.receiver)
    }
}

/// One direction of a channel that holds at most `capacity` bytes.
fn direction(capacity: usize) -> (ChannelSender, ChannelReceiver) {
    let capacity = capacity.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
    let (tx, rx) = mpsc::channel(limits::CHANNEL_MESSAGES);
    let bytes = Arc::<AtomicU64>::default();
    let sender = ChannelSender {
        bytes: Arc::clone(&bytes),
        messages: tx,
        room: Arc::new(Semaphore::new(capacity)),
        capacity,
        buffers: None,
    };
    let receiver = ChannelReceiver {
        messages: rx,
        bytes,
    };
    (sender, receiver)
}

impl ChannelSender {
    /// Sends one message, waiting for room. Cancel safe: a message is sent whole or not at all.
    ///
    /// # Errors
    /// When the other half has gone, or the message is longer than [`limits::MESSAGE_BYTES`].
    pub async fn send(&self, message: Bytes) -> Result<(), ChannelClosed> {
        if message.len() > limits::MESSAGE_BYTES {
            return Err(ChannelClosed::TooLong(message.len()));
        }
        // A message longer than the capacity takes all of it, so that it passes alone.
        let wanted = message.len().clamp(1, self.capacity);
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        let room = tokio::select! {
            room = Arc::clone(&self.room).acquire_many_owned(wanted) => room,
            () = self.messages.closed() => return Err(ChannelClosed::Gone),
        };
        let length = message.len() as u64;
        let queued = Queued {
            message,
            _room: room.map_err(|_| ChannelClosed::Gone)?,
        };
        let place = self.messages.reserve().await;
        let place = place.map_err(|_| ChannelClosed::Gone)?;
        // Before the other half can see the message.
        self.bytes.fetch_add(length, Ordering::Relaxed);
        place.send(queued);
        Ok(())
    }

    /// Waits until the other half no longer receives.
    pub async fn closed(&self) {
        self.messages.closed().await;
    }
}

impl ChannelReceiver {
    /// The next message; `None` when the other half will send no more. Cancel safe.
    pub async fn receive(&mut self) -> Option<Bytes> {
        self.messages.recv().await.map(|queued| queued.message)
    }

    /// The next message if one is waiting already.
    pub fn try_receive(&mut self) -> Option<Bytes> {
        self.messages.try_recv().ok().map(|queued| queued.message)
    }

    /// Takes no more messages: sending fails from now on. Those that wait can still be received.
    pub fn close(&mut self) {
        self.messages.close();
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::yield_now;

    use super::*;

    #[tokio::test]
    async fn a_message_that_is_too_long_is_refused_and_the_channel_goes_on() {
        let (left, mut right) = Channel::pair(8);
        let long = Bytes::from(vec![0; limits::MESSAGE_BYTES + 1]);
        assert_eq!(
            left.send(long).await,
            Err(ChannelClosed::TooLong(limits::MESSAGE_BYTES + 1))
        );
        left.send(Bytes::from_static(b"short")).await.unwrap();
        assert_eq!(right.receive().await.unwrap(), "short");
    }

    #[tokio::test]
    async fn sending_to_a_half_that_has_gone_is_an_error_even_when_waiting_for_room() {
        let (left, right) = Channel::pair(2);
        left.send(Bytes::from_static(b"ab")).await.unwrap();
        let waiting = tokio::spawn(async move { left.send(Bytes::from_static(b"cd")).await });
        yield_now().await;
        drop(right);
        assert_eq!(waiting.await.unwrap(), Err(ChannelClosed::Gone));
    }

    #[tokio::test]
    async fn a_writer_waits_until_the_reader_makes_room() {
        let (left, mut right) = Channel::pair(3);
        left.send(Bytes::from_static(b"abc")).await.unwrap();
        let waiting = tokio::spawn(async move { left.send(Bytes::from_static(b"d")).await });
        yield_now().await;
        assert!(!waiting.is_finished());
        assert_eq!(right.receive().await.unwrap(), "abc");
        waiting.await.unwrap().unwrap();
        assert_eq!(right.receive().await.unwrap(), "d");
        assert_eq!(right.receive().await, None);
    }

    #[tokio::test]
    async fn empty_messages_are_bounded_too() {
        let (left, _right) = Channel::pair(usize::MAX);
        for _ in 0..limits::CHANNEL_MESSAGES {
            left.send(Bytes::new()).await.unwrap();
        }
        let waiting = tokio::spawn(async move { left.send(Bytes::new()).await });
        yield_now().await;
        assert!(!waiting.is_finished());
        waiting.abort();
    }
}
