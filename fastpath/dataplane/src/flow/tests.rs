//! The flow table against a plain map, and its promises about who makes way.

use std::collections::HashMap;
use std::net::IpAddr;

use proptest::prelude::*;

use super::{
    Aged, Carried, FlowEntry, FlowFlags, FlowKey, FlowNote, FlowTable, Gone, Inserted, State, Timeouts,
};
use crate::clock::Tick;
use crate::table::{EndpointIndex, FlowTimeouts, RuleId};

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
    let (_, how) = insert(&mut table, entry(2 << 20, 11, State::Opening, false)).unwrap();
    assert!(matches!(how, Inserted::Evicted(_)));
    // An ended flow goes before any half-open one.
    everyone(&mut table, &|i, e| e.state = if i % 2 == 0 { State::Closed } else { State::Opening });
    let (index, how) = insert(&mut table, entry(3 << 20, 12, State::Opening, false)).unwrap();
    assert!(matches!((how, index % 2), (Inserted::Evicted(_), 0)), "{how:?}, {index}");
    // And a timed-out one before all.
    everyone(&mut table, &|i, e| e.last_seen = Tick(if i % 4 == 1 { 0 } else { 3_599_000 }));
    let (index, how) = insert(&mut table, entry(4 << 20, 3_599_000, State::Opening, false)).unwrap();
    assert!(matches!((how, index % 4), (Inserted::Expired(_), 1)), "{how:?}, {index}");
}

/// Who goes when everybody who is due is looked at.
fn age(table: &mut FlowTable, now: u32, keep: impl Fn(&FlowEntry) -> bool) -> Vec<Aged> {
    std::iter::from_fn(|| table.age(Tick(now), &keep)).collect()
}

fn went(aged: &[Aged]) -> usize {
    aged.iter().filter(|aged| matches!(aged, Aged::Went(_))).count()
}

#[test]
fn what_has_timed_out_and_what_is_not_wanted_is_forgotten() {
    let mut table = FlowTable::new(256, 9);
    for n in 0..100 {
        insert(&mut table, entry(n, if n < 50 { 0 } else { 25_000 }, State::Opening, false)).unwrap();
    }
    // Twenty seconds for an opening connection.
    let aged = age(&mut table, 26_000, |_| true);
    assert_eq!((aged.len(), went(&aged)), (50, 50), "the others are not even looked at");
    let established = entry(200, 26_000, State::Established, true);
    let (index, _) = insert(&mut table, established).unwrap();
    for now in (26_000..100_000).step_by(10_000) {
        for n in 50..100 {
            let index = find(&table, n).unwrap();
            table.entry_mut(index).last_seen = Tick(now);
        }
        assert_eq!(went(&age(&mut table, now, |_| true)), 0);
    }
    let endpoints = |n: u32| EndpointIndex(n % 3);
    let aged = age(&mut table, 115_000, |e| e.key.endpoint() != endpoints(0));
    assert_eq!(went(&aged), 17);
    assert_eq!(table.len(), 34);
    assert_eq!(table.entry(index).key, established.key, "an hour for an established one");
}

#[test]
fn a_flow_that_comes_to_live_shorter_is_forgotten_when_that_is_over() {
    let mut table = FlowTable::new(64, 9);
    let (index, _) = insert(&mut table, entry(1, 0, State::Established, true)).unwrap();
    table.set_state(index, State::Closed);
    assert_eq!(age(&mut table, 30_000, |_| true), []);
    assert_eq!(went(&age(&mut table, 30_600, |_| true)), 1);
}

#[test]
fn timeouts_are_those_of_the_node() {
    let mut table = FlowTable::new(64, 9);
    let (index, _) = insert(&mut table, entry(1, 0, State::Established, true)).unwrap();
    assert!(
        !table.has_expired(table.entry(index), Tick(3_600_000))
            && table.has_expired(table.entry(index), Tick(3_600_001))
    );
    table.set_timeouts(Timeouts::new(&FlowTimeouts { tcp_established: 100, ..FlowTimeouts::default() }));
    assert!(
        !table.has_expired(table.entry(index), Tick(100)) && table.has_expired(table.entry(index), Tick(101))
    );
    assert_eq!(went(&age(&mut table, 66_000, |_| true)), 1, "at the latest when the wheel comes by");
}

