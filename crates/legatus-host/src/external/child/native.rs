//! A library of the C contract, in the module host's process: the only place where foreign code is
//! called, and where its pointers are read.

#![expect(unsafe_code, reason = "foreign code is called")]

use std::ffi::{CStr, CString, c_char, c_void};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use super::link::{Broken, Link};
use super::native_types::{
    ABI, AS_OUTCOME, ArgumentTold, Bytes, CANCELLED, CallTold, END, ExampleTold, FAILED, FAULT,
    GONE, Given, Host, IS_CANCELLED, LibraryTold, MESSAGE_READY, ModuleTold, ModulesFunction, OK,
    OutcomeTold, TOO_LONG,
};
use super::protocol::{Descriptions, Done, Execute, Frame, Kind, PROTOCOL, Send, Told};
use crate::external::description::{
    Described, Description, EffectName, ExampleLine, Kind as ArgumentKind, MODULES, Value,
};

/// Parts that a module may describe; more are cut off before they are read.
const PARTS: usize = 64;

/// Loads a library and does what the host asks of it.
pub(super) fn run(socket: &mut UnixStream, path: &str) -> Result<ExitCode, String> {
    let library = load(path)?;
    let frame = Frame::read_blocking(socket).map_err(|error| error.to_string())?;
    let unintelligible = |error: serde_json::Error| error.to_string();
    let (kind, answer) = match frame.kind {
        Kind::Describe => {
            let described = Descriptions {
                protocol: PROTOCOL,
                modules: library.iter().map(|module| describe(module)).collect(),
            };
            (Kind::Description, serde_json::to_vec(&described))
        }
        Kind::Execute => {
            let asked: Execute = frame.parse().map_err(unintelligible)?;
            (
                Kind::Done,
                serde_json::to_vec(&execute(&library, socket, &asked)?),
            )
        }
        Kind::Send => {
            let asked: Send = frame.parse().map_err(unintelligible)?;
            (
                Kind::Done,
                serde_json::to_vec(&send(&library, socket, &asked)?),
            )
        }
        _ => return Err("the module host was asked for nothing".to_owned()),
    };
    let answer = answer.map_err(unintelligible)?;
    Frame::write_blocking(socket, kind, &answer).map_err(|error| error.to_string())?;
    Ok(ExitCode::SUCCESS)
}

/// The modules of a library. It stays loaded until the process ends: unloading is not safe.
fn load(path: &str) -> Result<Vec<&'static ModuleTold>, String> {
    // SAFETY: it runs the library's initialisers: foreign code, for which this process is there.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
    let library =
        library.map_err(|error| format!("it cannot be loaded: {}", without(path, &error)))?;
    let library = Box::leak(Box::new(library));
    // SAFETY: the contract says what the symbol is.
    let symbol = unsafe { library.get::<ModulesFunction>(b"legatus_modules\0") };
    let function = symbol.map_err(|_| "it does not export `legatus_modules`".to_owned())?;
    let told: *const LibraryTold = function(ABI);
    // SAFETY: the contract says that it is NULL, or lives as long as the library.
    let told = unsafe { told.as_ref() };
    let told = told.ok_or_else(|| format!("it does not speak version {ABI} of the contract"))?;
    if told.abi != ABI {
        return Err(format!(
            "it was made for version {} of the contract, this program speaks {ABI}",
            told.abi
        ));
    }
    let count = usize::try_from(told.module_count).unwrap_or(usize::MAX);
    if told.modules.is_null() || count == 0 || count > MODULES {
        return Err(format!("it describes {count} modules"));
    }
    // SAFETY: the contract says that there are so many.
    let modules = unsafe { std::slice::from_raw_parts(told.modules, count) };
    let modules = modules.iter().map(|module| {
        // SAFETY: the contract says that it lives as long as the library.
        let module = unsafe { module.as_ref() };
        let size = u32::try_from(size_of::<ModuleTold>()).unwrap_or(u32::MAX);
        module
            .filter(|module| module.size >= size)
            .ok_or_else(|| "it describes a module that is too small".to_owned())
    });
    modules.collect()
}

