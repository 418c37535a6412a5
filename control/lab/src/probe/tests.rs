use super::*;
use crate::responder::{self, Listening};

/// A namespace of this test's own, with its loopback up.
struct Namespace(String);

impl Namespace {
    fn new(what: &str) -> Self {
        let name = format!("crt{}-{what}", std::process::id());
        netns::create(&netns::path(&name)).expect("this test makes a network namespace and needs root");
        let namespace = Self(name);
        crate::network::inside(&namespace.0, what, |netlink| {
            let loopback = netlink.link("lo").unwrap().index;
            netlink.set_up(loopback).unwrap();
            Ok(())
        })
        .unwrap();
        namespace
    }

    fn probe(&self, protocol: Protocol, port: u16) -> Probe {
        Probe {
            netns: self.0.clone(),
            source: None,
            source_port: None,
            destination: Ipv4Addr::LOCALHOST.into(),
            port,
            protocol,
            timeout: Duration::from_secs(60),
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = netns::remove(&netns::path(&self.0));
    }
}

fn served(what: &str) -> (Namespace, tokio::runtime::Runtime) {
    let namespace = Namespace::new(what);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut listening = Listening::default();
    for protocol in [Protocol::TCP, Protocol::UDP, Protocol::SCTP] {
        listening.add(protocol, Some(7));
    }
    listening.add(Protocol(47), None);
    responder::open(runtime.handle(), &namespace.0, what, &listening, &[Domain::IPV4, Domain::IPV6]).unwrap();
    (namespace, runtime)
}

#[test]
fn whoever_listens_answers_in_every_protocol() {
    let (namespace, _runtime) = served("answers");
    for protocol in [Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::ICMP, Protocol(47)] {
        assert_eq!(namespace.probe(protocol, 7).send(), Answer::Echoed, "{protocol}");
    }
}

#[test]
fn whoever_listens_answers_over_ipv6_too() {
    let (namespace, _runtime) = served("answers6");
    for protocol in [Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::ICMPV6, Protocol(47)] {
        let probe = Probe { destination: Ipv6Addr::LOCALHOST.into(), ..namespace.probe(protocol, 7) };
        assert_eq!(probe.send(), Answer::Echoed, "{protocol}");
        let refused = Probe { port: 8, ..probe };
        let expected = if protocol == Protocol::ICMPV6 || protocol == Protocol(47) {
            Answer::Echoed
        } else {
            Answer::Refused
        };
        assert_eq!(refused.send(), expected, "{protocol}");
    }
}

#[test]
fn a_port_without_a_listener_refuses() {
    let (namespace, _runtime) = served("refuses");
    for protocol in [Protocol::TCP, Protocol::UDP, Protocol::SCTP] {
        assert_eq!(namespace.probe(protocol, 8).send(), Answer::Refused, "{protocol}");
    }
}

#[test]
fn where_no_way_leads_there_is_silence() {
    let namespace = Namespace::new("silence");
    for protocol in [Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::ICMP, Protocol(47)] {
        let probe =
            Probe { destination: Ipv4Addr::new(198, 51, 100, 1).into(), ..namespace.probe(protocol, 7) };
        assert!(matches!(probe.send(), Answer::Silence(_)), "{protocol}: {:?}", probe.send());
    }
}

#[test]
fn an_answer_that_does_not_come_in_time_is_silence() {
    let namespace = Namespace::new("late");
    // A listener that accepts and says nothing.
    let listener =
        netns::within(&netns::path(&namespace.0), || std::net::TcpListener::bind("127.0.0.1:7")).unwrap();
    let _listener = listener.unwrap();
    let probe = Probe { timeout: Duration::from_millis(50), ..namespace.probe(Protocol::TCP, 7) };
    let Answer::Silence(what) = probe.send() else { panic!("{:?}", probe.send()) };
    assert!(what.contains("the byte did not come back"), "{what}");
}

#[test]
fn a_flow_may_start_from_a_port_that_its_sender_listens_on() {
    let (namespace, _runtime) = served("both");
    for protocol in [Protocol::TCP, Protocol::UDP, Protocol::SCTP] {
        let destination = Ipv4Addr::new(127, 0, 0, 2).into();
        let probe = Probe { source_port: Some(7), destination, ..namespace.probe(protocol, 7) };
        assert_eq!(probe.send(), Answer::Echoed, "{protocol}");
    }
}

#[test]
fn the_source_port_is_the_one_asked_for() {
    let namespace = Namespace::new("port");
    let inside = || std::net::UdpSocket::bind("127.0.0.1:7");
    let server = netns::within(&netns::path(&namespace.0), inside).unwrap().unwrap();
    let probe = Probe {
        source_port: Some(5353),
        timeout: Duration::from_millis(200),
        ..namespace.probe(Protocol::UDP, 7)
    };
    probe.send();
    let (_, sender) = server.recv_from(&mut [0; 64]).unwrap();
    assert_eq!(sender.port(), 5353);
}
