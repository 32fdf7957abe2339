//! From a user's arguments to a request.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use bytes::Bytes;
use legatus_core::{
    Arguments, Fault, Keeping, Local, Request as CoreRequest, TerminalSize, limits,
};
use prost::Message;

use super::messages::{Command, Login, Request, Script, Terminal, Variable, request::Mode};

/// The locale's variables (locale(7)), which are passed on as by ssh.
const LOCALE: [&str; 15] = [
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_ADDRESS",
    "LC_COLLATE",
    "LC_CTYPE",
    "LC_IDENTIFICATION",
    "LC_MEASUREMENT",
    "LC_MESSAGES",
    "LC_MONETARY",
    "LC_NAME",
    "LC_NUMERIC",
    "LC_PAPER",
    "LC_TELEPHONE",
    "LC_TIME",
];

/// What a user's arguments ask for.
pub(super) struct Asked {
    pub(super) request: CoreRequest,
    /// The size of the terminal that it is to run on, if on one.
    pub(super) terminal: Option<TerminalSize>,
}

/// What a user's arguments ask for.
pub(super) fn request(arguments: &Arguments, local: &dyn Local) -> Result<Asked, Fault> {
    let mode = mode(arguments)?;
    let is_shown = local
        .terminal()
        .is_some_and(|terminal| terminal.shows_output());
    let interactive = matches!(mode, Mode::Login(_)) && is_shown && !arguments.is_given("no-tty");
    let on_terminal = interactive || arguments.is_given("tty");
    let size = on_terminal.then(|| size(local));
    let request = Request {
        environment: environment(arguments, local)?,
        directory: bytes(arguments.last("cwd").unwrap_or_default()),
        terminal: size.map(|size| terminal(local, size)),
        user: bytes(arguments.last("user").unwrap_or_default()),
        mode: Some(mode),
    };
    let mut request = CoreRequest::from_body(request.encode_to_vec());
    // As with timeout(1).
    request.timeout = arguments
        .duration("timeout")?
        .filter(|timeout| !timeout.is_zero());
    request.keeping = keeping(arguments, on_terminal)?;
    Ok(Asked {
        request,
        terminal: size,
    })
}

/// How long people stay away from their terminal: a night and a morning.
const LINGER_ON_TERMINAL: Duration = Duration::from_secs(24 * 3600);

/// How the call is kept when its connection is lost; not at all if it is not to linger.
fn keeping(arguments: &Arguments, on_terminal: bool) -> Result<Option<Keeping>, Fault> {
    let usual = Keeping::default();
    let detached = arguments.is_given("detach");
    let linger = match arguments.duration("linger")? {
        Some(linger) => linger,
        None if on_terminal || detached => LINGER_ON_TERMINAL,
        None => usual.linger,
    };
    let name = arguments.last("name").unwrap_or_default();
    let name = name
        .to_str()
        .filter(|name| name.len() <= limits::SESSION_NAME_BYTES);
    let name = name.ok_or_else(|| {
        let limit = limits::SESSION_NAME_BYTES;
        Fault::new(format!("--name takes at most {limit} bytes of UTF-8"))
    })?;
    // What nobody has seen yet, or a terminal's scrollback, is worth more than what is just passing.
    let replay_bytes = match on_terminal || detached || !name.is_empty() {
        true => limits::SESSION_BYTES,
        false => usual.replay_bytes,
    };
    let keeping = Keeping {
        linger,
        keep: match arguments.duration("keep")? {
            Some(keep) => keep,
            None if detached => usual.keep,
            // Only who has started it will ask.
            None => linger,
        },
        name: name.to_owned(),
        replay_bytes,
        terminal: on_terminal,
        detached,
    };
    Ok((!linger.is_zero()).then_some(keeping))
}

fn mode(arguments: &Arguments) -> Result<Mode, Fault> {
    let words = arguments.all("argument").iter().map(|word| bytes(word));
    let words: Vec<Bytes> = words.collect();
    if arguments.is_given("interpreter") && !arguments.is_given("script") {
        return Err(Fault::new("--interpreter runs a script, and none is given")
            .with_hint("add --script FILE"));
    }
    if let Some(name) = arguments.last("subsystem") {
        return Ok(Mode::Subsystem(bytes(name)));
    }
    match (arguments.last("command"), arguments.last("script")) {
        (Some(_), Some(_)) => Err(Fault::new("--command and --script exclude each other")),
        (Some(_), None) if !words.is_empty() => Err(Fault::new(
            "--command takes the whole line, and nothing follows `--`",
        )
        .with_hint("without --command, what follows `--` is the command")),
        (Some(line), None) => Ok(Mode::Line(bytes(line))),
        (None, Some(script)) => Ok(Mode::Script(Script {
            name: bytes(script),
            interpreter: bytes(arguments.last("interpreter").unwrap_or_default()),
            arguments: words,
        })),
        (None, None) if words.is_empty() => Ok(Mode::Login(Login {})),
        (None, None) => Ok(Mode::Command(Command { arguments: words })),
    }
}

fn environment(arguments: &Arguments, local: &dyn Local) -> Result<Vec<Variable>, Fault> {
    let locale = LOCALE.iter().filter_map(|name| {
        let value = local.environment(name)?;
        Some(Ok(Variable {
            name: Bytes::from_static(name.as_bytes()),
            value: bytes(&value),
        }))
    });
    let given = arguments.all("env").iter().map(|pair| {
        let pair = bytes(pair);
        match pair.iter().position(|byte| *byte == b'=') {
            None | Some(0) => {
                let shown = super::request::quoted(&pair);
                Err(Fault::new(format!("{shown} sets no variable"))
                    .with_hint("write --env NAME=VALUE"))
            }
            Some(end) => Ok(Variable {
                name: pair.slice(..end),
                value: pair.slice(end + 1..),
            }),
        }
    });
    locale.chain(given).collect()
}

fn size(local: &dyn Local) -> TerminalSize {
    let usual = TerminalSize {
        columns: 80,
        rows: 24,
    };
    local.terminal().map_or(usual, |terminal| terminal.size())
}

fn terminal(local: &dyn Local, size: TerminalSize) -> Terminal {
    Terminal {
        kind: bytes(&local.environment("TERM").unwrap_or_default()),
        columns: size.columns.into(),
        rows: size.rows.into(),
    }
}

fn bytes(text: &OsStr) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}
