//! Processes by identity: a number alone may be somebody else's by the time a signal arrives.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

/// The environment variable that marks every process of a run of a lab. Its value is the run's identity.
pub const MARK: &str = "CARACAL_LAB_RUN";

/// A process, by its number and the moment it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// Clock ticks from boot to its start, as /proc tells.
    pub start_time: u64,
}

impl Process {
    /// The process that has this number now; `None` when there is none, or only a zombie.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the name in parentheses, and may hold anything; the third is the state, the 22nd the start.
        let (_, rest) = stat.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        if matches!(fields.next()?, "Z" | "X") {
            return None;
        }
        Some(Self { pid, start_time: fields.nth(18)?.parse().ok()? })
    }

    /// This process.
    #[must_use]
    pub fn own() -> Self {
        let pid = Pid::this().as_raw();
        Self::of(pid).unwrap_or(Self { pid, start_time: 0 })
    }

    /// Whether SIGSTOP has stopped it.
    #[must_use]
    pub fn is_stopped(self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    }

    /// Whether it still runs.
    #[must_use]
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Signals it, if it still runs.
    pub fn signal(self, signal: Signal) {
        if self.is_alive() {
            // ESRCH: it ended just now, which is what most signals are for.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Waits until it has ended, at most `limit`; whether it has.
    #[must_use]
    pub fn wait_end(self, limit: Duration) -> bool {
        let start = Instant::now();
        while self.is_alive() {
            if start.elapsed() > limit {
                return false;
            }
            thread::sleep(Duration::from_millis(5));
        }
        true
    }
}

/// Every process that carries the mark of `run`.
#[must_use]
pub fn marked(run: &str) -> Vec<Process> {
    let mark = format!("{MARK}={run}");
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| {
            let process = Process::of(pid)?;
            let environment = fs::read(Path::new("/proc").join(pid.to_string()).join("environ")).ok()?;
            environment
                .split(|&byte| byte == 0)
                .any(|variable| variable == mark.as_bytes())
                .then_some(process)
        })
        .collect()
}

/// Kills every process of a run, stopped ones too, and waits until they are gone. What has not ended after `limit` is returned.
#[must_use]
pub fn kill_marked(run: &str, limit: Duration) -> Vec<Process> {
    let start = Instant::now();
    loop {
        // Again and again: a process may have been starting another one.
        let found = marked(run);
        if found.is_empty() || start.elapsed() > limit {
            return found;
        }
        for process in found {
            process.signal(Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_is_alive_until_it_is_killed() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::of(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(process.is_alive());
        process.signal(Signal::SIGKILL);
        assert!(process.wait_end(Duration::from_secs(10)), "a zombie does not count as alive");
        child.wait().unwrap();
    }

    #[test]
    fn another_process_under_the_same_number_is_another_process() {
        let mut stranger = Process::own();
        stranger.start_time += 1;
        assert!(!stranger.is_alive());
        stranger.signal(Signal::SIGKILL); // must not end this test
    }

    #[test]
    fn only_the_marked_processes_are_killed() {
        let spawn = |run: &str| Command::new("sleep").arg("60").env(MARK, run).spawn().unwrap();
        let run = format!("test-{}", std::process::id());
        let (mut ours, mut others) = (spawn(&run), spawn(&format!("{run}0")));
        assert!(kill_marked(&run, Duration::from_secs(10)).is_empty());
        assert!(!ours.wait().unwrap().success());
        assert!(others.try_wait().unwrap().is_none());
        others.kill().unwrap();
        others.wait().unwrap();
    }
}
