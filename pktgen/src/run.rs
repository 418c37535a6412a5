//! `pktgen run`: one generator, one sink, one profile.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use caracal_wire::MacAddr;
use clap::ValueEnum;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};

use crate::account::{Account, Collector, Totals};
use crate::clock;
use crate::cpu::{MachineTime, WorkerLoad, Workers};
use crate::engine::live::LiveFrames;
use crate::engine::notes::Notes;
use crate::engine::socket::{self, Listener, Reflected, Sender};
use crate::engine::{Progress, Receive, Sent, Transmit};
use crate::html::{self, Named};
use crate::live::{Follow, Live};
use crate::machine::Machine;
use crate::pace::{Pacer, Rate};
use crate::place::Place;
use crate::profile::{ETHERNET_LEN, Profile, Sizes, parse_duration};
use crate::reach::{self, Given, Reach};
use crate::reconfigure::Meanwhile;
use crate::report::command::write;
use crate::report::{Circumstances, Report};
use crate::stream::{Distribution, End, Packets, Stream};
use crate::traffic::Traffic;

/// Flows of all engines, and of sockets: a descriptor each.
const FLOWS_MAX: i64 = 1 << 20;
const SOCKETS_MAX: u32 = 20_000;
/// Descriptors beside the flows' sockets.
const FILES_BESIDE: u64 = 64;
/// Live flows count up from here, unless told otherwise.
const FIRST_SOURCE_PORT: u16 = 1024;
/// How often scouts are sent until one comes through.
const SCOUT_EVERY: Duration = Duration::from_millis(20);
const TURN: Duration = Duration::from_millis(5);

const EXAMPLES: &str = "\
Examples:
  Between two pods of a lab, 10,000 packets a second; fail if one is lost:
    pktgen run --lab demo --from default/client --to default/server --rate 10k --expect-no-loss
  As fast as it goes between two network namespaces, 8 flows of simple IMIX:
    pktgen run --from-netns a --to-netns b --rate max --flows 8 --size imix --duration 30s
  To a service whose only backend is a pod that listens on 8080:
    pktgen run --lab demo --from default/client --to default/server --to-address 10.96.0.10 --port 80 --sink-port 8080
  The same from the kernel, five times as fast, on two processors (see --engine):
    pktgen run --engine live --from-netns a --to-netns b --rate max --flows 1000 --cores 2,3 --output json
  What is lost while policies change, every flow watched:
    pktgen run --lab demo --from default/client --to default/server --rate 100k --while './change-policies' --again
  Through the loopback of this machine:
    pktgen run --to-address 127.0.0.1 --rate 1k --duration 2s --output json

Exit status: 0 done; 1 --expect-no-loss, and a packet was lost; 2 could not run.";

