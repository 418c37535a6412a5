//! The ways that packets take: hops that answer for themselves, sizes that do not fit, workers, jumbo frames, and a peer that is Linux.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use nix::sys::socket::{getsockopt, sockopt};
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    api::isolate,
    lab::{Lab, Plan},
    machine::{eventually, stdout},
    traffic::{Place, Questions, answers, transfer},
};

const MIB: usize = 1 << 20;

/// Who answers a probe with that time to live, and with which ICMP type.
fn hop(from: &Place, to: Ipv4Addr, ttl: u32) -> Option<(Ipv4Addr, u8)> {
    let (probe, listener) = from.run(|| {
        let listener = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap();
        listener.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        (std::net::UdpSocket::bind((from.address, 0)).unwrap(), std::net::UdpSocket::from(listener))
    });
    probe.set_ttl(ttl).unwrap();
    let port = 33_434 + ttl as u16;
    for _ in 0..60 {
        let _ = probe.send_to(b"probe", (to, port));
        let mut packet = [0; 1500];
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(300) {
            let Ok(length) = listener.recv(&mut packet) else { continue };
            // Outer header, ICMP header, the probe's header, its ports.
            let quoted_port = packet.get(20 + 8 + 20 + 2..20 + 8 + 20 + 4);
            if length >= 52 && quoted_port == Some(&port.to_be_bytes()[..]) {
                return Some((Ipv4Addr::new(packet[12], packet[13], packet[14], packet[15]), packet[20]));
            }
        }
    }
    None
}

const TIME_EXCEEDED: u8 = 11;
const UNREACHABLE: u8 = 3;

#[test]
fn every_hop_of_a_path_answers_for_itself() {
    let lab = Lab::up("hops", &Plan::pods(&[("a", "node1"), ("b", "node1"), ("c", "node2")]));
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.pod(name));
    let (node1, node2) = (lab.node("node1").v4(), lab.node("node2").v4());
    let tunnel = |node: u8| Ipv4Addr::new(10, 244, node, 0);

    let hops =
        |from: &Place, to: Ipv4Addr| -> Vec<_> { (1..=4).map_while(|ttl| hop(from, to, ttl)).collect() };
    let across = hops(&a, c.v4());
    println!("across nodes: {across:?}");
    assert!([node1, tunnel(1)].contains(&across[0].0), "{across:?}");
    assert!([node2, tunnel(2)].contains(&across[1].0), "{across:?}");
    assert_eq!((across[0].1, across[1].1), (TIME_EXCEEDED, TIME_EXCEEDED));
    assert_eq!(across[2], (c.v4(), UNREACHABLE));
    let local = hops(&a, b.v4());
    println!("on one node: {local:?}");
    assert!([node1, tunnel(1)].contains(&local[0].0), "{local:?}");
    assert_eq!(local[1], (b.v4(), UNREACHABLE));
    // And as people do it, where traceroute is installed.
    let traceroute = lab.exec("default/a", &["traceroute", "-n", "-q1", "-w1", &c.address.to_string()]);
    if traceroute.status.success() {
        let text = stdout(&traceroute);
        assert!(text.contains(&c.address.to_string()) && !text.contains('*'), "{text}");
    }
}

/// The path's MTU as a pod's kernel learns it from ICMP: UDP sets "don't fragment" as long as it knows nothing better.
fn learned_mtu(from: &Place, to: &Place, payload: usize) -> i32 {
    let socket = from.udp(0);
    socket.connect(to.at(7009)).unwrap();
    let mut learned = 0;
    eventually("the path's MTU is learned", || {
        let _ = socket.send(&vec![0; payload]);
        learned = getsockopt(&socket, sockopt::IpMtu).unwrap();
        learned < payload as i32 + 28
    });
    learned
}

#[test]
fn a_pod_that_sends_too_much_is_told_the_paths_mtu() {
    let lab = Lab::up("mtu", &Plan::pods(&[("a", "node1"), ("c", "node2")]));
    let (a, c) = (lab.pod("a"), lab.pod("c"));
    // What is longer than its host end's MTU, a veth does not even take.
    lab.must("node/node1", &["ip", "link", "set", lab.interface("a"), "mtu", "1500"]);
    lab.must("default/a", &["ip", "link", "set", "eth0", "mtu", "1500"]);
    assert_eq!(learned_mtu(&a, &c, 1472), 1450);
    assert!(lab.dropped("node1", "packet-too-big") > 0);
    lab.must("default/a", &["ip", "route", "flush", "cache"]);
    transfer(&a, &c, 7001, 8 * MIB);
    transfer(&c, &a, 7002, 8 * MIB);
}

