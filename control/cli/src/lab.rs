//! `caracal lab`: clusters of network namespaces from case files.

use std::io::{self, BufRead, BufReader, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs, thread};

use anyhow::{Context, bail};
use caracal_lab::{Cluster, LabError, LabName, MARK, Phase, Process, Reader, State, Stop, Target, TryFlow};
use caracal_model::case::report::{CaseReport, Observed, Report};
use caracal_model::case::{Case, World};
use caracal_model::pod_port::PodPort;
use clap::Subcommand;
use serde_json::{Value, json};

use crate::policy::{Output, case_files, print_report};
use crate::table::{emit, table};

const EXAMPLES: &str = "Examples:
  caracal lab run tests/cases                     every case, each in a cluster of its own
  caracal lab up tests/cases/same-node.yaml       bring a case's cluster up and leave it running
  caracal lab exec shop/friend -- ping -c1 10.244.1.2
  caracal lab exec node/node1 -- ip route
  caracal lab try shop/web shop/db TCP 5432       answered, or not, and by which rule
  caracal fastpath drops --lab lab/node1
  caracal lab down";

/// Bring clusters of network namespaces up, with real pods, and send real packets through them.
///
/// Each node has its own caracal-fastpath and caracal agent; all are fed by one caracal apiserver. Needs root.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: LabCommand,
}

#[derive(Debug, Subcommand)]
enum LabCommand {
    /// Bring a case's cluster up and leave it running, under a supervisor that restarts what dies
    Up(UpArgs),
    /// Bring each case's cluster up, send every flow, judge what came back, take it down
    Run(RunArgs),
    /// Show the labs there are
    Status(StatusArgs),
    /// Run a command in a pod, on a node, or where the hosts outside are
    Exec(ExecArgs),
    /// Send one flow, and tell what became of it and why
    Try(TryArgs),
    /// Remove everything a lab made, also what a crashed one left
    Down(DownArgs),
    /// What `up` leaves running
    #[command(hide = true)]
    Supervise(UpArgs),
}

#[derive(Debug, clap::Args)]
struct UpArgs {
    /// The lab's name: a-z, 0-9 and '-'
    #[arg(long, value_name = "N", default_value = "lab")]
    name: LabName,
    /// What pods' ports are, in place of what the case says: auto, af_xdp or packet
    #[arg(long, value_name = "KIND")]
    pod_port: Option<PodPort>,
    /// The case file
    #[arg(value_name = "CASE")]
    case: PathBuf,
}

/// Exit status: 0 when everything was as the cases expect, 1 when something was not, 2 when a case could not be read or set up.
#[derive(Debug, clap::Args)]
struct RunArgs {
    /// How to print the report
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Cases that run at once [default: two for each CPU]
    #[arg(short, long, value_name = "COUNT")]
    jobs: Option<usize>,
    /// Say what is being done, with times
    #[arg(short, long)]
    verbose: bool,
    /// What pods' ports are, in place of what the cases say: auto, af_xdp or packet
    #[arg(long, value_name = "KIND")]
    pod_port: Option<PodPort>,
    /// Case files, or folders of them
    #[arg(value_name = "CASE", required = true)]
    cases: Vec<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct StatusArgs {
    /// Only this lab
    #[arg(long, value_name = "N")]
    name: Option<LabName>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// The command's exit status is passed on.
#[derive(Debug, clap::Args)]
struct ExecArgs {
    /// The lab
    #[arg(long, value_name = "N", default_value = "lab")]
    name: LabName,
    /// NAMESPACE/POD, node/NAME, or outside
    #[arg(value_name = "WHERE")]
    target: Target,
    /// The command and its arguments
    #[arg(value_name = "COMMAND", required = true, last = true)]
    command: Vec<String>,
}

/// Exit status: 0 when it was answered, 1 when it was not, 2 when it could not be tried.
#[derive(Debug, clap::Args)]
struct TryArgs {
    /// The lab
    #[arg(long, value_name = "N", default_value = "lab")]
    name: LabName,
    /// NAMESPACE/POD, node/NAME, or the address of a host outside
    #[arg(value_name = "FROM")]
    from: String,
    /// The same, of the other end
    #[arg(value_name = "TO")]
    to: String,
    /// TCP, UDP, SCTP, ICMP, or a number
    #[arg(value_name = "PROTOCOL")]
    protocol: String,
    /// Number, or the name of a container port
    #[arg(value_name = "PORT")]
    port: Option<String>,
}

#[derive(Debug, clap::Args)]
struct DownArgs {
    /// The lab
    #[arg(long, value_name = "N", default_value = "lab", conflicts_with = "all")]
    name: LabName,
    /// Every lab there is
    #[arg(long)]
    all: bool,
}

/// Runs `caracal lab`.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        LabCommand::Up(args) => up(&args),
        LabCommand::Run(args) => run_cases(&args),
        LabCommand::Status(args) => status(&args),
        LabCommand::Exec(args) => exec(&args),
        LabCommand::Try(args) => try_flow(args),
        LabCommand::Down(args) => down(&args),
        LabCommand::Supervise(args) => supervise(&args),
    }
}

