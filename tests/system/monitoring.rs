//! How a node is watched: probes and scrapes of real agents beside real fastpaths, with a plain TCP client.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Instant,
};

use caracal_model::object::{Kind, ObjectKey};
use nix::{
    sys::{ptrace, signal::Signal},
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::{
    api::isolate,
    lab::{Lab, Plan, proc},
    machine::{PATIENCE, eventually, program, stdout},
    traffic::Questions,
};

const HEALTH: u16 = 9099;
const METRICS: u16 = 9091;

/// A node's answer: the status, and the body.
fn get(lab: &Lab, node: &str, port: u16, path: &str, accept: &str) -> Option<(u16, String)> {
    lab.node(node).run(|| ask(("127.0.0.1", port), path, accept))
}

fn ask(address: (&str, u16), path: &str, accept: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: x\r\nAccept: {accept}\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().unwrap(), body.to_owned()))
}

fn probe(lab: &Lab, node: &str, path: &str) -> (u16, String) {
    get(lab, node, HEALTH, path, "*/*").unwrap_or((0, String::new()))
}

fn wait_readiness(lab: &Lab, node: &str, status: u16, saying: &str) {
    let mut last = String::new();
    eventually(&format!("/readiness of {node} is {status} and says {saying:?}"), || {
        let (now, body) = probe(lab, node, "/readiness");
        if body != last {
            println!("{node} /readiness {now}\n{body}");
            last.clone_from(&body);
        }
        now == status && body.contains(saying)
    });
}

fn scrape(lab: &Lab, node: &str) -> Scrape {
    let (status, body) = get(lab, node, METRICS, "/metrics", "*/*").expect("/metrics answers");
    assert_eq!(status, 200);
    Scrape::parse(&body)
}

fn is_calicos(name: &str) -> bool {
    name.starts_with("felix_") || name.starts_with("ipam_")
}

/// A page in Prometheus' text format, read as strictly as the format is meant.
struct Scrape {
    text: String,
    kinds: BTreeMap<String, String>,
    series: BTreeMap<String, f64>,
}

impl Scrape {
    fn parse(text: &str) -> Self {
        let (mut kinds, mut series) = (BTreeMap::new(), BTreeMap::new());
        let mut helped = BTreeSet::new();
        let mut family = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap_or_else(|| panic!("no help: {line}"));
                assert!(!help.is_empty() && helped.insert(name.to_owned()), "{line}");
                continue;
            }
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(["counter", "gauge", "summary", "histogram"].contains(&kind), "{line}");
                assert!(helped.contains(name), "TYPE before HELP: {line}");
                assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "twice: {line}");
                assert!(kind != "counter" || is_calicos(name) || name.ends_with("_total"), "{line}");
                family = name.to_owned();
                continue;
            }
            let (id, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
            let name = id.split('{').next().unwrap();
            let suffixes: &[&str] = match kinds[&family].as_str() {
                "summary" => &["_sum", "_count"],
                "histogram" => &["_sum", "_count", "_bucket"],
                _ => &[""],
            };
            assert!(suffixes.iter().any(|suffix| name == format!("{family}{suffix}")), "{line} in {family}");
            check_labels(&id[name.len()..]);
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
            assert!(series.insert(id.to_owned(), value).is_none(), "a series twice: {line}");
        }
        Self { text: text.to_owned(), kinds, series }
    }

    fn value(&self, series: &str) -> f64 {
        *self.series.get(series).unwrap_or_else(|| panic!("no {series} in\n{}", self.text))
    }

    /// The sum over all series of a family whose labels hold this text.
    fn sum(&self, family: &str, labels: &str) -> f64 {
        let of = |id: &str| id.split('{').next() == Some(family) && id.contains(labels);
        self.series.iter().filter(|(id, _)| of(id)).map(|(_, value)| value).sum()
    }
}

/// `{name="value",…}` with what is escaped in values.
fn check_labels(text: &str) {
    if text.is_empty() {
        return;
    }
    let mut rest = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).expect(text);
    while !rest.is_empty() {
        let (name, value) = rest.split_once("=\"").expect(text);
        assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !name.is_empty(), "{text}");
        let mut end = None;
        let mut is_escaped = false;
        for (at, c) in value.char_indices() {
            match c {
                _ if is_escaped => {
                    assert!("\\\"n".contains(c), "{text}");
                    is_escaped = false;
                }
                '\\' => is_escaped = true,
                '"' => {
                    end = Some(at);
                    break;
                }
                _ => {}
            }
        }
        rest = &value[end.expect(text) + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
}

