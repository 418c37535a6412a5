//! Sets of networks, host endpoints, pools and what address management keeps.

use serde_json::{Value, json};

use super::{NOTHING, calico, check, refused};
use crate::object::Object;

#[test]
fn network_sets_hold_cidrs_and_addresses() {
    for kind in ["NetworkSet", "GlobalNetworkSet"] {
        check(
            kind,
            &[json!({}), json!({"nets": ["10.1.2.3/8", "10.0.0.1", "2001:db8::1/32", "::1", "0.0.0.0/0"]})],
            &[
                (json!({"nets": ["10.0.0.0/8", "10.0.0"]}), &["nets[1]"]),
                (json!({"nets": ["10.0.0.0/33"]}), &["nets[0]"]),
                (json!({"nets": ["10.0.0.0/8", "10.0.0.0/8"]}), &["nets[1]"]),
                (json!({"net": []}), &["net"]),
            ],
        );
        let mut set = calico(kind, json!({}));
        set["metadata"]["labels"] = json!({"projectcalico.org/name": "x"});
        assert_eq!(refused(set.clone()), NOTHING);
        set["metadata"]["labels"] = json!({"projectcalico.org/namespace": "x"});
        assert_eq!(refused(set), ["metadata.labels"]);
    }
}

#[test]
fn host_endpoints_are_of_a_node_and_an_interface() {
    let with = |field: &str, value: Value| {
        let mut spec = json!({"node": "n", "interfaceName": "eth0"});
        spec[field] = value;
        spec
    };
    let port = |port: Value| with("ports", json!([port]));
    check(
        "HostEndpoint",
        &[
            with("interfaceName", json!("*")),
            with("interfaceName", json!("a_B.c-d")),
            json!({"node": "n", "expectedIPs": ["192.0.2.1", "2001:db8::1"]}),
            with("profiles", json!(["a", "b"])),
            port(json!({"name": "http", "port": 80, "protocol": "TCP"})),
        ],
        &[
            (json!({"interfaceName": "eth0"}), &["node"]),
            (json!({"node": "n"}), &["interfaceName"]),
            (with("node", json!("n".repeat(254))), &["node"]),
            (with("interfaceName", json!("sixteen-chars-xx")), &["interfaceName"]),
            (with("interfaceName", json!("eth*")), &["interfaceName"]),
            (with("expectedIPs", json!(["192.0.2.0/24"])), &["expectedIPs[0]"]),
            (with("expectedIPs", json!(["192.0.2.1", "192.0.2.1"])), &["expectedIPs[1]"]),
            (with("profiles", json!(["a", "a"])), &["profiles[1]"]),
            (port(json!({"port": 80, "protocol": "TCP"})), &["ports[0].name"]),
            (port(json!({"name": "HTTP", "port": 80, "protocol": "TCP"})), &["ports[0].name"]),
            (port(json!({"name": "http", "port": 0, "protocol": "TCP"})), &["ports[0].port"]),
            (port(json!({"name": "http", "port": 65536, "protocol": "TCP"})), &["ports[0].port"]),
            (port(json!({"name": "http", "port": 80})), &["ports[0].protocol"]),
            (port(json!({"name": "http", "port": 80, "protocol": "tcp"})), &["ports[0].protocol"]),
            (port(json!({"name": "http", "port": 80, "protocol": 6})), &["ports[0].protocol"]),
        ],
    );
}

