//! The address pools of the default world: the case's; where it has none of a family, 10.244.0.0/16 (and
//! fd00:10:244::/48, when anything of the case is IPv6); and for every given address of a pod that is in none of them,
//! the /16 (IPv6: /64) around it. What the case does not write is VXLAN everywhere, with natOutgoing.

use std::net::{IpAddr, Ipv6Addr};

use super::{Case, WorldNode, WorldPod};
use crate::calico::{IPPool, IPPoolSpec};
use crate::cidr::Cidr;
use crate::object::Object;

/// A pool of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorldPool {
    /// Its addresses.
    pub cidr: Cidr,
    /// Between which nodes its packets go in VXLAN.
    pub vxlan: Between,
    /// Between which nodes its packets go in IPIP.
    pub ipip: Between,
    /// Whether packets that leave all pools get the node's address.
    pub nat_outgoing: bool,
}

/// Between which nodes packets are encapsulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Between {
    /// None.
    Never,
    /// All.
    All,
    /// Those whose addresses are in different subnets.
    Subnets,
}

/// How a packet gets from node to node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carriage {
    /// As it is.
    Plain,
    /// In VXLAN.
    Vxlan,
    /// In IPIP.
    Ipip,
}

impl WorldPool {
    /// How its packets get from `from` to `to`.
    pub fn carriage(&self, from: &WorldNode, to: &WorldNode) -> Carriage {
        let is_crossed = match (self.cidr.is_ipv4(), from.subnet_v6, to.address_v6) {
            (true, _, _) => !from.subnet.contains(to.address.into()),
            (false, Some(subnet), Some(address)) => !subnet.contains(address.into()),
            (false, _, _) => true,
        };
        let applies = |between| between == Between::All || (between == Between::Subnets && is_crossed);
        match (applies(self.vxlan), applies(self.ipip)) {
            (true, _) => Carriage::Vxlan,
            (false, true) => Carriage::Ipip,
            (false, false) => Carriage::Plain,
        }
    }
}

/// The most specific pool that holds an address.
pub(super) fn pool_of(pools: &[WorldPool], address: IpAddr) -> Option<&WorldPool> {
    pools.iter().filter(|pool| pool.cidr.contains(address)).max_by_key(|pool| pool.cidr.length())
}

/// Pools that packets of pods may be in, and the objects that the case does not write.
#[derive(Debug, Default)]
pub(super) struct Pools {
    /// All for workloads or tunnels, disabled ones too.
    pub all: Vec<WorldPool>,
    /// Those that pods get addresses of, in the order of the case.
    allocatable: Vec<Cidr>,
    /// Those that are not written.
    pub made: Vec<Object>,
}

