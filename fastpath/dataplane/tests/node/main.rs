//! `caracal-fastpath` itself on real devices. Needs root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's helpers fail as tests do"
)]

mod changes;
#[path = "../../../xsk/tests/common/mod.rs"]
mod common;
mod devices;
mod harness;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};

use caracal_plane_api::plane::{self, op};
use common::*;
use harness::*;

/// A machine behind a second uplink, and beyond it.
const FAR: &str = "203.0.113.9";

/// A machine on a second network, by which the default route leads.
fn second_uplink() -> Peer {
    let far = machine("crtup1", "198.51.100.11", "198.51.100.1", 1500);
    far.run(|| ip(&format!("addr add {FAR}/32 dev lo")));
    ip("route add default via 198.51.100.1");
    far
}

#[test]
fn packets_go_by_the_uplink_that_their_route_names_and_status_shows_each() {
    in_netns(|| {
        let _near = machine("crtup0", NODE, NEAR, 1500);
        let _far = second_uplink();
        let mut node = Node::start(1450, "");
        node.wait_for("crtup0");
        node.wait_for("crtup1");
        node.wait_for_answer(NEAR);
        node.wait_for_answer(FAR);
        let uplinks = node.ports().into_iter().filter(|row| row.kind == "uplink");
        assert_eq!(uplinks.map(|row| row.name).collect::<Vec<_>>(), ["crtup0", "crtup1"]);
        assert!(succeeds("ping", &format!("-c 1 -W 60 {NEAR}")), "the host has its network");
    });
}

#[test]
fn routes_addresses_and_neighbors_of_ipv6_are_followed_too() {
    const NODE6: &str = "2001:db8::11";
    const NEAR6: &str = "2001:db8::1";
    const FAR6: &str = "2001:db8:f::9";
    const POD6: &str = "fd00:10:244:1::2";
    let with_ipv6 = |device: &str| {
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6"), "0").unwrap();
    };
    in_netns(move || {
        let near = machine("crtup0", NODE, NEAR, 1500);
        with_ipv6("crtup0");
        ip(&format!("addr add {NODE6}/64 dev crtup0 nodad"));
        near.run(move || {
            with_ipv6("far-crtup0");
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
            ip(&format!("addr add {NEAR6}/64 dev far-crtup0 nodad"));
            ip(&format!("addr add {FAR6}/128 dev lo nodad"));
            ip(&format!("route add fd00:10:244:1::/64 via {NODE6}"));
        });
        let config = plane::NodeConfig { address_v6: bytes(NODE6), ..config() };
        let mut node = Node::start_as(config, 1450, "");
        let block = plane::Route {
            prefix: Some(plane::Prefix { address: bytes("fd00:10:244:1::"), length: 64 }),
            target: Some(plane::route::Target::LocalBlock(plane::LocalBlock {})),
        };
        let both = plane::Endpoint { addresses: vec![bytes(POD), bytes(POD6)], ..endpoint() };
        node.tell(vec![op::Op::Route(block), op::Op::Endpoint(both)]);
        node.pod.run(move || {
            with_ipv6("crtpod0");
            ip(&format!("addr add {POD6}/128 dev crtpod0 nodad"));
            ip("route add fe80::ecee:eeff:feee:eeee dev crtpod0");
            ip("route add default via fe80::ecee:eeff:feee:eeee dev crtpod0");
        });
        node.wait_for_answer(NEAR);
        node.wait_for_answer(NEAR6);
        assert!(!node.pod_pings(FAR6, ""), "no route leads there");
        ip(&format!("route add {FAR6}/128 via {NEAR6}"));
        node.wait_for_answer(FAR6);
        ip(&format!("route del {FAR6}/128"));
        eventually("the route is forgotten", || (!node.pod_pings(FAR6, "")).then_some(()));
        assert!(succeeds("ping", &format!("-c 1 -W 60 {NEAR6}")), "the host has its network");
    });
}

