//! Which devices are uplinks. Pure: the kernel's devices, addresses and routes in, a choice out.
//!
//! | device | its uplink |
//! |---|---|
//! | holds an address of the node; a default route, or the route to another node, uses it; or named by `--uplink` | itself |
//! | such, but a bond | each of its members: that is where frames arrive. Out goes the active member, or the first with a carrier |
//! | such, but a VLAN | refused: frames arrive tagged at the device below, and their kernel has not untagged them there |
//! | such, but without an Ethernet header (wireguard, tun, IPIP) | refused: there would be no header to take off or to put on |

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::mirror::{KernelLink, LinkKind};

/// What the choice depends on.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// `--uplink`, each; none: found out by the rest.
    pub names: &'a [String],
    /// The kernel's devices.
    pub links: &'a [KernelLink],
    /// Which of them has which address.
    pub addresses: &'a [(u32, IpAddr)],
    /// The node's own addresses.
    pub node: &'a [IpAddr],
    /// Devices that a default route, or the route to another node, uses.
    pub routed: &'a BTreeSet<u32>,
}

/// A device to attach to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The device.
    pub device: KernelLink,
    /// The device that routes name: the same, or its bond.
    pub routed: u32,
    /// Whether packets may leave by it: of a bond, by one member at a time.
    pub sends: bool,
}

/// Chosen devices, and why others that should be are not, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Those to attach to, by their number.
    pub chosen: BTreeMap<u32, Chosen>,
    /// Those that cannot be, however long one waits.
    pub refused: BTreeMap<String, String>,
    /// Those that are not there.
    pub missing: BTreeMap<String, String>,
}

/// Chooses.
#[must_use]
pub fn choose(facts: &Facts) -> Choice {
    let mut choice = Choice::default();
    let wanted: Vec<&KernelLink> = if facts.names.is_empty() {
        let holds = |link: &KernelLink| {
            facts
                .addresses
                .iter()
                .any(|(index, address)| *index == link.index && facts.node.contains(address))
        };
        if !facts.links.iter().any(holds) {
            let addresses: Vec<String> = facts.node.iter().map(IpAddr::to_string).collect();
            let problem = format!("no device has the node's address {}", addresses.join(" or "));
            choice.missing.insert("uplink".into(), problem);
        }
        facts.links.iter().filter(|link| holds(link) || facts.routed.contains(&link.index)).collect()
    } else {
        for name in facts.names {
            if !facts.links.iter().any(|link| link.name == *name) {
                choice.missing.insert(name.clone(), format!("no device {name} yet"));
            }
        }
        facts.links.iter().filter(|link| facts.names.contains(&link.name)).collect()
    };
    for link in wanted {
        take(link, facts.links, &mut choice);
    }
    choice
}

fn take(link: &KernelLink, links: &[KernelLink], choice: &mut Choice) {
    let refusal = match &link.kind {
        LinkKind::Ethernet => {
            let chosen = Chosen { device: link.clone(), routed: link.index, sends: true };
            choice.chosen.insert(link.index, chosen);
            return;
        }
        LinkKind::Bond { active } => return take_members(link, *active, links, choice),
        LinkKind::Vlan => {
            "a VLAN cannot be an uplink: its frames arrive tagged at the device below. Give the node an address on an \
             untagged device, or name one by --uplink"
        }
        LinkKind::Headerless(kind) => {
            let problem = format!(
                "a device of kind {kind} cannot be an uplink: its packets have no Ethernet header. Name another by --uplink"
            );
            choice.refused.insert(link.name.clone(), problem);
            return;
        }
    };
    choice.refused.insert(link.name.clone(), refusal.into());
}

