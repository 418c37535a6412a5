//! Real kubectl against the server: the one on the PATH, and 1.20.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod common;

use std::path::PathBuf;
use std::process::Stdio;

use common::Here;
use common::kubectl::{Kubectl, kubectl_1_20, kubectl_on_path};

const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec:
  nodeName: node1
  containers:
  - name: server
    image: nginx
    ports: [{containerPort: 80, name: http}]
  - {name: side, image: side}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
";

const NODE: &str = "
apiVersion: v1
kind: Node
metadata: {name: node1, annotations: {projectcalico.org/IPv4Address: 192.0.2.11/24}}
spec: {podCIDR: 10.244.0.0/24}
status: {addresses: [{type: InternalIP, address: 192.0.2.11}]}
";

async fn works(program: PathBuf) {
    let here = Here::start().await;
    let kubectl = Kubectl { program, here };
    tokio::task::spawn_blocking(move || {
        creates_and_applies(&kubectl);
        changes(&kubectl);
        shows(&kubectl);
        refuses(&kubectl);
        watches(&kubectl);
        deletes(&kubectl);
    })
    .await
    .expect("the commands");
}

fn creates_and_applies(kubectl: &Kubectl) {
    assert_eq!(kubectl.does(&["create", "namespace", "shop"]), "namespace/shop created");
    assert_eq!(
        kubectl.does(&["-n", "shop", "create", "serviceaccount", "clerk"]),
        "serviceaccount/clerk created"
    );
    let node = kubectl.file("node.yaml", NODE);
    assert_eq!(kubectl.does(&["create", "-f", &node]), "node/node1 created");
    assert!(kubectl.fails(&["create", "-f", &node]).contains("(AlreadyExists)"));
    let pods = kubectl.file("pods.yaml", PODS);
    let both = "pod/web created\nnetworkpolicy.networking.k8s.io/deny created";
    assert_eq!(kubectl.does(&["apply", "-f", &pods]), both);
    let unchanged = "pod/web unchanged\nnetworkpolicy.networking.k8s.io/deny unchanged";
    assert_eq!(kubectl.does(&["apply", "-f", &pods]), unchanged);
    // One container's image, one label: a strategic merge that leaves the rest, and the defaults.
    let changed = PODS
        .replace("image: nginx", "image: nginx:2")
        .replace("{app: web}}\nspec:\n  nodeName", "{app: web, tier: front}}\nspec:\n  nodeName");
    let changed = kubectl.file("changed.yaml", &changed);
    let one = "pod/web configured\nnetworkpolicy.networking.k8s.io/deny unchanged";
    assert_eq!(kubectl.does(&["apply", "-f", &changed]), one);
    let path = "jsonpath={.spec.containers[*].image} {.metadata.labels.tier} {.spec.containers[0].ports[0].protocol}";
    assert_eq!(kubectl.does(&["-n", "shop", "get", "pod", "web", "-o", path]), "nginx:2 side front TCP");
    // What apply no longer says, it takes away.
    assert_eq!(kubectl.does(&["apply", "-f", &pods]), one);
    assert_eq!(kubectl.does(&["-n", "shop", "get", "pod", "web", "-o", path]), "nginx side  TCP");
    assert_eq!(kubectl.does(&["-n", "shop", "run", "once", "--image=x"]), "pod/once created");
}

