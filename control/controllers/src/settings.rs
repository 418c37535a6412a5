//! What the controllers are told: the KubeControllersConfiguration `default`, and the environment, which goes before it.
//!
//! What is told of one thing in both places is the environment's; what in neither has Calico's default. What came out is
//! published in the object's status, so that people see it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use caracal_model::calico::{
    AutoHostEndpointConfig, ControllersConfig, HostEndpointTemplate, KubeControllersConfigurationSpec,
    LoadBalancerControllerConfig, NodeControllerConfig,
};
use caracal_model::{duration, switch};
use serde_json::{Value, json};

/// The environment variables that are read.
pub const VARIABLES: &[&str] = &[
    "LOG_LEVEL",
    "RECONCILER_PERIOD",
    "ENABLED_CONTROLLERS",
    "COMPACTION_PERIOD",
    "HEALTH_ENABLED",
    "SYNC_NODE_LABELS",
    "AUTO_HOST_ENDPOINTS",
];
/// Controllers that may be named, and that this datastore needs none of.
const OF_OTHER_DATASTORES: &[&str] =
    &["policy", "namespace", "serviceaccount", "workloadendpoint", "flannelmigration", "migration"];
const ENABLED: &str = "Enabled";
const DISABLED: &str = "Disabled";

/// A variable of the environment says what it cannot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the environment variable {variable} is {value:?}, and must be {expected}")]
pub struct EnvironmentError {
    /// Which.
    pub variable: &'static str,
    /// What it says.
    pub value: String,
    /// What it may say.
    pub expected: &'static str,
}

/// What the environment says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// As it was written, for the status.
    written: BTreeMap<&'static str, String>,
    log_level: Option<String>,
    reconciler_period: Option<String>,
    enabled: Option<BTreeSet<String>>,
    compaction_period: Option<String>,
    health: Option<bool>,
    sync_labels: Option<bool>,
    auto_host_endpoints: Option<bool>,
}

impl Overrides {
    /// Reads the variables; `get` is the environment. An empty one is as none.
    ///
    /// # Errors
    /// [`EnvironmentError`]
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self, EnvironmentError> {
        let mut all = Self::default();
        for &variable in VARIABLES {
            let Some(value) = get(variable).filter(|value| !value.is_empty()) else { continue };
            let wrong = |expected| EnvironmentError { variable, value: value.clone(), expected };
            let period = || match duration::parse(&value) {
                Some(_) => Ok(Some(value.clone())),
                None => Err(wrong("a duration such as 5m")),
            };
            let switch = || match switch::parse(&value) {
                None => Err(wrong("true or false")),
                said => Ok(said),
            };
            match variable {
                "LOG_LEVEL" => all.log_level = Some(severity(&value).ok_or_else(|| wrong(SEVERITIES))?),
                "RECONCILER_PERIOD" => all.reconciler_period = period()?,
                "COMPACTION_PERIOD" => all.compaction_period = period()?,
                "HEALTH_ENABLED" => all.health = switch()?,
                "SYNC_NODE_LABELS" => all.sync_labels = switch()?,
                "AUTO_HOST_ENDPOINTS" => all.auto_host_endpoints = switch()?,
                _ => {
                    let names = value.split(',').map(|name| name.trim().to_ascii_lowercase());
                    let names: BTreeSet<String> = names.filter(|name| !name.is_empty()).collect();
                    let known = |name: &String| {
                        name == "node"
                            || name == "loadbalancer"
                            || OF_OTHER_DATASTORES.contains(&name.as_str())
                    };
                    if !names.iter().all(known) {
                        return Err(wrong("a list of controllers: node, loadbalancer"));
                    }
                    all.enabled = Some(names);
                }
            }
            all.written.insert(variable, value);
        }
        Ok(all)
    }
}

const SEVERITIES: &str = "one of none, debug, info, warning, error, fatal, panic";

/// A severity as the configuration writes it.
fn severity(text: &str) -> Option<String> {
    let all = ["None", "Debug", "Info", "Warning", "Error", "Fatal", "Panic"];
    all.iter().find(|name| name.eq_ignore_ascii_case(text)).map(|name| (*name).to_owned())
}

/// What the controllers are to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Of what is logged.
    pub log_severity: String,
    /// Whether health is told.
    pub health_checks: bool,
    /// Where metrics are told; 0: nowhere.
    pub metrics_port: u16,
    /// What is done for nodes; none: nothing.
    pub node: Option<NodeSettings>,
    /// What is done for services; none: nothing.
    pub load_balancer: Option<LoadBalancerSettings>,
    /// What is published of it.
    published: Value,
}

/// What is done for nodes.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeSettings {
    /// How often everything is compared.
    pub period: Duration,
    /// For how long an address that nobody seems to have is left; zero: for ever, while its node is there.
    pub leak_grace_period: Duration,
    /// Whether host endpoints are made.
    pub auto_create: bool,
    /// Whether one is made for all interfaces of each node.
    pub create_default: bool,
    /// Which others are.
    pub templates: Vec<HostEndpointTemplate>,
}

/// What is done for services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadBalancerSettings {
    /// Whether services get addresses that do not ask for any.
    pub all_services: bool,
}

/// What Calico takes where nobody says.
const PERIOD: &str = "5m";
const GRACE: &str = "15m";
const COMPACTION: &str = "10m";
const METRICS_PORT: u16 = 9094;