#[test]
fn pools_are_masked_sized_and_of_one_encapsulation() {
    let with = |field: &str, value: Value| {
        let mut spec = json!({"cidr": "10.0.0.0/16"});
        spec[field] = value;
        spec
    };
    let ipv6 = |field: &str, value: Value| {
        let mut spec = json!({"cidr": "fd00::/64"});
        spec[field] = value;
        spec
    };
    check(
        "IPPool",
        &[
            json!({"cidr": "10.0.0.0/16"}),
            json!({"cidr": "fd00::/64"}),
            with("blockSize", json!(0)),
            with("blockSize", json!(20)),
            with("blockSize", json!(32)),
            ipv6("blockSize", json!(116)),
            ipv6("blockSize", json!(128)),
            ipv6("vxlanMode", json!("Always")),
            with("ipipMode", json!("CrossSubnet")),
            with("nodeSelector", json!("rack == 'a'")),
            with("assignmentMode", json!("Manual")),
            json!({"cidr": "10.0.0.0/30", "disabled": true}),
            json!({"cidr": "10.0.0.0/26"}),
            json!({"cidr": "10.0.0.0/16", "allowedUses": ["Workload"], "namespaceSelector": "a == 'b'"}),
            json!({"cidr": "10.0.0.0/16", "allowedUses": ["LoadBalancer"]}),
        ],
        &[
            (json!({}), &["cidr"]),
            (json!({"cidr": "10.0.0.0"}), &["cidr"]),
            (json!({"cidr": "10.0.0.1/16"}), &["cidr"]),
            (json!({"cidr": "169.254.0.0/24"}), &["cidr"]),
            (json!({"cidr": "168.0.0.0/7"}), &["cidr"]),
            (json!({"cidr": "fe80::/64"}), &["cidr"]),
            (json!({"cidr": "10.0.0.0/27"}), &["cidr"]),
            (json!({"cidr": "10.0.0.0/16", "blockSize": 15}), &["blockSize"]),
            (with("blockSize", json!(19)), &["blockSize"]),
            (with("blockSize", json!(33)), &["blockSize"]),
            (ipv6("blockSize", json!(115)), &["blockSize"]),
            (ipv6("blockSize", json!(129)), &["blockSize"]),
            (with("ipipMode", json!("always")), &["ipipMode"]),
            (with("vxlanMode", json!("On")), &["vxlanMode"]),
            (
                json!({"cidr": "10.0.0.0/16", "ipipMode": "Always", "vxlanMode": "CrossSubnet"}),
                &["vxlanMode"],
            ),
            (ipv6("ipipMode", json!("Always")), &["ipipMode"]),
            (with("nodeSelector", json!("global()")), &["nodeSelector"]),
            (with("nodeSelector", json!("a ==")), &["nodeSelector"]),
            (with("assignmentMode", json!("Never")), &["assignmentMode"]),
            (with("allowedUses", json!(["Pod"])), &["allowedUses[0]"]),
            (with("allowedUses", json!(["Tunnel", "Tunnel"])), &["allowedUses[1]"]),
            (with("namespaceSelector", json!("a == 'b'")), &["namespaceSelector"]),
            (with("allowedUses", json!(["LoadBalancer", "Workload"])), &["allowedUses"]),
            (
                json!({
                    "cidr": "10.0.0.0/16", "allowedUses": ["LoadBalancer"], "vxlanMode": "Always",
                    "disableBGPExport": true, "nodeSelector": "has(a)",
                }),
                &["vxlanMode", "disableBGPExport", "nodeSelector"],
            ),
            (with("cidrs", json!([])), &["cidrs"]),
        ],
    );
}

#[test]
fn pools_get_their_defaults() {
    let spec = |spec: Value| Object::accept(calico("IPPool", spec)).unwrap().to_value()["spec"].clone();
    assert_eq!(
        spec(json!({"cidr": "10.0.0.0/16"})),
        json!({
            "cidr": "10.0.0.0/16", "blockSize": 26, "ipipMode": "Never", "vxlanMode": "Never",
            "nodeSelector": "all()", "allowedUses": ["Workload", "Tunnel"], "assignmentMode": "Automatic",
        })
    );
    assert_eq!(spec(json!({"cidr": "fd00::/64"}))["blockSize"], 122);
}

#[test]
fn reservations_hold_cidrs() {
    check(
        "IPReservation",
        &[json!({}), json!({"reservedCIDRs": ["10.0.0.0/30", "fd00::/64"]})],
        &[
            (json!({"reservedCIDRs": ["10.0.0.1"]}), &["reservedCIDRs[0]"]),
            (json!({"reservedCIDRs": ["10.0.0.0/30", "10.0.0.0/30"]}), &["reservedCIDRs[1]"]),
        ],
    );
}

