//! The kernel of this network namespace, over rtnetlink and /proc/sys.
//!
//! Only what is ours is touched: the host ports by name (and only if they are tap devices), routes with our protocol
//! number in our two tables, rules that lead to our table.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use caracal_model::cidr::Cidr;
use futures::{StreamExt, TryStreamExt};
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{Handle, IpVersion, LinkUnspec};

use super::inputs::Inputs;
use super::ports::PortSet;
use super::state::{
    Change, KernelState, MAIN, RESERVED_PORTS, ROUTE_PROTOCOL, Route, Rule, Surroundings, TABLE, Tap, Via,
};

/// The kernel's settings for networks. A container that is not privileged may only read them; the host's, mounted there as
/// `deploy/` does, it may write: they are those of the network namespace of who opens them.
static SYSCTLS: LazyLock<&'static Path> = LazyLock::new(|| {
    let mounted = Path::new("/host/proc/sys/net");
    if mounted.exists() { mounted } else { Path::new("/proc/sys/net") }
});
/// Where the kernel says from which ports it gives sockets theirs, under [`SYSCTLS`].
const LOCAL_PORTS: &str = "ipv4/ip_local_port_range";

/// The MTU of the uplinks, when there is no telling.
const UPLINK_MTU: u32 = 1460;

const ENODEV: i32 = 19;
const EEXIST: i32 = 17;
const ESRCH: i32 = 3;
const EAFNOSUPPORT: i32 = 97;
const EOPNOTSUPP: i32 = 95;
const EADDRNOTAVAIL: i32 = 99;

/// What could not be observed or changed, and why.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing}: {error}")]
pub struct KernelError {
    doing: String,
    error: io::Error,
}

impl KernelError {
    fn new(doing: impl Into<String>, error: io::Error) -> Self {
        Self { doing: doing.into(), error }
    }

    pub(super) fn no_uplink(address: IpAddr) -> Self {
        let why = "no interface here holds it (is it the Node's InternalIP?)";
        Self::new(format!("find the uplink, which has the node's address {address}"), io::Error::other(why))
    }

    pub(super) fn no_ports_left(ports: &PortSet, local: &RangeInclusive<u16>) -> Self {
        let (first, last) = (local.start(), local.end());
        let why = format!(
            "of {first}-{last}, which this host's own connections begin from (net.ipv4.ip_local_port_range), next to none would be \
             left; set natPortRange of FelixConfiguration to other ports"
        );
        Self::new(format!("reserve ports {ports} for translation"), io::Error::other(why))
    }

    pub(super) fn bad_pattern(pattern: &str, error: &regex::Error) -> Self {
        // What follows in the message is a drawing of where the mistake is.
        let text = error.to_string();
        let why = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        let why = format!("{why}; taking the interfaces that hold the node's addresses alone");
        Self::new(format!("read mtuIfacePattern {pattern:?} of FelixConfiguration"), io::Error::other(why))
    }
}

