//! Every kind of mismatch is told in the user's words, and every change that is shown flips the verdict.

use caracal_model::object::{Kind, Object, ObjectKey};
use serde_json::{Value, json};

use super::*;

/// Two pods and what a test adds to them.
fn objects(more: &str) -> Objects {
    let pods = "\
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}}, spec: {nodeName: node1, containers: [{name: c, image: i, ports: [{name: http, containerPort: 80}]}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: client, namespace: shop, labels: {role: client}}, spec: {nodeName: node2, containers: [{name: c, image: i}]}}
---
";
    let mut objects = Objects::default();
    objects.read("objects.yaml", &format!("{pods}{more}")).unwrap();
    objects
}

fn calico(ingress: &str) -> String {
    format!(
        "{{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {{name: p, namespace: shop}}, \
         spec: {{selector: \"app == 'web'\", ingress: [{ingress}]}}}}"
    )
}

fn kubernetes(ingress: &str) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: p, namespace: shop}}, \
         spec: {{podSelector: {{matchLabels: {{app: web}}}}, ingress: [{ingress}]}}}}"
    )
}

fn to_web(fields: Value) -> Question {
    let mut flow = json!({"from": "shop/client", "to": "shop/web", "protocol": "TCP", "port": 80});
    let map = flow.as_object_mut().unwrap();
    for (key, value) in fields.as_object().unwrap() {
        if value.is_null() {
            map.remove(key)
        } else {
            map.insert(key.clone(), value.clone())
        };
    }
    Question::Flow(flow)
}

/// The fields that the first rule at the receiver's end missed on.
fn missed_on(policy: &str, flow: Value) -> Vec<String> {
    let explained = explain(&objects(policy), &to_web(flow)).unwrap();
    let end = explained.ends.iter().find(|end| end.direction == "ingress").unwrap();
    let rule = &end.tiers[0].policies[0].rules[0];
    assert_eq!(rule.outcome, "missed", "{rule:?}");
    rule.mismatches.iter().map(|mismatch| mismatch.field.clone()).collect()
}

/// What is proposed; applied to the objects, it must make the verdict the other one.
fn change_that_flips(more: &str, question: &Question) -> Change {
    let before = objects(more);
    let explained = explain(&before, question).unwrap();
    let change = explained.change.unwrap_or_else(|| panic!("nothing is proposed: {:?}", explained.notes));
    let mut after = before.clone();
    apply(&mut after, &change);
    let verdict = explain(&after, question).unwrap().verdict;
    assert_ne!(verdict, explained.verdict, "{change:?}");
    change
}

