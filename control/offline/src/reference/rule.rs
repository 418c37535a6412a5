//! Rules as the reference reads them, and whether one matches a packet.
//!
//! Both API groups' rules are put into this one form, with nothing worked out: selectors stay texts, ports stay lists.

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::address::Block;
use super::cluster::{Cluster, Party};
use super::selector::{LabelMap, Subject, evaluate, evaluate_kubernetes};

/// The first packet of a connection, as policy sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packet {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: u8,
    /// Of TCP, UDP and SCTP.
    pub(crate) source_port: Option<u16>,
    /// Of TCP, UDP and SCTP.
    pub(crate) destination_port: Option<u16>,
    /// Type and code, of ICMP and ICMPv6.
    pub(crate) icmp: Option<(u8, u8)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Allow,
    Deny,
    Pass,
    Log,
}

/// A rule; what is not given always holds.
#[derive(Debug, Clone)]
pub(super) struct Rule<'a> {
    pub(super) action: Action,
    /// Where the user wrote it: `spec.ingress[2]`.
    pub(super) place: String,
    /// 4 or 6.
    pub(super) version: Option<i64>,
    pub(super) protocol: Option<u8>,
    pub(super) not_protocol: Option<u8>,
    pub(super) icmp: Option<Message>,
    pub(super) not_icmp: Option<Message>,
    pub(super) source: Side<'a>,
    pub(super) destination: Side<'a>,
}

/// ICMP messages: of this type, of this code.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message {
    pub(super) kind: Option<i64>,
    pub(super) code: Option<i64>,
}

/// One end of what a rule matches; empty lists are not given.
#[derive(Debug, Clone, Default)]
pub(super) struct Side<'a> {
    pub(super) nets: Vec<Block>,
    pub(super) not_nets: Vec<Block>,
    /// All must hold of one party that has the address.
    pub(super) who: Vec<Term<'a>>,
    /// Must not hold of that party, or, where there is no `who`, of any that has the address.
    pub(super) not_who: Option<Term<'a>>,
    pub(super) ports: Vec<Ports<'a>>,
    pub(super) not_ports: Vec<Ports<'a>>,
    /// Namespace and name.
    pub(super) service: Option<(&'a str, &'a str)>,
}

#[derive(Debug, Clone)]
pub(super) enum Ports<'a> {
    Range(u16, u16),
    Named(&'a str),
}

/// Something that holds of labels or does not.
#[derive(Debug, Clone, Copy)]
pub(super) enum Term<'a> {
    /// A selector of Calico's. Its labels are those behind the prefix; `all()` is what has the label `all`, or everything.
    Text { text: &'a str, prefix: &'static str, all: Option<&'static str> },
    /// A selector of Calico's over namespaces; `global()` is what is in none.
    Namespaces(&'a str),
    /// A selector of Kubernetes' over the labels behind the prefix.
    Kubernetes { selector: &'a LabelSelector, prefix: &'static str },
    /// A label has this value.
    Is(&'static str, &'a str),
    /// A label has one of these values.
    IsOneOf(&'static str, &'a [String]),
    /// A label is there.
    Has(&'static str),
}

impl Term<'_> {
    pub(super) fn holds(&self, labels: &LabelMap) -> bool {
        let has = |label: &str| labels.contains_key(label);
        // Validation lets nothing through that is no selector.
        match self {
            Self::Text { text, prefix, all } => {
                let all = all.is_none_or(has);
                evaluate(text, &Subject { labels, prefix, all, global: true }).unwrap_or(false)
            }
            Self::Namespaces(text) => {
                let all = has(super::cluster::NAMESPACE);
                let subject = Subject { labels, prefix: "pcns.", all, global: !all };
                evaluate(text, &subject).unwrap_or(false)
            }
            Self::Kubernetes { selector, prefix } => evaluate_kubernetes(selector, prefix, labels),
            Self::Is(label, value) => labels.get(*label).is_some_and(|found| found == value),
            Self::IsOneOf(label, values) => labels.get(*label).is_some_and(|found| values.contains(found)),
            Self::Has(label) => has(label),
        }
    }
}

/// One end of a packet.
struct End<'p> {
    address: IpAddr,
    protocol: u8,
    port: Option<u16>,
    owners: &'p [&'p Party],
    is_destination: bool,
}

