//! What the fastpaths' counters say about one flow: read before and after, the difference is what happened to it.
//!
//! A flow that was carried moved the pipeline's counters; one that was denied moved a policy rule that denies, a default of a tier or of the
//! profiles, or the counter of a drop reason that is a decision. What is only an accident (a full ring, a wrong checksum) decides nothing,
//! nor does what a staged policy would have done.

use std::collections::{BTreeMap, BTreeSet};

use caracal_plane_api::{Counter, DropRow, PolicyRow, Reader, What};

use crate::{error::LabError, state::State};

/// Drop reasons that are a decision about a flow. Every other one is an accident, or a fault of somebody's.
const DECISIONS: [&str; 21] = [
    POLICY_DENY,
    "address-invalid",
    "bandwidth-limit",
    "blackhole",
    "connection-limit",
    "endpoint-to-host",
    "fabric-spoofed-source",
    "fragment-overlap",
    "no-route",
    "not-forwarded-back",
    "packet-rate-limit",
    "pod-sent-tunnel",
    "service-backend-gone",
    "service-no-backend",
    "service-no-local-backend",
    "service-no-port",
    "service-source-range",
    "spoofed-source",
    "tunnel-not-for-pods",
    "tunnel-spoofed-inner",
    "tunnel-unknown-source",
];
/// Those of them that the sender is told of, by a reset or by ICMP: he takes it for the word of whom he asked.
const REFUSALS: [&str; 3] = ["connection-limit", "service-no-backend", "service-no-port"];
/// The reason that says no more than that a rule said more.
const POLICY_DENY: &str = "policy-deny";
/// Counters that move when packets of flows do, and only then.
const CARRIED: [&str; 10] = [
    "flow_hits",
    "flow_revalidated",
    "flow_rejudged",
    "flow_created",
    "host_to_pod",
    "delivered_local",
    "tunnel_encapsulated",
    "tunnel_decapsulated",
    "to_uplink_plain",
    "translations_made",
];

/// The counters of some nodes at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    /// Packets by drop reason, all workers and nodes together.
    drops: BTreeMap<String, u64>,
    /// What decided and how: first packets of what it allowed, and all packets of what it denied.
    rules: BTreeMap<(String, String), u64>,
    /// Packets carried.
    carried: u64,
}

/// What moved between two snapshots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Evidence {
    /// What denied, in words.
    pub(crate) denied: Vec<String>,
    /// Whether the sender was told so, in the name of whom he asked.
    pub(crate) refused: bool,
    /// What allowed, in words.
    pub(crate) allowed: Vec<String>,
    /// Accidents.
    pub(crate) accidents: Vec<String>,
    /// Whether packets were carried.
    pub(crate) carried: bool,
}

impl Snapshot {
    fn add(&mut self, drops: Vec<DropRow>, rules: Vec<PolicyRow>, counters: &[Counter]) {
        for row in drops {
            *self.drops.entry(row.reason).or_default() += row.packets;
        }
        for row in rules.into_iter().filter(|row| !row.staged) {
            // Later packets of an earlier flow say nothing of the one that has just started.
            let moved = if denies(&row.action) { row.packets } else { row.connections };
            *self.rules.entry((row.rule, row.action)).or_default() += moved;
        }
        let carried = counters.iter().filter(|counter| {
            CARRIED
                .iter()
                .any(|name| counter.name == *name || counter.name.strip_prefix("caracal_") == Some(name))
        });
        self.carried += carried.map(|counter| counter.value).sum::<u64>();
    }

    /// What moved since `self`.
    pub(crate) fn until(&self, after: &Self) -> Evidence {
        let mut evidence = Evidence { carried: after.carried > self.carried, ..Evidence::default() };
        for ((rule, action), packets) in &after.rules {
            if *packets > self.rules.get(&(rule.clone(), action.clone())).copied().unwrap_or(0) {
                let list = if denies(action) { &mut evidence.denied } else { &mut evidence.allowed };
                list.push(rule.clone());
            }
        }
        let named = !evidence.denied.is_empty();
        for (reason, packets) in &after.drops {
            if *packets <= self.drops.get(reason).copied().unwrap_or(0) {
                continue;
            }
            evidence.refused |= REFUSALS.contains(&reason.as_str());
            if !DECISIONS.contains(&reason.as_str()) {
                evidence.accidents.push(format!("dropped: {reason}"));
            } else if !(named && reason == POLICY_DENY) {
                evidence.denied.push(format!("dropped: {reason}"));
            }
        }
        evidence
    }
}

fn denies(action: &str) -> bool {
    action.eq_ignore_ascii_case("deny")
}

/// Readers of every fastpath of a lab.
#[derive(Debug)]
pub(crate) struct Watchers {
    /// By the node's index; `None` where Linux does the routing.
    nodes: Vec<Option<(String, Reader)>>,
}

