//! What should a pod's port be? (docs/decisions/0001-pod-port.md; run it with `scripts/spike pod-port`)
//!
//! ```text
//!   pod A: eth0 ──── port ──►  this program: a cable  ──► port ──── eth0 :pod B
//! ```
//!
//! * `forward KIND CORE BPF-DIR DEVICE DEVICE` is the cable. It polls both ports and moves what comes in at one out at the other,
//!   until its standard input ends. Kinds: `xdp` (AF_XDP, checksums completed in software), `xdp-offload` (AF_XDP, completed
//!   by transmit metadata), `xdp-large` (as that, with rings of 8,192), `packet` (AF_PACKET with virtio-net headers), `tap`
//!   (the pod's device is a tap with virtio-net headers).
//! * `send CORE DEVICE SECONDS` sends 64-byte frames as fast as it can, to an Ethernet address that nobody has.
//! * `echo CORE ADDRESS` answers datagrams; `ping CORE ADDRESS SECONDS` measures the time there and back, both without sleeping.

#![allow(
    unsafe_code,
    reason = "packet sockets need system calls that no safe crate here offers; see packet_socket.rs"
)]

mod packet_socket;
mod ports;

use std::io::Read;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use packet_socket::{PacketBatch, PacketSocket};
use ports::{Cable, PacketCable, TapCable, XdpCable};

/// An answer to any question that `main` may fail on.
type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["forward", kind, core, bpf_dir, a, b] => forward(kind, core, bpf_dir, [a, b]),
        ["send", core, device, seconds] => send(core, device, seconds),
        ["echo", core, address] => echo(core, address),
        ["ping", core, address, seconds] => ping(core, address, seconds),
        _ => Err("see the head of this file, or run scripts/spike pod-port".into()),
    }
}

fn pin(core: &str) -> Outcome<()> {
    let id = core.parse()?;
    if core_affinity::set_for_current(core_affinity::CoreId { id }) {
        Ok(())
    } else {
        Err(format!("cannot pin to core {core}").into())
    }
}

fn forward(kind: &str, core: &str, bpf_dir: &str, devices: [&str; 2]) -> Outcome<()> {
    pin(core)?;
    let mut cable: Box<dyn Cable> = match kind {
        "xdp" => Box::new(XdpCable::new(devices, bpf_dir, false, 2048)?),
        "xdp-offload" => Box::new(XdpCable::new(devices, bpf_dir, true, 2048)?),
        "xdp-large" => Box::new(XdpCable::new(devices, bpf_dir, true, 8192)?),
        "packet" => Box::new(PacketCable::new(devices)?),
        "tap" => Box::new(TapCable::new(devices)?),
        _ => return Err(format!("no such kind of port: {kind}").into()),
    };
    let stop = Arc::new(AtomicBool::new(false));
    let watch = stop.clone();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        watch.store(true, Ordering::Relaxed);
    });
    println!("ready");
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..64 {
            cable.poll()?;
        }
    }
    println!("{}", cable.close());
    Ok(())
}

fn send(core: &str, device: &str, seconds: &str) -> Outcome<()> {
    pin(core)?;
    let mut socket = PacketSocket::open(device, false)?;
    let mut frame = vec![0u8; 64];
    // To nobody, from us; IPv4, UDP to the discard port, zeros.
    frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 0xff, 2, 0, 0, 0, 0, 0x01, 0x08, 0x00]);
    let ipv4 = caracal_wire::ipv4::Repr {
        tos: 0,
        identification: 0,
        fragment_word: 0,
        ttl: 64,
        protocol: caracal_wire::Protocol::UDP,
        source: [10, 99, 0, 1].into(),
        destination: [10, 99, 0, 2].into(),
        payload_len: 30,
    };
    ipv4.emit(&mut frame[14..])?;
    let udp = caracal_wire::udp::Repr { source_port: 9.into(), destination_port: 9.into(), payload_len: 22 };
    udp.emit(&mut frame[34..])?;
    let mut batch = PacketBatch::new(64, 64);
    let end = Instant::now() + Duration::from_secs_f64(seconds.parse()?);
    let start = Instant::now();
    let mut sent = 0;
    while Instant::now() < end {
        batch.fill(&frame);
        sent += socket.send(&mut batch)?;
    }
    println!("{:.0}", sent as f64 / start.elapsed().as_secs_f64());
    Ok(())
}

fn echo(core: &str, address: &str) -> Outcome<()> {
    pin(core)?;
    let socket = UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    let mut buffer = [0; 64];
    println!("ready");
    loop {
        if let Ok((len, from)) = socket.recv_from(&mut buffer) {
            socket.send_to(&buffer[..len], from)?;
        }
    }
}

/// Prints the median and the 99th percentile in nanoseconds.
fn ping(core: &str, address: &str, seconds: &str) -> Outcome<()> {
    pin(core)?;
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(address)?;
    socket.set_nonblocking(true)?;
    let end = Instant::now() + Duration::from_secs_f64(seconds.parse()?);
    let mut times = Vec::new();
    let mut lost = 0;
    let mut number = 0u64;
    while Instant::now() < end {
        number += 1;
        let mut buffer = [0; 22];
        buffer[..8].copy_from_slice(&number.to_ne_bytes());
        let start = Instant::now();
        socket.send(&buffer)?;
        loop {
            // An answer to an earlier datagram came late; it is not the one we wait for.
            if socket.recv(&mut buffer).is_ok() && buffer[..8] == number.to_ne_bytes() {
                times.push(start.elapsed().as_nanos());
                break;
            }
            if start.elapsed() > Duration::from_millis(100) {
                lost += 1;
                break;
            }
        }
    }
    times.sort_unstable();
    if times.is_empty() {
        return Err(format!("no answer, {lost} datagrams lost").into());
    }
    println!("{} {} {lost}", times[times.len() / 2], times[times.len() * 99 / 100]);
    Ok(())
}
