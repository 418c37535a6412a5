//! A real kubectl, driven.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::Here;

/// One kubectl with one server, and a home of its own for its caches.
pub struct Kubectl {
    pub program: PathBuf,
    pub here: Here,
}

impl Kubectl {
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(args)
            .env("KUBECONFIG", self.here.kubeconfig())
            .env("HOME", self.here.dir.path())
            .env_remove("http_proxy")
            .env_remove("https_proxy")
            .env_remove("HTTPS_PROXY")
            .stdin(Stdio::null());
        command
    }

    /// Whether it is the old one.
    pub fn is_1_20(&self) -> bool {
        self.program == kubectl_1_20()
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("kubectl runs")
    }

    /// What it prints; it must succeed.
    pub fn does(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "kubectl {args:?}: {out}{err}");
        out.trim().to_owned()
    }

    /// What it complains of; it must fail.
    pub fn fails(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(!output.status.success(), "kubectl {args:?} succeeded");
        String::from_utf8_lossy(&output.stderr).trim().to_owned()
    }

    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.here.dir.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    }
}

pub fn kubectl_1_20() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/kubectl-1.20");
    let output = Command::new(&script).output().expect("scripts/kubectl-1.20 runs");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "kubectl 1.20 is needed and cannot be had: {told}");
    PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim())
}

pub fn kubectl_on_path() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join("kubectl"))
        .find(|file| file.is_file())
        .unwrap_or_else(kubectl_1_20)
}
