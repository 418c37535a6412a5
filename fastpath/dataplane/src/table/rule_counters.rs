//! How often each policy rule decided: one writer a worker, paged by [`RuleId`].
//!
//! A worker's page is written by that worker alone, so a bump is a plain load and store; the reader adds the workers
//! up. The controller adds pages before it publishes tables that name a rule in them, so workers never allocate.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::policy::RuleId;

const PAGE: usize = 128;

/// Packets and bytes of one rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RuleCount {
    /// First packets of flows that the rule decided.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

#[derive(Debug, Default)]
struct Cell {
    packets: AtomicU64,
    bytes: AtomicU64,
}

type Page = [Cell; PAGE];

/// The counters of all rules. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct RuleCounters {
    /// By worker, then by page.
    workers: Arc<[Box<[Arc<Page>]>]>,
}

impl RuleCounters {
    /// Counts packets and bytes for `rule`. Each `worker` is used by one thread.
    #[inline]
    pub fn bump(&self, worker: u16, rule: RuleId, packets: u64, bytes: u64) {
        let Some(cell) = self.cell(usize::from(worker), rule) else { return };
        cell.packets.store(cell.packets.load(Relaxed).wrapping_add(packets), Relaxed);
        cell.bytes.store(cell.bytes.load(Relaxed).wrapping_add(bytes), Relaxed);
    }

    /// The sum over all workers.
    pub fn read(&self, rule: RuleId) -> RuleCount {
        let cells = (0..self.workers.len()).filter_map(|worker| self.cell(worker, rule));
        cells.fold(RuleCount::default(), |sum, cell| RuleCount {
            packets: sum.packets.wrapping_add(cell.packets.load(Relaxed)),
            bytes: sum.bytes.wrapping_add(cell.bytes.load(Relaxed)),
        })
    }

    /// The same counters with room for rules below `rules`, for so many workers.
    pub(super) fn grown(&self, workers: u16, rules: u32) -> RuleCounters {
        let pages = (rules as usize).div_ceil(PAGE);
        let workers = (0..usize::from(workers)).map(|worker| {
            let former = self.workers.get(worker).map_or(&[][..], |pages| pages);
            let fresh = (former.len()..pages).map(|_| Arc::new(std::array::from_fn(|_| Cell::default())));
            former.iter().cloned().chain(fresh).collect()
        });
        RuleCounters { workers: workers.collect() }
    }

    /// How many rules there is room for.
    pub(super) fn capacity(&self) -> u32 {
        self.workers.first().map_or(0, |pages| (pages.len() * PAGE) as u32)
    }

    #[inline]
    fn cell(&self, worker: usize, rule: RuleId) -> Option<&Cell> {
        let rule = rule.0 as usize;
        Some(&self.workers.get(worker)?.get(rule / PAGE)?[rule % PAGE])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grown_counters_share_what_was_counted() {
        let small = RuleCounters::default().grown(2, 3);
        small.bump(0, RuleId(2), 1, 60);
        let grown = small.grown(2, 1000);
        small.bump(1, RuleId(2), 2, 100);
        grown.bump(0, RuleId(999), 5, 5);
        assert_eq!(grown.read(RuleId(2)), RuleCount { packets: 3, bytes: 160 });
        assert_eq!(grown.read(RuleId(999)).packets, 5);
        assert!(small.capacity() < 1000, "the smaller view has no such rule");
        assert_eq!(small.read(RuleId(999)), RuleCount::default());
    }
}
