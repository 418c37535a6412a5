//! Curves over two axes, as inline SVG. Colours are classes of the style sheet, so that one drawing serves light and dark.

use std::f64::consts::LOG10_2;
use std::fmt::Write;

use super::page::escape;
use crate::results::quantity;

const WIDTH: f64 = 560.0;
const PAGE_WIDTH: f64 = 1060.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 42.0;
/// Colours that there are; further lines begin again.
const COLOURS: usize = 8;

/// How values are laid out along an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Evenly, from zero.
    Linear,
    /// By their logarithm.
    Log,
    /// Quantiles from 0 to below 1: each further nine takes as much room as the one before.
    Nines,
    /// By their logarithm, with a tick at each value that there is.
    Sizes,
}

/// An axis.
#[derive(Debug, Clone)]
pub struct Axis {
    label: String,
    scale: Scale,
    /// Stretches of it that are shaded.
    shaded: Vec<(f64, f64)>,
}

impl Axis {
    /// An axis.
    pub fn new(label: impl Into<String>, scale: Scale) -> Self {
        Axis { label: label.into(), scale, shaded: Vec::new() }
    }

    /// With stretches of it shaded.
    #[must_use]
    pub fn shaded(mut self, from_to: &[(f64, f64)]) -> Self {
        self.shaded = from_to.to_vec();
        self
    }
}

/// A curve.
#[derive(Debug, Clone)]
pub struct Line {
    name: String,
    colour: usize,
    points: Vec<(f64, f64)>,
    /// From least to greatest, at each point.
    spread: Vec<(f64, f64)>,
    dots: bool,
}

impl Line {
    /// A curve through points in order of x. What an axis has no place for is left out, and breaks the curve.
    pub fn new(name: impl Into<String>, colour: usize, points: Vec<(f64, f64)>) -> Self {
        Line { name: name.into(), colour: colour % COLOURS, points, spread: Vec::new(), dots: false }
    }

    /// Shows each point.
    #[must_use]
    pub fn with_dots(mut self) -> Self {
        self.dots = true;
        self
    }

    /// Shows from where to where each point's value went.
    #[must_use]
    pub fn with_spread(mut self, spread: Vec<(f64, f64)>) -> Self {
        self.spread = spread;
        self
    }
}

/// Where an axis begins and ends, and what is written along it.
struct Range {
    scale: Scale,
    from: f64,
    to: f64,
    ticks: Vec<(f64, String)>,
}

impl Range {
    /// For these values; `None` when the axis has a place for none of them.
    fn over(scale: Scale, values: impl Iterator<Item = f64>) -> Option<Self> {
        let places: Vec<f64> = values.filter_map(|value| place(scale, value)).collect();
        let (low, high) = places.iter().fold((f64::MAX, f64::MIN), |(l, h), &v| (l.min(v), h.max(v)));
        if places.is_empty() {
            return None;
        }
        Some(match scale {
            Scale::Linear => {
                let step = step(high.max(0.0) - low.min(0.0));
                let (from, to) = ((low.min(0.0) / step).floor() * step, (high / step).ceil().max(1.0) * step);
                let count = ((to - from) / step).round() as u32;
                let ticks =
                    (0..=count).map(|n| from + f64::from(n) * step).map(|v| (v, round_figure(v))).collect();
                Range { scale, from, to, ticks }
            }
            Scale::Log => {
                let (from, to) = (low.floor(), high.ceil().max(low.floor() + 1.0));
                let decades = (to - from).round() as u32;
                // With few decades, also what is between them.
                let between: &[f64] = if decades <= 2 { &[1.0, 2.0, 5.0] } else { &[1.0] };
                let ticks = (0..=decades)
                    .flat_map(|n| between.iter().map(move |b| (from + f64::from(n)) + b.log10()))
                    .filter(|at| *at <= to + 1e-9)
                    .map(|at| (at, round_figure(10f64.powf(at))))
                    .collect();
                Range { scale, from, to, ticks }
            }
            Scale::Nines => {
                let to = high.ceil().max(1.0);
                let named =
                    [(0.0, "0 %"), (LOG10_2, "50"), (1.0, "90"), (2.0, "99"), (3.0, "99.9"), (4.0, "99.99")]
                        .into_iter()
                        .chain([(5.0, "99.999"), (6.0, "99.9999"), (7.0, "99.99999")]);
                let ticks =
                    named.filter(|(at, _)| *at <= to).map(|(at, name)| (at, name.to_owned())).collect();
                Range { scale, from: 0.0, to, ticks }
            }
            Scale::Sizes => {
                let mut seen = places.clone();
                seen.sort_by(f64::total_cmp);
                seen.dedup();
                let room = (high - low).max(0.1) * 0.04;
                let ticks = seen.into_iter().map(|at| (at, whole(10f64.powf(at)))).collect();
                Range { scale, from: low - room, to: high + room, ticks }
            }
        })
    }

