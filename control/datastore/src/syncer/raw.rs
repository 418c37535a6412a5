//! An object as the API server sent it, whatever it is.
//!
//! kube-rs gives up a whole list when one object of it does not decode. [`Raw`] always decodes; what it means is looked
//! at afterwards, one object at a time, so that a bad one never stops the others.

use std::borrow::Cow;

use caracal_model::calico;
use caracal_model::object::{Kind, Object, ObjectKey, Update};
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::core::{ApiResource, DynamicResourceScope, Resource};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// A JSON object and as much of its metadata as makes sense.
#[derive(Debug, Clone)]
pub struct Raw {
    metadata: ObjectMeta,
    value: Value,
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(deserializer)?;
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            // Large, and of no interest.
            metadata.remove("managedFields");
        }
        let metadata = value.get("metadata").cloned().unwrap_or_default();
        let metadata = ObjectMeta::deserialize(&metadata).unwrap_or_else(|_| {
            let text = |field: &str| metadata.get(field).and_then(Value::as_str).map(str::to_owned);
            ObjectMeta {
                name: text("name"),
                namespace: text("namespace"),
                uid: text("uid"),
                resource_version: text("resourceVersion"),
                ..ObjectMeta::default()
            }
        });
        Ok(Self { metadata, value })
    }
}

impl Resource for Raw {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl Raw {
    /// Which object it is, if it has a name.
    pub fn key(&self, kind: Kind) -> Option<ObjectKey> {
        let name = self.metadata.name.as_deref().filter(|name| !name.is_empty())?;
        let namespace = self.metadata.namespace.as_deref().unwrap_or("default");
        Some(ObjectKey::new(kind, kind.is_namespaced().then_some(namespace), name))
    }

    /// What tells two versions of an object apart; `None` when the server did not say.
    pub fn version(&self) -> Option<String> {
        let version = self.metadata.resource_version.as_deref().filter(|version| !version.is_empty())?;
        Some(format!("{} {version}", self.metadata.uid.as_deref().unwrap_or_default()))
    }

