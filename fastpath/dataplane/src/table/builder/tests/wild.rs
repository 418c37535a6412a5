//! Whatever a controller sends, it is applied or refused.

use caracal_plane_api as plane;
use caracal_plane_api::op::Op;
use proptest::prelude::*;

use super::{builder, transaction};

fn text() -> impl Strategy<Value = String> {
    prop::sample::select(&["", "a", "b"][..]).prop_map(String::from)
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(text(), 0..3)
}

fn number() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), Just(4), Just(6), Just(32), Just(128), Just(65535), Just(65536), any::<u32>()]
}

fn choice() -> impl Strategy<Value = i32> {
    prop_oneof![4 => 0..4i32, 1 => any::<i32>()]
}

fn address() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(0u8), Just(10), any::<u8>()];
    let length = prop_oneof![4 => Just(4usize), 2 => Just(16), 1 => Just(6), 1 => 0..20usize];
    length.prop_flat_map(move |length| prop::collection::vec(byte.clone(), length))
}

fn prefix() -> impl Strategy<Value = Option<plane::Prefix>> {
    let prefix = (address(), number()).prop_map(|(address, length)| plane::Prefix { address, length });
    let whole = prop_oneof![Just(4usize), Just(16)]
        .prop_map(|bytes| plane::Prefix { address: vec![0; bytes], length: bytes as u32 });
    prop::option::weighted(0.9, prop_oneof![prefix, whole])
}

fn members() -> impl Strategy<Value = Vec<plane::Member>> {
    let member = (prefix(), number(), number());
    let member = member.prop_map(|(prefix, protocol, port)| plane::Member { prefix, protocol, port });
    prop::collection::vec(member, 0..3)
}

fn entity() -> impl Strategy<Value = Option<plane::Entity>> {
    let range = (number(), number()).prop_map(|(first, last)| plane::PortRange { first, last });
    let ranges = prop::collection::vec(range, 0..2);
    let entity = ((texts(), texts()), ranges, texts(), texts(), any::<bool>());
    let entity = entity.prop_map(|((in_all, in_none), ports, named_ports, not_named_ports, negate)| {
        let (ports, not_ports) = if negate { (vec![], ports) } else { (ports, vec![]) };
        plane::Entity { in_all, in_none, ports, named_ports, not_ports, not_named_ports }
    });
    prop::option::of(entity)
}

fn rules() -> impl Strategy<Value = Vec<plane::Rule>> {
    let rule = (choice(), number(), (number(), number()), (icmp(), icmp()), entity(), entity());
    let rule = rule.prop_map(
        |(action, ip_version, (protocol, not_protocol), (icmp, not_icmp), source, destination)| plane::Rule {
            action,
            ip_version,
            protocol,
            source,
            destination,
            not_protocol,
            icmp,
            not_icmp,
        },
    );
    prop::collection::vec(rule, 0..3)
}

fn policy_id() -> impl Strategy<Value = plane::PolicyId> {
    text().prop_map(|name| plane::PolicyId { name, ..Default::default() })
}

fn tiers() -> impl Strategy<Value = Vec<plane::TierBinding>> {
    let tier = (text(), choice(), prop::collection::vec(policy_id(), 0..2));
    let tier = tier.prop_map(|(tier, default_action, policies)| plane::TierBinding {
        tier,
        default_action,
        policies,
    });
    prop::collection::vec(tier, 0..2)
}

fn hook() -> impl Strategy<Value = Option<plane::Hook>> {
    prop::option::of((tiers(), tiers()).prop_map(|(ingress, egress)| plane::Hook { ingress, egress }))
}

fn staged() -> impl Strategy<Value = Option<plane::StagedTiers>> {
    prop::option::of(tiers().prop_map(|tiers| plane::StagedTiers { tiers }))
}

fn hosts() -> impl Strategy<Value = Option<plane::Hosts>> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..40);
    prop::option::weighted(0.3, (bytes(), bytes()).prop_map(|(v4, v6)| plane::Hosts { v4, v6 }))
}

