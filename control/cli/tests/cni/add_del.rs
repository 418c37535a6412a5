//! Repeats, replacements, failures and kills: what is left, and what is not.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use caracal_cni::netlink::{Netlink, VethEnd};
use caracal_cni::netns;
use caracal_model::object::Kind;
use serde_json::{Value, json};

use crate::world::{Container, PATIENCE, Says, World};

#[test]
fn an_add_that_repeats_gives_the_same_result_and_changes_nothing() {
    let world = World::new("repeat");
    let container = world.pod("web", json!({}));
    let first = world.add(&container);
    let seen = world.seen();
    let index = || Netlink::open().unwrap().link(&container.veth()).unwrap().index;
    let before = index();
    let second = world.add(&container);
    assert_eq!(second.json, first.json);
    assert_eq!((world.seen(), index()), (seen, before));
}

#[test]
fn a_new_container_of_the_pod_replaces_the_link_and_the_old_ones_del_leaves_it() {
    let world = World::new("replace");
    let old = world.pod("web", json!({}));
    let first = world.add(&old).addresses();
    let new = world.container("web", "c1-web");
    let added = world.add(&new);
    let second = added.addresses();
    assert_ne!(first, second, "the old one's address is its own until its DEL");
    let given = world.seen().given.into_keys().collect::<BTreeSet<_>>();
    assert_eq!(given, BTreeSet::from([old.handle(), new.handle()]));

    assert!(world.del(&old).good);
    let seen = world.seen();
    assert_eq!(seen.given.into_keys().collect::<Vec<_>>(), [new.handle()]);
    assert_eq!(seen.annotated["web"], second[0]);
    assert!(seen.links.contains(&new.veth()));
    assert!(world.check(&new, &added.json).good);
    assert!(world.del(&new).good);
    assert!(world.seen().given.is_empty());
}

#[test]
fn what_was_killed_before_its_link_had_an_owner_is_removed_also_of_a_pod_that_had_a_container_before() {
    let world = World::new("ownerless");
    let first = world.pod("web", json!({}));
    assert!(world.add(&first).good);
    assert!(world.del(&first).good);
    let before = world.seen();
    let second = world.container("web", "c1-web");
    let near = VethEnd { name: &second.veth(), netns: None, mac: None };
    let netns = netns::open(&second.netns).unwrap();
    let far = VethEnd { name: "eth0", netns: Some(netns.as_fd()), mac: None };
    Netlink::open().unwrap().add_veth(&near, &far, 1460).unwrap();
    assert_ne!(world.seen(), before);
    assert!(world.del(&second).good);
    assert_eq!(world.seen(), before);
}

#[test]
fn an_add_for_which_the_agent_asks_the_api_server_does_not_ask_it_itself() {
    let world = World::new("errands");
    let before = world.seen();
    *world.says.lock().unwrap() = Says::Gives;
    let container = world.pod("web", json!({}));
    let mut config = world.config();
    config["kubernetes"]["kubeconfig"] = json!("/proc/nowhere");
    let added = world.execute("caracal-cni", "ADD", Some(&container), &config);
    let addresses = added.addresses();
    assert_eq!(world.seen().annotated["web"], addresses[0]);
    let again = world.execute("caracal-cni", "ADD", Some(&container), &config);
    assert_eq!(again.json, added.json, "it knows that this has been done");
    assert!(world.check(&container, &added.json).good);
    world.agent_dies();
    assert!(world.del(&container).good);
    assert_eq!(world.seen(), before);
}

#[test]
fn an_add_beside_an_agent_that_reads_and_writes_no_pods_does_it_itself() {
    let world = World::new("earlier");
    let before = world.seen();
    *world.says.lock().unwrap() = Says::Earlier;
    let container = world.pod("web", json!({}));
    let added = world.add(&container);
    assert_eq!(world.seen().annotated["web"], added.addresses()[0]);
    assert!(world.check(&container, &added.json).good);
    assert!(world.del(&container).good);
    assert_eq!(world.seen(), before);
}

