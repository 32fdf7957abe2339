//! The client: connects to a server, calls its modules.

mod conversation;
mod error;
mod kept;
mod transport;
mod uplink;
mod way;

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use legatus_core::wire::{
    DescribeReply, DescribeRequest, EndSessionRequest, ListSessionsReply, ListSessionsRequest,
};
use legatus_core::{Attach, BoxFuture, Caller, Conversation, Fault, Link, Reconnection, Request};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Mutex, watch};
use tokio_util::task::TaskTracker;

pub use self::error::ConnectError;
use self::transport::{ConnectionEnd, Http2};
pub use self::way::Way;
use self::way::dial;
use crate::framing::LARGEST;
use crate::http2 as wire;
use crate::io::Watched;
use crate::service::legatus_client::LegatusClient;
use crate::tls::{self, ClientTls, TlsError};

/// How long the end of a connection is waited for: what was said last leaves at once, unless the
/// network is stuck.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Where a server is, and the name its certificate must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// A DNS name or an IP address (v6 without brackets).
    pub host: String,
    /// The port.
    pub port: u16,
    /// The DNS name or IP address that the server's certificate must have; usually the host.
    pub server_name: String,
}

/// How to connect.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// The client's certificate and whom it trusts.
    pub tls: Arc<ClientTls>,
    /// How long connecting may take: name look-up, TCP and TLS together.
    pub connect_timeout: Duration,
}

/// A connection to a server. Clones share it; it is closed with the last of them.
///
/// ```no_run
/// # async fn example(tls: std::sync::Arc<legatus_net::tls::ClientTls>) -> Result<(), Box<dyn std::error::Error>> {
/// use legatus_core::{Caller as _, Request};
/// use legatus_net::{Client, ClientOptions, Endpoint};
///
/// let endpoint = Endpoint { host: "web1".into(), port: 49022, server_name: "web1".into() };
/// let options = ClientOptions { tls, connect_timeout: std::time::Duration::from_secs(10) };
/// let client = Client::connect(&endpoint, &options).await?;
/// let mut call = client.module("echo").open(Request::from_arguments(["hello"])).await?;
/// let answer = call.channel.receive().await;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    /// Carries calls.
    http2: Http2,
    /// The rest of the service, over the same connection.
    grpc: LegatusClient<Http2>,
    end: ConnectionEnd,
    endpoint: Endpoint,
    /// How to connect again; `None` over a stream that was given, unless that was told, too.
    way: Option<Way>,
    /// What becomes of the connection of kept calls.
    links: watch::Sender<Option<Link>>,
    /// The tasks of kept calls.
    tasks: TaskTracker,
    /// Calls that were lost with a connection, so that the next can tell the server to end them.
    lost: Arc<std::sync::Mutex<Vec<String>>>,
    /// Whether the server outlives this client, so that it can keep calls.
    keeps_calls: bool,
}

/// Lost calls that are remembered, at most: of clients that never connect again.
const LOST: usize = 64;

/// Calls one module through a [`Client`].
#[derive(Clone, Debug)]
pub struct ModuleCaller {
    /// The connection, which may be replaced by another to the same server.
    current: Arc<std::sync::Mutex<Client>>,
    module: String,
    links: Arc<Mutex<watch::Receiver<Option<Link>>>>,
}

impl Endpoint {
    /// The address of a service there, as HTTP/2 has it.
    fn uri(&self, path: &'static str) -> http::Uri {
        // The authority matters to nobody here; a name that makes no URI is left out of it.
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        let authority = format!("{host}:{}", self.port).parse();
        let uri = http::Uri::builder()
            .scheme(http::uri::Scheme::HTTPS)
            .authority(authority.unwrap_or(http::uri::Authority::from_static("legatus")))
            .path_and_query(path);
        uri.build().unwrap_or_default()
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Client {
    /// Connects over TCP and mutual TLS.
    ///
    /// A server tells that it rejects the client's certificate only after its own part of the
    /// handshake (TLS 1.3), so that this error may come from the first call instead.
    ///
    /// # Errors
    /// See [`ConnectError`]; each says what to do.
    pub async fn connect(
        endpoint: &Endpoint,
        options: &ClientOptions,
    ) -> Result<Self, ConnectError> {
        let connecting = async {
            let stream = dial(endpoint, options.connect_timeout).await?;
            let client = Self::handshake(stream, endpoint, options).await?;
            Ok(Self {
                way: Some(Way::direct(endpoint, options)),
                ..client
            })
        };
        in_time(connecting, endpoint, options).await
    }

    /// Connects by mutual TLS over a stream that leads to the server, such as one through another
    /// host.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect_over<S>(
        stream: S,
        endpoint: &Endpoint,
        options: &ClientOptions,
    ) -> Result<Self, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let connecting = Self::handshake(stream, endpoint, options);
        in_time(connecting, endpoint, options).await
    }

