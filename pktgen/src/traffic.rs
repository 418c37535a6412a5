//! Streams, made ready to be sent: the templates, flows and deck of each core.
//!
//! The deck says whose turn it is and how long the frame is, round and round. It is dealt once, so the way a flow is chosen costs nothing
//! while packets are sent, and every engine sends the same. Streams have turns by their shares, as evenly as possible; within a stream,
//! uniform flows take turns, and others have as many cards as they are frequent, shuffled.
//!
//! A flow's packets are numbered by one core: each core gets the flows whose numbers leave its remainder, with their cards.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use caracal_wire::checksum::Sum;
use caracal_wire::tcp::Flags;
use caracal_wire::{
    EtherType, L4Port, MacAddr, Malformed as WireError, Protocol, Vni, ethernet, ipv4, ipv6, tcp, udp, vxlan,
};
use caracal_xsk::live_frames::{Flow, Kind, Pick, TEMPLATE_BYTES, Template};

use crate::payload;
use crate::stream::{Distribution, Packets, Stream, TunnelKind, Tuple};

/// Cards of a deck, at least when streams or flows are not equals, and at most.
const DECK_MIN: usize = 1 << 16;
const DECK_MAX: usize = 1 << 22;
const TTL: u8 = 64;
/// "Don't fragment".
const DF: u16 = 0x4000;
/// What each SYN of a flow adds to its sequence number: another connection each time.
const SYN_STEP: u32 = 0x0001_0001;

/// The two ends of the first hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// The interface's own address.
    pub source: MacAddr,
    /// The next hop's.
    pub destination: MacAddr,
}

/// What one core sends.
#[derive(Debug, Clone)]
pub struct Part {
    /// What frames have in common.
    pub templates: Vec<Template>,
    /// Flows of this core.
    pub flows: Vec<Flow>,
    /// Turns.
    pub deck: Vec<Pick>,
    /// For each flow the stream that it is of, and which flow of that: for those that come after it.
    pub origins: Vec<Origin>,
    /// The streams.
    pub streams: Arc<[Stream]>,
    /// The card whose turn it is.
    pub at: usize,
}

/// Takes one card after the other.
pub struct Cursor<'a> {
    templates: &'a [Template],
    flows: &'a mut [Flow],
    deck: &'a [Pick],
    /// The card whose turn it is.
    pub at: usize,
}

impl Cursor<'_> {
    /// Whose turn it is, and how long the frame is.
    #[allow(clippy::should_implement_trait, reason = "what it lends borrows from itself")]
    pub fn next(&mut self) -> Option<(&mut Flow, &Template, usize)> {
        let pick = self.deck.get(self.at)?;
        self.at = if self.at + 1 < self.deck.len() { self.at + 1 } else { 0 };
        let flow = self.flows.get_mut(pick.flow as usize)?;
        let template = self.templates.get(usize::from(flow.template))?;
        Some((flow, template, usize::from(pick.length)))
    }
}

impl Part {
    /// For engines that take the cards themselves.
    pub fn cursor(&mut self) -> Cursor<'_> {
        Cursor { templates: &self.templates, flows: &mut self.flows, deck: &self.deck, at: self.at }
    }

    /// The flows that end and begin.
    #[must_use]
    pub fn churn(&self) -> Churn {
        let of_stream = |stream: usize| {
            let is_of = |origin: &Origin| usize::from(origin.stream) == stream;
            (0u32..)
                .zip(&self.origins)
                .filter(|(_, origin)| is_of(origin))
                .map(|(at, _)| at)
                .collect::<Vec<_>>()
        };
        let churning =
            self.streams.iter().enumerate().filter(|(_, stream)| stream.churn > 0.0 && stream.is_marked());
        let streams = churning.filter_map(|(at, stream)| {
            let flows = of_stream(at);
            let template =
                *self.templates.get(usize::from(self.flows.get(*flows.first()? as usize)?.template))?;
            // Of the stream's flows, this core has its part.
            let per_second = stream.churn * flows.len() as f64 / f64::from(stream.flows.max(1));
            Some(Churning { stream: stream.clone(), template, flows, per_second, renewed: 0 })
        });
        Churn {
            streams: streams.collect(),
            numbers: self.origins.iter().map(|origin| origin.number).collect(),
        }
    }
}

/// Flows that end, with others in their place: a flow's number in the marks is its place's, and so is the count of its packets.
#[derive(Debug)]
pub struct Churn {
    streams: Vec<Churning>,
    /// By flow: its number in its stream.
    numbers: Vec<u64>,
}

