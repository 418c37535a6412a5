//! What of the cluster an agent follows.
//!
//! Kubernetes' kinds are followed from the beginning; Calico's as soon as it is known in which API group the cluster
//! serves them. A cluster that serves them in none has none, until their definitions are installed; one that does not
//! answer may have any, and is waited for.

use std::time::Duration;

use caracal_datastore::{Backoff, Datastore, DatastoreError};
use caracal_model::object::Kind;
use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};

pub use caracal_datastore::{Standing, SyncEvent};

/// How soon the cluster is asked again how it serves Calico's kinds.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LIMIT: Duration = Duration::from_secs(5);

/// Kubernetes' own kinds that are followed.
const OF_KUBERNETES: &[Kind] = &[
    Kind::Namespace,
    Kind::ServiceAccount,
    Kind::Node,
    Kind::Pod,
    Kind::Service,
    Kind::EndpointSlice,
    Kind::NetworkPolicy,
    Kind::ClusterNetworkPolicy,
];

/// Calico's kinds that are followed. A cluster need not serve all of them. Profiles are not among them: whoever serves
/// them makes them from namespaces and service accounts, as the calc graph does.
const OF_CALICO: &[Kind] = &[
    Kind::Tier,
    Kind::CalicoNetworkPolicy,
    Kind::GlobalNetworkPolicy,
    Kind::StagedNetworkPolicy,
    Kind::StagedGlobalNetworkPolicy,
    Kind::StagedKubernetesNetworkPolicy,
    Kind::NetworkSet,
    Kind::GlobalNetworkSet,
    Kind::HostEndpoint,
    Kind::FelixConfiguration,
    Kind::ClusterInformation,
    Kind::IPPool,
    Kind::IPAMBlock,
    Kind::BlockAffinity,
];

/// Follows what an agent must know.
#[derive(Debug)]
pub struct Syncer {
    kubernetes: caracal_datastore::Syncer,
    calico: Option<caracal_datastore::Syncer>,
    found: mpsc::Receiver<Found>,
    datastore: watch::Receiver<Option<Datastore>>,
    asking: JoinHandle<()>,
    /// What of the two has been told whole: Kubernetes' kinds, Calico's.
    in_sync: [bool; 2],
    said: bool,
}

/// What has been found out about Calico's kinds.
#[derive(Debug)]
enum Found {
    /// There are none, so far.
    Nowhere,
    /// Where they are.
    Here(Datastore),
}

impl Syncer {
    /// Starts to follow every kind.
    #[must_use]
    pub fn start(client: &Client) -> Self {
        let (tell, found) = mpsc::channel(1);
        let (publish, datastore) = watch::channel(None);
        let asking = tokio::spawn(ask(client.clone(), tell, publish));
        // The group is Calico's; Kubernetes' kinds are the same with any.
        let kubernetes = Datastore::new(client.clone(), caracal_datastore::ApiGroup::V3);
        Self {
            kubernetes: caracal_datastore::Syncer::start(&kubernetes, OF_KUBERNETES),
            calico: None,
            found,
            datastore,
            asking,
            in_sync: [false, false],
            said: false,
        }
    }

    /// The cluster's objects, once it is known where Calico's are.
    #[must_use]
    pub fn datastore(&self) -> watch::Receiver<Option<Datastore>> {
        self.datastore.clone()
    }

    /// How well the API server is followed, and how often that began anew.
    #[must_use]
    pub fn standing(&self) -> (Standing, u64) {
        let (kubernetes, resyncs) = self.kubernetes.standing();
        match &self.calico {
            Some(calico) => {
                let (calico, more) = calico.standing();
                // Both count their first beginning, which is one.
                (kubernetes.min(calico), resyncs + more.saturating_sub(1))
            }
            // There are none, so far; or that is not known.
            None if self.in_sync[1] => (kubernetes, resyncs),
            None => (Standing::Waiting, resyncs),
        }
    }

    /// What comes next; `None` never comes while the syncer lives. Safe to cancel.
    pub async fn next(&mut self) -> Option<SyncEvent> {
        loop {
            if self.in_sync == [true, true] && !self.said {
                self.said = true;
                return Some(SyncEvent::InSync);
            }
            let (event, which) = tokio::select! {
                event = self.kubernetes.next() => (event?, 0),
                event = next(self.calico.as_mut()) => (event?, 1),
                Some(found) = self.found.recv() => {
                    match found {
                        Found::Nowhere => self.in_sync[1] = true,
                        Found::Here(datastore) => {
                            self.calico = Some(caracal_datastore::Syncer::start(&datastore, OF_CALICO));
                        }
                    }
                    continue;
                }
            };
            match event {
                SyncEvent::InSync => self.in_sync[which] = true,
                updates @ SyncEvent::Updates(_) => return Some(updates),
            }
        }
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.asking.abort();
    }
}

async fn next(syncer: Option<&mut caracal_datastore::Syncer>) -> Option<SyncEvent> {
    match syncer {
        Some(syncer) => syncer.next().await,
        None => std::future::pending().await,
    }
}

/// Asks until the cluster says where Calico's kinds are.
async fn ask(client: Client, tell: mpsc::Sender<Found>, publish: watch::Sender<Option<Datastore>>) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LIMIT);
    let mut said = String::new();
    let mut told_nowhere = false;
    loop {
        match Datastore::connect(client.clone(), None).await {
            Ok(datastore) => {
                info!(group = %datastore.group(), "found Calico's kinds");
                publish.send_replace(Some(datastore.clone()));
                // Fails only when the syncer is gone.
                let _ = tell.send(Found::Here(datastore)).await;
                return;
            }
            Err(error) => {
                if said != error.to_string() {
                    warn!("{error}; trying again until it works");
                    said = error.to_string();
                }
                if matches!(error, DatastoreError::NoCalico) && !std::mem::replace(&mut told_nowhere, true) {
                    let _ = tell.send(Found::Nowhere).await;
                }
            }
        }
        tokio::time::sleep(backoff.failed()).await;
    }
}
