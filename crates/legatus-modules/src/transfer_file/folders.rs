//! Folders by descriptor: opening below a folder and nowhere else, and walking trees of any depth.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{
    Dir, DirEntry, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, mkdirat, openat, openat2,
};
use rustix::io::Errno;
use rustix::path::Arg;
use rustix::process::geteuid;

use super::tree::{Cache, Node};

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

/// Opens an entry of a folder, and nothing else: neither what a symbolic link names nor anything that
/// is not below the folder, whatever is swapped in while we look.
pub(super) fn open_beneath(
    parent: impl AsFd,
    name: &[u8],
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match open_resolved(&parent, name, flags, mode, resolve) {
        // Kernels before 5.6 and some sandboxes: for the name of an entry O_NOFOLLOW says the same.
        Err(Errno::NOSYS) if !name.contains(&b'/') && name != b".." => {
            openat(parent, name, flags, mode)
        }
        opened => opened,
    }
}

/// How often a path is looked up at most whose way may have changed meanwhile: each takes
/// microseconds, and who renames all the time must not keep us here.
const LOOK_UPS: u32 = 1000;

/// As `openat2(2)`, which cannot say that a path with `..` leads nowhere else while anything is being
/// renamed or mounted on the machine (`EAGAIN`): then it is looked up again.
pub(super) fn open_resolved(
    folder: impl AsFd,
    path: impl Arg + Copy,
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    for _ in 1..LOOK_UPS {
        match openat2(&folder, path, flags, mode, resolve) {
            Err(Errno::AGAIN) => std::thread::yield_now(),
            opened => return opened,
        }
    }
    openat2(folder, path, flags, mode, resolve)
}

/// Opens a folder in a folder without following a symbolic link.
pub(super) fn open_folder(parent: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    Ok(match open_beneath(parent, name, flags, Mode::empty()) {
        // What O_NOFOLLOW with O_DIRECTORY says of a link.
        Err(Errno::LOOP) => Err(Errno::NOTDIR),
        opened => opened,
    }?)
}

/// The mode of a folder that has not got its own yet: with a bit that nobody gives to folders which are
/// theirs alone, so that a later copy knows one that was left.
const INCOMPLETE: Mode = Mode::RWXU.union(Mode::SVTX);

/// Whether a copy of ours has made a folder, and not come to giving it its mode.
pub(super) fn is_incomplete(stat: &Stat) -> bool {
    let mode = Mode::from_raw_mode(stat.st_mode);
    mode & (Mode::RWXU | Mode::RWXG | Mode::RWXO | Mode::SVTX) == INCOMPLETE
        && stat.st_uid == geteuid().as_raw()
}

/// A folder in another, and whether it is new.
pub(super) fn make_or_open(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<(OwnedFd, bool)> {
    // Nobody else looks into it before it is complete and has its mode.
    let made = match mkdirat(parent, name, INCOMPLETE) {
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
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = openat(folder, c"..", flags, Mode::empty())?;
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
    cache: Arc<Cache>,
}

#[derive(Debug)]
struct Level {
    node: Arc<Node>,
    /// Not all of its entries could be read.
    incomplete: bool,
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
    /// The folder has been left; whether something in it could not be read.
    Left(bool),
}

impl Walk {
    /// Goes into a folder.
    pub(super) fn enter(&mut self, folder: OwnedFd, name: &[u8]) -> io::Result<()> {
        if self.branch.len() >= DEPTH {
            return Err(io::Error::other("folders are nested too deeply"));
        }
        let identity = identity(&folder)?;
        let node = match self.branch.last() {
            Some(parent) => Node::below(&parent.node, name, identity),
            None => Node::root(folder.try_clone()?, identity, &self.cache),
        };
        self.branch.push(Level {
            node,
            incomplete: false,
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
        self.branch.iter().skip(1).map(|level| level.node.name())
    }

    /// The folder that the walk is in, to be opened again later.
    pub(super) fn node(&self) -> Option<&Arc<Node>> {
        self.branch.last().map(|level| &level.node)
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
                Some(Err(error)) => {
                    level.incomplete = true;
                    return Ok(Some(Step::Unreadable(error.into())));
                }
                None => return self.leave().map(|incomplete| Some(Step::Left(incomplete))),
            }
        }
    }

    /// Leaves the folder that the walk is in before its end; whether something was unreadable.
    ///
    /// # Errors
    /// When the walk cannot find its way back up.
    pub(super) fn leave(&mut self) -> io::Result<bool> {
        let left = self.branch.pop();
        let incomplete = left.as_ref().is_some_and(|level| level.incomplete);
        if let (Some(left), Some(parent)) = (left.and_then(|l| l.open), self.branch.last_mut())
            && parent.open.is_none()
        {
            let mut folder = Dir::new(reopen_parent(left.fd()?, parent.node.identity())?)?;
            folder.seek(parent.offset)?;
            parent.open = Some(folder);
        }
        Ok(incomplete)
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
        let opened = open(root.path());
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
            open(&root.path().join(name))
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

    fn open(path: &Path) -> OwnedFd {
        File::open(path).unwrap().into()
    }
}
