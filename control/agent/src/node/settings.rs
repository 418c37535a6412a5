//! What the environment asks of a node's start, by the names that Calico's node has for it.

use std::net::IpAddr;

use caracal_model::calico::IPPoolSpec;
use caracal_model::cidr::{Cidr, parse_address_and_length};
use caracal_model::switch;

use super::detect::Method;

/// What is wrong with the environment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// Neither a flag nor a variable nor the operating system says who this is.
    #[error("this node has no name: give --node NAME, or set NODENAME")]
    NoName,
    /// A variable says something that it cannot say.
    #[error("{variable}={value}: {why}")]
    Variable {
        /// The variable.
        variable: &'static str,
        /// What it says.
        value: String,
        /// What is wrong with that.
        why: String,
    },
    /// No address of any family is to be had.
    #[error("IP=none and no IP6: a node needs an address; set one of them to autodetect, or to an address")]
    NoAddress,
    /// Pools are both wanted and not.
    #[error("{0} is set, and so is NO_DEFAULT_POOLS: unset one of them")]
    PoolsAndNone(&'static str),
}

/// Where a node's address of one family comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// From the Node object, where somebody has written it; else from the host's interfaces.
    Keep,
    /// From the host's interfaces, at every start.
    Detect,
    /// From nowhere: what the Node object says is left.
    None,
    /// This one, with the length of its subnet where that was given.
    Address(IpAddr, Option<u8>),
}

/// A family's address.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// Where it comes from.
    pub source: Source,
    /// How it is looked for among the host's.
    pub method: Method,
}

/// How routes between nodes come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// By BGP, which is not part of the agent yet.
    Bird,
    /// By encapsulation alone.
    Vxlan,
    /// By nobody's routing. The data plane needs the node's addresses all the same; it has no number of its own.
    None,
}

/// A pool that is made where its family has none.
#[derive(Debug, Clone, PartialEq)]
pub struct DefaultPool {
    /// Its addresses, where the environment names them.
    pub cidr: Option<Cidr>,
    /// All else.
    pub spec: IPPoolSpec,
}

/// All of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// IPv4.
    pub v4: Family,
    /// IPv6.
    pub v6: Family,
    /// The number of this node's autonomous system, if it has one of its own.
    pub as_number: Option<String>,
    /// Whether another node may have the same address.
    pub check_conflicts: bool,
    /// How routes come about.
    pub backend: Backend,
    /// The default pools, of IPv4 and IPv6; `None`: somebody else makes pools.
    pub pools: Option<[DefaultPool; 2]>,
    /// Words for what the cluster runs on, from `CLUSTER_TYPE`.
    pub cluster_type: String,
}

impl Settings {
    /// Reads them. What is empty counts as not set.
    ///
    /// # Errors
    /// [`SettingsError`], which names the variable.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let get =
            |name: &str| variable(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let family = |ipv4: bool, address: &'static str, method: &'static str| -> Result<_, SettingsError> {
            let source = match get(address) {
                // IPv6 is asked for, IPv4 is a matter of course.
                None if ipv4 => Source::Keep,
                None => Source::None,
                Some(text) => source(&text, ipv4).map_err(|why| wrong(address, text, why))?,
            };
            let method = match get(method) {
                None => Method::FirstFound,
                Some(text) => text.parse().map_err(|why| wrong(method, text, why))?,
            };
            Ok(Family { source, method })
        };
        let (v4, v6) = (
            family(true, "IP", "IP_AUTODETECTION_METHOD")?,
            family(false, "IP6", "IP6_AUTODETECTION_METHOD")?,
        );
        if v4.source == Source::None && v6.source == Source::None {
            return Err(SettingsError::NoAddress);
        }
        let as_number = match get("AS") {
            Some(text) if !is_as_number(&text) => {
                return Err(wrong(
                    "AS",
                    text,
                    "neither a number up to 4294967295 nor two up to 65535 with a dot",
                ));
            }
            given => given,
        };
        let backend = match get("CALICO_NETWORKING_BACKEND").as_deref() {
            None | Some("bird") => Backend::Bird,
            Some("vxlan") => Backend::Vxlan,
            Some("none") => Backend::None,
            Some(other) => {
                return Err(wrong("CALICO_NETWORKING_BACKEND", other, "bird, vxlan or none are known"));
            }
        };
        let v4_pool = pool(&get, &IPV4)?;
        let v6_pool = pool(&get, &IPV6)?;
        let pools = if boolean(&get, "NO_DEFAULT_POOLS")?.unwrap_or(false) {
            let unwanted = [(&v4_pool, IPV4.cidr), (&v6_pool, IPV6.cidr)];
            if let Some((_, variable)) = unwanted.into_iter().find(|(pool, _)| pool.cidr.is_some()) {
                return Err(SettingsError::PoolsAndNone(variable));
            }
            None
        } else {
            Some([v4_pool, v6_pool])
        };
        Ok(Self {
            v4,
            v6,
            as_number,
            check_conflicts: !boolean(&get, "DISABLE_NODE_IP_CHECK")?.unwrap_or(false),
            backend,
            pools,
            cluster_type: get("CLUSTER_TYPE").unwrap_or_else(|| "k8s".to_owned()),
        })
    }

    /// What concerns one family.
    #[must_use]
    pub fn family(&self, ipv4: bool) -> &Family {
        if ipv4 { &self.v4 } else { &self.v6 }
    }
}

fn wrong(variable: &'static str, value: impl Into<String>, why: impl Into<String>) -> SettingsError {
    SettingsError::Variable { variable, value: value.into(), why: why.into() }
}

