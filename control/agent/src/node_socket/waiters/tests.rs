use super::*;
use caracal_plane_api::PortRow;

const CHANGE: u64 = 7;

fn ask(pod: &str, addresses: &[&str]) -> Wait {
    Wait {
        namespace: "shop".into(),
        pod: pod.into(),
        container_id: "box".into(),
        interface: format!("cali-{pod}"),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        timeout_ms: 1000,
    }
}

fn endpoint(pod: &str, addresses: &[&str]) -> Op {
    let octets = |a: &&str| match a.parse().unwrap() {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    };
    let endpoint = caracal_plane_api::Endpoint {
        id: format!("shop/{pod}"),
        interface: format!("cali-{pod}"),
        addresses: addresses.iter().map(octets).collect(),
        ..Default::default()
    };
    Op { op: Some(op::Op::Endpoint(endpoint)) }
}

fn ports(names: &[&str]) -> StatusReport {
    let row = |name: &&str| PortRow { name: (*name).into(), up: true, ..PortRow::default() };
    StatusReport { in_sync: true, ports: names.iter().map(row).collect(), ..StatusReport::default() }
}

/// One pod, `shop/web`, that has been said with two addresses.
struct World {
    said: Said,
    waiters: Waiters<&'static str>,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let mut said = Said::default();
        said.apply(&[endpoint("web", &["10.0.0.1", "fd00::1"])], CHANGE);
        said.set_sandbox("shop", "web", Some("box"));
        Self { said, waiters: Waiters::default(), now: Instant::now() }
    }

    fn waits(&mut self, wait: Wait) {
        self.waiters.add(wait, "a", |_| true, self.now).unwrap();
    }

    /// What becomes of it, with this adopted and these ports open throughout.
    fn ends(&mut self, adopted: Option<u64>, open: &[&str]) -> Answer {
        loop {
            self.waiters.review(&self.said, adopted, self.now);
            self.now = self.waiters.wake().expect("somebody waits").max(self.now);
            let (mut answers, look) = self.waiters.due(self.now);
            if look {
                answers.extend(self.waiters.looked(Ok(&ports(open)), self.now));
            }
            if let Some((_, answer)) = answers.pop() {
                return answer;
            }
        }
    }

    fn times_out(&mut self, adopted: Option<u64>, open: &[&str], why: &str) {
        match self.ends(adopted, open) {
            Answer::Failure(Failure { error, code: Code::Timeout }) => {
                assert!(error.contains(why) && error.contains("shop/"), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
}

const IN_FORCE: Answer = Answer::Wait { in_force: true };

#[test]
fn a_pod_is_in_force_once_acknowledged_with_its_port_open() {
    let mut world = World::new();
    world.waits(ask("web", &["fd00::1", "10.0.0.1"]));
    assert_eq!(world.ends(Some(CHANGE), &["cali-web"]), IN_FORCE);
    assert!(world.waiters.is_empty() && world.waiters.wake().is_none());
}

#[test]
fn each_lack_is_waited_for_and_named_in_the_end() {
    let both = ["10.0.0.1", "fd00::1"];
    let mut world = World::new();
    let mut lacks = |wait, adopted, open: &[&str], why| {
        world.waits(wait);
        world.times_out(adopted, open, why);
    };
    lacks(ask("web", &both), None, &["cali-web"], "not in sync");
    lacks(ask("web", &both), Some(CHANGE - 1), &["cali-web"], "not acknowledged");
    lacks(ask("web", &both), Some(CHANGE), &["cali-other"], "no port cali-web");
    lacks(ask("web", &["10.0.0.1"]), Some(CHANGE), &["cali-web"], "other addresses: 10.0.0.1, fd00::1");
    lacks(ask("db", &both), Some(CHANGE), &["cali-db"], "has not seen the pod");
    let other_sandbox = Wait { container_id: "later".into(), ..ask("web", &both) };
    lacks(other_sandbox, Some(CHANGE), &["cali-web"], "another sandbox, box");
    let other_interface = Wait { interface: "cali-x".into(), ..ask("web", &both) };
    lacks(other_interface, Some(CHANGE), &["cali-x"], "another interface, cali-web");
    let any_sandbox = Wait { container_id: String::new(), ..ask("web", &both) };
    world.waits(any_sandbox);
    assert_eq!(world.ends(Some(CHANGE), &["cali-web"]), IN_FORCE);
}

#[test]
fn a_look_that_began_before_the_acknowledgement_shows_nothing() {
    let mut world = World::new();
    world.said.apply(&[endpoint("old", &["10.0.0.9"])], 1);
    world.said.set_sandbox("shop", "old", Some("box"));
    world.waits(ask("old", &["10.0.0.9"]));
    world.waiters.review(&world.said, Some(1), world.now);
    assert!(world.waiters.due(world.now).1, "a look for the first");
    // Meanwhile another is acknowledged; a port of its name may have been an earlier pod's.
    world.waits(ask("web", &["10.0.0.1", "fd00::1"]));
    world.waiters.review(&world.said, Some(CHANGE), world.now);
    let answers = world.waiters.looked(Ok(&ports(&["cali-old", "cali-web"])), world.now);
    assert_eq!(answers.len(), 1);
    assert_eq!(world.ends(Some(CHANGE), &["cali-web"]), IN_FORCE);
}

#[test]
fn a_pod_whose_endpoint_changes_during_the_look_waits_for_the_new_one() {
    let mut world = World::new();
    world.waits(ask("web", &["10.0.0.1", "fd00::1"]));
    world.waiters.review(&world.said, Some(CHANGE), world.now);
    assert!(world.waiters.due(world.now).1);
    world.said.apply(&[endpoint("web", &["10.0.0.1", "fd00::1"])], CHANGE + 1);
    world.waiters.review(&world.said, Some(CHANGE), world.now);
    assert_eq!(world.waiters.looked(Ok(&ports(&["cali-web"])), world.now), []);
    world.times_out(Some(CHANGE), &["cali-web"], "not acknowledged");
}

#[test]
fn a_fastpath_that_cannot_be_read_is_asked_again_less_and_less_often() {
    let mut world = World::new();
    world.waits(ask("web", &["10.0.0.1", "fd00::1"]));
    world.waiters.review(&world.said, Some(CHANGE), world.now);
    let mut looks = 0;
    while world.waiters.wake().is_some() {
        world.now = world.waiters.wake().unwrap().max(world.now);
        let (answers, look) = world.waiters.due(world.now);
        if look {
            looks += 1;
            assert_eq!(world.waiters.looked(Err("cannot read the fastpath"), world.now), []);
        }
        if let Some((_, Answer::Failure(failure))) = answers.first() {
            assert!(failure.error.contains("cannot read the fastpath"), "{failure}");
        }
    }
    assert!((10..30).contains(&looks), "{looks} in a second");
}

#[test]
fn no_more_than_a_limit_wait_and_those_who_went_make_room() {
    let mut world = World::new();
    for _ in 0..WAITERS_MAX {
        world.waits(ask("web", &["10.0.0.1"]));
    }
    let (_, refused) = world.waiters.add(ask("web", &[]), "b", |_| true, world.now).unwrap_err();
    assert!(matches!(refused, Answer::Failure(Failure { code: Code::TooMany, .. })), "{refused:?}");
    world.waiters.add(ask("web", &[]), "b", |a| *a == "b", world.now).unwrap();
    assert_eq!(world.waiters.waiting.len(), 1);
}

#[test]
fn everybody_hears_of_the_end() {
    let mut world = World::new();
    world.waits(ask("web", &[]));
    world.waits(ask("db", &[]));
    let answers = world.waiters.end();
    assert_eq!(answers.len(), 2);
    assert!(answers.iter().all(|(_, a)| matches!(a, Answer::Failure(Failure { code: Code::Stopping, .. }))));
}

#[test]
fn a_port_that_is_there_but_down_is_not_open() {
    let mut world = World::new();
    world.waits(ask("web", &["10.0.0.1", "fd00::1"]));
    world.waiters.review(&world.said, Some(CHANGE), world.now);
    assert!(world.waiters.due(world.now).1);
    let mut status = ports(&["cali-web"]);
    status.ports[0].up = false;
    status.ports[0].detail = "no such device".into();
    assert_eq!(world.waiters.looked(Ok(&status), world.now), []);
    let mut resynchronising = ports(&["cali-web"]);
    resynchronising.in_sync = false;
    world.now = world.waiters.wake().unwrap();
    assert!(world.waiters.due(world.now).1);
    assert_eq!(world.waiters.looked(Ok(&resynchronising), world.now), []);
    assert_eq!(world.ends(Some(CHANGE), &["cali-web"]), IN_FORCE);
}
