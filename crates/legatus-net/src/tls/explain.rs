//! What went wrong in TLS, told to a person.

use std::{error::Error, fmt, io};

use jiff::Timestamp;
use rustls::{AlertDescription, CertificateError, PeerIncompatible};
use rustls_pki_types::UnixTime;

use super::TlsError;

/// Finds the TLS failure in a chain of errors, wherever HTTP/2, hyper or I/O errors wrapped it.
pub fn explain(error: &(dyn Error + 'static)) -> Option<TlsProblem> {
    let mut error = Some(error);
    // Chains are short; the bound is against one that has no end.
    for _ in 0..MAX_CHAIN {
        let current = error?;
        if let Some(problem) = classify(current) {
            return Some(problem);
        }
        error = inner(current);
    }
    None
}

const MAX_CHAIN: usize = 64;

/// The error inside, also of those wrappers that do not name it as their source.
fn inner<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return error.get_ref().map(|inner| inner as &(dyn Error + 'static));
    }
    if let Some(error) = error.downcast_ref::<h2::Error>() {
        return error.get_io().map(|inner| inner as &(dyn Error + 'static));
    }
    error.source()
}

fn classify(error: &(dyn Error + 'static)) -> Option<TlsProblem> {
    if let Some(error) = error.downcast_ref::<TlsError>() {
        return match error {
            TlsError::ClosedDuringHandshake => Some(TlsProblem::ClosedDuringHandshake),
            TlsError::NoHttp2 => Some(TlsProblem::NoHttp2),
            _ => None,
        };
    }
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return alert_in_text(&error.to_string());
    }
    error.downcast_ref::<rustls::Error>().map(problem)
}

/// The alert in the text of an I/O error.
///
/// h2 hands an I/O error to several tasks by copying its kind and text, so that of the alert by
/// which a server refuses a certificate only rustls's words are left.
fn alert_in_text(text: &str) -> Option<TlsProblem> {
    let name = text.strip_prefix("received fatal alert: ")?;
    let known = ALERTS_AFTER_HANDSHAKE
        .into_iter()
        .find(|alert| format!("{alert:?}") == name);
    known.map(alert_problem)
}

/// What a server may send when the client already thinks that the handshake is over.
const ALERTS_AFTER_HANDSHAKE: [AlertDescription; 9] = [
    AlertDescription::AccessDenied,
    AlertDescription::BadCertificate,
    AlertDescription::CertificateExpired,
    AlertDescription::CertificateRequired,
    AlertDescription::CertificateRevoked,
    AlertDescription::CertificateUnknown,
    AlertDescription::DecryptError,
    AlertDescription::UnknownCA,
    AlertDescription::UnsupportedCertificate,
];

fn problem(error: &rustls::Error) -> TlsProblem {
    match error {
        rustls::Error::InvalidCertificate(error) => certificate_problem(error),
        rustls::Error::NoCertificatesPresented => TlsProblem::NoCertificateGiven,
        rustls::Error::AlertReceived(alert) => alert_problem(*alert),
        rustls::Error::InvalidMessage(_) => TlsProblem::NotTls,
        rustls::Error::NoApplicationProtocol => TlsProblem::NoHttp2,
        rustls::Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled,
        ) => TlsProblem::VersionMismatch,
        other => TlsProblem::Other {
            detail: other.to_string(),
        },
    }
}

fn certificate_problem(error: &CertificateError) -> TlsProblem {
    match error {
        // A bad signature is what an authority of the same name but another key looks like.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            TlsProblem::UnknownAuthority
        }
        CertificateError::NotValidForName => TlsProblem::WrongName {
            expected: None,
            presented: Vec::new(),
        },
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => TlsProblem::WrongName {
            expected: Some(expected.to_str().into_owned()),
            presented: presented.iter().map(|name| plain_name(name)).collect(),
        },
        CertificateError::Expired => TlsProblem::Expired { not_after: None },
        CertificateError::ExpiredContext { not_after, .. } => TlsProblem::Expired {
            not_after: timestamp(*not_after),
        },
        CertificateError::NotValidYet => TlsProblem::NotYetValid { not_before: None },
        CertificateError::NotValidYetContext { not_before, .. } => TlsProblem::NotYetValid {
            not_before: timestamp(*not_before),
        },
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            TlsProblem::WrongPurpose
        }
        other => TlsProblem::Other {
            detail: other.to_string(),
        },
    }
}

