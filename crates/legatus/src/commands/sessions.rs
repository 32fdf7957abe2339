//! `legatus sessions`, `attach` and `end`: calls that run on without a connection.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use legatus_core::wire::{ListSessionsReply, Session};
use legatus_core::{Attach, Fault, Host, Outcome};
use serde::Serialize;

use super::Context;
use super::call;
use crate::config::{Configuration, ResolvedHost};
use crate::connect::{ConnectFailure, Connector};
use crate::console::{self, printable};
use crate::verdict;

/// The flags of `legatus sessions`.
#[derive(clap::Args, Clone, Debug)]
pub struct ListArguments {
    /// The host
    #[arg(value_hint = clap::ValueHint::Hostname)]
    host: Host,
}

/// The flags of `legatus attach`.
#[derive(clap::Args, Clone, Debug)]
pub struct AttachArguments {
    /// The host
    #[arg(value_hint = clap::ValueHint::Hostname)]
    host: Host,
    /// The session's id (its beginning is enough) or name
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    session: String,
    /// Only watch
    #[arg(long)]
    read_only: bool,
    /// Give the session's terminal the size of this one, although others who are attached have smaller ones
    #[arg(long, conflicts_with = "read_only")]
    own_size: bool,
    /// Show typed characters only when they have come back from there
    #[arg(long)]
    no_prediction: bool,
}

/// The flags of `legatus end`.
#[derive(clap::Args, Clone, Debug)]
pub struct EndArguments {
    /// The host
    #[arg(value_hint = clap::ValueHint::Hostname)]
    host: Host,
    /// The session's id (its beginning is enough) or name
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    session: String,
    /// Send what it runs this signal instead (a name such as HUP, or a number)
    #[arg(long, value_name = "SIGNAL", value_parser = signal)]
    signal: Option<u8>,
}

/// A session as it is listed for machines.
#[derive(Debug, Serialize)]
struct Row<'a> {
    id: &'a str,
    name: &'a str,
    identity: &'a str,
    user: &'a str,
    module: &'a str,
    arguments: &'a str,
    started: String,
    clients: u32,
    idle_seconds: f64,
    bytes_in: u64,
    bytes_out: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u8>,
}

