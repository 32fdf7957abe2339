//! The host's side of a module in a process of its own.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use legatus_core::{
    BoxFuture, Call, Channel, ChannelReceiver, ChannelSender, Fault, Outcome, Stream,
};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::Level;

use super::process::{ChildSettings, died};
use super::protocol::{
    Descriptions, Done, Execute, Frame, FrameError, Given, Kind, PROTOCOL, Send, Told,
};
use crate::external::asks::{Ask, ask};
use crate::external::description::{Description, MODULES};
use crate::external::fault::Failure;
use crate::external::log::{CallLog, Lines};
use crate::external::runner::{Runner, Sending, impatience, milliseconds_left};

/// What describing itself may take. An interpreter has to start for it.
const DESCRIBE_WITHIN: Duration = Duration::from_secs(10);

/// Messages that a module may ask for ahead.
const AHEAD: usize = 1024;

/// Frames that wait to be written to a module beside messages: one reply, and the cancellation.
const REPLIES: usize = 4;

/// A module that runs in a process of its own.
pub(crate) struct ChildModule {
    pub(crate) settings: ChildSettings,
}

impl ChildModule {
    /// What the artefact tells about its modules.
    pub(crate) async fn describe(&self) -> Result<Vec<Description>, Failure> {
        let log = CallLog::new("(describing)", tracing::Span::none(), 20);
        let describing = async {
            let (mut process, mut socket, stderr) = self.settings.spawn().await?;
            let answer = async {
                let asked = Frame::empty(Kind::Describe).write(&mut socket).await;
                asked.map_err(FrameError::from)?;
                loop {
                    let frame = Frame::read(&mut socket).await?;
                    if frame.kind != Kind::Log {
                        return Ok(frame);
                    }
                }
            };
            let answer = tokio::select! {
                answer = answer => answer,
                never = log_errors(stderr, log) => never,
            };
            match answer {
                Ok(frame) => Ok(frame),
                Err(FrameError::Closed | FrameError::Socket(_)) => {
                    Err(died(process.end().await, &self.settings.limits))
                }
                Err(error) => Err(Failure::Protocol(error.to_string())),
            }
        };
        let frame = tokio::time::timeout(DESCRIBE_WITHIN, describing).await;
        let frame = frame
            .map_err(|_| Failure::Limit(format!("{DESCRIBE_WITHIN:?} for describing itself")))??;
        described(&frame)
    }

    async fn converse(
        &self,
        first: Frame,
        mut conversation: Conversation,
    ) -> Result<Outcome, Failure> {
        let (mut process, mut socket, stderr) = self.settings.spawn().await?;
        let cancellation = conversation.cancellation.clone();
        let log = conversation.log.clone();
        // A host that died already is told below.
        first.write(&mut socket).await.ok();
        let ended = tokio::select! {
            ended = conversation.run(socket) => ended,
            never = log_errors(stderr, log) => never.map_err(|error: FrameError| error.into()),
            () = impatience(&cancellation) => return Err(Failure::Cancelled),
        };
        match ended {
            Ok(done) => done.outcome(),
            Err(Ended::Lost) => Err(died(process.end().await, &self.settings.limits)),
            Err(Ended::Misbehaved(what)) => Err(Failure::Protocol(what)),
        }
    }
}

fn described(frame: &Frame) -> Result<Vec<Description>, Failure> {
    let unintelligible =
        |error: serde_json::Error| Failure::Protocol(format!("its description: {error}"));
    match frame.kind {
        Kind::Description => {
            let told: Descriptions = frame.parse().map_err(unintelligible)?;
            if told.protocol != PROTOCOL {
                return Err(Failure::Unfit(format!(
                    "it was made for version {} of the protocol, this program speaks {PROTOCOL}",
                    told.protocol
                )));
            }
            if told.modules.is_empty() || told.modules.len() > MODULES {
                let count = told.modules.len();
                return Err(Failure::Unfit(format!("it describes {count} modules")));
            }
            Ok(told.modules)
        }
        Kind::Done => {
            let done: Done = frame.parse().map_err(unintelligible)?;
            Err(Failure::Unfit(done.fault.unwrap_or_else(|| {
                "it does not describe itself".to_owned()
            })))
        }
        _ => Err(Failure::Protocol("it does not describe itself".to_owned())),
    }
}

