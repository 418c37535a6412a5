//! The program on the uplink; see bpf/uplink.c for what it takes and what it passes.

use super::{AttachMode, Preference, XdpError, attach, load_object, program};
use crate::socket::Socket;
use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, XskMap};
use aya::programs::links::FdLink;
use std::net::IpAddr;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/uplink.o"));

/// A tunnel that ends at this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TunnelEnd {
    /// VXLAN, or anything else over UDP, to this address and port.
    Vxlan {
        /// The node's own address.
        local: IpAddr,
        /// UDP port, usually 4789.
        port: u16,
    },
    /// IPv4 in IP (protocol 4) to this address.
    Ipip {
        /// The node's own address.
        local: IpAddr,
    },
}

/// What became of the frames that the uplink received, since the program was attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct UplinkCounters {
    /// The host's.
    pub passed: u64,
    /// To us, by destination prefix.
    pub captured_prefix: u64,
    /// To us, by (address, UDP port).
    pub captured_vxlan: u64,
    /// To us, by address and protocol 4.
    pub captured_ipip: u64,
    /// Ours, but no socket reads the queue: passed to the host.
    pub no_socket: u64,
}

/// The attached program. Dropping it detaches, as does the end of the process.
pub struct Uplink {
    // The program itself is kept alive by its link.
    _link: FdLink,
    mode: AttachMode,
    sockets: XskMap<MapData>,
    tunnels: HashMap<MapData, [u8; 20], u32>,
    prefixes4: LpmTrie<MapData, [u8; 4], u32>,
    prefixes6: LpmTrie<MapData, [u8; 16], u32>,
    counters: PerCpuArray<MapData, u64>,
}

/// The value of a prefix that is captured.
const OURS: u32 = 1;

impl Uplink {
    /// Loads the program and attaches it to a device of the calling thread's network namespace. It captures nothing yet.
    pub fn attach(ifindex: u32, preference: Preference) -> Result<Self, XdpError> {
        let mut ebpf = load_object("uplink", OBJECT)?;
        let mut take = |name: &str| {
            let missing =
                || XdpError::Load { doing: format!("find map {name}"), reason: "not in its object".into() };
            ebpf.take_map(name).ok_or_else(missing)
        };
        let sockets = typed(take("xsks")?)?;
        let tunnels = typed(take("tunnels")?)?;
        let prefixes4 = typed(take("prefixes4")?)?;
        let prefixes6 = typed(take("prefixes6")?)?;
        let counters = typed(take("counters")?)?;
        let (link, mode) = attach(program(&mut ebpf, "uplink")?, ifindex, preference)?;
        Ok(Self { _link: link, mode, sockets, tunnels, prefixes4, prefixes6, counters })
    }

    /// How it is attached; [`AttachMode::Generic`] is worth a notice.
    pub fn mode(&self) -> &AttachMode {
        &self.mode
    }

    /// What is captured on a receive queue goes to this socket, which is bound to that queue. It leaves the map when it is closed.
    pub fn set_socket(&mut self, queue: u32, socket: &Socket) -> Result<(), XdpError> {
        let doing = || format!("direct queue {queue} of the uplink to its socket");
        self.sockets.set(queue, socket.fd(), 0).map_err(|error| XdpError::map(doing(), &error))
    }

    /// Captures what goes to a prefix, fragments included.
    pub fn capture_prefix(&mut self, address: IpAddr, length: u8) -> Result<(), XdpError> {
        match address {
            IpAddr::V4(a) => self.prefixes4.insert(&Key::new(length.into(), a.octets()), OURS, 0),
            IpAddr::V6(a) => self.prefixes6.insert(&Key::new(length.into(), a.octets()), OURS, 0),
        }
        .map_err(|error| XdpError::map(format!("capture {address}/{length} on the uplink"), &error))
    }

    /// Captures a prefix no longer; fine if it was not captured.
    pub fn release_prefix(&mut self, address: IpAddr, length: u8) -> Result<(), XdpError> {
        let removed = match address {
            IpAddr::V4(a) => self.prefixes4.remove(&Key::new(length.into(), a.octets())),
            IpAddr::V6(a) => self.prefixes6.remove(&Key::new(length.into(), a.octets())),
        };
        unless_absent(removed, || format!("release {address}/{length} on the uplink"))
    }

    /// Captures what comes through a tunnel that ends here.
    pub fn capture_tunnel(&mut self, end: TunnelEnd) -> Result<(), XdpError> {
        let inserted = self.tunnels.insert(tunnel_key(end), OURS, 0);
        inserted.map_err(|error| XdpError::map(format!("capture {end:?} on the uplink"), &error))
    }

    /// Captures a tunnel no longer; fine if it was not captured.
    pub fn release_tunnel(&mut self, end: TunnelEnd) -> Result<(), XdpError> {
        unless_absent(self.tunnels.remove(&tunnel_key(end)), || format!("release {end:?} on the uplink"))
    }

    /// What became of frames so far.
    pub fn counters(&self) -> Result<UplinkCounters, XdpError> {
        // The order of `enum outcome` in bpf/uplink.c.
        let read = |outcome: u32| match self.counters.get(&outcome, 0) {
            Ok(per_cpu) => Ok(per_cpu.iter().fold(0_u64, |sum, value| sum.wrapping_add(*value))),
            Err(error) => Err(XdpError::map("read the uplink's counters", &error)),
        };
        Ok(UplinkCounters {
            passed: read(0)?,
            captured_prefix: read(1)?,
            captured_vxlan: read(2)?,
            captured_ipip: read(3)?,
            no_socket: read(4)?,
        })
    }
}

fn typed<T: TryFrom<Map, Error = MapError>>(map: Map) -> Result<T, XdpError> {
    T::try_from(map).map_err(|error| XdpError::load("uplink", &error))
}

fn unless_absent(removed: Result<(), MapError>, doing: impl FnOnce() -> String) -> Result<(), XdpError> {
    match removed {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(error) if super::os_error(&error) == Some(libc::ENOENT) => Ok(()),
        Err(error) => Err(XdpError::map(doing(), &error)),
    }
}

/// `struct tunnel` of bpf/uplink.c: address (16), port (2, network order), protocol (1), zero (1).
fn tunnel_key(end: TunnelEnd) -> [u8; 20] {
    let (local, port, protocol) = match end {
        TunnelEnd::Vxlan { local, port } => (local, port, 17),
        TunnelEnd::Ipip { local } => (local, 0, 4),
    };
    let address = match local {
        IpAddr::V4(a) => a.to_ipv6_mapped(),
        IpAddr::V6(a) => a,
    };
    let mut key = [0; 20];
    let (address_part, rest) = key.split_at_mut(16);
    address_part.copy_from_slice(&address.octets());
    rest.copy_from_slice(&[port.to_be_bytes()[0], port.to_be_bytes()[1], protocol, 0]);
    key
}
