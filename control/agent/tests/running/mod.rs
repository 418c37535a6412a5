//! An agent that runs until a test has seen enough.

use caracal_agent::Agent;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// An agent at work.
pub struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Running {
    pub fn start(agent: Agent) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(agent.run(async move {
            let _ = stopped.await;
        }));
        Self { stop, task }
    }

    /// Asks it to end, and waits until it has.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        self.task.await.unwrap();
    }
}
