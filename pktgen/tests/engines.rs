//! Every engine between network namespaces. Needs root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's helpers fail as tests do"
)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use caracal_xsk::xdp::{Preference, WireEnd};
use caracal_xsk::{Config, Domain, DomainConfig, Frame, FramePool, Socket, TxOptions};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Nothing here takes long; this is against hanging.
const PATIENCE: Duration = Duration::from_secs(60);

/// Two namespaces, and between them a veth pair, or a third with two pairs and nothing yet that carries packets between those.
struct Net(String);

impl Net {
    fn pair() -> Self {
        let net = Self::of(&["a", "b"]);
        net.link("a", "e0", "b", "e0");
        net.addresses();
        net
    }

    fn with_middle() -> Self {
        let net = Self::of(&["a", "m", "b"]);
        net.link("a", "e0", "m", "m0");
        net.link("b", "e0", "m", "m1");
        net.addresses();
        net
    }

    fn of(places: &[&str]) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test makes network namespaces: run it as root");
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let net = Net(format!("crt{}-e{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        places.iter().for_each(|place| ip(&format!("netns add {}", net.place(place))));
        net
    }

    fn place(&self, place: &str) -> String {
        format!("{}{place}", self.0)
    }

    fn link(&self, a: &str, a_end: &str, b: &str, b_end: &str) {
        let (a, b) = (self.place(a), self.place(b));
        ip(&format!("link add {a_end} netns {a} type veth peer name {b_end} netns {b}"));
        for (place, end) in [(a, a_end), (b, b_end)] {
            ip(&format!("-n {place} link set {end} up"));
        }
    }

    fn addresses(&self) {
        for (place, number) in [("a", 1), ("b", 2)] {
            let name = self.place(place);
            ip(&format!("-n {name} addr add 192.0.2.{number}/24 dev e0"));
            ip(&format!("-n {name} addr add 2001:db8::{number}/64 dev e0 nodad"));
        }
    }

    /// Runs `pktgen run` from a to b and returns its report.
    fn run(&self, arguments: &str) -> Value {
        let (a, b) = (self.place("a"), self.place("b"));
        pktgen(&format!("run --from-netns {a} --to-netns {b} --quiet --output json {arguments}"))
    }

    /// The programs and such that interfaces have.
    fn interfaces(&self) -> String {
        ["a", "b"]
            .map(|place| {
                let output = Command::new("ip").args(["-n", &self.place(place), "link"]).output().unwrap();
                String::from_utf8_lossy(&output.stdout).into_owned()
            })
            .concat()
    }

    /// A wire in the middle that carries what `carries` says of a frame.
    fn sieve(&self, carries: impl Fn(&[u8]) -> bool + Send + 'static) -> Sieve {
        let namespace = File::open(format!("/var/run/netns/{}", self.place("m"))).unwrap();
        let (over, ready) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let flags = (Arc::clone(&over), Arc::clone(&ready));
        let thread = std::thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            carry(&carries, &flags.0, &flags.1);
        });
        let start = Instant::now();
        while !ready.load(Ordering::Relaxed) {
            assert!(start.elapsed() < PATIENCE && !thread.is_finished(), "the wire did not come to be");
            std::thread::sleep(Duration::from_millis(5));
        }
        Sieve { over, thread: Some(thread) }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for place in ["a", "m", "b"] {
            let _ =
                Command::new("ip").args(["netns", "del", &self.place(place)]).stderr(Stdio::null()).status();
        }
    }
}

