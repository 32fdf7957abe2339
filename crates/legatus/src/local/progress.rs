//! Progress of long work: a bar on a terminal, nothing otherwise.

use std::sync::{Mutex, PoisonError};

use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use legatus_core::Progress;

use crate::console::printable;

/// Times a second that the bar is drawn: often enough to look alive, too seldom to cost anything.
const DRAWS_A_SECOND: u8 = 10;

/// Columns that the name of what is worked on may take.
const NAME_COLUMNS: usize = 40;

/// Work whose size is known.
const SIZED: &str =
    "{prefix} {bytes}/{total_bytes} [{bar:24}] {percent}% {bytes_per_sec}, {eta} left  {msg}";

/// Work whose size is not known.
const UNSIZED: &str = "{prefix} {bytes} {bytes_per_sec}  {msg}";

/// Where progress is shown.
pub(super) struct Display {
    is_shown: bool,
    work: Mutex<Option<Work>>,
}

/// Work that has begun.
struct Work {
    bar: ProgressBar,
    entries: u64,
    all_entries: u64,
}

impl Display {
    pub(super) fn new(is_shown: bool) -> Self {
        Self {
            is_shown,
            work: Mutex::new(None),
        }
    }

    /// Does something to the terminal that the bar must not be in the way of.
    pub(super) fn beside(&self, write: impl FnOnce()) {
        match self.with(|work| work.bar.clone()) {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    fn with<T>(&self, use_work: impl FnOnce(&mut Work) -> T) -> Option<T> {
        // Without a terminal nothing is even locked.
        if !self.is_shown {
            return None;
        }
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        work.as_mut().map(use_work)
    }
}

impl Progress for Display {
    fn total(&self, bytes: u64, entries: u64) {
        if !self.is_shown {
            return;
        }
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        let work = work.get_or_insert_with(Work::begin);
        work.all_entries = entries;
        if bytes > 0 {
            // Only the first time, since parsing a template takes its time.
            if work.bar.length().is_none() {
                work.bar.set_style(style(SIZED));
            }
            work.bar.set_length(bytes);
        }
    }

    fn advance(&self, bytes: u64, entries: u64) {
        self.with(|work| {
            work.bar.inc(bytes);
            if entries > 0 {
                work.entries += entries;
                work.bar.set_prefix(work.count());
            }
        });
    }

    fn current(&self, name: &str) {
        self.with(|work| work.bar.set_message(shortened(&printable(name))));
    }

    fn finish(&self) {
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(work) = work.take() {
            work.bar.finish_and_clear();
        }
    }
}

impl Work {
    fn begin() -> Self {
        let target = ProgressDrawTarget::stderr_with_hz(DRAWS_A_SECOND);
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_style(style(UNSIZED));
        Self {
            bar,
            entries: 0,
            all_entries: 0,
        }
    }

    /// How many entries are done, if there is more than one.
    fn count(&self) -> String {
        match (self.entries, self.all_entries) {
            (_, 1) => String::new(),
            (done, 0) => HumanCount(done).to_string(),
            (done, all) => format!("{}/{}", HumanCount(done), HumanCount(all)),
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

/// The end of a name that is too long, since names in one tree differ there.
fn shortened(name: &str) -> String {
    let excess = name.chars().count().saturating_sub(NAME_COLUMNS);
    if excess == 0 {
        return name.to_owned();
    }
    let end: String = name.chars().skip(excess + 3).collect();
    format!("...{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_keep_their_end() {
        assert_eq!(shortened("short"), "short");
        let long = format!("{}/end", "x".repeat(100));
        let shown = shortened(&long);
        assert_eq!(shown.chars().count(), NAME_COLUMNS);
        assert!(shown.starts_with("...x") && shown.ends_with("/end"));
    }

    #[test]
    fn templates_are_well_formed() {
        let display = Display::new(true);
        display.total(0, 0);
        display.total(10, 2);
        display.advance(5, 1);
        assert_eq!(display.with(|work| work.count()).unwrap(), "1/2");
        display.finish();
        assert!(display.with(|_| ()).is_none());
    }

    #[test]
    fn without_a_terminal_there_is_nothing() {
        let display = Display::new(false);
        display.total(10, 2);
        display.advance(5, 1);
        assert!(display.with(|_| ()).is_none());
    }
}
