//! NetworkPolicy → [`Policy`].
//!
//! One rule of a NetworkPolicy becomes one Allow rule for each protocol that its ports name, in the order of the
//! protocols' names, times each of its peers in their order. A rule that cannot be converted is left out; the policy
//! stays, and so still isolates the pods it selects.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::cidr::Cidr;
use crate::labels::key;
use crate::policy::{
    Action, DEFAULT_TIER, Hook, KUBERNETES_POLICY_ORDER, PeerMatch, Policy, PolicyKey, PolicyKind, PortRange,
    Rule,
};
use crate::protocol::Protocol;
use crate::selector::Selector;

/// A policy and what could not be made of its object.
#[derive(Debug, Clone, PartialEq)]
pub struct ConvertedPolicy {
    /// The policy, without the rules that could not be converted: it isolates all the same.
    pub policy: Policy,
    /// What is missing, for the log.
    pub dropped: Vec<DroppedRule>,
}

/// A rule that could not be converted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DroppedRule {
    /// What of it: `spec.ingress[1].ports[0].port`.
    pub field: String,
    /// Why.
    pub message: String,
}

impl DroppedRule {
    fn new(field: String, message: impl ToString) -> Self {
        Self { field, message: message.to_string() }
    }
}

/// Converts a NetworkPolicy.
pub fn network_policy(object: &NetworkPolicy) -> ConvertedPolicy {
    let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
    let spec = object.spec.clone().unwrap_or_default();
    let mut dropped = Vec::new();

    let types = spec.policy_types.as_deref().unwrap_or_default();
    let applies_to_ingress = types.is_empty() || types.iter().any(|name| name == "Ingress");
    let applies_to_egress = types.iter().any(|name| name == "Egress");

    // A term that means nothing is left out, so that the policy selects, and isolates, rather more than less.
    let pod_selector = spec.pod_selector.unwrap_or_default();
    let terms = selector_terms("spec.podSelector", &pod_selector, "").into_iter();
    let terms: Vec<_> = terms.filter_map(|term| term.map_err(|error| dropped.push(error)).ok()).collect();
    let selector = Selector::and([vec![is_kubernetes_pod()], terms, vec![in_namespace(namespace)]].concat());

    let mut converted = |rules: Vec<Result<Vec<Rule>, DroppedRule>>| -> Vec<Rule> {
        let good = rules.into_iter().filter_map(|rule| rule.map_err(|error| dropped.push(error)).ok());
        good.flatten().collect()
    };
    let (mut ingress, mut egress) = (Vec::new(), Vec::new());
    if applies_to_ingress {
        let rules = spec.ingress.iter().flatten().enumerate().map(|(index, rule)| {
            let field = format!("spec.ingress[{index}]");
            let peers = peers(namespace, &format!("{field}.from"), rule.from.as_deref())?;
            let ports = ports(&field, rule.ports.as_deref())?;
            Ok(expand(&ports, &peers, |peer, ports| (peer, ports)))
        });
        ingress = converted(rules.collect());
    }
    if applies_to_egress {
        let rules = spec.egress.iter().flatten().enumerate().map(|(index, rule)| {
            let field = format!("spec.egress[{index}]");
            let peers = peers(namespace, &format!("{field}.to"), rule.to.as_deref())?;
            let ports = ports(&field, rule.ports.as_deref())?;
            Ok(expand(&ports, &peers, |peer, ports| {
                let destination = PeerMatch { ports: ports.ports, named_ports: ports.named_ports, ..peer };
                (PeerMatch::default(), destination)
            }))
        });
        egress = converted(rules.collect());
    }

    let policy = Policy {
        key: PolicyKey {
            kind: PolicyKind::KubernetesNetworkPolicy,
            namespace: Some(namespace.to_owned()),
            name: object.metadata.name.clone().unwrap_or_default(),
        },
        tier: DEFAULT_TIER.to_owned(),
        order: Some(KUBERNETES_POLICY_ORDER),
        staged: None,
        hook: Hook::Normal,
        apply_on_forward: false,
        applies_to_ingress,
        applies_to_egress,
        selector,
        ingress,
        egress,
    };
    ConvertedPolicy { policy, dropped }
}

