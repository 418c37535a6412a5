//! Services as they come, change and go, against a list that is looked through.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::table::service::{Backends, FrontendKey};

fn backend(address: u8, port: u32) -> plane::Backend {
    plane::Backend { address: vec![10, 244, 0, address], port }
}

fn frontend(address: u8, port: u32) -> plane::Frontend {
    // One of them is a node port.
    let address = if address == 0 { Vec::new() } else { vec![10, 96, 0, address] };
    plane::Frontend { external: address.is_empty(), address, port, sources: Vec::new() }
}

fn any_service() -> impl Strategy<Value = plane::Service> {
    let frontends = prop::collection::vec((0u8..4, 1u32..4).prop_map(|(a, p)| frontend(a, p)), 0..4);
    let backends = || prop::collection::vec((0u8..6, 1u32..3).prop_map(|(a, p)| backend(a, p)), 0..5);
    let protocol = prop::sample::select(vec![6u32, 17]);
    (0u8..5, protocol, frontends, backends(), backends(), any::<bool>()).prop_map(
        |(id, protocol, frontends, cluster, local, internal_local)| plane::Service {
            id: format!("s{id}"),
            protocol,
            frontends,
            cluster,
            local,
            internal_local,
            ..plane::Service::default()
        },
    )
}

#[derive(Clone, Debug)]
enum Step {
    Set(plane::Service),
    Remove(u8),
    Resync(Vec<plane::Service>),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any_service().prop_map(Step::Set),
        1 => (0u8..5).prop_map(Step::Remove),
        1 => prop::collection::vec(any_service(), 0..3).prop_map(Step::Resync),
    ]
}

/// Who answers, found by looking through all services in the order of their names.
fn asked(world: &BTreeMap<String, plane::Service>, key: &FrontendKey) -> Option<(String, bool)> {
    let is_it = |service: &plane::Service, frontend: &plane::Frontend| {
        let address = (!frontend.address.is_empty())
            .then(|| IpAddr::from(<[u8; 4]>::try_from(&frontend.address[..]).unwrap()));
        (address, service.protocol, frontend.port)
            == (key.address, u32::from(key.protocol), u32::from(key.port))
    };
    world.values().find_map(|service| {
        let frontend = service.frontends.iter().find(|frontend| is_it(service, frontend))?;
        Some((service.id.clone(), frontend.external))
    })
}

fn keys() -> impl Iterator<Item = FrontendKey> {
    let address = |a: u8| (a > 0).then(|| IpAddr::from([10, 96, 0, a]));
    (0..4).flat_map(move |a| {
        (1..4).flat_map(move |port| {
            [6, 17].into_iter().map(move |protocol| FrontendKey { address: address(a), protocol, port })
        })
    })
}

proptest! {
    #[test]
    fn frontends_lead_where_looking_through_all_services_leads(
        steps in prop::collection::vec(any_step(), 1..20)
    ) {
        let (mut builder, mut world) = (builder(), BTreeMap::new());
        for step in steps {
            match step {
                Step::Set(service) => {
                    builder.apply(&transaction(vec![Op::Service(service.clone())])).unwrap();
                    world.insert(service.id.clone(), service);
                }
                Step::Remove(id) => {
                    builder.apply(&transaction(vec![Op::ServiceRemove(format!("s{id}"))])).unwrap();
                    world.remove(&format!("s{id}"));
                }
                Step::Resync(services) => {
                    builder.begin_resync();
                    builder.apply(&in_sync(services.iter().cloned().map(Op::Service).collect())).unwrap();
                    world = services.into_iter().map(|service| (service.id.clone(), service)).collect();
                }
            }
            let table = builder.build().services.clone();
            for key in keys() {
                let found = match key.address {
                    Some(address) => table.by_address(address, key.protocol, key.port),
                    None => table.by_node_port(key.protocol, key.port),
                };
                let found = found.map(|f| (table.get(f.service).unwrap().id.to_string(), f.external));
                prop_assert_eq!(found, asked(&world, &key), "{:?}", key);
            }
            let known: BTreeMap<String, Vec<(IpAddr, u16)>> = table
                .iter()
                .map(|(_, s)| (s.id.to_string(), s.cluster.iter().map(|b| (b.address, b.port)).collect()))
                .collect();
            let expected = world.iter().map(|(id, service)| {
                let mut backends: Vec<(IpAddr, u16)> = service
                    .cluster
                    .iter()
                    .map(|b| (IpAddr::from(<[u8; 4]>::try_from(&b.address[..]).unwrap()), b.port as u16))
                    .collect();
                backends.sort_unstable();
                backends.dedup();
                (id.clone(), backends)
            });
            prop_assert_eq!(known, expected.collect());
        }
    }
}

fn service(number: u32, backends: impl IntoIterator<Item = u8>) -> plane::Service {
    let [_, _, high, low] = number.to_be_bytes();
    let address = vec![10, 97, high, low];
    plane::Service {
        id: format!("default/s{number}:80"),
        protocol: 6,
        frontends: vec![plane::Frontend { address, port: 80, external: false, sources: Vec::new() }],
        cluster: backends.into_iter().map(|address| backend(address, 8080)).collect(),
        ..plane::Service::default()
    }
}

#[test]
fn a_pod_that_comes_changes_its_service_and_no_other() {
    let mut builder = builder();
    let all = (0..10_000).map(|number| Op::Service(service(number, [1, 2, 3])));
    builder.apply(&transaction(all.collect())).unwrap();
    let before = builder.build();
    builder.apply(&transaction(vec![Op::Service(service(7, [1, 2, 3, 4]))])).unwrap();
    let after = builder.build();
    let of = |tables: &Arc<Tables>| -> Vec<Arc<Backends>> {
        tables.services.iter().map(|(_, service)| Arc::clone(&service.cluster)).collect()
    };
    let same: Vec<bool> = of(&before).iter().zip(&of(&after)).map(|(a, b)| Arc::ptr_eq(a, b)).collect();
    assert_eq!(same.iter().filter(|same| !**same).count(), 1);
    assert!(before.services.has_frontends_of(&after.services));
    let bytes: usize = of(&after).iter().map(|backends| backends.bytes()).sum();
    assert!(bytes < 13 << 20, "{bytes} bytes for 10,000 services of three");
}

#[test]
fn more_backends_than_a_service_can_have_are_refused() {
    let backends =
        (0..70_000u32).map(|n| plane::Backend { address: (n + (10 << 24)).to_be_bytes().to_vec(), port: 1 });
    let service = plane::Service { cluster: backends.collect(), ..service(1, []) };
    let error = builder().apply(&transaction(vec![Op::Service(service)])).unwrap_err().to_string();
    assert!(error.contains("70000 backends, at most 65535"), "{error}");
}

#[test]
fn a_port_of_zero_or_a_protocol_of_none_is_refused() {
    let mut zero = service(1, [1]);
    zero.cluster[0].port = 0;
    assert!(builder().apply(&transaction(vec![Op::Service(zero)])).is_err());
    let none = plane::Service { protocol: 0, ..service(1, [1]) };
    assert!(builder().apply(&transaction(vec![Op::Service(none)])).is_err());
}