fn source(text: &str, ipv4: bool) -> Result<Source, String> {
    match text {
        "autodetect" => return Ok(Source::Detect),
        "none" => return Ok(Source::None),
        _ => {}
    }
    let (address, length) = if text.contains('/') {
        let (address, length) = parse_address_and_length(text).map_err(|e| e.to_string())?;
        (address, Some(length))
    } else {
        let address = text
            .parse()
            .map_err(|_| "autodetect, none, or an address, with its subnet's length or without")?;
        (address, None)
    };
    if address.is_ipv4() != ipv4 {
        return Err("an address of the other family".to_owned());
    }
    Ok(Source::Address(address, length))
}

fn is_as_number(text: &str) -> bool {
    match text.split_once('.') {
        None => text.parse::<u32>().is_ok(),
        Some((high, low)) => high.parse::<u16>().is_ok() && low.parse::<u16>().is_ok(),
    }
}

fn boolean(get: &impl Fn(&str) -> Option<String>, name: &'static str) -> Result<Option<bool>, SettingsError> {
    match get(name) {
        None => Ok(None),
        Some(text) => match switch::parse(&text) {
            None => Err(wrong(name, text, "true or false")),
            said => Ok(said),
        },
    }
}

/// The variables of a family's default pool.
struct PoolVariables {
    ipv4: bool,
    cidr: &'static str,
    ipip: Option<&'static str>,
    vxlan: &'static str,
    block_size: &'static str,
    nat_outgoing: &'static str,
    node_selector: &'static str,
    disable_bgp_export: &'static str,
    lengths: std::ops::RangeInclusive<i64>,
    default_length: i64,
}

const IPV4: PoolVariables = PoolVariables {
    ipv4: true,
    cidr: "CALICO_IPV4POOL_CIDR",
    ipip: Some("CALICO_IPV4POOL_IPIP"),
    vxlan: "CALICO_IPV4POOL_VXLAN",
    block_size: "CALICO_IPV4POOL_BLOCK_SIZE",
    nat_outgoing: "CALICO_IPV4POOL_NAT_OUTGOING",
    node_selector: "CALICO_IPV4POOL_NODE_SELECTOR",
    disable_bgp_export: "CALICO_IPV4POOL_DISABLE_BGP_EXPORT",
    lengths: 20..=32,
    default_length: 26,
};
const IPV6: PoolVariables = PoolVariables {
    ipv4: false,
    cidr: "CALICO_IPV6POOL_CIDR",
    ipip: None,
    vxlan: "CALICO_IPV6POOL_VXLAN",
    block_size: "CALICO_IPV6POOL_BLOCK_SIZE",
    nat_outgoing: "CALICO_IPV6POOL_NAT_OUTGOING",
    node_selector: "CALICO_IPV6POOL_NODE_SELECTOR",
    disable_bgp_export: "CALICO_IPV6POOL_DISABLE_BGP_EXPORT",
    lengths: 116..=128,
    default_length: 122,
};

fn pool(get: &impl Fn(&str) -> Option<String>, of: &PoolVariables) -> Result<DefaultPool, SettingsError> {
    let cidr = match get(of.cidr) {
        None => None,
        Some(text) => match text.parse::<Cidr>() {
            Ok(cidr) if cidr.is_ipv4() == of.ipv4 => Some(cidr),
            Ok(_) => return Err(wrong(of.cidr, text, "a network of the other family")),
            Err(error) => return Err(wrong(of.cidr, text, error.to_string())),
        },
    };
    let mode = |name: &'static str| match get(name).map(|text| text.to_lowercase()) {
        None => Ok(None),
        Some(text) => match text.as_str() {
            "always" => Ok(Some("Always")),
            "crosssubnet" | "cross-subnet" => Ok(Some("CrossSubnet")),
            "never" | "off" => Ok(Some("Never")),
            _ => Err(wrong(name, text, "Always, CrossSubnet or Never")),
        },
    };
    let vxlan = mode(of.vxlan)?.unwrap_or("Never");
    let ipip = match of.ipip {
        None => "Never",
        // One of the two at most; IPIP unless something else is said.
        Some(name) => mode(name)?.unwrap_or(if vxlan == "Never" { "Always" } else { "Never" }),
    };
    if let Some(name) = of.ipip.filter(|_| ipip != "Never" && vxlan != "Never") {
        return Err(wrong(name, ipip, format!("{}={vxlan} is set: a pool has one encapsulation", of.vxlan)));
    }
    let block_size = match get(of.block_size) {
        None => of.default_length,
        Some(text) => match text.parse() {
            Ok(length) if of.lengths.contains(&length) => length,
            _ => {
                let (first, last) = (of.lengths.start(), of.lengths.end());
                return Err(wrong(of.block_size, text, format!("a number from {first} to {last}")));
            }
        },
    };
    if let Some(cidr) = cidr
        && i64::from(cidr.length()) > block_size
    {
        return Err(wrong(of.cidr, cidr.to_string(), format!("smaller than a block of it, /{block_size}")));
    }
    let spec = IPPoolSpec {
        ipip_mode: Some(ipip.to_owned()),
        vxlan_mode: Some(vxlan.to_owned()),
        nat_outgoing: Some(boolean(get, of.nat_outgoing)?.unwrap_or(of.ipv4)),
        disable_bgp_export: boolean(get, of.disable_bgp_export)?,
        block_size: Some(block_size),
        node_selector: Some(get(of.node_selector).unwrap_or_else(|| "all()".to_owned())),
        allowed_uses: Some(vec!["Workload".to_owned(), "Tunnel".to_owned()]),
        assignment_mode: Some("Automatic".to_owned()),
        ..IPPoolSpec::default()
    };
    Ok(DefaultPool { cidr, spec })
}

#[cfg(test)]
mod tests;