/// What the loader says, without a name that means nothing to anybody.
fn without(path: &str, error: &libloading::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = inner.to_string();
        cause = inner.source();
    }
    text.replace(&format!("{path}: "), "")
}

fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: the contract says that texts end with a zero.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_string_lossy().into_owned()
}

fn parts<T>(pointer: *const T, count: usize) -> &'static [T] {
    if pointer.is_null() {
        return &[];
    }
    // SAFETY: the contract says that there are so many, for as long as the library lives.
    unsafe { std::slice::from_raw_parts(pointer, count.min(PARTS + 1)) }
}

fn describe(module: &ModuleTold) -> Description {
    let effects = [
        (1, EffectName::Read),
        (2, EffectName::Write),
        (4, EffectName::Exec),
    ];
    let effects = effects.into_iter();
    let arguments = parts(module.arguments, module.argument_count);
    let examples = parts(module.examples, module.example_count);
    Description {
        name: text(module.name),
        version: text(module.version),
        summary: text(module.summary),
        details: text(module.details),
        effects: effects
            .filter_map(|(bit, name)| (module.effects & bit != 0).then_some(name))
            .collect(),
        arguments: arguments.iter().map(describe_argument).collect(),
        examples: examples
            .iter()
            .map(|one: &ExampleTold| ExampleLine {
                command: text(one.command),
                explanation: text(one.explanation),
            })
            .collect(),
        commander: module.execute.is_some(),
        sender: module.send.is_some(),
    }
}

fn describe_argument(told: &ArgumentTold) -> Described {
    Described {
        name: text(told.name),
        short: char::from_u32(told.short_name).filter(|letter| *letter != '\0'),
        kind: match told.kind {
            1 => ArgumentKind::Option,
            2 => ArgumentKind::Flag,
            3 => ArgumentKind::Trailing,
            _ => ArgumentKind::Positional,
        },
        value: match told.value {
            1 => Value::Number,
            2 => Value::Path,
            3 => Value::Location,
            4 => Value::Mode,
            5 => Value::Duration,
            _ => Value::Text,
        },
        value_name: text(told.value_name),
        help: text(told.help),
        required: told.marks & 1 != 0,
        repeated: told.marks & 2 != 0,
    }
}

fn find<'a>(library: &[&'a ModuleTold], name: &str) -> Result<&'a ModuleTold, String> {
    let mut modules = library.iter();
    let found = modules.find(|module| text(module.name) == name);
    found
        .copied()
        .ok_or_else(|| format!("it has no module `{name}` any more"))
}

fn execute(
    library: &[&ModuleTold],
    socket: &mut UnixStream,
    asked: &Execute,
) -> Result<Done, String> {
    let function = find(library, &asked.module)?.execute;
    let function = function.ok_or_else(|| "it has no server half".to_owned())?;
    let c_text = |text: &str| CString::new(text).map_err(|error| error.to_string());
    let (module, id, peer) = (
        c_text(&asked.module)?,
        c_text(&asked.id)?,
        c_text(&asked.peer)?,
    );
    let arguments = decoded(&asked.arguments)?;
    let arguments: Vec<_> = arguments.iter().map(|one| bytes(one)).collect();
    let call = CallTold {
        size: u32::try_from(size_of::<CallTold>()).unwrap_or(u32::MAX),
        reserved: 0,
        module: module.as_ptr(),
        id: id.as_ptr(),
        peer: peer.as_ptr(),
        arguments: arguments.as_ptr(),
        argument_count: arguments.len(),
        milliseconds: asked.milliseconds.unwrap_or(0),
    };
    let mut link = Link::new(socket, true);
    let host = host(&mut link);
    let returned = function(&raw const host, &raw const call);
    Ok(done(returned, &mut link))
}