fn changes(kubectl: &Kubectl) {
    let shop = |args: &[&str]| kubectl.does(&[&["-n", "shop"], args].concat());
    let labels = || shop(&["get", "pod", "web", "-o", "jsonpath={.metadata.labels}"]);
    assert_eq!(shop(&["label", "pod", "web", "x=y"]), "pod/web labeled");
    assert_eq!(labels(), r#"{"app":"web","x":"y"}"#);
    assert_eq!(shop(&["annotate", "pod", "web", "note=1"]), "pod/web annotated");
    shop(&["patch", "pod", "web", "--type", "merge", "-p", r#"{"metadata":{"labels":{"x":null}}}"#]);
    assert_eq!(labels(), r#"{"app":"web"}"#);
    shop(&[
        "patch",
        "pod",
        "web",
        "--type",
        "json",
        "-p",
        r#"[{"op":"add","path":"/metadata/labels/j","value":"1"}]"#,
    ]);
    assert_eq!(labels(), r#"{"app":"web","j":"1"}"#);
    shop(&["patch", "pod", "web", "-p", r#"{"spec":{"containers":[{"name":"side","image":"other"}]}}"#]);
    let images = shop(&["get", "pod", "web", "-o", "jsonpath={.spec.containers[*].image}"]);
    assert_eq!(images, "nginx other");
}

fn shows(kubectl: &Kubectl) {
    let first = |text: String| {
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
    };
    let pods = first(kubectl.does(&["get", "pods", "-A", "-o", "wide", "-l", "app=web"]));
    assert_eq!(pods[0], "NAMESPACE NAME READY STATUS RESTARTS AGE IP NODE NOMINATED NODE READINESS GATES");
    assert!(pods[1].starts_with("shop web 0/2 Pending 0 "), "{pods:?}");
    assert!(pods[1].contains(" <none> node1 "), "{pods:?}");
    assert_eq!(pods.len(), 2);
    let policies = first(kubectl.does(&["-n", "shop", "get", "netpol"]));
    assert_eq!(policies[0], "NAME POD-SELECTOR AGE");
    assert!(policies[1].starts_with("deny app=web "), "{policies:?}");
    let nodes = first(kubectl.does(&["get", "no", "-o", "wide"]));
    assert!(nodes[1].starts_with("node1 Unknown <none> "), "{nodes:?}");
    assert!(nodes[1].contains(" 192.0.2.11 <none> 10.244.0.0/24"), "{nodes:?}");
    assert_eq!(
        kubectl.does(&["get", "pods", "-A", "--field-selector", "spec.nodeName=node1", "-o", "name"]),
        "pod/web"
    );
    assert_eq!(
        kubectl.does(&["get", "pods", "-A", "--field-selector", "spec.nodeName=node2", "-o", "name"]),
        ""
    );
    assert_eq!(
        kubectl.does(&["get", "ns", "-o", "name"]),
        ["default", "kube-node-lease", "kube-public", "kube-system", "shop"]
            .map(|name| format!("namespace/{name}"))
            .join("\n")
    );
    // In pages.
    assert_eq!(kubectl.does(&["get", "sa", "-A", "--chunk-size=2", "-o", "name"]).lines().count(), 6);
    let described = kubectl.does(&["-n", "shop", "describe", "pod", "web"]);
    assert!(described.contains("Node:") && described.contains("nginx"), "{described}");
    let described = kubectl.does(&["-n", "shop", "describe", "netpol", "deny"]);
    assert!(described.contains("app=web") && described.contains("Policy Types: Ingress"), "{described}");
    assert!(kubectl.does(&["describe", "node", "node1"]).contains("10.244.0.0/24"));
    assert!(kubectl.does(&["describe", "ns", "shop"]).contains("Active"));
    kubectl.does(&["describe", "sa", "default"]);
    assert!(kubectl.does(&["explain", "networkpolicy.spec.ingress.ports.endPort"]).contains("integer"));
    assert!(kubectl.does(&["api-resources"]).contains("netpol"));
    assert!(kubectl.does(&["version"]).contains("v1.33.0"));
}

fn refuses(kubectl: &Kubectl) {
    let unknown = kubectl.file(
        "unknown.yaml",
        "apiVersion: v1
kind: Pod
metadata: {name: bad}
spec: {nodename: x, containers: [{name: c, image: i}]}",
    );
    // 1.20 validates by itself, from /openapi/v2; later ones leave it to the server.
    let told = kubectl.fails(&["apply", "-f", &unknown]);
    assert!(told.contains("unknown field \"") && told.contains("nodename"), "{told}");
    let wrong = kubectl.file(
        "wrong.yaml",
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: bad}\n\
         spec: {podSelector: {}, ingress: [{ports: [{port: 70000}]}]}",
    );
    let told = kubectl.fails(&["create", "-f", &wrong]);
    assert!(told.contains("spec.ingress[0].ports[0].port"), "{told}");
    let lost = PODS.replace("namespace: shop", "namespace: nowhere");
    let lost = kubectl.file("lost.yaml", &lost);
    let told = kubectl.fails(&["create", "-f", &lost]);
    assert!(told.contains("namespaces \"nowhere\" not found"), "{told}");
    let told =
        kubectl.fails(&["-n", "shop", "patch", "pod", "web", "-p", r#"{"spec":{"nodeName":"other"}}"#]);
    assert!(told.contains("pod updates may not change fields"), "{told}");
    assert!(kubectl.fails(&["get", "pod", "none"]).contains("pods \"none\" not found"));
    assert!(kubectl.fails(&["get", "statefulsets"]).contains("doesn't have a resource type"));
}

fn watches(kubectl: &Kubectl) {
    use std::io::{BufRead, BufReader};
    let mut watching = kubectl
        .command(&["-n", "shop", "get", "pods", "-w", "--no-headers", "-l", "seen"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl runs");
    let mut lines = BufReader::new(watching.stdout.take().expect("its output")).lines();
    // It lists first; only then would it miss nothing. A first object shows that it is watching.
    kubectl.does(&["-n", "shop", "label", "pod", "once", "seen=1"]);
    let mut next = || lines.next().expect("a line").expect("UTF-8");
    assert!(next().starts_with("once "));
    kubectl.does(&["-n", "shop", "label", "pod", "web", "seen=1"]);
    assert!(next().starts_with("web "));
    watching.kill().expect("its process");
    watching.wait().expect("its process");
}

fn deletes(kubectl: &Kubectl) {
    let force = ["-n", "shop", "delete", "pod", "once", "--force", "--grace-period=0"];
    assert_eq!(kubectl.does(&force), "pod \"once\" force deleted");
    assert_eq!(kubectl.does(&["-n", "shop", "delete", "pod", "web"]), "pod \"web\" deleted");
    assert_eq!(kubectl.does(&["delete", "ns", "shop"]), "namespace \"shop\" deleted");
    assert!(kubectl.fails(&["get", "ns", "shop"]).contains("(NotFound)"));
    assert_eq!(kubectl.does(&["get", "netpol", "-A", "-o", "name"]), "");
    assert!(kubectl.fails(&["delete", "ns", "default"]).contains("(Forbidden)"));
    assert_eq!(kubectl.does(&["delete", "node", "--all"]), "node \"node1\" deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kubectl_on_the_path_does_its_work() {
    works(kubectl_on_path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_1_20_does_its_work() {
    works(kubectl_1_20()).await;
}
