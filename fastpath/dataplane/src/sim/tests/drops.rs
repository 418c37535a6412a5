//! One table of everything that is dropped, and the proof that every declared reason is reached by some packet.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::super::datagram::{ACK, Datagram, FIN, PSH, RST, SYN, arp, checksum, ethernet, vxlan};
use super::super::world::{
    self, A, B, NEIGHBOR_MAC, NOBODY, NODE1, NODE2, NODE3, OUTSIDE, REMOTE, TUNNEL1, TUNNEL1_MAC,
    TUNNEL2_MAC, VNI, VXLAN_PORT, pod,
};
use super::super::{FIRST_UPLINK, POD_MAC, PortName, UPLINK_MAC};
use super::support::*;
use super::{encapsulations, flows, fragments, host, ipv6, limits, nat, nd, workers};
use crate::drop_reason::DropReason::{self, *};
use crate::packet::{Offload, Packet};
use crate::stage::arp::GATEWAY_MAC;
use caracal_wire::MacAddr;

/// A frame that goes nowhere.
struct Case {
    description: &'static str,
    prepare: fn(&mut World),
    port: PortName,
    frame: Vec<u8>,
    reason: DropReason,
    /// Other counters that move.
    also: &'static [(&'static str, u64)],
    /// Packets that go out all the same: answers.
    answers: usize,
}

fn case(description: &'static str, port: PortName, frame: Vec<u8>, reason: DropReason) -> Case {
    Case { description, prepare: |_| {}, port, frame, reason, also: &[], answers: 0 }
}

impl Case {
    fn after(self, prepare: fn(&mut World)) -> Case {
        Case { prepare, ..self }
    }

    fn also(self, also: &'static [(&'static str, u64)]) -> Case {
        Case { also, ..self }
    }

    fn answered(self) -> Case {
        Case { answers: 1, ..self }
    }
}

fn a() -> PortName {
    pod("a")
}

const TO_B: fn(&[u8]) -> Datagram = |payload| Datagram::udp((A, 1), (B, 2), payload);

/// The header checksum made right again after a field has been changed.
fn mended(mut frame: Vec<u8>) -> Vec<u8> {
    let header = usize::from(frame[14] & 15) * 4;
    frame[24..26].fill(0);
    let sum = checksum(&frame[14..14 + header]).to_be_bytes();
    frame[24..26].copy_from_slice(&sum);
    frame
}

fn changed(at: usize, to: u8) -> Vec<u8> {
    let mut frame = from_pod(&TO_B(b"payload"));
    frame[at] = to;
    mended(frame)
}

fn with_body(protocol: u8, body: &[u8]) -> Vec<u8> {
    from_pod(&Datagram::new(A, B, protocol, body))
}

