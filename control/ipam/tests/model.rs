//! Many nodes on one store, in random order, dying between any two writes, while somebody collects what the dead have left: no
//! address is given twice, none is lost for good.

#![allow(clippy::panic, clippy::unwrap_used, reason = "the helpers of tests fail by panicking")]

mod common;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use caracal_ipam::gc::{self, Collector, Snapshot};
use caracal_ipam::release::Release;
use caracal_ipam::{
    AssignError, Attributes, AutoAssign, Block, Nanoseconds, Owner, Record, Settings, Store, Tunnel, Use,
    World, affinity, assign_address, assign_many, auto_assign_near, ensure_tunnel_address, release_addresses,
    release_by_handle,
};
use caracal_model::cidr::Cidr;
use common::{Memory, consistent, pool, run, step};
use proptest::prelude::*;

const NODES: u8 = 3;
/// No job lives longer: runtimes end the CNI plugin, agents and controllers give up.
const JOB_S: u64 = 90;
/// What stays as it is for so long is nobody's who is still at work.
const GRACE: Duration = Duration::from_secs(JOB_S + 30);

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

/// The `number`th block of all pools together.
fn block_of(number: u8) -> Cidr {
    Cidr::new(cidr("10.0.0.0/27").nth(4 * u32::from(number)).unwrap(), 30).unwrap()
}

/// Two pools of two blocks of four addresses, one of the blocks half reserved. Or the second lies over the first, with blocks of another size.
fn world(settings: Settings, overlapping: bool) -> World {
    let b = if overlapping { pool("b", "10.0.0.0/28", 31) } else { pool("b", "10.0.0.8/29", 30) };
    World {
        pools: vec![pool("a", "10.0.0.0/29", 30), b],
        reservations: vec![cidr("10.0.0.4/31")],
        settings,
        ..World::default()
    }
}

fn name(node: u8) -> String {
    format!("node{node}")
}

fn owner(node: u8) -> Owner {
    Owner::Host(name(node))
}

#[derive(Debug, Clone)]
enum Job {
    /// A pod on a node, with so many addresses; the node thinks that it has this block.
    Assign(u8, usize, Option<u8>),
    /// So many pods on a node at once, which thinks that it has this block.
    AssignMany(u8, usize, Option<u8>),
    /// A pod on a node that wants this address of a block.
    AssignAddress(u8, u8, u32),
    /// The pod of the nth job goes.
    Release(usize),
    /// The same, address by address.
    ReleaseAddresses(usize),
    /// A node sees to its tunnel address.
    Tunnel(u8),
    /// A node gives up its nth block, if it is empty.
    GiveUp(u8, u8),
    /// A node gives up all of its claims.
    GiveUpAll(u8),
    /// Somebody collects.
    Collect,
}

#[derive(Debug, Clone)]
enum Turn {
    Start(Job),
    Poll(prop::sample::Index),
    Die(prop::sample::Index),
    Lie(u64),
    /// Seconds pass.
    Wait(u64),
    /// A pool is disabled, or no longer is.
    Switch(bool),
    /// strictAffinity is turned over.
    Strict,
    /// A node goes with its pods, or comes.
    Leave(u8),
    Join(u8),
}

fn job() -> impl Strategy<Value = Job> {
    prop_oneof![
        8 => (0..NODES, 1..4usize, prop::option::of(0..4u8)).prop_map(|(node, count, near)| Job::Assign(node, count, near)),
        4 => (0..NODES, 1..4usize, prop::option::of(0..4u8)).prop_map(|(node, count, near)| Job::AssignMany(node, count, near)),
        2 => (0..NODES, 0..4u8, 0..4u32).prop_map(|(node, block, at)| Job::AssignAddress(node, block, at)),
        5 => (0..16usize).prop_map(Job::Release),
        3 => (0..16usize).prop_map(Job::ReleaseAddresses),
        3 => (0..NODES).prop_map(Job::Tunnel),
        1 => (0..NODES, 0..4u8).prop_map(|(node, block)| Job::GiveUp(node, block)),
        1 => (0..NODES).prop_map(Job::GiveUpAll),
        3 => Just(Job::Collect),
    ]
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let turn = prop_oneof![
        12 => job().prop_map(Turn::Start),
        100 => any::<prop::sample::Index>().prop_map(Turn::Poll),
        4 => any::<prop::sample::Index>().prop_map(Turn::Die),
        2 => (1..5u64).prop_map(Turn::Lie),
        5 => (1..100u64).prop_map(Turn::Wait),
        1 => any::<bool>().prop_map(Turn::Switch),
        1 => Just(Turn::Strict),
        1 => (0..NODES).prop_map(Turn::Leave),
        1 => (0..NODES).prop_map(Turn::Join),
    ];
    prop::collection::vec(turn, 1..400)
}

