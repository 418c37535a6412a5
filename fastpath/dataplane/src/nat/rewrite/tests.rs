//! Random packets, whole and quoted, are rewritten and rewritten back: every byte is what it was, and in between every
//! checksum is right that was right before.

use std::net::{Ipv4Addr, Ipv6Addr};

use caracal_xsk::FramePool;
use proptest::prelude::*;

use super::*;
use crate::batch::Ingress;
use crate::packet::Packet;
use crate::port::HEADROOM;
use crate::sim::datagram::{Datagram, SYN, checksum};
use crate::sim::datagram6::Datagram6;
use crate::sim::{POD_MAC, UPLINK_MAC};
use crate::stage::parse;
use crate::table::EndpointIndex;

const V4: [[u8; 4]; 4] = [[10, 244, 1, 2], [10, 96, 0, 10], [192, 0, 2, 11], [255, 255, 255, 254]];

fn v4(which: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(V4[which % 3]))
}

fn v6(which: usize) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0, which as u16, 0, 0, 0, 0, 7))
}

fn octets(address: IpAddr) -> [u8; 4] {
    match address {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(_) => unreachable!("asked for IPv4"),
    }
}

fn wide(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V6(v6) => v6,
        IpAddr::V4(_) => unreachable!("asked for IPv6"),
    }
}

struct Bench {
    pool: FramePool,
    slot: Option<Slot>,
}

impl Bench {
    fn new(frame: &[u8]) -> Bench {
        let mut pool = FramePool::heap(4);
        let mut new = pool.take().unwrap();
        new.reset(HEADROOM);
        new.append(frame.len()).unwrap().copy_from_slice(frame);
        let mut slot = Slot::new(Packet::new(new), Ingress::Endpoint(EndpointIndex(0)));
        parse::parse(&mut slot);
        assert!(slot.goes_on(), "{:?}", slot.verdict);
        Bench { pool, slot: Some(slot) }
    }

    fn slot(&mut self) -> &mut Slot {
        self.slot.as_mut().unwrap()
    }

