//! What the agent's tasks say of themselves: for probes (who is well) and for scrapes (what was counted). Written by the tasks as they
//! work, read at any time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use caracal_calc::Census;
use caracal_model::convert::MonitoringSettings;
use caracal_model::object::Kind;
use caracal_monitor::{Concern, Exposition, Health, Histogram, Logs, Reporter};
use tokio::sync::watch;
use tracing::error;

use super::addresses::Fixed;

/// How often the main task says that it is there, and counts what it knows.
pub const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// The health and the counts of one agent.
#[derive(Debug)]
pub struct Vitals {
    /// All reporters.
    pub health: Health,
    graph: Reporter,
    session: Reporter,
    programmer: Reporter,
    host_rules: Mutex<Option<Reporter>>,
    /// The data plane's, which the task that watches the fastpath reports.
    pub fastpath: Reporter,
    logs: Logs,
    fixed: Fixed,
    followed: Mutex<Option<MonitoringSettings>>,
    /// Where health is to be served.
    pub health_address: watch::Sender<Option<String>>,
    /// Where metrics are to be served.
    pub metrics_address: watch::Sender<Option<String>>,
    started: Instant,
    counts: Counts,
}

#[derive(Debug)]
struct Counts {
    updates: Mutex<BTreeMap<&'static str, u64>>,
    update_seconds: Histogram,
    flush_seconds: Histogram,
    output_events: AtomicU64,
    ack_seconds: Histogram,
    apply_seconds: Histogram,
    apply_failures: AtomicU64,
    first_applied_micros: AtomicU64,
    host_rules_failures: AtomicU64,
    now: Mutex<Now>,
}

/// What the main task knows at the moment.
#[derive(Debug, Clone, Default)]
pub struct Now {
    /// What there is.
    pub census: Census,
    /// 1: waiting for the API server, 2: lists are coming in, 3: in sync.
    pub resync_state: u64,
    /// How often lists began to come in.
    pub resyncs: u64,
    /// Whether the fastpath has acknowledged the whole state.
    pub is_plane_in_sync: bool,
    /// Connections to the fastpath so far.
    pub plane_connections: u64,
}

impl Default for Vitals {
    /// Of an agent that nobody watches, as in tests.
    fn default() -> Self {
        Self::new(Fixed::default(), Logs::unmanaged())
    }
}

impl Vitals {
    /// Nothing reported, nothing counted.
    #[must_use]
    pub fn new(fixed: Fixed, logs: Logs) -> Self {
        let now = Instant::now();
        let health = Health::new();
        let unsaid = MonitoringSettings::default();
        let seconds = Duration::from_secs;
        logs.configure(fixed.log_severity(&unsaid));
        Self {
            // Named as Calico's are where they are for the same, so that healthTimeoutOverrides fit.
            graph: health.part("CalculationGraph", Concern::Vital, seconds(30), now),
            programmer: health.part("InternalDataplaneMainLoop", Concern::Vital, seconds(90), now),
            session: health.part("PlaneSession", Concern::Readiness, seconds(30), now),
            fastpath: health.part("Fastpath", Concern::Readiness, seconds(15), now),
            host_rules: Mutex::default(),
            health_address: watch::Sender::new(fixed.health_address(&unsaid)),
            metrics_address: watch::Sender::new(fixed.metrics_address(&unsaid).unwrap_or_default()),
            health,
            logs,
            fixed,
            followed: Mutex::default(),
            started: now,
            counts: Counts {
                updates: Mutex::default(),
                update_seconds: Histogram::of_seconds(),
                flush_seconds: Histogram::of_seconds(),
                output_events: AtomicU64::new(0),
                ack_seconds: Histogram::of_seconds(),
                apply_seconds: Histogram::of_seconds(),
                apply_failures: AtomicU64::new(0),
                first_applied_micros: AtomicU64::new(0),
                host_rules_failures: AtomicU64::new(0),
                now: Mutex::default(),
            },
        }
    }

    /// What the process logs.
    #[must_use]
    pub fn logs(&self) -> &Logs {
        &self.logs
    }

