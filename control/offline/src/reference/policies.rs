//! Policies in the order in which they are asked: tier by tier, then by order, then by name.

use std::cmp::Ordering;

use caracal_model::calico;
use caracal_model::object::Object;
use k8s_openapi::api::networking::v1::{NetworkPolicyEgressRule, NetworkPolicyIngressRule};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::calico::rules;
use super::cluster::{NAMESPACE, SERVICE_ACCOUNT, namespace_of};
use super::kubernetes::{IS_POD, cluster_rules, egress_rules, in_namespaces, ingress_rules, with_labels};
use super::rule::{Rule, Term};
use super::selector::LabelMap;

/// Where a policy judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    Normal,
    Untracked,
    PreDnat,
}

#[derive(Debug, Clone)]
pub(super) struct Policy<'a> {
    /// Of what is enforced; a staged policy's is that of the policy it would be.
    pub(super) kind: &'static str,
    pub(super) namespace: Option<&'a str>,
    pub(super) name: &'a str,
    /// `None`: enforced. `Some(true)`: staged, to be set; `Some(false)`: staged, to be deleted.
    staged: Option<bool>,
    tier: &'a str,
    order: f64,
    pub(super) hook: Hook,
    /// On host endpoints: also for what the host forwards.
    pub(super) applies_on_forward: bool,
    pub(super) is_for_ingress: bool,
    pub(super) is_for_egress: bool,
    /// All must hold of the endpoints that it applies to.
    pub(super) who: Vec<Term<'a>>,
    pub(super) ingress: Vec<Rule<'a>>,
    pub(super) egress: Vec<Rule<'a>>,
}

/// A tier and its policies.
#[derive(Debug, Clone)]
pub(super) struct Tier<'a> {
    pub(super) name: &'a str,
    order: f64,
    /// One that only policies speak of is not there.
    exists: bool,
    /// What becomes of what its policies apply to and no rule matches.
    pub(super) passes: bool,
    pub(super) policies: Vec<Policy<'a>>,
}

/// All policies, in order.
#[derive(Debug)]
pub(super) struct Policies<'a> {
    pub(super) tiers: Vec<Tier<'a>>,
}

impl Policy<'_> {
    pub(super) fn applies_to(&self, labels: &LabelMap) -> bool {
        self.who.iter().all(|term| term.holds(labels))
    }

    /// As users name it.
    pub(super) fn title(&self) -> String {
        match self.namespace {
            Some(namespace) => format!("{} {namespace}/{}", self.kind, self.name),
            None => format!("{} {}", self.kind, self.name),
        }
    }

    fn is_in_place_of(&self, other: &Self) -> bool {
        (self.kind, self.namespace, self.name) == (other.kind, other.namespace, other.name)
    }
}

impl<'a> Policies<'a> {
    /// What is enforced.
    pub(super) fn enforced(objects: &'a [Object]) -> Self {
        let enforced = objects.iter().filter_map(policy).filter(|policy| policy.staged.is_none());
        Self::in_order(objects, enforced.collect())
    }

    /// What would be if every staged policy took the place of the one that it is staged for, or took it away.
    pub(super) fn as_if_staged_were_enforced(objects: &'a [Object]) -> Self {
        let (staged, mut policies): (Vec<_>, Vec<_>) =
            objects.iter().filter_map(policy).partition(|policy| policy.staged.is_some());
        policies.retain(|policy| !staged.iter().any(|staged| staged.is_in_place_of(policy)));
        policies.extend(staged.into_iter().filter(|policy| policy.staged == Some(true)));
        Self::in_order(objects, policies)
    }

    fn in_order(objects: &'a [Object], policies: Vec<Policy<'a>>) -> Self {
        let mut tiers: Vec<Tier<'a>> = objects.iter().filter_map(tier).collect();
        // These exist without being written.
        for (name, order, passes) in [
            ("default", 1_000_000.0, false),
            ("kube-admin", 1_000.0, true),
            ("kube-baseline", 10_000_000.0, true),
        ] {
            if !tiers.iter().any(|tier| tier.name == name) {
                tiers.push(Tier { name, order, exists: true, passes, policies: Vec::new() });
            }
        }
        for policy in policies {
            match tiers.iter_mut().find(|tier| tier.name == policy.tier) {
                Some(tier) => tier.policies.push(policy),
                None => tiers.push(Tier {
                    name: policy.tier,
                    order: f64::INFINITY,
                    exists: false,
                    passes: false,
                    policies: vec![policy],
                }),
            }
        }
        tiers.sort_by(|a, b| {
            (!a.exists).cmp(&!b.exists).then(by_order(a.order, b.order)).then(a.name.cmp(b.name))
        });
        for tier in &mut tiers {
            let tie = |policy: &Policy<'_>| {
                format!("{}/{}/{}", policy.name, policy.namespace.unwrap_or_default(), policy.kind)
            };
            tier.policies.sort_by(|a, b| by_order(a.order, b.order).then_with(|| tie(a).cmp(&tie(b))));
        }
        Self { tiers }
    }
}

