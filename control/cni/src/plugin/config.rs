//! The configuration of a network, as a runtime passes it on stdin: Calico's fields, and three of ours.
//!
//! Fields that nobody here knows are left out. One that makes no sense is refused by its name, as is one that asks for something that
//! cannot be had: a network that is configured otherwise than it works is worse than none.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use caracal_datastore::ApiGroup;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::env::is_identifier;
use super::result::{CniResult, Dns};
use super::version::{UnknownVersion, Version};
use crate::{DEFAULT_BPF_DIR, DEFAULT_MTU_FILE, DEFAULT_NODENAME_FILE, node_socket};

/// The types under which `caracal-ipam` is named in `ipam.type`, where it is this very program.
const OWN_IPAM: [&str; 2] = ["calico-ipam", "caracal-ipam"];
/// What `ipam.subnet` says for the node's own prefix, of either family or of IPv6.
const POD_CIDR: [&str; 2] = ["usePodCidr", "usePodCidrIPv6"];

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is no JSON.
    #[error("the network configuration on stdin is not JSON: {0}")]
    NotJson(serde_json::Error),
    /// It is of a version that is not spoken.
    #[error(transparent)]
    Version(#[from] UnknownVersion),
    /// A field makes no sense.
    #[error("{field}: {why}")]
    Field {
        /// Which, as `ipam.type`.
        field: String,
        /// What it must be.
        why: String,
    },
}

impl ConfigError {
    pub(super) fn field(field: &str, why: impl Into<String>) -> Self {
        Self::Field { field: field.to_owned(), why: why.into() }
    }
}

/// A network's configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// In whose form it is, and its results are to be.
    pub version: Version,
    /// The network's name.
    pub name: String,
    /// Whose node this is.
    pub node: NodeName,
    /// How to reach the API server; `None`: as the pod that this process is in, or what [`Self::api_root`] says.
    pub kubeconfig: Option<PathBuf>,
    /// Where the API server is, whatever the kubeconfig says.
    pub api_root: Option<String>,
    /// Which group serves Calico's kinds; `None`: what the server has.
    pub api_group: Option<ApiGroup>,
    /// Where addresses come from.
    pub ipam: Ipam,
    /// The pods' largest packet; `None`: the file says.
    pub mtu: Option<u32>,
    /// The file that says it.
    pub mtu_file: PathBuf,
    /// Whether there must be one.
    pub require_mtu_file: bool,
    /// Whether pods may forward.
    pub allow_ip_forwarding: bool,
    /// Whether pods get their default routes though the IPAM plugin gives routes.
    pub include_default_routes: bool,
    /// Whether `ipAddrsNoIpam` counts.
    pub ip_addrs_no_ipam: bool,
    /// Where to log.
    pub log: Log,
    /// What must answer before a pod is attached.
    pub readiness_gates: Vec<String>,
    /// How long a pod's policy may take to be in force.
    pub policy_timeout: Duration,
    /// What is held while addresses are given.
    pub ipam_lock: PathBuf,
    /// The agent's socket.
    pub node_socket: PathBuf,
    /// Where pod programs are pinned.
    pub bpf_dir: PathBuf,
    /// Passed through to the result.
    pub dns: Dns,
    /// The result of the plugin before, or at CHECK and DEL of the attachment's ADD.
    pub prev_result: Option<CniResult>,
    /// At GC: what is attached.
    pub valid: Option<Vec<ValidAttachment>>,
    /// All of it, for an IPAM plugin that is called.
    pub whole: Value,
}

/// How a node's name is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeName {
    /// It is said.
    pub explicit: Option<String>,
    /// The file that says it.
    pub file: PathBuf,
    /// Whether there may be none.
    pub file_optional: bool,
    /// What it is then; `None`: the host's name.
    pub hostname: Option<String>,
}

/// Where addresses come from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ipam {
    /// The plugin.
    pub kind: String,
    /// Whether a pod that does not say gets an IPv4 address.
    pub assign_ipv4: bool,
    /// Whether it gets an IPv6 address.
    pub assign_ipv6: bool,
    /// The pools of a pod that names none, by name or CIDR.
    pub ipv4_pools: Vec<String>,
    /// The same for IPv6.
    pub ipv6_pools: Vec<String>,
}

