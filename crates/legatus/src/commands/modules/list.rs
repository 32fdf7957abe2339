//! `legatus modules list [HOST]` and `legatus modules show NAME`.

use std::process::ExitCode;

use anyhow::bail;
use legatus_core::{Fault, Host, Module, Outcome, Request, wire};
use legatus_host::external::{LIST_MODULES, Listed, State, ToldModule};
use serde::Serialize;

use crate::commands::Context;
use crate::config::{Configuration, ResolvedHost};
use crate::connect::ConnectFailure;
use crate::console::{self, printable};
use crate::verdict;

/// A module as it is listed.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Row {
    name: String,
    aliases: Vec<String>,
    version: String,
    /// What runs it: built-in, or the kind of an external one; empty if an older host did not tell.
    kind: String,
    halves: Vec<&'static str>,
    effects: Vec<&'static str>,
    /// ready, off or broken.
    state: &'static str,
    summary: String,
    /// Why it is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
}

/// Lists the modules.
pub(super) fn run(host: Option<&Host>, context: &Context<'_>) -> anyhow::Result<ExitCode> {
    let rows = match host {
        None => here(context),
        Some(host) => match ask(host, context)? {
            Ok(rows) => rows,
            Err(outcome) => return Ok(verdict::tell(&outcome, context.globals.json)),
        },
    };
    let text = if context.globals.json {
        json_lines(&rows)?
    } else {
        table(&rows)
    };
    console::print(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// The modules of this program: built-in ones, then external ones in whatever state.
fn here(context: &Context<'_>) -> Vec<Row> {
    let builtin = context.registry.builtin();
    let builtin = builtin.map(|module| Row::from(described(module.as_ref())));
    let mut rows: Vec<_> = builtin.collect();
    let listed = context.catalogue.map(|catalogue| catalogue.listed());
    for listed in listed.unwrap_or_default() {
        let known = context.registry.resolve(&listed.qualified);
        let effects = known.map(|module| Row::from(described(module.as_ref())).effects);
        rows.push(Row {
            effects: effects.unwrap_or_default(),
            ..Row::from(listed)
        });
    }
    rows
}

/// Shows one module.
pub(super) fn show(name: &str, context: &Context<'_>) -> anyhow::Result<ExitCode> {
    let listed = context.catalogue.map(|catalogue| catalogue.listed());
    let listed = listed.unwrap_or_default().into_iter();
    let has_name = |listed: &Listed| {
        let short = listed.qualified.rsplit('/').next();
        listed.qualified == name || short == Some(name)
    };
    let mut found: Vec<_> = listed.filter(has_name).map(|one| external(&one)).collect();
    let exact = format!("builtin:{name}");
    let builtin = context.registry.qualified();
    let mut builtin = builtin.filter(|(known, _)| *known == exact || known == name);
    if let Some((known, module)) = builtin.find(|(known, _)| known.starts_with("builtin:")) {
        let spec = module.spec();
        found.insert(
            0,
            format!(
                "{known} {}\n  {}\n  kind     built-in\n",
                spec.version, spec.summary
            ),
        );
    }
    if found.is_empty() {
        let unknown = Fault::new(format!("there is no module `{name}`"));
        bail!(unknown.with_hint("`legatus modules list` shows all of them"));
    }
    console::print(found.join("\n").as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// What there is to say about an external module.
pub(super) fn external(listed: &Listed) -> String {
    let (word, reason) = state(&listed.state);
    let kind = listed.kind.map_or("unknown", |kind| kind.name());
    let mut lines = vec![format!("{} {}", listed.qualified, listed.version)];
    let mut add = |name: &str, value: &str| {
        if !value.is_empty() {
            lines.push(format!("  {name:9}{value}"));
        }
    };
    add("does", &listed.summary);
    add("kind", kind);
    add("halves", &halves(listed.halves).join("+"));
    add("source", &listed.source.display().to_string());
    add("digest", &listed.digest);
    add("signed", listed.signed_by.as_deref().unwrap_or("no"));
    add(
        "state",
        &reason.map_or_else(|| word.to_owned(), |reason| format!("{word}: {reason}")),
    );
    add("wants", &listed.wants.to_string());
    add("has", &listed.has.to_string());
    for missing in listed.wants.missing(&listed.has) {
        add("", &format!("not granted: {missing}"));
    }
    for withheld in &listed.withheld {
        add("", &format!("not given: {withheld}"));
    }
    if !listed.wants.missing(&listed.has).is_empty() {
        let table = format!("[modules.grants.\"{}\"]", listed.qualified);
        add("hint", &format!("the configuration grants it, in {table}"));
    }
    lines
        .iter()
        .map(|line| format!("{}\n", printable(line)))
        .collect()
}

fn state(state: &State) -> (&'static str, Option<&str>) {
    match state {
        State::Ready => ("ready", None),
        State::Off(reason) => ("off", Some(reason)),
        State::Broken(reason) => ("broken", Some(reason)),
    }
}

fn halves((server, client): (bool, bool)) -> Vec<&'static str> {
    let halves = [(server, "server"), (client, "client")].into_iter();
    halves
        .filter_map(|(has, half)| has.then_some(half))
        .collect()
}

/// Modules here are told in the same form as those of a server.
fn described(module: &dyn Module) -> wire::Spec {
    wire::Spec::from(module)
}

/// The modules of a host: those that can be called, and of external ones also those that cannot, if
/// the host's policy lets the caller see them.
fn ask(host: &Host, context: &Context<'_>) -> anyhow::Result<Result<Vec<Row>, Outcome>> {
    let configuration = Configuration::load(context.globals, context.environment)?;
    crate::commands::call::start_logging(&configuration)?;
    let host = configuration.resolve(host)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let reply = runtime.block_on(async {
        let reply = context.connector.describe(&host).await?;
        let has_list = reply.modules.iter().any(|one| one.name == LIST_MODULES);
        let listed = match has_list {
            true => listed(&host, context).await,
            false => None,
        };
        Ok((reply, listed))
    });
    runtime.shutdown_background();
    Ok(reply
        .map(|(reply, listed)| merged(reply, listed.unwrap_or_default()))
        .map_err(|failure: ConnectFailure| Outcome::from(failure)))
}

/// What the host tells about its external modules; nothing if it does not want to.
async fn listed(host: &ResolvedHost, context: &Context<'_>) -> Option<Vec<ToldModule>> {
    let caller = context.connector.connect(host, LIST_MODULES).await.ok()?;
    let mut conversation = caller.open(Request::default()).await.ok()?;
    let mut listed = Vec::new();
    while let Some(message) = conversation.channel.receive().await {
        listed.push(ToldModule::parse(&message).ok()?);
    }
    let ended = conversation.outcome.wait().await;
    caller.finish().await;
    (ended == Outcome::SUCCESS).then_some(listed)
}

/// Each module once: what it is called, what it may do, and what is told of where it comes from.
fn merged(reply: wire::DescribeReply, listed: Vec<ToldModule>) -> Vec<Row> {
    let mut rows: Vec<_> = reply.modules.into_iter().map(Row::from).collect();
    for told in listed {
        let short = told.name.rsplit('/').next().unwrap_or_default().to_owned();
        let mut callable = rows.iter().filter(|row| row.source.is_none());
        let same = callable.position(|row| {
            (row.name == short || row.name == told.name)
                && row.kind == told.kind
                && row.version == told.version
        });
        let mut row = Row::from(told);
        if let Some(place) = same.filter(|_| row.state == "ready") {
            row.effects = rows.remove(place).effects;
        }
        rows.push(row);
    }
    rows
}

impl From<wire::Spec> for Row {
    fn from(spec: wire::Spec) -> Self {
        let effects = spec.effects().filter_map(|effect| match effect {
            wire::Effect::Read => Some("read"),
            wire::Effect::Write => Some("write"),
            wire::Effect::Exec => Some("exec"),
            wire::Effect::Unspecified => None,
        });
        Self {
            effects: effects.collect(),
            halves: halves((spec.has_commander, spec.has_sender)),
            name: spec.name,
            aliases: spec.aliases,
            version: spec.version,
            kind: spec.kind,
            state: "ready",
            summary: spec.summary,
            reason: None,
            source: None,
        }
    }
}

impl From<ToldModule> for Row {
    fn from(told: ToldModule) -> Self {
        Self {
            aliases: Vec::new(),
            kind: match told.kind {
                kind if kind.is_empty() => "unknown".to_owned(),
                kind => kind,
            },
            halves: halves((told.server, told.client)),
            effects: Vec::new(),
            state: match told.state.as_str() {
                "ready" => "ready",
                "off" => "off",
                _ => "broken",
            },
            source: Some(told.source),
            name: told.name,
            version: told.version,
            summary: told.reason.clone().unwrap_or(told.summary),
            reason: told.reason,
        }
    }
}

impl From<Listed> for Row {
    fn from(listed: Listed) -> Self {
        let (word, reason) = state(&listed.state);
        let reason = reason.map(str::to_owned);
        Self {
            aliases: Vec::new(),
            kind: listed.kind.map_or("unknown", |kind| kind.name()).to_owned(),
            halves: halves(listed.halves),
            effects: Vec::new(),
            state: word,
            source: Some(listed.source.display().to_string()),
            name: listed.qualified,
            version: listed.version,
            summary: reason.clone().unwrap_or(listed.summary),
            reason,
        }
    }
}

fn json_lines(rows: &[Row]) -> serde_json::Result<String> {
    let lines: serde_json::Result<Vec<_>> = rows.iter().map(serde_json::to_string).collect();
    Ok(lines?.iter().map(|line| format!("{line}\n")).collect())
}

const COLUMNS: [&str; 8] = [
    "NAME", "VERSION", "KIND", "HALVES", "EFFECTS", "STATE", "SOURCE", "SUMMARY",
];

/// The rows in columns as wide as their widest cell.
fn table(rows: &[Row]) -> String {
    let or_dash = |text: &str| match text {
        "" => "-".to_owned(),
        text => text.to_owned(),
    };
    let cells = rows.iter().map(|row| {
        let names = [std::slice::from_ref(&row.name), row.aliases.as_slice()].concat();
        [
            names.join(", "),
            or_dash(&row.version),
            or_dash(&row.kind),
            or_dash(&row.halves.join("+")),
            or_dash(&row.effects.join("+")),
            row.state.to_owned(),
            or_dash(row.source.as_deref().unwrap_or_default()),
            row.summary.clone(),
        ]
        .map(|cell| printable(&cell).into_owned())
    });
    let lines: Vec<_> = std::iter::once(COLUMNS.map(str::to_owned))
        .chain(cells)
        .collect();
    let mut widths = [0; COLUMNS.len()];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.chars().count().max(*width);
        }
    }
    let lines = lines.iter().map(|line| {
        let cells = line
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use legatus_host::external::{Grants, ModuleKind};

    use super::*;

    fn rows() -> Vec<Row> {
        let registry = legatus_modules::builtin().unwrap();
        let module = registry.resolve("echo").unwrap();
        let mut spec = described(module.as_ref());
        spec.version = "1.0".into();
        spec.kind = String::new();
        let mut other = spec.clone();
        other.name = "a-longer-name".into();
        other.has_sender = false;
        other.summary = "steer\x1b[2J".into();
        other.effects = vec![wire::Effect::Read.into(), wire::Effect::Exec.into()];
        vec![Row::from(spec), Row::from(other)]
    }

    fn listed() -> Listed {
        Listed {
            qualified: "acme/thumbs".into(),
            version: "1.2.3".into(),
            kind: Some(ModuleKind::Wasm),
            halves: (true, false),
            source: "/m/thumbs.wasm".into(),
            state: State::Broken("it is\x1b[2J broken".into()),
            digest: "abc".into(),
            summary: "Make thumbnails".into(),
            wants: Grants {
                read: vec![PathBuf::from("/srv")],
                time: true,
                ..Grants::default()
            },
            has: Grants {
                time: true,
                ..Grants::default()
            },
            withheld: vec!["read /srv/file: it is a file".into()],
            signed_by: None,
        }
    }

    #[test]
    fn the_table_has_columns_and_nothing_that_steers_a_terminal() {
        let expected = "\
NAME           VERSION  KIND  HALVES         EFFECTS    STATE   SOURCE          SUMMARY
echo           1.0      -     server+client  -          ready   -               Send back the arguments, or else standard input
a-longer-name  1.0      -     server         read+exec  ready   -               steer\\u{1b}[2J
acme/thumbs    1.2.3    wasm  server         -          broken  /m/thumbs.wasm  it is\\u{1b}[2J broken
";
        let mut rows = rows();
        rows.push(Row::from(listed()));
        assert_eq!(table(&rows), expected);
    }

    #[test]
    fn machines_get_one_object_a_line() {
        let text = json_lines(&rows()).unwrap();
        let objects: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(objects.len(), 2);
        assert_eq!(objects[1]["effects"], serde_json::json!(["read", "exec"]));
        assert_eq!(
            objects[0]["halves"],
            serde_json::json!(["server", "client"])
        );
    }

    #[test]
    fn what_is_wanted_and_not_granted_is_told_with_what_to_do() {
        let text = external(&listed());
        assert!(text.contains("wants    read /srv, time\n"), "{text}");
        assert!(text.contains("has      time\n"), "{text}");
        assert!(text.contains("not granted: read /srv\n"), "{text}");
        assert!(
            text.contains("not given: read /srv/file: it is a file\n"),
            "{text}"
        );
        assert!(text.contains("[modules.grants.\"acme/thumbs\"]"), "{text}");
        assert!(!text.contains('\x1b'), "{text}");
    }
}
