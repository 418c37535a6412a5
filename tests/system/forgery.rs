//! Packets from those who may not send them: each is dropped, for its own reason, and reaches nobody.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use caracal_model::names::vtep_mac;

use crate::{
    lab::{Lab, Plan},
    machine::eventually,
    traffic::{Place, answers},
};

const VXLAN: u16 = 4789;
const VNI: u32 = 4096;
const SECRET: u16 = 7001;

/// An IPv4 packet with a UDP datagram, checksum of the datagram left out as UDP allows.
fn udp_packet(source: Ipv4Addr, destination: Ipv4Addr, port: u16) -> Vec<u8> {
    let payload = b"forged";
    let length = 28 + payload.len() as u16;
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 1, 0, 0, 64, 17, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let sum: u32 = packet.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(4000_u16.to_be_bytes());
    packet.extend(port.to_be_bytes());
    packet.extend((8 + payload.len() as u16).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

/// What a VXLAN datagram carries.
fn vxlan(vni: u32, to_node: &str, inner: &[u8]) -> Vec<u8> {
    let mut bytes = vec![8, 0, 0, 0];
    bytes.extend((vni << 8).to_be_bytes());
    bytes.extend(vtep_mac(to_node));
    bytes.extend(vtep_mac("node2"));
    bytes.extend([8, 0]);
    bytes.extend(inner);
    bytes
}

#[test]
fn forged_packets_reach_nobody_and_are_dropped_for_what_they_are() {
    let lab = Lab::up("forgery", &Plan::pods(&[("a", "node1"), ("b", "node1"), ("c", "node2")]));
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.pod(name));
    let (node1, node2) = (lab.node("node1"), lab.node("node2"));
    let outside = lab.outside(Ipv4Addr::new(203, 0, 113, 7));
    assert!(answers(&a, &c, 7002) && answers(&c, &a, 7003), "honest packets must pass");
    let victim = b.udp(SECRET);

    let raw = |from: &Place, packet: Vec<u8>| {
        let socket = from.raw();
        let destination = Ipv4Addr::new(packet[16], packet[17], packet[18], packet[19]);
        Box::new(move || {
            let _ = socket.send_to(&packet, &SocketAddrV4::new(destination, 0).into());
        }) as Box<dyn Fn()>
    };
    let tunnelled = |from: &Place, to: &Place, payload: Vec<u8>| {
        let socket = from.run(|| std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap());
        let to = to.at(VXLAN);
        Box::new(move || {
            let _ = socket.send_to(&payload, to);
        }) as Box<dyn Fn()>
    };
    let honest = udp_packet(c.v4(), b.v4(), SECRET);
    let elsewhere = Ipv4Addr::new(10, 244, 1, 77);
    let pod_of_node1 = udp_packet(a.v4(), b.v4(), SECRET);
    let stranger = udp_packet(Ipv4Addr::new(198, 51, 100, 9), b.v4(), SECRET);
    let mut nested = udp_packet(c.v4(), node1.v4(), VXLAN);
    nested.truncate(28);
    nested.extend(vxlan(VNI, "node1", &honest));
    let length = nested.len() as u16;
    nested[2..4].copy_from_slice(&length.to_be_bytes());
    nested[24..26].copy_from_slice(&(length - 20).to_be_bytes());
    nested[10..12].fill(0);
    let sum: u32 = nested[..20].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    nested[10..12].copy_from_slice(&checksum.to_be_bytes());

    let forgeries = [
        ("a pod with another pod's source", "spoofed-source", raw(&a, udp_packet(c.v4(), b.v4(), SECRET))),
        (
            "a pod with its neighbour's source",
            "spoofed-source",
            raw(&a, udp_packet(elsewhere, b.v4(), SECRET)),
        ),
        ("a pod with its node's source", "spoofed-source", raw(&a, udp_packet(node1.v4(), b.v4(), SECRET))),
        (
            "a pod with no source",
            "address-invalid",
            raw(&a, udp_packet(Ipv4Addr::new(0, 0, 0, 1), b.v4(), SECRET)),
        ),
        (
            "a pod that sends VXLAN to its node",
            "pod-sent-tunnel",
            tunnelled(&a, &node1, vxlan(VNI, "node1", &honest)),
        ),
        (
            "a pod that sends VXLAN to another node",
            "pod-sent-tunnel",
            tunnelled(&a, &node2, vxlan(VNI, "node2", &udp_packet(a.v4(), c.v4(), SECRET))),
        ),
        (
            "a tunnel from outside",
            "tunnel-unknown-source",
            tunnelled(&outside, &node1, vxlan(VNI, "node1", &honest)),
        ),
        (
            "another network's tunnel",
            "tunnel-unknown-vni",
            tunnelled(&node2, &node1, vxlan(7, "node1", &honest)),
        ),
        ("a tunnel with nothing in it", "tunnel-malformed", tunnelled(&node2, &node1, vec![8, 0, 0, 0])),
        ("a tunnel in a tunnel", "tunnel-nested", tunnelled(&node2, &node1, vxlan(VNI, "node1", &nested))),
        (
            "our own pod's source in a tunnel",
            "tunnel-spoofed-inner",
            tunnelled(&node2, &node1, vxlan(VNI, "node1", &pod_of_node1)),
        ),
        (
            "a source from outside in a tunnel",
            "tunnel-spoofed-inner",
            tunnelled(&node2, &node1, vxlan(VNI, "node1", &stranger)),
        ),
        ("another node's pod, outside of a tunnel", "fabric-spoofed-source", raw(&outside, honest.clone())),
        ("our own pod, from the fabric", "fabric-spoofed-source", raw(&outside, pod_of_node1.clone())),
    ];
    // Of the former forgery several may have been sent, and the last of them counted late.
    let mut former = "";
    for (what, reason, send) in &forgeries {
        let before = lab.drops("node1");
        eventually(&format!("{what}: {reason}"), || {
            send();
            lab.dropped("node1", reason) > before[*reason]
        });
        for (other, count) in lab.drops("node1") {
            let background = ["arp-not-for-us", "not-our-mac"].contains(&other.as_str());
            assert!(
                other == *reason || other == former || background || count == before[&other],
                "{what}: also dropped for {other}"
            );
        }
        former = reason;
    }
    let start = Instant::now();
    let mut buffer = [0; 64];
    while start.elapsed() < Duration::from_millis(200) {
        assert!(victim.recv(&mut buffer).is_err(), "a forged packet arrived");
    }
    // What they are made of passes where it is honest.
    let honest = tunnelled(&node2, &node1, vxlan(VNI, "node1", &honest));
    eventually("an honest tunnel packet arrives", || {
        honest();
        victim.recv(&mut buffer).is_ok()
    });
}
