//! What is collected, when, and what is not.

#![allow(clippy::unwrap_used, clippy::panic, reason = "the helpers of tests fail by panicking")]

mod common;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use caracal_ipam::gc::{Action, Collector, Pod, Snapshot, perform};
use caracal_ipam::{
    Affinity, AffinityState, Attributes, Block, Handle, Key, Nanoseconds, Owner, Record, Store, Tunnel, World,
};
use caracal_model::cidr::Cidr;
use common::{Memory, run};

const GRACE: Duration = Duration::from_secs(900);
const START: Nanoseconds = Nanoseconds(1_767_225_600_000_000_000);

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn attributes(handle: &str, owner: &[(&str, &str)]) -> Attributes {
    Attributes {
        handle: Some(handle.into()),
        owner: owner.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect(),
        ..Attributes::default()
    }
}

fn of_pod(pod: &str, node: &str) -> Attributes {
    attributes(&format!("net.{pod}"), &[("pod", pod), ("namespace", "shop"), ("node", node)])
}

/// A cluster, and one who collects in it.
struct Cluster {
    store: Memory,
    snapshot: Snapshot,
    collector: Collector,
    begin: Instant,
}

impl Cluster {
    fn new(nodes: &[&str]) -> Self {
        let nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
        let snapshot = Snapshot { nodes, ..Snapshot::default() };
        Self { store: Memory::default(), snapshot, collector: Collector::new(), begin: Instant::now() }
    }

    fn put(&self, record: Record) {
        run(self.store.swap(&record.key(), None, Some(record))).unwrap();
    }

    /// A block of a node with these addresses given, all its handles, and its affinity.
    fn block(&self, node: &str, range: &str, given: &[Attributes]) {
        let owner = Owner::Host(node.into());
        let mut block = Block::new(cidr(range), Some(owner.clone()), false, START).unwrap();
        for attributes in given {
            block.take(1, attributes, |_| false);
            block.count_write();
            let id = attributes.handle.clone().unwrap();
            self.put(Record::Handle(Handle { id, blocks: [(cidr(range), 1)].into() }));
        }
        self.put(Record::Block(block));
        self.put(Record::Affinity(Affinity { owner, cidr: cidr(range), state: AffinityState::Confirmed }));
    }

    fn pod(&mut self, name: &str, node: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|text| ip(text)).collect();
        let pod = Pod { node: node.into(), addresses, awaits: false };
        self.snapshot.pods.insert(("shop".into(), name.into()), pod);
    }

    fn look(&mut self, seconds: u64, grace: Option<Duration>) -> Vec<Action> {
        self.snapshot.records = self.store.things();
        self.collector.look(self.begin + Duration::from_secs(seconds), grace, &self.snapshot).actions
    }

    /// Looks, and does what is found; how many actions were not void.
    fn collect(&mut self, seconds: u64) -> usize {
        let actions = self.look(seconds, Some(GRACE));
        let done = |action: &&Action| run(perform(&self.store, &World::default(), action, START)).unwrap();
        actions.iter().filter(done).count()
    }

    fn given(&self) -> Vec<IpAddr> {
        let blocks = self.store.blocks_now();
        blocks
            .iter()
            .flat_map(|block| block.given().map(|(address, _)| address).collect::<Vec<_>>())
            .collect()
    }
}

#[test]
fn an_address_whose_pod_is_gone_comes_back_after_the_grace_period() {
    let mut cluster = Cluster::new(&["n1"]);
    cluster.block("n1", "10.0.0.0/30", &[of_pod("a", "n1"), of_pod("b", "n1")]);
    cluster.pod("b", "n1", &["10.0.0.1"]);
    assert_eq!(cluster.collect(0), 0);
    assert_eq!(cluster.collector.leaks().collect::<Vec<_>>(), [(ip("10.0.0.0"), Some("n1"))]);
    assert_eq!(cluster.collect(899), 0);
    assert_eq!(cluster.collect(900), 1);
    assert_eq!(cluster.given(), [ip("10.0.0.1")]);
    assert_eq!(cluster.store.things().iter().filter(|thing| matches!(thing, Record::Handle(_))).count(), 1);
    assert_eq!(cluster.collect(5000), 0);
}