#[test]
fn an_uplink_that_the_operator_names_is_the_only_one() {
    in_netns(|| {
        let _near = machine("crtup0", NODE, NEAR, 1500);
        let _far = second_uplink();
        let mut node = Node::start(1450, "--uplink crtup1 --uplink crtup9");
        node.wait_for("crtup1");
        node.wait_for_answer(FAR);
        assert_eq!(node.port("crtup0"), None);
        let missing = node.port("crtup9").unwrap();
        assert_eq!((&*missing.kind, &*missing.detail), ("uplink", "no device crtup9 yet"));
        eventually("what would go by another is dropped", || {
            assert!(!node.pod_pings(NEAR, ""));
            (node.drops("port-gone") > 0).then_some(())
        });
    });
}

#[test]
fn an_uplink_may_go_down_change_its_size_and_its_name_and_be_made_anew() {
    in_netns(|| {
        let near = machine("crtup0", NODE, NEAR, 1500);
        let mut node = Node::start(1500, "");
        node.wait_for_answer(NEAR);

        ip("link set crtup0 down");
        eventually("it is said to be down", || {
            node.port("crtup0").filter(|row| !row.up && row.detail.contains("down"))
        });
        assert!(!node.pod_pings(NEAR, ""));
        ip("link set crtup0 up");
        node.wait_for("crtup0");
        node.wait_for_answer(NEAR);

        assert!(node.pod_pings(NEAR, "-M do -s 1400"));
        ip("link set crtup0 mtu 1300");
        eventually("packets are too long for it", || {
            (!node.pod_pings(NEAR, "-M do -s 1400") && node.drops("packet-too-big") > 0).then_some(())
        });
        node.wait_for_answer(NEAR);
        ip("link set crtup0 mtu 1500");
        eventually("they are not any more", || {
            // The pod's kernel remembers the path's MTU that it was told, for minutes.
            node.pod.run(|| ip("route flush cache"));
            node.pod_pings(NEAR, "-M do -s 1400").then_some(())
        });

        ip("link set crtup0 name crtup7");
        node.wait_for("crtup7");
        assert_eq!(node.port("crtup0"), None);
        node.wait_for_answer(NEAR);

        ip("link del crtup7");
        eventually("it is gone", || node.port("crtup7").is_none().then_some(()));
        assert!(node.port("uplink").unwrap().detail.contains(NODE));
        assert!(!node.pod_pings(NEAR, ""));
        wire("crtup0", NODE, NEAR, 1500, &near);
        node.wait_for("crtup0");
        node.wait_for_answer(NEAR);
    });
}

#[test]
fn a_pods_device_that_vanishes_in_the_middle_of_traffic_leaves_nothing_behind() {
    in_netns(|| {
        let near = machine("crtup0", NODE, NEAR, 1500);
        let mut node = Node::start(1500, "");
        node.wait_for_answer(NEAR);
        node.tell(vec![op::Op::EndpointRemove("default/a".into())]);
        let free = eventually("the pod's frames have come home", || {
            let free = node.counter("free_frames");
            // They come one after another.
            let is_all = |node: &mut Node| (0..50).all(|_| node.counter("free_frames") == free);
            (node.port("calia").is_none() && is_all(&mut node)).then_some(free)
        });
        node.tell(vec![op::Op::Endpoint(endpoint())]);
        node.wait_for_answer(NEAR);

        let flood = near.spawn("ping", &format!("-q -f -s 1000 {POD}"));
        eventually("the flood is on", || (node.counter("port_sent_packets") > 1000).then_some(()));
        ip("link del calia");
        eventually("the port is gone", || node.port("calia").filter(|row| !row.up));
        let dropped = |node: &mut Node| node.drops("port-gone") + node.drops("endpoint-not-ready");
        eventually("what comes for it is dropped by name", || (dropped(&mut node) > 0).then_some(()));
        drop(flood);
        eventually("every frame comes home", || (node.counter("free_frames") == free).then_some(()));
        let slept = node.counter("waits");
        eventually("the worker sleeps", || (node.counter("waits") > slept + 10).then_some(()));
    });
}