fn settings() -> impl Strategy<Value = Settings> {
    (any::<bool>(), prop::sample::select(vec![0, 30]), 0..3u32).prop_map(|(strict, cooldown, blocks)| {
        Settings {
            strict_affinity: strict,
            cooldown_s: cooldown,
            max_blocks_per_host: blocks,
            ..Settings::default()
        }
    })
}

enum Done {
    /// Pods of a node have these, by their handles.
    Given(u8, Vec<(String, Vec<IpAddr>)>),
    /// The node's tunnel has this.
    Tunnel(u8, Option<IpAddr>),
    Nothing,
}

type Running = Pin<Box<dyn Future<Output = Done>>>;

/// By handle: where a pod is, and its addresses.
type Pods = BTreeMap<String, (u8, Vec<IpAddr>)>;

/// What everybody who looks can see.
#[derive(Clone)]
struct Cluster {
    store: Memory,
    world: World,
    /// What pods think that they have, by their handles, and where they are; those whose release has begun no longer do.
    has: Rc<RefCell<Pods>>,
    /// What nodes say that their tunnels have.
    tunnels: Rc<RefCell<BTreeMap<u8, Option<IpAddr>>>>,
    nodes: Rc<RefCell<BTreeSet<u8>>>,
    collector: Rc<RefCell<Collector>>,
    /// When it began.
    begin: Instant,
}

impl Cluster {
    fn new(settings: Settings, overlapping: bool) -> Self {
        Self {
            store: Memory::default(),
            world: world(settings, overlapping),
            has: Rc::default(),
            tunnels: Rc::default(),
            nodes: Rc::new(RefCell::new((0..NODES).collect())),
            collector: Rc::default(),
            begin: Instant::now(),
        }
    }

    fn pods(&self) -> BTreeMap<(String, String), gc::Pod> {
        let pod = |(handle, (node, addresses)): (&String, &(u8, Vec<IpAddr>))| {
            let pod = gc::Pod { node: name(*node), addresses: addresses.clone(), awaits: false };
            (("shop".to_owned(), handle.clone()), pod)
        };
        self.has.borrow().iter().map(pod).collect()
    }

    async fn collect(&self, now: Nanoseconds) {
        let Ok(records) = self.store.everything().await else { return };
        let snapshot = Snapshot {
            records,
            pods: self.pods(),
            // One that has nothing to do with any of this.
            nodes: self.nodes.borrow().iter().map(|node| name(*node)).chain(["other".to_owned()]).collect(),
        };
        let passed = Duration::from_nanos(now.0 - START.0);
        let found = self.collector.borrow_mut().look(self.begin + passed, Some(GRACE), &snapshot);
        for action in found.actions {
            // What is not done is found again.
            let _ = gc::perform(&self.store, &self.world, &action, now).await;
        }
    }
}

const START: Nanoseconds = Nanoseconds(1_000_000_000_000);

fn pod_attributes(node: u8, handle: &str) -> Attributes {
    let node = name(node);
    let owner = [("node", node.as_str()), ("namespace", "shop"), ("pod", handle)];
    Attributes {
        handle: Some(handle.to_owned()),
        owner: owner.map(|(key, text)| (key.to_owned(), text.to_owned())).into(),
        ..Attributes::default()
    }
}

