//! The program on the uplink; see bpf/uplink.c for what it takes and what it passes.

use super::device_bound::{DeviceProgram, Question};
use super::{AttachMode, Preference, XdpError, attach, load_object, program, read_object};
use crate::socket::Socket;
use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, XskMap};
use aya::programs::links::FdLink;
use std::fmt;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/uplink.o"));
/// The same, for devices that tell of VLAN tags that they took off.
static OBJECT_VLAN: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/uplink_vlan.o"));

/// What the latter asks of the device: the number in its code, and the kernel's function.
const VLAN_QUESTION: Question =
    Question { placeholder: 0x7ca7_0001, function: "bpf_xdp_metadata_rx_vlan_tag" };

/// Something that the program takes from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Capture {
    /// What goes to a prefix, fragments included.
    Prefix {
        /// Its address.
        address: IpAddr,
        /// Its length.
        length: u8,
    },
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
    /// A port at which this node serves. Fragments and ICMP errors come only with [`Ports`](Capture::Ports) of the address.
    Service {
        /// The node's own address.
        local: IpAddr,
        /// TCP, UDP or SCTP.
        protocol: u8,
        /// The port.
        port: u16,
    },
    /// At this address ports are captured: all fragments to it, ICMP errors about what captured ports sent, and
    /// whatever goes to a TCP, UDP or SCTP port, or answers an echo with an identifier, from `first` to `last`.
    Ports {
        /// The node's own address. It has one range.
        local: IpAddr,
        /// The first port that stands for a pod's …
        first: u16,
        /// … and the last. Below the first: there are none.
        last: u16,
    },
}

impl fmt::Display for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix { address, length } => write!(f, "{address}/{length}"),
            Self::Vxlan { local, port } => write!(f, "VXLAN to {local}, port {port}"),
            Self::Ipip { local } => write!(f, "IPIP to {local}"),
            Self::Service { local, protocol, port } => {
                write!(f, "protocol {protocol} to {local}, port {port}")
            }
            Self::Ports { local, first, last } => write!(f, "ports {first} to {last} of {local}"),
        }
    }
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
    /// To us, by the port of a service.
    pub captured_service: u64,
    /// To us, by a port or an echo identifier that stands for a pod's.
    pub captured_translated: u64,
    /// To us: ICMP errors about packets from one of the last two.
    pub captured_error: u64,
    /// To us: fragments, of which some may be the host's.
    pub captured_fragment: u64,
    /// Ours, but no socket reads the queue: passed to the host.
    pub no_socket: u64,
}

/// What keeps a program attached.
enum Link {
    Aya { _link: FdLink },
    Own { _link: OwnedFd },
}

/// The attached program. Dropping it detaches, as does the end of the process.
pub struct Uplink {
    // The program itself is kept alive by its link.
    _link: Link,
    mode: AttachMode,
    sees_vlan_tags: bool,
    sockets: XskMap<MapData>,
    doors: HashMap<MapData, [u8; 20], u32>,
    locals: HashMap<MapData, [u8; 16], u32>,
    prefixes4: LpmTrie<MapData, [u8; 4], u32>,
    prefixes6: LpmTrie<MapData, [u8; 16], u32>,
    counters: PerCpuArray<MapData, u64>,
}

/// The value of a prefix that is captured.
const OURS: u32 = 1;
/// What is behind a door: the numbers of `enum outcome`.
const VXLAN: u32 = 2;
const TUNNEL_IPIP: u32 = 3;
const SERVICE: u32 = 4;
/// Protocol numbers.
const UDP: u8 = 17;
const IPIP: u8 = 4;

impl Uplink {
    /// Loads the program and attaches it to a device of the calling thread's network namespace. It captures nothing yet.
    pub fn attach(ifindex: u32, preference: Preference) -> Result<Self, XdpError> {
        let mut ebpf = load_object("uplink", OBJECT)?;
        let (link, mode) = attach(program(&mut ebpf, "uplink")?, ifindex, preference)?;
        Self::of(ebpf, Link::Aya { _link: link }, mode, false)
    }

    /// The same in native mode, with a program that asks the device of each frame that is to be captured whether it has taken a VLAN
    /// tag off (Linux 6.8): those are the host's. For devices that answer; others say nothing to it, and each call costs.
    pub fn attach_seeing_vlan_tags(ifindex: u32) -> Result<Self, XdpError> {
        let ebpf = read_object("uplink", OBJECT_VLAN)?;
        let program = DeviceProgram { name: "uplink", object: OBJECT_VLAN, question: VLAN_QUESTION };
        let link = program.attach(&ebpf, ifindex)?;
        Self::of(ebpf, Link::Own { _link: link }, AttachMode::Native, true)
    }

