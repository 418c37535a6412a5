//! ClusterNetworkPolicy (`policy.networking.k8s.io/v1alpha2`) → [`Policy`].
//!
//! A rule becomes one rule for each of its protocols and peers, as a NetworkPolicy's does. One that cannot be converted
//! must not open anything: it is left out if it accepts, and denies everything if it denies or passes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::converted::{ConvertedPolicy, DroppedRule, fail_closed};
use super::effective::{in_namespaces, is_kubernetes_pod, label_selector, rather_more};
use super::families::for_its_families;
use super::network_policy::{Peers, PortsByProtocol, PortsOfProtocol, expand};
use super::ports;
use crate::calico::{
    ClusterNetworkPolicy, ClusterPolicyPods, ClusterPolicyPorts, ClusterPolicyProtocol, ClusterPolicySubject,
};
use crate::cidr::Cidr;
use crate::policy::{
    Action, Hook, KUBE_ADMIN_TIER, KUBE_BASELINE_TIER, PeerMatch, Policy, PolicyKey, PolicyKind, Rule,
};
use crate::protocol::Protocol;
use crate::selector::Selector;

/// Converts a ClusterNetworkPolicy; `None` for one of a tier that is not known, or without a subject: it is as if it were
/// not there.
pub fn cluster_network_policy(object: &ClusterNetworkPolicy) -> Option<ConvertedPolicy> {
    let spec = &object.spec;
    let tier = match spec.tier.as_str() {
        "Admin" => KUBE_ADMIN_TIER,
        "Baseline" => KUBE_BASELINE_TIER,
        _ => return None,
    };
    let mut dropped = Vec::new();
    let selector = subject(&spec.subject, &mut dropped)?;

    let mut ingress = Vec::new();
    for (index, rule) in spec.ingress.iter().flatten().enumerate() {
        let field = format!("spec.ingress[{index}]");
        let peers = rule.from.iter().map(|peer| (peer.namespaces.as_ref(), peer.pods.as_ref(), None));
        let peers = peers_of(&format!("{field}.from"), peers);
        let written = Written { action: &rule.action, peers, protocols: rule.protocols.as_deref() };
        written.convert(&field, Peers::AreSources, &mut ingress, &mut dropped);
    }
    let mut egress = Vec::new();
    for (index, rule) in spec.egress.iter().flatten().enumerate() {
        let field = format!("spec.egress[{index}]");
        let peers = rule
            .to
            .iter()
            .map(|peer| (peer.namespaces.as_ref(), peer.pods.as_ref(), peer.networks.as_deref()));
        let peers = peers_of(&format!("{field}.to"), peers);
        let written = Written { action: &rule.action, peers, protocols: rule.protocols.as_deref() };
        written.convert(&field, Peers::AreDestinations, &mut egress, &mut dropped);
    }

    let policy = Policy {
        key: PolicyKey {
            kind: PolicyKind::ClusterNetworkPolicy,
            namespace: None,
            name: object.metadata.name.clone().unwrap_or_default(),
        },
        tier: tier.to_owned(),
        // Priorities are 0 to 1000; any that there can be are exact.
        order: Some(spec.priority as f64),
        staged: None,
        hook: Hook::Normal,
        apply_on_forward: false,
        // A direction without rules is not spoken for.
        applies_to_ingress: spec.ingress.as_ref().is_some_and(|rules| !rules.is_empty()),
        applies_to_egress: spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()),
        selector,
        ingress,
        egress,
    };
    Some(ConvertedPolicy { policy, dropped })
}

fn subject(subject: &ClusterPolicySubject, dropped: &mut Vec<DroppedRule>) -> Option<Selector> {
    let (namespaces, pods) = match (&subject.namespaces, &subject.pods) {
        (Some(namespaces), None) => {
            (rather_more("spec.subject.namespaces", namespaces, dropped), Selector::All)
        }
        (None, Some(pods)) => (
            rather_more("spec.subject.pods.namespaceSelector", &pods.namespace_selector, dropped),
            rather_more("spec.subject.pods.podSelector", &pods.pod_selector, dropped),
        ),
        _ => return None,
    };
    Some(Selector::and([is_kubernetes_pod(), pods, in_namespaces(namespaces)]))
}

/// A rule of either direction.
struct Written<'a> {
    action: &'a str,
    peers: Result<Vec<PeerMatch>, DroppedRule>,
    protocols: Option<&'a [ClusterPolicyProtocol]>,
}

