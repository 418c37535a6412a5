//! The uplinks among the ports: a program on each device, and a socket on each of its queues.
//!
//! A device that has been attached stays so as long as it is there, also while its routes or addresses come and go: to attach
//! may reset a real device's rings.

use std::collections::BTreeSet;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use caracal_xsk::packet_socket::PacketSocket;
use caracal_xsk::xdp::uplink::Capture;
use caracal_xsk::xdp::{self, AttachMode, Preference, Uplink};
use caracal_xsk::{Mode, Socket};
use tracing::{debug, info, warn};

use super::{FrameShares, LivePort, Missing, Plan, PortError, Ports, SocketConfig, UplinkIo, rings};
use crate::batch::UplinkIndex;
use crate::controller::mirror::KernelLink;
use crate::controller::uplinks::{self, Chosen, Facts};
use crate::pipeline::{self, Link};
use crate::port::{BulkSender, Port, XskPort};
use crate::probe::advice::no_zero_copy;
use crate::probe::netdev::XdpFeatures;
use crate::probe::tuning::Tuning;
use crate::probe::{self, Interface};
use crate::worker::thread::Command;
use crate::worker::{Owners, Role};

/// What rows of uplinks say they are.
pub const KIND: &str = "uplink";

/// Uplinks of a node, at most: what an [`UplinkIndex`] can tell apart.
pub const UPLINKS_MAX: usize = 256;

/// An uplink with its program and its queues.
pub(super) struct LiveUplink {
    pub index: UplinkIndex,
    /// What was chosen, as workers know it.
    pub device: KernelLink,
    pub routed: u32,
    pub sends: bool,
    pub program: Uplink,
    pub queues: Vec<LivePort>,
    /// Why its sockets are in copy mode, if they are.
    pub why_copy: Option<String>,
    pub captured: BTreeSet<Capture>,
    /// What it has been brought in line with.
    pub followed: Option<Arc<BTreeSet<Capture>>>,
}

impl LiveUplink {
    /// What workers know of it: nothing while it is down, so that nothing waits for it.
    fn command(&self) -> Command {
        if !self.device.up {
            return Command::Uplink(self.index, None);
        }
        let link = Link { mac: self.device.mac, mtu: self.device.mtu };
        // Packets look for the interface that their route names; one that does not send has a name that no route has.
        let ifindex = if self.sends { self.routed } else { 0 };
        Command::Uplink(self.index, Some(pipeline::Uplink { ifindex, link }))
    }

    /// Brings what the program takes in line with `wanted`. What is new first: what is meant all along is not let go in
    /// between.
    fn capture(&mut self, wanted: &Arc<BTreeSet<Capture>>) -> Result<(), xdp::XdpError> {
        if self.followed.as_ref().is_some_and(|followed| Arc::ptr_eq(followed, wanted)) {
            return Ok(());
        }
        for new in wanted.difference(&self.captured).copied().collect::<Vec<_>>() {
            self.program.capture(new)?;
            self.captured.insert(new);
        }
        for old in self.captured.difference(wanted).copied().collect::<Vec<_>>() {
            self.program.release(old)?;
            self.captured.remove(&old);
        }
        self.followed = Some(Arc::clone(wanted));
        Ok(())
    }
}

