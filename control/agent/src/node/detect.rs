//! Which of the host's addresses is the node's. Pure: what interfaces there are goes in.

use std::net::IpAddr;
use std::str::FromStr;

use caracal_model::cidr::Cidr;
use regex::Regex;

/// Interfaces that are nobody's way to a node: containers', bridges', other networks' and our own.
const EXCLUDED: &[&str] = &[
    "docker",
    "cbr",
    "dummy",
    "podman",
    "virbr",
    "lxcbr",
    "veth",
    "lo",
    "br-",
    "cali",
    "tunl",
    "flannel",
    "kube-ipvs",
    "cni",
    "vxlan.calico",
    "vxlan-v6.calico",
    "wireguard.cali",
    "wg-v6.cali",
    "nodelocaldns",
    "caracal",
];

/// How a node's address is found among the host's.
#[derive(Debug, Clone)]
pub enum Method {
    /// The first address of the first interface that is up and not one of those of containers and such.
    FirstFound,
    /// The source that the host would take towards this address or name.
    CanReach(String),
    /// The first address of the first interface whose name one of these matches.
    Interface(Regex),
    /// As the first that is found, but for interfaces whose name one of these matches.
    SkipInterface(Regex),
    /// The first address in one of these networks.
    Cidr(Vec<Cidr>),
    /// The Node object's InternalIP.
    KubernetesInternalIp,
}

impl PartialEq for Method {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::FirstFound, Self::FirstFound)
            | (Self::KubernetesInternalIp, Self::KubernetesInternalIp) => true,
            (Self::CanReach(a), Self::CanReach(b)) => a == b,
            (Self::Interface(a), Self::Interface(b)) | (Self::SkipInterface(a), Self::SkipInterface(b)) => {
                a.as_str() == b.as_str()
            }
            (Self::Cidr(a), Self::Cidr(b)) => a == b,
            _ => false,
        }
    }
}

impl FromStr for Method {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, argument) = text.split_once('=').unwrap_or((text, ""));
        let argument = argument.trim();
        let needs =
            |what: &str| if argument.is_empty() { Err(format!("{name}= needs {what}")) } else { Ok(()) };
        match name.trim() {
            "first-found" if argument.is_empty() => Ok(Self::FirstFound),
            "kubernetes-internal-ip" if argument.is_empty() => Ok(Self::KubernetesInternalIp),
            "can-reach" => needs("an address or a name").map(|()| Self::CanReach(argument.to_owned())),
            "interface" => needs("a pattern").and_then(|()| patterns(argument)).map(Self::Interface),
            "skip-interface" => needs("a pattern").and_then(|()| patterns(argument)).map(Self::SkipInterface),
            "cidr" => {
                needs("a network")?;
                let cidrs = argument.split(',').map(|text| text.trim().parse::<Cidr>());
                Ok(Self::Cidr(cidrs.collect::<Result<_, _>>().map_err(|e| e.to_string())?))
            }
            _ => Err("first-found, can-reach=, interface=, skip-interface=, cidr= and kubernetes-internal-ip are known"
                .to_owned()),
        }
    }
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::FirstFound => f.write_str("first-found"),
            Self::KubernetesInternalIp => f.write_str("kubernetes-internal-ip"),
            Self::CanReach(whom) => write!(f, "can-reach={whom}"),
            Self::Interface(pattern) => write!(f, "interface={pattern}"),
            Self::SkipInterface(pattern) => write!(f, "skip-interface={pattern}"),
            Self::Cidr(cidrs) => {
                let cidrs: Vec<String> = cidrs.iter().map(ToString::to_string).collect();
                write!(f, "cidr={}", cidrs.join(","))
            }
        }
    }
}

/// One pattern for a list of them, separated by commas.
fn patterns(list: &str) -> Result<Regex, String> {
    let parts: Vec<String> = list.split(',').map(|part| format!("(?:{})", part.trim())).collect();
    // One error for each is clearer than one for all.
    for part in list.split(',') {
        Regex::new(part.trim()).map_err(|e| e.to_string().lines().last().unwrap_or_default().to_owned())?;
    }
    Regex::new(&parts.join("|")).map_err(|e| e.to_string())
}

/// An interface of the host's, in the kernel's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Whether it is up.
    pub up: bool,
    /// Its addresses with their subnets' lengths, in the kernel's order; none that are temporary or not usable.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// What else a method may need.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hints {
    /// The source that the host would take, for [`Method::CanReach`].
    pub source: Option<IpAddr>,
    /// The Node object's InternalIP, for [`Method::KubernetesInternalIp`].
    pub internal: Option<IpAddr>,
}

