//! The functions that a library of the C contract may call.

#![expect(unsafe_code, reason = "foreign code passes pointers")]

use std::ffi::c_void;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::link::{Broken, Link};
use super::native_types::{
    ABI, Bytes, CANCELLED, END, FAILED, GONE, Host, IS_CANCELLED, MESSAGE_READY, OK, OutcomeTold,
    TOO_LONG,
};
use super::protocol::{Kind, Told};

/// Bytes of ours as a library sees them.
pub(super) fn bytes(slice: &[u8]) -> Bytes {
    Bytes {
        data: slice.as_ptr(),
        length: slice.len(),
    }
}

/// The functions that a library gets. `link` must live as long as the table.
pub(super) fn host(link: &mut Link<'_>) -> Host {
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
