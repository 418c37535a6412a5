//! Tables that change as fast as the plane's socket takes it, under traffic of which every second packet is a flow's first.

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{self, AddressFamily, SockFlag, SockProtocol, SockType, SockaddrIn, sockopt};

use super::*;

/// Where the pod listens.
const PORT: u16 = 7001;
/// Sent a second: few enough for the rings to hold what comes while a busy machine keeps the worker from its CPU for a third of
/// a second. What is lost then is not lost to tables.
const RATE: f64 = 3_000.0;
/// Transactions that are under way before the first of them must be acknowledged.
const AHEAD: usize = 256;
/// Rules of the policy that is stated anew all the time.
const RULES: u32 = 100;

/// Datagrams with their numbers from the machine to the pod: of one flow, and each second one of another flow. Gives how
/// many were sent.
fn send(stop: &AtomicBool, from: &OwnedFd) -> u64 {
    let [near, pod] = [NEAR, POD].map(|address| address.parse::<Ipv4Addr>().unwrap());
    let to = SockaddrIn::new(10, 244, 1, 2, 0);
    let (mut turn, mut due) = (Instant::now(), 0.0_f64);
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        // After a pause it does not catch up: what is tested is not how much the rings hold.
        let now = Instant::now();
        due = (due + (now - turn).as_secs_f64() * RATE).min(32.0);
        turn = now;
        while due >= 1.0 {
            due -= 1.0;
            let source = if number.is_multiple_of(2) { 1000 } else { 2000 + (number / 2 % 60_000) as u16 };
            let datagram = udp(source, PORT, &number.to_be_bytes());
            let packet = ipv4(near, pod, 17, 0, &datagram);
            // Without the Ethernet header.
            socket::sendto(from.as_raw_fd(), &packet[14..], &to, socket::MsgFlags::empty()).unwrap();
            number += 1;
        }
        thread::sleep(Duration::from_micros(300));
    }
    number
}

/// The numbers that arrive, until nothing has come for a while after `stop`.
fn receive(stop: &AtomicBool, socket: &UdpSocket) -> Vec<u64> {
    let mut numbers = Vec::new();
    let mut payload = [0; 64];
    let mut last = Instant::now();
    loop {
        match socket.recv(&mut payload) {
            Ok(_) => {
                numbers.push(u64::from_be_bytes(payload[..8].try_into().unwrap()));
                last = Instant::now();
            }
            Err(_) if stop.load(Ordering::Relaxed) && last.elapsed() > Duration::from_millis(700) => {
                return numbers;
            }
            Err(_) => {}
        }
    }
}

/// One change: mostly a pod that joins or leaves a set, at times a policy of other rules.
fn change(number: u32) -> op::Op {
    let pod = number / 2 % 5_000;
    let members = vec![member(&format!("10.200.{}.{}", pod / 250, 1 + pod % 250), 32)];
    let mut delta = plane::IpSetDelta { id: "changing".into(), ..Default::default() };
    match number % 2 {
        _ if number % 64 == 63 => return policy(number),
        0 => delta.add = members,
        _ => delta.remove = members,
    }
    op::Op::IpSetDelta(delta)
}

fn member(address: &str, length: u32) -> plane::Member {
    let prefix = plane::Prefix { address: bytes(address), length };
    plane::Member { prefix: Some(prefix), protocol: 0, port: 0 }
}

/// A hundred rules for sources that change, then the one that lets the machine in.
fn policy(version: u32) -> op::Op {
    let rule = |set: &str, port: u32| plane::Rule {
        action: plane::Action::Allow.into(),
        protocol: 17,
        source: Some(plane::Entity { in_all: vec![set.into()], ..Default::default() }),
        destination: Some(plane::Entity {
            ports: vec![plane::PortRange { first: port, last: port }],
            ..Default::default()
        }),
        ..Default::default()
    };
    let changing = (0..RULES).map(|i| rule("changing", 10_000 + (version + i) % 1_000));
    let ingress = changing.chain([rule("machine", PORT.into())]).collect();
    op::Op::Policy(plane::Policy { id: Some(policy_id()), tier: "default".into(), ingress, egress: vec![] })
}

fn policy_id() -> plane::PolicyId {
    plane::PolicyId { kind: "NetworkPolicy".into(), namespace: "default".into(), name: "p".into() }
}

#[test]
fn who_says_nothing_is_answered_and_changes_no_tables() {
    in_netns(|| {
        let _near = machine("crtup0", NODE, NEAR, 1500);
        let mut node = Node::start(1450, "");
        let before = node.generation();
        node.tell_all((0..100).map(|_| Vec::new()), 1);
        // What the kernel says meanwhile may change some.
        assert!(node.generation() < before + 100, "a heartbeat is no change");
    });
}

#[test]
fn no_packet_is_lost_while_tables_change_as_fast_as_they_are_taken() {
    in_netns(|| {
        let near = machine("crtup0", NODE, NEAR, 1500);
        let mut node = Node::start(1450, "");
        node.wait_for_answer(NEAR);
        let set = |id: &str, members| op::Op::IpSet(plane::IpSet { id: id.into(), members, hosts: None });
        let tier = plane::TierBinding {
            tier: "default".into(),
            default_action: plane::Action::Deny.into(),
            policies: vec![policy_id()],
        };
        node.tell(vec![
            set("changing", vec![]),
            set("machine", vec![member(NEAR, 32)]),
            policy(0),
            op::Op::Endpoint(plane::Endpoint { ingress: vec![tier], ..endpoint() }),
        ]);
        let receiver = node.pod.run(|| UdpSocket::bind((POD, PORT)).unwrap());
        receiver.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        socket::setsockopt(&receiver, sockopt::RcvBufForce, &(64 << 20)).unwrap();
        let sender = near.run(|| {
            socket::socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Raw).unwrap()
        });
        let stop = Arc::new(AtomicBool::new(false));
        let (stopping, stopped) = (Arc::clone(&stop), Arc::clone(&stop));
        let sending = thread::spawn(move || send(&stopping, &sender));
        let receiving = thread::spawn(move || receive(&stopped, &receiver));

        let changes = if std::env::var_os("CARACAL_LONG").is_some() { 500_000 } else { 20_000 };
        let start = Instant::now();
        node.tell_all((1..=changes).map(|number| vec![change(number)]), AHEAD);
        let changes_per_second = f64::from(changes) / start.elapsed().as_secs_f64();
        let (waiting, start) = (changes / 10, Instant::now());
        node.tell_all((1..=waiting).map(|number| vec![change(number)]), 1);
        let one_by_one = f64::from(waiting) / start.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        let (sent, arrived) = (sending.join().unwrap(), receiving.join().unwrap());
        println!(
            "{changes} transactions, {AHEAD} under way at once: {changes_per_second:.0} a second; {waiting}, each after the former's acknowledgement: {one_by_one:.0}; {} of {sent} packets arrived",
            arrived.len()
        );
        assert!(sent > 0);
        assert_eq!(
            arrived.len() as u64,
            sent,
            "packets were lost, or came twice; drops: {:?}",
            node.all_drops()
        );
        // It was policy that let them pass, and not that there was none.
        assert!(node.counter("flow_created") >= sent / 2 || sent / 2 > 60_000);
    });
}
