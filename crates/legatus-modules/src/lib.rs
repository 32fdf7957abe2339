//! The built-in modules of Legatus: each one file or folder, with both halves side by side.
//!
//! A new module is one new file and one line in [`builtin`].

mod away;
mod configured;
mod echo;
pub mod forward;
pub mod shell;
mod system;
mod transfer_file;

use legatus_core::{Registry, RegistryError};

/// All built-in modules.
///
/// # Errors
/// When two of them have one name.
pub fn builtin() -> Result<Registry, RegistryError> {
    let mut registry = Registry::new();
    registry.add(echo::module())?;
    registry.add(forward::module())?;
    registry.add(shell::module())?;
    registry.add(system::module())?;
    registry.add(transfer_file::module())?;
    Ok(registry)
}
