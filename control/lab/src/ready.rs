//! Is the data plane up? Every fastpath has seen its whole state, knows its neighbours, and has a port for every pod. A process that keeps
//! dying ends the wait, with the end of its log.

use std::{
    collections::BTreeMap,
    fs,
    sync::Mutex,
    time::{Duration, Instant},
};

use caracal_plane_api::{PlaneError, Reader, StatusReport, What};

use crate::{
    children::lock,
    error::LabError,
    state::{NodeState, State},
    stop::Stop,
};

/// How long a data plane may take to come up.
pub const LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(10);
const TOO_OFTEN: u32 = 6;
const TAIL_LINES: usize = 3;

/// Waits until every node is ready for pods.
pub(crate) fn nodes(state: &Mutex<State>, stop: &Stop) -> Result<(), LabError> {
    wait(state, |_, _| Vec::new(), stop)
}

/// Waits until every node is ready, and forwards for every pod.
pub(crate) fn pods(state: &Mutex<State>, stop: &Stop) -> Result<(), LabError> {
    wait(state, interfaces_of, stop)
}

/// Of a node, the pods that need a port, and its name.
type Wanted = fn(&NodeState, &State) -> Vec<(String, String)>;

fn wait(state: &Mutex<State>, wanted: Wanted, stop: &Stop) -> Result<(), LabError> {
    let start = Instant::now();
    let mut readers: BTreeMap<String, Reader> = BTreeMap::new();
    loop {
        stop.check()?;
        let now = lock(state).clone();
        keeps_dying(&now)?;
        let missing: Vec<String> = now
            .nodes
            .iter()
            .filter_map(|node| {
                Some(format!("{}: {}", node.name, missing_on(node, &wanted(node, &now), &mut readers)?))
            })
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        if start.elapsed() > LIMIT {
            return Err(LabError::NotReady {
                seconds: LIMIT.as_secs(),
                what: missing.join("; "),
                logs: now.directory(),
            });
        }
        stop.sleep(POLL)?;
    }
}

/// A better reason than `error`, if a process keeps dying.
pub(crate) fn explain(state: &State, error: LabError) -> LabError {
    keeps_dying(state).err().unwrap_or(error)
}

/// A node's status, read from its fastpath.
///
/// # Errors
/// It cannot be read.
pub fn status(reader: &mut Reader) -> Result<StatusReport, PlaneError> {
    Ok(reader.read(What::Status)?.status.unwrap_or_default())
}

/// What a node still lacks, in words; `None` when it is ready.
#[must_use]
pub fn missing(status: &StatusReport, interfaces: &[(String, String)]) -> Option<String> {
    let mut lacks = Vec::new();
    if !status.in_sync {
        let agent = if status.controller_connected { "has not told everything" } else { "has not connected" };
        lacks.push(format!("the agent {agent}"));
    }
    let is_up = |name: &str| status.ports.iter().any(|port| port.name == name && port.up);
    for (pod, interface) in interfaces.iter().filter(|(_, interface)| !is_up(interface)) {
        let detail =
            status.ports.iter().find(|port| port.name == *interface).map(|port| port.detail.as_str());
        let detail = match detail {
            None => "none yet",
            Some("") => "down",
            Some(detail) => detail,
        };
        lacks.push(format!("port {interface} of {pod} ({detail})"));
    }
    if let Some(port) = status.ports.iter().find(|port| port.kind == "uplink" && !port.up) {
        lacks.push(format!("uplink {} is down ({})", port.name, port.detail));
    }
    if status.unresolved_neighbors > 0 {
        lacks.push(format!("{} neighbours without a link-layer address", status.unresolved_neighbors));
    }
    (!lacks.is_empty()).then(|| lacks.join(", "))
}

/// The pods of a node that need a port: their names and interfaces.
#[must_use]
pub fn interfaces_of(node: &NodeState, state: &State) -> Vec<(String, String)> {
    let pods = state.pods.iter().filter(|pod| pod.node == node.name && !pod.interface.is_empty());
    pods.map(|pod| (format!("{}/{}", pod.namespace, pod.name), pod.interface.clone())).collect()
}

fn missing_on(
    node: &NodeState,
    interfaces: &[(String, String)],
    readers: &mut BTreeMap<String, Reader>,
) -> Option<String> {
    let socket = node.socket.as_ref()?;
    let mut ask = || {
        if !readers.contains_key(&node.name) {
            readers.insert(node.name.clone(), Reader::connect(socket)?);
        }
        readers.get_mut(&node.name).map(status).transpose()
    };
    match ask() {
        Ok(None) => None,
        Ok(Some(status)) => missing(&status, interfaces),
        Err(error) => {
            readers.remove(&node.name);
            Some(error.to_string())
        }
    }
}

fn keeps_dying(state: &State) -> Result<(), LabError> {
    let Some(process) = state.processes.iter().find(|process| process.restarts >= TOO_OFTEN) else {
        return Ok(());
    };
    let log = state.log_of(&process.name);
    let text = fs::read_to_string(&log).unwrap_or_default();
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default().join(" | ");
    Err(LabError::KeepsDying { name: process.name.clone(), times: process.restarts, log, last })
}

#[cfg(test)]
mod tests {
    use super::*;
    use caracal_plane_api::PortRow;

    fn status() -> StatusReport {
        let port = |name: &str, kind: &str| PortRow {
            name: name.into(),
            kind: kind.into(),
            up: true,
            ..PortRow::default()
        };
        StatusReport {
            in_sync: true,
            ports: vec![port("uplink0", "uplink"), port("cali1", "pod")],
            ..StatusReport::default()
        }
    }

    #[test]
    fn a_node_is_ready_when_it_lacks_nothing() {
        let pods = [("a/b".into(), "cali1".into())];
        assert_eq!(missing(&status(), &pods), None);
    }

    #[test]
    fn each_lack_is_named() {
        let two = [("a/b".into(), "cali1".into()), ("a/c".into(), "cali2".into())];
        assert!(missing(&status(), &two).unwrap().contains("port cali2 of a/c (none yet)"));
        let mut out_of_sync = status();
        out_of_sync.in_sync = false;
        assert!(missing(&out_of_sync, &[]).unwrap().contains("agent has not connected"));
        let mut unresolved = status();
        unresolved.unresolved_neighbors = 2;
        assert!(missing(&unresolved, &[]).unwrap().contains("2 neighbours"));
        let mut down = status();
        down.ports[1].up = false;
        down.ports[1].detail = "no such device".into();
        assert!(missing(&down, &two[..1]).unwrap().contains("no such device"));
    }
}
