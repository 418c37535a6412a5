//! Two workers of one node: what one receives, the other delivers.
//!
//! Worker 0 has the uplink, the host ports and pod a; worker 1 has pods b and c.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use proptest::prelude::*;
use std::os::fd::AsFd;

use super::super::datagram::{ACK, Datagram, SYN};
use super::super::world::{self, A, B, C, OUTSIDE, REMOTE, TUNNEL1, pod};
use super::super::{FIRST_UPLINK, HOST_MAC, Output, POD_MAC, PortName, UPLINK_IFINDEX, UPLINK_MAC};
use super::fragments::{cut, put_together};
use super::support::*;
use crate::batch::Egress;
use crate::clock::Tick;
use crate::counters::{PortCounters, WorkerCounters};
use crate::drop_reason::DropReason;
use crate::handover::{Doorbell, connect};
use crate::packet::Packet;
use crate::pipeline::{EndpointLink, Link, Pipeline, Uplink};
use crate::port::{HEADROOM, MemoryPort, Port};
use crate::snapshot::Publisher;
use crate::table::{EndpointIndex, TableBuilder, Tables};
use crate::worker::{Engine, Owners, PortSlot, Role, WorkerIndex};
use caracal_plane_api::plane::{Op, Transaction};
use caracal_xsk::FramePool;

pub(super) struct Pair {
    engines: [Engine; 2],
    counters: [Arc<WorkerCounters>; 2],
    doorbells: [Arc<Doorbell>; 2],
    ports: BTreeMap<PortName, (usize, PortSlot)>,
    pub now: u32,
    /// Frames in each pool when nothing is on its way: the others are lent.
    at_home: [usize; 2],
    _publisher: Publisher<Tables>,
}

impl Pair {
    fn new() -> Pair {
        Pair::with(256, 64)
    }

    /// `frames` a worker, `ring` of which it lends the other.
    fn with(frames: u32, ring: usize) -> Pair {
        Pair::told(&world::ops(), frames, ring)
    }

    /// A pair that its control plane has told this.
    pub fn told(ops: &[Op], frames: u32, ring: usize) -> Pair {
        let mut builder = TableBuilder::new(2, Box::new(|id, _| u16::from(id != "default/a")));
        builder.kernel_routes(&world::kernel().routes);
        builder.local_addresses(&world::kernel().addresses);
        builder.apply(&Transaction { seq: 1, ops: ops.to_vec(), in_sync: true }).unwrap();
        builder.build();
        for (ifindex, address) in builder.wanted_neighbors() {
            builder.set_neighbor(ifindex, address, Some(world::NEIGHBOR_MAC));
        }
        let tables = builder.build();
        let mut publisher = Publisher::new(tables);
        let doorbells = [(); 2].map(|()| Arc::new(Doorbell::new().unwrap()));
        let (to_1, to_0) = connect(ring, Arc::clone(&doorbells[0]), Arc::clone(&doorbells[1]));
        let counters = [WorkerCounters::new(), WorkerCounters::new()];
        let mut peers = [vec![None, Some(to_1)], vec![Some(to_0), None]].into_iter();
        let engines = [0u16, 1].map(|index| {
            let worker = WorkerIndex(index);
            let mut engine = Engine::new(
                Pipeline::new(worker, 1024, 0x5eed),
                worker,
                FramePool::heap(frames),
                Arc::clone(&counters[usize::from(index)]),
                publisher.subscribe(),
                peers.next().unwrap(),
            );
            engine.set_owners(Owners::default());
            let link = |mac| Some(Link { mac, mtu: world::UPLINK_MTU });
            let uplink = link(UPLINK_MAC).map(|link| Uplink { ifindex: UPLINK_IFINDEX, link });
            engine.set_uplink(FIRST_UPLINK, uplink);
            engine.set_link(Egress::Host, link(HOST_MAC));
            engine.set_link(Egress::Forward, link(HOST_MAC));
            engine
        });
        let mut pair = Pair {
            engines,
            counters,
            doorbells,
            ports: BTreeMap::new(),
            now: 1000,
            at_home: [0; 2],
            _publisher: publisher,
        };
        pair.attach(0, PortName::Uplink, Role::Uplink(FIRST_UPLINK));
        pair.attach(0, PortName::Host, Role::Host);
        pair.attach(0, PortName::Forward, Role::Forward);
        let endpoints: Vec<(EndpointIndex, u16, String)> =
            builder.endpoints().map(|(index, e)| (index, e.worker, e.id.to_string())).collect();
        for (index, worker, id) in endpoints {
            pair.attach(usize::from(worker), PortName::Pod(id), Role::Endpoint(index));
            let link = EndpointLink { pod_mac: Some(POD_MAC), mtu: world::POD_MTU };
            pair.engines[usize::from(worker)].set_endpoint_link(index, link);
        }
        // Frames are lent before there is anything to hand over.
        pair.turn(0);
        pair.turn(1);
        pair.at_home = [0, 1].map(|w| pair.engines[w].pool.free());
        assert_eq!(pair.at_home, [frames as usize - ring; 2]);
        pair
    }

