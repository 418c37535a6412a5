use std::time::Duration;

use super::*;
use crate::account::{Account, Collector};
use crate::pace::Rate;
use crate::payload::Mark;
use crate::profile::Profile;

/// A run of one second that sent `sent` packets, of which the first `received` came.
fn report(asked_pps: Option<f64>, sent: u64, received: u64, overflow: u64) -> Report {
    let mut account = Account::new(1, 1).unwrap();
    for sequence in 0..received {
        account.count(Mark { run: 1, flow: 0, sequence, sent_ns: 0 }, 1_000 + sequence, 0);
    }
    let (collector, _) = Collector::new(1, 0, Duration::from_secs(1)).unwrap();
    let totals = collector.finish(sent, vec![account]).unwrap();
    let rate = asked_pps.map_or(Rate::Max, Rate::PerSecond);
    let profile = Profile { flows: 1, rate, duration: Duration::from_secs(1) }.row("64");
    let sent = Sent { by_flow: vec![sent], elapsed: Duration::from_secs(1), ..Sent::default() };
    let about = Circumstances {
        started: ("2026-11-21T10:00:00Z".into(), 0),
        profile: serde_json::to_value(profile).unwrap(),
        asked_pps,
        from: "a".into(),
        to: "b".into(),
        machine_time: Some(MachineTime { busy_s: 0.5, stolen_s: 0.0 }),
        workers: Vec::new(),
        machine: Machine::default(),
        sink_overflow: Some(overflow),
        way_was_open: true,
        round_trip: false,
        interrupted: false,
    };
    Report::new(&sent, &totals, about)
}

#[test]
fn what_was_sent_and_did_not_come_is_lost() {
    let report = report(Some(1000.0), 1000, 990, 4);
    assert_eq!((report.total.lost, report.total.received), (10, 990));
    assert_eq!(report.packets_per_cpu_s, Some(1980.0));
    assert_eq!(report.warnings.len(), 1, "{:?}", report.warnings);
    assert!(report.warnings[0].contains("too slow for 4 packets"));
    assert!(report.table().contains("1.0000 %"), "{}", report.table());
}

#[test]
fn a_generator_that_does_not_keep_up_says_so() {
    assert!(!report(Some(1000.0), 1000, 1000, 0).ends.generator_was_the_limit);
    let slow = report(Some(1000.0), 900, 900, 0);
    assert!(slow.ends.generator_was_the_limit && slow.warnings[0].contains("900.0 packets/s of the 1000.0"));
}

#[test]
fn a_generator_without_a_rate_is_the_limit_when_nothing_is_lost() {
    assert!(report(None, 10_000, 10_000, 0).ends.generator_was_the_limit);
    assert!(!report(None, 10_000, 9_000, 0).ends.generator_was_the_limit);
    assert!(!report(None, 10_000, 9_000, 900).ends.generator_was_the_limit);
    assert!(
        report(None, 10_000, 9_000, 1_000).ends.generator_was_the_limit,
        "it was the sink that lost them"
    );
}

#[test]
fn a_run_in_which_nothing_came_has_no_latency() {
    let report = report(Some(10.0), 10, 0, 0);
    assert!(report.latency_ns.is_none() && report.received_pps == 0.0);
    assert!(serde_json::to_string(&report).unwrap().contains("\"latency_ns\":null"));
}

#[test]
fn quantiles_are_given_when_enough_packets_came_to_know_them() {
    let latency = |received| report(Some(1000.0), received, received, 0).latency_ns.unwrap();
    assert!(latency(9_999).p9999.is_none() && latency(10_000).p9999.is_some());
    assert!(latency(10_000).p99999.is_none() && latency(100_000).p99999.is_some());
}

#[test]
fn points_of_latency_rise_to_the_maximum() {
    let report = report(Some(1000.0), 50_000, 50_000, 0);
    let points = &report.latency_points;
    assert!(
        points.len() > 30 && points.is_sorted_by(|a, b| a.quantile <= b.quantile && a.ns <= b.ns),
        "{points:?}"
    );
    let last = points.last().unwrap();
    assert!((last.quantile - 1.0).abs() < 1e-9 && last.ns >= 50_999);
}

#[test]
fn a_report_that_was_written_is_read() {
    let report = report(Some(1000.0), 1000, 990, 4);
    let text = serde_json::to_string(&report).unwrap();
    let read: Report = serde_json::from_str(&text).unwrap();
    assert_eq!((read.table(), read.latency_points.len()), (report.table(), report.latency_points.len()));
    assert_eq!(read.series.rows, report.series.rows);
}

#[test]
fn programs_find_what_they_always_found() {
    let text = serde_json::to_value(report(Some(1000.0), 1000, 990, 4)).unwrap();
    for path in [
        "/profile/flows",
        "/profile/sizes",
        "/profile/rate_pps",
        "/profile/duration_s",
        "/from",
        "/to",
        "/total/sent",
        "/total/received",
        "/total/lost",
        "/total/duplicated",
        "/total/reordered",
        "/elapsed_s",
        "/sent_pps",
        "/received_pps",
        "/sent_gbps",
        "/latency_ns/min",
        "/latency_ns/mean",
        "/latency_ns/p50",
        "/latency_ns/p90",
        "/latency_ns/p99",
        "/latency_ns/p99.9",
        "/latency_ns/max",
        "/jitter_ns",
        "/longest_gap_ns",
        "/machine_cpu_s",
        "/packets_per_cpu_s",
        "/ends/missed",
        "/ends/refused",
        "/ends/sink_overflow",
        "/ends/generator_was_the_limit",
        "/ends/way_was_open",
        "/warnings/0",
        "/flows/0/flow",
        "/flows/0/sent",
        "/flows/0/latency_mean_ns",
        "/flows/0/jitter_ns",
        "/series/row_s",
        "/series/rows",
        "/workers",
        "/machine/kernel",
        "/machine/commit",
        "/machine/mitigations",
        "/round_trip",
        "/latency_points/0/quantile",
        "/latency_points/0/ns",
        "/started",
    ] {
        assert!(text.pointer(path).is_some(), "{path} is missing");
    }
}

#[test]
fn what_makes_figures_doubtful_is_said() {
    let mut sinks = vec![Account::new(1, 1).unwrap(), Account::new(1, 1).unwrap()];
    for (sink, sequence) in [(0, 200_000), (0, 1), (1, 200_001)] {
        sinks[sink].count(Mark { run: 1, flow: 0, sequence, sent_ns: 0 }, 5, 0);
    }
    let (collector, _) = Collector::new(2, 0, Duration::from_secs(1)).unwrap();
    let totals = collector.finish(3, sinks).unwrap();
    let mut report = report(Some(1000.0), 1000, 1000, 0);
    report.machine.cpus = 4;
    report.stolen_cpu_s = Some(0.5);
    report.ends.missed = 7;
    let doubts = report.doubts(&totals).join("\n");
    for said in [
        "left out 7 packets",
        "1 flows came to more than one sink",
        "1 packets were more than 65536",
        "took 12.5 %",
    ] {
        assert!(doubts.contains(said), "{said}: {doubts}");
    }
}
