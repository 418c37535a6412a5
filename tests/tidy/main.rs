//! The house rules that a program can check: who may depend on whom, where `unsafe` may be, under which licences we
//! build, and what is not left lying about.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where something is amiss"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace").to_path_buf()
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(root())
        .output()
        .expect("cargo can be run");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

/// Ours: name → names of everything in its normal dependency closure.
fn closures(metadata: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let packages = metadata["packages"].as_array().expect("packages");
    let name_of: BTreeMap<&str, &str> =
        packages.iter().map(|p| (p["id"].as_str().unwrap(), p["name"].as_str().unwrap())).collect();
    let nodes = metadata["resolve"]["nodes"].as_array().expect("nodes");
    let direct: BTreeMap<&str, Vec<&str>> = nodes
        .iter()
        .map(|node| {
            let normal =
                node["deps"].as_array().unwrap().iter().filter(|dep| {
                    dep["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"].is_null())
                });
            (node["id"].as_str().unwrap(), normal.map(|dep| dep["pkg"].as_str().unwrap()).collect())
        })
        .collect();
    let members = metadata["workspace_members"].as_array().expect("members");
    members
        .iter()
        .map(|member| {
            let member = member.as_str().unwrap();
            let (mut seen, mut todo) = (BTreeSet::new(), direct[member].clone());
            while let Some(id) = todo.pop() {
                if seen.insert(id) {
                    todo.extend(&direct[id]);
                }
            }
            (name_of[member].to_string(), seen.into_iter().map(|id| name_of[id].to_string()).collect())
        })
        .collect()
}

/// Files that git tracks, or would.
fn files(endings: &[&str]) -> Vec<PathBuf> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git can be run");
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    let found: Vec<PathBuf> = listed
        .lines()
        .filter(|path| endings.iter().any(|ending| path.ends_with(ending)))
        .map(PathBuf::from)
        .filter(|path| root().join(path).is_file())
        .collect();
    assert!(!found.is_empty(), "no files {endings:?}: is this a git checkout?");
    found
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_default()
}

#[test]
fn the_rooms_depend_on_one_another_only_as_the_architecture_allows() {
    let closures = closures(&metadata());
    let forbidden: &[(&str, &[&str])] = &[
        (
            "caracal-wire",
            &["caracal-xsk", "caracal-plane-api", "caracal-dataplane", "caracal-model", "libc", "nix"],
        ),
        (
            "caracal-xsk",
            &["caracal-wire", "caracal-plane-api", "caracal-dataplane", "caracal-model", "tokio"],
        ),
        ("caracal-plane-api", &["caracal-dataplane", "caracal-model", "tokio"]),
        ("caracal-dataplane", &["tokio", "serde_json", "kube", "k8s-openapi", "caracal-model", "rustls"]),
        ("caracal-model", &["tokio", "kube", "caracal-dataplane", "caracal-xsk", "nix"]),
        ("caracal-calc", &["tokio", "kube", "caracal-dataplane", "caracal-xsk", "nix"]),
        ("caracal-ipam", &["tokio", "kube", "caracal-datastore", "caracal-dataplane", "nix"]),
        ("caracal-datastore", &["caracal-agent", "caracal-dataplane", "caracal-xsk", "nix"]),
        ("caracal-agent", &["caracal-dataplane"]),
        ("caracal-lab", &["caracal-dataplane"]),
        ("caracal-cni", &["caracal-dataplane"]),
        ("caracal-apiserver", &["caracal-dataplane", "caracal-xsk"]),
        ("caracal-monitor", &["caracal-dataplane", "caracal-plane-api", "caracal-model", "kube"]),
        ("caracal-controllers", &["caracal-dataplane", "caracal-xsk", "caracal-agent"]),
    ];
    for (room, others) in forbidden {
        let closure = closures.get(*room).unwrap_or_else(|| panic!("no crate {room}"));
        for other in *others {
            assert!(!closure.contains(*other), "{room} must not depend on {other}");
        }
    }
}

/// In two parts, so that no search for the keyword ends here.
const UNSAFE: &str = concat!("un", "safe");

