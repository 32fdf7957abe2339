//! The clients of a kept call: who is there, how far each has come, and what follows for the call.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use legatus_core::{FETCHED, Taken, TerminalSize, limits};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::log::{Log, Next};
use crate::messages::AttachRequest;

/// Messages that wait for a client that is there cost so much at most: more would only stand
/// between what it does and what it sees of that.
const UNSENT: usize = limits::CHUNK_BYTES;

/// Clients of one call. Nobody shows a terminal to more.
const CLIENTS: usize = 64;

/// How long other clients may take to fetch an outcome that one has fetched.
const OTHERS: Duration = Duration::from_secs(5);

/// What a kept call knows of its messages and clients.
#[derive(Debug)]
pub(super) struct Clients {
    pub(super) log: Log,
    clients: HashMap<String, Client>,
    serial: u64,
    linger: Duration,
    keep: Duration,
    ended: Option<Instant>,
    fetched: Option<Instant>,
    /// A client has said goodbye to the call itself: nobody wants to know how it ended.
    dismissed: bool,
    touched: Instant,
    bytes_in: u64,
}

#[derive(Debug)]
struct Client {
    presence: Presence,
    read_only: bool,
    /// How many of its messages the Commander has got.
    taken: u64,
    received: u64,
    /// Its terminal's, if it has told one.
    size: Option<TerminalSize>,
    /// Whether that size goes before those of others.
    own_size: bool,
}

#[derive(Debug)]
enum Presence {
    Attached {
        serial: u64,
        cursor: u64,
        superseded: CancellationToken,
        /// It needs no more messages.
        forgoes: bool,
    },
    Lost(Instant),
    /// It said that it leaves.
    Left,
}

/// A client's place while it is attached.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) client: String,
    pub(super) serial: u64,
    pub(super) read_only: bool,
    /// Fires when the same client has come anew.
    pub(super) superseded: CancellationToken,
}

/// What is to become of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    GoesOn,
    /// Nobody came back for it.
    CancelAt(Instant),
    /// Nobody needs it any more.
    FinishAt(Instant),
}

impl Clients {
    pub(super) fn new(log: Log, linger: Duration, keep: Duration) -> Self {
        Self {
            log,
            clients: HashMap::new(),
            serial: 0,
            linger,
            keep,
            ended: None,
            fetched: None,
            dismissed: false,
            touched: Instant::now(),
            bytes_in: 0,
        }
    }

    /// Takes a client in; what it must be told of its messages comes with its place.
    pub(super) fn attach(&mut self, wanted: &AttachRequest) -> Result<(Place, Taken), String> {
        let superseded = CancellationToken::new();
        self.serial += 1;
        let first = self.log.first();
        let full = self.clients.len() >= CLIENTS;
        let client = match self.clients.get_mut(&wanted.client) {
            Some(client) if wanted.resume => {
                if let Presence::Attached { superseded, .. } = &client.presence {
                    superseded.cancel();
                }
                client.received = client.received.max(wanted.received.min(self.log.end()));
                client
            }
            Some(_) => return Err("this client is attached already".to_owned()),
            None if wanted.resume => return Err("this client was never there".to_owned()),
            None if full => {
                return Err(format!(
                    "the limit of {CLIENTS} clients of a call is reached"
                ));
            }
            None => self.clients.entry(wanted.client.clone()).or_insert(Client {
                presence: Presence::Left,
                read_only: wanted.read_only,
                taken: 0,
                received: first,
                size: None,
                own_size: wanted.own_size,
            }),
        };
        let cursor = client.received.max(first);
        client.presence = Presence::Attached {
            serial: self.serial,
            cursor,
            superseded: superseded.clone(),
            forgoes: false,
        };
        let taken = Taken {
            messages: client.taken,
            next: cursor,
        };
        let place = Place {
            client: wanted.client.clone(),
            serial: self.serial,
            read_only: client.read_only,
            superseded,
        };
        Ok((place, taken))
    }

    /// The next thing that a client is to be sent; it counts as sent.
    pub(super) fn next(&mut self, place: &Place) -> Next {
        let Some(Client {
            presence: Presence::Attached { cursor, .. },
            ..
        }) = self.of(place)
        else {
            return Next::Nothing;
        };
        let at = *cursor;
        let next = self.log.next(at);
        if matches!(next, Next::Message(_)) {
            let after = at.max(self.log.first()) + 1;
            if let Some(Client {
                presence: Presence::Attached { cursor, .. },
                ..
            }) = self.of(place)
            {
                *cursor = after;
            }
        }
        next
    }

