//! What is served now: the native rows, and those of CustomResourceDefinitions. A table never changes; another takes its
//! place, and a request is answered by the one that it began with.

use std::sync::Arc;

use serde_json::Value;

use crate::kinds::{NATIVE, Resource};
use crate::openapi::Documents;

/// All rows, in the order of discovery.
pub struct Table {
    rows: Vec<Arc<Resource>>,
    sources: Vec<Source>,
    /// Made when somebody asks.
    pub documents: Documents,
}

/// What one definition is served by.
#[derive(Clone)]
pub struct Source {
    /// The definition's spec and its accepted names: of equal ones the rows are the same.
    pub what: (Value, Value),
    /// One for each served version.
    pub rows: Vec<Arc<Resource>>,
}

/// A group with its versions, the preferred one first.
pub struct Group<'a> {
    /// Empty for the core.
    pub name: &'a str,
    /// `v1`, `v1beta1`.
    pub versions: Vec<&'a str>,
}

impl Table {
    /// The native rows, and those of definitions.
    pub fn with(sources: Vec<Source>) -> Table {
        let custom = sources.iter().flat_map(|source| &source.rows);
        let rows = NATIVE.iter().chain(custom).cloned().collect();
        Table { rows, sources, documents: Documents::default() }
    }

    /// The rows made of this, if some are.
    pub fn source(&self, what: &(Value, Value)) -> Option<Source> {
        self.sources.iter().find(|source| source.what == *what).cloned()
    }

    /// Whether these are its definitions.
    pub fn is_made_of(&self, sources: &[Source]) -> bool {
        self.sources.iter().map(|source| &source.what).eq(sources.iter().map(|source| &source.what))
    }

    /// All rows.
    pub fn rows(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.rows.iter()
    }

    /// Whether this very row is still served.
    pub fn holds(&self, row: &Arc<Resource>) -> bool {
        self.rows.iter().any(|held| Arc::ptr_eq(held, row))
    }

    /// The row of a resource, by the names in its path.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.rows.iter().find(|row| row.is(group, plural) && row.version == version)
    }

    /// The rows of one version of a group.
    pub fn of_version(&self, group: &str, version: &str) -> impl Iterator<Item = &Arc<Resource>> {
        self.rows.iter().filter(move |row| row.group == group && row.version == version)
    }

    /// The served groups.
    pub fn groups(&self) -> Vec<Group<'_>> {
        let mut groups: Vec<Group<'_>> = Vec::new();
        for row in &self.rows {
            match groups.iter_mut().find(|group| group.name == row.group) {
                Some(group) if group.versions.contains(&row.version.as_str()) => {}
                Some(group) => group.versions.push(&row.version),
                None => groups.push(Group { name: &row.group, versions: vec![&row.version] }),
            }
        }
        for group in &mut groups {
            group.versions.sort_by_key(|version| crate::custom::version_order(version));
        }
        groups
    }
}
