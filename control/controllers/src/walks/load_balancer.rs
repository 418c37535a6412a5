//! Services ask for addresses and stop asking.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use caracal_model::object::{Kind, Object, ObjectKey};
use k8s_openapi::api::core::v1::Service;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Api, Walk, cases, configuration, object};
use crate::{Action, LoadBalancer};

const NAMES: [&str; 3] = ["a", "b", "c"];

/// What people write of a service.
#[derive(Debug, Clone, Default)]
struct Wish {
    kind: usize,
    class: usize,
    families: usize,
    pools: usize,
    exact: usize,
}

const KINDS: [&str; 2] = ["LoadBalancer", "ClusterIP"];
const CLASSES: [Option<&str>; 3] = [None, Some("calico"), Some("example.com/other")];
const FAMILIES: [&[&str]; 3] = [&["IPv4"], &["IPv6"], &["IPv6", "IPv4"]];
const POOLS: [Option<&str>; 4] =
    [None, Some("[\"second\"]"), Some("[\"198.51.100.0/28\"]"), Some("nonsense")];
const EXACT: [Option<&str>; 3] = [None, Some("[\"198.51.100.3\"]"), Some("[\"198.51.100.19\"]")];

#[derive(Debug, Clone)]
enum Step {
    Write(usize, Wish),
    Delete(usize),
    Configure(bool),
    Hear(usize, usize),
    Act(usize),
    Die,
}

fn wish() -> impl Strategy<Value = Wish> {
    let indices = (0..KINDS.len(), 0..CLASSES.len(), 0..FAMILIES.len(), 0..POOLS.len(), 0..EXACT.len());
    indices.prop_map(|(kind, class, families, pools, exact)| Wish { kind, class, families, pools, exact })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..NAMES.len(), wish()).prop_map(|(name, wish)| Step::Write(name, wish)),
        2 => (0..NAMES.len()).prop_map(Step::Delete),
        1 => any::<bool>().prop_map(Step::Configure),
        6 => (0..4usize, 1..4usize).prop_map(|(kind, count)| Step::Hear(kind, count)),
        6 => (0..4usize).prop_map(Step::Act),
        1 => Just(Step::Die),
    ];
    prop::collection::vec(step, 1..80)
}

fn key(name: usize) -> ObjectKey {
    ObjectKey::new(Kind::Service, Some("shop"), NAMES[name])
}

fn write(api: &Api, name: usize, wish: &Wish) {
    let annotations: BTreeMap<&str, &str> = [
        ("projectcalico.org/ipv4pools", POOLS[wish.pools]),
        ("projectcalico.org/loadBalancerIPs", EXACT[wish.exact]),
    ]
    .into_iter()
    .filter_map(|(key, value)| Some((key, value?)))
    .collect();
    let mut service = object(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": NAMES[name], "namespace": "shop", "annotations": annotations},
        "spec": {
            "type": KINDS[wish.kind], "loadBalancerClass": CLASSES[wish.class],
            "ipFamilies": FAMILIES[wish.families], "clusterIP": "10.96.0.1",
        },
    }));
    match api.get(&key(name)) {
        // What people write is not the status.
        Some(Object::Service(known)) => {
            if let Object::Service(service) = &mut service {
                service.status = known.status.clone();
                service.metadata.uid = known.metadata.uid.clone();
            }
            api.replace(service).unwrap();
        }
        _ => api.create(service).unwrap(),
    }
}

fn service(api: &Api, name: usize) -> Option<Service> {
    match api.get(&key(name)) {
        Some(Object::Service(service)) => Some(*service),
        _ => None,
    }
}

fn shown(service: &Service) -> Vec<IpAddr> {
    let status = service.status.iter().flat_map(|status| &status.load_balancer);
    let ingress = status.flat_map(|balancer| balancer.ingress.iter().flatten());
    ingress.filter_map(|ingress| ingress.ip.as_deref()?.parse().ok()).collect()
}