/// The node's address of one family, with its subnet's length.
#[must_use]
pub fn detect(method: &Method, ipv4: bool, interfaces: &[Interface], hints: Hints) -> Option<(IpAddr, u8)> {
    let is_excluded = |name: &str| EXCLUDED.iter().any(|prefix| name.starts_with(prefix));
    let first = |suits: &dyn Fn(&str, IpAddr) -> bool| {
        let up = interfaces.iter().filter(|interface| interface.up);
        up.flat_map(|interface| {
            interface.addresses.iter().map(move |address| (interface.name.as_str(), *address))
        })
        .find(|(name, (address, _))| {
            address.is_ipv4() == ipv4 && is_global(*address) && suits(name, *address)
        })
        .map(|(_, address)| address)
    };
    match method {
        Method::FirstFound => first(&|name, _| !is_excluded(name)),
        Method::Interface(pattern) => first(&|name, _| pattern.is_match(name)),
        Method::SkipInterface(pattern) => first(&|name, _| !is_excluded(name) && !pattern.is_match(name)),
        Method::Cidr(cidrs) => {
            first(&|name, address| !is_excluded(name) && cidrs.iter().any(|cidr| cidr.contains(address)))
        }
        Method::CanReach(_) => hints.source.map(|address| with_length(address, interfaces)),
        Method::KubernetesInternalIp => hints.internal.map(|address| with_length(address, interfaces)),
    }
    .filter(|(address, _)| address.is_ipv4() == ipv4)
}

/// An address with its subnet's length, as the interface that holds it says; where none does, a network of its own.
#[must_use]
pub fn with_length(address: IpAddr, interfaces: &[Interface]) -> (IpAddr, u8) {
    let mut all = interfaces.iter().flat_map(|interface| &interface.addresses);
    all.find(|(held, _)| *held == address)
        .copied()
        .unwrap_or((address, if address.is_ipv4() { 32 } else { 128 }))
}

/// Whether others could reach a host by it.
fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !(v4.is_loopback()
                || v4.is_link_local()
                || v4.is_unspecified()
                || v4.is_multicast()
                || v4.is_broadcast())
        }
        IpAddr::V6(v6) => {
            !(v6.is_loopback() || v6.is_unspecified() || v6.is_multicast() || v6.is_unicast_link_local())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, addresses: &[&str]) -> Interface {
        let addresses = addresses.iter().map(|text| {
            let (address, length) = text.split_once('/').unwrap();
            (address.parse().unwrap(), length.parse().unwrap())
        });
        Interface { name: name.into(), up: true, addresses: addresses.collect() }
    }

    fn host() -> Vec<Interface> {
        let mut down = interface("eth9", &["203.0.113.9/24"]);
        down.up = false;
        vec![
            interface("lo", &["127.0.0.1/8", "::1/128", "192.0.2.99/32"]),
            down,
            interface("docker0", &["172.17.0.1/16"]),
            interface("caracal0", &["10.244.1.0/32"]),
            interface(
                "eth0",
                &["169.254.7.7/16", "192.0.2.5/24", "192.0.2.6/24", "fe80::5/64", "2001:db8::5/64"],
            ),
            interface("eth1", &["198.51.100.5/25", "fd00::5/48"]),
            interface("br-lan", &["10.9.0.1/16"]),
        ]
    }

    fn found(method: &str, ipv4: bool) -> Option<String> {
        let hints = Hints {
            source: Some("198.51.100.5".parse().unwrap()),
            internal: Some("10.1.2.3".parse().unwrap()),
        };
        let found = detect(&method.parse().unwrap(), ipv4, &host(), hints);
        found.map(|(address, length)| format!("{address}/{length}"))
    }

    #[test]
    fn each_method_finds_what_calico_would() {
        let v4 = |method| found(method, true).unwrap_or_default();
        let v6 = |method| found(method, false).unwrap_or_default();
        assert_eq!((v4("first-found"), v6("first-found")), ("192.0.2.5/24".into(), "2001:db8::5/64".into()));
        assert_eq!(
            (v4("interface=eth1"), v6("interface=eth1")),
            ("198.51.100.5/25".into(), "fd00::5/48".into())
        );
        assert_eq!(v4("interface=ens.*, eth[1-9]"), "198.51.100.5/25");
        assert_eq!(v4("interface=docker.*"), "172.17.0.1/16", "who names it gets it");
        assert_eq!(v4("skip-interface=eth0,wlan.*"), "198.51.100.5/25");
        assert_eq!(v4("cidr=198.51.100.0/24,10.0.0.0/8"), "198.51.100.5/25");
        assert_eq!(v4("can-reach=198.51.100.77"), "198.51.100.5/25");
        assert_eq!(v4("kubernetes-internal-ip"), "10.1.2.3/32", "on no interface of ours");
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        for (method, ipv4) in
            [("interface=eth9", true), ("cidr=203.0.113.0/24", true), ("skip-interface=.*", true)]
        {
            assert_eq!(found(method, ipv4), None, "{method}");
        }
        assert_eq!(found("kubernetes-internal-ip", false), None, "of the other family");
        assert_eq!(found("interface=lo", true).as_deref(), Some("192.0.2.99/32"));
        assert_eq!(detect(&Method::FirstFound, true, &[], Hints::default()), None);
    }

    #[test]
    fn a_method_is_written_as_it_is_read() {
        for text in [
            "first-found",
            "can-reach=node.example",
            "cidr=10.0.0.0/8,192.168.0.0/16",
            "kubernetes-internal-ip",
        ] {
            assert_eq!(text.parse::<Method>().unwrap().to_string(), text);
        }
    }
}