/// Does what a change says, from its own words: object, field, before and after.
fn apply(objects: &mut Objects, change: &Change) {
    let kind = match change.kind.as_str() {
        "KubernetesNetworkPolicy" => Kind::NetworkPolicy,
        "NetworkPolicy" => Kind::CalicoNetworkPolicy,
        "GlobalNetworkPolicy" => Kind::GlobalNetworkPolicy,
        "ClusterNetworkPolicy" => Kind::ClusterNetworkPolicy,
        other => panic!("{other}"),
    };
    let key = ObjectKey::new(kind, kind.is_namespaced().then_some(&*change.namespace), &change.name);
    let found = objects.manifests.iter_mut().map(|(_, value)| value);
    let is_it =
        |value: &&mut Value| Object::from_value((**value).clone()).is_ok_and(|object| object.key() == key);
    let Some(value) = found.into_iter().find(is_it) else {
        assert_eq!((change.field.as_str(), &change.from), ("spec", &Value::Null));
        let metadata = json!({"name": change.name, "namespace": change.namespace});
        let new = json!({"apiVersion": kind.api_version(), "kind": kind.as_str(), "metadata": metadata, "spec": change.to});
        objects.manifests.push(("new".to_owned(), new));
        return;
    };
    let pointer = format!("/{}", change.field.replace(['.', '['], "/").replace(']', ""));
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    if value.pointer(parent).is_none() {
        // The first rule of a direction that had none.
        let (grandparent, list) = parent.rsplit_once('/').unwrap();
        value.pointer_mut(grandparent).unwrap()[list] = json!([]);
    }
    match value.pointer_mut(parent).unwrap() {
        Value::Object(map) if change.to.is_null() => drop(map.remove(last)),
        Value::Object(map) => drop(map.insert(last.to_owned(), change.to.clone())),
        Value::Array(list) => {
            let index: usize = last.parse().unwrap();
            if change.to.is_null() {
                list.remove(index);
            } else if change.from.is_null() {
                list.insert(index, change.to.clone());
            } else {
                list[index] = change.to.clone();
            }
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_missed_rule_names_the_field_that_did_not_hold() {
    for (rule, flow, fields) in [
        ("{action: Allow, protocol: UDP}", json!({}), vec!["protocol"]),
        ("{action: Allow, notProtocol: TCP}", json!({}), vec!["notProtocol"]),
        ("{action: Allow, ipVersion: 6}", json!({}), vec!["ipVersion"]),
        ("{action: Allow, protocol: TCP, destination: {ports: [81]}}", json!({}), vec!["destination.ports"]),
        (
            "{action: Allow, protocol: TCP, destination: {notPorts: [80]}}",
            json!({}),
            vec!["destination.notPorts"],
        ),
        (
            "{action: Allow, protocol: TCP, source: {ports: [81]}}",
            json!({"sourcePort": 9}),
            vec!["source.ports"],
        ),
        ("{action: Allow, source: {nets: [203.0.113.0/24]}}", json!({}), vec!["source.nets"]),
        ("{action: Allow, source: {notNets: [10.244.0.0/16]}}", json!({}), vec!["source.notNets"]),
        ("{action: Allow, source: {selector: \"role == 'x'\"}}", json!({}), vec!["source.selector"]),
        (
            "{action: Allow, source: {namespaceSelector: \"a == 'x'\"}}",
            json!({}),
            vec!["source.namespaceSelector"],
        ),
        (
            "{action: Allow, source: {serviceAccounts: {names: [x]}}}",
            json!({}),
            vec!["source.serviceAccounts"],
        ),
        ("{action: Allow, source: {services: {name: x}}}", json!({}), vec!["source.services"]),
        (
            "{action: Allow, protocol: ICMP, icmp: {type: 3}}",
            json!({"protocol": "ICMP", "port": null}),
            vec!["icmp"],
        ),
        (
            "{action: Allow, protocol: ICMP, notICMP: {type: 8}}",
            json!({"protocol": "ICMP", "port": null}),
            vec!["notICMP"],
        ),
    ] {
        assert_eq!(missed_on(&calico(rule), flow), fields, "{rule}");
    }
}

#[test]
fn rules_of_kubernetes_are_told_by_their_own_fields() {
    let from = "{from: [{podSelector: {matchLabels: {role: x}}}], ports: [{port: 80}]}";
    assert_eq!(missed_on(&kubernetes(from), json!({})), ["from"]);
    let ports = "{from: [{podSelector: {}}], ports: [{port: 81}, {port: 82}]}";
    assert_eq!(missed_on(&kubernetes(ports), json!({})), ["ports"]);
}

#[test]
fn a_mismatch_quotes_the_rule_and_names_the_peer_with_its_labels() {
    let policy = calico("{action: Allow, source: {selector: \"role == 'boss'\"}}");
    let explained = explain(&objects(&policy), &to_web(json!({}))).unwrap();
    let why = &explained.ends[1].tiers[0].policies[0].rules[0].mismatches[0].why;
    assert!(why.contains("role == 'boss'") && why.contains("pod shop/client: role=client"), "{why}");
}

#[test]
fn an_address_is_named_after_the_set_or_host_endpoint_that_has_it() {
    let more = "{apiVersion: projectcalico.org/v3, kind: GlobalNetworkSet, metadata: {name: partners, labels: {k: v}}, \
                spec: {nets: [203.0.113.0/24]}}\n---\n\
                {apiVersion: projectcalico.org/v3, kind: HostEndpoint, metadata: {name: eth0, labels: {r: edge}}, \
                spec: {node: node1, expectedIPs: [198.51.100.7]}}";
    let world = objects(more).world(&to_web(json!({}))).unwrap();
    for (address, who) in [
        ("203.0.113.7", "203.0.113.7 (GlobalNetworkSet partners: k=v)"),
        ("198.51.100.7", "198.51.100.7 (HostEndpoint eth0: r=edge)"),
        ("192.0.2.11", "192.0.2.11 (node node1)"),
        ("192.88.99.1", "192.88.99.1 (nobody that policy knows)"),
    ] {
        assert_eq!(words::who(&world, address.parse().unwrap()), who);
    }
}

#[test]
fn the_missing_port_is_added_to_the_rule_that_missed_on_it_alone() {
    let other =
        "{action: Allow, protocol: TCP, source: {selector: \"role == 'x'\"}, destination: {ports: [90]}}";
    let policy = calico(&format!("{other}, {{action: Allow, protocol: TCP, destination: {{ports: [81]}}}}"));
    let change = change_that_flips(&policy, &to_web(json!({})));
    assert_eq!((change.field.as_str(), &change.to), ("spec.ingress[1].destination.ports", &json!([81, 80])));
    let change = change_that_flips(&kubernetes("{ports: [{port: 81}]}"), &to_web(json!({})));
    assert_eq!(change.field, "spec.ingress[0].ports");
}

#[test]
fn the_missing_peer_is_added_to_the_rule_that_missed_on_it_alone() {
    for (policy, field) in [
        (calico("{action: Allow, source: {nets: [203.0.113.0/24]}}"), "spec.ingress[0].source.nets"),
        (calico("{action: Allow, source: {selector: \"role == 'x'\"}}"), "spec.ingress[0].source.selector"),
        (kubernetes("{from: [{podSelector: {matchLabels: {role: x}}}]}"), "spec.ingress[0].from"),
    ] {
        assert_eq!(change_that_flips(&policy, &to_web(json!({}))).field, field, "{policy}");
    }
}

#[test]
fn a_policy_that_isolates_gets_a_rule_for_just_this_flow() {
    let change = change_that_flips(&calico(""), &to_web(json!({})));
    assert_eq!(change.field, "spec.ingress[0]");
    assert_eq!(change.to["destination"]["ports"], json!([80]));
    assert_eq!(change.to["source"]["selector"], "role == 'client'");
    let change = change_that_flips(&kubernetes(""), &to_web(json!({})));
    assert_eq!(change.to["ports"], json!([{"protocol": "TCP", "port": 80}]));
}

#[test]
fn a_rule_that_denies_gets_an_exception_in_front() {
    let change = change_that_flips(&calico("{action: Log}, {action: Deny}"), &to_web(json!({})));
    assert_eq!((change.field.as_str(), &change.to["action"]), ("spec.ingress[1]", &json!("Allow")));
}

#[test]
fn conditions_that_cannot_be_widened_are_dropped() {
    let echo = to_web(json!({"protocol": "ICMP", "port": null}));
    let policy = calico("{action: Pass, protocol: ICMP, icmp: {type: 3}}, {action: Deny}");
    let change = change_that_flips(&policy, &echo);
    assert!(change.field.starts_with("spec.ingress["), "{change:?}");
    let all = candidates_of(&policy, &echo);
    assert!(all.iter().any(|description| description.contains("drop `icmp`")), "{all:?}");
}

/// What would be tried, in words.
fn candidates_of(more: &str, question: &Question) -> Vec<String> {
    let world = objects(more).world(question).unwrap();
    let cluster = Cluster::new(&world).unwrap();
    let walks = cluster.walks(&world).unwrap();
    walks.iter().flat_map(|walk| change::descriptions(&world, walk, !walk.allow)).collect()
}

#[test]
fn a_flow_that_passes_is_kept_out_by_one_rule_in_front_or_one_entry_less() {
    let change = change_that_flips(&calico("{action: Allow}"), &to_web(json!({})));
    assert_eq!((change.field.as_str(), &change.to["action"]), ("spec.ingress[0]", &json!("Deny")));
    let change = change_that_flips(&kubernetes("{ports: [{port: 80}, {port: 81}]}"), &to_web(json!({})));
    assert_eq!((change.field.as_str(), &change.to), ("spec.ingress[0].ports[0]", &Value::Null));
    let change = change_that_flips(&kubernetes("{ports: [{port: 80}]}"), &to_web(json!({})));
    assert_eq!((change.field.as_str(), &change.to), ("spec.ingress[0]", &Value::Null));
}

#[test]
fn a_change_holds_for_a_manifest_that_leaves_the_types_to_their_default() {
    // Without its one egress rule the first would be of type Ingress only, and isolate no more.
    let policies = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p, namespace: shop}, \
                    spec: {podSelector: {matchLabels: {role: client}}, egress: [{}]}}";
    let change = change_that_flips(policies, &to_web(json!({})));
    assert_ne!((change.name.as_str(), change.field.as_str()), ("p", "spec.egress[0]"));
    let explicit = policies.replace("egress:", "policyTypes: [Egress], egress:");
    let change = change_that_flips(&explicit, &to_web(json!({})));
    assert_eq!((change.name.as_str(), change.field.as_str()), ("p", "spec.egress[0]"));
}

#[test]
fn where_no_policy_applies_a_new_one_keeps_the_flow_out() {
    let change = change_that_flips("", &to_web(json!({})));
    assert_eq!((change.name.as_str(), change.to["types"].clone()), ("ingress-of-web", json!(["Ingress"])));
}

#[test]
fn cluster_policies_are_changed_in_their_own_fields() {
    let policy = "{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: c}, \
                  spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: ACTION, \
                  from: [{namespaces: {}}]}]}}";
    let change = change_that_flips(&policy.replace("ACTION", "Deny"), &to_web(json!({})));
    assert_eq!((change.field.as_str(), &change.to["action"]), ("spec.ingress[0]", &json!("Accept")));
    let change = change_that_flips(&policy.replace("ACTION", "Accept"), &to_web(json!({})));
    assert_eq!(change.to["action"], "Deny");
}

#[test]
fn when_both_ends_deny_each_end_is_told_what_it_needs() {
    let both = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: in, namespace: shop}, \
                spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}}\n---\n\
                {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: out, namespace: shop}, \
                spec: {podSelector: {matchLabels: {role: client}}, policyTypes: [Egress]}}";
    let explained = explain(&objects(both), &to_web(json!({}))).unwrap();
    assert_eq!((explained.verdict.as_str(), &explained.change), ("deny", &None));
    let names: Vec<&str> = explained.needs.iter().map(|change| change.name.as_str()).collect();
    assert_eq!(names, ["out", "in"]);
    let mut mended = objects(both);
    explained.needs.iter().for_each(|change| apply(&mut mended, change));
    assert_eq!(explain(&mended, &to_web(json!({}))).unwrap().verdict, "allow");
}

