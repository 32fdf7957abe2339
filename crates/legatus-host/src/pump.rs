//! The four pumps of a call: messages and controls, each in both directions. Both ends of the
//! sockets use the same ones.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use legatus_core::{BufferPool, ChannelReceiver, ChannelSender, limits};
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::frame::{self, Frame, FrameError, FrameReader};
use crate::slab::{self, End, Incoming, Outgoing, Slab, SlotError};

/// The other process broke the rules, or its socket failed.
#[derive(Debug, Error)]
pub(crate) enum PumpError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Slot(#[from] SlotError),
    #[error("a frame that does not belong there")]
    Misplaced,
    #[error("a control or an outcome that cannot be understood")]
    Unintelligible,
}

impl PumpError {
    /// Whether the socket failed, and not the other process.
    pub(crate) fn is_loss(&self) -> bool {
        matches!(
            self,
            Self::Frame(FrameError::Read(_) | FrameError::Truncated)
        )
    }
}

/// One end of a call's sockets and shared memory, taken apart for the pumps.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) writer: MessageWriter,
    pub(crate) reader: MessageReader,
    pub(crate) control_writer: OwnedWriteHalf,
    pub(crate) control_reader: ControlReader,
    pub(crate) notices: Notices,
}

impl Link {
    pub(crate) fn new(
        end: End,
        (data, control): (UnixStream, UnixStream),
        memory: OwnedFd,
        inline_bytes: usize,
    ) -> Self {
        let (outgoing, incoming) = slab::open(memory, end);
        let (data_reader, data_writer) = data.into_split();
        let (control_reader, control_writer) = control.into_split();
        let deafness = Arc::new(Deafness::default());
        Self {
            writer: MessageWriter {
                socket: data_writer,
                outgoing: Arc::clone(&outgoing),
                inline_bytes,
                deafness: Arc::clone(&deafness),
            },
            reader: MessageReader {
                frames: FrameReader::new(data_reader),
                incoming: Arc::clone(&incoming),
                deafness: Arc::clone(&deafness),
            },
            control_writer,
            control_reader: ControlReader {
                frames: FrameReader::new(control_reader),
                outgoing,
                deafness: Arc::clone(&deafness),
            },
            notices: Notices { incoming, deafness },
        }
    }
}

/// Which halves have told that they receive no more.
#[derive(Debug, Default)]
struct Deafness {
    /// The half at this end; the other process is to be told.
    here: Notify,
    /// The half at the other end.
    there: CancellationToken,
}

/// Writes messages to the data socket.
#[derive(Debug)]
pub(crate) struct MessageWriter {
    socket: OwnedWriteHalf,
    outgoing: Arc<Outgoing>,
    inline_bytes: usize,
    deafness: Arc<Deafness>,
}

impl MessageWriter {
    /// Passes on messages until there are no more or the other half receives no more.
    ///
    /// After `impatience` fires nothing waits for a slot any more: a client that does not read
    /// may keep all of them for ever. What goes through the socket instead is delivered or
    /// discarded at the other end.
    pub(crate) async fn pump(
        &mut self,
        mut messages: ChannelReceiver,
        impatience: &CancellationToken,
    ) -> io::Result<()> {
        loop {
            let message = tokio::select! {
                biased;
                () = self.deafness.there.cancelled() => return Ok(()),
                message = messages.receive() => message,
            };
            let Some(message) = message else {
                return Ok(());
            };
            self.write_message(message, impatience).await?;
        }
    }

    pub(crate) async fn write_message(
        &mut self,
        message: Bytes,
        impatience: &CancellationToken,
    ) -> io::Result<()> {
        if message.len() <= self.inline_bytes {
            return self.write(Frame::Message(message)).await;
        }
        let slot = match self.outgoing.take_slot_of(&message) {
            Some(slot) => Some(slot),
            None => tokio::select! {
                biased;
                slot = self.outgoing.place(&message) => slot?,
                () = self.deafness.there.cancelled() => return Ok(()),
                () = impatience.cancelled() => None,
            },
        };
        let Some(slot) = slot else {
            return self.write(Frame::Message(message)).await;
        };
        let length = u32::try_from(message.len()).map_err(io::Error::other)?;
        self.write(Frame::Slot { slot, length }).await
    }

    /// Buffers in which messages to write are best made, if any are to go through shared memory.
    pub(crate) fn buffers(&self) -> Option<Arc<dyn BufferPool>> {
        let is_used = self.inline_bytes < limits::MESSAGE_BYTES;
        is_used.then(|| Arc::new(Slab(Arc::clone(&self.outgoing))) as _)
    }

    /// Fires when the half at the other end receives no more.
    pub(crate) fn deaf(&self) -> CancellationToken {
        self.deafness.there.clone()
    }

    pub(crate) async fn write(&mut self, frame: Frame) -> io::Result<()> {
        frame::write(&mut self.socket, frame).await
    }
}

/// Reads messages from the data socket.
#[derive(Debug)]
pub(crate) struct MessageReader {
    frames: FrameReader<OwnedReadHalf>,
    incoming: Arc<Incoming>,
    deafness: Arc<Deafness>,
}

impl MessageReader {
    /// Delivers messages until another frame comes, which is returned; `None` at the end of the
    /// socket. Once the half at this end has gone, messages are discarded, so that the other
    /// process never waits for it. After `impatience` fires, so are all messages from the first
    /// on that finds no room.
    pub(crate) async fn pump(
        &mut self,
        sender: ChannelSender,
        impatience: &CancellationToken,
    ) -> Result<Option<Frame>, PumpError> {
        let mut sender = Some(sender);
        loop {
            let message = match self.frames.next().await? {
                Some(Frame::Message(message)) => message,
                Some(Frame::Slot { slot, length }) => self.incoming.take(slot, length)?,
                other => return Ok(other),
            };
            let Some(open) = &sender else {
                continue;
            };
            let delivered = tokio::select! {
                biased;
                sent = open.send(message) => sent.is_ok(),
                () = impatience.cancelled() => false,
            };
            if !delivered {
                sender = None;
                self.deafness.here.notify_one();
            }
        }
    }
}

/// Reads the control socket.
#[derive(Debug)]
pub(crate) struct ControlReader {
    frames: FrameReader<OwnedReadHalf>,
    outgoing: Arc<Outgoing>,
    deafness: Arc<Deafness>,
}

impl ControlReader {
    /// Reads until the end of the socket; `on_control` gets what is not about slots.
    pub(crate) async fn pump(
        &mut self,
        mut on_control: impl FnMut(Frame) -> Result<(), PumpError>,
    ) -> Result<(), PumpError> {
        loop {
            match self.frames.next().await? {
                Some(frame @ (Frame::Control(_) | Frame::Received(_) | Frame::Taken { .. })) => {
                    on_control(frame)?;
                }
                Some(Frame::Release(slots)) => self.outgoing.release(slots)?,
                Some(Frame::Deaf) => self.deafness.there.cancel(),
                Some(_) => return Err(PumpError::Misplaced),
                None => return Ok(()),
            }
        }
    }
}

/// What this end has to tell the other on the control socket about messages.
#[derive(Debug)]
pub(crate) struct Notices {
    incoming: Arc<Incoming>,
    deafness: Arc<Deafness>,
}

impl Notices {
    /// Waits for the next one. Cancel safe.
    pub(crate) async fn next(&self) -> Frame {
        tokio::select! {
            slots = self.incoming.released() => Frame::Release(slots),
            () = self.deafness.here.notified() => Frame::Deaf,
        }
    }
}
