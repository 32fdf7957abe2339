//! The half that reads: walks the sources, reads and hashes, and packs events.
//!
//! It runs on a thread of its own, so that reading and hashing overlap with sending.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use legatus_core::limits::CHUNK_BYTES;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat};
use tokio::sync::mpsc;

use super::folders::{Open, Step, Walk, kind, open_folder};
use super::messages::event::Event;
use super::messages::{self, Attributes, Empty, End, Failure, FileEnd, Folder, Link, Totals};
use super::names;
use super::packer::{Outgoing, Packer, Stopped};
use super::report::{Gauge, SourceCounts, reason};

/// Something to be copied.
pub(super) enum Opened {
    File(File),
    Folder(OwnedFd),
    Link {
        target: Vec<u8>,
        stat: Stat,
    },
    /// Neither of these; says what.
    Special(&'static str),
}

/// One of the sources that were asked for.
pub(super) struct Root {
    root: messages::Root,
    path: Vec<u8>,
    opened: io::Result<Opened>,
}

impl Root {
    /// Opens the source at `path`, which is told as `shown`.
    pub(super) fn open(open: &Open<'_>, path: &Path, shown: &[u8]) -> Self {
        Self {
            root: names::root(shown),
            path: shown.to_vec(),
            opened: open_root(open, path, shown),
        }
    }
}

fn open_root(open: &Open<'_>, path: &Path, shown: &[u8]) -> io::Result<Opened> {
    if names::means_folder(shown) {
        return match opened(open(path, false)?)? {
            Opened::Folder(folder) => Ok(Opened::Folder(folder)),
            _ => Err(rustix::io::Errno::NOTDIR.into()),
        };
    }
    // Through its folder, so that links are seen as such and a FIFO is never opened.
    let (parent, name) = names::split(path);
    match open(parent, false) {
        Ok(parent) => open_entry(&parent, name.as_bytes(), FileType::Unknown),
        // A folder may let through without letting read.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => opened(open(path, true)?),
        Err(error) => Err(error),
    }
}

fn opened(file: File) -> io::Result<Opened> {
    Ok(match kind(&file)? {
        FileType::RegularFile => Opened::File(file),
        FileType::Directory => Opened::Folder(file.into()),
        other => Opened::Special(special(other)),
    })
}

fn special(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "it is a FIFO, which is not copied",
        FileType::Socket => "it is a socket, which is not copied",
        FileType::CharacterDevice | FileType::BlockDevice => "it is a device, which is not copied",
        _ => "it is neither file, folder nor link",
    }
}

fn open_entry(parent: impl AsFd, name: &[u8], kind: FileType) -> io::Result<Opened> {
    match kind {
        FileType::RegularFile => {
            // If it has become a FIFO meanwhile, opening it must not wait.
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            opened(openat(parent, name, flags | OFlags::NOCTTY, Mode::empty())?.into())
        }
        FileType::Directory => Ok(Opened::Folder(open_folder(parent, name)?)),
        FileType::Symlink => Ok(Opened::Link {
            target: readlinkat(&parent, name, Vec::new())?.into_bytes(),
            stat: statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?,
        }),
        FileType::Unknown => {
            let stat = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Unknown => Ok(Opened::Special(special(FileType::Unknown))),
                known => open_entry(parent, name, known),
            }
        }
        other => Ok(Opened::Special(special(other))),
    }
}

/// The engine of the half that reads.
pub(super) struct Source {
    packer: Packer,
    gauge: Arc<Gauge>,
    /// Count each source before it is copied.
    count: bool,
    total: Totals,
    counts: SourceCounts,
    /// The path of the source that is being copied.
    base: Vec<u8>,
    /// Files that have been begun.
    begun: u64,
    /// The number of the last file that the target does not want.
    skipped: Arc<AtomicU64>,
}

impl Source {
    /// `skipped` is the number of the last file, from 1, that the target does not want.
    pub(super) fn new(
        outgoing: mpsc::Sender<Outgoing>,
        gauge: Arc<Gauge>,
        count: bool,
        skipped: Arc<AtomicU64>,
    ) -> Self {
        Self {
            packer: Packer::new(outgoing),
            gauge,
            count,
            total: Totals::default(),
            counts: SourceCounts::default(),
            base: Vec::new(),
            begun: 0,
            skipped,
        }
    }

