//! Moves what a command writes into messages, copying no byte but out of the kernel.
//!
//! Data is read right behind the room that its protobuf prefix needs, and the prefix is filled in
//! afterwards.

use std::io;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use legatus_core::{ChannelSender, Fault, limits::CHUNK_BYTES};
use rustix::io::Errno;
use tokio::net::unix::pipe;
use tokio_util::sync::CancellationToken;

use super::usage::Meter;

/// Bytes of the prefix: the field's tag, and a length of up to three bytes.
const PREFIX_BYTES: usize = 4;
const _: () = assert!(
    CHUNK_BYTES < 1 << 21,
    "a longer length needs a longer prefix"
);

/// Bytes of room for data that comes now and then.
const SMALL_BYTES: usize = 16 << 10;

/// Capacity of a pipe that carries much: the highest that Linux gives to everyone
/// (`/proc/sys/fs/pipe-max-size`). Others keep the usual one, as all pipes of a user share a limit.
const FAST_PIPE_BYTES: usize = 1 << 20;

/// How often a terminal is read after its program has ended: 4 KiB each, it is far more than a
/// terminal holds. What comes behind was written later, by processes left in the background.
const REST_READS: usize = 256;

/// Which field of an `Output` message carries a stream.
#[derive(Clone, Copy, Debug)]
pub(super) enum Field {
    Stdout,
    Stderr,
}

/// What a command writes could not be passed on.
#[derive(Debug)]
pub(super) enum PumpError {
    /// The Sender no longer receives.
    Gone,
    /// The stream cannot be read.
    Read(io::Error),
}

/// Sends all that comes out of `source`, until its end.
///
/// A terminal has no end of its own. It ends when nothing is left after its program `has_ended`;
/// pipes end when the last process has closed them.
pub(super) async fn pump(
    source: &pipe::Receiver,
    field: Field,
    sink: &ChannelSender,
    meter: &Meter,
    has_ended: &CancellationToken,
) -> Result<(), PumpError> {
    let mut frames = Frames::new(field);
    let mut rest = 0..REST_READS;
    loop {
        let read = tokio::select! {
            biased;
            () = has_ended.cancelled() => match frames.read_rest(source) {
                Err(error) if is_not_yet(&error) => return Ok(()),
                _ if rest.next().is_none() => return Ok(()),
                read => read,
            },
            ready = source.readable() => ready.and_then(|()| frames.read(source)),
        };
        match read {
            Ok(None) => return Ok(()),
            Ok(Some(frame)) => {
                meter.wrote(frames.data);
                let pause = frames.pace.note(frame.len());
                sink.send(frame).await.map_err(|_| PumpError::Gone)?;
                if pause {
                    // Tokio's timers wait for 1 to 2 ms, in which a pipe fills up and the command
                    // stands still. A holder has nothing else to do meanwhile.
                    let mut left = PAUSE;
                    while let rustix::thread::NanosleepRelativeResult::Interrupted(rest) =
                        rustix::thread::nanosleep(&left)
                    {
                        left = rest;
                    }
                }
            }
            Err(error) if is_not_yet(&error) => {}
            // A terminal whose other side is closed.
            Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => return Ok(()),
            Err(error) => return Err(PumpError::Read(error)),
        }
    }
}

/// A message of its own, for what the Commander itself has to say in a stream.
pub(super) fn message(field: Field, text: &str) -> Bytes {
    let mut frames = Frames::new(field);
    frames.buffer.put_bytes(0, PREFIX_BYTES);
    frames.buffer.put_slice(text.as_bytes());
    frames.finish(text.len())
}

