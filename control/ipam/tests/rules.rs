//! What Calico's address management does, rule by rule.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail by panicking")]

mod common;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;

use caracal_ipam::assign::Short;
use caracal_ipam::release::{Release, ReleaseError};
use caracal_ipam::{
    AssignAddress, AssignError, Assigned, Attributes, AutoAssign, Block, Key, Nanoseconds, Owner, Pool,
    Settings, Use, World, assign_address, assign_address_as, assign_many, auto_assign, auto_assign_near,
    release_addresses, release_by_handle,
};
use caracal_model::cidr::Cidr;
use caracal_model::labels::Labels;
use caracal_model::selector::Selector;
use common::{Memory, pool, run, step};

const START: u64 = 1_767_225_600_000_000_000;

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(seconds: u64) -> Nanoseconds {
    Nanoseconds(START + seconds * 1_000_000_000)
}

fn world(pools: Vec<Pool>) -> World {
    World { pools, ..World::default() }
}

fn node(name: &str) -> Owner {
    Owner::Host(name.into())
}

fn pod(name: &str) -> Attributes {
    let owner = BTreeMap::from([("pod".to_owned(), name.to_owned())]);
    Attributes { handle: Some(name.into()), owner, ..Attributes::default() }
}

fn wanted(owner: &str, handle: &str, v4: usize) -> AutoAssign {
    AutoAssign {
        v4,
        v6: 0,
        attributes: pod(handle),
        owner: node(owner),
        pools: vec![],
        usage: Use::Workload,
        max_blocks: 0,
    }
}

fn assign(store: &Memory, world: &World, wanted: &AutoAssign, seconds: u64) -> Result<Assigned, AssignError> {
    run(auto_assign(store, world, wanted, at(seconds))).map(|(v4, _)| v4)
}

fn addresses(assigned: &Assigned) -> Vec<IpAddr> {
    assigned.addresses.iter().map(|(address, _)| *address).collect()
}

fn block_of(store: &Memory, owner: &str) -> Block {
    let mut blocks = store.blocks_now().into_iter().filter(|block| block.owner == Some(node(owner)));
    blocks.next().unwrap()
}

#[test]
fn every_address_of_a_block_is_given_the_first_and_the_last_too_in_order() {
    let (store, world) = (Memory::default(), world(vec![pool("p", "10.0.0.0/30", 30)]));
    let given = assign(&store, &world, &wanted("n1", "a", 4), 0).unwrap();
    assert_eq!(addresses(&given), ["10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3"].map(ip));
    assert_eq!(given.addresses[0].1, 30, "with the mask of the block");
    assert_eq!(given.short, None);
}

#[test]
fn what_comes_back_is_given_after_all_that_are_free() {
    let (store, world) = (Memory::default(), world(vec![pool("p", "10.0.0.0/30", 30)]));
    assign(&store, &world, &wanted("n1", "a", 2), 0).unwrap();
    run(release_by_handle(&store, &world, "a", at(1))).unwrap().unwrap();
    let given = assign(&store, &world, &wanted("n1", "b", 4), 2).unwrap();
    assert_eq!(addresses(&given), ["10.0.0.2", "10.0.0.3", "10.0.0.0", "10.0.0.1"].map(ip));
}

#[test]
fn a_write_that_is_on_its_way_when_its_writer_is_killed_gives_nothing_after_the_release() {
    let world = world(vec![pool("p", "10.0.0.0/30", 30)]);
    for steps in 0.. {
        let store = Memory::default();
        assign(&store, &world, &wanted("n1", "neighbour", 1), 0).unwrap();
        let (shared, of_killed) = (store.clone(), world.clone());
        let mut assigning: Pin<Box<dyn Future<Output = _>>> =
            Box::pin(async move { auto_assign(&shared, &of_killed, &wanted("n1", "a", 1), at(1)).await });
        let is_done = (0..steps).any(|_| step(&mut assigning).is_some());
        run(release_by_handle(&store, &world, "a", at(2))).unwrap();
        if is_done {
            break;
        }
        // The one write that the store had been asked for is carried out.
        let _ = step(&mut assigning);
        drop(assigning);
        let given = block_of(&store, "n1").given().count();
        assert_eq!(given, 1, "after {steps} steps: only the neighbour has an address");
    }
}

