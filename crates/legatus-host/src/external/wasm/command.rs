//! Plain `wasi:cli/command` components: standard input and output are the channel.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use legatus_core::{ChannelReceiver, ChannelSender, limits};
use tokio::io::{AsyncRead, AsyncWrite};
use wasmtime_wasi::cli::{IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

/// Standard input: the messages of the Sender, one after the other.
#[derive(Clone)]
pub(super) struct ChannelInput(Arc<tokio::sync::Mutex<Received>>);

struct Received {
    receiver: ChannelReceiver,
    /// What was received but not read yet.
    rest: Bytes,
    ended: bool,
}

impl ChannelInput {
    pub(super) fn new(receiver: ChannelReceiver) -> Self {
        Self(Arc::new(tokio::sync::Mutex::new(Received {
            receiver,
            rest: Bytes::new(),
            ended: false,
        })))
    }
}

impl IsTerminal for ChannelInput {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdinStream for ChannelInput {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(tokio::io::empty())
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for ChannelInput {
    async fn ready(&mut self) {
        let mut received = self.0.lock().await;
        while received.rest.is_empty() && !received.ended {
            match received.receiver.receive().await {
                Some(message) => received.rest = message,
                None => received.ended = true,
            }
        }
    }
}

impl InputStream for ChannelInput {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        // Somebody waits for more; there is nothing yet.
        let Ok(mut received) = self.0.try_lock() else {
            return Ok(Bytes::new());
        };
        if received.rest.is_empty() && received.ended {
            return Err(StreamError::Closed);
        }
        let size = size.min(received.rest.len());
        Ok(received.rest.split_to(size))
    }
}

/// Standard output: each write becomes a message.
#[derive(Clone)]
pub(super) struct ChannelOutput {
    sender: ChannelSender,
    left_over: Arc<Mutex<Vec<Bytes>>>,
}

impl ChannelOutput {
    pub(super) fn new(sender: ChannelSender) -> Self {
        Self {
            sender,
            left_over: Arc::default(),
        }
    }

    /// Sends what the guest wrote and did not wait for.
    pub(super) async fn finish(self) {
        let rest = std::mem::take(&mut *lock(&self.left_over));
        for bytes in rest {
            // Nobody listens any more; the outcome tells that.
            if self.sender.send(bytes).await.is_err() {
                return;
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl IsTerminal for ChannelOutput {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for ChannelOutput {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(Closed)
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(Written {
            output: self.clone(),
            pending: None,
            closed: false,
        })
    }
}

/// One handle of standard output.
struct Written {
    output: ChannelOutput,
    pending: Option<Bytes>,
    closed: bool,
}

#[wasmtime_wasi::async_trait]
impl Pollable for Written {
    async fn ready(&mut self) {
        if let Some(bytes) = self.pending.clone() {
            // It is sent whole or not at all, so that dropping this loses nothing.
            self.closed |= self.output.sender.send(bytes).await.is_err();
            self.pending = None;
        }
    }
}

impl OutputStream for Written {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if self.closed {
            return Err(StreamError::Closed);
        }
        if self.pending.is_some() {
            return Err(StreamError::trap("written without waiting for room"));
        }
        self.pending = (!bytes.is_empty()).then_some(bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        match (self.closed, &self.pending) {
            (true, _) => Err(StreamError::Closed),
            (false, Some(_)) => Ok(0),
            (false, None) => Ok(limits::CHUNK_BYTES),
        }
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        if let Some(bytes) = self.pending.take() {
            lock(&self.output.left_over).push(bytes);
        }
    }
}

/// A stream that takes nothing, where only newer components than ours would ask for one.
struct Closed;

impl AsyncWrite for Closed {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Err(std::io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
