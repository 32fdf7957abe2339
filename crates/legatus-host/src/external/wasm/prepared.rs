//! A component with everything about it that is looked up once, before its first call.

use wasmtime::component::InstancePre;
use wasmtime_wasi::p2::bindings::CommandPre;

use super::bindings::exports::legatus::module::{commander, descriptions, sender};
use super::engine::{Compiled, Engine};
use super::failures::does_not_fit;
use super::state::State;
use crate::external::fault::Failure;

/// A component that can be instantiated, with what is looked up once.
pub(crate) struct Prepared {
    pub(super) component: InstancePre<State>,
    pub(super) descriptions: Option<descriptions::GuestIndices>,
    pub(super) commander: Option<commander::GuestIndices>,
    pub(super) sender: Option<sender::GuestIndices>,
    pub(super) command: Option<CommandPre<State>>,
    /// Whether it asks for files at all.
    pub(super) has_files: bool,
}

impl Prepared {
    pub(super) fn new(engine: &Engine, compiled: &Compiled) -> Result<Self, Failure> {
        let component = engine.linker().instantiate_pre(&compiled.0);
        let component = component.map_err(|error| does_not_fit(engine, &compiled.0, &error))?;
        let kind = compiled.0.component_type();
        let mut imports = kind.imports(engine.wasmtime());
        Ok(Self {
            descriptions: descriptions::GuestIndices::new(&component).ok(),
            commander: commander::GuestIndices::new(&component).ok(),
            sender: sender::GuestIndices::new(&component).ok(),
            command: CommandPre::new(component.clone()).ok(),
            has_files: imports.any(|(name, _)| name.starts_with("wasi:filesystem/")),
            component,
        })
    }
}
