//! How often each policy rule decided: one writer a worker, paged by [`RuleId`].
//!
//! A worker's page is written by that worker alone, so a bump is a plain load and store; the reader adds the workers
//! up. The controller adds pages before it publishes tables that name a rule in them, so workers never allocate.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::policy::RuleId;

const PAGE: usize = 128;

/// What flows that a rule decided have carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RuleCount {
    /// Flows whose first packet it decided.
    pub connections: u64,
    /// Packets.
    pub packets: u64,
    /// Bytes, from Ethernet header to end.
    pub bytes: u64,
}

/// As what a rule decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deciding {
    /// It was enforced.
    Enforced,
    /// It would have decided if staged policies were enforced.
    Staged,
}

/// Connections, packets, bytes.
type Count = [AtomicU64; 3];

#[derive(Debug, Default)]
struct Cell {
    enforced: Count,
    staged: Count,
}

impl Cell {
    #[inline]
    fn count(&self, deciding: Deciding) -> &Count {
        match deciding {
            Deciding::Enforced => &self.enforced,
            Deciding::Staged => &self.staged,
        }
    }
}

type Page = [Cell; PAGE];

/// The counters of all rules. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct RuleCounters {
    /// By worker, then by page.
    workers: Arc<[Box<[Arc<Page>]>]>,
}

impl RuleCounters {
    /// Adds to what `rule` has decided. Each `worker` is used by one thread.
    #[inline]
    pub fn bump(&self, worker: u16, rule: RuleId, deciding: Deciding, by: RuleCount) {
        let Some(cell) = self.cell(usize::from(worker), rule) else { return };
        for (count, by) in cell.count(deciding).iter().zip([by.connections, by.packets, by.bytes]) {
            count.store(count.load(Relaxed).wrapping_add(by), Relaxed);
        }
    }

    /// The sum over all workers.
    pub fn read(&self, rule: RuleId, deciding: Deciding) -> RuleCount {
        let cells = (0..self.workers.len()).filter_map(|worker| self.cell(worker, rule));
        let sums = cells.fold([0u64; 3], |sums, cell| {
            let counts = cell.count(deciding);
            std::array::from_fn(|i| sums[i].wrapping_add(counts[i].load(Relaxed)))
        });
        RuleCount { connections: sums[0], packets: sums[1], bytes: sums[2] }
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
        let count = |packets, bytes| RuleCount { connections: 1, packets, bytes };
        let enforced = Deciding::Enforced;
        let small = RuleCounters::default().grown(2, 3);
        small.bump(0, RuleId(2), enforced, count(1, 60));
        let grown = small.grown(2, 1000);
        small.bump(1, RuleId(2), enforced, count(2, 100));
        grown.bump(0, RuleId(999), enforced, count(5, 5));
        grown.bump(0, RuleId(2), Deciding::Staged, count(7, 8));
        assert_eq!(grown.read(RuleId(2), enforced), RuleCount { connections: 2, packets: 3, bytes: 160 });
        assert_eq!(grown.read(RuleId(2), Deciding::Staged), count(7, 8));
        assert_eq!(grown.read(RuleId(999), enforced).packets, 5);
        assert!(small.capacity() < 1000, "the smaller view has no such rule");
        assert_eq!(small.read(RuleId(999), enforced), RuleCount::default());
    }
}
