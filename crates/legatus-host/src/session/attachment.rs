//! One client of a kept call, from its coming to its going.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use legatus_core::{Channel, ChannelReceiver, Control, Taken, limits, wire};
use prost::Message;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Session;
use super::clients::Place;
use super::log::Next;
use crate::frame::{self, Frame};
use crate::pump::{Link, MessageReader, MessageWriter, Notices, PumpError};

/// A client is told how many of its messages were taken after so many bytes or messages.
const TELL_BYTES: usize = limits::CHUNK_BYTES;
const TELL_MESSAGES: u64 = 64;

/// How a client goes.
enum Going {
    /// Its server is gone or has lost it.
    Lost,
    /// It said that it leaves.
    Detached,
    /// It has come anew, by another way.
    Superseded,
}

/// Serves one client until it goes.
pub(super) async fn run(session: Arc<Session>, place: Place, taken: Taken, link: Link) {
    let Link {
        mut writer,
        mut reader,
        control_writer,
        mut control_reader,
        notices,
    } = link;
    let farewell = Farewell::default();
    let deaf = writer.deaf();
    let told = watch::Sender::new(taken);
    let controls = async {
        // The end of this socket, not of the other, means that the client is gone: its server has
        // nothing more to say once it knows the outcome, but still that it was fetched.
        let deliver = |frame| deliver(&session, &place, &farewell, frame);
        if let Err(error) = control_reader.pump(deliver).await
            && !error.is_loss()
        {
            tracing::error!(%error, "a server's controls cannot be read");
        }
        Going::Lost
    };
    let going = tokio::select! {
        biased;
        () = place.superseded.cancelled() => Going::Superseded,
        () = session.over.cancelled() => return,
        going = controls => going,
        () = detached(&farewell) => Going::Detached,
        never = forgo(&session, &place, &deaf, &farewell) => match never {},
        going = write(&session, &place, &mut writer) => going,
        never = read(&session, &place, &mut reader, &told) => match never {},
        never = notify(control_writer, &notices, &told) => match never {},
    };
    // Whoever has said that it leaves may be gone before its last words have come.
    let detached = matches!(going, Going::Detached) || farewell.detached.is_cancelled();
    session.part(&place, detached);
    // Whoever was superseded finds its sockets closed, and its client, if it is there after all,
    // comes anew.
    if detached {
        // If it finds no room, the end of the socket must do.
        let written = writer.write(Frame::Left);
        tokio::time::timeout(Duration::from_secs(1), written)
            .await
            .ok();
    }
}

/// What a client has said of its going.
#[derive(Debug, Default)]
struct Farewell {
    /// It leaves the call.
    detached: CancellationToken,
    /// It has cancelled the call.
    cancelled: CancellationToken,
}

/// Waits until the client has left, and for what it said before: that comes by another way.
async fn detached(farewell: &Farewell) {
    farewell.detached.cancelled().await;
    tokio::time::sleep(LAST_WORDS).await;
}

/// How long the last messages of a client may be behind its farewell, both of which it sent at once.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Whoever takes no more messages and has cancelled the call needs none: they must not keep the
/// Commander from its end.
async fn forgo(
    session: &Session,
    place: &Place,
    deaf: &CancellationToken,
    farewell: &Farewell,
) -> std::convert::Infallible {
    deaf.cancelled().await;
    farewell.cancelled.cancelled().await;
    session.clients().forgo(place);
    session.changed();
    std::future::pending().await
}

/// Sends the log and the outcome.
async fn write(session: &Session, place: &Place, writer: &mut MessageWriter) -> Going {
    let never = CancellationToken::new();
    let mut changes = session.changes.subscribe();
    loop {
        changes.mark_unchanged();
        let next = session.clients().next(place);
        let written = match next {
            Next::Message(message) => {
                // The Commander may wait for what this one takes.
                session.changed();
                writer.write_message(message, &never).await
            }
            Next::Outcome(outcome) => {
                if writer.write(Frame::Outcome(outcome)).await.is_err() {
                    return Going::Lost;
                }
                return std::future::pending().await;
            }
            // A server that takes no more messages for its client does not know yet whether that
            // said goodbye or was lost. It tells the one by a control, the other by going.
            Next::Nothing => changes.changed().await.map_err(io::Error::other),
        };
        if written.is_err() {
            return Going::Lost;
        }
    }
}

