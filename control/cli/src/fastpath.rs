//! `caracal fastpath`: what a running fastpath counts, drops and knows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use caracal_lab::{LabName, Reader, State};
use caracal_model::protocol::Protocol;
use caracal_plane_api::{DEFAULT_SOCKET, Prefix, ReadReply, SILENCE_MS, StatusReport, What};
use clap::Subcommand;
use serde_json::{Value, json};

use crate::policy::Output;
use crate::table::{emit, table};

const EXAMPLES: &str = "Examples:
  caracal fastpath drops --lab lab/node1
  caracal fastpath services --lab lab/node1 --all
  caracal fastpath check --lab lab/node1
  caracal fastpath policy --socket /var/run/caracal/fastpath.sock -o json";

/// Read a running fastpath: health, counters, drops, flows, routes, policy, services, translation.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Table,
}

#[derive(Debug, Subcommand)]
enum Table {
    /// Whether it lives: it answers, and its workers come round. For probes: 0 if so, 1 if a worker does not, 2 if it does not answer
    Check(CheckArgs),
    /// Its workers, ports and memory
    Status(ReadArgs),
    /// What it counts
    Counters(ReadArgs),
    /// Packets dropped, by reason
    Drops(ReadArgs),
    /// Connections it tracks
    Flows(ReadArgs),
    /// Where it sends what
    Routes(ReadArgs),
    /// What policy decided, rule by rule
    Policy(ReadArgs),
    /// Services: what leads to them, who serves them, how often they were asked
    Services(ReadArgs),
    /// Translation to this node's addresses: the ports there are, and how many are taken
    Nat(ReadArgs),
}

/// Which fastpath.
#[derive(Debug, clap::Args)]
struct Place {
    /// Its socket [default: /var/run/caracal/fastpath.sock]
    #[arg(long, value_name = "SOCKET", conflicts_with = "lab")]
    socket: Option<PathBuf>,
    /// A node of a lab
    #[arg(long, value_name = "N/NODE", value_parser = parse_lab)]
    lab: Option<(LabName, String)>,
}

#[derive(Debug, clap::Args)]
struct ReadArgs {
    #[command(flatten)]
    place: Place,
    /// Rows that are zero, too
    #[arg(long)]
    all: bool,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, clap::Args)]
struct CheckArgs {
    #[command(flatten)]
    place: Place,
    /// How long a worker may be silent; an idle one comes round every 50 ms
    #[arg(long, value_name = "SECONDS", default_value_t = SILENCE_MS as f64 / 1e3)]
    silence: f64,
}

fn parse_lab(text: &str) -> Result<(LabName, String), String> {
    let (lab, node) = text.split_once('/').ok_or("expected LAB/NODE, like lab/node1")?;
    Ok((lab.parse().map_err(|error: caracal_lab::LabError| error.to_string())?, node.to_owned()))
}

impl Place {
    fn connect(&self) -> anyhow::Result<Reader> {
        let socket = match (&self.socket, &self.lab) {
            (Some(socket), _) => socket.clone(),
            (None, None) => DEFAULT_SOCKET.into(),
            (None, Some((lab, node))) => State::read(lab)?.node(node)?.socket.clone().with_context(|| {
                format!("node {node} of lab {lab} has no fastpath: Linux does its routing")
            })?,
        };
        Ok(Reader::connect(&socket)?)
    }
}

/// Runs `caracal fastpath`.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (what, args) = match args.command {
        Table::Check(args) => return check(&args),
        Table::Status(args) => (What::Status, args),
        Table::Counters(args) => (What::Counters, args),
        Table::Drops(args) => (What::Drops, args),
        Table::Flows(args) => (What::Flows, args),
        Table::Routes(args) => (What::Routes, args),
        Table::Policy(args) => (What::Policy, args),
        Table::Services(args) => (What::Services, args),
        Table::Nat(args) => (What::Nat, args),
    };
    let mut reply = args.place.connect()?.read(what)?;
    if !args.all && args.output == Output::Table {
        reply.counters.retain(|counter| counter.value > 0);
        reply.drops.retain(|drop| drop.packets > 0);
        reply.policies.retain(|row| row.packets > 0);
    }
    match args.output {
        Output::Table => emit(&text(what, reply)),
        Output::Json => emit(&format!("{:#}\n", to_json(what, reply))),
    }
    Ok(ExitCode::SUCCESS)
}

fn check(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let status = args.place.connect()?.read(What::Status)?.status.unwrap_or_default();
    let limit = Duration::try_from_secs_f64(args.silence).context("--silence")?;
    let mut is_silent = false;
    for (worker, ms) in status.silent_workers(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)) {
        is_silent = true;
        emit(&format!(
            "worker {worker} has not come round for {:.1} s: it forwards nothing\n",
            ms as f64 / 1e3
        ));
    }
    if !is_silent {
        emit(&format!("workers that come round: {}\n", status.workers.len()));
    }
    Ok(ExitCode::from(u8::from(is_silent)))
}

