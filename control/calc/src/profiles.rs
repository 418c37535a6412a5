//! Profiles: those that exist, and those that endpoints of this node name.
//!
//! An endpoint may name a profile whose object is not there (yet). It is said without rules then: nothing matches, so
//! the endpoint is cut off rather than left open.

use std::collections::{BTreeMap, BTreeSet};

use caracal_model::policy::Profile;
use caracal_plane_api as plane;

use crate::delta::{Delta, Flushed};
use crate::endpoints::{Endpoint, EndpointId};
use crate::ip_sets::{IpSets, SetId};
use crate::rules::Scanner;

/// The vertex for profiles.
#[derive(Debug)]
pub(crate) struct Profiles {
    pub all: BTreeMap<String, Profile>,
    users: BTreeMap<String, BTreeSet<EndpointId>>,
    acquired: BTreeMap<String, Vec<SetId>>,
    messages: Delta<String, plane::Profile>,
}

impl Profiles {
    pub fn new() -> Self {
        Self {
            all: BTreeMap::new(),
            users: BTreeMap::new(),
            acquired: BTreeMap::new(),
            messages: Delta::new(),
        }
    }

    /// The profile is there, like this, or is gone. Returns whether that is a change.
    pub fn set(
        &mut self,
        name: &str,
        profile: Option<Profile>,
        sets: &mut IpSets,
        endpoints: &BTreeMap<EndpointId, Endpoint>,
    ) -> bool {
        if self.all.get(name) == profile.as_ref() {
            return false;
        }
        match profile {
            Some(profile) => drop(self.all.insert(name.to_owned(), profile)),
            None => drop(self.all.remove(name)),
        }
        if self.users.contains_key(name) {
            self.say(name, sets, endpoints);
        }
        true
    }

    /// A local endpoint names these profiles now, and named those before.
    pub fn endpoint_changed(
        &mut self,
        id: &EndpointId,
        before: &[String],
        now: &[String],
        sets: &mut IpSets,
        endpoints: &BTreeMap<EndpointId, Endpoint>,
    ) {
        for name in now.iter().filter(|name| !before.contains(name)) {
            let users = self.users.entry(name.clone()).or_default();
            users.insert(id.clone());
            if users.len() == 1 {
                self.say(name, sets, endpoints);
            }
        }
        for name in before.iter().filter(|name| !now.contains(name)) {
            let Some(users) = self.users.get_mut(name) else { continue };
            users.remove(id);
            if users.is_empty() {
                self.users.remove(name);
                self.messages.want(name.clone(), None);
                self.acquired.remove(name).into_iter().flatten().for_each(|set| sets.release(&set));
            }
        }
    }

    fn say(&mut self, name: &str, sets: &mut IpSets, endpoints: &BTreeMap<EndpointId, Endpoint>) {
        let missing = Profile::default();
        let profile = self.all.get(name).unwrap_or(&missing);
        let mut scanner = Scanner { sets, endpoints, acquired: Vec::new() };
        let message = plane::Profile {
            name: name.to_owned(),
            ingress: scanner.rules(&profile.ingress),
            egress: scanner.rules(&profile.egress),
        };
        let acquired = scanner.acquired;
        self.messages.want(name.to_owned(), Some(message));
        let former = self.acquired.insert(name.to_owned(), acquired);
        former.into_iter().flatten().for_each(|set| sets.release(&set));
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
