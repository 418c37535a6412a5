//! What the commands that stay have in common: a runtime, and an end when they are told to.

use anyhow::Context;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

/// The runtime of a command that stays.
pub fn runtime() -> anyhow::Result<Runtime> {
    let built = Builder::new_multi_thread().worker_threads(2).enable_all().build();
    built.context("cannot start the tokio runtime")
}

/// Done when SIGTERM or SIGINT comes. They are caught from the call on, so that none is missed before it is waited for.
pub fn told_to_end() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
