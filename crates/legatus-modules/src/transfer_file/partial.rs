//! What is kept of a large file that did not come to its end: the file under a temporary name that is
//! the same in every copy, and beside it a map of what of it was verified.
//!
//! The map begins with the size and time of the source's file; only for that is it of use. Then
//! comes a record for each check that was passed. A killed process loses nothing that it has written;
//! after a restart of the machine only what was synced counts.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, fdatasync, flock, fstat, renameat, unlinkat,
};
use rustix::io::Errno;

use super::folders::open_beneath;
use super::messages::{Attributes, Time};
use super::temporary::{check_replaceable, lasting_name};
use super::transcript::CHECK_BYTES;

/// Smaller files are sent again: they have no check before their end.
pub(super) const PARTIAL_BYTES: u64 = CHECK_BYTES;

/// Bytes after which the contents are synced, so that a restart of the machine loses no more.
const SYNC_BYTES: u64 = 64 << 20;

/// How long another copy of the same file is waited for: one whose connection was cut needs a moment
/// to notice.
const PATIENCE: Duration = Duration::from_secs(5);

/// The names that are kept for a file, beside its own.
pub(super) const PARTIAL_USES: [&str; 2] = ["part", "map"];

const MAGIC: [u8; 8] = *b"legatus1";
const HEADER: usize = 64;
const RECORD: usize = 24;

/// A large file that is being written.
#[derive(Debug)]
pub(super) struct Partial {
    folder: Arc<OwnedFd>,
    name: Vec<u8>,
    map: File,
    /// From the beginning so many bytes are verified.
    verified: u64,
    synced: u64,
    /// It is kept when it is dropped.
    keep: bool,
}

impl Partial {
    /// Takes the partial file for `name` in a folder, or begins one. `None` if another copy is writing
    /// it.
    pub(super) fn take(
        folder: &Arc<OwnedFd>,
        name: &[u8],
        size: u64,
        wanted: &Attributes,
    ) -> io::Result<Option<(Self, File)>> {
        let flags = OFlags::RDWR | OFlags::CREATE;
        let open = |use_| {
            let name = lasting_name(name, use_);
            let mode = Mode::RUSR | Mode::WUSR;
            open_beneath(folder, &name, flags | OFlags::NONBLOCK, mode).map(File::from)
        };
        let mut map = loop {
            let map = open("map")?;
            if !lock(&map)? {
                return Ok(None);
            }
            // Who had it before may have removed it.
            if fstat(&map)?.st_nlink > 0 {
                break map;
            }
        };
        let part = open("part")?;
        let mut partial = Self {
            folder: Arc::clone(folder),
            name: name.to_vec(),
            map: map.try_clone()?,
            verified: 0,
            synced: 0,
            keep: true,
        };
        let header = header(size, wanted.modified);
        let mut known = Vec::new();
        map.read_to_end(&mut known)?;
        partial.verified = verified(&known, &header).min(part.metadata()?.len());
        if partial.verified == 0 {
            map.set_len(0)?;
            io::Seek::rewind(&mut map)?;
            map.write_all(&header)?;
        }
        partial.synced = partial.verified;
        Ok(Some((partial, part)))
    }

    /// From the beginning so many bytes are there and verified.
    pub(super) fn verified(&self) -> u64 {
        self.verified
    }

    /// Begins again.
    pub(super) fn restart(&mut self) -> io::Result<()> {
        self.map.set_len(HEADER as u64)?;
        io::Seek::seek(&mut self.map, io::SeekFrom::End(0))?;
        (self.verified, self.synced) = (0, 0);
        Ok(())
    }

    /// Notes that the file is verified up to here.
    pub(super) fn passed(&mut self, to: u64, file: &File, is_durable: bool) -> io::Result<()> {
        let sync = is_durable && to.saturating_sub(self.synced) >= SYNC_BYTES;
        if sync {
            fdatasync(file)?;
            self.synced = to;
        }
        let mut record = [0; RECORD];
        let (numbers, check) = record.split_at_mut(16);
        let (first, second) = numbers.split_at_mut(8);
        first.copy_from_slice(&to.to_le_bytes());
        second.copy_from_slice(&u64::from(sync).to_le_bytes());
        check.copy_from_slice(&sum(numbers));
        self.map.write_all(&record)?;
        if sync {
            fdatasync(&self.map)?;
        }
        self.verified = to;
        Ok(())
    }

    /// Gives the file its name.
    pub(super) fn commit(mut self, name: &[u8]) -> io::Result<()> {
        check_replaceable(&*self.folder, name)?;
        renameat(
            &*self.folder,
            lasting_name(&self.name, "part"),
            &*self.folder,
            name,
        )?;
        self.keep = false;
        Ok(())
    }

    /// Removes it.
    pub(super) fn discard(mut self) {
        self.keep = false;
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Without a check it is of no use to anybody.
        if !self.keep || self.verified == 0 {
            remove(&*self.folder, &self.name);
        }
    }
}

/// Removes what is kept for a name in a folder, if anything is.
pub(super) fn remove(folder: impl AsFd, name: &[u8]) {
    for use_ in PARTIAL_USES {
        unlinkat(&folder, lasting_name(name, use_), AtFlags::empty()).ok();
    }
}