#[test]
fn del_works_without_agent_namespace_and_pod() {
    let world = World::new("gone");
    let before = world.seen();
    let mut container = world.pod("web", json!({}));
    assert!(world.add(&container).good);
    world.agent_dies();
    world.delete_pod("web");
    caracal_cni::netns::remove(&container.netns).unwrap();
    container.netns = "".into();
    assert!(world.del(&container).good);
    assert_eq!(world.seen(), before);
}

#[test]
fn a_del_that_cannot_reach_the_api_server_cuts_the_pod_off_and_is_to_be_repeated() {
    let mut world = World::new("noapi");
    let container = world.pod("web", json!({}));
    assert!(world.add(&container).good);
    world.server_dies();
    let answered = world.del(&container);
    assert_eq!(answered.code(), 100);
    assert!(answered.text().contains("the API server at https://127.0.0.1:"), "{}", answered.text());
    assert!(
        Netlink::open().unwrap().link(&container.veth()).is_err(),
        "nothing of the pod's reaches anybody"
    );
    world.server_starts();
    assert!(world.del(&container).good);
    let seen = world.seen();
    assert!(seen.given.is_empty() && seen.handles.is_empty() && seen.annotated.is_empty(), "{seen:?}");
}

#[test]
fn what_fails_at_any_step_is_taken_back() {
    let world = World::new("steps");
    let container = world.pod("web", json!({}));
    let before = world.seen();
    let fails = |config: &Value, what: &str| {
        let answered = world.execute("caracal-cni", "ADD", Some(&container), config);
        let code = answered.code();
        assert!(answered.text().contains(what), "{}", answered.text());
        assert_eq!(world.seen(), before, "after {}", answered.text());
        code
    };
    // Addresses: the second family has no pool, when the first has given.
    let mut config = world.config();
    config["ipam"]["assign_ipv6"] = json!("true");
    assert_eq!(fails(&config, "no configured Calico pools"), 101);
    // The link: an MTU that no veth takes at its pod's end, and a directory for pins that cannot be.
    let mut config = world.config();
    config["bpf_dir"] = json!("/proc/nowhere");
    assert_eq!(fails(&config, "/proc/nowhere"), 103);
    // The pod's end: its name is taken, when the addresses are given.
    world.in_pod(&container, || {
        Netlink::open().unwrap().add_bridge("eth0", [2, 0, 0, 0, 0, 1], 1500).unwrap()
    });
    assert_eq!(fails(&world.config(), "exists"), 103);
    world.in_pod(&container, || Netlink::open().unwrap().delete_link("eth0").unwrap());
    // Policy: see the twin.
    *world.says.lock().unwrap() = Says::Never;
    assert_eq!(fails(&world.config(), "not in force in time"), 104);
    *world.says.lock().unwrap() = Says::Yes;
    assert!(world.add(&container).good, "and then it works");
}

