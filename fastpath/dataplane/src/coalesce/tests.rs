use proptest::prelude::*;

use super::*;
use crate::packet::Offload;
use crate::segment;
use crate::segment::tests::{Stream, Tunnel, chain, payload, sent};
use crate::sim::datagram::{ACK, FIN, PSH, RST, SYN, checksum};
use caracal_xsk::FramePool;

const ECE: u8 = 0x40;
const URG: u8 = 0x20;

fn stream(v6: bool) -> Stream {
    Stream {
        v6,
        udp: false,
        tunnel: Tunnel::None,
        sequence: u32::MAX - 5000,
        identification: 0xfff0,
        options: payload(12),
        fragment_word: 0x4000,
    }
}

/// The packets that come out, each with its segment size.
fn coalesced(frames: &[Vec<u8>]) -> Vec<(usize, u16)> {
    let mut pool = FramePool::heap(128);
    let mut boxes = Boxes::new();
    let mut coalescer = Coalescer::default();
    for frame in frames {
        coalescer.add(chain(&mut pool, frame, [], 0), &mut boxes);
    }
    let found = coalescer.sealed().iter().map(|packet| (packet.len(), packet.offload.gso_size)).collect();
    assert_eq!(coalescer.frames(), frames.len());
    coalescer.sent(usize::MAX, |packet| packet.release(&mut pool, &mut boxes));
    assert_eq!(
        (pool.free(), coalescer.frames(), coalescer.len()),
        (pool.total(), 0, 0),
        "frames went missing"
    );
    found
}

/// Makes both checksums of an IPv4 frame without a tunnel right again.
fn mended(mut frame: Vec<u8>) -> Vec<u8> {
    frame[24..26].fill(0);
    let sum = checksum(&frame[14..34]).to_be_bytes();
    frame[24..26].copy_from_slice(&sum);
    frame[50..52].fill(0);
    let mut pseudo = frame[26..34].to_vec();
    pseudo.extend([0, 6]);
    pseudo.extend(((frame.len() - 34) as u16).to_be_bytes());
    let sum = checksum(&[&pseudo, &frame[34..]].concat()).to_be_bytes();
    frame[50..52].copy_from_slice(&sum);
    frame
}

#[test]
fn two_segments_in_a_row_become_one_and_a_change_of_anything_keeps_them_apart() {
    let stream = stream(false);
    let bytes = payload(2000);
    let first = stream.frame(&bytes[..1000], 0, 0, ACK);
    let second = stream.frame(&bytes[1000..], 1000, 1, ACK | PSH);
    let whole = [(66 + 2000, 1000)];
    assert_eq!(coalesced(&[first.clone(), second.clone()]), whole);
    let apart = [(66 + 1000, 0); 2];
    let changes: [(&str, usize, u8); 17] = [
        ("destination MAC", 0, 1),
        ("source MAC", 6, 1),
        ("type of service", 15, 4),
        ("fragmentation allowed", 20, 0x40),
        ("time to live", 22, 1),
        ("source address", 29, 1),
        ("source port", 35, 1),
        ("destination port", 37, 1),
        ("sequence", 41, 1),
        ("acknowledgement", 45, 1),
        ("SYN", 47, SYN),
        ("RST", 47, RST),
        ("URG", 47, URG),
        ("ECE", 47, ECE),
        ("CWR", 47, 0x80),
        ("window", 49, 1),
        ("options", 60, 1),
    ];
    for (what, at, bits) in changes {
        let mut changed = second.clone();
        changed[at] ^= bits;
        assert_eq!(coalesced(&[first.clone(), mended(changed)]), apart, "{what}");
    }
    let mut wrong = second.clone();
    wrong[1000] ^= 1;
    assert_eq!(coalesced(&[first.clone(), wrong]), apart, "a wrong checksum of the second");
    let mut wrong = first.clone();
    wrong[1000] ^= 1;
    assert_eq!(coalesced(&[wrong, second.clone()]), apart, "a wrong checksum of the first");
    assert_eq!(coalesced(&[second, first]), apart, "the other way round");
}

#[test]
fn identifications_count_up_where_fragmenting_is_allowed() {
    for (fragment_word, index, count) in [(0x4000, 5, 1), (0, 1, 1), (0, 5, 2)] {
        let stream = Stream { fragment_word, ..stream(false) };
        let frames = [stream.frame(&payload(900), 0, 0, ACK), stream.frame(&payload(900), 900, index, ACK)];
        assert_eq!(coalesced(&frames).len(), count, "{fragment_word:x} {index}");
    }
}

