//! Sends a case's host flows as real packets, and judges them by what the node's rules and its fastpath counted.
//!
//! ```text
//!   to-host      external, other node ───► uplink of the node ► nf_tables ► its kernel     rules of table inet caracal
//!   from-host    its kernel ► nf_tables ► uplink ───────────────► external, other node       that moved, by direction
//!   forward-in   external, other node ───► uplink ► fastpath ► pod of the node             the fastpath's rules and drop
//!   forward-out  pod of the node ► fastpath ► uplink ───────────► external, other node       reasons that moved
//! ```
//!
//! An answer is no proof that the packet met the host endpoint, and silence is none that policy denied it: for what ends or starts on the
//! host, a rule of that endpoint must have counted it.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use caracal_cni::netns;
use caracal_model::case::{
    Expect, HostPath, Place, World, WorldFlow, WorldHostFlow,
    report::{Observation, Observed},
};
use caracal_nft::{ListedRule, Nft, NftError};

use crate::{
    drive,
    error::LabError,
    evidence::Watchers,
    name::LabName,
    network::legs,
    probe::{Answer, Probe},
    state::State,
    stop::Stop,
};

/// The agents' table.
const TABLE: &str = "caracal";
/// How long an answer is waited for.
const TIMEOUT_MS: u64 = 700;
/// How long rules may take to come into force, and how long they must have been the same.
const IN_FORCE_LIMIT: Duration = Duration::from_secs(20);
const STILL: Duration = Duration::from_millis(150);
/// What the rule for packets of known connections says of itself.
const KNOWN_CONNECTION: &str = "of a connection that was allowed";

/// Sends every host flow; what was observed of each, in their order.
pub(crate) fn host_flows(state: &State, world: &World, stop: &Stop) -> Result<Vec<Observation>, LabError> {
    if world.host_flows.is_empty() {
        return Ok(Vec::new());
    }
    let name: LabName = state.name.parse()?;
    let mut watchers = Watchers::connect(state)?;
    let mut observations = Vec::with_capacity(world.host_flows.len());
    for (index, node) in world.nodes.iter().enumerate().filter(|(_, node)| !node.kernel) {
        let is_judged = |flow: &WorldHostFlow| {
            let by_its_table = matches!(flow.path, HostPath::ToHost | HostPath::FromHost);
            flow.node == index && by_its_table && flow.unsupported.is_none()
        };
        wait_until_still(&name.node(&node.name), world.host_flows.iter().any(is_judged), stop)?;
    }
    for flow in &world.host_flows {
        stop.check()?;
        let observation = match probe(&name, world, flow) {
            Err(reason) => Observation::new(Observed::Unsupported, reason),
            Ok(probe) => match flow.path {
                HostPath::ToHost | HostPath::FromHost => at_the_kernel(&name, world, flow, &probe),
                HostPath::ForwardIn | HostPath::ForwardOut => at_the_fastpath(flow, &probe, &mut watchers)?,
            },
        };
        observations.push(observation);
    }
    Ok(observations)
}

/// Whom host flows ask.
pub(crate) fn asked(world: &World) -> impl Iterator<Item = (Place, &WorldHostFlow)> {
    let tried = world.host_flows.iter().filter(|flow| flow.unsupported.is_none());
    tried.map(|flow| (who(world, flow.destination_address), flow))
}

