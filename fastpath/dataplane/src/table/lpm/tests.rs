use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

/// The obvious way: of all prefixes that contain the address, the longest.
#[derive(Default, Clone)]
struct Reference {
    prefixes: BTreeMap<Prefix, u32>,
}

impl Reference {
    fn lookup(&self, address: IpAddr) -> Option<u32> {
        let containing = self.prefixes.iter().filter(|(prefix, _)| prefix.contains(address));
        containing.max_by_key(|(prefix, _)| prefix.length()).map(|(_, value)| *value)
    }
}

/// Few distinct bits in every byte, so that prefixes nest and meet.
fn address() -> impl Strategy<Value = IpAddr> {
    let byte = || prop_oneof![Just(0u8), Just(1), Just(127), Just(128), Just(255)];
    let v4 = prop::array::uniform4(byte()).prop_map(|bytes| IpAddr::from(Ipv4Addr::from(bytes)));
    let v6 = (prop::array::uniform4(byte()), byte()).prop_map(|(first, last)| {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&first);
        bytes[15] = last;
        IpAddr::from(Ipv6Addr::from(bytes))
    });
    prop_oneof![v4, v6]
}

fn prefix() -> impl Strategy<Value = Prefix> {
    (address(), 0..=128u8).prop_map(|(address, length)| Prefix::new(address, length))
}

#[derive(Debug, Clone)]
enum Step {
    Insert(Prefix, u32),
    /// Of what is there, the one at this place.
    Change(usize, u32),
    /// Of what is there, the one at this place.
    Remove(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (prefix(), 0..20u32).prop_map(|(prefix, value)| Step::Insert(prefix, value)),
        1 => (any::<usize>(), 0..20u32).prop_map(|(place, value)| Step::Change(place, value)),
        2 => any::<usize>().prop_map(Step::Remove),
    ]
}

/// Addresses where an off-by-one would show: those given, and around the ends of every prefix.
fn probes(reference: &Reference, given: &[IpAddr]) -> Vec<IpAddr> {
    let ends = reference.prefixes.keys().flat_map(|prefix| match prefix.address() {
        IpAddr::V4(first) => {
            let first = first.to_bits();
            let last = first | u32::MAX.checked_shr(u32::from(prefix.length())).unwrap_or(0);
            [first.wrapping_sub(1), first, last, last.wrapping_add(1)]
                .map(|bits| IpAddr::from(Ipv4Addr::from_bits(bits)))
        }
        IpAddr::V6(first) => {
            let first = first.to_bits();
            let last = first | u128::MAX.checked_shr(u32::from(prefix.length())).unwrap_or(0);
            [first.wrapping_sub(1), first, last, last.wrapping_add(1)]
                .map(|bits| IpAddr::from(Ipv6Addr::from_bits(bits)))
        }
    });
    ends.chain(given.iter().copied()).collect()
}

