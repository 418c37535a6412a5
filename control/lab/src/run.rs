//! `lab run`: a case, whole. Up, every flow, the check that nothing else than us carries packets, down.

use std::sync::atomic::{AtomicU32, Ordering};

use caracal_model::case::{
    Case, World,
    report::{CaseReport, Observation},
};

use crate::{
    api,
    cluster::{Cluster, Progress},
    drive,
    error::LabError,
    name::LabName,
    stop::Stop,
};

/// Runs a case under a name of its own and reports what came of it.
pub fn run_case(file: &str, case: &Case, world: &World, stop: &Stop, progress: Progress<'_>) -> CaseReport {
    match try_run(file, world, stop, progress) {
        Ok((observations, failures)) => CaseReport::new(file, case, world, observations, failures),
        Err(error) => CaseReport::error(file, &case.name, error),
    }
}

fn try_run(
    file: &str,
    world: &World,
    stop: &Stop,
    progress: Progress<'_>,
) -> Result<(Vec<Observation>, Vec<String>), LabError> {
    let cluster = Cluster::up(&unique_name()?, file, world, stop, progress)?;
    let mut failures = refusals(&cluster, world, stop)?;
    let observations = drive::flows(&cluster, world, stop)?;
    failures.extend(drive::flows_without_us(&cluster, world, &observations, stop)?);
    cluster.down()?;
    Ok((observations, failures))
}

fn refusals(cluster: &Cluster, world: &World, stop: &Stop) -> Result<Vec<String>, LabError> {
    let kubeconfig = cluster.state().kubeconfig();
    let mut failures = Vec::new();
    if world.refused.is_empty() {
        return Ok(failures);
    }
    cluster.runtime().block_on(async {
        let client = api::connect(&kubeconfig, api::LIMIT, stop).await?;
        for refused in &world.refused {
            failures.extend(api::check_refused(&client, refused).await.err());
        }
        Ok(failures)
    })
}

fn unique_name() -> Result<LabName, LabError> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("run-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)).parse()
}
