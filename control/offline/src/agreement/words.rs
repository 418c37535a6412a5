//! The few names, labels, addresses and ports that random worlds are made of: few, so that they meet often.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::random::Random;

pub(super) const NAMESPACES: [&str; 3] = ["red", "green", "blue"];
pub(super) const NODES: [&str; 2] = ["node1", "node2"];
pub(super) const ACCOUNTS: [&str; 3] =
    ["web", "db.old", "an-account-whose-name-is-so-long-that-no-pod-gets-it-as-a-label"];
pub(super) const KEYS: [&str; 4] = ["a", "b", "in", "x.io/team"];
pub(super) const VALUES: [&str; 4] = ["x", "xy", "y", ""];
pub(super) const PORTS: [u16; 8] = [1, 22, 53, 80, 81, 179, 8080, 65535];
pub(super) const PORT_NAMES: [&str; 3] = ["web", "dns", "a-b"];
pub(super) const TIERS: [&str; 3] = ["first", "second", "third"];
pub(super) const SERVICES: [&str; 2] = ["shop", "mail"];
pub(super) const HOST_ENDPOINTS: [&str; 3] = ["eth0-one", "any-one", "eth0-two"];
pub(super) const PROFILES: [&str; 2] = ["open", "shut"];

/// The addresses of nodes, which host endpoints may expect.
pub(super) const NODE_ADDRESSES: [&str; 4] = ["192.0.2.11", "192.0.2.12", "fd00:2::11", "fd00:2::12"];

/// What nets are written as. Many contain or touch each other, pods and nodes.
const NETS_V4: [&str; 18] = [
    "10.244.0.0/16",
    "10.244.1.0/24",
    "10.244.1.2/31",
    "10.244.1.4/30",
    "10.244.1.2/32",
    "10.244.1.3",
    "10.244.2.0/25",
    "10.244.2.3/32",
    "0.0.0.0/1",
    "128.0.0.0/1",
    "0.0.0.0/0",
    "192.0.2.0/24",
    "192.0.2.11/32",
    "192.0.2.8/29",
    "203.0.113.0/24",
    "203.0.113.7/32",
    "203.0.113.128/25",
    "198.51.100.7",
];
const NETS_V6: [&str; 12] = [
    "fd00:1::/32",
    "fd00:1:0:1::/64",
    "fd00:1:0:1::2/127",
    "fd00:1:0:1::2/128",
    "fd00:1:0:2::3",
    "::/0",
    "::/1",
    "8000::/1",
    "2001:db8::/32",
    "2001:db8::7/128",
    "fd00:2::/64",
    "fd00:2::10/124",
];

/// Addresses that are at the edges of nets, and of nobody.
const STRANGERS_V4: [&str; 10] = [
    "203.0.113.7",
    "203.0.113.127",
    "203.0.113.128",
    "203.0.112.255",
    "198.51.100.7",
    "198.51.100.8",
    "127.255.255.255",
    "128.0.0.0",
    "10.244.2.127",
    "255.255.255.254",
];
const STRANGERS_V6: [&str; 6] =
    ["2001:db8::7", "2001:db8::8", "2001:db9::", "7fff:ffff::1", "8000::", "fd00:1:0:1::200"];

/// Where a pod is: by its node and its number.
pub(super) fn pod_address(node: usize, number: usize, is_v4: bool) -> String {
    let (node, number) = (node + 1, number + 2);
    if is_v4 { format!("10.244.{node}.{number}") } else { format!("fd00:1:0:{node}::{number:x}") }
}

/// An address that a packet may have without any object that gives it.
pub(super) fn stranger(random: &mut Random, is_v4: bool) -> IpAddr {
    let text = match (is_v4, random.below(4)) {
        (true, 0) => pod_address(random.below(2), random.below(8), true),
        (false, 0) => pod_address(random.below(2), random.below(8), false),
        (true, 1) => (*random.pick(&NODE_ADDRESSES[..2])).to_owned(),
        (false, 1) => (*random.pick(&NODE_ADDRESSES[2..])).to_owned(),
        (true, _) => (*random.pick(&STRANGERS_V4)).to_owned(),
        (false, _) => (*random.pick(&STRANGERS_V6)).to_owned(),
    };
    text.parse().unwrap()
}

/// CIDRs of one family, as rules need them: host bits clear, each once.
pub(super) fn nets(random: &mut Random, is_v4: bool, with_everything: bool) -> Value {
    let all: &[&str] = if is_v4 { &NETS_V4 } else { &NETS_V6 };
    let usable: Vec<&&str> = all.iter().filter(|net| with_everything || !net.ends_with("/0")).collect();
    let mut chosen = random.list(1, 3, |random| **random.pick(&usable));
    chosen.sort_unstable();
    chosen.dedup();
    json!(chosen)
}

