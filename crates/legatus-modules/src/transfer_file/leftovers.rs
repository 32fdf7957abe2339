//! What copies of a whole tree leave that did not come to their end: looked into, and joined.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{
    AtFlags, Mode, OFlags, RenameFlags, ResolveFlags, fstat, renameat, renameat_with, statat,
};
use rustix::io::Errno;

use super::deletion::entries;
use super::folders::open_resolved;
use super::names;

/// Longest path that is looked up in what an earlier copy left, in bytes (`PATH_MAX`).
const PATH_BYTES: usize = 4096;

/// Opens a path in a tree, and nowhere else.
pub(super) fn look(tree: &OwnedFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    if path.len() >= PATH_BYTES {
        return Err(Errno::NAMETOOLONG);
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    open_resolved(tree, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Moves what a later copy has made into what an earlier one has left. Files that it only had from
/// the tree that is there (`old`) are older than those. What cannot be moved is not worth an error: it
/// comes once more.
///
/// # Errors
/// When nobody waits for it any more.
pub(super) fn merge(
    later: &OwnedFd,
    left: &OwnedFd,
    old: Option<&OwnedFd>,
    is_stopped: &dyn Fn() -> bool,
) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut folders = vec![b".".to_vec()];
    while let Some(path) = folders.pop() {
        if is_stopped() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let (Ok(from), Ok(to)) = (look(later, &path, flags), look(left, &path, flags)) else {
            continue;
        };
        for (name, is_folder) in entries(&from).unwrap_or_default() {
            let name = name.as_slice();
            if renameat_with(&from, name, &to, name, RenameFlags::NOREPLACE).is_ok() {
                continue;
            }
            let below = names::join(&path, [name]);
            if is_folder {
                folders.push(below);
            } else if !is_in(old, &below, &from, name) {
                renameat(&from, name, &to, name).ok();
            }
        }
    }
    Ok(())
}

/// Whether an entry is the same file as that at a path of a tree.
fn is_in(tree: Option<&OwnedFd>, path: &[u8], folder: &OwnedFd, name: &[u8]) -> bool {
    let there = tree.ok_or(Errno::NOENT);
    let there = there.and_then(|tree| fstat(look(tree, path, OFlags::PATH | OFlags::NOFOLLOW)?));
    let here = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
    matches!((there, here), (Ok(there), Ok(here))
        if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino))
}
