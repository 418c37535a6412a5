use super::*;

#[test]
fn a_subscriber_uses_the_newest_value_after_refreshing() {
    let mut publisher = Publisher::new(Arc::new(0));
    let mut subscriber = publisher.subscribe();
    publisher.publish(Arc::new(1));
    publisher.publish(Arc::new(2));
    assert_eq!(**subscriber.get(), 0, "nothing changes within a batch");
    assert!(subscriber.refresh());
    assert_eq!((**subscriber.get(), subscriber.number()), (2, 2));
    assert!(!subscriber.refresh(), "there is nothing newer");
}

#[test]
fn a_value_is_kept_until_every_subscriber_has_adopted_a_newer_one() {
    let first = Arc::new(0);
    let watched = Arc::downgrade(&first);
    let mut publisher = Publisher::new(first);
    let (mut fast, mut slow) = (publisher.subscribe(), publisher.subscribe());
    publisher.publish(Arc::new(1));
    fast.refresh();
    assert_eq!(publisher.reclaim(), 0);
    assert!(watched.upgrade().is_some());
    slow.refresh();
    assert!(watched.upgrade().is_some(), "a reader's drop is never the last");
    assert_eq!(publisher.reclaim(), 1);
    assert!(watched.upgrade().is_none());
    assert_eq!(publisher.kept(), 1);
}

#[test]
fn a_subscriber_does_not_wait_for_a_publisher_in_the_slot() {
    let mut publisher = Publisher::new(Arc::new(0));
    let mut subscriber = publisher.subscribe();
    publisher.publish(Arc::new(1));
    let shared = Arc::clone(&publisher.shared);
    let held = shared.slot.lock().unwrap();
    assert!(!subscriber.refresh());
    assert_eq!((**subscriber.get(), publisher.adopted()), (0, 0));
    drop(held);
    assert!(subscriber.refresh());
    assert_eq!(publisher.adopted(), 1);
}

#[test]
fn without_subscribers_the_newest_value_counts_as_adopted() {
    let mut publisher = Publisher::new(Arc::new('a'));
    publisher.publish(Arc::new('b'));
    assert_eq!(publisher.reclaim(), 1);
    assert_eq!(publisher.kept(), 1);
}