/// What may happen to a table.
#[derive(Clone, Debug)]
enum Happening {
    Insert { n: u32, state: State, answered: bool, from_host: bool },
    Remove(u32),
    State(u32, State),
    Denied(u32, bool),
    Packet(u32),
    Time(u32),
}

fn happening() -> impl Strategy<Value = Happening> {
    let state = || prop::sample::select(State::ALL.to_vec());
    prop_oneof![
        6 => (0u32..200, state(), any::<bool>(), any::<bool>())
            .prop_map(|(n, state, answered, from_host)| Happening::Insert { n, state, answered, from_host }),
        1 => (0u32..200).prop_map(Happening::Remove),
        3 => (0u32..200, state()).prop_map(|(n, state)| Happening::State(n, state)),
        1 => (0u32..200, any::<bool>()).prop_map(|(n, denied)| Happening::Denied(n, denied)),
        2 => (0u32..200).prop_map(Happening::Packet),
        2 => prop::sample::select(vec![1u32, 300, 5_000, 31_000, 70_000]).prop_map(Happening::Time),
    ]
}

proptest! {
    /// A crowded table, in which flows are evicted, expire, end, are denied and removed.
    #[test]
    fn connections_are_counted_exactly_and_every_packet_is_accounted_for_once(
        happenings in prop::collection::vec(happening(), 1..600),
    ) {
        let mut table = FlowTable::new(64, 42);
        let (mut now, mut packets, mut accounted) = (0, 0, 0);
        for happening in happenings {
            match happening {
                Happening::Insert { n, state, answered, from_host } => {
                    if find(&table, n).is_some() {
                        continue;
                    }
                    let mut e = entry(n, now, state, answered);
                    if from_host {
                        e.flags = e.flags.from_host();
                    }
                    if let Ok((_, Inserted::Expired(gone) | Inserted::Evicted(gone))) = insert(&mut table, e) {
                        prop_assert!(find(&table, number(&gone.key)).is_none());
                        accounted += gone.carried.packets;
                    }
                }
                Happening::Remove(n) => {
                    let gone = find(&table, n).and_then(|index| table.remove(index));
                    accounted += gone.map_or(0, |gone| gone.carried.packets);
                }
                Happening::State(n, state) => {
                    if let Some(index) = find(&table, n) {
                        table.entry_mut(index).last_seen = Tick(now);
                        table.set_state(index, state);
                    }
                }
                Happening::Denied(n, denied) => {
                    if let Some(index) = find(&table, n) {
                        table.set_denied(index, denied);
                    }
                }
                Happening::Packet(n) => {
                    if let Some(index) = find(&table, n) {
                        let entry = table.entry_mut(index);
                        entry.last_seen = Tick(now);
                        table.count_packet(index, 100);
                        packets += 1;
                    }
                }
                Happening::Time(ms) => {
                    now += ms;
                    for aged in age(&mut table, now, |_| true) {
                        accounted += match aged {
                            Aged::Stays(carried) => carried.packets,
                            Aged::Went(gone) => gone.carried.packets,
                        };
                    }
                }
            }
            let mut counted: HashMap<(EndpointIndex, bool), u32> = HashMap::new();
            let (mut flows, mut unsettled) = (0, 0);
            table.visit(0, table.buckets(), |e, note| {
                flows += 1;
                unsettled += note.unsettled(e).packets;
                *counted.entry((e.key.endpoint(), e.flags.is_out())).or_default() += u32::from(e.counts());
            });
            prop_assert_eq!(flows, table.len());
            prop_assert_eq!(accounted + unsettled, packets);
            for endpoint in (0..3).map(EndpointIndex) {
                for out in [false, true] {
                    let expected = counted.get(&(endpoint, out)).copied().unwrap_or(0);
                    prop_assert_eq!(table.connections(endpoint, out), expected);
                }
            }
        }
    }
}

/// The number that a key was made from.
fn number(key: &FlowKey) -> u32 {
    let (IpAddr::V4(local), IpAddr::V4(remote)) = (key.local().0, key.remote().0) else { panic!("{key:?}") };
    let ([.., a], [_, b, c, d]) = (local.octets(), remote.octets());
    u32::from_be_bytes([a, b, c, d])
}