    fn bytes(&mut self) -> Vec<u8> {
        self.slot().packet.head.data().to_vec()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            slot.packet.release(&mut self.pool, &mut Vec::new());
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Tcp,
    TcpPartial,
    Udp,
    UdpPartial,
    UdpUnchecked,
    Sctp,
    Ping,
}

fn any_kind() -> impl Strategy<Value = Kind> {
    use Kind::*;
    prop::sample::select(vec![Tcp, TcpPartial, Udp, UdpPartial, UdpUnchecked, Sctp, Ping])
}

fn packet4(kind: Kind, from: (IpAddr, u16), to: (IpAddr, u16), payload: &[u8]) -> Datagram {
    let (from, to) = ((octets(from.0), from.1), (octets(to.0), to.1));
    match kind {
        Kind::Tcp => Datagram::tcp(from, to, SYN, payload),
        Kind::TcpPartial => Datagram::tcp(from, to, SYN, payload).partial(),
        Kind::Udp => Datagram::udp(from, to, payload),
        Kind::UdpPartial => Datagram::udp(from, to, payload).partial(),
        Kind::UdpUnchecked => {
            let mut packet = Datagram::udp(from, to, payload);
            packet.body[6..8].fill(0);
            packet
        }
        Kind::Sctp => {
            let mut packet = Datagram::sctp(from, to);
            caracal_wire::Sctp::new_checked(&mut packet.body[..]).unwrap().update_checksum();
            packet
        }
        Kind::Ping => Datagram::echo(from.0, to.0, false, from.1, 1),
    }
}

fn packet6(kind: Kind, from: (IpAddr, u16), to: (IpAddr, u16), payload: &[u8]) -> Datagram6 {
    let (from, to) = ((wide(from.0), from.1), (wide(to.0), to.1));
    match kind {
        Kind::Tcp => Datagram6::tcp(from, to, SYN, payload),
        Kind::TcpPartial => Datagram6::tcp(from, to, SYN, payload).partial(),
        Kind::UdpPartial => Datagram6::udp(from, to, payload).partial(),
        Kind::Udp | Kind::UdpUnchecked => Datagram6::udp(from, to, payload),
        Kind::Sctp => Datagram6::sctp(from, to),
        Kind::Ping => Datagram6::echo(from.0, to.0, false, from.1, 1),
    }
}

/// An identifier is a source's port; what stands for the destination's stays.
fn ends(kind: Kind, to: Socket, is_v4: bool) -> Socket {
    match (kind, is_v4) {
        (Kind::Ping, true) => (to.0, 0x0800),
        (Kind::Ping, false) => (to.0, 0x8000),
        _ => to,
    }
}

proptest! {
    #[test]
    fn what_is_rewritten_is_as_if_sent_so_and_is_undone_exactly(
        kind in any_kind(), is_v4 in any::<bool>(), who in prop::array::uniform4(0usize..3),
        ports in prop::array::uniform4(any::<u16>()), payload in prop::collection::vec(any::<u8>(), 0..40)
    ) {
        let address = if is_v4 { v4 } else { v6 };
        let (from, to) = ((address(who[0]), ports[0]), ends(kind, (address(who[1]), ports[1]), is_v4));
        let (new_from, new_to) = ((address(who[2]), ports[2]), ends(kind, (address(who[3]), ports[3]), is_v4));
        let frame = |from, to| match is_v4 {
            true => packet4(kind, from, to, &payload).frame(POD_MAC, UPLINK_MAC),
            false => packet6(kind, from, to, &payload).frame(POD_MAC, UPLINK_MAC),
        };
        let before = frame(from, to);
        let mut bench = Bench::new(&before);
        prop_assert_eq!(rewrite(bench.slot(), new_from, new_to), Ok(()));
        let mut expected = frame(new_from, new_to);
        // Datagram6's SCTP has no checksum at all, and that stays.
        let got = bench.bytes();
        if matches!(kind, Kind::Sctp) && !is_v4 {
            expected.truncate(got.len());
        }
        prop_assert_eq!(got, expected);
        let parsed = bench.slot().parsed;
        let said = [(parsed.source, parsed.source_port), (parsed.destination, parsed.destination_port)];
        prop_assert_eq!(said, [new_from, new_to]);
        prop_assert_eq!(rewrite(bench.slot(), from, to), Ok(()));
        prop_assert_eq!(bench.bytes(), before);
    }

    #[test]
    fn an_error_is_rewritten_inside_and_out_and_is_undone_exactly(
        kind in any_kind(), is_v4 in any::<bool>(), who in prop::array::uniform4(0usize..3),
        ports in prop::array::uniform4(any::<u16>()), payload in prop::collection::vec(any::<u8>(), 0..40),
        quoted_bytes in 8usize..80, router in 0usize..3
    ) {
        let kind = match kind {
            // Nobody quotes what was never on a wire.
            Kind::TcpPartial => Kind::Tcp,
            Kind::UdpPartial => Kind::Udp,
            kind => kind,
        };
        let address = if is_v4 { v4 } else { v6 };
        let (from, to) = ((address(who[0]), ports[0]), ends(kind, (address(who[1]), ports[1]), is_v4));
        let (new_from, new_to) = ((address(who[2]), ports[2]), ends(kind, (address(who[3]), ports[3]), is_v4));
        let frame = |speaker: IpAddr, from: Socket, to: Socket| match is_v4 {
            true => {
                let about = packet4(kind, from, to, &payload);
                Datagram::error(octets(speaker), octets(from.0), 3, 1, [0; 4], &about, 20 + quoted_bytes)
                    .frame(POD_MAC, UPLINK_MAC)
            }
            false => {
                let about = packet6(kind, from, to, &payload).bytes();
                let about = &about[..about.len().min(40 + quoted_bytes)];
                let rest = [&[0; 4], about].concat();
                Datagram6::icmp(wide(speaker), wide(from.0), 1, 0, &rest).frame(POD_MAC, UPLINK_MAC)
            }
        };
        let before = frame(address(router), from, to);
        let mut bench = Bench::new(&before);
        let about = parse::quoted(bench.slot()).unwrap();
        let (speaker, new_speaker) = (address(router), address(router + 1));
        let done = rewrite_error(bench.slot(), &about, [new_speaker, new_from.0], [new_from, new_to]);
        prop_assert_eq!(done, Ok(()));
        let got = bench.bytes();
        if is_v4 {
            let message = Datagram::read(&got).expect("a right header checksum");
            prop_assert_eq!(checksum(&message.body), 0);
            let inner = &message.body[8..];
            prop_assert_eq!(checksum(&inner[..20]), 0);
        }
        // A checksum that is quoted, too, unless by half: SCTP's is over what may not be.
        let whole = !matches!(kind, Kind::Sctp) && quoted_bytes != 17;
        if whole {
            prop_assert_eq!(&got, &frame(new_speaker, new_from, new_to));
        }
        let about = parse::quoted(bench.slot()).unwrap();
        prop_assert_eq!((about.source, about.source_port), new_from);
        prop_assert_eq!((about.destination, about.destination_port), new_to);
        let undone = rewrite_error(bench.slot(), &about, [speaker, from.0], [from, to]);
        prop_assert_eq!(undone, Ok(()));
        prop_assert_eq!(bench.bytes(), before);
    }
}

#[test]
fn a_wrong_checksum_stays_wrong() {
    let (from, to) = ((v4(0), 1), (v4(1), 2));
    let mut datagram = Datagram::udp((octets(from.0), 1), (octets(to.0), 2), b"x");
    datagram.body[8] ^= 1;
    let mut bench = Bench::new(&datagram.frame(POD_MAC, UPLINK_MAC));
    rewrite(bench.slot(), (v4(2), 3), to).unwrap();
    let got = Datagram::read(&bench.bytes()).unwrap();
    assert!(!got.checksum_is_right());
}

#[test]
fn what_has_no_ports_or_is_of_another_family_is_not_rewritten() {
    let frame = Datagram::new(V4[0], V4[1], 47, &[0; 8]).frame(POD_MAC, UPLINK_MAC);
    let mut bench = Bench::new(&frame);
    assert_eq!(rewrite(bench.slot(), (v4(2), 7), (v4(1), 0)), Err(CannotRewrite));
    assert_eq!(rewrite(bench.slot(), (v6(2), 0), (v4(1), 0)), Err(CannotRewrite));
    assert_eq!(bench.bytes(), frame);
    assert_eq!(rewrite(bench.slot(), (v4(2), 0), (v4(1), 0)), Ok(()));
    assert_eq!(Datagram::read(&bench.bytes()).unwrap(), Datagram::new(V4[2], V4[1], 47, &[0; 8]));
}
