//! What it takes, and that nothing of it stays.

use std::{
    collections::BTreeSet,
    fs, thread,
    time::{Duration, Instant},
};

use caracal_lab::{LabName, MARK, Process, State};
use nix::{
    sys::signal::Signal,
    unistd::{SysconfVar, sysconf},
};

use crate::{
    lab::{Lab, Plan, proc},
    machine::{PATIENCE, caracal, eventually, stderr},
    traffic::{Questions, transfer},
};

const MIB: u64 = 1 << 20;

/// A line of /proc/PID/status or of /proc/meminfo, in bytes.
fn bytes_of(text: &str, name: &str) -> u64 {
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}"));
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn resident(process: Process) -> u64 {
    let status = fs::read_to_string(proc(process).join("status")).unwrap();
    bytes_of(&status, "VmRSS:") + bytes_of(&status, "HugetlbPages:")
}

#[test]
fn a_hundred_pods_on_one_node_come_up_and_talk() {
    const PODS: usize = 100;
    let names: Vec<_> = (0..PODS).map(|i| format!("p{i}")).collect();
    let mut pods: Vec<_> = names.iter().map(|name| (name.as_str(), "node1")).collect();
    pods.push(("far", "node2"));
    let lab = Lab::up_alone("hundred", &Plan::pods(&pods));
    println!("{PODS} pods on one node were up after {:?}", lab.came_up_in());
    let start = Instant::now();
    let places: Vec<_> = names.iter().map(|name| lab.pod(name)).collect();
    let far = lab.pod("far");
    // All at once: each to the next one, and each tenth to the other node.
    let flows: Vec<_> = (0..PODS)
        .map(|i| (format!("p{i}"), Questions::start(&places[i], &places[(i + 1) % PODS], 7001)))
        .chain(
            (0..PODS)
                .step_by(10)
                .map(|i| (format!("p{i} to far"), Questions::start(&places[i], &far, 7100 + i as u16))),
        )
        .collect();
    for (what, questions) in &flows {
        questions.wait_after(what, start);
    }
    drop(flows);
    transfer(&places[0], &places[99], 7002, 8 << 20);

    let memory = |node: &str| {
        let process = lab.process(&format!("fastpath-{node}")).process.unwrap();
        let status = lab.status(node).unwrap();
        println!(
            "{node}: {} ports, {} MiB resident (of it {} MiB packet memory), {} MiB of kernel memory for rings (computed)",
            status.ports.len(),
            resident(process) / MIB,
            status.umem_bytes / MIB,
            status.kernel_ring_bytes / MIB,
        );
        resident(process) + status.kernel_ring_bytes
    };
    let (many, one) = (memory("node1"), memory("node2"));
    let each = many.saturating_sub(one) / (PODS as u64 - 1);
    println!("a pod's port: {:.2} MiB", each as f64 / MIB as f64);
    // The kernel waits for a grace period of RCU at the end of each socket of a killed process, one after the other.
    let questions = Questions::start(&places[0], &places[99], 7003);
    questions.wait_after("a pod", Instant::now());
    lab.kill("fastpath-node1");
    let killed = Instant::now();
    let back = questions.wait_after("a pod after kill -9", killed + Duration::from_millis(20));
    println!("{PODS} pods: {:?} from kill -9 to the first answer", back + Duration::from_millis(20));
    assert!(each <= 4 * MIB, "a pod's port takes {each} bytes");
}

