//! BGPFilter.

use super::bgp::ROUTE_PRIORITIES;
use super::{Errors, calico_format, given};
use crate::calico::{BGPFilterOperation, BGPFilterRule, BGPFilterSpec};
use crate::cidr::parse_address_and_length;

/// The most operations of a rule, and the most ASes of one.
const OPERATIONS_MAX: usize = 10;
/// The longest community.
const COMMUNITY_MAX: usize = 32;

/// What differs between the families.
struct Family {
    name: &'static str,
    bits: i64,
    /// The longest CIDR as a text.
    cidr_max: usize,
}

const V4: Family = Family { name: "IPv4", bits: 32, cidr_max: 18 };
const V6: Family = Family { name: "IPv6", bits: 128, cidr_max: 43 };

pub(super) fn validate(spec: &BGPFilterSpec, errors: &mut Errors) {
    for (field, rules, family) in [
        ("spec.exportV4", &spec.export_v4, V4),
        ("spec.importV4", &spec.import_v4, V4),
        ("spec.exportV6", &spec.export_v6, V6),
        ("spec.importV6", &spec.import_v6, V6),
    ] {
        for (index, written) in rules.iter().flatten().enumerate() {
            rule(&format!("{field}[{index}]"), written, &family, errors);
        }
    }
}

fn rule(field: &str, rule: &BGPFilterRule, family: &Family, errors: &mut Errors) {
    let actions = ["Accept", "Reject"];
    if rule.action.is_empty() {
        errors.required(&format!("{field}.action"), "must be Accept or Reject");
    } else if !actions.contains(&rule.action.as_str()) {
        errors.not_supported(&format!("{field}.action"), &rule.action, &actions);
    }
    prefix(field, rule, family, errors);
    errors.one_of(&format!("{field}.source"), &rule.source, &["RemotePeers"]);
    errors.one_of(&format!("{field}.peerType"), &rule.peer_type, &["eBGP", "iBGP"]);
    errors.check_given(&format!("{field}.interface"), &rule.interface, calico_format::interface_pattern);
    errors.in_range(&format!("{field}.priority"), rule.priority, ROUTE_PRIORITIES);
    if let Some(communities) = &rule.communities {
        let field = format!("{field}.communities.values");
        if communities.values.len() != 1 {
            errors.invalid(&field, communities.values.len(), "must have exactly one value");
        }
        for (index, value) in communities.values.iter().enumerate() {
            community(&format!("{field}[{index}]"), value, errors);
        }
    }
    let operations = rule.operations.as_deref().unwrap_or_default();
    let field = format!("{field}.operations");
    errors.at_most_items(&field, operations, OPERATIONS_MAX);
    if rule.operations.is_some() && operations.is_empty() {
        errors.invalid(&field, 0, "must have at least one operation, or not be given");
    }
    if !operations.is_empty() && rule.action != "Accept" {
        errors.forbidden(&field, "may be given only with `action` Accept");
    }
    for (index, written) in operations.iter().enumerate() {
        operation(&format!("{field}[{index}]"), written, errors);
    }
}

fn prefix(field: &str, rule: &BGPFilterRule, family: &Family, errors: &mut Errors) {
    let operators = ["Equal", "In", "NotEqual", "NotIn"];
    errors.one_of(&format!("{field}.matchOperator"), &rule.match_operator, &operators);
    match (given(&rule.cidr), given(&rule.match_operator)) {
        (Some(_), None) => {
            errors.required(&format!("{field}.matchOperator"), "must say how `cidr` is compared");
        }
        (None, Some(_)) => errors.required(&format!("{field}.cidr"), "what `matchOperator` compares with"),
        _ => {}
    }
    errors.check_given(&format!("{field}.cidr"), &rule.cidr, |text| match parse_address_and_length(text) {
        Ok((address, _)) if address.is_ipv4() == (family.bits == 32) && text.len() <= family.cidr_max => {
            Ok(())
        }
        _ => Err(format!("must be an {} CIDR of at most {} characters", family.name, family.cidr_max)),
    });
    let Some(length) = &rule.prefix_length else { return };
    let field = format!("{field}.prefixLength");
    if given(&rule.cidr).is_none() {
        errors.forbidden(&field, "may be given only together with `cidr`");
    }
    errors.in_range(&format!("{field}.min"), length.min, 0..=family.bits);
    errors.in_range(&format!("{field}.max"), length.max, 0..=family.bits);
    if let (Some(min), Some(max)) = (length.min, length.max)
        && min > max
    {
        errors.invalid(&format!("{field}.max"), max, "must be at least `min`");
    }
}

fn community(field: &str, value: &str, errors: &mut Errors) {
    errors.at_most_characters(field, value, COMMUNITY_MAX);
    errors.check(field, value, calico_format::community(value));
}

fn operation(field: &str, operation: &BGPFilterOperation, errors: &mut Errors) {
    let given = [
        operation.add_community.is_some(),
        operation.prepend_as_path.is_some(),
        operation.set_priority.is_some(),
    ];
    if given.iter().filter(|is_given| **is_given).count() != 1 {
        let value = serde_json::json!(operation);
        errors.invalid(
            field,
            value,
            "must have exactly one of `addCommunity`, `prependASPath` and `setPriority`",
        );
    }
    if let Some(add) = &operation.add_community {
        community(&format!("{field}.addCommunity.value"), &add.value, errors);
    }
    if let Some(prepend) = &operation.prepend_as_path {
        let field = format!("{field}.prependASPath.prefix");
        errors.at_most_items(&field, &prepend.prefix, OPERATIONS_MAX);
        if prepend.prefix.is_empty() {
            errors.required(&field, "at least one AS number");
        }
    }
    if let Some(set) = &operation.set_priority {
        errors.in_range(&format!("{field}.setPriority.value"), Some(set.value), ROUTE_PRIORITIES);
    }
}
