//! Why packets are dropped: the one declared table. The enum, its labels, its descriptions, the counters and what the
//! command line prints all follow from it.

macro_rules! drop_reasons {
    ($($(#[$meta:meta])* $name:ident, $label:literal, $description:literal;)*) => {
        /// Why a packet went nowhere.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason { $(#[doc = $description] $name),* }

        impl DropReason {
            /// Every reason, in the order of their numbers.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$name),*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The name in counters, metrics and output.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(DropReason::$name => $label),* }
            }

            /// One sentence for an operator.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self { $(DropReason::$name => $description),* }
            }
        }
    };
}

drop_reasons! {
    // The frame itself.
    EthernetTruncated, "ethernet-truncated", "The frame is shorter than an Ethernet header.";
    UnsupportedEtherType, "unsupported-ethertype", "Neither IPv4, IPv6 nor ARP; VLAN tags are not carried.";
    ArpMalformed, "arp-malformed", "An ARP message that is truncated or not IPv4 over Ethernet.";
    ArpNotForUs, "arp-not-for-us", "An ARP message that needs no answer of ours.";
    Ipv4Malformed, "ipv4-malformed", "The IPv4 header is truncated, has a wrong version, header length or total length.";
    Ipv4BadChecksum, "ipv4-bad-checksum", "The IPv4 header checksum is wrong.";
    Ipv4Options, "ipv4-options", "IPv4 options are not carried.";
    Ipv6Malformed, "ipv6-malformed", "The IPv6 header is truncated, has a wrong version or payload length.";
    Ipv6Extensions, "ipv6-extensions", "IPv6 extension headers that run beyond the packet, more than eight of them, two of fragments, or a route of the sender's own (RFC 5095).";
    FragmentMalformed, "fragment-malformed", "A fragment that is empty, ends within eight bytes though more follow or beyond what a datagram can have, or a first one without its whole transport header.";
    FragmentOverlap, "fragment-overlap", "A fragment that overlaps another of its datagram, or that one of its datagram's others has done so (RFC 5722, RFC 1858).";
    FragmentDuplicate, "fragment-duplicate", "A fragment that has been seen already.";
    FragmentTableFull, "fragment-table-full", "No room to know or hold another fragment: more datagrams arrive in parts, or in more parts, than this worker keeps in mind; the oldest make way.";
    FragmentExpired, "fragment-expired", "A fragment whose first one, which has the ports, did not come in time.";
    NoFrame, "no-frame", "No frame of memory was free for the parts of a packet that had to be fragmented.";
    NdMalformed, "nd-malformed", "A neighbour solicitation or advertisement that is malformed, in fragments (RFC 6980), or was forwarded.";
    L4Truncated, "l4-truncated", "The TCP, UDP, SCTP or ICMP header is truncated or malformed.";
    TcpInvalidFlags, "tcp-invalid-flags", "A combination of TCP flags that no connection uses.";
    AddressInvalid, "address-invalid", "A source or destination that must not be forwarded: multicast, broadcast, link-local (IPv6), loopback or unspecified.";
    Oversized, "oversized", "The packet is longer than its port or chain of segments can carry, or a super-frame that cannot be segmented.";

    // Who sent it, and to whom.
    NotOurMac, "not-our-mac", "A frame from the fabric that is addressed to another machine.";
    SpoofedSource, "spoofed-source", "A pod sent from an address that is not its own.";
    PodSentTunnel, "pod-sent-tunnel", "A pod sent VXLAN or IPIP, which only nodes may; by way of a service, too.";
    FabricSpoofedSource, "fabric-spoofed-source", "A packet from the fabric, outside of any tunnel, claims a source that is reached only through a tunnel or is local.";
    TunnelMalformed, "tunnel-malformed", "The VXLAN header or what is inside is truncated or not Ethernet.";
    TunnelUnknownSource, "tunnel-unknown-source", "A tunnel packet from an address that is no known node's.";
    TunnelUnknownVni, "tunnel-unknown-vni", "A VXLAN packet with another network identifier than ours.";
    TunnelFragmented, "tunnel-fragmented", "A part of a tunnel packet that was fragmented on the fabric: ends of tunnels do not put those together (RFC 7348, 4.3).";
    TunnelCongested, "tunnel-congested", "The fabric marked a tunnel packet for congestion, and the transport of the packet inside would not understand (RFC 6040, 4.2).";
    TunnelNested, "tunnel-nested", "A tunnel packet inside a tunnel packet.";
    TunnelSpoofedInner, "tunnel-spoofed-inner", "The packet inside a tunnel claims a source that does not belong behind that tunnel.";
    TunnelNotForPods, "tunnel-not-for-pods", "The packet inside a tunnel is for neither a local endpoint nor this node's tunnel address.";

    // Where to.
    NoRoute, "no-route", "No route to the destination.";
    Blackhole, "blackhole", "The destination is in a local block, but no endpoint has this address.";
    TtlExceeded, "ttl-exceeded", "The time to live ran out; the sender was told.";
    PacketTooBig, "packet-too-big", "The packet is longer than the way's MTU; the sender was told if it asked not to fragment.";
    NeighborUnresolved, "neighbor-unresolved", "The link-layer address of the next hop is not known yet.";
    PortGone, "port-gone", "The port that the packet should leave by does not exist (any more) or is down.";
    EndpointNotReady, "endpoint-not-ready", "The endpoint has no port on this node yet.";
    NotForwardedBack, "not-forwarded-back", "The packet would leave by the uplink that it came from.";

    // What may.
    PolicyDeny, "policy-deny", "Network policy denies it; the policy counters say which rule.";
    EndpointToHost, "endpoint-to-host", "A pod sent to its own host, which defaultEndpointToHostAction drops.";
    TcpOutOfWindow, "tcp-out-of-window", "A TCP segment outside of its connection's windows (--tcp-window-checks).";
    RelatedUnknown, "related-unknown", "An ICMP error about a flow that is not ours.";
    FlowTableFull, "flow-table-full", "No room for another flow, and none that could make way.";

    // How much.
    PacketRateLimit, "packet-rate-limit", "The endpoint's packet rate (qos.projectcalico.org/…PacketRate) is exceeded.";
    BandwidthLimit, "bandwidth-limit", "The endpoint's bandwidth (qos.projectcalico.org/…Bandwidth) is exceeded.";
    ConnectionLimit, "connection-limit", "The endpoint has as many connections as it may have (qos.projectcalico.org/…MaxConnections); TCP was answered with a reset.";

    // What is translated.
    ServiceNoPort, "service-no-port", "A cluster address of a service, and none of its ports; the sender was refused (TCP reset, ICMP port unreachable).";
    ServiceNoBackend, "service-no-backend", "A service without a backend; the sender was refused (TCP reset, ICMP port unreachable).";
    ServiceNoLocalBackend, "service-no-local-backend", "A service of traffic policy Local, without a backend on this node.";
    ServiceSourceRange, "service-source-range", "The client is in none of the service's loadBalancerSourceRanges.";
    ServiceBackendGone, "service-backend-gone", "The connection's backend no longer serves; the next packet is given another.";
    NatPortsExhausted, "nat-ports-exhausted", "Every port that was tried for node-level translation is taken for this destination.";
    NatTableFull, "nat-table-full", "No room for another translation, and none that could make way.";
    NatClash, "nat-clash", "The packet would be taken for one of another connection that is translated to the same addresses and ports.";
    NatUnknown, "nat-unknown", "An answer, or an ICMP error, whose translation is gone.";
    NatImpossible, "nat-impossible", "The packet should be translated, and this node has no address for it, its protocol has no ports to translate, or a service would have it sent to another node's tunnel.";

    // No room.
    ReceiveBufferFull, "receive-buffer-full", "More came from the pod than its packet socket holds: the worker is slower than the pod.";
    TransmitRingFull, "transmit-ring-full", "The port's transmit ring is full: the receiver is slower than the senders.";
    HandoverRefused, "handover-refused", "The worker that owns the rest of the way has lent no more frames: it is slower than this one.";
    NoHeadroom, "no-headroom", "There is no room in front of the packet for a tunnel header.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_distinct_and_made_for_metrics() {
        let labels: std::collections::BTreeSet<_> = DropReason::ALL.iter().map(|r| r.label()).collect();
        assert_eq!(labels.len(), DropReason::COUNT);
        for label in labels {
            assert!(
                label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
                "{label}"
            );
        }
    }

    #[test]
    fn a_reason_is_its_place_in_the_table() {
        for (i, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i);
        }
    }
}