#[derive(Debug)]
struct Churning {
    stream: Stream,
    template: Template,
    flows: Vec<u32>,
    per_second: f64,
    renewed: u64,
}

impl Churn {
    /// Puts new flows in the place of old ones, as many as have been due since the start; `also` is told of each.
    pub fn renew(&mut self, elapsed: Duration, flows: &mut [Flow], mut also: impl FnMut(usize, Flow)) {
        for churning in &mut self.streams {
            let due = (elapsed.as_secs_f64() * churning.per_second) as u64;
            while churning.renewed < due {
                let next = (churning.renewed % churning.flows.len() as u64) as usize;
                churning.renewed += 1;
                let Some(at) = churning.flows.get(next).map(|at| *at as usize) else { return };
                let (Some(number), Some(old)) = (self.numbers.get_mut(at), flows.get_mut(at)) else { return };
                // The flows that there are have the numbers below; each place goes on in steps of them all.
                *number += u64::from(churning.stream.flows);
                let new = flow(&churning.stream, &churning.template, old.template, *number);
                *old = Flow { id: old.id, sequence: old.sequence, ..new };
                also(at, *old);
            }
        }
    }
}

/// Which flow a flow is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The stream.
    pub stream: u16,
    /// The flow's number in it.
    pub number: u64,
}

/// The number of flows that are not marked, in the marks.
pub const UNMARKED: u32 = u32::MAX;

/// All of it.
#[derive(Debug, Clone)]
pub struct Traffic {
    /// One for each core. One that got no flow is left out.
    pub parts: Vec<Part>,
    /// Flows that are marked: their numbers in the marks are below this.
    pub marked_flows: u32,
    /// The longest frame.
    pub longest: usize,
}

impl Traffic {
    /// Makes streams ready for so many cores.
    ///
    /// # Errors
    /// Headers do not fit a template.
    pub fn new(streams: &[Stream], hop: Hop, cores: usize) -> Result<Self, WireError> {
        let mut templates = Vec::new();
        let mut flows = Vec::new();
        let mut hands = Vec::new();
        let mut marked = 0u32;
        for (at, stream) in streams.iter().enumerate() {
            let first_flow = flows.len() as u32;
            let first_template = templates.len() as u16;
            let origin = |number| Origin { stream: at as u16, number };
            let mut hand = Hand {
                stream,
                first_flow,
                flows: stream.flows,
                order: Vec::new(),
                lengths: Vec::new(),
                shortest: 0,
                at: 0,
            };
            if let Packets::Malformed(kinds) = &stream.packets {
                for frame in kinds.iter().flat_map(|kind| kind.frames(stream, hop)) {
                    let template = templates.len() as u16;
                    flows.push((
                        Flow { id: UNMARKED, template, ..Flow::default() },
                        origin(hand.lengths.len() as u64),
                    ));
                    templates.push(raw(&frame));
                    hand.lengths.push(frame.len() as u16);
                }
                hand.flows = hand.lengths.len() as u32;
            } else {
                let template = template(stream, hop)?;
                hand.shortest = shortest(&template);
                templates.push(template);
                for number in 0..stream.flows {
                    let mut flow = flow(stream, &template, first_template, u64::from(number));
                    flow.id = marked;
                    marked += 1;
                    flows.push((flow, origin(u64::from(number))));
                }
            }
            hands.push(hand);
        }
        let longest_header = templates.iter().map(|template| template.copy).max().unwrap_or(0);
        for template in templates.iter_mut().filter(|template| template.kind != Kind::Raw as u8) {
            // Whatever another stream's headers left where this one's payload is.
            template.copy = longest_header;
        }
        let cores = cores.clamp(1, flows.len().max(1));
        let streams: Arc<[Stream]> = streams.into();
        let empty =
            Part { templates, flows: Vec::new(), deck: Vec::new(), origins: Vec::new(), streams, at: 0 };
        let mut parts = vec![empty; cores];
        for (at, (flow, origin)) in flows.into_iter().enumerate() {
            if let Some(part) = parts.get_mut(at % cores) {
                part.flows.push(flow);
                part.origins.push(origin);
            }
        }
        let mut longest = 0;
        deal(&mut hands, |card| {
            longest = longest.max(usize::from(card.length));
            if let Some(part) = parts.get_mut(card.flow as usize % cores) {
                part.deck.push(Pick { flow: card.flow / cores as u32, ..card });
            }
        });
        parts.retain(|part| !part.deck.is_empty());
        Ok(Traffic { parts, marked_flows: marked, longest })
    }

