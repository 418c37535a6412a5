//! Producer and consumer on two threads under loom: every interleaving and every value that the memory model allows.

use super::*;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use std::sync::atomic::Ordering;

struct Shared {
    producer: loom::sync::atomic::AtomicU32,
    consumer: loom::sync::atomic::AtomicU32,
    slots: [UnsafeCell<u32>; 2],
}

#[derive(Clone, Copy)]
enum Side {
    Producer,
    Consumer,
}

struct Index(Arc<Shared>, Side);

impl Index {
    fn atomic(&self) -> &loom::sync::atomic::AtomicU32 {
        match self.1 {
            Side::Producer => &self.0.producer,
            Side::Consumer => &self.0.consumer,
        }
    }
}

impl SharedIndex for Index {
    fn load(&self) -> u32 {
        self.atomic().load(Ordering::Acquire)
    }
    fn store(&self, value: u32) {
        self.atomic().store(value, Ordering::Release);
    }
}

/// Three entries through a ring of two, over the wrap at 2³²: the third must wait for a slot. loom fails the test if a slot is
/// read and written at once, so it holds both directions of the ordering.
#[test]
fn slots_are_never_touched_by_both_sides_at_once() {
    const AT: u32 = u32::MAX;
    loom::model(|| {
        let shared = Arc::new(Shared {
            producer: loom::sync::atomic::AtomicU32::new(AT),
            consumer: loom::sync::atomic::AtomicU32::new(AT),
            slots: [UnsafeCell::new(0), UnsafeCell::new(0)],
        });
        let side = |side| Index(shared.clone(), side);
        let mut writer = Producer::new(2, side(Side::Producer), side(Side::Consumer));
        let mut reader = Consumer::new(2, side(Side::Producer), side(Side::Consumer));
        let slots = shared.clone();
        let thread = loom::thread::spawn(move || {
            for value in 1..=3 {
                let slot = loop {
                    match writer.reserve() {
                        Some(slot) => break slot,
                        None => loom::thread::yield_now(),
                    }
                };
                // SAFETY: loom checks that nobody else touches the slot now.
                slots.slots[slot as usize].with_mut(|slot| unsafe { *slot = value });
                writer.commit();
                writer.publish();
            }
        });
        let mut expected = 1;
        while expected <= 3 {
            match reader.take() {
                Some(slot) => {
                    // SAFETY: as above.
                    let value = shared.slots[slot as usize].with(|slot| unsafe { *slot });
                    assert_eq!(value, expected);
                    expected += 1;
                    reader.release();
                }
                None => loom::thread::yield_now(),
            }
        }
        thread.join().unwrap();
    });
}