/// Locks a file or folder; false if somebody else has it for long.
pub(super) fn lock(map: impl AsFd) -> io::Result<bool> {
    let began = Instant::now();
    loop {
        match flock(&map, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) if began.elapsed() < PATIENCE => {
                std::thread::park_timeout(Duration::from_millis(20));
            }
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}

/// What is different after each start of the machine.
static BOOT: LazyLock<[u8; 16]> = LazyLock::new(|| {
    let id = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let mut boot = [0; 16];
    boot.copy_from_slice(blake3::hash(&id).as_bytes().split_at(16).0);
    boot
});

fn header(size: u64, modified: Option<Time>) -> [u8; HEADER] {
    let modified = modified.unwrap_or_default();
    let mut header = [0; HEADER];
    let fields = [
        &MAGIC[..],
        &size.to_le_bytes(),
        &modified.seconds.to_le_bytes(),
        &u64::from(modified.nanoseconds).to_le_bytes(),
        &BOOT[..],
    ]
    .concat();
    let (head, check) = header.split_at_mut(HEADER - 8);
    for (place, byte) in head.iter_mut().zip(fields) {
        *place = byte;
    }
    check.copy_from_slice(&sum(head));
    header
}

fn sum(bytes: &[u8]) -> [u8; 8] {
    let mut sum = [0; 8];
    sum.copy_from_slice(blake3::hash(bytes).as_bytes().split_at(8).0);
    sum
}

/// How many bytes a map says are verified, for the file of this header.
fn verified(map: &[u8], header: &[u8; HEADER]) -> u64 {
    const BOOT_ID: std::ops::Range<usize> = 32..48;
    let Some((found, records)) = map.split_at_checked(HEADER) else {
        return 0;
    };
    let is_whole = found.get(HEADER - 8..) == Some(&sum(found.get(..HEADER - 8).unwrap_or(&[])));
    let same = |range: std::ops::Range<usize>| found.get(range.clone()) == header.get(range);
    if !is_whole || !same(0..BOOT_ID.start) {
        return 0;
    }
    let same_boot = same(BOOT_ID);
    let mut verified = 0;
    for record in records.chunks_exact(RECORD) {
        let (numbers, check) = record.split_at(16);
        if check != sum(numbers) {
            break;
        }
        let (to, synced) = numbers.split_at(8);
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        if number(to) < verified {
            break;
        }
        if same_boot || number(synced) == 1 {
            verified = number(to);
        }
    }
    verified
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn folder(folder: &tempfile::TempDir) -> Arc<OwnedFd> {
        Arc::new(File::open(folder.path()).unwrap().into())
    }

    fn attributes(seconds: i64) -> Attributes {
        Attributes {
            modified: Some(Time {
                seconds,
                nanoseconds: 7,
            }),
            ..Attributes::default()
        }
    }

    fn write(at: &Arc<OwnedFd>, to: u64) {
        let (mut partial, mut file) = Partial::take(at, b"f", 100, &attributes(1))
            .unwrap()
            .unwrap();
        file.write_all(&vec![b'x'; usize::try_from(to).unwrap()])
            .unwrap();
        partial.passed(to, &file, true).unwrap();
    }

    #[test]
    fn what_was_verified_is_found_again_for_the_same_file_only() {
        let temporary = tempfile::tempdir().unwrap();
        let at = folder(&temporary);
        write(&at, 40);
        let verified = |size, seconds| {
            let taken = Partial::take(&at, b"f", size, &attributes(seconds));
            taken.unwrap().unwrap().0.verified()
        };
        assert_eq!(verified(100, 1), 40);
        assert_eq!(verified(100, 1), 40);
        assert_eq!(verified(101, 1), 0);
        assert_eq!(verified(100, 1), 0, "it was begun for another file");
        write(&at, 50);
        assert_eq!(verified(100, 2), 0);
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_map_that_is_cut_or_damaged_counts_as_far_as_it_is_whole() {
        let header = header(9, None);
        let record = |to: u64| {
            let numbers = [to.to_le_bytes(), 0_u64.to_le_bytes()].concat();
            [&numbers[..], &sum(&numbers)].concat()
        };
        let whole = [&header[..], &record(3), &record(5)].concat();
        assert_eq!(verified(&whole, &header), 5);
        for cut in 0..whole.len() {
            let expected = match cut {
                ..88 => 0,
                88..112 => 3,
                _ => 5,
            };
            assert_eq!(verified(&whole[..cut], &header), expected, "{cut}");
            let mut damaged = whole.clone();
            damaged[cut] ^= 1;
            assert!(verified(&damaged, &header) <= expected, "{cut}");
        }
        let back = [&whole[..], &record(4)].concat();
        assert_eq!(verified(&back, &header), 5);
    }

    #[test]
    fn after_a_restart_of_the_machine_only_what_was_synced_counts() {
        let mut header = header(9, None);
        let record = |to: u64, synced: u64| {
            let numbers = [to.to_le_bytes(), synced.to_le_bytes()].concat();
            [&numbers[..], &sum(&numbers)].concat()
        };
        let now = header;
        header[40] ^= 1;
        let check = sum(&header[..HEADER - 8]);
        header[HEADER - 8..].copy_from_slice(&check);
        let map = [&header[..], &record(3, 1), &record(5, 0)].concat();
        assert_eq!(verified(&map, &now), 3);
    }
}