#[test]
fn a_host_endpoint_is_walked_hook_by_hook_and_changed_like_a_pod() {
    let more = "{apiVersion: projectcalico.org/v3, kind: HostEndpoint, metadata: {name: eth0, labels: {role: edge}}, \
                spec: {node: node1, interfaceName: eth0}}\n---\n\
                {apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: g}, spec: {\
                selector: \"role == 'edge'\", ingress: [{action: Allow, protocol: TCP, destination: {ports: [81]}}]}}";
    let asked = json!({"hostEndpoint": "eth0", "path": "to-host", "from": "203.0.113.7", "to": "192.0.2.11",
                       "protocol": "TCP", "port": 80});
    let question = Question::HostFlow(asked.clone());
    let explained = explain(&objects(more), &question).unwrap();
    assert_eq!(explained.ends[0].tiers[0].hook.as_deref(), Some("normal"));
    assert_eq!(change_that_flips(more, &question).field, "spec.ingress[0].destination.ports");
    let mut failsafe = asked;
    failsafe["port"] = json!(22);
    assert_eq!(explain(&objects(more), &Question::HostFlow(failsafe)).unwrap().verdict, "allow");
}

#[test]
fn a_host_endpoint_that_no_policy_speaks_for_gets_a_policy_for_just_this_flow() {
    let endpoint = "{apiVersion: projectcalico.org/v3, kind: HostEndpoint, metadata: {name: eth0, labels: {role: edge}}, \
                    spec: {node: node1, interfaceName: eth0}}";
    for (path, to) in [
        ("to-host", "192.0.2.11"),
        ("from-host", "192.0.2.11"),
        ("forward-in", "10.9.9.9"),
        ("forward-out", "10.9.9.9"),
    ] {
        let question =
            Question::HostFlow(json!({"hostEndpoint": "eth0", "path": path, "from": "203.0.113.7", "to": to,
                                                 "protocol": "TCP", "port": 80}));
        let change = change_that_flips(endpoint, &question);
        assert_eq!((change.kind.as_str(), change.field.as_str()), ("GlobalNetworkPolicy", "spec"), "{path}");
        assert_eq!(change.to["selector"], "role == 'edge'");
    }
}

