//! IPPool and IPReservation.

use super::calico_format::{self, Global, masked_cidr, selector};
use super::{Errors, given};
use crate::calico::{IPPoolSpec, IPReservationSpec};
use crate::cidr::Cidr;

/// The longest CIDR as a text.
const CIDR_MAX: usize = 48;
/// The most uses.
const USES_MAX: usize = 10;
/// What hosts use among themselves, and no pool may be.
const LINK_LOCAL: [&str; 2] = ["169.254.0.0/16", "fe80::/10"];

/// The prefix length of the blocks of a pool that does not say it.
pub(super) fn default_block_size(is_ipv4: bool) -> i64 {
    if is_ipv4 { 26 } else { 122 }
}

pub(super) fn validate(spec: &IPPoolSpec, errors: &mut Errors) {
    let cidr = cidr(spec, errors);
    modes(spec, cidr, errors);
    selector("spec.nodeSelector", spec.node_selector.as_deref(), Global::Never, errors);
    selector("spec.namespaceSelector", spec.namespace_selector.as_deref(), Global::Never, errors);
    errors.one_of("spec.assignmentMode", &spec.assignment_mode, &["Automatic", "Manual"]);
    uses(spec, errors);
}

fn cidr(spec: &IPPoolSpec, errors: &mut Errors) -> Option<Cidr> {
    if spec.cidr.is_empty() {
        errors.required("spec.cidr", "the pool's addresses");
        return None;
    }
    errors.at_most_characters("spec.cidr", &spec.cidr, CIDR_MAX);
    let cidr = match masked_cidr(&spec.cidr) {
        Ok(cidr) => cidr,
        Err(why) => {
            errors.invalid("spec.cidr", spec.cidr.as_str(), why);
            return None;
        }
    };
    for reserved in LINK_LOCAL.iter().filter_map(|text| text.parse::<Cidr>().ok()) {
        if reserved.covers(&cidr) || cidr.covers(&reserved) {
            let why = format!("must not overlap {reserved}, the link-local addresses");
            errors.invalid("spec.cidr", spec.cidr.as_str(), why);
        }
    }
    let sizes = if cidr.is_ipv4() { 20..=32 } else { 116..=128 };
    // 0 stands for the default.
    if let Some(size) = spec.block_size.filter(|size| *size != 0) {
        let is_size = sizes.contains(&size);
        errors.in_range("spec.blockSize", Some(size), sizes);
        if is_size && i64::from(cidr.length()) > size && spec.disabled != Some(true) {
            let why =
                format!("must hold at least one block: a prefix of at most /{size}, which is `blockSize`");
            errors.invalid("spec.cidr", spec.cidr.as_str(), why);
        }
    }
    Some(cidr)
}

fn modes(spec: &IPPoolSpec, cidr: Option<Cidr>, errors: &mut Errors) {
    let modes = ["Always", "CrossSubnet", "Never"];
    errors.one_of("spec.ipipMode", &spec.ipip_mode, &modes);
    errors.one_of("spec.vxlanMode", &spec.vxlan_mode, &modes);
    let (ipip, vxlan) = (is_on(&spec.ipip_mode), is_on(&spec.vxlan_mode));
    if ipip && vxlan {
        errors.forbidden("spec.vxlanMode", "must be Never when `ipipMode` is not: packets go in one of them");
    }
    if ipip && cidr.is_some_and(|cidr| !cidr.is_ipv4()) {
        errors.forbidden("spec.ipipMode", "must be Never for IPv6; VXLAN can carry it");
    }
}

fn is_on(mode: &Option<String>) -> bool {
    given(mode).is_some_and(|mode| mode != "Never")
}

fn uses(spec: &IPPoolSpec, errors: &mut Errors) {
    let uses = spec.allowed_uses.as_deref().unwrap_or_default();
    errors.at_most_items("spec.allowedUses", uses, USES_MAX);
    errors.set_of("spec.allowedUses", uses, &["LoadBalancer", "Tunnel", "Workload"]);
    let is_for = |name: &str| uses.iter().any(|other| other == name);
    if is_for("Tunnel") && given(&spec.namespace_selector).is_some() {
        let why = "may not be given when `allowedUses` has Tunnel (as it has by default): tunnels are of no namespace";
        errors.forbidden("spec.namespaceSelector", why);
    }
    if !is_for("LoadBalancer") {
        return;
    }
    if is_for("Workload") || is_for("Tunnel") {
        errors.forbidden("spec.allowedUses", "LoadBalancer must not be combined with Workload or Tunnel");
    }
    for (field, mode) in [("spec.ipipMode", &spec.ipip_mode), ("spec.vxlanMode", &spec.vxlan_mode)] {
        if is_on(mode) {
            errors.forbidden(field, "must be Never when `allowedUses` is LoadBalancer");
        }
    }
    if spec.disable_bgp_export == Some(true) {
        errors.forbidden("spec.disableBGPExport", "must not be true when `allowedUses` is LoadBalancer");
    }
    if given(&spec.node_selector).is_some_and(|text| text != "all()") {
        errors.forbidden("spec.nodeSelector", "must be \"all()\" when `allowedUses` is LoadBalancer");
    }
}

/// IPReservation.
pub(super) fn reservation(spec: &IPReservationSpec, errors: &mut Errors) {
    let cidrs = spec.reserved_cidrs.as_deref().unwrap_or_default();
    for (index, cidr) in cidrs.iter().enumerate() {
        errors.check(&format!("spec.reservedCIDRs[{index}]"), cidr, calico_format::cidr(cidr));
    }
    errors.unique("spec.reservedCIDRs", cidrs);
}