impl Ports {
    pub(super) fn follow_uplinks(&mut self, plan: &Plan) {
        let Some(node) = plan.node else { return };
        let addresses: Vec<_> = node.addresses().collect();
        let mut choice = uplinks::choose(&Facts {
            names: &self.config.uplinks,
            links: plan.links,
            addresses: plan.addresses,
            node: &addresses,
            routed: &plan.routed,
        });
        for (name, problem) in &choice.refused {
            if self.refused.get(name) != Some(problem) {
                warn!(uplink = name, "{problem}");
            }
        }
        self.refused = choice.refused;
        for (name, problem) in std::mem::take(&mut choice.missing) {
            self.lacks(&name, problem);
        }

        let is_there = |uplink: &LiveUplink| {
            let device = plan.links.iter().find(|link| link.index == uplink.device.index);
            device.is_some_and(|link| uplink.routed == link.index || link.master == Some(uplink.routed))
        };
        let gone: Vec<u32> =
            self.uplinks.iter().filter(|(_, uplink)| !is_there(uplink)).map(|(device, _)| *device).collect();
        self.tuned.retain(|device, _| plan.links.iter().any(|link| link.index == *device));
        let fresh = || choice.chosen.iter().filter(|(device, _)| !self.uplinks.contains_key(device));
        let mut expected = self.uplink_queues();
        for queue in fresh().flat_map(|(_, chosen)| 0..chosen.device.queues as usize) {
            expected[queue % self.workers.len()] += 1;
        }
        let changed = !gone.is_empty() || fresh().next().is_some();
        if changed {
            self.set_fill_targets(self.pods.len(), &expected);
        }
        for uplink in gone.into_iter().filter_map(|device| self.uplinks.remove(&device)).collect::<Vec<_>>() {
            warn!(uplink = uplink.device.name, "uplink is gone");
            let index = uplink.index;
            self.tell_all(|| Command::Uplink(index, None));
            uplink.queues.into_iter().for_each(|port| self.close(port));
        }
        for (device, chosen) in &choice.chosen {
            if self.uplinks.contains_key(device) {
                continue;
            }
            match self.open_uplink(chosen) {
                Ok(uplink) => {
                    self.tell_all(|| uplink.command());
                    self.uplinks.insert(*device, uplink);
                }
                Err(error) => {
                    self.lacks(&chosen.device.name, error.to_string());
                }
            }
        }
        if changed {
            self.tell_all(|| Command::Owners(Owners::default()));
            // Devices have room for more queues than they use: what was expected was the most there can be.
            self.set_fill_targets(self.pods.len(), &self.uplink_queues());
        }
        let mut live = std::mem::take(&mut self.uplinks);
        for (device, uplink) in &mut live {
            // One that routes do not lead to any more is still what it was, in the kernel's present words.
            let kernel = plan.links.iter().find(|link| link.index == *device).cloned();
            let now = choice
                .chosen
                .remove(device)
                .or_else(|| Some(Chosen { device: kernel?, routed: uplink.routed, sends: uplink.sends }));
            let Some(now) = now else { continue };
            let known = |u: &LiveUplink| (u.device.up, u.device.mac, u.device.mtu, u.sends);
            let before = known(uplink);
            (uplink.device, uplink.sends) = (now.device, now.sends);
            if before != known(uplink) {
                self.tell_all(|| uplink.command());
            }
            let fits = self.check_size(&uplink.device);
            if let Err(problem) = fits {
                self.lacks(&uplink.device.name, problem.to_string());
            }
            if let Err(error) = uplink.capture(&plan.captures) {
                self.lacks(&uplink.device.name, error.to_string());
            }
        }
        self.uplinks = live;
    }

    fn lacks(&mut self, name: &str, problem: String) {
        self.missing.insert(name.into(), Missing { kind: KIND, problem });
    }

    /// How many queues of uplinks each worker has.
    pub(super) fn uplink_queues(&self) -> Vec<usize> {
        let mut queues = vec![0; self.workers.len()];
        for queue in self.uplinks.values().flat_map(|uplink| &uplink.queues) {
            queues[queue.worker] += 1;
        }
        queues
    }

    fn open_uplink(&mut self, chosen: &Chosen) -> Result<LiveUplink, PortError> {
        let link = &chosen.device;
        self.check_link(link)?;
        let is_free = |index: &u8| self.uplinks.values().all(|uplink| uplink.index.0 != *index);
        let index = UplinkIndex((0..=u8::MAX).find(is_free).ok_or(PortError::TooManyUplinks)?);
        self.tune(link)?;
        let device = Interface::ask(&link.name);
        let receiving = device.as_ref().map_or(link.queues, Interface::receiving_queues).min(link.queues);
        let mut program = attach(link, &device)?;
        if let AttachMode::Generic(reason) = program.mode() {
            warn!(uplink = link.name, "XDP runs in generic mode, which costs the host throughput: {reason}");
        }
        let mut queues: Vec<LivePort> = Vec::new();
        let chunk_size = self.workers[0].domain.config().chunk_size;
        let mut binding = Binding::of(self.config.uplink_io, program.mode(), &device, chunk_size);
        for queue in 0..link.queues {
            // Queue q belongs to worker q mod N.
            let worker = queue as usize % self.workers.len();
            let port =
                self.bind_uplink(worker, link.index, queue, receiving, &mut binding).and_then(|socket| {
                    program.set_socket(queue, &socket)?;
                    let by_metadata = !socket.is_zero_copy() || binding.device_completes;
                    let completes = by_metadata && self.workers[worker].domain.checksum_offload();
                    let copies = !socket.is_zero_copy();
                    let port = Port::Xsk(XskPort::new(socket, completes, 0));
                    let live = self.add(worker, port, Role::Uplink(index), link)?;
                    if copies && !self.config.segment_here {
                        let bulk = BulkSender::new(PacketSocket::open_to_send(link.index)?);
                        self.workers[worker].tell(Command::BulkSender(live.slot, bulk));
                    }
                    Ok(live)
                });
            match port {
                Ok(port) => queues.push(port),
                // The device has room for more queues than it uses.
                Err(PortError::Bind(_)) if queue > 0 => break,
                Err(error) => {
                    queues.into_iter().for_each(|port| self.close(port));
                    return Err(error);
                }
            }
        }
        info!(
            uplink = link.name,
            queues = queues.len(),
            io = queues.first().map(|q| q.io),
            xdp = %program.mode(),
            asks_for_vlan_tags = program.sees_vlan_tags(),
            "uplink attached"
        );
        Ok(LiveUplink {
            index,
            device: link.clone(),
            routed: chosen.routed,
            sends: chosen.sends,
            program,
            queues,
            why_copy: binding.why_copy,
            captured: BTreeSet::new(),
            followed: None,
        })
    }