fn is_not_yet(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// Reads messages of one stream.
#[derive(Debug)]
struct Frames {
    field: Field,
    buffer: BytesMut,
    /// Bytes of data in the message that was made last.
    data: usize,
    pace: Pace,
    pipe_grown: bool,
}

impl Frames {
    fn new(field: Field) -> Self {
        Self {
            field,
            buffer: BytesMut::new(),
            data: 0,
            pace: Pace::new(),
            pipe_grown: false,
        }
    }

    /// One message of what can be read now; `None` at the end.
    fn read(&mut self, source: &pipe::Receiver) -> io::Result<Option<Bytes>> {
        let wanted = if self.pace.fast {
            CHUNK_BYTES
        } else {
            SMALL_BYTES
        };
        if self.pace.fast && !self.pipe_grown {
            // Only for speed, so it may fail, as when the user's limit is reached.
            rustix::pipe::fcntl_setpipe_size(source, FAST_PIPE_BYTES).ok();
            self.pipe_grown = true;
        }
        if self.buffer.capacity() < PREFIX_BYTES + wanted / 2 {
            self.buffer.reserve(PREFIX_BYTES + wanted);
        }
        self.buffer.put_bytes(0, PREFIX_BYTES);
        let room = (self.buffer.capacity() - PREFIX_BYTES).min(CHUNK_BYTES);
        let mut length = 0;
        // A terminal gives no more than 4 KiB at once, however much it has.
        while length < room {
            match source.try_read_buf(&mut (&mut self.buffer).limit(room - length)) {
                Ok(0) => break,
                Ok(more) => length += more,
                // What ends the stream ends the next message, too.
                Err(_) if length > 0 => break,
                Err(error) => {
                    self.buffer.clear();
                    return Err(error);
                }
            }
        }
        Ok((length > 0).then(|| self.finish(length)))
    }

    /// The same for what is left, asking the kernel and not what Tokio knows of it.
    fn read_rest(&mut self, source: &pipe::Receiver) -> io::Result<Option<Bytes>> {
        self.buffer.resize(PREFIX_BYTES + SMALL_BYTES, 0);
        let room = self.buffer.get_mut(PREFIX_BYTES..).unwrap_or_default();
        let read = rustix::io::read(source, room);
        self.buffer.truncate(PREFIX_BYTES + read.unwrap_or(0));
        match read? {
            0 => Ok(None),
            length => Ok(Some(self.finish(length))),
        }
    }

    /// Puts the prefix before data of this length; the first byte of the prefix's room that it does
    /// not need is skipped.
    fn finish(&mut self, length: usize) -> Bytes {
        // Field number, and wire type 2: length-delimited.
        let tag: u8 = match self.field {
            Field::Stdout => 1 << 3 | 2,
            Field::Stderr => 2 << 3 | 2,
        };
        self.data = length;
        let mut frame = self.buffer.split();
        let unneeded = PREFIX_BYTES - 1 - prost::length_delimiter_len(length);
        if let Some(mut prefix) = frame.get_mut(unneeded..PREFIX_BYTES) {
            prefix.put_u8(tag);
            // It has exactly as much room as the length needs.
            prost::encode_length_delimiter(length, &mut prefix).ok();
        }
        frame.freeze().split_off(unneeded)
    }
}

/// How fast data comes. Where much comes in small pieces, waiting a moment after each makes few
/// large messages out of many small ones; what comes now and then never waits.
#[derive(Debug)]
struct Pace {
    fast: bool,
    since: Instant,
    bytes: usize,
}

/// How long a pace is measured.
const WINDOW: Duration = Duration::from_millis(10);

/// Bytes within that time, that is some 25 MB/s, which count as fast.
const FAST_BYTES: usize = CHUNK_BYTES;

/// Long enough for 256 KiB at 1 GB/s, short enough for nobody to notice.
const PAUSE: rustix::thread::Timespec = rustix::thread::Timespec {
    tv_sec: 0,
    tv_nsec: 250_000,
};

impl Pace {
    fn new() -> Self {
        Self {
            fast: false,
            since: Instant::now(),
            bytes: 0,
        }
    }

    /// Notes that so many bytes have come; true if more should be waited for before the next are
    /// read.
    fn note(&mut self, bytes: usize) -> bool {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.since.elapsed() >= WINDOW {
            self.fast = self.bytes >= FAST_BYTES;
            self.since = Instant::now();
            self.bytes = 0;
        }
        self.fast && bytes < CHUNK_BYTES / 2
    }
}

impl From<io::Error> for PumpError {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

/// What the other side is told of a stream that cannot be read.
pub(super) fn unreadable(error: &io::Error) -> Fault {
    let reason = super::spawn::reason(error);
    Fault::new(format!("cannot read the output of the command: {reason}"))
}
