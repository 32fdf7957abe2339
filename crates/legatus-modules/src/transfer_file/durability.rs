//! When a copy waits for the disk: by batches, not for each small file, and always before a file gets
//! its name.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};

use rustix::fs::syncfs;

use super::destination::durable;
use super::staged::Staged;
use super::target::lock;

/// So many files of a batch are synced one by one. With more, one `syncfs` costs less, though it
/// also waits for what others have written to the file system.
const ONE_BY_ONE: usize = 8;

/// So many folders are synced one by one, and then once at the end.
const FOLDERS_ONE_BY_ONE: u32 = 16;

/// File systems below one target that are remembered for `syncfs`; folders on further ones are
/// synced one by one.
const FILE_SYSTEMS: usize = 16;

/// Decides when to wait for the disk, and remembers what is still to be waited for.
#[derive(Debug)]
pub(super) struct Durability {
    enabled: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    one_by_one: u32,
    /// One folder of each file system with entries that are still to be synced.
    deferred: HashMap<u64, Arc<OwnedFd>>,
}

impl Durability {
    pub(super) fn new(enabled: bool) -> Self {
        Self {
            enabled,
            state: Mutex::default(),
        }
    }

    /// Whether the disk is waited for.
    pub(super) fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Syncs files that are about to get their names.
    pub(super) fn files<'a>(
        &self,
        files: impl ExactSizeIterator<Item = (&'a Staged, u64)>,
    ) -> io::Result<()> {
        if !self.enabled {
            return Ok(());
        }
        if files.len() <= ONE_BY_ONE {
            for (file, _) in files {
                file.sync()?;
            }
            return Ok(());
        }
        let one_of_each: HashMap<u64, &Staged> =
            files.map(|(file, device)| (device, file)).collect();
        for file in one_of_each.values() {
            syncfs(file.file())?;
        }
        Ok(())
    }

    /// Syncs the entries of a folder that is complete, or defers it.
    pub(super) fn folder(&self, folder: &Arc<OwnedFd>, device: u64) -> io::Result<()> {
        if self.enabled && !self.defer(folder, device) {
            return durable(folder);
        }
        Ok(())
    }

    /// Waits until everything is on the disk that was deferred, and the target's own folder.
    pub(super) fn finish(&self, target: impl AsFd) -> io::Result<()> {
        if !self.enabled {
            return Ok(());
        }
        for folder in lock(&self.state).deferred.values() {
            syncfs(folder)?;
        }
        durable(target)
    }

    fn defer(&self, folder: &Arc<OwnedFd>, device: u64) -> bool {
        let mut state = lock(&self.state);
        if state.deferred.contains_key(&device) {
            return true;
        }
        state.one_by_one = state.one_by_one.saturating_add(1);
        if state.one_by_one <= FOLDERS_ONE_BY_ONE || state.deferred.len() >= FILE_SYSTEMS {
            return false;
        }
        state.deferred.insert(device, Arc::clone(folder));
        true
    }
}
