//! Standard output and standard error, written so that a slow reader never stops the rest of the
//! program.
//!
//! Pipes and terminals are opened once more, without blocking: what fits goes out at once, and a
//! task writes the rest when there is room. Where that cannot be done (files, sockets, another
//! user's pipe) and with `--json`, a thread blocks in `write(2)`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, TryLockError};
use std::thread;

use bytes::{Buf, Bytes};
use legatus_core::{BoxFuture, Output};
use rustix::io::Errno;
use tokio::net::unix::pipe;
use tokio::runtime::Handle;
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
    /// Whether lines are written besides, which must not come between the parts of a chunk.
    has_lines: bool,
    /// Whether a small write does not wait if `poll(2)` says so. Terminals and sockets say so as
    /// soon as there is room for one byte.
    is_exact: bool,
    /// The same pipe or terminal, opened without blocking; made when it is first written to,
    /// because that needs the runtime.
    unblocked: OnceLock<Option<pipe::Sender>>,
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
    /// One that only outputs write to.
    pub(super) fn new(fd: OwnedFd) -> Self {
        let is_exact = descriptor::tells_room_exactly(fd.as_fd());
        Self {
            fd,
            has_lines: false,
            is_exact,
            unblocked: OnceLock::new(),
            writing: Mutex::new(()),
            pending: AtomicUsize::new(0),
            progress: Notify::new(),
            failure: AtomicI32::new(0),
        }
    }

    /// One that [`write_line`](Self::write_line) may be used with, too.
    pub(super) fn with_lines(fd: OwnedFd) -> Self {
        Self {
            has_lines: true,
            ..Self::new(fd)
        }
    }

    fn unblocked(&self) -> Option<&pipe::Sender> {
        let open = || {
            if self.has_lines || Handle::try_current().is_err() {
                return None;
            }
            let fd = descriptor::reopen_unblocked(self.fd.as_fd())?;
            // What tokio needs of a pipe, a terminal can do as well.
            pipe::Sender::from_owned_fd_unchecked(fd).ok()
        };
        self.unblocked.get_or_init(open).as_ref()
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
            self.fail(error);
        }
    }

    fn fail(&self, error: Errno) {
        self.failure.store(error.raw_os_error(), Ordering::Release);
    }

    fn is_written(&self) {
        self.pending.fetch_sub(1, Ordering::AcqRel);
        self.progress.notify_waiters();
    }

    /// Accepts a chunk when the one before is written; what does not fit is left to a task.
    async fn put_unblocked(
        self: &Arc<Self>,
        fd: &pipe::Sender,
        mut chunk: Bytes,
    ) -> io::Result<()> {
        if chunk.len() > DIRECT_BYTES {
            descriptor::enlarge_pipe(fd);
        }
        self.settle().await?;
        match descriptor::write_available(fd.as_fd(), &mut chunk) {
            Ok(()) => {}
            Err(Errno::AGAIN) => {
                self.pending.fetch_add(1, Ordering::AcqRel);
                let sink = Arc::clone(self);
                tokio::spawn(async move {
                    if let Err(error) = sink.write_rest(chunk).await {
                        sink.fail(Errno::from_io_error(&error).unwrap_or(Errno::IO));
                    }
                    sink.is_written();
                });
            }
            Err(error) => self.fail(error),
        }
        self.result()
    }

    async fn write_rest(&self, mut rest: Bytes) -> io::Result<()> {
        let Some(fd) = self.unblocked() else {
            return Ok(());
        };
        while !rest.is_empty() {
            fd.writable().await?;
            match fd.try_write(&rest) {
                Ok(written) => rest.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes a small chunk if that does not wait; false if it would.
    fn write_at_once(&self, chunk: &[u8]) -> bool {
        let is_small = self.is_exact && chunk.len() <= DIRECT_BYTES;
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
        if let Some(unblocked) = self.sink.unblocked() {
            return self.sink.put_unblocked(unblocked, chunk).await;
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

    /// Accepts a chunk if there is room now.
    pub(super) fn put_now(&mut self, chunk: Bytes) {
        if chunk.is_empty() || self.sink.write_at_once(&chunk) {
            return;
        }
        let sink = Arc::clone(&self.sink);
        if let Ok(Ok(place)) = self.chunks().map(mpsc::Sender::try_reserve) {
            sink.pending.fetch_add(1, Ordering::AcqRel);
            place.send(chunk);
        }
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
        sink.is_written();
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