    /// Copies all sources; blocks.
    pub(super) fn run(mut self, mut roots: mpsc::Receiver<Root>) -> Result<SourceCounts, Stopped> {
        while let Some(root) = roots.blocking_recv() {
            self.root(root)?;
        }
        self.packer.event(Event::End(End {
            failed: self.counts.failed,
            vanished: self.counts.vanished,
        }))?;
        self.packer.flush()?;
        Ok(self.counts)
    }

    fn root(&mut self, root: Root) -> Result<(), Stopped> {
        self.base = root.path;
        self.packer.event(Event::Root(root.root.clone()))?;
        let mut walk = Walk::default();
        match root.opened {
            // A source that was asked for and is not there is a failure, not a loss on the way.
            Err(error) => self.failed(&walk, None, &reason(&error)),
            Ok(opened) => {
                self.announce(&opened)?;
                self.entry(&mut walk, opened, &root.root.name)?;
                self.tree(&mut walk)
            }
        }
    }

    /// Copies what is left of the folder that the walk has entered.
    fn tree(&mut self, walk: &mut Walk) -> Result<(), Stopped> {
        loop {
            match walk.next() {
                Ok(None) => return Ok(()),
                Ok(Some(Step::Left)) => self.packer.event(Event::Leave(Empty {}))?,
                Ok(Some(Step::Unreadable(error))) => self.failed(walk, None, &reason(&error))?,
                Ok(Some(Step::Entry(entry))) => {
                    let name = entry.file_name().to_bytes();
                    let opened = walk
                        .folder()
                        .and_then(|folder| open_entry(folder, name, entry.file_type()));
                    match opened {
                        Ok(opened) => self.entry(walk, opened, name)?,
                        Err(error) => self.unopened(walk, name, &error)?,
                    }
                }
                Err(error) => {
                    self.failed(walk, None, &reason(&error))?;
                    // The target has as many folders to leave as are still on the way.
                    for _ in 0..=walk.depth() {
                        self.packer.event(Event::Leave(Empty {}))?;
                    }
                    return Ok(());
                }
            }
        }
    }

    fn entry(&mut self, walk: &mut Walk, opened: Opened, name: &[u8]) -> Result<(), Stopped> {
        let copied = match opened {
            Opened::File(file) => self.file(&file, name)?,
            Opened::Folder(folder) => self.folder(walk, folder, name)?,
            Opened::Link { target, stat } => {
                self.gauge.advance(0, 1);
                Ok(self.packer.event(Event::Link(Link {
                    name: name.to_vec().into(),
                    target: target.into(),
                    attributes: Some(Attributes::from(&stat)),
                }))?)
            }
            Opened::Special(what) => Err(what.to_owned()),
        };
        match copied {
            Ok(()) => Ok(()),
            Err(reason) => self.failed(walk, Some(name), &reason),
        }
    }

    fn folder(
        &mut self,
        walk: &mut Walk,
        folder: OwnedFd,
        name: &[u8],
    ) -> Result<Result<(), String>, Stopped> {
        let entered = fstat(&folder)
            .map_err(io::Error::from)
            .and_then(|stat| walk.enter(folder, name).map(|()| stat));
        let stat = match entered {
            Ok(stat) => stat,
            Err(error) => return Ok(Err(reason(&error))),
        };
        self.gauge.advance(0, 1);
        self.packer.event(Event::Folder(Folder {
            name: name.to_vec().into(),
            attributes: Some(Attributes::from(&stat)),
        }))?;
        Ok(Ok(()))
    }

    fn file(&mut self, file: &File, name: &[u8]) -> Result<Result<(), String>, Stopped> {
        let stat = match fstat(file) {
            Ok(stat) => stat,
            Err(error) => return Ok(Err(reason(&error.into()))),
        };
        self.gauge.current(name);
        self.begun += 1;
        self.packer.event(Event::File(messages::File {
            name: name.to_vec().into(),
            attributes: Some(Attributes::from(&stat)),
            size: size(&stat),
        }))?;
        let read = self.contents(file, &stat)?;
        let digest = read.as_ref().ok().copied().flatten();
        let digest = digest.map(|digest| digest.as_bytes().to_vec());
        self.packer.event(Event::FileEnd(FileEnd {
            digest: digest.unwrap_or_default().into(),
        }))?;
        self.gauge.advance(0, 1);
        Ok(read.map(|_| ()))
    }

