//! Modules as libraries of the C contract, `include/legatus_module.h`.

#![expect(unsafe_code, reason = "the contract is one of C")]

mod tables;

use std::ffi::{CStr, CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null;
use std::sync::OnceLock;

pub use tables::Library;
use tables::{
    ArgumentTold, CallTold, ExampleTold, GivenTold, ModuleTold, OutcomeTold, Slice, Table,
};

use crate::entries::{Entry, Whole, execute, modules, send};
use crate::host::{Call, ChannelError, Client, Fault, Given, Host, Level, Local, Outcome, Talk};
use crate::panics;

/// Version of the contract, `LEGATUS_ABI`.
pub const ABI: u32 = 1;

const OK: i32 = 0;
const END: i32 = 1;
const FAULT: i32 = -1;
const AS_OUTCOME: i32 = -2;

/// The halves that this library exports.
static ENTRIES: OnceLock<&'static [Entry]> = OnceLock::new();

// SAFETY: it is never changed, nor is what it points to.
unsafe impl Sync for Library {}
// SAFETY: as above.
unsafe impl Send for Library {}

/// The table of a library; NULL for another version of the contract.
pub fn library(abi: u32, entries: &'static [Entry]) -> *const Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    if abi != ABI {
        return null();
    }
    ENTRIES.get_or_init(|| entries);
    LIBRARY.get_or_init(|| {
        let modules: Vec<*const ModuleTold> = modules(entries)
            .iter()
            .map(|whole| {
                let told: *const ModuleTold = Box::leak(Box::new(module_told(whole)));
                told
            })
            .collect();
        Library {
            abi: ABI,
            module_count: u32::try_from(modules.len()).unwrap_or(0),
            modules: leak(modules),
        }
    })
}

/// Text that is never freed: a description lives as long as the library.
fn text(text: &str) -> *const c_char {
    CString::new(text.replace('\0', ""))
        .unwrap_or_default()
        .into_raw()
}

fn leak<T>(values: Vec<T>) -> *const T {
    Box::leak(values.into_boxed_slice()).as_ptr()
}

fn module_told(whole: &Whole) -> ModuleTold {
    let told = &whole.told;
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
    ModuleTold {
        size: u32::try_from(size_of::<ModuleTold>()).unwrap_or(0),
        effects: told.effects.bits().into(),
        name: text(told.name),
        version: text(told.version),
        summary: text(told.summary),
        details: text(told.details),
        argument_count: told.arguments.len(),
        arguments: leak(arguments.collect()),
        example_count: told.examples.len(),
        examples: leak(examples.collect()),
        execute: whole.execute.is_some().then_some(enter_execute),
        send: whole.send.is_some().then_some(enter_send),
    }
}

/// The host's table, while one of the module's functions runs.
#[derive(Clone, Copy)]
struct Native {
    table: *const Table,
}

impl Native {
    fn table(&self) -> &Table {
        // SAFETY: the contract says that the table is there while the module's function runs, and
        // what holds a `Native` does not leave it.
        unsafe { &*self.table }
    }

    fn fail(&self, fault: &Fault) {
        // The host knows already what it told itself.
        if !fault.message.is_empty() {
            let (message, hint) = (fault.message.as_bytes(), fault.hint.as_bytes());
            (self.table().fail)(self.table().context, Slice::of(message), Slice::of(hint));
        }
    }

    /// Bytes that the host tells by one of its functions; `None` at their end.
    fn bytes(
        &self,
        ask: impl FnOnce(*mut c_void, *mut Slice) -> i32,
    ) -> Result<Option<Vec<u8>>, i32> {
        let mut bytes = Slice::of(&[]);
        match ask(self.table().context, &raw mut bytes) {
            OK => Ok(Some(to_vec(bytes))),
            END => Ok(None),
            code => Err(code),
        }
    }
}

impl Talk for Native {
    fn receive(&mut self) -> Result<Option<Vec<u8>>, ChannelError> {
        let receive = self.table().receive;
        self.bytes(|context, bytes| receive(context, bytes))
            .map_err(channel_error)
    }

    fn send(&mut self, message: &[u8]) -> Result<(), ChannelError> {
        match (self.table().send)(self.table().context, Slice::of(message)) {
            OK => Ok(()),
            code => Err(channel_error(code)),
        }
    }

    fn finish(&mut self) {
        (self.table().finish)(self.table().context);
    }

    fn wait(&mut self, milliseconds: Option<u64>) -> (bool, bool) {
        let time = milliseconds.map_or(-1, |time| i64::try_from(time).unwrap_or(i64::MAX));
        let ready = (self.table().wait)(self.table().context, time);
        (ready & 1 != 0, ready & 2 != 0)
    }

    fn log(&mut self, level: Level, text: &str) {
        let text = Slice::of(text.as_bytes());
        (self.table().log)(self.table().context, level as u32, text);
    }
}

impl Local for Native {
    fn open(&mut self, arguments: &[&[u8]]) -> Result<(), Fault> {
        let slices: Vec<_> = arguments.iter().map(|one| Slice::of(one)).collect();
        told((self.table().open)(
            self.table().context,
            slices.as_ptr(),
            slices.len(),
        ))
    }

