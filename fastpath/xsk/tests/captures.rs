//! What the uplink's program takes, and what it leaves to the host. Needs root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's helpers fail as tests do"
)]

mod common;

use caracal_xsk::Socket;
use caracal_xsk::xdp::uplink::{Capture, UplinkCounters};
use caracal_xsk::xdp::{Preference, Uplink};
use common::*;
use std::net::{IpAddr, Ipv4Addr};

const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const HOST6: &str = "fd00::10";
/// Another address of the host, at which nothing is captured by port.
const SECOND: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 20);
const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 7);
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// What `packets` from the peer become, with a socket on the uplink that captures a VXLAN port, IPIP and the pods' prefix. The program that
/// asks for VLAN tags does the same as the other.
fn captured(packets: Vec<Vec<u8>>) -> (Vec<Vec<u8>>, UplinkCounters) {
    let asking = captured_by(packets.clone(), |up| Uplink::attach_seeing_vlan_tags(up).unwrap());
    let plain = captured_by(packets, |up| Uplink::attach(up, Preference::NativeFirst).unwrap());
    assert_eq!(asking, plain);
    plain
}

fn captured_by(packets: Vec<Vec<u8>>, attach: fn(u32) -> Uplink) -> (Vec<Vec<u8>>, UplinkCounters) {
    in_netns(move || {
        let (up, _) = veth("crtup", "crtwire");
        let mut wire = Wire::new("crtwire");
        let (domain, mut pool) = domain(64);
        let mut socket = Socket::bind(&domain, up, 0, small_rings()).unwrap();
        let mut uplink = attach(up);
        uplink.capture(Capture::Vxlan { local: IpAddr::V4(HOST), port: 4789 }).unwrap();
        uplink.capture(Capture::Ipip { local: IpAddr::V4(HOST) }).unwrap();
        uplink
            .capture(Capture::Prefix { address: IpAddr::V4(Ipv4Addr::new(10, 244, 1, 0)), length: 24 })
            .unwrap();
        uplink.capture(Capture::Prefix { address: "fd00:244::".parse().unwrap(), length: 64 }).unwrap();
        uplink.capture(Capture::Vxlan { local: "fd00::10".parse().unwrap(), port: 4789 }).unwrap();
        let service = |local, port| Capture::Service { local, protocol: TCP, port };
        for local in [IpAddr::V4(HOST), HOST6.parse().unwrap()] {
            uplink.capture(Capture::Ports { local, first: FIRST, last: LAST }).unwrap();
            uplink.capture(service(local, NODE_PORT)).unwrap();
        }
        uplink.capture(service(IpAddr::V4(SECOND), 443)).unwrap();
        uplink.set_socket(0, &socket).unwrap();
        socket.refill(&mut pool, 32);
        packets.iter().for_each(|packet| wire.send(packet));
        let counters = eventually("all packets are counted", || {
            let c = uplink.counters().unwrap();
            let tunnels = c.captured_vxlan + c.captured_ipip;
            let ports = c.captured_service + c.captured_translated + c.captured_error + c.captured_fragment;
            let sum = c.passed + c.captured_prefix + tunnels + ports + c.no_socket;
            (sum == packets.len() as u64).then_some(c)
        });
        let ours = packets.len() - counters.passed as usize;
        let received = receive_packets(&mut socket, &mut pool, ours);
        wire.close();
        socket.close(&mut pool);
        assert_eq!(pool.free(), 64);
        (received, counters)
    })
}

fn ipv6(destination: &str, next_header: u8, payload: &[u8]) -> Vec<u8> {
    let destination: std::net::Ipv6Addr = destination.parse().unwrap();
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 1, 0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend((payload.len() as u16).to_be_bytes());
    frame.extend([next_header, 64]);
    frame.extend([0; 16]);
    frame.extend(destination.octets());
    frame.extend(payload);
    frame
}

