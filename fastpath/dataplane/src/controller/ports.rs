//! Which ports there are: brought in line with the tables' endpoints and the kernel's links whenever either changes.
//!
//! The plan is always made anew from what should be; what is there already stays. A port that cannot be made (its link
//! is not there yet, a former fastpath's socket is still closing) is tried again soon.

mod pods;
mod uplinks;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Sender, sync_channel};

use caracal_plane_api::PortRow;
use caracal_wire::ethernet;
use caracal_xsk::packet_socket::PacketSocketError;
use caracal_xsk::xdp;
use caracal_xsk::xdp::uplink::Capture;
use caracal_xsk::{
    BindError, Config as SocketConfig, Domain, MultiBuffer, Socket, Statistics, StatisticsHandle,
    kernel_ring_bytes,
};
use tracing::{info, warn};

pub use self::pods::LOOK;
use self::pods::LivePod;
use self::uplinks::LiveUplink;
use super::mirror::KernelLink;
use crate::batch::Egress;
use crate::counters::{PortCounters, WorkerCounters};
use crate::handover::Doorbell;
use crate::pipeline::Link;
use crate::port::xsk::FILL_MIN;
use crate::port::{Port, TapPort};
use crate::probe::tuning::{Tuning, Wanted};
use crate::table::{Endpoint, EndpointIndex, NodeConfig, PodPort};
use crate::worker::thread::{Command, WorkerStatus};
use crate::worker::{PortSlot, Role, WorkerIndex};

/// How the controller reaches a worker.
pub struct WorkerHandle {
    /// Its number.
    pub index: WorkerIndex,
    /// Its memory.
    pub domain: Domain,
    /// What it counts.
    pub counters: Arc<WorkerCounters>,
    /// What it says of itself.
    pub status: Arc<WorkerStatus>,
    /// Wakes it.
    pub doorbell: Arc<Doorbell>,
    /// Where it is told things.
    pub commands: Sender<Command>,
}

impl WorkerHandle {
    /// Tells it something. A worker that has ended is told nothing, and nothing is lost.
    pub fn tell(&self, command: Command) {
        let _ = self.commands.send(command);
        self.doorbell.ring();
    }
}

/// Sizes and places.
#[derive(Clone, Debug)]
pub struct PortConfig {
    /// Where pods' programs are pinned.
    pub bpf_dir: PathBuf,
    /// What pods' ports are, where the pod does not say.
    pub pod_port: PodPort,
    /// Whether super-frames that leave by an uplink are segmented here in any case.
    pub segment_here: bool,
    /// Entries of each ring of a pod's socket.
    pub pod_ring: u32,
    /// Entries of each ring of the uplink's sockets.
    pub uplink_ring: u32,
    /// The uplinks' names; none: see [`super::uplinks`].
    pub uplinks: Vec<String>,
    /// How uplinks' sockets are bound.
    pub uplink_io: UplinkIo,
    /// What is set of uplinks' queues and rings.
    pub tuning: Wanted,
    /// Kernel memory that sockets may take, bytes.
    pub kernel_memory_budget: u64,
}

/// How uplinks' sockets are bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UplinkIo {
    /// Zero-copy if the device says that it can, and binding so works; else copy.
    #[default]
    Auto,
    /// Copy.
    Copy,
}

