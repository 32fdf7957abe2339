//! Packs events or pieces into messages: small files share one, contents are read straight into them.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use legatus_core::limits::CHUNK_BYTES;
use legatus_core::{BufferPool, PooledBuffer};
use prost::Message;
use tokio::sync::mpsc;

use super::messages::{DATA_KEY, EVENTS_KEY, Event, Failure, PIECES_KEY, Piece, event, piece};

/// Room in a message beside one chunk, so that a small file's header and end fit with it.
const SLACK_BYTES: usize = 16 << 10;
/// Bytes of a full message.
const BATCH_BYTES: usize = CHUNK_BYTES + SLACK_BYTES;
/// Keys and lengths around the data of one event, at most.
const DATA_OVERHEAD: usize = 2 * (1 + 4);
/// Buffers that are kept to be used again: as many as are on their way at a time.
const POOL: usize = 12;

/// How long is waited for a buffer of the channel before one of our own is taken, so that a call that was cancelled
/// does not wait for ever.
const PATIENCE: Duration = Duration::from_millis(200);

/// What a source gives to its task.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// A message for the target.
    Message(Bytes),
    /// An entry that could not be read: a failure for the user, if this side has one.
    Failure(Failure),
}

/// Nobody takes what the source gives any more: the copy was cancelled or the other half has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stopped;

/// Packs events into messages and gives them to the source's task.
#[derive(Debug)]
pub(super) struct Packer {
    /// What is packed, of which `used` bytes are filled.
    batch: Option<Batch>,
    used: usize,
    /// Where messages are best made.
    buffers: Option<Arc<dyn BufferPool>>,
    /// Buffers that were sent; the first is free again when nobody else has it any more.
    pool: VecDeque<Bytes>,
    outgoing: mpsc::Sender<Outgoing>,
    pressure: Pressure,
}

/// The memory of a message; all of it is initialised, so that contents can be read into it.
#[derive(Debug)]
enum Batch {
    Own(BytesMut),
    Pooled(PooledBuffer),
}

impl AsMut<[u8]> for Batch {
    fn as_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Own(own) => own,
            Self::Pooled(pooled) => pooled.as_mut(),
        }
    }
}

/// How fast messages are taken.
#[derive(Debug)]
struct Pressure {
    since: Instant,
    bytes: u64,
    waited: Duration,
    is_slow: bool,
}

/// How long is looked at to tell how fast messages are taken.
const LOOK: Duration = Duration::from_millis(200);

/// Slower than this, in bytes a second, is slow: what one core compresses at least.
const SLOW: u128 = 120_000_000;

impl Pressure {
    fn sent(&mut self, bytes: u64, waited: Duration) {
        self.bytes += bytes;
        self.waited += waited;
        let looked = self.since.elapsed();
        if looked >= LOOK {
            let rate = u128::from(self.bytes) * 1_000_000_000 / looked.as_nanos().max(1);
            self.is_slow = rate < SLOW && self.waited * 2 > looked;
            *self = Self {
                is_slow: self.is_slow,
                ..Self::new()
            };
        }
    }

    fn new() -> Self {
        Self {
            since: Instant::now(),
            bytes: 0,
            waited: Duration::ZERO,
            is_slow: false,
        }
    }
}

impl Packer {
    pub(super) fn new(outgoing: mpsc::Sender<Outgoing>) -> Self {
        Self {
            // Made when it is needed.
            batch: None,
            used: 0,
            buffers: None,
            pool: VecDeque::with_capacity(POOL),
            outgoing,
            pressure: Pressure::new(),
        }
    }

    /// The same, which makes messages in these buffers.
    pub(super) fn with_buffers(self, buffers: Option<Arc<dyn BufferPool>>) -> Self {
        Self { buffers, ..self }
    }

    /// Appends an event; returns how many bytes it takes.
    pub(super) fn event(&mut self, event: event::Event) -> Result<usize, Stopped> {
        self.item(EVENTS_KEY, &Event { event: Some(event) })
    }

