//! How much a server takes on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How much a server takes on. Each limit can be configured; whoever exceeds one is told which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerLimits {
    /// Connections whose client has not shown its certificate yet. They cost about 50 KiB each and
    /// anybody can make them.
    pub handshakes: usize,
    /// Those of one address, so that no single machine can keep the others out. Two thousand
    /// clients of one machine may come at once.
    pub handshakes_per_address: usize,
    /// Connections of all identities together; bounded by the descriptors a process usually may
    /// have (65536), of which a connection with a running command takes about five.
    pub connections: usize,
    /// Connections of one identity.
    pub connections_per_identity: usize,
    /// Calls that run on one connection at the same time. Times the stream window this bounds the
    /// memory that one connection can pin (96 times 32 MiB, with what kept calls let wait).
    pub calls_per_connection: usize,
    /// Calls that one identity runs at the same time.
    pub calls_per_identity: usize,
    /// Kept calls of one identity that run on without a client. Each is a process of about 1 MiB and
    /// what it runs.
    pub sessions_per_identity: usize,
    /// Until when TLS and the beginning of HTTP/2 must have come, from accepting on.
    pub handshake: Duration,
    /// A connection without calls for so long is closed.
    pub idle: Duration,
    /// How long running calls may go on when the server drains.
    pub drain: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            handshakes: 4096,
            handshakes_per_address: 3072,
            connections: 8192,
            connections_per_identity: 4096,
            calls_per_connection: 96,
            calls_per_identity: 4096,
            sessions_per_identity: 4096,
            handshake: Duration::from_secs(10),
            idle: Duration::from_secs(15 * 60),
            drain: Duration::from_secs(30),
        }
    }
}

/// Lists of sessions that one identity may ask for at the same time: each asks all holders.
const LISTINGS: usize = 32;

/// Counts what is in use, so that limits can be kept.
#[derive(Debug)]
pub(super) struct Usages {
    pub(super) handshakes: Arc<Usage>,
    pub(super) handshakes_by_address: Arc<Usage>,
    pub(super) connections: Arc<Usage>,
    pub(super) connections_by_identity: Arc<Usage>,
    pub(super) calls_by_identity: Arc<Usage>,
    pub(super) listings_by_identity: Arc<Usage>,
}

/// Counts one thing, by key.
#[derive(Debug)]
pub(super) struct Usage {
    what: &'static str,
    limit: usize,
    counts: Mutex<HashMap<String, usize>>,
}

/// One unit in use; given back when dropped.
#[derive(Debug)]
pub(super) struct InUse {
    usage: Arc<Usage>,
    key: String,
}

/// A limit that is reached: what, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LimitReached {
    pub(super) what: &'static str,
    pub(super) limit: usize,
}

impl std::fmt::Display for LimitReached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the limit of {} {} is reached", self.limit, self.what)
    }
}

impl Usages {
    pub(super) fn new(limits: &ServerLimits) -> Self {
        Self {
            handshakes: Usage::new("handshakes", limits.handshakes),
            handshakes_by_address: Usage::new(
                "handshakes of one address",
                limits.handshakes_per_address,
            ),
            connections: Usage::new("connections", limits.connections),
            connections_by_identity: Usage::new(
                "connections of one identity",
                limits.connections_per_identity,
            ),
            calls_by_identity: Usage::new("calls of one identity", limits.calls_per_identity),
            listings_by_identity: Usage::new(
                "lists of sessions that one identity asks for",
                LISTINGS,
            ),
        }
    }
}

impl Usage {
    pub(super) fn new(what: &'static str, limit: usize) -> Arc<Self> {
        Arc::new(Self {
            what,
            limit,
            counts: Mutex::default(),
        })
    }

    /// Takes one unit for a key (empty: for all together).
    pub(super) fn take(self: &Arc<Self>, key: &str) -> Result<InUse, LimitReached> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(key.to_owned()).or_default();
        if *count >= self.limit {
            return Err(LimitReached {
                what: self.what,
                limit: self.limit,
            });
        }
        *count += 1;
        Ok(InUse {
            usage: Arc::clone(self),
            key: key.to_owned(),
        })
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut counts = self
            .usage
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_kept_by_key_and_units_come_back() {
        let usage = Usage::new("calls", 1);
        let ann = usage.take("ann").unwrap();
        let reached = usage.take("ann").unwrap_err();
        assert_eq!(reached.to_string(), "the limit of 1 calls is reached");
        usage.take("bob").unwrap();
        drop(ann);
        usage.take("ann").unwrap();
        assert!(usage.counts.lock().unwrap().is_empty());
    }
}
