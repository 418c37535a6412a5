//! Datagrams that are longer than the way, in parts that kernels make and put together: through tunnels, services and the node's address.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Value, json};

use crate::{
    api::{isolate, pool},
    lab::{Lab, Plan},
    machine::eventually,
    traffic::Place,
};

const PORT: u16 = 7001;
/// Three parts or more, whatever the way.
const BYTES: usize = 4000;

fn pattern(salt: u8) -> Vec<u8> {
    (0..BYTES).map(|i| (i as u32 * 7 % 251) as u8 ^ salt).collect()
}

/// A long question, and a long answer to it from whom was asked.
fn assert_parts_pass(what: &str, from: &Place, asked: SocketAddr, to: &Place) {
    let (client, server) = (from.udp(0), to.udp(PORT));
    client.connect(asked).unwrap();
    let mut buffer = vec![0; 2 * BYTES];
    let mut sender = None;
    eventually(&format!("{what}: a question in parts arrives"), || {
        client.send(&pattern(0)).unwrap();
        let Ok((length, from)) = server.recv_from(&mut buffer) else { return false };
        sender = Some(from);
        buffer[..length] == pattern(0)
    });
    eventually(&format!("{what}: an answer in parts arrives"), || {
        server.send_to(&pattern(1), sender.unwrap()).unwrap();
        client.recv(&mut buffer).is_ok_and(|length| buffer[..length] == pattern(1))
    });
}

fn service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "c", "namespace": "default"},
        "spec": {
            "type": "NodePort", "clusterIP": "10.96.0.99", "selector": {"app": "c"},
            "ports": [{"port": 53, "protocol": "UDP", "targetPort": PORT, "nodePort": 30053}],
        },
    })
}

#[test]
fn parts_of_datagrams_take_the_way_of_the_first() {
    let plan = Plan::pods(&[("a", "node1"), ("b", "node1"), ("c", "node2"), ("closed", "node2")])
        .object(isolate("closed", "closed"))
        .object(service())
        .object(pool("v6", "fd00:10:244::/48", json!({"vxlanMode": "Always", "natOutgoing": true})));
    let lab = Lab::up("parts", &plan);
    let [a, b, c, closed] = ["a", "b", "c", "closed"].map(|name| lab.pod(name));
    assert_parts_pass("on one node", &a, b.at(PORT), &b);
    assert_parts_pass("across nodes", &a, c.at(PORT), &c);
    let (a6, c6) = (lab.pod_v6("a"), lab.pod_v6("c"));
    assert_parts_pass("across nodes, over IPv6", &a6, c6.at(PORT), &c6);
    assert_parts_pass("by a service", &a, SocketAddr::from(([10, 96, 0, 99], 53)), &c);
    let outside = lab.outside(Ipv4Addr::new(203, 0, 113, 7));
    assert_parts_pass("to outside, in the node's name", &a, outside.at(PORT), &outside);
    assert_parts_pass("from outside, by a node port", &outside, lab.node("node1").at(30_053), &c);
    // What the ports of the first part forbid, all parts do.
    let (client, server) = (a.udp(0), closed.udp(PORT));
    eventually("a question in parts is denied", || {
        client.send_to(&pattern(0), closed.at(PORT)).unwrap();
        lab.dropped("node2", "policy-deny") > 5
    });
    assert!(server.recv(&mut [0; 16]).is_err(), "a part passed that policy denies");
}
