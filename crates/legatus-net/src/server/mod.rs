//! The server: accepts connections, and takes each call from its arrival to its outcome.
//!
//! `connection` brings a connection from TCP to HTTP/2, `service` speaks gRPC, and `pipeline` is
//! what happens to a call, in one readable function.

mod beginning;
mod connection;
mod keeping;
mod limits;
mod pipeline;
mod receiving;
mod replies;
mod running;
mod service;
mod sessions;
mod threads;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use legatus_core::{BoxFuture, Fault, Policy, Registry, ServerControl, ServerFacts, Sessions};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;

pub use self::limits::ServerLimits;
use self::limits::Usages;
use self::running::RunningCalls;
use self::sessions::Unattended;
use self::threads::Threads;
use crate::audit::Audit;
use crate::tls::ServerTls;

/// Starts a process that takes over the listening sockets, and returns its id.
pub type Restart = Arc<dyn Fn() -> BoxFuture<'static, Result<u32, Fault>> + Send + Sync>;

/// What a server is made of.
#[expect(
    missing_debug_implementations,
    reason = "holds closures; nobody prints it"
)]
pub struct ServerOptions {
    /// The modules that can be called.
    pub registry: Registry,
    /// Who may call what.
    pub policy: Policy,
    /// Where calls are noted.
    pub audit: Audit,
    /// Certificates and keys.
    pub tls: Arc<ServerTls>,
    /// How much the server takes on.
    pub limits: ServerLimits,
    /// How the server is replaced by a new process; `None` where it cannot be.
    pub restart: Option<Restart>,
    /// The calls that outlive their connections; `None` where none do.
    pub sessions: Option<Arc<dyn Sessions>>,
}

/// A server. It runs until it has drained.
#[expect(
    missing_debug_implementations,
    reason = "holds closures; nobody prints it"
)]
pub struct Server {
    state: Arc<State>,
    threads: Threads,
}

/// Steers a running server.
#[derive(Clone)]
#[expect(
    missing_debug_implementations,
    reason = "holds closures; nobody prints it"
)]
pub struct ServerHandle {
    state: Arc<State>,
}

/// What all connections of a server share.
pub(crate) struct State {
    this: Weak<Self>,
    registry: ArcSwap<Registry>,
    policy: ArcSwap<Policy>,
    audit: Audit,
    tls: Arc<ServerTls>,
    limits: ServerLimits,
    restart: Option<Restart>,
    sessions: Option<Arc<dyn Sessions>>,
    unattended: Unattended,
    usages: Usages,
    running: Arc<RunningCalls>,
    /// The tasks of all calls: the server leaves only when each has noted its end.
    calls: TaskTracker,
    /// Held while a new process is started to replace this one.
    restarting: Mutex<()>,
    connections: AtomicU64,
    started: (Instant, SystemTime),
    /// Fires when no more calls are taken.
    draining: CancellationToken,
    /// Fires when draining has taken too long: running calls are cancelled.
    stopping: CancellationToken,
}

impl Server {
    /// A server made of these parts.
    pub fn new(options: ServerOptions) -> Self {
        let state = |this: &Weak<State>| State {
            this: Weak::clone(this),
            registry: ArcSwap::from_pointee(options.registry),
            policy: ArcSwap::from_pointee(options.policy),
            audit: options.audit,
            tls: options.tls,
            usages: Usages::new(&options.limits),
            limits: options.limits,
            restart: options.restart,
            sessions: options.sessions,
            unattended: Unattended::default(),
            running: Arc::default(),
            calls: TaskTracker::new(),
            restarting: Mutex::default(),
            connections: AtomicU64::new(0),
            started: (Instant::now(), SystemTime::now()),
            draining: CancellationToken::new(),
            stopping: CancellationToken::new(),
        };
        Self {
            state: Arc::new_cyclic(state),
            threads: Threads::default(),
        }
    }

    /// The same with so many threads of its own for connections, each of which stays in one of
    /// them. Without, connections run where [`Server::run`] does.
    ///
    /// # Errors
    /// When the system has no more threads or descriptors.
    pub fn with_threads(mut self, count: usize) -> std::io::Result<Self> {
        self.threads = Threads::start(count)?;
        Ok(self)
    }

    /// What steers the server while it runs.
    pub fn handle(&self) -> ServerHandle {
        ServerHandle {
            state: Arc::clone(&self.state),
        }
    }

