//! What FelixConfigurations say of addresses, tunnels and translation.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::Value;

use crate::cidr::Cidr;
use crate::convert::calico_rule::net;
use crate::duration;
use crate::policy::PortRange;

/// What concerns addresses, tunnels and translation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSettings {
    /// `vxlanPort`: the UDP port of VXLAN.
    pub vxlan_port: u16,
    /// `vxlanVNI`.
    pub vxlan_vni: u32,
    /// `vxlanEnabled`: whether packets must leave room for VXLAN; `None`: as pools say.
    pub vxlan_enabled: Option<bool>,
    /// `ipipEnabled`, likewise.
    pub ipip_enabled: Option<bool>,
    /// How big packets may be.
    pub mtu: MtuSettings,
    /// `externalNodesList`: who may send tunnel packets beside the nodes.
    pub external_nodes: Vec<Cidr>,
    /// `kubeNodePortRanges`.
    pub node_port_ranges: Vec<PortRange>,
    /// `natOutgoingAddress`: the address that stands for the pods'; `None`: the one that the route takes.
    pub nat_address: Option<Ipv4Addr>,
    /// `natOutgoingExclusions: IPPoolsAndHostIPs`: towards nodes' addresses nothing is translated.
    pub nat_excludes_hosts: bool,
    /// `natPortRange`; `None`: the data plane's own.
    pub nat_ports: Option<PortRange>,
    /// `bpfConntrackTimeouts`.
    pub timeouts: FlowTimeouts,
    /// `workloadSourceSpoofing: Any`: pods may send from the sources that their annotation names.
    pub allow_other_sources: bool,
}

/// `mtuIfacePattern` and the MTUs that are given; `None`: computed from the interfaces'.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MtuSettings {
    /// A regular expression: the interfaces that packets leave by.
    pub interfaces: String,
    /// `vxlanMTU`.
    pub vxlan: Option<u32>,
    /// `vxlanMTUV6`.
    pub vxlan_v6: Option<u32>,
    /// `ipipMTU`.
    pub ipip: Option<u32>,
}

/// How long flows live without a packet; `None`: as long as the default of their kind says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlowTimeouts {
    /// TCP, before it is answered.
    pub tcp_syn_sent: Option<Duration>,
    /// TCP.
    pub tcp_established: Option<Duration>,
    /// TCP, once both sides have said that they have no more to say.
    pub tcp_fins_seen: Option<Duration>,
    /// TCP, after a reset.
    pub tcp_reset_seen: Option<Duration>,
    /// UDP.
    pub udp: Option<Duration>,
    /// ICMP and ICMPv6.
    pub icmp: Option<Duration>,
    /// Everything else.
    pub generic: Option<Duration>,
}

impl Default for NetworkSettings {
    fn default() -> Self {
        Self {
            vxlan_port: 4789,
            vxlan_vni: 4096,
            vxlan_enabled: None,
            ipip_enabled: None,
            mtu: MtuSettings {
                interfaces: "^((en|wl|ww|sl|ib)[Pcopsvx].*|(eth|wlan|wwan).*)".to_owned(),
                vxlan: None,
                vxlan_v6: None,
                ipip: None,
            },
            external_nodes: Vec::new(),
            node_port_ranges: vec![PortRange { first: 30_000, last: 32_767 }],
            nat_address: None,
            nat_excludes_hosts: false,
            nat_ports: None,
            timeouts: FlowTimeouts::default(),
            allow_other_sources: false,
        }
    }
}

impl NetworkSettings {
    /// Reads them; `given` says what a field is given as.
    pub(super) fn read<'a>(given: impl Fn(&str) -> Option<&'a Value>) -> Self {
        let defaults = Self::default();
        let text = |field: &str| given(field).and_then(Value::as_str).filter(|text| !text.is_empty());
        let flag = |field: &str| given(field).and_then(Value::as_bool);
        let number = |field: &str| given(field).and_then(Value::as_u64);
        let mtu = |field: &str| number(field).and_then(|mtu| u32::try_from(mtu).ok()).filter(|mtu| *mtu != 0);
        let port = number("vxlanPort").and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
        let vni = number("vxlanVNI").and_then(|vni| u32::try_from(vni).ok()).filter(|vni| *vni < 1 << 24);
        Self {
            vxlan_port: port.unwrap_or(defaults.vxlan_port),
            vxlan_vni: vni.unwrap_or(defaults.vxlan_vni),
            vxlan_enabled: flag("vxlanEnabled"),
            ipip_enabled: flag("ipipEnabled"),
            mtu: MtuSettings {
                interfaces: text("mtuIfacePattern").map_or(defaults.mtu.interfaces, str::to_owned),
                vxlan: mtu("vxlanMTU"),
                vxlan_v6: mtu("vxlanMTUV6"),
                ipip: mtu("ipipMTU"),
            },
            external_nodes: list(given("externalNodesList"), |item| net(item.as_str()?).ok())
                .unwrap_or_default(),
            node_port_ranges: list(given("kubeNodePortRanges"), port_range)
                .unwrap_or(defaults.node_port_ranges),
            nat_address: text("natOutgoingAddress").and_then(|text| text.parse().ok()),
            nat_excludes_hosts: text("natOutgoingExclusions") == Some("IPPoolsAndHostIPs"),
            nat_ports: given("natPortRange").and_then(port_range),
            timeouts: given("bpfConntrackTimeouts").map(timeouts).unwrap_or_default(),
            allow_other_sources: text("workloadSourceSpoofing") == Some("Any"),
        }
    }
}

/// A list without what cannot be read; `None` for what is no list.
fn list<T>(value: Option<&Value>, item: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    Some(value?.as_array()?.iter().filter_map(item).collect())
}

/// A port, or `first:last`; 0 is none.
fn port_range(value: &Value) -> Option<PortRange> {
    let text = value.as_u64().map(|port| port.to_string());
    let text = text.as_deref().or(value.as_str())?;
    let (first, last) = text.split_once(':').unwrap_or((text, text));
    let (first, last): (u16, u16) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first != 0 && first <= last).then_some(PortRange { first, last })
}

/// A map, or `name=duration,…`; names in either case.
fn timeouts(value: &Value) -> FlowTimeouts {
    let mut timeouts = FlowTimeouts::default();
    let mut set = |name: &str, text: &str| {
        let timeout = match name.trim().to_ascii_lowercase().as_str() {
            "tcpsynsent" => &mut timeouts.tcp_syn_sent,
            "tcpestablished" => &mut timeouts.tcp_established,
            "tcpfinsseen" => &mut timeouts.tcp_fins_seen,
            "tcpresetseen" => &mut timeouts.tcp_reset_seen,
            "udptimeout" => &mut timeouts.udp,
            "icmptimeout" => &mut timeouts.icmp,
            "generictimeout" => &mut timeouts.generic,
            _ => return,
        };
        // "Auto" is the default, too.
        *timeout = duration::parse(text.trim()).filter(|timeout| !timeout.is_zero());
    };
    match value {
        Value::Object(map) => {
            map.iter().for_each(|(name, text)| set(name, text.as_str().unwrap_or_default()))
        }
        Value::String(list) => {
            list.split(',').filter_map(|pair| pair.split_once('=')).for_each(|(name, text)| set(name, text))
        }
        _ => {}
    }
    timeouts
}
