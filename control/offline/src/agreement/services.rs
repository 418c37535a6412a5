//! Random services over pools of random modes, asked by pods, hosts and from outside.
//!
//! Where backends differ in what they allow, the reference says that nobody knows what must happen; such a question
//! compares nothing.

use caracal_model::case::Case;
use caracal_model::case::report::Observed;
use serde_json::{Value, json};

use super::random::Random;
use super::words::{KEYS, NAMESPACES, NODES, PORT_NAMES, PORTS, VALUES};
use super::{shrink, world};
use crate::judge;
use crate::reference::Reference;

/// Services of each world, and questions to them.
const SERVICES: usize = 3;
const QUESTIONS: usize = 6;
const FIRST_NODE_PORT: usize = 30_080;
/// The label of pods that services may select.
const SERVED: &str = "served";

/// A world of this number: how many questions both could judge, or one on which they differ.
pub(super) fn try_world(seed: u64, number: u64) -> Result<u64, String> {
    let mut random = Random::new(seed.wrapping_mul(0x2000_0005).wrapping_add(number));
    let mut world = world(&mut random);
    world.push(pool(&mut random, "pods", "10.244.0.0/16", true));
    world.push(pool(&mut random, "pods6", "fd00:1::/32", false));
    // Of those that services select there are some in every namespace that has pods.
    for pod in world.iter_mut().filter(|object| object["kind"] == "Pod") {
        if random.chance(50) {
            pod["metadata"]["labels"][SERVED] = json!("yes");
        }
    }
    let services: Vec<Value> = (0..SERVICES).map(|number| service(&mut random, number)).collect();
    world.extend(services.iter().cloned());
    let mut asked = 0;
    for _ in 0..QUESTIONS {
        let question = question(&mut random, &world, &services);
        match compare(&world, &question) {
            None => {}
            Some(Ok(())) => asked += 1,
            Some(Err(_)) => {
                let world =
                    shrink::shrink(world.clone(), &|world| matches!(compare(world, &question), Some(Err(_))));
                let why = compare(&world, &question).and_then(Result::err).unwrap_or_default();
                return Err(format!("{why}\n{}", case(&world, &question)));
            }
        }
    }
    Ok(asked)
}

/// natOutgoing throughout: what a pod sends to another node's node port under its own address, outside of any tunnel, that
/// node takes for forged.
fn pool(random: &mut Random, name: &str, cidr: &str, is_v4: bool) -> Value {
    let modes = ["Always", "CrossSubnet", "Never"];
    let (vxlan, ipip) = match random.below(3) {
        0 if is_v4 => ("Never", *random.pick(&modes)),
        _ => (*random.pick(&modes), "Never"),
    };
    json!({
        "apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": name},
        "spec": {"cidr": cidr, "vxlanMode": vxlan, "ipipMode": ipip, "natOutgoing": true},
    })
}

fn service(random: &mut Random, number: usize) -> Value {
    let mut selector = json!({(SERVED): "yes"});
    if random.chance(30) {
        selector[*random.pick(&KEYS)] = json!(random.pick(&VALUES));
    }
    let policy = |random: &mut Random| if random.chance(25) { "Local" } else { "Cluster" };
    let target = match random.below(4) {
        0..3 => json!(random.pick(&PORTS)),
        _ => json!(random.pick(&PORT_NAMES)),
    };
    let protocol = *random.pick(&["TCP", "UDP", "SCTP"]);
    let families = *random.pick(&["SingleStack", "PreferDualStack"]);
    let mut spec = json!({
        "type": "NodePort", "ipFamilyPolicy": families,
        "selector": selector,
        "internalTrafficPolicy": policy(random), "externalTrafficPolicy": policy(random),
        "externalIPs": [format!("198.51.100.{}", 200 + number)],
        "ports": [{"name": "p", "port": 80, "protocol": protocol, "targetPort": target, "nodePort": FIRST_NODE_PORT + number}],
    });
    if random.chance(20) {
        spec["sessionAffinity"] = json!("ClientIP");
    }
    if random.chance(20) {
        spec["trafficDistribution"] = json!(random.pick(&["PreferClose", "PreferSameNode"]));
    }
    json!({
        "apiVersion": "v1", "kind": "Service", "spec": spec,
        "metadata": {"namespace": random.pick(&NAMESPACES), "name": format!("service{number}")},
    })
}

/// A flow to one of the services, as a case writes it.
fn question(random: &mut Random, world: &[Value], services: &[Value]) -> Value {
    let number = random.below(services.len());
    let Some(service) = services.get(number) else { return Value::Null };
    let pods: Vec<Value> = world.iter().filter(|object| object["kind"] == "Pod").cloned().collect();
    let name = |object: &Value| {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        format!("{}/{}", text("namespace"), text("name"))
    };
    let is_v6 = random.chance(30);
    let outside = if is_v6 { "2001:db8::7" } else { "203.0.113.7" };
    let from = match random.below(10) {
        0..=5 if !pods.is_empty() => name(random.pick(&pods)),
        6 | 7 => format!("node/{}", random.pick(&NODES)),
        _ => outside.to_owned(),
    };
    let (to, port) = match random.below(4) {
        0 => (format!("node/{}", random.pick(&NODES)), FIRST_NODE_PORT + number),
        1 if !is_v6 => (format!("198.51.100.{}", 200 + number), 80),
        _ => (format!("service/{}", name(service)), 80),
    };
    json!({
        "from": from, "to": to, "protocol": service["spec"]["ports"][0]["protocol"], "port": port,
        "ipVersion": if is_v6 { 6 } else { 4 }, "expect": "allow",
    })
}

fn case(world: &[Value], question: &Value) -> String {
    let objects: String = world.iter().map(|object| format!("  - {object}\n")).collect();
    format!("name: random\nobjects:\n{objects}flows:\n  - {question}\n")
}

/// Whether both judges agree; nothing where the question cannot be asked, or its answer is open.
fn compare(world: &[Value], question: &Value) -> Option<Result<(), String>> {
    let world = Case::parse(&case(world, question)).ok()?.world().ok()?;
    let flow = world.flows.first().filter(|flow| flow.unsupported.is_none() && flow.service.is_some())?;
    let reference = Reference::new(&world).judge(flow);
    if matches!(reference.observed, Observed::Error | Observed::Unsupported) {
        return None;
    }
    let production = match judge::judge(&world) {
        Ok(observations) => observations.flows.into_iter().next()?,
        Err(error) => return Some(Err(error.to_string())),
    };
    if reference.observed == production.observed {
        return Some(Ok(()));
    }
    let told =
        |by: &caracal_model::case::report::Observation| format!("{}: {}", by.observed.as_str(), by.why);
    Some(Err(format!("production: {}\nreference: {}", told(&production), told(&reference))))
}
