//! Bytes after the handshake, against rustls's own streams at the other end.

use std::io::{self, ErrorKind};
use std::task::Poll;

use bytes::BytesMut;
use proptest::prelude::*;
use rustls::crypto::cipher::OutboundChunks;
use rustls::{AlertDescription, ContentType, Error as Failure};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::*;
use crate::tls::TlsStream;
use crate::tls::record::Sealer;

type Theirs = client::TlsStream<DuplexStream>;
type TheirServer = server::TlsStream<DuplexStream>;

/// Bytes that may be on their way.
const PIPE: usize = 3000;

/// A server of ours and a client of rustls's.
async fn our_server(pki: &Pki) -> (TlsStream<DuplexStream>, Theirs) {
    let (near, far) = duplex(PIPE);
    let connector = TlsConnector::from(pki.client_config());
    let name = ServerName::try_from("localhost").expect("a name");
    let (ours, theirs) = tokio::join!(
        accept(pki.server_config(), near),
        connector.connect(name, far)
    );
    (ours.expect("accepted").0, theirs.expect("connected"))
}

/// A client of ours and a server of rustls's.
async fn our_client(pki: &Pki) -> (TlsStream<DuplexStream>, TheirServer) {
    let (near, far) = duplex(PIPE);
    let acceptor = TlsAcceptor::from(pki.server_config());
    let name = server_name("localhost").expect("a name");
    let (ours, theirs) = tokio::join!(
        connect(pki.client_config(), name, near),
        acceptor.accept(far)
    );
    (ours.expect("connected").0, theirs.expect("accepted"))
}

/// The failure of TLS inside an error of a stream.
fn failure(error: &io::Error) -> Option<&Failure> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

/// Both directions at once, in pieces of these sizes, until both ends have said that nothing follows.
pub(super) async fn exchange(
    mut ours: impl AsyncRead + AsyncWrite + Unpin,
    mut theirs: impl AsyncRead + AsyncWrite + Unpin,
    pieces: &[usize],
) {
    async fn talk(
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        pieces: &[usize],
        first: u8,
    ) -> Vec<u8> {
        let (mut reading, mut writing) = tokio::io::split(&mut stream);
        let write = async {
            for (index, length) in (first..).zip(pieces) {
                let piece = vec![index; *length];
                writing.write_all(&piece).await.unwrap();
                writing.flush().await.unwrap();
            }
            writing.shutdown().await.unwrap();
        };
        let mut received = Vec::new();
        let (read, ()) = tokio::join!(reading.read_to_end(&mut received), write);
        read.unwrap();
        received
    }
    let (at_ours, at_theirs) =
        tokio::join!(talk(&mut ours, pieces, 0), talk(&mut theirs, pieces, 100));
    let sent = |first: u8| -> Vec<u8> {
        let numbered = (first..).zip(pieces);
        numbered
            .flat_map(|(index, length)| vec![index; *length])
            .collect()
    };
    assert!(at_ours == sent(100));
    assert!(at_theirs == sent(0));
}

#[test]
fn what_is_written_arrives_in_either_role_and_in_any_pieces() {
    let pki = Pki::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let config = ProptestConfig::with_cases(24);
    proptest!(config, |(pieces in prop::collection::vec(0..60_000_usize, 0..12))| {
        runtime.block_on(async {
            let (ours, theirs) = our_server(&pki).await;
            exchange(ours, theirs, &pieces).await;
            let (ours, theirs) = our_client(&pki).await;
            exchange(ours, theirs, &pieces).await;
        });
    });
}

