//! TCP connections a second: a client at one end, a server at the other, both of them smoltcp over AF_XDP.
//!
//! ```text
//!   tokens ─► Client ═ AF_XDP ══ subject ══ AF_XDP ═ Server
//!             connect · send the request · read the response · close
//! ```
//!
//! At each end an XDP program gives the segments of the server's port to us, and all else to the kernel: which goes on to answer for its
//! neighbors, and knows nothing of the connections.

pub mod stack;

use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use caracal_wire::{EtherType, ethernet};
use serde::Serialize;

use crate::cpu::MachineTime;
use crate::engine::xsk::TcpPort;
use crate::files;
use crate::pace::{Pacer, Rate};
use crate::place::Place;
use crate::profile::file::Connections;
use crate::reach::Reach;
use crate::report::rate;
use crate::run::{Output, Stop};
use stack::{Client, Ours, Server};

/// How long connections that are open at the end may take.
const LINGER: Duration = Duration::from_secs(6);
/// How long to sleep when there is nothing to do.
const NAP: Duration = Duration::from_micros(50);
const BATCH: u64 = 64;

/// An end that is to be taken.
#[derive(Debug, Clone)]
pub struct End {
    /// Where.
    pub place: Place,
    /// How it reaches the other.
    pub reach: Reach,
}

impl End {
    fn ours(&self) -> Ours {
        Ours { address: self.reach.source, mtu: self.reach.interface.mtu }
    }

    fn take(&self, port: u16) -> anyhow::Result<Wire> {
        let Reach { interface, hop, source, .. } = &self.reach;
        let ether_type = if source.is_ipv6() { EtherType::IPV6 } else { EtherType::IPV4 };
        let mut header = [0; ethernet::HEADER_LEN];
        ethernet::Repr { destination: hop.destination, source: hop.source, ether_type }.emit(&mut header)?;
        let segments = self.place.within(|| TcpPort::take(interface, port))?;
        Ok(Wire { segments, header, frame: Vec::new() })
    }
}

/// An end's interface, as IP packets see it.
struct Wire {
    segments: TcpPort,
    header: [u8; ethernet::HEADER_LEN],
    frame: Vec<u8>,
}

impl Wire {
    /// What there is no room for is lost, as on any wire.
    fn send(&mut self, packet: &[u8]) {
        self.frame.clear();
        self.frame.extend(self.header);
        self.frame.extend(packet);
        self.segments.send(&self.frame);
    }

    fn turn(&mut self, mut came: impl FnMut(&[u8])) -> usize {
        self.segments.turn(|frame| came(frame.get(ethernet::HEADER_LEN..).unwrap_or(&[])))
    }
}

