//! Policies as their users wrote them: the object of a rule that decided, and which of its rules that was.

use caracal_dataplane::table::{FlowDirection, RuleOwner};
use caracal_model::case::World;
use caracal_model::convert;
use caracal_model::object::{Kind, Object, ObjectKey};
use serde_json::Value;

/// The object that a policy of the tables was made of.
pub(super) fn object_of<'a>(world: &'a World, owner: &RuleOwner) -> Option<&'a Object> {
    let kind = match &*owner.kind {
        "KubernetesNetworkPolicy" => Kind::NetworkPolicy,
        "NetworkPolicy" => Kind::CalicoNetworkPolicy,
        name => Kind::ALL.iter().copied().find(|kind| kind.as_str() == name)?,
    };
    let namespace = kind.is_namespaced().then_some(&*owner.namespace);
    let key = ObjectKey::new(kind, namespace, &owner.name);
    world.objects.iter().find(|object| object.key() == key)
}

/// As users call a direction in a policy.
pub(super) fn field(direction: FlowDirection) -> &'static str {
    match direction {
        FlowDirection::Ingress => "ingress",
        FlowDirection::Egress => "egress",
    }
}

/// The rules as the user wrote them.
pub(super) fn written_rules(value: &Value, direction: FlowDirection) -> &[Value] {
    let rules = value.get("spec").and_then(|spec| spec.get(field(direction))).and_then(Value::as_array);
    rules.map(Vec::as_slice).unwrap_or_default()
}

/// For each converted rule of an object, the index of the rule that it was made of: one rule of Kubernetes becomes one
/// for each protocol and peer. Conversion goes rule by rule, so what the first n rules become ends where rule n does.
pub(super) fn origins(object: &Object, direction: FlowDirection) -> Vec<usize> {
    let value = object.to_value();
    let count = written_rules(&value, direction).len();
    let mut origins = Vec::new();
    for index in 0..count {
        let mut first_ones = value.clone();
        if let Some(rules) =
            first_ones.pointer_mut(&format!("/spec/{}", field(direction))).and_then(Value::as_array_mut)
        {
            rules.truncate(index + 1);
        }
        let length = Object::from_value(first_ones).map_or(0, |object| converted_length(&object, direction));
        origins.resize(length.max(origins.len()), index);
    }
    origins
}

fn converted_length(object: &Object, direction: FlowDirection) -> usize {
    let converted = match object {
        Object::NetworkPolicy(policy) => Some(convert::network_policy(policy)),
        Object::CalicoNetworkPolicy(policy) => Some(convert::calico_network_policy(policy)),
        Object::GlobalNetworkPolicy(policy) => Some(convert::global_network_policy(policy)),
        Object::ClusterNetworkPolicy(policy) => convert::cluster_network_policy(policy),
        Object::StagedNetworkPolicy(policy) => convert::staged_network_policy(policy),
        Object::StagedGlobalNetworkPolicy(policy) => convert::staged_global_network_policy(policy),
        Object::StagedKubernetesNetworkPolicy(policy) => convert::staged_kubernetes_network_policy(policy),
        _ => None,
    };
    converted.map_or(0, |converted| match direction {
        FlowDirection::Ingress => converted.policy.ingress.len(),
        FlowDirection::Egress => converted.policy.egress.len(),
    })
}
