//! The calls that run now, so that controls find them.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use legatus_core::{CallId, Control, ControlSender, Peer};
use tokio_util::sync::CancellationToken;

type Key = (String, CallId);

/// The running calls by identity and id.
#[derive(Debug, Default)]
pub(super) struct RunningCalls {
    serial: AtomicU64,
    calls: Mutex<Calls>,
}

#[derive(Debug, Default)]
struct Calls {
    running: HashMap<Key, Controls>,
    /// Those that have begun and whose client may not know it yet.
    begun: HashSet<Key>,
}

/// What a stream does with its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coming {
    Opens,
    /// Takes the place of the same client's former stream; if there was none it opens the call.
    ResumesOrOpens,
    /// Takes the place of the same client's former stream.
    Resumes,
    /// A new client of a kept call.
    Attaches,
}

#[derive(Debug)]
struct Controls {
    serial: u64,
    sender: ControlSender,
    cancellation: CancellationToken,
    /// Whether this stream has opened the call, and not come to it later.
    opened: bool,
    /// Gives the client's stream up, if the call is kept.
    lost: Option<CancellationToken>,
}

/// A call's place among the running ones; given up when dropped.
#[derive(Debug)]
pub(super) struct Running {
    calls: Arc<RunningCalls>,
    key: Key,
    serial: u64,
}

/// That a kept call has begun is remembered until this is dropped, so that it is not opened once more.
#[derive(Debug)]
pub(super) struct Begun {
    calls: Arc<RunningCalls>,
    key: Key,
    /// Whether its client was in doubt, so that what it said at first may still come.
    pub(super) was_in_doubt: bool,
}

impl RunningCalls {
    /// Notes a call; `None` if the identity runs one of that id already. A kept call comes with what
    /// gives its stream up; that it has begun is told if this stream opens it.
    pub(super) fn add(
        self: &Arc<Self>,
        peer: &Peer,
        id: &CallId,
        sender: ControlSender,
        cancellation: CancellationToken,
        lost: Option<CancellationToken>,
        coming: Coming,
    ) -> Option<(Running, Option<Begun>)> {
        let key = (peer.identity().to_owned(), id.clone());
        let resumes = matches!(coming, Coming::Resumes | Coming::ResumesOrOpens);
        let mut calls = self.lock();
        let former = calls.running.get(&key);
        if let Some(former) = former {
            match &former.lost {
                Some(former_lost) if resumes => former_lost.cancel(),
                _ => return None,
            }
        }
        // Only of a kept call can it be unknown to the client whether it has begun.
        let opens_kept = match coming {
            Coming::Opens => lost.is_some(),
            Coming::ResumesOrOpens => former.is_none() && !calls.begun.contains(&key),
            Coming::Resumes | Coming::Attaches => false,
        };
        // What a connection that was lost brings late was opened over another one since.
        if opens_kept && !calls.begun.insert(key.clone()) {
            return None;
        }
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let controls = Controls {
            serial,
            sender,
            cancellation,
            opened: coming == Coming::Opens || opens_kept,
            lost,
        };
        calls.running.insert(key.clone(), controls);
        let begun = opens_kept.then(|| Begun {
            calls: Arc::clone(self),
            key: key.clone(),
            was_in_doubt: coming == Coming::ResumesOrOpens,
        });
        let running = Running {
            calls: Arc::clone(self),
            key,
            serial,
        };
        Some((running, begun))
    }

    /// Passes a control to a call of that identity; false if there is none or it takes no more.
    pub(super) fn control(&self, peer: &Peer, id: CallId, control: Control) -> bool {
        match self.lock().running.get(&(peer.identity().to_owned(), id)) {
            None => false,
            // Alone it cannot go on, unless it is kept.
            Some(call) if control == Control::Detach && call.lost.is_none() => false,
            Some(call) if control == Control::Cancel => {
                call.cancellation.cancel();
                true
            }
            Some(call) => call.sender.send(control),
        }
    }

