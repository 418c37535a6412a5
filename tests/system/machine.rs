//! What tests share: the machine they run on, and the programs.

use std::{
    env, fs,
    path::PathBuf,
    process::{Command, Output},
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    thread,
    time::{Duration, Instant},
};

static MACHINE: RwLock<()> = RwLock::new(());

/// The right to use the machine, with others or alone.
pub enum Permit {
    Shared { _guard: RwLockReadGuard<'static, ()> },
    Alone { _guard: RwLockWriteGuard<'static, ()> },
}

impl Permit {
    pub fn shared() -> Self {
        Self::Shared { _guard: MACHINE.read().unwrap_or_else(PoisonError::into_inner) }
    }

    pub fn alone() -> Self {
        Self::Alone { _guard: MACHINE.write().unwrap_or_else(PoisonError::into_inner) }
    }
}

/// One of our programs.
pub fn program(name: &str) -> PathBuf {
    let folder = match env::var_os("CARACAL_BIN_DIR") {
        Some(folder) => PathBuf::from(folder),
        // target/<profile>/deps/system-…
        None => env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned(),
    };
    let path = folder.join(name);
    assert!(
        path.is_file(),
        "{} is not there: `cargo build -p caracal -p caracal-dataplane` makes it, or set CARACAL_BIN_DIR to where it is",
        path.display()
    );
    path
}

/// Runs `caracal` with arguments.
pub fn caracal(arguments: &[&str]) -> Output {
    Command::new(program("caracal")).args(arguments).output().unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Against hanging only: how long what must come is waited for.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until something is so, and says how long that took. Panics when it never is.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(2));
    }
    start.elapsed()
}

/// Whether more is to be run than there are CPUs: then a promise about time cannot be asked for to the millisecond.
pub fn is_loaded() -> bool {
    let text = fs::read_to_string("/proc/loadavg").unwrap();
    let load: f64 = text.split(' ').next().unwrap().parse().unwrap();
    load > thread::available_parallelism().map_or(1, usize::from) as f64 * 0.75
}

/// How often to repeat what depends on the moment.
pub fn rounds(usual: usize, long: usize) -> usize {
    if env::var_os("CARACAL_LONG").is_some() { long } else { usual }
}

/// Random instants; the seed is printed, so that a failure can be looked at again (CARACAL_SEED).
pub struct Dice(u64);

impl Dice {
    pub fn new() -> Self {
        let seed = match env::var("CARACAL_SEED") {
            Ok(text) => text.parse().unwrap(),
            Err(_) => std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1,
        };
        println!("CARACAL_SEED={seed}");
        Self(seed)
    }

    /// Those that follow from a number other than 0.
    pub fn from(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}
