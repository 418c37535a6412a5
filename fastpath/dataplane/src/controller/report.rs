//! What readers are told: counters, drops, flows, routes, policy, status. See `Read` in plane.proto.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Sender, sync_channel};
use std::time::Duration;

use caracal_plane_api::{
    Counter, DropRow, FlowRow, PolicyId, PolicyRow, Prefix as PlanePrefix, ReadReply, RouteRow, StatusReport,
    What, WorkerRow,
};

use super::Controller;
use super::ports::WorkerHandle;
use super::server::Client;
use super::translations;
use crate::clock::{Clock, Tick};
use crate::drop_reason::DropReason;
use crate::flow::{FlowEntry, FlowNote, Timeouts};
use crate::handover::Doorbell;
use crate::table::{Deciding, FibEntry, NextHop, Prefix, RuleId, RuleName, TableBuilder, Tables};
use crate::worker::thread::Command;

/// What does not change while the fastpath lives.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Differs after every restart.
    pub instance: u64,
    /// The time that flows are stamped with.
    pub clock: Clock,
    /// Bytes of UMEM, all domains.
    pub umem_bytes: u64,
    /// Bytes of all workers' flow tables.
    pub flow_bytes: u64,
    /// Flows that they have room for.
    pub flow_capacity: u64,
    /// Whether all of it is in huge pages.
    pub huge_pages: bool,
}

/// Rows in one message at most.
const ROWS_PER_MESSAGE: usize = 2000;
/// Flow-table buckets that a worker dumps at once: short enough not to be noticed by packets.
const BUCKETS_PER_STEP: usize = 512;
/// How long a worker may take for that. One that is stuck is left out, and nobody waits for it for ever.
const WORKER_PATIENCE: Duration = Duration::from_secs(2);
/// Flows in that many buckets, at most.
const FLOWS_PER_STEP: usize = BUCKETS_PER_STEP * 8;

impl Controller {
    pub(super) fn answer(&self, client: Arc<Client>, what: i32) {
        let tables = Arc::clone(self.publisher.latest());
        match What::try_from(what) {
            Ok(What::Status) => {
                let status = Some(self.status(&tables));
                client.reply(ReadReply { last: true, status, ..ReadReply::default() });
            }
            Ok(What::Counters) => {
                let counters = self.counters();
                client.reply(ReadReply { last: true, counters, ..ReadReply::default() });
            }
            Ok(What::Drops) => {
                let drops = self.drops();
                client.reply(ReadReply { last: true, drops, ..ReadReply::default() });
            }
            Ok(What::Routes) => self.send_routes(&client, &tables),
            Ok(What::Policy) => self.send_policies(client, tables),
            Ok(What::Flows) => self.send_flows(client, tables),
            Ok(What::Services) => {
                let rows = translations::services(&tables);
                send(&client, rows, |services, last| ReadReply { last, services, ..ReadReply::default() });
            }
            Ok(What::Nat) => {
                let of = |worker| {
                    let worker = self.ports.workers().iter().find(|other| other.index == worker);
                    worker.map_or((0, 0), |worker| {
                        let exhausted = worker.counters.pipeline.nat_ports_exhausted.get();
                        (worker.status.translations.load(Relaxed), exhausted)
                    })
                };
                let nat = translations::ports(&tables, of);
                client.reply(ReadReply { last: true, nat, ..ReadReply::default() });
            }
            Err(_) => client.refuse(0, format!("nothing with number {what} can be read here")),
        }
    }

    fn status(&self, tables: &Tables) -> StatusReport {
        let unresolved_pods: u64 =
            self.ports.workers().iter().map(|worker| worker.status.unresolved.load(Relaxed)).sum();
        let unresolved_hops = self
            .builder
            .wanted_neighbors()
            .iter()
            .filter(|(ifindex, address)| {
                tables.neighbors.find(*ifindex, *address).and_then(|n| tables.neighbors.mac(n)).is_none()
            })
            .count();
        StatusReport {
            software: env!("CARGO_PKG_VERSION").into(),
            instance: self.identity.instance,
            generation: self.publisher.newest(),
            adopted: self.publisher.adopted_by().collect(),
            in_sync: self.builder.in_sync() && self.pending.is_empty(),
            controller_connected: self.client.is_some(),
            node: tables.node.config().map(|node| node.name.to_string()).unwrap_or_default(),
            ports: self.ports.rows(&self.links),
            umem_bytes: self.identity.umem_bytes,
            kernel_ring_bytes: self.ports.kernel_ring_bytes(),
            flow_bytes: self.identity.flow_bytes,
            flow_capacity: self.identity.flow_capacity,
            huge_pages: self.identity.huge_pages,
            workers: self.ports.workers().iter().map(|worker| self.worker_row(worker)).collect(),
            unresolved_neighbors: u32::try_from(unresolved_pods).unwrap_or(u32::MAX)
                + u32::try_from(unresolved_hops).unwrap_or(u32::MAX),
        }
    }

