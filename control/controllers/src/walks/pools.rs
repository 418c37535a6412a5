//! Pools and tiers come and go while nodes take blocks and people write policies.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use caracal_datastore::ApiGroup;
use caracal_ipam::affinity::{self, Claim};
use caracal_ipam::{Nanoseconds, Owner};
use caracal_model::cidr::Cidr;
use caracal_model::object::{Kind, Object, ObjectKey};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Walk, cases, object, run};
use crate::{Pools, Tiers};

/// The second lies within the first.
const CIDRS: [&str; 3] = ["10.0.0.0/28", "10.0.0.8/29", "10.1.0.0/29"];
const NAMES: [&str; 3] = ["wide", "within", "apart"];

#[derive(Debug, Clone)]
enum Step {
    Create(usize),
    Delete(usize),
    Disable(usize, bool),
    /// A node takes a block.
    Claim(usize, u32),
    Hear(usize, usize),
    Act(usize),
    Wait,
    Die,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pool = || 0..NAMES.len();
    let step = prop_oneof![
        3 => pool().prop_map(Step::Create),
        2 => pool().prop_map(Step::Delete),
        2 => (pool(), any::<bool>()).prop_map(|(pool, disable)| Step::Disable(pool, disable)),
        3 => (pool(), 0..2u32).prop_map(|(pool, block)| Step::Claim(pool, block)),
        6 => (0..3usize, 1..4usize).prop_map(|(kind, count)| Step::Hear(kind, count)),
        6 => (0..4usize).prop_map(Step::Act),
        2 => Just(Step::Wait),
        1 => Just(Step::Die),
    ];
    prop::collection::vec(step, 1..80)
}

fn key(kind: Kind, name: &str) -> ObjectKey {
    ObjectKey::new(kind, None, name)
}

fn pool(number: usize) -> Object {
    object(json!({
        "apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": NAMES[number]},
        "spec": {"cidr": CIDRS[number], "blockSize": 30},
    }))
}

fn condition(pool: &Object) -> Option<(String, String)> {
    let value = pool.to_value();
    let conditions = value.pointer("/status/conditions")?.as_array()?.clone();
    assert_eq!(conditions.len(), 1);
    let text = |field: &str| conditions[0][field].as_str().unwrap().to_owned();
    Some((text("status"), text("reason")))
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn pools_end_as_they_are_said_to_be_and_those_deleted_leave_no_claims(steps in steps()) {
        let mut walk = Walk::new(Pools::default, |_, _| {});
        // What people have last said of each: none, or whether it is disabled; in the order of their making.
        let mut wanted: BTreeMap<usize, bool> = BTreeMap::new();
        let mut deleted = Vec::new();
        // Blocks that nodes have taken, and those of them a pool of which was deleted after that.
        let (mut kept, mut deleted_since): (BTreeSet<Cidr>, BTreeSet<Cidr>) = Default::default();
        for step in steps {
            match step {
                Step::Create(number) => {
                    // One that is still going keeps its name.
                    if walk.api.create(pool(number)).is_ok() {
                        wanted.insert(number, false);
                        deleted.retain(|other| *other != number);
                    }
                }
                Step::Delete(number) => {
                    if walk.api.delete(&key(Kind::IPPool, NAMES[number])).is_ok() {
                        deleted.push(number);
                        let cidr: Cidr = CIDRS[number].parse().unwrap();
                        deleted_since.extend(kept.iter().filter(|block| cidr.covers(block)));
                        wanted.remove(&number);
                    }
                }
                Step::Disable(number, disable) => {
                    let is_going = walk.api.get(&key(Kind::IPPool, NAMES[number])).is_some_and(|pool| pool.metadata().deletion_timestamp.is_some());
                    let patched = walk.api.patch(&key(Kind::IPPool, NAMES[number]), &json!({"spec": {"disabled": disable}}));
                    if patched.is_ok() && !is_going {
                        wanted.insert(number, disable);
                    }
                }
                Step::Claim(number, block) => {
                    let pool = walk.api.get(&key(Kind::IPPool, NAMES[number]));
                    let gives = pool.is_some_and(|pool| caracal_datastore::ipam_pool(&pool).is_some_and(|pool| !pool.disabled));
                    if gives {
                        let cidr: Cidr = CIDRS[number].parse().unwrap();
                        let block = Cidr::new(cidr.nth(block * 4).unwrap(), 30).unwrap();
                        let claimed = run(affinity::claim(&walk.api, &Owner::Host("n1".into()), block, false, Nanoseconds(1)));
                        prop_assert_eq!(claimed, Ok(Claim::Ours));
                        kept.insert(block);
                        deleted_since.remove(&block);
                    }
                }
                Step::Hear(kind, count) => walk.hear([Kind::IPPool, Kind::IPAMBlock, Kind::BlockAffinity][kind], count),
                Step::Act(survives) => drop(walk.act(survives)),
                Step::Wait => walk.pass(Duration::from_millis(600)),
                Step::Die => walk.die(),
            }
            walk.pass(Duration::from_millis(50));
        }
        walk.rest();
        let pools = walk.api.all(Kind::IPPool);
        prop_assert_eq!(pools.len(), wanted.len());
        let age = |pool: &Object| pool.metadata().creation_timestamp.as_ref().map(|time| time.0);
        for pool in &pools {
            let number = NAMES.iter().position(|name| pool.metadata().name.as_deref() == Some(*name)).unwrap();
            let older_overlaps = pools.iter().any(|other| {
                let names = [&other.metadata().name, &pool.metadata().name].map(|name| name.clone().unwrap());
                age(other) < age(pool) && !names.contains(&"apart".to_owned())
            });
            let expected = match (wanted[&number], older_overlaps) {
                (true, _) => ("False", "PoolDisabled"),
                (false, true) => ("False", "CIDROverlap"),
                (false, false) => ("True", "OK"),
            };
            prop_assert_eq!(condition(pool), Some((expected.0.to_owned(), expected.1.to_owned())), "{}", NAMES[number]);
            prop_assert!(pool.metadata().finalizers.is_some());
        }
        // What nodes have taken of pools that stay, they keep.
        for block in &kept {
            let stays = wanted.keys().any(|number| CIDRS[*number].parse::<Cidr>().unwrap().covers(block));
            let has = walk.api.blocks_now().iter().any(|known| known.cidr() == *block && known.owner.is_some());
            prop_assert!(has || !stays || deleted_since.contains(block), "{block} was given up");
        }
        for block in walk.api.blocks_now() {
            let of_a_pool = wanted.keys().any(|number| CIDRS[*number].parse::<Cidr>().unwrap().covers(&block.cidr()));
            // One that was deleted before anybody held it, or whose address space another pool still has.
            prop_assert!(of_a_pool || !deleted.is_empty(), "{} is of no pool", block.cidr());
        }
    }
}

