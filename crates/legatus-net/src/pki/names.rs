//! Whom a certificate is for, and how the name becomes part of it.

use std::{net::IpAddr, str::FromStr};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose, SanType,
    string::{Ia5String, PrintableString},
};
use rustls_pki_types::DnsName;

use super::PkiError;
use crate::tls::check_identity;

/// Whom a certificate is for: it decides names and extended key usage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A client; the certificate's identity is exactly this name.
    Client {
        /// A URI (`spiffe://...`), a DNS name, or any other name of at most 64 characters.
        name: String,
    },
    /// A server; the certificate is good for these names.
    Server {
        /// A DNS name (wildcards in the first label allowed) or an IP address.
        name: String,
        /// Further DNS names and IP addresses.
        alternatives: Vec<String>,
    },
}

impl Holder {
    /// The name of the client or the server.
    pub fn name(&self) -> &str {
        match self {
            Self::Client { name } | Self::Server { name, .. } => name,
        }
    }

    /// Certificate parameters with this holder's names and usage.
    pub(super) fn parameters(&self, subject: &Subject) -> Result<CertificateParams, PkiError> {
        let mut parameters = CertificateParams::default();
        let mut distinguished = subject.distinguished.clone();
        match self {
            Self::Client { name } => {
                parameters.subject_alt_names = client_names(name)?;
                if parameters.subject_alt_names.is_empty() {
                    require_common_name(name, &distinguished)?;
                }
                parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            }
            Self::Server { name, alternatives } => {
                let mut names = vec![server_name(name)?];
                for alternative in alternatives {
                    let alternative = server_name(alternative)?;
                    if !names.contains(&alternative) {
                        names.push(alternative);
                    }
                }
                parameters.subject_alt_names = names;
                parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            }
        }
        if distinguished.get(&DnType::CommonName).is_none()
            && self.name().chars().count() <= MAX_COMMON_NAME
        {
            distinguished.push(DnType::CommonName, self.name());
        }
        parameters.distinguished_name = distinguished;
        Ok(parameters)
    }
}

/// The subject alternative names that make `name` the identity; none if the CN must do.
fn client_names(name: &str) -> Result<Vec<SanType>, PkiError> {
    let invalid = |reason: String| PkiError::ClientName {
        name: name.to_owned(),
        reason,
    };
    check_identity(name).map_err(|error| invalid(error.to_string()))?;
    if is_uri(name) {
        let uri = name.bytes().all(|byte| byte.is_ascii_graphic());
        let uri = uri.then(|| Ia5String::try_from(name).ok()).flatten();
        let uri = uri.ok_or_else(|| {
            invalid("a URI is plain ASCII without blanks; percent-encode the rest".to_owned())
        })?;
        return Ok(vec![SanType::URI(uri)]);
    }
    if let (Ok(_), Ok(dns)) = (DnsName::try_from(name), Ia5String::try_from(name)) {
        return Ok(vec![SanType::DnsName(dns)]);
    }
    if name.chars().count() > MAX_COMMON_NAME {
        return Err(invalid(format!(
            "a common name has at most {MAX_COMMON_NAME} characters; use a URI"
        )));
    }
    Ok(Vec::new())
}

fn require_common_name(name: &str, distinguished: &DistinguishedName) -> Result<(), PkiError> {
    match distinguished.get(&DnType::CommonName) {
        Some(DnValue::Utf8String(common_name)) if common_name != name => {
            Err(PkiError::CommonNameConflict {
                common_name: common_name.clone(),
                name: name.to_owned(),
            })
        }
        _ => Ok(()),
    }
}

fn server_name(name: &str) -> Result<SanType, PkiError> {
    if let Ok(address) = IpAddr::from_str(name) {
        return Ok(SanType::IpAddress(address));
    }
    let invalid = || PkiError::ServerName(name.to_owned());
    DnsName::try_from(name.strip_prefix("*.").unwrap_or(name)).map_err(|_| invalid())?;
    Ok(SanType::DnsName(
        Ia5String::try_from(name).map_err(|_| invalid())?,
    ))
}

/// Whether a client's name is meant as a URI: it has a scheme (RFC 3986 section 3.1) and an
/// authority, or is a URN.
fn is_uri(name: &str) -> bool {
    if name.starts_with("urn:") {
        return true;
    }
    name.split_once("://").is_some_and(|(scheme, _)| {
        scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
    })
}

/// The longest common name, in characters (RFC 5280, `ub-common-name`).
const MAX_COMMON_NAME: usize = 64;

/// The fields of a certificate's subject, as in `C=IT,O=Legio X,OU=Castra,CN=web1`.
///
/// Known are `C`, `ST`, `L`, `O`, `OU` and `CN`, each at most once; a backslash keeps a comma.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    pub(super) distinguished: DistinguishedName,
}

impl FromStr for Subject {
    type Err = InvalidSubject;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut distinguished = DistinguishedName::new();
        for field in split_fields(text) {
            let (key, value) = field
                .split_once('=')
                .ok_or_else(|| InvalidSubject::NoEqualsSign(field.clone()))?;
            let (key, value) = (key.trim().to_ascii_uppercase(), value.trim());
            let kind = match key.as_str() {
                "C" => DnType::CountryName,
                "ST" => DnType::StateOrProvinceName,
                "L" => DnType::LocalityName,
                "O" => DnType::OrganizationName,
                "OU" => DnType::OrganizationalUnitName,
                "CN" => DnType::CommonName,
                _ => return Err(InvalidSubject::UnknownField(key)),
            };
            if distinguished.get(&kind).is_some() {
                return Err(InvalidSubject::Twice(key));
            }
            let value = field_value(&kind, value).ok_or(InvalidSubject::Value(key))?;
            distinguished.push(kind, value);
        }
        Ok(Self { distinguished })
    }
}

fn field_value(kind: &DnType, value: &str) -> Option<DnValue> {
    if value.is_empty() || value.chars().count() > MAX_COMMON_NAME {
        return None;
    }
    if value.chars().any(char::is_control) {
        return None;
    }
    if *kind == DnType::CountryName {
        // RFC 5280 appendix A: two letters, PrintableString.
        let letters = value.len() == 2 && value.bytes().all(|byte| byte.is_ascii_alphabetic());
        let country = PrintableString::try_from(value.to_ascii_uppercase()).ok()?;
        return letters.then_some(DnValue::PrintableString(country));
    }
    Some(DnValue::Utf8String(value.to_owned()))
}

/// Splits at commas that no backslash precedes.
fn split_fields(text: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (character, fields.last_mut()) {
            (',', _) => fields.push(String::new()),
            ('\\', Some(field)) => field.extend(characters.next()),
            (other, Some(field)) => field.push(other),
            (_, None) => {}
        }
    }
    fields.retain(|field| !field.trim().is_empty());
    fields
}

/// Why a text is not a [`Subject`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSubject {
    /// A field lacks its value.
    #[error("`{0}` is not of the form KEY=VALUE")]
    NoEqualsSign(String),
    /// A field is there twice.
    #[error("`{0}` is given twice")]
    Twice(String),
    /// A field that certificates made here do not have.
    #[error("`{0}` is not one of C, ST, L, O, OU and CN")]
    UnknownField(String),
    /// A value that the field cannot have.
    #[error(
        "the value of `{0}` cannot be used: 1 to 64 printable characters (C: a country code of two letters)"
    )]
    Value(String),
}
