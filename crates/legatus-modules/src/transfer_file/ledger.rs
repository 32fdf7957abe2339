//! What a source has told and the target has not settled: bounded, so that a tree of any size takes
//! little memory on either side.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::Stat;

use super::messages::Misbehaved;
use super::packer::Stopped;
use super::tree::Node;

/// Events on their way that are not settled, at most: far more than small files need to keep 100 ms of
/// distance busy at a gigabit a second (1,200 of 10 KB), at some 200 bytes each.
pub(super) const EVENTS: usize = 8192;

/// The bytes of these events, at most.
pub(super) const EVENT_BYTES: usize = 4 << 20;

/// A file that the target may want.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) place: At,
    /// Its path as the user knows it.
    pub(super) base: Arc<[u8]>,
    /// It is the source itself, not in it.
    pub(super) is_root: bool,
    /// What it was when it was told.
    pub(super) stat: Stat,
}

/// How to come to a file.
#[derive(Debug)]
pub(super) enum At {
    /// By its name in a folder.
    Folder(Arc<Node>, Vec<u8>),
    /// It is open already.
    Opened(File),
}

#[derive(Debug, Default)]
struct State {
    /// The number of the first entry.
    first: u64,
    entries: VecDeque<Entry>,
    bytes: usize,
    closed: bool,
}

#[derive(Debug)]
struct Entry {
    bytes: usize,
    settled: bool,
    /// How often its contents may still be asked for: once, and once more if they did not arrive as
    /// they were.
    asks: u8,
    record: Option<Arc<Record>>,
}

/// What is told and not settled.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    state: Mutex<State>,
    changed: Condvar,
}

impl Ledger {
    /// Waits for room, and counts the next event; returns its number.
    pub(super) fn tell(&self, bytes: usize, record: Option<Record>) -> Result<u64, Stopped> {
        let mut state = self.state();
        loop {
            if state.closed {
                return Err(Stopped);
            }
            let fits = state.bytes + bytes <= EVENT_BYTES || state.entries.is_empty();
            if fits && state.entries.len() < EVENTS {
                break;
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.bytes += bytes;
        state.entries.push_back(Entry {
            bytes,
            settled: false,
            asks: 2,
            record: record.map(Arc::new),
        });
        Ok(state.first + state.entries.len() as u64 - 1)
    }

    /// Whether the next event would have to wait.
    pub(super) fn is_full(&self, bytes: usize) -> bool {
        let state = self.state();
        state.entries.len() >= EVENTS
            || state.bytes + bytes > EVENT_BYTES && !state.entries.is_empty()
    }

    /// A file whose contents are asked for.
    pub(super) fn ask(&self, number: u64) -> Result<Arc<Record>, Misbehaved> {
        let mut state = self.state();
        let entry = state.entry(number).filter(|entry| entry.asks > 0);
        let entry = entry.ok_or(Misbehaved("a wish for what was not told"))?;
        entry.asks -= 1;
        let record = entry.record.clone();
        record.ok_or(Misbehaved("a wish for the contents of what is no file"))
    }

    /// Forgets events. Returns the sizes of files among them that were never asked for.
    pub(super) fn settle(&self, first: u64, count: u64) -> Result<(u64, u64), Misbehaved> {
        const UNTOLD: Misbehaved = Misbehaved("an end of what was not told");
        let mut state = self.state();
        let told = state.first + state.entries.len() as u64;
        let end = first.checked_add(count).filter(|end| *end <= told);
        let end = end.ok_or(UNTOLD)?;
        let (mut files, mut bytes) = (0, 0);
        for number in first..end {
            let entry = state.entry(number).filter(|entry| !entry.settled);
            let entry = entry.ok_or(UNTOLD)?;
            entry.settled = true;
            let record = entry.record.take();
            if let (Some(record), 2) = (record, entry.asks) {
                files += 1;
                bytes += u64::try_from(record.stat.st_size).unwrap_or_default();
            }
        }
        while state.entries.front().is_some_and(|entry| entry.settled) {
            state.bytes -= state.entries.pop_front().map_or(0, |entry| entry.bytes);
            state.first += 1;
        }
        drop(state);
        self.changed.notify_all();
        Ok((files, bytes))
    }

    /// Lets nobody wait any longer.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn entry(&mut self, number: u64) -> Option<&mut Entry> {
        let place = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.entries.get_mut(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_told_can_be_neither_wanted_nor_settled() {
        let ledger = Ledger::default();
        assert_eq!(ledger.tell(10, None), Ok(0));
        assert!(ledger.ask(0).is_err() && ledger.ask(1).is_err());
        for (first, count) in [(0, 2), (1, 1), (0, u64::MAX), (u64::MAX, 2)] {
            assert!(ledger.settle(first, count).is_err(), "{first} {count}");
        }
        assert_eq!(ledger.settle(0, 1), Ok((0, 0)));
        assert!(ledger.settle(0, 1).is_err(), "twice");
        assert_eq!(ledger.tell(10, None), Ok(1));
    }

    #[test]
    fn a_source_waits_until_something_is_settled_and_ends_when_it_is_closed() {
        let ledger = Arc::new(Ledger::default());
        ledger.tell(EVENT_BYTES, None).unwrap();
        assert!(ledger.is_full(1));
        let waiting = Arc::clone(&ledger);
        let waiter = std::thread::spawn(move || waiting.tell(1, None));
        ledger.settle(0, 1).unwrap();
        assert_eq!(waiter.join().unwrap(), Ok(1));
        ledger.tell(EVENT_BYTES - 1, None).unwrap();
        let waiting = Arc::clone(&ledger);
        let waiter = std::thread::spawn(move || waiting.tell(1, None));
        ledger.close();
        assert_eq!(waiter.join().unwrap(), Err(Stopped));
    }
}