#[test]
fn bulk_data_arrives_as_it_was_sent() {
    let lab = Lab::up_alone("bulk", &Plan::pods(&[("a", "node1"), ("b", "node1"), ("c", "node2")]));
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.pod(name));
    let ways = [("same node", &a, &b), ("and back", &b, &a), ("across nodes", &a, &c), ("and back", &c, &a)];
    for (port, (what, from, to)) in (7001..).zip(ways) {
        println!("{what}: 64 MiB over TCP at {:.0} Mbit/s", transfer(from, to, port, 64 * MIB));
    }
    // Pods' kernels leave checksums to the device; none may arrive half-made.
    for (node, pod) in [("node1", "a"), ("node1", "b"), ("node2", "c")] {
        let errors = lab.pod(pod).run(|| std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap());
        let mut tcp = errors.lines().filter(|line| line.starts_with("Tcp:"));
        let column = tcp.next().unwrap().split(' ').position(|name| name == "InCsumErrors").unwrap();
        assert_eq!(tcp.next().unwrap().split(' ').nth(column), Some("0"), "bad checksums in {pod} on {node}");
    }
}

#[test]
fn pods_of_different_workers_talk_and_policy_holds() {
    let pods: Vec<_> = (0..6).map(|i| (format!("p{i}"), if i < 4 { "node1" } else { "node2" })).collect();
    let names: Vec<_> = pods.iter().map(|(name, node)| (name.as_str(), *node)).collect();
    let plan = Plan::pods(&names).object(isolate("closed", "p3")).option("workers", json!(2));
    let lab = Lab::up("workers", &plan);
    let status = lab.status("node1").unwrap();
    let workers: Vec<_> =
        status.ports.iter().filter(|port| port.kind == "pod").map(|port| port.worker).collect();
    assert!(workers.contains(&0) && workers.contains(&1), "pods are on one worker only: {workers:?}");
    let places: Vec<_> = names.iter().map(|(name, _)| lab.pod(name)).collect();
    let mut port = 7001;
    for (i, from) in places.iter().enumerate() {
        for (j, to) in places.iter().enumerate().filter(|(j, _)| *j != i) {
            port += 1;
            if j == 3 {
                let questions = Questions::start(from, to, port);
                let start = Instant::now();
                while start.elapsed() < Duration::from_millis(200) {}
                assert_eq!(questions.heard(), 0, "p{i} reached an isolated pod");
            } else {
                assert!(answers(from, to, port), "p{i} does not reach p{j}");
            }
        }
    }
    for (from, to) in [(0, 1), (1, 0), (0, 4), (1, 4), (4, 0), (4, 1)] {
        port += 1;
        let rate = transfer(&places[from], &places[to], port, 16 * MIB);
        println!("two workers, p{from} to p{to}: {rate:.0} Mbit/s");
    }
}

#[test]
fn jumbo_frames_pass_whole() {
    let plan = Plan::pods(&[("a", "node1"), ("b", "node1"), ("c", "node2")]).option("uplinkMTU", json!(9000));
    let lab = Lab::up("jumbo", &plan);
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.pod(name));
    for (from, to) in [(&a, &b), (&b, &a), (&a, &c), (&c, &a)] {
        let (source, sink) = (from.udp(0), to.udp(7001));
        let sent: Vec<u8> = (0..8000_u32).map(|i| (i * 7 % 251) as u8).collect();
        let mut buffer = vec![0; 10_000];
        eventually("a datagram of 8000 bytes arrives", || {
            source.send_to(&sent, to.at(7001)).unwrap();
            sink.recv(&mut buffer).is_ok_and(|length| buffer[..length] == sent)
        });
    }
    for (port, (from, to)) in (7011..).zip([(&a, &b), (&a, &c), (&c, &a)]) {
        println!("jumbo frames: {:.0} Mbit/s", transfer(from, to, port, 32 * MIB));
    }
    assert_eq!(learned_mtu_of_the_path(&a, &c), 8950);
}

/// What a pod's own link says: that nothing smaller was told it.
fn learned_mtu_of_the_path(from: &Place, to: &Place) -> i32 {
    let socket = from.udp(0);
    socket.connect(to.at(7009)).unwrap();
    getsockopt(&socket, sockopt::IpMtu).unwrap()
}

#[test]
fn linux_itself_is_a_peer() {
    let plan = Plan::pods(&[("a", "node1"), ("b", "node2"), ("closed", "node1")])
        .object(isolate("closed", "closed"))
        .option("kernelNodes", json!(["node2"]));
    let lab = Lab::up("linux-peer", &plan);
    let [a, b, closed] = ["a", "b", "closed"].map(|name| lab.pod(name));
    assert!(answers(&a, &b, 7001) && answers(&b, &a, 7002));
    for (port, (from, to)) in (7003..).zip([(&a, &b), (&b, &a)]) {
        println!("with Linux' own VXLAN: {:.0} Mbit/s", transfer(from, to, port, 16 * MIB));
    }
    let questions = Questions::start(&b, &closed, 7005);
    eventually("what Linux sent is denied", || lab.dropped("node1", "policy-deny") > 10);
    assert_eq!(questions.heard(), 0);
}
