//! The client half of `system`.

use std::fmt::Write;

use legatus_core::{Arguments, BoxFuture, Caller, Fault, Local, Outcome, Request, Sender, Stream};
use prost::Message;
use serde_json::json;

use super::messages::{self, Action, Info, Reply, ServerInfo, reply::Kind};
use super::{System, unknown_action};

impl Sender for System {
    fn send<'a>(
        &'a self,
        arguments: Arguments,
        caller: &'a dyn Caller,
        local: &'a dyn Local,
    ) -> BoxFuture<'a, Result<Outcome, Fault>> {
        Box::pin(async move {
            let word = arguments.last("action").and_then(|word| word.to_str());
            let action = word
                .and_then(Action::from_word)
                .ok_or_else(unknown_action)?;
            let request = messages::Request {
                action: action.into(),
            };
            let request = Request::from_body(request.encode_to_vec());
            let mut conversation = caller.open(request).await?;
            while let Some(reply) = conversation.channel.receive().await {
                show(
                    Reply::decode(reply).ok().and_then(|reply| reply.kind),
                    local,
                )
                .await?;
            }
            Ok(conversation.outcome.wait().await)
        })
    }
}

/// Shows a reply to a person and to a program.
async fn show(reply: Option<Kind>, local: &dyn Local) -> Result<(), Fault> {
    let (text, record) = match reply {
        Some(Kind::Info(info)) => (listing(&info), record(&info)),
        Some(Kind::Restarted(restarted)) => (
            format!("process {} has taken over\n", restarted.process),
            json!({ "restarted": { "process": restarted.process } }),
        ),
        Some(Kind::Draining(_)) => ("draining\n".to_owned(), json!({ "draining": true })),
        None => {
            let fault = Fault::new("the server's reply is no legatus.system.v1.Reply");
            return Err(fault.with_hint("it may be newer than this program"));
        }
    };
    local.record(&record.to_string());
    if local.shows_records() {
        return Ok(());
    }
    let mut stdout = local.output(Stream::Stdout);
    let written = match stdout.write(text.into()).await {
        Ok(()) => stdout.flush().await,
        error => error,
    };
    written.map_err(|error| Fault::new(format!("cannot write standard output: {error}")))
}

fn record(info: &Info) -> serde_json::Value {
    let server = info.server.clone().unwrap_or_default();
    let modules: Vec<_> = server
        .modules
        .iter()
        .map(|module| json!({ "name": module.name, "version": module.version }))
        .collect();
    json!({
        "name": info.name,
        "system": info.system,
        "kernel": info.kernel,
        "architecture": info.architecture,
        "processors": info.processors,
        "memory_bytes": info.memory_bytes,
        "memory_available_bytes": info.memory_available_bytes,
        "load": info.load,
        "uptime_seconds": info.uptime_seconds,
        "server": {
            "version": server.version,
            "uptime_seconds": server.uptime_seconds,
            "connections": server.connections,
            "calls": server.calls,
            "modules": modules,
        },
    })
}

/// The facts for a person, one a line, aligned.
fn listing(info: &Info) -> String {
    let server = info.server.clone().unwrap_or_default();
    let load: Vec<_> = info.load.iter().map(|load| format!("{load:.2}")).collect();
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // The server's text must not command the user's terminal.
        let shown = value.replace(char::is_control, "\u{fffd}");
        // Writing to a string cannot fail.
        writeln!(text, "{name:<12}  {shown}").ok();
    };
    line("name", &info.name);
    line("system", &info.system);
    line("kernel", &info.kernel);
    line("architecture", &info.architecture);
    line("processors", &info.processors.to_string());
    line("memory", &memory(info));
    line("load", &load.join(" "));
    line("up", &length(info.uptime_seconds));
    line("server", &format!("legatus {}", server.version));
    line("server up", &length(server.uptime_seconds));
    line("connections", &server.connections.to_string());
    line("calls", &server.calls.to_string());
    line("modules", &modules(&server));
    text
}

fn modules(server: &ServerInfo) -> String {
    let names: Vec<_> = server
        .modules
        .iter()
        .map(|module| format!("{} {}", module.name, module.version))
        .collect();
    names.join(", ")
}

fn memory(info: &Info) -> String {
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let gibibytes = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    format!(
        "{:.1} GiB, {:.1} GiB available",
        gibibytes(info.memory_bytes),
        gibibytes(info.memory_available_bytes)
    )
}

/// A length of time in its two greatest units.
fn length(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}
