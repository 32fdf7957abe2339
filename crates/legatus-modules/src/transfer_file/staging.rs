//! A tree that is made as a whole beside its name, and swapped in by one rename when it is complete.
//!
//! It begins as a copy of the tree that is there, of which every file is the same inode (a hard link),
//! and then is written to as any other target: that replaces files and never writes into them. What is
//! to get other attributes is copied first, sharing its blocks where the file system can do that.
//!
//! A copy that does not come to its end leaves the tree that is there as it was. What it has made
//! stays beside it under a name that is the same in every copy; the next one takes from there what fits.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, Stat, Uid, copy_file_range, fchown, fstat,
    ftruncate, ioctl_ficlone, linkat, mkdirat, readlinkat, renameat, renameat_with, statat,
    symlinkat, syncfs,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::deletion::{Removal, entries};
use super::destination::durable;
use super::filter::Filter;
use super::folders::{identity, open_beneath, open_folder};
use super::leftovers::{self, look};
use super::messages::{Attributes, Options, PERMISSIONS, Time};
use super::metadata;
use super::names;
use super::partial::{self, PARTIAL_USES};
use super::staged;
use super::temporary::{Place, lasting_name};
use super::tree::Node;
use super::xattrs;

/// A tree that is being made.
#[derive(Debug)]
pub(super) struct Stage {
    /// The folder that the tree belongs into.
    parent: OwnedFd,
    name: Vec<u8>,
    /// Its name until it is complete.
    staged: Vec<u8>,
    /// There is a tree at the name already.
    pub(super) replaces: bool,
    /// That tree, from when it is to be swapped: locked, for it gets the name that trees have which are
    /// being made, and another copy would take it for one.
    old: Option<OwnedFd>,
    left: Option<OwnedFd>,
    /// The tree's own folder: locked, so that no other copy makes the same.
    _lock: OwnedFd,
}

