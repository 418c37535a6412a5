//! The lab's processes: each is started in its namespace, watched by a thread of its own, and started again when it ends.
//!
//! The first few restarts come at once, since pods of a dead fastpath are cut off; a process that keeps dying is started ever less often.

use std::{
    fs, io,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use caracal_cni::netns;
use nix::{
    sys::{
        signal::Signal,
        wait::{Id, WaitPidFlag, waitid},
    },
    unistd::Pid,
};

use crate::{
    error::LabError,
    process::{MARK, Process},
    state::{ProcessState, State},
    stop::Stop,
};

const FREE_RESTARTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A process that ran this long is healthy: what it dies of next is a new matter.
const HEALTHY: Duration = Duration::from_secs(10);

/// How to start a process.
#[derive(Debug, Clone)]
pub struct Program {
    /// What it is called in state and logs.
    pub name: String,
    /// The namespace it runs in; `None`: the supervisor's.
    pub netns: Option<PathBuf>,
    /// The executable.
    pub path: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Where it writes.
    pub log: PathBuf,
}

/// The processes of a lab, kept running.
#[derive(Debug)]
pub struct Children {
    state: Arc<Mutex<State>>,
    stop: Stop,
    threads: Vec<JoinHandle<()>>,
}

impl Children {
    /// None yet. `state` is kept up to date, on disk too.
    #[must_use]
    pub fn new(state: Arc<Mutex<State>>) -> Self {
        Self { state, stop: Stop::default(), threads: Vec::new() }
    }

    /// Starts a process and keeps it running.
    ///
    /// # Errors
    /// It cannot be started at all.
    pub fn start(&mut self, program: Program) -> Result<(), LabError> {
        let run = lock(&self.state).run.clone();
        let child = spawn(&program, &run)?;
        record(&self.state, &program.name, Some(&child), 0);
        let (state, stop) = (Arc::clone(&self.state), self.stop.clone());
        self.threads.push(thread::spawn(move || keep(&program, child, &run, &state, &stop)));
        Ok(())
    }

    /// Ends every process, at once: what it would tidy up goes with its namespace, and what it has on disk goes with the lab.
    pub fn end(&mut self) {
        self.stop.set();
        let processes: Vec<Process> = lock(&self.state).processes.iter().filter_map(|p| p.process).collect();
        processes.iter().for_each(|process| process.signal(Signal::SIGKILL));
        for thread in self.threads.drain(..) {
            // A thread that panicked has nothing more to tell; its process is ended by the sweep.
            let _ = thread.join();
        }
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        self.end();
    }
}

fn keep(program: &Program, mut child: Child, run: &str, state: &Mutex<State>, stop: &Stop) {
    let mut restarts = 0;
    let mut recent = 0;
    loop {
        let started = Instant::now();
        wait(&mut child, || record(state, &program.name, None, restarts));
        recent = if started.elapsed() > HEALTHY { 1 } else { recent + 1 };
        if pause(recent, stop).is_err() {
            return;
        }
        loop {
            match spawn(program, run) {
                Ok(started) => {
                    child = started;
                    break;
                }
                // The executable is being replaced, or the machine is short of something: try again.
                Err(error) => {
                    note(program, &error.to_string());
                    if stop.sleep(LONGEST_PAUSE).is_err() {
                        return;
                    }
                }
            }
        }
        restarts += 1;
        record(state, &program.name, Some(&child), restarts);
        if stop.is_set() {
            // `end` may have read the state before this process was in it.
            let _ = child.kill();
            wait(&mut child, || ());
            return;
        }
    }
}

/// Waits for the end of a process. `ended` runs while its number is still its own, so that nobody signals a stranger.
fn wait(child: &mut Child, ended: impl FnOnce()) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(0));
    while waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(nix::Error::EINTR) {}
    ended();
    let _ = child.wait();
}

fn pause(recent: u32, stop: &Stop) -> Result<(), LabError> {
    let beyond = recent.saturating_sub(FREE_RESTARTS);
    let pause = match beyond {
        0 => Duration::ZERO,
        _ => FIRST_PAUSE.saturating_mul(1 << beyond.min(10)).min(LONGEST_PAUSE),
    };
    stop.sleep(pause)
}

fn spawn(program: &Program, run: &str) -> Result<Child, LabError> {
    let start = || -> io::Result<Child> {
        let log = fs::File::options().create(true).append(true).open(&program.log)?;
        Command::new(&program.path)
            .args(&program.arguments)
            .env(MARK, run)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
    };
    let started = match &program.netns {
        None => start(),
        // A child is born in the namespace of the thread that starts it.
        Some(path) => netns::within(path, start)?,
    };
    started.map_err(|source| LabError::Start { program: program.path.display().to_string(), source })
}

fn record(state: &Mutex<State>, name: &str, child: Option<&Child>, restarts: u32) {
    let process = child.and_then(|child| Process::of(i32::try_from(child.id()).ok()?));
    let mut state = lock(state);
    let entry = ProcessState { name: name.into(), process, restarts };
    match state.processes.iter_mut().find(|known| known.name == name) {
        Some(known) => *known = entry,
        None => state.processes.push(entry),
    }
    // Only `lab status` reads this; what `lab down` needs is there since the beginning.
    let _ = state.write();
}

fn note(program: &Program, message: &str) {
    use io::Write;
    if let Ok(mut log) = fs::File::options().create(true).append(true).open(&program.log) {
        let _ = writeln!(log, "caracal lab: {message}");
    }
}

/// The state, even if a thread panicked while it held it: each change of it is one assignment.
pub(crate) fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
