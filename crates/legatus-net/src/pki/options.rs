//! For how long and with which keys certificates are made.

use std::time::{Duration, SystemTime};

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize};
use time::OffsetDateTime;

use super::{PkiError, Subject};

/// How a new authority is made.
#[derive(Clone, Debug, Default)]
pub struct AuthorityOptions {
    /// What it is called.
    pub subject: Subject,
    /// How long it is valid; 3650 days from now if not given: replacing an authority means to
    /// touch every machine.
    pub validity: Option<Validity>,
    /// Its kind of key.
    pub key_type: KeyType,
}

/// How a certificate is issued.
#[derive(Clone, Debug, Default)]
pub struct IssueOptions {
    /// Further fields of the subject.
    pub subject: Subject,
    /// How long it is valid; 365 days from now if not given: there is no revocation, so this bounds
    /// what a lost key is worth, and a yearly renewal can be remembered.
    pub validity: Option<Validity>,
    /// The kind of key to make; unused when a request brings its own.
    pub key_type: KeyType,
}

/// When a certificate is valid, to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first moment.
    pub not_before: SystemTime,
    /// The last moment.
    pub not_after: SystemTime,
}

impl Validity {
    /// From now on for a number of days; it begins five minutes early, for clocks that are late.
    pub fn days(days: u32) -> Self {
        let now = SystemTime::now();
        Self {
            not_before: now - CLOCK_SKEW,
            not_after: now + DAY * days,
        }
    }

    pub(super) fn dates(self, name: &str) -> Result<(OffsetDateTime, OffsetDateTime), PkiError> {
        let invalid = |reason| PkiError::Validity {
            name: name.to_owned(),
            reason,
        };
        let date = |moment: SystemTime| {
            let seconds = match moment.duration_since(SystemTime::UNIX_EPOCH) {
                Ok(since) => i64::try_from(since.as_secs()).ok(),
                Err(_) => None,
            };
            // RFC 5280 section 4.1.2.5: years up to 9999, which is also `time`'s range.
            seconds.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        };
        let (Some(not_before), Some(not_after)) = (date(self.not_before), date(self.not_after))
        else {
            return Err(invalid("a date before 1970 or after 9999"));
        };
        if not_after <= not_before {
            return Err(invalid("it ends before it begins"));
        }
        Ok((not_before, not_after))
    }
}

/// The kinds of keys that can be made here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyType {
    /// ECDSA on P-256: small, fast on both sides, understood everywhere.
    #[default]
    Ecdsa,
    /// Ed25519.
    Ed25519,
    /// RSA of 3072 bits, for what understands nothing else.
    Rsa,
}

impl KeyType {
    pub(super) fn generate(self) -> Result<KeyPair, PkiError> {
        match self {
            Self::Ecdsa => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
            Self::Ed25519 => KeyPair::generate_for(&PKCS_ED25519),
            Self::Rsa => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_3072),
        }
        .map_err(PkiError::Generate)
    }
}

pub(super) const AUTHORITY_DAYS: u32 = 3650;
pub(super) const LEAF_DAYS: u32 = 365;
const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