#[test]
fn unsafe_code_is_in_xsk_only_and_says_why_it_is_sound() {
    for path in files(&[".rs"]) {
        let text = read(&path);
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let mut words = code
                .split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '{'))
                .filter(|word| !word.is_empty());
            let keyword = words.by_ref().find(|word| *word == UNSAFE);
            let Some(form @ ("{" | "fn" | "impl" | "trait" | "extern")) = keyword.and_then(|_| words.next())
            else {
                continue;
            };
            assert!(
                path.starts_with("fastpath/xsk"),
                "{}:{}: unsafe outside fastpath/xsk",
                path.display(),
                at + 1
            );
            if form == "{" {
                let near = &lines[at.saturating_sub(6)..=at];
                let explained = near.iter().any(|line| line.contains("SAFETY"));
                assert!(explained, "{}:{}: no SAFETY comment", path.display(), at + 1);
            }
        }
    }
}

#[test]
fn every_licence_is_one_that_we_may_ship_under() {
    const ALLOWED: &[&str] = &[
        "Apache-2.0",
        "Apache-2.0 WITH LLVM-exception",
        "MIT",
        "MIT-0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "ISC",
        "0BSD",
        "Zlib",
        "BSL-1.0",
        "CC0-1.0",
        "CDLA-Permissive-2.0",
        "Unicode-3.0",
        "Unlicense",
    ];
    let metadata = metadata();
    for package in metadata["packages"].as_array().expect("packages") {
        let (name, licence) = (&package["name"], package["license"].as_str().unwrap_or("none"));
        // One of the alternatives must do; of what is joined by AND, every part.
        let fine = licence.replace('/', " OR ").split(" OR ").any(|alternative| {
            let alternative = alternative.trim().trim_start_matches('(').trim_end_matches(')');
            alternative.split(" AND ").all(|part| ALLOWED.contains(&part.trim().trim_matches(['(', ')'])))
        });
        assert!(fine, "{name}: licence {licence:?} is not on the list in tests/tidy");
    }
}

#[test]
fn nothing_unfinished_is_left_lying_about() {
    // Written so that this file does not find itself.
    let banned = ["todo", "unimplemented", "dbg"].map(|name| format!("{name}!("));
    let words = ["FIX", "XX"].map(|half| format!("{half}{}", if half == "FIX" { "ME" } else { "X" }));
    for path in files(&[".rs", ".c", ".sh", ".proto"]) {
        let text = read(&path);
        for (at, line) in text.lines().enumerate() {
            for word in banned.iter().chain(&words) {
                assert!(!line.contains(word.as_str()), "{}:{}: {word}", path.display(), at + 1);
            }
        }
    }
}

#[test]
fn the_project_refers_to_nothing_outside_itself() {
    let outside = [["..", "shared"].join("/"), ["/work", "/"].concat()];
    for path in files(&[
        ".rs",
        ".c",
        ".md",
        ".toml",
        ".yaml",
        ".sh",
        ".proto",
        "scripts/demo",
        "scripts/test",
        ".ci/run",
    ]) {
        for (at, line) in read(&path).lines().enumerate() {
            for word in &outside {
                assert!(!line.contains(word.as_str()), "{}:{}: {word}", path.display(), at + 1);
            }
        }
    }
}

#[test]
fn every_script_is_executable_and_helps() {
    use std::os::unix::fs::PermissionsExt;
    let scripts: Vec<PathBuf> = files(&[""])
        .into_iter()
        .filter(|path| path.starts_with("scripts") && path.extension().is_none())
        .filter(|path| path.components().count() == 2)
        .collect();
    assert!(scripts.len() >= 3, "{scripts:?}");
    for script in scripts {
        let full = root().join(&script);
        let mode = std::fs::metadata(&full).unwrap().permissions().mode();
        assert!(mode & 0o111 != 0, "{} is not executable", script.display());
        let output = Command::new(&full).arg("--help").output().unwrap();
        assert!(output.status.success() && !output.stdout.is_empty(), "{} --help", script.display());
    }
}

