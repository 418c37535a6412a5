//! The flow table against a plain map, and its promises about who makes way.

use std::collections::HashMap;
use std::net::IpAddr;

use proptest::prelude::*;

use super::{Carried, FlowEntry, FlowFlags, FlowKey, FlowNote, FlowTable, Inserted, State};
use crate::clock::Tick;
use crate::table::{EndpointIndex, RuleId};

fn key(n: u32) -> FlowKey {
    let [a, b, c, d] = n.to_be_bytes();
    FlowKey::new(
        EndpointIndex(n % 3),
        6,
        (IpAddr::from([10, 0, 0, a]), 80),
        (IpAddr::from([10, b, c, d]), 1000),
    )
}

fn entry(n: u32, last_seen: u32, state: State, answered: bool) -> FlowEntry {
    let mut entry = FlowEntry {
        key: key(n),
        last_seen: Tick(last_seen),
        state,
        flags: FlowFlags::new(true),
        ..FlowEntry::default()
    };
    if answered {
        entry.mark_answered();
    }
    entry
}

fn insert(table: &mut FlowTable, e: FlowEntry) -> Result<(usize, Inserted), super::TableFull> {
    let hash = table.hash(&e.key);
    table.insert(hash, e, FlowNote::default())
}

fn find(table: &FlowTable, n: u32) -> Option<usize> {
    let hash = table.hash(&key(n));
    table.find(&key(n), hash, table.guess(hash))
}

proptest! {
    #[test]
    fn the_table_is_a_map_while_it_is_not_crowded(ops in prop::collection::vec((any::<bool>(), 0u32..200), 1..400)) {
        let mut table = FlowTable::new(1024, 42);
        let mut twin = HashMap::new();
        for (add, n) in ops {
            match (add, find(&table, n)) {
                (true, None) => {
                    insert(&mut table, entry(n, n, State::Established, true)).unwrap();
                    twin.insert(n, n);
                }
                (false, Some(index)) => {
                    let _ = table.remove(index);
                    twin.remove(&n);
                }
                _ => {}
            }
            prop_assert_eq!(table.len(), twin.len());
            for n in 0..200 {
                let found = find(&table, n).map(|i| table.entry(i).last_seen.0);
                prop_assert_eq!(found, twin.get(&n).copied());
            }
        }
    }
}

#[test]
fn a_table_of_flows_at_random_is_seven_tenths_full_before_the_first_one_finds_no_room() {
    for secret in 1..=6 {
        let mut table = FlowTable::new(1 << 14, secret);
        // Every key once, in no order: each step can be undone.
        let nth =
            |n: u32| (n ^ 0x5bd1_e995).wrapping_mul(0x9e37_79b9).rotate_left(13).wrapping_mul(0x85eb_ca6b);
        let mut n = 0;
        while insert(&mut table, entry(nth(n), 0, State::Established, true)).is_ok() {
            n += 1;
        }
        assert!(table.len() * 10 >= table.capacity() * 7, "{} of {}", table.len(), table.capacity());
        assert!((0..n).all(|n| find(&table, nth(n)).is_some()));
    }
}

#[test]
fn a_flood_of_half_open_flows_never_evicts_an_answered_one() {
    let mut table = FlowTable::new(512, 1);
    let answered: Vec<u32> =
        (0..250).filter(|n| insert(&mut table, entry(*n, 0, State::Established, true)).is_ok()).collect();
    for n in 1000..20_000 {
        let _ = insert(&mut table, entry(n, n, State::Opening, false));
    }
    assert!(table.len() <= table.capacity());
    assert!(answered.iter().all(|n| find(&table, *n).is_some()));
}

/// Flows of these tests have one packet, which has been accounted for.
const NOTHING: Carried = Carried { rule: None, staged: None, packets: 0, bytes: 0 };