/// Why a port is not there.
#[derive(Debug, thiserror::Error)]
enum PortError {
    #[error("no device {0} yet")]
    NoLink(String),
    #[error("device {0} is down")]
    Down(String),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Xdp(#[from] xdp::XdpError),
    #[error(transparent)]
    PacketSocket(#[from] PacketSocketError),
    #[error(transparent)]
    Tap(#[from] caracal_xsk::tap::TapError),
    #[error(
        "another socket would take kernel memory to {needed} bytes, over the budget of {budget}: raise --kernel-memory-mib, or lower --chunks"
    )]
    OverBudget { needed: u64, budget: u64 },
    #[error(
        "device {name} has an MTU of {mtu}, and frames of more than {carried} bytes are not carried: {reason}; lower its MTU (with --chunk-size 4096 it may be 3826)"
    )]
    Jumbo { name: String, mtu: u16, carried: usize, reason: &'static str },
    #[error("a node has at most {} uplinks", uplinks::UPLINKS_MAX)]
    TooManyUplinks,
    #[error(transparent)]
    Tuning(#[from] crate::probe::tuning::TuningError),
    #[error("its worker has ended")]
    WorkerGone,
}

/// A port that is not there.
#[derive(Debug, PartialEq, Eq)]
struct Missing {
    /// What it would be.
    kind: &'static str,
    /// Why it is not.
    problem: String,
}

struct LivePort {
    worker: usize,
    slot: PortSlot,
    ifindex: u32,
    mtu: u16,
    io: &'static str,
    counters: Arc<PortCounters>,
    /// The kernel's counters; none for ports without an AF_XDP socket.
    kernel: Option<StatisticsHandle>,
}

/// The ports, and what is wrong with those that are not.
pub struct Ports {
    config: PortConfig,
    workers: Vec<WorkerHandle>,
    /// By their device's number.
    uplinks: BTreeMap<u32, LiveUplink>,
    host: Option<LivePort>,
    forward: Option<LivePort>,
    pods: BTreeMap<EndpointIndex, LivePod>,
    /// By name, and tried again.
    missing: BTreeMap<String, Missing>,
    /// Uplinks by name, not to be had however often one tries.
    refused: BTreeMap<String, String>,
    sockets: u64,
    /// What has been set of uplinks, by their device's number; to be put back after the last of their sockets is closed.
    tuned: BTreeMap<u32, Option<Tuning>>,
}

/// What the ports should be.
pub struct Plan<'a> {
    /// This node's configuration.
    pub node: Option<&'a NodeConfig>,
    /// Its endpoints.
    pub endpoints: Vec<(EndpointIndex, Arc<Endpoint>)>,
    /// What the uplinks' programs must hand to us.
    pub captures: Arc<BTreeSet<Capture>>,
    /// The kernel's devices.
    pub links: &'a [KernelLink],
    /// Which of them has which address.
    pub addresses: &'a [(u32, IpAddr)],
    /// Devices that a default route, or the route to another node, uses.
    pub routed: BTreeSet<u32>,
}

/// Who may hold how many of a domain's frames while nothing happens. A quarter is nobody's: packets on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameShares {
    /// The uplink's queues, to receive into.
    pub uplink: usize,
    /// All pods of the worker together, to receive into.
    pub pods: usize,
    /// All other workers together, to hand packets over in.
    pub lent: usize,
}

impl FrameShares {
    /// The shares in a domain of so many frames, of one of so many workers. A worker alone lends nothing: its pods have it.
    #[must_use]
    pub fn of(chunks: usize, workers: usize) -> Self {
        let lent = if workers > 1 { chunks / 8 } else { 0 };
        FrameShares { uplink: chunks / 4, pods: chunks / 2 - lent, lent }
    }
}

/// The share of a domain's frames that pods may not have on their way to them when a device receives into the domain directly
/// (zero-copy): without frames there, the host would not receive on that queue either.
const RESERVE_SHARE: usize = 16;

impl Ports {
    /// None yet.
    #[must_use]
    pub fn new(config: PortConfig, workers: Vec<WorkerHandle>) -> Self {
        let ports = Ports {
            config,
            workers,
            uplinks: BTreeMap::new(),
            host: None,
            forward: None,
            pods: BTreeMap::new(),
            missing: BTreeMap::new(),
            refused: BTreeMap::new(),
            sockets: 0,
            tuned: BTreeMap::new(),
        };
        ports.set_fill_targets(0, &ports.uplink_queues());
        ports
    }

    /// The workers.
    #[must_use]
    pub fn workers(&self) -> &[WorkerHandle] {
        &self.workers
    }

    /// Ends: the programs are taken off the uplinks. What is returned puts their devices back as they were when it is dropped, which is
    /// to be done once the workers have ended.
    #[must_use]
    pub fn end(self) -> Vec<Tuning> {
        self.tuned.into_values().flatten().collect()
    }

    /// Whether a port that should be there is not.
    #[must_use]
    pub fn is_incomplete(&self) -> bool {
        !self.missing.is_empty()
    }