impl Stage {
    /// Begins a tree that will have this name in a folder, with what is there already.
    ///
    /// # Errors
    /// When something else than a folder is there, another copy makes the same tree, or what is
    /// there can be neither linked nor copied.
    pub(super) fn begin(
        parent: OwnedFd,
        name: &[u8],
        is_stopped: &dyn Fn() -> bool,
    ) -> io::Result<Self> {
        let owner = owner(old_tree(&parent, name)?.as_ref())?;
        let staged = lasting_name(name, "tree");
        let left_name = lasting_name(name, "left");
        let lock = loop {
            let made = match mkdirat(&parent, staged.as_slice(), Mode::RWXU) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(error) => return Err(error.into()),
            };
            let folder = open_own(&parent, &staged, owner)?;
            if !partial::lock(&folder)? {
                return Err(io::Error::other("another copy is making the same tree"));
            }
            // Who had it before may have swapped or moved it.
            let there = open_folder(&parent, &staged).and_then(identity).ok();
            if there != Some(identity(&folder)?) {
                continue;
            }
            if made {
                break folder;
            }
            let (from, to) = (staged.as_slice(), left_name.as_slice());
            match renameat_with(&parent, from, &parent, to, RenameFlags::NOREPLACE) {
                Ok(()) => {}
                Err(Errno::EXIST) => {
                    let left = open_own(&parent, to, owner)?;
                    let old = old_tree(&parent, name)?;
                    leftovers::merge(&folder, &left, old.as_ref(), is_stopped)?;
                    remove(&parent, from)?;
                }
                // File systems that cannot do that.
                Err(_) => {
                    remove(&parent, to)?;
                    renameat(&parent, from, &parent, to)?;
                }
            }
        };
        let left = match open_own(&parent, &left_name, owner) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            opened => Some(opened?),
        };
        // Another copy may have swapped it while this one waited for the lock.
        let old = old_tree(&parent, name)?;
        let replaces = old.is_some();
        if let Some(old) = old {
            duplicate(old, lock.try_clone()?, is_stopped)?;
        }
        Ok(Self {
            parent,
            name: name.to_vec(),
            staged,
            replaces,
            old: None,
            left,
            _lock: lock,
        })
    }

    /// The folder that the tree is made in, and its name there.
    pub(super) fn place(&self) -> io::Result<(OwnedFd, &[u8])> {
        Ok((self.parent.try_clone()?, &self.staged))
    }

    /// Takes a file of this size and time from what an earlier copy left, or else the part of it that is
    /// there, into a folder that these names lead to; whether the file is there now.
    /// What is at the name is first made way for.
    pub(super) fn take_over(
        &self,
        (place, folders, name): (Place<'_>, &[&[u8]], &[u8]),
        size: u64,
        modified: Option<Time>,
        make_way: impl FnOnce() -> io::Result<()>,
    ) -> bool {
        let Some(left) = &self.left else {
            return false;
        };
        let file = names::join(b"", folders.iter().copied().chain([name]));
        if let Ok(file) = look(left, &file, OFlags::PATH)
            && let Ok(stat) = fstat(&file)
            && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && u64::try_from(stat.st_size) == Ok(size)
            && Some(Time::modified(&stat)) == modified
        {
            let found = format!("/proc/self/fd/{}", file.as_raw_fd());
            let flags = AtFlags::SYMLINK_FOLLOW;
            let link = |name: &[u8]| linkat(CWD, &found, place.folder, name, flags);
            let made = make_way().and_then(|()| staged::entry(place, name, link, |_| Ok(())));
            return made.is_ok();
        }
        let folder = names::join(b".", folders.iter().copied());
        if let Ok(folder) = look(left, &folder, OFlags::PATH) {
            for use_ in PARTIAL_USES {
                let part = lasting_name(name, use_);
                let flags = RenameFlags::NOREPLACE;
                renameat_with(
                    &folder,
                    part.as_slice(),
                    place.folder,
                    part.as_slice(),
                    flags,
                )
                .ok();
            }
        }
        false
    }

    /// Puts the tree at its name, at once, and removes what was there.
    ///
    /// # Errors
    /// When it could not be swapped in: then everything is as it was.
    pub(super) fn swap(&mut self, is_durable: bool) -> io::Result<()> {
        let flags = if self.replaces {
            let old = open_folder(&self.parent, &self.name)?;
            // Somebody may have it for purposes of their own: so no other copy gets it either.
            partial::lock(&old)?;
            self.old = Some(old);
            RenameFlags::EXCHANGE
        } else {
            RenameFlags::NOREPLACE
        };
        if is_durable {
            // With all that is only linked.
            syncfs(&self.parent)?;
        }
        let (from, to) = (self.staged.as_slice(), self.name.as_slice());
        renameat_with(&self.parent, from, &self.parent, to, flags)?;
        if is_durable {
            durable(&self.parent)?;
        }
        Ok(())
    }

    /// Removes what was at the name, and what earlier copies left.
    pub(super) fn clean(self) -> io::Result<()> {
        // As long as the old tree is there, others wait: only then is what is left nobody else's.
        let left = remove_this(&self.parent, &lasting_name(&self.name, "left"), self.left);
        if let Some(old) = &self.old {
            // If this is killed, the next copy knows it as one of ours, whatever the owner of the new
            // tree is.
            fchown(old, Some(geteuid()), None).ok();
        }
        remove_this(&self.parent, &self.staged, self.old).and(left)
    }
}

/// Removes a tree, if it still is at this name.
fn remove_this(parent: &OwnedFd, name: &[u8], tree: Option<OwnedFd>) -> io::Result<()> {
    let Some(tree) = tree else { return Ok(()) };
    match open_folder(parent, name).and_then(identity) {
        Ok(there) if there == identity(&tree)? => remove(parent, name),
        _ => Ok(()),
    }
}

/// Who owns a tree; us, if there is none.
fn owner(tree: Option<&OwnedFd>) -> io::Result<Uid> {
    Ok(match tree {
        Some(tree) => Uid::from_raw(fstat(tree)?.st_uid),
        None => geteuid(),
    })
}

/// The tree that is there.
fn old_tree(parent: impl AsFd, name: &[u8]) -> io::Result<Option<OwnedFd>> {
    if matches!(name, b"." | b"..") {
        return Err(io::Error::other(
            "it has no name of its own: name the folder in the one that it is in",
        ));
    }
    let stat = match statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => open_folder(parent, name).map(Some),
        FileType::Symlink => Err(io::Error::other(
            "it is a symbolic link: name the folder that it leads to",
        )),
        _ => Err(io::Error::other(
            "there is something else than a folder at its name",
        )),
    }
}

