//! The client half: listens here, and opens a call for each connection.

mod routes;
mod stdio;

use futures_util::stream::{FuturesUnordered, StreamExt};
use legatus_core::{Arguments, BoxFuture, Caller, Fault, Local, Outcome};

use super::dial;
use super::lines::Lines;
use super::places;
use super::request::What;
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
    // It tells when the server has gone, which nobody else would while no connection is open.
    let held = match dial::open(caller, What::Hold).await {
        Ok(held) => held,
        Err(not) => return Ok(not.outcome),
    };
    let lines = Lines::new(caller);
    let forwarding = Forwarding {
        caller,
        lines: &lines,
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
        outcome = held.end() => Ok(ended(outcome)),
        _ = local.signal() => Ok(Outcome::Cancelled),
    }
}

/// What it means that the server has ended a call that the client still wanted.
fn ended(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Exit(_) => Outcome::Lost(Fault::new("the server has ended the forwarding")),
        outcome => outcome,
    }
}
