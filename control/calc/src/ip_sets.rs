//! Sets of addresses for what rules say about peers: selectors, lists of networks, named ports, services.
//!
//! A set is named after its contents' definition, so rules that say the same share one set, and the same rule has the
//! same set whenever and in whatever order it came. It is there while somebody has acquired it.
//!
//! A set of a selector keeps no members: it is the union of what the sources bring that the index has matched with it. When
//! a source changes, what it no longer brings leaves the set, unless another source of the set brings it, too; and what
//! it newly brings comes in, unless another brings it already. Only these comings and goings are kept until a flush.

use std::collections::BTreeSet;

use caracal_model::convert::ServiceEndpoints;
use caracal_plane_api as plane;
use hashbrown::HashMap;
use slab::Slab;

use crate::definition::{Definition, SetName};
use crate::label_index::{LabelIndex, differences};
use crate::members::{Member, MemberLog, Packed};
use crate::services::{Part, ServiceChange, Services};
use crate::sources::{Contents, SourceChange, SourceId, Sources};

/// Numbers a set while it is there.
pub(crate) type SetId = u32;

#[derive(Debug)]
struct Set {
    name: SetName,
    definition: Definition,
    users: usize,
    /// What has happened to it since it was last said; `None`: it has not been said yet.
    log: Option<MemberLog>,
}

/// All sets that are in use.
#[derive(Debug, Default)]
pub(crate) struct IpSets {
    sets: Slab<Set>,
    by_name: HashMap<SetName, SetId>,
    index: LabelIndex,
    services: Services,
    touched: BTreeSet<SetId>,
}

/// What a flush says of the sets, by name.
#[derive(Debug, Default)]
pub(crate) struct FlushedSets {
    pub whole: Vec<plane::IpSet>,
    pub deltas: Vec<plane::IpSetDelta>,
    pub removals: Vec<SetName>,
}

