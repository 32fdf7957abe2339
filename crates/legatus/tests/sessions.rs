//! Kept calls end to end: the finished program as client and server, and a network between them that
//! is cut at chosen places.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use legatus_core::{Caller, Conversation, Keeping, Outcome, Request};
use legatus_net::tls::{ClientTls, PairSource, PemSource, RootSource};
use legatus_net::{Client, ClientOptions, Endpoint};
use tempfile::TempDir;

/// Longer than anything here may take on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server with a state folder and certificates of its own.
struct Server {
    process: Child,
    folder: TempDir,
    address: SocketAddr,
}

impl Server {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pki = folder.path().join("pki");
        let made = legatus(&[
            "pki",
            "quickstart",
            "--server",
            "localhost",
            "--client",
            "ann",
        ])
        .args(["--san", "127.0.0.1", "--dir"])
        .arg(&pki)
        .output()
        .unwrap();
        assert!(made.status.success(), "{made:?}");
        let mut command = legatus(&["serve", "--listen", "127.0.0.1:0", "--cert"]);
        command.arg(pki.join("localhost.crt"));
        command.arg("--key").arg(pki.join("localhost.key"));
        command.arg("--ca").arg(pki.join("ca.crt"));
        command.arg("--state-dir").arg(folder.path().join("state"));
        if rustix::process::geteuid().is_root() {
            command.args(["--run-as", "root"]);
        }
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        stdout.read_line(&mut said).unwrap();
        let address = said.trim().strip_prefix("listening on ").unwrap();
        Self {
            address: address.parse().unwrap(),
            process,
            folder,
        }
    }

    fn pki(&self, name: &str) -> PathBuf {
        self.folder.path().join("pki").join(name)
    }

    /// The program as a client of this server, at that address.
    fn client(&self, address: SocketAddr, arguments: &[&str]) -> Command {
        let mut command = legatus(&["--cert"]);
        command.arg(self.pki("ann.crt"));
        command.arg("--key").arg(self.pki("ann.key"));
        command.arg("--ca").arg(self.pki("ca.crt"));
        command
            .args(["shell", &address.to_string()])
            .args(arguments);
        command
    }

    /// Sockets of sessions that are there.
    fn sessions(&self) -> usize {
        let users = entries(&self.folder.path().join("state/sessions"));
        users.iter().map(|user| entries(user).len()).sum()
    }

    fn await_end_of_sessions(&self) {
        let begun = Instant::now();
        while self.sessions() > 0 {
            assert!(begun.elapsed() < PATIENCE, "a holder is left");
            thread::yield_now();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn legatus(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_legatus"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.args(arguments).env_clear().env("PATH", path);
    command.env("HOME", "/nonexistent");
    command
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// Whose bytes are counted until a connection is cut.
#[derive(Clone, Copy)]
enum Side {
    Client,
    Server,
}

/// A way to the server whose first connections are cut, each when so many bytes have come from one
/// side: what was read and not passed on is lost, in both directions.
struct CutWay {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl CutWay {
    fn to(server: SocketAddr, cuts: Vec<usize>) -> Self {
        Self::counting(Side::Server, server, cuts)
    }

    fn counting(side: Side, server: SocketAddr, cuts: Vec<usize>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        thread::spawn(move || {
            for near in listener.incoming() {
                let number = count.fetch_add(1, Ordering::Relaxed);
                let cut = cuts.get(number).copied().unwrap_or(usize::MAX);
                // After the server's end nobody comes any more.
                let (Ok(near), Ok(far)) = (near, TcpStream::connect(server)) else {
                    return;
                };
                let (of_client, of_server) = match side {
                    Side::Client => (cut, usize::MAX),
                    Side::Server => (usize::MAX, cut),
                };
                for (from, to, cut) in [(&near, &far, of_client), (&far, &near, of_server)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    thread::spawn(move || carry(from, to, cut));
                }
            }
        });
        Self {
            address,
            connections,
        }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// Carries bytes one way, until its end or so many.
fn carry(mut from: TcpStream, mut to: TcpStream, cut: usize) {
    let mut buffer = vec![0; 16 << 10];
    let mut left = cut;
    loop {
        let read = from.read(&mut buffer).unwrap_or(0);
        if read > left {
            from.shutdown(Shutdown::Both).ok();
            to.shutdown(Shutdown::Both).ok();
            return;
        }
        left -= read;
        if read == 0 || to.write_all(buffer.get(..read).unwrap()).is_err() {
            to.shutdown(Shutdown::Write).ok();
            return;
        }
    }
}

/// Runs a client with this input to its end.
fn run(mut client: Command, input: Vec<u8>) -> Output {
    client.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = client.stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = thread::spawn(move || stdin.write_all(&input).ok());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

/// Bytes of which no part is like another.
fn pattern(megabytes: u32) -> Vec<u8> {
    let words = 0..megabytes * (1 << 18);
    words
        .flat_map(|word| word.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect()
}

#[test]
fn bytes_are_exact_both_ways_over_a_connection_that_is_cut_again_and_again() {
    let server = Server::start();
    let way = CutWay::to(server.address, vec![100_000, 1_500_000, 70_000, 900_000]);
    let input = pattern(6);
    let output = run(server.client(way.address, &["--", "cat"]), input.clone());
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(output.stdout == input, "{} bytes", output.stdout.len());
    assert_eq!(way.connections(), 5, "{said}");
    assert_eq!(said.matches("connection lost").count(), 4, "{said}");
    server.await_end_of_sessions();
}

/// Each side could wait for the other: the program until its output is acknowledged, the client, whose
/// acknowledgement comes behind its input, until the program reads.
#[test]
fn a_program_that_says_more_than_it_is_told_does_not_stand_still() {
    let server = Server::start();
    let input = pattern(24);
    let bytes = input.len();
    let arguments = ["--timeout", "5m", "--", "od", "-v", "-An", "-tx1"];
    let output = run(server.client(server.address, &arguments), input);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    // Three characters for each byte, and a line for each sixteen.
    assert_eq!(output.stdout.len(), 3 * bytes + bytes / 16);
}

#[test]
fn an_exit_status_arrives_once_although_the_connection_is_cut_behind_the_output() {
    let server = Server::start();
    let way = CutWay::to(server.address, vec![300_000]);
    let line = "seq 1 100000; read line; echo $line; exit 7";
    let client = server.client(way.address, &["--json", "-c", line]);
    let output = run(client, b"typed\n".to_vec());
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(said.matches("\"outcome\"").count(), 1, "{said}");
    assert!(said.contains("typed"), "{said}");
    server.await_end_of_sessions();
}

/// `Request.line` of legatus.shell.v1.
fn line(text: &str) -> Vec<u8> {
    let mut request = vec![3 << 3 | 2, u8::try_from(text.len()).unwrap()];
    request.extend_from_slice(text.as_bytes());
    request
}

/// Calls the shell by way of the library: runs this line, reads all that it says until there are so
/// many bytes or no more, and then what `end` does with the call.
fn call_through<T>(
    (server, way): (&Server, &CutWay),
    said: &str,
    enough: usize,
    end: impl AsyncFnOnce(Conversation) -> T,
) -> (usize, T) {
    // Polls whoever waits for the end after each task, so that nothing leaves by luck.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .event_interval(1)
        .enable_all()
        .build()
        .unwrap();
    let options = ClientOptions {
        tls: Arc::new(
            ClientTls::new(
                Some(PairSource::files(
                    server.pki("ann.crt"),
                    server.pki("ann.key"),
                )),
                RootSource::Bundle(PemSource::File(server.pki("ca.crt"))),
            )
            .unwrap(),
        ),
        connect_timeout: PATIENCE,
    };
    let endpoint = Endpoint {
        host: way.address.ip().to_string(),
        port: way.address.port(),
        server_name: "localhost".to_owned(),
    };
    runtime.block_on(async {
        let client = Client::connect(&endpoint, &options).await.unwrap();
        let caller: Box<dyn Caller> = Box::new(client.module("shell"));
        drop(client);
        let mut request = Request::from_body(line(said));
        request.keeping = Some(Keeping::default());
        let mut call = caller.open(request).await.unwrap();
        let mut bytes = 0;
        while bytes < enough
            && let Some(message) = call.channel.receive().await
        {
            bytes += Bytes::len(&message);
        }
        let ended = end(call).await;
        caller.finish().await;
        (bytes, ended)
    })
}

/// Bytes of `seq 1 100000`.
const SEQUENCE: usize = 588_895;

#[test]
fn that_an_outcome_has_arrived_is_told_before_a_client_ends_that_has_come_back() {
    let server = Server::start();
    let way = CutWay::to(server.address, vec![200_000]);
    let wait = async |call: Conversation| call.outcome.wait().await;
    let (bytes, outcome) = call_through((&server, &way), "seq 1 100000", usize::MAX, wait);
    assert_eq!(outcome, Outcome::Exit(0));
    assert!(bytes > SEQUENCE, "{bytes}");
    assert_eq!(way.connections(), 2);
    server.await_end_of_sessions();
}

#[test]
fn a_goodbye_is_said_over_the_connection_that_a_client_has_come_back_by() {
    let server = Server::start();
    let way = CutWay::to(server.address, vec![200_000]);
    let leave = async |call: Conversation| drop(call);
    let forever = "seq 1 100000; exec sleep 1000";
    call_through((&server, &way), forever, SEQUENCE, leave);
    assert_eq!(way.connections(), 2);
    // Long before a client that is lost would be given up.
    server.await_end_of_sessions();
}

/// Runs a command once for each place of the first bytes at which a connection can be cut.
fn is_cut_at_its_beginning(side: Side) {
    let server = Server::start();
    let (mut begun, mut came_back) = (0, 0);
    for cut in (0..6000).step_by(50) {
        let runs = server.folder.path().join(format!("runs{cut}"));
        let way = CutWay::counting(side, server.address, vec![cut]);
        let line = format!("echo ran >>{}; cat; exit 3", runs.display());
        // That the outcome has arrived may be cut off, too.
        let client = server.client(way.address, &["--json", "--keep", "1s", "-c", &line]);
        let output = run(client, b"typed\n".to_vec());
        let said = String::from_utf8_lossy(&output.stdout);
        let ran = fs::read_to_string(&runs).unwrap_or_default();
        // Without a connection nothing begins, and that is said.
        if said.contains("unavailable") {
            assert_eq!((ran.as_str(), output.status.code()), ("", Some(255)));
            assert_eq!(way.connections(), 1, "cut at {cut}: {output:?}");
            continue;
        }
        assert_eq!(output.status.code(), Some(3), "cut at {cut}: {output:?}");
        assert!(said.contains("typed"), "cut at {cut}: {said}");
        assert_eq!(ran, "ran\n", "cut at {cut}: {output:?}");
        begun += 1;
        came_back += usize::from(way.connections() > 1);
    }
    assert!(begun > came_back && came_back > 0, "{came_back} of {begun}");
    server.await_end_of_sessions();
}

#[test]
fn a_command_runs_once_wherever_the_first_bytes_of_its_client_are_cut() {
    is_cut_at_its_beginning(Side::Client);
}

#[test]
fn a_command_runs_once_wherever_the_first_bytes_of_its_server_are_cut() {
    is_cut_at_its_beginning(Side::Server);
}
