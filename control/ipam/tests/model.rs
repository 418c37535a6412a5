//! Many nodes on one store, in random order, dying between any two writes: no address is given twice, none is lost for good.

#![allow(clippy::panic, clippy::unwrap_used, reason = "the helpers of tests fail by panicking")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;

use caracal_ipam::affinity;
use caracal_ipam::release::Release;
use caracal_ipam::{
    AssignError, Attributes, AutoAssign, Block, Nanoseconds, Owner, Pool, Record, Settings, Use, World,
    auto_assign, release_addresses, release_by_handle,
};
use caracal_model::cidr::Cidr;
use caracal_model::selector::Selector;
use common::{Memory, run, step};
use proptest::prelude::*;

const NODES: u8 = 3;

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

fn everybody() -> Option<Selector> {
    Some(Selector::parse("").unwrap())
}

/// Four blocks of four addresses, one of them half reserved.
fn world(settings: Settings) -> World {
    World {
        pools: vec![Pool {
            name: "pods".into(),
            cidr: cidr("10.0.0.0/28"),
            block_length: 30,
            disabled: false,
            uses: vec![Use::Workload],
            manual: false,
            nodes: everybody(),
            namespaces: everybody(),
            vxlan: true,
            ipip: false,
        }],
        reservations: vec![cidr("10.0.0.4/31")],
        settings,
        ..World::default()
    }
}

fn owner(node: u8) -> Owner {
    Owner::Host(format!("node{node}"))
}

#[derive(Debug, Clone)]
enum Job {
    /// A pod on a node, with so many addresses.
    Assign(u8, usize),
    /// The pod of the nth job goes.
    Release(usize),
    /// The same, address by address.
    ReleaseAddresses(usize),
    /// A node gives up its nth block, if it is empty.
    GiveUp(u8, u8),
    /// A node goes, with all of its claims.
    GiveUpAll(u8),
}

#[derive(Debug, Clone)]
enum Turn {
    Start(Job),
    Poll(prop::sample::Index),
    Die(prop::sample::Index),
    Lie(u64),
    /// Seconds pass.
    Wait(u64),
}

