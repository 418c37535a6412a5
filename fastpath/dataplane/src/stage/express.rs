//! The express way: established flows in three passes, from the frame as it came to the frame as it leaves.
//!
//! ```text
//!   packets ─► read ────────────► guess ──────────► carry ──────────────────► fates
//!              headers, exit,     the flow's line   flow and verdict of now?   out by this port: done
//!              key, hash;         comes near        count it, rewrite          none: the long way
//!              tags come near
//! ```
//!
//! It carries what is ordinary: a whole IPv4 packet without options ([`headers`]), of a flow that is known, whose verdict
//! is that of the tables of now and whose state this packet does not change, by an exit that is ready ([`exits`]).
//!
//! Invariant: a packet that is not carried has not been changed, nor has anything been counted for it. It takes the long
//! way from its very beginning, and what comes of it is the same as if there were no express way. That packets carried here
//! are ahead of it does not matter, since they change no flow's state; but a SYN may begin another flow in the place of one,
//! so what follows it in its batch is not carried ([`Openings`]). (In a full table, which flow makes way may depend on
//! it.) A test holds both ways together, over random batches.

mod exits;
mod headers;

use std::net::Ipv4Addr;

use caracal_wire::checksum::Sum;
use caracal_wire::{Protocol, ethernet, ipv4, udp};

#[cfg(test)]
pub use self::exits::PLACES;
use self::exits::{Exit, Exits, Kind, TEMPLATE};
use self::headers::{Here, Openings, Plain, is_ipv4};
use crate::batch::{BATCH_MAX, Egress, Ingress, UplinkIndex};
use crate::clock::Tick;
use crate::flow::{FlowKey, FlowTable, State, Way};
use crate::packet::{Packet, PartialChecksum};
use crate::stage::parse::HEADERS;
use crate::stage::{Context, flow, source, tunnel};
use crate::table::{EndpointIndex, Tables};

/// What a worker needs on the express way.
#[derive(Debug)]
pub struct Express {
    lanes: Box<[Lane; BATCH_MAX]>,
    /// The receiver's half of what one pod sends to another of this worker's.
    seconds: Box<[Sought; BATCH_MAX]>,
    exits: Exits,
    is_closed: bool,
    carried: u64,
    /// Batches that are not read, since one like them was read for nothing: from uplinks, and from pods.
    pause: [u8; 2],
}

/// Of such a row of batches one in so many is read, …
const PAUSE: u8 = 8;
/// … if they are of at least so many packets: what reading fewer costs is little beside the rest.
const WORTH_A_PAUSE: usize = 32;

impl Default for Express {
    fn default() -> Self {
        Express {
            lanes: Box::new([Lane::default(); BATCH_MAX]),
            seconds: Box::new([Sought::default(); BATCH_MAX]),
            exits: Exits::default(),
            is_closed: false,
            carried: 0,
            pause: [0; 2],
        }
    }
}

impl Express {
    /// From now on every packet takes the long way: for tests, which compare the two.
    pub fn close(&mut self) {
        self.is_closed = true;
    }

    /// Packets that have been carried.
    #[must_use]
    pub fn carried(&self) -> u64 {
        self.carried
    }

    /// Whether the first packet of the last batch, which has been carried, was TCP.
    #[must_use]
    pub fn was_first_tcp(&self) -> bool {
        self.lanes[0].flow.key.protocol() == Protocol::TCP.0
    }

    /// Takes up newer tables.
    pub fn follow(&mut self, tables: &Tables) {
        self.exits.follow(tables);
    }
}

/// A flow that is looked for.
#[derive(Clone, Copy, Debug, Default)]
struct Sought {
    key: FlowKey,
    hash: u64,
    guess: Option<u32>,
}

impl Sought {
    /// Brings near what says where the flow is.
    #[inline(always)]
    fn prepare(&mut self, flows: &FlowTable) {
        self.hash = flows.hash(&self.key);
        flows.prefetch(self.hash);
    }
}

/// What was read of a packet.
#[derive(Clone, Copy, Debug)]
struct Lane {
    flow: Sought,
    /// The number of its exit's FIB entry; [`NOT_HERE`]: it takes the long way.
    exit: u32,
    /// Bytes in front of what becomes its Ethernet header.
    outer_len: u16,
    ip_len: u16,
    tos: u8,
    /// It is for a pod of this worker's, too.
    is_local: bool,
    /// Where in its transport header the checksum is, if that is half made; else 0.
    partial: u8,
}

