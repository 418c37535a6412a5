//! The state of a fastpath depends on the objects alone, not on the way there.
//!
//! Every named world ([`worlds`]) is walked to from every other one of its family, along ways that are expanded
//! ([`expand`]): other orders, other moments to flush, updates told twice. A simulated fastpath ([`simulator`]) applies what comes out and
//! checks every operation as it comes; in the end it must have what a fresh graph says of the last world.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "the helpers of tests fail by panicking")]

mod expand;
mod meaning;
mod objects;
mod random;
mod random_calico;
mod scale;
mod services;
mod simulator;
mod ways;
mod worlds;

use caracal_calc::{CalcGraph, Update};
use caracal_model::object::{Kind, Object};

use expand::{Step, World, difference, expansions, ups};
use simulator::Fastpath;

/// The node whose graph is tested.
const NODE: &str = "node1";

/// The graph of these objects, and a fastpath that has been told all of it at once.
fn told_at_once(objects: impl IntoIterator<Item = Object>) -> (CalcGraph, Fastpath) {
    let mut graph = CalcGraph::new(NODE);
    objects.into_iter().for_each(|object| graph.apply(Update::Upsert(object)));
    let mut fastpath = Fastpath::default();
    fastpath.apply(&graph.flush());
    (graph, fastpath)
}

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
fn every_world_is_reached_from_every_other_one_of_its_family_along_every_way() {
    for worlds in worlds::families() {
        for ((from_name, from), (to_name, to)) in
            worlds.iter().flat_map(|from| worlds.iter().map(move |to| (from, to)))
        {
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

/// Kinds that a world has objects of, in every order if they are few; else in orders that put each pair both ways, and
/// many more.
fn orders<T: Clone>(things: &[T]) -> Vec<Vec<T>> {
    const FEW: usize = 5;
    if things.len() <= FEW {
        return permutations(things);
    }
    let mut orders = Vec::new();
    for step in 0..things.len() {
        let mut forwards = things.to_vec();
        forwards.rotate_left(step);
        let backwards: Vec<T> = forwards.iter().rev().cloned().collect();
        // Every other one first: neighbours do not stay neighbours.
        let (odd, even): (Vec<_>, Vec<_>) =
            forwards.iter().cloned().enumerate().partition(|(at, _)| at % 2 == 1);
        let combed = odd.into_iter().chain(even).map(|(_, thing)| thing).collect();
        orders.extend([forwards, backwards, combed]);
    }
    orders
}

fn kinds_of(world: &World) -> Vec<Kind> {
    Kind::ALL.iter().copied().filter(|kind| world.keys().any(|key| key.kind == *kind)).collect()
}

#[test]
fn every_world_can_be_torn_down_in_every_order_of_kinds() {
    for (name, world) in worlds::all() {
        for order in orders(&kinds_of(&world)) {
            let mut steps: Vec<Step> = ups(&world).into_iter().map(Step::Apply).collect();
            steps.push(Step::Flush);
            for kind in &order {
                let keys = world.keys().filter(|key| key.kind == *kind).cloned();
                steps.extend(keys.map(|key| Step::Apply(Update::Delete(key))));
                steps.push(Step::Flush);
            }
            walk(&format!("{name}, torn down in the order {order:?}"), &steps, &World::new());
        }
    }
}

#[test]
fn every_world_can_be_built_up_in_every_order_of_kinds() {
    for (name, world) in worlds::all() {
        for order in orders(&kinds_of(&world)) {
            let mut steps = Vec::new();
            for kind in &order {
                let objects = world.iter().filter(|(key, _)| key.kind == *kind);
                steps.extend(objects.map(|(_, object)| Step::Apply(Update::Upsert(object.clone()))));
                steps.push(Step::Flush);
            }
            walk(&format!("{name}, built up in the order {order:?}"), &steps, &world);
        }
    }
}

#[test]
fn small_worlds_are_torn_down_and_built_up_in_every_order_of_objects() {
    for (name, world) in worlds::small() {
        let objects: Vec<Object> = world.values().cloned().collect();
        for order in permutations(&objects) {
            let up =
                order.iter().cloned().flat_map(|object| [Step::Apply(Update::Upsert(object)), Step::Flush]);
            let up: Vec<Step> = up.collect();
            walk(&format!("{name}, built up"), &up, &world);
            let down =
                order.iter().flat_map(|object| [Step::Apply(Update::Delete(object.key())), Step::Flush]);
            let down: Vec<Step> =
                ups(&world).into_iter().map(Step::Apply).chain([Step::Flush]).chain(down).collect();
            walk(&format!("{name}, torn down"), &down, &World::new());
        }
    }
}

fn permutations<T: Clone>(things: &[T]) -> Vec<Vec<T>> {
    if things.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (index, first) in things.iter().enumerate() {
        let mut rest = things.to_vec();
        rest.remove(index);
        for mut tail in permutations(&rest) {
            tail.insert(0, first.clone());
            all.push(tail);
        }
    }
    all
}
