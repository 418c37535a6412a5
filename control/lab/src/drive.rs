//! Sends a case's flows through a cluster that is up, and judges what came back.
//!
//! Flows start one after the other, so that whatever counter moves is moved by the one that has just started; but who waits for an answer
//! that does not come waits in the background:
//!
//! ```text
//!   flow 1  ▐▌ answered, counters read
//!   flow 2    ▐▌ a rule that denies moved ░░░░░░░░░░░░░░░░░░░░░░░░ still waiting for an answer ░░▌ none
//!   flow 3       ▐▌ answered                                                                     ▌
//!   flow 4         ▐▌ denied ░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░░▐▌
//!                    └─ within GROUP of flow 2's start; what starts later waits until all are done, because TCP sends again after 1 s
//! ```

use std::{
    collections::BTreeSet,
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use caracal_model::case::{
    Expect, Place, World, WorldFlow,
    report::{Observation, Observed},
};
use nix::sys::signal::Signal;

use crate::{
    error::LabError,
    evidence::{Evidence, Watchers},
    name::LabName,
    probe::{Answer, Probe},
    process::Process,
    state::State,
    stop::Stop,
};

/// How long a flow may keep others from starting. One that must be answered keeps them until it is, or until a rule denies it.
const ATTENTION: Duration = Duration::from_secs(1);
/// Against hanging only: how long an answer that must come is waited for. On a busy machine it may be late.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(4);
/// How long flows may start after the first one of them that is still waiting.
const GROUP: Duration = Duration::from_millis(700);
/// How long an allowed flow may take to come through while the fastpaths are stopped.
const STOPPED_TIMEOUT: Duration = Duration::from_millis(300);
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// A flow that has started.
struct Started {
    evidence: Evidence,
    outcome: Outcome,
}

enum Outcome {
    Known(Observation),
    Answered(Answer),
    /// An answer that is no longer waited for after this.
    Waiting(Receiver<Answer>, Instant),
}

/// Sends every flow; what was observed of each, in their order.
pub(crate) fn flows(state: &State, world: &World, stop: &Stop) -> Result<Vec<Observation>, LabError> {
    let name: LabName = state.name.parse()?;
    let mut watchers = Watchers::connect(state)?;
    let mut started = Vec::new();
    let mut waiting_since: Option<Instant> = None;
    for flow in &world.flows {
        stop.check()?;
        if waiting_since.is_some_and(|since| since.elapsed() > GROUP) {
            started.iter_mut().for_each(finish);
            waiting_since = None;
        }
        let next = start(&name, world, flow, &mut watchers)?;
        if matches!(next.outcome, Outcome::Waiting(..)) {
            waiting_since = waiting_since.or_else(|| Some(Instant::now()));
        }
        started.push(next);
    }
    started.iter_mut().for_each(finish);
    Ok(world.flows.iter().zip(started).map(|(flow, started)| judge(world, flow, started)).collect())
}

/// Stops every fastpath, tries again every flow that was allowed and that we must carry, and tells which came through nevertheless.
pub(crate) fn flows_without_us(
    state: &State,
    world: &World,
    observations: &[Observation],
    stop: &Stop,
) -> Result<Vec<String>, LabError> {
    let name: LabName = state.name.parse()?;
    let fastpaths: Vec<Process> = state
        .processes
        .iter()
        .filter(|process| process.name.starts_with("fastpath-"))
        .filter_map(|process| process.process)
        .collect();
    let _continued = Stopped::all(fastpaths);
    let tried = world.flows.iter().zip(observations).filter(|(flow, seen)| {
        flow.expect == Expect::Allow && seen.observed == Observed::Allow && ours(world, flow)
    });
    let mut failures = Vec::new();
    let mut waiting = Vec::new();
    for (flow, _) in tried {
        let Ok(mut probe) = probe(&name, world, flow) else { continue };
        probe.timeout = STOPPED_TIMEOUT;
        waiting.push((flow, in_background(probe)));
    }
    for (flow, receiver) in waiting {
        stop.check()?;
        let what = format!("{} → {} {}", flow.from, flow.to, flow.protocol);
        match receiver.recv().unwrap_or_else(|_| Answer::Failed("the probe ended early".into())) {
            Answer::Silence(_) => {}
            Answer::Echoed | Answer::Refused => {
                failures.push(format!(
                    "with the fastpaths stopped, {what} still came through: the kernel carried it"
                ));
            }
            Answer::Failed(why) => {
                failures.push(format!("with the fastpaths stopped, {what} could not be tried: {why}"));
            }
        }
    }
    Ok(failures)
}

/// Processes that are stopped, and go on when this is dropped.
struct Stopped(Vec<Process>);

impl Stopped {
    fn all(processes: Vec<Process>) -> Self {
        processes.iter().for_each(|process| process.signal(Signal::SIGSTOP));
        let start = Instant::now();
        while !processes.iter().all(|process| process.is_stopped()) && start.elapsed() < STOP_LIMIT {
            thread::sleep(Duration::from_millis(1));
        }
        Self(processes)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.iter().for_each(|process| process.signal(Signal::SIGCONT));
    }
}

fn start(
    name: &LabName,
    world: &World,
    flow: &WorldFlow,
    watchers: &mut Watchers,
) -> Result<Started, LabError> {
    let probe = match probe(name, world, flow) {
        Ok(probe) => probe,
        Err(reason) => {
            let outcome = Outcome::Known(Observation::new(Observed::Unsupported, reason));
            return Ok(Started { evidence: Evidence::default(), outcome });
        }
    };
    let nodes: BTreeSet<usize> = if flow.service.is_some() || matches!(flow.destination, Place::Service(_)) {
        // The backend that is chosen may be anywhere.
        (0..world.nodes.len()).collect()
    } else {
        [flow.source, flow.destination].iter().filter_map(|p| node_of(world, *p)).collect()
    };
    let attention = if flow.expect == Expect::Allow { PATIENCE } else { ATTENTION };
    let before = watchers.snapshot(&nodes)?;
    let begin = Instant::now();
    let receiver = in_background(probe);
    let mut answer = None;
    loop {
        match receiver.recv_timeout(POLL) {
            Ok(came) => answer = Some(came),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) if answer.is_some() => thread::sleep(POLL),
            Err(RecvTimeoutError::Disconnected) => {
                answer = Some(Answer::Failed("the probe ended early".into()));
            }
        }
        let evidence = before.until(&watchers.snapshot(&nodes)?);
        // What denies it may be counted later than who waits has given up.
        let is_enough = !evidence.denied.is_empty() || begin.elapsed() > attention;
        if let Some(answer) = answer.take_if(|answer| is_enough || !matches!(answer, Answer::Silence(_))) {
            return Ok(Started { evidence, outcome: Outcome::Answered(answer) });
        }
        if is_enough {
            let end = begin + Duration::from_millis(flow.timeout_ms);
            return Ok(Started { evidence, outcome: Outcome::Waiting(receiver, end) });
        }
    }
}