fn take_members(bond: &KernelLink, active: Option<u32>, links: &[KernelLink], choice: &mut Choice) {
    let members = || links.iter().filter(|link| link.master == Some(bond.index));
    let sender = match active.filter(|active| members().any(|member| member.index == *active)) {
        Some(active) => Some(active),
        None => members().find(|member| member.up && member.carrier).map(|member| member.index),
    };
    if members().next().is_none() {
        choice.missing.insert(bond.name.clone(), "the bond has no members".into());
    }
    for member in members() {
        // To its neighbors a member has the bond's address, and hosts count on the bond's MTU.
        let device = KernelLink { mac: bond.mac, mtu: bond.mtu.min(member.mtu), ..member.clone() };
        let sends = Some(member.index) == sender;
        choice.chosen.insert(member.index, Chosen { device, routed: bond.index, sends });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str) -> KernelLink {
        KernelLink {
            index,
            name: name.into(),
            mac: caracal_wire::MacAddr([2, 0, 0, 0, 0, index as u8]),
            mtu: 1500,
            up: true,
            carrier: true,
            queues: 1,
            kind: LinkKind::Ethernet,
            master: None,
        }
    }

    const NODE: [IpAddr; 2] = [
        IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 11)),
        IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x11)),
    ];

    struct World {
        names: Vec<String>,
        links: Vec<KernelLink>,
        addresses: Vec<(u32, IpAddr)>,
        routed: BTreeSet<u32>,
    }

    /// eth0 has the node's IPv4 address, eth1 and eth2 nothing.
    fn world() -> World {
        World {
            names: Vec::new(),
            links: vec![link(1, "lo"), link(2, "eth0"), link(3, "eth1"), link(4, "eth2")],
            addresses: vec![(2, NODE[0]), (3, [198, 51, 100, 1].into())],
            routed: BTreeSet::new(),
        }
    }

    impl World {
        fn choose(&self) -> Choice {
            choose(&Facts {
                names: &self.names,
                links: &self.links,
                addresses: &self.addresses,
                node: &NODE,
                routed: &self.routed,
            })
        }

        fn names_of_chosen(&self) -> Vec<String> {
            self.choose().chosen.into_values().map(|chosen| chosen.device.name).collect()
        }
    }

    #[test]
    fn uplinks_are_the_devices_with_the_nodes_addresses_and_those_on_the_way_to_others() {
        let mut world = world();
        assert_eq!(world.names_of_chosen(), ["eth0"]);
        world.addresses.push((4, NODE[1]));
        assert_eq!(world.names_of_chosen(), ["eth0", "eth2"]);
        world.routed.insert(3);
        assert_eq!(world.names_of_chosen(), ["eth0", "eth1", "eth2"]);
        assert_eq!(world.choose().missing, BTreeMap::new());
    }

    #[test]
    fn devices_named_by_the_operator_are_the_only_ones() {
        let mut world = world();
        world.routed.insert(4);
        world.names = vec!["eth1".into(), "eth9".into()];
        assert_eq!(world.names_of_chosen(), ["eth1"]);
        assert_eq!(world.choose().missing["eth9"], "no device eth9 yet");
    }

    #[test]
    fn a_node_whose_address_no_device_has_keeps_what_its_routes_lead_to() {
        let mut world = world();
        world.addresses.clear();
        world.routed.insert(3);
        assert_eq!(world.names_of_chosen(), ["eth1"]);
        assert!(world.choose().missing["uplink"].contains("192.0.2.11 or 2001:db8::11"));
    }

    #[test]
    fn a_bond_is_taken_at_its_members_and_one_of_them_sends() {
        let mut world = world();
        world.links[1].kind = LinkKind::Bond { active: None };
        for member in [2, 3] {
            world.links[member].master = Some(2);
        }
        world.links[2].carrier = false;
        let members = |world: &World| -> Vec<(u32, u32, bool, caracal_wire::MacAddr)> {
            let chosen = world.choose().chosen.into_values();
            chosen.map(|c| (c.device.index, c.routed, c.sends, c.device.mac)).collect()
        };
        let bond_mac = world.links[1].mac;
        assert_eq!(members(&world), [(3, 2, false, bond_mac), (4, 2, true, bond_mac)]);
        world.links[2].carrier = true;
        assert_eq!(members(&world), [(3, 2, true, bond_mac), (4, 2, false, bond_mac)]);
        world.links[1].kind = LinkKind::Bond { active: Some(4) };
        assert_eq!(members(&world), [(3, 2, false, bond_mac), (4, 2, true, bond_mac)]);
        world.links.truncate(2);
        assert_eq!(world.choose().missing["eth0"], "the bond has no members");
    }

    #[test]
    fn what_cannot_be_an_uplink_is_refused_and_the_others_are_taken() {
        let mut world = world();
        world.links[2].kind = LinkKind::Vlan;
        world.links[3].kind = LinkKind::Headerless("wireguard".into());
        world.routed.extend([3, 4]);
        assert_eq!(world.names_of_chosen(), ["eth0"]);
        let refused = world.choose().refused;
        assert!(refused["eth1"].contains("VLAN"), "{refused:?}");
        assert!(refused["eth2"].contains("wireguard"), "{refused:?}");
    }
}