#[test]
fn way_is_made_by_the_timed_out_then_the_ended_then_the_half_open() {
    // All in the same two buckets: the smallest table has eight, so try keys until a pair is full.
    let mut table = FlowTable::new(64, 1);
    let mut n = 0;
    while table.len() < table.capacity() && n < 100_000 {
        let _ = insert(&mut table, entry(n, 10, State::Opening, false)).map(|(_, how)| how);
        n += 1;
    }
    for index in 0..table.capacity() {
        table.entry_mut(index).state = State::Established;
        table.entry_mut(index).mark_answered();
    }
    assert_eq!(insert(&mut table, entry(1 << 20, 11, State::Opening, false)), Err(super::TableFull));

    let everyone = |table: &mut FlowTable, change: &dyn Fn(usize, &mut FlowEntry)| {
        for index in 0..table.capacity() {
            change(index, table.entry_mut(index));
        }
    };
    everyone(&mut table, &|_, e| e.flags = FlowFlags::new(true));
    assert_eq!(
        insert(&mut table, entry(2 << 20, 11, State::Opening, false)).unwrap().1,
        Inserted::Evicted(NOTHING)
    );
    // An ended flow goes before any half-open one.
    everyone(&mut table, &|i, e| e.state = if i % 2 == 0 { State::Closed } else { State::Opening });
    let (index, how) = insert(&mut table, entry(3 << 20, 12, State::Opening, false)).unwrap();
    assert_eq!((how, index % 2), (Inserted::Evicted(NOTHING), 0));
    // And a timed-out one before all.
    everyone(&mut table, &|i, e| e.last_seen = Tick(if i % 4 == 1 { 0 } else { 3_599_000 }));
    let (index, how) = insert(&mut table, entry(4 << 20, 3_599_000, State::Opening, false)).unwrap();
    assert_eq!((how, index % 4), (Inserted::Expired(NOTHING), 1));
}

#[test]
fn sweeping_forgets_what_has_timed_out_and_what_is_not_wanted() {
    let mut table = FlowTable::new(256, 9);
    for n in 0..100 {
        insert(&mut table, entry(n, if n < 50 { 0 } else { 25_000 }, State::Opening, false)).unwrap();
    }
    let buckets = table.buckets();
    // Twenty seconds for an opening connection.
    assert_eq!(table.sweep(buckets, Tick(25_000), |_| true, drop), 50);
    assert_eq!(table.sweep(buckets, Tick(25_000), |e| e.key.endpoint() != EndpointIndex(0), drop), 17);
    assert_eq!(table.len(), 33);
}

proptest! {
    #[test]
    fn the_first_slot_with_a_tag_is_found(
        tags in prop::array::uniform8(prop::sample::select(vec![0u16, 1, 2, 0x7fff, 0x8000, 0x8001, 0xffff])),
        tag in prop::sample::select(vec![1u16, 2, 0x7fff, 0x8000, 0x8001, 0xffff]),
    ) {
        let expected = tags.iter().position(|candidate| *candidate == tag);
        prop_assert_eq!(super::table::first_match(&tags, tag), expected);
    }
}

#[test]
fn what_a_flow_has_carried_is_settled_once_however_it_ends() {
    let note = || FlowNote::new(Some(RuleId(7)), Some(RuleId(9)), Tick(0), 100);
    let carried = |packets, bytes| Carried { rule: Some(RuleId(7)), staged: Some(RuleId(9)), packets, bytes };
    let mut table = FlowTable::new(64, 3);
    let of = |table: &mut FlowTable| {
        let entry = FlowEntry { packets: 1, ..entry(1, 0, State::Established, true) };
        let index = table.insert(table.hash(&entry.key), entry, note()).unwrap().0;
        table.entry_mut(index).packets += 3;
        table.add_bytes(index, 300);
        index
    };
    let index = of(&mut table);
    assert_eq!(table.settle(index), carried(3, 300));
    assert_eq!(table.settle(index), carried(0, 0));
    table.entry_mut(index).packets += 1;
    table.add_bytes(index, 50);
    assert_eq!(table.remove(index), carried(1, 50));
    assert_eq!(table.remove(index), Carried::default(), "gone");
    of(&mut table);
    let mut seen = Vec::new();
    table.sweep(table.buckets(), Tick(0), |_| true, |carried| seen.push(carried));
    table.sweep(table.buckets(), Tick(0), |_| false, |carried| seen.push(carried));
    assert_eq!(seen, [carried(3, 300), carried(0, 0)]);
    of(&mut table);
    let mut total = 0;
    assert_eq!(table.settle_some(0, table.buckets(), |carried| total += carried.packets), None);
    assert_eq!(total, 3);
    // The count of packets wraps.
    let mut note = note();
    assert_eq!(note.settle(u32::MAX).packets, u64::from(u32::MAX) - 1);
    assert_eq!(note.settle(4).packets, 5);
}

#[test]
fn a_visit_in_steps_sees_every_flow_once() {
    let mut table = FlowTable::new(256, 9);
    for n in 0..60 {
        insert(&mut table, entry(n, 0, State::Established, true)).unwrap();
    }
    let (mut seen, mut next) = (Vec::new(), Some(0));
    while let Some(first) = next {
        next = table.visit(first, 5, |e, _| seen.push(e.key.remote()));
    }
    assert_eq!(seen.len(), 60);
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 60);
}
