//! HTTP/2 as tonic wants it, over a connection that is open already.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;

/// Sends requests over one connection.
#[derive(Clone, Debug)]
pub(super) struct Http2 {
    send: SendRequest<Body>,
}

impl Http2 {
    pub(super) fn new(send: SendRequest<Body>) -> Self {
        Self { send }
    }
}

impl tower::Service<http::Request<Body>> for Http2 {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.send.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.send.send_request(request))
    }
}

/// How a connection ended.
#[derive(Clone, Debug)]
pub(super) struct ConnectionEnd {
    ended: CancellationToken,
    error: Arc<Mutex<Option<Arc<dyn Error + Send + Sync>>>>,
}

impl ConnectionEnd {
    /// Drives a connection in a task of its own and notes how it ends.
    pub(super) fn watch<E>(connection: impl Future<Output = Result<(), E>> + Send + 'static) -> Self
    where
        E: Error + Send + Sync + 'static,
    {
        let end = Self {
            ended: CancellationToken::new(),
            error: Arc::default(),
        };
        let watched = end.clone();
        tokio::spawn(async move {
            let _ended = watched.ended.drop_guard();
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
                *watched.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(error));
            }
        });
        end
    }

    /// Waits for the end; the error, if it was not an orderly one.
    pub(super) async fn wait(&self) -> Option<Arc<dyn Error + Send + Sync>> {
        self.ended.cancelled().await;
        self.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
