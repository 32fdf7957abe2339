//! How a client comes back to its server.

use std::fmt;
use std::sync::Arc;

use legatus_core::{BoxFuture, Fault};

use super::{Client, ClientOptions, Endpoint};

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
