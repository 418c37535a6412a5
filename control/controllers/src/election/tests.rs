//! Candidates with clocks of their own, on a network that delays, loses and reorders.

use proptest::prelude::*;

use super::*;
use crate::walks::cases;

const TIMING: Timing = Timing {
    lease: Duration::from_millis(1500),
    renew_deadline: Duration::from_millis(1000),
    retry: Duration::from_millis(200),
};

/// The Lease where it is kept.
#[derive(Default)]
struct Server {
    lease: Option<(Record, u64)>,
    writes: u64,
}

impl Server {
    fn execute(&mut self, action: &Action) -> Event {
        let version = |lease: &Option<(Record, u64)>| lease.as_ref().map(|(_, version)| version.to_string());
        match action {
            Action::Read => Event::Read(
                self.lease
                    .as_ref()
                    .map(|(record, version)| Found { record: record.clone(), version: version.to_string() }),
            ),
            Action::Write { record, replaces, .. } if *replaces == version(&self.lease) => {
                self.writes += 1;
                self.lease = Some((record.clone(), self.writes));
                Event::Written
            }
            Action::Write { .. } => Event::Refused,
            Action::Done => panic!("nothing to execute"),
        }
    }
}

/// A process: its election, and how its clock goes.
struct Process {
    election: Election,
    origin: Instant,
    percent: u64,
}

impl Process {
    fn new(number: usize, origin: Instant, percent: u64) -> Self {
        // Machines were started at different times.
        let origin = origin + Duration::from_secs(100 * number as u64);
        Self { election: Election::new(format!("candidate{number}"), TIMING, origin), origin, percent }
    }

    fn clock(&self, true_ms: u64) -> Instant {
        self.origin + Duration::from_micros(true_ms * 10 * self.percent)
    }

    fn leads(&self, true_ms: u64) -> bool {
        self.election.leads(self.clock(true_ms))
    }
}

/// A request under way.
struct Request {
    from: usize,
    action: Action,
    result: Option<Event>,
    /// Whether the sender still waits.
    awaited: bool,
}

#[derive(Debug, Clone)]
enum Step {
    /// Milliseconds pass; whose timer is due hears it.
    Pass(u64),
    /// A request reaches the server, whether or not its sender still waits.
    Arrive(prop::sample::Index),
    /// The answer to a request reaches its sender, if there is one.
    Answer(prop::sample::Index),
    /// A sender gives up waiting; the request may arrive all the same.
    GiveUp(prop::sample::Index),
    /// A process is to end.
    End(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = any::<prop::sample::Index>;
    let step = prop_oneof![
        6 => (1..400u64).prop_map(Step::Pass),
        1 => (1000..1600u64).prop_map(Step::Pass),
        8 => index().prop_map(Step::Arrive),
        8 => index().prop_map(Step::Answer),
        1 => index().prop_map(Step::GiveUp),
        1 => (0..40usize).prop_map(Step::End),
    ];
    prop::collection::vec(step, 1..300)
}

/// All of a cluster.
struct World {
    server: Server,
    processes: Vec<Process>,
    requests: Vec<Request>,
    now_ms: u64,
    /// How often somebody has begun to lead.
    reigns: usize,
}

impl World {
    fn new(percents: &[u64]) -> Self {
        let origin = Instant::now();
        let process = |(number, percent): (usize, &u64)| Process::new(number, origin, *percent);
        let mut world = Self {
            server: Server::default(),
            processes: percents.iter().enumerate().map(process).collect(),
            requests: Vec::new(),
            now_ms: 0,
            reigns: 0,
        };
        world.pass(0);
        world
    }