/// A server of ours and a client of rustls's that has `last` put something behind its handshake, all of
/// it in one write.
async fn with_last_flight(
    pki: &Pki,
    last: impl FnOnce(&mut rustls::ClientConnection),
) -> (
    TlsStream<DuplexStream>,
    DuplexStream,
    rustls::ClientConnection,
) {
    let (near, mut far) = duplex(1 << 20);
    let name = ServerName::try_from("localhost").expect("a name");
    let client = rustls::ClientConnection::new(pki.client_config(), name);
    let mut client = client.expect("a client");
    let accepting = tokio::spawn(accept(pki.server_config(), near));
    let flight = |client: &mut rustls::ClientConnection| {
        let mut flight = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut flight).unwrap();
        }
        flight
    };
    while client.is_handshaking() {
        far.write_all(&flight(&mut client)).await.unwrap();
        let mut answer = BytesMut::new();
        far.read_buf(&mut answer).await.unwrap();
        client.read_tls(&mut &answer[..]).unwrap();
        client.process_new_packets().unwrap();
    }
    last(&mut client);
    far.write_all(&flight(&mut client)).await.unwrap();
    let (ours, _) = accepting.await.unwrap().expect("accepted");
    (ours, far, client)
}

#[tokio::test]
async fn data_that_comes_together_with_the_end_of_the_handshake_is_not_lost() {
    let pki = Pki::new();
    let (mut ours, _far, _client) = with_last_flight(&pki, |client| {
        io::Write::write_all(&mut client.writer(), &[7; 40_000]).unwrap();
    })
    .await;
    let mut received = vec![0; 40_000];
    ours.read_exact(&mut received).await.unwrap();
    assert!(received.iter().all(|byte| *byte == 7));
}

#[tokio::test]
async fn new_keys_that_come_together_with_the_end_of_the_handshake_are_answered() {
    let pki = Pki::new();
    let (mut ours, mut far, mut client) = with_last_flight(&pki, |client| {
        client.refresh_traffic_keys().unwrap();
        io::Write::write_all(&mut client.writer(), b"x").unwrap();
    })
    .await;
    assert_eq!(ours.read_u8().await.unwrap(), b'x');
    ours.write_all(b"answer").await.unwrap();
    ours.flush().await.unwrap();
    let mut answer = BytesMut::new();
    far.read_buf(&mut answer).await.unwrap();
    client.read_tls(&mut &answer[..]).unwrap();
    client.process_new_packets().unwrap();
    let mut received = [0; 6];
    io::Read::read_exact(&mut client.reader(), &mut received).unwrap();
    assert_eq!(&received, b"answer");
}

