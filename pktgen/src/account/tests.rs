use std::collections::HashSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const WINDOW: u64 = 65_536;

fn account() -> Account {
    Account::new(1, 2).unwrap()
}

fn come(account: &mut Account, flow: u32, sequence: u64) -> Came {
    account.count(Mark { run: 1, flow, sequence, sent_ns: 1_000 }, 3_000, 64)
}

fn counts(account: &Account, flow: usize) -> (u64, u64, u64) {
    let flow = account.flow(flow);
    (flow.received, flow.duplicated, flow.reordered)
}

fn totals(accounts: Vec<Account>) -> Totals {
    Collector::new(accounts.len(), 0, Duration::from_secs(1)).unwrap().0.finish(0, accounts).unwrap()
}

#[test]
fn packets_in_order_are_received() {
    let mut account = account();
    for n in 0..100_000 {
        assert_eq!(come(&mut account, 0, n), Came::Counted);
    }
    assert_eq!(counts(&account, 0), (100_000, 0, 0));
    let totals = totals(vec![account]);
    assert_eq!((totals.latency.len(), totals.latency.max(), totals.bytes), (100_000, 2_000, 6_400_000));
    assert_eq!(totals.flow_latency[0].len(), 100_000);
}

#[test]
fn a_packet_that_came_before_is_a_duplicate_and_a_late_one_is_reordered() {
    let mut account = account();
    for n in [0, 1, 3, 3, 2, 2, 7, 4] {
        come(&mut account, 0, n);
    }
    assert_eq!(counts(&account, 0), (6, 2, 2));
    assert_eq!(account.flow(0).behind_max, 3);
}

#[test]
fn a_number_whose_bit_was_used_a_window_ago_is_not_a_duplicate() {
    let mut account = account();
    for n in 0..WINDOW {
        come(&mut account, 0, n);
    }
    come(&mut account, 0, WINDOW + 1);
    assert_eq!(come(&mut account, 0, WINDOW), Came::Counted);
    assert_eq!(come(&mut account, 0, WINDOW), Came::Uncounted);
    come(&mut account, 0, 10 * WINDOW);
    assert_eq!(come(&mut account, 0, 10 * WINDOW - 1), Came::Counted);
    assert_eq!(counts(&account, 0), (WINDOW + 4, 1, 2));
    assert_eq!(account.beyond_window, 0);
    come(&mut account, 0, 0);
    assert_eq!(account.beyond_window, 1, "nobody knows whether it had come");
}

#[test]
fn flows_do_not_mix_and_strangers_are_not_counted() {
    let mut account = account();
    come(&mut account, 0, 0);
    come(&mut account, 1, 0);
    assert_eq!((counts(&account, 0), counts(&account, 1)), ((1, 0, 0), (1, 0, 0)));
    assert_eq!(come(&mut account, 2, 0), Came::Uncounted);
    assert_eq!(account.take(b"hello", 1, 0), Came::Uncounted);
    let mut other = [0; payload::LEN];
    Mark { run: 2, flow: 0, sequence: 1, sent_ns: 0 }.write(&mut other);
    assert_eq!(account.take(&other, 1, 0), Came::Uncounted);
    assert_eq!(account.strange, 3);
}

#[test]
fn scouts_open_the_way_and_are_not_counted() {
    let mut account = account();
    assert_eq!(come(&mut account, 0, payload::SCOUT), Came::Scout);
    assert_eq!(counts(&account, 0), (0, 0, 0));
}

#[test]
fn the_longest_silence_is_between_two_packets_of_a_flow_and_of_all() {
    let mut account = account();
    for (flow, sequence, at) in [(0, 0, 5_000), (0, 1, 5_100), (1, 0, 8_100), (0, 2, 9_100), (0, 3, 9_200)] {
        account.count(Mark { run: 1, flow, sequence, sent_ns: 0 }, at, 0);
    }
    assert_eq!(account.flow(0).longest_gap_ns, 4_000);
    assert_eq!(totals(vec![account]).longest_gap_ns, 3_000);
}

#[test]
fn jitter_is_that_of_rfc_3550() {
    let mut account = account();
    // Transit times 100, 116, 100: J = 16/16 = 1, then 1 + (16 − 1)/16.
    for (sequence, sent_ns, at) in [(0, 0, 100), (1, 1_000, 1_116), (2, 2_000, 2_100)] {
        account.count(Mark { run: 1, flow: 0, sequence, sent_ns }, at, 0);
    }
    assert!((account.flow(0).jitter_ns - 1.9375).abs() < 1e-9);
}

