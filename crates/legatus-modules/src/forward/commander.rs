//! The server half: connects, listens, and carries connections.

use std::io;
use std::sync::Arc;

use legatus_core::{Call, Channel, Connection, Fault, Outcome, SocketName};

use super::listen::{self, Waiting, reason, refuse, tell};
use super::messages::{Opened, Ticket, output};
use super::request::{self, What};
use super::{carry, sockets, unix};

/// Does what the call asks for.
pub(super) async fn execute(
    waiting: &Arc<Waiting>,
    call: Call,
    channel: Channel,
) -> Result<Outcome, Fault> {
    let what = request::decode(&call.request)?;
    let identity = call.peer().identity();
    let listens = matches!(what, What::Listen(_));
    let work = async {
        match what {
            What::Connect(to) => {
                let connected = sockets::connect(&to).await;
                carry(connected, channel, |error| {
                    format!("cannot connect to {to}: {}", reason(error))
                })
                .await
            }
            What::Listen(SocketName::Unix(path)) => unix::listen(&path, channel).await,
            What::Listen(at) => listen::listen(&at, waiting, identity, channel).await,
            What::Take(ticket) => {
                let taken = take(waiting, identity, &ticket).await;
                let gone = |_: &io::Error| "the connection does not wait any more".to_owned();
                carry(taken, channel, gone).await
            }
            What::Hold => hold(channel).await,
        }
    };
    tokio::select! {
        outcome = work => outcome,
        () = call.cancellation.cancelled() => Ok(Outcome::Cancelled),
        // Connections that were made go on; new ones are the next process's.
        () = call.draining.cancelled(), if listens => Ok(Outcome::SUCCESS),
    }
}

async fn take(
    waiting: &Waiting,
    identity: &str,
    ticket: &Ticket,
) -> io::Result<Box<dyn Connection>> {
    if ticket.unix {
        return Ok(Box::new(unix::take(&ticket.ticket).await?));
    }
    let taken = waiting.take(identity, &ticket.ticket);
    taken.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Carries a connection, or tells why there is none.
async fn carry(
    connection: io::Result<Box<dyn Connection>>,
    channel: Channel,
    complaint: impl FnOnce(&io::Error) -> String,
) -> Result<Outcome, Fault> {
    let (sink, source) = channel.split();
    match connection {
        Ok(connection) => {
            tell(&sink, output::Part::Opened(Opened {})).await?;
            carry::serve(connection, sink, source).await?;
            Ok(Outcome::SUCCESS)
        }
        Err(error) => refuse(&sink, complaint(&error), &error).await,
    }
}

/// Waits until the caller ends the call.
async fn hold(mut channel: Channel) -> Result<Outcome, Fault> {
    use prost::Message as _;
    let opened = super::messages::Output {
        part: Some(output::Part::Opened(Opened {})),
    };
    let sent = channel.send(opened.encode_to_vec().into()).await;
    sent.map_err(|_| Fault::new("the caller has gone"))?;
    while channel.receive().await.is_some() {}
    Ok(Outcome::SUCCESS)
}