    fn worker_row(&self, worker: &WorkerHandle) -> WorkerRow {
        let came_round = Tick(worker.status.came_round.load(Relaxed));
        let silent_ms = u64::from(self.identity.clock.now().since(came_round));
        WorkerRow { index: worker.index.0.into(), silent_ms }
    }

    fn counters(&self) -> Vec<Counter> {
        let mut rows = Vec::new();
        for worker in self.ports.workers() {
            let index = worker.index.0.to_string();
            let counted =
                worker.counters.pipeline.each().map(|(name, what, value)| (name, what, value, false));
            let cpu = cpu_microseconds(worker.status.thread.load(Relaxed));
            let status = &worker.status;
            let gauges = [
                ("flows", "Flows in the worker's table.", status.flows.load(Relaxed)),
                ("flow_capacity", "Flows that the table has room for.", status.flow_capacity.load(Relaxed)),
                ("free_frames", "Free frames of the worker's memory.", status.free_frames.load(Relaxed)),
            ];
            let gauges = gauges.map(|(name, what, value)| (name, what, value, true));
            let cpu =
                cpu.map(|value| ("cpu_microseconds", "Time that the worker's thread has run.", value, false));
            for (name, description, value, gauge) in counted.chain(gauges).chain(cpu) {
                rows.push(Counter {
                    name: name.into(),
                    worker: index.clone(),
                    object: String::new(),
                    value,
                    description: description.into(),
                    gauge,
                });
            }
        }
        let mut row = |name: &str, worker: String, object: &str, value| {
            rows.push(Counter {
                name: name.into(),
                worker,
                object: object.into(),
                value,
                ..Counter::default()
            });
        };
        for (name, value) in [
            ("publications", self.publications.count),
            ("publication_build_microseconds", self.publications.build_micros),
            ("publication_adoption_microseconds", self.publications.adoption_micros),
        ] {
            row(name, String::new(), "", value);
        }
        self.ports.each_counters(|port, counters, kernel| {
            row("port_received_packets", String::new(), port, counters.received_packets.get());
            row("port_received_bytes", String::new(), port, counters.received_bytes.get());
            row("port_sent_packets", String::new(), port, counters.sent_packets.get());
            row("port_sent_bytes", String::new(), port, counters.sent_bytes.get());
            row("port_dropped_packets", String::new(), port, counters.dropped_packets.get());
            // What the kernel dropped at the port's socket, and no worker saw.
            let Some(kernel) = kernel else { return };
            row("port_kernel_rx_ring_full", String::new(), port, kernel.rx_ring_full);
            row("port_kernel_fill_ring_empty", String::new(), port, kernel.fill_ring_empty);
            row("port_kernel_rx_dropped", String::new(), port, kernel.rx_dropped);
            row("port_kernel_rx_invalid_descriptors", String::new(), port, kernel.rx_invalid_descriptors);
            row("port_kernel_tx_invalid_descriptors", String::new(), port, kernel.tx_invalid_descriptors);
        });
        for (uplink, counters) in self.ports.uplink_counters() {
            for (name, value) in [
                ("passed_to_host", counters.passed),
                ("captured_prefix", counters.captured_prefix),
                ("captured_vxlan", counters.captured_vxlan),
                ("captured_ipip", counters.captured_ipip),
                ("captured_service", counters.captured_service),
                ("captured_translated", counters.captured_translated),
                ("captured_error", counters.captured_error),
                ("captured_fragment", counters.captured_fragment),
                ("without_socket", counters.no_socket),
            ] {
                row(&format!("uplink_{name}"), String::new(), uplink, value);
            }
        }
        rows.extend(self.builder.sizes().map(|(table, size)| Counter {
            name: "table_size".into(),
            object: table.into(),
            value: size as u64,
            gauge: true,
            ..Counter::default()
        }));
        rows
    }

    fn drops(&self) -> Vec<DropRow> {
        let mut rows = Vec::new();
        for worker in self.ports.workers() {
            for reason in DropReason::ALL {
                rows.push(DropRow {
                    reason: reason.label().into(),
                    description: reason.description().into(),
                    worker: u32::from(worker.index.0),
                    packets: worker.counters.dropped(*reason),
                });
            }
        }
        rows
    }

