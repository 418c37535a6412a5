//! Labels: a sorted map of keys to values.

use std::collections::BTreeMap;
use std::fmt;

/// The labels of an object, its own or with those it inherits.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    /// No labels.
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of `key`, if it is there; an empty value is a value.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Whether `key` is there, with whatever value.
    pub fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// Sets `key`; the former value, if any, is replaced.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.0.insert(key.into(), value.into());
    }

    /// Adds those of `other` whose keys are not here yet: an object's own labels win over inherited ones.
    pub fn inherit(&mut self, other: &Labels) {
        for (key, value) in &other.0 {
            if !self.0.contains_key(key) {
                self.0.insert(key.clone(), value.clone());
            }
        }
    }

    /// In order of keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

impl From<&BTreeMap<String, String>> for Labels {
    fn from(map: &BTreeMap<String, String>) -> Self {
        Self(map.clone())
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (key, value)) in self.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{key}={value}")?;
        }
        Ok(())
    }
}

/// Keys that Calico's model adds to an endpoint's labels, and the prefixes of those it inherits.
pub mod key {
    /// The namespace of the endpoint.
    pub const NAMESPACE: &str = "projectcalico.org/namespace";
    /// What made the endpoint: `k8s`. Only pods have it.
    pub const ORCHESTRATOR: &str = "projectcalico.org/orchestrator";
    /// The service account of the endpoint, when its name is short enough to be a label's value.
    pub const SERVICE_ACCOUNT: &str = "projectcalico.org/serviceaccount";
    /// Prefix of the labels of the endpoint's namespace.
    pub const NAMESPACE_PREFIX: &str = "pcns.";
    /// Prefix of the labels of the endpoint's service account.
    pub const SERVICE_ACCOUNT_PREFIX: &str = "pcsa.";
    /// After a prefix: the name of the namespace or the service account.
    pub const NAME: &str = "projectcalico.org/name";
}