fn frames() -> Vec<Case> {
    let mut options = from_pod(&TO_B(b"payload"));
    options[14] = 0x46;
    let mut wrong_sum = from_pod(&TO_B(b"x"));
    wrong_sum[25] ^= 1;
    let whole = from_pod(&TO_B(b"payload"));
    let tcp = |flags| from_pod(&Datagram::tcp((A, 1), (B, 2), flags, b""));
    let mut udp_long = TO_B(b"x");
    udp_long.body[5] += 1;
    let mut tcp_offset = Datagram::tcp((A, 1), (B, 2), SYN, b"");
    tcp_offset.body[12] = 0x60;
    let mut tcp_short_offset = Datagram::tcp((A, 1), (B, 2), SYN, b"");
    tcp_short_offset.body[12] = 0x40;
    let short_quote = Datagram::error(A, B, 3, 3, [0; 4], &Datagram::udp((B, 1), (A, 2), b"x"), 27);
    let arp_request = |hardware| {
        let mut message = arp(1, (POD_MAC, Ipv4Addr::from(A)), (MacAddr::ZERO, Ipv4Addr::from(B)));
        message[1] = hardware;
        message
    };
    vec![
        case("nothing at all", a(), vec![], EthernetTruncated),
        case("an Ethernet header but for a byte", a(), whole[..13].to_vec(), EthernetTruncated),
        case("a VLAN tag", a(), ethernet(GATEWAY_MAC, POD_MAC, 0x8100, &whole[12..]), UnsupportedEtherType),
        case("an IEEE 802.3 length", a(), ethernet(GATEWAY_MAC, POD_MAC, 46, &[0; 46]), UnsupportedEtherType),
        case("noise as IPv6", a(), ethernet(GATEWAY_MAC, POD_MAC, 0x86dd, &[0x60; 40]), Ipv6Malformed),
        case(
            "ARP but for a byte",
            a(),
            ethernet(GATEWAY_MAC, POD_MAC, 0x0806, &arp_request(1)[..27]),
            ArpMalformed,
        ),
        case(
            "ARP of something else",
            a(),
            ethernet(GATEWAY_MAC, POD_MAC, 0x0806, &arp_request(6)),
            ArpMalformed,
        ),
        case(
            "ARP from the fabric",
            PortName::Uplink,
            ethernet(UPLINK_MAC, NEIGHBOR_MAC, 0x0806, &arp_request(1)),
            ArpNotForUs,
        ),
        case("an Ethernet header alone", a(), whole[..14].to_vec(), Ipv4Malformed),
        case("an IPv4 header but for a byte", a(), whole[..33].to_vec(), Ipv4Malformed),
        case("a packet but for a byte", a(), whole[..whole.len() - 1].to_vec(), Ipv4Malformed),
        case("IP version 5", a(), changed(14, 0x55), Ipv4Malformed),
        case("a header of four words", a(), changed(14, 0x44), Ipv4Malformed),
        case(
            "a header longer than the frame",
            a(),
            whole[..40].iter().enumerate().map(|(i, b)| if i == 14 { 0x4f } else { *b }).collect(),
            Ipv4Malformed,
        ),
        case("a total length shorter than the header", a(), changed(17, 19), Ipv4Malformed),
        case("a wrong header checksum", a(), wrong_sum, Ipv4BadChecksum),
        case("options", a(), mended(options), Ipv4Options),
        case("to a group", a(), from_pod(&Datagram::udp((A, 1), ([224, 0, 0, 251], 2), b"")), AddressInvalid),
        case("to everybody", a(), from_pod(&Datagram::udp((A, 1), ([255; 4], 2), b"")), AddressInvalid),
        case("to nobody", a(), from_pod(&Datagram::udp((A, 1), ([0; 4], 2), b"")), AddressInvalid),
        case("to loopback", a(), from_pod(&Datagram::udp((A, 1), ([127, 0, 0, 1], 2), b"")), AddressInvalid),
        case("from nobody (DHCP)", a(), from_pod(&Datagram::udp(([0; 4], 68), (B, 67), b"")), AddressInvalid),
        case("TCP but for a byte", a(), with_body(6, &[0; 19]), L4Truncated),
        case("a TCP header of four words", a(), from_pod(&tcp_short_offset), L4Truncated),
        case("a TCP header longer than the packet", a(), from_pod(&tcp_offset), L4Truncated),
        case("UDP but for a byte", a(), with_body(17, &[0; 7]), L4Truncated),
        case("UDP of seven bytes", a(), with_body(17, &[0, 1, 0, 2, 0, 7, 0, 0]), L4Truncated),
        case("UDP longer than its packet", a(), from_pod(&udp_long), L4Truncated),
        case("SCTP but for a byte", a(), with_body(132, &[0; 11]), L4Truncated),
        case("ICMP but for a byte", a(), with_body(1, &[8, 0, 0, 0, 0, 0, 0]), L4Truncated),
        case("an ICMP error that quotes too little", a(), from_pod(&short_quote), L4Truncated),
        case("no TCP flag", a(), tcp(0), TcpInvalidFlags),
        case("a Christmas tree", a(), tcp(0x3f), TcpInvalidFlags),
        case("SYN and FIN", a(), tcp(SYN | FIN), TcpInvalidFlags),
        case("SYN and RST", a(), tcp(SYN | RST | ACK), TcpInvalidFlags),
        case("PSH alone", a(), tcp(PSH), TcpInvalidFlags),
    ]
}

