//! What flows carry is on the account of the rule that decided about them, exactly, however they go on and end.

use super::super::PortName;
use super::super::datagram::{ACK, Datagram, FIN, SYN};
use super::super::world::{A, B, C, pod, rule};
use super::policy::{allow_port, deny_all, egress, ingress};
use super::support::*;
use crate::table::{Deciding, RuleCount};
use caracal_plane_api::plane::Action;

/// What is on the account of the rules whose names contain this.
fn of(world: &World, what: &str) -> (u64, u64, u64) {
    let counts = world.node.rule_counts(Deciding::Enforced).into_iter();
    let counts = counts.filter(|(name, _)| name.to_string().contains(what)).map(|(_, count)| count);
    let sum = counts.fold(RuleCount::default(), |sum, count| RuleCount {
        connections: sum.connections + count.connections,
        packets: sum.packets + count.packets,
        bytes: sum.bytes + count.bytes,
    });
    (sum.connections, sum.packets, sum.bytes)
}

/// The same, of what has been settled.
fn settled(world: &mut World, what: &str) -> (u64, u64) {
    let tables = std::sync::Arc::clone(world.node.tables());
    let rules = world.node.rule_names();
    let counts = rules.into_iter().filter(|(_, name)| name.to_string().contains(what));
    counts.fold((0, 0), |(packets, bytes), (rule, _)| {
        let count = tables.policy.counters.read(rule, Deciding::Enforced);
        (packets + count.packets, bytes + count.bytes)
    })
}

const OUT: fn(u8) -> Datagram = |flags| Datagram::tcp((A, 1000), (B, 80), flags, b"four");
const BACK: fn(u8) -> Datagram = |flags| Datagram::tcp((B, 80), (A, 1000), flags, b"");
const OUT_LEN: u64 = 14 + 40 + 4;
const BACK_LEN: u64 = 14 + 40;

#[test]
fn both_ways_of_a_connection_are_on_the_account_of_the_rule_that_let_it_begin() {
    let mut world = World::new();
    world.apply(&ingress("b", vec![allow_port(6, 80)]));
    world.send(&pod("a"), &from_pod(&OUT(SYN)));
    assert_eq!(of(&world, "for-b · ingress rule 0"), (1, 1, OUT_LEN));
    for _ in 0..3 {
        world.send(&pod("b"), &from_pod(&BACK(ACK)));
        world.send(&pod("a"), &from_pod(&OUT(ACK)));
    }
    let total = (1, 7, 4 * OUT_LEN + 3 * BACK_LEN);
    assert_eq!(of(&world, "for-b · ingress rule 0"), total);
    // The profiles' rules, of a's egress.
    assert_eq!(of(&world, "kns.default · egress"), total);
    // Who comes by settles what the first packet did not.
    assert_eq!(settled(&mut world, "for-b"), (1, OUT_LEN));
    world.now += 66_000;
    world.run();
    assert_eq!(settled(&mut world, "for-b"), (7, total.2));
    assert_eq!(of(&world, "for-b · ingress rule 0"), total, "and is not counted twice");
}

#[test]
fn a_connection_that_ends_leaves_its_account_behind_and_the_next_begins_its_own() {
    let mut world = World::new();
    world.apply(&ingress("b", vec![allow_port(6, 80)]));
    for _ in 0..2 {
        for datagram in [OUT(SYN), OUT(ACK), OUT(ACK | FIN)] {
            world.send(&pod("a"), &from_pod(&datagram));
        }
        world.send(&pod("b"), &from_pod(&BACK(ACK | FIN)));
    }
    assert_eq!(of(&world, "for-b"), (2, 8, 6 * OUT_LEN + 2 * BACK_LEN));
    // Timed out, and gone.
    world.now += 40_000;
    world.run();
    world.run();
    assert_eq!(world.flows(), 0);
    assert_eq!(of(&world, "for-b"), (2, 8, 6 * OUT_LEN + 2 * BACK_LEN));
}

#[test]
fn what_a_flow_carries_after_another_judgement_is_on_the_other_rules_account() {
    let mut world = World::new();
    world.apply(&ingress("b", vec![allow_port(6, 80)]));
    for flags in [SYN, ACK, ACK] {
        world.send(&pod("a"), &from_pod(&OUT(flags)));
    }
    world.apply(&ingress("b", vec![allow_port(17, 53), allow_port(6, 80)]));
    for _ in 0..2 {
        world.send(&pod("a"), &from_pod(&OUT(ACK)));
    }
    assert_eq!(of(&world, "for-b · ingress rule 0"), (1, 3, 3 * OUT_LEN));
    assert_eq!(of(&world, "for-b · ingress rule 1"), (0, 2, 2 * OUT_LEN));
    // Denied from now on, by the tier: every packet is on its account.
    world.apply(&deny_all("b"));
    for _ in 0..4 {
        assert_eq!(world.send(&pod("a"), &from_pod(&OUT(ACK))), []);
    }
    assert_eq!(of(&world, "isolates, no rule matched"), (0, 4, 4 * OUT_LEN));
    assert_eq!(of(&world, "for-b · ingress rule 1"), (0, 2, 2 * OUT_LEN));
}

#[test]
fn every_packet_that_belongs_to_no_flow_is_a_connection_that_was_denied() {
    let mut world = World::new();
    world.apply(&ingress("b", vec![rule(Action::Deny)]));
    for _ in 0..3 {
        world.send(&pod("a"), &from_pod(&OUT(SYN)));
    }
    assert_eq!(of(&world, "for-b"), (3, 3, 3 * OUT_LEN));
}

#[test]
fn nothing_is_lost_when_flows_make_way_for_others() {
    let mut world = World::with(super::super::world::kernel(), 64);
    world.apply(&egress("a", vec![allow_port(17, 53)]));
    let mut sent = 0;
    for port in 0..500 {
        for _ in 0..3 {
            let datagram = Datagram::udp((A, port), (C, 53), b"");
            sent += world.send(&pod("a"), &from_pod(&datagram)).len() as u64;
        }
    }
    assert!(world.node.counters().pipeline.flow_evicted.get() > 100);
    let refused = world.node.counters().dropped(crate::drop_reason::DropReason::FlowTableFull);
    assert_eq!((of(&world, "for-a").1, sent + refused), (1500, 1500));
}

#[test]
fn what_the_host_sends_to_its_own_pods_is_on_nobodys_account() {
    let mut world = World::new();
    let probe = Datagram::udp((super::super::world::TUNNEL1, 1), (A, 2), b"");
    for _ in 0..3 {
        world.send(&PortName::Host, &from_host(&probe));
    }
    assert_eq!(of(&world, ""), (0, 0, 0));
}
