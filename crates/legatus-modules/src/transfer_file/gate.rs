//! Lets so many in at a time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::target::lock;

/// Lets so many in at a time.
#[derive(Debug)]
pub(super) struct Gate {
    free: Mutex<usize>,
    changed: Condvar,
}

impl Gate {
    pub(super) fn new(places: usize) -> Self {
        Self {
            free: Mutex::new(places),
            changed: Condvar::new(),
        }
    }

    /// Waits for a place; false if `stop` was set meanwhile.
    pub(super) fn enter(&self, stop: &AtomicBool) -> bool {
        let mut free = lock(&self.free);
        while *free == 0 {
            if stop.load(Ordering::Relaxed) {
                return false;
            }
            let waited = self.changed.wait_timeout(free, Duration::from_millis(100));
            free = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *free -= 1;
        true
    }

    /// Gives a place back.
    pub(super) fn leave(&self) {
        *lock(&self.free) += 1;
        self.changed.notify_one();
    }
}
