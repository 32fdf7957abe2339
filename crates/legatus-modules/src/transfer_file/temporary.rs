//! Temporary names, for what replaces an existing entry and for files that cannot do without a name,
//! and the removal of those that a killed copy left.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Dir, FileType, Stat, renameat, statat, unlinkat};
use rustix::io::Errno;

use super::names::NAME_BYTES;

/// How temporary names end.
const SUFFIX: &[u8] = b".legatus";
/// Letters of a temporary name that are drawn at random.
const RANDOM: usize = 8;
/// What they are drawn from.
const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// A temporary name that is older was left behind, unless a user says otherwise; no copy of one file
/// takes that long without writing to it.
pub(super) const STALE: Duration = Duration::from_secs(24 * 60 * 60);

/// A folder that entries are made in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) folder: BorrowedFd<'a>,
    sweep: &'a Sweep,
}

impl<'a> Place<'a> {
    pub(super) fn new(folder: BorrowedFd<'a>, sweep: &'a Sweep) -> Self {
        Self { folder, sweep }
    }

    /// Removes what killed copies left in the folder, if nobody has in this copy.
    pub(super) fn sweep(&self) {
        self.sweep.once(self.folder);
    }
}

/// Removes what killed copies left in one folder, when the first temporary name is made in it: the
/// whole folder has to be read for that, so not for each file.
#[derive(Debug)]
pub(super) struct Sweep {
    is_due: AtomicBool,
    stale: Duration,
}

impl Default for Sweep {
    fn default() -> Self {
        Self {
            is_due: AtomicBool::new(true),
            stale: STALE,
        }
    }
}

impl Sweep {
    /// Takes what is as old as this for left behind.
    pub(super) fn after(stale: Duration) -> Self {
        Self {
            stale,
            ..Self::default()
        }
    }

    /// The same for another folder.
    pub(super) fn another(&self) -> Self {
        Self::after(self.stale)
    }

    fn once(&self, folder: BorrowedFd<'_>) {
        if !self.is_due.swap(false, Ordering::Relaxed) {
            return;
        }
        let Ok(entries) = Dir::read_from(folder) else {
            return;
        };
        for entry in entries.flatten() {
            let found = entry.file_name();
            if is_temporary(found.to_bytes())
                && let Ok(stat) = statat(folder, found, AtFlags::SYMLINK_NOFOLLOW)
                && is_stale(&stat, self.stale)
            {
                unlinkat(folder, found, AtFlags::empty()).ok();
            }
        }
    }
}

/// A temporary name, removed when dropped.
#[derive(Debug)]
pub(super) struct Temporary {
    folder: OwnedFd,
    name: Vec<u8>,
}

