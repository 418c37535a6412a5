//! What a worker counts. Each counter has one writer, the worker; anybody may read at any time.
//!
//! A bump is a relaxed load and a relaxed store: no read-modify-write, no sharing of cache lines between workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::drop_reason::DropReason;

/// One count.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning worker may.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// The count now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! pipeline_counters {
    ($($name:ident: $description:literal,)*) => {
        /// What a worker's pipeline counts, besides drops and per-port traffic.
        #[derive(Debug, Default)]
        pub struct PipelineCounters { $(#[doc = $description] pub $name: Counter),* }

        impl PipelineCounters {
            /// Every counter with its name and description.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((stringify!($name), $description, self.$name.get())),*].into_iter()
            }
        }
    };
}

pipeline_counters! {
    received_packets: "Packets that came in by the worker's ports.",
    received_bytes: "Their bytes.",
    flow_hits: "Packets of flows whose verdict was current.",
    flow_revalidated: "Packets of flows whose verdict held under newer tables, without asking the rules.",
    flow_rejudged: "Packets of flows that the rules judged again, because the peer or the policies had changed.",
    flow_created: "Flows that policy allowed and that were remembered.",
    flow_closed: "Flows that ended or timed out.",
    flow_evicted: "Flows that made way for new ones in a full table.",
    flow_related: "ICMP errors that belong to a flow.",
    host_to_pod: "First packets that this host sent to its own pods, which policy does not judge.",
    delivered_local: "Packets from one endpoint of this node to another.",
    tunnel_encapsulated: "Packets put into a tunnel.",
    tunnel_decapsulated: "Packets taken out of a tunnel.",
    to_uplink_plain: "Packets sent to the uplink without a tunnel.",
    to_host: "Packets handed to this host.",
    arp_answered: "ARP requests answered for the pods' gateway.",
    nd_answered: "Neighbour solicitations answered for the pods' gateway.",
    arp_learned: "Link-layer addresses of pods learned.",
    icmp_errors_sent: "ICMP errors sent: time exceeded, fragmentation needed or packet too big, unreachable.",
    icmp_errors_suppressed: "ICMP errors not sent: because of the rate limit, or for want of a frame or of an address to send from.",
    tcp_resets_sent: "TCP connections refused with a reset.",
    fragments_held: "Fragments that waited for the first one of their datagram, which has the ports.",
    fragmented: "IPv4 packets longer than their way that were cut into fragments.",
    fragments_made: "Fragments that those were cut into.",
    policy_log_lost: "Denials and passed Log rules that were not logged: more flows began at once than there is room for.",
    translated: "Packets given other addresses or ports, on their way or back.",
    translations_made: "Connections that are translated: to services, out of pools, from this host to other nodes' pods.",
    translations_ended: "Translations that timed out, or whose pod went, found by looking through them.",
    nat_ports_exhausted: "Connections for which every port tried was taken.",
    segmented: "Super-frames that were cut for a port that carries none.",
    segmented_by_kernel: "Super-frames that left by an uplink whole, for the kernel or the device to segment.",
    segments_made: "Packets that those were cut into.",
    checksums_completed: "Half-made checksums completed in software.",
    handed_over: "Packets handed to another worker.",
    taken_over: "Packets taken from another worker.",
    batches: "Batches processed.",
    tables_adopted: "Generations of the tables adopted.",
    waits: "Times the worker blocked because there was nothing to do.",
}

/// One worker's counters.
#[derive(Debug)]
pub struct WorkerCounters {
    /// Packets dropped, by reason.
    drops: [Counter; DropReason::COUNT],
    /// Everything else that is counted once a worker.
    pub pipeline: PipelineCounters,
}

impl WorkerCounters {
    /// All at zero.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(WorkerCounters {
            drops: std::array::from_fn(|_| Counter::default()),
            pipeline: PipelineCounters::default(),
        })
    }

    /// Counts one packet dropped.
    #[inline]
    pub fn count_drop(&self, reason: DropReason) {
        self.count_drops(reason, 1);
    }

    /// Counts so many packets dropped.
    #[inline]
    pub fn count_drops(&self, reason: DropReason, packets: u64) {
        if let Some(counter) = self.drops.get(reason as usize) {
            counter.add(packets);
        }
    }

    /// Packets dropped for `reason`.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops.get(reason as usize).map_or(0, Counter::get)
    }
}

/// What goes through one port. Written by the worker that owns the port.
#[derive(Debug, Default)]
pub struct PortCounters {
    /// Packets that came in by this port.
    pub received_packets: Counter,
    /// Their bytes.
    pub received_bytes: Counter,
    /// Packets that left by it.
    pub sent_packets: Counter,
    /// Their bytes.
    pub sent_bytes: Counter,
    /// Packets that came in by it and were dropped by its worker.
    pub dropped_packets: Counter,
    /// Batches that came in by this port …
    pub batches: Counter,
    /// … and how many of them began with TCP.
    pub tcp_batches: Counter,
}
