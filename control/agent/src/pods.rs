//! Reads pods and writes their annotations on behalf of this node's CNI plugins: by a few connections that stand, where every plugin would
//! make one of its own, and shake hands for longer than it asks.
//!
//! Nothing depends on it: a plugin that is answered `busy` asks the API server itself, and tells its runtime what is wrong. What was written
//! for a plugin that no longer listens is taken back, since its DEL may have been before.

use std::collections::BTreeMap;
use std::sync::Arc;

use caracal_cni::node_socket::{Annotate, Answer, Code, LINE_BYTES_MAX, PodName};
use caracal_cni::plugin::pod;
use caracal_datastore::{Datastore, DatastoreError};
use caracal_model::object::{Kind, Object};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Namespace;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tracing::warn;

use crate::addresses::failure;
use crate::node_socket::Asker;

/// So many may wait; more are told to do it themselves.
const WAITING_MAX: usize = 1024;
/// So many are read together.
const BATCH_MAX: usize = 256;
/// Requests of one sort that are under way at once: as many connections, where one carries one request at a time.
const AT_ONCE: usize = 8;

/// The reader and the writer; dropped, the reader ends, and what is being written still is.
#[derive(Debug)]
pub struct Pods {
    datastore: watch::Receiver<Option<Datastore>>,
    ask: mpsc::Sender<(PodName, Asker)>,
    writers: Arc<Semaphore>,
    task: JoinHandle<()>,
}

impl Pods {
    /// Starts to read.
    #[must_use]
    pub fn start(datastore: watch::Receiver<Option<Datastore>>) -> Self {
        let (ask, asked) = mpsc::channel(WAITING_MAX);
        let task = tokio::spawn(read_many(datastore.clone(), asked));
        Self { datastore, ask, writers: Arc::new(Semaphore::new(AT_ONCE)), task }
    }

    /// Reads a pod and its namespace, and answers then.
    pub fn read(&self, name: PodName, asker: Asker) {
        if let Err(refused) = self.ask.try_send((name, asker)) {
            let (_, asker) = refused.into_inner();
            asker.tell(busy("too many pods are to be read"));
        }
    }

    /// Writes a pod's annotations, and answers then.
    pub fn annotate(&self, annotate: Annotate, asker: Asker) {
        let Some(datastore) = self.datastore.borrow().clone() else { return asker.tell(unknown()) };
        let writers = Arc::clone(&self.writers);
        tokio::spawn(async move {
            let permit = writers.acquire_owned().await;
            // Nobody has been told: its DEL may be there already.
            if asker.is_gone() {
                return;
            }
            let written = pod::write(&datastore, &annotate).await;
            drop(permit);
            let was_told = match written {
                Ok(()) => asker.give(Answer::Annotated { annotated: true }).await,
                // It may have been written all the same.
                Err(error) => asker.give(busy(&error.to_string())).await,
            };
            if !was_told && let Err(error) = pod::take_back(&datastore, &annotate).await {
                warn!(
                    "annotations of pod {}/{}, whose plugin is gone, remain: {error}",
                    annotate.namespace, annotate.pod
                );
            }
        });
    }
}

impl Drop for Pods {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read_many(
    datastore: watch::Receiver<Option<Datastore>>,
    mut asked: mpsc::Receiver<(PodName, Asker)>,
) {
    let mut waiting = Vec::new();
    while asked.recv_many(&mut waiting, BATCH_MAX).await > 0 {
        let Some(datastore) = datastore.borrow().clone() else {
            waiting.drain(..).for_each(|(_, asker)| asker.tell(unknown()));
            continue;
        };
        // Pods that come at once are mostly of few namespaces.
        let mut namespaces = BTreeMap::new();
        for (name, _) in &waiting {
            if !namespaces.contains_key(&name.namespace) {
                namespaces.insert(name.namespace.clone(), namespace(&datastore, &name.namespace).await);
            }
        }
        let (datastore, namespaces) = (&datastore, &namespaces);
        let each = futures::stream::iter(waiting.drain(..));
        let read = each.for_each_concurrent(AT_ONCE, |(name, asker)| async move {
            asker.tell(match namespaces.get(&name.namespace) {
                Some(Ok(of)) => known(datastore, &name, of.as_ref()).await,
                Some(Err(why)) => busy(why),
                None => unknown(),
            });
        });
        read.await;
    }
}

async fn namespace(datastore: &Datastore, name: &str) -> Result<Option<Namespace>, String> {
    match datastore.get(Kind::Namespace, None, name).await {
        Ok(Object::Namespace(namespace)) => Ok(Some(*namespace)),
        Ok(_) | Err(DatastoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

async fn known(datastore: &Datastore, name: &PodName, of: Option<&Namespace>) -> Answer {
    match pod::read(datastore, &name.namespace, &name.pod).await {
        Ok(Some(found)) => {
            let (pod, of) = pod::looked_at(&found, of);
            let answer = Answer::Known { pod: Box::new(pod), of: of.map(Box::new) };
            match serde_json::to_vec(&answer) {
                Ok(line) if line.len() < LINE_BYTES_MAX => answer,
                _ => busy("the pod's annotations are too long for an answer"),
            }
        }
        Ok(None) => busy("there is no such pod"),
        Err(error) => busy(&error.to_string()),
    }
}

fn unknown() -> Answer {
    busy("it is not known where Calico's objects are")
}

fn busy(why: &str) -> Answer {
    failure(Code::Busy, why)
}
