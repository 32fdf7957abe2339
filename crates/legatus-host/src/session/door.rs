//! The way in for later clients of a kept call: a socket in the sessions' folder.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use legatus_core::{Control, limits};
use prost::Message;
use rustix::fs::{AtFlags, RenameFlags, renameat_with, unlinkat};
use tokio::net::{UnixListener, UnixStream};

use super::{OPEN_AFTER, Session, attachment};
use crate::descriptors;
use crate::frame::{self, Frame};
use crate::messages::{AttachRequest, Hello, PROTOCOL, Purpose, speaks_with};
use crate::pump::Link;
use crate::slab::{self, End};

/// How long a server may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(5);

/// Opens the door, if the call lasts, and lets in whoever comes, until the call is over.
pub(super) async fn keep_open(session: Arc<Session>) {
    tokio::select! {
        () = tokio::time::sleep(OPEN_AFTER) => {}
        () = session.open.cancelled() => {}
        () = session.over.cancelled() => return,
    }
    let listener = match listen(&session.keep.folder, &session.keep.facts.id) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "a session has no socket: nobody can attach to it later");
            return;
        }
    };
    session.door_is_open.store(true, Ordering::Relaxed);
    loop {
        tokio::select! {
            biased;
            () = session.over.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(tokio::spawn(let_in(Arc::clone(&session), stream))),
                Err(error) => {
                    tracing::warn!(%error, "a session cannot take a connection");
                    tokio::time::sleep(OPEN_AFTER).await;
                }
            },
        }
    }
}

impl Session {
    /// Takes the socket away.
    pub(super) fn close_door(&self) {
        let id = self.keep.facts.id.as_str();
        // It may never have been opened, and another's may be there.
        if self.door_is_open.load(Ordering::Relaxed) {
            unlinkat(&self.keep.folder, id, AtFlags::empty()).ok();
        }
    }
}

/// Listens at a socket in this folder. It has its name when it takes connections and not before: a server
/// that is refused one believes that the holder is dead, and removes the socket.
fn listen(folder: &OwnedFd, id: &str) -> io::Result<UnixListener> {
    // No server takes this for a session's name.
    let new = format!("{id}.new");
    // A path of any length fits so.
    let path = format!("/proc/self/fd/{}/{new}", folder.as_raw_fd());
    let listener = StdUnixListener::bind(path)?;
    let renamed = renameat_with(folder, new.as_str(), folder, id, RenameFlags::NOREPLACE);
    if let Err(error) = renamed {
        unlinkat(folder, new.as_str(), AtFlags::empty()).ok();
        return Err(error.into());
    }
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

async fn let_in(session: Arc<Session>, mut stream: UnixStream) {
    let trusted = stream
        .peer_cred()
        .is_ok_and(|peer| [0, session.keep.server_uid].contains(&peer.uid()));
    if !trusted {
        tracing::warn!("somebody else than a server wanted to attach to a session");
        return;
    }
    match tokio::time::timeout(PATIENCE, descriptors::receive(&mut stream)).await {
        Ok(Ok((Frame::Attach(wanted), descriptors))) => {
            let Ok(wanted) = AttachRequest::decode(wanted) else {
                return;
            };
            if let Err(error) = serve(session, stream, wanted, descriptors).await {
                tracing::debug!(%error, "a server that came to a session has gone");
            }
        }
        Ok(Ok(_)) | Err(_) => tracing::warn!("a server said nothing that makes sense"),
        Ok(Err(error)) => tracing::debug!(%error, "a server has gone before it said anything"),
    }
}

async fn serve(
    session: Arc<Session>,
    mut stream: UnixStream,
    wanted: AttachRequest,
    descriptors: Vec<OwnedFd>,
) -> io::Result<()> {
    if !speaks_with(wanted.protocol) {
        let refusal = format!(
            "the session speaks version {PROTOCOL} and the server {}",
            wanted.protocol
        );
        return answer(&mut stream, &session.hello(Some(refusal))).await;
    }
    match wanted.purpose() {
        Purpose::Look => answer(&mut stream, &session.hello(None)).await,
        Purpose::End => {
            match u8::try_from(wanted.signal) {
                Ok(0) | Err(_) => session.end(),
                Ok(signal) => drop(session.controls.send(Control::Signal(signal))),
            }
            answer(&mut stream, &session.hello(None)).await
        }
        Purpose::Watch => {
            let mut changes = session.changes.subscribe();
            while session.clients().log.outcome().is_none() {
                changes.changed().await.map_err(io::Error::other)?;
            }
            answer(&mut stream, &session.hello(None)).await
        }
        Purpose::Attach => attach(session, stream, wanted, descriptors).await,
    }
}

async fn attach(
    session: Arc<Session>,
    mut control: UnixStream,
    wanted: AttachRequest,
    descriptors: Vec<OwnedFd>,
) -> io::Result<()> {
    let Ok([memory, data]) = <[OwnedFd; 2]>::try_from(descriptors) else {
        return Err(io::Error::other("it brought no memory and no socket"));
    };
    let data = std::os::unix::net::UnixStream::from(data);
    data.set_nonblocking(true)?;
    let data = UnixStream::from_std(data)?;
    let attached = session.clients().attach(&wanted);
    let (place, taken) = match attached {
        Ok(attached) => attached,
        Err(refusal) => return answer(&mut control, &session.hello(Some(refusal))).await,
    };
    session.changed();
    if let Err(error) = answer(&mut control, &session.hello(None)).await {
        session.part(&place, false);
        return Err(error);
    }
    let inline_bytes = match wanted.layout == slab::LAYOUT {
        true => usize::try_from(wanted.inline_bytes).unwrap_or(usize::MAX),
        false => limits::MESSAGE_BYTES,
    };
    let inline_bytes = inline_bytes.min(limits::MESSAGE_BYTES);
    let link = Link::new(End::Holder, (data, control), memory, inline_bytes);
    attachment::run(session, place, taken, link).await;
    Ok(())
}

async fn answer(stream: &mut UnixStream, hello: &Hello) -> io::Result<()> {
    frame::write(stream, Frame::Hello(hello.encode_to_vec().into())).await
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn a_socket_that_has_its_name_takes_connections_and_replaces_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let descriptor = OwnedFd::from(fs::File::open(folder.path()).unwrap());
        let socket = folder.path().join("1");
        let asking = std::thread::spawn(move || {
            loop {
                match std::os::unix::net::UnixStream::connect(&socket) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    connected => return connected.map(drop),
                }
            }
        });
        let _listener = listen(&descriptor, "1").unwrap();
        asking.join().unwrap().unwrap();
        let error = listen(&descriptor, "1").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        let left = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, 1);
    }
}