fn agree(lpm: &Lpm, reference: &Reference, given: &[IpAddr]) -> Result<(), TestCaseError> {
    for address in probes(reference, given) {
        prop_assert_eq!(lpm.lookup(address), reference.lookup(address), "{}", address);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_trie_agrees_with_a_linear_scan_after_every_step_and_old_snapshots_stay(
        steps in prop::collection::vec(step(), 1..40),
        given in prop::collection::vec(address(), 10),
    ) {
        let mut builder = LpmBuilder::default();
        let mut reference = Reference::default();
        let mut former: Vec<(Lpm, Reference)> = Vec::new();
        for step in steps {
            let there = |place: usize| {
                reference.prefixes.keys().nth(place % reference.prefixes.len().max(1)).copied()
            };
            let (prefix, value) = match step {
                Step::Insert(prefix, value) => (Some(prefix), Some(value)),
                Step::Change(place, value) => (there(place), Some(value)),
                Step::Remove(place) => (there(place), None),
            };
            match (prefix, value) {
                (Some(prefix), Some(value)) => {
                    prop_assert_eq!(builder.insert(prefix, value), reference.prefixes.insert(prefix, value));
                }
                (Some(prefix), None) => {
                    prop_assert_eq!(builder.remove(prefix), reference.prefixes.remove(&prefix));
                }
                (None, _) => continue,
            }
            let lpm = builder.snapshot();
            agree(&lpm, &reference, &given)?;
            former.push((lpm, reference.clone()));
        }
        for (lpm, reference) in former {
            agree(&lpm, &reference, &given)?;
        }
    }

    #[test]
    fn nothing_is_left_when_all_prefixes_are_removed(prefixes in prop::collection::btree_set(prefix(), 1..30)) {
        let mut builder = LpmBuilder::default();
        for (value, prefix) in prefixes.iter().enumerate() {
            builder.insert(*prefix, value as u32);
        }
        for prefix in &prefixes {
            builder.remove(*prefix);
        }
        for trie in [&builder.v4, &builder.v6] {
            prop_assert_eq!(trie.free.len(), trie.pages as usize, "every page is free again");
            let root = trie.segments.iter().take(ROOT_SEGMENTS);
            let mut checked: Option<&Leaves> = None;
            for leaves in root {
                if checked.is_some_and(|checked| checked.is_same(leaves)) {
                    continue;
                }
                prop_assert!(leaves.slots.iter().all(|slot| *slot == NOTHING));
                prop_assert!(leaves.lengths.iter().all(|length| *length == 0));
                checked = Some(leaves);
            }
        }
    }

    #[test]
    fn a_batch_finds_what_each_finds_alone(
        routes in prop::collection::vec((prefix(), 0..20u32), 0..40),
        asked in prop::collection::vec(address(), 0..100),
    ) {
        let mut builder = LpmBuilder::default();
        for (prefix, value) in routes {
            builder.insert(prefix, value);
        }
        let lpm = builder.snapshot();
        // Neither a multiple of four nor of sixteen.
        const BATCH: usize = 39;
        for asked in asked.chunks(BATCH) {
            let (mut v4, mut v6) = ([0; BATCH], [0; BATCH]);
            for (place, address) in asked.iter().enumerate() {
                match address {
                    IpAddr::V4(address) => v4[place] = address.to_bits(),
                    IpAddr::V6(address) => v6[place] = address.to_bits(),
                }
            }
            let mut values = [7; BATCH];
            lpm.lookup_batch_v4(&v4, &mut values);
            let alone = |address: u32| lpm.lookup_v4(Ipv4Addr::from_bits(address)).unwrap_or(NO_VALUE);
            prop_assert_eq!(values, v4.map(alone));
            lpm.lookup_batch_v6(&v6, &mut values);
            let alone = |address: u128| lpm.lookup_v6(Ipv6Addr::from_bits(address)).unwrap_or(NO_VALUE);
            prop_assert_eq!(values, v6.map(alone));
        }
    }
}

#[test]
fn a_short_prefix_over_nothing_takes_one_segment() {
    let bytes = |prefixes: &[Prefix]| {
        let mut builder = LpmBuilder::default();
        for prefix in prefixes {
            builder.insert(*prefix, 1);
        }
        builder.snapshot().bytes()
    };
    assert_eq!(bytes(&[p("128.0.0.0", 1)]), bytes(&[p("10.1.1.0", 24)]));
}

fn p(address: &str, length: u8) -> Prefix {
    Prefix::new(address.parse().unwrap(), length)
}

#[test]
fn a_prefix_has_inside_what_it_covers_and_nothing_beside_it() {
    let mut builder = LpmBuilder::default();
    builder.insert(p("10.1.0.0", 16), 1);
    builder.insert(p("fd00::", 64), 2);
    assert!(builder.has_inside(p("10.0.0.0", 8)) && builder.has_inside(p("10.1.0.0", 16)));
    assert!(!builder.has_inside(p("10.1.0.0", 17)) && !builder.has_inside(p("10.0.0.0", 16)));
    assert!(builder.has_inside(p("::", 0)) && !builder.has_inside(p("fe80::", 10)));
}

#[test]
fn the_bytes_of_both_families_count() {
    let bytes = |prefixes: &[Prefix]| {
        let mut builder = LpmBuilder::default();
        for prefix in prefixes {
            builder.insert(*prefix, 1);
        }
        builder.snapshot().bytes()
    };
    let (v4, v6) = (p("10.1.1.0", 24), p("fd00::", 64));
    let segment = SEGMENT * size_of::<u32>();
    assert!(bytes(&[v4]) > segment && bytes(&[v6]) > segment);
    assert_eq!(bytes(&[v4, v6]) + bytes(&[]), bytes(&[v4]) + bytes(&[v6]));
}
