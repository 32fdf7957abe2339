//! The engine that compiles and runs WebAssembly, and the clock that its deadlines go by.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use wasmtime::component::{Component, Linker};
use wasmtime::{Config, EngineWeak, Store, UpdateDeadline};

use super::bindings::Module as World;
use super::state::State;
use crate::external::fault::Failure;
use crate::external::manifest::Limits;

/// How often a running guest is looked at. A guest that never ends lets other calls run as often;
/// its processor time is counted in these.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// Bytes of a guest's stack: what wasmtime takes by default.
const STACK: usize = 512 << 10;

/// The engine. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Engine {
    engine: wasmtime::Engine,
    linker: Arc<Linker<State>>,
    clock: Arc<Clock>,
}

/// The engine of a program, made when it is first needed.
#[derive(Debug, Default)]
pub(crate) struct Engines(OnceLock<Result<Engine, Failure>>);

impl Engines {
    pub(crate) fn get(&self) -> Result<&Engine, Failure> {
        self.0
            .get_or_init(Engine::new)
            .as_ref()
            .map_err(Clone::clone)
    }
}

/// A compiled component.
#[derive(Clone)]
pub(crate) struct Compiled(pub(super) Component);

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

impl Engine {
    /// An engine.
    ///
    /// # Errors
    /// When the machine cannot run WebAssembly.
    pub(crate) fn new() -> Result<Self, Failure> {
        let mut config = Config::new();
        config
            .wasm_component_model(true)
            .concurrency_support(false)
            .epoch_interruption(true)
            .max_wasm_stack(STACK)
            .async_stack_size(2 * STACK);
        let broken = |error: wasmtime::Error| Failure::Host(format!("{error:#}"));
        let engine = wasmtime::Engine::new(&config).map_err(broken)?;
        let mut linker = Linker::new(&engine);
        // What a component asks for is always there; without grants it reaches nothing.
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).map_err(broken)?;
        super::denials::add_to_linker(&mut linker).map_err(broken)?;
        World::add_to_linker::<_, wasmtime::component::HasSelf<_>>(&mut linker, |state| state)
            .map_err(broken)?;
        let clock = Arc::new(Clock::new(engine.weak()));
        Ok(Self {
            engine,
            linker: Arc::new(linker),
            clock,
        })
    }

    /// Tells compiled code apart that certainly does not fit. The same with and without a compiler:
    /// a program without one loads what one with it has compiled. Whether the code really fits,
    /// down to the processor's features, is checked where it is loaded.
    pub(crate) fn fingerprint() -> String {
        format!("{}-{}", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH)
    }

    /// Compiles a component to what [`Engine::load`] loads.
    ///
    /// # Errors
    /// When it is no component, or this program has no compiler.
    #[cfg(feature = "wasm-compiler")]
    pub(crate) fn compile(&self, bytes: &[u8]) -> Result<Vec<u8>, Failure> {
        let unfit = |error: wasmtime::Error| {
            Failure::Unfit(format!("it is no WebAssembly component: {error:#}"))
        };
        self.engine.precompile_component(bytes).map_err(unfit)
    }

    /// Compiles nothing.
    ///
    /// # Errors
    /// Always.
    #[cfg(not(feature = "wasm-compiler"))]
    #[expect(clippy::unused_self, reason = "the same with a compiler")]
    pub(crate) fn compile(&self, _bytes: &[u8]) -> Result<Vec<u8>, Failure> {
        Err(Failure::Host(
            "it was not compiled at its installation, and this program has no compiler".to_owned(),
        ))
    }

    /// Loads what [`Engine::compile`] made.
    ///
    /// # Errors
    /// When the file was made by another engine, or cannot be read.
    #[expect(unsafe_code, reason = "compiled code is loaded")]
    pub(crate) fn load(&self, path: &Path) -> Result<Compiled, Failure> {
        // SAFETY: the file comes from the cache, whose folder only this program's user can write,
        // which the cache has checked, and where nothing but the output of `compile` is put.
        let component = unsafe { Component::deserialize_file(&self.engine, path) };
        component
            .map(Compiled)
            .map_err(|error| Failure::Host(format!("{error:#}")))
    }

    pub(super) fn linker(&self) -> &Linker<State> {
        &self.linker
    }

    pub(super) fn wasmtime(&self) -> &wasmtime::Engine {
        &self.engine
    }

    /// The only way to a store: it has a limit of memory and one of processor time.
    pub(super) fn store(&self, state: State, limits: &Limits) -> (Store<State>, Running) {
        let mut store = Store::new(&self.engine, state);
        store.limiter(|state| &mut state.ceiling);
        let ticks = limits.cpu.as_millis().div_ceil(TICK.as_millis());
        let mut left = u64::try_from(ticks).unwrap_or(u64::MAX).max(1);
        // The callback comes only while the guest computes, not while it waits for the host.
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(move |mut store| {
            left -= 1;
            let state = store.data_mut();
            state.ticks = state.ticks.saturating_add(1);
            if left == 0 {
                state.out_of_time = true;
                return Ok(UpdateDeadline::Interrupt);
            }
            Ok(UpdateDeadline::Yield(1))
        });
        (store, self.clock.running())
    }
}

/// Advances the engine's epoch while guests run, and rests otherwise.
struct Clock {
    engine: EngineWeak,
    running: Arc<AtomicUsize>,
    thread: OnceLock<std::thread::Thread>,
}

/// While one of these lives, the clock ticks.
pub(super) struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Clock {
    fn new(engine: EngineWeak) -> Self {
        Self {
            engine,
            running: Arc::default(),
            thread: OnceLock::new(),
        }
    }

    fn running(&self) -> Running {
        let before = self.running.fetch_add(1, Ordering::Relaxed);
        let thread = self.thread.get_or_init(|| {
            let (engine, running) = (self.engine.clone(), Arc::downgrade(&self.running));
            let ticking = std::thread::spawn(move || {
                while let (Some(engine), Some(running)) = (engine.upgrade(), running.upgrade()) {
                    let rests = running.load(Ordering::Relaxed) == 0;
                    if !rests {
                        engine.increment_epoch();
                    }
                    drop((engine, running));
                    if rests {
                        std::thread::park();
                    } else {
                        // Nobody wakes it earlier, except for its last tick.
                        std::thread::park_timeout(TICK);
                    }
                }
            });
            ticking.thread().clone()
        });
        if before == 0 {
            thread.unpark();
        }
        Running(Arc::clone(&self.running))
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}
