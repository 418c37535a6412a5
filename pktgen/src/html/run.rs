//! The page of runs of `pktgen run`: one, or several held against one another.

use serde_json::Value;

use super::page::{Cell, Page};
use super::plot::{Axis, Line, Scale, plot, wide_plot};
use crate::account::SeriesRow;
use crate::report::{Latency, Report, micros};
use crate::results::quantity;

/// Curves over time are drawn of so many runs.
const OVER_TIME_MAX: usize = 12;
/// Flows in the table: those that lost most.
const FLOWS_SHOWN: usize = 20;

/// A run and what it is called.
#[derive(Debug)]
pub struct Named {
    /// Its file's name, or where it went.
    pub name: String,
    /// What it found.
    pub report: Report,
}

/// The page.
#[must_use]
pub fn runs_page(runs: &[Named]) -> String {
    let title = match runs {
        [run] => format!("{} → {}", run.report.from, run.report.to),
        _ => format!("{} runs", runs.len()),
    };
    let mut page = Page::new(title);
    if let [run] = runs {
        page.paragraph(format!("{}, {}", run.name, run.report.started));
        tiles(&mut page, &run.report);
    }
    for run in runs {
        for warning in &run.report.warnings {
            page.warning(if runs.len() > 1 { format!("{}: {warning}", run.name) } else { warning.clone() });
        }
    }
    page.heading("Latency");
    latency(&mut page, runs);
    sizes(&mut page, runs);
    page.heading("Over time");
    for run in runs.iter().take(OVER_TIME_MAX) {
        over_time(&mut page, run, runs.len() > 1);
    }
    if runs.len() > OVER_TIME_MAX {
        page.paragraph(format!("Drawn of the first {OVER_TIME_MAX} runs only."));
    }
    page.heading("Facts");
    facts(&mut page, runs);
    for run in runs {
        flows(&mut page, run);
    }
    page.html()
}

fn tiles(page: &mut Page, report: &Report) {
    let mut tiles = vec![
        (quantity(report.received_pps), "packets/s received", ""),
        (
            format!("{:.4} %", report.total.loss_percent()),
            "lost",
            if report.total.lost > 0 { "bad" } else { "good" },
        ),
    ];
    if let Some(latency) = report.latency_ns {
        tiles.push((format!("{} µs", micros(latency.p50)), "median latency", ""));
        tiles.push((format!("{} µs", micros(latency.p99)), "99 % within", ""));
        tiles.push((format!("{} µs", micros(latency.max)), "longest", ""));
    }
    if let Some(packets) = report.packets_per_cpu_s {
        tiles.push((quantity(packets), "packets per CPU-second of the machine", ""));
    }
    page.tiles(&tiles);
}

fn latency(page: &mut Page, runs: &[Named]) {
    let lines: Vec<Line> = runs
        .iter()
        .enumerate()
        .map(|(at, run)| {
            let points = run.report.latency_points.iter().map(|p| (p.quantile, p.ns as f64 / 1e3)).collect();
            Line::new(&run.name, at, points)
        })
        .collect();
    page.drawing(wide_plot(
        "Latency by percentile: each further nine takes the same room",
        &Axis::new("percentile", Scale::Nines),
        &Axis::new("µs", Scale::Log),
        &lines,
    ));
    let rows: Vec<Vec<Cell>> = runs
        .iter()
        .filter_map(|run| {
            let l: Latency = run.report.latency_ns?;
            let some = |value: Option<u64>| Cell::figure(value.map_or("–".into(), micros));
            let mut row = vec![Cell::text(&run.name)];
            row.extend([l.min, l.p50, l.p90, l.p99, l.p999].map(|ns| Cell::figure(micros(ns))));
            row.extend([l.p9999, l.p99999, l.p999999].map(some));
            row.push(Cell::figure(micros(l.max)));
            row.push(Cell::figure(format!("{:.1}", l.mean / 1e3)));
            row.push(Cell::figure(format!("{:.1}", run.report.jitter_ns / 1e3)));
            Some(row)
        })
        .collect();
    page.table(
        &[
            "µs",
            "min",
            "50 %",
            "90 %",
            "99 %",
            "99.9 %",
            "99.99 %",
            "99.999 %",
            "99.9999 %",
            "max",
            "mean",
            "jitter",
        ],
        &rows,
    );
    page.paragraph("– : too few packets came to know this percentile. Latencies are kept to three digits.");
}

