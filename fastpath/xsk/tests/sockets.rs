//! Sockets, frames and domains on real veth pairs. Needs root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's helpers fail as tests do"
)]

mod common;

use caracal_xsk::xdp::uplink::Capture;
use caracal_xsk::xdp::{Preference, Uplink};
use caracal_xsk::{
    BindError, Checksum, Config, Domain, DomainConfig, FramePool, Mode, RESERVED_HEADROOM, Socket, TxOptions,
    kernel_ring_bytes,
};
use common::*;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};

const A: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);

/// A socket that receives every IPv4 packet of a device's queue 0.
fn receiver(domain: &Domain, pool: &mut FramePool, ifindex: u32) -> (Socket, Uplink) {
    let mut socket = Socket::bind(domain, ifindex, 0, small_rings()).unwrap();
    let mut uplink = Uplink::attach(ifindex, Preference::Native).unwrap();
    uplink.capture(Capture::Prefix { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), length: 0 }).unwrap();
    uplink.set_socket(0, &socket).unwrap();
    socket.refill(pool, 32);
    (socket, uplink)
}

fn numbered(number: u16, len: usize) -> Vec<u8> {
    ipv4(A, B, 17, 0, &udp(number, 9, &vec![number as u8; len]))
}

#[test]
fn packets_cross_a_veth_pair_between_two_sockets_of_one_domain() {
    in_netns(|| {
        let (a, b) = veth("crta", "crtb");
        let (domain, mut pool) = domain(256);
        let mut sender = Socket::bind(&domain, a, 0, small_rings()).unwrap();
        let (mut receiver, _uplink) = receiver(&domain, &mut pool, b);
        let sent: Vec<_> = (0..200).map(|n| numbered(n, 20 + n as usize * 7)).collect();
        for batch in sent.chunks(20) {
            batch.iter().for_each(|packet| send_packet(&mut sender, &mut pool, packet));
            assert_eq!(receive_packets(&mut receiver, &mut pool, batch.len()), batch);
        }
        assert_eq!(receiver.statistics().unwrap().foreign_descriptors, 0);
        sender.close(&mut pool);
        receiver.close(&mut pool);
        assert_eq!(pool.free(), pool.total());
    });
}

#[test]
fn packets_cross_between_two_domains_and_frames_go_home_to_their_own() {
    in_netns(|| {
        let (a, b) = veth("crta", "crtb");
        let (domain_a, mut pool_a) = domain(64);
        let (domain_b, mut pool_b) = domain(64);
        assert_ne!(domain_a.id(), domain_b.id());
        let mut sender = Socket::bind(&domain_a, a, 0, small_rings()).unwrap();
        let (mut receiver, _uplink) = receiver(&domain_b, &mut pool_b, b);
        for number in 0..100 {
            send_packet(&mut sender, &mut pool_a, &numbered(number, 300));
            assert_eq!(receive_packets(&mut receiver, &mut pool_b, 1), [numbered(number, 300)]);
        }
        let stray = pool_a.take().unwrap();
        let stray = pool_b.try_put(stray).unwrap_err();
        pool_a.put(stray);
        sender.close(&mut pool_a);
        receiver.close(&mut pool_b);
        assert_eq!((pool_a.free(), pool_b.free()), (64, 64));
    });
}

#[test]
fn received_frames_have_room_for_an_outer_header_in_front() {
    in_netns(|| {
        let (a, b) = veth("crta", "crtb");
        let config = DomainConfig { chunks: 64, headroom: 64, ..DomainConfig::default() };
        let (domain, mut pool) = Domain::new(config).unwrap();
        let mut sender = Socket::bind(&domain, a, 0, small_rings()).unwrap();
        let (mut receiver, _uplink) = receiver(&domain, &mut pool, b);
        send_packet(&mut sender, &mut pool, &numbered(1, 1472));
        let mut frames = Vec::new();
        eventually("a packet", || (receiver.receive(1, |frame, _| frames.push(frame)) == 1).then_some(()));
        let mut frame = frames.pop().unwrap();
        assert_eq!(frame.headroom(), 256 + 64 - RESERVED_HEADROOM);
        assert_eq!(domain.receive_capacity(), 2048 - 256 - 64);
        let before = frame.data().to_vec();
        frame.prepend(50).unwrap().fill(7);
        assert_eq!(&frame.data()[50..], before);
        frame.trim_front(50);
        assert_eq!(frame.data(), numbered(1, 1472));
        pool.put(frame);
        sender.close(&mut pool);
        receiver.close(&mut pool);
        assert_eq!(pool.free(), 64);
    });
}