/// CIDRs of both families, as sets of networks may have them: also with host bits.
pub(super) fn set_nets(random: &mut Random) -> Value {
    let mut chosen: Vec<String> = random.list(0, 4, |random| match random.below(5) {
        0 => "10.244.1.77/24".to_owned(),
        1 | 2 => (*random.pick(&NETS_V6)).to_owned(),
        _ => (*random.pick(&NETS_V4)).to_owned(),
    });
    chosen.sort_unstable();
    chosen.dedup();
    json!(chosen)
}

/// A CIDR with exceptions inside it.
pub(super) fn ip_block(random: &mut Random) -> Value {
    let blocks = [
        ("10.244.0.0/16", vec!["10.244.1.0/24", "10.244.1.2/32", "10.244.2.0/25"]),
        ("0.0.0.0/0", vec!["10.244.0.0/16", "203.0.113.7/32", "128.0.0.0/1"]),
        ("203.0.113.0/24", vec!["203.0.113.128/25"]),
        ("10.244.1.2/31", vec!["10.244.1.2/32"]),
        ("::/0", vec!["fd00:1::/32", "8000::/1"]),
        ("fd00:1:0:1::/64", vec!["fd00:1:0:1::2/127"]),
    ];
    let (cidr, excepts) = random.pick(&blocks);
    let excepts: Vec<_> = excepts.iter().filter(|_| random.chance(40)).collect();
    if excepts.is_empty() { json!({"cidr": cidr}) } else { json!({"cidr": cidr, "except": excepts}) }
}

/// Labels of an object.
pub(super) fn labels(random: &mut Random) -> Value {
    let mut labels = Map::new();
    for key in KEYS {
        if random.chance(45) {
            labels.insert(key.to_owned(), json!(random.pick(&VALUES)));
        }
    }
    Value::Object(labels)
}

/// A label selector of Kubernetes.
pub(super) fn label_selector(random: &mut Random) -> Value {
    let expression = |random: &mut Random| {
        let key = random.pick(&KEYS);
        match *random.pick(&["In", "NotIn", "Exists", "DoesNotExist"]) {
            operator @ ("In" | "NotIn") => {
                let values = random.list(1, 2, |random| *random.pick(&VALUES));
                json!({"key": key, "operator": operator, "values": values})
            }
            operator => json!({"key": key, "operator": operator}),
        }
    };
    match random.below(6) {
        0 => json!({}),
        1 | 2 => json!({"matchLabels": {*random.pick(&KEYS): random.pick(&VALUES)}}),
        3 | 4 => json!({"matchExpressions": random.list(1, 2, expression)}),
        _ => json!({
            "matchLabels": {*random.pick(&KEYS): random.pick(&VALUES)},
            "matchExpressions": random.list(0, 1, expression),
        }),
    }
}

/// A selector of Calico's, in one of the many ways in which it can be written.
pub(super) fn selector(random: &mut Random) -> String {
    match random.below(12) {
        0 => "all()".to_owned(),
        1 => " all( ) ".to_owned(),
        _ => either(random, 2),
    }
}

fn either(random: &mut Random, depth: usize) -> String {
    let terms = random.list(1, 2, |random| {
        let factors = random.list(1, 2, |random| factor(random, depth));
        factors.join(*random.pick(&[" && ", "&&", " &&\t"]))
    });
    terms.join(*random.pick(&[" || ", "||"]))
}

fn factor(random: &mut Random, depth: usize) -> String {
    let not = *random.pick(&["", "", "", "!", "! ", "!!", "! ! !"]);
    let key = label(random);
    let quote = *random.pick(&["'", "\""]);
    let mut value = || format!("{quote}{}{quote}", random.pick(&VALUES));
    let (one, other) = (value(), value());
    let term = match random.below(14) {
        0 | 1 => format!("{key} == {one}"),
        2 => format!("{key}=={one}"),
        3 => format!("{key} != {one}"),
        4 => format!("has({key})"),
        5 => format!("has( {key} )"),
        6 => format!("{key} in {{{one}, {other}}}"),
        7 => format!("{key} not in {{{one},{other},}}"),
        8 => format!("{key} notin{{{one}}}"),
        9 => format!("{key} contains {one}"),
        10 => format!("{key} starts with {one}"),
        11 => format!("{key} endswith{one}"),
        12 if depth > 0 => format!("({})", either(random, depth - 1)),
        12 => "all()".to_owned(),
        _ => random.pick(&["all()", "in in {}", "in not in {}", "global()"]).to_string(),
    };
    // Policies' own selectors may not say global().
    format!("{not}{}", if term == "global()" { "all()" } else { &term })
}

/// A label that a selector may ask for, those that are added to objects among them.
fn label(random: &mut Random) -> String {
    match random.below(12) {
        0 => "projectcalico.org/namespace".to_owned(),
        1 => format!("pcns.{}", random.pick(&KEYS)),
        2 => "projectcalico.org/serviceaccount".to_owned(),
        _ => (*random.pick(&KEYS)).to_owned(),
    }
}