impl Temporary {
    /// Makes something at a temporary name that belongs to `name`.
    pub(super) fn create<T>(
        place: Place<'_>,
        name: &[u8],
        make: impl Fn(&[u8]) -> Result<T, Errno>,
    ) -> io::Result<(Self, T)> {
        place.sweep.once(place.folder);
        let owned = place.folder.try_clone_to_owned()?;
        loop {
            let temporary = temporary_name(name)?;
            match make(&temporary) {
                Ok(made) => {
                    let guard = Self {
                        folder: owned,
                        name: temporary,
                    };
                    return Ok((guard, made));
                }
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub(super) fn name(&self) -> &[u8] {
        &self.name
    }

    /// Renames it, replacing a file or link that was there and nothing else.
    pub(super) fn commit(mut self, name: &[u8]) -> io::Result<()> {
        check_replaceable(&self.folder, name)?;
        renameat(&self.folder, self.name.as_slice(), &self.folder, name)?;
        self.name.clear();
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            // Nothing more can be done; a later copy sweeps it away.
            unlinkat(&self.folder, self.name.as_slice(), AtFlags::empty()).ok();
        }
    }
}

/// Refuses to replace what holds no contents of its own, such as `/dev/null`.
///
/// # Errors
/// When there is a device, FIFO or socket at that name.
pub(super) fn check_replaceable(folder: impl AsFd, name: &[u8]) -> io::Result<()> {
    let stat = match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    check_kind(FileType::from_raw_mode(stat.st_mode))
}

/// The same for an entry of that kind; rename(2) itself refuses to replace a folder.
pub(super) fn check_kind(kind: FileType) -> io::Result<()> {
    Err(io::Error::other(match kind {
        FileType::RegularFile | FileType::Symlink | FileType::Directory => return Ok(()),
        FileType::Fifo => "there is a FIFO at its name, which is not replaced",
        FileType::Socket => "there is a socket at its name, which is not replaced",
        _ => "there is a device at its name, which is not replaced",
    }))
}

fn temporary_name(name: &[u8]) -> io::Result<Vec<u8>> {
    let mut random = [0; RANDOM];
    getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(name_with(name, random))
}

/// The temporary name for `name` that is the same in every copy; `use_` tells apart what is kept for
/// it.
pub(super) fn lasting_name(name: &[u8], use_: &str) -> Vec<u8> {
    let hash = blake3::Hasher::new()
        .update(use_.as_bytes())
        .update(name)
        .finalize();
    let mut letters = [0; RANDOM];
    letters.copy_from_slice(hash.as_bytes().split_at(RANDOM).0);
    name_with(name, letters)
}

fn name_with(name: &[u8], random: [u8; RANDOM]) -> Vec<u8> {
    let letters = random.map(|byte| LETTERS.get(usize::from(byte % 32)).copied().unwrap_or(b'a'));
    let room = NAME_BYTES - 2 - RANDOM - SUFFIX.len();
    let name = name.get(..room).unwrap_or(name);
    [b".", name, b".", &letters, SUFFIX].concat()
}

/// Whether a name is one that [`temporary_name`] makes, for whatever file.
pub(super) fn is_temporary(name: &[u8]) -> bool {
    let rest = name.strip_prefix(b".");
    let Some(rest) = rest.and_then(|rest| rest.strip_suffix(SUFFIX)) else {
        return false;
    };
    let Some((name, random)) = rest.split_last_chunk::<RANDOM>() else {
        return false;
    };
    name.len() > 1 && name.ends_with(b".") && random.iter().all(|letter| LETTERS.contains(letter))
}

/// By the time of the last change to the inode: the time of modification is the source's already.
fn is_stale(stat: &Stat, after: Duration) -> bool {
    let ours = stat.st_uid == rustix::process::geteuid().as_raw();
    let kind = FileType::from_raw_mode(stat.st_mode);
    let changed = u64::try_from(stat.st_ctime).unwrap_or_default();
    let age = SystemTime::now()
        .duration_since(UNIX_EPOCH + Duration::from_secs(changed))
        .unwrap_or_default();
    ours && matches!(kind, FileType::RegularFile | FileType::Symlink) && age >= after
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use rustix::fs::stat;

    use super::*;

    #[test]
    fn only_old_temporaries_of_the_same_user_are_stale() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        fs::write(&path, b"").unwrap();
        let fresh = stat(&path).unwrap();
        assert!(!is_stale(&fresh, STALE));
        let mut old = fresh;
        old.st_ctime -= 2 * 24 * 60 * 60;
        assert!(is_stale(&old, STALE));
        let mut foreign = old;
        foreign.st_uid = foreign.st_uid.wrapping_add(1);
        assert!(!is_stale(&foreign, STALE));
        let mut folder_stat = stat(folder.path()).unwrap();
        folder_stat.st_ctime = 0;
        assert!(!is_stale(&folder_stat, STALE));
    }

    #[test]
    fn a_folder_is_swept_once_and_of_what_was_left_of_every_file() {
        let folder = tempfile::tempdir().unwrap();
        let opened = File::open(folder.path()).unwrap();
        let sweep = Sweep {
            stale: Duration::ZERO,
            ..Sweep::default()
        };
        let place = Place::new(opened.as_fd(), &sweep);
        let kept = ["f", ".legatus", ".abcdefgh.legatus", ".f.abcdefg1.legatus"];
        for name in kept {
            fs::write(folder.path().join(name), b"").unwrap();
        }
        let left = folder.path().join(".other.abcdefgh.legatus");
        for is_first in [true, false] {
            fs::write(&left, b"").unwrap();
            Temporary::create(place, b"f", |_| Ok(())).unwrap();
            assert_eq!(left.exists(), !is_first);
        }
        for name in kept {
            assert!(folder.path().join(name).exists(), "{name}");
        }
    }

    #[test]
    fn temporary_names_are_known_as_such() {
        for name in [&b"f"[..], b"a.b", &[b'x'; 255]] {
            for temporary in [temporary_name(name).unwrap(), lasting_name(name, "map")] {
                assert!(is_temporary(&temporary) && temporary.len() <= NAME_BYTES);
            }
            assert_eq!(lasting_name(name, "map"), lasting_name(name, "map"));
            assert_ne!(lasting_name(name, "map"), lasting_name(name, "part"));
        }
    }
}
