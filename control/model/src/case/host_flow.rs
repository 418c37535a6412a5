//! The host flows of the default world: every name an address, every port a number.

use std::net::{IpAddr, Ipv4Addr};

use super::resolve::{FlowError, Resolver, icmp};
use super::{HostFlow, HostPath, Party, PortReference, WorldError, WorldHostFlow};
use crate::convert::{HostEndpointInfo, host_endpoint};
use crate::object::Object;
use crate::policy::IpVersion;

/// The resolved host flows. Their host endpoints are among the objects, and so are the services that they name.
pub(super) fn resolve(parties: Resolver<'_>) -> Result<Vec<WorldHostFlow>, WorldError> {
    let host_endpoints = parties.objects.iter().filter_map(|object| match object {
        Object::HostEndpoint(object) => Some(host_endpoint(object)),
        _ => None,
    });
    let world = HostResolver { host_endpoints: host_endpoints.collect(), parties };
    let flows = world.parties.case.host_flows.iter().enumerate().map(|(index, flow)| {
        world.flow(flow).map_err(|(field, message)| WorldError {
            line: flow.line,
            field: format!("hostFlows[{index}].{field}"),
            message,
        })
    });
    flows.collect()
}

struct HostResolver<'a> {
    parties: Resolver<'a>,
    host_endpoints: Vec<HostEndpointInfo>,
}

impl HostResolver<'_> {
    fn flow(&self, flow: &HostFlow) -> Result<WorldHostFlow, FlowError> {
        let name = &flow.host_endpoint;
        let host_endpoint = self.host_endpoints.iter().find(|known| known.name == *name);
        let host_endpoint = host_endpoint.ok_or_else(|| {
            ("hostEndpoint", format!("there is no HostEndpoint {name} among the case's objects"))
        })?;
        let node = self.parties.nodes.iter().position(|node| node.name == host_endpoint.node);
        let no_node = || ("hostEndpoint", format!("the node {} of {name} is not there", host_endpoint.node));
        let mut resolved = WorldHostFlow {
            line: flow.line,
            host_endpoint: name.clone(),
            node: node.ok_or_else(no_node)?,
            path: flow.path,
            from: flow.from.to_string(),
            to: flow.to.to_string(),
            source_address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            destination_address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            protocol: flow.protocol,
            source_port: flow.source_port,
            destination_port: None,
            icmp: icmp(flow.protocol, flow.icmp),
            ip_version: flow.ip_version,
            original: None,
            original_to: flow.original_to.as_ref().map(ToString::to_string),
            original_port: flow.original_port,
            expect: flow.expect,
            unsupported: None,
        };
        let from = self.end("from", &flow.from, flow.ip_version)?;
        let to = self.end("to", &flow.to, flow.ip_version)?;
        let original = flow.original_to.as_ref().map(|party| self.end("originalTo", party, flow.ip_version));
        let ((_, source), (destination_place, destination), original) =
            match (from, to, original.transpose()?) {
                (Ok(from), Ok(to), None) => (from, to, None),
                (Ok(from), Ok(to), Some(Ok((_, original)))) => (from, to, Some(original)),
                (Err(why), _, _) | (_, Err(why), _) | (_, _, Some(Err(why))) => {
                    resolved.unsupported = Some(why);
                    return Ok(resolved);
                }
            };
        resolved.source_address = source;
        resolved.destination_address = destination;
        resolved.destination_port = match &flow.port {
            Some(PortReference::Name(name)) if flow.path == HostPath::ToHost => {
                Some(own_port(host_endpoint, name, flow)?)
            }
            Some(port) => Some(self.parties.port(port, &flow.to, flow.protocol, destination_place)?),
            None => None,
        };
        if original.is_some() || flow.original_port.is_some() {
            let port = flow.original_port.or(resolved.destination_port).unwrap_or_default();
            resolved.original = Some((original.unwrap_or(destination), port));
        }
        Ok(resolved)
    }

    /// As for other flows; and a destination before DNAT may be a service, at its cluster address.
    fn end(
        &self,
        field: &'static str,
        party: &Party,
        version: IpVersion,
    ) -> Result<super::resolve::End, FlowError> {
        if matches!(party, Party::Service { .. }) && field != "originalTo" {
            let message =
                "a host endpoint sees a service's backend; name that here, and the service as originalTo";
            return Err((field, message.to_owned()));
        }
        self.parties.end(field, party, version)
    }
}

