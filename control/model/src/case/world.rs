//! The default world: a case with everything filled in that its file leaves open.
//!
//! Objects are decoded strictly, given Kubernetes' defaults and validated; one that the API would refuse makes the
//! case an error unless `rejects` lists it. Then come nodes ([`super::nodes`]), pods ([`super::pods`]), what both of
//! them name, and the flows ([`super::resolve`]).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::fields::join;
use super::pools::{Carriage, Pools, WorldPool, is_dual_stack, pool_of};
use super::resolve::Resolver;
use super::{
    Case, CaseObject, External, LabOptions, WorldFlow, WorldHostFlow, host_flow, nodes, pods, resolve,
    services,
};
use crate::cidr::Cidr;
use crate::convert::{NamedPort, ServiceInfo};
use crate::object::{FieldError, Kind, Object, ObjectKey};

/// A case completed.
#[derive(Debug, Clone, PartialEq)]
pub struct World {
    /// Every object that the API must take, in an order in which they can be created (that of [`Kind::ALL`]): namespaces
    /// first, tiers before policies. All are valid and carry the API's defaults. What exists without being written, like
    /// the tiers `default`, `kube-admin` and `kube-baseline`, is only here if the case writes it.
    pub objects: Vec<Object>,
    /// The nodes, in their order.
    pub nodes: Vec<WorldNode>,
    /// The pools of pods' addresses; their objects are among `objects`.
    pub pools: Vec<WorldPool>,
    /// The pods, in their order; hostNetwork pods are among them, finished ones too.
    pub pods: Vec<WorldPod>,
    /// The services that are translated, with the addresses and node ports that they have; their objects and their slices
    /// are among `objects`.
    pub services: Vec<ServiceInfo>,
    /// Hosts outside the cluster: the named ones, then those that flows name by address only.
    pub externals: Vec<External>,
    /// The flows, resolved.
    pub flows: Vec<WorldFlow>,
    /// The host flows, resolved.
    pub host_flows: Vec<WorldHostFlow>,
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
    /// The subnet it is in.
    pub subnet: Cidr,
    /// Its router: the last usable address of the subnet (`.254` of a /24).
    pub router: Ipv4Addr,
    /// Its block of pod addresses.
    pub pod_cidr: Cidr,
    /// Its VXLAN tunnel address, where a pool asks for VXLAN.
    pub tunnel_address: Ipv4Addr,
    /// Its IPIP tunnel address, where a pool asks for IPIP.
    pub ipip_tunnel_address: Ipv4Addr,
    /// Its IPv6 address on the fabric; this and the following are there when anything of the case is IPv6.
    pub address_v6: Option<Ipv6Addr>,
    /// The IPv6 subnet it is in.
    pub subnet_v6: Option<Cidr>,
    /// Its IPv6 router.
    pub router_v6: Option<Ipv6Addr>,
    /// Its block of IPv6 pod addresses.
    pub pod_cidr_v6: Option<Cidr>,
    /// Its VXLAN tunnel address over IPv6, where an IPv6 pool asks for VXLAN.
    pub tunnel_address_v6: Option<Ipv6Addr>,
    /// Whether the lab lets Linux do its routing.
    pub kernel: bool,
}

impl WorldNode {
    /// Whether this is its address on the fabric.
    pub fn has_address(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.address == address,
            IpAddr::V6(address) => self.address_v6 == Some(address),
        }
    }

    /// Its address on the fabric of the family of `other`.
    pub fn address_like(&self, other: IpAddr) -> Option<IpAddr> {
        if other.is_ipv4() { Some(self.address.into()) } else { self.address_v6.map(IpAddr::V6) }
    }

    /// Whether this is an address of one of its tunnels.
    pub fn has_tunnel_address(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.tunnel_address == address || self.ipip_tunnel_address == address,
            IpAddr::V6(address) => self.tunnel_address_v6 == Some(address),
        }
    }

    /// Whether its block of pod addresses holds this one.
    pub fn has_in_block(&self, address: IpAddr) -> bool {
        self.pod_cidr.contains(address) || self.pod_cidr_v6.is_some_and(|block| block.contains(address))
    }
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

