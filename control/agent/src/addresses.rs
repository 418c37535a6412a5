//! Gives pods' addresses on behalf of this node's CNI plugins: one giver, with a connection that stands, for all that ask at once.
//!
//! Nothing depends on it: a plugin that is answered `busy` gives its pod an address itself. What was given to a plugin that no longer
//! listens is taken back, since its DEL may have been before.

use std::sync::Arc;

use caracal_cni::node_socket::{Answer, Assign, Code, Failure};
use caracal_cni::plugin::{batch, ipam};
use caracal_datastore::Datastore;
use caracal_model::labels::Labels;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use crate::node_socket::Asker;

/// So many may wait; more are told to do it themselves.
const WAITING_MAX: usize = 1024;
/// So many are given addresses together: the first of a crowd are to go on, up to the fastpath, which opens one port after the other, while
/// the next are given theirs.
const BATCH_MAX: usize = 32;

type Asked = (Assign, Asker);

/// The giver; dropped, it ends.
#[derive(Debug)]
pub struct Addresses {
    ask: mpsc::Sender<Asked>,
    node_labels: watch::Sender<Labels>,
    task: JoinHandle<()>,
}

impl Addresses {
    /// Starts to give addresses of this node's.
    #[must_use]
    pub fn start(node: String, datastore: watch::Receiver<Option<Datastore>>) -> Self {
        let (ask, asked) = mpsc::channel(WAITING_MAX);
        let (node_labels, labels) = watch::channel(Labels::new());
        let task = tokio::spawn(give(node, datastore, labels, asked));
        Self { ask, node_labels, task }
    }

    /// Says how pools select the node.
    pub fn set_node_labels(&self, labels: Labels) {
        self.node_labels.send_replace(labels);
    }

    /// Gives, and answers then.
    pub fn ask(&self, assign: Assign, asker: Asker) {
        if let Err(refused) = self.ask.try_send((assign, asker)) {
            let (_, asker) = refused.into_inner();
            asker.tell(failure(Code::Busy, "too many wait for addresses"));
        }
    }
}

impl Drop for Addresses {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn give(
    node: String,
    datastore: watch::Receiver<Option<Datastore>>,
    labels: watch::Receiver<Labels>,
    mut asked: mpsc::Receiver<Asked>,
) {
    let mut near = batch::Near::new();
    let mut waiting = Vec::new();
    while asked.recv_many(&mut waiting, BATCH_MAX).await > 0 {
        let (assigns, askers): (Vec<Assign>, Vec<Asker>) =
            waiting.drain(..).filter(|(_, asker)| !asker.is_gone()).unzip();
        let current = datastore.borrow().clone();
        let world = match &current {
            Some(datastore) => datastore.ipam_world(None, None).await.map_err(|error| error.to_string()),
            None => Err("it is not known where Calico's objects are".to_owned()),
        };
        let (Some(datastore), Ok(mut world)) = (current, world.as_ref().cloned()) else {
            let why = world.err().unwrap_or_default();
            warn!("no addresses can be given for plugins: {why}");
            askers.into_iter().for_each(|asker| asker.tell(failure(Code::Busy, &why)));
            continue;
        };
        world.node_labels = labels.borrow().clone();
        let world = Arc::new(world);
        let answers = batch::assign(&datastore, &world, &node, &assigns, &mut near).await;
        debug!(pods = assigns.len(), "gave addresses");
        for ((assign, asker), answer) in assigns.into_iter().zip(askers).zip(answers) {
            let (given, answer) = match answer {
                Ok(addresses) => (addresses.clone(), Answer::Assigned { addresses }),
                Err(error) => (Vec::new(), failure(Code::NoAddress, &error.to_string())),
            };
            let told = asker.give(answer);
            let (datastore, world) = (datastore.clone(), Arc::clone(&world));
            tokio::spawn(async move {
                if !told.await
                    && let Err(error) = ipam::take_back(&datastore, &world, &assign.handle, &given).await
                {
                    warn!("addresses of {}, whose plugin is gone, remain: {error}", assign.handle);
                }
            });
        }
    }
}

pub(crate) fn failure(code: Code, error: &str) -> Answer {
    Answer::Failure(Failure { error: error.to_owned(), code })
}