fn job() -> impl Strategy<Value = Job> {
    prop_oneof![
        4 => (0..NODES, 1..5usize).prop_map(|(node, count)| Job::Assign(node, count)),
        3 => (0..12usize).prop_map(Job::Release),
        2 => (0..12usize).prop_map(Job::ReleaseAddresses),
        1 => (0..NODES, 0..4u8).prop_map(|(node, block)| Job::GiveUp(node, block)),
        1 => (0..NODES).prop_map(Job::GiveUpAll),
    ]
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let turn = prop_oneof![
        6 => job().prop_map(Turn::Start),
        60 => any::<prop::sample::Index>().prop_map(Turn::Poll),
        2 => any::<prop::sample::Index>().prop_map(Turn::Die),
        1 => (1..5u64).prop_map(Turn::Lie),
        1 => (1..100u64).prop_map(Turn::Wait),
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
    Given(String, Vec<IpAddr>),
    /// This handle has no addresses any more, as far as the job got.
    Back,
    Nothing,
}

type Running = Pin<Box<dyn Future<Output = Done>>>;

fn start(
    job: Job,
    number: usize,
    store: &Memory,
    world: &World,
    has: &BTreeMap<String, Vec<IpAddr>>,
    now: Nanoseconds,
) -> Running {
    let (store, world) = (store.clone(), world.clone());
    match job {
        Job::Assign(node, count) => Box::pin(async move {
            let handle = format!("pod{number}");
            let attributes = Attributes { handle: Some(handle.clone()), ..Attributes::default() };
            let wanted = AutoAssign {
                v4: count,
                v6: 0,
                attributes,
                owner: owner(node),
                pools: vec![],
                usage: Use::Workload,
                max_blocks: 0,
            };
            match auto_assign(&store, &world, &wanted, now).await {
                Ok((given, none)) => {
                    assert!(none.addresses.is_empty());
                    assert_eq!(given.short.is_none(), given.addresses.len() == count);
                    Done::Given(handle, given.addresses.into_iter().map(|(address, _)| address).collect())
                }
                Err(AssignError::NoPools { .. } | AssignError::NoQualifiedPool { .. }) => {
                    panic!("there is a pool")
                }
                Err(_) => Done::Nothing,
            }
        }),
        Job::Release(of) => Box::pin(async move {
            let _ = release_by_handle(&store, &world, &format!("pod{of}"), now).await;
            Done::Back
        }),
        Job::ReleaseAddresses(of) => {
            let handle = format!("pod{of}");
            let addresses = has.get(&handle).cloned().unwrap_or_default();
            Box::pin(async move {
                let release = |address| Release { address, handle: Some(handle.clone()), sequence: None };
                let wanted: Vec<Release> = addresses.into_iter().map(release).collect();
                let _ = release_addresses(&store, &world, &wanted, now).await;
                Done::Back
            })
        }
        Job::GiveUp(node, block) => Box::pin(async move {
            let block = Cidr::new(cidr("10.0.0.0/28").nth(4 * u32::from(block)).unwrap(), 30).unwrap();
            let _ = affinity::release(&store, &owner(node), block, true).await;
            Done::Nothing
        }),
        Job::GiveUpAll(node) => Box::pin(async move {
            for block in (0..4).map(|i| Cidr::new(cidr("10.0.0.0/28").nth(4 * i).unwrap(), 30).unwrap()) {
                let _ = affinity::release(&store, &owner(node), block, false).await;
            }
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

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(debug_assertions) { 1000 } else { 30_000 }, ..ProptestConfig::default() })]

    #[test]
    fn no_address_is_given_twice_and_none_is_lost_for_good(settings in settings(), turns in turns()) {
        let (store, world) = (Memory::default(), world(settings));
        let mut now = Nanoseconds(1_000_000_000_000);
        let mut running: Vec<(usize, Running)> = Vec::new();
        let mut jobs = 0;
        // What pods think that they have; those whose release has begun no longer do.
        let mut has: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        for turn in turns {
            match turn {
                Turn::Start(job) => {
                    let future = start(job.clone(), jobs, &store, &world, &has, now);
                    if let Job::Release(of) | Job::ReleaseAddresses(of) = job {
                        // One that is being made is not released before.
                        if running.iter().any(|(number, _)| *number == of) {
                            continue;
                        }
                        has.remove(&format!("pod{of}"));
                    }
                    running.push((jobs, future));
                    jobs += 1;
                }
                Turn::Poll(which) if !running.is_empty() => {
                    let at = which.index(running.len());
                    if let Some(done) = step(&mut running[at].1) {
                        drop(running.remove(at));
                        if let Done::Given(handle, addresses) = done {
                            let others: BTreeSet<&IpAddr> = has.values().flatten().collect();
                            for address in &addresses {
                                prop_assert!(!others.contains(address), "{address} twice");
                            }
                            has.insert(handle, addresses);
                        }
                    }
                }
                Turn::Die(which) if !running.is_empty() => drop(running.remove(which.index(running.len()))),
                Turn::Lie(writes) => store.lie_in(writes),
                Turn::Wait(seconds) => now = Nanoseconds(now.0 + seconds * 1_000_000_000),
                Turn::Poll(_) | Turn::Die(_) => {}
            }
            check(&store, &world);
            // Who has an address has it in its block, too.
            for (handle, addresses) in &has {
                for address in addresses {
                    let block = store.blocks_now().into_iter().find(|block| block.cidr().contains(*address));
                    let of = block.and_then(|block| block.attributes(*address)?.handle.clone());
                    prop_assert_eq!(of.as_ref(), Some(handle), "{} of {}", address, handle);
                }
            }
        }
        // Everybody is dead. Whoever cleans up needs nothing but what is in the store.
        drop(running);
        store.lie_in(0);
        for thing in store.things() {
            if let Record::Handle(handle) = thing {
                run(release_by_handle(&store, &world, &handle.id, now)).unwrap();
            }
        }
        prop_assert!(store.blocks_now().iter().all(Block::is_empty), "an address that no handle knows");
        for thing in store.things() {
            let claim = match thing {
                Record::Affinity(claim) => Some((claim.owner, claim.cidr)),
                Record::Block(block) => block.owner.clone().map(|owner| (owner, block.cidr())),
                Record::Handle(_) => None,
            };
            if let Some((owner, cidr)) = claim {
                run(affinity::release(&store, &owner, cidr, true)).unwrap();
            }
        }
        let left: Vec<Record> = store.things().into_iter().filter(|thing| !matches!(thing, Record::Block(b) if b.owner.is_none())).collect();
        prop_assert_eq!(left, vec![], "something is left");
    }
}
