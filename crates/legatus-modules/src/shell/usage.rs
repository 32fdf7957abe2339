//! What a command has taken, once it has ended.

use std::time::Duration;

use bytes::Bytes;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use prost::Message;

use super::messages::{Output, Usage, output::Part};

/// Tells what all processes took that have been waited for here: the command, and what it and its
/// descendants have waited for. A call has this process for itself.
pub(super) fn message(duration: Duration) -> Bytes {
    let microseconds = |time: TimeVal| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
        let rest = u64::try_from(time.tv_usec()).unwrap_or(0);
        seconds.saturating_mul(1_000_000).saturating_add(rest)
    };
    let mut usage = Usage {
        duration_microseconds: u64::try_from(duration.as_micros()).unwrap_or(u64::MAX),
        ..Usage::default()
    };
    // It cannot fail with what is asked here.
    if let Ok(taken) = getrusage(UsageWho::RUSAGE_CHILDREN) {
        usage.user_microseconds = microseconds(taken.user_time());
        usage.system_microseconds = microseconds(taken.system_time());
        // Linux counts in KiB.
        let kibibytes = u64::try_from(taken.max_rss()).unwrap_or(0);
        usage.peak_memory_bytes = kibibytes.saturating_mul(1024);
    }
    let output = Output {
        part: Some(Part::Usage(usage)),
    };
    output.encode_to_vec().into()
}
