//! The program as it is used: through the loopback of this machine, without root.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where something is amiss")]

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

/// A folder of this test's own.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("crt{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn write(&self, name: &str, value: &Value) -> String {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, value.to_string()).unwrap();
        path.to_string_lossy().into_owned()
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn pktgen(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pktgen")).args(args).output().unwrap()
}

/// What it printed, which must have ended with that status.
fn stdout(output: &Output, status: i32) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{errors}");
    assert!(!errors.contains('\x1b'), "nobody is at a terminal: {errors:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// To a port of the loopback that nobody has.
fn over_loopback(args: &[&str]) -> Output {
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    pktgen(&[args, &["--to-address", "127.0.0.1", "--port", &port]].concat())
}

#[test]
fn a_run_is_reported_as_json_and_as_a_page_and_both_can_be_shown_again() {
    let folder = Folder::new("run");
    let page = folder.path("run.html");
    let args = ["run", "--rate", "2k", "--duration", "1s", "--flows", "3", "-o", "json", "--html", &page];
    let text = stdout(&over_loopback(&args), 0);
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["total"]["sent"], 2000);
    assert_eq!(report["flows"].as_array().unwrap().len(), 3);
    assert!(report["series"]["rows"].as_array().unwrap().len() > 5);
    assert!(!report["machine"]["commit"].as_str().unwrap().is_empty());
    let workers: Vec<&str> =
        report["workers"].as_array().unwrap().iter().map(|w| w["name"].as_str().unwrap()).collect();
    assert_eq!(workers, ["generator 0", "sink 0"]);
    assert!(fs::read_to_string(&page).unwrap().contains("packets/s received"));

    let (one, both) = (folder.write("one.json", &report), folder.path("both.html"));
    let shown = stdout(&pktgen(&["report", &one, &one, "--html", &both]), 0);
    assert_eq!(shown.matches("== one").count(), 2);
    assert!(fs::read_to_string(both).unwrap().contains("2 runs"));
}

#[test]
fn round_trips_take_longer_than_one_way_at_least_in_name() {
    let args = [
        "run",
        "--rate",
        "1k",
        "--duration",
        "300ms",
        "--flows",
        "4",
        "--reflect",
        "-o",
        "json",
        "--expect-no-loss",
    ];
    let report: Value = serde_json::from_str(&stdout(&over_loopback(&args), 0)).unwrap();
    assert_eq!((&report["round_trip"], &report["total"]["received"]), (&json!(true), &json!(300)));
}

#[test]
fn a_command_runs_meanwhile_and_its_loss_is_told() {
    let folder = Folder::new("while");
    let ran = folder.path("ran");
    let command = format!("echo > {ran}");
    let args = ["run", "--rate", "1k", "--duration", "500ms", "-o", "json", "--while", &command];
    let report: Value = serde_json::from_str(&stdout(&over_loopback(&args), 0)).unwrap();
    assert!(Path::new(&ran).exists());
    let change = &report["reconfiguration"];
    assert_eq!((&change["failed"], change["ran_s"].as_array().unwrap().len()), (&json!(0), 1));
    assert!(change["ran_s"][0][0].as_f64().unwrap() >= 0.1, "after a fifth of the time: {change}");
}

#[test]
fn a_search_and_rfc_2544_find_rates_that_can_be_shown_again() {
    let folder = Folder::new("search");
    let args = [
        "search",
        "--duration",
        "100ms",
        "--width",
        "50",
        "--latency-at",
        "50",
        "-o",
        "json",
        "--linger",
        "100ms",
    ];
    let output = over_loopback(&args);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<&str> =
        found["results"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["MRR", "NDR", "PDR 0.5 %"]);
    assert!(
        found["generator_pps"].as_f64().unwrap() > 0.0 && !found["trials"].as_array().unwrap().is_empty()
    );
    let page = folder.path("search.html");
    let shown = stdout(&pktgen(&["report", &folder.write("search.json", &found), "--html", &page]), 0);
    assert!(shown.contains("MRR") && fs::read_to_string(page).unwrap().contains("Every trial"));

    let args = [
        "rfc2544",
        "--sizes",
        "64,512",
        "--duration",
        "50ms",
        "--bursts",
        "1",
        "--width",
        "50",
        "-o",
        "json",
        "--linger",
        "50ms",
    ];
    let output = over_loopback(&args);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let sizes: Vec<_> = found["sizes"].as_array().unwrap().iter().map(|row| row["size"].clone()).collect();
    assert_eq!(sizes, [64, 512]);
    let page = folder.path("rfc2544.html");
    stdout(&pktgen(&["report", &folder.write("rfc2544.json", &found), "--html", &page]), 0);
    assert!(fs::read_to_string(page).unwrap().contains("Frame loss rate (26.3)"));
}

