//! The programmer against a real kernel, each test in a network namespace of its own. Needs root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, helpers included"
)]

mod netns;

use std::net::IpAddr;

use caracal_agent::programmer::{Change, Inputs, Kernel, KernelError, clean_up, reconcile};
use caracal_calc::{Demand, Mtu};
use caracal_plane_api::{
    Encapsulation, Frontend, LocalBlock, NatOutgoing, NodeConfig, NodePorts, Op, PortRange, Prefix,
    RemoteNode, Route, Service, op, route,
};
use netns::{in_new_netns, run, sh};

fn bytes(address: &str) -> Vec<u8> {
    match address.parse().unwrap() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn prefix(text: &str) -> Prefix {
    let (address, length) = text.split_once('/').unwrap();
    Prefix { address: bytes(address), length: length.parse().unwrap() }
}

fn routed(text: &str, target: route::Target) -> Op {
    Op { op: Some(op::Op::Route(Route { prefix: Some(prefix(text)), target: Some(target) })) }
}

fn remote(text: &str) -> Op {
    by(text, Encapsulation::Vxlan)
}

fn config(tunnel_address: &str) -> NodeConfig {
    NodeConfig {
        node: "node1".into(),
        address: bytes("192.0.2.11"),
        tunnel_address: bytes(tunnel_address),
        host_port: "caracal0".into(),
        forward_port: "caracal1".into(),
        ..NodeConfig::default()
    }
}

fn node_of(config: NodeConfig) -> Op {
    Op { op: Some(op::Op::NodeConfig(config)) }
}

fn node(tunnel_address: &str) -> Op {
    node_of(config(tunnel_address))
}

fn by(text: &str, encapsulation: Encapsulation) -> Op {
    let encapsulation = encapsulation.into();
    routed(text, route::Target::Remote(RemoteNode { node: "other".into(), encapsulation, over_ipv6: false }))
}

/// The changes that it takes, all of which succeed.
async fn done(kernel: &Kernel, inputs: &Inputs) -> Vec<Change> {
    let reconciled = reconcile(kernel, inputs).await;
    assert!(reconciled.failures.is_empty(), "{:?}", reconciled.failures);
    reconciled.changes
}

async fn failures(kernel: &Kernel, inputs: &Inputs) -> Vec<KernelError> {
    reconcile(kernel, inputs).await.failures
}

fn inputs() -> Inputs {
    let mut inputs = Inputs::default();
    inputs.mtu = Mtu { interfaces: "^uplink".into(), demands: vec![Demand::Room(50)] };
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
        "cat /proc/sys/net/ipv4/ip_local_reserved_ports; ip -o link | sed 's/ qlen .*//'; ip -o -4 addr; ip rule; ip -6 rule; ip -4 route show table all; ip -6 route show table all type blackhole",
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
        done(&kernel, &inputs()).await;
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
        assert!(!done(&kernel, &inputs).await.is_empty());
        assert_eq!(done(&kernel, &inputs).await, vec![]);
        // Nor does it for IPv6.
        inputs.apply(&[remote("fd00:2::/64")]);
        assert!(!done(&kernel, &inputs).await.is_empty());
        assert_eq!(done(&kernel, &inputs).await, vec![]);
        let (_, originated) = originated("fd00:2::7");
        assert!(originated.contains("dev caracal0"), "{originated}");
    });
}

#[test]
fn what_somebody_else_breaks_is_mended() {
    in_new_netns(async || {
        let kernel = host();
        done(&kernel, &inputs()).await;
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
            "echo 20000-29998 > /proc/sys/net/ipv4/ip_local_reserved_ports",
        ] {
            sh(damage);
            assert_ne!(done(&kernel, &inputs()).await, vec![], "{damage}");
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
        done(&kernel, &inputs()).await;
        let (_, forwarded) = forwarded("10.244.2.7");
        assert!(forwarded.contains("dev caracal1"), "{forwarded}");
        assert_eq!(done(&kernel, &inputs()).await, vec![]);
        clean_up(&kernel).await.unwrap();
        assert_eq!(snapshot(), before);
    });
}

#[test]
fn cleaning_up_leaves_nothing() {
    in_new_netns(async || {
        let kernel = host();
        let before = snapshot();
        done(&kernel, &inputs()).await;
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
        done(&kernel, &inputs()).await;
        sh("ip link del caracal0; ip link del caracal1");
        for (found, text) in [originated("10.244.2.7"), forwarded("10.244.2.7"), originated("10.244.1.7")] {
            assert!(!found, "there is a default route, and it must not be taken: {text}");
        }
        let changes = done(&kernel, &inputs()).await;
        assert!(changes.contains(&Change::CreateTap("caracal0".into())), "{changes:?}");
        assert!(originated("10.244.2.7").1.contains("dev caracal0"));
    });
}

