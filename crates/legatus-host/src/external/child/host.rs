//! The host's side of a module in a process of its own.

use std::convert::Infallible;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use legatus_core::{BoxFuture, Call, Channel, Outcome};
use tokio::io::{AsyncRead, AsyncReadExt};
use tracing::Level;

use super::conversation::{Conversation, Ended};
use super::process::{ChildSettings, Form, died};
use super::protocol::{
    Descriptions, Done, Execute, Frame, FrameError, Given, Kind, PROTOCOL, Send,
};
use crate::external::description::{Description, MODULES};
use crate::external::fault::Failure;
use crate::external::log::{CallLog, Lines};
use crate::external::runner::{Runner, Sending, impatience, milliseconds_left};
use crate::user::User;

/// What describing itself may take. An interpreter has to start for it.
const DESCRIBE_WITHIN: Duration = Duration::from_secs(10);

/// Bytes of standard error that are read at once.
const ERROR_BYTES: usize = 4 << 10;

/// How often at most that is read of what a module left behind: a pipe holds 64 KiB.
const LAST_READS: usize = 64;

/// A module that runs in a process of its own.
pub(crate) struct ChildModule {
    pub(crate) settings: ChildSettings,
}

impl ChildModule {
    /// What the artefact tells about its modules.
    pub(crate) async fn describe(&self) -> Result<Vec<Description>, Failure> {
        let log = CallLog::new("(describing)", tracing::Span::none(), 20);
        let describing = async {
            let user = self.settings.users.for_describing();
            // That of the calls belongs to another runtime.
            let fork_server = self.settings.fork_server.another();
            let (mut process, mut socket, stderr) =
                self.settings.spawn(&fork_server, user.as_ref()).await?;
            let answer = async {
                // A host that died already is told below.
                Frame::empty(Kind::Describe).write(&mut socket).await.ok();
                loop {
                    let frame = Frame::read(&mut socket).await?;
                    if frame.kind != Kind::Log {
                        return Ok(frame);
                    }
                }
            };
            let mut errors = Errors::new(stderr, log);
            let answer = tokio::select! {
                answer = answer => answer,
                never = errors.note_for_ever() => match never {},
            };
            errors.note_rest();
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

    /// Tells what native code asks for and was not granted: the kernel, which denies it, tells nobody.
    /// Components tell when they look for it.
    fn tell_of_missing(&self, log: &CallLog) {
        if matches!(self.settings.form, Form::Library | Form::Executable) {
            for what in self.settings.denied.iter() {
                log.line(Level::WARN, &format!("denied: `{what}` is not granted"));
            }
        }
    }

    async fn converse(
        &self,
        user: Option<&User>,
        first: Frame,
        mut conversation: Conversation,
    ) -> Result<Outcome, Failure> {
        let (mut process, mut socket, stderr) = self
            .settings
            .spawn(&self.settings.fork_server, user)
            .await?;
        conversation.process = process.id();
        let cancellation = conversation.cancellation.clone();
        let log = conversation.log.clone();
        // A host that died already is told below.
        first.write(&mut socket).await.ok();
        let mut errors = Errors::new(stderr, log);
        let ended = tokio::select! {
            ended = conversation.run(socket) => ended,
            never = errors.note_for_ever() => match never {},
            () = impatience(&cancellation) => return Err(Failure::Cancelled),
        };
        let outcome = match ended {
            Ok(done) => done.outcome(),
            Err(Ended::Lost) => Err(died(process.end().await, &self.settings.limits)),
            Err(Ended::Misbehaved(what)) => Err(Failure::Protocol(what)),
        };
        errors.note_rest();
        outcome
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
            let user = self.settings.users.of(call.peer().identity());
            let user = user.map_err(|fault| Failure::Host(fault.to_string()))?;
            self.tell_of_missing(&log);
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
                process: None,
            };
            let first = Frame::json(Kind::Execute, &asked);
            let first = first.map_err(|error| Failure::Host(error.to_string()))?;
            self.converse(user, first, conversation).await
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
                process: None,
            };
            let first = Frame::json(Kind::Send, &asked);
            let first = first.map_err(|error| Failure::Host(error.to_string()))?;
            let user = self.settings.users.run_as.as_ref();
            self.converse(user, first, conversation).await
        })
    }
}

/// What a module writes to standard error, on its way to the log.
struct Errors<R> {
    stderr: R,
    lines: Lines,
    ended: bool,
}

impl<R: AsyncRead + Unpin> Errors<R> {
    fn new(stderr: R, log: CallLog) -> Self {
        Self {
            stderr,
            lines: Lines::new(log, Level::WARN),
            ended: false,
        }
    }

    /// Notes what comes. Nothing is lost when this is dropped.
    async fn note_for_ever(&mut self) -> Infallible {
        while !self.ended {
            self.note().await;
        }
        std::future::pending().await
    }

    /// Notes what is there already: the last words of a module that has just ended.
    fn note_rest(mut self) {
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..LAST_READS {
            let noted = tokio::task::unconstrained(self.note());
            if pin!(noted).poll(&mut context).is_pending() {
                return;
            }
        }
    }

    async fn note(&mut self) {
        let mut buffer = [0; ERROR_BYTES];
        match self.stderr.read(&mut buffer).await {
            Ok(length) if length > 0 => self.lines.push(buffer.get(..length).unwrap_or_default()),
            _ => self.ended = true,
        }
    }
}
