//! The world with a memory of its counters, and the frames that its links see.

use std::collections::BTreeMap;

use super::super::datagram::{Datagram, vxlan};
use super::super::world::{self, NEIGHBOR_MAC, NODE1, NODE2, TUNNEL1_MAC, TUNNEL2_MAC, VNI, VXLAN_PORT};
use super::super::{HOST_MAC, Kernel, Node, Output, POD_MAC, PortName, UPLINK_MAC};
use crate::clock::Tick;
use crate::drop_reason::DropReason;
use crate::packet::{Offload, Packet};
use crate::port::HEADROOM;
use crate::stage::arp::GATEWAY_MAC;
use crate::table::EndpointIndex;
use caracal_plane_api::plane::Op;

/// What came, in what batches, under which tables: that says how a test was written, not what happened to packets.
const ARRIVALS: [&str; 4] = ["received_packets", "received_bytes", "batches", "tables_adopted"];

/// A node, the time, and what its counters were when they were last looked at.
pub struct World {
    pub node: Node,
    pub now: u32,
    counted: BTreeMap<String, u64>,
}

impl World {
    pub fn new() -> World {
        World::with(world::kernel(), 1024)
    }

    pub fn with(kernel: Kernel, flows: usize) -> World {
        let node = Node::new(&world::ops(), kernel, flows, 512).unwrap();
        let mut world = World { node, now: 1000, counted: BTreeMap::new() };
        world.counted = world.counts();
        world
    }

    /// Sends one frame and returns what came out of the node.
    pub fn send(&mut self, port: &PortName, frame: &[u8]) -> Vec<Output> {
        assert!(self.node.inject(port, frame), "no link {port:?}, or no frame for it");
        self.run()
    }

    /// Sends a packet of these segments.
    pub fn send_chain(&mut self, port: &PortName, segments: &[&[u8]], offload: Offload) -> Vec<Output> {
        let pool = &mut self.node.engine_mut().pool;
        let mut frames = segments.iter().map(|bytes| {
            let mut frame = pool.take().unwrap();
            frame.reset(HEADROOM);
            frame.append(bytes.len()).unwrap().copy_from_slice(bytes);
            frame
        });
        let head = frames.next().unwrap();
        let rest: Vec<_> = frames.collect();
        let rest = (!rest.is_empty()).then(|| Box::new(rest));
        self.node.port_mut(port).unwrap().inject(Packet { head, rest, offload });
        self.run()
    }

    /// Lets the node work, and sees that it has given every frame back that it does not hold.
    pub fn run(&mut self) -> Vec<Output> {
        let outputs = self.node.run(Tick(self.now));
        let held = self.held();
        let pool = &self.node.engine_mut().pool;
        assert_eq!(pool.free() + held, pool.total(), "frames went missing");
        outputs
    }

    /// Frames of fragments that wait for their first one.
    pub fn held(&mut self) -> usize {
        self.node.engine_mut().pipeline.fragments.frames()
    }

    pub fn apply(&mut self, ops: &[Op]) {
        self.node.apply(ops).unwrap();
    }

    pub fn index_of(&self, name: &str) -> EndpointIndex {
        let link = world::pod(name);
        *self.node.endpoints.iter().find(|(_, port)| **port == link).unwrap().0
    }

    pub fn flows(&mut self) -> usize {
        self.node.engine_mut().pipeline.flows.len()
    }

    /// What has moved since this was last asked is exactly this.
    #[track_caller]
    pub fn expect_moved(&mut self, expected: &[(&str, u64)]) {
        let now = self.counts();
        let moved: BTreeMap<&str, u64> = now
            .iter()
            .map(|(name, count)| (name.as_str(), count - self.counted.get(name).copied().unwrap_or(0)))
            .filter(|(_, by)| *by > 0)
            .collect();
        assert_eq!(
            moved,
            expected.iter().copied().collect(),
            "counters moved (left) and should have (right)"
        );
        self.counted = now;
    }

    fn counts(&self) -> BTreeMap<String, u64> {
        let counters = self.node.counters();
        let drops = DropReason::ALL.iter().map(|r| (format!("drop.{}", r.label()), counters.dropped(*r)));
        let pipeline = counters.pipeline.each().filter(|(name, ..)| !ARRIVALS.contains(name));
        drops.chain(pipeline.map(|(name, _, value)| (name.to_owned(), value))).collect()
    }
}

/// Says which counters have moved since the last time, all of them.
macro_rules! expect_counters {
    ($world:expr, { $($name:literal: $by:expr),* $(,)? }) => { $world.expect_moved(&[$(($name, $by)),*]) };
}

pub fn from_pod(datagram: &Datagram) -> Vec<u8> {
    datagram.frame(GATEWAY_MAC, POD_MAC)
}

pub fn from_uplink(datagram: &Datagram) -> Vec<u8> {
    datagram.frame(UPLINK_MAC, NEIGHBOR_MAC)
}

pub fn from_host(datagram: &Datagram) -> Vec<u8> {
    datagram.frame(GATEWAY_MAC, HOST_MAC)
}

/// In a tunnel packet of node2.
pub fn from_tunnel(datagram: &Datagram) -> Vec<u8> {
    from_uplink(&vxlan((NODE2, 50_000), (NODE1, VXLAN_PORT), VNI, &datagram.frame(TUNNEL1_MAC, TUNNEL2_MAC)))
}

pub fn to_pod(name: &str, datagram: &Datagram) -> Output {
    Output { port: world::pod(name), frame: datagram.frame(POD_MAC, GATEWAY_MAC) }
}

pub fn to_uplink(datagram: &Datagram) -> Output {
    Output { port: PortName::Uplink, frame: datagram.frame(NEIGHBOR_MAC, UPLINK_MAC) }
}

pub fn to_host(port: PortName, datagram: &Datagram) -> Output {
    Output { port, frame: datagram.frame(HOST_MAC, GATEWAY_MAC) }
}

/// The packet inside a tunnel packet to node2, whose outer headers are what they should be, and its outer source port.
#[track_caller]
pub fn unwrapped(output: &Output) -> (Datagram, u16) {
    assert_eq!(output.port, PortName::Uplink);
    let outer = Datagram::read(&output.frame).expect("an outer IPv4 packet");
    let port = u16::from_be_bytes([outer.body[0], outer.body[1]]);
    let inner = &outer.body[16..];
    let packet = Datagram::read(inner).expect("an inner IPv4 packet");
    let expected = vxlan((NODE1, port), (NODE2, VXLAN_PORT), VNI, &packet.frame(TUNNEL2_MAC, TUNNEL1_MAC));
    assert_eq!(output.frame, expected.frame(NEIGHBOR_MAC, UPLINK_MAC), "outer headers");
    (packet, port)
}
