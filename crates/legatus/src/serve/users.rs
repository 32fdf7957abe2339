//! As which user of the operating system the calls of an identity run.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use legatus_core::{Fault, Pattern};
use legatus_host::{Launcher, User, UserLimits};
use serde::Deserialize;

use super::options::Settings;

/// One rule: the first whose pattern fits an identity decides.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct UserRule {
    /// A pattern of identities.
    identity: String,
    /// The user's login name.
    user: String,
    /// Supplementary groups instead of those of the group database.
    groups: Option<Vec<String>>,
    /// Instead of those of the user database.
    home: Option<PathBuf>,
    shell: Option<PathBuf>,
    /// In octal digits.
    umask: Option<String>,
    #[serde(default)]
    no_new_privs: bool,
    max_open_files: Option<u64>,
    max_processes: Option<u64>,
    max_memory_bytes: Option<u64>,
    max_file_bytes: Option<u64>,
}

/// Has the launcher start holders as the users that the settings say: root gives its own rights away
/// only when told to.
pub(super) fn assign(mut launcher: Launcher, settings: &Settings) -> Result<Launcher> {
    launcher.variables.clone_from(&settings.accept_env);
    let root = rustix::process::geteuid().is_root();
    match (&settings.run_as, settings.users.as_slice()) {
        (Some(_), [_, ..]) => bail!(
            Fault::new("--run-as names one user for all, and [[user]] one for each identity")
                .with_hint("leave one of them out")
        ),
        (None, [_, ..]) if !root => bail!(
            Fault::new("only root can run calls as the users of [[user]]")
                .with_hint("start the server as root, or leave [[user]] out")
        ),
        (None, rules @ [_, ..]) => {
            let users: Result<_> = rules.iter().map(UserRule::resolve).collect();
            launcher.users.mapped = Some(users?);
            Ok(launcher)
        }
        (Some(name), []) if root => Ok(launcher.with_user(User::named(name)?)),
        (Some(name), []) => {
            let user = User::named(name)?;
            if user.uid != rustix::process::geteuid().as_raw() {
                bail!(
                    Fault::new(format!(
                        "cannot run calls as `{name}`: only root can change users"
                    ))
                    .with_hint("start the server as root, or leave out --run-as")
                );
            }
            Ok(launcher)
        }
        (None, []) if root => bail!(Fault::new("refusing to run every call as root").with_hint(
            "name the user with --run-as USER, or one for each identity with [[user]] in the \
             configuration; to really run calls as root, say --run-as root",
        )),
        (None, []) => {
            tracing::info!("not started by root: every call runs with the server's own rights");
            Ok(launcher)
        }
    }
}

impl UserRule {
    /// The user with everything that is said of it.
    fn resolve(&self) -> Result<(Pattern, User)> {
        let mut user = User::named(&self.user)?;
        if let Some(groups) = &self.groups {
            user = user.with_groups(groups)?;
        }
        user.home = self.home.clone().unwrap_or(user.home);
        user.shell = self.shell.clone().unwrap_or(user.shell);
        user.limits = UserLimits {
            umask: self.umask()?,
            no_new_privs: self.no_new_privs,
            open_files: self.max_open_files,
            processes: self.max_processes,
            memory_bytes: self.max_memory_bytes,
            file_bytes: self.max_file_bytes,
        };
        Ok((Pattern::new(&self.identity), user))
    }

    fn umask(&self) -> Result<Option<u32>> {
        let Some(text) = &self.umask else {
            return Ok(None);
        };
        let mask = u32::from_str_radix(text, 8)
            .ok()
            .filter(|mask| *mask <= 0o777);
        let what = || format!("the umask `{text}` is no octal number up to 777");
        Ok(Some(mask.with_context(what)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> UserRule {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn users_groups_and_masks_that_do_not_exist_are_errors() {
        for bad in [
            "identity = 'a'\nuser = 'no such user here'",
            "identity = 'a'\nuser = 'root'\ngroups = ['no such group here']",
            "identity = 'a'\nuser = 'root'\numask = '999'",
            "identity = 'a'\nuser = 'root'\numask = '1000'",
        ] {
            assert!(rule(bad).resolve().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_a_rule_says_goes_before_what_the_databases_say() {
        let rule =
            rule("identity = 'ops-*'\nuser = 'root'\ngroups = []\nhome = '/h'\numask = '027'");
        let (pattern, user) = rule.resolve().unwrap();
        assert!(pattern.matches("ops-ann") && !pattern.matches("ann"));
        assert_eq!((user.groups, user.home), (vec![0], PathBuf::from("/h")));
        assert_eq!(user.limits.umask, Some(0o027));
    }
}
