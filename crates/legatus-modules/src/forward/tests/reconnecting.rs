//! Forwardings whose connection to the server is lost.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use legatus_core::testing::MemoryCaller;
use legatus_core::{
    Arguments, BoxFuture, Caller, Channel, Control, Conversation, Fault, Outcome, PendingOutcome,
    Reconnection, Request,
};
use tokio::net::TcpStream;

use super::support::{Forwarded, exchange, reverser};

/// Calls over a connection that can be cut.
#[derive(Clone)]
struct Cuttable(Arc<Line>);

struct Line {
    server: Mutex<Arc<MemoryCaller>>,
    /// How many times the connection seems not to be lost, though it takes no calls.
    silent: AtomicUsize,
    /// How many attempts to connect again fail then.
    failures: AtomicUsize,
    /// Whether there is no way to connect again after that.
    then_impossible: bool,
}

fn server() -> Arc<MemoryCaller> {
    Arc::new(MemoryCaller::new(Arc::new(crate::forward::module()), 7))
}

impl Cuttable {
    fn new(silent: usize, failures: usize, then_impossible: bool) -> Self {
        Self(Arc::new(Line {
            server: Mutex::new(server()),
            silent: AtomicUsize::new(silent),
            failures: AtomicUsize::new(failures),
            then_impossible,
        }))
    }

    fn server(&self) -> Arc<MemoryCaller> {
        Arc::clone(&self.0.server.lock().unwrap())
    }

    fn cut(&self) {
        self.server().cancellation().cancel();
    }
}

impl Caller for Cuttable {
    fn open(&self, request: Request) -> BoxFuture<'_, Result<Conversation, Fault>> {
        Box::pin(async {
            let server = self.server();
            let (decide, outcome) = PendingOutcome::new();
            if server.cancellation().is_cancelled() {
                let fault = Fault::new("there is no connection");
                decide.send(Outcome::Unavailable(fault)).ok();
                return Ok(Conversation {
                    channel: Channel::pair(1).0,
                    controls: Control::queue().0,
                    outcome,
                });
            }
            let conversation = server.open(request).await?;
            let inner = conversation.outcome;
            tokio::spawn(async move {
                let told = inner.wait().await;
                let lost = server.cancellation().is_cancelled();
                decide.send(if lost { cut() } else { told }).ok();
            });
            Ok(Conversation {
                outcome,
                ..conversation
            })
        })
    }

    fn reconnect(&self) -> BoxFuture<'_, Reconnection> {
        Box::pin(async {
            if !self.server().cancellation().is_cancelled() {
                return Reconnection::NotLost;
            }
            let one_less = |left: usize| left.checked_sub(1);
            let (relaxed, silent) = (Ordering::Relaxed, &self.0.silent);
            if silent.fetch_update(relaxed, relaxed, one_less).is_ok() {
                return Reconnection::NotLost;
            }
            let failures = &self.0.failures;
            if failures.fetch_update(relaxed, relaxed, one_less).is_ok() {
                return Reconnection::Failed(Fault::new("nobody listens"));
            }
            if self.0.then_impossible {
                return Reconnection::Impossible;
            }
            *self.0.server.lock().unwrap() = server();
            Reconnection::Done
        })
    }
}

fn cut() -> Outcome {
    Outcome::Lost(Fault::new("the connection was lost: cut"))
}

async fn reversed(port: u16) -> Vec<u8> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    exchange(stream, b"abc").await
}

#[tokio::test]
async fn what_cannot_be_reached_any_more_ends_as_lost() {
    let line = Cuttable::new(0, 1, true);
    let route = format!("127.0.0.1:0:127.0.0.1:{}", reverser().await);
    let arguments = Arguments::new().with("local", route);
    let mut forwarded = Forwarded::over(line.clone(), arguments, b"");
    forwarded.listening().await;
    line.cut();
    assert_eq!(forwarded.end().await, cut());
    assert_eq!(
        forwarded.reports().lines().last(),
        Some("connection lost (cut); reconnecting")
    );
}

#[tokio::test]
async fn what_listens_here_goes_on_when_there_is_a_connection_again() {
    let line = Cuttable::new(1, 2, false);
    let route = format!("127.0.0.1:0:127.0.0.1:{}", reverser().await);
    let arguments = Arguments::new().with("local", route);
    let mut forwarded = Forwarded::over(line.clone(), arguments, b"");
    let port = forwarded.port().await;
    for _ in 0..2 {
        assert_eq!(reversed(port).await, b"cba");
        line.cut();
    }
    // It waits for the next connection to the server meanwhile.
    assert_eq!(reversed(port).await, b"cba");
    assert_eq!(forwarded.interrupt().await, Outcome::Cancelled);
    let reports = forwarded.reports();
    assert!(
        reports.contains("(cut); reconnecting\nconnected again"),
        "{reports}"
    );
}

#[tokio::test]
async fn the_server_listens_on_the_same_port_again() {
    let line = Cuttable::new(1, 1, false);
    let route = format!("127.0.0.1:0:127.0.0.1:{}", reverser().await);
    let arguments = Arguments::new().with("remote", route);
    let mut forwarded = Forwarded::over(line.clone(), arguments, b"");
    let port = forwarded.port().await;
    for _ in 0..2 {
        assert_eq!(reversed(port).await, b"cba");
        line.cut();
        assert_eq!(forwarded.port().await, port);
    }
    assert_eq!(reversed(port).await, b"cba");
    assert_eq!(forwarded.interrupt().await, Outcome::Cancelled);
}
