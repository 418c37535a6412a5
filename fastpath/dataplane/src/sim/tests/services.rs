//! Services that pods ask: by an address that nobody has, to a backend here or elsewhere, and back.

use super::super::datagram::{ACK, Datagram, RST, SYN, Socket};
use super::super::world::{A, B, NODE1, NODE2, OUTSIDE, REMOTE, VXLAN_PORT, op, pod};
use super::super::{Output, PortName};
use super::nat::{NODE_PORT, VIP, VIP_PORT, backend, service, with_services};
use super::support::*;
use crate::drop_reason::DropReason;
use caracal_plane_api::plane::op::Op as Kind;
use caracal_plane_api::plane::{Backend, Service};

const CLIENT: u16 = 40_000;

fn syn(from: Socket, to: Socket) -> Datagram {
    Datagram::tcp(from, to, SYN, b"")
}

#[test]
fn a_pod_asks_a_service_and_gets_the_services_answer() {
    let mut world = with_services(&[service("web", &[(REMOTE, 8080)])]);
    let (client, vip, server) = ((A, CLIENT), (VIP, VIP_PORT), (REMOTE, 8080));
    let out = world.send(&pod("a"), &from_pod(&syn(client, vip)));
    assert_eq!(unwrapped(&out[0]).0, syn(client, server).ttl(63));
    expect_counters!(world, { "flow_created": 1, "translations_made": 1, "translated": 1, "tunnel_encapsulated": 1 });

    let answer = Datagram::tcp(server, client, SYN | ACK, b"");
    let back = world.send(&PortName::Uplink, &from_tunnel(&answer));
    assert_eq!(back, [to_pod("a", &Datagram::tcp(vip, client, SYN | ACK, b"").ttl(63))]);
    expect_counters!(world, { "tunnel_decapsulated": 1, "flow_hits": 1, "translated": 1 });

    let data = Datagram::tcp(client, vip, ACK, b"GET /");
    let out = world.send(&pod("a"), &from_pod(&data));
    assert_eq!(unwrapped(&out[0]).0, Datagram::tcp(client, server, ACK, b"GET /").ttl(63));
    assert_eq!(world.flows(), 1);
}

#[test]
fn a_half_made_checksum_stays_half_made() {
    let mut world = with_services(&[service("web", &[(REMOTE, 8080)])]);
    let data = Datagram::tcp((A, CLIENT), (VIP, VIP_PORT), SYN, b"hello");
    let out = world.send(&pod("a"), &from_pod(&data.clone().partial()));
    assert_eq!(unwrapped(&out[0]).0, Datagram::tcp((A, CLIENT), (REMOTE, 8080), SYN, b"hello").ttl(63));
}

#[test]
fn a_backend_on_this_node_sees_the_pod_and_the_pod_sees_the_service() {
    let mut world = with_services(&[service("web", &[(B, 8080)])]);
    let (client, vip, server) = ((A, CLIENT), (VIP, VIP_PORT), (B, 8080));
    let out = world.send(&pod("a"), &from_pod(&syn(client, vip)));
    assert_eq!(out, [to_pod("b", &syn(client, server).ttl(63))]);
    let out = world.send(&pod("b"), &from_pod(&Datagram::tcp(server, client, SYN | ACK, b"")));
    assert_eq!(out, [to_pod("a", &Datagram::tcp(vip, client, SYN | ACK, b"").ttl(63))]);
}

#[test]
fn two_services_with_one_backend_are_two_connections_from_one_port() {
    const OTHER: [u8; 4] = [10, 96, 0, 99];
    let mut other = service("other", &[(REMOTE, 8080)]);
    other.frontends[0].address = OTHER.to_vec();
    let mut world = with_services(&[service("web", &[(REMOTE, 8080)]), other]);
    let client = (A, CLIENT);
    let first = unwrapped(&world.send(&pod("a"), &from_pod(&syn(client, (VIP, VIP_PORT))))[0]).0;
    let second = unwrapped(&world.send(&pod("a"), &from_pod(&syn(client, (OTHER, VIP_PORT))))[0]).0;
    assert_eq!(first, syn(client, (REMOTE, 8080)).ttl(63));
    let port = u16::from_be_bytes([second.body[0], second.body[1]]);
    assert_ne!(port, CLIENT);
    assert_eq!(second, syn((A, port), (REMOTE, 8080)).ttl(63));
    // And the backend itself is a third.
    let third = unwrapped(&world.send(&pod("a"), &from_pod(&syn(client, (REMOTE, 8080))))[0]).0;
    let third_port = u16::from_be_bytes([third.body[0], third.body[1]]);
    assert!(third_port != CLIENT && third_port != port);
    for (wire, asked) in [(CLIENT, (VIP, VIP_PORT)), (port, (OTHER, VIP_PORT)), (third_port, (REMOTE, 8080))]
    {
        let answer = Datagram::tcp((REMOTE, 8080), (A, wire), SYN | ACK, b"");
        let back = world.send(&PortName::Uplink, &from_tunnel(&answer));
        assert_eq!(back, [to_pod("a", &Datagram::tcp(asked, client, SYN | ACK, b"").ttl(63))]);
    }
}

