//! What a target does about a file: nothing, set its attributes, or ask for its contents.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, statat};
use rustix::io::Errno;

use super::change::Differences;
use super::delta::{self, Basis};
use super::folders::open_beneath;
use super::judging::{Judge, kind};
use super::messages::{Attributes, Rest, Sums, Time};
use super::metadata;
use super::partial::{self, PARTIAL_BYTES, Partial};
use super::site::Site;
use super::staged::Staged;
use super::staging::copy_contents;
use super::target::{Notice, Pending};
use super::temporary::Place;
use super::xattrs;

impl Judge {
    /// Decides about a file; true if its contents are asked for.
    pub(super) fn consider(
        &self,
        site: &Arc<Site>,
        name: &[u8],
        attributes: Attributes,
        file: &super::messages::File,
    ) -> io::Result<bool> {
        let stat = match self.take_over(site, name, &attributes, file.size)? {
            None => self.stat(name)?,
            taken => taken,
        };
        let differences = match &stat {
            Some(stat) if kind(stat) == FileType::RegularFile => {
                self.compare(site, name, &attributes, file, stat)?
            }
            _ => Differences {
                is_new: true,
                ..Differences::default()
            },
        };
        let other_contents = differences.is_new
            || differences.contents
            || differences.size
            || differences.time && !self.shared.options.checksum;
        let apart = self.shared.options.atomic && differences.any();
        if !other_contents && (!apart || self.copy_apart(site, name)?) {
            self.keep(site, name, &attributes, differences, file.size)?;
            return Ok(false);
        }
        if let Some(stat) = &stat {
            self.make_way(name, stat)?;
        }
        self.change(differences.flags('>', 'f'), site, name, false, b"");
        if self.shared.options.dry_run {
            self.shared.finished().files += 1;
            self.shared.gauge.advance(file.size, 1);
            return Ok(false);
        }
        let older = stat.filter(|_| !differences.is_new);
        self.want(site, name, attributes, file.size, older.as_ref())?;
        Ok(true)
    }

    /// Takes a file from what an earlier copy of the whole tree left, if it is not there already.
    fn take_over(
        &self,
        site: &Arc<Site>,
        name: &[u8],
        attributes: &Attributes,
        size: u64,
    ) -> io::Result<Option<Stat>> {
        let Some(stage) = &self.stage else {
            return Ok(None);
        };
        let folder = site.open()?;
        let stat = || statat(&*folder, name, AtFlags::SYMLINK_NOFOLLOW);
        let there = stat().ok();
        if let Some(stat) = &there
            && u64::try_from(stat.st_size) == Ok(size)
            && Some(Time::modified(stat)) == attributes.modified
        {
            return Ok(None);
        }
        let place = Place::new(folder.as_fd(), &site.sweep);
        let above = site.names();
        let make_way = || match &there {
            Some(stat) if kind(stat) == FileType::Directory => Err(Errno::ISDIR.into()),
            Some(_) => self.backup(&folder, name).map(drop),
            None => Ok(()),
        };
        let modified = attributes.modified;
        let taken = stage.take_over((place, &above, name), size, modified, make_way);
        Ok(if taken { Some(stat()?) } else { None })
    }

    /// Gives a file of a tree that is made beside its name an inode of its own, before its attributes
    /// change: it is that of the tree which is there. False if it cannot be read.
    fn copy_apart(&self, site: &Arc<Site>, name: &[u8]) -> io::Result<bool> {
        if self.shared.options.dry_run {
            return Ok(true);
        }
        let Ok(older) = open_older(site, name) else {
            return Ok(false);
        };
        let folder = site.open()?;
        let place = Place::new(folder.as_fd(), &site.sweep);
        let newer = Staged::create(place, name)?;
        copy_contents(&older, newer.file())?;
        newer.sync_if(self.shared.durability.is_enabled())?;
        // What is not set anew below.
        let stat = rustix::fs::fstat(&older)?;
        let (attributes, mode) = super::staging::attributes(&stat, xattrs::of_open(&older)?);
        metadata::set(newer.as_fd(), &attributes, mode, false, true)?;
        newer.commit(place, name)?;
        Ok(true)
    }

    fn compare(
        &self,
        site: &Arc<Site>,
        name: &[u8],
        attributes: &Attributes,
        file: &super::messages::File,
        stat: &Stat,
    ) -> io::Result<Differences> {
        let options = &self.shared.options;
        let folder = site.open()?;
        let (mode, _) = self.shared.file_mode(attributes);
        let present = || xattrs::of(&*folder, name);
        let mut told =
            metadata::differences(attributes, Some(mode), stat, present, options.archive);
        told.size = u64::try_from(stat.st_size).ok() != Some(file.size);
        // Files of /proc say that they are empty and are not.
        if !told.size && options.checksum {
            let opened = open_older(site, name)?;
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(opened)?;
            told.contents = hasher.finalize().as_bytes()[..] != file.digest[..];
        }
        Ok(told)
    }

