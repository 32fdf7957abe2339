//! How failures are found in chains of errors, and told.

use std::{fmt, io};

use super::*;

#[derive(Debug)]
struct Wrapper(io::Error);

impl fmt::Display for Wrapper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("wrapped")
    }
}

impl Error for Wrapper {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

#[test]
fn a_failure_is_found_under_any_wrapping() {
    let failure = || rustls::Error::NoCertificatesPresented;
    let io = |inner: Box<dyn Error + Send + Sync>| io::Error::other(inner);
    let expected = Some(TlsProblem::NoCertificateGiven);
    assert_eq!(explain(&failure()), expected);
    assert_eq!(explain(&io(failure().into())), expected);
    let deep = Wrapper(io(Wrapper(io(failure().into())).into()));
    assert_eq!(explain(&deep), expected);
    assert_eq!(
        explain(&TlsError::Handshake(io(failure().into()))),
        expected
    );
}

#[test]
fn other_errors_are_not_claimed_to_be_of_tls() {
    assert_eq!(
        explain(&io::Error::from(io::ErrorKind::ConnectionRefused)),
        None
    );
    assert_eq!(explain(&TlsError::NoPairs), None);
}

#[test]
fn server_names_are_dns_names_and_addresses() {
    for good in [
        "localhost",
        "a.example.com",
        "10.0.0.1",
        "::1",
        "[::1]",
        "fe80::1%eth0",
    ] {
        server_name(good).unwrap_or_else(|error| panic!("{error}"));
    }
    for bad in ["", "a b", "a/b", "-", "[::1", "a\nb", "*.example.com"] {
        server_name(bad).expect_err(bad);
    }
}
