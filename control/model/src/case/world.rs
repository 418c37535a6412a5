//! The default world: a case with everything filled in that its file leaves open.

use std::net::{IpAddr, Ipv4Addr};

use super::{Case, External, LabOptions, WorldFlow};
use crate::cidr::Cidr;
use crate::convert::NamedPort;
use crate::object::{FieldError, Object, ObjectKey};

/// A case completed.
#[derive(Debug, Clone, PartialEq)]
pub struct World {
    /// Every object that the API must take, in an order in which they can be created: namespaces, service accounts,
    /// nodes, pods (with status), policies. All are valid and carry Kubernetes' defaults.
    pub objects: Vec<Object>,
    /// The nodes, in their order.
    pub nodes: Vec<WorldNode>,
    /// The pods, in their order; hostNetwork pods are among them, finished ones too.
    pub pods: Vec<WorldPod>,
    /// Hosts outside the cluster: the named ones, then those that flows name by address only.
    pub externals: Vec<External>,
    /// The flows, resolved.
    pub flows: Vec<WorldFlow>,
    /// The objects that the API must refuse.
    pub refused: Vec<RefusedObject>,
    /// How the lab runs it.
    pub lab: LabOptions,
}

/// A node of the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorldNode {
    /// Its name.
    pub name: String,
    /// Its address on the fabric.
    pub address: Ipv4Addr,
    /// The subnet it is in; its router is at the last usable address (`.254` of a /24).
    pub subnet: Cidr,
    /// Its router in that subnet.
    pub router: Ipv4Addr,
    /// Its block of pod addresses.
    pub pod_cidr: Cidr,
    /// Its VXLAN tunnel address.
    pub tunnel_address: Ipv4Addr,
    /// Whether the lab lets Linux do its routing.
    pub kernel: bool,
}

/// A pod of the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorldPod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The index of its node in [`World::nodes`].
    pub node: usize,
    /// Its addresses; its node's for a hostNetwork pod; none for a finished one.
    pub addresses: Vec<IpAddr>,
    /// The host side of its veth; meaningless for a hostNetwork pod.
    pub interface: String,
    /// Whether it lives in its node's own network namespace.
    pub host_network: bool,
    /// Every container port, named or not (then the name is empty): where it listens.
    pub ports: Vec<NamedPort>,
}

/// An object that the API must refuse.
#[derive(Debug, Clone, PartialEq)]
pub struct RefusedObject {
    /// Which.
    pub key: ObjectKey,
    /// The manifest to send.
    pub value: serde_json::Value,
    /// The field that must be named.
    pub field: String,
    /// What our own validation says.
    pub errors: Vec<FieldError>,
}

impl RefusedObject {
    /// Whether our own validation refuses it and names the field.
    pub fn is_refused(&self) -> bool {
        self.errors.iter().any(|error| error.field == self.field)
    }
}

/// Why a case makes no world.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {field}: {message}")]
pub struct WorldError {
    /// The line of the file.
    pub line: u64,
    /// The field of the file: `objects[2].spec.podSelector`.
    pub field: String,
    /// What is wrong.
    pub message: String,
}

impl Case {
    /// Fills in every default and resolves every name.
    pub fn world(&self) -> Result<World, WorldError> {
        Err(WorldError { line: 1, field: String::new(), message: format!("{}: being written", self.name) })
    }
}
