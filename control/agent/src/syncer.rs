//! What of the cluster an agent follows.

use caracal_datastore::{ApiGroup, Datastore};
use caracal_model::object::Kind;
use kube::Client;

pub use caracal_datastore::{Standing, SyncEvent};

/// The kinds that are followed. A cluster need not serve all of them. Profiles are not among them: whoever serves them
/// makes them from namespaces and service accounts, as the calc graph does.
const FOLLOWED: &[Kind] = &[
    Kind::Namespace,
    Kind::ServiceAccount,
    Kind::Node,
    Kind::Pod,
    Kind::Service,
    Kind::EndpointSlice,
    Kind::NetworkPolicy,
    Kind::ClusterNetworkPolicy,
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
    Kind::IPPool,
    Kind::IPAMBlock,
    Kind::BlockAffinity,
];

/// Follows what an agent must know.
#[derive(Debug)]
pub struct Syncer(caracal_datastore::Syncer);

impl Syncer {
    /// Starts to follow every kind.
    #[must_use]
    pub fn start(client: &Client) -> Self {
        let datastore = Datastore::new(client.clone(), ApiGroup::V3);
        Self(caracal_datastore::Syncer::start(&datastore, FOLLOWED))
    }

    /// How well the API server is followed, and how often that began anew.
    #[must_use]
    pub fn standing(&self) -> (Standing, u64) {
        self.0.standing()
    }

    /// What comes next; `None` never comes while the syncer lives. Safe to cancel.
    pub async fn next(&mut self) -> Option<SyncEvent> {
        self.0.next().await
    }
}
