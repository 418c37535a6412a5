//! The smallest single change to a policy that makes the verdict the other one.
//!
//! Candidates come from what the walk met, the least intrusive first; each is applied to the objects, judged by the
//! production code, and taken back. The first that flips the verdict is shown.

use caracal_dataplane::table::{Asked, Found as FoundStep, RuleAction, RuleName, RuleOwner};
use caracal_model::case::World;
use caracal_model::object::{Kind, Object};
use serde_json::{Value, json};

use super::cluster::{Cluster, Walk};
use super::document::Change;
use super::edit::{Edit, Editor};
use super::words::{host_endpoint_labels, own_labels};
use super::{ExplainError, policy};

/// The most candidates that are judged: explaining is for people who wait for it.
const CANDIDATES_MAX: usize = 400;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub change: Option<Change>,
    /// Where no single change can: what each end that denies needs.
    pub needs: Vec<Change>,
    pub notes: Vec<String>,
}

/// A candidate: the object as it is (None: it would be a new one) and the edit.
struct Candidate<'a> {
    original: Option<&'a Object>,
    edit: Edit,
}

/// Looks for the change.
pub(super) fn find(
    world: &World,
    cluster: &mut Cluster,
    walks: &[Walk],
    verdict: &str,
) -> Result<Found, ExplainError> {
    let mut found = Found::default();
    let denying: Vec<&Walk> = walks.iter().filter(|walk| !walk.allow).collect();
    if walks.is_empty() {
        found.notes.push("no policy looks at this flow: a host always reaches its own pods".to_owned());
        return Ok(found);
    }
    if verdict == "deny" && denying.is_empty() {
        found
            .notes
            .push("policy lets it pass at each end; it is refused by something that is no policy".to_owned());
        return Ok(found);
    }
    let wants_allow = verdict == "deny";
    let ends: Vec<&Walk> = if wants_allow { denying.clone() } else { walks.iter().collect() };
    let mut candidates: Vec<Candidate<'_>> =
        ends.iter().flat_map(|walk| candidates(world, walk, wants_allow)).collect();
    candidates.sort_by_key(|candidate| candidate.edit.cost);
    for candidate in candidates.iter().take(CANDIDATES_MAX) {
        if flips(world, cluster, candidate, wants_allow, None)? {
            found.change = Some(change(candidate));
            return Ok(found);
        }
    }
    if denying.len() > 1 {
        found.notes.push("both ends deny it: no single change is enough".to_owned());
    }
    for walk in &denying {
        let mine = self::candidates(world, walk, true);
        let mut mine: Vec<&Candidate<'_>> = mine.iter().collect();
        mine.sort_by_key(|candidate| candidate.edit.cost);
        for candidate in mine.into_iter().take(CANDIDATES_MAX) {
            if flips(world, cluster, candidate, true, Some(&walk.endpoint))? {
                found.needs.push(change(candidate));
                break;
            }
        }
    }
    if found.needs.is_empty() {
        found.notes.push("no single change to a policy would make it otherwise".to_owned());
    }
    Ok(found)
}

