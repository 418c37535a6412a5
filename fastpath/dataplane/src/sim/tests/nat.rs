//! What the node itself translates: services asked from outside and by this host, pods' packets to outside, and what this
//! host sends to pods of other nodes.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use super::super::datagram::{ACK, Datagram, SYN};
use super::super::datagram6::Datagram6;
use super::super::world::{self, A, B, NODE1, NODE1_6, NODE2, OUTSIDE, OUTSIDE6, REMOTE, TUNNEL1, pod};
use super::super::{Output, PortName};
use super::fragments::{cut, put_together};
use super::ipv6::{A6, B6, from_pod6, from_uplink6, hop, to_pod6};
use super::support::*;
use crate::drop_reason::DropReason;
use caracal_plane_api::plane::{self, Op, Service, op::Op as Kind};

pub use super::super::services::{NODE_PORT, VIP, VIP_PORT, VIP6, backend, service};

/// The world, with natOutgoing for pods, node ports and these services.
pub fn ops(services: &[Service]) -> Vec<Op> {
    super::super::services::ops(services, None)
}

/// The same without natOutgoing.
pub fn with_services(services: &[Service]) -> World {
    let mut world = World::new();
    let mut ops = ops(services);
    for op in &mut ops {
        if let Some(Kind::NodeConfig(config)) = &mut op.op {
            config.nat_outgoing = None;
        }
    }
    world.apply(&ops);
    world
}

fn with_all(services: &[Service]) -> World {
    let mut world = World::new();
    world.apply(&ops(services));
    world
}

pub fn deny_egress(ops: &mut [Op], name: &str) {
    for op in ops {
        match &mut op.op {
            Some(Kind::Endpoint(endpoint)) if endpoint.id == format!("default/{name}") => {
                endpoint.profiles.clear();
            }
            _ => {}
        }
    }
}

fn ports_of(datagram: &Datagram) -> (u16, u16) {
    let word = |at| u16::from_be_bytes([datagram.body[at], datagram.body[at + 1]]);
    (word(0), word(2))
}

#[track_caller]
fn only(outputs: &[Output], port: &PortName) -> Datagram {
    let [output] = outputs else { panic!("{outputs:?}") };
    assert_eq!(output.port, *port);
    Datagram::read(&output.frame).expect("a plain packet")
}

// ---- natOutgoing ----

#[test]
fn a_pod_speaks_to_the_world_in_the_nodes_name() {
    let mut world = with_all(&[]);
    let (client, server) = ((A, 40_000), (OUTSIDE, 443));
    let out = world.send(&pod("a"), &from_pod(&Datagram::tcp(client, server, SYN, b"")));
    let sent = only(&out, &PortName::Uplink);
    let (port, _) = ports_of(&sent);
    assert!((20_000..30_000).contains(&port));
    assert_eq!(sent, Datagram::tcp((NODE1, port), server, SYN, b"").ttl(63));
    let answer = Datagram::tcp(server, (NODE1, port), SYN | ACK, b"");
    let back = world.send(&PortName::Uplink, &from_uplink(&answer));
    assert_eq!(back, [to_pod("a", &Datagram::tcp(server, client, SYN | ACK, b"").ttl(63))]);
    let out = world.send(&pod("a"), &from_pod(&Datagram::tcp(client, server, ACK, b"x")));
    assert_eq!(out, [to_uplink(&Datagram::tcp((NODE1, port), server, ACK, b"x").ttl(63))]);
}

#[test]
fn pods_of_one_port_are_told_apart() {
    let mut world = with_all(&[]);
    let server = (OUTSIDE, 53);
    let ports = [("a", A), ("b", B)].map(|(name, address)| {
        // The port that they have is one of the node's: only one of them can keep it.
        let out = world.send(&pod(name), &from_pod(&Datagram::udp((address, 20_500), server, b"?")));
        ports_of(&only(&out, &PortName::Uplink)).0
    });
    assert_eq!(ports[0], 20_500);
    assert_ne!(ports[1], 20_500);
    for ((name, address), port) in [("a", A), ("b", B)].into_iter().zip(ports) {
        let back = world.send(&PortName::Uplink, &from_uplink(&Datagram::udp(server, (NODE1, port), b"!")));
        assert_eq!(back, [to_pod(name, &Datagram::udp(server, (address, 20_500), b"!").ttl(63))]);
    }
}

