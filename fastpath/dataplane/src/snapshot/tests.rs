//! Run once as unit tests, and in every interleaving by `tests/loom_snapshot.rs`.

use super::*;
use crate::sync::{model, thread};

/// A value that shows when it is torn, and that may be freed by the thread that made it only.
struct Value {
    number: u64,
    twin: u64,
    maker: thread::ThreadId,
    freed: Arc<AtomicU64>,
}

impl Value {
    fn new(number: u64, freed: &Arc<AtomicU64>) -> Arc<Value> {
        Arc::new(Value { number, twin: number, maker: thread::current().id(), freed: Arc::clone(freed) })
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        assert_eq!(thread::current().id(), self.maker, "a reader freed value {}", self.number);
        self.freed.fetch_add(1, Ordering::Relaxed);
    }
}

fn read(subscriber: &Subscriber<Value>) -> u64 {
    let value = subscriber.get();
    assert_eq!(value.number, value.twin, "a value is seen whole");
    assert_eq!(value.number, subscriber.number());
    value.number
}

#[test]
fn a_subscriber_uses_the_newest_value_after_refreshing() {
    model(|| {
        let freed = Arc::new(AtomicU64::new(0));
        let mut publisher = Publisher::new(Value::new(0, &freed));
        let mut subscriber = publisher.subscribe();
        publisher.publish(Value::new(1, &freed));
        publisher.publish(Value::new(2, &freed));
        assert_eq!(read(&subscriber), 0, "nothing changes within a batch");
        assert!(subscriber.refresh());
        assert_eq!(read(&subscriber), 2);
        assert!(!subscriber.refresh(), "there is nothing newer");
        assert_eq!(publisher.latest().number, 2);
    });
}

#[test]
fn a_value_is_kept_until_every_subscriber_has_adopted_a_newer_one() {
    model(|| {
        let freed = Arc::new(AtomicU64::new(0));
        let mut publisher = Publisher::new(Value::new(0, &freed));
        let (mut fast, mut slow) = (publisher.subscribe(), publisher.subscribe());
        publisher.publish(Value::new(1, &freed));
        fast.refresh();
        assert_eq!(publisher.reclaim(), 0);
        slow.refresh();
        assert_eq!(freed.load(Ordering::Relaxed), 0, "a reader's drop is never the last");
        assert_eq!(publisher.reclaim(), 1);
        assert_eq!(freed.load(Ordering::Relaxed), 1);
        assert_eq!(publisher.kept(), 1);
    });
}

#[test]
fn a_subscriber_does_not_wait_for_a_publisher_in_the_slot() {
    model(|| {
        let freed = Arc::new(AtomicU64::new(0));
        let mut publisher = Publisher::new(Value::new(0, &freed));
        let mut subscriber = publisher.subscribe();
        publisher.publish(Value::new(1, &freed));
        let shared = Arc::clone(&publisher.shared);
        let held = shared.slot.lock().unwrap();
        assert!(!subscriber.refresh());
        assert_eq!((read(&subscriber), publisher.adopted()), (0, 0));
        drop(held);
        assert!(subscriber.refresh());
        assert_eq!(publisher.adopted(), 1);
    });
}

#[test]
fn without_subscribers_the_newest_value_counts_as_adopted() {
    model(|| {
        let mut publisher = Publisher::new(Arc::new('a'));
        publisher.publish(Arc::new('b'));
        assert_eq!(publisher.reclaim(), 1);
        assert_eq!(publisher.kept(), 1);
    });
}

#[test]
fn readers_see_whole_values_in_order_and_the_writer_frees_them() {
    model(|| {
        let freed = Arc::new(AtomicU64::new(0));
        let mut publisher = Publisher::new(Value::new(0, &freed));
        let mut subscriber = publisher.subscribe();
        let reader = thread::spawn(move || {
            let mut last = 0;
            for _ in 0..2 {
                subscriber.refresh();
                let number = read(&subscriber);
                assert!(number >= last, "values do not go back");
                last = number;
            }
            subscriber
        });
        for number in 1..=2 {
            publisher.publish(Value::new(number, &freed));
            let adopted = publisher.reclaim();
            assert_eq!(freed.load(Ordering::Relaxed), adopted, "what all have left is freed at once");
        }
        let subscriber = reader.join().unwrap();
        assert_eq!(publisher.adopted(), subscriber.number());
    });
}

#[test]
fn a_value_counts_as_adopted_once_the_last_of_two_readers_has_it() {
    model(|| {
        let freed = Arc::new(AtomicU64::new(0));
        let mut publisher = Publisher::new(Value::new(0, &freed));
        let readers = [publisher.subscribe(), publisher.subscribe()].map(|mut subscriber| {
            thread::spawn(move || {
                subscriber.refresh();
                read(&subscriber);
                subscriber
            })
        });
        publisher.publish(Value::new(1, &freed));
        let adopted = publisher.reclaim();
        assert_eq!(freed.load(Ordering::Relaxed), adopted);
        let numbers = readers.map(|reader| reader.join().unwrap().number());
        assert!(
            numbers.iter().all(|number| *number >= adopted),
            "{numbers:?} were all said to be at {adopted}"
        );
    });
}
