//! Reaches hosts over the network, and the host `local` without one.

use std::sync::{Arc, Mutex, PoisonError};

use legatus_core::wire::{DescribeReply, ListSessionsReply};
use legatus_core::{BoxFuture, Caller, Connection, Fault, Outcome, Registry, SocketName};
use legatus_modules::forward;
use legatus_net::tls::{ClientTls, PairSource, PemSource, RootSource, TlsError};
use legatus_net::{Client, ClientOptions, Endpoint as Address, Way};

use crate::config::{Endpoint, IdentityFiles, ResolvedHost};
use crate::connect::{ConnectFailure, Connector};
use crate::serve::Embedded;

/// Connects over TCP and mutual TLS.
pub struct Network<'a> {
    registry: &'a Registry,
    /// The server behind the host `local`. It lives as long as this, so that it can finish what
    /// its calls have started.
    embedded: Mutex<Option<Embedded>>,
}

impl std::fmt::Debug for Network<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network").finish_non_exhaustive()
    }
}

impl<'a> Network<'a> {
    /// Reaches hosts; the host `local` serves these modules.
    pub fn new(registry: &'a Registry) -> Self {
        Self {
            registry,
            embedded: Mutex::default(),
        }
    }

    /// A connection to a host, through others if it has to be.
    async fn client(&self, host: &ResolvedHost) -> Result<Client, ConnectFailure> {
        let hops = self.way_to(host).map_err(ConnectFailure::Unavailable)?;
        let client = connect(&hops).await?;
        if host.endpoint == Endpoint::Embedded {
            return Ok(client.without_kept_calls());
        }
        if hops.len() == 1 {
            return Ok(client);
        }
        let hops: Arc<[Hop]> = hops.into();
        Ok(client.with_way_back(Way::new(move || {
            let hops = Arc::clone(&hops);
            async move { connect(&hops).await.map_err(ConnectFailure::into_fault) }
        })))
    }

    /// The hosts to connect to, one through the other; the last is the one that is meant.
    fn way_to(&self, host: &ResolvedHost) -> Result<Vec<Hop>, Fault> {
        let mut hops = match &host.via {
            Some(_) if host.endpoint == Endpoint::Embedded => {
                return Err(Fault::new("`local` is reached through no other host"));
            }
            Some(jump) => self.way_to(jump)?,
            None => Vec::new(),
        };
        let (address, tls) = match &host.endpoint {
            Endpoint::Embedded => self.embedded()?,
            Endpoint::Remote(remote) => {
                let address = Address {
                    host: remote.address.clone(),
                    port: remote.port,
                    server_name: remote.server_name.clone(),
                };
                let tls = client_tls(&remote.identity).map_err(|error| {
                    let fault = Fault::new(format!("{:#}", anyhow::Error::new(error)));
                    fault.with_hint("`legatus pki show FILE` tells what a file holds")
                })?;
                (address, Arc::new(tls))
            }
        };
        hops.push(Hop {
            name: host.name.clone(),
            address,
            options: ClientOptions {
                tls,
                connect_timeout: host.connect_timeout,
            },
        });
        Ok(hops)
    }

    fn embedded(&self) -> Result<(Address, Arc<ClientTls>), Fault> {
        let mut embedded = self.embedded.lock().unwrap_or_else(PoisonError::into_inner);
        let server = match embedded.take() {
            Some(server) => server,
            None => Embedded::start(self.registry).map_err(|error| {
                Fault::new(format!("cannot start the embedded server: {error:#}"))
            })?,
        };
        let server = embedded.insert(server);
        Ok((server.endpoint.clone(), Arc::clone(&server.tls)))
    }
}

/// A host, and how to connect to it.
struct Hop {
    /// As the user typed it, for messages.
    name: String,
    address: Address,
    options: ClientOptions,
}

