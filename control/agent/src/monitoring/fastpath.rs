//! What a fastpath says, as metrics. Pure: what was read goes in, series come out.
//!
//! Counters are as the fastpath counts them, from zero after each of its starts, which Prometheus understands; sums over things that come
//! and go (endpoints, rules) are kept here, because they must not fall when one goes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use caracal_monitor::Exposition;
use caracal_plane_api::{Counter, DropRow, NatRow, PolicyRow, StatusReport};

use super::bounded::Bounded;

/// What stands for all that have no series of their own. No name in Kubernetes has parentheses.
const OTHERS: &str = "(others)";

/// How many series there may be of what there may be many of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Endpoints.
    pub endpoints: usize,
    /// Rules that have counted something.
    pub rules: usize,
}

impl Default for Limits {
    /// Of a node with as many pods as kubelets allow at most, as a rule.
    fn default() -> Self {
        Self { endpoints: 250, rules: 500 }
    }
}

/// What was read of a fastpath.
#[derive(Debug, Clone, Default)]
pub struct Readings {
    /// Its state.
    pub status: StatusReport,
    /// What it counts.
    pub counters: Vec<Counter>,
    /// What it drops.
    pub drops: Vec<DropRow>,
    /// What its rules decided, if workers could be asked.
    pub policies: Option<Vec<PolicyRow>>,
    /// What it translates to.
    pub nat: Vec<NatRow>,
}

/// What must be remembered from scrape to scrape.
#[derive(Debug)]
pub struct Ledger {
    endpoints: Bounded<String, { ENDPOINT_COUNTERS.len() }>,
    rules: Bounded<Rule, 3>,
    /// Everything that rules decided, by action and whether staged: the sums never fall.
    verdicts: BTreeMap<(String, bool), Bounded<Rule, 3>>,
}

/// The labels of a rule.
type Rule = [String; 8];
const RULE_LABELS: [&str; 8] =
    ["tier", "kind", "namespace", "policy", "direction", "rule", "action", "staged"];

/// What is told of an endpoint: the family, what it means, and the counters of its port that are added up for it.
const ENDPOINT_COUNTERS: [(&str, &str, &[&str]); 6] = [
    ("caracal_endpoint_sent_packets_total", "Packets that the pod sent.", &["port_received_packets"]),
    ("caracal_endpoint_sent_bytes_total", "Bytes that the pod sent.", &["port_received_bytes"]),
    ("caracal_endpoint_received_packets_total", "Packets that the pod was given.", &["port_sent_packets"]),
    ("caracal_endpoint_received_bytes_total", "Bytes that the pod was given.", &["port_sent_bytes"]),
    (
        "caracal_endpoint_dropped_packets_total",
        "Packets that the pod sent and that were dropped.",
        &["port_dropped_packets"],
    ),
    (
        "caracal_endpoint_kernel_dropped_packets_total",
        "Packets that the pod sent and that the kernel dropped in front of the fastpath, which was slower than the pod.",
        &["port_kernel_rx_ring_full", "port_kernel_fill_ring_empty", "port_kernel_rx_dropped"],
    ),
];

const RULE_COUNTERS: [(&str, &str); 3] = [
    ("caracal_rule_packets_total", "Packets of the flows that the rule decided."),
    ("caracal_rule_bytes_total", "Bytes of the flows that the rule decided."),
    ("caracal_rule_connections_total", "Flows whose first packet the rule decided."),
];

const VERDICT_COUNTERS: [(&str, &str); 3] = [
    ("caracal_policy_packets_total", "Packets of the flows that policy decided, by what it decided."),
    ("caracal_policy_bytes_total", "Bytes of the flows that policy decided, by what it decided."),
    ("caracal_policy_connections_total", "Flows whose first packet policy decided, by what it decided."),
];

