//! The least that an AF_XDP forwarder does: what comes in at one port goes out at the other. What the whole product is held against
//! on the same ports (`scripts/bench io`): the difference is what parsing, flows, policy and routing cost beside I/O.
//!
//! ```text
//!   pair 1   --from A ◄──► --to B      worker 1        a frame moves from A's RX ring to B's TX ring, nothing is copied;
//!   pair 2   --from C ◄──► --to D      worker 2        of its bytes only the two MAC addresses are written
//!   pair 3   --from E ◄──► --to F      worker 1 …      one kick a port and turn
//! ```
//!
//! Needs root, in the network namespace of the devices. Says "ready" on its standard error when frames are moved; ends on SIGTERM
//! or SIGINT, and then prints on its standard output what it has done, as JSON.

#![allow(clippy::print_stdout, reason = "a program for scripts, which read what it prints")]

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use caracal_xsk::xdp::{AttachMode, Preference, WireEnd};
use caracal_xsk::{Config, Domain, DomainConfig, Frame, FramePool, Socket, Statistics, TxOptions};
use clap::Parser;
use nix::sys::signal::{SigSet, Signal};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Moves frames between pairs of devices by AF_XDP, and does nothing else with them
#[derive(Debug, Parser)]
#[command(after_help = "Examples:
  As a scripts' subject, in the network namespace of the node, pinned to CPU 2:
    bare_forwarder --from cali1 --from-mac 02:00:00:00:00:01 --to cali2 --to-mac 02:00:00:00:00:02 --cpu 2
  Two pairs on two CPUs, MAC addresses as they come:
    bare_forwarder --from a --to b --from c --to d --cpu 2,3")]
struct Arguments {
    /// One end of a pair; may be given several times
    #[arg(long, value_name = "DEVICE", required = true)]
    from: Vec<String>,
    /// The other end, one for each --from
    #[arg(long, value_name = "DEVICE", required = true)]
    to: Vec<String>,
    /// Who is behind each --from: what leaves there is for this MAC address. Not given: addresses are left as they are
    #[arg(long, value_name = "MAC", value_parser = parse_mac)]
    from_mac: Vec<[u8; 6]>,
    /// Who is behind each --to
    #[arg(long, value_name = "MAC", value_parser = parse_mac)]
    to_mac: Vec<[u8; 6]>,
    /// CPUs to pin workers to, one each; pairs are spread over them
    #[arg(long, value_delimiter = ',', default_value = "0")]
    cpu: Vec<usize>,
    /// Entries of each ring of each socket (a power of two)
    #[arg(long, default_value_t = 8192)]
    ring: u32,
    /// Do the devices' receive work, too, so many packets at a time (SO_PREFER_BUSY_POLL)
    #[arg(long, value_name = "PACKETS")]
    busy_poll: Option<u32>,
    /// Frames of a worker's memory [default: four rings for each of its pairs, at most 65536]
    #[arg(long)]
    chunks: Option<u32>,
}

fn parse_mac(text: &str) -> Result<[u8; 6], String> {
    let parts: Vec<u8> = text.split(':').filter_map(|part| u8::from_str_radix(part, 16).ok()).collect();
    parts.try_into().map_err(|_| format!("{text:?} is no MAC address"))
}

/// What the fastpath answers to on pods' links, too: our end's address.
const OUR_MAC: [u8; 6] = [0xee; 6];
const BATCH: usize = 64;
const CHUNKS_MAX: u32 = 65_536;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bare_forwarder: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Outcome<()> {
    let pairs = arguments.from.len();
    let macs = [arguments.from_mac.len(), arguments.to_mac.len()];
    if arguments.to.len() != pairs || macs.iter().any(|count| *count != 0 && *count != pairs) {
        return Err(
            "--from, --to, --from-mac and --to-mac go together: as many of one as of the other".into()
        );
    }
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    signals.thread_block()?;
    let mut workers = Vec::new();
    for (index, cpu) in arguments.cpu.iter().enumerate().take(pairs) {
        workers.push(Worker::new(arguments, index, *cpu)?);
    }
    let stop = AtomicBool::new(false);
    let done: Vec<Outcome<Done>> = std::thread::scope(|scope| {
        let stop = &stop;
        let running: Vec<_> =
            workers.into_iter().map(|worker| scope.spawn(move || worker.forward(stop))).collect();
        eprintln!("ready");
        let _ = signals.wait();
        stop.store(true, Ordering::Relaxed);
        running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err("a worker panicked".into())))
            .collect()
    });
    let done = done.into_iter().collect::<Outcome<Vec<Done>>>()?;
    let rows: Vec<String> = done.iter().map(Done::json).collect();
    println!("{{\"workers\": [{}]}}", rows.join(", "));
    Ok(())
}

/// One end of a pair.
struct End {
    socket: Socket,
    /// Who is behind it.
    mac: Option<[u8; 6]>,
    _program: WireEnd,
}

struct Worker {
    cpu: usize,
    pairs: Vec<[End; 2]>,
    pool: FramePool,
    in_flight: usize,
    busy_poll: bool,
    _domain: Domain,
}

