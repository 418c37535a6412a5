//! The slow comparison: whole worlds as case files, whose flows go as frames through the pipelines of all nodes.

use caracal_model::case::Case;
use caracal_model::case::report::Observed;
use serde_json::Value;

use super::packets::{Places, Question};
use super::random::Random;
use super::words::{NODE_ADDRESSES, NODES};
use super::{decoded, shrink, world};
use crate::judge;
use crate::reference::{Packet, Reference};

/// Flows of each world.
const FLOWS: usize = 12;

/// A world of this number: how many of its flows both could judge, or on which they differ.
pub(super) fn try_world(seed: u64, number: u64) -> Result<u64, String> {
    let mut random = Random::new(seed.wrapping_mul(0x1000_0003).wrapping_add(number));
    let world = world(&mut random);
    let places = Places::new(&decoded(&world));
    let questions: Vec<Question> =
        (0..FLOWS).filter_map(|_| places.ask(&mut random).into_iter().next()).collect();
    let questions: Vec<Question> = questions.into_iter().filter(|one| flow(&world, one).is_some()).collect();
    let all: Vec<&Question> = questions.iter().collect();
    let Err(error) = compare(&world, &all) else { return Ok(questions.len() as u64) };
    // One of the flows alone, in as small a world as will do.
    for question in &questions {
        let differs = |world: &[Value]| {
            flow(world, question).is_some() && matches!(compare(world, &[question]), Err(Failure::Differ(_)))
        };
        if differs(&world) {
            let world = shrink::shrink(world, &differs);
            let text = case(&world, &[question]).unwrap_or_default();
            return Err(format!("{}\n{text}", compare(&world, &[question]).err().unwrap_or(error)));
        }
    }
    Err(error.to_string())
}

/// Why a world does not do.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("no case: {0}\n{1}")]
    Case(String, String),
    #[error("{0}")]
    Differ(String),
}

fn compare(world: &[Value], questions: &[&Question]) -> Result<(), Failure> {
    let text = case(world, questions).unwrap_or_default();
    let no_case = |error: String| Failure::Case(error, text.clone());
    let case = Case::parse(&text).map_err(|error| no_case(error.to_string()))?;
    let world = case.world().map_err(|error| no_case(error.to_string()))?;
    let production = judge::judge(&world).map_err(|error| Failure::Differ(error.to_string()))?;
    let reference = Reference::new(&world);
    let flows = world.flows.iter().map(|flow| reference.judge(flow)).zip(&production.flows);
    let host_flows =
        world.host_flows.iter().map(|flow| reference.judge_host(flow)).zip(&production.host_flows);
    for (reference, production) in flows.chain(host_flows) {
        let is_unsupported = [reference.observed, production.observed].contains(&Observed::Unsupported);
        if reference.observed != production.observed && !is_unsupported {
            let told = |observed: &caracal_model::case::report::Observation| {
                format!("{}: {}", observed.observed.as_str(), observed.why)
            };
            let (production, reference) = (told(production), told(&reference));
            return Err(Failure::Differ(format!("production: {production}\nreference: {reference}")));
        }
    }
    Ok(())
}

/// The world and its flows as a case file; `None` when one of them cannot be said.
fn case(world: &[Value], questions: &[&Question]) -> Option<String> {
    let objects: String = world.iter().map(|object| format!("  - {object}\n")).collect();
    let flows: Option<Vec<(bool, String)>> = questions.iter().map(|question| flow(world, question)).collect();
    let of = |wanted: bool| -> String {
        flows
            .iter()
            .flatten()
            .filter(|(is_host, _)| *is_host == wanted)
            .map(|(_, text)| text.as_str())
            .collect()
    };
    flows.as_ref()?;
    let list = |name: &str, lines: String| {
        if lines.is_empty() { String::new() } else { format!("{name}:\n{lines}") }
    };
    Some(format!(
        "name: random\nobjects:\n{objects}{}{}",
        list("flows", of(false)),
        list("hostFlows", of(true))
    ))
}

/// A question as a line of a case file, and whether it is one about a host endpoint. `None` when an end is nobody's
/// address that could be somebody's, or both ends are one.
fn flow(world: &[Value], question: &Question) -> Option<(bool, String)> {
    let Question::Pod { packet, .. } = question else {
        return Some((true, shrink::flow(question, "allow")));
    };
    let (from, to) = (end(world, packet, true)?, end(world, packet, false)?);
    let rest = shrink::rest(packet);
    // Only what has an answer can be asked, and not of oneself.
    let echo = if packet.source.is_ipv4() { 8 } else { 128 };
    let can_be_asked = matches!(packet.protocol, 6 | 17 | 132) || packet.icmp == Some((echo, 0));
    (from != to && can_be_asked)
        .then(|| (false, format!("  - {{from: {from:?}, to: {to:?}, {rest}, expect: allow}}\n")))
}

fn end(world: &[Value], packet: &Packet, is_source: bool) -> Option<String> {
    let address = if is_source { packet.source } else { packet.destination };
    let text = address.to_string();
    let pod = world.iter().find(|object| {
        let ips = object.pointer("/status/podIPs").and_then(Value::as_array);
        let listed = ips.is_some_and(|ips| ips.iter().any(|ip| ip["ip"] == text.as_str()));
        object["kind"] == "Pod" && (listed || object["status"]["podIP"] == text.as_str())
    });
    if let Some(pod) = pod {
        let is_finished = pod["status"]["phase"] == "Succeeded"
            || pod["spec"]["hostNetwork"] == true
            || pod["spec"]["nodeName"].is_null();
        let name = |field: &str| pod["metadata"][field].as_str().unwrap_or_default();
        return (!is_finished).then(|| format!("{}/{}", name("namespace"), name("name")));
    }
    if let Some(node) = NODE_ADDRESSES.iter().position(|node| *node == text) {
        return (node < NODES.len()).then(|| format!("node/{}", NODES[node]));
    }
    let could_be_anybodys = text.starts_with("10.244.")
        || text.starts_with("255.")
        || text.starts_with("127.")
        || text.starts_with("fd00:");
    (!could_be_anybodys).then_some(text)
}
