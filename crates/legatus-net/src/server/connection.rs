//! One connection, from TCP over TLS to HTTP/2.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use legatus_core::Peer;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tower::ServiceExt as _;

use super::{State, plain, service};
use crate::chain;
use crate::framing;
use crate::http2 as wire;
use crate::io::{Watched, Watcher};
use crate::tls::{self, TlsStream};

/// What the calls of one connection share.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) peer: Peer,
    pub(super) address: String,
    pub(super) calls: AtomicUsize,
    /// Whether there was a call.
    used: AtomicBool,
    /// When a call began or ended last, in seconds since `opened`.
    last_used: AtomicU64,
    opened: Instant,
    /// Fires when the connection has ended.
    pub(super) closed: CancellationToken,
}

/// How long after its handshake a connection may wait with its first call while the server drains.
const FIRST_CALL: Duration = Duration::from_secs(2);

/// Counts the bytes that were read.
struct Count(Arc<AtomicU64>);

impl Watcher for Count {
    fn read(&self, result: Result<usize, &io::Error>) {
        self.0
            .fetch_add(result.unwrap_or(0) as u64, Ordering::Relaxed);
    }
}

/// The preface of HTTP/2 and the header of a first SETTINGS frame (RFC 9113, 3.4): what every
/// client sends at once.
const PREFACE_BYTES: u64 = 24 + 9;

impl Connection {
    pub(super) fn new(peer: Peer, address: SocketAddr) -> Self {
        Self {
            peer,
            address: address.to_string(),
            calls: AtomicUsize::new(0),
            used: AtomicBool::new(false),
            last_used: AtomicU64::new(0),
            opened: Instant::now(),
            closed: CancellationToken::new(),
        }
    }

    /// Notes that a call has begun or ended.
    pub(super) fn touch(&self) {
        let seconds = self.opened.elapsed().as_secs();
        self.last_used.store(seconds, Ordering::Relaxed);
        self.used.store(true, Ordering::Relaxed);
    }

    /// When a draining server may say goodbye: at once, but a connection that was just made gets a
    /// moment for the call that it was made for.
    fn may_leave_at(&self) -> Instant {
        match self.used.load(Ordering::Relaxed) {
            true => Instant::now(),
            false => self.opened + FIRST_CALL,
        }
    }

    fn idle(&self) -> Duration {
        if self.calls.load(Ordering::Relaxed) > 0 {
            return Duration::ZERO;
        }
        let last_used = Duration::from_secs(self.last_used.load(Ordering::Relaxed));
        self.opened.elapsed().saturating_sub(last_used)
    }
}

/// Serves one connection until it ends.
pub(super) async fn serve(
    stream: TcpStream,
    address: SocketAddr,
    state: Arc<State>,
    routes: Routes,
) {
    let address = plain(address);
    if let Err(error) = try_serve(stream, address, &state, routes).await {
        tracing::info!(%address, %error, "connection refused");
    }
}

async fn try_serve(
    stream: TcpStream,
    address: SocketAddr,
    state: &Arc<State>,
    routes: Routes,
) -> Result<(), String> {
    let usages = &state.usages;
    let handshaking = usages.handshakes.take("").and_then(|one| {
        let from_there = usages
            .handshakes_by_address
            .take(&address.ip().to_string())?;
        Ok((one, from_there))
    });
    let handshaking = handshaking.map_err(|limit| limit.to_string())?;
    let done = tokio::time::timeout(state.limits.handshake, handshake(stream, state)).await;
    let (stream, peer) =
        done.map_err(|_| format!("no TLS handshake within {:?}", state.limits.handshake))??;
    drop(handshaking);
    let _one = usages
        .connections
        .take("")
        .map_err(|limit| limit.to_string())?;
    let by_identity = usages.connections_by_identity.take(peer.identity());
    let _of_identity = by_identity.map_err(|limit| format!("{peer}: {limit}"))?;

    state.connections.fetch_add(1, Ordering::Relaxed);
    tracing::debug!(%address, identity = %peer, "connected");
    let ended = speak(
        stream,
        Connection::new(peer.clone(), address),
        state,
        routes,
    )
    .await;
    state.connections.fetch_sub(1, Ordering::Relaxed);
    match ended {
        Ok(()) => tracing::debug!(%address, identity = %peer, "disconnected"),
        Err(error) => {
            tracing::debug!(%address, identity = %peer, error = %chain(&*error), "disconnected");
        }
    }
    Ok(())
}