fn by_order(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or(Ordering::Equal)
}

fn tier(object: &Object) -> Option<Tier<'_>> {
    let Object::Tier(tier) = object else { return None };
    Some(Tier {
        name: tier.metadata.name.as_deref().unwrap_or_default(),
        order: tier.spec.order.unwrap_or(f64::INFINITY),
        exists: true,
        passes: tier.spec.default_action.as_deref() == Some("Pass"),
        policies: Vec::new(),
    })
}

/// The fields that Calico's four kinds of policies have.
struct Fields<'a> {
    tier: &'a Option<String>,
    order: Option<f64>,
    types: &'a Option<Vec<String>>,
    ingress: &'a Option<Vec<calico::Rule>>,
    egress: &'a Option<Vec<calico::Rule>>,
    selector: &'a Option<String>,
    namespace_selector: &'a Option<String>,
    account_selector: &'a Option<String>,
    apply_on_forward: Option<bool>,
    do_not_track: Option<bool>,
    pre_dnat: Option<bool>,
}

/// Makes [`Fields`] of a spec; kinds in namespaces have fewer.
macro_rules! fields {
    (namespaced $spec:expr) => {
        fields!(@ $spec, &None, None, None, None)
    };
    (global $spec:expr) => {
        fields!(
            @ $spec, &$spec.namespace_selector, $spec.apply_on_forward, $spec.do_not_track, $spec.pre_dnat
        )
    };
    (@ $spec:expr, $namespace_selector:expr, $apply_on_forward:expr, $do_not_track:expr, $pre_dnat:expr) => {
        Fields {
            tier: &$spec.tier,
            order: $spec.order,
            types: &$spec.types,
            ingress: &$spec.ingress,
            egress: &$spec.egress,
            selector: &$spec.selector,
            namespace_selector: $namespace_selector,
            account_selector: &$spec.service_account_selector,
            apply_on_forward: $apply_on_forward,
            do_not_track: $do_not_track,
            pre_dnat: $pre_dnat,
        }
    };
}

/// The policy that an object is; `None` for one that is none, or that would change nothing.
fn policy(object: &Object) -> Option<Policy<'_>> {
    let name = object.metadata().name.as_deref().unwrap_or_default();
    let namespace = namespace_of(object);
    match object {
        Object::CalicoNetworkPolicy(policy) => {
            Some(of_calico("NetworkPolicy", Some(namespace), name, None, fields!(namespaced policy.spec)))
        }
        Object::GlobalNetworkPolicy(policy) => {
            Some(of_calico("GlobalNetworkPolicy", None, name, None, fields!(global policy.spec)))
        }
        Object::StagedNetworkPolicy(policy) => {
            let staged = Some(is_set(policy.spec.staged_action.as_deref())?);
            Some(of_calico("NetworkPolicy", Some(namespace), name, staged, fields!(namespaced policy.spec)))
        }
        Object::StagedGlobalNetworkPolicy(policy) => {
            let staged = Some(is_set(policy.spec.staged_action.as_deref())?);
            Some(of_calico("GlobalNetworkPolicy", None, name, staged, fields!(global policy.spec)))
        }
        Object::NetworkPolicy(policy) => {
            let spec = policy.spec.as_ref()?;
            let fields = KubernetesFields {
                pods: spec.pod_selector.as_ref(),
                types: spec.policy_types.as_deref(),
                ingress: spec.ingress.as_deref(),
                egress: spec.egress.as_deref(),
            };
            Some(of_kubernetes(namespace, name, None, fields))
        }
        Object::StagedKubernetesNetworkPolicy(policy) => {
            let spec = &policy.spec;
            let staged = Some(is_set(spec.staged_action.as_deref())?);
            let fields = KubernetesFields {
                pods: spec.pod_selector.as_ref(),
                types: spec.policy_types.as_deref(),
                ingress: spec.ingress.as_deref(),
                egress: spec.egress.as_deref(),
            };
            Some(of_kubernetes(namespace, name, staged, fields))
        }
        Object::ClusterNetworkPolicy(policy) => of_cluster(name, policy),
        _ => None,
    }
}

/// What is staged: to be set, or to be deleted; `None` for neither.
fn is_set(action: Option<&str>) -> Option<bool> {
    match action {
        None | Some("" | "Set") => Some(true),
        Some("Delete") => Some(false),
        Some(_) => None,
    }
}

