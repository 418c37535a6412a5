//! The ports that translations of the node have: a range, in equal slices, one a worker. So a port says which worker
//! knows what it stands for.
//!
//! A port may stand for as many connections as there are remote sides: it is taken once for each (protocol, remote
//! address, remote port). Hence the capacity: as many connections to one such remote side as the slices have ports.

use std::ops::RangeInclusive;

use caracal_plane_api::NAT_PORTS;

use crate::table::NodeConfig;
use crate::worker::WorkerIndex;

/// Ports that are tried before there is said to be none: a slice with one free port in so many is as good as full.
pub const PROBES: u16 = 128;

/// The range, and by how many workers it is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    first: u16,
    /// Ports a worker.
    each: u16,
    workers: u16,
}

impl Ports {
    /// A range for so many workers. What does not divide evenly is left over.
    #[must_use]
    pub fn new(range: &RangeInclusive<u16>, workers: u16) -> Ports {
        let len = u32::from(*range.end()).saturating_sub(u32::from(*range.start())) + 1;
        let workers = workers.max(1);
        Ports { first: *range.start(), each: (len / u32::from(workers)).min(0xffff) as u16, workers }
    }

    /// The range that a node is to use.
    #[must_use]
    pub fn of(node: Option<&NodeConfig>, workers: u16) -> Ports {
        let stated = node.and_then(|node| node.nat_outgoing.as_ref()).and_then(|nat| nat.ports.as_ref());
        Ports::new(stated.unwrap_or(&NAT_PORTS), workers)
    }

    /// Whose port this is; none: nobody's.
    #[inline]
    #[must_use]
    pub fn owner(&self, port: u16) -> Option<WorkerIndex> {
        let worker = port.checked_sub(self.first)?.checked_div(self.each)?;
        (worker < self.workers).then_some(WorkerIndex(worker))
    }

    /// A worker's ports; none: there are fewer ports than workers.
    #[must_use]
    pub fn slice(&self, worker: WorkerIndex) -> Option<RangeInclusive<u16>> {
        let first = self.first.checked_add(worker.0.checked_mul(self.each)?)?;
        let last = first.checked_add(self.each.checked_sub(1)?)?;
        (worker.0 < self.workers).then_some(first..=last)
    }

    /// Ports of a worker's to try for a connection, each once: the one that it has, if that is the worker's, then by
    /// `hash`.
    pub fn candidates(&self, worker: WorkerIndex, own: u16, hash: u64) -> impl Iterator<Item = u16> + use<> {
        let slice = self.slice(worker);
        let own = slice.clone().filter(|slice| slice.contains(&own)).map(|_| own);
        let rest = slice.into_iter().flat_map(move |slice| {
            let len = slice.end() - slice.start() + 1;
            let start = (hash % u64::from(len)) as u32;
            let first = *slice.start();
            (0..PROBES.min(len)).map(move |i| first + ((start + u32::from(i)) % u32::from(len)) as u16)
        });
        own.into_iter().chain(rest.filter(move |port| Some(*port) != own))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn calicos_range_is_the_default_and_is_shared_evenly() {
        let ports = Ports::of(None, 4);
        assert_eq!(ports.slice(WorkerIndex(0)), Some(20_000..=22_499));
        assert_eq!(ports.slice(WorkerIndex(3)), Some(27_500..=29_999));
        assert_eq!(ports.slice(WorkerIndex(4)), None);
    }

    #[test]
    fn more_workers_than_ports_leave_nobody_with_any() {
        let ports = Ports::new(&(5..=6), 3);
        assert_eq!((ports.slice(WorkerIndex(0)), ports.owner(5)), (None, None));
        assert_eq!(ports.candidates(WorkerIndex(0), 5, 1).count(), 0);
    }

    #[test]
    fn all_ports_of_all_numbers_are_a_range_too() {
        let ports = Ports::new(&(0..=u16::MAX), 1);
        assert_eq!(ports.owner(0), Some(WorkerIndex(0)));
        assert_eq!(ports.candidates(WorkerIndex(0), 0, 7).next(), Some(0));
    }

    proptest! {
        #[test]
        fn a_port_is_in_the_slice_of_its_owner_and_in_no_other(
            first in any::<u16>(), last in any::<u16>(), workers in 1u16..70, port in any::<u16>()
        ) {
            let ports = Ports::new(&(first.min(last)..=first.max(last)), workers);
            let holders: Vec<u16> = (0..workers)
                .filter(|worker| ports.slice(WorkerIndex(*worker)).is_some_and(|slice| slice.contains(&port)))
                .collect();
            prop_assert_eq!(ports.owner(port).map(|worker| vec![worker.0]).unwrap_or_default(), holders);
        }

        #[test]
        fn candidates_are_the_workers_own_and_each_comes_once(
            workers in 1u16..9, worker in 0u16..9, own in any::<u16>(), hash in any::<u64>()
        ) {
            let ports = Ports::new(&(20_000..=20_999), workers);
            let candidates: Vec<u16> = ports.candidates(WorkerIndex(worker), own, hash).collect();
            let distinct: BTreeSet<u16> = candidates.iter().copied().collect();
            prop_assert_eq!(candidates.len(), distinct.len());
            prop_assert!(distinct.iter().all(|port| ports.owner(*port) == Some(WorkerIndex(worker))));
            if worker < workers {
                prop_assert!(candidates.len() >= usize::from(PROBES.min(1000 / workers)));
            }
        }
    }
}