/// What services' addresses are, by the UID in their handles.
fn given(api: &Api) -> BTreeMap<String, BTreeSet<IpAddr>> {
    let mut all: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
    for block in api.blocks_now() {
        for (address, attributes) in block.given() {
            let handle = attributes.handle.clone().unwrap();
            if let Some(rest) = handle.strip_prefix("lb-shop.") {
                all.entry(rest[2..].to_owned()).or_default().insert(address);
            }
        }
    }
    all
}

/// What is not services' is not touched, and what a status shows is not given back.
fn watch(api: &Api, action: &Action) {
    if let Action::Release { addresses, .. } = action {
        for release in addresses {
            assert!(release.handle.as_deref().unwrap().starts_with("lb-"), "{release:?}");
            let who = (0..NAMES.len()).filter_map(|name| service(api, name));
            let block = api.blocks_now().into_iter().find(|block| block.cidr().contains(release.address));
            let handle = block.and_then(|block| block.attributes(release.address)?.handle.clone());
            let is_current = handle.is_some() && handle == release.handle;
            let shows = who
                .filter(|service| shown(service).contains(&release.address))
                .any(|service| release.handle.as_deref().unwrap().ends_with(&service.metadata.uid.unwrap()));
            assert!(!(is_current && shows), "{release:?} is still shown");
        }
    }
}

/// Whether an address may be.
type Allows = fn(&IpAddr) -> bool;

/// The last byte of an IPv4 address.
fn last(address: &IpAddr) -> Option<u8> {
    match address {
        IpAddr::V4(address) => Some(address.octets()[3]),
        IpAddr::V6(_) => None,
    }
}

/// What a service should have, said as simply as can be: for each of its families, in order, what is allowed.
fn allowed(wish: &Wish, all_services: bool) -> Option<Vec<Allows>> {
    let asks = POOLS[wish.pools].is_some() || EXACT[wish.exact].is_some();
    let ours = match wish.class {
        0 => all_services || asks,
        1 => true,
        _ => false,
    };
    if wish.kind != 0 || !ours {
        return None;
    }
    let v4: Allows = match (wish.pools, wish.exact) {
        (0, 0) => |a| a.is_ipv4(),
        (1, 0) => |a| last(a).is_some_and(|last| last >= 16),
        (2, 0) => |a| last(a).is_some_and(|last| last < 16),
        (0 | 2, 1) => |a| a.to_string() == "198.51.100.3",
        (0 | 1, 2) => |a| a.to_string() == "198.51.100.19",
        // What makes no sense is not looked at.
        _ => |_| false,
    };
    let v6: Allows = if wish.exact == 0 { |a| a.is_ipv6() } else { |_| false };
    Some(match wish.families {
        0 => vec![v4],
        1 => vec![v6],
        _ => vec![v6, v4],
    })
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn services_end_with_what_they_ask_for_whatever_happened_on_the_way(steps in steps()) {
        let mut walk = Walk::new(|| LoadBalancer, watch);
        for (name, cidr, length) in
            [("first", "198.51.100.0/28", 30), ("second", "198.51.100.16/28", 30), ("sixth", "2001:db8::/120", 126)]
        {
            walk.api.create(object(json!({
                "apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": name},
                "spec": {"cidr": cidr, "blockSize": length, "allowedUses": ["LoadBalancer"], "nodeSelector": "all()"},
            }))).unwrap();
        }
        let configure = |all: bool| {
            configuration(json!({"loadBalancer": {"assignIPs": if all { "AllServices" } else { "RequestedServicesOnly" }}}))
        };
        walk.api.create(configure(true)).unwrap();
        let (mut wishes, mut all_services) = (vec![None; NAMES.len()], true);
        walk.die();
        for step in steps {
            match step {
                Step::Write(name, wish) => {
                    write(&walk.api, name, &wish);
                    wishes[name] = Some(wish);
                }
                Step::Delete(name) => {
                    let _ = walk.api.delete(&key(name));
                    wishes[name] = None;
                }
                Step::Configure(all) => {
                    walk.api.replace(configure(all)).unwrap();
                    all_services = all;
                }
                Step::Hear(kind, count) => {
                    let kinds = [Kind::Service, Kind::IPAMBlock, Kind::IPPool, Kind::KubeControllersConfiguration];
                    walk.hear(kinds[kind], count);
                }
                Step::Act(survives) => drop(walk.act(survives)),
                Step::Die => walk.die(),
            }
            walk.pass(Duration::from_millis(100));
            // No address is shown by two.
            let all: Vec<IpAddr> = (0..NAMES.len()).filter_map(|name| service(&walk.api, name)).flat_map(|s| shown(&s)).collect();
            prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "{:?}", all);
        }
        // Who waits for an address that another has asks again and again: what was refused shows in nothing.
        for _ in 0..30 {
            walk.hear_all();
            walk.pass(Duration::from_secs(1));
            walk.act(usize::MAX);
        }
        walk.hear_all();
        let mut given = given(&walk.api);
        let everything: BTreeSet<IpAddr> = given.values().flatten().copied().collect();
        for (name, wish) in wishes.iter().enumerate() {
            let Some(service) = service(&walk.api, name) else { continue };
            let wish = wish.as_ref().unwrap();
            let has = given.remove(&service.metadata.uid.clone().unwrap()).unwrap_or_default();
            let shows = shown(&service);
            prop_assert_eq!(&shows.iter().copied().collect::<BTreeSet<_>>(), &has, "{:?}", wish);
            // What makes no sense keeps what it has: whatever that is, it was given.
            if wish.kind == 0 && wish.class < 2 && is_nonsense(wish) {
                continue;
            }
            let allowed = allowed(wish, all_services).unwrap_or_default();
            let mut left = shows.iter();
            for allows in &allowed {
                let can = everything.iter().any(|address| allows(address) && !has.contains(address));
                match left.clone().next() {
                    Some(address) if allows(address) => drop(left.next()),
                    // Somebody else has the one it asks for, or it asks for what there is not.
                    _ => prop_assert!(can || !allows_any(*allows), "{:?} has {:?}", wish, shows),
                }
            }
            prop_assert_eq!(left.next(), None, "{:?} has {:?}", wish, &shows);
        }
        prop_assert_eq!(given, BTreeMap::new(), "of services that are not there");
    }
}

