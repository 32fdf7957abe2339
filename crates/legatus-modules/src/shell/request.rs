//! What a request says: checked before anything is done, and told in one line for the audit.

use std::fmt::Write as _;

use bytes::Bytes;
use legatus_core::{Fault, Request as CoreRequest};
use prost::Message;

use super::messages::{Request, request::Mode};

/// Characters of a summary; the audit is for people, and a line of it for one glance.
const SUMMARY_CHARACTERS: usize = 256;

/// Decodes a request and checks that all of it can be handed to the system.
pub(super) fn decode(request: &CoreRequest) -> Result<Request, Fault> {
    let request = Request::decode(request.body.clone())
        .map_err(|_| Fault::new("the request is no `legatus.shell.v1.Request`"))?;
    let strings: Vec<&Bytes> = match &request.mode {
        None => return Err(Fault::new("the request does not say what to run")),
        Some(Mode::Login(_)) => Vec::new(),
        Some(Mode::Line(line)) => vec![line],
        Some(Mode::Subsystem(name)) => vec![name],
        Some(Mode::Command(command)) if command.arguments.is_empty() => {
            return Err(Fault::new("the request names no program"));
        }
        Some(Mode::Command(command)) => command.arguments.iter().collect(),
        Some(Mode::Script(script)) => {
            let head = [&script.name, &script.interpreter];
            head.into_iter().chain(&script.arguments).collect()
        }
    };
    let variables = request.environment.iter();
    let variables = variables.flat_map(|variable| [&variable.name, &variable.value]);
    let kind = request.terminal.as_ref().map(|terminal| &terminal.kind);
    let rest = variables
        .chain([&request.directory, &request.user])
        .chain(kind);
    if strings
        .into_iter()
        .chain(rest)
        .any(|bytes| bytes.contains(&0))
    {
        return Err(Fault::new(
            "the request has a NUL byte, which no argument, variable or path can have",
        ));
    }
    for variable in &request.environment {
        if variable.name.is_empty() || variable.name.contains(&b'=') {
            let name = quoted(&variable.name);
            return Err(Fault::new(format!("{name} is no name of a variable")));
        }
    }
    Ok(request)
}

/// The request in one line: no values of variables, no content of scripts.
pub(super) fn summary(request: &Request) -> String {
    let mut text = match &request.mode {
        None => String::new(),
        Some(Mode::Login(_)) => "login shell".to_owned(),
        Some(Mode::Command(command)) => format!("argv {}", list(&command.arguments)),
        Some(Mode::Line(line)) => format!("line {}", quoted(line)),
        Some(Mode::Subsystem(name)) => format!("subsystem {}", quoted(name)),
        Some(Mode::Script(script)) => {
            let mut text = format!("script {}", quoted(&script.name));
            if !script.interpreter.is_empty() {
                let _ = write!(text, " interpreter {}", quoted(&script.interpreter));
            }
            let _ = write!(text, " argv {}", list(&script.arguments));
            text
        }
    };
    if !request.directory.is_empty() {
        let _ = write!(text, " cwd {}", quoted(&request.directory));
    }
    if !request.environment.is_empty() {
        let names = request.environment.iter().map(|variable| &variable.name);
        let _ = write!(text, " env {}", list(names));
    }
    if request.terminal.is_some() {
        text.push_str(" tty");
    }
    match text.char_indices().nth(SUMMARY_CHARACTERS) {
        Some((end, _)) => {
            text.truncate(end);
            text.push('…');
            text
        }
        None => text,
    }
}

/// Bytes in quotes, with everything escaped that could deceive a reader or a terminal.
pub(super) fn quoted(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    // Nobody is shown more than a summary, so no more is made.
    let shown = bytes.get(..4 * SUMMARY_CHARACTERS).unwrap_or(bytes);
    for chunk in shown.utf8_chunks() {
        let _ = write!(text, "{}", chunk.valid().escape_debug());
        let _ = write!(text, "{}", chunk.invalid().escape_ascii());
    }
    text.push('"');
    text
}

fn list<'a>(items: impl IntoIterator<Item = &'a Bytes>) -> String {
    let items = items.into_iter().take(SUMMARY_CHARACTERS);
    let items: Vec<String> = items.map(|item| quoted(item)).collect();
    format!("[{}]", items.join(","))
}