/// A packet, and who has its addresses.
#[derive(Debug)]
pub(super) struct Question<'p> {
    pub(super) packet: Packet,
    sources: Vec<&'p Party>,
    destinations: Vec<&'p Party>,
}

impl<'p> Question<'p> {
    pub(super) fn new(cluster: &'p Cluster<'_>, packet: Packet) -> Self {
        let (sources, destinations) = (cluster.owners(packet.source), cluster.owners(packet.destination));
        Self { packet, sources, destinations }
    }
}

impl Rule<'_> {
    /// What a namespace's profile says.
    pub(super) fn allow_all() -> Self {
        Self {
            action: Action::Allow,
            place: String::new(),
            version: None,
            protocol: None,
            not_protocol: None,
            icmp: None,
            not_icmp: None,
            source: Side::default(),
            destination: Side::default(),
        }
    }

    pub(super) fn matches(&self, cluster: &Cluster<'_>, question: &Question<'_>) -> bool {
        let packet = &question.packet;
        let source = End {
            address: packet.source,
            protocol: packet.protocol,
            port: packet.source_port,
            owners: &question.sources,
            is_destination: false,
        };
        let destination = End {
            address: packet.destination,
            protocol: packet.protocol,
            port: packet.destination_port,
            owners: &question.destinations,
            is_destination: true,
        };
        let version = if packet.source.is_ipv4() { 4 } else { 6 };
        self.version.is_none_or(|wanted| wanted == version)
            && self.protocol.is_none_or(|wanted| wanted == packet.protocol)
            && self.not_protocol.is_none_or(|unwanted| unwanted != packet.protocol)
            && self.icmp.is_none_or(|message| message.is(packet.icmp))
            && self.not_icmp.is_none_or(|message| !message.is(packet.icmp))
            && self.source.matches(cluster, &source)
            && self.destination.matches(cluster, &destination)
    }
}

impl Message {
    fn is(self, message: Option<(u8, u8)>) -> bool {
        let Some((kind, code)) = message else { return false };
        self.kind.is_none_or(|wanted| wanted == i64::from(kind))
            && self.code.is_none_or(|wanted| wanted == i64::from(code))
    }
}

impl Side<'_> {
    fn matches(&self, cluster: &Cluster<'_>, end: &End<'_>) -> bool {
        self.nets_match(end.address)
            && self.owner_matches(end.owners)
            && (self.ports.is_empty() || self.ports.iter().any(|ports| self.is_among(ports, end)))
            && !self.not_ports.iter().any(|ports| self.is_among(ports, end))
            && self.service.is_none_or(|(namespace, name)| {
                let port = end.is_destination.then_some((end.protocol, end.port));
                cluster.is_of_service(namespace, name, end.address, port)
            })
    }

    /// A list that has only blocks of the other family makes that there is no such rule for this one.
    fn nets_match(&self, address: IpAddr) -> bool {
        let of_family =
            |blocks: &[Block]| blocks.is_empty() || blocks.iter().any(|block| block.is_of_family(address));
        of_family(&self.nets)
            && of_family(&self.not_nets)
            && (self.nets.is_empty() || self.nets.iter().any(|block| block.holds(address)))
            && !self.not_nets.iter().any(|block| block.holds(address))
    }

    fn owner_matches(&self, owners: &[&Party]) -> bool {
        if self.who.is_empty() {
            return !owners.iter().any(|party| self.is_unwanted(party));
        }
        owners.iter().any(|party| self.is_member(party))
    }

    fn is_unwanted(&self, party: &Party) -> bool {
        self.not_who.is_some_and(|term| term.holds(&party.labels))
    }

    /// Whether a party is what the side is about. Without a positive selector all are.
    fn is_member(&self, party: &Party) -> bool {
        self.who.is_empty()
            || self.who.iter().all(|term| term.holds(&party.labels)) && !self.is_unwanted(party)
    }

    fn is_among(&self, ports: &Ports<'_>, end: &End<'_>) -> bool {
        let Some(port) = end.port else { return false };
        match ports {
            Ports::Range(first, last) => (*first..=*last).contains(&port),
            Ports::Named(name) => {
                end.owners.iter().any(|party| self.is_member(party) && party.calls(name, end.protocol, port))
            }
        }
    }
}