fn alert_problem(alert: AlertDescription) -> TlsProblem {
    let rejected = |reason| TlsProblem::CertificateRejected { reason };
    match alert {
        AlertDescription::CertificateRequired => TlsProblem::NoCertificateGiven,
        AlertDescription::UnknownCA => rejected(Rejection::UnknownAuthority),
        // What rustls sends for an authority of the same name but another key.
        AlertDescription::DecryptError => rejected(Rejection::BadSignature),
        AlertDescription::CertificateExpired => rejected(Rejection::ExpiredOrNotYetValid),
        AlertDescription::CertificateRevoked => rejected(Rejection::Revoked),
        AlertDescription::UnsupportedCertificate => rejected(Rejection::WrongPurpose),
        AlertDescription::AccessDenied => rejected(Rejection::AccessDenied),
        AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => {
            rejected(Rejection::Unspecified)
        }
        AlertDescription::ProtocolVersion => TlsProblem::VersionMismatch,
        AlertDescription::NoApplicationProtocol => TlsProblem::NoHttp2,
        other => TlsProblem::Other {
            detail: format!("the peer sent the alert {other:?}"),
        },
    }
}

/// The name out of what rustls reports, such as `DnsName("web1")` or `IpAddress(10.0.0.1)`.
fn plain_name(reported: &str) -> String {
    let inner = reported
        .split_once('(')
        .and_then(|(_, rest)| rest.strip_suffix(')'));
    let name = inner.unwrap_or(reported).trim_matches('"');
    name.escape_debug().to_string()
}

fn timestamp(time: UnixTime) -> Option<Timestamp> {
    Timestamp::from_second(i64::try_from(time.as_secs()).ok()?).ok()
}

/// What went wrong in TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsProblem {
    /// The peer rejected our certificate.
    CertificateRejected {
        /// Why, as far as the peer told.
        reason: Rejection,
    },
    /// The peer closed the connection during the handshake.
    ClosedDuringHandshake,
    /// The peer's certificate is not valid any more.
    Expired {
        /// Its last moment.
        not_after: Option<Timestamp>,
    },
    /// The client gave no certificate.
    NoCertificateGiven,
    /// The peer does not speak HTTP/2.
    NoHttp2,
    /// The peer's certificate is not valid yet.
    NotYetValid {
        /// Its first moment.
        not_before: Option<Timestamp>,
    },
    /// The peer does not speak TLS at all.
    NotTls,
    /// Anything else that failed in TLS.
    Other {
        /// What the TLS library says.
        detail: String,
    },
    /// The peer's certificate is signed by an authority that is not trusted here.
    UnknownAuthority,
    /// The peer does not speak TLS 1.3.
    VersionMismatch,
    /// The server's certificate is for other names.
    WrongName {
        /// The name that was connected to.
        expected: Option<String>,
        /// The names in the certificate.
        presented: Vec<String>,
    },
    /// The peer's certificate is for the other role: a client's on a server or the reverse.
    WrongPurpose,
}

/// Why a peer rejected a certificate, as its TLS alert says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rejection {
    /// The certificate is fine but its bearer has no access.
    AccessDenied,
    /// A signature does not fit.
    BadSignature,
    /// It has expired or is not valid yet.
    ExpiredOrNotYetValid,
    /// It was revoked.
    Revoked,
    /// The peer does not trust its authority.
    UnknownAuthority,
    /// The peer gave no reason.
    Unspecified,
    /// It is for another role.
    WrongPurpose,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AccessDenied => "access denied",
            Self::BadSignature => "it is not signed by the key of an authority trusted there",
            Self::ExpiredOrNotYetValid => "it has expired or is not valid yet",
            Self::Revoked => "it was revoked",
            Self::UnknownAuthority => "it is signed by an authority that is not trusted there",
            Self::Unspecified => "no reason was given",
            Self::WrongPurpose => "it is for another role (a server's used as a client's?)",
        })
    }
}

