//! Sends a file of which the target has an older one: finds its blocks, sends the rest.

use std::fs::File;
use std::os::unix::fs::FileExt;

use legatus_core::limits::CHUNK_BYTES;

use super::delta::{BlockHash, Known, Rolling};
use super::messages::Copy;
use super::messages::piece::Piece;
use super::packer::Stopped;
use super::reading::{Reader, Useless, shrunk};

/// Bytes that are read at a time, beside the blocks.
const READ_BYTES: usize = 1 << 20;

/// So many bytes may be found before the target is told of them, which copies them meanwhile. What tells
/// of them is short, and would fill a message only after gigabytes.
const TELL_BYTES: u64 = 32 << 20;

/// The search through one file.
pub(super) struct Matching<'a> {
    reader: &'a mut Reader,
    file: &'a File,
    known: &'a mut Known,
    /// Contents from `start` on; `next` is where the window begins.
    room: Vec<u8>,
    filled: usize,
    /// What is before it was sent.
    sent: usize,
    next: usize,
    /// The offset of the end of `room` in the file.
    read: u64,
    whole: u64,
    /// Blocks that were found, one after the other.
    run: Copy,
    /// Bytes that were found since the target was last told of them at once.
    untold: u64,
    /// Windows that were no block since the last that was.
    missed: usize,
    /// The block behind the last that was found, if the window stands behind that.
    expected: Option<u64>,
}

impl<'a> Matching<'a> {
    pub(super) fn new(
        reader: &'a mut Reader,
        file: &'a File,
        known: &'a mut Known,
        offset: u64,
        whole: u64,
    ) -> Self {
        Self {
            reader,
            file,
            room: vec![0; 2 * known.block().max(CHUNK_BYTES) + READ_BYTES],
            known,
            filled: 0,
            sent: 0,
            next: 0,
            read: offset,
            whole,
            run: Copy::default(),
            untold: 0,
            missed: 0,
            expected: None,
        }
    }

    /// Sends the file; returns its length.
    pub(super) fn run(mut self) -> Result<Result<u64, Useless>, Stopped> {
        let block = self.known.block();
        loop {
            if self.reader.is_unwanted() {
                return Ok(Err(Useless::Unwanted));
            }
            if let Err(useless) = self.fill() {
                return Ok(Err(useless));
            }
            if self.filled - self.next < block {
                break;
            }
            self.search()?;
        }
        self.end_run()?;
        self.next = self.filled;
        self.send_literal()?;
        Ok(Ok(self.whole))
    }

    /// Looks through what was read, as far as whole windows go.
    fn search(&mut self) -> Result<(), Stopped> {
        let block = self.known.block();
        let mut rolling = None;
        while self.filled - self.next >= block {
            if self.is_ahead() {
                self.wait()?;
                continue;
            }
            let window = self
                .room
                .get(self.next..self.next + block)
                .unwrap_or_default();
            // Most often what follows a block is the next one: then no rolling checksum is needed.
            if let Some(expected) = self.expected
                && let Some(hash) = self.known.is(expected, window)
            {
                self.found(expected, hash)?;
                continue;
            }
            let sum = *rolling.get_or_insert_with(|| Rolling::of(window));
            let value = Rolling::value(sum);
            if self.known.may_have(value)
                && let Some((number, hash)) = self.known.find(value, window)
            {
                self.found(number, hash)?;
                rolling = None;
                continue;
            }
            self.expected = None;
            self.end_run()?;
            self.step(&mut rolling, block);
            if self.missed > block && !self.known.is_complete() {
                // It may be of a part that the target has not told of. What was sent meanwhile, of long
                // blocks, is not looked at again.
                while !self.known.is_complete() {
                    self.wait()?;
                }
                (self.next, self.missed) = (self.sent, 0);
                rolling = None;
                continue;
            }
            if self.next - self.sent >= CHUNK_BYTES {
                self.send_literal()?;
            }
        }
        Ok(())
    }

    /// Whether the target has not told so far yet: of what stands there, a little behind it, and what is
    /// expected next.
    fn is_ahead(&self) -> bool {
        if self.known.is_complete() {
            return false;
        }
        let block = self.known.block() as u64;
        let place = self.read - (self.filled - self.next) as u64;
        let expected = self.expected.map_or(0, |expected| expected + 1);
        self.known.count() < expected.max(place / block + 2)
    }

    /// Waits until the target has told of more, and lets it go on with what was found meanwhile.
    fn wait(&mut self) -> Result<(), Stopped> {
        if self.known.catch_up() {
            return Ok(());
        }
        self.end_run()?;
        self.reader.packer.flush()?;
        self.untold = 0;
        self.known.wait();
        Ok(())
    }

    /// Goes on to the next window that may be known, or to the end of what is there.
    fn step(&mut self, rolling: &mut Option<Rolling>, block: usize) {
        let Some(mut sum) = *rolling else { return };
        let limit = (self.sent + CHUNK_BYTES).min(self.filled);
        let old = self.room.get(self.next..limit).unwrap_or_default();
        let new = self.room.get(self.next + block..self.filled);
        let length = u32::try_from(block).unwrap_or(u32::MAX);
        let mut steps = 0;
        for (old, new) in old.iter().zip(new.unwrap_or_default()) {
            sum.roll(length, *old, *new);
            steps += 1;
            if self.known.may_have(sum.value()) {
                break;
            }
        }
        // The last window there is ends here: the one after it needs more contents.
        if steps == 0 {
            steps = 1;
            *rolling = None;
        } else {
            *rolling = Some(sum);
        }
        self.next += steps;
        self.missed += steps;
    }

