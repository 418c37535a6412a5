use std::net::IpAddr;

use caracal_ipam::{Attributes, Block, Handle, Nanoseconds, Owner, Record};
use serde_json::{Value, json};

use super::*;
use crate::ApiGroup;

/// 2026-01-01T00:00:00Z.
const NEW_YEAR: u64 = 1_767_225_600_000_000_000;

/// An object of `projectcalico.org/v3` that is stored in either group: only affinities differ.
fn object(group: ApiGroup, kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": group.to_string(), "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn written(group: ApiGroup, record: &Record) -> Value {
    let (kind, name) = names::place(&record.key());
    let mut object =
        json!({"apiVersion": group.to_string(), "kind": kind.as_str(), "metadata": {"name": name}});
    json::write(&mut object, group, record);
    object
}

fn attributes(handle: &str, owner: &[(&str, &str)]) -> Attributes {
    Attributes {
        handle: Some(handle.into()),
        owner: owner.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect(),
        ..Attributes::default()
    }
}

/// The block of a node with a tunnel address and a pod, as Calico would have written it.
fn placed() -> (Block, Value) {
    let mut block = Block::new(
        "10.244.1.0/26".parse().unwrap(),
        Some(Owner::Host("n1".into())),
        false,
        Nanoseconds(NEW_YEAR),
    )
    .unwrap();
    let tunnel = attributes("vxlan-tunnel-addr-n1", &[("node", "n1"), ("type", "vxlanTunnelAddress")]);
    block.take(1, &tunnel, |_| false);
    block.count_write();
    let pod = attributes(
        "k8s-pod-network.0f3c",
        &[("namespace", "x"), ("node", "n1"), ("pod", "a"), ("timestamp", "2026-01-01 00:00:05 +0000 UTC")],
    );
    block.take(1, &pod, |_| false);
    block.count_write();
    let mut allocations = vec![json!(0), json!(1)];
    allocations.resize(64, Value::Null);
    let spec = json!({
        "cidr": "10.244.1.0/26", "affinity": "host:n1", "affinityClaimTime": "2026-01-01T00:00:00Z",
        "allocations": allocations, "unallocated": (2..64).collect::<Vec<_>>(),
        "attributes": [
            {"handle_id": "vxlan-tunnel-addr-n1", "secondary": {"node": "n1", "type": "vxlanTunnelAddress"}},
            {"handle_id": "k8s-pod-network.0f3c", "secondary":
                {"namespace": "x", "node": "n1", "pod": "a", "timestamp": "2026-01-01 00:00:05 +0000 UTC"}},
        ],
        "sequenceNumber": 1_767_225_600_000_000_002_u64,
        "sequenceNumberForAllocation": {"0": 1_767_225_600_000_000_000_u64, "1": 1_767_225_600_000_000_001_u64},
        "deleted": false, "strictAffinity": false,
    });
    (block, spec)
}

#[test]
fn what_is_written_is_byte_for_byte_what_calico_writes() {
    for group in [ApiGroup::V3, ApiGroup::Crd] {
        let (block, spec) = placed();
        let expected = object(group, "IPAMBlock", "10-244-1-0-26", spec);
        assert_eq!(written(group, &Record::Block(block.clone())).to_string(), expected.to_string());
        assert_eq!(json::read(Kind::IPAMBlock, &expected), Ok(Record::Block(block)));

        let handle = Handle {
            id: "k8s-Pod-network.0f3c".into(),
            blocks: [("10.244.1.0/26".parse().unwrap(), 1)].into(),
        };
        let expected = object(
            group,
            "IPAMHandle",
            "k8s-pod-network.0f3c",
            json!({"handleID": "k8s-Pod-network.0f3c", "block": {"10.244.1.0/26": 1}, "deleted": false}),
        );
        assert_eq!(written(group, &Record::Handle(handle.clone())).to_string(), expected.to_string());
        assert_eq!(json::read(Kind::IPAMHandle, &expected), Ok(Record::Handle(handle)));

        let affinity = caracal_ipam::Affinity {
            owner: Owner::Host("n1".into()),
            cidr: "10.244.1.0/26".parse().unwrap(),
            state: caracal_ipam::AffinityState::Confirmed,
        };
        let deleted = if group == ApiGroup::Crd { json!("false") } else { json!(false) };
        let mut expected = object(
            group,
            "BlockAffinity",
            "n1-10-244-1-0-26",
            json!({"cidr": "10.244.1.0/26", "node": "n1", "state": "confirmed", "type": "host", "deleted": deleted}),
        );
        assert_eq!(json::read(Kind::BlockAffinity, &expected), Ok(Record::Affinity(affinity.clone())));
        expected["metadata"]["labels"] = json!({
            "projectcalico.org/affinity-type": "host",
            "projectcalico.org/hostname-hash": names::affinity_labels(&affinity.owner, affinity.cidr)[0].1,
            "projectcalico.org/ip-version": "4",
        });
        assert_eq!(written(group, &Record::Affinity(affinity)).to_string(), expected.to_string());
    }
}

#[test]
fn what_is_not_known_here_survives_our_writes() {
    let (_, mut spec) = placed();
    spec["newer"] = json!({"a": 1});
    spec["attributes"][0]["newer"] = json!([1]);
    spec["attributes"][1]["alternateOwnerAttrs"] = json!({"vmi-name": "b"});
    spec["attributes"][1]["handle_id"] = json!("k8s-pod-network.0f3c\r\nold");
    let mut read = object(ApiGroup::Crd, "IPAMBlock", "10-244-1-0-26", spec.clone());
    read["metadata"]["annotations"] = json!({"projectcalico.org/metadata": "{\"creationTimestamp\":null}"});
    let Ok(Record::Block(mut block)) = json::read(Kind::IPAMBlock, &read) else { panic!() };
    let taken = block.take(1, &attributes("other", &[]), |_| false);
    block.count_write();
    let mut after = read.clone();
    json::write(&mut after, ApiGroup::Crd, &Record::Block(block.clone()));
    spec["allocations"][2] = json!(2);
    spec["unallocated"] = (3..64).collect();
    spec["attributes"].as_array_mut().unwrap().push(json!({"handle_id": "other"}));
    spec["sequenceNumber"] = json!(1_767_225_600_000_000_003_u64);
    spec["sequenceNumberForAllocation"]["2"] = json!(1_767_225_600_000_000_002_u64);
    read["spec"] = spec;
    assert_eq!(after, read);
    // And it is gone only with the address that it belongs to.
    block.release(&taken, 0, Nanoseconds(NEW_YEAR));
    block.release(&["10.244.1.0".parse().unwrap()], 0, Nanoseconds(NEW_YEAR));
    json::write(&mut after, ApiGroup::Crd, &Record::Block(block));
    let left = json!([{
        "handle_id": "k8s-pod-network.0f3c\r\nold", "alternateOwnerAttrs": {"vmi-name": "b"},
        "secondary": {"namespace": "x", "node": "n1", "pod": "a", "timestamp": "2026-01-01 00:00:05 +0000 UTC"},
    }]);
    assert_eq!(after["spec"]["attributes"], left);
    assert_eq!(after["spec"]["newer"], json!({"a": 1}));
}

#[test]
fn blocks_are_read_in_every_form_that_there_ever_was() {
    let read = |spec: Value| json::read(Kind::IPAMBlock, &json!({ "spec": spec }));
    let block = |spec: Value| match read(spec) {
        Ok(Record::Block(block)) => block,
        other => panic!("{other:?}"),
    };
    // Of 2018: no claim time, no sequence numbers; and a handle with what a Windows plugin left behind it.
    let old = block(json!({
        "cidr": "10.0.0.0/30", "affinity": "host:node.with.dots", "strictAffinity": false,
        "allocations": [0, null, null, null], "unallocated": [1, 2, 3],
        "attributes": [{"handle_id": "net.abc\r\n", "secondary": null}],
    }));
    assert_eq!(old.owner, Some(Owner::Host("node.with.dots".into())));
    assert_eq!(old.claimed, None);
    assert_eq!(old.given().next().unwrap().1.handle.as_deref(), Some("net.abc"));
    // Nobody's, and nothing given.
    let empty = block(json!({
        "cidr": "10.0.0.0/31", "affinity": null, "allocations": [null, null], "unallocated": [1, 0],
        "attributes": null,
    }));
    assert_eq!((empty.owner.clone(), empty.is_empty()), (None, true));
    let of_services = block(json!({
        "cidr": "fd00::/127", "affinity": "virtual:load-balancer", "allocations": [0, null], "unallocated": [1],
        "attributes": [{"releasedAt": "2026-01-01T00:00:00.5Z"}],
    }));
    assert_eq!(of_services.owner, Some(Owner::Virtual("load-balancer".into())));
    assert!(of_services.is_empty(), "what cools down is nobody's");

    // Free twice, free and given, not said to be free, and of no place at all: allocations decide.
    let mut odd = block(json!({
        "cidr": "10.0.0.0/30", "allocations": [null, 0, null, null], "unallocated": [3, 3, 1, -1, 4, 0],
        "attributes": [{"handle_id": "net.abc"}],
    }));
    assert_eq!(odd.given().count(), 1);
    let free = odd.take(4, &Attributes::default(), |_| false);
    assert_eq!(free, ["10.0.0.3", "10.0.0.0", "10.0.0.2"].map(|text| text.parse::<IpAddr>().unwrap()));

    for nonsense in [
        json!({}),
        json!({"cidr": "10.0.0.0/31", "allocations": [0, null], "unallocated": [1]}),
        json!({"cidr": "10.0.0.0/31", "allocations": [null], "unallocated": [0]}),
        json!({"cidr": "10.0.0.0/31", "allocations": ["a", null], "unallocated": [1]}),
        json!({"cidr": "10.0.0.0/31", "affinity": "room:7", "allocations": [null, null], "unallocated": [0, 1]}),
    ] {
        assert!(read(nonsense.clone()).is_err(), "{nonsense}");
    }
}

#[test]
fn affinities_and_handles_are_read_in_every_form_that_there_ever_was() {
    let affinity = |spec: Value| json::read(Kind::BlockAffinity, &json!({ "spec": spec }));
    let old = affinity(json!({"cidr": "10.0.0.0/26", "node": "n1", "state": "confirmed"}));
    let Ok(Record::Affinity(old)) = old else { panic!("{old:?}") };
    assert_eq!(old.owner, Owner::Host("n1".into()));
    assert!(affinity(json!({"cidr": "10.0.0.0/26", "node": "n1", "state": "no such"})).is_err());
    let handle = json::read(
        Kind::IPAMHandle,
        &json!({"spec": {"handleID": "net.abc\r\nx", "block": {"10.0.0.0/26": 2, "10.0.0.64/26": -1}}}),
    );
    let Ok(Record::Handle(handle)) = handle else { panic!("{handle:?}") };
    assert_eq!(handle.id, "net.abc");
    assert_eq!(handle.blocks, [("10.0.0.0/26".parse().unwrap(), 2)].into());

    assert!(json::is_deleted(&json!({"spec": {"deleted": "true"}})));
    assert!(json::is_deleted(&json!({"spec": {"deleted": true}})));
    assert!(!json::is_deleted(&json!({"spec": {"deleted": "false"}})));
    assert!(!json::is_deleted(&json!({"spec": {}})));
}
