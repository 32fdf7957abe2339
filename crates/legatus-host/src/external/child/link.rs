//! A library's end of the socket: plain calls that block, on the one thread that there is.

use std::collections::VecDeque;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use bytes::Bytes;
use legatus_core::limits;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::protocol::{Frame, Kind, Told};

/// Messages that the host may send ahead.
const AHEAD: u32 = 4;

/// Why a call did not do what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    Gone,
    Cancelled,
    TooLong,
    Failed,
}

/// One end of a conversation with the host.
pub(super) struct Link<'a> {
    socket: &'a mut UnixStream,
    inbox: VecDeque<Bytes>,
    /// Messages that were asked for and have not come.
    asked: u32,
    ended: bool,
    /// Whether the module was told of the end: it is told of it once.
    end_told: bool,
    finished: bool,
    cancelled: bool,
    /// Client halves have nobody to talk to before they have opened the call.
    connected: bool,
    /// What the last call of `receive`, and of a reading function, has returned.
    pub(super) message: Bytes,
    pub(super) read: Bytes,
    pub(super) outcome: Option<Told>,
    pub(super) fault: Option<(String, String)>,
}

impl<'a> Link<'a> {
    pub(super) fn new(socket: &'a mut UnixStream, connected: bool) -> Self {
        Self {
            socket,
            inbox: VecDeque::new(),
            asked: 0,
            ended: false,
            end_told: false,
            finished: false,
            cancelled: false,
            connected,
            message: Bytes::new(),
            read: Bytes::new(),
            outcome: None,
            fault: None,
        }
    }

    /// The next message; `None` at the end.
    pub(super) fn receive(&mut self) -> Result<Option<Bytes>, Broken> {
        if !self.connected {
            return Err(Broken::Gone);
        }
        self.pull()?;
        loop {
            if let Some(message) = self.inbox.pop_front() {
                return Ok(Some(message));
            }
            match (self.ended, self.cancelled) {
                (true, _) => {
                    self.end_told = true;
                    return Ok(None);
                }
                (false, true) => return Err(Broken::Cancelled),
                (false, false) => self.take()?,
            }
        }
    }

    /// Lets the host send ahead.
    fn pull(&mut self) -> Result<(), Broken> {
        let waiting = u32::try_from(self.inbox.len()).unwrap_or(AHEAD);
        let more = AHEAD.saturating_sub(self.asked.saturating_add(waiting));
        // Half of it at once, so that few frames are spent on asking.
        if self.ended || more < AHEAD / 2 {
            return Ok(());
        }
        self.asked = self.asked.saturating_add(more);
        self.write(Kind::Pull, &more.to_le_bytes())
    }

    pub(super) fn send(&mut self, message: &[u8]) -> Result<(), Broken> {
        if message.len() > limits::MESSAGE_BYTES {
            return Err(Broken::TooLong);
        }
        if self.cancelled {
            return Err(Broken::Cancelled);
        }
        if self.finished || !self.connected {
            return Err(Broken::Gone);
        }
        self.write(Kind::Message, message)
    }

    pub(super) fn finish(&mut self) {
        if !self.finished && self.connected {
            self.finished = true;
            // A host that has gone ends this process.
            self.write(Kind::End, &[]).ok();
        }
    }

    /// Waits; whether a message (or the end) is there, and whether the call was cancelled.
    pub(super) fn wait(&mut self, milliseconds: Option<u64>) -> Result<(bool, bool), Broken> {
        let until =
            milliseconds.map(|time| Instant::now().checked_add(Duration::from_millis(time)));
        if self.connected {
            self.pull()?;
        }
        loop {
            // What has come already counts first: a cancellation must not wait behind messages.
            while self.is_readable(Some(Duration::ZERO))? {
                self.take()?;
            }
            let ready = !self.inbox.is_empty() || (self.ended && !self.end_told);
            if ready || self.cancelled {
                return Ok((ready, self.cancelled));
            }
            let left = until
                .flatten()
                .map(|until| until.saturating_duration_since(Instant::now()));
            if !self.is_readable(left)? {
                return Ok((false, false));
            }
            self.take()?;
        }
    }

    fn is_readable(&self, within: Option<Duration>) -> Result<bool, Broken> {
        let mut sockets = [PollFd::new(&*self.socket, PollFlags::IN)];
        let time = within.and_then(|within| Timespec::try_from(within).ok());
        loop {
            match poll(&mut sockets, time.as_ref()) {
                Ok(count) => return Ok(count > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return Err(Broken::Gone),
            }
        }
    }

    /// Takes one frame from the host.
    fn take(&mut self) -> Result<(), Broken> {
        match self.read_frame()? {
            None => Ok(()),
            // Nobody has asked.
            Some(_) => Err(Broken::Gone),
        }
    }

    /// Reads a frame; a reply is handed on, all else is noted.
    fn read_frame(&mut self) -> Result<Option<Bytes>, Broken> {
        let frame = Frame::read_blocking(self.socket).map_err(|_| Broken::Gone)?;
        match frame.kind {
            Kind::Message => {
                self.asked = self.asked.saturating_sub(1);
                self.inbox.push_back(frame.payload);
            }
            Kind::End => self.ended = true,
            Kind::Cancel => self.cancelled = true,
            Kind::Reply => return Ok(Some(frame.payload)),
            _ => return Err(Broken::Gone),
        }
        Ok(None)
    }

    /// Asks the host something; `None` if there is no more of it. Errors are logged.
    pub(super) fn ask(&mut self, kind: Kind, payload: &[u8]) -> Result<Option<Bytes>, Broken> {
        self.write(kind, payload)?;
        let mut reply = loop {
            if let Some(reply) = self.read_frame()? {
                break reply;
            }
        };
        if reply.is_empty() {
            return Err(Broken::Gone);
        }
        let rest = reply.split_off(1);
        match reply.as_ref() {
            [0] => Ok(Some(rest)),
            [2] => Ok(None),
            _ => {
                let text = String::from_utf8_lossy(&rest).into_owned();
                self.fault.get_or_insert((text, String::new()));
                Err(Broken::Failed)
            }
        }
    }

    /// Opens the call.
    pub(super) fn open(&mut self, arguments: &[String]) -> Result<(), Broken> {
        let arguments = serde_json::to_vec(arguments).map_err(|_| Broken::Failed)?;
        self.ask(Kind::Open, &arguments)?;
        self.connected = true;
        Ok(())
    }

    pub(super) fn log(&mut self, level: u32, text: &[u8]) {
        let level = u8::try_from(level.min(4)).unwrap_or(4);
        let end = text.len().min(limits::MESSAGE_BYTES);
        let mut line = vec![level];
        line.extend_from_slice(text.get(..end).unwrap_or_default());
        // A host that has gone ends this process.
        self.write(Kind::Log, &line).ok();
    }

    pub(super) fn write(&mut self, kind: Kind, payload: &[u8]) -> Result<(), Broken> {
        Frame::write_blocking(self.socket, kind, payload).map_err(|_| Broken::Gone)
    }
}
