//! Two nodes, one block of two addresses, two or three jobs: **every** order of their steps, with a death before every step and a
//! lie about every write. The same where each node has a pool of its own, and the pools overlap.
//!
//! Who dies is not heard of again: whatever orders do without him is among those that are followed, and after every step of each
//! all may be dead. Futures cannot be copied, so each order is run from the beginning. Two orders after which the store holds the
//! same, and every job has been told the same, go on the same way: only one of them is followed.

#![allow(clippy::panic, clippy::unwrap_used, reason = "the helpers of tests fail by panicking")]

mod common;

use std::cell::Cell;
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::future::Future;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use caracal_ipam::gc::{self, Collector, Snapshot};
use caracal_ipam::{
    Affinity, Attributes, AutoAssign, Block, Key, Nanoseconds, Owner, Record, Settings, Store, StoreError,
    Tunnel, Use, World, WriteError, affinity, assign_address, auto_assign, ensure_tunnel_address,
    release_by_handle,
};
use caracal_model::cidr::Cidr;
use common::{Memory, consistent, pool, run, step};

const NOW: Nanoseconds = Nanoseconds(1_000_000_000_000);
const NODES: [&str; 2] = ["n1", "n2"];

fn block() -> Cidr {
    "10.0.0.0/31".parse().unwrap()
}

/// Which pools there are.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Pools {
    /// One for both nodes, of the one block.
    One,
    /// One for each node, of the same addresses: the first's in one block, the second's in a block for each.
    Overlapping,
}

impl Pools {
    /// What a node sees.
    fn world(self, node: usize, strict: bool) -> World {
        let block_length = if self == Pools::Overlapping && node == 1 { 32 } else { 31 };
        let pool = pool("pods", "10.0.0.0/31", block_length);
        let settings = Settings { strict_affinity: strict, ..Settings::default() };
        World { pools: vec![pool], settings, ..World::default() }
    }
}

/// A store that remembers what its one user has been told.
struct Watched {
    store: Memory,
    told: Rc<Cell<u64>>,
}

impl Watched {
    fn tell<T: std::fmt::Debug>(&self, what: T) -> T {
        let mut hash = DefaultHasher::new();
        (self.told.get(), format!("{what:?}")).hash(&mut hash);
        self.told.set(hash.finish());
        what
    }
}

impl Store for Watched {
    type Revision = u64;

    async fn get(&self, key: &Key) -> Result<Option<(Record, u64)>, StoreError> {
        let what = self.store.get(key).await;
        self.tell(what)
    }

    async fn affinities(&self, owner: &Owner) -> Result<Vec<(Affinity, u64)>, StoreError> {
        let what = self.store.affinities(owner).await;
        self.tell(what)
    }

    async fn blocks(&self) -> Result<Vec<(Block, u64)>, StoreError> {
        let what = self.store.blocks().await;
        // Which version each is nobody looks at.
        let blocks =
            |what: &Vec<(Block, u64)>| what.iter().map(|(block, _)| block.clone()).collect::<Vec<_>>();
        drop(self.tell(what.as_ref().map(blocks)));
        what
    }

    async fn overlapping(&self, cidr: Cidr) -> Result<Vec<Cidr>, StoreError> {
        let what = self.store.overlapping(cidr).await;
        self.tell(what)
    }

    async fn everything(&self) -> Result<Vec<Record>, StoreError> {
        let what = self.store.everything().await;
        self.tell(what)
    }

    async fn swap(&self, key: &Key, expected: Option<u64>, new: Option<Record>) -> Result<(), WriteError> {
        let what = self.store.swap(key, expected, new).await;
        self.tell(what)
    }
}

#[derive(Debug, Clone, Copy)]
enum Job {
    /// A pod of a node.
    Assign(usize),
    /// A pod of a node that wants the block's first address.
    AssignFirst(usize),
    /// The pod that was there before goes.
    ReleaseFormer,
    /// A node sees to its tunnel.
    Tunnel(usize),
    /// A node gives the block up, if it is empty.
    GiveUp(usize),
    /// A node goes.
    GiveUpAll(usize),
}

