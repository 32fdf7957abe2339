//! Forwardings whose connection to the server is lost.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use legatus_core::testing::MemoryCaller;
use legatus_core::{
    Arguments, BoxFuture, Caller, Conversation, Fault, Outcome, PendingOutcome, Reconnection,
    Request,
};
use tokio::net::TcpStream;

use super::support::{Forwarded, exchange, reverser};

/// Calls over a connection that can be cut.
#[derive(Clone)]
struct Cuttable(Arc<Line>);

struct Line {
    server: Mutex<Arc<MemoryCaller>>,
    /// How many attempts to connect again fail.
    failures: AtomicUsize,
    /// Whether the server takes no more calls when it is connected again.
    then_denied: bool,
}

fn server() -> Arc<MemoryCaller> {
    Arc::new(MemoryCaller::new(Arc::new(crate::forward::module()), 7))
}

impl Cuttable {
    fn new(failures: usize, then_denied: bool) -> Self {
        Self(Arc::new(Line {
            server: Mutex::new(server()),
            failures: AtomicUsize::new(failures),
            then_denied,
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
            let had_gone = server.cancellation().is_cancelled();
            let conversation = server.open(request).await?;
            let (decide, outcome) = PendingOutcome::new();
            let inner = conversation.outcome;
            tokio::spawn(async move {
                let told = inner.wait().await;
                let told = match server.cancellation().is_cancelled() {
                    true if had_gone => Outcome::Unavailable(Fault::new("there is no connection")),
                    true => cut(),
                    false => told,
                };
                decide.send(told).ok();
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
            let failures = self.0.failures.load(Ordering::Relaxed);
            if failures > 0 {
                self.0.failures.store(failures - 1, Ordering::Relaxed);
                return Reconnection::Failed(Fault::new("nobody listens"));
            }
            if self.0.then_denied {
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
    let line = Cuttable::new(1, true);
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
    let line = Cuttable::new(2, false);
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
    let line = Cuttable::new(1, false);
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
