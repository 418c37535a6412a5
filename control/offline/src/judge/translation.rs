//! What may become of a packet on its way: the backend that it is for, and who stands for its sender.
//!
//! Nothing of the production tables is asked here. A packet that comes out is read, and must be exactly what its sender
//! would have said, had it spoken from there to there.

use std::fmt;
use std::net::IpAddr;

use caracal_model::case::report::{Observation, Observed};
use caracal_model::case::{Place, World, WorldFlow};
use caracal_model::convert::service_slice;
use caracal_model::object::Object;
use caracal_wire::Malformed;

use super::fabric::Journey;
use super::packet::{Talk, is_same};

/// A question as it was heard.
#[derive(Debug, Clone)]
pub(super) struct Heard {
    /// Where.
    pub(super) place: Place,
    /// Who spoke to whom, as the other end sees it.
    pub(super) talk: Talk,
    pub(super) datagram: Vec<u8>,
    at: String,
}

impl fmt::Display for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Talk { source, source_port, destination, destination_port, .. } = self.talk;
        write!(
            f,
            "heard by {} at {destination} port {destination_port} from {source} port {source_port}",
            self.at
        )
    }
}

/// Who heard question `number` of `talk`, which was sent as `sent`; else what is to be said of the flow.
pub(super) fn heard(
    world: &World,
    flow: &WorldFlow,
    talk: &Talk,
    number: usize,
    sent: &[u8],
    journey: &Journey,
) -> Result<Result<Heard, Observation>, Malformed> {
    let error = |why: String| Ok(Err(Observation::new(Observed::Error, why)));
    let is_kept = flow.service.is_none() && !is_masqueraded(world, flow);
    if is_kept {
        let heard =
            Heard { place: flow.destination, talk: *talk, datagram: sent.to_vec(), at: flow.to.clone() };
        return Ok(journey.arrived_at(flow.destination, sent, "the packet").map(|()| heard));
    }
    let mut strays = Vec::new();
    for (place, datagram) in journey.arrivals() {
        let arrived = Talk::of(datagram)?;
        let as_if = Talk { icmp: talk.icmp, ..arrived };
        let said = as_if.questions()?.into_iter().nth(number).unwrap_or_default();
        if !is_same(&said, datagram) {
            strays.push(format!("{datagram:02x?} at {place:?}"));
            continue;
        }
        let at = name_of(world, *place, arrived.destination);
        let heard = Heard { place: *place, talk: as_if, datagram: datagram.clone(), at };
        if let Some(why) = objection(world, flow, talk, &heard) {
            return error(format!("{heard}: {why}"));
        }
        return Ok(Ok(heard));
    }
    if strays.is_empty() {
        // Nothing came out: as for any other packet.
        return Ok(match journey.arrived_at(flow.destination, sent, "the packet") {
            Ok(()) => Err(Observation::new(Observed::Error, "the packet was not translated")),
            Err(observation) => Err(observation),
        });
    }
    match journey.denial() {
        Some(observation) => Ok(Err(observation)),
        None => error(format!("what came out is nothing that was said: {}", strays.join("; "))),
    }
}

/// Why a question may not have been heard like this.
fn objection(world: &World, flow: &WorldFlow, talk: &Talk, heard: &Heard) -> Option<String> {
    let arrived = &heard.talk;
    if place_of(world, arrived.destination) != heard.place {
        return Some("that address is somewhere else".to_owned());
    }
    match flow.service {
        Some(service) if !is_backend(world, service, arrived.destination, arrived.destination_port) => {
            return Some(format!("that is no backend of {}", flow.to));
        }
        None if (arrived.destination, arrived.destination_port)
            != (talk.destination, talk.destination_port) =>
        {
            return Some("nobody asked for another destination".to_owned());
        }
        _ => {}
    }
    let is_kept = (arrived.source, arrived.source_port) == (talk.source, talk.source_port);
    let is_a_nodes = world
        .nodes
        .iter()
        .any(|node| node.has_address(arrived.source) || node.has_tunnel_address(arrived.source));
    // To a process of its own host a node speaks in the service's name, whose address the host's routes lead back to its
    // fastpath.
    let is_the_services = matches!(heard.place, Place::Node(_))
        && flow
            .service
            .and_then(|service| world.services.get(service))
            .is_some_and(|service| service.cluster_ips.contains(&arrived.source));
    let must_be_a_nodes = is_masqueraded(world, flow);
    match (is_kept, is_a_nodes || is_the_services) {
        (_, true) => None,
        (true, false) if !must_be_a_nodes => None,
        (true, false) => Some("natOutgoing should have given it its node's address".to_owned()),
        (false, false) => Some("that source is nobody's who could stand for its sender".to_owned()),
    }
}

/// Whether a flow leaves its node for outside all pools, from a pool that says natOutgoing.
fn is_masqueraded(world: &World, flow: &WorldFlow) -> bool {
    let Place::Pod(pod) = flow.source else { return false };
    let is_own_host = matches!(flow.destination, Place::Node(node)
        if world.pods.get(pod).is_some_and(|pod| pod.node == node));
    let leaves = matches!(flow.destination, Place::External | Place::Node(_)) && !is_own_host;
    let excludes_hosts = world.objects.iter().any(|object| match object {
        Object::FelixConfiguration(configuration) => {
            let exclusions = configuration.spec.0.get("natOutgoingExclusions");
            exclusions.and_then(serde_json::Value::as_str) == Some("IPPoolsAndHostIPs")
        }
        _ => false,
    });
    let is_excluded = matches!(flow.destination, Place::Node(_)) && excludes_hosts;
    let nats = world.pools.iter().any(|pool| pool.nat_outgoing && pool.cidr.contains(flow.source_address));
    let stays = world.pools.iter().any(|pool| pool.cidr.contains(flow.destination_address));
    leaves && nats && !stays && !is_excluded
}

fn is_backend(world: &World, service: usize, address: IpAddr, port: u16) -> bool {
    let Some(service) = world.services.get(service) else { return false };
    world.objects.iter().any(|object| {
        let Object::EndpointSlice(slice) = object else { return false };
        let slice = service_slice(slice);
        slice.service.as_ref() == Some(&service.key)
            && slice.ports.iter().any(|(_, _, number)| *number == port)
            && slice.endpoints.iter().any(|endpoint| endpoint.address == address)
    })
}

fn place_of(world: &World, address: IpAddr) -> Place {
    let pod = world.pods.iter().position(|pod| !pod.host_network && pod.addresses.contains(&address));
    let node = || world.nodes.iter().position(|node| node.has_address(address));
    pod.map(Place::Pod).or_else(|| node().map(Place::Node)).unwrap_or(Place::External)
}

fn name_of(world: &World, place: Place, address: IpAddr) -> String {
    match place {
        Place::Pod(pod) => world.pods.get(pod).map(|pod| format!("{}/{}", pod.namespace, pod.name)),
        Place::Node(node) => world.nodes.get(node).map(|node| format!("node/{}", node.name)),
        Place::Service(_) | Place::External => None,
    }
    .unwrap_or_else(|| address.to_string())
}