impl Worker {
    /// Every pair whose number is `index` modulo the number of workers.
    fn new(arguments: &Arguments, index: usize, cpu: usize) -> Outcome<Self> {
        let mine: Vec<usize> = (0..arguments.from.len()).skip(index).step_by(arguments.cpu.len()).collect();
        let ring = arguments.ring;
        let wanted = (mine.len() as u32).saturating_mul(4).saturating_mul(ring).min(CHUNKS_MAX);
        let chunks = arguments.chunks.unwrap_or(wanted);
        let (domain, mut pool) = Domain::new(DomainConfig { chunks, ..DomainConfig::default() })?;
        let busy_poll = arguments.busy_poll;
        let config = Config {
            rx: ring,
            tx: ring,
            fill: ring,
            completion: ring,
            tx_budget: ring,
            busy_poll,
            ..Config::default()
        };
        let open = |device: &str, mac: Option<[u8; 6]>| -> Outcome<End> {
            let ifindex =
                nix::net::if_::if_nametoindex(device).map_err(|error| format!("{device}: {error}"))?;
            let mut program = WireEnd::attach(ifindex, Preference::NativeFirst)?;
            if let AttachMode::Generic(reason) = program.mode() {
                eprintln!("bare_forwarder: {device} is in generic mode, which is slower: {reason}");
            }
            let socket = Socket::bind(&domain, ifindex, 0, config)?;
            program.set_socket(0, &socket)?;
            Ok(End { socket, mac, _program: program })
        };
        let mut pairs = Vec::new();
        for at in mine {
            let from = open(&arguments.from[at], arguments.from_mac.get(at).copied())?;
            let to = open(&arguments.to[at], arguments.to_mac.get(at).copied())?;
            pairs.push([from, to]);
        }
        // Half of the frames wait to be received into, half may be on their way out.
        let in_flight = (pool.total() / (4 * pairs.len())).min(ring as usize);
        for end in pairs.iter_mut().flatten() {
            end.socket.refill(&mut pool, in_flight);
        }
        Ok(Worker { cpu, pairs, pool, in_flight, busy_poll: arguments.busy_poll.is_some(), _domain: domain })
    }

    fn forward(mut self, stop: &AtomicBool) -> Outcome<Done> {
        if !core_affinity::set_for_current(core_affinity::CoreId { id: self.cpu }) {
            return Err(format!("cannot pin to CPU {}", self.cpu).into());
        }
        let mut done = Done::default();
        let mut batch = Vec::with_capacity(BATCH);
        let start = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            for [a, b] in &mut self.pairs {
                if self.busy_poll {
                    a.socket.poll_device();
                    b.socket.poll_device();
                }
                done.turn(a, b, &mut self.pool, self.in_flight, &mut batch);
                done.turn(b, a, &mut self.pool, self.in_flight, &mut batch);
            }
        }
        done.seconds = start.elapsed();
        for end in self.pairs.iter().flatten() {
            done.add(end.socket.statistics()?, end.socket.kicks());
        }
        for [a, b] in self.pairs {
            a.socket.close(&mut self.pool);
            b.socket.close(&mut self.pool);
        }
        done.frames_lost = self.pool.total() - self.pool.free();
        Ok(done)
    }
}

/// What a worker has done.
#[derive(Default)]
struct Done {
    seconds: Duration,
    packets: u64,
    refused: u64,
    kicks: u64,
    rx_ring_full: u64,
    fill_ring_empty: u64,
    rx_dropped: u64,
    frames_lost: usize,
}

impl Done {
    #[inline]
    fn turn(
        &mut self,
        from: &mut End,
        to: &mut End,
        pool: &mut FramePool,
        in_flight: usize,
        batch: &mut Vec<Frame>,
    ) {
        let count = from.socket.receive(BATCH, |frame, _| batch.push(frame));
        if count == 0 {
            // What the kernel had no room for a moment ago.
            if to.socket.unsent() > 0 {
                to.socket.flush();
            }
            to.socket.reclaim(pool);
            return;
        }
        // Before the kick, which takes long.
        from.socket.refill(pool, in_flight);
        for mut frame in batch.drain(..) {
            if let (Some(mac), Some(header)) = (to.mac, frame.data_mut().first_chunk_mut::<12>()) {
                header[..6].copy_from_slice(&mac);
                header[6..].copy_from_slice(&OUR_MAC);
            }
            match to.socket.transmit(frame, TxOptions::default()) {
                Ok(()) => self.packets += 1,
                Err(frame) => {
                    self.refused += 1;
                    pool.put(frame);
                }
            }
        }
        to.socket.flush();
        to.socket.reclaim(pool);
    }

    fn add(&mut self, kernel: Statistics, kicks: u64) {
        self.kicks += kicks;
        self.rx_ring_full += kernel.rx_ring_full;
        self.fill_ring_empty += kernel.fill_ring_empty;
        self.rx_dropped += kernel.rx_dropped;
    }

    fn json(&self) -> String {
        format!(
            "{{\"seconds\": {:.3}, \"packets\": {}, \"refused\": {}, \"kicks\": {}, \"rx_ring_full\": {}, \
             \"fill_ring_empty\": {}, \"rx_dropped\": {}, \"frames_lost\": {}}}",
            self.seconds.as_secs_f64(),
            self.packets,
            self.refused,
            self.kicks,
            self.rx_ring_full,
            self.fill_ring_empty,
            self.rx_dropped,
            self.frames_lost
        )
    }
}
