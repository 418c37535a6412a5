//! What the manifests grant, held against what the programs ask for: they run as the manifests start them, and what they ask the API server
//! for is what their roles allow, no more and no less.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    apply::Cluster,
    chart::{find, render},
    files::objects,
    machine::{Machine, Running},
};

/// Against hanging only.
const PATIENCE: Duration = Duration::from_secs(120);

/// A verb on a resource: group, resource (with its subresource), verb.
type Access = (String, String, String);

/// What the roles of a service account allow.
fn allowed(objects: &[Value], account: &str) -> BTreeSet<Access> {
    let is_bound = |binding: &&Value| {
        let subjects = binding["subjects"].as_array();
        subjects.is_some_and(|subjects| subjects.iter().any(|subject| subject["name"] == account))
    };
    let bindings = objects.iter().filter(|object| {
        object["kind"].as_str().is_some_and(|kind| kind.ends_with("RoleBinding")) && is_bound(object)
    });
    let roles = bindings.map(|binding| {
        let role = &binding["roleRef"];
        find(objects, role["kind"].as_str().expect("a kind"), role["name"].as_str().expect("a name"))
    });
    let mut all = BTreeSet::new();
    for rule in roles.flat_map(|role| role["rules"].as_array().expect("rules")) {
        let list = |field: &str| -> Vec<String> {
            let list = rule[field].as_array().expect("a list");
            list.iter().map(|one| one.as_str().expect("a text").to_owned()).collect()
        };
        for group in list("apiGroups") {
            for resource in list("resources") {
                all.extend(list("verbs").into_iter().map(|verb| (group.clone(), resource.clone(), verb)));
            }
        }
    }
    all
}

/// What a request asks for, as Kubernetes names it; `None` for what everybody may ask, discovery and versions.
fn asked(method: &str, uri: &str) -> Option<Access> {
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, rest) = match parts.as_slice() {
        ["api", _, rest @ ..] => ("", rest),
        ["apis", group, _, rest @ ..] => (*group, rest),
        _ => return None,
    };
    let rest = match rest {
        ["namespaces", _, resource, rest @ ..] if *resource != "status" => [&[*resource], rest].concat(),
        rest => rest.to_vec(),
    };
    let (resource, named) = match rest.as_slice() {
        [resource] => ((*resource).to_owned(), false),
        [resource, _] => ((*resource).to_owned(), true),
        [resource, _, part] => (format!("{resource}/{part}"), true),
        _ => return None,
    };
    let verb = match (method, named) {
        ("GET", true) => "get",
        ("GET", false) if query.contains("watch=true") => "watch",
        ("GET", false) => "list",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", true) => "delete",
        ("DELETE", false) => "deletecollection",
        other => panic!("what is {other:?} {uri}?"),
    };
    Some((group.to_owned(), resource, verb.to_owned()))
}

#[test]
fn requests_are_read_as_kubernetes_reads_them() {
    let is = |method, uri, group: &str, resource: &str, verb: &str| {
        assert_eq!(
            asked(method, uri),
            Some((group.to_owned(), resource.to_owned(), verb.to_owned())),
            "{uri}"
        );
    };
    is("GET", "/api/v1/nodes?limit=500", "", "nodes", "list");
    is("GET", "/api/v1/pods?watch=true&resourceVersion=1", "", "pods", "watch");
    is("PATCH", "/api/v1/namespaces/a/pods/p/status", "", "pods/status", "patch");
    is("GET", "/api/v1/namespaces/a", "", "namespaces", "get");
    is(
        "PUT",
        "/apis/coordination.k8s.io/v1/namespaces/a/leases/l",
        "coordination.k8s.io",
        "leases",
        "update",
    );
    is("POST", "/apis/crd.projectcalico.org/v1/ipamblocks", "crd.projectcalico.org", "ipamblocks", "create");
    assert_eq!(asked("GET", "/apis/crd.projectcalico.org/v1"), None);
    assert_eq!(asked("GET", "/version"), None);
}

