//! A WebAssembly module: describes itself and runs its halves, each in a store of its own.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use legatus_core::{BoxFuture, Call, Channel, Outcome};
use tokio_util::sync::CancellationToken;
use wasmtime::Store;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{I32Exit, WasiCtxBuilder};

use super::command::{ChannelInput, ChannelOutput};
use super::conversions::{given, told_call};
use super::denials::Folders;
use super::engine::{Engine, Engines, Running};
use super::failures::{explain, no_export, other_contract};
use super::prepared::Prepared;
use super::state::{Ceiling, State, Talk};
use super::surroundings;
use crate::external::fault::Failure;
use crate::external::grants::Grants;
use crate::external::log::CallLog;
use crate::external::manifest::Limits;
use crate::external::runner::{Runner, Sending, impatience};
use crate::external::signature::FILE_BYTES;
use crate::external::store::{Cache, digest, read_limited};

/// What a component is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum World {
    /// One of the contract.
    Contract,
    /// A plain command.
    Command,
}

/// A WebAssembly module.
pub(crate) struct WasmModule {
    engines: Arc<Engines>,
    code: Code,
    pub(crate) limits: Limits,
    pub(crate) grants: Grants,
    /// What it asks for and does not have, in words.
    pub(crate) denied: Arc<[String]>,
    pub(crate) environment: Vec<(String, String)>,
    loaded: Mutex<Option<Arc<Prepared>>>,
}

/// Where a component's code comes from.
enum Code {
    /// The cache, and the artefact in case that it has to be compiled again for a newer engine.
    Cached {
        cache: Arc<Cache>,
        digest: String,
        source: PathBuf,
    },
    /// Another process of this program, which has looked at all of that. An empty folder.
    Given(PathBuf),
}

impl WasmModule {
    pub(crate) fn new(
        engines: Arc<Engines>,
        cache: Arc<Cache>,
        digest: String,
        source: PathBuf,
    ) -> Self {
        let code = Code::Cached {
            cache,
            digest,
            source,
        };
        Self::with_code(engines, code)
    }

