//! What the controller says to the fastpath, and when. Pure: events and the time go in, actions come out.
//!
//! ```text
//!              Connect                Hello             Welcome, and the state is whole
//!   Waiting ───────────► Connecting ─────────► Greeting ─────────────────────────────► Synchronising
//!      ▲                                          │ Welcome, not yet whole ► Standby ─────►   │ the last Ack
//!      │                                                                                      ▼
//!      └──────────── connection lost, refused, nonsense, silence ◄─────────────────────── InSync
//! ```
//!
//! The invariant: the fastpath never hears `in_sync` before the whole state has been said on *this* connection, and the
//! state is not said before it is known to be whole; so nothing is removed because we do not know it yet. Every failure
//! has one answer: a new connection, on which everything is said again. Changes that arrive while the state is being
//! said wait behind it, in order.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use caracal_plane_api::{
    FromClient, FromFastpath, Hello, Op, Refused, Role, Transaction, VERSION, Welcome, from_client,
    from_fastpath,
};
use tracing::{debug, error, info, warn};

use super::chunk::{CHUNK_BYTES, TRANSACTION_BYTES, chunks, size};
use caracal_datastore::Backoff;

/// How soon a socket that nobody serves is tried again: a fastpath that restarts is back in sync within a second.
const RECONNECT: Duration = Duration::from_millis(40);
/// A connection that fails before it is in sync is tried again after this, doubling…
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
/// …up to this.
const BACKOFF_LIMIT: Duration = Duration::from_secs(10);
/// Silence after Hello for so long is a failure.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(5);
/// An Ack that takes longer is worth a warning; the fastpath may be busy, and reconnecting would only add to its work.
const ACK_SLOW: Duration = Duration::from_secs(5);
/// While there is nothing to say for so long, nothing is said: a transaction without operations, whose Ack shows that the fastpath lives.
const HEARTBEAT: Duration = Duration::from_secs(4);
/// A fastpath that owes an Ack for so long does not answer: it is stopped, or stuck. Long enough for one that is only starved.
const SILENT: Duration = Duration::from_secs(10);
/// Transactions on their way without an Ack. More wait here, and are merged while they wait.
const WINDOW: usize = 32;

/// What happens to a session.
#[derive(Debug)]
pub enum Event {
    /// The socket is open.
    Connected,
    /// The socket could not be opened, or broke; why.
    Lost(String),
    /// The fastpath has spoken.
    Received(Box<FromFastpath>),
    /// The state is known to be whole from now on: it may be said.
    Whole,
    /// The state has changed by these operations.
    Changed(Vec<Op>),
    /// The time that [`Session::wake`] named has come.
    Timer,
}

/// What to do about it.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Open a new connection.
    Connect,
    /// Close the connection; nothing more from it counts.
    Disconnect,
    /// Say this.
    Send(FromClient),
    /// Hand the whole state of this moment to [`Session::state`], before any other event.
    TakeState,
}

/// The controller's end of a conversation.
#[derive(Debug)]
pub struct Session {
    name: String,
    chunk_bytes: usize,
    transaction_bytes: usize,
    whole: bool,
    phase: Phase,
    backoff: Backoff,
    /// Said whenever it changes, not at every attempt.
    last_failure: String,
    instance: Option<u64>,
    next_seq: u64,
    waiting: VecDeque<Waiting>,
    unacknowledged: VecDeque<Sent>,
    said_slow: bool,
    /// Whether it has owed an Ack for too long.
    silent: bool,
    /// When it last said that it has everything, or was told something.
    quiet_since: Instant,
    /// How many times [`Event::Changed`] has come.
    changes: u64,
    /// The change up to which all is acknowledged, while in sync.
    adopted: u64,
    /// How long acknowledgements took that nobody has asked about yet.
    waits: Vec<Duration>,
    connections: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    Waiting {
        until: Instant,
    },
    Connecting,
    Greeting {
        deadline: Instant,
    },
    Standby,
    /// `last` is the transaction with in_sync, once it has been sent.
    Synchronising {
        last: Option<u64>,
    },
    InSync,
}

