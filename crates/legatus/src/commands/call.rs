//! A call of a module on a host, from the configuration to the verdict.

use std::process::ExitCode;

use legatus_core::{Caller, Fault, Host, Module, Outcome, Sender};

use super::Context;
use crate::config::{Configuration, ResolvedHost};
use crate::connect::Connector;
use crate::invocation::Invocation;
use crate::local::ProcessLocal;
use crate::logging;
use crate::verdict;

/// Calls a module and tells how that ended.
pub(crate) fn run(invocation: Invocation, context: &Context<'_>) -> anyhow::Result<ExitCode> {
    let Invocation {
        module,
        name,
        host,
        arguments,
    } = invocation;
    drive(&host, context, async |host, connector, local| {
        call(
            module.as_ref(),
            &name,
            host,
            connector,
            local,
            async |sender, caller| sender.send(arguments, caller, local).await,
        )
        .await
    })
}

/// Has something done on a host with the user's streams, and tells how that ended.
pub(super) fn drive(
    host: &Host,
    context: &Context<'_>,
    work: impl AsyncFnOnce(&ResolvedHost, &dyn Connector, &ProcessLocal) -> Outcome,
) -> anyhow::Result<ExitCode> {
    let configuration = Configuration::load(context.globals, context.environment)?;
    start_logging(&configuration)?;
    let host = configuration.resolve(host)?;
    let json = context.globals.json;
    let local = ProcessLocal::new(json)?;
    // One thread is enough for one connection, and starts fastest.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(work(&host, context.connector, &local));
    runtime.shutdown_background();
    let nobody_reads = local.stdout_is_broken();
    // From here on signals end the program.
    drop(local);
    if nobody_reads && !matches!(outcome, Outcome::Exit(_)) {
        return Ok(ExitCode::from(verdict::BROKEN_PIPE));
    }
    Ok(verdict::tell(&outcome, json))
}

/// Connects and lets the module's Sender do its work; ends when all output has been written, too.
pub(super) async fn call(
    module: &dyn Module,
    name: &str,
    host: &ResolvedHost,
    connector: &dyn Connector,
    local: &ProcessLocal,
    work: impl AsyncFnOnce(&dyn Sender, &dyn Caller) -> Result<Outcome, Fault>,
) -> Outcome {
    let Some(sender) = module.sender() else {
        return Outcome::Failed(Fault::new(format!(
            "the module `{name}` has no client half here"
        )));
    };
    let caller = match connector.connect(host, name).await {
        Ok(caller) => caller,
        Err(failure) => return failure.into(),
    };
    let outcome = work(sender, caller.as_ref()).await.into();
    let outcome = local.finish(outcome).await;
    // What was said last must leave before the program does.
    caller.finish().await;
    outcome
}

pub(super) fn start_logging(configuration: &Configuration) -> anyhow::Result<()> {
    let level = configuration.log_level();
    let level = level.as_deref().unwrap_or(logging::DEFAULT_LEVEL);
    logging::init(level, logging::Format::Text)
}