impl Runner for ChildModule {
    fn execute<'a>(
        &'a self,
        module: &'a str,
        call: Call,
        channel: Channel,
        log: CallLog,
    ) -> BoxFuture<'a, Result<Outcome, Failure>> {
        Box::pin(async move {
            let arguments = call.request.arguments.iter();
            let asked = Execute {
                module: module.to_owned(),
                id: call.id().to_string(),
                peer: call.peer().identity().to_owned(),
                arguments: arguments.map(|one| BASE64.encode(one)).collect(),
                milliseconds: milliseconds_left(&call),
            };
            let (sender, receiver) = channel.split();
            let conversation = Conversation {
                sender: Some(sender),
                receiver: Some(receiver),
                asks: None,
                cancellation: call.cancellation.clone(),
                log,
            };
            let first = Frame::json(Kind::Execute, &asked);
            let first = first.map_err(|error| Failure::Host(error.to_string()))?;
            self.converse(first, conversation).await
        })
    }

    fn send<'a>(
        &'a self,
        module: &'a str,
        sending: Sending,
    ) -> BoxFuture<'a, Result<Outcome, Failure>> {
        Box::pin(async move {
            let arguments = sending.arguments.into_iter().map(|(name, values)| Given {
                name,
                values: values.iter().map(|one| BASE64.encode(one)).collect(),
            });
            let asked = Send {
                module: module.to_owned(),
                arguments: arguments.collect(),
            };
            let conversation = Conversation {
                sender: None,
                receiver: None,
                asks: Some(sending.asks),
                cancellation: sending.cancellation,
                log: sending.log,
            };
            let first = Frame::json(Kind::Send, &asked);
            let first = first.map_err(|error| Failure::Host(error.to_string()))?;
            self.converse(first, conversation).await
        })
    }
}

/// Notes what a module writes to standard error; never ends by itself.
async fn log_errors<T, E>(mut stderr: impl AsyncRead + Unpin, log: CallLog) -> Result<T, E> {
    let mut lines = Lines::new(log, Level::WARN);
    let mut buffer = vec![0; 4096];
    loop {
        match stderr.read(&mut buffer).await {
            Ok(length) if length > 0 => lines.push(buffer.get(..length).unwrap_or_default()),
            _ => break,
        }
    }
    drop(lines);
    std::future::pending().await
}

/// How a conversation ended without the module saying so.
enum Ended {
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
struct Conversation {
    sender: Option<ChannelSender>,
    receiver: Option<ChannelReceiver>,
    asks: Option<mpsc::Sender<Ask>>,
    cancellation: CancellationToken,
    log: CallLog,
}

impl Conversation {
    async fn run(&mut self, socket: UnixStream) -> Result<Done, Ended> {
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
                Kind::End => self.sender = None,
                Kind::Pull => {
                    let more = frame.number().map_or(0, |more| more as usize);
                    let room = AHEAD.saturating_sub(credit.available_permits());
                    credit.add_permits(more.min(room));
                }
                Kind::Log => self.note(&frame.payload),
                Kind::Done => {
                    let done: Result<Done, _> = frame.parse();
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

impl Done {
    fn outcome(self) -> Result<Outcome, Failure> {
        match (self.exit, self.outcome, self.fault) {
            (_, _, Some(message)) => Err(Failure::Told {
                message,
                hint: self.hint,
            }),
            (_, Some(told), None) => told.outcome(),
            (Some(status), None, None) => Ok(Outcome::Exit(status)),
            (None, None, None) => Err(Failure::Protocol("it did not tell how it ended".to_owned())),
        }
    }
}

impl Told {
    fn outcome(self) -> Result<Outcome, Failure> {
        let fault = match self.hint {
            Some(hint) => Fault::new(self.message).with_hint(hint),
            None => Fault::new(self.message),
        };
        Ok(match self.kind.as_str() {
            "exit" => Outcome::Exit(self.status),
            "signal" => Outcome::Signal(self.status),
            "timeout" => Outcome::Timeout,
            "cancelled" => Outcome::Cancelled,
            "denied" => Outcome::Denied(fault),
            "unavailable" => Outcome::Unavailable(fault),
            "lost" => Outcome::Lost(fault),
            "failed" => Outcome::Failed(fault),
            other => return Err(Failure::Protocol(format!("an unknown outcome `{other}`"))),
        })
    }

    /// The outcome's number in the C contract.
    pub(super) fn number(&self) -> u32 {
        let kinds = [
            "exit",
            "signal",
            "timeout",
            "cancelled",
            "denied",
            "unavailable",
            "lost",
        ];
        let place = kinds.iter().position(|kind| *kind == self.kind);
        place
            .and_then(|place| u32::try_from(place).ok())
            .unwrap_or(7)
    }
}

impl From<Outcome> for Told {
    fn from(outcome: Outcome) -> Self {
        let fault = outcome.fault().cloned();
        Self {
            kind: outcome.kind().to_owned(),
            status: match outcome {
                Outcome::Exit(status) | Outcome::Signal(status) => status,
                _ => 0,
            },
            message: fault.as_ref().map(Fault::to_string).unwrap_or_default(),
            hint: fault.and_then(|fault| fault.hint().map(str::to_owned)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_survive_their_json() {
        let fault = || Fault::new("no").with_hint("later");
        for outcome in [
            Outcome::Exit(3),
            Outcome::Signal(9),
            Outcome::Timeout,
            Outcome::Cancelled,
            Outcome::Denied(fault()),
            Outcome::Unavailable(fault()),
            Outcome::Lost(fault()),
            Outcome::Failed(fault()),
        ] {
            assert_eq!(Told::from(outcome.clone()).outcome(), Ok(outcome));
        }
        let odd = Told {
            kind: "odd".into(),
            ..Told::default()
        };
        assert!(odd.outcome().is_err());
    }

    #[test]
    fn an_end_that_says_nothing_breaks_the_protocol() {
        assert!(matches!(
            Done::default().outcome(),
            Err(Failure::Protocol(_))
        ));
    }
}
