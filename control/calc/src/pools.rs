//! The pools of addresses: how packets to their addresses go, and which packets get another source.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use caracal_model::cidr::Cidr;
use caracal_model::convert::{Between, Pool, PoolMode};
use caracal_plane_api as plane;

use crate::plane::prefix;

/// The vertex that keeps pools.
#[derive(Debug, Default)]
pub(crate) struct Pools {
    by_name: BTreeMap<String, Pool>,
}

impl Pools {
    /// The pool is there, like this, or is gone. Returns the prefixes whose addresses are concerned.
    pub fn set(&mut self, name: &str, pool: Option<Pool>) -> Vec<Cidr> {
        if self.by_name.get(name) == pool.as_ref() {
            return Vec::new();
        }
        let now = pool.as_ref().map(|pool| pool.cidr);
        let former = match pool {
            Some(pool) => self.by_name.insert(name.to_owned(), pool),
            None => self.by_name.remove(name),
        };
        former.map(|pool| pool.cidr).into_iter().chain(now).collect()
    }

    /// The smallest pool around a prefix; of equal ones, which no API server takes, that whose name comes first.
    pub fn around(&self, cidr: &Cidr) -> Option<&Pool> {
        let around = self.by_name.values().filter(|pool| pool.cidr.covers(cidr));
        around.min_by_key(|pool| Reverse(pool.cidr.length()))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Whether any pool of this family is of such a mode.
    pub fn any(&self, ipv4: bool, is_mode: impl Fn(PoolMode) -> bool) -> bool {
        self.by_name.values().any(|pool| pool.cidr.is_ipv4() == ipv4 && is_mode(pool.mode))
    }

    /// Those to whose addresses nodes send outside of any tunnel, if only to nodes of their own subnet.
    pub fn plain(&self) -> Vec<plane::Prefix> {
        let is_plain =
            |mode| !matches!(mode, PoolMode::Vxlan(Between::AllNodes) | PoolMode::Ipip(Between::AllNodes));
        let mut cidrs: Vec<Cidr> =
            self.by_name.values().filter(|pool| is_plain(pool.mode)).map(|pool| pool.cidr).collect();
        cidrs.sort();
        cidrs.dedup();
        cidrs.into_iter().map(prefix).collect()
    }

    /// All of them, if packets from any get another source on their way out.
    pub fn nat_outgoing(&self) -> Option<Vec<plane::Pool>> {
        self.by_name.values().any(|pool| pool.nat_outgoing).then(|| {
            let mut pools: Vec<&Pool> = self.by_name.values().collect();
            pools.sort_by_key(|pool| pool.cidr);
            pools.dedup_by_key(|pool| pool.cidr);
            let say = |pool: &Pool| plane::Pool {
                prefix: Some(prefix(pool.cidr)),
                nat_outgoing: pool.nat_outgoing,
            };
            pools.into_iter().map(say).collect()
        })
    }
}