#[test]
fn staged_policies_are_told_as_what_they_would_do() {
    let staged = "{apiVersion: projectcalico.org/v3, kind: StagedNetworkPolicy, metadata: {name: s, namespace: shop}, \
                  spec: {selector: \"app == 'web'\", ingress: [{action: Deny}]}}";
    let explained = explain(&objects(staged), &to_web(json!({}))).unwrap();
    assert_eq!(explained.verdict, "allow");
    assert_eq!(explained.ends[1].staged.as_ref().unwrap().verdict, "deny");
    assert_eq!(explained.ends[0].staged, None);
}

#[test]
fn a_host_that_calls_its_own_pod_is_not_judged() {
    let explained = explain(&objects(&calico("")), &to_web(json!({"from": "node/node1"}))).unwrap();
    assert_eq!((explained.verdict.as_str(), explained.ends.len()), ("allow", 0));
    assert!(explained.notes[0].contains("own pods"));
}

#[test]
fn what_cannot_be_explained_names_the_flag_or_the_file_and_its_field() {
    let error = |objects: &Objects, question: &Question| explain(objects, question).unwrap_err().to_string();
    let unknown = error(&objects(""), &to_web(json!({"from": "shop/nobody"})));
    assert_eq!(unknown, "from: there is no pod shop/nobody");
    let bad = objects(&calico("{action: Perhaps}"));
    let invalid = error(&bad, &to_web(json!({})));
    assert!(invalid.starts_with("objects.yaml: line 5: spec.ingress[0].action"), "{invalid}");
    let mut broken = Objects::default();
    let text = broken.read("broken.yaml", "a: [\n").unwrap_err().to_string();
    assert!(text.starts_with("broken.yaml: line "), "{text}");
}

