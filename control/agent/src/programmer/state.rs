//! What the kernel must hold for this node, and the steps from what it holds to that. Pure.
//!
//! ```text
//!   host originates ──► rule 90: iif lo ──► table 4096:  10.244.1.0/24 dev caracal0 src 10.244.1.0
//!                                                        blackhole 10.244.1.0/24 metric 1
//!                                                        10.96.0.10 dev caracal0 src 192.0.2.11
//!   host forwards ────► main table:                      10.244.1.0/24 dev caracal1
//!                                                        blackhole 10.244.1.0/24 metric 1
//! ```
//!
//! The source of what the host originates is what the other end can answer to: towards VXLAN and IPIP this node's tunnel
//! address, towards what is not encapsulated and towards services the node's own address.
//!
//! The invariant: a packet to a pod leaves the kernel through a host port or not at all. The blackhole behind each route
//! takes over when the port is gone, so that no default route carries the packet away unjudged; and routes are added
//! before others are removed, so that there is no moment without one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use caracal_model::cidr::Cidr;

use super::inputs::{Inputs, Node};
use super::ports::PortSet;

/// The routing table of what this host originates.
pub const TABLE: u32 = 4096;
/// The kernel's main table.
pub const MAIN: u32 = 254;
/// The rule's priority: after the local table (0), before the main table (32766).
pub const RULE_PRIORITY: u32 = 90;
/// Where the kernel says which ports it gives to no socket by itself, under /proc/sys/net.
pub const RESERVED_PORTS: &str = "ipv4/ip_local_reserved_ports";
/// Marks routes as ours (`proto 80`).
pub const ROUTE_PROTOCOL: u8 = 80;

/// What of the kernel's state is ours. Observed and desired have the same shape.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelState {
    /// The host ports, by name.
    pub taps: BTreeMap<String, Tap>,
    /// Addresses on them.
    pub addresses: BTreeSet<(String, Cidr)>,
    /// Rules that lead to our table; a multiset, since the kernel may hold one twice.
    pub rules: Vec<Rule>,
    /// Routes with our mark.
    pub routes: BTreeSet<Route>,
    /// Files under /proc/sys/net and what they hold.
    pub sysctls: BTreeMap<String, String>,
    /// Ports that the kernel gives to no socket by itself; desired are ours, whatever else others have reserved.
    pub reserved_ports: PortSet,
}

/// What the desired state follows from beside the inputs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The MTU of the interfaces that packets leave by.
    pub mtu: u32,
    /// Of the node's addresses those that an interface holds. The kernel refuses a route with another source.
    pub held: BTreeSet<IpAddr>,
}

/// A host port: a tap device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tap {
    /// Its MTU.
    pub mtu: u32,
    /// Whether it is up.
    pub up: bool,
    /// Whether it asks for neighbours.
    pub arp: bool,
}

/// A rule for what comes in by `input`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Of IPv6, or of IPv4.
    pub ipv6: bool,
    /// Its priority.
    pub priority: u32,
    /// The device; `lo`: what this host originates.
    pub input: String,
    /// The table it leads to.
    pub table: u32,
    /// Whether it asks for more than that, which ours never does.
    pub narrower: bool,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Its table.
    pub table: u32,
    /// Where to.
    pub destination: Cidr,
    /// Lower wins.
    pub metric: u32,
    /// By what way.
    pub via: Via,
}

/// The way of a route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Via {
    /// Through a device.
    Device {
        /// Its name.
        name: String,
        /// The source address that the host takes for packets of its own.
        source: Option<IpAddr>,
    },
    /// To nowhere.
    Blackhole,
    /// Something that we never make; to be removed when it has our mark.
    Other(String),
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Make a persistent tap device.
    CreateTap(String),
    /// Set its MTU and flags.
    SetTap(String, Tap),
    /// Write a file under /proc/sys/net.
    SetSysctl(String, String),
    /// Let these, and no other ports, be given to no socket by the kernel itself.
    ReservePorts(PortSet),
    /// Give a device an address.
    AddAddress(String, Cidr),
    /// Add a route, before any other of its kind.
    AddRoute(Route),
    /// Add a rule.
    AddRule(Rule),
    /// Remove a rule.
    RemoveRule(Rule),
    /// Remove a route with our mark.
    RemoveRoute(Route),
    /// Take an address from a device.
    RemoveAddress(String, Cidr),
    /// Remove a tap device.
    RemoveTap(String),
}