    /// How large each core's part of all packets is.
    #[must_use]
    pub fn weights(&self) -> Vec<u64> {
        self.parts.iter().map(|part| part.deck.len() as u64).collect()
    }
}

/// The shortest frame of a template: all headers and a mark.
#[must_use]
pub fn shortest(template: &Template) -> usize {
    usize::from(template.l4) + usize::from(template.l4_header) + payload::LEN
}

/// A stream's cards.
struct Hand<'a> {
    stream: &'a Stream,
    first_flow: u32,
    flows: u32,
    /// Flows card by card; empty when they take turns.
    order: Vec<u32>,
    /// Lengths flow by flow; empty when they are the stream's sizes.
    lengths: Vec<u16>,
    shortest: usize,
    /// The next card.
    at: u64,
}

impl Hand<'_> {
    fn next(&mut self) -> Pick {
        let n = self.at;
        self.at += 1;
        let flows = u64::from(self.flows.max(1));
        let flow = match self.order.len() as u64 {
            0 => (n % flows) as u32,
            cards => self.order.get((n % cards) as usize).copied().unwrap_or(0),
        };
        // A round later every flow has the next size.
        let size = || self.stream.sizes.of(n + n / flows).max(self.shortest) as u16;
        let length = self.lengths.get(flow as usize).copied().unwrap_or_else(size);
        Pick { flow: self.first_flow + flow, length, unused: 0 }
    }
}