    /// Kernel memory that the sockets take, about.
    #[must_use]
    pub fn kernel_ring_bytes(&self) -> u64 {
        self.kernel_bytes_with(self.sockets)
    }

    fn kernel_bytes_with(&self, sockets: u64) -> u64 {
        // Every worker has a domain, all of one size.
        let chunks = self.workers.first().map_or(0, |worker| worker.domain.config().chunks);
        kernel_ring_bytes(sockets, self.workers.len() as u64, chunks)
    }

    /// Brings the ports in line with `plan`.
    pub fn follow(&mut self, plan: &Plan) {
        let before = std::mem::take(&mut self.missing);
        self.follow_host(plan);
        self.follow_uplinks(plan);
        self.follow_pods(plan);
        for (name, missing) in &self.missing {
            if before.get(name) != Some(missing) {
                warn!(port = name, "port is missing: {}", missing.problem);
            }
        }
    }

    fn follow_host(&mut self, plan: &Plan) {
        let names = plan.node.map(|node| (node.host_port.to_string(), node.forward_port.to_string()));
        let (host, forward) = names.unzip();
        for (name, role) in [(host, Role::Host), (forward, Role::Forward)] {
            let Some(name) = name.filter(|name| !name.is_empty()) else { continue };
            let link = plan.links.iter().find(|link| link.name == name);
            let live = if role == Role::Host { &mut self.host } else { &mut self.forward };
            let stale =
                live.as_ref().is_some_and(|l| link.is_none_or(|k| k.index != l.ifindex || k.mtu != l.mtu));
            if stale && let Some(old) = live.take() {
                self.close(old);
            }
            let live = if role == Role::Host { &self.host } else { &self.forward };
            if live.is_some() {
                continue;
            }
            match self.open_host(&name, link, role) {
                Ok(port) => {
                    info!(port = name, "host port attached");
                    *(if role == Role::Host { &mut self.host } else { &mut self.forward }) = Some(port);
                }
                Err(error) => {
                    let kind = if role == Role::Host { "host" } else { "forward" };
                    self.missing.insert(name, Missing { kind, problem: error.to_string() });
                }
            }
        }
    }

    fn open_host(
        &mut self,
        name: &str,
        link: Option<&KernelLink>,
        role: Role,
    ) -> Result<LivePort, PortError> {
        let link = link.ok_or_else(|| PortError::NoLink(name.into()))?;
        let chunk_size = usize::from(self.workers[0].domain.config().chunk_size);
        let port = Port::Tap(TapPort::open(name, link.mtu, chunk_size)?);
        let live = self.add(0, port, role, link)?;
        let egress = if role == Role::Host { Egress::Host } else { Egress::Forward };
        self.tell_all(|| Command::Link(egress, Some(Link { mac: link.mac, mtu: link.mtu })));
        Ok(live)
    }

    /// Whether packets could pass a port on this link, and none would be too long for us.
    fn check_link(&self, link: &KernelLink) -> Result<(), PortError> {
        if !link.up {
            return Err(PortError::Down(link.name.clone()));
        }
        self.check_size(link)
    }

    /// Whether no packet of this link would be too long for us: the kernel would drop it where nobody counts.
    fn check_size(&self, link: &KernelLink) -> Result<(), PortError> {
        // All workers' domains are alike.
        match self
            .workers
            .first()
            .map(|worker| (worker.domain.multi_buffer(), worker.domain.receive_capacity()))
        {
            Some((MultiBuffer::Off(reason), capacity)) => jumbo(link, capacity, reason),
            _ => Ok(()),
        }
    }

    /// The kernel's share of frames (see [`FrameShares`]) when there are so many pods, and so many queues of uplinks at each
    /// worker. Told before they are there, so that the first do not take what is the last ones'.
    fn set_fill_targets(&self, pods: usize, uplink_queues: &[usize]) {
        for (worker, queues) in self.workers.iter().zip(uplink_queues) {
            let shares = FrameShares::of(worker.domain.config().chunks as usize, self.workers.len());
            let pods_here = pods.div_ceil(self.workers.len()).max(1);
            let pod = (shares.pods / pods_here).clamp(FILL_MIN, self.config.pod_ring as usize);
            let uplink = (shares.uplink / queues.max(&1)).min(self.config.uplink_ring as usize);
            let receives_directly = self.uplinks.values().flat_map(|uplink| &uplink.queues).any(|queue| {
                queue.worker == usize::from(worker.index.0) && queue.io == crate::port::ZERO_COPY
            });
            let chunks = worker.domain.config().chunks as usize;
            let reserve = if receives_directly { chunks / RESERVE_SHARE } else { 0 };
            worker.tell(Command::FillTargets { pod, uplink, reserve });
        }
    }

