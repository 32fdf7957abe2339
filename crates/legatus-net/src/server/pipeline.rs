//! What happens to a call: six steps, in one function that reads from top to bottom.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use legatus_core::{
    Attach, Call, CallId, Channel, ControlReceiver, Effects, Execution, Fault, Inspection, Kept,
    Module, Outcome, Peer, Permit, Persistence, Placement, Request, limits,
};
use tokio_util::sync::CancellationToken;

use super::State;
use super::running::Begun;
use crate::audit::{AuditedCall, Usage};
use crate::chain;

/// How long a Commander may clean up after its call was cancelled, before it is dropped. Longer
/// than a child process gets from its relay, so that the relay can tell how the child ended.
pub(super) const GRACE: Duration = Duration::from_secs(10);

/// Bytes of a request's summary in log and audit, at most: a long path and a few words.
const SUMMARY_BYTES: usize = 4 << 10;

/// A call that has arrived.
pub(super) struct Arrived {
    pub(super) id: CallId,
    pub(super) peer: Peer,
    /// The peer's address, for log and audit.
    pub(super) address: String,
    pub(super) module: String,
    /// The module's version that the client knows; empty if it does not care.
    pub(super) version: String,
    /// Fires when the caller has gone or has cancelled.
    pub(super) cancellation: CancellationToken,
    /// Why the call's input is refused, if it is; set before `cancellation` fires.
    pub(super) refused: Arc<OnceLock<Fault>>,
    /// Whether the call goes on without this client; `None` if it cannot.
    pub(super) kept: Option<Kept>,
    /// Attaches to a kept call instead of opening one.
    pub(super) attach: Option<Attach>,
}

/// What the Commander of an arrived call gets.
pub(super) struct Input {
    pub(super) request: Request,
    /// Messages from and to the caller.
    pub(super) channel: Channel,
    /// Signals and resizes from the caller.
    pub(super) controls: ControlReceiver,
    /// How the call is kept when its connection is lost, if it is.
    pub(super) persistence: Option<Persistence>,
}

impl State {
    /// Takes a call from its arrival to its one outcome. What remembers that it has begun is taken away
    /// if it was refused.
    pub(super) async fn run_call(
        self: &Arc<Self>,
        arrived: Arrived,
        input: Input,
        begun: &mut Option<Begun>,
    ) -> Outcome {
        let begins = begun.take();
        let arrived_at = Instant::now();

        // 1 find the module
        let (module, inspection) = match self.find_module(&arrived, &input.request) {
            Ok(found) => found,
            Err(outcome) => return self.refuse(&arrived, None, outcome),
        };

        // 2 policy
        let policy = self.policy.load_full();
        let permit = match policy.authorise(&arrived.peer, module.spec(), inspection.effects) {
            Ok(permit) => permit,
            Err(denied) => {
                let outcome = Outcome::Denied(Fault::from(&denied));
                return self.refuse(&arrived, Some((&*module, &inspection)), outcome);
            }
        };

        // 3 audit: a call that cannot be noted does not run
        let rule = permit.rule().to_owned();
        let audited = audited(&arrived, Some((&*module, &inspection)), Some(&rule));
        if let Err(error) = self.audit.begin(&audited, arrived.attach.is_some()) {
            tracing::error!(id = %arrived.id, error = %chain(&error), "call refused");
            let fault = Fault::new("the server cannot write its audit, so that it takes no calls");
            return Outcome::Unavailable(fault);
        }

        // 4 execute, under the deadline
        *begun = begins;
        let traffic = input.channel.traffic();
        let summary = inspection.summary.clone();
        let outcome = self
            .execute(&module, &arrived, permit, input, summary)
            .await;

        // 5 audit
        let usage = Usage {
            bytes_received: traffic.received(),
            bytes_sent: traffic.sent(),
            duration: arrived_at.elapsed(),
        };
        log_end(&audited, &outcome, usage);
        // Whoever opened a call, or found it without a client, notes its end.
        let goes_on = arrived.attach.is_some() || arrived.kept.as_ref().is_some_and(Kept::is_set);
        if let Err(error) = self.audit.end(&audited, &outcome, usage, goes_on) {
            tracing::error!(id = %arrived.id, error = %chain(&error), "the end of a call is missing in the audit");
        }

        // 6 always reply with one outcome
        outcome
    }