#[test]
fn a_pod_that_comes_back_in_time_keeps_its_address_and_starts_the_period_over() {
    let mut cluster = Cluster::new(&["n1"]);
    cluster.block("n1", "10.0.0.0/30", &[of_pod("a", "n1")]);
    assert_eq!(cluster.look(0, Some(GRACE)), []);
    cluster.pod("a", "n1", &["10.0.0.0"]);
    assert_eq!(cluster.look(500, Some(GRACE)), []);
    cluster.snapshot.pods.clear();
    assert_eq!(cluster.look(1000, Some(GRACE)), []);
    assert_eq!(cluster.look(1899, Some(GRACE)), []);
    assert_eq!(cluster.look(1900, Some(GRACE)).len(), 1);
}

#[test]
fn a_pod_with_other_addresses_or_on_another_node_does_not_have_this_one() {
    let mut cluster = Cluster::new(&["n1", "n2"]);
    cluster.block("n1", "10.0.0.0/30", &[of_pod("a", "n1"), of_pod("b", "n1"), of_pod("c", "n1")]);
    cluster.pod("a", "n1", &["10.0.0.3"]);
    cluster.pod("b", "n2", &["10.0.0.1"]);
    cluster.pod("c", "n1", &["10.0.0.2"]);
    cluster.look(0, Some(GRACE));
    assert_eq!(cluster.collect(900), 2);
    assert_eq!(cluster.given(), [ip("10.0.0.2")]);
}

#[test]
fn a_pod_that_says_no_addresses_yet_may_have_what_was_given_to_it_on_its_node() {
    let mut cluster = Cluster::new(&["n1", "n2"]);
    cluster.block("n1", "10.0.0.0/30", &[of_pod("a", "n1"), of_pod("b", "n1"), of_pod("c", "n1")]);
    for (name, node, awaits) in [("a", "n1", true), ("b", "n2", true), ("c", "n1", false)] {
        cluster.pod(name, node, &[]);
        cluster.snapshot.pods.get_mut(&("shop".into(), name.into())).unwrap().awaits = awaits;
    }
    cluster.look(0, Some(GRACE));
    assert_eq!(cluster.collect(900), 2);
    assert_eq!(cluster.given(), [ip("10.0.0.0")]);
}

#[test]
fn without_a_grace_period_addresses_of_nodes_that_are_there_stay() {
    let mut cluster = Cluster::new(&["n1"]);
    cluster.block("n1", "10.0.0.0/30", &[of_pod("a", "n1"), of_pod("b", "n2")]);
    cluster.look(0, None);
    let actions = cluster.look(1_000_000, None);
    assert!(
        matches!(actions.as_slice(), [Action::ReleaseAddress { address, .. }] if *address == ip("10.0.0.1"))
    );
}

#[test]
fn what_a_node_that_is_gone_has_left_goes_soon_and_its_tunnels_last() {
    let mut cluster = Cluster::new(&["n1"]);
    let tunnel = |node: &str| {
        let kind = Tunnel::VxlanV4;
        attributes(&kind.handle(node), &[("node", node), ("type", kind.attribute())])
    };
    cluster.block("n1", "10.0.0.0/30", &[tunnel("n1")]);
    cluster.block("n2", "10.0.0.4/30", &[tunnel("n2"), of_pod("a", "n2"), of_pod("b", "n2")]);
    // Its pod is still there: so is the node, as far as addresses go.
    cluster.pod("b", "n2", &["10.0.0.6"]);
    assert_eq!(cluster.collect(0), 0, "never at the first look");
    assert_eq!(cluster.collect(5), 1);
    assert_eq!(cluster.given(), [ip("10.0.0.0"), ip("10.0.0.4"), ip("10.0.0.6")]);
    cluster.snapshot.pods.clear();
    assert_eq!(cluster.collect(10), 0);
    // The pod's address, the tunnel's, and the affinity.
    assert_eq!(cluster.collect(15), 3);
    assert_eq!(cluster.given(), [ip("10.0.0.0")]);
    let left =
        [Key::Block(cidr("10.0.0.0/30")), Key::Affinity(Owner::Host("n1".into()), cidr("10.0.0.0/30"))];
    let left = left.into_iter().chain([Key::Handle(Tunnel::VxlanV4.handle("n1"))]);
    assert_eq!(cluster.store.things().iter().map(Record::key).collect::<Vec<_>>(), left.collect::<Vec<_>>());
}

#[test]
fn a_list_without_any_node_is_not_believed() {
    let mut cluster = Cluster::new(&[]);
    cluster.block("n1", "10.0.0.0/30", &[of_pod("a", "n1")]);
    cluster.look(0, None);
    assert_eq!(cluster.look(100_000, None), []);
}

