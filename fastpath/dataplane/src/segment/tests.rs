//! The reference makes every segment from nothing, as its sender would have without any offload; cutting the super-frame must give the same bytes.

use proptest::prelude::*;

use super::*;
use crate::packet::Offload;
use crate::sim::datagram::{ACK, FIN, PSH, checksum, ethernet, ipip, vxlan};
use crate::sim::datagram6::vxlan6;
use caracal_wire::MacAddr;

const TO: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const FROM: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const CWR: u8 = 0x80;
const CHUNK: usize = 2048;

/// What goes around a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tunnel {
    None,
    Vxlan,
    VxlanOverIpv6,
    Ipip,
}

/// Everything of a TCP stream, or a row of datagrams, that its segments have in common.
#[derive(Clone, Debug)]
pub struct Stream {
    pub v6: bool,
    pub udp: bool,
    pub tunnel: Tunnel,
    pub sequence: u32,
    pub identification: u16,
    pub options: Vec<u8>,
    pub fragment_word: u16,
}

impl Stream {
    /// The frame that carries `payload`, from byte `from` of the stream on, as the `index`th; with every checksum.
    pub fn frame(&self, payload: &[u8], from: usize, index: u16, flags: u8) -> Vec<u8> {
        self.wrap(&self.packet(payload, from, index, flags, false))
    }

    /// A super-frame of all of `payload`, with its checksum half made.
    pub fn super_frame(&self, payload: &[u8], flags: u8) -> Vec<u8> {
        self.wrap(&self.packet(payload, 0, 0, flags, true))
    }

    /// Where the transport header begins.
    pub fn l4(&self) -> usize {
        let inner = 14 + if self.v6 { 40 } else { 20 };
        inner
            + match self.tunnel {
                Tunnel::None => 0,
                Tunnel::Vxlan => 50,
                Tunnel::VxlanOverIpv6 => 70,
                Tunnel::Ipip => 20,
            }
    }

    pub fn headers_len(&self) -> usize {
        self.l4() + if self.udp { 8 } else { 20 + self.options.len() }
    }

