//! Two kernel TCP stacks must not be able to tell that we are in between: many bytes with checksums, and iperf3, through every way that
//! packets take, over a fabric that loses, doubles and reorders.
//!
//! With `CARACAL_LONG=1` each is a gigabyte, else 64 MiB.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use caracal_lab::MARK;
use serde_json::{Value, json};

use crate::{
    api::pool,
    lab::{Lab, Plan},
    machine::{PATIENCE, rounds},
    traffic::{Place, transfer, transfer_by},
    wire::{BAD, Impaired},
};

const MIB: usize = 1 << 20;
const IPERF_PORT: u16 = 5201;

fn plan() -> Plan {
    Plan::pods(&[("a", "node1"), ("b", "node1"), ("c", "node2")])
}

/// A way from somebody to somebody.
struct Way<'a> {
    what: &'a str,
    from: &'a Place,
    to: &'a Place,
    /// What the sender connects to for a port of the receiver's.
    asked: &'a dyn Fn(u16) -> SocketAddr,
    /// The node whose wire becomes a bad one, counted from 0.
    wire: usize,
}

/// Bytes both ways, then iperf3 both ways, over a good wire and over a bad one.
fn assert_indistinguishable(what: &str, lab: &Lab, a: &Place, c: &Place) {
    let (there, back) = (|port| c.at(port), |port| a.at(port));
    assert_carries(lab, &Way { what, from: a, to: c, asked: &there, wire: 1 });
    assert_carries(lab, &Way { what, from: c, to: a, asked: &back, wire: 1 });
}

/// The first ports that receivers listen on; iperf3's follows.
const PORTS: [u16; 2] = [7001, 7002];

fn assert_carries(lab: &Lab, way: &Way<'_>) {
    let Way { what, from, to, asked, wire } = way;
    let mib = rounds(64, 1024);
    for (port, wires) in PORTS.into_iter().zip(["good wires", "a bad wire"]) {
        let _impaired = (port == PORTS[1]).then(|| Impaired::new(lab, *wire, &BAD));
        let rate = transfer_by(from, asked(port), to, port, mib * MIB);
        println!("{what}, {wires}: {mib} MiB over TCP at {rate:.0} Mbit/s");
        iperf(&format!("{what}, {wires}"), lab, from, asked(IPERF_PORT), to);
    }
    checksums_are_right(&[from, to]);
}

/// A few seconds of iperf3 both ways, which must get through.
fn iperf(what: &str, lab: &Lab, from: &Place, asked: SocketAddr, to: &Place) {
    let seconds = rounds(1, 10).to_string();
    let (address, port) = (asked.ip().to_string(), asked.port().to_string());
    let mark = &lab.state().run;
    let mut server = to.run(|| {
        let server = Command::new("iperf3")
            .args(["-s", "-1", "-p", &IPERF_PORT.to_string()])
            .env(MARK, mark)
            .stdout(Stdio::null())
            .spawn();
        server.expect("iperf3 is not there: scripts/test installs it")
    });
    let report: Value = from.run(|| {
        let start = Instant::now();
        loop {
            let output = Command::new("iperf3")
                .args(["-c", &address, "-p", &port, "-t", &seconds, "--bidir", "-J"])
                .env(MARK, mark)
                .output()
                .unwrap();
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            let why = report["error"].as_str().unwrap_or_default();
            // The server may not listen yet.
            if !why.contains("refused") || start.elapsed() > PATIENCE {
                return report;
            }
            thread::sleep(Duration::from_millis(50));
        }
    });
    let _ = server.kill();
    let _ = server.wait();
    assert!(report["error"].is_null(), "{what}: iperf3: {}", report["error"]);
    let rate = |sum: &str| report["end"][sum]["bits_per_second"].as_f64().unwrap() / 1e6;
    let (there, back) = (rate("sum_received"), rate("sum_received_bidir_reverse"));
    println!("{what}: iperf3 {there:.0} Mbit/s there, {back:.0} Mbit/s back");
    assert!(there > 1.0 && back > 1.0, "{what}: as good as nothing got through: {there}, {back} Mbit/s");
}

/// No segment came with a wrong checksum: pods' kernels leave them to the device, and none may arrive half made.
pub fn checksums_are_right(places: &[&Place]) {
    for place in places {
        let text = place.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap());
        let mut tcp = text.lines().filter(|line| line.starts_with("Tcp:"));
        let column = tcp.next().unwrap().split(' ').position(|name| name == "InCsumErrors").unwrap();
        assert_eq!(tcp.next().unwrap().split(' ').nth(column), Some("0"), "wrong checksums at {place:?}");
    }
}

