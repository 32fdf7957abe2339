//! What the options mean. Those that have no meaning here (ciphers, keys, agents, X11) are taken
//! and noted with `-v`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use legatus_core::{Fault, Host};

use super::Context;
use super::grammar::{Given, Words};
use super::keywords;
use super::values::{forward, is_word, port, readable, unquoted, words};
use crate::cli::{Globals, parse_duration};

/// What is to run at the other side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Session {
    /// A command, or a login shell without one.
    #[default]
    Default,
    /// `-N`: nothing.
    None,
    /// `-s`: the command is a subsystem's name.
    Subsystem,
    /// `-W`: a connection.
    Stdio(OsString),
}

/// Whether the command runs on a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd)]
pub(super) enum Tty {
    /// `-T`
    Never,
    /// A login shell does, if there is one here.
    #[default]
    Auto,
    /// `-t`: if there is one here.
    Yes,
    /// `-tt`: whatever is here.
    Force,
}

/// Everything that a command line asks for.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) globals: Globals,
    pub(super) host: Option<Host>,
    /// The host as it was written, for messages and `-G`.
    pub(super) host_name: String,
    pub(super) user: Option<OsString>,
    pub(super) port: Option<u16>,
    /// `-o HostName`: where the host really is.
    pub(super) address: Option<Host>,
    pub(super) jumps: Vec<Host>,
    pub(super) command: Option<OsString>,
    pub(super) session: Session,
    pub(super) tty: Tty,
    pub(super) no_stdin: bool,
    pub(super) background: bool,
    /// Where the process in the background tells the one in the foreground that it may leave.
    pub(super) ready_descriptor: Option<i32>,
    /// `-L`, `-R` and `-D` with their values.
    pub(super) forwards: Vec<(&'static str, OsString)>,
    /// `-g`: listeners take connections from everywhere.
    pub(super) gateway: bool,
    pub(super) forward_or_fail: bool,
    pub(super) environment: Vec<OsString>,
    /// Patterns of variables to pass on.
    pub(super) send_environment: Vec<String>,
    /// 0, more with each `-v`, below with `-q`.
    pub(super) verbosity: i32,
    pub(super) describe: bool,
    pub(super) version: bool,
    /// `--help`, which ssh does not have.
    pub(super) help: bool,
    /// What was taken and means nothing here.
    pub(super) notes: Vec<String>,
    remote_command: Option<OsString>,
    /// Options of `-o` that were seen: the first one counts, as with ssh.
    seen: Vec<String>,
    clear_forwards: bool,
    /// Unknown options of `-o` that are to be ignored, in lower case.
    ignored: Vec<legatus_core::Pattern>,
}

impl Asked {
    /// What words mean.
    ///
    /// # Errors
    /// When an option's value makes no sense, or there is no host.
    pub(super) fn from_words(words: Words, context: &Context<'_>) -> Result<Self, Fault> {
        let mut asked = Self {
            globals: context.globals.clone(),
            ..Self::default()
        };
        for option in &words.options {
            match option {
                Given::Flag(letter) => asked.flag(*letter),
                Given::Valued(letter, value) => asked.valued(*letter, value)?,
                Given::Long(name, value) => asked.long(name, value)?,
            }
        }
        if asked.version || asked.help {
            return Ok(asked);
        }
        let Some(host) = words.host else {
            return Err(Fault::new("no host is named"));
        };
        asked.destination(&host)?;
        asked.command = words.command;
        asked.finish()
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.verbosity < 0
    }

