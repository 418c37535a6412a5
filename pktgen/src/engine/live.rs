//! Live frames: the kernel runs an XDP program that makes the packets and sends them out of an interface
//! ([`caracal_xsk::live_frames`]). The fastest on a veth.
//!
//! The program paces itself by the clock, frame by frame; user space looks in every few milliseconds. Nothing tells whether the interface took
//! a packet: one that did not fit the other end's queue counts as sent, and is lost, as it would be on a wire.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use caracal_xsk::live_frames::{Control, Flow, Generator, Size};

use super::{Sent, Transmit, cores};
use crate::clock;
use crate::pace::{Pacer, Plan};
use crate::place::Place;
use crate::traffic::Part;

/// How long one call of the kernel should take.
const CALL: Duration = Duration::from_millis(2);
/// Frames of a call, at first and at most.
const FRAMES_FIRST: u32 = 256;
const FRAMES_MAX: u32 = 1 << 16;
/// Frames that are sent on together: without a rate, and with one, where those that wait for others are late.
const BATCH: u32 = 64;
const BATCH_PACED: u32 = 8;
/// Before a packet is due by more than this, the processor is given to others.
const NAP: Duration = Duration::from_micros(200);
/// Scouts of one round, at most.
const SCOUTS_MAX: usize = 4096;

/// One core's generator.
pub struct LiveFrames {
    generator: Generator,
    place: Place,
    ifindex: u32,
    core: Option<usize>,
    part: Part,
}

impl LiveFrames {
    /// Loads the program for one core's part, to send from an interface of a place.
    ///
    /// # Errors
    /// Not root, an old kernel, or frames that are too long.
    pub fn open(
        place: Place,
        ifindex: u32,
        core: Option<usize>,
        part: Part,
        longest: usize,
    ) -> anyhow::Result<Self> {
        let size = Size {
            flows: part.flows.len(),
            templates: part.templates.len(),
            deck: part.deck.len(),
            frame: longest,
        };
        let mut generator = Generator::load(size)?;
        for (at, template) in part.templates.iter().enumerate() {
            generator.set_template(at, *template);
        }
        for (at, flow) in part.flows.iter().enumerate() {
            generator.set_flow(at, *flow);
        }
        for (at, pick) in part.deck.iter().enumerate() {
            generator.set_pick(at, *pick);
        }
        Ok(LiveFrames { generator, place, ifindex, core, part })
    }

    fn run(&mut self, frames: u32, batch: u32) -> anyhow::Result<()> {
        self.generator.run(self.ifindex, frames, batch).context(
            "the kernel does not run live frames (BPF_PROG_TEST_RUN): Linux 5.18 or later and root are needed",
        )
    }
}

impl Transmit for LiveFrames {
    fn scout(&mut self, run: u32) -> anyhow::Result<()> {
        let place = self.place.clone();
        let frames = self.part.deck.len().min(SCOUTS_MAX) as u32;
        let now = clock::now_ns();
        self.generator.set_control(Control {
            due_ns: now,
            deadline_ns: u64::MAX,
            catch_up_ns: u64::MAX,
            tokens: u64::from(frames),
            run,
            scouting: 1,
            ..Control::default()
        });
        // The interface is looked for in the calling thread's network namespace.
        place.within(|| self.run(frames, BATCH))
    }

    fn send(
        &mut self,
        run: u32,
        pacer: Pacer,
        progress: &AtomicU64,
        stop: &AtomicBool,
    ) -> anyhow::Result<Sent> {
        self.place.enter()?;
        cores::pin(self.core)?;
        for (at, flow) in self.part.flows.iter().enumerate() {
            self.generator.set_flow(at, *flow);
        }
        // With a million flows it takes longer than a generator may be late.
        let mut churn = self.part.churn();
        let mut flows = self.part.flows.clone();
        let start = clock::now_ns();
        let plan = pacer.plan();
        let deadline_ns = start.saturating_add(nanos(plan.time_limit));
        let batch = if plan.interval_ns == 0 { BATCH } else { BATCH_PACED };
        self.generator.set_control(Control {
            due_ns: start + plan.first_ns,
            interval_ns: plan.interval_ns,
            interval_fraction: plan.interval_fraction,
            catch_up_ns: plan.catch_up_ns,
            deadline_ns,
            tokens: plan.tokens,
            run,
            ..Control::default()
        });
        let (mut frames, mut told) = (FRAMES_FIRST, 0);
        let control = loop {
            let control = self.generator.control();
            progress.fetch_add(control.sent - told, Ordering::Relaxed);
            told = control.sent;
            let now = clock::now_ns();
            if control.tokens == 0 || now >= deadline_ns || stop.load(Ordering::Relaxed) {
                break control;
            }
            let early = Duration::from_nanos(control.due_ns.saturating_sub(now));
            if early > NAP {
                std::thread::sleep((early - NAP / 2).min(CALL * 10));
                continue;
            }
            let generator = &mut self.generator;
            churn.renew(Duration::from_nanos(now - start), &mut flows, |at, new| {
                let Flow { sequence, .. } = generator.flow(at);
                generator.set_flow(at, Flow { sequence, ..new });
            });
            self.run(frames, batch)?;
            let took = Duration::from_nanos(clock::now_ns() - now).max(Duration::from_micros(1));
            let wanted = f64::from(frames) * CALL.as_secs_f64() / took.as_secs_f64();
            frames = (wanted as u32).clamp(frames / 2, frames * 2).clamp(BATCH, FRAMES_MAX);
        };
        let elapsed = Duration::from_nanos(clock::now_ns() - start);
        let mut sent = Sent {
            by_flow: Vec::new(),
            bytes: control.bytes,
            elapsed,
            missed: control.missed + left_out(&plan, &control, stop),
            refused: control.failed,
            ..Sent::default()
        };
        for at in 0..self.part.flows.len() {
            let flow = self.generator.flow(at);
            sent.count(flow.id, flow.sequence);
        }
        debug_assert_eq!(sent.packets() + sent.unmarked, control.sent);
        Ok(sent)
    }
}