#[test]
fn a_pod_that_is_asked_from_outside_answers_in_its_own_name() {
    let mut world = with_all(&[]);
    let (client, server) = ((OUTSIDE, 40_000), (A, 80));
    world.send(&PortName::Uplink, &from_uplink(&Datagram::tcp(client, server, SYN, b"")));
    let answer = Datagram::tcp(server, client, SYN | ACK, b"");
    assert_eq!(world.send(&pod("a"), &from_pod(&answer)), [to_uplink(&answer.ttl(63))]);
    // And complains in its own.
    let question = Datagram::udp((OUTSIDE, 40_001), (A, 81), b"?");
    world.send(&PortName::Uplink, &from_uplink(&question));
    let error = Datagram::error(A, OUTSIDE, 3, 3, [0; 4], &question, 28);
    assert_eq!(world.send(&pod("a"), &from_pod(&error)), [to_uplink(&error.ttl(63))]);
}

#[test]
fn a_ping_is_known_again_by_its_identifier() {
    let mut world = with_all(&[]);
    let out = world.send(&pod("a"), &from_pod(&Datagram::echo(A, OUTSIDE, false, 7, 1)));
    let sent = only(&out, &PortName::Uplink);
    let identifier = u16::from_be_bytes([sent.body[4], sent.body[5]]);
    assert_eq!(sent, Datagram::echo(NODE1, OUTSIDE, false, identifier, 1).ttl(63));
    let reply = Datagram::echo(OUTSIDE, NODE1, true, identifier, 1);
    let back = world.send(&PortName::Uplink, &from_uplink(&reply));
    assert_eq!(back, [to_pod("a", &Datagram::echo(OUTSIDE, A, true, 7, 1).ttl(63))]);
}

#[test]
fn what_goes_to_pods_of_other_nodes_keeps_its_source() {
    let mut world = with_all(&[]);
    let packet = Datagram::udp((A, 1000), (world::PLAIN_REMOTE, 53), b"?");
    assert_eq!(world.send(&pod("a"), &from_pod(&packet)), [to_uplink(&packet.ttl(63))]);
}

#[test]
fn other_nodes_see_the_node_unless_they_are_excluded() {
    let mut world = with_all(&[]);
    let packet = Datagram::udp((A, 1000), (NODE2, 53), b"?");
    assert_eq!(only(&world.send(&pod("a"), &from_pod(&packet)), &PortName::Uplink).source, NODE1);
    let mut ops = ops(&[]);
    for op in &mut ops {
        if let Some(Kind::NodeConfig(config)) = &mut op.op {
            config.nat_outgoing.as_mut().unwrap().exclude_hosts = true;
        }
    }
    world.apply(&ops);
    let packet = Datagram::udp((A, 1001), (NODE2, 53), b"?");
    assert_eq!(world.send(&pod("a"), &from_pod(&packet)), [to_uplink(&packet.ttl(63))]);
}

#[test]
fn an_error_about_what_left_in_the_nodes_name_finds_the_pod() {
    let mut world = with_all(&[]);
    let sent = Datagram::udp((A, 1000), (OUTSIDE, 53), b"?");
    let wire = only(&world.send(&pod("a"), &from_pod(&sent)), &PortName::Uplink);
    let error = Datagram::error([192, 0, 2, 254], NODE1, 3, 1, [0; 4], &wire, 28);
    let back = world.send(&PortName::Uplink, &from_uplink(&error));
    let quoted = Datagram::error([192, 0, 2, 254], A, 3, 1, [0; 4], &sent.ttl(63), 28);
    assert_eq!(back, [to_pod("a", &quoted.ttl(63))]);
}

#[test]
fn a_pods_error_about_an_answer_leaves_in_the_nodes_name() {
    let mut world = with_all(&[]);
    let sent = Datagram::udp((A, 1000), (OUTSIDE, 53), b"?");
    let wire = only(&world.send(&pod("a"), &from_pod(&sent)), &PortName::Uplink);
    let (port, _) = ports_of(&wire);
    let answer = Datagram::udp((OUTSIDE, 53), (A, 1000), b"!");
    let out = world.send(&pod("a"), &from_pod(&Datagram::error(A, OUTSIDE, 3, 3, [0; 4], &answer, 28)));
    let answer = Datagram::udp((OUTSIDE, 53), (NODE1, port), b"!");
    assert_eq!(out, [to_uplink(&Datagram::error(NODE1, OUTSIDE, 3, 3, [0; 4], &answer, 28).ttl(63))]);
}