fn senders() -> Vec<Case> {
    let uplink = |datagram: &Datagram| from_uplink(datagram);
    let inner = |datagram: &Datagram| datagram.frame(TUNNEL1_MAC, TUNNEL2_MAC);
    let plain = Datagram::udp((REMOTE, 1), (A, 2), b"x");
    let tunnel = |from: [u8; 4], vni, inner: &[u8]| {
        from_uplink(&vxlan((from, 50_000), (NODE1, VXLAN_PORT), vni, inner))
    };
    let mut no_flag = vxlan((NODE2, 50_000), (NODE1, VXLAN_PORT), VNI, &inner(&plain));
    no_flag.body[8] = 0;
    let vxlan_to_us = vxlan((REMOTE, 50_000), (NODE1, VXLAN_PORT), VNI, &inner(&plain));
    let out = Datagram::udp((OUTSIDE, 1), (A, 2), b"x");
    let decapsulated: &[(&str, u64)] = &[("tunnel_decapsulated", 1)];
    vec![
        case(
            "a frame that the switch flooded",
            PortName::Uplink,
            out.frame(MacAddr([2, 0, 0, 0, 0, 9]), NEIGHBOR_MAC),
            NotOurMac,
        ),
        case("a broadcast frame", PortName::Uplink, out.frame(MacAddr::BROADCAST, NEIGHBOR_MAC), NotOurMac),
        case(
            "in another pod's name",
            a(),
            from_pod(&Datagram::udp((B, 1), (OUTSIDE, 2), b"")),
            SpoofedSource,
        ),
        case("in the node's name", a(), from_pod(&Datagram::udp((NODE1, 1), (B, 2), b"")), SpoofedSource),
        case(
            "an ICMP error in another's name",
            a(),
            from_pod(&Datagram::error(OUTSIDE, B, 3, 1, [0; 4], &TO_B(b""), 28)),
            SpoofedSource,
        ),
        case(
            "a pod's own VXLAN",
            a(),
            from_pod(&vxlan((A, 1), (NODE2, VXLAN_PORT), VNI, &[0; 60])),
            PodSentTunnel,
        ),
        case("a pod's own IPIP", a(), with_body(4, &TO_B(b"").bytes()), PodSentTunnel),
        case("a tunnelled pod, without the tunnel", PortName::Uplink, uplink(&plain), FabricSpoofedSource),
        case(
            "a local pod, from the fabric",
            PortName::Uplink,
            uplink(&Datagram::udp((B, 1), (A, 2), b"")),
            FabricSpoofedSource,
        ),
        case(
            "this node itself, from the fabric",
            PortName::Uplink,
            uplink(&Datagram::udp((NODE1, 1), (A, 2), b"")),
            FabricSpoofedSource,
        ),
        case("a tunnel packet without a VNI", PortName::Uplink, uplink(&no_flag), TunnelMalformed),
        case(
            "a tunnel packet with nothing inside",
            PortName::Uplink,
            tunnel(NODE2, VNI, &[]),
            TunnelMalformed,
        ),
        case(
            "a tunnel packet with half a header",
            PortName::Uplink,
            uplink(&Datagram::udp((NODE2, 1), (NODE1, VXLAN_PORT), &[8, 0, 0])),
            TunnelMalformed,
        ),
        case(
            "a tunnel packet with half an Ethernet header",
            PortName::Uplink,
            tunnel(NODE2, VNI, &[0; 13]),
            TunnelMalformed,
        ),
        case(
            "ARP in a tunnel",
            PortName::Uplink,
            tunnel(NODE2, VNI, &ethernet(TUNNEL1_MAC, TUNNEL2_MAC, 0x0806, &[0; 28])),
            TunnelMalformed,
        ),
        case(
            "noise as IPv6 in a tunnel",
            PortName::Uplink,
            tunnel(NODE2, VNI, &ethernet(TUNNEL1_MAC, TUNNEL2_MAC, 0x86dd, &[0x60; 40])),
            Ipv6Malformed,
        ),
        case(
            "a tunnel from a stranger",
            PortName::Uplink,
            tunnel([192, 0, 2, 66], VNI, &inner(&plain)),
            TunnelUnknownSource,
        ),
        case(
            "a tunnel of another network",
            PortName::Uplink,
            tunnel(NODE2, VNI + 1, &inner(&plain)),
            TunnelUnknownVni,
        ),
        case(
            "a tunnel in a tunnel, to ourselves",
            PortName::Uplink,
            tunnel(NODE2, VNI, &inner(&vxlan_to_us)),
            TunnelNested,
        ),
        case(
            "IPIP in a tunnel, to ourselves",
            PortName::Uplink,
            tunnel(NODE2, VNI, &inner(&Datagram::new(REMOTE, NODE1, 4, &plain.bytes()))),
            TunnelNested,
        ),
        case(
            "an outside address in a tunnel",
            PortName::Uplink,
            tunnel(NODE2, VNI, &inner(&out)),
            TunnelSpoofedInner,
        )
        .also(decapsulated),
        case(
            "a local pod's address in a tunnel",
            PortName::Uplink,
            tunnel(NODE2, VNI, &inner(&Datagram::udp((B, 1), (A, 2), b""))),
            TunnelSpoofedInner,
        )
        .also(decapsulated),
        case(
            "another node's own address in a tunnel",
            PortName::Uplink,
            tunnel(NODE2, VNI, &inner(&Datagram::udp((NODE3, 1), (A, 2), b""))),
            TunnelSpoofedInner,
        )
        .also(decapsulated),
        case(
            "an outside address in a tunnel, to the host",
            PortName::Uplink,
            tunnel(NODE2, VNI, &inner(&Datagram::udp((OUTSIDE, 1), (TUNNEL1, 2), b""))),
            TunnelSpoofedInner,
        )
        .also(decapsulated),
        case(
            "a local pod's address from the fabric, to the host",
            PortName::Uplink,
            uplink(&Datagram::udp((A, 1), (TUNNEL1, 2), b"")),
            FabricSpoofedSource,
        ),
        case(
            "through a tunnel and on",
            PortName::Uplink,
            tunnel(NODE2, VNI, &inner(&Datagram::udp((REMOTE, 1), (OUTSIDE, 2), b""))),
            TunnelNotForPods,
        )
        .also(decapsulated),
        case(
            "through a tunnel and back",
            PortName::Uplink,
            tunnel(NODE2, VNI, &inner(&Datagram::udp((REMOTE, 1), ([10, 244, 2, 8], 2), b""))),
            TunnelNotForPods,
        )
        .also(decapsulated),
    ]
}

