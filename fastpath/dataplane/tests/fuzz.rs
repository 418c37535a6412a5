//! The fuzz target's function in the ordinary test run: over arbitrary bytes, and over valid traffic with bytes changed.

#![allow(clippy::expect_used, reason = "what is not as expected fails the test, or ends the fuzzing")]

#[path = "../fuzz/pipeline.rs"]
mod pipeline;

use std::net::Ipv6Addr;

use caracal_dataplane::sim::POD_MAC;
use caracal_dataplane::sim::datagram::{ACK, Datagram, SYN};
use caracal_dataplane::sim::datagram6::Datagram6;
use caracal_dataplane::sim::services::{VIP, VIP6};
use caracal_dataplane::sim::world::{A, B, NODE1, NODE1_6, OUTSIDE, OUTSIDE6, REMOTE, TUNNEL1, v6};
use caracal_dataplane::stage::nd;
use proptest::prelude::*;

fn address() -> impl Strategy<Value = [u8; 4]> {
    prop_oneof![
        8 => prop::sample::select(vec![A, B, REMOTE, OUTSIDE, NODE1, TUNNEL1, VIP]),
        1 => any::<[u8; 4]>(),
    ]
}

fn datagram() -> impl Strategy<Value = Datagram> {
    (
        address(),
        address(),
        0u8..6,
        any::<bool>(),
        prop::sample::select(vec![0usize, 1, 9, 600, 1422, 1500, 4000, 20_000]),
        0u8..3,
        // Whole and not to be cut, whole, the first part, and others.
        prop::sample::select(vec![0x4000u16, 0x4000, 0, 0, 0x2000, 0x2001, 0x2003, 2, 75]),
        0u16..3,
    )
        .prop_map(|(source, destination, kind, partial, len, ttl, fragment_word, identification)| {
            let payload = vec![kind; len];
            let (from, to) = ((source, 53), (destination, 53));
            let datagram = match kind {
                0 => Datagram::tcp(from, to, SYN, &payload),
                1 => Datagram::tcp(from, to, ACK, &payload),
                2 | 3 => Datagram::udp(from, to, &payload),
                4 => Datagram::echo(source, destination, partial, 1, 1),
                _ => {
                    let about = Datagram::udp(to, from, b"");
                    Datagram::error(source, destination, 3, 3, [0; 4], &about, 28)
                }
            };
            let datagram = if partial && kind < 4 { datagram.partial() } else { datagram };
            Datagram { fragment_word, identification, tos: ttl, ..datagram }.ttl(ttl * 32)
        })
}

fn address6() -> impl Strategy<Value = Ipv6Addr> {
    prop_oneof![
        8 => prop::sample::select(vec![v6(A), v6(B), v6(REMOTE), OUTSIDE6, NODE1_6, VIP6, nd::GATEWAY]),
        1 => any::<[u8; 16]>().prop_map(Ipv6Addr::from),
    ]
}

fn datagram6() -> impl Strategy<Value = Datagram6> {
    let fragment = (prop::sample::select(vec![0u8, 1, 8, 9, 16, 17]), 0u8..3);
    let header = (prop::sample::select(vec![0u8, 43, 44, 44, 51, 60]), fragment);
    let headers = prop::collection::vec(header, 0..3);
    (
        address6(),
        address6(),
        0u8..7,
        any::<bool>(),
        prop::sample::select(vec![0usize, 1, 9, 600, 1402, 1500, 4000, 20_000]),
        prop::sample::select(vec![0u8, 1, 64, 255]),
        prop_oneof![3 => Just(vec![]), 1 => headers],
    )
        .prop_map(|(source, destination, kind, partial, len, hop_limit, headers)| {
            let payload = vec![kind; len];
            let (from, to) = ((source, 53), (destination, 53));
            let datagram = match kind {
                0 => Datagram6::tcp(from, to, SYN, &payload),
                1 => Datagram6::tcp(from, to, ACK, &payload),
                2 => Datagram6::udp(from, to, &payload),
                3 => Datagram6::neighbour(
                    source,
                    destination,
                    135 + u8::from(partial),
                    0,
                    nd::GATEWAY,
                    Some(POD_MAC),
                ),
                4 => Datagram6::echo(source, destination, partial, 1, 1),
                5 => Datagram6::icmp(source, destination, 130 + len as u8 % 7, 0, &payload),
                _ => Datagram6::error(source, destination, (1, 4), 0, &Datagram6::udp(to, from, b""), 1000),
            };
            let datagram = if partial && kind < 3 { datagram.partial() } else { datagram };
            let datagram = datagram.hop_limit(hop_limit);
            headers.into_iter().fold(datagram, |inner, (header, (offset, id))| match header {
                44 => inner.behind(44, &[0, 0, offset, 0, 0, 0, id]),
                header => inner.behind(header, &[0; 7]),
            })
        })
}

/// A packet as the target takes it, with up to two bytes of it changed.
fn record() -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((0usize..60, any::<u8>()), 0..3);
    let bits =
        prop::sample::select(vec![0u8, 0, 0, 0x10, 0x18, 0x20, 0x30, 0x30, 0x40, 0x70, 0x80, 0xb0, 0xc0]);
    let packet = prop_oneof![
        (prop::sample::select(vec![1u8, 2, 3, 6, 8]), datagram())
            .prop_map(|(way, datagram)| (way, datagram.bytes())),
        (prop::sample::select(vec![4u8, 5, 7, 9]), datagram6())
            .prop_map(|(way, datagram)| (way, datagram.bytes())),
    ];
    (0..pipeline::LINKS, packet, bits, any::<u8>(), changes).prop_map(
        |(link, (way, mut bytes), bits, time, changes)| {
            for (at, to) in changes {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = to;
                }
            }
            let [high, low] = (bytes.len() as u16).to_be_bytes();
            let mut record = vec![link, way | bits, time, high, low];
            record.extend(bytes);
            record
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_bytes_on_any_link_make_the_pipeline_panic_or_lose_a_frame(
        bytes in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        pipeline::any_traffic(&bytes);
    }

    #[test]
    fn no_change_to_valid_traffic_makes_the_pipeline_panic_or_lose_a_frame(
        records in prop::collection::vec(record(), 1..20),
    ) {
        pipeline::any_traffic(&records.concat());
    }
}
