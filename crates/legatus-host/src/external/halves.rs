//! The server half of `legatus`'s own errand: hands out client halves that may travel.

use std::sync::Arc;

use legatus_core::{
    BoxFuture, Call, Channel, Commander, Effects, Fault, Inspection, Module, Outcome, Placement,
    Request, Spec, limits,
};

use super::catalogue::Catalogue;
use super::signature::FILE_BYTES;
use super::store::{digest, read_limited};

/// The name by which clients call it, and policies may name it.
pub const CLIENT_HALVES: &str = "client-halves";

/// A module without a client half of its own: it sends the WebAssembly component of the digest that
/// is asked for.
#[derive(Debug)]
pub struct ClientHalves {
    spec: Spec,
    catalogue: Arc<Catalogue>,
}

impl ClientHalves {
    /// Hands out what this catalogue has.
    pub fn new(catalogue: Arc<Catalogue>) -> Self {
        let spec = Spec {
            name: CLIENT_HALVES.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            summary: "Hand out client halves of modules to those who lack them".into(),
            effects: Effects::READ,
            placement: Placement::Server,
            ..Spec::default()
        };
        Self { spec, catalogue }
    }
}

impl Module for ClientHalves {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn commander(&self) -> Option<&dyn Commander> {
        Some(self)
    }
}

impl Commander for ClientHalves {
    fn inspect(&self, request: &Request) -> Result<Inspection, Fault> {
        Ok(Inspection {
            effects: Effects::READ,
            summary: wanted(request)?.to_owned(),
        })
    }

    fn execute(&self, call: Call, channel: Channel) -> BoxFuture<'_, Result<Outcome, Fault>> {
        Box::pin(async move {
            let wanted = wanted(&call.request)?.to_owned();
            let none = || Fault::new("there is no client half of that digest here any more");
            let path = self.catalogue.travelling(&wanted).ok_or_else(none)?;
            let read = tokio::task::spawn_blocking(move || read_limited(&path, FILE_BYTES));
            let (bytes, _) = read.await.ok().and_then(Result::ok).ok_or_else(none)?;
            if digest(&bytes) != wanted {
                return Err(none());
            }
            let mut rest = bytes::Bytes::from(bytes);
            while !rest.is_empty() {
                let chunk = rest.split_to(rest.len().min(limits::CHUNK_BYTES));
                let gone = |_| Fault::new("the caller stopped listening");
                channel.send(chunk).await.map_err(gone)?;
            }
            Ok(Outcome::SUCCESS)
        })
    }
}

fn wanted(request: &Request) -> Result<&str, Fault> {
    let words = request.arguments.as_slice();
    let word = words.first().and_then(|word| str::from_utf8(word).ok());
    let is_digest = |word: &&str| word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit());
    word.filter(is_digest)
        .ok_or_else(|| Fault::new("a digest of 64 hexadecimal digits is asked for"))
}
