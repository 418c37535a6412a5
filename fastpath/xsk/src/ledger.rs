//! The ledger of a socket: which chunks it holds.
//!
//! One bit a chunk. A bit is set when a chunk goes into one of the socket's rings towards the kernel (fill or TX), and cleared when
//! the kernel hands it back (RX or completion). So the bit says "in this socket, ring or kernel", and
//!
//! ```text
//!   free in the pool + Frames + Σ over sockets of ledger.held()  =  chunks of the domain
//! ```
//!
//! holds over any sequence of sockets added and removed. A descriptor from the kernel whose bit is not set is none of ours: it is
//! refused, so even a kernel gone wrong cannot give one chunk two holders. Closing a socket is reading its bits.

/// The set of chunks that one socket holds.
#[derive(Debug)]
pub struct Ledger {
    words: Box<[u64]>,
    held: u32,
    chunks: u32,
}

impl Ledger {
    /// An empty ledger for a domain of so many chunks.
    pub fn new(chunks: u32) -> Self {
        Self { words: vec![0; (chunks as usize).div_ceil(64)].into_boxed_slice(), held: 0, chunks }
    }

    /// Writes a chunk in; false, and nothing changed, if it is held already or does not exist.
    #[inline]
    pub fn enter(&mut self, chunk: u32) -> bool {
        let Some(word) = self.word(chunk) else { return false };
        let bit = 1 << (chunk % 64);
        let fresh = *word & bit == 0;
        *word |= bit;
        self.held += u32::from(fresh);
        fresh
    }

    /// Strikes a chunk out; false, and nothing changed, if it is not held.
    #[inline]
    pub fn strike(&mut self, chunk: u32) -> bool {
        let Some(word) = self.word(chunk) else { return false };
        let bit = 1 << (chunk % 64);
        let present = *word & bit != 0;
        *word &= !bit;
        self.held -= u32::from(present);
        present
    }

    /// How many chunks are held.
    #[inline]
    pub fn held(&self) -> usize {
        self.held as usize
    }

    /// Strikes out every chunk, and says which they were.
    pub fn clear(&mut self, mut sink: impl FnMut(u32)) {
        for (number, word) in self.words.iter_mut().enumerate() {
            while *word != 0 {
                sink(number as u32 * 64 + word.trailing_zeros());
                *word &= *word - 1;
            }
        }
        self.held = 0;
    }

    fn word(&mut self, chunk: u32) -> Option<&mut u64> {
        if chunk >= self.chunks {
            return None;
        }
        self.words.get_mut(chunk as usize / 64)
    }
}

impl Drop for Ledger {
    /// The socket was dropped instead of closed: its chunks are lost to their pool.
    fn drop(&mut self) {
        crate::frame::count_lost(self.held.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_that_go_down_with_their_ledger_are_counted_as_lost() {
        let before = crate::lost_frames();
        let mut ledger = Ledger::new(9);
        (0..9).for_each(|chunk| assert!(ledger.enter(chunk)));
        drop(ledger);
        assert!(crate::lost_frames() >= before + 9);
    }

    #[test]
    fn a_chunk_is_held_once_and_struck_once() {
        let mut ledger = Ledger::new(130);
        assert!(ledger.enter(129) && !ledger.enter(129));
        assert_eq!(ledger.held(), 1);
        assert!(ledger.strike(129) && !ledger.strike(129));
        assert_eq!(ledger.held(), 0);
    }

    #[test]
    fn a_chunk_that_does_not_exist_is_refused() {
        let mut ledger = Ledger::new(130);
        assert!(!ledger.enter(130) && !ledger.strike(130) && !ledger.enter(u32::MAX));
        assert_eq!(ledger.held(), 0);
    }

    #[test]
    fn clearing_names_each_held_chunk_once() {
        let mut ledger = Ledger::new(200);
        for chunk in [0, 63, 64, 199] {
            ledger.enter(chunk);
        }
        ledger.strike(64);
        let mut seen = Vec::new();
        ledger.clear(|chunk| seen.push(chunk));
        assert_eq!(seen, [0, 63, 199]);
        assert_eq!(ledger.held(), 0);
        assert!(ledger.enter(63), "cleared chunks can be held again");
    }
}
