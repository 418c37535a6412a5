//! The packet's way, on one screen. Two half-pipelines meet at the route.
//!
//! ```text
//!  from a pod:   parse ─► source check ─► flow + egress policy ─┐
//!  from uplink:  parse ─► tunnel check, decapsulate, parse ─────┼─► route ─┬─► local pod: flow + ingress policy ─► its veth
//!  from host:    parse ─────────────────────────────────────────┘          │     (its worker, if that is another)
//!                                                                          ├─► remote: encapsulate, neighbor ─► uplink
//!  answers of ours (ICMP errors) start at the route                        ├─► outside: natOutgoing, neighbor ─► uplink
//!                                                                          └─► this host: host port
//! ```
//!
//! A pod that asks a service is answered in the flow stage: a packet that is no flow's gets its backend there, and then
//! is one's. What the node itself translates leaves the picture at the route, for the worker that owns the translation,
//! and comes back to the route ([`crate::stage::node`]).
//!
//! Before all that, packets of established flows leave by the express way if nothing about them is out of the ordinary
//! ([`crate::stage::express`]): what comes of them is the same.
//!
//! Stages run over a whole batch before the next begins, so that the memory one packet waits for arrives while others
//! are worked on.

use std::net::IpAddr;

use caracal_wire::MacAddr;
use caracal_xsk::FramePool;

use crate::batch::{BATCH_MAX, Batch, Egress, Ingress, Slot, Step, UplinkIndex, Verdict};
use crate::clock::Tick;
use crate::counters::WorkerCounters;
use crate::flow::{FlowTable, Timeouts};
use crate::fragment::{self, Tracker};
use crate::nat::{Affinity, Translations};
use crate::packet::Packet;
use crate::policy_log::Recorder;
use crate::rate_limit::RateLimit;
use crate::stage::express::{self, Express};
use crate::stage::fragment::Half;
use crate::stage::limit::{self, Limiter};
use crate::stage::parse::Fragment;
use crate::stage::{self, Context, arp, flow, foresee, nd, node, parse, rewrite, route, source, tunnel};
use crate::table::{EndpointIndex, Tables};
use crate::worker::WorkerIndex;

/// The worker's part that is not I/O: its flows, what it knows of links, and the stages.
#[derive(Debug)]
pub struct Pipeline {
    /// Connection tracking for this worker's endpoints.
    pub flows: FlowTable,
    /// What this worker translates.
    pub translations: Translations,
    affinity: Affinity,
    /// MAC addresses and MTUs of ports.
    pub links: Links,
    worker: WorkerIndex,
    /// Datagrams that pass in parts.
    pub fragments: Tracker<Slot>,
    pieces: Vec<Slot>,
    answers: Vec<Slot>,
    icmp_limit: RateLimit,
    limits: Limiter,
    /// What takes established flows the short way.
    pub express: Express,
    foreseen: foresee::Foreseen,
    /// Where judgements go that are to be logged; nowhere, until it is set.
    pub recorder: Recorder,
    /// Next hops that a packet needed and whose MAC address is not known: the controller has them resolved.
    pub unknown_neighbors: Vec<(u32, IpAddr)>,
}

/// Parts of datagrams may hold one of so many frames.
const FRAGMENTS_SHARE: usize = 16;

/// Next hops noted at once, at most.
pub const UNKNOWN_NEIGHBORS_MAX: usize = 16;

/// What a batch is run with.
pub struct Surroundings<'a> {
    /// The tables that the worker has adopted.
    pub tables: &'a Tables,
    /// Where answers get their frames.
    pub pool: &'a mut FramePool,
    /// What is counted.
    pub counters: &'a WorkerCounters,
    /// The time.
    pub now: Tick,
}

impl Pipeline {
    /// A pipeline for `flows` flows. `secret` keys the flow hash.
    #[must_use]
    pub fn new(worker: WorkerIndex, flows: usize, secret: u64) -> Self {
        Pipeline {
            flows: FlowTable::new(flows, secret),
            translations: Translations::new(flows / 2, secret),
            affinity: Affinity::new(secret),
            links: Links::default(),
            worker,
            fragments: Tracker::new(fragment::Limits::default()),
            pieces: Vec::new(),
            answers: Vec::with_capacity(BATCH_MAX),
            icmp_limit: RateLimit::new(ICMP_ERRORS_PER_SECOND, ICMP_ERRORS_BURST),
            limits: Limiter::default(),
            express: Express::default(),
            foreseen: foresee::Foreseen::default(),
            recorder: Recorder::default(),
            unknown_neighbors: Vec::with_capacity(UNKNOWN_NEIGHBORS_MAX),
        }
    }

