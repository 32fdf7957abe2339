//! An external module as a module like any other.

use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use bytes::Bytes;
use legatus_core::{
    Arguments, BoxFuture, Call, Caller, Channel, Commander, Control, Fault, Inspection, Local,
    Module, Origin, Outcome, Request, Sender, Spec,
};
use tokio::sync::{Semaphore, mpsc};

use super::asks::Surroundings;
use super::description::Description;
use super::fault::Failure;
use super::generic;
use super::log::CallLog;
use super::manifest::Limits;
use super::runner::{Runner, Sending};
use crate::user::Users;

/// Bytes of a call's summary in the audit; the server cuts it, too.
const SUMMARY_BYTES: usize = 1 << 10;

/// An external module. Running calls hold it, so that a newer one can take its place meanwhile.
pub(crate) struct External {
    spec: Spec,
    /// `VENDOR/NAME`.
    qualified: String,
    has_commander: bool,
    has_sender: bool,
    runner: Arc<dyn Runner>,
    limits: Limits,
    origin: Origin,
    users: Users,
    /// The calls that may run at the same time.
    places: Semaphore,
}

impl External {
    pub(crate) fn new(
        vendor: &str,
        description: &Description,
        runner: Arc<dyn Runner>,
        limits: Limits,
        origin: Origin,
        users: Users,
    ) -> Self {
        Self {
            spec: description.spec(),
            qualified: format!("{vendor}/{}", description.name),
            has_commander: description.commander,
            has_sender: description.sender,
            runner,
            limits,
            origin,
            users,
            places: Semaphore::new(usize::try_from(limits.calls).unwrap_or(1)),
        }
    }

    async fn run_sender(
        &self,
        arguments: Arguments,
        caller: &dyn Caller,
        local: &dyn Local,
    ) -> Result<Outcome, Fault> {
        let (asks, asked) = mpsc::channel(1);
        let mut surroundings = Surroundings::new(&self.spec, &arguments, caller, local);
        let given = self.spec.arguments.iter();
        let given = given.filter(|argument| arguments.is_given(&argument.name));
        let given = given.map(|argument| {
            let values = arguments.all(&argument.name).iter();
            let values = values.map(|value| Bytes::copy_from_slice(value.as_bytes()));
            (argument.name.to_string(), values.collect())
        });
        let span = tracing::info_span!("sender", module = self.qualified);
        let log = CallLog::new(&self.qualified, span, self.limits.log_lines);
        surroundings.log = Some(log.clone());
        let sending = Sending {
            arguments: given.collect(),
            asks,
            cancellation: surroundings.cancellation(),
            log: log.clone(),
        };
        let running = self.runner.send(&self.spec.name, sending);
        let (ended, ()) = tokio::join!(running, surroundings.serve(asked));
        log.tell_usage("client", &self.limits);
        ended.map_err(|failure| failure.fault(&self.qualified))
    }
}

impl Module for External {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn commander(&self) -> Option<&dyn Commander> {
        self.has_commander.then_some(self)
    }

    fn sender(&self) -> Option<&dyn Sender> {
        Some(self)
    }

    fn origin(&self) -> Origin {
        self.origin.clone()
    }
}

impl Commander for External {
    fn inspect(&self, request: &Request) -> Result<Inspection, Fault> {
        let words = request
            .arguments
            .iter()
            .map(|one| String::from_utf8_lossy(one));
        let mut summary = String::new();
        for word in words {
            if summary.len() > SUMMARY_BYTES {
                break;
            }
            if !summary.is_empty() {
                summary.push(' ');
            }
            summary.push_str(&word);
        }
        summary.truncate(summary.floor_char_boundary(SUMMARY_BYTES));
        Ok(Inspection {
            effects: self.spec.effects,
            summary,
        })
    }

    fn execute(&self, mut call: Call, channel: Channel) -> BoxFuture<'_, Result<Outcome, Fault>> {
        Box::pin(async move {
            if let Err(fault) = self.users.of(call.peer().identity()) {
                return Ok(Outcome::Denied(fault));
            }
            let Ok(_place) = self.places.try_acquire() else {
                let limit = Failure::Limit(format!("{} calls at the same time", self.limits.calls));
                return Ok(Outcome::Unavailable(limit.fault(&self.qualified)));
            };
            let log = CallLog::new(&self.qualified, call.span().clone(), self.limits.log_lines);
            // The contract knows no signals: each means that the call is to end.
            let cancellation = call.cancellation.child_token();
            call.cancellation = cancellation.clone();
            let mut controls = std::mem::replace(&mut call.controls, Control::queue().1);
            let mut received = None;
            let signals = async {
                while let Some(control) = controls.receive().await {
                    if let Control::Signal(signal) = control {
                        received = Some(signal);
                        cancellation.cancel();
                    }
                }
                std::future::pending().await
            };
            let ended = tokio::select! {
                ended = self.runner.execute(&self.spec.name, call, channel, log.clone()) => ended,
                never = signals => never,
            };
            log.tell_usage("server", &self.limits);
            match (ended, received) {
                (Err(Failure::Cancelled), Some(signal)) => Ok(Outcome::Signal(signal)),
                (ended, _) => ended.map_err(|failure| failure.fault(&self.qualified)),
            }
        })
    }
}

impl Sender for External {
    fn send<'a>(
        &'a self,
        arguments: Arguments,
        caller: &'a dyn Caller,
        local: &'a dyn Local,
    ) -> BoxFuture<'a, Result<Outcome, Fault>> {
        if self.has_sender {
            Box::pin(self.run_sender(arguments, caller, local))
        } else {
            Box::pin(generic::send(&self.spec, arguments, caller, local))
        }
    }
}
