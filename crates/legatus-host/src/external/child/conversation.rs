//! One call of a half in a process of its own: frames in both directions, on the host's side.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use legatus_core::{ChannelReceiver, ChannelSender, Fault, Stream};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::Level;

use super::protocol::{Done, Frame, FrameError, Kind, Told};
use crate::external::asks::{Ask, ask};
use crate::external::log::CallLog;
use crate::external::usage::Used;

/// Messages that a module may ask for ahead.
const AHEAD: usize = 1024;

/// Frames that wait to be written to a module beside messages: one reply, and the cancellation.
const REPLIES: usize = 4;

/// How a conversation ended without the module saying so.
pub(super) enum Ended {
    Lost,
    Misbehaved(String),
}

impl From<FrameError> for Ended {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Closed | FrameError::Socket(_) => Self::Lost,
            other => Self::Misbehaved(other.to_string()),
        }
    }
}

/// One call of a half.
pub(super) struct Conversation {
    pub(super) sender: Option<ChannelSender>,
    pub(super) receiver: Option<ChannelReceiver>,
    pub(super) asks: Option<mpsc::Sender<Ask>>,
    pub(super) cancellation: CancellationToken,
    pub(super) log: CallLog,
    /// The module's process, which is measured when it is done.
    pub(super) process: Option<u32>,
}

impl Conversation {
    pub(super) async fn run(&mut self, socket: UnixStream) -> Result<Done, Ended> {
        let (read, write) = socket.into_split();
        let credit = Semaphore::new(0);
        let (replies, to_write) = mpsc::channel(REPLIES);
        let (receivers, opened) = mpsc::channel(1);
        if let Some(receiver) = self.receiver.take() {
            receivers.send(receiver).await.ok();
        }
        let cancellation = self.cancellation.clone();
        let incoming = self.take(read, &credit, &replies, &receivers);
        let outgoing = give(write, &credit, to_write, opened, &cancellation);
        tokio::select! {
            done = incoming => done,
            // Nobody takes what we write; how it ended is told by what we read.
            () = outgoing => Err(Ended::Lost),
        }
    }

    /// Takes frames from the module until it is done.
    async fn take(
        &mut self,
        mut socket: OwnedReadHalf,
        credit: &Semaphore,
        replies: &mpsc::Sender<Frame>,
        receivers: &mpsc::Sender<ChannelReceiver>,
    ) -> Result<Done, Ended> {
        loop {
            let frame = Frame::read(&mut socket).await?;
            match frame.kind {
                Kind::Message => {
                    if let Some(sender) = &self.sender {
                        // When nobody listens any more, the call's end is near.
                        sender.send(frame.payload).await.ok();
                    }
                }
                Kind::End => {
                    self.sender = None;
                    if let Some(asks) = &self.asks {
                        asks.send(Ask::Finish).await.ok();
                    }
                }
                Kind::Pull => {
                    let more = frame.number().map_or(0, |more| more as usize);
                    let room = AHEAD.saturating_sub(credit.available_permits());
                    credit.add_permits(more.min(room));
                }
                Kind::Log => self.note(&frame.payload),
                Kind::Done => {
                    let done: Result<Done, _> = frame.parse();
                    let measure = || self.process.map(Used::of_process).unwrap_or_default();
                    self.log.used(measure);
                    self.sender = None;
                    return done.map_err(|error| Ended::Misbehaved(format!("its end: {error}")));
                }
                Kind::CloseFile => {
                    let (Some(asks), Some(file)) = (&self.asks, frame.number()) else {
                        continue;
                    };
                    asks.send(Ask::CloseFile(file)).await.ok();
                }
                _ => {
                    let reply = self.answer(frame, receivers).await?;
                    if replies.send(reply).await.is_err() {
                        return Err(Ended::Lost);
                    }
                }
            }
        }
    }

    fn note(&self, payload: &[u8]) {
        let Some((level, text)) = payload.split_first() else {
            return;
        };
        let level = match level {
            0 => Level::TRACE,
            1 => Level::DEBUG,
            2 => Level::INFO,
            3 => Level::WARN,
            _ => Level::ERROR,
        };
        self.log.line(level, &String::from_utf8_lossy(text));
    }