    /// Bounds what is held of datagrams in parts by the frames that there are.
    pub fn limit_fragments(&mut self, frames: usize) {
        let limits = fragment::Limits::default();
        let frames = limits.frames.min(frames / FRAGMENTS_SHARE);
        self.fragments = Tracker::new(fragment::Limits { frames, ..limits });
    }

    /// Takes up what newer tables say of this worker's own things.
    pub fn follow(&mut self, tables: &Tables) {
        if let Some(node) = tables.node.config() {
            self.flows.set_timeouts(Timeouts::new(&node.flow_timeouts));
            self.translations.set_timeouts(Timeouts::new(&node.flow_timeouts));
        }
        self.limits.follow(tables.endpoints.limited(), self.worker);
        self.express.follow(tables);
    }

    /// Carries those packets that can be, all of which have just come in by one port, the express way: they are as they are
    /// to leave then. `fates` says by which port, of each in turn; None: it is to be [run](Self::run). Returns how many are.
    pub fn carry(
        &mut self,
        packets: &mut [Packet],
        ingress: Ingress,
        fates: &mut Vec<Option<Egress>>,
        surroundings: Surroundings,
    ) -> usize {
        let mut context = self.context(surroundings);
        let left = express::carry(&mut context, packets, ingress, fates);
        if left == 0 {
            context.counters.pipeline.batches.add(1);
        }
        left
    }

    /// Takes packets that have just come in by a port to their verdicts. Answers of ours are appended to the batch.
    pub fn run(&mut self, batch: &mut Batch, surroundings: Surroundings) {
        let mut context = self.context(surroundings);
        context.counters.pipeline.batches.add(1);
        // By which port is asked once: a batch has come in by one, and so have the parts that waited for one in it.
        let Some(ingress) = batch.first().map(|slot| slot.ingress) else { return };
        let mut has_parts = false;
        for slot in going_on(batch) {
            match ingress {
                Ingress::Uplink(uplink) => {
                    source::check_uplink(&context, slot, uplink);
                    if slot.goes_on() {
                        tunnel::receive(&mut context, slot);
                    }
                }
                _ => parse::parse(slot),
            }
            if !slot.parsed.is_ipv4() && slot.goes_on() {
                about_the_link(&mut context, slot);
            }
            has_parts |= slot.parsed.fragment != Fragment::No;
        }
        if let Ingress::Endpoint(endpoint) = ingress {
            from_endpoint(&mut context, batch, endpoint, has_parts);
        } else if has_parts {
            stage::fragment::track_at_node(&mut context, batch);
        }
        from_route(&mut context, batch);
        answer(&mut context, batch);
        batch.append(context.pieces);
    }

    /// Goes on with packets that another worker began: `step` says where.
    pub fn take_over(
        &mut self,
        batch: &mut Batch,
        steps: impl Iterator<Item = Step>,
        surroundings: Surroundings,
    ) {
        let mut context = self.context(surroundings);
        let (mut has_parts, mut at_node) = (false, false);
        for (slot, step) in batch.iter_mut().zip(steps) {
            context.counters.pipeline.taken_over.add(1);
            match step {
                Step::Transmit(egress) => slot.verdict = Verdict::Transmit(egress),
                Step::Node(ingress) => {
                    slot.ingress = ingress;
                    parse::parse(slot);
                    at_node = true;
                    has_parts |= slot.parsed.fragment != Fragment::No;
                }
                Step::Deliver(endpoint, ingress, at_node) => {
                    slot.ingress = ingress;
                    slot.at_node = at_node;
                    slot.deliver_to = Some(endpoint);
                    parse::parse(slot);
                    has_parts |= slot.parsed.fragment != Fragment::No;
                }
            }
        }
        if at_node {
            if has_parts {
                stage::fragment::track(&mut context, batch, |slot| {
                    slot.deliver_to.is_none().then_some(fragment::Scope::Node)
                });
            }
            for slot in going_on(batch).filter(|slot| slot.deliver_to.is_none()) {
                node::at_owner(&mut context, slot);
                has_parts |= slot.parsed.fragment != Fragment::No;
            }
        }
        to_endpoints(&mut context, batch, has_parts);
        answer(&mut context, batch);
        batch.append(context.pieces);
    }

