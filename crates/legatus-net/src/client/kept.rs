//! A kept call, as the client drives it: over one connection after the other, nothing lost and
//! nothing twice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use legatus_core::wire::{CallReply, ControlRequest, Empty, Open, call_reply, control_request};
use legatus_core::{
    Attach, Channel, ChannelSender, Control, ControlReceiver, Conversation, Fault, Link, Outcome,
    PendingOutcome, limits,
};
use prost::Message as _;
use tokio_util::sync::CancellationToken;

use super::Client;
use super::conversation::{Refusal, begin};
use super::uplink::Uplink;

/// How long a goodbye may take to reach the server.
const GOODBYE: Duration = Duration::from_secs(2);

/// The first pause before connecting again; each is twice as long as the one before, up to the
/// longest. People wait for their shell, so the first comes at once.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long a connection is looked for when it is not known whether the call has begun.
const UNCERTAIN: Duration = Duration::from_secs(30);

/// How long after a call was first opened it may be opened again, if it is not known whether it has
/// begun: for less than its server remembers that, also if this machine has slept. It may take
/// about a minute until a connection is known to be lost.
const OPENED_AGAIN_WITHIN: Duration = Duration::from_secs(100);

/// How an attempt over one connection ended.
enum End {
    Outcome(Outcome),
    /// The connection is lost, for this reason; another may do better.
    Lost(Fault),
    /// The server is there and does not let this client in any more.
    Refused(Fault),
}

/// One kept call.
struct Kept {
    id: String,
    open: Open,
    /// The call's id or name, which is not this client's when it has attached to another's.
    session: String,
    uplink: Arc<Uplink>,
    to_sender: ChannelSender,
    controlled: ControlReceiver,
    /// A control that did not get through.
    undelivered: Option<Control>,
    /// Messages that the Sender has got.
    received: u64,
    /// Whether the server has said that it keeps the call.
    kept: bool,
    linger: Duration,
    /// When it was opened first, since the machine was started.
    opened: Duration,
    /// Since when there has been no connection that works, and how long to pause before the next.
    away: Option<(Instant, Duration)>,
}

impl Client {
    /// The same connection, to a server that ends with this client, so that it can keep no calls.
    #[must_use]
    pub fn without_kept_calls(mut self) -> Self {
        self.keeps_calls = false;
        self
    }
}

/// Opens a call that is kept, or attaches to one.
pub(super) fn open(client: &Client, id: String, open: Open) -> Conversation {
    let (ours, theirs) = Channel::pair(limits::CHANNEL_BYTES);
    let (to_sender, from_sender) = theirs.split();
    let (controls, controlled) = Control::queue();
    let (mut decide, outcome) = PendingOutcome::new();
    let client = client.clone();
    let linger = open.keeping.as_ref().map_or(LINGER_ATTACHED, |keeping| {
        Duration::from_millis(keeping.linger_milliseconds)
    });
    let attach = open.attach.as_ref();
    let mut call = Kept {
        session: attach.map_or_else(|| id.clone(), |attach| attach.session.clone()),
        id,
        open,
        uplink: Arc::new(Uplink::new(from_sender, outcome.dropped())),
        to_sender,
        controlled,
        undelivered: None,
        received: 0,
        kept: false,
        linger,
        opened: since_boot(),
        away: None,
    };
    let tasks = client.tasks.clone();
    tasks.spawn(async move {
        let mut connection = client.clone();
        let outcome = tokio::select! {
            outcome = call.drive(&client, &mut connection) => Some(outcome),
            // The conversation was dropped, which ends the call.
            () = decide.closed() => None,
        };
        let reconnected = !connection.end.is_of(&client.end);
        match outcome {
            Some(outcome) => {
                decide.send(outcome).ok();
            }
            None => {
                goodbye(&connection, &call.id).await;
            }
        }
        // Whoever waits for this task ends the program then: what was said last over a connection
        // that nobody else knows, such as that the outcome has arrived, must have left.
        drop(client);
        if reconnected {
            connection.close().await;
        }
    });
    Conversation {
        channel: ours,
        controls,
        outcome,
    }
}

/// Whoever has attached from elsewhere tries to come back for as long as interactive calls are kept.
const LINGER_ATTACHED: Duration = Duration::from_secs(24 * 3600);

