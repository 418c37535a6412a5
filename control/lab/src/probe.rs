//! A flow as a real packet from a real kernel socket: sent from inside a namespace, and what came back.

use std::{
    fmt, io,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use caracal_cni::netns;
use caracal_model::{
    case::{Icmp, WorldFlow},
    protocol::Protocol,
};
use caracal_wire::{Icmpv4, Icmpv6, icmpv4, icmpv6};
use socket2::{Domain, Socket, Type};

use crate::{
    sctp::{self, Answered},
    wire,
};

const ECHO: Icmp = Icmp { kind: 8, code: 0 };
const ECHO6: Icmp = Icmp { kind: 128, code: 0 };
/// Source ports and identifiers of raw probes; below the kernel's ephemeral ports, so that no socket has them.
const RAW_PORTS: std::ops::Range<u16> = 20_000..30_000;

/// A flow that is to be tried.
#[derive(Debug, Clone)]
pub(crate) struct Probe {
    /// The namespace it is sent from.
    pub(crate) netns: String,
    /// The source address; `None`: the kernel picks it.
    pub(crate) source: Option<IpAddr>,
    /// The source port; `None`: any.
    pub(crate) source_port: Option<u16>,
    /// Whom it is for.
    pub(crate) destination: IpAddr,
    /// To which port; 0 when the protocol has none.
    pub(crate) port: u16,
    /// With which protocol.
    pub(crate) protocol: Protocol,
    /// How long to wait.
    pub(crate) timeout: Duration,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// What was asked for.
    Echoed,
    /// The other end said that nobody listens there.
    Refused,
    /// Not what was asked for, in time.
    Silence(String),
    /// The probe could not be sent.
    Failed(String),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Echoed => f.write_str("answered"),
            Self::Refused => f.write_str("nobody listens there, said the other end"),
            Self::Silence(what) | Self::Failed(what) => f.write_str(what),
        }
    }
}

impl Probe {
    /// The probe of a flow, sent from `netns`; an error when such a packet cannot be sent here.
    pub(crate) fn of(flow: &WorldFlow, netns: String, bind: bool) -> Result<Self, String> {
        if let Some(reason) = &flow.unsupported {
            return Err(reason.clone());
        }
        let (source, destination) = (flow.source_address, flow.destination_address);
        let echo = if destination.is_ipv6() { (Protocol::ICMPV6, ECHO6) } else { (Protocol::ICMP, ECHO) };
        if flow.icmp.is_some_and(|icmp| (flow.protocol, icmp) != echo) {
            return Err(
                "of ICMP, the lab sends echo requests (type 8, code 0; over IPv6 type 128) only".into()
            );
        }
        Ok(Self {
            netns,
            source: bind.then_some(source),
            source_port: flow.source_port,
            destination,
            port: flow.destination_port.unwrap_or(0),
            protocol: flow.protocol,
            timeout: Duration::from_millis(flow.timeout_ms),
        })
    }

    /// Sends it and waits for what comes back.
    pub(crate) fn send(&self) -> Answer {
        let result = netns::within(&netns::path(&self.netns), || match self.protocol {
            Protocol::TCP => self.tcp(),
            Protocol::UDP => self.udp(),
            Protocol::ICMP => self.icmp(),
            Protocol::ICMPV6 => self.icmpv6(),
            Protocol::SCTP => self.sctp(),
            _ => self.raw(),
        });
        match result {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => Answer::Failed(format!("cannot send: {error}")),
            Err(error) => Answer::Failed(error.to_string()),
        }
    }

    fn tcp(&self) -> io::Result<Answer> {
        let start = Instant::now();
        let socket = Socket::new(self.version(), Type::STREAM, None)?;
        self.bind(&socket)?;
        if let Err(error) =
            socket.connect_timeout(&SocketAddr::new(self.destination, self.port).into(), self.timeout)
        {
            return came_back(error, "no answer to the TCP connection");
        }
        let mut stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        stream.set_read_timeout(self.left(start))?;
        let mut byte = [b'?'];
        match stream.write_all(&byte).and_then(|()| stream.read_exact(&mut byte)) {
            Ok(()) => Ok(Answer::Echoed),
            Err(error) => {
                Ok(Answer::Silence(format!("TCP connected, but the byte did not come back: {error}")))
            }
        }
    }

    fn udp(&self) -> io::Result<Answer> {
        let socket = Socket::new(self.version(), Type::DGRAM, None)?;
        self.bind(&socket)?;
        let socket = UdpSocket::from(socket);
        socket.set_read_timeout(Some(self.timeout))?;
        let ask = || -> io::Result<()> {
            socket.connect(SocketAddr::new(self.destination, self.port))?;
            socket.send(wire::QUESTION)?;
            socket.recv(&mut [0; 64])?;
            Ok(())
        };
        match ask() {
            Ok(()) => Ok(Answer::Echoed),
            Err(error) => came_back(error, "no answer to the datagram"),
        }
    }

    fn icmp(&self) -> io::Result<Answer> {
        let identifier = next_identity() as u16;
        let mut packet = echo_request(ECHO, identifier);
        if let Ok(mut view) = Icmpv4::new_checked(packet.as_mut_slice()) {
            view.update_checksum();
        }
        self.ask_raw(&packet, "no answer to the echo request", |answer| {
            let view = Icmpv4::new_checked(answer).ok()?;
            let ours = view.kind() == icmpv4::Kind::ECHO_REPLY && view.identifier() == identifier;
            (ours && view.checksum_is_correct()).then_some(Answer::Echoed)
        })
    }

