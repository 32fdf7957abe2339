//! TCP connections, and streams whose reads are watched from outside.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What is told of each read.
pub(crate) trait Watcher: Unpin {
    /// So many bytes were read, 0 at the end; or reading failed.
    fn read(&self, result: Result<usize, &io::Error>);
}

/// Tells a watcher of each read from the stream inside.
#[derive(Debug)]
pub(crate) struct Watched<S, W> {
    stream: S,
    watcher: W,
}

impl<S, W> Watched<S, W> {
    pub(crate) fn new(stream: S, watcher: W) -> Self {
        Self { stream, watcher }
    }
}

impl<S: AsyncRead + Unpin, W: Watcher> AsyncRead for Watched<S, W> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        let fresh = buffer.filled().len().saturating_sub(before);
        self.watcher.read(result.as_ref().map(|()| fresh));
        Poll::Ready(result)
    }
}

impl<S: AsyncWrite + Unpin, W: Watcher> AsyncWrite for Watched<S, W> {
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

/// Makes a TCP connection send at once, and fail when nothing that it sent is acknowledged for so long.
///
/// # Errors
/// Those of `setsockopt(2)`.
pub(crate) fn prepare(stream: &TcpStream, acknowledged_within: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let milliseconds = u32::try_from(acknowledged_within.as_millis()).unwrap_or(u32::MAX);
    rustix::net::sockopt::set_tcp_user_timeout(stream, milliseconds)?;
    Ok(())
}
