//! Nonsense from outside: one clear line and the right exit status, and whoever runs goes on running.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

use caracal_lab::Process;
use caracal_plane_api::{
    FromClient, FromFastpath, Hello, Read as ReadRequest, Role, VERSION, What, from_client, from_fastpath,
    read_message, write_message,
};
use tempfile::TempDir;

use crate::{
    lab::{Lab, Plan, fastpath},
    machine::{PATIENCE, caracal, eventually, program, rounds, stderr, stdout},
    traffic::{answers, is_cut_off},
};

/// The program could not do it, and says so in one line that has these words.
#[track_caller]
fn assert_refused(what: &str, output: &Output, words: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(2), "{what}: {text}");
    assert!(words.iter().all(|word| text.contains(word)), "{what}: {words:?} is not in: {text}");
    assert!(!text.contains("panicked") && stdout(output).is_empty(), "{what}: {text}{}", stdout(output));
}

#[track_caller]
fn assert_one_line(what: &str, output: &Output, words: &[&str]) {
    assert_refused(what, output, words);
    // Logs with their time may come before.
    let lines: Vec<_> = stderr(output).lines().map(str::to_owned).collect();
    let said: Vec<_> = lines.iter().filter(|line| line.starts_with("caracal")).collect();
    assert_eq!(said.len(), 1, "{what}: {lines:?}");
    assert!(said[0].matches("os error").count() <= 1, "{what}: a cause is told twice: {}", said[0]);
}

#[test]
fn sizes_that_cannot_be_are_refused_by_name() {
    for (flag, value) in [
        ("--flows", "99999999999999"),
        ("--flows", "0"),
        ("--pod-ring", "3"),
        ("--pod-ring", "0"),
        ("--uplink-ring", "65536"),
    ] {
        let output = fastpath(&[flag, value]).output().unwrap();
        assert_refused(&format!("{flag} {value}"), &output, &[flag, value]);
    }
}

#[test]
fn wrong_arguments_get_one_clear_line() {
    let folder = TempDir::new().unwrap();
    let case = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let missing = folder.path().join("missing.yaml").to_str().unwrap().to_owned();
    let unknown = case("unknown.yaml", "name: x\nobjects: []\nflowz: []\n");
    let object = case(
        "object.yaml",
        "name: x\nobjects:\n  - {apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {nodeNam: node1, containers: []}}\n",
    );
    let broken = case("broken.yaml", "name: [x\n");

    assert_refused("a wrong flag", &caracal(&["lab", "up", "--nam", "x"]), &["--nam"]);
    assert_refused("a wrong command", &caracal(&["lob"]), &["lob"]);
    for command in [&["lab", "up", "--name", "crtbad"][..], &["policy", "test"], &["lab", "run"]] {
        for (file, words) in [
            (&missing, &["missing.yaml"][..]),
            (&unknown, &["unknown.yaml", "flowz"]),
            (&object, &["object.yaml", "nodeNam"]),
            (&broken, &["broken.yaml"]),
        ] {
            let mut arguments = command.to_vec();
            arguments.push(file);
            let output = caracal(&arguments);
            let text = stderr(&output) + &stdout(&output);
            assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
            assert!(
                words.iter().all(|word| text.contains(word)),
                "{arguments:?}: {words:?} is not in: {text}"
            );
            assert!(!text.contains("panicked"), "{arguments:?}: {text}");
        }
    }
    assert!(!fs::exists("/var/run/caracal/lab/crtbad").unwrap(), "a wrong case left something");
    assert_one_line(
        "a wrong name",
        &caracal(&["lab", "up", "--name", "crtbad", &missing]),
        &["missing.yaml"],
    );

    let down = caracal(&["lab", "down", "--name", "crt-nobody"]);
    assert_eq!(down.status.code(), Some(1), "{}", stderr(&down));
    let nowhere = folder.path().join("nowhere.sock");
    let nowhere = nowhere.to_str().unwrap();
    assert_one_line("no fastpath", &caracal(&["fastpath", "drops", "--socket", nowhere]), &["nowhere.sock"]);
    let agent = caracal(&["agent", "--node", "n", "--kubeconfig", &missing, "--fastpath", nowhere]);
    assert_one_line("no kubeconfig", &agent, &["missing.yaml"]);
    let agent = caracal(&["agent", "--kubeconfig", &missing, "--startup", "maybe"]);
    assert_refused("a wrong word", &agent, &["--startup"]);
    let bind = caracal(&[
        "apiserver",
        "--data-dir",
        nowhere,
        "--listen",
        "192.0.2.1:1",
        "--write-kubeconfig",
        nowhere,
    ]);
    assert_one_line("a foreign address", &bind, &["192.0.2.1:1"]);

    let run = |arguments: &[&str]| fastpath(arguments).output().unwrap();
    assert_refused("a wrong flag", &run(&["--sockett", "x"]), &["--sockett"]);
    assert_refused("no CPU", &run(&["--cpus", "two"]), &["two"]);
    assert_one_line("a CPU that is not there", &run(&["--cpus", "9999"]), &["9999"]);
    assert_one_line("a wrong chunk size", &run(&["--socket", nowhere, "--chunk-size", "1000"]), &["1000"]);
    let file = case("file.sock", "");
    assert_one_line("a file for a socket", &run(&["--socket", &file]), &["file.sock", "socket"]);
}

