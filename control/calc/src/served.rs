//! Services as this node serves them.
//!
//! ```text
//!   Service ────────► info of the service ─┐
//!   EndpointSlice ──► its slices ──────────┼─ dirty ─► one message for each of its ports
//!   Node (this one) ► zone ────────────────┘
//! ```
//!
//! A change makes the messages of one service again; a new zone those of the services that prefer one.

use std::collections::{BTreeMap, BTreeSet};

use caracal_model::convert::{Locality, Preference, ServedPort, ServiceInfo, SliceInfo, served_ports};
use caracal_model::policy::ServiceKey;
use caracal_plane_api as plane;

use crate::delta::{Delta, Flushed};
use crate::plane::{address, prefix};

/// Which slice: namespace and name.
type SliceKey = (String, String);

/// The vertex for services.
#[derive(Debug)]
pub(crate) struct Served {
    here: Locality,
    services: BTreeMap<ServiceKey, ServiceInfo>,
    slices: BTreeMap<ServiceKey, BTreeMap<SliceKey, SliceInfo>>,
    service_of: BTreeMap<SliceKey, ServiceKey>,
    dirty: BTreeSet<ServiceKey>,
    /// The messages that each service is in.
    ids: BTreeMap<ServiceKey, BTreeSet<String>>,
    delta: Delta<String, plane::Service>,
    /// How many services have been looked at.
    pub looks: u64,
}

impl Served {
    pub fn new(node: &str) -> Self {
        Self {
            here: Locality { node: node.to_owned(), zone: None },
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            service_of: BTreeMap::new(),
            dirty: BTreeSet::new(),
            ids: BTreeMap::new(),
            delta: Delta::new(),
            looks: 0,
        }
    }

    /// This node is in this zone, or in none.
    pub fn set_zone(&mut self, zone: Option<String>) {
        if self.here.zone == zone {
            return;
        }
        self.here.zone = zone;
        let concerned = self.services.values().filter(|service| service.preference != Preference::Any);
        self.dirty.extend(concerned.map(|service| service.key.clone()));
    }

    /// The service is there, like this, or is gone, or is none to translate.
    pub fn set_service(&mut self, key: ServiceKey, service: Option<ServiceInfo>) {
        let is_same = self.services.get(&key) == service.as_ref();
        if is_same {
            return;
        }
        match service {
            Some(service) => drop(self.services.insert(key.clone(), service)),
            None => drop(self.services.remove(&key)),
        }
        self.dirty.insert(key);
    }

    /// The slice is there, like this, or is gone.
    pub fn set_slice(&mut self, namespace: &str, name: &str, slice: Option<SliceInfo>) {
        let key = (namespace.to_owned(), name.to_owned());
        let now = slice.as_ref().and_then(|slice| slice.service.clone());
        if let Some(former) = self.service_of.remove(&key)
            && now.as_ref() != Some(&former)
            && let Some(slices) = self.slices.get_mut(&former)
        {
            slices.remove(&key);
            if slices.is_empty() {
                self.slices.remove(&former);
            }
            self.dirty.insert(former);
        }
        if let (Some(service), Some(slice)) = (now, slice) {
            self.service_of.insert(key.clone(), service.clone());
            let slices = self.slices.entry(service.clone()).or_default();
            if slices.get(&key) != Some(&slice) {
                slices.insert(key, slice);
                self.dirty.insert(service);
            }
        }
    }

    /// What has changed. A frontend may pass from one service to another: what goes is to be said first.
    pub fn flush(&mut self) -> Flushed<String, plane::Service> {
        for key in std::mem::take(&mut self.dirty) {
            self.looks += 1;
            let slices = self.slices.get(&key).into_iter().flat_map(BTreeMap::values);
            let service = self.services.get(&key);
            let ports = service.map(|service| served_ports(service, slices, &self.here)).unwrap_or_default();
            let ids: BTreeSet<String> = ports.iter().map(|port| port.id.clone()).collect();
            let former =
                if ids.is_empty() { self.ids.remove(&key) } else { self.ids.insert(key, ids.clone()) };
            for gone in former.iter().flatten().filter(|id| !ids.contains(*id)) {
                self.delta.want(gone.clone(), None);
            }
            for port in ports {
                self.delta.want(port.id.clone(), Some(message(port)));
            }
        }
        self.delta.flush()
    }

    /// As last said.
    pub fn said(&self) -> impl Iterator<Item = &plane::Service> {
        self.delta.said()
    }
}

fn message(port: ServedPort) -> plane::Service {
    let backends = |list: Vec<(std::net::IpAddr, u16)>| {
        let backend =
            |(ip, port): (std::net::IpAddr, u16)| plane::Backend { address: address(ip), port: port.into() };
        list.into_iter().map(backend).collect()
    };
    let frontends = port.frontends.into_iter().map(|frontend| plane::Frontend {
        address: frontend.address.map(address).unwrap_or_default(),
        port: frontend.port.into(),
        external: frontend.is_external,
        sources: frontend.sources.into_iter().map(prefix).collect(),
    });
    plane::Service {
        id: port.id,
        protocol: port.protocol.0.into(),
        frontends: frontends.collect(),
        cluster: backends(port.cluster),
        local: backends(port.local),
        draining: backends(port.draining),
        internal_local: port.internal_local,
        external_local: port.external_local,
        affinity_seconds: port.affinity_seconds,
    }
}
