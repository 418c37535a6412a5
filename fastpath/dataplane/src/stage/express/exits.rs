//! The ways out, ready to be taken: which port, how long a packet may be, and the headers in front of it, written once
//! for all packets that take it.
//!
//! ```text
//!   destination ─ longest match ─► number of its FIB entry ─► exit: to a pod     Ethernet
//!                                                                   VXLAN        Ethernet · IPv4 · UDP · VXLAN · Ethernet
//!                                                                   IPIP         Ethernet · IPv4
//!                                                                   plain        Ethernet
//! ```
//!
//! An exit is made when its first packet comes, and holds for as long as everything does that it was made of: the parts
//! of the tables that say where, and what this worker knows of links. Routes may come and go meanwhile. What has no exit here takes the long way.

use caracal_wire::checksum::Sum;
use caracal_wire::{EtherType, MacAddr, Protocol, Vni, ethernet, ipv4, udp, vxlan};

use crate::batch::Egress;
use crate::pipeline::Links;
use crate::stage::arp::GATEWAY_MAC;
use crate::stage::parse::HEADERS;
use crate::stage::tunnel;
use crate::table::{
    Encapsulation, EndpointTable, Fib, FibEntry, NeighborIndex, NeighborTable, NextHop, NodeTable, Tables,
    TunnelIndex, TunnelTable, Underlay,
};
use crate::worker::WorkerIndex;

/// All that any exit puts in front of a packet, and the packet's own Ethernet header.
pub const TEMPLATE: usize = HEADERS + udp::HEADER_LEN + vxlan::HEADER_LEN + ethernet::HEADER_LEN;

/// A way out.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(128))]
pub struct Exit {
    /// The number of its FIB entry, and …
    entry: u32,
    /// … when it was made: see [`Exits::epoch`].
    epoch: u32,
    /// Where it leads; None: to the long way.
    pub egress: Option<Egress>,
    pub kind: Kind,
    /// The longest IP packet that may take it.
    pub mtu: u16,
    /// The sum of the outer IPv4 header without what differs between packets.
    pub outer_sum: Sum,
    /// What a packet begins with.
    pub template: [u8; TEMPLATE],
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It goes to a pod.
    Endpoint,
    /// It goes into VXLAN over IPv4.
    Vxlan,
    /// It goes into IPv4.
    Ipip,
    /// It goes as it is, to a node.
    Plain,
    /// The same, and somewhere else than to a node: to where pods may need another address.
    Outside,
}

impl Exit {
    const NOWHERE: Exit = Exit {
        entry: 0,
        epoch: 0,
        egress: None,
        kind: Kind::Outside,
        mtu: 0,
        outer_sum: Sum::ZERO,
        template: [0; TEMPLATE],
    };
}

/// So many exits at once: more than there are pods and nodes that a worker talks to at a time. Numbers of entries are given
/// from the first on, so that on all but the largest clusters no two share a place.
pub const PLACES: usize = 4096;

/// A worker's exits.
#[derive(Debug)]
pub struct Exits {
    /// By the low bits of the entry's number.
    places: Box<[Exit]>,
    /// Grows with everything that makes former exits wrong; 0: never.
    epoch: u32,
    made_of: MadeOf,
    links: u32,
}

/// What exits are made of, as of now. The tables' own parts: they go with the tables that are left, not here.
#[derive(Debug, Default)]
struct MadeOf {
    fib: Fib,
    endpoints: EndpointTable,
    tunnels: TunnelTable,
    neighbors: NeighborTable,
    node: NodeTable,
}

impl Default for Exits {
    fn default() -> Self {
        Exits { places: vec![Exit::NOWHERE; PLACES].into(), epoch: 1, made_of: MadeOf::default(), links: 0 }
    }
}

impl Exits {
    /// Takes up newer tables.
    pub fn follow(&mut self, tables: &Tables) {
        let of = &self.made_of;
        let is_same = of.fib.has_entries_of(&tables.fib)
            && of.endpoints.is_same(&tables.endpoints)
            && of.tunnels.is_same(&tables.tunnels)
            && of.neighbors.is_same(&tables.neighbors)
            && of.node.is_same(&tables.node);
        if !is_same {
            self.made_of = MadeOf {
                fib: tables.fib.clone(),
                endpoints: tables.endpoints.clone(),
                tunnels: tables.tunnels.clone(),
                neighbors: tables.neighbors.clone(),
                node: tables.node.clone(),
            };
            self.forget();
        }
    }

