//! Services as they change: one that does copies its page, and the buckets of those frontends of its that come or go.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::state::ServiceSpec;
use crate::table::paged::PagedBuilder;
use crate::table::service::{
    BUCKETS, Backend, Backends, Frontend, FrontendKey, PAGE, Service, ServiceCounters, ServiceIndex,
    ServiceTable, bucket,
};

pub(super) struct Services {
    workers: u16,
    by_id: BTreeMap<Arc<str>, (ServiceIndex, Arc<ServiceSpec>)>,
    table: PagedBuilder<Option<Arc<Service>>, PAGE>,
    frontends: PagedBuilder<Option<Arc<[Frontend]>>, PAGE>,
    /// Who wants a frontend. The first by name has it, on every node.
    claims: BTreeMap<FrontendKey, BTreeSet<Arc<str>>>,
    /// How many services have a cluster address.
    of_address: BTreeMap<IpAddr, usize>,
    ever: u32,
}

impl Services {
    /// Ports of services.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn new(workers: u16) -> Services {
        Services {
            workers,
            by_id: BTreeMap::new(),
            table: PagedBuilder::default(),
            frontends: PagedBuilder::default(),
            claims: BTreeMap::new(),
            of_address: BTreeMap::new(),
            ever: 0,
        }
    }

    pub fn snapshot(&mut self) -> ServiceTable {
        ServiceTable { services: self.table.snapshot(), frontends: self.frontends.snapshot() }
    }

    /// Makes the service what is stated of it: there, changed or gone. Returns the cluster addresses that it has or had, and
    /// whether any service has them now.
    pub fn set(&mut self, id: &Arc<str>, spec: Option<Arc<ServiceSpec>>) -> Vec<(IpAddr, bool)> {
        let former = self.by_id.remove(id);
        let index = match (&former, &spec) {
            (Some((index, _)), _) => *index,
            (None, Some(_)) => {
                self.ever += 1;
                ServiceIndex(self.ever - 1)
            }
            (None, None) => return Vec::new(),
        };
        let internal = |spec: &Arc<ServiceSpec>| internal_addresses(spec);
        let had = former.as_ref().map(|(_, spec)| internal(spec)).unwrap_or_default();
        let has = spec.as_ref().map(internal).unwrap_or_default();
        let touched = self.count_addresses(&had, &has);
        if let Some(spec) = &spec {
            let service = self.service(index, id, spec);
            self.table.set(index.0 as usize, Some(Arc::new(service)));
            self.by_id.insert(Arc::clone(id), (index, Arc::clone(spec)));
        } else {
            self.table.clear(index.0 as usize);
        }
        let of = |spec: Option<&Arc<ServiceSpec>>| -> BTreeSet<FrontendKey> {
            spec.into_iter().flat_map(|spec| spec.frontends.iter().map(|f| f.key(spec.protocol))).collect()
        };
        let before = former.map(|(_, spec)| spec);
        if let (Some(before), Some(after)) = (&before, &spec)
            && (before.protocol, &before.frontends) == (after.protocol, &after.frontends)
        {
            return touched;
        }
        let (before, after) = (of(before.as_ref()), of(spec.as_ref()));
        for key in before.difference(&after) {
            if let Some(claims) = self.claims.get_mut(key) {
                claims.remove(id);
                if claims.is_empty() {
                    self.claims.remove(key);
                }
            }
        }
        for key in &after {
            self.claims.entry(*key).or_default().insert(Arc::clone(id));
        }
        for key in before.union(&after) {
            self.settle(*key);
        }
        touched
    }

    fn count_addresses(&mut self, had: &BTreeSet<IpAddr>, has: &BTreeSet<IpAddr>) -> Vec<(IpAddr, bool)> {
        for address in has.difference(had) {
            *self.of_address.entry(*address).or_default() += 1;
        }
        for address in had.difference(has) {
            if let Some(count) = self.of_address.get_mut(address) {
                *count -= 1;
                if *count == 0 {
                    self.of_address.remove(address);
                }
            }
        }
        had.symmetric_difference(has).map(|a| (*a, self.of_address.contains_key(a))).collect()
    }

    fn service(&self, index: ServiceIndex, id: &Arc<str>, spec: &ServiceSpec) -> Service {
        let former = self.table.get(index.0 as usize).and_then(Option::as_ref);
        let backends = |list: &[Backend], former: Option<&Arc<Backends>>| match former {
            Some(former) if former.iter().eq(list) => Arc::clone(former),
            _ => Arc::new(Backends::new(list.to_vec())),
        };
        let cluster = backends(&spec.cluster, former.map(|service| &service.cluster));
        // Where all are on this node the two are one.
        let local = if spec.local == spec.cluster {
            Arc::clone(&cluster)
        } else {
            backends(&spec.local, former.map(|service| &service.local))
        };
        Service {
            id: Arc::clone(id),
            protocol: spec.protocol,
            cluster,
            local,
            draining: spec.draining.as_slice().into(),
            internal_local: spec.internal_local,
            external_local: spec.external_local,
            affinity_ms: spec.affinity_ms,
            internal_addresses: internal_addresses(spec).into_iter().collect(),
            counts: match former {
                Some(former) => Arc::clone(&former.counts),
                None => (0..self.workers).map(|_| ServiceCounters::default()).collect(),
            },
        }
    }

    /// Makes a frontend that of whoever is first to have it.
    fn settle(&mut self, key: FrontendKey) {
        let claim = self.claims.get(&key).and_then(BTreeSet::first);
        let wanted = claim.and_then(|id| self.by_id.get(id)).and_then(|(index, spec)| {
            let stated = spec.frontends.iter().find(|f| f.key(spec.protocol) == key)?;
            Some(Frontend {
                key,
                service: *index,
                external: stated.external,
                sources: Arc::clone(&stated.sources),
            })
        });
        let at = bucket(&key);
        debug_assert!(at < BUCKETS);
        let former = self.frontends.get(at).and_then(Option::as_deref).unwrap_or_default();
        if former.iter().find(|frontend| frontend.key == key) == wanted.as_ref() {
            return;
        }
        let others = former.iter().filter(|frontend| frontend.key != key).cloned();
        let bucket: Arc<[Frontend]> = others.chain(wanted).collect();
        if bucket.is_empty() {
            self.frontends.clear(at);
        } else {
            self.frontends.set(at, Some(bucket));
        }
    }
}

/// The addresses by which a service is asked from inside the cluster.
fn internal_addresses(spec: &ServiceSpec) -> BTreeSet<IpAddr> {
    spec.frontends
        .iter()
        .filter(|frontend| !frontend.external)
        .filter_map(|frontend| frontend.address)
        .collect()
}
