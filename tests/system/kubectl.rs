//! kubectl, as an operator types it.

use std::{
    env,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

use crate::{
    lab::Lab,
    machine::{stderr, stdout},
};

/// A kubectl that speaks to a lab, with a home of its own for its caches.
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    home: TempDir,
}

impl Kubectl {
    pub fn of(lab: &Lab) -> Self {
        Self { program: program(), kubeconfig: lab.state().kubeconfig(), home: TempDir::new().unwrap() }
    }

    /// Runs it; what it says, if it succeeds.
    pub fn try_run(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        let mut child = Command::new(&self.program)
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", self.home.path())
            .env_remove("http_proxy")
            .env_remove("https_proxy")
            .env_remove("HTTPS_PROXY")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output: Output = child.wait_with_output().unwrap();
        if output.status.success() { Ok(stdout(&output)) } else { Err(stderr(&output)) }
    }

    /// Runs it; it must succeed.
    pub fn run(&self, arguments: &[&str]) -> String {
        self.try_run(arguments, "").unwrap_or_else(|error| panic!("kubectl {arguments:?}: {error}"))
    }

    /// `kubectl apply` of manifests.
    pub fn apply(&self, manifests: &str) {
        self.try_run(&["apply", "-f", "-"], manifests).unwrap_or_else(|error| panic!("{error}\n{manifests}"));
    }

    /// `kubectl patch --type merge`.
    pub fn merge(&self, kind: &str, name: &str, patch: &str) {
        self.run(&["patch", kind, name, "--type", "merge", "-p", patch]);
    }
}

/// The one on the PATH, or the 1.20 that the project's script knows.
pub fn program() -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|folder| folder.join("kubectl")).find(|file| file.is_file());
    found.unwrap_or_else(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/kubectl-1.20");
        let output = Command::new(script).output().unwrap();
        assert!(output.status.success(), "kubectl is needed and cannot be had: {}", stderr(&output));
        PathBuf::from(stdout(&output).trim())
    })
}