/// Lists sessions.
pub(crate) fn list(arguments: &ListArguments, context: &Context<'_>) -> anyhow::Result<ExitCode> {
    let asked = ask(&arguments.host, context, async |host, connector| {
        connector.sessions(host).await
    })?;
    let sessions = match asked {
        Ok(ListSessionsReply { sessions }) => sessions,
        Err(outcome) => return Ok(verdict::tell(&outcome, context.globals.json)),
    };
    let text = if context.globals.json {
        json_lines(&sessions)?
    } else {
        table(&sessions, SystemTime::now())
    };
    console::print(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Attaches to a session.
pub(crate) fn attach(
    arguments: AttachArguments,
    context: &Context<'_>,
) -> anyhow::Result<ExitCode> {
    let AttachArguments {
        host,
        session,
        read_only,
        own_size,
        no_prediction,
    } = arguments;
    call::drive(&host, context, async |host, connector, local| {
        let listed = match connector.sessions(host).await {
            Ok(listed) => listed.sessions,
            Err(failure) => return failure.into(),
        };
        let found = match find(&listed, &session) {
            Ok(found) => found,
            Err(fault) => return Outcome::Failed(fault),
        };
        let module = match context.registry.resolve(&found.module) {
            Ok(module) => module,
            Err(unknown) => return Outcome::Failed(unknown.into()),
        };
        let attach = Attach {
            session: found.id.clone(),
            read_only,
            own_size,
            terminal: found.terminal,
            predicts: !no_prediction,
            ..Attach::default()
        };
        call::call(
            module.as_ref(),
            &module.spec().name,
            host,
            connector,
            local,
            async |sender, caller| sender.attach(attach, caller, local).await,
        )
        .await
    })
}

/// Ends a session, or signals what it runs.
pub(crate) fn end(arguments: &EndArguments, context: &Context<'_>) -> anyhow::Result<ExitCode> {
    let EndArguments {
        host,
        session,
        signal,
    } = arguments;
    let ended = ask(host, context, async |host, connector| {
        let listed = connector.sessions(host).await?.sessions;
        match find(&listed, session) {
            Ok(found) => connector
                .end_session(host, &found.id, *signal)
                .await
                .map(|ended| {
                    ended
                        .then_some(())
                        .ok_or_else(|| Fault::new("it has ended already"))
                }),
            Err(fault) => Ok(Err(fault)),
        }
    })?;
    let outcome = match ended {
        Ok(Ok(())) => Outcome::SUCCESS,
        Ok(Err(fault)) => Outcome::Failed(fault),
        Err(outcome) => outcome,
    };
    Ok(verdict::tell(&outcome, context.globals.json))
}

fn ask<T>(
    host: &Host,
    context: &Context<'_>,
    question: impl AsyncFnOnce(&ResolvedHost, &dyn Connector) -> Result<T, ConnectFailure>,
) -> anyhow::Result<Result<T, Outcome>> {
    let configuration = Configuration::load(context.globals, context.environment)?;
    call::start_logging(&configuration)?;
    let host = configuration.resolve(host)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let answer = runtime.block_on(question(&host, context.connector));
    runtime.shutdown_background();
    Ok(answer.map_err(Outcome::from))
}

/// The one session of that id, name, or beginning of an id.
fn find<'a>(sessions: &'a [Session], wanted: &str) -> Result<&'a Session, Fault> {
    let exact = sessions
        .iter()
        .filter(|session| session.id == wanted || (session.name == wanted && !wanted.is_empty()));
    let exact: Vec<_> = exact.collect();
    let fitting = match exact.as_slice() {
        [] => sessions
            .iter()
            .filter(|session| !wanted.is_empty() && session.id.starts_with(wanted))
            .collect(),
        _ => exact,
    };
    match fitting.as_slice() {
        [found] => Ok(found),
        [] => Err(Fault::new(format!("there is no session `{wanted}`"))
            .with_hint("`legatus sessions HOST` lists those that there are")),
        several => Err(
            Fault::new(format!("{} sessions fit `{wanted}`", several.len()))
                .with_hint("`legatus sessions HOST` lists their ids"),
        ),
    }
}

/// A signal's number, or its name with or without SIG.
fn signal(text: &str) -> Result<u8, String> {
    const NAMES: [(&str, u8); 12] = [
        ("HUP", 1),
        ("INT", 2),
        ("QUIT", 3),
        ("ABRT", 6),
        ("KILL", 9),
        ("USR1", 10),
        ("USR2", 12),
        ("ALRM", 14),
        ("TERM", 15),
        ("CONT", 18),
        ("STOP", 19),
        ("TSTP", 20),
    ];
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let named = NAMES.iter().find(|(known, _)| *known == name);
    let number = named
        .map(|(_, number)| *number)
        .or_else(|| text.parse().ok());
    number
        .filter(|number| (1..=64).contains(number))
        .ok_or_else(|| "expected a signal such as TERM, HUP or 9".to_owned())
}

fn json_lines(sessions: &[Session]) -> serde_json::Result<String> {
    let lines = sessions.iter().map(|session| {
        let outcome = session.outcome.clone().map(Outcome::from);
        let row = Row {
            id: &session.id,
            name: &session.name,
            identity: &session.identity,
            user: &session.user,
            module: &session.module,
            arguments: &session.summary,
            started: jiff::Timestamp::from_millisecond(
                i64::try_from(session.started_milliseconds).unwrap_or(i64::MAX),
            )
            .map(|time| time.to_string())
            .unwrap_or_default(),
            clients: session.clients,
            idle_seconds: Duration::from_millis(session.idle_milliseconds).as_secs_f64(),
            bytes_in: session.bytes_in,
            bytes_out: session.bytes_out,
            outcome: outcome.as_ref().map(Outcome::kind),
            status: outcome.as_ref().map(Outcome::exit_status),
        };
        Ok(serde_json::to_string(&row)? + "\n")
    });
    lines.collect()
}