/// Host flows are not tried before the node's table has been the same for a while. Where it judges flows it is there: its agent makes it at
/// once and whole, but perhaps late.
fn wait_until_still(node: &str, is_there: bool, stop: &Stop) -> Result<(), LabError> {
    let start = Instant::now();
    let mut seen = (BTreeMap::new(), start);
    while start.elapsed() < IN_FORCE_LIMIT && ((is_there && seen.0.is_empty()) || seen.1.elapsed() < STILL) {
        stop.check()?;
        let now: BTreeMap<_, _> = rules(node).unwrap_or_default().into_keys().map(|key| (key, ())).collect();
        if now != seen.0 {
            seen = (now, Instant::now());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// The probe of a flow; an error where such a packet cannot be sent here.
fn probe(name: &LabName, world: &World, flow: &WorldHostFlow) -> Result<Probe, String> {
    if let Some(reason) = &flow.unsupported {
        return Err(reason.clone());
    }
    let Some(node) = world.nodes.get(flow.node).filter(|node| !node.kernel) else {
        return Err("the node is Linux's own here: nobody puts policy in force on it".into());
    };
    if flow.original.is_some_and(|original| !is_node_port(world, flow, original)) {
        return Err(
            "the lab sends to an original destination only where that is a node port of the node".into()
        );
    }
    let (source, destination) = (who(world, flow.source_address), who(world, flow.destination_address));
    let own_pod = |who: Place| match who {
        Place::Pod(index) => world.pods.get(index).is_some_and(|pod| pod.node == flow.node),
        _ => false,
    };
    let own_node = Place::Node(flow.node);
    let is_ours = match flow.path {
        HostPath::ToHost => destination == own_node,
        HostPath::FromHost => source == own_node,
        HostPath::ForwardIn => own_pod(destination),
        HostPath::ForwardOut => own_pod(source),
    };
    if !is_ours {
        let whom = match flow.path {
            HostPath::ToHost => "its destination is no address of",
            HostPath::FromHost => "its source is no address of",
            HostPath::ForwardIn => {
                "the lab's nodes forward what is for their pods, and its destination is no pod of"
            }
            HostPath::ForwardOut => {
                "the lab's nodes forward what their pods send, and its source is no pod of"
            }
        };
        return Err(format!("{whom} {}", node.name));
    }
    let other = if is_from_node(flow.path) { destination } else { source };
    if other == own_node || own_pod(other) {
        return Err("both ends are on the node: no packet meets an interface of it".into());
    }
    if let (HostPath::ToHost, Place::Pod(_)) = (flow.path, source) {
        let is_translated =
            world.pools.iter().any(|pool| pool.nat_outgoing && pool.cidr.contains(flow.source_address));
        if is_translated {
            return Err(
                "its source is a pod of a pool with natOutgoing: to a node it comes with another address"
                    .into(),
            );
        }
    }
    let netns = match source {
        Place::Node(index) => world.nodes.get(index).map(|node| name.node(&node.name)),
        Place::Pod(index) => world.pods.get(index).map(|pod| name.pod(&pod.namespace, &pod.name)),
        _ => Some(name.outside()),
    };
    let netns = netns.ok_or("the case names no such source")?;
    let mut probe = Probe::of(&as_flow(flow, source, destination), netns, true)?;
    if flow.expect == Expect::Allow {
        probe.timeout = drive::PATIENCE;
    }
    if let Some((address, port)) = flow.original {
        (probe.destination, probe.port) = (address, port);
    }
    Ok(probe)
}

/// Whether the node's fastpath translates what is for this address and port.
fn is_node_port(world: &World, flow: &WorldHostFlow, (address, port): (IpAddr, u16)) -> bool {
    let ports = world.services.iter().flat_map(|service| &service.ports);
    let is_served = ports.into_iter().any(|of| of.protocol == flow.protocol && of.node_port == Some(port));
    is_served && flow.path == HostPath::ForwardIn && who(world, address) == Place::Node(flow.node)
}

fn is_from_node(path: HostPath) -> bool {
    matches!(path, HostPath::FromHost | HostPath::ForwardOut)
}

fn as_flow(flow: &WorldHostFlow, source: Place, destination: Place) -> WorldFlow {
    WorldFlow {
        line: flow.line,
        from: flow.from.clone(),
        to: flow.to.clone(),
        source,
        destination,
        source_address: flow.source_address,
        destination_address: flow.destination_address,
        protocol: flow.protocol,
        source_port: flow.source_port,
        destination_port: flow.destination_port,
        icmp: flow.icmp,
        ip_version: flow.ip_version,
        timeout_ms: TIMEOUT_MS,
        expect: flow.expect,
        service: None,
        unsupported: None,
    }
}

/// Who has an address.
fn who(world: &World, address: IpAddr) -> Place {
    let has = |leg: &crate::network::Leg| leg.address == address;
    if let Some(index) = world.nodes.iter().position(|node| legs(node).iter().any(has)) {
        return Place::Node(index);
    }
    let is_pods = |pod: &caracal_model::case::WorldPod| !pod.host_network && pod.addresses.contains(&address);
    world.pods.iter().position(is_pods).map_or(Place::External, Place::Pod)
}

/// The rules of a node's table, by chain and place.
fn rules(node: &str) -> Result<BTreeMap<(String, usize), ListedRule>, String> {
    let list = || -> Result<_, NftError> {
        let listing = Nft::open()?.list(TABLE)?;
        let mut places: BTreeMap<String, usize> = BTreeMap::new();
        let placed = listing.rules().map(|(chain, rule)| {
            let place = places.entry(chain.to_owned()).or_default();
            *place += 1;
            ((chain.to_owned(), *place), rule.clone())
        });
        Ok(placed.collect())
    };
    netns::within(&netns::path(node), list)
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())
}

/// Whether a chain judges this way of a host endpoint: `input/0-NAME/1-TIER`.
fn judges(chain: &str, flow: &WorldHostFlow) -> bool {
    let hooks: &[&str] = match flow.path {
        HostPath::ToHost => &["untracked-in", "pre-dnat", "input"],
        HostPath::FromHost => &["untracked-out", "output"],
        HostPath::ForwardIn | HostPath::ForwardOut => &[],
    };
    let mut parts = chain.split('/');
    let hook = parts.next().unwrap_or_default();
    let endpoint = parts.next().and_then(|part| part.split_once('-')).map(|(_, endpoint)| endpoint);
    hooks.contains(&hook) && endpoint == Some(flow.host_endpoint.as_str())
}

/// What ends or starts on the host.
fn at_the_kernel(name: &LabName, world: &World, flow: &WorldHostFlow, probe: &Probe) -> Observation {
    let Some(node) = world.nodes.get(flow.node).map(|node| name.node(&node.name)) else {
        return Observation::new(Observed::Error, "the case names no such node");
    };
    let failed = |why: String| Observation::new(Observed::Error, why);
    let before = match rules(&node) {
        Ok(rules) => rules,
        Err(why) => return failed(why),
    };
    let answer = probe.send();
    let after = match rules(&node) {
        Ok(rules) => rules,
        Err(why) => return failed(why),
    };
    let moved: Vec<&ListedRule> = after
        .iter()
        .filter(|((chain, _), _)| judges(chain, flow))
        .filter(|(place, rule)| rule.packets > before.get(*place).map_or(0, |before| before.packets))
        .map(|(_, rule)| rule)
        .filter(|rule| rule.comment != KNOWN_CONNECTION)
        .collect();
    judge(&answer, &moved)
}

fn judge(answer: &Answer, moved: &[&ListedRule]) -> Observation {
    let told = |rules: &[&&ListedRule]| {
        let comments: Vec<&str> = rules.iter().map(|rule| rule.comment.as_str()).collect();
        comments.join("; ")
    };
    let untracked: Vec<_> = moved.iter().filter(|rule| rule.is_untracking()).collect();
    let dropped: Vec<_> = moved.iter().filter(|rule| rule.drops()).collect();
    let is_answered = matches!(answer, Answer::Echoed | Answer::Refused);
    match answer {
        Answer::Failed(what) if dropped.is_empty() => Observation::new(Observed::Error, what.clone()),
        _ if moved.is_empty() => {
            let why = format!(
                "{answer}, but no rule of the host endpoint has counted it: is it about the interface?"
            );
            Observation::new(Observed::Error, why)
        }
        // Whether its answer comes back is the other direction's affair: nothing ties the two together.
        _ if !untracked.is_empty() => Observation::new(Observed::AllowUntracked, told(&untracked)),
        _ if is_answered => Observation::new(Observed::Allow, told(&moved.iter().collect::<Vec<_>>())),
        _ if !dropped.is_empty() => Observation::new(Observed::Deny, told(&dropped)),
        _ => Observation::new(
            Observed::Error,
            format!("let through by {}, but {answer}", told(&moved.iter().collect::<Vec<_>>())),
        ),
    }
}

/// What the fastpath forwards.
fn at_the_fastpath(
    flow: &WorldHostFlow,
    probe: &Probe,
    watchers: &mut Watchers,
) -> Result<Observation, LabError> {
    let nodes = [flow.node].into_iter().collect();
    let before = watchers.snapshot(&nodes)?;
    let answer = probe.send();
    let evidence = before.until(&watchers.snapshot(&nodes)?);
    Ok(match answer {
        Answer::Failed(what) => Observation::new(Observed::Error, what),
        Answer::Echoed | Answer::Refused if !evidence.carried => Observation::new(
            Observed::Error,
            "answered, but none of our counters moved: something else carried it",
        ),
        Answer::Echoed | Answer::Refused => Observation::new(Observed::Allow, evidence.allowed.join("; ")),
        Answer::Silence(_) if !evidence.denied.is_empty() => {
            Observation::new(Observed::Deny, evidence.denied.join("; "))
        }
        Answer::Silence(what) => {
            Observation::new(Observed::Error, format!("{what}, but no counter of ours says why"))
        }
    })
}
