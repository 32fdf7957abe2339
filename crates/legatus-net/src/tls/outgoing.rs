//! Records on their way to the socket.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use super::record::CONTENT_BYTES;

/// Bytes that wait sealed for the socket, at most: a data message, so that it goes out in a few
/// large writes.
const SEND_BUFFER: usize = 512 << 10;

/// Records for which an idle stream keeps places.
const KEPT_PLACES: usize = 16;

/// Sealed records that wait for the socket.
#[derive(Default)]
pub(super) struct Outgoing {
    records: VecDeque<Vec<u8>>,
    /// How many bytes of the first were sent.
    sent: usize,
    /// How many bytes wait.
    bytes: usize,
}

impl Outgoing {
    /// How many bytes more should wait.
    pub(super) fn room(&self) -> usize {
        SEND_BUFFER.saturating_sub(self.bytes)
    }

    pub(super) fn push(&mut self, record: Vec<u8>) {
        self.bytes += record.len();
        self.records.push_back(record);
    }

    /// Sends all that waits.
    pub(super) fn poll_send<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.bytes > 0 {
            ready!(self.poll_send_some(stream, context))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Sends some of what waits, which is something.
    pub(super) fn poll_send_some<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut slices = [IoSlice::new(&[]); SEND_BUFFER / CONTENT_BYTES + 2];
        let mut sent = self.sent;
        for (slice, record) in slices.iter_mut().zip(&self.records) {
            let rest = record.get(std::mem::take(&mut sent)..);
            *slice = IoSlice::new(rest.unwrap_or_default());
        }
        let count = self.records.len().min(slices.len());
        let slices = slices.get(..count).unwrap_or_default();
        let count = ready!(Pin::new(stream).poll_write_vectored(context, slices))?;
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.forget(count);
        Poll::Ready(Ok(()))
    }

    /// Drops what was sent.
    fn forget(&mut self, count: usize) {
        self.bytes = self.bytes.saturating_sub(count);
        self.sent += count;
        while let Some(first) = self.records.front()
            && first.len() <= self.sent
        {
            self.sent -= first.len();
            self.records.pop_front();
        }
        if self.records.is_empty() && self.records.capacity() > KEPT_PLACES {
            self.records = VecDeque::new();
        }
    }
}
