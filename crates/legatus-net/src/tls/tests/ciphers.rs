//! Every cipher, of either library, against the others.

use rustls::crypto::CryptoProvider;
use rustls::crypto::cipher::OutboundChunks;
use rustls::sign::SingleCertAndKey;
use rustls::{
    ClientConnection, Connection, ContentType, ServerConnection, SupportedCipherSuite,
    Tls13CipherSuite,
};
use rustls_pki_types::ServerName;
use tokio::io::duplex;
use tokio_rustls::TlsConnector;

use super::streams::exchange;
use super::*;
use crate::tls::provider;
use crate::tls::record::{Opener, Sealer, Secrets};

/// rustls seals and opens with the library of the handshake, we with the fastest.
#[tokio::test]
async fn a_peer_that_has_one_cipher_alone_is_understood_and_so_are_its_new_keys() {
    let pki = Pki::new();
    for suite in provider::CIPHERS {
        let (near, far) = duplex(3000);
        let connector = TlsConnector::from(client_with_cipher(&pki, suite));
        let name = ServerName::try_from("localhost").unwrap();
        let (ours, theirs) = tokio::join!(
            accept(pki.server_config(), near),
            connector.connect(name, far)
        );
        let (mut ours, theirs) = (ours.unwrap().0, theirs.unwrap());
        assert_eq!(
            theirs.get_ref().1.negotiated_cipher_suite(),
            Some(suite),
            "the cipher that was asked for"
        );
        ours.renew_after(2);
        exchange(ours, theirs, &[1, 70_000, 300]).await;
    }
}

#[test]
fn what_one_library_seals_the_other_opens() {
    let pki = Pki::new();
    for agreed in provider::CIPHERS {
        let agreed = agreed.tls13().expect("a suite of TLS 1.3");
        for sealing in libraries(agreed) {
            for opening in libraries(agreed) {
                let (sealed, opened) = keys(&pki, agreed);
                let mut sealer = Sealer::new(sealing, sealed).unwrap();
                let mut opener = Opener::new(opening, opened).unwrap();
                for content in [&b"one"[..], b"", &[7; 16 << 10]] {
                    let record = sealer.seal(
                        ContentType::ApplicationData,
                        OutboundChunks::Single(content),
                    );
                    let mut record = record.unwrap().split_off(5);
                    assert_eq!(opener.open(&mut record).unwrap().payload, content);
                }
                let record = sealer.seal(
                    ContentType::ApplicationData,
                    OutboundChunks::Single(b"four"),
                );
                let mut record = record.unwrap().split_off(5);
                record[0] ^= 1;
                assert!(opener.open(&mut record).is_err(), "a changed record");
            }
        }
    }
}

/// The suite of each library that has it.
fn libraries(suite: &'static Tls13CipherSuite) -> Vec<&'static Tls13CipherSuite> {
    let mut libraries = vec![suite];
    #[cfg(target_arch = "x86_64")]
    libraries.extend(provider::of_ring(suite));
    libraries
}

/// The keys of a connection with this cipher, with which its client seals and its server opens.
fn keys(pki: &Pki, suite: &'static Tls13CipherSuite) -> (Secrets, Secrets) {
    let config = client_with_cipher(pki, suite.into());
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = Connection::from(ClientConnection::new(config, name).unwrap());
    let mut server = Connection::from(ServerConnection::new(pki.server_config()).unwrap());
    while client.is_handshaking() || server.is_handshaking() {
        hand_over(&mut client, &mut server);
        hand_over(&mut server, &mut client);
    }
    let client = client.dangerous_extract_secrets().unwrap();
    let server = server.dangerous_extract_secrets().unwrap();
    (client.tx, server.rx)
}

fn hand_over(from: &mut Connection, to: &mut Connection) {
    let mut flight = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut flight).unwrap();
    }
    let mut rest = flight.as_slice();
    while !rest.is_empty() {
        to.read_tls(&mut rest).unwrap();
        to.process_new_packets().unwrap();
    }
}

/// A client that has one cipher alone.
fn client_with_cipher(pki: &Pki, suite: SupportedCipherSuite) -> Arc<ClientConfig> {
    let provider = Arc::new(CryptoProvider {
        cipher_suites: vec![suite],
        ..(*provider::provider()).clone()
    });
    let pair = PairSource::from(&pki.client)
        .load(Role::Client, &provider)
        .unwrap();
    let roots = RootSource::Bundle(pki.bundle()).load().unwrap();
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
    config.alpn_protocols = vec![provider::ALPN_HTTP2.to_vec()];
    config.enable_secret_extraction = true;
    Arc::new(config)
}
