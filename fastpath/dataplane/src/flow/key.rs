//! What identifies a flow, seen from the endpoint that it belongs to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::table::EndpointIndex;

/// A flow of one endpoint: both directions have the same key, because it says *local* and *remote*, not source and
/// destination. 40 bytes; IPv4 addresses are mapped into IPv6 (RFC 4291, 2.5.5.2).
///
/// For ICMP see [`Icmp`](crate::stage::parse::Icmp); for protocols without ports both are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FlowKey {
    local: [u64; 2],
    remote: [u64; 2],
    ports: u32,
    endpoint_and_protocol: u32,
}

const _: () = assert!(size_of::<FlowKey>() == 40);

/// Endpoint indices that fit beside the protocol in 32 bits.
pub const ENDPOINT_INDEX_MAX: u32 = (1 << 24) - 1;

impl FlowKey {
    /// The key of `endpoint`'s flow between its own address and port and a peer's.
    #[inline]
    #[must_use]
    pub fn new(endpoint: EndpointIndex, protocol: u8, local: (IpAddr, u16), remote: (IpAddr, u16)) -> Self {
        FlowKey {
            local: words(local.0),
            remote: words(remote.0),
            ports: u32::from(local.1) << 16 | u32::from(remote.1),
            endpoint_and_protocol: endpoint.0 << 8 | u32::from(protocol),
        }
    }

    /// The same, between IPv4 addresses as numbers.
    #[inline(always)]
    #[must_use]
    pub fn of_v4(endpoint: EndpointIndex, protocol: u8, local: (u32, u16), remote: (u32, u16)) -> Self {
        FlowKey {
            local: [0, MAPPED | u64::from(local.0)],
            remote: [0, MAPPED | u64::from(remote.0)],
            ports: u32::from(local.1) << 16 | u32::from(remote.1),
            endpoint_and_protocol: endpoint.0 << 8 | u32::from(protocol),
        }
    }

    /// Hash, keyed with the worker's secret so that no sender can aim at one bucket.
    ///
    /// Folded multiplication: each step multiplies two words into 128 bits and folds the halves, which mixes every
    /// input bit into every output bit in a few cycles. All halves of addresses, which senders may choose (the local one is a
    /// client's where the node itself is asked), meet a secret of their own before they meet one another: which addresses
    /// collide depends on it.
    #[inline]
    #[must_use]
    pub fn hash(&self, secret: &HashSecret) -> u64 {
        let HashSecret([high, low, local_high, local_low]) = secret;
        let ports = u64::from(self.ports) << 32 | u64::from(self.endpoint_and_protocol);
        let remote = fold(self.remote[0] ^ high, self.remote[1] ^ low);
        let local = fold(self.local[0] ^ local_high, self.local[1] ^ local_low);
        fold(remote ^ ports ^ high, local ^ low)
    }

    /// No flow's: of no endpoint, between addresses that nobody has.
    pub const OF_NONE: FlowKey = FlowKey {
        local: [u64::MAX; 2],
        remote: [u64::MAX; 2],
        ports: u32::MAX,
        endpoint_and_protocol: u32::MAX,
    };

    /// The endpoint.
    #[inline]
    #[must_use]
    pub fn endpoint(&self) -> EndpointIndex {
        EndpointIndex(self.endpoint_and_protocol >> 8)
    }

    /// IP protocol number.
    #[inline]
    #[must_use]
    pub fn protocol(&self) -> u8 {
        self.endpoint_and_protocol.to_le_bytes()[0]
    }

    /// The endpoint's own address and port.
    #[inline]
    #[must_use]
    pub fn local(&self) -> (IpAddr, u16) {
        (address(self.local), (self.ports >> 16) as u16)
    }

    /// The peer's address and port.
    #[inline]
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "the low half is wanted")]
    pub fn remote(&self) -> (IpAddr, u16) {
        (address(self.remote), self.ports as u16)
    }

    /// Says whose flow it is.
    #[inline]
    pub fn set_endpoint(&mut self, endpoint: EndpointIndex) {
        self.endpoint_and_protocol = endpoint.0 << 8 | self.endpoint_and_protocol & 0xff;
    }

    /// The key under which the other side, an endpoint too, knows the same packets.
    #[inline]
    #[must_use]
    pub fn seen_by(&self, endpoint: EndpointIndex) -> FlowKey {
        let mut key =
            FlowKey { local: self.remote, remote: self.local, ports: self.ports.rotate_left(16), ..*self };
        key.set_endpoint(endpoint);
        key
    }

    /// The local address, the remote one and both ports, of a flow between IPv4 addresses.
    #[inline]
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "the low half is the address")]
    pub fn parts_v4(&self) -> (u32, u32, u32) {
        (self.local[1] as u32, self.remote[1] as u32, self.ports)
    }
}

