//! Files that nobody sees before they are complete.
//!
//! A staged file has no name at all (`O_TMPFILE`) where the file system can do that: whatever
//! happens, even `kill -9`, nothing is left behind. Elsewhere, and for the moment in which an
//! existing name is replaced, it has a temporary name that says what it is:
//! `.NAME.XXXXXXXX.legatus`.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::LazyLock;

use rustix::fs::{
    Access, Advice, AtFlags, CWD, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT,
    access, fadvise, fchmod, futimens, linkat, openat, symlinkat, utimensat,
};
use rustix::io::Errno;

use super::temporary::{Place, Temporary};

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
    pub(super) fn create(place: Place<'_>, name: &[u8]) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        if *CAN_NAME_UNNAMED {
            match openat(place.folder, c".", flags | OFlags::TMPFILE, PRIVATE) {
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
        Self::create_named(place, name)
    }

    fn create_named(place: Place<'_>, name: &[u8]) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::CREATE | OFlags::EXCL;
        let (temporary, file) = Temporary::create(place, name, |temporary| {
            openat(place.folder, temporary, flags, PRIVATE)
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

    /// Lets the kernel begin to bring these bytes to the disk, without waiting for it: else it begins
    /// when all have come, and the copy waits for all of them.
    #[expect(unsafe_code, reason = "no safe crate has sync_file_range")]
    pub(super) fn start_write_back(&self, from: u64, length: u64) {
        let (Ok(from), Ok(length)) = (from.try_into(), length.try_into()) else {
            return;
        };
        let file = self.file.as_raw_fd();
        // An error is told by the sync at the end.
        // SAFETY: the descriptor is open as long as `self`, and no memory is touched.
        unsafe { libc::sync_file_range(file, from, length, libc::SYNC_FILE_RANGE_WRITE) };
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

    /// Gives the file its name, in the folder that it was created in, replacing a file or link that
    /// was there.
    pub(super) fn commit(self, place: Place<'_>, name: &[u8]) -> io::Result<()> {
        if let Some(temporary) = self.temporary {
            return temporary.commit(name);
        }
        let unnamed = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let link = |name: &[u8]| linkat(CWD, &unnamed, place.folder, name, AtFlags::SYMLINK_FOLLOW);
        match link(name) {
            Err(Errno::EXIST) => {
                let (temporary, ()) = Temporary::create(place, name, link)?;
                temporary.commit(name)
            }
            linked => Ok(linked?),
        }
    }
}

/// Whether a file without a name can be given one: that goes through /proc (without special rights).
static CAN_NAME_UNNAMED: LazyLock<bool> =
    LazyLock::new(|| access("/proc/self/fd", Access::EXISTS).is_ok());

/// Makes a symbolic link, replacing a file or link that was there at once.
pub(super) fn link(
    place: Place<'_>,
    name: &[u8],
    target: &[u8],
    modified: Option<Timespec>,
) -> io::Result<()> {
    let (folder, times) = (place.folder, timestamps(modified));
    match symlinkat(target, folder, name) {
        Ok(()) => Ok(utimensat(folder, name, &times, AtFlags::SYMLINK_NOFOLLOW)?),
        Err(Errno::EXIST) => {
            let (temporary, ()) = Temporary::create(place, name, |temporary| {
                symlinkat(target, folder, temporary)
            })?;
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            utimensat(folder, temporary.name(), &times, flags)?;
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::super::temporary::Sweep;
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
        let sweep = Sweep::default();
        let place = Place::new(opened.as_fd(), 0, &sweep);
        for name in [&b"f"[..], &[b'x'; 255]] {
            let mut staged = Staged::create_named(place, name).unwrap();
            staged.write(b"half").unwrap();
            assert_eq!(names(folder.path()).len(), 1);
            drop(staged);
            assert!(names(folder.path()).is_empty());
        }
    }

    #[test]
    fn both_kinds_of_files_appear_under_their_name_only_and_replace_what_was_there() {
        type Create = fn(Place<'_>, &[u8]) -> io::Result<Staged>;
        let folder = tempfile::tempdir().unwrap();
        let opened = File::open(folder.path()).unwrap();
        let sweep = Sweep::default();
        let place = Place::new(opened.as_fd(), 0, &sweep);
        let kinds: [(&[u8], Create); 2] =
            [(b"new", Staged::create), (b"old", Staged::create_named)];
        for (contents, create) in [kinds, kinds].concat() {
            let mut staged = create(place, b"f").unwrap();
            staged.write(contents).unwrap();
            staged.commit(place, b"f").unwrap();
            assert_eq!(names(folder.path()), [b"f"]);
            assert_eq!(fs::read(folder.path().join("f")).unwrap(), contents);
        }
    }

    #[test]
    fn a_folder_is_never_replaced_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let opened = File::open(folder.path()).unwrap();
        let sweep = Sweep::default();
        let place = Place::new(opened.as_fd(), 0, &sweep);
        fs::create_dir(folder.path().join("f")).unwrap();
        for create in [Staged::create, Staged::create_named] {
            let staged = create(place, b"f").unwrap();
            assert!(staged.commit(place, b"f").is_err());
            assert_eq!(names(folder.path()), [b"f"]);
        }
        assert!(link(place, b"f", b"x", None).is_err());
        assert_eq!(names(folder.path()), [b"f"]);
    }

    #[test]
    fn a_copy_that_runs_at_the_same_time_keeps_its_temporary_name() {
        let folder = tempfile::tempdir().unwrap();
        let opened = File::open(folder.path()).unwrap();
        let sweep = Sweep::default();
        let place = Place::new(opened.as_fd(), 0, &sweep);
        let one = Staged::create_named(place, b"f").unwrap();
        let other = Staged::create_named(place, b"f").unwrap();
        one.commit(place, b"f").unwrap();
        other.commit(place, b"f").unwrap();
        assert_eq!(names(folder.path()), [b"f"]);
    }
}
