//! A user's machine with sockets, and servers to connect to.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use legatus_core::testing::{MemoryCaller, MemoryLocal};
use legatus_core::{
    Arguments, BoxFuture, Caller, Connection, Input, Listener, Local, Module, Outcome, Output,
    Progress, SocketName, Stream, Terminal, UserSignal,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use crate::forward::sockets;

/// A user's machine in memory, but with real sockets.
pub(super) struct SocketLocal {
    memory: MemoryLocal,
    records: mpsc::Sender<String>,
    reports: Mutex<Vec<String>>,
    interrupt: Arc<Notify>,
}

impl Local for SocketLocal {
    fn stdin(&self) -> Option<Box<dyn Input>> {
        self.memory.stdin()
    }
    fn output(&self, stream: Stream) -> Box<dyn Output> {
        self.memory.output(stream)
    }
    fn terminal(&self) -> Option<&dyn Terminal> {
        None
    }
    fn signal(&self) -> BoxFuture<'_, UserSignal> {
        Box::pin(async {
            self.interrupt.notified().await;
            UserSignal::Interrupt
        })
    }
    fn open(&self, path: &Path, no_follow: bool) -> io::Result<File> {
        self.memory.open(path, no_follow)
    }
    fn listen<'a>(&'a self, at: &'a SocketName) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(sockets::listen(at))
    }
    fn connect<'a>(&'a self, to: &'a SocketName) -> BoxFuture<'a, io::Result<Box<dyn Connection>>> {
        Box::pin(sockets::connect(to))
    }
    fn environment(&self, name: &str) -> Option<OsString> {
        self.memory.environment(name)
    }
    fn progress(&self) -> &dyn Progress {
        self.memory.progress()
    }
    fn report(&self, line: &str) {
        self.reports.lock().unwrap().push(line.to_owned());
    }
    fn record(&self, json: &str) {
        self.records.try_send(json.to_owned()).unwrap();
    }
}

/// A running `legatus forward`.
pub(super) struct Forwarded {
    local: Arc<SocketLocal>,
    records: mpsc::Receiver<String>,
    task: JoinHandle<Outcome>,
}

impl Forwarded {
    pub(super) fn start(arguments: Arguments) -> Self {
        Self::with_stdin(arguments, b"")
    }

    pub(super) fn with_stdin(arguments: Arguments, stdin: &[u8]) -> Self {
        let module: Arc<dyn Module> = Arc::new(crate::forward::module());
        Self::over(MemoryCaller::new(module, 7), arguments, stdin)
    }

    /// Over these calls.
    pub(super) fn over(caller: impl Caller + 'static, arguments: Arguments, stdin: &[u8]) -> Self {
        let (records_tx, records) = mpsc::channel(16);
        let local = Arc::new(SocketLocal {
            memory: MemoryLocal::new().with_stdin(stdin, 3),
            records: records_tx,
            reports: Mutex::default(),
            interrupt: Arc::default(),
        });
        let ours = Arc::clone(&local);
        let task = tokio::spawn(async move {
            let module = crate::forward::module();
            let sender = module.sender().unwrap();
            sender.send(arguments, &caller, &*ours).await.into()
        });
        Self {
            local,
            records,
            task,
        }
    }

    /// The first port of the next listener.
    pub(super) async fn port(&mut self) -> u16 {
        let record = self.records.recv().await.expect("nothing listens");
        let record: serde_json::Value = serde_json::from_str(&record).unwrap();
        let name = record["forwarding"]["listening"][0].as_str().unwrap();
        name.rsplit_once(':').unwrap().1.parse().unwrap()
    }

    /// Waits until the next listener listens.
    pub(super) async fn listening(&mut self) {
        self.records.recv().await.expect("nothing listens");
    }

    pub(super) fn reports(&self) -> String {
        self.local.reports.lock().unwrap().join("\n")
    }

    pub(super) fn stdout(&self) -> Vec<u8> {
        self.local.memory.stdout()
    }

    pub(super) async fn end(&mut self) -> Outcome {
        (&mut self.task).await.unwrap()
    }

    pub(super) async fn interrupt(&mut self) -> Outcome {
        self.local.interrupt.notify_one();
        self.end().await
    }
}

/// A server that reads to the end of each connection, then answers with what it read, reversed.
pub(super) async fn reverser() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut bytes = Vec::new();
                stream.read_to_end(&mut bytes).await.unwrap();
                bytes.reverse();
                stream.write_all(&bytes).await.unwrap();
            });
        }
    });
    port
}

/// Writes bytes, ends that direction, and reads to the end of the other.
pub(super) async fn exchange(mut stream: impl Connection, bytes: &[u8]) -> Vec<u8> {
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    answer
}

/// A port at which nobody listens.
pub(super) async fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}