#[test]
fn a_shorter_segment_push_or_fin_is_the_last() {
    for v6 in [false, true] {
        let stream = stream(v6);
        for (len, flags) in [(999, ACK), (1000, ACK | PSH), (1000, ACK | FIN)] {
            let frames = [
                stream.frame(&payload(1000), 0, 0, ACK),
                stream.frame(&payload(len), 1000, 1, flags),
                stream.frame(&payload(1000), 1000 + len, 2, flags),
            ];
            let end = stream.headers_len();
            assert_eq!(coalesced(&frames), [(end + 1000 + len, 1000), (end + 1000, 0)], "{len} {flags:x}");
        }
    }
    // Longer ones begin anew.
    let stream = stream(false);
    let frames = [stream.frame(&payload(900), 0, 0, ACK), stream.frame(&payload(901), 900, 1, ACK)];
    assert_eq!(coalesced(&frames), [(966, 0), (967, 0)]);
}

#[test]
fn packets_of_a_flow_stay_in_order_and_flows_do_not_keep_one_another_apart() {
    let (four, six) = (stream(false), stream(true));
    let data = |stream: &Stream, n: usize| stream.frame(&payload(1000), n * 1000, n as u16, ACK);
    let ack = four.frame(&[], 1000, 1, ACK);
    let frames =
        [data(&four, 0), data(&six, 0), data(&six, 1), ack, data(&four, 1), data(&six, 2), data(&four, 2)];
    // An acknowledgement between data of one flow is neither overtaken nor put into anything.
    assert_eq!(coalesced(&frames), [(1066, 0), (86 + 3000, 1000), (66, 0), (66 + 2000, 1000)]);
}

#[test]
fn half_made_checksums_and_packets_of_several_frames_are_taken_as_they_are() {
    let stream = stream(false);
    let mut pool = FramePool::heap(16);
    let mut boxes = Boxes::new();
    let mut coalescer = Coalescer::default();
    for n in 0..2 {
        let mut packet = chain(&mut pool, &stream.super_frame(&payload(1000), ACK), [], 0);
        let sequence = (u32::MAX - 5000).wrapping_add(n * 1000).to_be_bytes();
        packet.head.data_mut()[38..42].copy_from_slice(&sequence);
        packet.offload.checksum = Some(PartialChecksum { start: 34, offset: 16 });
        assert_eq!(coalescer.add(packet, &mut boxes), n == 1);
    }
    let jumbo = stream.frame(&payload(1000), 2000, 2, ACK);
    assert!(!coalescer.add(chain(&mut pool, &jumbo, [500], 0), &mut boxes));
    assert_eq!(coalescer.sealed().iter().map(Packet::len).collect::<Vec<_>>(), [2066, 1066]);
    coalescer.sent(1, |packet| packet.release(&mut pool, &mut boxes));
    assert_eq!((coalescer.len(), coalescer.frames()), (1, 2));
    coalescer.sent(1, |packet| packet.release(&mut pool, &mut boxes));
    assert_eq!(pool.free(), pool.total());
}

proptest! {
    #[test]
    fn what_is_cut_and_put_together_is_what_it_was(
        v6 in any::<bool>(),
        len in 2000usize..60_000,
        size in 1100usize..1500,
        ends in prop_oneof![Just(0), Just(PSH), Just(FIN), Just(FIN | PSH), Just(ECE)],
        complete in any::<u64>(),
    ) {
        let stream = stream(v6);
        let (mut pool, mut boxes) = (FramePool::heap(256), Boxes::new());
        let bytes = stream.super_frame(&payload(len), ACK | ends);
        let end = stream.headers_len();
        let mut packet = chain(&mut pool, &bytes, (1..64).map(|n| end + n * size), segment::SEGMENT_HEADROOM);
        packet.offload = Offload {
            gso_size: size as u16,
            checksum: Some(PartialChecksum { start: stream.l4() as u16, offset: 16 }),
        };
        let offload = packet.offload;
        let mut coalescer = Coalescer::default();
        let mut n = 0;
        segment::cut(packet, &mut pool, &mut boxes, |mut segment, _, boxes| {
            // Some come with a checksum that is right, some with one that is half made.
            if complete >> (n % 64) & 1 == 1 {
                segment.complete_checksum();
            }
            coalescer.add(segment, boxes);
            n += 1;
        }).expect("a super-frame");
        prop_assert_eq!(coalescer.len(), 1);
        let packet = &mut coalescer.sealed()[0];
        prop_assert_eq!(packet.offload, offload);
        let found: Vec<u8> = packet.segments().flat_map(|frame| frame.data().to_vec()).collect();
        prop_assert_eq!(found, bytes);
        // And once more: what a port without offload would send has a right checksum.
        let whole = sent(packet);
        prop_assert_eq!(whole, stream.frame(&payload(len), 0, 0, ACK | ends));
        coalescer.sent(1, |packet| packet.release(&mut pool, &mut boxes));
        prop_assert_eq!(pool.free(), pool.total());
    }
}