#[test]
fn a_worker_sleeps_while_the_kernel_takes_nothing_from_a_device_that_is_down() {
    in_netns(|| {
        let near = machine("crtup0", NODE, NEAR, 1500);
        let mut node = Node::start(1500, "");
        node.wait_for_answer(NEAR);
        // More than the machine answers at once, so that some are on their way when the device goes down.
        let flood = near.spawn("ping", &format!("-q -f -s 1000 {POD}"));
        eventually("the flood is on", || (node.counter("port_sent_packets") > 1000).then_some(()));
        ip("link set calia down");
        eventually("it is said to be down", || node.port("calia").filter(|row| !row.up));
        eventually("packets are queued for it", || (node.drops("transmit-ring-full") > 0).then_some(()));
        drop(flood);
        let slept = node.counter("waits");
        eventually("the worker sleeps", || (node.counter("waits") > slept + 10).then_some(()));
        ip("link set calia up");
        node.wait_for("calia");
        node.wait_for_answer(NEAR);
    });
}

/// A node that translates what pods send, and has a service at a node port. Its host port is there.
fn translating_node() -> Node {
    host_port("caracal0");
    let prefix = Some(plane::Prefix { address: bytes("10.244.0.0"), length: 16 });
    let pool = plane::Pool { prefix, nat_outgoing: true };
    let config = plane::NodeConfig {
        host_port: "caracal0".into(),
        nat_outgoing: Some(plane::NatOutgoing { pools: vec![pool], ..plane::NatOutgoing::default() }),
        node_ports: Some(plane::NodePorts::default()),
        ..config()
    };
    let mut node = Node::start_as(config, 1450, "");
    let frontend = plane::Frontend { port: 30_080, external: true, ..plane::Frontend::default() };
    node.tell(vec![op::Op::Service(plane::Service {
        id: "default/web:http".into(),
        protocol: 6,
        frontends: vec![frontend],
        cluster: vec![plane::Backend { address: bytes(POD), port: 8080 }],
        ..plane::Service::default()
    })]);
    node.wait_for("crtup0");
    node
}

/// Whether a machine can talk with the host at this port, over TCP and UDP.
fn converse(near: &Peer, port: u16) {
    let tcp = TcpListener::bind((NODE, port)).unwrap();
    let udp = UdpSocket::bind((NODE, port)).unwrap();
    udp.set_read_timeout(Some(PATIENCE)).unwrap();
    let asker = near.run(move || {
        let mut stream = TcpStream::connect((NODE, port)).unwrap();
        stream.write_all(b"by TCP").unwrap();
        let socket = UdpSocket::bind((NEAR, 0)).unwrap();
        // Two packets of 1,500 bytes and a rest.
        socket.send_to(&[7; 4000], (NODE, port)).unwrap();
        (stream, socket)
    });
    let (mut stream, _) = tcp.accept().unwrap();
    let mut heard = [0; 6];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"by TCP");
    let mut heard = [0; 5000];
    assert_eq!(udp.recv(&mut heard).unwrap(), 4000);
    drop(asker);
}

#[test]
fn the_hosts_own_connections_never_meet_us_while_ports_are_captured() {
    in_netns(|| {
        let near = machine("crtup0", NODE, NEAR, 9000);
        let mut node = translating_node();
        // As ssh comes, as the kernel's ephemeral ports are used, and beside a node port of another protocol.
        for port in [22, 32_768, 60_999, 30_081] {
            converse(&near, port);
        }
        assert!(near.run(|| succeeds("ping", &format!("-c 1 -W 60 {NODE}"))));
        // With an identifier that is not one of translation's: then the answer would come by us.
        assert!(succeeds("ping", &format!("-e 7 -c 1 -W 60 {NEAR}")));
        let listener = near.run(|| TcpListener::bind((NEAR, 7)).unwrap());
        let asker = TcpStream::connect((NEAR, 7)).unwrap();
        drop((listener.accept().unwrap(), asker));
        for name in ["prefix", "vxlan", "ipip", "service", "translated", "error", "fragment"] {
            assert_eq!(node.counter(&format!("uplink_captured_{name}")), 0, "{name}");
        }
    });
}