impl fmt::Display for TlsProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CertificateRejected { reason } => {
                write!(f, "the peer rejected our certificate: {reason}")
            }
            Self::ClosedDuringHandshake => {
                f.write_str("the peer closed the connection during the TLS handshake")
            }
            Self::Expired { not_after } => {
                f.write_str("the peer's certificate has expired")?;
                date(f, " on ", *not_after)
            }
            Self::NoCertificateGiven => {
                f.write_str("no client certificate was given, and the server requires one")
            }
            Self::NoHttp2 => f.write_str("the peer speaks TLS but not HTTP/2"),
            Self::NotYetValid { not_before } => {
                f.write_str("the peer's certificate is not valid yet")?;
                date(f, ": it will be on ", *not_before)
            }
            Self::NotTls => f.write_str("what the peer speaks is not TLS"),
            Self::Other { detail } => write!(f, "TLS failed: {detail}"),
            Self::UnknownAuthority => f.write_str(
                "the peer's certificate is signed by an authority that is not trusted here",
            ),
            Self::VersionMismatch => f.write_str("the peer does not speak TLS 1.3"),
            Self::WrongName {
                expected,
                presented,
            } => wrong_name(f, expected.as_deref(), presented),
            Self::WrongPurpose => f.write_str(
                "the peer's certificate is for another role (a client's on a server, or the reverse)",
            ),
        }
    }
}

impl Error for TlsProblem {}

fn wrong_name(
    f: &mut fmt::Formatter<'_>,
    expected: Option<&str>,
    presented: &[String],
) -> fmt::Result {
    f.write_str("the server's certificate is not for ")?;
    match expected {
        Some(expected) => write!(f, "`{expected}`")?,
        None => f.write_str("this name")?,
    }
    match presented {
        [] => Ok(()),
        names => write!(f, " but for {}", names.join(", ")),
    }
}

fn date(f: &mut fmt::Formatter<'_>, before: &str, moment: Option<Timestamp>) -> fmt::Result {
    match moment {
        Some(moment) => write!(f, "{before}{}", moment.strftime("%Y-%m-%d %H:%M:%S UTC")),
        None => Ok(()),
    }
}

impl TlsProblem {
    /// What the user could do next, if anything is known.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::CertificateRejected { reason } => match reason {
                Rejection::ExpiredOrNotYetValid => {
                    "look at it with `legatus pki show FILE`, check the clocks, issue a new one"
                }
                Rejection::WrongPurpose => {
                    "use a certificate made by `legatus pki issue --client NAME`"
                }
                _ => "use a certificate issued by the authority that the server trusts (its --ca)",
            },
            Self::ClosedDuringHandshake | Self::NotTls => {
                "check host and port: something other than a Legatus server may listen there"
            }
            Self::Expired { .. } => "issue a new certificate there; check the clocks",
            Self::NoCertificateGiven => {
                "use --cert and --key; `legatus pki issue --client NAME` makes them"
            }
            Self::NoHttp2 => {
                "check host and port: this is not a Legatus server, or a proxy is between"
            }
            Self::NotYetValid { .. } => "check the clocks on both sides",
            Self::UnknownAuthority => {
                "use --ca with the certificate of the authority that issued the server's"
            }
            Self::VersionMismatch => "check host and port; Legatus speaks TLS 1.3 only",
            Self::WrongName { .. } => {
                "connect to a name in the certificate, or issue one for this name (--san)"
            }
            Self::WrongPurpose => {
                "the server needs a certificate made by `legatus pki issue --server NAME`"
            }
            Self::Other { .. } => return None,
        })
    }
}