    /// A client has acknowledged messages.
    pub(super) fn received(&mut self, place: &Place, count: u64) {
        let end = self.log.end();
        let ended = self.log.outcome().is_some();
        let Some(client) = self.of(place) else {
            return;
        };
        client.received = client.received.max(count.min(end));
        if count == FETCHED && ended && !client.read_only {
            self.fetched.get_or_insert_with(Instant::now);
        }
        if count == FETCHED && ended {
            self.clients.remove(&place.client);
        }
        self.trim();
    }

    /// The Commander has got a message of a client; how many that makes.
    pub(super) fn took(&mut self, place: &Place, bytes: usize) -> u64 {
        self.bytes_in += bytes as u64;
        self.touched = Instant::now();
        let Some(client) = self.of(place) else {
            return 0;
        };
        client.taken += 1;
        client.taken
    }

    /// A client's terminal has another size; the one that the call's is to have.
    pub(super) fn resized(&mut self, place: &Place, size: TerminalSize) -> Option<TerminalSize> {
        self.of(place)?.size = Some(size);
        self.fitting()
    }

    /// The size of a terminal that fits those of all clients that are there, or is that of the one
    /// who came last of those that want their own.
    pub(super) fn fitting(&self) -> Option<TerminalSize> {
        let wanting = self.attached().filter(|(client, _)| client.own_size);
        let last = wanting.max_by_key(|(client, _)| client.serial());
        if let Some(size) = last.and_then(|(client, _)| client.size) {
            return Some(size);
        }
        let sizes = self.attached().filter_map(|(client, _)| client.size);
        sizes.reduce(|one, other| TerminalSize {
            columns: one.columns.min(other.columns),
            rows: one.rows.min(other.rows),
        })
    }

    /// A client needs no more messages.
    pub(super) fn forgo(&mut self, place: &Place) {
        if let Some(Client {
            presence: Presence::Attached { forgoes, .. },
            ..
        }) = self.of(place)
        {
            *forgoes = true;
        }
        self.trim();
    }

    /// A client has cancelled the call.
    pub(super) fn dismiss(&mut self) {
        self.dismissed = true;
    }

    /// A client is gone, `willingly` or not.
    pub(super) fn gone(&mut self, place: &Place, willingly: bool) {
        let read_only = place.read_only;
        if let Some(client) = self.of(place) {
            client.presence = match willingly || read_only {
                true => Presence::Left,
                false => Presence::Lost(Instant::now()),
            };
        }
        // Nobody comes back to a place where one only watched.
        self.clients
            .retain(|_, client| !(client.read_only && matches!(client.presence, Presence::Left)));
        self.trim();
    }

    pub(super) fn push(&mut self, message: Bytes) {
        self.touched = Instant::now();
        self.log.push(message);
        self.trim();
        self.log.spill();
    }

    pub(super) fn finish(&mut self, outcome: Bytes) {
        self.ended = Some(Instant::now());
        self.log.finish(outcome);
    }

    /// Whether the Commander may say more: not while those who are there lag behind, nor while what
    /// waits for one that is to come back fills the ring.
    pub(super) fn has_room(&self) -> bool {
        let sent = self.needing().map(|(_, cursor)| cursor).min();
        let unsent = sent.is_none_or(|place| self.log.has_room(place, UNSENT));
        unsent && self.log.has_room(self.needed(), self.log.limit())
    }

    pub(super) fn clients_attached(&self) -> usize {
        let is_there = |client: &&Client| matches!(client.presence, Presence::Attached { .. });
        self.clients.values().filter(is_there).count()
    }

    pub(super) fn idle(&self) -> Duration {
        self.touched.elapsed()
    }

    pub(super) fn bytes_in(&self) -> u64 {
        self.bytes_in
    }

    /// What is to become of the call.
    pub(super) fn fate(&self) -> Fate {
        let nobody = self.clients_attached() == 0;
        if let Some(ended) = self.ended {
            return match self.fetched {
                Some(fetched) if nobody => Fate::FinishAt(fetched),
                Some(fetched) => Fate::FinishAt(fetched + OTHERS),
                None if nobody && self.dismissed => Fate::FinishAt(ended),
                None if nobody => Fate::FinishAt(ended + self.keep),
                None => Fate::GoesOn,
            };
        }
        let lost = self.clients.values().filter_map(|client| client.lost());
        match lost.max() {
            Some(lost) if self.attached().next().is_none() => Fate::CancelAt(lost + self.linger),
            _ => Fate::GoesOn,
        }
    }

