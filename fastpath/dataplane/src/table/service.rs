//! Services: who answers for an address and port that nobody has.
//!
//! ```text
//!   (address, protocol, port) ─hash─► bucket ─► Frontend ─► ServiceIndex ─► Service ─ policy ─► Backends ─Maglev─► Backend
//!   (node port, protocol) ────────────┘
//! ```
//!
//! Both arrays are pages shared with the former generation: a change of a service's backends copies one page of services,
//! a change of its frontends one bucket each. Choosing depends only on what the packet and the service say, with constants
//! that are the same everywhere: all nodes, and all workers, choose alike.

mod maglev;

use std::net::IpAddr;
use std::sync::Arc;

use super::paged::Paged;
use super::prefix::Prefix;
use crate::counters::Counter;
use crate::flow::key::{fold, words};

/// Names a service's port. Given once in a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceIndex(pub u32);

/// Who serves: an address and a port of the service's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
}

/// What a service is asked by. No address: a port of every address that this node has for such.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendKey {
    /// The address.
    pub address: Option<IpAddr>,
    /// IP protocol number.
    pub protocol: u8,
    /// The port.
    pub port: u16,
}

/// A way to ask a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frontend {
    /// What is asked.
    pub key: FrontendKey,
    /// Whose it is.
    pub service: ServiceIndex,
    /// A node port, an external or a load balancer's address.
    pub external: bool,
    /// Who may ask; none: anybody.
    pub sources: Arc<[Prefix]>,
}

impl Frontend {
    /// Whether `client` may ask.
    #[must_use]
    pub fn admits(&self, client: IpAddr) -> bool {
        self.sources.is_empty() || self.sources.iter().any(|prefix| prefix.contains(client))
    }
}

/// Who asks, as far as a service's policy makes a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// A pod or this host.
    Inside,
    /// Somebody outside of this node.
    Outside,
}

/// A port of a service, and who serves it.
#[derive(Debug, Clone)]
pub struct Service {
    /// "namespace/name:port".
    pub id: Arc<str>,
    /// IP protocol number.
    pub protocol: u8,
    /// Whom policy Cluster chooses from.
    pub cluster: Arc<Backends>,
    /// Whom policy Local chooses from.
    pub local: Arc<Backends>,
    /// No longer chosen; connections to them go on. Sorted.
    pub draining: Arc<[Backend]>,
    /// Internal frontends are served from `local`.
    pub internal_local: bool,
    /// External frontends are served from `local` where somebody outside asks.
    pub external_local: bool,
    /// How long a client keeps its backend without asking, milliseconds; 0: it does not.
    pub affinity_ms: u32,
    /// Addresses of internal frontends, by which the host is spoken to: this host routes them to us.
    pub internal_addresses: Arc<[IpAddr]>,
    /// What became of those who asked, by worker.
    pub counts: Arc<[ServiceCounters]>,
}

/// What a worker has made of a service's clients.
#[derive(Debug, Default)]
pub struct ServiceCounters {
    /// Connections that were translated.
    pub connections: Counter,
    /// First packets that were refused or dropped for want of a backend.
    pub refused: Counter,
}

impl Service {
    /// Whom to choose from, and whether only on this node.
    #[must_use]
    pub fn backends(&self, frontend: &Frontend, asker: Asker) -> (&Backends, bool) {
        let is_local = match (frontend.external, asker) {
            (true, Asker::Outside) => self.external_local,
            (true, Asker::Inside) => false,
            (false, _) => self.internal_local,
        };
        (if is_local { &self.local } else { &self.cluster }, is_local)
    }

    /// Whether connections to `backend` go on.
    #[must_use]
    pub fn keeps(&self, backend: &Backend) -> bool {
        self.cluster.contains(backend) || self.local.contains(backend) || self.draining.contains(backend)
    }

    /// An address of this family by which the host is spoken to.
    #[must_use]
    pub fn internal_address(&self, ipv4: bool) -> Option<IpAddr> {
        self.internal_addresses.iter().copied().find(|address| address.is_ipv4() == ipv4)
    }
}

/// Backends to choose from, each with about the same share of its family's clients.
#[derive(Debug, Clone, Default)]
pub struct Backends {
    v4: Choice,
    v6: Choice,
}

/// The backends of one family.
#[derive(Debug, Clone, Default)]
struct Choice {
    /// Sorted, each once.
    list: Box<[Backend]>,
    /// Places in the list; empty when there is no choice.
    table: Box<[u16]>,
}

/// Backends that a service can have: places of them are 16 bits.
pub const BACKENDS_MAX: usize = u16::MAX as usize;

