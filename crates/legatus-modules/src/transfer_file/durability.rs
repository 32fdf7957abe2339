//! When a copy waits for the disk: by batches, not for each small file.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::syncfs;

use super::destination::durable;
use super::staged::Staged;
use super::temporary::Place;

/// From this size on a file is synced before it gets its name: waiting for its bytes costs more than
/// the call, and would have to be done in any case.
const LARGE: u64 = 8 << 20;

/// So many small files and folders are synced one by one. With more, one `syncfs` at the end costs
/// less, though it also waits for what others have written to the file system.
const ONE_BY_ONE: u32 = 16;

/// File systems below one target that are remembered for `syncfs`; entries on further ones are
/// synced one by one.
const FILE_SYSTEMS: usize = 16;

/// Decides when to wait for the disk, and remembers what is still to be waited for.
#[derive(Debug)]
pub(super) struct Durability {
    enabled: bool,
    one_by_one: u32,
    /// One folder of each file system with entries that are still to be synced.
    deferred: HashMap<u64, OwnedFd>,
}

impl Durability {
    pub(super) fn new(enabled: bool) -> Self {
        Self {
            enabled,
            one_by_one: 0,
            deferred: HashMap::new(),
        }
    }

    /// Syncs a file of that size which is about to get its name in a folder, or defers it.
    pub(super) fn file(&mut self, file: &Staged, size: u64, place: Place<'_>) -> io::Result<()> {
        if self.enabled && (size >= LARGE || !self.defer(place.folder, place.device)?) {
            return file.sync();
        }
        Ok(())
    }

    /// Syncs the entries of a folder that is complete, or defers it.
    pub(super) fn folder(&mut self, folder: BorrowedFd<'_>, device: u64) -> io::Result<()> {
        if self.enabled && !self.defer(folder, device)? {
            return durable(folder);
        }
        Ok(())
    }

    /// Waits until everything is on the disk that was deferred, and the target's own folder.
    pub(super) fn finish(&self, target: impl AsFd) -> io::Result<()> {
        if !self.enabled {
            return Ok(());
        }
        for folder in self.deferred.values() {
            syncfs(folder)?;
        }
        durable(target)
    }

    fn defer(&mut self, folder: BorrowedFd<'_>, device: u64) -> io::Result<bool> {
        if self.deferred.contains_key(&device) {
            return Ok(true);
        }
        self.one_by_one = self.one_by_one.saturating_add(1);
        if self.one_by_one <= ONE_BY_ONE || self.deferred.len() >= FILE_SYSTEMS {
            return Ok(false);
        }
        self.deferred.insert(device, folder.try_clone_to_owned()?);
        Ok(true)
    }
}