/// What a KubeControllersConfiguration says that nobody has written.
#[must_use]
pub fn default_configuration() -> KubeControllersConfigurationSpec {
    KubeControllersConfigurationSpec {
        log_severity_screen: Some("Info".to_owned()),
        health_checks: Some(ENABLED.to_owned()),
        etcd_v3_compaction_period: Some(COMPACTION.to_owned()),
        prometheus_metrics_port: Some(METRICS_PORT.into()),
        controllers: Some(ControllersConfig {
            node: Some(NodeControllerConfig {
                reconciler_period: Some(PERIOD.to_owned()),
                sync_labels: Some(ENABLED.to_owned()),
                leak_grace_period: Some(GRACE.to_owned()),
                host_endpoint: Some(AutoHostEndpointConfig {
                    auto_create: Some(DISABLED.to_owned()),
                    create_default_host_endpoint: Some(ENABLED.to_owned()),
                    templates: None,
                }),
            }),
            load_balancer: Some(LoadBalancerControllerConfig { assign_ips: Some("AllServices".to_owned()) }),
            ..ControllersConfig::default()
        }),
        ..KubeControllersConfigurationSpec::default()
    }
}

impl Settings {
    /// What comes out of the configuration and the environment.
    #[must_use]
    pub fn new(configuration: Option<&KubeControllersConfigurationSpec>, overrides: &Overrides) -> Self {
        let mut running = configuration.cloned().unwrap_or_else(default_configuration);
        fill(&mut running.log_severity_screen, "Info");
        fill(&mut running.health_checks, ENABLED);
        fill(&mut running.etcd_v3_compaction_period, COMPACTION);
        running.prometheus_metrics_port.get_or_insert(METRICS_PORT.into());
        if let Some(level) = &overrides.log_level {
            running.log_severity_screen = Some(level.clone());
        }
        if let Some(period) = &overrides.compaction_period {
            running.etcd_v3_compaction_period = Some(period.clone());
        }
        if let Some(health) = overrides.health {
            running.health_checks = Some(switch(health));
        }
        let controllers = running.controllers.get_or_insert_default();
        if let Some(enabled) = &overrides.enabled {
            let is = |name: &str| enabled.contains(name);
            controllers.node = is("node").then(|| controllers.node.take().unwrap_or_default());
            let load_balancer = controllers.load_balancer.take().unwrap_or_default();
            controllers.load_balancer = is("loadbalancer").then_some(load_balancer);
        }
        // Of no use where Kubernetes keeps the objects.
        (controllers.policy, controllers.namespace) = (None, None);
        (controllers.service_account, controllers.workload_endpoint) = (None, None);
        let node = controllers.node.as_mut().map(|node| node_settings(node, overrides));
        let load_balancer = controllers.load_balancer.as_mut().map(|load_balancer| {
            fill(&mut load_balancer.assign_ips, "AllServices");
            LoadBalancerSettings {
                all_services: load_balancer.assign_ips.as_deref() != Some("RequestedServicesOnly"),
            }
        });
        Self {
            log_severity: running.log_severity_screen.clone().unwrap_or_default(),
            health_checks: running.health_checks.as_deref() != Some(DISABLED),
            metrics_port: running
                .prometheus_metrics_port
                .and_then(|port| u16::try_from(port).ok())
                .unwrap_or(0),
            node,
            load_balancer,
            published: json!({ "runningConfig": running, "environmentVars": overrides.written }),
        }
    }

    /// The status that says what the controllers do.
    #[must_use]
    pub fn status(&self) -> &Value {
        &self.published
    }
}

fn node_settings(node: &mut NodeControllerConfig, overrides: &Overrides) -> NodeSettings {
    fill(&mut node.reconciler_period, PERIOD);
    fill(&mut node.sync_labels, ENABLED);
    fill(&mut node.leak_grace_period, GRACE);
    if let Some(period) = &overrides.reconciler_period {
        node.reconciler_period = Some(period.clone());
    }
    if let Some(sync) = overrides.sync_labels {
        node.sync_labels = Some(switch(sync));
    }
    let endpoints = node.host_endpoint.get_or_insert_default();
    fill(&mut endpoints.auto_create, DISABLED);
    fill(&mut endpoints.create_default_host_endpoint, ENABLED);
    if let Some(create) = overrides.auto_host_endpoints {
        endpoints.auto_create = Some(switch(create));
    }
    // What cannot be read was refused when it was written; a cluster that does not refuse it has the default.
    let period = |text: &Option<String>, usual: &str| {
        let written = text.as_deref().and_then(duration::parse);
        written.or_else(|| duration::parse(usual)).unwrap_or_default()
    };
    NodeSettings {
        period: period(&node.reconciler_period, PERIOD),
        leak_grace_period: period(&node.leak_grace_period, GRACE),
        auto_create: endpoints.auto_create.as_deref() == Some(ENABLED),
        create_default: endpoints.create_default_host_endpoint.as_deref() != Some(DISABLED),
        templates: endpoints.templates.clone().unwrap_or_default(),
    }
}

fn fill(field: &mut Option<String>, value: &str) {
    if field.as_deref().is_none_or(str::is_empty) {
        *field = Some(value.to_owned());
    }
}

fn switch(on: bool) -> String {
    if on { ENABLED } else { DISABLED }.to_owned()
}

#[cfg(test)]
mod tests;
