//! The cryptography of every connection.

use std::sync::Arc;

#[cfg(target_arch = "x86_64")]
use rustls::crypto::ring;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{SupportedCipherSuite, Tls13CipherSuite};

/// HTTP/2, the only protocol spoken (RFC 9113 section 3.2).
pub(super) const ALPN_HTTP2: &[u8] = b"h2";

/// The cipher suites of every handshake.
///
/// AES-128-GCM comes first: it moves 9 to 30 % more bytes a second than AES-256-GCM, and breaking
/// it is out of reach as well.
pub(super) const CIPHERS: [SupportedCipherSuite; 3] = [
    aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
    aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
    aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
];

/// AWS-LC with rustls's choices, in an order of ours.
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
        cipher_suites: CIPHERS.to_vec(),
        ..aws_lc_rs::default_provider()
    })
}

/// The suite whose cipher is the fastest here for what comes after a handshake that agreed on
/// `suite`: the same cipher, of either library (decision 0011).
pub(super) fn for_records(suite: &'static Tls13CipherSuite) -> &'static Tls13CipherSuite {
    #[cfg(target_arch = "x86_64")]
    {
        let two_blocks = is_x86_feature_detected!("vaes") && is_x86_feature_detected!("vpclmulqdq");
        if prefers_ring(two_blocks, is_x86_feature_detected!("avx512f")) {
            return of_ring(suite).unwrap_or(suite);
        }
    }
    suite
}

/// The same with AES of ring, which has code for a kind of processor that AWS-LC has none for.
#[cfg(target_arch = "x86_64")]
pub(super) fn of_ring(suite: &Tls13CipherSuite) -> Option<&'static Tls13CipherSuite> {
    let suites = [
        ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
        ring::cipher_suite::TLS13_AES_256_GCM_SHA384,
    ];
    let mut suites = suites.iter().filter_map(SupportedCipherSuite::tls13);
    suites.find(|other| other.common.suite == suite.common.suite)
}

/// Whether a processor works on two blocks of AES at a time, but has not the wider registers of
/// AVX-512 (AMD's Zen 3, Intel's client processors since 2021): there ring is twice as fast.
#[cfg(target_arch = "x86_64")]
fn prefers_ring(two_blocks: bool, avx512: bool) -> bool {
    two_blocks && !avx512
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn ring_is_taken_where_it_alone_has_code_for_the_processor() {
        assert!(prefers_ring(true, false));
        for (two_blocks, avx512) in [(false, false), (false, true), (true, true)] {
            assert!(!prefers_ring(two_blocks, avx512));
        }
    }
}
