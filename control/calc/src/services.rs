//! What services' endpoints are: the slices of each service, and what of their union a slice changes.

use std::collections::BTreeMap;

use caracal_model::cidr::Cidr;
use caracal_model::convert::ServiceEndpoints;
use caracal_model::policy::ServiceKey;

use crate::label_index::differences;
use crate::members::Member;

/// Which slice: namespace and name.
type SliceKey = (String, String);

/// What a slice brings to its service: sorted.
#[derive(Debug, Default, Clone, PartialEq)]
struct Slice {
    addresses: Vec<Member>,
    ports: Vec<Member>,
}

/// The part of a service's endpoints that a set holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The addresses alone.
    Addresses,
    /// The addresses with protocols and ports.
    Ports,
}

impl Slice {
    fn part(&self, part: Part) -> &[Member] {
        match part {
            Part::Addresses => &self.addresses,
            Part::Ports => &self.ports,
        }
    }
}

/// What a slice has changed of its service.
#[derive(Debug)]
pub(crate) struct ServiceChange {
    pub service: ServiceKey,
    pub addresses: (Vec<Member>, Vec<Member>),
    pub ports: (Vec<Member>, Vec<Member>),
}

/// All slices that belong to services.
#[derive(Debug, Default)]
pub(crate) struct Services {
    service_of: BTreeMap<SliceKey, ServiceKey>,
    slices: BTreeMap<ServiceKey, BTreeMap<SliceKey, Slice>>,
}

impl Services {
    /// The slice is there, like this, or is gone. Returns what that changes: of the service that it belonged to, and of
    /// the one it belongs to. What other slices of a service hold, too, neither comes nor goes.
    pub fn set(
        &mut self,
        namespace: &str,
        name: &str,
        endpoints: Option<&ServiceEndpoints>,
    ) -> Vec<ServiceChange> {
        let key = (namespace.to_owned(), name.to_owned());
        let former = self.service_of.get(&key).cloned();
        let now = endpoints.and_then(|endpoints| endpoints.service.clone());
        let mut changes = Vec::new();
        if let Some(former) = former.filter(|former| now.as_ref() != Some(former)) {
            changes.extend(self.replace(&former, &key, None));
            self.service_of.remove(&key);
        }
        if let (Some(service), Some(endpoints)) = (now, endpoints) {
            changes.extend(self.replace(&service, &key, Some(slice(endpoints))));
            self.service_of.insert(key, service);
        }
        changes
    }

    fn replace(&mut self, service: &ServiceKey, key: &SliceKey, new: Option<Slice>) -> Option<ServiceChange> {
        let slices = self.slices.entry(service.clone()).or_default();
        let old = slices.remove(key).unwrap_or_default();
        let now = new.clone().unwrap_or_default();
        let change = |part| {
            let (mut gone, mut come) = differences(old.part(part), now.part(part));
            let elsewhere =
                |member: &Member| slices.values().any(|slice| slice.part(part).binary_search(member).is_ok());
            gone.retain(|member| !elsewhere(member));
            come.retain(|member| !elsewhere(member));
            (gone, come)
        };
        let (addresses, ports) = (change(Part::Addresses), change(Part::Ports));
        match new {
            Some(new) => drop(slices.insert(key.clone(), new)),
            None if slices.is_empty() => drop(self.slices.remove(service)),
            None => {}
        }
        (old != now).then(|| ServiceChange { service: service.clone(), addresses, ports })
    }

    /// The members of a service's endpoints, in no order, some perhaps twice.
    pub fn members(&self, service: &ServiceKey, part: Part) -> impl Iterator<Item = Member> {
        let slices = self.slices.get(service).into_iter().flat_map(BTreeMap::values);
        slices.flat_map(move |slice| slice.part(part).iter().copied())
    }
}

fn slice(endpoints: &ServiceEndpoints) -> Slice {
    let mut addresses: Vec<Member> =
        endpoints.addresses.iter().map(|address| Member::net(Cidr::host(*address))).collect();
    let with_port = |address: &Member| {
        let address = *address;
        endpoints.ports.iter().map(move |port| Member {
            protocol: port.protocol.0,
            port: port.port.unwrap_or_default(),
            ..address
        })
    };
    let mut ports: Vec<Member> = addresses.iter().flat_map(with_port).collect();
    addresses.sort_unstable();
    addresses.dedup();
    ports.sort_unstable();
    ports.dedup();
    Slice { addresses, ports }
}

#[cfg(test)]
mod tests {
    use caracal_model::convert::ServicePort;
    use caracal_model::protocol::Protocol;

    use super::*;

    fn service(name: &str) -> ServiceKey {
        ServiceKey { namespace: "x".into(), name: name.into() }
    }

    fn endpoints(service_name: &str, addresses: &[&str], ports: &[u16]) -> ServiceEndpoints {
        ServiceEndpoints {
            service: (!service_name.is_empty()).then(|| service(service_name)),
            namespace: "x".into(),
            name: "slice".into(),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            ports: ports
                .iter()
                .map(|port| ServicePort { protocol: Protocol::TCP, port: Some(*port) })
                .collect(),
        }
    }

    fn counts(changes: &[ServiceChange]) -> Vec<(&str, [usize; 4])> {
        let count = |change: &ServiceChange| {
            [&change.addresses.0, &change.addresses.1, &change.ports.0, &change.ports.1]
                .map(|list| list.len())
        };
        changes.iter().map(|change| (change.service.name.as_str(), count(change))).collect()
    }

    #[test]
    fn what_another_slice_holds_neither_comes_nor_goes() {
        let mut services = Services::default();
        let changes = services.set("x", "a", Some(&endpoints("web", &["10.0.0.1", "10.0.0.2"], &[80])));
        assert_eq!(counts(&changes), [("web", [0, 2, 0, 2])]);
        let changes = services.set("x", "b", Some(&endpoints("web", &["10.0.0.2", "10.0.0.3"], &[80])));
        assert_eq!(counts(&changes), [("web", [0, 1, 0, 1])]);
        let changes = services.set("x", "a", Some(&endpoints("web", &["10.0.0.1"], &[80, 81])));
        assert_eq!(counts(&changes), [("web", [0, 0, 0, 1])]);
        assert_eq!(services.members(&service("web"), Part::Addresses).count(), 3);
        let changes = services.set("x", "b", None);
        assert_eq!(counts(&changes), [("web", [2, 0, 2, 0])]);
        assert!(services.set("x", "b", None).is_empty());
        services.set("x", "a", None);
        assert!(services.slices.is_empty() && services.service_of.is_empty());
    }

    #[test]
    fn a_slice_may_pass_from_service_to_service() {
        let mut services = Services::default();
        services.set("x", "a", Some(&endpoints("web", &["10.0.0.1"], &[80])));
        let changes = services.set("x", "a", Some(&endpoints("db", &["10.0.0.1"], &[80])));
        assert_eq!(counts(&changes), [("web", [1, 0, 1, 0]), ("db", [0, 1, 0, 1])]);
        let changes = services.set("x", "a", Some(&endpoints("", &["10.0.0.1"], &[80])));
        assert_eq!(counts(&changes), [("db", [1, 0, 1, 0])]);
        assert!(services.slices.is_empty());
    }
}