/// What each asked for, by the name that it asked in.
fn requests(log: &str) -> BTreeMap<String, BTreeMap<Access, String>> {
    let mut all: BTreeMap<String, BTreeMap<Access, String>> = BTreeMap::new();
    for line in log.lines().filter(|line| line.contains(" caracal_apiserver::requests: ")) {
        let field = |name: &str| {
            let (_, rest) = line.split_once(&format!(" {name}=")).expect("a field");
            rest.split(' ').next().unwrap_or_default().trim_matches('"').to_owned()
        };
        if let Some(access) = asked(&field("method"), &field("uri")) {
            all.entry(field("user")).or_default().entry(access).or_insert_with(|| field("uri"));
        }
    }
    all
}

/// A cluster of an API server and one node, on which what was rendered runs.
struct Installed {
    cluster: Cluster,
    machine: Machine,
    /// The group of Calico's objects, and its version.
    group: &'static str,
    version: &'static str,
    objects: Vec<Value>,
    running: Vec<Running>,
}

const NODE: &str = "node1";
const STORED: &str = "crd.projectcalico.org";

impl Installed {
    fn start(group: &'static str, version: &'static str) -> Self {
        let machine = Machine::start(NODE);
        let values = tempfile::NamedTempFile::new().expect("a file");
        fs::write(values.path(), format!("caracal: {{apiGroup: {group}}}")).expect("a file");
        let cluster = Cluster::listening(&format!("{}:0", machine.here));
        cluster.apply(&format!("deploy/crds/{group}.yaml"));
        let rendered = render(&[values.path().to_owned()]).expect("it renders");
        cluster.apply_text(&rendered);
        cluster.apply_text(
            &json!({
                "apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE},
                "status": {"addresses": [{"type": "InternalIP", "address": machine.there}]},
            })
            .to_string(),
        );
        Self { cluster, machine, group, version, objects: objects(&rendered), running: Vec::new() }
    }

    /// A kubeconfig by which somebody asks in the name of a service account.
    fn kubeconfig(&self, account: &str) -> PathBuf {
        let text = fs::read_to_string(self.cluster.kubeconfig()).expect("a kubeconfig");
        let text: String = text
            .lines()
            .map(|line| match line.trim_start().strip_prefix("token:") {
                Some(_) => {
                    format!("{line}\n{}as: {account}\n", &line[..line.len() - line.trim_start().len()])
                }
                None => format!("{line}\n"),
            })
            .collect();
        let path = self.cluster.folder.path().join(account);
        fs::write(&path, text).expect("a file");
        path
    }

    fn pod(&self, kind: &str, name: &str) -> &Value {
        &find(&self.objects, kind, name)["spec"]["template"]["spec"]
    }

    fn log(&self, container: &str) -> PathBuf {
        self.cluster.folder.path().join(format!("{container}.log"))
    }

    /// Starts a container as its manifest says.
    fn container(&mut self, kind: &str, pod: &str, container: &str, account: &str) {
        let kubeconfig = self.kubeconfig(account);
        let maps = self
            .objects
            .iter()
            .filter(|object| object["kind"] == "ConfigMap" && object["metadata"]["name"] == account);
        let configuration = maps.map(|map| map["data"].clone()).next().unwrap_or_default();
        let spec = self.pod(kind, pod);
        let running =
            self.machine.container(spec, container, &configuration, &kubeconfig, &self.log(container));
        self.running.push(running);
    }

