//! One connection, from TCP over TLS to HTTP/2.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use legatus_core::Peer;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tonic::service::Routes;
use tower::ServiceExt as _;

use super::{State, plain};
use crate::chain;
use crate::http2 as wire;
use crate::io::{Watched, Watcher};
use crate::read_ahead::ReadAhead;
use crate::tls;

/// What the calls of one connection share.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) peer: Peer,
    pub(super) address: String,
    pub(super) calls: AtomicUsize,
    last_used: AtomicU64,
    opened: Instant,
}

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
    fn new(peer: Peer, address: SocketAddr) -> Self {
        Self {
            peer,
            address: address.to_string(),
            calls: AtomicUsize::new(0),
            last_used: AtomicU64::new(0),
            opened: Instant::now(),
        }
    }

    /// Notes that a call has begun or ended.
    pub(super) fn touch(&self) {
        let seconds = self.opened.elapsed().as_secs();
        self.last_used.store(seconds, Ordering::Relaxed);
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
    let handshaking = state
        .usages
        .handshakes
        .take("")
        .map_err(|limit| limit.to_string())?;
    let (stream, peer) = tokio::select! {
        done = tokio::time::timeout(state.limits.handshake, handshake(stream, state)) => {
            done.map_err(|_| format!("no TLS handshake within {:?}", state.limits.handshake))??
        }
        () = state.draining.cancelled() => return Ok(()),
    };
    drop(handshaking);
    let usages = &state.usages;
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
) -> Result<(TlsStream<ReadAhead<TcpStream>>, Peer), String> {
    let prepared = stream.set_nodelay(true).and_then(|()| stream.local_addr());
    let local = plain(prepared.map_err(|error| error.to_string())?);
    let config = state.tls.config_for(local.ip());
    tls::accept(config, ReadAhead::new(stream))
        .await
        .map_err(|error| chain(&error))
}

/// HTTP/2, until the peer leaves, the connection is idle for too long, or the server drains.
async fn speak(
    stream: TlsStream<ReadAhead<TcpStream>>,
    connection: Connection,
    state: &Arc<State>,
    routes: Routes,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let read = Arc::new(AtomicU64::new(0));
    let stream = Watched::new(stream, Count(Arc::clone(&read)));
    let connection = Arc::new(connection);
    let shared = Arc::clone(&connection);
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(Arc::clone(&shared));
        routes.clone().oneshot(request)
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
    let mut draining = false;
    loop {
        tokio::select! {
            ended = &mut serving => return ended.map_err(Into::into),
            () = tokio::time::sleep(next_check) => {
                if read.load(Ordering::Relaxed) < PREFACE_BYTES {
                    return Err("no HTTP/2 within the handshake's time".into());
                }
                if connection.idle() >= state.limits.idle {
                    serving.as_mut().graceful_shutdown();
                }
                next_check = (state.limits.idle / 4).max(Duration::from_secs(1));
            }
            () = state.draining.cancelled(), if !draining => {
                draining = true;
                serving.as_mut().graceful_shutdown();
            }
        }
    }
}