impl Ipam {
    /// Whether the plugin is this program.
    #[must_use]
    pub fn is_own(&self) -> bool {
        OWN_IPAM.contains(&self.kind.as_str())
    }
}

/// Where to log, and how much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// `None`: nowhere.
    pub file: Option<PathBuf>,
    /// From which severity on.
    pub level: tracing::Level,
    /// How large the file may become before it is put aside, MiB.
    pub size_max_mib: u64,
    /// How many that were put aside are kept.
    pub count: u32,
    /// For how long, days.
    pub age_days: u64,
}

/// An attachment that there is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
pub struct ValidAttachment {
    /// The container.
    #[serde(rename = "containerID")]
    pub container: String,
    /// Its interface.
    #[serde(rename = "ifname", default)]
    pub interface: String,
}

/// The fields as they are written. What is read and has no use is there so that its type is checked.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Written {
    #[serde(rename = "cniVersion")]
    cni_version: Option<String>,
    name: String,
    nodename: String,
    nodename_file: String,
    nodename_file_optional: bool,
    hostname: String,
    datastore_type: String,
    kubernetes: Kubernetes,
    policy: Policy,
    ipam: WrittenIpam,
    mtu: u32,
    mtu_file: String,
    require_mtu_file: bool,
    num_queues: i64,
    device_type: String,
    container_settings: ContainerSettings,
    include_default_routes: bool,
    feature_control: FeatureControl,
    log_level: String,
    log_file_path: String,
    log_file_max_size: u64,
    log_file_max_age: u64,
    log_file_max_count: u32,
    readiness_gates: Vec<String>,
    policy_setup_timeout_seconds: u64,
    #[allow(
        dead_code,
        reason = "the node socket tells what the files in this folder told; its type is checked"
    )]
    endpoint_status_dir: String,
    ipam_lock_file: String,
    dataplane_options: BTreeMap<String, Value>,
    calico_api_group: String,
    node_socket: String,
    bpf_dir: String,
    dns: Dns,
    #[serde(rename = "prevResult")]
    prev_result: Option<Value>,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid: Option<Vec<ValidAttachment>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Kubernetes {
    kubeconfig: String,
    k8s_api_root: String,
    node_name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Policy {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ContainerSettings {
    allow_ip_forwarding: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FeatureControl {
    ip_addrs_no_ipam: bool,
    floating_ips: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WrittenIpam {
    #[serde(rename = "type")]
    kind: String,
    #[serde(deserialize_with = "switch")]
    assign_ipv4: Option<bool>,
    #[serde(deserialize_with = "switch")]
    assign_ipv6: Option<bool>,
    ipv4_pools: Vec<String>,
    ipv6_pools: Vec<String>,
}

/// `"true"` and `"false"`, as Calico writes these two, or `true` and `false`.
fn switch<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Text(String),
        Bool(bool),
        None(()),
    }
    match Either::deserialize(deserializer)
        .map_err(|_| serde::de::Error::custom("must be \"true\" or \"false\""))?
    {
        Either::Bool(value) => Ok(Some(value)),
        Either::None(()) => Ok(None),
        Either::Text(text) => match text.as_str() {
            "" => Ok(None),
            "true" => Ok(Some(true)),
            "false" => Ok(Some(false)),
            _ => Err(serde::de::Error::custom(format!("must be \"true\" or \"false\", not {text:?}"))),
        },
    }
}

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// It is no JSON, of a version that is not spoken, or a field of it makes no sense.
    pub fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        let whole: Value = serde_json::from_slice(text).map_err(ConfigError::NotJson)?;
        let version = version_of(&whole)?;
        let written: Written = serde_path_to_error::deserialize(&whole).map_err(|error| {
            let (field, error) = (error.path().to_string(), error.into_inner());
            ConfigError::Field { field, why: error.to_string() }
        })?;
        written.check()?;
        let prev_result = match &written.prev_result {
            Some(value) => Some(prev_result(value, version)?),
            None => None,
        };
        let (ipam, log) = (written.ipam(), written.log()?);
        let or = |text: &str, default: &str| PathBuf::from(if text.is_empty() { default } else { text });
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Ok(Self {
            version,
            node: NodeName {
                explicit: some(&written.nodename).or_else(|| some(&written.kubernetes.node_name)),
                file: or(&written.nodename_file, DEFAULT_NODENAME_FILE),
                file_optional: written.nodename_file_optional,
                hostname: some(&written.hostname),
            },
            kubeconfig: some(&written.kubernetes.kubeconfig).map(PathBuf::from),
            api_root: some(&written.kubernetes.k8s_api_root),
            api_group: written.calico_api_group.parse().ok(),
            ipam,
            mtu: (written.mtu > 0).then_some(written.mtu),
            mtu_file: or(&written.mtu_file, DEFAULT_MTU_FILE),
            require_mtu_file: written.require_mtu_file,
            allow_ip_forwarding: written.container_settings.allow_ip_forwarding,
            include_default_routes: written.include_default_routes,
            ip_addrs_no_ipam: written.feature_control.ip_addrs_no_ipam,
            log,
            readiness_gates: written.readiness_gates,
            policy_timeout: Duration::from_secs(match written.policy_setup_timeout_seconds {
                0 => 30,
                seconds => seconds,
            }),
            ipam_lock: or(&written.ipam_lock_file, "/var/run/calico/ipam.lock"),
            node_socket: or(&written.node_socket, node_socket::DEFAULT_PATH),
            bpf_dir: or(&written.bpf_dir, DEFAULT_BPF_DIR),
            dns: written.dns,
            prev_result,
            valid: written.valid,
            name: written.name,
            whole,
        })
    }

    /// The name by which the addresses of a container are released.
    #[must_use]
    pub fn handle(&self, container: &str) -> String {
        format!("{}.{container}", self.name)
    }

    /// The fields in which the IPAM plugin is to find the node's own prefix, as JSON pointers, and whether each asks for IPv6 alone.
    #[must_use]
    pub fn wants_pod_cidr(&self) -> Vec<(String, bool)> {
        let mut found = Vec::new();
        if let Some(ipam) = self.whole.get("ipam") {
            pod_cidrs(ipam, "/ipam", &mut found);
        }
        found
    }
}