    fn outcome(&mut self) -> Result<Outcome, Fault> {
        let mut outcome = OutcomeTold::default();
        told((self.table().outcome)(
            self.table().context,
            &raw mut outcome,
        ))?;
        let status = u8::try_from(outcome.status).unwrap_or(u8::MAX);
        Ok(match outcome.kind {
            0 => Outcome::Exit(status),
            1 => Outcome::Signal(status),
            2 => Outcome::Timeout,
            3 => Outcome::Cancelled,
            4 => Outcome::Denied(Fault::default()),
            5 => Outcome::Unavailable(Fault::default()),
            6 => Outcome::Lost(Fault::default()),
            _ => Outcome::Failed(Fault::default()),
        })
    }

    fn read_input(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        let read = self.table().read_input;
        self.bytes(|context, bytes| read(context, bytes))
            .map_err(code_told)
    }

    fn write_output(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        told((self.table().write_output)(
            self.table().context,
            Slice::of(bytes),
        ))
    }

    fn write_error(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        told((self.table().write_error)(
            self.table().context,
            Slice::of(bytes),
        ))
    }

    fn open_file(&mut self, name: &[u8]) -> Result<u32, Fault> {
        let mut file = 0;
        let (table, name) = (self.table(), Slice::of(name));
        told((table.open_file)(table.context, name, &raw mut file))?;
        Ok(file)
    }

    fn read_file(&mut self, file: u32) -> Result<Option<Vec<u8>>, Fault> {
        let read = self.table().read_file;
        self.bytes(|context, bytes| read(context, file, bytes))
            .map_err(code_told)
    }

    fn close_file(&mut self, file: u32) {
        (self.table().close_file)(self.table().context, file);
    }
}

fn channel_error(code: i32) -> ChannelError {
    match code {
        -2 => ChannelError::Cancelled,
        -3 => ChannelError::TooLong,
        _ => ChannelError::Gone,
    }
}

/// What a function's result means.
fn told(code: i32) -> Result<(), Fault> {
    match code {
        OK => Ok(()),
        code => Err(code_told(code)),
    }
}

fn code_told(code: i32) -> Fault {
    match code {
        // The host keeps why.
        -4 => Fault::default(),
        code => channel_error(code).into(),
    }
}

fn to_vec(slice: Slice) -> Vec<u8> {
    if slice.data.is_null() || slice.length == 0 {
        return Vec::new();
    }
    // SAFETY: the contract says that so many bytes are there until the next call.
    unsafe { std::slice::from_raw_parts(slice.data, slice.length) }.to_vec()
}

fn to_text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: the contract says that texts end with a zero.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_string_lossy().into_owned()
}

fn parts<'a, T>(pointer: *const T, count: usize) -> &'a [T] {
    if pointer.is_null() || count == 0 {
        return &[];
    }
    // SAFETY: the contract says that there are so many while the module's function runs.
    unsafe { std::slice::from_raw_parts(pointer, count) }
}

fn values(pointer: *const Slice, count: usize) -> Vec<Vec<u8>> {
    let values = parts(pointer, count).iter();
    values.map(|one| to_vec(*one)).collect()
}

/// Runs a half. A panic must not leave Rust.
fn guarded<T>(table: *const Table, run: impl FnOnce() -> Result<T, Fault>) -> Option<T> {
    let mut native = Native { table };
    panics::note();
    let ended = catch_unwind(AssertUnwindSafe(run));
    for part in panics::taken() {
        native.log(Level::Error, &part);
    }
    match ended {
        Ok(Ok(value)) => Some(value),
        Ok(Err(fault)) => {
            native.fail(&fault);
            None
        }
        Err(_) => {
            native.fail(&Fault::new("the module panicked"));
            None
        }
    }
}

fn entries() -> &'static [Entry] {
    ENTRIES.get().copied().unwrap_or_default()
}

extern "C" fn enter_execute(table: *const Table, call: *const CallTold) -> i32 {
    // SAFETY: the contract says that it is there while the module's function runs.
    let told = unsafe { &*call };
    let call = Call {
        id: to_text(told.id),
        peer: to_text(told.peer),
        arguments: values(told.arguments, told.argument_count),
        milliseconds: (told.milliseconds > 0).then_some(told.milliseconds),
    };
    let module = to_text(told.module);
    let mut host = Host::new(Native { table });
    let ended = guarded(table, || execute(entries(), &module, &call, &mut host));
    ended.map_or(FAULT, i32::from)
}

extern "C" fn enter_send(
    table: *const Table,
    module: *const c_char,
    given: *const GivenTold,
    count: usize,
) -> i32 {
    let module = to_text(module);
    let given = parts(given, count).iter().map(|one| Given {
        name: to_text(one.name),
        values: values(one.values, one.value_count),
    });
    let given: Vec<_> = given.collect();
    let mut client = Client::new(Native { table });
    let ended = guarded(table, || send(entries(), &module, &given, &mut client));
    match ended {
        Some(Outcome::Exit(status)) => status.into(),
        Some(_) => AS_OUTCOME,
        None => FAULT,
    }
}