fn send(library: &[&ModuleTold], socket: &mut UnixStream, asked: &Send) -> Result<Done, String> {
    let function = find(library, &asked.module)?.send;
    let function = function.ok_or_else(|| "it has no client half".to_owned())?;
    let c_text = |text: &str| CString::new(text).map_err(|error| error.to_string());
    let module = c_text(&asked.module)?;
    let mut values = Vec::new();
    for given in &asked.arguments {
        values.push((c_text(&given.name)?, decoded(&given.values)?));
    }
    let slices = values
        .iter()
        .map(|(_, values)| values.iter().map(|one| bytes(one)).collect());
    let slices: Vec<Vec<Bytes>> = slices.collect();
    let given = values.iter().zip(&slices).map(|((name, _), slices)| Given {
        name: name.as_ptr(),
        values: slices.as_ptr(),
        value_count: slices.len(),
    });
    let given: Vec<_> = given.collect();
    let mut link = Link::new(socket, false);
    let host = host(&mut link);
    let returned = function(
        &raw const host,
        module.as_ptr(),
        given.as_ptr(),
        given.len(),
    );
    Ok(done(returned, &mut link))
}

fn decoded(values: &[String]) -> Result<Vec<Vec<u8>>, String> {
    let values = values.iter().map(|one| BASE64.decode(one));
    values
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())
}

fn bytes(slice: &[u8]) -> Bytes {
    Bytes {
        data: slice.as_ptr(),
        length: slice.len(),
    }
}

fn done(returned: i32, link: &mut Link<'_>) -> Done {
    match returned {
        AS_OUTCOME => Done {
            outcome: link.outcome.take(),
            ..Done::default()
        },
        FAULT => {
            let (message, hint) = link.fault.take().unwrap_or_default();
            Done {
                fault: Some(message),
                hint: (!hint.is_empty()).then_some(hint),
                ..Done::default()
            }
        }
        status => match u8::try_from(status) {
            Ok(status) => Done {
                exit: Some(status),
                ..Done::default()
            },
            Err(_) => Done {
                fault: Some(format!("it returned {status}, which means nothing")),
                ..Done::default()
            },
        },
    }
}

/// The functions that a library gets. `link` must live as long as the table.
fn host(link: &mut Link<'_>) -> Host {
    Host {
        size: u32::try_from(size_of::<Host>()).unwrap_or(u32::MAX),
        abi: ABI,
        context: std::ptr::from_mut(link).cast::<c_void>(),
        receive,
        send: send_message,
        finish,
        wait,
        log,
        fail,
        open,
        outcome,
        read_input,
        write_output,
        write_error,
        open_file,
        read_file,
        close_file,
    }
}

/// The link behind a library's context. A library that passes another pointer hurts itself only.
fn link<'a>(context: *mut c_void) -> &'a mut Link<'static> {
    // SAFETY: the contract says that this is the context of the table, which `host` has made from a
    // link that outlives the library's function; one thread is in it.
    unsafe { &mut *context.cast::<Link<'static>>() }
}

fn slice<'a>(bytes: Bytes) -> &'a [u8] {
    if bytes.data.is_null() || bytes.length == 0 {
        return &[];
    }
    // SAFETY: the contract says that so many bytes are there during the call.
    unsafe { std::slice::from_raw_parts(bytes.data, bytes.length) }
}

/// Writes a result for the library.
fn put<T>(place: *mut T, value: T) {
    if !place.is_null() {
        // SAFETY: the contract says that there is room for one.
        unsafe { place.write(value) };
    }
}

fn code(result: Result<(), Broken>) -> i32 {
    match result {
        Ok(()) => OK,
        Err(Broken::Gone) => GONE,
        Err(Broken::Cancelled) => CANCELLED,
        Err(Broken::TooLong) => TOO_LONG,
        Err(Broken::Failed) => FAILED,
    }
}

extern "C" fn receive(context: *mut c_void, message: *mut Bytes) -> i32 {
    let link = link(context);
    match link.receive() {
        Ok(Some(received)) => {
            link.message = received;
            put(message, bytes(&link.message));
            OK
        }
        Ok(None) => END,
        Err(broken) => code(Err(broken)),
    }
}