    /// The kernel makes the checksum, and lets nothing through whose checksum is wrong.
    fn icmpv6(&self) -> io::Result<Answer> {
        let identifier = next_identity() as u16;
        self.ask_raw(&echo_request(ECHO6, identifier), "no answer to the echo request", |answer| {
            let view = Icmpv6::new_checked(answer).ok()?;
            let ours = view.kind() == icmpv6::Kind::ECHO_REPLY && view.identifier() == identifier;
            ours.then_some(Answer::Echoed)
        })
    }

    fn sctp(&self) -> io::Result<Answer> {
        let tag = next_identity();
        let source_port = self.source_port.unwrap_or_else(|| {
            let count = u32::from(RAW_PORTS.end - RAW_PORTS.start);
            RAW_PORTS.start + u16::try_from(tag % count).unwrap_or(0)
        });
        let packet = sctp::init(source_port, self.port, tag);
        self.ask_raw(&packet, "no answer to the SCTP INIT", |answer| {
            match sctp::answered(answer, source_port, self.port, tag)? {
                Answered::Accepted => Some(Answer::Echoed),
                Answered::Refused => Some(Answer::Refused),
            }
        })
    }

    fn raw(&self) -> io::Result<Answer> {
        let mut question = wire::QUESTION.to_vec();
        question.extend_from_slice(&next_identity().to_be_bytes());
        let expected = wire::answer(&question);
        self.ask_raw(&question, "no answer to the packet", |answer| {
            (Some(answer) == expected.as_deref()).then_some(Answer::Echoed)
        })
    }

    /// Sends a packet on a raw socket and waits for the payload that `judge` takes for an answer.
    fn ask_raw(
        &self,
        packet: &[u8],
        silence: &str,
        judge: impl Fn(&[u8]) -> Option<Answer>,
    ) -> io::Result<Answer> {
        let start = Instant::now();
        let mut socket = Socket::new(self.version(), Type::RAW, Some(i32::from(self.protocol.0).into()))?;
        if let Some(source) = self.source {
            self.bind_to(&socket, SocketAddr::new(source, 0))?;
        }
        let mut buffer = vec![0; 65_536];
        let mut ask = || -> io::Result<Answer> {
            // The kernel gives a connected raw socket what comes from that peer only.
            socket.connect(&SocketAddr::new(self.destination, 0).into())?;
            socket.send(packet)?;
            loop {
                socket.set_read_timeout(self.left(start))?;
                let length = socket.read(&mut buffer)?;
                let payload = if self.destination.is_ipv6() {
                    buffer.get(..length)
                } else {
                    buffer.get(..length).and_then(wire::payload)
                };
                if let Some(answer) = payload.and_then(&judge) {
                    return Ok(answer);
                }
            }
        };
        ask().or_else(|error| came_back(error, silence))
    }

    fn bind(&self, socket: &Socket) -> io::Result<()> {
        if self.source.is_none() && self.source_port.is_none() {
            return Ok(());
        }
        socket.set_reuse_address(true)?;
        // The sender itself may listen on the port.
        socket.set_reuse_port(true)?;
        let any: IpAddr = match self.destination {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        self.bind_to(socket, SocketAddr::new(self.source.unwrap_or(any), self.source_port.unwrap_or(0)))
    }

    /// Binds a socket, also to an address that nobody has been given.
    fn bind_to(&self, socket: &Socket, address: SocketAddr) -> io::Result<()> {
        match address {
            SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
            SocketAddr::V6(_) => socket.set_freebind_v6(true)?,
        }
        socket.bind(&address.into())
    }

    fn version(&self) -> Domain {
        if self.destination.is_ipv6() { Domain::IPV6 } else { Domain::IPV4 }
    }

    /// A time-out of zero would mean none at all.
    fn left(&self, start: Instant) -> Option<Duration> {
        Some(self.timeout.saturating_sub(start.elapsed()).max(Duration::from_millis(1)))
    }
}

/// An echo request, its checksum not made.
fn echo_request(icmp: Icmp, identifier: u16) -> Vec<u8> {
    let mut packet = vec![icmp.kind, icmp.code, 0, 0, 0, 0, 0, 1];
    packet[4..6].copy_from_slice(&identifier.to_be_bytes());
    packet.extend_from_slice(&[b'.'; 48]);
    packet
}

/// Numbers that no two probes of this process share, different from process to process.
fn next_identity() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let started = std::process::id().wrapping_mul(2_654_435_761);
    started.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)).max(1)
}

/// What an error of a socket says about the way there and back.
fn came_back(error: io::Error, silence: &str) -> io::Result<Answer> {
    use io::ErrorKind::{
        ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable, TimedOut, WouldBlock,
    };
    match error.kind() {
        ConnectionRefused => Ok(Answer::Refused),
        TimedOut | WouldBlock => Ok(Answer::Silence(silence.into())),
        ConnectionReset | HostUnreachable | NetworkUnreachable => {
            Ok(Answer::Silence(format!("{silence}: {error}")))
        }
        // An ICMP "protocol unreachable", an ICMPv6 "unrecognized next header".
        _ if matches!(error.raw_os_error(), Some(nix::libc::ENOPROTOOPT | nix::libc::EPROTO)) => {
            Ok(Answer::Refused)
        }
        // An ICMP "administratively prohibited" and its like.
        _ if error.raw_os_error() == Some(nix::libc::EACCES) => {
            Ok(Answer::Silence(format!("{silence}: {error}")))
        }
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests;
