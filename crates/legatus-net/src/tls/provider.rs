//! The cryptography of every connection.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// HTTP/2, the only protocol spoken (RFC 9113 section 3.2).
pub(super) const ALPN_HTTP2: &[u8] = b"h2";

/// AWS-LC with rustls's choices.
///
/// The order of key exchanges is fixed here, because a feature of rustls that any dependency may
/// switch on would change it: X25519 costs a handshake less time and 2.3 KB less than the hybrid
/// X25519MLKEM768, which a peer can still have by offering it first.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        kx_groups: vec![
            aws_lc_rs::kx_group::X25519,
            aws_lc_rs::kx_group::SECP256R1,
            aws_lc_rs::kx_group::SECP384R1,
            aws_lc_rs::kx_group::X25519MLKEM768,
        ],
        ..aws_lc_rs::default_provider()
    })
}
