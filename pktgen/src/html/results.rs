//! The page of a run of the benchmarks: subjects side by side, where we lose first.

use std::collections::{BTreeMap, BTreeSet};

use super::bars::{Bar, figures, ratios, times, wide_figures};
use super::page::{Cell, Page};
use super::plot::{Axis, Line, Scale, plot};
use crate::results::{
    CALIBRATION, Contest, GENERATOR_LIMIT, KERNEL, OURS, Results, Row, Verdict, family, quantity,
};

/// Names with this many numbers are drawn as a curve.
const CURVE_MIN: usize = 3;
/// Of the generator's rate: who carries more was not loaded to its limit.
const GENERATOR_WAS_THE_LIMIT: f64 = 0.99;

/// The page; with another run that this one is held against.
#[must_use]
pub fn results_page(results: &Results, former: Option<&Results>) -> String {
    let mut page = Page::new(format!("Side by side: {}", results.title));
    if let Some(command) = &results.command {
        page.paragraph(format!("Made by {command}"));
    }
    let contests = results.contests();
    let count = |verdict| contests.iter().filter(|c| c.verdict == verdict).count().to_string();
    page.tiles(&[
        (count(Verdict::Better), "comparisons won", "good"),
        (count(Verdict::Worse), "lost", "bad"),
        (count(Verdict::Noise), "not resolved", ""),
        (results.questions().len().to_string(), "questions", ""),
    ]);
    circumstances(&mut page, results);
    if let Some(former) = former {
        changes(&mut page, results, former);
    }
    side_by_side(&mut page, results, &contests);
    let colours = Colours::of(results);
    for (group, questions) in groups(results) {
        page.heading(&group);
        let drawn = curves(&mut page, &questions, &colours);
        let mut drawings = Vec::new();
        let mut alone: BTreeMap<(&str, &str), Vec<&Row>> = BTreeMap::new();
        for rows in &questions {
            let Some(first) = rows.first().filter(|row| row.is_compared() || row.name == CALIBRATION) else {
                continue;
            };
            if rows.len() == 1 {
                alone.entry((&first.metric, &first.unit)).or_default().push(first);
            } else if !drawn.contains(&(first.name.as_str(), first.metric.as_str())) {
                let bars: Vec<Bar<'_>> = rows
                    .iter()
                    .map(|row| Bar { label: &row.subject, row, colour: colours.of_subject(&row.subject) })
                    .collect();
                drawings.push(figures(&format!("{}: {}", first.name, first.metric), &bars));
            }
        }
        page.beside(&drawings);
        for ((metric, _), rows) in alone {
            let bars: Vec<Bar<'_>> = rows
                .iter()
                .map(|row| Bar { label: &row.name, row, colour: colours.of_subject(&row.subject) })
                .collect();
            page.drawing(wide_figures(&format!("Measured of one subject only: {metric}"), &bars));
        }
    }
    all_figures(&mut page, results);
    page.html()
}

/// What the machine's facts are, the ones that matter most first.
fn circumstances(page: &mut Page, results: &Results) {
    let Some(machine) = &results.machine else {
        page.warning(
            "No machine.txt beside the results: under which circumstances they were made is not known.",
        );
        return;
    };
    let field = |name: &str| machine.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let mut rows = Vec::new();
    let mut fact = |what: &str, value: Option<&str>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            rows.push(vec![Cell::text(what).class("soft"), Cell::text(value)]);
        }
    };
    fact("kernel", machine.lines().next());
    fact("CPU", field("Model name:"));
    fact("CPUs", field("CPU(s):"));
    fact("hypervisor", field("Hypervisor vendor:"));
    fact("memory", field("MemTotal:"));
    fact("commit", field("commit"));
    fact("compiler", field("rustc"));
    fact("at the start", field("start:"));
    fact("at the end", field("end:"));
    page.table(&[], &rows);
    page.details("Everything about the machine, with its mitigations", machine);
    if field("commit").is_some_and(|commit| commit.contains("dirty")) {
        page.warning("The work tree was not clean: the commit does not say what was measured.");
    }
    if let Some((load, cpus)) = load_and_cpus(machine).filter(|(load, cpus)| *load > cpus / 4.0) {
        page.warning(format!(
            "The machine was busy with other things: its load was {load} on {cpus} CPUs when this began. Read ratios, not absolutes; \
             figures for each CPU-second count the others' work, too."
        ));
    }
}

