//! What changes while packets flow: policy reaches connections that are open, pods come and go, and others do not notice.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process, thread,
    time::{Duration, Instant},
};

use caracal_cni::{
    link::{self, PodLink},
    netns,
};
use caracal_lab::Process;
use caracal_model::names::veth_name;
use serde_json::json;

use crate::{
    api::{ingress, isolate, pod, pod_key, policy_key},
    lab::{Lab, Plan},
    machine::{eventually, rounds},
    traffic::{Connection, Place, Questions, Stream, answers},
};

#[test]
fn a_policy_change_reaches_established_flows() {
    let lab = Lab::up_alone("change", &Plan::pods(&[("a", "node1"), ("b", "node1"), ("c", "node2")]));
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.pod(name));
    let flows =
        [("same node", Questions::start(&a, &b, 7001)), ("across nodes", Questions::start(&c, &b, 7002))];
    let other = Connection::start(&c, &a, 7003);
    let (mut denied, mut allowed) = (Vec::new(), Vec::new());
    for _ in 0..rounds(10, 100) {
        for (what, questions) in &flows {
            questions.wait_after(what, Instant::now());
        }
        let former = lab.dropped("node1", "policy-deny");
        let start = Instant::now();
        lab.kubernetes().create(isolate("deny", "b")).unwrap();
        for (what, questions) in &flows {
            denied.push(questions.wait_silence(what, start));
            // One worker serves both: from its first denial on it denies all.
            eventually("policy denies it", || lab.dropped("node1", "policy-deny") > former);
            let heard = questions.heard_in_all();
            thread::sleep(Duration::from_millis(50));
            assert_eq!(questions.heard(), heard, "{what}: heard again after it was cut off");
        }
        let start = Instant::now();
        lab.kubernetes().delete(&policy_key("deny")).unwrap();
        for (what, questions) in &flows {
            allowed.push(questions.wait_after(what, start));
        }
    }
    for (what, times) in [("deny", &mut denied), ("allow", &mut allowed)] {
        times.sort();
        let (median, slowest) = (times[times.len() / 2], times[times.len() - 1]);
        println!(
            "{what}: from the API request to the last packet's verdict: median {median:?}, slowest {slowest:?}"
        );
    }
    assert!(lab.dropped("node1", "policy-deny") > 0, "what was cut off must have been denied");
    let (count, _) = other.end();
    assert!(count > 0, "a connection of another pod must stay");
}

#[test]
fn an_answer_under_way_does_not_bring_a_denied_flow_back() {
    let lab = Lab::up("answers", &Plan::pods(&[("a", "node1"), ("b", "node2")]));
    let (a, b) = (lab.pod("a"), lab.pod("b"));
    let (client, server) = (a.udp(0), b.udp(7001));
    let from = || {
        let mut buffer = [0; 8];
        server.recv_from(&mut buffer).ok().map(|(_, from)| from)
    };
    let mut asked = None;
    eventually("b is asked", || {
        client.send_to(b"?", b.at(7001)).unwrap();
        asked = from();
        asked.is_some()
    });
    lab.kubernetes().create(isolate("deny", "b")).unwrap();
    eventually("b is isolated", || {
        client.send_to(b"?", b.at(7001)).unwrap();
        while from().is_some() {}
        lab.dropped("node2", "policy-deny") > 0
    });
    // What was let through before may be read late.
    let mut lulls = 0;
    while lulls < 10 {
        lulls = if from().is_some() { 0 } else { lulls + 1 };
    }
    // b takes its time to answer what it was asked before.
    for _ in 0..20 {
        server.send_to(b"!", asked.unwrap()).unwrap();
        client.send_to(b"?", b.at(7001)).unwrap();
        assert_eq!(from(), None, "a denied question was heard after a late answer");
    }
    // b may still speak to a where it begins.
    assert!(answers(&b, &a, 7002));
}

/// A pod's network namespace and link, made as a CNI plugin makes them, with its object made as a kubelet makes it.
struct GuestPod<'a> {
    lab: &'a Lab,
    name: &'static str,
    place: Place,
    node_netns: PathBuf,
    bpf_dir: PathBuf,
    interface: String,
}

impl<'a> GuestPod<'a> {
    fn add(lab: &'a Lab, name: &'static str, node: &str, address: Ipv4Addr) -> Self {
        let place =
            Place { netns: format!("crt{}-{}-{name}", process::id(), lab.name()), address: address.into() };
        let guest = Self {
            lab,
            name,
            node_netns: netns::path(&lab.node(node).netns),
            bpf_dir: lab.state().bpf_of(node),
            interface: veth_name("default", name),
            place,
        };
        let pod_netns = netns::path(&guest.place.netns);
        netns::create(&pod_netns).unwrap();
        link::add(&guest.link(&pod_netns, &[IpAddr::V4(address)])).unwrap();
        let mut object = pod(name, node);
        object["status"] = json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]});
        lab.kubernetes().create(object).unwrap();
        guest
    }

    fn link<'b>(&'b self, pod_netns: &'b Path, addresses: &'b [IpAddr]) -> PodLink<'b> {
        PodLink {
            node_netns: Some(&self.node_netns),
            pod_netns,
            host_name: &self.interface,
            addresses,
            mtu: 1450,
            mac: None,
            bpf_dir: &self.bpf_dir,
        }
    }

    fn remove_link(&self) {
        link::remove(Some(&self.node_netns), &self.interface, &self.bpf_dir).unwrap();
    }

    fn is_forwarded_for(&self, node: &str) -> bool {
        let status = self.lab.status(node).unwrap();
        status.ports.iter().any(|port| port.name == self.interface && port.up)
    }
}