/// What keys the hash: nobody outside may know it.
#[derive(Clone, Copy, Debug)]
pub struct HashSecret([u64; 4]);

impl HashSecret {
    /// Four words from one (splitmix64).
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut state = seed;
        HashSecret(std::array::from_fn(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = state;
            word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            word ^ word >> 31
        }))
    }
}

const MAPPED: u64 = 0xffff << 32;

#[inline]
pub(crate) fn words(address: IpAddr) -> [u64; 2] {
    match address {
        IpAddr::V4(v4) => [0, MAPPED | u64::from(v4.to_bits())],
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            [(bits >> 64) as u64, bits as u64]
        }
    }
}

#[inline]
#[allow(clippy::cast_possible_truncation, reason = "the low half is the address")]
fn address(words: [u64; 2]) -> IpAddr {
    match words {
        [0, low] if low >> 32 == MAPPED >> 32 => IpAddr::V4(Ipv4Addr::from_bits(low as u32)),
        [high, low] => IpAddr::V6(Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low))),
    }
}

#[inline]
pub(crate) fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_gives_back_what_it_was_made_of() {
        for (local, remote) in [
            (IpAddr::from([10, 0, 0, 1]), IpAddr::from([192, 0, 2, 255])),
            (IpAddr::from(Ipv6Addr::LOCALHOST), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 7u16])),
        ] {
            let key = FlowKey::new(EndpointIndex(ENDPOINT_INDEX_MAX), 132, (local, 80), (remote, 65_535));
            assert_eq!(
                (key.endpoint(), key.protocol(), key.local(), key.remote()),
                (EndpointIndex(ENDPOINT_INDEX_MAX), 132, (local, 80), (remote, 65_535))
            );
        }
    }

    #[test]
    fn hashes_of_neighbouring_flows_spread_over_all_buckets() {
        // 64 pods × 64 ports × 16 peers into 4,096 buckets: 16 each on average. A poor hash leaves many empty.
        let secret = HashSecret::new(7);
        let mut buckets = vec![0u32; 4096];
        for peer in 0..16 {
            for pod in 0..64 {
                for port in 0..64 {
                    let key = FlowKey::new(
                        EndpointIndex(u32::from(pod)),
                        6,
                        (IpAddr::from(Ipv4Addr::new(10, 244, 1, pod)), 80),
                        (IpAddr::from(Ipv4Addr::new(10, 244, 2, peer)), 32_768 + port),
                    );
                    buckets[(key.hash(&secret) & 4095) as usize] += 1;
                }
            }
        }
        assert!(buckets.iter().all(|&n| n > 0 && n < 50), "{:?}", buckets.iter().max());
    }

    #[test]
    fn a_sender_who_may_choose_both_halves_of_an_address_cannot_aim() {
        // Halves that cancel each other in whatever only adds them up, for every rotation: a few buckets would get all.
        let secret = HashSecret::new(11);
        for (rotation, is_local) in (0..64).flat_map(|rotation| [(rotation, false), (rotation, true)]) {
            let hashes: std::collections::BTreeSet<u64> = (0..256u64)
                .map(|n| {
                    let (high, low) =
                        (0x2001_0db8_0000_0000 | n, (0x2001_0db8_0000_0000 | n).rotate_left(rotation));
                    let chosen =
                        (IpAddr::V6(Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low))), 1);
                    let given = (IpAddr::V6(Ipv6Addr::LOCALHOST), 80);
                    let (local, remote) = if is_local { (chosen, given) } else { (given, chosen) };
                    FlowKey::new(EndpointIndex(1), 6, local, remote).hash(&secret) % 4096
                })
                .collect();
            // Of 4,096 buckets 256 balls hit 248 on average.
            assert!(hashes.len() > 220, "{rotation}, {is_local}: {}", hashes.len());
        }
    }
}
