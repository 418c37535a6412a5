//! Who answers in the lab: pods on their container ports, nodes and the hosts outside on the ports that flows name.
//!
//! TCP echoes bytes, UDP echoes datagrams, with real kernel sockets of the namespace. The kernels here have no SCTP, and other protocols
//! have no sockets at all: those are answered on raw sockets. ICMP echoes and refusals come from the namespace's kernel itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, IoSlice, IoSliceMut},
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsRawFd, RawFd},
};

use caracal_cni::netns;
use caracal_model::protocol::Protocol;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt,
    sockopt::Ipv4PacketInfo,
};
use socket2::{Domain, Socket, Type};
use tokio::{
    io::Interest,
    net::{TcpListener, TcpStream, UdpSocket},
    runtime::Handle,
};

use crate::{
    error::LabError,
    sctp,
    wire::{self, Datagram},
};

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

/// Opens every socket of a namespace and answers on them, as long as the runtime lives.
pub(crate) fn open(
    runtime: &Handle,
    netns: &str,
    place: &str,
    listening: &Listening,
) -> Result<(), LabError> {
    let _inside = runtime.enter();
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
                    let listener = made_in(netns, || tcp_socket(port))?.map_err(fail(Some(port)))?;
                    runtime.spawn(serve_tcp(TcpListener::from_std(listener).map_err(fail(Some(port)))?));
                }
            }
            Protocol::UDP => {
                for &port in ports {
                    let socket = made_in(netns, || udp_socket(port))?.map_err(fail(Some(port)))?;
                    runtime.spawn(serve_udp(UdpSocket::from_std(socket).map_err(fail(Some(port)))?));
                }
            }
            _ => {
                let socket = made_in(netns, || raw_socket(protocol))?.map_err(fail(None))?;
                let socket = UdpSocket::from_std(socket).map_err(fail(None))?;
                runtime.spawn(serve_raw(socket, protocol, ports.clone()));
            }
        }
    }
    Ok(())
}

fn made_in<T: Send>(netns: &str, make: impl FnOnce() -> T + Send) -> Result<T, LabError> {
    Ok(netns::within(&netns::path(netns), make)?)
}

fn any(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)
}

fn tcp_socket(port: u16) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    // A flow may start from a port that is listened on.
    socket.set_reuse_port(true)?;
    socket.bind(&any(port).into())?;
    socket.listen(128)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn udp_socket(port: u16) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.set_reuse_port(true)?;
    socket.bind(&any(port).into())?;
    socket.set_nonblocking(true)?;
    let socket = std::net::UdpSocket::from(socket);
    // Which of its addresses was asked: the answer must come from there.
    setsockopt(&socket, Ipv4PacketInfo, &true)?;
    Ok(socket)
}

/// A raw socket in the clothes of a UDP socket: for both, receiving and sending is one datagram at a time.
fn raw_socket(protocol: Protocol) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(i32::from(protocol.0).into()))?;
    socket.set_header_included_v4(true)?;
    socket.set_nonblocking(true)?;
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

async fn serve_udp(socket: UdpSocket) {
    let mut buffer = vec![0; LONGEST_DATAGRAM];
    loop {
        if socket.readable().await.is_err() {
            return;
        }
        // Errors are earlier answers' (ICMP), and no reason to stop answering.
        let _ = socket.try_io(Interest::READABLE, || echo_datagram(socket.as_raw_fd(), &mut buffer));
    }
}

fn echo_datagram(socket: RawFd, buffer: &mut [u8]) -> io::Result<()> {
    let mut control = nix::cmsg_space!(nix::libc::in_pktinfo);
    let (length, sender, asked) = {
        let mut slices = [IoSliceMut::new(buffer)];
        let received = recvmsg::<SockaddrIn>(socket, &mut slices, Some(&mut control), MsgFlags::empty())?;
        let asked = received.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => Some(info),
            _ => None,
        });
        (received.bytes, received.address, asked)
    };
    let Some(answer) = buffer.get(..length) else { return Ok(()) };
    let from =
        asked.map(|info| nix::libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: info.ipi_addr, ..info });
    let control: Vec<_> = from.iter().map(ControlMessage::Ipv4PacketInfo).collect();
    sendmsg(socket, &[IoSlice::new(answer)], &control, MsgFlags::empty(), sender.as_ref())?;
    Ok(())
}

async fn serve_raw(socket: UdpSocket, protocol: Protocol, ports: BTreeSet<u16>) {
    let mut buffer = vec![0; LONGEST_DATAGRAM];
    loop {
        let Ok(length) = socket.recv(&mut buffer).await else { continue };
        let Some(asked) = buffer.get(..length).and_then(Datagram::parse) else { continue };
        let payload = match protocol {
            Protocol::SCTP => sctp::answer(&asked.payload, |port| ports.contains(&port)),
            _ => wire::answer(&asked.payload),
        };
        let Some(payload) = payload else { continue };
        let answer = Datagram { source: asked.destination, destination: asked.source, protocol, payload };
        if let Some(bytes) = answer.bytes() {
            // Who cannot be reached gets no answer.
            let _ = socket.send_to(&bytes, SocketAddrV4::new(answer.destination, 0)).await;
        }
    }
}
