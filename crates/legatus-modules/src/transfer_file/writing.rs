//! One file that a target is writing, from its first byte to its name.

use std::io;

use bytes::Bytes;
use rustix::fs::Mode;

use super::durability::Durability;
use super::messages::{Attributes, PERMISSIONS, WriteOptions};
use super::staged::Staged;
use super::temporary::Place;

/// The mode of a file whose source tells none, as in the Go original.
const FILE_MODE: u32 = 0o664;

/// Bytes of a file after which they begin to go to the disk.
const WRITE_BACK_BYTES: u64 = 16 << 20;

/// A file whose contents are coming.
#[derive(Debug)]
pub(super) struct Writing {
    staged: Staged,
    name: Bytes,
    attributes: Attributes,
    hasher: blake3::Hasher,
    bytes: u64,
    /// So many of them are on their way to the disk.
    written_back: u64,
    is_durable: bool,
}

impl Writing {
    /// Begins a file in a folder; `is_durable` if the disk is waited for in the end.
    pub(super) fn begin(
        place: Place<'_>,
        name: Bytes,
        attributes: Attributes,
        is_durable: bool,
    ) -> io::Result<Self> {
        Ok(Self {
            staged: Staged::create(place, &name)?,
            name,
            attributes,
            hasher: blake3::Hasher::new(),
            bytes: 0,
            written_back: 0,
            is_durable,
        })
    }

    /// Its name in its folder.
    pub(super) fn name(&self) -> Bytes {
        self.name.clone()
    }

    /// How much has been written.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes the next bytes; what is handed to write(2) is what is hashed.
    pub(super) fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.hasher.update(data);
        self.bytes = self.bytes.saturating_add(data.len() as u64);
        self.staged.write(data)?;
        let waiting = self.bytes.saturating_sub(self.written_back);
        if self.is_durable && waiting >= WRITE_BACK_BYTES {
            self.staged.start_write_back(self.written_back, waiting);
            self.written_back = self.bytes;
        }
        Ok(())
    }

    /// Verifies the file and lets it appear at its name in its folder.
    pub(super) fn complete(
        mut self,
        digest: &[u8],
        options: &WriteOptions,
        durability: &mut Durability,
        place: Place<'_>,
    ) -> io::Result<()> {
        if self.hasher.finalize().as_bytes().as_slice() != digest {
            let why = "its contents are not what the other side read";
            return Err(io::Error::other(why));
        }
        if options.verify_disk {
            self.staged.sync()?;
            if self.staged.digest_on_disk()?.as_bytes().as_slice() != digest {
                let why = "the disk gives back other contents than were written";
                return Err(io::Error::other(why));
            }
        }
        let mode = match options.mode {
            Some(mode) => Mode::from_raw_mode(mode & PERMISSIONS),
            None => self.attributes.file_mode(FILE_MODE),
        };
        self.staged
            .set_attributes(mode, self.attributes.timestamp())?;
        durability.file(&self.staged, self.bytes, place)?;
        self.staged.commit(place, &self.name)
    }
}
