//! The state of a fastpath depends on the objects alone, not on the way there.
//!
//! Every named world ([`worlds`]) is walked to from every other one, along ways that are expanded ([`expand`]): other
//! orders, other moments to flush, updates told twice. A simulated fastpath ([`simulator`]) applies what comes out and
//! checks every operation as it comes; in the end it must have what a fresh graph says of the last world.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "the helpers of tests fail by panicking")]

mod expand;
mod objects;
mod random;
mod scale;
mod simulator;
mod worlds;

use caracal_calc::CalcGraph;
use caracal_model::object::Kind;

use expand::{Step, World, difference, expansions, ups};
use simulator::Fastpath;

/// The node whose graph is tested.
const NODE: &str = "node1";

/// What a fresh graph says of a world.
fn expected(world: &World) -> Fastpath {
    let mut graph = CalcGraph::new(NODE);
    for update in ups(world) {
        graph.apply(update);
    }
    let mut fastpath = Fastpath::default();
    fastpath.apply(&graph.flush());
    fastpath
}

/// Takes a graph and its fastpath along a way, and compares them with what a fresh graph says of the end.
fn walk(name: &str, steps: &[Step], end: &World) {
    let mut graph = CalcGraph::new(NODE);
    let mut fastpath = Fastpath::default();
    for step in steps {
        match step {
            Step::Apply(update) => graph.apply(update.clone()),
            Step::Flush => fastpath.apply(&graph.flush()),
        }
    }
    fastpath.apply(&graph.flush());
    assert!(graph.flush().is_empty(), "{name}: a second flush says something");
    let mut expected = expected(end);
    if !end.keys().any(|key| key.kind == Kind::Node && key.name == NODE) {
        // There is no way to have no configuration.
        expected.config.clone_from(&fastpath.config);
    }
    assert_eq!(fastpath, expected, "{name}: the fastpath is not where a fresh one would be");
    let mut told_anew = Fastpath::default();
    told_anew.apply(&graph.state());
    assert_eq!(told_anew, expected, "{name}: the state is not what has been flushed");
}

#[test]
fn every_world_is_reached_from_every_other_one_along_every_way() {
    let worlds = worlds::all();
    for (from_name, from) in &worlds {
        for (to_name, to) in &worlds {
            let there = [ups(from), difference(from, to)];
            for (expansion, steps) in expansions(&there) {
                walk(&format!("{from_name} → {to_name}, {expansion}"), &steps, to);
            }
        }
    }
}

#[test]
fn all_worlds_in_a_row_forwards_and_backwards() {
    let worlds = worlds::all();
    let backwards: Vec<_> = worlds.iter().rev().cloned().collect();
    for row in [worlds, backwards] {
        let mut here = World::new();
        let mut legs = Vec::new();
        for (_, world) in &row {
            legs.push(difference(&here, world));
            here.clone_from(world);
        }
        for (expansion, steps) in expansions(&legs) {
            walk(&format!("the row, {expansion}"), &steps, &here);
        }
    }
}

#[test]
fn every_world_can_be_torn_down_in_every_order_of_kinds() {
    for (name, world) in worlds::all() {
        for order in permutations(&Kind::ALL) {
            let mut steps: Vec<Step> = ups(&world).into_iter().map(Step::Apply).collect();
            steps.push(Step::Flush);
            for kind in &order {
                let keys = world.keys().filter(|key| key.kind == *kind).cloned();
                steps.extend(keys.map(|key| Step::Apply(caracal_calc::Update::Delete(key))));
                steps.push(Step::Flush);
            }
            walk(&format!("{name}, torn down in the order {order:?}"), &steps, &World::new());
        }
    }
}

#[test]
fn every_world_can_be_built_up_in_every_order_of_kinds() {
    for (name, world) in worlds::all() {
        for order in permutations(&Kind::ALL) {
            let mut steps = Vec::new();
            for kind in &order {
                let objects = world.iter().filter(|(key, _)| key.kind == *kind);
                steps.extend(
                    objects.map(|(_, object)| Step::Apply(caracal_calc::Update::Upsert(object.clone()))),
                );
                steps.push(Step::Flush);
            }
            walk(&format!("{name}, built up in the order {order:?}"), &steps, &world);
        }
    }
}

fn permutations(kinds: &[Kind]) -> Vec<Vec<Kind>> {
    if kinds.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (index, first) in kinds.iter().enumerate() {
        let mut rest = kinds.to_vec();
        rest.remove(index);
        for mut tail in permutations(&rest) {
            tail.insert(0, *first);
            all.push(tail);
        }
    }
    all
}
