//! Pods.

use caracal_model::object::{FieldError, FieldErrorReason};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::node::or_none;
use super::{
    AGE, Column, Moment, NAME, Resource, cause, default_to, items, items_mut, model_defaults, model_validate,
    namespaced, text,
};

/// Their row of the table.
pub fn row() -> Resource {
    Resource {
        short_names: vec!["po".into()],
        categories: vec!["all".into()],
        status: true,
        generation: true,
        names: None,
        fields: &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        validate: model_validate,
        validate_change,
        prepare,
        columns: COLUMNS,
        ..namespaced::<Pod>()
    }
}

const COLUMNS: &[Column] = &[
    NAME,
    Column::text("Ready", "Containers that are ready, of all.", |object, _| {
        let statuses = items(object, "/status/containerStatuses");
        let ready = statuses.iter().filter(|status| status["ready"] == true).count();
        format!("{ready}/{}", items(object, "/spec/containers").len()).into()
    }),
    Column::text("Status", "Where it is in its life.", status),
    Column::text("Restarts", "How often its containers were started again.", |object, _| {
        let statuses = items(object, "/status/containerStatuses");
        let restarts: i64 = statuses.iter().filter_map(|status| status.get("restartCount")?.as_i64()).sum();
        restarts.to_string().into()
    }),
    AGE,
    Column::text("IP", "Its address.", |object, _| or_none(text(object, "/status/podIP"))).wide(),
    Column::text("Node", "Where it runs.", |object, _| or_none(text(object, "/spec/nodeName"))).wide(),
    Column::text("Nominated Node", "Where room is being made for it.", |object, _| {
        or_none(text(object, "/status/nominatedNodeName"))
    })
    .wide(),
    Column::text(
        "Readiness Gates",
        "Conditions that must hold before it is ready, and those that do.",
        |object, _| {
            let gates = items(object, "/spec/readinessGates");
            let conditions = items(object, "/status/conditions");
            let open = gates
                .iter()
                .filter(|gate| {
                    conditions.iter().any(|condition| {
                        condition["type"] == gate["conditionType"] && condition["status"] == "True"
                    })
                })
                .count();
            if gates.is_empty() { or_none("") } else { format!("{open}/{}", gates.len()).into() }
        },
    )
    .wide(),
];

const CONTAINERS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// What a pod is given that does not say it.
pub fn prepare(object: &mut Value, moment: Moment) {
    if moment == Moment::Create {
        object["status"] = json!({ "phase": "Pending", "qosClass": qos_class(object) });
    }
    model_defaults(object);
    let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    // The old name and the new one say the same.
    let account = [text(spec, "/serviceAccountName"), text(spec, "/serviceAccount"), "default"]
        .into_iter()
        .find(|account| !account.is_empty())
        .unwrap_or("default")
        .to_owned();
    spec["serviceAccountName"] = account.clone().into();
    spec["serviceAccount"] = account.into();
    default_to(spec, "restartPolicy", "Always");
    default_to(spec, "terminationGracePeriodSeconds", 30);
    default_to(spec, "dnsPolicy", "ClusterFirst");
    default_to(spec, "securityContext", json!({}));
    default_to(spec, "schedulerName", "default-scheduler");
    default_to(spec, "enableServiceLinks", true);
    let host_network = spec["hostNetwork"] == true;
    for list in CONTAINERS {
        for container in items_mut(spec, &format!("/{list}")) {
            let image = text(container, "/image").to_owned();
            let latest = image.ends_with(":latest")
                || !image.rsplit('/').next().is_some_and(|name| name.contains([':', '@']));
            default_to(container, "imagePullPolicy", if latest { "Always" } else { "IfNotPresent" });
            default_to(container, "resources", json!({}));
            default_to(container, "terminationMessagePath", "/dev/termination-log");
            default_to(container, "terminationMessagePolicy", "File");
            for port in items_mut(container, "/ports") {
                if host_network {
                    let port_number = port["containerPort"].clone();
                    default_to(port, "hostPort", port_number);
                }
            }
        }
    }
}

/// Guaranteed, Burstable or BestEffort, by the containers' requests and limits of CPU and memory.
fn qos_class(object: &Value) -> &'static str {
    let containers =
        || ["/spec/containers", "/spec/initContainers"].into_iter().flat_map(|at| items(object, at));
    let amount = |container: &Value, list: &str, what: &str| {
        container.pointer(&format!("/resources/{list}/{what}")).cloned().filter(|amount| *amount != "0")
    };
    let mut any = false;
    let mut all = true;
    for container in containers() {
        for what in ["cpu", "memory"] {
            let (request, limit) = (amount(container, "requests", what), amount(container, "limits", what));
            any |= request.is_some() || limit.is_some();
            all &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// A pod's spec stays as it was made, but for a few fields.
fn validate_change(before: &Value, after: &Value) -> Vec<FieldError> {
    fn fixed(pod: &Value) -> Value {
        let mut spec = pod.get("spec").cloned().unwrap_or(Value::Null);
        if let Some(map) = spec.as_object_mut() {
            for free in
                ["activeDeadlineSeconds", "terminationGracePeriodSeconds", "tolerations", "schedulingGates"]
            {
                map.remove(free);
            }
        }
        for list in CONTAINERS {
            for container in items_mut(&mut spec, &format!("/{list}")) {
                if let Some(map) = container.as_object_mut() {
                    map.remove("image");
                }
            }
        }
        spec
    }
    if fixed(before) == fixed(after) {
        return Vec::new();
    }
    let why = "Forbidden: pod updates may not change fields other than `spec.containers[*].image`, \
                  `spec.initContainers[*].image`, `spec.activeDeadlineSeconds`, `spec.tolerations` (only additions \
                  to existing tolerations), `spec.terminationGracePeriodSeconds`; delete the pod and make it anew";
    vec![cause("spec", FieldErrorReason::Forbidden, why)]
}

fn status(object: &Value, _: Timestamp) -> Value {
    if !text(object, "/metadata/deletionTimestamp").is_empty() {
        return "Terminating".into();
    }
    let waiting = items(object, "/status/containerStatuses").iter().find_map(|status| {
        ["/state/waiting/reason", "/state/terminated/reason"]
            .map(|at| text(status, at))
            .into_iter()
            .find(|reason| !reason.is_empty())
    });
    let reason = text(object, "/status/reason");
    waiting.unwrap_or(if reason.is_empty() { text(object, "/status/phase") } else { reason }).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_pod_is_pending_whatever_its_manifest_claims() {
        let mut pod = json!({ "spec": { "containers": [{ "name": "a", "image": "x" }] }, "status": { "phase": "Running" } });
        prepare(&mut pod, Moment::Create);
        assert_eq!(pod["status"], json!({ "phase": "Pending", "qosClass": "BestEffort" }));
        assert_eq!(pod["spec"]["serviceAccountName"], "default");
        assert_eq!(pod["spec"]["containers"][0]["imagePullPolicy"], "Always");
    }

    #[test]
    fn a_pod_does_not_move_to_another_node() {
        let pod = |node: &str, image: &str| json!({ "spec": { "nodeName": node, "containers": [{ "image": image }] } });
        assert!(validate_change(&pod("a", "x"), &pod("a", "y")).is_empty());
        assert_eq!(validate_change(&pod("a", "x"), &pod("b", "x"))[0].field, "spec");
    }
}
