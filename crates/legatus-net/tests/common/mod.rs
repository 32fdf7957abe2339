//! A server on a port of its own with a PKI of its own, and modules that behave in every way.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    reason = "each test file uses a part"
)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use legatus_core::{
    BoxFuture, Call, Channel, Commander, Control, Effects, Fault, Inspection, Module, Outcome,
    Placement, Policy, Registry, Request, Spec,
};
use legatus_net::pki::Authority;
use legatus_net::tls::{ClientTls, PairSource, PemSource, RootSource, ServerTls};
use legatus_net::{
    Audit, Client, ClientOptions, ConnectError, Endpoint, Server, ServerHandle, ServerLimits,
    ServerOptions,
};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub struct TestServer {
    pub authority: Authority,
    pub address: SocketAddr,
    pub handle: ServerHandle,
    pub running: JoinHandle<()>,
    pub executed: Arc<AtomicUsize>,
}

pub struct Options {
    pub policy: Policy,
    pub audit: Audit,
    pub limits: ServerLimits,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            policy: Policy::allow_all("test"),
            audit: Audit::none(),
            limits: ServerLimits::default(),
        }
    }
}

impl TestServer {
    pub async fn start(options: Options) -> Self {
        let authority = Authority::generate().unwrap();
        let issued = authority.issue_server(&["localhost", "127.0.0.1"]).unwrap();
        let clients = PemSource::memory(authority.certificate_pem());
        let tls = ServerTls::new(vec![PairSource::from(&issued)], clients).unwrap();
        let executed = Arc::new(AtomicUsize::new(0));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::new(ServerOptions {
            registry: modules(&executed),
            policy: options.policy,
            audit: options.audit,
            tls: Arc::new(tls),
            limits: options.limits,
            restart: None,
            sessions: None,
        });
        let handle = server.handle();
        let running = tokio::spawn(server.run(vec![listener]));
        Self {
            authority,
            address,
            handle,
            running,
            executed,
        }
    }

    pub fn endpoint(&self) -> Endpoint {
        Endpoint {
            host: self.address.ip().to_string(),
            port: self.address.port(),
            server_name: "localhost".to_owned(),
        }
    }

    /// A client's TLS with a fresh certificate for this name.
    pub fn tls(&self, name: &str) -> ClientOptions {
        let issued = self.authority.issue_client(name).unwrap();
        self.tls_with(Some(PairSource::from(&issued)))
    }

    pub fn tls_with(&self, pair: Option<PairSource>) -> ClientOptions {
        let roots = RootSource::Bundle(PemSource::memory(self.authority.certificate_pem()));
        ClientOptions {
            tls: Arc::new(ClientTls::new(pair, roots).unwrap()),
            connect_timeout: Duration::from_secs(20),
        }
    }

    pub async fn connect(&self, name: &str) -> Client {
        self.try_connect(&self.tls(name)).await.unwrap()
    }

    pub async fn try_connect(&self, options: &ClientOptions) -> Result<Client, ConnectError> {
        Client::connect(&self.endpoint(), options).await
    }
}

/// Modules that behave in every way, by name; each counts how often a Commander ran.
fn modules(executed: &Arc<AtomicUsize>) -> Registry {
    let mut registry = Registry::new();
    for (name, behaviour) in [
        ("echo", Behaviour::Echo),
        ("stuck", Behaviour::Stuck),
        ("panics", Behaviour::Panics),
        ("exits", Behaviour::Exits),
        ("controls", Behaviour::Controls),
        ("flood", Behaviour::Flood),
        ("ends", Behaviour::Ends),
        ("lingers", Behaviour::Lingers),
    ] {
        registry
            .add(Behaving::new(name, behaviour, executed))
            .unwrap();
    }
    let mut inside = Behaving::new("inside", Behaviour::Echo, executed);
    inside.spec.placement = Placement::Server;
    registry.add(inside).unwrap();
    let mut half = Behaving::new("half", Behaviour::Echo, executed);
    half.commander = false;
    registry.add(half).unwrap();
    registry
}

#[derive(Clone, Copy)]
enum Behaviour {
    /// Sends back what it gets.
    Echo,
    /// Neither reads nor ends, until cancelled.
    Stuck,
    Panics,
    /// Ends with the status that its first argument names.
    Exits,
    /// Reads no message; tells which signals came, ends after the first.
    Controls,
    /// Sends without end.
    Flood,
    /// Waits for the end of its input and then panics if the call was not cancelled before.
    Ends,
    /// Takes a moment to clean up after it was cancelled.
    Lingers,
}

struct Behaving {
    spec: Spec,
    behaviour: Behaviour,
    commander: bool,
    executed: Arc<AtomicUsize>,
}

impl Behaving {
    fn new(name: &'static str, behaviour: Behaviour, executed: &Arc<AtomicUsize>) -> Self {
        Self {
            spec: Spec {
                name: name.into(),
                version: "1.2.3".into(),
                effects: Effects::EXEC,
                ..Spec::default()
            },
            behaviour,
            commander: true,
            executed: Arc::clone(executed),
        }
    }
}

impl Module for Behaving {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn commander(&self) -> Option<&dyn Commander> {
        self.commander.then_some(self)
    }
}

impl Commander for Behaving {
    fn inspect(&self, request: &Request) -> Result<Inspection, Fault> {
        if request
            .arguments
            .first()
            .is_some_and(|argument| argument == "malformed")
        {
            return Err(Fault::new("a malformed request"));
        }
        Ok(Inspection {
            effects: Effects::EXEC,
            summary: "test".to_owned(),
        })
    }

    fn execute(
        &self,
        mut call: Call,
        mut channel: Channel,
    ) -> BoxFuture<'_, Result<Outcome, Fault>> {
        self.executed.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            match self.behaviour {
                Behaviour::Echo => {
                    while let Some(message) = channel.receive().await {
                        channel.send(message).await.ok();
                    }
                }
                Behaviour::Stuck => call.cancellation.cancelled().await,
                Behaviour::Panics => panic!("as asked"),
                Behaviour::Exits => {
                    let text = call.request.arguments.first().cloned().unwrap_or_default();
                    let status = std::str::from_utf8(&text).unwrap().parse().unwrap();
                    return Ok(Outcome::Exit(status));
                }
                Behaviour::Controls => {
                    if let Some(Control::Signal(signal)) = call.controls.receive().await {
                        return Ok(Outcome::Signal(signal));
                    }
                }
                Behaviour::Ends => {
                    while channel.receive().await.is_some() {}
                    if !call.cancellation.is_cancelled() {
                        self.executed.fetch_add(1000, Ordering::SeqCst);
                    }
                }
                Behaviour::Lingers => {
                    call.cancellation.cancelled().await;
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
                Behaviour::Flood => {
                    let chunk = Bytes::from(vec![7; 256 << 10]);
                    while channel.send(chunk.clone()).await.is_ok() {}
                }
            }
            Ok(Outcome::SUCCESS)
        })
    }
}
