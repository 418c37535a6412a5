//! A worker's thread: an [`Engine`] that is turned as long as there is something to do, and blocks when there is not.
//!
//! ```text
//!   ┌─► adopt tables ─► commands ─► peers' rings ─► ready ports (a batch each) ─► flush ─► tick ─┐
//!   └──────────────── something came ◄──── or less than SPIN since it did ◄──────────────────────┘
//!                                          else: sleep in epoll until a port, a peer or the controller calls
//! ```
//!
//! Ports tell when they are ready: epoll is edge-triggered, and a port stays on the ready list until it has been found
//! empty a few times. So a turn looks at ports that have traffic, however many there are.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::engine::{Engine, Owners, PortSlot, Role};
use crate::batch::{Egress, UplinkIndex};
use crate::clock::Clock;
use crate::counters::PortCounters;
use crate::flow::{FlowEntry, FlowNote};
use crate::handover::Doorbell;
use crate::pipeline::{EndpointLink, Link, Uplink};
use crate::port::{BulkSender, Port};
use crate::table::EndpointIndex;

/// What the controller tells a worker. Followed between batches.
pub enum Command {
    /// Take a port in; the slot it got is sent back.
    AddPort {
        /// The port.
        port: Box<Port>,
        /// What it is for.
        role: Role,
        /// What it counts.
        counters: Arc<PortCounters>,
        /// Gets the slot.
        reply: SyncSender<PortSlot>,
    },
    /// Give a port up; it is sent back with its frames in it.
    RemovePort {
        /// Which.
        slot: PortSlot,
        /// Gets the port.
        reply: SyncSender<Option<Box<Port>>>,
    },
    /// Have the super-frames that leave by a port's device leave by this.
    BulkSender(PortSlot, BulkSender),
    /// Frames that a port which was closed elsewhere had held.
    ReturnFrames(Vec<caracal_xsk::Frame>),
    /// What is known of a pod's link.
    EndpointLink(EndpointIndex, EndpointLink),
    /// What is known of a host port.
    Link(Egress, Option<Link>),
    /// What is known of an uplink.
    Uplink(UplinkIndex, Option<Uplink>),
    /// Who has the ports that there is only one of.
    Owners(Owners),
    /// How many frames each pod's port, and the uplink's, should have to receive into.
    FillTargets {
        /// Pods.
        pod: usize,
        /// The uplink.
        uplink: usize,
        /// How many frames stay in the pool, whatever is to be sent.
        reserve: usize,
    },
    /// Part of the flow table: `buckets` buckets from `first`, into `into`, which comes back with the next bucket.
    Flows {
        /// First bucket.
        first: usize,
        /// How many buckets.
        buckets: usize,
        /// Where the flows go: with room for all of them, so that the worker does not allocate.
        into: Vec<(FlowEntry, FlowNote)>,
        /// Gets the flows and where to go on, if not at the end.
        reply: SyncSender<FlowPage>,
    },
    /// Bring the rules' counters up to date with `buckets` buckets of flows from `first`.
    SettleFlows {
        /// First bucket.
        first: usize,
        /// How many buckets.
        buckets: usize,
        /// Gets the next bucket, if this was not the end.
        reply: SyncSender<Option<usize>>,
    },
    /// End.
    Stop,
}

/// Some flows, and the bucket to go on with.
pub type FlowPage = (Vec<(FlowEntry, FlowNote)>, Option<usize>);

/// What a worker says of itself.
#[derive(Debug, Default)]
pub struct WorkerStatus {
    /// Its local pods whose MAC address is not known.
    pub unresolved: AtomicU64,
    /// Flows in its table.
    pub flows: AtomicU64,
    /// Translations that it owns for the node.
    pub translations: AtomicU64,
    /// Flows that the table has room for.
    pub flow_capacity: AtomicU64,
    /// Bytes that the table takes.
    pub flow_bytes: AtomicU64,
    /// Free frames in its domain.
    pub free_frames: AtomicU64,
    /// When it last came round, milliseconds since the start.
    pub came_round: AtomicU32,
    /// Its thread, as the kernel numbers it; 0 before it runs.
    pub thread: AtomicI32,
}

