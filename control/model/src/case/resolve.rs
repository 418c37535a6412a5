//! The flows of the default world: every name an address, every port a number.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::world::host_source;
use super::{
    Case, CaseFlow, External, Icmp, Party, Place, PortReference, WorldError, WorldFlow, WorldNode, WorldPod,
    WorldPool, services,
};
use crate::convert::{ServiceInfo, cluster_ips};
use crate::object::Object;
use crate::policy::{IpVersion, ServiceKey};
use crate::protocol::Protocol;

/// The resolved flows, and all hosts outside the cluster: the named ones and those that flows name by address.
pub(super) fn flows(world: &Resolver<'_>) -> Result<(Vec<WorldFlow>, Vec<External>), WorldError> {
    let case = world.case;
    let mut externals = Vec::new();
    for (index, external) in case.externals.iter().enumerate() {
        if world.place_of(external.ip) != Place::External {
            return Err(WorldError {
                line: 1,
                field: format!("externals[{index}].ip"),
                message: format!("{} belongs to a node, a pod or a service", external.ip),
            });
        }
        externals.push(external.clone());
    }
    let mut flows = Vec::new();
    for (index, flow) in case.flows.iter().enumerate() {
        let flow = world.flow(flow).map_err(|(field, message)| WorldError {
            line: flow.line,
            field: format!("flows[{index}].{field}"),
            message,
        })?;
        let ends = [(flow.source, flow.source_address), (flow.destination, flow.destination_address)];
        for (_, ip) in ends.into_iter().filter(|(place, _)| *place == Place::External) {
            if flow.unsupported.is_none() && !externals.iter().any(|known| known.ip == ip) {
                externals.push(External { name: ip.to_string(), ip });
            }
        }
        flows.push(flow);
    }
    Ok((flows, externals))
}

pub(super) struct Resolver<'a> {
    pub case: &'a Case,
    pub nodes: &'a [WorldNode],
    pub pods: &'a [WorldPod],
    pub pools: &'a [WorldPool],
    pub services: &'a [ServiceInfo],
    /// All but nodes, pods and what is only named.
    pub objects: &'a [Object],
}

