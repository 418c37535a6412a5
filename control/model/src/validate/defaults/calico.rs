//! What Calico's API fills in when an object is created.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::format::dns_label;
use super::super::ip_pool::default_block_size;
use crate::calico::{
    BGPConfigurationSpec, BlockAffinitySpec, IPAMBlockSpec, IPAMConfigurationSpec, IPPoolSpec,
    KubeControllersConfigurationSpec, Rule, TierSpec,
};
use crate::cidr::parse_address_and_length;
use crate::object::Object;
use crate::policy::DEFAULT_TIER;

/// The label that says a policy's tier again, so that it can be selected by.
const TIER_LABEL: &str = "projectcalico.org/tier";

/// Fills in what is missing.
pub(super) fn set(object: &mut Object) {
    match object {
        Object::CalicoNetworkPolicy(policy) => {
            let spec = &mut policy.spec;
            set_tier(&mut spec.tier, &mut policy.metadata);
            set_types(&mut spec.types, &spec.ingress, &spec.egress);
        }
        Object::GlobalNetworkPolicy(policy) => {
            let spec = &mut policy.spec;
            set_tier(&mut spec.tier, &mut policy.metadata);
            set_types(&mut spec.types, &spec.ingress, &spec.egress);
        }
        Object::StagedNetworkPolicy(policy) => {
            let spec = &mut policy.spec;
            set_tier(&mut spec.tier, &mut policy.metadata);
            if set_staged_action(&mut spec.staged_action) {
                set_types(&mut spec.types, &spec.ingress, &spec.egress);
            }
        }
        Object::StagedGlobalNetworkPolicy(policy) => {
            let spec = &mut policy.spec;
            set_tier(&mut spec.tier, &mut policy.metadata);
            if set_staged_action(&mut spec.staged_action) {
                set_types(&mut spec.types, &spec.ingress, &spec.egress);
            }
        }
        Object::StagedKubernetesNetworkPolicy(policy) => {
            let spec = &mut policy.spec;
            if set_staged_action(&mut spec.staged_action) {
                super::set_policy_types(&mut spec.policy_types, spec.egress.as_deref());
                super::set_policy_ports(spec.ingress.as_deref_mut(), spec.egress.as_deref_mut());
            }
        }
        Object::Tier(tier) => set_tier_spec(&mut tier.spec),
        Object::IPPool(pool) => set_pool(&mut pool.spec),
        Object::IPAMBlock(block) => set_block(&mut block.spec),
        Object::BlockAffinity(affinity) => set_block_affinity(&mut affinity.spec),
        Object::IPAMConfiguration(configuration) => set_ipam(&mut configuration.spec),
        Object::BGPConfiguration(configuration) => set_bgp(&mut configuration.spec),
        Object::KubeControllersConfiguration(configuration) => set_controllers(&mut configuration.spec),
        _ => {}
    }
}

/// Fills a text that is missing or empty.
fn text(field: &mut Option<String>, default: &str) {
    if field.as_deref().is_none_or(str::is_empty) {
        *field = Some(default.to_owned());
    }
}

fn set_tier(tier: &mut Option<String>, metadata: &mut ObjectMeta) {
    text(tier, DEFAULT_TIER);
    // A tier that cannot be is refused as such, not as a label.
    if let Some(tier) = tier.as_deref().filter(|tier| dns_label(tier).is_ok()) {
        metadata.labels.get_or_insert_default().insert(TIER_LABEL.to_owned(), tier.to_owned());
    }
}

/// Unlike in Kubernetes, a policy with nothing but egress rules says nothing of ingress.
fn set_types(types: &mut Option<Vec<String>>, ingress: &Option<Vec<Rule>>, egress: &Option<Vec<Rule>>) {
    if types.as_ref().is_some_and(|types| !types.is_empty()) {
        return;
    }
    let some = |rules: &Option<Vec<Rule>>| rules.as_ref().is_some_and(|rules| !rules.is_empty());
    let default: &[&str] = match (some(ingress), some(egress)) {
        (_, false) => &["Ingress"],
        (false, true) => &["Egress"],
        (true, true) => &["Ingress", "Egress"],
    };
    *types = Some(default.iter().map(|&name| name.to_owned()).collect());
}

/// Whether the policy says anything: one that is to be deleted must not, so nothing more is filled in.
fn set_staged_action(action: &mut Option<String>) -> bool {
    text(action, "Set");
    action.as_deref() != Some("Delete")
}

fn set_tier_spec(spec: &mut TierSpec) {
    text(&mut spec.default_action, "Deny");
}

fn set_pool(spec: &mut IPPoolSpec) {
    if spec.block_size.is_none_or(|size| size == 0)
        && let Ok((address, _)) = parse_address_and_length(&spec.cidr)
    {
        spec.block_size = Some(default_block_size(address.is_ipv4()));
    }
    text(&mut spec.ipip_mode, "Never");
    text(&mut spec.vxlan_mode, "Never");
    text(&mut spec.node_selector, "all()");
    text(&mut spec.assignment_mode, "Automatic");
    if spec.allowed_uses.as_ref().is_none_or(Vec::is_empty) {
        spec.allowed_uses = Some(vec!["Workload".to_owned(), "Tunnel".to_owned()]);
    }
}

fn set_block(spec: &mut IPAMBlockSpec) {
    spec.sequence_number.get_or_insert(0);
}

fn set_block_affinity(spec: &mut BlockAffinitySpec) {
    spec.deleted.get_or_insert(false);
}

fn set_ipam(spec: &mut IPAMConfigurationSpec) {
    spec.strict_affinity.get_or_insert(false);
    spec.auto_allocate_blocks.get_or_insert(true);
    spec.max_blocks_per_host.get_or_insert(0);
}

fn set_bgp(spec: &mut BGPConfigurationSpec) {
    text(&mut spec.log_severity_screen, "Info");
    text(&mut spec.service_load_balancer_aggregation, "Enabled");
}

fn set_controllers(spec: &mut KubeControllersConfigurationSpec) {
    text(&mut spec.health_checks, "Enabled");
    let Some(controllers) = &mut spec.controllers else { return };
    if let Some(load_balancer) = &mut controllers.load_balancer {
        text(&mut load_balancer.assign_ips, "AllServices");
    }
    if let Some(migration) = &mut controllers.migration {
        text(&mut migration.policy_name_migrator, "Enabled");
    }
}
