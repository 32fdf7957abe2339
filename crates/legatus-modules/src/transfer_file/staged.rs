//! Files that nobody sees before they are complete.
//!
//! A staged file has no name at all (`O_TMPFILE`) where the file system can do that: whatever
//! happens, even `kill -9`, nothing is left behind. Elsewhere, and for the moment in which an
//! existing name is replaced, it has a temporary name that says what it is:
//! `.NAME.XXXXXXXX.legatus`.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::LazyLock;

use rustix::fs::{Access, Advice, AtFlags, CWD, Mode, OFlags, access, fadvise, linkat, openat};
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

    /// The file, for its attributes.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Goes on after so many zeros that need no space.
    pub(super) fn skip(&mut self, zeros: u64) -> io::Result<()> {
        let forward = i64::try_from(zeros).map_err(|_| io::Error::other("a hole is too long"))?;
        self.file.seek(SeekFrom::Current(forward))?;
        Ok(())
    }

    /// Makes the file as long as it should be, if it ends in a hole.
    pub(super) fn end_at(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    /// Waits until the contents are on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// The same where that is wanted.
    pub(super) fn sync_if(&self, is_durable: bool) -> io::Result<()> {
        if is_durable { self.sync() } else { Ok(()) }
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

    /// Another handle of the file, to be synced while this one is used.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Takes over a file that has a name which lasts, from where it was left; the name is the caller's.
    pub(super) fn lasting(mut file: File, offset: u64) -> io::Result<Self> {
        file.set_len(offset)?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(Self {
            file,
            temporary: None,
        })
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

/// Makes an entry that is not a file, replacing a file or link that was there at once. `make` makes it
/// at a name, `set` gives it its attributes there.
pub(super) fn entry<T>(
    place: Place<'_>,
    name: &[u8],
    make: impl Fn(&[u8]) -> Result<(), Errno>,
    set: impl FnOnce(&[u8]) -> io::Result<T>,
) -> io::Result<T> {
    match make(name) {
        Ok(()) => set(name),
        Err(Errno::EXIST) => {
            let (temporary, ()) = Temporary::create(place, name, make)?;
            let told = set(temporary.name())?;
            temporary.commit(name)?;
            Ok(told)
        }
        Err(error) => Err(error.into()),
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
        let place = Place::new(opened.as_fd(), &sweep);
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
        let place = Place::new(opened.as_fd(), &sweep);
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
        let place = Place::new(opened.as_fd(), &sweep);
        fs::create_dir(folder.path().join("f")).unwrap();
        for create in [Staged::create, Staged::create_named] {
            let staged = create(place, b"f").unwrap();
            assert!(staged.commit(place, b"f").is_err());
            assert_eq!(names(folder.path()), [b"f"]);
        }
        let make = |name: &[u8]| rustix::fs::symlinkat("x", place.folder, name);
        assert!(entry(place, b"f", make, |_| Ok(())).is_err());
        assert_eq!(names(folder.path()), [b"f"]);
    }

    #[test]
    fn a_copy_that_runs_at_the_same_time_keeps_its_temporary_name() {
        let folder = tempfile::tempdir().unwrap();
        let opened = File::open(folder.path()).unwrap();
        let sweep = Sweep::default();
        let place = Place::new(opened.as_fd(), &sweep);
        let one = Staged::create_named(place, b"f").unwrap();
        let other = Staged::create_named(place, b"f").unwrap();
        one.commit(place, b"f").unwrap();
        other.commit(place, b"f").unwrap();
        assert_eq!(names(folder.path()), [b"f"]);
    }
}