/// Connects to the last of some hosts, through those before it.
fn connect(hops: &[Hop]) -> BoxFuture<'_, Result<Client, ConnectFailure>> {
    Box::pin(async move {
        let Some((host, jumps)) = hops.split_last() else {
            let fault = Fault::new("no host is named");
            return Err(ConnectFailure::Unavailable(fault));
        };
        let connected = match jumps.last() {
            None => Client::connect(&host.address, &host.options).await,
            Some(jump) => {
                let stream = through(jump, connect(jumps).await?, &host.address).await?;
                Client::connect_over(stream, &host.address, &host.options).await
            }
        };
        connected.map_err(|error| ConnectFailure::Unavailable(error.into()))
    })
}

/// A stream to an address that another host reaches. That host sees only what TLS leaves to be seen.
async fn through(
    jump: &Hop,
    client: Client,
    to: &Address,
) -> Result<impl Connection + use<>, ConnectFailure> {
    let failed = |told: &str| Fault::new(format!("through {}: {told}", jump.name));
    let caller = client.module(forward::NAME);
    let socket = SocketName::Tcp {
        host: to.host.clone(),
        port: to.port,
    };
    let timeout = jump.options.connect_timeout;
    match tokio::time::timeout(timeout, forward::dial(&caller, socket)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(outcome)) => {
            let fault = failed(outcome.fault().map_or("the call ended", Fault::message));
            Err(match outcome {
                Outcome::Denied(_) => ConnectFailure::Denied(fault),
                _ => ConnectFailure::Unavailable(fault),
            })
        }
        Err(_) => {
            let seconds = timeout.as_secs_f64();
            let fault = failed(&format!("{to} was not reached within {seconds} seconds"));
            Err(ConnectFailure::Unavailable(
                fault.with_hint("--connect-timeout gives it more time"),
            ))
        }
    }
}

impl Connector for Network<'_> {
    fn connect<'a>(
        &'a self,
        host: &'a ResolvedHost,
        module: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn Caller>, ConnectFailure>> {
        Box::pin(async move {
            let client = self.client(host).await?;
            Ok(Box::new(client.module(module)) as Box<dyn Caller>)
        })
    }

    fn connect_for<'a>(
        &'a self,
        host: &'a ResolvedHost,
        modules: &'a [&'a str],
    ) -> BoxFuture<'a, Result<Vec<Box<dyn Caller>>, ConnectFailure>> {
        Box::pin(async move {
            let client = self.client(host).await?;
            let caller = |name: &&str| Box::new(client.module(name)) as Box<dyn Caller>;
            Ok(modules.iter().map(caller).collect())
        })
    }

    fn describe<'a>(
        &'a self,
        host: &'a ResolvedHost,
    ) -> BoxFuture<'a, Result<DescribeReply, ConnectFailure>> {
        Box::pin(async move {
            let client = self.client(host).await?;
            let told = client.describe().await;
            told.map_err(|error| ConnectFailure::Unavailable(error.into()))
        })
    }

    fn sessions<'a>(
        &'a self,
        host: &'a ResolvedHost,
    ) -> BoxFuture<'a, Result<ListSessionsReply, ConnectFailure>> {
        Box::pin(async move {
            let client = self.client(host).await?;
            let told = client.sessions().await;
            told.map_err(|error| ConnectFailure::Unavailable(error.into()))
        })
    }

    fn end_session<'a>(
        &'a self,
        host: &'a ResolvedHost,
        session: &'a str,
        signal: Option<u8>,
    ) -> BoxFuture<'a, Result<bool, ConnectFailure>> {
        Box::pin(async move {
            let client = self.client(host).await?;
            let told = client.end_session(session, signal).await;
            told.map_err(|error| ConnectFailure::Unavailable(error.into()))
        })
    }
}

fn client_tls(files: &IdentityFiles) -> Result<ClientTls, TlsError> {
    let roots = match &files.ca {
        Some(ca) if files.system_roots => RootSource::BundleAndSystem(PemSource::File(ca.clone())),
        Some(ca) => RootSource::Bundle(PemSource::File(ca.clone())),
        None => RootSource::System,
    };
    ClientTls::new(Some(PairSource::files(&files.cert, &files.key)), roots)
}
