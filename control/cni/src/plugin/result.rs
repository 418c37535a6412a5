//! What an attachment has got, in the form of each version of the specification.
//!
//! ```text
//!   0.1.0, 0.2.0    {"ip4": {"ip": "10.0.0.1/32", "gateway": …, "routes": […]}, "ip6": {…}, "dns": {…}}
//!   0.3.0 – 0.4.0   {"interfaces": […], "ips": [{"version": "4", "interface": 1, "address": …}], "routes": […], "dns": {…}}
//!   1.0.0, 1.1.0    the same without "version"; interfaces with "mtu"
//! ```

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::version::Version;

/// An attachment, or, of an IPAM plugin, what it is to have.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CniResult {
    /// The interfaces made, the host's first. None: an IPAM plugin's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface>,
    /// Its addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<Ip>,
    /// Its routes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Passed through.
    pub dns: Dns,
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its MAC address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Its largest packet; since 1.0.0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The network namespace it is in; empty: the host's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
}

/// An address.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Ip {
    /// `4` or `6`; until 1.0.0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Which of the interfaces has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
    /// The address and its prefix length.
    pub address: String,
    /// The gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
}

impl Ip {
    /// The address alone; `None` if it is none.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.address.split('/').next()?.parse().ok()
    }
}

/// A route. What later versions add (`mtu`, `priority`, …) is passed through.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Route {
    /// To where.
    pub dst: String,
    /// By whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gw: Option<String>,
    /// The rest.
    #[serde(flatten)]
    pub other: serde_json::Map<String, Value>,
}

/// What a resolver is to ask.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Servers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Where short names are looked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Options.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// What 0.1.0 and 0.2.0 had: one address of a family.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
struct OldAddress {
    ip: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<Route>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
struct OldResult {
    #[serde(skip_serializing_if = "Option::is_none")]
    ip4: Option<OldAddress>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip6: Option<OldAddress>,
    dns: Dns,
}

/// A result that is none.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {why}")]
pub struct BadResult {
    path: String,
    why: serde_json::Error,
}

impl CniResult {
    /// The result as a version has it. A version that knows one address a family gets the first of each.
    #[must_use]
    pub fn to_value(&self, version: Version) -> Value {
        let mut value = match version {
            Version::V0_1_0 | Version::V0_2_0 => to_value(&self.old()),
            _ => to_value(&self.of(version)),
        };
        if let Some(map) = value.as_object_mut() {
            map.insert("cniVersion".into(), version.as_str().into());
        }
        value
    }

    /// Reads a result of a version.
    ///
    /// # Errors
    /// It is none.
    pub fn from_value(value: &Value, version: Version) -> Result<Self, BadResult> {
        let bad = |error: serde_path_to_error::Error<serde_json::Error>| BadResult {
            path: error.path().to_string(),
            why: error.into_inner(),
        };
        match version {
            Version::V0_1_0 | Version::V0_2_0 => {
                let old: OldResult = serde_path_to_error::deserialize(value).map_err(bad)?;
                let mut result = Self { dns: old.dns, ..Self::default() };
                for address in [old.ip4, old.ip6].into_iter().flatten() {
                    result.ips.push(Ip { address: address.ip, gateway: address.gateway, ..Ip::default() });
                    result.routes.extend(address.routes);
                }
                Ok(result)
            }
            _ => {
                let mut result: Self = serde_path_to_error::deserialize(value).map_err(bad)?;
                result.ips.iter_mut().for_each(|ip| ip.version = None);
                Ok(result)
            }
        }
    }

    fn of(&self, version: Version) -> Self {
        let mut result = self.clone();
        if version < Version::V1_0_0 {
            result.interfaces.iter_mut().for_each(|interface| interface.mtu = None);
            for ip in &mut result.ips {
                ip.version = Some(if is_ipv4(&ip.address) { "4" } else { "6" }.into());
            }
        }
        if version < Version::V1_1_0 {
            result.routes.iter_mut().for_each(|route| route.other.clear());
        }
        result
    }

