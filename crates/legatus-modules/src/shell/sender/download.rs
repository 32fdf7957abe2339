//! What the command writes, on its way to the user.

use std::io;

use bytes::Bytes;
use legatus_core::{ChannelReceiver, Fault, Local, Output as LocalOutput, Stream};
use prost::Message;

use super::screen::Screen;
use crate::shell::messages::{Output, Usage, output::Part};

/// The output could not be passed on.
#[derive(Debug)]
pub(super) enum Error {
    /// The reader of stdout or stderr has gone.
    NobodyReads,
    Fault(Fault),
}

/// Writes all output as it comes, until the call's messages end. `session`, by what one can attach to it, is
/// set when it is known.
pub(super) async fn download(
    mut source: ChannelReceiver,
    stdout: &mut dyn LocalOutput,
    local: &dyn Local,
    screen: Option<&Screen>,
    session: &mut Option<String>,
) -> Result<(), Error> {
    let mut stderr = local.output(Stream::Stderr);
    loop {
        let message = match source.try_receive() {
            Some(message) => Some(message),
            // What has come so far is seen before more is waited for.
            None => {
                flush(stdout, "standard output").await?;
                flush(stderr.as_mut(), "standard error").await?;
                tokio::select! {
                    message = source.receive() => message,
                    bytes = predicted(screen) => {
                        write(stdout, bytes, "standard output").await?;
                        continue;
                    }
                }
            }
        };
        let Some(message) = message else {
            return Ok(());
        };
        let output = Output::decode(message).map_err(|_| {
            Error::Fault(Fault::new(
                "the server sent a message that is no `legatus.shell.v1.Output`",
            ))
        })?;
        match output.part {
            Some(Part::Stdout(bytes)) => {
                let bytes = match screen {
                    Some(screen) => screen.came(bytes),
                    None => bytes,
                };
                write(stdout, bytes, "standard output").await?;
            }
            Some(Part::Stderr(bytes)) => {
                write(stderr.as_mut(), bytes, "standard error").await?;
            }
            Some(Part::Usage(usage)) => local.record(&usage_record(&usage)),
            Some(Part::Started(started)) => {
                session.get_or_insert(started.call_id);
            }
            // A part that this version does not know.
            None => {}
        }
    }
}

/// What is to be shown before more output comes.
async fn predicted(screen: Option<&Screen>) -> Bytes {
    match screen {
        Some(screen) => screen.next().await,
        None => std::future::pending().await,
    }
}

/// What a command took, for machines: seconds and bytes.
fn usage_record(usage: &Usage) -> String {
    // Micros of years fit.
    let seconds = |microseconds: u64| std::time::Duration::from_micros(microseconds).as_secs_f64();
    format!(
        r#"{{"usage":{{"seconds":{},"cpu_seconds":{},"peak_memory_bytes":{},"input_bytes":{},"output_bytes":{}}}}}"#,
        seconds(usage.duration_microseconds),
        seconds(
            usage
                .user_microseconds
                .saturating_add(usage.system_microseconds)
        ),
        usage.peak_memory_bytes,
        usage.input_bytes,
        usage.output_bytes,
    )
}

async fn write(output: &mut dyn LocalOutput, bytes: Bytes, name: &str) -> Result<(), Error> {
    let written = output.write(bytes).await;
    written.map_err(|error| unwritable(&error, name))
}

async fn flush(output: &mut dyn LocalOutput, name: &str) -> Result<(), Error> {
    let flushed = output.flush().await;
    flushed.map_err(|error| unwritable(&error, name))
}

fn unwritable(error: &io::Error, name: &str) -> Error {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Error::NobodyReads;
    }
    let reason = crate::shell::spawn::reason(error);
    Error::Fault(Fault::new(format!("cannot write {name}: {reason}")))
}
