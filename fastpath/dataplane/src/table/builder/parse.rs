//! Operations of the control plane, read and checked.

use std::net::IpAddr;
use std::sync::Arc;

use caracal_plane_api as plane;
use caracal_plane_api::op::Op;
use caracal_wire::MacAddr;

use super::error::Malformed;
use super::state::{EndpointSpec, HookSpec, HostEndpointSpec, Key, Target, TierSpec, TunnelSpec};
use crate::table::endpoint::{Addresses, MAX_ADDRESSES};
use crate::table::node::{DEFAULT_LOG_PREFIX, Failsafe, NodeConfig};
use crate::table::policy::{Member, RuleOwner};
use crate::table::prefix::{Prefix, PrefixError, address_from_plane};

/// What an operation is about.
pub(super) fn key_of(op: &Op) -> Result<Key, Malformed> {
    let policy = |id: &plane::PolicyId| {
        Key::Policy(RuleOwner {
            kind: id.kind.as_str().into(),
            namespace: id.namespace.as_str().into(),
            name: id.name.as_str().into(),
        })
    };
    Ok(match op {
        Op::NodeConfig(_) => Key::Node,
        Op::IpSet(plane::IpSet { id, .. })
        | Op::IpSetDelta(plane::IpSetDelta { id, .. })
        | Op::IpSetRemove(id) => Key::Set(id.as_str().into()),
        Op::Policy(stated) => policy(stated.id.as_ref().ok_or(Malformed::NoPolicyId)?),
        Op::PolicyRemove(id) => policy(id),
        Op::Profile(plane::Profile { name, .. }) | Op::ProfileRemove(name) => {
            Key::Profile(name.as_str().into())
        }
        Op::Endpoint(plane::Endpoint { id, .. }) | Op::EndpointRemove(id) => {
            Key::Endpoint(id.as_str().into())
        }
        Op::HostEndpoint(plane::HostEndpoint { id, .. }) | Op::HostEndpointRemove(id) => {
            Key::HostEndpoint(id.as_str().into())
        }
        Op::Service(plane::Service { id, .. }) | Op::ServiceRemove(id) => Key::Service(id.as_str().into()),
        Op::Tunnel(plane::Tunnel { node, .. }) | Op::TunnelRemove(node) => Key::Tunnel(node.as_str().into()),
        Op::Route(plane::Route { prefix, .. }) => Key::Route(Prefix::from_plane(prefix.as_ref())?),
        Op::RouteRemove(prefix) => Key::Route(Prefix::from_plane(Some(prefix))?),
    })
}

pub(super) fn members(
    members: &[plane::Member],
    hosts: Option<&plane::Hosts>,
) -> Result<impl Iterator<Item = Member>, Malformed> {
    let mut checked = members.iter().map(Member::from_plane).collect::<Result<Vec<Member>, _>>()?;
    if let Some(hosts) = hosts {
        checked.reserve(hosts.v4.len() / 4 + hosts.v6.len() / 16);
        checked.extend(packed::<4>(&hosts.v4)?.map(Member::host));
        checked.extend(packed::<16>(&hosts.v6)?.map(Member::host));
    }
    Ok(checked.into_iter())
}

/// Addresses, one after another.
fn packed<const BYTES: usize>(bytes: &[u8]) -> Result<impl Iterator<Item = IpAddr>, Malformed>
where
    IpAddr: From<[u8; BYTES]>,
{
    let (addresses, rest) = bytes.as_chunks::<BYTES>();
    match rest {
        [] => Ok(addresses.iter().map(|address| IpAddr::from(*address))),
        _ => Err(Malformed::PackedHosts { bytes: bytes.len(), each: BYTES }),
    }
}

fn optional_address(bytes: &[u8]) -> Result<Option<IpAddr>, PrefixError> {
    if bytes.is_empty() { Ok(None) } else { address_from_plane(bytes).map(Some) }
}

fn mac(bytes: &[u8]) -> Result<MacAddr, Malformed> {
    <[u8; 6]>::try_from(bytes).map(MacAddr).map_err(|_| Malformed::Mac(bytes.len()))
}

pub(super) fn node_from_plane(config: &plane::NodeConfig) -> Result<NodeConfig, Malformed> {
    if config.vni >= 1 << 24 {
        return Err(Malformed::Vni(config.vni));
    }
    let tunnel_address = optional_address(&config.tunnel_address)?;
    // Without a tunnel there is no MAC to give.
    let no_mac = config.tunnel_mac.is_empty() && tunnel_address.is_none();
    Ok(NodeConfig {
        name: config.node.as_str().into(),
        address: address_from_plane(&config.address)?,
        tunnel_address,
        tunnel_mac: if no_mac { MacAddr::ZERO } else { mac(&config.tunnel_mac)? },
        vni: config.vni,
        vxlan_port: u16::try_from(config.vxlan_port).map_err(|_| Malformed::Port(config.vxlan_port))?,
        host_port: config.host_port.as_str().into(),
        forward_port: config.forward_port.as_str().into(),
        keep_established: config.keep_established,
        endpoint_to_host: plane::EndpointToHost::try_from(config.endpoint_to_host)
            .map_err(|_| Malformed::EndpointToHost(config.endpoint_to_host))?,
        failsafe_inbound: failsafes_from_plane(&config.failsafe_inbound)?,
        failsafe_outbound: failsafes_from_plane(&config.failsafe_outbound)?,
        allow_vxlan_from_workloads: config.allow_vxlan_from_workloads,
        allow_ipip_from_workloads: config.allow_ipip_from_workloads,
        log_prefix: match config.log_prefix.as_str() {
            "" => DEFAULT_LOG_PREFIX.into(),
            prefix => prefix.into(),
        },
    })
}

