//! The generic Sender: arguments to the Commander, standard input in, messages out, exit status.

use std::os::unix::ffi::OsStrExt;

use bytes::Bytes;
use legatus_core::{
    ArgumentKind, Arguments, BoxFuture, Caller, Conversation, Fault, Local, Module, Outcome,
    Request, Sender, Spec, Stream,
};
use legatus_core::{Control, UserSignal};

/// Linux numbers of the signals that are passed on.
const SIGINT: u8 = 2;
const SIGQUIT: u8 = 3;

/// A module of which only the spec is known here: its calls are made by the generic Sender.
#[derive(Debug)]
pub struct Remote {
    spec: Spec,
}

impl Remote {
    /// The module that a server told of.
    pub fn new(spec: Spec) -> Self {
        Self { spec }
    }
}

impl Module for Remote {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn sender(&self) -> Option<&dyn Sender> {
        Some(self)
    }
}

impl Sender for Remote {
    fn send<'a>(
        &'a self,
        arguments: Arguments,
        caller: &'a dyn Caller,
        local: &'a dyn Local,
    ) -> BoxFuture<'a, Result<Outcome, Fault>> {
        Box::pin(send(&self.spec, arguments, caller, local))
    }
}

/// What the Commander gets of a user's arguments: options and flags in the order of the spec, then
/// positional arguments, then `--` and what trailed. Any program takes that apart as it always does.
pub(crate) fn words(spec: &Spec, arguments: &Arguments) -> Vec<Bytes> {
    let mut words: Vec<Bytes> = Vec::new();
    let text = |value: &std::ffi::OsString| Bytes::copy_from_slice(value.as_bytes());
    for argument in &spec.arguments {
        let flag = || Bytes::from(format!("--{}", argument.name));
        match argument.kind {
            ArgumentKind::Flag if arguments.is_given(&argument.name) => words.push(flag()),
            ArgumentKind::Option => {
                for value in arguments.all(&argument.name) {
                    words.extend([flag(), text(value)]);
                }
            }
            _ => {}
        }
    }
    let of_kind = |kind| {
        let all = spec.arguments.iter();
        all.filter(move |argument| argument.kind == kind)
            .flat_map(|argument| arguments.all(&argument.name))
    };
    words.extend(of_kind(ArgumentKind::Positional).map(text));
    let mut trailing = of_kind(ArgumentKind::Trailing).map(text).peekable();
    if trailing.peek().is_some() {
        words.push(Bytes::from_static(b"--"));
    }
    words.extend(trailing);
    words
}

/// Drives one call.
pub(crate) async fn send(
    spec: &Spec,
    arguments: Arguments,
    caller: &dyn Caller,
    local: &dyn Local,
) -> Result<Outcome, Fault> {
    let request = Request::from_arguments(words(spec, &arguments));
    let Conversation {
        channel,
        controls,
        outcome: pending,
    } = caller.open(request).await?;
    let (sender, mut receiver) = channel.split();
    // Ended by the end of standard input alone: whatever else ends the call drops `outcome` first.
    let mut sender = Some(sender);
    let outcome = pending;
    let upload = async {
        if let (Some(mut stdin), Some(open)) = (local.stdin(), &sender) {
            loop {
                let bytes = stdin
                    .read()
                    .await
                    .map_err(|error| Fault::new(format!("cannot read standard input: {error}")))?;
                // The call may end before the input does.
                if bytes.is_empty() || open.send(bytes).await.is_err() {
                    break;
                }
            }
        }
        sender = None;
        Ok::<_, Fault>(())
    };
    let download = async {
        let mut stdout = local.output(Stream::Stdout);
        let unwritable = |error| Fault::new(format!("cannot write standard output: {error}"));
        while let Some(bytes) = receiver.receive().await {
            stdout.write(bytes).await.map_err(unwritable)?;
        }
        stdout.flush().await.map_err(unwritable)
    };
    let signals = async {
        loop {
            let control = match local.signal().await {
                UserSignal::Interrupt => Control::Signal(SIGINT),
                UserSignal::Quit => Control::Signal(SIGQUIT),
                UserSignal::Terminate | UserSignal::HangUp => Control::Cancel,
            };
            // Too many wait already, then this one says nothing new.
            controls.send(control);
        }
    };
    let ended = async {
        // Input that nobody asked for must not hold a call that has ended.
        let mut upload = std::pin::pin!(upload);
        let mut download = std::pin::pin!(download);
        tokio::select! {
            sent = &mut upload => {
                sent?;
                download.await
            }
            written = &mut download => written,
        }
    };
    tokio::select! {
        ended = ended => ended?,
        () = signals => {}
    }
    Ok(outcome.wait().await)
}

#[cfg(test)]
mod tests {
    use legatus_core::Argument;

    use super::*;

    #[test]
    fn words_are_in_the_order_that_any_program_takes_apart() {
        let spec = Spec {
            arguments: vec![
                Argument::positional("file", "FILE", "").repeated(),
                Argument::option("size", "N", "").repeated(),
                Argument::flag("all", ""),
                Argument::flag("none", ""),
                Argument::trailing("rest", "WORD", ""),
            ],
            ..Spec::default()
        };
        let arguments = Arguments::new()
            .with("rest", "-x")
            .with("file", "a b")
            .with_flag("all")
            .with("size", "1")
            .with("size", "2");
        let words = words(&spec, &arguments);
        assert_eq!(
            words,
            ["--size", "1", "--size", "2", "--all", "a b", "--", "-x"]
        );
        assert!(super::words(&spec, &Arguments::new()).is_empty());
    }
}
