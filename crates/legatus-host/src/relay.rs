//! The server's side of a call in a holder.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use bytes::Bytes;
use legatus_core::{Call, Channel, Control, ControlReceiver, Fault, Outcome, wire};
use prost::Message;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::process::Child;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Launcher;
use crate::frame::{self, Frame, HEADER_BYTES};
use crate::holder::GRACE;
use crate::messages::Opening;
use crate::pump::{Link, Notices, PumpError};
use crate::slab::{self, End};

/// How long after its cancellation a holder is killed: the grace that it gives its Commander, and
/// a second to tell the outcome.
const KILL_AFTER: Duration = GRACE.saturating_add(Duration::from_secs(1));

/// How long a holder that has closed its sockets may take to exit.
const EXIT_WITHIN: Duration = Duration::from_secs(1);

/// Runs a call in a holder. When this is dropped the holder sees its sockets close, and is waited
/// for (or killed) by a task of its own.
pub(crate) async fn run(
    launcher: &Launcher,
    module: &str,
    mut call: Call,
    channel: Channel,
) -> Result<Outcome, Fault> {
    let opening = Opening::new(&mut call, module, launcher.inline_bytes).encode_to_vec();
    let (mut holder, sockets) = match Holder::start(launcher) {
        Ok(started) => started,
        Err(error) => {
            tracing::error!(parent: call.span(), %error, "cannot start a holder");
            let fault = Fault::new("the server cannot start a process for the call").with_hint(
                "the server's log tells why; it may have too many processes or open files",
            );
            return Ok(Outcome::Unavailable(fault));
        }
    };
    let controls = Controls {
        start: sockets.start,
        opening: opening.into(),
    };
    let streams = (sockets.data, sockets.control);
    let link = Link::new(End::Server, streams, sockets.memory, launcher.inline_bytes);
    let ended = relay(link, controls, &mut call, channel, &mut holder.kill_at).await;
    Ok(holder.outcome(ended, &call).await)
}

/// How a relay ended.
#[derive(Debug)]
enum Ended {
    Told(Outcome),
    /// The holder's end of the data socket closed before it told an outcome.
    Lost,
    Misbehaved(PumpError),
    Overdue,
}

/// The server's ends of a holder's sockets, and the shared memory.
#[derive(Debug)]
struct Sockets {
    data: UnixStream,
    control: UnixStream,
    memory: OwnedFd,
    /// What has yet to be written of the first control frame.
    start: Vec<u8>,
}

