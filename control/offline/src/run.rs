//! Runs case files: reads them, has their flows judged, and reports.

use caracal_model::case::report::{CaseReport, Observation};
use caracal_model::case::{Case, World};

use crate::judge;
use crate::reference::Reference;

/// Who judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judge {
    /// The production control plane, tables and pipeline.
    Production,
    /// The slow reference evaluator.
    Reference,
}

/// Runs the case that `file` holds; `text` is its contents.
pub fn run(file: &str, text: &str, by: Judge) -> CaseReport {
    let case = match Case::parse(text) {
        Ok(case) => case,
        Err(error) => return CaseReport::error(file, "", error),
    };
    let world = match case.world() {
        Ok(world) => world,
        Err(error) => return CaseReport::error(file, &case.name, error),
    };
    let observations = match by {
        Judge::Production => judge::judge(&world),
        Judge::Reference => Ok(judge_by_reference(&world)),
    };
    match observations {
        Ok(observations) => CaseReport::new(file, &case, &world, observations, taken_wrongly(&world)),
        Err(error) => CaseReport::error(file, &case.name, error),
    }
}

fn judge_by_reference(world: &World) -> Vec<Observation> {
    let reference = Reference::new(world);
    world.flows.iter().map(|flow| reference.judge(flow)).collect()
}

/// The objects that must be refused and are not, or not for the field that the case names.
fn taken_wrongly(world: &World) -> Vec<String> {
    let wrong = world.refused.iter().filter(|refused| !refused.is_refused());
    wrong
        .map(|refused| {
            let (key, field) = (&refused.key, &refused.field);
            if refused.errors.is_empty() {
                return format!("rejects: {key} is taken, but must be refused for {field}");
            }
            let errors: Vec<String> = refused.errors.iter().map(ToString::to_string).collect();
            format!("rejects: {key} must be refused for {field}, but is refused for: {}", errors.join("; "))
        })
        .collect()
}
