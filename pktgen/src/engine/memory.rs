//! The production pipeline in this process: no kernel, no interface. Packets go into a node of the data plane's own simulation
//! (three pods, other nodes behind VXLAN, IPIP and no tunnel: `caracal_dataplane::sim::world`), and what it sends is counted.
//!
//! Its report says, beside what became of packets, how long the pipeline took for each, and what it dropped by reason.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use caracal_dataplane::clock::Tick;
use caracal_dataplane::sim::{Node, POD_MAC, PortName, UPLINK_MAC, world};
use caracal_wire::MacAddr;

use super::{Inside, Progress, Receive, Sent, Sequences, Transmit, cores, wait};
use crate::account::{Account, Came};
use crate::clock;
use crate::frame::{self, Packet};
use crate::pace::Pacer;
use crate::payload::{self, Mark};
use crate::stream::{Tunnel, TunnelKind};
use crate::traffic::{Cursor, Hop, Part};

const BATCH: usize = 64;
/// Chunks of the node: frames of the largest size are not longer than one.
const FRAMES: u32 = 8192;
/// The longest frame: what the node's ports carry.
pub const FRAME_MAX: usize = 1514;
/// Batches of notes on their way to the sink.
const BATCHES: usize = 64;
const TURN: Duration = Duration::from_millis(5);

/// A place in the simulated world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spot {
    port: PortName,
    /// Its address.
    pub address: IpAddr,
    /// What comes from there is in a tunnel.
    tunnel: Option<Tunnel>,
}

/// The places that there are.
pub const SPOTS: &str = "a, b, c (pods of the node), remote, ipip, plain (pods of other nodes), outside";

impl Spot {
    /// A place by its name.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn named(name: &str, ipv6: bool) -> anyhow::Result<Self> {
        let pod = |address: [u8; 4]| (world::pod(name), address, None);
        let tunnel = |kind| {
            Some(Tunnel {
                kind,
                source: Ipv4Addr::from(world::NODE2),
                destination: Ipv4Addr::from(world::NODE1),
            })
        };
        let vxlan = TunnelKind::Vxlan {
            vni: world::VNI,
            port: world::VXLAN_PORT,
            inner_source: world::TUNNEL2_MAC,
            inner_destination: world::TUNNEL1_MAC,
        };
        let (port, address, tunnel) = match name {
            "a" => pod(world::A),
            "b" => pod(world::B),
            "c" => pod(world::C),
            "remote" => (PortName::Uplink, world::REMOTE, tunnel(vxlan)),
            "ipip" => (PortName::Uplink, world::IPIP_REMOTE, tunnel(TunnelKind::Ipip)),
            "plain" => (PortName::Uplink, world::PLAIN_REMOTE, None),
            "outside" => (PortName::Uplink, world::OUTSIDE, None),
            _ => bail!("there is no {name:?} in the memory engine's world: there are {SPOTS}"),
        };
        let address = match (ipv6, name) {
            (false, _) => IpAddr::from(address),
            (true, "outside") => world::OUTSIDE6.into(),
            (true, "ipip") => bail!("IPIP is for IPv4"),
            (true, _) => world::v6(address).into(),
        };
        Ok(Spot { port, address, tunnel })
    }

    /// The first hop of what is sent from there.
    #[must_use]
    pub fn hop(&self) -> Hop {
        match self.port {
            PortName::Uplink => Hop { source: world::NEIGHBOR_MAC, destination: UPLINK_MAC },
            _ => Hop { source: POD_MAC, destination: MacAddr([0xee; 6]) },
        }
    }

    /// The tunnel that packets come in.
    #[must_use]
    pub fn tunnel(&self) -> Option<Tunnel> {
        self.tunnel
    }
}

type Batch = Vec<(Mark, u64, usize)>;

/// Both ends.
///
/// # Errors
/// Never: the world fits together.
pub fn open(from: &Spot, core: Option<usize>, part: Part) -> anyhow::Result<(Pipeline, Arrivals)> {
    // As many flows as there are, twice over: each is known by both its ends.
    let flows = (part.flows.len() * 4).next_power_of_two().max(1 << 12);
    let node = world::node(flows, FRAMES).map_err(|error| anyhow!("the simulated node: {error}"))?;
    let (batches, arrivals) = sync_channel(BATCHES);
    let (empty, spare) = sync_channel(BATCHES);
    let pipeline = Pipeline {
        node,
        from: from.port.clone(),
        core,
        part,
        batches,
        spare,
        started: Instant::now(),
        frame: vec![0; FRAME_MAX],
    };
    Ok((pipeline, Arrivals { batches: arrivals, empty }))
}

