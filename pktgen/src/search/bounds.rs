//! The highest load that a subject carries with no more than a given loss, in few trials: no I/O, trials are asked for and told.
//!
//! ```text
//!   loss    ×  ×        ×: more than the goal allows      ratio of a trial = lost / sent
//!           │  │
//!   ●  ●  ● ▼  │        ●: no more
//!   ──┴──┴─┴───┴──► load, packets a second
//!          └─┘ relevant bounds: their distance is what is still unknown
//! ```
//!
//! As MLRsearch has it (draft-ietf-bmwg-mlrsearch): every goal is searched in phases, from short trials and wide bounds to long trials and
//! narrow ones; what was measured for one goal or phase serves the others; a phase begins by measuring again, for longer, at the bounds that
//! the one before came to.
//!
//! A load is a *lower bound* of a goal when it is certain that no more than the exceed ratio of its time was lossy, an *upper bound* when
//! it is certain that more was, and *undecided* until its trials have lasted long enough in all. So a single unlucky trial among several moves
//! no bound for good. The *relevant* upper bound is the lowest, and the relevant lower bound the highest below that: a subject that loses at one
//! load and not at a higher one is judged by the lower. A goal's *conditional throughput* is what came through at the relevant lower bound.

use std::time::Duration;

/// What is searched for.
#[derive(Debug, Clone, PartialEq)]
pub struct Goal {
    /// Its name: `NDR`, `PDR`.
    pub name: String,
    /// How much of what is sent may be lost: 0 to 1.
    pub loss_ratio: f64,
}

/// How it is searched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    /// No load below this is tried, packets a second.
    pub min: f64,
    /// Nor above.
    pub max: f64,
    /// Of the trials of the first phase …
    pub first_duration: Duration,
    /// … and of the last.
    pub last_duration: Duration,
    /// Of phases; one: only the last.
    pub phases: u32,
    /// How near the bounds must come in the end: (upper − lower) / upper.
    pub width: f64,
    /// Trials at a load in the last phase, if they are all needed; earlier ones make do with one. Times the duration: the goal duration sum.
    pub trials: u32,
    /// How much of a load's time may be lossy: 0 to below 1. A half: the majority counts.
    pub exceed_ratio: f64,
}

/// A trial to be made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ask {
    /// Packets a second.
    pub load: f64,
    /// For how long.
    pub duration: Duration,
}

/// A trial that was made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trial {
    /// What was asked for.
    pub ask: Ask,
    /// Packets sent.
    pub sent: u64,
    /// Of those, packets that did not come.
    pub lost: u64,
}

impl Trial {
    /// Lost of sent; all, when nothing was sent.
    #[must_use]
    pub fn loss_ratio(&self) -> f64 {
        if self.sent == 0 { 1.0 } else { self.lost as f64 / self.sent as f64 }
    }
}

/// What was found for a goal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Found {
    /// The highest load that was carried, and the lowest that was not.
    Between(f64, f64),
    /// Even the highest load that may be tried was carried.
    AtLeast(f64),
    /// Not even the lowest was.
    Below(f64),
}

/// A search.
#[derive(Debug)]
pub struct Search {
    plan: Plan,
    goals: Vec<Goal>,
    trials: Vec<Trial>,
}

/// What a load's trials come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// A lower bound.
    Carried,
    /// An upper bound.
    Lossy,
    /// Too little time of it to say.
    Open,
}

impl Search {
    /// A search for all goals at once.
    #[must_use]
    pub fn new(plan: Plan, goals: Vec<Goal>) -> Self {
        Search { plan, goals, trials: Vec::new() }
    }

    /// The next trial to make; none when everything is found.
    #[must_use]
    pub fn next(&self) -> Option<Ask> {
        let phases = self.plan.phases.max(1);
        (0..phases).find_map(|phase| self.goals.iter().find_map(|goal| self.next_of(goal, phase)))
    }

    /// A trial has been made.
    pub fn tell(&mut self, trial: Trial) {
        self.trials.push(trial);
    }

    /// What has been found for a goal by the last phase; none before it is over.
    #[must_use]
    pub fn found(&self, goal: &Goal) -> Option<Found> {
        let phase = self.plan.phases.max(1) - 1;
        if self.next_of(goal, phase).is_some() {
            return None;
        }
        Some(match self.bounds(goal, phase) {
            (Some(lower), None) => Found::AtLeast(lower),
            (None, _) => Found::Below(self.plan.min),
            (Some(lower), Some(upper)) => Found::Between(lower, upper),
        })
    }

    fn duration(&self, phase: u32) -> Duration {
        let (first, last) = (self.plan.first_duration.as_secs_f64(), self.plan.last_duration.as_secs_f64());
        let last_phase = self.plan.phases.max(1) - 1;
        if phase >= last_phase || first >= last {
            return self.plan.last_duration;
        }
        // From the first to the last in equal ratios.
        Duration::from_secs_f64(first * (last / first).powf(f64::from(phase) / f64::from(last_phase)))
    }

    fn width(&self, phase: u32) -> f64 {
        let wider = self.plan.phases.max(1) - 1 - phase.min(self.plan.phases.max(1) - 1);
        (self.plan.width * f64::from(2u32.saturating_pow(wider))).min(0.5)
    }

    /// How long the trials at a load last together until it must be decided.
    fn duration_sum(&self, phase: u32) -> f64 {
        let trials = if phase + 1 >= self.plan.phases { self.plan.trials.max(1) } else { 1 };
        self.duration(phase).as_secs_f64() * f64::from(trials)
    }