    fn of(&mut self, place: &Place) -> Option<&mut Client> {
        let client = self.clients.get_mut(&place.client)?;
        let is_here =
            matches!(client.presence, Presence::Attached { serial, .. } if serial == place.serial);
        is_here.then_some(client)
    }

    /// Those who are there and more than watch, with what they have been sent.
    fn attached(&self) -> impl Iterator<Item = (&Client, u64)> {
        self.clients
            .values()
            .filter_map(|client| match client.presence {
                Presence::Attached { cursor, .. } if !client.read_only => Some((client, cursor)),
                _ => None,
            })
    }

    /// Those of them who need the messages.
    fn needing(&self) -> impl Iterator<Item = (&Client, u64)> {
        self.attached().filter(|(client, _)| {
            !matches!(client.presence, Presence::Attached { forgoes: true, .. })
        })
    }

    /// The oldest message that somebody needs: whoever is there, else whoever is to come back.
    fn needed(&self) -> u64 {
        let present = self.needing().map(|(client, _)| client.received).min();
        let away = || {
            let lost = self
                .clients
                .values()
                .filter(|client| client.lost().is_some());
            lost.map(|client| client.received).min()
        };
        present.or_else(away).unwrap_or(u64::MAX)
    }

    fn trim(&mut self) {
        let needed = self.needed();
        self.log.trim(needed);
    }
}

impl Client {
    /// Its number among all comings; 0 while it is away.
    fn serial(&self) -> u64 {
        match self.presence {
            Presence::Attached { serial, .. } => serial,
            _ => 0,
        }
    }