impl Backends {
    /// Of these, of which there are at most [`BACKENDS_MAX`].
    #[must_use]
    pub fn new(mut list: Vec<Backend>) -> Backends {
        list.truncate(BACKENDS_MAX);
        list.sort_unstable();
        list.dedup();
        let (v4, v6) = list.into_iter().partition(|backend| backend.address.is_ipv4());
        Backends { v4: Choice::new(v4), v6: Choice::new(v6) }
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = &Backend> {
        self.v4.list.iter().chain(&self.v6.list)
    }

    /// Whether `backend` is one of them.
    #[must_use]
    pub fn contains(&self, backend: &Backend) -> bool {
        self.of(backend.address.is_ipv4()).list.binary_search(backend).is_ok()
    }

    /// The one that all clients of this family and hash get.
    #[inline]
    #[must_use]
    pub fn choose(&self, hash: u64, ipv4: bool) -> Option<Backend> {
        self.of(ipv4).choose(hash)
    }

    #[inline]
    fn of(&self, ipv4: bool) -> &Choice {
        if ipv4 { &self.v4 } else { &self.v6 }
    }

    /// Bytes that they take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        [&self.v4, &self.v6]
            .map(|choice| size_of_val(&*choice.list) + size_of_val(&*choice.table))
            .iter()
            .sum()
    }
}

impl Choice {
    fn new(list: Vec<Backend>) -> Choice {
        let table = maglev::table(&list);
        Choice { list: list.into(), table }
    }

    #[inline]
    fn choose(&self, hash: u64) -> Option<Backend> {
        let place = match self.table.len() as u64 {
            0 => 0,
            size => usize::from(*self.table.get((hash % size) as usize)?),
        };
        self.list.get(place).copied()
    }
}

const CLIENT_KEY: u64 = 0x6361_7261_6361_6c31;
const FRONTEND_KEY: u64 = 0x9e37_79b9_7f4a_7c15;

/// Hash of who asks for what. The port is left out where a client keeps its backend.
#[inline]
#[must_use]
pub fn client_hash(protocol: u8, client: (IpAddr, u16), frontend: (IpAddr, u16)) -> u64 {
    let (from, to) = (words(client.0), words(frontend.0));
    let ports = u64::from(client.1) << 32 | u64::from(frontend.1) << 8 | u64::from(protocol);
    let first = fold(from[0].rotate_left(17) ^ from[1] ^ CLIENT_KEY, ports ^ FRONTEND_KEY);
    fold(first ^ to[1], to[0].rotate_left(29) ^ ports ^ CLIENT_KEY)
}

/// Frontends are found in one of so many buckets: eight in each when there are 65,536.
pub(super) const BUCKETS: usize = 8192;
pub(super) const PAGE: usize = 64;

/// The bucket of a frontend.
#[inline]
pub(super) fn bucket(key: &FrontendKey) -> usize {
    let address = key.address.map_or([1, 1], words);
    let rest = u64::from(key.port) << 8 | u64::from(key.protocol);
    fold(address[0] ^ address[1].rotate_left(31) ^ CLIENT_KEY, rest ^ FRONTEND_KEY) as usize % BUCKETS
}

/// All services.
#[derive(Debug, Clone, Default)]
pub struct ServiceTable {
    pub(super) services: Paged<Option<Arc<Service>>, PAGE>,
    pub(super) frontends: Paged<Option<Arc<[Frontend]>>, PAGE>,
}

impl ServiceTable {
    /// The service of this index, unless it has gone.
    #[inline]
    #[must_use]
    pub fn get(&self, index: ServiceIndex) -> Option<&Service> {
        self.services.get(index.0 as usize)?.as_deref()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (ServiceIndex, &Service)> {
        let present = self.services.iter();
        present.filter_map(|(i, service)| Some((ServiceIndex(i as u32), service.as_deref()?)))
    }

    /// Every way to ask.
    pub fn frontends(&self) -> impl Iterator<Item = &Frontend> {
        self.frontends.iter().filter_map(|(_, bucket)| bucket.as_deref()).flatten()
    }

    /// Whether no frontend has changed since `other`.
    #[must_use]
    pub fn has_frontends_of(&self, other: &ServiceTable) -> bool {
        self.frontends.is_same(&other.frontends)
    }

    /// What answers to an address and port.
    #[inline]
    #[must_use]
    pub fn by_address(&self, address: IpAddr, protocol: u8, port: u16) -> Option<&Frontend> {
        self.find(FrontendKey { address: Some(address), protocol, port })
    }

    /// What answers to a port of this node. Whether the node is asked by an address that it has for that is the caller's
    /// to say.
    #[inline]
    #[must_use]
    pub fn by_node_port(&self, protocol: u8, port: u16) -> Option<&Frontend> {
        self.find(FrontendKey { address: None, protocol, port })
    }

    #[inline]
    fn find(&self, key: FrontendKey) -> Option<&Frontend> {
        let bucket = self.frontends.get(bucket(&key))?.as_deref()?;
        bucket.iter().find(|frontend| frontend.key == key)
    }
}

#[cfg(test)]
mod tests;
