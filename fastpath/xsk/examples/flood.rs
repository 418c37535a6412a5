//! Many pods that send at once, as fast as one core can make them, and pods that throw away what they get: what `scripts/bench io` puts a
//! forwarder under.
//!
//! ```text
//!   pod 1 eth0 ◄── AF_XDP ──┐                                      ┌── XDP drops ──► pod 2 eth0
//!   pod 3 eth0 ◄── AF_XDP ──┤ this program, a batch each in turn   ├── XDP drops ──► pod 4 eth0
//!   pod 5 eth0 ◄── AF_XDP ──┘                                      └── XDP drops ──► pod 6 eth0
//! ```
//!
//! Needs root. Prints as JSON what was sent, and what has come at the devices of those it was for.

#![allow(clippy::print_stdout, reason = "a program for scripts, which read what it prints")]

use std::fs::File;
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use caracal_xsk::xdp::{Preference, WireEnd};
use caracal_xsk::{Config, Domain, DomainConfig, FramePool, Socket, TxOptions};
use clap::Parser;
use nix::sched::{CloneFlags, setns};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Sends small UDP packets from pods to pods, and has these throw them away
#[derive(Debug, Parser)]
struct Arguments {
    /// Who sends to whom: NETNS,MAC,ADDRESS,NETNS,ADDRESS (names of `ip netns`); may be given several times
    #[arg(long, required = true, value_parser = parse_pair)]
    pair: Vec<Pair>,
    /// The device in each network namespace
    #[arg(long, default_value = "eth0")]
    device: String,
    /// The CPU to send from
    #[arg(long)]
    cpu: Option<usize>,
    /// For how long
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Bytes of a frame, from Ethernet header to end of payload
    #[arg(long, default_value_t = 64)]
    size: u16,
    /// Flows of each pair
    #[arg(long, default_value_t = 1)]
    flows: u16,
}

#[derive(Clone, Debug)]
struct Pair {
    from: String,
    mac: [u8; 6],
    source: Ipv4Addr,
    to: String,
    destination: Ipv4Addr,
}

fn parse_pair(text: &str) -> Result<Pair, String> {
    let wrong = || format!("{text:?} is not NETNS,MAC,ADDRESS,NETNS,ADDRESS");
    let [from, mac, source, to, destination] = text.split(',').collect::<Vec<_>>()[..] else {
        return Err(wrong());
    };
    let mac: Vec<u8> = mac.split(':').filter_map(|part| u8::from_str_radix(part, 16).ok()).collect();
    Ok(Pair {
        from: from.into(),
        mac: mac.try_into().map_err(|_| wrong())?,
        source: source.parse().map_err(|_| wrong())?,
        to: to.into(),
        destination: destination.parse().map_err(|_| wrong())?,
    })
}

const GATEWAY: [u8; 6] = [0xee; 6];
const BATCH: usize = 64;
const RING: u32 = 512;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flood: {error}");
            ExitCode::from(2)
        }
    }
}

/// Makes this thread part of a network namespace.
fn enter(netns: &str) -> Outcome<()> {
    let file = File::open(format!("/run/netns/{netns}")).map_err(|error| format!("{netns}: {error}"))?;
    Ok(setns(file, CloneFlags::CLONE_NEWNET)?)
}

/// What a device of this thread's network namespace has received.
fn received(device: &str) -> Outcome<u64> {
    // Of the thread's own namespace; sysfs would be that of its mount.
    let text = std::fs::read_to_string("/proc/thread-self/net/dev")?;
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(device)?.strip_prefix(':'));
    let packets =
        line.and_then(|line| line.split_whitespace().nth(1)).ok_or("no such device in /proc/net/dev")?;
    Ok(packets.parse()?)
}