/// The node, and who sends into it.
pub struct Pipeline {
    node: Node,
    from: PortName,
    core: Option<usize>,
    part: Part,
    batches: SyncSender<Batch>,
    spare: Receiver<Batch>,
    started: Instant,
    frame: Vec<u8>,
}

impl Pipeline {
    fn turn(
        &mut self,
        cursor: &mut Cursor<'_>,
        count: usize,
        run: u32,
        scout: bool,
        bytes: &mut u64,
    ) -> anyhow::Result<(usize, Duration)> {
        let mut injected = 0;
        while injected < count {
            let Some((flow, template, length)) = cursor.next() else { break };
            let frame =
                self.frame.get_mut(..length).context("a frame is longer than the node's ports carry")?;
            frame.fill(0);
            let packet = Packet { template, length, run, now_ns: clock::now_ns(), scout };
            if !frame::write(packet, flow, frame) || !self.node.inject(&self.from, frame) {
                bail!("the simulated node has no room for a frame of {length} bytes");
            }
            *bytes += length as u64;
            injected += 1;
        }
        let tick = Tick(u32::try_from(self.started.elapsed().as_millis()).unwrap_or(u32::MAX));
        let begun = Instant::now();
        self.node.process(tick);
        let took = begun.elapsed();
        let mut batch = self.spare.try_recv().unwrap_or_default();
        let now = clock::now_ns();
        for port in [
            PortName::Uplink,
            PortName::Host,
            PortName::Forward,
            world::pod("a"),
            world::pod("b"),
            world::pod("c"),
        ] {
            self.node.drain(&port, usize::MAX, |packet| {
                // Headers and mark are in the first segment.
                let head = packet.segments().next().map(|segment| segment.data()).unwrap_or_default();
                if let Some(mark) = payload::mark_of(head) {
                    batch.push((mark, now, packet.len()));
                }
            });
        }
        if !batch.is_empty() {
            // A sink that is gone wants none.
            let _ = self.batches.send(batch);
        }
        Ok((injected, took))
    }
}

impl Transmit for Pipeline {
    fn scout(&mut self, run: u32) -> anyhow::Result<()> {
        let mut part = self.part.clone();
        let mut left = part.deck.len();
        let mut cursor = part.cursor();
        while left > 0 {
            let (sent, _) = self.turn(&mut cursor, left.min(BATCH), run, true, &mut 0)?;
            left -= sent.max(1);
        }
        self.node.drops();
        Ok(())
    }

    fn send(
        &mut self,
        run: u32,
        mut pacer: Pacer,
        progress: &AtomicU64,
        stop: &AtomicBool,
    ) -> anyhow::Result<Sent> {
        cores::pin(self.core)?;
        let mut part = self.part.clone();
        let mut churn = part.churn();
        let (mut bytes, mut packets, mut inside) = (0, 0u64, Duration::ZERO);
        let start = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            let elapsed = start.elapsed();
            churn.renew(elapsed, &mut part.flows, |_, _| {});
            let Some(due) = pacer.take(elapsed, BATCH as u64) else { break };
            if due == 0 {
                wait(pacer.next().saturating_sub(start.elapsed()));
                continue;
            }
            let mut cursor = part.cursor();
            let (sent, took) = self.turn(&mut cursor, due as usize, run, false, &mut bytes)?;
            let at = cursor.at;
            part.at = at;
            packets += sent as u64;
            inside += took;
            progress.fetch_add(sent as u64, Ordering::Relaxed);
        }
        let drops: BTreeMap<String, u64> =
            self.node.drops().into_iter().map(|(reason, count)| (reason.label().to_owned(), count)).collect();
        let mut sent = Sent { bytes, elapsed: start.elapsed(), missed: pacer.missed(), ..Sent::default() };
        Sequences(&part.flows).count(&mut sent);
        let nanoseconds_a_packet = if packets > 0 { inside.as_nanos() as f64 / packets as f64 } else { 0.0 };
        sent.inside = Some(Inside { nanoseconds_a_packet, packets, drops });
        Ok(sent)
    }
}

/// What comes out of the node.
pub struct Arrivals {
    batches: Receiver<Batch>,
    empty: SyncSender<Batch>,
}