fn load_and_cpus(machine: &str) -> Option<(f64, f64)> {
    let field = |name: &str| machine.lines().find_map(|line| line.strip_prefix(name));
    let load = field("start:")?.split("load ").nth(1)?.split_whitespace().next()?.parse().ok()?;
    Some((load, field("CPU(s):")?.trim().parse().ok()?))
}

fn side_by_side(page: &mut Page, results: &Results, contests: &[Contest<'_>]) {
    if contests.is_empty() {
        return;
    }
    page.heading("Where we lose, where we win");
    page.paragraph(
        "Ratios of medians; above ×1 we are better, whatever the unit. A comparison counts as won or lost only when the rounds of the two do not \
         overlap and the medians differ by a quarter (counts of instructions: by half a percent); all else is noise here.",
    );
    let of = |verdict| {
        let mut found: Vec<Contest<'_>> = contests.iter().filter(|c| c.verdict == verdict).copied().collect();
        found.sort_by(|a, b| a.gain.total_cmp(&b.gain));
        found
    };
    let (lost, mut won, noise) = (of(Verdict::Worse), of(Verdict::Better), of(Verdict::Noise));
    won.reverse();
    page.subheading(format!("We lose ({})", lost.len()));
    contest_table(page, &lost, "bad");
    page.subheading(format!("We win ({})", won.len()));
    contest_table(page, &won, "good");
    noise_details(page, &noise, |c| format!("{}: {} · {}", c.ours.name, c.ours.metric, c.other.subject));
    let limited = generator_limits(results);
    if !limited.is_empty() {
        page.warning(format!(
            "The generator was the limit, so that the subject may carry more: {}.",
            limited.join(", ")
        ));
    }
    left_out(page, results);
    let mut others: Vec<&str> = contests.iter().map(|c| c.other.subject.as_str()).collect();
    others.sort_by_key(|other| (*other != KERNEL, *other));
    others.dedup();
    for other in others {
        let these: Vec<_> = contests.iter().filter(|c| c.other.subject == other).collect();
        let name = |c: &Contest<'_>| format!("{}: {}", c.ours.name, c.ours.metric);
        page.drawing(ratios(&format!("Ours against {other}"), &these, name));
    }
}

fn contest_table(page: &mut Page, contests: &[Contest<'_>], class: &'static str) {
    if contests.is_empty() {
        page.paragraph("None.");
        return;
    }
    let rows: Vec<Vec<Cell>> = contests
        .iter()
        .map(|c| {
            let ratio = Cell::figure(times(c.gain));
            vec![
                Cell::text(&c.ours.name),
                Cell::text(&c.ours.metric).class("soft"),
                Cell::text(&c.other.subject),
                Cell::figure(quantity(c.ours.median)),
                Cell::figure(quantity(c.other.median)),
                Cell::text(&c.ours.unit).class("soft"),
                match class {
                    "bad" => ratio.class("n bad"),
                    "good" => ratio.class("n good"),
                    _ => ratio,
                },
            ]
        })
        .collect();
    page.table(&["measured", "metric", "against", "ours", "theirs", "unit", "ratio"], &rows);
}

/// Who came through with all that the generator sent.
fn generator_limits(results: &Results) -> Vec<String> {
    let sent: BTreeMap<(&str, &str), f64> = results
        .rows
        .iter()
        .filter(|row| row.metric.starts_with("generator") && row.metric != GENERATOR_LIMIT)
        .map(|row| ((row.name.as_str(), row.subject.as_str()), row.median))
        .collect();
    let all_came = |row: &&Row| {
        let sent = sent.get(&(row.name.as_str(), row.subject.as_str()));
        row.metric == "received" && sent.is_some_and(|sent| row.median >= sent * GENERATOR_WAS_THE_LIMIT)
    };
    let said = |row: &&Row| row.metric == GENERATOR_LIMIT && row.max > 0.0;
    let mut found: Vec<String> = results
        .rows
        .iter()
        .filter(|row| all_came(row) || said(row))
        .map(|row| format!("{} ({})", row.name, row.subject))
        .collect();
    found.sort();
    found.dedup();
    found
}

/// What could not be measured, and why.
fn left_out(page: &mut Page, results: &Results) {
    if results.left_out.is_empty() {
        return;
    }
    page.subheading(format!("Left out ({})", results.left_out.len()));
    let rows: Vec<Vec<Cell>> = results
        .left_out
        .iter()
        .map(|left| {
            vec![Cell::text(&left.case), Cell::text(&left.subject), Cell::text(&left.reason).class("soft")]
        })
        .collect();
    page.table(&["measured", "subject", "why not"], &rows);
}

/// This run against a former one.
fn changes(page: &mut Page, results: &Results, former: &Results) {
    page.heading(format!("Against {}", former.title));
    let all = results.changes(former);
    let (calibration, all): (Vec<_>, Vec<_>) = all.into_iter().partition(|c| c.ours.name == CALIBRATION);
    if let Some(c) = calibration.first() {
        page.paragraph(format!(
            "The loop that measures the machine itself was {} as fast as then: that much of every difference in time is the machine's.",
            times(c.gain)
        ));
    }
    let of = |verdict| all.iter().filter(|c| c.verdict == verdict).copied().collect::<Vec<_>>();
    let (better, worse, noise) = (of(Verdict::Better), of(Verdict::Worse), of(Verdict::Noise));
    page.tiles(&[
        (better.len().to_string(), "better than then", "good"),
        (worse.len().to_string(), "worse", "bad"),
        (noise.len().to_string(), "noise", ""),
    ]);
    if all.is_empty() {
        page.paragraph("The two runs have no figure in common.");
    }
    let name = |c: &Contest<'_>| format!("{}: {} · {}", c.ours.name, c.ours.metric, c.ours.subject);
    let mut changed = [worse, better].concat();
    changed.sort_by(|a, b| a.gain.total_cmp(&b.gain));
    if !changed.is_empty() {
        page.drawing(ratios("What changed: now against then", &changed.iter().collect::<Vec<_>>(), name));
        let rows: Vec<Vec<Cell>> = changed.iter().map(change_row).collect();
        page.table(&["measured", "metric", "subject", "now", "then", "unit", "ratio"], &rows);
    }
    noise_details(page, &noise, name);
}

fn noise_details(page: &mut Page, noise: &[Contest<'_>], name: impl Fn(&Contest<'_>) -> String) {
    if noise.is_empty() {
        return;
    }
    let line = |c: &Contest<'_>| {
        let (ours, other) = (quantity(c.ours.median), quantity(c.other.median));
        format!("{:>9} : {:<9} {:<14} {:<6}  {}", ours, other, c.ours.unit, times(c.gain), name(c))
    };
    let lines: Vec<String> = noise.iter().map(line).collect();
    page.details(
        format!("Not resolved ({}): rounds that overlap, or less than a quarter apart", noise.len()),
        lines.join("\n"),
    );
}

fn change_row(c: &Contest<'_>) -> Vec<Cell> {
    let class = if c.verdict == Verdict::Better { "n good" } else { "n bad" };
    vec![
        Cell::text(&c.ours.name),
        Cell::text(&c.ours.metric).class("soft"),
        Cell::text(&c.ours.subject),
        Cell::figure(quantity(c.ours.median)),
        Cell::figure(quantity(c.other.median)),
        Cell::text(&c.ours.unit).class("soft"),
        Cell::figure(times(c.gain)).class(class),
    ]
}

/// Each subject has one colour on the whole page; ours the first.
struct Colours(Vec<String>);

impl Colours {
    fn of(results: &Results) -> Self {
        let mut subjects = vec![OURS.to_owned(), KERNEL.to_owned()];
        for row in &results.rows {
            if !subjects.contains(&row.subject) {
                subjects.push(row.subject.clone());
            }
        }
        Colours(subjects)
    }

    fn of_subject(&self, subject: &str) -> usize {
        self.0.iter().position(|known| known == subject).unwrap_or(0) % 8
    }
}

/// Questions by the first part of their names.
fn groups(results: &Results) -> BTreeMap<String, Vec<Vec<&Row>>> {
    let mut groups: BTreeMap<String, Vec<Vec<&Row>>> = BTreeMap::new();
    for rows in results.questions() {
        let Some(name) = rows.first().map(|row| &row.name) else { continue };
        let group = match name.split('/').next() {
            Some("mem") => "In memory",
            Some("veth") => "Over virtual links",
            Some("tcp") => "Bulk TCP",
            Some(first) => first,
            None => name,
        };
        groups.entry(group.to_owned()).or_default().push(rows);
    }
    groups
}

/// Names that differ in their last number only: throughput against size, cost against scale. Says which names and metrics need no bars
/// any more: all but the first of each curve.
fn curves<'a>(
    page: &mut Page,
    questions: &[Vec<&'a Row>],
    colours: &Colours,
) -> BTreeSet<(&'a str, &'a str)> {
    let mut drawn = BTreeSet::new();
    type Points<'a> = BTreeMap<&'a str, Vec<(f64, &'a Row)>>;
    let mut families: BTreeMap<(&'a str, &'a str, &'a str), Points<'a>> = BTreeMap::new();
    for &row in questions.iter().flatten().filter(|row| row.is_compared()) {
        if let Some((stem, number)) = family(&row.name) {
            let family = families.entry((stem, &row.metric, &row.unit)).or_default();
            family.entry(&row.subject).or_default().push((number, row));
        }
    }
    let mut drawings = Vec::new();
    for ((stem, metric, unit), subjects) in families {
        if subjects.values().all(|points| points.len() < CURVE_MIN) {
            continue;
        }
        let first = subjects.values().flatten().map(|(number, _)| *number).fold(f64::MAX, f64::min);
        let others = subjects.values().flatten().filter(|(number, _)| *number > first);
        drawn.extend(others.map(|(_, row)| (row.name.as_str(), metric)));
        let lines: Vec<Line> = subjects
            .iter()
            .map(|(subject, points)| {
                Line::new(
                    *subject,
                    colours.of_subject(subject),
                    points.iter().map(|(x, row)| (*x, row.median)).collect(),
                )
                .with_spread(points.iter().map(|(_, row)| (row.min, row.max)).collect())
                .with_dots()
            })
            .collect();
        let across = match stem.trim_end_matches(['/', '-']).rsplit(['/', '-']).next() {
            Some(of) if stem.ends_with('-') => of.to_owned(),
            _ => "frame size, bytes".to_owned(),
        };
        let title = format!("{}: {metric}", stem.trim_end_matches(['/', '-']));
        drawings.push(plot(
            &title,
            &Axis::new(across, Scale::Sizes),
            &Axis::new(unit, Scale::Linear),
            &lines,
        ));
    }
    page.beside(&drawings);
    drawn
}

fn all_figures(page: &mut Page, results: &Results) {
    page.heading("All figures");
    let rows: Vec<Vec<Cell>> = results
        .questions()
        .iter()
        .flatten()
        .map(|row| {
            vec![
                Cell::text(&row.name),
                Cell::text(&row.subject),
                Cell::text(&row.metric).class("soft"),
                Cell::figure(quantity(row.median)),
                Cell::figure(quantity(row.min)),
                Cell::figure(quantity(row.max)),
                Cell::text(&row.unit).class("soft"),
                Cell::figure(row.rounds),
            ]
        })
        .collect();
    page.table(&["measured", "subject", "metric", "median", "min", "max", "unit", "rounds"], &rows);
}
