//! What a command has taken, once it has ended.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use legatus_core::ProcessGroup;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike as _};
use prost::Message;

use super::messages::{Output, Usage, output::Part};

/// What a command takes while it runs.
#[derive(Debug)]
pub(super) struct Meter {
    since: Instant,
    input: AtomicU64,
    output: AtomicU64,
}

impl Meter {
    /// Begins now.
    pub(super) fn new() -> Self {
        Self {
            since: Instant::now(),
            input: AtomicU64::new(0),
            output: AtomicU64::new(0),
        }
    }

    /// The command was given so many bytes.
    pub(super) fn gave(&self, bytes: usize) {
        self.input.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The command wrote so many bytes.
    pub(super) fn wrote(&self, bytes: usize) {
        self.output.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Tells what all processes took that have been waited for here: the command, and what it and
    /// its descendants have waited for. A call has this process for itself. A group knows the
    /// processor time of those, too, for whom nobody has waited.
    pub(super) fn message(&self, group: Option<&dyn ProcessGroup>) -> Bytes {
        let mut usage = Usage {
            duration_microseconds: microseconds(self.since.elapsed()),
            input_bytes: self.input.load(Ordering::Relaxed),
            output_bytes: self.output.load(Ordering::Relaxed),
            ..Usage::default()
        };
        // It cannot fail with what is asked here.
        if let Ok(taken) = getrusage(UsageWho::RUSAGE_CHILDREN) {
            usage.user_microseconds = of_value(taken.user_time());
            usage.system_microseconds = of_value(taken.system_time());
            // Linux counts in KiB.
            let kibibytes = u64::try_from(taken.max_rss()).unwrap_or(0);
            usage.peak_memory_bytes = kibibytes.saturating_mul(1024);
        }
        if let Some((user, system)) = group.and_then(ProcessGroup::processor_time) {
            usage.user_microseconds = usage.user_microseconds.max(microseconds(user));
            usage.system_microseconds = usage.system_microseconds.max(microseconds(system));
        }
        let output = Output {
            part: Some(Part::Usage(usage)),
        };
        output.encode_to_vec().into()
    }
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn of_value(time: TimeVal) -> u64 {
    u64::try_from(time.num_microseconds()).unwrap_or(0)
}
