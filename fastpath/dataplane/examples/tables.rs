//! What the tables cost: `cargo run --release -p caracal-dataplane --example tables [lookups|judgements|five-tuples|
//! five-tuples-100k|changes]`; without a word all but the largest.
//!
//! Prints nanoseconds per lookup and judgement, and milliseconds per change, for the sizes that the budgets name. Times of
//! one thread on whatever machine this is; nothing is asserted.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use caracal_dataplane::table::{FlowDirection, FlowTuple, KernelRoute, Prefix, TableBuilder, Tables};
use caracal_plane_api as plane;
use caracal_plane_api::op::Op;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let only = std::env::args().nth(1);
    let wanted = |what: &str| only.as_deref().is_none_or(|only| only == what);
    if wanted("lookups") {
        lookups(1_000);
        lookups(900_000);
    }
    for rules in [100, 1_000, 10_000] {
        if wanted("judgements") {
            judgements(rules, Shape::SetPerRule)?;
            judgements(rules, Shape::PortPerRule)?;
        }
        if wanted("five-tuples") {
            five_tuples(rules)?;
        }
    }
    if only.as_deref() == Some("five-tuples-100k") {
        five_tuples(100_000)?;
    }
    if wanted("changes") {
        changes()?;
    }
    Ok(())
}

/// A small generator, the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as u32
    }

    fn below(&mut self, bound: u32) -> u32 {
        self.next() % bound
    }
}

fn builder() -> TableBuilder {
    TableBuilder::new(1, Box::new(|_, _| 0))
}

fn v4(bits: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(bits))
}

/// Many short rounds, so that some of them are not interrupted.
fn each(name: &str, count: usize, mut run: impl FnMut(usize)) {
    let count = count / 16;
    let mut rounds: Vec<f64> = (0..101)
        .map(|_| {
            let start = Instant::now();
            (0..count).for_each(&mut run);
            start.elapsed().as_nanos() as f64 / count as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    println!("{name:<72} {:8.1} … {:.1} ns", rounds[0], rounds[rounds.len() / 2]);
}

fn once<T>(name: &str, run: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = run();
    println!("{name:<72} {:8.3} ms", start.elapsed().as_secs_f64() * 1e3);
    result
}

/// Memory of this process, as the kernel counts it.
fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) / 1024.0
}

/// Routes with the lengths of an Internet table: most /24, the rest /16 to /23.
fn lookups(routes: usize) {
    let mut random = Random(7);
    let mut builder = builder();
    let mut prefixes = std::collections::BTreeSet::new();
    while prefixes.len() < routes {
        let length = if random.below(10) < 6 { 24 } else { 16 + random.below(8) as u8 };
        let address = 0x0100_0000 + random.below(0xDE00_0000);
        prefixes.insert(Prefix::new(v4(address), length));
    }
    let via = |prefix: Prefix, i: u32| {
        let gateway = Some(v4(0xC000_0201 + i % 16));
        KernelRoute { prefix, ifindex: 2, gateway, mtu: 1500, source: None }
    };
    let list: Vec<KernelRoute> = prefixes.iter().zip(0..).map(|(prefix, i)| via(*prefix, i)).collect();
    once(&format!("{routes} routes: all at once"), || builder.kernel_routes(&list));
    let tables = once(&format!("{routes} routes: tables"), || builder.build());
    println!("{:<72} {:8.1} MiB", format!("{routes} routes: memory"), tables.fib.bytes() as f64 / 1048576.0);
    let resident = resident_mib();
    println!(
        "{:<72} {resident:8.1} MiB",
        format!("{routes} routes: whole process, with the controller's part")
    );
    let routed: Vec<IpAddr> = (0..1 << 16)
        .map(|_| match list[random.next() as usize % list.len()].prefix.address() {
            IpAddr::V4(address) => v4(address.to_bits() | random.below(256)),
            other => other,
        })
        .collect();
    each(&format!("{routes} routes: lookup of a routed address, 64k of them"), 1 << 20, |i| {
        black_box(tables.fib.lookup(black_box(routed[i & 0xFFFF])));
    });
    let mut changed = tables;
    let mut worst = 0f64;
    let start = Instant::now();
    for i in 0..200 {
        let began = Instant::now();
        builder.set_kernel_route(via(list[random.next() as usize % list.len()].prefix, i + 7));
        changed = builder.build();
        worst = worst.max(began.elapsed().as_secs_f64() * 1e3);
    }
    let mean = start.elapsed().as_secs_f64() * 1e3 / 200.0;
    println!(
        "{:<72} {mean:8.3} ms (worst {worst:.3})",
        format!("{routes} routes: one changed and published")
    );
    black_box(changed);
}

