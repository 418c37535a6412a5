//! The fuzz target's function in the ordinary test run: over arbitrary bytes, and over valid packets with bytes changed.

#![allow(clippy::expect_used, reason = "what is not as expected fails the test, or ends the fuzzing")]

#[path = "../fuzz/parse.rs"]
mod parse;

use proptest::prelude::*;

/// VXLAN around UDP; TCP; and an ICMP error about UDP: right down to the checksums that the parsers look at.
const VALID: [&[u8]; 3] = [
    b"\x02\0\0\0\0\x01\x02\x09\x09\x09\x09\x09\x08\0\
      E\0\0\x4f\0\0@\0@\x11\xb6\x87\xc0\0\x02\x0c\xc0\0\x02\x0b\xc3\x50\x12\xb5\0\x3b\0\0\x08\0\0\0\0\x10\0\0\
      f\x01\x01\x01\x01\x01f\x02\x02\x02\x02\x02\x08\0E\0\0\x1d\0\0\0\0@\x11\x63\xb6\
      \x0a\xf4\x02\x07\x0a\xf4\x01\x02\0\x01\0\x02\0\x09\0\0x",
    b"\x02\0\0\0\0\x01\x02\x09\x09\x09\x09\x09\x08\0E\0\0(\0\0\0\0@\x06\0\0\
      \x0a\xf4\x01\x02\x0a\xf4\x01\x03\x03\xe8\0P\0\0\0\x01\0\0\0\0P\x02\xff\xff\0\0\0\0",
    b"\x02\0\0\0\0\x01\x02\x09\x09\x09\x09\x09\x08\0E\0\0\x38\0\0\0\0@\x01\0\0\
      \xc0\0\x02\x0b\x0a\xf4\x01\x02\x0b\0\0\0\0\0\0\0E\0\0\x1c\0\0\0\0\x01\x11\0\0\
      \x0a\xf4\x01\x02\x0a\xf4\x01\x03\0\x01\0\x02\0\x08\0\0",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_bytes_make_a_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        parse::every_header(&bytes);
    }

    #[test]
    fn no_change_to_a_valid_packet_makes_a_parser_panic(
        valid in prop::sample::select(VALID.to_vec()),
        from in 0usize..60,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = valid[from.min(valid.len())..].to_vec();
        for (at, to) in changes {
            if let Some(at) = (!bytes.is_empty()).then(|| at.index(bytes.len())) {
                bytes[at] = to;
            }
        }
        parse::every_header(&bytes);
        bytes.truncate(cut.index(bytes.len() + 1));
        parse::every_header(&bytes);
    }
}