#[test]
fn what_was_given_while_its_handle_was_released_can_be_taken_back_by_name() {
    let world = world(vec![pool("p", "10.0.0.0/30", 30)]);
    for steps in 0.. {
        let store = Memory::default();
        assign(&store, &world, &wanted("n1", "neighbour", 1), 0).unwrap();
        let (shared, of_giver) = (store.clone(), world.clone());
        let mut assigning: Pin<Box<dyn Future<Output = _>>> =
            Box::pin(async move { auto_assign(&shared, &of_giver, &wanted("n1", "a", 1), at(1)).await });
        if (0..steps).any(|_| step(&mut assigning).is_some()) {
            break;
        }
        run(release_by_handle(&store, &world, "a", at(2))).unwrap();
        let given = addresses(&run(assigning).unwrap().0);
        let by_name: Vec<Release> = given
            .iter()
            .map(|address| Release { address: *address, handle: Some("a".into()), sequence: None })
            .collect();
        run(release_addresses(&store, &world, &by_name, at(3))).unwrap();
        run(release_by_handle(&store, &world, "a", at(3))).unwrap();
        assert_eq!(block_of(&store, "n1").given().count(), 1, "after {steps} steps");
        common::consistent(&store);
    }
}

#[test]
fn an_address_that_cools_down_is_nobodys_and_not_given() {
    let mut world = world(vec![pool("p", "10.0.0.0/31", 31)]);
    world.settings.cooldown_s = 30;
    let store = Memory::default();
    assign(&store, &world, &wanted("n1", "a", 1), 0).unwrap();
    run(release_by_handle(&store, &world, "a", at(10))).unwrap().unwrap();
    assert!(block_of(&store, "n1").is_empty());
    let given = assign(&store, &world, &wanted("n1", "b", 2), 20).unwrap();
    assert_eq!(addresses(&given), [ip("10.0.0.1")]);
    assert!(matches!(given.short, Some(Short::Exhausted(_))), "{given:?}");
    let error = run(assign_address(&store, &world, ip("10.0.0.0"), &pod("c"), &node("n1"), None, at(39)));
    assert_eq!(error, Err(AssignError::AlreadyGiven(ip("10.0.0.0"))));
    let given = assign(&store, &world, &wanted("n1", "c", 1), 40).unwrap();
    assert_eq!(addresses(&given), [ip("10.0.0.0")]);
}

#[test]
fn reserved_addresses_and_blocks_are_left_out() {
    let mut world = world(vec![pool("p", "10.0.0.0/29", 30)]);
    world.reservations =
        vec![cidr("10.0.0.0/31"), cidr("10.0.0.2/32"), cidr("10.0.0.3/32"), cidr("10.0.0.5/32")];
    let store = Memory::default();
    let given = assign(&store, &world, &wanted("n1", "a", 4), 0).unwrap();
    assert_eq!(addresses(&given), ["10.0.0.4", "10.0.0.6", "10.0.0.7"].map(ip));
    assert!(
        store.blocks_now().iter().all(|block| block.cidr() == cidr("10.0.0.4/30")),
        "a reserved block was taken"
    );
}

#[test]
fn a_node_at_its_limit_gets_no_block_and_borrows_nothing() {
    let mut world = world(vec![pool("p", "10.0.0.0/28", 30)]);
    let store = Memory::default();
    assign(&store, &world, &wanted("n2", "other", 1), 0).unwrap();
    world.settings.max_blocks_per_host = 2;
    let given = assign(&store, &world, &AutoAssign { max_blocks: 1, ..wanted("n1", "a", 6) }, 0).unwrap();
    assert_eq!(given.addresses.len(), 4);
    assert_eq!(given.short, Some(Short::BlockLimit { owner: node("n1"), limit: 1 }));
}

