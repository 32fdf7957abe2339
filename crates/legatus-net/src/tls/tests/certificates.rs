//! Which certificates and keys work, and which of several is chosen.

use aws_lc_rs::{
    encoding::{AsDer as _, EcPrivateKeyRfc5915Der},
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use x509_parser::der_parser::parse_der;

use super::*;
use crate::pki::KeyType;

#[tokio::test]
async fn both_sides_meet_and_the_server_knows_the_client() {
    let pki = Pki::new();
    let met = meet(pki.server_config(), pki.client_config(), "localhost").await;
    assert_eq!(met.server.expect("a peer").identity(), "alice");
    assert_eq!(
        met.client.expect("a server"),
        leaf_of(pki.server.certificate_pem())
    );
}

#[tokio::test]
async fn addresses_are_verified_against_ip_names() {
    let pki = Pki::new();
    let pair = pki
        .authority
        .issue_server(&["127.0.0.1", "::1"])
        .expect("a server");
    for name in ["127.0.0.1", "::1", "[::1]"] {
        let met = meet(pki.server_with(&pair), pki.client_config(), name).await;
        met.client.expect("accepted");
    }
}

#[tokio::test]
async fn keys_of_every_kind_work_on_both_sides() {
    let pki = Pki::new();
    for key_type in [KeyType::Ecdsa, KeyType::Ed25519, KeyType::Rsa] {
        let options = IssueOptions {
            key_type,
            ..IssueOptions::default()
        };
        let issue = |holder| pki.authority.issue(&holder, &options).expect("a pair");
        let server = pki.server_with(&issue(server_holder("localhost")));
        let client = pki.client_with(Some(&issue(client_holder("alice"))));
        let met = meet(server, client, "localhost").await;
        assert_eq!(
            met.server.expect("a peer").identity(),
            "alice",
            "{key_type:?}"
        );
    }
}

#[tokio::test]
async fn an_authority_may_have_any_kind_of_key() {
    for key_type in [KeyType::Ed25519, KeyType::Rsa] {
        let options = crate::pki::AuthorityOptions {
            key_type,
            ..Default::default()
        };
        let authority = Authority::generate_with(&options).expect("an authority");
        let pki = Pki {
            server: authority.issue_server(&["localhost"]).expect("a server"),
            client: authority.issue_client("alice").expect("a client"),
            authority,
        };
        let met = meet(pki.server_config(), pki.client_config(), "localhost").await;
        met.server.expect("a peer");
    }
}

#[tokio::test]
async fn keys_may_be_pkcs1_or_sec1() {
    let pki = Pki::new();
    let options = IssueOptions {
        key_type: KeyType::Rsa,
        ..IssueOptions::default()
    };
    let rsa = pki
        .authority
        .issue(&server_holder("localhost"), &options)
        .expect("a server");
    for (pair, key) in [
        (&rsa, ("RSA PRIVATE KEY", pkcs1(rsa.key_pem()))),
        (&pki.server, ("EC PRIVATE KEY", sec1(pki.server.key_pem()))),
    ] {
        let key = pem::encode(&pem::Pem::new(key.0, key.1));
        let pair = PairSource::memory(pair.certificate_pem(), &key);
        let server = ServerTls::new(vec![pair], pki.bundle()).expect("a server");
        let met = meet(server.config(), pki.client_config(), "localhost").await;
        met.server.expect("a peer");
    }
}

/// The RSAPrivateKey inside PKCS#8 (RFC 5958 section 2).
fn pkcs1(pkcs8: &str) -> Vec<u8> {
    let der = pem::parse(pkcs8).expect("PEM").into_contents();
    let (_, outer) = parse_der(&der).expect("DER");
    let fields = outer.as_sequence().expect("a sequence");
    fields[2].as_slice().expect("an octet string").to_vec()
}

fn sec1(pkcs8: &str) -> Vec<u8> {
    let der = pem::parse(pkcs8).expect("PEM").into_contents();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &der).expect("a key");
    let der: EcPrivateKeyRfc5915Der<'_> = key.private_key().as_der().expect("DER");
    der.as_ref().to_vec()
}