    /// Sets what is to be set of a device: once, however often it is tried to attach it.
    fn tune(&mut self, link: &KernelLink) -> Result<(), PortError> {
        if let Entry::Vacant(untouched) = self.tuned.entry(link.index) {
            untouched.insert(Tuning::apply(&link.name, link.index, self.config.tuning)?);
        }
        Ok(())
    }

    /// In zero-copy mode if that may be; if it cannot, this queue and the others are in copy mode.
    fn bind_uplink(
        &mut self,
        worker: usize,
        ifindex: u32,
        queue: u32,
        queues: u32,
        binding: &mut Binding,
    ) -> Result<Socket, PortError> {
        let ring = self.config.uplink_ring;
        if binding.why_copy.is_none() {
            let here = (queues as usize).div_ceil(self.workers.len());
            let chunks = self.workers[worker].domain.config().chunks as usize;
            // While we are stopped, the device goes on with the frames that the RX ring has no room for: or else the host would
            // receive nothing on this queue.
            let filled =
                (FrameShares::of(chunks, self.workers.len()).uplink / here.max(1)).min(ring as usize) as u32;
            let rx = prior_power_of_two(filled / 2).max(2);
            let multi_buffer = binding.device_multi_buffer;
            let direct = SocketConfig { rx, mode: Mode::ZeroCopy, multi_buffer, ..rings(ring) };
            match self.bind(worker, ifindex, queue, direct) {
                Ok(socket) => return Ok(socket),
                Err(PortError::Bind(refusal)) => binding.why_copy = Some(refusal.to_string()),
                Err(error) => return Err(error),
            }
        }
        self.bind(worker, ifindex, queue, rings(ring))
    }
}

/// Attaches the program: one that asks for VLAN tags where the device tells of those that it takes off.
fn attach(link: &KernelLink, device: &Result<Interface, probe::ProbeError>) -> Result<Uplink, xdp::XdpError> {
    let tells = device.as_ref().is_ok_and(|d| d.xdp.as_ref().is_ok_and(XdpFeatures::rx_vlan_tag));
    let asking = tells.then(|| Uplink::attach_seeing_vlan_tags(link.index));
    match asking {
        Some(Ok(program)) => return Ok(program),
        Some(Err(taken @ xdp::XdpError::Taken { .. })) => return Err(taken),
        Some(Err(error)) => debug!(uplink = link.name, "it is not asked for VLAN tags: {error}"),
        None => {}
    }
    if device.as_ref().is_ok_and(Interface::strips_vlan_tags) {
        warn!(
            uplink = link.name,
            "the device takes VLAN tags off before our program sees them: if frames of VLANs come here: ethtool -K {} rxvlan off",
            link.name
        );
    }
    Uplink::attach(link.index, Preference::NativeFirst)
}

/// How an uplink's sockets are bound.
struct Binding {
    /// Why not in zero-copy mode.
    why_copy: Option<String>,
    /// In zero-copy mode the device completes checksums.
    device_completes: bool,
    /// In zero-copy mode packets may span several frames.
    device_multi_buffer: bool,
}

impl Binding {
    fn of(
        io: UplinkIo,
        mode: &AttachMode,
        device: &Result<Interface, probe::ProbeError>,
        chunk_size: u16,
    ) -> Self {
        let why_copy = match (io, mode, device) {
            (UplinkIo::Copy, ..) => Some("copy mode, as configured".into()),
            (_, AttachMode::Generic(_), _) => Some("copy mode: zero-copy takes native XDP".into()),
            (.., Ok(device)) => no_zero_copy(device, chunk_size).map(|reason| format!("copy mode: {reason}")),
            // To try is the only way to know.
            (.., Err(_)) => None,
        };
        let xdp = device.as_ref().ok().and_then(|device| device.xdp.as_ref().ok());
        Binding {
            why_copy,
            device_completes: xdp.is_some_and(XdpFeatures::tx_checksum),
            device_multi_buffer: xdp.is_some_and(XdpFeatures::zero_copy_multi_buffer),
        }
    }
}

fn prior_power_of_two(number: u32) -> u32 {
    number.checked_ilog2().map_or(1, |log| 1 << log)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_is_no_larger_than_what_it_is_made_from() {
        for (number, power) in [(0, 1), (1, 1), (3, 2), (4, 4), (1023, 512), (u32::MAX, 1 << 31)] {
            assert_eq!(prior_power_of_two(number), power);
        }
    }

    #[test]
    fn sockets_are_in_copy_mode_when_asked_so_or_when_the_program_is_not_in_the_driver() {
        let silent = || Err(probe::ProbeError::Netlink(std::io::ErrorKind::NotFound.into()));
        let generic = AttachMode::Generic("none".into());
        let why = |io, mode: &AttachMode| Binding::of(io, mode, &silent(), 2048).why_copy;
        assert!(why(UplinkIo::Copy, &AttachMode::Native).unwrap().contains("configured"));
        assert!(why(UplinkIo::Auto, &generic).unwrap().contains("native XDP"));
        assert_eq!(why(UplinkIo::Auto, &AttachMode::Native), None);
    }
}
