//! Whatever dies while policy changes: what is enforced in the end is what the objects say, judged by the slow reference.

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use caracal_model::object::{Kind, ObjectKey};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    api::{Kubernetes, pod_key},
    lab::{Lab, Plan},
    machine::{Dice, caracal, eventually, rounds, stderr, stdout},
    traffic::{StopAtEnd, is_cut_off},
};

const PODS: [(&str, &str); 6] =
    [("p0", "node1"), ("p1", "node1"), ("p2", "node1"), ("p3", "node2"), ("p4", "node2"), ("p5", "node2")];
const TIERS: [&str; 3] = ["t0", "t1", "default"];
/// How many policies and sets there may be of each kind.
const NAMES: u64 = 4;

fn key(kind: Kind, name: &str) -> ObjectKey {
    ObjectKey::new(kind, kind.is_namespaced().then_some("default"), name)
}

/// Everything that changes.
fn changing() -> Vec<ObjectKey> {
    let mut keys: Vec<ObjectKey> = TIERS[..2].iter().map(|tier| key(Kind::Tier, tier)).collect();
    keys.extend(PODS.iter().map(|(name, _)| pod_key(name)));
    for number in 0..NAMES {
        for (kind, prefix) in [
            (Kind::GlobalNetworkPolicy, "g"),
            (Kind::CalicoNetworkPolicy, "n"),
            (Kind::StagedGlobalNetworkPolicy, "s"),
            (Kind::NetworkPolicy, "k"),
            (Kind::GlobalNetworkSet, "set"),
        ] {
            keys.push(key(kind, &format!("{prefix}{number}")));
        }
    }
    keys
}

/// Who is meant: pods of a group, a pod, or whoever is in a set.
fn peer(dice: &mut Dice) -> Value {
    match dice.below(4) {
        0 => json!({"selector": format!("group == 'g{}'", dice.below(3))}),
        1 => json!({"selector": format!("app == 'p{}'", dice.below(6))}),
        2 => json!({"selector": format!("set == 'x{}'", dice.below(2)), "namespaceSelector": "global()"}),
        _ => json!({"nets": [format!("10.244.{}.0/{}", 1 + dice.below(2), 24 + 4 * dice.below(2))]}),
    }
}

fn rules(dice: &mut Dice, side: &str) -> Value {
    let rule = |dice: &mut Dice| {
        let action = ["Allow", "Deny", "Pass"][dice.below(3) as usize];
        json!({"action": action, side: peer(dice)})
    };
    let count = dice.below(3);
    (0..count).map(|_| rule(dice)).collect()
}

/// A random change; whether it is refused does not matter.
fn change(kubernetes: &Kubernetes, dice: &mut Dice, lab: &Addresses) {
    let number = dice.below(NAMES);
    let policy = |dice: &mut Dice, kind: Kind, name: String| {
        let spec = json!({
            "tier": TIERS[dice.below(3) as usize], "order": dice.below(5),
            "selector": format!("group == 'g{}'", dice.below(3)), "types": ["Ingress", "Egress"],
            "ingress": rules(dice, "source"), "egress": rules(dice, "destination"),
        });
        let key = key(kind, &name);
        let object = json!({
            "apiVersion": kind.api_version(), "kind": kind.as_str(),
            "metadata": {"name": name, "namespace": key.namespace}, "spec": spec,
        });
        match dice.below(3) {
            0 => drop(kubernetes.delete(&key)),
            1 => drop(kubernetes.create(object)),
            _ => drop(kubernetes.merge(&key, json!({ "spec": spec }))),
        }
    };
    match dice.below(8) {
        0 => {
            let tier = TIERS[dice.below(2) as usize];
            let action = ["Deny", "Pass"][dice.below(2) as usize];
            let spec = json!({"order": dice.below(5), "defaultAction": action});
            drop(kubernetes.merge(&key(Kind::Tier, tier), json!({ "spec": spec })));
        }
        1 => {
            let group = format!("g{}", dice.below(3));
            let labels = json!({"metadata": {"labels": {"group": group}}});
            drop(kubernetes.merge(&pod_key(PODS[dice.below(6) as usize].0), labels));
        }
        2 => {
            let name = format!("set{number}");
            let nets: Vec<String> =
                (0..dice.below(3)).map(|_| lab[PODS[dice.below(6) as usize].0].clone()).collect();
            let labels = json!({"set": format!("x{}", dice.below(2))});
            let key = key(Kind::GlobalNetworkSet, &name);
            let object = json!({
                "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkSet",
                "metadata": {"name": name, "labels": labels}, "spec": {"nets": nets},
            });
            match dice.below(3) {
                0 => drop(kubernetes.delete(&key)),
                1 => drop(kubernetes.create(object)),
                _ => drop(kubernetes.merge(&key, json!({"spec": {"nets": nets}}))),
            }
        }
        3 | 4 => policy(dice, Kind::GlobalNetworkPolicy, format!("g{number}")),
        5 => policy(dice, Kind::CalicoNetworkPolicy, format!("n{number}")),
        6 => policy(dice, Kind::StagedGlobalNetworkPolicy, format!("s{number}")),
        _ => {
            let name = format!("k{number}");
            let from = json!([{"podSelector": {"matchLabels": {"group": format!("g{}", dice.below(3))}}}]);
            let object = json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": {"name": name, "namespace": "default"},
                "spec": {"podSelector": {"matchLabels": {"app": format!("p{}", dice.below(6))}},
                         "policyTypes": ["Ingress"], "ingress": [{ "from": from }]},
            });
            match dice.below(2) {
                0 => drop(kubernetes.delete(&key(Kind::NetworkPolicy, &name))),
                _ => drop(kubernetes.create(object)),
            }
        }
    }
}