#[tokio::test]
async fn a_chain_leads_over_an_intermediate_authority_to_the_root() {
    let (root, intermediate) = root_and_intermediate();
    let server = intermediate.issue_server(&["localhost"]).expect("a server");
    let client = intermediate.issue_client("alice").expect("a client");
    let chain = |leaf: &Issued| {
        format!(
            "{}{}",
            leaf.certificate_pem(),
            intermediate.certificate_pem()
        )
    };
    let pair = |leaf: &Issued| PairSource::memory(&chain(leaf), leaf.key_pem());
    let roots = || PemSource::memory(&root);
    let servers = ServerTls::new(vec![pair(&server)], roots()).expect("a server");
    let with = |pair| ClientTls::new(Some(pair), RootSource::Bundle(roots())).expect("a client");

    let met = meet(servers.config(), with(pair(&client)).config(), "localhost").await;
    assert_eq!(met.server.expect("a peer").identity(), "alice");

    let met = meet(
        servers.config(),
        with((&client).into()).config(),
        "localhost",
    )
    .await;
    assert_eq!(
        met.server_problem(),
        Some(TlsProblem::UnknownAuthority),
        "without the chain"
    );
}

fn root_and_intermediate() -> (String, Authority) {
    let parameters = |name: &str, constraints| {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(constraints);
        parameters
    };
    let root_key = KeyPair::generate().expect("a key");
    let root = parameters("Root", BasicConstraints::Constrained(1));
    let root_pem = root.self_signed(&root_key).expect("a root").pem();
    let issuer = Issuer::from_params(&root, root_key);
    let key = KeyPair::generate().expect("a key");
    let intermediate = parameters("Intermediate", BasicConstraints::Constrained(0))
        .signed_by(&key, &issuer)
        .expect("an intermediate");
    let authority = Authority::from_pem(&intermediate.pem(), &key.serialize_pem());
    (root_pem, authority.expect("an authority"))
}

#[tokio::test]
async fn the_name_that_is_asked_for_chooses_the_certificate() {
    let pki = Pki::new();
    let issue = |names: &[&str]| pki.authority.issue_server(names).expect("a server");
    let pairs = [
        issue(&["first.example.com"]),
        issue(&["second.example.com", "10.1.2.3"]),
        issue(&["*.wild.example.com", "127.0.0.1"]),
    ];
    let sources = pairs.iter().map(PairSource::from).collect();
    let server = ServerTls::new(sources, pki.bundle()).expect("a server");
    for (name, index) in [
        ("first.example.com", 0),
        ("SECOND.example.com", 1),
        ("a.wild.example.com", 2),
    ] {
        let met = meet(server.config(), pki.client_config(), name).await;
        assert_eq!(
            met.client.expect("a server"),
            leaf_of(pairs[index].certificate_pem())
        );
    }
    let met = meet(server.config(), pki.client_config(), "other.example.com").await;
    let expected = TlsProblem::WrongName {
        expected: Some("other.example.com".to_owned()),
        presented: vec!["first.example.com".to_owned()],
    };
    assert_eq!(met.client_problem(), Some(expected), "the first is shown");
}

#[tokio::test]
async fn the_address_that_was_connected_to_chooses_the_certificate() {
    let pki = Pki::new();
    let issue = |names: &[&str]| pki.authority.issue_server(names).expect("a server");
    let pairs = [issue(&["first.example.com"]), issue(&["127.0.0.1"])];
    let sources = pairs.iter().map(PairSource::from).collect();
    let server = ServerTls::new(sources, pki.bundle()).expect("a server");

    let address = "127.0.0.1".parse().expect("an address");
    let met = meet(server.config_for(address), pki.client_config(), "127.0.0.1").await;
    assert_eq!(
        met.client.expect("a server"),
        leaf_of(pairs[1].certificate_pem())
    );
    let mapped = "::ffff:127.0.0.1".parse().expect("an address");
    let met = meet(server.config_for(mapped), pki.client_config(), "127.0.0.1").await;
    met.client
        .expect("an IPv4 address as an IPv6 socket reports it");
    let met = meet(server.config(), pki.client_config(), "127.0.0.1").await;
    assert!(matches!(
        met.client_problem(),
        Some(TlsProblem::WrongName { .. })
    ));
}

#[tokio::test]
async fn a_server_shows_its_only_certificate_whatever_name_is_asked_for() {
    let pki = Pki::new();
    let met = meet(pki.server_config(), pki.client_config(), "other").await;
    assert!(matches!(
        met.client_problem(),
        Some(TlsProblem::WrongName { .. })
    ));
}

#[test]
fn a_key_that_does_not_belong_to_the_certificate_is_refused() {
    let pki = Pki::new();
    let pair = PairSource::memory(pki.server.certificate_pem(), pki.client.key_pem());
    let error = ServerTls::new(vec![pair], pki.bundle()).expect_err("refused");
    assert!(matches!(error, TlsError::KeyMismatch { .. }), "{error:?}");
    let pair = PairSource::memory(pki.client.certificate_pem(), pki.server.key_pem());
    let error = ClientTls::new(Some(pair), RootSource::Bundle(pki.bundle())).expect_err("refused");
    assert!(matches!(error, TlsError::KeyMismatch { .. }), "{error:?}");
}

