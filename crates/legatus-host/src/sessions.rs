//! The server's side of kept calls: finds their holders, again after a restart, and believes only
//! what a server of this folder has sealed.
//!
//! Each user has a folder of their own below that of all sessions, so that nobody can put sockets
//! into another's. A holder makes its socket there through a descriptor that it was given; nothing
//! else is written down.

use std::collections::HashSet;
use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use legatus_core::{BoxFuture, CallId, SessionInfo, Sessions};
use prost::Message;
use rustix::fs::{Mode, OFlags};
use thiserror::Error;
use tokio::net::UnixStream;

use crate::cgroup;
use crate::descriptors;
use crate::frame::Frame;
use crate::messages::{AttachRequest, Facts, Hello, PROTOCOL, Purpose, Sealed, speaks_with};
use crate::slab;

/// How long a holder may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The folder of a server's sessions.
#[derive(Debug)]
pub struct SessionFolder {
    path: PathBuf,
    /// Seals what holders are told of their calls.
    key: [u8; 32],
    /// Users whose folder is there.
    made: Mutex<HashSet<u32>>,
}

/// A session cannot be reached.
#[derive(Debug, Error)]
pub(crate) enum SessionError {
    #[error("there is no session `{0}`")]
    Unknown(String),
    #[error("the session's process does not answer as it should: {0}")]
    Misbehaved(&'static str),
    #[error("{0}")]
    Refused(String),
    #[error("the session's process cannot be reached")]
    System(#[from] io::Error),
}

/// A connection to a session's holder.
#[derive(Debug)]
pub(crate) struct Reached {
    pub(crate) stream: UnixStream,
    pub(crate) hello: Hello,
    pub(crate) facts: Facts,
}

impl SessionFolder {
    /// The folder `sessions` below a server's own, which is made if it is missing.
    ///
    /// # Errors
    /// When it cannot be made, or its key not be read.
    pub fn open(state: &Path) -> io::Result<Self> {
        let path = state.join("sessions");
        if !path.is_dir() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)?;
        }
        cgroup::sweep();
        let key = key(&path.join("key"))?;
        Ok(Self {
            path,
            key,
            made: Mutex::default(),
        })
    }

    /// A descriptor of the folder of one user's sessions, for a holder.
    pub(crate) fn of_user(&self, uid: u32) -> io::Result<OwnedFd> {
        let path = self.path.join(uid.to_string());
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if !made.contains(&uid) {
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            if rustix::process::geteuid().as_raw() != uid {
                chown(&path, Some(uid), None)?;
            }
            std::fs::set_permissions(&path, Permissions::from_mode(0o700))?;
            made.insert(uid);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::open(&path, flags, Mode::empty())?)
    }

    /// Facts with the seal that makes this server believe them later.
    pub(crate) fn seal(&self, facts: &Facts) -> Sealed {
        let facts: Bytes = facts.encode_to_vec().into();
        let seal = blake3::keyed_hash(&self.key, &facts);
        Sealed {
            seal: Bytes::copy_from_slice(seal.as_bytes()),
            facts,
        }
    }

    fn unseal(&self, sealed: &Sealed) -> Option<Facts> {
        let expected = blake3::keyed_hash(&self.key, &sealed.facts);
        // Compares in constant time.
        let given = blake3::Hash::from_slice(&sealed.seal).ok()?;
        (expected == given)
            .then(|| Facts::decode(sealed.facts.clone()).ok())
            .flatten()
    }

    /// Reaches the holder of the session with this id, or with this name if only one of that
    /// identity has it; `others`: also sessions of other identities.
    pub(crate) async fn reach(
        &self,
        session: &str,
        identity: &str,
        others: bool,
        request: AttachRequest,
        descriptors: &[OwnedFd],
    ) -> Result<Reached, SessionError> {
        let unknown = || SessionError::Unknown(session.to_owned());
        let may = |facts: &Facts| others || facts.identity == identity;
        let by_id = CallId::try_from(session.to_owned()).is_ok();
        let place = self
            .places()?
            .into_iter()
            .find(|place| by_id && place.id == session);
        let place = match place {
            Some(place) => place,
            None => {
                let found = self.look().await?;
                let mut named = found
                    .into_iter()
                    .filter(|(_, reached)| may(&reached.facts) && reached.facts.name == session);
                let (place, _) = named.next().ok_or_else(unknown)?;
                if named.next().is_some() {
                    return Err(SessionError::Refused(format!(
                        "several sessions have the name `{session}`: tell one by its id"
                    )));
                }
                place
            }
        };
        let look = AttachRequest::default();
        // Who is nobody's business must not be found out by attaching.
        let facts = self.ask(&place, look, &[]).await?.facts;
        if !may(&facts) {
            return Err(unknown());
        }
        self.ask(&place, request, descriptors).await
    }

