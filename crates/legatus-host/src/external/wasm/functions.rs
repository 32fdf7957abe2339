//! The functions that a guest may call.

use bytes::Bytes;
use legatus_core::{ChannelClosed, Fault, Outcome, Stream};

use super::bindings::legatus::module::types::{self, ChannelError};
use super::bindings::legatus::module::{caller, channel, host, local};
use super::state::{State, Talk};
use crate::external::asks::{Ask, ask};

impl types::Host for State {}

impl Talk {
    /// Waits for a message without taking it; false at the end.
    async fn fill(&mut self) -> Result<bool, ChannelError> {
        if self.pending.is_none() {
            let receiver = self.receiver.as_mut().ok_or(ChannelError::Gone)?;
            self.pending = tokio::select! {
                biased;
                message = receiver.receive() => message,
                () = self.cancellation.cancelled() => return Err(ChannelError::Cancelled),
            };
        }
        Ok(self.pending.is_some())
    }

    async fn receive(&mut self) -> Result<Option<Bytes>, ChannelError> {
        self.end_told |= !self.fill().await?;
        Ok(self.pending.take())
    }

    async fn send(&self, message: Bytes) -> Result<(), ChannelError> {
        let sender = self.sender.as_ref().ok_or(ChannelError::Gone)?;
        let sent = tokio::select! {
            biased;
            sent = sender.send(message) => sent,
            () = self.cancellation.cancelled() => return Err(ChannelError::Cancelled),
        };
        sent.map_err(|error| match error {
            ChannelClosed::Gone => ChannelError::Gone,
            ChannelClosed::TooLong(_) => ChannelError::TooLong,
        })
    }
}

impl channel::Host for State {
    async fn receive(&mut self) -> wasmtime::Result<Result<Option<Vec<u8>>, ChannelError>> {
        let message = self.talk.receive().await;
        Ok(message.map(|message| message.map(Vec::from)))
    }

    async fn send(&mut self, message: Vec<u8>) -> wasmtime::Result<Result<(), ChannelError>> {
        Ok(self.talk.send(message.into()).await)
    }

    async fn finish(&mut self) -> wasmtime::Result<()> {
        self.talk.sender = None;
        if let Some(asks) = &self.talk.asks {
            asks.send(Ask::Finish).await.ok(); // the call may have ended
        }
        Ok(())
    }
}

impl host::Host for State {
    async fn log(&mut self, level: host::Level, text: String) -> wasmtime::Result<()> {
        let level = match level {
            host::Level::Trace => tracing::Level::TRACE,
            host::Level::Debug => tracing::Level::DEBUG,
            host::Level::Info => tracing::Level::INFO,
            host::Level::Warn => tracing::Level::WARN,
            host::Level::Error => tracing::Level::ERROR,
        };
        self.log.line(level, &text);
        // A guest that only logs must let others run.
        tokio::task::consume_budget().await;
        Ok(())
    }

    async fn wait(&mut self, milliseconds: Option<u64>) -> wasmtime::Result<host::Readiness> {
        let cancellation = self.talk.cancellation.clone();
        let time = async {
            match milliseconds {
                Some(time) => tokio::time::sleep(std::time::Duration::from_millis(time)).await,
                None => std::future::pending().await,
            }
        };
        let can_receive = self.talk.receiver.is_some() && !self.talk.end_told;
        Ok(tokio::select! {
            biased;
            () = cancellation.cancelled() => host::Readiness::CANCELLED,
            // The end can be received as well.
            _ = self.talk.fill(), if can_receive => host::Readiness::MESSAGE,
            () = time => host::Readiness::empty(),
        })
    }
}

impl caller::Host for State {
    async fn open(
        &mut self,
        arguments: Vec<Vec<u8>>,
    ) -> wasmtime::Result<Result<(), types::Fault>> {
        let arguments = arguments.into_iter().map(Bytes::from).collect();
        let opened = self.ask(|to| Ask::Open(arguments, to)).await?;
        Ok(match opened {
            Ok((sender, receiver)) => {
                self.talk.sender = Some(sender);
                self.talk.receiver = Some(receiver);
                Ok(())
            }
            Err(fault) => Err(fault.into()),
        })
    }

