//! Listening on a Unix socket, in a holder that has the user's rights. The call that fetches a
//! connection runs in a holder of its own, which gets it passed through an abstract socket that is
//! for processes of the same user only.

use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener as StdListener, UnixStream as StdStream};
use std::path::Path;

use legatus_core::{Channel, ChannelSender, Fault, Outcome, SocketName};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::Instant;

use super::listen::{
    FETCH_WITHIN, PAUSE, WAITING, announced, cannot_listen, listening, random_ticket, refuse, tell,
};
use super::messages::Ticket;
use super::sockets::Unix;

/// Bytes of a ticket: which listener, and which connection.
const NAME_BYTES: usize = 16;
const TICKET_BYTES: usize = 2 * NAME_BYTES;

/// Listens with the user's rights until the caller ends it.
pub(super) async fn listen(path: &Path, channel: Channel) -> Result<Outcome, Fault> {
    let (sink, mut source) = channel.split();
    let name = SocketName::Unix(path.to_owned());
    let listener = match Unix::bind(path) {
        Ok(listener) => listener,
        Err(error) => return refuse(&sink, cannot_listen(&name, &error), &error).await,
    };
    let counter = Counter::open()?;
    tell(&sink, listening(&[name])).await?;
    tokio::select! {
        result = announce(&listener, counter, &sink) => result,
        () = async { while source.receive().await.is_some() {} } => Ok(Outcome::SUCCESS),
        () = sink.closed() => Ok(Outcome::Cancelled),
    }
}

async fn announce(
    listener: &Unix,
    mut counter: Counter,
    sink: &ChannelSender,
) -> Result<Outcome, Fault> {
    loop {
        tokio::select! {
            accepted = listener.accept_stream() => match accepted {
                Ok((stream, peer)) => {
                    if let Some(ticket) = counter.keep(stream)? {
                        let ticket = Ticket { ticket: ticket.into(), unix: true };
                        tell(sink, announced(ticket, peer)).await?;
                    } else {
                        tracing::warn!(peer, "too many connections wait to be fetched");
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            fetching = counter.listener.accept() => {
                let handed = match fetching {
                    Ok((stream, _)) => counter.hand_out(stream).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = handed {
                    tracing::warn!(%error, "a connection was not handed out");
                }
            }
        }
    }
}

/// Where connections are handed out.
struct Counter {
    name: Vec<u8>,
    listener: UnixListener,
    waiting: HashMap<Vec<u8>, (Instant, UnixStream)>,
}

impl Counter {
    fn open() -> Result<Self, Fault> {
        let name = random_ticket()?;
        let listener = abstract_listener(&name)
            .map_err(|error| Fault::new(format!("cannot hand connections out: {error}")))?;
        Ok(Self {
            name,
            listener,
            waiting: HashMap::new(),
        })
    }

    /// Keeps a connection; `None` if too many wait already.
    fn keep(&mut self, stream: UnixStream) -> Result<Option<Vec<u8>>, Fault> {
        let now = Instant::now();
        self.waiting.retain(|_, (until, _)| *until > now);
        if self.waiting.len() >= WAITING {
            return Ok(None);
        }
        let own = random_ticket()?;
        let ticket = [self.name.as_slice(), &own].concat();
        self.waiting.insert(own, (now + FETCH_WITHIN, stream));
        Ok(Some(ticket))
    }

    /// Gives a process of the same user the connection whose ticket it has.
    async fn hand_out(&mut self, mut to: UnixStream) -> io::Result<()> {
        if to.peer_cred()?.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut ticket = vec![0; NAME_BYTES];
        let reading = tokio::time::timeout(FETCH_WITHIN, to.read_exact(&mut ticket));
        reading.await.map_err(|_| io::ErrorKind::TimedOut)??;
        let Some((_, stream)) = self.waiting.remove(&ticket) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        to.writable().await?;
        to.try_io(Interest::WRITABLE, || send_descriptor(&to, &stream))
    }
}

fn abstract_listener(name: &[u8]) -> io::Result<UnixListener> {
    let listener = StdListener::bind_addr(&address(name)?)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

fn address(name: &[u8]) -> io::Result<SocketAddr> {
    let hex: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
    SocketAddr::from_abstract_name(format!("legatus-forward-{hex}"))
}

/// Fetches an accepted connection from the holder that listens.
pub(super) async fn take(ticket: &[u8]) -> io::Result<UnixStream> {
    let (name, own) = ticket
        .split_at_checked(NAME_BYTES)
        .filter(|_| ticket.len() == TICKET_BYTES)
        .ok_or(io::ErrorKind::NotFound)?;
    let from = StdStream::connect_addr(&address(name)?)?;
    from.set_nonblocking(true)?;
    let mut from = UnixStream::from_std(from)?;
    if from.peer_cred()?.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    tokio::io::AsyncWriteExt::write_all(&mut from, own).await?;
    loop {
        from.readable().await?;
        match from.try_io(Interest::READABLE, || receive_descriptor(&from)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            received => {
                let stream = StdStream::from(received?);
                stream.set_nonblocking(true)?;
                return UnixStream::from_std(stream);
            }
        }
    }
}

fn send_descriptor(to: &UnixStream, descriptor: &UnixStream) -> io::Result<()> {
    let descriptors = [descriptor.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    let byte = [IoSlice::new(b"c")];
    rustix::net::sendmsg(to, &byte, &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive_descriptor(from: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut buffers = [IoSliceMut::new(&mut byte)];
    rustix::net::recvmsg(from, &mut buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let descriptor = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    descriptor.ok_or_else(|| io::ErrorKind::NotFound.into())
}