    /// Asks a holder for something.
    async fn ask(
        &self,
        place: &Place,
        mut request: AttachRequest,
        descriptors: &[OwnedFd],
    ) -> Result<Reached, SessionError> {
        request.protocol = PROTOCOL;
        request.layout = slab::LAYOUT;
        let watches = request.purpose() == Purpose::Watch;
        let mut stream = self.connect(place)?;
        if stream.peer_cred()?.uid() != place.uid {
            return Err(SessionError::Misbehaved("it runs as another user"));
        }
        let frame = Frame::Attach(request.encode_to_vec().into());
        let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        descriptors::send(&mut stream, frame, &borrowed).await?;
        let answer = descriptors::receive(&mut stream);
        let answer = match watches {
            true => answer.await?,
            false => tokio::time::timeout(PATIENCE, answer)
                .await
                .map_err(|_| SessionError::Misbehaved("it does not answer"))??,
        };
        let (Frame::Hello(hello), _) = answer else {
            return Err(SessionError::Misbehaved("its answer makes no sense"));
        };
        let hello = Hello::decode(hello)
            .map_err(|_| SessionError::Misbehaved("its answer makes no sense"))?;
        let facts = hello.sealed.as_ref().and_then(|sealed| self.unseal(sealed));
        let facts = facts.filter(|facts| facts.id == place.id);
        let facts = facts.ok_or(SessionError::Misbehaved(
            "no server of this folder knows it",
        ))?;
        if !speaks_with(hello.protocol) {
            return Err(SessionError::Refused(format!(
                "the session speaks version {} and this server {PROTOCOL}",
                hello.protocol
            )));
        }
        if !hello.refusal.is_empty() {
            return Err(SessionError::Refused(hello.refusal));
        }
        Ok(Reached {
            stream,
            hello,
            facts,
        })
    }

    fn connect(&self, place: &Place) -> Result<UnixStream, SessionError> {
        let folder = self.path.join(place.uid.to_string());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = rustix::fs::open(folder, flags, Mode::empty()).map_err(io::Error::from)?;
        // A path of any length fits so.
        let name = format!("/proc/self/fd/{}/{}", folder.as_raw_fd(), place.id);
        match StdUnixStream::connect(name) {
            Ok(stream) => {
                stream.set_nonblocking(true)?;
                Ok(UnixStream::from_std(stream)?)
            }
            Err(error) => {
                if error.kind() == io::ErrorKind::ConnectionRefused {
                    // Its holder was killed, and could not tidy up.
                    let flags = rustix::fs::AtFlags::empty();
                    rustix::fs::unlinkat(&folder, place.id.as_str(), flags).ok();
                    return Err(SessionError::Unknown(place.id.clone()));
                }
                Err(error.into())
            }
        }
    }

    /// All sockets that are there.
    fn places(&self) -> io::Result<Vec<Place>> {
        let mut places = Vec::new();
        for user in std::fs::read_dir(&self.path)? {
            let user = user?;
            let uid = user.file_name().to_str().and_then(|name| name.parse().ok());
            let (Some(uid), Ok(sockets)) = (uid, std::fs::read_dir(user.path())) else {
                continue;
            };
            let ids = sockets.flatten().filter_map(|socket| {
                let id = socket.file_name().into_string().ok()?;
                CallId::try_from(id.clone()).ok()?;
                Some(Place { uid, id })
            });
            places.extend(ids);
        }
        Ok(places)
    }

    /// How all sessions are. Those that do not answer are left out.
    async fn look(&self) -> io::Result<Vec<(Place, Reached)>> {
        let mut found = Vec::new();
        for place in self.places()? {
            match self.ask(&place, AttachRequest::default(), &[]).await {
                Ok(reached) => found.push((place, reached)),
                Err(error) => tracing::debug!(session = place.id, %error, "a session is left out"),
            }
        }
        Ok(found)
    }