#[derive(Debug, Clone, Copy)]
enum Shape {
    /// Every rule has peers of its own, as NetworkPolicies have.
    SetPerRule,
    /// Every rule has a port of its own, and the same peers.
    PortPerRule,
}

fn address_member(bits: u32, length: u32) -> plane::Member {
    let prefix = plane::Prefix { address: bits.to_be_bytes().to_vec(), length };
    plane::Member { prefix: Some(prefix), protocol: 0, port: 0 }
}

fn transaction(ops: Vec<Op>) -> plane::Transaction {
    let ops = ops.into_iter().map(|op| plane::Op { op: Some(op) }).collect();
    plane::Transaction { seq: 1, ops, in_sync: false }
}

fn policy_id(name: &str) -> plane::PolicyId {
    plane::PolicyId { kind: "NetworkPolicy".into(), namespace: "bench".into(), name: name.into() }
}

fn allow(sets: Vec<String>, port: u32) -> plane::Rule {
    let ports = vec![plane::PortRange { first: port, last: port }];
    plane::Rule {
        action: plane::Action::Allow.into(),
        protocol: 6,
        source: Some(plane::Entity { in_all: sets, ..Default::default() }),
        destination: Some(plane::Entity { ports, ..Default::default() }),
        ..Default::default()
    }
}

fn endpoint(id: &str, address: u32, policies: &[String]) -> Op {
    let tier = plane::TierBinding {
        tier: "default".into(),
        default_action: plane::Action::Deny.into(),
        policies: policies.iter().map(|name| policy_id(name)).collect(),
    };
    Op::Endpoint(plane::Endpoint {
        id: id.into(),
        interface: format!("cali-{id}"),
        addresses: vec![address.to_be_bytes().to_vec()],
        ingress: vec![tier],
        ..Default::default()
    })
}

fn policy(name: &str, ingress: Vec<plane::Rule>) -> Op {
    Op::Policy(plane::Policy { id: Some(policy_id(name)), tier: "default".into(), ingress, egress: vec![] })
}

const PODS: u32 = 0x0AF4_0000;

fn judgements(rules: u32, shape: Shape) -> Result<(), Box<dyn std::error::Error>> {
    let mut builder = builder();
    let mut ops: Vec<Op> = (0..rules)
        .map(|i| {
            let members = vec![address_member(PODS + 2 * i, 32), address_member(PODS + 2 * i + 1, 32)];
            Op::IpSet(plane::IpSet { id: format!("s{i}"), members, hosts: None })
        })
        .collect();
    let rule = |i: u32| match shape {
        Shape::SetPerRule => allow(vec![format!("s{i}")], 8080),
        Shape::PortPerRule => allow(vec![], 1024 + 3 * i),
    };
    ops.push(policy("all", (0..rules).map(rule).collect()));
    ops.push(endpoint("pod", PODS + 0xFFFF, &["all".into()]));
    let transaction = transaction(ops);
    once(&format!("{rules} rules, {shape:?}: apply"), || builder.apply(&transaction))?;
    let tables = once(&format!("{rules} rules, {shape:?}: build"), || builder.build());
    let Some((_, pod)) = tables.endpoints.iter().next() else { return Ok(()) };
    let mut random = Random(3);
    let flows: Vec<FlowTuple> = (0..1 << 14)
        .map(|_| FlowTuple {
            protocol: 6,
            peer_address: v4(PODS + random.below(2 * rules + rules / 5)),
            peer_port: 40_000,
            local_address: v4(PODS + 0xFFFF),
            local_port: match shape {
                Shape::SetPerRule => 8080,
                Shape::PortPerRule => (1024 + random.below(3 * rules)) as u16,
            },
            icmp: None,
            direction: FlowDirection::Ingress,
        })
        .collect();
    each(&format!("{rules} rules, {shape:?}: class and judgement, 16k flows"), 1 << 20, |i| {
        let flow = black_box(&flows[i & 0x3FFF]);
        let class = tables.policy.class_of(flow.peer_address);
        black_box(tables.policy.judge(pod.policy_in, class, flow));
    });
    Ok(())
}

