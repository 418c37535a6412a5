//! Which backend a client was given last, for services whose clients keep theirs. A fixed number of entries in buckets of
//! eight; a full bucket forgets whom it has not heard of for longest.
//!
//! A worker knows what it has chosen itself. Where a client's connections have several owners they agree all the same:
//! for such a service the choice depends on the client's address alone. They may differ for a client that a change of the
//! backends moves.

use std::net::IpAddr;

use crate::clock::Tick;
use crate::flow::key::{fold, words};
use crate::table::{Backend, ServiceIndex};

const WAYS: usize = 8;
/// Clients that a worker remembers.
pub const CLIENTS: usize = 8192;

#[derive(Clone, Copy, Debug)]
struct Client {
    address: IpAddr,
    service: ServiceIndex,
    backend: Backend,
    last_asked: Tick,
}

/// A worker's memory of clients.
#[derive(Debug)]
pub struct Affinity {
    buckets: Vec<[Option<Client>; WAYS]>,
    secret: u64,
}

impl Affinity {
    /// Of nobody. `secret` keys the hash.
    #[must_use]
    pub fn new(secret: u64) -> Self {
        Affinity { buckets: vec![[None; WAYS]; CLIENTS / WAYS], secret }
    }

    /// The backend that a client has, if it has asked within `timeout_ms`.
    #[must_use]
    pub fn get(&self, client: IpAddr, service: ServiceIndex, timeout_ms: u32, now: Tick) -> Option<Backend> {
        let bucket = &self.buckets[self.bucket(client, service)];
        let known = bucket.iter().flatten().find(|c| c.address == client && c.service == service)?;
        (now.since(known.last_asked) <= timeout_ms).then_some(known.backend)
    }

    /// Notes what a client has been given.
    pub fn set(&mut self, client: IpAddr, service: ServiceIndex, backend: Backend, now: Tick) {
        let at = self.bucket(client, service);
        let bucket = &mut self.buckets[at];
        let same = bucket.iter().position(|c| c.is_some_and(|c| c.address == client && c.service == service));
        let place = same.or_else(|| bucket.iter().position(Option::is_none)).unwrap_or_else(|| {
            let age = |c: &Option<Client>| c.map_or(u32::MAX, |c| now.since(c.last_asked));
            (0..WAYS).max_by_key(|place| age(&bucket[*place])).unwrap_or(0)
        });
        bucket[place] = Some(Client { address: client, service, backend, last_asked: now });
    }

    fn bucket(&self, client: IpAddr, service: ServiceIndex) -> usize {
        const KEY: u64 = 0x9fb2_1c65_1e98_df25;
        let [high, low] = words(client);
        let of_client = fold(high.rotate_left(11) ^ low ^ self.secret, KEY);
        fold(of_client ^ u64::from(service.0), self.secret ^ KEY) as usize % self.buckets.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: ServiceIndex = ServiceIndex(7);

    fn client(number: u32) -> IpAddr {
        IpAddr::V4(std::net::Ipv4Addr::from_bits(number))
    }

    fn backend(port: u16) -> Backend {
        Backend { address: client(1), port }
    }

    #[test]
    fn a_client_keeps_its_backend_until_it_has_not_asked_for_so_long() {
        let mut affinity = Affinity::new(5);
        affinity.set(client(9), SERVICE, backend(80), Tick(u32::MAX - 10));
        assert_eq!(affinity.get(client(9), SERVICE, 100, Tick(89)), Some(backend(80)));
        assert_eq!(affinity.get(client(9), SERVICE, 100, Tick(90)), None);
        assert_eq!(affinity.get(client(8), SERVICE, 100, Tick(89)), None);
        assert_eq!(affinity.get(client(9), ServiceIndex(8), 100, Tick(89)), None);
        affinity.set(client(9), SERVICE, backend(81), Tick(50));
        assert_eq!(affinity.get(client(9), SERVICE, 100, Tick(150)), Some(backend(81)));
    }

    #[test]
    fn who_has_not_asked_for_longest_is_forgotten_first() {
        let mut affinity = Affinity::new(5);
        let crowd: Vec<IpAddr> =
            (0..).map(client).filter(|c| affinity.bucket(*c, SERVICE) == 3).take(WAYS + 1).collect();
        for (i, client) in crowd.iter().enumerate() {
            affinity.set(*client, SERVICE, backend(i as u16), Tick(i as u32));
        }
        let known = |client| affinity.get(client, SERVICE, 1000, Tick(20)).is_some();
        assert!(!known(crowd[0]) && crowd[1..].iter().all(|client| known(*client)));
    }
}
