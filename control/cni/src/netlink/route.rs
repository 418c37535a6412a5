//! Routes, and the rules that say in which table to look for one.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};

use super::{IpVersion, Netlink, NetlinkError, family};

/// The kernel's main routing table.
pub const TABLE_MAIN: u32 = 254;

/// The table of addresses that are this host's own.
pub const TABLE_LOCAL: u32 = 255;

/// A route that is to be made.
#[derive(Debug, Clone)]
pub struct Route {
    /// Network part; 0.0.0.0 with length 0 is the default route.
    pub destination: IpAddr,
    /// Prefix length of `destination`.
    pub length: u8,
    /// Next hop.
    pub gateway: Option<IpAddr>,
    /// Interface index; needed unless `gateway` implies it.
    pub device: Option<u32>,
    /// Whether the gateway is reachable on `device` though no route says so.
    pub onlink: bool,
    /// Whether destinations are this host's own.
    pub local: bool,
    /// Whether packets to there are dropped; then there is neither gateway nor device.
    pub blackhole: bool,
    /// The source address that the host uses for packets of its own.
    pub source: Option<IpAddr>,
    /// Routing table.
    pub table: u32,
}

impl Route {
    /// `destination/length via gateway`, in the main table.
    #[must_use]
    pub fn via(destination: IpAddr, length: u8, gateway: IpAddr) -> Self {
        Self { gateway: Some(gateway), ..Self::to(destination, length) }
    }

    /// `destination/length dev device scope link`, in the main table.
    #[must_use]
    pub fn on(destination: IpAddr, length: u8, device: u32) -> Self {
        Self { device: Some(device), ..Self::to(destination, length) }
    }

    /// What is for `destination/length` goes nowhere, by the main table.
    #[must_use]
    pub fn nowhere(destination: IpAddr, length: u8) -> Self {
        Self { blackhole: true, ..Self::to(destination, length) }
    }

    fn to(destination: IpAddr, length: u8) -> Self {
        Self {
            destination,
            length,
            gateway: None,
            device: None,
            onlink: false,
            local: false,
            blackhole: false,
            source: None,
            table: TABLE_MAIN,
        }
    }
}

/// Where a route that there is leads: its destination (none: everywhere), the prefix length, and by whom.
pub type Leading = (Option<IpAddr>, u8, Option<IpAddr>);

/// A rule: in which table the kernel looks for a packet's route.
#[derive(Debug, Clone, Copy)]
pub struct Rule<'a> {
    /// Whose packets.
    pub version: IpVersion,
    /// The lowest is asked first.
    pub priority: u32,
    /// The interface that the packets came in by; `None`: any.
    pub interface: Option<&'a str>,
    /// The table they are looked up in.
    pub table: u32,
}

impl Rule<'_> {
    fn message(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = self.version.family();
        message.header.action = RuleAction::ToTable;
        message.attributes.push(RuleAttribute::Priority(self.priority));
        message.attributes.push(RuleAttribute::Table(self.table));
        message.attributes.extend(self.interface.map(|name| RuleAttribute::Iifname(name.into())));
        message
    }
}

impl Netlink {
    /// The unicast routes of the main table: their destinations, prefix lengths and gateways.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn routes(&mut self, version: IpVersion) -> Result<Vec<Leading>, NetlinkError> {
        let mut message = RouteMessage::default();
        message.header.address_family = version.family();
        let answers = self.ask("list routes", RouteNetlinkMessage::GetRoute(message), NLM_F_DUMP)?;
        let of_table = |answer| match answer {
            RouteNetlinkMessage::NewRoute(message)
                if message.header.kind == RouteType::Unicast
                    && u32::from(message.header.table) == TABLE_MAIN =>
            {
                Some(message)
            }
            _ => None,
        };
        let route = |message: RouteMessage| {
            let (mut to, mut via) = (None, None);
            for attribute in message.attributes {
                match attribute {
                    RouteAttribute::Destination(address) => to = ip_of(address),
                    RouteAttribute::Gateway(address) => via = ip_of(address),
                    _ => {}
                }
            }
            (to, message.header.destination_prefix_length, via)
        };
        Ok(answers.into_iter().filter_map(of_table).map(route).collect())
    }

    /// Adds a route, or replaces the one to the same destination in the same table.
    ///
    /// # Errors
    /// The gateway is not reachable, or the kernel refuses.
    pub fn add_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        let mut message = RouteMessage::default();
        let header = &mut message.header;
        header.address_family = family(route.destination);
        header.destination_prefix_length = route.length;
        header.protocol = RouteProtocol::Static;
        (header.kind, header.scope) = match (route.local, route.blackhole, route.gateway) {
            (true, _, _) => (RouteType::Local, RouteScope::Host),
            (_, true, _) => (RouteType::BlackHole, RouteScope::Universe),
            (_, _, None) => (RouteType::Unicast, RouteScope::Link),
            (_, _, Some(_)) => (RouteType::Unicast, RouteScope::Universe),
        };
        if route.onlink {
            header.flags = RouteFlags::Onlink;
        }
        let attributes = &mut message.attributes;
        attributes.push(RouteAttribute::Table(route.table));
        if route.length > 0 {
            attributes.push(RouteAttribute::Destination(RouteAddress::from(route.destination)));
        }
        attributes.extend(route.gateway.map(|gateway| RouteAttribute::Gateway(RouteAddress::from(gateway))));
        attributes.extend(route.device.map(RouteAttribute::Oif));
        attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(RouteAddress::from(source))));
        let doing = format!("add the route {}/{}", route.destination, route.length);
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.ask(doing, RouteNetlinkMessage::NewRoute(message), flags).map(drop)
    }

    /// Adds a rule.
    ///
    /// # Errors
    /// It is there already, or the kernel refuses.
    pub fn add_rule(&mut self, rule: &Rule<'_>) -> Result<(), NetlinkError> {
        let doing = format!("add a policy rule to table {}", rule.table);
        self.create(doing, RouteNetlinkMessage::NewRule(rule.message()))
    }

    /// Removes a rule.
    ///
    /// # Errors
    /// There is none such.
    pub fn delete_rule(&mut self, rule: &Rule<'_>) -> Result<(), NetlinkError> {
        let doing = format!("remove the policy rule to table {}", rule.table);
        self.change(doing, RouteNetlinkMessage::DelRule(rule.message()))
    }
}

fn ip_of(address: RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(address.into()),
        RouteAddress::Inet6(address) => Some(address.into()),
        _ => None,
    }
}
