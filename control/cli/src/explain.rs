//! `caracal policy explain`: why a flow passes or not, and what would change that.

use std::env;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, IsTerminal};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use caracal_agent::syncer::{SyncEvent, Syncer};
use caracal_calc::Update;
use caracal_offline::explain::{
    Change, EndReport, Explained, Objects, Question, RuleReport, TierReport, explain,
};
use clap::ValueEnum;
use serde_json::{Map, Value, json};

use crate::policy::{Output, case_files};
use crate::table::emit;

/// How long the API server may take to tell everything.
const LIVE_TIMEOUT: Duration = Duration::from_secs(60);

/// Say why a flow passes or not: every tier, policy and rule at both ends, and the smallest change that would flip it.
///
/// Objects come from manifests and case files (-f), or from a cluster (--live). Nodes, namespaces and addresses that no
/// object gives are filled in as for case files. The production control plane and tables do the judging.
///
/// Exit status: 0 when it is explained, whatever the verdict; 2 when it cannot be.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  caracal policy explain --from shop/client --to shop/web --protocol TCP --port 80 -f tests/cases/ports-named.yaml
  caracal policy explain --from shop/web --to 198.51.100.7 --protocol ICMP --live --kubeconfig admin.conf
  caracal policy explain --host-endpoint eth0-node1 --path to-host --from 203.0.113.7 --to node/node1 --protocol TCP --port 80 -f heps.yaml")]
pub struct Args {
    /// Who opens it: NAMESPACE/POD, node/NAME, external/NAME or an IP address
    #[arg(long, value_name = "A")]
    from: String,
    /// Whom it is for: NAMESPACE/POD, node/NAME, external/NAME or an IP address
    #[arg(long, value_name = "B")]
    to: String,
    /// TCP, UDP, SCTP, ICMP, ICMPv6 or a number
    #[arg(long, value_name = "P", default_value = "TCP")]
    protocol: String,
    /// The destination port: a number, or the name of a container port
    #[arg(long, value_name = "N")]
    port: Option<String>,
    /// The source port [default: one that no rule is likely to name]
    #[arg(long, value_name = "N")]
    source_port: Option<u16>,
    /// The ICMP message [default: an echo request]
    #[arg(long, value_name = "TYPE/CODE")]
    icmp: Option<String>,
    /// 4 or 6, for ends that have both
    #[arg(long, value_name = "4|6", value_parser = clap::value_parser!(u8).range(4..=6))]
    ip_version: Option<u8>,
    /// Ask a host endpoint instead of pods
    #[arg(long, value_name = "NAME", requires = "path")]
    host_endpoint: Option<String>,
    /// How the packet meets the host endpoint
    #[arg(long, value_enum, requires = "host_endpoint")]
    path: Option<HostPath>,
    /// The destination before its translation
    #[arg(long, value_name = "IP", requires = "host_endpoint")]
    original_to: Option<IpAddr>,
    /// Its port
    #[arg(long, value_name = "N", requires = "original_to")]
    original_port: Option<u16>,
    /// Manifests and case files, or folders of them
    #[arg(short = 'f', long = "filename", value_name = "FILE", num_args = 1.., required_unless_present = "live")]
    files: Vec<PathBuf>,
    /// Take the objects from the API server
    #[arg(long, conflicts_with = "files")]
    live: bool,
    /// How to reach it [default: as kubectl does: $KUBECONFIG, ~/.kube/config, or the pod that this process is in]
    #[arg(long, value_name = "FILE", requires = "live")]
    kubeconfig: Option<PathBuf>,
    /// How to print it: a tree for people, or one JSON document
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// How a packet meets a host endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum HostPath {
    /// It came in, and is for the host.
    ToHost,
    /// The host sends it.
    FromHost,
    /// It came in, and is forwarded.
    ForwardIn,
    /// It is forwarded, and goes out.
    ForwardOut,
}

/// Runs `caracal policy explain`.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let question = question(args)?;
    let objects = if args.live {
        let kubeconfig = args.kubeconfig.clone().or_else(|| usual_kubeconfig(|name| env::var_os(name)));
        live(kubeconfig.as_deref())?
    } else {
        from_files(&args.files)?
    };
    let explained = explain(&objects, &question)?;
    match args.output {
        Output::Table => emit(&tree(&explained, io::stdout().is_terminal())),
        Output::Json => emit(&format!("{}\n", serde_json::to_string_pretty(&explained)?)),
    }
    Ok(ExitCode::SUCCESS)
}

