//! What is logged, which may change at any time.
//!
//! In the order of what counts: what the environment variable says, for as long as the process lives; `debug`, while SIGUSR1 has asked for
//! it (useful when the API is away); what the configuration in the API says; `info`.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::signal::unix::{SignalKind, signal};
use tracing::{Event, Level, Subscriber, info, warn};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

/// The environment variable that says what is logged: `info`, `debug`, `caracal_agent=debug,warn`, …
const VARIABLE: &str = "CARACAL_LOG";
/// What kube's client would say at each attempt, we say once.
const QUIET: &str = "kube_client::client::builder=off";

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The environment variable does not say what may be logged.
    #[error("{VARIABLE}={text}: {why}")]
    Filter {
        /// What it says.
        text: String,
        /// What is wrong with that.
        why: tracing_subscriber::filter::ParseError,
    },
    /// Somebody else logs already.
    #[error("cannot log: {0}")]
    Taken(#[from] TryInitError),
}

/// The process' log; all clones are one.
#[derive(Debug, Clone)]
pub struct Logs {
    errors: Arc<AtomicU64>,
    state: Arc<Mutex<State>>,
    filter: Option<reload::Handle<EnvFilter, Registry>>,
}

#[derive(Debug, Default)]
struct State {
    /// What the API's configuration says.
    configured: Option<String>,
    is_debugging: bool,
}

impl Logs {
    /// Logs to stderr from now on; what, the environment variable `CARACAL_LOG` may say.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn start() -> Result<Self, LogError> {
        let fixed = std::env::var(VARIABLE).ok();
        let filter = match &fixed {
            Some(text) => {
                EnvFilter::try_new(text).map_err(|why| LogError::Filter { text: text.clone(), why })?
            }
            None => EnvFilter::new(directives(None)),
        };
        let (filter, handle) = reload::Layer::new(filter);
        let errors = Arc::new(AtomicU64::new(0));
        let ansi = std::io::stderr().is_terminal();
        tracing_subscriber::registry()
            .with(filter)
            .with(Errors(Arc::clone(&errors)))
            .with(tracing_subscriber::fmt::layer().with_ansi(ansi).with_writer(std::io::stderr))
            .try_init()?;
        let filter = fixed.is_none().then_some(handle);
        Ok(Self { errors, state: Arc::default(), filter })
    }

    /// A log that somebody else has set up, as in tests: its level stays as it is, and no errors are counted.
    #[must_use]
    pub fn unmanaged() -> Self {
        Self { errors: Arc::default(), state: Arc::default(), filter: None }
    }

    /// How many errors have been logged.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.errors.load(Relaxed)
    }

    /// What the configuration in the API says: a severity of Calico's, in any case of its letters; `None`: nothing.
    pub fn configure(&self, severity: Option<&str>) {
        let severity = severity.map(str::to_lowercase);
        let mut state = self.lock();
        if state.configured != severity {
            state.configured = severity;
            self.follow(&state);
        }
    }

    /// Has SIGUSR1 begin, and end, debugging, for as long as the process lives.
    pub async fn follow_signal(self) {
        let mut user = match signal(SignalKind::user_defined1()) {
            Ok(user) => user,
            Err(error) => return warn!("SIGUSR1 will not change what is logged: {error}"),
        };
        while user.recv().await.is_some() {
            self.toggle_debug();
        }
    }

    /// Debugs, or no longer.
    fn toggle_debug(&self) {
        let mut state = self.lock();
        state.is_debugging = !state.is_debugging;
        self.follow(&state);
    }

    fn follow(&self, state: &State) {
        let Some(filter) = &self.filter else { return };
        let severity = if state.is_debugging { Some("debug") } else { state.configured.as_deref() };
        let directives = directives(severity);
        info!("logging {directives} from now on");
        // Fails only when the process is ending.
        let _ = filter.reload(EnvFilter::new(directives));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a severity of Calico's means here. Below `info` it is meant of our own code, not of libraries', which would drown it.
fn directives(severity: Option<&str>) -> String {
    let level = match severity {
        Some("trace") => "info,caracal=trace",
        Some("debug") => "info,caracal=debug",
        Some("warning") => "warn",
        Some("error" | "fatal" | "panic") => "error",
        Some("none") => "off",
        _ => "info",
    };
    format!("{level},{QUIET}")
}

/// Counts what is logged as an error.
struct Errors(Arc<AtomicU64>);

impl<S: Subscriber> Layer<S> for Errors {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() == Level::ERROR {
            self.0.fetch_add(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_signal_begins_and_ends_debugging() {
        let logs = Logs::unmanaged();
        // Polled once, it has caught the signal, which otherwise ends this process.
        tokio::spawn(logs.clone().follow_signal());
        tokio::task::yield_now().await;
        for expected in [true, false] {
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGUSR1).unwrap();
            while logs.lock().is_debugging != expected {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        }
    }

    #[test]
    fn severities_are_calicos() {
        for (severity, expected) in [
            (None, "info"),
            (Some("info"), "info"),
            (Some("debug"), "info,caracal=debug"),
            (Some("fatal"), "error"),
            (Some("loud"), "info"),
        ] {
            assert_eq!(directives(severity), format!("{expected},{QUIET}"));
            assert!(EnvFilter::try_new(directives(severity)).is_ok());
        }
    }
}
