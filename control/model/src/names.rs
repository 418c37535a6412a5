//! Names and addresses that are derived from other names, as Calico derives them, so that its tools find our things.

use sha1::{Digest, Sha1};

/// The host side of a pod's veth: `cali` and the first 11 hex digits of SHA1(`namespace.pod`).
pub fn veth_name(namespace: &str, pod: &str) -> String {
    let digest = Sha1::digest(format!("{namespace}.{pod}"));
    let mut name = String::from("cali");
    for byte in digest.iter().take(6) {
        name.push_str(&format!("{byte:02x}"));
    }
    name.truncate("cali".len() + 11);
    name
}

/// The MAC of a node's VXLAN tunnel end over IPv4: 0x66 and the first 5 bytes of SHA1 of the node's name.
pub fn vtep_mac(node: &str) -> [u8; 6] {
    mac_of(node)
}

/// The MAC of its VXLAN tunnel end over IPv6: the same of the name with `-v6` behind it.
pub fn vtep_mac_v6(node: &str) -> [u8; 6] {
    mac_of(&format!("{node}-v6"))
}

fn mac_of(name: &str) -> [u8; 6] {
    let digest = Sha1::digest(name);
    let mut mac = [0x66, 0, 0, 0, 0, 0];
    for (to, from) in mac.iter_mut().skip(1).zip(digest.iter()) {
        *to = *from;
    }
    mac
}

/// A short name for a text: 20 hex digits of its SHA1. Equal texts have equal names, wherever and whenever they are made.
pub fn content_hash(text: &str) -> String {
    let digest = Sha1::digest(text);
    digest.iter().take(10).map(|byte| format!("{byte:02x}")).collect()
}

/// The profile of a namespace.
pub fn namespace_profile(namespace: &str) -> String {
    format!("kns.{namespace}")
}

/// The profile of a service account.
pub fn service_account_profile(namespace: &str, name: &str) -> String {
    format!("ksa.{namespace}.{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    // Expected values: `printf default.web | sha1sum`, `printf node1 | sha1sum`, `printf node1-v6 | sha1sum`.
    #[test]
    fn the_veth_name_fits_an_interface_name_and_is_calicos() {
        let name = veth_name("default", "web");
        assert_eq!(name.len(), 15);
        assert_eq!(name, "cali68caf03a5f4");
    }

    #[test]
    fn the_vtep_mac_is_unicast_and_comes_from_the_nodes_name() {
        assert_eq!(vtep_mac("node1")[0], 0x66);
        assert_eq!(vtep_mac("node1"), [0x66, 0xf9, 0x37, 0xc3, 0x7e, 0x94]);
        assert_eq!(vtep_mac_v6("node1"), [0x66, 0x0f, 0x35, 0xf2, 0x60, 0xdf]);
        assert_ne!(vtep_mac("node1"), vtep_mac("node2"));
    }
}