fn finish(started: &mut Started) {
    if let Outcome::Waiting(receiver, end) = &started.outcome {
        let answer = match receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => Answer::Silence("no answer".into()),
            Err(RecvTimeoutError::Disconnected) => Answer::Failed("the probe ended early".into()),
        };
        started.outcome = Outcome::Answered(answer);
    }
}

fn in_background(probe: Probe) -> Receiver<Answer> {
    let (sender, receiver) = mpsc::channel();
    // Whoever stops listening does not want the answer.
    thread::spawn(move || drop(sender.send(probe.send())));
    receiver
}

fn probe(name: &LabName, world: &World, flow: &WorldFlow) -> Result<Probe, String> {
    if let Some(reason) = untried(flow) {
        return Err(reason.into());
    }
    let netns = match flow.source {
        Place::External => name.outside(),
        place => {
            let pod = match place {
                Place::Pod(index) => world.pods.get(index).filter(|pod| !pod.host_network),
                _ => None,
            };
            match (pod, node_of(world, place).and_then(|index| world.nodes.get(index))) {
                (Some(pod), _) => name.pod(&pod.namespace, &pod.name),
                (None, Some(node)) => name.node(&node.name),
                (None, None) => return Err("the case names no such source".into()),
            }
        }
    };
    let mut probe = Probe::of(flow, netns, flow.source == Place::External)?;
    if flow.expect == Expect::Allow {
        probe.timeout = probe.timeout.max(PATIENCE);
    }
    Ok(probe)
}

