//! Who is refused, and what both sides are told.

use rustls::{client::Resumption, sign::SingleCertAndKey};

use super::*;
use crate::tls::{Rejection, provider::provider};

fn rejected(reason: Rejection) -> Option<TlsProblem> {
    Some(TlsProblem::CertificateRejected { reason })
}

#[tokio::test]
async fn a_client_without_certificate_is_refused() {
    let pki = Pki::new();
    let met = meet(pki.server_config(), pki.client_with(None), "localhost").await;
    assert_eq!(met.server_problem(), Some(TlsProblem::NoCertificateGiven));
    assert_eq!(met.client_problem(), Some(TlsProblem::NoCertificateGiven));
}

#[tokio::test]
async fn a_client_of_another_authority_is_refused() {
    let (pki, other) = (Pki::new(), Pki::new());
    let client = pki.client_with(Some(&other.client));
    let met = meet(pki.server_config(), client, "localhost").await;
    assert_eq!(met.server_problem(), Some(TlsProblem::UnknownAuthority));
    assert_eq!(met.client_problem(), rejected(Rejection::UnknownAuthority));
}

#[tokio::test]
async fn a_server_of_another_authority_is_refused() {
    let (pki, other) = (Pki::new(), Pki::new());
    let met = meet(other.server_config(), pki.client_config(), "localhost").await;
    assert_eq!(met.client_problem(), Some(TlsProblem::UnknownAuthority));
    assert_eq!(met.server_problem(), rejected(Rejection::UnknownAuthority));
}

#[tokio::test]
async fn an_authority_of_the_same_name_but_another_key_is_an_unknown_one() {
    let named = || {
        let options = crate::pki::AuthorityOptions {
            subject: "CN=Same".parse().expect("a subject"),
            ..Default::default()
        };
        Authority::generate_with(&options).expect("an authority")
    };
    let (pki, impostor) = (named(), named());
    let servers = ServerTls::new(
        vec![(&impostor.issue_server(&["localhost"]).expect("a server")).into()],
        PemSource::memory(pki.certificate_pem()),
    );
    let clients = ClientTls::new(
        Some((&pki.issue_client("alice").expect("a client")).into()),
        RootSource::Bundle(PemSource::memory(pki.certificate_pem())),
    );
    let (servers, clients) = (servers.expect("a server"), clients.expect("a client"));
    let met = meet(servers.config(), clients.config(), "localhost").await;
    assert_eq!(met.client_problem(), Some(TlsProblem::UnknownAuthority));
    assert_eq!(met.server_problem(), rejected(Rejection::BadSignature));
}

#[tokio::test]
async fn an_expired_client_is_refused() {
    let pki = Pki::new();
    let expired = pki
        .authority
        .issue(&client_holder("alice"), &hours(-48, -24));
    let client = pki.client_with(Some(&expired.expect("a client")));
    let met = meet(pki.server_config(), client, "localhost").await;
    assert!(matches!(
        met.server_problem(),
        Some(TlsProblem::Expired { not_after: Some(_) })
    ));
    assert_eq!(
        met.client_problem(),
        rejected(Rejection::ExpiredOrNotYetValid)
    );
}

#[tokio::test]
async fn an_expired_server_is_refused_with_the_date() {
    let pki = Pki::new();
    let options = hours(-48, -24);
    let not_after = options.validity.expect("a validity").not_after;
    let expired = pki.authority.issue(&server_holder("localhost"), &options);
    let server = pki.server_with(&expired.expect("a server"));
    let met = meet(server, pki.client_config(), "localhost").await;
    let problem = met.client_problem().expect("a problem").to_string();
    let date = jiff::Timestamp::try_from(not_after).expect("a date");
    let date = date.strftime("%Y-%m-%d %H:%M:%S UTC");
    assert_eq!(
        problem,
        format!("the peer's certificate has expired on {date}")
    );
    assert_eq!(
        met.server_problem(),
        rejected(Rejection::ExpiredOrNotYetValid)
    );
}

#[tokio::test]
async fn a_client_that_is_not_yet_valid_is_refused() {
    let pki = Pki::new();
    let early = pki.authority.issue(&client_holder("alice"), &hours(24, 48));
    let client = pki.client_with(Some(&early.expect("a client")));
    let met = meet(pki.server_config(), client, "localhost").await;
    assert!(matches!(
        met.server_problem(),
        Some(TlsProblem::NotYetValid {
            not_before: Some(_)
        })
    ));
    assert_eq!(
        met.client_problem(),
        rejected(Rejection::ExpiredOrNotYetValid)
    );
}

