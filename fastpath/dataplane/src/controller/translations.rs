//! What readers are told of services, and of the ports that node-level translation has.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use caracal_plane_api::{NatRow, ServiceRow};

use crate::nat::Ports;
use crate::stage::node;
use crate::table::{Backend, Frontend, Service, ServiceIndex, Tables};
use crate::worker::WorkerIndex;

/// A row for each frontend of each service; what is counted is the service's.
#[must_use]
pub fn services(tables: &Tables) -> Vec<ServiceRow> {
    let mut frontends: BTreeMap<ServiceIndex, Vec<&Frontend>> = BTreeMap::new();
    for frontend in tables.services.frontends() {
        frontends.entry(frontend.service).or_default().push(frontend);
    }
    let mut rows = Vec::new();
    for (index, service) in tables.services.iter() {
        let mut asked: Vec<String> = frontends.get(&index).into_iter().flatten().map(|f| name(f)).collect();
        asked.sort_unstable();
        if asked.is_empty() {
            // Others have what it wants.
            asked.push(String::new());
        }
        rows.extend(asked.into_iter().map(|frontend| row(service, frontend)));
    }
    rows.sort_by(|one, other| (&one.id, &one.frontend).cmp(&(&other.id, &other.frontend)));
    rows
}

fn row(service: &Service, frontend: String) -> ServiceRow {
    let socket = |backend: &Backend| SocketAddr::new(backend.address, backend.port);
    let serving = service.cluster.iter().map(|backend| socket(backend).to_string());
    let is_chosen = |backend: &&Backend| service.cluster.contains(backend);
    let here = service.local.iter().filter(|backend| !is_chosen(backend));
    let here = here.map(|backend| format!("{} (local only)", socket(backend)));
    let draining = service.draining.iter().map(|backend| format!("{} (draining)", socket(backend)));
    ServiceRow {
        id: service.id.to_string(),
        protocol: u32::from(service.protocol),
        frontend,
        backends: serving.chain(here).chain(draining).collect(),
        connections: service.counts.iter().map(|counts| counts.connections.get()).sum(),
        refused: service.counts.iter().map(|counts| counts.refused.get()).sum(),
    }
}

fn name(frontend: &Frontend) -> String {
    match frontend.key.address {
        Some(address) => SocketAddr::new(address, frontend.key.port).to_string(),
        None => format!("node port {}", frontend.key.port),
    }
}

/// A row for each worker that has ports: `of` says how many translations of the node's it has, and how often there was
/// no port.
#[must_use]
pub fn ports(tables: &Tables, of: impl Fn(WorkerIndex) -> (u64, u64)) -> Vec<NatRow> {
    let Some(config) = tables.node.config() else { return Vec::new() };
    let ports = Ports::of(Some(config), tables.workers);
    let addresses: Vec<IpAddr> =
        [true, false].into_iter().filter_map(|ipv4| node::outgoing_address(config, ipv4, None)).collect();
    let addresses = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let row = |index| {
        let slice = ports.slice(WorkerIndex(index))?;
        let (translations, exhausted) = of(WorkerIndex(index));
        Some(NatRow {
            worker: u32::from(index),
            address: addresses.clone(),
            first_port: u32::from(*slice.start()),
            last_port: u32::from(*slice.end()),
            translations,
            exhausted,
        })
    };
    (0..tables.workers).filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::world;
    use crate::table::TableBuilder;
    use caracal_plane_api::plane::{self, Transaction, op::Op as Kind};

    #[test]
    fn each_frontend_has_a_row_and_each_worker_its_ports() {
        let backend = |address: [u8; 4], port| plane::Backend { address: address.to_vec(), port };
        let frontend = |address: &[u8], port, external| plane::Frontend {
            address: address.to_vec(),
            port,
            external,
            sources: Vec::new(),
        };
        let service = plane::Service {
            id: "default/web:80".into(),
            protocol: 6,
            frontends: vec![frontend(&[10, 96, 0, 10], 80, false), frontend(&[], 30_080, true)],
            cluster: vec![backend([10, 244, 1, 2], 8080)],
            draining: vec![backend([10, 244, 1, 3], 8080)],
            ..plane::Service::default()
        };
        let mut ops = world::ops();
        ops.push(world::op(Kind::Service(service)));
        let mut builder = TableBuilder::new(2, Box::new(|_, _| 0));
        builder.apply(&Transaction { seq: 1, ops, in_sync: true }).unwrap();
        let tables = builder.build();
        tables.services.iter().next().unwrap().1.counts[1].connections.add(3);
        let rows = services(&tables);
        let said: Vec<_> = rows
            .iter()
            .map(|row| (row.frontend.as_str(), row.backends.join(", "), row.connections))
            .collect();
        let backends = "10.244.1.2:8080, 10.244.1.3:8080 (draining)";
        assert_eq!(said, [("10.96.0.10:80", backends.into(), 3), ("node port 30080", backends.into(), 3)]);

        let rows = ports(&tables, |worker| (u64::from(worker.0) + 5, 7));
        let said: Vec<_> =
            rows.iter().map(|r| (r.worker, r.first_port, r.last_port, r.translations, r.exhausted)).collect();
        assert_eq!(said, [(0, 20_000, 24_999, 5, 7), (1, 25_000, 29_999, 6, 7)]);
        assert!(rows[0].address.starts_with("192.0.2.11 "));
    }
}
