//! HTTP/2 as tonic wants it, over a connection that is open already.

use std::error::Error;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use tokio_util::sync::CancellationToken;

use crate::chain;
use crate::framing::Body;
use crate::io::Watcher;
use crate::tls::{TlsProblem, explain};

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

impl Http2 {
    /// Sends a request, and waits for the beginning of the answer.
    pub(super) async fn send(
        &mut self,
        request: http::Request<Body>,
    ) -> hyper::Result<http::Response<Incoming>> {
        self.send.send_request(request).await
    }
}

/// What tonic sends.
impl tower::Service<http::Request<tonic::body::Body>> for Http2 {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.send.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.send.send_request(request.map(Body::Service)))
    }
}

/// How a connection ended.
#[derive(Clone, Debug, Default)]
pub(super) struct ConnectionEnd {
    ended: CancellationToken,
    /// What TLS said at the end, such as that the server rejects the certificate. HTTP/2 passes
    /// only its text on.
    problem: Arc<OnceLock<TlsProblem>>,
    error: Arc<OnceLock<String>>,
}

/// Why a connection ended, as far as anyone said.
#[derive(Debug)]
pub(super) enum Reason {
    Tls(TlsProblem),
    Other(String),
}

impl Watcher for ConnectionEnd {
    fn read(&self, result: Result<usize, &io::Error>) {
        if let Err(error) = result
            && let Some(problem) = explain(error)
        {
            self.problem.set(problem).ok(); // the first one is the cause
        }
    }
}

impl ConnectionEnd {
    /// Drives a connection in a task of its own and notes how it ends.
    pub(super) fn watch<E>(&self, connection: impl Future<Output = Result<(), E>> + Send + 'static)
    where
        E: Error + Send + Sync + 'static,
    {
        let end = self.clone();
        tokio::spawn(async move {
            let _ended = end.ended.drop_guard();
            if let Err(error) = connection.await {
                end.error.set(chain(&error)).ok(); // only this task sets it
            }
        });
    }

    /// Whether this is the end of the same connection.
    pub(super) fn is_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.error, &other.error)
    }

    /// Whether TLS ended it, which it will do again.
    pub(super) fn is_about_tls(&self) -> bool {
        self.problem.get().is_some()
    }

    /// Waits for the end; the reason, if it was not an orderly one.
    pub(super) async fn wait(&self) -> Option<Reason> {
        self.ended.cancelled().await;
        let problem = self.problem.get().cloned().map(Reason::Tls);
        problem.or_else(|| self.error.get().cloned().map(Reason::Other))
    }
}
