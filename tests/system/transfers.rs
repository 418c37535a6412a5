//! Two kernel TCP stacks must not be able to tell that we are in between: many bytes with checksums, and iperf3, through every way that
//! packets take, over a fabric that loses, doubles and reorders.
//!
//! With `CARACAL_LONG=1` each is a gigabyte, else 64 MiB.

use std::{
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use caracal_lab::MARK;
use serde_json::{Value, json};

use crate::{
    api::pool,
    lab::{Lab, Plan},
    machine::{rounds, stderr, stdout},
    traffic::{Place, transfer},
    wire::{BAD, Impaired},
};

const MIB: usize = 1 << 20;
const IPERF_PORT: u16 = 5201;

fn plan() -> Plan {
    Plan::pods(&[("a", "node1"), ("b", "node1"), ("c", "node2")])
}

/// Bytes both ways, then iperf3 both ways, over a good wire and over a bad one.
fn assert_indistinguishable(what: &str, lab: &Lab, a: &Place, c: &Place) {
    let mib = rounds(64, 1024);
    for (number, wire) in ["a good wire", "a bad wire"].into_iter().enumerate() {
        let _impaired = (number == 1).then(|| Impaired::new(lab, 1, &BAD));
        for (direction, (from, to)) in (0..).zip([(a, c), (c, a)]) {
            let port = 7001 + 2 * number as u16 + direction;
            let rate = transfer(from, to, port, mib * MIB);
            println!("{what}, {wire}: {mib} MiB over TCP at {rate:.0} Mbit/s");
        }
        iperf(what, wire, lab, a, c);
    }
    checksums_are_right(&[a, c]);
}

/// A few seconds of iperf3 both ways, which must get through.
fn iperf(what: &str, wire: &str, lab: &Lab, from: &Place, to: &Place) {
    let seconds = rounds(1, 10).to_string();
    let address = to.address.to_string();
    let mark = &lab.state().run;
    let mut server = to.run(|| {
        let bind = ["-s", "-1", "-B", &address, "-p", &IPERF_PORT.to_string()].map(str::to_owned);
        let server = Command::new("iperf3").args(bind).env(MARK, mark).stdout(Stdio::null()).spawn();
        server.expect("iperf3 is not there: scripts/test installs it")
    });
    let client = from.run(|| {
        let start = Instant::now();
        loop {
            let output = Command::new("iperf3")
                .args(["-c", &address, "-p", &IPERF_PORT.to_string(), "-t", &seconds, "--bidir", "-J"])
                .env(MARK, mark)
                .output()
                .unwrap();
            // The server may not listen yet.
            if output.status.success() || start.elapsed() > Duration::from_secs(20) {
                return output;
            }
            thread::sleep(Duration::from_millis(100));
        }
    });
    let _ = server.kill();
    let _ = server.wait();
    assert!(client.status.success(), "{what}, {wire}: iperf3: {}{}", stdout(&client), stderr(&client));
    let report: Value = serde_json::from_slice(&client.stdout).unwrap();
    let rate = |sum: &str| report["end"][sum]["bits_per_second"].as_f64().unwrap() / 1e6;
    let (there, back) = (rate("sum_received"), rate("sum_received_bidir_reverse"));
    println!("{what}, {wire}: iperf3 {there:.0} Mbit/s there, {back:.0} Mbit/s back");
    assert!(
        there > 1.0 && back > 1.0,
        "{what}, {wire}: as good as nothing got through: {there}, {back} Mbit/s"
    );
}

/// No segment came with a wrong checksum: pods' kernels leave them to the device, and none may arrive half made.
fn checksums_are_right(places: &[&Place]) {
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
    iperf("one node", "no wire", &lab, &a, &b);
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