#[test]
fn addresses_without_a_pod_are_somebody_elses_business() {
    let mut cluster = Cluster::new(&["n1"]);
    cluster.block(
        "n1",
        "10.0.0.0/30",
        &[attributes("by-hand", &[]), attributes("service", &[("namespace", "shop")])],
    );
    cluster.look(0, Some(GRACE));
    assert_eq!(cluster.look(10_000, Some(GRACE)), []);
}

#[test]
fn a_virtual_machine_is_given_time_to_move() {
    let mut cluster = Cluster::new(&["n1"]);
    let mut machine = of_pod("launcher", "n2");
    machine.owner.insert("vmi-name".into(), "db".into());
    cluster.block("n1", "10.0.0.0/30", &[machine]);
    cluster.look(0, Some(GRACE));
    assert_eq!(cluster.look(299, Some(GRACE)), []);
    assert_eq!(cluster.look(300, Some(GRACE)).len(), 1);
}

#[test]
fn handles_come_to_count_what_blocks_give() {
    let mut cluster = Cluster::new(&["n1"]);
    cluster.block("n1", "10.0.0.0/29", &[of_pod("a", "n1"), of_pod("b", "n1"), of_pod("c", "n1")]);
    for (pod, address) in [("a", "10.0.0.0"), ("b", "10.0.0.1"), ("c", "10.0.0.2")] {
        cluster.pod(pod, "n1", &[address]);
    }
    // One counts too many, one is missing, one counts nothing that there is.
    for (id, blocks) in [("net.a", vec![("10.0.0.0/29", 1), ("10.0.0.8/29", 2)]), ("net.b", vec![])] {
        let key = Key::Handle(id.into());
        let (_, revision) = run(cluster.store.get(&key)).unwrap().unwrap();
        let blocks: std::collections::BTreeMap<Cidr, u64> =
            blocks.into_iter().map(|(range, count)| (cidr(range), count)).collect();
        let new = (!blocks.is_empty()).then(|| Record::Handle(Handle { id: id.into(), blocks }));
        run(cluster.store.swap(&key, Some(revision), new)).unwrap();
    }
    cluster.put(Record::Handle(Handle { id: "net.gone".into(), blocks: [(cidr("10.0.0.0/29"), 1)].into() }));
    assert_eq!(cluster.collect(0), 0);
    assert_eq!(cluster.collect(899), 0);
    assert_eq!(cluster.collect(900), 3);
    let handles: Vec<_> = cluster
        .store
        .things()
        .into_iter()
        .filter_map(|thing| match thing {
            Record::Handle(handle) => Some((handle.id, handle.blocks.into_values().collect::<Vec<_>>())),
            _ => None,
        })
        .collect();
    assert_eq!(handles, ["net.a", "net.b", "net.c"].map(|id| (id.to_owned(), vec![1])));
}

#[test]
fn a_handle_of_addresses_in_a_block_that_cannot_be_read_stays() {
    let mut cluster = Cluster::new(&["n1"]);
    cluster.block("n1", "10.0.0.0/30", &[of_pod("a", "n1")]);
    cluster.pod("a", "n1", &["10.0.0.0"]);
    cluster.store.make_unreadable(Some(cidr("10.0.0.0/30")));
    let records: Vec<Record> = run(cluster.store.everything()).unwrap();
    cluster.snapshot.records =
        records.into_iter().filter(|record| !matches!(record, Record::Block(_))).collect();
    let mut actions = Vec::new();
    for seconds in [0, 900] {
        let now = cluster.begin + Duration::from_secs(seconds);
        actions = cluster.collector.look(now, Some(GRACE), &cluster.snapshot).actions;
    }
    assert_eq!(actions.len(), 2, "the handle, and the claim: {actions:?}");
    for action in &actions {
        assert!(run(perform(&cluster.store, &World::default(), action, START)).is_err(), "{action:?}");
    }
    assert_eq!(cluster.store.things().len(), 3);
}