    fn bind(
        &mut self,
        worker: usize,
        ifindex: u32,
        queue: u32,
        config: SocketConfig,
    ) -> Result<Socket, PortError> {
        let worker = self.workers.get(worker).ok_or(PortError::WorkerGone)?;
        let needed = self.kernel_bytes_with(self.sockets + 1);
        let budget = self.config.kernel_memory_budget;
        if needed > budget {
            return Err(PortError::OverBudget { needed, budget });
        }
        Ok(Socket::bind(&worker.domain, ifindex, queue, config)?)
    }

    fn add(
        &mut self,
        worker: usize,
        port: Port,
        role: Role,
        link: &KernelLink,
    ) -> Result<LivePort, PortError> {
        self.add_counting(worker, port, role, link, Arc::default())
    }

    /// As [`add`](Self::add), of a port that goes on counting where another has begun.
    fn add_counting(
        &mut self,
        worker: usize,
        port: Port,
        role: Role,
        link: &KernelLink,
        counters: Arc<PortCounters>,
    ) -> Result<LivePort, PortError> {
        let io = port.io();
        let kernel = match &port {
            Port::Xsk(port) => Some(port.socket().statistics_handle()),
            Port::Tap(_) | Port::PacketSocket(_) | Port::Memory(_) => None,
        };
        let (reply, slot) = sync_channel(1);
        let command = Command::AddPort { port: Box::new(port), role, counters: Arc::clone(&counters), reply };
        self.workers[worker].tell(command);
        let slot = slot.recv().map_err(|_| PortError::WorkerGone)?;
        self.sockets += u64::from(kernel.is_some());
        Ok(LivePort { worker, slot, ifindex: link.index, mtu: link.mtu, io, counters, kernel })
    }

    /// Takes a port from its worker, closes it here, and gives the worker the frames that it held.
    fn close(&mut self, port: LivePort) {
        let worker = &self.workers[port.worker];
        let (reply, taken) = sync_channel(1);
        worker.tell(Command::RemovePort { slot: port.slot, reply });
        let frames = match taken.recv().ok().flatten().map(|port| *port) {
            Some(Port::Xsk(port)) => {
                self.sockets = self.sockets.saturating_sub(1);
                port.into_frames()
            }
            Some(Port::Tap(port)) => port.into_frames(),
            Some(Port::PacketSocket(port)) => port.into_frames(),
            Some(Port::Memory(_)) | None => return,
        };
        self.workers[port.worker].tell(Command::ReturnFrames(frames));
    }

    fn tell_all(&self, command: impl Fn() -> Command) {
        for worker in &self.workers {
            worker.tell(command());
        }
    }

    /// What each port has carried, and what the kernel says of its socket: there are losses that no worker sees.
    pub fn each_counters(&self, mut see: impl FnMut(&str, &PortCounters, Option<Statistics>)) {
        let mut see = |name: &str, port: &LivePort| {
            let kernel = port.kernel.as_ref().and_then(StatisticsHandle::read).and_then(Result::ok);
            see(name, &port.counters, kernel);
        };
        for uplink in self.uplinks.values() {
            uplink.queues.iter().for_each(|port| see(&uplink.device.name, port));
        }
        for (name, port) in [("host", &self.host), ("forward", &self.forward)] {
            if let Some(port) = port {
                see(name, port);
            }
        }
        for pod in self.pods.values() {
            see(&pod.endpoint.id, &pod.port);
        }
    }

    /// What each uplink's program has done with frames.
    pub fn uplink_counters(&self) -> impl Iterator<Item = (&str, xdp::uplink::UplinkCounters)> {
        let uplinks = self.uplinks.values();
        uplinks.filter_map(|uplink| Some((uplink.device.name.as_str(), uplink.program.counters().ok()?)))
    }

