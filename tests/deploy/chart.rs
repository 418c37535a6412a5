//! The chart, and the plain manifests that it renders.

use std::{fs, path::PathBuf, process::Command};

use serde_json::Value;
use tempfile::NamedTempFile;

use crate::files::{is_current, objects, read, root};

/// What the chart renders with files of values; or why it does not. `scripts/render-chart` needs Go, and installs it.
pub fn render(values: &[PathBuf]) -> Result<String, String> {
    let mut command = Command::new(root().join("scripts/render-chart"));
    for file in values {
        command.arg("--values").arg(file);
    }
    let output = command.output().expect("scripts/render-chart runs");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.code() {
        Some(0) => Ok(String::from_utf8(output.stdout).expect("text")),
        Some(1) => Err(told),
        _ => panic!("scripts/render-chart: {told}"),
    }
}

/// The files of values that everything is tried with, and none at all.
pub fn combinations() -> Vec<(String, Vec<PathBuf>)> {
    let folder = root().join("deploy/chart/ci");
    let files = fs::read_dir(&folder).expect("deploy/chart/ci").map(|file| file.expect("a file").path());
    let mut all: Vec<(String, Vec<PathBuf>)> =
        files.map(|file| (file.display().to_string(), vec![file])).collect();
    all.push(("no values".to_owned(), Vec::new()));
    all.sort();
    all
}

/// What the chart renders with values written here; or why not.
fn render_with(values: &str) -> Result<String, String> {
    let file = NamedTempFile::new().expect("a file");
    fs::write(file.path(), values).expect("a file");
    render(&[file.path().to_owned()])
}

/// The object of a kind and name.
pub fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let is_it = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
    objects.iter().find(is_it).unwrap_or_else(|| panic!("no {kind} {name}"))
}

const HEADER: &str =
    "# Rendered from deploy/chart by `BLESS=1 cargo test -p caracal-tests --test deploy`: not to be edited.
# Its image is one that you build: docs/install.md.
";

#[test]
fn plain_manifests_are_what_the_chart_renders() {
    for (manifest, values) in [
        ("deploy/caracal.yaml", vec![]),
        ("deploy/caracal-beside-calico.yaml", vec![root().join("deploy/chart/ci/beside-calico.yaml")]),
    ] {
        is_current(manifest, &(HEADER.to_owned() + &render(&values).expect("it renders")));
    }
}

#[test]
fn every_combination_of_values_renders_objects_of_distinct_names() {
    for (values, files) in combinations() {
        let rendered = render(&files).unwrap_or_else(|error| panic!("{values}: {error}"));
        let mut names: Vec<String> = objects(&rendered)
            .iter()
            .map(|object| format!("{} {}", object["kind"], object["metadata"]["name"]))
            .collect();
        assert!(names.len() > 10, "{values}: {names:?}");
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all, "{values}");
    }
}

#[test]
fn values_that_make_no_sense_are_refused_by_their_name() {
    let pool = |fields: &str| format!("installation: {{calicoNetwork: {{ipPools: [{{{fields}}}]}}}}");
    let network = |fields: &str| format!("installation: {{calicoNetwork: {{{fields}}}}}");
    for (values, field) in [
        (network("bgp: Enabled"), "bgp"),
        (network("linuxDataplane: BPF"), "linuxDataplane"),
        (network("multiInterfaceMode: Multus"), "multiInterfaceMode"),
        (network("mtu: 100"), "mtu"),
        (
            network("nodeAddressAutodetectionV4: {firstFound: true, canReach: 192.0.2.1}"),
            "nodeAddressAutodetectionV4",
        ),
        (network("nodeAddressAutodetectionV6: {cidrs: [192.0.2.0/24]}"), "nodeAddressAutodetectionV6"),
        (pool("encapsulation: VXLAN"), "cidr"),
        (pool("cidr: 10.0.0.0/33"), "cidr"),
        (pool("cidr: 'fd00::/48', encapsulation: IPIP"), "encapsulation"),
        (pool("cidr: 10.0.0.0/16, blockSize: 122"), "blockSize"),
        (pool("cidr: 'fd00::/48', blockSize: 26"), "blockSize"),
        (pool("cidr: 10.0.0.0/16, allowedUses: [Everything]"), "allowedUses"),
        (pool("cidr: 10.0.0.0/16, natoutgoing: Enabled"), "natoutgoing"),
        ("caracal: {services: replace}".to_owned(), "host"),
        ("caracal: {fastpath: {cpus: a-b}}".to_owned(), "cpus"),
        ("caracal: {fastpath: {hugePages: {size: lots}}}".to_owned(), "size"),
        ("caracal: {apiGroup: calico}".to_owned(), "apiGroup"),
        ("workers: 3".to_owned(), "workers"),
    ] {
        let told = render_with(&values).expect_err(&values);
        assert!(told.contains("the schema") && told.contains(field), "{values}: {told}");
    }
}

#[test]
fn pools_are_those_of_the_operators_installation() {
    let rendered = objects(&render(&[root().join("deploy/chart/ci/ipip.yaml")]).expect("it renders"));
    for (name, ipip, vxlan, nat) in [
        ("fabric", "CrossSubnet", "Never", false),
        ("tunnel", "Always", "Never", true),
        ("asked-for", "Never", "Never", true),
        ("balancers", "Never", "Never", false),
    ] {
        let spec = &find(&rendered, "IPPool", name)["spec"];
        assert_eq!((&spec["ipipMode"], &spec["vxlanMode"]), (&ipip.into(), &vxlan.into()), "{name}");
        assert_eq!(spec["natOutgoing"], nat, "{name}");
    }
    let rendered = objects(&render(&[root().join("deploy/chart/ci/dual-stack.yaml")]).expect("it renders"));
    assert_eq!(find(&rendered, "IPPool", "default-ipv4-ippool")["spec"]["vxlanMode"], "CrossSubnet");
    assert_eq!(find(&rendered, "IPPool", "default-ipv6-ippool")["spec"]["blockSize"], 124);
    let environment = &find(&rendered, "ConfigMap", "caracal-node")["data"];
    assert_eq!(environment["IP_AUTODETECTION_METHOD"], "interface=eth.*|en.*");
    assert_eq!(environment["IP6_AUTODETECTION_METHOD"], "cidr=2001:db8::/32,fd00::/8");
}

#[test]
fn notes_say_how_to_go_on() {
    let output = Command::new(root().join("scripts/render-chart")).arg("--notes").output().expect("it runs");
    let notes = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success() && notes.contains("rollout status daemonset/caracal-agent"), "{notes}");
    let chart = &objects(&read("deploy/chart/Chart.yaml"))[0];
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"), "the chart is of this version");
}