/// TLS, both sides' certificates verified.
async fn handshake(
    stream: TcpStream,
    state: &State,
) -> Result<(TlsStream<TcpStream>, Peer), String> {
    // Without it is only slower, and a dead connection is noticed late.
    crate::io::prepare(&stream, wire::ACKNOWLEDGED_WITHIN).ok();
    let local = stream.local_addr().map_err(|error| error.to_string())?;
    let local = plain(local);
    let config = state.tls.config_for(local.ip());
    tls::accept(config, stream)
        .await
        .map_err(|error| chain(&error))
}

/// HTTP/2, until the peer leaves, the connection is idle for too long, or the server drains.
async fn speak(
    stream: TlsStream<TcpStream>,
    connection: Connection,
    state: &Arc<State>,
    routes: Routes,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let read = Arc::new(AtomicU64::new(0));
    let stream = Watched::new(stream, Count(Arc::clone(&read)));
    let connection = Arc::new(connection);
    let _closed = connection.closed.clone().drop_guard();
    let shared = Arc::clone(&connection);
    let serving = Arc::clone(state);
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        answer(
            request,
            Arc::clone(&shared),
            Arc::clone(&serving),
            routes.clone(),
        )
    });
    // Controls must find room beside the calls.
    let streams = u32::try_from(state.limits.calls_per_connection)
        .unwrap_or(u32::MAX)
        .saturating_add(32);
    let serving = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(wire::STREAM_WINDOW)
        .initial_connection_window_size(wire::connection_window(streams))
        .max_frame_size(wire::FRAME_BYTES)
        .max_send_buf_size(wire::SEND_BUFFER)
        .max_concurrent_streams(streams)
        .max_header_list_size(16 << 10)
        .keep_alive_interval(wire::PING_INTERVAL)
        .keep_alive_timeout(wire::PING_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let mut next_check = state.limits.handshake;
    let mut leaving = Leaving::default();
    loop {
        tokio::select! {
            ended = &mut serving => return ended.map_err(Into::into),
            () = tokio::time::sleep(next_check) => {
                if read.load(Ordering::Relaxed) < PREFACE_BYTES {
                    return Err("no HTTP/2 within the handshake's time".into());
                }
                let idle = connection.idle();
                if leaving.told && idle >= state.limits.handshake {
                    return Err("streams without a call were left open".into());
                }
                if idle >= state.limits.idle {
                    leaving.told = true;
                    serving.as_mut().graceful_shutdown();
                }
                let pause = if leaving.told { state.limits.handshake } else { state.limits.idle };
                next_check = (pause / 4).max(Duration::from_millis(100));
            }
            () = state.draining.cancelled(), if leaving.at.is_none() => {
                leaving.at = Some(connection.may_leave_at());
            }
            () = tokio::time::sleep_until(leaving.at.unwrap_or_else(Instant::now).into()),
                if leaving.at.is_some() && !leaving.told =>
            {
                leaving.told = true;
                next_check = Duration::from_millis(100);
                serving.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Answers one request: a call, or what tonic serves.
async fn answer(
    mut request: hyper::Request<hyper::body::Incoming>,
    connection: Arc<Connection>,
    state: Arc<State>,
    routes: Routes,
) -> Result<hyper::Response<framing::Body>, Infallible> {
    if request.uri().path() == framing::CALL_PATH {
        return Ok(service::call(&state, connection, request).await);
    }
    request.extensions_mut().insert(connection);
    let response = routes.oneshot(request.map(Whole)).await?;
    Ok(response.map(framing::Body::Service))
}

/// How far a connection's farewell has come.
#[derive(Default)]
struct Leaving {
    /// When the peer is told to open no more calls.
    at: Option<Instant>,
    told: bool,
}

/// A request's body of which an end is the end: a stream that was reset is an error, which tonic
/// would take for an end otherwise.
struct Whole(hyper::body::Incoming);

/// A request's stream was reset, or its connection is lost.
#[derive(Debug, thiserror::Error)]
#[error("the caller has gone")]
struct CallerGone;

impl http_body::Body for Whole {
    type Data = Bytes;
    type Error = CallerGone;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, CallerGone>>> {
        let frame = ready!(Pin::new(&mut self.0).poll_frame(context));
        Poll::Ready(match frame {
            None if !self.0.is_end_stream() => Some(Err(CallerGone)),
            None => None,
            Some(frame) => Some(frame.map_err(|_| CallerGone)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.0.size_hint()
    }
}
