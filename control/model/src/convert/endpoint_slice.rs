//! EndpointSlice → [`ServiceEndpoints`]: what a rule's `services` matches.
//!
//! Every address of a slice counts, ready, serving and terminating or not, as with Calico: a rule is about who belongs to
//! a service, not about who answers just now, and a policy that changes with every readiness probe would cut connections
//! that are being drained.

use std::net::IpAddr;

use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::policy::ServiceKey;
use crate::protocol::Protocol;

/// The label that names a slice's service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Endpoints of a service: as many pairs of address and port as there are of both. What cannot be read is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceEndpoints {
    /// The service; `None` for a slice that belongs to none.
    pub service: Option<ServiceKey>,
    /// The slice's namespace.
    pub namespace: String,
    /// The slice's name.
    pub name: String,
    /// The addresses, each once, ascending; none for a slice of names.
    pub addresses: Vec<IpAddr>,
    /// The ports of each of them, each once, ascending.
    pub ports: Vec<ServicePort>,
}

/// A port of a service's endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePort {
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number; `None`: every port of the protocol.
    pub port: Option<u16>,
}

/// The service that a slice is of.
pub(super) fn service_of(slice: &EndpointSlice) -> Option<ServiceKey> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME).filter(|name| !name.is_empty())?;
    let namespace = slice.metadata.namespace.clone().unwrap_or_else(|| "default".to_owned());
    Some(ServiceKey { namespace, name: name.clone() })
}

/// Reads a slice.
pub fn endpoint_slice(slice: &EndpointSlice) -> ServiceEndpoints {
    let namespace = slice.metadata.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let addresses = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
    let mut addresses: Vec<IpAddr> = addresses.filter_map(|text| text.parse().ok()).collect();
    addresses.sort();
    addresses.dedup();
    let ports = slice.ports.iter().flatten().filter_map(|port| {
        let protocol = Protocol::from_kubernetes(port.protocol.as_deref().unwrap_or("TCP"))?;
        match port.port {
            None => Some(ServicePort { protocol, port: None }),
            Some(number) => {
                let number = u16::try_from(number).ok().filter(|number| *number != 0)?;
                Some(ServicePort { protocol, port: Some(number) })
            }
        }
    });
    let mut ports: Vec<ServicePort> = ports.collect();
    ports.sort();
    ports.dedup();
    ServiceEndpoints {
        service: service_of(slice),
        namespace,
        name: slice.metadata.name.clone().unwrap_or_default(),
        addresses,
        ports,
    }
}
