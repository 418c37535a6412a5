//! kubectl with the kinds that an installation applies, and with kinds that it defines.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking, in its helpers too")]

mod common;

use common::Here;
use common::kubectl::{Kubectl, kubectl_1_20, kubectl_on_path};

/// One of each kind that is data here: what it is called, and what it says.
const OBJECTS: &[(&str, &str)] = &[
    (
        "configmap/settings",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings, namespace: default}\ndata: {a: b}",
    ),
    (
        "secret/keys",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: keys, namespace: default}\ndata: {a: Yg==}",
    ),
    (
        "lease.coordination.k8s.io/leader",
        "apiVersion: coordination.k8s.io/v1\nkind: Lease\nmetadata: {name: leader, namespace: default}\n\
         spec: {holderIdentity: me, leaseDurationSeconds: 15, renewTime: \"2026-01-01T00:00:00.000000Z\"}",
    ),
    (
        "daemonset.apps/node",
        "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: node, namespace: default}\nspec:\n  selector: {matchLabels: {app: node}}\n  \
         template:\n    metadata: {labels: {app: node}}\n    spec:\n      containers: [{name: agent, image: agent:1}]",
    ),
    (
        "deployment.apps/controllers",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: controllers, namespace: default}\nspec:\n  \
         selector: {matchLabels: {app: controllers}}\n  template:\n    metadata: {labels: {app: controllers}}\n    \
         spec:\n      containers: [{name: main, image: main:1}]",
    ),
    (
        "job.batch/once",
        "apiVersion: batch/v1\nkind: Job\nmetadata: {name: once, namespace: default}\nspec:\n  template:\n    spec:\n      \
         restartPolicy: Never\n      containers: [{name: main, image: main:1}]",
    ),
    (
        "poddisruptionbudget.policy/few",
        "apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: few, namespace: default}\n\
         spec: {maxUnavailable: 1, selector: {matchLabels: {app: node}}}",
    ),
    (
        "serviceaccount/agent",
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: agent, namespace: default}",
    ),
    (
        "clusterrole.rbac.authorization.k8s.io/agent",
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: agent}\n\
         rules: [{apiGroups: [\"\"], resources: [pods], verbs: [get, list, watch]}]",
    ),
    (
        "clusterrolebinding.rbac.authorization.k8s.io/agent",
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: agent}\n\
         roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: agent}\n\
         subjects: [{kind: ServiceAccount, name: agent, namespace: default}]",
    ),
    (
        "role.rbac.authorization.k8s.io/leader",
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: leader, namespace: default}\n\
         rules: [{apiGroups: [coordination.k8s.io], resources: [leases], verbs: [\"*\"]}]",
    ),
    (
        "rolebinding.rbac.authorization.k8s.io/leader",
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: leader, namespace: default}\n\
         roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: leader}\n\
         subjects: [{kind: ServiceAccount, name: agent, namespace: default}]",
    ),
    (
        "priorityclass.scheduling.k8s.io/first",
        "apiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {name: first}\nvalue: 1000",
    ),
];