/// The sessions in columns as wide as their widest cell.
fn table(sessions: &[Session], now: SystemTime) -> String {
    let header = [
        "ID", "NAME", "IDENTITY", "SINCE", "IDLE", "CLIENTS", "OUTPUT", "STATE", "WHAT",
    ];
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let rows = sessions.iter().map(|session| {
        let started = Duration::from_millis(session.started_milliseconds);
        let outcome = session.outcome.clone().map(Outcome::from);
        let state = outcome.map_or_else(
            || "runs".to_owned(),
            |outcome| match outcome {
                Outcome::Exit(status) => format!("exit {status}"),
                Outcome::Signal(signal) => format!("signal {signal}"),
                other => other.kind().to_owned(),
            },
        );
        [
            session.id.get(..12).unwrap_or(&session.id).to_owned(),
            if session.name.is_empty() {
                "-"
            } else {
                &session.name
            }
            .to_owned(),
            session.identity.clone(),
            age(now.saturating_sub(started)),
            age(Duration::from_millis(session.idle_milliseconds)),
            session.clients.to_string(),
            session.bytes_out.to_string(),
            state,
            format!("{} {}", session.module, session.summary),
        ]
        .map(|cell| printable(&cell).into_owned())
    });
    let rows: Vec<_> = std::iter::once(header.map(str::to_owned))
        .chain(rows)
        .collect();
    let mut widths = [0; 9];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in &rows {
        let cells = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A length of time in its largest unit.
fn age(time: Duration) -> String {
    match time.as_secs() {
        seconds @ ..120 => format!("{seconds}s"),
        seconds @ 120..7_200 => format!("{}m", seconds / 60),
        seconds @ 7_200..172_800 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(id: &str, name: &str) -> Session {
        Session {
            id: id.to_owned(),
            name: name.to_owned(),
            identity: "ann".to_owned(),
            module: "shell".to_owned(),
            summary: "argv [\"a\x1b[2J\"]".to_owned(),
            started_milliseconds: 1_000,
            ..Session::default()
        }
    }

    #[test]
    fn a_session_is_found_by_name_id_or_beginning_and_never_by_chance() {
        let sessions = [
            session("abc1", "x"),
            session("abc2", "y"),
            session("y", "z"),
        ];
        for (wanted, found) in [("abc1", "abc1"), ("x", "abc1"), ("z", "y")] {
            assert_eq!(find(&sessions, wanted).unwrap().id, found, "{wanted}");
        }
        for bad in ["abc", "y", "", "nobody"] {
            assert!(find(&sessions, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in [("HUP", 1), ("sigterm", 15), ("9", 9)] {
            assert_eq!(signal(text), Ok(number));
        }
        for bad in ["", "0", "65", "SIGNO", "-1"] {
            assert!(signal(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_table_shows_nothing_that_steers_a_terminal() {
        let text = table(
            &[session("abcdef0123456789", "")],
            UNIX_EPOCH + Duration::from_secs(61),
        );
        let expected = "\
ID            NAME  IDENTITY  SINCE  IDLE  CLIENTS  OUTPUT  STATE  WHAT
abcdef012345  -     ann       60s    0s    0        0       runs   shell argv [\"a\\u{1b}[2J\"]
";
        assert_eq!(text, expected);
    }

    #[test]
    fn machines_get_one_object_a_line_with_how_it_ended() {
        let mut ended = session("a", "b");
        ended.outcome = Some(Outcome::Exit(3).into());
        let text = json_lines(&[ended]).unwrap();
        let told: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!(told["started"], "1970-01-01T00:00:01Z");
        assert_eq!(
            (told["outcome"].as_str(), told["status"].as_u64()),
            (Some("exit"), Some(3))
        );
    }
}