impl Watchers {
    pub(crate) fn connect(state: &State) -> Result<Self, LabError> {
        let connect = |node: &crate::state::NodeState| {
            let Some(socket) = &node.socket else { return Ok(None) };
            let reader = Reader::connect(socket)
                .map_err(|source| LabError::Plane { node: node.name.clone(), source })?;
            Ok(Some((node.name.clone(), reader)))
        };
        Ok(Self { nodes: state.nodes.iter().map(connect).collect::<Result<_, LabError>>()? })
    }

    /// The counters of the nodes at these indices.
    pub(crate) fn snapshot(&mut self, nodes: &BTreeSet<usize>) -> Result<Snapshot, LabError> {
        let mut snapshot = Snapshot::default();
        for &index in nodes {
            let Some(Some((node, reader))) = self.nodes.get_mut(index) else { continue };
            let mut read =
                |what| reader.read(what).map_err(|source| LabError::Plane { node: node.clone(), source });
            let drops = read(What::Drops)?.drops;
            let rules = read(What::Policy)?.policies;
            let counters = read(What::Counters)?.counters;
            snapshot.add(drops, rules, &counters);
        }
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(drops: &[(&str, u64)], rules: &[(&str, &str, u64)], carried: u64) -> Snapshot {
        let drops = drops.iter().map(|(reason, packets)| DropRow {
            reason: (*reason).into(),
            packets: *packets,
            ..DropRow::default()
        });
        let rules = rules.iter().map(|(rule, action, packets)| PolicyRow {
            rule: (*rule).into(),
            action: (*action).into(),
            packets: *packets,
            connections: *packets,
            ..PolicyRow::default()
        });
        let counters = [
            Counter { name: "flow_hits".into(), value: carried, ..Counter::default() },
            Counter { name: "waits".into(), value: carried * 7 + 1, ..Counter::default() },
        ];
        let mut snapshot = Snapshot::default();
        snapshot.add(drops.collect(), rules.collect(), &counters);
        snapshot
    }

    #[test]
    fn a_rule_that_moved_says_more_than_the_reason_that_moved_with_it() {
        let before = snapshot(&[("policy-deny", 3)], &[("tier default · ingress default", "deny", 3)], 5);
        let after = snapshot(&[("policy-deny", 4)], &[("tier default · ingress default", "deny", 4)], 5);
        let evidence = before.until(&after);
        assert_eq!(evidence.denied, ["tier default · ingress default"]);
        assert!(!evidence.carried && evidence.allowed.is_empty());
    }

    #[test]
    fn only_what_is_enforced_and_new_flows_are_evidence() {
        let row = |action: &str, staged: bool, packets: u64, connections: u64| PolicyRow {
            rule: "tier security · GlobalNetworkPolicy block · ingress rule 0".into(),
            action: action.into(),
            packets,
            connections,
            staged,
            ..PolicyRow::default()
        };
        let mut after = Snapshot::default();
        after.add(Vec::new(), vec![row("deny", true, 1, 1), row("allow", false, 9, 0)], &[]);
        assert_eq!(Snapshot::default().until(&after), Evidence::default());
        after.add(Vec::new(), vec![row("deny", false, 1, 0)], &[]);
        let denied = Snapshot::default().until(&after).denied;
        assert_eq!(denied, ["tier security · GlobalNetworkPolicy block · ingress rule 0"]);
    }

    #[test]
    fn a_drop_reason_decides_unless_it_is_an_accident() {
        let before = snapshot(&[("spoofed-source", 0), ("transmit-ring-full", 0)], &[], 0);
        assert_eq!(
            before.until(&snapshot(&[("spoofed-source", 1)], &[], 0)).denied,
            ["dropped: spoofed-source"]
        );
        let accident = before.until(&snapshot(&[("transmit-ring-full", 1)], &[], 0));
        assert!(accident.denied.is_empty());
        assert_eq!(accident.accidents, ["dropped: transmit-ring-full"]);
    }

    #[test]
    fn what_the_sender_was_told_of_counts_as_refused_by_us() {
        let before = snapshot(&[], &[], 0);
        assert!(!before.until(&snapshot(&[("spoofed-source", 1)], &[], 0)).refused);
        let evidence = before.until(&snapshot(&[("service-no-backend", 1)], &[], 0));
        assert!(evidence.refused);
        assert_eq!(evidence.denied, ["dropped: service-no-backend"]);
    }

    #[test]
    fn only_counters_of_carried_packets_count_as_carried() {
        let still = snapshot(&[], &[], 1);
        assert!(!still.until(&still.clone()).carried);
        assert!(still.until(&snapshot(&[], &[], 2)).carried);
        let mut idle = still.clone();
        idle.add(
            Vec::new(),
            Vec::new(),
            &[Counter { name: "waits".into(), value: 99, ..Counter::default() }],
        );
        assert!(!still.until(&idle).carried, "a worker that waits has carried nothing");
    }
}
