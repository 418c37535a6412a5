//! The cables: a pair of ports of one kind each, and moving packets between them.

use std::path::Path;

use caracal_wire::checksum::{self, Sum};
use caracal_wire::{EtherType, Ethernet, Ipv4, Protocol};
use caracal_xsk::tap::{Offloads, Tap};
use caracal_xsk::{Checksum, Config, Domain, DomainConfig, Frame, FramePool, Socket, TxOptions, xdp};

use crate::Outcome;
use crate::packet_socket::{PacketBatch, PacketSocket};

const BATCH: usize = 64;

/// Two ports, what comes in at one going out at the other.
pub trait Cable {
    /// Looks at both ports once.
    fn poll(&mut self) -> Outcome<()>;
    /// Ends it, and says what happened.
    fn close(self: Box<Self>) -> String;
}

/// The two directions of a cable.
#[derive(Clone, Copy)]
enum Way {
    AToB,
    BToA,
}

impl Way {
    fn ends<T>(self, [a, b]: &mut [T; 2]) -> (&mut T, &mut T) {
        match self {
            Way::AToB => (a, b),
            Way::BToA => (b, a),
        }
    }
}

/// AF_XDP on the host's end of both veths; both in one domain, so that a frame just moves.
pub struct XdpCable {
    sockets: [Socket; 2],
    pool: FramePool,
    _domain: Domain,
    _maps: [xdp::pod::PodMap; 2],
    offload: bool,
    in_flight: usize,
    batch: Vec<Frame>,
    completed: usize,
    dropped: usize,
}

impl XdpCable {
    pub fn new(devices: [&str; 2], bpf_dir: &str, offload: bool, rings: u32) -> Outcome<Self> {
        let (domain, pool) = Domain::new(DomainConfig { chunks: 4 * rings, ..DomainConfig::default() })?;
        if offload && !domain.checksum_offload() {
            return Err("this kernel has no AF_XDP transmit metadata".into());
        }
        let config = Config { rx: rings, tx: rings, fill: rings, completion: rings, ..Config::default() };
        let bpf_dir = Path::new(bpf_dir);
        let open = |device: &str| -> Outcome<(Socket, xdp::pod::PodMap)> {
            let index = nix::net::if_::if_nametoindex(device)?;
            let mode = xdp::pod::pin(bpf_dir, device, index)?;
            if mode != xdp::AttachMode::Native {
                return Err(format!("{device}: {mode} mode; this measures native mode").into());
            }
            let socket = Socket::bind(&domain, index, 0, config)?;
            let mut map = xdp::pod::open(bpf_dir, device)?;
            map.set_socket(0, &socket)?;
            Ok((socket, map))
        };
        let (socket_a, map_a) = open(devices[0])?;
        let (socket_b, map_b) = open(devices[1])?;
        let mut cable = XdpCable {
            sockets: [socket_a, socket_b],
            pool,
            _domain: domain,
            _maps: [map_a, map_b],
            offload,
            in_flight: rings as usize,
            batch: Vec::with_capacity(BATCH),
            completed: 0,
            dropped: 0,
        };
        for socket in &mut cable.sockets {
            socket.refill(&mut cable.pool, cable.in_flight);
        }
        Ok(cable)
    }
}

impl Cable for XdpCable {
    fn poll(&mut self) -> Outcome<()> {
        let Self { sockets, pool, offload, in_flight, batch, completed, dropped, .. } = self;
        for way in [Way::AToB, Way::BToA] {
            let (from, to) = way.ends(sockets);
            to.reclaim(pool);
            from.receive(BATCH, |frame, _| batch.push(frame));
            from.refill(pool, *in_flight);
            if batch.is_empty() {
                // The kernel may have left frames in the ring of the last flush.
                if to.transmitting() > 0 {
                    to.flush();
                }
                continue;
            }
            for mut frame in batch.drain(..) {
                let mut options = TxOptions::default();
                if let Some((checksum, pseudo)) = partial_checksum(frame.data()) {
                    *completed += 1;
                    if *offload {
                        options.checksum = Some(checksum);
                    } else {
                        let l4 = &mut frame.data_mut()[usize::from(checksum.start)..];
                        checksum::complete(l4, usize::from(checksum.offset), pseudo);
                    }
                }
                if let Err(frame) = to.transmit(frame, options) {
                    *dropped += 1;
                    pool.put(frame);
                }
            }
            to.flush();
        }
        Ok(())
    }