extern "C" fn send_message(context: *mut c_void, message: Bytes) -> i32 {
    code(link(context).send(slice(message)))
}

extern "C" fn finish(context: *mut c_void) {
    link(context).finish();
}

extern "C" fn wait(context: *mut c_void, milliseconds: i64) -> u32 {
    match link(context).wait(u64::try_from(milliseconds).ok()) {
        Ok((message, cancelled)) => {
            (u32::from(message) * MESSAGE_READY) | (u32::from(cancelled) * IS_CANCELLED)
        }
        Err(_) => IS_CANCELLED,
    }
}

extern "C" fn log(context: *mut c_void, level: u32, text: Bytes) {
    link(context).log(level, slice(text));
}

extern "C" fn fail(context: *mut c_void, message: Bytes, hint: Bytes) {
    let text = |bytes| String::from_utf8_lossy(slice(bytes)).into_owned();
    link(context).fault = Some((text(message), text(hint)));
}

extern "C" fn open(context: *mut c_void, arguments: *const Bytes, count: usize) -> i32 {
    let arguments = if arguments.is_null() {
        &[]
    } else {
        // SAFETY: the contract says that there are so many during the call.
        unsafe { std::slice::from_raw_parts(arguments, count) }
    };
    let arguments = arguments.iter().map(|one| BASE64.encode(slice(*one)));
    let arguments: Vec<_> = arguments.collect();
    code(link(context).open(&arguments))
}

extern "C" fn outcome(context: *mut c_void, told: *mut OutcomeTold) -> i32 {
    let link = link(context);
    link.finish();
    let answer = link.ask(Kind::Outcome, &[]);
    let outcome = answer.and_then(|answer| {
        let answer = answer.ok_or(Broken::Gone)?;
        serde_json::from_slice::<Told>(&answer).map_err(|_| Broken::Gone)
    });
    match outcome {
        Ok(outcome) => {
            let status = u32::from(outcome.status);
            put(
                told,
                OutcomeTold {
                    kind: outcome.number(),
                    status,
                },
            );
            link.outcome = Some(outcome);
            OK
        }
        Err(broken) => code(Err(broken)),
    }
}

/// Asks for bytes that stay until the next question.
fn read(context: *mut c_void, kind: Kind, payload: &[u8], place: *mut Bytes) -> i32 {
    let link = link(context);
    match link.ask(kind, payload) {
        Ok(Some(answer)) => {
            link.read = answer;
            put(place, bytes(&link.read));
            OK
        }
        Ok(None) => END,
        Err(broken) => code(Err(broken)),
    }
}

extern "C" fn read_input(context: *mut c_void, place: *mut Bytes) -> i32 {
    read(context, Kind::ReadInput, &[], place)
}

extern "C" fn write_output(context: *mut c_void, bytes: Bytes) -> i32 {
    code(link(context).ask(Kind::WriteOutput, slice(bytes)).map(drop))
}

extern "C" fn write_error(context: *mut c_void, bytes: Bytes) -> i32 {
    code(link(context).ask(Kind::WriteError, slice(bytes)).map(drop))
}

extern "C" fn open_file(context: *mut c_void, name: Bytes, file: *mut u32) -> i32 {
    let answer = link(context).ask(Kind::OpenFile, slice(name));
    let id = answer.and_then(|answer| {
        let id = answer.as_deref().and_then(|id| id.try_into().ok());
        id.map(u32::from_le_bytes).ok_or(Broken::Gone)
    });
    code(id.map(|id| put(file, id)))
}

extern "C" fn read_file(context: *mut c_void, file: u32, place: *mut Bytes) -> i32 {
    read(context, Kind::ReadFile, &file.to_le_bytes(), place)
}

extern "C" fn close_file(context: *mut c_void, file: u32) {
    // A host that has gone ends this process.
    link(context)
        .write(Kind::CloseFile, &file.to_le_bytes())
        .ok();
}