impl Pools {
    /// The pools that the case writes, and the default ones where it writes none of a family.
    pub fn new(objects: &[Object], is_dual_stack: bool) -> Self {
        let mut pools = Self::default();
        for object in objects {
            let Object::IPPool(object) = object else { continue };
            let spec = &object.spec;
            let Ok(cidr) = spec.cidr.parse::<Cidr>() else { continue };
            let serves = |purpose: &str| {
                spec.allowed_uses.as_ref().is_none_or(|uses| uses.iter().any(|other| other == purpose))
            };
            if !serves("Workload") && !serves("Tunnel") {
                continue;
            }
            if serves("Workload") && spec.disabled != Some(true) {
                pools.allocatable.push(cidr);
            }
            pools.all.push(WorldPool {
                cidr,
                vxlan: between(spec.vxlan_mode.as_deref()),
                ipip: between(spec.ipip_mode.as_deref()),
                nat_outgoing: spec.nat_outgoing == Some(true),
            });
        }
        let defaults = [
            ("default-ipv4-ippool", IpAddr::from([10, 244, 0, 0]), 16, true),
            (
                "default-ipv6-ippool",
                Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0).into(),
                48,
                is_dual_stack,
            ),
        ];
        for (name, address, length, is_needed) in defaults {
            let Ok(cidr) = Cidr::new(address, length) else { continue };
            if is_needed && !pools.all.iter().any(|pool| pool.cidr.is_ipv4() == cidr.is_ipv4()) {
                pools.make(name.to_owned(), cidr);
                pools.allocatable.push(cidr);
            }
        }
        pools
    }

    fn make(&mut self, name: String, cidr: Cidr) {
        let mut pool = Object::from(IPPool {
            spec: IPPoolSpec {
                cidr: cidr.to_string(),
                vxlan_mode: Some("Always".to_owned()),
                nat_outgoing: Some(true),
                ..IPPoolSpec::default()
            },
            ..IPPool::default()
        });
        pool.metadata_mut().name = Some(name);
        pool.set_defaults();
        self.made.push(pool);
        self.all.push(WorldPool { cidr, vxlan: Between::All, ipip: Between::Never, nat_outgoing: true });
    }

    /// The block of node `number`: `default` if a pool has it, else the block of that number of the first pool of its
    /// family; none when that pool has no room for it.
    pub fn block(&self, number: u8, default: Cidr) -> Option<Cidr> {
        let of_family = || self.allocatable.iter().filter(|pool| pool.is_ipv4() == default.is_ipv4());
        let Some(first) = of_family().next().filter(|_| !of_family().any(|pool| pool.covers(&default)))
        else {
            return Some(default);
        };
        let longest = if first.is_ipv4() { 28 } else { 124 };
        let length = first.length().saturating_add(8).clamp(default.length(), longest);
        let last = 1u16.checked_shl(u32::from(length.checked_sub(first.length())?)).unwrap_or(u16::MAX);
        if u16::from(number) >= last {
            return None;
        }
        let address = match first.address() {
            IpAddr::V4(first) => IpAddr::from(
                (u32::from(first) | u32::from(number).checked_shl(32 - u32::from(length))?).to_be_bytes(),
            ),
            IpAddr::V6(first) => IpAddr::from(
                (u128::from(first) | u128::from(number).checked_shl(128 - u32::from(length))?).to_be_bytes(),
            ),
        };
        Cidr::new(address, length).ok()
    }

    /// Makes pools for the addresses of pods that are in none.
    pub fn hold(&mut self, pods: &[WorldPod]) {
        for address in pods.iter().filter(|pod| !pod.host_network).flat_map(|pod| &pod.addresses) {
            if pool_of(&self.all, *address).is_some() {
                continue;
            }
            let (usual, most) = if address.is_ipv4() { (16, 32) } else { (64, 128) };
            let widest = (usual..=most)
                .filter_map(|length| Cidr::new(*address, length).ok())
                .find(|cidr| !self.all.iter().any(|pool| pool.cidr.covers(cidr) || cidr.covers(&pool.cidr)));
            if let Some(cidr) = widest {
                let text: String = cidr.to_string();
                let name = text.replace("::/", "-").replace([':', '.', '/'], "-");
                self.make(format!("pods-{}", name.trim_matches('-')), cidr);
            }
        }
    }
}

fn between(mode: Option<&str>) -> Between {
    match mode {
        Some("Always") => Between::All,
        Some("CrossSubnet") => Between::Subnets,
        _ => Between::Never,
    }
}

/// Whether anything of the case is IPv6: then its nodes have IPv6 addresses, too.
pub(super) fn is_dual_stack(case: &Case, objects: &[Object], has_ipv6: bool) -> bool {
    use crate::policy::IpVersion::V6;
    let of_flows = case.flows.iter().any(|flow| flow.ip_version == V6)
        || case.host_flows.iter().any(|flow| flow.ip_version == V6);
    let of_object = |object: &Object| match object {
        Object::IPPool(pool) => pool.spec.cidr.contains(':'),
        Object::Service(service) => service.spec.as_ref().is_some_and(|spec| {
            let wants_both = spec.ip_family_policy.as_deref() == Some("RequireDualStack");
            wants_both || spec.ip_families.iter().flatten().any(|family| family == "IPv6")
        }),
        _ => false,
    };
    has_ipv6
        || of_flows
        || case.externals.iter().any(|external| external.ip.is_ipv6())
        || objects.iter().any(of_object)
}
