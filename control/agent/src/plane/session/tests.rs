use caracal_plane_api::{Ack, op};

use super::*;

fn profile(name: &str) -> Op {
    Op { op: Some(op::Op::ProfileRemove(name.to_owned())) }
}

fn named(ops: &[Op]) -> Vec<String> {
    ops.iter()
        .map(|op| match &op.op {
            Some(op::Op::ProfileRemove(name)) => name.clone(),
            other => panic!("{other:?}"),
        })
        .collect()
}

/// A session with a clock and a fastpath that keeps the contract, as far as a test lets it.
struct World {
    session: Session,
    now: Instant,
    state: Vec<Op>,
    sent: Vec<FromClient>,
    connects: usize,
    disconnects: usize,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            session: Session::new("test".into(), now),
            now,
            state: vec![profile("a"), profile("b")],
            sent: Vec::new(),
            connects: 0,
            disconnects: 0,
        }
    }

    fn on(&mut self, event: Event) {
        let mut todo: VecDeque<Action> = self.session.on(event, self.now).into();
        while let Some(action) = todo.pop_front() {
            match action {
                Action::Connect => self.connects += 1,
                Action::Disconnect => self.disconnects += 1,
                Action::Send(message) => self.sent.push(message),
                Action::TakeState => todo.extend(self.session.state(self.state.clone(), self.now)),
            }
        }
    }

    /// Lets the time come that the session asked for.
    fn wake(&mut self) {
        self.now = self.session.wake().expect("a session that waits for the time").max(self.now);
        self.on(Event::Timer);
    }

    fn receive(&mut self, message: from_fastpath::Message) {
        self.on(Event::Received(Box::new(FromFastpath { message: Some(message) })));
    }

    fn welcome(&mut self, instance: u64) {
        let welcome = Welcome { version: VERSION, software: "test".into(), instance, workers: 1 };
        self.receive(from_fastpath::Message::Welcome(welcome));
    }

    fn ack(&mut self, seq: u64) {
        self.receive(from_fastpath::Message::Ack(Ack { seq }));
    }

    fn connect(&mut self, instance: u64) {
        self.wake();
        self.on(Event::Connected);
        self.welcome(instance);
    }

    /// Connected, whole, the state said and acknowledged.
    fn in_sync() -> Self {
        let mut world = Self::new();
        world.on(Event::Whole);
        world.connect(7);
        world.ack(1);
        assert!(world.session.settled());
        world.transactions();
        world
    }

    /// What has been sent since the last look.
    fn transactions(&mut self) -> Vec<Transaction> {
        self.sent
            .drain(..)
            .filter_map(|m| match m.message {
                Some(from_client::Message::Transaction(t)) => Some(t),
                _ => None,
            })
            .collect()
    }

    fn hellos(&self) -> usize {
        self.sent.iter().filter(|m| matches!(m.message, Some(from_client::Message::Hello(_)))).count()
    }
}

#[test]
fn hello_comes_first_and_the_state_after_the_welcome() {
    let mut world = World::new();
    world.on(Event::Whole);
    world.wake();
    assert_eq!((world.connects, world.sent.len()), (1, 0));
    world.on(Event::Connected);
    assert_eq!((world.hellos(), world.sent.len()), (1, 1));
    world.welcome(7);
    let sent = world.transactions();
    assert_eq!(sent.len(), 1);
    assert_eq!((sent[0].seq, sent[0].in_sync, named(&sent[0].ops)), (1, true, vec!["a".into(), "b".into()]));
    assert!(!world.session.settled());
    world.ack(1);
    assert!(world.session.settled());
}

#[test]
fn nothing_is_said_before_the_state_is_whole() {
    let mut world = World::new();
    world.connect(7);
    world.on(Event::Changed(vec![profile("early")]));
    assert_eq!(world.transactions(), vec![]);
    world.on(Event::Whole);
    let sent = world.transactions();
    assert_eq!(sent.len(), 1, "the change is part of the state, not said again");
    assert!(sent[0].in_sync);
}

#[test]
fn in_sync_is_on_the_last_transaction_of_a_state_that_needs_several() {
    let mut world = World::new();
    world.session.chunk_bytes = 100;
    world.state = (0..50).map(|i| profile(&format!("profile-{i}"))).collect();
    world.on(Event::Whole);
    world.connect(7);
    let sent = world.transactions();
    assert!(sent.len() > 5, "{}", sent.len());
    let flags: Vec<bool> = sent.iter().map(|t| t.in_sync).collect();
    assert_eq!(flags.iter().position(|f| *f), Some(flags.len() - 1));
    assert_eq!(sent.iter().map(|t| t.seq).collect::<Vec<_>>(), (1..=sent.len() as u64).collect::<Vec<_>>());
    world.ack(sent.len() as u64 - 1);
    assert!(!world.session.settled(), "the last is still to be acknowledged");
    world.ack(sent.len() as u64);
    assert!(world.session.settled());
}

