//! Tells only what is named below a source, and the folders on the way to it; and counts a source
//! before it is told.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, fstat, statat};

use super::folders::{Step, Walk, open_folder};
use super::listing::{Lister, size};
use super::messages::Leave;
use super::messages::event::Event;
use super::names;
use super::opening::Opened;
use super::packer::Stopped;
use super::report::reason;

impl Lister {
    /// Tells what these paths below the root name, and the folders on the way to it.
    pub(super) fn named(&mut self, walk: &mut Walk, paths: &[bytes::Bytes]) -> Result<(), Stopped> {
        for path in paths {
            let mut names: Vec<_> = path.split(|byte| *byte == b'/').collect();
            names.retain(|name| !matches!(*name, b"" | b"."));
            let Some(name) = names.pop() else {
                self.tree(walk, walk.depth().saturating_sub(1))?;
                continue;
            };
            if names::check_entry(name).is_err() || names.contains(&&b".."[..]) {
                self.failed_at(path, "it leads out of the source")?;
                continue;
            }
            let common = walk
                .names()
                .zip(&names)
                .take_while(|(one, other)| one == *other);
            let common = common.count();
            while walk.depth() > common + 1 {
                self.leave_implied(walk)?;
            }
            if self.enter_all(walk, names.get(common..).unwrap_or_default(), path)? {
                let depth = walk.depth();
                // What was never seen there has not vanished.
                let there = walk
                    .folder()
                    .and_then(|folder| Ok(statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?));
                if let Err(error) = there {
                    self.failed_at(path, &reason(&error))?;
                    continue;
                }
                self.found(walk, name, FileType::Unknown)?;
                self.tree(walk, depth)?;
            }
        }
        while walk.depth() > 0 {
            self.leave_implied(walk)?;
        }
        Ok(())
    }

    pub(super) fn leave_implied(&mut self, walk: &mut Walk) -> Result<(), Stopped> {
        if let Err(error) = walk.leave() {
            self.failed(walk, None, &reason(&error))?;
        }
        self.tell(Event::Leave(Leave { incomplete: true }), None)
    }

    /// Goes down to the folder of something that was named; false if that cannot be.
    pub(super) fn enter_all(
        &mut self,
        walk: &mut Walk,
        names: &[&[u8]],
        path: &[u8],
    ) -> Result<bool, Stopped> {
        for name in names {
            let opened = walk.folder().and_then(|parent| open_folder(parent, name));
            let depth = walk.depth();
            match opened {
                Ok(folder) => self.folder(walk, folder, name, true)?,
                Err(error) => self.failed_at(path, &reason(&error))?,
            }
            if walk.depth() == depth {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn announce(&mut self, opened: &Opened) -> Result<(), Stopped> {
        let (bytes, entries) = match opened {
            Opened::File(file) => (fstat(file).as_ref().map(size).unwrap_or_default(), 1),
            Opened::Seen(stat) => (size(stat), 1),
            Opened::Folder(folder) if self.count => self.count_tree(folder),
            _ => return Ok(()),
        };
        self.total.bytes = self.total.bytes.saturating_add(bytes);
        self.total.entries = self.total.entries.saturating_add(entries);
        self.gauge.total(self.total.bytes, self.total.entries);
        self.tell(Event::Totals(self.total), None)
    }

    /// Bytes and entries of a tree, for progress; what cannot be read counts for nothing.
    pub(super) fn count_tree(&self, folder: &OwnedFd) -> (u64, u64) {
        let mut walk = Walk::default();
        let (mut bytes, mut entries) = (0_u64, 1_u64);
        let entered = open_folder(folder, b".").and_then(|folder| walk.enter(folder, b""));
        if entered.is_err() {
            return (bytes, entries);
        }
        while let Ok(Some(step)) = walk.next() {
            let Step::Entry(entry) = step else { continue };
            let Ok(parent) = walk.folder() else { continue };
            let name = entry.file_name().to_bytes();
            let is_folder = entry.file_type() == FileType::Directory;
            if self.filter.excludes(walk.names(), name, is_folder) {
                continue;
            }
            if is_folder {
                entries += 1;
                if let Ok(folder) = open_folder(parent, name) {
                    // Too deep: the copy will tell.
                    walk.enter(folder, name).ok();
                }
                continue;
            }
            let Ok(stat) = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
                if self.filter.excludes_size(size(&stat)) {
                    continue;
                }
                bytes = bytes.saturating_add(size(&stat));
            }
            entries += 1;
        }
        (bytes, entries)
    }
}
