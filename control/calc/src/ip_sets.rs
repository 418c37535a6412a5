//! Sets of addresses for what rules say about peers: selectors, lists of CIDRs, named ports.
//!
//! A set is named after its contents' definition, so rules that say the same share one set, and the same rule has the
//! same set whenever and in whatever order it came. It is there while somebody has acquired it. Sets of selectors
//! follow the endpoints by deltas: an endpoint that changes touches the sets that it is or was in, and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use caracal_model::cidr::Cidr;
use caracal_model::names;
use caracal_model::protocol::Protocol;
use caracal_model::selector::Selector;
use caracal_plane_api as plane;

use crate::endpoints::{Endpoint, EndpointId};
use crate::label_index::{LabelIndex, MatchChange};
use crate::plane::prefix;

/// The name of a set: `s:`, `n:` or `p:` and a hash of its definition.
pub(crate) type SetId = String;

/// What is in a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Definition {
    /// The addresses of the endpoints that a selector matches.
    Selected(Selector),
    /// These networks.
    Nets(Vec<Cidr>),
    /// The ports that endpoints call by this name: those that the selector matches, and only of the protocol, if given.
    NamedPort { selector: Selector, protocol: Option<Protocol>, name: String },
}

impl Definition {
    /// Networks in whatever order, some perhaps twice.
    pub fn nets(nets: &[Cidr]) -> Self {
        let sorted: BTreeSet<Cidr> = nets.iter().copied().collect();
        Self::Nets(sorted.into_iter().collect())
    }

    fn id(&self) -> SetId {
        match self {
            Self::Selected(selector) => format!("s:{}", names::content_hash(&selector.to_string())),
            Self::Nets(nets) => {
                let text: Vec<String> = nets.iter().map(ToString::to_string).collect();
                format!("n:{}", names::content_hash(&text.join(",")))
            }
            Self::NamedPort { selector, protocol, name } => {
                let protocol = protocol.map_or("any".to_owned(), |protocol| protocol.to_string());
                format!("p:{}", names::content_hash(&format!("{protocol} {name} {selector}")))
            }
        }
    }

    fn selector(&self) -> Option<&Selector> {
        match self {
            Self::Selected(selector) | Self::NamedPort { selector, .. } => Some(selector),
            Self::Nets(_) => None,
        }
    }

