//! `legatus modules list [HOST]`: every module, here or there.

use std::process::ExitCode;

use legatus_core::{Host, Module, Outcome, wire};
use serde::Serialize;

use super::Context;
use crate::config::Configuration;
use crate::console::{self, printable};
use crate::verdict;

/// The flags of `legatus modules`.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Clone, Debug)]
enum Action {
    /// List the modules with what they may do
    List {
        /// The host to ask; this program without it
        #[arg(value_hint = clap::ValueHint::Hostname)]
        host: Option<Host>,
    },
}

/// A module as it is listed.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Row {
    name: String,
    aliases: Vec<String>,
    version: String,
    halves: Vec<&'static str>,
    effects: Vec<&'static str>,
    summary: String,
}

/// Lists the modules.
pub(crate) fn run(arguments: &Arguments, context: &Context<'_>) -> anyhow::Result<ExitCode> {
    let Action::List { host } = &arguments.action;
    let specs: Vec<wire::Spec> = match host {
        None => context
            .registry
            .modules()
            .map(|module| described(module.as_ref()))
            .collect(),
        Some(host) => match ask(host, context)? {
            Ok(reply) => reply.modules,
            Err(outcome) => return Ok(verdict::tell(&outcome, context.globals.json)),
        },
    };
    let rows: Vec<_> = specs.into_iter().map(Row::from).collect();
    let text = if context.globals.json {
        json_lines(&rows)?
    } else {
        table(&rows)
    };
    console::print(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Modules here are told in the same form as those of a server.
fn described(module: &dyn Module) -> wire::Spec {
    wire::Spec::from(module)
}

fn ask(host: &Host, context: &Context<'_>) -> anyhow::Result<Result<wire::DescribeReply, Outcome>> {
    let configuration = Configuration::load(context.globals, context.environment)?;
    super::call::start_logging(&configuration)?;
    let host = configuration.resolve(host)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let reply = runtime.block_on(context.connector.describe(&host));
    runtime.shutdown_background();
    Ok(reply.map_err(Outcome::from))
}

impl From<wire::Spec> for Row {
    fn from(spec: wire::Spec) -> Self {
        let halves = [(spec.has_commander, "server"), (spec.has_sender, "client")];
        let effects = spec.effects().filter_map(|effect| match effect {
            wire::Effect::Read => Some("read"),
            wire::Effect::Write => Some("write"),
            wire::Effect::Exec => Some("exec"),
            wire::Effect::Unspecified => None,
        });
        Self {
            effects: effects.collect(),
            halves: halves
                .iter()
                .filter_map(|(has, half)| has.then_some(*half))
                .collect(),
            name: spec.name,
            aliases: spec.aliases,
            version: spec.version,
            summary: spec.summary,
        }
    }
}

fn json_lines(rows: &[Row]) -> serde_json::Result<String> {
    let lines: serde_json::Result<Vec<_>> = rows.iter().map(serde_json::to_string).collect();
    Ok(lines?.iter().map(|line| format!("{line}\n")).collect())
}

/// The rows in columns as wide as their widest cell.
fn table(rows: &[Row]) -> String {
    let header = ["NAME", "VERSION", "HALVES", "EFFECTS", "SUMMARY"].map(str::to_owned);
    let cells = rows.iter().map(|row| {
        let names = [std::slice::from_ref(&row.name), row.aliases.as_slice()].concat();
        let or_dash = |words: &[&str]| match words {
            [] => "-".to_owned(),
            words => words.join("+"),
        };
        [
            names.join(", "),
            row.version.clone(),
            or_dash(&row.halves),
            or_dash(&row.effects),
            row.summary.clone(),
        ]
        .map(|cell| printable(&cell).into_owned())
    });
    let lines: Vec<_> = std::iter::once(header).chain(cells).collect();
    let width = |pick: fn(&[String; 5]) -> &str| {
        let widths = lines.iter().map(|line| pick(line).chars().count());
        widths.max().unwrap_or(0)
    };
    let name = width(|[name, ..]| name);
    let version = width(|[_, version, ..]| version);
    let halves = width(|[_, _, halves, ..]| halves);
    let effects = width(|[_, _, _, effects, _]| effects);
    let lines = lines.iter().map(|[a, b, c, d, summary]| {
        format!("{a:name$}  {b:version$}  {c:halves$}  {d:effects$}  {summary}\n")
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        let registry = legatus_modules::builtin().unwrap();
        let module = registry.resolve("echo").unwrap();
        let mut spec = described(module.as_ref());
        spec.version = "1.0".into();
        let mut other = spec.clone();
        other.name = "a-longer-name".into();
        other.has_sender = false;
        other.summary = "steer\x1b[2J".into();
        other.set_effects_of(&[wire::Effect::Read, wire::Effect::Exec]);
        vec![Row::from(spec), Row::from(other)]
    }

    trait SetEffects {
        fn set_effects_of(&mut self, effects: &[wire::Effect]);
    }

    impl SetEffects for wire::Spec {
        fn set_effects_of(&mut self, effects: &[wire::Effect]) {
            self.effects = effects.iter().map(|effect| (*effect).into()).collect();
        }
    }

    #[test]
    fn the_table_has_columns_and_nothing_that_steers_a_terminal() {
        let expected = "\
NAME           VERSION  HALVES         EFFECTS    SUMMARY
echo           1.0      server+client  -          Send back the arguments, or else standard input
a-longer-name  1.0      server         read+exec  steer\\u{1b}[2J
";
        assert_eq!(table(&rows()), expected);
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
}
