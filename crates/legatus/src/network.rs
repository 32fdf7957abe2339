//! Reaches hosts over the network, and the host `local` without one.

use std::sync::{Arc, Mutex, PoisonError};

use legatus_core::wire::{DescribeReply, ListSessionsReply};
use legatus_core::{BoxFuture, Caller, Connection, Fault, Outcome, Registry, SocketName};
use legatus_modules::forward;
use legatus_net::tls::{ClientTls, PairSource, PemSource, RootSource, TlsError};
use legatus_net::{Client, ClientOptions, Endpoint as Address};

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
    fn client<'b>(
        &'b self,
        host: &'b ResolvedHost,
    ) -> BoxFuture<'b, Result<Client, ConnectFailure>> {
        Box::pin(async move {
            let (address, tls) = self.way_to(host).map_err(ConnectFailure::Unavailable)?;
            let options = ClientOptions {
                tls,
                connect_timeout: host.connect_timeout,
            };
            let connected = match &host.via {
                None => Client::connect(&address, &options).await,
                Some(jump) => {
                    let stream = self.through(jump, &address).await?;
                    Client::connect_over(stream, &address, &options).await
                }
            };
            let client = connected.map_err(|error| ConnectFailure::Unavailable(error.into()))?;
            Ok(match host.endpoint {
                Endpoint::Embedded => client.without_kept_calls(),
                Endpoint::Remote(_) => client,
            })
        })
    }

    /// A stream to an address that another host reaches. That host sees only what TLS leaves to
    /// be seen.
    async fn through(
        &self,
        jump: &ResolvedHost,
        to: &Address,
    ) -> Result<impl Connection + use<>, ConnectFailure> {
        let caller = self.client(jump).await?.module(forward::NAME);
        let to = SocketName::Tcp {
            host: to.host.clone(),
            port: to.port,
        };
        forward::dial(&caller, to).await.map_err(|outcome| {
            let told = outcome.fault().map_or("the call ended", Fault::message);
            let fault = Fault::new(format!("through {}: {told}", jump.name));
            match outcome {
                Outcome::Denied(_) => ConnectFailure::Denied(fault),
                _ => ConnectFailure::Unavailable(fault),
            }
        })
    }

    fn way_to(&self, host: &ResolvedHost) -> Result<(Address, Arc<ClientTls>), Fault> {
        match &host.endpoint {
            Endpoint::Embedded if host.via.is_some() => {
                Err(Fault::new("`local` is reached through no other host"))
            }
            Endpoint::Embedded => self.embedded(),
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
                Ok((address, Arc::new(tls)))
            }
        }
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
