//! What a component tells about itself.

use std::time::Duration;

use super::component::WasmModule;
use super::failures::{explain, no_export, not_as_told};
use super::state::Talk;
use crate::external::description::{Description, MODULES};
use crate::external::fault::Failure;
use crate::external::grants::Grants;
use crate::external::log::CallLog;
use crate::external::manifest::Limits;

/// What a component may take to describe itself. An interpreter has to start for it.
const DESCRIBING: Limits = Limits {
    memory: 256 << 20,
    cpu: Duration::from_secs(5),
    log_lines: 20,
    calls: 1,
};

/// The time by the clock that describing may take.
const DESCRIBE_WITHIN: Duration = Duration::from_secs(10);

impl WasmModule {
    /// What the component tells about its modules.
    pub(crate) async fn describe(&self) -> Result<Vec<Description>, Failure> {
        let log = CallLog::new("(describing)", tracing::Span::none(), DESCRIBING.log_lines);
        let prepared = self.component()?;
        let grants = Grants::default();
        let mut store = self
            .store(Talk::default(), &log, &grants, &DESCRIBING)
            .await?;
        let indices = prepared.descriptions.as_ref().ok_or_else(no_export)?;
        let has_commander = prepared.commander.is_some();
        let has_sender = prepared.sender.is_some();
        let describing = async {
            let instance = prepared.component.instantiate_async(&mut store.0).await;
            let instance = instance.map_err(|error| explain(error, &store.0, &DESCRIBING))?;
            let guest = indices.load(&mut store.0, &instance).map_err(not_as_told)?;
            let told = guest.call_describe(&mut store.0).await;
            told.map_err(|error| explain(error, &store.0, &DESCRIBING))
        };
        let told = tokio::time::timeout(DESCRIBE_WITHIN, describing).await;
        let told = told
            .map_err(|_| Failure::Limit(format!("{DESCRIBE_WITHIN:?} for describing itself")))??;
        if told.is_empty() || told.len() > MODULES {
            return Err(Failure::Unfit(format!(
                "it describes {} modules",
                told.len()
            )));
        }
        for one in &told {
            let missing = match (one.commander && !has_commander, one.sender && !has_sender) {
                (true, _) => "a server half that it does not export",
                (_, true) => "a client half that it does not export",
                (false, false) => continue,
            };
            return Err(Failure::Unfit(format!(
                "its module `{}` tells of {missing}",
                one.name
            )));
        }
        Ok(told.into_iter().map(Description::from).collect())
    }
}
