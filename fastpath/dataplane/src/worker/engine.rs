//! A worker without its thread: ports, pipeline and rings, one turn at a time. The thread's loop is in
//! [`super::thread`]; the simulator turns an engine by hand.

mod output;

use std::net::IpAddr;
use std::sync::Arc;

use caracal_wire::Protocol;
use caracal_xsk::FramePool;

use super::WorkerIndex;
use crate::batch::{BATCH_MAX, Batch, Egress, Ingress, Slot, Step, UplinkIndex, Verdict};
use crate::clock::Tick;
use crate::counters::{PortCounters, WorkerCounters};
use crate::drop_reason::DropReason;
use crate::flow::{Aged, FlowEntry};
use crate::handover::Peer;
use crate::packet::Packet;
use crate::pipeline::{EndpointLink, Link, Pipeline, Surroundings, Uplink};
use crate::port::{Boxes, BulkSender, HEADROOM, Port};
use crate::segment;
use crate::snapshot::Subscriber;
use crate::stage::express::HEADERS_AHEAD;
use crate::stage::{self, arp, nd};
use crate::table::{EndpointIndex, Tables};

/// Where in an engine a port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortSlot(pub usize);

/// What a port is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The fabric.
    Uplink(UplinkIndex),
    /// A pod.
    Endpoint(EndpointIndex),
    /// `caracal0`.
    Host,
    /// `caracal1`.
    Forward,
}

impl Role {
    fn ingress(self) -> Ingress {
        match self {
            Role::Uplink(uplink) => Ingress::Uplink(uplink),
            Role::Endpoint(endpoint) => Ingress::Endpoint(endpoint),
            Role::Host => Ingress::Host,
            Role::Forward => Ingress::Forward,
        }
    }
}

/// Which worker has the ports that there is only one of.
#[derive(Clone, Copy, Debug, Default)]
pub struct Owners {
    /// The uplinks (their first queues, for workers that have none of their own).
    pub uplink: WorkerIndex,
    /// `caracal0`.
    pub host: WorkerIndex,
    /// `caracal1`.
    pub forward: WorkerIndex,
}

fn set_at(slots: &mut Vec<Option<usize>>, index: usize, port: usize) {
    if slots.len() <= index {
        slots.resize(index + 1, None);
    }
    slots[index] = Some(port);
}

#[derive(Debug)]
struct EnginePort {
    port: Port,
    role: Role,
    counters: Arc<PortCounters>,
    /// What super-frames leave by that the port does not carry.
    bulk: Option<BulkSender>,
    /// It has frames that the kernel has not taken: it is in `Engine::dirty` or in `Engine::stalled`.
    dirty: bool,
    /// How many, after the last flush.
    unsent: usize,
    /// Flushes in a row that sent nothing.
    idle_flushes: u8,
}

/// Everything of a worker but its thread.
pub struct Engine {
    index: WorkerIndex,
    /// The stages and what they own.
    pub pipeline: Pipeline,
    /// The free frames of this worker's domain.
    pub pool: FramePool,
    counters: Arc<WorkerCounters>,
    tables: Subscriber<Tables>,
    ports: Vec<Option<EnginePort>>,
    uplinks: Vec<Option<usize>>,
    host: Option<usize>,
    forward: Option<usize>,
    endpoints: Vec<Option<usize>>,
    owners: Owners,
    peers: Vec<Option<Peer>>,
    /// What has just come, and by which port each of it leaves that has been carried the express way.
    arrivals: Vec<Packet>,
    fates: Vec<Option<Egress>>,
    /// The first packet of the last batch that has taken the long way was TCP.
    was_first_tcp: bool,
    batch: Batch,
    steps: Vec<Step>,
    boxes: Boxes,
    dirty: Vec<usize>,
    /// Ports whose kernel has not taken anything for a while: their device is down, or gone. Looked at now and then, so that a
    /// worker may sleep meanwhile.
    stalled: Vec<usize>,
    last_reclaim: Tick,
    last_ask: Tick,
}

/// Flows that are looked at in one turn at most, so that a turn stays short.
const AGED_A_TURN: usize = 64;
/// How often an unknown pod is asked for its MAC address, milliseconds.
const ASK_INTERVAL_MS: u32 = 50;
/// Surplus of pods is called home while less than this part of the pool is free.
const SURPLUS_WANTED: usize = 4;
/// How often a pod is asked at most, each time, for what it has too many.
const CALLED_HOME_AT_ONCE: usize = 16;

