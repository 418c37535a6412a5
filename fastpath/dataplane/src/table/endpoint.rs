//! Workload endpoints of this node.

use std::net::IpAddr;
use std::sync::Arc;

use super::paged::Paged;
use super::policy::PolicyListId;
use super::prefix::Prefix;

/// Names an endpoint of this node. Given once in a process: an endpoint that comes back gets another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointIndex(pub u32);

/// Addresses an endpoint may have.
pub const MAX_ADDRESSES: usize = 4;

/// A pod and its link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its own addresses.
    pub addresses: Addresses,
    /// The worker that owns it: its flows, its policy, its transmit ring.
    pub worker: u16,
    /// What judges packets to it.
    pub policy_in: PolicyListId,
    /// What judges packets from it.
    pub policy_out: PolicyListId,
    /// What would judge packets to it if staged policies took effect; None: the same.
    pub staged_in: Option<PolicyListId>,
    /// What would judge packets from it if staged policies took effect; None: the same.
    pub staged_out: Option<PolicyListId>,
    /// What it may be sent.
    pub limits_in: Limits,
    /// What it may send.
    pub limits_out: Limits,
    /// Further sources that it may send from.
    pub allowed_sources: Arc<[Prefix]>,
    /// "namespace/pod".
    pub id: Arc<str>,
    /// The host's side of its veth.
    pub interface: Arc<str>,
    /// What it says that its port should be.
    pub port: PodPort,
}

/// How a pod's packets get to us and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PodPort {
    /// As the pod's traffic asks for.
    #[default]
    Auto,
    /// By AF_XDP.
    AfXdp,
    /// By a packet socket, which carries super-frames.
    Packet,
}

impl std::str::FromStr for PodPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(PodPort::Auto),
            "af_xdp" => Ok(PodPort::AfXdp),
            "packet" => Ok(PodPort::Packet),
            _ => Err("a pod's port is auto, af_xdp or packet".into()),
        }
    }
}

/// What an endpoint may move in one direction; 0: as much as it likes, or where it qualifies another, the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Packets a second.
    pub packets_per_second: u64,
    /// Packets at once.
    pub packet_burst: u64,
    /// Bits a second, on average.
    pub bits_per_second: u64,
    /// Bits at once, at the peak rate.
    pub burst_bits: u64,
    /// Bits a second, never more.
    pub peak_bits_per_second: u64,
    /// Bytes at once, never more.
    pub peak_burst_bytes: u64,
    /// Connections open at once.
    pub connections: u64,
}

/// An endpoint that has limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limited {
    /// Which.
    pub endpoint: EndpointIndex,
    /// The worker that owns it.
    pub worker: u16,
    /// What it may be sent.
    pub into: Limits,
    /// What it may send.
    pub out: Limits,
}

/// The endpoints that have limits.
#[derive(Debug, Clone, Default)]
pub struct LimitedEndpoints(Arc<[Limited]>);

impl LimitedEndpoints {
    /// Those of `endpoints` that have any; what was known of them before, if it is the same.
    pub(super) fn of<'a>(
        endpoints: impl Iterator<Item = (EndpointIndex, &'a Endpoint)>,
        former: &LimitedEndpoints,
    ) -> LimitedEndpoints {
        let none = Limits::default();
        let limited: Vec<Limited> = endpoints
            .filter(|(_, e)| e.limits_in != none || e.limits_out != none)
            .map(|(endpoint, e)| Limited { endpoint, worker: e.worker, into: e.limits_in, out: e.limits_out })
            .collect();
        if *limited == *former.0 { former.clone() } else { LimitedEndpoints(limited.into()) }
    }

    /// Whether nothing has changed since `other`.
    pub fn is(&self, other: &LimitedEndpoints) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Limited> {
        self.0.iter()
    }
}

/// A few addresses, in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Addresses {
    list: [Option<IpAddr>; MAX_ADDRESSES],
}

impl Addresses {
    /// The addresses, in the order that the control plane gave.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> {
        self.list.iter().map_while(|address| *address)
    }

    /// Whether `address` is one of them.
    #[inline]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.iter().any(|own| own == address)
    }

    /// None if there are more than [`MAX_ADDRESSES`].
    pub fn new(addresses: &[IpAddr]) -> Option<Addresses> {
        let mut list = [None; MAX_ADDRESSES];
        for (place, address) in list.get_mut(..addresses.len())?.iter_mut().zip(addresses) {
            *place = Some(*address);
        }
        Some(Addresses { list })
    }
}

impl Endpoint {
    /// Every list that it has.
    pub(super) fn lists(&self) -> impl Iterator<Item = PolicyListId> {
        [self.policy_in, self.policy_out].into_iter().chain(self.staged_in).chain(self.staged_out)
    }

    /// Whether `address` is the endpoint's own.
    #[inline]
    pub fn owns(&self, address: IpAddr) -> bool {
        self.addresses.contains(address)
    }

    /// Whether it may send from `address`: a packet from it with another source is spoofed.
    #[inline]
    pub fn may_send_from(&self, address: IpAddr) -> bool {
        self.owns(address) || self.allowed_sources.iter().any(|prefix| prefix.contains(address))
    }
}

pub(super) const PAGE: usize = 64;

/// All endpoints of this node.
#[derive(Debug, Clone, Default)]
pub struct EndpointTable {
    pub(super) endpoints: Paged<Option<Arc<Endpoint>>, PAGE>,
    pub(super) limited: LimitedEndpoints,
}

impl EndpointTable {
    /// The endpoint of this index, unless it has gone.
    #[inline]
    pub fn get(&self, index: EndpointIndex) -> Option<&Endpoint> {
        self.endpoints.get(index.0 as usize)?.as_deref()
    }

    /// Whether no endpoint has changed between them.
    pub fn is_same(&self, other: &EndpointTable) -> bool {
        self.endpoints.is_same(&other.endpoints)
    }

    /// Those that have limits.
    pub fn limited(&self) -> &LimitedEndpoints {
        &self.limited
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (EndpointIndex, &Endpoint)> {
        let present = self.endpoints.iter();
        present.filter_map(|(i, endpoint)| Some((EndpointIndex(i as u32), endpoint.as_deref()?)))
    }
}
