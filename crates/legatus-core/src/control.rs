//! Controls: what reaches a running call beside its data.

use tokio::sync::mpsc;

use crate::limits;

/// A terminal's size in character cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns, at least 1.
    pub columns: u16,
    /// Rows, at least 1.
    pub rows: u16,
}

/// What reaches a running call beside its data, never waiting behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// End the call; its outcome is `cancelled`.
    Cancel,
    /// The caller leaves; the call, which is kept, goes on without it.
    Detach,
    /// Send this signal (Linux numbering) to what the call runs.
    Signal(u8),
    /// The caller's terminal has a new size.
    Resize(TerminalSize),
}

/// The end at which controls are put in.
#[derive(Clone, Debug)]
pub struct ControlSender(mpsc::Sender<Control>);

impl ControlSender {
    /// Passes a control on; false when the call has ended or too many controls wait already.
    pub fn send(&self, control: Control) -> bool {
        self.0.try_send(control).is_ok()
    }

    /// Waits until a control can be put in; false when the call has ended.
    pub async fn has_room(&self) -> bool {
        self.0.reserve().await.is_ok()
    }

    /// Waits until the other end is gone: the call has ended.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

/// The end at which controls come out.
#[derive(Debug)]
pub struct ControlReceiver(mpsc::Receiver<Control>);

impl ControlReceiver {
    /// The next control; `None` when there can be no more.
    pub async fn receive(&mut self) -> Option<Control> {
        self.0.recv().await
    }
}

impl Control {
    /// A queue of controls, bounded by [`limits::CONTROLS`].
    pub fn queue() -> (ControlSender, ControlReceiver) {
        let (tx, rx) = mpsc::channel(limits::CONTROLS);
        (ControlSender(tx), ControlReceiver(rx))
    }
}
