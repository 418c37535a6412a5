//! What an endpoint may move (`qos.projectcalico.org/…`): packets a second, bandwidth, connections at once.
//!
//! ```text
//!   packet rate ─► flow ─ known ──────────────────────────────► bandwidth ─► on
//!                    └ new ─► connections ─► policy, remember ─┘
//! ```
//!
//! Limits are enforced where the endpoint's flows are, by the worker that owns it; what they need to remember is the
//! worker's own. Excess is dropped at once; nothing waits. A super-frame counts as one packet, and with all its bytes.
//!
//! A worker reads its clock in milliseconds, once a turn. So that a rate can be reached at all, a burst is never less
//! than what comes in [`GRAIN_MS`].

use rustc_hash::FxHashMap;

use crate::batch::{Egress, Ingress, Slot, Step, Verdict};
use crate::drop_reason::DropReason;
use crate::rate_limit::RateLimit;
use crate::stage::{Context, rewrite, tcp_reset};
use crate::table::{EndpointIndex, LimitedEndpoints, Limits};
use crate::worker::WorkerIndex;

/// How much time a burst covers, at least.
pub const GRAIN_MS: u64 = 4;
/// Packets at once, where a packet rate comes without.
const DEFAULT_PACKET_BURST: u64 = 5;
/// Bits at once, where a bandwidth comes without: 4 Gibit, as Calico has it.
const DEFAULT_BURST_BITS: u64 = 4 << 30;
/// Bytes at the peak rate at once, where that comes without: an Ethernet frame.
const DEFAULT_PEAK_BURST_BYTES: u64 = 1514;

/// What a worker remembers of the limits of its endpoints.
#[derive(Debug, Default)]
pub struct Limiter {
    /// By endpoint: towards it, and from it.
    endpoints: FxHashMap<EndpointIndex, [Meter; 2]>,
    /// What was last followed.
    followed: LimitedEndpoints,
}

/// One direction of an endpoint.
#[derive(Clone, Copy, Debug)]
struct Meter {
    limits: Limits,
    packets: Option<RateLimit>,
    /// Bits.
    bandwidth: Option<RateLimit>,
    /// Bits.
    peak: Option<RateLimit>,
}

/// A limit, if there is a rate.
fn rate_limit(per_second: u64, burst: u64, default_burst: u64) -> Option<RateLimit> {
    let burst = if burst == 0 { default_burst } else { burst };
    (per_second > 0)
        .then(|| RateLimit::new(per_second, burst.max(per_second.saturating_mul(GRAIN_MS) / 1000)))
}

impl Meter {
    fn new(limits: Limits) -> Self {
        let peak_burst = limits.peak_burst_bytes.saturating_mul(8);
        Meter {
            limits,
            packets: rate_limit(limits.packets_per_second, limits.packet_burst, DEFAULT_PACKET_BURST),
            bandwidth: rate_limit(limits.bits_per_second, limits.burst_bits, DEFAULT_BURST_BITS),
            peak: rate_limit(limits.peak_bits_per_second, peak_burst, DEFAULT_PEAK_BURST_BYTES * 8),
        }
    }
}

impl Limiter {
    /// Whether no endpoint of this worker has a limit: what most nodes pay is this question, once a batch.
    #[inline]
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// Takes up what the tables say. A direction whose limits have not changed goes on where it was.
    pub fn follow(&mut self, limited: &LimitedEndpoints, worker: WorkerIndex) {
        if self.followed.is(limited) {
            return;
        }
        let mut former = std::mem::take(&mut self.endpoints);
        for limited in limited.iter().filter(|limited| limited.worker == worker.0) {
            let stated = [limited.into, limited.out].map(Meter::new);
            let meters = match former.remove(&limited.endpoint) {
                Some([into, out]) => {
                    let keep =
                        |former: Meter, new: Meter| if former.limits == new.limits { former } else { new };
                    [keep(into, stated[0]), keep(out, stated[1])]
                }
                None => stated,
            };
            self.endpoints.insert(limited.endpoint, meters);
        }
        self.followed = limited.clone();
    }

    fn meter(&mut self, endpoint: EndpointIndex, out: bool) -> Option<&mut Meter> {
        self.endpoints.get_mut(&endpoint).map(|both| &mut both[usize::from(out)])
    }
}

/// The endpoint that a packet is from (`out`), or goes to.
fn endpoint_of(slot: &Slot, out: bool) -> Option<EndpointIndex> {
    match slot.ingress {
        Ingress::Endpoint(endpoint) if out => Some(endpoint),
        _ if out => None,
        _ => slot.deliver_to,
    }
}

/// Drops what exceeds its endpoint's packet rate. Before anything is looked up.
#[inline]
pub fn packets(context: &mut Context, batch: &mut [Slot], out: bool) {
    if !context.limits.is_idle() {
        for slot in batch.iter_mut().filter(|slot| slot.goes_on()) {
            let Some(endpoint) = endpoint_of(slot, out) else { continue };
            let Some(meter) = context.limits.meter(endpoint, out) else { continue };
            let packets = rewrite::packets(slot);
            if meter.packets.as_mut().is_some_and(|limit| !limit.allow_many(context.now, packets)) {
                slot.drop(DropReason::PacketRateLimit);
            }
        }
    }
}

/// Drops what exceeds its endpoint's bandwidth. Only what policy has let pass counts.
#[inline]
pub fn bytes(context: &mut Context, batch: &mut [Slot], out: bool) {
    if context.limits.is_idle() {
        return;
    }
    for slot in batch {
        let is_on_its_way = match slot.verdict {
            // An answer to what the host asked is decided upon already, and one that another worker translates …
            Verdict::Continue | Verdict::Transmit(Egress::Host | Egress::Forward) => true,
            Verdict::HandOver(_, Step::Node(_)) => out,
            // What host endpoints do not have tracked is decided upon before flows are.
            Verdict::Transmit(Egress::Endpoint(_)) => !out,
            // … but what goes to another worker's pod counts there.
            _ => false,
        };
        if !is_on_its_way {
            continue;
        }
        let Some(endpoint) = endpoint_of(slot, out) else { continue };
        let Some(meter) = context.limits.meter(endpoint, out) else { continue };
        let bits = rewrite::bytes(slot) * 8;
        let mut both = [&mut meter.bandwidth, &mut meter.peak];
        if both.iter_mut().all(|limit| limit.as_mut().is_none_or(|limit| limit.has(context.now, bits))) {
            both.into_iter().flatten().for_each(|limit| limit.take(bits));
        } else {
            slot.drop(DropReason::BandwidthLimit);
        }
    }
}

/// Whether an endpoint has as many connections as it may have; the packet that would open another is refused then: TCP
/// with a reset to who opens, anything else is dropped. To be asked while the packet has the addresses and ports that
/// its sender gave it.
#[inline]
pub fn refuses_connection(
    context: &mut Context,
    slot: &mut Slot,
    endpoint: EndpointIndex,
    out: bool,
) -> bool {
    if context.limits.is_idle() {
        return false;
    }
    let most = context.limits.meter(endpoint, out).map_or(0, |meter| meter.limits.connections);
    // This host reaches its own pods whatever they have.
    let is_host = slot.ingress == Ingress::Host && !out;
    if most == 0 || is_host || u64::from(context.flows.connections(endpoint, out)) < most {
        return false;
    }
    if slot.parsed.protocol == caracal_wire::Protocol::TCP.0 {
        tcp_reset::reset(context, slot);
    }
    slot.drop(DropReason::ConnectionLimit);
    true
}
