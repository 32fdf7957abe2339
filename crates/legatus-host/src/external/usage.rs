//! What a call took of its limits, for whoever writes a module: a line in the log at level debug.

use std::sync::Mutex;
use std::time::Duration;

use tracing::Level;

use super::manifest::Limits;

/// The target of the line in the log that tells what a call took.
pub const USAGE: &str = "legatus_host::usage";

/// What this line begins with.
pub const USAGE_PREFIX: &str = "limits used: ";

/// What one call has taken, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Used {
    /// Bytes of memory, at most at the same time.
    pub(crate) memory: Option<u64>,
    /// Time of the processor.
    pub(crate) cpu: Option<Duration>,
}

/// Ticks of a second in `/proc` (proc(5): `USER_HZ`), the same on all machines that we run on.
const TICKS: u64 = 100;

/// Where a call's end is noted.
pub(crate) type Usage = Mutex<Used>;

/// Whether anybody wants to know.
pub(crate) fn is_wanted() -> bool {
    tracing::enabled!(target: USAGE, Level::DEBUG)
}

impl Used {
    /// In words, beside the limits.
    pub(crate) fn words(&self, log_lines: u32, limits: &Limits) -> String {
        let memory = match self.memory {
            Some(bytes) => format!("{}.{}", bytes >> 20, ((bytes >> 10) & 1023) * 10 / 1024),
            None => "an unknown part".to_owned(),
        };
        let cpu = match self.cpu {
            Some(time) => format!("{:.2}", time.as_secs_f64()),
            None => "an unknown part".to_owned(),
        };
        format!(
            "memory {memory} of {} MiB, processor {cpu} of {} s, log {log_lines} of {} lines",
            limits.memory >> 20,
            limits.cpu.as_secs_f64(),
            limits.log_lines
        )
    }

    /// What a process has taken so far. One that has ended has told its memory to nobody.
    pub(crate) fn of_process(process: u32) -> Self {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{process}/{name}"));
        let (status, stat) = (read("status"), read("stat"));
        Self::told(&status.unwrap_or_default(), &stat.unwrap_or_default())
    }

    /// By what a process's folder in `/proc` has as `status` and `stat` (proc(5)): all that it held
    /// at most, less what is only mapped from files.
    fn told(status: &str, stat: &str) -> Self {
        let kib = |name: &str| {
            let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
            let number = rest.trim_end_matches("kB").trim().parse::<u64>();
            number.ok().map(|kib| kib.saturating_mul(1024))
        };
        let memory = kib("VmHWM:").zip(kib("RssFile:"));
        // The name in parentheses may hold anything, so that fields are counted behind it.
        let fields = stat.rsplit_once(')').map(|(_, rest)| rest);
        let mut times = fields.unwrap_or_default().split_ascii_whitespace().skip(11);
        let mut time = || times.next()?.parse::<u64>().ok();
        let cpu = time().zip(time()).and_then(|(user, system)| {
            let milliseconds = user.saturating_add(system).saturating_mul(1000);
            Some(Duration::from_millis(milliseconds.checked_div(TICKS)?))
        });
        Self {
            memory: memory.map(|(most, files)| most.saturating_sub(files)),
            cpu,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_is_told_beside_its_limits() {
        let used = Used {
            memory: Some((3 << 20) + (512 << 10)),
            cpu: Some(Duration::from_millis(120)),
        };
        assert_eq!(
            used.words(2, &Limits::DEFAULT),
            "memory 3.5 of 64 MiB, processor 0.12 of 60 s, log 2 of 1000 lines"
        );
        let told = Used::default().words(0, &Limits::DEFAULT);
        assert!(told.contains("memory an unknown part of 64 MiB"), "{told}");
    }

    #[test]
    fn a_process_is_measured_by_what_the_kernel_tells() {
        let status = "Name:\tx\nVmHWM:\t    5000 kB\nRssFile:\t    1000 kB\n";
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194304 100 0 0 0 12 30 0 0 20 0";
        let used = Used::told(status, stat);
        assert_eq!(used.memory, Some(4000 << 10));
        assert_eq!(used.cpu, Some(Duration::from_millis(420)));
        // One that has ended has no memory any more.
        let ended = Used::told("Name:\tx\n", stat);
        assert_eq!((ended.memory, ended.cpu), (None, used.cpu));
        assert_eq!(Used::told("", "nonsense"), Used::default());
    }
}