    /// Appends a piece.
    pub(super) fn piece(&mut self, piece: piece::Piece) -> Result<(), Stopped> {
        self.item(PIECES_KEY, &Piece { piece: Some(piece) })?;
        Ok(())
    }

    fn item(&mut self, key: u8, item: &impl Message) -> Result<usize, Stopped> {
        let length = item.encoded_len();
        self.reserve(length + DATA_OVERHEAD)?;
        let mut room = self.room(self.used..BATCH_BYTES);
        let before = room.len();
        bytes::BufMut::put_u8(&mut room, key);
        // The room was made for the longest item: names and link targets are limited by Linux, extended
        // attributes by us.
        let encoded =
            prost::encode_length_delimiter(length, &mut room).and_then(|()| item.encode(&mut room));
        debug_assert!(encoded.is_ok());
        let taken = before - room.len();
        self.used += taken;
        Ok(taken)
    }

    /// Appends contents that were read already, at most a chunk.
    pub(super) fn bytes(&mut self, data: &[u8]) -> Result<(), Stopped> {
        self.reserve(data.len() + DATA_OVERHEAD)?;
        let prefix = DataPrefix::of(data.len());
        let start = self.used + prefix.length;
        self.room(self.used..start).copy_from_slice(prefix.bytes());
        self.room(start..start + data.len()).copy_from_slice(data);
        self.used = start + data.len();
        Ok(())
    }

    /// Reads up to `wanted` bytes (at most a chunk) of a file from `at` on into a piece, and shows them; fewer
    /// only at the file's end.
    pub(super) fn data(
        &mut self,
        file: &File,
        at: u64,
        wanted: usize,
    ) -> Result<io::Result<&[u8]>, Stopped> {
        let wanted = wanted.min(CHUNK_BYTES);
        self.reserve(wanted + DATA_OVERHEAD)?;
        let mut prefix = DataPrefix::of(wanted);
        let start = self.used + prefix.length;
        let read = match read_full(file, at, self.room(start..start + wanted)) {
            Ok(0) => return Ok(Ok(&[])),
            Ok(read) => read,
            Err(error) => return Ok(Err(error)),
        };
        if read < wanted {
            prefix = DataPrefix::of(read);
            let (from, to) = (start - self.used, prefix.length);
            self.room(self.used..start + read).copy_within(from.., to);
        }
        let start = self.used + prefix.length;
        self.room(self.used..start).copy_from_slice(prefix.bytes());
        self.used = start + read;
        Ok(Ok(self.room(start..start + read)))
    }

    /// Tells of an entry that could not be read.
    pub(super) fn failure(&self, failure: Failure) -> Result<(), Stopped> {
        let failure = Outgoing::Failure(failure);
        self.outgoing.blocking_send(failure).map_err(|_| Stopped)
    }

    /// Gives away what is packed.
    pub(super) fn flush(&mut self) -> Result<(), Stopped> {
        if self.used == 0 {
            return Ok(());
        }
        let used = std::mem::take(&mut self.used);
        let message = match self.batch.take() {
            Some(Batch::Own(own)) => {
                let full = own.freeze();
                let message = full.slice(..used);
                if self.pool.len() < POOL {
                    self.pool.push_back(full);
                }
                message
            }
            Some(Batch::Pooled(pooled)) => pooled.freeze(used),
            None => return Ok(()),
        };
        let bytes = message.len() as u64;
        let began = Instant::now();
        let message = Outgoing::Message(message);
        let sent = self.outgoing.blocking_send(message).map_err(|_| Stopped);
        self.pressure.sent(bytes, began.elapsed());
        sent
    }

    /// Whether the other side or the way to it is slow, and the processor idle meanwhile.
    pub(super) fn is_held_up(&self) -> bool {
        self.pressure.is_slow
    }

    fn reserve(&mut self, bytes: usize) -> Result<(), Stopped> {
        if self.used + bytes > BATCH_BYTES {
            self.flush()?;
        }
        if self.batch.is_none() {
            self.batch = Some(self.memory());
        }
        Ok(())
    }