#[test]
fn a_soak_has_a_verdict_and_lines_on_its_way() {
    let args = ["soak", "--rate", "1k", "--duration", "700ms", "--every", "200ms", "--max-silence", "10s"];
    let output = over_loopback(&args);
    let said = String::from_utf8_lossy(&output.stdout);
    // A machine may be too busy for a thousand packets a second: then the verdict says so.
    let passed = output.status.success();
    assert!(said.contains(if passed { "verdict     passed" } else { "verdict     FAILED" }), "{said}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("received"), "a line every 200 ms");
}

fn figure(subject: &str, median: f64) -> Value {
    json!({"name": "veth/forward/64", "subject": subject, "metric": "received", "unit": "packets/s",
           "min": median * 0.99, "median": median, "max": median * 1.01, "rounds": 7})
}

#[test]
fn benchmarks_are_compared_and_what_became_worse_is_the_exit_status() {
    let folder = Folder::new("results");
    let then = folder.write("then/results.json", &json!([figure("caracal", 200e3), figure("kernel", 300e3)]));
    let same = folder.write("same/results.json", &json!([figure("caracal", 210e3), figure("kernel", 300e3)]));
    folder.write("now/results.json", &json!([figure("caracal", 100e3), figure("kernel", 300e3)]));
    let now = folder.path("now");
    let page = folder.path("now.html");
    let said = stdout(&pktgen(&["report", &now, "--html", &page]), 0);
    assert!(said.contains("LOST") && said.contains("×0.33"), "{said}");
    let said = stdout(&pktgen(&["report", &now, "--against", &then, "--expect-no-worse"]), 1);
    assert!(said.contains("1 worse, 1 noise"), "{said}");
    stdout(&pktgen(&["report", &same, "--against", &then, "--expect-no-worse"]), 0);
    assert!(fs::read_to_string(page).unwrap().contains("Side by side: now"));
}

#[test]
fn what_cannot_be_read_is_named_and_the_status_is_two() {
    let folder = Folder::new("bad");
    let nothing = folder.path("nothing.json");
    let other = folder.write("other.json", &json!({"a": 1}));
    for (args, said) in [
        (vec!["report", &nothing], "nothing.json"),
        (vec!["report", &other], "other.json"),
        (vec!["run", "--to-netns", "crt-no-such-namespace"], "crt-no-such-namespace"),
        (vec!["soak", "--rate", "fast"], "not packets a second"),
        (vec!["rfc2544", "--sizes", "64,99999"], "99999"),
    ] {
        let output = pktgen(&args);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {errors}");
        assert!(errors.contains(said), "{errors}");
    }
}

#[test]
fn every_command_explains_itself_with_examples_and_its_exit_status() {
    let help = stdout(&pktgen(&["--help"]), 0);
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1)
        .take_while(|line| line.starts_with("  "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .collect();
    assert!(commands.len() >= 6, "{commands:?}");
    for command in commands {
        let help = stdout(&pktgen(&[command, "--help"]), 0);
        assert!(help.contains("Examples:"), "{command} --help has no examples");
        assert!(help.contains("Exit status:"), "{command} --help does not say what its exit status means");
    }
}

#[test]
fn output_that_cannot_be_written_is_an_error_and_no_panic() {
    let full = fs::File::create("/dev/full").unwrap();
    let run = ["run", "--to-address", "127.0.0.1", "--port", "19009", "--duration", "50ms", "--wait", "10ms"];
    let output = Command::new(env!("CARGO_BIN_EXE_pktgen")).args(run).stdout(full).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.contains("cannot write to stdout"), "{errors}");
    // Known before the run, not after hours of it.
    let output = over_loopback(&["soak", "--duration", "8h", "--html", "/nonexistent/page.html"]);
    stdout(&output, 2);
}

#[test]
fn runs_in_which_nothing_is_due_and_cores_that_would_not_be_used_are_refused() {
    for args in [&["run", "--rate", "0.1", "--duration", "1s"][..], &["run", "--cores", "0,1"]] {
        stdout(&over_loopback(args), 2);
    }
}
