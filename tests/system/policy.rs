//! Calico's policy as an operator lives with it: written with kubectl, enforced on packets that flow already, and told by name.

use std::time::Instant;

use caracal_lab::Reader;
use caracal_plane_api::{PolicyRow, What};

use crate::{
    kubectl::Kubectl,
    lab::{Lab, Plan},
    machine::{caracal, eventually, stdout},
    traffic::Questions,
};

const SECURITY: &str = "
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: security}
spec: {order: 100}
---
";

/// What has decided on a node.
fn decided(lab: &Lab, node: &str) -> Vec<PolicyRow> {
    Reader::connect(lab.socket(node)).unwrap().read(What::Policy).unwrap().policies
}

/// Connections and packets that a rule has decided.
fn counted(lab: &Lab, node: &str, rule: &str, action: &str, staged: bool) -> (u64, u64) {
    let rows = decided(lab, node);
    let rows = rows
        .iter()
        .filter(|row| row.rule == rule && row.action.eq_ignore_ascii_case(action) && row.staged == staged);
    rows.fold((0, 0), |sum, row| (sum.0 + row.connections, sum.1 + row.packets))
}

#[test]
fn a_policy_in_a_tier_cuts_off_what_flows_and_is_named() {
    let lab = Lab::up("tier", &Plan::pods(&[("a", "node1"), ("b", "node2"), ("c", "node1")]));
    let kubectl = Kubectl::of(&lab);
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.pod(name));
    let denied = Questions::start(&a, &b, 7001);
    let allowed = Questions::start(&c, &b, 7002);
    for questions in [&denied, &allowed] {
        questions.wait_after("everybody, while there is no policy", Instant::now());
    }
    let policy = "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: security.block-a}
spec:
  tier: security
  order: 10
  selector: app == 'b'
  ingress:
  - {action: Deny, source: {selector: app == 'a'}}
  - {action: Pass}
";
    kubectl.apply(&format!("{SECURITY}{policy}"));
    denied.wait_silence("what the tier denies", Instant::now());
    allowed.wait_after("what the tier passes", Instant::now());
    let rule = "tier security · GlobalNetworkPolicy security.block-a · ingress rule 0";
    assert!(counted(&lab, "node2", rule, "deny", false).1 > 0, "{:?}", decided(&lab, "node2"));
    // As the command tells it.
    let told = stdout(&caracal(&["fastpath", "policy", "--socket", lab.socket("node2").to_str().unwrap()]));
    let line = told.lines().find(|line| line.contains(rule)).unwrap_or_else(|| panic!("{told}"));
    assert!(line.to_lowercase().contains("deny"), "{line}");
    // The tier holds a policy.
    let refused = kubectl.try_run(&["delete", "tier", "security"], "").unwrap_err();
    assert!(refused.contains("GlobalNetworkPolicy security.block-a"), "{refused}");
    // What is edited reaches what flows, both ways.
    let patch =
        r#"{"spec":{"ingress":[{"action":"Deny","source":{"selector":"app == 'c'"}},{"action":"Pass"}]}}"#;
    kubectl.merge("gnp", "security.block-a", patch);
    allowed.wait_silence("what the policy has come to deny", Instant::now());
    denied.wait_after("what the policy denies no more", Instant::now());
    kubectl.run(&["delete", "gnp", "security.block-a"]);
    kubectl.run(&["delete", "tier", "security"]);
    allowed.wait_after("everybody, once the policy is gone", Instant::now());
}