/// Throughput against size, when the runs differ in that.
fn sizes(page: &mut Page, runs: &[Named]) {
    let mut points: Vec<(f64, f64, f64)> = runs
        .iter()
        .filter_map(|run| {
            let size: f64 = run.report.profile.get("sizes")?.as_str()?.parse().ok()?;
            Some((size, run.report.received_pps, run.report.received_pps * size * 8.0 / 1e9))
        })
        .collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut different: Vec<f64> = points.iter().map(|point| point.0).collect();
    different.dedup();
    if different.len() < 2 {
        return;
    }
    page.heading("Throughput against size");
    let drawing = |title, unit, of: fn(&(f64, f64, f64)) -> f64| {
        let line =
            Line::new("received", 0, points.iter().map(|point| (point.0, of(point))).collect()).with_dots();
        plot(title, &Axis::new("frame size, bytes", Scale::Sizes), &Axis::new(unit, Scale::Linear), &[line])
    };
    page.beside(&[
        drawing("Packets a second", "packets/s", |point| point.1),
        drawing("Gigabits a second", "Gbit/s", |point| point.2),
    ]);
}

fn over_time(page: &mut Page, run: &Named, named: bool) {
    let series = &run.report.series;
    if series.rows.len() < 2 {
        page.paragraph(format!("{}: too short for curves.", run.name));
        return;
    }
    if named {
        page.subheading(&run.name);
    }
    // The first and the last are parts of a row's time, and would look like a rise and a fall.
    let rows = match series.rows.as_slice() {
        [_, between @ .., _] if between.len() > 1 => between,
        all => all,
    };
    let line = |name: &str, colour, of: &dyn Fn(&SeriesRow) -> f64| {
        Line::new(name, colour, rows.iter().map(|row| (row.at_s, of(row))).collect())
    };
    let micros = |ns: Option<u64>| ns.map_or(f64::NAN, |ns| ns as f64 / 1e3);
    let ran = run.report.reconfiguration.as_ref().map_or(&[][..], |change| &change.ran_s);
    let shaded = if ran.is_empty() { "" } else { "; shaded: the command ran" };
    let label = format!("seconds (a point every {}{shaded})", span(series.row_s));
    let seconds = || Axis::new(&label, Scale::Linear).shaded(ran);
    page.beside(&[
        plot(
            "Rate",
            &seconds(),
            &Axis::new("packets/s", Scale::Linear),
            &[line("sent", 1, &|row| row.sent_pps), line("received", 0, &|row| row.received_pps)],
        ),
        plot(
            "Latency",
            &seconds(),
            &Axis::new("µs", Scale::Log),
            &[
                line("median", 0, &|row| micros(row.p50_ns)),
                line("99 %", 4, &|row| micros(row.p99_ns)),
                line("max", 1, &|row| micros(row.max_ns)),
            ],
        ),
    ]);
    if rows.iter().any(|row| row.missing != 0) {
        page.drawing(wide_plot(
            "Packets found missing (below zero: came late after all)",
            &seconds(),
            &Axis::new("packets", Scale::Linear),
            &[line("missing", 1, &|row| row.missing as f64)],
        ));
    }
}

fn span(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.0} ms", seconds * 1e3) } else { format!("{seconds:.0} s") }
}

