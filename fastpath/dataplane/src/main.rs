//! `caracal-fastpath`: the node's packet forwarder.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{SyncSender, channel, sync_channel};

use anyhow::{Context, Result, bail};
use caps::{CapSet, Capability, CapsHashSet};
use caracal_dataplane::clock::Clock;
use caracal_dataplane::controller::mirror::{self, Mirror};
use caracal_dataplane::controller::ports::{FrameShares, PortConfig, Ports, UplinkIo, WorkerHandle};
use caracal_dataplane::controller::server::{self, Event, Greeting};
use caracal_dataplane::controller::{Controller, report::Identity};
use caracal_dataplane::counters::WorkerCounters;
use caracal_dataplane::handover::{Doorbell, Peer, connect};
use caracal_dataplane::huge_pages;
use caracal_dataplane::pipeline::Pipeline;
use caracal_dataplane::policy_log::{self, PolicyLog, Recorder};
use caracal_dataplane::probe::advice::{Settings, advise};
use caracal_dataplane::probe::report::{self, Report};
use caracal_dataplane::probe::tuning::Wanted;
use caracal_dataplane::probe::{self, Interface, place};
use caracal_dataplane::snapshot::Publisher;
use caracal_dataplane::table::{AssignWorker, PodPort, TableBuilder, Tables};
use caracal_dataplane::worker::thread::{Thread, WorkerStatus};
use caracal_dataplane::worker::{Engine, WorkerIndex};
use caracal_xsk::{Domain, DomainConfig, MultiBuffer, Pages};
use clap::Parser;
use nix::sys::signal::{SigSet, Signal};
use tracing::{info, warn};

/// Forwards this node's pods' packets in user space.
///
/// Pulls frames off AF_XDP sockets on the uplink and on every pod's veth, takes them through policy, routing and VXLAN,
/// and sends them on. What to do is told by `caracal agent` over the plane socket; until it has been, pods are cut off.
/// Stopping it, however that happens, leaves the host's own network as it was.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:
  caracal-fastpath --socket /var/run/caracal/fastpath.sock --cpus 2,3
  caracal-fastpath --probe eth0 eth1
  caracal fastpath status --socket /var/run/caracal/fastpath.sock"
)]
struct Arguments {
    /// Where the control plane and readers connect (a unix socket, made with mode 0600)
    #[arg(long, default_value = caracal_plane_api::DEFAULT_SOCKET)]
    socket: PathBuf,
    /// CPUs to pin workers to, one worker each ("2,3" or "2-5"); "auto": as many as --workers, near the uplinks; not given: one
    /// worker, not pinned
    #[arg(long, value_parser = parse_cpus)]
    cpus: Option<Cpus>,
    /// Workers, when there should be more than --cpus names (they share these CPUs)
    #[arg(long)]
    workers: Option<u16>,
    /// Where pods' XDP programs are pinned
    #[arg(long, default_value = caracal_xsk::xdp::DEFAULT_BPF_DIR)]
    bpf_dir: PathBuf,
    /// An uplink; may be given several times. Not given: the devices that have an address of the node, and those that a default route
    /// or the route to another node uses
    #[arg(long = "uplink", value_name = "DEVICE")]
    uplinks: Vec<String>,
    /// How uplinks' frames come in: "auto" is zero-copy where the driver can
    #[arg(long, value_enum, default_value_t = Io::Auto)]
    uplink_io: Io,
    /// Set each uplink's queues to so many while this runs (a real device loses its link for a moment)
    #[arg(long, value_name = "QUEUES", value_parser = clap::value_parser!(u32).range(1..=256))]
    uplink_queues: Option<u32>,
    /// Set the entries of each uplink's own rings, or as many as it can, while this runs (as above)
    #[arg(long, value_name = "ENTRIES", value_parser = clap::value_parser!(u32).range(64..=65_536))]
    uplink_rings: Option<u32>,
    /// Frames of a worker's memory
    #[arg(long, default_value_t = 8192)]
    chunks: u32,
    /// Bytes of a frame: 2048 or 4096
    #[arg(long, default_value_t = 2048)]
    chunk_size: u16,
    /// Pods' ports: "af_xdp" (best for small packets), "packet" (super-frames: best for bulk TCP), or "auto": af_xdp, and packet for as
    /// long as what a pod moves is bulk TCP. A pod's annotation projectcaracal.org/podPort goes before this
    #[arg(long, default_value = "auto")]
    pod_port: PodPort,
    /// Segment pods' super-frames here also where an uplink's AF_XDP sockets copy, and the kernel could do it
    #[arg(long)]
    segment_here: bool,
    /// Entries of each ring of a pod's socket (a power of two)
    #[arg(long, default_value_t = 1024, value_parser = parse_ring)]
    pod_ring: u32,
    /// Entries of each ring of the uplink's sockets (a power of two)
    #[arg(long, default_value_t = 4096, value_parser = parse_ring)]
    uplink_ring: u32,
    /// Flows that each worker can track
    #[arg(long, default_value_t = 131_072, value_parser = clap::value_parser!(u32).range(64..=FLOWS_MAX))]
    flows: u32,
    /// Drop TCP segments that lie outside of their connection's windows
    #[arg(long)]
    tcp_window_checks: bool,
    /// Kernel memory that all sockets together may take, MiB
    #[arg(long, default_value_t = 1536)]
    kernel_memory_mib: u64,
    /// Do not try huge pages
    #[arg(long)]
    no_huge_pages: bool,
    /// Say what these interfaces can do, what would be used of it as an uplink, and why; and end
    #[arg(long, value_name = "INTERFACE", num_args = 1..)]
    probe: Vec<String>,
    /// With --probe: put a program and a socket on each for a moment, too (a real device may reset its rings)
    #[arg(long = "try", requires = "probe")]
    try_out: bool,
    /// With --probe: how to print
    #[arg(short, long, value_enum, default_value_t = Output::Table, requires = "probe")]
    output: Output,
    /// Log level: error, warn, info, debug, trace (or by module, as in "info,caracal_dataplane=debug")
    #[arg(long, default_value = "info")]
    log: String,
}