    /// Takes up what has become of links. Once a batch.
    #[inline]
    pub fn follow_links(&mut self, links: &Links) {
        if self.links != links.version() {
            self.links = links.version();
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
        if self.epoch == 0 {
            self.places.fill(Exit::NOWHERE);
            self.epoch = 1;
        }
    }

    /// The exit for a FIB entry, which takes the place of another's.
    #[inline(always)]
    pub fn of(&mut self, entry: u32, tables: &Tables, links: &Links, worker: WorkerIndex) -> &Exit {
        let exit = &mut self.places[entry as usize % PLACES];
        if (exit.entry, exit.epoch) != (entry, self.epoch) {
            *exit = make(entry, tables, links, worker).unwrap_or(Exit::NOWHERE);
            (exit.entry, exit.epoch) = (entry, self.epoch);
        }
        exit
    }

    /// The same, if it has been asked for in this batch; None: another one has taken its place since.
    #[inline(always)]
    pub fn still(&self, entry: u32) -> Option<&Exit> {
        Some(&self.places[entry as usize % PLACES]).filter(|exit| exit.entry == entry)
    }
}

#[cold]
fn make(entry: u32, tables: &Tables, links: &Links, worker: WorkerIndex) -> Option<Exit> {
    match *tables.fib.numbered(entry)? {
        FibEntry::Endpoint(endpoint) => {
            let target = tables.endpoints.get(endpoint)?;
            let link = links.endpoint(endpoint).filter(|_| target.worker == worker.0)?;
            let mut exit = leaving(Kind::Endpoint, Egress::Endpoint(endpoint), link.mtu);
            write_link(&mut exit.template, link.pod_mac?, GATEWAY_MAC);
            Some(exit)
        }
        FibEntry::Tunnel { tunnel, encapsulation: Encapsulation::Vxlan } => into_vxlan(tables, links, tunnel),
        FibEntry::Tunnel { tunnel, encapsulation: Encapsulation::Ipip } => into_ipip(tables, links, tunnel),
        FibEntry::Tunnel { tunnel, encapsulation: Encapsulation::None } => {
            let Underlay { ifindex, neighbor, mtu, .. } = tables.tunnels.get(tunnel)?.v4.as_ref()?.underlay?;
            by_neighbor(tables, links, Kind::Plain, (ifindex, neighbor, mtu))
        }
        FibEntry::Via { ifindex, next_hop: NextHop::Gateway { neighbor, .. }, mtu, .. } => {
            by_neighbor(tables, links, Kind::Outside, (ifindex, neighbor, mtu))
        }
        _ => None,
    }
}

fn leaving(kind: Kind, egress: Egress, mtu: u16) -> Exit {
    Exit { egress: Some(egress), kind, mtu, ..Exit::NOWHERE }
}

/// Writes an Ethernet header for IPv4 to the beginning of `bytes`.
fn write_link(bytes: &mut [u8], destination: MacAddr, source: MacAddr) -> Option<()> {
    ethernet::Repr { destination, source, ether_type: EtherType::IPV4 }.emit(bytes).ok()
}

/// An exit without a tunnel.
fn by_neighbor(
    tables: &Tables,
    links: &Links,
    kind: Kind,
    (ifindex, neighbor, mtu): (u32, NeighborIndex, u16),
) -> Option<Exit> {
    let (uplink, link) = links.uplink_on(ifindex)?;
    let mut exit = leaving(kind, Egress::Uplink(uplink), mtu);
    write_link(&mut exit.template, tables.neighbors.mac(neighbor)?, link.mac)?;
    Some(exit)
}

/// An exit with an IPv4 header in front of the packet.
fn into_ipv4(
    tables: &Tables,
    links: &Links,
    tunnel: TunnelIndex,
    kind: Kind,
    (protocol, overhead): (Protocol, u16),
) -> Option<Exit> {
    let far = tables.tunnels.get(tunnel)?.v4.as_ref()?;
    let Underlay { ifindex, neighbor, mtu, .. } = far.underlay?;
    let (uplink, link) = links.uplink_on(ifindex)?;
    let mut exit = leaving(kind, Egress::Uplink(uplink), mtu.saturating_sub(overhead));
    let ip = ipv4::Repr {
        payload_len: 0,
        ..tunnel::outer_v4_header(protocol, tables.node.config()?.address_v4?, far.node_address)
    };
    write_link(&mut exit.template, tables.neighbors.mac(neighbor)?, link.mac)?;
    let header = exit.template.get_mut(ethernet::HEADER_LEN..HEADERS)?;
    ip.emit(header).ok()?;
    // Both belong to the packet.
    header[ipv4::field::TOTAL_LEN].fill(0);
    header[ipv4::field::CHECKSUM].fill(0);
    exit.outer_sum = Sum::of(header);
    Some(exit)
}

fn into_vxlan(tables: &Tables, links: &Links, tunnel: TunnelIndex) -> Option<Exit> {
    let node = tables.node.config()?;
    let (here, there) = (node.vtep_v4?, tables.tunnels.get(tunnel)?.v4.as_ref()?.vtep?);
    let overhead = tunnel::VXLAN_OVERHEAD_V4;
    let mut exit = into_ipv4(tables, links, tunnel, Kind::Vxlan, (Protocol::UDP, overhead))?;
    let behind = exit.template.get_mut(HEADERS..)?;
    let (udp, behind) = behind.split_at_mut_checked(udp::HEADER_LEN)?;
    udp[udp::field::DESTINATION_PORT].copy_from_slice(&node.vxlan_port.to_be_bytes());
    let (vxlan, link) = behind.split_at_mut_checked(vxlan::HEADER_LEN)?;
    vxlan::Repr { vni: Vni::new(node.vni).ok()? }.emit(vxlan).ok()?;
    write_link(link, there.mac, here.mac)?;
    Some(exit)
}

fn into_ipip(tables: &Tables, links: &Links, tunnel: TunnelIndex) -> Option<Exit> {
    into_ipv4(tables, links, tunnel, Kind::Ipip, (Protocol::IPIP, ipv4::HEADER_LEN as u16))
}
