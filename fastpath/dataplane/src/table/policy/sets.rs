//! IP sets: their names, and what it means to be in one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use caracal_plane_api as plane;

use crate::table::prefix::{Prefix, PrefixError};

/// An IP set's name, interned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::table) struct SetId(u32);

/// The names of IP sets. A name keeps its number, whether or not the set exists.
#[derive(Debug, Default)]
pub(in crate::table) struct SetNames {
    by_name: HashMap<Arc<str>, SetId>,
    by_id: Vec<Arc<str>>,
}

impl SetNames {
    pub fn intern(&mut self, name: &str) -> SetId {
        if let Some(id) = self.by_name.get(name) {
            return *id;
        }
        let (id, name): (_, Arc<str>) = (SetId(self.by_id.len() as u32), name.into());
        self.by_id.push(Arc::clone(&name));
        self.by_name.insert(name, id);
        id
    }

    /// The name of a set.
    pub fn name(&self, id: SetId) -> Option<&Arc<str>> {
        self.by_id.get(id.0 as usize)
    }
}

/// One way of being in a set: as an address (protocol and port 0), or with a port of a protocol of that address, or with
/// all of the protocol's (port 0). Sorted by set, so that a set's memberships are together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::table) struct Membership {
    pub set: SetId,
    pub protocol: u8,
    pub port: u16,
}

impl Membership {
    pub fn address(set: SetId) -> Membership {
        Membership { set, protocol: 0, port: 0 }
    }

    /// The first and the last port that it is about.
    pub fn ports(self) -> (u16, u16) {
        if self.port == 0 { (0, u16::MAX) } else { (self.port, self.port) }
    }
}

/// A member of a set: a prefix, or a (prefix, protocol, port), where port 0 is every port of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::table) struct Member {
    pub prefix: Prefix,
    pub protocol: u8,
    pub port: u16,
}

/// What is wrong with a member of a set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// Its prefix.
    #[error(transparent)]
    Prefix(#[from] PrefixError),
    /// Its protocol.
    #[error("protocol {0} is above 255")]
    Protocol(u32),
    /// Its port.
    #[error("port {0} is above 65535")]
    Port(u32),
}

impl Member {
    /// A single address.
    pub fn host(address: IpAddr) -> Member {
        Member { prefix: Prefix::host(address), protocol: 0, port: 0 }
    }

    pub fn from_plane(member: &plane::Member) -> Result<Member, MemberError> {
        Ok(Member {
            prefix: Prefix::from_plane(member.prefix.as_ref())?,
            protocol: u8::try_from(member.protocol).map_err(|_| MemberError::Protocol(member.protocol))?,
            port: u16::try_from(member.port).map_err(|_| MemberError::Port(member.port))?,
        })
    }

    pub fn membership(&self, set: SetId) -> Membership {
        Membership { set, protocol: self.protocol, port: self.port }
    }
}