/// How long a worker looks for work before it blocks, microseconds.
pub const SPIN_MICROS: u128 = 50;
/// Turns between two looks at epoll while there is work.
const TURNS_PER_POLL: u32 = 16;
/// How often a ready port may be found empty before it leaves the ready list.
const EMPTY_TURNS: u8 = 4;
/// The longest sleep, milliseconds: flows age and pods are asked again.
const SLEEP_MAX_MS: u16 = 50;
/// The same while the kernel takes nothing from a port.
const STALLED_SLEEP_MS: u16 = 2;

const EVENTS: usize = 64;
const DOORBELL: u64 = u64::MAX;

struct Ready {
    slot: PortSlot,
    empty_turns: u8,
}

/// The thread's state.
pub struct Thread {
    engine: Engine,
    commands: Receiver<Command>,
    doorbell: Arc<Doorbell>,
    status: Arc<WorkerStatus>,
    counters: Arc<crate::counters::WorkerCounters>,
    /// Where next hops go that packets needed and nobody knew.
    unknown_neighbors: SyncSender<(u32, IpAddr)>,
    clock: Clock,
    epoll: Epoll,
    ready: Vec<Ready>,
    is_ready: Vec<bool>,
    fill_pod: usize,
    fill_uplink: usize,
    reserve: usize,
}

