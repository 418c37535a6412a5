//! Pages of searches: which loads were carried, and what RFC 2544 asks for.

use serde_json::Value;

use super::page::{Cell, Page};
use super::plot::{Axis, Line, Scale, plot, wide_plot};
use crate::report::{LatencyPoint, micros};
use crate::results::quantity;
use crate::search::Outcome;
use crate::search::rfc2544::Rfc2544;
use crate::search::session::{Circumstances, LatencyAt, TrialRow};

/// The page of `pktgen search`.
#[must_use]
pub fn search_page(name: &str, found: &Outcome) -> String {
    let mut page = Page::new(format!("Search: {} → {}", found.about.from, found.about.to));
    page.paragraph(format!("{name}, {}", found.about.started));
    let tiles: Vec<(String, &str, &str)> = found
        .results
        .iter()
        .map(|row| (row.lower_pps.map_or("none".into(), quantity), row.name.as_str(), ""))
        .collect();
    page.tiles(&tiles);
    for row in found.results.iter().filter(|row| row.generator_was_the_limit) {
        page.warning(format!("{}: the generator was the limit; the subject may carry more.", row.name));
    }
    warnings(&mut page, &found.warnings);
    let figure = |pps: Option<f64>| Cell::figure(pps.map_or("–".into(), quantity));
    let rows: Vec<Vec<Cell>> = found
        .results
        .iter()
        .map(|row| {
            let bounds = [row.lower_pps, row.upper_pps, row.throughput_pps].map(figure);
            [Cell::text(&row.name)].into_iter().chain(bounds).collect()
        })
        .collect();
    page.table(&["packets/s", "carried", "not carried", "came through"], &rows);
    page.heading("Every trial");
    let of = |lossy: bool| {
        let mut points: Vec<(f64, f64)> = found
            .trials
            .iter()
            .filter(|trial| (trial.loss_percent > 0.0) == lossy)
            .filter_map(|trial| Some((trial.asked_pps?, trial.loss_percent)))
            .collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points
    };
    page.beside(&[
        plot(
            "Loss at each load that was tried",
            &Axis::new("packets/s", Scale::Linear),
            &Axis::new("lost, %", Scale::Linear),
            &[
                Line::new("nothing lost", 2, of(false)).with_dots(),
                Line::new("lost", 1, of(true)).with_dots(),
            ],
        ),
        plot(
            "How the search went",
            &Axis::new("trial", Scale::Linear),
            &Axis::new("packets/s", Scale::Linear),
            &[Line::new("load", 0, tried(&found.trials)).with_dots()],
        ),
    ]);
    latency(
        &mut page,
        "Latency below the NDR",
        &found.latency.iter().map(|at| (format!("{} %", at.percent), at)).collect::<Vec<_>>(),
    );
    circumstances(&mut page, &found.about);
    trials(&mut page, &found.trials);
    page.html()
}

/// The page of `pktgen rfc2544`.
#[must_use]
pub fn rfc2544_page(name: &str, found: &Rfc2544) -> String {
    let mut page = Page::new(format!("RFC 2544: {} → {}", found.about.from, found.about.to));
    page.paragraph(format!(
        "{name}, {}. Trials of {:.1} s, where the RFC asks for 60 s; sizes are without the FCS; the greatest rate is the generator's.",
        found.about.started, found.trial_s
    ));
    warnings(&mut page, &found.warnings);
    page.heading("Throughput (26.1)");
    let line = |name: &str, colour, of: &dyn Fn(&crate::search::rfc2544::SizeRow) -> Option<f64>| {
        let points = found.sizes.iter().filter_map(|row| Some((f64::from(row.size), of(row)?))).collect();
        Line::new(name, colour, points).with_dots()
    };
    let size = || Axis::new("frame size, bytes", Scale::Sizes);
    page.beside(&[
        plot(
            "Packets a second without loss",
            &size(),
            &Axis::new("packets/s", Scale::Linear),
            &[
                line("throughput", 0, &|row| row.throughput_pps),
                line("generator's utmost", 7, &|row| Some(row.greatest_pps)),
            ],
        ),
        plot(
            "Gigabits a second without loss",
            &size(),
            &Axis::new("Gbit/s", Scale::Linear),
            &[line("throughput", 0, &|row| row.throughput_gbps)],
        ),
    ]);
    let rows: Vec<Vec<Cell>> = found
        .sizes
        .iter()
        .map(|row| {
            let bursts = &row.back_to_back;
            let burst = if bursts.endless { "endless".into() } else { quantity(bursts.mean_packets) };
            let loss =
                row.frame_loss.first().map_or("–".into(), |step| format!("{:.4} %", step.loss_percent));
            vec![
                Cell::figure(row.size),
                Cell::figure(row.throughput_pps.map_or("none".into(), quantity)),
                Cell::figure(row.throughput_gbps.map_or("–".into(), |gbps| format!("{gbps:.3}"))),
                Cell::figure(quantity(row.greatest_pps)),
                Cell::figure(loss),
                Cell::figure(burst),
                Cell::text(if row.generator_was_the_limit { "the generator was the limit" } else { "" })
                    .class("soft"),
            ]
        })
        .collect();
    page.table(
        &["bytes", "packets/s", "Gbit/s", "greatest rate", "loss there", "back-to-back (26.4)", ""],
        &rows,
    );
    let at: Vec<_> = found
        .sizes
        .iter()
        .filter_map(|row| Some((format!("{} bytes", row.size), row.latency.as_ref()?)))
        .collect();
    latency(&mut page, "Latency at the throughput (26.2)", &at);
    page.heading("Frame loss rate (26.3)");
    let lines: Vec<Line> = found
        .sizes
        .iter()
        .enumerate()
        .map(|(at, row)| {
            let mut points: Vec<(f64, f64)> =
                row.frame_loss.iter().map(|s| (s.percent, s.loss_percent)).collect();
            points.reverse();
            Line::new(format!("{} bytes", row.size), at, points).with_dots()
        })
        .collect();
    page.drawing(wide_plot(
        "Lost, by part of the greatest rate",
        &Axis::new("% of the greatest rate", Scale::Linear),
        &Axis::new("lost, %", Scale::Linear),
        &lines,
    ));
    circumstances(&mut page, &found.about);
    trials(&mut page, &found.trials);
    page.html()
}