impl KernelState {
    /// What the kernel must hold for `inputs`; nothing as long as the node is not known.
    #[must_use]
    pub fn desired(inputs: &Inputs, surroundings: &Surroundings) -> Self {
        let Some(node) = &inputs.node else { return Self::default() };
        let tap = Tap { mtu: inputs.mtu.of_pods(surroundings.mtu), up: true, arp: false };
        let ports = [&node.host_port, &node.forward_port];
        let routes = routes(inputs, node, surroundings);
        let families: BTreeSet<bool> = routes.iter().map(|route| !route.destination.is_ipv4()).collect();
        let rule = |ipv6| Rule {
            ipv6,
            priority: RULE_PRIORITY,
            input: "lo".to_owned(),
            table: TABLE,
            narrower: false,
        };
        let on_host_port = |address| (node.host_port.clone(), Cidr::host(address));
        Self {
            taps: ports.iter().map(|name| ((*name).clone(), tap.clone())).collect(),
            addresses: node.tunnel_addresses().map(on_host_port).collect(),
            rules: families.into_iter().map(rule).collect(),
            routes,
            sysctls: [(&node.host_port, false), (&node.forward_port, true)]
                .into_iter()
                .flat_map(|(port, forwards)| sysctls(port, forwards, node.address_of(false).is_some()))
                .collect(),
            reserved_ports: PortSet::from(&node.nat_ports),
        }
    }

    /// The steps from `self`, which was observed, to `desired`; none when they are the same.
    #[must_use]
    pub fn changes_to(&self, desired: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        let new_taps = desired.taps.keys().filter(|name| !self.taps.contains_key(*name));
        changes.extend(new_taps.cloned().map(Change::CreateTap));
        // Before it is up: an interface that comes up makes IPv6 addresses and asks for routers, unless told not to.
        let sysctls = desired.sysctls.iter().filter(|(path, value)| self.sysctls.get(*path) != Some(*value));
        changes.extend(sysctls.map(|(path, value)| Change::SetSysctl(path.clone(), value.clone())));
        let reserved = self.reserved_ports.with(&desired.reserved_ports);
        if reserved != self.reserved_ports {
            changes.push(Change::ReservePorts(reserved));
        }
        let taps = desired.taps.iter().filter(|(name, tap)| self.taps.get(*name) != Some(*tap));
        changes.extend(taps.map(|(name, tap)| Change::SetTap(name.clone(), tap.clone())));
        let (new, stale) = difference(&self.addresses, &desired.addresses);
        changes.extend(new.map(|(name, address)| Change::AddAddress(name.clone(), *address)));
        let (new_routes, stale_routes) = difference(&self.routes, &desired.routes);
        // Blackholes (a higher metric) first: what is cut off stays cut off until the way through a port is there.
        let mut new_routes: Vec<_> = new_routes.cloned().collect();
        new_routes.sort_by_key(|route| route.via != Via::Blackhole);
        changes.extend(new_routes.into_iter().map(Change::AddRoute));
        let mut stale_rules = self.rules.clone();
        for rule in &desired.rules {
            match stale_rules.iter().position(|observed| observed == rule) {
                Some(at) => drop(stale_rules.swap_remove(at)),
                None => changes.push(Change::AddRule(rule.clone())),
            }
        }
        changes.extend(stale_rules.into_iter().map(Change::RemoveRule));
        changes.extend(stale_routes.cloned().map(Change::RemoveRoute));
        changes.extend(stale.map(|(name, address)| Change::RemoveAddress(name.clone(), *address)));
        let gone = self.taps.keys().filter(|name| !desired.taps.contains_key(*name));
        changes.extend(gone.cloned().map(Change::RemoveTap));
        changes
    }
}

