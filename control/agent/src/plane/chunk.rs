//! Cutting a list of operations into transactions that fit into a message.
//!
//! The calc graph orders operations so that every prefix of the list is referentially whole (what refers comes after
//! what it refers to); so any cut gives transactions that the fastpath can accept one after another.

use caracal_plane_api::{Hosts, IpSet, IpSetDelta, MAX_MESSAGE_BYTES, Member, Op, op};
use prost::Message;

/// What a transaction of the whole state may hold by default: small enough that the fastpath's controller thread is not
/// away for long.
pub const CHUNK_BYTES: usize = MAX_MESSAGE_BYTES / 16;
/// What any transaction may hold by default: what a message can, with room for what is around the operations.
pub const TRANSACTION_BYTES: usize = MAX_MESSAGE_BYTES - 1024;

/// Bytes that an operation takes in a transaction: itself, its tag and its length.
pub fn size(op: &Op) -> usize {
    let length = op.encoded_len();
    1 + prost::length_delimiter_len(length) + length
}

/// The operations in transactions of at most `chunk_bytes`; an operation that is larger has one of its own. An IP set
/// larger than `transaction_bytes` becomes a set and additions to it, because nothing else can be done: in between, the
/// fastpath sees a part of it. Never empty: an empty state is one empty transaction.
pub fn chunks(ops: Vec<Op>, chunk_bytes: usize, transaction_bytes: usize) -> Vec<Vec<Op>> {
    let mut all = Vec::new();
    let mut chunk = Vec::new();
    let mut filled = 0;
    for op in ops.into_iter().flat_map(|op| split(op, transaction_bytes)) {
        let bytes = size(&op);
        if filled + bytes > chunk_bytes && !chunk.is_empty() {
            all.push(std::mem::take(&mut chunk));
            filled = 0;
        }
        filled += bytes;
        chunk.push(op);
    }
    if !chunk.is_empty() || all.is_empty() {
        all.push(chunk);
    }
    all
}

fn split(op: Op, limit: usize) -> Vec<Op> {
    if size(&op) <= limit {
        return vec![op];
    }
    let ops: Vec<op::Op> = match op.op {
        Some(op::Op::IpSet(IpSet { id, members, hosts })) => {
            let whole = IpSetDelta { id, add: members, add_hosts: hosts, ..IpSetDelta::default() };
            let mut parts = parts(whole, limit).into_iter();
            let first = parts.next().unwrap_or_default();
            let set = IpSet { id: first.id, members: first.add, hosts: first.add_hosts };
            std::iter::once(op::Op::IpSet(set)).chain(parts.map(op::Op::IpSetDelta)).collect()
        }
        Some(op::Op::IpSetDelta(delta)) => parts(delta, limit).into_iter().map(op::Op::IpSetDelta).collect(),
        _ => return vec![op],
    };
    ops.into_iter().map(|op| Op { op: Some(op) }).collect()
}