#[test]
fn the_uplink_takes_tunnels_that_end_here() {
    let ours = vec![
        ipv4(PEER, HOST, 17, 0, &udp(1000, 4789, b"vxlan")),
        ipv4(PEER, HOST, 4, 0, b"ip in ip"),
        ipv6("fd00::10", 17, &udp(1000, 4789, b"vxlan over IPv6")),
    ];
    let (received, counters) = captured(ours.clone());
    assert_eq!(received, ours);
    assert_eq!(counters, UplinkCounters { captured_vxlan: 2, captured_ipip: 1, ..UplinkCounters::default() });
}

#[test]
fn the_uplink_takes_what_goes_to_a_pod_prefix_whole_or_in_fragments() {
    const MORE_FRAGMENTS: u16 = 0x2000;
    let ours = vec![
        ipv4(PEER, POD, 17, 0, &udp(1, 2, b"whole")),
        ipv4(PEER, POD, 17, MORE_FRAGMENTS, &udp(1, 2, b"first fragment..")),
        ipv4(PEER, POD, 17, 3, b"last fragment"),
        ipv4(PEER, POD, 1, 0, b"any protocol"),
        ipv6("fd00:244::7", 44, &[17, 0, 0, 1, 0, 0, 0, 1, 9, 9, 9, 9, 9, 9, 9, 9]),
    ];
    let (received, counters) = captured(ours.clone());
    assert_eq!(received, ours);
    assert_eq!(counters, UplinkCounters { captured_prefix: 5, ..UplinkCounters::default() });
}

#[test]
fn the_uplink_passes_everything_else() {
    let mut tagged = ipv4(PEER, POD, 17, 0, &udp(1, 2, b"tagged"));
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    let mut arp = vec![0xff; 6];
    arp.extend([2, 0, 0, 0, 0, 1, 8, 6]);
    arp.resize(60, 0);
    let truncated = ipv4(PEER, HOST, 17, 0, &udp(1, 4789, b""))[..38].to_vec();
    let mut short_header = ipv4(PEER, POD, 17, 0, &udp(1, 2, b"ihl 4"));
    short_header[14] = 0x44;
    let others = vec![
        ipv4(PEER, HOST, 17, 0, &udp(1, 4790, b"another port")),
        ipv4(PEER, ELSEWHERE, 17, 0, &udp(1, 4789, b"another address")),
        ipv4(PEER, ELSEWHERE, 4, 0, b"another's tunnel"),
        ipv4(PEER, HOST, 6, 0, &udp(1, 4789, b"not UDP............")),
        ipv4(PEER, Ipv4Addr::new(10, 244, 2, 7), 17, 0, &udp(1, 2, b"another node's pod")),
        ipv6("fd00:244:0:1::7", 17, &udp(1, 2, b"another prefix")),
        ipv6("fd00::10", 17, &udp(1, 53, b"another port")),
        tagged,
        arp,
        truncated,
        short_header,
    ];
    let count = others.len() as u64;
    let (received, counters) = captured(others);
    assert_eq!(received, Vec::<Vec<u8>>::new());
    assert_eq!(counters, UplinkCounters { passed: count, ..UplinkCounters::default() });
}

#[test]
fn what_is_released_passes_again() {
    in_netns(|| {
        let (up, _) = veth("crtup", "crtwire");
        let mut wire = Wire::new("crtwire");
        let mut uplink = Uplink::attach(up, Preference::NativeFirst).unwrap();
        let end = Capture::Vxlan { local: IpAddr::V4(HOST), port: 4789 };
        let prefix = IpAddr::V4(Ipv4Addr::new(10, 244, 1, 0));
        uplink.capture(end).unwrap();
        uplink.capture(Capture::Prefix { address: prefix, length: 24 }).unwrap();
        uplink.release(end).unwrap();
        uplink.release(Capture::Prefix { address: prefix, length: 24 }).unwrap();
        // Releasing what is not captured is fine.
        uplink.release(end).unwrap();
        uplink.release(Capture::Prefix { address: prefix, length: 24 }).unwrap();
        wire.send(&ipv4(PEER, HOST, 17, 0, &udp(1, 4789, b"vxlan")));
        wire.send(&ipv4(PEER, POD, 17, 0, &udp(1, 2, b"pod")));
        eventually("both pass", || (uplink.counters().unwrap().passed == 2).then_some(()));
        wire.close();
    });
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const NODE_PORT: u16 = 30_053;
const FIRST: u16 = 61_000;
const LAST: u16 = 62_999;

/// The first eight bytes of any transport that has ports.
fn ports(source: u16, destination: u16) -> Vec<u8> {
    let mut bytes = source.to_be_bytes().to_vec();
    bytes.extend(destination.to_be_bytes());
    bytes.extend([0; 12]);
    bytes
}

/// An ICMP message of this type with these four bytes and more after its checksum.
fn icmp(kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, 0, 0, 0];
    bytes.extend(rest);
    bytes
}