#[test]
fn in_a_flood_of_ten_tables_the_established_stay_and_who_answers_in_a_round_trip_gets_in() {
    let mut table = FlowTable::new(4096, 77);
    let size = table.capacity() as u32;
    let established: Vec<u32> = (0..size / 3)
        .filter(|n| insert(&mut table, entry(*n, 0, State::Established, true)).is_ok())
        .collect();
    // A SYN of somebody who means it among fifty of the flood; his answer comes after so many more of them.
    let round_trip = 500;
    let (mut waiting, mut asked, mut served) = (std::collections::VecDeque::new(), 0, 0);
    for n in 0..10 * size {
        let now = n / 100;
        let _ = insert(&mut table, entry(1 << 24 | n, now, State::Opening, false));
        if n % 50 == 0 {
            let honest = 2 << 24 | n;
            asked += 1;
            if insert(&mut table, entry(honest, now, State::Opening, false)).is_ok() {
                waiting.push_back((n + round_trip, honest));
            }
        }
        while let Some((_, honest)) = waiting.pop_front_if(|(due, _)| *due <= n) {
            if let Some(index) = find(&table, honest) {
                served += 1;
                let _ = table.remove(index);
            }
        }
    }
    assert!(established.iter().all(|n| find(&table, *n).is_some()));
    assert!(served * 100 >= asked * 95, "{served} of {asked}");
}

#[test]
fn what_a_flow_has_carried_is_settled_once_however_it_ends() {
    let note = || FlowNote::new(Some(RuleId(7)), Some(RuleId(9)), Tick(0), 100);
    let carried = |packets, bytes| Carried { rule: Some(RuleId(7)), staged: Some(RuleId(9)), packets, bytes };
    let mut table = FlowTable::new(64, 3);
    let of = |table: &mut FlowTable| {
        let entry = entry(1, 0, State::Established, true);
        let index = table.insert(table.hash(&entry.key), entry, note()).unwrap().0;
        (0..3).for_each(|_| table.count_packet(index, 100));
        index
    };
    let index = of(&mut table);
    assert_eq!(table.settle(index), carried(3, 300));
    assert_eq!(table.settle(index), carried(0, 0));
    table.count_packet(index, 50);
    let gone = |carried| Gone { key: key(1), flags: entry(1, 0, State::Opening, true).flags, carried };
    assert_eq!(table.remove(index), Some(gone(carried(1, 50))));
    assert_eq!(table.remove(index), None);
    of(&mut table);
    assert_eq!(age(&mut table, 70_000, |_| true), [Aged::Stays(carried(3, 300))]);
    assert_eq!(age(&mut table, 140_000, |_| false), [Aged::Went(gone(carried(0, 0)))]);
    of(&mut table);
    let mut total = 0;
    assert_eq!(table.settle_some(0, table.buckets(), |carried| total += carried.packets), None);
    assert_eq!(total, 3);
}

#[test]
fn whatever_a_flow_carries_is_counted_and_settled_though_its_entry_has_room_for_little() {
    let mut table = FlowTable::new(64, 3);
    let entry = entry(1, 0, State::Established, true);
    let note = FlowNote::new(None, None, Tick(0), 100);
    let (index, _) = table.insert(table.hash(&entry.key), entry, note).unwrap();
    let (packets, bytes) = (200_000u64, 65_549u64);
    for _ in 0..packets / 2 {
        table.count_packet(index, bytes as usize);
    }
    let total = |table: &FlowTable| {
        let (entry, note) = (table.entry(index), table.note(index));
        (u64::from(note.packets(entry)), note.bytes(entry))
    };
    assert_eq!(total(&table), (1 + packets / 2, 100 + packets / 2 * bytes));
    let carried = table.settle(index);
    assert_eq!((carried.packets, carried.bytes), (packets / 2, packets / 2 * bytes));
    for _ in 0..packets / 2 {
        table.count_packet(index, bytes as usize);
    }
    assert_eq!(total(&table), (1 + packets, 100 + packets * bytes));
    let carried = table.settle(index);
    assert_eq!((carried.packets, carried.bytes), (packets / 2, packets / 2 * bytes));
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