    fn context<'a>(&'a mut self, surroundings: Surroundings<'a>) -> Context<'a> {
        let Surroundings { tables, pool, counters, now } = surroundings;
        Context {
            tables,
            generation: tables.generation.0 as u32,
            flows: &mut self.flows,
            translations: &mut self.translations,
            affinity: &mut self.affinity,
            links: &mut self.links,
            counters,
            pool,
            fragments: &mut self.fragments,
            pieces: &mut self.pieces,
            answers: &mut self.answers,
            icmp_limit: &mut self.icmp_limit,
            limits: &mut self.limits,
            express: &mut self.express,
            foreseen: &mut self.foreseen,
            recorder: &mut self.recorder,
            unknown_neighbors: &mut self.unknown_neighbors,
            now,
            worker: self.worker,
        }
    }
}

/// ARP, and what IPv6 has in its place.
#[inline(never)]
fn about_the_link(context: &mut Context, slot: &mut Slot) {
    match slot.ingress {
        _ if slot.parsed.is_arp() => arp::handle(context, slot),
        Ingress::Endpoint(endpoint) if nd::is_link_message(&slot.parsed) => {
            nd::handle(context, slot, endpoint);
        }
        _ => {}
    }
}

fn going_on(batch: &mut [Slot]) -> impl Iterator<Item = &mut Slot> {
    batch.iter_mut().filter(|slot| slot.goes_on())
}

/// The first half of what a pod sends: whether it may send that, its flow, its egress policy.
fn from_endpoint(context: &mut Context, batch: &mut Batch, endpoint: EndpointIndex, has_parts: bool) {
    for slot in going_on(batch) {
        source::check_endpoint(context, slot, endpoint);
        flow::prepare(context, slot, endpoint, true);
    }
    if has_parts {
        parts_from_endpoint(context, batch, endpoint);
    }
    limit::packets(context, batch, true);
    let mut unknown = 0;
    for slot in going_on(batch) {
        flow::fetch(context, slot);
        unknown += u32::from(slot.flow_guess.is_none());
    }
    if unknown > 1 {
        foresee::first_packets(context, batch, true, |_| Some(endpoint));
    }
    for slot in going_on(batch) {
        flow::track(context, slot, endpoint, true);
    }
    context.foreseen.clear(true);
    limit::bytes(context, batch, true);
}

/// The second half: route, then ingress policy for local endpoints, then the last rewrite.
fn from_route(context: &mut Context, batch: &mut Batch) {
    let mut has_parts = false;
    for slot in going_on(batch) {
        route::route(context, slot);
        has_parts |= slot.parsed.fragment != Fragment::No;
    }
    to_endpoints(context, batch, has_parts);
}

/// Parts of datagrams that an endpoint sends: those that come out of it know their ports.
#[cold]
fn parts_from_endpoint(context: &mut Context, batch: &mut Batch, endpoint: EndpointIndex) {
    stage::fragment::track_half(context, batch, Half::Out);
    for slot in going_on(batch).filter(|slot| slot.parsed.fragment != Fragment::No) {
        flow::prepare(context, slot, endpoint, true);
    }
}

fn to_endpoints(context: &mut Context, batch: &mut Batch, has_parts: bool) {
    if has_parts {
        stage::fragment::track_half(context, batch, Half::In);
    }
    limit::packets(context, batch, false);
    crate::stage::host::untracked(context, batch);
    for slot in going_on(batch) {
        if let Some(endpoint) = slot.deliver_to {
            flow::prepare(context, slot, endpoint, false);
        }
    }
    let mut unknown = 0;
    for slot in going_on(batch) {
        if slot.deliver_to.is_some() {
            flow::fetch(context, slot);
            unknown += u32::from(slot.flow_guess.is_none());
        }
    }
    if unknown > 1 {
        foresee::first_packets(context, batch, false, |slot| slot.deliver_to);
    }
    for slot in going_on(batch) {
        if let Some(endpoint) = slot.deliver_to {
            flow::track(context, slot, endpoint, false);
        }
    }
    context.foreseen.clear(false);
    limit::bytes(context, batch, false);
    for slot in batch {
        rewrite::finish(context, slot);
    }
}