fn text(what: What, reply: ReadReply) -> String {
    match what {
        What::Status => status_text(&reply.status.unwrap_or_default()),
        What::Counters => {
            let rows: Vec<_> = reply
                .counters
                .into_iter()
                .map(|counter| [counter.name, counter.worker, counter.object, counter.value.to_string()])
                .collect();
            table(["COUNTER", "WORKER", "OBJECT", "VALUE"], &rows)
        }
        What::Drops => {
            let rows: Vec<_> = reply
                .drops
                .into_iter()
                .map(|drop| {
                    [drop.reason, drop.worker.to_string(), drop.packets.to_string(), drop.description]
                })
                .collect();
            table(["REASON", "WORKER", "PACKETS", "MEANING"], &rows)
        }
        What::Flows => {
            let rows: Vec<_> = reply
                .flows
                .into_iter()
                .map(|flow| {
                    let arrow = if flow.direction == "in" { "←" } else { "→" };
                    [
                        flow.endpoint,
                        protocol(flow.protocol),
                        format!(
                            "{}:{} {arrow} {}:{}",
                            address(&flow.local),
                            flow.local_port,
                            address(&flow.remote),
                            flow.remote_port
                        ),
                        flow.state,
                        flow.packets.to_string(),
                        flow.bytes.to_string(),
                        format!("{:.1} s", flow.expires_ms as f64 / 1000.0),
                        flow.verdict,
                    ]
                })
                .collect();
            let header =
                ["ENDPOINT", "PROTOCOL", "FLOW", "STATE", "PACKETS", "BYTES", "EXPIRES IN", "ALLOWED BY"];
            table(header, &rows)
        }
        What::Routes => {
            let rows: Vec<_> = reply
                .routes
                .into_iter()
                .map(|route| [prefix(route.prefix), route.target, route.origin])
                .collect();
            table(["PREFIX", "TARGET", "ORIGIN"], &rows)
        }
        What::Policy => {
            let rows: Vec<_> = reply
                .policies
                .into_iter()
                .map(|row| {
                    let action = if row.staged { format!("{} (staged)", row.action) } else { row.action };
                    let counts = [row.connections, row.packets, row.bytes].map(|count| count.to_string());
                    let [connections, packets, bytes] = counts;
                    [row.rule, action, connections, packets, bytes]
                })
                .collect();
            table(["RULE", "ACTION", "CONNECTIONS", "PACKETS", "BYTES"], &rows)
        }
        What::Services => {
            let rows: Vec<_> = reply
                .services
                .into_iter()
                .map(|row| {
                    let counts = [row.connections, row.refused].map(|count| count.to_string());
                    let [connections, refused] = counts;
                    let backends = row.backends.join(" ");
                    [row.id, protocol(row.protocol), row.frontend, connections, refused, backends]
                })
                .collect();
            table(["SERVICE", "PROTOCOL", "FRONTEND", "CONNECTIONS", "REFUSED", "BACKENDS"], &rows)
        }
        What::Nat => {
            let rows: Vec<_> = reply
                .nat
                .into_iter()
                .map(|row| {
                    let ports = format!("{}-{}", row.first_port, row.last_port);
                    let capacity = (row.last_port + 1).saturating_sub(row.first_port).to_string();
                    let counts = [row.translations, row.exhausted].map(|count| count.to_string());
                    let [translations, exhausted] = counts;
                    [row.worker.to_string(), row.address, ports, capacity, translations, exhausted]
                })
                .collect();
            table(["WORKER", "ADDRESS", "PORTS", "PER REMOTE PORT", "TRANSLATIONS", "EXHAUSTED"], &rows)
        }
    }
}

fn status_text(status: &StatusReport) -> String {
    let yes = |is: bool| if is { "yes" } else { "no" };
    let adopted: Vec<_> = status.adopted.iter().map(ToString::to_string).collect();
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    let node = &status.node;
    let head = [
        format!("node                     {node}"),
        format!("software                 {}", status.software),
        format!("in sync                  {}", yes(status.in_sync)),
        format!("controller connected     {}", yes(status.controller_connected)),
        format!(
            "tables                   generation {}, workers have {}",
            status.generation,
            adopted.join(", ")
        ),
        format!("unresolved neighbours    {}", status.unresolved_neighbors),
        format!(
            "packet memory            {}, huge pages: {}",
            mib(status.umem_bytes),
            yes(status.huge_pages)
        ),
        format!("flow tables              {}, for {} flows", mib(status.flow_bytes), status.flow_capacity),
        format!("kernel's ring memory     {} (computed)\n", mib(status.kernel_ring_bytes)),
    ];
    let rows: Vec<_> = status
        .ports
        .iter()
        .map(|port| {
            let up = if port.up { "up" } else { "down" };
            let (name, kind, io) = (port.name.clone(), port.kind.clone(), port.io.clone());
            [name, kind, io, port.worker.to_string(), up.into(), port.detail.clone()]
        })
        .collect();
    format!("{}\n{}", head.join("\n"), table(["PORT", "KIND", "I/O", "WORKER", "STATE", "DETAIL"], &rows))
}