#[test]
fn nobody_can_tell_on_one_node() {
    let lab = Lab::up_alone("same-node", &plan());
    // No wire of the fabric is on this way.
    let (a, b) = (lab.pod("a"), lab.pod("b"));
    let mib = rounds(64, 1024);
    for (port, (from, to)) in (7001..).zip([(&a, &b), (&b, &a)]) {
        println!("one node: {mib} MiB over TCP at {:.0} Mbit/s", transfer(from, to, port, mib * MIB));
    }
    iperf("one node", &lab, &a, b.at(IPERF_PORT), &b);
    checksums_are_right(&[&a, &b]);
}

#[test]
fn nobody_can_tell_through_vxlan() {
    let lab = Lab::up_alone("vxlan", &plan());
    assert_indistinguishable("VXLAN", &lab, &lab.pod("a"), &lab.pod("c"));
    assert!(lab.counter("node1", "tunnel_encapsulated", "") > 0);
}

#[test]
fn nobody_can_tell_through_vxlan_over_ipv6() {
    let plan = plan().object(pool("v6", "fd00:10:244::/48", json!({"vxlanMode": "Always"})));
    let lab = Lab::up_alone("vxlan6", &plan);
    assert_indistinguishable("VXLAN over IPv6", &lab, &lab.pod_v6("a"), &lab.pod_v6("c"));
    assert!(lab.counter("node1", "tunnel_encapsulated", "") > 0);
}

#[test]
fn nobody_can_tell_through_ipip() {
    let lab =
        Lab::up_alone("ipip", &plan().object(pool("v4", "10.244.0.0/16", json!({"ipipMode": "Always"}))));
    assert_indistinguishable("IPIP", &lab, &lab.pod("a"), &lab.pod("c"));
    assert!(lab.counter("node1", "tunnel_encapsulated", "") > 0);
}

#[test]
fn nobody_can_tell_without_a_tunnel() {
    let plan = plan().object(pool("v4", "10.244.0.0/16", json!({}))).object(pool(
        "v6",
        "fd00:10:244::/48",
        json!({}),
    ));
    let lab = Lab::up_alone("plain", &plan);
    assert_indistinguishable("no tunnel", &lab, &lab.pod("a"), &lab.pod("c"));
    assert_indistinguishable("no tunnel, IPv6", &lab, &lab.pod_v6("a"), &lab.pod_v6("c"));
    assert_eq!(lab.counter("node1", "tunnel_encapsulated", ""), 0, "something went through a tunnel");
}

/// A service whose backend is the pod `c`, with a node port 30000 above each 7000th port, and 30201 for iperf3's.
fn service() -> Value {
    let port = |port: u16| json!({"name": format!("p{port}"), "port": port, "nodePort": node_port(port)});
    let ports: Vec<_> = PORTS.into_iter().chain([IPERF_PORT]).map(port).collect();
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "c", "namespace": "default"},
        "spec": {"type": "NodePort", "clusterIP": "10.96.0.99", "selector": {"app": "c"}, "ports": ports},
    })
}

fn node_port(port: u16) -> u16 {
    if port == IPERF_PORT { 30_201 } else { port + 23_000 }
}

#[test]
fn nobody_can_tell_through_a_service() {
    let lab = Lab::up_alone("service", &plan().object(service()));
    let (a, c) = (lab.pod("a"), lab.pod("c"));
    let cluster_ip = |port| SocketAddr::from(([10, 96, 0, 99], port));
    assert_carries(&lab, &Way { what: "a service", from: &a, to: &c, asked: &cluster_ip, wire: 1 });
    let node1 = lab.node("node1");
    let from_the_host =
        Way { what: "a service, from the host", from: &node1, to: &c, asked: &cluster_ip, wire: 1 };
    assert_carries(&lab, &from_the_host);
}

#[test]
fn nobody_can_tell_through_a_node_port() {
    let lab = Lab::up_alone("node-port", &plan().object(service()));
    let (outside, c) = (lab.outside(Ipv4Addr::new(203, 0, 113, 7)), lab.pod("c"));
    for (node, what) in [("node1", "a node port of another node"), ("node2", "a node port of its own node")] {
        let node = lab.node(node);
        let asked = |port| node.at(node_port(port));
        assert_carries(&lab, &Way { what, from: &outside, to: &c, asked: &asked, wire: 1 });
    }
}

#[test]
fn nobody_can_tell_through_the_nodes_address() {
    let lab = Lab::up_alone("nat-outgoing", &plan());
    let (a, outside) = (lab.pod("a"), lab.outside(Ipv4Addr::new(203, 0, 113, 7)));
    let asked = |port| outside.at(port);
    assert_carries(&lab, &Way { what: "natOutgoing", from: &a, to: &outside, asked: &asked, wire: 0 });
}
