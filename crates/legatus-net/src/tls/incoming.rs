//! Bytes that have come from the socket: records as they were sealed, and opened in their place.
//!
//! They are read in large pieces: 4 KiB at a time would be a quarter of a million system calls a
//! second at 1 GB/s. The buffer grows while the peer fills it and goes away when it is drained, so
//! that an idle connection holds none.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, BytesMut};
use rustls::ContentType;
use rustls::Error;
use rustls::crypto::cipher::InboundPlainMessage;
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::record::{self, HEADER_BYTES, Opener};

/// The buffer's size at first: a handshake's flight.
const SMALLEST: usize = 4 << 10;

/// The buffer's size at most: beyond, system calls cost less than 2 % of the bytes they bring, and
/// the bytes no longer stay in the level 2 cache.
const LARGEST: usize = 256 << 10;

/// What has come and was not taken.
#[derive(Debug)]
pub(super) struct Incoming {
    /// The record that was opened last, if any, and sealed ones behind it.
    buffer: BytesMut,
    /// Bytes of data at the front, behind a part of their record that was used.
    data: usize,
    /// Bytes of the opened record behind the data.
    tail: usize,
    size: usize,
}

/// What a record carried.
pub(super) enum Opened {
    /// So many bytes of data, which [`Incoming::take`] takes.
    Data(usize),
    Other(ContentType, Vec<u8>),
}

impl Default for Incoming {
    fn default() -> Self {
        Self {
            buffer: BytesMut::new(),
            data: 0,
            tail: 0,
            size: SMALLEST,
        }
    }
}

impl Incoming {
    /// How many bytes have come, and where the record at `start` ends if it is there whole: of a
    /// handshake, of which nothing was opened yet.
    pub(super) fn record_at(&self, start: usize) -> (usize, Option<usize>) {
        let come = self.buffer.len();
        let rest = self.buffer.get(start..).unwrap_or_default();
        let end = record::end(rest).map(|length| start + length);
        (come, end.filter(|end| *end <= come))
    }

    /// So many bytes from the front, as they came.
    pub(super) fn sealed(&mut self, count: usize) -> &mut [u8] {
        self.buffer.get_mut(..count).unwrap_or_default()
    }

    /// Forgets sealed bytes at the front.
    pub(super) fn discard(&mut self, count: usize) {
        self.buffer.advance(count.min(self.buffer.len()));
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    /// Waits for more bytes; how many have come, 0 at the stream's end.
    pub(super) fn poll_fill<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        // A record that has come in part counts: it moves to the front for the rest of it.
        let room = self.size.max(self.buffer.len() + SMALLEST);
        if self.buffer.capacity() < room {
            self.buffer.reserve(room - self.buffer.len());
        }
        let read = match poll_read_buf(Pin::new(stream), context, &mut self.buffer) {
            Poll::Ready(read) => read?,
            Poll::Pending => {
                self.shrink();
                return Poll::Pending;
            }
        };
        if self.buffer.len() >= self.size {
            self.size = (self.size * 4).min(LARGEST);
        }
        Poll::Ready(Ok(read))
    }

    /// Nothing has come. A busy stream grows its buffer again at once; an idle one loses it, after
    /// a few of the connection's pings at the latest.
    fn shrink(&mut self) {
        self.size = (self.size / 4).max(SMALLEST);
        if self.size == SMALLEST && self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }

    /// Opens the next record, if it is whole. The data of the last one must have been taken.
    pub(super) fn open(&mut self, opener: &mut Opener) -> Result<Option<Opened>, Error> {
        let Some(length) = record::length(&self.buffer)? else {
            return Ok(None);
        };
        let whole = HEADER_BYTES + length;
        let Some(record) = self.buffer.get_mut(HEADER_BYTES..whole) else {
            return Ok(None);
        };
        let InboundPlainMessage { typ, payload, .. } = opener.open(record)?;
        if typ == ContentType::ApplicationData {
            let data = payload.len();
            (self.data, self.tail) = (data, length - data);
            self.buffer.advance(HEADER_BYTES);
            self.finish();
            return Ok(Some(Opened::Data(data)));
        }
        let payload = payload.to_vec();
        self.buffer.advance(whole);
        Ok(Some(Opened::Other(typ, payload)))
    }

    /// Moves data that was opened into `target`, as much as there is room for.
    pub(super) fn take(&mut self, target: &mut ReadBuf<'_>) {
        let count = self.data.min(target.remaining());
        if count == 0 {
            return;
        }
        target.put_slice(self.buffer.get(..count).unwrap_or_default());
        self.buffer.advance(count);
        self.data -= count;
        self.finish();
    }

    /// Leaves a record whose data was taken.
    fn finish(&mut self) {
        if self.data == 0 {
            self.buffer.advance(std::mem::take(&mut self.tail));
        }
    }
}