#[test]
fn blocks_come_and_go_and_the_tunnel_address_changes() {
    in_new_netns(async || {
        let kernel = host();
        let mut inputs = inputs();
        done(&kernel, &inputs).await;
        inputs.apply(&[
            remote("10.244.3.0/24"),
            Op { op: Some(op::Op::RouteRemove(prefix("10.244.2.0/24"))) },
            node("10.244.1.200"),
        ]);
        done(&kernel, &inputs).await;
        assert_eq!(done(&kernel, &inputs).await, vec![]);
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
        let errors = failures(&kernel, &inputs()).await;
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
        let errors = failures(&kernel, &inputs()).await;
        assert!(errors[0].to_string().contains("192.0.2.11"), "{errors:?}");
        let (_, text) = originated("10.244.1.7");
        assert!(text.contains("dev caracal0"), "{text}");
    });
}

/// A host of both families, with the inputs that go with it.
fn dual_host() -> (Kernel, Inputs) {
    let kernel = host();
    sh("ip -6 addr add 2001:db8::11/64 dev uplink0 nodad; ip -6 route add default via 2001:db8::1");
    let mut inputs = inputs();
    let config = NodeConfig {
        address_v6: bytes("2001:db8::11"),
        tunnel_address_v6: bytes("fd00:1::"),
        ipip_tunnel_address: bytes("10.244.1.1"),
        node_ports: Some(NodePorts::default()),
        ..config("10.244.1.0")
    };
    let frontends = ["10.96.0.10", "fd00:96::a"].map(|address| Frontend {
        address: bytes(address),
        port: 53,
        ..Frontend::default()
    });
    let service = Service { id: "x/dns:53".into(), frontends: frontends.into(), ..Service::default() };
    inputs.apply(&[
        node_of(config),
        routed("fd00:1::/64", route::Target::LocalBlock(LocalBlock {})),
        remote("fd00:2::/64"),
        by("10.245.2.0/24", Encapsulation::Ipip),
        by("10.246.2.0/24", Encapsulation::None),
        by("fd01:2::/64", Encapsulation::None),
        Op { op: Some(op::Op::Service(service)) },
    ]);
    (kernel, inputs)
}

#[test]
fn both_families_and_every_encapsulation_lead_to_the_host_ports() {
    in_new_netns(async || {
        let (kernel, inputs) = dual_host();
        sh("echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6");
        done(&kernel, &inputs).await;
        assert_eq!(done(&kernel, &inputs).await, vec![]);
        for (pod, source) in [
            ("fd00:1::7", "fd00:1::"),
            ("fd00:2::7", "fd00:1::"),
            ("fd01:2::7", "2001:db8::11"),
            ("10.244.2.7", "10.244.1.0"),
            ("10.245.2.7", "10.244.1.1"),
            ("10.246.2.7", "192.0.2.11"),
        ] {
            let (_, text) = originated(pod);
            assert!(text.contains("dev caracal0") && text.contains(&format!("src {source} ")), "{text}");
        }
        for pod in ["fd00:2::7", "fd01:2::7"] {
            let (_, text) = run(&format!("ip route get {pod} from 2001:db8::50 iif uplink0"));
            assert!(text.contains("dev caracal1"), "{text}");
        }
        let addresses = sh("ip -o addr show dev caracal0");
        for address in ["10.244.1.0/32", "10.244.1.1/32", "fd00:1::/128"] {
            assert!(addresses.contains(address), "{addresses}");
        }
        assert!(!addresses.contains("tentative"), "{addresses}");
        sh("ip link del caracal0; ip link del caracal1");
        for pod in ["fd00:2::7", "fd01:2::7", "10.245.2.7", "10.246.2.7"] {
            let (found, text) = originated(pod);
            assert!(!found, "there is a default route, and it must not be taken: {text}");
        }
        done(&kernel, &inputs).await;
        assert!(originated("fd00:2::7").1.contains("dev caracal0"));
        clean_up(&kernel).await.unwrap();
        assert_eq!(sh("ip -6 route show table all proto 80; ip route show table all proto 80"), "");
    });
}