/// Send flows of UDP from one place to another, and tell what was lost, late, doubled or out of order
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    way: Way,
    /// Packets a second, all flows together: 500, 10k, 1.5M; or max
    #[arg(long, value_name = "RATE", default_value = "10k")]
    rate: Rate,
    /// For how long
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    duration: Duration,
    #[command(flatten)]
    meanwhile: Meanwhile,
    /// Exit status 1 if a packet was lost, or none was sent
    #[arg(long)]
    expect_no_loss: bool,
    /// How to print the report
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Write the report as a page, too: with plots, in one file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// From where to where, in which flows and sizes.
#[derive(Debug, Clone, clap::Args)]
pub struct Way {
    /// The lab that --from and --to are in
    #[arg(long, value_name = "NAME")]
    lab: Option<String>,
    /// Where to send from, in the lab: NAMESPACE/POD, node/NAME or outside
    #[arg(long, value_name = "WHERE", requires = "lab", conflicts_with = "from_netns")]
    from: Option<String>,
    /// Where to send to, in the lab
    #[arg(long, value_name = "WHERE", requires = "lab", conflicts_with = "to_netns")]
    to: Option<String>,
    /// The network namespace to send from: a name of `ip netns`, or a path [default: this one]
    #[arg(long, value_name = "NETNS")]
    from_netns: Option<String>,
    /// The network namespace to send to [default: this one]
    #[arg(long, value_name = "NETNS")]
    to_netns: Option<String>,
    /// The address to send to [default: that of the place]
    #[arg(long, value_name = "ADDRESS")]
    to_address: Option<IpAddr>,
    /// The address to send from [default: as the kernel chooses]
    #[arg(long, value_name = "ADDRESS")]
    from_address: Option<IpAddr>,
    /// The port to send to
    #[arg(long, value_name = "PORT", default_value_t = 9000)]
    port: u16,
    /// Send to the IPv6 address of the place
    #[arg(short = '6', long, conflicts_with = "to_address")]
    ipv6: bool,
    /// The port that the sink listens on, at any address: when --to-address and --port are a service's, and are translated on the way
    #[arg(long, value_name = "PORT")]
    sink_port: Option<u16>,
    /// The source port of the first flow; further flows count up [default: as the kernel chooses]
    #[arg(long, value_name = "PORT")]
    from_port: Option<u16>,
    /// How many flows; packets take turns among them
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=FLOWS_MAX))]
    flows: u32,
    /// Frame sizes, from Ethernet header to end of payload, without FCS: SIZE[xWEIGHT],… or imix (64x7,590x4,1514x1)
    #[arg(long, value_name = "SIZES", default_value = "64")]
    size: String,
    /// How long to wait for a first packet to come through before the counting begins
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_duration)]
    wait: Duration,
    /// How long to wait for the last packets
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = parse_duration)]
    linger: Duration,
    /// How packets are made and taken
    #[arg(long, value_enum, default_value_t = Engine::Socket)]
    engine: Engine,
    /// Have the far end send every packet back, and measure the round trip (socket engine)
    #[arg(long)]
    reflect: bool,
    /// Do not show how it goes
    #[arg(short, long)]
    quiet: bool,
    /// The interface to send out of [default: by the route of the place's kernel]
    #[arg(long, value_name = "INTERFACE")]
    from_interface: Option<String>,
    /// The interface that packets are to come by [default: that with the address]
    #[arg(long, value_name = "INTERFACE")]
    to_interface: Option<String>,
    /// The MAC address of the next hop [default: as the place's kernel finds out]
    #[arg(long, value_name = "MAC")]
    gateway_mac: Option<MacAddr>,
    /// Processors to send on, one thread each [default: one thread, on any]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    cores: Vec<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Engine {
    /// The kernel's UDP sockets, at both ends
    Socket,
    /// Live frames: an XDP program in the kernel makes the packets and sends them out of an interface, another takes them. Needs root
    Live,
}

/// How a report is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Runs `pktgen run`.
///
/// # Errors
/// It could not run.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let open = args.way.open()?;
    let stop = Stop::on_signals()?;
    let report = args
        .meanwhile
        .during(args.duration, &open.began_ns, || open.trial(args.rate, args.duration, stop))?;
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Output::Table => print!("{}", report.table()),
    }
    for warning in &report.warnings {
        eprintln!("pktgen: {warning}");
    }
    let (lost, sent) = (report.total.lost, report.total.sent);
    if let Some(file) = &args.html {
        write(file, &html::runs_page(&[Named { name: "run".into(), report }]))?;
    }
    let failed = args.expect_no_loss && (lost > 0 || sent == 0);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A way whose ends are open: trials follow one another on it.
pub struct Open<'a> {
    way: &'a Way,
    sizes: Sizes,
    /// From where to where, for the report.
    from: String,
    to: String,
    /// Flows whose packets have marks.
    flows: u32,
    /// How much each core sends of all.
    weights: Vec<u64>,
    /// In trials, each is one thread's.
    ends: RefCell<Ends>,
    machine: Machine,
    /// When the first packet of the latest trial was due, by the monotonic clock; 0 before.
    began_ns: AtomicU64,
    /// What is shown of trials while they go on.
    pub follow: Follow,
}

struct Ends {
    transmits: Vec<Box<dyn Transmit>>,
    receives: Vec<Box<dyn Receive>>,
}

impl Way {
    /// The same with frames of one size.
    #[must_use]
    pub fn of_size(&self, bytes: u32) -> Way {
        Way { size: bytes.to_string(), ..self.clone() }
    }