const DEFINITION: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: shops.example.org}
spec:
  group: example.org
  scope: Namespaced
  names: {plural: shops, singular: shop, kind: Shop, listKind: ShopList, shortNames: [sh]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    additionalPrinterColumns: [{name: Owner, type: string, jsonPath: .spec.owner}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            description: What the shop is to be.
            required: [owner]
            properties:
              owner: {type: string, description: Whose it is.}
              port: {x-kubernetes-int-or-string: true}
              extra: {type: object, x-kubernetes-preserve-unknown-fields: true}
          status:
            type: object
            properties:
              conditions:
                type: array
                items: {type: object, properties: {type: {type: string}, status: {type: string}}}
";

const SHOP: &str = "apiVersion: example.org/v1\nkind: Shop\nmetadata: {name: one, namespace: default}\nspec: {owner: ann, port: http, extra: {any: [thing]}}";

/// The words of a text, for comparing tables.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

async fn with_kubectl(program: std::path::PathBuf, test: fn(&Kubectl)) {
    let here = Here::start().await;
    let kubectl = Kubectl { program, here };
    tokio::task::spawn_blocking(move || test(&kubectl)).await.expect("the commands");
}

fn kinds_that_are_applied(kubectl: &Kubectl) {
    let all = OBJECTS.iter().map(|(_, text)| *text).collect::<Vec<_>>().join("\n---\n");
    let file = kubectl.file("all.yaml", &all);
    let said =
        |what: &str| OBJECTS.iter().map(|(name, _)| format!("{name} {what}")).collect::<Vec<_>>().join("\n");
    assert_eq!(kubectl.does(&["apply", "-f", &file]), said("created"));
    // A budget's selector is always sent whole, so kubectl 1.32 calls it configured, here as elsewhere.
    let again = kubectl.does(&["apply", "-f", &file]).replace("/few configured", "/few unchanged");
    assert_eq!(again, said("unchanged"));
    let names = OBJECTS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join("\n");
    assert_eq!(kubectl.does(&["get", "-f", &file, "-o", "name"]), names);
    assert!(kubectl.does(&["get", "-f", &file]).contains("keys"));
    kubectl.does(&["get", "-f", &file, "-o", "yaml"]);
    kubectl.does(&["label", "-f", &file, "seen=yes"]);
    kubectl.does(&["annotate", "-f", &file, "seen=yes"]);
    kubectl.does(&[
        "patch",
        "-f",
        &file,
        "--type",
        "merge",
        "-p",
        r#"{"metadata":{"labels":{"seen":null}}}"#,
    ]);
    kubectl.does(&["patch", "-f", &file, "-p", r#"{"metadata":{"labels":{"seen":"again"}}}"#]);
    for (name, _) in OBJECTS {
        let kind = name.split('/').next().expect("a kind");
        // kubectl 1.20 describes budgets by an API that is gone.
        let known = !(name.starts_with("poddisruptionbudget") && kubectl.is_1_20());
        assert!(!known || kubectl.does(&["describe", name]).contains("Name:"), "{name}");
        assert!(
            kubectl.does(&["explain", kind.split('.').next().unwrap_or(kind)]).contains("FIELD"),
            "{name}"
        );
    }
    // What apply has not said stays.
    let again = kubectl.does(&["apply", "-f", &file]).replace("/few configured", "/few unchanged");
    assert_eq!(again, said("unchanged"));
    for (name, _) in OBJECTS {
        let kind = name.split('/').next().expect("a kind");
        assert_eq!(kubectl.does(&["get", kind, "-l", "seen=again", "-o", "name"]), *name);
    }
    assert!(words(&kubectl.does(&["get", "ds"])).starts_with(
        "NAME DESIRED CURRENT READY UP-TO-DATE AVAILABLE NODE SELECTOR AGE node 0 0 0 0 0 <none>"
    ));
    assert!(
        words(&kubectl.does(&["get", "deploy"]))
            .starts_with("NAME READY UP-TO-DATE AVAILABLE AGE controllers 0/1 0 0")
    );
    assert!(words(&kubectl.does(&["get", "secret", "keys"])).starts_with("NAME TYPE DATA AGE keys Opaque 1"));
    assert_eq!(kubectl.does(&["get", "secret", "keys", "-o", "jsonpath={.data.a}"]), "Yg==");
    // A list of containers merges by name.
    let image = r#"{"spec":{"template":{"spec":{"containers":[{"name":"agent","image":"agent:2"}]}}}}"#;
    kubectl.does(&["patch", "ds", "node", "-p", image]);
    let path = "jsonpath={.spec.template.spec.containers[*].image} {.metadata.generation}";
    assert_eq!(kubectl.does(&["get", "ds", "node", "-o", path]), "agent:2 2");
    let fixed = r#"{"spec":{"selector":{"matchLabels":{"app":"other"}}}}"#;
    assert!(kubectl.fails(&["patch", "ds", "node", "--type", "merge", "-p", fixed]).contains("immutable"));
    kubectl.does(&["create", "configmap", "made", "--from-literal=x=y"]);
    kubectl.does(&["create", "secret", "generic", "made", "--from-literal=x=y"]);
    kubectl.does(&["patch", "secret", "made", "-p", r#"{"stringData":{"z":"b"}}"#]);
    assert_eq!(kubectl.does(&["get", "secret", "made", "-o", "jsonpath={.data.z}{.stringData}"]), "Yg==");
    kubectl.does(&["create", "clusterrole", "made", "--verb=get", "--resource=pods"]);
    kubectl.does(&["create", "clusterrolebinding", "made", "--clusterrole=made", "--user=ann"]);
    kubectl.does(&["create", "role", "made", "--verb=get", "--resource=pods"]);
    kubectl.does(&["create", "rolebinding", "made", "--role=made", "--serviceaccount=default:agent"]);
    let subject = "jsonpath={.subjects[0].namespace}/{.subjects[0].name} {.roleRef.name}";
    assert_eq!(kubectl.does(&["get", "rolebinding", "made", "-o", subject]), "default/agent made");
    let file = kubectl.file("all.yaml", &all);
    assert_eq!(kubectl.does(&["delete", "-f", &file]).lines().count(), OBJECTS.len());
}

fn kinds_that_are_defined(kubectl: &Kubectl) {
    let (definition, shop) = (kubectl.file("definition.yaml", DEFINITION), kubectl.file("shop.yaml", SHOP));
    let name = "customresourcedefinition.apiextensions.k8s.io/shops.example.org";
    assert_eq!(kubectl.does(&["apply", "-f", &definition]), format!("{name} created"));
    kubectl.does(&["wait", "--for=condition=established", "--timeout=30s", "crd/shops.example.org"]);
    assert_eq!(kubectl.does(&["apply", "-f", &definition]), format!("{name} unchanged"));
    assert!(kubectl.does(&["get", "crd"]).contains("shops.example.org"));
    assert!(kubectl.does(&["api-resources", "--api-group=example.org"]).contains("shops"));
    assert_eq!(kubectl.does(&["apply", "-f", &shop]), "shop.example.org/one created");
    assert_eq!(kubectl.does(&["apply", "-f", &shop]), "shop.example.org/one unchanged");
    let renamed = kubectl.file("renamed.yaml", &SHOP.replace("ann", "bob"));
    assert_eq!(kubectl.does(&["apply", "-f", &renamed]), "shop.example.org/one configured");
    assert_eq!(words(&kubectl.does(&["get", "sh"])), "NAME OWNER one bob");
    assert!(words(&kubectl.does(&["describe", "shop", "one"])).contains("Owner: bob"));
    assert!(kubectl.does(&["explain", "shop.spec.owner"]).contains("Whose it is."));
    assert!(kubectl.does(&["explain", "shops", "--recursive"]).contains("conditions"));
    kubectl.does(&["label", "shop", "one", "x=y"]);
    kubectl.does(&["patch", "shop", "one", "--type", "merge", "-p", r#"{"spec":{"owner":"cid"}}"#]);
    let bad = kubectl.file("bad.yaml", &SHOP.replace("owner: ann", "ownr: ann"));
    let told = kubectl.fails(&["create", "-f", &bad]);
    assert!(told.contains("ownr") || told.contains("owner"), "{told}");
    assert_eq!(kubectl.does(&["delete", "shop", "one"]), "shop.example.org \"one\" deleted");
    kubectl.does(&["apply", "-f", &shop]);
    kubectl.does(&["delete", "-f", &definition]);
    let told = kubectl.fails(&["get", "shops"]);
    assert!(
        told.contains("resource type") || told.contains("could not find the requested resource"),
        "{told}"
    );
}

/// What kubectl 1.20 does not know.
fn what_newer_kubectl_can(kubectl: &Kubectl) {
    let (definition, shop) = (kubectl.file("definition.yaml", DEFINITION), kubectl.file("shop.yaml", SHOP));
    kubectl.does(&["apply", "-f", &definition]);
    kubectl.does(&["apply", "-f", &shop]);
    let ready = r#"{"status":{"conditions":[{"type":"Ready","status":"True"}]}}"#;
    kubectl.does(&["patch", "shop", "one", "--subresource=status", "--type", "merge", "-p", ready]);
    kubectl.does(&["wait", "--for=condition=Ready", "--timeout=30s", "shop/one"]);
    kubectl.does(&["wait", "--for=jsonpath={.spec.owner}=ann", "--timeout=30s", "shop/one"]);
    let told = kubectl.fails(&["apply", "--server-side", "-f", &shop]);
    assert!(told.contains("server-side apply is not served here"), "{told}");
    let (_, deployment) =
        OBJECTS.iter().find(|(name, _)| name.starts_with("deployment")).expect("a deployment");
    let file = kubectl.file("deployment.yaml", deployment);
    kubectl.does(&["apply", "-f", &file]);
    let available = r#"{"status":{"conditions":[{"type":"Available","status":"True"}]}}"#;
    kubectl.does(&["patch", "deployment", "controllers", "--subresource=status", "-p", available]);
    kubectl.does(&["wait", "--for=condition=Available", "--timeout=30s", "deployment/controllers"]);
    kubectl.does(&["diff", "-f", &file]);
    kubectl.does(&["set", "image", "deployment/controllers", "main=main:2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kubectl_on_the_path_applies_every_kind() {
    with_kubectl(kubectl_on_path(), kinds_that_are_applied).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_1_20_applies_every_kind() {
    with_kubectl(kubectl_1_20(), kinds_that_are_applied).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kubectl_on_the_path_uses_what_is_defined() {
    with_kubectl(kubectl_on_path(), kinds_that_are_defined).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_1_20_uses_what_is_defined() {
    with_kubectl(kubectl_1_20(), kinds_that_are_defined).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kubectl_on_the_path_waits_and_patches_a_status() {
    with_kubectl(kubectl_on_path(), what_newer_kubectl_can).await;
}
