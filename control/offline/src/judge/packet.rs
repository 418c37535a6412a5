//! What the two ends of a flow say to each other: whole IP datagrams, as kernels would send them.

use std::net::IpAddr;

use caracal_model::case::Icmp;
use caracal_wire::checksum::Sum;
use caracal_wire::tcp::Flags;
use caracal_wire::{
    EtherType, Ethernet, Icmpv4, Icmpv6, Ipv4, Ipv6, L4Port, MacAddr, Malformed, Protocol, Sctp, Tcp, Udp,
};
use caracal_wire::{ethernet, icmpv4, icmpv6, ipv4, ipv6, sctp, tcp, udp};

/// The byte that is to be echoed.
const SAID: &[u8] = b"?";
/// Length of an SCTP INIT chunk without parameters (RFC 9260 §3.3.2).
const SCTP_INIT_LEN: usize = 20;

/// Who talks to whom, about what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Talk {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: Protocol,
    pub(super) source_port: u16,
    pub(super) destination_port: u16,
    /// For ICMP and ICMPv6.
    pub(super) icmp: Icmp,
}

impl Talk {
    /// What the opener says, each after the answer to the one before.
    pub(super) fn questions(&self) -> Result<Vec<Vec<u8>>, Malformed> {
        match self.protocol {
            Protocol::TCP => {
                let opening = self.tcp(Flags::SYN, 1000, 0, &[])?;
                let byte = self.tcp(Flags(Flags::ACK.0 | Flags::PSH.0), 1001, ANSWER_SEQUENCE + 1, SAID)?;
                Ok(vec![opening, byte])
            }
            Protocol::UDP => Ok(vec![self.udp(SAID)?]),
            Protocol::SCTP => Ok(vec![self.sctp(sctp::ChunkKind::INIT, 0)?]),
            Protocol::ICMPV4 | Protocol::ICMPV6 => Ok(vec![self.icmp(self.icmp.kind, self.icmp.code)?]),
            _ => Ok(vec![self.datagram(SAID)?]),
        }
    }

    /// Who talks in a datagram; ports are 0, and so is the identifier of an echo, where it has none.
    pub(super) fn of(datagram: &[u8]) -> Result<Self, Malformed> {
        let ip = Datagram::read(datagram)?;
        let mut talk = Self {
            source: ip.source,
            destination: ip.destination,
            protocol: ip.protocol,
            source_port: 0,
            destination_port: 0,
            icmp: Icmp { kind: 0, code: 0 },
        };
        match ip.protocol {
            Protocol::TCP => {
                let tcp = Tcp::new_checked(ip.payload)?;
                (talk.source_port, talk.destination_port) = (tcp.source_port().0, tcp.destination_port().0);
            }
            Protocol::UDP => {
                let udp = Udp::new_checked(ip.payload)?;
                (talk.source_port, talk.destination_port) = (udp.source_port().0, udp.destination_port().0);
            }
            Protocol::SCTP => {
                let sctp = Sctp::new_checked(ip.payload)?;
                (talk.source_port, talk.destination_port) = (sctp.source_port().0, sctp.destination_port().0);
            }
            Protocol::ICMPV4 => {
                let icmp = Icmpv4::new_checked(ip.payload)?;
                let (kind, code) = (icmp.kind().0, icmp.code());
                (talk.source_port, talk.icmp) = (icmp.identifier(), Icmp { kind, code });
            }
            Protocol::ICMPV6 => {
                let icmp = Icmpv6::new_checked(ip.payload)?;
                let (kind, code) = (icmp.kind().0, icmp.code());
                (talk.source_port, talk.icmp) = (icmp.identifier(), Icmp { kind, code });
            }
            _ => {}
        }
        Ok(talk)
    }

    fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            ..*self
        }
    }

    fn datagram(&self, payload: &[u8]) -> Result<Vec<u8>, Malformed> {
        let payload_len = payload.len() as u16;
        let mut datagram = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header = ipv4::Repr {
                    tos: 0,
                    identification: 0,
                    fragment_word: 0x4000,
                    ttl: 64,
                    protocol: self.protocol,
                    source,
                    destination,
                    payload_len,
                };
                let mut datagram = vec![0; header.buffer_len()];
                header.emit(&mut datagram)?;
                datagram
            }
            (source, destination) => {
                let header = ipv6::Repr {
                    traffic_class: 0,
                    flow_label: 0,
                    next_header: self.protocol,
                    hop_limit: 64,
                    source: v6(source),
                    destination: v6(destination),
                    payload_len,
                };
                let mut datagram = vec![0; header.buffer_len()];
                header.emit(&mut datagram)?;
                datagram
            }
        };
        datagram.extend_from_slice(payload);
        Ok(datagram)
    }

    /// What checksums of upper layers cover besides their own bytes.
    fn pseudo_sum(&self, payload: &[u8]) -> Sum {
        let len = payload.len() as u32;
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                Sum::pseudo_v4(source, destination, self.protocol, len)
            }
            (source, destination) => Sum::pseudo_v6(v6(source), v6(destination), self.protocol, len),
        }
    }

    fn tcp(
        &self,
        flags: Flags,
        sequence: u32,
        acknowledgement: u32,
        data: &[u8],
    ) -> Result<Vec<u8>, Malformed> {
        let header = tcp::Repr {
            source_port: L4Port(self.source_port),
            destination_port: L4Port(self.destination_port),
            sequence,
            acknowledgement,
            flags,
            window: 65_535,
        };
        let mut segment = vec![0; header.buffer_len()];
        header.emit(&mut segment)?;
        segment.extend_from_slice(data);
        let pseudo = self.pseudo_sum(&segment);
        Tcp::new_checked(&mut segment[..])?.update_checksum(pseudo);
        self.datagram(&segment)
    }

    fn udp(&self, data: &[u8]) -> Result<Vec<u8>, Malformed> {
        let header = udp::Repr {
            source_port: L4Port(self.source_port),
            destination_port: L4Port(self.destination_port),
            payload_len: data.len() as u16,
        };
        let mut message = vec![0; header.buffer_len()];
        header.emit(&mut message)?;
        message.extend_from_slice(data);
        let pseudo = self.pseudo_sum(&message);
        Udp::new_checked(&mut message[..])?.update_checksum(pseudo);
        self.datagram(&message)
    }

    fn sctp(&self, chunk: sctp::ChunkKind, verification_tag: u32) -> Result<Vec<u8>, Malformed> {
        let header = sctp::Repr {
            source_port: L4Port(self.source_port),
            destination_port: L4Port(self.destination_port),
            verification_tag,
        };
        let mut packet = vec![0; header.buffer_len() + SCTP_INIT_LEN];
        let body = &mut packet[header.buffer_len()..];
        body[0] = chunk.0;
        body[3] = SCTP_INIT_LEN as u8;
        // The initiate tag: whatever is not 0.
        body[7] = 1;
        header.emit(&mut packet)?;
        self.datagram(&packet)
    }

    fn icmp(&self, kind: u8, code: u8) -> Result<Vec<u8>, Malformed> {
        let mut message = vec![0; 8];
        message.extend_from_slice(SAID);
        if self.protocol == Protocol::ICMPV6 {
            let pseudo = self.pseudo_sum(&message);
            let mut icmp = Icmpv6::new_checked(&mut message[..])?;
            icmp.set_kind(icmpv6::Kind(kind), code);
            icmp.set_identifier(self.source_port);
            icmp.update_checksum(pseudo);
        } else {
            let mut icmp = Icmpv4::new_checked(&mut message[..])?;
            icmp.set_kind(icmpv4::Kind(kind), code);
            icmp.set_identifier(self.source_port);
            icmp.update_checksum();
        }
        self.datagram(&message)
    }
}

/// Where an answering TCP begins to count.
const ANSWER_SEQUENCE: u32 = 5000;

fn v6(address: IpAddr) -> std::net::Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// A datagram of either version, as far as its ends look at it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Datagram<'a> {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: Protocol,
    pub(super) payload: &'a [u8],
    /// Of IPv4: that it may not be fragmented, and is not.
    fragment_word: u16,
}