    /// Finds a module with a Commander, and lets it tell what the request would do.
    fn find_module(
        &self,
        arrived: &Arrived,
        request: &Request,
    ) -> Result<(Arc<dyn Module>, Inspection), Outcome> {
        // Draining alone refuses nothing: whoever was told of it calls elsewhere.
        if self.stopping.is_cancelled() {
            let fault = Fault::new("the server is shutting down and takes no more calls");
            return Err(Outcome::Unavailable(
                fault.with_hint("try again in a moment"),
            ));
        }
        let registry = self.registry.load();
        let module = registry
            .resolve(&arrived.module)
            .map_err(|unknown| Outcome::Unavailable(unknown.into()))?;
        let spec = module.spec();
        if !same_major(&arrived.version, &spec.version) {
            let fault = Fault::new(format!(
                "the server has `{}` {}, the client asks for {}",
                spec.name, spec.version, arrived.version
            ));
            return Err(Outcome::Unavailable(fault));
        }
        let Some(commander) = module.commander() else {
            let fault = Fault::new(format!(
                "the module `{}` has no server half here",
                spec.name
            ));
            return Err(Outcome::Unavailable(fault));
        };
        if request.size() > limits::REQUEST_BYTES {
            let fault = Fault::new(format!(
                "the request of {} bytes is longer than the limit of {}",
                request.size(),
                limits::REQUEST_BYTES
            ));
            return Err(Outcome::Failed(fault));
        }
        // It looks at what a peer has made up.
        if let Some(attach) = &arrived.attach {
            let inspection = Inspection {
                effects: spec.effects,
                summary: format!("attach {:?}", attach.session),
            };
            return Ok((Arc::clone(module), inspection));
        }
        let inspected = catch_unwind(AssertUnwindSafe(|| commander.inspect(request)));
        let inspection = inspected
            .unwrap_or_else(|_| Err(Fault::new("the module panicked")))
            .map_err(Outcome::Failed)?;
        if !spec.effects.covers(inspection.effects) {
            let fault = Fault::new("the module has effects that it does not tell of");
            return Err(Outcome::Failed(fault));
        }
        Ok((Arc::clone(module), inspection))
    }