    fn verdict(&self, goal: &Goal, phase: u32, load: f64) -> Verdict {
        let duration = self.duration(phase);
        let sum = |long: bool, lossy: bool| -> f64 {
            let of = |trial: &&Trial| {
                trial.ask.load == load
                    && (trial.ask.duration >= duration) == long
                    && (trial.loss_ratio() > goal.loss_ratio) == lossy
            };
            self.trials.iter().filter(of).map(|trial| trial.ask.duration.as_secs_f64()).sum()
        };
        let (long_carried, long_lossy) = (sum(true, false), sum(true, true));
        if long_carried + long_lossy == 0.0 {
            // Short trials say where to look, not what is so.
            return Verdict::Open;
        }
        // Short trials that were lossy count as far as others that were not do not make up for them.
        let exceed = self.plan.exceed_ratio.clamp(0.0, 0.99);
        let excess = (sum(false, true) - sum(false, false) * exceed / (1.0 - exceed)).max(0.0);
        let lossy = long_lossy + excess;
        let whole = (long_carried + lossy).max(self.duration_sum(phase));
        let allowed = whole * exceed * (1.0 + 1e-9);
        if whole - long_carried <= allowed {
            Verdict::Carried
        } else if lossy > allowed {
            Verdict::Lossy
        } else {
            Verdict::Open
        }
    }

    /// What came through at the goal's relevant lower bound: of its trials the loss ratio that so much of the time kept to as the goal asks for.
    /// None before the search is over, or without such a bound.
    #[must_use]
    pub fn conditional_throughput(&self, goal: &Goal) -> Option<f64> {
        let (Found::Between(load, _) | Found::AtLeast(load)) = self.found(goal)? else { return None };
        let duration = self.plan.last_duration;
        let mut trials: Vec<&Trial> =
            self.trials.iter().filter(|t| t.ask.load == load && t.ask.duration >= duration).collect();
        trials.sort_by(|a, b| a.loss_ratio().total_cmp(&b.loss_ratio()));
        let lasted: f64 = trials.iter().map(|trial| trial.ask.duration.as_secs_f64()).sum();
        let mut left = lasted * (1.0 - self.plan.exceed_ratio);
        let quantile = trials.iter().find(|trial| {
            left -= trial.ask.duration.as_secs_f64();
            left <= 1e-9
        })?;
        Some(load * (1.0 - quantile.loss_ratio()))
    }

    fn loads(&self) -> Vec<f64> {
        let mut loads: Vec<f64> = self.trials.iter().map(|trial| trial.ask.load).collect();
        loads.sort_by(f64::total_cmp);
        loads.dedup();
        loads
    }

    /// The lowest load that was lossy, and the highest below it that was carried.
    fn bounds(&self, goal: &Goal, phase: u32) -> (Option<f64>, Option<f64>) {
        let loads = self.loads();
        let is = |verdict| move |load: &&f64| self.verdict(goal, phase, **load) == verdict;
        let upper = loads.iter().find(is(Verdict::Lossy)).copied();
        let below = |load: &&f64| upper.is_none_or(|upper| **load < upper);
        let lower = loads.iter().rev().filter(below).find(is(Verdict::Carried)).copied();
        (lower, upper)
    }

    fn next_of(&self, goal: &Goal, phase: u32) -> Option<Ask> {
        let ask = |load| Some(Ask { load, duration: self.duration(phase) });
        let Plan { min, max, .. } = self.plan;
        // A load whose trials were begun and say nothing yet.
        let begun = |load: &f64| {
            self.verdict(goal, phase, *load) == Verdict::Open
                && self.trials.iter().any(|t| t.ask.load == *load && t.ask.duration >= self.duration(phase))
        };
        if let Some(load) = self.loads().into_iter().find(begun) {
            return ask(load);
        }
        let (lower, upper) = self.bounds(goal, phase);
        let former = match phase.checked_sub(1) {
            Some(before) => self.bounds(goal, before),
            None => (None, None),
        };
        match (lower, upper) {
            (None, None) => ask(former.0.or(former.1).unwrap_or(max)),
            (Some(lower), None) if lower >= max => None,
            (Some(lower), None) => {
                ask(former.1.filter(|upper| *upper > lower).unwrap_or_else(|| self.above(lower, phase)))
            }
            (None, Some(upper)) if upper <= min => None,
            (None, Some(upper)) => {
                // What came through at a lossy load is where the subject's limit may be, if that is far enough away.
                let far = self.below(upper, phase);
                let near = self.throughput_of(upper).map_or(far, |carried| carried.min(far));
                ask(former.0.filter(|lower| *lower < upper).unwrap_or(near).max(min))
            }
            // Rates differ by ratios.
            (Some(lower), Some(upper)) if (upper - lower) / upper <= self.width(phase) => None,
            (Some(lower), Some(upper)) => ask((lower * upper).sqrt()),
        }
    }

    /// A load above one that is carried: twice the width away, and further with each load that was carried in this phase.
    fn above(&self, lower: f64, phase: u32) -> f64 {
        (lower * (1.0 + self.step(phase))).min(self.plan.max)
    }

    fn below(&self, upper: f64, phase: u32) -> f64 {
        (upper * (1.0 - self.step(phase).min(0.5))).max(self.plan.min)
    }

    fn step(&self, phase: u32) -> f64 {
        let duration = self.duration(phase);
        let tried = self.trials.iter().filter(|trial| trial.ask.duration >= duration).count() as u32;
        2.0 * self.width(phase) * f64::from(2u32.saturating_pow(tried.min(8)))
    }

    fn throughput_of(&self, load: f64) -> Option<f64> {
        let of = |trial: &&Trial| trial.ask.load == load && trial.sent > 0;
        let trial = self.trials.iter().find(of)?;
        let carried = load * (1.0 - trial.loss_ratio());
        (carried >= self.plan.min).then_some(carried)
    }
}

#[cfg(test)]
mod tests;