    /// What everybody has said, for when something is amiss.
    fn told(&self) -> String {
        let logs = ["fastpath", "agent", "install-cni", "controllers", "probe"].map(|name| {
            let text = fs::read_to_string(self.log(name)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("--- {name}\n{}\n", lines[lines.len().saturating_sub(30)..].join("\n"))
        });
        logs.concat()
    }

    /// All of it, until the node is ready for pods.
    fn install(&mut self) {
        self.container("DaemonSet", "caracal-fastpath", "fastpath", "nobody");
        self.container("DaemonSet", "caracal-agent", "agent", "caracal-node");
        self.container("DaemonSet", "caracal-cni", "install-cni", "caracal-cni");
        let configuration = self.machine.path("/etc/cni/net.d").join("10-caracal.conflist");
        let end = Instant::now() + PATIENCE;
        loop {
            let (ready, said) = match configuration.exists() {
                true => self.cni("STATUS", "", ""),
                false => (false, "no configuration".to_owned()),
            };
            if ready {
                break self.container(
                    "Deployment",
                    "caracal-controllers",
                    "controllers",
                    "caracal-controllers",
                );
            }
            assert!(Instant::now() < end, "the node does not become ready: {said}\n{}", self.told());
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Whether a probe that a container's manifest asks for succeeds, as a kubelet would ask it.
    fn probe(&self, kind: &str, pod: &str, name: &str, probe: &str) -> bool {
        let mut spec = self.pod(kind, pod).clone();
        let container = &mut spec["containers"][0];
        assert_eq!(container["name"], name);
        let probe = container[probe].take();
        if let Some(http) = probe.get("httpGet") {
            let url = format!("http://127.0.0.1:{}{}", http["port"], http["path"].as_str().expect("a path"));
            return self.machine.try_host(&["curl", "-sf", &url], &[], "").status.success();
        }
        container["command"] = probe["exec"]["command"].clone();
        container["args"] = json!([]);
        let kubeconfig = self.kubeconfig("nobody");
        self.machine.container(&spec, name, &json!({}), &kubeconfig, &self.log("probe")).succeeds()
    }

    /// That all probes say so, soon.
    fn is_healthy(&self) {
        for (kind, pod, container) in [
            ("DaemonSet", "caracal-fastpath", "fastpath"),
            ("DaemonSet", "caracal-agent", "agent"),
            ("Deployment", "caracal-controllers", "controllers"),
        ] {
            for probe in ["livenessProbe", "readinessProbe"] {
                let end = Instant::now() + PATIENCE;
                while !self.probe(kind, pod, container, probe) {
                    assert!(Instant::now() < end, "{probe} of {container} fails\n{}", self.told());
                    thread::sleep(Duration::from_millis(300));
                }
            }
        }
    }

    /// Runs the plugin as a runtime does. Whether it succeeded, and what it said.
    fn cni(&self, command: &str, pod: &str, container: &str) -> (bool, String) {
        self.plugin("caracal-cni", command, pod, container, &[])
    }

    /// Runs a plugin, which gives addresses of these pools; of none: of any.
    fn plugin(
        &self,
        program: &str,
        command: &str,
        pod: &str,
        container: &str,
        pools: &[&str],
    ) -> (bool, String) {
        let file = self.machine.path("/etc/cni/net.d").join("10-caracal.conflist");
        let list: Value =
            serde_json::from_str(&fs::read_to_string(file).expect("a configuration")).expect("JSON");
        let mut plugin = list["plugins"][0].clone();
        plugin["name"] = list["name"].clone();
        plugin["cniVersion"] = "1.1.0".into();
        plugin["ipam"]["ipv4_pools"] = json!(pools);
        if command == "GC" {
            plugin["cni.dev/valid-attachments"] = json!([]);
        }
        let netns = format!("/run/netns/{pod}");
        let args =
            format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod};K8S_POD_INFRA_CONTAINER_ID={container}");
        let mut environment = vec![("CNI_COMMAND", command), ("CNI_PATH", "/opt/cni/bin")];
        if !pod.is_empty() {
            environment.extend([
                ("CNI_CONTAINERID", container),
                ("CNI_NETNS", &*netns),
                ("CNI_IFNAME", "eth0"),
                ("CNI_ARGS", &*args),
            ]);
        }
        let output =
            self.machine.try_host(&[&format!("/opt/cni/bin/{program}")], &environment, &plugin.to_string());
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), said)
    }

    /// The same, with the API server as it is there, where it must succeed.
    fn cni_does(&self, command: &str, pod: &str) {
        let (done, said) = self.cni(command, pod, &format!("of-{pod}"));
        assert!(done, "{command} {pod}: {said}\n{}", self.told());
    }

    /// The same of addresses alone: `caracal-cni` has the agent give them, as long as it does.
    fn ipam_does(&self, command: &str, pod: &str, pools: &[&str]) {
        let (done, said) = self.plugin("caracal-ipam", command, pod, &format!("of-{pod}"), pools);
        assert!(done, "addresses, {command} {pod}: {said}\n{}", self.told());
    }

