//! The programmer against a real kernel, each test in a network namespace of its own. Needs root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, helpers included"
)]

mod netns;

use std::net::Ipv4Addr;

use caracal_agent::programmer::{Change, Inputs, Kernel, clean_up, reconcile};
use caracal_plane_api::{LocalBlock, NodeConfig, Op, Prefix, RemoteNode, Route, op, route};
use netns::{in_new_netns, run, sh};

fn bytes(address: &str) -> Vec<u8> {
    address.parse::<Ipv4Addr>().unwrap().octets().to_vec()
}

fn prefix(text: &str) -> Prefix {
    let (address, length) = text.split_once('/').unwrap();
    Prefix { address: bytes(address), length: length.parse().unwrap() }
}

fn routed(text: &str, target: route::Target) -> Op {
    Op { op: Some(op::Op::Route(Route { prefix: Some(prefix(text)), target: Some(target) })) }
}

fn remote(text: &str) -> Op {
    routed(
        text,
        route::Target::Remote(RemoteNode { node: "other".into(), encapsulation: 1, over_ipv6: false }),
    )
}

fn node(tunnel_address: &str) -> Op {
    Op {
        op: Some(op::Op::NodeConfig(NodeConfig {
            node: "node1".into(),
            address: bytes("192.0.2.11"),
            tunnel_address: bytes(tunnel_address),
            host_port: "caracal0".into(),
            forward_port: "caracal1".into(),
            ..NodeConfig::default()
        })),
    }
}

fn inputs() -> Inputs {
    let mut inputs = Inputs::default();
    let local = routed("10.244.1.0/24", route::Target::LocalBlock(LocalBlock {}));
    inputs.apply(&[node("10.244.1.0"), local, remote("10.244.2.0/24")]);
    inputs
}

