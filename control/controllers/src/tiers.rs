//! Tiers: those that there always are are made, and one that is to go waits for its last policy.
//!
//! The finalizer holds a tier until no policy stands in it. `default`, `kube-admin` and `kube-baseline` stay: deleted, they
//! wait for ever. Finalizers only where Calico's kinds are kept natively; elsewhere Calico's API server refuses instead.

use std::collections::BTreeSet;

use caracal_datastore::ApiGroup;
use caracal_ipam::Record;
use caracal_model::calico::{Tier, TierSpec};
use caracal_model::convert::{tier_of, well_known_tiers};
use caracal_model::object::{Kind, ObjectKey};
use caracal_model::policy::Action as PolicyAction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::controller::Now;
use crate::settings::Settings;
use crate::{Action, Cluster, Controller, Plan};

/// Holds a tier until no policy stands in it.
const FINALIZER: &str = "projectcalico.org/tier-controller";
/// What stands in tiers.
const POLICIES: [Kind; 4] = [
    Kind::CalicoNetworkPolicy,
    Kind::GlobalNetworkPolicy,
    Kind::StagedNetworkPolicy,
    Kind::StagedGlobalNetworkPolicy,
];

/// The controller.
#[derive(Debug)]
pub struct Tiers {
    holds: bool,
}

impl Tiers {
    /// For a cluster that keeps Calico's kinds in a group.
    #[must_use]
    pub fn new(group: ApiGroup) -> Self {
        Self { holds: group == ApiGroup::V3 }
    }
}

impl Controller for Tiers {
    fn name(&self) -> &'static str {
        "tier"
    }

    fn kinds(&self) -> &'static [Kind] {
        &[
            Kind::Tier,
            Kind::CalicoNetworkPolicy,
            Kind::GlobalNetworkPolicy,
            Kind::StagedNetworkPolicy,
            Kind::StagedGlobalNetworkPolicy,
        ]
    }

    fn plan(&mut self, cluster: &Cluster, _: Vec<Record>, _: &Settings, _: Now) -> Plan {
        let mut plan = Plan::default();
        let used: BTreeSet<&str> =
            POLICIES.iter().flat_map(|kind| cluster.of(*kind)).filter_map(tier_of).collect();
        let always = well_known_tiers();
        for tier in &always {
            if cluster.get(Kind::Tier, None, &tier.name).is_none() {
                let action = if tier.default_action == PolicyAction::Pass { "Pass" } else { "Deny" };
                let spec = TierSpec { order: tier.order, default_action: Some(action.to_owned()) };
                let metadata = ObjectMeta { name: Some(tier.name.clone()), ..ObjectMeta::default() };
                plan.actions.push(Action::Create(Tier { metadata, spec, status: None }.into()));
            }
        }
        for object in cluster.of(Kind::Tier).filter(|_| self.holds) {
            let metadata = object.metadata();
            let name = metadata.name.as_deref().unwrap_or_default();
            let has = metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER);
            let stays = used.contains(name) || always.iter().any(|tier| tier.name == name);
            let add = match (metadata.deletion_timestamp.is_some(), has) {
                (false, false) => true,
                (true, true) if !stays => false,
                _ => continue,
            };
            let patch = crate::action::finalizers(metadata, FINALIZER, add);
            plan.actions.push(Action::Patch(ObjectKey::new(Kind::Tier, None, name), patch));
        }
        plan
    }
}
