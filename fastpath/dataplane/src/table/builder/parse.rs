//! Operations of the control plane, read and checked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use caracal_plane_api as plane;
use caracal_plane_api::op::Op;
use caracal_wire::MacAddr;

use super::error::Malformed;
use super::state::{
    EndpointSpec, FrontendSpec, HookSpec, HostEndpointSpec, Key, ServiceSpec, Target, TierSpec, TunnelSpec,
};
use crate::table::endpoint::{Addresses, MAX_ADDRESSES, PodPort};
use crate::table::fib::Encapsulation;
use crate::table::node::{
    DEFAULT_LOG_PREFIX, Failsafe, FlowTimeouts, NatOutgoing, NodeConfig, NodePorts, Pool,
};
use crate::table::policy::{Member, RuleOwner};
use crate::table::prefix::{Prefix, PrefixError, address_from_plane};
use crate::table::service::{BACKENDS_MAX, Backend};
use crate::table::tunnel::Vtep;

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

fn optional_v4(what: &'static str, bytes: &[u8]) -> Result<Option<Ipv4Addr>, Malformed> {
    optional::<4>(what, bytes, "IPv4").map(|octets| octets.map(Ipv4Addr::from))
}

fn optional_v6(what: &'static str, bytes: &[u8]) -> Result<Option<Ipv6Addr>, Malformed> {
    optional::<16>(what, bytes, "IPv6").map(|octets| octets.map(Ipv6Addr::from))
}

fn optional<const BYTES: usize>(
    what: &'static str,
    bytes: &[u8],
    family: &'static str,
) -> Result<Option<[u8; BYTES]>, Malformed> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let octets = bytes.try_into().map_err(|_| Malformed::Family { what, bytes: bytes.len(), family })?;
    Ok(Some(octets))
}

/// An end of VXLAN; a node that has none has no MAC for it either.
fn vtep<A>(address: Option<A>, mac_bytes: &[u8]) -> Result<Option<Vtep<A>>, Malformed> {
    if mac_bytes.is_empty() && address.is_none() {
        return Ok(None);
    }
    Ok(Some(Vtep { mac: mac(mac_bytes)?, address }))
}

fn ports_from_plane(range: &plane::PortRange) -> Result<RangeInclusive<u16>, Malformed> {
    let plane::PortRange { first, last } = *range;
    let port = |port: u32| u16::try_from(port).map_err(|_| Malformed::Port(port));
    let ports = port(first)?..=port(last)?;
    if ports.is_empty() { Err(Malformed::PortRange { first, last }) } else { Ok(ports) }
}

fn prefixes_from_plane(prefixes: &[plane::Prefix]) -> Result<Box<[Prefix]>, PrefixError> {
    prefixes.iter().map(|prefix| Prefix::from_plane(Some(prefix))).collect()
}

fn mac(bytes: &[u8]) -> Result<MacAddr, Malformed> {
    <[u8; 6]>::try_from(bytes).map(MacAddr).map_err(|_| Malformed::Mac(bytes.len()))
}

