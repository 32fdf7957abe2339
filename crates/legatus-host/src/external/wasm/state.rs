//! What belongs to one call of a guest: its limits, its channel, its log.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use legatus_core::{ChannelReceiver, ChannelSender};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wasmtime::ResourceLimiter;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::denials::Folders;
use super::engine::TICK;
use crate::external::asks::Ask;
use crate::external::log::CallLog;
use crate::external::usage::Used;

/// Tables of a guest, in entries: what large interpreters need, many times over.
const TABLE_ENTRIES: usize = 1 << 20;

/// What a store holds.
pub(super) struct State {
    pub(super) wasi: WasiCtx,
    pub(super) table: ResourceTable,
    pub(super) ceiling: Ceiling,
    pub(super) talk: Talk,
    pub(super) log: CallLog,
    pub(super) out_of_time: bool,
    /// How often it was seen computing.
    pub(super) ticks: u32,
    /// The folders that it was given.
    pub(super) folders: Folders,
    /// Whether it may connect to anything.
    pub(super) may_connect: bool,
    /// What its manifest asks for and it does not have, in words.
    pub(super) denied: Arc<[String]>,
    /// What of it is in the log already.
    pub(super) denied_told: BTreeSet<String>,
}

/// A guest's way to the other half.
#[derive(Default)]
pub(super) struct Talk {
    pub(super) sender: Option<ChannelSender>,
    pub(super) receiver: Option<ChannelReceiver>,
    /// A message that was waited for, but not received yet.
    pub(super) pending: Option<Bytes>,
    /// Whether the guest was told that no more messages come: it is told of it once.
    pub(super) end_told: bool,
    pub(super) cancellation: CancellationToken,
    /// Where a client half asks; `None` for a server half.
    pub(super) asks: Option<mpsc::Sender<Ask>>,
}

impl State {
    /// What the guest has taken so far.
    pub(super) fn used(&self) -> Used {
        Used {
            memory: u64::try_from(self.ceiling.used()).ok(),
            cpu: Some(TICK * self.ticks),
        }
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

/// The limit of a guest's memory, all its memories together.
#[derive(Debug)]
pub(super) struct Ceiling {
    most: usize,
    used: usize,
    /// Whether the guest wanted more.
    pub(super) hit: bool,
}

impl Ceiling {
    pub(super) fn new(bytes: u64) -> Self {
        Self {
            most: usize::try_from(bytes).unwrap_or(usize::MAX),
            used: 0,
            hit: false,
        }
    }

    /// Bytes that the guest has taken.
    pub(super) fn used(&self) -> usize {
        self.used
    }
}

impl ResourceLimiter for Ceiling {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let more = desired.saturating_sub(current);
        let wanted = self.used.saturating_add(more);
        if wanted > self.most {
            self.hit = true;
            return Ok(false);
        }
        self.used = wanted;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let fits = desired <= TABLE_ENTRIES;
        self.hit |= !fits;
        Ok(fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_memories_together_stay_below_the_ceiling() {
        let mut ceiling = Ceiling::new(100);
        assert!(ceiling.memory_growing(0, 60, None).unwrap());
        assert!(!ceiling.memory_growing(0, 60, None).unwrap());
        assert!(ceiling.hit);
        assert!(ceiling.memory_growing(60, 100, None).unwrap());
        assert_eq!(ceiling.used(), 100);
    }
}