    fn found(&mut self, number: u64, hash: BlockHash) -> Result<(), Stopped> {
        let block = self.known.block();
        self.send_literal()?;
        if self.run.count == 0 || self.run.first + self.run.count != number {
            self.end_run()?;
            self.run = Copy {
                first: number,
                count: 0,
            };
        }
        self.run.count += 1;
        self.reader.transcript.block(hash, block as u64);
        self.reader.reused(block as u64);
        self.next += block;
        self.sent = self.next;
        self.missed = 0;
        self.expected = Some(number + 1);
        self.untold += block as u64;
        if self.reader.transcript.is_due() {
            self.end_run()?;
            self.reader.check(true)?;
            if self.untold >= TELL_BYTES {
                self.reader.packer.flush()?;
                self.untold = 0;
            }
        }
        Ok(())
    }

    fn end_run(&mut self) -> Result<(), Stopped> {
        let run = std::mem::take(&mut self.run);
        if run.count > 0 {
            self.reader.packer.piece(Piece::Copy(run))?;
        }
        Ok(())
    }

    /// Sends what was passed and not found.
    fn send_literal(&mut self) -> Result<(), Stopped> {
        while self.sent < self.next {
            let end = self.next.min(self.sent + CHUNK_BYTES);
            let data = self.room.get(self.sent..end).unwrap_or_default();
            self.reader.literal(data)?;
            self.sent = end;
            self.reader.check(true)?;
        }
        Ok(())
    }

    /// Reads on, keeping what was not sent.
    fn fill(&mut self) -> Result<(), Useless> {
        if self.sent > 0 {
            self.room.copy_within(self.sent..self.filled, 0);
            self.filled -= self.sent;
            self.next -= self.sent;
            self.sent = 0;
        }
        let left = usize::try_from(self.whole - self.read).unwrap_or(usize::MAX);
        let room = self.room.get_mut(self.filled..).unwrap_or_default();
        let wanted = room.len().min(left);
        let room = room.get_mut(..wanted).unwrap_or_default();
        self.file.read_exact_at(room, self.read).map_err(shrunk)?;
        self.filled += wanted;
        self.read += wanted as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    use prost::Message as _;
    use tokio::sync::mpsc;

    use super::*;
    use crate::transfer_file::compression::Compressor;
    use crate::transfer_file::delta::{self, Basis};
    use crate::transfer_file::messages::SourceMessage;
    use crate::transfer_file::packer::{Outgoing, Packer};

    fn reader(outgoing: mpsc::Sender<Outgoing>) -> Reader {
        Reader::new(
            Packer::new(outgoing),
            Compressor::new(None).unwrap(),
            Arc::default(),
            Arc::new(AtomicU64::new(0)),
        )
    }

    #[test]
    fn what_has_moved_far_is_found_once_the_target_has_told_of_it() {
        const BLOCK: usize = 2048;
        const BLOCKS: usize = 32;
        let mut older = vec![0; BLOCK * BLOCKS];
        blake3::Hasher::new().finalize_xof().fill(&mut older);
        let newer: Vec<u8> = older.rchunks(BLOCK).flatten().copied().collect();
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&newer, 0).unwrap();
        let size = newer.len() as u64;

        let older_file = tempfile::tempfile().unwrap();
        older_file.write_all_at(&older, 0).unwrap();
        let basis = Basis::new(older_file, BLOCK as u64).unwrap();
        let mut sums = Vec::new();
        let tell = |part: bytes::Bytes| {
            sums.extend_from_slice(&part);
            Ok(())
        };
        basis.tell(size, &|| false, tell).unwrap();
        // The first half is told at once, in which is nothing of what the newer file begins with.
        let (first, second) = sums.split_at(sums.len() / 2);
        let (tell, more) = std::sync::mpsc::channel();
        tell.send(bytes::Bytes::copy_from_slice(first)).unwrap();
        let mut known = Known::new(BLOCK as u64, &basis.key.bytes(), more).unwrap();

        let (outgoing, mut told) = mpsc::channel(100);
        let search = std::thread::spawn(move || {
            let mut reader = reader(outgoing);
            let search = Matching::new(&mut reader, &file, &mut known, 0, size);
            assert!(matches!(search.run(), Ok(Ok(whole)) if whole == size));
            reader.packer.flush().unwrap();
        });
        tell.send(bytes::Bytes::copy_from_slice(second)).unwrap();
        drop(tell);
        search.join().unwrap();
        let mut copied = Vec::new();
        while let Ok(Outgoing::Message(message)) = told.try_recv() {
            for piece in SourceMessage::decode(message).unwrap().pieces {
                match piece.piece {
                    Some(Piece::Copy(copy)) => copied.extend(copy.first..copy.first + copy.count),
                    other => panic!("sent: {other:?}"),
                }
            }
        }
        let backwards: Vec<_> = (0..BLOCKS as u64).rev().collect();
        assert_eq!(copied, backwards);
    }

    #[test]
    fn a_target_is_told_of_what_was_found_before_all_was_searched() {
        let size = 2 * TELL_BYTES;
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        let block = delta::block_bytes(size);
        let basis = Basis::new(file.try_clone().unwrap(), block).unwrap();
        let (tell, more) = std::sync::mpsc::channel();
        let tell = move |sums| tell.send(sums).map_err(std::io::Error::other);
        basis.tell(size, &|| false, tell).unwrap();
        let mut known = Known::new(block, &basis.key.bytes(), more).unwrap();
        let (outgoing, mut told) = mpsc::channel(10);
        let mut reader = reader(outgoing);
        let search = Matching::new(&mut reader, &file, &mut known, 0, size);
        assert!(matches!(search.run(), Ok(Ok(whole)) if whole == size));
        let mut messages = 0;
        while told.try_recv().is_ok() {
            messages += 1;
        }
        assert_eq!(messages, 2, "each after {TELL_BYTES} bytes");
    }
}