pub(super) fn node_from_plane(config: &plane::NodeConfig) -> Result<NodeConfig, Malformed> {
    if config.vni >= 1 << 24 {
        return Err(Malformed::Vni(config.vni));
    }
    let address_v4 = optional_v4("address", &config.address)?;
    let address_v6 = optional_v6("address_v6", &config.address_v6)?;
    if address_v4.is_none() && address_v6.is_none() {
        return Err(Malformed::NoNodeAddress);
    }
    Ok(NodeConfig {
        name: config.node.as_str().into(),
        address_v4,
        address_v6,
        vtep_v4: vtep(optional_v4("tunnel_address", &config.tunnel_address)?, &config.tunnel_mac)?,
        vtep_v6: vtep(optional_v6("tunnel_address_v6", &config.tunnel_address_v6)?, &config.tunnel_mac_v6)?,
        ipip_address: optional_v4("ipip_tunnel_address", &config.ipip_tunnel_address)?,
        tunnel_sources: prefixes_from_plane(&config.tunnel_sources)?,
        nat_outgoing: config.nat_outgoing.as_ref().map(nat_outgoing_from_plane).transpose()?,
        flow_timeouts: config.flow_timeouts.as_ref().map(timeouts_from_plane).unwrap_or_default(),
        node_ports: config.node_ports.as_ref().map(node_ports_from_plane).transpose()?,
        plain_pools: prefixes_from_plane(&config.plain_pools)?,
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

fn nat_outgoing_from_plane(stated: &plane::NatOutgoing) -> Result<NatOutgoing, Malformed> {
    let pools = stated.pools.iter().map(|pool| {
        let prefix = Prefix::from_plane(pool.prefix.as_ref())?;
        Ok(Pool { prefix, nat_outgoing: pool.nat_outgoing })
    });
    Ok(NatOutgoing {
        pools: pools.collect::<Result<_, Malformed>>()?,
        exclude_hosts: stated.exclude_hosts,
        address: optional_v4("natOutgoingAddress", &stated.address)?,
        ports: stated.ports.as_ref().map(ports_from_plane).transpose()?,
    })
}

/// More than 49 days is as good as 49 days.
fn timeouts_from_plane(stated: &plane::FlowTimeouts) -> FlowTimeouts {
    let or = |stated: u64, default: u32| match stated {
        0 => default,
        stated => u32::try_from(stated).unwrap_or(u32::MAX),
    };
    let default = FlowTimeouts::default();
    FlowTimeouts {
        tcp_syn_sent: or(stated.tcp_syn_sent, default.tcp_syn_sent),
        tcp_established: or(stated.tcp_established, default.tcp_established),
        tcp_fins_seen: or(stated.tcp_fins_seen, default.tcp_fins_seen),
        tcp_reset_seen: or(stated.tcp_reset_seen, default.tcp_reset_seen),
        udp: or(stated.udp, default.udp),
        icmp: or(stated.icmp, default.icmp),
        generic: or(stated.generic, default.generic),
    }
}

fn node_ports_from_plane(stated: &plane::NodePorts) -> Result<NodePorts, Malformed> {
    Ok(NodePorts {
        ranges: stated.ranges.iter().map(ports_from_plane).collect::<Result<_, _>>()?,
        addresses: prefixes_from_plane(&stated.addresses)?,
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
    let address_v4 = optional_v4("node_address", &stated.node_address)?;
    let address_v6 = optional_v6("node_address_v6", &stated.node_address_v6)?;
    if address_v4.is_none() && address_v6.is_none() {
        return Err(Malformed::NoNodeAddress);
    }
    Ok(TunnelSpec {
        address_v4,
        vtep_v4: vtep(optional_v4("tunnel_address", &stated.tunnel_address)?, &stated.tunnel_mac)?,
        address_v6,
        vtep_v6: vtep(optional_v6("tunnel_address_v6", &stated.tunnel_address_v6)?, &stated.tunnel_mac_v6)?,
        ipip_address: optional_v4("ipip_tunnel_address", &stated.ipip_tunnel_address)?,
    })
}

pub(super) fn target_from_plane(stated: &plane::Route) -> Result<Target, Malformed> {
    match &stated.target {
        Some(plane::route::Target::Remote(remote)) => {
            let encapsulation = plane::Encapsulation::try_from(remote.encapsulation)
                .map_err(|_| Malformed::Encapsulation(remote.encapsulation))?;
            let encapsulation = match encapsulation {
                plane::Encapsulation::None => Encapsulation::None,
                plane::Encapsulation::Vxlan if remote.over_ipv6 => Encapsulation::VxlanOverIpv6,
                plane::Encapsulation::Vxlan => Encapsulation::Vxlan,
                plane::Encapsulation::Ipip => Encapsulation::Ipip,
            };
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
        port: match plane::PodPort::try_from(stated.port).map_err(|_| Malformed::PodPort(stated.port))? {
            plane::PodPort::Auto => PodPort::Auto,
            plane::PodPort::AfXdp => PodPort::AfXdp,
            plane::PodPort::Packet => PodPort::Packet,
        },
        addresses: Addresses::new(&addresses)
            .ok_or(Malformed::TooManyAddresses { given: addresses.len(), most: MAX_ADDRESSES })?,
        ingress: tiers_from_plane(&stated.ingress)?,
        egress: tiers_from_plane(&stated.egress)?,
        profiles: names_from_plane(&stated.profiles),
        allowed_sources: allowed_sources.collect::<Result<_, _>>()?,
        limits_in: stated.ingress_limits.as_ref().map(limits_from_plane).unwrap_or_default(),
        limits_out: stated.egress_limits.as_ref().map(limits_from_plane).unwrap_or_default(),
        staged_ingress: staged_from_plane(stated.staged_ingress.as_ref())?,
        staged_egress: staged_from_plane(stated.staged_egress.as_ref())?,
    })
}

fn limits_from_plane(stated: &plane::Limits) -> crate::table::Limits {
    crate::table::Limits {
        packets_per_second: stated.packets_per_second,
        packet_burst: stated.packet_burst,
        bits_per_second: stated.bits_per_second,
        burst_bits: stated.burst_bits,
        peak_bits_per_second: stated.peak_bits_per_second,
        peak_burst_bytes: stated.peak_burst_bytes,
        connections: stated.connections,
    }
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

pub(super) fn service_from_plane(stated: &plane::Service) -> Result<ServiceSpec, Malformed> {
    let protocol = u8::try_from(stated.protocol).ok().filter(|protocol| *protocol != 0);
    let port = |port: u32| u16::try_from(port).ok().filter(|p| *p != 0).ok_or(Malformed::Port(port));
    let frontend = |frontend: &plane::Frontend| -> Result<FrontendSpec, Malformed> {
        Ok(FrontendSpec {
            address: match frontend.address.as_slice() {
                [] => None,
                address => Some(address_from_plane(address)?),
            },
            port: port(frontend.port)?,
            external: frontend.external,
            sources: prefixes_from_plane(&frontend.sources)?.into(),
        })
    };
    let backends = |stated: &[plane::Backend]| -> Result<Vec<Backend>, Malformed> {
        let backends = stated.iter().map(|backend| {
            Ok(Backend { address: address_from_plane(&backend.address)?, port: port(backend.port)? })
        });
        let mut backends = backends.collect::<Result<Vec<Backend>, Malformed>>()?;
        backends.sort_unstable();
        backends.dedup();
        match backends.len() {
            given if given > BACKENDS_MAX => Err(Malformed::TooManyBackends { given, most: BACKENDS_MAX }),
            _ => Ok(backends),
        }
    };
    Ok(ServiceSpec {
        protocol: protocol.ok_or(Malformed::Protocol(stated.protocol))?,
        frontends: stated.frontends.iter().map(frontend).collect::<Result<_, _>>()?,
        cluster: backends(&stated.cluster)?,
        local: backends(&stated.local)?,
        draining: backends(&stated.draining)?,
        internal_local: stated.internal_local,
        external_local: stated.external_local,
        // More than 49 days is as good as 49 days.
        affinity_ms: stated.affinity_seconds.saturating_mul(1000),
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