#[test]
fn a_pool_that_goes_gives_up_its_claims_and_not_those_of_others() {
    let mut walk = Walk::new(Pools::default, |_, _| {});
    for number in [0, 2] {
        walk.api.create(pool(number)).unwrap();
    }
    walk.rest();
    for block in ["10.0.0.0/30", "10.1.0.0/30"] {
        let owner = Owner::Host("n1".into());
        run(affinity::claim(&walk.api, &owner, block.parse().unwrap(), false, Nanoseconds(1))).unwrap();
    }
    walk.api.delete(&key(Kind::IPPool, "wide")).unwrap();
    walk.rest();
    let left: Vec<String> = walk.api.blocks_now().iter().map(|block| block.cidr().to_string()).collect();
    assert_eq!((walk.api.all(Kind::IPPool).len(), left), (1, vec!["10.1.0.0/30".to_owned()]));
}

fn policy(kind: &str, tier: Value) -> Object {
    let namespace = if kind == "NetworkPolicy" { json!("shop") } else { Value::Null };
    object(json!({
        "apiVersion": "projectcalico.org/v3", "kind": kind,
        "metadata": {"name": "p", "namespace": namespace}, "spec": {"tier": tier},
    }))
}

#[test]
fn a_tier_that_is_deleted_waits_for_its_last_policy_and_the_well_known_ones_stay() {
    let mut walk = Walk::new(|| Tiers::new(ApiGroup::V3), |_, _| {});
    walk.rest();
    let names = |walk: &Walk<Tiers>| -> Vec<String> {
        walk.api.all(Kind::Tier).iter().map(|tier| tier.metadata().name.clone().unwrap()).collect()
    };
    assert_eq!(names(&walk), ["default", "kube-admin", "kube-baseline"]);
    let tier = json!({"apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": {"name": "security"}, "spec": {"order": 1}});
    walk.api.create(object(tier)).unwrap();
    for kind in ["NetworkPolicy", "StagedGlobalNetworkPolicy"] {
        walk.api.create(policy(kind, "security".into())).unwrap();
    }
    walk.rest();
    for name in ["security", "default"] {
        walk.api.delete(&key(Kind::Tier, name)).unwrap();
    }
    walk.rest();
    assert_eq!(names(&walk).len(), 4);
    walk.api.delete(&ObjectKey::new(Kind::CalicoNetworkPolicy, Some("shop"), "p")).unwrap();
    walk.rest();
    assert_eq!(names(&walk).len(), 4);
    walk.api.delete(&key(Kind::StagedGlobalNetworkPolicy, "p")).unwrap();
    walk.rest();
    assert_eq!(names(&walk), ["default", "kube-admin", "kube-baseline"]);
}

#[test]
fn where_calicos_api_server_sees_to_tiers_none_is_held() {
    let mut walk = Walk::new(|| Tiers::new(ApiGroup::Crd), |_, _| {});
    walk.rest();
    assert!(walk.api.all(Kind::Tier).iter().all(|tier| tier.metadata().finalizers.is_none()));
}
