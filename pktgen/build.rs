//! Says which commit the program is built from: `PKTGEN_COMMIT`, as whoever packages it sets it, or git, where there is a checkout.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-env-changed=PKTGEN_COMMIT");
    // One that is not there would have the program built anew each time.
    for path in ["src", "../fastpath", "../.git/logs/HEAD"] {
        if Path::new(path).exists() {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    let commit = std::env::var("PKTGEN_COMMIT").ok().or_else(commit_of_checkout);
    println!("cargo:rustc-env=PKTGEN_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
    println!("cargo:rustc-env=PKTGEN_PROFILE={}", std::env::var("PROFILE").unwrap_or_default());
}

fn commit_of_checkout() -> Option<String> {
    let commit = git(&["rev-parse", "--short", "HEAD"])?;
    // Of what the program is made of.
    let changed = git(&["status", "--porcelain", "--", ".", "../fastpath", "../Cargo.lock"])?;
    Some(if changed.is_empty() { commit } else { format!("{commit}-dirty") })
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .env("GIT_OPTIONAL_LOCKS", "0")
        .args(args)
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