impl Kept {
    /// Drives the call to its outcome, over as many connections as that takes.
    async fn drive(&mut self, client: &Client, connection: &mut Client) -> Outcome {
        loop {
            let fault = match self.attempt(client, connection).await {
                End::Outcome(outcome) => return outcome,
                End::Lost(fault) if client.way.is_none() => {
                    return Outcome::Lost(Fault::new(format!("the connection was lost: {fault}")));
                }
                End::Lost(fault) if !self.is_overdue() => fault,
                End::Lost(fault) | End::Refused(fault) => return Outcome::Lost(self.lost(fault)),
            };
            client
                .links
                .send_replace(Some(Link::Lost(fault.to_string())));
            if let Err(outcome) = self.reconnect(client, connection).await {
                return outcome;
            }
            self.open.attach = Some(self.comes_back().into());
            if self.kept {
                // What was opened is not opened again.
                self.open.request.clear();
                self.open.arguments.clear();
            }
        }
    }

    /// How the call goes on over the next connection.
    fn comes_back(&self) -> Attach {
        let former = self.open.attach.as_ref();
        Attach {
            session: self.session.clone(),
            resume: true,
            received: self.received,
            read_only: former.is_some_and(|former| former.read_only),
            terminal: false,
            predicts: false,
            own_size: former.is_some_and(|former| former.own_size),
            or_open: self.is_in_doubt()
                && since_boot().saturating_sub(self.opened) < OPENED_AGAIN_WITHIN,
        }
    }

    /// Whether the server may never have heard of this client's own call.
    fn is_in_doubt(&self) -> bool {
        !self.kept && self.session == self.id
    }

    /// Connects again, for as long as the call waits for its client.
    async fn reconnect(&mut self, client: &Client, connection: &mut Client) -> Result<(), Outcome> {
        loop {
            // The first attempt comes at once.
            let (since, pause) = self
                .away
                .unwrap_or_else(|| (Instant::now(), Duration::ZERO));
            let next_pause = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            self.away = Some((since, next_pause));
            tokio::select! {
                () = tokio::time::sleep(jittered(pause)) => {}
                outcome = self.given_up() => return Err(outcome),
            }
            let connecting = async {
                match &client.way {
                    Some(way) => way.connect().await,
                    None => Err(Fault::new("there is no way back")),
                }
            };
            let connected = tokio::select! {
                connected = connecting => connected,
                outcome = self.given_up() => return Err(outcome),
            };
            match connected {
                Ok(mut again) => {
                    // All connections of one client share these.
                    again.links = client.links.clone();
                    again.tasks = client.tasks.clone();
                    *connection = again;
                    return Ok(());
                }
                Err(fault) if self.is_overdue() => return Err(Outcome::Lost(self.lost(fault))),
                Err(fault) => tracing::info!(%fault, "cannot connect again yet"),
            }
        }
    }

    /// How long a connection is looked for: as long as the call waits for its client. One that has
    /// never said that it does may not even have begun.
    fn patience(&self) -> Duration {
        match self.kept {
            true => self.linger,
            false => self.linger.min(UNCERTAIN),
        }
    }

    /// Whether a connection has been looked for long enough.
    fn is_overdue(&self) -> bool {
        self.away
            .is_some_and(|(since, _)| since.elapsed() >= self.patience())
    }

    /// Why nobody can say what has become of the call.
    fn lost(&self, fault: Fault) -> Fault {
        match self.kept {
            true => fault,
            false => Fault::new(format!(
                "the connection was lost before the server said whether the call had begun: {fault}"
            )),
        }
    }

    /// Waits until the user gives up while there is no connection.
    async fn given_up(&mut self) -> Outcome {
        loop {
            match self.controlled.receive().await {
                Some(Control::Cancel) => {
                    let fault = Fault::new(
                        "the server could not be told to end the call, which it does when it has \
                         waited long enough",
                    );
                    return Outcome::Lost(fault.with_hint("`legatus end` ends it earlier"));
                }
                Some(Control::Detach) => return Outcome::SUCCESS,
                Some(control) => self.undelivered = Some(control),
                None => return std::future::pending().await,
            }
        }
    }

