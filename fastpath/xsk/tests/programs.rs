//! The XDP programs on real veth pairs. Needs root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's helpers fail as tests do"
)]

mod common;

use caracal_xsk::Socket;
use caracal_xsk::xdp::uplink::Capture;
use caracal_xsk::xdp::{AttachMode, Preference, Uplink, XdpError, bpffs, pod};
use common::*;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 7);

/// An uplink in our namespace and a node across the wire in a peer's, which is the kernel.
fn uplink_and_peer() -> Peer {
    veth("crtup", "crtwire");
    ip("addr add 192.0.2.10/24 dev crtup");
    let peer = Peer::new();
    peer.adopt("crtwire");
    peer.run(|| {
        ip("addr add 192.0.2.11/24 dev crtwire");
        ip("link set crtwire up");
    });
    peer
}

fn ping(to: Ipv4Addr) -> bool {
    succeeds("ping", &format!("-c 3 -i 0.02 -W 2 {to}"))
}

#[test]
fn a_queue_without_a_socket_leaves_everything_to_the_host() {
    in_netns(|| {
        let (up, _) = veth("crtup", "crtwire");
        let mut wire = Wire::new("crtwire");
        let mut uplink = Uplink::attach(up, Preference::NativeFirst).unwrap();
        uplink.capture(Capture::Prefix { address: IpAddr::V4(POD), length: 32 }).unwrap();
        wire.send(&ipv4(PEER, POD, 17, 0, &udp(1, 2, b"pod")));
        eventually("it passes", || (uplink.counters().unwrap().no_socket == 1).then_some(()));
        wire.close();
    });
}

#[test]
fn the_host_keeps_its_network_before_during_and_after() {
    in_netns(|| {
        let _peer = uplink_and_peer();
        assert!(ping(PEER), "before");
        let up = ifindex("crtup");
        let (domain, mut pool) = domain(64);
        let mut uplink = Uplink::attach(up, Preference::NativeFirst).unwrap();
        assert_eq!(uplink.mode(), &AttachMode::Native);
        uplink.capture(Capture::Prefix { address: IpAddr::V4(POD), length: 24 }).unwrap();
        uplink.capture(Capture::Vxlan { local: IpAddr::V4(HOST), port: 4789 }).unwrap();
        assert!(ping(PEER), "attached, without a socket");
        let mut socket = Socket::bind(&domain, up, 0, small_rings()).unwrap();
        socket.refill(&mut pool, 32);
        uplink.set_socket(0, &socket).unwrap();
        assert!(ping(PEER), "with a socket");
        socket.close(&mut pool);
        assert!(ping(PEER), "the socket closed");
        drop(uplink);
        assert!(ping(PEER), "after");
    });
}

#[test]
fn dropping_the_uplink_detaches_it_and_while_it_is_there_it_is_the_only_one() {
    in_netns(|| {
        let (up, _) = veth("crtup", "crtwire");
        let first = Uplink::attach(up, Preference::NativeFirst).unwrap();
        for preference in [Preference::NativeFirst, Preference::Native, Preference::Generic] {
            let second = Uplink::attach(up, preference).map(|_| ()).unwrap_err();
            assert!(matches!(second, XdpError::Taken { .. }), "{second}");
        }
        drop(first);
        let third = eventually("the device is free again", || Uplink::attach(up, Preference::Generic).ok());
        assert_eq!(third.mode(), &AttachMode::Generic("configured".into()));
        let missing = Uplink::attach(4711, Preference::NativeFirst).map(|_| ()).unwrap_err();
        assert!(matches!(missing, XdpError::NoDevice { ifindex: 4711 }), "{missing}");
    });
}

#[test]
fn a_device_without_native_mode_gets_generic_mode_with_the_reason() {
    in_netns(|| {
        ip("link add crtbr type bridge");
        ip("link set crtbr up");
        let bridge = ifindex("crtbr");
        let refused = Uplink::attach(bridge, Preference::Native).map(|_| ()).unwrap_err();
        assert!(matches!(refused, XdpError::Attach { .. }), "{refused}");
        let uplink = Uplink::attach(bridge, Preference::NativeFirst).unwrap();
        let AttachMode::Generic(reason) = uplink.mode() else { panic!("a bridge has native mode now?") };
        assert!(reason.contains("not supported"), "{reason}");
    });
}

/// A bpf-dir of one test, removed with everything in it.
struct BpfDir(PathBuf);

impl BpfDir {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(Path::new(bpffs::MOUNT_POINT).join(format!("crt{}-{number}", std::process::id())))
    }
}

