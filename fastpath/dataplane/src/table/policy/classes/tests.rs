use proptest::prelude::*;

use super::super::sets::SetNames;
use super::*;

const PREFIXES: [(&str, u8); 8] = [
    ("0.0.0.0", 0),
    ("10.0.0.0", 8),
    ("10.0.0.0", 31),
    ("10.0.0.0", 32),
    ("10.0.0.1", 32),
    ("::", 0),
    ("fd00::", 64),
    ("fd00::1", 128),
];

proptest! {
    #[test]
    fn what_has_left_all_sets_leaves_nothing_behind_and_every_class_dies_once(
        steps in prop::collection::vec((0..PREFIXES.len(), 0..3usize, 0..3u16, any::<bool>()), 1..60),
    ) {
        let mut names = SetNames::default();
        let sets = ["s0", "s1", "s2"].map(|name| names.intern(name));
        let prefixes = PREFIXES.map(|(address, length)| Prefix::new(address.parse().unwrap(), length));
        let mut classes = Classes::default();
        let mut alive = FxHashSet::default();
        let mut settle = |classes: &mut Classes| -> Result<(), TestCaseError> {
            let Some(settled) = classes.settle() else { return Ok(()) };
            for class in settled.born {
                prop_assert!(alive.insert(class));
            }
            for (class, content) in settled.dead {
                // One that was never any address's is not born either.
                alive.remove(&class);
                prop_assert!(!content.is_empty());
            }
            let there: FxHashSet<ClassId> = classes.interned.classes.keys().copied().collect();
            prop_assert_eq!(&alive, &there);
            Ok(())
        };
        let membership = |set: usize, port| match port {
            0 => Membership::address(sets[set]),
            port => Membership { set: sets[set], protocol: 6, port },
        };
        for (prefix, set, port, joins) in steps {
            match joins {
                true => classes.join(prefixes[prefix], membership(set, port)),
                false => classes.leave(prefixes[prefix], membership(set, port)),
            }
            if port == 1 {
                settle(&mut classes)?;
            }
            // An own content is as many prefixes' as say so.
            for (own, (_, users)) in classes.owns.contents.iter().enumerate().skip(1) {
                let having = classes.by_prefix.values();
                let having = having.filter(|number| classes.identities[**number as usize].own == own as OwnId);
                prop_assert_eq!(having.count(), *users);
            }
        }
        for prefix in prefixes {
            for set in 0..sets.len() {
                (0..3).for_each(|port| classes.leave(prefix, membership(set, port)));
            }
        }
        settle(&mut classes)?;
        prop_assert!(classes.by_prefix.is_empty());
        prop_assert_eq!(classes.free.len(), classes.identities.len());
        let counts = classes.lengths.iter().flat_map(|counts| counts.0);
        prop_assert_eq!(counts.sum::<u32>(), 0);
        let owns = &classes.owns;
        prop_assert_eq!((owns.contents[0].1, owns.by_content.len()), (1, 1));
        prop_assert_eq!(owns.free.len() + 1, owns.contents.len());
        let interned = &classes.interned;
        prop_assert!(interned.classes.is_empty() && interned.by_content.is_empty() && interned.by_set.is_empty());
        prop_assert!(alive.is_empty());
    }
}
