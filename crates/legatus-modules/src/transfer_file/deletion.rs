//! Removing what the source does not have, at any depth, without following a link.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, fchmod, unlinkat};
use rustix::io::Errno;

use super::filter::Filter;
use super::folders::{DEPTH, Identity, OPEN_FOLDERS, identity, open_folder, reopen_parent};
use super::temporary::is_temporary;

/// Names of the entries of a folder, for which a look is enough whether they should be there.
pub(super) fn entries(folder: impl AsFd) -> io::Result<Vec<(Vec<u8>, bool)>> {
    let mut entries = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            entries.push((name.to_vec(), entry.file_type() == FileType::Directory));
        }
    }
    Ok(entries)
}

/// What is removed, and who wants to know.
pub(super) struct Removal<'a> {
    /// What it leaves out stays, and with it the folders that it is in.
    pub(super) filter: &'a Filter,
    /// Only tell.
    pub(super) dry_run: bool,
    /// Folders whose modes forbid to remove what is in them get others.
    pub(super) opens_up: bool,
    /// Hears of each entry: its names from the root of the copy, and whether it is a folder.
    pub(super) told: &'a mut dyn FnMut(&[&[u8]], bool),
}

/// A folder that is being emptied.
struct Level {
    /// `None` while it is too far up to stay open.
    folder: Option<OwnedFd>,
    identity: Identity,
    left: Vec<(Vec<u8>, bool)>,
    /// Something in it stays.
    keeps: bool,
}

impl Removal<'_> {
    /// Removes an entry of a folder that these names lead to, with all that is in it.
    ///
    /// # Errors
    /// When something cannot be removed; what comes after it stays, too.
    pub(super) fn remove(
        &mut self,
        parent: impl AsFd,
        folders: &[&[u8]],
        name: &[u8],
        is_folder: bool,
    ) -> io::Result<()> {
        if !is_folder {
            return self.unlink(parent, folders, name);
        }
        let mut above: Vec<Vec<u8>> = folders.iter().map(|name| name.to_vec()).collect();
        let base = above.len();
        let mut levels = vec![self.level(&parent, &mut above, name)?];
        loop {
            let depth = levels.len();
            let Some(level) = levels.last_mut() else {
                break;
            };
            let folder = level.folder.as_ref().ok_or(Errno::BADF)?;
            if let Some((name, is_folder)) = level.left.pop() {
                let names: Vec<&[u8]> = above.iter().map(Vec::as_slice).collect();
                if is_temporary(&name) && !is_folder {
                    // A copy of ours left it.
                    if !self.dry_run {
                        unlinkat(folder, &name, AtFlags::empty()).ok();
                    }
                } else if self
                    .filter
                    .excludes(names.iter().copied(), &name, is_folder)
                {
                    level.keeps = true;
                } else if is_folder && depth < DEPTH {
                    let inner = self.level(folder, &mut above, &name)?;
                    levels.push(inner);
                    // Those far up are opened again on the way back.
                    if let Some(far) = levels.len().checked_sub(OPEN_FOLDERS + 1)
                        && let Some(level) = levels.get_mut(far)
                    {
                        level.folder = None;
                    }
                } else {
                    self.unlink(folder, &names, &name)?;
                }
                continue;
            }
            let Some(done) = levels.pop() else { break };
            let Some(name) = above.pop() else { break };
            // By the way that it was come to: what is there now may be another.
            let names: Vec<&[u8]> = above.iter().map(Vec::as_slice).collect();
            let Some(level) = levels.last_mut() else {
                if !done.keeps {
                    self.rmdir(&parent, names.get(..base).unwrap_or(&names), &name)?;
                }
                break;
            };
            let inner = done.folder.as_ref().ok_or(Errno::BADF)?;
            let folder = &*level.folder.insert(reopen_parent(inner, level.identity)?);
            if done.keeps {
                level.keeps = true;
            } else {
                self.rmdir(folder, &names, &name)?;
            }
        }
        Ok(())
    }

    fn level(&self, parent: impl AsFd, above: &mut Vec<Vec<u8>>, name: &[u8]) -> io::Result<Level> {
        let folder = open_folder(parent, name)?;
        if self.opens_up && !self.dry_run {
            fchmod(&folder, Mode::RWXU)?;
        }
        let level = Level {
            identity: identity(&folder)?,
            left: entries(&folder)?,
            folder: Some(folder),
            keeps: false,
        };
        above.push(name.to_vec());
        Ok(level)
    }

    fn unlink(&mut self, parent: impl AsFd, folders: &[&[u8]], name: &[u8]) -> io::Result<()> {
        if !self.dry_run {
            match unlinkat(parent, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        (self.told)(&[folders, &[name]].concat(), false);
        Ok(())
    }

    fn rmdir(&mut self, parent: impl AsFd, folders: &[&[u8]], name: &[u8]) -> io::Result<()> {
        if !self.dry_run {
            match unlinkat(parent, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        (self.told)(&[folders, &[name]].concat(), true);
        Ok(())
    }
}