#[test]
fn our_own_error_about_an_answer_quotes_what_its_sender_sent() {
    let mut world = with_all(&[]);
    let sent = Datagram::udp((A, 1000), (OUTSIDE, 53), b"?");
    let (port, _) = ports_of(&only(&world.send(&pod("a"), &from_pod(&sent)), &PortName::Uplink));
    let answer = Datagram::udp((OUTSIDE, 53), (NODE1, port), b"!").ttl(1);
    let out = world.send(&PortName::Uplink, &from_uplink(&answer));
    let told = only(&out, &PortName::Uplink);
    let expected = Datagram::error(NODE1, OUTSIDE, 11, 0, [0; 4], &answer, 100);
    assert_eq!(told, Datagram { tos: told.tos, ..expected });
}

#[test]
fn when_all_ports_are_taken_for_a_destination_the_next_is_dropped_and_others_are_not() {
    let mut world = World::new();
    let mut ops = ops(&[]);
    for op in &mut ops {
        if let Some(Kind::NodeConfig(config)) = &mut op.op {
            config.nat_outgoing.as_mut().unwrap().ports =
                Some(plane::PortRange { first: 50_000, last: 50_003 });
        }
    }
    world.apply(&ops);
    let mut ports: Vec<u16> = (0..4)
        .map(|i| {
            let out = world.send(&pod("a"), &from_pod(&Datagram::udp((A, 1000 + i), (OUTSIDE, 53), b"?")));
            ports_of(&only(&out, &PortName::Uplink)).0
        })
        .collect();
    ports.sort_unstable();
    assert_eq!(ports, [50_000, 50_001, 50_002, 50_003]);
    let next = from_pod(&Datagram::udp((A, 2000), (OUTSIDE, 53), b"?"));
    assert_eq!(world.send(&pod("a"), &next), []);
    assert_eq!(world.node.drops(), [(DropReason::NatPortsExhausted, 1)]);
    let other = from_pod(&Datagram::udp((A, 2000), (OUTSIDE, 54), b"?"));
    assert_eq!(world.send(&pod("a"), &other).len(), 1);
    // Once they have been silent for as long as their kind lives, their ports are free again.
    world.now += 60_001;
    assert_eq!(world.send(&pod("a"), &next).len(), 1);
}

#[test]
fn what_comes_for_a_port_that_nobody_has_is_the_hosts() {
    let mut world = with_all(&[]);
    let packet = Datagram::udp((OUTSIDE, 53), (NODE1, 25_000), b"!");
    assert_eq!(world.send(&PortName::Uplink, &from_uplink(&packet)), [to_host(PortName::Host, &packet)]);
}

// ---- services from outside ----

#[test]
fn a_node_port_with_a_backend_here_keeps_the_clients_address() {
    let mut world = with_all(&[service("web", &[(A, 8080)])]);
    let (client, asked, server) = ((OUTSIDE, 5000), (NODE1, NODE_PORT), (A, 8080));
    let out = world.send(&PortName::Uplink, &from_uplink(&Datagram::tcp(client, asked, SYN, b"")));
    assert_eq!(out, [to_pod("a", &Datagram::tcp(client, server, SYN, b"").ttl(63))]);
    let answer = Datagram::tcp(server, client, SYN | ACK, b"");
    let back = world.send(&pod("a"), &from_pod(&answer));
    assert_eq!(back, [to_uplink(&Datagram::tcp(asked, client, SYN | ACK, b"").ttl(63))]);
    let out = world.send(&PortName::Uplink, &from_uplink(&Datagram::tcp(client, asked, ACK, b"x")));
    assert_eq!(out, [to_pod("a", &Datagram::tcp(client, server, ACK, b"x").ttl(63))]);
}