/// Deals the cards of all streams.
fn deal(hands: &mut [Hand<'_>], mut card: impl FnMut(Pick)) {
    let uniform = |hand: &Hand<'_>| hand.stream.distribution == Distribution::Uniform;
    let cards = match hands {
        // A whole number of rounds, and every size for every flow if that is not too much.
        [hand] if uniform(hand) => {
            let round = hand.flows.max(1) as usize;
            let whole = round * if hand.lengths.is_empty() { hand.stream.sizes.round() } else { 1 };
            if whole <= DECK_MAX { whole } else { round }
        }
        _ => {
            let flows: usize = hands.iter().map(|hand| hand.flows as usize).sum();
            (flows * 4).clamp(DECK_MIN, DECK_MAX)
        }
    };
    let total: f64 = hands.iter().map(|hand| hand.stream.share).sum();
    for hand in &mut *hands {
        if let Distribution::Zipf(exponent) = hand.stream.distribution
            && hand.lengths.is_empty()
        {
            hand.order =
                zipf(hand.flows, exponent, (cards as f64 * hand.stream.share / total).ceil() as usize);
        }
    }
    let mut owed = vec![0.0f64; hands.len()];
    for _ in 0..cards {
        for (owed, hand) in owed.iter_mut().zip(&*hands) {
            *owed += hand.stream.share / total;
        }
        // Whoever is owed most has the turn; the first of equals.
        let most = owed.iter().copied().fold(f64::MIN, f64::max);
        let Some(next) = owed.iter().position(|owed| *owed >= most) else { return };
        if let (Some(owed), Some(hand)) = (owed.get_mut(next), hands.get_mut(next)) {
            *owed -= 1.0;
            card(hand.next());
        }
    }
}

/// A frame as it is.
fn raw(frame: &[u8]) -> Template {
    let mut template = Template { copy: frame.len().min(TEMPLATE_BYTES) as u16, ..Template::default() };
    for (to, from) in template.bytes.iter_mut().zip(frame) {
        *to = *from;
    }
    template
}

/// What the frames of a stream have in common.
///
/// # Errors
/// The headers do not fit.
pub fn template(stream: &Stream, hop: Hop) -> Result<Template, WireError> {
    let Tuple { source, destination } = stream.tuple(0);
    let mut template = Template::default();
    let mut at = 0;
    // Emitters fail when there is no room left.
    let bytes = &mut template.bytes;
    let ethernet = |at: usize, bytes: &mut [u8], hop: Hop, ether_type| {
        let header = ethernet::Repr { destination: hop.destination, source: hop.source, ether_type };
        header.emit(bytes.get_mut(at..).unwrap_or(&mut []))
    };
    let ether_type = if source.0.is_ipv6() { EtherType::IPV6 } else { EtherType::IPV4 };
    if let Some(tunnel) = stream.tunnel {
        ethernet(0, bytes, hop, EtherType::IPV4)?;
        at = ethernet::HEADER_LEN;
        let protocol = match tunnel.kind {
            TunnelKind::Vxlan { .. } => Protocol::UDP,
            TunnelKind::Ipip if source.0.is_ipv6() => Protocol::IPV6,
            TunnelKind::Ipip => Protocol::IPIP,
        };
        let outer = ipv4_header(protocol, tunnel.source, tunnel.destination);
        outer.emit(bytes.get_mut(at..).unwrap_or(&mut []))?;
        template.outer_ip = at as u8;
        template.outer_sum = ip_sum(bytes.get_mut(at..at + ipv4::HEADER_LEN).unwrap_or(&mut []));
        at += ipv4::HEADER_LEN;
        if let TunnelKind::Vxlan { vni, port, inner_source, inner_destination } = tunnel.kind {
            template.outer_udp = at as u8;
            let header = udp::Repr { source_port: L4Port(0), destination_port: L4Port(port), payload_len: 0 };
            // Without checksum, as RFC 7348 has it.
            header.emit(bytes.get_mut(at..).unwrap_or(&mut []))?;
            at += udp::HEADER_LEN;
            let vni = Vni::new(vni).map_err(|_| WireError::VxlanNoVni)?;
            vxlan::Repr { vni }.emit(bytes.get_mut(at..).unwrap_or(&mut []))?;
            at += vxlan::HEADER_LEN;
            let inner = Hop { source: inner_source, destination: inner_destination };
            ethernet(at, bytes, inner, ether_type)?;
            at += ethernet::HEADER_LEN;
        }
    } else {
        ethernet(0, bytes, hop, ether_type)?;
        at += ethernet::HEADER_LEN;
    }
    template.ip = at as u8;
    template.ipv6 = u8::from(source.0.is_ipv6());
    let (kind, protocol, l4_header) = match &stream.packets {
        Packets::Tcp(_) => (Kind::Tcp, Protocol::TCP, tcp::HEADER_LEN),
        Packets::Echo if source.0.is_ipv6() => (Kind::Echo, Protocol::ICMPV6, udp::HEADER_LEN),
        Packets::Echo => (Kind::Echo, Protocol::ICMPV4, udp::HEADER_LEN),
        Packets::Udp | Packets::Malformed(_) => (Kind::Udp, Protocol::UDP, udp::HEADER_LEN),
    };
    let rest = bytes.get_mut(at..).unwrap_or(&mut []);
    match (source.0, destination.0) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            ipv4_header(protocol, source, destination).emit(rest)?;
            // What the kernel writes is sums of what is not there yet.
            at += ipv4::HEADER_LEN;
        }
        (source, destination) => {
            let header = ipv6::Repr {
                traffic_class: 0,
                flow_label: 0,
                next_header: protocol,
                hop_limit: TTL,
                source: in_16(source).into(),
                destination: in_16(destination).into(),
                payload_len: 0,
            };
            header.emit(rest)?;
            at += ipv6::HEADER_LEN;
        }
    }
    template.l4 = at as u8;
    let rest = bytes.get_mut(at..).unwrap_or(&mut []);
    match &stream.packets {
        Packets::Tcp(flags) => {
            let acknowledgement = u32::from(flags.contains(Flags::ACK));
            let header = tcp::Repr {
                source_port: L4Port(0),
                destination_port: L4Port(0),
                sequence: 0,
                acknowledgement,
                flags: *flags,
                window: u16::MAX,
            };
            header.emit(rest)?;
            template.tcp_step = if flags.contains(Flags::SYN) { SYN_STEP } else { 0 };
        }
        Packets::Echo => {
            let kind = if source.0.is_ipv6() { ECHO_REQUEST_V6 } else { ECHO_REQUEST_V4 };
            rest.get_mut(..udp::HEADER_LEN).ok_or(WireError::Icmpv4TooShort)?[0] = kind;
        }
        Packets::Udp | Packets::Malformed(_) => {
            rest.get_mut(..udp::HEADER_LEN).ok_or(WireError::UdpTooShort)?.fill(0);
        }
    }
    template.kind = kind as u8;
    template.l4_header = l4_header as u8;
    // Over IPv4 a UDP checksum may be left out; over IPv6 not (RFC 8200, 8.1).
    template.checksum = 1;
    template.copy = shortest(&template) as u16;
    if shortest(&template) > TEMPLATE_BYTES {
        return Err(WireError::UdpTooShort);
    }
    Ok(template)
}