    /// Has what FelixConfigurations say take effect, where it differs from what they said before.
    pub fn follow(&self, settings: &MonitoringSettings) {
        let mut followed = lock(&self.followed);
        if followed.as_ref() == Some(settings) {
            return;
        }
        *followed = Some(settings.clone());
        self.logs.configure(self.fixed.log_severity(settings));
        self.health.set_timeouts(settings.health_timeouts.clone());
        let to = |sender: &watch::Sender<Option<String>>, address: Option<String>| {
            sender.send_if_modified(|current| {
                let differs = *current != address;
                *current = address;
                differs
            });
        };
        to(&self.health_address, self.fixed.health_address(settings));
        let metrics = self.fixed.metrics_address(settings).unwrap_or_else(|why| {
            error!("{why}");
            None
        });
        to(&self.metrics_address, metrics);
    }

    // --- what tasks report ---

    /// The main task came round. `not_known`: why the state is not whole; `not_said`: why the fastpath has not got it.
    pub fn main_came_round(&self, not_known: &str, not_said: &str, now_known: Now, now: Instant) {
        report(&self.graph, not_known, now);
        report(&self.session, not_said, now);
        *lock(&self.counts.now) = now_known;
    }

    /// Updates of the cluster's state went into the calc graph.
    pub fn updated(&self, kinds: impl Iterator<Item = Kind>, took: Duration) {
        let mut updates = lock(&self.counts.updates);
        for kind in kinds {
            *updates.entry(kind.as_str()).or_default() += 1;
        }
        self.counts.update_seconds.observe(took);
    }

    /// The calc graph said what this node must do.
    pub fn flushed(&self, operations: usize, took: Duration) {
        self.counts.output_events.fetch_add(operations as u64, Relaxed);
        self.counts.flush_seconds.observe(took);
    }

    /// The fastpath acknowledged a transaction.
    pub fn acknowledged(&self, took: Duration) {
        self.counts.ack_seconds.observe(took);
    }

    /// The task that keeps the kernel right came round with nothing to do.
    pub fn programmer_came_round(&self, now: Instant) {
        self.programmer.ready(now);
    }

    /// The kernel's links and routes were brought to what they must be, but for these failures.
    pub fn programmed(&self, failures: &[String], took: Duration, now: Instant) {
        self.counts.apply_seconds.observe(took);
        report(&self.programmer, &failures.join("; "), now);
        if failures.is_empty() {
            let since_start = now.saturating_duration_since(self.started).as_micros();
            let since_start = u64::try_from(since_start).unwrap_or(u64::MAX).max(1);
            // The first time only.
            let _ = self.counts.first_applied_micros.compare_exchange(0, since_start, Relaxed, Relaxed);
        } else {
            self.counts.apply_failures.fetch_add(1, Relaxed);
        }
    }

    /// The task that keeps host endpoints' policy in the kernel came round; why it failed, empty if it did not.
    pub fn host_rules_came_round(&self, failure: &str, now: Instant) {
        if !failure.is_empty() {
            self.counts.host_rules_failures.fetch_add(1, Relaxed);
        }
        let mut reporter = lock(&self.host_rules);
        let part = || self.health.part("HostEndpointPolicy", Concern::Vital, Duration::from_secs(90), now);
        report(reporter.get_or_insert_with(part), failure, now);
    }

    // --- what a scrape reads ---