/// A host with an uplink and a default route, which forwards.
fn host() -> Kernel {
    sh("ip link set lo up
        ip link add uplink0 mtu 1600 type veth peer name fabric0
        ip addr add 192.0.2.11/24 dev uplink0
        ip link set uplink0 up; ip link set fabric0 up
        ip route add default via 192.0.2.1
        echo 1 > /proc/sys/net/ipv4/ip_forward");
    Kernel::open().unwrap()
}

/// Everything there is of links, addresses, rules and routes, without what counts or depends on time.
fn snapshot() -> String {
    sh(
        "ip -o link | sed 's/ qlen .*//'; ip -o -4 addr; ip rule; ip -6 rule; ip route show table all; ip -6 route show table all type blackhole",
    )
}

fn originated(to: &str) -> (bool, String) {
    run(&format!("ip route get {to}"))
}

fn forwarded(to: &str) -> (bool, String) {
    run(&format!("ip route get {to} from 192.0.2.50 iif uplink0"))
}

#[test]
fn what_the_host_originates_and_what_it_forwards_go_to_their_ports() {
    in_new_netns(async || {
        let kernel = host();
        reconcile(&kernel, &inputs()).await.unwrap();
        for pod in ["10.244.1.7", "10.244.2.7"] {
            let (_, originated) = originated(pod);
            assert!(
                originated.contains("dev caracal0") && originated.contains("src 10.244.1.0"),
                "{originated}"
            );
            let (_, forwarded) = forwarded(pod);
            assert!(forwarded.contains("dev caracal1"), "{forwarded}");
        }
        let (_, elsewhere) = originated("203.0.113.1");
        assert!(elsewhere.contains("dev uplink0"), "{elsewhere}");
        let links = sh("ip -d link show caracal0; ip -d link show caracal1");
        assert_eq!(links.matches("mtu 1550").count(), 2, "{links}");
        assert_eq!(links.matches("NOARP").count(), 2, "{links}");
        assert_eq!(links.matches("persist on").count(), 2, "{links}");
        let sysctl = |path: &str| std::fs::read_to_string(format!("/proc/sys/net/{path}")).unwrap();
        assert_eq!(sysctl("ipv4/conf/caracal0/rp_filter"), "2\n");
        assert_eq!(sysctl("ipv4/conf/caracal0/forwarding"), "0\n");
        assert_eq!(sysctl("ipv4/conf/caracal1/forwarding"), "1\n");
        assert_eq!(sysctl("ipv4/ip_forward"), "1\n");
    });
}

#[test]
fn doing_it_again_changes_nothing() {
    in_new_netns(async || {
        let kernel = host();
        let mut inputs = inputs();
        assert!(!reconcile(&kernel, &inputs).await.unwrap().is_empty());
        assert_eq!(reconcile(&kernel, &inputs).await.unwrap(), vec![]);
        // Nor does it for IPv6.
        let address = "fd00:2::".parse::<std::net::Ipv6Addr>().unwrap().octets().to_vec();
        let target = Some(route::Target::Remote(RemoteNode {
            node: "other".into(),
            encapsulation: 1,
            over_ipv6: false,
        }));
        let prefix = Some(Prefix { address, length: 64 });
        inputs.apply(&[Op { op: Some(op::Op::Route(Route { prefix, target })) }]);
        assert!(!reconcile(&kernel, &inputs).await.unwrap().is_empty());
        assert_eq!(reconcile(&kernel, &inputs).await.unwrap(), vec![]);
        let (_, originated) = originated("fd00:2::7");
        assert!(originated.contains("dev caracal0"), "{originated}");
    });
}

#[test]
fn what_somebody_else_breaks_is_mended() {
    in_new_netns(async || {
        let kernel = host();
        reconcile(&kernel, &inputs()).await.unwrap();
        let good = snapshot();
        for damage in [
            "ip link set caracal1 down",
            "ip link set caracal0 mtu 9000 arp on",
            "ip addr del 10.244.1.0/32 dev caracal0",
            "ip addr add 10.9.9.9/32 dev caracal1",
            "ip rule del priority 90",
            "ip rule add iif lo lookup 4096 priority 7",
            "ip route del blackhole 10.244.2.0/24 table 4096",
            "ip route add 10.77.0.0/16 dev caracal1 proto 80",
            "ip route add 10.78.0.0/16 via 192.0.2.1 proto 80",
            "ip route add unreachable 10.79.0.0/16 proto 80 metric 9",
            "echo 1 > /proc/sys/net/ipv4/conf/caracal0/forwarding",
        ] {
            sh(damage);
            assert_ne!(reconcile(&kernel, &inputs()).await.unwrap(), vec![], "{damage}");
            assert_eq!(snapshot(), good, "{damage}");
        }
    });
}

#[test]
fn routes_of_others_stay_and_do_not_win() {
    in_new_netns(async || {
        let kernel = host();
        // Of the same destination and metric as one of ours; and one with our mark in a table that is not ours.
        sh(
            "ip route add 10.244.2.0/24 via 192.0.2.1; ip route add 10.244.2.0/24 dev uplink0 proto 80 table 77",
        );
        let before = snapshot();
        reconcile(&kernel, &inputs()).await.unwrap();
        let (_, forwarded) = forwarded("10.244.2.7");
        assert!(forwarded.contains("dev caracal1"), "{forwarded}");
        assert_eq!(reconcile(&kernel, &inputs()).await.unwrap(), vec![]);
        clean_up(&kernel).await.unwrap();
        assert_eq!(snapshot(), before);
    });
}

#[test]
fn cleaning_up_leaves_nothing() {
    in_new_netns(async || {
        let kernel = host();
        let before = snapshot();
        reconcile(&kernel, &inputs()).await.unwrap();
        assert_ne!(snapshot(), before);
        assert!(!clean_up(&kernel).await.unwrap().is_empty());
        assert_eq!(snapshot(), before);
        assert_eq!(clean_up(&kernel).await.unwrap(), vec![], "cleaning up twice is no error");
    });
}

#[test]
fn a_blackhole_takes_over_when_a_port_is_gone() {
    in_new_netns(async || {
        let kernel = host();
        reconcile(&kernel, &inputs()).await.unwrap();
        sh("ip link del caracal0; ip link del caracal1");
        for (found, text) in [originated("10.244.2.7"), forwarded("10.244.2.7"), originated("10.244.1.7")] {
            assert!(!found, "there is a default route, and it must not be taken: {text}");
        }
        let changes = reconcile(&kernel, &inputs()).await.unwrap();
        assert!(changes.contains(&Change::CreateTap("caracal0".into())), "{changes:?}");
        assert!(originated("10.244.2.7").1.contains("dev caracal0"));
    });
}

#[test]
fn blocks_come_and_go_and_the_tunnel_address_changes() {
    in_new_netns(async || {
        let kernel = host();
        let mut inputs = inputs();
        reconcile(&kernel, &inputs).await.unwrap();
        inputs.apply(&[
            remote("10.244.3.0/24"),
            Op { op: Some(op::Op::RouteRemove(prefix("10.244.2.0/24"))) },
            node("10.244.1.200"),
        ]);
        reconcile(&kernel, &inputs).await.unwrap();
        assert_eq!(reconcile(&kernel, &inputs).await.unwrap(), vec![]);
        let (_, text) = originated("10.244.3.7");
        assert!(text.contains("dev caracal0") && text.contains("src 10.244.1.200"), "{text}");
        let (_, gone) = originated("10.244.2.7");
        assert!(gone.contains("dev uplink0"), "{gone}");
    });
}

#[test]
fn a_device_that_is_no_tap_is_not_touched() {
    in_new_netns(async || {
        let kernel = host();
        sh("ip link add caracal0 type veth peer name peer0");
        let before = snapshot();
        let errors = reconcile(&kernel, &inputs()).await.unwrap_err();
        assert!(
            errors[0].to_string().contains("caracal0") && errors[0].to_string().contains("rename"),
            "{errors:?}"
        );
        assert!(clean_up(&kernel).await.is_err());
        assert_eq!(snapshot(), before);
    });
}

#[test]
fn a_node_address_that_no_interface_holds_is_said_and_the_rest_is_done() {
    in_new_netns(async || {
        let kernel = host();
        sh("ip addr flush dev uplink0");
        let errors = reconcile(&kernel, &inputs()).await.unwrap_err();
        assert!(errors[0].to_string().contains("192.0.2.11"), "{errors:?}");
        let (_, text) = originated("10.244.1.7");
        assert!(text.contains("dev caracal0"), "{text}");
    });
}
