//! Calico's kinds as kubectl sees them: the one on the PATH, and 1.20.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod common;

use std::path::PathBuf;

use common::Here;
use common::kubectl::{Kubectl, kubectl_1_20, kubectl_on_path};

const OBJECTS: &str = "
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: security}
spec: {order: 100}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: security.block-bad}
spec:
  tier: security
  order: 10.5
  selector: all()
  ingress:
  - action: Deny
    source: {selector: 'threat == \"bad\"'}
  - action: Pass
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: web, namespace: default}
spec:
  selector: app == 'web'
  ingress:
  - {action: Allow, protocol: TCP, destination: {ports: [80, '8000:8080', http]}}
  egress:
  - {action: Allow}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: plain, namespace: default}
spec: {podSelector: {}}
---
apiVersion: projectcalico.org/v3
kind: StagedGlobalNetworkPolicy
metadata: {name: later}
spec: {selector: all(), ingress: [{action: Deny}]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: bad, labels: {threat: bad}}
spec: {nets: [198.51.100.0/24, 203.0.113.7]}
---
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: eth0-node1}
spec: {node: node1, interfaceName: eth0}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: admin}
spec:
  tier: Admin
  priority: 7
  subject: {namespaces: {}}
  ingress: [{name: stop, action: Deny, from: [{namespaces: {}}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [10.244.1.2]}]
ports: [{name: '', port: 8080, protocol: TCP}]
";

async fn works(program: PathBuf) {
    let here = Here::start().await;
    let kubectl = Kubectl { program, here };
    tokio::task::spawn_blocking(move || {
        applies(&kubectl);
        shows(&kubectl);
        changes(&kubectl);
        completes(&kubectl);
        refuses(&kubectl);
        deletes(&kubectl);
    })
    .await
    .expect("the commands");
}

fn applies(kubectl: &Kubectl) {
    let objects = kubectl.file("objects.yaml", OBJECTS);
    let told = kubectl.does(&["apply", "-f", &objects]);
    let made = [
        "tier.projectcalico.org/security",
        "globalnetworkpolicy.projectcalico.org/security.block-bad",
        "networkpolicy.projectcalico.org/web",
        "networkpolicy.networking.k8s.io/plain",
        "stagedglobalnetworkpolicy.projectcalico.org/later",
        "globalnetworkset.projectcalico.org/bad",
        "hostendpoint.projectcalico.org/eth0-node1",
        "clusternetworkpolicy.policy.networking.k8s.io/admin",
        "service/web",
        "endpointslice.discovery.k8s.io/web-1",
    ];
    assert_eq!(told, made.map(|name| format!("{name} created")).join("\n"));
    let again = kubectl.does(&["apply", "-f", &objects]);
    assert_eq!(again, made.map(|name| format!("{name} unchanged")).join("\n"));
    // apply finds out how to patch: a custom resource's list is replaced whole.
    let changed = OBJECTS.replace("  - action: Pass\n", "").replace("{port: 80}", "{port: 81}");
    let changed = kubectl.file("changed.yaml", &changed);
    let told = kubectl.does(&["apply", "-f", &changed]);
    assert!(told.contains("globalnetworkpolicy.projectcalico.org/security.block-bad configured"), "{told}");
    assert!(told.contains("service/web configured"), "{told}");
    let actions = ["get", "gnp", "security.block-bad", "-o", "jsonpath={.spec.ingress[*].action}"];
    assert_eq!(kubectl.does(&actions), "Deny");
    kubectl.does(&["apply", "-f", &objects]);
    assert_eq!(kubectl.does(&actions), "Deny Pass");
}

fn lines(text: String) -> Vec<String> {
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

fn shows(kubectl: &Kubectl) {
    let policies = lines(kubectl.does(&["get", "gnp"]));
    assert_eq!(policies[0], "NAME TIER ORDER AGE");
    assert!(policies[1].starts_with("security.block-bad security 10.5 "), "{policies:?}");
    let tiers = lines(kubectl.does(&["get", "tiers"]));
    assert_eq!(tiers[0], "NAME ORDER DEFAULT-ACTION AGE");
    for tier in
        ["default 1000000 Deny ", "kube-admin 1000 Pass ", "kube-baseline 10000000 Pass ", "security 100 "]
    {
        assert!(tiers.iter().any(|line| line.starts_with(tier)), "{tier}: {tiers:?}");
    }
    for (short, name) in [
        ("sgnp", "stagedglobalnetworkpolicy.projectcalico.org/later"),
        ("hep", "hostendpoint.projectcalico.org/eth0-node1"),
        ("heps", "hostendpoint.projectcalico.org/eth0-node1"),
        ("gns", "globalnetworkset.projectcalico.org/bad"),
        ("svc", "service/web"),
        ("endpointslices", "endpointslice.discovery.k8s.io/web-1"),
        ("clusternetworkpolicies", "clusternetworkpolicy.policy.networking.k8s.io/admin"),
        // Two kinds of one name: the plain word is Kubernetes'.
        ("networkpolicies", "networkpolicy.networking.k8s.io/plain"),
        ("netpol", "networkpolicy.networking.k8s.io/plain"),
        ("cnp", "networkpolicy.projectcalico.org/web"),
        ("caliconetworkpolicy", "networkpolicy.projectcalico.org/web"),
        ("networkpolicies.projectcalico.org", "networkpolicy.projectcalico.org/web"),
        ("networkpolicies.networking.k8s.io", "networkpolicy.networking.k8s.io/plain"),
    ] {
        assert_eq!(kubectl.does(&["get", short, "-o", "name"]), name, "{short}");
    }
    let profiles = kubectl.does(&["get", "profiles", "-o", "name"]);
    for name in ["kns.default", "ksa.default.default", "projectcalico-default-allow"] {
        assert!(
            profiles.contains(&format!("profile.projectcalico.org/{name}\n")) || profiles.ends_with(name),
            "{profiles}"
        );
    }
    let labels = ["get", "profile", "kns.default", "-o", "jsonpath={.spec.labelsToApply}"];
    assert!(kubectl.does(&labels).contains("pcns.projectcalico.org/name"), "{}", kubectl.does(&labels));
    assert!(
        kubectl.does(&["explain", "globalnetworkpolicy.spec.ingress.source.notSelector"]).contains("string")
    );
    assert!(kubectl.does(&["explain", "tier.spec"]).contains("defaultAction"));
    assert!(kubectl.does(&["describe", "gnp", "security.block-bad"]).contains("Order:"));
    kubectl.does(&["describe", "svc", "web"]);
}

/// What the model fills in and finds wrong.
fn completes(kubectl: &Kubectl) {
    let yaml = kubectl.does(&["get", "cnp", "web", "-o", "yaml"]);
    for line in [
        "apiVersion: projectcalico.org/v3",
        "kind: NetworkPolicy",
        "projectcalico.org/tier: default",
        "tier: default",
        "- Egress",
    ] {
        assert!(yaml.contains(line), "{line}: {yaml}");
    }
    let staged = kubectl.does(&["get", "sgnp", "later", "-o", "jsonpath={.spec.stagedAction}"]);
    assert_eq!(staged, "Set");
    // By the label that every policy has.
    let of_tier = ["get", "gnp", "-l", "projectcalico.org/tier=security", "-o", "name"];
    assert_eq!(kubectl.does(&of_tier), "globalnetworkpolicy.projectcalico.org/security.block-bad");
    let action = ["get", "tier", "security", "-o", "jsonpath={.spec.defaultAction}"];
    assert_eq!(kubectl.does(&action), "Deny");
    let refused = |name: &str, text: &str| {
        let file = kubectl.file(name, text);
        kubectl.fails(&["create", "-f", &file])
    };
    let told = refused(
        "selector.yaml",
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: bad}\n\
         spec: {selector: 'app = \"x\"', ingress: [{action: Maybe}]}",
    );
    // All that is wrong, at once.
    assert!(told.contains("spec.selector") && told.contains("spec.ingress[0].action"), "{told}");
}

fn changes(kubectl: &Kubectl) {
    let order = ["get", "tier", "security", "-o", "jsonpath={.spec.order}"];
    kubectl.does(&["patch", "tier", "security", "--type", "merge", "-p", r#"{"spec":{"order":200}}"#]);
    assert_eq!(kubectl.does(&order), "200");
    let json = r#"[{"op":"replace","path":"/spec/order","value":150}]"#;
    kubectl.does(&["patch", "tier", "security", "--type", "json", "-p", json]);
    assert_eq!(kubectl.does(&order), "150");
    // As every custom resource.
    let told = kubectl.fails(&["patch", "tier", "security", "-p", r#"{"spec":{"order":1}}"#]);
    assert!(told.contains("strategic"), "{told}");
    kubectl.does(&["label", "gns", "bad", "seen=1"]);
    kubectl.does(&["annotate", "gns", "bad", "note=1"]);
    let replaced = kubectl.does(&["get", "gns", "bad", "-o", "yaml"]).replace("203.0.113.7", "203.0.113.8");
    let replaced = kubectl.file("replaced.yaml", &replaced);
    kubectl.does(&["replace", "-f", &replaced]);
    assert!(kubectl.does(&["get", "gns", "bad", "-o", "jsonpath={.spec.nets}"]).contains("203.0.113.8"));
    // An editor that changes one word.
    let edited = kubectl
        .command(&["edit", "gnp", "security.block-bad"])
        .env("KUBE_EDITOR", "sed -i s/order:\\ 10.5/order:\\ 11/")
        .output()
        .expect("kubectl runs");
    assert!(edited.status.success(), "{}", String::from_utf8_lossy(&edited.stderr));
    assert_eq!(kubectl.does(&["get", "gnp", "security.block-bad", "-o", "jsonpath={.spec.order}"]), "11");
    let generation = ["get", "gnp", "security.block-bad", "-o", "jsonpath={.metadata.generation}"];
    let before = kubectl.does(&generation);
    kubectl.does(&["label", "gnp", "security.block-bad", "a=b"]);
    assert_eq!(kubectl.does(&generation), before);
}

fn refuses(kubectl: &Kubectl) {
    let refused = |name: &str, text: &str| {
        let file = kubectl.file(name, text);
        kubectl.fails(&["create", "-f", &file])
    };
    let told = refused(
        "unknown.yaml",
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: bad}\nspec: {seletcor: all()}",
    );
    assert!(told.contains("unknown field") && told.contains("seletcor"), "{told}");
    let told = refused(
        "profile.yaml",
        "apiVersion: projectcalico.org/v3\nkind: Profile\nmetadata: {name: mine}\nspec: {}",
    );
    assert!(told.contains("made from namespaces and service accounts"), "{told}");
    let pool = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: NAME}\nspec: {cidr: CIDR}";
    let pool = |name: &str, cidr: &str| pool.replace("NAME", name).replace("CIDR", cidr);
    let one = kubectl.file("pool.yaml", &pool("one", "10.0.0.0/16"));
    kubectl.does(&["create", "-f", &one]);
    let told = refused("overlap.yaml", &pool("two", "10.0.1.0/24"));
    assert!(told.contains("spec.cidr") && told.contains("of the pool one"), "{told}");
    let told = kubectl.fails(&[
        "patch",
        "ipp",
        "one",
        "--type",
        "merge",
        "-p",
        r#"{"spec":{"cidr":"10.1.0.0/16"}}"#,
    ]);
    assert!(told.contains("spec.cidr"), "{told}");
    let told = kubectl.fails(&["delete", "profile", "kns.default"]);
    assert!(told.contains("made from namespaces and service accounts"), "{told}");
}

fn deletes(kubectl: &Kubectl) {
    for tier in ["default", "kube-admin", "kube-baseline"] {
        let told = kubectl.fails(&["delete", "tier", tier]);
        assert!(told.contains("(Forbidden)") && told.contains("cannot be deleted"), "{told}");
    }
    let told = kubectl.fails(&["delete", "tier", "security"]);
    assert!(told.contains("GlobalNetworkPolicy security.block-bad"), "{told}");
    let gone = "globalnetworkpolicy.projectcalico.org \"security.block-bad\" deleted";
    assert_eq!(kubectl.does(&["delete", "gnp", "security.block-bad"]), gone);
    assert_eq!(kubectl.does(&["delete", "tier", "security"]), "tier.projectcalico.org \"security\" deleted");
    assert_eq!(
        kubectl.does(&["delete", "networkpolicies.projectcalico.org", "--all"]),
        "networkpolicy.projectcalico.org \"web\" deleted"
    );
    // Kubernetes' policy of the same plural is another one.
    assert_eq!(kubectl.does(&["get", "netpol", "-o", "name"]), "networkpolicy.networking.k8s.io/plain");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kubectl_on_the_path_knows_calicos_kinds() {
    works(kubectl_on_path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_1_20_knows_calicos_kinds() {
    works(kubectl_1_20()).await;
}