/// Whether the edited object makes the verdict the wanted one, however it is written: everywhere, or at one end.
fn flips(
    world: &World,
    cluster: &mut Cluster,
    candidate: &Candidate<'_>,
    wants_allow: bool,
    at: Option<&str>,
) -> Result<bool, ExplainError> {
    for written in readings(candidate) {
        let Ok(edited) = Object::accept(written) else { return Ok(false) };
        if cluster.passes_with(world, edited, candidate.original, at)? != Some(wants_allow) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The edited object as an API server holds it, and, where its types are no more than the default, as the manifest may be
/// that does not give them: there the edit may change the types, too.
fn readings(candidate: &Candidate<'_>) -> Vec<Value> {
    let edited = &candidate.edit.value;
    let mut readings = vec![edited.clone()];
    let original = candidate.original.map(Object::to_value);
    let is_default = |original: &Value| {
        Object::accept(without_types(original)).is_ok_and(|read| read.to_value() == *original)
    };
    if original.is_some_and(|original| without_types(&original) != original && is_default(&original)) {
        readings.push(without_types(edited));
    }
    readings
}

fn without_types(policy: &Value) -> Value {
    let mut policy = policy.clone();
    if let Some(spec) = policy.get_mut("spec").and_then(Value::as_object_mut) {
        spec.remove("types");
        spec.remove("policyTypes");
    }
    policy
}

fn change(candidate: &Candidate<'_>) -> Change {
    let edit = &candidate.edit;
    let text =
        |pointer: &str| edit.value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let kind = text("/kind");
    let is_kubernetes = text("/apiVersion").starts_with("networking.k8s.io/");
    Change {
        kind: if is_kubernetes { "KubernetesNetworkPolicy".to_owned() } else { kind },
        namespace: text("/metadata/namespace"),
        name: text("/metadata/name"),
        field: edit.field.clone(),
        from: edit.from.clone(),
        to: edit.to.clone(),
        description: edit.description.clone(),
    }
}

fn candidates<'a>(world: &'a World, walk: &Walk, wants_allow: bool) -> Vec<Candidate<'a>> {
    if wants_allow { allowing(world, walk) } else { denying(world, walk) }
}

/// The rules that the walk met, with their policies: the owner, the index as converted, and what became of it.
fn rules_met(walk: &Walk) -> impl Iterator<Item = (&RuleOwner, usize, RuleAction, &FoundStep)> {
    let explanations = walk.hooks.iter().filter_map(|(_, explanation)| explanation.as_ref());
    explanations.flat_map(|explanation| &explanation.steps).filter_map(|step| match &step.what {
        Asked::Rule(RuleName::Rule { policy, index, action, .. }) => {
            Some((policy, *index as usize, *action, &step.found))
        }
        _ => None,
    })
}

/// The object of a rule that was met, and the index of the rule as written.
fn written<'a>(
    world: &'a World,
    walk: &Walk,
    owner: &RuleOwner,
    index: usize,
) -> Option<(&'a Object, usize)> {
    let object = policy::object_of(world, owner)?;
    let origin = policy::origins(object, walk.direction).get(index).copied()?;
    Some((object, origin))
}

/// What may let a flow pass that is denied at this end.
fn allowing<'a>(world: &'a World, walk: &Walk) -> Vec<Candidate<'a>> {
    let mut candidates = Vec::new();
    let mut seen = Vec::new();
    for (owner, index, action, found) in rules_met(walk) {
        let is_missed = matches!(found, FoundStep::Unmatched(_));
        if !is_missed || !matches!(action, RuleAction::Allow | RuleAction::Pass) {
            continue;
        }
        let Some((object, origin)) = written(world, walk, owner, index) else { continue };
        if seen.contains(&(object.key(), origin)) {
            continue;
        }
        seen.push((object.key(), origin));
        let editor = Editor::new(world, walk, object);
        // Letting a flow pass on is less direct than allowing it.
        let dearer = if action == RuleAction::Pass { 5 } else { 0 };
        let edits = editor.widen(origin).into_iter().map(|edit| Edit { cost: edit.cost + dearer, ..edit });
        candidates.extend(edits.map(|edit| Candidate { original: Some(object), edit }));
    }
    match &walk.decided {
        RuleName::Rule { policy: owner, index, .. } => {
            let Some((object, origin)) = written(world, walk, owner, *index as usize) else {
                return candidates;
            };
            let editor = Editor::new(world, walk, object);
            let mut edits = Vec::new();
            if let Some(rule) = editor.narrow_rule("Allow") {
                edits.extend(editor.insert_rule(30, origin, rule, &editor.narrow_words("Allow")));
            }
            edits.extend(editor.action(origin, "Allow"));
            edits.extend(editor.action(origin, "Pass"));
            edits.extend(editor.narrow(origin));
            edits.extend(editor.deselect());
            candidates.extend(edits.into_iter().map(|edit| Candidate { original: Some(object), edit }));
        }
        RuleName::TierDefault { policies, .. } => {
            for object in policies.iter().filter_map(|owner| policy::object_of(world, owner)) {
                let editor = Editor::new(world, walk, object);
                let mut edits = Vec::new();
                if let Some(rule) = editor.narrow_rule("Allow") {
                    edits.extend(editor.insert_rule(30, usize::MAX, rule, &editor.narrow_words("Allow")));
                }
                edits.extend(editor.deselect());
                candidates.extend(edits.into_iter().map(|edit| Candidate { original: Some(object), edit }));
            }
        }
        // No policy speaks for it, and no profile lets it pass.
        _ => {
            candidates.extend(new_policy(world, walk, "Allow").map(|edit| Candidate { original: None, edit }))
        }
    }
    candidates
}