fn echo(kind: u8, identifier: u16) -> Vec<u8> {
    let [high, low] = identifier.to_be_bytes();
    icmp(kind, &[high, low, 0, 1, b'?', b'?'])
}

/// An ICMP error of this type about an IP packet.
fn error(kind: u8, about: &[u8]) -> Vec<u8> {
    icmp(kind, &[&[0; 4], &about[14..]].concat())
}

fn fragment6(more: bool) -> Vec<u8> {
    let mut bytes = vec![UDP, 0, 0, u8::from(more), 0, 0, 0, 7];
    bytes.extend(udp(1, 2, b"fragment"));
    bytes
}

#[test]
fn the_uplink_takes_the_ports_of_services_and_those_that_stand_for_pods() {
    let error6 = |kind, next_header, quoted: &[u8]| {
        // The source of what is quoted is the host's.
        let mut about = ipv6("2001:db8::1", next_header, quoted);
        let host: std::net::Ipv6Addr = HOST6.parse().unwrap();
        about[22..38].copy_from_slice(&host.octets());
        ipv6(HOST6, 58, &error(kind, &about))
    };
    let error4 = |kind, about: Vec<u8>| ipv4(ELSEWHERE, HOST, 1, 0, &error(kind, &about));
    let sent = |protocol, payload: &[u8]| ipv4(HOST, PEER, protocol, 0x4000, payload);
    let services = vec![
        ipv4(PEER, HOST, TCP, 0, &ports(40_000, NODE_PORT)),
        ipv6(HOST6, TCP, &ports(40_000, NODE_PORT)),
        ipv4(PEER, SECOND, TCP, 0, &ports(40_000, 443)),
    ];
    let translated = vec![
        ipv4(PEER, HOST, TCP, 0, &ports(80, FIRST)),
        ipv4(PEER, HOST, UDP, 0, &udp(53, LAST, b"answer")),
        ipv4(PEER, HOST, SCTP, 0, &ports(80, FIRST + 1)),
        ipv4(PEER, HOST, 1, 0, &echo(0, FIRST)),
        ipv6(HOST6, UDP, &udp(53, FIRST, b"answer")),
        ipv6(HOST6, 58, &echo(129, LAST)),
    ];
    let errors = vec![
        error4(3, sent(TCP, &ports(FIRST, 80))),
        error4(11, sent(UDP, &udp(LAST, 53, b""))),
        error4(12, sent(TCP, &ports(NODE_PORT, 40_000))),
        error4(3, sent(1, &echo(8, FIRST))),
        error6(1, TCP, &ports(FIRST, 80)),
        error6(2, UDP, &udp(FIRST, 53, b"")),
        error6(3, 58, &echo(128, LAST)),
        error6(4, TCP, &ports(NODE_PORT, 40_000)),
    ];
    let fragments = vec![
        ipv4(PEER, HOST, UDP, 0x2000, &udp(1, 2, b"first")),
        ipv4(PEER, HOST, UDP, 3, b"last"),
        ipv6(HOST6, 44, &fragment6(true)),
    ];
    let expected = UplinkCounters {
        captured_service: services.len() as u64,
        captured_translated: translated.len() as u64,
        captured_error: errors.len() as u64,
        captured_fragment: fragments.len() as u64,
        ..UplinkCounters::default()
    };
    let ours = [services, translated, errors, fragments].concat();
    let (received, counters) = captured(ours.clone());
    assert_eq!(counters, expected);
    assert_eq!(received, ours);
}

