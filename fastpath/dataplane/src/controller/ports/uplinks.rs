//! The uplinks among the ports: a program on each device, and a socket on each of its queues.
//!
//! A device that has been attached stays so as long as it is there, also while its routes or addresses come and go: to attach
//! may reset a real device's rings.

use std::collections::BTreeSet;
use std::sync::Arc;

use caracal_xsk::xdp::uplink::Capture;
use caracal_xsk::xdp::{self, AttachMode, Preference, Uplink};
use tracing::{info, warn};

use super::{LivePort, Missing, Plan, PortError, Ports};
use crate::batch::UplinkIndex;
use crate::controller::uplinks::{self, Chosen, Facts};
use crate::pipeline::{self, Link};
use crate::port::Port;
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
    pub device: crate::controller::mirror::KernelLink,
    pub routed: u32,
    pub sends: bool,
    pub program: Uplink,
    pub queues: Vec<LivePort>,
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
        let mut program = Uplink::attach(link.index, Preference::NativeFirst)?;
        if let AttachMode::Generic(reason) = program.mode() {
            warn!(uplink = link.name, "XDP runs in generic mode, which costs the host throughput: {reason}");
        }
        let mut queues: Vec<LivePort> = Vec::new();
        for queue in 0..link.queues {
            // Queue q belongs to worker q mod N.
            let worker = queue as usize % self.workers.len();
            let port = self.bind(worker, link.index, queue, self.config.uplink_ring).and_then(|socket| {
                program.set_socket(queue, &socket)?;
                let port = Port::Xsk(self.xsk_port(worker, socket));
                self.add(worker, port, Role::Uplink(index), link)
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
            "uplink attached"
        );
        Ok(LiveUplink {
            index,
            device: link.clone(),
            routed: chosen.routed,
            sends: chosen.sends,
            program,
            queues,
            captured: BTreeSet::new(),
            followed: None,
        })
    }
}