/// Ticks of CPU time that a process has used.
pub fn cpu_ticks(process: Process) -> u64 {
    let stat = fs::read_to_string(proc(process).join("stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn a_fastpath_with_nothing_to_do_does_nothing() {
    const WORKERS: u64 = 2;
    let plan =
        Plan::pods(&[("a", "node1"), ("b", "node1"), ("c", "node2")]).option("workers", WORKERS.into());
    let lab = Lab::up_alone("idle", &plan);
    thread::sleep(Duration::from_secs(1));
    let names = ["fastpath-node1", "fastpath-node2", "agent-node1", "apiserver"];
    let processes = names.map(|name| lab.process(name).process.unwrap());
    let before = processes.map(cpu_ticks);
    let start = Instant::now();
    thread::sleep(Duration::from_secs(5));
    let ticks_a_second = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap() as f64;
    for ((name, process), before) in names.iter().zip(processes).zip(before) {
        let used =
            (cpu_ticks(process) - before) as f64 / ticks_a_second / start.elapsed().as_secs_f64() * 100.0;
        println!("{name}: {used:.2} % of a core with nothing to do");
        if name.starts_with("fastpath") {
            assert!(used / WORKERS as f64 <= 5.0, "{name} uses {used} % of a core for {WORKERS} workers");
        }
    }
}

/// Everything on this machine that a lab of that name has made.
fn traces(name: &str, run: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for folder in ["/var/run/netns", "/var/run/caracal/lab", "/sys/fs/bpf"] {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path().display().to_string();
            if path.contains(name) {
                found.insert(path);
            }
        }
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    found.extend(mounts.lines().filter(|line| line.contains(name)).map(str::to_owned));
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let of = |file: &str| {
            String::from_utf8_lossy(&fs::read(entry.path().join(file)).unwrap_or_default()).into_owned()
        };
        if of("environ").contains(&format!("{MARK}={run}")) || of("cmdline").contains(&format!("{name}/")) {
            found.insert(format!("process {} {}", entry.path().display(), of("cmdline").replace('\0', " ")));
        }
    }
    found
}

/// The host's own links, but for those of other tests.
fn host_links() -> BTreeSet<String> {
    let entries = fs::read_dir("/sys/class/net").unwrap().flatten();
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    names.filter(|name| !name.starts_with("crt")).collect()
}

/// The host's routes, rules and settings that a lab could touch by mistake.
fn host_network() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    read("/proc/net/route")
        + &read("/proc/sys/net/ipv4/ip_forward")
        + &read("/proc/sys/net/ipv4/conf/all/rp_filter")
}

#[test]
fn a_lab_leaves_nothing_behind() {
    let (links, network) = (host_links(), host_network());
    let lab = Lab::up_alone("traces", &Plan::pods(&[("a", "node1"), ("b", "node2")]));
    let (name, run) = (lab.name().to_owned(), lab.state().run.clone());
    assert!(traces(&name, &run).len() > 6, "the search finds what is there");
    assert_eq!(host_links(), links, "a lab is in namespaces of its own");
    lab.down();
    assert_eq!(traces(&name, &run), BTreeSet::new());
    assert_eq!((host_links(), host_network()), (links, network));
}

#[test]
fn what_a_killed_supervisor_left_is_removed_by_lab_down() {
    let links = host_links();
    let lab = Lab::up_alone("orphans", &Plan::pods(&[("a", "node1"), ("b", "node2")]));
    let (name, run) = (lab.name().to_owned(), lab.state().run.clone());
    lab.supervisor().signal(Signal::SIGKILL);
    assert!(lab.supervisor().wait_end(PATIENCE));
    assert!(!traces(&name, &run).is_empty(), "a killed supervisor removes nothing");
    let status = caracal(&["lab", "status", "--name", &name]);
    assert!(status.status.success(), "{}", stderr(&status));
    lab.down();
    assert_eq!(traces(&name, &run), BTreeSet::new());
    assert_eq!(host_links(), links);
}

#[test]
fn a_lab_that_is_killed_while_it_comes_up_can_be_removed() {
    let name = format!("crt{}-half", std::process::id());
    let folder = tempfile::TempDir::new().unwrap();
    let case = folder.path().join("case.yaml");
    let pods: Vec<_> = (0..20).map(|i| crate::api::pod(&format!("p{i}"), "node1")).collect();
    fs::write(&case, serde_json::json!({"name": "half", "objects": pods}).to_string()).unwrap();
    for pause_ms in [5, 60, 150, 400] {
        let mut up = std::process::Command::new(crate::machine::program("caracal"))
            .args(["lab", "up", "--name", &name, case.to_str().unwrap()])
            .stderr(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let lab: LabName = name.parse().unwrap();
        let mut state = None;
        eventually("the lab has begun", || {
            state = State::read(&lab).ok();
            state.is_some()
        });
        thread::sleep(Duration::from_millis(pause_ms));
        let state = state.unwrap();
        state.supervisor.signal(Signal::SIGKILL);
        up.wait().unwrap();
        let down = caracal(&["lab", "down", "--name", &name]);
        assert!(down.status.success(), "killed after {pause_ms} ms: {}", stderr(&down));
        assert_eq!(traces(&name, &state.run), BTreeSet::new(), "killed after {pause_ms} ms");
    }
}