#[test]
fn changes_follow_the_state_and_are_not_held_back_for_acknowledgements() {
    let mut world = World::in_sync();
    world.on(Event::Changed(vec![profile("c")]));
    world.on(Event::Changed(vec![profile("d")]));
    let sent = world.transactions();
    assert_eq!(
        sent.iter().map(|t| (t.seq, named(&t.ops))).collect::<Vec<_>>(),
        [(2, vec!["c".to_owned()]), (3, vec!["d".to_owned()]),]
    );
    assert!(!world.session.settled());
    world.ack(2);
    world.ack(3);
    assert!(world.session.settled());
}

#[test]
fn changes_while_synchronising_wait_behind_the_state_and_are_merged() {
    let mut world = World::new();
    world.session.chunk_bytes = 100;
    // More than the window holds.
    world.state = (0..900).map(|i| profile(&format!("profile-{i}"))).collect();
    world.on(Event::Whole);
    world.connect(7);
    for i in 0..3 {
        world.on(Event::Changed(vec![profile(&format!("change-{i}"))]));
    }
    let mut sent = world.transactions();
    assert_eq!(sent.len(), WINDOW);
    let mut acked = 0;
    while !world.session.settled() {
        acked += 1;
        world.ack(acked);
        sent.extend(world.transactions());
    }
    let ops: Vec<String> = sent.iter().flat_map(|t| named(&t.ops)).collect();
    let mut expected = named(&world.state);
    expected.extend((0..3).map(|i| format!("change-{i}")));
    assert_eq!(ops, expected);
    let last = sent.last().unwrap();
    assert_eq!((last.ops.len(), last.in_sync), (3, true), "three changes waited and went as one");
    assert_eq!(sent.iter().filter(|t| t.in_sync).count(), 2, "the state's last, and what followed it");
}

#[test]
fn a_connection_lost_in_the_middle_of_the_state_says_all_of_it_again() {
    let mut world = World::new();
    world.session.chunk_bytes = 100;
    world.state = (0..50).map(|i| profile(&format!("profile-{i}"))).collect();
    world.on(Event::Whole);
    world.connect(7);
    let first = world.transactions();
    world.ack(2);
    world.on(Event::Lost("broken pipe".into()));
    // What changes meanwhile is in the state that will be taken.
    world.on(Event::Changed(vec![profile("meanwhile")]));
    world.state.push(profile("meanwhile"));
    world.connect(7);
    let second = world.transactions();
    assert_eq!(second[0].seq, 1, "numbers start again");
    assert_eq!(second.iter().map(|t| t.ops.len()).sum::<usize>(), 51);
    assert!(first.iter().map(|t| t.ops.len()).sum::<usize>() == 50);
    world.ack(second.len() as u64);
    assert!(world.session.settled());
}

#[test]
fn a_restarted_fastpath_is_told_everything_again() {
    let mut world = World::in_sync();
    world.on(Event::Lost("closed".into()));
    assert!(!world.session.settled());
    world.connect(8);
    let sent = world.transactions();
    assert_eq!((sent.len(), sent[0].seq, sent[0].in_sync, sent[0].ops.len()), (1, 1, true, 2));
    assert_eq!(world.session.instance, Some(8));
}

#[test]
fn a_socket_that_nobody_serves_is_tried_again_quickly_for_ever() {
    let mut world = World::new();
    for attempt in 1..200 {
        let before = world.now;
        world.wake();
        assert!(world.now - before <= RECONNECT);
        assert_eq!(world.connects, attempt);
        world.on(Event::Lost("no such file".into()));
    }
}

#[test]
fn a_refused_transaction_means_a_new_connection_and_more_patience_each_time() {
    let mut world = World::in_sync();
    let mut waits = Vec::new();
    for _ in 0..12 {
        world.on(Event::Changed(vec![profile("bad")]));
        let disconnects = world.disconnects;
        world.receive(from_fastpath::Message::Refused(Refused { seq: 1, reason: "no such tunnel".into() }));
        assert_eq!(world.disconnects, disconnects + 1);
        let before = world.now;
        world.connect(7);
        waits.push(world.now - before);
        assert!(world.transactions().last().unwrap().in_sync);
    }
    assert!(waits[11] > waits[0] * 10, "{waits:?}");
    assert!(waits.iter().all(|w| *w <= BACKOFF_LIMIT));
    // Once it works again, patience is not remembered.
    world.ack(1);
    world.receive(from_fastpath::Message::Refused(Refused { seq: 2, reason: "again".into() }));
    let before = world.now;
    world.wake();
    assert!(world.now - before <= BACKOFF_FIRST);
}