    /// Whether the client that opened a call is there; its end is noted then.
    pub(super) fn has_opened(&self, id: &str) -> bool {
        let calls = self.lock();
        let mut running = calls.running.iter();
        running.any(|((_, running), controls)| {
            running.as_str() == id && controls.opened && controls.lost.is_some()
        })
    }

    pub(super) fn len(&self) -> usize {
        self.lock().running.len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut calls = self.calls.lock();
        // Another may have taken its place.
        if calls
            .running
            .get(&self.key)
            .is_some_and(|controls| controls.serial == self.serial)
        {
            calls.running.remove(&self.key);
        }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.calls.lock().begun.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Streams of one call that come to a server.
    struct Streams {
        running: Arc<RunningCalls>,
        ann: Peer,
        id: CallId,
    }

    impl Streams {
        fn new() -> Self {
            Self {
                running: Arc::default(),
                ann: Peer::assert_verified("ann"),
                id: CallId::try_from("1".to_owned()).unwrap(),
            }
        }

        /// One of them comes; with what gives it up.
        fn come(&self, coming: Coming) -> Option<(Running, Option<Begun>, CancellationToken)> {
            let lost = CancellationToken::new();
            let added = self.running.add(
                &self.ann,
                &self.id,
                Control::queue().0,
                CancellationToken::new(),
                Some(lost.clone()),
                coming,
            );
            added.map(|(running, begun)| (running, begun, lost))
        }
    }

    #[tokio::test]
    async fn only_the_identity_that_opened_a_call_controls_it() {
        let Streams { running, ann, id } = Streams::new();
        let eve = Peer::assert_verified("eve");
        let (sender, mut receiver) = Control::queue();
        let cancellation = CancellationToken::new();
        let add = || {
            let (sender, cancellation) = (sender.clone(), cancellation.clone());
            running.add(&ann, &id, sender, cancellation, None, Coming::Opens)
        };
        let place = add().unwrap();
        assert!(add().is_none());
        assert!(!running.control(&eve, id.clone(), Control::Cancel));
        assert!(!cancellation.is_cancelled());
        assert!(running.control(&ann, id.clone(), Control::Signal(2)));
        assert_eq!(receiver.receive().await, Some(Control::Signal(2)));
        assert!(running.control(&ann, id.clone(), Control::Cancel));
        assert!(cancellation.is_cancelled());
        drop(place);
        assert!(!running.control(&ann, id.clone(), Control::Cancel));
        assert!(add().is_some());
    }

    #[test]
    fn a_client_that_is_in_doubt_opens_its_call_once() {
        let streams = Streams::new();
        let (_first, begun, first_is_lost) = streams.come(Coming::ResumesOrOpens).unwrap();
        assert!(begun.as_ref().is_some_and(|begun| begun.was_in_doubt));
        let (_second, second_begun, _) = streams.come(Coming::ResumesOrOpens).unwrap();
        assert!(first_is_lost.is_cancelled());
        assert!(second_begun.is_none());
    }

    #[test]
    fn a_call_that_has_begun_is_not_opened_again_while_its_client_may_be_in_doubt() {
        let streams = Streams::new();
        let (first, begun, _) = streams.come(Coming::Opens).unwrap();
        assert!(begun.as_ref().is_some_and(|begun| !begun.was_in_doubt));
        drop(first);
        assert!(streams.come(Coming::ResumesOrOpens).unwrap().1.is_none());
        drop(begun);
        assert!(streams.come(Coming::ResumesOrOpens).unwrap().1.is_some());
    }

    #[test]
    fn what_a_lost_connection_brings_late_is_not_opened_beside_what_was_opened_since() {
        let streams = Streams::new();
        let (reopened, _begun, is_lost) = streams.come(Coming::ResumesOrOpens).unwrap();
        assert!(streams.come(Coming::Opens).is_none());
        assert!(!is_lost.is_cancelled());
        drop(reopened);
        assert!(streams.come(Coming::Opens).is_none());
    }
}
