//! The server's side of kept calls: finds their holders, again after a restart, and believes only
//! what a server of this folder has sealed.
//!
//! Each user has a folder of their own below that of all sessions, so that nobody can put sockets
//! into another's. A holder makes its socket there through a descriptor that it was given; nothing
//! else is written down.

use std::collections::HashSet;
use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{StreamExt as _, stream};
use legatus_core::{BoxFuture, CallId, SessionInfo, Sessions};
use prost::Message;
use rustix::fs::{Mode, OFlags};
use thiserror::Error;
use tokio::net::UnixStream;

use crate::cgroup;
use crate::descriptors;
use crate::frame::Frame;
use crate::messages::{AttachRequest, Facts, Hello, PROTOCOL, Purpose, Sealed, speaks_with};
use crate::sealing::SealingKey;
use crate::slab;

/// How long a holder may take to answer, and one that did not when it was asked before: its user may
/// have stopped it, which must not keep others from their sessions.
const PATIENCE: Duration = Duration::from_secs(5);
const IMPATIENCE: Duration = Duration::from_millis(500);

/// So many holders are asked at once.
const ASKED_AT_ONCE: usize = 128;

/// The folder of a server's sessions.
#[derive(Debug)]
pub struct SessionFolder {
    path: PathBuf,
    /// Seals what holders are told of their calls.
    key: SealingKey,
    /// Users whose folder is there.
    made: Mutex<HashSet<u32>>,
    /// Sessions that did not answer when they were asked last.
    silent: Mutex<HashSet<String>>,
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

/// Which session is wanted, and by whom.
pub(crate) struct Wanted<'a> {
    /// Its id, or its name if only one of the identity's has it.
    pub(crate) session: &'a str,
    pub(crate) identity: &'a str,
    /// Also sessions of other identities.
    pub(crate) others: bool,
    /// Only a call of this module.
    pub(crate) module: Option<&'a str>,
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
        let key = SealingKey::open(&path.join("key"))?;
        Ok(Self {
            path,
            key,
            made: Mutex::default(),
            silent: Mutex::default(),
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
        self.key.seal(facts)
    }

    /// Reaches the holder of a session.
    pub(crate) async fn reach(
        &self,
        wanted: &Wanted<'_>,
        request: AttachRequest,
        descriptors: &[OwnedFd],
    ) -> Result<Reached, SessionError> {
        let session = wanted.session;
        let mut places = self.places()?;
        let is_name = !places.iter().any(|place| place.id == session);
        if !is_name {
            places.retain(|place| place.id == session);
        }
        let mut fitting = Vec::new();
        let mut silent = None;
        for answer in self.look(places).await {
            match answer {
                // Whom it is nobody's business to know of must not be found out by attaching.
                Ok((place, reached)) => {
                    let facts = &reached.facts;
                    let may = wanted.others || facts.identity == wanted.identity;
                    let has_name = facts.name == session && !session.is_empty();
                    if may && (!is_name || has_name) {
                        fitting.push((place, reached));
                    }
                }
                Err(error) if !is_name => silent = Some(error),
                Err(_) => {}
            }
        }
        if is_name && fitting.len() > 1 {
            return Err(SessionError::Refused(format!(
                "several sessions have the name `{session}`: tell one by its id"
            )));
        }
        let Some((place, reached)) = fitting.pop() else {
            return Err(silent.unwrap_or_else(|| SessionError::Unknown(session.to_owned())));
        };
        // What others may be reached depends on the module.
        if wanted
            .module
            .is_some_and(|module| module != reached.facts.module)
        {
            return Err(SessionError::Refused(format!(
                "the session is a call of `{}`",
                reached.facts.module
            )));
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
        let mut stream = self.connect(place).await?;
        if stream.peer_cred()?.uid() != place.uid {
            return Err(SessionError::Misbehaved("it runs as another user"));
        }
        let frame = Frame::Attach(request.encode_to_vec().into());
        let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        descriptors::send(&mut stream, frame, &borrowed).await?;
        let answer = descriptors::receive(&mut stream);
        let answer = match watches {
            true => answer.await?,
            false => match tokio::time::timeout(self.patience(place), answer).await {
                Ok(answer) => {
                    self.silent().remove(&place.id);
                    answer?
                }
                Err(_) => {
                    self.silent().insert(place.id.clone());
                    return Err(SessionError::Misbehaved("it does not answer"));
                }
            },
        };
        let (Frame::Hello(hello), _) = answer else {
            return Err(SessionError::Misbehaved("its answer makes no sense"));
        };
        let hello = Hello::decode(hello)
            .map_err(|_| SessionError::Misbehaved("its answer makes no sense"))?;
        let facts = hello
            .sealed
            .as_ref()
            .and_then(|sealed| self.key.unseal(sealed));
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

    fn patience(&self, place: &Place) -> Duration {
        match self.silent().contains(&place.id) {
            true => IMPATIENCE,
            false => PATIENCE,
        }
    }

    fn silent(&self) -> MutexGuard<'_, HashSet<String>> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self, place: &Place) -> Result<UnixStream, SessionError> {
        let folder = self.path.join(place.uid.to_string());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = rustix::fs::open(folder, flags, Mode::empty()).map_err(io::Error::from)?;
        // A path of any length fits so.
        let name = format!("/proc/self/fd/{}/{}", folder.as_raw_fd(), place.id);
        let error = match UnixStream::connect(name).await {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        match error.kind() {
            io::ErrorKind::ConnectionRefused => {
                // Its holder was killed, and could not tidy up.
                let flags = rustix::fs::AtFlags::empty();
                rustix::fs::unlinkat(&folder, place.id.as_str(), flags).ok();
                Err(SessionError::Unknown(place.id.clone()))
            }
            // So many wait for it that no more may.
            io::ErrorKind::WouldBlock => Err(SessionError::Misbehaved("it does not answer")),
            _ => Err(error.into()),
        }
    }

    /// All sockets that are there.
    fn places(&self) -> io::Result<Vec<Place>> {
        let mut places = Vec::new();
        for user in std::fs::read_dir(&self.path)? {
            let user = user?;
            let uid = user.file_name().to_str().and_then(|name| name.parse().ok());
            let Some(uid) = uid else { continue };
            let sockets = match std::fs::read_dir(user.path()) {
                // Sessions of a server that ran as somebody else.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => continue,
                sockets => sockets?,
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

    /// How these sessions are.
    async fn look(&self, places: Vec<Place>) -> Vec<Result<(Place, Reached), SessionError>> {
        let asked = places.into_iter().map(|place| async {
            match self.ask(&place, AttachRequest::default(), &[]).await {
                Ok(reached) => Ok((place, reached)),
                Err(error) => {
                    tracing::debug!(session = place.id, %error, "a session does not tell how it is");
                    Err(error)
                }
            }
        });
        let answers = stream::iter(asked).buffer_unordered(ASKED_AT_ONCE);
        answers.collect().await
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
            let places = self.places().unwrap_or_else(|error| {
                tracing::error!(%error, "the sessions cannot be listed");
                Vec::new()
            });
            // Whoever has gone need not be remembered.
            self.silent()
                .retain(|silent| places.iter().any(|place| place.id == *silent));
            let found = self.look(places).await.into_iter().flatten();
            let mut listed: Vec<_> = found.map(|(_, reached)| info(reached)).collect();
            listed.sort_by_key(|session| session.started);
            listed
        })
    }

    fn ids(&self) -> io::Result<Vec<String>> {
        let places = self.places()?.into_iter();
        Ok(places.map(|place| place.id).collect())
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
            let wanted = Wanted {
                session: id,
                identity,
                others,
                module: None,
            };
            match self.reach(&wanted, request, &[]).await {
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

#[cfg(test)]
mod tests {
    use super::*;

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
            module: "shell".to_owned(),
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

    fn wanted(others: bool) -> Wanted<'static> {
        Wanted {
            session: "old",
            identity: "ann",
            others,
            module: Some("shell"),
        }
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
        let mut asked = old_holder(&sessions, 1);
        let reached = sessions.reach(&wanted(false), wish(), &[]).await;
        let reached = reached.unwrap();
        assert_eq!(reached.hello.bytes_out, 7);
        // Its shared memory is laid out in another way, so that it is not used.
        assert_ne!(reached.hello.layout, slab::LAYOUT);
        assert_eq!(asked.recv().await.unwrap().purpose(), Purpose::Look);
        let attach = asked.recv().await.unwrap();
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
            let _asked = old_holder(&sessions, version);
            let refused = sessions.reach(&wanted(false), wish(), &[]).await;
            let text = refused.unwrap_err().to_string();
            let expected =
                format!("the session speaks version {version} and this server {PROTOCOL}");
            assert_eq!(text, expected);
        }
    }

    #[tokio::test]
    async fn who_may_reach_sessions_of_another_module_does_not_touch_this_one() {
        let folder = tempfile::tempdir().unwrap();
        let sessions = SessionFolder::open(folder.path()).unwrap();
        let mut asked = old_holder(&sessions, PROTOCOL);
        let other = Wanted {
            identity: "eve",
            module: Some("transfer-file"),
            ..wanted(true)
        };
        let refused = sessions.reach(&other, wish(), &[]).await.unwrap_err();
        assert_eq!(refused.to_string(), "the session is a call of `shell`");
        assert_eq!(asked.recv().await.unwrap().purpose(), Purpose::Look);
        assert!(asked.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_that_was_stopped_delays_others_once() {
        let folder = tempfile::tempdir().unwrap();
        let sessions = SessionFolder::open(folder.path()).unwrap();
        let _asked = old_holder(&sessions, PROTOCOL);
        let uid = rustix::process::geteuid().as_raw();
        let stopped = sessions.path.join(format!("{uid}/stopped"));
        let _listener = std::os::unix::net::UnixListener::bind(stopped).unwrap();
        for at_most in [PATIENCE, IMPATIENCE] {
            let begun = tokio::time::Instant::now();
            assert_eq!(sessions.list().await.len(), 1);
            assert!(begun.elapsed() <= at_most + Duration::from_millis(50));
        }
    }

    #[tokio::test]
    async fn a_holder_whose_queue_is_full_does_not_answer() {
        let folder = tempfile::tempdir().unwrap();
        let sessions = SessionFolder::open(folder.path()).unwrap();
        let uid = rustix::process::geteuid().as_raw();
        drop(sessions.of_user(uid).unwrap());
        let path = sessions.path.join(format!("{uid}/old"));
        let socket = tokio::net::UnixSocket::new_stream().unwrap();
        socket.bind(&path).unwrap();
        let _listener = socket.listen(1).unwrap();
        let waiting: Vec<_> = std::iter::from_fn(|| {
            let socket = rustix::net::socket_with(
                rustix::net::AddressFamily::UNIX,
                rustix::net::SocketType::STREAM,
                rustix::net::SocketFlags::NONBLOCK,
                None,
            );
            let socket = socket.unwrap();
            let address = rustix::net::SocketAddrUnix::new(&path).unwrap();
            rustix::net::connect(&socket, &address)
                .ok()
                .map(|()| socket)
        })
        .take(100)
        .collect();
        assert!(waiting.len() < 100);
        let error = sessions
            .reach(&wanted(false), wish(), &[])
            .await
            .unwrap_err();
        assert!(error.to_string().contains("does not answer"), "{error}");
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
