//! The annotations that are read and written, by Calico's names.

/// The node's IPv4 address with its mask: `192.0.2.11/24`.
pub const NODE_IPV4_ADDRESS: &str = "projectcalico.org/IPv4Address";
/// The node's IPv6 address with its mask: `2001:db8::11/64`.
pub const NODE_IPV6_ADDRESS: &str = "projectcalico.org/IPv6Address";
/// The number of the node's autonomous system, where it has one of its own.
pub const NODE_AS_NUMBER: &str = "projectcalico.org/ASNumber";
/// The node's VXLAN tunnel address over IPv4.
pub const NODE_IPV4_VXLAN_TUNNEL_ADDRESS: &str = "projectcalico.org/IPv4VXLANTunnelAddr";
/// The node's VXLAN tunnel address over IPv6.
pub const NODE_IPV6_VXLAN_TUNNEL_ADDRESS: &str = "projectcalico.org/IPv6VXLANTunnelAddr";
/// The node's VTEP MAC over IPv4, where it is not the one made from its name.
pub const NODE_VXLAN_TUNNEL_MAC: &str = "projectcalico.org/VXLANTunnelMACAddr";
/// The node's VTEP MAC over IPv6, where it is not the one made from its name.
pub const NODE_VXLAN_TUNNEL_MAC_V6: &str = "projectcalico.org/VXLANTunnelMACAddrV6";
/// The node's IPIP tunnel address.
pub const NODE_IPV4_IPIP_TUNNEL_ADDRESS: &str = "projectcalico.org/IPv4IPIPTunnelAddr";
/// The node's labels that only Calico's model has, as a JSON map.
pub const NODE_LABELS: &str = "projectcalico.org/labels";
/// The pod's addresses, comma separated; set by the CNI plugin before `status.podIPs` is.
pub const POD_ADDRESSES: &str = "cni.projectcalico.org/podIPs";
/// The pod's first address. Present and empty on a pod being deleted: its addresses have been released.
pub const POD_ADDRESS: &str = "cni.projectcalico.org/podIP";
/// The sandbox that the pod's addresses were given to; set by the CNI plugin with them.
pub const POD_CONTAINER_ID: &str = "cni.projectcalico.org/containerID";
/// Addresses that the pod is to have, as a JSON list with at most one of each family; IPAM gives them.
pub const POD_WANTED_ADDRESSES: &str = "cni.projectcalico.org/ipAddrs";
/// The same, without IPAM.
pub const POD_WANTED_ADDRESSES_NO_IPAM: &str = "cni.projectcalico.org/ipAddrsNoIpam";
/// The pod's addresses where Amazon's plugin gives them.
pub const POD_ADDRESSES_AWS: &str = "vpc.amazonaws.com/pod-ips";
/// The addresses that the pod is to be reached at from outside beside its own, as a JSON list.
pub const POD_FLOATING_ADDRESSES: &str = "cni.projectcalico.org/floatingIPs";
/// The pools that the pod's IPv4 address is to come from, as a JSON list of names or CIDRs; on a Namespace, those of its pods.
pub const POD_IPV4_POOLS: &str = "cni.projectcalico.org/ipv4pools";
/// The same for its IPv6 address.
pub const POD_IPV6_POOLS: &str = "cni.projectcalico.org/ipv6pools";
/// The families that the pod is to have an address of, as a JSON list of `IPv4` and `IPv6`; on a Namespace, its pods.
pub const POD_FAMILIES: &str = "cni.projectcalico.org/ipFamilies";
/// The MAC address that the pod's end of its link is to have.
pub const POD_MAC: &str = "cni.projectcalico.org/hwAddr";
/// Sources beside its own addresses that the pod may send from, as a JSON list of CIDRs; counts where FelixConfiguration
/// says `workloadSourceSpoofing: Any`.
pub const POD_ALLOWED_SOURCE_PREFIXES: &str = "cni.projectcalico.org/allowedSourcePrefixes";
/// On a pod: what begins the names of all that limits what it may move, as in `qos.projectcalico.org/ingressBandwidth`.
pub const QOS_PREFIX: &str = "qos.projectcalico.org/";
/// On a pod: how many bits a second it may be sent; Calico's own annotation goes before it.
pub const KUBERNETES_INGRESS_BANDWIDTH: &str = "kubernetes.io/ingress-bandwidth";
/// On a pod: how many bits a second it may send; Calico's own annotation goes before it.
pub const KUBERNETES_EGRESS_BANDWIDTH: &str = "kubernetes.io/egress-bandwidth";
/// On a pod: what its port is, `af_xdp` or `packet`; `auto`, or none, leaves it to the fastpath.
pub const POD_PORT: &str = "projectcaracal.org/podPort";
/// On a FelixConfiguration: whether established flows are judged again when policy changes, `Rejudge` (the default), or
/// keep the verdict of their first packet, `Keep`.
pub const ESTABLISHED_FLOWS: &str = "projectcaracal.org/establishedFlows";
/// On a Service: `true` leaves it to somebody else, nothing is translated.
pub const NAT_EXCLUDE_SERVICE: &str = "projectcalico.org/natExcludeService";
/// On a Service: `TerminatingImmediately` ends UDP's translations to backends that terminate at once.
pub const UDP_CONNTRACK_CLEANUP: &str = "projectcalico.org/udpConntrackCleanup";
/// On a Service: `Auto` has nodes prefer endpoints that are meant for their zone.
pub const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
/// On a Service of type LoadBalancer: the external addresses that it is to have, at most one of each family, as a JSON list.
pub const SERVICE_ADDRESSES: &str = "projectcalico.org/loadBalancerIPs";
/// On a Service of type LoadBalancer: the pools that its IPv4 address is to come from, names or CIDRs, as a JSON list.
pub const SERVICE_IPV4_POOLS: &str = "projectcalico.org/ipv4pools";
/// The same for its IPv6 address.
pub const SERVICE_IPV6_POOLS: &str = "projectcalico.org/ipv6pools";
/// The node's interfaces and their addresses, as a JSON list of `{"name": …, "addresses": [...]}`.
pub const NODE_INTERFACES: &str = "projectcalico.org/Interfaces";
/// The node's WireGuard interface's address over IPv4.
pub const NODE_IPV4_WIREGUARD_ADDRESS: &str = "projectcalico.org/IPv4WireguardInterfaceAddr";
/// The node's WireGuard interface's address over IPv6.
pub const NODE_IPV6_WIREGUARD_ADDRESS: &str = "projectcalico.org/IPv6WireguardInterfaceAddr";