fn warnings(page: &mut Page, warnings: &[String]) {
    match warnings {
        [] => {}
        [one] => page.warning(one),
        many => page
            .details(format!("{} things to know before believing the figures", many.len()), many.join("\n")),
    }
}

fn tried(trials: &[TrialRow]) -> Vec<(f64, f64)> {
    trials.iter().enumerate().filter_map(|(at, trial)| Some(((at + 1) as f64, trial.asked_pps?))).collect()
}

fn latency(page: &mut Page, title: &str, at: &[(String, &LatencyAt)]) {
    if at.is_empty() {
        return;
    }
    page.heading(title);
    let curve = |points: &[LatencyPoint]| points.iter().map(|p| (p.quantile, p.ns as f64 / 1e3)).collect();
    let lines: Vec<Line> =
        at.iter().enumerate().map(|(n, (name, at))| Line::new(name, n, curve(&at.latency_points))).collect();
    page.drawing(wide_plot(
        "Latency by percentile: each further nine takes the same room",
        &Axis::new("percentile", Scale::Nines),
        &Axis::new("µs", Scale::Log),
        &lines,
    ));
    let rows: Vec<Vec<Cell>> = at
        .iter()
        .map(|(name, at)| {
            let mut row = vec![Cell::text(name), Cell::figure(quantity(at.load_pps))];
            row.push(Cell::figure(format!("{:.4} %", at.loss_percent)));
            let cells = at
                .latency_ns
                .map(|l| [Some(l.min), Some(l.p50), Some(l.p99), Some(l.p999), l.p99999, Some(l.max)]);
            row.extend(cells.unwrap_or_default().map(|ns| Cell::figure(ns.map_or("–".into(), micros))));
            row
        })
        .collect();
    page.table(&["µs", "packets/s", "lost", "min", "50 %", "99 %", "99.9 %", "99.999 %", "max"], &rows);
}

fn circumstances(page: &mut Page, about: &Circumstances) {
    page.heading("Facts");
    let machine = &about.machine;
    let mut rows: Vec<(String, String)> = vec![
        ("from".into(), about.from.clone()),
        ("to".into(), about.to.clone()),
        ("machine".into(), format!("{}, {} CPUs {}", machine.host, machine.cpus, machine.cpu_model)),
        ("kernel".into(), machine.kernel.clone()),
        ("load before".into(), machine.load.iter().map(f64::to_string).collect::<Vec<_>>().join(" ")),
        ("pktgen".into(), format!("{} ({}, {})", machine.version, machine.commit, machine.build)),
    ];
    if let Value::Object(profile) = &about.profile {
        let fact = |(name, value): (&String, &Value)| {
            (
                format!("profile: {}", name.replace('_', " ")),
                value.as_str().map_or_else(|| value.to_string(), str::to_owned),
            )
        };
        rows.extend(profile.iter().map(fact));
    }
    let rows: Vec<Vec<Cell>> = rows
        .into_iter()
        .map(|(name, value)| vec![Cell::text(name).class("soft"), Cell::text(value)])
        .collect();
    page.table(&[], &rows);
    let lines: Vec<String> =
        machine.mitigations.iter().map(|(fault, what)| format!("{fault}: {what}")).collect();
    page.details("What the kernel does about the CPU's faults", lines.join("\n"));
}

fn trials(page: &mut Page, trials: &[TrialRow]) {
    page.heading("Trials");
    let rows: Vec<Vec<Cell>> = trials
        .iter()
        .enumerate()
        .map(|(at, trial)| {
            vec![
                Cell::figure(at + 1),
                Cell::text(&trial.purpose).class("soft"),
                Cell::figure(trial.asked_pps.map_or("utmost".into(), quantity)),
                Cell::figure(quantity(trial.sent_pps)),
                Cell::figure(quantity(trial.received_pps)),
                Cell::figure(format!("{:.4} %", trial.loss_percent)).class(if trial.loss_percent > 0.0 {
                    "n bad"
                } else {
                    "n"
                }),
                Cell::figure(format!("{:.2} s", trial.duration_s)),
                Cell::figure(trial.latency_ns.map_or("–".into(), |l| micros(l.p99))),
            ]
        })
        .collect();
    page.table(&["", "for", "asked", "sent/s", "received/s", "lost", "lasted", "99 % µs"], &rows);
}
