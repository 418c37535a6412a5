//! What a killed data plane leaves behind: nothing. Needs root. In a file of its own because it forks: the child inherits what the process has open.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's helpers fail as tests do"
)]
#![allow(unsafe_code, reason = "fork")]

mod common;

use caracal_xsk::Socket;
use caracal_xsk::xdp::uplink::Capture;
use caracal_xsk::xdp::{Preference, Uplink, XdpError, bpffs, pod};
use common::*;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork, pause};
use std::path::{Path, PathBuf};

/// Removes the pins even when the test fails.
struct Unpin(PathBuf);

impl Drop for Unpin {
    fn drop(&mut self) {
        let _ = pod::unpin(&self.0, "crthost");
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn kill_9_frees_the_uplink_and_leaves_the_pod_cut_off() {
    in_netns(|| {
        let bpf = Unpin(Path::new(bpffs::MOUNT_POINT).join(format!("crtkill{}", std::process::id())));
        let (up, _) = veth("crtup", "crtwire");
        let (host, _) = veth("crthost", "crtpod");
        let peer = Peer::new();
        peer.adopt("crtwire");
        peer.adopt("crtpod");
        peer.run(|| {
            ip("addr add 192.0.2.11/24 dev crtwire");
            ip("addr add 198.51.100.11/24 dev crtpod");
            ip("link set crtwire up");
            ip("link set crtpod up");
        });
        ip("addr add 192.0.2.10/24 dev crtup");
        ip("addr add 198.51.100.10/24 dev crthost");
        assert!(peer.run(|| succeeds("ping", "-c 1 -W 2 198.51.100.10")), "the pod's wire works");

        pod::pin(&bpf.0, "crthost", host).unwrap();
        let (domain, mut pool) = domain(64);
        let mut uplink = Uplink::attach(up, Preference::NativeFirst).unwrap();
        let mut sockets = [up, host].map(|device| Socket::bind(&domain, device, 0, small_rings()).unwrap());
        sockets.iter_mut().for_each(|socket| assert_eq!(socket.refill(&mut pool, 16), 16));
        // Everything on the uplink is ours: with the program there, the host has no network.
        uplink.capture(Capture::Prefix { address: "0.0.0.0".parse().unwrap(), length: 0 }).unwrap();
        uplink.set_socket(0, &sockets[0]).unwrap();
        pod::open(&bpf.0, "crthost").unwrap().set_socket(0, &sockets[1]).unwrap();

        // SAFETY: the child makes one system call that is safe after fork, and is killed in it.
        let child = match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => child,
            ForkResult::Child => loop {
                pause();
            },
        };
        // Now the child alone holds the data plane.
        for socket in sockets {
            assert_eq!(socket.close(&mut pool), 16);
        }
        drop((uplink, domain));
        assert!(matches!(
            Uplink::attach(up, Preference::NativeFirst).map(|_| ()),
            Err(XdpError::Taken { .. })
        ));
        assert!(!succeeds("ping", "-c 1 -W 0.2 192.0.2.11"), "captured");

        kill(child, Signal::SIGKILL).unwrap();
        waitpid(child, None).unwrap();
        eventually("the host has its network back", || {
            succeeds("ping", "-c 1 -W 0.5 192.0.2.11").then_some(())
        });
        assert!(!peer.run(|| succeeds("ping", "-c 2 -i 0.02 -W 0.2 198.51.100.10")), "the pod is cut off");
        let _uplink = eventually("the uplink is free", || Uplink::attach(up, Preference::NativeFirst).ok());
        let (domain, mut pool) = common::domain(64);
        for device in [up, host] {
            Socket::bind(&domain, device, 0, small_rings()).unwrap().close(&mut pool);
        }
    });
}