#[test]
fn without_a_limit_a_node_has_twenty_blocks() {
    let (store, world) = (Memory::default(), world(vec![pool("p", "10.0.0.0/24", 30)]));
    let given = assign(&store, &world, &wanted("n1", "a", 100), 0).unwrap();
    assert_eq!(given.addresses.len(), 80);
    assert_eq!(given.short, Some(Short::BlockLimit { owner: node("n1"), limit: 20 }));
}

#[test]
fn who_finds_no_block_borrows_unless_affinity_is_strict() {
    let mut world = world(vec![pool("p", "10.0.0.0/30", 30)]);
    let store = Memory::default();
    assign(&store, &world, &wanted("n1", "a", 1), 0).unwrap();
    let given = assign(&store, &world, &wanted("n2", "b", 1), 0).unwrap();
    assert_eq!(addresses(&given), [ip("10.0.0.1")]);
    assert_eq!(block_of(&store, "n1").given().count(), 2);

    world.settings = Settings { strict_affinity: true, ..Settings::default() };
    let store = Memory::default();
    assign(&store, &world, &wanted("n1", "a", 1), 0).unwrap();
    let given = assign(&store, &world, &wanted("n2", "b", 1), 0).unwrap();
    assert_eq!((addresses(&given), given.short), (vec![], Some(Short::Strict("p".into()))));
}

#[test]
fn an_empty_block_of_another_node_is_taken_over_after_a_minute() {
    let mut world = world(vec![pool("p", "10.0.0.0/30", 30)]);
    world.settings.strict_affinity = true;
    let store = Memory::default();
    assign(&store, &world, &wanted("n1", "a", 1), 0).unwrap();
    run(release_by_handle(&store, &world, "a", at(1))).unwrap().unwrap();
    assert!(assign(&store, &world, &wanted("n2", "b", 1), 59).unwrap().addresses.is_empty());
    let given = assign(&store, &world, &wanted("n2", "b", 1), 60).unwrap();
    assert_eq!(given.addresses.len(), 1);
    assert_eq!(block_of(&store, "n2").cidr(), cidr("10.0.0.0/30"));
}

#[test]
fn requested_pools_are_taken_in_their_order_whatever_they_select() {
    let mut manual = pool("b", "10.1.0.0/24", 26);
    manual.manual = true;
    let mut other = pool("a", "10.2.0.0/24", 26);
    other.nodes = Some(Selector::parse("nowhere == 'true'").unwrap());
    let (store, world) = (Memory::default(), world(vec![pool("p", "10.0.0.0/24", 26), manual, other]));
    let ask = |pools: &[&str]| AutoAssign {
        pools: pools.iter().map(|pool| cidr(pool)).collect(),
        ..wanted("n1", "x", 1)
    };
    let given = assign(&store, &world, &ask(&["10.2.0.0/24", "10.1.0.0/24"]), 0).unwrap();
    assert!(cidr("10.2.0.0/24").contains(given.addresses[0].0));
    assert!(cidr("10.0.0.0/24").contains(assign(&store, &world, &ask(&[]), 0).unwrap().addresses[0].0));
    assert_eq!(
        assign(&store, &world, &ask(&["10.9.0.0/24"]), 0),
        Err(AssignError::NoSuchPool(cidr("10.9.0.0/24")))
    );
}

#[test]
fn pools_select_nodes_namespaces_and_uses() {
    let labels = |text: &str| -> Labels { [(text, "true")].into_iter().collect() };
    let mut selective = pool("p", "10.0.0.0/24", 26);
    selective.nodes = Some(Selector::parse("rack == 'true'").unwrap());
    selective.namespaces = Some(Selector::parse("team == 'true'").unwrap());
    let mut world = world(vec![selective]);
    let none = Err(AssignError::NoPools { node: "n1".into() });
    assert_eq!(assign(&Memory::default(), &world, &wanted("n1", "a", 1), 0), none);
    world.node_labels = labels("rack");
    assert_eq!(assign(&Memory::default(), &world, &wanted("n1", "a", 1), 0), none);
    world.namespace_labels = labels("team");
    assert!(assign(&Memory::default(), &world, &wanted("n1", "a", 1), 0).is_ok());
    let balancer = AutoAssign { usage: Use::LoadBalancer, ..wanted("n1", "a", 1) };
    let unqualified = Err(AssignError::NoQualifiedPool { usage: Use::LoadBalancer });
    assert_eq!(assign(&Memory::default(), &world, &balancer, 0), unqualified);
}