/// Opens a folder that a copy of ours has made, which belongs to us or, once its attributes are those
/// of the tree that is there, to the owner of that.
fn open_own(parent: impl AsFd, name: &[u8], owner: Uid) -> io::Result<OwnedFd> {
    let folder = open_folder(parent, name)?;
    if ![geteuid(), owner].contains(&Uid::from_raw(fstat(&folder)?.st_uid)) {
        let why = "somebody else has a folder at the name that it would have until it is complete";
        return Err(io::Error::other(why));
    }
    Ok(folder)
}

/// Removes a tree, if there is one.
fn remove(parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
    let filter =
        Filter::new(&Options::default()).map_err(|fault| io::Error::other(fault.to_string()))?;
    let removed = Removal {
        filter: &filter,
        dry_run: false,
        opens_up: true,
        told: &mut |_, _| {},
    }
    .remove(parent, &[], name, true);
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// A folder whose entries are being duplicated.
struct Level {
    old: Arc<Node>,
    new: Arc<Node>,
    left: Vec<(Vec<u8>, bool)>,
}

/// Makes a tree of the same files in an empty folder.
fn duplicate(old: OwnedFd, new: OwnedFd, is_stopped: &dyn Fn() -> bool) -> io::Result<()> {
    let left = entries(&old)?;
    let root = |folder: OwnedFd| {
        let identity = identity(&folder)?;
        Ok::<_, io::Error>(Node::root(folder, identity, &Arc::default()))
    };
    let (old, new) = (root(old)?, root(new)?);
    let mut levels = vec![Level { old, new, left }];
    while let Some(level) = levels.last_mut() {
        if is_stopped() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let (from, to) = (level.old.open()?, level.new.open()?);
        match level.left.pop() {
            Some((name, true)) => {
                let (old, left) = {
                    let folder = open_folder(&*from, &name)?;
                    let left = entries(&folder)?;
                    (Node::opened(&level.old, &name, folder)?, left)
                };
                mkdirat(&*to, name.as_slice(), Mode::RWXU)?;
                let folder = open_folder(&*to, &name)?;
                let new = Node::opened(&level.new, &name, folder)?;
                levels.push(Level { old, new, left });
            }
            Some((name, false)) => duplicate_entry(&from, &to, &name)?,
            None => {
                levels.pop();
                let (attributes, mode) = attributes(&fstat(&*from)?, xattrs::of_open(&*from)?);
                metadata::set(to.as_fd(), &attributes, mode, true, true)?;
            }
        }
    }
    Ok(())
}

/// All that a folder or file has beside its contents.
pub(super) fn attributes(
    stat: &Stat,
    extended: Vec<super::messages::Attribute>,
) -> (Attributes, Mode) {
    let mode = Mode::from_raw_mode(stat.st_mode & PERMISSIONS);
    let attributes = Attributes {
        user: Some(stat.st_uid),
        group: Some(stat.st_gid),
        extended,
        ..Attributes::from(stat)
    };
    (attributes, mode)
}

fn duplicate_entry(from: &OwnedFd, to: &OwnedFd, name: &[u8]) -> io::Result<()> {
    match linkat(from, name, to, name, AtFlags::empty()) {
        Ok(()) => return Ok(()),
        // What the kernel's `protected_hardlinks` forbids, and a file with very many names.
        Err(Errno::PERM | Errno::ACCESS | Errno::MLINK) => {}
        Err(error) => return Err(error.into()),
    }
    let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK;
            let older = File::from(open_beneath(from, name, flags, Mode::empty())?);
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
            let newer = File::from(open_beneath(to, name, flags, Mode::RUSR | Mode::WUSR)?);
            copy_contents(&older, &newer)?;
            let (attributes, mode) = attributes(&fstat(&older)?, xattrs::of_open(&older)?);
            metadata::set(newer.as_fd(), &attributes, mode, false, true)?;
        }
        FileType::Symlink => {
            symlinkat(readlinkat(from, name, Vec::new())?, to, name)?;
            let (attributes, _) = attributes(&stat, xattrs::of(from, name)?);
            metadata::set_entry(to, name, &attributes, None, true)?;
        }
        _ => return Err(Errno::PERM.into()),
    }
    Ok(())
}