    /// A module of code that another process of this program has compiled. `nothing` is an empty
    /// folder.
    ///
    /// # Errors
    /// When the code is of another engine.
    pub(crate) fn compiled_elsewhere(code: &Path, nothing: PathBuf) -> Result<Self, Failure> {
        let engines = Arc::new(Engines::default());
        let engine = engines.get()?;
        let prepared = Prepared::new(engine, &engine.load(code)?)?;
        let module = Self::with_code(Arc::clone(&engines), Code::Given(nothing));
        *module.loaded.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(prepared));
        Ok(module)
    }

    fn with_code(engines: Arc<Engines>, code: Code) -> Self {
        Self {
            engines,
            code,
            limits: Limits::DEFAULT,
            grants: Grants::default(),
            denied: Arc::default(),
            environment: Vec::new(),
            loaded: Mutex::default(),
        }
    }

    /// The component, ready to be instantiated; loaded at the first call.
    pub(crate) fn component(&self) -> Result<Arc<Prepared>, Failure> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(component) = &*loaded {
            return Ok(Arc::clone(component));
        }
        let engine = self.engines.get()?;
        let compiled = match engine.load(&self.compiled()) {
            Ok(compiled) => compiled,
            Err(_) => engine.load(&self.compile_again(engine)?)?,
        };
        let prepared = Arc::new(Prepared::new(engine, &compiled)?);
        *loaded = Some(Arc::clone(&prepared));
        Ok(prepared)
    }

    fn compile_again(&self, engine: &Engine) -> Result<PathBuf, Failure> {
        let Code::Cached { source, .. } = &self.code else {
            return Err(Failure::Host("it is not compiled".to_owned()));
        };
        let (bytes, _) = read_limited(source, FILE_BYTES)
            .map_err(|error| Failure::Host(format!("cannot read it: {error}")))?;
        self.compile(engine, &bytes)
    }

    /// Where its compiled code is, or will be.
    pub(crate) fn compiled(&self) -> PathBuf {
        match &self.code {
            Code::Cached { cache, digest, .. } => cache.compiled(digest, &Engine::fingerprint()),
            Code::Given(_) => PathBuf::new(),
        }
    }

    /// A folder in which nothing is.
    fn nothing(&self) -> PathBuf {
        match &self.code {
            Code::Cached { cache, .. } => cache.nothing(),
            Code::Given(nothing) => nothing.clone(),
        }
    }

    /// Compiles the component, unless that was done before.
    pub(crate) fn prepare(&self, bytes: &[u8]) -> Result<(), Failure> {
        let engine = self.engines.get()?;
        if engine.load(&self.compiled()).is_err() {
            self.compile(engine, bytes)?;
        }
        Ok(())
    }

    fn compile(&self, engine: &Engine, bytes: &[u8]) -> Result<PathBuf, Failure> {
        let Code::Cached {
            cache,
            digest: known,
            ..
        } = &self.code
        else {
            return Err(Failure::Host("it is not compiled".to_owned()));
        };
        if digest(bytes) != *known {
            return Err(Failure::Unfit("it changed since it was loaded".to_owned()));
        }
        let code = engine.compile(bytes)?;
        cache.put_compiled(known, &Engine::fingerprint(), &code)
    }

    /// What the component is, judged by its exports.
    pub(crate) fn world(&self) -> Result<World, Failure> {
        let prepared = self.component()?;
        if prepared.descriptions.is_some() {
            return Ok(World::Contract);
        }
        if prepared.command.is_some() {
            return Ok(World::Command);
        }
        let kind = prepared.component.component().component_type();
        let engine = self.engines.get()?.wasmtime();
        let names: Vec<_> = kind
            .exports(engine)
            .map(|(name, _)| name.to_owned())
            .collect();
        Err(Failure::Unfit(match other_contract(&names) {
            Some(version) => format!(
                "it was made for version {version} of the contract, this program speaks 1.0.0"
            ),
            None => {
                "it exports neither `legatus:module/descriptions` nor `wasi:cli/run`".to_owned()
            }
        }))
    }

    pub(super) async fn store(
        &self,
        talk: Talk,
        log: &CallLog,
        grants: &Grants,
        limits: &Limits,
    ) -> Result<(Store<State>, Running), Failure> {
        let mut wasi = self.surroundings(grants, log).await?;
        self.finish_store(wasi.build(), talk, log, grants, limits)
    }

    async fn surroundings(
        &self,
        grants: &Grants,
        log: &CallLog,
    ) -> Result<WasiCtxBuilder, Failure> {
        let has_files = self.component()?.has_files;
        let nothing = has_files.then(|| self.nothing());
        surroundings::context(grants, nothing.as_deref(), &self.environment, log).await
    }

    fn finish_store(
        &self,
        wasi: wasmtime_wasi::WasiCtx,
        talk: Talk,
        log: &CallLog,
        grants: &Grants,
        limits: &Limits,
    ) -> Result<(Store<State>, Running), Failure> {
        let state = State {
            wasi,
            table: ResourceTable::new(),
            ceiling: Ceiling::new(limits.memory),
            talk,
            log: log.clone(),
            out_of_time: false,
            ticks: 0,
            folders: Folders::default(),
            may_connect: !grants.connect.is_empty(),
            denied: Arc::clone(&self.denied),
            denied_told: BTreeSet::new(),
        };
        Ok(self.engines.get()?.store(state, limits))
    }

    async fn execute_contract(
        &self,
        module: &str,
        call: Call,
        channel: Channel,
        log: &CallLog,
    ) -> Result<Outcome, Failure> {
        let (sender, receiver) = channel.split();
        let talk = Talk {
            sender: Some(sender),
            receiver: Some(receiver),
            cancellation: call.cancellation.clone(),
            ..Talk::default()
        };
        let prepared = self.component()?;
        let component = &prepared.component;
        let indices = prepared.commander.as_ref().ok_or_else(no_export)?;
        let (mut store, _running) = self.store(talk, log, &self.grants, &self.limits).await?;
        let told = async {
            let instance = component.instantiate_async(&mut store).await?;
            let guest = indices.load(&mut store, &instance)?;
            guest
                .call_execute(&mut store, module, &told_call(call))
                .await
        };
        let told = told.await;
        log.used(|| store.data().used());
        match told {
            Ok(Ok(status)) => Ok(Outcome::Exit(status)),
            Ok(Err(fault)) => Err(Failure::Told {
                message: fault.message,
                hint: fault.hint,
            }),
            Err(error) => Err(explain(error, &store, &self.limits)),
        }
    }

    async fn execute_command(
        &self,
        module: &str,
        call: Call,
        channel: Channel,
        log: &CallLog,
    ) -> Result<Outcome, Failure> {
        let prepared = self.component()?;
        let component = prepared.command.as_ref().ok_or_else(no_export)?;
        let (sender, receiver) = channel.split();
        let output = ChannelOutput::new(sender);
        let mut wasi = self.surroundings(&self.grants, log).await?;
        wasi.stdin(ChannelInput::new(receiver))
            .stdout(output.clone())
            .arg(module);
        for argument in &call.request.arguments {
            let text = str::from_utf8(argument).map_err(|_| Failure::Told {
                message: format!("the module `{module}` takes arguments in UTF-8 only"),
                hint: None,
            })?;
            wasi.arg(text);
        }
        let wasi = wasi.build();
        let (mut store, running) =
            self.finish_store(wasi, Talk::default(), log, &self.grants, &self.limits)?;
        let told = async {
            let command = component.instantiate_async(&mut store).await?;
            command.wasi_cli_run().call_run(&mut store).await
        };
        let told = told.await;
        log.used(|| store.data().used());
        let outcome = match told {
            Ok(Ok(())) => Ok(Outcome::SUCCESS),
            Ok(Err(())) => Ok(Outcome::Exit(1)),
            Err(error) => match error.downcast_ref::<I32Exit>() {
                Some(I32Exit(status)) => {
                    Ok(Outcome::Exit(u8::try_from(*status & 0xff).unwrap_or(1)))
                }
                None => Err(explain(error, &store, &self.limits)),
            },
        };
        drop((store, running));
        output.finish().await;
        outcome
    }

    async fn run_sender(&self, module: &str, sending: Sending) -> Result<Outcome, Failure> {
        let talk = Talk {
            cancellation: sending.cancellation.clone(),
            asks: Some(sending.asks),
            ..Talk::default()
        };
        let prepared = self.component()?;
        let component = &prepared.component;
        let indices = prepared.sender.as_ref().ok_or_else(no_export)?;
        // A client half has its conversation and what the user named, never files of its own.
        let grants = Grants {
            time: true,
            random: true,
            ..Grants::default()
        };
        let (mut store, _running) = self
            .store(talk, &sending.log, &grants, &self.limits)
            .await?;
        let given: Vec<_> = sending.arguments.into_iter().map(given).collect();
        let told = async {
            let instance = component.instantiate_async(&mut store).await?;
            let guest = indices.load(&mut store, &instance)?;
            guest.call_send(&mut store, module, &given).await
        };
        let told = told.await;
        sending.log.used(|| store.data().used());
        match told {
            Ok(Ok(outcome)) => Ok(outcome.into()),
            Ok(Err(fault)) => Err(Failure::Told {
                message: fault.message,
                hint: fault.hint,
            }),
            Err(error) => Err(explain(error, &store, &self.limits)),
        }
    }
}

