//! The thread that is not the packet path: it builds tables from what the control plane and the kernel say, publishes
//! them, brings ports in line, and answers who asks.
//!
//! ```text
//!   plane socket ──┐                   ┌─► TableBuilder ─► Publisher ─► workers
//!   kernel watch ──┼─► Event queue ────┤                       └─ adopted by all ─► Ack
//!   signals ───────┘                   └─► Ports (sockets, programs, taps)
//! ```
//!
//! Everything that has piled up in the queue is applied before tables are built once: a burst of transactions costs one
//! publication, and each is acknowledged when the last worker has adopted it.

pub mod captures;
pub mod mirror;
pub mod ports;
pub mod report;
pub mod server;
mod translations;
pub mod uplinks;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use caracal_plane_api::{Read, Transaction};
use tracing::{debug, info, warn};

use self::mirror::{KernelLink, Mirror, MirrorError};
use self::ports::{Plan, Ports};
use self::server::{Client, Event};
use crate::policy_log::PolicyLog;
use crate::probe::tuning::Tuning;
use crate::table::{HostInterface, KernelRoute, TableBuilder, Tables};

/// How often acknowledgements that wait for workers are looked after.
const ADOPTION_POLL: Duration = Duration::from_micros(200);
/// How soon a port that could not be made is tried again.
const PORT_RETRY: Duration = Duration::from_millis(50);
/// How long changes of the kernel are gathered before they are read.
const KERNEL_SETTLE: Duration = Duration::from_millis(2);
/// The longest wait for anything: what is to be logged does not wait longer either.
const WAIT_MAX: Duration = Duration::from_millis(200);

/// The controller's state.
pub struct Controller {
    builder: TableBuilder,
    publisher: crate::snapshot::Publisher<Tables>,
    ports: Ports,
    mirror: Mirror,
    links: Vec<KernelLink>,
    addresses: Vec<(u32, IpAddr)>,
    /// Devices by which a default route leads.
    default_routes: BTreeSet<u32>,
    captures: captures::Captures,
    managed: BTreeSet<(u32, IpAddr)>,
    known_neighbors: BTreeMap<(u32, IpAddr), Option<caracal_wire::MacAddr>>,
    events: Receiver<Event>,
    client: Option<Arc<Client>>,
    /// Acknowledgements that wait until all workers have adopted a publication.
    pending: VecDeque<(u64, Arc<Client>, u64)>,
    publications: Publications,
    tables_changed: bool,
    kernel_changed_at: Option<Instant>,
    retry_at: Option<Instant>,
    looked_at: Instant,
    log: PolicyLog,
    /// Readers' requests that are being answered elsewhere are none of our state.
    identity: report::Identity,
}

