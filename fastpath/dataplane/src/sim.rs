//! A whole node in memory: the production tables, pipeline and worker, with memory ports for links. The offline judge,
//! the benchmarks and the fuzz targets send real frames through it; no kernel is involved, and time is an argument.

pub mod datagram;
pub mod datagram6;
pub mod services;
pub mod world;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use caracal_plane_api::plane::{Op, Transaction};
use caracal_wire::{MacAddr, ethernet};
use caracal_xsk::FramePool;

use crate::batch::{Egress, UplinkIndex};
use crate::clock::Tick;
use crate::counters::{PortCounters, WorkerCounters};
use crate::drop_reason::DropReason;
use crate::packet::Packet;
use crate::pipeline::{EndpointLink, Link, Pipeline, Uplink};
use crate::policy_log::{self, Line, PolicyLog};
use crate::port::{HEADROOM, MemoryPort, Port};
use crate::snapshot::Publisher;
use crate::table::{
    ApplyError, Deciding, EndpointIndex, HostInterface, KernelRoute, RuleCount, RuleId, RuleName,
    TableBuilder, Tables,
};
use crate::worker::{Engine, PortSlot, Role, WorkerIndex};

/// A link of the node, as its user names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortName {
    /// The fabric.
    Uplink,
    /// The fabric, by another interface ([`SECOND_UPLINK_IFINDEX`]).
    SecondUplink,
    /// A pod, "namespace/pod".
    Pod(String),
    /// What the host originates, and what goes to it.
    Host,
    /// What the host forwards.
    Forward,
}

/// A frame that left the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// By which link.
    pub port: PortName,
    /// From its Ethernet header on, complete with checksums.
    pub frame: Vec<u8>,
}

/// What the kernel of a simulated node would say.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Routes by the uplinks.
    pub routes: Vec<KernelRoute>,
    /// The host's own addresses.
    pub addresses: Vec<IpAddr>,
    /// The MAC address that every neighbor on the fabric has.
    pub neighbor_mac: MacAddr,
    /// The uplinks' MTU.
    pub uplink_mtu: u16,
    /// The pods' MTU.
    pub pod_mtu: u16,
}

/// The interface number of the simulated uplink, for [`KernelRoute`]s.
pub const UPLINK_IFINDEX: u32 = 2;
/// The interface number of the other one: the world's routes do not lead there.
pub const SECOND_UPLINK_IFINDEX: u32 = 3;
/// The simulated uplink.
pub const FIRST_UPLINK: UplinkIndex = UplinkIndex(0);
/// The other one.
pub const SECOND_UPLINK: UplinkIndex = UplinkIndex(1);
/// The MAC address of the other simulated uplink.
pub const SECOND_UPLINK_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 4]);
/// The MAC address of the simulated uplink.
pub const UPLINK_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
/// The MAC address of the simulated host ports.
pub const HOST_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
/// The MAC address of every simulated pod.
pub const POD_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);

impl Kernel {
    /// The uplinks, `uplink0` and `uplink1`; the first has the host's addresses.
    fn interfaces(&self) -> Vec<HostInterface> {
        let interface =
            |ifindex, name: &str, addresses| HostInterface { ifindex, name: name.into(), addresses };
        vec![
            interface(UPLINK_IFINDEX, "uplink0", self.addresses.clone()),
            interface(SECOND_UPLINK_IFINDEX, "uplink1", Vec::new()),
        ]
    }
}

/// A simulated node.
pub struct Node {
    builder: TableBuilder,
    publisher: Publisher<Tables>,
    engine: Engine,
    counters: Arc<WorkerCounters>,
    ports: BTreeMap<PortName, PortSlot>,
    endpoints: BTreeMap<EndpointIndex, PortName>,
    kernel: Kernel,
    last_seq: u64,
    log: PolicyLog,
    reported: BTreeMap<DropReason, u64>,
}