#[test]
fn a_service_that_a_pod_asks_after_its_backend_gets_another_port() {
    let mut world = with_services(&[service("web", &[(REMOTE, 8080)])]);
    let client = (A, CLIENT);
    world.send(&pod("a"), &from_pod(&syn(client, (REMOTE, 8080))));
    let asked = unwrapped(&world.send(&pod("a"), &from_pod(&syn(client, (VIP, VIP_PORT))))[0]).0;
    assert_ne!(asked.body[..2], CLIENT.to_be_bytes());
    // The direct one is what it was.
    let answer = Datagram::tcp((REMOTE, 8080), client, SYN | ACK, b"");
    let back = world.send(&PortName::Uplink, &from_tunnel(&answer));
    assert_eq!(back, [to_pod("a", &answer.ttl(63))]);
}

#[test]
fn a_pod_that_is_its_own_backend_sees_the_node_as_its_client() {
    let mut world = with_services(&[service("web", &[(A, 8080)])]);
    let (client, vip) = ((A, CLIENT), (VIP, VIP_PORT));
    let out = world.send(&pod("a"), &from_pod(&syn(client, vip)));
    let [Output { port, frame }] = &out[..] else { panic!("{out:?}") };
    assert_eq!(*port, pod("a"));
    let asked = Datagram::read(frame).unwrap();
    assert_eq!((asked.source, asked.destination), (NODE1, A));
    let node_port = u16::from_be_bytes([asked.body[0], asked.body[1]]);
    assert!((20_000..30_000).contains(&node_port));
    assert_eq!(asked, syn((NODE1, node_port), (A, 8080)).ttl(63));
    let answer = Datagram::tcp((A, 8080), (NODE1, node_port), SYN | ACK, b"");
    let back = world.send(&pod("a"), &from_pod(&answer));
    assert_eq!(back, [to_pod("a", &Datagram::tcp(vip, client, SYN | ACK, b"").ttl(63))]);
    // And on.
    let out = world.send(&pod("a"), &from_pod(&Datagram::tcp(client, vip, ACK, b"hello")));
    assert_eq!(out, [to_pod("a", &Datagram::tcp((NODE1, node_port), (A, 8080), ACK, b"hello").ttl(63))]);
}

#[test]
fn a_service_without_backends_refuses() {
    let mut world = with_services(&[service("web", &[])]);
    let out = world.send(&pod("a"), &from_pod(&syn((A, CLIENT), (VIP, VIP_PORT))));
    let refusal = Datagram::read(&out[0].frame).unwrap();
    assert_eq!((refusal.source, refusal.destination, refusal.body[13]), (VIP, A, RST | ACK));
    expect_counters!(world, { "drop.service-no-backend": 1, "tcp_resets_sent": 1 });
    assert_eq!(world.node.tables().services.iter().next().unwrap().1.counts[0].refused.get(), 1);
}

#[test]
fn a_udp_service_without_backends_is_said_to_be_unreachable() {
    let mut world = with_services(&[Service { protocol: 17, ..service("dns", &[]) }]);
    let out = world.send(&pod("a"), &from_pod(&Datagram::udp((A, CLIENT), (VIP, VIP_PORT), b"?")));
    let refusal = Datagram::read(&out[0].frame).unwrap();
    assert_eq!((refusal.destination, refusal.protocol, &refusal.body[..2]), (A, 1, &[3, 3][..]));
    expect_counters!(world, { "drop.service-no-backend": 1, "icmp_errors_sent": 1 });
}

