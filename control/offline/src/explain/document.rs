//! The explanation as a document: for programs as it is, for people as a tree of it.

use caracal_dataplane::table::{Asked, Explanation, FlowDirection, Found, RuleAction, RuleName, RuleOwner};
use caracal_model::case::World;
use serde::Serialize;
use serde_json::Value;

use super::change::Found as FoundChange;
use super::cluster::{Cluster, Walk};
use super::{policy, words};

/// What becomes of a flow, and why.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explained {
    /// `allow`, `deny`, or `allow-untracked` at a host endpoint.
    pub verdict: String,
    /// The rule, tier, profile or drop reason that decided.
    pub decided_by: String,
    /// Wherever policy looks at the flow: the sender's end first.
    pub ends: Vec<EndReport>,
    /// The smallest single change to a policy that would make it the other verdict.
    pub change: Option<Change>,
    /// Where no single change can: what each end needs.
    pub needs: Vec<Change>,
    /// What else is to be known.
    pub notes: Vec<String>,
}

/// One end.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndReport {
    /// `namespace/pod`, or a host endpoint's name.
    pub endpoint: String,
    /// `ingress` or `egress`.
    pub direction: String,
    /// `allow` or `deny`.
    pub verdict: String,
    /// What decided here.
    pub decided_by: String,
    /// The tiers that apply, in order.
    pub tiers: Vec<TierReport>,
    /// What the profiles say, if they are asked.
    pub profiles: Vec<ProfileReport>,
    /// What would become of it if staged policies were enforced; null when none concerns it.
    pub staged: Option<StagedReport>,
}

/// A tier.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TierReport {
    /// Its name.
    pub name: String,
    /// At a host endpoint: untracked, preDNAT, normal or forward.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hook: Option<String>,
    /// `allow`, `deny`, `pass`, `default-deny`, `default-pass`, `not-reached`.
    pub result: String,
    /// The policies that apply, in order.
    pub policies: Vec<PolicyReport>,
}

/// A policy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PolicyReport {
    /// Its kind.
    pub kind: String,
    /// Its namespace; empty for kinds without.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its rules in this direction.
    pub rules: Vec<RuleReport>,
}

/// A rule, as written.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RuleReport {
    /// Its place in the policy, counted from 0.
    pub index: usize,
    /// Allow, Deny, Pass or Log.
    pub action: String,
    /// `matched`, `missed` or `not-reached`.
    pub outcome: String,
    /// The fields that did not hold.
    pub mismatches: Vec<MismatchReport>,
}

/// A field that did not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MismatchReport {
    /// Which, within the rule.
    pub field: String,
    /// What it asks, and what the packet is.
    pub why: String,
}

/// A rule of a profile.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProfileReport {
    /// The profile.
    pub name: String,
    /// Its rule, counted from 0.
    pub index: usize,
    /// What it says.
    pub action: String,
    /// `matched`, `missed` or `not-reached`.
    pub outcome: String,
}

/// What staged policies would make of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StagedReport {
    /// `allow` or `deny`.
    pub verdict: String,
    /// What would decide.
    pub decided_by: String,
    /// The tiers as they would be.
    pub tiers: Vec<TierReport>,
}

/// A change to an object.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// The object's kind.
    pub kind: String,
    /// Its namespace; empty for kinds without.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The field that changes.
    pub field: String,
    /// What is there; null when it is added.
    pub from: Value,
    /// What would be there; null when it is removed.
    pub to: Value,
    /// The change in words.
    pub description: String,
}

/// Puts everything together.
pub(super) fn document(
    world: &World,
    cluster: &Cluster,
    walks: &[Walk],
    (verdict, decided_by): (String, String),
    found: FoundChange,
) -> Explained {
    Explained {
        verdict,
        decided_by,
        ends: walks.iter().map(|walk| end(world, cluster, walk)).collect(),
        change: found.change,
        needs: found.needs,
        notes: found.notes,
    }
}

fn verdict(allow: bool) -> String {
    if allow { "allow" } else { "deny" }.to_owned()
}

fn end(world: &World, cluster: &Cluster, walk: &Walk) -> EndReport {
    let mut tiers = Vec::new();
    let mut profiles = Vec::new();
    for (hook, explanation) in &walk.hooks {
        let Some(explanation) = explanation else {
            let name = "failsafe ports".to_owned();
            tiers.push(TierReport {
                name,
                hook: hook.map(str::to_owned),
                result: "allow".to_owned(),
                policies: Vec::new(),
            });
            continue;
        };
        let (of_hook, mut of_profiles) = tiers_of(world, cluster, walk, *hook, explanation);
        tiers.extend(of_hook);
        profiles.append(&mut of_profiles);
    }
    let staged = walk.staged.as_ref().map(|explanation| StagedReport {
        verdict: verdict(explanation.allow),
        decided_by: explanation.decided.as_ref().map(ToString::to_string).unwrap_or_default(),
        tiers: tiers_of(world, cluster, walk, None, explanation).0,
    });
    EndReport {
        endpoint: walk.endpoint.clone(),
        direction: policy::field(walk.direction).to_owned(),
        verdict: verdict(walk.allow),
        decided_by: walk.decided.to_string(),
        tiers,
        profiles,
        staged,
    }
}

