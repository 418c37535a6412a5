//! What the Node object says of its network: the condition `NetworkUnavailable`. While it is True, the cluster's
//! controllers keep new pods away.

use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};

const NETWORK_UNAVAILABLE: &str = "NetworkUnavailable";

/// Whether the node has a network for pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// The data plane has all it must know, and forwards.
    Up,
    /// The agent has ended: pods that are there go on, new ones get no network.
    Down,
}

impl Network {
    fn status_and_reason(self) -> (&'static str, &'static str) {
        match self {
            Self::Up => ("False", "CalicoIsUp"),
            Self::Down => ("True", "CalicoIsDown"),
        }
    }
}

/// The patch (strategic merge) of a Node's status that says so; `None` when it says so already.
#[must_use]
pub fn patch(node: &Node, network: Network, now: &str) -> Option<Value> {
    let (status, reason) = network.status_and_reason();
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let found = conditions.iter().find(|condition| condition.type_ == NETWORK_UNAVAILABLE);
    if found.is_some_and(|found| found.status == status && found.reason.as_deref() == Some(reason)) {
        return None;
    }
    let message = match network {
        Network::Up => "Caracal is running on this node",
        Network::Down => "Caracal's agent is not running on this node",
    };
    let mut condition = json!({
        "type": NETWORK_UNAVAILABLE,
        "status": status,
        "reason": reason,
        "message": message,
        "lastHeartbeatTime": now,
    });
    // The time at which the status, not its reason, changed.
    if found.is_none_or(|found| found.status != status) {
        condition["lastTransitionTime"] = now.into();
    }
    Some(json!({"status": {"conditions": [condition]}}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(conditions: Value) -> Node {
        serde_json::from_value(json!({"metadata": {"name": "node1"}, "status": {"conditions": conditions}}))
            .unwrap()
    }

    #[test]
    fn it_is_written_when_it_says_something_else() {
        let now = "2026-01-01T00:00:00Z";
        let fresh = patch(&node(json!([])), Network::Up, now).unwrap();
        assert_eq!(fresh.pointer("/status/conditions/0/status"), Some(&json!("False")));
        assert_eq!(fresh.pointer("/status/conditions/0/reason"), Some(&json!("CalicoIsUp")));
        assert_eq!(fresh.pointer("/status/conditions/0/lastTransitionTime"), Some(&json!(now)));
        let up = json!([{"type": "NetworkUnavailable", "status": "False", "reason": "CalicoIsUp"}]);
        assert_eq!(patch(&node(up.clone()), Network::Up, now), None);
        assert!(patch(&node(up), Network::Down, now).is_some());
        let routes = json!([{"type": "NetworkUnavailable", "status": "False", "reason": "RouteCreated"}]);
        let same_status = patch(&node(routes), Network::Up, now).unwrap();
        assert_eq!(same_status.pointer("/status/conditions/0/lastTransitionTime"), None);
    }
}
