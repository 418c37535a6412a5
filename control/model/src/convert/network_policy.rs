//! NetworkPolicy → [`Policy`].
//!
//! One rule of a NetworkPolicy becomes one Allow rule for each protocol that its ports name, in the order of the
//! protocols' names, times each of its peers in their order. A rule that cannot be converted is left out; the policy
//! stays, and so still isolates the pods it selects.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::converted::{ConvertedPolicy, DroppedRule};
use super::effective::{in_namespace, in_namespaces, is_kubernetes_pod, label_selector, rather_more};
use super::families::for_its_families;
use super::ports::{self, Ports};
use crate::calico::StagedKubernetesNetworkPolicySpec;
use crate::cidr::Cidr;
use crate::policy::{
    Action, DEFAULT_TIER, Hook, KUBERNETES_POLICY_ORDER, PeerMatch, Policy, PolicyKey, PolicyKind, PortRange,
    Rule,
};
use crate::protocol::Protocol;
use crate::selector::Selector;

/// Converts a NetworkPolicy.
pub fn network_policy(object: &NetworkPolicy) -> ConvertedPolicy {
    let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
    let key = PolicyKey {
        kind: PolicyKind::KubernetesNetworkPolicy,
        namespace: Some(namespace.to_owned()),
        name: object.metadata.name.clone().unwrap_or_default(),
    };
    of_spec(key, &object.spec.clone().unwrap_or_default())
}

/// What a staged NetworkPolicy would be if it were not staged.
pub(super) fn spec_of_staged(spec: &StagedKubernetesNetworkPolicySpec) -> NetworkPolicySpec {
    NetworkPolicySpec {
        pod_selector: spec.pod_selector.clone(),
        ingress: spec.ingress.clone(),
        egress: spec.egress.clone(),
        policy_types: spec.policy_types.clone(),
    }
}

/// The policy that a specification, staged or not, is about.
pub(super) fn of_spec(key: PolicyKey, spec: &NetworkPolicySpec) -> ConvertedPolicy {
    let namespace = key.namespace.as_deref().unwrap_or("default");
    let mut dropped = Vec::new();

    let types = spec.policy_types.as_deref().unwrap_or_default();
    let applies_to_ingress = types.is_empty() || types.iter().any(|name| name == "Ingress");
    let applies_to_egress = types.iter().any(|name| name == "Egress");

    let pods = spec.pod_selector.clone().unwrap_or_default();
    let pods = rather_more("spec.podSelector", &pods, &mut dropped);
    let selector = Selector::and([is_kubernetes_pod(), pods, in_namespace(namespace)]);

    let mut converted = |rules: Vec<Result<Vec<Rule>, DroppedRule>>| -> Vec<Rule> {
        let good = rules.into_iter().filter_map(|rule| rule.map_err(|error| dropped.push(error)).ok());
        good.flatten().filter_map(for_its_families).collect()
    };
    let (mut ingress, mut egress) = (Vec::new(), Vec::new());
    if applies_to_ingress {
        let rules = spec.ingress.iter().flatten().enumerate().map(|(index, rule)| {
            let field = format!("spec.ingress[{index}]");
            let peers = peers(namespace, &format!("{field}.from"), rule.from.as_deref())?;
            let ports = ports(&field, rule.ports.as_deref())?;
            Ok(expand(Action::Allow, &ports, &peers, Peers::AreSources))
        });
        ingress = converted(rules.collect());
    }
    if applies_to_egress {
        let rules = spec.egress.iter().flatten().enumerate().map(|(index, rule)| {
            let field = format!("spec.egress[{index}]");
            let peers = peers(namespace, &format!("{field}.to"), rule.to.as_deref())?;
            let ports = ports(&field, rule.ports.as_deref())?;
            Ok(expand(Action::Allow, &ports, &peers, Peers::AreDestinations))
        });
        egress = converted(rules.collect());
    }

    let policy = Policy {
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
        key,
    };
    ConvertedPolicy { policy, dropped }
}