/// How many packets ahead headers are fetched: more at once than the processor waits for together would hold up all.
pub const HEADERS_AHEAD: usize = 8;

/// No entry's number: there are fewer.
const NOT_HERE: u32 = u32::MAX;
/// Its exit has not been found yet.
const READ: u32 = NOT_HERE - 1;

impl Default for Lane {
    fn default() -> Self {
        Lane {
            flow: Sought::default(),
            exit: NOT_HERE,
            outer_len: 0,
            ip_len: 0,
            tos: 0,
            is_local: false,
            partial: 0,
        }
    }
}

/// What is counted for a batch.
#[derive(Default)]
struct Tally {
    carried: u64,
    local: u64,
    hits: u64,
    revalidated: u64,
    out_of_tunnels: u64,
    into_tunnels: u64,
    plain: u64,
}

/// Carries those of the packets that can be, all of which have come in by one port: afterwards they are as they are to
/// leave. `fates` says by which port, of each packet in turn; None: the packet takes the long way. Returns how many do.
pub fn carry(
    context: &mut Context,
    packets: &mut [Packet],
    ingress: Ingress,
    fates: &mut Vec<Option<Egress>>,
) -> usize {
    fates.clear();
    let is_open = !context.express.is_closed
        && packets.len() <= BATCH_MAX
        // What looks at each packet of some endpoint, or by each segment's numbers.
        && context.limits.is_idle()
        && !context.tables.host_endpoints.has_untracked()
        && !context.flows.checks_windows();
    let side = usize::from(matches!(ingress, Ingress::Endpoint(_)));
    let pause = &mut context.express.pause[side];
    let is_open = is_open && *pause == 0;
    *pause = pause.saturating_sub(1);
    let has_read = is_open
        && match ingress {
            Ingress::Uplink(uplink) => from_uplink(context, packets, uplink).is_some(),
            Ingress::Endpoint(endpoint) => from_endpoint(context, packets, endpoint).is_some(),
            _ => false,
        };
    if !has_read {
        packets.iter().skip(HEADERS_AHEAD).for_each(Packet::prefetch_headers);
        fates.resize(packets.len(), None);
        return packets.len();
    }
    let sender = match ingress {
        Ingress::Endpoint(endpoint) => Some(endpoint),
        _ => None,
    };
    find(context, packets.len(), sender);
    let Express { lanes, seconds, exits, .. } = &mut *context.express;
    for (lane, second) in lanes[..packets.len()].iter_mut().zip(seconds.iter_mut()) {
        if lane.exit != NOT_HERE {
            lane.flow.guess = context.flows.guess(lane.flow.hash);
            if lane.is_local {
                second.guess = context.flows.guess(second.hash);
            }
        }
    }
    let keeps_addresses = context.tables.node.config().is_some_and(|node| node.nat_outgoing.is_none());
    let mut carrier = Carrier {
        flows: context.flows,
        tables: context.tables,
        exits,
        generation: context.generation,
        now: context.now,
        out: sender.is_some(),
        keeps_addresses,
        tally: Tally::default(),
    };
    let lanes = lanes.iter().zip(seconds.iter());
    let carried = packets.iter_mut().zip(lanes);
    fates.extend(carried.map(|(packet, (lane, second))| carrier.carry(packet, lane, second)));
    let tally = carrier.tally;
    let counters = &context.counters.pipeline;
    counters.flow_hits.add(tally.hits);
    counters.flow_revalidated.add(tally.revalidated);
    counters.tunnel_decapsulated.add(tally.out_of_tunnels);
    counters.tunnel_encapsulated.add(tally.into_tunnels);
    counters.to_uplink_plain.add(tally.plain);
    counters.delivered_local.add(tally.local);
    let carried = tally.carried;
    context.express.carried += carried;
    if carried == 0 && packets.len() >= WORTH_A_PAUSE {
        context.express.pause[side] = PAUSE - 1;
    }
    packets.len() - carried as usize
}