impl Engine {
    /// An engine without ports. `peers` has one entry a worker, its own empty.
    #[must_use]
    pub fn new(
        mut pipeline: Pipeline,
        index: WorkerIndex,
        pool: FramePool,
        counters: Arc<WorkerCounters>,
        tables: Subscriber<Tables>,
        peers: Vec<Option<Peer>>,
    ) -> Self {
        pipeline.limit_fragments(pool.total());
        pipeline.follow(tables.get());
        Engine {
            index,
            pipeline,
            pool,
            counters,
            tables,
            ports: Vec::new(),
            uplinks: Vec::new(),
            host: None,
            forward: None,
            endpoints: Vec::new(),
            owners: Owners::default(),
            peers,
            arrivals: Vec::with_capacity(BATCH_MAX),
            fates: Vec::with_capacity(BATCH_MAX),
            was_first_tcp: false,
            // Answers may double a batch.
            batch: Vec::with_capacity(2 * BATCH_MAX),
            steps: Vec::with_capacity(BATCH_MAX),
            boxes: Vec::new(),
            dirty: Vec::with_capacity(BATCH_MAX),
            stalled: Vec::new(),
            last_reclaim: Tick::default(),
            last_ask: Tick::default(),
        }
    }

    // --- control: when something changes ---

    /// Adopts the newest tables, if there are newer ones.
    #[inline]
    pub fn adopt(&mut self) {
        if self.tables.refresh() {
            self.pipeline.follow(self.tables.get());
            self.counters.pipeline.tables_adopted.add(1);
        }
    }

    /// The tables in use.
    #[must_use]
    pub fn tables(&self) -> &Arc<Tables> {
        self.tables.get()
    }

    /// Takes a port in.
    pub fn add_port(&mut self, port: Port, role: Role, counters: Arc<PortCounters>) -> PortSlot {
        let at = self.ports.iter().position(Option::is_none).unwrap_or_else(|| {
            self.ports.push(None);
            self.ports.len() - 1
        });
        match role {
            Role::Uplink(UplinkIndex(index)) => set_at(&mut self.uplinks, usize::from(index), at),
            Role::Host => self.host = Some(at),
            Role::Forward => self.forward = Some(at),
            Role::Endpoint(EndpointIndex(index)) => set_at(&mut self.endpoints, index as usize, at),
        }
        self.ports[at] =
            Some(EnginePort { port, role, counters, bulk: None, dirty: false, unsent: 0, idle_flushes: 0 });
        PortSlot(at)
    }

    /// Gives a port up. Its frames are in it: whoever takes it returns them.
    pub fn remove_port(&mut self, slot: PortSlot) -> Option<Port> {
        let mut removed = self.ports.get_mut(slot.0)?.take()?;
        self.dirty.retain(|at| *at != slot.0);
        self.stalled.retain(|at| *at != slot.0);
        // Of a packet of several frames each counts: nobody knows any more which belong together.
        for _ in 0..removed.port.unsent() {
            self.counters.count_drop(DropReason::PortGone);
        }
        for single in [&mut self.host, &mut self.forward].into_iter().chain(&mut self.uplinks) {
            if *single == Some(slot.0) {
                *single = None;
            }
        }
        // One that has been replaced already is only taken away.
        if let Role::Endpoint(endpoint) = removed.role
            && self.endpoints[endpoint.0 as usize] == Some(slot.0)
        {
            self.endpoints[endpoint.0 as usize] = None;
            self.pipeline.links.set_endpoint(endpoint, None);
        }
        Some(removed.port)
    }

    /// Has the super-frames that leave by a port's device leave by this.
    pub fn set_bulk_sender(&mut self, slot: PortSlot, bulk: BulkSender) {
        if let Some(Some(entry)) = self.ports.get_mut(slot.0) {
            entry.bulk = Some(bulk);
        }
    }

    /// The port at a slot.
    #[must_use]
    pub fn port(&self, slot: PortSlot) -> Option<&Port> {
        Some(&self.ports.get(slot.0)?.as_ref()?.port)
    }