    /// Accepts connections until the server is told to drain, then finishes the running calls, at
    /// most for [`ServerLimits::drain`].
    pub async fn run(self, listeners: Vec<TcpListener>) {
        let Self { state, threads } = self;
        let threads = Arc::new(threads);
        let (routes, health) = service::routes(Arc::clone(&state)).await;
        let routes = routes.prepare();
        let mut accepting = JoinSet::new();
        for listener in listeners {
            accepting.spawn(accept(
                listener,
                Arc::clone(&state),
                routes.clone(),
                Arc::clone(&threads),
            ));
        }
        state.calls.spawn(sessions::note_ends(Arc::clone(&state)));
        let mut connections = Vec::new();
        while let Some(accepted) = accepting.join_next().await {
            connections.extend(accepted.ok());
        }
        health.set_not_serving().await;
        let drained = async {
            for mut connections in connections {
                while connections.join_next().await.is_some() {}
            }
            state.calls.close();
            state.calls.wait().await;
        };
        tokio::pin!(drained);
        if tokio::time::timeout(state.limits.drain, &mut drained)
            .await
            .is_err()
        {
            tracing::warn!(
                "calls still run after draining for {:?}; cancelling them",
                state.limits.drain
            );
            state.stopping.cancel();
            tokio::time::timeout(pipeline::GRACE + Duration::from_secs(1), &mut drained)
                .await
                .ok();
        }
    }
}

impl ServerHandle {
    /// Takes no more calls, finishes the running ones, then leaves.
    pub fn drain(&self) {
        self.state.draining.cancel();
    }

    /// Whether the server was told to drain.
    pub fn is_draining(&self) -> bool {
        self.state.draining.is_cancelled()
    }

    /// Puts another policy in force, for calls from now on.
    pub fn set_policy(&self, policy: Policy) {
        self.state.policy.store(Arc::new(policy));
    }

    /// The modules that are called now.
    pub fn modules(&self) -> Arc<Registry> {
        self.state.registry.load_full()
    }

    /// Puts other modules in the place of those that there were, for calls from now on.
    pub fn set_modules(&self, registry: Registry) {
        self.state.registry.store(Arc::new(registry));
    }

    /// Opens the audit again, after it was rotated away.
    ///
    /// # Errors
    /// When it cannot be opened; the old one stays in use.
    pub fn reopen_audit(&self) -> Result<(), crate::AuditError> {
        self.state.audit.reopen()
    }
}

/// Accepts connections until draining begins; returns those that still run.
async fn accept(
    listener: TcpListener,
    state: Arc<State>,
    routes: Routes,
    threads: Arc<Threads>,
) -> JoinSet<()> {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = state.draining.cancelled() => return connections,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                let (state, routes) = (Arc::clone(&state), routes.clone());
                match threads.place() {
                    None => {
                        connections.spawn(connection::serve(stream, address, state, routes));
                    }
                    Some((thread, place)) => {
                        let moved = async move {
                            let _place = place;
                            // The other thread waits for it by a poll of its own.
                            match stream.into_std().and_then(TcpStream::from_std) {
                                Ok(stream) => {
                                    connection::serve(stream, address, state, routes).await;
                                }
                                Err(error) => tracing::error!(%error, "a connection was dropped"),
                            }
                        };
                        connections.spawn_on(moved, thread);
                    }
                }
            }
            Err(error) => {
                // Out of descriptors or memory: a moment later some may be free again.
                tracing::error!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// The address of a peer without the v6 form of v4 addresses.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl ServerControl for State {
    fn facts(&self) -> ServerFacts {
        let registry = self.registry.load();
        let commanders = registry
            .modules()
            .filter(|module| module.commander().is_some());
        ServerFacts {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            modules: commanders
                .map(|module| {
                    let spec = module.spec();
                    (spec.name.to_string(), spec.version.to_string())
                })
                .collect(),
            connections: self.connections.load(Ordering::Relaxed),
            calls: self.running.len() as u64,
            started: Some(self.started.1),
        }
    }

    fn drain(&self) {
        self.draining.cancel();
    }

    fn restart(&self) -> BoxFuture<'_, Result<u32, Fault>> {
        Box::pin(async {
            let (Some(restart), Some(this)) = (self.restart.clone(), self.this.upgrade()) else {
                return Err(Fault::new("this server cannot restart itself"));
            };
            // In a task of its own: once a new process has been started, this one must drain, even
            // when nobody waits for the answer any more.
            let task = tokio::spawn(async move {
                let Ok(_restarting) = this.restarting.try_lock() else {
                    return Err(Fault::new("a restart is under way already"));
                };
                if this.draining.is_cancelled() {
                    return Err(Fault::new("the server is shutting down already"));
                }
                let pid = restart().await?;
                this.draining.cancel();
                Ok(pid)
            });
            task.await
                .unwrap_or_else(|_| Err(Fault::new("the restart failed")))
        })
    }
}