fn to_json(what: What, reply: ReadReply) -> Value {
    match what {
        What::Status => status_json(&reply.status.unwrap_or_default()),
        What::Counters => {
            let row = |c: caracal_plane_api::Counter| json!({"name": c.name, "worker": c.worker, "object": c.object, "value": c.value});
            json!({ "counters": reply.counters.into_iter().map(row).collect::<Vec<_>>() })
        }
        What::Drops => {
            let row = |d: caracal_plane_api::DropRow| json!({"reason": d.reason, "description": d.description, "worker": d.worker, "packets": d.packets});
            json!({ "drops": reply.drops.into_iter().map(row).collect::<Vec<_>>() })
        }
        What::Flows => {
            let row = |f: caracal_plane_api::FlowRow| {
                json!({
                    "worker": f.worker, "endpoint": f.endpoint, "protocol": protocol(f.protocol), "direction": f.direction,
                    "local": address(&f.local), "localPort": f.local_port, "remote": address(&f.remote),
                    "remotePort": f.remote_port, "state": f.state, "verdict": f.verdict, "packets": f.packets,
                    "bytes": f.bytes, "idleMs": f.idle_ms, "expiresMs": f.expires_ms,
                })
            };
            json!({ "flows": reply.flows.into_iter().map(row).collect::<Vec<_>>() })
        }
        What::Routes => {
            let row = |r: caracal_plane_api::RouteRow| json!({"prefix": prefix(r.prefix), "target": r.target, "origin": r.origin});
            json!({ "routes": reply.routes.into_iter().map(row).collect::<Vec<_>>() })
        }
        What::Policy => {
            let row = |p: caracal_plane_api::PolicyRow| json!({"rule": p.rule, "action": p.action, "staged": p.staged, "connections": p.connections, "packets": p.packets, "bytes": p.bytes});
            json!({ "policy": reply.policies.into_iter().map(row).collect::<Vec<_>>() })
        }
        What::Services => {
            let row = |s: caracal_plane_api::ServiceRow| json!({"id": s.id, "protocol": s.protocol, "frontend": s.frontend, "backends": s.backends, "connections": s.connections, "refused": s.refused});
            json!({ "services": reply.services.into_iter().map(row).collect::<Vec<_>>() })
        }
        What::Nat => {
            let row = |n: caracal_plane_api::NatRow| json!({"worker": n.worker, "address": n.address, "firstPort": n.first_port, "lastPort": n.last_port, "translations": n.translations, "exhausted": n.exhausted});
            json!({ "nat": reply.nat.into_iter().map(row).collect::<Vec<_>>() })
        }
    }
}

fn status_json(status: &StatusReport) -> Value {
    let ports: Vec<_> = status
        .ports
        .iter()
        .map(|port| {
            json!({
                "name": port.name, "kind": port.kind, "io": port.io, "worker": port.worker, "up": port.up,
                "detail": port.detail,
            })
        })
        .collect();
    json!({
        "node": status.node, "software": status.software, "instance": status.instance.to_string(),
        "generation": status.generation, "adopted": status.adopted, "inSync": status.in_sync,
        "controllerConnected": status.controller_connected, "unresolvedNeighbors": status.unresolved_neighbors,
        "flowBytes": status.flow_bytes, "flowCapacity": status.flow_capacity, "umemBytes": status.umem_bytes, "kernelRingBytes": status.kernel_ring_bytes, "hugePages": status.huge_pages,
        "ports": ports,
    })
}

/// Four or sixteen bytes as an address; what is neither is shown as it is.
fn address(bytes: &[u8]) -> String {
    let address = match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|octets| IpAddr::V4(Ipv4Addr::from(octets))),
        16 => <[u8; 16]>::try_from(bytes).ok().map(|octets| IpAddr::V6(Ipv6Addr::from(octets))),
        _ => None,
    };
    address.map_or_else(|| format!("{bytes:02x?}"), |address| address.to_string())
}

fn prefix(prefix: Option<Prefix>) -> String {
    prefix.map_or_else(|| "-".into(), |prefix| format!("{}/{}", address(&prefix.address), prefix.length))
}

fn protocol(number: u32) -> String {
    u8::try_from(number).map_or_else(|_| number.to_string(), |number| Protocol(number).to_string())
}