impl Ledger {
    /// Nothing remembered.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            endpoints: Bounded::new(limits.endpoints),
            rules: Bounded::new(limits.rules),
            verdicts: BTreeMap::new(),
        }
    }

    /// Puts a fastpath that answered into series. `took`: how long it was read.
    pub fn expose(&mut self, readings: Readings, took: Duration, page: &mut Exposition) {
        let Readings { status, counters, drops, policies, nat } = readings;
        up(true, page);
        page.gauge("caracal_fastpath_read_seconds", "How long reading the fastpath took.", &[], took);
        expose_status(&status, page);
        self.expose_counters(&status, counters, page);
        for row in drops {
            let help = "Packets dropped, by reason.";
            page.counter("caracal_dropped_packets_total", help, &[("reason", &row.reason)], row.packets);
        }
        if let Some(policies) = policies {
            self.expose_rules(status.instance, policies, page);
        }
        for row in nat {
            let worker = row.worker.to_string();
            let labels = [("worker", worker.as_str()), ("address", row.address.as_str())];
            let ports = u64::from((row.last_port + 1).saturating_sub(row.first_port));
            let help = "Ports of an address that node-level translation has, for each remote end.";
            page.gauge("caracal_nat_ports", help, &labels, ports);
            let help = "Node-level translations that there are.";
            page.gauge("caracal_nat_translations", help, &labels, row.translations);
        }
    }

    fn expose_counters(&mut self, status: &StatusReport, counters: Vec<Counter>, page: &mut Exposition) {
        let of_node = status.ports.iter().filter(|port| port.kind != "pod").map(|port| port.name.as_str());
        let of_node: BTreeSet<&str> = of_node.collect();
        let mut endpoints: BTreeMap<String, [u64; ENDPOINT_COUNTERS.len()]> = BTreeMap::new();
        let mut published: BTreeMap<String, u64> = BTreeMap::new();
        for row in counters {
            let Counter { name, worker, object, value, description, gauge } = row;
            if !worker.is_empty() {
                expose_worker(&name, &worker, value, &description, gauge, page);
            } else if let Some(fate) = name.strip_prefix("uplink_") {
                let help = "Frames that the uplink's program has seen, by what became of them.";
                let labels = [("uplink", object.as_str()), ("fate", fate)];
                page.counter("caracal_uplink_frames_total", help, &labels, value);
            } else if name == "table_size" {
                let help = "Entries of the fastpath's tables.";
                page.gauge("caracal_table_entries", help, &[("table", &object)], value);
            } else if name.starts_with("port_") && of_node.contains(object.as_str()) {
                let family = format!("caracal_{name}_total");
                page.counter(&family, port_help(&name), &[("port", &object)], value);
            } else if name.starts_with("port_") {
                let counts = endpoints.entry(object).or_default();
                for ((_, _, parts), count) in ENDPOINT_COUNTERS.iter().zip(counts) {
                    *count += if parts.contains(&name.as_str()) { value } else { 0 };
                }
            } else {
                published.insert(name, value);
            }
        }
        expose_publications(&published, page);
        let told = self.endpoints.take(status.instance, endpoints);
        let help = "Endpoints counted together, as (others), because there are more than may have series of their own.";
        page.gauge("caracal_endpoints_without_series", help, &[], told.others_now);
        for (at, (family, help, _)) in ENDPOINT_COUNTERS.iter().enumerate() {
            for (id, counts) in &told.named {
                let (namespace, pod) = id.split_once('/').unwrap_or(("", id));
                page.counter(family, help, &[("namespace", namespace), ("pod", pod)], counts[at]);
            }
            page.counter(family, help, &[("namespace", OTHERS), ("pod", OTHERS)], told.others[at]);
        }
    }

    fn expose_rules(&mut self, instance: u64, policies: Vec<PolicyRow>, page: &mut Exposition) {
        let mut counted: BTreeMap<Rule, [u64; 3]> = BTreeMap::new();
        let mut verdicts: BTreeMap<(String, bool), BTreeMap<Rule, [u64; 3]>> = BTreeMap::new();
        // There before anything has counted, so that the first packet is seen as one.
        for action in ["allow", "deny"] {
            verdicts.entry((action.to_owned(), false)).or_default();
        }
        for row in policies.into_iter().filter(|row| row.packets > 0 || row.connections > 0) {
            let verdict = (row.action.clone(), row.staged);
            let (rule, counts) = (labels_of(&row), [row.packets, row.bytes, row.connections]);
            let all = [counted.entry(rule.clone()), verdicts.entry(verdict).or_default().entry(rule)];
            for entry in all {
                for (sum, count) in entry.or_default().iter_mut().zip(counts) {
                    *sum += count;
                }
            }
        }
        for ((action, staged), counted) in verdicts {
            let sums = self.verdicts.entry((action.clone(), staged)).or_insert_with(|| Bounded::new(0));
            let sums = sums.take(instance, counted).others;
            let labels = [("action", action.as_str()), ("staged", staged_text(staged))];
            for ((family, help), sum) in VERDICT_COUNTERS.iter().zip(sums) {
                page.counter(family, help, &labels, sum);
            }
        }
        let told = self.rules.take(instance, counted);
        let help =
            "Rules counted together, as (others), because there are more than may have series of their own.";
        page.gauge("caracal_rules_without_series", help, &[], told.others_now);
        for (at, (family, help)) in RULE_COUNTERS.iter().enumerate() {
            let others = std::iter::once((RULE_LABELS.map(|_| OTHERS.to_owned()), told.others));
            for (rule, counts) in told.named.clone().into_iter().chain(others) {
                let labels: Vec<(&str, &str)> =
                    RULE_LABELS.into_iter().zip(rule.iter().map(String::as_str)).collect();
                page.counter(family, help, &labels, counts[at]);
            }
        }
    }
}

