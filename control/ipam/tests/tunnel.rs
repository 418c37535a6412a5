//! Which tunnel addresses a node comes to have.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail by panicking")]

mod common;

use std::net::IpAddr;

use caracal_ipam::release::Release;
use caracal_ipam::tunnel::TunnelError;
use caracal_ipam::{
    Attributes, Nanoseconds, Owner, Pool, Tunnel, Use, World, assign_address, ensure_tunnel_address,
    release_addresses,
};
use caracal_model::selector::Selector;
use common::{Memory, consistent, pool, run};

const NOW: Nanoseconds = Nanoseconds(1_767_225_600_000_000_000);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

struct Cluster {
    store: Memory,
    world: World,
}

impl Cluster {
    fn new(pools: Vec<Pool>) -> Self {
        Self { store: Memory::default(), world: World { pools, ..World::default() } }
    }

    fn ensure(&self, tunnel: Tunnel, current: Option<&str>) -> Option<IpAddr> {
        self.try_ensure(tunnel, current).unwrap()
    }

    fn try_ensure(&self, tunnel: Tunnel, current: Option<&str>) -> Result<Option<IpAddr>, TunnelError> {
        run(ensure_tunnel_address(&self.store, &self.world, "n1", tunnel, current.map(ip), NOW))
    }

    fn given(&self) -> Vec<(String, IpAddr)> {
        let blocks = self.store.blocks_now();
        let given = blocks.iter().flat_map(|block| {
            let of =
                |(address, attributes): (IpAddr, &Attributes)| (attributes.handle.clone().unwrap(), address);
            block.given().map(of).collect::<Vec<_>>()
        });
        given.collect()
    }

    /// Gives an address to somebody else.
    fn give(&self, address: &str, handle: &str) {
        let attributes = Attributes { handle: Some(handle.into()), ..Attributes::default() };
        let owner = Owner::Host("n1".into());
        run(assign_address(&self.store, &self.world, ip(address), &attributes, &owner, None, NOW)).unwrap();
    }
}

#[test]
fn each_kind_takes_an_address_of_pools_that_need_it() {
    let mut ipip = pool("ipip", "10.1.0.0/29", 30);
    (ipip.vxlan, ipip.ipip) = (false, true);
    let mut plain = pool("plain", "10.2.0.0/29", 30);
    plain.vxlan = false;
    let cluster =
        Cluster::new(vec![pool("v4", "10.0.0.0/29", 30), pool("v6", "fd00::/125", 126), ipip, plain]);
    assert!(cluster.ensure(Tunnel::VxlanV4, None).unwrap().to_string().starts_with("10.0.0."));
    assert!(cluster.ensure(Tunnel::VxlanV6, None).unwrap().is_ipv6());
    assert!(cluster.ensure(Tunnel::Ipip, None).unwrap().to_string().starts_with("10.1.0."));
    assert!(cluster.ensure(Tunnel::WireguardV4, None).unwrap().is_ipv4());
    let handles: Vec<String> = cluster.given().into_iter().map(|(handle, _)| handle).collect();
    let expected = [
        "vxlan-tunnel-addr-n1",
        "wireguard-tunnel-addr-n1",
        "ipip-tunnel-addr-n1",
        "vxlan-v6-tunnel-addr-n1",
    ];
    assert_eq!(handles, expected);
    let attributes = cluster.store.blocks_now()[0].given().next().unwrap().1.clone();
    assert_eq!(
        (attributes.owner["node"].as_str(), attributes.owner["type"].as_str()),
        ("n1", "vxlanTunnelAddress")
    );
    assert_eq!(Tunnel::of(&attributes), Some(Tunnel::VxlanV4));
    consistent(&cluster.store);
}

#[test]
fn no_pool_no_address() {
    for change in [
        (|pool| pool.disabled = true) as fn(&mut Pool),
        |pool| pool.vxlan = false,
        |pool| pool.uses = vec![Use::Workload],
        |pool| pool.nodes = Some(Selector::parse("zone == 'other'").unwrap()),
    ] {
        let mut cluster = Cluster::new(vec![pool("v4", "10.0.0.0/29", 30)]);
        let first = cluster.ensure(Tunnel::VxlanV4, None).unwrap().to_string();
        change(&mut cluster.world.pools[0]);
        assert_eq!(cluster.ensure(Tunnel::VxlanV4, Some(&first)), None);
        assert_eq!(cluster.given(), []);
    }
}

