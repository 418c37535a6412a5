//! What an operator sees and relies on: what the fastpath may do, what its ports say, what a command in a lab finds.

use std::fs;

use caracal_plane_api::PortRow;
use nix::sys::signal::Signal;

use crate::{
    lab::{Lab, Plan, proc},
    machine::{caracal, eventually, stdout},
};

#[test]
fn the_fastpath_keeps_four_capabilities_and_can_get_none_back() {
    let lab = Lab::up("capabilities", &Plan::pods(&[("a", "node1")]));
    // It is ready: the uplink's program was loaded with what it kept.
    let fastpath = lab.process("fastpath-node1").process.unwrap();
    for task in fs::read_dir(proc(fastpath).join("task")).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim_start_matches(':').trim().to_owned()
        };
        // NET_ADMIN, NET_RAW, PERFMON, BPF.
        let kept = format!("{:016x}", 1_u64 << 12 | 1 << 13 | 1 << 38 | 1 << 39);
        assert_eq!((field("CapPrm"), field("CapEff")), (kept.clone(), kept), "{status}");
        let none = "0".repeat(16);
        assert_eq!([field("CapBnd"), field("CapInh"), field("CapAmb")], [&*none; 3], "{status}");
        assert_eq!(field("NoNewPrivs"), "1");
    }
}

#[test]
fn a_port_is_down_while_its_link_is_and_says_why() {
    let lab = Lab::up("links", &Plan::pods(&[("a", "node1"), ("b", "node1")]));
    let row = |name: &str| -> PortRow {
        lab.status("node1").unwrap().ports.into_iter().find(|port| port.name == name).unwrap()
    };
    // Of an uplink it is always said why it copies, where it does.
    let ports = lab.status("node1").unwrap().ports;
    assert!(
        ports.iter().all(|port| port.up && (port.name == "uplink0" || port.detail.is_empty())),
        "{ports:?}"
    );
    assert!(row("uplink0").detail.contains("no zero-copy"), "{:?}", row("uplink0"));
    lab.must("node/node1", &["ip", "link", "set", "uplink0", "down"]);
    eventually("the uplink is said to be down", || !row("uplink0").up);
    assert!(row("uplink0").detail.contains("down"), "{:?}", row("uplink0"));
    lab.must("default/a", &["ip", "link", "set", "eth0", "down"]);
    eventually("the pod's port is said to be down", || !row(lab.interface("a")).up);
    assert!(row(lab.interface("a")).detail.contains("no carrier"), "{:?}", row(lab.interface("a")));
    assert!(row(lab.interface("b")).up);
    lab.must("node/node1", &["ip", "link", "set", "uplink0", "up"]);
    eventually("the uplink is said to be up", || row("uplink0").up);
}

#[test]
fn what_the_kernel_drops_before_us_is_counted_by_port() {
    let lab = Lab::up_alone("kernel-losses", &Plan::pods(&[("a", "node1"), ("b", "node1")]));
    let lost = |pod: &str| {
        ["port_kernel_rx_ring_full", "port_kernel_fill_ring_empty", "port_kernel_rx_dropped"]
            .map(|name| lab.counter("node1", name, pod))
            .into_iter()
            .sum::<u64>()
    };
    assert_eq!(lost("default/a"), 0);
    // Nobody reads while more comes than a ring holds.
    let (a, b) = (lab.pod("a"), lab.pod("b"));
    let fastpath = lab.process("fastpath-node1").process.unwrap();
    let socket = a.udp(0);
    socket.send_to(b"neighbor", b.at(9)).unwrap();
    fastpath.signal(Signal::SIGSTOP);
    eventually("the fastpath stands still", || fastpath.is_stopped());
    for _ in 0..20_000 {
        let _ = socket.send_to(b"nobody reads", b.at(9));
    }
    fastpath.signal(Signal::SIGCONT);
    eventually("the losses are counted", || lost("default/a") > 0);
    assert_eq!(lost("default/b"), 0);
}

#[test]
fn a_command_in_a_pod_finds_the_pods_devices_in_sys() {
    let lab = Lab::up("sys", &Plan::pods(&[("a", "node1")]));
    let devices = |place: &str| {
        let listed = stdout(&lab.exec(place, &["ls", "/sys/class/net"]));
        listed.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(devices("default/a"), ["eth0", "lo"]);
    assert!(devices("node/node1").contains(&"uplink0".to_owned()));
}

#[test]
fn logs_in_files_have_no_colours() {
    let lab = Lab::up("colours", &Plan::pods(&[("a", "node1")]));
    for process in &lab.state().processes {
        let log = fs::read_to_string(lab.state().log_of(&process.name)).unwrap();
        assert!(!log.contains('\u{1b}'), "{}: {log}", process.name);
    }
    let status = caracal(&["fastpath", "status", "--socket", lab.socket("node1").to_str().unwrap()]);
    assert!(status.status.success() && !stdout(&status).contains('\u{1b}'));
}
