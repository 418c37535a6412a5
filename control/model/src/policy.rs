//! Policies and profiles as the control plane keeps them: what a user's object says once every implied namespace,
//! default and range has been spelled out (calico-style tiers, orders and actions included).

use std::fmt;

use crate::cidr::Cidr;
use crate::labels::Labels;
use crate::protocol::Protocol;
use crate::selector::Selector;

/// The tier of Kubernetes policies.
pub const DEFAULT_TIER: &str = "default";
/// The tier of the ClusterNetworkPolicies that are judged before the policies of namespaces.
pub const KUBE_ADMIN_TIER: &str = "kube-admin";
/// The tier of the ClusterNetworkPolicies that are judged after them.
pub const KUBE_BASELINE_TIER: &str = "kube-baseline";
/// The profile that allows everything, and exists without being written.
pub const DEFAULT_ALLOW_PROFILE: &str = "projectcalico-default-allow";
/// The order of Kubernetes policies within their tier.
pub const KUBERNETES_POLICY_ORDER: f64 = 1000.0;

/// What kind of object a policy was written as. Kubernetes' NetworkPolicy is told from Calico's as Calico does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyKind {
    /// networking.k8s.io/v1 NetworkPolicy.
    KubernetesNetworkPolicy,
    /// policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy.
    ClusterNetworkPolicy,
    /// projectcalico.org/v3 NetworkPolicy.
    NetworkPolicy,
    /// projectcalico.org/v3 GlobalNetworkPolicy.
    GlobalNetworkPolicy,
    /// projectcalico.org/v3 StagedNetworkPolicy.
    StagedNetworkPolicy,
    /// projectcalico.org/v3 StagedGlobalNetworkPolicy.
    StagedGlobalNetworkPolicy,
    /// projectcalico.org/v3 StagedKubernetesNetworkPolicy.
    StagedKubernetesNetworkPolicy,
}

impl PolicyKind {
    /// As users name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::KubernetesNetworkPolicy => "KubernetesNetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::GlobalNetworkPolicy => "GlobalNetworkPolicy",
            Self::StagedNetworkPolicy => "StagedNetworkPolicy",
            Self::StagedGlobalNetworkPolicy => "StagedGlobalNetworkPolicy",
            Self::StagedKubernetesNetworkPolicy => "StagedKubernetesNetworkPolicy",
        }
    }

    /// The kind of policy that one of this kind stands in for: its own, unless it is staged.
    pub fn enforced(self) -> Self {
        match self {
            Self::StagedNetworkPolicy => Self::NetworkPolicy,
            Self::StagedGlobalNetworkPolicy => Self::GlobalNetworkPolicy,
            Self::StagedKubernetesNetworkPolicy => Self::KubernetesNetworkPolicy,
            other => other,
        }
    }
}

/// Where on a host endpoint's way a policy judges. Workload endpoints know only [`Hook::Normal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Hook {
    /// After destinations were translated, once a connection.
    #[default]
    Normal,
    /// Before connections are tracked, each packet (`doNotTrack`).
    Untracked,
    /// Before destinations are translated, once a connection; only ingress (`preDNAT`).
    PreDnat,
}

/// What a staged policy would do to the policy whose place it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StagedAction {
    /// Put itself in that place.
    Set,
    /// Take it away.
    Delete,
}

/// A tier: where it stands, and what becomes of traffic that one of its policies applies to and no rule matches.
#[derive(Debug, Clone, PartialEq)]
pub struct Tier {
    /// Its name.
    pub name: String,
    /// Ascending, then by name; `None` is last.
    pub order: Option<f64>,
    /// Deny or Pass.
    pub default_action: Action,
}

/// Which policy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyKey {
    /// Its kind.
    pub kind: PolicyKind,
    /// Its namespace; `None` for kinds without.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind.as_str(), self.name),
            None => write!(f, "{} {}", self.kind.as_str(), self.name),
        }
    }
}

