//! What policy costs, from objects to verdicts. `scripts/bench policy` runs it; by hand:
//!
//! ```text
//!   cargo run --release -p caracal-offline --example bench_policy -- world
//!   … -- generate --rules 1000 --into DIR && … -- acl --from DIR --passes 9
//! ```
//!
//! * `generate` writes five-tuple rules and a trace of packets, in the format that `scripts/bench.d/rte_acl.c` reads too.
//! * `acl` turns those rules into Calico policies, takes them through the calc graph and into the tables of a node, and
//!   judges the trace: the same rules, packets and bursts as the peer, and the verdicts for comparing.
//! * `world` makes a world of 50,000 pods and 5,000 policies and measures what changes to it take, from the object seen to
//!   the tables published, the plane's encoding between the two included.
//!
//! Everything runs on one thread, prints JSON to stdout, and asserts no time.

mod acl;
mod rules;
mod world;

use std::path::PathBuf;
use std::time::Instant;

use caracal_calc::{CalcGraph, Update};
use caracal_dataplane::table::{TableBuilder, Tables};
use caracal_model::object::Object;
use caracal_plane_api::{Op, Transaction};
use clap::{Parser, Subcommand};
use prost::Message;
use std::sync::Arc;

/// What policy costs, as JSON.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Writes DIR/rules and DIR/trace
    Generate {
        /// How many rules
        #[arg(long)]
        rules: u32,
        /// Where to
        #[arg(long)]
        into: PathBuf,
    },
    /// Judges DIR/trace by DIR/rules, writes DIR/verdicts.caracal
    Acl {
        /// Where from
        #[arg(long)]
        from: PathBuf,
        /// How often the trace is judged
        #[arg(long, default_value_t = 9)]
        passes: u32,
        /// Pods of other nodes besides, so that address lookups meet a real table
        #[arg(long, default_value_t = 0)]
        endpoints: u32,
    },
    /// Measures changes to a large world
    World {
        /// Pods in the cluster
        #[arg(long, default_value_t = 50_000)]
        pods: u32,
        /// Policies
        #[arg(long, default_value_t = 5_000)]
        policies: u32,
        /// How many single pods are added for the percentiles
        #[arg(long, default_value_t = 2_000)]
        samples: u32,
        /// Measure memory instead
        #[arg(long)]
        memory: bool,
    },
}

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::Generate { rules, into } => rules::generate(rules, &into),
        Command::Acl { from, passes, endpoints } => acl::run(&from, passes, endpoints),
        Command::World { pods, policies, memory: true, .. } => world::memory(pods, policies),
        Command::World { pods, policies, samples, .. } => world::run(pods, policies, samples),
    }
}

/// One node's both planes: what the agent computes with, and what the fastpath builds.
struct Planes {
    calc: CalcGraph,
    tables: TableBuilder,
    published: Arc<Tables>,
    sequence: u64,
}

/// The node whose planes are measured.
const NODE: &str = "node1";

/// How long a change took in each of its steps.
#[derive(Clone, Copy, Default)]
struct Took {
    calc: f64,
    encoding: f64,
    tables: f64,
    bytes: usize,
}

impl Took {
    fn milliseconds(self) -> f64 {
        (self.calc + self.encoding + self.tables) * 1e3
    }
}

impl Planes {
    fn new() -> Self {
        let mut tables = TableBuilder::new(1, Box::new(|_, _| 0));
        let published = tables.build();
        Self { calc: CalcGraph::new(NODE), tables, published, sequence: 0 }
    }

    /// Takes changes from objects to published tables.
    fn publish(&mut self, updates: impl IntoIterator<Item = Update>) -> anyhow::Result<Took> {
        let start = Instant::now();
        for update in updates {
            self.calc.apply(update);
        }
        let ops = self.calc.flush();
        let calc = start.elapsed().as_secs_f64();
        Ok(Took { calc, ..self.take(ops)? })
    }

    /// The fastpath's part.
    fn take(&mut self, ops: Vec<Op>) -> anyhow::Result<Took> {
        let start = Instant::now();
        self.sequence += 1;
        let wire = Transaction { seq: self.sequence, ops, in_sync: true }.encode_to_vec();
        let transaction = Transaction::decode(wire.as_slice())?;
        let encoding = start.elapsed().as_secs_f64();

        let start = Instant::now();
        self.tables.apply(&transaction)?;
        self.published = self.tables.build();
        Ok(Took { calc: 0.0, encoding, tables: start.elapsed().as_secs_f64(), bytes: wire.len() })
    }
}

/// Decodes a manifest that this benchmark has written, as the agent would.
fn object(manifest: serde_json::Value) -> anyhow::Result<Update> {
    let mut object = Object::from_value(manifest)?;
    object.set_defaults();
    let errors = object.validate();
    anyhow::ensure!(errors.is_empty(), "{}: {errors:?}", object.key());
    Ok(Update::Upsert(object))
}

/// A small generator, the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }

    fn below(&mut self, bound: u32) -> u32 {
        self.next() % bound
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u32) as usize]
    }
}

/// Memory of this process in bytes, as the kernel counts it.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) * 1024.0
}