fn ways() -> Vec<Case> {
    let answered: &[(&str, u64)] =
        &[("flow_created", 1), ("icmp_errors_sent", 1), ("flow_related", 1), ("flow_hits", 1)];
    let tracked: &[(&str, u64)] = &[("flow_created", 1)];
    let out = from_pod(&Datagram::udp((A, 1), (OUTSIDE, 2), b"x"));
    let remote = from_pod(&Datagram::udp((A, 1), (REMOTE, 2), b"x"));
    let big = vec![0; 1451 - 28];
    vec![
        case(
            "the host to itself",
            PortName::Host,
            from_host(&Datagram::udp((NODE1, 1), (TUNNEL1, 2), b"")),
            NoRoute,
        ),
        case(
            "an address of ours that nobody has",
            a(),
            from_pod(&Datagram::udp((A, 1), (NOBODY, 2), b"")),
            Blackhole,
        )
        .also(answered)
        .answered(),
        case("no hop left", a(), from_pod(&TO_B(b"x").ttl(1)), TtlExceeded).also(answered).answered(),
        case("not even the last hop", a(), from_pod(&TO_B(b"x").ttl(0)), TtlExceeded)
            .also(answered)
            .answered(),
        case("too big, and must not be", a(), from_pod(&TO_B(&big).dont_fragment()), PacketTooBig)
            .also(&[("flow_created", 2), ("icmp_errors_sent", 1), ("flow_related", 1), ("flow_hits", 1)])
            .answered(),
        case(
            "a neighbor that nobody knows",
            a(),
            from_pod(&Datagram::udp((A, 1), ([192, 0, 2, 77], 2), b"x")),
            NeighborUnresolved,
        )
        .also(tracked),
        case("out, without an uplink", a(), out, PortGone)
            .also(tracked)
            .after(|world| world.node.engine_mut().set_uplink(FIRST_UPLINK, None)),
        case("to another node, without an uplink", a(), remote.clone(), PortGone)
            .also(tracked)
            .after(|world| world.node.engine_mut().set_uplink(FIRST_UPLINK, None)),
        case(
            "to the host, without a host port",
            a(),
            from_pod(&Datagram::udp((A, 1), (NODE1, 2), b"")),
            PortGone,
        )
        .also(tracked)
        .after(|world| world.node.engine_mut().pipeline.links.host = None),
        case("to a pod that is not attached yet", a(), from_pod(&TO_B(b"x")), EndpointNotReady)
            .also(&[("flow_created", 2)])
            .after(|world| {
                let b = world.index_of("b");
                world.node.engine_mut().pipeline.links.set_endpoint(b, None);
            }),
        case(
            "from the fabric to the fabric",
            PortName::Uplink,
            from_uplink(&Datagram::udp((OUTSIDE, 1), ([203, 0, 113, 1], 2), b"")),
            NotForwardedBack,
        ),
        case(
            "an error about something unknown",
            PortName::Uplink,
            from_uplink(&Datagram::error(
                OUTSIDE,
                A,
                3,
                1,
                [0; 4],
                &Datagram::udp((A, 1), (OUTSIDE, 2), b""),
                28,
            )),
            RelatedUnknown,
        ),
        case("to a receiver that does not keep up", a(), from_pod(&TO_B(b"x")), TransmitRingFull)
            .also(&[("flow_created", 2), ("delivered_local", 1)])
            .after(|world| world.node.port_mut(&pod("b")).unwrap().set_room(0)),
    ]
}