    /// Whether the device is asked for VLAN tags.
    pub fn sees_vlan_tags(&self) -> bool {
        self.sees_vlan_tags
    }

    fn of(mut ebpf: aya::Ebpf, link: Link, mode: AttachMode, sees_vlan_tags: bool) -> Result<Self, XdpError> {
        let mut take = |name: &str| {
            let missing =
                || XdpError::Load { doing: format!("find map {name}"), reason: "not in its object".into() };
            ebpf.take_map(name).ok_or_else(missing)
        };
        let sockets = typed(take("xsks")?)?;
        let doors = typed(take("doors")?)?;
        let locals = typed(take("locals")?)?;
        let prefixes4 = typed(take("prefixes4")?)?;
        let prefixes6 = typed(take("prefixes6")?)?;
        let counters = typed(take("counters")?)?;
        Ok(Self { _link: link, mode, sees_vlan_tags, sockets, doors, locals, prefixes4, prefixes6, counters })
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

    /// Captures something. A second range of [`Ports`](Capture::Ports) for an address replaces the first.
    pub fn capture(&mut self, what: Capture) -> Result<(), XdpError> {
        let inserted = match what {
            Capture::Prefix { address: IpAddr::V4(a), length } => {
                self.prefixes4.insert(&Key::new(length.into(), a.octets()), OURS, 0)
            }
            Capture::Prefix { address: IpAddr::V6(a), length } => {
                self.prefixes6.insert(&Key::new(length.into(), a.octets()), OURS, 0)
            }
            Capture::Vxlan { local, port } => self.doors.insert(door(local, UDP, port), VXLAN, 0),
            Capture::Ipip { local } => self.doors.insert(door(local, IPIP, 0), TUNNEL_IPIP, 0),
            Capture::Service { local, protocol, port } => {
                self.doors.insert(door(local, protocol, port), SERVICE, 0)
            }
            Capture::Ports { local, first, last } => {
                self.locals.insert(octets(local), ports_value(first, last), 0)
            }
        };
        inserted.map_err(|error| XdpError::map(format!("capture {what} on the uplink"), &error))
    }

    /// Captures something no longer; fine if it was not captured, and if another range of ports has taken its place.
    pub fn release(&mut self, what: Capture) -> Result<(), XdpError> {
        let removed = match what {
            Capture::Prefix { address: IpAddr::V4(a), length } => {
                self.prefixes4.remove(&Key::new(length.into(), a.octets()))
            }
            Capture::Prefix { address: IpAddr::V6(a), length } => {
                self.prefixes6.remove(&Key::new(length.into(), a.octets()))
            }
            Capture::Vxlan { local, port } => self.doors.remove(&door(local, UDP, port)),
            Capture::Ipip { local } => self.doors.remove(&door(local, IPIP, 0)),
            Capture::Service { local, protocol, port } => self.doors.remove(&door(local, protocol, port)),
            Capture::Ports { local, first, last } => {
                let key = octets(local);
                match self.locals.get(&key, 0) {
                    Ok(ports) if ports != ports_value(first, last) => Ok(()),
                    _ => self.locals.remove(&key),
                }
            }
        };
        unless_absent(removed, || format!("release {what} on the uplink"))
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
            captured_vxlan: read(VXLAN)?,
            captured_ipip: read(TUNNEL_IPIP)?,
            captured_service: read(SERVICE)?,
            captured_translated: read(5)?,
            captured_error: read(6)?,
            captured_fragment: read(7)?,
            no_socket: read(8)?,
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

/// `struct door` of bpf/uplink.c: address (16), port (2, network order), protocol (1), zero (1).
fn door(local: IpAddr, protocol: u8, port: u16) -> [u8; 20] {
    let mut key = [0; 20];
    let (address_part, rest) = key.split_at_mut(16);
    address_part.copy_from_slice(&octets(local));
    let [high, low] = port.to_be_bytes();
    rest.copy_from_slice(&[high, low, protocol, 0]);
    key
}

/// IPv4 as ::ffff:a.b.c.d.
fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => a.octets(),
    }
}

/// `struct translated` of bpf/uplink.c: two numbers in host byte order.
fn ports_value(first: u16, last: u16) -> u32 {
    let ([a, b], [c, d]) = (first.to_ne_bytes(), last.to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}
