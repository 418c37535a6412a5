//! Pods' links on a real kernel: in network namespaces of the test's own, so they need root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use caracal_cni::link::{self, AttachMode, PodLink};
use caracal_cni::netlink::{Link, Netlink, Route};
use caracal_cni::netns;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 2);
const VETH: &str = "cali0123456789a";
/// Against hanging only.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node, a pod and a bpffs, of this test's own; gone when it ends.
struct World {
    node: PathBuf,
    pod: PathBuf,
    bpf: PathBuf,
}

impl World {
    fn new(test: &str) -> Self {
        let name = |what| netns::path(&format!("crt{}-{test}-{what}", std::process::id()));
        let bpf = std::env::temp_dir().join(format!("crt{}-{test}", std::process::id()));
        let world = Self { node: name("node"), pod: name("pod"), bpf };
        for path in [&world.node, &world.pod] {
            netns::create(path).expect("this test makes network namespaces and needs root");
        }
        fs::create_dir(&world.bpf).unwrap();
        mount(Some("bpffs"), &world.bpf, Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
        netns::within(&world.node, || netns::set_sysctl("ipv4/ip_forward", "1")).unwrap().unwrap();
        world
    }

    fn link<'a>(&'a self, addresses: &'a [IpAddr]) -> PodLink<'a> {
        PodLink {
            node_netns: Some(&self.node),
            pod_netns: &self.pod,
            host_name: VETH,
            addresses,
            mtu: 1450,
            mac: None,
            bpf_dir: &self.bpf,
        }
    }

    fn remove(&self) {
        link::remove(Some(&self.node), VETH, &self.bpf).unwrap();
    }

    fn links(&self, netns: &Path) -> Vec<Link> {
        netns::within(netns, || Netlink::open().unwrap().links().unwrap()).unwrap()
    }

    fn sysctl(&self, netns: &Path, key: &str) -> String {
        let read = || fs::read_to_string(Path::new("/proc/sys/net").join(key)).unwrap();
        netns::within(netns, read).unwrap().trim().to_owned()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = umount2(&self.bpf, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.bpf);
        for path in [&self.node, &self.pod] {
            let _ = netns::remove(path);
        }
    }
}

#[test]
fn a_pods_link_has_one_queue_at_each_end_and_room_for_no_more() {
    let world = World::new("queues");
    link::add(&world.link(&[POD.into()])).unwrap();
    for (netns, name) in [(&world.node, VETH), (&world.pod, "eth0")] {
        let shown = std::process::Command::new("ip")
            .arg("-netns")
            .arg(netns.file_name().unwrap())
            .args(["-details", "-json", "link", "show", name])
            .output()
            .unwrap();
        let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
        let queues = ["num_tx_queues", "num_rx_queues"].map(|field| shown[0][field].as_u64());
        assert_eq!(queues, [Some(1); 2], "{name}: {shown}");
    }
}

#[test]
fn a_link_has_calicos_shape() {
    let world = World::new("shape");
    assert_eq!(link::add(&world.link(&[POD.into()])).unwrap(), AttachMode::Native);
    let host = world.links(&world.node).into_iter().find(|link| link.name == VETH).unwrap();
    assert_eq!((host.mac.as_slice(), host.mtu), ([0xee; 6].as_slice(), 1450));
    assert_eq!(world.sysctl(&world.node, &format!("ipv4/conf/{VETH}/forwarding")), "0");
    assert_eq!(world.sysctl(&world.pod, "ipv6/conf/eth0/disable_ipv6"), "1", "a pod without IPv6 is quiet");
    let routes =
        netns::within(&world.pod, || fs::read_to_string("/proc/thread-self/net/route").unwrap()).unwrap();
    // Destination and gateway in hexadecimal, least significant byte first.
    assert!(routes.lines().any(|line| line.starts_with("eth0\t0101FEA9\t00000000\t")), "{routes}");
    assert!(routes.lines().any(|line| line.starts_with("eth0\t00000000\t0101FEA9\t")), "{routes}");
    let bound = netns::within(&world.pod, || UdpSocket::bind((POD, 0)).is_ok()).unwrap();
    assert!(bound, "the pod has its address");
}

#[test]
fn a_pod_with_ipv6_has_its_address_at_once() {
    let world = World::new("ipv6");
    let address: Ipv6Addr = "fd00::2".parse().unwrap();
    link::add(&world.link(&[POD.into(), address.into()])).unwrap();
    let bound = netns::within(&world.pod, || UdpSocket::bind((address, 0)).map(drop)).unwrap();
    bound.expect("no duplicate detection holds the address back");
}

#[test]
fn without_a_data_plane_a_pod_reaches_nobody() {
    let world = World::new("cutoff");
    link::add(&world.link(&[POD.into()])).unwrap();
    // Somebody on the node whom the kernel would answer for, if it were asked.
    let server = netns::within(&world.node, || {
        let mut netlink = Netlink::open().unwrap();
        let loopback = netlink.link("lo").unwrap().index;
        netlink.add_address(loopback, Ipv4Addr::new(192, 0, 2, 1).into(), 32).unwrap();
        netlink.set_up(loopback).unwrap();
        let veth = netlink.link(VETH).unwrap().index;
        netlink.add_route(&Route::on(POD.into(), 32, veth)).unwrap();
        netns::set_sysctl(&format!("ipv4/conf/{VETH}/proxy_arp"), "1").unwrap();
        let server = UdpSocket::bind(("192.0.2.1", 7)).unwrap();
        server.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        server
    })
    .unwrap();
    let ask = || {
        let client = UdpSocket::bind((POD, 0)).unwrap();
        // The gateway's link-layer address, so that it is not ARP that fails.
        let mut netlink = Netlink::open().unwrap();
        let eth0 = netlink.link("eth0").unwrap().index;
        netlink.add_neighbor(eth0, link::GATEWAY.into(), link::HOST_MAC).unwrap();
        client.send_to(b"?", ("192.0.2.1", 7)).unwrap();
    };
    netns::within(&world.pod, ask).unwrap();
    assert!(server.recv_from(&mut [0; 8]).is_err(), "the pod program drops what nobody reads");
    // The same question without the program is heard: so it was the program that dropped it.
    caracal_xsk::xdp::pod::unpin(&world.bpf, VETH).unwrap();
    // The kernel takes it off when it comes to it.
    let begin = Instant::now();
    while netns::within(&world.pod, ask).is_ok() && server.recv_from(&mut [0; 8]).is_err() {
        assert!(begin.elapsed() < PATIENCE, "nobody hears the pod");
    }
}

#[test]
fn removing_leaves_nothing_and_may_be_repeated() {
    let world = World::new("remove");
    link::add(&world.link(&[POD.into()])).unwrap();
    assert!(world.bpf.join(VETH).join("link").exists());
    world.remove();
    world.remove();
    assert!(!world.links(&world.node).iter().any(|link| link.name == VETH));
    assert!(!world.links(&world.pod).iter().any(|link| link.name == "eth0"));
    assert!(!world.bpf.join(VETH).exists());
    link::add(&world.link(&[POD.into()])).expect("the name is free again");
}

#[test]
fn what_fails_half_way_leaves_nothing() {
    let world = World::new("half");
    // The same address twice: refused when everything else has been made.
    let addresses = [IpAddr::from(POD), POD.into()];
    let error = link::add(&world.link(&addresses)).unwrap_err();
    assert!(error.to_string().contains("add address 10.244.1.2/32"), "{error}");
    assert!(!world.links(&world.node).iter().any(|link| link.name == VETH));
    assert!(!world.bpf.join(VETH).exists());
}

#[test]
fn a_namespace_is_found_until_it_is_removed() {
    let path = netns::path(&format!("crt{}-life", std::process::id()));
    netns::create(&path).expect("this test makes a network namespace and needs root");
    assert!(netns::create(&path).is_err(), "the name is taken");
    let inode = |file: &Path| {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(file).unwrap().ino()
    };
    let inside = netns::within(&path, || inode(Path::new("/proc/thread-self/ns/net"))).unwrap();
    assert_eq!(inside, inode(&path));
    assert_ne!(
        inside,
        inode(Path::new("/proc/thread-self/ns/net")),
        "only the thread that entered is inside"
    );
    netns::remove(&path).unwrap();
    netns::remove(&path).unwrap();
    assert!(!path.exists());
    // What a maker leaves that is killed before it mounts.
    fs::write(&path, "").unwrap();
    netns::remove(&path).unwrap();
    assert!(!path.exists());
}

#[test]
fn a_thread_with_a_sysfs_of_its_own_sees_its_namespaces_devices_there_and_the_machines_bpf_file_system() {
    let world = World::new("sysfs");
    let devices = || -> Vec<String> {
        let names = fs::read_dir("/sys/class/net").unwrap().map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).collect()
    };
    let device_of = |path: &str| fs::metadata(path).ok().map(|metadata| metadata.dev());
    let (machine, bpf) = (devices(), device_of("/sys/fs/bpf"));
    let look = || {
        netns::own_sysfs().unwrap();
        (devices(), device_of("/sys/fs/bpf"))
    };
    assert_eq!(netns::within(&world.pod, look).unwrap(), (vec!["lo".to_owned()], bpf));
    assert_eq!(devices(), machine, "the machine's own is as it was");
}
