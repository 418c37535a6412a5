//! What a fastpath's own report says of its health. Pure.

use crate::StatusReport;

/// A worker comes round every 50 ms at least. One that has not for so long, milliseconds, does not forward.
pub const SILENCE_MS: u64 = 3000;

impl StatusReport {
    /// Workers that have not come round for so long, with how long that is, in milliseconds.
    pub fn silent_workers(&self, limit_ms: u64) -> impl Iterator<Item = (u32, u64)> {
        let silent = self.workers.iter().filter(move |worker| worker.silent_ms > limit_ms);
        silent.map(|worker| (worker.index, worker.silent_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WorkerRow;

    #[test]
    fn a_worker_is_silent_once_it_is_longer_than_it_may_be() {
        let workers = [20, 3000, 3001].into_iter().zip(0..);
        let workers = workers.map(|(silent_ms, index)| WorkerRow { index, silent_ms }).collect();
        let status = StatusReport { workers, ..StatusReport::default() };
        assert_eq!(status.silent_workers(3000).collect::<Vec<_>>(), [(2, 3001)]);
    }
}