    /// Applies an object of Calico's, as it is stored.
    fn apply_calico(&self, kind: &str, name: &str, spec: Value) {
        let object = json!({
            "apiVersion": format!("{}/{}", self.group, self.version), "kind": kind, "metadata": {"name": name}, "spec": spec,
        });
        self.cluster.apply_text(&object.to_string());
    }

    fn of_calico(&self, plural: &str) -> String {
        format!("{plural}.{}", self.group)
    }

    fn patch(&self, plural: &str, name: &str, patch: &str) {
        let kind = self.of_calico(plural);
        self.cluster.kubectl(&["patch", &kind, name, "--type=merge", "-p", patch]);
    }

    fn eventually_says(&self, args: &[&str], text: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let said = self.cluster.kubectl(args);
            if said.contains(text) {
                return;
            }
            assert!(Instant::now() < end, "{args:?} says {said}, not {text}\n{}", self.told());
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Where what was asked for and what the roles allow differ.
    fn differences(&self) -> Vec<String> {
        let requests = requests(&fs::read_to_string(self.cluster.log()).expect("the server's log"));
        let mut wrong = Vec::new();
        for account in ["caracal-node", "caracal-cni", "caracal-controllers"] {
            let allowed = allowed(&self.objects, account);
            let nothing = BTreeMap::new();
            let asked = requests.get(account).unwrap_or(&nothing);
            // `caracal apiserver` makes the tiers that there always are itself, where it keeps Calico's objects natively.
            let is_done =
                |access: &Access| self.group != STORED && (&*access.1, &*access.2) == ("tiers", "create");
            let (more, less) = (asked.iter().filter(|(access, _)| !allowed.contains(access)), allowed.iter());
            wrong.extend(more.map(|(access, uri)| {
                format!("{account} may not {} {} of {:?}, and asked {uri}", access.2, access.1, access.0)
            }));
            wrong.extend(less.filter(|access| !asked.contains_key(access) && !is_done(access)).map(
                |access| {
                    format!("{account} may {} {} of {:?}, and never asked", access.2, access.1, access.0)
                },
            ));
        }
        wrong
    }

    fn pod_object(&self, name: &str, annotations: Value) {
        self.cluster.apply_text(
            &json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "annotations": annotations},
                "spec": {"nodeName": NODE, "containers": [{"name": "c", "image": "i"}]},
            })
            .to_string(),
        );
    }
}

#[test]
fn the_programs_run_with_what_the_manifests_give_them_and_ask_for_what_their_roles_allow_and_nothing_else() {
    roles_are_what_is_asked_for(STORED, "v1");
}

#[test]
fn so_they_do_where_calicos_objects_are_kept_natively() {
    roles_are_what_is_asked_for("projectcalico.org", "v3");
}

fn roles_are_what_is_asked_for(group: &'static str, version: &'static str) {
    let mut installed = Installed::start(group, version);
    installed.install();
    installed.is_healthy();
    pods_come_and_go(&installed);
    services_get_addresses_and_nodes_host_endpoints(&installed);
    what_was_there_goes(&mut installed);

    // What is asked for in the end comes within seconds; what never comes is told.
    let end = Instant::now() + PATIENCE;
    loop {
        let wrong = installed.differences();
        if wrong.is_empty() {
            return;
        }
        assert!(Instant::now() < end, "{}\n{}", wrong.join("\n"), installed.told());
        thread::sleep(Duration::from_millis(500));
    }
}

