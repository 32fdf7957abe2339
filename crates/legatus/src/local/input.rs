//! Standard input. A terminal is opened once more, without blocking, so that a key wakes the thread
//! that sends it. Anything else is read by a thread that blocks in `read(2)`: the next is read while
//! one is sent, and the process can end while nothing comes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread;

use bytes::{Bytes, BytesMut};
use legatus_core::{BoxFuture, Input, limits};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use super::descriptor;

/// Chunks that wait between the thread and the Sender: one is sent while the next is read.
const CHUNKS: usize = 2;

/// A read gets at least this much room; less would make many small reads of one large buffer.
const ROOM: usize = limits::CHUNK_BYTES / 4;

/// Room for what a terminal gives at once: a line in the kernel's buffer (`N_TTY_BUF_SIZE`).
const KEYS: usize = 4096;

/// Standard input.
pub(super) struct DescriptorInput {
    state: State,
}

enum State {
    /// Nobody has asked for input yet, so none is taken from whoever else may read it.
    Untouched(Arc<OwnedFd>),
    Keyboard(pipe::Receiver),
    Reading(mpsc::Receiver<io::Result<Bytes>>),
}

impl DescriptorInput {
    pub(super) fn new(fd: Arc<OwnedFd>) -> Self {
        Self {
            state: State::Untouched(fd),
        }
    }

    /// Begins to read.
    fn open(fd: &Arc<OwnedFd>) -> io::Result<State> {
        if let Some(keyboard) = descriptor::reopen_keyboard(fd.as_fd()) {
            // What tokio needs of a pipe, a terminal can do as well.
            return pipe::Receiver::from_owned_fd_unchecked(keyboard).map(State::Keyboard);
        }
        let (chunks_tx, chunks_rx) = mpsc::channel(CHUNKS);
        let fd = Arc::clone(fd);
        // Never joined: it may wait for input for ever. It ends with the process.
        thread::Builder::new()
            .name("stdin".into())
            .spawn(move || pump(&fd, &chunks_tx))?;
        Ok(State::Reading(chunks_rx))
    }
}

impl Input for DescriptorInput {
    fn read(&mut self) -> BoxFuture<'_, io::Result<Bytes>> {
        Box::pin(async move {
            if let State::Untouched(fd) = &self.state {
                self.state = Self::open(fd)?;
            }
            match &mut self.state {
                State::Keyboard(keyboard) => {
                    let mut typed = BytesMut::with_capacity(KEYS);
                    keyboard.read_buf(&mut typed).await?;
                    Ok(typed.freeze())
                }
                State::Reading(chunks) => {
                    let chunk = chunks.recv().await;
                    chunk.unwrap_or_else(|| Ok(Bytes::new()))
                }
                State::Untouched(_) => Err(io::ErrorKind::NotConnected.into()),
            }
        })
    }
}

/// Reads until the end, an error, or until nobody wants more.
fn pump(fd: &OwnedFd, chunks: &mpsc::Sender<io::Result<Bytes>>) {
    descriptor::enlarge_pipe(fd);
    let mut buffer = BytesMut::new();
    loop {
        if buffer.capacity() < ROOM {
            buffer.reserve(limits::CHUNK_BYTES);
        }
        let read = read(fd, &mut buffer);
        let is_last = !matches!(&read, Ok(chunk) if !chunk.is_empty());
        if chunks.blocking_send(read).is_err() || is_last {
            return;
        }
    }
}

/// Reads what is there, into the unused part of `buffer`, and takes it out.
fn read(fd: &OwnedFd, buffer: &mut BytesMut) -> io::Result<Bytes> {
    let room = buffer.spare_capacity_mut();
    let length = room.len().min(limits::CHUNK_BYTES);
    let read = descriptor::read(fd.as_fd(), room.get_mut(..length).unwrap_or_default())?;
    #[expect(
        unsafe_code,
        reason = "the bytes were just read into memory that was not filled before"
    )]
    // SAFETY: the buffer was empty (its content is always taken out below), and `read(2)` has
    // filled the first `read` bytes of its room.
    unsafe {
        buffer.set_len(read);
    }
    Ok(buffer.split().freeze())
}
