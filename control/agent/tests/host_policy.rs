//! Host endpoints' policy against real kernels and real sockets, each test on a node of its own. Needs root, and nft(8) for the rules
//! of others.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, helpers included"
)]

mod host_net;
#[allow(dead_code, reason = "shared with other tests")]
mod netns;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use caracal_agent::host_policy::{HostPolicy, Keeper, KubeProxy, TABLE, remove};
use caracal_nft::Nft;
use caracal_plane_api::{self as plane, Action, EndpointToHost, Hook, Op, op};
use host_net::{FAR, FAR6, NEAR, NODE, NODE6, Net, OTHER_POD, OWN_POD, PATIENCE, Place, echoes, on_a_node};
use netns::{run, sh};

const TCP: u32 = 6;
const UDP: u32 = 17;

fn op(op: op::Op) -> Op {
    Op { op: Some(op) }
}

fn bytes(address: &str) -> Vec<u8> {
    match address.parse().unwrap() {
        std::net::IpAddr::V4(address) => address.octets().to_vec(),
        std::net::IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn node(endpoint_to_host: EndpointToHost) -> Op {
    let failsafe = |protocol, port| plane::Failsafe { protocol, port, net: None };
    op(op::Op::NodeConfig(plane::NodeConfig {
        node: "node1".into(),
        address: bytes(NODE),
        host_port: "caracal0".into(),
        forward_port: "caracal1".into(),
        endpoint_to_host: endpoint_to_host.into(),
        failsafe_inbound: vec![failsafe(TCP, 22)],
        failsafe_outbound: vec![failsafe(UDP, 53)],
        ..Default::default()
    }))
}

/// A rule about destination ports; 0: about everything.
fn rule(action: Action, protocol: u32, port: u32) -> plane::Rule {
    let ports = (port != 0).then_some(plane::PortRange { first: port, last: port });
    plane::Rule {
        action: action.into(),
        protocol,
        destination: Some(plane::Entity { ports: ports.into_iter().collect(), ..Default::default() }),
        ..Default::default()
    }
}

fn policy_id(name: &str) -> plane::PolicyId {
    plane::PolicyId { kind: "GlobalNetworkPolicy".into(), namespace: String::new(), name: name.into() }
}

fn policy(name: &str, ingress: Vec<plane::Rule>, egress: Vec<plane::Rule>) -> Op {
    op(op::Op::Policy(plane::Policy { id: Some(policy_id(name)), tier: "default".into(), ingress, egress }))
}

/// A hook that one policy judges both ways.
fn hook(policy: &str) -> Option<Hook> {
    let tier = plane::TierBinding {
        tier: "default".into(),
        default_action: Action::Deny.into(),
        policies: vec![policy_id(policy)],
    };
    Some(Hook { ingress: vec![tier.clone()], egress: vec![tier] })
}

fn endpoint(interface: &str, hooks: plane::HostEndpoint) -> Op {
    let id = if interface == "*" { "others" } else { interface };
    op(op::Op::HostEndpoint(plane::HostEndpoint { id: id.into(), interface: interface.into(), ..hooks }))
}

fn normal(policy: &str) -> plane::HostEndpoint {
    plane::HostEndpoint { normal: hook(policy), ..Default::default() }
}

/// The policy of a node, from its first operations on.
fn host_policy(ops: &[Op]) -> HostPolicy {
    let mut policy = HostPolicy::default();
    policy.apply(&[node(EndpointToHost::Accept)]);
    policy.apply(ops);
    policy
}

fn put(keeper: &mut Keeper, policy: &HostPolicy) {
    keeper.put(policy).unwrap_or_else(|error| panic!("{error}"));
}

fn listen_everywhere(net: &Net, ports: &[u16]) {
    for port in ports {
        [Place::Node, Place::Far, Place::Near, Place::Pods]
            .iter()
            .for_each(|place| net.listen(*place, *port));
    }
}

#[test]
fn what_policy_does_not_allow_is_cut_off_but_for_failsafes_loopback_and_neighbor_discovery() {
    on_a_node("deny", |net| {
        listen_everywhere(net, &[22, 53, 80]);
        assert!(net.tcp(Place::Far, NODE, 80) && net.udp(Place::Far, NODE, 80) && net.ping(Place::Far, NODE));
        let mut keeper = Keeper::open().unwrap();
        let mut policy = host_policy(&[policy("none", vec![], vec![]), endpoint("eth0", normal("none"))]);
        put(&mut keeper, &policy);
        assert!(
            net.no_tcp(Place::Far, NODE, 80)
                && net.no_udp(Place::Far, NODE, 80)
                && net.no_ping(Place::Far, NODE)
        );
        assert!(
            net.no_tcp(Place::Node, FAR, 80)
                && net.no_udp(Place::Node, FAR, 80)
                && net.no_ping(Place::Node, FAR)
        );
        assert!(net.tcp(Place::Far, NODE, 22), "the failsafe port must answer");
        assert!(net.no_udp(Place::Far, NODE, 22) && net.no_tcp(Place::Node, FAR, 22));
        assert!(net.udp(Place::Node, FAR, 53) && net.no_udp(Place::Far, NODE, 53));
        // Over IPv6 nothing answers unless neighbors are found first.
        sh("ip -6 neigh flush dev eth0");
        assert!(
            net.tcp(Place::Far, NODE6, 22)
                && net.no_tcp(Place::Far, NODE6, 80)
                && net.no_ping(Place::Far, NODE6)
        );
        assert!(
            net.tcp(Place::Node, "127.0.0.1", 80)
                && net.tcp(Place::Node, NODE, 80)
                && net.ping(Place::Node, "::1")
        );
        assert!(net.tcp(Place::Near, "198.51.100.11", 80), "nothing is said of eth1");

        // The first by name has the interface.
        let allow = policy_of(
            "open",
            vec![rule(Action::Allow, TCP, 80)],
            vec![rule(Action::Allow, UDP, 80), rule(Action::Allow, 1, 0)],
        );
        policy.apply(&[allow, endpoint("eth0", normal("open"))]);
        put(&mut keeper, &policy);
        assert!(
            net.tcp(Place::Far, NODE, 80)
                && net.tcp(Place::Far, NODE6, 80)
                && net.no_udp(Place::Far, NODE, 80)
        );
        assert!(
            net.udp(Place::Node, FAR, 80)
                && net.udp(Place::Node, FAR6, 80)
                && net.no_tcp(Place::Node, FAR, 80)
        );
        assert!(net.ping(Place::Node, FAR) && net.no_ping(Place::Far, NODE));

        // An endpoint by address; and none at all.
        policy.apply(&[op(op::Op::HostEndpointRemove("eth0".into())), endpoint(NODE, normal("none"))]);
        put(&mut keeper, &policy);
        assert!(net.no_tcp(Place::Far, NODE, 80) && net.tcp(Place::Far, NODE, 22));
        policy.apply(&[op(op::Op::HostEndpointRemove(NODE.into()))]);
        put(&mut keeper, &policy);
        assert!(net.tcp(Place::Far, NODE, 80) && !Nft::open().unwrap().list(TABLE).unwrap().exists());
    });
}

/// Where a variable has the name of [`policy`].
fn policy_of(name: &str, ingress: Vec<plane::Rule>, egress: Vec<plane::Rule>) -> Op {
    policy(name, ingress, egress)
}

#[test]
fn connections_that_policy_allowed_survive_when_it_does_not_any_more_and_when_its_table_is_replaced() {
    on_a_node("established", |net| {
        listen_everywhere(net, &[80]);
        let mut keeper = Keeper::open().unwrap();
        let open = vec![rule(Action::Allow, TCP, 80)];
        let mut state = host_policy(&[policy("p", open.clone(), open), endpoint("eth0", normal("p"))]);
        put(&mut keeper, &state);
        let mut inbound = net.connect(Place::Far, NODE, 80).unwrap();
        let mut outbound = net.connect(Place::Node, FAR, 80).unwrap();
        assert!(echoes(&mut inbound) && echoes(&mut outbound));
        state.apply(&[policy("p", vec![], vec![])]);
        put(&mut keeper, &state);
        assert!(net.no_tcp(Place::Far, NODE, 80) && net.no_tcp(Place::Node, FAR, 80));
        assert!(echoes(&mut inbound) && echoes(&mut outbound));
    });
}

#[test]
fn what_the_untracked_hook_allows_is_not_tracked_and_each_direction_needs_leave() {
    on_a_node("untracked", |net| {
        listen_everywhere(net, &[22, 5000, 5001]);
        let mut keeper = Keeper::open().unwrap();
        let answers = |port: u32| {
            let ports = vec![plane::PortRange { first: port, last: port }];
            let source = Some(plane::Entity { ports, ..Default::default() });
            plane::Rule { action: Action::Allow.into(), protocol: UDP, source, ..Default::default() }
        };
        let ingress = vec![rule(Action::Allow, UDP, 5000), rule(Action::Allow, UDP, 5001)];
        let hooks =
            plane::HostEndpoint { untracked: hook("raw"), normal: hook("none"), ..Default::default() };
        let state = host_policy(&[
            policy("raw", ingress, vec![answers(5000)]),
            policy("none", vec![], vec![]),
            endpoint("eth0", hooks),
        ]);
        put(&mut keeper, &state);
        assert!(net.udp(Place::Far, NODE, 5000), "both directions are allowed");
        assert!(net.no_udp(Place::Far, NODE, 5001), "the answer is not");
        assert!(net.tcp(Place::Far, NODE, 22), "a failsafe port is tracked both ways");
        let tracked = sh("cat /proc/thread-self/net/nf_conntrack");
        assert!(tracked.contains("dport=22 ") && !tracked.contains("dport=5000 "), "{tracked}");
    });
}

#[test]
fn pre_dnat_policy_sees_the_destination_before_somebody_elses_table_translates_it() {
    on_a_node("prednat", |net| {
        listen_everywhere(net, &[22, 80, 443]);
        sh(
            "nft add table ip theirs && nft 'add chain ip theirs prerouting { type nat hook prerouting priority dstnat; }'",
        );
        for translated in
            ["8080 dnat to 192.0.2.11:80", "8443 dnat to 198.51.100.2:443", "8022 dnat to 192.0.2.11:22"]
        {
            sh(&format!("nft add rule ip theirs prerouting tcp dport {translated}"));
        }
        let others = sh("nft list table ip theirs");
        assert!(net.tcp(Place::Far, NODE, 8080) && net.tcp(Place::Far, NODE, 8443), "translated, without us");
        let mut keeper = Keeper::open().unwrap();
        let rules =
            vec![rule(Action::Allow, TCP, 8080), rule(Action::Deny, TCP, 8443), rule(Action::Deny, TCP, 80)];
        let hooks =
            plane::HostEndpoint { pre_dnat: hook("before"), normal: hook("none"), ..Default::default() };
        let mut state = host_policy(&[
            policy("before", rules, vec![]),
            policy("none", vec![], vec![]),
            endpoint("eth0", hooks),
        ]);
        put(&mut keeper, &state);
        assert!(
            net.tcp(Place::Far, NODE, 8080),
            "allowed before it is translated, which skips the normal hook"
        );
        assert!(net.no_tcp(Place::Far, NODE, 80) && net.no_tcp(Place::Far, NODE, 8443));
        assert!(net.tcp(Place::Far, NODE, 22));
        state.apply(&[policy(
            "before",
            vec![rule(Action::Deny, TCP, 22), rule(Action::Deny, TCP, 8022)],
            vec![],
        )]);
        put(&mut keeper, &state);
        assert!(net.tcp(Place::Far, NODE, 22), "no policy cuts a failsafe port");
        assert!(net.no_tcp(Place::Far, NODE, 8022), "what is translated to one is not one");
        assert!(net.tcp(Place::Far, NODE, 8443), "forwarded, of which nothing is said now");
        assert_eq!(sh("nft list table ip theirs"), others);
    });
}

#[test]
fn forwarded_traffic_is_judged_where_it_comes_in_and_where_it_goes_out() {
    on_a_node("forward", |net| {
        listen_everywhere(net, &[80, 81, 82]);
        let mut keeper = Keeper::open().unwrap();
        let forward = |policy: &str| plane::HostEndpoint { forward: hook(policy), ..Default::default() };
        let mut state = host_policy(&[
            endpoint("eth0", plane::HostEndpoint::default()),
            endpoint("eth1", plane::HostEndpoint::default()),
        ]);
        put(&mut keeper, &state);
        assert!(
            net.tcp(Place::Far, NEAR, 80) && net.no_tcp(Place::Far, NODE, 80),
            "no forward policy: what is forwarded passes"
        );
        let in_rules = vec![rule(Action::Allow, TCP, 80), rule(Action::Allow, TCP, 81)];
        let out_rules = vec![rule(Action::Allow, TCP, 81), rule(Action::Allow, TCP, 82)];
        state.apply(&[
            policy("in", in_rules, vec![]),
            policy("out", vec![], out_rules),
            endpoint(
                "eth0",
                plane::HostEndpoint {
                    forward: hook("in").map(|h| Hook { egress: vec![], ..h }),
                    ..Default::default()
                },
            ),
            endpoint(
                "eth1",
                plane::HostEndpoint {
                    forward: hook("out").map(|h| Hook { ingress: vec![], ..h }),
                    ..Default::default()
                },
            ),
        ]);
        put(&mut keeper, &state);
        assert!(net.tcp(Place::Far, NEAR, 81));
        assert!(net.no_tcp(Place::Far, NEAR, 80) && net.no_tcp(Place::Far, NEAR, 82));
        assert!(net.tcp(Place::Near, FAR, 80), "the other way nothing is said");
        // A failsafe port is one of the host.
        state.apply(&[policy("in", vec![], vec![]), endpoint("eth1", forward("in"))]);
        put(&mut keeper, &state);
        net.listen(Place::Near, 22);
        assert!(net.no_tcp(Place::Far, NEAR, 22));
    });
}

#[test]
fn host_ports_are_the_all_interfaces_endpoints_but_for_own_pods() {
    on_a_node("pods", |net| {
        listen_everywhere(net, &[22, 80]);
        let mut keeper = Keeper::open().unwrap();
        let pod = plane::Endpoint { id: "a/b".into(), addresses: vec![bytes(OWN_POD)], ..Default::default() };
        let mut state = host_policy(&[
            policy("none", vec![], vec![]),
            endpoint("eth0", normal("none")),
            op(op::Op::Endpoint(pod)),
        ]);
        put(&mut keeper, &state);
        let to_host = |by: &str| net.udp_by(Place::Pods, by, "169.254.9.1", 80);
        let not_to_host = |by: &str| net.no_udp_by(Place::Pods, by, "169.254.9.1", 80);
        assert!(to_host(OWN_POD) && to_host(OTHER_POD), "eth0's endpoint is not about the host ports");
        state.apply(&[endpoint("*", normal("none"))]);
        put(&mut keeper, &state);
        assert!(to_host(OWN_POD) && not_to_host(OTHER_POD));
        assert!(net.udp(Place::Node, OWN_POD, 80), "host to own pod is always allowed");
        assert!(net.no_udp(Place::Node, OTHER_POD, 80));
        assert!(net.no_tcp(Place::Near, "198.51.100.11", 80), "eth1 has no endpoint of its own");
        assert!(net.tcp(Place::Near, "198.51.100.11", 22));
        state.apply(&[node(EndpointToHost::Return)]);
        put(&mut keeper, &state);
        assert!(not_to_host(OWN_POD) && net.udp(Place::Node, OWN_POD, 80));
        state.apply(&[policy("none", vec![rule(Action::Allow, UDP, 80)], vec![])]);
        put(&mut keeper, &state);
        assert!(to_host(OWN_POD) && to_host(OTHER_POD));
    });
}

#[test]
fn sets_of_thousands_are_in_force_and_change_without_the_rules() {
    on_a_node("sets", |net| {
        listen_everywhere(net, &[80]);
        let mut keeper = Keeper::open().unwrap();
        // Every other address of 192.0.0.0/16: no two are neighbors.
        let hosts = |odd: u8| -> Vec<u8> {
            (0..5000u32).flat_map(|n| (0xc000_0000 + 2 * n + u32::from(odd)).to_be_bytes()).collect()
        };
        let members = |odd| plane::IpSet {
            id: "s:many".into(),
            hosts: Some(plane::Hosts { v4: hosts(odd), v6: vec![] }),
            ..Default::default()
        };
        let source = Some(plane::Entity { in_all: vec!["s:many".into()], ..Default::default() });
        let from_set = plane::Rule { action: Action::Allow.into(), source, ..Default::default() };
        let mut state = host_policy(&[
            op(op::Op::IpSet(members(0))),
            policy("set", vec![from_set], vec![]),
            endpoint("eth0", normal("set")),
        ]);
        put(&mut keeper, &state);
        // 192.0.2.1 is odd.
        assert!(net.no_tcp(Place::Far, NODE, 80));
        let rules = || sh(&format!("nft -a list table inet {TABLE} | grep handle | grep -c -v elements"));
        let before = rules();
        let add = plane::Hosts { v4: bytes(FAR), v6: vec![] };
        let delta =
            plane::IpSetDelta { id: "s:many".into(), add_hosts: Some(add.clone()), ..Default::default() };
        assert!(state.apply(&[op(op::Op::IpSetDelta(delta))]));
        put(&mut keeper, &state);
        assert!(net.tcp(Place::Far, NODE, 80));
        let delta = plane::IpSetDelta { id: "s:many".into(), remove_hosts: Some(add), ..Default::default() };
        assert!(state.apply(&[op(op::Op::IpSetDelta(delta))]));
        put(&mut keeper, &state);
        assert!(net.no_tcp(Place::Far, NODE, 80));
        assert!(state.apply(&[op(op::Op::IpSet(members(1)))]));
        put(&mut keeper, &state);
        assert!(net.tcp(Place::Far, NODE, 80));
        assert_eq!(rules(), before);
        assert!(
            !state.apply(&[op(op::Op::IpSet(plane::IpSet { id: "s:else".into(), ..Default::default() }))])
        );
    });
}

#[test]
fn no_packet_that_both_versions_allow_is_lost_while_one_replaces_the_other() {
    on_a_node("replace", |net| {
        listen_everywhere(net, &[22, 80]);
        let mut keeper = Keeper::open().unwrap();
        let version = |number: u32| {
            // As many rules as one has, all others than the other's, before the one that both have.
            let mut rules: Vec<_> =
                (0..300).map(|n| rule(Action::Deny, TCP, 1000 + 2 * n + number % 2)).collect();
            rules.push(rule(Action::Allow, UDP, 80));
            policy("p", rules, vec![])
        };
        let mut state = host_policy(&[version(0), endpoint("eth0", normal("p"))]);
        put(&mut keeper, &state);
        let done = Arc::new(AtomicBool::new(false));
        let (answered, lost) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let traffic = {
            let (done, answered, lost) = (done.clone(), answered.clone(), lost.clone());
            let path = net.far_path();
            std::thread::spawn(move || {
                host_net::enter(&path);
                while !done.load(Ordering::Relaxed) {
                    // A socket each: every datagram begins a flow, which the rules judge.
                    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
                    socket.set_read_timeout(Some(PATIENCE)).unwrap();
                    socket.send_to(b"?", (NODE, 80)).unwrap();
                    let is_answered = socket.recv(&mut [0; 9]).is_ok();
                    if is_answered { &answered } else { &lost }.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let begin = std::time::Instant::now();
        let mut number = 0;
        while number < 150 || answered.load(Ordering::Relaxed) <= 500 {
            assert!(begin.elapsed() < 3 * PATIENCE, "no more are answered: {answered:?}, lost: {lost:?}");
            state.apply(&[version(number)]);
            put(&mut keeper, &state);
            // Nor is there a moment in which what neither allows passes.
            if number % 10 == 0 {
                assert!(net.no_tcp(Place::Far, NODE, 80), "of version {number}");
            }
            number += 1;
        }
        done.store(true, Ordering::Relaxed);
        traffic.join().unwrap();
        assert_eq!(lost.load(Ordering::Relaxed), 0, "{answered:?} answered");
    });
}

#[test]
fn a_table_that_somebody_changes_is_put_right_and_one_that_is_left_is_taken_over() {
    on_a_node("drift", |net| {
        listen_everywhere(net, &[80]);
        let state = host_policy(&[policy("none", vec![], vec![]), endpoint("eth0", normal("none"))]);
        let mut keeper = Keeper::open().unwrap();
        for meddling in [
            format!("nft delete table inet {TABLE}"),
            format!("nft flush table inet {TABLE}"),
            format!("nft insert rule inet {TABLE} input accept"),
            "nft flush ruleset".to_owned(),
        ] {
            put(&mut keeper, &state);
            assert!(net.no_tcp(Place::Far, NODE, 80));
            sh(&meddling);
            assert!(net.tcp(Place::Far, NODE, 80), "{meddling}");
            keeper.check().unwrap();
            put(&mut keeper, &state);
            assert!(net.no_tcp(Place::Far, NODE, 80), "after {meddling}");
        }
        // The next agent knows nothing of the table, and has no host endpoints.
        drop(keeper);
        assert!(net.no_tcp(Place::Far, NODE, 80), "the table outlives whoever put it there");
        put(&mut Keeper::open().unwrap(), &host_policy(&[]));
        assert!(net.tcp(Place::Far, NODE, 80));
        put(&mut Keeper::open().unwrap(), &state);
        assert!(net.no_tcp(Place::Far, NODE, 80));
        assert!(remove().unwrap() && !remove().unwrap());
        assert!(net.tcp(Place::Far, NODE, 80));
        assert!(run("nft list ruleset").1.is_empty());
    });
}

#[test]
fn a_kube_proxys_rules_are_found_by_their_table_or_their_chain() {
    on_a_node("proxy", |_| {
        let look = || KubeProxy::look(&mut Nft::open().unwrap()).unwrap().places;
        assert!(look().is_empty());
        sh("nft add table ip nat && nft add chain ip nat KUBE-SERVICES && nft add table ip6 kube-proxy");
        let places: Vec<String> = look().into_iter().collect();
        assert_eq!(places, ["chain KUBE-SERVICES of table ip nat", "table ip6 kube-proxy"]);
    });
}
