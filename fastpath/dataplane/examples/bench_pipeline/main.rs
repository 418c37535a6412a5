//! The pipeline in memory: nanoseconds a packet, without any I/O. `scripts/bench` runs it; by hand:
//! `cargo run --release -p caracal-dataplane --example bench_pipeline -- --cpu 3`.
//!
//! ```text
//!   not timed                  timed                                              not timed
//!   8,000 frames of 2 KiB ──►  Engine::receive_from, batches of 64 ── flush ──►  counted, and the frames put back
//!   written and injected       (the production engine, tables and stages)
//! ```
//!
//! A frame that does not come out where it must ends the benchmark: a figure for packets that were dropped is none.
//! Scenarios take turns round by round, with a fixed loop of arithmetic in every round that tells whether the machine
//! itself was as fast then as in the others.
//!
//! * `mem/ports-only`: the same frames from one memory port to another, with a look at their headers and nothing else:
//!   what of the other figures is not the pipeline's.
//! * `mem/vxlan-decap-established`: out of the tunnel to 100 pods, 100,000 TCP connections, each packet of a random one.
//! * `mem/vxlan-encap-established`: the same connections, from the pods into the tunnel; batches come from one pod each.
//! * `mem/established/no-change` and `mem/established/10000-changes-s`: the same way in, while a pod joins or leaves a
//!   set that policy names every 100 µs of the worker's time, a quarter of them peers of these connections. In both rows
//!   the controller does that work between the timed parts, on this same core, so both pay for what it does to the
//!   caches; in the first row to another node's tables.
//! * `mem/first-packet/no-change` and `mem/first-packet/10000-changes-s`: the same two, every packet the first of a UDP flow.
//! * `mem/first-packet/rules-N`: out of the tunnel, every packet the first of a UDP flow; N rules of four shapes, and
//!   the one that allows the packet a random one of them. Whole path, with the flow's insertion.
//! * `mem/verdict-one-by-one/rules-N`: of that, the verdict alone, not in batches: the peer's class and the judgement.
//! * `mem/mode/…`: see [`modes`]; only when they are asked for by `--only mem/mode`.

mod bench;
mod frames;
mod modes;
mod world;

use std::cell::RefCell;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use caracal_dataplane::packet::Packet;
use caracal_dataplane::port::{HEADROOM, MemoryPort, Port};
use caracal_dataplane::sim::PortName;
use caracal_dataplane::table::{FlowDirection, FlowTuple};
use caracal_plane_api::op::Op as Kind;
use caracal_plane_api::{self as plane, Op};
use caracal_wire::Protocol;
use caracal_wire::tcp::Flags;
use caracal_xsk::FramePool;
use clap::Parser;

use crate::bench::{BATCH, BURST, Bench, FRAMES};
use crate::frames::{SERVICE, inward_tcp, inward_udp, outward_tcp};
use crate::modes::{Carried, MODES, PARTS};
use crate::world::{
    PODS, REMOTE_BLOCK, REMOTE_BLOCK_LENGTH, allowed_by, endpoint, member, pod_address, policy, policy_id,
    policy_ids, rule, rule_set, with_pods,
};

/// What the pipeline costs in memory, as JSON.
#[derive(Parser)]
struct Args {
    /// How often each scenario is measured
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Run on this CPU only
    #[arg(long)]
    cpu: Option<usize>,
    /// Bursts of 8,000 packets in a measurement
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=30))]
    bursts: u32,
    /// Only scenarios whose names begin with this, as "mem/vxlan-decap": for profilers
    #[arg(long)]
    only: Option<String>,
    /// That is a whole name
    #[arg(long, requires = "only")]
    exact: bool,
}

const REMOTES: u32 = 1000;
const FLOWS: u32 = PODS * REMOTES;
const RULE_COUNTS: [u32; 3] = [100, 1_000, 10_000];
const VERDICTS: usize = 1 << 18;

