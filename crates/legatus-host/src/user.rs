//! The operating system's users, and how a process becomes one for good.

use std::io;
use std::path::PathBuf;

use legatus_core::{Fault, Pattern};
use nix::unistd::{self, Gid, Uid};
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;

use crate::messages::RunAs;

/// A user of the operating system, with everything that a process needs to become it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group's id.
    pub gid: u32,
    /// Ids of all groups, the primary one among them.
    pub groups: Vec<u32>,
    /// Home folder.
    pub home: PathBuf,
    /// Login shell.
    pub shell: PathBuf,
    /// What processes of this user are limited to.
    pub limits: UserLimits,
}

/// What processes of a user are limited to, beyond the user's rights.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserLimits {
    /// The file mode creation mask (umask(2)); the server's own without one.
    pub umask: Option<u32>,
    /// No program gives them more rights, as setuid ones such as sudo would
    /// (PR_SET_NO_NEW_PRIVS).
    pub no_new_privs: bool,
    /// Open files of one process.
    pub open_files: Option<u64>,
    /// Processes of the user.
    pub processes: Option<u64>,
    /// Bytes of memory of one process (its address space).
    pub memory_bytes: Option<u64>,
    /// Bytes of one file.
    pub file_bytes: Option<u64>,
}

/// A user could not be found, or a process could not become it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum UserError {
    /// Nobody has that name.
    #[error("there is no user `{0}`")]
    Unknown(String),
    /// No group has that name.
    #[error("there is no group `{0}`")]
    UnknownGroup(String),
    /// The user database could not be asked.
    #[error("cannot look up the user `{name}`")]
    LookUp {
        /// Whom.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The process lacks the right to become the user.
    #[error("cannot become the user `{name}`: {step} failed: {source}")]
    Become {
        /// Whom.
        name: String,
        /// The system call that failed.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The process became the user but could become another again.
    #[error("became the user `{0}`, but not for good")]
    NotForGood(String),
}

impl User {
    /// The user of that login name, from the system's user database.
    ///
    /// # Errors
    /// When there is none, or the database cannot be asked.
    pub fn named(name: &str) -> Result<Self, UserError> {
        let look_up = |error: nix::errno::Errno| UserError::LookUp {
            name: name.to_owned(),
            source: error.into(),
        };
        let user = unistd::User::from_name(name)
            .map_err(look_up)?
            .ok_or_else(|| UserError::Unknown(name.to_owned()))?;
        let text = std::ffi::CString::new(name).map_err(|_| UserError::Unknown(name.to_owned()))?;
        let groups = unistd::getgrouplist(&text, user.gid).map_err(look_up)?;
        Ok(Self {
            name: user.name,
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            groups: groups.into_iter().map(Gid::as_raw).collect(),
            home: user.dir,
            shell: user.shell,
            limits: UserLimits::default(),
        })
    }

    /// The user `nobody`, or one of its traditional number where there is none of that name.
    fn without_rights() -> Self {
        /// What the kernel shows in the place of users that it cannot show (overflowuid).
        const NOBODY: u32 = 65534;
        Self::named("nobody").unwrap_or_else(|_| Self {
            name: "nobody".to_owned(),
            uid: NOBODY,
            gid: NOBODY,
            groups: vec![NOBODY],
            home: "/".into(),
            shell: "/bin/false".into(),
            limits: UserLimits::default(),
        })
    }

    /// The same with these supplementary groups, by name, instead of those of the group database.
    ///
    /// # Errors
    /// When there is no such group, or the database cannot be asked.
    pub fn with_groups(mut self, names: &[String]) -> Result<Self, UserError> {
        self.groups = vec![self.gid];
        for name in names {
            let look_up = |error: nix::errno::Errno| UserError::LookUp {
                name: name.clone(),
                source: error.into(),
            };
            let group = unistd::Group::from_name(name).map_err(look_up)?;
            let group = group.ok_or_else(|| UserError::UnknownGroup(name.clone()))?;
            self.groups.push(group.gid.as_raw());
        }
        Ok(self)
    }
}

/// As whom calls run: one user for all of them, or one for each identity.
#[derive(Clone, Debug, Default)]
pub struct Users {
    /// The user of all calls; without one they have the server's own rights.
    pub run_as: Option<User>,
    /// The users of identities, the first that fits; no user, no call. Goes before `run_as`.
    pub mapped: Option<Vec<(Pattern, User)>>,
}

impl Users {
    /// The user as whom an identity's calls run; `Ok(None)`: the server's own.
    ///
    /// # Errors
    /// When the identity has none.
    pub fn of(&self, identity: &str) -> Result<Option<&User>, Fault> {
        let Some(mapped) = &self.mapped else {
            return Ok(self.run_as.as_ref());
        };
        let mut fitting = mapped
            .iter()
            .filter(|(pattern, _)| pattern.matches(identity));
        match fitting.next() {
            Some((_, user)) => Ok(Some(user)),
            None => Err(Fault::new(format!(
                "no user of the server's system belongs to `{identity}`"
            ))
            .with_hint("[[user]] in the server's configuration says which does")),
        }
    }

    /// Whether calls run as another user than the server does.
    #[cfg(feature = "wasm")]
    pub(crate) fn are_others(&self) -> bool {
        let own = rustix::process::geteuid().as_raw();
        let run_as = self.run_as.as_ref();
        self.mapped.is_some() || run_as.is_some_and(|user| user.uid != own)
    }

    /// As whom a module tells what it is, before anybody calls it: where each identity has a user of
    /// its own, as one without rights.
    pub(crate) fn for_describing(&self) -> Option<User> {
        match &self.mapped {
            None => self.run_as.clone(),
            Some(_) => Some(User::without_rights()),
        }
    }
}

impl From<&User> for RunAs {
    fn from(user: &User) -> Self {
        Self {
            name: user.name.clone(),
            uid: user.uid,
            gid: user.gid,
            groups: user.groups.clone(),
            umask: user.limits.umask,
            no_new_privs: user.limits.no_new_privs,
            open_files: user.limits.open_files,
            processes: user.limits.processes,
            memory_bytes: user.limits.memory_bytes,
            file_bytes: user.limits.file_bytes,
        }
    }
}

impl RunAs {
    /// Makes the whole process this user, for good, and limits it as the user is limited.
    pub(crate) fn assume(&self) -> Result<(), UserError> {
        self.become_user()?;
        self.limit().map_err(|(step, error)| UserError::Become {
            name: self.name.clone(),
            step,
            source: error.into(),
        })
    }

    /// Limits can be lowered by everyone, so this comes last.
    fn limit(&self) -> Result<(), (&'static str, rustix::io::Errno)> {
        if let Some(mask) = self.umask {
            rustix::process::umask(Mode::from_bits_truncate(mask));
        }
        let limits = [
            (Resource::Nofile, self.open_files),
            (Resource::Nproc, self.processes),
            (Resource::As, self.memory_bytes),
            (Resource::Fsize, self.file_bytes),
        ];
        for (resource, limit) in limits {
            if limit.is_none() {
                continue;
            }
            let before = getrlimit(resource).maximum;
            let limit = before.map_or(limit, |before| limit.map(|limit| limit.min(before)));
            let limit = Rlimit {
                current: limit,
                maximum: limit,
            };
            setrlimit(resource, limit).map_err(|error| ("setrlimit", error))?;
        }
        if self.no_new_privs {
            rustix::thread::set_no_new_privs(true).map_err(|error| ("prctl", error))?;
        }
        Ok(())
    }

    fn become_user(&self) -> Result<(), UserError> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        // A server that runs as this user already has no right to change anything, nor the need.
        let already = !unistd::geteuid().is_root()
            && unistd::getresuid()
                .is_ok_and(|ids| [ids.real, ids.effective, ids.saved] == [uid; 3]);
        if already {
            return Ok(());
        }
        let failed = |step| {
            move |error: nix::errno::Errno| UserError::Become {
                name: self.name.clone(),
                step,
                source: error.into(),
            }
        };
        let groups: Vec<_> = self.groups.iter().copied().map(Gid::from_raw).collect();
        unistd::setgroups(&groups).map_err(failed("setgroups"))?;
        unistd::setresgid(gid, gid, gid).map_err(failed("setresgid"))?;
        unistd::setresuid(uid, uid, uid).map_err(failed("setresuid"))?;
        self.check(uid, gid)
    }

    /// Makes sure that there is no way back.
    fn check(&self, uid: Uid, gid: Gid) -> Result<(), UserError> {
        let user =
            unistd::getresuid().is_ok_and(|ids| [ids.real, ids.effective, ids.saved] == [uid; 3]);
        let group =
            unistd::getresgid().is_ok_and(|ids| [ids.real, ids.effective, ids.saved] == [gid; 3]);
        let root = Uid::from_raw(0);
        let way_back = !uid.is_root() && unistd::setresuid(root, root, root).is_ok();
        if user && group && !way_back {
            Ok(())
        } else {
            Err(UserError::NotForGood(self.name.clone()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_nobody_has_is_an_error_that_tells_it() {
        for name in ["no such user here", "", "a\0b"] {
            let error = User::named(name).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn an_identity_without_a_user_has_no_call_and_the_first_that_fits_decides() {
        let user = |name: &str| User {
            name: name.to_owned(),
            ..User::without_rights()
        };
        let users = Users {
            run_as: Some(user("never")),
            mapped: Some(vec![
                (Pattern::new("ops-*"), user("first")),
                (Pattern::new("*-ann"), user("second")),
            ]),
        };
        let name = |identity: &str| users.of(identity).map(|user| user.unwrap().name.clone());
        assert_eq!(name("ops-ann"), Ok("first".into()));
        assert_eq!(name("dev-ann"), Ok("second".into()));
        assert!(name("eve").unwrap_err().to_string().contains("`eve`"));
        assert_eq!(Users::default().of("eve"), Ok(None));
    }

    #[test]
    fn root_is_found_with_its_groups_and_home() {
        let root = User::named("root").unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert!(root.groups.contains(&0) && root.home.is_absolute());
    }
}
