//! The part of a source that reads: contents of the files that the target wants, in its order.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};

use legatus_core::limits::CHUNK_BYTES;
use rustix::fs::{FileType, SeekFrom, Stat, fstat, seek};
use rustix::io::Errno;

use super::compression::Compressor;
use super::delta::Known;
use super::ledger::{At, Record};
use super::listing::size;
use super::matching::Matching;
use super::messages::piece::Piece;
use super::messages::{Attributes, Begin, Failure, FileEnd};
use super::names;
use super::opening::open_entry;
use super::packer::{Packer, Stopped};
use super::report::{Gauge, SourceCounts, reason};
use super::transcript::Transcript;

/// A file that the target wants.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) entry: u64,
    pub(super) record: Arc<Record>,
    /// So many bytes are there already.
    pub(super) offset: u64,
    /// What the target has of an older file; the other is dropped when that is no longer in memory.
    pub(super) known: Option<(Known, Arc<()>)>,
}

/// Why contents are of no use.
pub(super) enum Useless {
    /// The target does not want them any more, and tells why.
    Unwanted,
    /// They could not be read, or changed.
    Failed(String),
    Vanished,
}

impl From<io::Error> for Useless {
    fn from(error: io::Error) -> Self {
        Self::Failed(reason(&error))
    }
}

/// Reads what the target wants.
pub(super) struct Reader {
    pub(super) packer: Packer,
    pub(super) transcript: Transcript,
    compressor: Compressor,
    gauge: Arc<Gauge>,
    counts: SourceCounts,
    /// The number of the last file that the target does not want any more.
    skipped: Arc<AtomicU64>,
    entry: u64,
}

/// No entry has this number.
pub(super) const NO_ENTRY: u64 = u64::MAX;

impl Reader {
    pub(super) fn new(
        packer: Packer,
        compressor: Compressor,
        gauge: Arc<Gauge>,
        skipped: Arc<AtomicU64>,
    ) -> Self {
        Self {
            packer,
            transcript: Transcript::default(),
            compressor,
            gauge,
            counts: SourceCounts::default(),
            skipped,
            entry: NO_ENTRY,
        }
    }

    /// Reads what is ordered until no more orders can come; blocks.
    pub(super) fn run(mut self, orders: Receiver<Order>) -> Result<SourceCounts, Stopped> {
        loop {
            let order = match orders.try_recv() {
                Ok(order) => order,
                Err(TryRecvError::Disconnected) => return Ok(self.counts),
                Err(TryRecvError::Empty) => {
                    self.packer.flush()?;
                    match orders.recv() {
                        Ok(order) => order,
                        Err(_) => return Ok(self.counts),
                    }
                }
            };
            self.order(order)?;
        }
    }

    fn order(&mut self, mut order: Order) -> Result<(), Stopped> {
        self.entry = order.entry;
        // What was said of an earlier attempt does not count.
        if self.is_unwanted() {
            self.skipped.store(NO_ENTRY, Ordering::Relaxed);
        }
        let name = match &order.record.place {
            At::Folder(_, name) => name.as_slice(),
            At::Opened(_) => b"",
        };
        self.gauge.current(name);
        let read = match open(&order.record) {
            Ok(Opened { file, stat }) => self.file(&mut order, &file, &stat)?,
            Err(error) => {
                self.begin(&order, &order.record.stat)?;
                Err(error)
            }
        };
        let mut end = FileEnd::default();
        let digest = self.transcript.finish();
        match read {
            Ok(size) => {
                end.digest = digest.to_vec().into();
                end.size = size;
            }
            Err(Useless::Unwanted) => {}
            Err(Useless::Failed(reason)) => {
                self.counts.failed += 1;
                end.failure = Some(Failure::new("read", path(&order.record), reason));
            }
            Err(Useless::Vanished) => {
                self.counts.vanished += 1;
                end.failure = Some(Failure::vanished(path(&order.record)));
            }
        }
        if let Some(failure) = &end.failure {
            self.packer.failure(failure.clone())?;
        }
        self.packer.piece(Piece::FileEnd(end))?;
        self.gauge.advance(0, 1);
        Ok(())
    }

