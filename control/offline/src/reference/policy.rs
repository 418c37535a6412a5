//! Network policy, from the Kubernetes documentation:
//!
//! - A pod is isolated for ingress if a NetworkPolicy of its namespace selects it and has `Ingress` among its types;
//!   the same for egress.
//! - An isolated pod's connections are allowed if a rule of one of those policies matches, for that direction.
//! - A rule matches if one of its peers and one of its ports do; no peers means any, no ports means any port of any
//!   protocol.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use caracal_model::protocol::Protocol;
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::address::block_holds;
use super::cluster::{Cluster, PodRef};
use super::selector;

/// The first packet of a connection, as policy sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet {
    pub(super) source: Ipv4Addr,
    pub(super) destination: Ipv4Addr,
    pub(super) protocol: Protocol,
    pub(super) port: Option<u16>,
}

/// Seen from the pod whose policies are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Ingress,
    Egress,
}

/// What policies say, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    Allow(String),
    Deny(String),
}

/// One rule of either direction.
struct Rule<'a> {
    peers: &'a [NetworkPolicyPeer],
    ports: &'a [NetworkPolicyPort],
}

impl Direction {
    fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    fn peers_field(self) -> &'static str {
        match self {
            Self::Ingress => "from",
            Self::Egress => "to",
        }
    }

    /// Whether a policy isolates in this direction. Without types it is of type Ingress, and of type Egress too if it
    /// has egress rules.
    fn is_policed_by(self, spec: &NetworkPolicySpec) -> bool {
        let types = spec.policy_types.as_deref().unwrap_or_default();
        match self {
            _ if !types.is_empty() => types.iter().any(|name| name.to_lowercase() == self.name()),
            Self::Ingress => true,
            Self::Egress => spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()),
        }
    }

    fn rules(self, spec: &NetworkPolicySpec) -> Vec<Rule<'_>> {
        match self {
            Self::Ingress => {
                let rules = spec.ingress.iter().flatten();
                rules.map(|rule| Rule::new(rule.from.as_deref(), rule.ports.as_deref())).collect()
            }
            Self::Egress => {
                let rules = spec.egress.iter().flatten();
                rules.map(|rule| Rule::new(rule.to.as_deref(), rule.ports.as_deref())).collect()
            }
        }
    }
}

impl<'a> Rule<'a> {
    fn new(peers: Option<&'a [NetworkPolicyPeer]>, ports: Option<&'a [NetworkPolicyPort]>) -> Self {
        Self { peers: peers.unwrap_or_default(), ports: ports.unwrap_or_default() }
    }
}

/// What the policies of `pod` say about `packet`, which it sends or is to receive.
pub(super) fn decide(
    cluster: &Cluster<'_>,
    pod: PodRef<'_>,
    direction: Direction,
    packet: &Packet,
) -> Decision {
    let mut isolating = Vec::new();
    for policy in cluster.policies() {
        let Some(spec) = selecting(policy, pod).filter(|spec| direction.is_policed_by(spec)) else {
            continue;
        };
        let name = format!(
            "NetworkPolicy {}/{}",
            pod.namespace(),
            policy.metadata.name.as_deref().unwrap_or_default()
        );
        for (index, rule) in direction.rules(spec).iter().enumerate() {
            if let Some(place) = matching(cluster, pod.namespace(), direction, rule, packet) {
                return Decision::Allow(format!(
                    "tier default · {name} · spec.{}[{index}]{place}",
                    direction.name()
                ));
            }
        }
        isolating.push(name);
    }
    if isolating.is_empty() {
        return Decision::Allow(format!("profile kns.{} · {} of {pod}", pod.namespace(), direction.name()));
    }
    let (direction, isolating) = (direction.name(), isolating.join(", "));
    Decision::Deny(format!("tier default · {direction} default · {isolating}: isolates, no rule matched"))
}

/// The policy's contents if it selects `pod`.
fn selecting<'a>(policy: &'a NetworkPolicy, pod: PodRef<'_>) -> Option<&'a NetworkPolicySpec> {
    let spec = policy.spec.as_ref()?;
    let namespace = policy.metadata.namespace.as_deref().unwrap_or("default");
    let is_selected = spec.pod_selector.as_ref().is_none_or(|pods| selector::matches(pods, &pod.labels()));
    (namespace == pod.namespace() && is_selected).then_some(spec)
}

/// Whether a rule of a policy in `namespace` matches, and by which of its peers and ports: ` from[1] ports[0]`.
fn matching(
    cluster: &Cluster<'_>,
    namespace: &str,
    direction: Direction,
    rule: &Rule<'_>,
    packet: &Packet,
) -> Option<String> {
    let other_end = match direction {
        Direction::Ingress => packet.source,
        Direction::Egress => packet.destination,
    };
    let mut place = String::new();
    if !rule.peers.is_empty() {
        let index = rule.peers.iter().position(|peer| peer_matches(cluster, namespace, peer, other_end))?;
        let _ = write!(place, " {}[{index}]", direction.peers_field());
    }
    if !rule.ports.is_empty() {
        let index = rule.ports.iter().position(|port| port_matches(cluster, port, packet))?;
        let _ = write!(place, " ports[{index}]");
    }
    Some(place)
}

fn peer_matches(cluster: &Cluster<'_>, namespace: &str, peer: &NetworkPolicyPeer, address: Ipv4Addr) -> bool {
    if let Some(block) = &peer.ip_block {
        return block_holds(&block.cidr, address)
            && !block.except.iter().flatten().any(|except| block_holds(except, address));
    }
    cluster.pods_at(address).any(|pod| {
        let namespace_matches = match &peer.namespace_selector {
            Some(namespaces) => selector::matches(namespaces, &cluster.namespace_labels(pod.namespace())),
            None => pod.namespace() == namespace,
        };
        let pod_matches =
            peer.pod_selector.as_ref().is_none_or(|pods| selector::matches(pods, &pod.labels()));
        namespace_matches && pod_matches
    })
}

fn port_matches(cluster: &Cluster<'_>, wanted: &NetworkPolicyPort, packet: &Packet) -> bool {
    let protocol = wanted.protocol.as_deref().unwrap_or("TCP");
    if protocol != packet.protocol.to_string() {
        return false;
    }
    let Some(port) = packet.port else { return false };
    match &wanted.port {
        None => true,
        Some(IntOrString::Int(first)) => {
            let last = wanted.end_port.unwrap_or(*first);
            (*first..=last).contains(&i32::from(port))
        }
        Some(IntOrString::String(name)) => cluster.pods_at(packet.destination).any(|pod| {
            pod.ports().any(|known| {
                known.name.as_ref() == Some(name)
                    && known.protocol.as_deref().unwrap_or("TCP") == protocol
                    && known.container_port == i32::from(port)
            })
        }),
    }
}