impl Job {
    /// Whose it is.
    fn node(self) -> usize {
        match self {
            Job::Assign(node)
            | Job::AssignFirst(node)
            | Job::Tunnel(node)
            | Job::GiveUp(node)
            | Job::GiveUpAll(node) => node,
            Job::ReleaseFormer => 0,
        }
    }
}

/// What was there before.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Former {
    Nothing,
    /// The first node has the block, and a pod there an address.
    Pod,
    /// The first node has had the block for long, and uses none of it.
    EmptyBlock,
    /// The first node's tunnel has an address.
    Tunnel,
}

#[derive(Debug, Clone, PartialEq)]
enum Done {
    Given(String, Vec<IpAddr>),
    Nothing,
}

fn pod(node: usize, handle: &str) -> AutoAssign {
    let owner = [("node", NODES[node]), ("namespace", "shop"), ("pod", handle)];
    AutoAssign {
        v4: 1,
        v6: 0,
        attributes: Attributes {
            handle: Some(handle.to_owned()),
            owner: owner.map(|(key, text)| (key.to_owned(), text.to_owned())).into(),
            ..Attributes::default()
        },
        owner: Owner::Host(NODES[node].into()),
        pools: vec![],
        usage: Use::Workload,
        max_blocks: 0,
    }
}

type Running = Pin<Box<dyn Future<Output = Done>>>;

fn start(job: Job, number: usize, store: Watched, world: World) -> Running {
    let handle = format!("pod{number}");
    let given = |addresses: Vec<(IpAddr, u8)>| addresses.into_iter().map(|(address, _)| address).collect();
    match job {
        Job::Assign(node) => Box::pin(async move {
            match auto_assign(&store, &world, &pod(node, &handle), NOW).await {
                Ok((v4, _)) => Done::Given(handle, given(v4.addresses)),
                Err(_) => Done::Nothing,
            }
        }),
        Job::AssignFirst(node) => Box::pin(async move {
            let AutoAssign { attributes, owner, .. } = pod(node, &handle);
            let first = block().nth(0).unwrap();
            match assign_address(&store, &world, first, &attributes, &owner, None, NOW).await {
                Ok(()) => Done::Given(handle, vec![first]),
                Err(_) => Done::Nothing,
            }
        }),
        Job::ReleaseFormer => Box::pin(async move {
            let _ = release_by_handle(&store, &world, "former", NOW).await;
            Done::Nothing
        }),
        Job::Tunnel(node) => Box::pin(async move {
            let kind = Tunnel::VxlanV4;
            match ensure_tunnel_address(&store, &world, NODES[node], kind, None, NOW).await {
                Ok(Some(address)) => Done::Given(kind.handle(NODES[node]), vec![address]),
                _ => Done::Nothing,
            }
        }),
        Job::GiveUp(node) | Job::GiveUpAll(node) => Box::pin(async move {
            let must_be_empty = matches!(job, Job::GiveUp(_));
            let _ = affinity::release(&store, &Owner::Host(NODES[node].into()), block(), must_be_empty).await;
            Done::Nothing
        }),
    }
}

/// A step of an order.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Turn {
    Go(usize),
    /// Its next write is made, and it is told that nobody knows.
    Lie(usize),
}

/// Where orders of a case have led.
#[derive(Default)]
struct Seen {
    places: HashSet<u64>,
    /// What the store held, whoever died then.
    ends: HashSet<String>,
}

struct Case {
    pools: Pools,
    /// Whether writes are lied about.
    lies: bool,
    former: Former,
    strict: bool,
    jobs: Vec<Job>,
}

/// What has become of a case after some turns.
struct Reached {
    store: Memory,
    /// By job.
    running: Vec<bool>,
    given: BTreeMap<String, Vec<IpAddr>>,
    /// Where it is in all that matters.
    place: u64,
    /// Whether the last turn wrote: of others there are no lies.
    has_written: bool,
}

impl Case {
    fn begin(&self) -> Memory {
        let store = Memory::default();
        let world = self.pools.world(0, self.strict);
        let earlier = Nanoseconds(NOW.0 - 100_000_000_000);
        match self.former {
            Former::Nothing => {}
            Former::Pod => drop(run(auto_assign(&store, &world, &pod(0, "former"), earlier)).unwrap()),
            Former::EmptyBlock => {
                run(auto_assign(&store, &world, &pod(0, "former"), earlier)).unwrap();
                run(release_by_handle(&store, &world, "former", earlier)).unwrap();
            }
            Former::Tunnel => {
                run(ensure_tunnel_address(&store, &world, NODES[0], Tunnel::VxlanV4, None, earlier)).unwrap();
            }
        }
        store
    }

