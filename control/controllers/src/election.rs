//! Who leads: of several processes one acts, and the Lease that it keeps says which.
//!
//! ```text
//!           read                  taken: holder seen to renew within its lease
//!   ┌─────► looking ────────────────────────────────────────────┐
//!   │         │ free, its own, or silent for a whole lease       │ wait
//!   │         ▼                                                  ▼
//!   └──── writing ──► leading until sent + renew deadline ◄──► waiting
//! ```
//!
//! The invariant: **at most one acts**. It needs no clock that two machines share.
//!
//! * A leader counts from the instant *before* it sent the renewal that was taken, and acts only until
//!   [`Timing::renew_deadline`] after that, answer or no answer.
//! * Another takes over only when it has itself seen the Lease unchanged for a whole [`Timing::lease`], counted from the
//!   answer in which it saw it first; times that the Lease itself tells are for people and never compared.
//! * Every write is a swap of the version that was read, so of two that take over one does.
//!
//! The renewal was taken after it was sent and before anybody read it; so the other begins a `lease` after an instant that
//! is later than the one from which the leader counts its shorter deadline. Clocks may go at different speeds as long as
//! they differ by less than `lease / renew_deadline`. What a leader sent before its deadline may arrive after it: writes are
//! swaps, too, and controllers expect them to be refused.
//!
//! Pure: `now` is an argument, what is to be done is returned.

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

/// For how long things hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Who has not seen the leader renew for so long takes over.
    pub lease: Duration,
    /// A leader that could not renew for so long no longer acts. Shorter than `lease`.
    pub renew_deadline: Duration,
    /// How long to wait between two looks at the Lease, or two renewals.
    pub retry: Duration,
}

/// With these periods two could act at once, or nobody for long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the lease holds for {} ms, is given up after {} ms and renewed every {} ms: each must be longer than the next",
    .0.lease.as_millis(), .0.renew_deadline.as_millis(), .0.retry.as_millis()
)]
pub struct TimingError(pub Timing);

impl Timing {
    /// The same, if it keeps what the Lease promises: the lease is longer than the deadline, and that than two tries apart.
    ///
    /// # Errors
    /// It does not.
    pub fn checked(self) -> Result<Self, TimingError> {
        let is_good = self.lease > self.renew_deadline
            && self.renew_deadline > self.retry
            && !self.retry.is_zero()
            && self.lease >= Duration::from_secs(1);
        if is_good { Ok(self) } else { Err(TimingError(self)) }
    }
}

impl Default for Timing {
    /// As Kubernetes' own controllers have it.
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// What a Lease says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// Who leads; empty: nobody.
    pub holder: String,
    /// For how long after a renewal.
    pub lease: Duration,
    /// How often the holder has changed.
    pub transitions: u32,
}

/// A Lease as it was read: what it says, and its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What it says.
    pub record: Record,
    /// Its version; another after every write.
    pub version: String,
}

/// What happens to a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The time that [`Election::wake`] named has come.
    Timer,
    /// The Lease has been read; `None`: there is none.
    Read(Option<Found>),
    /// It could not be read.
    ReadFailed,
    /// It says now what was to be written.
    Written,
    /// Somebody else was quicker.
    Refused,
    /// It is not known whether it was written.
    WriteFailed,
    /// This process is to end, and has stopped acting: nothing of its is under way any more.
    Ended,
}

/// What a candidate is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Read the Lease.
    Read,
    /// Write the Lease if it still has this version; `None`: make it.
    Write {
        /// What it is to say.
        record: Record,
        /// The version that it replaces.
        replaces: Option<String>,
        /// Whether the holder changes, or the Lease is made: since when it holds is told anew.
        acquires: bool,
    },
    /// There is nothing left to do.
    Done,
}

/// What a candidate waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// The next look.
    Waiting { until: Instant },
    /// The answer to a read.
    Reading,
    /// The answer to a write, which was sent then.
    Writing { sent: Instant },
    /// The answer to the write that gives the Lease back.
    Releasing,
    /// Nothing.
    Ended,
}

/// The Lease as this candidate last saw it change.
#[derive(Debug, Clone)]
struct Seen {
    version: String,
    since: Instant,
}

/// One candidate.
#[derive(Debug, Clone)]
pub struct Election {
    identity: String,
    timing: Timing,
    state: State,
    seen: Option<Seen>,
    /// Until when it may act.
    leads_until: Option<Instant>,
    /// What its own last write said, for giving it back.
    last: Option<Record>,
    ending: bool,
}

