//! `pktgen impair` between two network namespaces. Needs root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's helpers fail as tests do"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Nothing here takes long; this is against hanging.
const PATIENCE: Duration = Duration::from_secs(60);

/// Three namespaces: left ═ wire ═ right, where the wire's two ends are in the middle one.
struct Net(String);

impl Net {
    fn new(mtu: u32) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test makes network namespaces: run it as root");
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let net = Net(format!("crt{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        for place in ["left", "wire", "right"] {
            ip(&format!("netns add {}{place}", net.0));
            // What the kernel says of its own over IPv6 would be packets of the stream.
            let disable = || std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
            net.within(place, disable).join().unwrap().unwrap();
        }
        for (place, end, number) in [("left", "w0", 1), ("right", "w1", 2)] {
            let (name, wire) = (net.place(place), net.place("wire"));
            ip(&format!(
                "link add e0 mtu {mtu} netns {name} type veth peer name {end} mtu {mtu} netns {wire}"
            ));
            ip(&format!("-n {name} addr add 192.0.2.{number}/24 dev e0"));
            ip(&format!("-n {name} link set e0 up"));
            ip(&format!("-n {wire} link set {end} up"));
        }
        net
    }

    fn place(&self, place: &str) -> String {
        format!("{}{place}", self.0)
    }

    /// Starts the wire and waits until it is there.
    fn impair(&self, arguments: &str) -> Wire {
        let end = |end| format!("{}/{end}", self.place("wire"));
        let mut child = Command::new(env!("CARGO_BIN_EXE_pktgen"))
            .args(["impair", &end("w0"), &end("w1"), "--output", "json"])
            .args(arguments.split_whitespace())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut said).unwrap();
        let wire = Wire(child);
        assert!(said.contains("ready"), "{said}");
        wire
    }

    /// Runs `work` in a namespace, on a thread of its own.
    fn within<T: Send + 'static>(
        &self,
        place: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        let file = std::fs::File::open(format!("/var/run/netns/{}", self.place(place))).unwrap();
        std::thread::spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for place in ["left", "wire", "right"] {
            let _ = Command::new("ip").args(["netns", "del", &self.place(place)]).output();
        }
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

struct Wire(Child);

impl Wire {
    /// Ends it as Ctrl-C does; what it has to say.
    fn end(mut self) -> serde_json::Value {
        kill(Pid::from_raw(self.0.id() as i32), Signal::SIGINT).unwrap();
        let mut said = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(self.0.wait().unwrap().success());
        serde_json::from_str(&said).unwrap()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn counted(report: &serde_json::Value, direction: usize, what: &str) -> u64 {
    report["directions"][direction][what].as_u64().unwrap_or_else(|| panic!("no {what} in {report}"))
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// A TCP transfer over the wire must come whole, whatever happens to its packets.
fn transfer(mtu: u32, len: usize, arguments: &str) -> serde_json::Value {
    let net = Net::new(mtu);
    let wire = net.impair(arguments);
    let (open, is_open) = std::sync::mpsc::channel();
    let receiver = net.within("right", move || {
        let listener = TcpListener::bind("192.0.2.2:7").unwrap();
        open.send(()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        received
    });
    is_open.recv().unwrap();
    let sender = net.within("left", move || {
        let mut stream = TcpStream::connect("192.0.2.2:7").unwrap();
        stream.write_all(&bytes(len)).unwrap();
    });
    sender.join().unwrap();
    assert!(receiver.join().unwrap() == bytes(len), "the bytes came changed");
    wire.end()
}

#[test]
fn a_transfer_over_a_bad_wire_comes_whole() {
    let report = transfer(1500, 8 << 20, "--loss 1% --reorder 2% --duplicate 1% --seed 3");
    for direction in [0, 1] {
        let count = |what| counted(&report, direction, what);
        let carried = count("received") - count("lost") + count("duplicated");
        assert_eq!(count("sent") + count("abandoned"), carried, "{report}");
    }
    assert!(counted(&report, 0, "received") > 5_000, "super-frames were not cut: {report}");
    for what in ["lost", "duplicated", "reordered"] {
        assert!(counted(&report, 0, what) > 10, "{what}: {report}");
    }
}

#[test]
fn jumbo_frames_are_carried_too() {
    let report = transfer(9000, 8 << 20, "--loss 0.1% --duplicate 1%");
    let (packets, bytes) = (counted(&report, 0, "sent"), counted(&report, 0, "sent_bytes"));
    assert!(bytes / packets > 4096, "{bytes} bytes in {packets} packets: {report}");
}

/// Which of 200 numbered datagrams come, in order.
fn fates_of_datagrams(arguments: &str) -> Vec<u8> {
    let net = Net::new(1500);
    // So is ARP.
    for (place, other) in [("left", "right"), ("right", "left")] {
        let number = if other == "left" { 1 } else { 2 };
        let output =
            Command::new("ip").args(["-n", &net.place(other), "-o", "link", "show", "e0"]).output().unwrap();
        let shown = String::from_utf8(output.stdout).unwrap();
        let mac = shown.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap();
        ip(&format!("-n {} neigh replace 192.0.2.{number} lladdr {mac} dev e0", net.place(place)));
    }
    let wire = net.impair(arguments);
    let socket = net.within("right", || {
        let socket = UdpSocket::bind("192.0.2.2:7").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        socket
    });
    let socket = socket.join().unwrap();
    let sender = net.within("left", || {
        let socket = UdpSocket::bind("192.0.2.1:7").unwrap();
        for number in 0..200u8 {
            socket.send_to(&[number], "192.0.2.2:7").unwrap();
        }
    });
    sender.join().unwrap();
    let (mut came, mut buffer, start) = (Vec::new(), [0; 64], Instant::now());
    while start.elapsed() < PATIENCE
        && let Ok(1) = socket.recv(&mut buffer)
    {
        came.push(buffer[0]);
    }
    let report = wire.end();
    assert_eq!(counted(&report, 0, "received"), 200, "{report}");
    came
}

#[test]
fn one_seed_does_the_same_to_the_same_packets() {
    let fates = |seed: u8| {
        let arguments = format!("--loss 10% --reorder 10% --duplicate 10% --seed {seed}");
        let mut came = fates_of_datagrams(&arguments);
        assert!(came.len() > 150 && !came.is_sorted(), "{came:?}");
        // Who is late waits for others to overtake it, but not for long: where exactly it comes, a sender's pause decides, too.
        came.sort_unstable();
        came
    };
    let first = fates(1);
    assert_eq!(fates(1), first);
    assert_ne!(fates(2), first);
}

#[test]
fn what_cannot_be_is_said() {
    let said = |arguments: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_pktgen")).arg("impair").args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(said(&["crt-nobody", "crt-none"]).contains("there is no interface crt-nobody"));
    assert!(said(&["lo", "lo"]).contains("two ends"));
    assert!(said(&["a", "b", "--loss", "200%"]).contains("part of a whole"));
    assert!(said(&["a", "b", "--loss", "one"]).contains("part of a whole"));
    assert!(said(&["netns/", "b"]).contains("NETNS/INTERFACE"));
    assert!(said(&["crt-no-such-netns/a", "b"]).contains("no network namespace"));
}