impl<'a> Datagram<'a> {
    /// Reads a datagram from its beginning; what follows it is left out.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        if bytes.first().is_some_and(|first| first >> 4 == 6) {
            let ip = Ipv6::new_checked(bytes)?;
            let end = ipv6::HEADER_LEN + usize::from(ip.payload_len());
            return Ok(Self {
                source: ip.source().into(),
                destination: ip.destination().into(),
                protocol: ip.next_header(),
                payload: bytes.get(ipv6::HEADER_LEN..end).unwrap_or_default(),
                fragment_word: 0,
            });
        }
        let ip = Ipv4::new_checked(bytes)?;
        Ok(Self {
            source: ip.source().into(),
            destination: ip.destination().into(),
            protocol: ip.protocol(),
            payload: bytes.get(ip.header_len()..usize::from(ip.total_len())).unwrap_or_default(),
            fragment_word: ip.fragment_word(),
        })
    }
}

/// What a host that listens everywhere answers; nothing to what needs no answer.
pub(super) fn answer(datagram: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
    let ip = Datagram::read(datagram)?;
    let asked = Talk::of(datagram)?;
    let talk = asked.reversed();
    // An echo's answer has the identifier of the question, wherever ports are swapped.
    let echo = Talk { source_port: asked.source_port, ..talk };
    match ip.protocol {
        Protocol::TCP => {
            let tcp = Tcp::new_checked(ip.payload)?;
            if tcp.flags().contains(Flags::SYN) {
                let flags = Flags(Flags::SYN.0 | Flags::ACK.0);
                return talk.tcp(flags, ANSWER_SEQUENCE, tcp.sequence().wrapping_add(1), &[]).map(Some);
            }
            let flags = Flags(Flags::PSH.0 | Flags::ACK.0);
            let acknowledgement = tcp.sequence().wrapping_add(tcp.payload().len() as u32);
            talk.tcp(flags, tcp.acknowledgement(), acknowledgement, tcp.payload()).map(Some)
        }
        Protocol::UDP => talk.udp(Udp::new_checked(ip.payload)?.payload()).map(Some),
        Protocol::SCTP => talk.sctp(sctp::ChunkKind::INIT_ACK, 1).map(Some),
        Protocol::ICMPV4 => {
            let icmp = Icmpv4::new_checked(ip.payload)?;
            if icmp.kind() != icmpv4::Kind::ECHO_REQUEST {
                return Ok(None);
            }
            echo.icmp(icmpv4::Kind::ECHO_REPLY.0, 0).map(Some)
        }
        Protocol::ICMPV6 => {
            let icmp = Icmpv6::new_checked(ip.payload)?;
            if icmp.kind() != icmpv6::Kind::ECHO_REQUEST {
                return Ok(None);
            }
            echo.icmp(icmpv6::Kind::ECHO_REPLY.0, 0).map(Some)
        }
        _ => talk.datagram(ip.payload).map(Some),
    }
}

/// Whether what arrived is what was sent: everything but the time to live.
pub(super) fn is_same(sent: &[u8], arrived: &[u8]) -> bool {
    let is_intact = Ipv4::new_checked(arrived).is_ok_and(|ip| ip.checksum_is_correct());
    let is_v6 = arrived.first().is_some_and(|first| first >> 4 == 6);
    match (Datagram::read(sent), Datagram::read(arrived)) {
        (Ok(sent), Ok(arrived)) => sent == arrived && (is_intact || is_v6),
        _ => false,
    }
}

/// Puts a datagram into an Ethernet frame.
pub(super) fn frame(source: MacAddr, destination: MacAddr, datagram: &[u8]) -> Result<Vec<u8>, Malformed> {
    let is_v6 = datagram.first().is_some_and(|first| first >> 4 == 6);
    let ether_type = if is_v6 { EtherType::IPV6 } else { EtherType::IPV4 };
    let header = ethernet::Repr { destination, source, ether_type };
    let mut frame = vec![0; header.buffer_len()];
    header.emit(&mut frame)?;
    frame.extend_from_slice(datagram);
    Ok(frame)
}