impl Controller {
    /// A controller over a builder and ports that have been set up. Reads the kernel's state first.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn new(
        builder: TableBuilder,
        publisher: crate::snapshot::Publisher<Tables>,
        ports: Ports,
        mirror: Mirror,
        events: Receiver<Event>,
        log: PolicyLog,
        identity: report::Identity,
    ) -> Result<Self, MirrorError> {
        let mut controller = Controller {
            builder,
            publisher,
            ports,
            mirror,
            links: Vec::new(),
            addresses: Vec::new(),
            default_routes: BTreeSet::new(),
            captures: captures::Captures::default(),
            managed: BTreeSet::new(),
            known_neighbors: BTreeMap::new(),
            events,
            client: None,
            pending: VecDeque::new(),
            publications: Publications::default(),
            tables_changed: true,
            kernel_changed_at: None,
            retry_at: None,
            looked_at: Instant::now(),
            log,
            identity,
        };
        controller.read_kernel()?;
        controller.settle();
        Ok(controller)
    }

    /// Works until asked to stop. What is returned puts uplinks back as they were, when it is dropped: once the workers have ended.
    #[must_use]
    pub fn run(mut self) -> Vec<Tuning> {
        loop {
            match self.events.recv_timeout(self.wait()) {
                Ok(event) => {
                    if !self.handle(event) {
                        break;
                    }
                    // Whatever else has come goes into the same tables.
                    while let Ok(event) = self.events.try_recv() {
                        if !self.handle(event) {
                            return self.stop();
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.settle();
        }
        self.stop()
    }

    fn stop(self) -> Vec<Tuning> {
        info!("stopping: pods are cut off until a fastpath reads their ports again");
        for worker in self.ports.workers() {
            worker.tell(crate::worker::thread::Command::Stop);
        }
        self.ports.end()
    }

    fn wait(&self) -> Duration {
        let now = Instant::now();
        let until = |at: Option<Instant>| at.map(|at| at.saturating_duration_since(now));
        let adoption = (!self.pending.is_empty() || self.publisher.kept() > 1).then_some(ADOPTION_POLL);
        let kernel = until(self.kernel_changed_at.map(|at| at + KERNEL_SETTLE));
        let waits = [adoption, kernel, until(self.retry_at)];
        waits.into_iter().flatten().min().unwrap_or(WAIT_MAX).min(WAIT_MAX)
    }

    /// False: stop.
    fn handle(&mut self, event: Event) -> bool {
        match event {
            Event::Controller(client) => self.take_controller(client),
            Event::Transaction(client, transaction) => self.apply(&client, &transaction),
            Event::Read(client, Read { what }) => self.answer(client, what),
            Event::Closed(id) => {
                if self.client.as_ref().is_some_and(|client| client.id == id) {
                    info!("the control plane is gone; forwarding goes on with the tables there are");
                    self.client = None;
                }
                self.pending.retain(|(_, client, _)| client.id != id);
            }
            Event::Kernel => {
                self.kernel_changed_at.get_or_insert_with(Instant::now);
            }
            Event::UnknownNeighbor(ifindex, address) => {
                if !self.known_neighbors.contains_key(&(ifindex, address)) {
                    self.manage(ifindex, address);
                }
            }
            Event::Stop => return false,
        }
        true
    }

    fn take_controller(&mut self, client: Arc<Client>) {
        if let Some(old) = self.client.take() {
            warn!(old = old.name, new = client.name, "a newer control plane takes over");
            self.pending.retain(|(_, waiting, _)| waiting.id != old.id);
            old.refuse(0, format!("a newer controller, {}, has taken over", client.name));
            old.close();
        } else {
            info!(client = client.name, "the control plane is here");
        }
        self.builder.begin_resync();
        self.client = Some(client);
    }

    fn apply(&mut self, client: &Arc<Client>, transaction: &Transaction) {
        if self.client.as_ref().is_none_or(|current| current.id != client.id) {
            return client.refuse(transaction.seq, "a newer controller has taken over".into());
        }
        let was_in_sync = self.builder.in_sync();
        match self.builder.apply(transaction) {
            Ok(()) => {
                // A controller that says nothing only asks whether anybody is here.
                self.tables_changed |= !transaction.ops.is_empty() || was_in_sync != self.builder.in_sync();
                // Acknowledged with the publication that this loop is going to make, if it makes one.
                let needed = self.publisher.newest() + u64::from(self.tables_changed);
                self.pending.push_back((needed, Arc::clone(client), transaction.seq));
                debug!(seq = transaction.seq, ops = transaction.ops.len(), "transaction applied");
            }
            Err(error) => {
                warn!(seq = transaction.seq, "transaction refused: {error}");
                client.refuse(transaction.seq, error.to_string());
            }
        }
    }

    /// Makes what has changed take effect.
    fn settle(&mut self) {
        let now = Instant::now();
        if self.kernel_changed_at.is_some_and(|at| now >= at + KERNEL_SETTLE) {
            self.kernel_changed_at = None;
            if let Err(error) = self.read_kernel() {
                warn!("{error}; trying again");
                self.kernel_changed_at = Some(now);
            }
            self.retry_at = Some(now);
        }
        let ports_due = self.retry_at.is_some_and(|at| now >= at);
        if self.tables_changed {
            self.tables_changed = false;
            self.publish();
            self.follow_ports();
        } else if ports_due {
            self.follow_ports();
        }
        if now >= self.looked_at + ports::LOOK {
            self.looked_at = now;
            self.ports.look_at_traffic(&self.links);
        }
        self.acknowledge();
        let builder = &self.builder;
        let now = self.identity.clock.now();
        self.log.drain(self.publisher.latest(), now, |rule| builder.rule_name(rule), |line| line.write());
    }

    fn publish(&mut self) {
        let begun = Instant::now();
        let number = self.publisher.publish(self.builder.build());
        self.publications.published(number, begun, Instant::now());
        for worker in self.ports.workers() {
            worker.doorbell.ring();
        }
        self.manage_neighbors();
    }

    fn follow_ports(&mut self) {
        let tables = self.publisher.latest();
        let node = tables.node.config();
        let to_nodes = tables.tunnels.iter().flat_map(|(_, tunnel)| tunnel.underlays());
        let routed = self.default_routes.iter().copied().chain(to_nodes.map(|way| way.ifindex)).collect();
        let facts = captures::Facts {
            node: node.cloned(),
            pods: self.builder.captures(),
            host: self.host_addresses(),
            services: tables.services.clone(),
        };
        let plan = Plan {
            node,
            endpoints: self.builder.endpoints().map(|(index, e)| (index, Arc::clone(e))).collect(),
            captures: self.captures.follow(facts),
            links: &self.links,
            addresses: &self.addresses,
            routed,
        };
        self.ports.follow(&plan);
        self.retry_at = self.ports.is_incomplete().then(|| Instant::now() + PORT_RETRY);
    }

    fn acknowledge(&mut self) {
        let adopted = self.publisher.reclaim();
        self.publications.adopted(adopted, Instant::now());
        while let Some((needed, client, seq)) = self.pending.front() {
            if *needed > adopted {
                break;
            }
            client.ack(*seq);
            self.pending.pop_front();
        }
    }

    // --- the kernel ---

    fn read_kernel(&mut self) -> Result<(), MirrorError> {
        self.links = self.mirror.links()?;
        self.addresses = self.mirror.addresses()?;
        let tables = self.publisher.latest();
        let node = tables.node.config();
        let own = |name: &str| node.is_some_and(|n| *n.host_port == *name || *n.forward_port == *name);
        // Routes by our own ports lead back here, and pods' are the control plane's to say.
        let mtu_of: BTreeMap<u32, u16> = self
            .links
            .iter()
            .filter(|link| !own(&link.name) && link.name != "lo" && link.up)
            .map(|link| (link.index, link.mtu))
            .collect();
        let mut best: BTreeMap<crate::table::Prefix, (u32, KernelRoute)> = BTreeMap::new();
        self.default_routes.clear();
        for route in self.mirror.routes()? {
            let Some(mtu) = mtu_of.get(&route.ifindex) else { continue };
            if route.prefix.length() == 0 {
                self.default_routes.insert(route.ifindex);
            }
            let kernel = KernelRoute {
                prefix: route.prefix,
                ifindex: route.ifindex,
                gateway: route.gateway,
                mtu: route.mtu.unwrap_or(*mtu).min(*mtu),
                source: route.source.or_else(|| self.address_on(route.ifindex, route.prefix)),
            };
            let entry = best.entry(route.prefix).or_insert((route.metric, kernel));
            if route.metric < entry.0 {
                *entry = (route.metric, kernel);
            }
        }
        let routes: Vec<KernelRoute> = best.into_values().map(|(_, route)| route).collect();
        self.builder.kernel_routes(&routes);
        let addresses = self.host_addresses();
        self.builder.local_addresses(&addresses);
        let held =
            |index| self.addresses.iter().filter(move |(of, _)| *of == index).map(|(_, address)| *address);
        let interfaces = self.links.iter().map(|link| HostInterface {
            ifindex: link.index,
            name: link.name.clone(),
            addresses: held(link.index).collect(),
        });
        self.builder.host_interfaces(interfaces.collect());
        self.read_neighbors()?;
        self.tables_changed = true;
        Ok(())
    }

    /// The interface's first address of a route's family: what the host takes where the route does not say.
    fn address_on(&self, ifindex: u32, route: crate::table::Prefix) -> Option<IpAddr> {
        let is_fit = |address: &IpAddr| {
            address.is_ipv4() == route.address().is_ipv4()
                && !address.is_loopback()
                && !is_link_local(*address)
        };
        self.addresses.iter().filter(|(of, _)| *of == ifindex).map(|(_, address)| *address).find(is_fit)
    }

    /// The addresses by which others know this host.
    fn host_addresses(&self) -> Vec<IpAddr> {
        let addresses = self.addresses.iter().map(|(_, address)| *address);
        addresses.filter(|address| !address.is_loopback() && !is_link_local(*address)).collect()
    }

    fn read_neighbors(&mut self) -> Result<(), MirrorError> {
        let mut seen = BTreeMap::new();
        for neighbor in self.mirror.neighbors()? {
            seen.insert((neighbor.ifindex, neighbor.address), neighbor.mac);
        }
        for (key, mac) in &seen {
            if self.known_neighbors.get(key) != Some(mac) {
                self.builder.set_neighbor(key.0, key.1, *mac);
            }
        }
        for key in self.known_neighbors.keys().filter(|key| !seen.contains_key(*key)) {
            self.builder.set_neighbor(key.0, key.1, None);
            // The kernel has forgotten it; if it is still wanted it must be asked again.
            self.managed.remove(key);
        }
        self.known_neighbors = seen;
        Ok(())
    }

    /// Has the kernel resolve every next hop that the tables name, and keep it fresh.
    fn manage_neighbors(&mut self) {
        for (ifindex, address) in self.builder.wanted_neighbors() {
            if self.managed.contains(&(ifindex, address)) {
                continue;
            }
            if self.manage(ifindex, address) {
                self.managed.insert((ifindex, address));
            }
        }
    }

    fn manage(&mut self, ifindex: u32, address: IpAddr) -> bool {
        let managed = self.mirror.manage(ifindex, address);
        if let Err(error) = &managed {
            debug!(%address, "{error}");
        }
        managed.is_ok()
    }
}

/// How many tables have been published, and how long that took.
#[derive(Default)]
struct Publications {
    count: u64,
    /// To build them.
    build_micros: u64,
    /// From there until the last worker had them, or newer ones.
    adoption_micros: u64,
    /// Those that workers do not have yet, oldest first.
    under_way: VecDeque<(u64, Instant)>,
}

impl Publications {
    fn published(&mut self, number: u64, begun: Instant, now: Instant) {
        self.count += 1;
        self.build_micros += micros(now.saturating_duration_since(begun));
        self.under_way.push_back((number, now));
    }

    fn adopted(&mut self, adopted: u64, now: Instant) {
        while let Some((_, since)) = self.under_way.pop_front_if(|(number, _)| *number <= adopted) {
            self.adoption_micros += micros(now.saturating_duration_since(since));
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Every link has such addresses, and they say nothing about this host.
fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}
