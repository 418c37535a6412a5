//! Packet sockets on a pod's veth, and the guard that keeps what they get a copy of from the kernel. Needs root. In a file of its own because it forks.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's helpers fail as tests do"
)]
#![allow(unsafe_code, reason = "fork")]

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use caracal_xsk::packet_socket::{Incoming, Outgoing, PacketSocket, Shape};
use caracal_xsk::tap::VirtioNetHeader;
use caracal_xsk::xdp::{bpffs, guard, pod};
use caracal_xsk::{Frame, FramePool};
use common::*;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork, pause};

const SHAPE: Shape = Shape { first_headroom: 128, first_len: 1464, headroom: 192, len: 1398 };

/// Removes the pins even when the test fails.
struct Pins(PathBuf);

impl Pins {
    fn new(name: &str) -> Self {
        Pins(Path::new(bpffs::MOUNT_POINT).join(format!("crt{name}{}", std::process::id())))
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        for veth in pod::pinned(&self.0).unwrap_or_default() {
            let _ = pod::unpin(&self.0, &veth);
        }
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// A pod at 198.51.100.11 behind `host`, whose own end has 198.51.100.10, so that the kernel would answer.
fn make_pod(host: &str, pod: &str) -> (Peer, u32) {
    let (index, _) = veth(host, pod);
    let peer = Peer::new();
    peer.adopt(pod);
    let pod = pod.to_owned();
    peer.run(move || {
        ip(&format!("addr add 198.51.100.11/24 dev {pod}"));
        ip(&format!("link set {pod} up"));
    });
    ip(&format!("addr add 198.51.100.10/24 dev {host}"));
    (peer, index)
}

struct Receiver {
    socket: PacketSocket,
    pool: FramePool,
    incoming: Vec<Incoming>,
}

impl Receiver {
    fn open(ifindex: u32) -> Receiver {
        let pool = FramePool::heap(512);
        let incoming = (0..8).map(|_| Incoming::default()).collect();
        Receiver { socket: PacketSocket::open(ifindex).unwrap(), pool, incoming }
    }

    /// What has come: each packet's header, length, and segments.
    fn receive(&mut self, mut see: impl FnMut(VirtioNetHeader, usize, Vec<&Frame>)) -> usize {
        for incoming in &mut self.incoming {
            while incoming.frames.len() < 48 {
                incoming.frames.push(self.pool.take().unwrap());
            }
        }
        let count = self.socket.receive(&mut self.incoming, SHAPE).unwrap();
        for incoming in &self.incoming[..count] {
            assert!(!incoming.is_truncated);
            see(
                incoming.header,
                incoming.len,
                incoming.frames.iter().rev().filter(|f| !f.is_empty()).collect(),
            );
        }
        count
    }

    /// How many pings have come. Of itself a pod's kernel sends besides, when it likes: it looks for IPv6 routers.
    fn receive_pings(&mut self) -> usize {
        let mut pings = 0;
        while self.receive(|_, _, segments| {
            let bytes = segments[0].data();
            pings += usize::from(bytes[12..14] == [8, 0] && bytes[23] == 1);
        }) > 0
        {}
        pings
    }

    fn close(mut self) {
        for incoming in self.incoming.drain(..) {
            incoming.frames.into_iter().for_each(|frame| self.pool.put(frame));
        }
        assert_eq!(self.pool.free(), self.pool.total());
    }
}

#[test]
fn the_socket_gets_what_the_pod_sends_once_and_the_kernel_gets_nothing() {
    in_netns(|| {
        let pins = Pins::new("once");
        let (peer, host) = make_pod("crthost", "crtpod");
        assert!(peer.run(|| succeeds("ping", "-c 1 -W 2 198.51.100.10")), "the pod's wire works");
        pod::pin(&pins.0, "crthost", host).unwrap();
        let mut receiver = Receiver::open(host);
        assert!(!peer.run(|| succeeds("ping", "-c 1 -W 0.2 198.51.100.10")));
        assert_eq!(receiver.receive(|_, _, _| ()), 0, "the pod program is before it");

        pod::set_aside(&pins.0, "crthost", host).unwrap();
        pod::set_aside(&pins.0, "crthost", host).unwrap();
        assert_eq!(guard::holds(&pins.0, "crthost").unwrap(), Some(host));
        assert_eq!(pod::attachment(&pins.0, "crthost").unwrap().map(|(device, _)| device), Some(host));
        peer.run(|| ip("neigh replace 198.51.100.10 lladdr 02:00:00:00:00:77 dev crtpod nud permanent"));
        // The kernel takes a program off a little after its last pin is gone.
        eventually("the pod program is gone", || {
            assert!(!peer.run(|| succeeds("ping", "-c 1 -W 0.05 198.51.100.10")), "guarded");
            (receiver.receive(|_, _, _| ()) > 0).then_some(())
        });
        while receiver.receive(|_, _, _| ()) > 0 {}
        assert!(!peer.run(|| succeeds("ping", "-c 3 -i 0.01 -W 0.2 198.51.100.10")), "guarded");
        assert_eq!(receiver.receive_pings(), 3, "each once");

        // What this host sends to the pod is not what the pod sends.
        ip("neigh replace 198.51.100.11 lladdr 02:00:00:00:00:78 dev crthost nud permanent");
        assert!(!succeeds("ping", "-c 1 -W 0.1 198.51.100.11"));
        assert_eq!(receiver.receive_pings(), 0);

        // And back: the program is before it again, the guard stays.
        pod::put_back(&pins.0, "crthost", host, |_| Ok(())).unwrap();
        pod::put_back(&pins.0, "crthost", host, |_| Ok(())).unwrap();
        assert!(!peer.run(|| succeeds("ping", "-c 1 -W 0.1 198.51.100.10")));
        assert_eq!(receiver.receive_pings(), 0);
        assert_eq!(guard::holds(&pins.0, "crthost").unwrap(), Some(host));
        receiver.close();
        pod::unpin(&pins.0, "crthost").unwrap();
        peer.run(|| ip("neigh del 198.51.100.10 dev crtpod"));
        ip("neigh del 198.51.100.11 dev crthost");
        assert!(peer.run(|| succeeds("ping", "-c 1 -W 2 198.51.100.10")), "nothing of it stays");
    });
}

#[test]
fn kill_9_of_the_reader_leaves_the_pod_cut_off() {
    in_netns(|| {
        let pins = Pins::new("kill");
        let (peer, host) = make_pod("crthost", "crtpod");
        pod::pin(&pins.0, "crthost", host).unwrap();
        let socket = PacketSocket::open(host).unwrap();
        pod::set_aside(&pins.0, "crthost", host).unwrap();
        // SAFETY: the child makes one system call that is safe after fork, and is killed in it.
        let child = match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => child,
            ForkResult::Child => loop {
                pause();
            },
        };
        drop(socket);
        kill(child, Signal::SIGKILL).unwrap();
        waitpid(child, None).unwrap();
        assert!(!peer.run(|| succeeds("ping", "-c 1 -W 0.3 198.51.100.10")), "cut off");
        // Who makes the pod's link again finds it guarded, and leaves it so.
        pod::pin(&pins.0, "crthost", host).unwrap();
        assert!(!peer.run(|| succeeds("ping", "-c 1 -W 0.3 198.51.100.10")), "still cut off");
        assert_eq!(pod::pinned(&pins.0).unwrap(), ["crthost"]);
        pod::unpin(&pins.0, "crthost").unwrap();
        assert!(peer.run(|| succeeds("ping", "-c 1 -W 2 198.51.100.10")));
    });
}

#[test]
fn a_frame_with_a_vlan_tag_is_cut_to_less_than_an_ethernet_header() {
    in_netns(|| {
        let (peer, host) = make_pod("crthost", "crtpod");
        let mut receiver = Receiver::open(host);
        let tagged: Vec<u8> =
            [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1], &[0x81, 0, 0, 5, 8, 0], &[0x45; 60]].concat();
        peer.run(move || {
            let mut sender = PacketSocket::open(ifindex("crtpod")).unwrap();
            let mut packets = Outgoing::default();
            assert!(packets.push(VirtioNetHeader::default(), [&tagged[..]].into_iter()));
            assert_eq!(sender.send(&mut packets).unwrap(), 1);
        });
        eventually("the frame", || {
            let mut found = None;
            receiver.receive(|_, len, _| found = (len == 13).then_some(()).or(found));
            found
        });
        receiver.close();
    });
}

