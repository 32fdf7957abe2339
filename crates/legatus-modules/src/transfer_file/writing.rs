//! The part of a target that writes: contents of files as they come, verified before each appears at
//! its name.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::compression::Unpacker;
use super::growing::{Current, Growing, Ready};
use super::messages::piece::Piece;
use super::messages::{Begin, Copy, Failure, FileEnd, Misbehaved, Pieces};
use super::report::reason;
use super::target::{Notice, Pending, Shared, TargetError};
use super::transcript::{DIGEST_BYTES, Transcript};

/// Complete files that wait for the disk together, at most; each has a descriptor.
const BATCH_FILES: usize = 256;
/// Their contents in bytes, at most: what a kill loses of small files.
const BATCH_BYTES: u64 = 16 << 20;

/// Smaller files come to their end anyway before the source would hear that they are not wanted.
const SKIPPED_BYTES: u64 = 1 << 20;

/// Writes what comes.
pub(super) struct Writer {
    shared: Arc<Shared>,
    current: Option<Current>,
    ready: Vec<Ready>,
    ready_bytes: u64,
    unpacker: Unpacker,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            current: None,
            ready: Vec::new(),
            ready_bytes: 0,
            unpacker: Unpacker::default(),
        }
    }

    /// Writes everything that comes; blocks. What is complete gets its name, however it ends.
    pub(super) fn run(mut self, mut messages: mpsc::Receiver<Bytes>) -> Result<(), TargetError> {
        let written = self.write_all(&mut messages);
        let named = self.name_ready();
        written.and(named)?;
        self.shared.flush()
    }

    fn write_all(&mut self, messages: &mut mpsc::Receiver<Bytes>) -> Result<(), TargetError> {
        loop {
            let message = match messages.try_recv() {
                Ok(message) => message,
                Err(_) => {
                    self.name_if_last()?;
                    self.shared.flush()?;
                    match messages.blocking_recv() {
                        Some(message) => message,
                        None => {
                            // What is still wanted will not come.
                            if self.shared.outstanding() > self.ready.len() as u64 {
                                self.shared.stop();
                            }
                            return Ok(());
                        }
                    }
                }
            };
            for piece in Pieces(message) {
                self.take(piece?)?;
            }
            if self.shared.is_stopped() {
                return Err(TargetError::Interrupted);
            }
        }
    }

    fn take(&mut self, piece: Piece) -> Result<(), TargetError> {
        match (piece, self.current.is_some()) {
            (Piece::Begin(begin), false) => self.begin(begin),
            (Piece::Data(data), true) => self.data(&data),
            (Piece::Packed(packed), true) => {
                let mut unpacker = std::mem::take(&mut self.unpacker);
                let written = unpacker.unpack(&packed).map(|data| self.data(data));
                self.unpacker = unpacker;
                written?
            }
            (Piece::Copy(copy), true) => self.copy(copy),
            (Piece::Hole(length), true) => self.hole(length),
            (Piece::Check(digest), true) => self.check(&digest),
            (Piece::FileEnd(end), true) => self.end(&end),
            _ => Err(Misbehaved("a piece out of order").into()),
        }
    }

    fn begin(&mut self, begin: Begin) -> Result<(), TargetError> {
        let pending = self.shared.take(begin.entry);
        let mut pending = pending.ok_or(Misbehaved("contents that nobody asked for"))?;
        self.shared.gauge.current(&pending.name);
        if let Some(now) = begin.attributes {
            // The owner is that of the entry; what of the rest matters is new.
            pending.attributes.mode = now.mode;
            pending.attributes.modified = now.modified;
        }
        let begun = Growing::begin(&mut pending, begin.offset);
        let mut current = Current {
            entry: begin.entry,
            pending,
            file: None,
            transcript: Transcript::default(),
            whole: self.shared.options.verify_disk.then(blake3::Hasher::new),
            at: begin.offset,
            written_back: begin.offset,
            reused: begin.offset,
        };
        self.shared.gauge.advance(begin.offset, 0);
        let result = match begun {
            Ok(file) => {
                current.file = Some(file);
                current.hash_kept()
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                return Err(Misbehaved("an offset that was not asked for").into());
            }
            Err(error) => Err(error),
        };
        self.current = Some(current);
        result.or_else(|error| self.give_up(&error))
    }

    /// Tells that the file that is coming cannot be written, and lets the rest of it pass.
    fn give_up(&mut self, error: &io::Error) -> Result<(), TargetError> {
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        if let Some(Growing {
            partial: Some(partial),
            ..
        }) = current.file.take()
        {
            partial.discard();
        }
        let path = current.pending.site.path(Some(&current.pending.name));
        if current.pending.size >= SKIPPED_BYTES {
            self.shared.tell(Notice::Skip(current.entry))?;
        }
        self.shared
            .failed(Failure::new("write", path, reason(error)))?;
        self.shared.flush()
    }

    fn data(&mut self, data: &[u8]) -> Result<(), TargetError> {
        self.shared.gauge.advance(data.len() as u64, 0);
        let is_durable = self.shared.durability.is_enabled();
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        let written = current.data(data, is_durable);
        written.or_else(|error| self.give_up(&error))
    }

    fn hole(&mut self, length: u64) -> Result<(), TargetError> {
        self.shared.gauge.advance(length, 0);
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        let skipped = current.hole(length);
        skipped.or_else(|error| self.give_up(&error))
    }

    fn copy(&mut self, copy: Copy) -> Result<(), TargetError> {
        let is_durable = self.shared.durability.is_enabled();
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        let Some(basis) = &current.pending.basis else {
            return Err(Misbehaved("blocks of a file that is not there").into());
        };
        let bytes = copy.count.checked_mul(basis.block);
        let start = copy.first.checked_mul(basis.block);
        let (Some(bytes), Some(start)) = (bytes, start) else {
            return Err(Misbehaved("blocks that cannot be").into());
        };
        self.shared.gauge.advance(bytes, 0);
        let copied = current.copy(start, bytes, is_durable);
        copied.or_else(|error| self.give_up(&error))
    }

    fn check(&mut self, digest: &[u8]) -> Result<(), TargetError> {
        let is_durable = self.shared.durability.is_enabled();
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        if current.file.is_none() {
            return Ok(());
        }
        if current.transcript.finish() != *digest_of(digest)? {
            return self.mismatch();
        }
        let passed = current.passed(is_durable);
        passed.or_else(|error| self.give_up(&error))
    }

    /// What was written is not what was read: the file is asked for once more, from scratch.
    fn mismatch(&mut self) -> Result<(), TargetError> {
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        if current.pending.is_second {
            let why = "its contents are not what the other side read";
            return self.give_up(&io::Error::other(why));
        }
        if let Some(Growing {
            partial: Some(partial),
            ..
        }) = current.file.take()
        {
            partial.discard();
        }
        current.pending.is_second = true;
        if current.pending.size >= SKIPPED_BYTES {
            self.shared.tell(Notice::Skip(current.entry))?;
            self.shared.flush()?;
        }
        Ok(())
    }

    fn end(&mut self, end: &FileEnd) -> Result<(), TargetError> {
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        if end.digest.is_empty() {
            return self.useless(end);
        }
        let is_it = current.transcript.finish() == *digest_of(&end.digest)?;
        if current.file.is_some() && !(is_it && current.at == end.size) {
            self.mismatch()?;
        } else if current.file.is_some() {
            let options = &self.shared.options;
            let mode = self.shared.file_mode(&current.pending.attributes);
            match current.complete(options, mode) {
                Ok(lost) => self.shared.note_lost(lost),
                Err(error) => self.give_up(&error)?,
            }
        }
        let Some(current) = self.current.take() else {
            return Ok(());
        };
        if current.pending.basis.is_some() {
            self.shared.with_sums.leave();
        }
        match current.file {
            Some(file) => self.ready(Ready {
                entry: current.entry,
                pending: current.pending,
                file,
                bytes: current.at,
                reused: current.reused,
            }),
            None => self.done_without(current.entry, current.pending),
        }
    }

    /// The source could not read it, or does not send it because we did not want it.
    fn useless(&mut self, end: &FileEnd) -> Result<(), TargetError> {
        let Some(current) = self.current.take() else {
            return Ok(());
        };
        if current.pending.basis.is_some() {
            self.shared.with_sums.leave();
        }
        let was_skipped = current.file.is_none();
        if let Some(file) = current.file {
            // The file that it is a part of is no more.
            if let Some(partial) = file.partial {
                partial.discard();
            }
            self.shared
                .failed_at_source(end.failure.clone().unwrap_or_default())?;
        }
        if was_skipped {
            return self.done_without(current.entry, current.pending);
        }
        self.shared.gauge.advance(0, 1);
        self.shared.settle(current.entry, &current.pending.site)
    }

    /// A file did not become one: it is asked for again, or done with.
    fn done_without(&self, entry: u64, mut pending: Pending) -> Result<(), TargetError> {
        if pending.asks_again() {
            pending.basis = None;
            self.shared.put_back(entry, pending);
            self.shared.tell(Notice::Wanted(entry))?;
            return self.shared.flush();
        }
        self.shared.gauge.advance(0, 1);
        self.shared.settle(entry, &pending.site)
    }

    fn ready(&mut self, ready: Ready) -> Result<(), TargetError> {
        self.shared.gauge.advance(0, 1);
        self.ready_bytes = self.ready_bytes.saturating_add(ready.bytes);
        let is_large = ready.file.partial.is_some();
        self.ready.push(ready);
        if is_large || self.ready.len() >= BATCH_FILES || self.ready_bytes >= BATCH_BYTES {
            return self.name_ready();
        }
        Ok(())
    }

    /// Names what is complete, if no other file is on its way that could be waited for with it.
    fn name_if_last(&mut self) -> Result<(), TargetError> {
        if self.ready.len() as u64 == self.shared.outstanding() {
            return self.name_ready();
        }
        Ok(())
    }

    /// Waits for the disk, and lets all files that are complete appear at their names.
    fn name_ready(&mut self) -> Result<(), TargetError> {
        self.ready_bytes = 0;
        let mut ready = VecDeque::from(std::mem::take(&mut self.ready));
        if ready.is_empty() {
            return Ok(());
        }
        let files = ready
            .iter()
            .map(|ready| (&ready.file.staged, ready.pending.site.device()));
        let synced = self.shared.durability.files(files);
        while let Some(ready) = ready.pop_front() {
            let (bytes, reused) = (ready.bytes, ready.reused);
            let (entry, site) = (ready.entry, Arc::clone(&ready.pending.site));
            let path = |pending: &Pending| pending.site.path(Some(&pending.name));
            let shown = path(&ready.pending);
            let named = match &synced {
                Ok(()) => ready.name(&self.shared),
                Err(error) => Err(io::Error::other(reason(error))),
            };
            match named {
                Ok(()) => {
                    let mut finished = self.shared.finished();
                    finished.files += 1;
                    finished.bytes = finished.bytes.saturating_add(bytes);
                    finished.reused = finished.reused.saturating_add(reused);
                }
                Err(error) => {
                    self.shared
                        .failed(Failure::new("write", shown, reason(&error)))?;
                }
            }
            self.shared.settle(entry, &site)?;
        }
        Ok(())
    }
}

/// What a source proves contents with.
fn digest_of(bytes: &[u8]) -> Result<&[u8; DIGEST_BYTES], Misbehaved> {
    let odd = Misbehaved("a digest that has not 16 bytes");
    bytes.try_into().map_err(|_| odd)
}