#[test]
fn a_refused_connection_is_closed_and_not_reopened_at_once() {
    let mut world = World::new();
    world.wake();
    world.on(Event::Connected);
    world.receive(from_fastpath::Message::Refused(Refused { seq: 0, reason: "version 9 only".into() }));
    assert_eq!((world.connects, world.disconnects), (1, 1));
    assert!(world.session.wake().unwrap() > world.now);
    // What is still heard of the old connection counts no more.
    world.on(Event::Lost("closed".into()));
    world.welcome(7);
    world.ack(1);
    assert_eq!((world.connects, world.disconnects), (1, 1));
}

#[test]
fn another_version_of_the_contract_is_not_spoken_to() {
    let mut world = World::new();
    world.on(Event::Whole);
    world.wake();
    world.on(Event::Connected);
    let welcome = Welcome { version: VERSION + 1, ..Welcome::default() };
    world.receive(from_fastpath::Message::Welcome(welcome));
    assert_eq!(world.transactions(), vec![]);
    assert_eq!(world.disconnects, 1);
}

#[test]
fn silence_after_hello_is_a_failure() {
    let mut world = World::new();
    world.wake();
    world.on(Event::Connected);
    world.wake();
    assert_eq!(world.disconnects, 1);
}

#[test]
fn a_slow_acknowledgement_is_waited_for() {
    let mut world = World::in_sync();
    world.on(Event::Changed(vec![profile("c")]));
    world.wake();
    assert!(!world.session.is_silent(), "it may be busy");
    world.wake();
    assert!(world.session.is_silent());
    assert_eq!(world.disconnects, 0);
    assert_eq!(world.session.wake(), None, "it is said once");
    world.ack(2);
    assert!(world.session.settled() && !world.session.is_silent());
}

#[test]
fn who_has_nothing_to_say_finds_out_all_the_same_whether_the_fastpath_lives() {
    let mut world = World::in_sync();
    for seq in 2..5 {
        world.wake();
        let sent = world.transactions();
        assert_eq!((sent.len(), sent[0].seq, sent[0].in_sync, sent[0].ops.len()), (1, seq, true, 0));
        assert!(world.session.settled(), "nothing of the state is on its way");
        assert!(world.session.wake().unwrap() > world.now, "one question at a time");
        world.ack(seq);
    }
    assert_eq!(world.session.take_waits().count(), 1, "of the state; what says nothing is not counted");
    for _ in 0..3 {
        assert!(!world.session.is_silent());
        world.wake();
    }
    assert!(world.session.is_silent() && world.session.adopted().is_some());
    world.on(Event::Lost("killed".into()));
    assert!(!world.session.is_silent(), "it is gone, which is another matter");
}

#[test]
fn nonsense_ends_the_connection() {
    let mut world = World::in_sync();
    world.ack(99);
    assert_eq!(world.disconnects, 1);
    let mut world = World::in_sync();
    world.welcome(7);
    assert_eq!(world.disconnects, 1);
    let mut world = World::in_sync();
    world.on(Event::Received(Box::default()));
    assert_eq!(world.disconnects, 0, "a kind of message that is not known is ignored");
}

#[test]
fn a_change_is_adopted_with_the_acknowledgement_of_what_it_was_said_in_and_of_all_before() {
    let mut world = World::in_sync();
    assert_eq!((world.session.changes(), world.session.adopted()), (0, Some(0)));
    world.session.chunk_bytes = 100;
    world.session.transaction_bytes = 100;
    // More than one transaction holds.
    world.on(Event::Changed((0..50).map(|i| profile(&format!("profile-{i}"))).collect()));
    world.on(Event::Changed(vec![profile("c")]));
    let last = world.transactions().last().unwrap().seq;
    assert!(last > 5, "{last}");
    world.ack(last - 2);
    assert_eq!((world.session.changes(), world.session.adopted()), (2, Some(0)), "a part is nothing");
    world.ack(last - 1);
    assert_eq!(world.session.adopted(), Some(1));
    world.ack(last);
    assert_eq!(world.session.adopted(), Some(2));
}

#[test]
fn a_lost_connection_leaves_nothing_adopted_until_the_state_is() {
    let mut world = World::in_sync();
    world.on(Event::Changed(vec![profile("c")]));
    world.on(Event::Lost("gone".into()));
    assert_eq!(world.session.adopted(), None);
    world.on(Event::Changed(vec![profile("d")]));
    world.transactions();
    world.connect(8);
    assert_eq!(world.session.adopted(), None);
    world.ack(1);
    assert_eq!((world.session.changes(), world.session.adopted()), (2, Some(2)), "the state holds both");
}
