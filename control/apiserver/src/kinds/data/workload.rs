//! What pods are made of in a cluster, and how few of them may go at once: DaemonSets, Deployments, Jobs, disruption
//! budgets, priority classes. Their defaults are filled in, because `kubectl describe` relies on them.

use std::collections::BTreeMap;

use caracal_model::convert::label_selector;
use caracal_model::labels::Labels;
use caracal_model::object::{FieldError, FieldErrorReason, validate_label_selector};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::network_policy::selector_text;
use super::super::node::or_none;
use super::super::pod;
use super::super::{AGE, Column, Moment, NAME, cause, default_to, items, model_validate, text};

const fn number(name: &'static str, description: &'static str, cell: Cell) -> Column {
    Column { name, kind: "integer", priority: 0, description, cell }
}

type Cell = fn(&Value, k8s_openapi::jiff::Timestamp) -> Value;

/// A count at a JSON pointer; nothing counted yet is zero.
fn count(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

const CONTAINERS: Column =
    Column::text("Containers", "Their names.", |object, _| of_containers(object, "/name")).wide();
const IMAGES: Column =
    Column::text("Images", "What they run.", |object, _| of_containers(object, "/image")).wide();
const SELECTOR: Column = Column::text("Selector", "The pods that are its own.", |object, _| {
    or_none(&selector_text(object.pointer("/spec/selector")))
})
.wide();

fn of_containers(object: &Value, field: &str) -> Value {
    let containers = items(object, "/spec/template/spec/containers").iter();
    let told: Vec<&str> = containers.map(|container| text(container, field)).collect();
    told.join(",").into()
}

pub const DAEMON_SET: &[Column] = &[
    NAME,
    number("Desired", "Nodes that should run its pod.", |o, _| {
        count(o, "/status/desiredNumberScheduled").into()
    }),
    number("Current", "Nodes that run it.", |o, _| count(o, "/status/currentNumberScheduled").into()),
    number("Ready", "Nodes on which it is ready.", |o, _| count(o, "/status/numberReady").into()),
    number("Up-to-date", "Nodes that run its newest version.", |o, _| {
        count(o, "/status/updatedNumberScheduled").into()
    }),
    number("Available", "Nodes on which it has been ready for long enough.", |o, _| {
        count(o, "/status/numberAvailable").into()
    }),
    Column::text("Node Selector", "The nodes that it is for.", |object, _| {
        let labels = object.pointer("/spec/template/spec/nodeSelector");
        or_none(&selector_text(Some(&json!({ "matchLabels": labels }))))
    }),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub const DEPLOYMENT: &[Column] = &[
    NAME,
    Column::text("Ready", "Pods that are ready, of those that should be.", |object, _| {
        format!("{}/{}", count(object, "/status/readyReplicas"), count(object, "/spec/replicas")).into()
    }),
    number("Up-to-date", "Pods of its newest version.", |o, _| count(o, "/status/updatedReplicas").into()),
    number("Available", "Pods that have been ready for long enough.", |o, _| {
        count(o, "/status/availableReplicas").into()
    }),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub const JOB: &[Column] = &[
    NAME,
    Column::text("Status", "How it stands.", |object, _| {
        let conditions = items(object, "/status/conditions").iter();
        let mut held = conditions.filter(|condition| text(condition, "/status") == "True");
        match held.find_map(|condition| Some(text(condition, "/type")).filter(|kind| *kind != "Suspended")) {
            Some("SuccessCriteriaMet") => "SuccessCriteriaMet",
            Some("FailureTarget") => "FailureTarget",
            Some("Complete") => "Complete",
            Some("Failed") => "Failed",
            _ if object.pointer("/spec/suspend") == Some(&true.into()) => "Suspended",
            _ => "Running",
        }
        .into()
    }),
    Column::text("Completions", "Pods that have succeeded, of those that must.", |object, _| {
        let wanted = object.pointer("/spec/completions").and_then(Value::as_i64).unwrap_or(1);
        format!("{}/{wanted}", count(object, "/status/succeeded")).into()
    }),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub const DISRUPTION_BUDGET: &[Column] = &[
    NAME,
    Column::text("Min Available", "Pods that must stay.", |object, _| {
        number_or_percentage(object, "/spec/minAvailable")
    }),
    Column::text("Max Unavailable", "Pods that may be away.", |object, _| {
        number_or_percentage(object, "/spec/maxUnavailable")
    }),
    number("Allowed Disruptions", "Pods that may go now.", |o, _| {
        count(o, "/status/disruptionsAllowed").into()
    }),
    AGE,
];

pub const PRIORITY_CLASS: &[Column] = &[
    NAME,
    number("Value", "The priority of its pods.", |object, _| count(object, "/value").into()),
    Column {
        name: "Global-Default",
        kind: "boolean",
        priority: 0,
        description: "Whether pods without a class are of this one.",
        cell: |object, _| (object["globalDefault"] == true).into(),
    },
    AGE,
    Column::text("PreemptionPolicy", "Whether its pods push others out.", |object, _| {
        text(object, "/preemptionPolicy").into()
    }),
];

fn number_or_percentage(object: &Value, pointer: &str) -> Value {
    match object.pointer(pointer) {
        Some(Value::Number(number)) => number.to_string().into(),
        Some(Value::String(text)) => text.as_str().into(),
        _ => "N/A".into(),
    }
}

/// What is made has no status yet, whatever its manifest claims.
pub fn without_status(object: &mut Value, moment: Moment) {
    if moment == Moment::Create {
        object["status"] = json!({});
    }
}

pub fn prepare_daemon_set(object: &mut Value, moment: Moment) {
    if moment == Moment::Create {
        object["status"] = json!({
            "currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0,
        });
    }
    let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    prepare_template(spec);
    default_to(spec, "revisionHistoryLimit", 10);
    prepare_strategy(spec, "updateStrategy", json!({ "maxUnavailable": 1, "maxSurge": 0 }));
}

pub fn prepare_deployment(object: &mut Value, moment: Moment) {
    without_status(object, moment);
    let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    prepare_template(spec);
    default_to(spec, "replicas", 1);
    default_to(spec, "revisionHistoryLimit", 10);
    default_to(spec, "progressDeadlineSeconds", 600);
    prepare_strategy(spec, "strategy", json!({ "maxUnavailable": "25%", "maxSurge": "25%" }));
}

/// Pods are replaced a few at a time unless somebody says otherwise.
fn prepare_strategy(spec: &mut Value, field: &str, rolling: Value) {
    default_to(spec, field, json!({}));
    let strategy = &mut spec[field];
    default_to(strategy, "type", "RollingUpdate");
    if text(strategy, "/type") != "RollingUpdate" {
        return;
    }
    default_to(strategy, "rollingUpdate", json!({}));
    for (name, value) in rolling.as_object().into_iter().flatten() {
        default_to(&mut strategy["rollingUpdate"], name, value.clone());
    }
}

pub fn prepare_job(object: &mut Value, moment: Moment) {
    without_status(object, moment);
    let uid = text(object, "/metadata/uid").to_owned();
    let name = text(object, "/metadata/name").to_owned();
    let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    // What makes a job's pods its own, in place of a selector that somebody would have to think of.
    if moment == Moment::Create && spec["manualSelector"] != true && spec.get("selector").is_none() {
        default_to(spec, "template", json!({}));
        let template = &mut spec["template"];
        default_to(template, "metadata", json!({}));
        default_to(&mut template["metadata"], "labels", json!({}));
        let labels = &mut template["metadata"]["labels"];
        for (label, value) in [
            ("batch.kubernetes.io/controller-uid", &uid),
            ("batch.kubernetes.io/job-name", &name),
            ("controller-uid", &uid),
            ("job-name", &name),
        ] {
            default_to(labels, label, value.as_str());
        }
        spec["selector"] = json!({ "matchLabels": { "batch.kubernetes.io/controller-uid": uid } });
    }
    prepare_template(spec);
    default_to(spec, "backoffLimit", 6);
    default_to(spec, "completionMode", "NonIndexed");
    default_to(spec, "suspend", false);
    default_to(spec, "parallelism", 1);
    if spec["parallelism"] == 1 {
        default_to(spec, "completions", 1);
    }
}

/// A template is a pod without a name; here is one, with a name.
fn pod_of(spec: &Value) -> Option<Value> {
    let template = spec.get("template")?;
    let mut metadata = template.get("metadata").filter(|it| it.is_object()).cloned().unwrap_or(json!({}));
    metadata["name"] = "template".into();
    Some(json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template.get("spec")? }))
}

/// Gives the pods' template what pods are given.
fn prepare_template(spec: &mut Value) {
    let Some(mut pod) = pod_of(spec) else { return };
    let account = ["/spec/serviceAccountName", "/spec/serviceAccount"].map(|at| text(&pod, at).is_empty());
    pod::prepare(&mut pod, Moment::Update);
    // Which account it is when none is named is said to the pod, not to the template.
    if account == [true, true]
        && let Some(map) = pod["spec"].as_object_mut()
    {
        map.remove("serviceAccount");
        map.remove("serviceAccountName");
    }
    spec["template"]["spec"] = pod["spec"].take();
}

/// Everything wrong with the template, as if it were a pod.
fn judge_template(object: &Value, causes: &mut Vec<FieldError>) {
    let Some(pod) = object.get("spec").and_then(pod_of) else {
        causes.push(cause("spec.template.spec.containers", FieldErrorReason::Required, "Required value"));
        return;
    };
    for error in model_validate(&pod) {
        causes.push(FieldError { field: format!("spec.template.{}", error.field), ..error });
    }
}

/// The labels of the template's pods.
fn template_labels(object: &Value) -> Labels {
    let mut labels = Labels::new();
    let sent = object.pointer("/spec/template/metadata/labels").and_then(Value::as_object);
    for (key, value) in sent.into_iter().flatten() {
        labels.set(key.as_str(), value.as_str().unwrap_or(""));
    }
    labels
}

/// The selector is good, not empty, and that of the template's pods.
fn judge_selector(object: &Value, causes: &mut Vec<FieldError>) {
    let selector = object.pointer("/spec/selector").and_then(|it| LabelSelector::deserialize(it).ok());
    let Some(selector) = selector else { return };
    let wrong = validate_label_selector("spec.selector", &selector);
    if !wrong.is_empty() {
        causes.extend(wrong);
        return;
    }
    if selector == LabelSelector::default()
        || selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
            && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
    {
        let why = "Invalid value: {}: empty selector is invalid: it would select every pod";
        causes.push(cause("spec.selector", FieldErrorReason::Invalid, why));
        return;
    }
    let labels = template_labels(object);
    if label_selector("spec.selector", &selector).is_ok_and(|selector| !selector.matches(&labels)) {
        let sent = object.pointer("/spec/template/metadata/labels").unwrap_or(&Value::Null);
        let why = format!("Invalid value: {sent}: `selector` does not match template `labels`");
        causes.push(cause("spec.template.metadata.labels", FieldErrorReason::Invalid, why));
    }
}

/// Refuses a text that is none of these; an absent one is given its default elsewhere.
fn one_of(object: &Value, pointer: &str, supported: &[&str], causes: &mut Vec<FieldError>) {
    let sent = text(object, pointer);
    if !sent.is_empty() && !supported.contains(&sent) {
        let named: Vec<String> = supported.iter().map(|text| format!("{text:?}")).collect();
        let why = format!("Unsupported value: {sent:?}: supported values: {}", named.join(", "));
        let field = pointer.trim_start_matches('/').replace('/', ".");
        causes.push(cause(&field, FieldErrorReason::NotSupported, why));
    }
}

fn not_negative(object: &Value, fields: &[&str], causes: &mut Vec<FieldError>) {
    for field in fields {
        if let Some(number) = object["spec"][*field].as_i64().filter(|number| *number < 0) {
            let why = format!("Invalid value: {number}: must be greater than or equal to 0");
            causes.push(cause(&format!("spec.{field}"), FieldErrorReason::Invalid, why));
        }
    }
}

/// DaemonSets and Deployments: they find their pods by a selector that their template matches.
pub fn selects_its_pods(object: &Value) -> Vec<FieldError> {
    let mut causes = Vec::new();
    judge_selector(object, &mut causes);
    judge_template(object, &mut causes);
    one_of(object, "/spec/template/spec/restartPolicy", &["Always"], &mut causes);
    one_of(object, "/spec/updateStrategy/type", &["RollingUpdate", "OnDelete"], &mut causes);
    one_of(object, "/spec/strategy/type", &["RollingUpdate", "Recreate"], &mut causes);
    let counts = ["replicas", "minReadySeconds", "revisionHistoryLimit"];
    not_negative(object, &counts, &mut causes);
    causes
}

fn fixed(before: &Value, after: &Value, field: &str) -> Vec<FieldError> {
    let pointer = format!("/{}", field.replace('.', "/"));
    let (old, new) = (before.pointer(&pointer), after.pointer(&pointer));
    if old == new {
        return Vec::new();
    }
    let why = format!("Invalid value: {}: field is immutable", new.unwrap_or(&Value::Null));
    vec![cause(field, FieldErrorReason::Invalid, why)]
}

pub fn keeps_its_selector(before: &Value, after: &Value) -> Vec<FieldError> {
    fixed(before, after, "spec.selector")
}

pub fn job(object: &Value) -> Vec<FieldError> {
    let mut causes = Vec::new();
    judge_selector(object, &mut causes);
    judge_template(object, &mut causes);
    if !["OnFailure", "Never"].contains(&text(object, "/spec/template/spec/restartPolicy")) {
        let why = format!(
            "Unsupported value: {}: supported values: \"OnFailure\", \"Never\"",
            object.pointer("/spec/template/spec/restartPolicy").unwrap_or(&Value::Null)
        );
        causes.push(cause("spec.template.spec.restartPolicy", FieldErrorReason::NotSupported, why));
    }
    one_of(object, "/spec/completionMode", &["NonIndexed", "Indexed"], &mut causes);
    let counts = ["parallelism", "completions", "backoffLimit", "ttlSecondsAfterFinished"];
    not_negative(object, &counts, &mut causes);
    causes
}

pub fn keeps_its_template(before: &Value, after: &Value) -> Vec<FieldError> {
    let fields = ["spec.selector", "spec.template", "spec.completionMode"];
    fields.into_iter().flat_map(|field| fixed(before, after, field)).collect()
}

pub fn disruption_budget(object: &Value) -> Vec<FieldError> {
    let mut causes = Vec::new();
    let (least, most) = (object.pointer("/spec/minAvailable"), object.pointer("/spec/maxUnavailable"));
    if least.is_some() && most.is_some() {
        let why = "Invalid value: minAvailable and maxUnavailable cannot be both set";
        causes.push(cause("spec", FieldErrorReason::Invalid, why));
    }
    for (field, value) in [("minAvailable", least), ("maxUnavailable", most)] {
        let good = match value {
            Some(Value::Number(number)) => number.as_i64().is_some_and(|number| number >= 0),
            Some(Value::String(text)) => {
                let number = text.strip_suffix('%').and_then(|number| number.parse::<u8>().ok());
                number.is_some_and(|number| number <= 100)
            }
            _ => true,
        };
        if !good {
            let told = value.unwrap_or(&Value::Null);
            let why = format!("Invalid value: {told}: must be a number of pods, or a percentage of them");
            causes.push(cause(&format!("spec.{field}"), FieldErrorReason::Invalid, why));
        }
    }
    let selector = object.pointer("/spec/selector").and_then(|it| LabelSelector::deserialize(it).ok());
    causes.extend(selector.iter().flat_map(|it| validate_label_selector("spec.selector", it)));
    let policies = ["IfHealthyBudget", "AlwaysAllow"];
    one_of(object, "/spec/unhealthyPodEvictionPolicy", &policies, &mut causes);
    causes
}

const PREEMPT: &str = "PreemptLowerPriority";
/// The highest value that is not Kubernetes' own.
const USERS_MOST: i64 = 1_000_000_000;
const SYSTEM: &str = "system-";

pub fn prepare_priority_class(object: &mut Value, _: Moment) {
    default_to(object, "preemptionPolicy", PREEMPT);
}

pub fn priority_class(object: &Value) -> Vec<FieldError> {
    let mut causes = Vec::new();
    one_of(object, "/preemptionPolicy", &[PREEMPT, "Never"], &mut causes);
    let (name, value) = (text(object, "/metadata/name"), count(object, "/value"));
    if name.starts_with(SYSTEM) && !["system-node-critical", "system-cluster-critical"].contains(&name) {
        let why = format!("Forbidden: priority class names with '{SYSTEM}' prefix are reserved");
        causes.push(cause("metadata.name", FieldErrorReason::Forbidden, why));
    }
    if value > USERS_MOST && !name.starts_with(SYSTEM) {
        let why = format!("Forbidden: maximum allowed value of a user defined priority is {USERS_MOST}");
        causes.push(cause("value", FieldErrorReason::Forbidden, why));
    }
    causes
}

pub fn keeps_its_value(before: &Value, after: &Value) -> Vec<FieldError> {
    let mut causes = fixed(before, after, "value");
    causes.extend(fixed(before, after, "preemptionPolicy"));
    causes
}
