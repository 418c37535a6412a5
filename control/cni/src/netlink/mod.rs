//! rtnetlink, synchronously: the few requests that making links, addresses and routes takes.
//!
//! A [`Netlink`] speaks for the network namespace of the thread that opened it, for as long as it lives, whichever thread uses it then.
//! Each request waits for the kernel's acknowledgement, so what has returned `Ok` is done. What can be asked for is in one file a
//! kind of object; this one has the conversation.

mod address;
mod link;
mod neighbor;
mod route;

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

pub use link::{Link, VethEnd, index_of};
pub use route::{Leading, Route, Rule, TABLE_LOCAL, TABLE_MAIN};

/// What the kernel refused, and why.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing}: {source}")]
pub struct NetlinkError {
    doing: String,
    source: io::Error,
}

impl NetlinkError {
    fn new(doing: impl Into<String>, source: io::Error) -> Self {
        Self { doing: doing.into(), source }
    }

    /// The errno of the kernel's answer.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }

    /// Whether the kernel has no such link, address or route.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.errno().is_some_and(|errno| errno == nix::libc::ENODEV || errno == nix::libc::ESRCH)
    }
}

/// Which IP a routing rule, or a list of routes, is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpVersion {
    fn family(self) -> AddressFamily {
        match self {
            Self::V4 => AddressFamily::Inet,
            Self::V6 => AddressFamily::Inet6,
        }
    }
}

/// A rtnetlink socket.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel has no socket for us.
    pub fn open() -> Result<Self, NetlinkError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(socket)
        };
        let socket = open().map_err(|e| NetlinkError::new("open a netlink socket", e))?;
        Ok(Self { socket, sequence: 0 })
    }

    fn create(&mut self, doing: String, message: RouteNetlinkMessage) -> Result<(), NetlinkError> {
        self.ask(doing, message, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL).map(drop)
    }

    fn change(&mut self, doing: String, message: RouteNetlinkMessage) -> Result<(), NetlinkError> {
        self.ask(doing, message, NLM_F_ACK).map(drop)
    }

    /// Sends one request and collects what comes before its acknowledgement, or before the end of its dump.
    fn ask(
        &mut self,
        doing: impl Into<String>,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.exchange(message, flags).map_err(|source| NetlinkError::new(doing, source))
    }

    fn exchange(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
                // Messages are padded to four bytes.
                let length = (answer.header.length as usize).next_multiple_of(4).clamp(4, rest.len());
                rest = &rest[length..];
                if answer.header.sequence_number != self.sequence {
                    continue; // a late answer to a request that failed half-way
                }
                match answer.payload {
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(answers),
                    _ => {}
                }
            }
        }
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}
