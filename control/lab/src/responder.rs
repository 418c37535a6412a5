//! Who answers in the lab: pods on their container ports, nodes and the hosts outside on the ports that flows name.
//!
//! TCP echoes bytes, UDP echoes datagrams, with real kernel sockets of the namespace. The kernels here have no SCTP, and other protocols
//! have no sockets at all: those are answered on raw sockets. ICMP echoes and refusals come from the namespace's kernel itself. Each IP
//! version has sockets of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, RawFd},
};

use caracal_cni::netns;
use caracal_model::protocol::Protocol;
use nix::{
    libc::{in_pktinfo, in6_pktinfo},
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
        sockopt::{Ipv4PacketInfo, Ipv6RecvPacketInfo},
    },
};
use socket2::{Domain, Socket, Type};
use tokio::{
    io::Interest,
    net::{TcpListener, TcpStream, UdpSocket},
    runtime::Handle,
};

use crate::{error::LabError, sctp, wire};

const LONGEST_DATAGRAM: usize = 65_536;

/// What is listened to in a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Listening {
    /// Ports by protocol; a protocol without ports is there with none.
    ports: BTreeMap<Protocol, BTreeSet<u16>>,
}

impl Listening {
    /// Listens to a port too, or to a protocol that has none.
    pub(crate) fn add(&mut self, protocol: Protocol, port: Option<u16>) {
        self.ports.entry(protocol).or_default().extend(port);
    }
}

/// Opens every socket of a namespace, of each of `versions`, and answers on them as long as the runtime lives.
pub(crate) fn open(
    runtime: &Handle,
    netns: &str,
    place: &str,
    listening: &Listening,
    versions: &[Domain],
) -> Result<(), LabError> {
    let _inside = runtime.enter();
    for &version in versions {
        for (&protocol, ports) in &listening.ports {
            let fail = |port: Option<u16>| {
                move |source| {
                    let what = port.map_or(protocol.to_string(), |port| format!("{protocol} port {port}"));
                    LabError::Listen { place: place.into(), what, source }
                }
            };
            match protocol {
                // The kernel answers these.
                Protocol::ICMP | Protocol::ICMPV6 => {}
                Protocol::TCP => {
                    for &port in ports {
                        let listener =
                            made_in(netns, || tcp_socket(version, port))?.map_err(fail(Some(port)))?;
                        runtime.spawn(serve_tcp(TcpListener::from_std(listener).map_err(fail(Some(port)))?));
                    }
                }
                Protocol::UDP => {
                    for &port in ports {
                        let socket =
                            made_in(netns, || udp_socket(version, port))?.map_err(fail(Some(port)))?;
                        let socket = UdpSocket::from_std(socket).map_err(fail(Some(port)))?;
                        runtime.spawn(serve(socket, |asked| Some(asked.to_vec())));
                    }
                }
                _ => {
                    let socket = made_in(netns, || raw_socket(version, protocol))?.map_err(fail(None))?;
                    let socket = UdpSocket::from_std(socket).map_err(fail(None))?;
                    let ports = ports.clone();
                    runtime.spawn(serve(socket, move |asked| {
                        let asked = if version == Domain::IPV4 { wire::payload(asked)? } else { asked };
                        match protocol {
                            Protocol::SCTP => sctp::answer(asked, |port| ports.contains(&port)),
                            _ => wire::answer(asked),
                        }
                    }));
                }
            }
        }
    }
    Ok(())
}

fn made_in<T: Send>(netns: &str, make: impl FnOnce() -> T + Send) -> Result<T, LabError> {
    Ok(netns::within(&netns::path(netns), make)?)
}