#[test]
fn an_address_asked_for_by_name_claims_its_block_and_is_given_once() {
    let (store, world) = (Memory::default(), world(vec![pool("p", "10.0.0.0/24", 26)]));
    let ask = |handle, address| {
        run(assign_address(
            &store,
            &world,
            ip(address),
            &pod(handle),
            &node("n1"),
            Some(Use::Workload),
            at(0),
        ))
    };
    assert_eq!(ask("a", "10.0.0.77"), Ok(()));
    assert_eq!(ask("b", "10.0.0.77"), Err(AssignError::AlreadyGiven(ip("10.0.0.77"))));
    assert_eq!(ask("b", "10.9.0.1"), Err(AssignError::NotInAPool(ip("10.9.0.1"))));
    assert_eq!(block_of(&store, "n1").cidr(), cidr("10.0.0.64/26"));
}

#[test]
fn a_block_that_cannot_be_read_is_done_without() {
    let (store, world) = (Memory::default(), world(vec![pool("p", "10.0.0.0/28", 30)]));
    let first = assign(&store, &world, &wanted("n1", "a", 1), 0).unwrap();
    let unreadable = block_of(&store, "n1").cidr();
    store.make_unreadable(Some(unreadable));
    // Its owner, who is told of it; its owner, who finds the claim; and others, who may come by.
    let near = run(auto_assign_near(&store, &world, &wanted("n1", "b", 1), &[unreadable], at(1))).unwrap().0;
    let next = assign(&store, &world, &wanted("n1", "c", 1), 2).unwrap();
    let crowd = [pod("e"), pod("f")];
    let crowd =
        run(assign_many(&store, &world, &wanted("n1", "", 1), &crowd, Some(unreadable), at(2))).into_iter();
    let crowd: Vec<IpAddr> = crowd.flat_map(|given| addresses(&given.unwrap())).collect();
    assert_eq!(crowd.len(), 2);
    let rest = assign(&store, &world, &wanted("n2", "d", 20), 3).unwrap();
    let given: Vec<IpAddr> = [near, next, rest].iter().flat_map(addresses).chain(crowd).collect();
    assert_eq!(given.len(), 12, "{given:?}");
    assert!(given.iter().all(|address| !unreadable.contains(*address)), "{given:?}");
    // Who has an address of it gives it back when it can be read again.
    assert!(run(release_by_handle(&store, &world, "a", at(4))).is_err());
    store.make_unreadable(None);
    assert_eq!(
        run(release_by_handle(&store, &world, "a", at(5))).unwrap().unwrap().addresses,
        addresses(&first)
    );
}

#[test]
fn a_pool_that_was_made_anew_with_another_block_size_gives_nothing_twice() {
    let store = Memory::default();
    let former = world(vec![pool("p", "10.0.0.0/28", 30)]);
    for name in ["a", "b"] {
        assign(&store, &former, &wanted(name, name, 1), 0).unwrap();
    }
    let has: Vec<IpAddr> = store
        .blocks_now()
        .iter()
        .flat_map(|block| block.given().map(|(a, _)| a).collect::<Vec<_>>())
        .collect();
    assert_eq!(has.len(), 2);
    // Smaller blocks find room between the former ones, in none of which they lie; larger ones do not.
    for block_length in [31, 29, 28] {
        let world = world(vec![pool("p", "10.0.0.0/28", block_length)]);
        let store = store.clone();
        let given = assign(&store, &world, &wanted("n1", "c", 20), 100).unwrap();
        let mut all = [has.clone(), addresses(&given)].concat();
        all.sort();
        let count = all.len();
        all.dedup();
        assert_eq!(all.len(), count, "given twice, with /{block_length}");
        run(release_by_handle(&store, &world, "c", at(101))).unwrap();
        for address in &has {
            let by_name =
                run(assign_address(&store, &world, *address, &pod("d"), &node("n1"), None, at(102)));
            assert!(matches!(by_name, Err(AssignError::AlreadyGiven(_))), "{by_name:?} with /{block_length}");
        }
    }
    // And it comes back.
    let world = world(vec![pool("p", "10.0.0.0/28", 28)]);
    let by_address: Vec<Release> =
        has.iter().map(|address| Release { address: *address, handle: None, sequence: None }).collect();
    let released = run(release_addresses(&store, &world, &by_address, at(103))).unwrap();
    assert_eq!(released.addresses.len(), 2, "{released:?}");
}

