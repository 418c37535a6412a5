//! Routes and flows in memory, beside DPDK's tables of the same: what `scripts/bench tables` and `scripts/bench scale` run.
//!
//! ```text
//! bench_tables generate fib-calico|fib-internet|fib6-calico|fib6-internet|flows COUNT DIRECTORY
//! bench_tables fib|fib6|flows DIRECTORY ANSWERS CPU
//! bench_tables publish DIRECTORY CPU
//! bench_tables scale routes|flows|endpoints|nodes COUNT CPU
//! ```
//!
//! `generate` writes the routes or flows and what is looked up, the same in every run. The second form is the same protocol
//! as that of the peers (`scripts/bench.d/peer.h`): builds the table, writes what it finds for every key, says that it is
//! ready, and measures one round for every line on its standard input.

use std::error::Error;
use std::io::{BufRead, Write};
use std::time::Instant;

mod fib;
mod flows;
mod generate;
mod scale;

/// What is found where nothing is.
const NOTHING: u32 = u32::MAX;
/// Keys that are looked up together.
const BURST: usize = 64;

fn main() -> Result<(), Box<dyn Error>> {
    // As the fastpath does.
    caracal_dataplane::huge_pages::ask()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match *arguments.as_slice() {
        ["generate", what, count, directory] => generate::run(what, count.parse()?, directory.as_ref()),
        ["fib" | "fib6", directory, answers, cpu] => {
            pin(cpu)?;
            fib::run(directory.as_ref(), answers.as_ref())
        }
        ["flows", directory, answers, cpu] => {
            pin(cpu)?;
            flows::run(directory.as_ref(), answers.as_ref())
        }
        ["publish", directory, cpu] => {
            pin(cpu)?;
            fib::publish(directory.as_ref())
        }
        ["scale", what, count, cpu] => {
            pin(cpu)?;
            scale::run(what, count.parse()?)
        }
        _ => Err("usage: see the head of examples/bench_tables/main.rs".into()),
    }
}

fn pin(cpu: &str) -> Result<(), Box<dyn Error>> {
    let id = cpu.parse()?;
    if core_affinity::set_for_current(core_affinity::CoreId { id }) {
        return Ok(());
    }
    Err(format!("cannot pin this thread to CPU {id}: is there one?").into())
}

/// A small generator, the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    fn below(&mut self, bound: u32) -> u32 {
        ((u64::from(self.next()) * u64::from(bound)) >> 32) as u32
    }
}

/// Nanoseconds for each of `count`: one pass to warm up, and the best of five. A pass is short, and what interrupts it is
/// not the table's.
fn measure(count: usize, mut pass: impl FnMut()) -> f64 {
    pass();
    let passes = (0..5).map(|_| {
        let from = Instant::now();
        pass();
        from.elapsed().as_nanos() as f64 / count as f64
    });
    passes.fold(f64::INFINITY, f64::min)
}

/// The same steps in every program, each waiting for the one before: how fast this core is just now.
fn calibration() -> f64 {
    let mut x = 1u64;
    let from = Instant::now();
    for _ in 0..1_000_000 {
        x = std::hint::black_box(
            x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407),
        );
    }
    from.elapsed().as_nanos() as f64 / 1e6
}

/// Says what building took, and measures whenever a line comes.
fn rounds(
    build_s: f64,
    bytes: usize,
    mut round: impl FnMut() -> Vec<(String, f64)>,
) -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{{\"build_s\":{build_s:.4},\"bytes\":{bytes}}}")?;
    for line in std::io::stdin().lock().lines() {
        line?;
        write!(out, "{{\"calibration\":{:.4}", calibration())?;
        for (name, ns) in round() {
            write!(out, ",\"{name}\":{ns:.3}")?;
        }
        writeln!(out, "}}")?;
    }
    Ok(())
}

fn write_answers(path: &std::path::Path, answers: &[u32]) -> Result<(), Box<dyn Error>> {
    let bytes: Vec<u8> = answers.iter().flat_map(|answer| answer.to_le_bytes()).collect();
    std::fs::write(path, bytes).map_err(|error| format!("cannot write {}: {error}", path.display()).into())
}

fn read(directory: &std::path::Path, name: &str) -> Result<String, Box<dyn Error>> {
    let path = directory.join(name);
    std::fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()).into())
}