/// A policy: which endpoints, in which directions, with which rules.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Which.
    pub key: PolicyKey,
    /// The tier it stands in.
    pub tier: String,
    /// Its place in the tier; `None` is last.
    pub order: Option<f64>,
    /// `None`: enforced. Else it enforces nothing, and this is what it would do.
    pub staged: Option<StagedAction>,
    /// Where it judges on host endpoints; what is not [`Hook::Normal`] does not apply to workloads.
    pub hook: Hook,
    /// On host endpoints: also what the host forwards.
    pub apply_on_forward: bool,
    /// Whether it speaks for traffic to the endpoints it selects.
    pub applies_to_ingress: bool,
    /// Whether it speaks for traffic from the endpoints it selects.
    pub applies_to_egress: bool,
    /// The endpoints it applies to, its namespace included.
    pub selector: Selector,
    /// In order; the first match other than Log decides.
    pub ingress: Vec<Rule>,
    /// In order; the first match other than Log decides.
    pub egress: Vec<Rule>,
}

/// Rules that apply to the endpoints that name the profile, after all tiers, and labels that they inherit.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Profile {
    /// `kns.<namespace>` or `ksa.<namespace>.<service account>`.
    pub name: String,
    /// For traffic to the endpoint.
    pub ingress: Vec<Rule>,
    /// For traffic from the endpoint.
    pub egress: Vec<Rule>,
    /// Inherited by the endpoints that name the profile.
    pub labels: Labels,
}

/// What a rule does with what it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Accept; no further policy, tier or profile is asked.
    Allow,
    /// Drop.
    Deny,
    /// Leave this tier, go on with the next.
    Pass,
    /// Log and go on with the next rule.
    Log,
}

/// An IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A rule. Everything given must hold; everything not given always holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rule {
    /// What to do.
    pub action: Action,
    /// Only this IP version.
    pub ip_version: Option<IpVersion>,
    /// Only this protocol.
    pub protocol: Option<Protocol>,
    /// Any protocol but this.
    pub not_protocol: Option<Protocol>,
    /// Only this ICMP message, of ICMP or ICMPv6 as `protocol` says.
    pub icmp: Option<IcmpMatch>,
    /// Any message but this.
    pub not_icmp: Option<IcmpMatch>,
    /// Who sends.
    pub source: PeerMatch,
    /// Who receives.
    pub destination: PeerMatch,
}

impl Rule {
    /// A rule for any packet.
    pub fn any(action: Action) -> Self {
        Self {
            action,
            ip_version: None,
            protocol: None,
            not_protocol: None,
            icmp: None,
            not_icmp: None,
            source: PeerMatch::default(),
            destination: PeerMatch::default(),
        }
    }
}

/// One side of a packet. Each list is ORed within, and what is given must hold together; an empty list or `None` is not given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct PeerMatch {
    /// The address is in one of these.
    pub nets: Vec<Cidr>,
    /// The address is in none of these.
    pub not_nets: Vec<Cidr>,
    /// The address belongs to an endpoint that this selects.
    pub selector: Option<Selector>,
    /// The address belongs to no endpoint that this selects. With `selector`, both are about the same endpoint.
    pub not_selector: Option<Selector>,
    /// The port is in one of these ranges, or …
    pub ports: Vec<PortRange>,
    /// … is one that the endpoint calls by one of these names (an endpoint that `selector` selects, if given).
    pub named_ports: Vec<String>,
    /// The port is in none of these ranges, and …
    pub not_ports: Vec<PortRange>,
    /// … is none that the endpoint calls by one of these names (an endpoint that `selector` selects, if given).
    pub not_named_ports: Vec<String>,
    /// As a destination: the address, protocol and port are those of an endpoint of this service. As a source: the
    /// address is.
    pub service: Option<ServiceKey>,
}

/// Which service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// ICMP messages of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IcmpMatch {
    /// The type.
    pub kind: u8,
    /// Only of this code.
    pub code: Option<u8>,
}

/// Ports from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}
