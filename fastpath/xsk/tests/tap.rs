//! Tap devices. Needs root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's helpers fail as tests do"
)]

mod common;

use caracal_xsk::FramePool;
use caracal_xsk::tap::{self, Offloads, Tap, TapError, VirtioNetHeader};
use common::*;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, UdpSocket};

const HOST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const POD: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A tap device with an address, and a neighbour behind it that is this test.
fn tap_with_neighbour(vnet_hdr: bool) -> Tap {
    tap::create_persistent("crttap", vnet_hdr).unwrap();
    // Not there when the kernel has no IPv6.
    let _ = std::fs::write("/proc/sys/net/ipv6/conf/crttap/disable_ipv6", "1");
    let tap = eventually("the tap is closed by its maker", || Tap::open("crttap", vnet_hdr).ok());
    ip("link set crttap up");
    ip("addr add 10.9.0.1/24 dev crttap");
    ip("neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev crttap nud permanent");
    tap
}

fn read(tap: &mut Tap, pool: &mut FramePool, frames: usize) -> (Vec<u8>, VirtioNetHeader) {
    let mut segments: Vec<_> = (0..frames).map(|_| pool.take().unwrap()).collect();
    segments.iter_mut().for_each(|frame| frame.reset(64));
    let (len, header) = eventually("a packet from the tap", || tap.recv(&mut segments).unwrap());
    let bytes: Vec<u8> = segments.iter().flat_map(|frame| frame.data().to_vec()).collect();
    assert_eq!(bytes.len(), len);
    assert!(segments.iter().all(|frame| frame.headroom() == 64));
    segments.into_iter().for_each(|frame| pool.put(frame));
    (bytes, header)
}

#[test]
fn packets_go_both_ways_with_and_without_a_header() {
    for vnet_hdr in [false, true] {
        in_netns(move || {
            let mut tap = tap_with_neighbour(vnet_hdr);
            assert_eq!(tap.has_vnet_header(), vnet_hdr);
            let mut pool = FramePool::heap(8);
            let socket = UdpSocket::bind("10.9.0.1:9").unwrap();
            socket.send_to(b"from the host", "10.9.0.2:10").unwrap();
            let (packet, header) = read(&mut tap, &mut pool, 1);
            assert_eq!((&packet[..6], &packet[42..]), (&POD_MAC[..], &b"from the host"[..]));
            assert_eq!(header, VirtioNetHeader::default(), "nothing is left to us unless we say so");

            let mut answer = ipv4(POD, HOST, 17, 0, &udp(10, 9, b"from the pod"));
            answer[..6].copy_from_slice(&packet[6..12]);
            let (front, back) = answer.split_at(50);
            assert!(tap.send(VirtioNetHeader::default(), &[front, back]).unwrap());
            let mut buffer = [0; 32];
            let (len, from) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..len], from.to_string()), (&b"from the pod"[..], "10.9.0.2:10".to_owned()));
            assert_eq!(pool.free(), 8);
        });
    }
}

#[test]
fn an_empty_tap_has_no_packet() {
    in_netns(|| {
        let mut tap = tap_with_neighbour(true);
        let mut pool = FramePool::heap(2);
        let mut segments = vec![pool.take().unwrap()];
        // The device may have something of its own to say when it comes up.
        while tap.recv(&mut segments).unwrap().is_some() {}
        assert!(tap.recv(&mut segments).unwrap().is_none());
        assert!(segments[0].is_empty());
        segments.into_iter().for_each(|frame| pool.put(frame));
    });
}

#[test]
fn the_kernel_takes_a_half_made_checksum() {
    in_netns(|| {
        let mut tap = tap_with_neighbour(true);
        let socket = UdpSocket::bind("10.9.0.1:9").unwrap();
        socket.send_to(b"hello", "10.9.0.2:10").unwrap();
        let (packet, _) = read(&mut tap, &mut FramePool::heap(1), 1);
        let mut answer = ipv4(POD, HOST, 17, 0, &udp(10, 9, b"half"));
        answer[..6].copy_from_slice(&packet[6..12]);
        let mut pseudo = [POD.octets(), HOST.octets()].concat();
        pseudo.extend([0, 17, 0, 12]);
        answer[40..42].copy_from_slice(&folded_sum(&pseudo).to_be_bytes());
        // The same packet as if its checksum were complete is dropped: only the second arrives.
        assert!(tap.send(VirtioNetHeader::default(), &[&answer]).unwrap());
        let last = answer.len() - 1;
        answer[last] = b'F';
        let header = VirtioNetHeader {
            flags: VirtioNetHeader::NEEDS_CHECKSUM,
            checksum_start: 34,
            checksum_offset: 6,
            ..VirtioNetHeader::default()
        };
        assert!(tap.send(header, &[&answer]).unwrap());
        let mut buffer = [0; 8];
        assert_eq!(socket.recv(&mut buffer).unwrap(), 4);
        assert_eq!(&buffer[..4], b"halF");
    });
}

