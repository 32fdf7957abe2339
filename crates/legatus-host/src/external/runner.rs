//! What runs a module's halves: WebAssembly in this process, or a process of its own.

use bytes::Bytes;
use legatus_core::{BoxFuture, Call, Channel, Outcome};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::asks::Ask;
use super::fault::Failure;
use super::log::CallLog;

/// One call of a client half.
pub(crate) struct Sending {
    /// A user's arguments by name; a flag that was given has no values.
    pub(crate) arguments: Vec<(String, Vec<Bytes>)>,
    /// Where it asks for what it needs; dropping this ends the conversation.
    pub(crate) asks: mpsc::Sender<Ask>,
    /// Fires when the user wants it to end.
    pub(crate) cancellation: CancellationToken,
    pub(crate) log: CallLog,
}

/// Runs the halves of an artefact's modules.
pub(crate) trait Runner: Send + Sync {
    /// Runs a server half.
    fn execute<'a>(
        &'a self,
        module: &'a str,
        call: Call,
        channel: Channel,
        log: CallLog,
    ) -> BoxFuture<'a, Result<Outcome, Failure>>;

    /// Runs a client half.
    fn send<'a>(
        &'a self,
        module: &'a str,
        sending: Sending,
    ) -> BoxFuture<'a, Result<Outcome, Failure>>;
}

/// WebAssembly whose server half runs in a process of its own, in the rights of the user that the
/// call runs as.
#[cfg(feature = "wasm")]
pub(crate) struct AsUser {
    pub(crate) elsewhere: super::child::ChildModule,
    pub(crate) here: super::wasm::WasmModule,
}

#[cfg(feature = "wasm")]
impl Runner for AsUser {
    fn execute<'a>(
        &'a self,
        module: &'a str,
        call: Call,
        channel: Channel,
        log: CallLog,
    ) -> BoxFuture<'a, Result<Outcome, Failure>> {
        self.elsewhere.execute(module, call, channel, log)
    }

    fn send<'a>(
        &'a self,
        module: &'a str,
        sending: Sending,
    ) -> BoxFuture<'a, Result<Outcome, Failure>> {
        self.here.send(module, sending)
    }
}

/// How long a half may clean up after its cancellation before it is ended.
pub(crate) const GRACE: std::time::Duration = std::time::Duration::from_secs(2);

/// Waits until a cancelled half has had its time to clean up.
pub(crate) async fn impatience(cancellation: &CancellationToken) {
    cancellation.cancelled().await;
    tokio::time::sleep(GRACE).await;
}

/// What is left until a deadline, in milliseconds.
pub(crate) fn milliseconds_left(call: &Call) -> Option<u64> {
    let left = call
        .deadline?
        .saturating_duration_since(std::time::Instant::now());
    Some(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
}