#[test]
fn a_node_port_with_a_backend_elsewhere_leaves_by_the_tunnel_in_its_name() {
    let mut world = with_all(&[service("web", &[(REMOTE, 8080)])]);
    let (client, asked, server) = ((OUTSIDE, 5000), (NODE1, NODE_PORT), (REMOTE, 8080));
    let out = world.send(&PortName::Uplink, &from_uplink(&Datagram::tcp(client, asked, SYN, b"")));
    let sent = unwrapped(&out[0]).0;
    let (port, _) = ports_of(&sent);
    assert_eq!(sent, Datagram::tcp((TUNNEL1, port), server, SYN, b"").ttl(63));
    let answer = Datagram::tcp(server, (TUNNEL1, port), SYN | ACK, b"");
    let back = world.send(&PortName::Uplink, &from_tunnel(&answer));
    assert_eq!(back, [to_uplink(&Datagram::tcp(asked, client, SYN | ACK, b"").ttl(63))]);
}

#[test]
fn policy_local_drops_where_there_is_no_backend_for_who_asks_from_outside_only() {
    let mut web = service("web", &[(REMOTE, 8080)]);
    web.external_local = true;
    let mut world = with_all(&[web]);
    let asked = (NODE1, NODE_PORT);
    let out = world.send(&PortName::Uplink, &from_uplink(&Datagram::tcp((OUTSIDE, 5000), asked, SYN, b"")));
    assert_eq!(out, []);
    assert_eq!(world.node.drops(), [(DropReason::ServiceNoLocalBackend, 1)]);
    assert_eq!(world.send(&pod("a"), &from_pod(&Datagram::tcp((A, 5000), asked, SYN, b""))).len(), 1);
}

#[test]
fn errors_of_both_sides_of_a_node_port_are_about_what_their_receivers_sent() {
    let mut world = with_all(&[service("web", &[(REMOTE, 8080)])]);
    let (client, asked, server) = ((OUTSIDE, 5000), (NODE1, NODE_PORT), (REMOTE, 8080));
    let syn = Datagram::tcp(client, asked, SYN, b"");
    let sent = unwrapped(&world.send(&PortName::Uplink, &from_uplink(&syn))[0]).0;
    let (port, _) = ports_of(&sent);
    let error = Datagram::error(REMOTE, TUNNEL1, 3, 3, [0; 4], &sent, 28);
    let back = world.send(&PortName::Uplink, &from_tunnel(&error));
    let expected = Datagram::error(NODE1, OUTSIDE, 3, 3, [0; 4], &syn.ttl(63), 28);
    assert_eq!(back, [to_uplink(&expected.ttl(63))]);
    let answer = Datagram::tcp(asked, client, SYN | ACK, b"");
    let error = Datagram::error(OUTSIDE, NODE1, 3, 3, [0; 4], &answer, 28);
    let out = world.send(&PortName::Uplink, &from_uplink(&error));
    let answer = Datagram::tcp(server, (TUNNEL1, port), SYN | ACK, b"");
    let expected = Datagram::error(TUNNEL1, REMOTE, 3, 3, [0; 4], &answer, 28);
    assert_eq!(unwrapped(&out[0]).0, expected.ttl(63));
}

#[test]
fn a_clients_packet_that_is_too_big_for_the_tunnel_is_quoted_as_the_client_sent_it() {
    let mut world = with_all(&[service("web", &[(REMOTE, 8080)])]);
    let (client, asked) = ((OUTSIDE, 5000), (NODE1, NODE_PORT));
    world.send(&PortName::Uplink, &from_uplink(&Datagram::tcp(client, asked, SYN, b"")));
    let big = Datagram::tcp(client, asked, ACK, &[7; 1420]).dont_fragment();
    let out = world.send(&PortName::Uplink, &from_uplink(&big));
    let told = Datagram::read(&out[0].frame).unwrap();
    assert_eq!((told.source, told.destination, &told.body[..2]), (NODE1, OUTSIDE, &[3, 4][..]));
    let quoted = &told.body[8..];
    assert_eq!(quoted[12..20], [OUTSIDE, NODE1].concat());
    assert_eq!(quoted[20..24], [client.1, asked.1].map(u16::to_be_bytes).concat());
    assert_eq!(super::super::datagram::checksum(&told.body), 0);
}