/// A connection to the kernel, for the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Kernel {
    netlink: Handle,
    connection: tokio::task::JoinHandle<()>,
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Kernel {
    /// Opens it.
    ///
    /// # Errors
    /// The kernel has no netlink socket for us.
    pub fn open() -> Result<Self, KernelError> {
        // Strict checking lets the kernel filter route dumps: a node may hold a full BGP table that is not ours.
        let (connection, netlink, _) = rtnetlink::new_connection_with_strict_check()
            .map_err(|e| KernelError::new("open a netlink socket", e))?;
        Ok(Self { netlink, connection: tokio::spawn(connection) })
    }

    /// What it holds of ours, when the host ports are called `ports`; and of the files that `sysctls` names.
    ///
    /// # Errors
    /// It would not say, or a device that is no tap has the name of a host port.
    pub async fn observe<'a>(
        &self,
        ports: &[String],
        sysctls: impl Iterator<Item = &'a String>,
    ) -> Result<KernelState, KernelError> {
        let mut state = KernelState::default();
        let mut names = BTreeMap::new();
        for name in ports {
            let Some(link) = self.link(name).await? else { continue };
            if !is_tap(&link) {
                let why = "a device of that name exists and is no tap device; rename or remove it";
                return Err(KernelError::new(format!("use {name} as a host port"), io::Error::other(why)));
            }
            names.insert(link.header.index, name.clone());
            let flags = link.header.flags;
            let tap = Tap {
                mtu: mtu(&link).unwrap_or(0),
                up: flags.contains(LinkFlags::Up),
                arp: !flags.contains(LinkFlags::Noarp),
            };
            state.taps.insert(name.clone(), tap);
        }
        for address in self.addresses().await? {
            // Link-local addresses are the kernel's own.
            if let (Some(name), Some(cidr)) = (names.get(&address.header.index), address_of(&address))
                && !is_link_local(cidr.address())
            {
                state.addresses.insert((name.clone(), cidr));
            }
        }
        for ipv6 in [false, true] {
            state.rules.extend(self.rules(ipv6).await?.iter().filter_map(|rule| our_rule(rule, ipv6)));
            state.routes.extend(self.routes(ipv6).await?.iter().filter_map(|route| our_route(route, &names)));
        }
        for path in sysctls {
            if let Ok(value) = std::fs::read_to_string(sysctl_path(path)) {
                state.sysctls.insert(path.clone(), value.trim().to_owned());
            }
        }
        let reserved = std::fs::read_to_string(sysctl_path(RESERVED_PORTS)).unwrap_or_default();
        state.reserved_ports = PortSet::parse(&reserved);
        Ok(state)
    }

    /// What is around: the interfaces that packets leave by, which are those that are up and whose names match
    /// `mtuIfacePattern`, and those that hold the node's addresses. Errors beside are what of the inputs does not fit.
    ///
    /// # Errors
    /// It would not say.
    pub async fn surroundings(
        &self,
        inputs: &Inputs,
    ) -> Result<(Surroundings, Vec<KernelError>), KernelError> {
        let mut misfits = Vec::new();
        let pattern = &inputs.mtu.interfaces;
        let is_uplink = match regex::Regex::new(pattern) {
            // No pattern matches none, unlike an empty one.
            Ok(pattern) if !pattern.as_str().is_empty() => Some(pattern),
            Ok(_) => None,
            Err(error) => {
                misfits.push(KernelError::bad_pattern(pattern, &error));
                None
            }
        };
        let mut held = BTreeMap::new();
        let own = inputs.node.as_ref().map(|node| node.addresses.as_slice()).unwrap_or_default();
        for message in self.addresses().await? {
            if let Some(address) = local_address(&message).filter(|address| own.contains(address)) {
                held.insert(address, message.header.index);
            }
        }
        let missing = own.iter().filter(|address| !held.contains_key(*address));
        misfits.extend(missing.map(|address| KernelError::no_uplink(*address)));
        let links: Vec<LinkMessage> = self
            .netlink
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|e| failed("read the interfaces", e))?;
        let is_uplink = |link: &&LinkMessage| {
            let flags = link.header.flags;
            // A node's address may be on the loopback interface, which nothing leaves by.
            if flags.contains(LinkFlags::Loopback) {
                return false;
            }
            let matches =
                || is_uplink.as_ref().zip(name(link)).is_some_and(|(pattern, name)| pattern.is_match(name));
            held.values().any(|index| *index == link.header.index)
                || flags.contains(LinkFlags::Up) && matches()
        };
        let smallest = links.iter().filter(is_uplink).filter_map(mtu).min();
        Ok((Surroundings { mtu: smallest.unwrap_or(UPLINK_MTU), held: held.into_keys().collect() }, misfits))
    }

    /// Makes one change. What is already so is no error.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn make(&self, change: &Change) -> Result<(), KernelError> {
        let done = match change {
            Change::CreateTap(name) => create_tap(name),
            Change::SetTap(name, tap) => self.set_tap(name, tap).await,
            Change::SetSysctl(path, value) => std::fs::write(sysctl_path(path), value),
            // The file takes a whole line; an empty set is an empty line.
            Change::ReservePorts(ports) => std::fs::write(sysctl_path(RESERVED_PORTS), format!("{ports}\n")),
            Change::AddAddress(name, address) => self.add_address(name, *address).await,
            Change::AddRoute(route) => self.add_route(route).await,
            Change::AddRule(rule) => self.add_rule(rule).await,
            Change::RemoveRule(rule) => self.remove_rule(rule).await,
            Change::RemoveRoute(route) => self.remove_route(route).await,
            Change::RemoveAddress(name, address) => self.remove_address(name, *address).await,
            Change::RemoveTap(name) => self.remove_tap(name).await,
        };
        done.map_err(|e| KernelError::new(change.to_string(), e))
    }

    // ---- reading ----

    async fn link(&self, name: &str) -> Result<Option<LinkMessage>, KernelError> {
        let mut links = self.netlink.link().get().match_name(name).execute().boxed();
        match links.try_next().await.map_err(to_io) {
            Ok(link) => Ok(link),
            Err(e) if e.raw_os_error() == Some(ENODEV) => Ok(None),
            Err(e) => Err(KernelError::new(format!("read interface {name}"), e)),
        }
    }

    async fn addresses(&self) -> Result<Vec<AddressMessage>, KernelError> {
        let dump = self.netlink.address().get().execute();
        dump.try_collect().await.map_err(|e| failed("read the interfaces' addresses", e))
    }

    async fn rules(&self, ipv6: bool) -> Result<Vec<RuleMessage>, KernelError> {
        let version = if ipv6 { IpVersion::V6 } else { IpVersion::V4 };
        let dump = self.netlink.rule().get(version).execute().try_collect().await;
        unless_absent(dump, ipv6).map_err(|e| KernelError::new("read the routing rules", e))
    }

    async fn routes(&self, ipv6: bool) -> Result<Vec<RouteMessage>, KernelError> {
        let mut filter = RouteMessage::default();
        filter.header.address_family = if ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        filter.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
        let dump = self.netlink.route().get(filter).execute().try_collect().await;
        unless_absent(dump, ipv6).map_err(|e| KernelError::new("read the routes", e))
    }

    async fn index(&self, name: &str) -> io::Result<u32> {
        let mut links = self.netlink.link().get().match_name(name).execute().boxed();
        let link = links.try_next().await.map_err(to_io)?;
        link.map(|link| link.header.index).ok_or_else(|| io::Error::from_raw_os_error(ENODEV))
    }

    // ---- changing ----

    async fn set_tap(&self, name: &str, tap: &Tap) -> io::Result<()> {
        let link = LinkUnspec::new_with_name(name).mtu(tap.mtu).arp(tap.arp);
        let link = if tap.up { link.up() } else { link.down() };
        self.netlink.link().set(link.build()).execute().await.map_err(to_io)
    }

    async fn remove_tap(&self, name: &str) -> io::Result<()> {
        let index = self.index(name).await?;
        self.netlink.link().del(index).execute().await.map_err(to_io)
    }

    async fn add_address(&self, name: &str, address: Cidr) -> io::Result<()> {
        let index = self.index(name).await?;
        let mut add = self.netlink.address().add(index, address.address(), address.length());
        // An IPv6 address that is still asked about is no source of a route yet; and there is nobody to ask.
        add.message_mut().header.flags = AddressHeaderFlags::Nodad;
        unless(EEXIST, add.execute().await)
    }

    async fn remove_address(&self, name: &str, address: Cidr) -> io::Result<()> {
        let index = self.index(name).await?;
        let message =
            self.netlink.address().add(index, address.address(), address.length()).message_mut().clone();
        unless(EADDRNOTAVAIL, self.netlink.address().del(message).execute().await)
    }

    async fn add_route(&self, route: &Route) -> io::Result<()> {
        let message = self.route_message(route).await?;
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewRoute(message));
        // Neither EXCL nor REPLACE: where somebody else has a route of the same destination and metric, ours comes
        // before it, and theirs stays.
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
        let mut answers = self.netlink.clone().request(request).map_err(to_io)?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload
                && error.raw_code() != -EEXIST
            {
                return Err(error.to_io());
            }
        }
        Ok(())
    }

    async fn remove_route(&self, route: &Route) -> io::Result<()> {
        let mut message = self.route_message(route).await?;
        // Any scope.
        message.header.scope = RouteScope::NoWhere;
        if let Via::Other(_) = route.via {
            message.header.kind = RouteType::Unspec;
        }
        unless(ESRCH, self.netlink.route().del(message).execute().await)
    }

    async fn route_message(&self, route: &Route) -> io::Result<RouteMessage> {
        let mut message = RouteMessage::default();
        let destination = route.destination.address();
        message.header.address_family =
            if destination.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.destination_prefix_length = route.destination.length();
        message.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
        message.header.kind = RouteType::Unicast;
        message.header.scope = RouteScope::Universe;
        message.attributes.push(RouteAttribute::Destination(route_address(destination)));
        message.attributes.push(RouteAttribute::Table(route.table));
        message.attributes.push(RouteAttribute::Priority(route.metric));
        match &route.via {
            Via::Device { name, source } => {
                message.header.scope = RouteScope::Link;
                message.attributes.push(RouteAttribute::Oif(self.index(name).await?));
                if let Some(source) = source {
                    message.attributes.push(RouteAttribute::PrefSource(route_address(*source)));
                }
            }
            Via::Blackhole => message.header.kind = RouteType::BlackHole,
            Via::Other(_) => {}
        }
        Ok(message)
    }

    async fn add_rule(&self, rule: &Rule) -> io::Result<()> {
        let mut add = self.netlink.rule().add();
        *add.message_mut() = rule_message(rule);
        unless(EEXIST, add.execute().await)
    }

    async fn remove_rule(&self, rule: &Rule) -> io::Result<()> {
        self.netlink.rule().del(rule_message(rule)).execute().await.map_err(to_io)
    }
}

