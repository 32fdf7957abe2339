//! Modules for Legatus in Rust: implement [`Module`], and export it with [`module!`] from a crate of
//! the type `cdylib`.
//!
//! ```
//! use legatus_sdk::{Call, Description, Fault, Host, Module, module};
//!
//! struct Hello;
//!
//! impl Module for Hello {
//!     fn describe() -> Description {
//!         Description::new("hello", "1.0.0", "Greet the caller")
//!     }
//!
//!     fn execute(call: &Call, host: &mut Host) -> Result<u8, Fault> {
//!         host.send(format!("hello, {}\n", call.peer).as_bytes())?;
//!         Ok(0)
//!     }
//! }
//!
//! module!(Hello);
//! ```
//!
//! It depends on nothing, so that a project may hold a copy of it. A panic becomes a fault: its
//! message goes to the log of the host.

#![expect(unsafe_code, reason = "the contract is one of C")]

use std::ffi::{CStr, CString, c_char, c_void};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null;
use std::sync::OnceLock;

/// Version of the contract, `LEGATUS_ABI` of `include/legatus_module.h`.
pub const ABI: u32 = 1;

/// What a module is and does.
pub trait Module {
    /// Tells what the module is.
    fn describe() -> Description;

    /// Does what was asked; returns the exit status.
    ///
    /// # Errors
    /// What the caller may be told.
    fn execute(call: &Call, host: &mut Host) -> Result<u8, Fault>;
}

/// Exports a module.
#[macro_export]
macro_rules! module {
    ($module:ty) => {
        /// The one symbol of the contract.
        #[unsafe(no_mangle)]
        pub extern "C" fn legatus_modules(abi: u32) -> *const $crate::Library {
            $crate::library::<$module>(abi)
        }
    };
}

/// What a module tells about itself.
#[derive(Clone, Debug, Default)]
pub struct Description {
    /// Lower case, `[a-z0-9-]`.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// What it does, in one line.
    pub summary: &'static str,
    /// What it does, at length.
    pub details: &'static str,
    /// All that any of its calls may do.
    pub effects: Effects,
    /// Its arguments.
    pub arguments: Vec<Argument>,
    /// Command lines that work, beginning with `legatus`, and what they do.
    pub examples: Vec<(&'static str, &'static str)>,
}

impl Description {
    /// A module without arguments and effects.
    pub fn new(name: &'static str, version: &'static str, summary: &'static str) -> Self {
        Self {
            name,
            version,
            summary,
            ..Self::default()
        }
    }
}

/// What calls may do to the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Effects {
    /// They read.
    pub read: bool,
    /// They change files or state.
    pub write: bool,
    /// They run programs.
    pub exec: bool,
}

/// How an argument is written.
#[derive(Clone, Copy, Debug, Default)]
pub enum Kind {
    /// By its place.
    #[default]
    Positional,
    /// `--name VALUE`.
    Option,
    /// `--name`.
    Flag,
    /// Everything after `--`.
    Trailing,
}

/// What an argument's value is.
#[derive(Clone, Copy, Debug, Default)]
pub enum Value {
    /// Any bytes.
    #[default]
    Text,
    /// A whole number.
    Number,
    /// A path on the client's machine.
    Path,
    /// `PATH` or `HOST:PATH`.
    Location,
    /// An octal file mode.
    Mode,
    /// A length of time.
    Duration,
}

/// One argument.
#[derive(Clone, Debug, Default)]
pub struct Argument {
    /// For options and flags what follows `--`.
    pub name: &'static str,
    /// How it is written.
    pub kind: Kind,
    /// What its value is.
    pub value: Value,
    /// How help names the value.
    pub value_name: &'static str,
    /// What it does.
    pub help: &'static str,
    /// A one-letter form.
    pub short: Option<char>,
    /// Whether it must be given.
    pub required: bool,
    /// Whether it may be given more than once.
    pub repeated: bool,
}

/// One invocation.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// Names the call in the log.
    pub id: String,
    /// The identity of the caller, verified.
    pub peer: String,
    /// `--name value`, `--flag`, then positional arguments, then `--` and what trailed.
    pub arguments: Vec<Vec<u8>>,
    /// What is left until the call will be ended.
    pub milliseconds: Option<u64>,
}

/// What the caller may be told of an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What was tried, on what, and why it failed.
    pub message: String,
    /// What the user could do.
    pub hint: String,
}

impl Fault {
    /// A fault without a hint.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: String::new(),
        }
    }
}