    fn packet(&self, payload: &[u8], from: usize, index: u16, flags: u8, partial: bool) -> Vec<u8> {
        let mut l4 = [1111u16, 2222].map(u16::to_be_bytes).concat();
        let at = if self.udp {
            l4.extend(((8 + payload.len()) as u16).to_be_bytes());
            l4.extend([0; 2]);
            6
        } else {
            l4.extend(self.sequence.wrapping_add(from as u32).to_be_bytes());
            l4.extend([0, 0, 0, 9, ((20 + self.options.len()) as u8 / 4) << 4, flags, 1, 2, 0, 0, 0, 0]);
            l4.extend(&self.options);
            16
        };
        l4.extend(payload);
        let (a6, b6) = (
            [0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            [0xfd, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
        );
        let protocol = if self.udp { 17 } else { 6 };
        let mut pseudo = if self.v6 { [a6, b6].concat() } else { vec![10, 0, 0, 1, 10, 0, 0, 2] };
        pseudo.extend([0, protocol]);
        pseudo.extend((l4.len() as u16).to_be_bytes());
        let sum = match partial {
            true => !checksum(&pseudo),
            false => match checksum(&[pseudo, l4.clone()].concat()) {
                0 => 0xffff,
                sum => sum,
            },
        };
        l4[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        let mut header = if self.v6 {
            let mut header = vec![0x60, 0, 0, 7];
            header.extend((l4.len() as u16).to_be_bytes());
            header.extend([protocol, 63]);
            [header, a6.to_vec(), b6.to_vec()].concat()
        } else {
            let mut header = vec![0x45, 2];
            header.extend(((20 + l4.len()) as u16).to_be_bytes());
            header.extend(self.identification.wrapping_add(index).to_be_bytes());
            header.extend(self.fragment_word.to_be_bytes());
            header.extend([63, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
            let sum = checksum(&header).to_be_bytes();
            header[10..12].copy_from_slice(&sum);
            header
        };
        header.extend(l4);
        header
    }

    fn wrap(&self, packet: &[u8]) -> Vec<u8> {
        let kind = if self.v6 { 0x86dd } else { 0x0800 };
        let inner = ethernet(TO, FROM, kind, packet);
        match self.tunnel {
            Tunnel::None => inner,
            Tunnel::Vxlan => {
                vxlan(([192, 0, 2, 1], 50_000), ([192, 0, 2, 2], 4789), 4096, &inner).frame(TO, FROM)
            }
            Tunnel::VxlanOverIpv6 => {
                let node = |last| std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last);
                vxlan6((node(1), 50_000), (node(2), 4789), 4096, &inner).frame(TO, FROM)
            }
            Tunnel::Ipip => {
                let packet = crate::sim::datagram::Datagram::read(&inner).expect("IPv4");
                ipip([192, 0, 2, 1], [192, 0, 2, 2], &packet).frame(TO, FROM)
            }
        }
    }
}

/// A packet of these bytes whose segments end at `cuts`.
pub fn chain(
    pool: &mut FramePool,
    bytes: &[u8],
    cuts: impl IntoIterator<Item = usize>,
    headroom: usize,
) -> Packet {
    let mut from = 0;
    let mut frames = Vec::new();
    for to in cuts.into_iter().filter(|to| *to < bytes.len()).chain([bytes.len()]) {
        let mut frame = pool.take().expect("a frame");
        frame.reset(if from == 0 { HEADROOM } else { headroom });
        frame.append(to - from).expect("room").copy_from_slice(&bytes[from..to]);
        frames.push(frame);
        from = to;
    }
    let mut frames = frames.into_iter();
    let mut packet = Packet::new(frames.next().expect("a segment"));
    let rest: Vec<Frame> = frames.collect();
    packet.rest = (!rest.is_empty()).then(|| Box::new(rest));
    packet
}

/// The bytes that a port without any offload sends.
pub fn sent(packet: &mut Packet) -> Vec<u8> {
    packet.complete_checksum();
    packet.segments().flat_map(|frame| frame.data().to_vec()).collect()
}

pub fn payload(len: usize) -> Vec<u8> {
    (0..len as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// Where a receiving port cuts when it has guessed right, and a few other ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cuts {
    Aligned,
    Full,
    Odd,
}

fn check(stream: &Stream, len: usize, size: usize, flags: u8, cuts: Cuts) {
    let mut pool = FramePool::heap(256);
    let mut boxes = Boxes::new();
    let payload = payload(len);
    let bytes = stream.super_frame(&payload, flags);
    let end = stream.headers_len();
    let (first, each) = match cuts {
        Cuts::Aligned => (end + size, size),
        Cuts::Full => (CHUNK - 24 - HEADROOM, CHUNK - 24 - SEGMENT_HEADROOM),
        Cuts::Odd => (end + 7, 1501),
    };
    let mut packet = chain(&mut pool, &bytes, (0..).map(|n| first + n * each).take(200), SEGMENT_HEADROOM);
    packet.offload = Offload {
        gso_size: size as u16,
        checksum: Some(PartialChecksum {
            start: stream.l4() as u16,
            offset: if stream.udp { 6 } else { 16 },
        }),
    };
    let used = pool.free();
    let mut segments = Vec::new();
    let mut lowest = used;
    let count = cut(packet, &mut pool, &mut boxes, |mut segment, pool, boxes| {
        assert_eq!(segment.offload.gso_size, 0);
        lowest = lowest.min(pool.free());
        segments.push(sent(&mut segment));
        segment.release(pool, boxes);
    })
    .expect("a super-frame that can be cut");
    let expected: Vec<Vec<u8>> = payload
        .chunks(size)
        .enumerate()
        .map(|(index, piece)| {
            let (is_first, is_last) = (index == 0, (index + 1) * size >= len);
            let flags = if is_last { flags } else { flags & !(FIN | PSH) };
            let flags = if is_first { flags } else { flags & !CWR };
            stream.frame(piece, index * size, index as u16, flags)
        })
        .collect();
    assert_eq!(count, expected.len());
    for (index, (segment, expected)) in segments.iter().zip(&expected).enumerate() {
        assert_eq!(segment, expected, "segment {index} of {}", expected.len());
    }
    assert_eq!(segments.len(), expected.len());
    assert_eq!(pool.free(), pool.total(), "frames went missing");
    if cuts == Cuts::Aligned {
        assert_eq!(lowest, used, "payload that is where it should be is not copied");
    }
}

fn streams() -> impl Strategy<Value = Stream> {
    let options = prop_oneof![Just(0usize), Just(12), Just(20), Just(40)];
    let tunnels =
        prop_oneof![Just(Tunnel::None), Just(Tunnel::Vxlan), Just(Tunnel::VxlanOverIpv6), Just(Tunnel::Ipip)];
    (any::<bool>(), any::<bool>(), tunnels, any::<u32>(), any::<u16>(), options, any::<bool>()).prop_map(
        |(v6, udp, tunnel, sequence, identification, options, fragments)| Stream {
            v6: v6 && tunnel != Tunnel::Ipip,
            udp,
            tunnel,
            sequence,
            identification,
            options: if udp { Vec::new() } else { payload(options) },
            fragment_word: if fragments { 0 } else { 0x4000 },
        },
    )
}

proptest! {
    #[test]
    fn segments_are_what_the_sender_would_have_sent_without_offload(
        stream in streams(),
        len in 1usize..40_000,
        size in 536usize..1700,
        flags in any::<u8>(),
        cuts in prop_oneof![Just(Cuts::Aligned), Just(Cuts::Full), Just(Cuts::Odd)],
    ) {
        // An aligned segment is in one frame with everything in front of it.
        let fits = stream.headers_len() + size <= CHUNK - 24 - HEADROOM && size <= CHUNK - 24 - SEGMENT_HEADROOM;
        let cuts = if cuts == Cuts::Aligned && !fits { Cuts::Full } else { cuts };
        check(&stream, len, size, flags, cuts);
    }
}

#[test]
fn segments_longer_than_a_frame_are_chains() {
    let stream = Stream {
        v6: false,
        udp: false,
        tunnel: Tunnel::Vxlan,
        sequence: u32::MAX - 9000,
        identification: 0xffff,
        options: payload(12),
        fragment_word: 0x4000,
    };
    check(&stream, 60_000, 8_898, ACK | PSH, Cuts::Full);
}

#[test]
fn what_cannot_be_cut_comes_back_whole() {
    let mut pool = FramePool::heap(64);
    let mut boxes = Boxes::new();
    let stream = Stream {
        v6: false,
        udp: false,
        tunnel: Tunnel::None,
        sequence: 1,
        identification: 1,
        options: Vec::new(),
        fragment_word: 0,
    };
    let bytes = stream.super_frame(&payload(6000), ACK);
    let right = PartialChecksum { start: 34, offset: 16 };
    for (gso_size, checksum, reason) in [
        (1000, None, DropReason::Oversized),
        (0, Some(right), DropReason::Oversized),
        (1000, Some(PartialChecksum { start: 35, offset: 16 }), DropReason::Oversized),
        (1, Some(right), DropReason::Oversized),
        // 60 segments, and 58 frames are left.
        (100, Some(right), DropReason::NoFrame),
    ] {
        let mut packet = chain(&mut pool, &bytes, (1..).map(|n| n * 1000).take(64), SEGMENT_HEADROOM);
        packet.offload = Offload { gso_size, checksum };
        let refused = cut(packet, &mut pool, &mut boxes, |_, _, _| panic!("cut"));
        let (packet, why) = refused.expect_err("no super-frame");
        assert_eq!((packet.len(), why), (bytes.len(), reason));
        packet.release(&mut pool, &mut boxes);
        assert_eq!(pool.free(), pool.total());
    }
}

proptest! {
    #[test]
    fn datagrams_that_the_kernel_can_cut_hold_the_same_segments(
        v6 in any::<bool>(),
        len in 3000usize..65_000,
        size in 1100usize..1500,
        flags in any::<u8>(),
        tunnel in prop_oneof![5 => Just(Tunnel::Vxlan), 1 => Just(Tunnel::VxlanOverIpv6), 1 => Just(Tunnel::Ipip)],
    ) {
        let v6 = v6 && tunnel != Tunnel::Ipip;
        let stream = Stream {
            v6, udp: false, tunnel, sequence: 77, identification: 9, options: payload(12), fragment_word: 0x4000,
        };
        let (mut pool, mut boxes) = (FramePool::heap(256), Boxes::new());
        let payload = payload(len);
        let end = stream.headers_len();
        let bytes = stream.super_frame(&payload, flags);
        let mut packet = chain(&mut pool, &bytes, (1..64).map(|n| end + n * size), SEGMENT_HEADROOM);
        let checksum = Some(PartialChecksum { start: stream.l4() as u16, offset: 16 });
        packet.offload = Offload { gso_size: size as u16, checksum };
        let mut found = Vec::new();
        let count = as_datagrams(packet, &mut pool, &mut boxes, |mut datagrams, pool, boxes| {
            let each = usize::from(datagrams.offload.gso_size);
            let bytes = sent(&mut datagrams);
            let outer = crate::sim::datagram::Datagram::read(&bytes).expect("a right outer header");
            assert!(outer.checksum_is_right());
            assert_eq!(outer.body[4..6], (outer.body.len() as u16).to_be_bytes());
            let inner = &outer.body[8..];
            found.extend(inner.chunks(if each == 0 { inner.len() } else { each }).map(<[u8]>::to_vec));
            datagrams.release(pool, boxes);
        });
        match count {
            Err(packet) => {
                prop_assert!(tunnel != Tunnel::Vxlan);
                packet.release(&mut pool, &mut boxes);
            }
            Ok(count) => {
                prop_assert!(tunnel == Tunnel::Vxlan);
                let pieces = payload.chunks(size).enumerate().map(|(index, piece)| {
                    let (is_first, is_last) = (index == 0, (index + 1) * size >= len);
                    let flags = if is_last { flags } else { flags & !(FIN | PSH) };
                    let flags = if is_first { flags } else { flags & !CWR };
                    stream.frame(piece, index * size, index as u16, flags)[42..].to_vec()
                });
                let pieces: Vec<Vec<u8>> = pieces.collect();
                prop_assert_eq!((count, found.len()), (pieces.len(), pieces.len()));
                for (found, piece) in found.iter().zip(&pieces) {
                    prop_assert_eq!(found, piece);
                }
            }
        }
        prop_assert_eq!(pool.free(), pool.total());
    }
}