fn read_case(file: &Path, pod_port: Option<PodPort>) -> anyhow::Result<(Case, World)> {
    let text = fs::read_to_string(file).context("cannot read the file")?;
    let mut case = Case::parse(&text)?;
    case.lab.pod_port = pod_port.unwrap_or(case.lab.pod_port);
    let world = case.world()?;
    Ok((case, world))
}

// What the supervisor says to `lab up`, a line each.
const READY: &str = "ready";
const ERROR: &str = "error ";
const STEP: &str = "step ";

fn up(args: &UpArgs) -> anyhow::Result<ExitCode> {
    let stop = Stop::on_signals();
    caracal_lab::check_root()?;
    // Errors of the case are told before anything is made.
    read_case(&args.case, args.pod_port).with_context(|| args.case.display().to_string())?;
    if args.name.directory().exists() {
        return Err(LabError::Exists(args.name.to_string()).into());
    }
    let own = env::current_exe().context("cannot find this program")?;
    let mut supervisor = Command::new(own)
        .args(["lab", "supervise", "--name", args.name.as_str()])
        .args(args.pod_port.map(|port| format!("--pod-port={port}")))
        .arg(&args.case)
        .env_remove(MARK)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the supervisor")?;
    let process = Process::of(i32::try_from(supervisor.id()).unwrap_or(0));
    let told = supervisor.stdout.take().context("the supervisor has no output")?;
    let watched = stop.clone();
    // The supervisor is in a session of its own and hears no Ctrl-C: pass it on.
    thread::spawn(move || {
        while !watched.is_set() {
            thread::sleep(std::time::Duration::from_millis(50));
        }
        if let Some(process) = process {
            process.signal(nix::sys::signal::Signal::SIGTERM);
        }
    });
    for line in BufReader::new(told).lines() {
        let line = line.context("cannot hear the supervisor")?;
        if let Some(step) = line.strip_prefix(STEP) {
            eprintln!("lab {}: {step}", args.name);
        } else if let Some(error) = line.strip_prefix(ERROR) {
            let _ = supervisor.wait();
            bail!("{}", error.to_owned());
        } else if line == READY {
            let name = &args.name;
            let kubeconfig = name.directory().join("kubeconfig");
            emit(&format!(
                "lab {name} is up. To look around:\n  \
                 caracal lab status --name {name}\n  \
                 kubectl --kubeconfig {} get pods -A -o wide\n  \
                 caracal lab down --name {name}\n",
                kubeconfig.display()
            ));
            return Ok(ExitCode::SUCCESS);
        }
    }
    let _ = supervisor.wait();
    bail!("the lab's supervisor ended before the lab was up")
}