#[test]
fn what_is_not_received_in_time_is_counted_as_lost() {
    const FRAMES: usize = 10_000;
    in_netns(|| {
        let (peer, host) = make_pod("crthost", "crtpod");
        let mut receiver = Receiver::open(host);
        peer.run(move || {
            let frame: Vec<u8> = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1, 0x88, 0xb5], &[0; 1400]].concat();
            let mut sender = PacketSocket::open_to_send(ifindex("crtpod")).unwrap();
            let mut sent = 0;
            while sent < FRAMES {
                let mut packets = Outgoing::default();
                while packets.push(VirtioNetHeader::default(), [&frame[..]].into_iter()) {}
                sent += sender.send(&mut packets).unwrap();
            }
        });
        let (mut received, mut lost) = (0, 0);
        eventually("all that was sent", || {
            received += receiver.receive(|_, _, _| ());
            lost += receiver.socket.take_lost();
            (received + lost as usize >= FRAMES).then_some(())
        });
        assert!(lost > 0 && received > 1000, "{received} received, {lost} lost");
        assert_eq!(receiver.socket.take_lost(), 0, "told once");
        receiver.close();
    });
}

#[test]
fn bulk_tcp_goes_through_two_sockets_in_super_frames() {
    const BYTES: usize = 16 << 20;
    in_netns(|| {
        let pins = Pins::new("bulk");
        let ends = [("crthosta", "crtpoda", 1), ("crthostb", "crtpodb", 2)].map(|(host, pod, last)| {
            let (index, _) = veth(host, pod);
            let peer = Peer::new();
            peer.adopt(pod);
            peer.run(move || {
                ip(&format!("link set {pod} address 02:00:00:00:01:0{last}"));
                ip(&format!("addr add 198.51.100.{last}/24 dev {pod}"));
                ip(&format!("link set {pod} up"));
                let other = 3 - last;
                ip(&format!(
                    "neigh replace 198.51.100.{other} lladdr 02:00:00:00:01:0{other} dev {pod} nud permanent"
                ));
            });
            pod::pin(&pins.0, host, index).unwrap();
            let receiver = Receiver::open(index);
            pod::set_aside(&pins.0, host, index).unwrap();
            (peer, receiver)
        });
        let [(a, mut port_a), (b, mut port_b)] = ends;
        let listener = b.run(|| TcpListener::bind("198.51.100.2:7").unwrap());
        let (told, result) = mpsc::channel();
        // A socket stays in the namespace that it was made in.
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            told.send(bytes).unwrap();
        });
        let pattern: Vec<u8> = (0..BYTES).map(|n| (n / 251) as u8 ^ n as u8).collect();
        let sent = pattern.clone();
        let (connected, stream) = mpsc::channel();
        let connecting = std::thread::spawn(move || {
            connected.send(a.run(|| TcpStream::connect("198.51.100.2:7").unwrap())).unwrap();
            a
        });
        let sending = std::thread::spawn(move || {
            let mut stream: TcpStream = stream.recv().unwrap();
            stream.write_all(&sent).unwrap();
        });
        let (mut largest, mut gso) = (0, 0);
        let begin = Instant::now();
        let received = loop {
            assert!(begin.elapsed() < Duration::from_secs(60), "nothing comes through");
            for (from, to) in [(true, false), (false, true)] {
                let (from, to) = match (from, to) {
                    (true, _) => (&mut port_a, &mut port_b),
                    _ => (&mut port_b, &mut port_a),
                };
                let socket = &mut to.socket;
                from.receive(|mut header, len, segments| {
                    largest = largest.max(len);
                    gso += usize::from(header.gso_type != VirtioNetHeader::GSO_NONE);
                    header.header_len = if header.gso_type == VirtioNetHeader::GSO_NONE { 0 } else { 66 };
                    let mut packets = Outgoing::default();
                    assert!(packets.push(header, segments.iter().map(|frame| frame.data())));
                    while socket.send(&mut packets).unwrap() == 0 {}
                });
            }
            if let Ok(bytes) = result.try_recv() {
                break bytes;
            }
        };
        assert!(received == pattern, "the bytes that were sent");
        assert!(largest > 20_000 && gso > 0, "super-frames: the largest has {largest} bytes");
        sending.join().unwrap();
        drop(connecting.join().unwrap());
        port_a.close();
        port_b.close();
    });
}
