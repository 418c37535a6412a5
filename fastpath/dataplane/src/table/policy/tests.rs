use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use caracal_plane_api as plane;
use caracal_plane_api::op::Op;
use proptest::prelude::*;

use super::reference::Reference;
use super::*;
use crate::table::{TableBuilder, Tables};

// A small universe, so that sets overlap, rules meet and steps undo each other.

const PEERS: [&str; 7] = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.1.1", "192.0.2.1", "fd00::1", "fd00::2"];
const PREFIXES: [(&str, u8); 9] = [
    ("10.0.0.1", 32),
    ("10.0.0.2", 32),
    ("10.0.0.3", 32),
    ("10.0.0.2", 31),
    ("10.0.0.0", 8),
    ("0.0.0.0", 0),
    ("fd00::1", 128),
    ("fd00::", 64),
    ("::", 0),
];
const SETS: [&str; 4] = ["s0", "s1", "s2", "s3"];
const POLICIES: [&str; 4] = ["p0", "p1", "p2", "p3"];
const PROFILES: [&str; 2] = ["k0", "k1"];
const ENDPOINTS: [&str; 2] = ["a/x", "a/y"];

fn bytes(address: &str) -> Vec<u8> {
    match address.parse().unwrap() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn name(of: &'static [&'static str]) -> impl Strategy<Value = String> + Clone {
    prop::sample::select(of).prop_map(String::from)
}

fn some(of: &'static [&'static str], most: usize) -> impl Strategy<Value = Vec<String>> {
    prop::sample::subsequence(of, 0..=most)
        .prop_shuffle()
        .prop_map(|names| names.into_iter().map(String::from).collect())
}

fn protocol() -> impl Strategy<Value = u32> {
    prop_oneof![3 => Just(6), 2 => Just(17), 1 => Just(132), 2 => Just(1), 1 => Just(58)]
}

fn port() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), Just(1), Just(2), Just(80), Just(81), Just(65535)]
}

fn member() -> impl Strategy<Value = plane::Member> {
    let as_port = prop_oneof![2 => Just((0, 0)), 1 => (protocol(), port())];
    (prop::sample::select(&PREFIXES[..]), as_port).prop_map(|((address, length), (protocol, port))| {
        let prefix = plane::Prefix { address: bytes(address), length: length.into() };
        plane::Member { prefix: Some(prefix), protocol, port }
    })
}

fn members() -> impl Strategy<Value = Vec<plane::Member>> {
    prop::collection::vec(member(), 0..5)
}

fn entity() -> impl Strategy<Value = Option<plane::Entity>> {
    let range = || (port(), port()).prop_map(|(a, b)| plane::PortRange { first: a.min(b), last: a.max(b) });
    let ranges = |weight| {
        let some = prop::collection::vec(range(), 1..3);
        prop_oneof![weight => Just(vec![]).boxed(), 2 => some.boxed()]
    };
    let named = |weight| prop_oneof![weight => Just(vec![]).boxed(), 1 => some(&SETS, 2).boxed()];
    let entity = (some(&SETS, 2), some(&SETS, 1), ranges(3), named(3), ranges(9), named(6));
    let entity = entity.prop_map(|(in_all, in_none, ports, named_ports, not_ports, not_named_ports)| {
        plane::Entity { in_all, in_none, ports, named_ports, not_ports, not_named_ports }
    });
    prop::option::of(entity)
}

