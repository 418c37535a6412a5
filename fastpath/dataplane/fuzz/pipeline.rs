//! What must hold for any frames on any links of a node, at any times, under tables that change: nothing panics, every
//! frame of memory comes home, every packet is accounted for, and what comes out is well-formed.
//!
//! ```text
//!   bytes:  link │ how │ time │ length (2) │ frame … │ link │ how │ …
//! ```

use caracal_dataplane::clock::Tick;
use caracal_dataplane::drop_reason::DropReason;
use caracal_dataplane::packet::{Offload, Packet, PartialChecksum};
use caracal_dataplane::port::HEADROOM;
use caracal_dataplane::sim::datagram::{Datagram, checksum, ethernet, vxlan};
use caracal_dataplane::sim::datagram6::{Datagram6, vxlan6};
use caracal_dataplane::sim::world::{
    self, NODE1, NODE1_6, NODE2, NODE2_6, TUNNEL1_MAC, TUNNEL2_MAC, VNI, VXLAN_PORT, pod,
};
use caracal_dataplane::sim::{Node, Output, PortName, UPLINK_MAC, services};

/// Bytes of a record before its frame.
pub const RECORD_LEN: usize = 5;
/// How many links there are.
pub const LINKS: u8 = 5;
/// How many ways there are to make a frame of bytes.
pub const WAYS: u8 = 10;

/// Sends what `bytes` say.
pub fn any_traffic(bytes: &[u8]) {
    let mut node =
        Node::new(&services_of(0), world::kernel(), 64, 96).expect("the world that tests start from");
    node.engine_mut().pipeline.flows.check_windows();
    let mut now = Tick(0);
    let mut rest = bytes;
    while let Some((record, after)) = rest.split_first_chunk::<RECORD_LEN>() {
        let [link, how, time, high, low] = *record;
        let len = usize::from(u16::from_be_bytes([high, low])).min(after.len());
        let (content, after) = after.split_at(len);
        rest = after;
        now = Tick(now.0.wrapping_add(u32::from(time).pow(2)));
        if how & 0x80 != 0 {
            change_tables(&mut node, time);
        }
        let link = link_of(link);
        let frame = frame_of(&link, how, content);
        let came = u64::from(inject(&mut node, &link, &frame, how, time));
        let before = Totals::of(&mut node);
        let outputs = node.run(now);
        let after = Totals::of(&mut node);
        outputs.iter().for_each(well_formed);
        let engine = node.engine_mut();
        let held = engine.pipeline.fragments.frames();
        assert_eq!(engine.pool.free() + held, engine.pool.total(), "frames went missing");
        let came = came + after.made - before.made + before.held;
        let went = outputs.len() as u64 + after.gone - before.gone + after.held;
        // What was only learned from comes out nowhere, and is no drop.
        assert!(went <= came && came - went <= 1, "{came} came or were made, {went} went or wait");
    }
}

struct Totals {
    /// Dropped, or cut into pieces or segments.
    gone: u64,
    /// Answers, pieces and segments.
    made: u64,
    /// Parts of datagrams that wait for the first one.
    held: u64,
}

impl Totals {
    fn of(node: &mut Node) -> Totals {
        let held = node.engine_mut().pipeline.fragments.held() as u64;
        let counters = node.counters();
        let dropped: u64 = DropReason::ALL.iter().map(|reason| counters.dropped(*reason)).sum();
        let pipeline = &counters.pipeline;
        let answers = pipeline.icmp_errors_sent.get() + pipeline.tcp_resets_sent.get();
        Totals {
            gone: dropped + pipeline.fragmented.get() + pipeline.segmented.get(),
            made: answers + pipeline.fragments_made.get() + pipeline.segments_made.get(),
            held,
        }
    }
}

fn link_of(number: u8) -> PortName {
    match number % LINKS {
        0 => PortName::Uplink,
        1 => PortName::Host,
        2 => PortName::Forward,
        3 => pod("a"),
        _ => pod("b"),
    }
}