#[tokio::test]
async fn a_server_that_is_not_yet_valid_is_refused() {
    let pki = Pki::new();
    let early = pki
        .authority
        .issue(&server_holder("localhost"), &hours(24, 48));
    let server = pki.server_with(&early.expect("a server"));
    let met = meet(server, pki.client_config(), "localhost").await;
    assert!(matches!(
        met.client_problem(),
        Some(TlsProblem::NotYetValid {
            not_before: Some(_)
        })
    ));
}

#[tokio::test]
async fn a_server_of_another_name_is_refused_with_both_names() {
    let pki = Pki::new();
    let met = meet(pki.server_config(), pki.client_config(), "web1.example.com").await;
    let wrong_name = TlsProblem::WrongName {
        expected: Some("web1.example.com".to_owned()),
        presented: vec!["localhost".to_owned()],
    };
    assert_eq!(
        wrong_name.to_string(),
        "the server's certificate is not for `web1.example.com` but for localhost"
    );
    assert_eq!(met.client_problem(), Some(wrong_name));
}

#[tokio::test]
async fn a_server_without_the_address_is_refused() {
    let pki = Pki::new();
    let met = meet(pki.server_config(), pki.client_config(), "127.0.0.1").await;
    assert!(matches!(
        met.client_problem(),
        Some(TlsProblem::WrongName { .. })
    ));
}

#[tokio::test]
async fn a_server_certificate_is_no_client() {
    let pki = Pki::new();
    let mut client = (*pki.client_config()).clone();
    client.client_auth_cert_resolver = pretending(&pki.server, Role::Server);
    let met = meet(pki.server_config(), client.into(), "localhost").await;
    assert_eq!(met.server_problem(), Some(TlsProblem::WrongPurpose));
    assert_eq!(met.client_problem(), rejected(Rejection::WrongPurpose));
}

#[tokio::test]
async fn a_client_certificate_is_no_server() {
    let pki = Pki::new();
    let pretender = pki.authority.issue_client("localhost").expect("a client");
    let mut server = (*pki.server_config()).clone();
    server.cert_resolver = pretending(&pretender, Role::Client);
    let met = meet(server.into(), pki.client_config(), "localhost").await;
    assert_eq!(met.client_problem(), Some(TlsProblem::WrongPurpose));
    assert_eq!(met.server_problem(), rejected(Rejection::WrongPurpose));
}

/// A pair that is for one role, to be shown in the other, which our own sides would not load.
fn pretending(pair: &Issued, role: Role) -> Arc<SingleCertAndKey> {
    let pair = PairSource::from(pair).load(role, &provider());
    Arc::new(SingleCertAndKey::from(pair.expect("a pair")))
}

#[tokio::test]
async fn a_client_of_tls_1_2_gets_the_alert_for_it() {
    let pki = Pki::new();
    let (accepted, mut connected) = connection().await;
    let client = async {
        connected
            .write_all(&tls12_client_hello())
            .await
            .expect("sent");
        let mut answer = Vec::new();
        connected.read_to_end(&mut answer).await.expect("an answer");
        answer
    };
    let (server, answer) = tokio::join!(serve(pki.server_config(), accepted), client);
    let error = server.expect_err("refused");
    assert_eq!(
        explain(&error),
        Some(TlsProblem::VersionMismatch),
        "{error:?}"
    );
    // RFC 8446 section 6: a record of type alert, fatal (2), protocol_version (70).
    assert_eq!((answer[0], &answer[5..]), (21, &[2, 70][..]));
}