    /// From 0 to 1 along the axis.
    fn at(&self, value: f64) -> Option<f64> {
        place(self.scale, value).map(|place| self.part(place))
    }

    fn part(&self, place: f64) -> f64 {
        (place - self.from) / (self.to - self.from)
    }
}

/// Without the zeros that a round figure does not need.
fn round_figure(value: f64) -> String {
    let text = quantity(value);
    let (number, prefix) =
        text.split_once(' ').map_or((text.as_str(), String::new()), |(n, p)| (n, format!(" {p}")));
    let number =
        if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number };
    format!("{number}{prefix}")
}

fn whole(value: f64) -> String {
    let rounded = value.round();
    if rounded < 10_000.0 { format!("{rounded}") } else { round_figure(rounded) }
}

/// Where on its scale a value is; `None` when it has no place.
fn place(scale: Scale, value: f64) -> Option<f64> {
    let place = match scale {
        Scale::Linear => value,
        Scale::Log | Scale::Sizes => value.log10(),
        Scale::Nines => -(1.0 - value).log10(),
    };
    place.is_finite().then_some(place)
}

/// A round step that makes about five of the range.
fn step(range: f64) -> f64 {
    if range <= 0.0 {
        return 1.0;
    }
    let rough = range / 5.0;
    let decade = 10f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|n| n * decade).find(|step| *step >= rough).unwrap_or(decade)
}

/// Draws curves; nothing but a sentence when there is nothing to draw.
#[must_use]
pub fn plot(title: &str, x: &Axis, y: &Axis, lines: &[Line]) -> String {
    draw_plot(title, x, y, lines, WIDTH)
}

/// The same as wide as the page.
#[must_use]
pub fn wide_plot(title: &str, x: &Axis, y: &Axis, lines: &[Line]) -> String {
    draw_plot(title, x, y, lines, PAGE_WIDTH)
}

fn draw_plot(title: &str, x: &Axis, y: &Axis, lines: &[Line], width: f64) -> String {
    let mut out = format!("<figure><figcaption>{}</figcaption>\n", escape(title));
    let xs = lines.iter().flat_map(|line| line.points.iter().map(|p| p.0));
    let ys = lines
        .iter()
        .flat_map(|line| line.points.iter().map(|p| p.1).chain(line.spread.iter().flat_map(|s| [s.0, s.1])));
    let (Some(across), Some(up)) = (Range::over(x.scale, xs), Range::over(y.scale, ys)) else {
        out.push_str("<p>Nothing to draw.</p></figure>\n");
        return out;
    };
    let px = |part: f64| LEFT + part * (width - LEFT - RIGHT);
    let py = |part: f64| HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM);
    // Writing into a String cannot fail.
    if lines.len() > 1 {
        out.push_str("<div class=\"keys\">");
        for line in lines {
            let _ = write!(out, "<span class=\"key s{}\"><i>{}</i></span>", line.colour, escape(&line.name));
        }
        out.push_str("</div>\n");
    }
    let _ =
        writeln!(out, "<svg viewBox=\"0 0 {width} {HEIGHT}\" role=\"img\" aria-label=\"{}\">", escape(title));
    let mut free_from = f64::MIN;
    for (at, label) in &across.ticks {
        let x = px(across.part(*at));
        let _ = writeln!(
            out,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{:.1}\"/>",
            py(0.0)
        );
        let half = label.len() as f64 * 3.4;
        // Labels do not overlap, nor leave the drawing.
        if x - half > free_from {
            free_from = x + half + 4.0;
            let anchor = if x + half > width { "end" } else { "middle" };
            let _ = writeln!(
                out,
                "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
                py(0.0) + 16.0,
                escape(label)
            );
        }
    }
    for (at, label) in &up.ticks {
        let y = py(up.part(*at));
        let _ = writeln!(
            out,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            px(1.0),
            LEFT - 7.0,
            y + 4.0,
            escape(label)
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
         <text x=\"12\" y=\"{:.1}\" text-anchor=\"middle\" transform=\"rotate(-90 12 {:.1})\">{}</text>",
        px(0.5),
        HEIGHT - 8.0,
        escape(&x.label),
        py(0.5),
        py(0.5),
        escape(&y.label)
    );
    for (from, to) in &x.shaded {
        if let (Some(from), Some(to)) = (across.at(*from), across.at(*to)) {
            let (from, to) = (px(from.clamp(0.0, 1.0)), px(to.clamp(0.0, 1.0)));
            let _ = writeln!(
                out,
                "<rect class=\"area\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\"/>",
                (to - from).max(1.5),
                py(0.0) - TOP
            );
        }
    }
    for line in lines {
        draw(&mut out, line, |point| Some((px(across.at(point.0)?), py(up.at(point.1)?))));
    }
    out.push_str("</svg></figure>\n");
    out
}