#[test]
fn the_order_of_tiers_decides_and_a_new_order_reaches_what_flows() {
    let lab = Lab::up("tier-order", &Plan::pods(&[("a", "node1"), ("b", "node1")]));
    let kubectl = Kubectl::of(&lab);
    kubectl.apply(
        "
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: first}
spec: {order: 100}
---
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: second}
spec: {order: 200}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: first.allow}
spec: {tier: first, selector: app == 'b', ingress: [{action: Allow}]}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: second.deny, namespace: default}
spec: {tier: second, selector: app == 'b', ingress: [{action: Deny}]}
",
    );
    let questions = Questions::start(&lab.pod("a"), &lab.pod("b"), 7001);
    questions.wait_after("the first tier allows", Instant::now());
    kubectl.merge("tier", "second", r#"{"spec":{"order":50}}"#);
    questions.wait_silence("the tier that has become the first", Instant::now());
    let rule = "tier second · NetworkPolicy default/second.deny · ingress rule 0";
    assert!(counted(&lab, "node1", rule, "deny", false).1 > 0, "{:?}", decided(&lab, "node1"));
    kubectl.merge("tier", "second", r#"{"spec":{"order":300}}"#);
    questions.wait_after("the tier that is the first again", Instant::now());
    // What no rule of a tier matches is denied at its end, or passed on, as the tier says.
    kubectl.merge("gnp", "first.allow", r#"{"spec":{"ingress":[]}}"#);
    questions.wait_silence("the default of the first tier", Instant::now());
    kubectl.merge("tier", "first", r#"{"spec":{"defaultAction":"Pass"}}"#);
    kubectl.run(&["delete", "networkpolicies.projectcalico.org", "second.deny"]);
    questions.wait_after("a tier that passes on", Instant::now());
}

#[test]
fn a_staged_policy_enforces_nothing_and_says_what_it_would_have_done() {
    let lab = Lab::up("staged", &Plan::pods(&[("a", "node1"), ("b", "node2")]));
    let kubectl = Kubectl::of(&lab);
    let (a, b) = (lab.pod("a"), lab.pod("b"));
    let questions = Questions::start(&a, &b, 7001);
    questions.wait_after("no policy", Instant::now());
    kubectl.apply(
        "
apiVersion: projectcalico.org/v3
kind: StagedGlobalNetworkPolicy
metadata: {name: cut-off}
spec: {selector: app == 'b', ingress: [{action: Deny, source: {selector: app == 'a'}}]}
",
    );
    // Every question from now on is of a new flow.
    let rule = "tier default · StagedGlobalNetworkPolicy cut-off · ingress rule 0";
    let mut port = 7100;
    eventually("the staged policy has a verdict", || {
        port += 1;
        assert!(crate::traffic::answers(&a, &b, port), "a staged policy must enforce nothing");
        counted(&lab, "node2", rule, "deny", true).0 > 0
    });
    questions.wait_after("a staged policy", Instant::now());
    assert_eq!(counted(&lab, "node2", rule, "deny", false), (0, 0));
    let told = stdout(&caracal(&["fastpath", "policy", "--socket", lab.socket("node2").to_str().unwrap()]));
    let line = told.lines().find(|line| line.contains(rule)).unwrap_or_else(|| panic!("{told}"));
    assert!(line.to_lowercase().contains("staged"), "{line}");
    // The same, no longer staged.
    kubectl.apply(
        "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: cut-off}
spec: {selector: app == 'b', ingress: [{action: Deny, source: {selector: app == 'a'}}]}
",
    );
    kubectl.run(&["delete", "sgnp", "cut-off"]);
    questions.wait_silence("the policy that was staged", Instant::now());
}

#[test]
fn a_network_set_is_edited_and_what_flows_follows() {
    let lab = Lab::up("network-set", &Plan::pods(&[("a", "node1"), ("b", "node2"), ("c", "node2")]));
    let kubectl = Kubectl::of(&lab);
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.pod(name));
    let other = Questions::start(&a, &c, 7002);
    let questions = Questions::start(&a, &b, 7001);
    kubectl.apply(
        "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: bad, labels: {reputation: bad}}
spec: {nets: [198.51.100.0/24]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: block-bad}
spec:
  selector: app == 'a'
  types: [Egress]
  egress:
  - {action: Deny, destination: {selector: reputation == 'bad'}}
  - {action: Allow}
",
    );
    for nets in [format!("{}/32", b.address), b.address.to_string()] {
        questions.wait_after("who is not in the set", Instant::now());
        kubectl.merge("gns", "bad", &format!(r#"{{"spec":{{"nets":["198.51.100.0/24","{nets}"]}}}}"#));
        questions.wait_silence("who has come into the set", Instant::now());
        other.wait_after("who is in no set", Instant::now());
        kubectl.merge("gns", "bad", r#"{"spec":{"nets":["198.51.100.0/24"]}}"#);
    }
    questions.wait_after("who is not in the set any more", Instant::now());
    // A set without the label is another set.
    kubectl.merge("gns", "bad", &format!(r#"{{"spec":{{"nets":["{}"]}}}}"#, b.address));
    questions.wait_silence("who is in the set", Instant::now());
    kubectl.run(&["label", "gns", "bad", "reputation-"]);
    questions.wait_after("a set that is selected no more", Instant::now());
}
