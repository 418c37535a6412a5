//! What a run cost the whole machine: softirq work shows up on cores that no process of ours ran on. And what each of our threads did.

use std::fs;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, gettid};
use serde::{Deserialize, Serialize};

/// Clock ticks a second in /proc/stat (USER_HZ), the same on every Linux architecture we run on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Seconds of all CPUs together since boot.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MachineTime {
    /// They were busy, whoever made them so.
    pub busy_s: f64,
    /// The hypervisor had them do something else; part of busy.
    pub stolen_s: f64,
}

impl MachineTime {
    /// Now; `None` when /proc/stat is not as proc(5) has it.
    #[must_use]
    pub fn now() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/stat").ok()?)
    }

    /// user, nice, system, irq, softirq and steal of the first line; idle and iowait are left out, and guest is in user.
    fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().next()?.strip_prefix("cpu ")?;
        let fields: Vec<f64> = line.split_whitespace().map_while(|f| f.parse().ok()).collect();
        let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = fields.as_slice() else {
            return None;
        };
        Some(MachineTime {
            busy_s: (user + nice + system + irq + softirq + steal) / TICKS_PER_SECOND,
            stolen_s: steal / TICKS_PER_SECOND,
        })
    }

    /// From then to now.
    #[must_use]
    pub fn since(self, before: MachineTime) -> Self {
        MachineTime { busy_s: self.busy_s - before.busy_s, stolen_s: self.stolen_s - before.stolen_s }
    }
}

/// A thread that sends or receives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerLoad {
    /// `generator 0`, `sink 0`.
    pub name: String,
    /// Seconds that a CPU worked for it.
    pub cpu_s: f64,
    /// Of the time that it ran, 0 to 1. Who polls without pause has 1, whatever there is to do.
    pub load: f64,
}

/// The threads of a run.
#[derive(Debug, Default)]
pub struct Workers(Mutex<Vec<Worker>>);

#[derive(Debug)]
struct Worker {
    name: String,
    thread: Pid,
    began: Instant,
    /// What it took in the end, and for how long it ran.
    ended: Option<(Duration, Duration)>,
}

impl Workers {
    /// Does a worker's work on this thread, under its name.
    pub fn run<T>(&self, name: String, work: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let used_before = own_time();
        let at = self.0.lock().map_or(usize::MAX, |mut workers| {
            workers.push(Worker { name, thread: gettid(), began, ended: None });
            workers.len() - 1
        });
        let result = work();
        let ended = Some((own_time().saturating_sub(used_before), began.elapsed()));
        if let Ok(mut workers) = self.0.lock()
            && let Some(worker) = workers.get_mut(at)
        {
            worker.ended = ended;
        }
        result
    }

    /// How busy each is, or was, in order of names.
    #[must_use]
    pub fn loads(&self) -> Vec<WorkerLoad> {
        let Ok(workers) = self.0.lock() else { return Vec::new() };
        let mut loads: Vec<WorkerLoad> = workers
            .iter()
            .map(|worker| {
                let (used, ran) = worker
                    .ended
                    .unwrap_or_else(|| (time_of(worker.thread).unwrap_or_default(), worker.began.elapsed()));
                let (cpu_s, ran_s) = (used.as_secs_f64(), ran.as_secs_f64());
                let load = if ran_s > 0.0 { (cpu_s / ran_s).min(1.0) } else { 0.0 };
                WorkerLoad { name: worker.name.clone(), cpu_s, load }
            })
            .collect();
        loads.sort_by(|a, b| a.name.cmp(&b.name));
        loads
    }
}

/// CPU time of this thread.
fn own_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// CPU time of another of our threads: the first figure of its schedstat, nanoseconds.
fn time_of(thread: Pid) -> Option<Duration> {
    let text = fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).ok()?;
    text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_waiting_are_not_busy() {
        let time = MachineTime::parse("cpu  100 20 30 4000 500 6 7 8 99 0\ncpu0 1 1 1 1");
        assert_eq!(time, Some(MachineTime { busy_s: 1.71, stolen_s: 0.08 }));
        assert_eq!(MachineTime::parse("cpu  100 20"), None);
        assert_eq!(MachineTime::parse(""), None);
    }

    #[test]
    fn workers_are_known_while_they_work_and_after() {
        let workers = Workers::default();
        let names = || workers.loads().into_iter().map(|load| load.name).collect::<Vec<_>>();
        workers.run("sink 0".into(), || {
            workers.run("generator 0".into(), || assert_eq!(names(), ["generator 0", "sink 0"]));
        });
        let loads = workers.loads();
        assert!(loads.iter().all(|load| (0.0..=1.0).contains(&load.load)), "{loads:?}");
        assert_eq!(names(), ["generator 0", "sink 0"]);
    }
}
