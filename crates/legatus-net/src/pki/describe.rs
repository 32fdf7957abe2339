//! What a PEM file holds, told to a person.

use std::{
    fmt::{self, Write as _},
    net::IpAddr,
};

use aws_lc_rs::digest;
use jiff::Timestamp;
use rcgen::{KeyPair, PublicKeyData as _};
use rustls_pki_types::PrivateKeyDer;
use serde::Serialize;
use x509_parser::{
    certificate::X509Certificate,
    certification_request::X509CertificationRequest,
    extensions::{GeneralName, ParsedExtension},
    pem::Pem,
    prelude::FromDer,
    public_key::PublicKey,
    x509::SubjectPublicKeyInfo,
};

use super::PkiError;
use crate::tls::identity_of;

/// Describes every block of a PEM file, in its order. Of private keys it tells only the kind and
/// the fingerprint of the public half.
///
/// # Errors
///
/// When there is no PEM block, or one cannot be read.
pub fn describe(pem: &[u8]) -> Result<Vec<Description>, PkiError> {
    let mut descriptions = Vec::new();
    for block in Pem::iter_from_buffer(pem) {
        let block = block.map_err(|error| PkiError::Malformed {
            what: "text",
            reason: error.to_string(),
        })?;
        descriptions.push(describe_block(&block)?);
    }
    if descriptions.is_empty() {
        return Err(PkiError::NotPem);
    }
    Ok(descriptions)
}

fn describe_block(block: &Pem) -> Result<Description, PkiError> {
    Ok(match block.label.as_str() {
        "CERTIFICATE" => Description::Certificate(describe_certificate(&block.contents)?),
        "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => {
            Description::Request(describe_request(&block.contents)?)
        }
        "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY" => {
            Description::PrivateKey(describe_key(&block.contents)?)
        }
        label => Description::Other {
            label: label.escape_debug().to_string(),
        },
    })
}

/// The contents of the first block with one of these labels.
pub(super) fn first_block(pem: &[u8], labels: &[&str]) -> Result<Option<Vec<u8>>, PkiError> {
    let mut any = false;
    for block in Pem::iter_from_buffer(pem) {
        let block = block.map_err(|_| PkiError::NotPem)?;
        any = true;
        if labels.contains(&block.label.as_str()) {
            return Ok(Some(block.contents));
        }
    }
    if any { Ok(None) } else { Err(PkiError::NotPem) }
}

/// One block of a PEM file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Description {
    /// A certificate.
    Certificate(CertificateDescription),
    /// A certificate request.
    Request(RequestDescription),
    /// An unencrypted private key.
    PrivateKey(KeyDescription),
    /// Anything else, such as an encrypted key.
    Other {
        /// The label of the block.
        label: String,
    },
}

/// What a certificate says. Dates are RFC 3339 in UTC, fingerprints are SHA-256 in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CertificateDescription {
    /// `authority`, `server`, `client`, `server and client`, or `any` without extended key usage.
    pub role: &'static str,
    /// The subject, as in `O=Legio X, CN=web1`.
    pub subject: String,
    /// The alternative names, each with its kind, as in `DNS:web1`.
    pub names: Vec<String>,
    /// What a server would call the bearer; none if the names do not yield one.
    pub identity: Option<String>,
    /// The first moment of validity.
    pub not_before: String,
    /// The last moment of validity.
    pub not_after: String,
    /// `valid`, `expired` or `not yet valid`.
    pub status: &'static str,
    /// Days until the end of validity, one that has begun counted; 0 or negative afterwards.
    pub days_left: i64,
    /// The issuer's subject.
    pub issuer: String,
    /// The serial number in hexadecimal.
    pub serial: String,
    /// The kind of key, as in `ECDSA P-256`.
    pub key: String,
    /// The fingerprint of the certificate.
    pub fingerprint: String,
    /// The fingerprint of the public key; equal to that of the private key that belongs to it.
    pub key_fingerprint: String,
}

/// What a certificate request says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RequestDescription {
    /// The subject it asks for.
    pub subject: String,
    /// The alternative names it asks for.
    pub names: Vec<String>,
    /// Whether it is signed by its own key.
    pub signature_valid: bool,
    /// The kind of key.
    pub key: String,
    /// The fingerprint of the public key.
    pub key_fingerprint: String,
}

/// What may be told of a private key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyDescription {
    /// The kind of key.
    pub key: String,
    /// The fingerprint of the public key that belongs to it.
    pub key_fingerprint: String,
}

