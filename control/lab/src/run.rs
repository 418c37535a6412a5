//! `lab run`: a case, whole. Up, every flow, the check that nothing else than us carries packets, down.

use std::{
    fs,
    sync::atomic::{AtomicU32, Ordering},
};

use caracal_model::case::{
    Case, CaseFlow, World,
    report::{CaseReport, Observation, Observations},
};
use caracal_model::object::Kind;
use serde_json::json;

use crate::{
    api,
    cluster::{Cluster, Progress},
    drive,
    error::LabError,
    host_flows,
    name::LabName,
    state::State,
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
) -> Result<(Observations, Vec<String>), LabError> {
    if world.lab.startup {
        return Err(LabError::Case(
            "with lab.startup nobody knows the pods' addresses before they have them, so flows cannot be judged: bring it up with `caracal lab up`"
                .into(),
        ));
    }
    let cluster = Cluster::up(&unique_name()?, file, world, stop, progress)?;
    let mut failures = refusals(&cluster, world, stop)?;
    let flows = drive::flows(&cluster.state(), world, stop)?;
    let host_flows = host_flows::host_flows(&cluster.state(), world, stop)?;
    failures.extend(drive::flows_without_us(&cluster.state(), world, &flows, stop)?);
    cluster.down()?;
    Ok((Observations { flows, host_flows }, failures))
}

/// Sends one flow through a lab that is up, and tells what became of it and why.
///
/// # Errors
/// The flow names what the lab does not have, or the lab does not answer.
pub fn try_flow(state: &State, flow: &TryFlow, stop: &Stop) -> Result<Observation, LabError> {
    let unreadable = |error: String| LabError::Case(format!("{}: {error}", state.case_file().display()));
    let text = fs::read_to_string(state.case_file()).map_err(|error| unreadable(error.to_string()))?;
    let mut case = Case::parse(&text).map_err(|error| unreadable(error.to_string()))?;
    case.flows = flow.case_flows()?;
    if case.lab.startup {
        give_addresses(&mut case, state);
    }
    let world = case.world().map_err(|error| LabError::Case(error.message))?;
    let observations = drive::flows(state, &world, stop)?;
    observations.into_iter().next().ok_or_else(|| LabError::Case("the flow is none".into()))
}

/// Writes into the case what address management gave its pods; the case itself cannot know.
fn give_addresses(case: &mut Case, state: &State) {
    for object in case.objects.iter_mut().filter(|object| object.key.kind == Kind::Pod) {
        let namespace = object.key.namespace.as_deref().unwrap_or_default();
        let Ok(pod) = state.pod(namespace, &object.key.name) else { continue };
        let Some(value) = object.value.as_object_mut() else { continue };
        if let Some(status) = value.entry("status").or_insert_with(|| json!({})).as_object_mut() {
            let addresses: Vec<_> = pod.addresses.iter().map(|ip| json!({ "ip": ip })).collect();
            status.insert("podIPs".into(), addresses.into());
        }
    }
}

/// A flow as a command line says it; each part as case files write it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TryFlow {
    /// `namespace/pod`, `node/NAME`, or an address outside.
    pub from: String,
    /// The same, of the other end.
    pub to: String,
    /// TCP, UDP, SCTP, ICMP or a number.
    pub protocol: String,
    /// Number or name.
    pub port: Option<String>,
}

impl TryFlow {
    /// The flow as the one of a case, read as case files are.
    fn case_flows(&self) -> Result<Vec<CaseFlow>, LabError> {
        let mut flow = json!({ "from": self.from, "to": self.to, "expect": "allow" });
        let number_or_text =
            |text: &String| text.parse::<u16>().map_or_else(|_| json!(text), |number| json!(number));
        flow["protocol"] = number_or_text(&self.protocol);
        if let Some(port) = &self.port {
            flow["port"] = number_or_text(port);
        }
        // JSON is YAML.
        let case = json!({ "name": "try", "flows": [flow] }).to_string();
        let read = Case::parse(&case).map_err(|error| {
            let field = error.field.trim_start_matches("flows[0].");
            LabError::Case(format!("{field}: {}", error.message))
        })?;
        Ok(read.flows)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_on_the_command_line_is_read_as_case_files_are() {
        let flow = |protocol: &str, port: Option<&str>| TryFlow {
            from: "shop/web".into(),
            to: "203.0.113.7".into(),
            protocol: protocol.into(),
            port: port.map(str::to_owned),
        };
        assert_eq!(flow("TCP", Some("80")).case_flows().unwrap().len(), 1);
        assert_eq!(flow("47", None).case_flows().unwrap()[0].protocol.0, 47);
        let error = flow("TCP", None).case_flows().unwrap_err().to_string();
        assert!(error.starts_with("port: "), "{error}");
        let error = flow("TPC", Some("80")).case_flows().unwrap_err().to_string();
        assert!(error.starts_with("protocol: "), "{error}");
    }
}