/// Reads what an uplink has brought. None: nobody knows this node or this uplink yet.
#[inline(never)]
fn from_uplink(context: &mut Context, packets: &[Packet], uplink: UplinkIndex) -> Option<()> {
    let tables = context.tables;
    let node = tables.node.config()?;
    let here = Here::new(node, context.links.uplink(uplink)?.link.mac)?;
    // Packets from one node come together often.
    let mut known = None;
    let mut openings = Openings::default();
    for (at, (lane, packet)) in context.express.lanes.iter_mut().zip(packets).enumerate() {
        if let Some(ahead) = packets.get(at + HEADERS_AHEAD) {
            ahead.prefetch_headers();
        }
        lane.exit = NOT_HERE;
        let frame = packet.head.data();
        let arrival = here.arrival(frame).filter(|_| is_plain(packet));
        let Some((arrival, plain)) = arrival.and_then(|arrival| {
            let frame = frame.get(usize::from(arrival.outer_len)..)?;
            Some((arrival, Plain::read(frame)?))
        }) else {
            openings.note(frame, node.vxlan_port);
            continue;
        };
        if openings.may_have(&plain) {
            continue;
        }
        if arrival.outer_len != 0 {
            if known != Some(arrival.source) {
                if tables.tunnels.by_source(Ipv4Addr::from_bits(arrival.source).into()).is_none() {
                    continue;
                }
                known = Some(arrival.source);
            }
            // A half-made checksum that moves along; congestion marks to be combined; what must not be in a tunnel.
            let is_odd = packet.offload.checksum.is_some()
                || !tunnel::leaves_mark(plain.tos, arrival.tos)
                || plain.is_to_udp_port(node.vxlan_port);
            if is_odd {
                continue;
            }
        }
        let local = (plain.destination, plain.destination_port);
        lane.read(&plain, arrival.outer_len, local, (plain.source, plain.source_port));
        tables.fib.prefetch_v4(Ipv4Addr::from_bits(plain.destination));
    }
    Some(())
}

/// Reads what a pod has sent. None: the pod is not known.
#[inline(never)]
fn from_endpoint(context: &mut Context, packets: &[Packet], endpoint: EndpointIndex) -> Option<()> {
    let tables = context.tables;
    let node = tables.node.config()?;
    let sender = tables.endpoints.get(endpoint)?;
    let mut known = None;
    let mut openings = Openings::default();
    for (at, (lane, packet)) in context.express.lanes.iter_mut().zip(packets).enumerate() {
        if let Some(ahead) = packets.get(at + HEADERS_AHEAD) {
            ahead.prefetch_headers();
        }
        // What goes in front will be written there.
        packet.head.prefetch_room(TEMPLATE);
        lane.exit = NOT_HERE;
        let frame = packet.head.data();
        let is_ordinary = is_ipv4(frame) && is_plain(packet);
        let Some(plain) = Some(frame).filter(|_| is_ordinary).and_then(Plain::read) else {
            openings.note(frame, node.vxlan_port);
            continue;
        };
        if openings.may_have(&plain) {
            continue;
        }
        if known != Some(plain.source) {
            if !sender.may_send_from(Ipv4Addr::from_bits(plain.source).into()) {
                continue;
            }
            known = Some(plain.source);
        }
        if source::is_pods_vxlan(node, plain.protocol, plain.destination_port) {
            continue;
        }
        let remote = (plain.destination, plain.destination_port);
        lane.read(&plain, 0, (plain.source, plain.source_port), remote);
        tables.fib.prefetch_v4(Ipv4Addr::from_bits(plain.destination));
    }
    Some(())
}

/// Whether it is one frame, and no super-frame.
#[inline(always)]
fn is_plain(packet: &Packet) -> bool {
    packet.rest.is_none() && packet.offload.gso_size == 0
}

/// Finds the exits of what was read, and brings near what says where its flows are. `sender`: the pod that has sent it; None:
/// it is for pods.
#[inline(never)]
fn find(context: &mut Context, count: usize, sender: Option<EndpointIndex>) {
    let Context { express, flows, tables, links, .. } = context;
    let Express { lanes, seconds, exits, .. } = &mut **express;
    exits.follow_links(links);
    for (lane, second) in lanes[..count].iter_mut().zip(seconds.iter_mut()) {
        if lane.exit != READ {
            continue;
        }
        lane.exit = NOT_HERE;
        let (local, remote, _) = lane.flow.key.parts_v4();
        let destination = if sender.is_some() { remote } else { local };
        let Some(entry) = tables.fib.number_v4(Ipv4Addr::from_bits(destination)) else { continue };
        let exit = exits.of(entry, tables, links, context.worker);
        let endpoint = match (sender, exit.egress) {
            (Some(sender), Some(Egress::Uplink(_))) => sender,
            (Some(sender), Some(Egress::Endpoint(receiver))) => {
                lane.is_local = true;
                second.key = lane.flow.key.seen_by(receiver);
                second.prepare(flows);
                sender
            }
            (None, Some(Egress::Endpoint(endpoint))) => endpoint,
            _ => continue,
        };
        lane.exit = entry;
        lane.flow.key.set_endpoint(endpoint);
        lane.flow.prepare(flows);
    }
}