fn supervise(args: &UpArgs) -> anyhow::Result<ExitCode> {
    // Fails only where it is not needed: this process leads a session already.
    let _ = nix::unistd::setsid();
    let stop = Stop::on_signals();
    // `lab up` reads until the lab is ready, and then no more.
    let tell = |line: &str| emit(&format!("{line}\n"));
    let start = || -> anyhow::Result<Cluster> {
        let (_, world) =
            read_case(&args.case, args.pod_port).with_context(|| args.case.display().to_string())?;
        let file = fs::canonicalize(&args.case).unwrap_or_else(|_| args.case.clone());
        let step = |what: &str| tell(&format!("{STEP}{what}"));
        let cluster = Cluster::up(&args.name, &file.display().to_string(), &world, &stop, &step)?;
        let copy = cluster.state().case_file();
        fs::copy(&args.case, &copy).with_context(|| format!("cannot write {}", copy.display()))?;
        Ok(cluster)
    };
    let cluster = match start() {
        Ok(cluster) => cluster,
        Err(error) => {
            tell(&format!("{ERROR}{error:#}"));
            return Ok(ExitCode::from(2));
        }
    };
    // The terminal is the user's again: what happens from now on goes into a file.
    let log = cluster.state().log_of("supervisor");
    let written = fs::File::create(&log).and_then(|file| Ok(nix::unistd::dup2_stderr(file)?));
    written.with_context(|| format!("cannot write {}", log.display()))?;
    tell(READY);
    while !stop.is_set() {
        thread::sleep(std::time::Duration::from_millis(50));
    }
    cluster.down()?;
    Ok(ExitCode::SUCCESS)
}

fn run_cases(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let stop = Stop::on_signals();
    caracal_lab::check_root()?;
    let files = case_files(&args.cases)?;
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    // Half of a case's time is waiting.
    let jobs = args.jobs.unwrap_or(2 * cpus).clamp(1, files.len().max(1));
    let show = args.verbose || io::stderr().is_terminal();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut reports = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(file) = files.get(index) else { return reports };
            let report = run_file(file, &stop, args);
            if show {
                let result = json!(report.result);
                eprintln!(
                    "[{}/{}] {}: {}",
                    index + 1,
                    files.len(),
                    file.display(),
                    result.as_str().unwrap_or("")
                );
            }
            reports.push((index, report));
        }
    };
    let mut reports: Vec<(usize, CaseReport)> = thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().flat_map(join).collect()
    });
    reports.sort_by_key(|(index, _)| *index);
    let report = Report { cases: reports.into_iter().map(|(_, report)| report).collect() };
    Ok(print_report(&report, args.output))
}

fn run_file(file: &Path, stop: &Stop, args: &RunArgs) -> CaseReport {
    let name = file.display().to_string();
    let step = |what: &str| {
        if args.verbose {
            eprintln!("{name}: {what}");
        }
    };
    match read_case(file, args.pod_port) {
        Ok((case, world)) => caracal_lab::run_case(&name, &case, &world, stop, &step),
        Err(error) => CaseReport::error(&name, "", format!("{error:#}")),
    }
}

fn exec(args: &ExecArgs) -> anyhow::Result<ExitCode> {
    caracal_lab::check_root()?;
    let state = State::read(&args.name)?;
    Ok(ExitCode::from(caracal_lab::exec(&state, &args.target, &args.command)?))
}

fn try_flow(args: TryArgs) -> anyhow::Result<ExitCode> {
    let stop = Stop::on_signals();
    caracal_lab::check_root()?;
    let state = State::read(&args.name)?;
    let flow = TryFlow { from: args.from, to: args.to, protocol: args.protocol, port: args.port };
    let seen = caracal_lab::try_flow(&state, &flow, &stop)?;
    emit(&format!("{}  {}\n", seen.observed.as_str(), seen.why));
    Ok(match seen.observed {
        Observed::Allow | Observed::AllowUntracked => ExitCode::SUCCESS,
        Observed::Deny => ExitCode::FAILURE,
        Observed::Error | Observed::Unsupported => ExitCode::from(2),
    })
}