#[test]
fn lists_and_documents_and_cases_are_read_alike() {
    let pods = manifest::parse("{kind: List, items: [{kind: A}, {kind: B}]}\n---\n{kind: C}\n").unwrap();
    assert_eq!(pods.len(), 3);
    let mut objects = Objects::default();
    objects.read("case.yaml", "name: x\nobjects:\n  - {apiVersion: v1, kind: Namespace, metadata: {name: a}}\nexternals: [{name: e, ip: 203.0.113.7}]\n").unwrap();
    assert_eq!((objects.manifests.len(), objects.externals.len()), (1, 1));
}

/// Every flow of every case: the explanation must come to what the frames come to.
#[test]
fn every_flow_of_every_case_is_explained_as_it_is_judged() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/cases");
    let mut asked = 0;
    for folder in [folder.to_owned(), format!("{folder}/offline")] {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path().display().to_string();
            if !path.ends_with(".yaml") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let mut objects = Objects::default();
            objects.read(&path, &text).unwrap();
            let written = caracal_model::manifest::parse(&text).unwrap().remove(0);
            let list = |key: &str| written[key].as_array().cloned().unwrap_or_default();
            let flows = list("flows").into_iter().map(Question::Flow);
            let questions = flows.chain(list("hostFlows").into_iter().map(Question::HostFlow));
            let report = crate::run::run(&path, &text, crate::run::Judge::Production);
            let judged = report.flows.iter().map(|flow| flow.observed);
            let judged = judged.chain(report.host_flows.iter().map(|flow| flow.observed));
            for (question, observed) in questions.zip(judged) {
                let explained = explain(&objects, &question);
                let explained = explained.unwrap_or_else(|error| panic!("{path}: {question:?}: {error}"));
                assert_eq!(explained.verdict, observed.as_str(), "{path}: {question:?}");
                asked += 1;
            }
        }
    }
    assert!(asked > 1000, "{asked}");
}
