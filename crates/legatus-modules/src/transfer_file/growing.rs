//! Files while they are written: what comes is hashed and handed to the disk.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use rustix::fs::{AtFlags, Mode, copy_file_range, fstatfs, linkat, unlinkat};
use rustix::io::Errno;

use super::beside::beside;
use super::delta::{Basis, BlockHash};
use super::messages::Options;
use super::metadata;
use super::partial::Partial;
use super::staged::Staged;
use super::target::{Pending, Shared};
use super::temporary::Place;
use super::transcript::Transcript;

/// Bytes of a file after which they begin to go to the disk.
const WRITE_BACK_BYTES: u64 = 16 << 20;

/// Bytes that are copied at a time from the older file: they stay in the level 2 cache until they are
/// written.
const COPY_BYTES: u64 = 256 << 10;

/// Bytes for which a thread of their own is worth while.
const HALF_BYTES: u64 = 1 << 20;

/// The file whose contents are coming.
pub(super) struct Current {
    pub(super) entry: u64,
    pub(super) pending: Pending,
    /// `None` if it could not be written: what comes is let pass.
    pub(super) file: Option<Growing>,
    pub(super) transcript: Transcript,
    /// Of all contents, where they are read back in the end.
    pub(super) whole: Option<blake3::Hasher>,
    pub(super) at: u64,
    pub(super) written_back: u64,
    pub(super) reused: u64,
}

/// A file that is being written.
pub(super) struct Growing {
    pub(super) staged: Staged,
    pub(super) partial: Option<Partial>,
    /// The last that came was a hole.
    pub(super) ends_in_hole: bool,
    /// Blocks of the older file can be shared with it.
    shares: bool,
}

/// A file that is complete and has no name yet.
pub(super) struct Ready {
    pub(super) entry: u64,
    pub(super) pending: Pending,
    pub(super) file: Growing,
    pub(super) bytes: u64,
    pub(super) reused: u64,
}

impl Growing {
    pub(super) fn begin(pending: &mut Pending, offset: u64) -> io::Result<Self> {
        if let Some((mut partial, file)) = pending.partial.take() {
            if offset == 0 {
                partial.restart()?;
            } else if offset != partial.verified() {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            let shares = pending.basis.is_some() && shares_blocks(&file);
            return Ok(Self {
                staged: Staged::lasting(file, offset)?,
                partial: Some(partial),
                ends_in_hole: false,
                shares,
            });
        }
        if offset > 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let folder = pending.site.open()?;
        let place = Place::new(folder.as_fd(), &pending.site.sweep);
        let staged = Staged::create(place, &pending.name)?;
        let shares = pending.basis.is_some() && shares_blocks(staged.file());
        Ok(Self {
            staged,
            partial: None,
            ends_in_hole: false,
            shares,
        })
    }

    /// Goes on with blocks of the older file; their hashes. What is hashed is what is handed to write(2),
    /// or what is in the new file then. `seen` gets all of it in order, if there is such.
    fn take(
        &mut self,
        basis: &Basis,
        from: u64,
        at: u64,
        bytes: u64,
        seen: Option<&mut blake3::Hasher>,
    ) -> io::Result<Vec<BlockHash>> {
        let to = self.staged.file();
        let taking = Taking {
            basis,
            to,
            from,
            at,
            is_there: self.shares && shared(&basis.file, from, to, at, bytes)?,
            writing: Mutex::new(()),
        };
        // Whole blocks for each of two threads.
        let half = bytes / basis.block / 2 * basis.block;
        let hashes = match seen {
            None if half >= HALF_BYTES => {
                let first = || taking.blocks(0..half, None);
                let second = || taking.blocks(half..bytes, None);
                let (second, first) = beside(second, first)?;
                [first?, second?].concat()
            }
            seen => taking.blocks(0..bytes, seen)?,
        };
        self.staged.skip(bytes)?;
        Ok(hashes)
    }
}

/// Blocks of the older file on their way into the new one.
struct Taking<'a> {
    basis: &'a Basis,
    to: &'a File,
    from: u64,
    at: u64,
    /// They are in the new file, and only to be hashed.
    is_there: bool,
    /// Held by whoever writes. The kernel lets one thread write into a file at a time, and the others
    /// wait for it in a loop that takes their processor.
    writing: Mutex<()>,
}

