//! Rules of Kubernetes' NetworkPolicy and ClusterNetworkPolicy, read: one for every pair of a peer and a port.

use caracal_model::calico::{
    ClusterNetworkPolicySpec, ClusterPolicyPods, ClusterPolicyPorts, ClusterPolicyProtocol,
};
use k8s_openapi::api::networking::v1::{
    NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::address::Block;
use super::calico::protocol_number;
use super::cluster::{NAMESPACE, ORCHESTRATOR};
use super::rule::{Action, Ports, Rule, Side, Term};

/// Kubernetes' pods.
pub(super) const IS_POD: Term<'static> = Term::Is(ORCHESTRATOR, "k8s");

/// Which end the peers of a rule are.
#[derive(Debug, Clone, Copy)]
enum Peers {
    Sources,
    Destinations,
}

/// A protocol and one of its destination ports or ranges; `None` is any.
type Wanted<'a> = (Option<u8>, Option<Ports<'a>>);

/// What is in namespaces with such labels. A selector that says nothing is one of everything that is in any.
pub(super) fn in_namespaces(selector: &LabelSelector) -> Term<'_> {
    if selector.match_labels.iter().flatten().count() + selector.match_expressions.iter().flatten().count()
        == 0
    {
        Term::Has(NAMESPACE)
    } else {
        Term::Kubernetes { selector, prefix: "pcns." }
    }
}

/// Labels of the pod itself.
pub(super) fn with_labels(selector: &LabelSelector) -> Term<'_> {
    Term::Kubernetes { selector, prefix: "" }
}

pub(super) fn ingress_rules<'a>(
    namespace: &'a str,
    rules: Option<&'a [NetworkPolicyIngressRule]>,
) -> Vec<Rule<'a>> {
    let rules = rules.unwrap_or_default().iter().enumerate();
    rules
        .flat_map(|(index, rule)| {
            let place = format!("spec.ingress[{index}]");
            network_policy_rule(
                namespace,
                &place,
                rule.from.as_deref(),
                rule.ports.as_deref(),
                Peers::Sources,
            )
        })
        .collect()
}

pub(super) fn egress_rules<'a>(
    namespace: &'a str,
    rules: Option<&'a [NetworkPolicyEgressRule]>,
) -> Vec<Rule<'a>> {
    let rules = rules.unwrap_or_default().iter().enumerate();
    rules
        .flat_map(|(index, rule)| {
            let place = format!("spec.egress[{index}]");
            network_policy_rule(
                namespace,
                &place,
                rule.to.as_deref(),
                rule.ports.as_deref(),
                Peers::Destinations,
            )
        })
        .collect()
}

fn network_policy_rule<'a>(
    namespace: &'a str,
    place: &str,
    peers: Option<&'a [NetworkPolicyPeer]>,
    ports: Option<&'a [NetworkPolicyPort]>,
    which: Peers,
) -> Vec<Rule<'a>> {
    let sides: Vec<Side<'a>> = match peers.unwrap_or_default() {
        [] => vec![Side::default()],
        peers => peers.iter().map(|peer| peer_side(namespace, peer)).collect(),
    };
    let wanted = match ports.unwrap_or_default() {
        [] => vec![(None, None)],
        ports => ports.iter().map(port).collect(),
    };
    every_pair(Action::Allow, place, &sides, &wanted, which)
}

fn peer_side<'a>(namespace: &'a str, peer: &'a NetworkPolicyPeer) -> Side<'a> {
    if let Some(block) = &peer.ip_block {
        let excepted = block.except.iter().flatten();
        return Side {
            nets: Block::read(&block.cidr).into_iter().collect(),
            not_nets: excepted.filter_map(|cidr| Block::read(cidr)).collect(),
            ..Side::default()
        };
    }
    let where_ = match &peer.namespace_selector {
        Some(selector) => in_namespaces(selector),
        None => Term::Is(NAMESPACE, namespace),
    };
    let pods = peer.pod_selector.as_ref().map(with_labels);
    Side { who: [Some(where_), Some(IS_POD), pods].into_iter().flatten().collect(), ..Side::default() }
}

fn port(port: &NetworkPolicyPort) -> Wanted<'_> {
    let protocol = protocol_number(port.protocol.as_deref().unwrap_or("TCP"));
    let ports = port.port.as_ref().map(|first| match first {
        IntOrString::Int(first) => range(i64::from(*first), i64::from(port.end_port.unwrap_or(*first))),
        IntOrString::String(name) => Ports::Named(name),
    });
    (protocol, ports)
}

fn range<'a>(first: i64, last: i64) -> Ports<'a> {
    let number = |number| u16::try_from(number).unwrap_or_default();
    Ports::Range(number(first), number(last))
}