    fn attach(&mut self, worker: usize, name: PortName, role: Role) {
        let port = Port::Memory(MemoryPort::default());
        let slot = self.engines[worker].add_port(port, role, Arc::new(PortCounters::default()));
        self.ports.insert(name, (worker, slot));
    }

    fn inject(&mut self, port: &PortName, frame: &[u8]) -> bool {
        let (worker, slot) = self.ports[port];
        let engine = &mut self.engines[worker];
        let Some(mut new) = engine.pool.take() else { return false };
        new.reset(HEADROOM);
        new.append(frame.len()).unwrap().copy_from_slice(frame);
        match engine.port_mut(slot) {
            Some(Port::Memory(memory)) => memory.inject(Packet::new(new)),
            _ => unreachable!("all ports are in memory"),
        }
        true
    }

    /// One turn of one worker.
    fn turn(&mut self, worker: usize) -> usize {
        let engine = &mut self.engines[worker];
        let now = Tick(self.now);
        let mut came = engine.receive_from_peers(now);
        for (_, slot) in self.ports.values().filter(|(owner, _)| *owner == worker) {
            came += engine.receive_from(*slot, now);
        }
        engine.flush();
        engine.tick(now);
        came
    }

    fn collect(&mut self) -> Vec<Output> {
        let mut outputs = Vec::new();
        let mut boxes = Vec::new();
        for (name, (worker, slot)) in &self.ports {
            let engine = &mut self.engines[*worker];
            while let Some(Port::Memory(memory)) = engine.port_mut(*slot)
                && let Some(mut packet) = memory.sent()
            {
                packet.complete_checksum();
                let frame = packet.segments().flat_map(|segment| segment.data()).copied().collect();
                packet.release(&mut engine.pool, &mut boxes);
                outputs.push(Output { port: name.clone(), frame });
            }
        }
        outputs
    }

    /// Turns both workers until nothing is left to do; every frame is at home then.
    fn run(&mut self) -> Vec<Output> {
        let mut outputs = Vec::new();
        while self.turn(0) + self.turn(1) > 0 {
            outputs.extend(self.collect());
        }
        outputs.extend(self.collect());
        self.expect_all_frames_home();
        outputs
    }

    fn expect_all_frames_home(&mut self) {
        // What has been used is lent anew in the next turn.
        self.turn(0);
        self.turn(1);
        for (engine, at_home) in self.engines.iter().zip(self.at_home) {
            assert_eq!(engine.pool.free(), at_home, "frames went missing");
            assert_eq!(engine.pool.strays(), 0);
        }
    }

    pub fn send(&mut self, port: &PortName, frame: &[u8]) -> Vec<Output> {
        assert!(self.inject(port, frame));
        self.run()
    }

    fn handed_over(&self) -> [(u64, u64); 2] {
        [0, 1].map(|w| {
            let counters = &self.counters[w].pipeline;
            (counters.handed_over.get(), counters.taken_over.get())
        })
    }

    pub fn dropped(&self) -> BTreeSet<DropReason> {
        DropReason::ALL.iter().filter(|r| self.counters.iter().any(|c| c.dropped(**r) > 0)).copied().collect()
    }

