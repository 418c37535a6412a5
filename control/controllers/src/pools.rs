//! Pools: whether they give addresses, and how they go.
//!
//! ```text
//!   deleted ──► disabled ──► a while, for those who have begun to take of it ──► its blocks are nobody's ──► away
//! ```
//!
//! The finalizer holds a pool until that is done. Addresses in use are not taken: their blocks stay until the last is given
//! back. Of pools that overlap the oldest gives addresses; the condition `Allocatable` says so of each.
//!
//! Only where Calico's kinds are kept natively. Where an API server of Calico's stands before them, that one sees to both.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use caracal_ipam::{Owner, Record};
use caracal_model::calico::IPPool;
use caracal_model::cidr::Cidr;
use caracal_model::object::{Kind, ObjectKey};
use serde_json::{Value, json};

use crate::controller::Now;
use crate::settings::Settings;
use crate::{Action, Cluster, Controller, Plan};

/// Holds a pool until its blocks are nobody's.
const FINALIZER: &str = "projectcalico.org/ippool-controller";
/// How long those have who have begun to take an address when a pool is disabled.
const WAIT: Duration = Duration::from_millis(500);
/// The condition that says whether a pool gives addresses.
const ALLOCATABLE: &str = "Allocatable";

/// The controller.
#[derive(Debug, Default)]
pub struct Pools {
    /// Since when pools that are to go have been seen disabled, by UID.
    disabled: BTreeMap<String, Instant>,
}

impl Controller for Pools {
    fn name(&self) -> &'static str {
        "ippool"
    }

    fn kinds(&self) -> &'static [Kind] {
        &[Kind::IPPool, Kind::IPAMBlock, Kind::BlockAffinity]
    }

    fn plan(&mut self, cluster: &Cluster, _: Vec<Record>, _: &Settings, now: Now) -> Plan {
        let mut plan = Plan::default();
        let mut oldest: Vec<&IPPool> = cluster.pools().collect();
        oldest.sort_by(|a, b| by_age(a, b));
        let mut taken: Vec<Cidr> = Vec::new();
        let mut going = BTreeMap::new();
        for pool in oldest {
            let cidr: Option<Cidr> = pool.spec.cidr.parse().ok();
            let overlaps =
                cidr.is_some_and(|cidr| taken.iter().any(|other| other.covers(&cidr) || cidr.covers(other)));
            taken.extend(cidr);
            let has = pool.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER);
            let since = self.disabled_since(pool, now);
            let mut write = None;
            match (pool.metadata.deletion_timestamp.is_some(), has) {
                (false, false) => write = Some(finalizers(pool, true)),
                (true, true) => {
                    write = let_go(cluster, pool, cidr, since, now, &mut plan);
                    going.extend(since.map(|since| (uid(pool), since)));
                }
                _ => {}
            }
            // One write of a pool at a time: the next would find another version. What holds it comes first.
            let says = || condition(pool, reason(pool, overlaps), now);
            plan.actions.extend(write.or_else(|| Some(Action::PatchStatus(key(pool), says()?))));
        }
        self.disabled = going;
        plan
    }
}

impl Pools {
    /// Since when a pool has been seen disabled, if it is.
    fn disabled_since(&self, pool: &IPPool, now: Now) -> Option<Instant> {
        let is_disabled = pool.spec.disabled == Some(true);
        is_disabled.then(|| self.disabled.get(&uid(pool)).copied().unwrap_or(now.instant))
    }
}

/// The next step of a pool that is to go; returned, if it is a write of the pool.
fn let_go(
    cluster: &Cluster,
    pool: &IPPool,
    cidr: Option<Cidr>,
    since: Option<Instant>,
    now: Now,
    plan: &mut Plan,
) -> Option<Action> {
    let Some(since) = since else {
        let (version, uid) = (&pool.metadata.resource_version, &pool.metadata.uid);
        let patch = json!({"metadata": {"resourceVersion": version, "uid": uid}, "spec": {"disabled": true}});
        return Some(Action::Patch(key(pool), patch));
    };
    let left = WAIT.saturating_sub(now.instant.saturating_duration_since(since));
    if !left.is_zero() {
        plan.again = Some(plan.again.map_or(left, |again| again.min(left)));
        return None;
    }
    let claims = cidr.map(|cidr| claims(cluster, pool, cidr)).unwrap_or_default();
    if claims.is_empty() {
        return Some(finalizers(pool, false));
    }
    plan.actions.extend(claims.into_iter().map(|(owner, block)| Action::ReleaseBlock {
        owner,
        block,
        pool: (key(pool).name, pool.metadata.uid.clone()),
    }));
    None
}

