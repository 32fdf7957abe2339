//! Output of a kept call that memory is not to hold: a ring of bytes in a file without a name.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use rustix::fs::{Mode, OFlags};

/// A ring of bytes, written and freed in the same order. Its file has no name, so that it goes with
/// its process, and is emptied whenever nothing is in it.
#[derive(Debug)]
pub(super) struct Spill {
    file: Option<File>,
    /// The file's size, at most; it stays when the capacity goes.
    size: u64,
    capacity: u64,
    /// Bytes that were ever freed, and ever written.
    freed: u64,
    written: u64,
}

impl Spill {
    /// One that holds nothing.
    pub(super) fn none() -> Self {
        Self {
            file: None,
            size: 0,
            capacity: 0,
            freed: 0,
            written: 0,
        }
    }

    /// One of so many bytes in a folder's file system.
    ///
    /// # Errors
    /// When the folder cannot be written to, or its file system has no files without a name
    /// (O_TMPFILE of open(2)).
    pub(super) fn new(folder: impl AsFd, capacity: u64) -> io::Result<Self> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::openat(folder, ".", flags, Mode::RUSR | Mode::WUSR)?;
        Ok(Self {
            file: Some(file.into()),
            size: capacity,
            capacity,
            ..Self::none()
        })
    }

    /// Bytes that it can hold; none any more after it could not be written.
    pub(super) fn capacity(&self) -> usize {
        usize::try_from(self.capacity).unwrap_or(usize::MAX)
    }

    /// Takes bytes; their place, or `None` if there is no room.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Option<u64> {
        let place = self.written;
        let end = place.checked_add(bytes.len() as u64)?;
        if end - self.freed > self.capacity {
            return None;
        }
        let file = self.file.as_ref()?;
        let (offset, before_end) = self.split(place, bytes.len());
        let (head, tail) = bytes.split_at_checked(before_end)?;
        let written = file
            .write_all_at(head, offset)
            .and_then(|()| file.write_all_at(tail, 0));
        if let Err(error) = written {
            // What is there can still be read.
            tracing::warn!(%error, "a session puts no more on disk");
            self.capacity = 0;
            return None;
        }
        self.written = end;
        Some(place)
    }

    /// The bytes that were put at a place.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(super) fn read(&self, place: u64, length: usize) -> io::Result<Bytes> {
        let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let mut bytes = vec![0; length];
        let (offset, before_end) = self.split(place, length);
        let (head, tail) = bytes
            .split_at_mut_checked(before_end)
            .ok_or(io::ErrorKind::InvalidInput)?;
        file.read_exact_at(head, offset)?;
        file.read_exact_at(tail, 0)?;
        Ok(bytes.into())
    }

    /// Gives the room of the oldest bytes back.
    pub(super) fn free(&mut self, length: usize) {
        self.freed += length as u64;
        if self.freed == self.written
            && let Some(file) = &self.file
        {
            // Only for the disk's sake.
            file.set_len(0).ok();
        }
    }

    /// Where in the file a place is, and how many bytes there are before the file's end.
    fn split(&self, place: u64, length: usize) -> (u64, usize) {
        let size = self.size.max(1);
        let offset = place % size;
        let before_end = usize::try_from(size - offset).unwrap_or(usize::MAX);
        (offset, before_end.min(length))
    }
}