#[derive(Debug)]
struct Waiting {
    ops: Vec<Op>,
    bytes: usize,
    in_sync: bool,
    /// Part of the state: nothing may be merged into it.
    sealed: bool,
    /// The change that it completes; 0: none.
    change: u64,
}

/// A transaction without an Ack.
#[derive(Debug)]
struct Sent {
    seq: u64,
    at: Instant,
    /// The change that it completes; 0: none.
    change: u64,
    /// It says nothing.
    is_heartbeat: bool,
}

impl Session {
    /// A session that connects at its first [`Event::Timer`]. `name` is what the fastpath logs.
    #[must_use]
    pub fn new(name: String, now: Instant) -> Self {
        Self {
            name,
            chunk_bytes: CHUNK_BYTES,
            transaction_bytes: TRANSACTION_BYTES,
            whole: false,
            phase: Phase::Waiting { until: now },
            backoff: Backoff::new(BACKOFF_FIRST, BACKOFF_LIMIT),
            last_failure: String::new(),
            instance: None,
            next_seq: 1,
            waiting: VecDeque::new(),
            unacknowledged: VecDeque::new(),
            said_slow: false,
            silent: false,
            quiet_since: now,
            changes: 0,
            adopted: 0,
            waits: Vec::new(),
            connections: 0,
        }
    }

    /// When [`Event::Timer`] is due, if ever.
    #[must_use]
    pub fn wake(&self) -> Option<Instant> {
        match self.phase {
            Phase::Waiting { until } => Some(until),
            Phase::Greeting { deadline } => Some(deadline),
            Phase::Connecting | Phase::Standby => None,
            Phase::Synchronising { .. } | Phase::InSync => match self.unacknowledged.front() {
                Some(_) if self.silent => None,
                Some(sent) if self.said_slow => Some(sent.at + SILENT),
                Some(sent) => Some(sent.at + ACK_SLOW),
                None => (self.phase == Phase::InSync).then(|| self.quiet_since + HEARTBEAT),
            },
        }
    }

