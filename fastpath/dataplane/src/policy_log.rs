//! What policy has said about flows, for people: Log rules that a flow has passed, and denials.
//!
//! ```text
//!   worker: first packet of a flow ─► Recorder ─► ring ─► PolicyLog on the controller thread ─► lines
//!                                       full: counted       a token bucket a kind: the rest is counted
//! ```
//!
//! Workers only put fixed-size records into a ring of their own; names are looked up and lines written elsewhere.
//! Invariant: nothing is recorded but when a flow is judged, and nothing that is lost goes unsaid.

use std::fmt;
use std::net::IpAddr;

use rtrb::{Consumer, Producer, RingBuffer};
use tracing::info;

use crate::clock::Tick;
use crate::counters::WorkerCounters;
use crate::rate_limit::RateLimit;
use crate::table::policy::{LogListId, RuleOwner};
use crate::table::{EndpointIndex, FlowDirection, FlowTuple, Judgement, RuleId, RuleName, Tables};

/// Judgements that wait to be written, a worker, at most.
const RECORDS_MAX: usize = 1024;
/// Lines of one kind in a second, on average …
const LINES_PER_SECOND: u64 = 50;
/// … and at once, at most.
const LINES_BURST: u64 = 200;

/// One judgement of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    endpoint: EndpointIndex,
    flow: FlowTuple,
    judgement: Judgement,
}

/// The worker's end.
#[derive(Debug, Default)]
pub struct Recorder(Option<Producer<Record>>);

/// Both ends of a worker's records.
#[must_use]
pub fn records() -> (Recorder, Consumer<Record>) {
    let (producer, consumer) = RingBuffer::new(RECORDS_MAX);
    (Recorder(Some(producer)), consumer)
}

impl Recorder {
    /// Notes a judgement that somebody may want to read about: a denial, or one on whose way Log rules stand.
    #[inline]
    pub fn judged(
        &mut self,
        endpoint: EndpointIndex,
        flow: &FlowTuple,
        judgement: Judgement,
        counters: &WorkerCounters,
    ) {
        if judgement.allow && judgement.logs == LogListId::default() {
            return;
        }
        let Some(ring) = &mut self.0 else { return };
        if ring.push(Record { endpoint, flow: *flow, judgement }).is_err() {
            counters.pipeline.policy_log_lost.add(1);
        }
    }
}

/// What a line is about. Each kind has its own limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A Log rule that a flow has passed.
    Log,
    /// A flow that policy denies.
    Denied,
}

/// What is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What it is about.
    pub kind: Kind,
    /// Of Log rules: the node's prefix, with what it stands for filled in.
    pub prefix: String,
    /// Whether the flow may be.
    pub allow: bool,
    /// The Log rule that was passed, or what denied.
    pub rule: RuleName,
    /// The endpoint whose policy judged.
    pub endpoint: String,
    /// The flow, as the endpoint saw its first packet.
    pub flow: FlowTuple,
    /// Lines of this kind that were not written since the last that was.
    pub suppressed: u64,
}

/// The end that writes.
pub struct PolicyLog {
    rings: Vec<Consumer<Record>>,
    logs: Limit,
    denials: Limit,
}

struct Limit {
    lines: RateLimit,
    suppressed: u64,
}

impl PolicyLog {
    /// The end of these workers' records.
    #[must_use]
    pub fn new(rings: Vec<Consumer<Record>>) -> Self {
        let limit = || Limit { lines: RateLimit::new(LINES_PER_SECOND, LINES_BURST), suppressed: 0 };
        PolicyLog { rings, logs: limit(), denials: limit() }
    }

    /// Writes what has come since the last time. `name` says what a rule is.
    pub fn drain<'n>(
        &mut self,
        tables: &Tables,
        now: Tick,
        name: impl Fn(RuleId) -> Option<&'n RuleName>,
        mut write: impl FnMut(Line),
    ) {
        let prefix = tables.node.config().map_or("", |node| &*node.log_prefix);
        let (logs, denials) = (&mut self.logs, &mut self.denials);
        for record in self.rings.iter_mut().flat_map(|ring| std::iter::from_fn(|| ring.pop().ok())) {
            let Record { endpoint, flow, judgement } = record;
            let mut line = |kind, rule: RuleId| {
                let limit = match kind {
                    Kind::Log => &mut *logs,
                    Kind::Denied => &mut *denials,
                };
                let Some(rule) = name(rule) else { return };
                if !limit.lines.allow(now) {
                    limit.suppressed += 1;
                    return;
                }
                write(Line {
                    kind,
                    prefix: if kind == Kind::Log { filled_in(prefix, rule) } else { String::new() },
                    allow: judgement.allow,
                    rule: rule.clone(),
                    endpoint: tables.endpoints.get(endpoint).map(|e| e.id.to_string()).unwrap_or_default(),
                    flow,
                    suppressed: std::mem::take(&mut limit.suppressed),
                });
            };
            for rule in tables.policy.log_rules(judgement.logs) {
                line(Kind::Log, *rule);
            }
            if !judgement.allow {
                line(Kind::Denied, judgement.rule);
            }
        }
    }
}

