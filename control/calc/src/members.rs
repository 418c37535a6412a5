//! Members of sets, and how they are said: single addresses packed, networks and ports one by one.

use std::net::IpAddr;

use caracal_model::cidr::Cidr;
use caracal_plane_api as plane;

use crate::plane::prefix;

/// A member of a set: a network, or an address with a protocol and a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Member {
    pub cidr: Cidr,
    /// 0 with port 0: whatever protocol and port.
    pub protocol: u8,
    pub port: u16,
}

impl Member {
    /// A network, or an address alone.
    pub fn net(cidr: Cidr) -> Self {
        Self { cidr, protocol: 0, port: 0 }
    }
}

/// Members as the plane API says them. Sorted, and none twice.
#[derive(Debug, Default)]
pub(crate) struct Packed {
    pub members: Vec<plane::Member>,
    pub hosts: Option<plane::Hosts>,
}

impl Packed {
    /// Packs members in whatever order, some perhaps given more than once.
    pub fn of(members: impl Iterator<Item = Member>) -> Self {
        // Addresses of IPv4 are by far the most: they are sorted as the numbers that they are.
        let (mut v4, mut v6, mut others) = (Vec::<u32>::new(), Vec::<u128>::new(), Vec::new());
        for member in members {
            match member.cidr.address() {
                IpAddr::V4(address) if member.is_host() => v4.push(address.into()),
                IpAddr::V6(address) if member.is_host() => v6.push(address.into()),
                _ => others.push(member),
            }
        }
        v4.sort_unstable();
        v4.dedup();
        v6.sort_unstable();
        v6.dedup();
        others.sort_unstable();
        others.dedup();
        let hosts = plane::Hosts {
            v4: v4.into_iter().flat_map(u32::to_be_bytes).collect(),
            v6: v6.into_iter().flat_map(u128::to_be_bytes).collect(),
        };
        let some = !hosts.v4.is_empty() || !hosts.v6.is_empty();
        Self { members: others.into_iter().map(Member::to_plane).collect(), hosts: some.then_some(hosts) }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty() && self.hosts.is_none()
    }
}

impl Member {
    fn is_host(&self) -> bool {
        self.protocol == 0 && self.port == 0 && self.cidr.is_host()
    }

    fn to_plane(self) -> plane::Member {
        plane::Member {
            prefix: Some(prefix(self.cidr)),
            protocol: self.protocol.into(),
            port: self.port.into(),
        }
    }
}

/// The comings and goings of a set's members since it was last said: every member comes and goes by turns.
#[derive(Debug, Default)]
pub(crate) struct MemberLog {
    moves: Vec<(Member, Move)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Move {
    Came,
    Went,
}

impl MemberLog {
    pub fn came(&mut self, member: Member) {
        self.moves.push((member, Move::Came));
    }

    pub fn went(&mut self, member: Member) {
        self.moves.push((member, Move::Went));
    }

    /// What has come and what has gone, when all is told.
    pub fn settle(mut self) -> (Vec<Member>, Vec<Member>) {
        // Stable: the moves of one member stay in order.
        self.moves.sort_by_key(|(member, _)| *member);
        let (mut come, mut gone) = (Vec::new(), Vec::new());
        for moves in self.moves.chunk_by(|(a, _), (b, _)| a == b) {
            match (moves.first(), moves.last()) {
                (Some((member, Move::Came)), Some((_, Move::Came))) => come.push(*member),
                (Some((member, Move::Went)), Some((_, Move::Went))) => gone.push(*member),
                _ => {}
            }
        }
        (come, gone)
    }

    /// The members as last said, given those that there are now.
    pub fn undo(&self, now: impl Iterator<Item = Member>) -> impl Iterator<Item = Member> {
        let (come, gone) = Self { moves: self.moves.clone() }.settle();
        now.filter(move |member| come.binary_search(member).is_err()).chain(gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(text: &str) -> Member {
        Member::net(text.parse().unwrap())
    }

    #[test]
    fn single_addresses_are_packed_and_the_rest_is_said_one_by_one() {
        let http = |text: &str| Member { protocol: 6, port: 80, ..member(text) };
        let members =
            ["10.0.0.2/32", "10.0.0.1/32", "2001:db8::1/128", "10.0.0.0/8", "2001:db8::/32", "10.0.0.2/32"];
        let ports = ["10.0.0.1/32", "2001:db8::1/128"].map(http);
        let packed = Packed::of(members.map(member).into_iter().chain(ports));
        let hosts = packed.hosts.unwrap();
        assert_eq!(hosts.v4, [10, 0, 0, 1, 10, 0, 0, 2]);
        assert_eq!((hosts.v6.len(), hosts.v6[0], hosts.v6[15]), (16, 0x20, 1));
        let lengths: Vec<(u32, u32)> = packed
            .members
            .iter()
            .map(|member| (member.prefix.as_ref().unwrap().length, member.port))
            .collect();
        assert_eq!(lengths, [(8, 0), (32, 80), (32, 0), (128, 80)]);
        assert!(Packed::of([].into_iter()).is_empty());
    }

    #[test]
    fn a_member_that_came_and_went_is_not_told() {
        let [a, b, c, d] = ["10.0.0.1/32", "10.0.0.2/32", "10.0.0.3/32", "10.0.0.4/32"].map(member);
        let mut log = MemberLog::default();
        log.came(a);
        log.went(b);
        log.went(c);
        log.went(a);
        log.came(b);
        log.came(d);
        let before: Vec<Member> = log.undo([b, d].into_iter()).collect();
        assert_eq!(before, [b, c]);
        assert_eq!(log.settle(), (vec![d], vec![c]));
    }
}