    /// Takes `[user@]host` or `ssh://[user@]host[:port]` apart.
    fn destination(&mut self, text: &OsStr) -> Result<(), Fault> {
        let no_host = |why: &str| Fault::new(format!("`{}` is no host: {why}", text.display()));
        let text_ = text.to_str().ok_or_else(|| no_host("it is no UTF-8"))?;
        let (text_, is_uri) = match text_.strip_prefix("ssh://") {
            Some(rest) => (rest.strip_suffix('/').unwrap_or(rest), true),
            None => (text_, false),
        };
        let (user, host) = match text_.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, text_),
        };
        if host.starts_with('-') || user.is_some_and(|user| user.starts_with('-')) {
            return Err(no_host("it begins with a dash"));
        }
        if user == Some("") {
            return Err(no_host("the user before `@` is empty"));
        }
        let mut parsed: Host = host
            .parse()
            .map_err(|error: legatus_core::InvalidHost| Fault::new(error.to_string()))?;
        if is_uri {
            self.port = self.port.or(parsed.port);
            parsed.port = None;
        }
        // `-l` comes before `user@`, as with ssh, where the first one counts.
        if self.user.is_none() {
            self.user = user.map(OsString::from);
        }
        self.host_name = host.to_owned();
        self.host = Some(parsed);
        Ok(())
    }

    fn flag(&mut self, letter: char) {
        match letter {
            'f' => self.background = true,
            'G' => self.describe = true,
            'g' => self.gateway = true,
            'N' => self.session = Session::None,
            'n' => self.no_stdin = true,
            'q' => self.verbosity = -1,
            's' => self.session = Session::Subsystem,
            'T' => self.tty = Tty::Never,
            't' if self.tty == Tty::Yes => self.tty = Tty::Force,
            't' if self.tty != Tty::Force => self.tty = Tty::Yes,
            'V' => self.version = true,
            'v' => self.verbosity = self.verbosity.max(0) + 1,
            _ => self.notes.push(format!("-{letter}")),
        }
    }

    fn valued(&mut self, letter: char, value: &OsStr) -> Result<(), Fault> {
        match letter {
            'D' => self.forwards.push(("dynamic", value.to_owned())),
            'L' => self.forwards.push(("local", value.to_owned())),
            'R' => self.forwards.push(("remote", value.to_owned())),
            'J' => self.jump(readable(value)?)?,
            'l' => self.user = self.user.take().or_else(|| Some(value.to_owned())),
            'O' => {
                let message = "there is no shared connection to control (-O)";
                return Err(Fault::new(message)
                    .with_hint("each call connects anew, which is quick; nothing needs closing"));
            }
            'o' => self.keyword(value)?,
            'p' => self.port = self.port.or(Some(port(value)?)),
            'Q' | 'w' => {
                return Err(Fault::new(format!(
                    "the option -{letter} is not offered here"
                )));
            }
            'W' => {
                self.session = Session::Stdio(value.to_owned());
                self.clear_forwards = true;
            }
            _ => self
                .notes
                .push(format!("-{letter} {}", value.to_string_lossy())),
        }
        Ok(())
    }

    fn long(&mut self, name: &str, value: &OsStr) -> Result<(), Fault> {
        let path = || PathBuf::from(value);
        match name {
            "ca" => self.globals.ca = Some(path()),
            "cert" => self.globals.cert.push(path()),
            "config" => self.globals.config = Some(path()),
            "connect-timeout" => {
                let parsed = parse_duration(readable(value)?);
                let invalid =
                    |expected| Fault::new(format!("`{}` is not {expected}", value.display()));
                self.globals.connect_timeout = Some(parsed.map_err(invalid)?);
            }
            "help" => self.help = true,
            "key" => self.globals.key.push(path()),
            "log-level" => self.globals.log_level = Some(readable(value)?.to_owned()),
            "ready-descriptor" => {
                let number = readable(value)?.parse().ok();
                self.ready_descriptor =
                    Some(number.ok_or_else(|| Fault::new("--ready-descriptor is for us only"))?);
            }
            "subsystem" => {
                self.session = Session::Subsystem;
                self.remote_command = Some(value.to_owned());
            }
            _ => self.globals.system_roots = true,
        }
        Ok(())
    }

    fn jump(&mut self, text: &str) -> Result<(), Fault> {
        if !self.jumps.is_empty() || text.eq_ignore_ascii_case("none") {
            return Ok(());
        }
        for hop in text.split(',') {
            // Calls run as whom the server says; for a jump nobody needs to care.
            let host = hop.rsplit_once('@').map_or(hop, |(_, host)| host);
            let host = host.strip_prefix("ssh://").unwrap_or(host);
            let parsed = host.parse();
            self.jumps.push(
                parsed.map_err(|error: legatus_core::InvalidHost| Fault::new(error.to_string()))?,
            );
        }
        Ok(())
    }

    /// `-o KEY=VALUE`, `-o "KEY VALUE"` and `-o KEY = VALUE`; keys in any case.
    fn keyword(&mut self, text: &OsStr) -> Result<(), Fault> {
        let bytes = text.as_bytes().trim_ascii();
        let is_separator = |byte: &u8| *byte == b'=' || byte.is_ascii_whitespace();
        let end = bytes.iter().position(is_separator).unwrap_or(bytes.len());
        let (key, rest) = bytes.split_at(end);
        let rest = rest.trim_ascii_start();
        let rest = rest.strip_prefix(b"=").unwrap_or(rest).trim_ascii();
        let key = String::from_utf8_lossy(key).to_ascii_lowercase();
        if rest.is_empty() {
            return Err(Fault::new(format!("-o `{key}` lacks its value")));
        }
        let may_repeat = [
            "sendenv",
            "setenv",
            "localforward",
            "remoteforward",
            "dynamicforward",
        ];
        if self.seen.contains(&key) && !may_repeat.contains(&key.as_str()) {
            return Ok(());
        }
        let value = unquoted(rest);
        self.seen.push(key.clone());
        self.set(&key, &value, rest)
    }

    fn set(&mut self, key: &str, value: &OsStr, raw: &[u8]) -> Result<(), Fault> {
        match key {
            "port" => self.port = self.port.or(Some(port(value)?)),
            "user" => self.user = self.user.take().or_else(|| Some(value.to_owned())),
            "hostname" => {
                let parsed = readable(value)?.parse();
                let invalid = |error: legatus_core::InvalidHost| Fault::new(error.to_string());
                self.address = Some(parsed.map_err(invalid)?);
            }
            "connecttimeout" => {
                if let Ok(seconds) = readable(value)?.parse() {
                    self.globals.connect_timeout = Some(Duration::from_secs(seconds));
                }
            }
            "proxyjump" => self.jump(readable(value)?)?,
            "remotecommand" if !is_word(value, "none") => {
                self.remote_command = Some(OsStr::from_bytes(raw).to_owned());
            }
            "requesttty" => {
                self.tty = match readable(value)?.to_ascii_lowercase().as_str() {
                    _ if self.tty != Tty::Auto => self.tty,
                    "no" => Tty::Never,
                    "yes" => Tty::Yes,
                    "force" => Tty::Force,
                    _ => Tty::Auto,
                }
            }
            "sessiontype" if is_word(value, "none") => self.session = Session::None,
            "sessiontype" if is_word(value, "subsystem") => self.session = Session::Subsystem,
            "stdinnull" => self.no_stdin |= is_word(value, "yes"),
            "forkafterauthentication" => self.background |= is_word(value, "yes"),
            "gatewayports" => self.gateway |= is_word(value, "yes"),
            "exitonforwardfailure" => self.forward_or_fail = is_word(value, "yes"),
            "clearallforwardings" => self.clear_forwards |= is_word(value, "yes"),
            "localforward" => self.forwards.push(("local", forward(raw))),
            "remoteforward" => self.forwards.push(("remote", forward(raw))),
            "dynamicforward" => self.forwards.push(("dynamic", value.to_owned())),
            "sendenv" => self.send_environment.extend(
                words(raw)
                    .iter()
                    .map(|word| word.to_string_lossy().into_owned()),
            ),
            "setenv" => {
                let words = words(raw);
                if let Some(bad) = words.iter().find(|word| !word.as_bytes().contains(&b'=')) {
                    let bad = bad.display();
                    return Err(Fault::new(format!("SetEnv `{bad}` is not NAME=VALUE")));
                }
                self.environment.extend(words);
            }
            "loglevel" => {
                let level = readable(value)?.to_ascii_lowercase();
                self.verbosity = match level.as_str() {
                    _ if self.verbosity != 0 => self.verbosity,
                    "quiet" | "fatal" => -1,
                    "verbose" => 1,
                    level if level.starts_with("debug") => 2,
                    _ => 0,
                };
            }
            // Calls never ask for anything, connections are quick, and dead ones are noticed.
            "batchmode"
            | "controlmaster"
            | "controlpath"
            | "controlpersist"
            | "sessiontype"
            | "serveraliveinterval"
            | "serveralivecountmax"
            | "tcpkeepalive"
            | "permitlocalcommand"
            | "remotecommand" => {}
            "proxycommand" if is_word(value, "none") => {}
            "proxycommand" => {
                let message =
                    "another program's way to the host (-o ProxyCommand) is not offered here";
                return Err(Fault::new(message).with_hint("-J leads through a Legatus host"));
            }
            "tunnel" if is_word(value, "no") => {}
            "tunnel" => return Err(Fault::new("tunnels (-o Tunnel) are not offered here")),
            _ if keywords::MEANINGLESS.contains(&key) => {
                let value = String::from_utf8_lossy(raw);
                self.notes.push(format!("-o {key}={value}"));
            }
            "ignoreunknown" => {
                let patterns = readable(value)?.to_ascii_lowercase();
                let patterns = patterns.split(',').map(legatus_core::Pattern::new);
                self.ignored.extend(patterns);
            }
            _ if self.ignored.iter().any(|pattern| pattern.matches(key)) => {}
            _ => return Err(Fault::new(format!("unknown option -o {key}"))),
        }
        Ok(())
    }

    /// What only all options together mean.
    fn finish(mut self) -> Result<Self, Fault> {
        match (&self.command, self.remote_command.take()) {
            (Some(_), Some(_)) if self.session == Session::Default => {
                return Err(Fault::new(
                    "a command is given by -o RemoteCommand and on the command line",
                ));
            }
            (None, Some(command)) => self.command = Some(command),
            _ => {}
        }
        if self.session == Session::Subsystem && self.command.is_none() {
            return Err(Fault::new("-s needs the name of a subsystem"));
        }
        if self.session == Session::None {
            self.command = None;
        }
        if self.background {
            self.no_stdin = true;
            if self.session == Session::Default && self.command.is_none() {
                return Err(Fault::new(
                    "cannot go to the background (-f) without a command to run",
                ));
            }
        }
        if self.clear_forwards {
            self.forwards.clear();
        }
        if self.gateway {
            for (kind, value) in &mut self.forwards {
                let is_bare = value.as_bytes().first().is_some_and(u8::is_ascii_digit);
                let parts = value
                    .as_bytes()
                    .iter()
                    .filter(|byte| **byte == b':')
                    .count();
                if is_bare && parts == if *kind == "dynamic" { 0 } else { 2 } && *kind != "remote" {
                    let mut open = OsString::from("*:");
                    open.push(&*value);
                    *value = open;
                }
            }
        }
        Ok(self)
    }
}