/// Tokens that are left are late for good; but nothing was owed without a rate, and what a run would have sent that was ended early.
fn left_out(plan: &Plan, control: &Control, stop: &AtomicBool) -> u64 {
    if plan.interval_ns == 0 || stop.load(Ordering::Relaxed) { 0 } else { control.tokens }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::tests::{HOP, streams};
    use crate::frame::{self, Packet};
    use crate::malformed::Malformed;
    use crate::pace::Rate;
    use crate::payload;
    use crate::stream::tests::stream;
    use crate::stream::{Packets, Stream};
    use crate::traffic::Traffic;
    use caracal_xsk::xdp::{Preference, WireEnd};
    use caracal_xsk::{Config, Domain, DomainConfig, Socket};
    use nix::sched::{CloneFlags, unshare};
    use std::process::Command;
    use std::time::Instant;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Runs `test` in a network namespace with a veth pair, given the numbers of its ends. Both end with the thread.
    fn with_veth(test: impl FnOnce(u32, u32) + Send + 'static) {
        assert!(nix::unistd::geteuid().is_root(), "this test makes a network namespace: run it as root");
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
            for arguments in ["link add va type veth peer name vb", "link set va up", "link set vb up"] {
                let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
                assert!(status.success(), "ip {arguments}");
            }
            let index = |name| nix::net::if_::if_nametoindex(name).unwrap();
            test(index("va"), index("vb"));
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }

    #[test]
    fn the_program_makes_the_same_frames_as_we_do_byte_by_byte() {
        with_veth(|a, b| {
            let mut all = streams();
            all.push(Stream { packets: Packets::Malformed(Malformed::all(false)), ..stream(1, "64") });
            let part = Traffic::new(&all, HOP, 1).unwrap().parts.remove(0);
            let (domain, mut pool) =
                Domain::new(DomainConfig { chunks: 4096, ..DomainConfig::default() }).unwrap();
            let mut program = WireEnd::attach(b, Preference::Native).unwrap();
            let mut socket = Socket::bind(&domain, b, 0, Config::default()).unwrap();
            program.set_socket(0, &socket).unwrap();
            socket.refill(&mut pool, 2048);

            const PACKETS: u64 = 1_000;
            let mut live = LiveFrames::open(Place::Here, a, None, part.clone(), 1001).unwrap();
            let pacer = Pacer::new(Rate::PerSecond(PACKETS as f64), Duration::from_secs(1));
            let sent = live.send(77, pacer, &AtomicU64::new(0), &AtomicBool::new(false)).unwrap();
            let made = sent.packets() + sent.unmarked;
            assert_eq!((made + sent.missed, sent.refused), (PACKETS, 0));

            let mut ours = part;
            let mut cursor = ours.cursor();
            let (mut came, begun) = (0, Instant::now());
            while came < made {
                assert!(begun.elapsed() < PATIENCE, "{came} of {made} came");
                let mut frames = Vec::new();
                socket.receive(64, |frame, _| frames.push(frame));
                for theirs in frames {
                    let (flow, template, length) = cursor.next().unwrap();
                    let now_ns = payload::mark_of(theirs.data()).map_or(0, |mark| mark.sent_ns);
                    let mut frame = vec![0; length];
                    assert!(frame::write(
                        Packet { template, length, run: 77, now_ns, scout: false },
                        flow,
                        &mut frame
                    ));
                    assert_eq!(theirs.data(), frame, "packet {came}, {template:?}");
                    came += 1;
                    pool.put(theirs);
                }
                socket.refill(&mut pool, 2048);
            }
            socket.close(&mut pool);
        });
    }
}