/// Passes the client's messages to the Commander, each once.
async fn read(
    session: &Session,
    place: &Place,
    reader: &mut MessageReader,
    told: &watch::Sender<Taken>,
) -> std::convert::Infallible {
    let never = CancellationToken::new();
    // Taken and passed on in turn: what lies between when the client goes is sent again.
    let (near, far) = Channel::pair(limits::CHUNK_BYTES);
    let (to_here, _unused) = near.split();
    let (_unused_too, from_there) = far.split();
    let reading = async {
        let end = reader.pump(to_here, &never).await;
        matches!(end, Ok(Some(Frame::End)))
    };
    let (ended, ()) = tokio::join!(reading, pass_on(session, place, from_there, told));
    if ended && !place.read_only && place.client == session.keep.facts.id {
        // Only whoever opened the call ends its input.
        session.end_input();
    }
    std::future::pending().await
}

async fn pass_on(
    session: &Session,
    place: &Place,
    mut messages: ChannelReceiver,
    told: &watch::Sender<Taken>,
) {
    let mut untold = 0;
    while let Some(message) = messages.receive().await {
        let bytes = message.len();
        let input = session.input_sender().filter(|_| !place.read_only);
        if let Some(input) = input {
            // A Commander that reads no more takes everything.
            input.send(message).await.ok();
        }
        let count = session.clients().took(place, bytes);
        untold += bytes;
        if untold >= TELL_BYTES || count >= told.borrow().messages + TELL_MESSAGES {
            untold = 0;
            told.send_modify(|taken| taken.messages = count);
        }
    }
}

/// Tells the server what it has to know: free slots, taken messages.
async fn notify(
    mut socket: OwnedWriteHalf,
    notices: &Notices,
    told: &watch::Sender<Taken>,
) -> std::convert::Infallible {
    let mut taken = told.subscribe();
    taken.mark_changed();
    loop {
        let frame = tokio::select! {
            Ok(()) = taken.changed() => {
                let Taken { messages, next } = *taken.borrow_and_update();
                Frame::Taken { messages, next }
            }
            frame = notices.next() => frame,
        };
        if frame::write(&mut socket, frame).await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Does what a control says.
fn deliver(
    session: &Session,
    place: &Place,
    farewell: &Farewell,
    frame: Frame,
) -> Result<(), PumpError> {
    match frame {
        Frame::Received(count) => {
            session.clients().received(place, count);
            session.changed();
            Ok(())
        }
        Frame::Control(control) => control_of(session, place, farewell, control),
        _ => Err(PumpError::Misplaced),
    }
}

fn control_of(
    session: &Session,
    place: &Place,
    farewell: &Farewell,
    control: Bytes,
) -> Result<(), PumpError> {
    let request = wire::ControlRequest::decode(control).map_err(|_| PumpError::Unintelligible)?;
    match Control::try_from(request.control).map_err(|_| PumpError::Unintelligible)? {
        Control::Detach => farewell.detached.cancel(),
        // Whoever watches just goes.
        Control::Cancel if place.read_only => farewell.detached.cancel(),
        Control::Cancel => {
            farewell.cancelled.cancel();
            session.clients().dismiss();
            session.cancellation.cancel();
        }
        _ if place.read_only => {}
        Control::Resize(size) => {
            let fitting = session.clients().resized(place, size);
            if let Some(fitting) = fitting {
                session.controls.send(Control::Resize(fitting));
            }
        }
        // It is dropped when too many wait already.
        control @ Control::Signal(_) => drop(session.controls.send(control)),
    }
    Ok(())
}