    /// The facts of a call that begins now.
    pub(crate) fn facts(call: &legatus_core::Call, module: &str, user: String) -> Facts {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let started = now.unwrap_or_default().as_millis();
        Facts {
            id: call.id().to_string(),
            identity: call.peer().identity().to_owned(),
            module: module.to_owned(),
            user,
            started: u64::try_from(started).unwrap_or(u64::MAX),
            ..Facts::default()
        }
    }
}

impl Sessions for SessionFolder {
    fn list(&self) -> BoxFuture<'_, Vec<SessionInfo>> {
        Box::pin(async move {
            let found = self.look().await.unwrap_or_else(|error| {
                tracing::error!(%error, "the sessions cannot be listed");
                Vec::new()
            });
            let mut listed: Vec<_> = found
                .into_iter()
                .map(|(_, reached)| info(reached))
                .collect();
            listed.sort_by_key(|session| session.started);
            listed
        })
    }

    fn ids(&self) -> Vec<String> {
        let places = self.places().unwrap_or_default();
        places.into_iter().map(|place| place.id).collect()
    }

    fn watch<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Option<SessionInfo>> {
        Box::pin(async move {
            let place = self
                .places()
                .ok()?
                .into_iter()
                .find(|place| place.id == id)?;
            let request = AttachRequest {
                purpose: Purpose::Watch.into(),
                ..AttachRequest::default()
            };
            Some(info(self.ask(&place, request, &[]).await.ok()?))
        })
    }

    fn end<'a>(
        &'a self,
        id: &'a str,
        identity: &'a str,
        others: bool,
        signal: Option<u8>,
    ) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let request = AttachRequest {
                purpose: Purpose::End.into(),
                signal: signal.unwrap_or(0).into(),
                ..AttachRequest::default()
            };
            match self.reach(id, identity, others, request, &[]).await {
                Ok(_) => true,
                Err(error) => {
                    tracing::info!(session = id, %error, "a session cannot be ended");
                    false
                }
            }
        })
    }
}

/// Where a session's socket is.
#[derive(Clone, Debug)]
struct Place {
    uid: u32,
    id: String,
}

fn info(reached: Reached) -> SessionInfo {
    let Reached { hello, facts, .. } = reached;
    SessionInfo {
        id: facts.id,
        identity: facts.identity,
        module: facts.module,
        summary: facts.summary,
        name: facts.name,
        user: facts.user,
        started: Duration::from_millis(facts.started),
        clients: hello.clients,
        idle: Duration::from_millis(hello.idle),
        bytes_in: hello.bytes_in,
        bytes_out: hello.bytes_out,
        outcome: hello.outcome.map(Into::into),
        terminal: facts.terminal,
    }
}

