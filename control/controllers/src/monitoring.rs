//! How the controllers are watched: /liveness and /readiness (9098), and /metrics (9094) with Calico's `ipam_*`.
//!
//! Every process of a set tells the whole cluster's addresses, the one that leads and those that wait: the same numbers, from what each
//! follows. What was taken back counts only where it was done.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use caracal_model::cidr::Cidr;
use caracal_model::object::{Kind, Object};
use caracal_monitor::{
    Concern, Exposition, Health, Logs, Reporter, health_pages, keep_serving, metrics_page, process_metrics,
};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::{Cluster, Collected, View};

/// How often the process says that it is there.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(30);

// As Calico has them.
const NO_POOL: &str = "no_ippool";
const NO_AFFINITY: &str = "no_affinity";
const NO_NODE: &str = "unknown_node";

/// Where the process is watched; `None`: nowhere.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// /liveness and /readiness.
    pub health: Option<String>,
    /// /metrics.
    pub metrics: Option<String>,
}

impl Default for Addresses {
    fn default() -> Self {
        Self { health: Some(":9098".to_owned()), metrics: Some(":9094".to_owned()) }
    }
}

/// Serves what `view` shows until the process ends: on a thread of its own, so that a process that is stuck can say so; and before
/// there is one, so that nobody takes a process that waits for the API server for dead. To be called in the runtime that the
/// controllers run in.
///
/// # Errors
/// The process has no thread left, or no descriptor.
pub fn serve(view: &Arc<OnceLock<View>>, logs: &Logs, addresses: Addresses) -> io::Result<()> {
    let health = Health::new();
    let now = Instant::now();
    let process = health.part("Process", Concern::Vital, TIMEOUT, now);
    let syncer = health.part("Syncer", Concern::Readiness, TIMEOUT, now);
    tokio::spawn(report(Arc::clone(view), process, syncer));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (view, logs) = (Arc::clone(view), logs.clone());
    let serve = move || {
        runtime.block_on(async {
            let metrics = metrics_page(move || {
                let (view, logs) = (Arc::clone(&view), logs.clone());
                async move { page(view.get(), &logs) }
            });
            let mut tasks = JoinSet::new();
            let health_address = watch::Sender::new(addresses.health);
            let metrics_address = watch::Sender::new(addresses.metrics);
            tasks.spawn(keep_serving("health", health_address.subscribe(), health_pages(health)));
            tasks.spawn(keep_serving("metrics", metrics_address.subscribe(), metrics));
            while tasks.join_next().await.is_some() {}
        });
    };
    std::thread::Builder::new().name("monitor".into()).spawn(serve).map(drop)
}

/// Whoever waits for the lease is as ready as who holds it.
async fn report(view: Arc<OnceLock<View>>, process: Reporter, syncer: Reporter) {
    loop {
        let now = Instant::now();
        process.ready(now);
        match view.get() {
            None => syncer.not_ready("the API server has not said yet where Calico's kinds are", now),
            Some(view) if !view.is_in_sync() => {
                syncer.not_ready("the API server has not told everything yet", now);
            }
            Some(_) => syncer.ready(now),
        }
        tokio::time::sleep(REPORT_INTERVAL).await;
    }
}

fn page(view: Option<&View>, logs: &Logs) -> Exposition {
    let mut page = Exposition::new();
    if let Some(view) = view {
        view.with_cluster(|cluster| ipam_metrics(cluster, &view.collected(), &mut page));
    }
    let help = "Whether this process is the one that acts.";
    page.gauge("caracal_controllers_leading", help, &[], view.is_some_and(View::leads));
    let help = "Whether everything has been read from the API once.";
    page.gauge("caracal_controllers_in_sync", help, &[], view.is_some_and(View::is_in_sync));
    let help = "Number of errors logged.";
    page.counter("caracal_controllers_log_errors_total", help, &[], logs.errors());
    process_metrics(&mut page);
    page
}