#[test]
fn a_port_that_a_service_does_not_have_is_refused_and_never_sent_to_the_fabric() {
    let mut world = with_services(&[service("web", &[(REMOTE, 8080)])]);
    let out = world.send(&pod("a"), &from_pod(&syn((A, CLIENT), (VIP, VIP_PORT + 1))));
    let refusal = Datagram::read(&out[0].frame).unwrap();
    assert_eq!((refusal.source, refusal.destination, refusal.body[13]), (VIP, A, RST | ACK));
    // Neither does it have another protocol, nor an echo.
    world.send(&pod("a"), &from_pod(&Datagram::udp((A, CLIENT), (VIP, VIP_PORT), b"?")));
    world.send(&pod("a"), &from_pod(&Datagram::echo(A, VIP, false, 1, 1)));
    // Nor does this host get further.
    let out = world.send(&PortName::Host, &from_host(&syn((NODE1, CLIENT), (VIP, VIP_PORT + 1))));
    assert!(out.iter().all(|output| output.port == PortName::Host), "{out:?}");
    expect_counters!(world, { "drop.service-no-port": 4, "tcp_resets_sent": 2, "icmp_errors_sent": 2, "to_host": 1 });
    // As soon as the service has gone, its address is like any other.
    world.apply(&[op(Kind::ServiceRemove(service("web", &[]).id))]);
    let out = world.send(&pod("a"), &from_pod(&syn((A, CLIENT), (VIP, VIP_PORT + 1))));
    assert_eq!(out.iter().map(|output| &output.port).collect::<Vec<_>>(), [&PortName::Uplink]);
}

#[test]
fn policy_local_without_a_backend_here_drops() {
    let mut web = service("web", &[(REMOTE, 8080)]);
    web.internal_local = true;
    let mut world = with_services(&[web]);
    assert_eq!(world.send(&pod("a"), &from_pod(&syn((A, CLIENT), (VIP, VIP_PORT)))), []);
    assert_eq!(world.node.drops(), [(DropReason::ServiceNoLocalBackend, 1)]);
}

#[test]
fn a_client_outside_the_source_ranges_is_dropped() {
    let mut web = service("web", &[(REMOTE, 8080)]);
    web.frontends[0].sources =
        vec![caracal_plane_api::plane::Prefix { address: vec![192, 0, 2, 0], length: 24 }];
    let mut world = with_services(&[web]);
    assert_eq!(world.send(&pod("a"), &from_pod(&syn((A, CLIENT), (VIP, VIP_PORT)))), []);
    assert_eq!(world.node.drops(), [(DropReason::ServiceSourceRange, 1)]);
}

#[test]
fn a_connection_keeps_its_backend_while_that_drains_and_loses_it_when_it_has_gone() {
    let mut world = with_services(&[service("web", &[(REMOTE, 8080)])]);
    let (client, vip) = ((A, CLIENT), (VIP, VIP_PORT));
    let data = || from_pod(&Datagram::tcp(client, vip, ACK, b"x"));
    world.send(&pod("a"), &from_pod(&syn(client, vip)));
    let mut web = service("web", &[(B, 8080)]);
    web.draining = vec![backend((REMOTE, 8080))];
    world.apply(&super::nat::ops(&[web.clone()]));
    assert_eq!(unwrapped(&world.send(&pod("a"), &data())[0]).0.destination, REMOTE);
    web.draining = Vec::new();
    world.apply(&super::nat::ops(&[web]));
    assert_eq!(world.send(&pod("a"), &data()), []);
    assert_eq!(world.node.drops(), [(DropReason::ServiceBackendGone, 1)]);
    assert_eq!(Datagram::read(&world.send(&pod("a"), &data())[0].frame).unwrap().destination, B);
}

#[test]
fn a_client_keeps_its_backend_for_as_long_as_the_service_says() {
    let backends: Vec<Socket> = (1..=100).map(|i| ([10, 244, 2, i], 8080)).collect();
    let mut web = service("web", &backends);
    web.affinity_seconds = 60;
    let mut world = with_services(&[web.clone()]);
    let asked = |world: &mut World, port| {
        unwrapped(&world.send(&pod("a"), &from_pod(&syn((A, port), (VIP, VIP_PORT))))[0]).0.destination
    };
    let first = asked(&mut world, 1000);
    assert!((1001..1050).all(|port| asked(&mut world, port) == first));
    // New ones come, and take places from all; the client stays where it is.
    web.cluster.extend((101..=250).map(|i| backend(([10, 244, 2, i], 8080))));
    world.apply(&super::nat::ops(&[web.clone()]));
    world.now += 60_000;
    assert_eq!(asked(&mut world, 1050), first);
    // Unless its backend leaves.
    web.cluster.retain(|backend| backend.address != first);
    world.apply(&super::nat::ops(&[web]));
    assert_ne!(asked(&mut world, 1051), first);
}

