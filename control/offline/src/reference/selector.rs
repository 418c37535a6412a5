//! Kubernetes label selectors over a map of labels.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

/// Labels as objects carry them.
pub(super) type LabelMap = BTreeMap<String, String>;

/// Whether every label and every expression of `selector` holds; an empty one holds always.
pub(super) fn matches(selector: &LabelSelector, labels: &LabelMap) -> bool {
    let has = |(key, value): (&String, &String)| labels.get(key) == Some(value);
    selector.match_labels.iter().flatten().all(has)
        && selector.match_expressions.iter().flatten().all(|expression| holds(expression, labels))
}

fn holds(expression: &LabelSelectorRequirement, labels: &LabelMap) -> bool {
    let value = labels.get(&expression.key);
    let is_listed = |value| expression.values.iter().flatten().any(|listed| listed == value);
    match expression.operator.as_str() {
        "In" => value.is_some_and(is_listed),
        "NotIn" => !value.is_some_and(is_listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        // Validation lets no other through.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(json: serde_json::Value) -> LabelSelector {
        serde_json::from_value(json).unwrap()
    }

    fn labels(pairs: &[(&str, &str)]) -> LabelMap {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn operators_treat_a_missing_label_as_the_documentation_says() {
        let with = |operator: &str| {
            selector(
                serde_json::json!({"matchExpressions": [{"key": "k", "operator": operator, "values": ["v"]}]}),
            )
        };
        let (value, other, none) = (labels(&[("k", "v")]), labels(&[("k", "w")]), labels(&[]));
        let row = |operator| [&value, &other, &none].map(|labels| matches(&with(operator), labels));
        assert_eq!(row("In"), [true, false, false]);
        assert_eq!(row("NotIn"), [false, true, true]);
        assert_eq!(row("Exists"), [true, true, false]);
        assert_eq!(row("DoesNotExist"), [false, false, true]);
    }

    #[test]
    fn all_terms_must_hold_and_none_is_everything() {
        let both = selector(serde_json::json!({
            "matchLabels": {"a": "1", "b": ""}, "matchExpressions": [{"key": "c", "operator": "DoesNotExist"}]
        }));
        assert!(matches(&both, &labels(&[("a", "1"), ("b", "")])));
        assert!(!matches(&both, &labels(&[("a", "1")])));
        assert!(!matches(&both, &labels(&[("a", "1"), ("b", ""), ("c", "")])));
        assert!(matches(&selector(serde_json::json!({})), &labels(&[])));
    }
}
