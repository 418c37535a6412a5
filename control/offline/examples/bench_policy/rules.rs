//! Plain five-tuple rules, and packets that meet them.
//!
//! Sources are prefixes of the whole address space, destinations prefixes of the node's block, as policies of a node's
//! pods have them. Nine packets of ten are made to match a random rule; the tenth is anything.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context;

use crate::Random;

/// The node's block of pod addresses.
pub const BLOCK: u32 = 0x0AF4_0100;
/// How many pods of the node the packets are for.
pub const LOCAL_PODS: u32 = 64;
const PACKETS: u32 = 1 << 16;

/// A rule; everything must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// What it says.
    pub allow: bool,
    /// IP protocol number.
    pub protocol: u8,
    /// Address and prefix length.
    pub source: (u32, u8),
    /// Address and prefix length.
    pub destination: (u32, u8),
    /// Both included.
    pub source_ports: (u16, u16),
    /// Both included.
    pub destination_ports: (u16, u16),
}

/// A packet.
#[derive(Debug, Clone, Copy)]
pub struct Tuple {
    /// IP protocol number.
    pub protocol: u8,
    /// Address.
    pub source: u32,
    /// Address.
    pub destination: u32,
    /// Port.
    pub source_port: u16,
    /// Port.
    pub destination_port: u16,
}

fn masked(address: u32, length: u8) -> u32 {
    if length == 0 { 0 } else { address & (u32::MAX << (32 - length)) }
}

fn any_rule(random: &mut Random) -> Rule {
    let source_length = random.of(&[8, 12, 16, 20, 22, 24, 24, 24, 26, 28, 30, 32, 32, 32, 32]);
    let destination_length = random.of(&[24, 24, 25, 26, 27, 28, 30, 32]);
    // RFC 1918's larger block, where clusters and their neighbours are, and the rest of the address space.
    let source = if random.below(2) == 0 { 0x0A00_0000 | random.next() >> 7 } else { random.next() };
    let destination = BLOCK | random.below(256);
    let source_ports = match random.below(10) {
        0 => (1024, u16::MAX),
        1 => {
            let first = random.next() as u16 | 1024;
            (first, first.saturating_add(1000))
        }
        _ => (0, u16::MAX),
    };
    let rare = random.next() as u16 | 1;
    let port = random.of(&[22, 53, 80, 443, 3306, 5432, 6379, 8080, 8443, 9090, rare]);
    let span = random.of(&[1, 9, 99, 999]);
    let destination_ports = match random.below(10) {
        0 => (0, u16::MAX),
        1 | 2 => (port, port.saturating_add(span)),
        _ => (port, port),
    };
    Rule {
        allow: random.below(2) == 0,
        protocol: random.of(&[6, 6, 17]),
        source: (masked(source, source_length), source_length),
        destination: (masked(destination, destination_length), destination_length),
        source_ports,
        destination_ports,
    }
}

fn between(random: &mut Random, (first, last): (u16, u16)) -> u16 {
    first + (random.below(u32::from(last - first) + 1)) as u16
}

/// A packet that the rule matches, to one of the node's pods if one is in reach.
fn matching(random: &mut Random, rule: &Rule) -> Tuple {
    let within = |random: &mut Random, (address, length): (u32, u8)| {
        address
            | if length == 32 { 0 } else { (random.next() << 1 | random.next() & 1) & (u32::MAX >> length) }
    };
    Tuple {
        protocol: rule.protocol,
        source: within(random, rule.source),
        destination: within(random, rule.destination),
        source_port: between(random, rule.source_ports),
        destination_port: between(random, rule.destination_ports),
    }
}

/// Where the pods are: spread over the block.
pub fn pod_address(pod: u32) -> u32 {
    BLOCK + pod * (256 / LOCAL_PODS) + 1
}

fn nearest_pod(address: u32) -> u32 {
    pod_address((address & 255) / (256 / LOCAL_PODS))
}

/// Writes the rules and the trace.
pub fn generate(count: u32, into: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(into).with_context(|| format!("cannot make {}", into.display()))?;
    let mut random = Random(u64::from(count));
    let mut seen = BTreeSet::new();
    let mut rules = Vec::new();
    while rules.len() < count as usize {
        let rule = any_rule(&mut random);
        // Two rules that differ in what they say only: the second would never be reached.
        if seen.insert(Rule { allow: true, ..rule }) {
            rules.push(rule);
        }
    }
    let mut text = String::new();
    for rule in &rules {
        let action = if rule.allow { "allow" } else { "deny" };
        let ((source, source_length), (destination, destination_length)) = (rule.source, rule.destination);
        let ((s1, s2), (d1, d2)) = (rule.source_ports, rule.destination_ports);
        writeln!(
            text,
            "{action} {} {source} {source_length} {destination} {destination_length} {s1} {s2} {d1} {d2}",
            rule.protocol
        )?;
    }
    write(&into.join("rules"), &text)?;
    text.clear();
    for packet in 0..PACKETS {
        let mut tuple = if packet % 10 < 9 {
            let rule = rules[random.below(count) as usize];
            matching(&mut random, &rule)
        } else {
            let anything = any_rule(&mut random);
            matching(&mut random, &anything)
        };
        tuple.destination = nearest_pod(tuple.destination);
        let Tuple { protocol, source, destination, source_port, destination_port } = tuple;
        writeln!(text, "{protocol} {source} {destination} {source_port} {destination_port}")?;
    }
    write(&into.join("trace"), &text)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn lines<T>(path: &Path, read: impl Fn(&[&str]) -> Option<T>) -> anyhow::Result<Vec<T>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let line = |(number, line): (usize, &str)| {
        let words: Vec<&str> = line.split(' ').collect();
        read(&words).with_context(|| format!("{}, line {}: {line:?}", path.display(), number + 1))
    };
    text.lines().enumerate().map(line).collect()
}

/// Reads rules.
pub fn read_rules(path: &Path) -> anyhow::Result<Vec<Rule>> {
    lines(path, |words| {
        let [action, protocol, source, source_length, destination, destination_length, s1, s2, d1, d2] =
            words
        else {
            return None;
        };
        Some(Rule {
            allow: *action == "allow",
            protocol: protocol.parse().ok()?,
            source: (source.parse().ok()?, source_length.parse().ok()?),
            destination: (destination.parse().ok()?, destination_length.parse().ok()?),
            source_ports: (s1.parse().ok()?, s2.parse().ok()?),
            destination_ports: (d1.parse().ok()?, d2.parse().ok()?),
        })
    })
}

/// Reads a trace.
pub fn read_trace(path: &Path) -> anyhow::Result<Vec<Tuple>> {
    lines(path, |words| {
        let [protocol, source, destination, source_port, destination_port] = words else { return None };
        Some(Tuple {
            protocol: protocol.parse().ok()?,
            source: source.parse().ok()?,
            destination: destination.parse().ok()?,
            source_port: source_port.parse().ok()?,
            destination_port: destination_port.parse().ok()?,
        })
    })
}