    /// Opens the sink and a socket for each flow.
    ///
    /// # Errors
    /// A place cannot be entered, or has no address; a port is taken; frames do not fit.
    pub fn open(&self) -> anyhow::Result<Open<'_>> {
        let sizes = self.size.parse::<Sizes>().map_err(anyhow::Error::msg).context("--size")?;
        if self.reflect && self.engine != Engine::Socket {
            bail!("--reflect needs --engine socket: only its far end sends packets back");
        }
        let lab = self.lab.as_deref();
        let from = place(lab, self.from.as_deref(), self.from_netns.as_deref()).context("--from")?;
        let to = place(lab, self.to.as_deref(), self.to_netns.as_deref()).context("--to")?;
        let to_address = match self.to_address {
            Some(address) => address,
            None => to.address(self.ipv6).context("--to")?,
        };
        let (about_from, about_to) =
            (from.to_string(), format!("{to} {}", SocketAddr::new(to_address, self.port)));
        let (ends, flows, weights) = match self.engine {
            Engine::Socket => self.open_sockets(from, to, to_address, &sizes)?,
            Engine::Live => self.open_live(&from, &to, to_address, &sizes)?,
        };
        let follow = Follow {
            quiet: self.quiet,
            heading: format!("{about_from} → {about_to}  "),
            ..Follow::default()
        };
        Ok(Open {
            way: self,
            sizes,
            from: about_from,
            to: about_to,
            flows,
            weights,
            ends: RefCell::new(ends),
            machine: Machine::read(),
            began_ns: AtomicU64::new(0),
            follow,
        })
    }

    fn open_sockets(
        &self,
        from: Place,
        to: Place,
        to_address: IpAddr,
        sizes: &Sizes,
    ) -> anyhow::Result<Opened> {
        if self.flows > SOCKETS_MAX {
            bail!("{} flows: the socket engine has up to {SOCKETS_MAX}; try --engine live", self.flows);
        }
        raise_file_limit(if self.reflect { 2 * self.flows } else { self.flows })?;
        let target = SocketAddr::new(to_address, self.port);
        let listen = match self.sink_port {
            Some(port) => SocketAddr::new(socket::any(to_address), port),
            None => target,
        };
        let ends =
            socket::Ends { from, from_address: self.from_address, from_port: self.from_port, to: target };
        let sender = Sender::open(&ends, self.flows, sizes.clone())?;
        let receive: Box<dyn Receive> = if self.reflect {
            Box::new(Reflected::open(&to, listen, sender.back()?)?)
        } else {
            Box::new(Listener::open(to, listen)?)
        };
        let ends = Ends { receives: vec![receive], transmits: vec![Box::new(sender)] };
        Ok((ends, self.flows, vec![1]))
    }

    fn open_live(
        &self,
        from: &Place,
        to: &Place,
        to_address: IpAddr,
        sizes: &Sizes,
    ) -> anyhow::Result<Opened> {
        let given = Given {
            interface: self.from_interface.as_deref(),
            source: self.from_address,
            next_hop: self.gateway_mac,
        };
        let sink = match &self.to_interface {
            Some(name) => reach::interface(to, name),
            None => reach::interface_of(to, to.address(to_address.is_ipv6())?),
        };
        let sink = sink.context("the sink")?;
        let reach = reach::reach(from, to_address, given)?;
        let traffic = Traffic::new(&[self.stream(&reach, to_address, sizes)?], reach.hop, self.cores.len())?;
        let weights = traffic.weights();
        let mut ends = Ends { receives: vec![Box::new(Notes::open(to, &sink)?)], transmits: Vec::new() };
        for (at, part) in traffic.parts.into_iter().enumerate() {
            let core = self.cores.get(at).copied();
            ends.transmits.push(Box::new(LiveFrames::open(
                from.clone(),
                reach.interface.index,
                core,
                part,
                traffic.longest,
            )?));
        }
        Ok((ends, traffic.marked_flows, weights))
    }

    /// What the flags ask for: UDP.
    fn stream(&self, reach: &Reach, to_address: IpAddr, sizes: &Sizes) -> anyhow::Result<Stream> {
        let longest = usize::from(reach.interface.mtu) + ETHERNET_LEN;
        if sizes.largest() > longest {
            bail!(
                "frames of {} bytes do not fit {}: {longest} are possible",
                sizes.largest(),
                reach.interface.name
            );
        }
        let first = self.from_port.unwrap_or(FIRST_SOURCE_PORT);
        let ports = u32::from(u16::MAX - first) + 1;
        let one = End { address: to_address, addresses: 1, port: self.port, ports: 1 };
        Ok(Stream {
            name: "udp".into(),
            share: 1.0,
            packets: Packets::Udp,
            sizes: sizes.clone(),
            flows: self.flows,
            distribution: Distribution::Uniform,
            churn: 0.0,
            source: End { address: reach.source, addresses: 1, port: first, ports },
            // More flows than source ports go to further ports.
            destination: End { ports: self.flows.div_ceil(ports), ..one },
            tunnel: None,
        })
    }
}

