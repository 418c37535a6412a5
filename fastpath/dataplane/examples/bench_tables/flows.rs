//! The flow table: hits and misses.

use std::error::Error;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Instant;

use caracal_dataplane::clock::Tick;
use caracal_dataplane::flow::{FlowEntry, FlowFlags, FlowKey, FlowNote, FlowTable, State};
use caracal_dataplane::table::EndpointIndex;

use super::generate::Flow;
use super::{BURST, NOTHING, measure, read, rounds, write_answers};

pub fn key(flow: Flow) -> FlowKey {
    let (endpoint, protocol, local, local_port, remote, remote_port) = flow;
    let v4 = |bits| IpAddr::V4(Ipv4Addr::from_bits(bits));
    FlowKey::new(EndpointIndex(endpoint), protocol, (v4(local), local_port), (v4(remote), remote_port))
}

/// A table that holds these, each established, and told by its tick from the others.
pub fn table_of(keys: &[FlowKey]) -> Result<FlowTable, Box<dyn Error>> {
    // No fuller than a table is to be: two thirds (docs/decisions/0013).
    let mut table = FlowTable::new(keys.len() * 3 / 2, 0x5eed);
    for (key, n) in keys.iter().zip(0..) {
        let mut entry = FlowEntry {
            key: *key,
            last_seen: Tick(n),
            state: State::Established,
            flags: FlowFlags::new(false),
            ..FlowEntry::default()
        };
        entry.mark_answered();
        let hash = table.hash(key);
        table
            .insert(hash, entry, FlowNote::default())
            .map_err(|_| format!("no room for flow {n} of {}", keys.len()))?;
    }
    Ok(table)
}

/// What the pipeline does: hashes and asks for tags, guesses and asks for entries, finds; each for the whole batch.
pub fn look_up(table: &FlowTable, trace: &[FlowKey], mut found: impl FnMut(Option<usize>)) {
    let mut hashes = [0; BURST];
    let mut guesses = [None; BURST];
    for burst in trace.as_chunks::<BURST>().0 {
        for (hash, key) in hashes.iter_mut().zip(burst) {
            *hash = table.hash(key);
            table.prefetch(*hash);
        }
        for (guess, hash) in guesses.iter_mut().zip(&hashes) {
            *guess = table.guess(*hash);
        }
        for ((key, hash), guess) in burst.iter().zip(&hashes).zip(&guesses) {
            found(table.find(key, *hash, *guess));
        }
    }
}

pub fn run(directory: &Path, answers: &Path) -> Result<(), Box<dyn Error>> {
    let keys: Vec<FlowKey> = read(directory, "flows")?
        .lines()
        .map(|line| Ok(key(parse(line)?)))
        .collect::<Result<_, Box<dyn Error>>>()?;
    // One beside the other: a packet's key is at hand.
    let trace = |name| -> Result<Vec<FlowKey>, Box<dyn Error>> {
        read(directory, name)?.lines().map(|line| Ok(keys[line.parse::<usize>()?])).collect()
    };
    let (hits, misses) = (trace("hits")?, trace("misses")?);
    let from = Instant::now();
    let table = table_of(&keys[..keys.len() / 2])?;
    let build_s = from.elapsed().as_secs_f64();

    let mut found = Vec::with_capacity(2 * hits.len());
    let number = |index: usize| table.entry(index).last_seen.0;
    look_up(&table, &hits, |index| found.push(index.map_or(NOTHING, number)));
    look_up(&table, &misses, |index| found.push(index.map_or(NOTHING, number)));
    write_answers(answers, &found)?;

    let one_by_one = |trace: &[FlowKey]| {
        for key in trace {
            black_box(table.get(key, table.hash(key)));
        }
    };
    let count = hits.len();
    rounds(build_s, table.memory_bytes(), || {
        let mut results = Vec::new();
        for (what, trace) in [("hit", &hits), ("miss", &misses)] {
            let ns = measure(count, || {
                look_up(&table, trace, |index| {
                    black_box(index);
                })
            });
            results.push((format!("{what}: lookup, batches of 64"), ns));
            results.push((format!("{what}: lookup, one by one"), measure(count, || one_by_one(trace))));
        }
        results
    })
}

fn parse(line: &str) -> Result<Flow, Box<dyn Error>> {
    let words: Vec<&str> = line.split(' ').collect();
    let [endpoint, protocol, local, local_port, remote, remote_port] = words[..] else {
        return Err(format!("no flow: {line}").into());
    };
    Ok((
        endpoint.parse()?,
        protocol.parse()?,
        local.parse()?,
        local_port.parse()?,
        remote.parse()?,
        remote_port.parse()?,
    ))
}
