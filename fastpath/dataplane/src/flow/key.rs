//! What identifies a flow, seen from the endpoint that it belongs to.

use std::net::IpAddr;

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

    /// Hash, keyed with the worker's secret so that no sender can aim at one bucket.
    ///
    /// Folded multiplication: each step multiplies two words into 128 bits and folds the halves, which mixes every
    /// input bit into every output bit in a few cycles.
    #[inline]
    #[must_use]
    pub fn hash(&self, secret: u64) -> u64 {
        const A: u64 = 0x9e37_79b9_7f4a_7c15;
        const B: u64 = 0xd1b5_4a32_d192_ed03;
        let tail = u64::from(self.ports) << 32 | u64::from(self.endpoint_and_protocol);
        // IPv4 has all its entropy in the second words; IPv6 in all of them.
        let locals = self.local[0] ^ self.local[1].rotate_left(32);
        let remotes = self.remote[0].rotate_left(23) ^ self.remote[1];
        let first = fold(remotes ^ secret, tail ^ A);
        fold(first ^ locals ^ B, secret ^ tail.rotate_left(17) ^ A)
    }

    /// The endpoint.
    #[must_use]
    pub fn endpoint(&self) -> EndpointIndex {
        EndpointIndex(self.endpoint_and_protocol >> 8)
    }

    /// IP protocol number.
    #[must_use]
    pub fn protocol(&self) -> u8 {
        self.endpoint_and_protocol.to_le_bytes()[0]
    }

    /// The endpoint's own address and port.
    #[must_use]
    pub fn local(&self) -> (IpAddr, u16) {
        (address(self.local), (self.ports >> 16) as u16)
    }

    /// The peer's address and port.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "the low half is wanted")]
    pub fn remote(&self) -> (IpAddr, u16) {
        (address(self.remote), self.ports as u16)
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

fn address(words: [u64; 2]) -> IpAddr {
    let v6 = std::net::Ipv6Addr::from_bits(u128::from(words[0]) << 64 | u128::from(words[1]));
    v6.to_canonical()
}

#[inline]
pub(crate) fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

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
                    buckets[(key.hash(7) & 4095) as usize] += 1;
                }
            }
        }
        assert!(buckets.iter().all(|&n| n > 0 && n < 50), "{:?}", buckets.iter().max());
    }
}
