//! The client's connections to the server, which share the calls of what is forwarded.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use legatus_core::{Caller, Outcome};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::dial::{NotOpened, Opened, open};
use super::request::What;

/// How long a forwarded connection waits until the server takes one call more: others end meanwhile.
const ROOM_WITHIN: Duration = Duration::from_secs(10);

/// How long it waits before it asks again, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(320));

/// Connections besides the first, at most: with it they carry 2048 calls by the server's defaults,
/// half of what it lets one identity run.
const FURTHER: usize = 15;

/// The connections to one server. Each carries as many calls as the server lets it, so that one more
/// is made when all are full.
pub(super) struct Lines<'a> {
    first: &'a dyn Caller,
    further: Mutex<Vec<Arc<dyn Caller>>>,
    /// Held by whoever makes one more.
    growing: Mutex<()>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(first: &'a dyn Caller) -> Self {
        Self {
            first,
            further: Mutex::default(),
            growing: Mutex::default(),
        }
    }

    /// Asks for a connection, and again while the server has no room for one call more: a call that
    /// has ended here may count there for a moment still.
    pub(super) async fn open_in_time(&self, what: What) -> Result<Opened, NotOpened> {
        let until = Instant::now() + ROOM_WITHIN;
        let (mut pause, longest) = PAUSES;
        loop {
            let further = self.further.lock().await.clone();
            let refused = match self.open_by_any(&further, &what).await {
                Err(not) if matches!(not.outcome, Outcome::Unavailable(_)) => not,
                opened => return opened,
            };
            if Instant::now() >= until {
                return Err(refused);
            }
            if pause > PAUSES.0 {
                self.grow(further.len()).await;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }

    /// Asks over each until one has room; the newest one most likely has.
    async fn open_by_any(
        &self,
        further: &[Arc<dyn Caller>],
        what: &What,
    ) -> Result<Opened, NotOpened> {
        for caller in further.iter().rev() {
            match open(&**caller, what.clone()).await {
                Err(not) if matches!(not.outcome, Outcome::Unavailable(_)) => {}
                opened => return opened,
            }
        }
        open(self.first, what.clone()).await
    }

    /// Makes one more, unless somebody else has done so or is about to. Without success nothing has
    /// changed, and what is asked for waits for room.
    async fn grow(&self, known: usize) {
        let Ok(_growing) = self.growing.try_lock() else {
            return;
        };
        let further = self.further.lock().await.clone();
        if further.len() > known {
            return;
        }
        if known < FURTHER {
            if let Ok(caller) = self.first.another().await {
                self.further.lock().await.push(caller.into());
            }
            return;
        }
        // The server may have closed some that were idle.
        join_all(further.iter().map(|caller| caller.reconnect())).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use legatus_core::testing::MemoryCaller;
    use legatus_core::{
        BoxFuture, Channel, Control, Conversation, Fault, Module, PendingOutcome, Request,
    };

    use super::*;

    /// A server that has no room for the first calls of a connection.
    struct Crowded {
        refusals: AtomicUsize,
        outcome: Outcome,
        /// How many more connections can be made, each of which has room.
        more: AtomicUsize,
        server: MemoryCaller,
    }

    fn server() -> MemoryCaller {
        let module: Arc<dyn Module> = Arc::new(crate::forward::module());
        MemoryCaller::new(module, 7)
    }

    impl Caller for Crowded {
        fn open(&self, request: Request) -> BoxFuture<'_, Result<Conversation, Fault>> {
            let left = self.refusals.load(Ordering::Relaxed);
            if left == 0 {
                return self.server.open(request);
            }
            self.refusals.store(left - 1, Ordering::Relaxed);
            let (decide, outcome) = PendingOutcome::new();
            decide.send(self.outcome.clone()).ok();
            let conversation = Conversation {
                channel: Channel::pair(1).0,
                controls: Control::queue().0,
                outcome,
            };
            Box::pin(std::future::ready(Ok(conversation)))
        }

        fn another(&self) -> BoxFuture<'_, Result<Box<dyn Caller>, Fault>> {
            let left = self.more.load(Ordering::Relaxed);
            self.more.store(left.saturating_sub(1), Ordering::Relaxed);
            Box::pin(std::future::ready(match left {
                0 => Err(Fault::new("no more")),
                _ => Ok(Box::new(server()) as Box<dyn Caller>),
            }))
        }
    }

    fn crowded(outcome: Outcome, refusals: usize, more: usize) -> Crowded {
        Crowded {
            refusals: AtomicUsize::new(refusals),
            outcome,
            more: AtomicUsize::new(more),
            server: server(),
        }
    }

    fn full() -> Outcome {
        Outcome::Unavailable(Fault::new("the limit is reached"))
    }

    #[tokio::test]
    async fn what_is_denied_is_not_asked_for_again() {
        let server = crowded(Outcome::Denied(Fault::new("no")), 2, 1);
        let lines = Lines::new(&server);
        let not = lines.open_in_time(What::Hold).await.err().unwrap();
        assert!(matches!(not.outcome, Outcome::Denied(_)));
        assert_eq!(server.refusals.load(Ordering::Relaxed), 1);
        assert_eq!(server.more.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn where_nothing_more_can_be_had_the_refusal_is_told_in_time() {
        let server = crowded(full(), usize::MAX, 0);
        let not = Lines::new(&server).open_in_time(What::Hold).await.err();
        assert!(matches!(not.unwrap().outcome, Outcome::Unavailable(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_waits_until_the_server_has_room_for_it() {
        let server = crowded(full(), 3, 0);
        let lines = Lines::new(&server);
        assert!(lines.open_in_time(What::Hold).await.is_ok());
        assert_eq!(server.refusals.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_connections_are_full_one_more_is_made_and_serves_those_that_follow() {
        let server = crowded(full(), usize::MAX, 5);
        let lines = Lines::new(&server);
        for _ in 0..3 {
            assert!(lines.open_in_time(What::Hold).await.is_ok());
        }
        assert_eq!(server.more.load(Ordering::Relaxed), 4);
    }
}
