//! The server's side of a call in a holder.

use std::io;

use bytes::Bytes;
use legatus_core::{
    Call, Channel, Control, ControlReceiver, FETCHED, Fault, Outcome, Persistence, Taken,
    is_fetched, wire,
};
use prost::Message;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::child::{Holder, KILL_AFTER, Sockets};
use crate::frame::{self, Frame};
use crate::messages::Opening;
use crate::pump::{Link, Notices, PumpError};
use crate::sessions::SessionFolder;
use crate::slab::End;
use crate::{Launcher, User};

/// Runs a call in a holder, or attaches to one that is kept. When this is dropped the holder sees
/// its sockets close, and is waited for (or killed) by a task of its own.
pub(crate) async fn run(
    launcher: &Launcher,
    module: &str,
    mut call: Call,
    channel: Channel,
) -> Result<Outcome, Fault> {
    let mut kept = call.persistence.take();
    let attach = kept.as_mut().and_then(|kept| kept.attach.take());
    // Where nothing is kept, a call that asks for it is one like any other.
    if attach.is_none() && launcher.sessions.is_none() {
        kept = None;
    }
    let (opening, started) = match (&kept, attach) {
        (Some(kept), Some(attach)) => {
            let attached = Holder::attach(launcher, attach, kept, module, &call).await;
            (None, attached)
        }
        _ => {
            let user = match launcher.user_of(call.peer().identity()) {
                Ok(user) => user,
                Err(fault) => return Ok(Outcome::Denied(fault)),
            };
            let opening = opening(launcher, user, module, &mut call, kept.as_ref());
            let started = start(launcher, user, &call, kept.as_ref()).await;
            (Some(opening), started)
        }
    };
    let (mut holder, sockets) = match started {
        Ok(started) => started,
        Err(outcome) => return Ok(outcome),
    };
    let Sockets {
        data,
        control,
        memory,
        start,
        inline_bytes,
    } = sockets;
    let controls = Controls { start, opening };
    let mut link = Link::new(End::Server, (data, control), memory, inline_bytes);
    let ended = relay(
        &mut link,
        controls,
        &mut call,
        channel,
        &mut holder.kill_at,
        kept.as_ref(),
    )
    .await;
    if let Some(kept) = kept {
        if matches!(ended, Ended::Told(_)) {
            tokio::spawn(acknowledge(link.control_writer, kept.received));
            // It stays until its outcome was fetched.
            holder.release();
        } else if ended.may_go_on() && holder.lives_on().await {
            kept.kept.set();
            return Ok(match ended {
                Ended::Left => Outcome::SUCCESS,
                _ => Outcome::Lost(Fault::new(
                    "the client was lost; the call goes on without it",
                )),
            });
        }
    }
    Ok(holder.outcome(ended, &call).await)
}

/// What a holder is told of a call.
fn opening(
    launcher: &Launcher,
    user: Option<&User>,
    module: &str,
    call: &mut Call,
    kept: Option<&Persistence>,
) -> Bytes {
    let mut opening = Opening::new(call, module, launcher.inline_bytes);
    opening.account = Some(launcher.account(user));
    if let (Some(kept), Some(sessions)) = (kept, &launcher.sessions) {
        let mut facts = SessionFolder::facts(call, module, launcher.user_name(user));
        facts.summary.clone_from(&kept.summary);
        facts.name.clone_from(&kept.keeping.name);
        facts.terminal = kept.keeping.terminal;
        opening.keep(kept.keeping.clone(), sessions.seal(&facts));
    }
    opening.encode_to_vec().into()
}

async fn start(
    launcher: &Launcher,
    user: Option<&User>,
    call: &Call,
    kept: Option<&Persistence>,
) -> Result<(Holder, Sockets), Outcome> {
    let started = Holder::start(launcher, user, kept.is_some()).await;
    let started = started.map_err(|error| {
        tracing::error!(parent: call.span(), %error, "cannot start a holder");
        let fault = Fault::new("the server cannot start a process for the call")
            .with_hint("the server's log tells why; it may have too many processes or open files");
        Outcome::Unavailable(fault)
    })?;
    if let Some(kept) = kept {
        // The client may count on being waited for from now on.
        kept.taken.send_replace(Some(Taken::default()));
    }
    Ok(started)
}

/// Tells a holder that its outcome has arrived, so that it may go.
async fn acknowledge(mut control: OwnedWriteHalf, received: watch::Receiver<u64>) {
    if is_fetched(received).await {
        // A holder that has gone needs no telling.
        frame::write(&mut control, Frame::Received(FETCHED))
            .await
            .ok();
    }
}

/// How a relay ended.
#[derive(Debug)]
pub(crate) enum Ended {
    Told(Outcome),
    /// The client is lost; the call goes on.
    ClientLost,
    /// The client leaves; the call goes on.
    Left,
    /// The holder's end of the data socket closed before it told an outcome.
    Lost,
    Misbehaved(PumpError),
    Overdue,
}