#[test]
fn all_were_silent_no_longer_than_the_least_silent_sink() {
    let mut sinks = [account(), account()];
    let mut come = |sink: usize, sequence, at| {
        sinks[sink].count(Mark { run: 1, flow: sink as u32, sequence, sent_ns: 0 }, at, 0);
    };
    // The first sink hears little, early; the second is silent for 400.
    for (sequence, at) in [(0, 1_000), (1, 1_001)] {
        come(0, sequence, at);
    }
    for (sequence, at) in [(0, 1_002), (1, 1_402), (2, 1_500)] {
        come(1, sequence, at);
    }
    assert_eq!(totals(sinks.into()).longest_gap_ns, 400);
}

#[test]
fn what_a_row_says_is_what_came_in_its_time() {
    let every = 50_000_000;
    let (mut collector, outlets) = Collector::new(1, every * 20, Duration::from_millis(200)).unwrap();
    let mut account =
        outlets.into_iter().map(|outlet| Account::new(1, 1).unwrap().with_outlet(outlet)).next().unwrap();
    let start = every * 20;
    // Ten packets a row for 20 rows, their latency growing by row; of the sixth row the first half is lost.
    let mut sequence = 0;
    for row in 0..20 {
        for n in 0..10 {
            let sent_ns = start + row * every + n * 1_000_000;
            if row != 5 || n >= 5 {
                account.count(Mark { run: 1, flow: 0, sequence, sent_ns }, sent_ns + row + 1, 0);
            }
            sequence += 1;
            collector.collect(sent_ns, sequence).unwrap();
        }
    }
    let totals = collector.finish(sequence, vec![account]).unwrap();
    let rows = &totals.series.rows;
    assert_eq!(rows.len(), 20);
    assert!((totals.series.row_s - 0.05).abs() < 1e-9 && (rows[3].at_s - 0.15).abs() < 1e-9);
    for (at, row) in rows.iter().enumerate() {
        let came = if at == 5 { 5.0 } else { 10.0 };
        assert!((row.sent_pps - 200.0).abs() < 1e-6, "{at}: {row:?}");
        assert!((row.received_pps - came * 20.0).abs() < 1e-6, "{at}: {row:?}");
        assert_eq!(row.p50_ns, Some(at as u64 + 1));
        assert_eq!(row.missing, if at == 5 { 5 } else { 0 });
    }
    assert_eq!(totals.latency.len(), 195);
}

#[test]
fn a_silence_of_any_length_leaves_rows_without_latency_and_no_more_of_them_than_there_was_time() {
    let (mut collector, outlets) = Collector::new(1, 0, Duration::from_secs(3600)).unwrap();
    let mut account =
        outlets.into_iter().map(|outlet| Account::new(1, 1).unwrap().with_outlet(outlet)).next().unwrap();
    let hour = 3_600_000_000_000;
    for (sequence, at) in [(0, 1), (9, hour - 10)] {
        account.count(Mark { run: 1, flow: 0, sequence, sent_ns: at }, at + 5, 0);
        collector.collect(at, sequence).unwrap();
    }
    let totals = collector.finish(10, vec![account]).unwrap();
    assert_eq!(totals.series.rows.len(), 600);
    assert!(totals.series.rows[1..599].iter().all(|row| row.p50_ns.is_none() && row.received_pps == 0.0));
    assert_eq!(totals.series.rows[599].missing, 8);
    assert_eq!(totals.latency.len(), 2);
}

#[test]
fn a_sink_whose_collector_does_not_come_loses_nothing() {
    let (collector, outlets) = Collector::new(1, 0, Duration::from_secs(10)).unwrap();
    let mut account =
        outlets.into_iter().map(|outlet| Account::new(1, 1).unwrap().with_outlet(outlet)).next().unwrap();
    for sequence in 0..1_000 {
        let at = sequence * 10_000_000;
        account.count(Mark { run: 1, flow: 0, sequence, sent_ns: at }, at + 7, 0);
    }
    let totals = collector.finish(1_000, vec![account]).unwrap();
    assert_eq!(totals.latency.len(), 1_000);
    let came: f64 = totals.series.rows.iter().map(|row| row.received_pps * totals.series.row_s).sum();
    assert!((came - 1_000.0).abs() < 1e-6, "{came}");
}

/// The plain account: remembers every number.
#[derive(Default)]
struct Plain {
    seen: HashSet<u64>,
    highest: Option<u64>,
    received: u64,
    duplicated: u64,
    reordered: u64,
}