fn malformed(what: &'static str) -> impl Fn(String) -> PkiError {
    move |reason| PkiError::Malformed { what, reason }
}

fn describe_certificate(der: &[u8]) -> Result<CertificateDescription, PkiError> {
    let (_, certificate) = X509Certificate::from_der(der)
        .map_err(|error| malformed("certificate")(error.to_string()))?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|error| malformed("certificate")(error.to_string()))?
        .map(|extension| names(&extension.value.general_names));
    let (not_before, not_after) = (
        certificate.validity().not_before.timestamp(),
        certificate.validity().not_after.timestamp(),
    );
    let now = Timestamp::now().as_second();
    Ok(CertificateDescription {
        role: role(&certificate),
        subject: printable(&certificate.subject().to_string()),
        names: names.unwrap_or_default(),
        identity: identity_of(&certificate).ok(),
        not_before: date(not_before),
        not_after: date(not_after),
        status: match now {
            now if now < not_before => "not yet valid",
            now if now > not_after => "expired",
            _ => "valid",
        },
        days_left: days_left(not_after, now),
        issuer: printable(&certificate.issuer().to_string()),
        serial: hexadecimal(certificate.raw_serial(), ""),
        key: key_type(certificate.public_key()),
        fingerprint: fingerprint(der),
        key_fingerprint: fingerprint(certificate.public_key().raw),
    })
}

fn describe_request(der: &[u8]) -> Result<RequestDescription, PkiError> {
    let (_, request) = X509CertificationRequest::from_der(der)
        .map_err(|error| malformed("certificate request")(error.to_string()))?;
    let names = request
        .requested_extensions()
        .into_iter()
        .flatten()
        .find_map(|extension| match extension {
            ParsedExtension::SubjectAlternativeName(san) => Some(names(&san.general_names)),
            _ => None,
        });
    let info = &request.certification_request_info;
    Ok(RequestDescription {
        subject: printable(&info.subject.to_string()),
        names: names.unwrap_or_default(),
        signature_valid: request.verify_signature().is_ok(),
        key: key_type(&info.subject_pki),
        key_fingerprint: fingerprint(info.subject_pki.raw),
    })
}

fn describe_key(der: &[u8]) -> Result<KeyDescription, PkiError> {
    let malformed = malformed("private key");
    let key = PrivateKeyDer::try_from(der).map_err(|reason| malformed(reason.to_owned()))?;
    let key = KeyPair::try_from(&key).map_err(|error| malformed(error.to_string()))?;
    let public = key.subject_public_key_info();
    let (_, info) =
        SubjectPublicKeyInfo::from_der(&public).map_err(|error| malformed(error.to_string()))?;
    Ok(KeyDescription {
        key: key_type(&info),
        key_fingerprint: fingerprint(&public),
    })
}

/// Days until the end of validity, of moments in seconds since 1970. One that has begun counts: of
/// 365 days there are still 365 left a second after the certificate was made.
pub(crate) fn days_left(not_after: i64, now: i64) -> i64 {
    (not_after - now + DAY_SECONDS - 1).div_euclid(DAY_SECONDS)
}

const DAY_SECONDS: i64 = 24 * 60 * 60;

/// The role of the first certificate in a PEM file, as [`CertificateDescription::role`]; none if
/// there is none that can be read.
pub(super) fn role_in(pem: &[u8]) -> Option<&'static str> {
    let der = first_block(pem, &["CERTIFICATE"]).ok()??;
    let (_, certificate) = X509Certificate::from_der(&der).ok()?;
    Some(role(&certificate))
}

