//! Legatus on the network: TLS, certificates and the wire in motion.

pub mod pki;
pub mod tls;