type Addresses = BTreeMap<&'static str, String>;

/// Every pair of pods, and what the slow reference says of it with the objects that the API has now.
fn expected(lab: &Lab) -> BTreeMap<(usize, usize), bool> {
    let kubernetes = lab.kubernetes();
    let objects: Vec<Value> =
        changing().iter().filter_map(|key| kubernetes.get(key).unwrap()).map(without_servers_part).collect();
    let pairs = (0..PODS.len()).flat_map(|from| (0..PODS.len()).map(move |to| (from, to)));
    let pairs: Vec<(usize, usize)> = pairs.filter(|(from, to)| from != to).collect();
    let flow = |(from, to): &(usize, usize)| {
        json!({"from": format!("default/p{from}"), "to": format!("default/p{to}"), "protocol": "UDP",
               "port": 7000 + to, "expect": "allow"})
    };
    let flows: Vec<Value> = pairs.iter().map(flow).collect();
    let case = json!({"name": "in the end", "objects": objects, "flows": flows});
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("case.yaml");
    fs::write(&file, case.to_string()).unwrap();
    let judged = caracal(&["policy", "test", "--reference", "-o", "json", file.to_str().unwrap()]);
    let report: Value =
        serde_json::from_str(&stdout(&judged)).unwrap_or_else(|_| panic!("{}", stderr(&judged)));
    let flows = report["cases"][0]["flows"].as_array().unwrap();
    assert_eq!(flows.len(), pairs.len(), "{report}");
    let verdict = |flow: &Value| match flow["observed"].as_str() {
        Some("allow") => true,
        Some("deny") => false,
        _ => panic!("the reference has no verdict: {flow}"),
    };
    pairs.into_iter().zip(flows.iter().map(verdict)).collect()
}

/// The object as somebody would have written it.
fn without_servers_part(mut object: Value) -> Value {
    let metadata = object["metadata"].as_object_mut().unwrap();
    metadata.retain(|field, _| ["name", "namespace", "labels", "annotations"].contains(&field.as_str()));
    object
}

/// What packets say.
fn observed(lab: &Lab) -> BTreeMap<(usize, usize), bool> {
    let places: Vec<_> = PODS.iter().map(|(name, _)| lab.pod(name)).collect();
    let mut seen = BTreeMap::new();
    // One asks at a time of each that is asked: its port is its own.
    for shift in 1..PODS.len() {
        thread::scope(|scope| {
            let asked: Vec<_> = (0..PODS.len())
                .map(|from| {
                    let to = (from + shift) % PODS.len();
                    let (a, b) = (&places[from], &places[to]);
                    ((from, to), scope.spawn(move || !is_cut_off(a, b, 7000 + to as u16)))
                })
                .collect();
            for (pair, asking) in asked {
                seen.insert(pair, asking.join().unwrap());
            }
        });
    }
    seen
}

#[test]
fn whatever_dies_while_policy_changes_the_objects_are_enforced_in_the_end() {
    let mut plan = Plan::pods(&PODS);
    for tier in &TIERS[..2] {
        let object =
            json!({"apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": {"name": tier}});
        plan = plan.object(object);
    }
    let lab = Lab::up_alone("convergence", &plan);
    let addresses: Addresses =
        PODS.iter().map(|(name, _)| (*name, lab.pod(name).address.to_string())).collect();
    let mut dice = Dice::new();
    for round in 0..rounds(4, 40) {
        let changes = thread::scope(|scope| {
            let stop = Arc::new(AtomicBool::new(false));
            let _stop = StopAtEnd(Arc::clone(&stop));
            let mut own = Dice::from(dice.below(u64::MAX) | 1);
            let (addresses, kubeconfig) = (&addresses, lab.state().kubeconfig());
            let stopped = Arc::clone(&stop);
            let churn = scope.spawn(move || {
                let kubernetes = Kubernetes::connect(&kubeconfig);
                let mut changes = 0;
                while !stopped.load(Relaxed) {
                    change(&kubernetes, &mut own, addresses);
                    changes += 1;
                }
                changes
            });
            for _ in 0..4 {
                thread::sleep(Duration::from_millis(dice.below(400)));
                let victims = ["agent-node1", "agent-node2", "fastpath-node1", "fastpath-node2", "apiserver"];
                lab.kill(victims[dice.below(victims.len() as u64) as usize]);
            }
            stop.store(true, Relaxed);
            churn.join().unwrap()
        });
        eventually("the API server answers", || lab.kubernetes().get(&pod_key("p0")).is_ok());
        for node in ["node1", "node2"] {
            eventually("the node is ready", || lab.is_ready(node));
        }
        let expected = expected(&lab);
        let mut seen = BTreeMap::new();
        eventually("what the objects say is enforced", || {
            seen = observed(&lab);
            let differ: Vec<_> = seen.iter().filter(|(pair, allowed)| expected[*pair] != **allowed).collect();
            if !differ.is_empty() {
                println!(
                    "round {round}: (from, to) → allowed, still otherwise than the objects say: {differ:?}"
                );
            }
            differ.is_empty()
        });
        let allowed = seen.values().filter(|allowed| **allowed).count();
        println!(
            "round {round}: {changes} changes, 4 kills; {allowed} of {} pairs allowed, as the objects say",
            seen.len()
        );
    }
}
