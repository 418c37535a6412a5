//! Profiles: those that exist, and those that endpoints of this node name.
//!
//! A profile is written as an object, or follows from a Namespace or a ServiceAccount, which then counts, or exists without
//! being written. An endpoint may name a profile that is nowhere (yet). It is said without rules then: nothing matches,
//! so the endpoint is cut off rather than left open.

use std::collections::{BTreeMap, BTreeSet};

use caracal_model::convert::default_allow_profile;
use caracal_model::policy::Profile;
use caracal_plane_api as plane;

use crate::delta::{Delta, Flushed};
use crate::ip_sets::{IpSets, SetId};
use crate::rules::Scanner;
use crate::sources::{SourceId, Sources};

/// Where a profile comes from, the origin that counts first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Origin {
    /// A Namespace or a ServiceAccount.
    Derived,
    /// A Profile.
    Written,
    /// None: it is always there.
    WellKnown,
}

/// The vertex for profiles.
#[derive(Debug)]
pub(crate) struct Profiles {
    all: BTreeMap<String, BTreeMap<Origin, Profile>>,
    users: BTreeMap<String, BTreeSet<SourceId>>,
    acquired: BTreeMap<String, Vec<SetId>>,
    messages: Delta<String, plane::Profile>,
}

impl Profiles {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    pub fn new() -> Self {
        let default = default_allow_profile();
        Self {
            all: BTreeMap::from([(default.name.clone(), BTreeMap::from([(Origin::WellKnown, default)]))]),
            users: BTreeMap::new(),
            acquired: BTreeMap::new(),
            messages: Delta::new(),
        }
    }

    fn get(&self, name: &str) -> Option<&Profile> {
        self.all.get(name).and_then(|origins| origins.values().next())
    }

    /// The profile is there, like this, or is gone, as far as an origin says so. Returns the sources whose labels change.
    pub fn set(
        &mut self,
        name: &str,
        origin: Origin,
        profile: Option<Profile>,
        sets: &mut IpSets,
        sources: &mut Sources,
    ) -> Vec<SourceId> {
        let former = self.get(name).cloned();
        let origins = self.all.entry(name.to_owned()).or_default();
        match profile {
            Some(profile) => drop(origins.insert(origin, profile)),
            None => drop(origins.remove(&origin)),
        }
        if origins.is_empty() {
            self.all.remove(name);
        }
        let now = self.get(name);
        if now == former.as_ref() {
            return Vec::new();
        }
        let labels = |profile: Option<&Profile>| profile.map(|profile| profile.labels.clone());
        let (before, labels) = (labels(former.as_ref()), labels(now));
        if self.users.contains_key(name) {
            self.say(name, sets, sources);
        }
        if before == labels { Vec::new() } else { sources.set_inheritance(name, labels.as_ref()) }
    }

    /// A local endpoint names these profiles now, and named those before.
    pub fn endpoint_changed(
        &mut self,
        id: SourceId,
        before: &[String],
        now: &[String],
        sets: &mut IpSets,
        sources: &mut Sources,
    ) {
        for name in now.iter().filter(|name| !before.contains(name)) {
            let users = self.users.entry(name.clone()).or_default();
            if users.insert(id) && users.len() == 1 {
                self.say(name, sets, sources);
            }
        }
        for name in before.iter().filter(|name| !now.contains(name)) {
            let Some(users) = self.users.get_mut(name) else { continue };
            users.remove(&id);
            if users.is_empty() {
                self.users.remove(name);
                self.messages.want(name.clone(), None);
                self.acquired.remove(name).into_iter().flatten().for_each(|set| sets.release(set));
            }
        }
    }

    fn say(&mut self, name: &str, sets: &mut IpSets, sources: &mut Sources) {
        let missing = Profile::default();
        let profile = self.get(name).unwrap_or(&missing);
        let mut scanner = Scanner { sets, sources, acquired: Vec::new() };
        let message = plane::Profile {
            name: name.to_owned(),
            ingress: scanner.rules(&profile.ingress),
            egress: scanner.rules(&profile.egress),
        };
        let acquired = scanner.acquired;
        self.messages.want(name.to_owned(), Some(message));
        // New sets are acquired before old ones are released, so that what both need stays as it is.
        let former = self.acquired.insert(name.to_owned(), acquired);
        former.into_iter().flatten().for_each(|set| sets.release(set));
    }

    /// The difference since the last flush.
    pub fn flush(&mut self) -> Flushed<String, plane::Profile> {
        self.messages.flush()
    }

    /// Every profile as last said.
    pub fn said(&self) -> impl Iterator<Item = &plane::Profile> {
        self.messages.said()
    }
}
