//! Connections in all directions.

use legatus_core::{Arguments, Outcome};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use super::support::{Forwarded, closed_port, exchange, reverser};

fn local(target: u16) -> Arguments {
    Arguments::new().with("local", format!("127.0.0.1:0:127.0.0.1:{target}"))
}

#[tokio::test]
async fn nothing_to_forward_is_an_error() {
    let outcome = Forwarded::start(Arguments::new()).end().await;
    assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
}

#[tokio::test]
async fn what_is_no_place_is_an_error_that_names_it() {
    for bad in [
        "",
        "80",
        "80:a",
        "x:a:80",
        "80:a:0",
        "80::80",
        "1:2:3:4:5",
        "[::1:80:a:80",
        "80:a:99999",
    ] {
        let outcome = Forwarded::start(Arguments::new().with("local", bad))
            .end()
            .await;
        let Outcome::Failed(fault) = outcome else {
            panic!("{bad}: {outcome:?}")
        };
        assert!(fault.message().contains(&format!("`{bad}`")), "{fault}");
    }
}

#[tokio::test]
async fn a_port_that_is_taken_ends_it() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    for kind in ["local", "remote"] {
        let route = format!("127.0.0.1:{port}:127.0.0.1:1");
        let outcome = Forwarded::start(Arguments::new().with(kind, route))
            .end()
            .await;
        let Outcome::Failed(fault) = outcome else {
            panic!("{kind}: {outcome:?}")
        };
        assert!(fault.message().contains("cannot listen"), "{fault}");
    }
}

#[tokio::test]
async fn a_refused_connection_closes_its_own_and_the_others_go_on() {
    let mut forwarded = Forwarded::start(local(closed_port().await));
    let port = forwarded.port().await;
    let answer = exchange(TcpStream::connect(("127.0.0.1", port)).await.unwrap(), b"").await;
    assert_eq!(answer, b"");
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_ok());
    assert_eq!(forwarded.interrupt().await, Outcome::Cancelled);
    assert!(
        forwarded.reports().contains("cannot connect"),
        "{}",
        forwarded.reports()
    );
}

#[tokio::test]
async fn bytes_go_both_ways_and_each_direction_ends_alone() {
    let mut forwarded = Forwarded::start(local(reverser().await));
    let port = forwarded.port().await;
    for text in ["", "a", "hello there", &"0123456789".repeat(20_000)] {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let answer = exchange(stream, text.as_bytes()).await;
        let expected: Vec<u8> = text.bytes().rev().collect();
        assert!(answer == expected, "{} bytes", text.len());
    }
    assert_eq!(forwarded.interrupt().await, Outcome::Cancelled);
}

#[tokio::test]
async fn a_stuck_connection_does_not_stop_another() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut forwarded = Forwarded::start(local(silent.local_addr().unwrap().port()).with(
        "local",
        format!("127.0.0.1:0:127.0.0.1:{}", reverser().await),
    ));
    let (stuck, other) = (forwarded.port().await, forwarded.port().await);
    let stuck = TcpStream::connect(("127.0.0.1", stuck)).await.unwrap();
    // Full: nobody reads at the other end.
    let chunk = vec![0; 1 << 20];
    let mut full = 0;
    while full < 1000 {
        full = match stuck.try_write(&chunk) {
            Ok(_) => 0,
            Err(_) => full + 1,
        };
        tokio::task::yield_now().await;
    }
    let stream = TcpStream::connect(("127.0.0.1", other)).await.unwrap();
    assert_eq!(exchange(stream, b"abc").await, b"cba");
}

#[tokio::test]
async fn connections_made_there_come_here() {
    let target = reverser().await;
    let route = format!("127.0.0.1:0:127.0.0.1:{target}");
    let mut forwarded = Forwarded::start(Arguments::new().with("remote", route));
    let port = forwarded.port().await;
    for _ in 0..3 {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        assert_eq!(exchange(stream, b"there").await, b"ereht");
    }
    assert_eq!(forwarded.interrupt().await, Outcome::Cancelled);
}

#[tokio::test]
async fn a_connection_made_there_that_leads_nowhere_is_closed() {
    let route = format!("127.0.0.1:0:127.0.0.1:{}", closed_port().await);
    let mut forwarded = Forwarded::start(Arguments::new().with("remote", route));
    let port = forwarded.port().await;
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut answer = Vec::new();
    // Closed in good order or reset: both tell it.
    stream.read_to_end(&mut answer).await.ok();
    assert_eq!(answer, b"");
}

#[tokio::test]
async fn unix_sockets_work_on_either_side() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let target = reverser().await;
    let mut forwarded = Forwarded::start(
        Arguments::new()
            .with("local", format!("{}:127.0.0.1:{target}", path("here")))
            .with("local", format!("{}:{}", path("twice"), path("there")))
            .with("remote", format!("{}:127.0.0.1:{target}", path("there"))),
    );
    for _ in 0..3 {
        forwarded.listening().await;
    }
    for name in ["here", "there", "twice"] {
        let stream = UnixStream::connect(path(name)).await.unwrap();
        assert_eq!(exchange(stream, b"unix").await, b"xinu", "{name}");
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(path(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(forwarded.interrupt().await, Outcome::Cancelled);
    assert!(!folder.path().join("here").exists());
}

#[tokio::test]
async fn standard_input_and_output_are_a_connection() {
    let arguments = Arguments::new().with("stdio", format!("127.0.0.1:{}", reverser().await));
    let mut forwarded = Forwarded::with_stdin(arguments, b"stdin");
    assert_eq!(forwarded.end().await, Outcome::SUCCESS);
    assert_eq!(forwarded.stdout(), b"nidts");
    let arguments = Arguments::new().with("stdio", format!("127.0.0.1:{}", closed_port().await));
    let outcome = Forwarded::start(arguments).end().await;
    assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
}

#[tokio::test]
async fn who_goes_away_takes_the_other_end_along() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut forwarded = Forwarded::start(local(listener.local_addr().unwrap().port()));
    let port = forwarded.port().await;
    let mut here = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    here.write_all(b"x").await.unwrap();
    let (mut there, _) = listener.accept().await.unwrap();
    assert_eq!(there.read_u8().await.unwrap(), b'x');
    assert_eq!(forwarded.interrupt().await, Outcome::Cancelled);
    let mut rest = Vec::new();
    there.read_to_end(&mut rest).await.ok();
    assert_eq!(rest, b"");
    here.read_to_end(&mut rest).await.ok();
    assert_eq!(rest, b"");
}
