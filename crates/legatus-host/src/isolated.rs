//! Modules whose Commander runs in a holder.

use std::sync::Arc;

use legatus_core::{
    BoxFuture, Call, Channel, Commander, Fault, Inspection, Module, Outcome, Placement, Registry,
    RegistryError, Request, Sender, Spec,
};

use crate::{Launcher, relay};

/// The same modules, the built-in ones of the placement [`Placement::Child`] isolated by
/// [`isolate`].
///
/// # Errors
/// None that adding the modules to `registry` has not told already.
pub fn isolate_all(registry: &Registry, launcher: Launcher) -> Result<Registry, RegistryError> {
    let launcher = Arc::new(launcher);
    let mut isolated = Registry::new();
    for module in registry.builtin() {
        match module.spec().placement {
            Placement::Server => isolated.add_shared(Arc::clone(module))?,
            Placement::Child => isolated.add(isolate(Arc::clone(module), Arc::clone(&launcher)))?,
        }
    }
    Ok(registry.with_builtin(&isolated))
}

/// The same module with a Commander that runs in a holder, a process of its own for each call,
/// unless it says of a request that it needs no rights of its own. Requests are still inspected in the server, before anything is started.
///
/// The child must know a module of the same name, see [`holder_main`](crate::holder_main).
pub fn isolate(module: Arc<dyn Module>, launcher: Arc<Launcher>) -> impl Module {
    Isolated { module, launcher }
}

struct Isolated {
    module: Arc<dyn Module>,
    launcher: Arc<Launcher>,
}

impl Module for Isolated {
    fn spec(&self) -> &Spec {
        self.module.spec()
    }

    fn commander(&self) -> Option<&dyn Commander> {
        self.module.commander().is_some().then_some(self)
    }

    fn sender(&self) -> Option<&dyn Sender> {
        self.module.sender()
    }
}

impl Commander for Isolated {
    fn inspect(&self, request: &Request) -> Result<Inspection, Fault> {
        match self.module.commander() {
            Some(commander) => commander.inspect(request),
            None => Err(Fault::new("the module has no Commander")),
        }
    }

    fn admit(&self, request: Request) -> Result<Request, Fault> {
        match self.module.commander() {
            Some(commander) => commander.admit(request),
            None => Ok(request),
        }
    }

    fn execute(&self, call: Call, channel: Channel) -> BoxFuture<'_, Result<Outcome, Fault>> {
        let attaches = call
            .persistence
            .as_ref()
            .is_some_and(|kept| kept.attach.is_some());
        if let (Some(commander), false) = (self.module.commander(), attaches)
            && commander.placement(&call.request) == Some(Placement::Server)
        {
            return Box::pin(execute_here(commander, call, channel));
        }
        let module = &self.module.spec().name;
        Box::pin(relay::run(&self.launcher, module, call, channel))
    }
}

/// Executes a call inside the server, where none goes on without its client.
async fn execute_here(
    commander: &dyn Commander,
    mut call: Call,
    channel: Channel,
) -> Result<Outcome, Fault> {
    let lost = call.persistence.take().map(|kept| kept.lost);
    let cancellation = call.cancellation.clone();
    let mut executed = commander.execute(call, channel);
    if let Some(lost) = lost {
        tokio::select! {
            outcome = &mut executed => return outcome,
            () = lost.cancelled() => cancellation.cancel(),
        }
    }
    executed.await
}