#[test]
fn an_address_is_taken_back_from_the_one_who_has_it_only() {
    let (store, world) = (Memory::default(), world(vec![pool("p", "10.0.0.0/30", 30)]));
    assign(&store, &world, &wanted("n1", "a", 1), 0).unwrap();
    let address = ip("10.0.0.0");
    let sequence = block_of(&store, "n1").sequence_of(address);
    assert_eq!(sequence, Some(START), "the block's sequence number when it was given");
    let release = |handle: &str, sequence| {
        let wanted = [Release { address, handle: Some(handle.into()), sequence }];
        run(release_addresses(&store, &world, &wanted, at(1)))
    };
    assert_eq!(release("b", None), Err(ReleaseError::NotYours { address, what: "the handle" }));
    assert_eq!(release("a", Some(7)), Err(ReleaseError::NotYours { address, what: "the sequence number" }));
    assert_eq!(release("a", sequence).unwrap().addresses, [address]);
    assert_eq!(release("a", sequence).unwrap().unallocated, [address], "nobody has it now");
    assert!(
        !store.things().iter().any(|thing| matches!(thing.key(), Key::Handle(_))),
        "the handle counts nothing and stays"
    );
}

#[test]
fn addresses_given_together_share_their_attributes() {
    let (store, world) = (Memory::default(), world(vec![pool("p", "10.0.0.0/28", 28)]));
    assign(&store, &world, &wanted("n1", "a", 3), 0).unwrap();
    assign(&store, &world, &wanted("n1", "b", 1), 0).unwrap();
    let parts = block_of(&store, "n1").parts();
    assert_eq!(parts.attributes.len(), 2);
    assert_eq!(parts.allocations[..5], [Some(0), Some(0), Some(0), Some(1), None]);
    run(release_by_handle(&store, &world, "a", at(1))).unwrap();
    let parts = block_of(&store, "n1").parts();
    assert_eq!((parts.attributes.len(), parts.allocations[3]), (1, Some(0)));
    assert_eq!(parts.sequence, START + 3, "one more for each write");
}

#[test]
fn a_block_without_an_owner_goes_with_its_last_address() {
    let (store, world) = (Memory::default(), world(vec![pool("p", "10.0.0.0/30", 30)]));
    assign(&store, &world, &wanted("n1", "a", 1), 0).unwrap();
    run(caracal_ipam::affinity::release(&store, &node("n1"), cidr("10.0.0.0/30"), false)).unwrap();
    assert_eq!(store.blocks_now()[0].owner, None);
    run(release_by_handle(&store, &world, "a", at(1))).unwrap();
    assert_eq!(store.blocks_now(), []);
}

#[test]
fn a_node_that_a_pool_no_longer_selects_gives_its_empty_blocks_up() {
    let mut world = world(vec![pool("p", "10.0.0.0/28", 30), pool("q", "10.1.0.0/28", 30)]);
    let store = Memory::default();
    assign(&store, &world, &wanted("n1", "a", 1), 0).unwrap();
    run(release_by_handle(&store, &world, "a", at(1))).unwrap();
    world.pools[0].nodes = Some(Selector::parse("nowhere == 'true'").unwrap());
    assign(&store, &world, &wanted("n1", "b", 1), 2).unwrap();
    assert!(store.blocks_now().iter().all(|block| cidr("10.1.0.0/28").covers(&block.cidr())));
}

