//! The cryptography of every connection.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// HTTP/2, the only protocol spoken (RFC 9113 section 3.2).
pub(super) const ALPN_HTTP2: &[u8] = b"h2";

/// AWS-LC with TLS 1.3 only.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
