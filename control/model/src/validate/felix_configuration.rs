//! FelixConfiguration: hundreds of fields, so a table says what each may hold ([`fields`]).

mod fields;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use super::Errors;
use super::calico_format::{self, Global, Port};
use super::names::node_of;
use crate::annotations;
use crate::calico::FelixConfiguration;
use fields::FIELDS;

/// The value that lists take for an empty one, because environment variables do.
const NONE: &str = "none";

/// What a field may hold.
#[derive(Debug, Clone, Copy)]
enum Type {
    Bool,
    /// A number, from and to.
    Int(i64, i64),
    Text,
    Duration,
    Selector,
    /// One of these, exactly so.
    OneOf(&'static [&'static str]),
    /// One of these, in upper or lower case.
    OneOfInAnyCase(&'static [&'static str]),
    /// A port or a range; 0 for none.
    Ports,
    ListOfPorts,
    ListOfTexts,
    ListOfCidrs,
    /// `{protocol, port, net}`.
    FailsafePorts,
    /// `{min, max}`.
    RouteTableRange,
    ListOfRouteTableRanges,
    /// `{name, timeout}`.
    HealthTimeouts,
    /// Bits of packet marks.
    MarkMask,
    /// A number or a name.
    Dscp,
    /// `name=true,name=false,name=`.
    FeatureSwitches,
    /// `name=value,…`.
    FeatureGates,
    /// `10/minute`.
    LogRate,
    LogPrefix,
    /// Names with texts, as a map or as `name=text,…`.
    Pairs,
    /// Names with durations or `Auto`, as a map or as `name=duration,…`.
    ConntrackTimeouts,
}

pub(super) fn validate(object: &FelixConfiguration, errors: &mut Errors) {
    for (name, value) in &object.spec.0 {
        let field = format!("spec.{name}");
        match FIELDS.iter().find(|(known, _)| known == name) {
            _ if value.is_null() => {}
            Some((_, kind)) => kind.validate(&field, value, errors),
            None => errors.unknown(&field),
        }
    }
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let is_for_all_or_one = name.is_empty() || name == "default" || node_of(name).is_some();
    let selector = object.spec.0.get("nodeSelector").and_then(Value::as_str).unwrap_or_default();
    if !is_for_all_or_one && selector.trim().is_empty() {
        let why = "says which nodes the object is for, unless it is called \"default\" or \"node.\" and a node's name";
        errors.required("spec.nodeSelector", why);
    }
    let flows = object.metadata.annotations.as_ref().and_then(|map| map.get(annotations::ESTABLISHED_FLOWS));
    if let Some(text) = flows.filter(|text| !matches!(text.as_str(), "Keep" | "Rejudge")) {
        let field = format!("metadata.annotations[{}]", annotations::ESTABLISHED_FLOWS);
        errors.not_supported(&field, text, &["Keep", "Rejudge"]);
    }
}

impl Type {
    fn validate(self, field: &str, value: &Value, errors: &mut Errors) {
        match self {
            Self::ListOfPorts => list(field, value, errors, port_or_range),
            Self::ListOfTexts => list(field, value, errors, |field, item, errors| {
                check(field, item, errors, text(item, |_| Ok(())));
            }),
            Self::ListOfCidrs => list(field, value, errors, |field, item, errors| {
                check(field, item, errors, text(item, calico_format::cidr));
            }),
            Self::ListOfRouteTableRanges => list(field, value, errors, route_table_range),
            Self::FailsafePorts => list(field, value, errors, failsafe_port),
            Self::HealthTimeouts => list(field, value, errors, health_timeout),
            Self::RouteTableRange => route_table_range(field, value, errors),
            Self::Ports if value.as_i64() == Some(0) || value == "0" => {}
            Self::Ports => port_or_range(field, value, errors),
            Self::Selector => match value.as_str() {
                Some(text) => calico_format::selector(field, Some(text), Global::Never, errors),
                None => errors.invalid(field, value.clone(), "must be a selector in a string"),
            },
            Self::OneOf(names) => one_of(field, value, names, str::eq, errors),
            Self::OneOfInAnyCase(names) => one_of(field, value, names, str::eq_ignore_ascii_case, errors),
            Self::Pairs => pairs(field, value, errors, |_| Ok(())),
            Self::ConntrackTimeouts => pairs(field, value, errors, |text| match text {
                "Auto" => Ok(()),
                text => calico_format::duration(text).map_err(|why| format!("{why}; or \"Auto\"")),
            }),
            Self::Bool => check(field, value, errors, expect(value.is_boolean(), "must be true or false")),
            Self::Int(least, most) => check(field, value, errors, integer(value, least, most)),
            Self::Text => check(field, value, errors, text(value, |_| Ok(()))),
            Self::Duration => check(field, value, errors, text(value, calico_format::duration)),
            Self::MarkMask => check(field, value, errors, mark_mask(value)),
            Self::Dscp => {
                let is_good = value.is_string() || integer(value, 0, 63).is_ok();
                check(field, value, errors, expect(is_good, "must be a DSCP: 0 to 63 or its name"));
            }
            Self::FeatureSwitches => check(field, value, errors, text(value, feature_switches)),
            Self::FeatureGates => check(field, value, errors, text(value, feature_gates)),
            Self::LogRate => check(field, value, errors, text(value, log_rate)),
            Self::LogPrefix => check(field, value, errors, text(value, log_prefix)),
        }
    }
}

