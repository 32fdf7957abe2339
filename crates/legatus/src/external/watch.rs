//! New, changed and removed modules take effect while a server runs.

use std::sync::Arc;
use std::time::Duration;

use legatus_core::Registry;
use legatus_host::external::Catalogue;
use legatus_net::ServerHandle;
use tokio_util::sync::CancellationToken;

/// How often the folders are looked at. A look costs a few system calls for each module.
const EVERY: Duration = Duration::from_secs(1);

/// Looks for changes until it is told to stop, and gives the server the modules that there are.
/// Running calls keep theirs.
pub(crate) async fn watch(
    catalogue: Arc<Catalogue>,
    builtin: Registry,
    server: ServerHandle,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
            () = catalogue.wanted() => {}
        }
        let scanned = Arc::clone(&catalogue);
        let changed = tokio::task::spawn_blocking(move || scanned.scan()).await;
        if changed.unwrap_or(false) {
            server.set_modules(catalogue.registry(&builtin));
            tracing::info!("the external modules have changed");
        }
        catalogue.in_force();
    }
}
