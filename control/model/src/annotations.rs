//! The annotations that are read and written, by Calico's names.

/// The node's address with its mask: `192.0.2.11/24`.
pub const NODE_IPV4_ADDRESS: &str = "projectcalico.org/IPv4Address";
/// The node's VXLAN tunnel address.
pub const NODE_IPV4_VXLAN_TUNNEL_ADDRESS: &str = "projectcalico.org/IPv4VXLANTunnelAddr";
/// The node's VTEP MAC, where it is not the one made from its name.
pub const NODE_VXLAN_TUNNEL_MAC: &str = "projectcalico.org/VXLANTunnelMACAddr";
/// The pod's addresses, comma separated; set by the CNI plugin before `status.podIPs` is.
pub const POD_ADDRESSES: &str = "cni.projectcalico.org/podIPs";
/// The pod's first address. Present and empty on a pod being deleted: its addresses have been released.
pub const POD_ADDRESS: &str = "cni.projectcalico.org/podIP";
/// The pod's addresses where Amazon's plugin gives them.
pub const POD_ADDRESSES_AWS: &str = "vpc.amazonaws.com/pod-ips";
/// On a FelixConfiguration: whether established flows are judged again when policy changes, `Rejudge` (the default), or
/// keep the verdict of their first packet, `Keep`.
pub const ESTABLISHED_FLOWS: &str = "projectcaracal.org/establishedFlows";