fn every_pair<'a>(
    action: Action,
    place: &str,
    sides: &[Side<'a>],
    wanted: &[Wanted<'a>],
    which: Peers,
) -> Vec<Rule<'a>> {
    let pairs = wanted.iter().flat_map(|wanted| sides.iter().map(move |side| (wanted, side)));
    pairs
        .map(|((protocol, ports), side)| {
            let mut rule = Rule { action, place: place.to_owned(), protocol: *protocol, ..Rule::allow_all() };
            match which {
                Peers::Sources => rule.source = side.clone(),
                Peers::Destinations => rule.destination = side.clone(),
            }
            rule.destination.ports = ports.iter().cloned().collect();
            rule
        })
        .collect()
}

/// The ingress and egress rules of a ClusterNetworkPolicy.
pub(super) fn cluster_rules(spec: &ClusterNetworkPolicySpec) -> (Vec<Rule<'_>>, Vec<Rule<'_>>) {
    let ingress = spec.ingress.iter().flatten().enumerate().flat_map(|(index, rule)| {
        let sides =
            rule.from.iter().map(|peer| cluster_peer(peer.namespaces.as_ref(), peer.pods.as_ref(), None));
        let place = format!("spec.ingress[{index}]");
        cluster_rule(&rule.action, &place, sides.collect(), rule.protocols.as_deref(), Peers::Sources)
    });
    let egress = spec.egress.iter().flatten().enumerate().flat_map(|(index, rule)| {
        let sides = rule
            .to
            .iter()
            .map(|peer| cluster_peer(peer.namespaces.as_ref(), peer.pods.as_ref(), peer.networks.as_deref()));
        let place = format!("spec.egress[{index}]");
        cluster_rule(&rule.action, &place, sides.collect(), rule.protocols.as_deref(), Peers::Destinations)
    });
    (ingress.collect(), egress.collect())
}

/// A rule with a part that cannot be read must not open anything: it is left out if it accepts, else it denies all.
fn cluster_rule<'a>(
    action: &str,
    place: &str,
    sides: Option<Vec<Side<'a>>>,
    protocols: Option<&'a [ClusterPolicyProtocol]>,
    which: Peers,
) -> Vec<Rule<'a>> {
    let action = match action {
        "Accept" => Action::Allow,
        "Pass" => Action::Pass,
        _ => Action::Deny,
    };
    let wanted: Option<Vec<Wanted<'a>>> = match protocols.unwrap_or_default() {
        [] => Some(vec![(None, None)]),
        protocols => protocols.iter().map(cluster_protocol).collect(),
    };
    match (sides.filter(|sides| !sides.is_empty()), wanted) {
        (Some(sides), Some(wanted)) => every_pair(action, place, &sides, &wanted, which),
        _ if action == Action::Allow => Vec::new(),
        _ => vec![Rule { action: Action::Deny, place: place.to_owned(), ..Rule::allow_all() }],
    }
}

fn cluster_peer<'a>(
    namespaces: Option<&'a LabelSelector>,
    pods: Option<&'a ClusterPolicyPods>,
    networks: Option<&'a [String]>,
) -> Option<Side<'a>> {
    match (namespaces, pods, networks) {
        // Not only pods: whatever carries the namespace's labels.
        (Some(namespaces), None, None) => {
            Some(Side { who: vec![in_namespaces(namespaces)], ..Side::default() })
        }
        (None, Some(pods), None) => {
            let who = vec![in_namespaces(&pods.namespace_selector), IS_POD, with_labels(&pods.pod_selector)];
            Some(Side { who, ..Side::default() })
        }
        (None, None, Some(networks)) if !networks.is_empty() => {
            let nets: Option<Vec<Block>> = networks.iter().map(|net| Block::read(net)).collect();
            Some(Side { nets: nets?, ..Side::default() })
        }
        _ => None,
    }
}

fn cluster_protocol(entry: &ClusterPolicyProtocol) -> Option<Wanted<'_>> {
    let numbered = |protocol: u8, ports: &ClusterPolicyPorts| {
        let Some(port) = &ports.destination_port else { return Some((Some(protocol), None)) };
        let ports = match (port.number, &port.range) {
            (Some(number), None) => range(number, number),
            (None, Some(ports)) => range(ports.start, ports.end),
            _ => return None,
        };
        Some((Some(protocol), Some(ports)))
    };
    match (&entry.tcp, &entry.udp, &entry.sctp, &entry.destination_named_port) {
        (Some(ports), None, None, None) => numbered(6, ports),
        (None, Some(ports), None, None) => numbered(17, ports),
        (None, None, Some(ports), None) => numbered(132, ports),
        (None, None, None, Some(name)) => Some((None, Some(Ports::Named(name)))),
        _ => None,
    }
}
