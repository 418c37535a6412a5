//! MTUs of what the lab makes: what the tunnels that the pools may ask for leave of the uplinks' packets.

use caracal_model::case::{Between, World};

use crate::network::Leg;

/// What IPIP and VXLAN add to a packet, in bytes.
const IPIP_OVERHEAD: u32 = 20;
const VXLAN_OVERHEAD: u32 = 50;
const VXLAN6_OVERHEAD: u32 = 70;

/// Of pods: of every way that a packet of theirs may go, the one with the least room decides, as with Calico.
pub(crate) fn pod(world: &World, uplink: u32) -> u32 {
    let overheads = world.pools.iter().map(|pool| match (pool.vxlan, pool.ipip) {
        (Between::Never, Between::Never) => 0,
        (Between::Never, _) => IPIP_OVERHEAD,
        _ if pool.cidr.is_ipv4() => VXLAN_OVERHEAD,
        _ => VXLAN6_OVERHEAD,
    });
    uplink.saturating_sub(overheads.max().unwrap_or(0))
}

/// Of the kernel's own VXLAN device over one IP version.
pub(crate) fn vxlan(leg: &Leg, uplink: u32) -> u32 {
    uplink.saturating_sub(if leg.address.is_ipv4() { VXLAN_OVERHEAD } else { VXLAN6_OVERHEAD })
}

#[cfg(test)]
mod tests {
    use super::*;
    use caracal_model::case::Case;

    fn of(pool: &str) -> u32 {
        let pool = format!(
            "- {{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {{name: p}}, spec: {{{pool}}}}}"
        );
        pod(&Case::parse(&format!("name: x\nobjects:\n{pool}\n")).unwrap().world().unwrap(), 1500)
    }

    #[test]
    fn the_pools_say_how_much_of_a_packet_is_the_pods() {
        assert_eq!(of("cidr: 10.244.0.0/16"), 1500);
        assert_eq!(of("cidr: 10.244.0.0/16, vxlanMode: CrossSubnet"), 1450);
        assert_eq!(of("cidr: 10.244.0.0/16, ipipMode: Always"), 1480);
        assert_eq!(of("cidr: \"fd00:10:244::/48\", vxlanMode: Always"), 1430);
    }
}
