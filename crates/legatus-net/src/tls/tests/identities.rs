//! Which identity a certificate gives.

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType, string::Ia5String};

use super::*;
use crate::tls::{IdentityError, peer_from_certificates};

fn identity(names: &[SanType], common_names: Option<&str>) -> Result<String, IdentityError> {
    let mut parameters = CertificateParams::default();
    parameters.subject_alt_names = names.to_vec();
    parameters.distinguished_name = DistinguishedName::new();
    if let Some(name) = common_names {
        parameters.distinguished_name.push(DnType::CommonName, name);
    }
    let key = KeyPair::generate().expect("a key");
    let certificate = parameters.self_signed(&key).expect("a certificate");
    peer_from_certificates(&[certificate.der().clone()]).map(|peer| peer.identity().to_owned())
}

fn text(text: &str) -> Ia5String {
    Ia5String::try_from(text).expect("ASCII")
}

#[test]
fn a_uri_comes_before_a_dns_name_before_a_common_name() {
    let uri = SanType::URI(text("spiffe://example.com/alice"));
    let (dns, second) = (
        SanType::DnsName(text("a.test")),
        SanType::DnsName(text("b.test")),
    );
    let named = |names: &[SanType]| identity(names, Some("common")).expect("an identity");
    assert_eq!(named(&[dns.clone(), uri]), "spiffe://example.com/alice");
    assert_eq!(named(&[dns, second]), "a.test");
    assert_eq!(named(&[SanType::Rfc822Name(text("a@b.test"))]), "common");
    assert_eq!(named(&[]), "common");
}

#[test]
fn names_that_could_forge_or_flood_a_log_are_refused() {
    use IdentityError::{ControlCharacter, Empty, NoName, TooLong};
    let uri = |name: &str| identity(&[SanType::URI(text(name))], Some("common"));
    assert_eq!(uri("a\nb"), Err(ControlCharacter));
    assert_eq!(uri("a\x1b[2Jb"), Err(ControlCharacter));
    assert_eq!(uri("a\0b"), Err(ControlCharacter));
    assert_eq!(uri(""), Err(Empty), "no falling back to the common name");
    assert_eq!(uri(&"a".repeat(256)), Err(TooLong(256)));
    assert!(uri(&"a".repeat(255)).is_ok());
    assert_eq!(identity(&[], Some("")), Err(Empty));
    assert_eq!(identity(&[], Some("a\u{85}b")), Err(ControlCharacter));
    assert_eq!(identity(&[], None), Err(NoName));
}

#[test]
fn without_a_readable_certificate_there_is_no_peer() {
    assert_eq!(
        peer_from_certificates(&[]),
        Err(IdentityError::NoCertificate)
    );
    let garbage = CertificateDer::from(vec![1, 2, 3]);
    assert_eq!(
        peer_from_certificates(&[garbage]),
        Err(IdentityError::Malformed)
    );
}

#[tokio::test]
async fn a_verified_client_without_usable_identity_is_refused() {
    let pki = Pki::new();
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters
        .distinguished_name
        .push(DnType::CommonName, "a\nb");
    let key = KeyPair::generate().expect("a key");
    let authority_key = KeyPair::from_pem(pki.authority.key_pem()).expect("a key");
    let issuer = rcgen::Issuer::from_ca_cert_pem(pki.authority.certificate_pem(), authority_key);
    let certificate = parameters
        .signed_by(&key, &issuer.expect("an issuer"))
        .expect("signed");
    let pair = PairSource::memory(&certificate.pem(), &key.serialize_pem());
    let client = ClientTls::new(Some(pair), RootSource::Bundle(pki.bundle())).expect("a client");
    let met = meet(pki.server_config(), client.config(), "localhost").await;
    let error = met.server.expect_err("refused");
    assert!(
        matches!(error, TlsError::Identity(IdentityError::ControlCharacter)),
        "{error:?}"
    );
}
