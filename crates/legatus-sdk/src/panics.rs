//! A panic's message and backtrace, on their way to the host's log.

use std::panic::{PanicHookInfo, set_hook};

/// The message of a panic, and where it was.
pub(crate) fn message(info: &PanicHookInfo<'_>) -> String {
    let place = info.location().map_or_else(String::new, |place| {
        format!(" at {}:{}", place.file(), place.line())
    });
    let message = info.payload_as_str().unwrap_or("(no message)");
    format!("panicked{place}: {message}")
}

/// Keeps for [`taken`] what panics say.
#[cfg(not(target_family = "wasm"))]
pub(crate) fn note() {
    set_hook(Box::new(|info| {
        let backtrace = std::backtrace::Backtrace::force_capture().to_string();
        let mut noted = lock();
        noted.push(message(info));
        noted.extend(pieces(&backtrace));
    }));
}

/// What panics said since the last time.
#[cfg(not(target_family = "wasm"))]
pub(crate) fn taken() -> Vec<String> {
    std::mem::take(&mut *lock())
}

#[cfg(not(target_family = "wasm"))]
fn lock() -> std::sync::MutexGuard<'static, Vec<String>> {
    static NOTED: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());
    NOTED
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A backtrace in pieces that fit into lines of the log, without the frames of the panic itself.
#[cfg(not(target_family = "wasm"))]
fn pieces(backtrace: &str) -> Vec<String> {
    /// Lines of the log end at 4 KiB.
    const PIECE_BYTES: usize = 3 << 10;
    let mut pieces = vec!["backtrace:".to_owned()];
    for line in backtrace.lines() {
        match pieces.last_mut() {
            Some(last) if last.len() + line.len() < PIECE_BYTES => {
                last.push('\n');
                last.push_str(line);
            }
            _ => pieces.push(line.to_owned()),
        }
    }
    pieces
}

/// Tells the host at once what panics say: the trap that follows, with its backtrace, ends all.
#[cfg(any(target_family = "wasm", test))]
pub(crate) fn tell(log: fn(&str)) {
    set_hook(Box::new(move |info| log(&message(info))));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_backtrace_is_told_whole_in_lines_that_fit() {
        let long = "  12: some::function\n".repeat(1000);
        let pieces = pieces(&long);
        assert!(pieces.iter().all(|piece| piece.len() < 4096));
        assert_eq!(
            pieces.join("\n"),
            format!("backtrace:\n{}", long.trim_end())
        );
    }
}