/// promtool, as the project's script finds it.
fn promtool() -> Command {
    let output = Command::new(repository().join("scripts/promtool")).output().unwrap();
    assert!(
        output.status.success(),
        "promtool is needed and cannot be had: {}",
        crate::machine::stderr(&output)
    );
    Command::new(stdout(&output).trim())
}

/// promtool has the last word.
fn lint(page: &str) {
    let mut promtool = promtool()
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = format!("{}{}", stdout(&output), crate::machine::stderr(&output));
    // Calico's names are as Calico has them.
    let ours: Vec<&str> = said.lines().filter(|line| !is_calicos(line)).collect();
    assert_eq!(ours, Vec::<&str>::new(), "promtool check metrics");
}

fn configuration(spec: Value) -> Value {
    json!({"apiVersion": "projectcalico.org/v3", "kind": "FelixConfiguration", "metadata": {"name": "default"}, "spec": spec})
}

fn configuration_key() -> ObjectKey {
    ObjectKey { kind: Kind::FelixConfiguration, namespace: None, name: "default".into() }
}

#[test]
fn probes_and_scrapes_tell_what_a_node_does_and_what_it_lacks() {
    let plan = Plan::pods(&[("a", "node1"), ("b", "node1"), ("closed", "node1"), ("c", "node2")])
        .object(isolate("closed", "closed"))
        .object(configuration(json!({"prometheusMetricsEnabled": true})));
    let lab = Lab::up("monitoring", &plan);
    let [a, b, closed, c] = ["a", "b", "closed", "c"].map(|name| lab.pod(name));
    wait_readiness(&lab, "node1", 200, "ready: yes");
    assert_eq!(probe(&lab, "node1", "/liveness").0, 200);
    let (_, json) = get(&lab, "node1", HEALTH, "/readiness", "application/json").unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["live"], &json["ready"]), (&json!(true), &json!(true)));
    let check = lab.exec("node/node1", &[program("caracal").to_str().unwrap(), "agent", "--check", "ready"]);
    assert_eq!(check.status.code(), Some(0), "{}", stdout(&check));

    let flows = [Questions::start(&a, &b, 7001), Questions::start(&c, &a, 7002)];
    let denied = Questions::start(&a, &closed, 7003);
    for questions in &flows {
        questions.wait_after("pods talk", Instant::now());
    }
    eventually("a denied packet is counted", || {
        scrape(&lab, "node1").value("caracal_dropped_packets_total{reason=\"policy-deny\"}") > 0.0
    });
    let expected = [
        ("caracal_fastpath_up", 1.0),
        ("caracal_fastpath_in_sync", 1.0),
        ("caracal_plane_in_sync", 1.0),
        ("felix_resync_state", 3.0),
        ("felix_resyncs_started", 1.0),
        ("felix_active_local_endpoints", 3.0),
        ("felix_active_local_policies", 1.0),
        ("felix_cluster_num_hosts", 2.0),
        ("felix_cluster_num_workload_endpoints", 4.0),
        ("felix_cluster_num_policies", 1.0),
        ("felix_host{host=\"node1\"}", 1.0),
        ("caracal_ports{kind=\"pod\",state=\"up\"}", 3.0),
        ("caracal_endpoints_without_series", 0.0),
        ("caracal_table_entries{table=\"endpoints\"}", 3.0),
    ];
    // What other nodes have is heard of in its time.
    eventually("all is counted", || {
        let page = scrape(&lab, "node1");
        let mut wrong = expected.iter().filter(|(series, value)| page.value(series) != *value).peekable();
        if let Some((series, value)) = wrong.peek() {
            println!("{series} is {} yet, not {value}", page.value(series));
        }
        wrong.peek().is_none()
    });
    let page = scrape(&lab, "node1");
    lint(&page.text);
    for (family, labels) in [
        ("caracal_endpoint_sent_packets_total", "pod=\"a\""),
        ("caracal_endpoint_received_bytes_total", "pod=\"b\""),
        ("caracal_endpoint_dropped_packets_total", "pod=\"a\""),
        ("caracal_worker_received_packets_total", ""),
        ("caracal_worker_flow_hits_total", ""),
        ("caracal_worker_flow_capacity", ""),
        ("caracal_worker_cpu_seconds_total", ""),
        ("caracal_worker_batches_total", ""),
        ("caracal_port_received_packets_total", "port=\""),
        ("caracal_uplink_frames_total", "fate=\"captured_vxlan\""),
        ("caracal_rule_packets_total", "action=\"deny\""),
        ("caracal_policy_packets_total", "action=\"deny\""),
        ("caracal_policy_connections_total", "action=\"allow\""),
        ("caracal_nat_ports", ""),
        ("caracal_tables_build_seconds_count", ""),
        ("caracal_plane_ack_seconds_count", ""),
        ("felix_calc_graph_output_events", ""),
        ("felix_calc_graph_updates_processed", "type=\"Pod\""),
        ("felix_int_dataplane_apply_time_seconds_count", ""),
        ("process_start_time_seconds", ""),
    ] {
        assert!(page.sum(family, labels) > 0.0, "{family} {labels} counts nothing:\n{}", page.text);
    }
    assert_eq!(denied.heard(), 0);
    let controllers = scrape_controllers(&lab);
    lint(&controllers.text);
    assert_eq!(controllers.value("caracal_controllers_leading"), 1.0);
    documented(&[&page, &controllers]);

    // The configuration is followed.
    let log = || fs::read_to_string(lab.state().log_of("agent-node1")).unwrap();
    assert!(!log().contains("DEBUG"), "{}", log());
    lab.kubernetes()
        .merge(
            &configuration_key(),
            json!({"spec": {"logSeverityScreen": "Debug", "prometheusMetricsPort": 9191}}),
        )
        .unwrap();
    eventually("metrics are at another port", || {
        get(&lab, "node1", 9191, "/metrics", "*/*").is_some()
            && get(&lab, "node1", METRICS, "/metrics", "*/*").is_none()
    });
    lab.kubernetes().merge(&configuration_key(), json!({"spec": {"prometheusMetricsPort": null}})).unwrap();
    eventually("metrics are back", || get(&lab, "node1", METRICS, "/metrics", "*/*").is_some());
    lab.kubernetes().create(isolate("more", "a")).unwrap();
    eventually("debugging is logged", || log().contains("DEBUG caracal_agent"));

    // Without the API server the node forwards all the same.
    lab.kill_and_wait("apiserver");
    eventually("a resynchronisation has begun", || {
        let page = scrape(&lab, "node1");
        let (status, table) = probe(&lab, "node1", "/readiness");
        assert_eq!(status, 200, "{table}");
        page.value("felix_resyncs_started") >= 2.0 && page.value("felix_resync_state") == 3.0
    });

    // Nobody brings back what dies now.
    lab.supervisor().signal(Signal::SIGSTOP);
    eventually("the supervisor is stopped", || lab.supervisor().is_stopped());
    let continued = Continue(&lab);

    // Without a fastpath it does not, and nobody needs to restart the agent.
    lab.kill("fastpath-node1");
    wait_readiness(&lab, "node1", 503, "Fastpath: ");
    assert_eq!(probe(&lab, "node1", "/liveness").0, 200);
    let page = scrape(&lab, "node1");
    assert_eq!(page.value("caracal_fastpath_up"), 0.0);
    assert_eq!(page.value("caracal_agent_ready{reporter=\"Fastpath\"}"), 0.0);
    wait_readiness(&lab, "node2", 200, "ready: yes");
    let check = lab.exec("node/node1", &[program("caracal").to_str().unwrap(), "agent", "--check", "ready"]);
    assert_eq!(check.status.code(), Some(1), "{}", stdout(&check));
    let check =
        crate::machine::caracal(&["fastpath", "check", "--socket", lab.socket("node1").to_str().unwrap()]);
    assert_eq!(check.status.code(), Some(2), "{}", stdout(&check));

    drop(continued);
    wait_readiness(&lab, "node1", 200, "ready: yes");
    assert_eq!(scrape(&lab, "node1").value("caracal_fastpath_up"), 1.0);
}