#[derive(Clone, Debug)]
enum Cpus {
    These(Vec<usize>),
    Auto,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Io {
    Auto,
    Copy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Table,
    Json,
}

/// Flows of a worker, at most: their table is allocated at the start, about 100 bytes each.
const FLOWS_MAX: i64 = 1 << 24;

fn parse_ring(text: &str) -> Result<u32, String> {
    let entries = text.parse().ok().filter(|n: &u32| n.is_power_of_two() && (16..=32_768).contains(n));
    entries.ok_or_else(|| "a ring has a power of two of entries, from 16 to 32768".into())
}

fn parse_cpus(text: &str) -> Result<Cpus, String> {
    if text == "auto" {
        return Ok(Cpus::Auto);
    }
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let wrong =
            || format!("{part:?} is neither a CPU's number nor a range of them, as in \"2,3\" or \"2-5\"");
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.trim().parse().map_err(|_| wrong())?;
        let last: usize = last.trim().parse().map_err(|_| wrong())?;
        if first > last || last - first > 1024 {
            return Err(wrong());
        }
        cpus.extend(first..=last);
    }
    Ok(Cpus::These(cpus))
}

fn main() -> ExitCode {
    let huge_pages = huge_pages::ask();
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_new(&arguments.log);
    let Ok(filter) = filter else {
        eprintln!("caracal-fastpath: --log: {:?} is no log level", arguments.log);
        return ExitCode::from(2);
    };
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(is_terminal)
        .init();
    if let Err(error) = huge_pages {
        warn!(%error, "large tables lie in small pages: this program cannot be started anew with an allocator that asks for huge ones");
    }
    let done = if arguments.probe.is_empty() { run(&arguments) } else { probe(&arguments) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("caracal-fastpath: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Prints what interfaces can do.
fn probe(arguments: &Arguments) -> Result<()> {
    let machine = place::Cpus::of_this_machine();
    let settings = Settings {
        workers: usize::from(worker_count(arguments)?),
        chunks: arguments.chunks,
        chunk_size: arguments.chunk_size,
        uplink_ring: arguments.uplink_ring,
    };
    let mut reports = Vec::new();
    for name in &arguments.probe {
        let interface = Interface::ask(name)?;
        let tried = arguments.try_out.then(|| probe::try_out(interface.index));
        let advice = advise(&interface, tried.as_ref(), settings, &machine);
        reports.push(Report { interface, tried, advice });
    }
    match arguments.output {
        Output::Table => reports.iter().for_each(|report| print!("{report}")),
        Output::Json => println!("{}", report::json(&reports)),
    }
    Ok(())
}

/// `--workers`, or as many as `--cpus` names.
fn worker_count(arguments: &Arguments) -> Result<u16> {
    let named = match &arguments.cpus {
        Some(Cpus::These(cpus)) => cpus.len(),
        Some(Cpus::Auto) | None => 1,
    };
    let count = arguments.workers.map_or(named.max(1), usize::from);
    match u16::try_from(count).ok().filter(|n| (1..=WORKERS_MAX).contains(n)) {
        Some(count) => Ok(count),
        None => bail!("--workers: between 1 and {WORKERS_MAX} are possible"),
    }
}

/// The CPUs that workers are pinned to.
fn chosen_cpus(arguments: &Arguments) -> Result<Vec<usize>> {
    match &arguments.cpus {
        None => Ok(Vec::new()),
        Some(Cpus::These(cpus)) => check_cpus(cpus).map(|()| cpus.clone()),
        Some(Cpus::Auto) => {
            // Which uplinks there will be is not known yet: those that are named, or those by which the host reaches all else.
            let uplinks = match &arguments.uplinks[..] {
                [] => Mirror::open()?.default_devices()?,
                named => named.to_vec(),
            };
            let interfaces = uplinks.iter().filter_map(|name| Interface::ask(name).ok());
            let nodes: Vec<Option<u32>> = interfaces.map(|interface| interface.place.numa_node).collect();
            let workers = usize::from(worker_count(arguments)?);
            Ok(place::Cpus::of_this_machine().choose(workers, &nodes))
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("must be run as root: it opens AF_XDP sockets and reads the kernel's network state");
    }
    // Before any thread is started, so that all of them leave these to the one that waits for them.
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    signals.thread_block().context("cannot block signals")?;

    let cpus = chosen_cpus(arguments)?;
    let count = worker_count(arguments)?;

    let clock = Clock::start();
    let (events, queue) = channel();
    let mut builder = TableBuilder::new(count, spread(count));
    let mut publisher = Publisher::new(builder.build());
    let (unknown, wanted) = sync_channel(NEIGHBORS_WAITING_MAX);
    let (recorders, records) = (0..count).map(|_| policy_log::records()).unzip();
    let log = PolicyLog::new(records);
    let workers = make_workers(arguments, recorders, clock, &unknown, &mut publisher)?;
    let identity = Identity {
        instance: random(),
        clock,
        flow_bytes: workers.iter().map(|(_, handle)| handle.status.flow_bytes.load(Relaxed)).sum(),
        flow_capacity: workers.iter().map(|(_, handle)| handle.status.flow_capacity.load(Relaxed)).sum(),
        umem_bytes: u64::from(count) * u64::from(arguments.chunks) * u64::from(arguments.chunk_size),
        huge_pages: workers.iter().all(|(_, handle)| *handle.domain.pages() == Pages::Huge),
    };
    if let Some(Pages::Small(reason)) = workers.first().map(|(_, handle)| handle.domain.pages()) {
        warn!("memory is in 4 KiB pages, which costs speed: {reason}");
    }
    if let Some(MultiBuffer::Off(reason)) = workers.first().map(|(_, handle)| handle.domain.multi_buffer()) {
        warn!("packets that do not fit into one frame are not carried (jumbo frames): {reason}");
    }

    drop_privileges()?;
    let mirror = Mirror::open()?;
    let changes = events.clone();
    mirror::watch(move || changes.send(Event::Kernel).is_ok())?;
    let neighbors = events.clone();
    std::thread::Builder::new().name("neighbors".into()).spawn(move || {
        for (ifindex, address) in wanted {
            let _ = neighbors.send(Event::UnknownNeighbor(ifindex, address));
        }
    })?;
    let greeting = Greeting { instance: identity.instance, workers: u32::from(count) };
    let _socket = server::serve(&arguments.socket, greeting, events.clone())?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let _ = signals.wait();
        let _ = events.send(Event::Stop);
    })?;

    let (threads, handles): (Vec<_>, Vec<_>) = workers.into_iter().unzip();
    let mut running = Vec::new();
    for (index, thread) in threads.into_iter().enumerate() {
        let cpu = cpus.get(index % cpus.len().max(1)).copied();
        let name = format!("worker-{index}");
        let run = move || {
            if let Some(id) = cpu
                && !core_affinity::set_for_current(core_affinity::CoreId { id })
            {
                warn!(cpu = id, "cannot pin a worker to this CPU");
            }
            thread.run();
        };
        running.push(std::thread::Builder::new().name(name).spawn(run)?);
    }
    info!(workers = count, cpus = ?cpus, socket = %arguments.socket.display(), "ready for the control plane");
    let config = PortConfig {
        bpf_dir: arguments.bpf_dir.clone(),
        pod_port: arguments.pod_port,
        segment_here: arguments.segment_here,
        pod_ring: arguments.pod_ring,
        uplink_ring: arguments.uplink_ring,
        uplinks: arguments.uplinks.clone(),
        uplink_io: if arguments.uplink_io == Io::Copy { UplinkIo::Copy } else { UplinkIo::Auto },
        tuning: Wanted { queues: arguments.uplink_queues, rings: arguments.uplink_rings },
        kernel_memory_budget: arguments.kernel_memory_mib.saturating_mul(1 << 20),
    };
    let ports = Ports::new(config, handles);
    let tuned = Controller::new(builder, publisher, ports, mirror, queue, log, identity)?.run();
    for thread in running {
        let _ = thread.join();
    }
    // Now that no socket is left on them.
    drop(tuned);
    Ok(())
}

/// Next hops that wait to be resolved, at most.
const NEIGHBORS_WAITING_MAX: usize = 64;

/// Keeps what running takes: NET_ADMIN (devices, neighbors), NET_RAW (AF_XDP sockets), BPF and PERFMON
/// (programs and maps; without the latter the verifier refuses pointers computed from packet bytes). What memory took
/// is not needed any more, and no program that this one could be made to execute may get any of it back (bounding set,
/// no-new-privileges). Before other threads are started, since each thread has its own capabilities.
fn drop_privileges() -> Result<()> {
    let kept: CapsHashSet =
        [Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW, Capability::CAP_BPF, Capability::CAP_PERFMON]
            .into();
    let held = caps::read(None, CapSet::Permitted).context("cannot read this process's capabilities")?;
    let kept: CapsHashSet = held.intersection(&kept).copied().collect();
    let give_up = || {
        // Only one with SETPCAP may cut it; one without was started with little.
        if held.contains(&Capability::CAP_SETPCAP) {
            caps::clear(None, CapSet::Bounding)?;
        }
        caps::clear(None, CapSet::Inheritable)?;
        caps::set(None, CapSet::Effective, &kept)?;
        caps::set(None, CapSet::Permitted, &kept)
    };
    give_up().context("cannot give up capabilities")?;
    nix::sys::prctl::set_no_new_privs().context("cannot set no-new-privileges")
}

/// Frames that a worker lends each other one to hand packets over in, at most; all together
/// its share for that.
const LENT_FRAMES_MAX: usize = 512;

/// Workers, at most.
const WORKERS_MAX: u16 = 256;

fn check_cpus(cpus: &[usize]) -> Result<()> {
    let allowed: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
    for cpu in cpus {
        if !allowed.contains(cpu) {
            bail!("--cpus: this process may not use CPU {cpu}; it may use {allowed:?}");
        }
    }
    Ok(())
}

/// Workers with their memory, connected with one another, and how the controller reaches them.
fn make_workers(
    arguments: &Arguments,
    recorders: Vec<Recorder>,
    clock: Clock,
    unknown_neighbors: &SyncSender<(u32, IpAddr)>,
    publisher: &mut Publisher<Tables>,
) -> Result<Vec<(Thread, WorkerHandle)>> {
    let count = recorders.len() as u16;
    let descriptors = "cannot make event descriptors; raise the limit on open files";
    let doorbells: Vec<Arc<Doorbell>> =
        (0..count).map(|_| Doorbell::new().map(Arc::new)).collect::<Result<_, _>>().context(descriptors)?;
    let others = usize::from(count).saturating_sub(1).max(1);
    let lent = FrameShares::of(arguments.chunks as usize, usize::from(count)).lent / others;
    let peers = connect_all(&doorbells, lent.min(LENT_FRAMES_MAX));
    let mut workers = Vec::new();
    for (((index, doorbell), peers), recorder) in (0..count).zip(doorbells).zip(peers).zip(recorders) {
        let config = DomainConfig {
            chunks: arguments.chunks,
            chunk_size: arguments.chunk_size,
            huge_pages: !arguments.no_huge_pages,
            ..DomainConfig::default()
        };
        let (domain, pool) = Domain::new(config).with_context(|| format!("worker {index}"))?;
        let counters = WorkerCounters::new();
        let status = Arc::new(WorkerStatus::default());
        let worker = WorkerIndex(index);
        let mut pipeline = Pipeline::new(worker, arguments.flows as usize, random());
        pipeline.recorder = recorder;
        if arguments.tcp_window_checks {
            pipeline.flows.check_windows();
        }
        status.flow_capacity.store(pipeline.flows.capacity() as u64, Relaxed);
        status.flow_bytes.store(pipeline.flows.memory_bytes() as u64, Relaxed);
        let engine = Engine::new(pipeline, worker, pool, Arc::clone(&counters), publisher.subscribe(), peers);
        let (commands, inbox) = channel();
        let thread = Thread::new(
            engine,
            inbox,
            Arc::clone(&doorbell),
            Arc::clone(&status),
            Arc::clone(&counters),
            unknown_neighbors.clone(),
            clock,
        )
        .context(descriptors)?;
        workers.push((thread, WorkerHandle { index: worker, domain, counters, status, doorbell, commands }));
    }
    Ok(workers)
}

/// Rings between every two workers; for each worker its ends, by the other's number.
fn connect_all(doorbells: &[Arc<Doorbell>], frames: usize) -> Vec<Vec<Option<Peer>>> {
    let count = doorbells.len();
    let mut peers: Vec<Vec<Option<Peer>>> = (0..count).map(|_| (0..count).map(|_| None).collect()).collect();
    for a in 0..count {
        for b in a + 1..count {
            let (to_b, to_a) = connect(frames, Arc::clone(&doorbells[a]), Arc::clone(&doorbells[b]));
            peers[a][b] = Some(to_b);
            peers[b][a] = Some(to_a);
        }
    }
    peers
}

/// New endpoints go to the workers in turn.
fn spread(count: u16) -> AssignWorker {
    let mut next = 0;
    Box::new(move |_, _| {
        let worker = next;
        next = (next + 1) % count;
        worker
    })
}

/// A number that nobody can guess.
fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}
