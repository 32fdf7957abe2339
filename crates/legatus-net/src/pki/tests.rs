//! What is issued, and what is refused.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use rcgen::{CertificateParams, IsCa, KeyPair, PKCS_ECDSA_P384_SHA384, SanType};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use tempfile::TempDir;

use super::*;
use crate::tls::peer_from_certificates;

fn server(name: &str, alternatives: &[&str]) -> Holder {
    Holder::Server {
        name: name.to_owned(),
        alternatives: alternatives.iter().map(|name| (*name).to_owned()).collect(),
    }
}

fn client(name: &str) -> Holder {
    Holder::Client {
        name: name.to_owned(),
    }
}

fn identity(certificate_pem: &str) -> String {
    let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes());
    let peer = peer_from_certificates(&[certificate.expect("a certificate")]);
    peer.expect("a peer").identity().to_owned()
}

fn certificate(pem: &str) -> CertificateDescription {
    match describe(pem.as_bytes()).expect("described").remove(0) {
        Description::Certificate(certificate) => certificate,
        other => panic!("not a certificate: {other:?}"),
    }
}

#[test]
fn the_identity_of_a_client_is_its_name() {
    let authority = Authority::generate().expect("an authority");
    let long_dns = format!("{0}.{0}.example.com", "a".repeat(60));
    let long_uri = format!("spiffe://example.com/{}", "a".repeat(200));
    for name in [
        "alice",
        "Alice",
        "alice.example.com",
        "alice@example.com",
        "alice_b",
        "Gaius Iulius Caesar",
        "Jörg",
        "10.0.0.1",
        "*.example.com",
        "a/b\\c\"d,e=f",
        "spiffe://example.com/alice",
        "urn:uuid:1b4e28ba-2fa1-11d2-883f-0016d3cca427",
        &long_dns,
        &long_uri,
    ] {
        let issued = authority.issue_client(name).expect(name);
        assert_eq!(identity(issued.certificate_pem()), name);
        assert_eq!(certificate(issued.certificate_pem()).role, "client");
    }
}

#[test]
fn names_that_cannot_be_an_identity_are_refused() {
    let authority = Authority::generate().expect("an authority");
    let too_long = "a b".repeat(22);
    for name in [
        "",
        "a\nb",
        "a\x1bb",
        "spiffe://a b",
        "spiffe://ä",
        &too_long,
    ] {
        let error = authority.issue_client(name).expect_err("refused");
        assert!(
            matches!(error, PkiError::ClientName { .. }),
            "{name:?}: {error:?}"
        );
    }
    for name in ["", "a b", "a\nb", "10.0.0.300", "*", "a.*.b", "http://a"] {
        let error = authority
            .issue_server(&["good", name])
            .expect_err("refused");
        assert!(
            matches!(error, PkiError::ServerName(_)),
            "{name:?}: {error:?}"
        );
    }
    assert!(matches!(
        authority.issue_server(&[]),
        Err(PkiError::ServerName(_))
    ));
}

#[test]
fn the_subject_cannot_give_a_client_another_identity() {
    let authority = Authority::generate().expect("an authority");
    let options = IssueOptions {
        subject: "C=it,O=Legio X,CN=mallory".parse().expect("a subject"),
        ..IssueOptions::default()
    };
    let error = authority
        .issue(&client("alice b"), &options)
        .expect_err("refused");
    assert!(
        matches!(error, PkiError::CommonNameConflict { .. }),
        "{error:?}"
    );
    let issued = authority
        .issue(&client("alice"), &options)
        .expect("the DNS name decides");
    assert_eq!(identity(issued.certificate_pem()), "alice");
    let description = certificate(issued.certificate_pem());
    assert!(
        description.subject.contains("C=IT"),
        "{}",
        description.subject
    );
    assert!(
        description.subject.contains("O=Legio X"),
        "{}",
        description.subject
    );
}

