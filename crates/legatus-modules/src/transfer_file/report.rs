//! What both engines tell of their work: failures, counts, and how far they are.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use legatus_core::{Local, Outcome, Progress};
use serde_json::Map;

use super::messages::{Failure, Finished};
use super::names;

/// Some entries failed (as rsync's 23).
pub(super) const SOME_FAILED: u8 = 23;
/// Some entries of a source vanished before they were read (as rsync's 24).
pub(super) const SOME_VANISHED: u8 = 24;

/// What a system call's error means, without its number.
pub(super) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error ") {
        Some(end) => text.get(..end).unwrap_or(&text).to_owned(),
        None => text,
    }
}

impl Failure {
    /// An entry that was there when its folder was read, and then no more.
    pub(super) fn vanished(path: Vec<u8>) -> Self {
        let mut failure = Self::new("read", path, "it vanished before it was read");
        failure.vanished = true;
        failure
    }

    /// An entry that could not be copied.
    pub(super) fn new(action: &str, path: Vec<u8>, reason: impl Into<String>) -> Self {
        Self {
            path: names::shortened(path).into(),
            action: action.to_owned(),
            reason: reason.into(),
            vanished: false,
        }
    }

    /// Tells the user, and programs; `host` where it happened, if not here.
    pub(super) fn tell(&self, local: &dyn Local, host: Option<&str>) {
        let mut failure = Map::new();
        failure.insert("action".to_owned(), self.action.clone().into());
        names::record(&mut failure, "path", &self.path);
        failure.insert("host".to_owned(), host.into());
        failure.insert("reason".to_owned(), self.reason.clone().into());
        failure.insert("vanished".to_owned(), self.vanished.into());
        local.record(&serde_json::json!({ "failure": failure }).to_string());
        local.report(&self.line(host));
    }

    /// The line that a user sees; `host` where it happened, if not here.
    fn line(&self, host: Option<&str>) -> String {
        let place = host.map(|host| format!(" on {host}")).unwrap_or_default();
        let path = names::shown(&self.path);
        // What a peer sends is shown to a user: no control characters.
        let clean = |text: &str| text.replace(char::is_control, "?");
        let (action, reason) = (clean(&self.action), clean(&self.reason));
        format!("cannot {action} {path}{place}: {reason}")
    }
}

/// What a source met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SourceCounts {
    pub(super) failed: u64,
    pub(super) vanished: u64,
}

impl SourceCounts {
    /// What two parts of a source met.
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            failed: self.failed.saturating_add(other.failed),
            vanished: self.vanished.saturating_add(other.vanished),
        }
    }
}

/// How a copy ended, seen from both halves.
pub(super) fn outcome(source: SourceCounts, target: &Finished) -> Outcome {
    if source.failed > 0 || target.failed > 0 {
        Outcome::Exit(SOME_FAILED)
    } else if source.vanished > 0 {
        Outcome::Exit(SOME_VANISHED)
    } else {
        Outcome::SUCCESS
    }
}

/// The facts of a copy for `--json`.
pub(super) fn record(source: SourceCounts, target: &Finished) -> String {
    let failed = source.failed.saturating_add(target.failed);
    let Finished {
        files,
        folders,
        links,
        bytes,
        unchanged,
        deleted,
        reused,
        ..
    } = target;
    let vanished = source.vanished;
    format!(
        r#"{{"files":{files},"folders":{folders},"links":{links},"bytes":{bytes},"failed":{failed},"vanished":{vanished},"unchanged":{unchanged},"deleted":{deleted},"reused":{reused}}}"#
    )
}

/// How far an engine is: written by its thread, read by the task that shows it.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    bytes: AtomicU64,
    entries: AtomicU64,
    total_bytes: AtomicU64,
    total_entries: AtomicU64,
    current: Mutex<Vec<u8>>,
}

impl Gauge {
    pub(super) fn advance(&self, bytes: u64, entries: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.entries.fetch_add(entries, Ordering::Relaxed);
    }

    pub(super) fn total(&self, bytes: u64, entries: u64) {
        self.total_bytes.store(bytes, Ordering::Relaxed);
        self.total_entries.store(entries, Ordering::Relaxed);
    }

    pub(super) fn current(&self, name: &[u8]) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.clear();
        current.extend_from_slice(name);
    }
}

/// Shows a gauge; removes the display when dropped.
pub(super) struct Shown<'a> {
    gauge: &'a Gauge,
    progress: &'a dyn Progress,
    bytes: u64,
    entries: u64,
    total: (u64, u64),
    current: Vec<u8>,
}

impl<'a> Shown<'a> {
    pub(super) fn new(gauge: &'a Gauge, progress: &'a dyn Progress) -> Self {
        progress.total(0, 0);
        Self {
            gauge,
            progress,
            bytes: 0,
            entries: 0,
            total: (0, 0),
            current: Vec::new(),
        }
    }

    /// Shows what has changed.
    pub(super) fn update(&mut self) {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let total = (
            load(&self.gauge.total_bytes),
            load(&self.gauge.total_entries),
        );
        if total != self.total {
            self.total = total;
            self.progress.total(total.0, total.1);
        }
        self.show_current();
        let (bytes, entries) = (load(&self.gauge.bytes), load(&self.gauge.entries));
        self.progress.advance(
            bytes.saturating_sub(self.bytes),
            entries.saturating_sub(self.entries),
        );
        (self.bytes, self.entries) = (bytes, entries);
    }

    fn show_current(&mut self) {
        let current = self
            .gauge
            .current
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *current != self.current {
            self.current.clone_from(&current);
            drop(current);
            self.progress
                .current(names::shown(&self.current).trim_matches('`'));
        }
    }
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.progress.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_was_tried_on_what_where_and_why() {
        let error = io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error());
        let failure = Failure::new("write", b"x\n".to_vec(), reason(&error));
        assert_eq!(
            failure.line(Some("web1")),
            "cannot write `x\\n` on web1: No space left on device"
        );
        assert_eq!(
            failure.line(None),
            "cannot write `x\\n`: No space left on device"
        );
    }

    #[test]
    fn vanished_entries_count_only_where_nothing_failed() {
        let source = |failed, vanished| SourceCounts { failed, vanished };
        let target = |failed| Finished {
            failed,
            ..Finished::default()
        };
        assert_eq!(outcome(source(0, 0), &target(0)), Outcome::Exit(0));
        assert_eq!(outcome(source(0, 1), &target(0)), Outcome::Exit(24));
        assert_eq!(outcome(source(0, 1), &target(1)), Outcome::Exit(23));
        assert_eq!(outcome(source(1, 0), &target(0)), Outcome::Exit(23));
    }
}
