//! A small certificate authority: makes, signs and describes certificates.
//!
//! [`Authority`] works in memory (the embedded server and the tests use it directly); the functions
//! of [`folder`] keep one in a folder of plain PEM files, as `legatus pki` does; [`describe()`] says
//! what a PEM file holds. A certificate is for a server or for a client, never for both.

mod authority;
mod describe;
mod error;
pub mod folder;
mod names;
mod options;
#[cfg(test)]
mod tests;

pub use authority::{Authority, Issued};
pub(crate) use describe::days_left;
pub use describe::{
    CertificateDescription, Description, KeyDescription, RequestDescription, describe,
};
pub use error::PkiError;
pub use names::{Holder, InvalidSubject, Subject};
pub use options::{AuthorityOptions, IssueOptions, KeyType, Validity};