/// Which side of the packet the peers of a rule are.
#[derive(Clone, Copy)]
pub(super) enum Peers {
    AreSources,
    AreDestinations,
}

/// One rule for each protocol and peer. Ports are the destination's.
pub(super) fn expand(
    action: Action,
    ports: &[PortsOfProtocol],
    peers: &[PeerMatch],
    sides: Peers,
) -> Vec<Rule> {
    let pairs = ports.iter().flat_map(|ports| peers.iter().map(move |peer| (ports, peer)));
    let rules = pairs.map(|(ports, peer)| {
        let (source, destination) = match sides {
            Peers::AreSources => (peer.clone(), PeerMatch::default()),
            Peers::AreDestinations => (PeerMatch::default(), peer.clone()),
        };
        let destination =
            PeerMatch { ports: ports.ranges.clone(), named_ports: ports.names.clone(), ..destination };
        Rule { protocol: ports.protocol, source, destination, ..Rule::any(action) }
    });
    rules.collect()
}

/// A protocol and which of its ports; no protocol is any packet, no ports are all of them.
#[derive(Debug, Default)]
pub(super) struct PortsOfProtocol {
    pub protocol: Option<Protocol>,
    pub ranges: Vec<PortRange>,
    pub names: Vec<String>,
}

/// What a list of ports says of each protocol, in the order of the protocols' names. An entry without a port is all of
/// its protocol's ports and supersedes the others.
#[derive(Default)]
pub(super) struct PortsByProtocol(BTreeMap<String, (Protocol, Ports, bool)>);

impl PortsByProtocol {
    /// The ports of a protocol, and whether all of them have been listed.
    pub fn of(&mut self, protocol: Protocol) -> (&mut Ports, &mut bool) {
        let (_, ports, every) =
            self.0.entry(protocol.to_string()).or_insert((protocol, Ports::default(), false));
        (ports, every)
    }

    pub fn into_list(self) -> Vec<PortsOfProtocol> {
        let all = self.0.into_values().map(|(protocol, ports, every)| {
            let ports = if every { Ports::default() } else { ports.merged() };
            PortsOfProtocol { protocol: Some(protocol), ranges: ports.ranges, names: ports.names }
        });
        all.collect()
    }
}

fn ports(rule: &str, ports: Option<&[NetworkPolicyPort]>) -> Result<Vec<PortsOfProtocol>, DroppedRule> {
    let ports = ports.unwrap_or_default();
    if ports.is_empty() {
        return Ok(vec![PortsOfProtocol::default()]);
    }
    let mut listed = PortsByProtocol::default();
    for (index, port) in ports.iter().enumerate() {
        let field = format!("{rule}.ports[{index}]");
        let name = port.protocol.as_deref().unwrap_or("TCP");
        let protocol = Protocol::from_kubernetes(name).ok_or_else(|| {
            DroppedRule::new(format!("{field}.protocol"), format!("unknown protocol {name:?}"))
        })?;
        let (ports, every) = listed.of(protocol);
        match &port.port {
            None => *every = true,
            Some(IntOrString::Int(first)) => ports.ranges.push(port_range(&field, *first, port.end_port)?),
            Some(IntOrString::String(name)) => ports.names.push(name.clone()),
        }
    }
    Ok(listed.into_list())
}

fn port_range(field: &str, first: i32, end: Option<i32>) -> Result<PortRange, DroppedRule> {
    let one = ports::range(&format!("{field}.port"), first.into(), first.into())?;
    match end {
        None => Ok(one),
        Some(end) => ports::range(&format!("{field}.endPort"), first.into(), end.into()),
    }
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
                    in_namespaces(label_selector(&format!("{field}.namespaceSelector"), selector)?)
                }
            };
            let which_pod = match pods {
                None => Selector::All,
                Some(selector) => label_selector(&format!("{field}.podSelector"), selector)?,
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