fn down(args: &DownArgs) -> anyhow::Result<ExitCode> {
    caracal_lab::check_root()?;
    let names = if args.all { caracal_lab::names()? } else { vec![args.name.clone()] };
    let mut failed = None;
    for name in &names {
        match caracal_lab::take_down(name) {
            Ok(()) => emit(&format!("lab {name} is gone\n")),
            Err(error @ LabError::NoSuchLab(_)) if !args.all => {
                eprintln!("caracal: {error}");
                return Ok(ExitCode::FAILURE);
            }
            Err(LabError::NoSuchLab(_)) => {}
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(ExitCode::SUCCESS),
    }
}

fn status(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let names = match &args.name {
        Some(name) => vec![name.clone()],
        None => caracal_lab::names()?,
    };
    let mut states = Vec::new();
    for name in &names {
        match State::read(name) {
            Ok(state) => states.push(state),
            Err(error @ LabError::NoSuchLab(_)) if args.name.is_some() => {
                eprintln!("caracal: {error}");
                return Ok(ExitCode::FAILURE);
            }
            // It has just gone, or only its folder was made.
            Err(LabError::NoSuchLab(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if args.output == Output::Json {
        let labs: Vec<Value> = states.iter().map(lab_json).collect();
        emit(&format!("{:#}\n", json!({ "labs": labs })));
        return Ok(ExitCode::SUCCESS);
    }
    if states.is_empty() {
        emit("there is no lab; `caracal lab up CASE` makes one\n");
    }
    for state in &states {
        emit(&lab_text(state));
    }
    Ok(ExitCode::SUCCESS)
}

fn phase(state: &State) -> &'static str {
    match (state.supervisor.is_alive(), state.phase) {
        (false, _) => "left behind",
        (true, Phase::Starting) => "starting",
        (true, Phase::Ready) => "ready",
        (true, Phase::Stopping) => "stopping",
    }
}

/// A node's condition in words.
fn condition(state: &State, node: &caracal_lab::NodeState) -> String {
    let Some(socket) = &node.socket else { return "Linux does its routing".into() };
    let read = || caracal_lab::status(&mut Reader::connect(socket)?);
    match read() {
        Ok(status) => caracal_lab::missing(&status, &caracal_lab::interfaces_of(node, state))
            .map_or_else(|| "ready".into(), |missing| format!("not ready: {missing}")),
        Err(error) => error.to_string(),
    }
}

fn process(state: &State, name: &str) -> String {
    match state.processes.iter().find(|process| process.name == name) {
        None => "-".into(),
        Some(process) => {
            let pid = match process.process {
                Some(process) if process.is_alive() => process.pid.to_string(),
                _ => "down".into(),
            };
            match process.restarts {
                0 => pid,
                1 => format!("{pid} (restarted once)"),
                n => format!("{pid} (restarted {n} times)"),
            }
        }
    }
}

fn lab_text(state: &State) -> String {
    let mut head = format!("lab {}: {} (case {})\n", state.name, phase(state), state.case);
    if !state.supervisor.is_alive() {
        let name = &state.name;
        head.push_str(&format!(
            "its supervisor was killed; `caracal lab down --name {name}` removes what it left\n"
        ));
    }
    let (directory, apiserver) = (state.directory(), process(state, "apiserver"));
    head.push_str(&format!(
        "logs, sockets and kubeconfig in {}; apiserver {apiserver}\n",
        directory.display()
    ));
    let nodes: Vec<_> = state
        .nodes
        .iter()
        .map(|node| {
            [
                node.name.clone(),
                node.address.to_string(),
                process(state, &format!("fastpath-{}", node.name)),
                process(state, &format!("agent-{}", node.name)),
                condition(state, node),
            ]
        })
        .collect();
    let nodes = table(["NODE", "ADDRESS", "FASTPATH", "AGENT", "DATA PLANE"], &nodes);
    let pods: Vec<_> = state
        .pods
        .iter()
        .map(|pod| {
            let addresses: Vec<_> = pod.addresses.iter().map(ToString::to_string).collect();
            let interface = if pod.interface.is_empty() { "(host network)" } else { &pod.interface };
            [
                format!("{}/{}", pod.namespace, pod.name),
                pod.node.clone(),
                addresses.join(","),
                interface.into(),
            ]
        })
        .collect();
    let pods = table(["POD", "NODE", "ADDRESS", "INTERFACE"], &pods);
    format!("{head}\n{nodes}\n{pods}\n")
}

fn lab_json(state: &State) -> Value {
    let mut value = json!(state);
    value["condition"] = phase(state).into();
    value["directory"] = state.directory().display().to_string().into();
    let conditions = state.nodes.iter().map(|node| (node.name.clone(), condition(state, node).into()));
    value["dataPlane"] = Value::Object(conditions.collect());
    value
}
