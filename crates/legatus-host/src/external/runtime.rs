//! A runtime for what describes a module.

use super::fault::Failure;

/// Runs what describes a module, on a thread of its own: the caller may be inside a runtime.
pub(super) fn in_runtime<T: Send>(
    work: impl Future<Output = Result<T, Failure>> + Send,
) -> Result<T, Failure> {
    std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let runtime = runtime.map_err(|error| Failure::Host(error.to_string()))?;
            let done = runtime.block_on(work);
            // What was started for it is gone.
            runtime.block_on(tokio::task::yield_now());
            done
        });
        let panicked = |_| Failure::Host("describing it panicked".to_owned());
        running.join().map_err(panicked)?
    })
}