impl Receive for Arrivals {
    fn receive(
        &mut self,
        _run: u32,
        account: &mut Account,
        progress: &Progress,
        close: &AtomicBool,
    ) -> anyhow::Result<()> {
        loop {
            let closing = close.load(Ordering::Relaxed);
            match self.batches.recv_timeout(if closing { Duration::ZERO } else { TURN }) {
                Ok(mut batch) => {
                    let mut received = 0;
                    for (mark, now_ns, length) in batch.drain(..) {
                        match account.count(mark, now_ns, length) {
                            Came::Counted => received += 1,
                            Came::Scout => progress.scouted.store(true, Ordering::Relaxed),
                            Came::Uncounted => {}
                        }
                    }
                    progress.received.fetch_add(received, Ordering::Relaxed);
                    // When there is no room for it, it is not needed.
                    let _ = self.empty.try_send(batch);
                }
                Err(RecvTimeoutError::Timeout) if !closing => {}
                Err(_) => return Ok(()),
            }
        }
    }

    fn overflowed(&self) -> Option<u64> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::malformed::Malformed;
    use crate::stream::tests::stream;
    use crate::stream::{Packets, Stream};

    /// A stream from one place to another.
    fn between(from: &str, to: &str, ipv6: bool) -> (Spot, Stream) {
        let (from, to) = (Spot::named(from, ipv6).unwrap(), Spot::named(to, ipv6).unwrap());
        let mut stream = Stream { tunnel: from.tunnel(), ..stream(1, "64") };
        (stream.source.address, stream.destination.address) = (from.address, to.address);
        (from, stream)
    }

    #[test]
    fn every_malformed_kind_arrives_at_the_data_plane_and_is_dropped_with_a_reason() {
        for (from, to) in [("a", "b"), ("a", "remote"), ("outside", "a"), ("remote", "a")] {
            for ipv6 in [false, true] {
                let (from, stream) = between(from, to, ipv6);
                for kind in Malformed::all(ipv6) {
                    let stream = Stream { packets: Packets::Malformed(vec![kind]), ..stream.clone() };
                    let mut node = world::node(1 << 12, 1 << 10).unwrap();
                    let frames = kind.frames(&stream, from.hop());
                    assert!(!frames.is_empty());
                    for frame in &frames {
                        assert!(node.inject(&from.port, frame));
                    }
                    node.run(Tick(0));
                    // A fragment waits for the others of its datagram before anybody can say what is wrong with them.
                    let later: Vec<_> = (1..=120).flat_map(|s| node.run(Tick(s * 1000))).collect();
                    let dropped: u64 = node.drops().into_iter().map(|(_, count)| count).sum();
                    assert!(
                        dropped >= 1,
                        "{kind:?} from {from:?} IPv6 {ipv6}: {frames:x?}, later {later:x?}"
                    );
                }
            }
        }
    }

    #[test]
    fn sound_packets_of_every_protocol_pass_from_everywhere() {
        use caracal_wire::tcp::Flags;
        for (from, to) in
            [("a", "b"), ("a", "remote"), ("a", "outside"), ("outside", "a"), ("remote", "a"), ("plain", "c")]
        {
            for ipv6 in [false, true] {
                for packets in [Packets::Udp, Packets::Tcp(Flags::SYN), Packets::Echo] {
                    let (spot, stream) = between(from, to, ipv6);
                    let stream = Stream { packets, flows: 8, ..stream };
                    let traffic =
                        crate::traffic::Traffic::new(std::slice::from_ref(&stream), spot.hop(), 1).unwrap();
                    let (mut pipeline, arrivals) = open(&spot, None, traffic.parts[0].clone()).unwrap();
                    let pacer = Pacer::new(crate::pace::Rate::PerSecond(1e6), Duration::from_micros(64));
                    let sent = pipeline.send(1, pacer, &AtomicU64::new(0), &AtomicBool::new(false)).unwrap();
                    let came: usize = arrivals.batches.try_iter().map(|batch| batch.len()).sum();
                    let drops = sent.inside.as_ref().unwrap().drops.clone();
                    assert_eq!(
                        came as u64,
                        sent.packets(),
                        "{from} to {to} IPv6 {ipv6} {:?}: {drops:?}",
                        stream.packets
                    );
                    assert!(came > 0);
                }
            }
        }
    }
}
