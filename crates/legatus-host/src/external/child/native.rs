//! A library of the C contract, in the module host's process: the only place where foreign code is
//! called, and where its pointers are read.

#![expect(unsafe_code, reason = "foreign code is called")]

use std::ffi::{CStr, CString, c_char};
use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use super::functions::{bytes, host};
use super::link::Link;
use super::native_types::{
    ABI, AS_OUTCOME, ArgumentTold, Bytes, CallTold, ExampleTold, FAULT, Given, LibraryTold,
    ModuleTold, ModulesFunction,
};
use super::protocol::{Descriptions, Done, Execute, Frame, Kind, PROTOCOL, Send};
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
    wait_for_end(socket);
    Ok(ExitCode::SUCCESS)
}

/// Waits until the host has taken the answer: until then it may look at this process.
fn wait_for_end(socket: &mut UnixStream) {
    while let Ok(1..) = socket.read(&mut [0; 64]) {}
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
