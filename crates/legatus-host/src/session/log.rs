//! What a kept call's Commander has said: a ring of messages that are counted from 0.

use std::collections::VecDeque;

use bytes::Bytes;
use legatus_core::limits::{self, KEPT_MESSAGE_BYTES};
use legatus_core::{Fault, Outcome};

use super::spill::Spill;
use crate::holder::outcome_bytes;

/// The Commander's messages, oldest first, and the outcome behind the last of them. Messages are
/// held as they came, so that keeping them copies nothing.
#[derive(Debug)]
pub(super) struct Log {
    first: u64,
    messages: VecDeque<Message>,
    /// What the messages here cost.
    held: usize,
    /// What those of them cost that are in memory, which are the newest.
    in_memory: usize,
    /// How many are on disk.
    on_disk: usize,
    spill: Spill,
    /// Messages up to so many bytes stay for those who attach later.
    replay: usize,
    outcome: Option<Bytes>,
    /// Bytes of all messages that there have been.
    total: u64,
}

#[derive(Debug)]
enum Message {
    Here(Bytes),
    /// At this place of the spill.
    Spilled {
        place: u64,
        length: usize,
    },
}

impl Message {
    fn len(&self) -> usize {
        match self {
            Self::Here(bytes) => bytes.len(),
            Self::Spilled { length, .. } => *length,
        }
    }
}

/// What comes at some place of the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Message(Bytes),
    Outcome(Bytes),
    /// Nothing has come yet.
    Nothing,
}

impl Log {
    pub(super) fn new(replay: usize, spill: Spill) -> Self {
        Self {
            first: 0,
            messages: VecDeque::new(),
            held: 0,
            in_memory: 0,
            on_disk: 0,
            spill,
            replay,
            outcome: None,
            total: 0,
        }
    }

