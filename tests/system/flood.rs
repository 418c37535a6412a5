//! A flood of connections that are never completed, ten times as many as a node can track: those that are established live on, at the
//! throughput that they had.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use caracal_cni::netlink::{Netlink, Route};
use serde_json::json;

use crate::{
    lab::{Lab, Plan},
    machine::{PATIENCE, eventually, rounds},
    traffic::{Place, StopAtEnd},
};

const FLOWS: u32 = 4096;
const FLOODED: u16 = 7080;
/// Where the flood claims to be from: the router drops what is for there, so nobody ever completes a connection, nor refuses one.
const NOWHERE: (Ipv4Addr, u8) = (Ipv4Addr::new(100, 64, 0, 0), 10);

/// A TCP SYN, with right checksums but IP's, which the kernel makes.
fn syn(source: SocketAddrV4, destination: SocketAddrV4, sequence: u32) -> Vec<u8> {
    let mut tcp = Vec::with_capacity(20);
    tcp.extend(source.port().to_be_bytes());
    tcp.extend(destination.port().to_be_bytes());
    tcp.extend(sequence.to_be_bytes());
    tcp.extend([0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    let pseudo = [source.ip().octets().as_slice(), &destination.ip().octets(), &[0, 6, 0, 20], &tcp].concat();
    let mut sum: u32 = pseudo.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    tcp[16..18].copy_from_slice(&(!sum as u16).to_be_bytes());
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0];
    packet.extend(source.ip().octets());
    packet.extend(destination.ip().octets());
    packet.extend(tcp);
    packet
}

/// Sends SYNs of as many clients, evenly over a time.
fn flood(from: &Place, to: SocketAddrV4, first: u32, count: u32, over: Duration) {
    let socket = from.raw();
    let start = Instant::now();
    let mut sent = 0;
    while sent < count {
        let due = (start.elapsed().as_secs_f64() / over.as_secs_f64() * f64::from(count)) as u32;
        for number in sent..due.min(count) {
            let client = first.wrapping_add(number);
            let source = SocketAddrV4::new(
                Ipv4Addr::from(u32::from(NOWHERE.0) + (client & 0x3f_ffff)),
                1024 + (client % 60_000) as u16,
            );
            // A full queue of the sender's own is nothing to the test.
            let _ = socket.send_to(&syn(source, to, client), &to.into());
        }
        sent = sent.max(due);
        thread::sleep(Duration::from_micros(500));
    }
}

/// A TCP connection that carries as much as it can, or so much.
struct Bulk {
    received: Arc<AtomicU64>,
    stop: StopAtEnd,
    threads: Vec<JoinHandle<()>>,
}

impl Bulk {
    fn start(from: &Place, to: &Place, port: u16, mbit_per_second: Option<u32>) -> Self {
        let listener = to.run(|| TcpListener::bind(to.at(port)).unwrap());
        let mut client = from.run(|| TcpStream::connect(to.at(port)).unwrap());
        let (mut server, _) = listener.accept().unwrap();
        let received = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&received);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        client.set_write_timeout(Some(PATIENCE)).unwrap();
        let reader = thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(length @ 1..) = server.read(&mut buffer) {
                count.fetch_add(length as u64, Relaxed);
            }
        });
        let writer = thread::spawn(move || {
            let chunk = vec![7; 1 << 14];
            let (start, mut sent) = (Instant::now(), 0.0);
            while !stopped.load(Relaxed) {
                let due =
                    mbit_per_second.map(|rate| start.elapsed().as_secs_f64() * f64::from(rate) * 1e6 / 8.0);
                if due.is_some_and(|due| sent > due) {
                    thread::sleep(Duration::from_millis(1));
                    continue;
                }
                sent += chunk.len() as f64;
                client.write_all(&chunk).expect("the connection broke");
            }
        });
        Self { received, stop: StopAtEnd(stop), threads: vec![writer, reader] }
    }

    /// Mbit/s while `work` goes on.
    fn rate_while(&self, work: impl FnOnce()) -> f64 {
        let (start, before) = (Instant::now(), self.received.load(Relaxed));
        work();
        (self.received.load(Relaxed) - before) as f64 * 8.0 / start.elapsed().as_secs_f64() / 1e6
    }

    fn end(self) {
        self.stop.0.store(true, Relaxed);
        for thread in self.threads {
            thread.join().expect("the connection broke");
        }
    }
}

/// Connections that have been established, each with an echo at the other end.
struct Established {
    clients: Vec<TcpStream>,
    _server: JoinHandle<()>,
}

