//! Sends a profile's packets from connected UDP sockets, one socket a flow.
//!
//! A packet counts as sent when the kernel has taken it, and only then uses up a sequence number: so what the sink misses was lost on the
//! way. A packet that the kernel refuses (no route, no neighbor) spends its token and is counted as refused.

use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use nix::sys::prctl;
use nix::sys::socket::{GetSockOpt, MsgFlags, MultiHeaders, SetSockOpt, sendmmsg, sockopt};

use crate::clock;
use crate::engine::{Sent, Transmit, cores, wait_and_spin};
use crate::pace::{Pacer, Rate};
use crate::payload::{self, Mark};
use crate::place::Place;
use crate::profile::{ETHERNET_LEN, Sizes, headers_len, payload_len};

/// Packets given to the kernel in one call, at most.
const BATCH: usize = 32;
/// Below this, waiting for the next token by sleeping would be late: wake-ups take about so long.
const SPIN: Duration = Duration::from_micros(20);
/// Wishes; the kernel caps what an ordinary user gets.
const SEND_BUFFER_BYTES: usize = 4 << 20;

/// Who sends to whom.
#[derive(Debug, Clone)]
pub struct Ends {
    /// Where the generator is.
    pub from: Place,
    /// Its address; `None`: as the kernel chooses.
    pub from_address: Option<IpAddr>,
    /// The source port of the first flow; `None`: as the kernel chooses.
    pub from_port: Option<u16>,
    /// Where packets go.
    pub to: SocketAddr,
}

/// A socket for each flow.
#[derive(Debug)]
pub struct Sender {
    sockets: Vec<UdpSocket>,
    sizes: Sizes,
    core: Option<usize>,
}

impl Sender {
    /// Opens the sockets in the generator's place.
    ///
    /// # Errors
    /// The place cannot be entered, the kernel refuses a socket, or such frames do not fit the path.
    pub fn open(ends: &Ends, flows: u32, sizes: Sizes, core: Option<usize>) -> anyhow::Result<Self> {
        let sockets = open(ends, flows, sizes.largest())?;
        Ok(Sender { sockets, sizes, core })
    }

    /// The same sockets once more, to receive what comes back.
    ///
    /// # Errors
    /// There are too many open files.
    pub fn back(&self) -> anyhow::Result<Vec<UdpSocket>> {
        let cloned: Result<_, _> = self.sockets.iter().map(UdpSocket::try_clone).collect();
        cloned.context("cannot receive on the sockets that send")
    }
}

fn open(ends: &Ends, flows: u32, frame_max: usize) -> anyhow::Result<Vec<UdpSocket>> {
    ends.from.within(|| {
        (0..flows)
            .map(|flow| {
                let port = match ends.from_port {
                    None => 0,
                    Some(first) => u16::try_from(u32::from(first) + flow)
                        .map_err(|_| anyhow!("there are no {flows} source ports from {first} on"))?,
                };
                let local = SocketAddr::new(ends.from_address.unwrap_or(any(ends.to.ip())), port);
                let socket = UdpSocket::bind(local)
                    .with_context(|| format!("cannot send from {local} in {}", ends.from))?;
                // Without root the default buffer has to do.
                let _ = sockopt::SndBufForce.set(&socket, &SEND_BUFFER_BYTES);
                socket
                    .connect(ends.to)
                    .with_context(|| format!("cannot send to {} from {}", ends.to, ends.from))?;
                // The kernel would send a larger one in fragments, which are another thing to measure.
                if ends.to.is_ipv6() {
                    // What is too long is refused when it is sent.
                    sockopt::Ipv6DontFrag.set(&socket, &true).context("cannot forbid fragments")?;
                    return Ok(socket);
                }
                let mtu = sockopt::IpMtu.get(&socket).context("cannot read the path's MTU")?;
                let largest = usize::try_from(mtu).unwrap_or(0) + ETHERNET_LEN;
                if frame_max > largest {
                    bail!("frames of {frame_max} bytes do not fit the MTU of {mtu} to {}: {largest} are possible", ends.to);
                }
                Ok(socket)
            })
            .collect()
    })
}