/// What is open, how many flows have marks, and how much each core sends.
type Opened = (Ends, u32, Vec<u64>);

impl Open<'_> {
    /// Sends at a rate for a while, and tells what became of it.
    ///
    /// # Errors
    /// The kernel refuses in a way that trying again will not mend.
    pub fn trial(&self, rate: Rate, duration: Duration, stop: Stop) -> anyhow::Result<Report> {
        let profile = Profile { flows: self.way.flows, sizes: self.sizes.clone(), rate, duration };
        let mut ends = self.ends.try_borrow_mut().context("one trial at a time")?;
        let measured = measure(&mut ends, &profile, self, stop)?;
        let about = Circumstances {
            started: measured.started,
            profile: serde_json::to_value(profile.row(&self.way.size))?,
            asked_pps: match rate {
                Rate::Max => None,
                Rate::PerSecond(rate) => Some(rate),
            },
            from: self.from.clone(),
            to: self.to.clone(),
            machine_time: measured.machine_time,
            workers: measured.workers,
            machine: self.machine.clone(),
            sink_overflow: measured.overflowed,
            way_was_open: measured.way_was_open,
            round_trip: self.way.reflect,
            interrupted: stop.is_set(),
        };
        Ok(Report::new(&measured.sent, &measured.totals, about))
    }
}

fn place(lab: Option<&str>, target: Option<&str>, netns: Option<&str>) -> anyhow::Result<Place> {
    match (lab, target, netns) {
        (Some(lab), Some(target), _) => Place::in_lab(lab, target),
        (_, _, Some(netns)) => Ok(Place::Netns(netns.into())),
        (Some(lab), None, None) => bail!("say where in lab {lab}"),
        (None, _, None) => Ok(Place::Here),
    }
}

fn raise_file_limit(flows: u32) -> anyhow::Result<()> {
    let needed = u64::from(flows) + FILES_BESIDE;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("cannot read the limit of open files")?;
    if needed <= soft {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_NOFILE, needed, hard.max(needed)).with_context(|| {
        format!("{flows} flows need {needed} open files, and the limit is {hard}; ask for fewer --flows")
    })
}