/// The prefix with `%t` (tier), `%k` (kind), `%n` (name) and `%p` (namespace and name) of the rule's policy.
fn filled_in(prefix: &str, rule: &RuleName) -> String {
    let Place { tier, kind, namespace, name, .. } = Place::of(rule);
    let whole = if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") };
    let mut filled = String::with_capacity(prefix.len());
    let mut rest = prefix;
    while let Some((before, after)) = rest.split_once('%') {
        filled.push_str(before);
        let (stands_for, skipped) = match after.chars().next() {
            Some('t') => (tier, 1),
            Some('k') => (kind, 1),
            Some('n') => (name, 1),
            Some('p') => (whole.as_str(), 1),
            _ => ("%", 0),
        };
        filled.push_str(stands_for);
        rest = after.get(skipped..).unwrap_or_default();
    }
    filled.push_str(rest);
    filled
}

/// Where a rule stands.
struct Place<'a> {
    tier: &'a str,
    kind: &'a str,
    namespace: &'a str,
    name: &'a str,
    rule: String,
}

impl<'a> Place<'a> {
    fn of(rule: &'a RuleName) -> Self {
        match rule {
            RuleName::Rule { tier, policy: RuleOwner { kind, namespace, name }, index, .. } => {
                Place { tier, kind, namespace, name, rule: index.to_string() }
            }
            RuleName::Profile { name, index, .. } => {
                Place { tier: "", kind: "Profile", namespace: "", name, rule: index.to_string() }
            }
            RuleName::TierDefault { tier, .. } => {
                Place { tier, kind: "", namespace: "", name: "", rule: rule.to_string() }
            }
            _ => Place { tier: "", kind: "", namespace: "", name: "", rule: rule.to_string() },
        }
    }
}

impl Line {
    /// Writes the line to this process's log.
    pub fn write(&self) {
        let Place { tier, kind, namespace, name, rule } = Place::of(&self.rule);
        let (source, destination) = self.ends();
        let icmp = self.flow.icmp.map(|(kind, code)| format!("{kind}/{code}"));
        info!(
            target: "policy",
            verdict = if self.allow { "allow" } else { "deny" },
            tier, kind, namespace, name, rule,
            endpoint = self.endpoint,
            direction = %self.flow.direction,
            protocol = self.flow.protocol,
            source = %source, destination = %destination, icmp,
            suppressed = self.suppressed,
            "{}", if self.kind == Kind::Log { self.prefix.as_str() } else { "denied" },
        );
    }

    fn ends(&self) -> (End, End) {
        let (local, peer) = (
            End(self.flow.local_address, self.flow.local_port),
            End(self.flow.peer_address, self.flow.peer_port),
        );
        match self.flow.direction {
            FlowDirection::Ingress => (peer, local),
            FlowDirection::Egress => (local, peer),
        }
    }
}

/// An address, and a port where there is one.
struct End(IpAddr, u16);

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            End(address, 0) => address.fmt(f),
            End(address, port) => std::net::SocketAddr::new(address, port).fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::RuleAction;

    #[test]
    fn a_prefix_says_where_the_rule_stands() {
        let policy = |namespace: &str| RuleName::Rule {
            tier: "security".into(),
            policy: RuleOwner {
                kind: "NetworkPolicy".into(),
                namespace: namespace.into(),
                name: "watch".into(),
            },
            direction: FlowDirection::Ingress,
            index: 2,
            action: RuleAction::Log,
        };
        for (prefix, expected) in [
            ("calico-packet", "calico-packet"),
            ("%t: %k %n (%p)", "security: NetworkPolicy watch (shop/watch)"),
            ("100%, %%p %x%", "100%, %shop/watch %x%"),
            ("", ""),
        ] {
            assert_eq!(filled_in(prefix, &policy("shop")), expected);
        }
        assert_eq!(filled_in("%p", &policy("")), "watch");
        assert_eq!(filled_in("[%t%k]", &RuleName::NoProfileMatch), "[]");
    }
}
