//! How big a pod's packets may be, so that they still fit when they have been encapsulated.

use caracal_model::convert::{FelixSettings, NodeInfo, PoolMode};

use crate::pools::Pools;

/// What VXLAN adds: an outer Ethernet, IPv4, UDP and VXLAN header.
const VXLAN: u32 = 50;
/// The same over IPv6.
const VXLAN_V6: u32 = 70;
/// What IPIP adds: an outer IPv4 header.
const IPIP: u32 = 20;

/// From the MTU of this node's interfaces to that of its pods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mtu {
    /// A regular expression: the interfaces that packets leave by.
    pub interfaces: String,
    /// What the encapsulations in use ask for; none: packets may be as big as the interfaces'.
    pub demands: Vec<Demand>,
}

/// What an encapsulation asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// This MTU, because the configuration says so.
    Given(u32),
    /// Room for this many bytes.
    Room(u32),
}

impl Mtu {
    /// The MTU of pods where that of the interfaces is `interfaces`.
    pub fn of_pods(&self, interfaces: u32) -> u32 {
        let limit = |demand: &Demand| match *demand {
            Demand::Given(mtu) => mtu,
            Demand::Room(bytes) => interfaces.saturating_sub(bytes),
        };
        self.demands.iter().map(limit).min().unwrap_or(interfaces)
    }

    /// What settings and pools ask for. Where there is no pool at all every prefix is carried by VXLAN.
    pub(crate) fn new(settings: &FelixSettings, pools: &Pools, own: Option<&NodeInfo>) -> Self {
        let network = &settings.network;
        let is_vxlan = |mode| matches!(mode, PoolMode::Vxlan(_));
        let is_ipip = |mode| matches!(mode, PoolMode::Ipip(_));
        let vxlan = network.vxlan_enabled.unwrap_or(pools.is_empty() || pools.any(true, is_vxlan));
        let ipip = network.ipip_enabled.unwrap_or(pools.any(true, is_ipip));
        // Without an address of IPv4's, IPv4 goes over IPv6, too.
        let has_v4 = own.is_none_or(|own| own.address.is_some());
        let demand = |given: Option<u32>, room| given.map_or(Demand::Room(room), Demand::Given);
        let demands = [
            (vxlan && has_v4).then(|| demand(network.mtu.vxlan, VXLAN)),
            (vxlan && !has_v4 || pools.any(false, is_vxlan)).then(|| demand(network.mtu.vxlan_v6, VXLAN_V6)),
            ipip.then(|| demand(network.mtu.ipip, IPIP)),
        ];
        Self { interfaces: network.mtu.interfaces.clone(), demands: demands.into_iter().flatten().collect() }
    }
}