#[test]
fn what_address_management_keeps_is_checked() {
    let object = |kind: &str, name: &str, spec: Value| {
        let metadata = json!({"name": name});
        refused(
            json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec}),
        )
    };
    let block = |field: &str, value: Value| {
        let mut spec = json!({
            "cidr": "10.0.0.0/30", "affinity": "host:n1", "allocations": [0, null, null, null],
            "unallocated": [1, 2, 3], "attributes": [{"handle_id": "h", "secondary": {"pod": "a"}}],
            "strictAffinity": false,
        });
        spec[field] = value;
        object("IPAMBlock", "10-0-0-0-30", spec)
    };
    assert_eq!(block("deleted", json!(false)), NOTHING);
    assert_eq!(block("affinity", json!("virtual:load-balancer")), NOTHING);
    assert_eq!(block("cidr", json!("10.0.0.0")), ["spec.cidr"]);
    assert_eq!(block("cidr", json!("10.0.0.4/30")), ["metadata.name"]);
    assert_eq!(block("affinity", json!("node:n1")), ["spec.affinity"]);
    assert_eq!(block("affinity", json!("host:")), ["spec.affinity"]);
    assert_eq!(block("allocations", json!(null)), ["spec.allocations"]);
    assert_eq!(block("allocations", json!([null, null])), ["spec.allocations"]);
    assert_eq!(block("allocations", json!([null, null, null, 1])), ["spec.allocations[3]"]);
    assert_eq!(block("unallocated", json!([4])), ["spec.unallocated[0]"]);
    assert_eq!(block("attributes", json!(null)), ["spec.allocations[0]", "spec.attributes"]);
    assert_eq!(block("strictAffinity", json!(null)), ["spec.strictAffinity"]);

    let affinity = |name: &str, state: &str| {
        let spec =
            json!({"cidr": "fd80:24e2:f998:72d6::/122", "node": "n1", "state": state, "deleted": false});
        object("BlockAffinity", name, spec)
    };
    assert_eq!(affinity("n1-fd80-24e2-f998-72d6---122", "pending"), NOTHING);
    assert_eq!(affinity("n1-fd80-24e2-f998-72d6---122", ""), NOTHING);
    assert_eq!(affinity("n2-fd80-24e2-f998-72d6---122", "pending"), ["metadata.name"]);
    assert_eq!(affinity("n1-fd80-24e2-f998-72d6---122", "Pending"), ["spec.state"]);

    let handle =
        |name: &str, block: Value| object("IPAMHandle", name, json!({"handleID": "K8s.A", "block": block}));
    assert_eq!(handle("k8s.a", json!({"10.0.0.0/30": 1})), NOTHING);
    assert_eq!(handle("other", json!({"10.0.0.0/30": 1})), ["metadata.name"]);
    assert_eq!(handle("k8s.a", json!({"10.0.0.0": 1})), ["spec.block[10.0.0.0]"]);
    assert_eq!(handle("k8s.a", json!(null)), ["spec.block"]);

    check(
        "IPAMConfiguration",
        &[
            json!({}),
            json!({"strictAffinity": true, "autoAllocateBlocks": false, "maxBlocksPerHost": 1_000_000}),
        ],
        &[
            (json!({"autoAllocateBlocks": false}), &["autoAllocateBlocks"]),
            (json!({"maxBlocksPerHost": -1}), &["maxBlocksPerHost"]),
            (json!({"ipCooldownSeconds": 1201}), &["ipCooldownSeconds"]),
            (json!({"kubeVirtVMAddressPersistence": "On"}), &["kubeVirtVMAddressPersistence"]),
        ],
    );
    assert_eq!(object("IPAMConfiguration", "other", json!({})), ["metadata.name"]);
}
