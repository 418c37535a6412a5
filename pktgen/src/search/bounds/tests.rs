use proptest::prelude::*;

use super::*;

const MIN: f64 = 1_000.0;
const MAX: f64 = 2_000_000.0;

fn plan() -> Plan {
    Plan {
        min: MIN,
        max: MAX,
        first_duration: Duration::from_secs(1),
        last_duration: Duration::from_secs(10),
        phases: 3,
        width: 0.01,
        trials: 1,
        exceed_ratio: 0.5,
    }
}

fn goals() -> Vec<Goal> {
    let goal = |name: &str, loss_ratio| Goal { name: name.into(), loss_ratio };
    vec![goal("NDR", 0.0), goal("PDR", 0.005)]
}

/// A subject that carries `limit` packets a second and loses the rest.
fn subject(limit: f64) -> impl FnMut(Ask) -> Trial {
    move |ask| {
        let sent = (ask.load * ask.duration.as_secs_f64()) as u64;
        let carried = (limit * ask.duration.as_secs_f64()) as u64;
        Trial { ask, sent, lost: sent.saturating_sub(carried) }
    }
}

fn run(plan: Plan, mut trial: impl FnMut(Ask) -> Trial) -> Search {
    let mut search = Search::new(plan, goals());
    while let Some(ask) = search.next() {
        assert!(search.trials.len() < 200, "a search without end, at {ask:?}");
        assert!((plan.min..=plan.max).contains(&ask.load), "{ask:?}");
        search.tell(trial(ask));
    }
    search
}

proptest! {
    #[test]
    fn the_bounds_hold_the_subjects_limit_and_are_near(limit in MIN * 1.1..MAX * 0.9) {
        let search = run(plan(), subject(limit));
        let [ndr, pdr] = &search.goals[..] else { unreachable!() };
        let Some(Found::Between(lower, upper)) = search.found(ndr) else { return Err(TestCaseError::fail("not found")) };
        // A part of a packet is none.
        prop_assert!(lower <= limit + 1.0 && upper >= limit - 1.0, "{lower} … {upper} for {limit}");
        prop_assert!((upper - lower) / upper <= 0.01);
        let Some(Found::Between(lower, upper)) = search.found(pdr) else { return Err(TestCaseError::fail("not found")) };
        let partly = limit / (1.0 - 0.005);
        prop_assert!(lower <= partly + 1.0 && upper >= partly - 1.0, "{lower} … {upper} for {partly}");
        prop_assert!(search.trials.len() <= 40, "{} trials", search.trials.len());
    }

    #[test]
    fn a_search_ends_whatever_the_subject_does(seed in any::<u64>(), trials in 1..6u32, phases in 1..5u32) {
        let mut state = seed | 1;
        let search = run(Plan { trials, phases, ..plan() }, |ask| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let sent = 10_000;
            Trial { ask, sent, lost: if state >> 63 == 0 { 0 } else { (state >> 40) % sent } }
        });
        for goal in &search.goals {
            prop_assert!(search.found(goal).is_some());
        }
    }
}

#[test]
fn a_subject_faster_than_the_generator_is_known_only_from_below() {
    let search = run(plan(), subject(MAX * 2.0));
    assert_eq!(search.found(&search.goals[0]), Some(Found::AtLeast(MAX)));
    assert_eq!(search.trials.len(), 3, "once a phase, for both goals together: {:?}", search.trials);
}

#[test]
fn a_subject_that_always_loses_has_no_rate_without_loss() {
    let mut one = |ask: Ask| Trial { ask, sent: 1_000_000, lost: 1 };
    let search = run(plan(), &mut one);
    assert_eq!(search.found(&search.goals[0]), Some(Found::Below(MIN)));
    assert_eq!(search.found(&search.goals[1]), Some(Found::AtLeast(MAX)), "one in a million is within 0.5 %");
}

#[test]
fn one_unlucky_trial_of_three_moves_no_bound() {
    let mut inner = subject(500_000.0);
    let mut made = 0;
    let search = run(Plan { trials: 3, phases: 1, ..plan() }, |ask| {
        made += 1;
        let trial = inner(ask);
        if made % 5 == 0 && trial.lost == 0 { Trial { lost: 3, ..trial } } else { trial }
    });
    let Some(Found::Between(lower, upper)) = search.found(&search.goals[0]) else { panic!("not found") };
    assert!(lower <= 500_001.0 && upper >= 499_999.0, "{lower} … {upper}");
}

#[test]
fn the_last_phase_rests_on_its_own_long_trials() {
    // Buffers hide what short trials would lose: a limit of 100,000 and room for 150,000 packets.
    let buffered = |ask: Ask| {
        let seconds = ask.duration.as_secs_f64();
        let sent = (ask.load * seconds) as u64;
        Trial { ask, sent, lost: sent.saturating_sub((100_000.0 * seconds + 150_000.0) as u64) }
    };
    let search = run(plan(), buffered);
    let Some(Found::Between(lower, upper)) = search.found(&search.goals[0]) else { panic!("not found") };
    assert!(lower <= 115_001.0 && upper >= 114_999.0, "ten seconds of it: {lower} … {upper}");
}

