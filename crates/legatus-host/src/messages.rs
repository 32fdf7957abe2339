//! What a server tells a holder at its start, and how calls travel in it.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::{Duration, Instant};

use bytes::Bytes;
use legatus_core::{Call, Effect, Effects, Pattern, Request, wire};
use serde::{Deserialize, Serialize};

/// The first message: whom to become. It holds nothing that a client said.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Start {
    /// The user to become; the holder stays what it is without one.
    #[prost(message, optional, tag = "1")]
    pub(crate) user: Option<RunAs>,
    /// The folder to work in, if it can be entered.
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) folder: Vec<u8>,
    /// Whether the descriptor of a folder for sessions' sockets comes along.
    #[prost(bool, tag = "3")]
    pub(crate) has_sessions: bool,
    /// The server's own user, who may attach to sessions.
    #[prost(uint32, tag = "4")]
    pub(crate) server_uid: u32,
    /// Bytes that a kept call may put on disk beside those that it holds in memory.
    #[prost(uint64, tag = "5")]
    pub(crate) spill_bytes: u64,
    /// The holder's environment; it has no other variables.
    #[prost(message, repeated, tag = "6")]
    pub(crate) environment: Vec<Variable>,
}

/// A variable of the environment.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Variable {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) name: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) value: Vec<u8>,
}

impl Variable {
    pub(crate) fn new(name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        Self {
            name: name.as_ref().as_bytes().to_vec(),
            value: value.as_ref().as_bytes().to_vec(),
        }
    }
}

/// A user's rights; module hosts are told them as JSON.
#[derive(Clone, PartialEq, Eq, prost::Message, Serialize, Deserialize)]
pub(crate) struct RunAs {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(uint32, tag = "2")]
    pub(crate) uid: u32,
    #[prost(uint32, tag = "3")]
    pub(crate) gid: u32,
    #[prost(uint32, repeated, tag = "4")]
    pub(crate) groups: Vec<u32>,
    #[prost(uint32, optional, tag = "5")]
    pub(crate) umask: Option<u32>,
    #[prost(bool, tag = "6")]
    pub(crate) no_new_privs: bool,
    #[prost(uint64, optional, tag = "7")]
    pub(crate) open_files: Option<u64>,
    #[prost(uint64, optional, tag = "8")]
    pub(crate) processes: Option<u64>,
    #[prost(uint64, optional, tag = "9")]
    pub(crate) memory_bytes: Option<u64>,
    #[prost(uint64, optional, tag = "10")]
    pub(crate) file_bytes: Option<u64>,
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
    /// Keeps the call; without it the call ends with its server.
    #[prost(message, optional, tag = "6")]
    pub(crate) session: Option<Sealed>,
    #[prost(message, optional, tag = "7")]
    pub(crate) account: Option<Account>,
}

/// What the server's configuration says of the user; see [`legatus_core::Account`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Account {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) home: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) shell: Vec<u8>,
    #[prost(bool, tag = "3")]
    pub(crate) any_variable: bool,
    /// Patterns of names.
    #[prost(string, repeated, tag = "4")]
    pub(crate) variables: Vec<String>,
}

impl From<Account> for legatus_core::Account {
    fn from(account: Account) -> Self {
        let path = |bytes: Vec<u8>| {
            (!bytes.is_empty()).then(|| std::ffi::OsString::from_vec(bytes).into())
        };
        let patterns = account.variables.iter().map(|name| Pattern::new(name));
        Self {
            home: path(account.home),
            shell: path(account.shell),
            variables: (!account.any_variable).then(|| patterns.collect()),
        }
    }
}

/// What a kept call is. The server seals it, so that it can believe what a holder says later.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Facts {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(string, tag = "2")]
    pub(crate) identity: String,
    #[prost(string, tag = "3")]
    pub(crate) module: String,
    #[prost(string, tag = "4")]
    pub(crate) summary: String,
    #[prost(string, tag = "5")]
    pub(crate) name: String,
    #[prost(string, tag = "6")]
    pub(crate) user: String,
    /// Milliseconds since 1970.
    #[prost(uint64, tag = "7")]
    pub(crate) started: u64,
    #[prost(bool, tag = "8")]
    pub(crate) terminal: bool,
}

/// Facts and their seal.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Sealed {
    /// An encoded [`Facts`].
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) facts: Bytes,
    /// Keyed BLAKE3 of `facts`, 32 bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) seal: Bytes,
}

/// The version of what servers and the holders of kept calls say to each other. A newer server
/// still speaks to holders of the two versions before; fields that one does not know are skipped.
pub(crate) const PROTOCOL: u32 = 2;

/// How many versions apart a server and a holder may be.
pub(crate) const SKEW: u32 = 2;

/// Whether this version gets along with the one that the other process speaks.
pub(crate) fn speaks_with(version: u32) -> bool {
    version > 0 && version.abs_diff(PROTOCOL) <= SKEW
}

/// What a server wants of a kept call's holder.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct AttachRequest {
    #[prost(uint32, tag = "1")]
    pub(crate) protocol: u32,
    #[prost(enumeration = "Purpose", tag = "2")]
    pub(crate) purpose: i32,
    /// The client's name among those of the call.
    #[prost(string, tag = "3")]
    pub(crate) client: String,
    #[prost(bool, tag = "4")]
    pub(crate) resume: bool,
    #[prost(uint64, tag = "5")]
    pub(crate) received: u64,
    #[prost(bool, tag = "6")]
    pub(crate) read_only: bool,
    #[prost(uint32, tag = "7")]
    pub(crate) inline_bytes: u32,
    /// For [`Purpose::End`]: the signal, or 0 to cancel.
    #[prost(uint32, tag = "8")]
    pub(crate) signal: u32,
    /// How the shared memory is laid out.
    #[prost(uint64, tag = "9")]
    pub(crate) layout: u64,
    /// The client's terminal decides how large the call's is. Since version 2.
    #[prost(bool, tag = "10")]
    pub(crate) own_size: bool,
}

/// What a server wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Purpose {
    /// To know how the call is.
    Look = 0,
    /// To connect a client; descriptors of shared memory and of the data socket come along.
    Attach = 1,
    /// To end the call, or signal it.
    End = 2,
    /// To be told when it has ended.
    Watch = 3,
}

/// What a kept call's holder answers.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Hello {
    #[prost(uint32, tag = "1")]
    pub(crate) protocol: u32,
    #[prost(message, optional, tag = "2")]
    pub(crate) sealed: Option<Sealed>,
    #[prost(uint32, tag = "3")]
    pub(crate) clients: u32,
    #[prost(uint64, tag = "4")]
    pub(crate) idle: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) bytes_in: u64,
    #[prost(uint64, tag = "6")]
    pub(crate) bytes_out: u64,
    #[prost(message, optional, tag = "7")]
    pub(crate) outcome: Option<wire::Outcome>,
    /// Why the client cannot be attached; empty if it is.
    #[prost(string, tag = "8")]
    pub(crate) refusal: String,
    /// How the holder takes shared memory to be laid out.
    #[prost(uint64, tag = "9")]
    pub(crate) layout: u64,
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
            keeping: None,
            attach: None,
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
            session: None,
            account: None,
        }
    }

    /// Has the holder keep the call.
    pub(crate) fn keep(&mut self, keeping: legatus_core::Keeping, sealed: Sealed) {
        if let Some(open) = &mut self.open {
            open.keeping = Some(keeping.into());
        }
        self.session = Some(sealed);
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
        keeping: None,
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