impl Plain {
    fn come(&mut self, sequence: u64) {
        if !self.seen.insert(sequence) {
            self.duplicated += 1;
            return;
        }
        self.received += 1;
        if self.highest.is_some_and(|highest| sequence < highest) {
            self.reordered += 1;
        }
        self.highest = self.highest.max(Some(sequence));
    }
}

proptest! {
    #[test]
    fn an_account_agrees_with_one_that_remembers_everything(
        steps in prop::collection::vec((0..3u32, 0..4u64, 0..60u64), 1..600),
    ) {
        // Windows of 64 numbers; packets go ahead by up to 3 and are late by up to 59.
        let mut fast = Account::new(1, 3).unwrap();
        fast.windows = Windows::new(3, 24);
        let mut plain = [Plain::default(), Plain::default(), Plain::default()];
        for (at, &(flow, ahead, late)) in steps.iter().enumerate() {
            let known = &mut plain[flow as usize];
            let next = known.highest.map_or(0, |highest| highest + 1);
            let sequence = if late % 3 == 0 { next + ahead } else { next.saturating_sub(late) };
            known.come(sequence);
            let latency = 1 + late;
            fast.count(Mark { run: 1, flow, sequence, sent_ns: at as u64 }, at as u64 + latency, 0);
        }
        for (flow, known) in plain.iter().enumerate() {
            prop_assert_eq!(counts(&fast, flow), (known.received, known.duplicated, known.reordered));
        }
        let came: u64 = plain.iter().map(|known| known.received).sum();
        let missing: u64 = plain.iter().map(|known| known.highest.map_or(0, |h| h + 1) - known.received).sum();
        prop_assert_eq!(fast.interval.missing, missing as i64);
        prop_assert_eq!(totals(vec![fast]).latency.len(), came);
    }

    #[test]
    fn sinks_with_flows_of_their_own_come_to_what_one_sink_would(
        steps in prop::collection::vec((0..6u32, 0..30u64, 1..5_000u64), 1..400),
        sinks in 1..4usize,
    ) {
        let mut one = Account::new(1, 6).unwrap();
        let mut many: Vec<_> = (0..sinks).map(|_| Account::new(1, 6).unwrap()).collect();
        let mut now = 0;
        for &(flow, sequence, time) in &steps {
            now += time;
            let mark = Mark { run: 1, flow, sequence, sent_ns: now.saturating_sub(time) };
            one.count(mark, now, 100);
            many[flow as usize % sinks].count(mark, now, 100);
        }
        let (one, many) = (totals(vec![one]), totals(many));
        for (a, b) in one.flows.iter().zip(&many.flows) {
            prop_assert_eq!(format!("{a:?}"), format!("{b:?}"));
        }
        prop_assert_eq!(one.latency, many.latency);
        prop_assert_eq!((one.bytes, one.first_ns, one.last_ns), (many.bytes, many.first_ns, many.last_ns));
        prop_assert!(many.longest_gap_ns >= one.longest_gap_ns);
        prop_assert_eq!(many.split_flows, 0);
    }
}

#[test]
fn a_flow_that_came_to_two_sinks_is_said_to_have() {
    let mut sinks = vec![account(), account()];
    for (at, sink) in sinks.iter_mut().enumerate() {
        come(sink, 0, at as u64);
    }
    let totals = totals(sinks);
    assert_eq!((totals.split_flows, totals.flows[0].received), (1, 2));
}

#[test]
fn what_a_sink_tells_only_after_a_silence_is_still_told_of_its_time() {
    let second = 1_000_000_000;
    let (mut collector, outlets) = Collector::new(2, 0, Duration::from_secs(200)).unwrap();
    let mut sinks: Vec<Account> =
        outlets.into_iter().map(|outlet| Account::new(1, 2).unwrap().with_outlet(outlet)).collect();
    let mut come = |sink: usize, sequence, at, latency| {
        let mark = Mark { run: 1, flow: sink as u32, sequence, sent_ns: at };
        sinks[sink].count(mark, at + latency, 0);
    };
    // The first sink hears two packets, the second of them after one was lost, and then nothing for a minute; the other one hears
    // one a second.
    come(0, 0, 1, 70);
    come(0, 2, 2, 90);
    for at in 0..60 {
        come(1, at, at * second, 5);
        collector.collect(at * second, at).unwrap();
    }
    come(0, 3, 60 * second, 70);
    collector.collect(60 * second, 60).unwrap();
    let totals = collector.finish(60, sinks).unwrap();
    let first = &totals.series.rows[0];
    assert_eq!((first.received_pps, first.missing, first.max_ns), (3.0, 1, Some(90)));
    assert_eq!(totals.latency.len(), 63);
}