fn judge(world: &World, flow: &WorldFlow, started: Started) -> Observation {
    let Started { evidence, outcome } = started;
    let answer = match outcome {
        Outcome::Known(observation) => return observation,
        Outcome::Answered(answer) => answer,
        Outcome::Waiting(..) => Answer::Failed("not waited for".into()),
    };
    let ours = ours(world, flow);
    match answer {
        // Refused by us, not by who was asked.
        Answer::Refused if evidence.refused => {
            Observation::new(Observed::Deny, format!("{} (the sender was told)", evidence.denied.join("; ")))
        }
        Answer::Echoed | Answer::Refused => {
            if ours && !evidence.carried {
                return Observation::new(
                    Observed::Error,
                    "answered, but none of our counters moved: something else carried it",
                );
            }
            let mut why = match (ours, evidence.allowed.is_empty()) {
                (false, _) => "carried by Linux alone".to_owned(),
                (true, true) => "no rule was asked".to_owned(),
                (true, false) => evidence.allowed.join("; "),
            };
            if answer == Answer::Refused {
                why.push_str(&format!(" ({answer})"));
            }
            Observation::new(Observed::Allow, why)
        }
        Answer::Silence(_) if !evidence.denied.is_empty() => {
            Observation::new(Observed::Deny, evidence.denied.join("; "))
        }
        Answer::Silence(what) => {
            let accidents = evidence.accidents.join(", ");
            let but = if accidents.is_empty() { "no counter of ours says why" } else { &accidents };
            Observation::new(Observed::Error, format!("{what}, but {but}"))
        }
        Answer::Failed(what) => Observation::new(Observed::Error, what),
    }
}

/// Whether packets of a flow must go through a fastpath: an end is a pod, and an end is on a node of ours; or a service is asked, and the
/// node where that is seen first is ours. A pod that speaks to itself never leaves its namespace, but by a service it does.
fn ours(world: &World, flow: &WorldFlow) -> bool {
    let is_pod = |place: Place| match place {
        Place::Pod(index) => world.pods.get(index).is_some_and(|pod| !pod.host_network),
        Place::Node(_) | Place::Service(_) | Place::External => false,
    };
    let is_on_ours = |place: Place| {
        node_of(world, place).and_then(|index| world.nodes.get(index)).is_some_and(|node| !node.kernel)
    };
    let ends = [flow.source, flow.destination];
    match flow.destination {
        Place::Service(_) if flow.source == Place::External => {
            world.entrance(flow.destination_address).is_some_and(|node| is_on_ours(Place::Node(node)))
        }
        Place::Service(_) => is_on_ours(flow.source),
        Place::Node(_) if flow.service.is_some() => is_on_ours(flow.destination),
        _ => {
            flow.source != flow.destination
                && ends.into_iter().any(is_pod)
                && ends.into_iter().any(is_on_ours)
        }
    }
}

/// Why the lab does not try a flow.
fn untried(flow: &WorldFlow) -> Option<&'static str> {
    let is_own_node_port = flow.service.is_some() && flow.source == flow.destination;
    (is_own_node_port && matches!(flow.source, Place::Node(_))).then_some(
        "what a node sends to an address of its own stays in its kernel: its own node ports are not ours to serve",
    )
}

fn node_of(world: &World, place: Place) -> Option<usize> {
    match place {
        Place::Pod(index) => world.pods.get(index).map(|pod| pod.node),
        Place::Node(index) => Some(index),
        Place::Service(_) | Place::External => None,
    }
}