fn run(arguments: &Arguments) -> Outcome<()> {
    let home = File::open("/proc/thread-self/ns/net")?;
    let pairs = &arguments.pair;
    // As many as all rings hold, and a batch on its way for each.
    let chunks = (pairs.len() as u32 * RING * 2).next_power_of_two().max(1024);
    let (domain, mut pool) = Domain::new(DomainConfig { chunks, ..DomainConfig::default() })?;
    let config = Config { rx: 2, tx: RING, fill: 2, completion: RING, tx_budget: RING, ..Config::default() };
    let mut senders = Vec::new();
    let mut sinks: Vec<(&str, WireEnd, u64)> = Vec::new();
    for pair in pairs {
        enter(&pair.from)?;
        let socket = Socket::bind(&domain, nix::net::if_::if_nametoindex(&*arguments.device)?, 0, config)?;
        senders.push(Sender { socket, template: template(pair, arguments.size)?, sent: 0 });
        if sinks.iter().any(|(netns, ..)| *netns == pair.to) {
            continue;
        }
        enter(&pair.to)?;
        // Without a socket, its program drops what comes.
        let index = nix::net::if_::if_nametoindex(&*arguments.device)?;
        sinks.push((
            pair.to.as_str(),
            WireEnd::attach(index, Preference::Native)?,
            received(&arguments.device)?,
        ));
    }
    setns(home, CloneFlags::CLONE_NEWNET)?;
    if let Some(id) = arguments.cpu
        && !core_affinity::set_for_current(core_affinity::CoreId { id })
    {
        return Err(format!("cannot pin to CPU {id}").into());
    }
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(arguments.seconds);
    while Instant::now() < end {
        for sender in &mut senders {
            sender.turn(&mut pool, arguments.flows);
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    // What is on its way in the forwarder comes, or is lost.
    std::thread::sleep(Duration::from_millis(50));
    let mut came = 0;
    for (netns, _program, before) in &sinks {
        enter(netns)?;
        came += received(&arguments.device)?.saturating_sub(*before);
    }
    let sent: u64 = senders.iter().map(|sender| sender.sent).sum();
    println!(
        "{{\"seconds\": {seconds:.3}, \"sent_pps\": {:.0}, \"received_pps\": {:.0}, \"sent\": {sent}, \"received\": {came}}}",
        sent as f64 / seconds,
        came as f64 / seconds,
    );
    for sender in senders {
        sender.socket.close(&mut pool);
    }
    Ok(())
}

struct Sender {
    socket: Socket,
    template: Vec<u8>,
    sent: u64,
}

/// Where the source port is: behind Ethernet and IPv4.
const SOURCE_PORT: usize = 34;

impl Sender {
    fn turn(&mut self, pool: &mut FramePool, flows: u16) {
        self.socket.reclaim(pool);
        for _ in 0..BATCH {
            let Some(mut frame) = pool.take() else { break };
            frame.reset(0);
            let Some(room) = frame.append(self.template.len()) else {
                pool.put(frame);
                break;
            };
            room.copy_from_slice(&self.template);
            let port = 20_000 + (self.sent % u64::from(flows.max(1))) as u16;
            room[SOURCE_PORT..SOURCE_PORT + 2].copy_from_slice(&port.to_be_bytes());
            match self.socket.transmit(frame, TxOptions::default()) {
                Ok(()) => self.sent += 1,
                Err(frame) => {
                    pool.put(frame);
                    break;
                }
            }
        }
        self.socket.flush();
    }
}

/// A packet of a pair, its UDP without a checksum.
fn template(pair: &Pair, size: u16) -> Outcome<Vec<u8>> {
    const HEADERS: u16 = 14 + 20 + 8;
    let payload_len = size.checked_sub(HEADERS).ok_or("a frame has at least 42 bytes")?;
    let mut frame = vec![0; usize::from(size)];
    frame[..6].copy_from_slice(&GATEWAY);
    frame[6..12].copy_from_slice(&pair.mac);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    let ipv4 = caracal_wire::ipv4::Repr {
        tos: 0,
        identification: 0,
        fragment_word: 0,
        ttl: 64,
        protocol: caracal_wire::Protocol::UDP,
        source: pair.source,
        destination: pair.destination,
        payload_len: payload_len + 8,
    };
    ipv4.emit(&mut frame[14..])?;
    let udp = caracal_wire::udp::Repr { source_port: 9.into(), destination_port: 9000.into(), payload_len };
    udp.emit(&mut frame[34..])?;
    frame[40..42].copy_from_slice(&[0, 0]);
    Ok(frame)
}
