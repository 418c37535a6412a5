use caracal_plane_api::{PolicyId, PortRow, WorkerRow};

use super::*;

fn port_counters(object: &str, value: u64) -> Vec<Counter> {
    let names = [
        "port_received_packets",
        "port_received_bytes",
        "port_sent_packets",
        "port_sent_bytes",
        "port_dropped_packets",
        "port_kernel_rx_ring_full",
        "port_kernel_fill_ring_empty",
    ];
    let row = |name: &str| Counter { name: name.into(), object: object.into(), value, ..Counter::default() };
    names.into_iter().map(row).collect()
}

fn rule(policy: usize, index: u32, packets: u64) -> PolicyRow {
    let action = if index == 0 { "allow" } else { "deny" };
    PolicyRow {
        rule: format!("rule {index} of {policy}"),
        action: action.into(),
        packets,
        connections: 1,
        tier: "default".into(),
        policy: Some(PolicyId {
            kind: "NetworkPolicy".into(),
            namespace: "shop".into(),
            name: format!("p{policy}"),
        }),
        direction: "ingress".into(),
        index: Some(index),
        ..PolicyRow::default()
    }
}

/// A node with this many pods and policies of two rules, each of which has counted `count`.
fn node(pods: usize, policies: usize, count: u64) -> Readings {
    let port = |name: &str, kind: &str| PortRow {
        name: name.into(),
        kind: kind.into(),
        up: true,
        ..PortRow::default()
    };
    let mut ports = vec![port("eth0", "uplink"), port("eth0", "uplink"), port("host", "host")];
    ports.extend((0..pods).map(|pod| port(&format!("cali{pod}"), "pod")));
    let status = StatusReport {
        instance: 1,
        ports,
        workers: vec![WorkerRow { index: 0, silent_ms: 20 }],
        ..StatusReport::default()
    };
    // Two queues of one uplink.
    let mut counters = [port_counters("eth0", count), port_counters("eth0", count)].concat();
    counters.extend((0..pods).flat_map(|pod| port_counters(&format!("shop/web-{pod}"), count)));
    let policies =
        (0..policies).flat_map(|policy| [rule(policy, 0, count), rule(policy, 1, count)]).collect();
    Readings { status, counters, policies: Some(policies), ..Readings::default() }
}

fn page(ledger: &mut Ledger, readings: Readings) -> Exposition {
    let mut page = Exposition::new();
    ledger.expose(readings, Duration::ZERO, &mut page);
    page
}

fn value(page: &Exposition, series: &str) -> u64 {
    let text = page.to_string();
    let line = text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
    let line = line.unwrap_or_else(|| panic!("no {series} in {text}"));
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[test]
fn a_thousand_pods_and_a_thousand_policies_make_as_many_series_as_are_allowed() {
    let limits = Limits::default();
    let mut ledger = Ledger::new(limits);
    let all = page(&mut ledger, node(1000, 1000, 7));
    let empty = page(&mut Ledger::new(limits), node(0, 0, 7));
    let each = limits.endpoints * ENDPOINT_COUNTERS.len() + limits.rules * RULE_COUNTERS.len();
    assert_eq!(all.series(), empty.series() + each);
    assert!(all.series() < 3100, "{}", all.series());
    assert_eq!(value(&all, "caracal_endpoints_without_series"), 750);
    assert_eq!(value(&all, "caracal_rules_without_series"), 1500);
    let others = "caracal_endpoint_sent_packets_total{namespace=\"(others)\",pod=\"(others)\"}";
    assert_eq!(value(&all, others), 750 * 7);
    assert_eq!(value(&all, "caracal_policy_packets_total{action=\"deny\",staged=\"false\"}"), 1000 * 7);
    // Pods and policies come and go, and nothing that stays counts less.
    for (pods, policies, count) in [(900, 800, 8), (300, 10, 8), (1000, 1000, 9), (0, 0, 9)] {
        let next = page(&mut ledger, node(pods, policies, count));
        assert!(next.series() <= all.series());
        for series in [others, "caracal_policy_packets_total{action=\"deny\",staged=\"false\"}"] {
            assert!(value(&next, series) >= value(&all, series), "{series}");
        }
    }
}

#[test]
fn with_limits_of_zero_everything_is_counted_together() {
    let mut ledger = Ledger::new(Limits { endpoints: 0, rules: 0 });
    let page = page(&mut ledger, node(3, 2, 5));
    assert!(!page.to_string().contains("pod=\"web-"));
    assert_eq!(
        value(&page, "caracal_endpoint_sent_bytes_total{namespace=\"(others)\",pod=\"(others)\"}"),
        15
    );
}

#[test]
fn queues_of_an_uplink_are_one_port() {
    let page = page(&mut Ledger::new(Limits::default()), node(1, 0, 4));
    assert_eq!(value(&page, "caracal_port_received_packets_total{port=\"eth0\"}"), 8);
    assert_eq!(value(&page, "caracal_ports{kind=\"uplink\",state=\"up\"}"), 2);
    let pod = "{namespace=\"shop\",pod=\"web-0\"}";
    assert_eq!(value(&page, &format!("caracal_endpoint_kernel_dropped_packets_total{pod}")), 8);
    assert_eq!(value(&page, &format!("caracal_endpoint_dropped_packets_total{pod}")), 4);
}

#[test]
fn a_fastpath_that_restarts_starts_at_zero_and_sums_go_on() {
    let mut ledger = Ledger::new(Limits { endpoints: 1, rules: 500 });
    let deny = "caracal_policy_packets_total{action=\"deny\",staged=\"false\"}";
    let named = "caracal_endpoint_sent_packets_total{namespace=\"shop\",pod=\"web-0\"}";
    let before = page(&mut ledger, node(2, 1, 100));
    assert_eq!((value(&before, named), value(&before, deny)), (100, 100));
    let mut restarted = node(2, 1, 3);
    restarted.status.instance = 2;
    let after = page(&mut ledger, restarted);
    assert_eq!((value(&after, named), value(&after, deny)), (3, 103));
}

#[test]
fn a_rule_is_known_by_its_labels_and_a_default_by_its_tier() {
    let mut readings = node(0, 1, 2);
    let default = PolicyRow { policy: None, index: None, ..rule(0, 1, 9) };
    let nothing = PolicyRow {
        rule: "no policy or profile matched".into(),
        tier: String::new(),
        direction: String::new(),
        ..default.clone()
    };
    readings.policies.as_mut().unwrap().extend([default, nothing]);
    let page = page(&mut Ledger::new(Limits::default()), readings).to_string();
    for line in [
        "caracal_rule_packets_total{tier=\"default\",kind=\"NetworkPolicy\",namespace=\"shop\",policy=\"p0\",direction=\"ingress\",rule=\"0\",action=\"allow\",staged=\"false\"} 2\n",
        "caracal_rule_packets_total{tier=\"default\",kind=\"\",namespace=\"\",policy=\"\",direction=\"ingress\",rule=\"default\",action=\"deny\",staged=\"false\"} 9\n",
        "caracal_rule_packets_total{tier=\"\",kind=\"\",namespace=\"\",policy=\"no policy or profile matched\",direction=\"\",rule=\"default\",action=\"deny\",staged=\"false\"} 9\n",
    ] {
        assert!(page.contains(line), "{line} is not in {page}");
    }
}
