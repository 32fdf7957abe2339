//! Folders by descriptor: opening without following links, walking trees of any depth.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Dir, DirEntry, FileType, Mode, OFlags, fstat, mkdirat, openat};
use rustix::io::Errno;

/// Opens one of the files or folders that the engine's side may name; the second argument is
/// whether a final symbolic link is not to be followed.
pub(super) type Open<'a> = dyn Fn(&Path, bool) -> io::Result<File> + Sync + 'a;

/// Folders of one branch that are open at a time. Those above are opened again on the way back, so
/// that depth does not cost descriptors (of which a process has 1,024 by default).
pub(super) const OPEN_FOLDERS: usize = 64;

/// Deepest tree, in folders: far beyond what paths can name (`PATH_MAX` allows 2,048), so that a
/// peer cannot make the stack of folders grow without bound.
pub(super) const DEPTH: usize = 10_000;

/// Names a folder for as long as it exists: device and inode.
pub(super) type Identity = (u64, u64);

/// Names the folder behind a descriptor.
pub(super) fn identity(folder: impl AsFd) -> io::Result<Identity> {
    let stat = fstat(folder)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Opens a folder in a folder without following a symbolic link.
pub(super) fn open_folder(parent: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(parent, name, flags, Mode::empty())?)
}

/// A folder in another, and whether it is new.
pub(super) fn make_or_open(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<(OwnedFd, bool)> {
    // Nobody else looks into it before it is complete and has its mode.
    let made = match mkdirat(parent, name, Mode::RWXU) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(error) => return Err(error.into()),
    };
    match open_folder(parent, name) {
        Ok(folder) => Ok((folder, made)),
        Err(error) if !made && error.raw_os_error() == Some(Errno::NOTDIR.raw_os_error()) => Err(
            io::Error::other("there is something else than a folder at its name"),
        ),
        Err(error) => Err(error),
    }
}

/// Opens the parent of a folder again, making sure that it still is what it was: a folder that was
/// moved meanwhile has another one.
pub(super) fn reopen_parent(folder: impl AsFd, parent: Identity) -> io::Result<OwnedFd> {
    let opened = open_folder(folder, b"..")?;
    if identity(&opened)? == parent {
        Ok(opened)
    } else {
        Err(io::Error::other("a folder was moved meanwhile"))
    }
}

/// What an open file or folder is.
pub(super) fn kind(file: impl AsFd) -> io::Result<FileType> {
    Ok(FileType::from_raw_mode(fstat(file)?.st_mode))
}

/// Walks a tree depth first, one entry at a time, keeping nothing of it but the branch it is in.
#[derive(Debug, Default)]
pub(super) struct Walk {
    branch: Vec<Level>,
}

#[derive(Debug)]
struct Level {
    name: Vec<u8>,
    identity: Identity,
    /// `None` while it is too far up to stay open.
    open: Option<Dir>,
    /// Where to go on reading it.
    offset: i64,
}

/// What a walk comes to.
pub(super) enum Step {
    /// An entry of the folder that the walk is in.
    Entry(DirEntry),
    /// The folder could not be read to its end; it is left next.
    Unreadable(io::Error),
    /// The folder has been left.
    Left,
}

impl Walk {
    /// Goes into a folder.
    pub(super) fn enter(&mut self, folder: OwnedFd, name: &[u8]) -> io::Result<()> {
        if self.branch.len() >= DEPTH {
            return Err(io::Error::other("folders are nested too deeply"));
        }
        self.branch.push(Level {
            name: name.to_vec(),
            identity: identity(&folder)?,
            open: Some(Dir::new(folder)?),
            offset: 0,
        });
        if let Some(far) = self.branch.len().checked_sub(OPEN_FOLDERS + 1)
            && let Some(level) = self.branch.get_mut(far)
        {
            level.open = None;
        }
        Ok(())
    }

    /// The folder that the walk is in.
    pub(super) fn folder(&self) -> io::Result<BorrowedFd<'_>> {
        let level = self.branch.last().and_then(|level| level.open.as_ref());
        Ok(level.ok_or(Errno::BADF)?.fd()?)
    }

    /// The names of the folders from the root, which is not among them, to where the walk is.
    pub(super) fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.branch
            .iter()
            .skip(1)
            .map(|level| level.name.as_slice())
    }

    /// Whether the walk has entered no folder: the root itself is being looked at.
    pub(super) fn is_at_root(&self) -> bool {
        self.branch.is_empty()
    }

    /// How many folders the walk is in.
    pub(super) fn depth(&self) -> usize {
        self.branch.len()
    }

    /// Goes on; `None` when the root has been left.
    ///
    /// # Errors
    /// When the walk cannot find its way back up.
    pub(super) fn next(&mut self) -> io::Result<Option<Step>> {
        let Some(level) = self.branch.last_mut() else {
            return Ok(None);
        };
        let Some(folder) = level.open.as_mut() else {
            return Err(Errno::BADF.into());
        };
        loop {
            match folder.read() {
                Some(Ok(entry)) => {
                    level.offset = entry.offset();
                    if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                        return Ok(Some(Step::Entry(entry)));
                    }
                }
                Some(Err(error)) => return Ok(Some(Step::Unreadable(error.into()))),
                None => return self.leave().map(|()| Some(Step::Left)),
            }
        }
    }

    fn leave(&mut self) -> io::Result<()> {
        let left = self.branch.pop().and_then(|level| level.open);
        if let (Some(left), Some(parent)) = (left, self.branch.last_mut())
            && parent.open.is_none()
        {
            let mut folder = Dir::new(reopen_parent(left.fd()?, parent.identity)?)?;
            folder.seek(parent.offset)?;
            parent.open = Some(folder);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_walk_finds_every_entry_of_a_deep_tree_with_few_folders_open() {
        let root = tempfile::tempdir().unwrap();
        let mut path = root.path().to_owned();
        for _ in 0..3 * OPEN_FOLDERS {
            path.push("d");
            fs::create_dir(&path).unwrap();
            for name in ["a", "b", "e"] {
                fs::write(path.join(name), b"").unwrap();
            }
        }
        let mut walk = Walk::default();
        let opened = open_folder(rustix::fs::CWD, bytes(root.path())).unwrap();
        walk.enter(opened, b"").unwrap();
        let (mut files, mut deepest) = (0, 0);
        while let Some(step) = walk.next().unwrap() {
            let Step::Entry(entry) = step else { continue };
            if entry.file_type() == FileType::Directory {
                let folder = open_folder(walk.folder().unwrap(), b"d").unwrap();
                walk.enter(folder, b"d").unwrap();
            } else {
                files += 1;
            }
            let open = walk.branch.iter().filter(|level| level.open.is_some());
            assert!(open.count() <= OPEN_FOLDERS);
            deepest = deepest.max(walk.depth());
        }
        assert_eq!((files, deepest), (9 * OPEN_FOLDERS, 3 * OPEN_FOLDERS + 1));
    }

    #[test]
    fn a_folder_that_was_moved_does_not_lead_the_way_back() {
        let root = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            fs::create_dir_all(root.path().join(name)).unwrap();
            open_folder(rustix::fs::CWD, bytes(&root.path().join(name))).unwrap()
        };
        let (parent, child, _other) = (make("parent"), make("parent/child"), make("other"));
        let was = identity(&parent).unwrap();
        assert!(reopen_parent(&child, was).is_ok());
        fs::rename(
            root.path().join("parent/child"),
            root.path().join("other/child"),
        )
        .unwrap();
        assert!(reopen_parent(&child, was).is_err());
    }

    fn bytes(path: &Path) -> &[u8] {
        std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())
    }
}
