//! What a byte costs between a holder and its server: through the socket and through shared
//! memory, for several sizes of message (`docs/decisions/0002-bulk-data-between-server-and-holder.md`).
//!
//! `cargo bench -p legatus-host --bench bulk [MEBIBYTES]`

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a program to measure with"
)]

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use legatus_core::{
    BoxFuture, Call, Channel, Commander, Control, Effects, Fault, Inspection, Module, Outcome,
    Registry, Request, Spec, limits, testing,
};
use legatus_host::Launcher;
use nix::sys::resource::{UsageWho, getrusage};

/// Sends messages of zeros, or receives: `down SIZE COUNT`, `up SIZE COUNT`.
struct Source(Spec);

impl Module for Source {
    fn spec(&self) -> &Spec {
        &self.0
    }

    fn commander(&self) -> Option<&dyn Commander> {
        Some(self)
    }
}

impl Commander for Source {
    fn inspect(&self, _request: &Request) -> Result<Inspection, Fault> {
        Ok(Inspection {
            effects: Effects::NONE,
            summary: String::new(),
        })
    }

    fn execute(&self, call: Call, mut channel: Channel) -> BoxFuture<'_, Result<Outcome, Fault>> {
        let words: Vec<_> = call
            .request
            .arguments
            .iter()
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        Box::pin(async move {
            let [direction, size, count] = words.try_into().expect("three words");
            let count = count.parse().expect("a number");
            if direction == "down" {
                let message = Bytes::from(vec![0; size.parse().expect("a number")]);
                produce(|message| channel.send(message), &message, count).await;
            } else {
                consume(&mut channel).await;
            }
            Ok(Outcome::SUCCESS)
        })
    }
}

async fn produce<F: Future<Output = Result<(), legatus_core::ChannelClosed>>>(
    send: impl Fn(Bytes) -> F,
    message: &Bytes,
    count: usize,
) {
    for _ in 0..count {
        send(message.clone())
            .await
            .expect("the other half receives");
    }
}

/// Copies every message once, as encryption does.
async fn consume(channel: &mut Channel) -> usize {
    let mut buffer = BytesMut::with_capacity(limits::MESSAGE_BYTES);
    let mut total: usize = 0;
    while let Some(message) = channel.receive().await {
        buffer.clear();
        buffer.extend_from_slice(&message);
        total += std::hint::black_box(&buffer).len();
    }
    total
}

fn module() -> Source {
    Source(Spec {
        name: "source".into(),
        ..Spec::default()
    })
}

/// Processor time of this process and of all holders that have ended.
fn processor_time() -> (Duration, Duration) {
    let time = |who| {
        let usage = getrusage(who).expect("it cannot fail");
        let of = |time: nix::sys::time::TimeVal| {
            let micros = i128::from(time.tv_sec()) * 1_000_000 + i128::from(time.tv_usec());
            Duration::from_micros(u64::try_from(micros).unwrap_or_default())
        };
        of(usage.user_time()) + of(usage.system_time())
    };
    (time(UsageWho::RUSAGE_SELF), time(UsageWho::RUSAGE_CHILDREN))
}

async fn one(direction: &str, size: usize, total: usize, inline_bytes: usize) {
    let launcher = Launcher {
        inline_bytes,
        ..Launcher::new(["holder"])
    };
    let isolated = legatus_host::isolate(Arc::new(module()), Arc::new(launcher));
    let count = total / size;
    let request =
        Request::from_arguments([direction.to_owned(), size.to_string(), count.to_string()]);
    let (_controls, receiver) = Control::queue();
    let call = testing::call(&isolated, request, receiver).expect("the request is good");
    let (mut ours, theirs) = Channel::pair(limits::CHANNEL_BYTES);

    let (began, before) = (Instant::now(), processor_time());
    let running = tokio::spawn(async move {
        let commander = isolated.commander().expect("it has one");
        commander.execute(call, theirs).await
    });
    if direction == "down" {
        assert_eq!(consume(&mut ours).await, size * count);
    } else {
        let message = Bytes::from(vec![0; size]);
        produce(|message| ours.send(message), &message, count).await;
        drop(ours);
    }
    let outcome = running.await.expect("the relay does not panic");
    assert_eq!(outcome, Ok(Outcome::SUCCESS));
    let elapsed = began.elapsed();
    while testing_children() {
        tokio::task::yield_now().await;
    }
    let after = processor_time();
    let gigabytes = (size * count) as f64 / 1e9;
    let cost = |after: Duration, before: Duration| (after - before).as_secs_f64() * 1e3 / gigabytes;
    let (server, holder) = (cost(after.0, before.0), cost(after.1, before.1));
    println!(
        "{direction:<5} {:>8} {:<7} {:>8.2} GB/s {server:>9.0} {holder:>9.0} {:>9.0} ms/GB",
        size,
        if size <= inline_bytes {
            "socket"
        } else {
            "memory"
        },
        gigabytes / elapsed.as_secs_f64(),
        server + holder,
    );
}

/// How long a call takes that does nothing: what starting a holder costs. The median of 200.
async fn nothing() -> Duration {
    let mut times = Vec::new();
    for _ in 0..200 {
        let launcher = Launcher::new(["holder"]);
        let isolated = legatus_host::isolate(Arc::new(module()), Arc::new(launcher));
        let request = Request::from_arguments(["down", "0", "0"]);
        let (_controls, receiver) = Control::queue();
        let call = testing::call(&isolated, request, receiver).expect("the request is good");
        let (_ours, theirs) = Channel::pair(limits::CHANNEL_BYTES);
        let commander = isolated.commander().expect("it has one");
        let began = Instant::now();
        assert_eq!(commander.execute(call, theirs).await, Ok(Outcome::SUCCESS));
        times.push(began.elapsed());
    }
    times.sort();
    times.into_iter().nth(100).unwrap_or_default()
}

/// Whether a holder has yet to be reaped, which is when its processor time is known.
fn testing_children() -> bool {
    std::fs::read_dir("/proc/self/task")
        .expect("/proc is there")
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok())
        .any(|children| !children.is_empty())
}

fn main() -> ExitCode {
    let mut registry = Registry::new();
    registry.add(module()).expect("it is the only one");
    let argument = std::env::args().nth(1).unwrap_or_default();
    if argument == "holder" {
        return legatus_host::holder_main(&registry);
    }
    let mebibytes = argument.parse().unwrap_or(2048_usize);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be built");
    println!(
        "a call that does nothing: {:?}",
        runtime.block_on(nothing())
    );
    println!(
        "{:<5} {:>8} {:<7} {:>13} {:>9} {:>9} {:>9}",
        "", "bytes", "through", "rate", "server", "holder", "both"
    );
    for direction in ["down", "up"] {
        for size in [4, 16, 32, 64, 128, 256, 1024].map(|kibibytes| kibibytes << 10) {
            for inline_bytes in [usize::MAX, 0] {
                let total = mebibytes << 20;
                runtime.block_on(one(direction, size, total.min(size << 15), inline_bytes));
            }
        }
    }
    ExitCode::SUCCESS
}
