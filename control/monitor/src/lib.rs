//! How a process of the control plane is watched: is it alive and ready ([`Health`]), what has it counted ([`Exposition`]), what does
//! it log ([`Logs`]). The agent and the controllers use the same.
//!
//! ```text
//!   parts of the process ── reports ──► Health ──► /liveness /readiness ◄── kubelet
//!                        ── counts ───► Exposition ─► /metrics          ◄── Prometheus
//! ```

mod bounded_listener;
mod exposition;
mod health;
mod logs;
mod probe;
mod process;
mod serve;
mod wanted;

pub use exposition::{Exposition, Histogram, Kind, Number};
pub use health::{Concern, Health, Reporter, Row, State};
pub use logs::{LogError, Logs};
pub use probe::{ProbeError, Question, probe};
pub use process::process_metrics;
pub use serve::{health_pages, keep_serving, metrics_page};
pub use wanted::Wanted;