#[tokio::test]
async fn a_farewell_that_comes_together_with_the_end_of_the_handshake_is_heard() {
    let pki = Pki::new();
    let (mut ours, _far, _client) =
        with_last_flight(&pki, |client| client.send_close_notify()).await;
    assert_eq!(ours.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_handshake_message_without_end_is_refused_before_it_fills_the_memory() {
    let pki = Pki::new();
    let (near, mut far) = duplex(1 << 20);
    let accepting = tokio::spawn(accept(pki.server_config(), near));
    // A message of nearly 64 KiB, a byte in each record.
    let message = [1, 0, 0xff, 0xf0]
        .into_iter()
        .chain(std::iter::repeat_n(0, 0xff00));
    for byte in message {
        if far.write_all(&[22, 3, 1, 0, 1, byte]).await.is_err() {
            break;
        }
        if accepting.is_finished() {
            break;
        }
    }
    let error = accepting.await.unwrap().expect_err("refused");
    assert!(matches!(error, TlsError::Handshake(_)), "{error}");
}

#[tokio::test]
async fn an_end_without_a_farewell_is_an_error() {
    let pki = Pki::new();
    let (mut ours, theirs) = our_server(&pki).await;
    let (far, _) = theirs.into_inner();
    drop(far);
    let error = ours.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn the_peer_may_renew_its_keys_and_ask_for_new_ones_of_ours() {
    let pki = Pki::new();
    let (mut ours, mut theirs) = our_server(&pki).await;
    for round in 0..3 {
        // rustls asks for ours with its own.
        theirs.get_mut().1.refresh_traffic_keys().unwrap();
        theirs.write_u8(round).await.unwrap();
        theirs.flush().await.unwrap();
        assert_eq!(ours.read_u8().await.unwrap(), round);
        ours.write_u8(round + 10).await.unwrap();
        ours.flush().await.unwrap();
        assert_eq!(theirs.read_u8().await.unwrap(), round + 10);
    }
    let (mut ours, mut theirs) = our_client(&pki).await;
    theirs.get_mut().1.refresh_traffic_keys().unwrap();
    theirs.write_u8(1).await.unwrap();
    theirs.flush().await.unwrap();
    assert_eq!(ours.read_u8().await.unwrap(), 1);
    ours.write_u8(2).await.unwrap();
    ours.flush().await.unwrap();
    assert_eq!(theirs.read_u8().await.unwrap(), 2);
}

#[tokio::test]
async fn keys_are_renewed_before_they_have_sealed_too_much() {
    let pki = Pki::new();
    let (mut ours, theirs) = our_server(&pki).await;
    ours.renew_after(3);
    exchange(ours, theirs, &[5; 20]).await;
}

#[tokio::test]
async fn a_peer_that_asks_for_new_keys_often_makes_us_owe_one_answer() {
    let pki = Pki::new();
    let (mut ours, mut theirs) = our_server(&pki).await;
    for _ in 0..30 {
        theirs.get_mut().1.refresh_traffic_keys().unwrap();
    }
    theirs.write_u8(1).await.unwrap();
    let writing = tokio::spawn(async move {
        theirs.flush().await.unwrap();
        theirs
    });
    assert_eq!(ours.read_u8().await.unwrap(), 1);
    let mut theirs = writing.await.unwrap();
    ours.write_u8(2).await.unwrap();
    ours.flush().await.unwrap();
    assert_eq!(theirs.read_u8().await.unwrap(), 2);
}

#[tokio::test]
async fn a_record_that_was_changed_is_refused_and_the_peer_is_told() {
    let pki = Pki::new();
    let (mut ours, theirs) = our_server(&pki).await;
    let (mut far, mut connection) = theirs.into_inner();
    io::Write::write_all(&mut connection.writer(), b"pay 10").unwrap();
    let mut record = Vec::new();
    connection.write_tls(&mut record).unwrap();
    *record.last_mut().unwrap() ^= 1;
    far.write_all(&record).await.unwrap();
    let error = ours.read_u8().await.unwrap_err();
    assert_eq!(failure(&error), Some(&Failure::DecryptError));
    // It stays so.
    let again = ours.read_u8().await.unwrap_err();
    assert_eq!(failure(&again), Some(&Failure::DecryptError));
    assert_eq!(
        ours.write_u8(1).await.unwrap_err().kind(),
        ErrorKind::BrokenPipe
    );
    assert_eq!(
        alert_at(&mut far, &mut connection).await,
        AlertDescription::BadRecordMac
    );
}

#[tokio::test]
async fn records_that_no_peer_may_send_are_refused() {
    let cases: [(&[u8], AlertDescription); 4] = [
        // An alert that is not sealed.
        (&[21, 3, 3, 0, 2, 1, 0], AlertDescription::UnexpectedMessage),
        // A record of the handshake that is not sealed.
        (&[22, 3, 3, 0, 1, 0], AlertDescription::UnexpectedMessage),
        // Longer than any record.
        (&[23, 3, 3, 0x41, 1], AlertDescription::RecordOverflow),
        // Shorter than a seal.
        (&[23, 3, 3, 0, 1, 0], AlertDescription::BadRecordMac),
    ];
    let pki = Pki::new();
    for (bytes, told) in cases {
        let (mut ours, theirs) = our_client(&pki).await;
        let (mut far, mut connection) = theirs.into_inner();
        far.write_all(bytes).await.unwrap();
        let error = ours.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{bytes:?}");
        assert_eq!(alert_at(&mut far, &mut connection).await, told, "{bytes:?}");
    }
}

#[test]
fn bytes_of_any_kind_after_the_handshake_are_an_error_and_no_panic() {
    let pki = Pki::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let config = ProptestConfig::with_cases(64);
    proptest!(config, |(mut bytes in prop::collection::vec(any::<u8>(), 0..600), data in any::<bool>())| {
        runtime.block_on(async {
            let (mut ours, theirs) = our_server(&pki).await;
            let (mut far, _) = theirs.into_inner();
            if let (true, Some(first)) = (data, bytes.first_mut()) {
                *first = 23;
            }
            far.write_all(&bytes).await.unwrap();
            drop(far);
            ours.read_u8().await.unwrap_err();
        });
    });
}

/// Who seals what rustls would not send: at the client's end.
async fn sealing(pki: &Pki) -> (TlsStream<DuplexStream>, DuplexStream, Sealer) {
    let (ours, theirs) = our_server(pki).await;
    let (far, connection) = theirs.into_inner();
    let Some(rustls::SupportedCipherSuite::Tls13(suite)) = connection.negotiated_cipher_suite()
    else {
        panic!("TLS 1.3 is the only one");
    };
    let secrets = connection.dangerous_extract_secrets().unwrap();
    (ours, far, Sealer::new(suite, secrets.tx).unwrap())
}

/// What a record carries.
type Content<'a> = (ContentType, &'a [u8]);

#[tokio::test]
async fn sealed_messages_that_make_no_sense_are_refused() {
    use ContentType::{Alert, ApplicationData, Handshake};
    let update: &[u8] = &[24, 0, 0, 1, 0];
    let cases: [(&str, Vec<Content<'_>>); 11] = [
        ("an empty alert", vec![(Alert, &[])]),
        ("an alert that is too long", vec![(Alert, &[1, 0, 0])]),
        ("a fatal alert", vec![(Alert, &[2, 40])]),
        ("an empty handshake message", vec![(Handshake, &[])]),
        (
            "a message of the handshake proper",
            vec![(Handshake, &[1, 0, 0, 0])],
        ),
        ("a ticket from a client", vec![(Handshake, &[4, 0, 0, 0])]),
        (
            "an update of keys of no kind",
            vec![(Handshake, &[24, 0, 0, 1, 2])],
        ),
        (
            "an update of keys that is too long",
            vec![(Handshake, &[24, 0, 0, 2, 0, 0])],
        ),
        (
            "something behind new keys",
            vec![(Handshake, &[24, 0, 0, 1, 0, 24])],
        ),
        (
            "data inside a message",
            vec![(Handshake, &[24, 0]), (ApplicationData, b"x")],
        ),
        (
            "a message that is too long",
            vec![(Handshake, &[24, 0xff, 0xff, 0xff])],
        ),
    ];
    let pki = Pki::new();
    for (what, records) in cases {
        let (mut ours, mut far, mut sealer) = sealing(&pki).await;
        for (content, payload) in records {
            let record = sealer
                .seal(content, OutboundChunks::Single(payload))
                .unwrap();
            far.write_all(&record).await.unwrap();
        }
        let error = ours.read_u8().await.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{what}");
        assert_eq!(
            ours.write(b"x").await.expect_err(what).kind(),
            ErrorKind::BrokenPipe,
            "{what}"
        );
    }
    // What may come in two pieces does.
    let (mut ours, mut far, mut sealer) = sealing(&pki).await;
    for part in [&update[..2], &update[2..]] {
        let record = sealer
            .seal(Handshake, OutboundChunks::Single(part))
            .unwrap();
        far.write_all(&record).await.unwrap();
    }
    let waiting = futures_util::poll!(Box::pin(ours.read_u8()));
    assert!(waiting.is_pending());
}

#[tokio::test]
async fn data_that_makes_a_stream_fail_is_never_read() {
    let pki = Pki::new();
    let (mut ours, mut far, mut sealer) = sealing(&pki).await;
    for (content, payload) in [
        (ContentType::ApplicationData, &b"good"[..]),
        (ContentType::Handshake, &[24, 0]),
        (ContentType::ApplicationData, b"bad"),
    ] {
        let payload = OutboundChunks::Single(payload);
        let record = sealer.seal(content, payload).unwrap();
        far.write_all(&record).await.unwrap();
    }
    let mut received = Vec::new();
    let error = ours.read_to_end(&mut received).await.unwrap_err();
    assert_eq!(received, b"good");
    assert_eq!(error.kind(), ErrorKind::InvalidData);
}

#[tokio::test]
async fn records_without_data_are_not_taken_without_end() {
    let pki = Pki::new();
    for (content, payload) in [
        (ContentType::ApplicationData, &[][..]),
        (ContentType::Alert, &[1, 90]),
    ] {
        let (mut ours, mut far, mut sealer) = sealing(&pki).await;
        let mut records = Vec::new();
        for _ in 0..40 {
            records.extend(
                sealer
                    .seal(content, OutboundChunks::Single(payload))
                    .unwrap(),
            );
        }
        far.write_all(&records).await.unwrap();
        let error = ours.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }
}

#[test]
fn no_sealed_records_make_a_stream_panic() {
    let pki = Pki::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let config = ProptestConfig::with_cases(48);
    let content = prop::sample::select(vec![20_u8, 21, 22, 22, 22, 23, 24]);
    let start = prop::sample::select(vec![vec![], vec![24, 0, 0, 1], vec![4, 0, 0], vec![1, 0]]);
    let payload = (start, prop::collection::vec(any::<u8>(), 0..6))
        .prop_map(|(start, rest)| [start, rest].concat());
    let records = prop::collection::vec((content, payload), 0..6);
    proptest!(config, |(records in records)| {
        runtime.block_on(async {
            let (mut ours, mut far, mut sealer) = sealing(&pki).await;
            for (content, payload) in records {
                let payload = OutboundChunks::Single(&payload);
                let record = sealer.seal(ContentType::from(content), payload).unwrap();
                far.write_all(&record).await.unwrap();
            }
            drop(far);
            let mut received = Vec::new();
            ours.read_to_end(&mut received).await.ok(); // whatever it says, it says it
        });
    });
}

/// The alert that the far end gets.
async fn alert_at<D>(
    far: &mut DuplexStream,
    connection: &mut rustls::ConnectionCommon<D>,
) -> AlertDescription
where
    D: rustls::SideData,
{
    let mut bytes = BytesMut::new();
    loop {
        far.read_buf(&mut bytes).await.unwrap();
        let mut rest = &bytes[..];
        connection.read_tls(&mut rest).unwrap();
        let taken = bytes.len() - rest.len();
        let _ = bytes.split_to(taken);
        match connection.process_new_packets() {
            Ok(_) => {}
            Err(Failure::AlertReceived(alert)) => return alert,
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn what_was_read_before_a_broken_record_comes_before_the_error() {
    let pki = Pki::new();
    let (mut ours, theirs) = our_server(&pki).await;
    let (mut far, mut connection) = theirs.into_inner();
    io::Write::write_all(&mut connection.writer(), b"whole").unwrap();
    let mut record = Vec::new();
    connection.write_tls(&mut record).unwrap();
    record.extend_from_slice(&[23, 3, 3, 0xff, 0xff]);
    far.write_all(&record).await.unwrap();
    let mut received = Vec::new();
    let error = ours.read_to_end(&mut received).await.unwrap_err();
    assert_eq!(received, b"whole");
    assert_eq!(error.kind(), ErrorKind::InvalidData);
}

#[tokio::test]
async fn writes_wait_when_the_peer_does_not_read() {
    let pki = Pki::new();
    let (mut ours, _theirs) = our_server(&pki).await;
    let mut taken = 0;
    let piece = vec![0; 100_000];
    while let Poll::Ready(count) = futures_util::poll!(std::pin::pin!(ours.write(&piece))) {
        taken += count.unwrap();
        assert!(taken < 1 << 20, "bytes that wait are bounded");
    }
}

#[tokio::test]
async fn an_idle_stream_holds_no_buffer() {
    let pki = Pki::new();
    let (mut ours, mut theirs) = our_server(&pki).await;
    let writing = tokio::spawn(async move {
        theirs.write_all(&[7; 500_000]).await.unwrap();
        theirs.flush().await.unwrap();
        theirs
    });
    let mut received = vec![0; 500_000];
    ours.read_exact(&mut received).await.unwrap();
    let _theirs = writing.await.unwrap();
    let mut byte = [0];
    for _ in 0..4 {
        let waiting = futures_util::poll!(Box::pin(ours.read(&mut byte)));
        assert!(waiting.is_pending());
    }
    assert_eq!(ours.buffered(), 0);
}