/// The datagram of a frame, without padding; nothing when it carries something else.
pub(super) fn datagram_of(frame: &[u8]) -> Option<&[u8]> {
    let ethernet = Ethernet::new_checked(frame).ok()?;
    let payload = frame.get(ethernet::HEADER_LEN..)?;
    let length = match ethernet.ether_type() {
        EtherType::IPV4 => usize::from(Ipv4::new_checked(payload).ok()?.total_len()),
        EtherType::IPV6 => ipv6::HEADER_LEN + usize::from(Ipv6::new_checked(payload).ok()?.payload_len()),
        _ => return None,
    };
    payload.get(..length)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn talk(protocol: Protocol) -> Talk {
        Talk {
            source: Ipv4Addr::new(10, 244, 1, 2).into(),
            destination: Ipv4Addr::new(10, 244, 2, 2).into(),
            protocol,
            source_port: 40_000,
            destination_port: 80,
            icmp: Icmp { kind: 8, code: 0 },
        }
    }

    #[test]
    fn every_question_has_an_answer_the_other_way() {
        for protocol in [Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::ICMPV4, Protocol::GRE] {
            for question in talk(protocol).questions().unwrap() {
                let answer = answer(&question).unwrap().unwrap();
                let (question, answer) =
                    (Ipv4::new_checked(&question[..]).unwrap(), Ipv4::new_checked(&answer[..]).unwrap());
                assert_eq!(
                    (answer.source(), answer.destination()),
                    (question.destination(), question.source()),
                    "{protocol}"
                );
                assert!(answer.checksum_is_correct());
            }
        }
    }

    #[test]
    fn questions_and_answers_are_of_ipv6_too() {
        for protocol in [Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::ICMPV6, Protocol::GRE] {
            let talk = Talk {
                source: "fd00::1".parse().unwrap(),
                destination: "fd00::2".parse().unwrap(),
                icmp: Icmp { kind: 128, code: 0 },
                ..talk(protocol)
            };
            for question in talk.questions().unwrap() {
                let answer = answer(&question).unwrap().unwrap();
                let (question, answer) =
                    (Datagram::read(&question).unwrap(), Datagram::read(&answer).unwrap());
                assert_eq!((answer.source, answer.protocol), (question.destination, protocol));
            }
        }
    }

    #[test]
    fn tcp_opens_and_echoes_a_byte() {
        let questions = talk(Protocol::TCP).questions().unwrap();
        let reply = |question: &[u8]| {
            let answer = answer(question).unwrap().unwrap();
            let ip = Ipv4::new_checked(&answer[..]).unwrap();
            let tcp = Tcp::new_checked(ip.payload()).unwrap();
            assert!(tcp.checksum_is_correct(ip.pseudo_sum()));
            assert_eq!((tcp.source_port(), tcp.destination_port()), (L4Port(80), L4Port(40_000)));
            (tcp.flags(), tcp.acknowledgement(), tcp.payload().to_vec())
        };
        assert_eq!(reply(&questions[0]), (Flags(Flags::SYN.0 | Flags::ACK.0), 1001, vec![]));
        assert_eq!(reply(&questions[1]), (Flags(Flags::PSH.0 | Flags::ACK.0), 1002, SAID.to_vec()));
    }

    #[test]
    fn an_echo_reply_keeps_the_identifier_and_gets_no_answer() {
        let question = talk(Protocol::ICMPV4).questions().unwrap().remove(0);
        let reply = answer(&question).unwrap().unwrap();
        let ip = Ipv4::new_checked(&reply[..]).unwrap();
        let icmp = Icmpv4::new_checked(ip.payload()).unwrap();
        assert_eq!((icmp.kind(), icmp.identifier()), (icmpv4::Kind::ECHO_REPLY, 40_000));
        assert!(icmp.checksum_is_correct());
        assert_eq!(answer(&reply), Ok(None));
    }

    #[test]
    fn only_the_time_to_live_may_differ() {
        let sent = talk(Protocol::UDP).questions().unwrap().remove(0);
        let mut hopped = sent.clone();
        Ipv4::new_checked(&mut hopped[..]).unwrap().decrement_ttl();
        assert!(is_same(&sent, &hopped));
        let mut changed = sent.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert!(!is_same(&sent, &changed));
        let mut redirected = sent.clone();
        Ipv4::new_checked(&mut redirected[..]).unwrap().translate_source(Ipv4Addr::new(192, 0, 2, 1));
        assert!(!is_same(&sent, &redirected));
    }

    #[test]
    fn a_frame_gives_its_datagram_back_without_padding() {
        let datagram = talk(Protocol::UDP).questions().unwrap().remove(0);
        let mut frame = frame(MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]), &datagram).unwrap();
        frame.resize(64, 0);
        assert_eq!(datagram_of(&frame), Some(&datagram[..]));
        frame[12..14].copy_from_slice(&[0x08, 0x06]);
        assert_eq!(datagram_of(&frame), None);
    }
}