/// The number of a port that a host endpoint gives a name.
fn own_port(host_endpoint: &HostEndpointInfo, name: &str, flow: &HostFlow) -> Result<u16, FlowError> {
    let found = host_endpoint.ports.iter().find(|port| port.name == name && port.protocol == flow.protocol);
    found.map(|port| port.port).ok_or_else(|| {
        let message = format!("{} has no {} port called {name:?}", host_endpoint.name, flow.protocol);
        ("port", message)
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Case, World};
    use super::*;

    const OBJECTS: &str = r#"
name: t
objects:
  - apiVersion: projectcalico.org/v3
    kind: HostEndpoint
    metadata: {name: eth0}
    spec: {node: edge, interfaceName: eth0, ports: [{name: ssh, protocol: TCP, port: 2222}]}
  - apiVersion: v1
    kind: Pod
    metadata: {name: web, namespace: shop}
    spec: {nodeName: node1, containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
    status: {podIPs: [{ip: 10.244.1.2}, {ip: "fd00:1::2"}]}
  - {apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.96.0.7, ports: [{port: 80}]}}
externals:
  - {name: client, ip: 203.0.113.7}
"#;

    fn world(flow: &str) -> Result<World, WorldError> {
        let text = format!("{OBJECTS}hostFlows:\n  - {{hostEndpoint: eth0, {flow}, expect: allow}}\n");
        Case::parse(&text).unwrap().world()
    }

    fn resolved(flow: &str) -> WorldHostFlow {
        world(flow).unwrap().host_flows.remove(0)
    }

    #[test]
    fn every_name_becomes_an_address_and_a_number() {
        let flow = resolved(
            "path: forward-in, protocol: TCP, from: external/client, to: shop/web, port: http, sourcePort: 99",
        );
        assert_eq!(flow.source_address.to_string(), "203.0.113.7");
        assert_eq!(flow.destination_address.to_string(), "10.244.1.2");
        assert_eq!((flow.source_port, flow.destination_port), (Some(99), Some(8080)));
        assert_eq!((flow.from.as_str(), flow.to.as_str()), ("external/client", "shop/web"));
        assert_eq!((flow.original, flow.icmp, flow.unsupported), (None, None, None));
        let flow = resolved("path: from-host, protocol: ICMPv6, from: 2001:db8::1, to: shop/web");
        assert_eq!(flow.destination_address.to_string(), "fd00:1::2");
        assert_eq!(flow.icmp.map(|icmp| icmp.kind), Some(128));
    }

    #[test]
    fn the_node_of_a_host_endpoint_exists_by_being_named() {
        let world =
            world("path: to-host, protocol: TCP, from: 203.0.113.9, to: node/edge, port: ssh").unwrap();
        let flow = &world.host_flows[0];
        let node = &world.nodes[flow.node];
        assert_eq!(node.name, "edge");
        assert_eq!(flow.destination_address, IpAddr::V4(node.address));
        assert_eq!(flow.destination_port, Some(2222));
    }

    #[test]
    fn the_destination_before_translation_may_be_a_service_or_another_port() {
        let to = "path: forward-in, protocol: TCP, from: 203.0.113.9, to: shop/web, port: 8080";
        let original = |more: &str| {
            let original = resolved(&format!("{to}, {more}")).original;
            original.map(|(address, port)| format!("{address} {port}")).unwrap_or_default()
        };
        assert_eq!(original("originalTo: service/shop/web, originalPort: 80"), "10.96.0.7 80");
        assert_eq!(original("originalTo: 192.0.2.99"), "192.0.2.99 8080");
        assert_eq!(original("originalPort: 80"), "10.244.1.2 80");
    }

    #[test]
    fn what_is_not_there_is_an_error_at_its_field() {
        let field = |flow: &str| world(flow).unwrap_err().field;
        let to_host = "path: to-host, protocol: TCP, from: 203.0.113.9";
        assert_eq!(field(&format!("{to_host}, to: node/edge, port: http")), "hostFlows[0].port");
        assert_eq!(field(&format!("{to_host}, to: shop/api, port: 1")), "hostFlows[0].to");
        assert_eq!(field(&format!("{to_host}, to: service/shop/web, port: 1")), "hostFlows[0].to");
        assert_eq!(
            field(&format!("{to_host}, to: node/edge, port: 1, originalTo: service/shop/db")),
            "hostFlows[0].originalTo"
        );
        assert_eq!(
            field("path: to-host, protocol: TCP, from: external/x, to: node/edge, port: 1"),
            "hostFlows[0].from"
        );
        let other = OBJECTS.replace("name: eth0}", "name: eth1}");
        let text = format!(
            "{other}hostFlows:\n  - {{hostEndpoint: eth0, {to_host}, to: node/edge, port: 1, expect: deny}}\n"
        );
        assert_eq!(Case::parse(&text).unwrap().world().unwrap_err().field, "hostFlows[0].hostEndpoint");
    }
}