    /// The same, to change.
    pub fn port_mut(&mut self, slot: PortSlot) -> Option<&mut Port> {
        Some(&mut self.ports.get_mut(slot.0)?.as_mut()?.port)
    }

    /// Every port, with its slot.
    pub fn ports_mut(&mut self) -> impl Iterator<Item = (PortSlot, Role, &mut Port)> {
        let ports = self.ports.iter_mut().enumerate();
        ports.filter_map(|(at, port)| port.as_mut().map(|p| (PortSlot(at), p.role, &mut p.port)))
    }

    /// Says what is known of a host port.
    pub fn set_link(&mut self, egress: Egress, link: Option<Link>) {
        match egress {
            Egress::Host => self.pipeline.links.host = link,
            Egress::Forward => self.pipeline.links.forward = link,
            Egress::Uplink(_) | Egress::Endpoint(_) => {}
        }
    }

    /// Says what is known of an uplink.
    pub fn set_uplink(&mut self, uplink: UplinkIndex, to: Option<Uplink>) {
        self.pipeline.links.set_uplink(uplink, to);
    }

    /// Says which workers have the single ports.
    pub fn set_owners(&mut self, owners: Owners) {
        self.owners = owners;
    }

    /// Says what is known of a pod's link. A MAC address that has been heard is kept; one that has not is asked for.
    pub fn set_endpoint_link(&mut self, endpoint: EndpointIndex, mut link: EndpointLink) {
        let heard = self.pipeline.links.endpoint(endpoint).and_then(|link| link.pod_mac);
        link.pod_mac = link.pod_mac.or(heard);
        self.pipeline.links.set_endpoint(endpoint, Some(link));
        if link.pod_mac.is_none() {
            self.ask(endpoint);
        }
    }

    /// Pods whose MAC address is not known yet.
    #[must_use]
    pub fn unresolved(&self) -> usize {
        self.pipeline.links.unresolved()
    }

    // --- packets: every turn ---

    /// Receives up to a batch from one port and takes it to its verdicts. Returns how many packets came.
    pub fn receive_from(&mut self, slot: PortSlot, now: Tick) -> usize {
        let Some(Some(entry)) = self.ports.get_mut(slot.0) else { return 0 };
        let ingress = entry.role.ingress();
        let arrivals = &mut self.arrivals;
        let mut bytes = 0;
        let count = entry.port.receive(&mut self.pool, &mut self.boxes, BATCH_MAX, |packet| {
            bytes += packet.len() as u64;
            arrivals.push(packet);
            // The others are fetched while their turn comes.
            if arrivals.len() <= HEADERS_AHEAD
                && let Some(packet) = arrivals.last()
            {
                packet.prefetch_headers();
            }
        });
        if count == 0 {
            return 0;
        }
        entry.counters.received_packets.add(count as u64);
        entry.counters.received_bytes.add(bytes);
        self.counters.pipeline.received_packets.add(count as u64);
        self.counters.pipeline.received_bytes.add(bytes);
        if self.arrivals.is_empty() {
            return count;
        }
        let surroundings =
            Surroundings { tables: self.tables.get(), pool: &mut self.pool, counters: &self.counters, now };
        let left = self.pipeline.carry(&mut self.arrivals, ingress, &mut self.fates, surroundings);
        let is_first_carried = self.fates.first().is_some_and(Option::is_some);
        if left == 0 {
            self.dispatch_carried();
        } else {
            self.run_rest(ingress, now);
        }
        // A batch is taken to be what its first packet is.
        let is_tcp = match is_first_carried {
            true => self.pipeline.express.was_first_tcp(),
            false => self.was_first_tcp,
        };
        if let Some(Some(entry)) = self.ports.get(slot.0) {
            entry.counters.batches.add(1);
            entry.counters.tcp_batches.add(u64::from(is_tcp));
        }
        count
    }

    /// Sends a batch that has been carried whole.
    fn dispatch_carried(&mut self) {
        let (mut arrivals, mut fates) = (std::mem::take(&mut self.arrivals), std::mem::take(&mut self.fates));
        for (packet, fate) in arrivals.drain(..).zip(fates.drain(..)) {
            match fate {
                Some(egress) => self.transmit(egress, packet),
                None => self.discard(packet, DropReason::NoRoute),
            }
        }
        (self.arrivals, self.fates) = (arrivals, fates);
    }