/// Whether the service is ours, and what it asks for cannot be understood.
fn is_nonsense(wish: &Wish) -> bool {
    let elsewhere = matches!((wish.pools, wish.exact), (1, 1) | (2, 2));
    wish.pools == 3 || (wish.exact != 0 && wish.families == 1) || elsewhere
}

/// Whether there is any such address at all.
fn allows_any(allows: Allows) -> bool {
    let all = (0..32u8).map(|i| IpAddr::from([198, 51, 100, i]));
    all.chain(["2001:db8::1".parse().unwrap()]).any(|address| allows(&address))
}

#[test]
fn what_others_have_written_into_a_status_stays() {
    let mut walk = Walk::new(|| LoadBalancer, watch);
    walk.api
        .create(object(json!({
            "apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": "p"},
            "spec": {"cidr": "198.51.100.0/28", "blockSize": 30, "allowedUses": ["LoadBalancer"]},
        })))
        .unwrap();
    write(&walk.api, 0, &Wish::default());
    let foreign: Value = json!([{"ip": "203.0.113.9"}, {"hostname": "lb.example.com"}]);
    walk.api.patch(&key(0), &json!({"status": {"loadBalancer": {"ingress": foreign}}})).unwrap();
    walk.rest();
    let told = |walk: &Walk<LoadBalancer>| {
        walk.api.get(&key(0)).unwrap().to_value()["status"]["loadBalancer"]["ingress"].clone()
    };
    assert_eq!(told(&walk)[0], json!({"ip": "198.51.100.0"}));
    write(&walk.api, 0, &Wish { kind: 1, ..Wish::default() });
    walk.rest();
    assert_eq!(told(&walk), foreign);
    assert!(given(&walk.api).is_empty());
}
