//! Cutting a list of operations into transactions that fit into a message.
//!
//! The calc graph orders operations so that every prefix of the list is referentially whole (what refers comes after
//! what it refers to); so any cut gives transactions that the fastpath can accept one after another.

use caracal_plane_api::{IpSet, IpSetDelta, MAX_MESSAGE_BYTES, Member, Op, op};
use prost::Message;

/// What a transaction may hold by default: well under the limit of a message, and small enough that the fastpath's
/// controller thread is not away for long.
pub const CHUNK_BYTES: usize = MAX_MESSAGE_BYTES / 16;

/// Bytes that an operation takes in a transaction: itself, its tag and its length.
pub fn size(op: &Op) -> usize {
    let length = op.encoded_len();
    1 + prost::length_delimiter_len(length) + length
}

/// The operations in transactions of at most `chunk_bytes`. An IP set larger than that becomes a set and additions to
/// it; any other operation is sent whole, however large. Never empty: an empty state is one empty transaction.
pub fn chunks(ops: Vec<Op>, chunk_bytes: usize) -> Vec<Vec<Op>> {
    let mut all = Vec::new();
    let mut chunk = Vec::new();
    let mut filled = 0;
    for op in ops.into_iter().flat_map(|op| split(op, chunk_bytes)) {
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

fn split(op: Op, chunk_bytes: usize) -> Vec<Op> {
    // A member's prefix (16 bytes and a length), protocol and port, with their tags, are less than this.
    const MEMBER_BYTES: usize = 48;
    if size(&op) <= chunk_bytes {
        return vec![op];
    }
    let Op { op: Some(op::Op::IpSet(IpSet { id, members, hosts })) } = op else {
        return vec![op];
    };
    let part = (chunk_bytes / MEMBER_BYTES).max(1);
    let mut parts = members.chunks(part).map(<[Member]>::to_vec);
    let first = op::Op::IpSet(IpSet { id: id.clone(), members: parts.next().unwrap_or_default(), hosts });
    let rest =
        parts.map(|add| op::Op::IpSetDelta(IpSetDelta { id: id.clone(), add, ..IpSetDelta::default() }));
    std::iter::once(first).chain(rest).map(|op| Op { op: Some(op) }).collect()
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
        let chunks = chunks(ops.clone(), 500);
        assert!(chunks.len() > 5);
        for chunk in &chunks {
            let transaction = Transaction { seq: 0, ops: chunk.clone(), in_sync: false };
            assert!(transaction.encoded_len() <= 500, "{}", transaction.encoded_len());
        }
        assert_eq!(chunks.concat(), ops);
    }

    #[test]
    fn an_empty_state_is_one_empty_transaction() {
        assert_eq!(chunks(vec![], 500), vec![Vec::<Op>::new()]);
    }

    #[test]
    fn a_set_larger_than_a_chunk_becomes_a_set_and_additions() {
        let chunks = chunks(vec![remove("a"), ip_set(1000), remove("b")], 4096);
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
    fn an_operation_that_cannot_be_split_is_sent_whole() {
        assert_eq!(chunks(vec![remove(&"x".repeat(9000))], 4096).len(), 1);
    }
}