/// Has the supervisor go on, whatever happens.
struct Continue<'a>(&'a Lab);

impl Drop for Continue<'_> {
    fn drop(&mut self) {
        self.0.supervisor().signal(Signal::SIGCONT);
    }
}

#[test]
fn a_fastpath_that_does_not_come_round_is_told_from_one_that_does() {
    let plan = Plan::pods(&[("a", "node1")]).object(configuration(json!({"prometheusMetricsEnabled": true})));
    let lab = Lab::up("silent", &plan);
    wait_readiness(&lab, "node1", 200, "ready: yes");
    let socket = lab.socket("node1").to_str().unwrap();
    let check = || {
        crate::machine::caracal(&["fastpath", "check", "--socket", socket, "--silence", "1"]).status.code()
    };
    assert_eq!(check(), Some(0));
    let fastpath = lab.process("fastpath-node1").process.unwrap();

    // One thread of it stops, and the others go on.
    let worker = thread_of(&proc(fastpath), "worker");
    ptrace::seize(worker, ptrace::Options::empty()).unwrap();
    ptrace::interrupt(worker).unwrap();
    eventually("the probe fails", || check() == Some(1));
    wait_readiness(&lab, "node1", 503, "has not come round for");
    assert_eq!(scrape(&lab, "node1").value("caracal_fastpath_up"), 1.0);
    nix::sys::wait::waitpid(worker, Some(nix::sys::wait::WaitPidFlag::__WALL)).unwrap();
    ptrace::detach(worker, None).unwrap();
    wait_readiness(&lab, "node1", 200, "ready: yes");
    assert_eq!(check(), Some(0));

    // All of it stops; whoever scrapes is answered all the same.
    fastpath.signal(Signal::SIGSTOP);
    wait_readiness(&lab, "node1", 503, "Fastpath: ");
    assert_eq!(scrape(&lab, "node1").value("caracal_fastpath_up"), 0.0);
    assert_eq!(probe(&lab, "node1", "/liveness").0, 200);
    fastpath.signal(Signal::SIGCONT);
    wait_readiness(&lab, "node1", 200, "ready: yes");
}