#[test]
fn a_pods_error_about_a_clients_packet_reaches_the_client() {
    let mut world = with_all(&[Service { protocol: 17, ..service("dns", &[(A, 5353)]) }]);
    let (client, asked) = ((OUTSIDE, 5000), (NODE1, NODE_PORT));
    let question = Datagram::udp(client, asked, b"?");
    let seen = only(&world.send(&PortName::Uplink, &from_uplink(&question)), &pod("a"));
    let error = Datagram::error(A, OUTSIDE, 3, 3, [0; 4], &seen, 28);
    let back = world.send(&pod("a"), &from_pod(&error));
    assert_eq!(
        back,
        [to_uplink(&Datagram::error(NODE1, OUTSIDE, 3, 3, [0; 4], &question.ttl(63), 28).ttl(63))]
    );
}

#[test]
fn nobody_on_the_fabric_answers_for_a_backend_behind_a_tunnel() {
    let mut world = with_all(&[service("web", &[(REMOTE, 8080)])]);
    let syn = Datagram::tcp((OUTSIDE, 5000), (NODE1, NODE_PORT), SYN, b"");
    let sent = unwrapped(&world.send(&PortName::Uplink, &from_uplink(&syn))[0]).0;
    let forged = Datagram::tcp((REMOTE, 8080), (TUNNEL1, ports_of(&sent).0), SYN | ACK, b"");
    assert_eq!(world.send(&PortName::Uplink, &from_uplink(&forged)), []);
    assert_eq!(world.node.drops(), [(DropReason::FabricSpoofedSource, 1)]);
}

#[test]
fn nobody_on_the_fabric_goes_on_asking_for_this_host() {
    let mut world = with_all(&[service("web", &[(A, 8080)])]);
    let asked = Datagram::tcp((NODE1, 33_000), (VIP, VIP_PORT), SYN, b"");
    assert_eq!(world.send(&PortName::Host, &from_host(&asked)).len(), 1);
    assert_eq!(world.send(&PortName::Uplink, &from_uplink(&asked)), []);
    assert_eq!(world.node.drops(), [(DropReason::FabricSpoofedSource, 1)]);
}

// ---- this host ----

#[test]
fn this_host_asks_a_service_with_a_backend_here() {
    let mut world = with_all(&[service("web", &[(A, 8080)])]);
    let (client, vip, server) = ((NODE1, 33_000), (VIP, VIP_PORT), (A, 8080));
    let out = world.send(&PortName::Host, &from_host(&Datagram::tcp(client, vip, SYN, b"")));
    assert_eq!(out, [to_pod("a", &Datagram::tcp(client, server, SYN, b""))]);
    let back = world.send(&pod("a"), &from_pod(&Datagram::tcp(server, client, SYN | ACK, b"")));
    assert_eq!(back, [to_host(PortName::Host, &Datagram::tcp(vip, client, SYN | ACK, b""))]);
}

#[test]
fn this_host_asks_a_service_with_a_backend_elsewhere() {
    let mut world = with_all(&[service("web", &[(REMOTE, 8080)])]);
    let (client, vip, server) = ((NODE1, 33_000), (VIP, VIP_PORT), (REMOTE, 8080));
    let out = world.send(&PortName::Host, &from_host(&Datagram::tcp(client, vip, SYN, b"")));
    let sent = unwrapped(&out[0]).0;
    let (port, _) = ports_of(&sent);
    assert_eq!(sent, Datagram::tcp((TUNNEL1, port), server, SYN, b""));
    let answer = Datagram::tcp(server, (TUNNEL1, port), SYN | ACK, b"");
    let back = world.send(&PortName::Uplink, &from_tunnel(&answer));
    assert_eq!(back, [to_host(PortName::Host, &Datagram::tcp(vip, client, SYN | ACK, b""))]);
}

#[test]
fn a_backend_on_this_host_is_spoken_to_in_the_name_of_the_service() {
    let mut world = with_all(&[service("api", &[(NODE1, 6443)])]);
    for (client, asked, way_in) in [
        ((NODE1, 33_000), (VIP, VIP_PORT), PortName::Host),
        ((OUTSIDE, 5000), (NODE1, NODE_PORT), PortName::Uplink),
    ] {
        let syn = Datagram::tcp(client, asked, SYN, b"");
        let frame = if way_in == PortName::Host { from_host(&syn) } else { from_uplink(&syn) };
        let sent = only(&world.send(&way_in, &frame), &PortName::Host);
        assert_eq!((sent.source, sent.destination), (VIP, NODE1));
        let (port, _) = ports_of(&sent);
        let answer = Datagram::tcp((NODE1, 6443), (VIP, port), SYN | ACK, b"");
        let back = only(&world.send(&PortName::Host, &from_host(&answer)), &way_in);
        assert_eq!(back, Datagram::tcp(asked, client, SYN | ACK, b""));
    }
}

