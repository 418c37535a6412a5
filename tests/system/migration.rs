//! A pool changes its encapsulation under traffic. From tunnel to tunnel nothing is lost, as both decapsulations take what known nodes send
//! at all times. Where one of two nodes has left the tunnels and the other has not, what comes to the latter plain is taken for forged;
//! what that costs is told, and ends when both have converged.

use std::time::{Duration, Instant};

use caracal_lab::Reader;
use caracal_model::object::{Kind, ObjectKey};
use caracal_plane_api::What;
use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    api::{pod, pool},
    lab::{Lab, Plan},
    machine::{PATIENCE, eventually},
    traffic::{Connection, Stream},
};

/// Packets a second of each stream: rings hold what comes in most of a second, so that a machine that is busy elsewhere loses none.
const RATE: u32 = 1000;

/// How packets look between the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Vxlan,
    Ipip,
    Plain,
}

impl Seen {
    /// What a frame is, if it is one of the test's.
    fn of(frame: &[u8]) -> Option<Self> {
        const IPV4: [u8; 2] = [8, 0];
        if frame.get(12..14)? != IPV4 {
            return None;
        }
        let (source, protocol) = (frame.get(26..30)?, *frame.get(23)?);
        let of_a_pod = source.starts_with(&[10, 244]);
        let port = u16::from_be_bytes(frame.get(36..38)?.try_into().unwrap());
        match protocol {
            4 => Some(Self::Ipip),
            17 if port == 4789 && !of_a_pod => Some(Self::Vxlan),
            17 if of_a_pod => Some(Self::Plain),
            _ => None,
        }
    }
}

/// How the packets look that the nodes send each other now; there must be some, all alike.
fn on_the_wire(lab: &Lab) -> Vec<Seen> {
    const ALL: i32 = 0x0003_u16.to_be() as i32;
    let sniffer = lab.router().run(|| {
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(ALL))).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        std::net::UdpSocket::from(socket)
    });
    let mut seen = Vec::new();
    let mut frame = [0; 2048];
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(100) || (seen.is_empty() && start.elapsed() < PATIENCE) {
        let length = sniffer.recv(&mut frame).unwrap_or(0);
        if let Some(kind) = Seen::of(&frame[..length]).filter(|kind| !seen.contains(kind)) {
            seen.push(kind);
        }
    }
    seen
}

/// How a node sends to the other's pods, in the fastpath's words.
fn way(lab: &Lab, node: &str, block: [u8; 4]) -> String {
    let routes = Reader::connect(lab.socket(node)).unwrap().read(What::Routes).unwrap().routes;
    let route = routes.into_iter().find(|route| {
        route.prefix.as_ref().is_some_and(|prefix| prefix.address == block && prefix.length == 24)
    });
    route.map(|route| route.target).unwrap_or_default()
}

/// A node with the ends of both tunnels, as IPAM will have given it when its pools once asked for them.
fn node(number: u8) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": format!("node{number}"), "annotations": {
            "projectcalico.org/IPv4VXLANTunnelAddr": format!("10.244.{number}.0"),
            "projectcalico.org/IPv4IPIPTunnelAddr": format!("10.244.{number}.1"),
        }},
    })
}

/// What is so while both nodes come to send the other way, and thereafter.
struct Step {
    what: &'static str,
    modes: Value,
    seen: Seen,
    /// Nothing may be lost on the way either.
    is_between_tunnels: bool,
}

#[test]
fn a_pool_that_changes_its_tunnels_loses_nothing() {
    let always = |ipip: &str, vxlan: &str| json!({"ipipMode": ipip, "vxlanMode": vxlan});
    let plan = Plan::bare()
        .object(node(1))
        .object(node(2))
        .object(pod("a", "node1"))
        .object(pod("c", "node2"))
        .object(pool("pods", "10.244.0.0/16", always("Always", "Never")));
    let lab = Lab::up_alone("migration", &plan);
    let (a, c) = (lab.pod("a"), lab.pod("c"));
    let connection = Connection::start(&a, &c, 7000);
    let key = ObjectKey::new(Kind::IPPool, None, "pods");
    let step = |what, modes, seen, is_between_tunnels| Step { what, modes, seen, is_between_tunnels };
    let steps = [
        step("IPIP to VXLAN", always("Never", "Always"), Seen::Vxlan, true),
        step("VXLAN to IPIP", always("Always", "Never"), Seen::Ipip, true),
        step("IPIP to VXLAN again", always("Never", "Always"), Seen::Vxlan, true),
        step("VXLAN to CrossSubnet, on one subnet", always("Never", "CrossSubnet"), Seen::Plain, false),
        step("no tunnel to IPIP", always("Always", "Never"), Seen::Ipip, false),
        step("IPIP to CrossSubnet, on one subnet", always("CrossSubnet", "Never"), Seen::Plain, false),
        step("no tunnel to VXLAN", always("Never", "Always"), Seen::Vxlan, false),
        step("VXLAN to no tunnel at all", always("Never", "Never"), Seen::Plain, false),
    ];
    let streams = |port: u16| {
        [("there", Stream::start(&a, &c, port, RATE)), ("back", Stream::start(&c, &a, port + 1, RATE))]
    };
    let ways = || [way(&lab, "node1", [10, 244, 2, 0]), way(&lab, "node2", [10, 244, 1, 0])];
    for (port, step) in (7001..).step_by(4).zip(steps) {
        let Step { what, modes, seen, is_between_tunnels } = step;
        let (former, under_way) = (ways(), streams(port));
        lab.kubernetes().merge(&key, json!({"spec": modes})).unwrap();
        let took = eventually(&format!("{what}: both nodes have converged"), || {
            ways().iter().zip(&former).all(|(now, former)| now != former)
        });
        println!("{what}: both nodes have converged after {took:?}: {:?}", ways());
        let converged = streams(port + 2);
        assert_eq!(on_the_wire(&lab), [seen], "{what}");
        for (direction, stream) in under_way {
            let delivery = stream.end();
            if is_between_tunnels {
                delivery.assert_whole(&format!("{what}, {direction}"));
            } else {
                println!(
                    "{what}, {direction}: {} of {} lost meanwhile",
                    delivery.sent - delivery.received,
                    delivery.sent
                );
            }
        }
        for (direction, stream) in converged {
            stream.end().assert_whole(&format!("{what}, once both have converged, {direction}"));
        }
    }
    let (messages, slowest) = connection.end();
    println!("a TCP connection through all of it: {messages} messages echoed, the slowest in {slowest:?}");
}
