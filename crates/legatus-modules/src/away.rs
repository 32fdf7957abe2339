//! Looking for a connection that is lost.

use std::time::{Duration, Instant};

/// How long a lost connection is looked for, unless the user says otherwise: a restart of a machine
/// or of a router is over by then.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10 * 60);

/// The first pause before connecting again; each is twice as long as the one before, up to the
/// longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Since when there has been no connection that helps, and how long to pause before the next.
#[derive(Clone, Copy)]
pub(crate) struct Away {
    since: Instant,
    pause: Duration,
}

impl Away {
    /// From now on.
    pub(crate) fn new() -> Self {
        Self {
            since: Instant::now(),
            pause: FIRST_PAUSE,
        }
    }

    /// Whether it has been so long.
    pub(crate) fn is_longer_than(&self, patience: Duration) -> bool {
        self.since.elapsed() >= patience
    }

    /// Pauses before connecting once more.
    pub(crate) async fn pause(&mut self) {
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}

/// What the user is told of a connection that was lost for this reason.
pub(crate) fn told(reason: &str) -> String {
    match reason.strip_prefix("the connection was lost: ") {
        Some(reason) => format!("connection lost ({reason}); reconnecting"),
        None => "connection lost; reconnecting".to_owned(),
    }
}
