//! Walks every state that two sides of a small ring can reach, from start points around the wrap at 2³², against a model: a queue.

use super::*;
use std::collections::{HashSet, VecDeque};

/// A whole ring: both sides, what they have published, the slots, and the model.
#[derive(Clone, PartialEq, Eq, Hash)]
struct World {
    writer: ProducerIndex,
    reader: ConsumerIndex,
    producer: u32,
    consumer: u32,
    slots: Vec<Option<u8>>,
    /// Written but not published, then published but not read.
    unpublished: VecDeque<u8>,
    queue: VecDeque<u8>,
    next_value: u8,
}

impl World {
    fn new(size: u32, at: u32) -> Self {
        Self {
            writer: ProducerIndex::new(size, at),
            reader: ConsumerIndex::new(size, at),
            producer: at,
            consumer: at,
            slots: vec![None; size as usize],
            unpublished: VecDeque::new(),
            queue: VecDeque::new(),
            next_value: 0,
        }
    }

    /// Every step that either side can take from here.
    fn steps(&self) -> Vec<World> {
        [
            Self::write,
            Self::publish,
            Self::look_at_consumer,
            Self::look_at_producer,
            Self::read,
            Self::release,
        ]
        .iter()
        .map(|step| {
            let mut next = self.clone();
            step(&mut next);
            next
        })
        .collect()
    }

    fn write(&mut self) {
        if let Some(slot) = self.writer.reserve() {
            let slot = &mut self.slots[slot as usize];
            assert_eq!(*slot, None, "a slot was overwritten before its reader was done with it");
            *slot = Some(self.next_value);
            self.unpublished.push_back(self.next_value);
            self.next_value = (self.next_value + 1) % 11;
        }
    }

    fn publish(&mut self) {
        self.writer.commit();
        self.producer = self.writer.committed();
        self.queue.append(&mut self.unpublished);
    }

    fn look_at_consumer(&mut self) {
        self.writer.saw_consumer(self.consumer);
    }

    fn look_at_producer(&mut self) {
        self.reader.saw_producer(self.producer);
    }

    fn read(&mut self) {
        match self.reader.take() {
            Some(slot) => {
                assert_eq!(
                    self.slots[slot as usize],
                    self.queue.pop_front(),
                    "entries arrive once and in order"
                );
            }
            None => assert_eq!(self.reader.available(), 0),
        }
    }

    fn release(&mut self) {
        let from = self.consumer;
        self.consumer = self.reader.release();
        let size = self.slots.len() as u32;
        for index in 0..self.consumer.wrapping_sub(from) {
            self.slots[(from.wrapping_add(index) % size) as usize] = None;
        }
    }
}

fn walk(size: u32, at: u32) -> usize {
    let mut seen = HashSet::new();
    let mut todo = vec![World::new(size, at)];
    while let Some(world) = todo.pop() {
        // Far enough to wrap around the ring several times and past 2³².
        if world.producer.wrapping_sub(at) > 3 * size || !seen.insert(world.clone()) {
            continue;
        }
        todo.extend(world.steps());
    }
    seen.len()
}

#[test]
fn every_walk_of_a_small_ring_delivers_each_entry_once_and_in_order() {
    for size in [1, 2, 4] {
        for at in [0, u32::MAX, u32::MAX - 2, u32::MAX / 2] {
            assert!(walk(size, at) > size as usize * 10);
        }
    }
}

#[test]
fn an_uncommitted_entry_is_not_published() {
    let mut writer = ProducerIndex::new(4, 0);
    writer.reserve();
    assert_eq!(writer.committed(), 0);
    writer.commit();
    writer.reserve();
    assert_eq!(writer.committed(), 1);
    assert_eq!((writer.pending(), writer.free()), (1, 2));
}

#[test]
fn an_impossible_consumer_index_is_ignored() {
    for at in [0, u32::MAX] {
        let mut writer = ProducerIndex::new(4, at);
        (0..3).for_each(|_| assert!(writer.reserve().is_some()));
        writer.commit();
        let before = writer;
        for lie in [at.wrapping_sub(1), at.wrapping_add(4), at.wrapping_add(1 << 31)] {
            writer.saw_consumer(lie);
            assert_eq!(writer, before);
        }
        writer.saw_consumer(at.wrapping_add(3));
        assert_eq!(writer.free(), 4);
    }
}

#[test]
fn an_impossible_producer_index_is_ignored() {
    for at in [0, u32::MAX] {
        let mut reader = ConsumerIndex::new(4, at);
        reader.saw_producer(at.wrapping_add(2));
        let before = reader;
        for lie in [at.wrapping_add(1), at.wrapping_add(5), at.wrapping_sub(1)] {
            reader.saw_producer(lie);
            assert_eq!(reader, before);
        }
        reader.saw_producer(at.wrapping_add(4));
        assert_eq!(reader.available(), 4);
    }
}
