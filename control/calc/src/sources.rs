//! Everything that selectors in rules can mean: pods, host endpoints and sets of networks, each with the labels that it
//! has and inherits, and with the addresses and named ports that it brings to the sets that it is in.
//!
//! ```text
//!   pods, host endpoints, network sets ──► own labels ──────────┐
//!   profiles ─────────────────────────► labels to inherit ──────┴──► Source{labels}, only where something has changed
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;

use caracal_model::cidr::Cidr;
use caracal_model::convert::NamedPort;
use caracal_model::labels::Labels;
use caracal_model::protocol::Protocol;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use slab::Slab;

use crate::label_index::differences;
use crate::symbols::{Label, Symbol, Symbols, value_of};

/// Numbers a source while it is there.
pub(crate) type SourceId = u32;

/// Which source.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum SourceKey {
    /// By `namespace/name`.
    Pod(Arc<str>),
    /// By name.
    HostEndpoint(Arc<str>),
    /// By `namespace/name`.
    NetworkSet(Arc<str>),
    /// By name.
    GlobalNetworkSet(Arc<str>),
}

/// A source as its object describes it.
pub(crate) struct Draft<'a> {
    pub key: SourceKey,
    pub labels: &'a Labels,
    pub profiles: &'a [String],
    pub nets: Vec<Cidr>,
    pub ports: &'a [NamedPort],
}

/// A source.
#[derive(Debug)]
pub(crate) struct Source {
    pub key: SourceKey,
    own: Box<[Label]>,
    /// Its own labels and those it inherits, sorted by key; its own win.
    pub labels: Arc<[Label]>,
    profiles: Box<[Symbol]>,
    pub contents: Contents,
}

/// What a source brings to the sets that it is in.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Contents {
    /// Sorted, without duplicates. A pod's are its addresses.
    pub nets: Arc<[Cidr]>,
    /// Sorted, without duplicates.
    pub ports: Arc<[SourcePort]>,
}

/// A port that policies can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SourcePort {
    pub name: Symbol,
    pub protocol: Protocol,
    pub port: u16,
}

/// What has become of a source.
#[derive(Debug)]
pub(crate) struct SourceChange {
    pub id: SourceId,
    /// What it brought before, where that is not what it brings now; nothing, if it was not there.
    pub former: Option<Contents>,
}

/// Which sources have a network: rarely more than one.
#[derive(Debug)]
enum Owners {
    One(SourceId),
    Many(BTreeSet<SourceId>),
}

/// The vertex that gives sources their labels.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    pub symbols: Symbols,
    ids: HashMap<SourceKey, SourceId>,
    all: Slab<Source>,
    heirs: HashMap<Symbol, BTreeSet<SourceId>>,
    /// What profiles hand down, sorted by key.
    inheritances: HashMap<Symbol, Box<[Label]>>,
    owners: HashMap<Cidr, Owners>,
}

impl Sources {
    /// How many pods and host endpoints there are.
    pub fn count_endpoints(&self) -> (usize, usize) {
        let of = |is: fn(&SourceKey) -> bool| self.ids.keys().filter(|key| is(key)).count();
        (of(|key| matches!(key, SourceKey::Pod(_))), of(|key| matches!(key, SourceKey::HostEndpoint(_))))
    }

    /// The source, if it is there.
    pub fn get(&self, id: SourceId) -> Option<&Source> {
        self.all.get(id as usize)
    }

    /// The number of a source that is there.
    pub fn id_of(&self, key: &SourceKey) -> Option<SourceId> {
        self.ids.get(key).copied()
    }

    /// The sources other than `id` that have exactly this network.
    pub fn other_owners(&self, net: &Cidr, id: SourceId) -> impl Iterator<Item = SourceId> {
        let (one, many) = match self.owners.get(net) {
            Some(Owners::One(one)) => (Some(*one), None),
            Some(Owners::Many(many)) => (None, Some(many.iter().copied())),
            None => (None, None),
        };
        one.into_iter().chain(many.into_iter().flatten()).filter(move |owner| *owner != id)
    }

    /// The source is there, like this. `None` if nothing about it has changed.
    pub fn set(&mut self, draft: Draft<'_>) -> Option<SourceChange> {
        let own = intern_labels(draft.labels, &mut self.symbols);
        let profiles: Box<[Symbol]> =
            draft.profiles.iter().map(|profile| self.symbols.intern(profile)).collect();
        let contents = self.contents(draft.nets, draft.ports);
        let Some(id) = self.id_of(&draft.key) else {
            let labels = self.merge(&own, &profiles);
            let source = Source { key: draft.key.clone(), own, labels, profiles, contents };
            let id = self.all.insert(source) as SourceId;
            self.ids.insert(draft.key, id);
            self.enlist(id, &Contents::default());
            return Some(SourceChange { id, former: Some(Contents::default()) });
        };
        let known = self.all.get(id as usize)?;
        if known.own == own && known.profiles == profiles && known.contents == contents {
            self.give_back(&own, &profiles, &contents);
            return None;
        }
        let labels = self.merge(&own, &profiles);
        let known = self.all.get_mut(id as usize)?;
        let same = known.contents == contents;
        let former = std::mem::replace(known, Source { key: draft.key, own, labels, profiles, contents });
        self.delist(id, &former);
        self.enlist(id, &former.contents);
        self.give_back(&former.own, &former.profiles, &former.contents);
        Some(SourceChange { id, former: (!same).then_some(former.contents) })
    }