    /// The same connection, with a way to connect again when it is lost.
    #[must_use]
    pub fn with_way_back(mut self, way: Way) -> Self {
        self.way = Some(way);
        self
    }

    async fn handshake<S>(
        stream: S,
        endpoint: &Endpoint,
        options: &ClientOptions,
    ) -> Result<Self, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let failed = |error: TlsError| ConnectError::from_chain(endpoint, &error);
        let name = tls::server_name(&endpoint.server_name).map_err(failed)?;
        let (stream, _) = tls::connect(options.tls.config(), name, stream)
            .await
            .map_err(failed)?;
        Self::over(stream, endpoint).await
    }

    /// Speaks to a server over any reliable stream on which both sides are verified already.
    ///
    /// # Errors
    /// When HTTP/2 cannot begin.
    pub async fn over<S>(stream: S, endpoint: &Endpoint) -> Result<Self, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let end = ConnectionEnd::default();
        let stream = Watched::new(stream, end.clone());
        let (send, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(wire::STREAM_WINDOW)
            .initial_connection_window_size(wire::connection_window(128))
            .max_frame_size(wire::FRAME_BYTES)
            .max_send_buf_size(wire::SEND_BUFFER)
            .keep_alive_interval(wire::CLIENT_PING_INTERVAL)
            .keep_alive_timeout(wire::PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| ConnectError::from_chain(endpoint, &error))?;
        end.watch(connection);
        let http2 = Http2::new(send);
        let grpc = LegatusClient::with_origin(http2.clone(), endpoint.uri("/"))
            .max_decoding_message_size(LARGEST)
            .max_encoding_message_size(LARGEST);
        Ok(Self {
            http2,
            grpc,
            end,
            endpoint: endpoint.clone(),
            way: None,
            links: watch::Sender::new(None),
            tasks: TaskTracker::new(),
            lost: Arc::default(),
            keeps_calls: true,
        })
    }

    /// What the server is and what it offers.
    ///
    /// # Errors
    /// When the connection is lost, or the server rejects it.
    pub async fn describe(&self) -> Result<DescribeReply, ConnectError> {
        match self.grpc.clone().describe(DescribeRequest {}).await {
            Ok(reply) => Ok(reply.into_inner()),
            Err(status) => Err(self.explain(&status).await),
        }
    }

    /// The kept calls that this client may know of.
    ///
    /// # Errors
    /// When the connection is lost, or the server rejects it.
    pub async fn sessions(&self) -> Result<ListSessionsReply, ConnectError> {
        let request = ListSessionsRequest {};
        match self.grpc.clone().list_sessions(request).await {
            Ok(reply) => Ok(reply.into_inner()),
            Err(status) => Err(self.explain(&status).await),
        }
    }

    /// Ends a kept call, or sends a signal (Linux numbering) to what it runs; false if there is
    /// none of that id or name.
    ///
    /// # Errors
    /// When the connection is lost, or the server rejects it.
    pub async fn end_session(
        &self,
        session: &str,
        signal: Option<u8>,
    ) -> Result<bool, ConnectError> {
        let request = EndSessionRequest {
            session: session.to_owned(),
            signal: signal.unwrap_or(0).into(),
        };
        match self.grpc.clone().end_session(request).await {
            Ok(reply) => Ok(reply.into_inner().delivered),
            Err(status) => Err(self.explain(&status).await),
        }
    }

    /// Calls of one module.
    pub fn module(&self, name: &str) -> ModuleCaller {
        ModuleCaller {
            current: Arc::new(std::sync::Mutex::new(self.clone())),
            module: name.to_owned(),
            links: Arc::new(Mutex::new(self.links.subscribe())),
        }
    }

    /// Closes this handle; waits until the connection is closed if it was the last one.
    pub async fn close(self) {
        let Self {
            http2, grpc, end, ..
        } = self;
        drop((http2, grpc));
        tokio::time::timeout(LAST_WORDS, end.wait()).await.ok();
    }

    /// Whether the connection has ended, or takes no more calls since the server goes. Its task learns of
    /// the one about when calls do, of the other when one more is tried.
    async fn is_lost(&self) -> bool {
        tokio::time::timeout(END_IS_KNOWN, self.end.wait())
            .await
            .is_ok()
    }

    /// Another connection, in the place of this one.
    fn succeeded_by(&self, again: Self) -> Self {
        Self {
            way: self.way.clone(),
            keeps_calls: self.keeps_calls,
            // All connections of one client share these.
            links: self.links.clone(),
            tasks: self.tasks.clone(),
            lost: Arc::clone(&self.lost),
            ..again
        }
    }

    /// Remembers a call that was lost with the connection.
    fn lost(&self, id: String) {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        if lost.len() < LOST {
            lost.push(id);
        }
    }

    /// Tells the server to end calls that were lost with another connection: it may take long to
    /// learn that nobody is there any more.
    async fn end_lost_calls(&self) {
        let lock = || self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = lock().clone();
        for id in lost {
            if !kept::goodbye(self, &id).await {
                // This connection is lost, too: the next one tells it.
                return;
            }
            lock().retain(|other| *other != id);
        }
    }

    /// Why a request failed: the connection's own error if it had one, for that is the cause.
    async fn explain(
        &self,
        error: &(dyn std::error::Error + Send + Sync + 'static),
    ) -> ConnectError {
        // The connection's task learns of its end about when the request does.
        let ended = tokio::time::timeout(END_IS_KNOWN, self.end.wait()).await;
        match ended.ok().flatten() {
            Some(reason) => ConnectError::ended(&self.endpoint, reason),
            None => ConnectError::from_chain(&self.endpoint, error),
        }
    }
}