/// Which sysctls exist in this kernel: one without IPv6 has none of IPv6's.
pub fn sysctl_exists(path: &str) -> bool {
    !path.starts_with("ipv6/") || SYSCTLS.join("ipv6").exists()
}

/// The ports that the kernel gives to sockets that ask for none by number.
pub fn local_ports() -> Option<RangeInclusive<u16>> {
    let text = std::fs::read_to_string(sysctl_path(LOCAL_PORTS)).ok()?;
    let (first, last) = text.trim().split_once(char::is_whitespace)?;
    Some(first.parse().ok()?..=last.trim().parse().ok()?)
}

fn sysctl_path(path: &str) -> PathBuf {
    SYSCTLS.join(path)
}

fn is_tap(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|a| {
        matches!(a, LinkAttribute::LinkInfo(info)
            if info.iter().any(|i| matches!(i, LinkInfo::Kind(InfoKind::Tun))))
    })
}

fn name(link: &LinkMessage) -> Option<&str> {
    link.attributes
        .iter()
        .find_map(|a| if let LinkAttribute::IfName(name) = a { Some(name.as_str()) } else { None })
}

fn mtu(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|a| if let LinkAttribute::Mtu(mtu) = a { Some(*mtu) } else { None })
}

/// The interface's own address: on a point-to-point link `Address` is the other end's.
fn local_address(address: &AddressMessage) -> Option<IpAddr> {
    let local = address.attributes.iter().find_map(|a| match a {
        AddressAttribute::Local(local) => Some(*local),
        _ => None,
    });
    local.or_else(|| {
        address.attributes.iter().find_map(|a| match a {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

fn address_of(address: &AddressMessage) -> Option<Cidr> {
    // The kernel's prefix, but the whole address: ours are all /32 or /128, and another is to be removed as it is.
    let local = local_address(address)?;
    let host = Cidr::host(local);
    if address.header.prefix_len == host.length() {
        Some(host)
    } else {
        Cidr::new(local, address.header.prefix_len).ok()
    }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(a) if a.is_unicast_link_local())
}

fn our_rule(message: &RuleMessage, ipv6: bool) -> Option<Rule> {
    let mut rule =
        Rule { ipv6, priority: 0, input: String::new(), table: message.header.table.into(), narrower: false };
    if message.header.action != RuleAction::ToTable || message.header.src_len + message.header.dst_len > 0 {
        rule.narrower = true;
    }
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Table(table) => rule.table = *table,
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Iifname(name) => rule.input.clone_from(name),
            RuleAttribute::FwMark(mark) if *mark != 0 => rule.narrower = true,
            RuleAttribute::Oifname(_) | RuleAttribute::UidRange(_) | RuleAttribute::IpProtocol(_) => {
                rule.narrower = true;
            }
            _ => {}
        }
    }
    (rule.table == TABLE).then_some(rule)
}

fn rule_message(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = if rule.ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.header.action = RuleAction::ToTable;
    message.attributes.push(RuleAttribute::Priority(rule.priority));
    message.attributes.push(RuleAttribute::Table(rule.table));
    if !rule.input.is_empty() {
        message.attributes.push(RuleAttribute::Iifname(rule.input.clone()));
    }
    message
}

fn our_route(message: &RouteMessage, names: &BTreeMap<u32, String>) -> Option<Route> {
    let header = &message.header;
    // What the kernel has learned of a path over IPv6 it lists with the protocol of the route that it was learned by.
    if header.protocol != RouteProtocol::Other(ROUTE_PROTOCOL) || header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let mut table = header.table.into();
    let mut metric = 0;
    let mut destination = if header.address_family == AddressFamily::Inet6 {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    let (mut source, mut device, mut other) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(t) => table = *t,
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Destination(address) => destination = ip_address(address)?,
            RouteAttribute::PrefSource(address) => source = ip_address(address),
            RouteAttribute::Oif(index) => device = names.get(index),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) | RouteAttribute::MultiPath(_) => {
                other = true
            }
            _ => {}
        }
    }
    let via = match (header.kind, device) {
        (RouteType::BlackHole, _) => Via::Blackhole,
        (RouteType::Unicast, Some(name)) if !other => Via::Device { name: name.clone(), source },
        _ => Via::Other("not as ours are".to_owned()),
    };
    let destination = Cidr::new(destination, header.destination_prefix_length).ok()?;
    [MAIN, TABLE].contains(&table).then_some(Route { table, destination, metric, via })
}

fn ip_address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }
}

fn create_tap(name: &str) -> io::Result<()> {
    // The fastpath takes packets from it with virtio-net headers.
    caracal_xsk::tap::create_persistent(name, true).map_err(io::Error::other)
}

fn to_io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}

fn failed(doing: impl Into<String>, error: rtnetlink::Error) -> KernelError {
    KernelError::new(doing, to_io(error))
}

/// Takes the kernel's refusal with `errno` for success: what was to be done is so already.
fn unless(errno: i32, done: Result<(), rtnetlink::Error>) -> io::Result<()> {
    match done.map_err(to_io) {
        Err(e) if e.raw_os_error() == Some(errno) => Ok(()),
        other => other,
    }
}

/// A kernel without IPv6 has no rules or routes of it.
fn unless_absent<T>(dump: Result<Vec<T>, rtnetlink::Error>, ipv6: bool) -> io::Result<Vec<T>> {
    match dump.map_err(to_io) {
        Err(e) if ipv6 && matches!(e.raw_os_error(), Some(EAFNOSUPPORT | EOPNOTSUPP)) => Ok(Vec::new()),
        other => other,
    }
}