impl Drop for BpfDir {
    fn drop(&mut self) {
        for veth in pod::pinned(&self.0).unwrap_or_default() {
            let _ = pod::unpin(&self.0, &veth);
        }
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn a_pod_without_a_reader_is_cut_off_and_with_one_delivered() {
    in_netns(|| {
        let bpf = BpfDir::new();
        let (host, _) = veth("crthost", "crtpod");
        ip("addr add 192.0.2.10/24 dev crthost");
        let peer = Peer::new();
        peer.adopt("crtpod");
        peer.run(|| {
            ip("addr add 192.0.2.11/24 dev crtpod");
            ip("link set crtpod up");
        });
        assert!(peer.run(|| ping(HOST)), "the wire works");
        assert_eq!(pod::pin(&bpf.0, "crthost", host).unwrap(), AttachMode::Native);
        assert!(
            !peer.run(|| succeeds("ping", "-c 2 -i 0.02 -W 0.2 192.0.2.10")),
            "nobody reads: the pod is cut off"
        );

        let (domain, mut pool) = domain(64);
        let mut socket = Socket::bind(&domain, host, 0, small_rings()).unwrap();
        socket.refill(&mut pool, 32);
        pod::open(&bpf.0, "crthost").unwrap().set_socket(0, &socket).unwrap();
        peer.run(|| succeeds("ping", "-c 1 -W 0.1 192.0.2.10"));
        let packets = receive_packets(&mut socket, &mut pool, 1);
        assert_eq!(packets[0][6..12], peer.run(|| mac("crtpod")), "the pod's frames arrive");

        // The reader dies: cut off again, and the next one gets the pod.
        socket.close(&mut pool);
        assert!(!peer.run(|| succeeds("ping", "-c 1 -W 0.1 192.0.2.10")));
        let mut socket = Socket::bind(&domain, host, 0, small_rings()).unwrap();
        socket.refill(&mut pool, 32);
        pod::open(&bpf.0, "crthost").unwrap().set_socket(0, &socket).unwrap();
        peer.run(|| succeeds("ping", "-c 1 -W 0.1 192.0.2.10"));
        receive_packets(&mut socket, &mut pool, 1);
        socket.close(&mut pool);

        pod::unpin(&bpf.0, "crthost").unwrap();
        assert!(peer.run(|| ping(HOST)), "unpinned: the wire is the kernel's again");
        assert_eq!(pool.free(), 64);
    });
}

fn mac(device: &str) -> Vec<u8> {
    let output = std::process::Command::new("ip").args(["-o", "link", "show", device]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mac = text.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap();
    mac.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

#[test]
fn pins_are_made_once_listed_and_replaced_when_their_device_has_gone() {
    in_netns(|| {
        let bpf = BpfDir::new();
        assert_eq!(pod::pinned(&bpf.0).unwrap(), Vec::<String>::new());
        let (first, _) = veth("crthost", "crtpod");
        pod::pin(&bpf.0, "crthost", first).unwrap();
        for file in ["prog", "link", "xsks"] {
            assert!(bpf.0.join("crthost").join(file).exists(), "{file}");
        }
        let link = std::fs::metadata(bpf.0.join("crthost/link")).unwrap();
        assert_eq!(pod::pin(&bpf.0, "crthost", first).unwrap(), AttachMode::Native);
        let same = std::fs::metadata(bpf.0.join("crthost/link")).unwrap();
        assert_eq!(inode(&link), inode(&same), "an attachment that holds is kept");
        assert_eq!(pod::attachment(&bpf.0, "crthost").unwrap(), Some((first, AttachMode::Native)));
        assert_eq!(pod::pinned(&bpf.0).unwrap(), ["crthost"]);

        ip("link del crthost");
        assert_eq!(pod::attachment(&bpf.0, "crthost").unwrap(), None, "the device has gone");
        let (second, _) = veth("crthost", "crtpod");
        pod::pin(&bpf.0, "crthost", second).unwrap();
        assert_eq!(pod::attachment(&bpf.0, "crthost").unwrap(), Some((second, AttachMode::Native)));

        pod::unpin(&bpf.0, "crthost").unwrap();
        pod::unpin(&bpf.0, "crthost").unwrap();
        assert_eq!(pod::pinned(&bpf.0).unwrap(), Vec::<String>::new());
        assert!(matches!(pod::open(&bpf.0, "crthost"), Err(XdpError::NotPinned { .. })));
    });
}

fn inode(metadata: &std::fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

#[test]
fn a_pin_in_generic_mode_says_so_later_too() {
    in_netns(|| {
        let bpf = BpfDir::new();
        ip("link add crtbr type bridge");
        let bridge = ifindex("crtbr");
        assert!(matches!(pod::pin(&bpf.0, "crtbr", bridge).unwrap(), AttachMode::Generic(_)));
        assert!(matches!(pod::pin(&bpf.0, "crtbr", bridge).unwrap(), AttachMode::Generic(_)));
        assert!(matches!(pod::attachment(&bpf.0, "crtbr").unwrap(), Some((_, AttachMode::Generic(_)))));
    });
}

#[test]
fn a_pin_that_fails_leaves_nothing_behind() {
    in_netns(|| {
        let bpf = BpfDir::new();
        let (host, _) = veth("crthost", "crtpod");
        let error = pod::pin(&bpf.0, "crtgone", 4711).unwrap_err();
        assert!(matches!(error, XdpError::NoDevice { .. }), "{error}");
        assert_eq!(pod::pinned(&bpf.0).unwrap(), Vec::<String>::new());
        let _other = Uplink::attach(host, Preference::Native).unwrap();
        let error = pod::pin(&bpf.0, "crthost", host).unwrap_err();
        assert!(matches!(error, XdpError::Taken { .. }), "{error}");
        assert_eq!(pod::pinned(&bpf.0).unwrap(), Vec::<String>::new());
    });
}

#[test]
fn a_name_that_leads_elsewhere_and_a_directory_on_another_file_system_are_refused() {
    require_root();
    let bpf = BpfDir::new();
    for name in ["", "..", "a/b", "a.b", "sixteen-letters-", "eth0:1", "two words"] {
        assert!(matches!(pod::pin(&bpf.0, name, 1), Err(XdpError::Name { .. })), "{name:?}");
        assert!(matches!(pod::unpin(&bpf.0, name), Err(XdpError::Name { .. })), "{name:?}");
    }
    for directory in ["/tmp/crt-bpf", "relative", "/sys/fs/bpf/../crt"] {
        let error = pod::pin(Path::new(directory), "crthost", 1).unwrap_err();
        assert!(matches!(error, XdpError::NotBpffs { .. }), "{error}");
    }
    assert!(!Path::new("/tmp/crt-bpf").exists());
}