/// Calico's metrics of addresses: of every pool, and on every node.
fn ipam_metrics(cluster: &Cluster, collected: &Collected, page: &mut Exposition) {
    let pools = pools(cluster);
    let pool_of = |address: IpAddr| {
        pools.iter().find(|(_, cidr)| cidr.contains(address)).map_or(NO_POOL, |(name, _)| name.as_str())
    };
    let mut reserved: Vec<Cidr> = cluster.of(Kind::IPReservation).flat_map(reservations).collect();
    // A part of another is not counted twice.
    reserved.sort_by_key(|cidr| cidr.length());
    let mut apart: Vec<Cidr> = Vec::new();
    for cidr in reserved {
        if !apart.iter().any(|other| other.covers(&cidr)) {
            apart.push(cidr);
        }
    }
    for (name, cidr) in &pools {
        let labels = [("ippool", name.as_str())];
        page.gauge("ipam_ippool_size", "Total number of addresses in the IP pool.", &labels, size(cidr));
        let shared = apart.iter().filter_map(|other| match () {
            () if cidr.covers(other) => Some(size(other)),
            () if other.covers(cidr) => Some(size(cidr)),
            () => None,
        });
        let help = "Number of addresses in the IP pool that IPReservations keep from being given.";
        page.gauge("ipam_ippool_reserved", help, &labels, shared.sum::<f64>());
    }
    let mut sums = Sums::default();
    for node in cluster.nodes().filter_map(|node| node.metadata.name.as_deref()) {
        // There before the first address is given.
        sums.of_node(node);
    }
    for block in cluster.blocks() {
        let pool = pool_of(block.cidr().address());
        let owner = block.owner.as_ref().map(|owner| owner.name());
        sums.of(pool, owner.unwrap_or(NO_AFFINITY)).blocks += 1;
        if let Some(owner) = owner {
            sums.of_node(owner).blocks += 1;
        }
        for (_, attributes) in block.given() {
            let node = attributes.owner.get("node").map_or(NO_NODE, String::as_str);
            let is_borrowed = owner != Some(node);
            for sum in [pool, ""] {
                let sum = if sum.is_empty() { sums.of_node(node) } else { sums.of(pool, node) };
                sum.in_use += 1;
                sum.borrowed += u64::from(is_borrowed);
            }
        }
    }
    for (address, node) in &collected.candidates {
        sums.of(pool_of(*address), node.as_deref().unwrap_or(NO_NODE)).candidates += 1;
    }
    for ((pool, node), reclaimed) in &collected.reclaimed {
        let or = |text: &str, other: &'static str| {
            if text.is_empty() { other.to_owned() } else { text.to_owned() }
        };
        sums.of(&or(pool, NO_POOL), &or(node, NO_NODE)).reclaimed += reclaimed;
    }
    sums.expose(page);
}

#[derive(Debug, Default)]
struct Sum {
    blocks: u64,
    in_use: u64,
    borrowed: u64,
    candidates: u64,
    reclaimed: u64,
}

#[derive(Debug, Default)]
struct Sums {
    by_pool_and_node: BTreeMap<(String, String), Sum>,
    by_node: BTreeMap<String, Sum>,
}

impl Sums {
    fn of(&mut self, pool: &str, node: &str) -> &mut Sum {
        self.by_pool_and_node.entry((pool.to_owned(), node.to_owned())).or_default()
    }

    fn of_node(&mut self, node: &str) -> &mut Sum {
        self.by_node.entry(node.to_owned()).or_default()
    }

    fn expose(&self, page: &mut Exposition) {
        for ((pool, node), sum) in &self.by_pool_and_node {
            let labels = [("ippool", pool.as_str()), ("node", node.as_str())];
            for (name, help, value) in [
                (
                    "ipam_blocks",
                    "Number of blocks, by pool and by the node that they are affine to.",
                    sum.blocks,
                ),
                ("ipam_allocations_in_use", "Number of addresses that somebody has.", sum.in_use),
                (
                    "ipam_allocations_borrowed",
                    "Number of addresses that somebody has on a node that their block is not affine to.",
                    sum.borrowed,
                ),
                (
                    "ipam_allocations_gc_candidates",
                    "Number of addresses that seem to be nobody's any more.",
                    sum.candidates,
                ),
            ] {
                page.gauge(name, help, &labels, value);
            }
            let help = "Number of addresses that this process has taken back.";
            page.counter("ipam_allocations_gc_reclamations", help, &labels, sum.reclaimed);
        }
        for (node, sum) in &self.by_node {
            let labels = [("node", node.as_str())];
            for (name, help, value) in [
                ("ipam_blocks_per_node", "Number of blocks that are affine to the node.", sum.blocks),
                (
                    "ipam_allocations_per_node",
                    "Number of addresses that somebody has on the node.",
                    sum.in_use,
                ),
                (
                    "ipam_allocations_borrowed_per_node",
                    "Number of addresses that somebody has on the node, from blocks that are not affine to it.",
                    sum.borrowed,
                ),
            ] {
                page.gauge(name, help, &labels, value);
            }
        }
    }
}

fn pools(cluster: &Cluster) -> Vec<(String, Cidr)> {
    let pools = cluster.pools();
    pools.filter_map(|pool| Some((pool.metadata.name.clone()?, pool.spec.cidr.parse().ok()?))).collect()
}

fn reservations(object: &Object) -> Vec<Cidr> {
    match object {
        Object::IPReservation(reservation) => {
            let cidrs = reservation.spec.reserved_cidrs.iter().flatten();
            cidrs.filter_map(|cidr| cidr.parse().ok()).collect()
        }
        _ => Vec::new(),
    }
}

/// How many addresses; those of IPv6 are more than whole numbers can count.
fn size(cidr: &Cidr) -> f64 {
    let bits = if cidr.address().is_ipv4() { 32 } else { 128 };
    f64::from(bits - i32::from(cidr.length())).exp2()
}

#[cfg(test)]
mod tests;