/// One rule for each protocol and peer; `sides` says which side of the packet each is about.
fn expand(
    ports: &[PortsOfProtocol],
    peers: &[PeerMatch],
    sides: impl Fn(PeerMatch, PeerMatch) -> (PeerMatch, PeerMatch),
) -> Vec<Rule> {
    let pairs = ports.iter().flat_map(|ports| peers.iter().map(move |peer| (ports, peer)));
    let rules = pairs.map(|(ports, peer)| {
        let (source, destination) = sides(peer.clone(), ports.ports.clone());
        Rule { protocol: ports.protocol, source, destination, ..Rule::any(Action::Allow) }
    });
    rules.collect()
}

/// A protocol and which of its ports; no protocol is any packet, no ports are all of them.
struct PortsOfProtocol {
    protocol: Option<Protocol>,
    ports: PeerMatch,
}

fn ports(rule: &str, ports: Option<&[NetworkPolicyPort]>) -> Result<Vec<PortsOfProtocol>, DroppedRule> {
    /// What the list says of one protocol.
    #[derive(Default)]
    struct Listed {
        every_port: bool,
        ranges: Vec<PortRange>,
        names: Vec<String>,
    }
    let ports = ports.unwrap_or_default();
    if ports.is_empty() {
        return Ok(vec![PortsOfProtocol { protocol: None, ports: PeerMatch::default() }]);
    }
    let mut by_protocol: BTreeMap<&str, (Protocol, Listed)> = BTreeMap::new();
    for (index, port) in ports.iter().enumerate() {
        let field = format!("{rule}.ports[{index}]");
        let name = port.protocol.as_deref().unwrap_or("TCP");
        let protocol = Protocol::from_kubernetes(name).ok_or_else(|| {
            DroppedRule::new(format!("{field}.protocol"), format!("unknown protocol {name:?}"))
        })?;
        let (_, listed) = by_protocol.entry(name).or_insert((protocol, Listed::default()));
        match &port.port {
            None => listed.every_port = true,
            Some(IntOrString::Int(first)) => listed.ranges.push(port_range(&field, *first, port.end_port)?),
            Some(IntOrString::String(name)) => listed.names.push(name.clone()),
        }
    }
    let all = by_protocol.into_values().map(|(protocol, mut listed)| {
        if listed.every_port {
            listed = Listed::default();
        }
        listed.names.sort();
        listed.names.dedup();
        let ports =
            PeerMatch { ports: merged(listed.ranges), named_ports: listed.names, ..PeerMatch::default() };
        PortsOfProtocol { protocol: Some(protocol), ports }
    });
    Ok(all.collect())
}

fn port_range(field: &str, first: i32, end: Option<i32>) -> Result<PortRange, DroppedRule> {
    let number = |field: String, port: i32| match u16::try_from(port) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(DroppedRule::new(field, format!("{port} is not a port from 1 to 65535"))),
    };
    let end_field = format!("{field}.endPort");
    let first = number(format!("{field}.port"), first)?;
    let last = end.map_or(Ok(first), |end| number(end_field.clone(), end))?;
    if last < first {
        return Err(DroppedRule::new(end_field, format!("{last} is less than the first port, {first}")));
    }
    Ok(PortRange { first, last })
}

/// The fewest ranges that hold the same ports, ascending.
fn merged(mut ranges: Vec<PortRange>) -> Vec<PortRange> {
    ranges.sort();
    let mut merged: Vec<PortRange> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(before) if u32::from(range.first) <= u32::from(before.last) + 1 => {
                before.last = before.last.max(range.last);
            }
            _ => merged.push(range),
        }
    }
    merged
}