/// Any address of the same family.
#[must_use]
pub fn any(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

impl Transmit for Sender {
    fn scout(&mut self, run: u32) -> anyhow::Result<()> {
        let mut bytes = [0; payload::LEN];
        for (flow, socket) in (0..).zip(&self.sockets) {
            Mark { run, flow, sequence: payload::SCOUT, sent_ns: clock::now_ns() }.write(&mut bytes);
            // Whether it gets through is what the sink will know.
            let _ = socket.send(&bytes);
        }
        Ok(())
    }

    fn send(
        &mut self,
        run: u32,
        pacer: Pacer,
        progress: &AtomicU64,
        stop: &AtomicBool,
    ) -> anyhow::Result<Sent> {
        cores::pin(self.core)?;
        send(&self.sockets, &self.sizes, run, pacer, progress, stop)
    }
}

fn send(
    sockets: &[UdpSocket],
    sizes: &Sizes,
    run: u32,
    mut pacer: Pacer,
    progress: &AtomicU64,
    stop: &AtomicBool,
) -> anyhow::Result<Sent> {
    // The default slack of 50 µs would make every wake-up late. Refused only by kernels without it.
    let _ = prctl::set_timerslack(1);
    let to = sockets
        .first()
        .and_then(|socket| socket.peer_addr().ok())
        .map_or(Ipv4Addr::LOCALHOST.into(), |to| to.ip());
    let payload_max = payload_len(sizes.largest(), to);
    let mut buffers = vec![vec![0u8; payload_max]; BATCH];
    let mut headers = MultiHeaders::<()>::preallocate(BATCH, None);
    let mut sent = Sent { by_flow: vec![0; sockets.len()], ..Sent::default() };
    let mut total = 0u64;
    let mut next_flow = 0;
    let start = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let elapsed = start.elapsed();
        let Some(mut due) = pacer.take(elapsed, BATCH as u64) else { break };
        if due == 0 {
            wait_and_spin(pacer.next().saturating_sub(start.elapsed()), SPIN);
            continue;
        }
        // What is due is spread over the flows; without a rate each gets a whole call.
        let share = match pacer.rate() {
            Rate::Max => BATCH as u64,
            Rate::PerSecond(_) => due.div_ceil(sockets.len() as u64),
        };
        while due > 0 {
            let flow = next_flow;
            next_flow = (next_flow + 1) % sockets.len();
            let (Some(socket), Some(sequence)) = (sockets.get(flow), sent.by_flow.get_mut(flow)) else {
                break;
            };
            let n = share.min(due);
            due -= n;
            let now = clock::now_ns();
            let flow = u32::try_from(flow).unwrap_or(u32::MAX);
            for (buffer, i) in buffers.iter_mut().zip(0..n) {
                Mark { run, flow, sequence: *sequence + i, sent_ns: now }.write(buffer);
            }
            let payload = |i: usize| payload_len(sizes.of(total + i as u64), to);
            let slices: [[IoSlice; 1]; BATCH] =
                std::array::from_fn(|i| [IoSlice::new(&buffers[i][..payload(i)])]);
            let n = usize::try_from(n).unwrap_or(BATCH);
            let result = sendmmsg(
                socket.as_raw_fd(),
                &mut headers,
                slices[..n].iter(),
                [None::<()>; BATCH],
                [],
                MsgFlags::empty(),
            );
            let taken = match result {
                Ok(results) => results.count(),
                Err(errno) if passes(errno) => 0,
                Err(nix::Error::EMSGSIZE) => {
                    bail!("frames as long as --size asks for do not fit the path's MTU")
                }
                Err(errno) => return Err(anyhow!(errno).context("the kernel refuses to send")),
            };
            sent.refused += (n - taken) as u64;
            sent.bytes += (0..taken).map(|i| (headers_len(to) + payload(i)) as u64).sum::<u64>();
            *sequence += taken as u64;
            total += taken as u64;
            progress.fetch_add(taken as u64, Ordering::Relaxed);
        }
    }
    sent.elapsed = start.elapsed();
    sent.missed = pacer.missed();
    Ok(sent)
}

/// Whether the next packet may well be taken: nobody listens yet, a route or neighbor is missing, a queue is full.
fn passes(errno: nix::Error) -> bool {
    use nix::Error as E;
    matches!(
        errno,
        E::ECONNREFUSED
            | E::EHOSTUNREACH
            | E::ENETUNREACH
            | E::ENETDOWN
            | E::ENOBUFS
            | E::EAGAIN
            | E::EINTR
            | E::EPERM
    )
}
