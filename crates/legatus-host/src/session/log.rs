//! What a kept call's Commander has said: a ring of messages that are counted from 0.

use std::collections::VecDeque;

use bytes::Bytes;

/// What a message costs beside its bytes, so that many short ones are bounded as well.
const OVERHEAD: usize = 64;

/// The Commander's messages, oldest first, and the outcome behind the last of them. Messages are
/// held as they came, so that keeping them copies nothing.
#[derive(Debug)]
pub(super) struct Log {
    first: u64,
    messages: VecDeque<Bytes>,
    /// What the messages here cost.
    held: usize,
    /// Messages up to so many bytes stay for those who attach later.
    replay: usize,
    outcome: Option<Bytes>,
    /// Bytes of all messages that there have been.
    total: u64,
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
    pub(super) fn new(replay: usize) -> Self {
        Self {
            first: 0,
            messages: VecDeque::new(),
            held: 0,
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

    pub(super) fn push(&mut self, message: Bytes) {
        self.held += message.len() + OVERHEAD;
        self.total += message.len() as u64;
        self.messages.push_back(message);
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
            (Some(message), _) => Next::Message(message.clone()),
            (None, Some(outcome)) => Next::Outcome(outcome.clone()),
            (None, None) => Next::Nothing,
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
            cost += message.len() + OVERHEAD;
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
            self.held -= message.len() + OVERHEAD;
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
        let mut log = Log::new(replay);
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
        let mut kept = self::log(2 * (1 + OVERHEAD), &["a", "b", "c"]);
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
    fn room_is_counted_from_a_place_with_what_each_message_costs() {
        let log = log(usize::MAX, &["aaaa", "b"]);
        let one = 1 + OVERHEAD;
        assert!(!log.has_room(0, one + 1));
        assert!(log.has_room(1, one + 1));
        assert!(!log.has_room(1, one));
        assert!(log.has_room(2, one));
        let empty = Log::new(0);
        assert!(empty.has_room(0, 1));
    }
}
