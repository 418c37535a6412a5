//! Every translation is undone exactly: random connections of all kinds through a node of one worker and of two, against
//! a model that is nothing but a map from what is on the wire to what was asked.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::datagram::{ACK, Datagram, SYN, Socket};
use super::super::world::{A, B, C, NODE1, OUTSIDE, REMOTE, pod};
use super::super::{Output, PortName};
use super::nat::{NODE_PORT, VIP, VIP_PORT, ops, service};
use super::support::*;
use super::workers::Pair;
use crate::drop_reason::DropReason;
use caracal_plane_api::plane::{Op, Service};

const OUTSIDE_TOO: [u8; 4] = [198, 51, 100, 10];
const DNS: u16 = 53;

/// Whom packets can go through.
enum Node {
    One(Box<World>),
    Two(Box<Pair>),
}

impl Node {
    fn send(&mut self, port: &PortName, frame: &[u8]) -> Vec<Output> {
        match self {
            Node::One(world) => world.send(port, frame),
            Node::Two(pair) => pair.send(port, frame),
        }
    }
}

fn said() -> Vec<Op> {
    let backends = [(A, 8080), (B, 8080), (REMOTE, 8080), ([10, 244, 2, 8], 8080), (NODE1, 8080)];
    let web = service("web", &backends);
    let mut dns = Service { protocol: 17, ..service("dns", &backends) };
    for frontend in &mut dns.frontends {
        frontend.port = if frontend.external { u32::from(NODE_PORT) } else { u32::from(DNS) };
    }
    ops(&[web, dns])
}

fn one() -> Node {
    let mut world = World::with(super::super::world::kernel(), 4096);
    world.apply(&said());
    Node::One(Box::new(world))
}

fn two() -> Node {
    Node::Two(Box::new(Pair::told(&said(), 512, 64)))
}

/// A connection as its opener has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Connection {
    opener: Opener,
    tcp: bool,
    client: Socket,
    asked: Socket,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Opener {
    Pod(&'static str),
    Outside,
    Host,
}

impl Opener {
    fn port(self) -> PortName {
        match self {
            Opener::Pod(name) => pod(name),
            Opener::Outside => PortName::Uplink,
            Opener::Host => PortName::Host,
        }
    }

    fn frame(self, datagram: &Datagram) -> Vec<u8> {
        match self {
            Opener::Pod(_) => from_pod(datagram),
            Opener::Outside => from_uplink(datagram),
            Opener::Host => from_host(datagram),
        }
    }
}

impl Connection {
    fn packet(&self, from: Socket, to: Socket, first: bool, payload: &[u8]) -> Datagram {
        match self.tcp {
            true => Datagram::tcp(from, to, if first { SYN } else { ACK }, payload),
            false => Datagram::udp(from, to, payload),
        }
    }
}

/// Where somebody answers, and how the connection looks there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Answering {
    place: PortName,
    by_tunnel: bool,
    tcp: bool,
    client: Socket,
    server: Socket,
}

/// What has left, as whoever answers gets it.
fn received(output: &Output) -> Option<(Answering, Datagram)> {
    let plain = Datagram::read(&output.frame)?;
    let is_tunnel =
        output.port == PortName::Uplink && plain.protocol == 17 && plain.body[2..4] == [0x12, 0xb5];
    let packet = if is_tunnel { unwrapped(output).0 } else { plain };
    let port = |at: usize| u16::from_be_bytes([packet.body[at], packet.body[at + 1]]);
    let answering = Answering {
        place: output.port.clone(),
        by_tunnel: is_tunnel,
        tcp: packet.protocol == 6,
        client: (packet.source, port(0)),
        server: (packet.destination, port(2)),
    };
    Some((answering, packet))
}

impl Answering {
    fn frame(&self, datagram: &Datagram) -> Vec<u8> {
        match &self.place {
            PortName::Pod(_) => from_pod(datagram),
            PortName::Host | PortName::Forward => from_host(datagram),
            _ if self.by_tunnel => from_tunnel(datagram),
            _ => from_uplink(datagram),
        }
    }
}

fn any_connection() -> impl Strategy<Value = Connection> {
    let opener = prop_oneof![
        prop::sample::select(vec![("a", A), ("b", B), ("c", C)])
            .prop_map(|(name, address)| (Opener::Pod(name), address)),
        prop::sample::select(vec![OUTSIDE, OUTSIDE_TOO]).prop_map(|address| (Opener::Outside, address)),
        Just((Opener::Host, NODE1)),
    ];
    // Few ports, so that connections collide; one is of the range that the node takes its own from.
    let port = prop::sample::select(vec![1000, 1001, 20_001, 40_000]);
    (opener, port, any::<bool>(), 0u8..4).prop_map(|((opener, address), port, tcp, what)| {
        let service = if tcp { VIP_PORT } else { DNS };
        let asked = match (opener, what) {
            (Opener::Outside, _) => (NODE1, NODE_PORT),
            (_, 0) => (VIP, service),
            (Opener::Pod(_), 1) => (NODE1, NODE_PORT),
            (Opener::Pod(_), 2) => (OUTSIDE, 443),
            (_, _) => (REMOTE, 8080),
        };
        Connection { opener, tcp, client: (address, port), asked }
    })
}