fn start(job: Job, number: usize, cluster: &Cluster, now: Nanoseconds) -> Running {
    let cluster = cluster.clone();
    match job {
        Job::Assign(node, count, near) => Box::pin(async move {
            let (store, world) = (&cluster.store, &cluster.world);
            let handle = format!("pod{number}");
            let wanted = AutoAssign {
                v4: count,
                v6: 0,
                attributes: pod_attributes(node, &handle),
                owner: owner(node),
                pools: vec![],
                usage: Use::Workload,
                max_blocks: 0,
            };
            let near: Vec<Cidr> = near.map(block_of).into_iter().collect();
            match auto_assign_near(store, world, &wanted, &near, now).await {
                Ok((given, none)) => {
                    assert!(none.addresses.is_empty());
                    assert_eq!(given.short.is_none(), given.addresses.len() == count);
                    let addresses = given.addresses.into_iter().map(|(address, _)| address).collect();
                    Done::Given(node, vec![(handle, addresses)])
                }
                Err(AssignError::NoQualifiedPool { .. }) => panic!("there is a pool"),
                Err(_) => Done::Nothing,
            }
        }),
        Job::AssignMany(node, count, near) => Box::pin(async move {
            let handle = |nth| if nth == 0 { format!("pod{number}") } else { format!("pod{number}-{nth}") };
            let each: Vec<Attributes> = (0..count).map(|nth| pod_attributes(node, &handle(nth))).collect();
            let wanted = AutoAssign {
                v4: 1,
                v6: 0,
                attributes: Attributes::default(),
                owner: owner(node),
                pools: vec![],
                usage: Use::Workload,
                max_blocks: 0,
            };
            let near = near.map(block_of);
            let answers = assign_many(&cluster.store, &cluster.world, &wanted, &each, near, now).await;
            assert_eq!(answers.len(), count);
            let given = answers.into_iter().enumerate().filter_map(|(nth, answer)| {
                let addresses = answer.ok()?.addresses.into_iter().map(|(address, _)| address).collect();
                Some((handle(nth), addresses))
            });
            Done::Given(node, given.collect())
        }),
        Job::AssignAddress(node, block, at) => Box::pin(async move {
            let (store, world) = (&cluster.store, &cluster.world);
            let handle = format!("pod{number}");
            let address = block_of(block).nth(at).unwrap();
            let attributes = pod_attributes(node, &handle);
            // Reservations are not looked at: they are for those who do not know what they want.
            if world.is_reserved(address) {
                return Done::Nothing;
            }
            let given =
                assign_address(store, world, address, &attributes, &owner(node), Some(Use::Workload), now)
                    .await;
            if given.is_ok() { Done::Given(node, vec![(handle, vec![address])]) } else { Done::Nothing }
        }),
        Job::Release(of) => Box::pin(async move {
            let _ = release_by_handle(&cluster.store, &cluster.world, &format!("pod{of}"), now).await;
            Done::Nothing
        }),
        Job::ReleaseAddresses(of) => {
            let handle = format!("pod{of}");
            let addresses = cluster.has.borrow().get(&handle).map(|(_, has)| has.clone()).unwrap_or_default();
            Box::pin(async move {
                let release = |address| Release { address, handle: Some(handle.clone()), sequence: None };
                let wanted: Vec<Release> = addresses.into_iter().map(release).collect();
                let _ = release_addresses(&cluster.store, &cluster.world, &wanted, now).await;
                Done::Nothing
            })
        }
        Job::Tunnel(node) => Box::pin(async move {
            let current = cluster.tunnels.borrow().get(&node).copied().flatten();
            let (store, world, kind) = (&cluster.store, &cluster.world, Tunnel::VxlanV4);
            match ensure_tunnel_address(store, world, &name(node), kind, current, now).await {
                Ok(has) => Done::Tunnel(node, has),
                Err(_) => Done::Nothing,
            }
        }),
        Job::GiveUp(node, block) => Box::pin(async move {
            let _ = affinity::release(&cluster.store, &owner(node), block_of(block), true).await;
            Done::Nothing
        }),
        Job::GiveUpAll(node) => Box::pin(async move {
            for block in (0..4).map(block_of) {
                let _ = affinity::release(&cluster.store, &owner(node), block, false).await;
            }
            Done::Nothing
        }),
        Job::Collect => Box::pin(async move {
            cluster.collect(now).await;
            Done::Nothing
        }),
    }
}

/// What holds at every instant.
fn check(store: &Memory, world: &World) {
    let mut of_handle: BTreeMap<(String, Cidr), u64> = BTreeMap::new();
    for block in store.blocks_now() {
        assert_eq!(Block::check(block.cidr(), block.parts()).as_ref(), Ok(&block));
        for (address, attributes) in block.given() {
            assert!(!world.is_reserved(address), "{address} is reserved");
            *of_handle.entry((attributes.handle.clone().unwrap(), block.cidr())).or_default() += 1;
        }
    }
    for ((handle, cidr), count) in of_handle {
        let counted = store.things().into_iter().find_map(|thing| match thing {
            Record::Handle(known) if known.id == handle => known.blocks.get(&cidr).copied(),
            _ => None,
        });
        assert!(counted >= Some(count), "{handle} has {count} of {cidr} and counts {counted:?}");
    }
}

/// Whose job it is, and that of which pod.
fn of_job(job: &Job) -> (Option<u8>, Option<usize>) {
    match job {
        Job::Assign(node, ..)
        | Job::AssignMany(node, ..)
        | Job::AssignAddress(node, ..)
        | Job::Tunnel(node) => (Some(*node), None),
        Job::GiveUp(node, _) | Job::GiveUpAll(node) => (Some(*node), None),
        Job::Release(of) | Job::ReleaseAddresses(of) => (None, Some(*of)),
        Job::Collect => (None, None),
    }
}