    fn lost(&self) -> Option<Instant> {
        match self.presence {
            Presence::Lost(when) => Some(when),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::spill::Spill;
    use super::*;

    fn clients() -> Clients {
        let log = Log::new(0, Spill::none());
        Clients::new(log, Duration::from_secs(60), Duration::from_secs(600))
    }

    fn wanted(client: &str, resume: bool, received: u64) -> AttachRequest {
        AttachRequest {
            client: client.to_owned(),
            resume,
            received,
            ..AttachRequest::default()
        }
    }

    fn message(text: &'static str) -> Next {
        Next::Message(text.into())
    }

    #[test]
    fn a_client_that_comes_back_goes_on_behind_what_it_has_got() {
        let mut clients = clients();
        let (place, _) = clients.attach(&wanted("a", false, 0)).unwrap();
        for text in ["1", "2", "3"] {
            clients.push(text.into());
        }
        assert_eq!(clients.next(&place), message("1"));
        assert_eq!(clients.next(&place), message("2"));
        clients.took(&place, 5);
        clients.gone(&place, false);
        let (again, taken) = clients.attach(&wanted("a", true, 1)).unwrap();
        assert_eq!((taken.messages, taken.next), (1, 1));
        assert_eq!(clients.next(&again), message("2"));
        assert_eq!(clients.next(&again), message("3"));
        assert_eq!(clients.next(&again), Next::Nothing);
    }

    #[test]
    fn whoever_is_superseded_neither_gets_nor_acknowledges_anything() {
        let mut clients = clients();
        let (old, _) = clients.attach(&wanted("a", false, 0)).unwrap();
        clients.push("1".into());
        let (new, _) = clients.attach(&wanted("a", true, 0)).unwrap();
        assert!(old.superseded.is_cancelled());
        assert_eq!(clients.next(&old), Next::Nothing);
        clients.received(&old, 1);
        clients.gone(&old, false);
        assert_eq!(clients.next(&new), message("1"));
    }

    #[test]
    fn strangers_cannot_resume_and_nobody_attaches_twice() {
        let mut clients = clients();
        assert!(clients.attach(&wanted("a", true, 0)).is_err());
        clients.attach(&wanted("a", false, 0)).unwrap();
        assert!(clients.attach(&wanted("a", false, 0)).is_err());
    }

    #[test]
    fn output_waits_for_a_lost_client_and_is_overwritten_when_none_is_awaited() {
        let mut clients = clients();
        let (place, _) = clients.attach(&wanted("a", false, 0)).unwrap();
        clients.gone(&place, false);
        let chunk = Bytes::from(vec![0; limits::CHUNK_BYTES]);
        let mut pushed = 0;
        while clients.has_room() {
            clients.push(chunk.clone());
            pushed += 1;
        }
        assert!((30..=33).contains(&pushed), "{pushed}");
        assert_eq!(clients.log.first(), 0);
        let (place, _) = clients.attach(&wanted("a", true, 0)).unwrap();
        clients.gone(&place, true);
        assert!(clients.has_room());
        assert_eq!(clients.log.first(), pushed);
    }

    #[test]
    fn the_smallest_terminal_rules_unless_somebody_wants_their_own_size() {
        let size = |columns, rows| TerminalSize { columns, rows };
        let mut clients = clients();
        let (one, _) = clients.attach(&wanted("a", false, 0)).unwrap();
        assert_eq!(clients.resized(&one, size(100, 30)), Some(size(100, 30)));
        let (two, _) = clients.attach(&wanted("b", false, 0)).unwrap();
        assert_eq!(clients.resized(&two, size(80, 50)), Some(size(80, 30)));
        let own = AttachRequest {
            own_size: true,
            ..wanted("c", false, 0)
        };
        let (three, _) = clients.attach(&own).unwrap();
        assert_eq!(clients.fitting(), Some(size(80, 30)));
        assert_eq!(clients.resized(&three, size(200, 60)), Some(size(200, 60)));
        assert_eq!(clients.resized(&two, size(70, 20)), Some(size(200, 60)));
        clients.gone(&three, true);
        assert_eq!(clients.fitting(), Some(size(70, 20)));
    }

    #[test]
    fn who_needs_no_more_messages_does_not_hold_the_commander_back() {
        let mut clients = clients();
        let (place, _) = clients.attach(&wanted("a", false, 0)).unwrap();
        while clients.has_room() {
            clients.push(vec![0; UNSENT].into());
        }
        clients.forgo(&place);
        for _ in 0..100 {
            assert!(clients.has_room());
            clients.push(vec![0; UNSENT].into());
        }
        assert!(clients.log.first() > 0, "nothing is kept for it");
    }

    #[test]
    fn a_slow_client_holds_the_commander_back_early_and_a_watcher_never() {
        let mut clients = clients();
        clients.attach(&wanted("a", false, 0)).unwrap();
        clients.push(vec![0; UNSENT].into());
        assert!(!clients.has_room());
        let mut watched = self::clients();
        let mut watcher = wanted("w", false, 0);
        watcher.read_only = true;
        watched.attach(&watcher).unwrap();
        for _ in 0..100 {
            watched.push(vec![0; UNSENT].into());
            assert!(watched.has_room());
        }
    }

    #[test]
    fn a_call_is_cancelled_when_nobody_came_back_and_finished_when_its_outcome_was_fetched() {
        let mut clients = clients();
        let (place, _) = clients.attach(&wanted("a", false, 0)).unwrap();
        assert_eq!(clients.fate(), Fate::GoesOn);
        clients.gone(&place, false);
        assert!(matches!(clients.fate(), Fate::CancelAt(at) if at > Instant::now()));
        let (place, _) = clients.attach(&wanted("a", true, 0)).unwrap();
        clients.gone(&place, true);
        assert_eq!(clients.fate(), Fate::GoesOn);
        let (place, _) = clients.attach(&wanted("a", true, 0)).unwrap();
        clients.received(&place, FETCHED);
        clients.finish(Bytes::new());
        assert_eq!(clients.fate(), Fate::GoesOn);
        clients.received(&place, FETCHED);
        assert!(matches!(clients.fate(), Fate::FinishAt(at) if at <= Instant::now()));
    }

    #[test]
    fn nobody_is_awaited_for_the_outcome_of_a_call_that_its_client_cancelled() {
        let mut clients = clients();
        let (place, _) = clients.attach(&wanted("a", false, 0)).unwrap();
        clients.dismiss();
        clients.finish(Bytes::new());
        assert_eq!(clients.fate(), Fate::GoesOn);
        clients.gone(&place, false);
        assert!(matches!(clients.fate(), Fate::FinishAt(at) if at <= Instant::now()));
    }

    #[test]
    fn an_outcome_that_nobody_fetches_is_kept_for_its_time() {
        let mut clients = clients();
        let (place, _) = clients.attach(&wanted("a", false, 0)).unwrap();
        clients.finish(Bytes::new());
        clients.gone(&place, false);
        assert!(matches!(clients.fate(), Fate::FinishAt(at) if at > Instant::now()));
    }
}