#[test]
fn a_pod_asks_a_service_of_this_host() {
    let mut world = with_all(&[service("api", &[(NODE1, 6443)])]);
    let (client, vip, server) = ((A, 40_000), (VIP, VIP_PORT), (NODE1, 6443));
    let out = world.send(&pod("a"), &from_pod(&Datagram::tcp(client, vip, SYN, b"")));
    assert_eq!(out, [to_host(PortName::Host, &Datagram::tcp(client, server, SYN, b""))]);
    let back = world.send(&PortName::Host, &from_host(&Datagram::tcp(server, client, SYN | ACK, b"")));
    assert_eq!(back, [to_pod("a", &Datagram::tcp(vip, client, SYN | ACK, b""))]);
}

#[test]
fn this_host_speaks_to_other_nodes_pods_in_the_tunnels_name() {
    let mut world = with_all(&[]);
    let (client, server) = ((NODE1, 33_000), (REMOTE, 10_250));
    let out = world.send(&PortName::Host, &from_host(&Datagram::tcp(client, server, SYN, b"")));
    let sent = unwrapped(&out[0]).0;
    let (port, _) = ports_of(&sent);
    assert_eq!(sent, Datagram::tcp((TUNNEL1, port), server, SYN, b""));
    let answer = Datagram::tcp(server, (TUNNEL1, port), SYN | ACK, b"");
    let back = world.send(&PortName::Uplink, &from_tunnel(&answer));
    assert_eq!(back, [to_host(PortName::Host, &Datagram::tcp(server, client, SYN | ACK, b""))]);
    // With the tunnel's own address nothing need be done.
    let own = Datagram::tcp((TUNNEL1, 33_001), server, SYN, b"");
    assert_eq!(unwrapped(&world.send(&PortName::Host, &from_host(&own))[0]).0, own);
}

// ---- datagrams in parts ----

/// Sends all parts, in this order, and returns what came out at one place, put together.
fn through(
    world: &mut World,
    way_in: &PortName,
    parts: &[Vec<u8>],
    order: [usize; 3],
) -> (PortName, Datagram) {
    let outputs: Vec<Output> =
        order.into_iter().flat_map(|which| world.send(way_in, &parts[which])).collect();
    assert_eq!(outputs.len(), 3);
    let port = outputs[0].port.clone();
    assert!(outputs.iter().all(|output| output.port == port));
    let parts = outputs.iter().map(|output| Datagram::read(&output.frame).unwrap()).collect();
    (port, put_together(parts))
}

#[test]
fn datagrams_in_parts_are_translated_as_whole_ones_are() {
    for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
        let mut world = with_all(&[Service { protocol: 17, ..service("dns", &[(A, 5353)]) }]);
        let payload: Vec<u8> = (0..100).collect();
        let in_parts = |whole: &Datagram, frame: fn(&Datagram) -> Vec<u8>| -> Vec<Vec<u8>> {
            cut(whole, &[16, 48]).iter().map(frame).collect()
        };
        // Out of a pool, and back.
        let there = Datagram::udp((B, 1000), (OUTSIDE, 53), &payload).identified(7);
        let (port, wire) = through(&mut world, &pod("b"), &in_parts(&there, from_pod), order);
        let node = ports_of(&wire).0;
        let expected = Datagram::udp((NODE1, node), (OUTSIDE, 53), &payload).identified(7).ttl(63);
        assert_eq!((port, wire), (PortName::Uplink, expected));
        let back = Datagram::udp((OUTSIDE, 53), (NODE1, node), &payload).identified(8);
        let got = through(&mut world, &PortName::Uplink, &in_parts(&back, from_uplink), order);
        let expected = Datagram::udp((OUTSIDE, 53), (B, 1000), &payload).identified(8).ttl(63);
        assert_eq!(got, (pod("b"), expected));
        // From a pod to a service, and from outside.
        let asked = Datagram::udp((B, 1001), (VIP, VIP_PORT), &payload).identified(9);
        let got = through(&mut world, &pod("b"), &in_parts(&asked, from_pod), order);
        let expected = Datagram::udp((B, 1001), (A, 5353), &payload).identified(9).ttl(63);
        assert_eq!(got, (pod("a"), expected));
        let asked = Datagram::udp((OUTSIDE, 1001), (NODE1, NODE_PORT), &payload).identified(10);
        let got = through(&mut world, &PortName::Uplink, &in_parts(&asked, from_uplink), order);
        let expected = Datagram::udp((OUTSIDE, 1001), (A, 5353), &payload).identified(10).ttl(63);
        assert_eq!(got, (pod("a"), expected));
        let answer = Datagram::udp((A, 5353), (OUTSIDE, 1001), &payload).identified(11);
        let got = through(&mut world, &pod("a"), &in_parts(&answer, from_pod), order);
        let expected = Datagram::udp((NODE1, NODE_PORT), (OUTSIDE, 1001), &payload).identified(11).ttl(63);
        assert_eq!(got, (PortName::Uplink, expected));
    }
}

