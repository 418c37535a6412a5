//! What FelixConfigurations say of how the agent is watched.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::duration;

/// How the agent is watched; `None`: the object does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MonitoringSettings {
    /// `logSeverityScreen`.
    pub log_severity: Option<String>,
    /// `healthEnabled`.
    pub health_enabled: Option<bool>,
    /// `healthHost`.
    pub health_host: Option<String>,
    /// `healthPort`.
    pub health_port: Option<u16>,
    /// `healthTimeoutOverrides`: timeouts of reporters, by their names. Entries that cannot be read are left out.
    pub health_timeouts: BTreeMap<String, Duration>,
    /// `prometheusMetricsEnabled`.
    pub metrics_enabled: Option<bool>,
    /// `prometheusMetricsHost`.
    pub metrics_host: Option<String>,
    /// `prometheusMetricsPort`.
    pub metrics_port: Option<u16>,
    /// Whether `prometheusMetricsCertFile`, `…KeyFile`, `…CAFile` or `…ClientAuth` ask for TLS.
    pub metrics_want_tls: bool,
    /// `prometheusProcessMetricsEnabled`.
    pub process_metrics: Option<bool>,
}

impl MonitoringSettings {
    pub(super) fn read<'a>(given: impl Fn(&str) -> Option<&'a Value>) -> Self {
        let text = |field: &str| given(field).and_then(Value::as_str).filter(|text| !text.is_empty());
        let flag = |field: &str| given(field).and_then(Value::as_bool);
        let port =
            |field: &str| given(field).and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
        let timeout = |entry: &Value| {
            let name = entry.get("name")?.as_str()?.to_owned();
            Some((name, duration::parse(entry.get("timeout")?.as_str()?)?))
        };
        let timeouts = given("healthTimeoutOverrides").and_then(Value::as_array);
        let files = ["prometheusMetricsCertFile", "prometheusMetricsKeyFile", "prometheusMetricsCAFile"];
        let client_auth = text("prometheusMetricsClientAuth").is_some_and(|auth| auth != "NoClientCert");
        Self {
            log_severity: text("logSeverityScreen").map(str::to_owned),
            health_enabled: flag("healthEnabled"),
            health_host: text("healthHost").map(str::to_owned),
            health_port: port("healthPort"),
            health_timeouts: timeouts.into_iter().flatten().filter_map(timeout).collect(),
            metrics_enabled: flag("prometheusMetricsEnabled"),
            metrics_host: text("prometheusMetricsHost").map(str::to_owned),
            metrics_port: port("prometheusMetricsPort"),
            metrics_want_tls: client_auth || files.into_iter().any(|file| text(file).is_some()),
            process_metrics: flag("prometheusProcessMetricsEnabled"),
        }
    }
}