/// Older ones first; of the same second, by name.
fn by_age(a: &IPPool, b: &IPPool) -> Ordering {
    let of = |pool: &IPPool| {
        (pool.metadata.creation_timestamp.as_ref().map(|time| time.0), pool.metadata.name.clone())
    };
    of(a).cmp(&of(b))
}

fn key(pool: &IPPool) -> ObjectKey {
    ObjectKey::new(Kind::IPPool, None, pool.metadata.name.as_deref().unwrap_or_default())
}

fn uid(pool: &IPPool) -> String {
    pool.metadata.uid.clone().unwrap_or_default()
}

/// Who has blocks of a pool, as affinities or blocks say it; not those that are another's, too, which stays.
fn claims(cluster: &Cluster, pool: &IPPool, cidr: Cidr) -> Vec<(Owner, Cidr)> {
    let others = cluster.pools().filter(|other| {
        other.metadata.name != pool.metadata.name && other.metadata.deletion_timestamp.is_none()
    });
    let others: Vec<Cidr> = others.filter_map(|other| other.spec.cidr.parse().ok()).collect();
    let affinities = cluster.affinities().filter_map(|affinity| {
        let node = affinity.spec.node.clone();
        let owner = match affinity.spec.kind.as_deref() {
            Some("virtual") => Owner::Virtual(node),
            _ => Owner::Host(node),
        };
        Some((owner, affinity.spec.cidr.parse().ok()?))
    });
    let blocks = cluster.blocks().filter_map(|block| Some((block.owner.clone()?, block.cidr())));
    let mut all: Vec<(Owner, Cidr)> =
        affinities.chain(blocks).filter(|(_, block)| cidr.covers(block)).collect();
    all.retain(|(_, block)| !others.iter().any(|other| other.covers(block)));
    all.sort();
    all.dedup();
    all
}

/// Why a pool gives addresses, or none.
fn reason(pool: &IPPool, overlaps: bool) -> &'static str {
    if pool.metadata.deletion_timestamp.is_some() {
        "Terminating"
    } else if pool.spec.disabled == Some(true) {
        "PoolDisabled"
    } else if overlaps {
        "CIDROverlap"
    } else {
        "OK"
    }
}

/// What changes in the status so that it says so. Other conditions stay.
fn condition(pool: &IPPool, reason: &str, now: Now) -> Option<Value> {
    let (status, message) = match reason {
        "OK" => ("True", "it gives addresses"),
        "Terminating" => ("False", "it is being deleted"),
        "PoolDisabled" => ("False", "it is disabled"),
        _ => ("False", "it overlaps an older pool"),
    };
    let conditions = pool.status.as_ref().and_then(|status| status.get("conditions")?.as_array());
    let mut conditions = conditions.cloned().unwrap_or_default();
    let known = conditions.iter().position(|condition| condition["type"] == ALLOCATABLE);
    let former = known.map(|at| conditions.remove(at));
    let says = |field: &str| former.as_ref().and_then(|former| former.get(field)?.as_str());
    if says("status") == Some(status) && says("reason") == Some(reason) {
        return None;
    }
    let since = match says("lastTransitionTime").filter(|_| says("status") == Some(status)) {
        Some(since) => since.to_owned(),
        None => crate::action::timestamp(now.time),
    };
    let mut new = json!({
        "type": ALLOCATABLE, "status": status, "reason": reason, "message": message, "lastTransitionTime": since,
    });
    if let Some(generation) = pool.metadata.generation {
        new["observedGeneration"] = generation.into();
    }
    conditions.push(new);
    let version = &pool.metadata.resource_version;
    Some(json!({"metadata": {"resourceVersion": version}, "status": {"conditions": conditions}}))
}

/// Adds our finalizer, or takes it away; others' stay.
fn finalizers(pool: &IPPool, add: bool) -> Action {
    let patch = crate::action::finalizers(&pool.metadata, FINALIZER, add);
    Action::Patch(key(pool), patch)
}
