//! The host `local`: a server inside the client, with fresh identities and real mutual TLS.

use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use legatus_core::{Policy, Registry};
use legatus_net::pki::Authority;
use legatus_net::tls::{ClientTls, PairSource, PemSource, RootSource, ServerTls};
use legatus_net::{Audit, Endpoint, Server, ServerHandle, ServerLimits, ServerOptions};

/// A server on a loopback port; it drains and is waited for when dropped.
pub(crate) struct Embedded {
    pub(crate) endpoint: Endpoint,
    pub(crate) tls: Arc<ClientTls>,
    handle: ServerHandle,
    thread: Option<JoinHandle<()>>,
}

/// The name in the embedded server's certificate, which nobody else has.
const NAME: &str = "localhost";

impl Embedded {
    /// Starts the server in a thread of its own. It runs calls with the caller's own rights, and
    /// only whoever has the certificate made here can call it.
    pub(crate) fn start(registry: &Registry) -> Result<Self> {
        let authority = Authority::generate()?;
        let server = authority.issue_server(&[NAME])?;
        let client = authority.issue_client("local")?;
        let trusted = PemSource::memory(authority.certificate_pem());
        let server_tls = ServerTls::new(vec![PairSource::from(&server)], trusted.clone())?;
        let client_tls =
            ClientTls::new(Some(PairSource::from(&client)), RootSource::Bundle(trusted))?;
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))
            .context("cannot listen on the loopback address")?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let server = Server::new(ServerOptions {
            registry: legatus_host::isolate_all(registry, super::launcher())?,
            policy: Policy::allow_all("local"),
            audit: Audit::none(),
            tls: Arc::new(server_tls),
            limits: ServerLimits::default(),
            restart: None,
            sessions: None,
        });
        let handle = server.handle();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let serving = move || {
            runtime.block_on(async {
                match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => server.run(vec![listener]).await,
                    Err(error) => tracing::error!(%error, "the embedded server has no socket"),
                }
            });
        };
        let thread = std::thread::Builder::new()
            .name("embedded server".to_owned())
            .spawn(serving)?;
        Ok(Self {
            endpoint: Endpoint {
                host: "127.0.0.1".to_owned(),
                port,
                server_name: NAME.to_owned(),
            },
            tls: Arc::new(client_tls),
            handle,
            thread: Some(thread),
        })
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.handle.drain();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the embedded server panicked");
        }
    }
}