    async fn wait_outcome(&mut self) -> wasmtime::Result<types::Outcome> {
        self.talk.sender = None;
        Ok(self.ask(Ask::Outcome).await?.into())
    }
}

impl local::Host for State {
    async fn read_input(&mut self) -> wasmtime::Result<Result<Option<Vec<u8>>, String>> {
        Ok(self.ask(Ask::ReadInput).await?.map(some_unless_empty))
    }

    async fn write_output(&mut self, bytes: Vec<u8>) -> wasmtime::Result<Result<(), String>> {
        self.ask(|to| Ask::Write(Stream::Stdout, bytes.into(), to))
            .await
    }

    async fn write_error(&mut self, bytes: Vec<u8>) -> wasmtime::Result<Result<(), String>> {
        self.ask(|to| Ask::Write(Stream::Stderr, bytes.into(), to))
            .await
    }

    async fn open_file(&mut self, name: Vec<u8>) -> wasmtime::Result<Result<u32, String>> {
        self.ask(|to| Ask::OpenFile(name.into(), to)).await
    }

    async fn read_file(&mut self, file: u32) -> wasmtime::Result<Result<Option<Vec<u8>>, String>> {
        let read = self.ask(|to| Ask::ReadFile(file, to)).await?;
        Ok(read.map(some_unless_empty))
    }

    async fn close_file(&mut self, file: u32) -> wasmtime::Result<()> {
        if let Some(asks) = self.talk.asks.clone() {
            // Nobody answers this one.
            asks.send(Ask::CloseFile(file)).await.ok();
        }
        Ok(())
    }
}

impl State {
    /// Asks the caller's side; a server half has none.
    fn ask<T: Send + 'static>(
        &self,
        make: impl FnOnce(tokio::sync::oneshot::Sender<T>) -> Ask + Send,
    ) -> impl Future<Output = wasmtime::Result<T>> + Send {
        let asks = self.talk.asks.clone();
        async move {
            let Some(asks) = asks else {
                return Err(wasmtime::Error::msg(
                    "a server half called a function that only client halves have",
                ));
            };
            let answer = ask(&asks, make).await;
            answer.ok_or_else(|| wasmtime::Error::msg("the call has ended"))
        }
    }
}

fn some_unless_empty(bytes: Bytes) -> Option<Vec<u8>> {
    (!bytes.is_empty()).then(|| bytes.into())
}

impl From<Fault> for types::Fault {
    fn from(fault: Fault) -> Self {
        Self {
            message: fault.message().to_owned(),
            hint: fault.hint().map(str::to_owned),
        }
    }
}

impl From<types::Fault> for Fault {
    fn from(fault: types::Fault) -> Self {
        let told = Self::new(fault.message);
        match fault.hint {
            Some(hint) => told.with_hint(hint),
            None => told,
        }
    }
}

impl From<Outcome> for types::Outcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Exit(status) => Self::Exit(status),
            Outcome::Signal(signal) => Self::Signal(signal),
            Outcome::Timeout => Self::Timeout,
            Outcome::Cancelled => Self::Cancelled,
            Outcome::Denied(fault) => Self::Denied(fault.into()),
            Outcome::Unavailable(fault) => Self::Unavailable(fault.into()),
            Outcome::Lost(fault) => Self::Lost(fault.into()),
            Outcome::Failed(fault) => Self::Failed(fault.into()),
        }
    }
}

impl From<types::Outcome> for Outcome {
    fn from(outcome: types::Outcome) -> Self {
        match outcome {
            types::Outcome::Exit(status) => Self::Exit(status),
            types::Outcome::Signal(signal) => Self::Signal(signal),
            types::Outcome::Timeout => Self::Timeout,
            types::Outcome::Cancelled => Self::Cancelled,
            types::Outcome::Denied(fault) => Self::Denied(fault.into()),
            types::Outcome::Unavailable(fault) => Self::Unavailable(fault.into()),
            types::Outcome::Lost(fault) => Self::Lost(fault.into()),
            types::Outcome::Failed(fault) => Self::Failed(fault.into()),
        }
    }
}
