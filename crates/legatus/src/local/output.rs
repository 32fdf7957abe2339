//! Standard output and standard error: small writes go out at once, larger ones through a thread
//! that blocks in `write(2)`, so that a slow reader never stops the rest of the program.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread;

use bytes::Bytes;
use legatus_core::{BoxFuture, Output};
use rustix::io::Errno;
use tokio::sync::{Notify, mpsc};

use super::descriptor;

/// Chunks that wait for the thread: enough to keep it busy while the next come in.
const CHUNKS: usize = 4;

/// A write of so many bytes does not wait when `poll(2)` says that the descriptor is writable:
/// PIPE_BUF of Linux.
const DIRECT_BYTES: usize = 4096;

/// A descriptor that is written to, by one [`DescriptorOutput`] or several.
pub(super) struct Sink {
    fd: OwnedFd,
    /// Held while one chunk is written, so that chunks stay whole.
    writing: Mutex<()>,
    /// Chunks that were accepted and are not written yet.
    pending: AtomicUsize,
    /// Something was written.
    progress: Notify,
    /// The errno of the first write that failed, or 0. Nothing is written any more after it.
    failure: AtomicI32,
}

impl Sink {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            writing: Mutex::new(()),
            pending: AtomicUsize::new(0),
            progress: Notify::new(),
            failure: AtomicI32::new(0),
        }
    }

    /// Whether nobody reads any more.
    pub(super) fn is_broken(&self) -> bool {
        self.failure.load(Ordering::Acquire) == Errno::PIPE.raw_os_error()
    }

    /// Waits until everything accepted has been written.
    ///
    /// # Errors
    /// That of the first write that failed.
    pub(super) async fn settle(&self) -> io::Result<()> {
        loop {
            let progress = self.progress.notified();
            if self.pending.load(Ordering::Acquire) == 0 {
                return self.result();
            }
            progress.await;
        }
    }

    /// Writes a line behind the chunk that is being written. Waits for a slow reader.
    pub(super) fn write_line(&self, line: &str) {
        self.write_chunk(format!("{line}\n").as_bytes());
    }

    fn write_chunk(&self, chunk: &[u8]) {
        let _whole = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.write_locked(chunk);
    }

    fn write_locked(&self, chunk: &[u8]) {
        if self.failure.load(Ordering::Acquire) != 0 {
            return;
        }
        if let Err(error) = descriptor::write_all(self.fd.as_fd(), chunk) {
            self.failure.store(error.raw_os_error(), Ordering::Release);
        }
    }

    /// Writes a small chunk if that does not wait; false if it would.
    fn write_at_once(&self, chunk: &[u8]) -> bool {
        let is_small = chunk.len() <= DIRECT_BYTES;
        if !is_small || self.pending.load(Ordering::Acquire) > 0 {
            return false;
        }
        let _whole = match self.writing.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(guard)) => guard.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        let is_writable = descriptor::is_writable(self.fd.as_fd());
        if is_writable {
            self.write_locked(chunk);
        }
        is_writable
    }

    fn result(&self) -> io::Result<()> {
        match self.failure.load(Ordering::Acquire) {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

/// One of a Sender's outputs.
pub(super) struct DescriptorOutput {
    sink: Arc<Sink>,
    /// To the thread that writes what may have to wait; started when there is something.
    chunks: Option<mpsc::Sender<Bytes>>,
}

impl DescriptorOutput {
    pub(super) fn new(sink: Arc<Sink>) -> Self {
        Self { sink, chunks: None }
    }

    fn chunks(&mut self) -> io::Result<&mpsc::Sender<Bytes>> {
        if self.chunks.is_none() {
            descriptor::enlarge_pipe(&self.sink.fd);
            let (chunks_tx, chunks_rx) = mpsc::channel(CHUNKS);
            let sink = Arc::clone(&self.sink);
            // Never joined: it may wait for a reader for ever. It ends when the output is dropped
            // and all is written, or with the process.
            thread::Builder::new()
                .name("output".into())
                .spawn(move || pump(&sink, chunks_rx))?;
            self.chunks = Some(chunks_tx);
        }
        self.chunks
            .as_ref()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    pub(super) async fn put(&mut self, chunk: Bytes) -> io::Result<()> {
        self.sink.result()?;
        if chunk.is_empty() {
            return Ok(());
        }
        if self.sink.write_at_once(&chunk) {
            return self.sink.result();
        }
        let sink = Arc::clone(&self.sink);
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        let place = self.chunks()?.reserve().await.map_err(gone)?;
        sink.pending.fetch_add(1, Ordering::AcqRel);
        place.send(chunk);
        Ok(())
    }

    pub(super) async fn settle(&self) -> io::Result<()> {
        self.sink.settle().await
    }
}

/// Writes until the output is dropped. After an error chunks are only counted, so that nobody
/// waits for them.
fn pump(sink: &Sink, mut chunks: mpsc::Receiver<Bytes>) {
    while let Some(chunk) = chunks.blocking_recv() {
        sink.write_chunk(&chunk);
        sink.pending.fetch_sub(1, Ordering::AcqRel);
        sink.progress.notify_waiters();
    }
}

impl Output for DescriptorOutput {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(self.put(bytes))
    }

    fn flush(&mut self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(self.settle())
    }
}
