//! Ways from world to world.

use std::collections::BTreeMap;

use caracal_calc::Update;
use caracal_model::object::{Object, ObjectKey};

/// All objects of a moment.
pub type World = BTreeMap<ObjectKey, Object>;

/// A step of a walk.
#[derive(Debug, Clone)]
pub enum Step {
    Apply(Update),
    Flush,
}

pub fn ups(world: &World) -> Vec<Update> {
    world.values().cloned().map(Update::Upsert).collect()
}

/// The updates that turn one world into another.
pub fn difference(from: &World, to: &World) -> Vec<Update> {
    let gone = from.keys().filter(|key| !to.contains_key(*key)).cloned().map(Update::Delete);
    let new = to.iter().filter(|(key, object)| from.get(*key) != Some(*object));
    gone.chain(new.map(|(_, object)| Update::Upsert(object.clone()))).collect()
}

/// The same way, told differently. `legs` are the updates of each part of the way.
pub fn expansions(legs: &[Vec<Update>]) -> Vec<(&'static str, Vec<Step>)> {
    let told =
        |tell: &dyn Fn(&[Update]) -> Vec<Step>| legs.iter().flat_map(|leg| tell(leg)).collect::<Vec<_>>();
    let apply = |leg: &[Update]| leg.iter().cloned().map(Step::Apply).collect::<Vec<_>>();
    vec![
        ("as it is", told(&|leg| [apply(leg), vec![Step::Flush]].concat())),
        (
            "reversed",
            told(&|leg| {
                let mut steps = apply(leg);
                steps.reverse();
                steps.push(Step::Flush);
                steps
            }),
        ),
        ("squashed", told(&apply)),
        ("split", told(&|leg| apply(leg).into_iter().flat_map(|step| [step, Step::Flush]).collect())),
        (
            "split and reversed",
            told(&|leg| apply(leg).into_iter().rev().flat_map(|step| [step, Step::Flush]).collect()),
        ),
        ("told twice", told(&|leg| [apply(leg), apply(leg), vec![Step::Flush]].concat())),
        (
            "each told twice, split",
            told(&|leg| {
                apply(leg)
                    .into_iter()
                    .flat_map(|step| [step.clone(), Step::Flush, step, Step::Flush])
                    .collect()
            }),
        ),
        (
            "told, taken back, told again",
            told(&|leg| {
                let mut steps = apply(leg);
                steps.extend(leg.iter().filter_map(|update| match update {
                    Update::Upsert(object) => Some(Step::Apply(Update::Delete(object.key()))),
                    Update::Delete(_) => None,
                }));
                steps.extend(apply(leg));
                steps.push(Step::Flush);
                steps
            }),
        ),
    ]
}