    fn run(&self, turns: &[Turn]) -> Reached {
        let store = self.begin();
        let told: Vec<Rc<Cell<u64>>> = self.jobs.iter().map(|_| Rc::default()).collect();
        let mut futures: Vec<Option<Running>> = self
            .jobs
            .iter()
            .zip(&told)
            .enumerate()
            .map(|(number, (job, told))| {
                let watched = Watched { store: store.clone(), told: Rc::clone(told) };
                Some(start(*job, number, watched, self.pools.world(job.node(), self.strict)))
            })
            .collect();
        let mut given = BTreeMap::new();
        let mut has_written = false;
        let mut steps = vec![0u32; self.jobs.len()];
        for turn in turns {
            match *turn {
                Turn::Go(job) | Turn::Lie(job) => {
                    let lies = matches!(turn, Turn::Lie(_));
                    let before = store.writes();
                    store.lie_in(u64::from(lies));
                    steps[job] += 1;
                    let future = futures[job].as_mut().unwrap();
                    let done = step(future);
                    has_written = store.writes() != before;
                    store.lie_in(0);
                    if let Some(done) = done {
                        futures[job] = None;
                        if let Done::Given(handle, addresses) = done {
                            given.insert(handle, addresses);
                        }
                    }
                }
            }
        }
        let running: Vec<bool> = futures.iter().map(Option::is_some).collect();
        let mut hash = DefaultHasher::new();
        for (is_running, (told, steps)) in running.iter().zip(told.iter().zip(steps)) {
            // What it has been told says where it is.
            is_running.then(|| (told.get(), steps)).hash(&mut hash);
        }
        format!("{:?} {given:?}", store.with_revisions()).hash(&mut hash);
        Reached { store, running, given, place: hash.finish(), has_written }
    }

    /// Follows every order; how many places there are to die in.
    fn places(&self) -> usize {
        let mut seen = Seen::default();
        self.follow(&mut Vec::new(), &self.run(&[]), &mut seen);
        seen.places.len()
    }

    /// Follows every order from here on.
    fn follow(&self, turns: &mut Vec<Turn>, reached: &Reached, seen: &mut Seen) {
        if !seen.places.insert(reached.place) {
            return;
        }
        self.check(reached, turns);
        for job in (0..self.jobs.len()).filter(|job| reached.running[*job]) {
            for turn in [Turn::Go(job), Turn::Lie(job)] {
                turns.push(turn);
                let next = self.run(turns);
                self.follow(turns, &next, seen);
                turns.pop();
                if !self.lies || !next.has_written {
                    break;
                }
            }
        }
        if seen.ends.insert(format!("{:?}", reached.store.things())) {
            self.check_end(reached, turns);
        }
    }

    /// What holds at every instant.
    fn check(&self, reached: &Reached, turns: &[Turn]) {
        let blocks = reached.store.blocks_now();
        let mut taken = BTreeSet::new();
        for (handle, addresses) in &reached.given {
            for address in addresses {
                assert!(taken.insert(*address), "{address} twice: {:?} {turns:?}", self.jobs);
                let of = blocks.iter().find_map(|block| block.attributes(*address)?.handle.clone());
                assert_eq!(of.as_ref(), Some(handle), "{address}: {:?} {turns:?}", self.jobs);
            }
        }
        for (_, attributes) in blocks.iter().flat_map(|block| block.given().collect::<Vec<_>>()) {
            let id = attributes.handle.clone().unwrap();
            let is_counted = reached.store.things().iter().any(
                |thing| matches!(thing, Record::Handle(handle) if handle.id == id && !handle.blocks.is_empty()),
            );
            assert!(is_counted, "{id} is not counted: {:?} {turns:?}", self.jobs);
        }
    }

