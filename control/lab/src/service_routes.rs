//! Where the router sends what is for an external address of a service: to a node, as BGP would. To one that has a backend itself where the
//! service asks for local ones only; else to the first.

use std::{collections::BTreeSet, net::IpAddr};

use caracal_model::{
    case::{World, WorldNode, WorldPod},
    object::Object,
};
use k8s_openapi::api::core::v1::Service;

/// External addresses of services, and the index of the node that they lead to.
pub(crate) fn service_routes(world: &World) -> Vec<(IpAddr, usize)> {
    let services = world.objects.iter().filter_map(|object| match object {
        Object::Service(service) => Some(service),
        _ => None,
    });
    let mut routes = Vec::new();
    for service in services {
        let spec = service.spec.as_ref();
        let is_local = spec.and_then(|spec| spec.external_traffic_policy.as_deref()) == Some("Local");
        let has_backend =
            |index: usize| world.pods.iter().any(|pod| pod.node == index && is_backend(world, service, pod));
        let ours = |node: &WorldNode| !node.kernel;
        let first = world.nodes.iter().position(ours);
        let nodes = || world.nodes.iter().enumerate().filter(|(_, node)| ours(node));
        let local = nodes().map(|(index, _)| index).find(|index| is_local && has_backend(*index));
        let Some(node) = local.or(first) else { continue };
        routes.extend(external_addresses(service).into_iter().map(|address| (address, node)));
    }
    routes
}

fn external_addresses(service: &Service) -> BTreeSet<IpAddr> {
    let spec = service.spec.as_ref();
    let external = spec.into_iter().flat_map(|spec| spec.external_ips.iter().flatten().cloned());
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.into_iter().flat_map(|status| status.ingress.iter().flatten());
    external
        .chain(ingress.filter_map(|ingress| ingress.ip.clone()))
        .filter_map(|ip| ip.parse().ok())
        .collect()
}

/// Whether a slice of the service names an address of the pod, or its selector the pod.
fn is_backend(world: &World, service: &Service, pod: &WorldPod) -> bool {
    let (name, namespace) = (&service.metadata.name, &service.metadata.namespace);
    let of_slices = world.objects.iter().any(|object| {
        let Object::EndpointSlice(slice) = object else { return false };
        let label =
            slice.metadata.labels.iter().flatten().find(|(key, _)| *key == "kubernetes.io/service-name");
        let is_its = slice.metadata.namespace == *namespace && label.map(|(_, value)| value) == name.as_ref();
        let mut addresses = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
        is_its && addresses.any(|text| text.parse().is_ok_and(|address| pod.addresses.contains(&address)))
    });
    let selector =
        service.spec.as_ref().and_then(|spec| spec.selector.as_ref()).filter(|all| !all.is_empty());
    let selected = selector.is_some_and(|selector| {
        world.objects.iter().any(|object| {
            let Object::Pod(object) = object else { return false };
            let metadata = &object.metadata;
            metadata.name.as_deref() == Some(&pod.name)
                && metadata.namespace.as_deref() == Some(&pod.namespace)
                && metadata.namespace == *namespace
                && selector.iter().all(|(key, value)| {
                    metadata.labels.as_ref().and_then(|labels| labels.get(key)) == Some(value)
                })
        })
    });
    of_slices || selected
}

#[cfg(test)]
mod tests {
    use super::*;
    use caracal_model::case::Case;

    #[test]
    fn external_addresses_lead_to_a_node_and_local_ones_to_a_backends_node() {
        let service = |name: &str, address: &str, policy: &str| {
            format!(
                "- {{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: shop}}, spec: {{type: NodePort, \
                 selector: {{app: web}}, externalIPs: [{address}], externalTrafficPolicy: {policy}, ports: [{{port: 80}}]}}}}\n"
            )
        };
        let case = format!(
            "name: x\nobjects:\n\
             - {{apiVersion: v1, kind: Pod, metadata: {{name: web, namespace: shop, labels: {{app: web}}}}, \
                spec: {{nodeName: node2, containers: [{{name: c, image: any}}]}}}}\n{}{}",
            service("any", "198.51.100.10", "Cluster"),
            service("local", "198.51.100.11", "Local"),
        );
        let world = Case::parse(&case).unwrap().world().unwrap();
        let address = |last: u8| IpAddr::from([198, 51, 100, last]);
        assert_eq!(service_routes(&world), [(address(10), 0), (address(11), 1)]);
    }
}
