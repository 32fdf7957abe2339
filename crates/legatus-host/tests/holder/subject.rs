//! The module under test, and how the trials call it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use legatus_core::{
    BoxFuture, Call, Channel, ChannelReceiver, ChannelSender, Commander, Control, ControlSender,
    Effects, Fault, Inspection, Module, Outcome, Persistence, Request, Spec, testing,
};
use legatus_host::Launcher;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A module that does what its first argument says.
pub(crate) fn module() -> impl Module {
    Subject(Spec {
        name: "subject".into(),
        effects: Effects::ALL,
        ..Spec::default()
    })
}

struct Subject(Spec);

impl Module for Subject {
    fn spec(&self) -> &Spec {
        &self.0
    }

    fn commander(&self) -> Option<&dyn Commander> {
        Some(self)
    }
}

impl Commander for Subject {
    fn inspect(&self, _request: &Request) -> Result<Inspection, Fault> {
        Ok(Inspection {
            effects: Effects::READ.union(Effects::EXEC),
            summary: String::new(),
        })
    }

    fn execute(&self, call: Call, channel: Channel) -> BoxFuture<'_, Result<Outcome, Fault>> {
        Box::pin(execute(call, channel))
    }
}

async fn execute(mut call: Call, mut channel: Channel) -> Result<Outcome, Fault> {
    let gone = |error| Fault::new(format!("{error}"));
    let arguments = call.request.arguments.clone();
    let task = arguments.first().map_or(&b"echo"[..], |task| task);
    match task {
        b"echo" => {
            while let Some(message) = channel.receive().await {
                channel.send(message).await.map_err(gone)?;
            }
            Ok(Outcome::Exit(7))
        }
        b"send" => {
            for index in 0..number(&arguments) {
                channel.send(numbered(index)).await.map_err(gone)?;
            }
            Ok(Outcome::SUCCESS)
        }
        b"deaf" => {
            let (sender, receiver) = channel.split();
            drop(receiver);
            call.cancellation.cancelled().await;
            drop(sender);
            Ok(Outcome::Exit(8))
        }
        b"report" => {
            let report = report(&call).into();
            channel.send(report).await.map_err(gone)?;
            Ok(Outcome::SUCCESS)
        }
        b"size" => {
            let size = call.request.size().to_string().into();
            channel.send(size).await.map_err(gone)?;
            Ok(Outcome::SUCCESS)
        }
        b"control" => match call.controls.receive().await {
            Some(Control::Signal(signal)) => Ok(Outcome::Signal(signal)),
            other => Err(Fault::new(format!("{other:?}"))),
        },
        b"wait" => {
            channel
                .send(std::process::id().to_string().into())
                .await
                .map_err(gone)?;
            call.cancellation.cancelled().await;
            if let Some(marker) = arguments.get(1) {
                let marker = String::from_utf8_lossy(marker).into_owned();
                std::fs::write(marker, "cleaned up").expect("the marker can be written");
            }
            Ok(Outcome::Exit(9))
        }
        b"flood" => {
            let mut count = 0_usize;
            loop {
                tokio::select! {
                    sent = channel.send(Bytes::from_static(&[1; 100_000])) => sent.map_err(gone)?,
                    () = call.cancellation.cancelled() => return Ok(Outcome::Exit(9)),
                }
                count += 100_000;
                if let Some(told) = arguments.get(1) {
                    let told = String::from_utf8_lossy(told).into_owned();
                    std::fs::write(told, count.to_string()).expect("the count can be written");
                }
            }
        }
        b"ignore" => std::future::pending().await,
        b"panic" => panic!("as asked"),
        b"die" => {
            let this = rustix::process::getpid();
            rustix::process::kill_process(this, rustix::process::Signal::KILL).ok();
            std::future::pending().await
        }
        b"become-root" => {
            let root = nix::unistd::Uid::from_raw(0);
            let back = nix::unistd::setresuid(root, root, root).is_ok();
            Ok(Outcome::Exit(u8::from(back)))
        }
        _ => Err(Fault::new("unknown task")),
    }
}

fn number(arguments: &[Bytes]) -> usize {
    let text = arguments.get(1).expect("the task has a number");
    String::from_utf8_lossy(text)
        .parse()
        .expect("the task's number is one")
}

/// Messages around the border between socket and shared memory, each different.
pub(crate) fn numbered(index: usize) -> Bytes {
    let sizes = [
        0,
        1,
        1000,
        64 << 10,
        (64 << 10) + 1,
        100_000,
        256 << 10,
        1 << 20,
    ];
    let mut message = vec![u8::try_from(index % 251).unwrap(); sizes[index % sizes.len()]];
    let tail = index.to_le_bytes();
    let end = message.len();
    if end > tail.len() {
        message[end - tail.len()..].copy_from_slice(&tail);
    }
    message.into()
}