/// A message could not be sent or received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelError {
    /// The other half no longer receives.
    Gone,
    /// The call was cancelled.
    Cancelled,
    /// The message is longer than 1 MiB + 64 KiB.
    TooLong,
}

impl fmt::Display for ChannelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gone => "the caller has gone",
            Self::Cancelled => "the call was cancelled",
            Self::TooLong => "the message is too long",
        })
    }
}

impl std::error::Error for ChannelError {}

impl From<ChannelError> for Fault {
    fn from(error: ChannelError) -> Self {
        Self::new(error.to_string())
    }
}

/// A line's weight in the log.
#[derive(Clone, Copy, Debug)]
pub enum Level {
    /// Every step.
    Trace,
    /// For whoever looks for an error.
    Debug,
    /// Good to know.
    Info,
    /// Something is odd.
    Warn,
    /// Something failed.
    Error,
}

/// What a module may ask of its host.
pub struct Host {
    table: *const Table,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
    }
}

impl Host {
    fn table(&self) -> &Table {
        // SAFETY: the contract says that the table is there while the module's function runs, and
        // nothing else makes a `Host`.
        unsafe { &*self.table }
    }

    /// Waits for the next message; `None` when no more come.
    ///
    /// # Errors
    /// When the call was cancelled.
    pub fn receive(&mut self) -> Result<Option<Vec<u8>>, ChannelError> {
        let mut message = Slice::of(&[]);
        match (self.table().receive)(self.table().context, &raw mut message) {
            0 => Ok(Some(message.to_vec())),
            1 => Ok(None),
            code => Err(channel_error(code)),
        }
    }

    /// Sends a message, waiting for room.
    ///
    /// # Errors
    /// When nobody listens, or the call was cancelled.
    pub fn send(&mut self, message: &[u8]) -> Result<(), ChannelError> {
        match (self.table().send)(self.table().context, Slice::of(message)) {
            0 => Ok(()),
            code => Err(channel_error(code)),
        }
    }

    /// Tells the other half that no more messages come.
    pub fn finish(&mut self) {
        (self.table().finish)(self.table().context);
    }

    /// Waits until a message can be received, the call is cancelled, or the time is up; whether
    /// there is a message, and whether the call was cancelled.
    pub fn wait(&mut self, milliseconds: Option<u32>) -> (bool, bool) {
        let time = milliseconds.map_or(-1, i64::from);
        let ready = (self.table().wait)(self.table().context, time);
        (ready & 1 != 0, ready & 2 != 0)
    }

    /// Writes a line to the host's log, under the call's id.
    pub fn log(&mut self, level: Level, text: &str) {
        let text = Slice::of(text.as_bytes());
        (self.table().log)(self.table().context, level as u32, text);
    }

    fn fail(&self, fault: &Fault) {
        let (message, hint) = (fault.message.as_bytes(), fault.hint.as_bytes());
        (self.table().fail)(self.table().context, Slice::of(message), Slice::of(hint));
    }
}

fn channel_error(code: i32) -> ChannelError {
    match code {
        -2 => ChannelError::Cancelled,
        -3 => ChannelError::TooLong,
        _ => ChannelError::Gone,
    }
}

/// `legatus_bytes`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Slice {
    data: *const u8,
    length: usize,
}

impl Slice {
    fn of(bytes: &[u8]) -> Self {
        Self {
            data: bytes.as_ptr(),
            length: bytes.len(),
        }
    }

    fn to_vec(self) -> Vec<u8> {
        if self.data.is_null() || self.length == 0 {
            return Vec::new();
        }
        // SAFETY: the contract says that so many bytes are there until the next call.
        unsafe { std::slice::from_raw_parts(self.data, self.length) }.to_vec()
    }
}

/// `legatus_host`, as far as server halves use it.
#[repr(C)]
struct Table {
    size: u32,
    abi: u32,
    context: *mut c_void,
    receive: extern "C" fn(*mut c_void, *mut Slice) -> i32,
    send: extern "C" fn(*mut c_void, Slice) -> i32,
    finish: extern "C" fn(*mut c_void),
    wait: extern "C" fn(*mut c_void, i64) -> u32,
    log: extern "C" fn(*mut c_void, u32, Slice),
    fail: extern "C" fn(*mut c_void, Slice, Slice),
}

/// `legatus_call`.
#[repr(C)]
struct CallTold {
    size: u32,
    reserved: u32,
    module: *const c_char,
    id: *const c_char,
    peer: *const c_char,
    arguments: *const Slice,
    argument_count: usize,
    milliseconds: u64,
}

