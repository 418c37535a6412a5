//! What the cluster holds, as far as controllers look at it.

use std::collections::BTreeMap;

use caracal_ipam::{Block, Record};
use caracal_model::calico;
use caracal_model::object::{Kind, Object, ObjectKey, Update};
use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, PodStatus, Service};

/// The kinds that are followed.
pub const FOLLOWED: &[Kind] = &[
    Kind::Node,
    Kind::Pod,
    Kind::Service,
    Kind::Tier,
    Kind::CalicoNetworkPolicy,
    Kind::GlobalNetworkPolicy,
    Kind::StagedNetworkPolicy,
    Kind::StagedGlobalNetworkPolicy,
    Kind::HostEndpoint,
    Kind::IPPool,
    Kind::IPReservation,
    Kind::IPAMBlock,
    Kind::BlockAffinity,
    Kind::KubeControllersConfiguration,
];

/// The objects. Those of kinds of which there are many are kept without what nobody here reads.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    objects: BTreeMap<ObjectKey, Object>,
    /// Blocks as address management reads them; those that make no sense are not among them.
    blocks: BTreeMap<ObjectKey, Block>,
}

impl Cluster {
    /// Takes a change.
    pub fn apply(&mut self, update: Update) {
        match update {
            Update::Upsert(mut object) => {
                slim(&mut object);
                let key = object.key();
                if let Object::IPAMBlock(_) = &object {
                    match caracal_datastore::ipam_record(&object) {
                        Some(Record::Block(block)) => drop(self.blocks.insert(key.clone(), block)),
                        _ => drop(self.blocks.remove(&key)),
                    }
                }
                self.objects.insert(key, object);
            }
            Update::Delete(key) => {
                self.blocks.remove(&key);
                self.objects.remove(&key);
            }
        }
    }

    /// The objects of a kind, in the order of their names.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &Object> {
        let first = ObjectKey { kind, namespace: None, name: String::new() };
        self.objects.range(first..).take_while(move |(key, _)| key.kind == kind).map(|(_, object)| object)
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, kind: Kind, namespace: Option<&str>, name: &str) -> Option<&Object> {
        self.objects.get(&ObjectKey::new(kind, namespace, name))
    }

    /// Nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.of(Kind::Node).filter_map(|object| match object {
            Object::Node(node) => Some(&**node),
            _ => None,
        })
    }

    /// Pods, by what of them concerns addresses.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.of(Kind::Pod).filter_map(|object| match object {
            Object::Pod(pod) => Some(&**pod),
            _ => None,
        })
    }

    /// Services.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.of(Kind::Service).filter_map(|object| match object {
            Object::Service(service) => Some(&**service),
            _ => None,
        })
    }

    /// Pools.
    pub fn pools(&self) -> impl Iterator<Item = &calico::IPPool> {
        self.of(Kind::IPPool).filter_map(|object| match object {
            Object::IPPool(pool) => Some(&**pool),
            _ => None,
        })
    }

    /// Host endpoints.
    pub fn host_endpoints(&self) -> impl Iterator<Item = &calico::HostEndpoint> {
        self.of(Kind::HostEndpoint).filter_map(|object| match object {
            Object::HostEndpoint(endpoint) => Some(&**endpoint),
            _ => None,
        })
    }

    /// Claims to blocks.
    pub fn affinities(&self) -> impl Iterator<Item = &calico::BlockAffinity> {
        let all = self.of(Kind::BlockAffinity).filter_map(|object| match object {
            Object::BlockAffinity(affinity) => Some(&**affinity),
            _ => None,
        });
        all.filter(|affinity| affinity.spec.deleted != Some(true))
    }

    /// Blocks.
    pub fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.blocks.values()
    }

    /// The controllers' configuration.
    #[must_use]
    pub fn configuration(&self) -> Option<&calico::KubeControllersConfiguration> {
        match self.get(Kind::KubeControllersConfiguration, None, "default") {
            Some(Object::KubeControllersConfiguration(configuration)) => Some(configuration),
            _ => None,
        }
    }
}

/// Leaves out what nobody here reads.
fn slim(object: &mut Object) {
    object.metadata_mut().managed_fields = None;
    match object {
        Object::Pod(pod) => {
            let spec = pod.spec.take().unwrap_or_default();
            pod.spec = Some(PodSpec {
                node_name: spec.node_name,
                host_network: spec.host_network,
                ..PodSpec::default()
            });
            let status = pod.status.take().unwrap_or_default();
            pod.status = Some(PodStatus {
                phase: status.phase,
                pod_ip: status.pod_ip,
                pod_ips: status.pod_ips,
                ..PodStatus::default()
            });
            pod.metadata.labels = None;
        }
        Object::Node(node) => {
            if let Some(status) = &mut node.status {
                status.images = None;
            }
        }
        Object::CalicoNetworkPolicy(policy) => (policy.spec.ingress, policy.spec.egress) = (None, None),
        Object::GlobalNetworkPolicy(policy) => (policy.spec.ingress, policy.spec.egress) = (None, None),
        Object::StagedNetworkPolicy(policy) => (policy.spec.ingress, policy.spec.egress) = (None, None),
        Object::StagedGlobalNetworkPolicy(policy) => {
            (policy.spec.ingress, policy.spec.egress) = (None, None);
        }
        _ => {}
    }
}