/// Pods on blocks of two pools, one of which the node may not have any longer in the end.
fn pods_come_and_go(installed: &Installed) {
    let other = |selector: &str| {
        installed.apply_calico(
            "IPPool",
            "other",
            json!({"cidr": "10.99.0.0/24", "blockSize": 28, "vxlanMode": "Always", "nodeSelector": selector}),
        );
    };
    other("all()");
    for name in ["web", "db", "cache"] {
        installed.pod_object(name, json!({}));
    }
    for name in ["web", "db", "cache", "nobody"] {
        installed.machine.host(&["ip", "netns", "add", name]);
    }
    installed.cni_does("ADD", "web");
    // What the agent does not find the plugin looks for itself.
    let (done, said) = installed.cni("ADD", "nobody", "of-nobody");
    assert!(!done && said.contains("there is no pod default/nobody"), "{said}");
    installed.ipam_does("ADD", "db", &["other"]);
    installed.cni_does("CHECK", "web");
    installed.ipam_does("DEL", "db", &[]);
    other("has(nobody)");
    installed.cni_does("DEL", "web");
    installed.cni_does("ADD", "web");
    installed.ipam_does("ADD", "db", &[]);
    installed.ipam_does("DEL", "db", &[]);
    // The same once more, and it is the agent that takes an address: of another kind of tunnel.
    other("all()");
    installed.ipam_does("ADD", "cache", &["other"]);
    installed.ipam_does("DEL", "cache", &[]);
    other("has(nobody)");
    installed.patch(
        "ippools",
        "default-ipv4-ippool",
        r#"{"spec":{"vxlanMode":"Never","ipipMode":"Always"}}"#,
    );
    installed.cni_does("GC", "");
    installed.cni_does("DEL", "web");
}

fn services_get_addresses_and_nodes_host_endpoints(installed: &Installed) {
    installed.apply_calico(
        "IPPool",
        "balancers",
        json!({"cidr": "192.0.2.0/24", "allowedUses": ["LoadBalancer"], "nodeSelector": "all()"}),
    );
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]},
    });
    installed.cluster.apply_text(&service.to_string());
    installed.eventually_says(
        &["get", "service", "web", "-o", "jsonpath={.status.loadBalancer.ingress}"],
        "192.0.2.",
    );
    installed.cluster.kubectl(&["delete", "service", "web"]);
    let endpoints = |says: &str| {
        let patch = format!(
            r#"{{"spec":{{"controllers":{{"node":{{"hostEndpoint":{{"autoCreate":"{says}"}}}}}}}}}}"#
        );
        installed.patch("kubecontrollersconfigurations", "default", &patch);
    };
    endpoints("Enabled");
    let all = ["get", &installed.of_calico("hostendpoints"), "-o", "jsonpath={.items[*].metadata.labels}"];
    installed.eventually_says(&all, "calico-kube-controllers");
    installed.cluster.kubectl(&["label", "node", NODE, "rack=four"]);
    installed.eventually_says(&all, "four");
    endpoints("Disabled");
    let soon = r#"{"spec":{"controllers":{"node":{"leakGracePeriod":"1s","reconcilerPeriod":"1s"}}}}"#;
    installed.patch("kubecontrollersconfigurations", "default", soon);
}

/// Pools and tiers are deleted; the agent is started once more where something is missing; the node goes.
fn what_was_there_goes(installed: &mut Installed) {
    installed.patch("clusterinformations", "default", r#"{"spec":{"clusterType":null}}"#);
    installed.running.remove(1);
    installed.container("DaemonSet", "caracal-agent", "agent", "caracal-node");
    installed.eventually_says(
        &[
            "get",
            &installed.of_calico("clusterinformations"),
            "default",
            "-o",
            "jsonpath={.spec.clusterType}",
        ],
        "k8s",
    );
    installed.patch("ippools", "default-ipv4-ippool", r#"{"spec":{"ipipMode":"Never"}}"#);
    installed.apply_calico("Tier", "short", json!({"order": 5}));
    if installed.group == STORED {
        // Controllers make it anew.
        installed.cluster.kubectl(&["delete", &installed.of_calico("tiers"), "kube-admin"]);
    }
    for (kind, name) in [("tiers", "short"), ("ippools", "other"), ("ippools", "balancers")] {
        installed.cluster.kubectl(&["delete", "--wait=false", &installed.of_calico(kind), name]);
    }
    installed.pod_object("lost", json!({}));
    installed.machine.host(&["ip", "netns", "add", "lost"]);
    installed.cni_does("ADD", "lost");
    // The agent, which was started last.
    installed.running.pop();
    // A cluster without nodes is taken for one whose nodes could not be read.
    let other = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "another"}});
    installed.cluster.apply_text(&other.to_string());
    installed.cluster.kubectl(&["delete", "pod", "--all"]);
    installed.cluster.kubectl(&["delete", "node", NODE]);
}