/// Plain five-tuple rules, as packet classifiers are measured with: every rule has a net of the peer's, one of the local
/// side, and ports on either. 64 pods of this node meet all of them.
fn five_tuples(rules: u32) -> Result<(), Box<dyn std::error::Error>> {
    const BLOCK: u32 = 0x0AF4_0100;
    let mut random = Random(rules.into());
    let mut sets = std::collections::BTreeSet::new();
    let mut net = |random: &mut Random, address: u32, lengths: &[u8]| {
        let prefix = Prefix::new(v4(address), lengths[random.below(lengths.len() as u32) as usize]);
        sets.insert(prefix);
        prefix
    };
    let mut list: Vec<(Prefix, plane::Rule)> = Vec::new();
    for _ in 0..rules {
        let address =
            if random.below(2) == 0 { 0x0A00_0000 | random.next() >> 7 } else { random.next() << 1 };
        let source = net(&mut random, address, &[8, 12, 16, 20, 22, 24, 24, 24, 26, 28, 30, 32, 32, 32, 32]);
        let address = BLOCK | random.below(256);
        let destination = net(&mut random, address, &[24, 24, 25, 26, 27, 28, 30, 32]);
        let range = |first: u32, last: u32| vec![plane::PortRange { first, last: last.min(65535) }];
        let source_ports = match random.below(10) {
            0 => range(1024, 65535),
            1 => {
                let first = random.below(64_000) + 1024;
                range(first, first + 1000)
            }
            _ => vec![],
        };
        let popular = [22, 53, 80, 443, 3306, 5432, 6379, 8080, 8443, 9090, random.below(65_536)];
        let port = popular[random.below(11) as usize];
        let ports = match random.below(10) {
            0 => vec![],
            1 | 2 => range(port, port + 99),
            _ => range(port, port),
        };
        let entity = |net: Prefix, ports| {
            Some(plane::Entity { in_all: vec![net.to_string()], ports, ..Default::default() })
        };
        let action = if random.below(2) == 0 { plane::Action::Allow } else { plane::Action::Deny };
        list.push((
            source,
            plane::Rule {
                action: action.into(),
                protocol: if random.below(3) < 2 { 6 } else { 17 },
                source: entity(source, source_ports),
                destination: entity(destination, ports),
                ..Default::default()
            },
        ));
    }
    let member = |prefix: &Prefix| match prefix.address() {
        IpAddr::V4(address) => address_member(address.to_bits(), prefix.length().into()),
        IpAddr::V6(_) => plane::Member::default(),
    };
    let mut ops: Vec<Op> = sets
        .iter()
        .map(|net| Op::IpSet(plane::IpSet { id: net.to_string(), members: vec![member(net)], hosts: None }))
        .collect();
    let sources: Vec<Prefix> = list.iter().map(|(source, _)| *source).collect();
    ops.push(policy("all", list.into_iter().map(|(_, rule)| rule).collect()));
    ops.extend((0..64).map(|i| endpoint(&format!("pod{i}"), BLOCK + 4 * i + 1, &["all".into()])));
    let before = resident_mib();
    let mut builder = builder();
    let transaction = transaction(ops);
    once(&format!("{rules} five-tuple rules, 64 pods: apply"), || builder.apply(&transaction))?;
    let tables = once(&format!("{rules} five-tuple rules, 64 pods: build"), || builder.build());
    println!(
        "{:<72} {:8.1} MiB",
        format!("{rules} five-tuple rules, 64 pods: memory"),
        resident_mib() - before
    );
    let pods: Vec<_> = tables.endpoints.iter().collect();
    let flows: Vec<_> = (0..1 << 16)
        .filter_map(|_| {
            let (_, pod) = pods[random.below(64) as usize];
            let net = sources[random.below(rules) as usize];
            let IpAddr::V4(first) = net.address() else { return None };
            let bits = first.to_bits()
                | (random.next() << 1) & u32::MAX.checked_shr(net.length().into()).unwrap_or(0);
            let flow = FlowTuple {
                protocol: if random.below(3) < 2 { 6 } else { 17 },
                peer_address: v4(bits),
                peer_port: random.below(65_536) as u16,
                local_address: pod.addresses.iter().next()?,
                local_port: [22, 53, 80, 443, 8080, 9090][random.below(6) as usize],
                icmp: None,
                direction: FlowDirection::Ingress,
            };
            Some((pod.policy_in, flow))
        })
        .collect();
    each(&format!("{rules} five-tuple rules, 64 pods: class alone"), 1 << 20, |i| {
        black_box(tables.policy.class_of(flows[i & 0xFFFF].1.peer_address));
    });
    let mut classes = [caracal_dataplane::table::ClassId::default(); 64];
    each(&format!("{rules} five-tuple rules, 64 pods: class and judgement in batches of 64"), 1 << 14, |i| {
        let batch = &flows[(64 * i) & 0xFFC0..][..64];
        for (class, (_, flow)) in classes.iter_mut().zip(batch) {
            *class = tables.policy.class_of(flow.peer_address);
        }
        for (class, (list, flow)) in classes.iter().zip(batch) {
            black_box(tables.policy.judge(*list, *class, flow));
        }
    });
    let mut judgements = [caracal_dataplane::table::Judgement::default(); 64];
    each(&format!("{rules} five-tuple rules, 64 pods: the same by judge_batch"), 1 << 14, |i| {
        let batch = &flows[(64 * i) & 0xFFC0..][..64];
        for (class, (_, flow)) in classes.iter_mut().zip(batch) {
            *class = tables.policy.class_of(flow.peer_address);
        }
        tables.policy.judge_batch(batch, &classes, &mut judgements);
        black_box(&judgements);
    });
    Ok(())
}