/// `legatus_argument`.
#[repr(C)]
struct ArgumentTold {
    name: *const c_char,
    value_name: *const c_char,
    help: *const c_char,
    kind: u32,
    value: u32,
    marks: u32,
    short_name: u32,
}

/// `legatus_example`.
#[repr(C)]
struct ExampleTold {
    command: *const c_char,
    explanation: *const c_char,
}

/// `legatus_module`.
#[repr(C)]
struct ModuleTold {
    size: u32,
    effects: u32,
    name: *const c_char,
    version: *const c_char,
    summary: *const c_char,
    details: *const c_char,
    arguments: *const ArgumentTold,
    argument_count: usize,
    examples: *const ExampleTold,
    example_count: usize,
    execute: extern "C" fn(*const Table, *const CallTold) -> i32,
    send: *const c_void,
}

/// `legatus_library`: what [`module!`] exports.
#[repr(C)]
#[derive(Debug)]
pub struct Library {
    abi: u32,
    module_count: u32,
    modules: *const *const ModuleTold,
}

// SAFETY: it is never changed, nor is what it points to.
unsafe impl Sync for Library {}
// SAFETY: as above.
unsafe impl Send for Library {}

/// Text that is never freed: a description lives as long as the library.
fn text(text: &str) -> *const c_char {
    CString::new(text.replace('\0', ""))
        .unwrap_or_default()
        .into_raw()
}

fn leak<T>(values: Vec<T>) -> *const T {
    Box::leak(values.into_boxed_slice()).as_ptr()
}

/// The table of a library with one module; NULL for another version of the contract.
pub fn library<M: Module>(abi: u32) -> *const Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    if abi != ABI {
        return null();
    }
    LIBRARY.get_or_init(|| {
        let told = M::describe();
        let arguments = told.arguments.iter().map(|one| ArgumentTold {
            name: text(one.name),
            value_name: text(one.value_name),
            help: text(one.help),
            kind: one.kind as u32,
            value: one.value as u32,
            marks: u32::from(one.required) | u32::from(one.repeated) << 1,
            short_name: one.short.map_or(0, u32::from),
        });
        let examples = told
            .examples
            .iter()
            .map(|(command, explanation)| ExampleTold {
                command: text(command),
                explanation: text(explanation),
            });
        let effects = told.effects;
        let module = ModuleTold {
            size: u32::try_from(size_of::<ModuleTold>()).unwrap_or(0),
            effects: u32::from(effects.read)
                | u32::from(effects.write) << 1
                | u32::from(effects.exec) << 2,
            name: text(told.name),
            version: text(told.version),
            summary: text(told.summary),
            details: text(told.details),
            argument_count: told.arguments.len(),
            arguments: leak(arguments.collect()),
            example_count: told.examples.len(),
            examples: leak(examples.collect()),
            execute: execute::<M>,
            send: null(),
        };
        let module: *const ModuleTold = Box::leak(Box::new(module));
        Library {
            abi: ABI,
            module_count: 1,
            modules: leak(vec![module]),
        }
    })
}

extern "C" fn execute<M: Module>(table: *const Table, call: *const CallTold) -> i32 {
    let mut host = Host { table };
    let call = call_told(call);
    // A panic must not leave Rust.
    let ended = catch_unwind(AssertUnwindSafe(|| M::execute(&call, &mut host)));
    match ended {
        Ok(Ok(status)) => i32::from(status),
        Ok(Err(fault)) => {
            host.fail(&fault);
            -1
        }
        Err(panic) => {
            let message = panic.downcast_ref::<String>().map(String::as_str);
            let message = message.or_else(|| panic.downcast_ref::<&str>().copied());
            host.log(
                Level::Error,
                &format!("panicked: {}", message.unwrap_or("")),
            );
            host.fail(&Fault::new("the module panicked"));
            -1
        }
    }
}

fn call_told(call: *const CallTold) -> Call {
    // SAFETY: the contract says that it is there while the module's function runs.
    let call = unsafe { &*call };
    let text = |pointer: *const c_char| {
        // SAFETY: the contract says that texts end with a zero.
        let text = unsafe { CStr::from_ptr(pointer) };
        text.to_string_lossy().into_owned()
    };
    let arguments: &[Slice] = if call.argument_count == 0 {
        &[]
    } else {
        // SAFETY: the contract says that there are so many.
        unsafe { std::slice::from_raw_parts(call.arguments, call.argument_count) }
    };
    Call {
        id: text(call.id),
        peer: text(call.peer),
        arguments: arguments.iter().map(|one| one.to_vec()).collect(),
        milliseconds: (call.milliseconds > 0).then_some(call.milliseconds),
    }
}