    fn close(self: Box<Self>) -> String {
        let Self { sockets, mut pool, completed, dropped, .. } = *self;
        let statistics: Vec<_> = sockets.iter().map(Socket::statistics).collect();
        sockets.into_iter().for_each(|socket| {
            socket.close(&mut pool);
        });
        format!("{completed} checksums completed, {dropped} frames dropped, {statistics:?}")
    }
}

/// Where a frame's TCP or UDP checksum is only half made, and the sum of its pseudo-header.
fn partial_checksum(frame: &[u8]) -> Option<(Checksum, Sum)> {
    let ethernet = Ethernet::new_checked(frame).ok()?;
    if ethernet.ether_type() != EtherType::IPV4 {
        return None;
    }
    let ipv4 = Ipv4::new_checked(ethernet.payload()).ok()?;
    let offset = match ipv4.protocol() {
        Protocol::TCP => caracal_wire::tcp::field::CHECKSUM,
        Protocol::UDP => caracal_wire::udp::field::CHECKSUM,
        _ => return None,
    };
    if ipv4.is_fragment() {
        return None;
    }
    let field = ipv4.payload().get(offset.clone())?;
    let pseudo = ipv4.pseudo_sum();
    let start = caracal_wire::ethernet::HEADER_LEN + ipv4.header_len();
    checksum::is_partial(u16::from_be_bytes([field[0], field[1]]), pseudo)
        .then_some((Checksum { start: start as u16, offset: offset.start as u16 }, pseudo))
}

/// Packet sockets on the host's end of both veths.
pub struct PacketCable {
    sockets: [PacketSocket; 2],
    batch: PacketBatch,
    moved: usize,
}

impl PacketCable {
    pub fn new(devices: [&str; 2]) -> Outcome<Self> {
        Ok(PacketCable {
            sockets: [PacketSocket::open(devices[0], true)?, PacketSocket::open(devices[1], true)?],
            // 64 KiB, and what stands before them.
            batch: PacketBatch::new(BATCH, 66_000),
            moved: 0,
        })
    }
}

impl Cable for PacketCable {
    fn poll(&mut self) -> Outcome<()> {
        let Self { sockets, batch, moved } = self;
        for way in [Way::AToB, Way::BToA] {
            let (from, to) = way.ends(sockets);
            if from.receive(batch)? > 0 {
                *moved += to.send(batch)?;
            }
        }
        Ok(())
    }

    fn close(self: Box<Self>) -> String {
        let [a, b] = &self.sockets;
        format!("{} packets moved, {} dropped", self.moved, a.dropped + b.dropped)
    }
}

/// Taps, which are the pods' own devices. A packet is a chain of frames, as in the pipeline to be.
pub struct TapCable {
    taps: [Tap; 2],
    pool: FramePool,
    segments: Vec<Frame>,
    moved: usize,
    dropped: usize,
}

impl TapCable {
    /// Frames for 64 KiB.
    const SEGMENTS: usize = 33;

    pub fn new(devices: [&str; 2]) -> Outcome<Self> {
        let open = |device: &str| -> Outcome<Tap> {
            let tap = Tap::open(device, true)?;
            tap.set_offloads(Offloads { checksum: true, tso4: true, tso6: true })?;
            Ok(tap)
        };
        let mut pool = FramePool::heap(Self::SEGMENTS as u32);
        let segments = std::iter::from_fn(|| pool.take()).collect();
        Ok(TapCable { taps: [open(devices[0])?, open(devices[1])?], pool, segments, moved: 0, dropped: 0 })
    }
}

impl Cable for TapCable {
    fn poll(&mut self) -> Outcome<()> {
        let Self { taps, segments, moved, dropped, .. } = self;
        for way in [Way::AToB, Way::BToA] {
            let (from, to) = way.ends(taps);
            for _ in 0..BATCH {
                segments.iter_mut().for_each(|frame| frame.reset(0));
                let Some((_, header)) = from.recv(segments)? else { break };
                let used = segments.iter().take_while(|frame| !frame.is_empty()).count();
                let parts: [&[u8]; Self::SEGMENTS] = std::array::from_fn(|at| segments[at].data());
                // A device that is down (its pod is not set up yet) refuses packets.
                if to.send(header, &parts[..used]).unwrap_or(false) {
                    *moved += 1;
                } else {
                    *dropped += 1;
                }
            }
        }
        Ok(())
    }

    fn close(self: Box<Self>) -> String {
        let Self { mut pool, segments, moved, dropped, .. } = *self;
        segments.into_iter().for_each(|frame| pool.put(frame));
        format!("{moved} packets moved, {dropped} dropped")
    }
}