    /// The number of the oldest message that is still there.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// The number that the next message gets.
    pub(super) fn end(&self) -> u64 {
        self.first + self.messages.len() as u64
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// What all messages may cost that are needed.
    pub(super) fn limit(&self) -> usize {
        limits::SESSION_BYTES.saturating_add(self.spill.capacity())
    }

    pub(super) fn push(&mut self, message: Bytes) {
        self.held += message.len() + KEPT_MESSAGE_BYTES;
        self.in_memory += message.len() + KEPT_MESSAGE_BYTES;
        self.total += message.len() as u64;
        self.messages.push_back(Message::Here(message));
    }

    /// Puts the oldest messages on disk that memory is not to hold.
    pub(super) fn spill(&mut self) {
        while self.in_memory > limits::SESSION_BYTES {
            let Some(message) = self.messages.get_mut(self.on_disk) else {
                return;
            };
            let Message::Here(bytes) = message else {
                return;
            };
            let length = bytes.len();
            let Some(place) = self.spill.push(bytes) else {
                return;
            };
            *message = Message::Spilled { place, length };
            self.on_disk += 1;
            self.in_memory -= length + KEPT_MESSAGE_BYTES;
        }
    }

    pub(super) fn finish(&mut self, outcome: Bytes) {
        self.outcome = Some(outcome);
    }

    pub(super) fn outcome(&self) -> Option<&Bytes> {
        self.outcome.as_ref()
    }

    /// What comes at a place; one that is gone counts as the oldest that is there.
    pub(super) fn next(&self, place: u64) -> Next {
        let index = usize::try_from(place.saturating_sub(self.first)).unwrap_or(usize::MAX);
        match (self.messages.get(index), &self.outcome) {
            (Some(Message::Here(message)), _) => Next::Message(message.clone()),
            (Some(Message::Spilled { place, length }), _) => self.spilled(*place, *length),
            (None, Some(outcome)) => Next::Outcome(outcome.clone()),
            (None, None) => Next::Nothing,
        }
    }

    fn spilled(&self, place: u64, length: usize) -> Next {
        match self.spill.read(place, length) {
            Ok(message) => Next::Message(message),
            Err(error) => {
                tracing::error!(%error, "what a session has put on disk cannot be read");
                let fault =
                    Fault::new("output of the session cannot be read from the server's disk");
                Next::Outcome(outcome_bytes(Outcome::Lost(fault)))
            }
        }
    }

    /// Whether messages from `place` on cost less than `limit`.
    pub(super) fn has_room(&self, place: u64, limit: usize) -> bool {
        // The usual cases need no walk.
        if place <= self.first || self.held < limit {
            return self.held < limit;
        }
        if place >= self.end() {
            return true;
        }
        let waiting = usize::try_from(self.end() - place).unwrap_or(usize::MAX);
        let mut cost = 0_usize;
        for message in self.messages.iter().rev().take(waiting) {
            cost += message.len() + KEPT_MESSAGE_BYTES;
            if cost >= limit {
                return false;
            }
        }
        true
    }

    /// Drops what nobody needs: the oldest messages before `needed`, beyond those for replay.
    pub(super) fn trim(&mut self, needed: u64) {
        while self.first < needed && self.held > self.replay {
            let Some(message) = self.messages.pop_front() else {
                return;
            };
            self.held -= message.len() + KEPT_MESSAGE_BYTES;
            match message {
                Message::Here(bytes) => self.in_memory -= bytes.len() + KEPT_MESSAGE_BYTES,
                Message::Spilled { length, .. } => {
                    self.on_disk -= 1;
                    self.spill.free(length);
                }
            }
            self.first += 1;
        }
        if self.messages.is_empty() {
            // A burst must not pin its memory for days.
            self.messages.shrink_to(64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(replay: usize, messages: &[&'static str]) -> Log {
        let mut log = Log::new(replay, Spill::none());
        for message in messages {
            log.push(Bytes::from_static(message.as_bytes()));
        }
        log
    }

    #[test]
    fn what_is_needed_or_fits_the_replay_is_never_dropped() {
        let mut log = log(0, &["a", "b", "c"]);
        log.trim(1);
        assert_eq!((log.first(), log.end()), (1, 3));
        assert_eq!(log.next(1), Next::Message("b".into()));
        let mut kept = self::log(2 * (1 + KEPT_MESSAGE_BYTES), &["a", "b", "c"]);
        kept.trim(u64::MAX);
        assert_eq!((kept.first(), kept.end()), (1, 3));
    }

    #[test]
    fn a_place_that_is_gone_is_the_oldest_and_the_outcome_comes_last() {
        let mut log = log(0, &["a", "b"]);
        log.trim(1);
        assert_eq!(log.next(0), Next::Message("b".into()));
        assert_eq!(log.next(2), Next::Nothing);
        log.finish(Bytes::from_static(b"done"));
        assert_eq!(log.next(2), Next::Outcome("done".into()));
    }

    #[test]
    fn what_memory_is_not_to_hold_comes_back_from_disk_in_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let folder = std::fs::File::open(folder.path()).unwrap();
        let mut log = Log::new(0, Spill::new(&folder, 4 << 20).unwrap());
        let message = |number: u32| {
            let bytes: Vec<u8> = number.to_le_bytes().repeat(64 << 10);
            Bytes::from(bytes)
        };
        let mut count = 0;
        while log.has_room(0, log.limit()) {
            log.push(message(count));
            log.spill();
            count += 1;
        }
        // 12 MiB of messages of 256 KiB, each a little more.
        assert_eq!(count, 48);
        assert!(log.in_memory <= limits::SESSION_BYTES + (256 << 10) + KEPT_MESSAGE_BYTES);
        assert!(log.on_disk > 14, "{}", log.on_disk);
        // Twice around the file.
        for number in 0..count {
            assert_eq!(log.next(number.into()), Next::Message(message(number)));
            log.trim(u64::from(number) + 1);
            log.push(message(count + number));
            log.spill();
        }
        for number in count..2 * count {
            assert_eq!(log.next(number.into()), Next::Message(message(number)));
            log.trim(u64::from(number) + 1);
        }
        assert_eq!((log.held, log.in_memory, log.on_disk), (0, 0, 0));
    }

    #[test]
    fn room_is_counted_from_a_place_with_what_each_message_costs() {
        let log = log(usize::MAX, &["aaaa", "b"]);
        let one = 1 + KEPT_MESSAGE_BYTES;
        assert!(!log.has_room(0, one + 1));
        assert!(log.has_room(1, one + 1));
        assert!(!log.has_room(1, one));
        assert!(log.has_room(2, one));
        let empty = Log::new(0, Spill::none());
        assert!(empty.has_room(0, 1));
    }
}
