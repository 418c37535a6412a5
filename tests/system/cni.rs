//! The CNI plugin as a container runtime and kubelet use it, with API server, agent and fastpath: many at once, killed half-way, chained
//! with other plugins, without an agent.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    process, thread,
    time::{Duration, Instant},
};

use caracal_cni::netns;
use caracal_lab::{Attachment, Network, Process, Stop, addresses, pod_network};
use caracal_model::object::{Kind, ObjectKey};
use nix::sys::{
    resource::{UsageWho, getrusage},
    signal::Signal,
    time::TimeValLike,
};
use nix::unistd::{SysconfVar, sysconf};
use serde_json::{Value, json};

use crate::{
    api::{annotated, ingress, isolate, pod, pod_key, pool},
    lab::{Lab, Plan},
    machine::{Dice, PATIENCE, caracal, eventually, is_loaded, rounds, stdout},
    traffic::{Place, answers, transfer},
};

/// CNI's "try again later".
const AGAIN: u64 = 11;
/// What STATUS says where nothing, or not everything, can be attached.
const UNAVAILABLE: [u64; 2] = [50, 51];
/// Where Debian's containernetworking-plugins are.
const DEBIANS: &str = "/usr/lib/cni";

/// A pod that a test attaches itself. Its sandbox goes when this goes.
struct Guest {
    name: String,
    attachment: Attachment,
}

impl Guest {
    /// Makes its sandbox, and its object in the API.
    fn of(lab: &Lab, node: &str, name: &str) -> Self {
        Self::like(lab, pod(name, node))
    }

    /// The same of an object of the test's own.
    fn like(lab: &Lab, object: Value) -> Self {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let netns = netns::path(&format!("crt{}-{}-{name}", process::id(), lab.name()));
        netns::create(&netns).unwrap();
        let attachment = Attachment::of_pod("default", &name, &format!("sandbox-{name}"), netns);
        lab.kubernetes().create(object).unwrap();
        Self { name, attachment }
    }

    fn place(&self, result: &Value) -> Place {
        let netns = self.attachment.netns.file_name().unwrap().to_str().unwrap().to_owned();
        Place { netns, address: addresses(result)[0] }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = netns::remove(&self.attachment.netns);
    }
}

fn stop() -> Stop {
    Stop::default()
}

/// Everything that the plugin makes, and that is somebody's but the lab's own pods'.
#[derive(Debug, Default, PartialEq, Eq)]
struct Traces {
    links: BTreeSet<String>,
    pins: BTreeSet<String>,
    ports: BTreeSet<String>,
    allocations: BTreeMap<IpAddr, String>,
    handles: BTreeSet<String>,
    annotations: BTreeSet<String>,
}

fn traces(lab: &Lab, node: &str) -> Traces {
    let place = lab.node(node);
    let names = |folder: PathBuf| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().into_string().unwrap()).filter(|name| name.starts_with("cali"))
    };
    // The namespaces' view of /proc is the thread's own.
    let links = place.run(|| fs::read_to_string("/proc/thread-self/net/dev").unwrap());
    let links = links.lines().filter_map(|line| Some(line.trim().split_once(':')?.0.to_owned()));
    let kubernetes = lab.kubernetes();
    let allocations = kubernetes.list(Kind::IPAMBlock).iter().flat_map(allocations).collect();
    let annotations = kubernetes.list(Kind::Pod).into_iter().filter_map(|pod| {
        let address = pod["metadata"]["annotations"]["cni.projectcalico.org/podIP"].as_str()?;
        Some(pod["metadata"]["name"].as_str()?.to_owned()).filter(|_| !address.is_empty())
    });
    Traces {
        links: links.filter(|name| name.starts_with("cali")).collect(),
        pins: names(lab.state().bpf_of(node)).collect(),
        ports: lab
            .status(node)
            .unwrap()
            .ports
            .into_iter()
            .filter(|p| p.kind == "pod")
            .map(|p| p.name)
            .collect(),
        allocations,
        handles: kubernetes
            .list(Kind::IPAMHandle)
            .iter()
            .map(|handle| text(&handle["spec"]["handleID"]))
            .collect(),
        annotations: annotations.collect(),
    }
}