/// What may keep a flow out that passes at this end.
fn denying<'a>(world: &'a World, walk: &Walk) -> Vec<Candidate<'a>> {
    let mut candidates = Vec::new();
    for (owner, index, action, found) in rules_met(walk) {
        // What decided, and what let the flow go on to another tier.
        if *found != FoundStep::Matched || !matches!(action, RuleAction::Allow | RuleAction::Pass) {
            continue;
        }
        let Some((object, origin)) = written(world, walk, owner, index) else { continue };
        let editor = Editor::new(world, walk, object);
        let mut edits = Vec::new();
        if let Some(rule) = editor.narrow_rule("Deny") {
            edits.extend(editor.insert_rule(15, origin, rule, &editor.narrow_words("Deny")));
        }
        edits.extend(editor.action(origin, "Deny"));
        edits.extend(editor.narrow(origin));
        candidates.extend(edits.into_iter().map(|edit| Candidate { original: Some(object), edit }));
    }
    candidates.extend(new_policy(world, walk, "Deny").map(|edit| Candidate { original: None, edit }));
    candidates
}

/// A policy about just this flow, for an endpoint that no policy speaks for; everything else is left to whoever decided.
fn new_policy(world: &World, walk: &Walk, action: &str) -> Option<Edit> {
    let (kind, namespace, name, labels) = if walk.is_host_endpoint {
        // Without labels, only a policy for every endpoint there is could select it.
        let labels = host_endpoint_labels(world, &walk.endpoint);
        (Kind::GlobalNetworkPolicy, "", walk.endpoint.as_str(), Some(labels).filter(|own| !own.is_empty())?)
    } else {
        let (namespace, name) = walk.endpoint.split_once('/')?;
        (Kind::CalicoNetworkPolicy, namespace, name, own_labels(world, namespace, name))
    };
    let selector: Vec<String> = labels.iter().map(|(key, value)| format!("{key} == '{value}'")).collect();
    let direction = policy::field(walk.direction);
    let mut metadata = json!({"name": format!("{direction}-of-{name}")});
    if !namespace.is_empty() {
        metadata["namespace"] = namespace.into();
    }
    let blank = Object::from_value(json!({
        "apiVersion": kind.api_version(), "kind": kind.as_str(), "metadata": metadata, "spec": {},
    }))
    .ok()?;
    let is_taken = world.objects.iter().any(|object| object.key() == blank.key());
    let editor = Editor::new(world, walk, &blank);
    let rule = editor.narrow_rule(action).filter(|_| !is_taken)?;
    let mut value = editor.value.clone();
    let types = if direction == "ingress" { "Ingress" } else { "Egress" };
    let mut spec = json!({
        "selector": selector.join(" && "), "types": [types], direction: [rule, {"action": "Pass"}],
    });
    if walk.hooks.iter().any(|(hook, _)| *hook == Some("forward")) {
        spec["applyOnForward"] = true.into();
    }
    value.as_object_mut()?.insert("spec".to_owned(), spec.clone());
    let description =
        format!("add a policy that {}, and passes everything else on", editor.narrow_words(action));
    // Whoever receives says who may send.
    let cost = if direction == "ingress" { 90 } else { 91 };
    Some(Edit { cost, field: "spec".to_owned(), from: Value::Null, to: spec, description, value })
}

/// What would be tried at one end, in words.
#[cfg(test)]
pub(super) fn descriptions(world: &World, walk: &Walk, wants_allow: bool) -> Vec<String> {
    candidates(world, walk, wants_allow).into_iter().map(|candidate| candidate.edit.description).collect()
}