/// Ctrl-C or SIGTERM ends a run early; it is still reported.
#[derive(Debug, Clone, Copy)]
pub struct Stop(&'static AtomicBool);

impl Stop {
    /// Threads started from now on leave these signals to the one that waits for them.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn on_signals() -> anyhow::Result<Self> {
        static STOP: AtomicBool = AtomicBool::new(false);
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
        signals.thread_block().context("cannot block signals")?;
        thread::spawn(move || {
            if signals.wait().is_ok() {
                STOP.store(true, Ordering::Relaxed);
            }
        });
        Ok(Stop(&STOP))
    }

    /// Whether one has come.
    #[must_use]
    pub fn is_set(self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

struct Measured {
    sent: Sent,
    totals: Totals,
    started: (String, u64),
    machine_time: Option<MachineTime>,
    workers: Vec<WorkerLoad>,
    overflowed: Option<u64>,
    way_was_open: bool,
}

fn measure(ends: &mut Ends, profile: &Profile, open: &Open<'_>, stop: Stop) -> anyhow::Result<Measured> {
    // Different in every run, so that what an earlier one left on the way is not taken for ours.
    let run = std::process::id() ^ (clock::now_ns() >> 8) as u32;
    let Ends { transmits, receives } = ends;
    let overflowed = |receives: &[Box<dyn Receive>]| -> Option<u64> {
        receives.iter().map(|receive| receive.overflowed()).sum()
    };
    let overflowed_before = overflowed(receives);
    let (mut collector, outlets) = Collector::new(receives.len(), clock::now_ns(), profile.duration)?;
    let mut accounts = Vec::new();
    for outlet in outlets {
        accounts.push(Account::new(run, open.flows)?.with_outlet(outlet));
    }
    let (progress, sent_so_far, close) = (Progress::default(), AtomicU64::new(0), AtomicBool::new(false));
    let workers = Workers::default();
    let result: anyhow::Result<_> = thread::scope(|scope| {
        let workers = &workers;
        let (progress, sent_so_far, close, collector) = (&progress, &sent_so_far, &close, &mut collector);
        let receivers: Vec<_> = receives
            .iter_mut()
            .zip(&mut accounts)
            .enumerate()
            .map(|(at, (receive, account))| {
                let work = move || receive.receive(run, account, progress, close);
                scope.spawn(move || workers.run(format!("sink {at}"), work))
            })
            .collect();
        let generate = || {
            let transmits = transmits;
            let way_was_open = open_the_way(transmits, run, progress, open.way.wait, stop)?;
            let started = (clock::utc_now(), clock::now_ns());
            collector.begin(started.1);
            open.began_ns.store(started.1, Ordering::Relaxed);
            let busy = MachineTime::now();
            let senders: Vec<_> = transmits
                .iter_mut()
                .zip(Pacer::split(profile.rate, profile.duration, &open.weights))
                .enumerate()
                .map(|(at, (transmit, pacer))| {
                    let work = move || transmit.send(run, pacer, sent_so_far, stop.0);
                    scope.spawn(move || workers.run(format!("generator {at}"), work))
                })
                .collect();
            let mut live = Live::begin(&open.follow, profile.duration);
            while !senders.iter().all(|sender| sender.is_finished()) {
                thread::sleep(TURN);
                let sent = sent_so_far.load(Ordering::Relaxed);
                collector.collect(clock::now_ns(), sent)?;
                live.turn(sent, progress.received.load(Ordering::Relaxed), collector, workers);
            }
            live.end();
            let sent = Sent::merge(senders.into_iter().map(join).collect::<anyhow::Result<_>>()?);
            let machine_time = busy.zip(MachineTime::now()).map(|(before, after)| after.since(before));
            wait_for_the_last(sent.packets(), progress, open.way.linger);
            Ok((sent, started, machine_time, way_was_open))
        };
        let sent = generate();
        close.store(true, Ordering::Relaxed);
        receivers.into_iter().map(join).collect::<anyhow::Result<()>>()?;
        sent
    });
    let (sent, started, machine_time, way_was_open) = result?;
    let overflowed =
        overflowed_before.zip(overflowed(receives)).map(|(before, after)| after.saturating_sub(before));
    let totals = collector.finish(sent.packets(), accounts)?;
    Ok(Measured { sent, totals, started, machine_time, workers: workers.loads(), overflowed, way_was_open })
}

fn join<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn open_the_way(
    transmits: &mut [Box<dyn Transmit>],
    run: u32,
    progress: &Progress,
    limit: Duration,
    stop: Stop,
) -> anyhow::Result<bool> {
    let start = Instant::now();
    loop {
        for transmit in &mut *transmits {
            transmit.scout(run)?;
        }
        let sent = Instant::now();
        while sent.elapsed() < SCOUT_EVERY {
            if progress.scouted.load(Ordering::Relaxed) {
                return Ok(true);
            }
            thread::sleep(Duration::from_millis(1));
        }
        if start.elapsed() > limit || stop.is_set() {
            return Ok(false);
        }
    }
}

fn wait_for_the_last(sent: u64, progress: &Progress, linger: Duration) {
    let mut received = progress.received.load(Ordering::Relaxed);
    let mut since = Instant::now();
    while received < sent && since.elapsed() < linger {
        thread::sleep(TURN);
        let now = progress.received.load(Ordering::Relaxed);
        if now != received {
            (received, since) = (now, Instant::now());
        }
    }
}
