//! Ports that carry super-frames: many bytes through them, whichever way; what policy and death say of them; and which pods get one.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    api::{ingress, pool},
    lab::{Lab, Plan},
    machine::{eventually, rounds},
    traffic::{Place, answers, is_cut_off, transfer},
};

const MIB: usize = 1 << 20;

fn plan() -> Plan {
    Plan::pods(&[("a", "node1"), ("b", "node1"), ("c", "node2")])
}

/// What the port of a pod is, and why.
fn port_of(lab: &Lab, node: &str, pod: &str) -> Option<(String, String)> {
    let interface = lab.interface(pod);
    let row = lab.status(node)?.ports.into_iter().find(|port| port.name == interface)?;
    Some((row.io, row.detail))
}

fn assert_is(lab: &Lab, node: &str, pod: &str, io: &str) {
    eventually(&format!("the port of {pod} is {io}"), || {
        port_of(lab, node, pod).is_some_and(|(found, _)| found.starts_with(io))
    });
}

#[test]
fn bulk_goes_both_ways_through_packet_sockets_on_one_node_and_between_nodes() {
    let plan = plan().option("podPort", json!("packet"));
    let lab =
        Lab::up_alone("bulk", &plan.object(pool("v6", "fd00:10:244::/48", json!({"vxlanMode": "Always"}))));
    for (node, pod) in [("node1", "a"), ("node1", "b"), ("node2", "c")] {
        assert_is(&lab, node, pod, "packet socket");
    }
    let mib = rounds(64, 1024);
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.pod(name));
    let [a6, b6, c6] = ["a", "b", "c"].map(|name| lab.pod_v6(name));
    let ways: [(&str, &Place, &Place); 8] = [
        ("one node", &a, &b),
        ("one node, back", &b, &a),
        ("one node, IPv6", &a6, &b6),
        ("one node, IPv6, back", &b6, &a6),
        ("VXLAN", &a, &c),
        ("VXLAN, back", &c, &a),
        ("VXLAN, IPv6", &a6, &c6),
        ("VXLAN, IPv6, back", &c6, &a6),
    ];
    for (port, (what, from, to)) in (7001..).zip(ways) {
        println!("{what}: {mib} MiB over TCP at {:.0} Mbit/s", transfer(from, to, port, mib * MIB));
    }
    for node in ["node1", "node2"] {
        let (cut, made) = (lab.counter(node, "segmented", ""), lab.counter(node, "segments_made", ""));
        assert!(cut > 100 && made > 10 * cut, "{node} cut {cut} super-frames into {made}");
        assert_eq!(lab.dropped(node, "oversized"), 0, "{node} refused super-frames");
        assert_eq!(lab.dropped(node, "packet-too-big"), 0, "{node} took segments for too long");
    }
    crate::transfers::checksums_are_right(&[&a, &b, &c]);
}

#[test]
fn a_packet_socket_lets_through_what_policy_does_and_is_there_again_after_a_crash() {
    let lab = Lab::up("bulk-policy", &plan().option("podPort", json!("packet")));
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.pod(name));
    assert!(answers(&a, &b, 8) && answers(&c, &b, 9), "nothing denies it yet");
    let from_c = json!([{"from": [{"podSelector": {"matchLabels": {"app": "c"}}}]}]);
    lab.kubernetes().create(ingress("only-c", "b", from_c)).unwrap();
    let before = lab.dropped("node1", "policy-deny");
    eventually("a is denied", || is_cut_off(&a, &b, 10));
    assert!(answers(&c, &b, 11), "c is not");
    assert!(lab.dropped("node1", "policy-deny") > before, "policy denied it, not something else");
    lab.kill_and_wait("fastpath-node1");
    eventually("the node forwards again", || lab.is_ready("node1"));
    assert_is(&lab, "node1", "b", "packet socket");
    eventually("c is let through again", || answers(&c, &b, 12));
    assert!(is_cut_off(&a, &b, 13), "a is denied still");
}

#[test]
fn a_pod_that_moves_bulk_tcp_gets_a_packet_socket_and_loses_no_connection_by_it() {
    let lab = Lab::up_alone("bulk-auto", &plan());
    assert_is(&lab, "node1", "a", "af_xdp");
    let (a, b) = (lab.pod("a"), lab.pod("b"));
    let start = Instant::now();
    let mut port = 7001;
    // A transfer at a time: one of them is on its way while the ports change.
    while port_of(&lab, "node1", "a").is_none_or(|(io, _)| io != "packet socket") {
        assert!(start.elapsed() < Duration::from_secs(120), "its port does not change");
        println!("64 MiB at {:.0} Mbit/s", transfer(&a, &b, port, 64 * MIB));
        port += 1;
    }
    let (_, why) = port_of(&lab, "node1", "a").unwrap_or_default();
    assert!(why.contains("bulk TCP"), "{why}");
    println!("64 MiB at {:.0} Mbit/s", transfer(&a, &b, port, 64 * MIB));
    // What does nothing stays what it is.
    thread::sleep(Duration::from_secs(2));
    assert_is(&lab, "node1", "a", "packet socket");
    assert_is(&lab, "node2", "c", "af_xdp");
}
