//! What is installed, applied to `caracal apiserver` by a real kubectl.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    chart::{combinations, render},
    files::root,
};

/// A server of a test's own, and a kubectl that talks to it.
pub struct Cluster {
    server: Child,
    kubectl: PathBuf,
    pub folder: TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Cluster {
    pub fn start() -> Self {
        Self::listening("127.0.0.1:0")
    }

    /// At an address of this machine's.
    pub fn listening(address: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let log = File::create(folder.path().join("log")).expect("a file");
        let server = Command::new(program("caracal"))
            .args(["apiserver", "--listen", address, "--data-dir"])
            .arg(folder.path().join("data"))
            .arg("--write-kubeconfig")
            .arg(folder.path().join("kubeconfig"))
            .env("CARACAL_LOG", "info,caracal_apiserver::requests=debug")
            .stderr(log)
            .spawn()
            .expect("caracal runs");
        let mut cluster = Self { server, kubectl: kubectl(), folder };
        for _ in 0..6000 {
            if cluster.kubeconfig().exists() {
                return cluster;
            }
            assert_eq!(cluster.server.try_wait().expect("a child"), None, "the server ended at its start");
            thread::sleep(Duration::from_millis(20));
        }
        panic!("the server did not start");
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// What the server logs: every request among it.
    pub fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(&self.kubectl)
            .args(args)
            .env("KUBECONFIG", self.kubeconfig())
            .env("HOME", self.folder.path())
            .stdin(Stdio::null())
            .output()
            .expect("kubectl runs")
    }

    /// What kubectl prints; it must succeed, and complain of nothing.
    pub fn kubectl(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && err.trim().is_empty(), "kubectl {args:?}: {out}{err}");
        out.into_owned()
    }

    /// Applies a file of the project.
    pub fn apply(&self, path: &str) {
        self.kubectl(&["apply", "-f", &root().join(path).display().to_string()]);
    }

    /// Applies a text.
    pub fn apply_text(&self, text: &str) -> String {
        let file = self.folder.path().join("applied.yaml");
        std::fs::write(&file, text).expect("a file");
        let file = file.display().to_string();
        self.kubectl(&["apply", "-f", &file]);
        file
    }

    /// The version of each object in a file, by its name.
    fn versions(&self, file: &str) -> Vec<(String, String)> {
        let listed: Value =
            serde_json::from_str(&self.kubectl(&["get", "-f", file, "-o", "json"])).expect("JSON");
        let items = listed["items"].as_array().cloned().unwrap_or_else(|| vec![listed.clone()]);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        items
            .iter()
            .map(|object| {
                let metadata = &object["metadata"];
                (format!("{} {}", object["kind"], metadata["name"]), text(&metadata["resourceVersion"]))
            })
            .collect()
    }
}

/// A program of this build.
pub fn program(name: &str) -> PathBuf {
    let built = std::env::var_os("CARACAL_BIN_DIR").map_or_else(
        || {
            let own = std::env::current_exe().expect("this program");
            own.parent().and_then(Path::parent).expect("target/PROFILE").to_owned()
        },
        PathBuf::from,
    );
    let program = built.join(name);
    assert!(program.exists(), "no {}: cargo build -p caracal -p caracal-dataplane", program.display());
    program
}

/// kubectl, as `scripts/lib.sh` finds it.
fn kubectl() -> PathBuf {
    let script = format!(". {}/scripts/lib.sh && find_kubectl", root().display());
    let output = Command::new("bash").args(["-c", &script]).output().expect("bash runs");
    assert!(output.status.success(), "no kubectl: {}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim())
}

#[test]
fn every_combination_of_values_applies_without_a_warning_and_a_second_time_changes_nothing() {
    thread::scope(|scope| {
        for (values, files) in combinations() {
            scope.spawn(move || applies_twice(&values, &files));
        }
    });
}

fn applies_twice(values: &str, files: &[PathBuf]) {
    let cluster = Cluster::start();
    let rendered = render(files).expect(values);
    if rendered.contains("crd.projectcalico.org/v1") {
        cluster.apply("deploy/crds/crd.projectcalico.org.yaml");
    }
    let file = cluster.apply_text(&rendered);
    let before = cluster.versions(&file);
    assert!(before.len() > 10, "{values}: {before:?}");
    cluster.kubectl(&["apply", "-f", &file]);
    assert_eq!(cluster.versions(&file), before, "{values}");
    cluster.kubectl(&["delete", "-f", &file]);
}

#[test]
fn examples_apply_where_calicos_objects_are_served_and_where_they_are_stored() {
    let folder = root().join("deploy/examples");
    let cluster = Cluster::start();
    cluster.apply("deploy/crds/crd.projectcalico.org.yaml");
    for file in std::fs::read_dir(folder).expect("deploy/examples").map(|file| file.expect("a file").path()) {
        let text = std::fs::read_to_string(&file).expect("text");
        if file.extension().is_some_and(|kind| kind == "conflist") {
            serde_json::from_str::<Value>(&text).expect("JSON");
            continue;
        }
        for text in [text.clone(), text.replace("projectcalico.org/v3", "crd.projectcalico.org/v1")] {
            cluster.apply_text(&text);
        }
    }
}

#[test]
fn definitions_of_every_group_apply_and_a_second_time_change_nothing() {
    let cluster = Cluster::start();
    for group in ["crd.projectcalico.org", "projectcalico.org", "policy.networking.k8s.io"] {
        let file = root().join(format!("deploy/crds/{group}.yaml")).display().to_string();
        cluster.kubectl(&["apply", "-f", &file]);
        let before = cluster.versions(&file);
        assert!(!before.is_empty());
        cluster.kubectl(&["apply", "-f", &file]);
        assert_eq!(cluster.versions(&file), before, "{group}");
    }
}