/// As they are; as an IPv4 packet whose lengths and checksum are mended; the same in a tunnel; as what is in a tunnel; as
/// an IPv6 packet whose length is mended; the same in a tunnel; both in a tunnel over IPv6; IPv4 in IPv4, and as what is in
/// that.
fn frame_of(link: &PortName, how: u8, content: &[u8]) -> Vec<u8> {
    let to = if *link == PortName::Uplink { UPLINK_MAC } else { world::NEIGHBOR_MAC };
    let framed = |packet: &[u8]| ethernet(to, world::NEIGHBOR_MAC, 0x0800, packet);
    let tunneled = |inner: &[u8]| {
        let outer = vxlan((NODE2, 50_000), (NODE1, VXLAN_PORT), VNI, inner);
        outer.frame(to, world::NEIGHBOR_MAC)
    };
    let tunneled6 = |inner: &[u8]| {
        let outer = vxlan6((NODE2_6, 50_000), (NODE1_6, VXLAN_PORT), VNI, inner);
        outer.frame(to, world::NEIGHBOR_MAC)
    };
    let in_ipv4 = |inner: &[u8]| Datagram::new(NODE2, NODE1, 4, inner).frame(to, world::NEIGHBOR_MAC);
    match (how & 0x0f) % WAYS {
        0 => content.to_vec(),
        1 => framed(&mended(content)),
        2 => tunneled(&ethernet(TUNNEL1_MAC, TUNNEL2_MAC, 0x0800, &mended(content))),
        3 => tunneled(content),
        4 => ethernet(to, world::NEIGHBOR_MAC, 0x86dd, &mended6(content)),
        5 => tunneled(&ethernet(TUNNEL1_MAC, TUNNEL2_MAC, 0x86dd, &mended6(content))),
        6 => tunneled6(&ethernet(TUNNEL1_MAC, TUNNEL2_MAC, 0x0800, &mended(content))),
        7 => tunneled6(&ethernet(TUNNEL1_MAC, TUNNEL2_MAC, 0x86dd, &mended6(content))),
        8 => in_ipv4(&mended(content)),
        _ => in_ipv4(content),
    }
}

fn mended(content: &[u8]) -> Vec<u8> {
    let mut packet = content.to_vec();
    if let Some(header) = packet.first_chunk_mut::<20>() {
        header[0] = 0x45;
        header[2..4].copy_from_slice(&(content.len() as u16).to_be_bytes());
        header[10..12].fill(0);
        let sum = checksum(header).to_be_bytes();
        header[10..12].copy_from_slice(&sum);
    }
    packet
}

fn mended6(content: &[u8]) -> Vec<u8> {
    let mut packet = content.to_vec();
    if let Some(header) = packet.first_chunk_mut::<40>() {
        header[0] = 0x60;
        header[4..6].copy_from_slice(&((content.len() - 40) as u16).to_be_bytes());
    }
    packet
}

/// What a super-frame's header may say its segments are to be: nothing, hardly anything, what fits a wire or what fits none.
const SEGMENT_SIZES: [u16; 8] = [1, 8, 100, 536, 1398, 1400, 9000, u16::MAX];

/// In one frame, or in a chain of frames; with offloads as a port with a virtio-net header has them.
fn inject(node: &mut Node, link: &PortName, frame: &[u8], how: u8, number: u8) -> bool {
    let pool = &mut node.engine_mut().pool;
    let size = if how & 0x40 != 0 { 256 } else { 1800 };
    let mut frames = Vec::new();
    for part in frame.chunks(size) {
        let mut next = pool.take().expect("every frame is at home");
        next.reset(HEADROOM);
        next.append(part.len()).expect("room for a part").copy_from_slice(part);
        frames.push(next);
        if frames.len() == 40 {
            break;
        }
    }
    if frames.is_empty() {
        return false;
    }
    let mut packet = Packet::new(frames.remove(0));
    if !frames.is_empty() {
        packet.rest = Some(Box::new(frames));
    }
    // Behind the IP headers: within them no port says that there is a checksum. Of a super-frame it is the transport header's.
    let way = (how & 0x0f) % WAYS;
    let is_super_frame = how & 0x20 != 0;
    let start = if way == 4 || way >= 8 { 54 } else { 34 };
    let offset = match frame.get(23) {
        Some(6) if is_super_frame && way != 4 => 16,
        _ if is_super_frame => 6,
        _ => u16::from(how & 0x0f) * 2,
    };
    packet.offload = Offload {
        gso_size: if is_super_frame { SEGMENT_SIZES[usize::from(number) % SEGMENT_SIZES.len()] } else { 0 },
        checksum: (how & 0x10 != 0).then_some(PartialChecksum { start, offset }),
    };
    match node.port_mut(link) {
        Some(port) => port.inject(packet),
        None => unreachable!("the world has this link"),
    }
    true
}

/// TCP and UDP services with backends of every kind: more or less of them, by `number`. Their ports, and those that the
/// node takes for itself, are what the seeds' packets are for.
fn services_of(number: u8) -> Vec<caracal_plane_api::plane::Op> {
    let backends = [(world::A, 53), (world::REMOTE, 53), (NODE1, 53), (world::OUTSIDE, 53), (world::B, 53)];
    let serving = &backends[usize::from(number % 5)..];
    let service = |name, protocol| {
        let mut service = services::service(name, serving);
        service.protocol = protocol;
        service.internal_local = number & 0x20 != 0;
        service.affinity_seconds = u32::from(number & 0x40);
        for frontend in &mut service.frontends {
            frontend.port = 53;
        }
        service
    };
    services::ops(&[service("tcp", 6), service("udp", 17)], Some((50, 57)))
}

