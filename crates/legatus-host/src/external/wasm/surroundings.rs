//! What a guest sees of the machine: nothing, and what was granted.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tracing::Level;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};
use wasmtime_wasi::random::Deterministic;
use wasmtime_wasi::sockets::SocketAddrUse;
use wasmtime_wasi::{FsPerms, HostWallClock, WasiCtxBuilder};

use super::denials::ROOT;
use crate::external::fault::Failure;
use crate::external::granting::withheld;
use crate::external::grants::Grants;
use crate::external::log::{CallLog, Lines};

/// A context that reaches what `grants` name; what the guest writes to standard error is logged.
/// `nothing` is an empty folder, in which it looks in vain for everything else.
pub(super) async fn context(
    grants: &Grants,
    nothing: Option<&Path>,
    environment: &[(String, String)],
    log: &CallLog,
) -> Result<WasiCtxBuilder, Failure> {
    let mut builder = WasiCtxBuilder::new();
    builder.stderr(LogStream(log.clone()));
    let files = grants.read.iter().map(|path| (path, FsPerms::ReadOnly));
    let writable = grants.write.iter().map(|path| (path, FsPerms::ReadWrite));
    for (path, permissions) in files.chain(writable) {
        let guest = path.to_string_lossy();
        if let Some(why) = withheld(path, true) {
            let line = format!("denied: `{}` is not given: {why}", path.display());
            log.line(Level::WARN, &line);
            continue;
        }
        // What does not exist cannot be reached either way.
        if let Err(error) = builder.preopened_dir(path, guest, permissions) {
            log.line(
                Level::WARN,
                &format!("cannot offer `{}`: {error:#}", path.display()),
            );
        }
    }
    if let Some(nothing) = nothing {
        // Without it the guest finds nothing either.
        builder.preopened_dir(nothing, ROOT, FsPerms::ReadOnly).ok();
    }
    for (name, value) in environment {
        if grants.environment.contains(name) {
            builder.env(name, value);
        }
    }
    if !grants.time {
        builder.wall_clock(NoTime);
    }
    if !grants.random {
        builder.secure_random(Deterministic::new(vec![4, 8, 15, 16, 23, 42]));
        builder.insecure_random_seed(0);
    }
    network(&mut builder, grants, log).await?;
    Ok(builder)
}

/// Lets connections go to the granted addresses, and to no other.
async fn network(
    builder: &mut WasiCtxBuilder,
    grants: &Grants,
    log: &CallLog,
) -> Result<(), Failure> {
    let mut allowed: Vec<SocketAddr> = Vec::new();
    let mut ports: Vec<u16> = Vec::new();
    for address in grants.addresses() {
        let Some((host, port)) = address else {
            return Err(Failure::Host(
                "an address in its grants is malformed".to_owned(),
            ));
        };
        if host == "*" {
            ports.push(port);
            continue;
        }
        let resolved = tokio::net::lookup_host((host, port)).await;
        allowed.extend(resolved.into_iter().flatten());
    }
    builder.allow_udp(false);
    // Each address is looked at below, so that what is denied is logged.
    builder.allow_tcp(true);
    builder.allow_ip_name_lookup(!grants.connect.is_empty());
    let log = log.clone();
    builder.socket_addr_check(move |address, usage| {
        let granted = match usage {
            SocketAddrUse::TcpConnect => {
                allowed.contains(&address) || ports.contains(&address.port())
            }
            // Before it connects, a socket may take an address of the system's choice.
            SocketAddrUse::TcpBind => address.ip().is_unspecified() && address.port() == 0,
            _ => false,
        };
        if !granted {
            log.line(
                Level::WARN,
                &format!("denied: `{address}` is not among the module's grants"),
            );
        }
        Box::pin(async move { granted })
    });
    Ok(())
}

/// A clock that stands still, for guests that may not know the time.
struct NoTime;

impl HostWallClock for NoTime {
    fn resolution(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

/// Standard error of a guest.
struct LogStream(CallLog);

/// One handle of it.
struct LogOutput(Lines);

impl IsTerminal for LogStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogStream {
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(LogOutput(Lines::new(self.0.clone(), Level::WARN)))
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for LogOutput {
    async fn ready(&mut self) {}
}

impl OutputStream for LogOutput {
    fn write(&mut self, bytes: bytes::Bytes) -> Result<(), StreamError> {
        self.0.push(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(64 << 10)
    }
}
