//! A node in memory with its pods' ports at hand, and bursts of frames through it.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use caracal_dataplane::clock::Tick;
use caracal_dataplane::sim::{FIRST_UPLINK, Kernel, Node, PortName, UPLINK_IFINDEX};
use caracal_dataplane::table::{EndpointIndex, KernelRoute, Prefix};
use caracal_dataplane::worker::{PortSlot, Role};
use caracal_plane_api::Op;
use caracal_plane_api::op::Op as Kind;

use crate::frames::FABRIC_MAC;
use crate::world::{NODE, PODS, pod_id};

/// Packets in a batch.
pub const BATCH: usize = 64;
/// Frames of a node's domain; a burst leaves some of them free.
pub const FRAMES: u32 = 8192;
/// Packets between two looks at the clock.
pub const BURST: usize = 125 * BATCH;
const FLOW_TABLE: usize = 1 << 18;

/// A node with its pods' ports at hand.
pub struct Bench {
    pub node: Node,
    pub uplink: PortSlot,
    pub pods: Vec<(PortName, PortSlot)>,
    pub now: Tick,
}

impl Bench {
    /// A node that has been told `ops`, which have [`PODS`] pods among them.
    pub fn new(ops: Vec<Kind>) -> anyhow::Result<Self> {
        let ops: Vec<Op> = ops.into_iter().map(|op| Op { op: Some(op) }).collect();
        let kernel = Kernel {
            routes: vec![
                route("192.0.2.0/24", None)?,
                route("0.0.0.0/0", Some("192.0.2.254"))?,
                route("2001:db8::/64", None)?,
            ],
            addresses: vec![IpAddr::V4(NODE)],
            neighbor_mac: FABRIC_MAC,
            uplink_mtu: 1500,
            pod_mtu: 1450,
        };
        let mut node = Node::new(&ops, kernel, FLOW_TABLE, FRAMES)?;
        let names: Vec<(EndpointIndex, PortName)> = node
            .tables()
            .endpoints
            .iter()
            .map(|(index, e)| (index, PortName::Pod(e.id.to_string())))
            .collect();
        let slots: Vec<(PortSlot, Role)> =
            node.engine_mut().ports_mut().map(|(slot, role, _)| (slot, role)).collect();
        let slot_of = |wanted: Role| slots.iter().find(|(_, role)| *role == wanted).map(|(slot, _)| *slot);
        let uplink = slot_of(Role::Uplink(FIRST_UPLINK)).context("the node has no uplink")?;
        let mut pods = Vec::new();
        for pod in 0..PODS {
            let name = PortName::Pod(pod_id(pod));
            let index = names.iter().find(|(_, n)| *n == name).context("a pod is missing")?.0;
            pods.push((name, slot_of(Role::Endpoint(index)).context("a pod has no port")?));
        }
        Ok(Bench { node, uplink, pods, now: Tick(1) })
    }

    /// Frames from the fabric to pods.
    pub fn receive_inward<'a>(&mut self, frames: impl Iterator<Item = &'a [u8]>) -> anyhow::Result<Duration> {
        let mut injected = 0;
        for frame in frames {
            self.inject(&PortName::Uplink, frame)?;
            injected += 1;
        }
        let (slot, now) = (self.uplink, self.now);
        let engine = self.node.engine_mut();
        let start = Instant::now();
        while engine.receive_from(slot, now) > 0 {
            engine.flush();
        }
        let elapsed = start.elapsed();
        let came: usize = self.pods.iter().map(|(name, _)| self.node.drain(name, usize::MAX, |_| ())).sum();
        self.all_came(came, injected)?;
        Ok(elapsed)
    }

    /// Frames from pods to the fabric; each group is one pod's, and at most a batch.
    pub fn receive_outward(&mut self, groups: &[(usize, Vec<&[u8]>)]) -> anyhow::Result<Duration> {
        self.receive_outward_seeing(groups, |_| ())
    }

    /// The same, with a look at what has left: at each packet's first segment.
    pub fn receive_outward_seeing(
        &mut self,
        groups: &[(usize, Vec<&[u8]>)],
        mut see: impl FnMut(&[u8]),
    ) -> anyhow::Result<Duration> {
        let mut injected = 0;
        for (pod, frames) in groups {
            let name = self.pods[*pod].0.clone();
            for frame in frames {
                self.inject(&name, frame)?;
                injected += 1;
            }
        }
        let (slots, now) = (&self.pods, self.now);
        let engine = self.node.engine_mut();
        let start = Instant::now();
        for (pod, _) in groups {
            engine.receive_from(slots[*pod].1, now);
            engine.flush();
        }
        let elapsed = start.elapsed();
        let came = self.node.drain(&PortName::Uplink, usize::MAX, |packet| see(packet.head.data()));
        self.all_came(came, injected)?;
        Ok(elapsed)
    }

    pub fn inject(&mut self, port: &PortName, frame: &[u8]) -> anyhow::Result<()> {
        if !self.node.inject(port, frame) {
            bail!("there is no room for a frame");
        }
        Ok(())
    }

    pub fn all_came(&mut self, came: usize, injected: usize) -> anyhow::Result<()> {
        if came != injected {
            bail!("{came} of {injected} packets came out; dropped: {:?}", self.node.drops());
        }
        Ok(())
    }

    /// Lets so much time pass that every flow of UDP ends.
    pub fn forget_flows(&mut self) {
        self.now = Tick(self.now.0.wrapping_add(120_000));
        let now = self.now;
        let engine = self.node.engine_mut();
        while !engine.pipeline.flows.is_empty() {
            engine.tick(now);
        }
    }
}

/// A route of the kernel's by the uplink.
fn route(prefix: &str, gateway: Option<&str>) -> anyhow::Result<KernelRoute> {
    let (address, length) = prefix.split_once('/').context("a prefix has a length")?;
    Ok(KernelRoute {
        prefix: Prefix::new(address.parse()?, length.parse()?),
        ifindex: UPLINK_IFINDEX,
        gateway: gateway.map(str::parse).transpose()?,
        mtu: 1500,
        source: None,
    })
}