struct Started {
    number: usize,
    node: Option<u8>,
    at: Nanoseconds,
    future: Running,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: common::cases(600, 10_000), ..ProptestConfig::default() })]

    #[test]
    fn no_address_is_given_twice_and_none_is_lost_for_good(
        settings in settings(), overlapping in any::<bool>(), turns in turns()
    ) {
        let mut cluster = Cluster::new(settings, overlapping);
        let (store, has) = (cluster.store.clone(), Rc::clone(&cluster.has));
        let mut now = START;
        let mut running: Vec<Started> = Vec::new();
        let mut jobs = 0;
        for turn in turns {
            match turn {
                Turn::Start(job) => {
                    let (node, of) = of_job(&job);
                    // Who is not there does nothing; a pod is not released before it is made.
                    if node.is_some_and(|node| !cluster.nodes.borrow().contains(&node))
                        || of.is_some_and(|of| of >= jobs || running.iter().any(|started| started.number == of))
                    {
                        continue;
                    }
                    let future = start(job, jobs, &cluster, now);
                    if let Some(of) = of {
                        has.borrow_mut().remove(&format!("pod{of}"));
                    }
                    running.push(Started { number: jobs, node, at: now, future });
                    jobs += 1;
                }
                Turn::Poll(which) if !running.is_empty() => {
                    let at = which.index(running.len());
                    if let Some(done) = step(&mut running[at].future) {
                        drop(running.remove(at));
                        match done {
                            Done::Given(node, pods) => for (handle, addresses) in pods {
                                let taken: Vec<IpAddr> = has.borrow().values().flat_map(|(_, has)| has.clone()).collect();
                                for address in &addresses {
                                    prop_assert!(!taken.contains(address), "{address} twice");
                                }
                                has.borrow_mut().insert(handle, (node, addresses));
                            }
                            Done::Tunnel(node, address) => {
                                cluster.tunnels.borrow_mut().insert(node, address);
                            }
                            Done::Nothing => {}
                        }
                    }
                }
                Turn::Die(which) if !running.is_empty() => drop(running.remove(which.index(running.len()))),
                Turn::Lie(writes) => store.lie_in(writes),
                Turn::Wait(seconds) => {
                    now = Nanoseconds(now.0 + seconds * 1_000_000_000);
                    running.retain(|started| now.seconds_since(started.at) < JOB_S);
                }
                Turn::Switch(which) => {
                    let pool = &mut cluster.world.pools[usize::from(which)];
                    pool.disabled = !pool.disabled;
                }
                Turn::Strict => {
                    let strict = &mut cluster.world.settings.strict_affinity;
                    *strict = !*strict;
                }
                Turn::Leave(node) => {
                    cluster.nodes.borrow_mut().remove(&node);
                    running.retain(|started| started.node != Some(node));
                    has.borrow_mut().retain(|_, (of, _)| *of != node);
                    cluster.tunnels.borrow_mut().remove(&node);
                }
                Turn::Join(node) => {
                    cluster.nodes.borrow_mut().insert(node);
                }
                Turn::Poll(_) | Turn::Die(_) => {}
            }
            check(&store, &cluster.world);
            // Who has an address has it in its block, too.
            for (handle, (_, addresses)) in has.borrow().iter() {
                for address in addresses {
                    let blocks = store.blocks_now();
                    let of = blocks.iter().find_map(|block| block.attributes(*address)?.handle.clone());
                    prop_assert_eq!(of.as_ref(), Some(handle), "{} of {}", address, handle);
                }
            }
        }
        // All pods are gone, and everybody but the collector is dead. He needs nothing but what he sees.
        drop(running);
        store.lie_in(0);
        has.borrow_mut().clear();
        let look = |cluster: &Cluster, now: &mut Nanoseconds| {
            for _ in 0..5 {
                now.0 += 2 * GRACE.as_nanos() as u64;
                run(cluster.collect(*now));
            }
        };
        look(&cluster, &mut now);
        consistent(&store);
        let tunnels = store.blocks_now().iter().flat_map(|block| block.given().map(|(_, of)| Tunnel::of(of)).collect::<Vec<_>>()).collect::<Vec<_>>();
        prop_assert!(tunnels.iter().all(Option::is_some), "only tunnels are left: {:?}", tunnels);
        // Who sees to them has one then.
        cluster.world.pools.iter_mut().for_each(|pool| pool.disabled = false);
        for node in cluster.nodes.borrow().iter() {
            let of_node = run(ensure_tunnel_address(&store, &cluster.world, &name(*node), Tunnel::VxlanV4, None, now));
            prop_assert!(of_node.is_ok_and(|address| address.is_some()));
        }
        let tunnels = store.blocks_now().iter().map(|block| block.given().count()).sum::<usize>();
        prop_assert!(tunnels >= cluster.nodes.borrow().len());
        cluster.nodes.borrow_mut().clear();
        look(&cluster, &mut now);
        prop_assert_eq!(store.things(), vec![], "something is left");
    }
}