impl Lane {
    #[inline(always)]
    fn read(&mut self, plain: &Plain, outer_len: u16, local: (u32, u16), remote: (u32, u16)) {
        // Whose flow it is turns out later.
        self.flow.key = FlowKey::of_v4(EndpointIndex(0), plain.protocol, local, remote);
        self.exit = READ;
        self.is_local = false;
        self.outer_len = outer_len;
        self.ip_len = plain.ip_len;
        self.tos = plain.tos;
        self.partial = plain.partial;
    }
}

/// The third pass.
struct Carrier<'a> {
    flows: &'a mut FlowTable,
    tables: &'a Tables,
    exits: &'a Exits,
    generation: u32,
    now: Tick,
    /// A pod has sent the packets.
    out: bool,
    /// Pods keep their addresses wherever they send to.
    keeps_addresses: bool,
    tally: Tally,
}

impl Carrier<'_> {
    /// Carries one packet if its flow allows it. None, and nothing has changed, if it must take the long way.
    #[inline(always)]
    fn carry(&mut self, packet: &mut Packet, lane: &Lane, second: &Sought) -> Option<Egress> {
        let exit = self.exits.still(lane.exit)?;
        let (index, way, is_current) = self.admit(&lane.flow, self.out)?;
        // A pod's own connection to somewhere outside may need another address.
        let keeps_address = exit.kind != Kind::Outside || way == Way::Reply || self.keeps_addresses;
        let fits = lane.ip_len <= exit.mtu && packet.head.headroom() >= TEMPLATE;
        if !keeps_address || !fits {
            return None;
        }
        let length = ethernet::HEADER_LEN + usize::from(lane.ip_len);
        if lane.is_local {
            let (index, way, is_second_current) = self.admit(second, false)?;
            if !is_current || !is_second_current {
                return None;
            }
            self.flows.carry(index, length, way, self.now);
            self.tally.hits += 2;
            self.tally.local += 1;
        } else if is_current {
            self.tally.hits += 1;
        } else if flow::holds_still(self.tables, self.flows, self.generation, index) {
            self.tally.revalidated += 1;
        } else {
            return None;
        }
        self.flows.carry(index, length, way, self.now);
        self.tally.carried += 1;
        self.tally.out_of_tunnels += u64::from(lane.outer_len != 0);
        match exit.kind {
            Kind::Endpoint => {}
            Kind::Vxlan | Kind::Ipip => self.tally.into_tunnels += 1,
            Kind::Plain | Kind::Outside => self.tally.plain += 1,
        }
        rewrite(packet, lane, exit);
        exit.egress
    }

    /// Where a flow is, which way the packet goes and whether its verdict is of now; None: it is not known, or this packet
    /// means more to it than one more.
    #[inline(always)]
    fn admit(&self, sought: &Sought, out: bool) -> Option<(usize, Way, bool)> {
        // Nothing comes or goes between the guess and this: where the key is, the flow is.
        let mut index = sought.guess? as usize;
        if self.flows.entry(index).key != sought.key {
            index = self.flows.get(&sought.key, sought.hash)?;
        }
        let entry = self.flows.entry(index);
        let way = if entry.flags.is_out() == out { Way::Original } else { Way::Reply };
        // A state that such a packet leaves as it is.
        let stays = entry.state == State::Established
            || way == Way::Original
                && entry.state == State::Opening
                && sought.key.protocol() != Protocol::TCP.0;
        let is_ordinary = stays && entry.flags.is_simple() && !self.flows.has_expired(entry, self.now);
        is_ordinary.then_some((index, way, entry.generation == self.generation))
    }
}