// ---- what goes wrong ----

/// Every reason that translation has to drop a packet.
pub fn dropped() -> BTreeSet<DropReason> {
    let mut reasons = BTreeSet::new();
    let mut note =
        |world: &mut World| reasons.extend(world.node.drops().into_iter().map(|(reason, _)| reason));
    let syn = |from, to| Datagram::tcp(from, to, SYN, b"");
    let ask = |port| from_pod(&syn((A, port), (VIP, VIP_PORT)));

    let mut world = with_all(&[service("web", &[])]);
    world.send(&pod("a"), &ask(1));
    let local = Service { internal_local: true, ..service("web", &[(REMOTE, 8080)]) };
    world.apply(&ops(std::slice::from_ref(&local)));
    world.send(&pod("a"), &ask(1));
    let mut closed = service("web", &[(REMOTE, 8080)]);
    closed.frontends[0].sources = vec![plane::Prefix { address: vec![192, 0, 2, 0], length: 24 }];
    world.apply(&ops(&[closed]));
    world.send(&pod("a"), &ask(1));
    world.apply(&ops(&[service("web", &[(REMOTE, 8080)])]));
    world.send(&pod("a"), &ask(1));
    world.apply(&ops(&[service("web", &[(B, 8080)])]));
    world.send(&pod("a"), &from_pod(&Datagram::tcp((A, 1), (VIP, VIP_PORT), ACK, b"x")));
    // A client that speaks to the backend itself, and then to the node from the same port.
    world.send(&PortName::Uplink, &from_uplink(&syn((OUTSIDE, 5000), (B, 8080))));
    world.send(&PortName::Uplink, &from_uplink(&syn((OUTSIDE, 5000), (NODE1, NODE_PORT))));
    // A translation that has gone before its flow.
    world.send(&pod("a"), &ask(2));
    world.node.engine_mut().pipeline.translations.sweep(10_000, crate::clock::Tick(world.now), |_| false);
    world.send(&pod("b"), &from_pod(&Datagram::tcp((B, 8080), (A, 2), SYN | ACK, b"")));
    world.send(&pod("a"), &from_pod(&Datagram::new(A, OUTSIDE, 47, &[0; 8])));
    world.send(&pod("a"), &from_pod(&syn((A, 3), (VIP, VIP_PORT + 1))));
    note(&mut world);

    let mut world = World::with(world::kernel(), 128);
    let mut narrow = ops(&[Service { protocol: 17, ..service("dns", &[(REMOTE, 53)]) }]);
    for op in &mut narrow {
        if let Some(Kind::NodeConfig(config)) = &mut op.op {
            config.nat_outgoing.as_mut().unwrap().ports = Some(plane::PortRange { first: 1, last: 1 });
        }
    }
    world.apply(&narrow);
    for port in 1..=2 {
        world.send(&pod("a"), &from_pod(&Datagram::udp((A, port), (OUTSIDE, 53), b"?")));
    }
    for port in 1..=65 {
        world.send(&pod("a"), &from_pod(&Datagram::udp((A, port), (VIP, VIP_PORT), b"?")));
        world.send(&PortName::Uplink, &from_tunnel(&Datagram::udp((REMOTE, 53), (A, port), b"!")));
    }
    note(&mut world);
    reasons
}