    /// The source is gone. Its symbols stay known until the next sweep.
    pub fn remove(&mut self, key: &SourceKey) -> Option<SourceChange> {
        let id = self.ids.remove(key)?;
        let gone = self.all.try_remove(id as usize)?;
        self.delist(id, &gone);
        self.give_back(&gone.own, &gone.profiles, &gone.contents);
        Some(SourceChange { id, former: Some(gone.contents) })
    }

    /// A profile hands these labels down now. Returns the sources whose labels that has changed.
    pub fn set_inheritance(&mut self, profile: &str, labels: Option<&Labels>) -> Vec<SourceId> {
        let profile = self.symbols.intern(profile);
        let former = match labels {
            Some(labels) => {
                let labels = intern_labels(labels, &mut self.symbols);
                self.symbols.retain(profile);
                self.inheritances.insert(profile, labels)
            }
            None => self.inheritances.remove(&profile),
        };
        if let Some(former) = former {
            self.symbols.release_labels(&former);
            self.symbols.release(profile);
        }
        let mut changed = Vec::new();
        for id in self.heirs.get(&profile).into_iter().flatten() {
            let Some(source) = self.all.get(*id as usize) else { continue };
            let labels = self.merge(&source.own, &source.profiles);
            if labels != source.labels
                && let Some(source) = self.all.get_mut(*id as usize)
            {
                source.labels = labels;
                changed.push(*id);
            }
        }
        self.symbols.release(profile);
        changed
    }

    /// Own labels and those that profiles hand down: own ones win, then those of the profile that is named first.
    /// Inherited labels are users of no symbols: their profile is, and it stays as long as they do.
    fn merge(&self, own: &[Label], profiles: &[Symbol]) -> Arc<[Label]> {
        let mut labels = own.to_vec();
        for inherited in profiles.iter().filter_map(|profile| self.inheritances.get(profile)) {
            let known = labels.len();
            for label in inherited {
                let (sorted, _) = labels.split_at(known);
                if value_of(sorted, label.key).is_none() {
                    labels.push(*label);
                }
            }
            labels.sort_unstable();
        }
        labels.into()
    }

    fn contents(&mut self, mut nets: Vec<Cidr>, ports: &[NamedPort]) -> Contents {
        nets.sort_unstable();
        nets.dedup();
        let symbols = &mut self.symbols;
        let mut ports: Vec<SourcePort> = ports
            .iter()
            .map(|port| SourcePort {
                name: symbols.intern(&port.name),
                protocol: port.protocol,
                port: port.port,
            })
            .collect();
        ports.sort_unstable();
        ports.dedup_by(|second, first| {
            let same = second == first;
            if same {
                symbols.release(second.name);
            }
            same
        });
        Contents { nets: nets.into(), ports: ports.into() }
    }

    fn give_back(&mut self, own: &[Label], profiles: &[Symbol], contents: &Contents) {
        self.symbols.release_labels(own);
        profiles.iter().for_each(|profile| self.symbols.release(*profile));
        contents.ports.iter().for_each(|port| self.symbols.release(port.name));
    }

    /// Notes what a source has that it had not formerly.
    fn enlist(&mut self, id: SourceId, former: &Contents) {
        let Some(source) = self.all.get(id as usize) else { return };
        for profile in &source.profiles {
            self.heirs.entry(*profile).or_default().insert(id);
        }
        let (_, come) = differences(&former.nets, &source.contents.nets);
        self.owners.reserve(come.len());
        for net in come {
            match self.owners.entry(net) {
                Entry::Vacant(none) => drop(none.insert(Owners::One(id))),
                Entry::Occupied(mut owners) => match owners.get_mut() {
                    Owners::One(one) => {
                        let many = BTreeSet::from([*one, id]);
                        owners.insert(Owners::Many(many));
                    }
                    Owners::Many(many) => drop(many.insert(id)),
                },
            }
        }
    }

    /// Forgets what a source had and no longer has.
    fn delist(&mut self, id: SourceId, former: &Source) {
        for profile in &former.profiles {
            if let Some(heirs) = self.heirs.get_mut(profile) {
                heirs.remove(&id);
                if heirs.is_empty() {
                    self.heirs.remove(profile);
                }
            }
        }
        let now = self.all.get(id as usize).map_or(&[][..], |source| &source.contents.nets);
        let (gone, _) = differences(&former.contents.nets, now);
        for net in gone {
            let Some(owners) = self.owners.get_mut(&net) else { continue };
            match owners {
                Owners::One(_) => drop(self.owners.remove(&net)),
                Owners::Many(many) => {
                    many.remove(&id);
                    if let (Some(last), 1) = (many.first().copied(), many.len()) {
                        *owners = Owners::One(last);
                    }
                }
            }
        }
    }
}