    /// Leaves a file that is as it should be, its attributes perhaps aside.
    fn keep(
        &self,
        site: &Arc<Site>,
        name: &[u8],
        attributes: &Attributes,
        differences: Differences,
        size: u64,
    ) -> io::Result<()> {
        let shared = &self.shared;
        shared.gauge.advance(size, 1);
        shared.finished().unchanged += 1;
        if size >= PARTIAL_BYTES && !shared.options.dry_run {
            // A copy that was killed after it gave the file its name.
            partial::remove(&*site.open()?, name);
        }
        if !differences.any() {
            return Ok(());
        }
        self.change(differences.flags('.', 'f'), site, name, false, b"");
        if shared.options.dry_run {
            return Ok(());
        }
        let (mode, is_given) = shared.file_mode(attributes);
        let file = match open_older(site, name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                // Its owner may give it another mode, though not look into it.
                metadata::set_mode(&*site.open()?, name, mode | Mode::RUSR)?;
                open_older(site, name)?
            }
            Err(error) => return Err(error),
        };
        let archive = shared.options.archive;
        let file = file.as_fd();
        let lost = metadata::set(file, attributes, mode, is_given, archive)?;
        shared.note_lost(lost);
        site.touch();
        Ok(())
    }

    /// Asks for the contents of a file.
    fn want(
        &self,
        site: &Arc<Site>,
        name: &[u8],
        attributes: Attributes,
        size: u64,
        older: Option<&Stat>,
    ) -> io::Result<()> {
        site.touch();
        let number = self.number;
        let mut pending = Pending {
            site: Arc::clone(site),
            name: name.to_vec(),
            attributes,
            size,
            basis: None,
            partial: None,
            is_second: false,
            was_asked_again: false,
            replaces: older.is_some(),
        };
        let mut rest = Rest {
            entry: number,
            ..Rest::default()
        };
        if size >= PARTIAL_BYTES {
            pending.partial = self.take_partial(&pending)?;
            rest.offset = pending
                .partial
                .as_ref()
                .map_or(0, |(partial, _)| partial.verified());
        }
        let older = older.filter(|_| size >= delta::DELTA_BYTES);
        let older = older.and_then(|older| self.open_older(&pending, &rest, older));
        if let Some((basis, _)) = &older {
            rest.block_bytes = basis.block;
            rest.key = basis.key.bytes();
            pending.basis = Some(Arc::clone(basis));
        }
        let notice = if rest.offset > 0 || rest.block_bytes > 0 {
            Notice::Rest(rest)
        } else {
            Notice::Wanted(number)
        };
        self.shared.want(number, pending);
        // Interrupted: the thread hears of it when it goes on.
        self.shared.tell(notice).map_err(io::Error::other)?;
        match older {
            Some((basis, size)) => self.tell_older(&basis, size),
            None => Ok(()),
        }
    }

    fn take_partial(&self, pending: &Pending) -> io::Result<Option<(Partial, File)>> {
        let folder = pending.site.open()?;
        Place::new(folder.as_fd(), &pending.site.sweep).sweep();
        let taken = Partial::take(&folder, &pending.name, pending.size, &pending.attributes);
        match taken {
            Ok(Some((mut partial, file))) => {
                if self.shared.options.checksum && partial.verified() > 0 {
                    // Times are not trusted.
                    partial.restart()?;
                }
                Ok(Some((partial, file)))
            }
            other => other,
        }
    }

    /// The older file and its size, if it is likely to help.
    fn open_older(
        &self,
        pending: &Pending,
        rest: &Rest,
        older: &Stat,
    ) -> Option<(Arc<Basis>, u64)> {
        let size = u64::try_from(older.st_size).unwrap_or_default();
        let block = delta::block_bytes(size);
        let left = pending.size.saturating_sub(rest.offset);
        if self.shared.options.whole_file || size < delta::DELTA_BYTES || block == 0 || left < block
        {
            return None;
        }
        // What cannot be read does not help.
        let file = open_older(&pending.site, &pending.name).ok()?;
        let basis = Basis::new(file, block).ok()?;
        // What waits for contents is asked for first.
        self.shared.flush().ok()?;
        let entered = self.shared.with_sums.enter(&self.shared.stop);
        entered.then(|| (Arc::new(basis), size))
    }

    /// Tells what an older file has while it is read.
    fn tell_older(&self, basis: &Basis, size: u64) -> io::Result<()> {
        let tell = |sums, last| {
            let sums = Sums {
                entry: self.number,
                sums,
                last,
            };
            let told = self.shared.tell(Notice::Sums(sums));
            told.and_then(|()| self.shared.flush())
                .map_err(io::Error::other)
        };
        let stop = || self.shared.stop.load(Ordering::Relaxed);
        // If it changes, the rest of it is of no help. If nobody listens, that shows below.
        basis.tell(size, &stop, |sums| tell(sums, false)).ok();
        tell(Bytes::new(), true)
    }
}

/// Opens the file that is there.
fn open_older(site: &Arc<Site>, name: &[u8]) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = open_beneath(&*site.open()?, name, flags, Mode::empty())?;
    if super::folders::kind(&opened)? != FileType::RegularFile {
        return Err(io::Error::other("it was replaced meanwhile"));
    }
    Ok(opened.into())
}