/// A socket of one IP version.
fn socket(version: Domain, kind: Type, protocol: Option<socket2::Protocol>) -> io::Result<Socket> {
    let socket = Socket::new(version, kind, protocol)?;
    if version == Domain::IPV6 {
        if kind != Type::RAW {
            socket.set_only_v6(true)?;
        }
        // The hosts outside answer from addresses that nobody has been given.
        socket.set_freebind_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Which of its addresses was asked is told with each datagram: the answer must come from there.
fn tell_asked(socket: &impl std::os::fd::AsFd, version: Domain) -> io::Result<()> {
    if version == Domain::IPV6 {
        setsockopt(socket, Ipv6RecvPacketInfo, &true)?;
    } else {
        setsockopt(socket, Ipv4PacketInfo, &true)?;
    }
    Ok(())
}

fn any(version: Domain, port: u16) -> SocketAddr {
    let address: IpAddr =
        if version == Domain::IPV6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    SocketAddr::new(address, port)
}

fn tcp_socket(version: Domain, port: u16) -> io::Result<std::net::TcpListener> {
    let socket = socket(version, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    // A flow may start from a port that is listened on.
    socket.set_reuse_port(true)?;
    socket.bind(&any(version, port).into())?;
    socket.listen(128)?;
    Ok(socket.into())
}

fn udp_socket(version: Domain, port: u16) -> io::Result<std::net::UdpSocket> {
    let socket = socket(version, Type::DGRAM, None)?;
    socket.set_reuse_port(true)?;
    socket.bind(&any(version, port).into())?;
    tell_asked(&socket, version)?;
    Ok(socket.into())
}

/// A raw socket in the clothes of a UDP socket: for both, receiving and sending is one datagram at a time.
fn raw_socket(version: Domain, protocol: Protocol) -> io::Result<std::net::UdpSocket> {
    let socket = socket(version, Type::RAW, Some(i32::from(protocol.0).into()))?;
    tell_asked(&socket, version)?;
    Ok(socket.into())
}

async fn serve_tcp(listener: TcpListener) {
    loop {
        // An error is the connection's, which is gone already.
        if let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(echo_stream(stream));
        }
    }
}

async fn echo_stream(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let (mut reader, mut writer) = stream.split();
    let _ = tokio::io::copy(&mut reader, &mut writer).await;
}

/// Answers each datagram with what `answer` makes of it.
async fn serve(socket: UdpSocket, answer: impl Fn(&[u8]) -> Option<Vec<u8>>) {
    let mut buffer = vec![0; LONGEST_DATAGRAM];
    loop {
        if socket.readable().await.is_err() {
            return;
        }
        // Errors are earlier answers' (ICMP), and no reason to stop answering.
        let _ =
            socket.try_io(Interest::READABLE, || answer_datagram(socket.as_raw_fd(), &mut buffer, &answer));
    }
}

fn answer_datagram(
    socket: RawFd,
    buffer: &mut [u8],
    answer: impl Fn(&[u8]) -> Option<Vec<u8>>,
) -> io::Result<()> {
    let mut control = nix::cmsg_space!(in6_pktinfo);
    let (length, sender, asked) = {
        let mut slices = [IoSliceMut::new(buffer)];
        let received =
            recvmsg::<SockaddrStorage>(socket, &mut slices, Some(&mut control), MsgFlags::empty())?;
        (received.bytes, received.address, received.cmsgs()?.next())
    };
    let Some(answer) = buffer.get(..length).and_then(answer) else { return Ok(()) };
    let (v4, v6) = match asked {
        Some(ControlMessageOwned::Ipv4PacketInfo(asked)) => {
            (Some(in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: asked.ipi_addr, ..asked }), None)
        }
        Some(ControlMessageOwned::Ipv6PacketInfo(asked)) => {
            (None, Some(in6_pktinfo { ipi6_ifindex: 0, ..asked }))
        }
        _ => (None, None),
    };
    let v4 = v4.as_ref().map(ControlMessage::Ipv4PacketInfo);
    let from: Vec<_> = v4.into_iter().chain(v6.as_ref().map(ControlMessage::Ipv6PacketInfo)).collect();
    sendmsg(socket, &[IoSlice::new(&answer)], &from, MsgFlags::empty(), sender.as_ref())?;
    Ok(())
}