impl Established {
    fn new(from: &Place, to: &Place, port: u16, count: usize) -> Self {
        let listener = to.run(|| TcpListener::bind(to.at(port)).unwrap());
        let server = thread::spawn(move || {
            let mut all: Vec<TcpStream> = Vec::new();
            let mut buffer = [0; 16];
            listener.set_nonblocking(true).unwrap();
            // Until every client has closed.
            let start = Instant::now();
            while all.len() < count || !all.is_empty() {
                if let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true).unwrap();
                    all.push(stream);
                }
                all.retain_mut(|stream| match stream.read(&mut buffer) {
                    Ok(0) => false,
                    Ok(length) => stream.write_all(&buffer[..length]).is_ok(),
                    Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
                });
                if start.elapsed() > Duration::from_secs(120) {
                    return;
                }
                thread::sleep(Duration::from_millis(1));
            }
        });
        let connect = || {
            let client = TcpStream::connect_timeout(&to.at(port), PATIENCE).unwrap();
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            client
        };
        let clients = from.run(|| (0..count).map(|_| connect()).collect());
        Self { clients, _server: server }
    }

    /// How many of them still echo.
    fn alive(&mut self) -> usize {
        let echo = |client: &mut TcpStream| {
            let mut answer = [0; 4];
            client.write_all(b"ping").is_ok() && client.read_exact(&mut answer).is_ok() && answer == *b"ping"
        };
        self.clients.iter_mut().filter_map(|client| echo(client).then_some(())).count()
    }
}

#[test]
fn a_flood_of_syns_harms_no_established_connection() {
    let plan = Plan::pods(&[("a", "node1"), ("b", "node1"), ("c", "node2")]).option("flows", json!(FLOWS));
    let lab = Lab::up_alone("flood", &plan);
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.pod(name));
    lab.router().run(|| {
        let mut netlink = Netlink::open().unwrap();
        netlink.add_route(&Route::nowhere(NOWHERE.0.into(), NOWHERE.1)).unwrap();
    });
    let outside = lab.outside(Ipv4Addr::new(203, 0, 113, 7));
    let _listener = b.run(|| TcpListener::bind(b.at(FLOODED)).unwrap());
    let victim = SocketAddrV4::new(b.v4(), FLOODED);

    const CONNECTIONS: usize = 100;
    let mut near = Established::new(&b, &c, 7001, CONNECTIONS);
    let mut same_node = Established::new(&a, &b, 7002, CONNECTIONS);
    let window = Duration::from_secs(4);
    let count = 10 * FLOWS;
    for (port, wanted) in [(7003, Some(100)), (7004, None)] {
        let bulk = Bulk::start(&a, &c, port, wanted);
        let (mut quiet, mut flooded) = (Vec::new(), Vec::new());
        for round in 0..rounds(2, 10) as u32 {
            quiet.push(bulk.rate_while(|| thread::sleep(window)));
            let first = (u32::from(port - 7003) * 10 + round) * count;
            flooded.push(bulk.rate_while(|| flood(&outside, victim, first, count, window)));
        }
        let mean = |rates: &[f64]| rates.iter().sum::<f64>() / rates.len() as f64;
        let (quiet, flooded) = (mean(&quiet), mean(&flooded));
        println!(
            "{count} SYNs in {window:?} on {FLOWS} flows: an established connection that wants {} had {quiet:.0} Mbit/s \
             without and {flooded:.0} Mbit/s with them: {:.0} %",
            wanted.map_or("all it can get".into(), |rate| format!("{rate} Mbit/s")),
            flooded / quiet * 100.0
        );
        bulk.end();
        // The flood, its sender and its victim share the CPUs with it: how much it has is asked for with CARACAL_LONG=1 alone, and of who
        // wants all there is not even then.
        let is_asked = wanted.is_some() && std::env::var_os("CARACAL_LONG").is_some();
        let least = if is_asked { quiet * 0.7 } else { 0.0 };
        assert!(flooded > least, "established connections were harmed: {flooded:.0} of {quiet:.0} Mbit/s");
    }
    println!(
        "drops on node1: {:?}",
        lab.drops("node1").into_iter().filter(|(_, count)| *count > 0).collect::<Vec<_>>()
    );
    assert_eq!((near.alive(), same_node.alive()), (CONNECTIONS, CONNECTIONS), "connections died");
    // A new connection finds its place, too.
    let mut after = Established::new(&a, &c, 7005, 1);
    eventually("a new connection is made", || after.alive() == 1);
    assert!(lab.is_ready("node1"));
}
