//! What a module says goes to the log of its host, under the call's id, and never without end.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError};

use tokio::sync::mpsc;
use tracing::{Level, Span};

use super::manifest::Limits;
use super::usage::{USAGE, USAGE_PREFIX, Usage, Used, is_wanted};

/// Bytes of one line, at most.
const LINE_BYTES: usize = 4 << 10;

/// The log of one call. Clones share what is left of its lines.
#[derive(Clone, Debug)]
pub(crate) struct CallLog {
    module: Arc<str>,
    span: Span,
    left: Arc<AtomicU32>,
    /// What the call took; nobody notes it unless somebody wants to know.
    usage: Option<Arc<Usage>>,
    /// Where lines go instead: to the process that logs them.
    elsewhere: Option<mpsc::Sender<(Level, String)>>,
}

impl CallLog {
    pub(crate) fn new(module: &str, span: Span, lines: u32) -> Self {
        Self {
            module: module.into(),
            span,
            left: Arc::new(AtomicU32::new(lines)),
            usage: is_wanted().then(Arc::default),
            elsewhere: None,
        }
    }

    /// The log of a call that another process keeps. What it does not take in time is lost.
    #[cfg(feature = "wasm")]
    pub(crate) fn kept_elsewhere(lines: u32, to: mpsc::Sender<(Level, String)>) -> Self {
        Self {
            elsewhere: Some(to),
            ..Self::new("", Span::none(), lines)
        }
    }

    /// Notes one line of the module.
    pub(crate) fn line(&self, level: Level, text: &str) {
        let take = |left: u32| left.checked_sub(1);
        let left = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        let Ok(left) = left else {
            return;
        };
        let text = cut(text);
        if let Some(elsewhere) = &self.elsewhere {
            elsewhere.try_send((level, text)).ok();
            return;
        }
        let module = &*self.module;
        let span = &self.span;
        match level {
            Level::ERROR => tracing::error!(parent: span, module, "{text}"),
            Level::WARN => tracing::warn!(parent: span, module, "{text}"),
            Level::INFO => tracing::info!(parent: span, module, "{text}"),
            Level::DEBUG => tracing::debug!(parent: span, module, "{text}"),
            _ => tracing::trace!(parent: span, module, "{text}"),
        }
        if left == 1 {
            tracing::warn!(parent: span, module, "the module logs too much: the rest is dropped");
        }
    }

    /// Notes what the call took, if anybody wants to know.
    pub(crate) fn used(&self, measure: impl FnOnce() -> Used) {
        if let Some(usage) = &self.usage {
            *usage.lock().unwrap_or_else(PoisonError::into_inner) = measure();
        }
    }

    /// Tells what the call took of its limits, if anybody wants to know.
    pub(crate) fn tell_usage(&self, half: &str, limits: &Limits) {
        let Some(usage) = &self.usage else {
            return;
        };
        let used = *usage.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = limits
            .log_lines
            .saturating_sub(self.left.load(Ordering::Relaxed));
        let words = used.words(lines, limits);
        tracing::debug!(target: USAGE, parent: &self.span, "{USAGE_PREFIX}{half} half: {words}");
    }

    /// How many lines may still come.
    #[cfg(test)]
    pub(crate) fn left(&self) -> u32 {
        self.left.load(Ordering::Relaxed)
    }
}

/// A line without what could steer a terminal, cut to its limit.
fn cut(text: &str) -> String {
    let end = text.floor_char_boundary(LINE_BYTES);
    let text = text.get(..end).unwrap_or_default();
    let plain = text.trim_end_matches(['\n', '\r']).chars();
    plain
        .map(|c| {
            if c.is_control() && c != '\n' && c != '\t' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

/// Gathers bytes into lines.
#[derive(Debug)]
pub(crate) struct Lines {
    log: CallLog,
    level: Level,
    partial: Vec<u8>,
}

impl Lines {
    pub(crate) fn new(log: CallLog, level: Level) -> Self {
        Self {
            log,
            level,
            partial: Vec::new(),
        }
    }

    /// Adds bytes; whole lines are noted.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.partial.extend_from_slice(part);
            if part.ends_with(b"\n") || self.partial.len() >= LINE_BYTES {
                self.flush();
            }
        }
    }

    fn flush(&mut self) {
        let line = String::from_utf8_lossy(&self.partial);
        if !line.trim().is_empty() {
            self.log.line(self.level, &line);
        }
        self.partial.clear();
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_lines_ends_at_the_limit() {
        let log = CallLog::new("m", Span::none(), 3);
        let mut lines = Lines::new(log.clone(), Level::INFO);
        for _ in 0..1000 {
            lines.push(b"again\n");
        }
        assert_eq!(log.left(), 0);
    }

    #[test]
    fn a_line_without_end_takes_no_memory_without_end() {
        let log = CallLog::new("m", Span::none(), 1000);
        let mut lines = Lines::new(log, Level::INFO);
        for _ in 0..100 {
            lines.push(&[b'x'; 1024]);
            assert!(lines.partial.len() <= LINE_BYTES + 1024);
        }
    }

    #[test]
    fn nothing_in_a_line_steers_a_terminal() {
        assert_eq!(cut("a\x1b[2Jb\r\n"), "a\u{fffd}[2Jb");
    }
}