fn icmp() -> impl Strategy<Value = Option<plane::Icmp>> {
    let icmp = (number(), prop::option::of(number()));
    prop::option::weighted(0.2, icmp.prop_map(|(r#type, code)| plane::Icmp { r#type, code }))
}

fn target() -> impl Strategy<Value = Option<plane::route::Target>> {
    prop_oneof![
        Just(None),
        Just(Some(plane::route::Target::LocalBlock(plane::LocalBlock {}))),
        Just(Some(plane::route::Target::LocalHost(plane::LocalHost {}))),
        (text(), choice(), any::<bool>()).prop_map(|(node, encapsulation, over_ipv6)| {
            Some(plane::route::Target::Remote(plane::RemoteNode { node, encapsulation, over_ipv6 }))
        }),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let failsafe = (number(), number(), prefix());
    let failsafe = failsafe.prop_map(|(protocol, port, net)| plane::Failsafe { protocol, port, net });
    let failsafes = prop::collection::vec(failsafe, 0..2);
    let node = ((address(), address()), address(), address(), number(), number(), choice(), failsafes);
    let addresses = prop::collection::vec(address(), 0..6);
    let sources = prop::collection::vec(prefix().prop_map(Option::unwrap_or_default), 0..2);
    let endpoint = (text(), addresses, (tiers(), tiers()), (staged(), staged()), texts(), sources);
    prop_oneof![
        node.prop_map(
            |(addresses, tunnel_address, tunnel_mac, vni, vxlan_port, endpoint_to_host, failsafe_inbound)| {
                let (address, address_v6) = addresses;
                Op::NodeConfig(plane::NodeConfig {
                    address,
                    address_v6,
                    tunnel_address,
                    tunnel_mac,
                    vni,
                    vxlan_port,
                    endpoint_to_host,
                    failsafe_inbound,
                    ..Default::default()
                })
            }
        ),
        (text(), members(), hosts()).prop_map(|(id, members, hosts)| Op::IpSet(plane::IpSet {
            id,
            members,
            hosts
        })),
        (text(), members(), members(), hosts(), hosts()).prop_map(
            |(id, add, remove, add_hosts, remove_hosts)| {
                Op::IpSetDelta(plane::IpSetDelta { id, add, remove, add_hosts, remove_hosts })
            }
        ),
        text().prop_map(Op::IpSetRemove),
        (prop::option::of(policy_id()), text(), rules(), rules())
            .prop_map(|(id, tier, ingress, egress)| Op::Policy(plane::Policy { id, tier, ingress, egress })),
        policy_id().prop_map(Op::PolicyRemove),
        (text(), rules(), rules()).prop_map(|(name, ingress, egress)| Op::Profile(plane::Profile {
            name,
            ingress,
            egress
        })),
        text().prop_map(Op::ProfileRemove),
        endpoint.prop_map(|(id, addresses, (ingress, egress), staged, profiles, allowed_sources)| {
            let (staged_ingress, staged_egress) = staged;
            Op::Endpoint(plane::Endpoint {
                id,
                interface: "i".into(),
                addresses,
                ingress,
                egress,
                profiles,
                staged_ingress,
                staged_egress,
                allowed_sources,
                ..plane::Endpoint::default()
            })
        }),
        text().prop_map(Op::EndpointRemove),
        (text(), prop::collection::vec(address(), 0..3), (hook(), hook(), hook(), hook()), texts()).prop_map(
            |(id, addresses, (untracked, pre_dnat, normal, forward), profiles)| {
                let interface = "*".into();
                Op::HostEndpoint(plane::HostEndpoint {
                    id,
                    interface,
                    addresses,
                    untracked,
                    pre_dnat,
                    normal,
                    forward,
                    profiles,
                })
            }
        ),
        text().prop_map(Op::HostEndpointRemove),
        (text(), address(), address(), address(), address()).prop_map(
            |(node, node_address, node_address_v6, tunnel_address, tunnel_mac)| {
                Op::Tunnel(plane::Tunnel {
                    node,
                    node_address,
                    node_address_v6,
                    tunnel_address,
                    tunnel_mac,
                    ..plane::Tunnel::default()
                })
            }
        ),
        text().prop_map(Op::TunnelRemove),
        (prefix(), target()).prop_map(|(prefix, target)| Op::Route(plane::Route { prefix, target })),
        prefix().prop_map(|prefix| Op::RouteRemove(prefix.unwrap_or_default())),
    ]
}

proptest! {
    #[test]
    fn wild_operations_are_applied_or_refused_with_a_reason(
        transactions in prop::collection::vec((prop::collection::vec(op(), 1..4), any::<bool>(), any::<bool>()), 1..30),
    ) {
        let mut builder = builder();
        for (ops, resync, in_sync) in transactions {
            if resync {
                builder.begin_resync();
            }
            let stated = plane::Transaction { in_sync, ..transaction(ops) };
            let before = builder.in_sync();
            match builder.apply(&stated) {
                Ok(()) => prop_assert!(builder.in_sync() || !in_sync),
                Err(refused) => {
                    prop_assert!(!refused.to_string().is_empty());
                    prop_assert_eq!(builder.in_sync(), before);
                }
            }
            let tables = builder.build();
            prop_assert_eq!(tables.endpoints.iter().count(), builder.endpoints().count());
        }
    }
}