// ---- IPv6 ----

const ROUTER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xfe);

#[track_caller]
fn only6(outputs: &[Output], port: &PortName) -> Datagram6 {
    let [output] = outputs else { panic!("{outputs:?}") };
    assert_eq!(output.port, *port);
    Datagram6::read(&output.frame).expect("a plain IPv6 packet")
}

fn source_port6(datagram: &Datagram6) -> u16 {
    u16::from_be_bytes([datagram.body[0], datagram.body[1]])
}

#[test]
fn a_pod_asks_a_service_over_ipv6() {
    let mut world = with_all(&[service("web", &[(B, 8080)])]);
    let (client, vip, server) = ((A6, 40_000), (VIP6, VIP_PORT), (B6, 8080));
    let out = world.send(&pod("a"), &from_pod6(&Datagram6::tcp(client, vip, SYN, b"")));
    assert_eq!(out, [to_pod6("b", &hop(&Datagram6::tcp(client, server, SYN, b"")))]);
    let out = world.send(&pod("b"), &from_pod6(&Datagram6::tcp(server, client, SYN | ACK, b"")));
    assert_eq!(out, [to_pod6("a", &hop(&Datagram6::tcp(vip, client, SYN | ACK, b"")))]);
}

#[test]
fn a_pod_speaks_to_the_world_over_ipv6_in_the_nodes_name() {
    let mut world = with_all(&[]);
    let (client, server) = ((A6, 40_000), (OUTSIDE6, 443));
    let sent = Datagram6::udp(client, server, b"?");
    let wire = only6(&world.send(&pod("a"), &from_pod6(&sent)), &PortName::Uplink);
    let port = source_port6(&wire);
    assert_eq!(wire, hop(&Datagram6::udp((NODE1_6, port), server, b"?")));
    let answer = Datagram6::udp(server, (NODE1_6, port), b"!");
    let back = world.send(&PortName::Uplink, &from_uplink6(&answer));
    assert_eq!(back, [to_pod6("a", &hop(&Datagram6::udp(server, client, b"!")))]);
    // Somebody on the way says that it was too big.
    let error = Datagram6::error(ROUTER6, NODE1_6, (2, 0), 1280, &wire, 1000);
    let back = world.send(&PortName::Uplink, &from_uplink6(&error));
    let expected = Datagram6::error(ROUTER6, A6, (2, 0), 1280, &hop(&sent), 1000);
    assert_eq!(back, [to_pod6("a", &hop(&expected))]);
    // And a ping.
    let ping = Datagram6::echo(A6, OUTSIDE6, false, 7, 1);
    let wire = only6(&world.send(&pod("a"), &from_pod6(&ping)), &PortName::Uplink);
    let identifier = u16::from_be_bytes([wire.body[4], wire.body[5]]);
    assert_eq!(wire, hop(&Datagram6::echo(NODE1_6, OUTSIDE6, false, identifier, 1)));
    let reply = Datagram6::echo(OUTSIDE6, NODE1_6, true, identifier, 1);
    let back = world.send(&PortName::Uplink, &from_uplink6(&reply));
    assert_eq!(back, [to_pod6("a", &hop(&Datagram6::echo(OUTSIDE6, A6, true, 7, 1)))]);
}

#[test]
fn a_node_port_is_asked_over_ipv6() {
    let mut world = with_all(&[service("web", &[(A, 8080)])]);
    let (client, asked, server) = ((OUTSIDE6, 5000), (NODE1_6, NODE_PORT), (A6, 8080));
    let out = world.send(&PortName::Uplink, &from_uplink6(&Datagram6::tcp(client, asked, SYN, b"")));
    assert_eq!(out, [to_pod6("a", &hop(&Datagram6::tcp(client, server, SYN, b"")))]);
    let back = world.send(&pod("a"), &from_pod6(&Datagram6::tcp(server, client, SYN | ACK, b"")));
    assert_eq!(only6(&back, &PortName::Uplink), hop(&Datagram6::tcp(asked, client, SYN | ACK, b"")));
}