/// Every fact of every run, a column a run.
fn facts(page: &mut Page, runs: &[Named]) {
    let columns: Vec<Vec<(String, String)>> = runs.iter().map(|run| facts_of(&run.report)).collect();
    let mut names: Vec<&String> = Vec::new();
    for (name, _) in columns.iter().flatten() {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let rows: Vec<Vec<Cell>> = names
        .into_iter()
        .map(|name| {
            let value = |column: &Vec<(String, String)>| {
                let known = column.iter().find(|(known, _)| known == name);
                Cell::text(known.map_or("–", |(_, value)| value))
            };
            [Cell::text(name).class("soft")].into_iter().chain(columns.iter().map(value)).collect()
        })
        .collect();
    let mut head = vec![""];
    head.extend(runs.iter().map(|run| run.name.as_str()));
    page.table(&head, &rows);
    let Some(machine) = runs.first().map(|run| &run.report.machine).filter(|m| !m.mitigations.is_empty())
    else {
        return;
    };
    let lines: Vec<String> =
        machine.mitigations.iter().map(|(fault, what)| format!("{fault}: {what}")).collect();
    page.details("What the kernel does about the CPU's faults", lines.join("\n"));
}

fn facts_of(report: &Report) -> Vec<(String, String)> {
    let mut facts: Vec<(String, String)> = vec![("started".into(), report.started.clone())];
    if let Value::Object(profile) = &report.profile {
        let asked = |(name, value): (&String, &Value)| {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            (value != "null").then(|| (format!("profile: {}", name.replace('_', " ")), value))
        };
        facts.extend(profile.iter().filter_map(asked));
    }
    let mut fact = |name: &str, value: String| facts.push((name.to_owned(), value));
    let total = report.total;
    fact("latencies", report.trip().into());
    fact("from", report.from.clone());
    fact("to", report.to.clone());
    fact("sent", format!("{} ({}/s, {:.3} Gbit/s)", total.sent, quantity(report.sent_pps), report.sent_gbps));
    fact("received", format!("{} ({}/s)", total.received, quantity(report.received_pps)));
    fact("lost", format!("{} ({:.4} %)", total.lost, total.loss_percent()));
    fact("duplicated", total.duplicated.to_string());
    fact("reordered", format!("{}, by up to {}", total.reordered, report.reordered_behind_max));
    fact(
        "longest silence",
        format!(
            "{:.2} ms; of one flow {:.2} ms",
            report.longest_gap_ns as f64 / 1e6,
            report.longest_flow_gap_ns as f64 / 1e6
        ),
    );
    if let Some(change) = &report.reconfiguration {
        fact(
            "meanwhile",
            format!(
                "{} (ran {} times, failed {}): {} packets lost, as many as come in {:.2} ms; longest silence of a flow {:.2} ms, {:.2} ms when nothing happens",
                change.command,
                change.ran_s.len(),
                change.failed,
                change.lost,
                change.lost_ms,
                change.longest_flow_gap_ms,
                change.usual_flow_gap_ms
            ),
        );
    }
    if let Some(seconds) = report.machine_cpu_s {
        fact("machine's CPUs", format!("{seconds:.2} s busy in {:.2} s", report.elapsed_s));
    }
    for worker in &report.workers {
        fact(&worker.name, format!("{:.0} % busy, {:.2} CPU-s", worker.load * 100.0, worker.cpu_s));
    }
    let machine = &report.machine;
    fact("machine", format!("{}, {} CPUs {}", machine.host, machine.cpus, machine.cpu_model));
    fact("kernel", machine.kernel.clone());
    if let Some(governor) = &machine.governor {
        fact("CPU governor", governor.clone());
    }
    fact("load before", machine.load.iter().map(f64::to_string).collect::<Vec<_>>().join(" "));
    fact("pktgen", format!("{} ({}, {})", machine.version, machine.commit, machine.build));
    facts
}

fn flows(page: &mut Page, run: &Named) {
    let flows = &run.report.flows;
    if flows.len() < 2 {
        return;
    }
    let mut worst: Vec<_> = flows.iter().collect();
    worst.sort_by_key(|row| (std::cmp::Reverse(row.counts.lost), row.flow));
    page.heading(format!("Flows of {}", run.name));
    if flows.len() > FLOWS_SHOWN {
        let all = flows.len() + run.report.flows_left_out;
        page.paragraph(format!("The {FLOWS_SHOWN} of {all} that lost most."));
    }
    let some = |ns: Option<u64>| Cell::figure(ns.map_or("–".into(), micros));
    let rows: Vec<Vec<Cell>> = worst
        .into_iter()
        .take(FLOWS_SHOWN)
        .map(|row| {
            let c = row.counts;
            let mut cells = vec![Cell::figure(row.flow)];
            cells.extend([c.sent, c.received, c.lost, c.duplicated, c.reordered].map(Cell::figure));
            cells.extend(
                [row.latency_mean_ns, row.latency_p50_ns, row.latency_p99_ns, row.latency_max_ns].map(some),
            );
            cells.push(Cell::figure(format!("{:.1}", row.jitter_ns / 1e3)));
            cells.push(Cell::figure(format!("{:.2}", row.longest_gap_ns as f64 / 1e6)));
            cells
        })
        .collect();
    page.table(
        &[
            "flow",
            "sent",
            "received",
            "lost",
            "doubled",
            "reordered",
            "mean µs",
            "50 %",
            "99 %",
            "max",
            "jitter",
            "silence ms",
        ],
        &rows,
    );
}
