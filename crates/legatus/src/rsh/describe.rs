//! `-G`: what the options come to, in the form of ssh's. Git asks for it to learn whether this
//! program has ssh's command line.

use std::fmt::Write as _;

use legatus_core::DEFAULT_PORT;

use super::options::{Asked, Session, Tty};
use crate::config::Configuration;

/// Lines of a key in lower case and a value.
pub(super) fn text(asked: &Asked, configuration: &Configuration) -> anyhow::Result<String> {
    let host = asked.address.as_ref().or(asked.host.as_ref());
    let (name, default_port) = match host {
        Some(host) => {
            let (address, port) = configuration.address(host)?;
            (address, port)
        }
        None => (asked.host_name.clone(), DEFAULT_PORT),
    };
    let port = asked.port.unwrap_or(default_port);
    let yes = |is: bool| if is { "yes" } else { "no" };
    let user = asked.user.as_ref().map(|user| user.to_string_lossy());
    let tty = match asked.tty {
        Tty::Never => "false",
        Tty::Auto => "auto",
        Tty::Yes => "true",
        Tty::Force => "force",
    };
    let session = match asked.session {
        Session::Default | Session::Stdio(_) => "default",
        Session::None => "none",
        Session::Subsystem => "subsystem",
    };
    let timeout = configuration.connect_timeout().as_secs();
    let mut lines: Vec<(&str, String)> = vec![
        ("host", asked.host_name.clone()),
        ("user", user.unwrap_or_default().into_owned()),
        ("hostname", name),
        ("port", port.to_string()),
        ("batchmode", "yes".to_owned()),
        (
            "exitonforwardfailure",
            yes(asked.forward_or_fail).to_owned(),
        ),
        ("forkafterauthentication", yes(asked.background).to_owned()),
        ("gatewayports", yes(asked.gateway).to_owned()),
        ("requesttty", tty.to_owned()),
        ("sessiontype", session.to_owned()),
        ("stdinnull", yes(asked.no_stdin).to_owned()),
        ("stricthostkeychecking", "true".to_owned()),
        ("connecttimeout", timeout.to_string()),
    ];
    let sent = asked.send_environment.iter();
    lines.extend(sent.map(|name| ("sendenv", name.clone())));
    if !asked.jumps.is_empty() {
        let jumps: Vec<_> = asked.jumps.iter().map(ToString::to_string).collect();
        lines.push(("proxyjump", jumps.join(",")));
    }
    for (kind, value) in &asked.forwards {
        let key = match *kind {
            "local" => "localforward",
            "remote" => "remoteforward",
            _ => "dynamicforward",
        };
        lines.push((key, value.to_string_lossy().into_owned()));
    }
    let mut text = String::new();
    for (key, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        // Writing to a String cannot fail.
        writeln!(text, "{key} {value}").ok();
    }
    Ok(text)
}