fn role(certificate: &X509Certificate<'_>) -> &'static str {
    if certificate.is_ca() {
        return "authority";
    }
    let Ok(Some(usage)) = certificate.extended_key_usage() else {
        return "any";
    };
    match (usage.value.server_auth, usage.value.client_auth) {
        _ if usage.value.any => "any",
        (true, true) => "server and client",
        (true, false) => "server",
        (false, true) => "client",
        (false, false) => "neither server nor client",
    }
}

fn names(names: &[GeneralName<'_>]) -> Vec<String> {
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => format!("DNS:{name}"),
        GeneralName::URI(uri) => format!("URI:{uri}"),
        GeneralName::RFC822Name(address) => format!("email:{address}"),
        GeneralName::IPAddress(octets) => match ip_address(octets) {
            Some(address) => format!("IP:{address}"),
            None => format!("IP:{}", hexadecimal(octets, "")),
        },
        other => other.to_string(),
    };
    names.iter().map(|each| printable(&name(each))).collect()
}

fn ip_address(octets: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    let sixteen = || <[u8; 16]>::try_from(octets).map(IpAddr::from);
    four.or_else(|_| sixteen()).ok()
}

fn key_type(info: &SubjectPublicKeyInfo<'_>) -> String {
    let algorithm = info.algorithm.algorithm.to_id_string();
    let curve = info
        .algorithm
        .parameters
        .as_ref()
        .and_then(|parameters| parameters.as_oid().ok())
        .map(|oid| oid.to_id_string());
    match (algorithm.as_str(), curve.as_deref()) {
        ("1.2.840.10045.2.1", Some("1.2.840.10045.3.1.7")) => "ECDSA P-256".to_owned(),
        ("1.2.840.10045.2.1", Some("1.3.132.0.34")) => "ECDSA P-384".to_owned(),
        ("1.2.840.10045.2.1", Some("1.3.132.0.35")) => "ECDSA P-521".to_owned(),
        ("1.3.101.112", _) => "Ed25519".to_owned(),
        ("1.2.840.113549.1.1.1", _) => match info.parsed() {
            Ok(PublicKey::RSA(key)) => format!("RSA {}", key.key_size()),
            _ => "RSA".to_owned(),
        },
        _ => format!("algorithm {algorithm}"),
    }
}

fn fingerprint(der: &[u8]) -> String {
    hexadecimal(digest::digest(&digest::SHA256, der).as_ref(), ":")
}

fn hexadecimal(bytes: &[u8], separator: &str) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.join(separator)
}

fn date(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |date| date.to_string())
}

/// A name from a certificate that cannot play tricks with the terminal.
fn printable(name: &str) -> String {
    let mut printable = String::with_capacity(name.len());
    for character in name.chars() {
        if character.is_control() {
            printable.extend(character.escape_default());
        } else {
            printable.push(character);
        }
    }
    printable
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate(certificate) => certificate.fmt(f),
            Self::Request(request) => request.fmt(f),
            Self::PrivateKey(key) => {
                writeln!(f, "private key ({})", key.key)?;
                field(f, "public key", &format!("SHA-256 {}", key.key_fingerprint))
            }
            Self::Other { label } => writeln!(f, "{} (not described)", label.to_lowercase()),
        }
    }
}

impl fmt::Display for CertificateDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.role {
            "any" => writeln!(f, "certificate for any role")?,
            "authority" => writeln!(f, "certificate of an authority")?,
            role => writeln!(f, "certificate of a {role}")?,
        }
        field(f, "subject", &self.subject)?;
        if !self.names.is_empty() {
            field(f, "names", &self.names.join(", "))?;
        }
        if self.role != "authority" {
            let identity = self.identity.as_deref();
            field(f, "identity", identity.unwrap_or("none that can be used"))?;
        }
        let left = match (self.status, self.days_left) {
            ("valid", 1) => "1 day left".to_owned(),
            ("valid", days) => format!("{days} days left"),
            (status, _) => status.to_uppercase(),
        };
        let validity = format!("{} to {} ({left})", self.not_before, self.not_after);
        field(f, "validity", &validity)?;
        field(f, "issuer", &self.issuer)?;
        field(f, "serial", &self.serial)?;
        field(f, "key", &self.key)?;
        field(f, "fingerprint", &format!("SHA-256 {}", self.fingerprint))?;
        field(
            f,
            "public key",
            &format!("SHA-256 {}", self.key_fingerprint),
        )
    }
}

impl fmt::Display for RequestDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "certificate request")?;
        field(f, "subject", &self.subject)?;
        if !self.names.is_empty() {
            field(f, "names", &self.names.join(", "))?;
        }
        field(f, "key", &self.key)?;
        let signature = if self.signature_valid {
            "by the key itself"
        } else {
            "WRONG: not by the key it names"
        };
        field(f, "signed", signature)?;
        field(
            f,
            "public key",
            &format!("SHA-256 {}", self.key_fingerprint),
        )
    }
}

fn field(f: &mut fmt::Formatter<'_>, name: &str, value: &str) -> fmt::Result {
    f.write_str("  ")?;
    write!(f, "{name}:")?;
    for _ in name.len()..12 {
        f.write_char(' ')?;
    }
    writeln!(f, "{value}")
}
