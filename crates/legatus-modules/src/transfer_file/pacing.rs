//! Keeps a source to the bandwidth that it was given.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// How far a copy may be ahead of its pace: an idle moment is made up for, not an idle hour.
const BURST: Duration = Duration::from_millis(250);

/// When the next message may be sent.
#[derive(Debug)]
pub(super) struct Pace {
    /// Bytes a second; 0: no limit.
    rate: u64,
    next: Instant,
}

impl Pace {
    /// At most so many bytes a second; 0 for as many as go.
    pub(super) fn new(rate: u64) -> Self {
        Self {
            rate,
            next: Instant::now(),
        }
    }

    /// Waits until so many bytes may be sent.
    pub(super) async fn wait(&mut self, bytes: usize) {
        if self.rate == 0 {
            return;
        }
        sleep_until(self.next).await;
        let now = Instant::now();
        let nanoseconds = (bytes as u64).saturating_mul(1_000_000_000) / self.rate;
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        self.next = self.next.max(earliest) + Duration::from_nanos(nanoseconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn messages_take_as_long_as_the_bandwidth_says_and_no_longer() {
        let began = Instant::now();
        let mut pace = Pace::new(1_000_000);
        for _ in 0..11 {
            pace.wait(100_000).await;
        }
        let took = began.elapsed();
        assert!((Duration::from_millis(990)..=Duration::from_millis(1010)).contains(&took));
        let mut free = Pace::new(0);
        let began = Instant::now();
        free.wait(usize::MAX).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