    /// Everybody is dead, or done; all pods go, and then the nodes. Whoever collects finds everything.
    fn check_end(&self, reached: &Reached, turns: &[Turn]) {
        let (store, world) = (&reached.store, self.pools.world(0, self.strict));
        let (mut collector, begin) = (Collector::new(), Instant::now());
        let grace = Duration::from_secs(900);
        let mut nodes: BTreeSet<String> = NODES.map(str::to_owned).into();
        for look in 0..10 {
            if look == 5 {
                consistent(store);
                nodes = ["other".to_owned()].into();
            }
            let records = run(store.everything()).unwrap();
            let snapshot = Snapshot { records, pods: BTreeMap::new(), nodes: nodes.clone() };
            for action in collector.look(begin + look * grace, Some(grace), &snapshot).actions {
                run(gc::perform(store, &world, &action, NOW)).unwrap();
            }
        }
        assert_eq!(store.things(), [], "left by {:?} of {:?}: {turns:?}", self.jobs, self.former);
    }
}

/// How many places there are to die in.
fn every_order(former: Former, strict: bool, jobs: &[Job]) -> usize {
    Case { pools: Pools::One, lies: true, former, strict, jobs: jobs.to_vec() }.places()
}

#[test]
fn in_no_order_do_two_nodes_disturb_each_other() {
    use Job::{Assign, AssignFirst, GiveUp, GiveUpAll, ReleaseFormer, Tunnel as Ensure};
    let mut places = 0;
    for strict in [false, true] {
        for jobs in [
            [Assign(0), Assign(1)],
            [Assign(0), AssignFirst(1)],
            [AssignFirst(0), AssignFirst(1)],
            [Ensure(0), Assign(1)],
        ] {
            places += every_order(Former::Nothing, strict, &jobs);
        }
        for jobs in [
            [ReleaseFormer, Assign(0)],
            [ReleaseFormer, Assign(1)],
            [ReleaseFormer, GiveUp(0)],
            [ReleaseFormer, GiveUpAll(0)],
            [GiveUpAll(0), Assign(1)],
            [GiveUpAll(0), Assign(0)],
        ] {
            places += every_order(Former::Pod, strict, &jobs);
        }
        for jobs in
            [[Assign(0), Assign(1)], [Assign(1), Ensure(0)], [GiveUp(0), Assign(0)], [GiveUp(0), Assign(1)]]
        {
            places += every_order(Former::EmptyBlock, strict, &jobs);
        }
        places += every_order(Former::Tunnel, strict, &[Ensure(0), Assign(1)]);
    }
    assert!(places > 10_000, "{places} places are not all");
}

#[test]
fn in_no_order_do_three_jobs_disturb_each_other() {
    use Job::{Assign, GiveUp, ReleaseFormer};
    let mut places = every_order(Former::Pod, true, &[ReleaseFormer, Assign(0), Assign(1)]);
    if std::env::var_os("CARACAL_LONG").is_some() {
        places += every_order(Former::Pod, false, &[ReleaseFormer, Assign(0), Assign(1)]);
        places += every_order(Former::Pod, true, &[ReleaseFormer, GiveUp(0), Assign(1)]);
    }
    assert!(places > 1000, "{places} places are not all");
}

#[test]
fn in_no_order_do_overlapping_pools_give_an_address_twice() {
    use Job::{Assign, AssignFirst, GiveUp, ReleaseFormer};
    let case = |lies, former, strict, jobs: [Job; 2]| {
        Case { pools: Pools::Overlapping, lies, former, strict, jobs: jobs.to_vec() }.places()
    };
    let mut places = case(true, Former::Nothing, true, [Assign(0), AssignFirst(1)]);
    for strict in [false, true] {
        places += case(true, Former::Nothing, strict, [AssignFirst(0), AssignFirst(1)]);
        places += case(true, Former::Pod, strict, [ReleaseFormer, AssignFirst(1)]);
        places += case(true, Former::EmptyBlock, strict, [GiveUp(0), AssignFirst(1)]);
    }
    if std::env::var_os("CARACAL_LONG").is_some() {
        places += case(false, Former::Nothing, true, [Assign(0), Assign(1)]);
        places += case(false, Former::Nothing, true, [AssignFirst(0), Assign(1)]);
        places += case(false, Former::Pod, true, [ReleaseFormer, Assign(1)]);
        places += case(false, Former::EmptyBlock, true, [GiveUp(0), Assign(1)]);
    }
    assert!(places > 10_000, "{places} places are not all");
}