#[test]
fn services_are_the_host_ports_for_what_the_host_originates_alone() {
    in_new_netns(async || {
        let (kernel, mut inputs) = dual_host();
        done(&kernel, &inputs).await;
        let (_, text) = originated("10.96.0.10");
        assert!(text.contains("dev caracal0") && text.contains("src 192.0.2.11 "), "{text}");
        let (_, text) = originated("fd00:96::a");
        assert!(text.contains("dev caracal0") && text.contains("src 2001:db8::11 "), "{text}");
        let (_, text) = forwarded("10.96.0.10");
        assert!(text.contains("via 192.0.2.1 dev uplink0"), "{text}");
        inputs.apply(&[Op { op: Some(op::Op::ServiceRemove("x/dns:53".into())) }]);
        assert_eq!(done(&kernel, &inputs).await.len(), 2);
        assert!(originated("10.96.0.10").1.contains("dev uplink0"));
    });
}

#[test]
fn pods_get_the_smallest_mtu_of_the_uplinks_less_what_tunnels_need() {
    in_new_netns(async || {
        let kernel = host();
        sh("ip link add eth7 mtu 1400 type veth peer name other7
            ip link add down7 mtu 700 type veth peer name other8
            ip link set eth7 up");
        let mut inputs = inputs();
        let mut pods = async |interfaces: &str, demands: &[Demand]| {
            inputs.mtu = Mtu { interfaces: interfaces.into(), demands: demands.into() };
            let mtu = reconcile(&kernel, &inputs).await.mtu.unwrap();
            let link = sh("ip -o link show caracal0");
            assert!(link.contains(&format!(" mtu {mtu} ")), "{link}");
            mtu
        };
        assert_eq!(pods("", &[Demand::Room(50)]).await, 1550, "that which holds the node's address");
        assert_eq!(pods("^(eth|down)", &[Demand::Room(50)]).await, 1350);
        assert_eq!(pods("^(eth|down)", &[Demand::Room(20), Demand::Room(70)]).await, 1330);
        assert_eq!(pods("^eth", &[Demand::Given(1200), Demand::Room(50)]).await, 1200);
        assert_eq!(pods("^eth", &[]).await, 1400);
        inputs.mtu = Mtu { interfaces: "(".into(), demands: Vec::new() };
        let mistaken = reconcile(&kernel, &inputs).await;
        assert_eq!(mistaken.mtu, Some(1600));
        assert!(mistaken.failures[0].to_string().contains("mtuIfacePattern"), "{:?}", mistaken.failures);
    });
}

#[test]
fn the_kernel_gives_our_ports_to_nobody_and_keeps_what_others_reserved() {
    in_new_netns(async || {
        let kernel = host();
        let file = "/proc/sys/net/ipv4/ip_local_reserved_ports";
        sh(&format!("echo 8080,30000-32767 > {file}"));
        done(&kernel, &inputs()).await;
        assert_eq!(sh(&format!("cat {file}")), "8080,20000-32767\n");
        assert_eq!(done(&kernel, &inputs()).await, vec![]);
        clean_up(&kernel).await.unwrap();
        assert_eq!(sh(&format!("cat {file}")), "8080,30000-32767\n");
        sh(&format!("echo > {file}"));
        done(&kernel, &inputs()).await;
        clean_up(&kernel).await.unwrap();
        assert_eq!(sh(&format!("cat {file}")), "\n");
    });
}

#[test]
fn ports_of_translation_that_would_leave_the_host_none_are_not_reserved_and_said() {
    in_new_netns(async || {
        let kernel = host();
        let with_ports = |first, last| {
            let ports = Some(PortRange { first, last });
            let nat_outgoing = Some(NatOutgoing { ports, ..NatOutgoing::default() });
            let mut inputs = inputs();
            inputs.apply(&[node_of(NodeConfig { nat_outgoing, ..config("10.244.1.0") })]);
            inputs
        };
        let file = "/proc/sys/net/ipv4/ip_local_reserved_ports";
        sh("echo 32768 60999 > /proc/sys/net/ipv4/ip_local_port_range");
        let failures = failures(&kernel, &with_ports(32_768, 65_535)).await;
        let said = failures.first().map(ToString::to_string).unwrap_or_default();
        assert!(failures.len() == 1 && said.contains("natPortRange"), "{failures:?}");
        assert_eq!(sh(&format!("cat {file}")), "\n");
        assert!(sh("ip -o link show caracal0").contains("caracal0"), "all else is done");
        done(&kernel, &with_ports(32_768, 49_151)).await;
        assert_eq!(sh(&format!("cat {file}")), "32768-49151\n");
    });
}
