//! Sockets of this machine: listening and connecting, the same at both sides.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use legatus_core::{BoxFuture, Connection, Listener, SocketName};
use rustix::fs::Mode;
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// How long one address gets to answer, if others are left to try.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects to a socket; of a name with several addresses, to the first that answers.
///
/// # Errors
/// Those of looking the name up and of `connect(2)`.
pub async fn connect(to: &SocketName) -> io::Result<Box<dyn Connection>> {
    match to {
        SocketName::Tcp { host, port } => Ok(Box::new(connect_tcp(host, *port).await?)),
        SocketName::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
    }
}

async fn connect_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses: Vec<_> = tokio::net::lookup_host((host, port)).await?.collect();
    let count = addresses.len();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for (place, address) in addresses.into_iter().enumerate() {
        let connecting = TcpStream::connect(address);
        let connected = if place + 1 < count {
            let timed_out = |_| Err(io::ErrorKind::TimedOut.into());
            tokio::time::timeout(ADDRESS_TIMEOUT, connecting)
                .await
                .unwrap_or_else(timed_out)
        } else {
            connecting.await
        };
        match connected {
            Ok(stream) => {
                prepare(&stream);
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Bytes that wait in either direction of a connection within this machine. Nothing is on its way there
/// that a larger buffer could hold; the kernel would let several megabytes gather, which leave the
/// caches before they are read (a sixth of the processor time of a forwarded stream, `bench/forward`).
const WITHIN_MACHINE_BYTES: usize = 256 << 10;

/// Sets what only makes a connection faster.
fn prepare(stream: &TcpStream) {
    stream.set_nodelay(true).ok();
    let within_machine = stream
        .peer_addr()
        .is_ok_and(|peer| peer.ip().to_canonical().is_loopback());
    if within_machine {
        sockopt::set_socket_send_buffer_size(stream, WITHIN_MACHINE_BYTES).ok();
        sockopt::set_socket_recv_buffer_size(stream, 2 * WITHIN_MACHINE_BYTES).ok();
    }
}

/// Listens on a socket: on all addresses of a name.
///
/// # Errors
/// Those of looking the name up and of `bind(2)`.
pub async fn listen(at: &SocketName) -> io::Result<Box<dyn Listener>> {
    match at {
        SocketName::Tcp { host, port } => Ok(Box::new(Tcp::bind(host, *port).await?)),
        SocketName::Unix(path) => Ok(Box::new(Unix::bind(path)?)),
    }
}

/// TCP sockets of one port.
struct Tcp {
    listeners: Vec<TcpListener>,
    /// Which one is asked first, so that none is neglected.
    next: usize,
}

impl Tcp {
    async fn bind(host: &str, port: u16) -> io::Result<Self> {
        let addresses: Vec<SocketAddr> = match host {
            "localhost" => vec![
                (Ipv4Addr::LOCALHOST, port).into(),
                (Ipv6Addr::LOCALHOST, port).into(),
            ],
            // Linux: the v6 address takes v4 as well.
            "*" => vec![(Ipv6Addr::UNSPECIFIED, port).into()],
            _ => tokio::net::lookup_host((host, port)).await?.collect(),
        };
        let mut listeners: Vec<TcpListener> = Vec::new();
        let mut failure = None;
        for mut address in addresses {
            // A free port is chosen by the first address, the others follow.
            if let Some(first) = listeners.first() {
                address.set_port(first.local_addr()?.port());
            }
            match TcpListener::bind(address).await {
                Ok(listener) => listeners.push(listener),
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            // Machines without IPv6 have one of the two loopback addresses only.
            Some(error) if listeners.is_empty() && host == "*" && is_missing(&error) => {
                listeners.push(TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?);
            }
            Some(error) if listeners.is_empty() || !is_missing(&error) => return Err(error),
            _ => {}
        }
        Ok(Self { listeners, next: 0 })
    }
}

/// Whether an address does not exist on this machine.
fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT)
    )
}

impl Listener for Tcp {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Connection>, String)>> {
        Box::pin(async move {
            let accepted = std::future::poll_fn(|context| {
                let count = self.listeners.len();
                let (before, from) = self.listeners.split_at(self.next.min(count));
                for (place, listener) in from.iter().chain(before).enumerate() {
                    if let std::task::Poll::Ready(accepted) = listener.poll_accept(context) {
                        self.next = (self.next + place + 1) % count;
                        return std::task::Poll::Ready(accepted);
                    }
                }
                std::task::Poll::Pending
            });
            let (stream, address) = accepted.await?;
            prepare(&stream);
            let peer = SocketAddr::new(address.ip().to_canonical(), address.port());
            Ok((Box::new(stream) as Box<dyn Connection>, peer.to_string()))
        })
    }

    fn names(&self) -> Vec<SocketName> {
        let addresses = self
            .listeners
            .iter()
            .filter_map(|one| one.local_addr().ok());
        let name = |address: SocketAddr| SocketName::Tcp {
            host: address.ip().to_string(),
            port: address.port(),
        };
        addresses.map(name).collect()
    }
}

/// A Unix socket, for its owner only; removed when dropped.
pub(super) struct Unix {
    listener: UnixListener,
    path: PathBuf,
    /// The file that is ours, by device and number.
    file: (u64, u64),
}

impl Unix {
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        // As sshd's StreamLocalBindMask: nobody else may connect, not even for a moment.
        let mask = rustix::process::umask(Mode::from_raw_mode(0o177));
        let bound = UnixListener::bind(path);
        rustix::process::umask(mask);
        let listener = bound?;
        let made = std::fs::symlink_metadata(path)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            file: (made.dev(), made.ino()),
        })
    }

    pub(super) async fn accept_stream(&self) -> io::Result<(UnixStream, String)> {
        let (stream, _) = self.listener.accept().await?;
        let peer = match stream.peer_cred() {
            Ok(credentials) => format!("user {}", credentials.uid()),
            Err(_) => "somebody".to_owned(),
        };
        Ok((stream, peer))
    }
}

impl Drop for Unix {
    fn drop(&mut self) {
        let is_ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == self.file);
        if is_ours {
            std::fs::remove_file(&self.path).ok();
        }
    }
}

impl Listener for Unix {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Connection>, String)>> {
        Box::pin(async move {
            let (stream, peer) = self.accept_stream().await?;
            Ok((Box::new(stream) as Box<dyn Connection>, peer))
        })
    }

    fn names(&self) -> Vec<SocketName> {
        vec![SocketName::Unix(self.path.clone())]
    }
}