#[test]
fn an_address_is_kept_and_found_again_by_who_has_forgotten_it() {
    let cluster = Cluster::new(vec![pool("v4", "10.0.0.0/29", 30)]);
    let first = cluster.ensure(Tunnel::VxlanV4, None).unwrap();
    let text = first.to_string();
    for current in [Some(text.as_str()), None, Some("10.0.0.6")] {
        assert_eq!(cluster.ensure(Tunnel::VxlanV4, current), Some(first), "{current:?}");
    }
    assert_eq!(cluster.given().len(), 1);
}

#[test]
fn of_two_the_one_that_the_node_says_is_kept() {
    let cluster = Cluster::new(vec![pool("v4", "10.0.0.0/29", 30)]);
    cluster.give("10.0.0.1", "vxlan-tunnel-addr-n1");
    cluster.give("10.0.0.2", "vxlan-tunnel-addr-n1");
    assert_eq!(cluster.ensure(Tunnel::VxlanV4, Some("10.0.0.2")), Some(ip("10.0.0.2")));
    assert_eq!(cluster.given(), [("vxlan-tunnel-addr-n1".to_owned(), ip("10.0.0.2"))]);
    consistent(&cluster.store);
}

#[test]
fn an_address_that_is_somebody_elses_by_now_is_left_to_him() {
    let cluster = Cluster::new(vec![pool("v4", "10.0.0.0/29", 30)]);
    cluster.give("10.0.0.1", "net.pod");
    let other = cluster.ensure(Tunnel::VxlanV4, Some("10.0.0.1")).unwrap();
    assert_ne!(other, ip("10.0.0.1"));
    assert!(cluster.given().contains(&("net.pod".to_owned(), ip("10.0.0.1"))));
}

#[test]
fn an_address_that_is_free_by_now_is_taken_again() {
    let cluster = Cluster::new(vec![pool("v4", "10.0.0.0/29", 30)]);
    assert_eq!(cluster.ensure(Tunnel::VxlanV4, Some("10.0.0.6")), Some(ip("10.0.0.6")));
}

#[test]
fn an_address_outside_of_every_pool_is_somebody_elses_business() {
    let mut cluster = Cluster::new(vec![pool("v4", "10.0.0.0/29", 30)]);
    assert_eq!(cluster.ensure(Tunnel::VxlanV4, Some("10.244.1.0")), Some(ip("10.244.1.0")));
    cluster.world.pools.clear();
    assert_eq!(cluster.ensure(Tunnel::VxlanV4, Some("10.244.1.0")), Some(ip("10.244.1.0")));
    assert_eq!(cluster.store.things(), []);
}

#[test]
fn an_address_of_a_pool_that_is_gone_comes_back() {
    let mut cluster = Cluster::new(vec![pool("a", "10.0.0.0/29", 30)]);
    let first = cluster.ensure(Tunnel::VxlanV4, None).unwrap().to_string();
    cluster.world.pools = vec![pool("b", "10.1.0.0/29", 30)];
    let second = cluster.ensure(Tunnel::VxlanV4, Some(&first)).unwrap();
    assert_eq!(cluster.given(), [("vxlan-tunnel-addr-n1".to_owned(), second)]);
    assert!(second.to_string().starts_with("10.1.0."));
}

#[test]
fn who_finds_none_is_told_why_and_has_none() {
    let cluster = Cluster::new(vec![pool("v4", "10.0.0.0/31", 31)]);
    cluster.give("10.0.0.0", "a");
    cluster.give("10.0.0.1", "b");
    let error = cluster.try_ensure(Tunnel::VxlanV4, None).unwrap_err();
    assert_eq!(error.to_string(), "no free address in pools v4; add a pool, or remove pods");
    let wanted = Release { address: ip("10.0.0.0"), handle: None, sequence: None };
    run(release_addresses(&cluster.store, &cluster.world, &[wanted], NOW)).unwrap();
    assert_eq!(cluster.ensure(Tunnel::VxlanV4, None), Some(ip("10.0.0.0")));
}