impl Taking<'_> {
    /// Reads, hashes and writes a part of them.
    fn blocks(
        &self,
        part: std::ops::Range<u64>,
        mut seen: Option<&mut blake3::Hasher>,
    ) -> io::Result<Vec<BlockHash>> {
        let block = self.basis.block;
        // Some at a time, if they are short.
        let together = (COPY_BYTES / block).max(1) * block;
        let length = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let mut room = vec![0; length(together.min(part.end - part.start))];
        let mut hashes = Vec::new();
        let mut next = part.start;
        while next < part.end {
            let now = together.min(part.end - next);
            let data = room.get_mut(..length(now)).unwrap_or_default();
            if self.is_there {
                self.to.read_exact_at(data, self.at + next)?;
            } else {
                self.basis.file.read_exact_at(data, self.from + next)?;
            }
            let blocks = data.chunks_exact(length(block));
            hashes.extend(blocks.map(|data| self.basis.key.hash(data)));
            if !self.is_there {
                let _turn = self.writing.lock();
                self.to.write_all_at(data, self.at + next)?;
            }
            if let Some(seen) = &mut seen {
                seen.update(data);
            }
            next += now;
        }
        Ok(hashes)
    }
}

/// Has a range of a file be that of another, without copying; whether that could be.
fn shared(from: &File, from_at: u64, to: &File, to_at: u64, bytes: u64) -> io::Result<bool> {
    let length = usize::try_from(bytes).unwrap_or(usize::MAX);
    match share_range(from, from_at, to, to_at, length) {
        Ok(()) => Ok(true),
        // What is not between whole blocks of the file system, for example.
        Err(Errno::INVAL | Errno::XDEV | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether files there can share blocks. Elsewhere the kernel would copy them, and we read them once more
/// to hash them: that is slower than to read and write.
fn shares_blocks(file: &File) -> bool {
    const BTRFS: u64 = 0x9123_683e;
    const XFS: u64 = 0x5846_5342;
    const BCACHEFS: u64 = 0xca45_1a4e;
    let kind = fstatfs(file).map(|stat| u64::try_from(stat.f_type));
    matches!(kind, Ok(Ok(BTRFS | XFS | BCACHEFS)))
}

/// Makes a range of a file that of another.
fn share_range(
    from: &File,
    mut from_at: u64,
    to: &File,
    mut to_at: u64,
    mut length: usize,
) -> Result<(), Errno> {
    while length > 0 {
        // It moves both places on.
        let (first, second) = (Some(&mut from_at), Some(&mut to_at));
        match copy_file_range(from, first, to, second, length)? {
            // The older file has become shorter; reading tells it.
            0 => return Err(Errno::INVAL),
            copied => length = length.saturating_sub(copied),
        }
    }
    Ok(())
}

impl Pending {
    /// Whether the file is to be asked for once more, now.
    pub(super) fn asks_again(&mut self) -> bool {
        self.is_second && !std::mem::replace(&mut self.was_asked_again, true)
    }
}

impl Current {
    pub(super) fn data(&mut self, data: &[u8], is_durable: bool) -> io::Result<()> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        self.transcript.data(data);
        if let Some(whole) = &mut self.whole {
            whole.update(data);
        }
        file.staged.write(data)?;
        file.ends_in_hole = false;
        self.wrote(data.len() as u64, is_durable);
        Ok(())
    }

    pub(super) fn wrote(&mut self, bytes: u64, is_durable: bool) {
        self.at = self.at.saturating_add(bytes);
        let waiting = self.at.saturating_sub(self.written_back);
        if let Some(file) = &self.file
            && is_durable
            && waiting >= WRITE_BACK_BYTES
        {
            file.staged.start_write_back(self.written_back, waiting);
            self.written_back = self.at;
        }
    }

    pub(super) fn hole(&mut self, length: u64) -> io::Result<()> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        self.transcript.hole(length);
        if let Some(whole) = &mut self.whole {
            let zeros = [0; 64 << 10];
            let mut left = length;
            while left > 0 {
                let now = left.min(zeros.len() as u64);
                whole.update(
                    zeros
                        .get(..usize::try_from(now).unwrap_or(0))
                        .unwrap_or(&zeros),
                );
                left -= now;
            }
        }
        file.staged.skip(length)?;
        file.ends_in_hole = true;
        self.at = self.at.checked_add(length).ok_or(Errno::FBIG)?;
        Ok(())
    }

    /// Copies blocks of the older file.
    pub(super) fn copy(&mut self, from: u64, bytes: u64, is_durable: bool) -> io::Result<()> {
        let (Some(file), Some(basis)) = (&mut self.file, &self.pending.basis) else {
            return Ok(());
        };
        let overflow = || io::Error::from(Errno::FBIG);
        from.checked_add(bytes).ok_or_else(overflow)?;
        self.at.checked_add(bytes).ok_or_else(overflow)?;
        let hashes = file.take(basis, from, self.at, bytes, self.whole.as_mut())?;
        for hash in hashes {
            self.transcript.block(hash, basis.block);
        }
        file.ends_in_hole = false;
        self.reused = self.reused.saturating_add(bytes);
        self.wrote(bytes, is_durable);
        Ok(())
    }

    /// Hashes what was kept of an interrupted copy, where all is to be read back in the end.
    pub(super) fn hash_kept(&mut self) -> io::Result<()> {
        let (Some(whole), Some(file)) = (&mut self.whole, &self.file) else {
            return Ok(());
        };
        let mut room = vec![0; 1 << 20];
        let mut at = 0;
        while at < self.at {
            let now = usize::try_from(self.at - at)
                .unwrap_or(room.len())
                .min(room.len());
            let data = room.get_mut(..now).unwrap_or_default();
            file.staged.file().read_exact_at(data, at)?;
            whole.update(data);
            at += now as u64;
        }
        Ok(())
    }

    pub(super) fn passed(&mut self, is_durable: bool) -> io::Result<()> {
        let Some(Growing {
            staged,
            partial: Some(partial),
            ends_in_hole,
            ..
        }) = &mut self.file
        else {
            return Ok(());
        };
        if std::mem::take(ends_in_hole) {
            staged.end_at(self.at)?;
        }
        partial.passed(self.at, staged.file(), is_durable)
    }

    /// Does everything that a complete file needs before it gets its name.
    pub(super) fn complete(
        &mut self,
        options: &Options,
        (mode, is_given): (Mode, bool),
    ) -> io::Result<metadata::Lost> {
        let Some(file) = &mut self.file else {
            return Ok(metadata::Lost::default());
        };
        if file.ends_in_hole {
            file.staged.end_at(self.at)?;
        }
        if let Some(whole) = &self.whole {
            file.staged.sync()?;
            if file.staged.digest_on_disk()? != whole.finalize() {
                let why = "the disk gives back other contents than were written";
                return Err(io::Error::other(why));
            }
        }
        let attributes = &self.pending.attributes;
        metadata::set(
            file.staged.as_fd(),
            attributes,
            mode,
            is_given,
            options.archive,
        )
    }
}

impl Ready {
    pub(super) fn name(self, shared: &Shared) -> io::Result<()> {
        let folder = self.pending.site.open()?;
        let name = self.pending.name.as_slice();
        let suffix = &shared.options.backup;
        if self.pending.replaces && !suffix.is_empty() && !name.ends_with(suffix) {
            let backup = [name, suffix].concat();
            match unlinkat(&*folder, &backup, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
            linkat(&*folder, name, &*folder, backup, AtFlags::empty())?;
        }
        let named = match self.file.partial {
            Some(partial) => partial.commit(name),
            None => {
                let place = Place::new(folder.as_fd(), &self.pending.site.sweep);
                self.file.staged.commit(place, name)
            }
        };
        close_beside(self.pending.basis);
        named
    }
}

/// Files of so many bytes take longer to free than a thread to start.
const LONG_TO_FREE: u64 = 256 << 20;

/// Closes a file that has no name any more in a thread of its own: the system takes half a second to free
/// 4 GiB then, for which nobody needs to wait.
fn close_beside(older: Option<Arc<Basis>>) {
    if let Some(older) = older
        && older
            .file
            .metadata()
            .is_ok_and(|stat| stat.len() >= LONG_TO_FREE)
    {
        // Where there is no thread it is closed here.
        let close = move || drop(older);
        std::thread::Builder::new().spawn(close).ok();
    }
}
