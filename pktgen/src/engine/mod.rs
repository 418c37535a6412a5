//! Engines: how packets are made and taken.
//!
//! ```text
//!   trial ─┬─ core 0: Transmit::send ──► packets ══► Receive::receive ─ sink 0: Account ─┐
//!          ├─ core 1: Transmit::send ──►    …    ══►       …          ─ sink 1: Account ─┼─► Totals
//!          └─ …                                                                          ┘
//! ```
//!
//! An engine opens as many [`Transmit`]s as there are cores to send on, and as many [`Receive`]s as there are sink threads; each works on
//! one thread, and nothing is shared between them on the packet path. A flow belongs to one Transmit, which numbers its packets; what each
//! has sent is added up by flow ([`Sent::merge`]). A sink tells its own `Account` of every mark that came, by `Account::count`
//! with the time at which it came and the length of its frame, and [`Progress`] of how many; accounts are merged when
//! all have ended. Both stay open from trial to trial, with the run's number as the only difference on the wire.

pub mod cores;
pub mod live;
pub mod memory;
pub mod notes;
pub mod socket;
pub mod xsk;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use caracal_xsk::live_frames::Flow;
use serde::{Deserialize, Serialize};

use crate::account::Account;
use crate::pace::Pacer;
use crate::traffic::UNMARKED;

/// One core's part of the generator.
pub trait Transmit: Send {
    /// Sends uncounted packets, so that neighbors are resolved and flows known before the counting begins.
    ///
    /// # Errors
    /// The kernel refuses in a way that trying again will not mend.
    fn scout(&mut self, run: u32) -> anyhow::Result<()>;

    /// Sends until the tokens of `pacer` are spent, its time is over, or `stop` is set. Adds what it sends to `progress` as it goes.
    ///
    /// # Errors
    /// The kernel refuses in a way that trying again will not mend.
    fn send(
        &mut self,
        run: u32,
        pacer: Pacer,
        progress: &AtomicU64,
        stop: &AtomicBool,
    ) -> anyhow::Result<Sent>;
}

/// One thread of the sink.
pub trait Receive: Send {
    /// Receives packets of a run until told to stop.
    ///
    /// # Errors
    /// The kernel refuses.
    fn receive(
        &mut self,
        run: u32,
        account: &mut Account,
        progress: &Progress,
        close: &AtomicBool,
    ) -> anyhow::Result<()>;

    /// Packets that came since it was opened, and were thrown away because the sink was too slow; `None`: not known.
    fn overflowed(&self) -> Option<u64>;
}

/// What was sent.
#[derive(Debug, Default)]
pub struct Sent {
    /// Packets of each flow.
    pub by_flow: Vec<u64>,
    /// Bytes of all frames, from Ethernet header to end of payload.
    pub bytes: u64,
    /// From the first packet to the last.
    pub elapsed: Duration,
    /// Packets that were due while the generator was held up, and were left out.
    pub missed: u64,
    /// Packets that the sender's own kernel refused.
    pub refused: u64,
    /// Packets without a mark, which nobody is to let through; not in `by_flow`.
    pub unmarked: u64,
    /// What the engine knows of the subject, when that is within this process.
    pub inside: Option<Inside>,
}

/// What is known of a subject within this process.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct Inside {
    /// Time that it took for each packet.
    pub nanoseconds_a_packet: f64,
    /// Packets that it was given.
    pub packets: u64,
    /// What it dropped, by reason.
    pub drops: BTreeMap<String, u64>,
}

impl Inside {
    fn add(&mut self, other: Inside) {
        let (mine, theirs) = (self.packets as f64, other.packets as f64);
        if mine + theirs > 0.0 {
            let sum = self.nanoseconds_a_packet * mine + other.nanoseconds_a_packet * theirs;
            self.nanoseconds_a_packet = sum / (mine + theirs);
        }
        self.packets += other.packets;
        for (reason, count) in other.drops {
            *self.drops.entry(reason).or_default() += count;
        }
    }
}

/// Flows as they stand after a run.
pub struct Sequences<'a>(pub &'a [Flow]);

impl Sequences<'_> {
    /// Adds what each has sent.
    pub fn count(&self, sent: &mut Sent) {
        for flow in self.0 {
            sent.count(flow.id, flow.sequence);
        }
    }
}

/// Below this, waiting for the next token by sleeping would be late: wake-ups take about so long.
const SPIN: Duration = Duration::from_micros(60);

/// Nobody sleeps longer: at low rates, too, a run ends soon after Ctrl-C.
const SLEEP_MAX: Duration = Duration::from_millis(20);

/// Waits for the next token, or part of the time until then.
pub fn wait(time: Duration) {
    wait_and_spin(time, SPIN);
}

/// The same; the last of it without sleeping.
pub fn wait_and_spin(time: Duration, spin: Duration) {
    if time > spin {
        std::thread::sleep((time - spin).min(SLEEP_MAX));
    } else {
        std::hint::spin_loop();
    }
}

impl Sent {
    /// Packets of all flows.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.by_flow.iter().sum()
    }

    /// Counts packets of a flow, by its number in the marks.
    pub fn count(&mut self, flow: u32, packets: u64) {
        if flow == UNMARKED {
            self.unmarked += packets;
            return;
        }
        let flow = flow as usize;
        if self.by_flow.len() <= flow {
            self.by_flow.resize(flow + 1, 0);
        }
        if let Some(sent) = self.by_flow.get_mut(flow) {
            *sent += packets;
        }
    }

    /// What several cores have sent at the same time.
    #[must_use]
    pub fn merge(parts: Vec<Sent>) -> Sent {
        let mut whole = Sent::default();
        for part in parts {
            if whole.by_flow.len() < part.by_flow.len() {
                whole.by_flow.resize(part.by_flow.len(), 0);
            }
            for (mine, theirs) in whole.by_flow.iter_mut().zip(&part.by_flow) {
                *mine += theirs;
            }
            whole.bytes += part.bytes;
            whole.elapsed = whole.elapsed.max(part.elapsed);
            whole.missed += part.missed;
            whole.refused += part.refused;
            whole.unmarked += part.unmarked;
            if let Some(inside) = part.inside {
                whole.inside.get_or_insert_default().add(inside);
            }
        }
        whole
    }
}

/// What others may watch of the sinks at work.
#[derive(Debug, Default)]
pub struct Progress {
    /// Different packets that came, to all sinks.
    pub received: AtomicU64,
    /// A scout has come: the way is open.
    pub scouted: AtomicBool,
}