/// The key that seals facts, made at the first start and readable by the server's user only.
fn key(path: &Path) -> io::Result<[u8; 32]> {
    let mut key = [0; 32];
    match File::open(path) {
        Ok(mut file) => file.read_exact(&mut key)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            File::open("/dev/urandom")?.read_exact(&mut key)?;
            // Whole or not at all, and the first of several servers wins.
            let new = path.with_extension(format!("new.{}", std::process::id()));
            let mut options = File::options();
            options.write(true).create(true).truncate(true).mode(0o600);
            options.open(&new)?.write_all(&key)?;
            let linked = std::fs::hard_link(&new, path);
            std::fs::remove_file(&new)?;
            match linked {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    return self::key(path);
                }
                linked => linked?,
            }
        }
        Err(error) => return Err(error),
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_that_were_changed_or_sealed_elsewhere_are_not_believed() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let server = SessionFolder::open(here.path()).unwrap();
        let other = SessionFolder::open(there.path()).unwrap();
        let facts = Facts {
            identity: "ann".to_owned(),
            ..Facts::default()
        };
        let sealed = server.seal(&facts);
        assert_eq!(server.unseal(&sealed), Some(facts.clone()));
        assert_eq!(other.unseal(&sealed), None);
        let mut forged = sealed;
        forged.facts = Facts {
            identity: "eve".to_owned(),
            ..facts
        }
        .encode_to_vec()
        .into();
        assert_eq!(server.unseal(&forged), None);
    }

    #[test]
    fn a_server_that_starts_again_has_the_same_key() {
        let folder = tempfile::tempdir().unwrap();
        let first = SessionFolder::open(folder.path()).unwrap();
        let second = SessionFolder::open(folder.path()).unwrap();
        assert_eq!(first.key, second.key);
        assert_ne!(first.key, [0; 32]);
    }

    /// What a holder of version 1 knew of a server's wishes, and answered.
    #[derive(Clone, PartialEq, prost::Message)]
    struct OldAttach {
        #[prost(uint32, tag = "1")]
        protocol: u32,
        #[prost(enumeration = "Purpose", tag = "2")]
        purpose: i32,
        #[prost(string, tag = "3")]
        client: String,
        #[prost(uint64, tag = "5")]
        received: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct OldHello {
        #[prost(uint32, tag = "1")]
        protocol: u32,
        #[prost(message, optional, tag = "2")]
        sealed: Option<Sealed>,
        #[prost(uint64, tag = "6")]
        bytes_out: u64,
    }

    /// A holder of that version with the session `old`; returns what each server wanted.
    fn old_holder(
        sessions: &SessionFolder,
        protocol: u32,
    ) -> tokio::sync::mpsc::Receiver<OldAttach> {
        let facts = Facts {
            id: "old".to_owned(),
            identity: "ann".to_owned(),
            ..Facts::default()
        };
        let hello = OldHello {
            protocol,
            sealed: Some(sessions.seal(&facts)),
            bytes_out: 7,
        };
        let uid = rustix::process::geteuid().as_raw();
        drop(sessions.of_user(uid).unwrap());
        let socket = sessions.path.join(format!("{uid}/old"));
        let listener = tokio::net::UnixListener::bind(socket).unwrap();
        let (told, wanted) = tokio::sync::mpsc::channel(8);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (frame, _) = descriptors::receive(&mut stream).await.unwrap();
                let Frame::Attach(request) = frame else {
                    panic!("{frame:?}");
                };
                let wish = OldAttach::decode(request).unwrap();
                told.send(wish).await.unwrap();
                let answer = Frame::Hello(hello.encode_to_vec().into());
                crate::frame::write(&mut stream, answer).await.unwrap();
            }
        });
        wanted
    }

    fn wish() -> AttachRequest {
        AttachRequest {
            purpose: Purpose::Attach.into(),
            client: "c".to_owned(),
            received: 3,
            own_size: true,
            ..AttachRequest::default()
        }
    }

    #[tokio::test]
    async fn a_holder_of_the_version_before_is_understood_and_understands() {
        let folder = tempfile::tempdir().unwrap();
        let sessions = SessionFolder::open(folder.path()).unwrap();
        let mut wanted = old_holder(&sessions, 1);
        let reached = sessions.reach("old", "ann", false, wish(), &[]).await;
        let reached = reached.unwrap();
        assert_eq!(reached.hello.bytes_out, 7);
        // Its shared memory is laid out in another way, so that it is not used.
        assert_ne!(reached.hello.layout, slab::LAYOUT);
        assert_eq!(wanted.recv().await.unwrap().purpose(), Purpose::Look);
        let attach = wanted.recv().await.unwrap();
        let expected = (Purpose::Attach, "c", 3);
        let seen = (attach.purpose(), attach.client.as_str(), attach.received);
        assert_eq!(seen, expected);
        // A holder refuses a server that is more than this ahead of it.
        assert!(attach.protocol <= 1 + crate::messages::SKEW);
    }

    #[tokio::test]
    async fn holders_that_are_too_far_away_are_refused_in_so_many_words() {
        for version in [0, PROTOCOL + crate::messages::SKEW + 1] {
            let folder = tempfile::tempdir().unwrap();
            let sessions = SessionFolder::open(folder.path()).unwrap();
            let _wanted = old_holder(&sessions, version);
            let refused = sessions.reach("old", "ann", false, wish(), &[]).await;
            let text = refused.unwrap_err().to_string();
            let expected =
                format!("the session speaks version {version} and this server {PROTOCOL}");
            assert_eq!(text, expected);
        }
    }

    #[tokio::test]
    async fn sockets_of_dead_holders_are_tidied_up_and_strangers_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let sessions = SessionFolder::open(folder.path()).unwrap();
        let uid = rustix::process::geteuid().as_raw();
        drop(sessions.of_user(uid).unwrap());
        let socket = folder.path().join(format!("sessions/{uid}/dead"));
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        assert!(sessions.list().await.is_empty());
        assert!(!socket.exists());
    }
}