#[test]
fn the_readme_links_to_files_that_exist() {
    for document in files(&[".md"]) {
        let folder = document.parent().unwrap_or(Path::new("")).to_path_buf();
        for target in links(&read(&document)) {
            if target.contains("://") || target.starts_with('#') || target.starts_with("mailto:") {
                continue;
            }
            let path = target.split('#').next().unwrap_or_default();
            assert!(root().join(&folder).join(path).exists(), "{}: dead link {target}", document.display());
        }
    }
}

#[test]
fn every_document_and_case_that_is_named_exists() {
    let is_name = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    for path in files(&[".rs", ".c", ".md", ".toml", ".yaml", ".sh", ".proto"]) {
        let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
        let text = read(&path);
        for word in text.split(|c| !is_name(c)) {
            let word = word.trim_start_matches("./").trim_end_matches('.');
            let is_document = word.ends_with(".md");
            let is_case = word.starts_with("tests/cases/") && word.ends_with(".yaml");
            // NAME.yaml stands for any.
            if !(is_document || is_case) || word.starts_with('.') && is_document || word.contains("NAME") {
                continue;
            }
            let exists = root().join(word).is_file() || root().join(&folder).join(word).is_file();
            assert!(exists, "{} names {word}, which is not there", path.display());
        }
    }
}

/// Labels of the declared table of drop reasons, `Name, "label", "description";` a line.
fn drop_reasons() -> BTreeSet<String> {
    let text = read(Path::new("fastpath/dataplane/src/drop_reason.rs"));
    let (_, table) = text.split_once("\ndrop_reasons! {").expect("the table of drop reasons");
    let (table, _) = table.split_once("\n}").expect("its end");
    let lines = table.lines().filter(|line| !line.trim_start().starts_with("//"));
    let labels: BTreeSet<String> =
        lines.filter_map(|line| line.split('"').nth(1)).map(str::to_owned).collect();
    assert!(labels.len() >= 30, "{labels:?}");
    labels
}

#[test]
fn the_operations_manual_groups_every_drop_reason_and_no_other() {
    let text = read(Path::new("docs/operations.md"));
    let (_, section) = text.split_once("\n## Drop reasons\n").expect("the section on drop reasons");
    let section = section.split("\n## ").next().unwrap_or_default();
    // | group | `reason` `reason` … | look at |
    let rows = section.lines().filter(|line| line.starts_with('|')).filter_map(|line| line.split('|').nth(2));
    let grouped: Vec<String> =
        rows.flat_map(|reasons| reasons.split('`').skip(1).step_by(2)).map(str::to_owned).collect();
    let distinct: BTreeSet<String> = grouped.iter().cloned().collect();
    assert_eq!(distinct.len(), grouped.len(), "a reason is in two groups");
    assert_eq!(distinct, drop_reasons());
}

#[test]
fn the_lab_knows_drop_reasons_by_their_names() {
    let text = read(Path::new("control/lab/src/evidence.rs"));
    let (_, list) = text.split_once("const DECISIONS").expect("the list of decisions");
    let (list, _) = list.split_once("];").expect("its end");
    let reasons = drop_reasons();
    for reason in list.split('"').skip(1).step_by(2) {
        assert!(reasons.contains(reason), "{reason} is no drop reason");
    }
}

#[test]
fn logs_are_coloured_only_where_somebody_has_looked_for_a_terminal() {
    // Written so that this file does not find itself.
    let start = ["tracing_subscriber", "fmt()"].join("::");
    for path in files(&[".rs"]) {
        for statement in read(&path).split(&start).skip(1) {
            let statement = statement.split(';').next().unwrap_or_default();
            assert!(statement.contains(".with_ansi("), "{}: colours in files", path.display());
        }
    }
}

/// Targets of Markdown links, `[text](target)`.
fn links(text: &str) -> Vec<String> {
    let mut rest = text;
    let mut found = Vec::new();
    while let Some(at) = rest.find("](") {
        rest = &rest[at + 2..];
        if let Some(end) = rest.find(')') {
            found.push(rest[..end].to_string());
        }
    }
    found
}
