//! The user's terminal: what the session has done to it, and what is shown there before it came back.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use legatus_core::TerminalSize;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::modes::Modes;
use super::prediction::Prediction;

/// How long a character may stand on the screen that does not come back.
const COMES_BACK_WITHIN: Duration = Duration::from_secs(3);

/// How often to wait for the one who writes.
const TURNS: usize = 3;

/// A terminal that a session's output goes to.
pub(in crate::shell) struct Screen {
    state: Mutex<State>,
    /// There is something to be written, or to be waited for.
    changed: Notify,
}

struct State {
    modes: Modes,
    /// `None` if the user wants to see nothing before it came back.
    prediction: Option<Prediction>,
    /// When something that stands on the screen came back, or began to be waited for.
    since: Instant,
    /// What is to be written before all else.
    unwritten: BytesMut,
    columns: usize,
}

impl Screen {
    pub(super) fn new(size: TerminalSize, predicts: bool) -> Self {
        Self {
            state: Mutex::new(State {
                modes: Modes::default(),
                prediction: predicts.then(Prediction::default),
                since: Instant::now(),
                unwritten: BytesMut::new(),
                columns: size.columns.into(),
            }),
            changed: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The user has typed something, which is on its way.
    pub(super) fn typed(&self, keys: &[u8]) {
        let mut state = self.state();
        if let Some(prediction) = &mut state.prediction {
            for byte in keys {
                prediction.typed(*byte);
            }
            state.show();
        }
        if !state.unwritten.is_empty() {
            self.changed.notify_one();
        }
    }

    /// Output of the session; returns what is to be written for it.
    pub(super) fn came(&self, output: Bytes) -> Bytes {
        let mut state = self.state();
        let Some(prediction) = &mut state.prediction else {
            state.modes.see(&output);
            return output;
        };
        let before = prediction.shown();
        let lacking = prediction.came(output);
        if prediction.shown() < before {
            state.since = Instant::now();
        }
        state.modes.see(&lacking);
        let before_it = state.unwritten.split();
        state.show();
        if before_it.is_empty() && state.unwritten.is_empty() {
            return lacking;
        }
        [before_it, lacking.into(), state.unwritten.split()]
            .concat()
            .into()
    }

    /// Waits until something is to be written that no output is the cause of.
    pub(super) async fn next(&self) -> Bytes {
        loop {
            let changed = self.changed.notified();
            let patience = {
                let mut state = self.state();
                if !state.unwritten.is_empty() {
                    return state.unwritten.split().freeze();
                }
                state.is_waiting().then(|| state.since + COMES_BACK_WITHIN)
            };
            match patience {
                None => changed.await,
                Some(patience) => {
                    tokio::select! {
                        () = changed => {}
                        () = tokio::time::sleep_until(patience) => {
                            let mut state = self.state();
                            // Some may have come back meanwhile.
                            if Instant::now() >= state.since + COMES_BACK_WITHIN {
                                state.give_up();
                            }
                        }
                    }
                }
            }
        }
    }

    /// Something else is about to be written to the terminal. Returns when what it must not stand behind is
    /// erased, if the terminal takes that at once.
    pub(super) async fn retract(&self) {
        {
            let mut state = self.state();
            state.give_up();
            state.modes.lose_column();
        }
        self.changed.notify_one();
        // Whoever writes is part of the same task, so that its turn comes between two of this one.
        for _ in 0..TURNS {
            if self.state().unwritten.is_empty() {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// The terminal has another size; its lines may be others now.
    pub(super) fn resized(&self, size: TerminalSize) {
        let mut state = self.state();
        state.columns = size.columns.into();
        state.modes.lose_column();
    }

    pub(super) fn is_full_screen(&self) -> bool {
        self.state().modes.is_full_screen()
    }

    /// What puts the terminal into the state of before.
    pub(super) fn undo(&self) -> Vec<u8> {
        let mut state = self.state();
        state.give_up();
        [state.unwritten.split().into(), state.modes.undo()].concat()
    }
}

impl State {
    /// Shows what may be shown of what was typed.
    fn show(&mut self) {
        let was_waiting = self.is_waiting();
        let room = self.room();
        let Some(prediction) = &mut self.prediction else {
            return;
        };
        let more = prediction.show(room);
        self.modes.see(&more);
        self.unwritten.extend_from_slice(&more);
        if !was_waiting {
            self.since = Instant::now();
        }
    }

    /// How many characters can be shown behind the cursor: not in the last column, from which they may not be erased as
    /// from others, and not where a program paints the screen.
    fn room(&self) -> usize {
        match self.modes.column() {
            Some(column) if !self.modes.is_painted() => self.columns.saturating_sub(column + 1),
            _ => 0,
        }
    }

    fn is_waiting(&self) -> bool {
        let shown = self.prediction.as_ref().map(Prediction::shown);
        shown.is_some_and(|shown| shown > 0)
    }

    /// Erases what has not come back.
    fn give_up(&mut self) {
        if let Some(prediction) = &mut self.prediction {
            let erasing = prediction.give_up();
            self.modes.see(&erasing);
            self.unwritten.extend_from_slice(&erasing);
        }
    }
}
