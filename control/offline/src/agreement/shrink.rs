//! Makes a world small while something still holds of it, and writes what is left as a case file.

use std::fmt::Write as _;

use serde_json::Value;

use super::ask_reference;
use super::objects::read;
use super::packets::Question;
use crate::reference::{HostVerdict, Judge, Packet};

/// The smallest world that this finds of which `holds` still holds: without objects, then without parts of objects.
pub(super) fn shrink(mut world: Vec<Value>, holds: &dyn Fn(&[Value]) -> bool) -> Vec<Value> {
    loop {
        let before = world.clone();
        let mut index = 0;
        while index < world.len() {
            let mut smaller = world.clone();
            smaller.remove(index);
            if holds(&smaller) {
                world = smaller;
            } else {
                index += 1;
            }
        }
        for index in 0..world.len() {
            // A path is tried once in each round; taking one away makes those after it point elsewhere.
            for path in paths(&world[index]) {
                let mut smaller = world.clone();
                let removed = remove(&mut smaller[index], &path);
                if removed && read(&smaller[index]).is_some() && holds(&smaller) {
                    world = smaller;
                }
            }
        }
        if world == before {
            return world;
        }
    }
}

/// Where the parts of a value are, the deepest last.
fn paths(value: &Value) -> Vec<String> {
    let mut all = Vec::new();
    collect(value, "", &mut all);
    // From the end, so that elements of a list are taken away without those before them moving.
    all.reverse();
    all
}

fn collect(value: &Value, path: &str, all: &mut Vec<String>) {
    let parts: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), value)).collect(),
        Value::Array(list) => {
            list.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect()
        }
        _ => Vec::new(),
    };
    for (name, part) in parts {
        let path = format!("{path}/{}", name.replace('~', "~0").replace('/', "~1"));
        all.push(path.clone());
        collect(part, &path, all);
    }
}

fn remove(value: &mut Value, path: &str) -> bool {
    let Some((parent, name)) = path.rsplit_once('/') else { return false };
    let name = name.replace("~1", "/").replace("~0", "~");
    match value.pointer_mut(parent) {
        Some(Value::Object(fields)) => fields.remove(&name).is_some(),
        Some(Value::Array(list)) => match name.parse::<usize>() {
            Ok(index) if index < list.len() => {
                list.remove(index);
                true
            }
            _ => false,
        },
        _ => false,
    }
}

/// What is left as a case file: what must happen is what the reference says.
pub(super) fn case(name: &str, description: &str, world: &[Value], question: &Question) -> String {
    let mut text = format!("name: {name}\ndescription: >-\n  {description}\nobjects:\n");
    for object in world {
        let _ = writeln!(text, "  - {object}");
    }
    let objects = super::decoded(world);
    let expect = match ask_reference(&Judge::new(&objects), question, false).map(|answer| answer.verdict) {
        Some(HostVerdict::Allow) => "allow",
        Some(HostVerdict::AllowUntracked) => "allow-untracked",
        _ => "deny",
    };
    let list = if matches!(question, Question::Pod { .. }) { "flows" } else { "hostFlows" };
    format!("{text}{list}:\n{}", flow(question, expect))
}

/// A question as a flow or a host flow of a case file.
pub(super) fn flow(question: &Question, expect: &str) -> String {
    match question {
        Question::Pod { namespace, name, is_sender, packet } => {
            let own = format!("{namespace}/{name}");
            let (from, to) = match is_sender {
                true => (own, packet.destination.to_string()),
                false => (packet.source.to_string(), own),
            };
            format!("  - {{from: {from:?}, to: {to:?}, {}, expect: {expect}}}\n", rest(packet))
        }
        Question::Host { name, packet } => {
            let (path, rest) = (packet.path.as_str(), rest(&packet.packet));
            let (from, to) = (packet.packet.source, packet.packet.destination);
            let mut original = String::new();
            if let Some((address, port)) = packet.original {
                let _ = write!(original, ", originalTo: \"{address}\"");
                if let Some(port) = port {
                    let _ = write!(original, ", originalPort: {port}");
                }
            }
            format!(
                "  - {{hostEndpoint: {name}, path: {path}, from: \"{from}\", to: \"{to}\", {rest}{original}, \
                 expect: {expect}}}\n"
            )
        }
    }
}

/// The fields of a flow that are not its ends.
pub(super) fn rest(packet: &Packet) -> String {
    let mut text = format!("protocol: {}", caracal_model::protocol::Protocol(packet.protocol));
    if let Some(port) = packet.destination_port {
        let _ = write!(text, ", port: {port}");
    }
    if let Some(port) = packet.source_port {
        let _ = write!(text, ", sourcePort: {port}");
    }
    if let Some((kind, code)) = packet.icmp {
        let _ = write!(text, ", icmp: {{type: {kind}, code: {code}}}");
    }
    if packet.source.is_ipv6() {
        text.push_str(", ipVersion: 6");
    }
    text
}