    fn begin(&mut self, order: &Order, stat: &Stat) -> Result<u64, Stopped> {
        let told = &order.record.stat;
        let is_as_told = unchanged(told, stat);
        let offset = if is_as_told && order.offset <= size(stat) {
            order.offset
        } else {
            0
        };
        self.packer.piece(Piece::Begin(Begin {
            entry: order.entry,
            offset,
            attributes: (!is_as_told).then(|| Attributes::from(stat)),
            size: size(stat),
        }))?;
        Ok(offset)
    }

    fn file(
        &mut self,
        order: &mut Order,
        file: &File,
        stat: &Stat,
    ) -> Result<Result<u64, Useless>, Stopped> {
        let offset = self.begin(order, stat)?;
        self.gauge.advance(offset, 0);
        self.compressor.next_file();
        let whole = size(stat);
        let read = match &mut order.known {
            Some((known, _)) => Matching::new(self, file, known, offset, whole).run()?,
            None if whole == 0 => self.unsized_file(file, stat)?,
            None => self.contents(file, stat, offset)?,
        };
        let read = match read {
            Ok(end) => end,
            Err(useless) => return Ok(Err(useless)),
        };
        Ok(match changed(file, stat) {
            None => Ok(read),
            Some(changed) => Err(Useless::Failed(changed)),
        })
    }

    /// Contents from an offset on, without the holes.
    fn contents(
        &mut self,
        file: &File,
        stat: &Stat,
        mut at: u64,
    ) -> Result<Result<u64, Useless>, Stopped> {
        let whole = size(stat);
        let has_holes = u64::try_from(stat.st_blocks).unwrap_or_default() * 512 < whole;
        while at < whole {
            let data = if has_holes {
                next_data(file, at, whole)
            } else {
                at..whole
            };
            if data.start > at {
                self.hole(data.start - at)?;
            }
            at = data.start;
            while at < data.end {
                let wanted = usize::try_from(data.end - at).unwrap_or(CHUNK_BYTES);
                let read = match self.chunk(file, at, wanted.min(CHUNK_BYTES))? {
                    Ok(read) => read,
                    Err(useless) => return Ok(Err(useless)),
                };
                at += read as u64;
                self.check(at < whole)?;
            }
        }
        Ok(Ok(whole))
    }

    fn hole(&mut self, length: u64) -> Result<(), Stopped> {
        self.transcript.hole(length);
        self.gauge.advance(length, 0);
        self.packer.piece(Piece::Hole(length))
    }

    /// Proves what was sent, if it is time to, and more comes.
    pub(super) fn check(&mut self, more: bool) -> Result<(), Stopped> {
        if !more || !self.transcript.is_due() {
            return Ok(());
        }
        let digest = self.transcript.finish().to_vec();
        self.packer.piece(Piece::Check(digest.into()))
    }

    /// Reads and sends so many bytes, all of which should be there.
    fn chunk(
        &mut self,
        file: &File,
        at: u64,
        wanted: usize,
    ) -> Result<Result<usize, Useless>, Stopped> {
        if self.is_unwanted() {
            return Ok(Err(Useless::Unwanted));
        }
        if self.compressor.wants(&self.packer, wanted) {
            let mut room = vec![0; wanted];
            if let Err(error) = file.read_exact_at(&mut room, at) {
                return Ok(Err(shrunk(error)));
            }
            self.send(&room, true)?;
            return Ok(Ok(wanted));
        }
        let data = match self.packer.data(file, at, wanted)? {
            Ok(data) => data,
            Err(error) => return Ok(Err(error.into())),
        };
        if data.len() < wanted {
            return Ok(Err(Useless::Failed(
                "it shrank while it was read".to_owned(),
            )));
        }
        self.transcript.data(data);
        self.gauge.advance(wanted as u64, 0);
        Ok(Ok(wanted))
    }

