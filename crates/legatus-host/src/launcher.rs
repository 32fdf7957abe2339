//! How holders are started.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use legatus_core::Fault;

use crate::SessionFolder;
use crate::fork_server::{ForkServer, Forked, Program};
use crate::messages::{Account, RunAs, Start, Variable};
use crate::user::{User, Users};

/// Messages up to so many bytes travel through the socket, longer ones through shared memory:
/// below, the copies cost less than the announcements and releases of slots do (decision record
/// 0002 has the figures).
pub const DEFAULT_INLINE_BYTES: usize = 64 << 10;

/// How holders are started: which program, as which user.
#[derive(Clone, Debug)]
pub struct Launcher {
    /// The program. `/proc/self/exe` is the very file that the server was started from, also when
    /// another has taken its name since.
    pub executable: PathBuf,
    /// Arguments with which the program calls [`holder_main`](crate::holder_main).
    pub arguments: Vec<OsString>,
    /// The users that holders become before they do anything.
    pub users: Users,
    /// The variables that callers may set, as patterns of names; `None`: any.
    pub variables: Option<Vec<String>>,
    /// Messages up to so many bytes travel through the socket, longer ones through shared memory.
    pub inline_bytes: usize,
    /// Variables of the holders' environment, see [`Launcher::with_environment`].
    pub environment: Vec<(OsString, OsString)>,
    /// The soft limit of open files in holders, if it is another than the server's own: a server
    /// raises it for itself, but programs that use select(2) fail above 1024.
    pub descriptor_limit: Option<u64>,
    /// Where calls are kept that outlive their connection; without it none are.
    pub sessions: Option<Arc<SessionFolder>>,
    /// Bytes of output that a kept call may put on disk, in the folder of its user's sessions, when
    /// it waits for a client and memory holds no more.
    pub spill_bytes: u64,
    /// The process that holders are copies of, once there is one; clones have the same.
    pub fork_server: Forking,
}

/// The process that holders are copies of.
#[derive(Clone, Debug, Default)]
pub struct Forking(Arc<OnceLock<ForkServer>>);

impl Launcher {
    /// Starts this program with these arguments and an empty environment, in the server's rights.
    pub fn new(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self {
            executable: "/proc/self/exe".into(),
            arguments: arguments.into_iter().map(Into::into).collect(),
            users: Users::default(),
            variables: None,
            inline_bytes: DEFAULT_INLINE_BYTES,
            environment: Vec::new(),
            descriptor_limit: None,
            sessions: None,
            spill_bytes: 0,
            fork_server: Forking::default(),
        }
    }

    /// Takes from these variables what holders are to have: search path, language and time zone;
    /// with the server's own rights also what tells who that user is.
    #[must_use]
    pub fn with_environment(
        mut self,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Self {
        self.environment = variables
            .into_iter()
            .filter(|(name, _)| is_for_everyone(name) || is_of_a_user(name))
            .collect();
        self
    }

    /// Holders get this soft limit of open files.
    #[must_use]
    pub fn with_descriptor_limit(mut self, limit: Option<u64>) -> Self {
        self.descriptor_limit = limit;
        self
    }

    /// Calls that ask for it are kept there.
    #[must_use]
    pub fn with_sessions(mut self, sessions: Arc<SessionFolder>) -> Self {
        self.sessions = Some(sessions);
        self
    }

    /// Kept calls may put so many bytes of output on disk each.
    #[must_use]
    pub fn with_spill(mut self, bytes: u64) -> Self {
        self.spill_bytes = bytes;
        self
    }

    /// Holders become this user.
    #[must_use]
    pub fn with_user(mut self, user: User) -> Self {
        self.users.run_as = Some(user);
        self
    }

    /// The user as whom an identity's calls run; `Ok(None)`: the server's own.
    ///
    /// # Errors
    /// When the identity has none.
    pub(crate) fn user_of(&self, identity: &str) -> Result<Option<&User>, Fault> {
        self.users.of(identity)
    }

    /// Starts the process that holders are copies of, ahead of the first call.
    ///
    /// # Errors
    /// When the program cannot be executed.
    pub async fn prepare(&self) -> io::Result<()> {
        self.fork_server().prepare().await
    }

    /// Starts a holder with its ends of the two sockets.
    pub(crate) async fn fork(&self, data: OwnedFd, control: OwnedFd) -> io::Result<Forked> {
        self.fork_server().fork(vec![data, control]).await
    }

    fn fork_server(&self) -> &ForkServer {
        self.fork_server.0.get_or_init(|| {
            ForkServer::new(Program {
                executable: self.executable.clone(),
                arguments: self.arguments.clone(),
                descriptor_limit: self.descriptor_limit,
            })
        })
    }

    /// The variables that holders have.
    fn variables_of(&self, user: Option<&User>) -> Vec<Variable> {
        let own = self.environment.iter();
        let own = own.filter(|(name, _)| user.is_none() || is_for_everyone(name));
        let mut variables: Vec<_> = own
            .map(|(name, value)| Variable::new(name, value))
            .collect();
        if let Some(user) = user {
            variables.extend([
                Variable::new("USER", &user.name),
                Variable::new("LOGNAME", &user.name),
                Variable::new("HOME", &user.home),
                Variable::new("SHELL", &user.shell),
            ]);
        }
        variables
    }

    /// The user id of holders.
    pub(crate) fn uid(&self, user: Option<&User>) -> u32 {
        user.map_or_else(|| rustix::process::geteuid().as_raw(), |user| user.uid)
    }

    /// The user of holders, as sessions tell it.
    pub(crate) fn user_name(&self, user: Option<&User>) -> String {
        let own = || self.environment.iter().find(|(name, _)| name == "USER");
        match user {
            Some(user) => user.name.clone(),
            None => own().map_or_else(
                || self.uid(None).to_string(),
                |(_, user)| user.to_string_lossy().into_owned(),
            ),
        }
    }

    pub(crate) fn start(&self, user: Option<&User>, has_sessions: bool) -> Start {
        let home = match user {
            Some(user) => Some(user.home.as_os_str()),
            None => self
                .environment
                .iter()
                .find_map(|(name, value)| (name == "HOME").then_some(value.as_os_str())),
        };
        Start {
            user: user.map(RunAs::from),
            environment: self.variables_of(user),
            folder: home.map(OsStr::as_bytes).unwrap_or_default().to_vec(),
            has_sessions,
            server_uid: rustix::process::geteuid().as_raw(),
            spill_bytes: self.spill_bytes,
        }
    }

    /// What a Commander is told of its user.
    pub(crate) fn account(&self, user: Option<&User>) -> Account {
        let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
        Account {
            home: user.map(|user| bytes(&user.home)).unwrap_or_default(),
            shell: user.map(|user| bytes(&user.shell)).unwrap_or_default(),
            any_variable: self.variables.is_none(),
            variables: self.variables.clone().unwrap_or_default(),
        }
    }
}

fn is_for_everyone(name: &OsStr) -> bool {
    ["PATH", "LANG", "LANGUAGE", "TZ", "RUST_BACKTRACE"]
        .iter()
        .any(|known| name == *known)
        || name.as_bytes().starts_with(b"LC_")
}

fn is_of_a_user(name: &OsStr) -> bool {
    [
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "TMPDIR",
        "XDG_RUNTIME_DIR",
    ]
    .iter()
    .any(|known| name == *known)
}