    fn send_routes(&self, client: &Client, tables: &Tables) {
        let rows: Vec<RouteRow> = self
            .builder
            .routes()
            .map(|(prefix, entry, origin)| RouteRow {
                prefix: Some(plane_prefix(prefix)),
                target: self.target(tables, entry),
                origin: origin.to_string(),
            })
            .collect();
        send(client, rows, |routes, last| ReadReply { last, routes, ..ReadReply::default() });
    }

    fn target(&self, tables: &Tables, entry: FibEntry) -> String {
        match entry {
            FibEntry::Endpoint(index) => match tables.endpoints.get(index) {
                Some(endpoint) => format!("endpoint {}", endpoint.id),
                None => "endpoint (gone)".into(),
            },
            FibEntry::Tunnel { tunnel, encapsulation } => match tables.tunnels.get(tunnel) {
                Some(tunnel) => {
                    let mut words = vec![encapsulation.to_string(), tunnel.node.to_string()];
                    words.extend(tunnel.node_addresses().map(|address| address.to_string()));
                    words.join(" ")
                }
                None => "tunnel (gone)".into(),
            },
            FibEntry::Via { ifindex, next_hop, .. } => {
                let device = self.links.iter().find(|link| link.index == ifindex);
                let device = device.map_or_else(|| format!("device {ifindex}"), |link| link.name.clone());
                match next_hop {
                    NextHop::Gateway { address, .. } => format!("via {address} {device}"),
                    NextHop::OnLink => format!("on link {device}"),
                }
            }
            FibEntry::LocalHost => "host".into(),
            FibEntry::Service => "service".into(),
            FibEntry::Blackhole => "blackhole".into(),
        }
    }

    /// Workers bring the counters up to date with their flows first, in steps; a thread of its own waits for them.
    fn send_policies(&self, client: Arc<Client>, tables: Arc<Tables>) {
        let rules: Vec<_> = self.builder.rules().map(|(rule, name)| (rule, policy_row(name))).collect();
        let workers = self.reach_workers();
        let read = move || {
            for (_, commands, doorbell) in workers {
                let mut next = Some(0);
                while let Some(first) = next {
                    // A worker that has gone has no more flows to account for.
                    next = settle_flows(&commands, &doorbell, first).flatten();
                }
            }
            let row = |deciding| {
                let counters = &tables.policy.counters;
                move |(rule, row): &(RuleId, PolicyRow)| {
                    let count = counters.read(*rule, deciding);
                    PolicyRow {
                        packets: count.packets,
                        bytes: count.bytes,
                        connections: count.connections,
                        staged: deciding == Deciding::Staged,
                        ..row.clone()
                    }
                }
            };
            let enforced = rules.iter().map(row(Deciding::Enforced));
            let staged = rules.iter().map(row(Deciding::Staged)).filter(|row| row.packets > 0);
            let rows = enforced.chain(staged).collect();
            send(&client, rows, |policies, last| ReadReply { last, policies, ..ReadReply::default() });
        };
        // Without a thread the reader gets no answer, and times out.
        let _ = std::thread::Builder::new().name("policy-read".into()).spawn(read);
    }

    /// How a thread other than this one talks to the workers.
    fn reach_workers(&self) -> Vec<(u16, Sender<Command>, Arc<Doorbell>)> {
        let workers = self.ports.workers().iter();
        workers
            .map(|worker| (worker.index.0, worker.commands.clone(), Arc::clone(&worker.doorbell)))
            .collect()
    }

    /// Flows are dumped by their workers, in steps, and written by a thread of its own: the controller does not wait.
    fn send_flows(&self, client: Arc<Client>, tables: Arc<Tables>) {
        let workers = self.reach_workers();
        let names = rule_names(&self.builder);
        let clock = self.identity.clock;
        let dump = move || {
            for (index, commands, doorbell) in workers {
                let mut next = Some(0);
                while let Some(first) = next {
                    let Some((flows, following)) = ask_for_flows(&commands, &doorbell, first) else { break };
                    next = following;
                    let now = clock.now();
                    let rows = flows.iter().map(|(entry, note)| {
                        let verdict = note.rule().map_or("host to own pod", |rule| {
                            names.get(rule.0 as usize).map_or("", |name| name.as_str())
                        });
                        flow_row(index, &tables, entry, note, verdict, now)
                    });
                    let reply = ReadReply { flows: rows.collect(), ..ReadReply::default() };
                    if !client.reply(reply) {
                        return;
                    }
                }
            }
            client.reply(ReadReply { last: true, ..ReadReply::default() });
        };
        // Without a thread the reader gets no answer, and times out.
        let _ = std::thread::Builder::new().name("flow-dump".into()).spawn(dump);
    }
}

