//! Effective selectors: what a policy's selectors say of an endpoint's labels once every namespace that they imply has
//! been spelled out.
//!
//! An endpoint's labels hold its namespace's behind `pcns.`, its service account's behind `pcsa.`, and the names of both
//! ([`crate::labels::key`]); so one selector can speak of all of them, and who evaluates it need not know where it came from.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::DroppedRule;
use crate::calico::ServiceAccountMatch;
use crate::labels::key;
use crate::selector::Selector;

/// Kubernetes' pods, and nothing else.
pub(super) fn is_kubernetes_pod() -> Selector {
    Selector::equal(key::ORCHESTRATOR, "k8s")
}

/// What is in a namespace.
pub(super) fn in_namespace(namespace: &str) -> Selector {
    Selector::equal(key::NAMESPACE, namespace)
}

/// What is in any namespace.
pub(super) fn in_some_namespace() -> Selector {
    Selector::has(key::NAMESPACE)
}

/// What is in the namespaces that `selector` selects by their labels; `global()` is what is in none.
pub(super) fn in_namespaces(selector: Selector) -> Selector {
    selector
        .prefixed(key::NAMESPACE_PREFIX)
        .replacing(&Selector::All, &in_some_namespace())
        .replacing(&Selector::Global, &in_some_namespace().negate())
}

/// A selector as written; `None` when it is blank or not there.
pub(super) fn given(field: &str, text: Option<&str>) -> Result<Option<Selector>, DroppedRule> {
    match text.filter(|text| !text.trim().is_empty()) {
        None => Ok(None),
        Some(text) => Selector::parse(text).map(Some).map_err(|error| DroppedRule::new(field, error)),
    }
}

/// Who runs as one of these service accounts; `None` when that says nothing.
pub(super) fn of_service_accounts(
    field: &str,
    accounts: Option<&ServiceAccountMatch>,
) -> Result<Option<Selector>, DroppedRule> {
    let Some(accounts) = accounts else { return Ok(None) };
    let labels = given(&format!("{field}.selector"), accounts.selector.as_deref())?;
    let labels = labels.map(|selector| selector.prefixed(key::SERVICE_ACCOUNT_PREFIX));
    let names: BTreeSet<String> = accounts.names.iter().flatten().cloned().collect();
    let names = (!names.is_empty()).then(|| Selector::In(key::SERVICE_ACCOUNT.to_owned(), names));
    let terms: Vec<Selector> = labels.into_iter().chain(names).collect();
    Ok((!terms.is_empty()).then(|| Selector::and(terms)))
}

/// A label selector of Kubernetes, whole.
pub fn label_selector(field: &str, selector: &LabelSelector) -> Result<Selector, DroppedRule> {
    let terms: Result<Vec<_>, _> = label_selector_terms(field, selector).into_iter().collect();
    Ok(Selector::and(terms?))
}

/// A label selector of Kubernetes, without the terms that mean nothing: those are added to `dropped`. A policy so selects,
/// and isolates, rather more than less.
pub(super) fn rather_more(field: &str, selector: &LabelSelector, dropped: &mut Vec<DroppedRule>) -> Selector {
    let terms = label_selector_terms(field, selector).into_iter();
    Selector::and(terms.filter_map(|term| term.map_err(|error| dropped.push(error)).ok()).collect::<Vec<_>>())
}

/// The terms of a label selector: the labels in the order of their keys, then the expressions.
fn label_selector_terms(field: &str, selector: &LabelSelector) -> Vec<Result<Selector, DroppedRule>> {
    let labels = selector.match_labels.iter().flatten();
    let labels = labels.map(|(key, value)| Ok(Selector::equal(key, value)));
    let expressions = selector.match_expressions.iter().flatten().enumerate().map(|(index, expression)| {
        let key = expression.key.clone();
        let values = || expression.values.iter().flatten().cloned().collect();
        match expression.operator.as_str() {
            "In" => Ok(Selector::In(key, values())),
            "NotIn" => Ok(Selector::NotIn(key, values())),
            "Exists" => Ok(Selector::Has(key)),
            "DoesNotExist" => Ok(Selector::Has(key).negate()),
            operator => {
                let field = format!("{field}.matchExpressions[{index}].operator");
                Err(DroppedRule::new(field, format!("unknown operator {operator:?}")))
            }
        }
    });
    labels.chain(expressions).collect()
}
