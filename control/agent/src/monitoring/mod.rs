//! How an agent is watched: /liveness and /readiness for kubelets, /metrics for Prometheus, and the level of what it logs.
//!
//! ```text
//!   main task, programmer, host rules ── report, count ──► Vitals ──► Health ──► :9099 /liveness /readiness
//!   fastpath ── STATUS every 2 s ──► watch_fastpath ──────────┘  └──► Exposition ─► :9091 /metrics
//!            └─ everything, at a scrape, as READER, bounded in time ─────► Ledger ──┘
//! ```
//!
//! Ready means: the cluster's state is known, the kernel is as it must be, and the fastpath has acknowledged everything, lives and has the
//! ports without which it cannot forward. An API server that is away takes none of that away: the node forwards.

mod addresses;
mod bounded;
mod fastpath;
mod vitals;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use caracal_monitor::{Exposition, health_pages, keep_serving, metrics_page};
use caracal_plane_api::{PlaneError, Reader, SILENCE_MS, StatusReport, What};
use tokio::task::JoinSet;

pub use addresses::Fixed;
pub use fastpath::Limits;
use fastpath::{Ledger, Readings};
pub use vitals::{Now, REPORT_INTERVAL, Vitals};

/// How often the fastpath is asked how it is.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// How long it may take for a message.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a scrape may take to read it; Prometheus waits for ten seconds by default.
const SCRAPE_LIMIT: Duration = Duration::from_secs(3);

/// Serves what `vitals` say of the agent of `node`, and what its fastpath says, until the process ends. On a thread of its own: whoever
/// asks why the agent is stuck is to be answered by somebody who is not.
///
/// # Errors
/// The process has no thread left, or no descriptor.
pub fn start(vitals: &Arc<Vitals>, node: &str, fastpath: &Path, limits: Limits) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut tasks = JoinSet::new();
    let _guard = runtime.enter();
    let pages = health_pages(vitals.health.clone());
    tasks.spawn(keep_serving("health", vitals.health_address.subscribe(), pages));
    let scrape = Arc::new(Scrape {
        vitals: Arc::clone(vitals),
        node: node.to_owned(),
        fastpath: fastpath.to_owned(),
        ledger: Mutex::new(Ledger::new(limits)),
        reading: tokio::sync::Mutex::new(()),
    });
    let pages = metrics_page(move || {
        let scrape = Arc::clone(&scrape);
        async move { scrape.page().await }
    });
    tasks.spawn(keep_serving("metrics", vitals.metrics_address.subscribe(), pages));
    tasks.spawn(watch_fastpath(Arc::clone(vitals), fastpath.to_owned()));
    // Also while the API, which has the configuration, is away.
    tasks.spawn(vitals.logs().clone().follow_signal());
    let serve = move || runtime.block_on(async { while tasks.join_next().await.is_some() {} });
    std::thread::Builder::new().name("monitor".into()).spawn(serve).map(drop)
}

struct Scrape {
    vitals: Arc<Vitals>,
    node: String,
    fastpath: PathBuf,
    ledger: Mutex<Ledger>,
    /// One at a time: a fastpath that does not answer is not to have a queue of readers.
    reading: tokio::sync::Mutex<()>,
}

impl Scrape {
    async fn page(&self) -> Exposition {
        let mut page = Exposition::new();
        self.vitals.expose(&self.node, &mut page);
        let begun = Instant::now();
        let read = tokio::time::timeout(SCRAPE_LIMIT, async {
            let _guard = self.reading.lock().await;
            let socket = self.fastpath.clone();
            tokio::task::spawn_blocking(move || read(&socket)).await
        });
        match read.await {
            Ok(Ok(Ok(readings))) => {
                let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
                ledger.expose(readings, begun.elapsed(), &mut page);
            }
            // Why is in /readiness.
            Ok(Ok(Err(_)) | Err(_)) | Err(_) => fastpath::up(false, &mut page),
        }
        page
    }
}

