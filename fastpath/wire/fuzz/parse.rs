//! What must hold for any bytes, whichever header they are taken for: nothing panics, what is read lies within the bytes,
//! and what `Repr` reads it writes back the same.

use caracal_wire::icmpv4::may_be_answered;
use caracal_wire::tcp::Flags;
use caracal_wire::{
    Arp, Ethernet, Icmpv4, Icmpv6, Ipv4, Ipv6, Protocol, Sctp, Tcp, Udp, Vxlan, arp, checksum, ethernet,
    icmpv4, icmpv6, ipv4, ipv6, sctp, tcp, udp, vxlan,
};

/// Takes `bytes` for every header there is.
pub fn every_header(bytes: &[u8]) {
    ethernet_and_inside(bytes, 3);
    link(bytes);
    network(bytes);
    transport(bytes);
    sums(bytes);
}

/// As a frame, and what is in it, tunnels in tunnels included.
fn ethernet_and_inside(bytes: &[u8], depth: usize) {
    let Ok(frame) = Ethernet::new_checked(bytes) else { return };
    let Ok(ip) = Ipv4::new_checked(frame.payload()) else { return };
    let payload = ip.payload();
    within(payload, bytes);
    match ip.protocol() {
        Protocol::UDP => {
            let Ok(udp) = Udp::new_checked(payload) else { return };
            let _ = udp.checksum_is_correct(ip.pseudo_sum());
            if let Ok(tunnel) = Vxlan::new_checked(udp.payload())
                && depth > 0
            {
                ethernet_and_inside(tunnel.payload(), depth - 1);
            }
        }
        Protocol::TCP => {
            if let Ok(tcp) = Tcp::new_checked(payload) {
                let _ = tcp.checksum_is_correct(ip.pseudo_sum());
            }
        }
        Protocol::ICMPV4 => {
            if let Ok(message) = Icmpv4::new_checked(payload)
                && let Ok(quoted) = Ipv4::new_quoted(message.payload())
            {
                within(quoted.payload(), bytes);
                answer(&quoted);
            }
        }
        _ => {}
    }
}

fn link(bytes: &[u8]) {
    if let Ok(frame) = Ethernet::new_checked(bytes) {
        within(frame.payload(), bytes);
        let _ = (frame.destination(), frame.source(), frame.ether_type());
    }
    if let Ok(message) = Arp::new_checked(bytes) {
        let _ = (message.operation(), message.sender_mac(), message.target_addr());
    }
    round_trip(bytes, ethernet::Repr::parse, ethernet::Repr::emit);
    round_trip(bytes, arp::Repr::parse, arp::Repr::emit);
    round_trip(bytes, vxlan::Repr::parse, vxlan::Repr::emit);
}

fn network(bytes: &[u8]) {
    if let Ok(ip) = Ipv4::new_quoted(bytes) {
        within(ip.header(), bytes);
        within(ip.payload(), bytes);
        let _ = (ip.checksum_is_correct(), ip.is_fragment(), ip.pseudo_sum());
        answer(&ip);
    }
    let mut copy = bytes.to_vec();
    if let Ok(mut ip) = Ipv4::new_checked(&mut copy[..]) {
        // RFC 1624: a right checksum stays right.
        ip.update_checksum();
        let _ = ip.decrement_ttl();
        assert!(ip.checksum_is_correct());
        ip.translate_source([192, 0, 2, 1].into());
        ip.translate_destination([198, 51, 100, 1].into());
        assert!(ip.checksum_is_correct());
        // A length that lies is clamped.
        ip.set_total_len(u16::MAX);
        let _ = ip.payload_mut().len();
    }
    if let Ok(ip) = Ipv6::new_quoted(bytes) {
        within(ip.payload(), bytes);
        let _ = ip.upper_layer();
    }
    round_trip(bytes, ipv4::Repr::parse, ipv4::Repr::emit);
    round_trip(bytes, ipv6::Repr::parse, ipv6::Repr::emit);
}

/// The error about a quoted packet, if one may be sent, is itself a packet about which none may.
fn answer(datagram: &Ipv4<&[u8]>) {
    if !may_be_answered(datagram) {
        return;
    }
    let mut buffer = [0; icmpv4::ERROR_LEN_MAX];
    let error = icmpv4::Repr::FragmentationNeeded { mtu: 1450 };
    if let Ok(len) = icmpv4::emit_error(error, [192, 0, 2, 1].into(), datagram, &mut buffer) {
        let written = Ipv4::new_checked(&buffer[..len]).expect("an error that is an IPv4 packet");
        assert!(written.checksum_is_correct() && !may_be_answered(&written));
        assert!(Icmpv4::new_checked(written.payload()).is_ok_and(|message| message.checksum_is_correct()));
    }
}

fn transport(bytes: &[u8]) {
    if let Ok(header) = Tcp::new_checked(bytes) {
        within(header.options(), bytes);
        within(header.payload(), bytes);
        let _ = header.flags().contains(Flags::SYN);
    }
    for header in [Udp::new_checked(bytes), Udp::new_quoted(bytes)].into_iter().flatten() {
        within(header.payload(), bytes);
    }
    if let Ok(header) = Sctp::new_checked(bytes) {
        within(header.payload(), bytes);
        let _ = (header.first_chunk(), header.checksum_is_correct());
    }
    if let Ok(message) = Icmpv4::new_checked(bytes) {
        within(message.payload(), bytes);
        let _ = message.checksum_is_correct();
    }
    if let Ok(message) = Icmpv6::new_checked(bytes) {
        within(message.payload(), bytes);
    }
    round_trip(bytes, tcp::Repr::parse, tcp::Repr::emit);
    round_trip(bytes, sctp::Repr::parse, sctp::Repr::emit);
    round_trip(bytes, icmpv4::Repr::parse, icmpv4::Repr::emit);
    let _ = (udp::Repr::parse(bytes), icmpv6::Repr::parse(bytes));
}

fn sums(bytes: &[u8]) {
    let mut copy = bytes.to_vec();
    let pseudo = checksum::Sum::of(b"pseudo");
    let at = bytes.first().map_or(0, |at| usize::from(*at));
    if checksum::complete(&mut copy, at, pseudo) && at.is_multiple_of(2) {
        assert!(checksum::is_correct(&copy, pseudo));
    }
}

fn within(part: &[u8], whole: &[u8]) {
    let (part, whole) = (part.as_ptr_range(), whole.as_ptr_range());
    assert!(part.start >= whole.start && part.end <= whole.end);
}

/// What has been read from a header and written again reads the same.
fn round_trip<R: PartialEq + core::fmt::Debug + core::fmt::Display, E: core::fmt::Debug>(
    bytes: &[u8],
    parse: impl Fn(&[u8]) -> Result<R, E>,
    emit: impl Fn(&R, &mut [u8]) -> Result<(), E>,
) {
    let Ok(read) = parse(bytes) else { return };
    let _ = read.to_string();
    let mut copy = bytes.to_vec();
    emit(&read, &mut copy).expect("room for what was read there");
    assert_eq!(parse(&copy).expect("what was written"), read);
}