    /// Takes those of a batch the long way that have not been carried; they all leave in the order in which they came.
    #[inline(never)]
    fn run_rest(&mut self, ingress: Ingress, now: Tick) {
        for (packet, fate) in self.arrivals.drain(..).zip(self.fates.drain(..)) {
            let verdict = fate.map_or(Verdict::Continue, Verdict::Transmit);
            self.batch.push(Slot { verdict, ..Slot::new(packet, ingress) });
        }
        let surroundings =
            Surroundings { tables: self.tables.get(), pool: &mut self.pool, counters: &self.counters, now };
        self.pipeline.run(&mut self.batch, surroundings);
        let first = self.batch.first();
        self.was_first_tcp = first.is_some_and(|slot| slot.parsed.protocol == Protocol::TCP.0);
        self.dispatch();
    }

    /// Goes on with what other workers have handed over. Returns how many packets came.
    pub fn receive_from_peers(&mut self, now: Tick) -> usize {
        let mut total = 0;
        for at in 0..self.peers.len() {
            let Some(peer) = self.peers.get_mut(at).and_then(Option::as_mut) else { continue };
            self.steps.clear();
            let (batch, steps) = (&mut self.batch, &mut self.steps);
            peer.receive(BATCH_MAX, |packet, step| {
                batch.push(Slot::new(packet, Ingress::Ourselves));
                steps.push(step);
            });
            peer.top_up(&mut self.pool);
            if self.batch.is_empty() {
                continue;
            }
            total += self.batch.len();
            let surroundings = Surroundings {
                tables: self.tables.get(),
                pool: &mut self.pool,
                counters: &self.counters,
                now,
            };
            self.pipeline.take_over(&mut self.batch, self.steps.drain(..), surroundings);
            self.dispatch();
        }
        total
    }

    /// Whether another worker has handed something over.
    #[must_use]
    pub fn peers_have_sent(&self) -> bool {
        self.peers.iter().flatten().any(Peer::has_sent)
    }

    /// What time brings: flows that end, pods that are asked again, frames that come home. Cheap when called every turn.
    pub fn tick(&mut self, now: Tick) {
        if now != self.last_reclaim {
            self.last_reclaim = now;
            self.reclaim();
            self.retry_stalled();
        }
        self.age_flows(now);
        self.pipeline.fragments.expire(now);
        self.discard_fragments();
        if now.since(self.last_ask) >= ASK_INTERVAL_MS {
            self.last_ask = now;
            self.ask_the_unknown();
            self.call_surplus_home();
        }
    }

    /// Forgets flows whose time is over, or that nobody has any more, some at a time.
    fn age_flows(&mut self, now: Tick) {
        let (tables, worker) = (self.tables.get(), self.index);
        let is_somebodys = |flow: &FlowEntry| {
            tables.endpoints.get(flow.key.endpoint()).is_some_and(|e| e.may_send_from(flow.key.local().0))
        };
        let gone = self.pipeline.translations.age(now, |translation| translation.is_somebodys(tables));
        self.counters.pipeline.translations_ended.add(gone as u64);
        for _ in 0..AGED_A_TURN {
            let Some(aged) = self.pipeline.flows.age(now, is_somebodys) else { return };
            let carried = match aged {
                Aged::Stays(carried) => carried,
                Aged::Went(gone) => {
                    self.counters.pipeline.flow_closed.add(1);
                    gone.carried
                }
            };
            stage::account(tables, worker, carried);
        }
    }

    /// Brings the rules' counters up to date with the flows in `buckets` buckets from `first`; returns the next bucket,
    /// `None` at the end.
    pub fn settle_flows(&mut self, first: usize, buckets: usize) -> Option<usize> {
        let (tables, worker) = (self.tables.get(), self.index);
        self.pipeline.flows.settle_some(first, buckets, |carried| stage::account(tables, worker, carried))
    }

    fn reclaim(&mut self) {
        for entry in self.ports.iter_mut().flatten() {
            match &mut entry.port {
                Port::Xsk(port) => {
                    port.reclaim(&mut self.pool);
                    port.refill(&mut self.pool);
                }
                Port::PacketSocket(port) => {
                    let (refused, lost) = port.take_losses();
                    self.counters.count_drops(DropReason::Oversized, refused);
                    self.counters.count_drops(DropReason::ReceiveBufferFull, lost);
                }
                Port::Tap(_) | Port::Memory(_) => {}
            }
        }
        for peer in self.peers.iter_mut().flatten() {
            peer.top_up(&mut self.pool);
        }
    }