    /// Every port, for people: whether packets can pass its link, and the missing ones with the reason.
    #[must_use]
    pub fn rows(&self, links: &[KernelLink]) -> Vec<PortRow> {
        let mut rows = Vec::new();
        let mut row = |name: &str, kind: &str, port: &LivePort, io: String, note: &str| {
            let problem = link_problem(links.iter().find(|link| link.index == port.ifindex));
            rows.push(PortRow {
                name: name.into(),
                kind: kind.into(),
                io,
                worker: port.worker as u32,
                up: problem.is_none(),
                detail: problem.unwrap_or(note).into(),
            });
        };
        for uplink in self.uplinks.values() {
            let tags = if uplink.program.sees_vlan_tags() { ", asks for VLAN tags" } else { "" };
            for port in &uplink.queues {
                row(
                    &uplink.device.name,
                    uplinks::KIND,
                    port,
                    format!("{}, xdp {}{tags}", port.io, uplink.program.mode()),
                    uplink.why_copy.as_deref().unwrap_or_default(),
                );
            }
        }
        for (kind, port) in [("host", &self.host), ("forward", &self.forward)] {
            if let Some(port) = port {
                row(kind, kind, port, port.io.into(), "");
            }
        }
        for pod in self.pods.values() {
            row(&pod.endpoint.interface, "pod", &pod.port, pod.port.io.into(), &pod.why);
        }
        let refused = self.refused.iter().map(|(name, problem)| (name, uplinks::KIND, problem));
        let missing = self.missing.iter().map(|(name, missing)| (name, missing.kind, &missing.problem));
        rows.extend(refused.chain(missing).map(|(name, kind, problem)| PortRow {
            name: name.clone(),
            kind: kind.into(),
            io: String::new(),
            worker: 0,
            up: false,
            detail: problem.clone(),
        }));
        rows
    }
}

/// All rings of one size.
fn rings(entries: u32) -> SocketConfig {
    SocketConfig {
        rx: entries,
        tx: entries,
        fill: entries,
        completion: entries,
        tx_budget: entries,
        ..SocketConfig::default()
    }
}

fn jumbo(link: &KernelLink, carried: usize, reason: &'static str) -> Result<(), PortError> {
    let mtu = link.mtu;
    match usize::from(mtu) + ethernet::HEADER_LEN > carried {
        true => Err(PortError::Jumbo { name: link.name.clone(), mtu, carried, reason }),
        false => Ok(()),
    }
}

/// Why no packet can pass a port's link.
fn link_problem(link: Option<&KernelLink>) -> Option<&'static str> {
    match link {
        None => Some("its device is gone"),
        Some(link) if !link.up => Some("its device is down"),
        Some(link) if !link.carrier => Some("its device has no carrier: the other end is down"),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::mirror::LinkKind;
    use super::*;

    fn link() -> KernelLink {
        KernelLink {
            index: 2,
            name: "uplink0".into(),
            mac: caracal_wire::MacAddr::ZERO,
            mtu: 1500,
            up: true,
            carrier: true,
            queues: 1,
            kind: LinkKind::Ethernet,
            master: None,
        }
    }

    #[test]
    fn a_port_is_up_only_while_its_link_is_up_at_both_ends() {
        assert_eq!(link_problem(Some(&link())), None);
        let down = KernelLink { up: false, ..link() };
        assert_eq!(link_problem(Some(&down)), Some("its device is down"));
        let cut = KernelLink { carrier: false, ..link() };
        assert!(link_problem(Some(&cut)).unwrap().contains("carrier"));
        assert!(link_problem(None).unwrap().contains("gone"));
    }

    #[test]
    fn where_a_packet_is_one_frame_a_device_with_longer_ones_is_refused_in_a_line() {
        let of_mtu = |mtu| jumbo(&KernelLink { mtu, ..link() }, 1792, "the kernel is old");
        assert!(of_mtu(1778).is_ok());
        let refused = of_mtu(1779).unwrap_err().to_string();
        for word in ["uplink0", "1779", "1792", "the kernel is old", "--chunk-size 4096"] {
            assert!(refused.contains(word), "{refused}");
        }
    }
}
