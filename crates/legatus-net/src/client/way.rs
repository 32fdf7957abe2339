//! How a client gets to its server, and back to it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use legatus_core::{BoxFuture, Fault};
use tokio::net::TcpStream;

use super::{Client, ClientOptions, ConnectError, Endpoint};
use crate::http2 as wire;

/// Connects to the same server again, as often as that is asked for.
#[derive(Clone)]
pub struct Way(Arc<dyn Fn() -> BoxFuture<'static, Result<Client, Fault>> + Send + Sync>);

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Way").finish_non_exhaustive()
    }
}

impl Way {
    /// A way that `connect` goes. It has to limit the time that it takes.
    pub fn new<F>(connect: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Client, Fault>> + Send + 'static,
    {
        Self(Arc::new(move || Box::pin(connect())))
    }

    /// Over TCP.
    pub(super) fn direct(endpoint: &Endpoint, options: &ClientOptions) -> Self {
        let (endpoint, options) = (endpoint.clone(), options.clone());
        Self::new(move || {
            let (endpoint, options) = (endpoint.clone(), options.clone());
            async move { Ok(Client::connect(&endpoint, &options).await?) }
        })
    }

    /// A connection to the server.
    pub(super) async fn connect(&self) -> Result<Client, Fault> {
        (self.0)().await
    }
}

/// Connects over TCP to the first address that answers, each getting its share of the time.
pub(super) async fn dial(
    endpoint: &Endpoint,
    timeout: Duration,
) -> Result<TcpStream, ConnectError> {
    let found = tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port)).await;
    let addresses: Vec<SocketAddr> = match found {
        Ok(addresses) => addresses.collect(),
        Err(source) => {
            let host = endpoint.host.clone();
            return Err(ConnectError::UnknownHost { host, source });
        }
    };
    let share = timeout / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in addresses {
        let connecting = tokio::time::timeout(share, TcpStream::connect(address));
        let timed_out = |_| Err(io::Error::from(io::ErrorKind::TimedOut));
        match connecting.await.unwrap_or_else(timed_out) {
            Ok(stream) => {
                // Without it is only slower, and a dead connection is noticed late.
                crate::io::prepare(&stream, wire::CLIENT_ACKNOWLEDGED_WITHIN).ok();
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(ConnectError::dial(endpoint, last, timeout))
}