impl Drop for GuestPod<'_> {
    fn drop(&mut self) {
        let _ = link::remove(Some(&self.node_netns), &self.interface, &self.bpf_dir);
        let _ = self.lab.kubernetes().delete(&pod_key(self.name));
        let _ = netns::remove(&netns::path(&self.place.netns));
    }
}

#[test]
fn pods_come_and_go_and_others_do_not_notice() {
    let lab = Lab::up_alone("come-and-go", &Plan::pods(&[("a", "node1"), ("b", "node1"), ("c", "node2")]));
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.pod(name));
    let streams = [
        ("same node", Stream::start(&a, &b, 7001, 5_000)),
        ("across nodes", Stream::start(&a, &c, 7002, 5_000)),
        ("from another node", Stream::start(&c, &b, 7003, 5_000)),
    ];
    let former = lab.status("node1").unwrap().ports.len();
    for round in 0..rounds(5, 50) {
        let start = Instant::now();
        let guest = GuestPod::add(&lab, "guest", "node1", Ipv4Addr::new(10, 244, 1, 99));
        let questions = [Questions::start(&c, &guest.place, 7011), Questions::start(&guest.place, &b, 7012)];
        for questions in &questions {
            questions.wait_after("the new pod", start);
        }
        println!("round {round}: a new pod talks {:?} after its link was begun", start.elapsed());
        // It has not said goodbye, and its peers go on.
        if round % 2 == 0 {
            guest.remove_link();
        }
        drop(guest);
        drop(questions);
        eventually("its port is gone", || lab.status("node1").unwrap().ports.len() == former);
    }
    for (what, stream) in streams {
        stream.end().assert_whole(what);
    }
    assert_eq!(lab.process("fastpath-node1").restarts, 0);
}

#[test]
fn a_link_that_vanishes_under_traffic_is_survived_and_may_come_again() {
    let lab = Lab::up("vanish", &Plan::pods(&[("a", "node1"), ("b", "node1"), ("c", "node2")]));
    let (a, c) = (lab.pod("a"), lab.pod("c"));
    for _ in 0..rounds(5, 50) {
        let guest = GuestPod::add(&lab, "guest", "node1", Ipv4Addr::new(10, 244, 1, 99));
        let streams =
            [Stream::start(&a, &guest.place, 7001, 5_000), Stream::start(&c, &guest.place, 7002, 5_000)];
        assert!(guest.is_forwarded_for("node1"));
        guest.remove_link();
        thread::sleep(Duration::from_millis(100));
        for stream in streams {
            stream.end();
        }
        eventually("the fastpath knows that the link is gone", || !guest.is_forwarded_for("node1"));
    }
    let fastpath = lab.process("fastpath-node1");
    assert!(
        fastpath.restarts == 0 && fastpath.process.is_some_and(Process::is_alive),
        "the fastpath died of it"
    );
    assert!(answers(&a, &c, 7003) && answers(&c, &lab.pod("b"), 7004));
    // Frames that were on their way to the pod, or lent to its port, are free again.
    let free = || lab.counter("node1", "free_frames", "");
    let before = free();
    let guest = GuestPod::add(&lab, "guest", "node1", Ipv4Addr::new(10, 244, 1, 99));
    eventually("the pod has a port", || guest.is_forwarded_for("node1"));
    drop(guest);
    eventually("its frames are given back", || free() >= before);
}

#[test]
fn a_named_peer_keeps_its_connection_through_a_change_of_labels() {
    let from_a = json!([{"from": [{"podSelector": {"matchLabels": {"app": "a"}}}]}]);
    let plan =
        Plan::pods(&[("a", "node1"), ("b", "node2"), ("x", "node1")]).object(ingress("b", "b", from_a));
    let lab = Lab::up("labels", &plan);
    let (a, b, x) = (lab.pod("a"), lab.pod("b"), lab.pod("x"));
    let questions = Questions::start(&x, &b, 7002);
    let stream = Stream::start(&a, &b, 7001, 2_000);
    assert_eq!(questions.heard(), 0);
    lab.kubernetes().merge(&pod_key("x"), json!({"metadata": {"labels": {"app": "a"}}})).unwrap();
    questions.wait_after("whoever got the label", Instant::now());
    lab.kubernetes().merge(&pod_key("x"), json!({"metadata": {"labels": {"app": "x"}}})).unwrap();
    questions.wait_silence("whoever lost the label", Instant::now());
    stream.end().assert_whole("a peer whose labels did not change");
}
