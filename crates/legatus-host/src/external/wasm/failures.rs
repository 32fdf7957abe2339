//! Why a guest cannot be used, or did not end well.

use tracing::Level;
use wasmtime::component::Component;
use wasmtime::{Store, Trap};
use wasmtime_wasi::I32Exit;

use super::engine::Engine;
use super::state::State;
use crate::external::fault::Failure;
use crate::external::manifest::Limits;

/// Why a component cannot be linked: made for another contract, or for something else.
pub(super) fn does_not_fit(
    engine: &Engine,
    component: &Component,
    error: &wasmtime::Error,
) -> Failure {
    let (engine, kind) = (engine.wasmtime(), component.component_type());
    let imports = kind.imports(engine).map(|(name, _)| name.to_owned());
    let exports = kind.exports(engine).map(|(name, _)| name.to_owned());
    let names: Vec<_> = imports.chain(exports).collect();
    match other_contract(&names) {
        Some(version) => Failure::Unfit(format!(
            "it was made for version {version} of the contract, this program speaks 1.0.0"
        )),
        None => Failure::Unfit(format!(
            "it needs what this program does not have: {error:#}"
        )),
    }
}

/// The version in the names of a contract that is not ours.
pub(super) fn other_contract(names: &[String]) -> Option<&str> {
    let of_contract = names
        .iter()
        .filter_map(|name| name.strip_prefix("legatus:module/"));
    let mut versions = of_contract.filter_map(|rest| Some(rest.split_once('@')?.1));
    versions.find(|version| *version != "1.0.0")
}

pub(super) fn no_export() -> Failure {
    Failure::Unfit("it lacks a part of the contract".to_owned())
}

pub(super) fn not_as_told(error: wasmtime::Error) -> Failure {
    Failure::Unfit(format!("it lacks a part of the contract: {error:#}"))
}

/// Why a guest ended; the whole story, with its backtrace, goes to the log.
pub(super) fn explain(error: wasmtime::Error, store: &Store<State>, limits: &Limits) -> Failure {
    let state = store.data();
    state.log.line(Level::ERROR, &format!("{error:?}"));
    if state.out_of_time {
        return Failure::Limit(format!("{:?} of processor time", limits.cpu));
    }
    if state.ceiling.hit {
        let (limit, used) = (limits.memory >> 20, state.ceiling.used() >> 20);
        return Failure::Limit(format!("{limit} MiB of memory (it has {used} MiB)"));
    }
    if let Some(I32Exit(status)) = error.downcast_ref::<I32Exit>() {
        return Failure::Crashed(format!("it called exit({status})"));
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::StackOverflow) => {
            Failure::Limit("its stack (it recurses too deeply)".to_owned())
        }
        Some(trap) => Failure::Crashed(trap.to_string()),
        None => Failure::Crashed(error.root_cause().to_string()),
    }
}
