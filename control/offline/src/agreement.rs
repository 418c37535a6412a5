//! Production and the reference must say the same of every packet through every world.
//!
//! Random worlds and random packets, all from one seed, are put to both: in the quick test to the tables that the calc
//! graph's output makes, in the slow one to the whole pipeline, as frames. A mismatch is made small and printed as a case
//! file. How long they look for one is told by the environment: `CARACAL_DIFFER_SECONDS` and `CARACAL_DIFFER_WORLDS`
//! (whichever ends first), `CARACAL_DIFFER_SEED`, `CARACAL_DIFFER_THREADS`, and `CARACAL_DIFFER_FIRST` to begin with the
//! world of that number.

mod host_rules;
mod objects;
mod packets;
mod pipeline;
mod random;
mod rules;
mod services;
mod shrink;
mod tables;
mod words;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use caracal_model::object::Object;
use serde_json::Value;

use crate::reference::{Asked, Direction, HostVerdict, Judge, Verdict};
use objects::{read, world};
use packets::{Places, Question};
use random::Random;
use tables::{Answer, Nodes};

/// Packets that are sent through each world.
const PACKETS: usize = 100;

/// How long to look.
#[derive(Debug, Clone, Copy)]
struct Effort {
    seed: u64,
    seconds: u64,
    /// The first world's number.
    first: u64,
    worlds: u64,
    threads: usize,
}

/// Something that both were asked and answered differently.
#[derive(Debug)]
struct Mismatch {
    /// What there was before; empty: nothing.
    before: Vec<Value>,
    world: Vec<Value>,
    question: Question,
    staged: bool,
}

/// Why a world does not do.
enum Failure {
    /// The two judges differ.
    Differs(Box<Mismatch>),
    /// The tables do not take what the calc graph says.
    Refused(String),
}

/// Two answers to one question.
#[derive(Debug)]
struct Answers {
    production: Option<Answer>,
    reference: Option<Answer>,
}

impl Answers {
    fn differ(&self) -> bool {
        let verdict = |answer: &Option<Answer>| answer.as_ref().map(|answer| answer.verdict);
        verdict(&self.production) != verdict(&self.reference)
    }
}

fn direction(is_sender: bool) -> Direction {
    if is_sender { Direction::Egress } else { Direction::Ingress }
}

fn ask_reference(judge: &Judge<'_>, question: &Question, staged: bool) -> Option<Answer> {
    match question {
        Question::Pod { namespace, name, is_sender, packet } => {
            let asked = if staged { Asked::Staged } else { Asked::Enforced };
            let decision = judge.pod((namespace, name), direction(*is_sender), *packet, asked)?;
            let verdict = match decision.verdict {
                Verdict::Allow => HostVerdict::Allow,
                Verdict::Deny | Verdict::GoOn => HostVerdict::Deny,
            };
            Some(Answer { verdict, why: decision.why })
        }
        Question::Host { name, packet } => {
            let (verdict, why) = judge.host(name, packet)?;
            Some(Answer { verdict, why })
        }
    }
}

fn decoded(world: &[Value]) -> Vec<Object> {
    world.iter().filter_map(read).collect()
}

/// The answers in `world`, which came after `before`.
fn answers(before: &[Value], world: &[Value], question: &Question, staged: bool) -> Result<Answers, String> {
    let (before, objects) = (decoded(before), decoded(world));
    let mut nodes = Nodes::new();
    if !before.is_empty() {
        nodes.become_world(&before, 0)?;
    }
    nodes.become_world(&objects, 0)?;
    let reference = ask_reference(&Judge::new(&objects), question, staged);
    Ok(Answers { production: nodes.answer(question, staged), reference })
}

/// What may have been before `world`: some of it, and some of another.
fn a_world_before(random: &mut Random, world: &[Value]) -> Vec<Value> {
    let mut before: Vec<Value> = world.iter().filter(|_| random.chance(60)).cloned().collect();
    let keys: Vec<_> = decoded(&before).iter().map(Object::key).collect();
    let other = self::world(random).into_iter();
    before.extend(other.filter(|object| {
        read(object).is_some_and(|object| !keys.contains(&object.key())) && random.chance(50)
    }));
    before
}