    /// Memory for the next message: where it needs not be copied, if that comes free soon.
    fn memory(&mut self) -> Batch {
        if let Some(buffers) = &self.buffers {
            let began = Instant::now();
            let pooled = buffers.take(PATIENCE);
            self.pressure.waited += began.elapsed();
            if let Some(pooled) = pooled {
                return Batch::Pooled(pooled);
            }
        }
        match self.pool.pop_front().map(Bytes::try_into_mut) {
            Some(Ok(free)) => return Batch::Own(free),
            Some(Err(taken)) => self.pool.push_front(taken),
            None => {}
        }
        Batch::Own(BytesMut::zeroed(BATCH_BYTES))
    }

    fn room(&mut self, range: Range<usize>) -> &mut [u8] {
        let batch = self.batch.as_mut().map(Batch::as_mut);
        batch
            .and_then(|batch| batch.get_mut(range))
            .unwrap_or_default()
    }
}

/// What stands before the bytes of a `data` piece in a message.
struct DataPrefix {
    bytes: [u8; DATA_OVERHEAD],
    length: usize,
}

impl DataPrefix {
    fn of(data: usize) -> Self {
        let mut prefix = Self {
            bytes: [0; DATA_OVERHEAD],
            length: 0,
        };
        let inner = 1 + prost::length_delimiter_len(data) + data;
        prefix.length = DATA_OVERHEAD - {
            let mut room = prefix.bytes.as_mut_slice();
            bytes::BufMut::put_u8(&mut room, PIECES_KEY);
            let encoded = prost::encode_length_delimiter(inner, &mut room);
            bytes::BufMut::put_u8(&mut room, DATA_KEY);
            let encoded = encoded.and_then(|()| prost::encode_length_delimiter(data, &mut room));
            debug_assert!(encoded.is_ok());
            room.len()
        };
        prefix
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

fn read_full(file: &File, mut at: u64, mut room: &mut [u8]) -> io::Result<usize> {
    let mut total = 0;
    while !room.is_empty() {
        match file.read_at(room, at) {
            Ok(0) => break,
            Ok(read) => {
                total += read;
                at = at.saturating_add(read as u64);
                room = room.get_mut(read..).unwrap_or_default();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use legatus_core::limits::MESSAGE_BYTES;

    use super::*;

    /// Buffers that are there once; notes how many are left.
    #[derive(Debug)]
    struct Buffers(Mutex<u32>);

    impl BufferPool for Buffers {
        fn take(&self, _: Duration) -> Option<PooledBuffer> {
            let mut left = self.0.lock().unwrap();
            *left = left.checked_sub(1)?;
            Some(PooledBuffer::new(vec![b'!'; MESSAGE_BYTES]))
        }
    }

    #[test]
    fn messages_are_the_same_in_buffers_of_the_channel_and_in_own_ones() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&vec![b'x'; CHUNK_BYTES], 0).unwrap();
        let (outgoing, mut told) = mpsc::channel(4);
        let buffers = Arc::new(Buffers(Mutex::new(2)));
        let mut packer = Packer::new(outgoing).with_buffers(Some(Arc::<Buffers>::clone(&buffers)));
        for _ in 0..2 {
            let data = packer.data(&file, 0, CHUNK_BYTES).unwrap().unwrap();
            assert_eq!(data.len(), CHUNK_BYTES);
            packer.flush().unwrap();
            // What shrinks while it is read takes a shorter length, and moves.
            let data = packer
                .data(&file, CHUNK_BYTES as u64 - 3, CHUNK_BYTES)
                .unwrap();
            assert_eq!(data.unwrap(), b"xxx");
            packer.flush().unwrap();
        }
        let mut messages = || match told.try_recv().unwrap() {
            Outgoing::Message(message) => message,
            Outgoing::Failure(failure) => panic!("{failure:?}"),
        };
        let first = (messages(), messages());
        assert_eq!(first, (messages(), messages()));
        assert_eq!(*buffers.0.lock().unwrap(), 0, "all were used");
    }
}
