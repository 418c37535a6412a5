//! Who others take for whom: what leaves for the outside comes from the node's address, or from the pod's where no pool says so; services'
//! clients are served by somebody as long as there is anybody, and are told when there is not.

use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use caracal_model::object::{Kind, ObjectKey};
use serde_json::{Value, json};

use crate::{
    api::{pod_key, pool},
    lab::{Lab, Plan},
    machine::{PATIENCE, eventually},
    traffic::Place,
};

const PORT: u16 = 7001;
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

/// From where somebody is seen to come by TCP and by UDP, by who is asked.
fn seen_from(from: &Place, to: &Place) -> (IpAddr, IpAddr) {
    let listener = to.listen(PORT);
    let client = from.run(|| TcpStream::connect_timeout(&to.at(PORT), PATIENCE).unwrap());
    let (_, by_tcp) = listener.accept().unwrap();
    drop(client);
    let asker = from.udp(0);
    let asked = to.udp(PORT);
    asked.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut by_udp = None;
    eventually("a datagram arrives", || {
        let _ = asker.send_to(b"?", to.at(PORT));
        by_udp = asked.recv_from(&mut [0; 16]).ok();
        by_udp.is_some()
    });
    let (length, sender) = by_udp.unwrap();
    // The answer finds its way back, from whom was asked.
    asker.connect(to.at(PORT)).unwrap();
    asked.send_to(&vec![b'!'; length], sender).unwrap();
    eventually("the answer arrives", || asker.recv(&mut [0; 16]).is_ok());
    (by_tcp.ip(), sender.ip())
}

#[test]
fn what_leaves_the_cluster_comes_from_the_node() {
    let plan = Plan::pods(&[("a", "node1"), ("c", "node2")]).object(pool(
        "v6",
        "fd00:10:244::/48",
        json!({"vxlanMode": "Always", "natOutgoing": true}),
    ));
    let lab = Lab::up("nat-out", &plan);
    let outside = lab.outside(OUTSIDE);
    for (pod, node) in [("a", "node1"), ("c", "node2")] {
        let node = lab.node(node).address;
        assert_eq!(seen_from(&lab.pod(pod), &outside), (node, node), "{pod}, seen from outside");
    }
    let other_node = lab.node("node2");
    let own = lab.node("node1").address;
    assert_eq!(seen_from(&lab.pod("a"), &other_node), (own, own), "a, seen from another node's host");
    let outside_v6 = lab.outside("2001:db8::7".parse::<IpAddr>().unwrap());
    let (by_tcp, by_udp) = seen_from(&lab.pod_v6("a"), &outside_v6);
    println!("a, seen from outside over IPv6: {by_tcp}");
    assert_eq!(by_tcp, by_udp);
    assert_ne!(by_tcp, lab.pod_v6("a").address);
    // Pods see each other's own addresses.
    let (a, c) = (lab.pod("a"), lab.pod("c"));
    assert_eq!(seen_from(&a, &c), (a.address, a.address), "a, seen from a pod");
}

#[test]
fn what_leaves_the_cluster_comes_from_the_pod_where_no_pool_says_else() {
    let pool = pool("v4", "10.244.0.0/16", json!({"vxlanMode": "Always", "natOutgoing": false}));
    let lab = Lab::up("no-nat", &Plan::pods(&[("a", "node1")]).object(pool));
    let a = lab.pod("a");
    assert_eq!(seen_from(&a, &lab.outside(OUTSIDE)), (a.address, a.address));
}

/// Answers every connection with a name and echoes what comes.
fn serve(place: &Place, name: &'static str) {
    let listener = place.listen(PORT);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let (mut stream, mut buffer) = (stream, [0; 64]);
                let _ = stream.write_all(name.as_bytes());
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    let _ = stream.write_all(&buffer[..length]);
                }
            });
        }
    });
}

/// A connection to a service, and the name of who serves it.
fn connect(from: &Place, to: SocketAddr) -> std::io::Result<(TcpStream, String)> {
    connect_within(PATIENCE, from, to)
}

fn connect_within(limit: Duration, from: &Place, to: SocketAddr) -> std::io::Result<(TcpStream, String)> {
    let mut client = from.run(|| TcpStream::connect_timeout(&to, limit))?;
    client.set_read_timeout(Some(limit))?;
    let mut name = [0; 1];
    client.read_exact(&mut name)?;
    Ok((client, String::from_utf8_lossy(&name).into_owned()))
}