    fn bell_rings(&self, worker: usize) -> bool {
        let mut fds = [PollFd::new(self.doorbells[worker].as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
    }
}

#[test]
fn a_packet_and_its_answer_go_between_pods_of_two_workers() {
    let mut pair = Pair::new();
    let syn = Datagram::tcp((A, 1000), (B, 80), SYN, b"");
    assert_eq!(pair.send(&pod("a"), &from_pod(&syn)), [to_pod("b", &syn.clone().ttl(63))]);
    let answer = Datagram::tcp((B, 80), (A, 1000), SYN | ACK, b"");
    assert_eq!(pair.send(&pod("b"), &from_pod(&answer)), [to_pod("a", &answer.clone().ttl(63))]);
    assert_eq!(pair.handed_over(), [(1, 1), (1, 1)]);
    // Each worker tracks its own pod's flow, and knows the answer.
    for worker in 0..2 {
        let counters = &pair.counters[worker].pipeline;
        assert_eq!((counters.flow_created.get(), counters.flow_hits.get()), (1, 1), "worker {worker}");
        assert_eq!(pair.engines[worker].pipeline.flows.len(), 1);
    }
}

#[test]
fn a_pod_whose_worker_has_no_uplink_sends_and_receives_by_the_one_that_has() {
    let mut pair = Pair::new();
    let out = Datagram::udp((B, 1), (OUTSIDE, 53), b"?");
    assert_eq!(pair.send(&pod("b"), &from_pod(&out)), [to_uplink(&out.clone().ttl(63))]);
    let back = Datagram::udp((OUTSIDE, 53), (B, 1), b"!");
    assert_eq!(pair.send(&PortName::Uplink, &from_uplink(&back)), [to_pod("b", &back.clone().ttl(63))]);
    let out = Datagram::tcp((B, 1), (REMOTE, 80), SYN, b"").partial();
    let outputs = pair.send(&pod("b"), &from_pod(&out));
    assert!(unwrapped(&outputs[0]).0.checksum_is_right(), "the half-made checksum goes along");
    let back = Datagram::tcp((REMOTE, 80), (B, 1), SYN | ACK, b"");
    assert_eq!(pair.send(&PortName::Uplink, &from_tunnel(&back)), [to_pod("b", &back.clone().ttl(63))]);
    let plain_spoof = Datagram::tcp((REMOTE, 81), (B, 1), SYN | ACK, b"");
    assert_eq!(pair.send(&PortName::Uplink, &from_uplink(&plain_spoof)), [], "how it came goes along, too");
    assert_eq!(pair.dropped(), [DropReason::FabricSpoofedSource].into());
}

#[test]
fn the_host_talks_to_a_pod_of_another_worker() {
    let mut pair = Pair::new();
    let probe = Datagram::tcp((TUNNEL1, 40_000), (B, 80), SYN, b"");
    assert_eq!(pair.send(&PortName::Host, &from_host(&probe)), [to_pod("b", &probe)]);
    let answer = Datagram::tcp((B, 80), (TUNNEL1, 40_000), SYN | ACK, b"");
    assert_eq!(pair.send(&pod("b"), &from_pod(&answer)), [to_host(PortName::Host, &answer)]);
    let to_host_packets: u64 = pair.counters.iter().map(|c| c.pipeline.to_host.get()).sum();
    assert_eq!(to_host_packets, 1, "counted by one of the workers");
}

#[test]
fn an_error_finds_its_way_back_across_workers() {
    let mut pair = Pair::new();
    let asked = Datagram::udp((A, 1000), (B, 53), b"?");
    pair.send(&pod("a"), &from_pod(&asked));
    let error = Datagram::error(B, A, 3, 3, [0; 4], &asked.clone().ttl(63), 28);
    assert_eq!(pair.send(&pod("b"), &from_pod(&error)), [to_pod("a", &error.clone().ttl(63))]);
    // One that the second worker makes itself: too big for b's link, found out there.
    let big = Datagram::udp((A, 1000), (B, 53), &[0; 1451 - 28]).dont_fragment();
    let outputs = pair.send(&pod("a"), &from_pod(&big));
    assert_eq!(outputs.len(), 1);
    assert_eq!(outputs[0].port, pod("a"));
    assert_eq!(Datagram::read(&outputs[0].frame).unwrap().body[..2], [3, 4]);
}

/// Hands over more than the other worker has lent frames for, then to one that has none to lend.
pub fn lent_frames_used_up() -> BTreeSet<DropReason> {
    let mut pair = Pair::with(64, 4);
    let packet = |n| from_pod(&Datagram::udp((A, n), (B, 1), b"x"));
    for n in 0..7 {
        assert!(pair.inject(&pod("a"), &packet(n)));
    }
    assert_eq!(pair.run().len(), 4);
    assert_eq!(pair.counters[0].dropped(DropReason::HandoverRefused), 3);
    // The receiver keeps its last frame for itself.
    let to_take = pair.engines[1].pool.free() - 1;
    let taken: Vec<_> = (0..to_take).map(|_| pair.engines[1].pool.take().unwrap()).collect();
    for n in 0..7 {
        assert!(pair.inject(&pod("a"), &packet(n)));
        pair.turn(0);
        pair.turn(1);
    }
    assert_eq!(pair.collect().len(), 4, "what had been lent before");
    assert_eq!(pair.counters[0].dropped(DropReason::HandoverRefused), 6);
    taken.into_iter().for_each(|frame| pair.engines[1].pool.put(frame));
    pair.expect_all_frames_home();
    assert_eq!(pair.send(&pod("a"), &packet(9)).len(), 1, "and again when it has frames");
    pair.dropped()
}

#[test]
fn a_receiver_whose_ports_hold_most_of_its_frames_goes_on_lending() {
    let mut pair = Pair::with(64, 4);
    let held: Vec<_> = (0..48).map(|_| pair.engines[1].pool.take().unwrap()).collect();
    for n in 0..40 {
        assert!(pair.inject(&pod("a"), &from_pod(&Datagram::udp((A, n), (B, 1), b"x"))));
        pair.turn(0);
        pair.turn(1);
        assert_eq!(pair.collect().len(), 1, "packet {n}");
    }
    held.into_iter().for_each(|frame| pair.engines[1].pool.put(frame));
    pair.expect_all_frames_home();
}

#[test]
fn a_receiver_that_lends_no_frames_costs_packets_and_no_frames() {
    assert_eq!(lent_frames_used_up(), [DropReason::HandoverRefused].into());
}

#[test]
fn a_worker_is_woken_for_what_is_handed_over_and_only_when_it_sleeps() {
    let mut pair = Pair::new();
    let packet = from_pod(&Datagram::udp((A, 1), (B, 1), b"x"));
    assert!(pair.inject(&pod("a"), &packet));
    pair.turn(0);
    assert!(!pair.bell_rings(1), "it is awake");
    assert!(pair.engines[1].peers_have_sent());
    pair.turn(1);

    pair.doorbells[1].falls_asleep();
    assert!(!pair.engines[1].peers_have_sent(), "the last look");
    assert!(pair.inject(&pod("a"), &packet));
    pair.turn(0);
    assert!(pair.bell_rings(1));
    pair.doorbells[1].wakes_up();
    assert!(!pair.bell_rings(1), "heard");
    assert_eq!(pair.run().len(), 2);
}

#[test]
fn a_chain_is_handed_over_segment_by_segment() {
    let mut pair = Pair::new();
    let packet = Datagram::udp((A, 1), (B, 2), &(0..1001u32).map(|n| n as u8).collect::<Vec<_>>());
    let frame = from_pod(&packet.clone().partial());
    let (worker, slot) = pair.ports[&pod("a")];
    let engine = &mut pair.engines[worker];
    let mut segments = [&frame[..101], &frame[101..402], &frame[402..]].into_iter().map(|bytes| {
        let mut segment = engine.pool.take().unwrap();
        segment.reset(HEADROOM);
        segment.append(bytes.len()).unwrap().copy_from_slice(bytes);
        segment
    });
    let mut chain = Packet::new(segments.next().unwrap());
    chain.rest = Some(Box::new(segments.collect()));
    if let Some(Port::Memory(memory)) = engine.port_mut(slot) {
        memory.inject(chain);
    }
    assert_eq!(pair.run(), [to_pod("b", &packet.ttl(63))]);
}

#[test]
fn parts_are_handed_over_behind_their_first_one_and_pieces_of_a_packet_too() {
    let payload: Vec<u8> = (0..2000u16).map(|i| i as u8).collect();
    let to_b = Datagram::udp((A, 1), (B, 2), &payload[..200]).identified(7);
    let from_outside = Datagram::udp((OUTSIDE, 1), (B, 2), &payload[..200]).identified(7);
    for (link, whole) in [(pod("a"), to_b), (PortName::Uplink, from_outside)] {
        let mut pair = Pair::new();
        for part in cut(&whole, &[16, 104]).iter().rev() {
            let frame = if link == PortName::Uplink { from_uplink(part) } else { from_pod(part) };
            assert!(pair.inject(&link, &frame));
        }
        let parts: Vec<Datagram> =
            pair.run().iter().map(|output| Datagram::read(&output.frame).unwrap()).collect();
        assert_eq!(parts[0].fragment_word, 0x2000, "the first part is the first");
        assert_eq!(put_together(parts), whole.ttl(63));
    }
    let mut pair = Pair::new();
    let long = Datagram::udp((B, 1), (OUTSIDE, 2), &payload[..1600]).identified(7);
    assert!(pair.inject(&pod("b"), &from_pod(&long)));
    let outputs = pair.run();
    assert!(outputs.len() == 2 && outputs.iter().all(|output| output.port == PortName::Uplink));
    let pieces = outputs.iter().map(|output| Datagram::read(&output.frame).unwrap()).collect();
    assert_eq!(put_together(pieces), long.ttl(63));
}

/// Any packet that a link of the node could see, well-formed or nearly so.
fn traffic() -> impl Strategy<Value = (PortName, Vec<u8>)> {
    let address = prop::sample::select(vec![A, B, C, REMOTE, OUTSIDE, TUNNEL1, world::NOBODY, world::NODE1]);
    let link = prop::sample::select(vec![
        pod("a"),
        pod("b"),
        pod("c"),
        PortName::Uplink,
        PortName::Uplink,
        PortName::Host,
        PortName::Forward,
    ]);
    (link, address.clone(), address, 0u8..6, 0u16..4, 0usize..1500, any::<bool>(), 0u8..4).prop_map(
        |(link, source, destination, kind, port, len, tunneled, ttl)| {
            let payload = vec![0; len];
            let datagram = match kind {
                0 => Datagram::tcp((source, port), (destination, 80), SYN, b""),
                1 => Datagram::tcp((source, port), (destination, 80), ACK, &payload),
                2 => Datagram::udp((source, port), (destination, 53), &payload).dont_fragment(),
                3 => Datagram::udp((source, 53), (destination, port), &payload).partial(),
                4 => Datagram::echo(source, destination, port > 1, 7, port),
                _ => {
                    let about = Datagram::udp((destination, port), (source, 53), b"");
                    Datagram::error(source, destination, 3, 3, [0; 4], &about, 28)
                }
            }
            .ttl(ttl.max(1) * 20 - 19);
            let frame = match &link {
                PortName::Uplink if tunneled => from_tunnel(&datagram),
                PortName::Uplink => from_uplink(&datagram),
                PortName::Pod(_) => from_pod(&datagram),
                _ => from_host(&datagram),
            };
            (link, frame)
        },
    )
}

/// What may happen to a node whose pods and devices come and go.
#[derive(Clone, Debug)]
enum Step {
    Inject(PortName, Vec<u8>),
    Turn(usize),
    Unplug(PortName),
    Plug(PortName),
}

fn step() -> impl Strategy<Value = Step> {
    let link = || {
        let links =
            ["a", "b", "c"].map(pod).into_iter().chain([PortName::Uplink, PortName::Host, PortName::Forward]);
        prop::sample::select(links.collect::<Vec<_>>())
    };
    prop_oneof![
        12 => traffic().prop_map(|(link, frame)| Step::Inject(link, frame)),
        4 => (0usize..2).prop_map(Step::Turn),
        1 => link().prop_map(Step::Unplug),
        1 => link().prop_map(Step::Plug),
    ]
}

impl Pair {
    /// Every port that there is: whose, and what for.
    fn roles(&mut self) -> BTreeMap<PortName, (usize, Role)> {
        let mut roles = BTreeMap::new();
        for (name, (worker, slot)) in &self.ports {
            let role =
                self.engines[*worker].ports_mut().find_map(|(s, role, _)| (s == *slot).then_some(role));
            roles.insert(name.clone(), (*worker, role.unwrap()));
        }
        roles
    }

    /// Takes a port away, as when its device goes, and its frames home. Returns how many packets in it had not been received,
    /// and how many had been sent.
    fn detach(&mut self, name: &PortName) -> (u64, u64) {
        let Some((worker, slot)) = self.ports.remove(name) else { return (0, 0) };
        let engine = &mut self.engines[worker];
        let Some(Port::Memory(mut port)) = engine.remove_port(slot) else { unreachable!("it was there") };
        let mut boxes = Vec::new();
        let mut counts = [0, 0];
        let mut release = |packet: Option<Packet>, at: usize| {
            let is_one = packet.is_some();
            packet.into_iter().for_each(|packet| packet.release(&mut engine.pool, &mut boxes));
            counts[at] += u64::from(is_one);
            is_one
        };
        while release(port.take_unreceived(), 0) {}
        while release(port.sent(), 1) {}
        (counts[0], counts[1])
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn frames_are_conserved_and_every_packet_is_accounted_for(
        packets in prop::collection::vec(traffic(), 1..200),
        turns in prop::collection::vec(0usize..2, 1..50),
    ) {
        // Few frames, so that everything that can run out does.
        let mut pair = Pair::with(96, 16);
        let mut injected = 0u64;
        let mut outputs = 0u64;
        let mut turns = turns.iter().cycle();
        for (link, frame) in &packets {
            injected += u64::from(pair.inject(link, frame));
            if let Some(worker) = turns.next() && injected.is_multiple_of(7) {
                pair.turn(*worker);
            }
        }
        outputs += pair.run().len() as u64;
        let sum = |of: &dyn Fn(&WorkerCounters) -> u64| pair.counters.iter().map(|c| of(c)).sum::<u64>();
        let dropped = sum(&|c| DropReason::ALL.iter().map(|r| c.dropped(*r)).sum());
        let answers = sum(&|c| c.pipeline.icmp_errors_sent.get());
        // One that is cut is several.
        let (cut, pieces) = (sum(&|c| c.pipeline.fragmented.get()), sum(&|c| c.pipeline.fragments_made.get()));
        prop_assert_eq!(injected + answers + pieces, outputs + dropped + cut);
        prop_assert_eq!(sum(&|c| c.pipeline.handed_over.get()), sum(&|c| c.pipeline.taken_over.get()));
    }

    #[test]
    fn frames_come_home_from_ports_that_come_and_go_in_the_middle_of_traffic(
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let mut pair = Pair::with(96, 16);
        let roles: BTreeMap<PortName, (usize, Role)> = pair.roles();
        let (mut injected, mut came_out, mut taken_along) = (0, 0, 0);
        for step in steps {
            match step {
                Step::Inject(link, frame) if pair.ports.contains_key(&link) => {
                    injected += u64::from(pair.inject(&link, &frame));
                }
                Step::Turn(worker) => drop(pair.turn(worker)),
                Step::Unplug(link) => {
                    let (unreceived, sent) = pair.detach(&link);
                    (taken_along, came_out) = (taken_along + unreceived, came_out + sent);
                }
                Step::Plug(link) if !pair.ports.contains_key(&link) => {
                    let (worker, role) = roles[&link];
                    pair.attach(worker, link, role);
                    if let Role::Endpoint(index) = role {
                        let link = EndpointLink { pod_mac: Some(POD_MAC), mtu: world::POD_MTU };
                        pair.engines[worker].set_endpoint_link(index, link);
                    }
                }
                Step::Inject(..) | Step::Plug(_) => {}
            }
        }
        came_out += pair.run().len() as u64;
        let sum = |of: &dyn Fn(&WorkerCounters) -> u64| pair.counters.iter().map(|c| of(c)).sum::<u64>();
        let dropped = sum(&|c| DropReason::ALL.iter().map(|r| c.dropped(*r)).sum());
        let made = sum(&|c| c.pipeline.icmp_errors_sent.get() + c.pipeline.fragments_made.get());
        let cut = sum(&|c| c.pipeline.fragmented.get());
        prop_assert_eq!(injected + made, came_out + dropped + cut + taken_along);
    }
}