/// The routes to pods, with blackholes behind them, and to services.
fn routes(inputs: &Inputs, node: &Node, surroundings: &Surroundings) -> BTreeSet<Route> {
    let by = |name: &String, source| Via::Device { name: name.clone(), source };
    // The kernel turns an IPv6 metric of 0 into 1024.
    let metric = |destination: &Cidr| u32::from(!destination.is_ipv4());
    let own = |ipv4| node.address_of(ipv4).filter(|address| surroundings.held.contains(address));
    let mut routes = BTreeSet::new();
    for (destination, way) in inputs.destinations() {
        let ipv4 = destination.is_ipv4();
        let source = node.tunnel_source(way, ipv4).or_else(|| own(ipv4));
        for (table, via) in [(TABLE, by(&node.host_port, source)), (MAIN, by(&node.forward_port, None))] {
            let metric = metric(&destination);
            routes.insert(Route { table, destination, metric, via });
            routes.insert(Route { table, destination, metric: metric + 1, via: Via::Blackhole });
        }
    }
    let services = inputs.service_addresses().into_iter().map(|address| {
        let destination = Cidr::host(address);
        let via = by(&node.host_port, own(address.is_ipv4()));
        Route { table: TABLE, destination, metric: metric(&destination), via }
    });
    // Where one is a pod's, too, the pod's stays.
    let pods: BTreeSet<Cidr> = routes.iter().map(|route| route.destination).collect();
    routes.extend(services.filter(|route| !pods.contains(&route.destination)));
    routes
}

/// What is only in `desired`, and what is only in `observed`.
fn difference<'a, T: Ord>(
    observed: &'a BTreeSet<T>,
    desired: &'a BTreeSet<T>,
) -> (impl Iterator<Item = &'a T>, impl Iterator<Item = &'a T>) {
    (desired.difference(observed), observed.difference(desired))
}

/// What a host port needs, as paths under /proc/sys/net. Answers to what the host forwarded come in by the forward port
/// and go on; what comes in by the host port is for the host itself, and goes no further. Sources are pods, to which the
/// way back may be another port's route: reverse-path filtering is loose.
fn sysctls(port: &str, forwards: bool, ipv6: bool) -> BTreeMap<String, String> {
    let of_both = [
        (format!("ipv4/conf/{port}/rp_filter"), "2"),
        (format!("ipv4/conf/{port}/forwarding"), if forwards { "1" } else { "0" }),
        (format!("ipv6/conf/{port}/accept_ra"), "0"),
        (format!("ipv6/conf/{port}/addr_gen_mode"), "1"),
    ];
    // Where new devices are made without IPv6, and the node has it.
    let with_ipv6 = ipv6.then(|| (format!("ipv6/conf/{port}/disable_ipv6"), "0"));
    of_both.into_iter().chain(with_ipv6).map(|(path, value)| (path, value.to_owned())).collect()
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, destination, metric, via } = self;
        write!(f, "route {destination} {via} metric {metric} in table {table}")
    }
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device { name, source: Some(source) } => write!(f, "dev {name} src {source}"),
            Self::Device { name, source: None } => write!(f, "dev {name}"),
            Self::Blackhole => f.write_str("blackhole"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ipv6, priority, input, table, .. } = self;
        write!(f, "IPv{} rule {priority}: iif {input} lookup {table}", if *ipv6 { 6 } else { 4 })
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateTap(name) => write!(f, "make the tap device {name}"),
            Self::SetTap(name, tap) => write!(f, "set {name} up with MTU {} and without ARP", tap.mtu),
            Self::ReservePorts(ports) => {
                write!(f, "write \"{ports}\" to /proc/sys/net/{RESERVED_PORTS}")
            }
            Self::SetSysctl(path, value) => write!(f, "write {value} to /proc/sys/net/{path}"),
            Self::AddAddress(name, address) => write!(f, "give {name} the address {address}"),
            Self::AddRoute(route) => write!(f, "add {route}"),
            Self::AddRule(rule) => write!(f, "add {rule}"),
            Self::RemoveRule(rule) => write!(f, "remove {rule}"),
            Self::RemoveRoute(route) => write!(f, "remove {route}"),
            Self::RemoveAddress(name, address) => write!(f, "take the address {address} from {name}"),
            Self::RemoveTap(name) => write!(f, "remove the tap device {name}"),
        }
    }
}

#[cfg(test)]
mod tests;
