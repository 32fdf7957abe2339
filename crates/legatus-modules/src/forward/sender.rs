//! The client half: listens here, and opens a call for each connection.

mod reconnecting;
mod routes;
mod stdio;

use futures_util::stream::{FuturesUnordered, StreamExt};
use legatus_core::{Arguments, BoxFuture, Caller, Fault, Local, Outcome};

use super::dial;
use super::lines::Lines;
use super::places;
use super::request::What;
use reconnecting::Reconnecting;
use routes::Forwarding;

/// Forwards what the arguments ask for.
pub(super) async fn send(
    arguments: Arguments,
    caller: &dyn Caller,
    local: &dyn Local,
) -> Result<Outcome, Fault> {
    if let Some(target) = arguments.last("stdio") {
        return stdio::carry(places::target(target)?, caller, local).await;
    }
    let routes = places::routes(&arguments)?;
    if routes.is_empty() && !arguments.is_given("hold") {
        return Err(Fault::new("nothing is to be forwarded").with_hint(
            "--local, --remote and --dynamic say what, for example -L 8080:localhost:80",
        ));
    }
    let reconnecting = Reconnecting::new(caller, local, &arguments)?;
    let held = match dial::open(caller, What::Hold).await {
        Ok(held) => held,
        Err(not) => return Ok(reconnecting::ended(not.outcome)),
    };
    let lines = Lines::new(caller);
    let forwarding = Forwarding {
        caller,
        lines: &lines,
        reconnecting: &reconnecting,
        local,
        is_quiet: arguments.is_given("quiet"),
    };
    let mut started: Vec<BoxFuture<'_, Outcome>> = Vec::new();
    for route in routes {
        started.push(forwarding.start(route).await?);
    }
    let mut running: FuturesUnordered<_> = started.into_iter().collect();
    tokio::select! {
        Some(outcome) = running.next() => Ok(outcome),
        outcome = reconnecting.hold(held) => Ok(outcome),
        _ = local.signal() => Ok(Outcome::Cancelled),
    }
}