/// Sends packets through the world of this number; how many, or the first mismatch.
fn try_world(seed: u64, number: u64) -> Result<u64, Failure> {
    let mut random = Random::new(seed.wrapping_mul(0x1000_0001).wrapping_add(number));
    let world = world(&mut random);
    let before = if number.is_multiple_of(3) { a_world_before(&mut random, &world) } else { Vec::new() };
    let objects = decoded(&world);
    let judge = Judge::new(&objects);
    let places = Places::new(&objects);
    let mut nodes = Nodes::new();
    if !before.is_empty() {
        nodes.become_world(&decoded(&before), random.below(1000)).map_err(Failure::Refused)?;
    }
    nodes.become_world(&objects, random.below(1000)).map_err(Failure::Refused)?;
    let mut asked = 0;
    for _ in 0..PACKETS {
        let questions = places.ask(&mut random);
        asked += u64::from(!questions.is_empty());
        for question in questions {
            for staged in [false, true] {
                let production = nodes.answer(&question, staged);
                // Staged policies say what they would do to pods.
                if staged && matches!(question, Question::Host { .. }) {
                    continue;
                }
                let reference = ask_reference(&judge, &question, staged);
                if (Answers { production, reference }).differ() {
                    let mismatch = Mismatch { before, world, question, staged };
                    return Err(Failure::Differs(Box::new(mismatch)));
                }
            }
        }
    }
    Ok(asked)
}

/// The mismatch, small, and told.
fn told(mismatch: Mismatch, number: u64) -> String {
    let Mismatch { mut before, world, ref question, staged } = mismatch;
    let asked = |before: &[Value], world: &[Value]| answers(before, world, question, staged);
    let has_endpoint = asked(&before, &world).is_ok_and(|answers| answers.production.is_some());
    let differs = |before: &[Value], world: &[Value]| {
        asked(before, world).is_ok_and(|answers| {
            answers.differ() && answers.reference.is_some() && answers.production.is_some() == has_endpoint
        })
    };
    if differs(&[], &world) {
        before.clear();
    }
    let world = shrink::shrink(world, &|world| differs(&before, world));
    let before = shrink::shrink(before, &|before| differs(before, &world));
    let described = match answers(&before, &world, question, staged) {
        Ok(Answers { production, reference }) => {
            let told = |answer: &Option<Answer>| {
                answer.as_ref().map_or("no such endpoint".to_owned(), |answer| {
                    format!("{:?}: {}", answer.verdict, answer.why)
                })
            };
            format!("production: {}\n  reference: {}", told(&production), told(&reference))
        }
        Err(error) => error,
    };
    let mut text = shrink::case(&format!("regression-world-{number}"), &described, &world, question);
    if staged {
        text.push_str("# if what is staged took effect\n");
    }
    if !before.is_empty() {
        text.push_str("# after there was:\n");
        before.iter().for_each(|object| text.push_str(&format!("#  - {object}\n")));
    }
    format!("{question}\n{text}")
}

/// Tries worlds, on all threads, until the effort is spent or a world fails. How many worlds and packets.
fn search(
    effort: Effort,
    try_one: impl Fn(u64, u64) -> Result<u64, String> + Sync,
) -> Result<(u64, u64), String> {
    let Effort { seed, seconds, first, worlds, threads } = effort;
    let (next, packets, done) = (AtomicU64::new(first), AtomicU64::new(0), AtomicU64::new(0));
    let (stop, failure) = (AtomicBool::new(false), Mutex::new(None));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) && started.elapsed() < Duration::from_secs(seconds) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= first.saturating_add(worlds) {
                        return;
                    }
                    let tried = catch_unwind(AssertUnwindSafe(|| try_one(seed, number)));
                    match tried.unwrap_or_else(|_| Err("a judge panicked".to_owned())) {
                        Ok(asked) => {
                            packets.fetch_add(asked, Ordering::Relaxed);
                            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                            if done.is_multiple_of(10_000) {
                                let packets = packets.load(Ordering::Relaxed);
                                eprintln!("{done} worlds, {packets} packets, {:?}", started.elapsed());
                            }
                        }
                        Err(error) => {
                            stop.store(true, Ordering::Relaxed);
                            *failure.lock().unwrap() =
                                Some(format!("world {number} of seed {seed}: {error}"));
                        }
                    }
                }
            });
        }
    });
    if let Some(failure) = failure.into_inner().unwrap() {
        return Err(failure);
    }
    let (worlds, packets) = (done.into_inner(), packets.into_inner());
    eprintln!(
        "agreed on {packets} packets through {worlds} worlds of seed {seed} in {:?}",
        started.elapsed()
    );
    Ok((worlds, packets))
}

/// What the environment asks for, or what an ordinary run of the tests can bear.
fn effort(seconds: u64) -> Effort {
    let asked =
        |name: &str| std::env::var(format!("CARACAL_DIFFER_{name}")).ok().and_then(|text| text.parse().ok());
    let worlds = asked("WORLDS");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Effort {
        seed: asked("SEED").unwrap_or(1),
        seconds: asked("SECONDS").unwrap_or(if worlds.is_some() { u64::MAX } else { seconds }),
        first: asked("FIRST").unwrap_or(0),
        worlds: worlds.unwrap_or(u64::MAX),
        threads: asked("THREADS").map_or(cores, |threads| threads as usize),
    }
}