fn main() -> anyhow::Result<()> {
    // As the fastpath itself does.
    if let Err(error) = caracal_dataplane::huge_pages::ask() {
        eprintln!("bench_pipeline: goes on with small pages: {error}");
    }
    let args = Args::parse();
    if let Some(id) = args.cpu
        && !core_affinity::set_for_current(core_affinity::CoreId { id })
    {
        bail!("cannot run on CPU {id}");
    }
    let mut scenarios: Vec<Scenario> =
        vec![Scenario::new("mem/calibration", "ns/iteration", Box::new(|| Ok(calibrate())))];
    let bursts = args.bursts;
    let mut ports = PortsOnly::new()?;
    scenarios.push(Scenario::new("mem/ports-only", "ns/packet", Box::new(move || ports.run(bursts))));
    let wants = |name: &str| match &args.only {
        Some(only) if args.exact => name == only,
        Some(only) => name.starts_with(only.as_str()),
        None => true,
    };
    // Whether any name that begins so is wanted: what is not costs no setting up.
    let wants_of = |prefix: &str| wants(prefix) || args.only.as_ref().is_some_and(|o| o.starts_with(prefix));
    let ways = [("decap", Way::Decapsulate), ("encap", Way::Encapsulate)];
    for (way_name, way) in ways {
        let name = format!("mem/vxlan-{way_name}-established");
        if wants(&name) {
            let mut established = Established::new()?;
            let measure = Box::new(move || established.run(way, bursts));
            scenarios.push(Scenario::new(&name, "ns/packet", measure));
        }
    }
    let changing = [("no-change", false), ("10000-changes-s", true)];
    for (part, of) in [("established", Flows::Open), ("first-packet", Flows::New)] {
        for (name, changes) in changing {
            let name = format!("mem/{part}/{name}");
            if wants(&name) {
                let mut changing = Changing::new(of, changes)?;
                scenarios.push(Scenario::new(&name, "ns/packet", Box::new(move || changing.run(bursts))));
            }
        }
    }
    for rules in RULE_COUNTS {
        let names = ["first-packet", "verdict-one-by-one"].map(|part| format!("mem/{part}/rules-{rules}"));
        if !names.iter().any(|name| wants(name)) {
            continue;
        }
        let start = Instant::now();
        let mut first = FirstPackets::new(rules)?;
        eprintln!("bench_pipeline: {rules} rules compiled in {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
        let mut verdicts = Verdicts::new(rules)?;
        scenarios.push(Scenario::new(&names[0], "ns/packet", Box::new(move || first.run(bursts))));
        scenarios.push(Scenario::new(&names[1], "ns/verdict", Box::new(move || Ok(verdicts.run()))));
    }
    let modes =
        if args.only.as_ref().is_some_and(|only| only.starts_with("mem/mode")) { &MODES[..] } else { &[] };
    for &mode in modes.iter().filter(|mode| wants_of(&format!("mem/mode/{}/", mode.name()))) {
        let carried = Carried::new(mode).with_context(|| format!("mem/mode/{}", mode.name()))?;
        let carried = Rc::new(RefCell::new(carried));
        for (name, part) in PARTS {
            let carried = Rc::clone(&carried);
            scenarios.push(Scenario::new(
                &format!("mem/mode/{}/{name}", mode.name()),
                "ns/packet",
                Box::new(move || carried.borrow_mut().run(part, bursts)),
            ));
        }
    }
    scenarios.retain(|scenario| wants(&scenario.name));
    // The first round warms caches and tables, and is thrown away.
    for round in 0..=args.rounds {
        for scenario in &mut scenarios {
            let ns = (scenario.measure)().with_context(|| scenario.name.clone())?;
            if round > 0 {
                scenario.rounds.push(ns);
            }
        }
    }
    print_json(&scenarios);
    Ok(())
}

struct Scenario {
    name: String,
    unit: &'static str,
    measure: Box<dyn FnMut() -> anyhow::Result<f64>>,
    rounds: Vec<f64>,
}

impl Scenario {
    fn new(name: &str, unit: &'static str, measure: Box<dyn FnMut() -> anyhow::Result<f64>>) -> Self {
        Scenario { name: name.into(), unit, measure, rounds: Vec::new() }
    }
}

fn print_json(scenarios: &[Scenario]) {
    println!("[");
    for (i, scenario) in scenarios.iter().enumerate() {
        let mut sorted = scenario.rounds.clone();
        sorted.sort_by(f64::total_cmp);
        let values: Vec<String> = scenario.rounds.iter().map(|ns| format!("{ns:.3}")).collect();
        println!(
            r#"  {{"name": "{}", "subject": "caracal", "metric": "time", "unit": "{}", "min": {:.3}, "median": {:.3}, "max": {:.3}, "rounds": {}, "values": [{}]}}{}"#,
            scenario.name,
            scenario.unit,
            sorted.first().copied().unwrap_or_default(),
            sorted.get(sorted.len() / 2).copied().unwrap_or_default(),
            sorted.last().copied().unwrap_or_default(),
            sorted.len(),
            values.join(", "),
            if i + 1 < scenarios.len() { "," } else { "" }
        );
    }
    println!("]");
}

/// A chain of dependent multiplications: nothing to be had by caches, prefetch or a quieter neighbour's memory traffic.
fn calibrate() -> f64 {
    const ITERATIONS: u32 = 4_000_000;
    let mut random = Random(1);
    let start = Instant::now();
    for _ in 0..ITERATIONS {
        // Looked at every time, or the compiler would make one multiplication of several.
        random.0 = black_box(random.0);
        random.next();
    }
    black_box(random.0);
    start.elapsed().as_nanos() as f64 / f64::from(ITERATIONS)
}

/// A small generator, the same in every run.
pub struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u32) -> u32 {
        self.next() % bound
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Decapsulate,
    Encapsulate,
}

