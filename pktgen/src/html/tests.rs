use super::*;
use crate::account::{Series, SeriesRow};
use crate::report::{Counts, FlowRow, Latency, LatencyPoint, Reconfiguration, Report};
use crate::results::{LeftOut, Results, Row};
use crate::search::Outcome;
use crate::search::rfc2544::{Bursts, Rfc2544, SizeRow, Step};
use crate::search::session::{LatencyAt, TrialRow};

/// Checks that elements are closed in order and attributes quoted, and that nothing outside is named. Returns the text.
fn well_formed(page: &str) -> String {
    assert!(page.starts_with("<!DOCTYPE html>"));
    for outside in ["http:", "https:", "<script", "<link", "<img", "url(", "@import", "src=", "href="] {
        assert!(!page.contains(outside), "the page refers to something outside: {outside}");
    }
    let (mut open, mut text) = (Vec::new(), String::new());
    let mut rest = &page["<!DOCTYPE html>".len()..];
    while let Some(at) = rest.find('<') {
        text.push_str(&rest[..at]);
        let end = at + rest[at..].find('>').expect("a tag ends");
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        assert_eq!(tag.matches('"').count() % 2, 0, "quotes in <{tag}>");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "<{tag}> closes another");
        } else if !tag.ends_with('/') {
            open.push(tag.split_whitespace().next().expect("a tag has a name").to_owned());
        }
        if tag == "style" {
            let end = rest.find("</style>").expect("the style ends");
            rest = &rest[end..];
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
    assert!(!page.contains("NaN") && !page.contains("inf\""), "a drawing with no number in it");
    text
}

fn row(name: &str, subject: &str, [min, median, max]: [f64; 3]) -> Row {
    let (metric, unit) =
        if name.starts_with("mem/") { ("time", "ns/packet") } else { ("received", "packets/s") };
    let (name, subject, metric, unit) = (name.into(), subject.into(), metric.into(), unit.into());
    Row { name, subject, metric, unit, min, median, max, rounds: 7 }
}

fn results() -> Results {
    let rows = vec![
        row("veth/forward/64", "caracal", [400_000.0, 412_345.0, 420_000.0]),
        row("veth/forward/64", "kernel", [290_000.0, 300_000.0, 310_000.0]),
        row("veth/forward/512", "caracal", [300_000.0, 310_000.0, 320_000.0]),
        row("veth/forward/1400", "caracal", [200_000.0, 210_000.0, 220_000.0]),
        row("mem/first-packet/rules-1000", "caracal", [95.0, 97.5, 99.0]),
        row("mem/first-packet/rules-1000", "dp<dk>", [40.0, 44.25, 50.0]),
    ];
    let machine = "Linux 6.18\nCPU(s):   4\nModel name:  A & B <c>\ncommit abc, dirty: 3 files differ\nstart: x, load 3.5 1 1";
    Results {
        title: "2026-11-21".into(),
        rows,
        machine: Some(machine.into()),
        command: Some("scripts/bench".into()),
        left_out: Vec::new(),
    }
}

#[test]
fn a_page_of_results_is_well_formed_and_has_the_figures() {
    let mut results = results();
    let (subject, case, reason) = ("vpp".into(), "veth/forward".into(), "not installed".into());
    results.left_out.push(LeftOut { subject, case, reason });
    results
        .rows
        .push(Row { metric: "generator: was the limit".into(), ..row("tcp/x", "ovs", [0.0, 0.0, 1.0]) });
    let text = well_formed(&results_page(&results, None));
    assert!(text.contains("Left out (1)") && text.contains("not installed"));
    assert!(text.contains("may carry more: tcp/x (ovs)"), "{text}");
    for figure in [
        "412 k",
        "300 k",
        "×1.37",
        "44.2",
        "97.5",
        "×0.45",
        "We lose (1)",
        "We win (1)",
        "dp&lt;dk&gt;",
        "A &amp; B",
    ] {
        assert!(text.contains(figure), "{figure} is not in the page");
    }
    assert!(text.contains("work tree was not clean") && text.contains("its load was 3.5 on 4 CPUs"));
}

#[test]
fn a_page_says_what_changed_since_another_run() {
    let mut then = results();
    then.rows[0] = row("veth/forward/64", "caracal", [190_000.0, 200_000.0, 210_000.0]);
    then.title = "former".into();
    let text = well_formed(&results_page(&results(), Some(&then)));
    assert!(text.contains("Against former") && text.contains("×2.06"), "{text}");
    assert!(text.contains("Not resolved (5)"));
}

#[test]
fn a_page_without_figures_is_still_a_page() {
    well_formed(&results_page(&Results::default(), Some(&Results::default())));
}

fn latency() -> Latency {
    Latency {
        min: 1_100,
        p50: 12_300,
        p90: 20_000,
        p99: 45_600,
        p999: 78_900,
        max: 91_200,
        ..Latency::default()
    }
}

fn points() -> Vec<LatencyPoint> {
    [(0.0, 1_100), (0.5, 12_300), (0.99, 45_600), (1.0, 91_200)]
        .map(|(quantile, ns)| LatencyPoint { quantile, ns })
        .into()
}