#[test]
fn subjects_are_lists_of_known_fields() {
    let subject = |text: &str| text.parse::<Subject>();
    subject("").expect("nothing");
    subject("C=IT, ST=Roma, L=Roma, O=Legio\\, X, OU=Castra, CN=x").expect("everything");
    assert_eq!(
        subject("X=1"),
        Err(InvalidSubject::UnknownField("X".to_owned()))
    );
    assert_eq!(
        subject("O"),
        Err(InvalidSubject::NoEqualsSign("O".to_owned()))
    );
    assert_eq!(
        subject("O=a,O=b"),
        Err(InvalidSubject::Twice("O".to_owned()))
    );
    assert_eq!(subject("O="), Err(InvalidSubject::Value("O".to_owned())));
    assert_eq!(
        subject("C=Italy"),
        Err(InvalidSubject::Value("C".to_owned()))
    );
    assert_eq!(
        subject("O=a\nb"),
        Err(InvalidSubject::Value("O".to_owned()))
    );
}

#[test]
fn a_server_certificate_has_every_name_once() {
    let authority = Authority::generate().expect("an authority");
    let names = ["web1", "*.example.com", "10.0.0.1", "::1", "web1"];
    let issued = authority.issue_server(&names).expect("a server");
    let description = certificate(issued.certificate_pem());
    assert_eq!(
        description.names,
        ["DNS:web1", "DNS:*.example.com", "IP:10.0.0.1", "IP:::1"]
    );
    assert_eq!((description.role, description.status), ("server", "valid"));
    assert_eq!(description.days_left, 365);
    assert_eq!(description.serial.len(), 32);
}

#[test]
fn a_certificate_does_not_outlive_its_authority() {
    let options = AuthorityOptions {
        validity: Some(Validity::days(10)),
        ..AuthorityOptions::default()
    };
    let authority = Authority::generate_with(&options).expect("an authority");
    let issued = authority.issue_client("alice").expect("a client");
    let ends = |pem: &str| certificate(pem).not_after;
    assert_eq!(
        ends(issued.certificate_pem()),
        ends(authority.certificate_pem())
    );
}

#[test]
fn a_validity_that_ends_before_it_begins_is_refused() {
    let authority = Authority::generate().expect("an authority");
    let mut validity = Validity::days(1);
    validity.not_after = validity.not_before - Duration::from_secs(1);
    let options = IssueOptions {
        validity: Some(validity),
        ..IssueOptions::default()
    };
    let error = authority
        .issue(&client("alice"), &options)
        .expect_err("refused");
    assert!(matches!(error, PkiError::Validity { .. }), "{error:?}");
}

#[test]
fn what_is_not_an_authority_cannot_sign() {
    let authority = Authority::generate().expect("an authority");
    let other = Authority::generate().expect("an authority");
    let leaf = authority.issue_server(&["web1"]).expect("a server");
    let open = |certificate: &str, key: &str| Authority::from_pem(certificate, key).map(|_| ());
    assert!(matches!(
        open(leaf.certificate_pem(), leaf.key_pem()),
        Err(PkiError::AuthorityUnusable { .. })
    ));
    assert!(matches!(
        open(authority.certificate_pem(), other.key_pem()),
        Err(PkiError::AuthorityKeyMismatch)
    ));
    assert!(matches!(
        open("", authority.key_pem()),
        Err(PkiError::NotPem)
    ));
    assert!(matches!(
        open(authority.certificate_pem(), "garbage"),
        Err(PkiError::Key { .. })
    ));
    let expired = AuthorityOptions {
        validity: Some(Validity {
            not_before: std::time::SystemTime::now() - Duration::from_secs(7200),
            not_after: std::time::SystemTime::now() - Duration::from_secs(3600),
        }),
        ..AuthorityOptions::default()
    };
    assert!(matches!(
        Authority::generate_with(&expired),
        Err(PkiError::AuthorityUnusable { .. })
    ));
}