/// Pod b goes, or comes back; or node2 is reached otherwise; or services change.
fn change_tables(node: &mut Node, time: u8) {
    use caracal_plane_api::plane::op::Op;
    use caracal_plane_api::{Encapsulation, RemoteNode, route::Target};
    if time & 0x80 != 0 {
        return node.apply(&services_of(time)).expect("services that may be");
    }
    if time & 0x40 != 0 {
        return node.apply(&held_back(time)).expect("policies and limits that may be");
    }
    if time & 4 != 0 {
        let (encapsulation, over_ipv6) = [
            (Encapsulation::None, false),
            (Encapsulation::Vxlan, false),
            (Encapsulation::Vxlan, true),
            (Encapsulation::Ipip, false),
        ][usize::from(time >> 3) % 4];
        let (node2, encapsulation) = ("node2".into(), encapsulation.into());
        let target = Target::Remote(RemoteNode { node: node2, encapsulation, over_ipv6 });
        let routes =
            [world::route(world::TUNNEL2, 24, target.clone()), world::route6(world::TUNNEL2, 64, target)];
        return node.apply(&routes).expect("routes to a node that there is");
    }
    let op = if time & 1 == 0 {
        Op::Route(caracal_plane_api::plane::Route {
            prefix: Some(caracal_plane_api::plane::Prefix { address: vec![10, 244, time, 0], length: 24 }),
            target: Some(caracal_plane_api::plane::route::Target::LocalBlock(Default::default())),
        })
    } else {
        Op::Endpoint(caracal_plane_api::plane::Endpoint {
            profiles: if time & 2 == 0 { vec![] } else { vec!["kns.default".into()] },
            ..world::endpoint("b", world::B)
        })
    };
    node.apply(&[world::op(op)]).expect("operations that fit together");
}

/// Limits of pod a, and a host endpoint's hooks, each there or not.
fn held_back(bits: u8) -> Vec<caracal_plane_api::plane::Op> {
    use caracal_plane_api::plane::op::Op;
    use caracal_plane_api::plane::{
        Action, Endpoint, Hook, HostEndpoint, Limits, Policy, PolicyId, TierBinding,
    };
    let has = |bit: u8| u64::from(bits >> bit & 1);
    let limits = Limits {
        packets_per_second: has(0) * 20,
        bits_per_second: has(1) * 8000,
        burst_bits: has(1) * 16_000,
        connections: has(2) * 2,
        ..Limits::default()
    };
    let id = PolicyId { kind: "GlobalNetworkPolicy".into(), name: "p".into(), ..PolicyId::default() };
    let rule = world::rule(if bits & 8 == 0 { Action::Allow } else { Action::Deny });
    let policy = Policy {
        id: Some(id.clone()),
        tier: "default".into(),
        ingress: vec![rule.clone()],
        egress: vec![rule],
    };
    let tier =
        TierBinding { tier: "default".into(), default_action: Action::Deny.into(), policies: vec![id] };
    let hook = Hook { ingress: vec![tier.clone()], egress: vec![tier] };
    let mut host = HostEndpoint { id: "h".into(), interface: "*".into(), ..HostEndpoint::default() };
    match bits & 3 {
        0 => host.untracked = Some(hook),
        1 => host.pre_dnat = Some(hook),
        2 => host.forward = Some(hook),
        _ => {}
    }
    let pod = Endpoint {
        ingress_limits: Some(limits),
        egress_limits: (bits & 16 != 0).then_some(limits),
        ..world::endpoint("a", world::A)
    };
    [Op::Policy(policy), Op::HostEndpoint(host), Op::Endpoint(pod)].map(world::op).into()
}

/// ARP, an IPv6 packet whose length is right, or an IPv4 packet whose lengths and header checksum are.
fn well_formed(output: &Output) {
    let frame = &output.frame;
    if frame.get(12..14) == Some(&[8, 6]) {
        assert_eq!(frame.len(), 14 + 28);
        assert!(matches!(output.port, PortName::Pod(_)));
        return;
    }
    if frame.get(12..14) == Some(&[0x86, 0xdd]) {
        assert!(Datagram6::read(frame).is_some(), "an IPv6 packet that fills its frame");
        return;
    }
    let packet = Datagram::read(frame).expect("a plain IPv4 packet that fills its frame");
    assert!(!packet.body.is_empty() || packet.protocol != 6, "a TCP packet without a header");
}