/// A field of the flow and what is wrong with it.
pub(super) type FlowError = (&'static str, String);

/// An end of a flow: where it is and its address, or why it cannot be an end here.
pub(super) type End = Result<(Place, IpAddr), String>;

impl Resolver<'_> {
    fn flow(&self, flow: &CaseFlow) -> Result<WorldFlow, FlowError> {
        let mut resolved = WorldFlow {
            line: flow.line,
            from: flow.from.to_string(),
            to: flow.to.to_string(),
            source: Place::External,
            destination: Place::External,
            source_address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            destination_address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            protocol: flow.protocol,
            source_port: flow.source_port,
            destination_port: None,
            icmp: icmp(flow.protocol, flow.icmp),
            service: None,
            ip_version: flow.ip_version,
            timeout_ms: flow.timeout_ms,
            expect: flow.expect,
            unsupported: None,
        };
        let from = self.end("from", &flow.from, flow.ip_version)?;
        let to = self.end("to", &flow.to, flow.ip_version)?;
        let ((source, source_address), (destination, destination_address)) = match (from, to) {
            (Ok(from), Ok(to)) => (from, to),
            (Err(why), _) | (_, Err(why)) => {
                resolved.unsupported = Some(why);
                return Ok(resolved);
            }
        };
        self.not_its_own_node("from", &flow.from, source, destination)?;
        self.not_its_own_node("to", &flow.to, destination, source)?;
        resolved.source = source;
        resolved.destination = destination;
        resolved.source_address =
            self.chosen_source(source, source_address, (destination, destination_address));
        resolved.destination_address = destination_address;
        resolved.destination_port = flow
            .port
            .as_ref()
            .map(|port| self.port(port, &flow.to, flow.protocol, destination))
            .transpose()?;
        resolved.service = services::asked(
            self.services,
            self.nodes,
            destination_address,
            flow.protocol,
            resolved.destination_port,
        );
        resolved.unsupported = self.unsupported(&resolved);
        Ok(resolved)
    }

    /// An end of a flow; an error when the case names what is not there.
    pub fn end(&self, field: &'static str, party: &Party, version: IpVersion) -> Result<End, FlowError> {
        let of_version = |address: IpAddr| address.is_ipv6() == (version == IpVersion::V6);
        let number = if version == IpVersion::V6 { 6 } else { 4 };
        let without = || format!("{party} has no IPv{number} address");
        match party {
            Party::Pod { namespace, name } => {
                let index = self.pods.iter().position(|pod| pod.namespace == *namespace && pod.name == *name);
                let index = index.ok_or_else(|| (field, format!("there is no pod {namespace}/{name}")))?;
                let Some(pod) = self.pods.get(index) else { return Err((field, without())) };
                if pod.addresses.is_empty() {
                    return Ok(Err(format!("pod {party} has finished and has no address")));
                }
                let address = pod.addresses.iter().copied().find(|address| of_version(*address));
                let none = || format!("{}; give it one under status.podIPs", without());
                let address = address.ok_or_else(|| (field, none()))?;
                let place = if pod.host_network { Place::Node(pod.node) } else { Place::Pod(index) };
                Ok(Ok((place, address)))
            }
            Party::Node(name) => {
                let index = self.nodes.iter().position(|node| node.name == *name);
                let index = index.ok_or_else(|| (field, format!("there is no node {name}")))?;
                let any = if version == IpVersion::V6 {
                    IpAddr::from(Ipv6Addr::UNSPECIFIED)
                } else {
                    IpAddr::from(Ipv4Addr::UNSPECIFIED)
                };
                let address = self.nodes.get(index).and_then(|node| node.address_like(any));
                let address = address.ok_or_else(|| (field, without()))?;
                Ok(Ok((Place::Node(index), address)))
            }
            Party::External(name) => {
                let external = self.case.externals.iter().find(|external| external.name == *name);
                let external = external.ok_or_else(|| {
                    (field, format!("there is no external {name}; name it under externals, with its ip"))
                })?;
                if of_version(external.ip) {
                    Ok(Ok((Place::External, external.ip)))
                } else {
                    Err((field, without()))
                }
            }
            Party::Address(address) => {
                if of_version(*address) {
                    Ok(Ok((self.place_of(*address), *address)))
                } else {
                    Err((field, format!("{address} is no IPv{number} address")))
                }
            }
            Party::Service { namespace, name } => self.service(field, namespace, name, version),
        }
    }

    /// A service at its cluster address.
    fn service(
        &self,
        field: &'static str,
        namespace: &str,
        name: &str,
        version: IpVersion,
    ) -> Result<End, FlowError> {
        let key = ServiceKey { namespace: namespace.to_owned(), name: name.to_owned() };
        let object = services::named(self.objects, &key);
        let spec =
            object.ok_or_else(|| (field, format!("there is no Service {namespace}/{name}")))?.spec.as_ref();
        let mut addresses = spec.into_iter().flat_map(cluster_ips).filter_map(|text| text.parse().ok());
        let address = addresses.find(|address: &IpAddr| address.is_ipv6() == (version == IpVersion::V6));
        let Some(address) = address else {
            let number = if version == IpVersion::V6 { 6 } else { 4 };
            let message = format!("service {namespace}/{name} has no IPv{number} cluster address to send to");
            return Err((field, message));
        };
        match self.services.iter().position(|service| service.key == key) {
            Some(index) => Ok(Ok((Place::Service(index), address))),
            None => Ok(Err(format!("service {namespace}/{name} is left to others to translate"))),
        }
    }

    /// Whose address it is.
    fn place_of(&self, address: IpAddr) -> Place {
        let pod = self.pods.iter().position(|pod| !pod.host_network && pod.addresses.contains(&address));
        let node = || {
            let own = |node: &WorldNode| node.has_address(address) || node.has_tunnel_address(address);
            self.nodes.iter().position(own)
        };
        let service = || self.services.iter().position(|service| services::has_address(service, address));
        let known = pod.map(Place::Pod).or_else(|| node().map(Place::Node));
        known.or_else(|| service().map(Place::Service)).unwrap_or(Place::External)
    }

    /// An address literal is a host outside, and never the node of the pod at the other end: that is `node/NAME`.
    fn not_its_own_node(
        &self,
        field: &'static str,
        party: &Party,
        here: Place,
        there: Place,
    ) -> Result<(), FlowError> {
        let (Party::Address(address), Place::Node(node), Place::Pod(pod)) = (party, here, there) else {
            return Ok(());
        };
        let is_own = self.pods.get(pod).is_some_and(|pod| pod.node == node);
        match self.nodes.get(node) {
            Some(node) if is_own => Err((
                field,
                format!("{address} is the pod's own node; say node/{} if you mean it", node.name),
            )),
            _ => Ok(()),
        }
    }

    /// A node sends to pods from the address of the tunnel that leads there, whatever address it is known by.
    fn chosen_source(&self, source: Place, address: IpAddr, destination: (Place, IpAddr)) -> IpAddr {
        let (Place::Node(node), (Place::Pod(pod), to)) = (source, destination) else { return address };
        let Some(pod) = self.pods.get(pod) else { return address };
        host_source(self.nodes, self.pools, node, pod.node, to).unwrap_or(address)
    }

    fn unsupported(&self, flow: &WorldFlow) -> Option<String> {
        let is_pod = |place| matches!(place, Place::Pod(_));
        let is_service = matches!(flow.destination, Place::Service(_));
        if matches!(flow.source, Place::Service(_)) {
            return Some("a service's address sends nothing by itself".to_owned());
        }
        if is_service && !flow.protocol.has_ports() {
            return Some("services are asked at ports".to_owned());
        }
        if !is_pod(flow.source) && !is_pod(flow.destination) && !is_service && flow.service.is_none() {
            return Some("neither end is a pod with its own network".to_owned());
        }
        (flow.source == flow.destination && flow.service.is_none())
            .then(|| "packets to oneself stay inside".to_owned())
    }

    /// The number of a destination port; a name is one of the destination pod's, or of the service's.
    pub fn port(
        &self,
        port: &PortReference,
        to: &Party,
        protocol: Protocol,
        destination: Place,
    ) -> Result<u16, FlowError> {
        let name = match port {
            PortReference::Number(number) => return Ok(*number),
            PortReference::Name(name) => name,
        };
        if let (Party::Service { .. }, Place::Service(index)) = (to, destination) {
            let mut ports = self.services.get(index).into_iter().flat_map(|service| &service.ports);
            let found = ports.find(|known| known.name == *name && known.protocol == protocol);
            let none = || ("port", format!("the service has no {protocol} port called {name:?}"));
            return found.map(|known| known.port).ok_or_else(none);
        }
        let pod = match (to, destination) {
            // Named as a pod, it has its ports even where its place is its node.
            (Party::Pod { namespace, name }, _) => {
                self.pods.iter().find(|pod| pod.namespace == *namespace && pod.name == *name)
            }
            (_, Place::Pod(pod)) => self.pods.get(pod),
            _ => None,
        };
        let pod =
            pod.ok_or_else(|| ("port", format!("{name:?} is a name, but the destination is no pod")))?;
        let found = pod.ports.iter().find(|known| known.name == *name && known.protocol == protocol);
        found
            .map(|known| known.port)
            .ok_or_else(|| ("port", format!("the pod has no {protocol} container port called {name:?}")))
    }
}

/// The message as given, else an echo request.
pub(super) fn icmp(protocol: Protocol, given: Option<Icmp>) -> Option<Icmp> {
    match protocol {
        Protocol::ICMP => Some(given.unwrap_or(Icmp { kind: 8, code: 0 })),
        Protocol::ICMPV6 => Some(given.unwrap_or(Icmp { kind: 128, code: 0 })),
        _ => None,
    }
}