    /// What an endpoint that the selector matches brings to the set.
    fn members_of(&self, endpoint: &Endpoint) -> Vec<Member> {
        let addresses = endpoint.pod.addresses.iter();
        match self {
            Self::Nets(_) => Vec::new(),
            Self::Selected(_) => addresses.map(|address| Member::address(*address)).collect(),
            Self::NamedPort { protocol, name, .. } => {
                let named = |port: &&caracal_model::convert::NamedPort| {
                    port.name == *name && protocol.is_none_or(|protocol| protocol == port.protocol)
                };
                let ports: Vec<_> = endpoint.pod.ports.iter().filter(named).collect();
                let member = |address: IpAddr, port: &caracal_model::convert::NamedPort| Member {
                    cidr: Cidr::host(address),
                    protocol: port.protocol.0,
                    port: port.port,
                };
                addresses.flat_map(|address| ports.iter().map(|port| member(*address, port))).collect()
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Member {
    cidr: Cidr,
    protocol: u8,
    port: u16,
}

impl Member {
    fn address(address: IpAddr) -> Self {
        Self::net(Cidr::host(address))
    }

    fn net(cidr: Cidr) -> Self {
        Self { cidr, protocol: 0, port: 0 }
    }

    fn to_plane(self) -> plane::Member {
        plane::Member {
            prefix: Some(prefix(self.cidr)),
            protocol: self.protocol.into(),
            port: self.port.into(),
        }
    }
}

#[derive(Debug)]
struct Set {
    definition: Definition,
    users: usize,
    /// Whether a flush has said it.
    said: bool,
    /// How many endpoints bring each member: an address may for a moment belong to two.
    members: BTreeMap<Member, usize>,
    /// Members that may have changed since the last flush, and whether they were in the set then; of a set that has not
    /// been said all are new.
    touched: BTreeMap<Member, bool>,
}

impl Set {
    fn add(&mut self, member: Member) {
        let count = self.members.entry(member).or_insert(0);
        *count += 1;
        if *count == 1 && self.said {
            self.touched.entry(member).or_insert(false);
        }
    }

    fn remove(&mut self, member: Member) {
        let Some(count) = self.members.get_mut(&member) else { return };
        *count -= 1;
        if *count == 0 {
            self.members.remove(&member);
            if self.said {
                self.touched.entry(member).or_insert(true);
            }
        }
    }

    fn whole(&self, id: &SetId, members: impl Iterator<Item = Member>) -> plane::IpSet {
        plane::IpSet { id: id.clone(), members: members.map(Member::to_plane).collect(), hosts: None }
    }

    /// The members as last said.
    fn said_members(&self) -> impl Iterator<Item = Member> {
        let still = self.members.keys().filter(|member| !self.touched.contains_key(member));
        let before = self.touched.iter().filter(|(_, was_in)| **was_in).map(|(member, _)| member);
        still.chain(before).copied()
    }
}

/// All sets that are in use.
#[derive(Debug)]
pub(crate) struct IpSets {
    sets: BTreeMap<SetId, Set>,
    index: LabelIndex<EndpointId, SetId>,
    touched: BTreeSet<SetId>,
}

/// What a flush says of the sets.
#[derive(Debug, Default)]
pub(crate) struct FlushedSets {
    pub whole: Vec<plane::IpSet>,
    pub deltas: Vec<plane::IpSetDelta>,
    pub removals: Vec<SetId>,
}

impl IpSets {
    pub fn new() -> Self {
        Self { sets: BTreeMap::new(), index: LabelIndex::new(), touched: BTreeSet::new() }
    }

    /// The set of this definition, made if it is not there. Release it as often as you acquire it.
    pub fn acquire(&mut self, definition: Definition, endpoints: &BTreeMap<EndpointId, Endpoint>) -> SetId {
        let id = definition.id();
        if let Some(set) = self.sets.get_mut(&id) {
            set.users += 1;
            return id;
        }
        let mut set =
            Set { definition, users: 1, said: false, members: BTreeMap::new(), touched: BTreeMap::new() };
        if let Definition::Nets(nets) = &set.definition {
            for net in nets.clone() {
                set.add(Member::net(net));
            }
        }
        if let Some(selector) = set.definition.selector() {
            for change in self.index.set_selector(&id, selector) {
                let endpoint = endpoints.get(&change.item);
                let members = endpoint.map(|endpoint| set.definition.members_of(endpoint));
                members.into_iter().flatten().for_each(|member| set.add(member));
            }
        }
        self.sets.insert(id.clone(), set);
        self.touched.insert(id.clone());
        id
    }

    /// One user less. A set without users goes at the next flush, unless it is acquired again before.
    pub fn release(&mut self, id: &SetId) {
        if let Some(set) = self.sets.get_mut(id) {
            set.users = set.users.saturating_sub(1);
            if set.users == 0 {
                self.touched.insert(id.clone());
            }
        }
    }

    /// An endpoint has come, changed or gone.
    pub fn endpoint_changed(&mut self, id: &EndpointId, old: Option<&Endpoint>, new: Option<&Endpoint>) {
        let matched: Vec<SetId> = self.index.selectors_of(id).cloned().collect();
        let changes = match new {
            Some(endpoint) => self.index.set_item(id, &endpoint.labels),
            None => self.index.remove_item(id),
        };
        let before_and_after = matched.iter().map(|set| (set, true));
        let before_and_after = before_and_after
            .chain(changes.iter().filter(|change| change.matches).map(|change| (&change.selector, false)));
        let left: BTreeSet<&SetId> = changes
            .iter()
            .filter(|change: &&MatchChange<_, _>| !change.matches)
            .map(|change| &change.selector)
            .collect();
        for (set_id, was_in) in before_and_after {
            let Some(set) = self.sets.get_mut(set_id) else { continue };
            let old = old
                .filter(|_| was_in)
                .map(|endpoint| set.definition.members_of(endpoint))
                .unwrap_or_default();
            let is_in = !left.contains(set_id);
            let new =
                new.filter(|_| is_in).map(|endpoint| set.definition.members_of(endpoint)).unwrap_or_default();
            if old != new {
                new.into_iter().for_each(|member| set.add(member));
                old.into_iter().for_each(|member| set.remove(member));
                self.touched.insert(set_id.clone());
            }
        }
    }

    /// The difference since the last flush; sets that nobody uses are forgotten.
    pub fn flush(&mut self) -> FlushedSets {
        let mut flushed = FlushedSets::default();
        for id in std::mem::take(&mut self.touched) {
            let Some(set) = self.sets.get_mut(&id) else { continue };
            if set.users == 0 {
                if set.said {
                    flushed.removals.push(id.clone());
                }
                self.index.remove_selector(&id);
                self.sets.remove(&id);
                continue;
            }
            let touched = std::mem::take(&mut set.touched);
            if !set.said {
                set.said = true;
                flushed.whole.push(set.whole(&id, set.members.keys().copied()));
                continue;
            }
            let (mut add, mut remove) = (Vec::new(), Vec::new());
            for (member, was_in) in touched {
                match (was_in, set.members.contains_key(&member)) {
                    (false, true) => add.push(member.to_plane()),
                    (true, false) => remove.push(member.to_plane()),
                    _ => {}
                }
            }
            if !add.is_empty() || !remove.is_empty() {
                flushed.deltas.push(plane::IpSetDelta { id, add, remove, ..plane::IpSetDelta::default() });
            }
        }
        flushed
    }

    /// Every set as last said.
    pub fn said(&self) -> impl Iterator<Item = plane::IpSet> {
        let said = self.sets.iter().filter(|(_, set)| set.said);
        said.map(|(id, set)| set.whole(id, set.said_members()))
    }

    /// How often a selector was compared with an endpoint.
    pub fn comparisons(&self) -> u64 {
        self.index.comparisons
    }
}