/// A request that asks for more than it should get.
fn greedy_request(key: &KeyPair) -> Vec<u8> {
    let mut parameters = CertificateParams::new(vec!["mallory.test".to_owned()]).expect("names");
    parameters.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    parameters
        .subject_alt_names
        .push(SanType::IpAddress([10, 0, 0, 1].into()));
    parameters
        .serialize_request(key)
        .expect("a request")
        .der()
        .to_vec()
}

fn request_pem(der: Vec<u8>) -> Vec<u8> {
    pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", der)).into_bytes()
}

#[test]
fn of_a_request_only_the_key_is_taken() {
    let authority = Authority::generate().expect("an authority");
    // P-384 with the signature of the request in SHA-384: not the kind of key that is made here.
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).expect("a key");
    let pem = authority
        .sign_request(
            &request_pem(greedy_request(&key)),
            &client("alice"),
            &IssueOptions::default(),
        )
        .expect("signed");
    let description = certificate(&pem);
    assert_eq!(description.names, ["DNS:alice"]);
    assert_eq!(
        (description.role, description.key.as_str()),
        ("client", "ECDSA P-384")
    );
    assert_eq!(identity(&pem), "alice");
}

#[test]
fn a_request_that_is_not_signed_by_its_key_is_refused() {
    let authority = Authority::generate().expect("an authority");
    let mut der = greedy_request(&KeyPair::generate().expect("a key"));
    let sign = |pem: &[u8]| authority.sign_request(pem, &client("alice"), &IssueOptions::default());
    let position = der
        .windows(7)
        .position(|bytes| bytes == b"mallory")
        .expect("the name");
    der[position] = b'M';
    assert!(matches!(
        sign(&request_pem(der)),
        Err(PkiError::RequestSignature)
    ));
    assert!(matches!(sign(b"garbage"), Err(PkiError::NotPem)));
    assert!(matches!(
        sign(&request_pem(vec![1, 2, 3])),
        Err(PkiError::Malformed { .. })
    ));
    let certificate = authority.certificate_pem().as_bytes();
    assert!(matches!(sign(certificate), Err(PkiError::Malformed { .. })));
}

#[test]
fn a_description_tells_no_secret_and_matches_key_and_certificate() {
    let authority = Authority::generate().expect("an authority");
    for key_type in [KeyType::Ecdsa, KeyType::Ed25519, KeyType::Rsa] {
        let options = IssueOptions {
            key_type,
            ..IssueOptions::default()
        };
        let issued = authority
            .issue(&server("web1", &[]), &options)
            .expect("a server");
        let both = format!("{}{}", issued.certificate_pem(), issued.key_pem());
        let descriptions = describe(both.as_bytes()).expect("described");
        let [
            Description::Certificate(certificate),
            Description::PrivateKey(key),
        ] = &*descriptions
        else {
            panic!("{descriptions:?}");
        };
        assert_eq!(certificate.key_fingerprint, key.key_fingerprint);
        assert_eq!(certificate.key, key.key);
        let text: String = descriptions.iter().map(ToString::to_string).collect();
        let secret: Vec<&str> = issued.key_pem().lines().collect();
        assert!(!text.contains(secret[1]), "{text}");
        assert!(text.contains("certificate of a server"), "{text}");
    }
}

#[test]
fn what_is_not_pem_is_not_described() {
    assert!(matches!(describe(b""), Err(PkiError::NotPem)));
    assert!(matches!(describe(b"\x30\x82"), Err(PkiError::NotPem)));
    let wrong = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(matches!(describe(wrong), Err(PkiError::Malformed { .. })));
}

fn mode(path: &Path) -> u32 {
    path.metadata().expect("a file").permissions().mode() & 0o7777
}