    fn old(&self) -> OldResult {
        let of_family = |ipv4: bool| {
            let first = self.ips.iter().find(|ip| is_ipv4(&ip.address) == ipv4)?;
            let routes = self.routes.iter().filter(|route| is_ipv4(&route.dst) == ipv4);
            let routes = routes.map(|route| Route { other: serde_json::Map::new(), ..route.clone() });
            Some(OldAddress {
                ip: first.address.clone(),
                gateway: first.gateway.clone(),
                routes: routes.collect(),
            })
        };
        OldResult { ip4: of_family(true), ip6: of_family(false), dns: self.dns.clone() }
    }

    /// The addresses alone.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.ips.iter().filter_map(Ip::ip).collect()
    }
}

fn is_ipv4(text: &str) -> bool {
    !text.contains(':')
}

/// These types have nothing that JSON does not: text keys, finite numbers.
fn to_value<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or_else(|_| json!({}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dual_stack() -> CniResult {
        CniResult {
            interfaces: vec![
                Interface { name: "cali7f94ce7c295".into(), ..Interface::default() },
                Interface {
                    name: "eth0".into(),
                    mac: "5e:11:00:00:00:01".into(),
                    mtu: Some(1450),
                    sandbox: "/var/run/netns/x".into(),
                },
            ],
            ips: ["10.244.1.1/32", "fd00::1/128"]
                .map(|address| Ip { address: address.into(), interface: Some(1), ..Ip::default() })
                .into(),
            routes: ["10.244.1.1/32", "fd00::1/128"]
                .map(|dst| Route { dst: dst.into(), ..Route::default() })
                .into(),
            dns: Dns::default(),
        }
    }

    #[test]
    fn each_version_has_its_own_form() {
        let result = dual_stack();
        let host = json!({"name": "cali7f94ce7c295"});
        let old = json!({"cniVersion": "0.2.0", "dns": {},
            "ip4": {"ip": "10.244.1.1/32", "routes": [{"dst": "10.244.1.1/32"}]},
            "ip6": {"ip": "fd00::1/128", "routes": [{"dst": "fd00::1/128"}]}});
        assert_eq!(result.to_value(Version::V0_2_0), old);
        let pod = json!({"name": "eth0", "mac": "5e:11:00:00:00:01", "sandbox": "/var/run/netns/x"});
        let routes = json!([{"dst": "10.244.1.1/32"}, {"dst": "fd00::1/128"}]);
        for version in [Version::V0_3_0, Version::V0_3_1, Version::V0_4_0] {
            let with_family = json!({"cniVersion": version.as_str(), "dns": {}, "interfaces": [host, pod], "routes": routes,
                "ips": [{"version": "4", "interface": 1, "address": "10.244.1.1/32"},
                        {"version": "6", "interface": 1, "address": "fd00::1/128"}]});
            assert_eq!(result.to_value(version), with_family);
        }
        let mut pod = pod;
        pod["mtu"] = 1450.into();
        for version in [Version::V1_0_0, Version::V1_1_0] {
            let without = json!({"cniVersion": version.as_str(), "dns": {}, "interfaces": [host, pod], "routes": routes,
                "ips": [{"interface": 1, "address": "10.244.1.1/32"}, {"interface": 1, "address": "fd00::1/128"}]});
            assert_eq!(result.to_value(version), without);
        }
    }

    #[test]
    fn what_is_written_is_read_again_as_far_as_the_version_can_say_it() {
        for version in Version::ALL {
            let read = CniResult::from_value(&dual_stack().to_value(version), version).unwrap();
            assert_eq!(read.addresses(), dual_stack().addresses(), "{version}");
            assert_eq!(read.routes, dual_stack().routes, "{version}");
            assert_eq!(read.interfaces.len(), if version < Version::V0_3_0 { 0 } else { 2 }, "{version}");
        }
    }

    #[test]
    fn a_result_that_is_none_is_told_by_its_field() {
        let error = CniResult::from_value(&json!({"ips": [{"address": 7}]}), Version::V1_0_0).unwrap_err();
        assert!(error.to_string().starts_with("ips[0].address: "), "{error}");
    }
}
