//! A running server's signals: SIGTERM and SIGINT drain, SIGHUP reloads.

use std::net::TcpListener;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use legatus_net::tls::ServerTls;
use legatus_net::{Server, ServerHandle};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::options::Settings;

/// Runs a server until it has drained.
pub(super) async fn run(
    server: Server,
    listeners: Vec<TcpListener>,
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
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let running = server.run(listeners);
    tokio::pin!(running);
    loop {
        tokio::select! {
            () = &mut running => break,
            _ = terminate.recv() => drain(&handle),
            _ = interrupt.recv() => drain(&handle),
            _ = hang_up.recv() => reload(&handle, &tls, settings),
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
    match super::load_policy(settings) {
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