struct Sieve {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Sieve {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn carry(carries: &impl Fn(&[u8]) -> bool, over: &AtomicBool, ready: &AtomicBool) {
    let (domain, mut pool) = Domain::new(DomainConfig { chunks: 8192, ..DomainConfig::default() }).unwrap();
    let mut ends = ["m0", "m1"].map(|name| {
        let index = nix::net::if_::if_nametoindex(name).unwrap();
        let mut program = WireEnd::attach(index, Preference::Native).unwrap();
        let mut socket = Socket::bind(&domain, index, 0, Config::default()).unwrap();
        program.set_socket(0, &socket).unwrap();
        socket.refill(&mut pool, 2048);
        (socket, program)
    });
    ready.store(true, Ordering::Relaxed);
    while !over.load(Ordering::Relaxed) {
        let mut came = 0;
        for (from, to) in [(0, 1), (1, 0)] {
            let mut frames: Vec<Frame> = Vec::new();
            came += ends[from].0.receive(64, |frame, _| frames.push(frame));
            for frame in frames {
                if carries(frame.data()) {
                    if let Err(frame) = ends[to].0.transmit(frame, TxOptions::default()) {
                        pool.put(frame);
                    }
                } else {
                    pool.put(frame);
                }
            }
            turn(&mut ends[to].0, &mut pool);
            turn(&mut ends[from].0, &mut pool);
        }
        if came == 0 {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
    for (socket, _) in ends {
        socket.close(&mut pool);
    }
}

fn turn(socket: &mut Socket, pool: &mut FramePool) {
    socket.flush();
    socket.reclaim(pool);
    socket.refill(pool, 2048);
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

fn start(arguments: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_pktgen"))
        .args(arguments.split_whitespace())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn pktgen(arguments: &str) -> Value {
    report(start(arguments), arguments)
}

fn report(child: Child, arguments: &str) -> Value {
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "pktgen {arguments}: {said}");
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("pktgen {arguments}: {error}; {said}"))
}

fn number(report: &Value, at: &str) -> u64 {
    report.pointer(at).and_then(Value::as_u64).unwrap_or_else(|| panic!("{at} in {report}"))
}

/// All that was sent came, in order and once.
fn assert_whole(report: &Value, what: &str) {
    let total = |field: &str| number(report, &format!("/total/{field}"));
    let counts = ["lost", "duplicated", "reordered"].map(total);
    let overflow = report.pointer("/ends/sink_overflow").and_then(Value::as_u64).unwrap_or(0);
    assert_eq!((counts, overflow), ([0; 3], 0), "{what}: {}", report["warnings"]);
    assert!(total("sent") > 0 && total("sent") == total("received"), "{what}");
}

/// The sequence number of a plain UDP packet's mark, as pktgen writes it.
fn sequence(frame: &[u8]) -> Option<u64> {
    (frame.get(23) == Some(&17)).then_some(())?;
    let bytes = frame.get(50..56)?;
    Some(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

#[test]
fn every_engine_delivers_every_packet_in_order_over_a_veth_pair() {
    let net = Net::pair();
    let engines = [
        "--engine socket",
        "--engine live",
        "--engine live --sink xsk",
        "--engine xsk",
        "--engine xsk --sink xsk",
    ];
    for engine in engines {
        for family in ["", "-6"] {
            let arguments =
                format!("{engine} {family} --rate 5k --duration 500ms --flows 7 --size 64x2,700x1,1514x1");
            let report = net.run(&arguments);
            assert_whole(&report, &arguments);
            assert_eq!(report["ends"]["way_was_open"], true, "{arguments}");
            // Whatever a busy machine left out is said.
            assert_eq!(
                number(&report, "/total/sent") + number(&report, "/ends/missed"),
                2_500,
                "{arguments}"
            );
            assert_eq!(report["flows"].as_array().unwrap().len(), 7, "{arguments}");
        }
    }
    assert!(!net.interfaces().contains("xdp"), "{}", net.interfaces());
}

#[test]
fn several_cores_share_flows_and_rate() {
    let net = Net::pair();
    let report = net.run("--engine live --cores 0,1,0 --rate 10k --duration 500ms --flows 100");
    assert_whole(&report, "three cores");
    assert_eq!(number(&report, "/total/sent") + number(&report, "/ends/missed"), 5_000);
    let sent: Vec<u64> =
        report["flows"].as_array().unwrap().iter().map(|flow| flow["sent"].as_u64().unwrap()).collect();
    assert_eq!(sent.len(), 100);
    if number(&report, "/ends/missed") == 0 {
        assert!(sent.iter().all(|sent| (49..=51).contains(sent)), "{sent:?}");
    }
}

#[test]
fn a_wire_that_drops_every_tenth_packet_of_a_flow_is_reported_exactly() {
    let net = Net::with_middle();
    let wire = net.sieve(|frame| sequence(frame).is_none_or(|sequence| sequence % 10 != 3));
    for engine in ["--engine live", "--engine xsk", "--engine xsk --sink xsk"] {
        let report = net.run(&format!("{engine} --rate 3k --duration 1s --flows 3"));
        let flows = report["flows"].as_array().unwrap();
        for flow in flows {
            let (sent, lost) = (flow["sent"].as_u64().unwrap(), flow["lost"].as_u64().unwrap());
            assert!(sent > 100, "{engine}: {sent}");
            // Numbers 3, 13, 23, … below what was sent.
            assert_eq!(lost, (sent + 6) / 10, "{engine}: {sent} sent");
        }
        assert_eq!((flows.len(), number(&report, "/total/reordered")), (3, 0), "{engine}");
    }
    drop(wire);
}

fn profiles() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn every_example_profile_runs_and_loses_nothing() {
    let net = Net::pair();
    let files = profiles();
    assert!(files.len() >= 6);
    for file in files {
        let name = file.display();
        let arguments = format!("{name} --rate 4000 --duration 500ms --linger 1s");
        let is_in_memory = std::fs::read_to_string(&file).unwrap().contains("engine: memory");
        let report = match is_in_memory {
            true => pktgen(&format!("run --quiet --output json {arguments}")),
            false => net.run(&arguments),
        };
        if report.get("connections_per_second").is_some() {
            assert!(number(&report, "/established") > 0, "{report}");
            assert_eq!(number(&report, "/failed"), 0, "{report}");
            continue;
        }
        assert_whole(&report, &name.to_string());
    }
}

#[test]
fn a_profile_that_is_wrong_is_refused_with_its_line() {
    let file = std::env::temp_dir().join(format!("crt{}-wrong.yaml", std::process::id()));
    std::fs::write(&file, "rate: 1k\nstreams:\n  - sise: 64\n").unwrap();
    let output = start(&format!("run {}", file.display())).wait_with_output().unwrap();
    let checked = start(&format!("profile check {}", file.display())).wait_with_output().unwrap();
    std::fs::remove_file(&file).unwrap();
    for (bytes, status, expected) in [(output.stderr, output.status, 2), (checked.stdout, checked.status, 1)]
    {
        let said = String::from_utf8_lossy(&bytes);
        assert_eq!(status.code(), Some(expected), "{said}");
        assert!(said.contains("line 3") && said.contains("sise"), "{said}");
    }
    for file in profiles() {
        let checked = start(&format!("profile check {}", file.display())).wait_with_output().unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    }
}

#[test]
fn an_interrupted_run_ends_with_a_report_and_leaves_nothing_on_interfaces() {
    let net = Net::pair();
    let arguments = format!(
        "run --engine live --from-netns {} --to-netns {} --quiet --rate 2k --duration 1h --output json",
        net.place("a"),
        net.place("b")
    );
    let child = start(&arguments);
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let begun = Instant::now();
    while !net.interfaces().contains("xdp") {
        assert!(begun.elapsed() < PATIENCE, "the sink never came");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(1500));
    kill(pid, Signal::SIGINT).unwrap();
    let report = report(child, &arguments);
    assert!(number(&report, "/total/received") > 0, "{report}");
    assert!(report["warnings"].to_string().contains("ended before its time"), "{}", report["warnings"]);
    assert!(!net.interfaces().contains("xdp"));
}

#[test]
fn a_killed_run_leaves_nothing_on_interfaces() {
    let net = Net::pair();
    let mut child = start(&format!(
        "run --engine live --from-netns {} --to-netns {} --quiet --rate 2k --duration 1h",
        net.place("a"),
        net.place("b")
    ));
    let begun = Instant::now();
    while !net.interfaces().contains("xdp") {
        assert!(begun.elapsed() < PATIENCE, "the sink never came");
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    while net.interfaces().contains("xdp") {
        assert!(begun.elapsed() < PATIENCE, "{}", net.interfaces());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A capture of Ethernet frames that are 10 ms apart.
fn capture(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
        file.extend(word.to_le_bytes());
    }
    for (n, frame) in (0..).zip(frames) {
        let len = frame.len() as u32;
        for word in [1_000, n * 10_000, len, len] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame);
    }
    file
}

#[test]
fn a_capture_is_replayed_in_order_as_often_as_asked_for() {
    let net = Net::with_middle();
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let see = Arc::clone(&seen);
    let wire = net.sieve(move |frame| {
        // Ours are of a type that nobody else uses.
        if frame.get(12..14) == Some(&[0x88, 0xb5]) {
            see.lock().unwrap().push(frame.to_vec());
        }
        true
    });
    let frame = |n: u8| [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1], &[0x88, 0xb5], &[n; 60]].concat();
    let frames: Vec<_> = (0..20).map(frame).collect();
    let file = std::env::temp_dir().join(format!("crt{}-replay.pcap", std::process::id()));
    std::fs::write(&file, capture(&frames)).unwrap();
    for (rate, loops) in [("recorded", 1), ("x10", 2), ("1000", 3), ("max", 10)] {
        seen.lock().unwrap().clear();
        let report = pktgen(&format!(
            "replay {} --netns {} --interface e0 --rate {rate} --loops {loops} --output json",
            file.display(),
            net.place("a")
        ));
        assert_eq!((number(&report, "/sent"), number(&report, "/loops")), (20 * loops, loops), "{rate}");
        let begun = Instant::now();
        while seen.lock().unwrap().len() < 20 * loops as usize {
            assert!(begun.elapsed() < PATIENCE, "{} came", seen.lock().unwrap().len());
            std::thread::sleep(Duration::from_millis(10));
        }
        let expected: Vec<_> = (0..loops).flat_map(|_| frames.clone()).collect();
        assert_eq!(*seen.lock().unwrap(), expected, "{rate}");
    }
    std::fs::remove_file(&file).unwrap();
    drop(wire);
}