/// Runs the pumps of a call until it ends. `kill_at` is set when it is cancelled.
async fn relay(
    mut link: Link,
    controls: Controls,
    call: &mut Call,
    channel: Channel,
    kill_at: &mut Option<Instant>,
) -> Ended {
    let (to_client, from_client) = channel.split();
    let cancellation = call.cancellation.clone();
    // The end of the data socket tells that the holder has gone, so that the other pumps need not.
    let upload = async {
        if link.writer.pump(from_client, &cancellation).await.is_ok() {
            link.writer.write(Frame::End).await.ok();
        }
        std::future::pending().await
    };
    let notices = link.notices;
    let control = async {
        controls
            .pump(
                link.control_writer,
                &mut call.controls,
                &cancellation,
                &notices,
            )
            .await
            .ok();
        std::future::pending().await
    };
    let replies = async {
        match link
            .control_reader
            .pump(|_| Err(PumpError::Misplaced))
            .await
        {
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
    tokio::select! {
        end = link.reader.pump(to_client, &cancellation) => match end {
            Ok(Some(Frame::Outcome(outcome))) => told(outcome),
            Ok(Some(_)) => Ended::Misbehaved(PumpError::Misplaced),
            Ok(None) => Ended::Lost,
            Err(error) if error.is_loss() => Ended::Lost,
            Err(error) => Ended::Misbehaved(error),
        },
        ended = upload => ended,
        ended = control => ended,
        ended = replies => ended,
        () = overdue => Ended::Overdue,
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
    opening: Bytes,
}

impl Controls {
    async fn pump(
        self,
        mut socket: OwnedWriteHalf,
        controls: &mut ControlReceiver,
        cancellation: &CancellationToken,
        notices: &Notices,
    ) -> io::Result<()> {
        socket.write_all(&self.start).await?;
        frame::write(&mut socket, Frame::Opening(self.opening)).await?;
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
            };
            frame::write(&mut socket, frame).await?;
        }
    }
}

fn control_frame(control: Control) -> Frame {
    let request = wire::ControlRequest {
        call_id: String::new(),
        control: Some(control.into()),
    };
    Frame::Control(request.encode_to_vec().into())
}

/// A running holder; whatever happens, it is reaped.
#[derive(Debug)]
struct Holder {
    child: Option<Child>,
    /// When it is killed if it has not ended by itself.
    kill_at: Option<Instant>,
}

impl Holder {
    fn start(launcher: &Launcher) -> io::Result<(Self, Sockets)> {
        let (data, data_there) = StdUnixStream::pair()?;
        let (control, control_there) = StdUnixStream::pair()?;
        let memory = slab::create()?;
        let (mut start, payload) = Frame::User(launcher.start().encode_to_vec().into()).encode();
        send_with_descriptor(&control, &start, &memory)?;
        start.clear();
        start.extend_from_slice(&payload);
        data.set_nonblocking(true)?;
        control.set_nonblocking(true)?;
        let sockets = Sockets {
            data: UnixStream::from_std(data)?,
            control: UnixStream::from_std(control)?,
            memory,
            start,
        };
        let child = launcher.spawn(data_there.into(), control_there.into())?;
        let holder = Self {
            child: Some(child),
            kill_at: None,
        };
        Ok((holder, sockets))
    }

    async fn outcome(&mut self, ended: Ended, call: &Call) -> Outcome {
        let fault = match ended {
            Ended::Told(outcome) => return outcome,
            Ended::Lost => self.death().await,
            Ended::Misbehaved(error) => {
                self.kill();
                tracing::error!(parent: call.span(), %error, "a holder misbehaved and was killed");
                "the process that ran the call broke its protocol and was killed".to_owned()
            }
            Ended::Overdue => {
                self.kill();
                tracing::warn!(parent: call.span(), "a holder did not end in time and was killed");
                let seconds = KILL_AFTER.as_secs();
                format!(
                    "the process that ran the call did not end within {seconds} s of its \
                     cancellation and was killed"
                )
            }
        };
        Outcome::Lost(Fault::new(fault).with_hint("what it did until then stays done"))
    }

    /// Waits for a holder that has closed its sockets, and tells how it died.
    async fn death(&mut self) -> String {
        let told = "before it told how the call ended";
        let Some(child) = &mut self.child else {
            return format!("the process that ran the call ended {told}");
        };
        match tokio::time::timeout(EXIT_WITHIN, child.wait()).await {
            Ok(Ok(status)) => format!("the process that ran the call {} {told}", died(status)),
            Ok(Err(_)) => format!("the process that ran the call ended {told}"),
            Err(_) => {
                self.kill();
                format!("the process that ran the call closed its connection {told}")
            }
        }
    }

    fn kill(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended by itself already.
            child.start_kill().ok();
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let Some(child) = self.child.take() else {
            return;
        };
        let kill_at = self.kill_at.unwrap_or_else(|| Instant::now() + KILL_AFTER);
        // Without a runtime the server is ending; the holder sees that and ends too.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(reap(child, kill_at));
        }
    }
}

/// Waits for a holder that has nothing more to do; kills it if it takes too long.
async fn reap(mut child: Child, kill_at: Instant) {
    if tokio::time::timeout_at(kill_at, child.wait())
        .await
        .is_err()
    {
        tracing::warn!(
            process = child.id(),
            "a holder did not end in time and was killed"
        );
        child.kill().await.ok();
    }
}

fn died(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("was ended by signal {signal}"),
        (None, Some(code)) => format!("exited with status {code}"),
        (None, None) => "ended".to_owned(),
    }
}

/// Writes a frame's header and sends a descriptor along with it.
fn send_with_descriptor(
    socket: &StdUnixStream,
    header: &[u8],
    descriptor: &OwnedFd,
) -> io::Result<()> {
    let descriptors = [descriptor.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    let sent = rustix::net::sendmsg(
        socket,
        &[IoSlice::new(header)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    if sent == HEADER_BYTES {
        Ok(())
    } else {
        Err(io::Error::other("the socket did not take a whole header"))
    }
}