fn of_calico<'a>(
    kind: &'static str,
    namespace: Option<&'a str>,
    name: &'a str,
    staged: Option<bool>,
    fields: Fields<'a>,
) -> Policy<'a> {
    let has_rules = |rules: &Option<Vec<calico::Rule>>| rules.as_ref().is_some_and(|rules| !rules.is_empty());
    let types = fields.types.as_deref().unwrap_or_default();
    let is_for = |direction: &str| match types {
        // Without egress rules it is for ingress, with egress rules alone it is for egress, with both for both.
        [] if direction == "Ingress" => has_rules(fields.ingress) || !has_rules(fields.egress),
        [] => has_rules(fields.egress),
        types => types.iter().any(|one| one == direction),
    };
    Policy {
        kind,
        namespace,
        name,
        staged,
        tier: fields.tier.as_deref().filter(|tier| !tier.is_empty()).unwrap_or("default"),
        order: fields.order.unwrap_or(f64::INFINITY),
        hook: match (fields.do_not_track, fields.pre_dnat) {
            (Some(true), _) => Hook::Untracked,
            (_, Some(true)) => Hook::PreDnat,
            _ => Hook::Normal,
        },
        applies_on_forward: fields.apply_on_forward == Some(true),
        is_for_ingress: is_for("Ingress"),
        is_for_egress: is_for("Egress"),
        who: who(namespace, &fields),
        ingress: rules(namespace, "ingress", fields.ingress.as_deref()),
        egress: rules(namespace, "egress", fields.egress.as_deref()),
    }
}

/// Whom a policy of Calico's applies to. Where a global one speaks of namespaces, `all()` is all that is in one.
fn who<'a>(namespace: Option<&'a str>, fields: &Fields<'a>) -> Vec<Term<'a>> {
    let given = |text: &'a Option<String>| text.as_deref().filter(|text| !text.trim().is_empty());
    let namespaces = given(fields.namespace_selector);
    let in_some = namespaces.map(|_| NAMESPACE);
    let with_account = if namespace.is_none() { Some(SERVICE_ACCOUNT) } else { None };
    let terms = [
        namespace.map(|namespace| Term::Is(NAMESPACE, namespace)),
        given(fields.selector).map(|text| Term::Text { text, prefix: "", all: in_some }),
        namespaces.map(|text| Term::Text { text, prefix: "pcns.", all: in_some }),
        given(fields.account_selector).map(|text| Term::Text { text, prefix: "pcsa.", all: with_account }),
    ];
    terms.into_iter().flatten().collect()
}

/// The fields of Kubernetes' NetworkPolicy, staged or not.
struct KubernetesFields<'a> {
    pods: Option<&'a LabelSelector>,
    types: Option<&'a [String]>,
    ingress: Option<&'a [NetworkPolicyIngressRule]>,
    egress: Option<&'a [NetworkPolicyEgressRule]>,
}

fn of_kubernetes<'a>(
    namespace: &'a str,
    name: &'a str,
    staged: Option<bool>,
    fields: KubernetesFields<'a>,
) -> Policy<'a> {
    let types = fields.types.unwrap_or_default();
    let is_for = |direction: &str| types.iter().any(|one| one == direction);
    let mut who = vec![Term::Is(NAMESPACE, namespace), IS_POD];
    who.extend(fields.pods.map(with_labels));
    Policy {
        kind: "KubernetesNetworkPolicy",
        namespace: Some(namespace),
        name,
        staged,
        tier: "default",
        order: 1000.0,
        hook: Hook::Normal,
        applies_on_forward: false,
        // The API fills the types; where it has not, they are [Ingress].
        is_for_ingress: types.is_empty() || is_for("Ingress"),
        is_for_egress: is_for("Egress"),
        who,
        ingress: ingress_rules(namespace, fields.ingress),
        egress: egress_rules(namespace, fields.egress),
    }
}

/// A ClusterNetworkPolicy; `None` where it is to be ignored.
fn of_cluster<'a>(name: &'a str, policy: &'a calico::ClusterNetworkPolicy) -> Option<Policy<'a>> {
    let spec = &policy.spec;
    let tier = match spec.tier.as_str() {
        "Admin" => "kube-admin",
        "Baseline" => "kube-baseline",
        _ => return None,
    };
    let who = match (&spec.subject.namespaces, &spec.subject.pods) {
        (Some(namespaces), None) => vec![IS_POD, in_namespaces(namespaces)],
        (None, Some(pods)) => {
            vec![IS_POD, in_namespaces(&pods.namespace_selector), with_labels(&pods.pod_selector)]
        }
        _ => return None,
    };
    let (ingress, egress) = cluster_rules(spec);
    Some(Policy {
        kind: "ClusterNetworkPolicy",
        namespace: None,
        name,
        staged: None,
        tier,
        order: spec.priority as f64,
        hook: Hook::Normal,
        applies_on_forward: false,
        is_for_ingress: spec.ingress.as_ref().is_some_and(|rules| !rules.is_empty()),
        is_for_egress: spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()),
        who,
        ingress,
        egress,
    })
}