impl Ended {
    fn may_go_on(&self) -> bool {
        matches!(self, Self::Left | Self::ClientLost | Self::Lost)
    }
}

/// Runs the pumps of a call until it ends. `kill_at` is set when it is cancelled.
async fn relay(
    link: &mut Link,
    controls: Controls,
    call: &mut Call,
    channel: Channel,
    kill_at: &mut Option<Instant>,
    kept: Option<&Persistence>,
) -> Ended {
    let Link {
        writer,
        reader,
        control_writer,
        control_reader,
        notices,
    } = link;
    let (to_client, from_client) = channel.split();
    let cancellation = call.cancellation.clone();
    // The end of the data socket tells that the holder has gone, so that the other pumps need not.
    let upload = async {
        if writer.pump(from_client, &cancellation).await.is_ok() {
            writer.write(Frame::End).await.ok();
        }
        std::future::pending().await
    };
    let received = kept.map(|kept| kept.received.clone());
    let opened = CancellationToken::new();
    let control = async {
        controls
            .pump(
                control_writer,
                &mut call.controls,
                &cancellation,
                notices,
                received,
                &opened,
            )
            .await
            .ok();
        std::future::pending().await
    };
    let replies = async {
        match control_reader.pump(|frame| reply(kept, frame)).await {
            Err(error) if !error.is_loss() => Ended::Misbehaved(error),
            _ => std::future::pending().await,
        }
    };
    let overdue = async {
        cancellation.cancelled().await;
        let at = Instant::now() + KILL_AFTER;
        *kill_at = Some(at);
        tokio::time::sleep_until(at).await;
    };
    let left = async {
        match kept {
            Some(kept) => kept.lost.cancelled().await,
            None => return std::future::pending().await,
        }
        // A holder that has not been told its call yet could not go on with it.
        opened.cancelled().await;
        // A client that goes after a goodbye is not lost: the holder must hear the goodbye.
        if cancellation.is_cancelled() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        end = reader.pump(to_client, &cancellation) => match end {
            Ok(Some(Frame::Outcome(outcome))) => told(outcome),
            Ok(Some(Frame::Left)) if kept.is_some() => Ended::Left,
            Ok(Some(_)) => Ended::Misbehaved(PumpError::Misplaced),
            Ok(None) => Ended::Lost,
            Err(error) if error.is_loss() => Ended::Lost,
            Err(error) => Ended::Misbehaved(error),
        },
        ended = upload => ended,
        ended = control => ended,
        ended = replies => ended,
        () = left => Ended::ClientLost,
        () = overdue => Ended::Overdue,
    }
}

/// What the holder of a kept call says beside its messages.
fn reply(kept: Option<&Persistence>, frame: Frame) -> Result<(), PumpError> {
    match (kept, frame) {
        (Some(kept), Frame::Taken { messages, next }) => {
            kept.taken.send_replace(Some(Taken { messages, next }));
            Ok(())
        }
        _ => Err(PumpError::Misplaced),
    }
}

fn told(outcome: Bytes) -> Ended {
    match wire::Outcome::decode(outcome) {
        Ok(outcome) => Ended::Told(outcome.into()),
        Err(_) => Ended::Misbehaved(PumpError::Unintelligible),
    }
}

/// What is written to the control socket.
struct Controls {
    start: Vec<u8>,
    /// The call, unless it is opened already.
    opening: Option<Bytes>,
}

impl Controls {
    async fn pump(
        self,
        socket: &mut OwnedWriteHalf,
        controls: &mut ControlReceiver,
        cancellation: &CancellationToken,
        notices: &Notices,
        mut received: Option<watch::Receiver<u64>>,
        opened: &CancellationToken,
    ) -> io::Result<()> {
        socket.write_all(&self.start).await?;
        if let Some(opening) = self.opening {
            frame::write(socket, Frame::Opening(opening)).await?;
        }
        opened.cancel();
        let (mut cancelled, mut open) = (false, true);
        loop {
            let frame = tokio::select! {
                biased;
                () = cancellation.cancelled(), if !cancelled => {
                    cancelled = true;
                    control_frame(Control::Cancel)
                }
                control = controls.receive(), if open => match control {
                    Some(control) => control_frame(control),
                    None => {
                        open = false;
                        continue;
                    }
                },
                notice = notices.next() => notice,
                count = acknowledged(&mut received) => Frame::Received(count),
            };
            frame::write(socket, frame).await?;
        }
    }
}

/// Waits until the client has acknowledged more of a kept call's messages.
async fn acknowledged(received: &mut Option<watch::Receiver<u64>>) -> u64 {
    match received {
        Some(watched) => match watched.changed().await {
            Ok(()) => *watched.borrow_and_update(),
            Err(_) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

fn control_frame(control: Control) -> Frame {
    let request = wire::ControlRequest {
        call_id: String::new(),
        control: Some(control.into()),
    };
    Frame::Control(request.encode_to_vec().into())
}