/// The flow, with the fields of case files.
fn question(args: &Args) -> anyhow::Result<Question> {
    let mut flow = Map::new();
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            flow.insert(key.to_owned(), value);
        }
    };
    set("from", Some(args.from.as_str().into()));
    set("to", Some(args.to.as_str().into()));
    set("protocol", Some(number_or_text(&args.protocol)));
    set("port", args.port.as_deref().map(number_or_text));
    set("sourcePort", args.source_port.map(Value::from));
    set("ipVersion", args.ip_version.map(Value::from));
    if let Some(icmp) = &args.icmp {
        let (kind, code) = icmp.split_once('/').unwrap_or((icmp, "0"));
        let (Ok(kind), Ok(code)) = (kind.parse::<u8>(), code.parse::<u8>()) else {
            bail!("--icmp {icmp}: must be TYPE or TYPE/CODE, numbers from 0 to 255");
        };
        set("icmp", Some(json!({"type": kind, "code": code})));
    }
    let (Some(endpoint), Some(path)) = (&args.host_endpoint, args.path) else {
        return Ok(Question::Flow(flow.into()));
    };
    set("hostEndpoint", Some(endpoint.as_str().into()));
    let path = path.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    set("path", Some(path.into()));
    set("originalTo", args.original_to.map(|address| address.to_string().into()));
    set("originalPort", args.original_port.map(Value::from));
    Ok(Question::HostFlow(flow.into()))
}

fn number_or_text(text: &str) -> Value {
    text.parse::<u16>().map_or_else(|_| text.into(), Value::from)
}

fn from_files(files: &[PathBuf]) -> anyhow::Result<Objects> {
    let mut objects = Objects::default();
    for file in case_files(files)? {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        objects.read(&file.display().to_string(), &text)?;
    }
    Ok(objects)
}

/// The kubeconfig that kubectl would take: the first of $KUBECONFIG, else the one in the home folder, if there is one.
fn usual_kubeconfig(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    if let Some(files) = variable("KUBECONFIG").filter(|files| !files.is_empty()) {
        return env::split_paths(&files).next();
    }
    let file = Path::new(&variable("HOME")?).join(".kube/config");
    file.is_file().then_some(file)
}

/// Everything that the API server holds, as agents follow it: kinds that it does not serve are left out.
fn live(kubeconfig: Option<&Path>) -> anyhow::Result<Objects> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = caracal_datastore::client(kubeconfig).await?;
        // The syncer waits for a server that is away; people want to be told.
        client.apiserver_version().await.context("cannot reach the API server")?;
        for api in ["projectcalico.org/v3", "policy.networking.k8s.io/v1alpha2"] {
            if client.list_api_group_resources(api).await.is_err() {
                eprintln!("caracal: the API server does not serve {api}: objects of that API are left out");
            }
        }
        let mut syncer = Syncer::start(&client);
        let mut objects = Objects::default();
        let everything = async {
            while let Some(event) = syncer.next().await {
                match event {
                    SyncEvent::Updates(updates) => {
                        let found = updates.into_iter().filter_map(|update| match update {
                            Update::Upsert(object) => Some(("the API server".to_owned(), object.to_value())),
                            Update::Delete(_) => None,
                        });
                        objects.manifests.extend(found);
                    }
                    SyncEvent::InSync => break,
                }
            }
        };
        tokio::time::timeout(LIVE_TIMEOUT, everything)
            .await
            .context("the API server does not tell everything in time")?;
        Ok(objects)
    })
}

// ---- for people ----

/// Marks, coloured on a terminal.
struct Pen {
    is_coloured: bool,
}