fn check(field: &str, value: &Value, errors: &mut Errors, check: Result<(), String>) {
    if let Err(why) = check {
        errors.invalid(field, value.clone(), why);
    }
}

fn expect(is_so: bool, why: &str) -> Result<(), String> {
    if is_so { Ok(()) } else { Err(why.to_owned()) }
}

fn text(value: &Value, check: impl Fn(&str) -> Result<(), String>) -> Result<(), String> {
    value.as_str().map_or_else(|| Err("must be a string".to_owned()), check)
}

fn integer(value: &Value, least: i64, most: i64) -> Result<(), String> {
    let is_good = value.as_i64().is_some_and(|number| (least..=most).contains(&number));
    let why = match (least, most) {
        (i64::MIN, i64::MAX) => "must be an integer".to_owned(),
        (_, i64::MAX) => format!("must be an integer of at least {least}"),
        _ => format!("must be an integer from {least} to {most}"),
    };
    expect(is_good, &why)
}

fn one_of(field: &str, value: &Value, names: &[&str], is_same: fn(&str, &str) -> bool, errors: &mut Errors) {
    match value.as_str() {
        None => errors.invalid(field, value.clone(), format!("must be one of {}", names.join(", "))),
        Some(text) if text.is_empty() || names.iter().any(|name| is_same(name, text)) => {}
        Some(text) => errors.not_supported(field, text, names),
    }
}

fn list(field: &str, value: &Value, errors: &mut Errors, item: impl Fn(&str, &Value, &mut Errors)) {
    match value {
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                item(&format!("{field}[{index}]"), value, errors);
            }
        }
        Value::String(text) if text.eq_ignore_ascii_case(NONE) => {}
        other => errors.invalid(field, other.clone(), "must be a list; [] or \"none\" for an empty one"),
    }
}

/// The fields of a map; those that are not `known` are errors.
fn members<'a>(
    field: &str,
    value: &'a Value,
    known: &[&str],
    errors: &mut Errors,
) -> Option<&'a serde_json::Map<String, Value>> {
    let Some(map) = value.as_object() else {
        errors.invalid(field, value.clone(), format!("must be a map with {}", known.join(", ")));
        return None;
    };
    for name in map.keys().filter(|name| !known.contains(&name.as_str())) {
        errors.unknown(&format!("{field}.{name}"));
    }
    Some(map)
}

fn port_or_range(field: &str, value: &Value, errors: &mut Errors) {
    let port = serde_json::from_value::<IntOrString>(value.clone()).ok();
    let is_good = port.is_some_and(|port| calico_format::port(&port) == Ok(Port::Numeric));
    check(field, value, errors, expect(is_good, "must be a port from 1 to 65535, or a range \"first:last\""));
}

fn failsafe_port(field: &str, value: &Value, errors: &mut Errors) {
    let Some(map) = members(field, value, &["protocol", "port", "net"], errors) else { return };
    let protocols = ["SCTP", "TCP", "UDP"];
    match map.get("protocol") {
        None | Some(Value::Null) => {}
        Some(value) => {
            one_of(&format!("{field}.protocol"), value, &protocols, str::eq_ignore_ascii_case, errors);
        }
    }
    match map.get("port") {
        None | Some(Value::Null) => errors.required(&format!("{field}.port"), "the port that stays open"),
        Some(value) => check(&format!("{field}.port"), value, errors, integer(value, 1, 65535)),
    }
    match map.get("net") {
        None | Some(Value::Null) => {}
        Some(value) if value == "" => {}
        Some(value) => check(&format!("{field}.net"), value, errors, text(value, calico_format::net)),
    }
}