#[test]
fn a_certificate_of_the_other_role_is_refused_before_anyone_connects() {
    let pki = Pki::new();
    let as_server = |pair: PairSource| {
        let refused = ServerTls::new(vec![pair], pki.bundle());
        refused.expect_err("refused")
    };
    let as_client = |pair: PairSource| {
        let refused = ClientTls::new(Some(pair), RootSource::Bundle(pki.bundle()));
        refused.expect_err("refused")
    };
    let told = |error: &TlsError| (error.to_string(), error.hint().unwrap_or_default());

    let (error, hint) = told(&as_server((&pki.client).into()));
    assert_eq!(
        error,
        "the certificate in memory is a client's certificate for `alice`, not a server's"
    );
    assert!(hint.contains("legatus pki issue --server NAME"), "{hint}");
    let (error, hint) = told(&as_client((&pki.server).into()));
    assert_eq!(
        error,
        "the certificate in memory is a server's certificate for `localhost`, not a client's"
    );
    assert!(hint.contains("legatus pki issue --client NAME"), "{hint}");

    let (error, _) = told(&as_server(pair_for(&[
        ExtendedKeyUsagePurpose::EmailProtection,
    ])));
    assert_eq!(
        error,
        "the certificate in memory is another kind of certificate for `both.test`, not a server's"
    );
}

#[test]
fn a_certificate_for_both_roles_or_without_usage_serves_either() {
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    let pki = Pki::new();
    for usages in [&[ServerAuth, ClientAuth][..], &[]] {
        let pair = pair_for(usages);
        ServerTls::new(vec![pair.clone()], pki.bundle()).expect("a server");
        ClientTls::new(Some(pair), RootSource::Bundle(pki.bundle())).expect("a client");
    }
}

/// A certificate for `both.test` with this extended key usage.
fn pair_for(usages: &[ExtendedKeyUsagePurpose]) -> PairSource {
    let mut parameters = CertificateParams::new(vec!["both.test".to_owned()]).expect("names");
    parameters.extended_key_usages = usages.to_vec();
    let key = KeyPair::generate().expect("a key");
    let certificate = parameters.self_signed(&key).expect("a certificate");
    PairSource::memory(&certificate.pem(), &key.serialize_pem())
}

#[test]
fn what_is_not_a_certificate_or_key_is_named() {
    let pki = Pki::new();
    let (certificate, key) = (pki.server.certificate_pem(), pki.server.key_pem());
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let load = |certificate: &str, key: &str| {
        let error = ServerTls::new(vec![PairSource::memory(certificate, key)], pki.bundle());
        error.expect_err("refused").to_string()
    };
    assert_eq!(load("", key), "there is no PEM certificate in memory");
    assert_eq!(load(key, key), "there is no PEM certificate in memory");
    assert_eq!(
        load(certificate, ""),
        "there is no PEM private key in memory"
    );
    assert_eq!(
        load(certificate, certificate),
        "there is no PEM private key in memory"
    );
    assert_eq!(
        load(certificate, encrypted),
        "the private key in memory is encrypted"
    );
    let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert_eq!(load(damaged, key), "certificate 1 in memory cannot be used");
    let truncated: String = certificate.chars().take(certificate.len() - 40).collect();
    assert!(load(&truncated, key).starts_with("memory is not well-formed PEM"));
    assert!(matches!(
        ServerTls::new(Vec::new(), pki.bundle()),
        Err(TlsError::NoPairs)
    ));
}

#[test]
fn no_secret_shows_in_debug_output() {
    let pki = Pki::new();
    let secret = |text: &str| {
        let body = |key: &str| key.lines().nth(1).is_some_and(|line| text.contains(line));
        text.contains("PRIVATE KEY") || body(pki.server.key_pem()) || body(pki.client.key_pem())
    };
    let source = PairSource::from(&pki.server);
    let server = ServerTls::new(vec![source.clone()], pki.bundle()).expect("a server");
    let client = ClientTls::new(Some((&pki.client).into()), RootSource::Bundle(pki.bundle()));
    for text in [
        format!("{source:?}"),
        format!("{server:?}"),
        format!("{:?}", client.expect("a client")),
        format!("{:?}", pki.server),
        format!("{:?}", pki.authority),
    ] {
        assert!(!secret(&text), "{text}");
    }
    for key in [pki.server.key_pem(), pki.client.key_pem()] {
        let body: Vec<&str> = key.lines().collect();
        assert!(secret(body[1]), "the check works");
    }
}