#[derive(Debug, Serialize)]
struct Report {
    from: String,
    to: String,
    asked_per_second: f64,
    elapsed_s: f64,
    /// Handshakes completed a second: CPS.
    connections_per_second: f64,
    attempted: u64,
    established: u64,
    completed: u64,
    failed: u64,
    retransmitted: u64,
    missed: u64,
    handshake_ns: Option<Handshake>,
    machine_cpu_s: Option<f64>,
    generator_was_the_limit: bool,
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Handshake {
    min: u64,
    mean: f64,
    p50: u64,
    p90: u64,
    p99: u64,
    #[serde(rename = "p99.9")]
    p999: u64,
    max: u64,
}

impl Report {
    fn table(&self) -> String {
        let mut out = String::new();
        // Writing into a String cannot fail.
        let _ = writeln!(out, "{} → {}", self.from, self.to);
        let _ = writeln!(
            out,
            "attempted    {:>10}   {} connections/s asked for, {:.2} s",
            self.attempted,
            rate(self.asked_per_second),
            self.elapsed_s
        );
        let _ = writeln!(
            out,
            "established  {:>10}   {} connections/s",
            self.established,
            rate(self.connections_per_second)
        );
        let rows = [
            ("completed", self.completed),
            ("failed", self.failed),
            ("sent again", self.retransmitted),
            ("left out", self.missed),
        ];
        for (name, count) in rows {
            let _ = writeln!(out, "{name:<12} {count:>10}");
        }
        if let Some(h) = &self.handshake_ns {
            let us = |ns: u64| ns as f64 / 1e3;
            let _ = writeln!(
                out,
                "handshake    min {:.1}   p50 {:.1}   p90 {:.1}   p99 {:.1}   p99.9 {:.1}   max {:.1}   µs",
                us(h.min),
                us(h.p50),
                us(h.p90),
                us(h.p99),
                us(h.p999),
                us(h.max)
            );
        }
        out
    }
}

/// Makes connections for a while, and tells what became of them.
///
/// # Errors
/// An interface cannot be taken.
pub fn run(
    from: &End,
    to: &End,
    what: Connections,
    duration: Duration,
    stop: Stop,
    output: Output,
    expect_no_loss: bool,
) -> anyhow::Result<ExitCode> {
    let seed = crate::clock::now_ns();
    let mut client = Client::new(&from.ours(), to.reach.source, what, seed)?;
    let mut server = Server::new(&to.ours(), what, seed ^ 0x5eed)?;
    let mut server_wire = to.take(what.port).context("the server's end")?;
    let mut client_wire = from.take(what.port).context("the client's end")?;
    let over = AtomicBool::new(false);
    let busy = MachineTime::now();
    let start = Instant::now();
    let elapsed = thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let came = server_wire.turn(|frame| server.take(frame));
                server.turn(start.elapsed());
                let mut sent = 0;
                while let Some(frame) = server.give() {
                    server_wire.send(&frame);
                    sent += 1;
                }
                if came + sent == 0 {
                    thread::sleep(NAP);
                }
            }
        });
        let mut pacer = Pacer::new(Rate::PerSecond(what.per_second), duration);
        let mut is_sending = true;
        let mut elapsed = start.elapsed();
        while (is_sending || client.open() > 0) && elapsed < duration + LINGER {
            elapsed = start.elapsed();
            // Those that are open may end.
            is_sending = is_sending && !stop.is_set() && !pacer.is_over(elapsed);
            let due = if is_sending { pacer.take(elapsed, BATCH) } else { None };
            is_sending = due.is_some();
            let due = due.unwrap_or(0);
            let came = client_wire.turn(|frame| client.take(frame));
            client.turn(elapsed, due);
            let mut sent = 0;
            while let Some(frame) = client.give() {
                client_wire.send(&frame);
                sent += 1;
            }
            if came as u64 + sent + due == 0 {
                thread::sleep(NAP);
            }
        }
        over.store(true, Ordering::Relaxed);
        client.outcome.missed += pacer.missed();
        start.elapsed().min(duration.max(Duration::from_millis(1)))
    });
    let outcome = &client.outcome;
    let elapsed_s = elapsed.as_secs_f64();
    let connections_per_second = outcome.established as f64 / elapsed_s;
    let still_open = client.open() as u64;
    let generator_was_the_limit = outcome.missed * 100 > outcome.attempted;
    let mut warnings = Vec::new();
    if stop.is_set() {
        warnings.push("the run was ended before its time".into());
    }
    if generator_was_the_limit {
        warnings.push(format!(
            "{} connections were left out: as many as may be (concurrent: {}) were open, or the generator was the limit",
            outcome.missed, what.concurrent
        ));
    }
    if still_open > 0 {
        warnings.push(format!("{still_open} connections were still open at the end"));
    }
    let histogram = &outcome.handshake_ns;
    let quantile = |at| histogram.value_at_quantile(at);
    let report = Report {
        from: from.place.to_string(),
        to: format!("{} {}:{}", to.place, to.reach.source, what.port),
        asked_per_second: what.per_second,
        elapsed_s,
        connections_per_second,
        attempted: outcome.attempted,
        established: outcome.established,
        completed: outcome.completed,
        failed: outcome.failed + still_open,
        retransmitted: outcome.retransmitted,
        missed: outcome.missed,
        handshake_ns: (!histogram.is_empty()).then(|| Handshake {
            min: histogram.min(),
            mean: histogram.mean(),
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max: histogram.max(),
        }),
        machine_cpu_s: busy.zip(MachineTime::now()).map(|(before, after)| after.since(before).busy_s),
        generator_was_the_limit,
        warnings,
    };
    match output {
        Output::Json => files::print_json(&report)?,
        Output::Table => files::print(&report.table())?,
    }
    for warning in &report.warnings {
        files::say(warning);
    }
    let failed = expect_no_loss && (report.failed > 0 || report.established == 0);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