/// A change of a set in changes of at most `limit` bytes, each of one sort; in any order they come to the same.
fn parts(delta: IpSetDelta, limit: usize) -> Vec<IpSetDelta> {
    // A member's prefix (16 bytes and a length), protocol and port, with their tags, are less than this.
    const MEMBER_BYTES: usize = 48;
    // Tags and lengths of what is around the set's id and the members.
    const AROUND: usize = 32;
    let IpSetDelta { id, add, remove, add_hosts, remove_hosts } = delta;
    let room = limit.saturating_sub(id.len() + AROUND);
    let empty = || IpSetDelta { id: id.clone(), ..IpSetDelta::default() };
    let members = |all: &[Member]| -> Vec<Vec<Member>> {
        all.chunks((room / MEMBER_BYTES).max(1)).map(<[Member]>::to_vec).collect()
    };
    let hosts = |all: Option<Hosts>| -> Vec<Hosts> {
        let Hosts { v4, v6 } = all.unwrap_or_default();
        let cut = |bytes: &[u8], each: usize| -> Vec<Vec<u8>> {
            bytes.chunks((room / each).max(1) * each).map(<[u8]>::to_vec).collect()
        };
        let v4 = cut(&v4, 4).into_iter().map(|v4| Hosts { v4, ..Hosts::default() });
        let v6 = cut(&v6, 16).into_iter().map(|v6| Hosts { v6, ..Hosts::default() });
        v4.chain(v6).collect()
    };
    let removals = members(&remove).into_iter().map(|remove| IpSetDelta { remove, ..empty() });
    let removed = hosts(remove_hosts).into_iter();
    let removed = removed.map(|hosts| IpSetDelta { remove_hosts: Some(hosts), ..empty() });
    let additions = members(&add).into_iter().map(|add| IpSetDelta { add, ..empty() });
    let added = hosts(add_hosts).into_iter().map(|hosts| IpSetDelta { add_hosts: Some(hosts), ..empty() });
    removals.chain(removed).chain(additions).chain(added).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use caracal_plane_api::{Prefix, Transaction};

    fn remove(name: &str) -> Op {
        Op { op: Some(op::Op::ProfileRemove(name.to_owned())) }
    }

    fn ip_set(members: u32) -> Op {
        let members = (0..members)
            .map(|i| Member {
                prefix: Some(Prefix { address: i.to_be_bytes().to_vec(), length: 32 }),
                protocol: 6,
                port: 80,
            })
            .collect();
        Op { op: Some(op::Op::IpSet(IpSet { id: "s".into(), members, hosts: None })) }
    }

    #[test]
    fn order_is_kept_and_no_chunk_is_over_the_limit() {
        let ops: Vec<Op> = (0..100).map(|i| remove(&"x".repeat(i))).collect();
        let chunks = chunks(ops.clone(), 500, 500);
        assert!(chunks.len() > 5);
        for chunk in &chunks {
            let transaction = Transaction { seq: 0, ops: chunk.clone(), in_sync: false };
            assert!(transaction.encoded_len() <= 500, "{}", transaction.encoded_len());
        }
        assert_eq!(chunks.concat(), ops);
    }

    #[test]
    fn an_empty_state_is_one_empty_transaction() {
        assert_eq!(chunks(vec![], 500, 500), vec![Vec::<Op>::new()]);
    }

    #[test]
    fn a_set_larger_than_a_chunk_becomes_a_set_and_additions() {
        let chunks = chunks(vec![remove("a"), ip_set(1000), remove("b")], 4096, 4096);
        let mut members = 0;
        let mut sets = 0;
        for op in chunks.iter().flatten() {
            assert!(size(op) <= 4096);
            match op.op.as_ref().unwrap() {
                op::Op::IpSet(set) => {
                    assert_eq!(members, 0, "the set comes before its additions");
                    sets += 1;
                    members += set.members.len();
                }
                op::Op::IpSetDelta(delta) => members += delta.add.len(),
                _ => {}
            }
        }
        assert_eq!((sets, members), (1, 1000));
    }

    #[test]
    fn a_set_that_fits_into_a_message_is_never_seen_in_parts() {
        let chunks = chunks(vec![remove("a"), ip_set(1000), remove("b")], 4096, 1 << 20);
        let lengths: Vec<usize> = chunks.iter().map(Vec::len).collect();
        assert_eq!(lengths, [1, 1, 1]);
    }

    #[test]
    fn packed_hosts_and_changes_of_sets_are_split_between_addresses() {
        let hosts = || {
            let v4 = (0..3000_u32).flat_map(u32::to_be_bytes).collect();
            let v6 = (0..1000_u128).flat_map(u128::to_be_bytes).collect();
            Some(Hosts { v4, v6 })
        };
        let set = op::Op::IpSet(IpSet { id: "s".into(), members: vec![], hosts: hosts() });
        let delta = op::Op::IpSetDelta(IpSetDelta {
            id: "s".into(),
            add_hosts: hosts(),
            remove_hosts: hosts(),
            ..IpSetDelta::default()
        });
        for (op, times) in [(set, 1), (delta, 2)] {
            let parts = split(Op { op: Some(op) }, 1000);
            let mut bytes = (0, 0);
            for (index, part) in parts.iter().enumerate() {
                assert!(size(part) <= 1000, "{}", size(part));
                let hosts = match part.op.as_ref().unwrap() {
                    op::Op::IpSet(set) => {
                        assert_eq!(index, 0);
                        vec![set.hosts.clone()]
                    }
                    op::Op::IpSetDelta(delta) => vec![delta.add_hosts.clone(), delta.remove_hosts.clone()],
                    other => panic!("{other:?}"),
                };
                for hosts in hosts.into_iter().flatten() {
                    assert_eq!((hosts.v4.len() % 4, hosts.v6.len() % 16), (0, 0));
                    bytes = (bytes.0 + hosts.v4.len(), bytes.1 + hosts.v6.len());
                }
            }
            assert_eq!(bytes, (12_000 * times, 16_000 * times));
        }
    }

    #[test]
    fn an_operation_that_cannot_be_split_is_sent_whole() {
        assert_eq!(chunks(vec![remove(&"x".repeat(9000))], 4096, 4096).len(), 1);
    }
}