#[test]
fn keys_are_for_their_owner_only() {
    let folder = TempDir::new().expect("a folder");
    let folder = folder.path().join("new/pki");
    let written = folder::quickstart(
        &folder,
        &server("web1", &["10.0.0.1"]),
        &client("alice"),
        &IssueOptions::default(),
        false,
    );
    let names: Vec<_> = written
        .expect("written")
        .iter()
        .map(|path| (path.file_name().expect("a name").to_owned(), mode(path)))
        .collect();
    let expected = [
        ("ca.crt", 0o644),
        ("ca.key", 0o600),
        ("web1.crt", 0o644),
        ("web1.key", 0o600),
        ("alice.crt", 0o644),
        ("alice.key", 0o600),
    ];
    assert_eq!(names, expected.map(|(name, mode)| (name.into(), mode)));
    let left = fs::read_dir(&folder).expect("listed").count();
    assert_eq!(left, 6, "no temporary file stays");
}

#[test]
fn nothing_is_overwritten_without_force() {
    let folder = TempDir::new().expect("a folder");
    let folder = folder.path();
    let options = IssueOptions::default();
    let issue = |force| folder::issue(folder, folder, &client("alice"), &options, force);
    assert!(matches!(issue(false), Err(PkiError::NoAuthority(_))));
    folder::init(folder, &AuthorityOptions::default(), false).expect("written");
    let again = folder::init(folder, &AuthorityOptions::default(), false);
    assert!(matches!(again, Err(PkiError::Exists(_))));

    fs::write(folder.join("alice.key"), "precious").expect("written");
    assert!(matches!(issue(false), Err(PkiError::Exists(path)) if path.ends_with("alice.key")));
    assert!(
        !folder.join("alice.crt").exists(),
        "all are checked before one is written"
    );
    assert_eq!(
        fs::read(folder.join("alice.key")).expect("read"),
        b"precious"
    );

    issue(true).expect("forced");
    let certificate = fs::read_to_string(folder.join("alice.crt")).expect("read");
    assert_eq!(identity(&certificate), "alice");
    assert_eq!(mode(&folder.join("alice.key")), 0o600);
}

#[test]
fn a_renewal_goes_into_another_folder_and_leaves_the_old_pair_alone() {
    let folder = TempDir::new().expect("a folder");
    let (pki, out) = (folder.path().join("pki"), folder.path().join("new/pairs"));
    folder::init(&pki, &AuthorityOptions::default(), false).expect("written");
    let options = IssueOptions::default();
    let issue = |out: &Path| folder::issue(&pki, out, &server("web1", &[]), &options, false);
    issue(&pki).expect("written");
    let old = |name: &str| fs::read(pki.join(name)).expect("read");
    let before = (old("web1.crt"), old("web1.key"));

    let written = issue(&out).expect("written");
    assert_eq!(written, [out.join("web1.crt"), out.join("web1.key")]);
    assert_eq!(mode(&out.join("web1.key")), 0o600);
    assert_eq!((old("web1.crt"), old("web1.key")), before);
    let renewed = fs::read_to_string(out.join("web1.crt")).expect("read");
    let authority = fs::read_to_string(pki.join("ca.crt")).expect("read");
    assert_eq!(
        certificate(&renewed).issuer,
        certificate(&authority).subject
    );
    assert!(matches!(issue(&out), Err(PkiError::Exists(_))));

    let request = folder.path().join("web1.csr");
    let key = KeyPair::generate().expect("a key");
    fs::write(&request, request_pem(greedy_request(&key))).expect("written");
    let out = folder.path().join("signed");
    let holder = server("web1", &[]);
    let signed = folder::sign_request(&pki, &out, &request, &holder, &options, false);
    assert_eq!(signed.expect("signed"), [out.join("web1.crt")]);
}

