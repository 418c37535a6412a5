//! The services of the default world: with the addresses and node ports that they would be given, and with slices of
//! their endpoints where nobody else makes any.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;

use super::world::WorldError;
use super::{Case, World, WorldNode};
use crate::convert::{Locality, ServiceInfo, service, service_slice};
use crate::object::Object;
use crate::policy::ServiceKey;
use crate::protocol::Protocol;
use crate::services::allocation::{Ranges, Taken, allocate};
use crate::services::slices::{endpoint_slices, service_name};

/// Completes the services among `others`, and appends the slices that are made of their selectors.
pub(super) fn complete(
    case: &Case,
    others: &mut Vec<Object>,
    nodes: &[Object],
    pods: &[Object],
) -> Result<(), WorldError> {
    for index in 0..others.len() {
        if others.get(index).and_then(as_service).is_none() {
            continue;
        }
        let mut taken = Taken::default();
        let is_other = |(at, _): &(usize, &Object)| *at != index;
        let completed = others.iter().enumerate().filter(is_other).filter_map(|(_, other)| as_service(other));
        completed.for_each(|other| taken.add(other));
        let Some(Object::Service(service)) = others.get_mut(index) else { continue };
        let errors = allocate(service, None, &taken, &Ranges::default());
        let key = Object::Service(service.clone()).key();
        let origin = case.objects.iter().find(|object| object.key == key);
        if let (Some(error), Some(origin)) = (errors.first(), origin) {
            return Err(origin.error(&error.field, error.message.clone()));
        }
    }
    let zones: BTreeMap<String, String> = nodes
        .iter()
        .filter_map(|node| match node {
            Object::Node(node) => Some(Locality::of(node)),
            _ => None,
        })
        .filter_map(|here| Some((here.node, here.zone?)))
        .collect();
    let pods = || pods.iter().filter_map(|pod| if let Object::Pod(pod) = pod { Some(&**pod) } else { None });
    let has_slices = |service: &Service| {
        others.iter().any(|object| match object {
            Object::EndpointSlice(slice) => {
                slice.metadata.namespace == service.metadata.namespace
                    && service_name(slice) == service.metadata.name.as_deref()
            }
            _ => false,
        })
    };
    let bare = others.iter().filter_map(as_service).filter(|service| !has_slices(service));
    let made: Vec<Object> = bare
        .flat_map(|service| endpoint_slices(service, pods(), |node| zones.get(node).cloned()))
        .map(|slice| {
            let mut slice = Object::from(slice);
            slice.set_defaults();
            slice
        })
        .collect();
    others.extend(made);
    Ok(())
}

fn as_service(object: &Object) -> Option<&Service> {
    match object {
        Object::Service(service) => Some(service),
        _ => None,
    }
}

/// The services that are translated.
pub(super) fn translated(objects: &[Object]) -> Vec<ServiceInfo> {
    objects.iter().filter_map(as_service).filter_map(service).collect()
}

/// The service that is asked at an address and port; a node's address stands for its node ports.
pub(super) fn asked(
    services: &[ServiceInfo],
    nodes: &[WorldNode],
    address: IpAddr,
    protocol: Protocol,
    port: Option<u16>,
) -> Option<usize> {
    let port = port?;
    let is_node = nodes.iter().any(|node| node.has_address(address));
    services.iter().position(|service| {
        service.ports.iter().filter(|known| known.protocol == protocol).any(|known| {
            (known.port == port && has_address(service, address))
                || (is_node && known.node_port == Some(port))
        })
    })
}

/// Whether a service has an address of its own: inside or outside.
pub(super) fn has_address(service: &ServiceInfo, address: IpAddr) -> bool {
    service.cluster_ips.contains(&address) || service.external_ips.contains(&address)
}

impl World {
    /// The node that the fabric leads packets for an external address of a service to: the first that has a backend, where
    /// the service asks for local ones only, else the first. `None`: no service has it.
    pub fn entrance(&self, address: IpAddr) -> Option<usize> {
        let service = self.services.iter().find(|service| service.external_ips.contains(&address))?;
        let has_backend = |name: &str| {
            self.objects.iter().any(|object| {
                let Object::EndpointSlice(slice) = object else { return false };
                let slice = service_slice(slice);
                let is_its = slice.service.as_ref() == Some(&service.key);
                is_its && slice.endpoints.iter().any(|endpoint| endpoint.node.as_deref() == Some(name))
            })
        };
        let ours = || self.nodes.iter().enumerate().filter(|(_, node)| !node.kernel);
        let local = ours().find(|(_, node)| service.external_local && has_backend(&node.name));
        local.or_else(|| ours().next()).map(|(index, _)| index)
    }
}

/// A service of the case, by name.
pub(super) fn named<'a>(objects: &'a [Object], key: &ServiceKey) -> Option<&'a Service> {
    objects.iter().filter_map(as_service).find(|service| {
        service.metadata.name.as_ref() == Some(&key.name)
            && service.metadata.namespace.as_ref() == Some(&key.namespace)
    })
}
