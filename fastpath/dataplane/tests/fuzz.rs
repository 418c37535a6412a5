//! The fuzz target's function in the ordinary test run: over arbitrary bytes, and over valid traffic with bytes changed.

#![allow(clippy::expect_used, reason = "what is not as expected fails the test, or ends the fuzzing")]

#[path = "../fuzz/pipeline.rs"]
mod pipeline;

use caracal_dataplane::sim::datagram::{ACK, Datagram, SYN};
use caracal_dataplane::sim::world::{A, B, NODE1, OUTSIDE, REMOTE, TUNNEL1};
use proptest::prelude::*;

fn address() -> impl Strategy<Value = [u8; 4]> {
    prop_oneof![
        8 => prop::sample::select(vec![A, B, REMOTE, OUTSIDE, NODE1, TUNNEL1]),
        1 => any::<[u8; 4]>(),
    ]
}

fn datagram() -> impl Strategy<Value = Datagram> {
    (
        address(),
        address(),
        0u8..6,
        any::<bool>(),
        prop::sample::select(vec![0usize, 1, 9, 600, 1422, 1500, 4000]),
        0u8..3,
    )
        .prop_map(|(source, destination, kind, partial, len, ttl)| {
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
            datagram.dont_fragment().ttl(ttl * 32)
        })
}

/// A packet as the target takes it, with up to two bytes of it changed.
fn record() -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((0usize..60, any::<u8>()), 0..3);
    let bits = prop::sample::select(vec![0u8, 0, 0, 0x10, 0x18, 0x20, 0x40, 0x80, 0xc0]);
    (0..pipeline::LINKS, 1..pipeline::WAYS, bits, any::<u8>(), datagram(), changes).prop_map(
        |(link, way, bits, time, datagram, changes)| {
            let mut bytes = datagram.bytes();
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