fn route_table_range(field: &str, value: &Value, errors: &mut Errors) {
    let Some(map) = members(field, value, &["min", "max"], errors) else { return };
    let mut bounds = [None, None];
    for (bound, name) in bounds.iter_mut().zip(["min", "max"]) {
        let field = format!("{field}.{name}");
        match map.get(name) {
            None | Some(Value::Null) => errors.required(&field, "a table's number"),
            Some(value) => {
                let tables = integer(value, 1, u32::MAX.into());
                *bound = value.as_i64().filter(|_| tables.is_ok());
                check(&field, value, errors, tables);
            }
        }
    }
    if let [Some(min), Some(max)] = bounds
        && min > max
    {
        errors.invalid(&format!("{field}.max"), max, "must be at least `min`");
    }
}

fn health_timeout(field: &str, value: &Value, errors: &mut Errors) {
    let Some(map) = members(field, value, &["name", "timeout"], errors) else { return };
    for (name, what) in [("name", "what is watched"), ("timeout", "how long it may take")] {
        let field = format!("{field}.{name}");
        match map.get(name) {
            None | Some(Value::Null) => errors.required(&field, what),
            Some(value) if name == "name" => check(&field, value, errors, text(value, |_| Ok(()))),
            Some(value) => check(&field, value, errors, text(value, calico_format::duration)),
        }
    }
}

fn pairs(field: &str, value: &Value, errors: &mut Errors, of_pair: impl Fn(&str) -> Result<(), String>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                check(&format!("{field}.{name}"), value, errors, text(value, &of_pair));
            }
        }
        Value::String(list) => {
            for pair in list.split(',').filter(|pair| !pair.trim().is_empty()) {
                let checked = match pair.split_once('=') {
                    Some((name, text)) if !name.trim().is_empty() => of_pair(text.trim()),
                    _ => Err("must be \"name=value\", joined by commas".to_owned()),
                };
                check(field, value, errors, checked);
            }
        }
        other => errors.invalid(field, other.clone(), "must be a map of names to strings"),
    }
}

fn mark_mask(value: &Value) -> Result<(), String> {
    let mask = match value {
        Value::Number(number) => number.as_u64().and_then(|number| u32::try_from(number).ok()),
        Value::String(text) => match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            Some(digits) => u32::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        },
        _ => None,
    };
    let is_good = mask.is_some_and(|mask| mask.count_ones() >= 2);
    expect(is_good, "must be 32 bits, at least two of them set, such as 4294901760 or \"0xffff0000\"")
}

fn is_feature_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

fn feature_switches(text: &str) -> Result<(), String> {
    let is_good = text.strip_suffix(',').unwrap_or(text).split(',').all(|pair| {
        pair.split_once('=')
            .is_some_and(|(name, value)| is_feature_name(name) && matches!(value, "true" | "false" | ""))
    });
    expect(text.is_empty() || is_good, "must be \"Feature=true,Other=false\", joined by commas")
}

fn feature_gates(text: &str) -> Result<(), String> {
    let is_good = text.strip_suffix(',').unwrap_or(text).split(',').all(|pair| {
        pair.split_once('=')
            .is_some_and(|(name, value)| is_feature_name(name) && !value.is_empty() && !value.contains('='))
    });
    expect(text.is_empty() || is_good, "must be \"Feature=value,Other=value\", joined by commas")
}

fn log_rate(text: &str) -> Result<(), String> {
    let is_good = text.split_once('/').is_some_and(|(count, unit)| {
        (1..=4).contains(&count.len())
            && count.bytes().all(|b| b.is_ascii_digit())
            && !count.starts_with('0')
            && matches!(unit, "second" | "minute" | "hour" | "day")
    });
    expect(is_good, "must be 1 to 9999 per second, minute, hour or day, such as \"10/minute\"")
}

fn log_prefix(text: &str) -> Result<(), String> {
    let is_good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'%' | b':' | b' ' | b'/' | b'_' | b'-');
    expect(text.bytes().all(is_good), "must be letters, digits, spaces and any of % : / _ -")
}