/// The version alone, so that a configuration of one that is not spoken is refused for that, whatever else is in it.
fn version_of(whole: &Value) -> Result<Version, ConfigError> {
    if !whole.is_object() {
        return Err(ConfigError::field(".", "must be an object"));
    }
    match whole.get("cniVersion") {
        None => Ok(Version::V0_1_0),
        Some(Value::String(text)) => Ok(Version::parse(text)?),
        Some(_) => Err(ConfigError::field("cniVersion", "must be a text, like \"1.0.0\"")),
    }
}

/// A result says of which version it is; one that does not is of the configuration's.
fn prev_result(value: &Value, version: Version) -> Result<CniResult, ConfigError> {
    let said = match value.get("cniVersion").and_then(Value::as_str) {
        Some(text) => Version::parse(text)?,
        None => version,
    };
    let bad = |error: super::result::BadResult| ConfigError::field("prevResult", error.to_string());
    CniResult::from_value(value, said).map_err(bad)
}

fn pod_cidrs(value: &Value, at: &str, found: &mut Vec<(String, bool)>) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                match inner {
                    Value::String(text) if key == "subnet" && POD_CIDR.contains(&text.as_str()) => {
                        found.push((format!("{at}/subnet"), text == POD_CIDR[1]));
                    }
                    // Other keys cannot be told apart in a pointer, and lead nowhere that counts.
                    _ if !key.contains(['/', '~']) => pod_cidrs(inner, &format!("{at}/{key}"), found),
                    _ => {}
                }
            }
        }
        Value::Array(items) => {
            for (i, inner) in items.iter().enumerate() {
                pod_cidrs(inner, &format!("{at}/{i}"), found);
            }
        }
        _ => {}
    }
}

