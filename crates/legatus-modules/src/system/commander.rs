//! The server half of `system`.

use std::time::SystemTime;

use legatus_core::{
    BoxFuture, Call, Channel, Commander, Effects, Fault, Inspection, Outcome, Request,
    ServerAccess, ServerFacts,
};
use prost::Message;

use super::messages::{
    self, Action, Draining, ModuleInfo, Reply, Restarted, ServerInfo, reply::Kind,
};
use super::{System, machine, unknown_action};

impl Commander for System {
    fn inspect(&self, request: &Request) -> Result<Inspection, Fault> {
        let action = action(request)?;
        Ok(Inspection {
            effects: match action {
                Action::Info => Effects::READ,
                _ => Effects::EXEC,
            },
            summary: action.word().ok_or_else(unknown_action)?.to_owned(),
        })
    }

    fn execute(&self, call: Call, channel: Channel) -> BoxFuture<'_, Result<Outcome, Fault>> {
        Box::pin(async move {
            let server = call
                .server()
                .ok_or_else(|| Fault::new("this runs outside of a server"))?;
            let kind = answer(action(&call.request)?, server).await?;
            let reply = Reply { kind: Some(kind) }.encode_to_vec();
            channel
                .send(reply.into())
                .await
                .map_err(|_| Fault::new("the caller stopped listening"))?;
            Ok(Outcome::SUCCESS)
        })
    }
}

/// What is asked.
fn action(request: &Request) -> Result<Action, Fault> {
    let request = messages::Request::decode(request.body.clone())
        .map_err(|_| Fault::new("the request is no legatus.system.v1.Request"))?;
    match request.action() {
        Action::Unspecified => Err(unknown_action()),
        action => Ok(action),
    }
}

async fn answer(action: Action, server: &ServerAccess) -> Result<Kind, Fault> {
    match action {
        Action::Info => {
            let facts = server.facts()?;
            // It reads files, if only for some microseconds.
            let mut info = tokio::task::spawn_blocking(machine::info)
                .await
                .map_err(|_| Fault::new("cannot find out about the machine"))?;
            info.server = Some(server_info(facts));
            Ok(Kind::Info(info))
        }
        Action::Restart => {
            let process = server.restart().await?;
            Ok(Kind::Restarted(Restarted { process }))
        }
        Action::Shutdown => {
            server.drain()?;
            Ok(Kind::Draining(Draining {}))
        }
        Action::Unspecified => Err(unknown_action()),
    }
}

fn server_info(facts: ServerFacts) -> ServerInfo {
    let uptime = facts
        .started
        .and_then(|started| SystemTime::now().duration_since(started).ok());
    ServerInfo {
        version: facts.version,
        uptime_seconds: uptime.unwrap_or_default().as_secs(),
        connections: facts.connections,
        calls: facts.calls,
        modules: facts
            .modules
            .into_iter()
            .map(|(name, version)| ModuleInfo { name, version })
            .collect(),
    }
}