#[test]
fn killed_at_any_moment_an_add_leaves_nothing_after_del() {
    let world = World::new("kill");
    let before = world.seen();
    let mut killed = 0;
    let mut containers = Vec::new();
    for round in 0..rounds() {
        let name = format!("web-{round}");
        let container = world.pod(&name, json!({}));
        let mut child = world.start("caracal-cni", "ADD", Some(&container), &world.config());
        thread::sleep(Duration::from_millis(round % 60));
        killed += u64::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        // A third of the DELs is killed, too.
        if round % 3 == 0 {
            let mut child = world.start("caracal-cni", "DEL", Some(&container), &world.config());
            thread::sleep(Duration::from_millis(round / 3 % 40));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(world.del(&container).good);
        let seen = world.seen();
        assert_eq!((seen.links, seen.pins), (before.links.clone(), before.pins.clone()), "round {round}");
        containers.push(container);
    }
    assert!(killed > 0, "not one was killed before its end");
    // A write that was on its way when its plugin was killed may be done after DEL has looked, and whenever. The next DEL finds it.
    let end = Instant::now() + PATIENCE;
    loop {
        let left = world.seen();
        if left == before {
            break;
        }
        assert!(Instant::now() < end, "left: {left:?}");
        for container in &containers {
            let handle = container.handle();
            if left.handles.contains(&handle)
                || left.given.contains_key(&handle)
                || left.annotated.contains_key(&container.pod)
            {
                assert!(world.del(container).good);
            }
        }
    }
}

fn rounds() -> u64 {
    if std::env::var_os("CARACAL_LONG").is_some() { 600 } else { 60 }
}

#[test]
fn a_pod_that_was_made_again_under_the_same_name_is_not_taken_for_the_one_before() {
    let world = World::new("uid");
    let mut container = world.pod("web", json!({}));
    let before = world.seen();
    container.args.push_str(";K8S_POD_UID=somebody-else");
    assert_eq!(world.add(&container).code(), 11);
    assert_eq!(world.seen(), before);
    // A static pod's object is a mirror: the kubelet's UID is in an annotation.
    let hash = json!({"metadata": {"annotations": {"kubernetes.io/config.hash": "somebody-else"}}});
    world.patch(Kind::Pod, Some("default"), "web", hash);
    assert!(world.add(&container).good);
}

#[test]
fn a_container_that_is_no_pod_to_attach_is_refused_and_nothing_is_made() {
    let world = World::new("refused");
    let before = world.seen();
    let missing = world.container("nobody", "c-nobody");
    assert_eq!(world.add(&missing).code(), 11);
    let pod = |name: &str, spec: Value| {
        let mut spec = spec;
        spec["containers"] = json!([{"name": "main", "image": "none"}]);
        world.make(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec}));
        world.add(&world.container(name, &format!("c-{name}")))
    };
    let host = pod("host", json!({"nodeName": "node1", "hostNetwork": true}));
    assert_eq!(host.code(), 106);
    let elsewhere = pod("elsewhere", json!({"nodeName": "node2"}));
    assert_eq!(elsewhere.code(), 106);
    assert!(elsewhere.text().contains("nodename"), "{}", elsewhere.text());
    assert_eq!(pod("nowhere", json!({})).code(), 11);
    let on_the_host = Container { netns: "/proc/self/ns/net".into(), ..world.pod("host-netns", json!({})) };
    assert_eq!(world.add(&on_the_host).code(), 4, "the host keeps its network");
    let in_a_file = Container { netns: "/proc/self/status".into(), ..world.pod("file", json!({})) };
    assert_eq!(world.add(&in_a_file).code(), 4);
    let nobody = Container { args: String::new(), ..missing };
    assert_eq!(world.add(&nobody).code(), 4);
    let info = json!({"apiVersion": "projectcalico.org/v3", "kind": "ClusterInformation", "metadata": {"name": "default"},
        "spec": {"datastoreReady": false}});
    world.make(info);
    assert_eq!(world.add(&world.pod("web", json!({}))).code(), 11);
    assert_eq!(world.seen(), before);
}

#[test]
fn many_at_once_are_attached_with_an_address_each_and_detached_without_a_trace() {
    let world = World::new("many");
    let before = world.seen();
    let containers: Vec<Container> = (0..40).map(|i| world.pod(&format!("web-{i}"), json!({}))).collect();
    let children: Vec<_> = containers
        .iter()
        .map(|container| world.start("caracal-cni", "ADD", Some(container), &world.config()))
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    let addresses: BTreeSet<String> = world.seen().annotated.into_values().collect();
    assert_eq!(addresses.len(), containers.len());
    let children: Vec<_> = containers
        .iter()
        .map(|container| world.start("caracal-cni", "DEL", Some(container), &world.config()))
        .collect();
    for child in children {
        assert!(child.wait_with_output().unwrap().status.success());
    }
    assert_eq!(world.seen(), before);
}