impl Node {
    /// A node that has been told `ops` by its control plane and the rest by its kernel. Every pod is attached, and its
    /// MAC address known. `flows`: how many its flow table holds.
    ///
    /// # Errors
    /// When the ops do not fit together.
    pub fn new(ops: &[Op], kernel: Kernel, flows: usize, frames: u32) -> Result<Self, ApplyError> {
        let mut builder = TableBuilder::new(1, Box::new(|_, _| 0));
        builder.kernel_routes(&kernel.routes);
        builder.local_addresses(&kernel.addresses);
        builder.host_interfaces(kernel.interfaces());
        let mut publisher = Publisher::new(builder.build());
        let counters = WorkerCounters::new();
        let worker = WorkerIndex(0);
        let mut pipeline = Pipeline::new(worker, flows, 0x5eed);
        let (recorder, records) = policy_log::records();
        pipeline.recorder = recorder;
        let engine = Engine::new(
            pipeline,
            worker,
            FramePool::heap(frames),
            Arc::clone(&counters),
            publisher.subscribe(),
            Vec::new(),
        );
        let mut node = Node {
            builder,
            publisher,
            engine,
            counters,
            ports: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            kernel,
            last_seq: 0,
            log: PolicyLog::new(vec![records]),
            reported: BTreeMap::new(),
        };
        node.attach(PortName::Uplink, Role::Uplink(FIRST_UPLINK));
        node.attach(PortName::SecondUplink, Role::Uplink(SECOND_UPLINK));
        node.attach(PortName::Host, Role::Host);
        node.attach(PortName::Forward, Role::Forward);
        let mtu = node.kernel.uplink_mtu;
        for (index, ifindex, mac) in [
            (FIRST_UPLINK, UPLINK_IFINDEX, UPLINK_MAC),
            (SECOND_UPLINK, SECOND_UPLINK_IFINDEX, SECOND_UPLINK_MAC),
        ] {
            node.engine.set_uplink(index, Some(Uplink { ifindex, link: Link { mac, mtu } }));
        }
        node.engine.set_link(Egress::Host, Some(Link { mac: HOST_MAC, mtu }));
        node.engine.set_link(Egress::Forward, Some(Link { mac: HOST_MAC, mtu }));
        node.apply(ops)?;
        Ok(node)
    }

    /// Applies one more transaction and makes it current.
    ///
    /// # Errors
    /// When the ops do not fit together; nothing has changed then.
    pub fn apply(&mut self, ops: &[Op]) -> Result<(), ApplyError> {
        self.publish(ops)?;
        self.engine.adopt();
        self.publisher.reclaim();
        self.attach_new_pods();
        Ok(())
    }

    /// The controller's part of [`apply`](Self::apply): the new tables are there, and the engine has not adopted them.
    ///
    /// # Errors
    /// When the ops do not fit together; nothing has changed then.
    pub fn publish(&mut self, ops: &[Op]) -> Result<(), ApplyError> {
        // Tables that the engine has left behind go first.
        self.publisher.reclaim();
        self.last_seq += 1;
        self.builder.apply(&Transaction { seq: self.last_seq, ops: ops.to_vec(), in_sync: true })?;
        // Building finds out which next hops are wanted; this kernel knows them at once.
        let mut tables = self.builder.build();
        let wanted = self.builder.wanted_neighbors();
        if !wanted.is_empty() {
            for (ifindex, address) in wanted {
                self.builder.set_neighbor(ifindex, address, Some(self.kernel.neighbor_mac));
            }
            tables = self.builder.build();
        }
        self.publisher.publish(tables);
        Ok(())
    }

    fn attach_new_pods(&mut self) {
        let pods: Vec<(EndpointIndex, String)> =
            self.builder.endpoints().map(|(index, e)| (index, e.id.to_string())).collect();
        let gone: Vec<EndpointIndex> =
            self.endpoints.keys().filter(|index| !pods.iter().any(|(i, _)| i == *index)).copied().collect();
        for index in gone {
            if let Some(name) = self.endpoints.remove(&index)
                && let Some(slot) = self.ports.remove(&name)
                && let Some(Port::Memory(port)) = self.engine.remove_port(slot)
            {
                self.empty(port);
            }
        }
        for (index, id) in pods {
            if self.endpoints.contains_key(&index) {
                continue;
            }
            let name = PortName::Pod(id);
            self.attach(name.clone(), Role::Endpoint(index));
            let link = EndpointLink { pod_mac: Some(POD_MAC), mtu: self.kernel.pod_mtu };
            self.engine.set_endpoint_link(index, link);
            self.endpoints.insert(index, name);
        }
    }

    /// Gives the frames of a port that has gone back.
    fn empty(&mut self, mut port: MemoryPort) {
        let mut boxes = Vec::new();
        while let Some(packet) = port.take_unreceived().or_else(|| port.sent()) {
            packet.release(&mut self.engine.pool, &mut boxes);
        }
    }

    fn attach(&mut self, name: PortName, role: Role) {
        let port = Port::Memory(MemoryPort::default());
        let slot = self.engine.add_port(port, role, Arc::new(PortCounters::default()));
        self.ports.insert(name, slot);
    }

    /// Puts a frame, from its Ethernet header on, where the node will receive it. False: there is no such link, or no
    /// room for the frame.
    pub fn inject(&mut self, port: &PortName, frame: &[u8]) -> bool {
        let Some(slot) = self.ports.get(port).copied() else { return false };
        let Some(mut new) = self.engine.pool.take() else { return false };
        new.reset(HEADROOM);
        match new.append(frame.len()) {
            Some(bytes) => bytes.copy_from_slice(frame),
            None => {
                self.engine.pool.put(new);
                return false;
            }
        }
        match self.engine.port_mut(slot) {
            Some(Port::Memory(memory)) => memory.inject(Packet::new(new)),
            _ => {
                self.engine.pool.put(new);
                return false;
            }
        }
        true
    }

