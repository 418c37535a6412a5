//! Random rules of Calico's.

use serde_json::{Map, Value, json};

use super::random::Random;
use super::words::{ACCOUNTS, NAMESPACES, PORT_NAMES, PORTS, SERVICES, nets, selector};

/// Which rule of which policy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) is_ingress: bool,
    /// Services of other namespaces must be named with theirs.
    pub(super) is_namespaced: bool,
}

/// Fields of an object, those that are given.
pub(super) fn fields<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    let given = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(given.collect::<Map<_, _>>())
}

pub(super) fn rule(random: &mut Random, place: Place) -> Value {
    let action = *random.pick(&["Allow", "Allow", "Deny", "Deny", "Pass", "Log"]);
    let mut version = random.maybe(20, |random| if random.chance(50) { 4 } else { 6 });
    let (protocol, numbers) = match random.below(10) {
        0..=3 => {
            let known = [json!("TCP"), json!("UDP"), json!("SCTP"), json!(6), json!("17"), json!(132)];
            (Some(random.pick(&known).clone()), true)
        }
        4 | 5 => (
            Some(if version == Some(6) || version.is_none() && random.chance(40) {
                json!("ICMPv6")
            } else {
                json!("ICMP")
            }),
            false,
        ),
        6 => (Some(random.pick(&[json!("UDPLite"), json!(4), json!(47), json!("255")]).clone()), false),
        _ => (None, false),
    };
    let is_icmp = matches!(protocol.as_ref().and_then(Value::as_str), Some("ICMP" | "ICMPv6"));
    if is_icmp && version.is_none() && random.chance(30) {
        version = Some(if protocol == Some(json!("ICMP")) { 4 } else { 6 });
    }
    // All nets of a rule are of one family, that of its messages.
    let is_v4 = match (version, protocol.as_ref().and_then(Value::as_str)) {
        (Some(version), _) => version == 4,
        (None, Some("ICMP")) => true,
        (None, Some("ICMPv6")) => false,
        _ => random.chance(60),
    };
    let not_protocol = random.maybe(15, |random| {
        random.pick(&[json!("TCP"), json!("UDP"), json!(17), json!("SCTP"), json!(47)]).clone()
    });
    let message = |random: &mut Random| {
        let kind = *random.pick(&[0, 3, 8, 128, 129, 135]);
        match random.maybe(40, |random| *random.pick(&[0, 1, 3])) {
            Some(code) => json!({"type": kind, "code": code}),
            None => json!({"type": kind}),
        }
    };
    // What application-layer policy would add is not asked of packets.
    let http = place.is_ingress
        && action == "Allow"
        && matches!(protocol.as_ref(), None | Some(Value::String(_)))
        && random.chance(5);
    let http = http && protocol.as_ref().is_none_or(|protocol| protocol == "TCP");
    fields([
        ("http", http.then(|| json!({"methods": ["GET"]}))),
        ("action", Some(json!(action))),
        ("ipVersion", version.map(|version| json!(version))),
        ("protocol", protocol),
        ("notProtocol", not_protocol),
        ("icmp", random.maybe(if is_icmp { 60 } else { 0 }, message)),
        ("notICMP", random.maybe(if is_icmp { 40 } else { 0 }, message)),
        ("source", random.maybe(45, |random| side(random, place, is_v4, numbers, true))),
        ("destination", random.maybe(45, |random| side(random, place, is_v4, numbers, false))),
    ])
}

fn side(random: &mut Random, place: Place, is_v4: bool, numbers: bool, is_source: bool) -> Value {
    if random.chance(10) && place.is_ingress == is_source {
        let namespace = random
            .maybe(if place.is_namespaced { 50 } else { 100 }, |random| json!(random.pick(&NAMESPACES)));
        let service = fields([("name", Some(json!(random.pick(&SERVICES)))), ("namespace", namespace)]);
        return json!({"services": service});
    }
    let namespaces = |random: &mut Random| match random.below(4) {
        0 => json!("global()"),
        1 => json!("all()"),
        _ => json!(selector(random)),
    };
    fields([
        ("nets", random.maybe(20, |random| nets(random, is_v4, true))),
        ("notNets", random.maybe(15, |random| nets(random, is_v4, false))),
        ("selector", random.maybe(30, |random| json!(selector(random)))),
        ("notSelector", random.maybe(15, |random| json!(selector(random)))),
        ("namespaceSelector", random.maybe(15, namespaces)),
        ("serviceAccounts", random.maybe(12, accounts)),
        ("ports", random.maybe(22, |random| ports(random, numbers))),
        ("notPorts", random.maybe(15, |random| ports(random, numbers))),
    ])
}

fn accounts(random: &mut Random) -> Value {
    let names = |random: &mut Random| {
        let mut names = random.list(0, 2, |random| *random.pick(&ACCOUNTS));
        names.sort_unstable();
        names.dedup();
        json!(names)
    };
    fields([
        ("names", random.maybe(60, names)),
        ("selector", random.maybe(60, |random| json!(selector(random)))),
    ])
}

fn ports(random: &mut Random, numbers: bool) -> Value {
    let one = |random: &mut Random| match if numbers { random.below(4) } else { 3 } {
        0 => json!(random.pick(&PORTS)),
        1 => json!(random.pick(&PORTS).to_string()),
        2 => {
            let (one, other) = (*random.pick(&PORTS), *random.pick(&PORTS));
            json!(format!("{}:{}", one.min(other), one.max(other)))
        }
        _ => json!(random.pick(&PORT_NAMES)),
    };
    Value::Array(random.list(1, 3, one))
}
