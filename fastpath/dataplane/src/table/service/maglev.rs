//! Maglev's table (Eisenbud et al., NSDI 2016, section 3.4): every backend has a permutation of the table's places of its
//! own, and backends take turns in taking the next place of theirs that is free. All get the same number of places, give
//! or take one, and when one goes few places of the others change hands.

use super::Backend;
use crate::flow::key::{fold, words};

/// Sizes of tables, all prime, so that every step leads through all places. A table has at least five places a backend,
/// as Calico's have; the first is Calico's for up to 100. Larger ones are far apart, because a change of size moves
/// nearly everybody.
const SIZES: [usize; 6] = [503, 2039, 8191, 32_749, 131_071, 524_287];
const PLACES_A_BACKEND: usize = 5;

const OFFSET_KEY: u64 = 0xd1b5_4a32_d192_ed03;
const STEP_KEY: u64 = 0x8cb9_2ba7_2f3d_8dd7;

/// The size of the table for so many backends; 0: there is nothing to choose.
pub(super) fn size(backends: usize) -> usize {
    match backends {
        0 | 1 => 0,
        _ => SIZES.into_iter().find(|size| *size >= backends * PLACES_A_BACKEND).unwrap_or(SIZES[5]),
    }
}

/// Where a backend's permutation begins, and its step.
pub(super) fn permutation(backend: &Backend, size: usize) -> (usize, usize) {
    let [high, low] = words(backend.address);
    let name = fold(high ^ low.rotate_left(25) ^ OFFSET_KEY, u64::from(backend.port) ^ STEP_KEY);
    let (offset, step) = (fold(name ^ OFFSET_KEY, STEP_KEY), fold(name ^ STEP_KEY, OFFSET_KEY));
    ((offset % size as u64) as usize, (step % (size as u64 - 1)) as usize + 1)
}

/// The table for these backends, which are sorted.
pub(super) fn table(backends: &[Backend]) -> Box<[u16]> {
    const FREE: u16 = u16::MAX;
    let size = size(backends.len());
    if size == 0 {
        return Box::default();
    }
    let mut next: Vec<(usize, usize)> = backends.iter().map(|backend| permutation(backend, size)).collect();
    let mut table = vec![FREE; size].into_boxed_slice();
    let mut left = size;
    loop {
        for (backend, (place, step)) in next.iter_mut().enumerate() {
            while table[*place] != FREE {
                *place = (*place + *step) % size;
            }
            table[*place] = backend as u16;
            left -= 1;
            if left == 0 {
                return table;
            }
        }
    }
}