impl Election {
    /// A candidate of this name, which no other process has, now or ever.
    #[must_use]
    pub fn new(identity: impl Into<String>, timing: Timing, now: Instant) -> Self {
        Self {
            identity: identity.into(),
            timing,
            state: State::Waiting { until: now },
            seen: None,
            leads_until: None,
            last: None,
            ending: false,
        }
    }

    /// Until when it may act, if it may: it must not begin anything at that instant or later.
    #[must_use]
    pub fn leads_until(&self) -> Option<Instant> {
        self.leads_until
    }

    /// Whether it may act.
    #[must_use]
    pub fn leads(&self, now: Instant) -> bool {
        self.leads_until.is_some_and(|until| now < until)
    }

    /// When [`Event::Timer`] is due; `None` while an answer is waited for.
    #[must_use]
    pub fn wake(&self) -> Option<Instant> {
        match self.state {
            State::Waiting { until } => Some(until),
            _ => None,
        }
    }

    /// Takes an event; returns what is to be done. An answer that nobody waits for is ignored.
    pub fn on(&mut self, event: Event, now: Instant) -> Option<Action> {
        if event == Event::Ended {
            return self.end();
        }
        match (&self.state, event) {
            (State::Waiting { until }, Event::Timer) if now >= *until => self.read(),
            (State::Reading, Event::Read(found)) if !self.ending => self.decide(found, now),
            (State::Writing { sent }, Event::Written) => {
                self.leads_until = Some(*sent + self.timing.renew_deadline);
                self.wait(now)
            }
            // What is there now is another's, or our own after all: the next look tells.
            (State::Writing { .. }, Event::Refused) if !self.ending => self.read(),
            (State::Reading, Event::Read(_) | Event::ReadFailed)
            | (State::Writing { .. }, Event::Refused | Event::WriteFailed) => self.wait(now),
            (State::Releasing, Event::Read(found)) => self.release(found),
            (State::Releasing, Event::Timer) => None,
            (State::Releasing, _) => {
                self.state = State::Ended;
                Some(Action::Done)
            }
            _ => None,
        }
    }

    fn read(&mut self) -> Option<Action> {
        self.state = State::Reading;
        Some(Action::Read)
    }

    fn wait(&mut self, now: Instant) -> Option<Action> {
        self.state = State::Waiting { until: now + self.timing.retry };
        if self.ending { self.end() } else { None }
    }

    /// Looks at the Lease, and takes or renews it if that may be.
    fn decide(&mut self, found: Option<Found>, now: Instant) -> Option<Action> {
        let Some(Found { record, version }) = found else {
            self.seen = None;
            return self.write(Record { transitions: 0, ..self.own() }, None, true, now);
        };
        let since = match &self.seen {
            Some(seen) if seen.version == version => seen.since,
            _ => {
                self.seen = Some(Seen { version: version.clone(), since: now });
                now
            }
        };
        if record.holder == self.identity {
            let record = Record { transitions: record.transitions, ..self.own() };
            return self.write(record, Some(version), false, now);
        }
        // Somebody else's: whatever this one believed, it no longer leads.
        self.leads_until = None;
        let promised = record.lease.max(self.timing.lease);
        if !record.holder.is_empty() && now < since + promised {
            return self.wait(now);
        }
        let record = Record { transitions: record.transitions.saturating_add(1), ..self.own() };
        self.write(record, Some(version), true, now)
    }

    fn own(&self) -> Record {
        Record { holder: self.identity.clone(), lease: self.timing.lease, transitions: 0 }
    }

    fn write(
        &mut self,
        record: Record,
        replaces: Option<String>,
        acquires: bool,
        now: Instant,
    ) -> Option<Action> {
        self.state = State::Writing { sent: now };
        self.last = Some(record.clone());
        Some(Action::Write { record, replaces, acquires })
    }

    /// Gives the Lease back, so that another need not wait; only if it may be this one's.
    fn end(&mut self) -> Option<Action> {
        self.ending = true;
        self.leads_until = None;
        match self.state {
            // Its answer comes first.
            State::Reading | State::Writing { .. } => None,
            State::Waiting { .. } if self.last.is_some() => {
                self.state = State::Releasing;
                Some(Action::Read)
            }
            State::Waiting { .. } => {
                self.state = State::Ended;
                Some(Action::Done)
            }
            State::Releasing | State::Ended => None,
        }
    }

    fn release(&mut self, found: Option<Found>) -> Option<Action> {
        match found {
            Some(Found { record, version }) if record.holder == self.identity => {
                let record = Record { holder: String::new(), ..record };
                Some(Action::Write { record, replaces: Some(version), acquires: false })
            }
            _ => {
                self.state = State::Ended;
                Some(Action::Done)
            }
        }
    }
}