    /// Sends a file's contents and returns their digest, or why they are of no use; `None` if the
    /// target does not want them, and tells why.
    fn contents(
        &mut self,
        file: &File,
        before: &Stat,
    ) -> Result<Result<Option<blake3::Hash>, String>, Stopped> {
        let mut hasher = blake3::Hasher::new();
        let mut remaining = size(before);
        // Files of /proc say that they are empty and are not.
        let unsized_file = remaining == 0;
        while unsized_file || remaining > 0 {
            if self.skipped.load(Ordering::Relaxed) == self.begun {
                self.gauge.advance(remaining, 0);
                return Ok(Ok(None));
            }
            let wanted = usize::try_from(remaining)
                .unwrap_or(CHUNK_BYTES)
                .min(CHUNK_BYTES);
            let wanted = if unsized_file { CHUNK_BYTES } else { wanted };
            let data = match self.packer.data(file, wanted)? {
                Ok(data) => data,
                Err(error) => return Ok(Err(reason(&error))),
            };
            hasher.update(data);
            let read = data.len();
            self.gauge.advance(read as u64, 0);
            remaining = remaining.saturating_sub(read as u64);
            // A file that grows from nothing for ever must not be read for ever.
            let ended = read < wanted;
            if ended || unsized_file && changed(file, before).is_some() {
                break;
            }
        }
        if remaining > 0 {
            return Ok(Err("it shrank while it was read".to_owned()));
        }
        Ok(changed(file, before).map_or_else(|| Ok(Some(hasher.finalize())), Err))
    }

    fn announce(&mut self, opened: &Opened) -> Result<(), Stopped> {
        let (bytes, entries) = match opened {
            Opened::File(file) => (fstat(file).as_ref().map(size).unwrap_or_default(), 1),
            Opened::Folder(folder) if self.count => count(folder),
            _ => return Ok(()),
        };
        self.total.bytes = self.total.bytes.saturating_add(bytes);
        self.total.entries = self.total.entries.saturating_add(entries);
        self.gauge.total(self.total.bytes, self.total.entries);
        self.packer.event(Event::Totals(self.total))
    }

    fn unopened(&mut self, walk: &Walk, name: &[u8], error: &io::Error) -> Result<(), Stopped> {
        if error.kind() != io::ErrorKind::NotFound {
            return self.failed(walk, Some(name), &reason(error));
        }
        self.counts.vanished += 1;
        let path = names::join(&self.base, walk.names().chain([name]));
        let mut failure = Failure::new("read", path, "it vanished before it was read");
        failure.vanished = true;
        self.packer.failure(failure)
    }

    /// Counts and tells a failure: of the entry `name` in the folder where the walk is, or of that
    /// folder.
    fn failed(&mut self, walk: &Walk, name: Option<&[u8]>, reason: &str) -> Result<(), Stopped> {
        self.counts.failed += 1;
        // The root's own name is the end of its path already.
        let name = name.filter(|_| !walk.is_at_root());
        let path = names::join(&self.base, walk.names().chain(name));
        self.packer.failure(Failure::new("read", path, reason))
    }
}

fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or_default()
}

/// What has changed since the file was opened, if anything.
fn changed(file: &File, before: &Stat) -> Option<String> {
    let now = match fstat(file) {
        Ok(now) => now,
        Err(error) => return Some(reason(&error.into())),
    };
    let told = if now.st_size > before.st_size {
        "it grew while it was read"
    } else if now.st_size < before.st_size {
        "it shrank while it was read"
    } else if (now.st_mtime, now.st_mtime_nsec) != (before.st_mtime, before.st_mtime_nsec) {
        "it changed while it was read"
    } else {
        return None;
    };
    Some(told.to_owned())
}

/// Bytes and entries of a tree, for progress; what cannot be read counts for nothing.
fn count(folder: &OwnedFd) -> (u64, u64) {
    let mut walk = Walk::default();
    let (mut bytes, mut entries) = (0_u64, 1_u64);
    let entered = open_folder(folder, b".").and_then(|folder| walk.enter(folder, b""));
    if entered.is_err() {
        return (bytes, entries);
    }
    while let Ok(Some(step)) = walk.next() {
        let Step::Entry(entry) = step else { continue };
        entries += 1;
        let Ok(parent) = walk.folder() else { continue };
        let name = entry.file_name().to_bytes();
        if entry.file_type() == FileType::Directory {
            if let Ok(folder) = open_folder(parent, name) {
                // Too deep: the copy will tell.
                walk.enter(folder, name).ok();
            }
        } else if let Ok(stat) = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
            && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        {
            bytes = bytes.saturating_add(size(&stat));
        }
    }
    (bytes, entries)
}
