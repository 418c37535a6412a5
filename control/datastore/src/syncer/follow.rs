//! One kind's objects as the API server tells them, turned into changes. Pure.

use std::collections::{BTreeMap, BTreeSet};

use caracal_model::object::{Kind, ObjectKey, Update};
use kube::core::ApiResource;
use kube::runtime::watcher::Event;
use tracing::warn;

use super::raw::Raw;

/// Knows which objects there are, and in which version, so that a list becomes the difference to what was known.
#[derive(Debug)]
pub struct Follower {
    kind: Kind,
    resource: ApiResource,
    known: BTreeMap<ObjectKey, Option<String>>,
    /// While a list is coming in: what it has named.
    listed: Option<BTreeSet<ObjectKey>>,
}

impl Follower {
    pub fn new(kind: Kind, resource: ApiResource) -> Self {
        Self { kind, resource, known: BTreeMap::new(), listed: None }
    }

    /// Whether a list is coming in.
    pub fn is_listing(&self) -> bool {
        self.listed.is_some()
    }

    /// Takes an event; returns the changes, and whether a list is complete with it.
    pub fn on(&mut self, event: Event<Raw>) -> (Vec<Update>, bool) {
        match event {
            Event::Init => {
                // A list that broke off counts for nothing.
                self.listed = Some(BTreeSet::new());
                (Vec::new(), false)
            }
            Event::InitApply(raw) | Event::Apply(raw) => (self.apply(raw).into_iter().collect(), false),
            Event::Delete(raw) => (self.delete(&raw).into_iter().collect(), false),
            Event::InitDone => {
                let listed = self.listed.take().unwrap_or_default();
                let gone: Vec<ObjectKey> =
                    self.known.keys().filter(|key| !listed.contains(*key)).cloned().collect();
                self.known.retain(|key, _| listed.contains(key));
                (gone.into_iter().map(Update::Delete).collect(), true)
            }
        }
    }

    fn apply(&mut self, raw: Raw) -> Option<Update> {
        let Some(key) = raw.key(self.kind) else {
            warn!(kind = %self.kind, "the API server sent an object without a name; ignored");
            return None;
        };
        if let Some(listed) = &mut self.listed {
            listed.insert(key.clone());
        }
        let version = raw.version();
        if version.is_some() && self.known.get(&key) == Some(&version) {
            return None;
        }
        self.known.insert(key.clone(), version);
        let (update, problem) = raw.update(self.kind, &self.resource, key.clone());
        if let Some(problem) = problem {
            warn!("{key}: {problem}");
        }
        Some(update)
    }

    fn delete(&mut self, raw: &Raw) -> Option<Update> {
        let key = raw.key(self.kind)?;
        self.known.remove(&key);
        if let Some(listed) = &mut self.listed {
            listed.remove(&key);
        }
        Some(Update::Delete(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pods() -> Follower {
        Follower::new(Kind::Pod, ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&()))
    }

    fn pod(name: &str, version: u64) -> Raw {
        let metadata =
            json!({"name": name, "namespace": "default", "resourceVersion": version.to_string(), "uid": "u"});
        serde_json::from_value(json!({ "metadata": metadata })).unwrap()
    }

    fn list(follower: &mut Follower, pods: Vec<Raw>) -> Vec<String> {
        let events =
            [Event::Init].into_iter().chain(pods.into_iter().map(Event::InitApply)).chain([Event::InitDone]);
        let updates: Vec<(Vec<Update>, bool)> = events.map(|event| follower.on(event)).collect();
        assert!(updates.last().unwrap().1 && updates.iter().filter(|u| u.1).count() == 1);
        updates.into_iter().flat_map(|u| u.0).map(text).collect()
    }

    fn text(update: Update) -> String {
        match update {
            Update::Upsert(object) => format!("+{}", object.key().name),
            Update::Delete(key) => format!("-{}", key.name),
        }
    }

    fn on(follower: &mut Follower, event: Event<Raw>) -> Vec<String> {
        follower.on(event).0.into_iter().map(text).collect()
    }

    #[test]
    fn a_second_list_is_told_as_the_difference() {
        let mut follower = pods();
        assert_eq!(list(&mut follower, vec![pod("a", 1), pod("b", 2), pod("c", 3)]), ["+a", "+b", "+c"]);
        assert_eq!(list(&mut follower, vec![pod("a", 1), pod("c", 9), pod("d", 4)]), ["+c", "+d", "-b"]);
        assert_eq!(list(&mut follower, vec![]), ["-a", "-c", "-d"]);
    }

    #[test]
    fn a_list_that_breaks_off_deletes_nothing() {
        let mut follower = pods();
        list(&mut follower, vec![pod("a", 1), pod("b", 2)]);
        assert_eq!(on(&mut follower, Event::Init), Vec::<String>::new());
        assert_eq!(on(&mut follower, Event::InitApply(pod("a", 1))), Vec::<String>::new());
        // The server went away; the next list starts from the beginning.
        assert_eq!(list(&mut follower, vec![pod("b", 2)]), ["-a"]);
    }

    #[test]
    fn watch_events_are_told_as_they_come() {
        let mut follower = pods();
        list(&mut follower, vec![pod("a", 1)]);
        assert_eq!(on(&mut follower, Event::Apply(pod("b", 2))), ["+b"]);
        assert_eq!(on(&mut follower, Event::Apply(pod("b", 3))), ["+b"]);
        assert_eq!(on(&mut follower, Event::Delete(pod("a", 4))), ["-a"]);
        // A watch that starts over may tell again what is known.
        assert_eq!(on(&mut follower, Event::Apply(pod("b", 3))), Vec::<String>::new());
        assert_eq!(list(&mut follower, vec![pod("b", 3)]), Vec::<String>::new());
    }

    #[test]
    fn an_object_made_anew_under_the_same_name_is_told() {
        let mut follower = pods();
        list(&mut follower, vec![pod("a", 1)]);
        on(&mut follower, Event::Delete(pod("a", 2)));
        assert_eq!(on(&mut follower, Event::Apply(pod("a", 1))), ["+a"]);
    }
}
