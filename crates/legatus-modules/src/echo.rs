//! `echo`: sends back what it is sent. The smallest module with both halves, and the one that many
//! tests use.

use bytes::Bytes;
use legatus_core::{
    Argument, Arguments, BoxFuture, Call, Caller, Channel, Commander, Effects, Example, Fault,
    Inspection, Local, Module, Outcome, Placement, Request, Sender, Spec, Stream,
};
use std::os::unix::ffi::OsStrExt;

/// The module `echo`.
pub(crate) fn module() -> impl Module {
    Echo {
        spec: Spec {
            name: "echo".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "Send back the arguments, or else standard input".into(),
            description: "Tests a connection: the server sends back every byte it gets.".into(),
            effects: Effects::NONE,
            placement: Placement::Server,
            arguments: vec![
                Argument::positional("text", "TEXT", "What to send; standard input without it")
                    .repeated(),
            ],
            examples: vec![Example::new(
                "legatus echo local hello",
                "Prints `hello`, having sent it to a server and back",
            )],
            ..Spec::default()
        },
    }
}

struct Echo {
    spec: Spec,
}

impl Module for Echo {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn commander(&self) -> Option<&dyn Commander> {
        Some(self)
    }

    fn sender(&self) -> Option<&dyn Sender> {
        Some(self)
    }
}

impl Commander for Echo {
    fn inspect(&self, request: &Request) -> Result<Inspection, Fault> {
        Ok(Inspection {
            effects: Effects::NONE,
            summary: format!("{} arguments", request.arguments.len()),
        })
    }

    fn execute(&self, call: Call, mut channel: Channel) -> BoxFuture<'_, Result<Outcome, Fault>> {
        Box::pin(async move {
            let gone = |_| Fault::new("the caller stopped listening");
            if !call.request.arguments.is_empty() {
                let mut line = call.request.arguments.join(&b' ');
                line.push(b'\n');
                channel.send(line.into()).await.map_err(gone)?;
            }
            while let Some(message) = channel.receive().await {
                channel.send(message).await.map_err(gone)?;
            }
            Ok(Outcome::SUCCESS)
        })
    }
}

impl Sender for Echo {
    fn send<'a>(
        &'a self,
        arguments: Arguments,
        caller: &'a dyn Caller,
        local: &'a dyn Local,
    ) -> BoxFuture<'a, Result<Outcome, Fault>> {
        Box::pin(async move {
            let words = arguments.all("text");
            let request = Request::from_arguments(
                words
                    .iter()
                    .map(|word| Bytes::copy_from_slice(word.as_bytes())),
            );
            let conversation = caller.open(request).await?;
            let (sender, mut receiver) = conversation.channel.split();
            let upload = async {
                let Some(mut stdin) = local.stdin().filter(|_| words.is_empty()) else {
                    drop(sender);
                    return Ok(());
                };
                loop {
                    let bytes = stdin.read().await.map_err(|error| {
                        Fault::new(format!("cannot read standard input: {error}"))
                    })?;
                    // The server may end the call before the input ends.
                    if bytes.is_empty() || sender.send(bytes).await.is_err() {
                        drop(sender);
                        return Ok::<_, Fault>(());
                    }
                }
            };
            let download = async {
                let mut stdout = local.output(Stream::Stdout);
                while let Some(bytes) = receiver.receive().await {
                    stdout.write(bytes).await.map_err(unwritable)?;
                }
                stdout.flush().await.map_err(unwritable)
            };
            tokio::try_join!(upload, download)?;
            Ok(conversation.outcome.wait().await)
        })
    }
}

fn unwritable(error: std::io::Error) -> Fault {
    Fault::new(format!("cannot write standard output: {error}"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use legatus_core::testing::{self, MemoryLocal};

    use super::*;

    #[tokio::test]
    async fn arguments_come_back_in_one_line() {
        let local = MemoryLocal::new();
        let arguments = Arguments::new().with("text", "hello").with("text", "world");
        let outcome = testing::run(Arc::new(module()), arguments, &local).await;
        assert_eq!(outcome, Outcome::SUCCESS);
        assert_eq!(local.stdout(), b"hello world\n");
    }

    #[tokio::test]
    async fn standard_input_comes_back_whole_through_a_channel_of_a_few_bytes() {
        let input: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let local = MemoryLocal::new().with_stdin(&input, 1000);
        let outcome = testing::run(Arc::new(module()), Arguments::new(), &local).await;
        assert_eq!(outcome, Outcome::SUCCESS);
        assert!(local.stdout() == input);
    }

    #[tokio::test]
    async fn no_input_is_no_output() {
        let local = MemoryLocal::new();
        let outcome = testing::run(Arc::new(module()), Arguments::new(), &local).await;
        assert_eq!(outcome, Outcome::SUCCESS);
        assert!(local.stdout().is_empty());
    }
}