/// Two ports and no pipeline.
struct PortsOnly {
    pool: FramePool,
    from: MemoryPort,
    to: Port,
    frames: Vec<Vec<u8>>,
}

impl PortsOnly {
    fn new() -> anyhow::Result<Self> {
        Ok(PortsOnly {
            pool: FramePool::heap(FRAMES),
            from: MemoryPort::default(),
            to: Port::Memory(MemoryPort::default()),
            frames: (0..BURST as u32).map(|flow| inward_tcp(flow, Flags::ACK)).collect::<Result<_, _>>()?,
        })
    }

    fn run(&mut self, bursts: u32) -> anyhow::Result<f64> {
        let mut time = Duration::ZERO;
        let mut boxes = Vec::new();
        let mut batch: Vec<Packet> = Vec::with_capacity(BATCH);
        for _ in 0..bursts {
            for bytes in &self.frames {
                let mut frame = self.pool.take().context("there is no room for a frame")?;
                frame.reset(HEADROOM);
                frame.append(bytes.len()).context("there is no room in a frame")?.copy_from_slice(bytes);
                self.from.inject(Packet::new(frame));
            }
            let mut from = Port::Memory(std::mem::take(&mut self.from));
            let start = Instant::now();
            while from.receive(&mut self.pool, &mut boxes, BATCH, |packet| batch.push(packet)) > 0 {
                for packet in batch.drain(..) {
                    // Outer and inner addresses: two cache lines, as any forwarder must read.
                    let bytes = packet.head.data();
                    black_box((bytes.get(30), bytes.get(80)));
                    if self.to.transmit(packet, &mut self.pool, &mut boxes).is_err() {
                        bail!("a memory port refused a packet");
                    }
                }
            }
            time += start.elapsed();
            if let Port::Memory(from) = from {
                self.from = from;
            }
            while let Port::Memory(to) = &mut self.to
                && let Some(packet) = to.sent()
            {
                packet.release(&mut self.pool, &mut boxes);
            }
        }
        Ok(per_packet(time, bursts))
    }
}

/// A hundred rules, then the one that allows the connections; and the policies that they are in.
fn established_rules() -> (Vec<Kind>, Vec<plane::PolicyId>) {
    let rules = 100;
    let mut ops = rule_set(rules);
    let last = plane::PolicyId { name: "p-last".into(), ..policy_id(0) };
    let peers = vec![member(REMOTE_BLOCK.to_bits(), REMOTE_BLOCK_LENGTH)];
    ops.push(Kind::IpSet(plane::IpSet { id: "peers".into(), members: peers, hosts: None }));
    let rule = rule(Protocol::TCP, &["peers"], &[], &[(SERVICE, SERVICE)]);
    ops.push(policy(last.clone(), vec![rule]));
    let mut policies = policy_ids(rules);
    policies.push(last);
    (ops, policies)
}

/// Connections that are open.
struct Established {
    bench: Bench,
    inward: Vec<Vec<u8>>,
    outward: Vec<Vec<u8>>,
    random: Random,
}