impl Written<'_> {
    fn convert(self, field: &str, sides: Peers, rules: &mut Vec<Rule>, dropped: &mut Vec<DroppedRule>) {
        let action = match self.action {
            "Accept" => Some(Action::Allow),
            "Deny" => Some(Action::Deny),
            "Pass" => Some(Action::Pass),
            _ => None,
        };
        let unknown =
            || DroppedRule::new(format!("{field}.action"), format!("unknown action {:?}", self.action));
        let converted = action.ok_or_else(unknown).and_then(|action| {
            let protocols = protocols(&format!("{field}.protocols"), self.protocols)?;
            Ok(expand(action, &protocols, &self.peers?, sides))
        });
        match converted {
            Ok(converted) => rules.extend(converted.into_iter().filter_map(for_its_families)),
            Err(error) => {
                dropped.push(error);
                rules.extend(fail_closed(action));
            }
        }
    }
}

/// Namespaces, pods and networks of a peer; exactly one is given.
type WrittenPeer<'a> = (Option<&'a LabelSelector>, Option<&'a ClusterPolicyPods>, Option<&'a [String]>);

fn peers_of<'a>(
    field: &str,
    peers: impl Iterator<Item = WrittenPeer<'a>>,
) -> Result<Vec<PeerMatch>, DroppedRule> {
    let converted = peers.enumerate().map(|(index, peer)| peer_match(&format!("{field}[{index}]"), peer));
    let converted: Vec<PeerMatch> = converted.collect::<Result<_, _>>()?;
    if converted.is_empty() {
        return Err(DroppedRule::new(field, "no peer is given"));
    }
    Ok(converted)
}

fn peer_match(field: &str, peer: WrittenPeer<'_>) -> Result<PeerMatch, DroppedRule> {
    let selected = |selector: Selector| PeerMatch { selector: Some(selector), ..PeerMatch::default() };
    match peer {
        // Whatever is in these namespaces, sets of networks included.
        (Some(namespaces), None, None) => {
            Ok(selected(in_namespaces(label_selector(&format!("{field}.namespaces"), namespaces)?)))
        }
        (None, Some(pods), None) => {
            let field = format!("{field}.pods");
            let namespaces = label_selector(&format!("{field}.namespaceSelector"), &pods.namespace_selector)?;
            let which_pod = label_selector(&format!("{field}.podSelector"), &pods.pod_selector)?;
            Ok(selected(Selector::and([in_namespaces(namespaces), is_kubernetes_pod(), which_pod])))
        }
        (None, None, Some(networks)) if !networks.is_empty() => {
            let nets = networks.iter().enumerate().map(|(index, text)| {
                let field = || format!("{field}.networks[{index}]");
                text.parse::<Cidr>().map_err(|error| DroppedRule::new(field(), error))
            });
            Ok(PeerMatch { nets: nets.collect::<Result<_, _>>()?, ..PeerMatch::default() })
        }
        _ => Err(DroppedRule::new(field, "exactly one of namespaces, pods and networks must be given")),
    }
}

/// Each protocol with its ports, then the ports by name, of whichever protocol.
fn protocols(
    field: &str,
    protocols: Option<&[ClusterPolicyProtocol]>,
) -> Result<Vec<PortsOfProtocol>, DroppedRule> {
    let protocols = protocols.unwrap_or_default();
    if protocols.is_empty() {
        return Ok(vec![PortsOfProtocol::default()]);
    }
    let mut listed = PortsByProtocol::default();
    let mut named = ports::Ports::default();
    for (index, entry) in protocols.iter().enumerate() {
        let field = format!("{field}[{index}]");
        let mut list = |name: &str, protocol: Protocol, written: &ClusterPolicyPorts| {
            let (ports, every) = listed.of(protocol);
            let Some(port) = &written.destination_port else {
                *every = true;
                return Ok(());
            };
            let field = format!("{field}.{name}.destinationPort");
            let range = match (port.number, &port.range) {
                (Some(number), None) => ports::range(&field, number, number),
                (None, Some(range)) => ports::range(&field, range.start, range.end),
                _ => Err(DroppedRule::new(&field, "exactly one of number and range must be given")),
            };
            ports.ranges.push(range?);
            Ok(())
        };
        match (&entry.tcp, &entry.udp, &entry.sctp, &entry.destination_named_port) {
            (Some(ports), None, None, None) => list("tcp", Protocol::TCP, ports)?,
            (None, Some(ports), None, None) => list("udp", Protocol::UDP, ports)?,
            (None, None, Some(ports), None) => list("sctp", Protocol::SCTP, ports)?,
            (None, None, None, Some(name)) if !name.is_empty() => named.names.push(name.clone()),
            _ => {
                let message = "exactly one of tcp, udp, sctp and destinationNamedPort must be given";
                return Err(DroppedRule::new(field, message));
            }
        }
    }
    let mut all = listed.into_list();
    let names = named.merged().names;
    if !names.is_empty() {
        all.push(PortsOfProtocol { names, ..PortsOfProtocol::default() });
    }
    Ok(all)
}
