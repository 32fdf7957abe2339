//! The errand that lists a server's external modules, with those that cannot be used.

use std::sync::Arc;

use legatus_core::{
    BoxFuture, Call, Channel, Commander, Effects, Fault, Inspection, Module, Outcome, Request, Spec,
};

use super::catalogue::Catalogue;
use super::errands::{self, ToldModule};

/// The name by which clients call it, and policies may name it.
pub const LIST_MODULES: &str = "list-modules";

/// Sends one message for each external module, in whatever state: [`ToldModule`].
#[derive(Debug)]
pub struct ListModules {
    spec: Spec,
    catalogue: Arc<Catalogue>,
}

impl ListModules {
    /// Lists what this catalogue has.
    pub fn new(catalogue: Arc<Catalogue>) -> Self {
        let summary = "List the external modules, also those that cannot be used";
        Self {
            spec: errands::spec(LIST_MODULES, summary, Effects::READ),
            catalogue,
        }
    }
}

impl Module for ListModules {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn commander(&self) -> Option<&dyn Commander> {
        Some(self)
    }
}

impl Commander for ListModules {
    fn inspect(&self, _: &Request) -> Result<Inspection, Fault> {
        Ok(Inspection {
            effects: Effects::READ,
            summary: String::new(),
        })
    }

    fn execute(&self, _: Call, channel: Channel) -> BoxFuture<'_, Result<Outcome, Fault>> {
        Box::pin(async move {
            for listed in self.catalogue.listed() {
                let told = ToldModule::from(&listed).message()?;
                let gone = |_| Fault::new("the caller stopped listening");
                channel.send(told).await.map_err(gone)?;
            }
            Ok(Outcome::SUCCESS)
        })
    }
}