impl Established {
    fn new() -> anyhow::Result<Self> {
        let (ops, policies) = established_rules();
        let mut bench = Bench::new(with_pods(ops, &policies))?;
        let open = |flags| (0..FLOWS).map(|flow| inward_tcp(flow, flags)).collect::<anyhow::Result<Vec<_>>>();
        let answer =
            |flags| (0..FLOWS).map(|flow| outward_tcp(flow, flags)).collect::<anyhow::Result<Vec<_>>>();
        let data = Flags(Flags::ACK.0 | Flags::PSH.0);
        let (syn, syn_ack) = (open(Flags::SYN)?, answer(Flags(Flags::SYN.0 | Flags::ACK.0))?);
        let (inward, outward) = (open(data)?, answer(data)?);
        for from in (0..FLOWS as usize).step_by(BURST) {
            let flows = from..(from + BURST).min(FLOWS as usize);
            bench.receive_inward(syn[flows.clone()].iter().map(Vec::as_slice))?;
            let groups: Vec<_> =
                flows.clone().map(|f| (f % PODS as usize, vec![syn_ack[f].as_slice()])).collect();
            bench.receive_outward(&groups)?;
            bench.receive_inward(inward[flows].iter().map(Vec::as_slice))?;
        }
        Ok(Established { bench, inward, outward, random: Random(11) })
    }

    fn run(&mut self, way: Way, bursts: u32) -> anyhow::Result<f64> {
        let mut time = Duration::ZERO;
        for _ in 0..bursts {
            let random = &mut self.random;
            time += match way {
                Way::Decapsulate => {
                    let flows: Vec<&[u8]> =
                        (0..BURST).map(|_| self.inward[random.below(FLOWS) as usize].as_slice()).collect();
                    self.bench.receive_inward(flows.into_iter())?
                }
                Way::Encapsulate => {
                    let groups: Vec<_> = (0..BURST / BATCH)
                        .map(|_| {
                            let pod = random.below(PODS);
                            let mut frame =
                                || self.outward[(random.below(REMOTES) * PODS + pod) as usize].as_slice();
                            (pod as usize, (0..BATCH).map(|_| frame()).collect())
                        })
                        .collect();
                    self.bench.receive_outward(&groups)?
                }
            };
        }
        Ok(per_packet(time, bursts))
    }
}

/// Whose packets come while pods change.
#[derive(Clone, Copy, PartialEq)]
enum Flows {
    /// Connections that are open.
    Open,
    /// Every packet is the first of its flow.
    New,
}

/// Packets while pods change.
struct Changing {
    bench: Bench,
    random: Random,
    /// Of connections that are open; none: every packet is the first of its flow.
    open: Vec<Vec<u8>>,
    /// Whose tables change in place of the packets' node, where that one's do not.
    other: Option<Bench>,
    members: Vec<bool>,
}

/// The worker's time between two changes: 10,000 a second.
const CHANGE_INTERVAL: Duration = Duration::from_micros(100);
/// Pods that change: the packets' peers are the first quarter.
const CHANGING: u32 = 4 * REMOTES;

impl Changing {
    fn new(flows: Flows, changes: bool) -> anyhow::Result<Self> {
        let mut other = if changes { None } else { Some(Bench::new(with_pods(established_rules().0, &[]))?) };
        let (mut bench, open, random) = match flows {
            Flows::Open => {
                let Established { bench, inward, random, .. } = Established::new()?;
                (bench, inward, random)
            }
            Flows::New => (Bench::new(with_pods(established_rules().0, &[]))?, Vec::new(), Random(11)),
        };
        // Policy names the set that changes, though no port of the packets'.
        let named = plane::PolicyId { name: "p-changing".into(), ..policy_id(0) };
        let set = Kind::IpSet(plane::IpSet { id: "changing".into(), ..Default::default() });
        let rules = vec![
            rule(Protocol::TCP, &["changing"], &[], &[(1, 1)]),
            rule(Protocol::UDP, &["peers"], &[], &[(SERVICE, SERVICE)]),
        ];
        let ops = [set, policy(named.clone(), rules)];
        let mut policies = established_rules().1;
        policies.insert(0, named);
        for bench in [Some(&mut bench), other.as_mut()].into_iter().flatten() {
            let pods = (0..PODS).map(|pod| endpoint(pod, &policies));
            let all: Vec<Op> = ops.iter().cloned().chain(pods).map(|op| Op { op: Some(op) }).collect();
            bench.node.apply(&all)?;
        }
        Ok(Changing { bench, random, open, other, members: vec![false; CHANGING as usize] })
    }