    /// What the object means, and what was wrong with it. One that cannot be decoded counts as absent, except that a
    /// policy must not fail open: it isolates the pods it selects, or its whole namespace when that is not to be read.
    pub fn update(self, kind: Kind, resource: &ApiResource, key: ObjectKey) -> (Update, Option<String>) {
        let mut value = self.value;
        if let Some(map) = value.as_object_mut() {
            // The items of a list do not say what they are.
            map.insert("apiVersion".to_owned(), resource.api_version.clone().into());
            map.insert("kind".to_owned(), resource.kind.clone().into());
        }
        let value = calico::from_stored(value);
        let spec = value.get("spec").cloned().unwrap_or_default();
        match Object::from_value_lenient(value) {
            // Fields that are unknown here are a newer cluster's.
            Ok((object, _)) => (Update::Upsert(object), None),
            Err(error) => match isolating(kind, &key, &spec) {
                Some(policy) => (
                    Update::Upsert(policy),
                    Some(format!("{error}; it isolates what it selects and allows nothing")),
                ),
                None => (Update::Delete(key), Some(format!("{error}; it counts as absent"))),
            },
        }
    }
}

/// A policy that allows nothing to what `spec` selects; to all that it could select when that cannot be read. `None` for
/// kinds that enforce nothing, and for a ClusterNetworkPolicy of no tier, which is one of them.
fn isolating(kind: Kind, key: &ObjectKey, spec: &Value) -> Option<Object> {
    let metadata = ObjectMeta {
        name: Some(key.name.clone()),
        namespace: key.namespace.clone(),
        ..ObjectMeta::default()
    };
    let text = |field: &str| spec.get(field).and_then(Value::as_str).map(str::to_owned);
    let order = spec.get("order").and_then(Value::as_f64);
    let types = Some(["Ingress", "Egress"].map(str::to_owned).to_vec());
    let deny = || Some(vec![calico::Rule { action: "Deny".to_owned(), ..calico::Rule::default() }]);
    Some(match kind {
        Kind::NetworkPolicy => {
            let pod_selector = spec.get("podSelector").and_then(|s| LabelSelector::deserialize(s).ok());
            let spec =
                NetworkPolicySpec { pod_selector, policy_types: types, ..NetworkPolicySpec::default() };
            NetworkPolicy { metadata, spec: Some(spec) }.into()
        }
        Kind::CalicoNetworkPolicy => {
            let spec = calico::NetworkPolicySpec {
                tier: text("tier"),
                order,
                selector: text("selector"),
                service_account_selector: text("serviceAccountSelector"),
                types,
                ingress: deny(),
                egress: deny(),
                ..calico::NetworkPolicySpec::default()
            };
            Object::CalicoNetworkPolicy(Box::new(calico::Manifest { metadata, spec, status: None }))
        }
        Kind::GlobalNetworkPolicy => {
            let spec = calico::GlobalNetworkPolicySpec {
                tier: text("tier"),
                order,
                selector: text("selector"),
                namespace_selector: text("namespaceSelector"),
                service_account_selector: text("serviceAccountSelector"),
                types,
                ingress: deny(),
                egress: deny(),
                ..calico::GlobalNetworkPolicySpec::default()
            };
            Object::GlobalNetworkPolicy(Box::new(calico::Manifest { metadata, spec, status: None }))
        }
        Kind::ClusterNetworkPolicy => {
            let everybody = Some(LabelSelector::default());
            let subject = spec.get("subject").and_then(|s| calico::ClusterPolicySubject::deserialize(s).ok());
            let subject = subject.filter(|subject| *subject != calico::ClusterPolicySubject::default());
            let all = || calico::ClusterPolicySubject {
                namespaces: Some(LabelSelector::default()),
                ..calico::ClusterPolicySubject::default()
            };
            let from = calico::ClusterPolicyIngressPeer {
                namespaces: everybody.clone(),
                ..calico::ClusterPolicyIngressPeer::default()
            };
            let pods = calico::ClusterPolicyEgressPeer {
                namespaces: everybody,
                ..calico::ClusterPolicyEgressPeer::default()
            };
            let outside = calico::ClusterPolicyEgressPeer {
                networks: Some(["0.0.0.0/0", "::/0"].map(str::to_owned).to_vec()),
                ..calico::ClusterPolicyEgressPeer::default()
            };
            let spec = calico::ClusterNetworkPolicySpec {
                tier: text("tier")?,
                priority: spec.get("priority").and_then(Value::as_i64).unwrap_or_default(),
                subject: subject.unwrap_or_else(all),
                ingress: Some(vec![calico::ClusterPolicyIngressRule {
                    action: "Deny".to_owned(),
                    from: vec![from],
                    ..calico::ClusterPolicyIngressRule::default()
                }]),
                egress: Some(vec![calico::ClusterPolicyEgressRule {
                    action: "Deny".to_owned(),
                    to: vec![pods, outside],
                    ..calico::ClusterPolicyEgressRule::default()
                }]),
            };
            Object::ClusterNetworkPolicy(Box::new(calico::Manifest { metadata, spec, status: None }))
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn update(kind: Kind, value: Value) -> (Update, Option<String>) {
        let raw: Raw = serde_json::from_value(value).unwrap();
        let key = raw.key(kind).unwrap();
        let (group, version) = kind.api_version().split_once('/').unwrap_or(("", kind.api_version()));
        let gvk = kube::core::GroupVersionKind::gvk(group, version, kind.as_str());
        raw.update(kind, &ApiResource::from_gvk_with_plural(&gvk, kind.plural()), key)
    }

    #[test]
    fn an_item_of_a_list_is_known_by_what_was_asked_for() {
        let value = json!({"metadata": {"name": "a", "namespace": "b", "managedFields": [{}]}, "spec": {}});
        let (Update::Upsert(Object::Pod(pod)), None) = update(Kind::Pod, value) else { panic!() };
        assert_eq!(pod.metadata.name.as_deref(), Some("a"));
        assert_eq!(pod.metadata.managed_fields, None);
    }

    #[test]
    fn fields_of_a_newer_cluster_do_no_harm() {
        let (update, problem) = update(
            Kind::Node,
            json!({"metadata": {"name": "n"}, "spec": {"podCIDR": "10.0.0.0/24", "newer": 1}}),
        );
        assert!(matches!(update, Update::Upsert(Object::Node(_))));
        assert_eq!(problem, None);
    }

    #[test]
    fn a_pod_that_makes_no_sense_counts_as_absent() {
        let (update, problem) =
            update(Kind::Pod, json!({"metadata": {"name": "a", "namespace": "b", "labels": 7}, "spec": []}));
        assert!(matches!(update, Update::Delete(key) if key.to_string() == "Pod b/a"));
        assert!(problem.is_some());
    }

    #[test]
    fn a_policy_that_makes_no_sense_isolates_what_it_selects() {
        let (update, problem) = update(
            Kind::NetworkPolicy,
            json!({"metadata": {"name": "p", "namespace": "b"},
                   "spec": {"podSelector": {"matchLabels": {"app": "db"}}, "ingress": "all"}}),
        );
        let Update::Upsert(Object::NetworkPolicy(policy)) = update else { panic!() };
        let spec = policy.spec.unwrap();
        let labels = spec.pod_selector.unwrap().match_labels.unwrap();
        assert_eq!(labels["app"], "db");
        assert_eq!((spec.ingress, spec.egress), (None, None));
        assert_eq!(spec.policy_types.unwrap(), ["Ingress", "Egress"]);
        assert!(problem.unwrap().contains("spec.ingress"));
    }

    #[test]
    fn a_policy_whose_selector_makes_no_sense_isolates_its_namespace() {
        for spec in
            [json!({"podSelector": "all"}), json!("nonsense"), json!({"podSelector": {"matchLabels": [1]}})]
        {
            let value = json!({"metadata": {"name": "p", "namespace": "b"}, "spec": spec});
            let (Update::Upsert(Object::NetworkPolicy(policy)), Some(_)) = update(Kind::NetworkPolicy, value)
            else {
                panic!()
            };
            assert_eq!(policy.metadata.namespace.as_deref(), Some("b"));
            let selector = policy.spec.unwrap().pod_selector.unwrap_or_default();
            assert_eq!((selector.match_labels, selector.match_expressions), (None, None));
        }
    }

    #[test]
    fn calicos_policies_that_make_no_sense_deny_where_they_stand() {
        let spec = json!({"tier": "security", "order": 5, "selector": "app == 'db'", "ingress": "all"});
        let value = json!({"metadata": {"name": "p", "namespace": "b"}, "spec": spec});
        let (Update::Upsert(Object::CalicoNetworkPolicy(policy)), Some(problem)) =
            update(Kind::CalicoNetworkPolicy, value)
        else {
            panic!()
        };
        assert!(problem.contains("spec.ingress"), "{problem}");
        let spec = policy.spec;
        assert_eq!((spec.tier.as_deref(), spec.order), (Some("security"), Some(5.0)));
        assert_eq!(spec.selector.as_deref(), Some("app == 'db'"));
        assert!([spec.ingress, spec.egress].iter().all(|rules| rules.as_ref().unwrap()[0].action == "Deny"));

        let value = json!({"metadata": {"name": "p"}, "spec": "nonsense"});
        let (Update::Upsert(Object::GlobalNetworkPolicy(policy)), Some(_)) =
            update(Kind::GlobalNetworkPolicy, value.clone())
        else {
            panic!()
        };
        assert_eq!(policy.spec.selector, None);
        // What enforces nothing has nothing to fail open.
        for kind in [Kind::ClusterNetworkPolicy, Kind::StagedGlobalNetworkPolicy, Kind::GlobalNetworkSet] {
            assert!(matches!(update(kind, value.clone()), (Update::Delete(_), Some(_))), "{kind}");
        }
        let spec = json!({"tier": "Admin", "priority": 7, "subject": {"pods": 3}, "ingress": []});
        let value = json!({"metadata": {"name": "p"}, "spec": spec});
        let (Update::Upsert(Object::ClusterNetworkPolicy(policy)), Some(_)) =
            update(Kind::ClusterNetworkPolicy, value)
        else {
            panic!()
        };
        assert_eq!((policy.spec.tier.as_str(), policy.spec.priority), ("Admin", 7));
        assert!(policy.spec.subject.namespaces.is_some());
    }

    #[test]
    fn an_object_without_a_name_has_no_key() {
        for value in [json!({}), json!({"metadata": {"name": 7}}), json!({"metadata": []}), json!([1])] {
            let raw: Raw = serde_json::from_value(value).unwrap();
            assert_eq!(raw.key(Kind::Pod), None);
        }
    }
}