/// Sends the answers made on the way off along the second half. They cause no further answers.
fn answer(context: &mut Context, batch: &mut Batch) {
    if context.answers.is_empty() {
        return;
    }
    let mut answers = std::mem::take(context.answers);
    for slot in going_on(&mut answers) {
        parse::parse(slot);
        if slot.goes_on() {
            node::error_of_ours(context, slot);
        }
    }
    from_route(context, &mut answers);
    batch.append(&mut answers);
    *context.answers = answers;
}

/// ICMP errors that a worker sends in a second, on average …
const ICMP_ERRORS_PER_SECOND: u64 = 1000;
/// … and at once, at most.
const ICMP_ERRORS_BURST: u64 = 64;

/// A link that packets can leave by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Our end's MAC address.
    pub mac: MacAddr,
    /// The largest IP packet it carries, bytes.
    pub mtu: u16,
}

/// An uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// The kernel's number of its interface, by which routes name it.
    pub ifindex: u32,
    /// Its address and size.
    pub link: Link,
}

/// A pod's veth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointLink {
    /// The pod's MAC address, once it has been heard.
    pub pod_mac: Option<MacAddr>,
    /// The largest IP packet the veth carries, bytes.
    pub mtu: u16,
}

/// What this worker knows of links: written when ports come and go, read for every packet.
#[derive(Debug, Default)]
pub struct Links {
    /// `caracal0`.
    pub host: Option<Link>,
    /// `caracal1`.
    pub forward: Option<Link>,
    uplinks: Vec<Option<Uplink>>,
    endpoints: Vec<Option<EndpointLink>>,
    version: u32,
}

impl Links {
    /// Another number whenever an uplink or an endpoint's link may have changed.
    #[inline]
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// An uplink.
    #[inline]
    #[must_use]
    pub fn uplink(&self, uplink: UplinkIndex) -> Option<&Uplink> {
        self.uplinks.get(usize::from(uplink.0))?.as_ref()
    }

    /// The uplink on this interface: there are few, so they are looked through.
    #[inline]
    #[must_use]
    pub fn uplink_on(&self, ifindex: u32) -> Option<(UplinkIndex, Link)> {
        let mut uplinks = self.uplinks.iter().enumerate();
        uplinks.find_map(|(at, uplink)| match uplink {
            Some(uplink) if uplink.ifindex == ifindex => Some((UplinkIndex(at as u8), uplink.link)),
            _ => None,
        })
    }

    /// Sets or removes an uplink.
    pub fn set_uplink(&mut self, uplink: UplinkIndex, to: Option<Uplink>) {
        self.version = self.version.wrapping_add(1);
        let at = usize::from(uplink.0);
        if at >= self.uplinks.len() {
            self.uplinks.resize(at + 1, None);
        }
        self.uplinks[at] = to;
    }

    /// The link of an endpoint of this worker.
    #[inline]
    #[must_use]
    pub fn endpoint(&self, endpoint: EndpointIndex) -> Option<&EndpointLink> {
        self.endpoints.get(endpoint.0 as usize)?.as_ref()
    }

    /// The same, to change.
    pub fn endpoint_mut(&mut self, endpoint: EndpointIndex) -> Option<&mut EndpointLink> {
        self.version = self.version.wrapping_add(1);
        self.endpoints.get_mut(endpoint.0 as usize)?.as_mut()
    }

    /// Sets or removes an endpoint's link.
    pub fn set_endpoint(&mut self, endpoint: EndpointIndex, link: Option<EndpointLink>) {
        self.version = self.version.wrapping_add(1);
        let index = endpoint.0 as usize;
        if index >= self.endpoints.len() {
            self.endpoints.resize(index + 1, None);
        }
        self.endpoints[index] = link;
    }

    /// Endpoints whose MAC address has not been heard.
    #[must_use]
    pub fn unresolved(&self) -> usize {
        self.endpoints.iter().flatten().filter(|link| link.pod_mac.is_none()).count()
    }
}