    /// Calico's names where the meaning is the same, ours for the rest.
    pub fn expose(&self, node: &str, page: &mut Exposition) {
        let counts = &self.counts;
        let now = lock(&counts.now).clone();
        let census = now.census;
        for (name, help, value) in [
            (
                "felix_active_local_endpoints",
                "Number of active endpoints on this host.",
                census.local_endpoints,
            ),
            ("felix_active_local_policies", "Number of active policies on this host.", census.local_policies),
            ("felix_active_local_selectors", "Number of active selectors on this host.", census.local_sets),
            ("felix_cluster_num_hosts", "Total number of nodes cluster-wide.", census.nodes),
            (
                "felix_cluster_num_host_endpoints",
                "Total number of host endpoints cluster-wide.",
                census.host_endpoints,
            ),
            (
                "felix_cluster_num_workload_endpoints",
                "Total number of workload endpoints cluster-wide.",
                census.pods,
            ),
            ("felix_cluster_num_policies", "Total number of policies in the cluster.", census.policies),
            ("felix_cluster_num_profiles", "Total number of profiles in the cluster.", census.profiles),
            ("felix_cluster_num_tiers", "Total number of tiers in the cluster.", census.tiers),
        ] {
            page.gauge(name, help, &[], value);
        }
        page.gauge("felix_host", "1; the label is the node's name.", &[("host", node)], 1_u64);
        let help = "State of the resynchronisation with the API server: 1 waiting for it, 2 lists are coming in, 3 in sync.";
        page.gauge("felix_resync_state", help, &[], now.resync_state);
        let help = "Number of times a resynchronisation with the API server has started.";
        page.counter("felix_resyncs_started", help, &[], now.resyncs);
        let help = "Number of errors logged.";
        page.counter("felix_log_errors", help, &[], self.logs.errors());
        let help = "Number of events emitted by the calculation graph.";
        page.counter("felix_calc_graph_output_events", help, &[], counts.output_events.load(Relaxed));
        let help = "Number of updates of the cluster's state processed by the calculation graph, by kind.";
        for (kind, count) in lock(&counts.updates).iter() {
            page.counter("felix_calc_graph_updates_processed", help, &[("type", kind)], *count);
        }
        let help = "Seconds to take a batch of updates into the calculation graph.";
        let name = "felix_calc_graph_update_time_seconds";
        page.summary(name, help, &[], counts.update_seconds.count(), counts.update_seconds.sum());
        let help = "Seconds to bring the kernel's links, routes and rules to what they must be.";
        let name = "felix_int_dataplane_apply_time_seconds";
        page.summary(name, help, &[], counts.apply_seconds.count(), counts.apply_seconds.sum());
        let help = "Number of times that the kernel could not be brought to what it must be, which is then tried again.";
        page.counter("felix_int_dataplane_failures", help, &[], counts.apply_failures.load(Relaxed));
        let first = counts.first_applied_micros.load(Relaxed);
        if first > 0 {
            let help = "Seconds from the agent's start until the kernel was first as it must be.";
            page.gauge("felix_int_dataplane_initial_resync_time_seconds", help, &[], first as f64 / 1e6);
        }
        let help = "Seconds to work out what has changed for this node since the last time.";
        page.histogram("caracal_calc_flush_seconds", help, &[], &counts.flush_seconds);
        let help = "Seconds from sending a transaction to the fastpath until its last worker has adopted it.";
        page.histogram("caracal_plane_ack_seconds", help, &[], &counts.ack_seconds);
        let help = "Whether the fastpath has acknowledged this node's whole state.";
        page.gauge("caracal_plane_in_sync", help, &[], now.is_plane_in_sync);
        let help = "Connections made to the fastpath.";
        page.counter("caracal_plane_connections_total", help, &[], now.plane_connections);
        let help = "Number of times that host endpoints' policy could not be put into the kernel, which is then tried again.";
        let failures = counts.host_rules_failures.load(Relaxed);
        page.counter("caracal_host_policy_failures_total", help, &[], failures);
        let state = self.health.state(Instant::now());
        let help = "Whether a part of the agent is ready, by the names that /readiness shows.";
        for row in &state.0 {
            page.gauge("caracal_agent_ready", help, &[("reporter", row.name)], row.ready);
        }
        if lock(&self.followed).as_ref().and_then(|settings| settings.process_metrics).unwrap_or(true) {
            caracal_monitor::process_metrics(page);
        }
    }
}

fn report(reporter: &Reporter, failure: &str, now: Instant) {
    if failure.is_empty() { reporter.ready(now) } else { reporter.not_ready(failure, now) }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