fn read(socket: &Path) -> Result<Readings, PlaneError> {
    let mut reader = Reader::connect_patiently(socket, PATIENCE)?;
    let status = reader.read(What::Status)?.status.unwrap_or_default();
    let counters = reader.read(What::Counters)?.counters;
    let drops = reader.read(What::Drops)?.drops;
    let nat = reader.read(What::Nat)?.nat;
    // Rules' counters are with the workers' flows: one that does not come round cannot be asked.
    let are_all_round = status.silent_workers(SILENCE_MS).next().is_none();
    let policies =
        are_all_round.then(|| reader.read(What::Policy).map(|reply| reply.policies).ok()).flatten();
    Ok(Readings { status, counters, drops, policies, nat })
}

/// Asks the fastpath again and again how it is, over a connection that stays.
async fn watch_fastpath(vitals: Arc<Vitals>, socket: PathBuf) {
    let mut reader = None;
    loop {
        let (held, path) = (reader.take(), socket.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let mut reader = match held {
                Some(reader) => reader,
                None => Reader::connect_patiently(&path, PATIENCE)?,
            };
            let status = reader.read(What::Status)?.status.unwrap_or_default();
            Ok::<_, PlaneError>((reader, status))
        });
        let now = match looked.await {
            Ok(Ok((held, status))) => {
                let ills = ills(&status);
                reader = Some(held);
                let now = Instant::now();
                if ills.is_empty() {
                    vitals.fastpath.ready(now)
                } else {
                    vitals.fastpath.not_ready(ills.join("; "), now)
                }
                now
            }
            Ok(Err(error)) => {
                let now = Instant::now();
                vitals.fastpath.not_ready(error.to_string(), now);
                now
            }
            // The runtime is going away.
            Err(_) => return,
        };
        tokio::time::sleep_until((now + LOOK_INTERVAL).into()).await;
    }
}

/// What keeps a fastpath from forwarding. A pod's port that is missing is none of it: other pods' are there, and what comes and goes
/// with pods is not to make a node unready.
fn ills(status: &StatusReport) -> Vec<String> {
    let mut ills: Vec<String> = status
        .silent_workers(SILENCE_MS)
        .map(|(worker, ms)| {
            format!("worker {worker} has not come round for {:.1} s: it forwards nothing", ms as f64 / 1e3)
        })
        .collect();
    if !status.in_sync {
        ills.push("its workers do not use the whole state yet".to_owned());
        return ills;
    }
    for kind in ["host", "forward", "uplink"] {
        let ports = || status.ports.iter().filter(|port| port.kind == kind);
        if !ports().any(|port| port.up) {
            let details: Vec<String> =
                ports().map(|port| format!("{}: {}", port.name, port.detail)).collect();
            let why = if details.is_empty() { "there is none".to_owned() } else { details.join(", ") };
            ills.push(format!("no {kind} port is up ({why})"));
        }
    }
    ills
}

#[cfg(test)]
mod tests {
    use super::*;
    use caracal_plane_api::{PortRow, WorkerRow};

    #[test]
    fn a_fastpath_is_ill_that_cannot_forward_and_says_why() {
        let port = |kind: &str, up: bool| PortRow {
            name: format!("{kind}0"),
            kind: kind.into(),
            up,
            detail: if up { String::new() } else { "the link is down".into() },
            ..PortRow::default()
        };
        let well = StatusReport {
            in_sync: true,
            ports: vec![
                port("host", true),
                port("forward", true),
                port("uplink", false),
                port("uplink", true),
                port("pod", false),
            ],
            workers: vec![WorkerRow { index: 0, silent_ms: 50 }],
            ..StatusReport::default()
        };
        assert_eq!(ills(&well), Vec::<String>::new());
        let mut stuck = well.clone();
        stuck.workers.push(WorkerRow { index: 1, silent_ms: 4200 });
        assert_eq!(ills(&stuck), ["worker 1 has not come round for 4.2 s: it forwards nothing"]);
        let mut dark = well.clone();
        dark.ports.retain(|port| port.kind != "host" && !(port.kind == "uplink" && port.up));
        assert_eq!(
            ills(&dark),
            ["no host port is up (there is none)", "no uplink port is up (uplink0: the link is down)"]
        );
        assert_eq!(ills(&StatusReport::default()), ["its workers do not use the whole state yet"]);
    }
}
