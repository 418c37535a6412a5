//! What the README says can be done by hand, done: the block between its markers, by bash, with stock kubectl, in namespaces of its own.

use std::{
    env, fs,
    os::unix::{fs::symlink, process::CommandExt},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{
    kubectl,
    machine::{Permit, program},
};

const LIMIT: Duration = Duration::from_secs(300);
const BEGIN: &str = "<!-- by hand -->";
const END: &str = "<!-- end of by hand -->";
/// What is private to the story: networks, mounts and processes, which end with it. What it writes to /tmp and /run is nobody else's.
const STAGE: &str = "mount -t tmpfs tmpfs /tmp && mount -t tmpfs tmpfs /run && ip link set lo up && exec bash -euxo pipefail \"$0\"";

/// The lines of the block that are commands: those that are indented.
fn block() -> String {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    let (_, rest) = readme.split_once(BEGIN).expect("the README marks where the story begins");
    let (block, _) = rest.split_once(END).expect("the README marks where the story ends");
    let commands: Vec<&str> = block.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    assert!(commands.len() > 30, "the story is gone: {commands:?}");
    commands.join("\n") + "\n"
}

#[test]
fn two_pods_talk_after_what_the_readme_says_was_typed() {
    let _permit = Permit::shared();
    // Not in /tmp, which is the story's own.
    let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let story = folder.path().join("story");
    fs::write(&story, block()).unwrap();
    let bin = folder.path().join("bin");
    fs::create_dir(&bin).unwrap();
    for (name, target) in [
        ("caracal", program("caracal")),
        ("caracal-fastpath", program("caracal-fastpath")),
        ("kubectl", kubectl::program()),
    ] {
        symlink(fs::canonicalize(target).unwrap(), bin.join(name)).unwrap();
    }
    let said = folder.path().join("said");
    let output = fs::File::create(&said).unwrap();
    let path = format!("{}:{}", bin.display(), env::var("PATH").unwrap());
    let mut child = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "bash", "-c", STAGE])
        .arg(&story)
        .env("PATH", path)
        .env("HOME", "/tmp")
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .process_group(0)
        .spawn()
        .unwrap();
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if start.elapsed() > LIMIT {
            killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL).unwrap();
            child.wait().unwrap();
            panic!("the story hangs:\n{}", fs::read_to_string(&said).unwrap());
        }
        thread::sleep(Duration::from_millis(20));
    };
    let said = fs::read_to_string(&said).unwrap();
    assert!(status.success(), "{status}:\n{said}");
    assert!(!said.contains("panicked"), "{said}");
    println!("the story took {:?}", start.elapsed());
    for what in ["0% packet loss", "100% packet loss", "policy-deny"] {
        assert!(said.contains(what), "{what:?} was not said:\n{said}");
    }
}