fn publish(
    name: &str,
    builder: &mut TableBuilder,
    ops: Vec<Op>,
) -> Result<std::sync::Arc<Tables>, Box<dyn std::error::Error>> {
    let transaction = transaction(ops);
    once(&format!("{name}: apply"), || builder.apply(&transaction))?;
    Ok(once(&format!("{name}: build"), || builder.build()))
}

fn changes() -> Result<(), Box<dyn std::error::Error>> {
    let before = resident_mib();
    let mut builder = builder();
    // 5,000 policies in 250 applications of 20, on 250 local pods; 50,000 pods elsewhere in sets of 100 and of 1,000.
    let hosts = |range: std::ops::Range<u32>| {
        Some(plane::Hosts { v4: range.flat_map(|i| (PODS + i).to_be_bytes()).collect(), v6: vec![] })
    };
    let set =
        |name: String, range| Op::IpSet(plane::IpSet { id: name, members: vec![], hosts: hosts(range) });
    let mut ops: Vec<Op> = (0..500).map(|i| set(format!("s{i}"), 100 * i..100 * i + 100)).collect();
    ops.extend((0..50).map(|i| set(format!("t{i}"), 1000 * i..1000 * i + 1000)));
    ops.push(set("wide".into(), 0..0));
    ops.extend((0..5000).map(|i| {
        let sets = vec![if i == 0 { "wide".into() } else { format!("s{}", i % 500) }];
        policy(&format!("p{i}"), vec![allow(sets, 80), allow(vec![format!("t{}", i % 50)], 8080 + i)])
    }));
    let policies_of = |app: u32| (0..20).map(|i| format!("p{}", app * 20 + i)).collect::<Vec<_>>();
    ops.extend((0..250).map(|i| endpoint(&format!("pod{i}"), PODS + 0xF000 + i, &policies_of(i))));
    publish("250 pods × 5,000 policies × 50,000 addresses: everything", &mut builder, ops)?;
    println!("{:<72} {:8.1} MiB", "  memory", resident_mib() - before);

    let mut delta = |name: &str, id: &str, range, members| {
        let delta =
            plane::IpSetDelta { id: id.into(), add: members, add_hosts: hosts(range), ..Default::default() };
        publish(name, &mut builder, vec![Op::IpSetDelta(delta)]).map(|_| ())
    };
    delta("  a remote pod joins a set", "s1", 0xE000..0xE001, vec![])?;
    delta("  another", "s2", 0xE001..0xE002, vec![])?;
    delta("  a set gets 50,000 members", "wide", 0..50_000, vec![])?;
    delta("  a set gets 0.0.0.0/0", "s2", 0..0, vec![address_member(0, 0)])?;
    let mut random = Random(5);
    let nets: Vec<plane::Member> = (0..100_000)
        .map(|_| {
            let length = 12 + random.below(21);
            address_member((0x0B00_0000 | random.next() >> 7) & (u32::MAX << (32 - length)), length)
        })
        .collect();
    delta("  a set gets 100,000 overlapping nets", "s3", 0..0, nets)?;
    publish("  a local pod comes", &mut builder, vec![endpoint("new", PODS + 0xFF00, &policies_of(3))])?;
    publish("  a policy changes", &mut builder, vec![policy("p21", vec![allow(vec!["s7".into()], 443)])])?;
    println!("{:<72} {:8.1} MiB", "  memory", resident_mib() - before);
    let mut alone = self::builder();
    let one = policy("one", vec![allow(vec![], 80)]);
    let pods = (0..250).map(|i| endpoint(&format!("pod{i}"), PODS + i, &["one".into()]));
    publish("250 pods under one policy: everything", &mut alone, std::iter::once(one).chain(pods).collect())?;
    publish("  the policy changes", &mut alone, vec![policy("one", vec![allow(vec![], 443)])])?;
    Ok(())
}