fn failsafes_from_plane(stated: &[plane::Failsafe]) -> Result<Box<[Failsafe]>, Malformed> {
    let failsafes = stated.iter().map(|failsafe| {
        let net = failsafe.net.as_ref().map(|net| Prefix::from_plane(Some(net))).transpose()?;
        Ok(Failsafe {
            protocol: u8::try_from(failsafe.protocol).map_err(|_| Malformed::Protocol(failsafe.protocol))?,
            port: u16::try_from(failsafe.port).map_err(|_| Malformed::Port(failsafe.port))?,
            net,
        })
    });
    failsafes.collect()
}

pub(super) fn tunnel_from_plane(stated: &plane::Tunnel) -> Result<TunnelSpec, Malformed> {
    let tunnel_address = optional_address(&stated.tunnel_address)?;
    let no_mac = stated.tunnel_mac.is_empty() && tunnel_address.is_none();
    Ok(TunnelSpec {
        node_address: address_from_plane(&stated.node_address)?,
        tunnel_address,
        tunnel_mac: if no_mac { MacAddr::ZERO } else { mac(&stated.tunnel_mac)? },
    })
}

pub(super) fn target_from_plane(stated: &plane::Route) -> Result<Target, Malformed> {
    match &stated.target {
        Some(plane::route::Target::Remote(remote)) => {
            let encapsulation = plane::Encapsulation::try_from(remote.encapsulation)
                .map_err(|_| Malformed::Encapsulation(remote.encapsulation))?;
            Ok(Target::Remote { node: remote.node.as_str().into(), encapsulation })
        }
        Some(plane::route::Target::LocalBlock(_)) => Ok(Target::LocalBlock),
        Some(plane::route::Target::LocalHost(_)) => Ok(Target::LocalHost),
        None => Err(Malformed::NoTarget),
    }
}

pub(super) fn endpoint_from_plane(stated: &plane::Endpoint) -> Result<EndpointSpec, Malformed> {
    let addresses = addresses_from_plane(&stated.addresses)?;
    let allowed_sources = stated.allowed_sources.iter().map(|prefix| Prefix::from_plane(Some(prefix)));
    Ok(EndpointSpec {
        interface: stated.interface.as_str().into(),
        addresses: Addresses::new(&addresses)
            .ok_or(Malformed::TooManyAddresses { given: addresses.len(), most: MAX_ADDRESSES })?,
        ingress: tiers_from_plane(&stated.ingress)?,
        egress: tiers_from_plane(&stated.egress)?,
        profiles: names_from_plane(&stated.profiles),
        allowed_sources: allowed_sources.collect::<Result<_, _>>()?,
        staged_ingress: staged_from_plane(stated.staged_ingress.as_ref())?,
        staged_egress: staged_from_plane(stated.staged_egress.as_ref())?,
    })
}

pub(super) fn host_endpoint_from_plane(stated: &plane::HostEndpoint) -> Result<HostEndpointSpec, Malformed> {
    let hook = |hook: &Option<plane::Hook>| -> Result<HookSpec, Malformed> {
        match hook {
            Some(hook) => Ok(HookSpec {
                ingress: tiers_from_plane(&hook.ingress)?,
                egress: tiers_from_plane(&hook.egress)?,
            }),
            None => Ok(HookSpec::default()),
        }
    };
    Ok(HostEndpointSpec {
        interface: stated.interface.as_str().into(),
        addresses: addresses_from_plane(&stated.addresses)?.into(),
        // As `Hook` counts them.
        hooks: [
            hook(&stated.untracked)?,
            hook(&stated.pre_dnat)?,
            hook(&stated.normal)?,
            hook(&stated.forward)?,
        ],
        profiles: names_from_plane(&stated.profiles),
    })
}

fn addresses_from_plane(addresses: &[Vec<u8>]) -> Result<Vec<IpAddr>, PrefixError> {
    addresses.iter().map(|address| address_from_plane(address)).collect()
}

fn names_from_plane(names: &[String]) -> Vec<Arc<str>> {
    names.iter().map(|name| name.as_str().into()).collect()
}

fn staged_from_plane(staged: Option<&plane::StagedTiers>) -> Result<Option<Vec<TierSpec>>, Malformed> {
    staged.map(|staged| tiers_from_plane(&staged.tiers)).transpose()
}

fn tiers_from_plane(bindings: &[plane::TierBinding]) -> Result<Vec<TierSpec>, Malformed> {
    let tiers = bindings.iter().map(|binding| {
        let default_deny = match plane::Action::try_from(binding.default_action) {
            Ok(plane::Action::Deny) => true,
            Ok(plane::Action::Pass) => false,
            _ => return Err(Malformed::TierDefault(binding.default_action)),
        };
        let policies = binding.policies.iter().map(|id| RuleOwner {
            kind: id.kind.as_str().into(),
            namespace: id.namespace.as_str().into(),
            name: id.name.as_str().into(),
        });
        Ok(TierSpec { name: binding.tier.as_str().into(), default_deny, policies: policies.collect() })
    });
    tiers.collect()
}