#[test]
fn a_handle_that_changes_meanwhile_is_left_alone() {
    let mut cluster = Cluster::new(&["n1"]);
    cluster.put(Record::Handle(Handle { id: "h".into(), blocks: [(cidr("10.0.0.0/29"), 1)].into() }));
    cluster.look(0, Some(GRACE));
    let actions = cluster.look(900, Some(GRACE));
    let [action] = actions.as_slice() else { panic!("{actions:?}") };
    let key = Key::Handle("h".into());
    let (_, revision) = run(cluster.store.get(&key)).unwrap().unwrap();
    let new = Record::Handle(Handle { id: "h".into(), blocks: [(cidr("10.0.0.0/29"), 2)].into() });
    run(cluster.store.swap(&key, Some(revision), Some(new))).unwrap();
    assert!(!run(perform(&cluster.store, &World::default(), action, START)).unwrap());
    // What it is now is another thing, with a period of its own.
    assert_eq!(cluster.look(901, Some(GRACE)), []);
}

#[test]
fn claims_that_their_makers_left_half_way_are_brought_to_an_end() {
    let mut cluster = Cluster::new(&["n1"]);
    let owner = Owner::Host("n1".into());
    let block =
        |range: &str| Record::Block(Block::new(cidr(range), Some(owner.clone()), false, START).unwrap());
    let affinity =
        |range: &str, state| Record::Affinity(Affinity { owner: owner.clone(), cidr: cidr(range), state });
    // Pending with a block; pending without; given up, the block gone; a block in use that says its owner alone.
    for record in [
        block("10.0.0.0/30"),
        affinity("10.0.0.0/30", AffinityState::Pending),
        affinity("10.0.0.4/30", AffinityState::Pending),
        affinity("10.0.0.8/30", AffinityState::PendingDeletion),
    ] {
        cluster.put(record);
    }
    let mut used = Block::new(cidr("10.0.0.12/30"), Some(owner.clone()), false, START).unwrap();
    used.take(1, &attributes("by-hand", &[]), |_| false);
    cluster.put(Record::Block(used));
    cluster.put(Record::Handle(Handle { id: "by-hand".into(), blocks: [(cidr("10.0.0.12/30"), 1)].into() }));
    // And one that nobody owns or uses.
    cluster.put(Record::Block(Block::new(cidr("10.0.0.16/30"), None, false, START).unwrap()));
    assert_eq!(cluster.collect(0), 0);
    assert_eq!(cluster.collect(900), 5);
    let expected = ["10.0.0.0/30", "10.0.0.12/30"];
    let claims: Vec<_> = cluster
        .store
        .things()
        .into_iter()
        .filter_map(|thing| match thing {
            Record::Affinity(affinity) => Some((affinity.cidr, affinity.state)),
            _ => None,
        })
        .collect();
    assert_eq!(claims, expected.map(|range| (cidr(range), AffinityState::Confirmed)));
    assert_eq!(cluster.store.blocks_now().iter().map(Block::cidr).collect::<Vec<_>>(), expected.map(cidr));
}

#[test]
fn a_node_keeps_one_empty_block_of_each_family() {
    let mut cluster = Cluster::new(&["n1", "n2"]);
    for range in ["10.0.0.0/30", "10.0.0.4/30", "fd00::/126"] {
        cluster.block("n1", range, &[]);
    }
    cluster.block("n2", "10.0.0.8/30", &[]);
    cluster.block("n2", "10.0.0.12/30", &[of_pod("a", "n2")]);
    cluster.pod("a", "n2", &["10.0.0.12"]);
    assert_eq!(cluster.collect(0), 0);
    assert_eq!(cluster.collect(900), 2);
    assert_eq!(cluster.collect(9000), 0);
    let left = cluster.store.blocks_now().iter().map(|block| block.cidr().to_string()).collect::<Vec<_>>();
    assert_eq!(left, ["10.0.0.4/30", "10.0.0.12/30", "fd00::/126"]);
}

#[test]
fn a_block_that_was_used_meanwhile_has_not_been_empty_for_so_long() {
    let mut cluster = Cluster::new(&["n1"]);
    cluster.block("n1", "10.0.0.0/30", &[]);
    cluster.block("n1", "10.0.0.4/30", &[]);
    cluster.look(0, Some(GRACE));
    let key = Key::Block(cidr("10.0.0.0/30"));
    let (record, revision) = run(cluster.store.get(&key)).unwrap().unwrap();
    let Record::Block(mut block) = record else { unreachable!() };
    block.count_write();
    run(cluster.store.swap(&key, Some(revision), Some(Record::Block(block)))).unwrap();
    assert_eq!(cluster.look(900, Some(GRACE)), []);
    assert_eq!(cluster.look(1800, Some(GRACE)).len(), 1);
}