fn icmp() -> impl Strategy<Value = Option<plane::Icmp>> {
    let code = prop::option::of(prop::sample::select(&[0, 1, 255][..]));
    let icmp = (prop::sample::select(&[0, 3, 8, 128, 255][..]), code);
    prop::option::weighted(0.2, icmp.prop_map(|(r#type, code)| plane::Icmp { r#type, code }))
}

fn rule() -> impl Strategy<Value = plane::Rule> {
    let action = prop_oneof![
        4 => Just(plane::Action::Allow),
        2 => Just(plane::Action::Deny),
        2 => Just(plane::Action::Pass),
        1 => Just(plane::Action::Log),
    ];
    let version = prop_oneof![6 => Just(0), 1 => Just(4), 1 => Just(6)];
    let protocol_or_any = || prop_oneof![Just(0).boxed(), protocol().boxed()];
    let not_protocol = prop_oneof![4 => Just(0).boxed(), 1 => protocol().boxed()];
    (action, version, (protocol_or_any(), not_protocol), (icmp(), icmp()), entity(), entity()).prop_map(
        |(action, ip_version, (protocol, not_protocol), (icmp, not_icmp), source, destination)| plane::Rule {
            action: action.into(),
            ip_version,
            protocol,
            source,
            destination,
            not_protocol,
            icmp,
            not_icmp,
        },
    )
}

fn rules() -> impl Strategy<Value = Vec<plane::Rule>> {
    prop::collection::vec(rule(), 0..5)
}

fn policy_id(name: String) -> plane::PolicyId {
    plane::PolicyId { kind: "NetworkPolicy".into(), namespace: "a".into(), name }
}

fn tiers() -> impl Strategy<Value = Vec<plane::TierBinding>> {
    let default = prop_oneof![2 => Just(plane::Action::Deny), 1 => Just(plane::Action::Pass)];
    let tier = (default, some(&POLICIES, 3));
    prop::collection::vec(tier, 0..3).prop_map(|tiers| {
        let tiers = tiers.into_iter().enumerate();
        tiers
            .map(|(i, (default, policies))| plane::TierBinding {
                tier: format!("t{i}"),
                default_action: default.into(),
                policies: policies.into_iter().map(policy_id).collect(),
            })
            .collect()
    })
}

fn hosts() -> impl Strategy<Value = Option<plane::Hosts>> {
    let of = |v4: bool| {
        let of: Vec<Vec<u8>> =
            PEERS.iter().map(|peer| bytes(peer)).filter(|b| (b.len() == 4) == v4).collect();
        prop::sample::subsequence(of, 0..=2).prop_map(|some| some.concat())
    };
    prop::option::of((of(true), of(false)).prop_map(|(v4, v6)| plane::Hosts { v4, v6 }))
}

fn endpoint() -> impl Strategy<Value = plane::Endpoint> {
    let addresses = prop::sample::subsequence(&PEERS[..], 0..=2);
    let staged = || prop::option::of(tiers().prop_map(|tiers| plane::StagedTiers { tiers }));
    (name(&ENDPOINTS), addresses, (tiers(), tiers()), (staged(), staged()), some(&PROFILES, 2)).prop_map(
        |(id, addresses, (ingress, egress), (staged_ingress, staged_egress), profiles)| plane::Endpoint {
            interface: format!("cali-{id}"),
            id,
            addresses: addresses.into_iter().map(bytes).collect(),
            ingress,
            egress,
            profiles,
            staged_ingress,
            staged_egress,
            ..plane::Endpoint::default()
        },
    )
}

fn set() -> impl Strategy<Value = plane::IpSet> {
    (name(&SETS), members(), hosts()).prop_map(|(id, members, hosts)| plane::IpSet { id, members, hosts })
}

fn set_delta() -> impl Strategy<Value = plane::IpSetDelta> {
    let changes = (members(), members(), hosts(), hosts());
    (name(&SETS), changes).prop_map(|(id, (add, remove, add_hosts, remove_hosts))| plane::IpSetDelta {
        id,
        add,
        remove,
        add_hosts,
        remove_hosts,
    })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => set().prop_map(Op::IpSet),
        6 => set_delta().prop_map(Op::IpSetDelta),
        1 => name(&SETS).prop_map(Op::IpSetRemove),
        5 => (name(&POLICIES), rules(), rules()).prop_map(|(name, ingress, egress)| {
            Op::Policy(plane::Policy { id: Some(policy_id(name)), tier: "t".into(), ingress, egress })
        }),
        1 => name(&POLICIES).prop_map(|name| Op::PolicyRemove(policy_id(name))),
        2 => (name(&PROFILES), rules(), rules())
            .prop_map(|(name, ingress, egress)| Op::Profile(plane::Profile { name, ingress, egress })),
        1 => name(&PROFILES).prop_map(Op::ProfileRemove),
        5 => endpoint().prop_map(Op::Endpoint),
        1 => name(&ENDPOINTS).prop_map(Op::EndpointRemove),
    ]
}

/// Everything there, so that most steps after it are accepted.
fn beginning() -> impl Strategy<Value = Vec<Op>> {
    let sets = prop::collection::vec((members(), hosts()), SETS.len());
    let policies = prop::collection::vec((rules(), rules()), POLICIES.len());
    let profiles = prop::collection::vec((rules(), rules()), PROFILES.len());
    (sets, policies, profiles, prop::collection::vec(endpoint(), 2)).prop_map(
        |(sets, policies, profiles, endpoints)| {
            let sets = SETS.iter().zip(sets);
            let sets = sets
                .map(|(id, (members, hosts))| Op::IpSet(plane::IpSet { id: id.to_string(), members, hosts }));
            let policies = POLICIES.iter().zip(policies).map(|(name, (ingress, egress))| {
                let id = Some(policy_id(name.to_string()));
                Op::Policy(plane::Policy { id, tier: "t".into(), ingress, egress })
            });
            let profiles = PROFILES.iter().zip(profiles).map(|(name, (ingress, egress))| {
                Op::Profile(plane::Profile { name: name.to_string(), ingress, egress })
            });
            sets.chain(policies).chain(profiles).chain(endpoints.into_iter().map(Op::Endpoint)).collect()
        },
    )
}

fn transaction(ops: &[Op]) -> plane::Transaction {
    let ops = ops.iter().map(|op| plane::Op { op: Some(op.clone()) });
    plane::Transaction { seq: 1, ops: ops.collect(), in_sync: false }
}

fn flows(local: IpAddr) -> impl Iterator<Item = FlowTuple> {
    let peers = PEERS.iter().map(|peer| peer.parse::<IpAddr>().unwrap());
    let peers = peers.filter(move |peer| peer.is_ipv4() == local.is_ipv4());
    peers.flat_map(move |peer_address| {
        [FlowDirection::Ingress, FlowDirection::Egress].into_iter().flat_map(move |direction| {
            let with_ports = [6, 17, 132].into_iter().flat_map(|protocol| {
                [(1, 80), (80, 1), (2, 81), (65535, 0), (81, 3)]
                    .map(|(peer, local)| (protocol, peer, local, None))
            });
            let messages = [(8, 0), (3, 1), (3, 2), (255, 255)].map(|message| (1, 7, 7, Some(message)));
            let others =
                [(1, 0, 0, None), (58, 80, 80, Some((128, 0))), (58, 0, 0, Some((0, 1))), (47, 0, 0, None)];
            with_ports.chain(messages).chain(others).map(move |(protocol, peer_port, local_port, icmp)| {
                FlowTuple {
                    protocol,
                    peer_address,
                    peer_port,
                    local_address: local,
                    local_port,
                    icmp,
                    direction,
                }
            })
        })
    })
}

/// What was said of a (list, class, flow): it may never change.
type Said = HashMap<(PolicyListId, ClassId, FlowTuple), Judgement>;

fn agree(
    builder: &TableBuilder,
    tables: &Tables,
    reference: &Reference,
    is_current: bool,
    said: &mut Said,
) -> Result<(), TestCaseError> {
    prop_assert_eq!(tables.endpoints.iter().count(), reference.endpoints.len());
    let mut together = Vec::new();
    for (_, endpoint) in tables.endpoints.iter() {
        // One address is not the endpoint's own: rules are walked for it where they look at the local side.
        let foreign = "10.0.0.9".parse().unwrap();
        for flow in endpoint.addresses.iter().chain([foreign]).flat_map(flows) {
            let (list, staged) = match flow.direction {
                FlowDirection::Ingress => (endpoint.policy_in, endpoint.staged_in),
                FlowDirection::Egress => (endpoint.policy_out, endpoint.staged_out),
            };
            let class = tables.policy.class_of(flow.peer_address);
            for (list, is_staged) in [(Some(list), false), (staged, true)] {
                let Some(list) = list else { continue };
                let judgement = tables.policy.judge(list, class, &flow);
                let (expected, logs) = reference.judge(&endpoint.id, &flow, is_staged);
                prop_assert_eq!(
                    builder.rule_name(judgement.rule),
                    Some(&expected),
                    "{} {:?}",
                    endpoint.id,
                    flow
                );
                prop_assert_eq!(judgement.allow, expected.action() == RuleAction::Allow);
                together.push(((list, flow), class, judgement));
                let named = |rule: &RuleId| builder.rule_name(*rule).cloned();
                let passed = tables.policy.log_rules(judgement.logs).iter().map(named);
                // Old tables are not explained any more.
                if is_current {
                    let explained = builder.explain(&endpoint.id, &flow, is_staged).unwrap();
                    prop_assert_eq!(&explained.disagreement, &None, "{:?}", flow);
                    let decided = (explained.decided.as_ref(), explained.allow);
                    prop_assert_eq!(decided, (Some(&expected), judgement.allow));
                    prop_assert_eq!(explained.logged.as_slice(), &logs[..]);
                }
                // A judgement by a walk does not say which it passed.
                if endpoint.addresses.contains(flow.local_address) {
                    prop_assert_eq!(passed.collect::<Option<Vec<_>>>(), Some(logs), "{:?}", flow);
                    let former = said.insert((list, class, flow), judgement);
                    prop_assert!(
                        former.is_none_or(|former| former == judgement),
                        "{list:?} {class:?} changed its mind"
                    );
                }
            }
        }
    }
    let asked: Vec<_> = together.iter().map(|(asked, ..)| *asked).collect();
    let classes: Vec<_> = together.iter().map(|(_, class, _)| *class).collect();
    let alone: Vec<Judgement> = together.iter().map(|(.., judgement)| *judgement).collect();
    let mut judgements = alone.clone();
    judgements.fill(Judgement { allow: true, rule: RuleId(u32::MAX), logs: LogListId(u32::MAX) });
    tables.policy.judge_batch(&asked, &classes, &mut judgements);
    prop_assert_eq!(judgements, alone);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn compiled_policy_agrees_with_reference(
        beginning in beginning(),
        steps in prop::collection::vec(prop::collection::vec(op(), 1..4), 0..12),
    ) {
        let mut builder = TableBuilder::new(1, Box::new(|_, _| 0));
        let mut reference = Reference::default();
        let mut said = Said::new();
        let mut former: Vec<(Arc<Tables>, Reference)> = Vec::new();
        for step in std::iter::once(beginning).chain(steps) {
            // A refused transaction leaves everything as it was.
            if builder.apply(&transaction(&step)).is_ok() {
                step.iter().for_each(|op| reference.apply(op));
            }
            let tables = builder.build();
            agree(&builder, &tables, &reference, true, &mut said)?;
            former.push((tables, reference.clone()));
        }
        let mut fresh = TableBuilder::new(1, Box::new(|_, _| 0));
        fresh.apply(&transaction(&reference.ops())).unwrap();
        let tables = fresh.build();
        agree(&fresh, &tables, &reference, true, &mut Said::new())?;
        for (tables, reference) in former {
            agree(&builder, &tables, &reference, false, &mut said)?;
        }
    }
}