impl World {
    /// How packets get from node to node when they are for `address`, a pod's.
    pub fn carriage(&self, from: usize, to: usize, address: IpAddr) -> Carriage {
        let pool = pool_of(&self.pools, address);
        let ends = self.nodes.get(from).zip(self.nodes.get(to));
        pool.zip(ends).map_or(Carriage::Plain, |(pool, (from, to))| pool.carriage(from, to))
    }

    /// The address that a node itself sends from to a pod's `address` on node `to`: that of the tunnel the packet goes
    /// through, else its own. `None`: it has none of that family.
    pub fn host_source(&self, from: usize, to: usize, address: IpAddr) -> Option<IpAddr> {
        host_source(&self.nodes, &self.pools, from, to, address)
    }
}

/// [`World::host_source`], before there is a world.
pub(super) fn host_source(
    nodes: &[WorldNode],
    pools: &[WorldPool],
    from: usize,
    to: usize,
    address: IpAddr,
) -> Option<IpAddr> {
    let (node, peer) = (nodes.get(from)?, nodes.get(to)?);
    let carriage = pool_of(pools, address).map_or(Carriage::Plain, |pool| pool.carriage(node, peer));
    let tunnel = match (carriage, address) {
        (Carriage::Vxlan, IpAddr::V4(_)) => Some(node.tunnel_address.into()),
        (Carriage::Vxlan, IpAddr::V6(_)) => node.tunnel_address_v6.map(IpAddr::V6),
        (Carriage::Ipip, _) => Some(node.ipip_tunnel_address.into()),
        (Carriage::Plain, _) => None,
    };
    tunnel.or_else(|| node.address_like(address))
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

impl CaseObject {
    /// An error about a field of this object.
    pub(super) fn error(&self, field: &str, message: impl Into<String>) -> WorldError {
        WorldError {
            line: self.tree.line_of(field),
            field: join(&format!("objects[{}]", self.index), field),
            message: format!("{}: {}", self.key, message.into()),
        }
    }
}

/// An object of the case, decoded, and where it was written.
#[derive(Clone)]
pub(super) struct Given<'a, T> {
    pub object: T,
    pub origin: &'a CaseObject,
}

impl Case {
    /// Fills in every default and resolves every name.
    pub fn world(&self) -> Result<World, WorldError> {
        let refused = self.refused()?;
        let mut given_nodes = Vec::new();
        let mut given_pods = Vec::new();
        let mut namespaces = Vec::new();
        let mut service_accounts = Vec::new();
        let mut others = Vec::new();
        for origin in
            self.objects.iter().filter(|object| !refused.iter().any(|other| other.key == object.key))
        {
            match accepted(origin)? {
                Object::Node(node) => given_nodes.push(Given { object: *node, origin }),
                Object::Pod(pod) => given_pods.push(Given { object: *pod, origin }),
                namespace @ Object::Namespace(_) => namespaces.push(namespace),
                account @ Object::ServiceAccount(_) => service_accounts.push(account),
                other => others.push(other),
            }
        }

        let has_ipv6 = nodes::have_ipv6(&given_nodes) || pods::have_ipv6(&given_pods);
        let is_dual_stack = is_dual_stack(self, &others, has_ipv6);
        let mut pools = Pools::new(&others, is_dual_stack);
        let (nodes, node_objects) =
            nodes::complete(self, &given_nodes, &given_pods, &others, &pools, is_dual_stack)?;
        let (pods, pod_objects) = pods::complete(&nodes, given_pods, &pools)?;
        pools.hold(&pods);
        let (pools, made_pools) = (pools.all, pools.made);
        let in_namespaces = pod_objects.iter().chain(&service_accounts).chain(&others).map(Object::key);
        let named = in_namespaces.chain(refused.iter().map(|object| object.key.clone()));
        add_named_namespaces(named.collect(), &mut namespaces);
        add_named_service_accounts(&pod_objects, &mut service_accounts);
        services::complete(self, &mut others, &node_objects, &pod_objects)?;
        let services = services::translated(&others);
        let resolver = Resolver {
            case: self,
            nodes: &nodes,
            pods: &pods,
            pools: &pools,
            services: &services,
            objects: &others,
        };
        let (flows, externals) = resolve::flows(&resolver)?;
        let host_flows = host_flow::resolve(resolver)?;

        let mut objects =
            [namespaces, service_accounts, node_objects, pod_objects, made_pools, others].concat();
        objects.sort_by_key(Object::kind);
        Ok(World {
            objects,
            nodes,
            pools,
            pods,
            services,
            externals,
            flows,
            host_flows,
            refused,
            lab: self.lab.clone(),
        })
    }