impl ModuleCaller {
    fn lock(&self) -> std::sync::MutexGuard<'_, Client> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection that is used now.
    fn client(&self) -> Client {
        self.lock().clone()
    }
}

impl Caller for ModuleCaller {
    fn open(&self, request: Request) -> BoxFuture<'_, Result<Conversation, Fault>> {
        Box::pin(std::future::ready(conversation::open(
            &self.client(),
            &self.module,
            request,
        )))
    }

    fn attach(&self, attach: Attach) -> BoxFuture<'_, Result<Conversation, Fault>> {
        Box::pin(async {
            let (id, mut open) = conversation::first_message(&self.module, Request::default())?;
            open.attach = Some(attach.into());
            Ok(kept::open(&self.client(), id, open))
        })
    }

    fn keeps_calls(&self) -> bool {
        self.client().keeps_calls
    }

    fn link(&self) -> BoxFuture<'_, Link> {
        Box::pin(async {
            let mut links = self.links.lock().await;
            loop {
                if links.changed().await.is_err() {
                    return std::future::pending().await;
                }
                if let Some(link) = links.borrow_and_update().clone() {
                    return link;
                }
            }
        })
    }

    fn another(&self) -> BoxFuture<'_, Result<Box<dyn Caller>, Fault>> {
        Box::pin(async {
            let current = self.client();
            let Some(way) = &current.way else {
                return Err(Fault::new("there is no way to connect once more"));
            };
            let client = Client {
                way: current.way.clone(),
                keeps_calls: current.keeps_calls,
                // Whichever comes back tells the server of what was lost with any.
                lost: Arc::clone(&current.lost),
                ..way.connect().await?
            };
            Ok(Box::new(client.module(&self.module)) as Box<dyn Caller>)
        })
    }

    fn reconnect(&self) -> BoxFuture<'_, Reconnection> {
        Box::pin(async {
            let client = self.client();
            let again = match (client.is_lost().await, &client.way) {
                (false, _) => return Reconnection::NotLost,
                (true, None) => return Reconnection::Impossible,
                (true, Some(way)) => way.connect().await,
            };
            match again {
                Ok(again) => {
                    let again = client.succeeded_by(again);
                    again.end_lost_calls().await;
                    *self.lock() = again;
                    Reconnection::Done
                }
                Err(fault) => Reconnection::Failed(fault),
            }
        })
    }

    fn finish(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let client = self.client();
            drop(self);
            client.tasks.close();
            // Each has a time-out of its own.
            client.tasks.wait().await;
            client.close().await;
        })
    }
}

/// How long the end of a connection may take to be known after a call has met it.
const END_IS_KNOWN: Duration = Duration::from_millis(500);

/// What connecting comes to within the time that it may take.
async fn in_time(
    connecting: impl Future<Output = Result<Client, ConnectError>>,
    endpoint: &Endpoint,
    options: &ClientOptions,
) -> Result<Client, ConnectError> {
    let timeout = options.connect_timeout;
    match tokio::time::timeout(timeout, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(ConnectError::TimedOut {
            endpoint: endpoint.to_string(),
            seconds: timeout.as_secs_f64(),
        }),
    }
}
