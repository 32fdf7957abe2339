//! A certificate authority in memory.

use std::fmt;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use time::OffsetDateTime;
use x509_parser::{
    certificate::X509Certificate, certification_request::X509CertificationRequest, prelude::FromDer,
};

use super::{
    AuthorityOptions, Holder, IssueOptions, PkiError, Validity,
    describe::first_block,
    options::{AUTHORITY_DAYS, LEAF_DAYS},
};

/// Signs certificates of servers and clients.
///
/// ```
/// # fn main() -> Result<(), legatus_net::pki::PkiError> {
/// let authority = legatus_net::pki::Authority::generate()?;
/// let server = authority.issue_server(&["web1.example.com", "10.0.0.1"])?;
/// let client = authority.issue_client("alice")?;
/// assert!(server.certificate_pem().starts_with("-----BEGIN CERTIFICATE-----"));
/// # Ok(())
/// # }
/// ```
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    key_pem: String,
    not_after: OffsetDateTime,
}

impl Authority {
    /// A new authority with default options.
    ///
    /// # Errors
    ///
    /// When the system gives no random bytes.
    pub fn generate() -> Result<Self, PkiError> {
        Self::generate_with(&AuthorityOptions::default())
    }

    /// A new authority: self-signed, and not allowed to make further authorities.
    ///
    /// Without a common name in the subject it is called `Legatus CA` and a random number, because
    /// two authorities of the same name look like a forged signature instead of an unknown one.
    ///
    /// # Errors
    ///
    /// When the system gives no random bytes, or the validity cannot be written.
    pub fn generate_with(options: &AuthorityOptions) -> Result<Self, PkiError> {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = options.subject.distinguished.clone();
        if parameters
            .distinguished_name
            .get(&DnType::CommonName)
            .is_none()
        {
            let [a, b, c, d] = random::<4>()?;
            let name = format!("Legatus CA {a:02x}{b:02x}{c:02x}{d:02x}");
            parameters.distinguished_name.push(DnType::CommonName, name);
        }
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        parameters.serial_number = Some(random_serial()?);
        let validity = options
            .validity
            .unwrap_or_else(|| Validity::days(AUTHORITY_DAYS));
        (parameters.not_before, parameters.not_after) = validity.dates("the authority")?;

        let key = options.key_type.generate()?;
        let certificate = parameters
            .self_signed(&key)
            .map_err(|source| PkiError::Sign {
                name: "the authority".to_owned(),
                source,
            })?;
        Self::from_pem(&certificate.pem(), &key.serialize_pem())
    }