fn draw(out: &mut String, line: &Line, place: impl Fn((f64, f64)) -> Option<(f64, f64)>) {
    let _ = writeln!(out, "<g class=\"s{}\">", line.colour);
    let mut path = String::new();
    let mut pen_down = false;
    for &point in &line.points {
        match place(point) {
            Some((x, y)) => {
                let _ = write!(path, "{}{x:.1} {y:.1}", if pen_down { 'L' } else { 'M' });
                pen_down = true;
            }
            None => pen_down = false,
        }
    }
    let _ = writeln!(out, "<path class=\"curve\" d=\"{path}\"/>");
    for (point, spread) in line.points.iter().zip(&line.spread) {
        if let (Some((x, low)), Some((_, high))) = (place((point.0, spread.0)), place((point.0, spread.1))) {
            let _ = writeln!(
                out,
                "<path class=\"whisker\" d=\"M{x:.1} {low:.1}V{high:.1}M{:.1} {low:.1}h6M{:.1} {high:.1}h6\"/>",
                x - 3.0,
                x - 3.0
            );
        }
    }
    if line.dots {
        for &point in &line.points {
            if let Some((x, y)) = place(point) {
                let _ = writeln!(
                    out,
                    "<circle class=\"dot fill\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"><title>{}: {} at {}</title></circle>",
                    escape(&line.name),
                    escape(quantity(point.1)),
                    escape(quantity(point.0))
                );
            }
        }
    }
    out.push_str("</g>\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(scales: (Scale, Scale), points: Vec<(f64, f64)>) -> String {
        plot(
            "t",
            &Axis::new("x", scales.0),
            &Axis::new("y", scales.1),
            &[Line::new("l", 0, points).with_dots()],
        )
    }

    fn dots(svg: &str, attribute: &str) -> Vec<f64> {
        svg.split(&format!("{attribute}=\""))
            .skip(1)
            .map(|rest| rest[..rest.find('"').unwrap()].parse().unwrap())
            .collect()
    }

    #[test]
    fn greater_values_are_higher_and_further_right() {
        for scales in [(Scale::Linear, Scale::Log), (Scale::Sizes, Scale::Linear), (Scale::Log, Scale::Log)] {
            let svg = drawn(scales, vec![(64.0, 10.0), (512.0, 20.0), (1400.0, 3_000.0)]);
            let (x, y) = (dots(&svg, "cx"), dots(&svg, "cy"));
            assert!(x.is_sorted() && x[0] < x[2] && y.is_sorted_by(|a, b| a >= b) && y[0] > y[2], "{svg}");
            assert!(
                x.iter().all(|x| (LEFT..=WIDTH).contains(x)) && y.iter().all(|y| (0.0..=HEIGHT).contains(y))
            );
        }
    }

    #[test]
    fn every_nine_takes_the_same_room() {
        let svg =
            drawn((Scale::Nines, Scale::Linear), vec![(0.0, 1.0), (0.9, 1.0), (0.99, 1.0), (0.999, 1.0)]);
        let x = dots(&svg, "cx");
        let steps: Vec<f64> = x.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(steps.iter().all(|step| (step - steps[0]).abs() < 0.2), "{steps:?}");
        assert!(svg.contains(">99.9<") && !svg.contains(">99.99<"));
    }

    #[test]
    fn what_has_no_place_on_an_axis_is_left_out() {
        let svg = drawn((Scale::Linear, Scale::Log), vec![(0.0, 0.0), (1.0, 5.0), (2.0, f64::NAN)]);
        assert_eq!(dots(&svg, "cx").len(), 1);
        assert!(drawn((Scale::Linear, Scale::Log), vec![]).contains("Nothing to draw"));
    }
}
