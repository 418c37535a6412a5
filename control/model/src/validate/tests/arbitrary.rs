//! Whatever is written: it is taken or refused, and nothing breaks.

use serde_json::{Map, Value, json};

use crate::object::{Kind, Object};

/// A small generator of numbers (xorshift), so that a failure can be had again.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// Texts on which something is parsed, split or cut.
const TEXTS: &[&str] = &[
    "",
    " ",
    "a",
    "default",
    "node.",
    "knp.default.",
    "é",
    "µs",
    "1µ",
    "0",
    "-1",
    "65536",
    "80:90",
    ":",
    "::",
    "[::1]:1",
    "10.0.0.0/8",
    "10.0.0.1/8",
    "10.0.0.0/0",
    "::/0",
    "fd00::/200",
    "/",
    "1.2.3.4",
    "all()",
    "global()",
    "!(((",
    "a == 'b",
    "1h",
    "..",
    "1:2:3:4",
    "0x",
    "0xé",
    "=",
    "a=,b",
    "host:",
    "Delete",
    "Allow",
    "TCP",
    "ICMP",
    "LoadBalancer",
    "10/minute",
    "none",
    "None",
    "\u{0}",
    "🦀🦀🦀🦀🦀🦀",
];

/// Numbers at the ends of ranges.
fn number(random: &mut Random) -> Value {
    let numbers = [
        json!(0),
        json!(1),
        json!(-1),
        json!(4),
        json!(26),
        json!(65535),
        json!(i32::MAX),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(1.5),
        json!(-0.0),
        json!(1e308),
    ];
    random.one(&numbers).clone()
}

/// The names of all fields, gathered from the types' schemas.
fn field_names() -> Vec<String> {
    fn gather(schema: &Value, names: &mut Vec<String>) {
        match schema {
            Value::Object(map) => {
                if let Some(Value::Object(properties)) = map.get("properties") {
                    names.extend(properties.keys().cloned());
                }
                map.values().for_each(|value| gather(value, names));
            }
            Value::Array(items) => items.iter().for_each(|item| gather(item, names)),
            _ => {}
        }
    }
    let mut names = Vec::new();
    let mut generator = schemars::SchemaGenerator::default();
    macro_rules! of {
        ($($kind:ident)*) => { $(gather(generator.root_schema_for::<crate::calico::$kind>().as_value(), &mut names);)* };
    }
    of!(NetworkPolicy StagedGlobalNetworkPolicy StagedKubernetesNetworkPolicy ClusterNetworkPolicy IPPool IPAMBlock
        BlockAffinity IPAMHandle IPAMConfiguration BGPConfiguration BGPPeer BGPFilter HostEndpoint Profile
        CalicoNodeStatus KubeControllersConfiguration IPReservation Tier GlobalNetworkSet);
    names.extend(
        ["failsafeInboundHostPorts", "bpfConntrackTimeouts", "routeTableRange", "addressType", "ports"]
            .map(String::from),
    );
    names.sort();
    names.dedup();
    names
}

fn value(random: &mut Random, names: &[String], depth: usize) -> Value {
    let choices = if depth == 0 { 5 } else { 9 };
    match random.below(choices) {
        0 => Value::Null,
        1 => json!(random.below(2) == 0),
        2 => number(random),
        3 | 4 => json!(random.one(TEXTS)),
        5 | 6 => (0..random.below(4)).map(|_| value(random, names, depth - 1)).collect(),
        _ => {
            let count = random.below(8);
            let entries = (0..count).map(|_| (random.one(names).clone(), value(random, names, depth - 1)));
            Value::Object(entries.collect::<Map<_, _>>())
        }
    }
}

#[test]
fn nothing_that_is_written_breaks_anything() {
    let names = field_names();
    assert!(names.len() > 100, "{names:?}");
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut taken, mut refused) = (0, 0);
    for round in 0..6_000 {
        let kind = *random.one(Kind::ALL);
        let mut object = value(&mut random, &names, 5);
        if !object.is_object() {
            object = json!({"spec": object});
        }
        object["apiVersion"] = json!(kind.api_version());
        object["kind"] = json!(kind.as_str());
        if round % 4 != 0 {
            object["metadata"] = json!({"name": random.one(&["default", "n", "a.b", "é"])});
        }
        if round % 2 == 0 {
            // Mostly well-formed outside, arbitrary inside.
            let count = random.below(6);
            let spec = (0..count).map(|_| (random.one(&names).clone(), value(&mut random, &names, 4)));
            object["spec"] = Value::Object(spec.collect::<Map<_, _>>());
        }
        match Object::accept(object.clone()) {
            Ok(accepted) => {
                taken += 1;
                let again = Object::accept(accepted.to_value());
                assert_eq!(again.as_ref(), Ok(&accepted), "what was taken must be taken again: {object}");
                accepted.validate_change(&accepted);
                assert_eq!(accepted.validate_creation([&accepted]), [], "{object}");
                accepted.validate_deletion([&accepted]);
            }
            Err(errors) => {
                refused += 1;
                assert!(!errors.is_empty(), "{object}");
                assert!(
                    errors.iter().all(|error| !error.field.is_empty() && !error.message.is_empty()),
                    "{errors:?}"
                );
            }
        }
        let _ = Object::from_value_lenient(object);
    }
    assert!(taken > 100 && refused > 100, "{taken} taken, {refused} refused");
}
