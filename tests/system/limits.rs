//! What a pod may move, by its annotations. Bounds are generous: what is asked is that a limit shows, and where.

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    api::{annotated, pod},
    lab::{Lab, Plan},
    machine::{PATIENCE, eventually},
    traffic::{Place, Stream, transfer},
};

/// Two pods, `a` on node1 with annotations, `c` on node2 without.
fn lab(name: &str, annotations: Value) -> (Lab, Place, Place) {
    let plan = Plan::bare().object(annotated(pod("a", "node1"), annotations)).object(pod("c", "node2"));
    let lab = Lab::up(name, &plan);
    let (a, c) = (lab.pod("a"), lab.pod("c"));
    (lab, a, c)
}

#[test]
fn bandwidth_is_limited_in_the_direction_that_the_annotation_names() {
    let limits = json!({
        "qos.projectcalico.org/egressBandwidth": "5M",
        "qos.projectcalico.org/egressBurst": "1M",
    });
    let (_lab, a, c) = lab("bandwidth", limits);
    let out = transfer(&a, &c, 7001, 2 << 20);
    let back = transfer(&c, &a, 7002, 64 << 20);
    println!("a limit of 5 Mbit/s on what leaves: {out:.1} Mbit/s out, {back:.0} Mbit/s in");
    assert!(out < 7.5, "{out:.1} Mbit/s leave where 5 may");
    assert!(back > 10.0, "{back:.0} Mbit/s arrive where nothing is limited");
}

#[test]
fn packets_are_limited_in_the_direction_that_the_annotation_names() {
    let limits = json!({
        "qos.projectcalico.org/ingressPacketRate": "1000",
        "qos.projectcalico.org/ingressPacketBurst": "100",
    });
    let (lab, a, c) = lab("packets", limits);
    let start = Instant::now();
    let streams = [Stream::start(&c, &a, 7001, 4000), Stream::start(&a, &c, 7002, 4000)];
    let by_limit = || -> u64 {
        lab.drops("node1").iter().filter(|(name, _)| name.contains("limit")).map(|(_, count)| count).sum()
    };
    thread::sleep(Duration::from_secs(2));
    eventually("the limit drops", || by_limit() > 0);
    let [limited, free] = streams.map(Stream::end);
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "a limit of 1000 packets/s on what arrives: {} of {} in {seconds:.1} s; the other way {} of {}",
        limited.received, limited.sent, free.received, free.sent
    );
    let most = seconds * 1000.0 + 100.0;
    assert!((limited.received as f64) < most * 1.2, "{} packets in {seconds:.1} s", limited.received);
    let least = (limited.sent as f64).min(seconds * 1000.0) / 2.0;
    assert!(limited.received as f64 > least, "{} packets in {seconds:.1} s", limited.received);
    free.assert_whole("the direction without a limit");
}

#[test]
fn one_connection_too_many_is_reset() {
    let (_lab, a, c) = lab("connections", json!({"qos.projectcalico.org/ingressMaxConnections": "3"}));
    let listener = a.run(|| TcpListener::bind(a.at(7001)).unwrap());
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let (mut stream, mut buffer) = (stream, [0; 16]);
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    let _ = stream.write_all(&buffer[..length]);
                }
            });
        }
    });
    let connect = || {
        let mut client = c.run(|| TcpStream::connect_timeout(&a.at(7001), PATIENCE))?;
        client.set_read_timeout(Some(PATIENCE))?;
        client.write_all(b"ping")?;
        client.read_exact(&mut [0; 4])?;
        Ok::<_, std::io::Error>(client)
    };
    let mut clients: Vec<TcpStream> = (0..3).map(|_| connect().unwrap()).collect();
    let refused = connect().expect_err("a fourth connection was made where three may be");
    println!("the fourth connection: {refused}");
    assert!(
        matches!(refused.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset),
        "the fourth connection was not reset: {refused}"
    );
    for client in &mut clients {
        client.write_all(b"ping").unwrap();
        client.read_exact(&mut [0; 4]).expect("a connection within the limit");
    }
    drop(clients.pop());
    eventually("a connection that has ended makes room", || connect().is_ok());
}
