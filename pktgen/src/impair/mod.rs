//! `pktgen impair`: a wire between two interfaces that loses, delays, doubles and reorders packets.
//!
//! ```text
//!   somebody ═veth═ A ── AF_XDP ──► line: lost? late? doubled? ──► AF_XDP ── B ═veth═ somebody else
//!                     ◄────────────── another line ◄──────────────
//! ```
//!
//! A frame that is received is sent on from the same memory. With its XDP program, A's kernel ends segmentation offload
//! at the other end of A's veth by itself: so what is lost is always one packet as it would be on a wire, never a
//! super-frame of 64 KB. Half-made checksums are completed on the way ([`checksum`]).

mod checksum;
mod line;

use std::fmt::Write as _;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use caracal_xsk::xdp::{AttachMode, Preference, WireEnd};
use caracal_xsk::{Config, Domain, DomainConfig, Frame, FramePool, Socket, TxOptions};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;

use crate::files;
use crate::place::Place;
use crate::profile::parse_duration;
use crate::run::{Output, Stop};
use line::{Chances, Fate, Fates, Line};

const EXAMPLES: &str = "\
Examples:
  Lose 1 % between two interfaces of this network namespace, for as long as it runs:
    pktgen impair wire0 wire1 --loss 1%
  All at once, in other namespaces, the same in every run:
    pktgen impair fabric/left fabric/right --loss 1% --reorder 2% --duplicate 0.5% --delay 5ms --seed 7 --duration 60s
  A plain wire, as a baseline; figures for a program:
    pktgen impair wire0 wire1 --duration 10s --output json

Both interfaces must be up and have nobody else's XDP program; whatever addresses they have do not answer meanwhile. When
the wire is there, `ready` is said on standard error; it ends with Ctrl-C, SIGTERM or --duration, and then says what it did.

Exit status: 0 done; 2 could not run.";

/// Be a wire between two interfaces, and lose, delay, double and reorder what it carries
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// One end: an interface, as INTERFACE or NETNS/INTERFACE
    #[arg(value_name = "A")]
    a: Interface,
    /// The other end
    #[arg(value_name = "B")]
    b: Interface,
    /// How many packets are lost: 1% or 0.01
    #[arg(long, value_name = "PART", default_value = "0", value_parser = parse_part)]
    loss: f64,
    /// How many packets are overtaken by up to 8 that come after them
    #[arg(long, value_name = "PART", default_value = "0", value_parser = parse_part)]
    reorder: f64,
    /// How many packets come twice
    #[arg(long, value_name = "PART", default_value = "0", value_parser = parse_part)]
    duplicate: f64,
    /// How long every packet takes
    #[arg(long, value_name = "TIME", default_value = "0ms", value_parser = parse_duration)]
    delay: Duration,
    /// Packet n of a direction fares the same in all runs with one seed
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// How long to run [default: until Ctrl-C]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    duration: Option<Duration>,
    /// Packets that can be on the wire, both ways together
    #[arg(long, value_name = "COUNT", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1024..=262_144))]
    frames: u32,
    /// How to print the report
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// An interface and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Interface {
    place: Place,
    name: String,
}

impl std::str::FromStr for Interface {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (place, name) = match text.rsplit_once('/') {
            Some((netns, name)) => (Place::Netns(netns.into()), name),
            None => (Place::Here, text),
        };
        if name.is_empty() || place == Place::Netns(String::new()) {
            return Err(format!("{text:?} is not INTERFACE or NETNS/INTERFACE"));
        }
        Ok(Interface { place, name: name.into() })
    }
}

impl std::fmt::Display for Interface {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.place {
            Place::Here => f.write_str(&self.name),
            Place::Netns(netns) => write!(f, "{netns}/{}", self.name),
        }
    }
}

fn parse_part(text: &str) -> Result<f64, String> {
    let (number, of) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 100.0));
    let part = number.trim().parse::<f64>().ok().map(|number| number / of);
    part.filter(|part| (0.0..=1.0).contains(part))
        .ok_or_else(|| format!("{text:?} is not a part of a whole, such as 1% or 0.01"))
}

