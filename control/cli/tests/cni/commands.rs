//! CHECK, GC, STATUS, VERSION, `caracal-ipam` alone, and results of every version.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use caracal_cni::netlink::Netlink;
use serde_json::{Value, json};

use crate::world::{Says, World};

#[test]
fn check_sees_what_is_not_as_add_left_it() {
    let world = World::new("check");
    let container = world.pod("web", json!({}));
    let result = world.add(&container).json;
    assert!(world.check(&container, &result).good);
    let finds = |what: &str| {
        let answered = world.check(&container, &result);
        assert_eq!(answered.code(), 105);
        assert!(answered.text().contains(what), "{}", answered.text());
    };
    let again = || {
        assert!(world.del(&container).good);
        assert!(world.add(&container).good);
    };
    let mut wrong = result.clone();
    wrong["interfaces"][1]["mac"] = json!("02:00:00:00:00:99");
    assert_eq!(world.check(&container, &wrong).code(), 105);
    wrong = result.clone();
    wrong["ips"][0]["address"] = json!("10.9.9.9/32");
    assert_eq!(world.check(&container, &wrong).code(), 105);
    // Its route is gone.
    world.in_pod(&container, || {
        let mut netlink = Netlink::open().unwrap();
        let eth0 = netlink.link("eth0").unwrap().index;
        netlink.set_down(eth0).unwrap();
        netlink.set_up(eth0).unwrap();
    });
    finds("no route leads by 169.254.1.1");
    again();
    let result = world.add(&container).json;
    // Its program is gone.
    caracal_xsk::xdp::pod::unpin(&world.dir.path().join("bpf"), &container.veth()).unwrap();
    let answered = world.check(&container, &result);
    assert!(answered.code() == 105 && answered.text().contains("program"), "{}", answered.text());
    again();
    let result = world.add(&container).json;
    Netlink::open().unwrap().delete_link(&container.veth()).unwrap();
    let answered = world.check(&container, &result);
    assert!(answered.code() == 105 && answered.text().contains("is gone"), "{}", answered.text());
    again();
    // Another container has the pod now.
    let other = world.container("web", "c1-web");
    assert_eq!(world.check(&other, &Value::Null).code(), 105);
}

#[test]
fn gc_removes_what_is_not_attached_of_this_network_and_node_alone() {
    let world = World::new("gc");
    let attached = world.pod("attached", json!({}));
    let left = world.pod("left", json!({}));
    let mut other = world.config();
    other["name"] = json!("other");
    let of_other = world.pod("other", json!({}));
    assert!(world.add(&attached).good && world.add(&left).good);
    assert!(world.execute("caracal-cni", "ADD", Some(&of_other), &other).good);
    // Only the address is left of this one.
    let address = world.container("address", "c0-address");
    assert!(world.execute("caracal-ipam", "ADD", Some(&address), &world.config()).good);
    let mut elsewhere = world.config();
    elsewhere["nodename"] = json!("node2");
    world.make(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node2"}}));
    let on_node2 = world.container("elsewhere", "c0-elsewhere");
    assert!(world.execute("caracal-ipam", "ADD", Some(&on_node2), &elsewhere).good);

    let mut config = world.config();
    let refused = world.execute("caracal-cni", "GC", None, &config);
    assert_eq!(refused.code(), 7, "without the list everything would go");
    config["cni.dev/valid-attachments"] = json!([{"containerID": attached.id, "ifname": "eth0"}]);
    let answered = world.execute("caracal-cni", "GC", None, &config);
    assert!(answered.good, "{}", answered.text());
    let seen = world.seen();
    let mut kept: Vec<&String> = seen.given.keys().collect();
    kept.sort();
    let mut expected = [attached.handle(), format!("other.{}", of_other.id), on_node2.handle()];
    expected.sort();
    assert_eq!(kept, expected.iter().collect::<Vec<_>>());
    assert!(seen.links.contains(&attached.veth()) && seen.links.contains(&of_other.veth()));
    assert!(!seen.links.contains(&left.veth()));
    assert_eq!(seen.pins.len(), 2);
}

#[test]
fn status_says_what_add_would_meet() {
    let mut world = World::new("status");
    let status = |world: &World| world.execute("caracal-cni", "STATUS", None, &world.config());
    assert!(status(&world).good);
    *world.says.lock().unwrap() = Says::NotReady;
    assert_eq!(status(&world).code(), 51);
    *world.says.lock().unwrap() = Says::Yes;
    world.server_dies();
    assert_eq!(status(&world).code(), 50);
    world.agent_dies();
    assert_eq!(status(&world).code(), 50);
}

#[test]
fn commands_that_a_version_does_not_have_are_refused_and_version_is_always_answered() {
    let world = World::new("version");
    let mut config = world.config();
    config["cniVersion"] = json!("0.3.1");
    let container = world.pod("web", json!({}));
    assert_eq!(world.execute("caracal-cni", "CHECK", Some(&container), &config).code(), 1);
    assert_eq!(world.execute("caracal-cni", "STATUS", None, &config).code(), 1);
    let answered = world.execute("caracal-cni", "VERSION", None, &config);
    assert_eq!(answered.json["cniVersion"], "0.3.1");
    let all = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
    assert_eq!(answered.json["supportedVersions"], json!(all));
    config["cniVersion"] = json!("1.2.0");
    let refused = world.execute("caracal-cni", "ADD", Some(&container), &config);
    assert!(refused.code() == 1 && refused.text().contains("0.1.0, 0.2.0"), "{}", refused.text());
    assert_eq!(world.execute("caracal-cni", "EVERYTHING", None, &config).code(), 4);
    assert_eq!(world.execute("caracal-cni", "ADD", None, &world.config()).code(), 4);
}

#[test]
fn every_version_is_answered_in_its_own_form() {
    let world = World::new("forms");
    let container = world.pod("web", json!({}));
    let mut results = BTreeMap::new();
    for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let mut config = world.config();
        config["cniVersion"] = json!(version);
        // Each but the first repeats.
        let answered = world.execute("caracal-cni", "ADD", Some(&container), &config);
        assert_eq!(
            (answered.good, &answered.json["cniVersion"]),
            (true, &json!(version)),
            "{}",
            answered.json
        );
        results.insert(version, answered.json);
    }
    let address = &results["1.1.0"]["ips"][0]["address"];
    for version in ["0.1.0", "0.2.0"] {
        assert_eq!(&results[version]["ip4"]["ip"], address);
    }
    for version in ["0.3.0", "0.3.1", "0.4.0"] {
        assert_eq!(
            (&results[version]["ips"][0]["version"], &results[version]["ips"][0]["address"]),
            (&json!("4"), address)
        );
        assert!(results[version]["interfaces"][1].get("mtu").is_none());
    }
    assert!(results["1.0.0"]["ips"][0].get("version").is_none());
}