/// A ClientHello of RFC 5246 for ECDHE with AES-GCM, without supported_versions.
fn tls12_client_hello() -> Vec<u8> {
    let extensions: &[u8] = &[
        0, 10, 0, 4, 0, 2, 0, 29, // supported_groups: x25519
        0, 11, 0, 2, 1, 0, // ec_point_formats: uncompressed
        0, 13, 0, 4, 0, 2, 4, 3, // signature_algorithms: ecdsa_secp256r1_sha256
    ];
    let mut body = vec![3, 3]; // TLS 1.2
    body.extend([7; 32]); // random
    body.push(0); // no session
    body.extend([0, 4, 0xc0, 0x2b, 0xc0, 0x2f]); // cipher suites
    body.extend([1, 0]); // no compression
    body.extend([0, 22]);
    body.extend(extensions);
    let length = |bytes: &[u8]| u8::try_from(bytes.len()).expect("short");
    let mut handshake = vec![1, 0, 0, length(&body)];
    handshake.extend(body);
    let mut record = vec![22, 3, 1, 0, length(&handshake)];
    record.extend(handshake);
    record
}

#[tokio::test]
async fn plain_bytes_are_refused_and_a_plain_answer_is_told() {
    let pki = Pki::new();
    for bytes in [
        "GET / HTTP/1.1\r\n\r\n",
        "SSH-2.0-OpenSSH_9.9\r\n",
        "\0\0\0\0\0\0\0\0",
    ] {
        let (accepted, mut connected) = connection().await;
        connected.write_all(bytes.as_bytes()).await.expect("sent");
        connected.shutdown().await.expect("closed");
        let error = serve(pki.server_config(), accepted)
            .await
            .expect_err("refused");
        assert_eq!(explain(&error), Some(TlsProblem::NotTls), "{error:?}");

        let (mut accepted, connected) = connection().await;
        accepted.write_all(bytes.as_bytes()).await.expect("sent");
        let called = call(pki.client_config(), "localhost", connected).await;
        let error = called.expect_err("refused");
        assert_eq!(explain(&error), Some(TlsProblem::NotTls), "{error:?}");
    }
}

#[tokio::test]
async fn a_server_that_just_closes_is_told_from_one_that_speaks() {
    let pki = Pki::new();
    let (accepted, connected) = connection().await;
    drop(accepted);
    let called = call(pki.client_config(), "localhost", connected).await;
    let error = called.expect_err("refused");
    assert_eq!(explain(&error), Some(TlsProblem::ClosedDuringHandshake));
}

#[tokio::test]
async fn http_1_is_refused_whether_named_or_silent() {
    let pki = Pki::new();
    for protocols in [vec![b"http/1.1".to_vec()], vec![]] {
        let mut client = (*pki.client_config()).clone();
        client.alpn_protocols = protocols;
        let met = meet(pki.server_config(), client.into(), "localhost").await;
        assert_eq!(met.server_problem(), Some(TlsProblem::NoHttp2));
        assert_eq!(met.client_problem(), Some(TlsProblem::NoHttp2));
    }
}

#[tokio::test]
async fn no_session_is_resumed_even_if_the_client_would() {
    let pki = Pki::new();
    let mut client = (*pki.client_config()).clone();
    client.resumption = Resumption::in_memory_sessions(8);
    let (server, client) = (pki.server_config(), Arc::new(client));
    for _ in 0..3 {
        let (accepted, connected) = connection().await;
        let name = server_name("localhost").expect("a name");
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&client));
        let (accepted, connected) = tokio::join!(
            accept(Arc::clone(&server), accepted),
            connector.connect(name, connected)
        );
        let ((mut accepted, _), mut connected) = (accepted.expect("ok"), connected.expect("ok"));
        accepted.write_u8(0).await.expect("sent");
        accepted.flush().await.expect("sent");
        connected.read_u8().await.expect("received");
        let (_, connection) = connected.get_ref();
        assert_eq!(connection.tls13_tickets_received(), 0);
        assert_eq!(
            connection.handshake_kind(),
            Some(rustls::HandshakeKind::Full)
        );
    }
}

#[tokio::test]
async fn an_http2_client_is_told_why_its_certificate_was_refused() {
    let (pki, other) = (Pki::new(), Pki::new());
    let (accepted, connected) = connection().await;
    let client = async {
        let name = server_name("localhost").expect("a name");
        let config = pki.client_with(Some(&other.client));
        let connected = connect(config, name, connected).await;
        let (stream, _) = connected.expect("the client is done");
        let (_requests, connection) = h2::client::handshake(stream).await.expect("sent");
        connection.await
    };
    let (_, client) = tokio::join!(serve(pki.server_config(), accepted), client);
    let error = client.expect_err("the server refuses");
    assert_eq!(
        explain(&error),
        rejected(Rejection::UnknownAuthority),
        "{error:?}"
    );
}