/// Two taps, wired to each other by this test as a pod and its host are: TCP between them in super-frames.
#[test]
fn tcp_super_frames_are_read_and_written_whole() {
    in_netns(|| {
        let all = Offloads { checksum: true, tso4: true, tso6: true };
        let mut here = tap_with_neighbour(true);
        here.set_offloads(all).unwrap();
        let peer = Peer::new();
        let (mut there, listener) = peer.run(move || {
            tap::create_persistent("crttap", true).unwrap();
            let tap = eventually("the tap is closed by its maker", || Tap::open("crttap", true).ok());
            tap.set_offloads(all).unwrap();
            ip("link set crttap address 02:00:00:00:00:02 up");
            ip("addr add 10.9.0.2/24 dev crttap");
            (tap, std::net::TcpListener::bind("10.9.0.2:9").unwrap())
        });
        const BYTES: usize = 4 << 20;
        let reader = std::thread::spawn(move || {
            let mut received = Vec::new();
            listener.accept().unwrap().0.read_to_end(&mut received).unwrap();
            received
        });
        let data: Vec<u8> = (0..BYTES).map(|n| (n % 251) as u8).collect();
        let writer = {
            let data = data.clone();
            // A thread starts in its maker's namespace: the sender is in ours.
            std::thread::spawn(move || {
                std::net::TcpStream::connect("10.9.0.2:9").unwrap().write_all(&data).unwrap()
            })
        };
        let mut pool = FramePool::heap(40);
        let mut segments: Vec<_> = (0..36).map(|_| pool.take().unwrap()).collect();
        let mut longest = 0;
        let mut carry = |from: &mut Tap, to: &mut Tap| {
            segments.iter_mut().for_each(|frame| frame.reset(0));
            let Some((len, header)) = from.recv(&mut segments).unwrap() else { return false };
            longest = longest.max(len);
            let bytes: Vec<&[u8]> =
                segments.iter().map(|frame| frame.data()).filter(|data| !data.is_empty()).collect();
            while !to.send(header, &bytes).unwrap() {}
            true
        };
        eventually("the transfer ends", || {
            while carry(&mut here, &mut there) || carry(&mut there, &mut here) {}
            (reader.is_finished() && writer.is_finished()).then_some(())
        });
        writer.join().unwrap();
        assert!(reader.join().unwrap() == data);
        assert!(longest > 10_000, "super-frames were used: the longest packet had {longest} bytes");
        segments.into_iter().for_each(|frame| pool.put(frame));
    });
}

#[test]
fn a_persistent_tap_stays_until_it_is_removed() {
    in_netns(|| {
        tap::create_persistent("crttap", true).unwrap();
        tap::create_persistent("crttap", true).unwrap();
        // A file is open a moment longer when another test forks meanwhile.
        let open = || eventually("nobody has it open", || Tap::open("crttap", true).ok());
        drop(open());
        assert!(succeeds("ip", "link show crttap"));
        let held = open();
        assert!(matches!(Tap::open("crttap", true), Err(TapError::Busy { .. })));
        tap::create_persistent("crttap", true).unwrap();
        assert!(matches!(tap::remove("crttap"), Err(TapError::Busy { .. })));
        drop(held);
        eventually("nobody has it open", || tap::remove("crttap").ok());
        assert!(!succeeds("ip", "link show crttap"));
        tap::remove("crttap").unwrap();
        assert!(matches!(Tap::open("crttap", true), Err(TapError::Missing { .. })));
        for name in ["", "a/b", "a:b", "sixteen-letters-", "tap%d"] {
            assert!(matches!(tap::create_persistent(name, true), Err(TapError::Name { .. })), "{name:?}");
        }
    });
}