    /// Whether the fastpath has owed an acknowledgement for so long that it will hardly come.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.silent
    }

    /// Whether everything said so far has been adopted by the fastpath.
    #[must_use]
    pub fn settled(&self) -> bool {
        let all_acknowledged = self.unacknowledged.iter().all(|sent| sent.is_heartbeat);
        self.phase == Phase::InSync && all_acknowledged && self.waiting.is_empty()
    }

    /// How many changes there have been: the number of the last one.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// The number of the last change that the fastpath has adopted, and with it all before; `None` while it is not in
    /// sync.
    #[must_use]
    pub fn adopted(&self) -> Option<u64> {
        (self.phase == Phase::InSync).then_some(self.adopted)
    }

    /// How long acknowledgements took since this was last asked.
    pub fn take_waits(&mut self) -> impl Iterator<Item = Duration> {
        std::mem::take(&mut self.waits).into_iter()
    }

    /// How many connections there have been.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.connections
    }

    /// Takes an event; returns what to do, in order.
    #[must_use]
    pub fn on(&mut self, event: Event, now: Instant) -> Vec<Action> {
        match event {
            Event::Timer => self.timer(now),
            Event::Connected => self.connected(now),
            Event::Lost(why) => self.lost(&why, now),
            Event::Received(message) => self.received(*message, now),
            Event::Whole => {
                self.whole = true;
                if self.phase == Phase::Standby { self.synchronise() } else { Vec::new() }
            }
            Event::Changed(ops) => self.changed(ops, now),
        }
    }

    /// Takes the whole state, as [`Action::TakeState`] asks.
    #[must_use]
    pub fn state(&mut self, ops: Vec<Op>, now: Instant) -> Vec<Action> {
        if !matches!(self.phase, Phase::Synchronising { .. }) {
            return Vec::new();
        }
        info!(operations = ops.len(), "sending the whole state to the fastpath");
        self.waiting = chunks(ops, self.chunk_bytes, self.transaction_bytes)
            .into_iter()
            .map(|ops| Waiting { ops, bytes: 0, in_sync: false, sealed: true, change: 0 })
            .collect();
        if let Some(last) = self.waiting.back_mut() {
            last.in_sync = true;
            last.change = self.changes;
        }
        self.send_waiting(now)
    }

    fn timer(&mut self, now: Instant) -> Vec<Action> {
        match self.phase {
            Phase::Waiting { until } if until <= now => {
                self.phase = Phase::Connecting;
                vec![Action::Connect]
            }
            Phase::Greeting { deadline } if deadline <= now => {
                self.fail("it did not answer Hello: is this a Caracal plane socket?", now)
            }
            Phase::Synchronising { .. } | Phase::InSync => {
                let Some(Sent { seq, at, .. }) = self.unacknowledged.front() else {
                    return self.heartbeat(now);
                };
                if *at + ACK_SLOW <= now && !self.said_slow {
                    warn!(seq, waiting = ?(now - *at), "the fastpath has not acknowledged a transaction for long");
                    self.said_slow = true;
                }
                if *at + SILENT <= now && !self.silent {
                    error!("the fastpath does not answer; this node is not ready until it does");
                    self.silent = true;
                }
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// Says nothing, if nothing has been said for a while: who answers that, lives.
    fn heartbeat(&mut self, now: Instant) -> Vec<Action> {
        if self.phase != Phase::InSync || now < self.quiet_since + HEARTBEAT {
            return Vec::new();
        }
        let nothing = Waiting { ops: Vec::new(), bytes: 0, in_sync: false, sealed: true, change: 0 };
        self.waiting.push_back(nothing);
        self.send_waiting(now)
    }

    fn connected(&mut self, now: Instant) -> Vec<Action> {
        if self.phase != Phase::Connecting {
            return Vec::new();
        }
        self.connections += 1;
        self.phase = Phase::Greeting { deadline: now + WELCOME_TIMEOUT };
        let hello = Hello { version: VERSION, role: Role::Controller.into(), name: self.name.clone() };
        vec![Action::Send(FromClient { message: Some(from_client::Message::Hello(hello)) })]
    }

    fn lost(&mut self, why: &str, now: Instant) -> Vec<Action> {
        let wait = match self.phase {
            Phase::Waiting { .. } => return Vec::new(),
            // Nobody is there, or somebody was and all was well: be quick to find the next.
            Phase::Connecting | Phase::InSync | Phase::Standby => RECONNECT,
            Phase::Greeting { .. } | Phase::Synchronising { .. } => self.backoff.failed(),
        };
        self.say_failure(why);
        self.wait(now + wait);
        Vec::new()
    }

    fn received(&mut self, message: FromFastpath, now: Instant) -> Vec<Action> {
        match (message.message, self.phase) {
            (_, Phase::Waiting { .. } | Phase::Connecting) => Vec::new(),
            (Some(from_fastpath::Message::Refused(refused)), _) => self.refused(&refused, now),
            (Some(from_fastpath::Message::Welcome(welcome)), Phase::Greeting { .. }) => {
                self.welcome(&welcome, now)
            }
            (Some(from_fastpath::Message::Ack(ack)), Phase::Synchronising { .. } | Phase::InSync) => {
                self.acknowledged(ack.seq, now)
            }
            // A message of a kind that a later version may send.
            (None, _) => Vec::new(),
            (Some(other), phase) => {
                debug!(?other, ?phase, "out of place");
                self.fail("it sent a message that has no place here", now)
            }
        }
    }

    fn welcome(&mut self, welcome: &Welcome, now: Instant) -> Vec<Action> {
        if welcome.version != VERSION {
            let why = format!(
                "it speaks version {} of the plane API and this agent speaks {VERSION}: upgrade the older of the two",
                welcome.version
            );
            return self.fail(&why, now);
        }
        let restarted = self.instance.is_some_and(|instance| instance != welcome.instance);
        self.instance = Some(welcome.instance);
        self.last_failure.clear();
        info!(software = welcome.software, workers = welcome.workers, restarted, "connected to the fastpath");
        if self.whole {
            self.synchronise()
        } else {
            info!("the cluster's state is not yet known whole; the fastpath keeps what it has until then");
            self.phase = Phase::Standby;
            Vec::new()
        }
    }

    fn synchronise(&mut self) -> Vec<Action> {
        self.phase = Phase::Synchronising { last: None };
        vec![Action::TakeState]
    }

    fn changed(&mut self, ops: Vec<Op>, now: Instant) -> Vec<Action> {
        self.changes += 1;
        // Elsewhere the state that will be taken holds the change already.
        if !matches!(self.phase, Phase::Synchronising { .. } | Phase::InSync) {
            return Vec::new();
        }
        // What has changed at one moment is seen at one moment.
        let parts = chunks(ops, self.transaction_bytes, self.transaction_bytes);
        for ops in parts.into_iter().filter(|ops| !ops.is_empty()) {
            let bytes = ops.iter().map(size).sum();
            match self.waiting.back_mut() {
                Some(last) if !last.sealed && last.bytes + bytes <= self.chunk_bytes => {
                    last.ops.extend(ops);
                    last.bytes += bytes;
                }
                _ => {
                    let waiting = Waiting { ops, bytes, in_sync: false, sealed: false, change: 0 };
                    self.waiting.push_back(waiting);
                }
            }
        }
        match self.waiting.back_mut() {
            Some(last) => last.change = self.changes,
            // A change of nothing is adopted with what went before.
            None => match self.unacknowledged.back_mut() {
                Some(last) => last.change = self.changes,
                None => self.adopted = self.changes,
            },
        }
        self.send_waiting(now)
    }

    fn send_waiting(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        while self.unacknowledged.len() < WINDOW {
            let Some(Waiting { ops, in_sync, change, .. }) = self.waiting.pop_front() else { break };
            let seq = self.next_seq;
            self.next_seq += 1;
            let is_heartbeat = ops.is_empty() && self.phase == Phase::InSync;
            self.unacknowledged.push_back(Sent { seq, at: now, change, is_heartbeat });
            // Once in sync, every later transaction leaves the state whole as well.
            let in_sync = match &mut self.phase {
                Phase::Synchronising { last } if in_sync => {
                    *last = Some(seq);
                    true
                }
                Phase::Synchronising { last: None } => false,
                _ => true,
            };
            let transaction = Transaction { seq, ops, in_sync };
            actions.push(Action::Send(FromClient {
                message: Some(from_client::Message::Transaction(transaction)),
            }));
        }
        actions
    }

    fn acknowledged(&mut self, seq: u64, now: Instant) -> Vec<Action> {
        if seq >= self.next_seq {
            return self.fail("it acknowledged a transaction that was never sent", now);
        }
        while let Some(sent) = self.unacknowledged.pop_front_if(|sent| sent.seq <= seq) {
            self.adopted = self.adopted.max(sent.change);
            if !sent.is_heartbeat {
                self.waits.push(now.saturating_duration_since(sent.at));
            }
        }
        self.said_slow = false;
        self.quiet_since = now;
        if std::mem::take(&mut self.silent) {
            info!("the fastpath answers again");
        }
        if let Phase::Synchronising { last: Some(last) } = self.phase
            && seq >= last
        {
            self.phase = Phase::InSync;
            self.backoff.succeeded();
            info!("the fastpath is in sync");
        }
        self.send_waiting(now)
    }

    fn refused(&mut self, refused: &Refused, now: Instant) -> Vec<Action> {
        let why = if refused.seq == 0 {
            format!("it refused this connection: {}", refused.reason)
        } else {
            format!("it refused transaction {}: {}", refused.seq, refused.reason)
        };
        self.fail(&why, now)
    }

    fn fail(&mut self, why: &str, now: Instant) -> Vec<Action> {
        let wait = self.backoff.failed();
        self.say_failure(why);
        self.wait(now + wait);
        vec![Action::Disconnect]
    }

    fn say_failure(&mut self, why: &str) {
        if self.last_failure != why {
            self.last_failure = why.to_owned();
            error!("fastpath: {why}; trying again until it works; then the whole state is sent again");
        }
    }

    fn wait(&mut self, until: Instant) {
        self.phase = Phase::Waiting { until };
        self.next_seq = 1;
        self.waiting.clear();
        self.unacknowledged.clear();
        self.said_slow = false;
        self.silent = false;
    }
}

#[cfg(test)]
mod tests;
