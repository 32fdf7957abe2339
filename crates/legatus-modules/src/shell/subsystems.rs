//! Programs that a server has under a name, as sshd's `Subsystem` has it.
//!
//! ```toml
//! [settings.shell.subsystems]
//! sftp = ["/usr/lib/openssh/sftp-server", "-l", "INFO"]   # default: the first usual one that exists
//! backup = ["/usr/local/bin/backup-server"]
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use legatus_core::{Fault, Request as CoreRequest, Settings};
use prost::Message;

use super::messages::{Command, request::Mode};
use super::request;

/// Where distributions keep OpenSSH's sftp-server.
const SFTP_SERVERS: [&str; 4] = [
    "/usr/lib/openssh/sftp-server",
    "/usr/libexec/openssh/sftp-server",
    "/usr/lib/ssh/sftp-server",
    "/usr/libexec/sftp-server",
];

/// Programs by name, each with its arguments.
#[derive(Debug)]
pub(super) struct Subsystems(BTreeMap<String, Vec<String>>);

impl Default for Subsystems {
    fn default() -> Self {
        let sftp = SFTP_SERVERS.iter().find(|path| Path::new(path).exists());
        let sftp = sftp.map(|path| ("sftp".to_owned(), vec![(*path).to_owned()]));
        Self(sftp.into_iter().collect())
    }
}

impl Subsystems {
    /// Those of the settings, beside the default ones. An empty list takes one away.
    pub(super) fn from_settings(settings: &Settings) -> Result<Self, Fault> {
        settings.check_names(&["subsystems."])?;
        let Self(mut programs) = Self::default();
        for (name, words) in settings.table("subsystems") {
            match words.first() {
                None => {
                    programs.remove(name);
                }
                Some(program) if !program.starts_with('/') => {
                    return Err(Fault::new(format!(
                        "the subsystem `{name}` is not named by an absolute path: `{program}`"
                    )));
                }
                Some(_) => {
                    programs.insert(name.to_owned(), words.to_vec());
                }
            }
        }
        Ok(Self(programs))
    }

    /// The request with the subsystem's program, if it asks for one.
    pub(super) fn resolve(&self, request: CoreRequest) -> Result<CoreRequest, Fault> {
        let mut decoded = request::decode(&request)?;
        let Some(Mode::Subsystem(name)) = &decoded.mode else {
            return Ok(request);
        };
        let found = std::str::from_utf8(name)
            .ok()
            .and_then(|name| self.0.get(name));
        let Some(words) = found else {
            let name = request::quoted(name);
            return Err(
                Fault::new(format!("the server has no subsystem {name}")).with_hint(
                    "[settings.shell.subsystems] in the server's configuration lists them",
                ),
            );
        };
        let words = words
            .iter()
            .map(|word| Bytes::copy_from_slice(word.as_bytes()));
        decoded.mode = Some(Mode::Command(Command {
            arguments: words.collect(),
        }));
        Ok(CoreRequest {
            body: decoded.encode_to_vec().into(),
            ..request
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages::{Request, request::Mode};
    use super::*;

    fn asked(name: &'static str) -> CoreRequest {
        let request = Request {
            mode: Some(Mode::Subsystem(Bytes::from_static(name.as_bytes()))),
            user: Bytes::from_static(b"ann"),
            ..Request::default()
        };
        CoreRequest::from_body(request.encode_to_vec())
    }

    #[test]
    fn an_unknown_subsystem_and_a_relative_program_are_refused() {
        let settings = Settings::new().with("subsystems.sftp", [""; 0]);
        let subsystems = Subsystems::from_settings(&settings).unwrap();
        for name in ["sftp", "netconf", "../sh"] {
            assert!(subsystems.resolve(asked(name)).is_err(), "{name}");
        }
        let relative = Settings::new().with("subsystems.x", ["sftp-server"]);
        assert!(Subsystems::from_settings(&relative).is_err());
        let unknown = Settings::new().with("subsystem.x", ["/bin/true"]);
        assert!(Subsystems::from_settings(&unknown).is_err());
    }

    #[test]
    fn a_subsystem_becomes_its_command_and_nothing_else_changes() {
        let settings = Settings::new().with("subsystems.backup", ["/bin/echo", "a b"]);
        let subsystems = Subsystems::from_settings(&settings).unwrap();
        let resolved = subsystems.resolve(asked("backup")).unwrap();
        let resolved = request::decode(&resolved).unwrap();
        let expected = ["/bin/echo", "a b"].map(|word| Bytes::from_static(word.as_bytes()));
        assert_eq!(
            resolved.mode,
            Some(Mode::Command(Command {
                arguments: expected.into()
            }))
        );
        assert_eq!(resolved.user, "ann");
        let line = Request {
            mode: Some(Mode::Line("ls".into())),
            ..Request::default()
        };
        let line = CoreRequest::from_body(line.encode_to_vec());
        assert_eq!(subsystems.resolve(line.clone()).unwrap(), line);
    }
}