fn intern_labels(labels: &Labels, symbols: &mut Symbols) -> Box<[Label]> {
    let label = |(key, value): (&str, &str)| Label { key: symbols.intern(key), value: symbols.intern(value) };
    let mut labels: Vec<Label> = labels.iter().map(label).collect();
    labels.sort_unstable();
    labels.into()
}

/// The key of a namespaced source, as its objects are named.
pub(crate) fn qualified(namespace: Option<&str>, name: &str) -> Arc<str> {
    format!("{}/{name}", namespace.unwrap_or("default")).into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn labels(text: &str) -> Labels {
        text.split(',').filter_map(|pair| pair.split_once('=')).collect()
    }

    fn text(sources: &Sources, id: SourceId) -> String {
        let symbols = &sources.symbols;
        let mut pairs: BTreeMap<&str, &str> = BTreeMap::new();
        for label in sources.get(id).unwrap().labels.iter() {
            let former = pairs.insert(symbols.text(label.key), symbols.text(label.value));
            assert_eq!(former, None, "a key twice");
        }
        let pairs: Vec<String> = pairs.iter().map(|(key, value)| format!("{key}={value}")).collect();
        pairs.join(",")
    }

    fn set(
        sources: &mut Sources,
        name: &str,
        own: &str,
        profiles: &[&str],
        nets: &[&str],
    ) -> Option<SourceChange> {
        let profiles: Vec<String> = profiles.iter().map(ToString::to_string).collect();
        sources.set(Draft {
            key: SourceKey::Pod(name.into()),
            labels: &labels(own),
            profiles: &profiles,
            nets: nets.iter().map(|net| net.parse().unwrap()).collect(),
            ports: &[],
        })
    }

    #[test]
    fn own_labels_win_over_inherited_ones_and_those_of_the_first_profile_over_the_second() {
        let mut sources = Sources::default();
        sources.set_inheritance("p", Some(&labels("a=p,b=p,c=p")));
        sources.set_inheritance("q", Some(&labels("b=q,c=q,d=q")));
        let id = set(&mut sources, "x", "a=own", &["p", "q", "none"], &[]).unwrap().id;
        assert_eq!(text(&sources, id), "a=own,b=p,c=p,d=q");
        assert_eq!(sources.set_inheritance("p", Some(&labels("a=other"))), [id]);
        assert_eq!(text(&sources, id), "a=own,b=q,c=q,d=q");
        assert!(sources.set_inheritance("p", Some(&labels("a=another"))).is_empty());
        assert_eq!(sources.set_inheritance("q", None), [id]);
        assert_eq!(text(&sources, id), "a=own");
    }

    #[test]
    fn a_source_told_again_is_no_change_and_one_told_anew_says_what_it_brought() {
        let mut sources = Sources::default();
        let nets = ["10.0.0.1/32", "10.0.0.0/8", "10.0.0.1/32"];
        let first = set(&mut sources, "x", "a=1", &["p"], &nets).unwrap();
        assert_eq!(first.former, Some(Contents::default()));
        assert!(set(&mut sources, "x", "a=1", &["p"], &nets).is_none());
        assert_eq!(set(&mut sources, "x", "a=2", &["p"], &nets).unwrap().former, None);
        let former = set(&mut sources, "x", "a=2", &["p"], &[]).unwrap().former.unwrap();
        assert_eq!(former.nets.len(), 2);
    }

    #[test]
    fn the_owners_of_a_network_are_known() {
        let mut sources = Sources::default();
        let ids: Vec<SourceId> = ["x", "y", "z"]
            .map(|name| set(&mut sources, name, "", &[], &["10.0.0.1/32"]).unwrap().id)
            .to_vec();
        let net = "10.0.0.1/32".parse().unwrap();
        let others = |sources: &Sources, id| sources.other_owners(&net, id).collect::<Vec<_>>();
        assert_eq!(others(&sources, ids[0]), ids[1..]);
        sources.remove(&SourceKey::Pod("y".into()));
        assert_eq!(others(&sources, ids[0]), [ids[2]]);
        set(&mut sources, "x", "", &[], &[]);
        assert_eq!(others(&sources, ids[0]), [ids[2]]);
        assert!(others(&sources, ids[2]).is_empty());
        sources.remove(&SourceKey::Pod("z".into()));
        assert!(sources.owners.is_empty());
    }

    #[test]
    fn nothing_stays_once_everything_is_gone() {
        let mut sources = Sources::default();
        sources.set_inheritance("p", Some(&labels("a=p")));
        set(&mut sources, "x", "a=1,b=1", &["p"], &["10.0.0.1/32"]);
        set(&mut sources, "x", "a=2", &["q", "p"], &["10.0.0.2/32"]);
        sources.set_inheritance("p", Some(&labels("a=q")));
        sources.remove(&SourceKey::Pod("x".into()));
        sources.set_inheritance("p", None);
        sources.symbols.sweep();
        assert!(sources.heirs.is_empty() && sources.owners.is_empty() && sources.inheritances.is_empty());
        assert_eq!(sources.symbols.len(), 0);
    }
}