    fn run(&mut self, bursts: u32) -> anyhow::Result<f64> {
        let mut time = Duration::ZERO;
        let mut until_change = CHANGE_INTERVAL;
        let mut new = 0;
        for _ in 0..bursts {
            for _ in 0..BURST {
                if self.open.is_empty() {
                    let source = Ipv4Addr::from_bits(REMOTE_BLOCK.to_bits() + 2 + new % REMOTES);
                    self.bench.inject(&PortName::Uplink, &inward_udp(new, source, SERVICE)?)?;
                    new += 1;
                } else {
                    let flow = self.random.below(FLOWS) as usize;
                    self.bench.inject(&PortName::Uplink, &self.open[flow])?;
                }
            }
            loop {
                let Bench { node, uplink, now, .. } = &mut self.bench;
                let engine = node.engine_mut();
                let start = Instant::now();
                engine.adopt();
                let came = engine.receive_from(*uplink, *now);
                engine.flush();
                let elapsed = start.elapsed();
                if came == 0 {
                    break;
                }
                time += elapsed;
                match until_change.checked_sub(elapsed) {
                    Some(rest) => until_change = rest,
                    None => {
                        until_change = CHANGE_INTERVAL;
                        self.change()?;
                    }
                }
            }
            let Bench { node, pods, .. } = &mut self.bench;
            let came: usize = pods.iter().map(|(name, _)| node.drain(name, usize::MAX, |_| ())).sum();
            self.bench.all_came(came, BURST)?;
        }
        if self.open.is_empty() {
            self.bench.forget_flows();
        }
        Ok(per_packet(time, bursts))
    }

    fn change(&mut self) -> anyhow::Result<()> {
        let pod = self.random.below(CHANGING);
        let is_member = &mut self.members[pod as usize];
        *is_member = !*is_member;
        let changed = vec![member(REMOTE_BLOCK.to_bits() + 2 + pod, 32)];
        let mut delta = plane::IpSetDelta { id: "changing".into(), ..Default::default() };
        if *is_member {
            delta.add = changed;
        } else {
            delta.remove = changed;
        }
        let bench = self.other.as_mut().unwrap_or(&mut self.bench);
        bench.node.publish(&[Op { op: Some(Kind::IpSetDelta(delta)) }])?;
        if let Some(other) = &mut self.other {
            other.node.engine_mut().adopt();
        }
        Ok(())
    }
}

/// Nanoseconds a packet, of so many bursts in that time.
pub fn per_packet(time: Duration, bursts: u32) -> f64 {
    time.as_nanos() as f64 / (f64::from(bursts) * BURST as f64)
}

/// Flows that are new.
struct FirstPackets {
    bench: Bench,
    rules: u32,
    random: Random,
}

impl FirstPackets {
    fn new(rules: u32) -> anyhow::Result<Self> {
        Ok(FirstPackets {
            bench: Bench::new(with_pods(rule_set(rules), &policy_ids(rules)))?,
            rules,
            random: Random(5),
        })
    }

    fn run(&mut self, bursts: u32) -> anyhow::Result<f64> {
        let mut time = Duration::ZERO;
        let mut flow = 0;
        for _ in 0..bursts {
            let mut frames = Vec::with_capacity(BURST);
            for _ in 0..BURST {
                let (source, port) = allowed_by(self.random.below(self.rules));
                frames.push(inward_udp(flow, source, port)?);
                flow += 1;
            }
            time += self.bench.receive_inward(frames.iter().map(Vec::as_slice))?;
        }
        self.bench.forget_flows();
        Ok(per_packet(time, bursts))
    }
}

/// Verdicts without packets.
struct Verdicts {
    bench: Bench,
    tuples: Vec<FlowTuple>,
}

impl Verdicts {
    fn new(rules: u32) -> anyhow::Result<Self> {
        let bench = Bench::new(with_pods(rule_set(rules), &policy_ids(rules)))?;
        let mut random = Random(3);
        let tuples = (0..1 << 14)
            .map(|_| {
                let (peer, local_port) = allowed_by(random.below(rules));
                FlowTuple {
                    protocol: Protocol::UDP.0,
                    peer_address: IpAddr::V4(peer),
                    peer_port: 40_000,
                    local_address: IpAddr::V4(pod_address(random.below(PODS))),
                    local_port,
                    icmp: None,
                    direction: FlowDirection::Ingress,
                }
            })
            .collect();
        Ok(Verdicts { bench, tuples })
    }

    fn run(&mut self) -> f64 {
        let tables = self.bench.node.tables();
        let Some((_, pod)) = tables.endpoints.iter().next() else { return 0.0 };
        let start = Instant::now();
        for tuple in self.tuples.iter().cycle().take(VERDICTS) {
            let tuple = black_box(tuple);
            let class = tables.policy.class_of(tuple.peer_address);
            black_box(tables.policy.judge(pod.policy_in, class, tuple));
        }
        start.elapsed().as_nanos() as f64 / VERDICTS as f64
    }
}
