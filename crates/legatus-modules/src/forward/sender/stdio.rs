//! `-W`: standard input and output are the connection.

use std::io;

use legatus_core::{Caller, Fault, Local, Outcome, SocketName, Stream};

use crate::forward::messages::output;
use crate::forward::request::What;
use crate::forward::{carry, dial};

/// The reader of standard output has gone.
const SIGPIPE: u8 = 13;

/// Connects standard input and output to a socket that the server reaches.
pub(super) async fn carry(
    to: SocketName,
    caller: &dyn Caller,
    local: &dyn Local,
) -> Result<Outcome, Fault> {
    let opened = match dial::open(caller, What::Connect(to)).await {
        Ok(opened) => opened,
        Err(not) => return Ok(not.outcome),
    };
    let dial::Opened {
        sink,
        mut source,
        outcome: pending,
        ..
    } = opened;
    let mut sink = Some(sink);
    let outcome = pending; // goes before the sink does: what fails is not told as the end
    let upload = async {
        if let (Some(mut stdin), Some(open)) = (local.stdin(), &sink) {
            loop {
                let bytes = stdin
                    .read()
                    .await
                    .map_err(|error| Fault::new(format!("cannot read standard input: {error}")))?;
                if bytes.is_empty() || open.send(dial::data(&bytes)).await.is_err() {
                    break;
                }
            }
        }
        sink = None;
        std::future::pending().await
    };
    let download = async {
        let mut stdout = local.output(Stream::Stdout);
        loop {
            let message = match source.try_receive() {
                Some(message) => message,
                // What has come so far is seen before more is waited for.
                None => {
                    stdout.flush().await?;
                    match source.receive().await {
                        Some(message) => message,
                        None => return Ok::<_, io::Error>(()),
                    }
                }
            };
            let part = carry::decode(message).map_err(io::Error::other)?;
            if let Some(output::Part::Data(bytes)) = part {
                stdout.write(bytes).await?;
            }
        }
    };
    tokio::select! {
        downloaded = download => match downloaded {
            Ok(()) => Ok(outcome.wait().await),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Outcome::Signal(SIGPIPE)),
            Err(error) => Err(Fault::new(format!("cannot write standard output: {error}"))),
        },
        failed = upload => failed,
        _ = local.signal() => Ok(Outcome::Cancelled),
    }
}
