//! What a server's configuration has told a module, or what holds without it.

use std::sync::OnceLock;

use legatus_core::Fault;

/// Settings of a module: set at most once, before any call.
#[derive(Debug, Default)]
pub(crate) struct Configured<T>(OnceLock<T>);

impl<T: Default> Configured<T> {
    /// Takes what the configuration says.
    ///
    /// # Errors
    /// The second time.
    pub(crate) fn set(&self, settings: T) -> Result<(), Fault> {
        let set = self.0.set(settings);
        set.map_err(|_| Fault::new("the module is configured already"))
    }

    /// What holds; from the first time on for good.
    pub(crate) fn get(&self) -> &T {
        self.0.get_or_init(T::default)
    }
}