#[test]
fn the_tables_agree_with_the_reference() {
    let found = search(effort(5), |seed, number| {
        try_world(seed, number).map_err(|error| match error {
            Failure::Differs(mismatch) => told(*mismatch, number),
            Failure::Refused(error) => error,
        })
    });
    let (worlds, packets) = found.unwrap_or_else(|mismatch| panic!("{mismatch}"));
    assert!(worlds > 0 && packets > 0, "nothing was tried");
}

#[test]
fn random_worlds_reach_every_kind_of_object_and_of_decision() {
    let mut reached = std::collections::BTreeMap::<String, u64>::new();
    let mut reach = |what: String| *reached.entry(what).or_default() += 1;
    for number in 0..1000 {
        let mut random = Random::new(number);
        let objects = decoded(&world(&mut random));
        objects.iter().for_each(|object| reach(format!("{:?}", object.kind())));
        let (judge, places) = (Judge::new(&objects), Places::new(&objects));
        for question in (0..PACKETS).flat_map(|_| places.ask(&mut random)) {
            let Some(answer) = ask_reference(&judge, &question, false) else { continue };
            let staged = ask_reference(&judge, &question, true).map(|answer| answer.verdict);
            if matches!(question, Question::Pod { .. }) && staged != Some(answer.verdict) {
                reach(format!("staged would change {:?}", answer.verdict));
            }
            let by = if answer.why.contains("gress default · ") {
                "a tier's default"
            } else if answer.why.starts_with("profile") {
                "a profile"
            } else {
                let kinds = [
                    "KubernetesNetworkPolicy",
                    "ClusterNetworkPolicy",
                    "GlobalNetworkPolicy",
                    "NetworkPolicy",
                ];
                kinds.into_iter().find(|kind| answer.why.contains(kind)).unwrap_or(&answer.why)
            };
            let path =
                if let Question::Host { packet, .. } = &question { packet.path.as_str() } else { "pod" };
            let by = if by.contains("no profile") || by.contains("no policy") { "nothing" } else { by };
            reach(format!("{path}: {:?} by {by}", answer.verdict));
        }
    }
    for (what, times) in &reached {
        eprintln!("{times:8} {what}");
    }
    for kind in [
        "Tier",
        "NetworkPolicy",
        "ClusterNetworkPolicy",
        "CalicoNetworkPolicy",
        "GlobalNetworkPolicy",
        "StagedNetworkPolicy",
        "StagedGlobalNetworkPolicy",
        "StagedKubernetesNetworkPolicy",
        "NetworkSet",
        "GlobalNetworkSet",
        "EndpointSlice",
        "HostEndpoint",
        "Profile",
        "FelixConfiguration",
    ] {
        assert!(reached.contains_key(kind), "no {kind} in any world");
    }
    for what in [
        "pod: Allow by KubernetesNetworkPolicy",
        "pod: Allow by ClusterNetworkPolicy",
        "pod: Deny by ClusterNetworkPolicy",
        "pod: Allow by NetworkPolicy",
        "pod: Deny by NetworkPolicy",
        "pod: Allow by GlobalNetworkPolicy",
        "pod: Deny by GlobalNetworkPolicy",
        "pod: Deny by a tier's default",
        "pod: Allow by a profile",
        "to-host: AllowUntracked by GlobalNetworkPolicy",
        "to-host: Deny by GlobalNetworkPolicy",
        "to-host: Allow by failsafe port",
        "to-host: Allow by a profile",
        "to-host: Deny by nothing",
        "from-host: AllowUntracked by GlobalNetworkPolicy",
        "from-host: Allow by GlobalNetworkPolicy",
        "from-host: Allow by failsafe port",
        "forward-in: Deny by a tier's default",
        "forward-in: Allow by nothing",
        "forward-in: Allow by GlobalNetworkPolicy",
        "forward-out: Deny by GlobalNetworkPolicy",
        "staged would change Allow",
        "staged would change Deny",
    ] {
        assert!(reached.contains_key(what), "nothing was ever \"{what}\"");
    }
}

#[test]
fn the_pipeline_agrees_with_the_reference() {
    let found = search(effort(5), pipeline::try_world);
    let (worlds, packets) = found.unwrap_or_else(|mismatch| panic!("{mismatch}"));
    assert!(worlds > 0 && packets > 0, "nothing was tried");
}

#[test]
fn both_agree_on_services_over_pools_of_every_mode() {
    let found = search(effort(3), services::try_world);
    let (worlds, questions) = found.unwrap_or_else(|mismatch| panic!("{mismatch}"));
    assert!(worlds > 0 && questions > 0, "nothing was tried");
}