#[test]
fn caracal_ipam_serves_other_plugins_too() {
    let world = World::new("ipam");
    let container = world.pod("web", json!({}));
    let before = world.seen();
    let mut config = world.config();
    config["type"] = json!("bridge");
    let answered = world.execute("caracal-ipam", "ADD", Some(&container), &config);
    let addresses = answered.addresses();
    assert!(answered.json.get("interfaces").is_none(), "{}", answered.json);
    assert_eq!(
        world.execute("calico-ipam", "ADD", Some(&container), &config).addresses(),
        addresses,
        "it repeats"
    );
    config["prevResult"] = answered.json.clone();
    assert!(world.execute("caracal-ipam", "CHECK", Some(&container), &config).good);
    assert!(world.execute("caracal-ipam", "STATUS", None, &config).good);
    assert!(world.execute("caracal-ipam", "DEL", Some(&container), &config).good);
    assert_eq!(world.execute("caracal-ipam", "CHECK", Some(&container), &config).code(), 105);
    assert!(world.execute("caracal-ipam", "DEL", Some(&container), &config).good);
    assert_eq!(world.seen(), before);
}

#[test]
fn another_ipam_plugin_is_executed_with_the_nodes_own_prefix() {
    let world = World::new("delegate");
    // A plugin that keeps what it was told, and gives what its configuration says.
    let script = "#!/bin/sh\n/bin/cat > $0.stdin.$CNI_COMMAND\n[ $CNI_COMMAND = ADD ] || exit 0\n\
        echo '{\"cniVersion\": \"0.4.0\", \"ips\": [{\"version\": \"4\", \"address\": \"10.99.1.7/24\", \"gateway\": \"10.99.1.1\"}], \"routes\": [{\"dst\": \"10.99.0.0/16\"}], \"dns\": {}}'\n";
    let program = world.dir.path().join("bin/given");
    std::fs::write(&program, script).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, mode).unwrap();
    let container = world.pod("web", json!({}));
    let before = world.seen();
    let mut config = world.config();
    config["ipam"] = json!({"type": "given", "ranges": [[{"subnet": "usePodCidr"}]]});
    let answered = world.execute("caracal-cni", "ADD", Some(&container), &config);
    assert_eq!(answered.addresses(), ["10.99.1.7/32"]);
    assert_eq!(answered.json["routes"], json!([{"dst": "10.99.0.0/16"}]));
    let told = |command: &str| -> Value {
        let text = std::fs::read(world.dir.path().join(format!("bin/given.stdin.{command}"))).unwrap();
        serde_json::from_slice(&text).unwrap()
    };
    assert_eq!(told("ADD")["ipam"]["ranges"][0][0]["subnet"], "10.99.1.0/24");
    let routes = world
        .in_pod(&container, || Netlink::open().unwrap().routes(caracal_cni::netlink::IpVersion::V4).unwrap());
    assert!(
        routes.contains(&(Some("10.99.0.0".parse().unwrap()), 16, Some("169.254.1.1".parse().unwrap()))),
        "{routes:?}"
    );
    assert!(!routes.iter().any(|(to, _, _)| to.is_none()), "its routes replace the default: {routes:?}");
    assert!(world.execute("caracal-cni", "DEL", Some(&container), &config).good);
    assert_eq!(told("DEL")["ipam"]["type"], "given");
    assert_eq!(world.seen(), before);
    let asks = world.pod("asks", json!({"cni.projectcalico.org/ipAddrs": "[\"10.99.1.9\"]"}));
    assert_eq!(world.execute("caracal-cni", "ADD", Some(&asks), &config).code(), 102);
    config["ipam"] = json!({"type": "nowhere"});
    assert_eq!(world.execute("caracal-cni", "ADD", Some(&container), &config).code(), 7);
}