impl IpSets {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.by_name.len()
    }

    /// The set of this definition, made if it is not there. Release it as often as you acquire it.
    pub fn acquire(&mut self, definition: Definition, sources: &mut Sources) -> SetId {
        let name = definition.name();
        if let Some(id) = self.by_name.get(&name).copied() {
            if let Some(set) = self.sets.get_mut(id as usize) {
                set.users += 1;
            }
            return id;
        }
        let set = Set { name: name.clone(), definition, users: 1, log: None };
        let id = self.sets.insert(set) as SetId;
        if let Some(selector) = self.sets.get(id as usize).and_then(|set| set.definition.selector()) {
            self.index.set_selector(id, selector, &mut sources.symbols);
        }
        self.by_name.insert(name, id);
        self.touched.insert(id);
        id
    }

    /// One user less. A set without users goes at the next flush, unless it is acquired again before.
    pub fn release(&mut self, id: SetId) {
        if let Some(set) = self.sets.get_mut(id as usize) {
            set.users = set.users.saturating_sub(1);
            if set.users == 0 {
                self.touched.insert(id);
            }
        }
    }

    /// The name of a set that is there.
    pub fn name(&self, id: SetId) -> SetName {
        self.sets.get(id as usize).map(|set| set.name.clone()).unwrap_or_default()
    }

    /// What a set is, in users' words.
    pub fn describe(&self, name: &str) -> Option<String> {
        let id = self.by_name.get(name)?;
        self.sets.get(*id as usize).map(|set| set.definition.describe())
    }

    /// A source has come, changed or gone, or inherits other labels.
    pub fn source_changed(&mut self, change: &SourceChange, sources: &Sources) {
        let id = change.id;
        let Some(source) = sources.get(id) else {
            let former = change.former.clone().unwrap_or_default();
            for set in self.index.remove_item(id) {
                self.replace(set, id, &former, &Contents::default(), sources);
            }
            return;
        };
        if let Some(former) = &change.former {
            for set in self.index.selectors_of(id).to_vec() {
                self.replace(set, id, former, &source.contents, sources);
            }
        }
        let matches = self.index.set_item(id, &source.labels, &sources.symbols);
        for set in matches.began {
            self.replace(set, id, &Contents::default(), &source.contents, sources);
        }
        for set in matches.ceased {
            self.replace(set, id, &source.contents, &Contents::default(), sources);
        }
    }

    /// A source brings other things to a set now.
    fn replace(&mut self, id: SetId, source: SourceId, old: &Contents, new: &Contents, sources: &Sources) {
        let index = &self.index;
        let Some(Set { definition, log: Some(log), .. }) = self.sets.get_mut(id as usize) else { return };
        let members = |contents: &Contents| {
            let mut members = Vec::new();
            definition.each_member_of(contents, &sources.symbols, |member| members.push(member));
            members
        };
        let (gone, come) = differences(&members(old), &members(new));
        let elsewhere = |member: &Member| {
            let mut others =
                sources.other_owners(&member.cidr, source).filter(|other| index.is_match(*other, id));
            others.any(|other| {
                let mut found = false;
                if let Some(other) = sources.get(other) {
                    definition.each_member_of(&other.contents, &sources.symbols, |theirs| {
                        found |= theirs == *member;
                    });
                }
                found
            })
        };
        gone.into_iter().filter(|member| !elsewhere(member)).for_each(|member| log.went(member));
        come.into_iter().filter(|member| !elsewhere(member)).for_each(|member| log.came(member));
        self.touched.insert(id);
    }

    /// A slice of a service's endpoints is there, like this, or is gone.
    pub fn set_slice(&mut self, namespace: &str, name: &str, endpoints: Option<&ServiceEndpoints>) {
        for ServiceChange { service, addresses, ports } in self.services.set(namespace, name, endpoints) {
            let definitions = [
                (Definition::ServiceAddresses(service.clone()), addresses),
                (Definition::ServicePorts(service), ports),
            ];
            for (definition, (gone, come)) in definitions {
                let Some(id) = self.by_name.get(&definition.name()).copied() else { continue };
                let Some(Set { log: Some(log), .. }) = self.sets.get_mut(id as usize) else { continue };
                gone.into_iter().for_each(|member| log.went(member));
                come.into_iter().for_each(|member| log.came(member));
                self.touched.insert(id);
            }
        }
    }

    /// Everything in a set as it is now, in no order, some members perhaps twice.
    fn members(&self, id: SetId, definition: &Definition, sources: &Sources) -> Vec<Member> {
        let mut members = Vec::new();
        match definition {
            Definition::Selected(_) | Definition::NamedPort { .. } => {
                for source in self.index.items_of(id).filter_map(|source| sources.get(source)) {
                    definition
                        .each_member_of(&source.contents, &sources.symbols, |member| members.push(member));
                }
            }
            Definition::Nets(nets) => members.extend(nets.iter().copied().map(Member::net)),
            Definition::ServiceAddresses(service) => {
                members.extend(self.services.members(service, Part::Addresses));
            }
            Definition::ServicePorts(service) => members.extend(self.services.members(service, Part::Ports)),
        }
        members
    }

    /// The difference since the last flush; sets that nobody uses are forgotten.
    pub fn flush(&mut self, sources: &mut Sources) -> FlushedSets {
        let mut flushed = FlushedSets::default();
        for id in std::mem::take(&mut self.touched) {
            let Some(set) = self.sets.get_mut(id as usize) else { continue };
            if set.users == 0 {
                let set = self.sets.remove(id as usize);
                self.by_name.remove(&set.name);
                self.index.remove_selector(id, &mut sources.symbols);
                if set.log.is_some() {
                    flushed.removals.push(set.name);
                }
                continue;
            }
            match set.log.replace(MemberLog::default()) {
                None => {
                    let Some(set) = self.sets.get(id as usize) else { continue };
                    let members = self.members(id, &set.definition, sources);
                    flushed.whole.push(whole(&set.name, members.into_iter()));
                }
                Some(log) => {
                    let (come, gone) = log.settle();
                    let (add, remove) = (Packed::of(come.into_iter()), Packed::of(gone.into_iter()));
                    if !add.is_empty() || !remove.is_empty() {
                        flushed.deltas.push(plane::IpSetDelta {
                            id: set.name.clone(),
                            add: add.members,
                            remove: remove.members,
                            add_hosts: add.hosts,
                            remove_hosts: remove.hosts,
                        });
                    }
                }
            }
        }
        flushed.whole.sort_by(|a, b| a.id.cmp(&b.id));
        flushed.deltas.sort_by(|a, b| a.id.cmp(&b.id));
        flushed.removals.sort();
        flushed
    }

    /// Every set as last said, by name.
    pub fn said(&self, sources: &Sources) -> Vec<plane::IpSet> {
        let said = self.sets.iter().filter_map(|(id, set)| Some((id as SetId, set, set.log.as_ref()?)));
        let mut said: Vec<plane::IpSet> = said
            .map(|(id, set, log)| {
                let now = self.members(id, &set.definition, sources);
                whole(&set.name, log.undo(now.into_iter()))
            })
            .collect();
        said.sort_by(|a, b| a.id.cmp(&b.id));
        said
    }

    /// How often a selector was compared with a source.
    pub fn comparisons(&self) -> u64 {
        self.index.comparisons
    }
}

fn whole(name: &SetName, members: impl Iterator<Item = Member>) -> plane::IpSet {
    let Packed { members, hosts } = Packed::of(members);
    plane::IpSet { id: name.clone(), members, hosts }
}
