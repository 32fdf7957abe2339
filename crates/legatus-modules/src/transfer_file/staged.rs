//! Files that nobody sees before they are complete.
//!
//! A staged file has no name at all (`O_TMPFILE`) where the file system can do that: whatever
//! happens, even `kill -9`, nothing is left behind. Elsewhere, and for the moment in which an
//! existing name is replaced, it has a temporary name that says what it is:
//! `.NAME.XXXXXXXX.legatus`.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{
    Access, Advice, AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, Timespec, Timestamps,
    UTIME_NOW, UTIME_OMIT, access, fadvise, fchmod, futimens, linkat, openat, renameat, statat,
    symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::names::NAME_BYTES;

/// How temporary names end.
const SUFFIX: &[u8] = b".legatus";
/// Letters of a temporary name that are drawn at random.
const RANDOM: usize = 8;
/// A temporary name that is older was left behind; no copy of one file takes that long without
/// writing to it.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);

/// The mode of a file until it is complete.
const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);

/// A file that is being written and has not appeared at its name.
#[derive(Debug)]
pub(super) struct Staged {
    file: File,
    /// `None` if it has no name at all.
    temporary: Option<Temporary>,
}

impl Staged {
    /// A new empty file in a folder, later to be called `name`.
    pub(super) fn create(folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        if *CAN_NAME_UNNAMED {
            match openat(folder, c".", flags | OFlags::TMPFILE, PRIVATE) {
                Ok(file) => {
                    return Ok(Self {
                        file: file.into(),
                        temporary: None,
                    });
                }
                // What file systems and kernels without O_TMPFILE answer.
                Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Self::create_named(folder, name)
    }

    fn create_named(folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::CREATE | OFlags::EXCL;
        let (temporary, file) = Temporary::create(folder, name, |temporary| {
            openat(folder, temporary, flags, PRIVATE)
        })?;
        Ok(Self {
            file: file.into(),
            temporary: Some(temporary),
        })
    }

    /// Appends bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    /// Sets mode and time; nothing may be written afterwards.
    pub(super) fn set_attributes(&self, mode: Mode, modified: Option<Timespec>) -> io::Result<()> {
        set_attributes(self.file.as_fd(), mode, modified)
    }

    /// Waits until the contents are on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Reads the contents back, from the disk rather than from memory.
    pub(super) fn digest_on_disk(&mut self) -> io::Result<blake3::Hash> {
        fadvise(&self.file, 0, None, Advice::DontNeed)?;
        self.file.rewind()?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; legatus_core::limits::CHUNK_BYTES];
        loop {
            match self.file.read(&mut buffer) {
                Ok(0) => return Ok(hasher.finalize()),
                Ok(read) => hasher.update(buffer.get(..read).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
        }
    }

    /// Gives the file its name, in the folder that it was created in, replacing what was there.
    pub(super) fn commit(self, folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
        if let Some(temporary) = self.temporary {
            return temporary.commit(name);
        }
        let unnamed = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let link = |name: &[u8]| linkat(CWD, &unnamed, folder, name, AtFlags::SYMLINK_FOLLOW);
        match link(name) {
            Err(Errno::EXIST) => {
                let (temporary, ()) = Temporary::create(folder, name, link)?;
                temporary.commit(name)
            }
            linked => Ok(linked?),
        }
    }
}

/// Whether a file without a name can be given one: that goes through /proc (without special rights).
static CAN_NAME_UNNAMED: LazyLock<bool> =
    LazyLock::new(|| access("/proc/self/fd", Access::EXISTS).is_ok());

/// Makes a symbolic link, replacing what was there at once.
pub(super) fn link(
    folder: BorrowedFd<'_>,
    name: &[u8],
    target: &[u8],
    modified: Option<Timespec>,
) -> io::Result<()> {
    let times = timestamps(modified);
    match symlinkat(target, folder, name) {
        Ok(()) => Ok(utimensat(folder, name, &times, AtFlags::SYMLINK_NOFOLLOW)?),
        Err(Errno::EXIST) => {
            let (temporary, ()) = Temporary::create(folder, name, |temporary| {
                symlinkat(target, folder, temporary)
            })?;
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            utimensat(folder, temporary.name.as_slice(), &times, flags)?;
            temporary.commit(name)
        }
        Err(error) => Err(error.into()),
    }
}

/// Sets mode and time of an open file or folder.
pub(super) fn set_attributes(
    file: BorrowedFd<'_>,
    mode: Mode,
    modified: Option<Timespec>,
) -> io::Result<()> {
    fchmod(file, mode)?;
    Ok(futimens(file, &timestamps(modified))?)
}

fn timestamps(modified: Option<Timespec>) -> Timestamps {
    let special = |tv_nsec: i64| Timespec { tv_sec: 0, tv_nsec };
    Timestamps {
        last_access: special(UTIME_OMIT),
        last_modification: modified.unwrap_or_else(|| special(UTIME_NOW)),
    }
}

/// A temporary name, removed when dropped.
#[derive(Debug)]
struct Temporary {
    folder: OwnedFd,
    name: Vec<u8>,
}

impl Temporary {
    /// Makes something at a temporary name that belongs to `name`.
    fn create<T>(
        folder: BorrowedFd<'_>,
        name: &[u8],
        make: impl Fn(&[u8]) -> Result<T, Errno>,
    ) -> io::Result<(Self, T)> {
        sweep(folder, name);
        let owned = folder.try_clone_to_owned()?;
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

    fn commit(mut self, name: &[u8]) -> io::Result<()> {
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

fn temporary_name(name: &[u8]) -> io::Result<Vec<u8>> {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut random = [0; RANDOM];
    getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
    let mut temporary = temporary_prefix(name);
    let letters = random.map(|byte| LETTERS.get(usize::from(byte % 32)).copied().unwrap_or(b'a'));
    temporary.extend_from_slice(&letters);
    temporary.extend_from_slice(SUFFIX);
    Ok(temporary)
}

fn temporary_prefix(name: &[u8]) -> Vec<u8> {
    let room = NAME_BYTES - 2 - RANDOM - SUFFIX.len();
    let name = name.get(..room).unwrap_or(name);
    [b".", name, b"."].concat()
}

/// Removes what a copy that was killed left of the file `name`.
fn sweep(folder: BorrowedFd<'_>, name: &[u8]) {
    let prefix = temporary_prefix(name);
    let is_temporary = |entry: &[u8]| {
        entry
            .strip_prefix(prefix.as_slice())
            .and_then(|rest| rest.strip_suffix(SUFFIX))
            .is_some_and(|random| random.len() == RANDOM && !random.contains(&b'.'))
    };
    let Ok(entries) = Dir::read_from(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let found = entry.file_name();
        if is_temporary(found.to_bytes())
            && let Ok(stat) = statat(folder, found, AtFlags::SYMLINK_NOFOLLOW)
            && is_stale(&stat)
        {
            unlinkat(folder, found, AtFlags::empty()).ok();
        }
    }
}

/// By the time of the last change to the inode: the time of modification is the source's already.
fn is_stale(stat: &Stat) -> bool {
    let ours = stat.st_uid == rustix::process::geteuid().as_raw();
    let kind = FileType::from_raw_mode(stat.st_mode);
    let changed = u64::try_from(stat.st_ctime).unwrap_or_default();
    let age = SystemTime::now()
        .duration_since(UNIX_EPOCH + Duration::from_secs(changed))
        .unwrap_or_default();
    ours && matches!(kind, FileType::RegularFile | FileType::Symlink) && age > STALE
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use rustix::fs::stat;

    use super::*;

    fn names(folder: &Path) -> Vec<Vec<u8>> {
        use std::os::unix::ffi::OsStringExt;
        let entries = fs::read_dir(folder).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_vec())
            .collect()
    }

    #[test]
    fn a_file_with_a_temporary_name_leaves_nothing_when_it_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let opened = File::open(folder.path()).unwrap();
        for name in [&b"f"[..], &[b'x'; 255]] {
            let mut staged = Staged::create_named(opened.as_fd(), name).unwrap();
            staged.write(b"half").unwrap();
            assert_eq!(names(folder.path()).len(), 1);
            drop(staged);
            assert!(names(folder.path()).is_empty());
        }
    }

    #[test]
    fn both_kinds_of_files_appear_under_their_name_only_and_replace_what_was_there() {
        type Create = fn(BorrowedFd<'_>, &[u8]) -> io::Result<Staged>;
        let folder = tempfile::tempdir().unwrap();
        let opened = File::open(folder.path()).unwrap();
        let kinds: [(&[u8], Create); 2] =
            [(b"new", Staged::create), (b"old", Staged::create_named)];
        for (contents, create) in [kinds, kinds].concat() {
            let mut staged = create(opened.as_fd(), b"f").unwrap();
            staged.write(contents).unwrap();
            staged.commit(opened.as_fd(), b"f").unwrap();
            assert_eq!(names(folder.path()), [b"f"]);
            assert_eq!(fs::read(folder.path().join("f")).unwrap(), contents);
        }
    }

    #[test]
    fn a_folder_is_never_replaced_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let opened = File::open(folder.path()).unwrap();
        fs::create_dir(folder.path().join("f")).unwrap();
        for create in [Staged::create, Staged::create_named] {
            let staged = create(opened.as_fd(), b"f").unwrap();
            assert!(staged.commit(opened.as_fd(), b"f").is_err());
            assert_eq!(names(folder.path()), [b"f"]);
        }
        assert!(link(opened.as_fd(), b"f", b"x", None).is_err());
        assert_eq!(names(folder.path()), [b"f"]);
    }

    #[test]
    fn only_old_temporaries_of_the_same_user_are_stale() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        fs::write(&path, b"").unwrap();
        let fresh = stat(&path).unwrap();
        assert!(!is_stale(&fresh));
        let mut old = fresh;
        old.st_ctime -= 2 * 24 * 60 * 60;
        assert!(is_stale(&old));
        let mut foreign = old;
        foreign.st_uid = foreign.st_uid.wrapping_add(1);
        assert!(!is_stale(&foreign));
        let mut folder_stat = stat(folder.path()).unwrap();
        folder_stat.st_ctime = 0;
        assert!(!is_stale(&folder_stat));
    }

    #[test]
    fn a_copy_that_runs_at_the_same_time_keeps_its_temporary_name() {
        let folder = tempfile::tempdir().unwrap();
        let opened = File::open(folder.path()).unwrap();
        let one = Staged::create_named(opened.as_fd(), b"f").unwrap();
        let other = Staged::create_named(opened.as_fd(), b"f").unwrap();
        one.commit(opened.as_fd(), b"f").unwrap();
        other.commit(opened.as_fd(), b"f").unwrap();
        assert_eq!(names(folder.path()), [b"f"]);
    }
}