#[test]
fn a_domain_serves_new_devices_after_the_first_device_has_gone() {
    in_netns(|| {
        let (domain, mut pool) = domain(256);
        let (a1, _) = veth("crta1", "crtb1");
        let (a2, b2) = veth("crta2", "crtb2");
        let mut first = Socket::bind(&domain, a1, 0, small_rings()).unwrap();
        first.refill(&mut pool, 32);
        let mut second = Socket::bind(&domain, a2, 0, small_rings()).unwrap();
        ip("link del crta1");
        let (a3, b3) = veth("crta3", "crtb3");
        let (mut third, _uplink3) = receiver(&domain, &mut pool, b3);
        let mut third_sender = Socket::bind(&domain, a3, 0, small_rings()).unwrap();
        send_packet(&mut third_sender, &mut pool, &numbered(3, 30));
        assert_eq!(receive_packets(&mut third, &mut pool, 1), [numbered(3, 30)]);
        let (mut peer, _uplink2) = receiver(&domain, &mut pool, b2);
        send_packet(&mut second, &mut pool, &numbered(2, 30));
        assert_eq!(receive_packets(&mut peer, &mut pool, 1), [numbered(2, 30)]);
        // The socket whose device has gone still holds its chunks, sends nothing, and gives everything back.
        let mut frame = pool.take().unwrap();
        frame.append(60).unwrap().fill(0);
        first.transmit(frame, TxOptions::default()).unwrap();
        assert_eq!(first.flush(), 1);
        assert_eq!(first.close(&mut pool), 33);
        for socket in [second, third, third_sender, peer] {
            socket.close(&mut pool);
        }
        assert_eq!(pool.free(), 256);
    });
}

#[test]
fn closing_in_the_middle_of_traffic_gives_every_frame_back() {
    in_netns(|| {
        let (domain, mut pool) = domain(512);
        for round in 0..10 {
            let (a, b) = veth("crta", "crtb");
            let mut sender = Socket::bind(&domain, a, 0, small_rings()).unwrap();
            let (mut receiver, _uplink) = receiver(&domain, &mut pool, b);
            for number in 0..round * 9 {
                let Some(mut frame) = pool.take() else { break };
                let packet = numbered(number, 100);
                frame.append(packet.len()).unwrap().copy_from_slice(&packet);
                let more = number % 7 == 3;
                if let Err(frame) = sender.transmit(frame, TxOptions { more, checksum: None }) {
                    pool.put(frame);
                }
                if number % 5 == 0 {
                    sender.flush();
                }
            }
            let mut held = Vec::new();
            receiver.receive(round as usize, |frame, _| held.push(frame));
            match round % 3 {
                0 => ip("link del crta"),
                1 => run("ip", "link set crtb down"),
                _ => {}
            }
            sender.close(&mut pool);
            receiver.close(&mut pool);
            held.into_iter().for_each(|frame| pool.put(frame));
            assert_eq!(pool.free(), 512, "round {round}");
            let _ = succeeds("ip", "link del crta");
        }
    });
}

#[test]
fn a_full_ring_gives_the_frame_back_and_transmits_again_after_a_flush() {
    in_netns(|| {
        let (a, b) = veth("crta", "crtb");
        let (domain, mut pool) = domain(256);
        let mut sender = Socket::bind(&domain, a, 0, small_rings()).unwrap();
        let (mut receiver, _uplink) = receiver(&domain, &mut pool, b);
        receiver.refill(&mut pool, 64);
        let packet = numbered(1, 40);
        for _ in 0..64 {
            let mut frame = pool.take().unwrap();
            frame.append(packet.len()).unwrap().copy_from_slice(&packet);
            sender.transmit(frame, TxOptions::default()).unwrap();
        }
        let mut frame = pool.take().unwrap();
        frame.append(packet.len()).unwrap().copy_from_slice(&packet);
        let frame = sender.transmit(frame, TxOptions::default()).unwrap_err();
        assert_eq!(frame.data(), packet);
        assert_eq!(sender.transmit_room(), 0);
        assert_eq!(sender.flush(), 0, "one flush sends a whole ring");
        sender.transmit(frame, TxOptions::default()).unwrap();
        drain(&mut sender, &mut pool);
        assert_eq!(receive_packets(&mut receiver, &mut pool, 64).len(), 64);
        sender.close(&mut pool);
        receiver.close(&mut pool);
        assert_eq!(pool.free(), 256);
    });
}

