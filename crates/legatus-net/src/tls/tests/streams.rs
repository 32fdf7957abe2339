//! Bytes after the handshake, against rustls's own streams at the other end.

use std::io::{self, ErrorKind};
use std::task::Poll;

use bytes::BytesMut;
use proptest::prelude::*;
use rustls::{AlertDescription, Error as Failure};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::*;
use crate::tls::TlsStream;

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
async fn exchange(
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
            for (index, length) in pieces.iter().enumerate() {
                let piece = vec![first.wrapping_add(index as u8); *length];
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
        let indexed = pieces.iter().enumerate();
        indexed
            .flat_map(|(index, length)| vec![first.wrapping_add(index as u8); *length])
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

#[tokio::test]
async fn data_that_comes_together_with_the_end_of_the_handshake_is_not_lost() {
    let pki = Pki::new();
    // Room for all of it at once; the server reads when everything has been written.
    let (near, mut far) = duplex(1 << 20);
    let mut client = rustls::ClientConnection::new(
        pki.client_config(),
        ServerName::try_from("localhost").expect("a name"),
    )
    .expect("a client");
    let accepting = tokio::spawn(accept(pki.server_config(), near));
    while client.is_handshaking() {
        while client.wants_write() {
            let mut hello = Vec::new();
            client.write_tls(&mut hello).unwrap();
            far.write_all(&hello).await.unwrap();
        }
        let mut flight = BytesMut::new();
        far.read_buf(&mut flight).await.unwrap();
        client.read_tls(&mut &flight[..]).unwrap();
        client.process_new_packets().unwrap();
    }
    let mut last = Vec::new();
    io::Write::write_all(&mut client.writer(), &[7; 40_000]).unwrap();
    while client.wants_write() {
        client.write_tls(&mut last).unwrap();
    }
    far.write_all(&last).await.unwrap();
    let (mut ours, _) = accepting.await.unwrap().expect("accepted");
    let mut received = vec![0; 40_000];
    ours.read_exact(&mut received).await.unwrap();
    assert!(received.iter().all(|byte| *byte == 7));
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
async fn a_peer_that_asks_for_new_keys_without_end_makes_us_owe_one_answer() {
    let pki = Pki::new();
    let (mut ours, mut theirs) = our_server(&pki).await;
    for _ in 0..100 {
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
