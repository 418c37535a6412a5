//! Other IPAM plugins: found in `CNI_PATH`, executed with our environment and configuration, as the specification says.

use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use caracal_model::cidr::Cidr;
use caracal_model::object::{Kind, Object};
use serde_json::Value;

use super::config::{Config, ConfigError};
use super::env::{Variables, plugin_path};
use super::error::PluginError;
use super::result::CniResult;
use super::session::Way;

/// Has the network's IPAM plugin do what we were asked for.
///
/// # Errors
/// There is no such plugin, or it fails.
pub fn execute(config: &Config, whole: &Value, variables: &Variables) -> Result<CniResult, PluginError> {
    let plugin = &config.ipam.kind;
    let folders = plugin_path(variables);
    let program = folders.iter().map(|folder| folder.join(plugin)).find(|file| file.is_file());
    let program = program.ok_or_else(|| {
        let looked: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
        ConfigError::field(
            "ipam.type",
            format!("there is no plugin {plugin} in CNI_PATH ({})", looked.join(":")),
        )
    })?;
    let doing = || PluginError::io(format!("execute {}", program.display()));
    let mut child = Command::new(&program)
        .env_clear()
        .envs(variables)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(doing())?;
    if let Some(mut stdin) = child.stdin.take() {
        // Who does not read it all says why on stdout, or dies.
        let _ = stdin.write_all(whole.to_string().as_bytes());
    }
    let output = child.wait_with_output().map_err(doing())?;
    let answer: Option<Value> = serde_json::from_slice(&output.stdout).ok();
    if output.status.success() {
        // Only ADD has an answer.
        let Some(answer) = answer else { return Ok(CniResult::default()) };
        let said = answer.get("cniVersion").and_then(Value::as_str).map(super::version::Version::parse);
        let version = said.transpose()?.unwrap_or(config.version);
        return CniResult::from_value(&answer, version).map_err(|error| PluginError::Delegate {
            plugin: plugin.clone(),
            code: 6,
            error: format!("its answer makes no sense: {error}"),
            details: String::new(),
        });
    }
    let text = |field: &str| answer.as_ref()?.get(field)?.as_str().map(str::to_owned);
    let code = answer.as_ref().and_then(|answer| answer.get("code")?.as_u64());
    Err(PluginError::Delegate {
        plugin: plugin.clone(),
        code: code.and_then(|code| u32::try_from(code).ok()).unwrap_or(100),
        error: text("msg").unwrap_or_else(|| {
            let said = String::from_utf8_lossy(&output.stdout);
            format!("{}: {}", output.status, said.trim().chars().take(300).collect::<String>())
        }),
        details: text("details").unwrap_or_default(),
    })
}

/// The configuration that the IPAM plugin gets: ours, with the node's own prefixes where `usePodCidr` asks for them.
///
/// # Errors
/// The node has none of that family, or the API server could not be asked.
pub async fn configuration(config: &Config, way: &Way<'_>, node: &str) -> Result<Value, PluginError> {
    let mut whole = config.whole.clone();
    let wanted = config.wants_pod_cidr();
    if wanted.is_empty() {
        return Ok(whole);
    }
    let Object::Node(object) = way.datastore().await?.get(Kind::Node, None, node).await? else {
        return Ok(whole);
    };
    let spec = object.spec.unwrap_or_default();
    let mut cidrs = spec.pod_cidrs.unwrap_or_default();
    cidrs.extend(spec.pod_cidr);
    let cidrs: Vec<Cidr> = cidrs.iter().filter_map(|cidr| cidr.parse().ok()).collect();
    for (pointer, ipv6) in wanted {
        // Calico takes the first one, of whichever family, unless IPv6 is asked for.
        let found = cidrs.iter().find(|cidr| !ipv6 || !cidr.is_ipv4());
        let found = found.ok_or_else(|| {
            let family = if ipv6 { " of IPv6" } else { "" };
            PluginError::NotReady(format!(
                "node {node} has no podCIDR{family} yet (spec.podCIDRs), which ipam.subnet asks for"
            ))
        })?;
        if let Some(subnet) = whole.pointer_mut(&pointer) {
            *subnet = found.to_string().into();
        }
    }
    Ok(whole)
}

/// The configuration that another plugin can take back what it gave with: where the node's own prefix cannot be read any more, any other
/// stands in its place, because a plugin that releases looks for the container alone.
#[must_use]
pub fn configuration_for_del(config: &Config) -> Value {
    let mut whole = config.whole.clone();
    for (pointer, ipv6) in config.wants_pod_cidr() {
        if let Some(subnet) = whole.pointer_mut(&pointer) {
            *subnet = if ipv6 { "::/0" } else { "0.0.0.0/0" }.into();
        }
    }
    whole
}

/// What a delegated plugin gave: addresses, and its routes, all by the pod's gateway.
#[must_use]
pub fn given(result: &CniResult) -> (Vec<IpAddr>, Vec<Cidr>) {
    let routes = result.routes.iter().filter_map(|route| route.dst.parse().ok());
    (result.addresses(), routes.collect())
}
