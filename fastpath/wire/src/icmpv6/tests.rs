use proptest::prelude::*;
use std::string::ToString;
use std::vec;
use std::vec::Vec;

use super::*;

const POD: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
const OTHER: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const MAC: MacAddr = MacAddr([0xee; 6]);

fn packet(source: Ipv6Addr, destination: Ipv6Addr, next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; ipv6::HEADER_LEN];
    bytes.extend_from_slice(payload);
    let repr = ipv6::Repr {
        traffic_class: 0,
        flow_label: 0,
        next_header: Protocol(next_header),
        hop_limit: 1,
        source,
        destination,
        payload_len: payload.len() as u16,
    };
    repr.emit(&mut bytes).unwrap();
    bytes
}

#[test]
fn repr_round_trips() {
    let pseudo = Sum::pseudo_v6(POD, OTHER, Protocol::ICMPV6, 40);
    for (repr, text) in [
        (Repr::EchoRequest { identifier: 1, sequence: 2 }, "icmpv6 echo request id 1 seq 2"),
        (Repr::EchoReply { identifier: 3, sequence: 4 }, "icmpv6 echo reply id 3 seq 4"),
        (Repr::Unreachable(UnreachableCode::PORT), "icmpv6 unreachable code 4"),
        (Repr::PacketTooBig { mtu: 1430 }, "icmpv6 packet too big mtu 1430"),
        (Repr::HopLimitExceeded, "icmpv6 hop limit exceeded"),
        (Repr::ReassemblyTimeExceeded, "icmpv6 reassembly time exceeded"),
        (Repr::NeighbourSolicitation { target: GATEWAY, source_mac: None }, "icmpv6 who-has fe80::1"),
        (Repr::NeighbourSolicitation { target: GATEWAY, source_mac: Some(MAC) }, "icmpv6 who-has fe80::1"),
        (
            Repr::NeighbourAdvertisement {
                target: GATEWAY,
                target_mac: Some(MAC),
                flags: SOLICITED | OVERRIDE,
            },
            "icmpv6 fe80::1 is-at ee:ee:ee:ee:ee:ee",
        ),
    ] {
        // Behind a neighbour message, zeros: an option of no length, which ends the options.
        let mut message = [0; 40];
        repr.emit(&mut message, pseudo).unwrap();
        assert_eq!(Repr::parse(&message), Ok(repr));
        assert!(Icmpv6::new_checked(&message).unwrap().checksum_is_correct(pseudo));
        assert_eq!(repr.to_string(), text);
        let short = repr.buffer_len() - 1;
        assert_eq!(repr.emit(&mut message[..short], pseudo), Err(Malformed::Icmpv6TooShort));
    }
}

#[test]
fn parse_rejects_seven_bytes_kinds_without_a_form_and_a_solicitation_without_target() {
    assert_eq!(Repr::parse(&[128; 7]), Err(Malformed::Icmpv6TooShort));
    assert_eq!(Repr::parse(&[200, 0, 0, 0, 0, 0, 0, 0]), Err(Malformed::IcmpKind));
    let mut solicitation = [0; 23];
    solicitation[0] = 135;
    assert_eq!(Repr::parse(&solicitation), Err(Malformed::Icmpv6TooShort));
}

#[test]
fn link_address_is_found_behind_other_options() {
    let mut message = [0; 40];
    let repr = Repr::NeighbourSolicitation { target: GATEWAY, source_mac: Some(MAC) };
    repr.emit(&mut message, Sum::ZERO).unwrap();
    message.copy_within(24..32, 32);
    message[24] = 14; // a nonce (RFC 3971)
    assert_eq!(Icmpv6::new_checked(&message).unwrap().link_address(), Some(MAC));
}

#[test]
fn error_quotes_the_packet_and_goes_to_its_sender() {
    let bytes = packet(POD, OTHER, 17, &[0x55; 1400]);
    let original = Ipv6::new_checked(&bytes[..]).unwrap();
    let mut buffer = [0; 1500];
    let len = emit_error(Repr::PacketTooBig { mtu: 1300 }, GATEWAY, &original, &mut buffer).unwrap();
    assert_eq!(len, ERROR_LEN_MAX);
    let error = ipv6::Repr::parse(&buffer[..len]).unwrap();
    assert_eq!((error.source, error.destination), (GATEWAY, POD));
    let icmp = Icmpv6::new_checked(&buffer[ipv6::HEADER_LEN..len]).unwrap();
    assert!(icmp.checksum_is_correct(error.pseudo_sum()));
    assert_eq!(icmp.payload(), &bytes[..icmp.payload().len()]);
    assert_eq!(
        emit_error(Repr::HopLimitExceeded, GATEWAY, &original, &mut buffer[..95]),
        Err(Malformed::Icmpv6TooShort)
    );
}

#[test]
fn errors_groups_and_later_fragments_are_not_answered() {
    let answered = |bytes: &[u8], error| may_be_answered(&Ipv6::new_checked(bytes).unwrap(), error);
    let (hops, big) = (Repr::HopLimitExceeded, Repr::PacketTooBig { mtu: 1300 });
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    assert!(answered(&packet(POD, OTHER, 17, &[0; 8]), hops));
    assert!(answered(&packet(POD, OTHER, 58, &[128, 0, 0, 0, 0, 0, 0, 0]), hops));
    for kind in [1, 3, 137] {
        assert!(!answered(&packet(POD, OTHER, 58, &[kind, 0, 0, 0, 0, 0, 0, 0]), hops), "{kind}");
    }
    assert!(!answered(&packet(POD, OTHER, 58, &[]), hops));
    assert!(!answered(&packet(POD, group, 17, &[0; 8]), hops));
    assert!(answered(&packet(POD, group, 17, &[0; 8]), big));
    for source in [Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST, group] {
        assert!(!answered(&packet(source, OTHER, 17, &[0; 8]), hops), "{source}");
    }
    assert!(!answered(&packet(POD, OTHER, 44, &[17, 0, 0, 8, 0, 0, 0, 1]), hops));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..100), kind in 128u8..140) {
        let _ = Repr::parse(&bytes).map(|repr| repr.to_string());
        if let Ok(mut icmp) = Icmpv6::new_checked(&mut bytes[..]) {
            icmp.set_kind(Kind(kind), 0);
            let _ = (icmp.target(), icmp.link_address());
            icmp.update_checksum(Sum::ZERO);
            prop_assert!(icmp.checksum_is_correct(Sum::ZERO));
            let len = icmp.payload().len();
            prop_assert_eq!(icmp.payload_mut().len(), len);
            let _ = Repr::parse(&bytes);
        }
    }

    #[test]
    fn no_packet_makes_an_error_panic(mut bytes in proptest::collection::vec(any::<u8>(), 40..1500), next in prop::sample::select(vec![0u8, 44, 58, 60]), room in 0usize..1500) {
        bytes[0] = 0x60;
        bytes[6] = next;
        if let Ok(packet) = Ipv6::new_quoted(&bytes[..]) {
            let _ = may_be_answered(&packet, Repr::HopLimitExceeded);
            let mut buffer = vec![0; room];
            if let Ok(len) = emit_error(Repr::HopLimitExceeded, GATEWAY, &packet, &mut buffer) {
                prop_assert!(Ipv6::new_checked(&buffer[..len]).is_ok());
            }
        }
    }
}