/// Whether the fastpath answers; the one series there is of a dead one.
pub fn up(is: bool, page: &mut Exposition) {
    page.gauge("caracal_fastpath_up", "Whether the fastpath answered this scrape.", &[], is);
}

fn expose_status(status: &StatusReport, page: &mut Exposition) {
    let info = [("version", status.software.as_str())];
    page.gauge("caracal_fastpath_info", "1; the label is the fastpath's version.", &info, 1_u64);
    for (name, help, value) in [
        (
            "caracal_fastpath_in_sync",
            "Whether workers use the whole state that a control plane has given.",
            u64::from(status.in_sync),
        ),
        ("caracal_fastpath_packet_memory_bytes", "Memory for packets.", status.umem_bytes),
        (
            "caracal_fastpath_kernel_ring_bytes",
            "Memory that the kernel takes for sockets' rings (computed).",
            status.kernel_ring_bytes,
        ),
        ("caracal_fastpath_flow_table_bytes", "Memory of the flow tables.", status.flow_bytes),
        (
            "caracal_fastpath_huge_pages",
            "Whether all packet memory is in huge pages.",
            u64::from(status.huge_pages),
        ),
        ("caracal_tables_generation", "Version of the tables that was last published.", status.generation),
        (
            "caracal_neighbors_unresolved",
            "Next hops and pods whose link-layer address is not known.",
            u64::from(status.unresolved_neighbors),
        ),
    ] {
        page.gauge(name, help, &[], value);
    }
    for worker in &status.workers {
        let help = "Time since the worker last came round; an idle one does every 50 ms.";
        let seconds = Duration::from_millis(worker.silent_ms);
        page.gauge("caracal_worker_silent_seconds", help, &[("worker", &worker.index.to_string())], seconds);
    }
    for kind in ["uplink", "host", "forward", "pod"] {
        for (state, is_up) in [("up", true), ("down", false)] {
            let count = status.ports.iter().filter(|port| port.kind == kind && port.up == is_up).count();
            let help = "The fastpath's ports (queues, of uplinks), by whether packets can pass.";
            page.gauge("caracal_ports", help, &[("kind", kind), ("state", state)], count);
        }
    }
}

fn expose_worker(name: &str, worker: &str, value: u64, help: &str, gauge: bool, page: &mut Exposition) {
    let labels = [("worker", worker)];
    match name.strip_suffix("_microseconds") {
        Some(name) => {
            let family = format!("caracal_worker_{name}_seconds_total");
            page.counter(&family, help, &labels, value as f64 / 1e6);
        }
        None if gauge => page.gauge(&format!("caracal_worker_{name}"), help, &labels, value),
        None => page.counter(&format!("caracal_worker_{name}_total"), help, &labels, value),
    }
}

fn expose_publications(published: &BTreeMap<String, u64>, page: &mut Exposition) {
    let get = |name: &str| published.get(name).copied();
    let (Some(count), Some(build), Some(adoption)) = (
        get("publications"),
        get("publication_build_microseconds"),
        get("publication_adoption_microseconds"),
    ) else {
        // An older fastpath does not say.
        return;
    };
    let help = "Seconds to build tables and publish them.";
    page.summary("caracal_tables_build_seconds", help, &[], count, build as f64 / 1e6);
    let help = "Seconds from there until the last worker used them, or newer ones.";
    page.summary("caracal_tables_adoption_seconds", help, &[], count, adoption as f64 / 1e6);
}

fn port_help(name: &str) -> &'static str {
    match name {
        "port_received_packets" => "Packets that came in by the port.",
        "port_received_bytes" => "Bytes that came in by the port.",
        "port_sent_packets" => "Packets that left by the port.",
        "port_sent_bytes" => "Bytes that left by the port.",
        "port_dropped_packets" => "Packets that came in by the port and were dropped.",
        _ => "What the kernel dropped at the port's sockets, by where (statistics of AF_XDP).",
    }
}

fn labels_of(row: &PolicyRow) -> Rule {
    let id = row.policy.clone().unwrap_or_default();
    // A default has no policy; what it is says the row itself.
    let name = if row.policy.is_none() && row.tier.is_empty() { row.rule.clone() } else { id.name };
    let index = row.index.map_or_else(|| "default".to_owned(), |index| index.to_string());
    let (action, staged) = (row.action.clone(), staged_text(row.staged).to_owned());
    [row.tier.clone(), id.kind, id.namespace, name, row.direction.clone(), index, action, staged]
}

fn staged_text(staged: bool) -> &'static str {
    if staged { "true" } else { "false" }
}

#[cfg(test)]
mod tests;