#[test]
fn a_jumbo_packet_travels_as_several_frames() {
    in_netns(|| {
        let (a, b) = veth("crta", "crtb");
        ip("link set crta mtu 9000");
        ip("link set crtb mtu 9000");
        let (domain, mut pool) = domain(256);
        let mut sender = Socket::bind(&domain, a, 0, small_rings()).unwrap();
        let (mut receiver, _uplink) = receiver(&domain, &mut pool, b);
        let packet: Vec<u8> =
            ipv4(A, B, 17, 0, &udp(1, 2, &(0..8900).map(|n| (n % 251) as u8).collect::<Vec<_>>()));
        let mut parts = packet.chunks(2000).peekable();
        while let Some(part) = parts.next() {
            let mut frame = pool.take().unwrap();
            frame.append(part.len()).unwrap().copy_from_slice(part);
            sender.transmit(frame, TxOptions { more: parts.peek().is_some(), checksum: None }).unwrap();
            // Nothing is sent before the packet is whole.
            sender.flush();
        }
        drain(&mut sender, &mut pool);
        let mut segments = Vec::new();
        eventually("a jumbo packet", || {
            receiver.receive(1, |frame, more| segments.push((frame, more)));
            segments.last().is_some_and(|(_, more)| !more).then_some(())
        });
        assert!(segments.len() > 4, "{} segments", segments.len());
        let received: Vec<u8> = segments.iter().flat_map(|(frame, _)| frame.data().to_vec()).collect();
        assert_eq!(received, packet);
        segments.into_iter().for_each(|(frame, _)| pool.put(frame));
        sender.close(&mut pool);
        receiver.close(&mut pool);
        assert_eq!(pool.free(), 256);
    });
}

/// Sends a UDP datagram whose checksum field holds what `field` makes of the pseudo-header's folded sum, to the kernel of a peer;
/// true if the peer's socket gets it.
fn kernel_accepts(checksum: Option<Checksum>, field: impl Fn(u16) -> u16) -> bool {
    let field = field(pseudo_header_sum(8 + 5));
    in_netns(move || {
        veth("crta", "crtb");
        let peer = Peer::new();
        peer.adopt("crtb");
        peer.run(|| {
            ip("addr add 10.9.0.2/24 dev crtb");
            ip("link set crtb up");
        });
        let socket = peer.run(|| {
            let socket = UdpSocket::bind("10.9.0.2:9").unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        });
        let (domain, mut pool) = domain(64);
        assert!(domain.checksum_offload(), "this kernel takes transmit metadata");
        let mut sender = Socket::bind(&domain, ifindex("crta"), 0, small_rings()).unwrap();
        let mut packet = ipv4(A, B, 17, 0, &udp(1, 9, b"hello"));
        packet[40..42].copy_from_slice(&field.to_be_bytes());
        let mut frame = pool.take().unwrap();
        frame.append(packet.len()).unwrap().copy_from_slice(&packet);
        sender.transmit(frame, TxOptions { more: false, checksum }).unwrap();
        // Without a checksum at all, which is legal: when this one has arrived, the other has been judged.
        send_packet(&mut sender, &mut pool, &ipv4(A, B, 17, 0, &udp(1, 9, b"last")));
        assert_eq!(sender.statistics().unwrap().tx_invalid_descriptors, 0);
        let mut buffer = [0; 16];
        let mut next = || {
            let len = eventually("a datagram", || socket.recv(&mut buffer).ok());
            buffer[..len].to_vec()
        };
        let first = next();
        let accepted = first == b"hello";
        assert_eq!(if accepted { next() } else { first }, b"last");
        sender.close(&mut pool);
        assert_eq!(pool.free(), 64);
        accepted
    })
}

fn pseudo_header_sum(udp_len: u16) -> u16 {
    let mut pseudo = Vec::new();
    pseudo.extend(A.octets());
    pseudo.extend(B.octets());
    pseudo.extend([0, 17]);
    pseudo.extend(udp_len.to_be_bytes());
    folded_sum(&pseudo)
}

#[test]
fn the_receiving_kernel_completes_a_half_made_checksum_that_the_metadata_name() {
    let checksum = Some(Checksum { start: 34, offset: 6 });
    assert!(kernel_accepts(checksum, |pseudo| pseudo));
}

#[test]
fn without_metadata_a_half_made_checksum_is_a_wrong_one() {
    assert!(!kernel_accepts(None, |pseudo| pseudo));
}