#[test]
fn an_installed_plugin_works_with_the_configuration_that_was_installed_with_it() {
    let mut world = World::new("install");
    let dir = world.dir.path().to_owned();
    let install = |more: &[&str]| {
        std::process::Command::new(env!("CARGO_BIN_EXE_caracal"))
            .args(["install-cni", "--node", "node1", "--mtu", "1400", "--kubeconfig"])
            .arg(dir.join("kubeconfig"))
            .arg("--bin-dir")
            .arg(dir.join("opt"))
            .arg("--conf-dir")
            .arg(dir.join("etc"))
            .args(more)
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap()
    };
    let conflist = dir.join("etc/10-caracal.conflist");
    world.server_dies();
    assert!(!install(&[]).success());
    assert!(!conflist.exists(), "runtimes do not hear of a network that does not work");
    world.server_starts();
    assert!(install(&[]).success());

    let list: Value = serde_json::from_slice(&std::fs::read(&conflist).unwrap()).unwrap();
    let mut config = list["plugins"][0].clone();
    config["name"] = list["name"].clone();
    config["cniVersion"] = list["cniVersion"].clone();
    assert_eq!(config["calico_api_group"], "projectcalico.org/v3");
    // What is this machine's own, and not a test's to touch.
    for (field, value) in [
        ("node_socket", "node.sock"),
        ("bpf_dir", "bpf"),
        ("ipam_lock_file", "lock"),
        ("log_file_path", "log"),
    ] {
        config[field] = json!(dir.join(value));
    }
    std::fs::remove_file(dir.join("bin/caracal-cni")).unwrap();
    std::fs::copy(dir.join("opt/caracal-cni"), dir.join("bin/caracal-cni")).unwrap();
    let container = world.pod("web", json!({}));
    let added = world.execute("caracal-cni", "ADD", Some(&container), &config);
    assert!(added.good && added.json["interfaces"][1]["mtu"] == 1400, "{}", added.json);
    assert!(world.execute("caracal-cni", "DEL", Some(&container), &config).good);
    assert!(install(&["--uninstall"]).success());
    assert!(
        !conflist.exists()
            && !dir.join("opt/caracal-cni").exists()
            && !dir.join("etc/caracal-kubeconfig").exists()
    );
}

#[test]
fn people_are_told_what_it_is_and_runtimes_are_answered_as_ever() {
    let typed = |name: &str, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_caracal"));
        command.arg0(name).args(arguments).env_remove("CNI_COMMAND").stdin(Stdio::null());
        let output = command.output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    for (name, option) in [("caracal-cni", "--help"), ("/opt/cni/bin/caracal-ipam", "-h")] {
        let (is_good, text) = typed(name, &[option]);
        let name = name.rsplit('/').next().unwrap();
        assert!(is_good && text.starts_with(name) && text.contains("CNI_COMMAND=STATUS"), "{text}");
    }
    assert_eq!(typed("caracal-cni", &["--version"]), (true, format!("{}\n", env!("CARGO_PKG_VERSION"))));
    // Nobody sits at the other end of stdin: a runtime, then, that has forgotten something.
    let (is_good, text) = typed("caracal-cni", &[]);
    assert!(!is_good);
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["code"], 4);
}
