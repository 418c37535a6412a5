//! What a request's path names. Pure: a path in, a [`Target`] out.
//!
//! ```text
//! /api/v1/namespaces/NAMESPACE/PLURAL/NAME/SUBRESOURCE      /apis/GROUP/VERSION/… for all other groups
//! /api/v1/PLURAL/NAME/SUBRESOURCE                           what belongs to the cluster, or lists of all namespaces
//! ```

use std::sync::Arc;

use crate::kinds::{Resource, Scope};
use crate::table::Table;

/// What is asked for, within the served resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The row of the table.
    pub resource: Arc<Resource>,
    /// None: all namespaces, or a resource of the cluster.
    pub namespace: Option<String>,
    /// None: the collection.
    pub name: Option<String>,
    /// `status`.
    pub subresource: Option<Subresource>,
}

/// A part of an object with verbs of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subresource {
    /// `/status`.
    Status,
}

impl Target {
    /// The target of a path, if it names something that is served.
    pub fn parse(table: &Table, path: &str) -> Option<Target> {
        let parts: Vec<String> =
            path.trim_matches('/').split('/').map(percent_decoded).collect::<Option<_>>()?;
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let find = |plural: &str| table.find(group, version, plural).cloned();
        let (resource, namespace, rest) = match rest {
            // `namespaces/NAME/status` is a namespace's own status.
            ["namespaces", namespace, plural, rest @ ..] if *plural != "status" => {
                let resource = find(plural).filter(|resource| resource.scope == Scope::Namespaced)?;
                (resource, Some((*namespace).to_owned()), rest)
            }
            [plural, rest @ ..] => (find(plural)?, None, rest),
            [] => return None,
        };
        let (name, subresource) = match rest {
            [] => (None, None),
            [name] => (Some(*name), None),
            [name, "status"] if resource.status => (Some(*name), Some(Subresource::Status)),
            _ => return None,
        };
        if name.is_some() && namespace.is_none() && resource.scope == Scope::Namespaced {
            return None;
        }
        Some(Target { resource, namespace, name: name.map(str::to_owned), subresource })
    }
}

/// One path segment with its %XX undone; none if it is empty or not UTF-8.
fn percent_decoded(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            let (high, low) = (digit(rest.next())?, digit(rest.next())?);
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok().filter(|segment| !segment.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    fn parsed(path: &str) -> Option<(&'static str, Option<String>, Option<String>, bool)> {
        let table = Table::with(Vec::new());
        Target::parse(&table, path).map(|t| {
            (
                kinds::find(&t.resource.group, &t.resource.version, &t.resource.plural)
                    .expect("a row")
                    .plural
                    .as_str(),
                t.namespace,
                t.name,
                t.subresource.is_some(),
            )
        })
    }

    #[test]
    fn a_namespace_is_both_a_resource_and_a_prefix() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(parsed("/api/v1/namespaces"), Some(("namespaces", None, None, false)));
        assert_eq!(parsed("/api/v1/namespaces/a"), Some(("namespaces", None, some("a"), false)));
        assert_eq!(parsed("/api/v1/namespaces/a/status"), Some(("namespaces", None, some("a"), true)));
        assert_eq!(parsed("/api/v1/namespaces/a/pods"), Some(("pods", some("a"), None, false)));
        assert_eq!(parsed("/api/v1/namespaces/a/pods/p"), Some(("pods", some("a"), some("p"), false)));
        assert_eq!(parsed("/api/v1/namespaces/a/pods/p/status"), Some(("pods", some("a"), some("p"), true)));
        assert_eq!(parsed("/api/v1/pods"), Some(("pods", None, None, false)));
        assert_eq!(
            parsed("/apis/networking.k8s.io/v1/networkpolicies"),
            Some(("networkpolicies", None, None, false))
        );
    }

    #[test]
    fn what_is_not_served_has_no_target() {
        for path in [
            "/",
            "",
            "/api",
            "/api/v1",
            "/api/v2/pods",
            "/api/v1/networkpolicies",
            "/api/v1/namespaces/a/nodes",
            "/api/v1/pods/p",
            "/api/v1/namespaces/a/pods/p/log",
            "/api/v1/namespaces//pods",
            "/api/v1/namespaces/%ff/pods",
            "/api/v1/namespaces/%2/pods",
        ] {
            assert_eq!(parsed(path), None, "{path}");
        }
    }

    #[test]
    fn escaped_names_are_unescaped() {
        let target = Target::parse(&Table::with(Vec::new()), "/api/v1/nodes/a%2Db").expect("a node");
        assert_eq!(target.name.as_deref(), Some("a-b"));
    }

    proptest::proptest! {
        #[test]
        fn any_path_names_something_or_nothing(path in "(/api/v1|/apis/networking.k8s.io/v1)?(/[^/]{0,6}|/namespaces|/pods|/status|/%[0-9a-z]{0,2}){0,6}/?") {
            if let Some(target) = Target::parse(&Table::with(Vec::new()), &path) {
                let namespaced = target.resource.scope == Scope::Namespaced;
                proptest::prop_assert!(namespaced || target.namespace.is_none());
                proptest::prop_assert!(!namespaced || target.name.is_none() || target.namespace.is_some());
                proptest::prop_assert!(target.name.is_some() || target.subresource.is_none());
            }
        }
    }
}