impl Pen {
    fn paint(&self, colour: &str, text: &str) -> String {
        if self.is_coloured { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn good(&self, text: &str) -> String {
        self.paint("32", text)
    }

    fn bad(&self, text: &str) -> String {
        self.paint("31", text)
    }

    fn dim(&self, text: &str) -> String {
        self.paint("2", text)
    }

    fn verdict(&self, verdict: &str) -> String {
        if verdict == "deny" {
            self.bad(&format!("✗ {verdict}"))
        } else {
            self.good(&format!("✓ {verdict}"))
        }
    }
}

/// The whole explanation as a tree.
fn tree(explained: &Explained, is_coloured: bool) -> String {
    let pen = Pen { is_coloured };
    let mut text = String::new();
    for end in &explained.ends {
        end_tree(&mut text, &pen, end);
        text.push('\n');
    }
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{}  by {}", pen.verdict(&explained.verdict), explained.decided_by);
    if let Some(change) = &explained.change {
        let wanted = if explained.verdict == "deny" { "let it pass" } else { "keep it out" };
        let _ = writeln!(text, "\nThe smallest change that would {wanted}:");
        change_tree(&mut text, change);
    }
    if !explained.needs.is_empty() {
        text.push_str("\nEach end that denies it needs:\n");
        for change in &explained.needs {
            change_tree(&mut text, change);
        }
    }
    for note in &explained.notes {
        let _ = writeln!(text, "\nNote: {note}.");
    }
    text
}

fn end_tree(text: &mut String, pen: &Pen, end: &EndReport) {
    let _ = writeln!(text, "{} of {}: {}", end.direction, end.endpoint, pen.verdict(&end.verdict));
    tiers_tree(text, pen, &end.tiers);
    for profile in &end.profiles {
        let _ = writeln!(
            text,
            "  {} profile {} rule {} {}",
            mark(pen, &profile.outcome, &profile.action),
            profile.name,
            profile.index,
            profile.action
        );
    }
    if let Some(staged) = &end.staged {
        let _ = writeln!(
            text,
            "  staged policies, if they were enforced: {}  by {}",
            pen.verdict(&staged.verdict),
            staged.decided_by
        );
        tiers_tree(text, pen, &staged.tiers);
    }
    let _ = writeln!(text, "  decided by {}", end.decided_by);
}

fn tiers_tree(text: &mut String, pen: &Pen, tiers: &[TierReport]) {
    for tier in tiers {
        let hook = tier.hook.as_ref().map(|hook| format!("{hook} · ")).unwrap_or_default();
        let result = match tier.result.as_str() {
            "deny" => pen.bad("✗ deny"),
            "default-deny" => pen.bad("✗ no rule matched: the tier denies"),
            "default-pass" => pen.dim("no rule matched: on to the next"),
            "pass" => pen.dim("passed on to the next"),
            "not-reached" => pen.dim("not reached"),
            _ => pen.good("✓ allow"),
        };
        let _ = writeln!(text, "  {hook}tier {}: {result}", tier.name);
        for policy in &tier.policies {
            let namespace =
                if policy.namespace.is_empty() { String::new() } else { format!("{}/", policy.namespace) };
            let _ = writeln!(text, "    {} {namespace}{}", policy.kind, policy.name);
            if policy.rules.is_empty() {
                let _ = writeln!(text, "      {}", pen.dim("· no rules in this direction"));
            }
            for rule in &policy.rules {
                rule_tree(text, pen, rule);
            }
        }
    }
}

fn rule_tree(text: &mut String, pen: &Pen, rule: &RuleReport) {
    let line = format!("rule {} {}", rule.index, rule.action);
    let line = if rule.outcome == "not-reached" { pen.dim(&format!("{line} (not reached)")) } else { line };
    let _ = writeln!(text, "      {} {line}", mark(pen, &rule.outcome, &rule.action));
    for mismatch in &rule.mismatches {
        let _ = writeln!(text, "          {}: {}", mismatch.field, mismatch.why);
    }
}

fn mark(pen: &Pen, outcome: &str, action: &str) -> String {
    match (outcome, action) {
        ("matched", "Deny") => pen.bad("✗"),
        ("matched", _) => pen.good("✓"),
        ("missed", _) => "–".to_owned(),
        _ => pen.dim("·"),
    }
}

fn change_tree(text: &mut String, change: &Change) {
    let namespace =
        if change.namespace.is_empty() { String::new() } else { format!("{}/", change.namespace) };
    let _ = writeln!(text, "  {} {namespace}{}: {}", change.kind, change.name, change.description);
    let said = |value: &Value| if value.is_null() { "(nothing)".to_owned() } else { value.to_string() };
    let _ = writeln!(text, "    {}: {} → {}", change.field, said(&change.from), said(&change.to));
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn asked(line: &str) -> Question {
        let words = ["explain", "-f", "x"].into_iter().chain(line.split_whitespace());
        question(&Cli::try_parse_from(words).unwrap().args).unwrap()
    }

    #[test]
    fn flags_become_a_flow_with_the_fields_of_case_files() {
        let Question::Flow(flow) =
            asked("--from a/b --to 192.0.2.1 --protocol ICMP --icmp 3/4 --ip-version 4")
        else {
            panic!("a flow")
        };
        let expected = json!({"from": "a/b", "to": "192.0.2.1", "protocol": "ICMP", "icmp": {"type": 3, "code": 4}, "ipVersion": 4});
        assert_eq!(flow, expected);
        let line = "--from a/b --to c/d --port 80 --host-endpoint e --path forward-in --original-to 192.0.2.1 --original-port 30080";
        let Question::HostFlow(flow) = asked(line) else { panic!("a host flow") };
        assert_eq!(
            (&flow["path"], &flow["port"], &flow["originalPort"]),
            (&json!("forward-in"), &json!(80), &json!(30080))
        );
    }

    #[test]
    fn a_cluster_is_found_as_kubectl_finds_it() {
        let found = |variables: &[(&str, &str)]| {
            usual_kubeconfig(|name| {
                variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
            })
        };
        assert_eq!(found(&[("KUBECONFIG", "/a:/b"), ("HOME", "/")]), Some(PathBuf::from("/a")));
        assert_eq!(found(&[("KUBECONFIG", ""), ("HOME", "/there-is-no-such-folder")]), None);
        assert_eq!(found(&[]), None);
    }

    #[test]
    fn a_tree_has_colours_only_where_it_is_told_so() {
        let mut objects = Objects::default();
        let policy = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p, namespace: n}, spec: {podSelector: {}}}";
        let pod = "{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: n}, spec: {containers: [{name: c, image: i}]}}";
        objects.read("x", &format!("{policy}\n---\n{pod}\n")).unwrap();
        let explained = explain(&objects, &asked("--from 203.0.113.7 --to n/a --port 80")).unwrap();
        let plain = tree(&explained, false);
        assert!(plain.contains("✗ deny") && !plain.contains('\x1b'), "{plain}");
        assert!(
            plain.contains("The smallest change that would let it pass:\n  KubernetesNetworkPolicy n/p: "),
            "{plain}"
        );
        assert!(tree(&explained, true).contains("\x1b[31m"));
    }
}
