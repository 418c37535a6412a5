//! The kernel's rules must say of the host's packets what the tables say: random worlds' host endpoints as the agent renders
//! them for nf_tables, and as [`Tables::judge_host`] reads them.
//!
//! What the kernel's rules say before any policy is no part of it: neighbor discovery, tunnels between nodes, connections that are known.

use std::net::IpAddr;

use caracal_agent::host_policy::{HostPolicy, Interfaces, render};
use caracal_calc::{CalcGraph, Update};
use caracal_dataplane::table::{
    FlowDirection, HostPacket as TableHostPacket, HostPath as TablePath, HostVerdict as TableVerdict,
    TableBuilder, Tables,
};
use caracal_model::case::HostPath;
use caracal_model::object::Object;
use caracal_nft::{Fate, Hook, Ruleset, State, Tested};
use caracal_plane_api::{self as plane, Op, Transaction, op};

use super::objects::world;
use super::packets::{Places, Question};
use super::random::Random;
use super::words::NODES;
use super::{PACKETS, decoded, effort, search};
use crate::reference::HostPacket;

/// The interface that holds an address that a host endpoint is bound by.
const HOLDER: &str = "held0";
/// An interface that no host endpoint names.
const OTHER: &str = "other0";
/// After this priority destinations are translated.
const TRANSLATED: i32 = -100;

fn ops_of(node: &str, objects: &[Object]) -> Vec<Op> {
    let mut graph = CalcGraph::new(node);
    objects.iter().cloned().for_each(|object| graph.apply(Update::Upsert(object)));
    graph.flush()
}

fn host_endpoints(ops: &[Op]) -> impl Iterator<Item = &plane::HostEndpoint> {
    ops.iter().filter_map(|op| match &op.op {
        Some(op::Op::HostEndpoint(host)) => Some(host),
        _ => None,
    })
}

/// Which interface holds which of the addresses that host endpoints are bound by.
fn held(ops: &[Op]) -> Interfaces {
    let addresses = host_endpoints(ops).filter_map(|host| host.interface.parse().ok());
    addresses.map(|address| (address, HOLDER.to_owned())).collect()
}

/// The interface that a host endpoint is about.
fn interface_of(ops: &[Op], name: &str) -> Option<String> {
    let host = host_endpoints(ops).find(|host| host.id == name)?;
    match host.interface.as_str() {
        "" => None,
        "*" => Some(OTHER.to_owned()),
        address if address.parse::<IpAddr>().is_ok() => Some(HOLDER.to_owned()),
        named => Some(named.to_owned()),
    }
}

/// What the rules say of a packet at the interface.
fn by_rules(rules: &Ruleset, interface: &str, asked: &HostPacket) -> TableVerdict {
    let packet = &asked.packet;
    let is_forwarded = matches!(asked.path, HostPath::ForwardIn | HostPath::ForwardOut);
    let is_egress = matches!(asked.path, HostPath::FromHost | HostPath::ForwardOut);
    // Nobody's policy is about loopback: so only one end of what is forwarded is judged.
    let at = |is_here: bool| if is_here { interface.to_owned() } else { "lo".to_owned() };
    let mut tested = Tested {
        input: at(!is_egress),
        output: at(is_egress),
        source: packet.source,
        destination: packet.destination,
        protocol: packet.protocol,
        source_port: packet.source_port.unwrap_or_default(),
        destination_port: packet.destination_port.unwrap_or_default(),
        icmp: packet.icmp.unwrap_or_default(),
        hop_limit: 64,
        is_for_this_host: !is_forwarded,
        state: State::New,
        mark: 0,
    };
    if let Some((address, port)) = asked.original {
        (tested.destination, tested.destination_port) = (address, port.unwrap_or_default());
    }
    let translate = |tested: &mut Tested| {
        (tested.destination, tested.destination_port) =
            (packet.destination, packet.destination_port.unwrap_or_default());
    };
    let first = if asked.path == HostPath::FromHost { Hook::Output } else { Hook::Prerouting };
    let is_accepted = |fate: Fate| fate == Fate::Accepted;
    let mut passes = is_accepted(rules.meet(first, ..TRANSLATED, &mut tested));
    translate(&mut tested);
    passes = passes && is_accepted(rules.meet(first, TRANSLATED.., &mut tested));
    let last = match asked.path {
        HostPath::ToHost => Some(Hook::Input),
        HostPath::FromHost => None,
        HostPath::ForwardIn | HostPath::ForwardOut => Some(Hook::Forward),
    };
    passes = passes && last.is_none_or(|hook| is_accepted(rules.meet(hook, .., &mut tested)));
    match (passes, tested.state) {
        (false, _) => TableVerdict::Deny,
        (true, State::Untracked) => TableVerdict::AllowUntracked,
        (true, _) => TableVerdict::Allow,
    }
}

fn by_tables(tables: &Tables, name: &str, asked: &HostPacket) -> Option<TableVerdict> {
    let (path, direction) = match asked.path {
        HostPath::ToHost => (TablePath::ToHost, FlowDirection::Ingress),
        HostPath::FromHost => (TablePath::FromHost, FlowDirection::Egress),
        HostPath::ForwardIn => (TablePath::ForwardIn, FlowDirection::Ingress),
        HostPath::ForwardOut => (TablePath::ForwardOut, FlowDirection::Egress),
    };
    let packet = TableHostPacket {
        path,
        flow: super::tables::tuple(&asked.packet, direction),
        original: asked.original.map(|(address, port)| (address, port.unwrap_or_default())),
    };
    Some(tables.judge_host(name, &packet)?.verdict)
}

/// Tunnels between nodes pass before any policy; which ends they have, the tables do not judge here.
fn is_tunnel(asked: &HostPacket) -> bool {
    let packet = &asked.packet;
    let ports = [packet.destination_port, asked.original.and_then(|(_, port)| port)];
    packet.protocol == 4 || packet.protocol == 17 && ports.contains(&Some(4789))
}

fn try_world(seed: u64, number: u64) -> Result<u64, String> {
    let mut random = Random::new(seed.wrapping_mul(0x1000_0003).wrapping_add(number));
    let objects = decoded(&world(&mut random));
    let places = Places::new(&objects);
    let mut asked = 0;
    for node in NODES {
        let ops = ops_of(node, &objects);
        let mut policy = HostPolicy::default();
        policy.apply(&ops);
        let mut builder = TableBuilder::new(1, Box::new(|_, _| 0));
        let transaction = Transaction { seq: 1, ops: ops.clone(), in_sync: true };
        builder.apply(&transaction).map_err(|error| format!("the tables refuse: {error}"))?;
        let tables = builder.build();
        let rules = render(&policy, &held(&ops));
        for question in (0..4 * PACKETS).flat_map(|_| places.ask(&mut random)) {
            let Question::Host { name, packet } = &question else { continue };
            let Some(interface) = interface_of(&ops, name) else { continue };
            let Some(production) = by_tables(&tables, name, packet) else { continue };
            if is_tunnel(packet) {
                continue;
            }
            let kernel = by_rules(&rules, &interface, packet);
            if kernel != production {
                return Err(format!(
                    "{question}\nthe tables: {production:?}\nthe kernel's rules at {interface}: {kernel:?}\n{rules}"
                ));
            }
            asked += 1;
        }
    }
    Ok(asked)
}

#[test]
fn the_kernels_rules_agree_with_the_tables() {
    let (worlds, packets) = search(effort(5), try_world).unwrap_or_else(|mismatch| panic!("{mismatch}"));
    assert!(worlds > 0 && packets > 0, "nothing was tried");
}