    fn refused(&self) -> Result<Vec<RefusedObject>, WorldError> {
        let refused = self.rejects.iter().enumerate().map(|(index, reject)| {
            let error =
                |message| WorldError { line: reject.line, field: format!("rejects[{index}]"), message };
            let mut named = self.objects.iter().filter(|object| reject.names(&object.key));
            let object = match (named.next(), named.next()) {
                (Some(object), None) => object,
                (None, _) => {
                    let namespace =
                        reject.namespace.as_ref().map(|name| format!("{name}/")).unwrap_or_default();
                    let what = format!("{} {namespace}{}", reject.kind, reject.name);
                    return Err(error(format!("{what} is none of the case's objects")));
                }
                (Some(one), Some(other)) => {
                    return Err(error(format!(
                        "could be that of {} or that of {}: say which with apiVersion",
                        one.key.kind.api_version(),
                        other.key.kind.api_version()
                    )));
                }
            };
            let errors = Object::accept(object.value.clone()).err().unwrap_or_default();
            let (key, value) = (object.key.clone(), object.value.clone());
            Ok(RefusedObject { key, value, field: reject.field.clone(), errors })
        });
        refused.collect()
    }
}

/// Decodes and validates an object that the API must take.
fn accepted(origin: &CaseObject) -> Result<Object, WorldError> {
    Object::accept(origin.value.clone()).map_err(|errors| {
        let texts: Vec<String> = errors.iter().skip(1).map(|error| format!("; also {error}")).collect();
        match errors.first() {
            Some(first) => origin.error(&first.field, format!("{}{}", first.message, texts.concat())),
            None => origin.error("", "cannot be decoded"),
        }
    })
}

/// Namespaces that are named but not given, with default contents.
fn add_named_namespaces(named: Vec<ObjectKey>, namespaces: &mut Vec<Object>) {
    let mut known: BTreeSet<String> = namespaces.iter().map(|object| object.key().name).collect();
    for name in named.into_iter().filter_map(|key| key.namespace) {
        if known.insert(name.clone()) {
            let mut namespace = Object::from(k8s_openapi::api::core::v1::Namespace::default());
            namespace.metadata_mut().name = Some(name);
            namespace.set_defaults();
            // What a refused object names may itself be no name; then the API refuses both.
            if namespace.validate().is_empty() {
                namespaces.push(namespace);
            }
        }
    }
}

/// Service accounts that pods name but the case does not give.
fn add_named_service_accounts(pods: &[Object], service_accounts: &mut Vec<Object>) {
    let mut known: BTreeSet<ObjectKey> = service_accounts.iter().map(Object::key).collect();
    for pod in pods {
        let Object::Pod(pod_object) = pod else { continue };
        let spec = pod_object.spec.as_ref();
        let Some(name) =
            spec.and_then(|spec| spec.service_account_name.as_deref()).filter(|name| !name.is_empty())
        else {
            continue;
        };
        let namespace = pod.key().namespace.unwrap_or_default();
        if known.insert(ObjectKey::new(Kind::ServiceAccount, Some(&namespace), name)) {
            let mut account = Object::from(k8s_openapi::api::core::v1::ServiceAccount::default());
            account.metadata_mut().name = Some(name.to_owned());
            account.metadata_mut().namespace = Some(namespace);
            service_accounts.push(account);
        }
    }
}