    /// Drives the call over one connection.
    async fn attempt(&mut self, client: &Client, connection: &Client) -> End {
        let stop = CancellationToken::new();
        let in_doubt = self.is_in_doubt();
        let is_new = self.open.attach.is_none();
        let requests = self
            .uplink
            .requests(self.open.clone(), is_new, stop.clone());
        let taken = CancellationToken::new();
        let Self {
            uplink,
            to_sender,
            received,
            kept,
            open,
            away,
            ..
        } = self;
        let leaves = open
            .keeping
            .as_ref()
            .is_some_and(|keeping| keeping.detached);
        let resumes = open.attach.as_ref().is_some_and(|attach| attach.resume);
        let replies = async {
            let mut replies = match begin(connection, requests).await {
                Ok(replies) => replies,
                Err(Refusal::Refused(outcome)) => return End::Outcome(outcome),
                // A certificate that is refused now will be later.
                Err(Refusal::Lost(error)) if connection.end.is_about_tls() => {
                    return match resumes {
                        true => End::Refused(error.into()),
                        false => End::Outcome(Outcome::Unavailable(error.into())),
                    };
                }
                Err(Refusal::Lost(error)) => return End::Lost(Fault::new(error.chain())),
            };
            loop {
                let part = match replies.next().await {
                    Ok(Some(reply)) => CallReply::decode(reply).ok().and_then(|reply| reply.part),
                    Ok(None) => {
                        return End::Lost(Fault::new("the server has ended the connection"));
                    }
                    Err(error) => {
                        let cause = connection.explain(&error).await;
                        return End::Lost(Fault::new(cause.chain()));
                    }
                };
                match part {
                    Some(call_reply::Part::Message(message)) => {
                        uplink.received(message.len());
                        *received += 1;
                        // A Sender that no longer listens still wants to know the outcome.
                        to_sender.send(message).await.ok();
                    }
                    Some(call_reply::Part::Taken(told)) => {
                        if !uplink.taken(told.messages) || (resumes && told.next > *received) {
                            let fault = Fault::new("too much was said while this client was away");
                            return End::Outcome(Outcome::Lost(
                                fault.with_hint("`legatus attach` shows what is still there"),
                            ));
                        }
                        if !taken.is_cancelled() {
                            *received = (*received).max(told.next);
                            uplink.starts_at(told.next);
                            taken.cancel();
                            if resumes {
                                client.links.send_replace(Some(Link::Back));
                            }
                            (*kept, *away) = (true, None);
                        }
                    }
                    Some(call_reply::Part::Outcome(outcome)) => {
                        // That the call was not found yet is not how it ended.
                        match Outcome::from(outcome) {
                            Outcome::Unavailable(fault) if resumes && !taken.is_cancelled() => {
                                return End::Lost(fault);
                            }
                            Outcome::Lost(fault)
                                if resumes && in_doubt && !taken.is_cancelled() =>
                            {
                                return End::Lost(fault);
                            }
                            outcome => {
                                if !leaves {
                                    uplink.fetched();
                                }
                                return End::Outcome(outcome);
                            }
                        }
                    }
                    None => {
                        let fault = "the server sent a message that this client does not know";
                        return End::Outcome(Outcome::Lost(Fault::new(fault)));
                    }
                }
            }
        };
        let controls = pass_on(
            connection,
            &self.id,
            &mut self.controlled,
            &mut self.undelivered,
            &taken,
        );
        let end = tokio::select! {
            end = replies => end,
            never = controls => match never {},
        };
        if matches!(end, End::Lost(_)) {
            stop.cancel();
        }
        end
    }
}

/// Passes controls on, each in a request of its own beside the call's stream.
async fn pass_on(
    connection: &Client,
    id: &str,
    controlled: &mut ControlReceiver,
    undelivered: &mut Option<Control>,
    taken: &CancellationToken,
) -> std::convert::Infallible {
    taken.cancelled().await;
    loop {
        let control = match *undelivered {
            Some(control) => control,
            None => match controlled.receive().await {
                Some(control) => control,
                None => return std::future::pending().await,
            },
        };
        *undelivered = Some(control);
        let request = ControlRequest {
            call_id: id.to_owned(),
            control: Some(control.into()),
        };
        if let Err(status) = connection.grpc.clone().control(request).await {
            tracing::debug!(%status, "a control was not delivered");
            // The next connection does it, if this one is lost.
            return std::future::pending().await;
        }
        *undelivered = None;
    }
}

/// Tells the server that the call is over for its client, unlike when the connection is lost; whether it
/// has heard that.
pub(super) async fn goodbye(connection: &Client, id: &str) -> bool {
    let request = ControlRequest {
        call_id: id.to_owned(),
        control: Some(control_request::Control::Cancel(Empty {})),
    };
    let mut grpc = connection.grpc.clone();
    let told = tokio::time::timeout(GOODBYE, grpc.control(request)).await;
    let is_told = matches!(told, Ok(Ok(_)));
    if !is_told {
        tracing::warn!("the server could not be told to end the call");
    }
    is_told
}

/// The time since this machine was started, also while it slept.
fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(now).unwrap_or_default()
}

/// A pause that differs from client to client, so that not all come back at once: between half of
/// it and all.
fn jittered(pause: Duration) -> Duration {
    let mut random = [0; 1];
    // Without randomness all pauses are the longest.
    let share = match getrandom::fill(&mut random) {
        Ok(()) => u32::from(random[0]),
        Err(_) => 255,
    };
    pause / 2 + pause / 2 * share / 255
}
