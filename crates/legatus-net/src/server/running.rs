//! The calls that run now, so that controls find them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use legatus_core::{CallId, Control, ControlSender, Peer};
use tokio_util::sync::CancellationToken;

/// The running calls by identity and id.
#[derive(Debug, Default)]
pub(super) struct RunningCalls {
    serial: AtomicU64,
    calls: Mutex<HashMap<(String, CallId), Controls>>,
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
    key: (String, CallId),
    serial: u64,
}

impl RunningCalls {
    /// Notes a call; `None` if the identity runs one of that id already. A kept call comes with what
    /// gives its stream up, and whether it takes the place of the same client's former stream.
    pub(super) fn add(
        self: &Arc<Self>,
        peer: &Peer,
        id: &CallId,
        sender: ControlSender,
        cancellation: CancellationToken,
        kept: Option<(CancellationToken, bool)>,
    ) -> Option<Running> {
        let key = (peer.identity().to_owned(), id.clone());
        let (lost, resume) = kept.unzip();
        let mut calls = self.lock();
        if let Some(former) = calls.get(&key) {
            match &former.lost {
                Some(former_lost) if resume == Some(true) => former_lost.cancel(),
                _ => return None,
            }
        }
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let controls = Controls {
            serial,
            sender,
            cancellation,
            opened: resume != Some(true),
            lost,
        };
        calls.insert(key.clone(), controls);
        Some(Running {
            calls: Arc::clone(self),
            key,
            serial,
        })
    }

    /// Passes a control to a call of that identity; false if there is none or it takes no more.
    pub(super) fn control(&self, peer: &Peer, id: CallId, control: Control) -> bool {
        match self.lock().get(&(peer.identity().to_owned(), id)) {
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
        let running = self.lock();
        running
            .iter()
            .any(|((_, running), controls)| running.as_str() == id && controls.opened)
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, CallId), Controls>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut calls = self.calls.lock();
        // Another may have taken its place.
        if calls
            .get(&self.key)
            .is_some_and(|controls| controls.serial == self.serial)
        {
            calls.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_identity_that_opened_a_call_controls_it() {
        let running = Arc::new(RunningCalls::default());
        let (ann, eve) = (Peer::assert_verified("ann"), Peer::assert_verified("eve"));
        let id = CallId::try_from("1".to_owned()).unwrap();
        let (sender, mut receiver) = Control::queue();
        let cancellation = CancellationToken::new();
        let place = running
            .add(&ann, &id, sender.clone(), cancellation.clone(), None)
            .unwrap();
        assert!(
            running
                .add(&ann, &id, sender.clone(), cancellation.clone(), None)
                .is_none()
        );
        assert!(!running.control(&eve, id.clone(), Control::Cancel));
        assert!(!cancellation.is_cancelled());
        assert!(running.control(&ann, id.clone(), Control::Signal(2)));
        assert_eq!(receiver.receive().await, Some(Control::Signal(2)));
        assert!(running.control(&ann, id.clone(), Control::Cancel));
        assert!(cancellation.is_cancelled());
        drop(place);
        assert!(!running.control(&ann, id, Control::Cancel));
    }
}