#[test]
fn a_queue_that_is_taken_or_missing_is_refused_by_name() {
    in_netns(|| {
        let (a, _) = veth("crta", "crtb");
        let (domain, mut pool) = domain(64);
        let (other, _other_pool) = common::domain(64);
        let socket = Socket::bind(&domain, a, 0, small_rings()).unwrap();
        let refused =
            |domain, ifindex, queue, config| Socket::bind(domain, ifindex, queue, config).unwrap_err();
        assert!(matches!(refused(&other, a, 0, small_rings()), BindError::Busy { .. }));
        assert!(matches!(refused(&domain, a, 7, small_rings()), BindError::NoQueue { queue: 7, .. }));
        assert!(matches!(refused(&domain, 4711, 0, small_rings()), BindError::NoDevice { ifindex: 4711 }));
        let odd = Config { fill: 100, ..small_rings() };
        assert!(matches!(refused(&domain, a, 0, odd), BindError::RingSize { ring: "fill", entries: 100 }));
        let zero_copy = Config { mode: Mode::ZeroCopy, ..small_rings() };
        let b = ifindex("crtb");
        assert!(matches!(refused(&domain, b, 0, zero_copy), BindError::NoZeroCopy { .. }));
        let either = Config { mode: Mode::CopyOrZeroCopy, ..small_rings() };
        let fallen_back = Socket::bind(&domain, b, 0, either).unwrap();
        assert!(!fallen_back.is_zero_copy());
        socket.close(&mut pool);
        fallen_back.close(&mut pool);
        // A closed socket leaves its queue to the next one.
        Socket::bind(&domain, a, 0, small_rings()).unwrap().close(&mut pool);
    });
}

#[test]
fn what_the_kernel_drops_is_read_from_another_thread_while_the_socket_lives_and_no_longer() {
    in_netns(|| {
        let (a, b) = veth("crta", "crtb");
        let (domain, mut pool) = domain(64);
        let mut sender = Socket::bind(&domain, a, 0, small_rings()).unwrap();
        let (receiver, uplink) = receiver(&domain, &mut pool, b);
        let handle = receiver.statistics_handle();
        let read = || std::thread::scope(|scope| scope.spawn(|| handle.read()).join().unwrap());
        assert_eq!(read().unwrap().unwrap().fill_ring_empty, 0);
        // It has 32 frames, and nobody reads.
        for number in 0..48 {
            send_packet(&mut sender, &mut pool, &numbered(number, 20));
        }
        sender.reclaim(&mut pool);
        let lost = read().unwrap().unwrap();
        assert_eq!(lost, receiver.statistics().unwrap());
        assert!(lost.fill_ring_empty > 0, "{lost:?}");
        assert!(lost.rx_dropped + lost.rx_ring_full >= 16, "{lost:?}");
        drop(uplink);
        receiver.close(&mut pool);
        assert!(read().is_none());
        // And it kept nothing open: the queue is free.
        Socket::bind(&domain, b, 0, small_rings()).unwrap().close(&mut pool);
        sender.close(&mut pool);
        assert_eq!(pool.free(), pool.total());
    });
}

#[test]
fn without_multi_buffer_a_packet_of_several_frames_is_refused_and_one_of_one_frame_goes() {
    in_netns(|| {
        let (a, b) = veth("crta", "crtb");
        let config = DomainConfig { chunks: 64, multi_buffer: false, ..DomainConfig::default() };
        let (domain, mut pool) = Domain::new(config).unwrap();
        let mut sender = Socket::bind(&domain, a, 0, small_rings()).unwrap();
        let (mut receiver, _uplink) = receiver(&domain, &mut pool, b);
        assert!(!sender.multi_buffer());
        let mut part = pool.take().unwrap();
        part.reset(RESERVED_HEADROOM);
        part.append(100).unwrap();
        let refused = sender.transmit(part, TxOptions { more: true, checksum: None }).unwrap_err();
        pool.put(refused);
        send_packet(&mut sender, &mut pool, &numbered(1, 1000));
        assert_eq!(receive_packets(&mut receiver, &mut pool, 1), [numbered(1, 1000)]);
        sender.close(&mut pool);
        receiver.close(&mut pool);
        assert_eq!(pool.free(), pool.total());
    });
}

#[test]
fn two_hundred_and_fifty_sockets_share_one_domain() {
    in_netns(|| {
        assert_eq!(kernel_ring_bytes(250, 1, 8192), 251 * 8192 * 128);
        let (domain, mut pool) = domain(1024);
        let mut sockets = Vec::new();
        for number in 0..125 {
            let (a, b) = veth(&format!("crta{number}"), &format!("crtb{number}"));
            sockets.extend([a, b].map(|end| Socket::bind(&domain, end, 0, small_rings()).unwrap()));
        }
        sockets.iter_mut().for_each(|socket| {
            socket.refill(&mut pool, 4);
        });
        assert_eq!(pool.free(), 1024 - 250 * 4);
        // Closing waits for a grace period each; side by side they wait for the same ones.
        let homecomers: Vec<_> = std::thread::scope(|scope| {
            let close = |socket: Socket| scope.spawn(|| socket.into_frames());
            let threads: Vec<_> = sockets.into_iter().map(close).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        homecomers.into_iter().for_each(|frame| pool.put(frame));
        assert_eq!(pool.free(), 1024);
    });
}