#[test]
fn an_error_about_a_translated_packet_is_about_the_one_that_the_pod_sent() {
    let mut world = with_services(&[service("web", &[(REMOTE, 8080)])]);
    let (client, vip, server) = ((A, CLIENT), (VIP, VIP_PORT), (REMOTE, 8080));
    world.send(&pod("a"), &from_pod(&syn(client, vip)));
    for quoted in [28, 40] {
        // The backend itself says so, and then a router on the way does.
        for (speaker, known_as) in [(REMOTE, VIP), (OUTSIDE, OUTSIDE)] {
            let on_wire = Datagram::error(speaker, A, 3, 1, [0; 4], &syn(client, server), quoted);
            let back = match speaker {
                REMOTE => world.send(&PortName::Uplink, &from_tunnel(&on_wire)),
                _ => world.send(&PortName::Uplink, &from_uplink(&on_wire)),
            };
            let expected = Datagram::error(known_as, A, 3, 1, [0; 4], &syn(client, vip), quoted);
            assert_eq!(back, [to_pod("a", &expected.ttl(63))]);
        }
    }
}

#[test]
fn a_pods_error_about_an_answer_reaches_the_backend_as_about_its_own_packet() {
    let mut world = with_services(&[Service { protocol: 17, ..service("dns", &[(REMOTE, 5353)]) }]);
    let (client, vip, server) = ((A, CLIENT), (VIP, VIP_PORT), (REMOTE, 5353));
    world.send(&pod("a"), &from_pod(&Datagram::udp(client, vip, b"?")));
    let seen = Datagram::udp(vip, client, b"!");
    let out = world.send(&pod("a"), &from_pod(&Datagram::error(A, VIP, 3, 3, [0; 4], &seen, 28)));
    let expected = Datagram::error(A, REMOTE, 3, 3, [0; 4], &Datagram::udp(server, client, b"!"), 28);
    assert_eq!(unwrapped(&out[0]).0, expected.ttl(63));
}

#[test]
fn a_packet_too_big_for_the_way_to_the_backend_is_quoted_as_the_pod_sent_it() {
    let mut world = with_services(&[service("web", &[(REMOTE, 8080)])]);
    let (client, vip) = ((A, CLIENT), (VIP, VIP_PORT));
    world.send(&pod("a"), &from_pod(&syn(client, vip)));
    let big = Datagram::tcp(client, vip, ACK, &[7; 1420]).dont_fragment();
    let out = world.send(&pod("a"), &from_pod(&big));
    let told = Datagram::read(&out[0].frame).unwrap();
    assert_eq!((told.source, told.destination, &told.body[..2]), (NODE1, A, &[3, 4][..]));
    // Its time to live is that at the place of the error.
    let quoted = &told.body[8..];
    assert_eq!(quoted[12..20], [A, VIP].concat());
    assert_eq!(quoted[20..24], [CLIENT, VIP_PORT].map(u16::to_be_bytes).concat());
    assert_eq!(super::super::datagram::checksum(&quoted[..20]), 0);
    assert_eq!(super::super::datagram::checksum(&told.body), 0);
}

#[test]
fn a_denied_connection_to_a_service_leaves_nothing_behind() {
    let mut world = with_services(&[service("web", &[(REMOTE, 8080)])]);
    let mut ops = super::nat::ops(&[service("web", &[(REMOTE, 8080)])]);
    super::nat::deny_egress(&mut ops, "a");
    world.apply(&ops);
    assert_eq!(world.send(&pod("a"), &from_pod(&syn((A, CLIENT), (VIP, VIP_PORT)))), []);
    assert_eq!(world.node.drops(), [(DropReason::PolicyDeny, 1)]);
    assert!(world.node.engine_mut().pipeline.translations.is_empty());
}

#[test]
fn backends_are_named_by_the_plane() {
    let Backend { address, port } = backend((REMOTE, 8080));
    assert_eq!((address.as_slice(), port), (&REMOTE[..], 8080));
}

#[test]
fn nobody_sends_vxlan_to_a_node_by_way_of_a_service() {
    let mut hidden = service("hidden", &[(NODE2, VXLAN_PORT)]);
    hidden.protocol = 17;
    let mut world = World::new();
    world.apply(&super::nat::ops(&[hidden]));
    let by_pod = from_pod(&Datagram::udp((A, CLIENT), (VIP, VIP_PORT), b"forged"));
    assert_eq!(world.send(&pod("a"), &by_pod), []);
    assert_eq!(world.node.drops(), [(DropReason::PodSentTunnel, 1)]);
    let by_stranger = from_uplink(&Datagram::udp((OUTSIDE, CLIENT), (NODE1, NODE_PORT), b"forged"));
    assert_eq!(world.send(&PortName::Uplink, &by_stranger), []);
    assert_eq!(world.node.drops(), [(DropReason::NatImpossible, 1)]);
}
