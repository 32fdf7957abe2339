//! How far a copy is, for programs: an object a line, where the user asks for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use legatus_core::Progress;

/// Counts what is shown, and passes it on.
pub(super) struct Tally<'a> {
    shown: &'a dyn Progress,
    began: Instant,
    bytes: AtomicU64,
    entries: AtomicU64,
    total_bytes: AtomicU64,
    total_entries: AtomicU64,
}

impl<'a> Tally<'a> {
    pub(super) fn new(shown: &'a dyn Progress) -> Self {
        Self {
            shown,
            began: Instant::now(),
            bytes: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            total_bytes: AtomicU64::new(0),
            total_entries: AtomicU64::new(0),
        }
    }

    /// Bytes and entries that this attempt at the copy has come to.
    pub(super) fn reached(&self) -> (u64, u64) {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        (load(&self.bytes), load(&self.entries))
    }

    /// How far the copy is; totals are 0 as long as they are not known.
    pub(super) fn record(&self) -> String {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let (bytes, total) = (load(&self.bytes), load(&self.total_bytes));
        let seconds = self.began.elapsed().as_secs_f64();
        // Numbers of people's scale: the digits that are lost are not told.
        let rate = bytes as f64 / seconds.max(0.001);
        let left = total.saturating_sub(bytes) as f64 / rate.max(1.0);
        serde_json::json!({ "progress": {
            "bytes": bytes,
            "total_bytes": total,
            "entries": load(&self.entries),
            "total_entries": load(&self.total_entries),
            "bytes_per_second": rate.round(),
            "seconds_left": (total > 0).then(|| left.round()),
        }})
        .to_string()
    }
}

impl Progress for Tally<'_> {
    fn total(&self, bytes: u64, entries: u64) {
        if (bytes, entries) == (0, 0) {
            // It begins, perhaps once more.
            self.bytes.store(0, Ordering::Relaxed);
            self.entries.store(0, Ordering::Relaxed);
        }
        self.total_bytes.store(bytes, Ordering::Relaxed);
        self.total_entries.store(entries, Ordering::Relaxed);
        self.shown.total(bytes, entries);
    }

    fn advance(&self, bytes: u64, entries: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.entries.fetch_add(entries, Ordering::Relaxed);
        self.shown.advance(bytes, entries);
    }

    fn current(&self, name: &str) {
        self.shown.current(name);
    }

    fn finish(&self) {
        self.shown.finish();
    }
}
