//! The program with calls in memory instead of over a network, and a module that treats its user's
//! terminal and signals as a test asks for. It also shows how a program of one's own modules is made.

use std::process::ExitCode;
use std::sync::Arc;

use bytes::Bytes;
use legatus::config::ResolvedHost;
use legatus::connect::{ConnectFailure, Connector};
use legatus_core::testing::MemoryCaller;
use legatus_core::wire::{DescribeReply, Spec as WireSpec};
use legatus_core::{
    Argument, Arguments, BoxFuture, Caller, Fault, Local, Module, Outcome, Registry, Sender, Spec,
    Stream,
};

fn main() -> ExitCode {
    let Ok(mut registry) = legatus_modules::builtin() else {
        return ExitCode::FAILURE;
    };
    if registry.add(Probe::new()).is_err() {
        return ExitCode::FAILURE;
    }
    let connector = Memory(registry.clone());
    legatus::main_with(&registry, &connector, std::env::args_os())
}

struct Memory(Registry);

impl Connector for Memory {
    fn connect<'a>(
        &'a self,
        host: &'a ResolvedHost,
        module: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn Caller>, ConnectFailure>> {
        Box::pin(async move {
            if host.name != "local" {
                let fault = Fault::new(format!("cannot reach {}", host.name));
                return Err(ConnectFailure::Unavailable(fault.with_hint("try `local`")));
            }
            let module = self.0.resolve(module);
            let module = module.map_err(|error| ConnectFailure::Unavailable(error.into()))?;
            let caller = MemoryCaller::new(Arc::clone(module), 1 << 20);
            Ok(Box::new(caller) as Box<dyn Caller>)
        })
    }

    fn describe<'a>(
        &'a self,
        _host: &'a ResolvedHost,
    ) -> BoxFuture<'a, Result<DescribeReply, ConnectFailure>> {
        let modules = self
            .0
            .modules()
            .map(|module| WireSpec::from(module.as_ref()));
        let reply = DescribeReply {
            modules: modules.collect(),
            ..DescribeReply::default()
        };
        Box::pin(std::future::ready(Ok(reply)))
    }
}

/// A module with a client half only.
struct Probe(Spec);

impl Probe {
    fn new() -> Self {
        Self(Spec {
            name: "probe".into(),
            summary: "Treat terminal and signals in some way".into(),
            arguments: vec![Argument::positional("way", "WAY", "In which way").required()],
            ..Spec::default()
        })
    }
}

impl Module for Probe {
    fn spec(&self) -> &Spec {
        &self.0
    }

    fn sender(&self) -> Option<&dyn Sender> {
        Some(self)
    }
}

impl Sender for Probe {
    fn send<'a>(
        &'a self,
        arguments: Arguments,
        _caller: &'a dyn Caller,
        local: &'a dyn Local,
    ) -> BoxFuture<'a, Result<Outcome, Fault>> {
        Box::pin(async move {
            let way = arguments
                .last("way")
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let _raw = local.terminal().map(|terminal| terminal.raw());
            let mut stdout = local.output(Stream::Stdout);
            if way == "take" || way == "ignore" {
                // The first poll listens.
                let mut signal = local.signal();
                tokio::select! {
                    biased;
                    _ = &mut signal => {}
                    () = std::future::ready(()) => {}
                }
            }
            if way == "write" {
                // As of a command that SIGPIPE ends.
                stdout.write(Bytes::from_static(b"x")).await.ok();
                return Ok(Outcome::Signal(13));
            }
            let told = |error: std::io::Error| Fault::new(error.to_string());
            stdout
                .write(Bytes::from_static(b"ready\n"))
                .await
                .map_err(told)?;
            match way.as_str() {
                "resized" => {
                    let terminal = local.terminal().ok_or_else(|| Fault::new("no terminal"))?;
                    let size = terminal.resized().await;
                    let size = format!("{}x{}\n", size.columns, size.rows);
                    stdout.write(size.into()).await.map_err(told)?;
                }
                "take" => {
                    let signal = format!("{:?}\n", local.signal().await);
                    stdout.write(signal.into()).await.map_err(told)?;
                }
                #[expect(clippy::panic, reason = "a test asks for it")]
                "panic" => panic!("as asked for"),
                "exit" => std::process::exit(3),
                "report" => {
                    local.report("a\x1b[2Jb");
                    local.record(r#"{"a":1}"#);
                }
                _ => std::future::pending().await,
            }
            Ok(Outcome::Exit(7))
        })
    }
}