impl Thread {
    /// A thread to be [`run`](Self::run).
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub fn new(
        engine: Engine,
        commands: Receiver<Command>,
        doorbell: Arc<Doorbell>,
        status: Arc<WorkerStatus>,
        counters: Arc<crate::counters::WorkerCounters>,
        unknown_neighbors: SyncSender<(u32, IpAddr)>,
        clock: Clock,
    ) -> nix::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(doorbell.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, DOORBELL))?;
        Ok(Thread {
            engine,
            commands,
            doorbell,
            status,
            counters,
            unknown_neighbors,
            clock,
            epoll,
            ready: Vec::with_capacity(512),
            is_ready: Vec::new(),
            fill_pod: 0,
            fill_uplink: 0,
            reserve: 0,
        })
    }

    /// Turns until told to stop.
    pub fn run(mut self) {
        let mut turns_since_poll = 0;
        let mut last_work = self.clock.micros();
        self.status.thread.store(nix::unistd::gettid().as_raw(), Relaxed);
        loop {
            self.engine.adopt();
            if !self.follow_commands() {
                return;
            }
            let now = self.clock.now();
            self.status.came_round.store(now.0, Relaxed);
            let mut came = self.engine.receive_from_peers(now);
            let mut at = 0;
            while at < self.ready.len() {
                let slot = self.ready[at].slot;
                let count = self.engine.receive_from(slot, now);
                came += count;
                let ready = &mut self.ready[at];
                ready.empty_turns = if count == 0 { ready.empty_turns + 1 } else { 0 };
                if ready.empty_turns >= EMPTY_TURNS {
                    self.is_ready[slot.0] = false;
                    self.ready.swap_remove(at);
                } else {
                    at += 1;
                }
            }
            self.engine.flush();
            self.engine.tick(now);
            for neighbor in self.engine.pipeline.unknown_neighbors.drain(..) {
                // Full: somebody has asked for enough; the next packet asks again.
                let _ = self.unknown_neighbors.try_send(neighbor);
            }

            turns_since_poll += 1;
            if came > 0 || self.engine.has_unsent() {
                last_work = self.clock.micros();
                if turns_since_poll >= TURNS_PER_POLL {
                    turns_since_poll = 0;
                    self.publish_status();
                    self.poll(EpollTimeout::ZERO);
                }
                continue;
            }
            turns_since_poll = 0;
            if self.clock.micros() - last_work < SPIN_MICROS {
                self.poll(EpollTimeout::ZERO);
            } else {
                self.sleep();
                last_work = self.clock.micros();
            }
        }
    }

    fn sleep(&mut self) {
        self.publish_status();
        self.doorbell.falls_asleep();
        // The last look, after the announcement: see `Doorbell`.
        if !self.engine.peers_have_sent() && self.ready.is_empty() {
            self.counters.pipeline.waits.add(1);
            let sleep_ms = if self.engine.has_stalled() { STALLED_SLEEP_MS } else { SLEEP_MAX_MS };
            self.poll(EpollTimeout::from(sleep_ms));
        } else {
            self.poll(EpollTimeout::ZERO);
        }
        self.doorbell.wakes_up();
    }

    fn poll(&mut self, timeout: EpollTimeout) {
        let mut events = [EpollEvent::empty(); EVENTS];
        // Interrupted: nothing is lost, the next turn polls again.
        let count = self.epoll.wait(&mut events, timeout).unwrap_or(0);
        for event in &events[..count] {
            if event.data() != DOORBELL {
                self.mark_ready(PortSlot(event.data() as usize));
            }
        }
    }

    fn mark_ready(&mut self, slot: PortSlot) {
        if let Some(flag) = self.is_ready.get_mut(slot.0)
            && !*flag
        {
            *flag = true;
            self.ready.push(Ready { slot, empty_turns: 0 });
        }
    }

    fn publish_status(&self) {
        self.status.unresolved.store(self.engine.unresolved() as u64, Relaxed);
        self.status.flows.store(self.engine.pipeline.flows.len() as u64, Relaxed);
        self.status.translations.store(self.engine.pipeline.translations.of_node() as u64, Relaxed);
        self.status.free_frames.store(self.engine.pool.free() as u64, Relaxed);
    }

    /// False: stop.
    #[inline]
    fn follow_commands(&mut self) -> bool {
        while let Ok(command) = self.commands.try_recv() {
            if !self.follow(command) {
                return false;
            }
            self.publish_status();
        }
        true
    }

    #[cold]
    fn follow(&mut self, command: Command) -> bool {
        match command {
            Command::AddPort { mut port, role, counters, reply } => {
                if let Port::Xsk(xsk) = &mut *port {
                    xsk.set_fill_target(if matches!(role, Role::Uplink(_)) {
                        self.fill_uplink
                    } else {
                        self.fill_pod
                    });
                    xsk.set_reserve(self.reserve);
                    xsk.refill(&mut self.engine.pool);
                }
                let slot = self.engine.add_port(*port, role, counters);
                if self.is_ready.len() <= slot.0 {
                    self.is_ready.resize(slot.0 + 1, false);
                }
                self.is_ready[slot.0] = false;
                self.watch(slot);
                // Something may have come before it was watched.
                self.mark_ready(slot);
                let _ = reply.send(slot);
            }
            Command::RemovePort { slot, reply } => {
                self.ready.retain(|ready| ready.slot != slot);
                let port = self.engine.remove_port(slot).map(Box::new);
                if let Some(port) = &port {
                    self.unwatch(port);
                }
                let _ = reply.send(port);
            }
            Command::BulkSender(slot, bulk) => self.engine.set_bulk_sender(slot, bulk),
            Command::ReturnFrames(frames) => {
                for frame in frames {
                    self.engine.pool.put(frame);
                }
            }
            Command::EndpointLink(endpoint, link) => self.engine.set_endpoint_link(endpoint, link),
            Command::Link(egress, link) => self.engine.set_link(egress, link),
            Command::Uplink(uplink, to) => self.engine.set_uplink(uplink, to),
            Command::Owners(owners) => self.engine.set_owners(owners),
            Command::FillTargets { pod, uplink, reserve } => {
                self.fill_pod = pod;
                self.fill_uplink = uplink;
                self.reserve = reserve;
                for (_, role, port) in self.engine.ports_mut() {
                    if let Port::Xsk(port) = port {
                        port.set_fill_target(if matches!(role, Role::Uplink(_)) { uplink } else { pod });
                        port.set_reserve(reserve);
                    }
                }
            }
            Command::Flows { first, buckets, mut into, reply } => {
                let next = self
                    .engine
                    .pipeline
                    .flows
                    .visit(first, buckets, |entry, note| into.push((*entry, *note)));
                let _ = reply.send((into, next));
            }
            Command::SettleFlows { first, buckets, reply } => {
                let _ = reply.send(self.engine.settle_flows(first, buckets));
            }
            Command::Stop => return false,
        }
        true
    }

    fn watch(&self, slot: PortSlot) {
        if let Some(fd) = self.engine.port(slot).and_then(Port::fd) {
            let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, slot.0 as u64);
            // It fails only for a port that is watched already.
            let _ = self.epoll.add(fd, event);
        }
    }

    fn unwatch(&self, port: &Port) {
        if let Some(fd) = port.fd() {
            let _ = self.epoll.delete(fd);
        }
    }
}
