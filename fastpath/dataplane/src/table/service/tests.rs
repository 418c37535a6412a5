use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

fn backend(number: u32) -> Backend {
    Backend {
        address: IpAddr::V4(Ipv4Addr::from_bits(0x0af4_0000 + number)),
        port: 8080 + (number % 3) as u16,
    }
}

fn backends(numbers: impl IntoIterator<Item = u32>) -> Backends {
    Backends::new(numbers.into_iter().map(backend).collect())
}

/// The slow twin, as the paper writes it: whole permutations, then turns.
fn reference(list: &[Backend]) -> Vec<u16> {
    let size = maglev::size(list.len());
    let permutations: Vec<Vec<usize>> = list
        .iter()
        .map(|backend| {
            let (offset, step) = maglev::permutation(backend, size);
            (0..size).map(|j| (offset + j * step) % size).collect()
        })
        .collect();
    let mut next = vec![0; list.len()];
    let mut entry: Vec<Option<u16>> = vec![None; size];
    let mut filled = 0;
    while filled < size {
        for i in 0..list.len() {
            let mut place = permutations[i][next[i]];
            while entry[place].is_some() {
                next[i] += 1;
                place = permutations[i][next[i]];
            }
            entry[place] = Some(i as u16);
            next[i] += 1;
            filled += 1;
            if filled == size {
                break;
            }
        }
    }
    entry.into_iter().flatten().collect()
}

/// Of so many clients, who gets whom.
fn shares(backends: &Backends, clients: u16) -> Vec<Option<Backend>> {
    let vip = (IpAddr::from([10, 96, 0, 10]), 53);
    (0..clients)
        .map(|port| backends.choose(client_hash(17, (IpAddr::from([10, 244, 1, 7]), port), vip), true))
        .collect()
}

#[test]
fn nobody_is_chosen_where_there_is_nobody() {
    assert_eq!(backends([]).choose(7, true), None);
}

#[test]
fn one_backend_gets_everybody_and_needs_no_table() {
    let one = backends([1]);
    assert!(shares(&one, 100).iter().all(|chosen| *chosen == Some(backend(1))));
    assert!(one.v4.table.is_empty());
}

#[test]
fn a_client_gets_a_backend_of_its_own_family() {
    let v6 = Backend { address: IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 7u16]), port: 80 };
    let both = Backends::new(vec![v6, backend(1), backend(2)]);
    assert!((0..100).all(|hash| both.choose(hash, false) == Some(v6)));
    assert!((0..100).all(|hash| both.choose(hash, true).unwrap().address.is_ipv4()));
    assert!(both.contains(&v6) && both.contains(&backend(2)) && !both.contains(&backend(3)));
}

#[test]
fn a_table_has_five_places_a_backend_and_is_a_prime_of_the_ladder() {
    assert_eq!([2, 100, 101, 1000, 60_000].map(maglev::size), [503, 503, 2039, 8191, 524_287]);
}

#[test]
fn a_backend_that_is_named_twice_counts_once() {
    assert_eq!(backends([1, 2, 1]).v4.list, backends([2, 1]).v4.list);
}

#[test]
fn only_those_in_the_ranges_may_ask() {
    let prefix = Prefix::new([198, 51, 100, 0].into(), 24);
    let mut frontend = Frontend {
        key: FrontendKey { address: None, protocol: 6, port: 30_080 },
        service: ServiceIndex(0),
        external: true,
        sources: Arc::new([prefix]),
    };
    assert!(frontend.admits([198, 51, 100, 9].into()) && !frontend.admits([198, 51, 101, 9].into()));
    frontend.sources = Arc::new([]);
    assert!(frontend.admits([198, 51, 101, 9].into()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_table_is_the_papers(numbers in proptest::collection::btree_set(0u32..100_000, 2..150)) {
        let fast = backends(numbers);
        prop_assert_eq!(fast.v4.table.to_vec(), reference(&fast.v4.list));
    }

    #[test]
    fn the_order_in_which_backends_are_named_makes_no_difference(
        numbers in proptest::collection::vec(0u32..1000, 0..40)
    ) {
        let reversed = backends(numbers.iter().rev().copied());
        prop_assert_eq!(shares(&backends(numbers), 200), shares(&reversed, 200));
    }

    #[test]
    fn all_backends_have_the_same_number_of_places_give_or_take_one(
        numbers in proptest::collection::btree_set(0u32..100_000, 2..120)
    ) {
        let chosen = backends(numbers);
        let mut places = BTreeMap::<u16, usize>::new();
        for place in &chosen.v4.table {
            *places.entry(*place).or_default() += 1;
        }
        prop_assert_eq!(places.len(), chosen.v4.list.len());
        let (least, most) = (places.values().min().unwrap(), places.values().max().unwrap());
        prop_assert!(most - least <= 1);
    }

    /// Clients of the one that goes must move; of the others the paper finds a few in a hundred.
    #[test]
    fn when_a_backend_goes_few_others_lose_their_clients(
        numbers in proptest::collection::btree_set(0u32..100_000, 3..90),
        which in any::<proptest::sample::Index>()
    ) {
        let gone = *which.get(&numbers.iter().copied().collect::<Vec<_>>());
        let before = backends(numbers.iter().copied());
        let after = backends(numbers.into_iter().filter(|number| *number != gone));
        let clients = 2000;
        let pairs = shares(&before, clients).into_iter().zip(shares(&after, clients));
        let moved = pairs.filter(|(a, b)| a != b && *a != Some(backend(gone))).count();
        prop_assert!(moved * 100 <= usize::from(clients) * 15, "{moved} of {clients} moved");
    }
}