    /// An authority from its PEM certificate and private key (PKCS#8, PKCS#1 or SEC1).
    ///
    /// # Errors
    ///
    /// When one of them cannot be read, they do not belong together, or the certificate is not one
    /// of an authority or has expired.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, PkiError> {
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|_| PkiError::NotPem)?;
        let key_error = |reason: String| PkiError::Key { reason };
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|_| key_error("no unencrypted PEM private key in it".to_owned()))?;
        let key = KeyPair::try_from(&key).map_err(|error| key_error(error.to_string()))?;
        let not_after = check_authority(&certificate, &key)?;
        let unusable = |error: rcgen::Error| PkiError::AuthorityUnusable {
            reason: error.to_string(),
        };
        Ok(Self {
            issuer: Issuer::from_ca_cert_der(&certificate, key).map_err(unusable)?,
            certificate,
            certificate_pem: certificate_pem.to_owned(),
            key_pem: key_pem.to_owned(),
            not_after,
        })
    }

    /// The certificate as PEM, to be trusted by servers and clients.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The private key as PEM.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// A server's key and certificate for DNS names and IP addresses.
    ///
    /// # Errors
    ///
    /// When there is no name, or one is neither a DNS name nor an IP address.
    pub fn issue_server(&self, names: &[&str]) -> Result<Issued, PkiError> {
        let (name, alternatives) = names
            .split_first()
            .ok_or_else(|| PkiError::ServerName(String::new()))?;
        let holder = Holder::Server {
            name: (*name).to_owned(),
            alternatives: alternatives.iter().map(|name| (*name).to_owned()).collect(),
        };
        self.issue(&holder, &IssueOptions::default())
    }

    /// A client's key and certificate whose identity is `name`.
    ///
    /// # Errors
    ///
    /// When the name cannot be an identity.
    pub fn issue_client(&self, name: &str) -> Result<Issued, PkiError> {
        let name = name.to_owned();
        self.issue(&Holder::Client { name }, &IssueOptions::default())
    }

    /// A new key and its certificate.
    ///
    /// # Errors
    ///
    /// When a name, the subject or the validity cannot be used.
    pub fn issue(&self, holder: &Holder, options: &IssueOptions) -> Result<Issued, PkiError> {
        let key = options.key_type.generate()?;
        Ok(Issued {
            certificate_pem: self.sign(&key, holder, options)?,
            key_pem: key.serialize_pem(),
        })
    }

    /// Signs a PEM certificate request, of which only the public key is taken: what the requester
    /// wishes to be called is not for them to decide.
    ///
    /// # Errors
    ///
    /// When the request cannot be read or is not signed by its own key, or as [`Self::issue`].
    pub fn sign_request(
        &self,
        request_pem: &[u8],
        holder: &Holder,
        options: &IssueOptions,
    ) -> Result<String, PkiError> {
        let malformed = |reason: String| PkiError::Malformed {
            what: "certificate request",
            reason,
        };
        let block = first_block(
            request_pem,
            &["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"],
        )?
        .ok_or_else(|| malformed("there is none".to_owned()))?;
        let (_, request) = X509CertificationRequest::from_der(&block)
            .map_err(|error| malformed(error.to_string()))?;
        request
            .verify_signature()
            .map_err(|_| PkiError::RequestSignature)?;
        let public_key =
            SubjectPublicKeyInfo::from_der(request.certification_request_info.subject_pki.raw)
                .map_err(|error| malformed(error.to_string()))?;
        self.sign(&public_key, holder, options)
    }

    fn sign(
        &self,
        public_key: &impl PublicKeyData,
        holder: &Holder,
        options: &IssueOptions,
    ) -> Result<String, PkiError> {
        let mut parameters = holder.parameters(&options.subject)?;
        parameters.is_ca = IsCa::ExplicitNoCa;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.use_authority_key_identifier_extension = true;
        parameters.serial_number = Some(random_serial()?);
        let validity = options
            .validity
            .unwrap_or_else(|| Validity::days(LEAF_DAYS));
        let (not_before, not_after) = validity.dates(holder.name())?;
        // Nobody accepts a certificate longer than its authority's.
        (parameters.not_before, parameters.not_after) = (not_before, not_after.min(self.not_after));

        let certificate = parameters
            .signed_by(public_key, &self.issuer)
            .map_err(|source| PkiError::Sign {
                name: holder.name().to_owned(),
                source,
            })?;
        self.check_issuer(certificate.der())?;
        Ok(certificate.pem())
    }

    /// Makes sure that the issuer's name came out byte for byte as the authority's subject, which
    /// it would not if the subject has parts that the certificate library cannot write.
    fn check_issuer(&self, certificate: &CertificateDer<'_>) -> Result<(), PkiError> {
        let authority = parse(&self.certificate)?;
        if parse(certificate)?.issuer().as_raw() == authority.subject().as_raw() {
            return Ok(());
        }
        Err(PkiError::AuthorityUnusable {
            reason: format!("its subject `{}` cannot be reproduced", authority.subject()),
        })
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// Checks that a certificate can sign with this key; returns its last moment.
fn check_authority(
    certificate: &CertificateDer<'_>,
    key: &KeyPair,
) -> Result<OffsetDateTime, PkiError> {
    let unusable = |reason: &str| PkiError::AuthorityUnusable {
        reason: reason.to_owned(),
    };
    let certificate = parse(certificate)?;
    if certificate.public_key().subject_public_key.data != key.der_bytes() {
        return Err(PkiError::AuthorityKeyMismatch);
    }
    if !certificate.is_ca() {
        return Err(unusable("it is not one of an authority"));
    }
    let may_sign = certificate.key_usage().ok().flatten();
    if may_sign.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err(unusable(
            "its key usage does not allow signing certificates",
        ));
    }
    let not_after = certificate.validity().not_after.to_datetime();
    if not_after < OffsetDateTime::now_utc() {
        return Err(unusable("it has expired"));
    }
    Ok(not_after)
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, PkiError> {
    let (_, certificate) =
        X509Certificate::from_der(der.as_ref()).map_err(|error| PkiError::Malformed {
            what: "certificate",
            reason: error.to_string(),
        })?;
    Ok(certificate)
}

/// A private key and the certificate that was issued for it.
#[derive(Clone)]
pub struct Issued {
    certificate_pem: String,
    key_pem: String,
}

impl Issued {
    /// The certificate as PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The private key as PEM (PKCS#8).
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued")
            .field("certificate_pem", &self.certificate_pem)
            .finish_non_exhaustive()
    }
}

/// A positive serial number of 16 octets, 126 bits of them random (RFC 5280 section 4.1.2.2 allows
/// up to 20 octets).
fn random_serial() -> Result<SerialNumber, PkiError> {
    let mut bytes = random::<16>()?;
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn random<const LENGTH: usize>() -> Result<[u8; LENGTH], PkiError> {
    let mut bytes = [0; LENGTH];
    getrandom::fill(&mut bytes).map_err(PkiError::Random)?;
    Ok(bytes)
}