    fn ask_the_unknown(&mut self) {
        for index in 0..self.endpoints.len() {
            let endpoint = EndpointIndex(index as u32);
            if self.pipeline.links.endpoint(endpoint).is_some_and(|link| link.pod_mac.is_none()) {
                self.ask(endpoint);
            }
        }
    }

    /// Has pods that were given many frames when they were few say something, so that some come back for those that came since: what the
    /// kernel has to receive into comes back with packets only, and who is silent would keep it.
    fn call_surplus_home(&mut self) {
        if self.pool.free() > self.pool.total() / SURPLUS_WANTED {
            return;
        }
        for index in 0..self.endpoints.len() {
            let at = self.endpoints.get(index).copied().flatten();
            let port = at.and_then(|at| self.ports.get(at)).and_then(Option::as_ref).map(|entry| &entry.port);
            let surplus = if let Some(Port::Xsk(port)) = port { port.surplus() } else { 0 };
            for _ in 0..surplus.min(CALLED_HOME_AT_ONCE) {
                self.ask(EndpointIndex(index as u32));
            }
        }
    }

    fn ask(&mut self, endpoint: EndpointIndex) {
        let tables = self.tables.get();
        let Some(pod) = tables.endpoints.get(endpoint).and_then(|e| e.addresses.iter().next()) else {
            return;
        };
        let Some(mut frame) = self.pool.take() else { return };
        frame.reset(HEADROOM);
        let asked = match pod {
            IpAddr::V4(pod) => arp::ask(&mut frame, pod),
            IpAddr::V6(pod) => nd::ask(&mut frame, pod),
        };
        if asked.is_none() {
            return self.pool.put(frame);
        }
        self.transmit(Egress::Endpoint(endpoint), Packet::new(frame));
    }

    /// Carries out the verdicts of the batch, and empties it.
    fn dispatch(&mut self) {
        let mut batch = std::mem::take(&mut self.batch);
        for slot in batch.drain(..) {
            match slot.verdict {
                Verdict::Transmit(egress) => self.transmit(egress, slot.packet),
                Verdict::HandOver(worker, step) => self.hand_over(worker, step, slot.packet),
                Verdict::Drop(reason) => {
                    self.blame(slot.ingress);
                    self.discard(slot.packet, reason);
                }
                Verdict::Consumed => slot.packet.release(&mut self.pool, &mut self.boxes),
                // Every stage leaves a verdict behind it; were one not to, the packet goes nowhere.
                Verdict::Continue => self.discard(slot.packet, DropReason::NoRoute),
            }
        }
        self.batch = batch;
        self.discard_fragments();
    }

    /// Counts a dropped packet at the port that it came in by. What another worker has handed over came by none of ours.
    #[cold]
    fn blame(&self, ingress: Ingress) {
        let at = match ingress {
            Ingress::Endpoint(endpoint) => self.endpoints.get(endpoint.0 as usize).copied().flatten(),
            Ingress::Uplink(uplink) => self.uplinks.get(usize::from(uplink.0)).copied().flatten(),
            // Which of several is no longer known.
            Ingress::Tunnel(_) => self.uplinks.iter().copied().flatten().next(),
            Ingress::Host => self.host,
            Ingress::Forward => self.forward,
            Ingress::Ourselves => None,
        };
        if let Some(entry) = at.and_then(|at| self.ports.get(at)).and_then(Option::as_ref) {
            entry.counters.dropped_packets.add(1);
        }
    }

    /// Parts of datagrams that wait no longer for the first one.
    #[inline]
    fn discard_fragments(&mut self) {
        while let Some((slot, refusal)) = self.pipeline.fragments.discarded() {
            self.discard(slot.packet, stage::fragment::reason(refusal));
        }
    }
}

/// What is held goes home with the pool.
impl Drop for Engine {
    fn drop(&mut self) {
        self.pipeline.fragments.clear();
        self.discard_fragments();
        for entry in self.ports.drain(..).flatten() {
            if let Port::Tap(port) = entry.port {
                port.into_frames().into_iter().for_each(|frame| self.pool.put(frame));
            }
        }
    }
}
