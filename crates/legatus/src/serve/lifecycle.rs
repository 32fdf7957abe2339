//! A running server's signals: SIGTERM and SIGINT drain, SIGHUP reloads.

use std::net::TcpListener;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use legatus_net::tls::ServerTls;
use legatus_net::{Server, ServerHandle};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::options::Settings;

/// The signals that steer a server.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Takes the signals over, inside a runtime; before anyone is told that the server runs.
    pub(super) fn take() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }
}

/// Runs a server until it has drained.
pub(super) async fn run(
    server: Server,
    listeners: Vec<TcpListener>,
    mut signals: Signals,
    tls: Arc<ServerTls>,
    settings: &Settings,
) -> Result<()> {
    let listeners = listeners.into_iter().map(|listener| {
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener)
    });
    let listeners = listeners
        .collect::<Result<Vec<_>, _>>()
        .context("cannot use the sockets")?;
    let handle = server.handle();
    let watching = CancellationToken::new();
    let watcher = tokio::spawn(Arc::clone(&tls).watch(watching.clone()));
    let running = server.run(listeners);
    tokio::pin!(running);
    loop {
        tokio::select! {
            () = &mut running => break,
            _ = signals.terminate.recv() => drain(&handle),
            _ = signals.interrupt.recv() => drain(&handle),
            _ = signals.hang_up.recv() => reload(&handle, &tls, settings),
        }
    }
    watching.cancel();
    watcher.await.ok();
    tracing::info!("drained");
    Ok(())
}

fn drain(handle: &ServerHandle) {
    if !handle.is_draining() {
        tracing::info!("draining: no more calls are taken, the running ones are finished");
        sd_notify::notify(&[sd_notify::NotifyState::Stopping]).ok(); // nobody may listen
    }
    handle.drain();
}

/// Certificates, policy and audit anew; what is broken stays as it was.
fn reload(handle: &ServerHandle, tls: &ServerTls, settings: &Settings) {
    match tls.reload() {
        Ok(()) => tracing::info!("certificates reloaded"),
        Err(error) => tracing::error!(%error, "keeping the old certificates"),
    }
    match super::load_policy(settings, &handle.modules()) {
        Ok(policy) => {
            handle.set_policy(policy);
            tracing::info!("policy reloaded");
        }
        Err(error) => tracing::error!(error = format!("{error:#}"), "keeping the old policy"),
    }
    if let Err(error) = handle.reopen_audit() {
        tracing::error!(%error, "keeping the old audit file");
    }
}