#[test]
fn whoever_is_not_root_is_told_so_at_once() {
    let folder = TempDir::new().unwrap();
    // nobody can neither read what root built nor write beside it.
    nix::sys::stat::fchmodat(
        nix::fcntl::AT_FDCWD,
        folder.path(),
        nix::sys::stat::Mode::from_bits_truncate(0o755),
        nix::sys::stat::FchmodatFlags::FollowSymlink,
    )
    .unwrap();
    let as_nobody = |name: &str, arguments: &[&str]| {
        let copy = folder.path().join(name);
        if !copy.exists() {
            fs::copy(program(name), &copy).unwrap();
        }
        Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(copy)
            .args(arguments)
            .current_dir("/")
            .output()
            .unwrap()
    };
    let case = folder.path().join("case.yaml");
    fs::write(&case, "name: x\nobjects: []\n").unwrap();
    let case = case.to_str().unwrap();
    let up = as_nobody("caracal", &["lab", "up", "--name", "crtnobody", case]);
    assert_one_line("lab up", &up, &["root"]);
    assert_one_line("lab run", &as_nobody("caracal", &["lab", "run", case]), &["root"]);
    let agent =
        as_nobody("caracal", &["agent", "--node", "n", "--kubeconfig", case, "--fastpath", "/tmp/none"]);
    assert_one_line("agent", &agent, &["root"]);
    assert_one_line("fastpath", &as_nobody("caracal-fastpath", &["--socket", "/tmp/none.sock"]), &["root"]);
    let judged = as_nobody("caracal", &["policy", "test", case]);
    assert!(judged.status.success(), "judging offline needs no root: {}", stderr(&judged));
}

fn connect(lab: &Lab, role: Role) -> UnixStream {
    let mut stream = UnixStream::connect(lab.socket("node1")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let hello = Hello { version: VERSION, role: role.into(), name: "test".into() };
    write_message(&mut stream, &FromClient { message: Some(from_client::Message::Hello(hello)) }).unwrap();
    let answer: FromFastpath = read_message(&mut stream).unwrap();
    assert!(matches!(answer.message, Some(from_fastpath::Message::Welcome(_))), "{answer:?}");
    stream
}

#[test]
fn nonsense_on_the_plane_socket_harms_nobody() {
    let lab = Lab::up("nonsense", &Plan::pods(&[("a", "node1"), ("b", "node1"), ("c", "node2")]));
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.pod(name));
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut garbage = |length: usize| -> Vec<u8> {
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        (0..length).map(|_| next()).collect()
    };
    for round in 0..rounds(60, 2000) {
        let mut stream = UnixStream::connect(lab.socket("node1")).unwrap();
        let bytes = garbage(round * 13 % 500);
        // The fastpath may close before it has read all.
        let _ = match round % 4 {
            0 => stream.write_all(&bytes),
            // A right length with nonsense behind it.
            1 => stream.write_all(&[&(bytes.len() as u32).to_be_bytes()[..], &bytes].concat()),
            // A message that ends in its middle.
            2 => stream.write_all(&[&1000_u32.to_be_bytes()[..], &bytes[..bytes.len().min(900)]].concat()),
            // The longest there can be.
            _ => stream.write_all(&[&u32::MAX.to_be_bytes()[..], &bytes].concat()),
        };
        if round % 3 == 0 {
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.set_read_timeout(Some(PATIENCE));
            let _ = stream.read_to_end(&mut Vec::new());
        }
    }
    // After a right hello, too.
    for _ in 0..10 {
        let mut stream = connect(&lab, Role::Controller);
        let bytes = garbage(200);
        let _ = stream.write_all(&[&200_u32.to_be_bytes()[..], &bytes].concat());
    }
    // One that asks and asks, and never reads.
    let deaf = connect(&lab, Role::Reader);
    deaf.set_nonblocking(true).unwrap();
    let mut question = Vec::new();
    for what in [What::Counters, What::Routes, What::Policy] {
        let message = from_client::Message::Read(ReadRequest { what: what.into() });
        caracal_plane_api::encode(&FromClient { message: Some(message) }, &mut question).unwrap();
    }
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(4) {
        if (&deaf).write(&question).is_err_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe) {
            break;
        }
        thread::sleep(Duration::from_micros(200));
    }
    // Others are answered meanwhile and afterwards.
    let waited = eventually("another is answered", || lab.status("node1").is_some());
    println!("beside a client that does not read, another waited {waited:?}");
    drop(deaf);

    // The newest controller wins; the agent takes it back.
    let mut first = connect(&lab, Role::Controller);
    let _second = connect(&lab, Role::Controller);
    let told: Result<FromFastpath, _> = read_message(&mut first);
    assert!(
        matches!(told.map(|message| message.message), Ok(Some(from_fastpath::Message::Refused(_)))),
        "the older controller is told that it is refused"
    );
    drop(_second);
    eventually("the agent is connected again", || {
        lab.status("node1").is_some_and(|status| status.controller_connected && status.in_sync)
    });
    lab.kubernetes().create(crate::api::isolate("deny", "b")).unwrap();
    eventually("a policy is enforced", || is_cut_off(&a, &b, 7002));
    assert!(answers(&a, &c, 7001));
    for name in ["fastpath-node1", "agent-node1"] {
        let process = lab.process(name);
        assert!(process.restarts == 0 && process.process.is_some_and(Process::is_alive), "{name} died of it");
    }
}

#[test]
fn a_second_fastpath_on_the_same_socket_is_refused() {
    let lab = Lab::up("second", &Plan::pods(&[("a", "node1"), ("c", "node2")]));
    let output = fastpath(&["--socket", lab.socket("node1").to_str().unwrap()]).output().unwrap();
    assert_one_line("a second fastpath", &output, &["another caracal-fastpath"]);
    assert!(answers(&lab.pod("a"), &lab.pod("c"), 7001));
}