const ECHO_REQUEST_V4: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;

fn ipv4_header(
    protocol: Protocol,
    source: std::net::Ipv4Addr,
    destination: std::net::Ipv4Addr,
) -> ipv4::Repr {
    ipv4::Repr {
        tos: 0,
        identification: 0,
        fragment_word: DF,
        ttl: TTL,
        protocol,
        source,
        destination,
        payload_len: 0,
    }
}

/// Clears an IPv4 header's length and checksum, and sums up the rest as [`Flow::ip_sum`] has it.
fn ip_sum(header: &mut [u8]) -> u16 {
    for at in [2..4, 10..12] {
        if let Some(bytes) = header.get_mut(at) {
            bytes.fill(0);
        }
    }
    in_memory_order(Sum::of(header))
}

/// A sum of words in network order is that of the words as they are in memory, with its bytes swapped (RFC 1071, 2 B).
fn in_memory_order(sum: Sum) -> u16 {
    u16::from_ne_bytes(sum.fold().to_be_bytes())
}

/// An IPv4 address in the last four bytes.
fn in_16(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[12..].copy_from_slice(&v4.octets());
            bytes
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// A stream's `number`th flow. Its mark's number is not set.
#[must_use]
pub fn flow(stream: &Stream, template: &Template, which: u16, number: u64) -> Flow {
    let Tuple { source, destination } = stream.tuple(number);
    let at = |from: u8, len: usize| {
        let from = usize::from(from);
        template.bytes.get(from..from + len).unwrap_or(&[])
    };
    let (source_bytes, destination_bytes) = (in_16(source.0), in_16(destination.0));
    let addresses = Sum::of(&source_bytes) + Sum::of(&destination_bytes);
    let v4 = template.ipv6 == 0;
    // The template's own addresses are not the flow's.
    let ip_sum = match v4 {
        true => in_memory_order(Sum::of(at(template.ip, 2)) + Sum::of(at(template.ip + 4, 6)) + addresses),
        false => 0,
    };
    let (kind, protocol) = match template.kind {
        kind if kind == Kind::Tcp as u8 => (Kind::Tcp, Protocol::TCP),
        kind if kind == Kind::Echo as u8 && v4 => (Kind::Echo, Protocol::ICMPV4),
        kind if kind == Kind::Echo as u8 => (Kind::Echo, Protocol::ICMPV6),
        _ => (Kind::Udp, Protocol::UDP),
    };
    let header = Sum::of(at(template.l4, usize::from(template.l4_header)));
    let pseudo = addresses + u32::from(protocol.0);
    let l4_sum = match kind {
        Kind::Echo if v4 => header + source.1,
        Kind::Echo => header + pseudo + source.1,
        _ => header + pseudo + source.1 + destination.1,
    };
    // RFC 7348, 4.1: the outer source port is a hash of what is inside, from the dynamic range.
    let hash = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as u16;
    Flow {
        source: source_bytes,
        destination: destination_bytes,
        source_port: source.1.to_be_bytes(),
        destination_port: destination.1.to_be_bytes(),
        ip_sum,
        l4_sum: in_memory_order(l4_sum),
        id: UNMARKED,
        template: which,
        outer_port: (0xc000 | hash).to_be_bytes(),
        sequence: 0,
        tcp_sequence: (number as u32).wrapping_mul(0x0100_0193),
        unused: 0,
    }
}

/// So many cards, flows as often as Zipf's law has it, in an order that is no order.
fn zipf(flows: u32, exponent: f64, cards: usize) -> Vec<u32> {
    let weight = |flow: u32| (f64::from(flow) + 1.0).powf(-exponent);
    let total: f64 = (0..flows).map(weight).sum();
    let mut dealt = Vec::with_capacity(cards);
    let mut below = 0.0;
    for flow in 0..flows {
        below += weight(flow) / total;
        // The middle of each card's part of the whole decides.
        while dealt.len() < cards && (dealt.len() as f64 + 0.5) / cards as f64 <= below {
            dealt.push(flow);
        }
    }
    dealt.resize(cards, flows.saturating_sub(1));
    // Fisher and Yates, with the same numbers each time.
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    for last in (1..dealt.len()).rev() {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        dealt.swap(last, (random % (last as u64 + 1)) as usize);
    }
    dealt
}

#[cfg(test)]
mod tests;