    /// Lets the node work off what was injected, at time `now`, and returns what it sent.
    pub fn run(&mut self, now: Tick) -> Vec<Output> {
        self.process(now);
        let mut outputs = Vec::new();
        let mut boxes = Vec::new();
        for (name, slot) in &self.ports {
            while let Some(Port::Memory(memory)) = self.engine.port_mut(*slot)
                && let Some(mut packet) = memory.sent()
            {
                packet.complete_checksum();
                let frame = packet.segments().flat_map(|segment| segment.data()).copied().collect();
                packet.release(&mut self.engine.pool, &mut boxes);
                outputs.push(Output { port: name.clone(), frame });
            }
        }
        outputs
    }

    /// As [`run`](Self::run), and leaves what was sent in its ports: for benchmarks, which take it by
    /// [`drain`](Self::drain).
    pub fn process(&mut self, now: Tick) -> usize {
        let mut total = 0;
        loop {
            let mut came = 0;
            for slot in self.ports.values() {
                came += self.engine.receive_from(*slot, now);
            }
            self.engine.flush();
            self.engine.tick(now);
            if came == 0 {
                return total;
            }
            total += came;
        }
    }

    /// Moves up to `max` packets that were sent by one link back to the pool, calling `see` with each.
    pub fn drain(&mut self, port: &PortName, max: usize, mut see: impl FnMut(&Packet)) -> usize {
        let Some(slot) = self.ports.get(port).copied() else { return 0 };
        let mut boxes = Vec::new();
        let mut count = 0;
        while count < max
            && let Some(Port::Memory(memory)) = self.engine.port_mut(slot)
            && let Some(packet) = memory.sent()
        {
            see(&packet);
            packet.release(&mut self.engine.pool, &mut boxes);
            count += 1;
        }
        count
    }

    /// Packets dropped since this was last asked, by reason.
    pub fn drops(&mut self) -> Vec<(DropReason, u64)> {
        let mut drops = Vec::new();
        for reason in DropReason::ALL {
            let total = self.counters.dropped(*reason);
            let before = self.reported.insert(*reason, total).unwrap_or(0);
            if total > before {
                drops.push((*reason, total - before));
            }
        }
        drops
    }

    /// What would have been logged of policy since this was last asked.
    pub fn policy_log(&mut self, now: Tick) -> Vec<Line> {
        let mut lines = Vec::new();
        let (builder, tables) = (&self.builder, self.engine.tables());
        self.log.drain(tables, now, |rule| builder.rule_name(rule), |line| lines.push(line));
        lines
    }

    /// Everything that can decide.
    pub fn rule_names(&self) -> Vec<(RuleId, RuleName)> {
        self.builder.rules().map(|(rule, name)| (rule, name.clone())).collect()
    }

    /// Packets that each rule has decided about so far, in the order of their numbers; rules without are left out.
    pub fn rule_hits(&self) -> Vec<(RuleName, u64)> {
        let counts = self.rule_counts(Deciding::Enforced).into_iter();
        counts.map(|(name, count)| (name, count.packets)).collect()
    }

    /// What the flows that each rule decided, or would have, have carried so far, in the order of their numbers; rules
    /// without are left out. What flows have not settled yet is included.
    pub fn rule_counts(&self, deciding: Deciding) -> Vec<(RuleName, RuleCount)> {
        let counters = &self.engine.tables().policy.counters;
        let rules = self.builder.rules();
        let mut counts: BTreeMap<_, _> =
            rules.map(|(rule, _)| (rule, counters.read(rule, deciding))).collect();
        let flows = &self.engine.pipeline.flows;
        flows.visit(0, flows.buckets(), |entry, note| {
            let carried = note.unsettled(entry);
            let rule = match deciding {
                Deciding::Enforced => carried.rule,
                Deciding::Staged => carried.staged,
            };
            if let Some(count) = rule.and_then(|rule| counts.get_mut(&rule)) {
                count.packets += carried.packets;
                count.bytes += carried.bytes;
            }
        });
        let named = self.builder.rules().map(|(rule, name)| (name.clone(), counts[&rule]));
        named.filter(|(_, count)| count.packets > 0).collect()
    }

    /// The port behind a link.
    pub fn port_mut(&mut self, port: &PortName) -> Option<&mut MemoryPort> {
        match self.engine.port_mut(*self.ports.get(port)?) {
            Some(Port::Memory(memory)) => Some(memory),
            _ => None,
        }
    }

    /// The node's counters.
    #[must_use]
    pub fn counters(&self) -> &WorkerCounters {
        &self.counters
    }

    /// The tables in force.
    #[must_use]
    pub fn tables(&self) -> &Arc<Tables> {
        self.engine.tables()
    }

    /// The engine, for benchmarks that look inside.
    pub fn engine_mut(&mut self) -> &mut Engine {
        &mut self.engine
    }
}

/// Bytes of an Ethernet header: what frames begin with.
pub const FRAME_HEADER_LEN: usize = ethernet::HEADER_LEN;

#[cfg(test)]
mod tests;