fn run(name: &str, size: &str) -> Named {
    let row = |at: u32| SeriesRow {
        at_s: f64::from(at),
        sent_pps: 1_000.0,
        received_pps: 990.0,
        missing: i64::from(at % 2),
        // One row without a packet.
        p50_ns: (at != 3).then_some(12_300),
        p99_ns: (at != 3).then_some(45_600),
        max_ns: (at != 3).then_some(91_200),
    };
    let flow = |flow| FlowRow {
        flow,
        counts: Counts {
            sent: 5_000,
            received: 4_000 + flow as u64,
            lost: 1_000 - flow as u64,
            ..Counts::default()
        },
        latency_min_ns: Some(1_100),
        latency_mean_ns: Some(13_000),
        latency_p50_ns: Some(12_300),
        latency_p99_ns: None,
        latency_max_ns: Some(91_200),
        jitter_ns: 500.0,
        longest_gap_ns: 7_000_000,
    };
    let report = Report {
        started: "2026-11-21T10:00:00Z".into(),
        from: "pod <a>".into(),
        to: "pod b".into(),
        profile: serde_json::json!({"flows": 2, "sizes": size, "rate_pps": null}),
        total: Counts { sent: 10_000, received: 9_900, lost: 100, ..Counts::default() },
        received_pps: 123_456.0,
        latency_ns: Some(latency()),
        latency_points: points(),
        series: Series { row_s: 1.0, rows: (0..8).map(row).collect() },
        warnings: vec!["the machine was busy & slow".into()],
        reconfiguration: Some(Reconfiguration { ran_s: vec![(2.0, 99.0)], ..Reconfiguration::default() }),
        flows: (0..30).map(flow).collect(),
        ..Report::default()
    };
    Named { name: name.into(), report }
}

#[test]
fn a_page_of_a_run_is_well_formed_and_has_the_figures() {
    let text = well_formed(&runs_page(&[run("run", "64")]));
    for said in [
        "pod &lt;a&gt; → pod b",
        "123 k",
        "1.0000 %",
        "12.3 µs",
        "91.2",
        "busy &amp; slow",
        "The 20 of 30 that lost most",
        "shaded: the command ran",
        "–",
    ] {
        assert!(text.contains(said), "{said} is not in the page");
    }
}

#[test]
fn runs_of_several_sizes_are_drawn_against_size() {
    let text = well_formed(&runs_page(&[run("small", "64"), run("large", "1400"), run("mixed", "imix")]));
    assert!(
        text.contains("3 runs")
            && text.contains("Throughput against size")
            && text.contains("large: the machine was busy")
    );
    well_formed(&runs_page(&[Named { name: "empty".into(), report: Report::default() }]));
    well_formed(&runs_page(&[]));
}

fn trial(asked_pps: Option<f64>, loss_percent: f64) -> TrialRow {
    TrialRow {
        purpose: "search".into(),
        asked_pps,
        loss_percent,
        latency_ns: Some(latency()),
        ..TrialRow::default()
    }
}

fn latency_at(percent: f64) -> LatencyAt {
    LatencyAt {
        percent,
        load_pps: 5_000.0,
        latency_ns: Some(latency()),
        latency_points: points(),
        ..LatencyAt::default()
    }
}

#[test]
fn a_page_of_a_search_is_well_formed_and_has_the_figures() {
    let row = crate::search::Row {
        name: "NDR".into(),
        lower_pps: Some(345_000.0),
        upper_pps: Some(352_000.0),
        throughput_pps: Some(344_000.0),
        generator_was_the_limit: true,
    };
    let found = Outcome {
        results: vec![row, crate::search::Row { name: "PDR".into(), ..Default::default() }],
        latency: vec![latency_at(10.0), latency_at(90.0)],
        trials: vec![trial(None, 3.0), trial(Some(345_000.0), 0.0), trial(Some(352_000.0), 1.5)],
        warnings: vec!["one".into(), "two".into()],
        ..Outcome::default()
    };
    let text = well_formed(&search_page("search", &found));
    for said in [
        "345 k",
        "352 k",
        "344 k",
        "none",
        "NDR: the generator was the limit",
        "90 %",
        "1.5000 %",
        "2 things to know",
    ] {
        assert!(text.contains(said), "{said} is not in the page");
    }
    well_formed(&search_page("empty", &Outcome::default()));
}

#[test]
fn a_page_of_rfc_2544_is_well_formed_and_has_the_figures() {
    let size = |size: u32, throughput_pps: Option<f64>| SizeRow {
        size,
        greatest_pps: 500_000.0,
        throughput_pps,
        throughput_gbps: throughput_pps.map(|pps| pps * f64::from(size) * 8e-9),
        latency: throughput_pps.map(|_| latency_at(100.0)),
        frame_loss: vec![
            Step { percent: 100.0, load_pps: 5e5, loss_percent: 12.5 },
            Step { percent: 90.0, ..Step::default() },
        ],
        back_to_back: Bursts { mean_packets: 34_567.0, packets: vec![Some(34_567)], endless: size > 1_000 },
        generator_was_the_limit: size > 1_000,
    };
    let found = Rfc2544 {
        sizes: vec![size(64, Some(411_000.0)), size(1_514, None)],
        trial_s: 4.0,
        ..Rfc2544::default()
    };
    let text = well_formed(&rfc2544_page("rfc2544", &found));
    for said in ["411 k", "34.6 k", "endless", "12.5000 %", "none", "64 bytes", "where the RFC asks for 60 s"]
    {
        assert!(text.contains(said), "{said} is not in the page");
    }
    well_formed(&rfc2544_page("empty", &Rfc2544::default()));
}