/// Copies a file into an empty one: by sharing blocks where the file system can do that, and
/// keeping holes.
pub(super) fn copy_contents(mut older: &File, newer: &File) -> io::Result<()> {
    if ioctl_ficlone(newer, older).is_ok() {
        return Ok(());
    }
    let size = older.metadata()?.len();
    ftruncate(newer, size)?;
    let mut at = 0;
    while at < size {
        at = match rustix::fs::seek(older, rustix::fs::SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(older, rustix::fs::SeekFrom::Hole(at))?;
        while at < end {
            let left = usize::try_from(end - at).unwrap_or(usize::MAX);
            let (mut from, mut to) = (at, at);
            match copy_file_range(older, Some(&mut from), newer, Some(&mut to), left) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(copied) => at += copied as u64,
                Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    older.seek(SeekFrom::Start(at))?;
                    let mut newer = newer;
                    newer.seek(SeekFrom::Start(at))?;
                    let copied = io::copy(&mut io::Read::take(older, end - at), &mut newer)?;
                    if copied == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    at += copied;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::path::PathBuf;

    use rustix::fs::{FlockOperation, chown, flock};
    use tempfile::TempDir;

    use super::*;

    fn begin(folder: &TempDir) -> Stage {
        let parent = File::open(folder.path()).unwrap().into();
        Stage::begin(parent, b"t", &|| false).unwrap()
    }

    fn beside(folder: &TempDir, use_: &str) -> PathBuf {
        folder
            .path()
            .join(OsStr::from_bytes(&lasting_name(b"t", use_)))
    }

    fn old(files: &[&str]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("t")).unwrap();
        for file in files {
            fs::write(folder.path().join("t").join(file), b"old").unwrap();
        }
        folder
    }

    #[test]
    fn the_old_tree_is_no_other_copys_until_it_is_gone() {
        let folder = old(&["f"]);
        let mut stage = begin(&folder);
        stage.swap(false).unwrap();
        let there = File::open(beside(&folder, "tree")).unwrap();
        let locked = flock(&there, FlockOperation::NonBlockingLockExclusive);
        assert_eq!(locked, Err(Errno::WOULDBLOCK));
        std::thread::scope(|scope| {
            let other = scope.spawn(|| begin(&folder));
            stage.clean().unwrap();
            let other = other.join().unwrap();
            assert!(beside(&folder, "tree").join("f").exists());
            assert!(other.left.is_none());
        });
    }

    #[test]
    fn a_new_tree_leaves_alone_what_another_copy_makes_by_then() {
        let folder = tempfile::tempdir().unwrap();
        let mut stage = begin(&folder);
        stage.swap(false).unwrap();
        let other = begin(&folder);
        stage.clean().unwrap();
        assert!(beside(&folder, "tree").exists());
        drop(other);
    }

    #[test]
    fn all_that_several_interrupted_copies_have_made_is_kept() {
        let folder = old(&["f", "o"]);
        let make = |name: &str, contents: &str| {
            let path = beside(&folder, "tree").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path.with_extension("made"), contents).unwrap();
            fs::rename(path.with_extension("made"), path).unwrap();
        };
        drop(begin(&folder));
        make("f", "first");
        make("d/a", "first");
        make("d/b", "first");
        drop(begin(&folder));
        make("d/b", "second");
        make("d/c", "second");
        make("e/g", "second");
        let third = begin(&folder);
        assert!(third.left.is_some());
        for (name, contents) in [
            ("f", "first"),
            ("o", "old"),
            ("d/a", "first"),
            ("d/b", "second"),
            ("d/c", "second"),
            ("e/g", "second"),
        ] {
            let left = fs::read_to_string(beside(&folder, "left").join(name)).unwrap();
            assert_eq!(left, contents, "{name}");
        }
        assert!(!beside(&folder, "tree").join("d").exists());
    }

    #[test]
    fn what_is_left_may_have_the_owner_of_the_tree_that_is_there() {
        if !geteuid().is_root() {
            // Only root can make such trees, or copy to them.
            return;
        }
        let folder = old(&["f"]);
        let (user, other) = (Uid::from_raw(1), Uid::from_raw(2));
        chown(folder.path().join("t"), Some(user), None).unwrap();
        drop(begin(&folder));
        assert_eq!(owner(Some(&begin(&folder)._lock)).unwrap(), user);
        let parent = || OwnedFd::from(File::open(folder.path()).unwrap());
        chown(beside(&folder, "tree"), Some(other), None).unwrap();
        assert!(Stage::begin(parent(), b"t", &|| false).is_err());
    }
}