/// Waits until all is as it was before guests came.
fn assert_traceless(lab: &Lab, node: &str, before: &Traces) {
    let start = Instant::now();
    loop {
        let now = traces(lab, node);
        if now == *before {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "left: {now:#?}\nof: {before:#?}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Which address of a block is given to which handle.
fn allocations(block: &Value) -> Vec<(IpAddr, String)> {
    let spec = &block["spec"];
    let cidr: caracal_model::cidr::Cidr = spec["cidr"].as_str().unwrap().parse().unwrap();
    let given = spec["allocations"].as_array().unwrap().iter().enumerate();
    given
        .filter_map(|(ordinal, index)| {
            let attributes = &spec["attributes"][usize::try_from(index.as_u64()?).unwrap()];
            Some((cidr.nth(ordinal as u32).unwrap(), text(&attributes["handle_id"])))
        })
        .collect()
}

fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort();
    times[(times.len() * percent / 100).min(times.len() - 1)]
}

/// CPU time that has been used so far: by whom an ADD is work for, and by this machine, all in all. The plugins are children of the test's.
#[derive(Debug, Clone, Copy, Default)]
struct Work {
    plugins: Duration,
    agent: Duration,
    fastpath: Duration,
    api_server: Duration,
    machine: Duration,
}

impl Work {
    fn so_far(lab: &Lab, node: &str) -> Self {
        let a_second = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap() as u64;
        let of_ticks = |ticks: u64| Duration::from_millis(ticks * 1000 / a_second);
        let of = |name: &str| of_ticks(crate::footprint::cpu_ticks(lab.process(name).process.unwrap()));
        let children = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
        let plugins = children.user_time() + children.system_time();
        // proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal, of all CPUs.
        let stat = fs::read_to_string("/proc/stat").unwrap();
        let fields = stat.lines().next().unwrap().split_whitespace().skip(1).take(8).enumerate();
        let busy = fields.filter(|(field, _)| !(3..=4).contains(field));
        Self {
            plugins: Duration::from_micros(plugins.num_microseconds() as u64),
            agent: of(&format!("agent-{node}")),
            fastpath: of(&format!("fastpath-{node}")),
            api_server: of("apiserver"),
            machine: of_ticks(busy.map(|(_, ticks)| ticks.parse::<u64>().unwrap()).sum()),
        }
    }

    /// What has been used since, in words: what took so long, we, or others?
    fn since(lab: &Lab, node: &str, before: Self) -> String {
        let now = Self::so_far(lab, node);
        let plugins = now.plugins - before.plugins;
        let (agent, fastpath) = (now.agent - before.agent, now.fastpath - before.fastpath);
        let api_server = now.api_server - before.api_server;
        let ours = plugins + agent + fastpath + api_server;
        let others = (now.machine - before.machine).saturating_sub(ours);
        format!(
            "ours {ours:?} (plugins {plugins:?}, fastpath {fastpath:?}, agent {agent:?}, API server {api_server:?}), others' {others:?}"
        )
    }
}

#[test]
fn many_pods_at_once_are_attached_and_what_is_killed_half_way_leaves_nothing() {
    let lab = Lab::up_alone("cni-many", &Plan::pods(&[("peer", "node1"), ("far", "node2")]));
    let (node, peer, far) = ("node1", lab.pod("peer"), lab.pod("far"));
    let before = traces(&lab, node);
    let network = pod_network(lab.state(), node);
    let count = rounds(60, 250);
    let guests: Vec<_> = (0..count).map(|i| Guest::of(&lab, node, &format!("guest-{i}"))).collect();

    let work = Work::so_far(&lab, node);
    let begin = Instant::now();
    let (results, mut times): (Vec<Value>, Vec<Duration>) = thread::scope(|scope| {
        let threads: Vec<_> = guests
            .iter()
            .map(|guest| {
                scope.spawn(|| {
                    let start = Instant::now();
                    let result = network.add(&guest.attachment, &stop());
                    (result.unwrap_or_else(|error| panic!("{}: {error}", guest.name)), start.elapsed())
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).unzip()
    });
    println!(
        "{count} ADDs at once: p50 {:?}, p99 {:?}, all after {:?}{}",
        percentile(&mut times, 50),
        percentile(&mut times, 99),
        begin.elapsed(),
        if is_loaded() { " (on a busy machine)" } else { "" },
    );
    println!("CPU time of the ADDs: {}", Work::since(&lab, node, work));
    let places: Vec<_> = guests.iter().zip(&results).map(|(guest, result)| guest.place(result)).collect();
    let unique: BTreeSet<_> = places.iter().map(|place| place.address).collect();
    assert_eq!(unique.len(), count, "an address was given twice");
    let now = traces(&lab, node);
    for (guest, place) in guests.iter().zip(&places) {
        let handle = handle_of(guest);
        assert_eq!(now.allocations.get(&place.address), Some(&handle), "{}", guest.name);
        let from = if place.address.to_string().ends_with('0') { &far } else { &peer };
        assert!(answers(from, place, 7001), "{} at {} is not reached", guest.name, place.address);
    }
    for (guest, result) in guests.iter().zip(&results).take(5) {
        network.check(&guest.attachment, result, &stop()).unwrap();
    }

    let mut dice = Dice::new();
    let mut order: Vec<usize> = (0..count).collect();
    for index in (1..count).rev() {
        order.swap(index, dice.below(index as u64 + 1) as usize);
    }
    // How a third of them is killed: after how long, and whether the runtime comes again with DEL, or leaves it to GC.
    let deaths: Vec<_> = order
        .iter()
        .map(|_| {
            (dice.below(3) == 0).then(|| (Duration::from_micros(dice.below(60_000)), dice.below(2) == 0))
        })
        .collect();
    let begin = Instant::now();
    let left_to_gc: Vec<&Guest> = thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|part| {
                let (order, deaths, guests, results, network) =
                    (&order, &deaths, &guests, &results, &network);
                scope.spawn(move || {
                    let own = order.iter().zip(deaths).skip(part).step_by(8);
                    let left = own.filter(|(index, death)| {
                        !detach(network, &guests[**index], &results[**index], **death)
                    });
                    left.map(|(index, _)| &guests[*index]).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let killed = deaths.iter().flatten().count();
    println!(
        "{count} DELs in {:?}: {killed} killed half-way, {} of them left to GC",
        begin.elapsed(),
        left_to_gc.len()
    );
    assert!(killed > count / 6, "{killed} of {count} were killed");
    // The lab's own pods are in use.
    let own = |name: &str| {
        let pod = lab.state().pod("default", name).unwrap();
        Attachment::of_pod("default", name, &pod.interface, netns::path(&pod.netns))
    };
    // Who is left to GC is no pod any more: a kubelet would have told the runtime.
    for guest in &left_to_gc {
        lab.kubernetes().delete(&pod_key(&guest.name)).unwrap();
    }
    let left_to_gc: BTreeSet<_> = left_to_gc.iter().map(|guest| handle_of(guest)).collect();
    network.gc(&[own("peer"), own("far")], &stop()).unwrap();
    // Who dies between DEL's two last writes leaves a handle that counts what no block gives. Controllers, which are not here, count it anew.
    let given: BTreeSet<_> = traces(&lab, node).allocations.into_values().collect();
    for handle in lab.kubernetes().list(Kind::IPAMHandle) {
        let id = text(&handle["spec"]["handleID"]);
        if left_to_gc.contains(&id) && !given.contains(&id) {
            let key = ObjectKey::new(Kind::IPAMHandle, None, &text(&handle["metadata"]["name"]));
            lab.kubernetes().delete(&key).unwrap();
        }
    }
    drop(guests);
    assert_traceless(&lab, node, &before);
    assert!(answers(&far, &peer, 7002), "who was there before must still be reached");
}

fn handle_of(guest: &Guest) -> String {
    format!("k8s-pod-network.{}", guest.attachment.container)
}

/// DEL, perhaps killed half-way and done again; whether it was done to its end.
fn detach(network: &Network, guest: &Guest, result: &Value, death: Option<(Duration, bool)>) -> bool {
    if let Some((after, comes_again)) = death {
        let plugin = &network.list["plugins"][0];
        let mut running = network.start(plugin, "DEL", Some(&guest.attachment), result).unwrap();
        thread::sleep(after);
        running.kill();
        // It may have been quicker, and a runtime does not know.
        let _ = running.finish("DEL");
        if !comes_again {
            return false;
        }
    }
    network.del(&guest.attachment, result, &stop()).unwrap_or_else(|error| panic!("{}: {error}", guest.name));
    // As often as a runtime likes.
    network.del(&guest.attachment, result, &stop()).unwrap_or_else(|error| panic!("{}: {error}", guest.name));
    true
}

#[test]
fn policy_is_in_force_before_a_pod_is_said_to_be_attached() {
    let from_peer = json!([{"from": [{"podSelector": {"matchLabels": {"app": "peer"}}}]}]);
    let no_egress = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "mute", "namespace": "default"},
        "spec": {"podSelector": {"matchLabels": {"app": "mute"}}, "policyTypes": ["Egress"]},
    });
    let plan = Plan::pods(&[("peer", "node1"), ("far", "node2")])
        .object(isolate("closed", "closed"))
        .object(ingress("open", "open", from_peer))
        .object(no_egress);
    let lab = Lab::up("cni-policy", &plan);
    let (peer, network) = (lab.pod("peer"), pod_network(lab.state(), "node1"));
    let heard = peer.udp(7010);
    for round in 0..rounds(8, 200) {
        let guest = |app: &str| {
            let mut object = pod(&format!("{app}-{round}"), "node1");
            object["metadata"]["labels"]["app"] = json!(app);
            Guest::like(&lab, object)
        };
        let (closed, open, mute) = (guest("closed"), guest("open"), guest("mute"));
        let add = |guest: &Guest| guest.place(&network.add(&guest.attachment, &stop()).unwrap());

        let at = add(&closed);
        // Bound before anything is sent; asked from the first instant on.
        let (server, client) = (at.udp(7001), peer.udp(0));
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(100) {
            client.send_to(b"?", at.at(7001)).unwrap();
        }
        assert!(server.recv(&mut [0; 8]).is_err(), "round {round}: a packet passed that policy denies");

        let at = add(&open);
        let (server, client) = (at.udp(7001), peer.udp(0));
        let start = Instant::now();
        client.send_to(b"?", at.at(7001)).unwrap();
        while server.recv(&mut [0; 8]).is_err() {
            assert!(start.elapsed() < PATIENCE, "round {round}: nothing arrives where policy allows it");
            client.send_to(b"?", at.at(7001)).unwrap();
        }
        println!("round {round}: first packet {:?} after ADD", start.elapsed());

        // It speaks before it has a network, and all the time that it is being given one.
        let silent = Place { netns: at.netns.clone(), address: Ipv4Addr::UNSPECIFIED.into() };
        let silent =
            Place { netns: mute.attachment.netns.file_name().unwrap().to_str().unwrap().into(), ..silent };
        let socket = silent.udp(0);
        thread::scope(|scope| {
            let adding = scope.spawn(|| add(&mute));
            while !adding.is_finished() {
                // No network yet, which is what it says.
                let _ = socket.send_to(b"!", peer.at(7010));
            }
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(50) {
                let _ = socket.send_to(b"!", peer.at(7010));
            }
        });
        assert!(heard.recv(&mut [0; 8]).is_err(), "round {round}: a pod was heard that may not speak");
        for guest in [&closed, &open, &mute] {
            network.del(&guest.attachment, &Value::Null, &stop()).unwrap();
        }
    }
    assert!(lab.dropped("node1", "policy-deny") > 0);
}

#[test]
fn without_an_agent_nothing_is_attached_and_nothing_is_left() {
    let lab = Lab::up("cni-no-agent", &Plan::pods(&[("peer", "node1")]));
    let network = pod_network(lab.state(), "node1");
    let before = traces(&lab, "node1");
    network.status(&stop()).unwrap();
    let guest = Guest::of(&lab, "node1", "guest");
    let agent = lab.process("agent-node1").process.unwrap();
    let mut gone = network.clone();
    gone.list["plugins"][0]["node_socket"] = json!(lab.state().directory().join("nobody.sock"));
    agent.signal(Signal::SIGSTOP);
    eventually("the agent stands still", || agent.is_stopped());
    for (what, network) in [("stopped", &network), ("gone", &gone)] {
        assert_eq!(network.add(&guest.attachment, &stop()).unwrap_err().code(), Some(AGAIN), "{what}");
        let told = network.status(&stop()).unwrap_err().code();
        assert!(told.is_some_and(|code| UNAVAILABLE.contains(&code)), "{what}: STATUS says {told:?}");
        assert_eq!(traces(&lab, "node1"), before, "{what}");
        let devices =
            netns::within(&guest.attachment.netns, || fs::read_to_string("/proc/thread-self/net/dev"));
        assert!(!devices.unwrap().unwrap().contains("eth0"), "{what}: the pod has been given an interface");
        // What is not attached can be detached.
        network.del(&guest.attachment, &Value::Null, &stop()).unwrap();
    }
    agent.signal(Signal::SIGCONT);
    eventually("the agent is back and attaches", || network.add(&guest.attachment, &stop()).is_ok());
    network.del(&guest.attachment, &Value::Null, &stop()).unwrap();
    assert_traceless(&lab, "node1", &before);
    assert!(lab.process("fastpath-node1").process.is_some_and(Process::is_alive));
}

#[test]
fn a_pod_whose_sandbox_is_replaced_keeps_the_new_one_when_the_old_one_goes() {
    let lab = Lab::up("cni-again", &Plan::pods(&[("peer", "node1")]));
    let (peer, network) = (lab.pod("peer"), pod_network(lab.state(), "node1"));
    let before = traces(&lab, "node1");
    let guest = Guest::of(&lab, "node1", "guest");
    let old = guest.place(&network.add(&guest.attachment, &stop()).unwrap());
    assert!(answers(&peer, &old, 7001));
    let netns = netns::path(&format!("crt{}-{}-again", process::id(), lab.name()));
    netns::create(&netns).unwrap();
    let again = Guest {
        name: guest.name.clone(),
        attachment: Attachment::of_pod("default", &guest.name, "sandbox-again", netns),
    };
    let new = again.place(&network.add(&again.attachment, &stop()).unwrap());
    assert_ne!(new.address, old.address);
    network.del(&guest.attachment, &Value::Null, &stop()).unwrap();
    assert!(answers(&peer, &new, 7001), "the old sandbox has taken the new one's network away");
    let now = traces(&lab, "node1");
    assert!(!now.allocations.contains_key(&old.address), "{:?}", now.allocations);
    network.del(&again.attachment, &Value::Null, &stop()).unwrap();
    assert_traceless(&lab, "node1", &before);
}

#[test]
fn other_plugins_do_their_part_after_ours() {
    assert!(
        PathBuf::from(DEBIANS).join("portmap").is_file(),
        "{DEBIANS}/portmap is not there: apt-get install containernetworking-plugins iptables"
    );
    let lab = Lab::up("cni-chain", &Plan::pods(&[("peer", "node2")]));
    let before = traces(&lab, "node1");
    let mut network = pod_network(lab.state(), "node1");
    network.path.push(DEBIANS.into());
    // What the newest of Debian's speaks.
    network.list["cniVersion"] = json!("1.0.0");
    let plugins = network.list["plugins"].as_array_mut().unwrap();
    plugins.push(json!({"type": "portmap", "snat": true, "capabilities": {"portMappings": true}}));
    plugins.push(json!({"type": "bandwidth", "capabilities": {"bandwidth": true}}));
    // A runtime tells the bandwidth plugin what these annotations say; we read them ourselves.
    let limits = json!({
        "kubernetes.io/ingress-bandwidth": "20M", "qos.projectcalico.org/ingressBurst": "1M",
        "kubernetes.io/egress-bandwidth": "20M", "qos.projectcalico.org/egressBurst": "1M",
    });
    let mut guest = Guest::like(&lab, annotated(pod("guest", "node1"), limits));
    let capabilities = json!({
        "portMappings": [{"hostPort": 8080, "containerPort": 7001, "protocol": "udp"}],
        "bandwidth": {"ingressRate": 20_000_000, "ingressBurst": 20_000_000, "egressRate": 20_000_000, "egressBurst": 20_000_000},
    });
    guest.attachment.capabilities = capabilities.as_object().unwrap().clone();
    let result = network.add(&guest.attachment, &stop()).unwrap();
    let place = guest.place(&result);
    // Debian's portmap also looks for chains of IPv6 where it has made none.
    let mut checked = network.clone();
    checked.list["plugins"].as_array_mut().unwrap().retain(|plugin| plugin["type"] != "portmap");
    checked.check(&guest.attachment, &result, &stop()).unwrap();

    let (server, client) = (place.udp(7001), lab.outside(Ipv4Addr::new(203, 0, 113, 7)).udp(0));
    let asked = lab.node("node1").at(8080);
    client.connect(asked).unwrap();
    eventually("the host's port answers for the pod", || {
        client.send(b"?").unwrap();
        let mut buffer = [0; 8];
        let Ok((_, from)) = server.recv_from(&mut buffer) else { return false };
        server.send_to(b"!", from).unwrap();
        client.recv(&mut buffer).is_ok()
    });
    let arrived = transfer(&lab.pod("peer"), &place, 7002, 8 << 20);
    let left = transfer(&place, &lab.pod("peer"), 7003, 8 << 20);
    println!("limits of 20 Mbit/s: {arrived:.1} arrive, {left:.1} leave");
    assert!(arrived < 40.0 && left < 40.0, "{arrived:.1}, {left:.1} Mbit/s");

    network.del(&guest.attachment, &result, &stop()).unwrap();
    assert_traceless(&lab, "node1", &before);
    let rules = lab.exec("node/node1", &["iptables-save"]);
    let rules = crate::machine::stdout(&rules);
    assert!(!rules.contains("8080"), "{rules}");
}

#[test]
fn a_network_of_another_pool_gives_addresses_of_it() {
    let plan = Plan::pods(&[("peer", "node1")])
        .object(pool("usual", "10.244.0.0/16", json!({"vxlanMode": "Always", "natOutgoing": true})))
        .object(pool(
            "other",
            "10.50.0.0/24",
            json!({"vxlanMode": "Always", "blockSize": 29, "nodeSelector": "!all()"}),
        ));
    let lab = Lab::up("cni-pools", &plan);
    let network = pod_network(lab.state(), "node1");
    let named = json!({"cni.projectcalico.org/ipv4pools": "[\"other\"]"});
    let guest = Guest::like(&lab, annotated(pod("guest", "node1"), named));
    let place = guest.place(&network.add(&guest.attachment, &stop()).unwrap());
    assert!(place.address.to_string().starts_with("10.50.0."), "{}", place.address);
    assert!(answers(&lab.pod("peer"), &place, 7001));
    network.del(&guest.attachment, &Value::Null, &stop()).unwrap();
    assert_eq!(
        lab.kubernetes().get(&pod_key("guest")).unwrap().unwrap()["metadata"]["annotations"]["cni.projectcalico.org/podIP"],
        ""
    );
}

#[test]
fn nodes_that_start_from_nothing_find_what_they_are_and_their_pods_talk() {
    let plan = Plan::pods(&[("a", "node1"), ("b", "node1"), ("c", "node2")])
        .object(pool("pods", "10.60.0.0/16", json!({"vxlanMode": "Always", "natOutgoing": true})))
        .option("startup", json!(true));
    let lab = Lab::up("cni-nothing", &plan);
    let nodes = lab.kubernetes().list(Kind::Node);
    for node in &nodes {
        let own = lab.node(node["metadata"]["name"].as_str().unwrap());
        let annotation =
            |name: &str| text(&node["metadata"]["annotations"][format!("projectcalico.org/{name}")]);
        assert_eq!(annotation("IPv4Address"), format!("{}/24", own.address), "{node}");
        assert!(annotation("IPv4VXLANTunnelAddr").starts_with("10.60."), "{node}");
        assert!(node["spec"]["podCIDR"].is_null(), "{node}");
    }
    let given = traces(&lab, "node1").allocations;
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.pod(name));
    for (name, place) in [("a", &a), ("b", &b), ("c", &c)] {
        let handle = format!("k8s-pod-network.{}", lab.interface(name));
        assert_eq!(given.get(&place.address), Some(&handle), "{given:?}");
    }
    let tunnels = given.values().filter(|handle| handle.starts_with("vxlan-tunnel-addr-")).count();
    assert_eq!((nodes.len(), tunnels, given.len()), (2, 2, 5), "{given:?}");
    let outside = lab.outside(Ipv4Addr::new(203, 0, 113, 7));
    for (from, to) in [
        (&a, &b),
        (&b, &a),
        (&a, &c),
        (&c, &b),
        (&lab.node("node1"), &a),
        (&lab.node("node2"), &a),
        (&c, &outside),
    ] {
        assert!(answers(from, to, 7001), "{} does not reach {}", from.address, to.address);
    }
    // And who asks by name need not know what they were given.
    let tried = caracal(&["lab", "try", "--name", lab.name(), "default/a", "default/c", "ICMP"]);
    assert!(tried.status.success() && stdout(&tried).starts_with("allow"), "{}", stdout(&tried));
}