/// What a rule is, with nothing counted.
fn policy_row(name: &RuleName) -> PolicyRow {
    let id = |kind: &str, namespace: &str, name: &str| PolicyId {
        kind: kind.into(),
        namespace: namespace.into(),
        name: name.into(),
    };
    let (tier, policy, direction, index) = match name {
        RuleName::Rule { tier, policy, direction, index, .. } => (
            Some(tier),
            Some(id(&policy.kind, &policy.namespace, &policy.name)),
            Some(direction),
            Some(*index),
        ),
        RuleName::TierDefault { tier, direction, .. } => (Some(tier), None, Some(direction), None),
        RuleName::Profile { name, direction, index, .. } => {
            (None, Some(id("Profile", "", name)), Some(direction), Some(*index))
        }
        RuleName::NoProfileMatch | RuleName::Failsafe | RuleName::NoForwardPolicy => (None, None, None, None),
    };
    PolicyRow {
        rule: name.to_string(),
        action: name.action().to_string(),
        tier: tier.map(ToString::to_string).unwrap_or_default(),
        policy,
        direction: direction.map(ToString::to_string).unwrap_or_default(),
        index,
        ..PolicyRow::default()
    }
}

/// How long a thread of this process has run. None before it does, and where the kernel keeps no account.
fn cpu_microseconds(thread: i32) -> Option<u64> {
    let account = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).ok()?;
    let nanoseconds: u64 = account.split(' ').next()?.parse().ok()?;
    Some(nanoseconds / 1000)
}

fn rule_names(builder: &TableBuilder) -> Vec<String> {
    let mut names = Vec::new();
    for (rule, name) in builder.rules() {
        let at = rule.0 as usize;
        if names.len() <= at {
            names.resize(at + 1, String::new());
        }
        names[at] = name.to_string();
    }
    names
}

fn ask_for_flows(
    commands: &Sender<Command>,
    doorbell: &Doorbell,
    first: usize,
) -> Option<crate::worker::thread::FlowPage> {
    let (reply, page) = sync_channel(1);
    let into = Vec::with_capacity(FLOWS_PER_STEP);
    commands.send(Command::Flows { first, buckets: BUCKETS_PER_STEP, into, reply }).ok()?;
    doorbell.ring();
    page.recv_timeout(WORKER_PATIENCE).ok()
}

/// Has a worker settle some of its flows; says with which bucket to go on. None: the worker has gone.
fn settle_flows(commands: &Sender<Command>, doorbell: &Doorbell, first: usize) -> Option<Option<usize>> {
    let (reply, next) = sync_channel(1);
    commands.send(Command::SettleFlows { first, buckets: BUCKETS_PER_STEP, reply }).ok()?;
    doorbell.ring();
    next.recv_timeout(WORKER_PATIENCE).ok()
}

/// How long the node has flows live.
fn timeouts(tables: &Tables) -> Timeouts {
    tables.node.config().map(|node| Timeouts::new(&node.flow_timeouts)).unwrap_or_default()
}

fn flow_row(
    worker: u16,
    tables: &Tables,
    entry: &FlowEntry,
    note: &FlowNote,
    verdict: &str,
    now: crate::clock::Tick,
) -> FlowRow {
    let ((local, local_port), (remote, remote_port)) = (entry.key.local(), entry.key.remote());
    let idle_ms = now.since(entry.last_seen);
    let lives_ms = timeouts(tables).of(entry.key.protocol(), entry.state);
    FlowRow {
        worker: u32::from(worker),
        endpoint: tables.endpoints.get(entry.key.endpoint()).map(|e| e.id.to_string()).unwrap_or_default(),
        protocol: u32::from(entry.key.protocol()),
        local: octets(local),
        local_port: u32::from(local_port),
        remote: octets(remote),
        remote_port: u32::from(remote_port),
        direction: if entry.flags.is_out() { "out".into() } else { "in".into() },
        state: entry.state.label().into(),
        verdict: if entry.flags.is_denied() { format!("denied by {verdict}") } else { verdict.into() },
        packets: u64::from(note.packets(entry)),
        bytes: note.bytes(entry),
        idle_ms: u64::from(idle_ms),
        expires_ms: u64::from(lives_ms.saturating_sub(idle_ms)),
    }
}

fn send<T>(client: &Client, mut rows: Vec<T>, reply: impl Fn(Vec<T>, bool) -> ReadReply) {
    loop {
        let rest = if rows.len() > ROWS_PER_MESSAGE { rows.split_off(ROWS_PER_MESSAGE) } else { Vec::new() };
        let last = rest.is_empty();
        if !client.reply(reply(std::mem::replace(&mut rows, rest), last)) || last {
            return;
        }
    }
}

fn plane_prefix(prefix: Prefix) -> PlanePrefix {
    PlanePrefix { address: octets(prefix.address()), length: u32::from(prefix.length()) }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
