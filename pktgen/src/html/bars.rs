//! Horizontal bars: figures of several subjects with their spread, and ratios either side of one.

use std::fmt::Write;

use super::page::escape;
use crate::results::{Contest, OURS, Row, Verdict, quantity};

/// Of a drawing beside another, and of one as wide as the page.
const WIDTH: f64 = 520.0;
const PAGE_WIDTH: f64 = 1060.0;
const FIGURES: f64 = 70.0;
/// About what a letter takes.
const LETTER: f64 = 7.0;
const BAR: f64 = 15.0;
const PITCH: f64 = 21.0;
/// Ratios beyond this end at the edge.
const RATIO_MAX: f64 = 16.0;

/// A bar: a figure, what stands before it, and its colour.
#[derive(Debug)]
pub struct Bar<'a> {
    /// What stands before it.
    pub label: &'a str,
    /// The figure.
    pub row: &'a Row,
    /// Its colour.
    pub colour: usize,
}

/// Figures of one unit, with a whisker from the least to the greatest of their rounds.
#[must_use]
pub fn figures(title: &str, bars: &[Bar<'_>]) -> String {
    draw_figures(title, bars, WIDTH)
}

/// The same as wide as the page.
#[must_use]
pub fn wide_figures(title: &str, bars: &[Bar<'_>]) -> String {
    draw_figures(title, bars, PAGE_WIDTH)
}

fn draw_figures(title: &str, bars: &[Bar<'_>], width: f64) -> String {
    let unit = escape(bars.first().map_or("", |bar| bar.row.unit.as_str()));
    let most = bars.iter().map(|bar| bar.row.max).fold(f64::MIN_POSITIVE, f64::max);
    let labels = bars.iter().map(|bar| bar.label.chars().count()).max().unwrap_or(0) as f64 * LETTER + 12.0;
    let labels = labels.clamp(80.0, width / 2.0);
    let height = bars.len() as f64 * PITCH + 6.0;
    let x = |value: f64| labels + (value / most).clamp(0.0, 1.0) * (width - labels - FIGURES);
    let title = escape(title);
    let mut out = format!(
        "<figure><figcaption>{title} <span class=\"soft\">{unit}</span></figcaption>\n\
         <svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{title}\">\n"
    );
    // Writing into a String cannot fail.
    for (at, Bar { label, row, colour }) in bars.iter().enumerate() {
        let top = at as f64 * PITCH + 3.0;
        let middle = top + BAR / 2.0;
        let class = if *label == OURS { "ours" } else { "strong" };
        let _ = writeln!(
            out,
            "<g class=\"s{colour}\"><title>{label}: {} {unit} ({} … {}, {} rounds)</title>\
             <text class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>\
             <rect class=\"fill\" x=\"{labels:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{BAR}\" rx=\"2\"/>",
            quantity(row.median),
            quantity(row.min),
            quantity(row.max),
            row.rounds,
            labels - 8.0,
            middle + 4.0,
            (x(row.median) - labels).max(1.0),
            label = escape(label),
        );
        if row.max > row.min {
            let _ = writeln!(
                out,
                "<path class=\"whisker\" d=\"M{:.1} {middle:.1}H{:.1}M{:.1} {:.1}v6M{:.1} {:.1}v6\"/>",
                x(row.min),
                x(row.max),
                x(row.min),
                middle - 3.0,
                x(row.max),
                middle - 3.0
            );
        }
        let _ = writeln!(
            out,
            "<text class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\">{}</text></g>",
            x(row.max) + 7.0,
            middle + 4.0,
            quantity(row.median)
        );
    }
    out.push_str("</svg></figure>\n");
    out
}

/// Contests as bars either side of ×1: to the right is better.
#[must_use]
pub fn ratios(title: &str, contests: &[&Contest<'_>], name_of: impl Fn(&Contest<'_>) -> String) -> String {
    const NAMES: f64 = 400.0;
    const WIDE: f64 = 1000.0;
    const ENDS: f64 = 60.0;
    let most = contests.iter().map(|c| bounded(c.gain).max(1.0 / bounded(c.gain))).fold(2.0, f64::max);
    let height = contests.len() as f64 * PITCH + 26.0;
    let half = (WIDE - NAMES - 2.0 * ENDS) / 2.0;
    let one = NAMES + ENDS + half;
    let x = |gain: f64| one + bounded(gain).ln() / most.ln() * half;
    let mut out = format!(
        "<figure><figcaption>{}</figcaption>\n<svg viewBox=\"0 0 {WIDE} {height}\" role=\"img\" aria-label=\"{}\">\n",
        escape(title),
        escape(title)
    );
    let bottom = height - 18.0;
    for tick in [1.0 / 16.0, 1.0 / 8.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0] {
        if tick > most * 1.01 || 1.0 / tick > most * 1.01 {
            continue;
        }
        let class = if tick == 1.0 { "one" } else { "grid" };
        let label = if tick < 1.0 { format!("×1/{}", 1.0 / tick) } else { format!("×{tick}") };
        let _ = writeln!(
            out,
            "<line class=\"{class}\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"0\" y2=\"{bottom}\"/>\
             <text x=\"{0:.1}\" y=\"{1:.1}\" text-anchor=\"middle\">{label}</text>",
            x(tick),
            bottom + 14.0
        );
    }
    for (at, contest) in contests.iter().enumerate() {
        let top = at as f64 * PITCH + 3.0;
        let middle = top + BAR / 2.0;
        let class = match contest.verdict {
            Verdict::Better => "cgood",
            Verdict::Worse => "cbad",
            Verdict::Noise => "ceven",
        };
        let (from, to) = (x(contest.gain).min(one), x(contest.gain).max(one));
        let (label_x, anchor) = if contest.gain >= 1.0 { (to + 6.0, "start") } else { (from - 6.0, "end") };
        let _ = writeln!(
            out,
            "<g class=\"{class}\"><text class=\"strong\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <rect class=\"fill\" x=\"{from:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{BAR}\" rx=\"2\"/>\
             <text class=\"strong\" x=\"{label_x:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text></g>",
            NAMES - 8.0,
            middle + 4.0,
            escape(name_of(contest)),
            (to - from).max(1.0),
            middle + 4.0,
            times(contest.gain)
        );
    }
    out.push_str("</svg></figure>\n");
    out
}

fn bounded(gain: f64) -> f64 {
    gain.clamp(1.0 / RATIO_MAX, RATIO_MAX)
}

/// A ratio, short.
#[must_use]
pub fn times(ratio: f64) -> String {
    match ratio {
        r if !r.is_finite() || r >= 1e4 => "×∞".into(),
        r if r >= 10.0 => format!("×{r:.0}"),
        r => format!("×{r:.2}"),
    }
}