    /// Sends contents that are in memory and were not found at the target, at most a chunk.
    pub(super) fn literal(&mut self, data: &[u8]) -> Result<(), Stopped> {
        let compress = self.compressor.wants(&self.packer, data.len());
        self.send(data, compress)
    }

    fn send(&mut self, data: &[u8], compress: bool) -> Result<(), Stopped> {
        self.transcript.data(data);
        self.gauge.advance(data.len() as u64, 0);
        let packed = if compress {
            self.compressor.compress(data)
        } else {
            None
        };
        match packed {
            Some(packed) => self.packer.piece(Piece::Packed(packed)),
            None => self.packer.bytes(data),
        }
    }

    /// Counts what the target has already.
    pub(super) fn reused(&self, bytes: u64) {
        self.gauge.advance(bytes, 0);
    }

    /// Whether the target does not want the file any more.
    pub(super) fn is_unwanted(&self) -> bool {
        self.skipped.load(Ordering::Relaxed) == self.entry
    }

    /// Files of /proc say that they are empty and are not. One that grows for ever must not be read
    /// for ever: it ends when it has changed.
    fn unsized_file(
        &mut self,
        file: &File,
        before: &Stat,
    ) -> Result<Result<u64, Useless>, Stopped> {
        let mut at = 0;
        loop {
            let data = match self.packer.data(file, at, CHUNK_BYTES)? {
                Ok(data) => data,
                Err(error) => return Ok(Err(error.into())),
            };
            let read = data.len();
            self.transcript.data(data);
            self.gauge.advance(read as u64, 0);
            at += read as u64;
            if read < CHUNK_BYTES || changed(file, before).is_some() || self.is_unwanted() {
                return Ok(Ok(at));
            }
            self.check(true)?;
        }
    }
}

/// Why reading exactly what should be there failed.
pub(super) fn shrunk(error: io::Error) -> Useless {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return Useless::Failed("it shrank while it was read".to_owned());
    }
    error.into()
}

struct Opened {
    file: File,
    stat: Stat,
}

fn open(record: &Record) -> Result<Opened, Useless> {
    let file = match &record.place {
        At::Opened(file) => file.try_clone()?,
        At::Folder(node, name) => {
            let opened = node.open().and_then(|folder| open_entry(&*folder, name));
            match opened {
                Ok(opened) => File::from(opened),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(Useless::Vanished);
                }
                Err(error) => return Err(error.into()),
            }
        }
    };
    let stat = fstat(&file).map_err(io::Error::from)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Useless::Failed("it is no file any more".to_owned()));
    }
    Ok(Opened { file, stat })
}

fn path(record: &Record) -> Vec<u8> {
    match &record.place {
        // The path of the file that the user named is the base itself.
        At::Folder(node, name) if !record.is_root => names::join(
            &record.base,
            node.names().into_iter().chain([name.as_slice()]),
        ),
        _ => record.base.to_vec(),
    }
}

/// The next data of a file with holes; what the file system does not tell is data.
fn next_data(file: impl AsFd, at: u64, whole: u64) -> std::ops::Range<u64> {
    let start = match seek(&file, SeekFrom::Data(at)) {
        Ok(start) => start.clamp(at, whole),
        Err(Errno::NXIO) => return whole..whole,
        Err(_) => return at..whole,
    };
    let end = seek(&file, SeekFrom::Hole(start)).unwrap_or(whole);
    start..end.clamp(start, whole)
}

fn unchanged(one: &Stat, other: &Stat) -> bool {
    let of = |stat: &Stat| (stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
    of(one) == of(other)
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
    } else if !unchanged(&now, before) {
        "it changed while it was read"
    } else {
        return None;
    };
    Some(told.to_owned())
}