impl Written {
    /// What can be read, and yet not be used.
    fn check(&self) -> Result<(), ConfigError> {
        let check = |good: bool, field: &str, why: &str| {
            if good { Ok(()) } else { Err(ConfigError::field(field, why)) }
        };
        check(
            is_identifier(&self.name),
            "name",
            "must begin with a letter or digit, and consist of letters, digits, '_', '.' and '-'",
        )?;
        check(
            matches!(self.datastore_type.as_str(), "" | "kubernetes"),
            "datastore_type",
            "must be \"kubernetes\": everything is kept in the Kubernetes API, there is no etcd datastore",
        )?;
        check(matches!(self.policy.kind.as_str(), "" | "k8s"), "policy.type", "must be \"k8s\"")?;
        check(
            matches!(self.device_type.as_str(), "" | "veth"),
            "device_type",
            "must be \"veth\": the data plane reads pods' veths",
        )?;
        check(self.num_queues >= 0, "num_queues", "must not be negative; it is taken as 1 whatever it is")?;
        check(
            self.mtu == 0 || (68..=65_535).contains(&self.mtu),
            "mtu",
            "must be from 68 to 65535, or 0 for what the agent finds",
        )?;
        check(
            !self.feature_control.floating_ips,
            "feature_control.floating_ips",
            "floating addresses are not supported: set it to false",
        )?;
        check(
            self.dataplane_options.is_empty(),
            "dataplane_options",
            "networking cannot be handed to another data plane: remove it",
        )?;
        check(
            self.calico_api_group.is_empty() || self.calico_api_group.parse::<ApiGroup>().is_ok(),
            "calico_api_group",
            "must be \"projectcalico.org/v3\" or \"crd.projectcalico.org/v1\"",
        )?;
        for gate in &self.readiness_gates {
            check(
                super::gates::Gate::parse(gate).is_some(),
                "readiness_gates",
                "must be URLs that begin with http:// and name a host",
            )?;
        }
        for (field, pools) in
            [("ipam.ipv4_pools", &self.ipam.ipv4_pools), ("ipam.ipv6_pools", &self.ipam.ipv6_pools)]
        {
            check(pools.iter().all(|pool| !pool.is_empty()), field, "must be names or CIDRs of pools")?;
        }
        let file = |path: &str| !path.is_empty() && !Path::new(path).is_absolute();
        for (field, path) in [
            ("kubernetes.kubeconfig", &self.kubernetes.kubeconfig),
            ("nodename_file", &self.nodename_file),
            ("mtu_file", &self.mtu_file),
            ("log_file_path", &self.log_file_path),
            ("ipam_lock_file", &self.ipam_lock_file),
            ("node_socket", &self.node_socket),
            ("bpf_dir", &self.bpf_dir),
        ] {
            check(!file(path), field, "must be an absolute path")?;
        }
        check(
            !self.ipam.kind.contains('/') && self.ipam.kind != ".." && self.ipam.kind != ".",
            "ipam.type",
            "must be the name of a plugin in CNI_PATH",
        )
    }

    fn ipam(&self) -> Ipam {
        Ipam {
            kind: self.ipam.kind.clone(),
            assign_ipv4: self.ipam.assign_ipv4.unwrap_or(true),
            assign_ipv6: self.ipam.assign_ipv6.unwrap_or(false),
            ipv4_pools: self.ipam.ipv4_pools.clone(),
            ipv6_pools: self.ipam.ipv6_pools.clone(),
        }
    }

    fn log(&self) -> Result<Log, ConfigError> {
        use tracing::Level;
        let level = match self.log_level.to_ascii_lowercase().as_str() {
            "debug" => Level::DEBUG,
            "" | "info" => Level::INFO,
            "warn" | "warning" => Level::WARN,
            "error" | "fatal" | "panic" => Level::ERROR,
            "trace" => Level::TRACE,
            other => {
                let why = format!("must be debug, info, warning, error or fatal, not {other:?}");
                return Err(ConfigError::field("log_level", why));
            }
        };
        let or = |value: u64, default: u64| if value == 0 { default } else { value };
        Ok(Log {
            file: (!self.log_file_path.is_empty()).then(|| PathBuf::from(&self.log_file_path)),
            level,
            size_max_mib: or(self.log_file_max_size, 100),
            count: if self.log_file_max_count == 0 { 10 } else { self.log_file_max_count },
            age_days: or(self.log_file_max_age, 30),
        })
    }
}

#[cfg(test)]
mod tests;