/// A thread of a process whose name begins so.
fn thread_of(process: &Path, name: &str) -> Pid {
    let threads = fs::read_dir(process.join("task")).unwrap().map(|entry| entry.unwrap().path());
    let mut found =
        threads.filter(|thread| fs::read_to_string(thread.join("comm")).unwrap().starts_with(name));
    let thread = found.next().unwrap_or_else(|| panic!("no thread {name}"));
    Pid::from_raw(thread.file_name().unwrap().to_str().unwrap().parse().unwrap())
}

/// What `caracal controllers` export, for this cluster.
fn scrape_controllers(lab: &Lab) -> Scrape {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let address = format!("127.0.0.1:{port}");
    let mut command = Command::new(program("caracal"));
    command.args([
        "controllers",
        "--leader-elect",
        "false",
        "--health-address",
        "none",
        "--metrics-address",
        &address,
    ]);
    command.arg("--kubeconfig").arg(lab.state().kubeconfig()).stderr(Stdio::null());
    let mut controllers = Ended(command.spawn().unwrap());
    let mut last = None;
    eventually("controllers are in step", || {
        last = ask(("127.0.0.1", port), "/metrics", "*/*").map(|(_, body)| Scrape::parse(&body));
        assert!(controllers.0.try_wait().unwrap().is_none(), "the controllers have ended");
        last.as_ref().is_some_and(|page| page.value("caracal_controllers_in_sync") == 1.0)
    });
    last.unwrap()
}

/// A process that ends with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// docs/metrics.md tells of what is exported and of nothing else, and so do the dashboard and the alerts.
fn documented(pages: &[&Scrape]) {
    let mut rows = BTreeMap::new();
    for page in pages {
        for line in page.text.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
            let (name, help) = line.split_once(' ').unwrap();
            let kind = &page.kinds[name];
            rows.insert(name.to_owned(), format!("| `{name}` | {kind} | {} |\n", help.replace('|', "\\|")));
        }
    }
    let path = repository().join("docs/metrics.md");
    let text = fs::read_to_string(&path).unwrap();
    const BEGIN: &str = "export -->\n";
    let begin = text.find(BEGIN).unwrap() + BEGIN.len();
    let end = text.find("<!-- end -->").unwrap();
    let table: String = rows.values().map(String::as_str).collect();
    let table = format!("\n| name | type | meaning |\n|---|---|---|\n{table}\n");
    if env::var_os("BLESS").is_some() {
        fs::write(&path, format!("{}{table}{}", &text[..begin], &text[end..])).unwrap();
    } else {
        assert_eq!(&text[begin..end], table, "docs/metrics.md; BLESS=1 writes it");
    }

    let families: BTreeSet<&str> = rows.keys().map(String::as_str).collect();
    let dashboard = fs::read_to_string(repository().join("deploy/dashboards/caracal.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let mut expressions: Vec<String> =
        targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect();
    assert!(expressions.len() > 30);
    let alerts = fs::read_to_string(repository().join("deploy/dashboards/alerts.yaml")).unwrap();
    let alerts: Vec<&str> = alerts.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).collect();
    assert!(alerts.len() > 5);
    expressions.extend(alerts.into_iter().map(str::to_owned));
    for expression in expressions {
        let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let prefixes = ["caracal_", "felix_", "ipam_", "process_"];
        for word in words.filter(|word| prefixes.iter().any(|prefix| word.starts_with(prefix))) {
            let of_family =
                ["_bucket", "_sum", "_count"].iter().filter_map(|suffix| word.strip_suffix(suffix));
            let mut names = of_family.chain([word]);
            assert!(names.any(|name| families.contains(name)), "nothing exports {word}: {expression}");
        }
    }
    let output = promtool()
        .args(["check", "rules"])
        .arg(repository().join("deploy/dashboards/alerts.yaml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}{}", stdout(&output), crate::machine::stderr(&output));
}