/// Runs `pktgen impair`.
///
/// # Errors
/// It could not run.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if args.a == args.b {
        bail!("a wire has two ends, and {} is one", args.a);
    }
    let stop = Stop::on_signals()?;
    let (domain, pool) = Domain::new(DomainConfig { chunks: args.frames, ..DomainConfig::default() })
        .context("cannot make memory for packets")?;
    let ends = [End::open(&args.a, &domain, args.frames)?, End::open(&args.b, &domain, args.frames)?];
    let chances = Chances { loss: args.loss, reorder: args.reorder, duplicate: args.duplicate };
    let directions = [0, 1].map(|direction| Direction {
        fates: Fates::new(args.seed, direction, chances),
        line: Line::new(args.delay),
        account: Account::default(),
    });
    let mut wire = Wire { ends, directions, pool };
    wire.refill();
    files::say(format_args!("ready: {} ═ {}", args.a, args.b));
    let start = Instant::now();
    wire.carry(start, |elapsed| stop.is_set() || args.duration.is_some_and(|duration| elapsed >= duration));
    let report = Report {
        a: args.a.to_string(),
        b: args.b.to_string(),
        seed: args.seed,
        seconds: start.elapsed().as_secs_f64(),
        interrupted: stop.is_set(),
        directions: wire.finish(),
    };
    match args.output {
        Output::Json => files::print_json(&report)?,
        Output::Table => files::print(&report.table())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Packets moved at once.
const BATCH: usize = 64;
/// Entries of each ring, at most.
const RING_MAX: u32 = 4096;
/// Receive queues of an interface, at most: what the program has room for.
const QUEUES_MAX: u32 = 64;

/// An end of the wire: its interface's queues.
struct End {
    sockets: Vec<Socket>,
    receive_frames: usize,
    _program: WireEnd,
}

impl End {
    fn open(interface: &Interface, domain: &Domain, frames: u32) -> anyhow::Result<Self> {
        let ring = (frames / 4).next_power_of_two().min(RING_MAX);
        let config = Config { rx: ring, tx: ring, fill: ring, completion: ring, ..Config::default() };
        let open = || {
            let index = nix::net::if_::if_nametoindex(interface.name.as_str())
                .with_context(|| format!("there is no interface {interface}"))?;
            let mut program = WireEnd::attach(index, Preference::NativeFirst)?;
            if let AttachMode::Generic(reason) = program.mode() {
                files::say(format_args!(
                    "{interface} carries packets in generic mode ({reason}): switch segmentation offload off \
                     at its other end, `ethtool -K … tso off gso off`"
                ));
            }
            let mut sockets = Vec::new();
            for queue in 0..QUEUES_MAX {
                match Socket::bind(domain, index, queue, config) {
                    Ok(socket) => {
                        program.set_socket(queue, &socket)?;
                        sockets.push(socket);
                    }
                    // The interface has no more queues.
                    Err(_) if queue > 0 => break,
                    Err(error) => return Err(error.into()),
                }
            }
            // A quarter of all frames, so that half of them are left for what is on the wire.
            let receive_frames = (frames as usize / 4 / sockets.len()).min(ring as usize);
            Ok(End { sockets, receive_frames, _program: program })
        };
        interface.place.within(open).with_context(|| format!("cannot make {interface} an end of a wire"))
    }
}

/// A packet: almost always of one frame.
struct Packet {
    head: Frame,
    rest: Vec<Frame>,
}

impl Packet {
    fn len(&self) -> usize {
        self.head.len() + self.rest.iter().map(Frame::len).sum::<usize>()
    }

    fn complete_checksums(&mut self) {
        match &self.rest[..] {
            [] => checksum::complete(self.head.data_mut(), &[]),
            rest => {
                let rest: Vec<&[u8]> = rest.iter().map(Frame::data).collect();
                checksum::complete(self.head.data_mut(), &rest);
            }
        }
    }

    /// A copy, if there are frames for it.
    fn copy(&self, pool: &mut FramePool) -> Option<Packet> {
        if pool.free() <= self.rest.len() {
            return None;
        }
        let mut copy = |from: &Frame| {
            let mut to = pool.take()?;
            to.reset(caracal_xsk::RESERVED_HEADROOM);
            match to.append(from.len()) {
                Some(bytes) => bytes.copy_from_slice(from.data()),
                None => {
                    pool.put(to);
                    return None;
                }
            }
            Some(to)
        };
        let head = copy(&self.head)?;
        Some(Packet { head, rest: self.rest.iter().filter_map(copy).collect() })
    }

    fn release(self, pool: &mut FramePool) {
        pool.put(self.head);
        self.rest.into_iter().for_each(|frame| pool.put(frame));
    }
}

/// What one direction has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
struct Account {
    /// Packets that came.
    received: u64,
    /// Of them, lost on purpose.
    lost: u64,
    /// Doubled.
    duplicated: u64,
    /// Overtaken by others.
    reordered: u64,
    /// Packets given to the other end, copies included.
    sent: u64,
    /// Their bytes, from Ethernet header to end of payload.
    sent_bytes: u64,
    /// Packets that the other end's interface refused, or that were on the wire when it ended.
    abandoned: u64,
    /// Packets that the kernel had to drop before they came, because the wire was too slow or full.
    overflowed: u64,
}

impl Account {
    fn rows(&self) -> [(&'static str, u64); 8] {
        [
            ("received", self.received),
            ("lost", self.lost),
            ("duplicated", self.duplicated),
            ("reordered", self.reordered),
            ("sent", self.sent),
            ("sent bytes", self.sent_bytes),
            ("abandoned", self.abandoned),
            ("overflowed", self.overflowed),
        ]
    }
}

struct Direction {
    fates: Fates,
    line: Line<Packet>,
    account: Account,
}

impl Direction {
    fn take(&mut self, mut packet: Packet, now: Duration, pool: &mut FramePool) {
        let fate = self.fates.of(self.account.received);
        self.account.received += 1;
        let Fate::Carried { overtaken_by, duplicated } = fate else {
            self.account.lost += 1;
            return packet.release(pool);
        };
        packet.complete_checksums();
        let copy = if duplicated { packet.copy(pool) } else { None };
        self.line.put(packet, overtaken_by, now);
        if let Some(copy) = copy {
            self.account.duplicated += 1;
            self.line.put(copy, 0, now);
        }
    }

    /// Gives a socket what has arrived. Returns how many packets.
    fn deliver(&mut self, to: &mut Socket, now: Duration, pool: &mut FramePool) -> usize {
        let mut count = 0;
        while count < BATCH
            && let Some(packet) = self.line.next(now)
        {
            let segments = 1 + packet.rest.len();
            if to.transmit_room() < segments {
                self.line.take_back(packet, now);
                break;
            }
            count += 1;
            let bytes = packet.len() as u64;
            let Packet { head, rest } = packet;
            let mut left = segments;
            let mut is_sent = true;
            for frame in std::iter::once(head).chain(rest) {
                left -= 1;
                if let Err(frame) = to.transmit(frame, TxOptions { more: left > 0, checksum: None }) {
                    is_sent = false;
                    pool.put(frame);
                }
            }
            if is_sent {
                self.account.sent += 1;
                self.account.sent_bytes += bytes;
            } else {
                self.account.abandoned += 1;
            }
        }
        count
    }
}

struct Wire {
    ends: [End; 2],
    /// From the end with the same number.
    directions: [Direction; 2],
    pool: FramePool,
}

/// The longest sleep: how soon the end is noticed.
const SLEEP_MAX: Duration = Duration::from_millis(20);

impl Wire {
    /// Gives both ends frames to receive into.
    fn refill(&mut self) {
        for end in &mut self.ends {
            for socket in &mut end.sockets {
                socket.refill(&mut self.pool, end.receive_frames);
            }
        }
    }

    fn carry(&mut self, start: Instant, is_over: impl Fn(Duration) -> bool) {
        loop {
            if is_over(start.elapsed()) {
                return;
            }
            if self.turn(start) == 0 {
                self.sleep(start.elapsed());
            }
        }
    }

    /// Moves a batch each way; returns how many packets moved.
    fn turn(&mut self, start: Instant) -> usize {
        let Wire { ends: [a, b], directions, pool } = self;
        let mut moved = 0;
        for (at, direction) in directions.iter_mut().enumerate() {
            let (from, to) = if at == 0 { (&mut *a, &mut *b) } else { (&mut *b, &mut *a) };
            for socket in &mut from.sockets {
                let mut chain: Option<Packet> = None;
                // Read when there is a first packet: one that comes later must not seem to have come earlier.
                let mut came = None;
                moved += socket.receive(BATCH, |frame, more| {
                    let packet = match chain.take() {
                        None => Packet { head: frame, rest: Vec::new() },
                        Some(mut packet) => {
                            packet.rest.push(frame);
                            packet
                        }
                    };
                    match more {
                        true => chain = Some(packet),
                        false => {
                            let now = *came.get_or_insert_with(|| start.elapsed());
                            direction.take(packet, now, pool);
                        }
                    }
                });
                // The kernel publishes whole packets, so nothing is left over.
                if let Some(part) = chain {
                    part.release(pool);
                }
                socket.refill(pool, from.receive_frames);
            }
            let Some(out) = to.sockets.first_mut() else { continue };
            moved += direction.deliver(out, start.elapsed(), pool);
            out.flush();
            out.reclaim(pool);
        }
        moved
    }

    fn sleep(&self, now: Duration) {
        let due = self.directions.iter().filter_map(|direction| direction.line.due()).min();
        let wait = due.map_or(SLEEP_MAX, |due| due.saturating_sub(now)).min(SLEEP_MAX);
        // Rounded down: what is due within a millisecond is waited for awake.
        let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::ZERO);
        let sockets = self.ends.iter().flat_map(|end| &end.sockets);
        let mut ready: Vec<PollFd> = sockets.map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN)).collect();
        // Interrupted by a signal: the caller looks whether it is over.
        let _ = poll(&mut ready, timeout);
    }

    fn finish(self) -> [DirectionReport; 2] {
        let Wire { ends, directions, mut pool } = self;
        let overflowed = ends.each_ref().map(|end| {
            let statistics = end.sockets.iter().filter_map(|socket| socket.statistics().ok());
            statistics.map(|s| s.rx_dropped + s.rx_ring_full).sum::<u64>()
        });
        for end in ends {
            for socket in end.sockets {
                socket.close(&mut pool);
            }
        }
        let [there, back] = directions;
        [("a to b", there, overflowed[0]), ("b to a", back, overflowed[1])].map(
            |(name, direction, overflowed)| {
                let mut account = direction.account;
                account.reordered = direction.line.reordered;
                account.overflowed = overflowed;
                for packet in direction.line.into_packets() {
                    account.abandoned += 1;
                    packet.release(&mut pool);
                }
                DirectionReport { direction: name, account }
            },
        )
    }
}

#[derive(Debug, Serialize)]
struct Report {
    a: String,
    b: String,
    seed: u64,
    seconds: f64,
    /// By a signal.
    interrupted: bool,
    directions: [DirectionReport; 2],
}

#[derive(Debug, Serialize)]
struct DirectionReport {
    direction: &'static str,
    #[serde(flatten)]
    account: Account,
}

impl Report {
    fn table(&self) -> String {
        let mut out = String::new();
        let [there, back] = &self.directions;
        let name = |from: &str, to: &str| format!("{from} → {to}");
        let (first, second) = (name(&self.a, &self.b), name(&self.b, &self.a));
        let width = first.chars().count().max(20);
        let _ = writeln!(out, "{:<12} {first:>width$}   {second:>width$}", "");
        for ((name, there), (_, back)) in there.account.rows().into_iter().zip(back.account.rows()) {
            let _ = writeln!(out, "{name:<12} {there:>width$}   {back:>width$}");
        }
        let _ = writeln!(out, "{:.1} s, seed {}", self.seconds, self.seed);
        out
    }
}
