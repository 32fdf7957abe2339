//! Standard input: a thread that blocks in `read(2)`, so that the process can end while nothing
//! comes, and a key is passed on the moment it is pressed.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread;

use bytes::{Bytes, BytesMut};
use legatus_core::{BoxFuture, Input, limits};
use tokio::sync::mpsc;

use super::descriptor;

/// Chunks that wait between the thread and the Sender: one is sent while the next is read.
const CHUNKS: usize = 2;

/// A read gets at least this much room; less would make many small reads of one large buffer.
const ROOM: usize = limits::CHUNK_BYTES / 4;

/// Standard input.
pub(super) struct DescriptorInput {
    state: State,
}

enum State {
    /// Nobody has asked for input yet, so none is taken from whoever else may read it.
    Untouched(Arc<OwnedFd>),
    Reading(mpsc::Receiver<io::Result<Bytes>>),
}

impl DescriptorInput {
    pub(super) fn new(fd: Arc<OwnedFd>) -> Self {
        Self {
            state: State::Untouched(fd),
        }
    }

    fn chunks(&mut self) -> io::Result<&mut mpsc::Receiver<io::Result<Bytes>>> {
        if let State::Untouched(fd) = &self.state {
            let (chunks_tx, chunks_rx) = mpsc::channel(CHUNKS);
            let fd = Arc::clone(fd);
            // Never joined: it may wait for a key for ever. It ends with the process.
            thread::Builder::new()
                .name("stdin".into())
                .spawn(move || pump(&fd, &chunks_tx))?;
            self.state = State::Reading(chunks_rx);
        }
        match &mut self.state {
            State::Reading(chunks) => Ok(chunks),
            State::Untouched(_) => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl Input for DescriptorInput {
    fn read(&mut self) -> BoxFuture<'_, io::Result<Bytes>> {
        Box::pin(async move {
            let chunk = self.chunks()?.recv().await;
            chunk.unwrap_or_else(|| Ok(Bytes::new()))
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