#[test]
fn ipv6_pools_of_any_size_are_walked() {
    let (store, world) =
        (Memory::default(), world(vec![pool("p", "fd00::/32", 122), pool("all", "::/0", 128)]));
    let both = AutoAssign { v6: 2, v4: 0, pools: vec![], ..wanted("n1", "a", 0) };
    let (_, v6) = run(auto_assign(&store, &world, &both, at(0))).unwrap();
    assert_eq!(v6.addresses.len(), 2);
}

#[test]
fn a_pool_whose_block_size_is_impossible_has_no_blocks() {
    for (range, block_length) in [("10.0.0.0/28", 26), ("10.0.0.0/28", 33), ("fd00::/48", 200)] {
        assert_eq!(pool("a", range, block_length).blocks_from(7).next(), None, "{range}, /{block_length}");
    }
    assert_eq!(pool("a", "10.0.0.0/28", 28).blocks_from(7).next(), Some(cidr("10.0.0.0/28")));
}

#[test]
fn a_block_stays_while_an_address_of_it_cools_down() {
    let mut world = world(vec![pool("p", "10.0.0.0/31", 31)]);
    world.settings = Settings { strict_affinity: true, cooldown_s: 300, ..Settings::default() };
    let store = Memory::default();
    assign(&store, &world, &wanted("n1", "a", 1), 0).unwrap();
    run(release_by_handle(&store, &world, "a", at(100))).unwrap().unwrap();
    // Empty and old enough to be taken over; but what was given a moment ago is not given again.
    assert!(assign(&store, &world, &wanted("n2", "b", 1), 399).unwrap().addresses.is_empty());
    assert_eq!(assign(&store, &world, &wanted("n2", "b", 1), 400).unwrap().addresses.len(), 1);
}

#[test]
fn a_block_that_is_thought_to_be_the_nodes_is_asked_first() {
    let (store, world) = (Memory::default(), world(vec![pool("p", "10.0.0.0/28", 30)]));
    let near = |owner: &str, handle: &str, range: &str| {
        let (wanted, near) = (wanted(owner, handle, 1), [cidr(range)]);
        addresses(&run(auto_assign_near(&store, &world, &wanted, &near, at(0))).unwrap().0)
    };
    for (handle, address) in [("a", "10.0.0.0"), ("b", "10.0.0.4")] {
        run(assign_address(&store, &world, ip(address), &pod(handle), &node("n1"), None, at(0))).unwrap();
    }
    assert_eq!(near("n1", "c", "10.0.0.4/30"), [ip("10.0.0.5")]);
    // Another's, one that nobody has, one of no pool: nothing but a look is lost.
    for (handle, range) in [("d", "10.0.0.4/30"), ("e", "10.0.0.12/30"), ("f", "10.9.0.0/30")] {
        let given = near("n2", handle, range);
        assert!(given.iter().all(|address| block_of(&store, "n2").cidr().contains(*address)), "{given:?}");
    }
}

#[test]
fn a_handle_that_may_have_one_address_is_given_the_same_again_and_no_other() {
    let (store, world) = (Memory::default(), world(vec![pool("p", "10.0.0.0/30", 30)]));
    let ask = |address: &str, max: Option<u64>| {
        let wanted = AssignAddress {
            address: ip(address),
            attributes: pod("a"),
            owner: node("n1"),
            usage: Some(Use::Workload),
            max_of_handle: max,
        };
        run(assign_address_as(&store, &world, &wanted, at(0)))
    };
    assert_eq!(ask("10.0.0.1", Some(1)), Ok(()));
    assert_eq!(ask("10.0.0.1", Some(1)), Ok(()));
    assert_eq!(ask("10.0.0.1", None), Err(AssignError::AlreadyGiven(ip("10.0.0.1"))));
    let full = AssignError::HandleFull { handle: "a".into(), count: 1, max: 1 };
    assert_eq!(ask("10.0.0.2", Some(1)), Err(full));
    assert_eq!(ask("10.0.0.2", Some(2)), Ok(()));
}
