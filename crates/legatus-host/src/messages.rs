//! What a server tells a holder at its start, and how calls travel in it.

use std::time::{Duration, Instant};

use legatus_core::{Call, Effect, Effects, Request, wire};

/// The first message: whom to become. It holds nothing that a client said.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Start {
    /// The user to become; the holder stays what it is without one.
    #[prost(message, optional, tag = "1")]
    pub(crate) user: Option<RunAs>,
    /// The folder to work in, if it can be entered.
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) folder: Vec<u8>,
}

/// A user's rights.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct RunAs {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(uint32, tag = "2")]
    pub(crate) uid: u32,
    #[prost(uint32, tag = "3")]
    pub(crate) gid: u32,
    #[prost(uint32, repeated, tag = "4")]
    pub(crate) groups: Vec<u32>,
}

/// The second message: the call.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Opening {
    /// The call as on the wire; `module` is the canonical name, the time-out what is left of it.
    #[prost(message, optional, tag = "1")]
    pub(crate) open: Option<wire::Open>,
    #[prost(string, tag = "2")]
    pub(crate) identity: String,
    /// The rule of the server's policy that permitted the call, and with which effects.
    #[prost(string, tag = "3")]
    pub(crate) rule: String,
    #[prost(enumeration = "wire::Effect", repeated, tag = "4")]
    pub(crate) effects: Vec<i32>,
    /// Messages up to so many bytes travel through the socket, longer ones through shared memory.
    #[prost(uint32, tag = "5")]
    pub(crate) inline_bytes: u32,
}

impl Opening {
    pub(crate) fn new(call: &mut Call, module: &str, inline_bytes: usize) -> Self {
        let request = std::mem::take(&mut call.request);
        let open = wire::Open {
            call_id: call.id().to_string(),
            module: module.to_owned(),
            version: String::new(),
            arguments: request.arguments,
            request: request.body,
            timeout_milliseconds: call.deadline.map_or(0, milliseconds_left),
        };
        Self {
            open: Some(open),
            identity: call.peer().identity().to_owned(),
            rule: call.permit().rule().to_owned(),
            effects: call
                .permit()
                .effects()
                .iter()
                .map(|effect| wire::Effect::from(effect).into())
                .collect(),
            inline_bytes: u32::try_from(inline_bytes).unwrap_or(u32::MAX),
        }
    }
}

/// What is left until a deadline, at least 1, because 0 means that there is none.
fn milliseconds_left(deadline: Instant) -> u64 {
    let left = deadline.saturating_duration_since(Instant::now());
    u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// The deadline and the request of an opened call.
pub(crate) fn deadline_and_request(open: wire::Open) -> (Option<Instant>, Request) {
    let left = Duration::from_millis(open.timeout_milliseconds);
    let deadline = (!left.is_zero())
        .then(|| Instant::now().checked_add(left))
        .flatten();
    let request = Request {
        timeout: None, // the server keeps the deadline
        arguments: open.arguments,
        body: open.request,
    };
    (deadline, request)
}

/// Effects from the wire; unknown ones are left out.
pub(crate) fn effects(known: impl Iterator<Item = wire::Effect>) -> Effects {
    known
        .filter_map(|effect| match effect {
            wire::Effect::Read => Some(Effect::Read),
            wire::Effect::Write => Some(Effect::Write),
            wire::Effect::Exec => Some(Effect::Exec),
            wire::Effect::Unspecified => None,
        })
        .collect()
}
