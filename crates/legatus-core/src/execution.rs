//! A Commander at work, in a task of its own: a panic there is no more than how its call ends.

use std::sync::Arc;

use tokio::task::JoinHandle;
use tracing::Instrument;

use crate::{Call, Channel, Fault, Module, Outcome};

/// A Commander at work, wherever that is; aborted when dropped. Needs a runtime of tokio.
#[derive(Debug)]
pub struct Execution(JoinHandle<Result<Outcome, Fault>>);

/// Aborts an [`Execution`] while somebody else waits for its outcome.
#[derive(Clone, Debug)]
pub struct Abort(tokio::task::AbortHandle);

impl Execution {
    /// Has the module's Commander do what the call asks for.
    pub fn start(module: Arc<dyn Module>, call: Call, channel: Channel) -> Self {
        let span = call.span().clone();
        let work = async move {
            match module.commander() {
                Some(commander) => commander.execute(call, channel).await,
                None => Err(Fault::new("the module has no server half")),
            }
        };
        Self(tokio::spawn(work.instrument(span)))
    }

    /// What aborts it from elsewhere.
    pub fn abort_handle(&self) -> Abort {
        Abort(self.0.abort_handle())
    }

    /// How it ends. Cancel safe; once it has told an outcome it must not be asked again.
    pub async fn outcome(&mut self) -> Outcome {
        match (&mut self.0).await {
            Ok(told) => told.into(),
            // The panic's message is in the log; it does not concern the peer.
            Err(error) if error.is_panic() => Outcome::Failed(Fault::new("the module panicked")),
            Err(_) => Outcome::Cancelled,
        }
    }
}

impl Drop for Execution {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Abort {
    /// Drops the Commander where it waits; its outcome is [`Outcome::Cancelled`].
    pub fn abort(&self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        BoxFuture, Commander, Control, Effects, Inspection, Request, Spec, testing::call as call_of,
    };

    /// Does what its request's only argument says.
    struct Obedient(Spec);

    impl Module for Obedient {
        fn spec(&self) -> &Spec {
            &self.0
        }

        fn commander(&self) -> Option<&dyn Commander> {
            Some(self)
        }
    }

    impl Commander for Obedient {
        fn inspect(&self, _: &Request) -> Result<Inspection, Fault> {
            Ok(Inspection {
                effects: Effects::NONE,
                summary: String::new(),
            })
        }

        fn execute(&self, call: Call, _: Channel) -> BoxFuture<'_, Result<Outcome, Fault>> {
            Box::pin(async move {
                match call.request.arguments.first().map(AsRef::as_ref) {
                    Some(b"panic") => panic!("it was told to"),
                    Some(b"fail") => Err(Fault::new("it was told to")),
                    Some(b"wait") => std::future::pending().await,
                    _ => Ok(Outcome::Exit(3)),
                }
            })
        }
    }

    fn execution(word: &'static str) -> Execution {
        let module = Arc::new(Obedient(Spec::default()));
        let (_, controls) = Control::queue();
        let request = Request::from_arguments([word]);
        let call = call_of(module.as_ref(), request, controls).unwrap();
        Execution::start(module, call, Channel::pair(1).0)
    }

    #[tokio::test]
    async fn a_panic_a_fault_and_an_end_are_told_apart() {
        let panicked = execution("panic").outcome().await;
        assert_eq!(panicked.fault().unwrap().message(), "the module panicked");
        let failed = execution("fail").outcome().await;
        assert_eq!(failed.fault().unwrap().message(), "it was told to");
        assert_eq!(execution("end").outcome().await, Outcome::Exit(3));
    }

    #[tokio::test]
    async fn what_is_aborted_was_cancelled() {
        let mut waiting = execution("wait");
        let abort = waiting.abort_handle();
        let (outcome, ()) = tokio::join!(waiting.outcome(), async { abort.abort() });
        assert_eq!(outcome, Outcome::Cancelled);
    }
}