/// A subject that loses a few packets in one trial of so many, whatever the load, and all above its limit.
fn noisy(limit: f64, one_in: u64, seed: u64) -> impl FnMut(Ask) -> Trial {
    let (mut inner, mut state) = (subject(limit), seed | 1);
    move |ask| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let trial = inner(ask);
        let unlucky = (state >> 33).is_multiple_of(one_in);
        Trial { lost: if unlucky { trial.lost.max(3) } else { trial.lost }, ..trial }
    }
}

proptest! {
    #[test]
    fn with_repeated_trials_noise_does_not_lead_far_from_the_limit(limit in 50_000f64..1_500_000.0, seed in any::<u64>()) {
        let search = run(Plan { trials: 7, ..plan() }, noisy(limit, 16, seed));
        let [ndr, pdr] = &search.goals[..] else { unreachable!() };
        // A rate without loss cannot be above the limit; noise may make it a little lower.
        let Some(Found::Between(lower, _)) = search.found(ndr) else { return Err(TestCaseError::fail("not found")) };
        prop_assert!(lower <= limit + 1.0, "{lower} for {limit}");
        // Three lost of many are within 0.5 %: the PDR does not mind them.
        let Some(Found::Between(lower, upper)) = search.found(pdr) else { return Err(TestCaseError::fail("not found")) };
        let partly = limit / (1.0 - 0.005);
        prop_assert!(lower <= partly + 1.0 && upper >= partly - 1.0, "{lower} … {upper} for {partly}");
    }

    #[test]
    fn throughput_is_what_came_through_at_the_lower_bound(limit in MIN * 1.1..MAX * 0.9) {
        let search = run(plan(), subject(limit));
        for goal in &search.goals {
            let Some(Found::Between(lower, _)) = search.found(goal) else { return Err(TestCaseError::fail("not found")) };
            let throughput = search.conditional_throughput(goal).unwrap();
            prop_assert!(throughput <= lower && throughput >= lower * (1.0 - goal.loss_ratio) - 1.0);
            prop_assert!(throughput <= limit + 1.0, "{throughput} through {limit}");
        }
    }
}

#[test]
fn half_of_the_time_may_be_lossy_and_no_more() {
    let at = |lossy: &[bool]| {
        let mut search = Search::new(Plan { trials: 4, phases: 1, ..plan() }, goals());
        let ask = Ask { load: 5_000.0, duration: Duration::from_secs(10) };
        for lossy in lossy {
            search.tell(Trial { ask, sent: 50_000, lost: if *lossy { 9 } else { 0 } });
        }
        search.verdict(&search.goals[0], 0, 5_000.0)
    };
    assert_eq!(at(&[]), Verdict::Open);
    assert_eq!(at(&[false]), Verdict::Open);
    assert_eq!(at(&[false, false]), Verdict::Carried);
    assert_eq!(at(&[true, true]), Verdict::Open);
    assert_eq!(at(&[true, true, true]), Verdict::Lossy);
    assert_eq!(at(&[true, false, true, false]), Verdict::Carried);
}

#[test]
fn a_short_lossy_trial_alone_decides_nothing_and_a_long_one_outweighs_it() {
    let mut search = Search::new(Plan { phases: 2, ..plan() }, goals());
    let mut tell = |seconds, lost| {
        let ask = Ask { load: 5_000.0, duration: Duration::from_secs(seconds) };
        search.tell(Trial { ask, sent: 5_000 * seconds, lost });
        search.verdict(&search.goals[0], 1, 5_000.0)
    };
    assert_eq!(tell(1, 7), Verdict::Open);
    assert_eq!(tell(10, 0), Verdict::Carried);
}

#[test]
fn many_short_lossy_trials_outweigh_a_long_one_unless_as_many_were_not() {
    let verdict = |lossy: usize, carried: usize| {
        let mut search = Search::new(Plan { phases: 2, ..plan() }, goals());
        let mut tell = |seconds, lost| {
            let ask = Ask { load: 5_000.0, duration: Duration::from_secs(seconds) };
            search.tell(Trial { ask, sent: 5_000 * seconds, lost });
        };
        (0..lossy).for_each(|_| tell(1, 7));
        (0..carried).for_each(|_| tell(1, 0));
        tell(10, 0);
        search.verdict(&search.goals[0], 1, 5_000.0)
    };
    assert_eq!(verdict(9, 0), Verdict::Carried);
    assert_eq!(verdict(11, 0), Verdict::Lossy);
    assert_eq!(verdict(11, 11), Verdict::Carried);
}