    /// The answer to what a client half asks.
    async fn answer(
        &mut self,
        frame: Frame,
        receivers: &mpsc::Sender<ChannelReceiver>,
    ) -> Result<Frame, Ended> {
        let asks = self.asks.clone().ok_or_else(|| {
            Ended::Misbehaved("a server half asked for what only client halves have".to_owned())
        })?;
        let payload = frame.payload.clone();
        match frame.kind {
            Kind::Open => {
                let arguments = arguments(&frame).map_err(Ended::Misbehaved)?;
                let opened = ask(&asks, |to| Ask::Open(arguments, to)).await;
                match opened.ok_or(Ended::Lost)? {
                    Ok((sender, receiver)) => {
                        self.sender = Some(sender);
                        receivers.send(receiver).await.ok();
                        Ok(reply(Ok(Bytes::new())))
                    }
                    Err(fault) => Ok(reply(Err(told_fault(&fault)))),
                }
            }
            Kind::Outcome => {
                self.sender = None;
                let outcome = ask(&asks, Ask::Outcome).await.ok_or(Ended::Lost)?;
                let told = serde_json::to_vec(&Told::from(outcome));
                let told = told.map_err(|error| Ended::Misbehaved(error.to_string()))?;
                Ok(reply(Ok(told.into())))
            }
            Kind::ReadInput => {
                let read = ask(&asks, Ask::ReadInput).await.ok_or(Ended::Lost)?;
                Ok(reply_bytes(read))
            }
            Kind::WriteOutput | Kind::WriteError => {
                let stream = match frame.kind {
                    Kind::WriteOutput => Stream::Stdout,
                    _ => Stream::Stderr,
                };
                let written = ask(&asks, |to| Ask::Write(stream, payload, to)).await;
                Ok(reply(written.ok_or(Ended::Lost)?.map(|()| Bytes::new())))
            }
            Kind::OpenFile => {
                let opened = ask(&asks, |to| Ask::OpenFile(payload, to)).await;
                let opened = opened.ok_or(Ended::Lost)?;
                if let Err(refusal) = &opened {
                    self.log.line(Level::WARN, refusal);
                }
                let id = opened.map(|id| Bytes::copy_from_slice(&id.to_le_bytes()));
                Ok(reply(id))
            }
            Kind::ReadFile => {
                let file = frame.number();
                let file = file.ok_or_else(|| Ended::Misbehaved("no number".to_owned()))?;
                let read = ask(&asks, |to| Ask::ReadFile(file, to)).await;
                Ok(reply_bytes(read.ok_or(Ended::Lost)?))
            }
            other => Err(Ended::Misbehaved(format!(
                "a frame {other:?} in the wrong place"
            ))),
        }
    }
}

/// Gives the module what it asked for, until it takes nothing more.
async fn give(
    mut socket: OwnedWriteHalf,
    credit: &Semaphore,
    mut replies: mpsc::Receiver<Frame>,
    mut opened: mpsc::Receiver<ChannelReceiver>,
    cancellation: &CancellationToken,
) {
    let mut receiver: Option<ChannelReceiver> = None;
    let mut cancelled = false;
    loop {
        let message = async {
            match (credit.acquire().await, &mut receiver) {
                (Ok(permit), Some(receiver)) => {
                    let message = receiver.receive().await;
                    permit.forget();
                    message
                }
                _ => std::future::pending().await,
            }
        };
        let frame = tokio::select! {
            biased;
            () = cancellation.cancelled(), if !cancelled => {
                cancelled = true;
                Frame::empty(Kind::Cancel)
            }
            Some(reply) = replies.recv() => reply,
            message = message => match message {
                Some(message) => Frame::new(Kind::Message, message),
                None => {
                    receiver = None;
                    Frame::empty(Kind::End)
                }
            },
            Some(new) = opened.recv() => {
                receiver = Some(new);
                continue;
            }
            else => std::future::pending().await,
        };
        if frame.write(&mut socket).await.is_err() {
            // It may have told how it ended just before.
            std::future::pending::<()>().await;
        }
    }
}

fn arguments(frame: &Frame) -> Result<Vec<Bytes>, String> {
    let arguments: Vec<String> = frame.parse().map_err(|error| error.to_string())?;
    let arguments = arguments
        .iter()
        .map(|one| BASE64.decode(one).map(Bytes::from));
    arguments
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())
}

fn reply(answer: Result<Bytes, String>) -> Frame {
    let (code, rest) = match &answer {
        Ok(bytes) => (0, bytes.as_ref()),
        Err(text) => (1, text.as_bytes()),
    };
    let mut payload = vec![code];
    payload.extend_from_slice(rest);
    Frame::new(Kind::Reply, payload)
}

/// No bytes mean that there are no more.
fn reply_bytes(answer: Result<Bytes, String>) -> Frame {
    match answer {
        Ok(bytes) if bytes.is_empty() => Frame::new(Kind::Reply, vec![2]),
        other => reply(other),
    }
}

fn told_fault(fault: &Fault) -> String {
    match fault.hint() {
        Some(hint) => format!("{fault}\nhint: {hint}"),
        None => fault.to_string(),
    }
}
