//! What the tests need of the machine: root, a network namespace of their own, veth pairs, packets. A namespace here has no name; it and all
//! devices in it end with the thread that made it, however the test ends.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use caracal_xsk::{Config, Domain, DomainConfig, FramePool, Socket};
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Nothing in these tests takes long; this is against hanging.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn require_root() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test makes network namespaces and AF_XDP sockets: run it as root"
    );
}

/// Runs `test` on a thread in a new network namespace, in which the loopback is up.
pub fn in_netns<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    require_root();
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a new network namespace");
        ip("link set lo up");
        test()
    });
    match thread.join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// A second network namespace, for peers that are the kernel: a thread that runs what it is given.
pub struct Peer {
    jobs: Option<mpsc::Sender<Box<dyn FnOnce() + Send>>>,
    thread: Option<JoinHandle<()>>,
    tid: i32,
}

impl Peer {
    pub fn new() -> Self {
        let (jobs, inbox) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (ready, is_ready) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a new network namespace");
            ip("link set lo up");
            ready.send(nix::unistd::gettid().as_raw()).unwrap();
            inbox.into_iter().for_each(|job| job());
        });
        Self { jobs: Some(jobs), thread: Some(thread), tid: is_ready.recv().unwrap() }
    }

    /// Runs something in the peer's namespace and waits for it.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (send, receive) = mpsc::channel();
        let job = Box::new(move || drop(send.send(job())));
        self.jobs.as_ref().unwrap().send(job).expect("the peer is alive");
        receive.recv().expect("what ran in the peer panicked")
    }

    /// Starts a program in the peer's namespace; it is killed when the value is dropped.
    pub fn spawn(&self, program: &str, arguments: &str) -> Spawned {
        let (program, arguments) = (program.to_owned(), arguments.to_owned());
        self.run(move || {
            let mut command = Command::new(&program);
            command.args(arguments.split_whitespace()).stdin(Stdio::null()).stdout(Stdio::null());
            Spawned(command.stderr(Stdio::null()).spawn().expect("a program to run"))
        })
    }

    /// Moves a device of the calling thread's namespace to the peer's.
    pub fn adopt(&self, device: &str) {
        ip(&format!("link set {device} netns {}", self.tid));
    }
}

/// A running program.
pub struct Spawned(Child);

impl Drop for Spawned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs `ip` in the calling thread's network namespace.
pub fn ip(arguments: &str) {
    run("ip", arguments);
}

pub fn run(program: &str, arguments: &str) {
    let output = Command::new(program).args(arguments.split_whitespace()).output().expect(program);
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments}: {message}");
}

pub fn succeeds(program: &str, arguments: &str) -> bool {
    Command::new(program).args(arguments.split_whitespace()).output().expect(program).status.success()
}

/// Makes a veth pair, both ends up and without IPv6 (whose chatter would be counted).
pub fn veth(a: &str, b: &str) -> (u32, u32) {
    ip(&format!("link add {a} type veth peer name {b}"));
    for end in [a, b] {
        // Not there when the kernel has no IPv6. Our own namespace's: /proc/sys/net shows the reading thread's.
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{end}/disable_ipv6"), "1");
    }
    ip(&format!("link set {a} up"));
    ip(&format!("link set {b} up"));
    (ifindex(a), ifindex(b))
}

pub fn ifindex(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A small domain.
pub fn domain(chunks: u32) -> (Domain, FramePool) {
    Domain::new(DomainConfig { chunks, ..DomainConfig::default() }).unwrap()
}

pub fn small_rings() -> Config {
    Config { rx: 64, tx: 64, fill: 64, completion: 64, tx_budget: 64, ..Config::default() }
}

/// Waits until `ready` gives something.
pub fn eventually<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Receives `count` packets, each as its bytes; gives the frames back.
pub fn receive_packets(socket: &mut Socket, pool: &mut FramePool, count: usize) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    let mut current = Vec::new();
    eventually(&format!("{count} packets on {socket:?}"), || {
        let mut frames = Vec::new();
        socket.receive(64, |frame, more| {
            current.extend_from_slice(frame.data());
            if !more {
                packets.push(std::mem::take(&mut current));
            }
            frames.push(frame);
        });
        frames.into_iter().for_each(|frame| pool.put(frame));
        socket.refill(pool, 64);
        (packets.len() >= count).then_some(())
    });
    packets
}

/// Sends one packet and waits until its frame is back.
pub fn send_packet(socket: &mut Socket, pool: &mut FramePool, bytes: &[u8]) {
    let mut frame = pool.take().unwrap();
    frame.append(bytes.len()).unwrap().copy_from_slice(bytes);
    socket.transmit(frame, caracal_xsk::TxOptions::default()).unwrap();
    drain(socket, pool);
}

/// Flushes until everything sent is back in the pool.
pub fn drain(socket: &mut Socket, pool: &mut FramePool) {
    eventually("sent frames come back", || {
        socket.flush();
        socket.reclaim(pool);
        (socket.transmitting() == 0).then_some(())
    });
}

/// An Ethernet frame with IPv4, without options, of any protocol.
pub fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 1, 8, 0]);
    let mut header = vec![0x45, 0];
    header.extend((20 + payload.len() as u16).to_be_bytes());
    header.extend([0, 7]);
    header.extend(fragment.to_be_bytes());
    header.extend([64, protocol, 0, 0]);
    header.extend(source.octets());
    header.extend(destination.octets());
    let sum = !folded_sum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(header);
    frame.extend(payload);
    frame
}

/// A UDP header without checksum, and its payload.
pub fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(source.to_be_bytes());
    segment.extend(destination.to_be_bytes());
    segment.extend((8 + payload.len() as u16).to_be_bytes());
    segment.extend([0, 0]);
    segment.extend(payload);
    segment
}

/// The folded ones' complement sum of 16-bit words (RFC 1071), not complemented.
pub fn folded_sum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A raw sender in the calling thread's namespace: a socket of its own domain.
pub struct Wire {
    domain: Domain,
    pool: FramePool,
    socket: Socket,
}

impl Wire {
    pub fn new(device: &str) -> Self {
        let (domain, pool) = domain(64);
        let socket = Socket::bind(&domain, ifindex(device), 0, small_rings()).unwrap();
        Self { domain, pool, socket }
    }

    pub fn send(&mut self, packet: &[u8]) {
        send_packet(&mut self.socket, &mut self.pool, packet);
    }

    pub fn close(mut self) {
        self.socket.close(&mut self.pool);
        assert_eq!(self.pool.free() as u32, self.domain.config().chunks);
    }
}