fn tiers_of(
    world: &World,
    cluster: &Cluster,
    walk: &Walk,
    hook: Option<&str>,
    explanation: &Explanation,
) -> (Vec<TierReport>, Vec<ProfileReport>) {
    let mut tiers: Vec<TierReport> = Vec::new();
    let mut profiles = Vec::new();
    let mut open = false;
    for step in &explanation.steps {
        let Some(tier) = &step.tier else {
            if let Asked::Rule(RuleName::Profile { name, index, action, .. }) = &step.what {
                profiles.push(ProfileReport {
                    name: name.to_string(),
                    index: *index as usize,
                    action: said(*action).to_owned(),
                    outcome: outcome(&step.found).to_owned(),
                });
            }
            continue;
        };
        if !open {
            let (name, hook) = (tier.to_string(), hook.map(str::to_owned));
            tiers.push(TierReport { name, hook, result: "not-reached".to_owned(), policies: Vec::new() });
        }
        let Some(report) = tiers.last_mut() else { continue };
        open = matches!(step.what, Asked::Rule(_));
        let is_found = step.found == Found::Matched;
        match &step.what {
            Asked::Rule(RuleName::Rule { policy: owner, index, action, direction, .. }) => {
                if is_found && *action != RuleAction::Log {
                    report.result = said(*action).to_lowercase();
                }
                let policies = policy_report(&mut report.policies, owner);
                rule(
                    world,
                    cluster,
                    walk,
                    policies,
                    owner,
                    *direction,
                    (*index as usize, *action),
                    &step.found,
                );
            }
            Asked::DefaultDeny(name) => {
                // Policies that apply and have no rules are there, too.
                if let RuleName::TierDefault { policies, .. } = name {
                    for owner in policies.iter() {
                        policy_report(&mut report.policies, owner);
                    }
                }
                if is_found {
                    report.result = "default-deny".to_owned();
                }
            }
            Asked::DefaultPass if is_found => report.result = "default-pass".to_owned(),
            _ => {}
        }
    }
    (tiers, profiles)
}

fn policy_report<'a>(policies: &'a mut Vec<PolicyReport>, owner: &RuleOwner) -> &'a mut PolicyReport {
    let is_it = |report: &PolicyReport| {
        *report.kind == *owner.kind && *report.namespace == *owner.namespace && *report.name == *owner.name
    };
    let at = policies.iter().position(is_it).unwrap_or_else(|| {
        policies.push(PolicyReport {
            kind: owner.kind.to_string(),
            namespace: owner.namespace.to_string(),
            name: owner.name.to_string(),
            rules: Vec::new(),
        });
        policies.len() - 1
    });
    &mut policies[at]
}

/// Adds what became of a converted rule to the rule that it was made of. Of several that missed, the closest is told.
#[expect(clippy::too_many_arguments, reason = "a step of the walk, and all that words for it are taken from")]
fn rule(
    world: &World,
    cluster: &Cluster,
    walk: &Walk,
    report: &mut PolicyReport,
    owner: &RuleOwner,
    direction: FlowDirection,
    (index, action): (usize, RuleAction),
    found: &Found,
) {
    let object = policy::object_of(world, owner);
    let origin =
        object.and_then(|object| policy::origins(object, direction).get(index).copied()).unwrap_or(index);
    let value = object.map(caracal_model::object::Object::to_value);
    let written = value.as_ref().and_then(|value| policy::written_rules(value, direction).get(origin));
    let mismatches: Vec<MismatchReport> = match found {
        Found::Unmatched(mismatches) => {
            mismatches.iter().map(|found| words::mismatch(found, written, walk, world, cluster)).collect()
        }
        _ => Vec::new(),
    };
    let new = RuleReport {
        index: origin,
        action: said(action).to_owned(),
        outcome: outcome(found).to_owned(),
        mismatches,
    };
    match report.rules.iter_mut().find(|rule| rule.index == origin) {
        Some(known) if known.outcome == "matched" => {}
        Some(known) => {
            let is_closer = new.outcome == "missed"
                && (known.outcome != "missed" || new.mismatches.len() < known.mismatches.len());
            if new.outcome == "matched" || is_closer {
                *known = new;
            }
        }
        None => report.rules.push(new),
    }
}

fn outcome(found: &Found) -> &'static str {
    match found {
        Found::Matched => "matched",
        Found::Unmatched(_) => "missed",
        Found::NotReached => "not-reached",
    }
}

fn said(action: RuleAction) -> &'static str {
    match action {
        RuleAction::Allow => "Allow",
        RuleAction::Deny => "Deny",
        RuleAction::Pass => "Pass",
        RuleAction::Log => "Log",
    }
}