/// Makes the packet as it is to leave. It is long enough for all that is written, and has room for what is put in front.
#[inline(always)]
fn rewrite(packet: &mut Packet, lane: &Lane, exit: &Exit) {
    packet.head.trim_front(usize::from(lane.outer_len));
    packet.head.truncate(ethernet::HEADER_LEN + usize::from(lane.ip_len));
    if lane.partial != 0 {
        let checksum = PartialChecksum { start: HEADERS as u16, offset: lane.partial.into() };
        packet.offload.checksum.get_or_insert(checksum);
    }
    match exit.kind {
        Kind::Vxlan => {
            const FRONT: usize = TEMPLATE - ethernet::HEADER_LEN;
            packet.prepend(FRONT as u16);
            let Some(frame) = front::<{ TEMPLATE + TTL_END }>(packet) else { return };
            frame[..TEMPLATE].copy_from_slice(&exit.template);
            write_outer(frame, lane, exit, FRONT as u16);
            let (source, destination, ports) = lane.flow.key.parts_v4();
            let entropy = tunnel::entropy_of(source, destination, ports);
            let (port, len) = (tunnel::source_port(entropy), lane.ip_len + UDP_AND_MORE);
            frame[HEADERS..][udp::field::SOURCE_PORT].copy_from_slice(&port.to_be_bytes());
            frame[HEADERS..][udp::field::LEN].copy_from_slice(&len.to_be_bytes());
            decrement_ttl(frame, TEMPLATE);
        }
        Kind::Ipip => {
            packet.prepend(ipv4::HEADER_LEN as u16);
            let Some(frame) = front::<{ HEADERS + TTL_END }>(packet) else { return };
            frame[..HEADERS].copy_from_slice(&exit.template[..HEADERS]);
            write_outer(frame, lane, exit, ipv4::HEADER_LEN as u16);
            decrement_ttl(frame, HEADERS);
        }
        Kind::Endpoint | Kind::Plain | Kind::Outside => {
            let Some(frame) = front::<{ ethernet::HEADER_LEN + TTL_END }>(packet) else { return };
            frame[..ethernet::HEADER_LEN].copy_from_slice(&exit.template[..ethernet::HEADER_LEN]);
            decrement_ttl(frame, ethernet::HEADER_LEN);
        }
    }
}

/// What a VXLAN packet's UDP header says more than the IP packet inside does.
const UDP_AND_MORE: u16 = (TEMPLATE - HEADERS) as u16;
/// The part of an IPv4 header in which a hop changes something.
const TTL_END: usize = ipv4::field::CHECKSUM.end;

#[inline(always)]
fn front<const LEN: usize>(packet: &mut Packet) -> Option<&mut [u8; LEN]> {
    packet.head.data_mut().first_chunk_mut()
}

/// Completes the outer IPv4 header, which is `overhead` bytes longer than the packet inside and has its congestion mark.
#[inline(always)]
fn write_outer(frame: &mut [u8], lane: &Lane, exit: &Exit, overhead: u16) {
    let (mark, total_len) = (tunnel::mark_of(lane.tos), lane.ip_len + overhead);
    let header = &mut frame[ethernet::HEADER_LEN..HEADERS];
    header[ipv4::field::TOS] = mark;
    header[ipv4::field::TOTAL_LEN].copy_from_slice(&total_len.to_be_bytes());
    let sum: Sum = exit.outer_sum + u16::from(mark) + total_len;
    header[ipv4::field::CHECKSUM].copy_from_slice(&sum.finish().to_be_bytes());
}

/// Takes one from the time to live, which is more than one, and mends the checksum (RFC 1624).
#[inline(always)]
fn decrement_ttl(frame: &mut [u8], ip: usize) {
    let header = &mut frame[ip..ip + TTL_END];
    header[ipv4::field::TTL] = header[ipv4::field::TTL].wrapping_sub(1);
    let [high, low] = [header[TTL_END - 2], header[TTL_END - 1]];
    let sum = one_hop_less(u16::from_be_bytes([high, low]));
    header[ipv4::field::CHECKSUM].copy_from_slice(&sum.to_be_bytes());
}

/// The checksum of a header whose time to live, the high byte of a word, has become one less.
#[inline(always)]
fn one_hop_less(checksum: u16) -> u16 {
    let sum = u32::from(checksum) + 0x100;
    // What is carried comes back at the other end; and of the two zeros it is the one that RFC 1624 says.
    (sum + u32::from(sum >= 0xffff)) as u16
}

#[cfg(test)]
mod tests {
    use caracal_wire::checksum;

    #[test]
    fn one_hop_less_mends_every_checksum_as_one_word_changed_does() {
        for sum in 0..=u16::MAX {
            assert_eq!(super::one_hop_less(sum), checksum::update_u16(sum, 0x4006, 0x3f06), "{sum:04x}");
        }
    }
}
