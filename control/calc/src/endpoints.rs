//! All endpoints that have addresses, with the labels they inherit from their profiles.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use caracal_model::convert::PodEndpoint;
use caracal_model::labels::Labels;
use caracal_model::policy::Profile;

/// `namespace/pod`.
pub(crate) type EndpointId = Arc<str>;

/// An endpoint.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Endpoint {
    pub pod: Arc<PodEndpoint>,
    /// Its own labels and those it inherits; its own win.
    pub labels: Labels,
}

/// An endpoint before and after a change; `None` where it is not there.
#[derive(Debug)]
pub(crate) struct EndpointChange {
    pub id: EndpointId,
    pub old: Option<Endpoint>,
    pub new: Option<Endpoint>,
}

/// The vertex that gives endpoints their labels.
///
/// ```text
///   pods ───────► own labels ──────────┐
///   profiles ──► labels to inherit ────┴──► Endpoint{labels}, only where something has changed
/// ```
#[derive(Debug, Default)]
pub(crate) struct Endpoints {
    pub all: BTreeMap<EndpointId, Endpoint>,
    by_profile: BTreeMap<String, BTreeSet<EndpointId>>,
}

impl Endpoints {
    /// The pod is there; it is an endpoint if it has addresses.
    pub fn set(&mut self, pod: PodEndpoint, profiles: &BTreeMap<String, Profile>) -> Option<EndpointChange> {
        let id: EndpointId = format!("{}/{}", pod.namespace, pod.name).into();
        if pod.addresses.is_empty() {
            return self.remove(&id);
        }
        if self.all.get(&id).is_some_and(|known| *known.pod == pod) {
            return None;
        }
        let labels = inherited(&pod, profiles);
        let new = Endpoint { pod: Arc::new(pod), labels };
        let old = self.all.insert(id.clone(), new.clone());
        for profile in old.iter().flat_map(|old| &old.pod.profiles) {
            self.leave(profile, &id);
        }
        for profile in &new.pod.profiles {
            self.by_profile.entry(profile.clone()).or_default().insert(id.clone());
        }
        Some(EndpointChange { id, old, new: Some(new) })
    }

    /// The pod is gone, or is no endpoint any more.
    pub fn remove(&mut self, id: &EndpointId) -> Option<EndpointChange> {
        let old = self.all.remove(id)?;
        for profile in &old.pod.profiles {
            self.leave(profile, id);
        }
        Some(EndpointChange { id: id.clone(), old: Some(old), new: None })
    }

    /// A profile's labels have changed.
    pub fn reinherit(&mut self, profile: &str, profiles: &BTreeMap<String, Profile>) -> Vec<EndpointChange> {
        let mut changes = Vec::new();
        for id in self.by_profile.get(profile).into_iter().flatten() {
            let Some(endpoint) = self.all.get_mut(id) else { continue };
            let labels = inherited(&endpoint.pod, profiles);
            if labels != endpoint.labels {
                let old = endpoint.clone();
                endpoint.labels = labels;
                changes.push(EndpointChange { id: id.clone(), old: Some(old), new: Some(endpoint.clone()) });
            }
        }
        changes
    }

    fn leave(&mut self, profile: &str, id: &EndpointId) {
        if let Some(members) = self.by_profile.get_mut(profile) {
            members.remove(id);
            if members.is_empty() {
                self.by_profile.remove(profile);
            }
        }
    }
}

fn inherited(pod: &PodEndpoint, profiles: &BTreeMap<String, Profile>) -> Labels {
    let mut labels = pod.labels.clone();
    for profile in pod.profiles.iter().filter_map(|name| profiles.get(name)) {
        labels.inherit(&profile.labels);
    }
    labels
}