fn run(case: &Case) -> World {
    let mut world = World::new();
    (case.prepare)(&mut world);
    let outputs = world.send(&case.port, &case.frame);
    assert_eq!(outputs.len(), case.answers, "{}: {outputs:?}", case.description);
    let counter = format!("drop.{}", case.reason.label());
    let mut moved = case.also.to_vec();
    moved.push((&counter, 1));
    println!("{}", case.description);
    world.expect_moved(&moved);
    world
}

#[test]
fn frames_that_are_no_packets_are_dropped_for_what_is_wrong_with_them() {
    frames().iter().for_each(|case| drop(run(case)));
}

#[test]
fn packets_from_those_who_may_not_send_them_are_dropped() {
    senders().iter().for_each(|case| drop(run(case)));
}

#[test]
fn packets_without_a_way_are_dropped() {
    ways().iter().for_each(|case| drop(run(case)));
}

fn dropped(world: &mut World) -> BTreeSet<DropReason> {
    world.node.drops().into_iter().map(|(reason, _)| reason).collect()
}

fn no_route() -> BTreeSet<DropReason> {
    let mut kernel = world::kernel();
    kernel.routes.truncate(1);
    let mut world = World::with(kernel, 64);
    let out = Datagram::udp((A, 1), (OUTSIDE, 2), b"x");
    let outputs = world.send(&pod("a"), &from_pod(&out));
    expect_counters!(world, {"flow_created": 1, "drop.no-route": 1, "icmp_errors_sent": 1, "flow_related": 1, "flow_hits": 1});
    let error = Datagram::read(&outputs[0].frame).unwrap();
    assert_eq!((outputs.len(), &error.body[..2]), (1, &[3, 0][..]), "network unreachable");
    dropped(&mut world)
}

fn no_headroom() -> BTreeSet<DropReason> {
    let mut world = World::new();
    let mut frame = world.node.engine_mut().pool.take().unwrap();
    let bytes = from_pod(&Datagram::udp((A, 1), (REMOTE, 2), b"x"));
    frame.append(bytes.len()).unwrap().copy_from_slice(&bytes);
    world.node.port_mut(&pod("a")).unwrap().inject(Packet::new(frame));
    assert_eq!(world.run(), []);
    expect_counters!(world, {"flow_created": 1, "drop.no-headroom": 1});
    dropped(&mut world)
}

fn oversized() -> BTreeSet<DropReason> {
    let mut world = World::new();
    let frame = from_pod(&Datagram::tcp((A, 1), (B, 2), ACK, &[0; 1400]));
    let offload = Offload { gso_size: 700, checksum: None };
    assert_eq!(world.send_chain(&pod("a"), &[&frame], offload), []);
    expect_counters!(world, {"flow_created": 2, "delivered_local": 1, "drop.oversized": 1});
    dropped(&mut world)
}

fn denied() -> BTreeSet<DropReason> {
    let mut world = World::new();
    world.apply(&super::policy::deny_all("b"));
    assert_eq!(world.send(&pod("a"), &from_pod(&TO_B(b"x"))), []);
    expect_counters!(world, {"flow_created": 1, "drop.policy-deny": 1});
    dropped(&mut world)
}

#[test]
fn packets_that_no_port_can_carry_are_dropped() {
    no_headroom();
    oversized();
    no_route();
}

#[test]
fn every_drop_reason_is_reached_by_a_packet_test() {
    let mut reached = BTreeSet::new();
    for case in frames().iter().chain(&senders()).chain(&ways()) {
        reached.extend(dropped(&mut run(case)));
    }
    let scenes = [
        no_route,
        no_headroom,
        oversized,
        denied,
        flows::table_full,
        flows::out_of_window,
        limits::exceeded,
        workers::lent_frames_used_up,
        host::closed,
        ipv6::uncarried,
        encapsulations::refused,
        fragments::dropped,
        nd::forged,
        nat::dropped,
    ];
    for scene in scenes {
        reached.extend(scene());
    }
    // What a packet socket has lost is known to the kernel alone: see tests/packet_sockets.rs of fastpath/xsk.
    reached.insert(DropReason::ReceiveBufferFull);
    let missing: Vec<_> = DropReason::ALL.iter().filter(|reason| !reached.contains(reason)).collect();
    assert!(missing.is_empty(), "no packet test reaches {missing:?}");
}
