//! IPAMConfiguration, IPAMBlock, BlockAffinity and IPAMHandle.

use super::{Errors, calico_format};
use crate::calico::{BlockAffinitySpec, IPAMBlockSpec, IPAMConfigurationSpec, IPAMHandleSpec};
use crate::cidr::Cidr;

/// The largest block of either family has this many host bits.
const HOST_BITS_MAX: u8 = 12;

/// IPAMConfiguration.
pub(super) fn configuration(spec: &IPAMConfigurationSpec, errors: &mut Errors) {
    errors.in_range("spec.maxBlocksPerHost", spec.max_blocks_per_host, 0..=1_000_000);
    errors.in_range("spec.ipCooldownSeconds", spec.ip_cooldown_seconds, 0..=1200);
    errors.one_of(
        "spec.kubeVirtVMAddressPersistence",
        &spec.kube_virt_vm_address_persistence,
        &["Disabled", "Enabled"],
    );
    if spec.strict_affinity == Some(false) && spec.auto_allocate_blocks == Some(false) {
        errors.invalid(
            "spec.autoAllocateBlocks",
            false,
            "must be true when `strictAffinity` is false: without either, no node could allocate",
        );
    }
}

/// IPAMBlock.
pub(super) fn block(spec: &IPAMBlockSpec, errors: &mut Errors) {
    let size = cidr("spec.cidr", &spec.cidr, errors).and_then(addresses);
    errors.check_given("spec.affinity", &spec.affinity, |text| {
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        match text.split_once(':') {
            Some(("host" | "virtual", name)) if !name.is_empty() && name.bytes().all(good) => Ok(()),
            _ => Err("must be \"host:\" and a node's name, or \"virtual:\" and a name".to_owned()),
        }
    });
    let attributes = spec.attributes.as_deref().map_or(0, <[_]>::len);
    match &spec.allocations {
        None => errors.required("spec.allocations", "what each address is used for"),
        Some(allocations) => {
            if let Some(size) = size.filter(|size| *size != allocations.len()) {
                let why = format!("must have one item for each of the {size} addresses");
                errors.invalid("spec.allocations", allocations.len(), why);
            }
            for (offset, index) in allocations.iter().enumerate() {
                let Some(index) = index else { continue };
                if !usize::try_from(*index).is_ok_and(|index| index < attributes) {
                    let why = "must be the index of one of `attributes`";
                    errors.invalid(&format!("spec.allocations[{offset}]"), *index, why);
                }
            }
        }
    }
    match &spec.unallocated {
        None => errors.required("spec.unallocated", "the offsets of the free addresses"),
        Some(offsets) => {
            for (position, offset) in offsets.iter().enumerate() {
                let is_inside =
                    usize::try_from(*offset).is_ok_and(|offset| size.is_none_or(|size| offset < size));
                if !is_inside {
                    let why = "must be the offset of one of the block's addresses";
                    errors.invalid(&format!("spec.unallocated[{position}]"), *offset, why);
                }
            }
        }
    }
    if spec.attributes.is_none() {
        errors.required("spec.attributes", "what is known of the addresses in use");
    }
    if spec.strict_affinity.is_none() {
        errors.required("spec.strictAffinity", "true or false");
    }
}

/// BlockAffinity.
pub(super) fn block_affinity(spec: &BlockAffinitySpec, errors: &mut Errors) {
    cidr("spec.cidr", &spec.cidr, errors);
    if spec.node.is_empty() {
        errors.required("spec.node", "the node whose block it is");
    }
    let states = ["", "confirmed", "pending", "pendingDeletion"];
    if !states.contains(&spec.state.as_str()) {
        errors.not_supported("spec.state", &spec.state, &states);
    }
}

/// IPAMHandle.
pub(super) fn handle(spec: &IPAMHandleSpec, errors: &mut Errors) {
    if spec.handle_id.is_empty() {
        errors.required("spec.handleID", "what the addresses are released by");
    }
    match &spec.block {
        None => errors.required("spec.block", "how many addresses of each block"),
        Some(blocks) => {
            for (block, count) in blocks {
                let field = format!("spec.block[{block}]");
                errors.check(&field, block, calico_format::cidr(block));
                errors.in_range(&field, Some(*count), 0..=i64::from(u32::MAX));
            }
        }
    }
}

fn cidr(field: &str, text: &str, errors: &mut Errors) -> Option<Cidr> {
    if text.is_empty() {
        errors.required(field, "the block's addresses");
        return None;
    }
    errors.check(field, text, calico_format::cidr(text));
    text.parse().ok()
}

/// How many addresses a block has; nothing for what is too large to be one.
fn addresses(cidr: Cidr) -> Option<usize> {
    let bits = if cidr.is_ipv4() { 32 } else { 128 } - cidr.length();
    (bits <= HOST_BITS_MAX).then(|| 1 << bits)
}