impl Runner for WasmModule {
    fn execute<'a>(
        &'a self,
        module: &'a str,
        call: Call,
        channel: Channel,
        log: CallLog,
    ) -> BoxFuture<'a, Result<Outcome, Failure>> {
        Box::pin(async move {
            let cancellation = call.cancellation.clone();
            let work = async {
                match self.world()? {
                    World::Contract => self.execute_contract(module, call, channel, &log).await,
                    World::Command => self.execute_command(module, call, channel, &log).await,
                }
            };
            unless_cancelled(Box::pin(work), &cancellation).await
        })
    }

    fn send<'a>(
        &'a self,
        module: &'a str,
        sending: Sending,
    ) -> BoxFuture<'a, Result<Outcome, Failure>> {
        Box::pin(async move {
            let cancellation = sending.cancellation.clone();
            unless_cancelled(Box::pin(self.run_sender(module, sending)), &cancellation).await
        })
    }
}

/// Drops a guest that does not end by itself after its cancellation.
async fn unless_cancelled(
    work: BoxFuture<'_, Result<Outcome, Failure>>,
    cancellation: &CancellationToken,
) -> Result<Outcome, Failure> {
    tokio::select! {
        ended = work => ended,
        () = impatience(cancellation) => Err(Failure::Cancelled),
    }
}
