//! How Calico names the objects of address management, and labels affinities, so that its tools find ours and we theirs.

use caracal_ipam::{Key, Owner};
use caracal_model::cidr::Cidr;
use caracal_model::object::Kind;
use data_encoding::BASE32_NOPAD;
use sha2::Sha256;
use sha3::{Digest, Sha3_256};

/// Longer names than this are shortened.
const NAME_MAX: usize = 252;
/// Digits of the hash in a shortened name.
const HASH_DIGITS: usize = 11;

/// What `spec.type` of an affinity and its label say of a node's.
pub const HOST: &str = "host";
/// The same of anything else's.
pub const VIRTUAL: &str = "virtual";

/// The kind and the name of the object that a thing is kept in.
pub fn place(key: &Key) -> (Kind, String) {
    match key {
        Key::Block(cidr) => (Kind::IPAMBlock, block(*cidr)),
        Key::Affinity(owner, cidr) => (Kind::BlockAffinity, affinity(owner.name(), *cidr)),
        Key::Handle(id) => (Kind::IPAMHandle, id.to_lowercase()),
    }
}

/// `10-0-0-0-26`, `fd80-24e2-f998-72d6---122`.
fn block(cidr: Cidr) -> String {
    cidr.to_string().replace(['.', ':', '/'], "-")
}

/// `node1-10-0-0-0-26`; a name that would be too long keeps what fits of the node's, and ends with a hash.
fn affinity(node: &str, cidr: Cidr) -> String {
    let block = block(cidr);
    let name = format!("{node}-{block}");
    if name.len() <= NAME_MAX {
        return name;
    }
    // Both dashes.
    let kept = NAME_MAX - block.len() - HASH_DIGITS - 2;
    let hash: String =
        Sha256::digest(format!("{node}+{block}")).iter().map(|byte| format!("{byte:02x}")).collect();
    let begin = node.get(..kept).unwrap_or(node);
    format!("{begin}-{block}-{}", hash.get(..HASH_DIGITS).unwrap_or_default())
}

/// The labels that Calico looks for a node's affinities by.
pub fn affinity_labels(owner: &Owner, cidr: Cidr) -> [(&'static str, String); 3] {
    let kind = match owner {
        Owner::Host(_) => HOST,
        Owner::Virtual(_) => VIRTUAL,
    };
    [
        // A label has no room for the name itself.
        ("projectcalico.org/hostname-hash", BASE32_NOPAD.encode(&Sha3_256::digest(owner.name()))),
        ("projectcalico.org/affinity-type", kind.to_owned()),
        ("projectcalico.org/ip-version", if cidr.is_ipv4() { "4" } else { "6" }.to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(key: Key) -> String {
        place(&key).1
    }

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn names_are_calicos() {
        assert_eq!(name(Key::Block(cidr("10.0.0.0/26"))), "10-0-0-0-26");
        assert_eq!(name(Key::Block(cidr("fd80:24e2:f998:72d6::/122"))), "fd80-24e2-f998-72d6---122");
        let of = |node: &str| name(Key::Affinity(Owner::Host(node.into()), cidr("10.244.1.0/26")));
        assert_eq!(of("n1"), "n1-10-244-1-0-26");
        assert_eq!(of("n1.example.com"), "n1.example.com-10-244-1-0-26");
        assert_eq!(name(Key::Handle("k8s-Pod-Network.0F3C".into())), "k8s-pod-network.0f3c");
    }

    #[test]
    fn a_long_name_is_shortened_and_stays_unique() {
        let of = |node: &str| name(Key::Affinity(Owner::Host(node.into()), cidr("10.244.1.0/26")));
        // 239 and the block's name with its dash are 253.
        let (long, longer) = ("n".repeat(239), "n".repeat(240));
        assert_eq!(of(&"n".repeat(238)), format!("{}-10-244-1-0-26", "n".repeat(238)));
        // sha256 of 239 times n and +10-244-1-0-26, its first 11 hex digits.
        assert_eq!(of(&long), format!("{}-10-244-1-0-26-{}", "n".repeat(226), "62826fd7a47"));
        assert_eq!(of(&long).len(), 252);
        assert_ne!(of(&long), of(&longer));
    }

    // printf node1 | openssl dgst -sha3-256 -binary | base32 | tr -d =
    #[test]
    fn affinities_carry_the_labels_that_calico_lists_them_by() {
        let labels = affinity_labels(&Owner::Host("node1".into()), cidr("10.0.0.0/26"));
        assert_eq!(labels[0].1, "7DS2CCNJGGLTHBDQLLFO6SX24SY2YDDEG3W2VN556FA2W4DLLV5A");
        assert_eq!((labels[1].1.as_str(), labels[2].1.as_str()), ("host", "4"));
        let labels = affinity_labels(&Owner::Virtual("load-balancer".into()), cidr("fd00::/122"));
        assert_eq!((labels[1].1.as_str(), labels[2].1.as_str()), ("virtual", "6"));
    }
}