    fn tell(&mut self, number: usize, event: Event) {
        let now_ms = self.now_ms;
        let Some(process) = self.processes.get_mut(number) else { return };
        let led = process.leads(now_ms);
        let now = process.clock(now_ms);
        let action = process.election.on(event, now);
        self.reigns += usize::from(!led && process.leads(now_ms));
        match action {
            None | Some(Action::Done) => {}
            Some(action) => self.requests.push(Request { from: number, action, result: None, awaited: true }),
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        for number in 0..self.processes.len() {
            self.tell(number, Event::Timer);
        }
    }

    fn arrive(&mut self, at: usize) {
        let Some(request) = self.requests.get_mut(at) else { return };
        if request.result.is_none() {
            request.result = Some(self.server.execute(&request.action));
        }
    }

    fn answer(&mut self, at: usize, given_up: bool) {
        let Some(request) = self.requests.get_mut(at) else { return };
        if !request.awaited {
            return;
        }
        let failure = match request.action {
            Action::Read => Event::ReadFailed,
            _ => Event::WriteFailed,
        };
        let event = match &request.result {
            _ if given_up => failure,
            Some(result) => result.clone(),
            None => return,
        };
        request.awaited = false;
        let from = request.from;
        self.tell(from, event);
    }

    /// Everything arrives and is answered at once, for so long.
    fn fair(&mut self, ms: u64) {
        let end = self.now_ms + ms;
        while self.now_ms < end {
            self.pass(10);
            let mut at = 0;
            while at < self.requests.len() {
                self.arrive(at);
                self.answer(at, false);
                at += 1;
            }
        }
    }

    fn leaders(&self) -> Vec<usize> {
        let leads = |number: &usize| self.processes[*number].leads(self.now_ms);
        (0..self.processes.len()).filter(leads).collect()
    }
}

proptest! {
    #![proptest_config(cases(800))]

    #[test]
    fn two_never_lead_at_once_whatever_the_network_and_the_clocks_do(
        percents in prop::collection::vec(85..=115u64, 2..5),
        steps in steps(),
    ) {
        let mut world = World::new(&percents);
        for step in steps {
            let requests = world.requests.len();
            match step {
                Step::Pass(ms) => world.pass(ms),
                Step::Arrive(which) if requests > 0 => world.arrive(which.index(requests)),
                Step::Answer(which) if requests > 0 => world.answer(which.index(requests), false),
                Step::GiveUp(which) if requests > 0 => world.answer(which.index(requests), true),
                Step::End(number) => world.tell(number, Event::Ended),
                _ => {}
            }
            prop_assert!(world.leaders().len() <= 1, "{:?} lead", world.leaders());
        }
    }

    #[test]
    fn somebody_leads_again_once_the_network_is_well(
        percents in prop::collection::vec(85..=115u64, 2..5),
        steps in steps(),
    ) {
        let mut world = World::new(&percents);
        let count = percents.len();
        for step in steps {
            let requests = world.requests.len();
            match step {
                Step::Pass(ms) => world.pass(ms),
                Step::Arrive(which) if requests > 0 => world.arrive(which.index(requests)),
                Step::Answer(which) if requests > 0 => world.answer(which.index(requests), false),
                Step::GiveUp(which) if requests > 0 => world.answer(which.index(requests), true),
                // One must stay.
                Step::End(number) if number + 1 < count => world.tell(number, Event::Ended),
                _ => {}
            }
        }
        world.fair(4000);
        prop_assert_eq!(world.leaders().len(), 1);
    }
}

#[test]
fn who_ends_gives_the_lease_back_and_another_takes_it_at_its_next_look() {
    let mut world = World::new(&[100, 100]);
    world.fair(500);
    let [first] = world.leaders()[..] else { panic!("{:?}", world.leaders()) };
    world.tell(first, Event::Ended);
    assert!(world.leaders().is_empty());
    world.fair(300);
    assert_eq!(world.leaders(), [1 - first]);
    assert_eq!(world.server.lease.as_ref().map(|(record, _)| record.transitions), Some(1));
}

#[test]
fn a_leader_that_falls_silent_is_replaced_after_a_lease_and_not_before() {
    let mut world = World::new(&[100, 100]);
    world.fair(500);
    let [first] = world.leaders()[..] else { panic!("{:?}", world.leaders()) };
    let other = world.processes.remove(1 - first);
    world.processes = vec![other];
    world.requests.clear();
    world.reigns = 0;
    world.fair(1200);
    assert_eq!(world.reigns, 0);
    world.fair(800);
    assert_eq!(world.reigns, 1);
}

#[test]
fn a_leader_goes_on_leading_while_it_can_renew_and_keeps_its_transitions() {
    let mut world = World::new(&[100]);
    world.fair(60_000);
    assert_eq!((world.reigns, world.leaders()), (1, vec![0]));
    assert_eq!(world.server.lease.as_ref().map(|(record, _)| record.transitions), Some(0));
}

#[test]
fn a_leader_that_hears_nothing_stops_at_its_deadline_counted_from_what_it_sent() {
    let origin = Instant::now();
    let mut one = Election::new("one", TIMING, origin);
    assert_eq!(one.on(Event::Timer, origin), Some(Action::Read));
    let write = one.on(Event::Read(None), origin);
    assert!(matches!(write, Some(Action::Write { replaces: None, acquires: true, .. })), "{write:?}");
    let answered = origin + Duration::from_millis(900);
    one.on(Event::Written, answered);
    assert!(one.leads(answered));
    assert!(!one.leads(origin + TIMING.renew_deadline));
}