fn peers(
    namespace: &str,
    field: &str,
    peers: Option<&[NetworkPolicyPeer]>,
) -> Result<Vec<PeerMatch>, DroppedRule> {
    let peers = peers.unwrap_or_default();
    if peers.is_empty() {
        return Ok(vec![PeerMatch::default()]);
    }
    peers
        .iter()
        .enumerate()
        .map(|(index, peer)| peer_match(namespace, &format!("{field}[{index}]"), peer))
        .collect()
}

fn peer_match(namespace: &str, field: &str, peer: &NetworkPolicyPeer) -> Result<PeerMatch, DroppedRule> {
    match (&peer.ip_block, &peer.namespace_selector, &peer.pod_selector) {
        (Some(block), None, None) => ip_block(&format!("{field}.ipBlock"), block),
        (Some(_), _, _) => Err(DroppedRule::new(field.to_owned(), "both ipBlock and a selector")),
        (None, None, None) => Err(DroppedRule::new(field.to_owned(), "no peer is given")),
        (None, namespaces, pods) => {
            let which_namespace = match namespaces {
                None => in_namespace(namespace),
                Some(selector) => {
                    let field = format!("{field}.namespaceSelector");
                    match whole(selector_terms(&field, selector, key::NAMESPACE_PREFIX))? {
                        Selector::All => Selector::has(key::NAMESPACE),
                        selector => selector,
                    }
                }
            };
            let which_pod = match pods {
                None => Selector::All,
                Some(selector) => whole(selector_terms(&format!("{field}.podSelector"), selector, ""))?,
            };
            let selector = Selector::and([which_namespace, is_kubernetes_pod(), which_pod]);
            Ok(PeerMatch { selector: Some(selector), ..PeerMatch::default() })
        }
    }
}

fn ip_block(field: &str, block: &IPBlock) -> Result<PeerMatch, DroppedRule> {
    let cidr =
        |field: String, text: &str| text.parse::<Cidr>().map_err(|error| DroppedRule::new(field, error));
    let net = cidr(format!("{field}.cidr"), &block.cidr)?;
    let except = block.except.iter().flatten().enumerate();
    let not_nets: Result<Vec<Cidr>, _> =
        except.map(|(index, text)| cidr(format!("{field}.except[{index}]"), text)).collect();
    Ok(PeerMatch { nets: vec![net], not_nets: not_nets?, ..PeerMatch::default() })
}

fn is_kubernetes_pod() -> Selector {
    Selector::equal(key::ORCHESTRATOR, "k8s")
}

fn in_namespace(namespace: &str) -> Selector {
    Selector::equal(key::NAMESPACE, namespace)
}

fn whole(terms: Vec<Result<Selector, DroppedRule>>) -> Result<Selector, DroppedRule> {
    Ok(Selector::and(terms.into_iter().collect::<Result<Vec<_>, _>>()?))
}

/// The terms of a label selector, every key behind `prefix`: the labels in the order of their keys, then the expressions.
fn selector_terms(field: &str, selector: &LabelSelector, prefix: &str) -> Vec<Result<Selector, DroppedRule>> {
    let labels = selector.match_labels.iter().flatten();
    let labels = labels.map(|(key, value)| Ok(Selector::equal(format!("{prefix}{key}"), value)));
    let expressions = selector.match_expressions.iter().flatten().enumerate().map(|(index, expression)| {
        let key = format!("{prefix}{}", expression.key);
        let values = || expression.values.iter().flatten().cloned().collect();
        match expression.operator.as_str() {
            "In" => Ok(Selector::In(key, values())),
            "NotIn" => Ok(Selector::NotIn(key, values())),
            "Exists" => Ok(Selector::Has(key)),
            "DoesNotExist" => Ok(Selector::Has(key).negate()),
            operator => {
                let field = format!("{field}.matchExpressions[{index}].operator");
                Err(DroppedRule::new(field, format!("unknown operator {operator:?}")))
            }
        }
    });
    labels.chain(expressions).collect()
}