#[test]
fn what_is_captured_by_its_port_and_is_the_hosts_goes_back_to_it() {
    in_netns(|| {
        let near = machine("crtup0", NODE, NEAR, 9000);
        let mut node = translating_node();
        eventually("the host port is up", || node.port("host").filter(|row| row.up));
        // A port of translation that the host listens on, although it should not.
        converse(&near, 20_005);
        assert!(near.run(|| succeeds("ping", &format!("-c 1 -W 60 -s 12000 {NODE}"))), "in fragments");
        assert!(node.counter("uplink_captured_translated") > 0);
        assert!(node.counter("to_host") > 0);
    });
}

#[test]
fn answers_to_the_node_and_errors_find_the_pod_and_node_ports_its_service() {
    in_netns(|| {
        let near = machine("crtup0", NODE, NEAR, 1500);
        // Nobody there knows the way to pods.
        near.run(|| ip("route del 10.244.1.0/24"));
        let mut node = translating_node();
        node.wait_for_answer(NEAR);

        let listener = near.run(|| TcpListener::bind((NEAR, 7)).unwrap());
        let mut asker = node.pod.run(|| TcpStream::connect((NEAR, 7)).unwrap());
        asker.write_all(b"from the pod").unwrap();
        let (mut heard, from) = listener.accept().unwrap();
        let mut said = [0; 12];
        heard.read_exact(&mut said).unwrap();
        assert_eq!((&said, from.ip().to_string()), (b"from the pod", NODE.to_owned()));
        assert!((20_000..30_000).contains(&from.port()), "{from}");

        // Nobody listens there, and the pod is told.
        let refused = node.pod.run(|| {
            let socket = UdpSocket::bind((POD, 0)).unwrap();
            socket.connect((NEAR, 9)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.send(b"?").unwrap();
            socket.recv(&mut [0; 8]).unwrap_err().kind()
        });
        assert_eq!(refused, std::io::ErrorKind::ConnectionRefused);

        let server = node.pod.run(|| TcpListener::bind((POD, 8080)).unwrap());
        let client = near.run(|| TcpStream::connect((NODE, 30_080)).unwrap());
        let (_, seen) = server.accept().unwrap();
        drop((client, seen));
        // In fragments, there and back.
        assert!(node.pod_pings(NEAR, "-W 60 -s 4000"));
        for name in ["service", "translated", "error", "fragment"] {
            assert!(node.counter(&format!("uplink_captured_{name}")) > 0, "{name}");
        }
    });
}

#[test]
fn jumbo_frames_are_carried_whole() {
    in_netns(|| {
        let near = machine("crtup0", NODE, NEAR, 9000);
        let node = Node::start(9000, "");
        node.wait_for_answer(NEAR);
        // Each as long as it may be, in several frames of 2 KiB, and just so that it fits into one, and not.
        for size in [8972, 6000, 1750, 1751, 1800, 2048, 4096] {
            assert!(node.pod_pings(NEAR, &format!("-W 60 -M do -s {size}")), "{size} bytes");
        }
        assert!(!node.pod_pings(NEAR, "-M do -s 8973"), "no longer ones");
        // Half-made checksums over several frames, both ways.
        let listener = near.run(|| TcpListener::bind((NEAR, 7)).unwrap());
        let mut sender = node.pod.run(|| TcpStream::connect((NEAR, 7)).unwrap());
        let (mut receiver, _) = listener.accept().unwrap();
        let sent: Vec<u8> = (0..4_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let expected = sent.clone();
        let thread = std::thread::spawn(move || sender.write_all(&sent).unwrap());
        receiver.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut received = Vec::new();
        receiver.read_to_end(&mut received).unwrap();
        thread.join().unwrap();
        assert!(received == expected, "the bytes came changed");
    });
}
