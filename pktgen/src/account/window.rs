//! Which of a flow's latest numbers have come: a bit each, for all flows in one piece of memory.

/// Numbers that a flow's window has, at least and at most.
const BITS_MIN: usize = 64;
const BITS_MAX: usize = 65_536;

/// The windows of all flows, of one size.
#[derive(Debug)]
pub struct Windows {
    /// Numbers in a window: a power of two.
    bits: u64,
    /// Bit `n % bits` of a flow's words: number n has come, for the `bits` numbers up to the flow's highest.
    words: Vec<u64>,
}

impl Windows {
    /// As large as `bytes` for all of them allow.
    #[must_use]
    pub fn new(flows: usize, bytes: usize) -> Self {
        let affordable = bytes * 8 / flows.max(1);
        let bits = match affordable.checked_ilog2() {
            Some(log) => (1 << log).clamp(BITS_MIN, BITS_MAX),
            None => BITS_MIN,
        };
        Windows { bits: bits as u64, words: vec![0; flows * bits / 64] }
    }

    /// Numbers in each.
    #[must_use]
    pub fn numbers(&self) -> u64 {
        self.bits
    }

    /// The window moves on to `sequence`, which has come; those from `next` on, before it, have not.
    pub fn advance(&mut self, flow: usize, next: u64, sequence: u64) {
        if sequence - next >= self.bits {
            let words = (self.bits / 64) as usize;
            if let Some(window) = self.words.get_mut(flow * words..(flow + 1) * words) {
                window.fill(0);
            }
        } else {
            for skipped in next..sequence {
                let (word, bit) = self.place(flow, skipped);
                if let Some(word) = self.words.get_mut(word) {
                    *word &= !bit;
                }
            }
        }
        self.mark(flow, sequence);
    }

    /// `sequence` has come.
    pub fn mark(&mut self, flow: usize, sequence: u64) {
        let (word, bit) = self.place(flow, sequence);
        if let Some(word) = self.words.get_mut(word) {
            *word |= bit;
        }
    }

    /// Whether `sequence`, which is `behind` the highest, has come; `None` when it is too far behind to be known.
    #[must_use]
    pub fn has(&self, flow: usize, behind: u64, sequence: u64) -> Option<bool> {
        let (word, bit) = self.place(flow, sequence);
        (behind < self.bits).then(|| self.words.get(word).is_some_and(|word| word & bit != 0))
    }

    fn place(&self, flow: usize, sequence: u64) -> (usize, u64) {
        let at = sequence & (self.bits - 1);
        (flow * (self.bits / 64) as usize + (at / 64) as usize, 1 << (at % 64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_share_what_memory_there_is() {
        let bits = |flows| Windows::new(flows, 64 << 20).numbers();
        assert_eq!((bits(1), bits(8_000), bits(1_000_000), bits(4_000_000)), (65_536, 65_536, 512, 128));
        assert_eq!(Windows::new(1_000_000, 1 << 20).numbers(), 64);
        assert!(Windows::new(1_000_000, 64 << 20).words.len() * 8 <= 64 << 20);
    }

    #[test]
    fn flows_beside_one_another_do_not_share_bits() {
        let mut windows = Windows::new(3, 24);
        assert_eq!(windows.numbers(), 64);
        windows.advance(1, 0, 5);
        assert_eq!(
            (windows.has(0, 0, 5), windows.has(1, 0, 5), windows.has(2, 0, 5)),
            (Some(false), Some(true), Some(false))
        );
        windows.advance(1, 6, 5 + 64);
        assert_eq!(
            (windows.has(1, 64, 5), windows.has(1, 63, 6), windows.has(1, 0, 69)),
            (None, Some(false), Some(true))
        );
    }
}
