use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

fn socket(host: u8, port: u16) -> Socket {
    (IpAddr::from([10, 0, 0, host]), port)
}

fn any_key() -> impl Strategy<Value = FlowKey> {
    (0u32..2, prop::sample::select(vec![6u8, 17]), 0u8..3, 0u16..3, 0u8..3).prop_map(
        |(endpoint, protocol, local, port, remote)| {
            key(EndpointIndex(endpoint), protocol, socket(local, port), socket(remote, 80))
        },
    )
}

#[derive(Clone, Debug)]
enum Step {
    Insert(FlowKey, FlowKey),
    Remove(FlowKey),
    Touch(FlowKey, bool),
    Wait(u32),
    Sweep(usize),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (any_key(), any_key()).prop_map(|(inside, wire)| Step::Insert(inside, wire)),
        2 => any_key().prop_map(Step::Remove),
        2 => (any_key(), any::<bool>()).prop_map(|(key, reply)| Step::Touch(key, reply)),
        1 => (0u32..30_000).prop_map(Step::Wait),
        1 => (0usize..100).prop_map(Step::Sweep),
    ]
}

/// The slow twin: two maps, and the time of the last packet.
#[derive(Default)]
struct Twin {
    live: BTreeMap<u32, (FlowKey, FlowKey, State, Tick)>,
    next: u32,
}

impl Twin {
    fn expire(&mut self, now: Tick) {
        let timeouts = Timeouts::default();
        self.live
            .retain(|_, (inside, _, state, seen)| now.since(*seen) <= timeouts.of(inside.protocol(), *state));
    }

    fn by_inside(&self, key: &FlowKey) -> Option<u32> {
        self.live.iter().find(|(_, (inside, ..))| inside == key).map(|(at, _)| *at)
    }

    fn by_wire(&self, key: &FlowKey) -> Option<u32> {
        self.live.iter().find(|(_, (_, wire, ..))| wire == key).map(|(at, _)| *at)
    }
}

fn same_protocol(inside: &FlowKey, wire: &FlowKey) -> bool {
    (inside.endpoint(), inside.protocol()) == (wire.endpoint(), wire.protocol())
}

proptest! {
    #[test]
    fn the_table_finds_what_two_maps_find(steps in prop::collection::vec(any_step(), 1..300), secret in any::<u64>()) {
        let (mut table, mut twin, mut now) = (Translations::new(200, secret), Twin::default(), Tick(5));
        for step in steps {
            twin.expire(now);
            match step {
                Step::Insert(inside, wire) => {
                    let is_free = twin.by_inside(&inside).is_none() && twin.by_wire(&wire).is_none();
                    let found = table.by_inside(&inside, now).is_some() || table.by_wire(&wire, now).is_some();
                    prop_assert_eq!(is_free, !found);
                    if is_free && same_protocol(&inside, &wire) {
                        let new = Translation::new(inside, wire, Flags(Flags::SYN.0), now);
                        prop_assert!(table.insert(new).is_ok());
                        twin.live.insert(twin.next, (inside, wire, State::Opening, now));
                        twin.next += 1;
                    }
                }
                Step::Remove(key) => {
                    let index = table.by_inside(&key, now);
                    prop_assert_eq!(index.is_some(), twin.by_inside(&key).is_some());
                    if let (Some(index), Some(at)) = (index, twin.by_inside(&key)) {
                        table.remove(index);
                        twin.live.remove(&at);
                    }
                }
                Step::Touch(key, reply) => {
                    let index = table.by_wire(&key, now);
                    prop_assert_eq!(index.is_some(), twin.by_wire(&key).is_some());
                    if let (Some(index), Some(at)) = (index, twin.by_wire(&key)) {
                        let way = if reply { Way::Reply } else { Way::Original };
                        table.touch(index, way, Flags(Flags::ACK.0), now);
                        let (inside, _, state, seen) = twin.live.get_mut(&at).unwrap();
                        *seen = now;
                        *state = match (inside.protocol(), reply) {
                            (6, _) => state.next(way, Flags(Flags::ACK.0)),
                            (_, true) => State::Established,
                            (_, false) => *state,
                        };
                        prop_assert_eq!(table.get(index).inside, *inside);
                    }
                }
                Step::Wait(ms) => now = Tick(now.0.wrapping_add(ms)),
                Step::Sweep(count) => {
                    table.sweep(count, now, |_| true);
                }
            }
            twin.expire(now);
            prop_assert!(table.len() >= twin.live.len() && table.of_node() == 0);
            for (inside, wire, ..) in twin.live.values() {
                let (one, other) = (table.by_inside(inside, now), table.by_wire(wire, now));
                prop_assert!(one.is_some() && one == other);
                prop_assert_eq!(table.get(one.unwrap()).wire, *wire);
            }
        }
        table.sweep(usize::MAX, now, |_| true);
        prop_assert_eq!(table.len(), twin.live.len());
    }
}

fn translation(port: u16, now: Tick) -> Translation {
    let inside = key(NODE, 17, socket(1, port), socket(2, 53));
    Translation::new(inside, key(NODE, 17, socket(3, port), socket(2, 53)), Flags(0), now)
}

#[test]
fn in_a_full_table_one_that_was_never_answered_makes_way_and_no_other() {
    let mut table = Translations::new(64, 9);
    for port in 0..64 {
        let index = table.insert(translation(port, Tick(u32::from(port)))).unwrap();
        if port != 40 {
            table.touch(index, Way::Reply, Flags(0), Tick(u32::from(port)));
        }
    }
    // Only so many are looked at: it need not be the first try that finds it.
    let made = (0..2).filter(|i| table.insert(translation(100 + i, Tick(70))).is_ok()).count();
    assert_eq!(made, 1);
    let held = |table: &mut Translations, port| table.by_inside(&translation(port, Tick(0)).inside, Tick(70));
    assert!(held(&mut table, 40).is_none());
    assert!((0..64).filter(|port| *port != 40).all(|port| held(&mut table, port).is_some()));
    assert_eq!(table.len(), 64);
}

#[test]
fn a_translation_lives_as_long_as_a_flow_of_its_kind() {
    let mut table = Translations::new(64, 9);
    let new = translation(1, Tick(1000));
    let index = table.insert(new).unwrap();
    assert_eq!(table.by_wire(&new.wire, Tick(61_000)), Some(index));
    assert_eq!(table.by_wire(&new.wire, Tick(61_001)), None);
    assert!(table.is_empty());
}