/// What a Commander sees of its call and its process.
fn report(call: &Call) -> String {
    let effects = call.permit().effects();
    let deadline = call.deadline.is_some();
    let descriptors = descriptors();
    let folder = std::env::current_dir().expect("the folder can be asked");
    let mut names: Vec<_> = std::env::vars_os().map(|(name, _)| name).collect();
    names.sort();
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is there");
    let ids: Vec<_> = status
        .lines()
        .filter(|line| ["Uid", "Gid", "Gro"].iter().any(|id| line.starts_with(id)))
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let session = rustix::process::getsid(None).ok() == Some(rustix::process::getpid());
    let standard = ["0", "1"].map(|number| {
        let link = std::fs::read_link(format!("/proc/self/fd/{number}"));
        link.expect("/proc is there").display().to_string()
    });
    format!(
        "{} {} {:?} {effects} deadline={deadline}\nfolder={}\nnames={names:?}\n{}\nsession={session}\n\
         standard={standard:?}\ndescriptors={descriptors:?}",
        call.id(),
        call.peer(),
        call.permit().rule(),
        folder.display(),
        ids.join("\n"),
    )
}

/// What this process has open, without the standard three and without the folder that is read.
pub(crate) fn descriptors() -> Vec<String> {
    let mut open: Vec<_> = std::fs::read_dir("/proc/self/fd")
        .expect("/proc is there")
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let number: u32 = path.file_name()?.to_str()?.parse().ok()?;
            let target = std::fs::read_link(&path).ok()?.display().to_string();
            (number > 2 && !target.starts_with("/proc/")).then_some(target)
        })
        .collect();
    open.sort();
    open
}

/// A running call, from the server's side.
pub(crate) struct Running {
    pub(crate) to: ChannelSender,
    pub(crate) from: ChannelReceiver,
    pub(crate) controls: ControlSender,
    pub(crate) cancellation: CancellationToken,
    pub(crate) outcome: JoinHandle<Result<Outcome, Fault>>,
}

pub(crate) fn launcher() -> Launcher {
    Launcher::new(["holder"]).with_environment(std::env::vars_os())
}

/// Calls the module in a holder.
pub(crate) fn call(launcher: Launcher, arguments: &[&str]) -> Running {
    let arguments = arguments
        .iter()
        .map(|argument| Bytes::copy_from_slice(argument.as_bytes()));
    call_module(
        Arc::new(module()),
        launcher,
        Request::from_arguments(arguments),
    )
}

pub(crate) fn call_module(
    module: Arc<dyn Module>,
    launcher: Launcher,
    request: Request,
) -> Running {
    start(module, launcher, request, None)
}

/// The same for a call that is kept.
pub(crate) fn call_kept(
    launcher: Launcher,
    arguments: [&str; 2],
    persistence: Persistence,
) -> Running {
    let arguments = arguments.map(|argument| Bytes::copy_from_slice(argument.as_bytes()));
    let request = Request::from_arguments(arguments);
    start(Arc::new(module()), launcher, request, Some(persistence))
}

fn start(
    module: Arc<dyn Module>,
    launcher: Launcher,
    request: Request,
    persistence: Option<Persistence>,
) -> Running {
    let isolated = legatus_host::isolate(module, Arc::new(launcher));
    let (ours, theirs) = Channel::pair(legatus_core::limits::CHANNEL_BYTES);
    let (controls, receiver) = Control::queue();
    let mut call = testing::call(&isolated, request, receiver).expect("the request is good");
    call.deadline = Some(std::time::Instant::now() + Duration::from_secs(3600));
    call.persistence = persistence;
    let cancellation = call.cancellation.clone();
    let outcome = tokio::spawn(async move {
        let commander = isolated.commander().expect("it has one");
        commander.execute(call, theirs).await
    });
    let (to, from) = ours.split();
    Running {
        to,
        from,
        controls,
        cancellation,
        outcome,
    }
}

impl Running {
    pub(crate) async fn outcome(self) -> Outcome {
        self.outcome.await.expect("the relay does not panic").into()
    }

    /// Everything that was sent, as text, and the outcome. The input ends at once.
    pub(crate) async fn finish(mut self) -> (String, Outcome) {
        drop(self.to);
        let mut text = Vec::new();
        while let Some(message) = self.from.receive().await {
            text.extend_from_slice(&message);
        }
        let outcome = self.outcome.await.expect("the relay does not panic").into();
        (String::from_utf8_lossy(&text).into_owned(), outcome)
    }
}

/// Waits until something is so that tells nobody when it becomes so.
pub(crate) async fn until(so: impl Fn() -> bool) {
    while !so() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
