use caracal_plane_api as plane;

use super::super::RuleOwner;
use super::super::rules::{self, Binding, Fallback, Owner, RuleList, Tier};
use super::super::sets::SetNames;
use super::*;

fn range((first, last): (u32, u32)) -> plane::PortRange {
    plane::PortRange { first, last }
}

/// Ranges of ports; none: all.
type Of<'a> = &'a [(u32, u32)];

/// A list of TCP rules that allow these source and destination ports.
fn list(rules: &[(Of<'_>, Of<'_>)]) -> List {
    let entity = |ports: Of<'_>| {
        let ports = ports.iter().copied().map(range).collect();
        Some(plane::Entity { ports, ..Default::default() })
    };
    let rules: Vec<plane::Rule> = rules
        .iter()
        .map(|(source, destination)| plane::Rule {
            action: plane::Action::Allow.into(),
            protocol: 6,
            source: entity(source),
            destination: entity(destination),
            ..Default::default()
        })
        .collect();
    let rules = rules::from_plane(&rules, &mut SetNames::default()).unwrap();
    let policy = RuleOwner { kind: "NetworkPolicy".into(), namespace: "a".into(), name: "p".into() };
    let owner = Owner::Policy { tier: "default".into(), policy };
    let policies = vec![Arc::new(RuleList { owner, version: 1, rules })];
    let tiers = vec![Tier { name: "default".into(), default_deny: true, policies }];
    let binding = Binding { tiers, fallback: Fallback::Profiles(vec![]) };
    let mut last = 0;
    List::new(FlowDirection::Ingress, &binding, &mut |_| {
        last += 1;
        RuleId(last)
    })
}

/// The row of all rules of a list, with nothing said of classes.
fn row_of(list: &List) -> Arc<Row> {
    let rules: Vec<PortRule<'_>> = (0..)
        .zip(&list.rules)
        .map(|(place, rule)| PortRule {
            place,
            rule,
            source: rule.peer_ports.as_ref(),
            destination: rule.local_ports.as_ref(),
        })
        .collect();
    row(&rules, list, &mut |_, _| panic!("no rule logs"))
}

fn is_flat(row: &Row) -> bool {
    row.first() == Some(&FLAT)
}

#[test]
fn a_row_is_the_same_however_its_ports_are_cut_into_ranges() {
    let whole = row_of(&list(&[(&[], &[(80, 90)])]));
    assert_eq!(row_of(&list(&[(&[], &[(80, 84), (85, 90)])])), whole);
    let whole = row_of(&list(&[(&[(1, 9)], &[(80, 80)])]));
    assert_eq!(row_of(&list(&[(&[(1, 4), (5, 9)], &[(80, 80)])])), whole);
    assert!(is_flat(&whole));
}

#[test]
fn source_ports_that_lie_in_one_another_make_no_row_larger_than_its_rules_call_for() {
    let words = |count: u32| {
        let sources: Vec<[(u32, u32); 1]> = (0..count).map(|i| [(i, 1000 - i)]).collect();
        let destinations: Vec<[(u32, u32); 1]> = (0..count).map(|i| [(2 * i, 2 * i)]).collect();
        let rules: Vec<(Of<'_>, Of<'_>)> = sources
            .iter()
            .zip(&destinations)
            .map(|(source, destination)| (&source[..], &destination[..]))
            .collect();
        let row = row_of(&list(&rules));
        assert!(!is_flat(&row));
        row.len()
    };
    // Squares would be 16 times as many.
    assert!(words(400) < 6 * words(100), "{} {}", words(400), words(100));
}

#[test]
fn source_ports_apart_make_a_flat_row_and_so_do_overlaps_up_to_the_limit() {
    assert!(is_flat(&row_of(&list(&[(&[(1, 1)], &[]), (&[(3, 3)], &[]), (&[(5, 5)], &[])]))));
    // Two rules in four pieces: as much as two rules may take.
    let limit = 2 * FLAT_FACTOR + FLAT_FREE;
    assert_eq!(limit, 4);
    assert!(is_flat(&row_of(&list(&[(&[(0, 10)], &[]), (&[(5, 5)], &[])]))));
    assert!(!is_flat(&row_of(&list(&[(&[(0, 10)], &[]), (&[(5, 5), (7, 7)], &[]), (&[(2, 9)], &[])]))));
}