fn is_alive(client: &mut TcpStream) -> bool {
    client.write_all(b"ping").is_ok() && client.read_exact(&mut [0; 4]).is_ok()
}

fn service(more: Value) -> Value {
    let mut spec = json!({
        "clusterIP": "10.96.0.99", "selector": {"role": "server"}, "ports": [{"port": 80, "targetPort": PORT}],
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "default"}, "spec": spec})
}

fn server(name: &str, node: &str) -> Value {
    let mut pod = crate::api::pod(name, node);
    pod["metadata"]["labels"]["role"] = json!("server");
    pod
}

/// The service's address.
fn asked() -> SocketAddr {
    SocketAddr::from(([10, 96, 0, 99], 80))
}

fn plan(service: Value) -> Plan {
    Plan::pods(&[("a", "node1")]).object(server("b", "node1")).object(server("c", "node2")).object(service)
}

fn names(from: &Place, count: usize) -> Vec<String> {
    (0..count).map(|_| connect(from, asked()).unwrap().1).collect()
}

#[test]
fn connections_to_a_service_are_spread_and_each_stays_where_it_is() {
    let lab = Lab::up("spread", &plan(service(json!({}))));
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.pod(name));
    serve(&b, "b");
    serve(&c, "c");
    let who: BTreeSet<_> = names(&a, 64).into_iter().collect();
    assert_eq!(who.len(), 2, "64 connections went to {who:?} only");
    // What a backend that goes leaves behind: its own connections end, those of others go on; nobody new is sent to it.
    let mut clients: Vec<_> = (0..32).map(|_| connect(&a, asked()).unwrap()).collect();
    lab.kubernetes().delete(&pod_key("c")).unwrap();
    // One that c accepted in the moment it went would be waited for as long as for all of them.
    let new = || connect_within(Duration::from_secs(2), &a, asked());
    eventually("new connections go to who is left only", || {
        (0..16).all(|_| new().is_ok_and(|(_, name)| name == "b"))
    });
    for (client, name) in &mut clients {
        assert!(name != "b" || is_alive(client), "a connection to b broke when c went");
    }
}

#[test]
fn a_client_with_affinity_keeps_its_backend() {
    let lab = Lab::up("affinity", &plan(service(json!({"sessionAffinity": "ClientIP"}))));
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.pod(name));
    serve(&b, "b");
    serve(&c, "c");
    let who: BTreeSet<_> = names(&a, 32).into_iter().collect();
    assert_eq!(who.len(), 1, "one client was served by {who:?}");
    let others: BTreeSet<_> = names(&lab.node("node2"), 16).into_iter().collect();
    assert_eq!(others.len(), 1, "one client was served by {others:?}");
}

#[test]
fn who_asks_a_service_that_nobody_serves_is_told() {
    let lab = Lab::up("nobody", &plan(service(json!({"selector": {"role": "nobody"}}))));
    let a = lab.pod("a");
    let refused = connect(&a, asked()).map(drop).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{refused}");
    assert!(lab.dropped("node1", "service-no-backend") > 0);
    // And is served once somebody does.
    serve(&lab.pod("b"), "b");
    let key = ObjectKey::new(Kind::Service, Some("default"), "s");
    lab.kubernetes().merge(&key, json!({"spec": {"selector": {"role": "server", "app": "b"}}})).unwrap();
    eventually("the service is served", || connect(&a, asked()).is_ok_and(|(_, name)| name == "b"));
}

#[test]
fn a_service_goes_on_when_the_control_plane_dies() {
    let lab = Lab::up("service-kill", &plan(service(json!({"selector": {"app": "c"}}))));
    let (a, c) = (lab.pod("a"), lab.pod("c"));
    serve(&c, "c");
    let (mut client, _) = connect(&a, asked()).unwrap();
    for process in ["agent-node1", "apiserver"] {
        lab.kill(process);
        for _ in 0..20 {
            assert!(is_alive(&mut client), "{process} died, and a connection to a service with it");
            assert!(connect(&a, asked()).is_ok(), "{process} died, and a service cannot be asked");
            thread::sleep(Duration::from_millis(10));
        }
    }
}