/// Opens connections, and has them answered in another order. What each opener gets must be what it would get if nobody
/// had translated anything.
fn try_all(mut node: Node, connections: &[Connection], answers: &[prop::sample::Index]) {
    let mut model: BTreeMap<Answering, Connection> = BTreeMap::new();
    let mut known: BTreeMap<Connection, (Answering, Datagram)> = BTreeMap::new();
    for connection in connections {
        let first = connection.packet(connection.client, connection.asked, true, b"question");
        let out = node.send(&connection.opener.port(), &connection.opener.frame(&first));
        assert_eq!(out.len(), 1, "{connection:?} gave {out:?}");
        let (answering, packet) = received(&out[0]).expect("a whole packet");
        assert!(packet.checksum_is_right(), "{connection:?}");
        assert_eq!(packet.body[if connection.tcp { 20 } else { 8 }..], *b"question");
        match known.get(connection) {
            Some((before, _)) => assert_eq!(answering, *before, "{connection:?} has moved"),
            None => {
                let other = model.insert(answering.clone(), *connection);
                assert_eq!(other, None, "{connection:?} looks like another one");
                known.insert(*connection, (answering, packet));
            }
        }
    }
    let known: Vec<_> = known.into_iter().collect();
    for index in answers {
        let (connection, (answering, sent)) = index.get(&known);
        let answer = connection.packet(answering.server, answering.client, false, b"answer");
        let back = node.send(&answering.place, &answering.frame(&answer));
        let [back] = &back[..] else { panic!("the answer to {connection:?} gave {back:?}") };
        let got = Datagram::read(&back.frame).expect("a whole packet");
        let expected = connection.packet(connection.asked, connection.client, false, b"answer");
        assert_eq!((&back.port, &got), (&connection.opener.port(), &expected.ttl(got.ttl)));

        // Whoever answers, or somebody on its side, complains about what it got.
        let error = Datagram::error(answering.server.0, answering.client.0, 3, 3, [0; 4], sent, 28);
        let back = node.send(&answering.place, &answering.frame(&error));
        let [back] = &back[..] else { panic!("the error about {connection:?} gave {back:?}") };
        let got = Datagram::read(&back.frame).expect("a whole packet");
        let first = connection.packet(connection.client, connection.asked, true, b"question").ttl(sent.ttl);
        let expected =
            Datagram::error(connection.asked.0, connection.client.0, 3, 3, [0; 4], &first, 28).ttl(got.ttl);
        assert_eq!((&back.port, &got), (&connection.opener.port(), &expected));

        // And the opener about the answer.
        let answer = connection.packet(connection.asked, connection.client, false, b"answer");
        let error = Datagram::error(connection.client.0, connection.asked.0, 3, 3, [0; 4], &answer, 28);
        let out = node.send(&connection.opener.port(), &connection.opener.frame(&error));
        let [out] = &out[..] else { panic!("the opener's error of {connection:?} gave {out:?}") };
        let got = match answering.by_tunnel {
            true => unwrapped(out).0,
            false => Datagram::read(&out.frame).expect("a whole packet"),
        };
        let answer = connection.packet(answering.server, answering.client, false, b"answer");
        let expected =
            Datagram::error(answering.client.0, answering.server.0, 3, 3, [0; 4], &answer, 28).ttl(got.ttl);
        assert_eq!((&out.port, &got), (&answering.place, &expected));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 64 } else { 512 }))]

    #[test]
    fn every_translation_is_undone_by_one_worker(
        connections in prop::collection::vec(any_connection(), 1..30),
        answers in prop::collection::vec(any::<prop::sample::Index>(), 1..20),
    ) {
        try_all(one(), &connections, &answers);
    }

    #[test]
    fn every_translation_is_undone_by_two_workers(
        connections in prop::collection::vec(any_connection(), 1..30),
        answers in prop::collection::vec(any::<prop::sample::Index>(), 1..20),
    ) {
        try_all(two(), &connections, &answers);
    }
}

#[test]
fn a_client_of_the_backend_itself_and_of_the_service_is_never_two_in_one() {
    let said = ops(&[service("web", &[(A, 8080)])]);
    let mut world = World::new();
    world.apply(&said);
    for mut node in [Node::One(Box::new(world)), Node::Two(Box::new(Pair::told(&said, 512, 64)))] {
        let client = (OUTSIDE, 1000);
        let direct = node.send(&PortName::Uplink, &from_uplink(&Datagram::tcp(client, (A, 8080), SYN, b"")));
        assert_eq!(direct.len(), 1);
        let asked = Datagram::tcp(client, (NODE1, NODE_PORT), SYN, b"");
        assert_eq!(node.send(&PortName::Uplink, &from_uplink(&asked)), []);
        let dropped: Vec<DropReason> = match &mut node {
            Node::One(world) => world.node.drops().into_iter().map(|(reason, _)| reason).collect(),
            Node::Two(pair) => pair.dropped().into_iter().collect(),
        };
        assert_eq!(dropped, [DropReason::NatClash]);
    }
}