#[test]
fn the_uplink_leaves_the_hosts_own_connections_to_the_host() {
    let error4 = |about: Vec<u8>| ipv4(ELSEWHERE, HOST, 1, 0, &error(3, &about));
    let hosts = vec![
        ipv4(PEER, HOST, TCP, 0, &ports(40_000, 22)),
        ipv4(PEER, HOST, UDP, 0, &ports(40_000, NODE_PORT)),
        ipv4(PEER, HOST, TCP, 0, &ports(40_000, FIRST - 1)),
        ipv4(PEER, HOST, TCP, 0, &ports(40_000, LAST + 1)),
        ipv4(PEER, SECOND, TCP, 0, &ports(40_000, FIRST)),
        ipv4(PEER, ELSEWHERE, TCP, 0, &ports(40_000, NODE_PORT)),
        // An echo is asked of the host; and so was this answer.
        ipv4(PEER, HOST, 1, 0, &echo(8, FIRST)),
        ipv4(PEER, HOST, 1, 0, &echo(0, FIRST - 1)),
        ipv6(HOST6, 58, &echo(128, FIRST)),
        ipv6(HOST6, 58, &icmp(135, &[0; 20])),
        // About packets of the host's own, of its tunnels, and of nobody here.
        error4(ipv4(HOST, PEER, TCP, 0, &ports(45_000, 80))),
        error4(ipv4(HOST, PEER, UDP, 0, &ports(50_000, 4789))),
        error4(ipv4(HOST, PEER, UDP, 0, &ports(4789, 50_000))),
        error4(ipv4(HOST, PEER, 1, 0, &echo(8, 1))),
        error4(ipv4(ELSEWHERE, PEER, TCP, 0, &ports(FIRST, 80))),
        // A later fragment's first bytes are no ports.
        error4(ipv4(HOST, PEER, TCP, 3, &ports(FIRST, 80))),
        // Cut off within what is quoted, and without a header.
        error4(ipv4(HOST, PEER, TCP, 0, &ports(FIRST, 80)[..4])),
        error4(vec![0; 20]),
        ipv4(PEER, HOST, TCP, 0, &ports(1, FIRST)[..4]),
        // Fragments to an address where nothing is captured by port.
        ipv4(PEER, SECOND, UDP, 0x2000, &udp(1, FIRST, b"first")),
        ipv4(PEER, HOST, 50, 0, &ports(40_000, NODE_PORT)),
        // Hop-by-hop options before a captured port.
        ipv6(HOST6, 0, &[[TCP, 0, 1, 4, 0, 0, 0, 0].as_slice(), &ports(1, FIRST)].concat()),
    ];
    let count = hosts.len() as u64;
    let (received, counters) = captured(hosts);
    assert_eq!(received, Vec::<Vec<u8>>::new());
    assert_eq!(counters, UplinkCounters { passed: count, ..UplinkCounters::default() });
}

#[test]
fn another_range_of_ports_takes_the_place_of_the_first_at_once() {
    in_netns(|| {
        let (up, _) = veth("crtup", "crtwire");
        let mut wire = Wire::new("crtwire");
        let mut uplink = Uplink::attach(up, Preference::NativeFirst).unwrap();
        let range = |first| Capture::Ports { local: IpAddr::V4(HOST), first, last: first + 9 };
        uplink.capture(range(100)).unwrap();
        uplink.capture(range(200)).unwrap();
        // The controller captures before it releases.
        uplink.release(range(100)).unwrap();
        wire.send(&ipv4(PEER, HOST, TCP, 0, &ports(1, 105)));
        wire.send(&ipv4(PEER, HOST, TCP, 0, &ports(1, 205)));
        let counts = || uplink.counters().map(|c| (c.passed, c.no_socket)).unwrap();
        eventually("one is the host's and one would be ours", || (counts() == (1, 1)).then_some(()));
        uplink.release(range(200)).unwrap();
        wire.send(&ipv4(PEER, HOST, TCP, 0, &ports(1, 205)));
        let passed = || uplink.counters().unwrap().passed;
        eventually("released, it is the host's", || (passed() == 2).then_some(()));
        wire.close();
    });
}
