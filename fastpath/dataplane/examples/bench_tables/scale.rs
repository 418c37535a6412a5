//! What tables of any size take, and what a lookup in them costs: one size a run, so that memory is this size's alone.

use std::error::Error;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use caracal_dataplane::table::{FibEntry, KernelRoute, TableBuilder, Tables};
use caracal_plane_api as plane;
use caracal_plane_api::op::Op;

use super::generate::{destinations, internet, some_flows};
use super::{BURST, Random, flows, measure};

const LOOKUPS: usize = 1 << 18;

/// What a size costs.
struct Cost {
    ns: f64,
    /// What lookups read.
    bytes: usize,
}

pub fn run(what: &str, count: u32) -> Result<(), Box<dyn Error>> {
    let before = resident()?;
    let (cost, held): (Cost, Box<dyn std::any::Any>) = match what {
        "routes" => routes(count),
        "flows" => of_flows(count)?,
        "endpoints" => endpoints(count)?,
        "nodes" => nodes(count)?,
        other => return Err(format!("nothing is called {other}").into()),
    };
    let resident = resident()?.saturating_sub(before);
    println!("{{\"ns\":{:.3},\"bytes\":{},\"resident\":{resident}}}", cost.ns, cost.bytes);
    drop(held);
    Ok(())
}

/// Destination → the entry, in batches as the pipeline has them; of an Internet table.
fn routes(count: u32) -> (Cost, Box<dyn std::any::Any>) {
    let mut builder = builder();
    let mut trace = Vec::new();
    {
        let prefixes = internet(count);
        let route = |(prefix, value): (&_, &u32)| KernelRoute {
            prefix: *prefix,
            ifindex: *value,
            gateway: None,
            mtu: 1500,
            source: None,
        };
        builder.kernel_routes(&prefixes.iter().map(route).collect::<Vec<_>>());
        trace.extend(destinations(&prefixes, LOOKUPS));
    }
    let tables = builder.build();
    let ns = find_all(&tables, &trace, |_, entry| {
        black_box(entry);
    });
    let cost = Cost { ns, bytes: tables.fib.bytes() };
    (cost, Box::new((builder, tables)))
}

/// A known flow, in batches.
fn of_flows(count: u32) -> Result<(Cost, Box<dyn std::any::Any>), Box<dyn Error>> {
    let keys: Vec<_> = some_flows(count).into_iter().map(flows::key).collect();
    let table = flows::table_of(&keys)?;
    let mut random = Random(8);
    let trace: Vec<_> = (0..LOOKUPS).map(|_| keys[random.below(count) as usize]).collect();
    let ns = measure(LOOKUPS, || {
        flows::look_up(&table, &trace, |index| {
            black_box(index);
        });
    });
    Ok((Cost { ns, bytes: table.memory_bytes() }, Box::new(table)))
}

/// Destination → the endpoint of this node that has it, with its policies.
fn endpoints(count: u32) -> Result<(Cost, Box<dyn std::any::Any>), Box<dyn Error>> {
    let address = |n: u32| 0x0A00_0000 + n;
    let id = |name: &str| plane::PolicyId {
        kind: "NetworkPolicy".into(),
        namespace: "bench".into(),
        name: name.into(),
    };
    let policies = 100;
    let mut ops: Vec<Op> = (0..policies)
        .map(|n| {
            Op::Policy(plane::Policy {
                id: Some(id(&format!("p{n}"))),
                tier: "default".into(),
                ingress: vec![plane::Rule {
                    action: plane::Action::Allow.into(),
                    protocol: 6,
                    ..Default::default()
                }],
                egress: vec![],
            })
        })
        .collect();
    ops.extend((0..count).map(|n| {
        let tier = plane::TierBinding {
            tier: "default".into(),
            default_action: plane::Action::Deny.into(),
            policies: vec![id(&format!("p{}", n % policies))],
        };
        Op::Endpoint(plane::Endpoint {
            id: format!("e{n}"),
            interface: format!("cali{n}"),
            addresses: vec![address(n).to_be_bytes().to_vec()],
            ingress: vec![tier],
            ..Default::default()
        })
    }));
    let (builder, tables) = built(ops)?;
    let trace = anywhere(count, address);
    let ns = find_all(&tables, &trace, |tables, entry| {
        let Some(FibEntry::Endpoint(index)) = entry else { return };
        black_box(tables.endpoints.get(*index).map(|endpoint| endpoint.policy_in));
    });
    let bytes = tables.fib.bytes();
    Ok((Cost { ns, bytes }, Box::new((builder, tables))))
}

/// Destination → the node behind whose tunnel it is.
fn nodes(count: u32) -> Result<(Cost, Box<dyn std::any::Any>), Box<dyn Error>> {
    let block = |n: u32| 0x0A00_0000 + 64 * n;
    let ops = (0..count).flat_map(|n| {
        let node = format!("n{n}");
        let tunnel = Op::Tunnel(plane::Tunnel {
            node: node.clone(),
            node_address: (0xC0A8_0000 + n).to_be_bytes().to_vec(),
            tunnel_address: block(n).to_be_bytes().to_vec(),
            tunnel_mac: vec![0x66, 0, 0, 0, (n >> 8) as u8, n as u8],
            ..Default::default()
        });
        let prefix = Some(plane::Prefix { address: block(n).to_be_bytes().to_vec(), length: 26 });
        let remote =
            plane::RemoteNode { node, encapsulation: plane::Encapsulation::Vxlan.into(), over_ipv6: false };
        [tunnel, Op::Route(plane::Route { prefix, target: Some(plane::route::Target::Remote(remote)) })]
    });
    let (builder, tables) = built(ops.collect())?;
    let trace = anywhere(64 * count, |n| 0x0A00_0000 + n);
    let ns = find_all(&tables, &trace, |tables, entry| {
        let Some(FibEntry::Tunnel { tunnel, .. }) = entry else { return };
        black_box(tables.tunnels.get(*tunnel));
    });
    let bytes = tables.fib.bytes();
    Ok((Cost { ns, bytes }, Box::new((builder, tables))))
}

fn find_all(tables: &Tables, trace: &[IpAddr], see: impl Fn(&Tables, Option<&FibEntry>)) -> f64 {
    measure(trace.len(), || {
        for burst in trace.chunks(BURST) {
            for address in burst {
                tables.fib.prefetch(*address);
            }
            for address in burst {
                see(tables, tables.fib.lookup(*address));
            }
        }
    })
}

fn anywhere(count: u32, address: impl Fn(u32) -> u32) -> Vec<IpAddr> {
    let mut random = Random(9);
    (0..LOOKUPS).map(|_| IpAddr::V4(Ipv4Addr::from_bits(address(random.below(count))))).collect()
}

fn builder() -> TableBuilder {
    TableBuilder::new(1, Box::new(|_, _| 0))
}

fn built(ops: Vec<Op>) -> Result<(TableBuilder, std::sync::Arc<Tables>), Box<dyn Error>> {
    let mut builder = builder();
    let ops = ops.into_iter().map(|op| plane::Op { op: Some(op) }).collect();
    builder.apply(&plane::Transaction { seq: 1, ops, in_sync: true })?;
    let tables = builder.build();
    Ok((builder, tables))
}

/// Memory of this process, in bytes, as the kernel counts it.
fn resident() -> Result<usize, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<usize>()? * 1024)
}