#[test]
fn another_role_is_not_overwritten_even_with_force() {
    let folder = TempDir::new().expect("a folder");
    let folder = folder.path();
    let options = IssueOptions::default();
    let quickstart = |server_name, client_name| {
        let (server, client) = (server(server_name, &[]), client(client_name));
        folder::quickstart(folder, &server, &client, &options, true)
    };
    quickstart("web1", "ann").expect("written");
    let read = |name: &str| fs::read(folder.join(name)).expect("read");
    let before = (read("ca.crt"), read("ann.crt"), read("ann.key"));

    for force in [false, true] {
        let error = folder::issue(folder, folder, &server("ann", &[]), &options, force);
        let error = error.expect_err("a client's");
        let expected = format!(
            "`{}` exists already: a certificate with the role `client`, not `server`",
            folder.join("ann.crt").display()
        );
        assert_eq!(error.to_string(), expected);
        assert!(error.hint().is_some_and(|hint| hint.contains("--out")));
        let error = folder::issue(folder, folder, &client("web1"), &options, force);
        assert!(matches!(error, Err(PkiError::OtherRole { .. })));
    }
    let error = quickstart("ann", "bob");
    assert!(matches!(error, Err(PkiError::OtherRole { .. })));
    assert_eq!((read("ca.crt"), read("ann.crt"), read("ann.key")), before);

    let out = folder.join("servers");
    folder::issue(folder, &out, &server("ann", &[]), &options, false).expect("elsewhere");
    folder::issue(folder, folder, &client("ann"), &options, true).expect("the same role");
    fs::write(folder.join("ann.crt"), "no certificate").expect("written");
    folder::issue(folder, folder, &server("ann", &[]), &options, true).expect("forced");
}

#[test]
fn a_day_that_has_begun_is_left() {
    let day = 24 * 60 * 60;
    for (seconds, days) in [
        (365 * day, 365),
        (365 * day - 1, 365),
        (364 * day, 364),
        (1, 1),
        (0, 0),
        (-1, 0),
        (-day, -1),
    ] {
        assert_eq!(days_left(1000 + seconds, 1000), days, "{seconds} s");
    }
    let authority = Authority::generate().expect("an authority");
    let issued = authority.issue_client("alice").expect("a client");
    let described = describe(issued.certificate_pem().as_bytes()).expect("described");
    let text: String = described.iter().map(ToString::to_string).collect();
    assert!(text.contains("(365 days left)"), "{text}");
}

#[test]
fn a_request_yields_a_certificate_and_no_key() {
    let folder = TempDir::new().expect("a folder");
    let folder = folder.path();
    folder::init(folder, &AuthorityOptions::default(), false).expect("written");
    let request = folder.join("alice.csr");
    let key = KeyPair::generate().expect("a key");
    fs::write(&request, request_pem(greedy_request(&key))).expect("written");
    let sign = || {
        let options = IssueOptions::default();
        folder::sign_request(folder, folder, &request, &client("alice"), &options, false)
    };
    assert_eq!(sign().expect("signed"), [folder.join("alice.crt")]);
    assert!(!folder.join("alice.key").exists());
    assert!(matches!(sign(), Err(PkiError::Exists(_))));
}

#[test]
fn odd_names_stay_inside_the_folder() {
    let folder = TempDir::new().expect("a folder");
    let folder = folder.path();
    folder::init(folder, &AuthorityOptions::default(), false).expect("written");
    for (name, file) in [
        (
            "spiffe://example.com/alice",
            "spiffe___example.com_alice.crt",
        ),
        ("../../etc/x", "_._.._etc_x.crt"),
        ("-rf", "_rf.crt"),
        ("ca", "ca_.crt"),
        ("a b", "a_b.crt"),
    ] {
        let options = IssueOptions::default();
        let written = folder::issue(folder, folder, &client(name), &options, false);
        let written = written.expect(name);
        assert_eq!(written.first(), Some(&folder.join(file)), "{name}");
    }
    let clash = folder::quickstart(
        folder,
        &server("same", &[]),
        &client("same"),
        &IssueOptions::default(),
        true,
    );
    assert!(matches!(clash, Err(PkiError::SameFile(_))));
}
