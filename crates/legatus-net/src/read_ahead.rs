//! Reads a socket in large pieces for a reader that asks for small ones.
//!
//! rustls reads 4 KiB at a time, which at 1 GB/s is a quarter of a million system calls a second.
//! The buffer grows while the peer fills it and goes away when it is drained, so that an idle
//! connection holds none.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

/// The buffer's size at first: a handshake's flight.
const SMALLEST: usize = 4 << 10;

/// The buffer's size at most: beyond, system calls cost less than 2 % of the bytes they bring, and
/// the bytes no longer stay in the level 2 cache.
const LARGEST: usize = 256 << 10;

/// Reads ahead of whoever reads it; writes pass through.
#[derive(Debug)]
pub(crate) struct ReadAhead<S> {
    stream: S,
    buffer: BytesMut,
    size: usize,
}

impl<S> ReadAhead<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
            size: SMALLEST,
        }
    }
}

impl<S: AsyncRead + Unpin> ReadAhead<S> {
    /// Fills the empty buffer with what has come; the buffer stays empty at the stream's end.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.buffer.capacity() < self.size {
            self.buffer.reserve(self.size);
        }
        let read = match poll_read_buf(Pin::new(&mut self.stream), context, &mut self.buffer) {
            Poll::Ready(read) => read?,
            Poll::Pending => {
                self.shrink();
                return Poll::Pending;
            }
        };
        if read >= self.size {
            self.size = (self.size * 4).min(LARGEST);
        }
        Poll::Ready(Ok(()))
    }

    /// Nothing has come. A busy stream grows its buffer again at once; an idle one loses it, after
    /// a few of the connection's pings at the latest.
    fn shrink(&mut self) {
        self.size = (self.size / 4).max(SMALLEST);
        if self.size == SMALLEST {
            self.buffer = BytesMut::new();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadAhead<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.buffer.is_empty() {
            ready!(self.poll_fill(context))?;
        }
        let count = self.buffer.len().min(target.remaining());
        let (ready, _) = self.buffer.split_at(count);
        target.put_slice(ready);
        self.buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadAhead<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn everything_passes_in_order_and_then_the_end() {
        let (mut far, near) = tokio::io::duplex(100_000);
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 251) as u8).collect();
        let sent = bytes.clone();
        let writer = tokio::spawn(async move { far.write_all(&sent).await });
        let mut stream = ReadAhead::new(near);
        let mut received = Vec::new();
        let mut piece = [0; 4096];
        loop {
            let count = stream.read(&mut piece).await.unwrap();
            if count == 0 {
                break;
            }
            received.extend_from_slice(&piece[..count]);
        }
        assert!(received == bytes);
        writer.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_idle_stream_holds_no_buffer() {
        let (mut far, near) = tokio::io::duplex(1 << 20);
        let mut stream = ReadAhead::new(near);
        far.write_all(&[7; 500_000]).await.unwrap();
        let mut received = vec![0; 500_000];
        stream.read_exact(&mut received).await.unwrap();
        let mut byte = [0];
        for _ in 0..4 {
            let waiting = futures_util::poll!(Box::pin(stream.read(&mut byte)));
            assert!(waiting.is_pending());
        }
        assert_eq!(stream.buffer.capacity(), 0);
    }
}