    /// Runs a permitted call in a task of its own, so that a panic there is a failed call, and
    /// ends it when the caller cancels or its deadline passes.
    async fn execute(
        self: &Arc<Self>,
        module: &Arc<dyn Module>,
        arrived: &Arrived,
        permit: Permit,
        mut input: Input,
        summary: String,
    ) -> Outcome {
        // What runs inside the server does not outlive it.
        let can_be_kept = module.spec().placement == Placement::Child;
        match (module.commander(), &arrived.attach) {
            (_, Some(_)) if !can_be_kept => {
                let text = format!("calls of `{}` are not kept", module.spec().name);
                return Outcome::Failed(Fault::new(text));
            }
            // Whoever attaches asks for nothing, and what they say beside it was not looked at.
            (_, Some(_)) => input.request = Request::default(),
            (Some(commander), None) => match commander.admit(input.request) {
                Ok(request) => input.request = request,
                Err(fault) => return Outcome::Denied(fault),
            },
            (None, None) => {}
        }
        let lost = input.persistence.as_ref().map(|kept| kept.lost.clone());
        let cancellation = arrived.cancellation.clone();
        let (id, peer) = (arrived.id.clone(), arrived.peer.clone());
        let mut call = Call::new(id, peer, permit, input.request, input.controls);
        call.deadline = call
            .request
            .timeout
            .and_then(|timeout| Instant::now().checked_add(timeout));
        call.cancellation = cancellation.clone();
        call.draining = self.draining.clone();
        call.persistence = input
            .persistence
            .filter(|_| can_be_kept)
            .map(|kept| Persistence {
                summary: cut(&summary).to_owned(),
                others: self
                    .policy
                    .load()
                    .reaches_others(&arrived.peer, module.spec()),
                ..kept
            });
        call.grant_server(Arc::clone(self) as Arc<dyn legatus_core::ServerControl>);

        let is_kept = call.persistence.is_some();
        let is_lost = async {
            match lost {
                Some(lost) if !is_kept => lost.cancelled_owned().await,
                _ => std::future::pending().await,
            }
        };
        let deadline = call.deadline;
        let mut execution = Execution::start(Arc::clone(module), call, input.channel);
        let ended = tokio::select! {
            biased;
            outcome = execution.outcome() => return outcome,
            () = until(deadline) => Outcome::Timeout,
            () = cancellation.cancelled() => match arrived.refused.get() {
                Some(fault) => Outcome::Failed(fault.clone()),
                None => Outcome::Cancelled,
            },
            // A kept call is let go instead.
            () = self.stopping.cancelled(), if !is_kept => {
                Outcome::Lost(Fault::new("the server has shut down before the call ended"))
            }
            () = is_lost => Outcome::Cancelled,
        };
        cancellation.cancel();
        if tokio::time::timeout(GRACE, execution.outcome())
            .await
            .is_err()
        {
            tracing::warn!(id = %arrived.id, "a cancelled call did not end within {GRACE:?}; dropping it");
        }
        ended
    }

    /// Notes a call that does not run.
    pub(super) fn refuse(
        &self,
        arrived: &Arrived,
        found: Option<(&dyn Module, &Inspection)>,
        outcome: Outcome,
    ) -> Outcome {
        let audited = audited(arrived, found, None);
        log_end(&audited, &outcome, Usage::default());
        if let Err(error) = self.audit.end(&audited, &outcome, Usage::default(), false) {
            tracing::error!(id = %arrived.id, error = %chain(&error), "a refused call is missing in the audit");
        }
        outcome
    }
}

fn audited<'a>(
    arrived: &'a Arrived,
    found: Option<(&'a dyn Module, &'a Inspection)>,
    rule: Option<&'a str>,
) -> AuditedCall<'a> {
    AuditedCall {
        id: &arrived.id,
        identity: arrived.peer.identity(),
        address: Some(&arrived.address),
        module: found.map_or(arrived.module.as_str(), |(module, _)| &module.spec().name),
        summary: found.map_or("", |(_, inspection)| cut(&inspection.summary)),
        effects: found.map_or(Effects::NONE, |(_, inspection)| inspection.effects),
        rule,
    }
}

/// The beginning of a summary: a call must not fill the disk with its audit.
fn cut(summary: &str) -> &str {
    let end = summary.floor_char_boundary(SUMMARY_BYTES);
    summary.get(..end).unwrap_or_default()
}

fn log_end(call: &AuditedCall<'_>, outcome: &Outcome, usage: Usage) {
    tracing::info!(
        id = %call.id,
        identity = call.identity,
        address = call.address,
        module = call.module,
        arguments = call.summary,
        outcome = outcome.kind(),
        status = outcome.exit_status(),
        fault = outcome.fault().map(Fault::message),
        received = usage.bytes_received,
        sent = usage.bytes_sent,
        seconds = usage.duration.as_secs_f64(),
        "call"
    );
}

/// Whether a client that knows one version of a module gets along with another: the same major
/// version, or the client does not care.
fn same_major(wanted: &str, present: &str) -> bool {
    let major = |version: &str| version.split('.').next().map(str::to_owned);
    wanted.is_empty() || major(wanted) == major(present)
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
