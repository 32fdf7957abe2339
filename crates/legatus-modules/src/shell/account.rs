//! The user as whom a command runs, and the environment of a fresh login.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use legatus_core::Fault;
use nix::unistd::{Uid, User};

/// Where programs are searched for, as PAM sets it on the usual distributions.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the passwd database says about the user of this process.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) name: OsString,
    pub(super) home: PathBuf,
    pub(super) shell: PathBuf,
}

impl Account {
    /// The account of this process.
    ///
    /// It may wait for a network's user database; in the process that a call has for itself this
    /// stops nobody else.
    pub(super) fn current() -> Result<Self, Fault> {
        let uid = Uid::current();
        let user = User::from_uid(uid)
            .map_err(|error| Fault::new(format!("cannot look up the user {uid}: {error}")))?;
        // Containers run as users that no database knows.
        let Some(user) = user else {
            return Ok(Self {
                name: uid.to_string().into(),
                home: "/".into(),
                shell: "/bin/sh".into(),
            });
        };
        let nonempty = |path: PathBuf, otherwise: &str| {
            Some(path)
                .filter(|path| !path.as_os_str().is_empty())
                .unwrap_or_else(|| otherwise.into())
        };
        Ok(Self {
            name: user.name.into(),
            home: nonempty(user.dir, "/"),
            // passwd(5): an empty field means /bin/sh.
            shell: nonempty(user.shell, "/bin/sh"),
        })
    }

    /// The same with what the server's configuration says of it.
    #[must_use]
    pub(super) fn configured(mut self, account: legatus_core::Account) -> Self {
        self.home = account.home.unwrap_or(self.home);
        let shell = account.shell.filter(|shell| !shell.as_os_str().is_empty());
        self.shell = shell.unwrap_or(self.shell);
        self
    }

    /// Refuses to run as somebody else than the caller expects.
    pub(super) fn expect(&self, user: &[u8]) -> Result<(), Fault> {
        if user.is_empty() || user == self.name.as_bytes() {
            return Ok(());
        }
        let (wanted, own) = (super::request::quoted(user), self.name.display());
        Err(
            Fault::new(format!("your calls run as `{own}` there, not as {wanted}"))
                .with_hint("leave the user out, or ask whoever keeps the server"),
        )
    }

    /// The environment of a fresh login; nothing of the server's is in it.
    pub(super) fn environment(&self) -> [(&'static str, OsString); 5] {
        [
            ("HOME", self.home.clone().into()),
            ("USER", self.name.clone()),
            ("LOGNAME", self.name.clone()),
            ("SHELL", self.shell.clone().into()),
            ("PATH", PATH.into()),
        ]
    }

    /// The file name of the shell, as which it is started; behind a dash if it is a login shell.
    pub(super) fn shell_name(&self, login: bool) -> OsString {
        let mut name = OsString::from(if login { "-" } else { "" });
        name.push(self.shell.file_name().unwrap_or(self.shell.as_os_str()));
        name
    }
}

/// A directory to run in, or why it cannot be one.
pub(super) fn check_directory(directory: &Path) -> Result<(), Fault> {
    // The dot asks for the right to enter, not only to see, the directory.
    let inside = directory.join(".");
    match std::fs::metadata(inside) {
        Ok(_) => Ok(()),
        Err(error) => {
            let shown = super::request::quoted(directory.as_os_str().as_bytes());
            let reason = super::spawn::reason(&error);
            Err(Fault::new(format!("cannot run in {shown}: {reason}"))
                .with_hint("--cwd names a directory on the server"))
        }
    }
}
