//! External addresses for services, from the pools that are for that.
//!
//! ```text
//!   Service of type LoadBalancer ──► handle lb-NAMESPACE.NAME.UID ──► address in a block of virtual:load-balancer
//!         ▲                                                                     │
//!         └────────────────────── status.loadBalancer.ingress ◄─────────────────┘
//! ```
//!
//! What a service has is what the blocks say: the status follows them. So whoever dies between the two is no trouble: the next
//! finds the address in its block. An address goes back only once the status no longer shows it.
//!
//! What is in the status and in none of these pools is somebody else's, and stays.

use std::collections::BTreeMap;
use std::net::IpAddr;

use caracal_ipam::release::Release;
use caracal_ipam::{Block, Owner, Pool, Record, Use};
use caracal_model::annotations::{SERVICE_ADDRESSES, SERVICE_IPV4_POOLS, SERVICE_IPV6_POOLS};
use caracal_model::cidr::Cidr;
use caracal_model::object::{Kind, ObjectKey};
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service, ServiceSpec};
use serde_json::json;

use crate::action::{Living, ServiceRequest, Wanted};
use crate::controller::Now;
use crate::settings::Settings;
use crate::{Action, Cluster, Controller, Plan};

/// The class that asks for us by name.
const CLASS: &str = "calico";

/// The controller.
#[derive(Debug, Default)]
pub struct LoadBalancer;

/// An address that a service has.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    address: IpAddr,
    handle: Option<String>,
    sequence: Option<u64>,
}

/// What a service asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Request {
    /// Its families, in its order.
    ipv4: Vec<bool>,
    /// These addresses; none: any.
    addresses: Vec<IpAddr>,
    /// Of these pools; none: of those that give on their own.
    pools: Vec<Cidr>,
    /// Whether it gets what it lacks.
    gets: bool,
}

impl Controller for LoadBalancer {
    fn name(&self) -> &'static str {
        "loadbalancer"
    }

    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Service, Kind::IPPool, Kind::IPAMBlock, Kind::KubeControllersConfiguration]
    }

    fn plan(&mut self, cluster: &Cluster, _: Vec<Record>, settings: &Settings, _: Now) -> Plan {
        let mut plan = Plan::default();
        let Some(settings) = settings.load_balancer else { return plan };
        let pools: Vec<Pool> = cluster.of(Kind::IPPool).filter_map(caracal_datastore::ipam_pool).collect();
        let ours: Vec<&Pool> = pools.iter().filter(|pool| pool.uses.contains(&Use::LoadBalancer)).collect();
        let mut all_held = held(cluster, &ours);
        if ours.is_empty() && all_held.is_empty() {
            return plan;
        }
        for service in cluster.services() {
            let held = all_held.remove(&owner_of(service)).unwrap_or_default();
            let request = request(service, settings.all_services, &pools).unwrap_or_else(|problem| {
                let (namespace, name) = owner_of(service);
                plan.problems.push(format!("service {namespace}/{name}: {problem}; it keeps what it has"));
                Some(Request::of_what_it_has(service))
            });
            settle(service, request, held, &ours, &mut plan);
        }
        for ((namespace, name), held) in all_held {
            let key = ObjectKey::new(Kind::Service, Some(&namespace), &name);
            for held in held {
                // One that was made anew under the same name has another handle.
                let uid = held.handle.as_deref().and_then(|handle| uid_of(handle, &namespace, &name));
                plan.actions.push(Action::Release {
                    addresses: vec![held.release()],
                    unless: Some(Living { uid, ..Living::object(key.clone()) }),
                });
            }
        }
        plan
    }
}

impl Held {
    fn release(&self) -> Release {
        Release { address: self.address, handle: self.handle.clone(), sequence: self.sequence }
    }
}

/// The addresses that blocks say services have. Nodes' blocks are not looked at, of which there are many.
fn held(cluster: &Cluster, ours: &[&Pool]) -> BTreeMap<(String, String), Vec<Held>> {
    let mut all: BTreeMap<(String, String), Vec<Held>> = BTreeMap::new();
    let is_a_nodes = |block: &&Block| {
        matches!(block.owner, Some(Owner::Host(_)))
            && !ours.iter().any(|pool| pool.cidr.covers(&block.cidr()))
    };
    for block in cluster.blocks().filter(|block| !is_a_nodes(block)) {
        for (address, attributes) in block.given() {
            let text = |key: &str| attributes.owner.get(key).map(String::as_str);
            // Whatever `type` says: only services' addresses name one.
            if let (Some(namespace), Some(service)) = (text("namespace"), text("service")) {
                let sequence = block.sequence_of(address);
                let held = Held { address, handle: attributes.handle.clone(), sequence };
                all.entry((namespace.to_owned(), service.to_owned())).or_default().push(held);
            }
        }
    }
    all
}

fn owner_of(service: &Service) -> (String, String) {
    let metadata = &service.metadata;
    let namespace = metadata.namespace.clone().unwrap_or_else(|| "default".to_owned());
    (namespace, metadata.name.clone().unwrap_or_default())
}

/// What a service's addresses are released by. Names of handles are those of objects.
fn handle(namespace: &str, name: &str, uid: &str) -> String {
    format!("lb-{namespace}.{name}.{uid}").to_lowercase()
}

/// The UID in a handle of ours.
fn uid_of(handle: &str, namespace: &str, name: &str) -> Option<String> {
    let rest = handle.strip_prefix("lb-")?.strip_prefix(namespace)?.strip_prefix('.')?;
    Some(rest.strip_prefix(name)?.strip_prefix('.')?.to_owned())
}

/// What a service asks us for; nothing, if it is not ours to serve.
fn request(service: &Service, all_services: bool, pools: &[Pool]) -> Result<Option<Request>, String> {
    let Some(spec) = service.spec.as_ref().filter(|_| service.metadata.deletion_timestamp.is_none()) else {
        return Ok(None);
    };
    let annotation = |key: &str| {
        let all = service.metadata.annotations.as_ref();
        all.and_then(|all| all.get(key)).map(String::as_str).filter(|text| !text.is_empty())
    };
    let asks = [SERVICE_ADDRESSES, SERVICE_IPV4_POOLS, SERVICE_IPV6_POOLS]
        .iter()
        .any(|key| annotation(key).is_some());
    let is_ours = match spec.load_balancer_class.as_deref() {
        Some(class) => class == CLASS,
        None => all_services || asks,
    };
    if spec.type_.as_deref() != Some("LoadBalancer") || !is_ours {
        return Ok(None);
    }
    let list = |key: &str| -> Result<Vec<String>, String> {
        let Some(text) = annotation(key) else { return Ok(Vec::new()) };
        serde_json::from_str(text)
            .map_err(|_| format!("annotation {key}: {text:?} is not a JSON list of strings"))
    };
    let ipv4 = families(spec);
    let mut addresses = Vec::new();
    for text in list(SERVICE_ADDRESSES)? {
        let wrong = |why: &str| format!("annotation {SERVICE_ADDRESSES}: {text:?} {why}");
        let address: IpAddr = text.parse().map_err(|_| wrong("is no address"))?;
        if !ipv4.contains(&address.is_ipv4()) {
            return Err(wrong("is not of a family that the service has"));
        }
        if addresses.iter().any(|known: &IpAddr| known.is_ipv4() == address.is_ipv4()) {
            return Err(wrong("is the second of its family, and a service has one"));
        }
        addresses.push(address);
    }
    let mut requested = Vec::new();
    for (key, is_ipv4) in [(SERVICE_IPV4_POOLS, true), (SERVICE_IPV6_POOLS, false)] {
        for text in list(key)? {
            let cidr: Option<Cidr> = text.parse().ok();
            let found = pools.iter().find(|pool| pool.name == text || cidr == Some(pool.cidr));
            match found.filter(|pool| pool.cidr.is_ipv4() == is_ipv4) {
                Some(pool) => requested.push(pool.cidr),
                None => return Err(format!("annotation {key}: there is no pool {text:?} of that family")),
            }
        }
    }
    let request = Request { ipv4, addresses, pools: requested, gets: true };
    match request.addresses.iter().find(|address| !request.accepts(**address)) {
        Some(address) => {
            Err(format!("annotation {SERVICE_ADDRESSES}: {address} is in none of the pools that it asks for"))
        }
        None => Ok(Some(request)),
    }
}

/// Whether each of a service's families is IPv4, in its order.
fn families(spec: &ServiceSpec) -> Vec<bool> {
    let named: Vec<bool> = spec.ip_families.iter().flatten().map(|family| family == "IPv4").collect();
    if !named.is_empty() {
        return named;
    }
    let first = spec.cluster_ip.as_deref().and_then(|text| text.parse::<IpAddr>().ok());
    vec![first.is_none_or(|address| address.is_ipv4())]
}

impl Request {
    /// What a service asks for whose wishes cannot be understood.
    fn of_what_it_has(service: &Service) -> Self {
        let ipv4 = service.spec.as_ref().map(families).unwrap_or_default();
        Self { ipv4, addresses: Vec::new(), pools: Vec::new(), gets: false }
    }

    /// Whether an address is what was asked for.
    fn accepts(&self, address: IpAddr) -> bool {
        let of_family = |pool: &&Cidr| pool.is_ipv4() == address.is_ipv4();
        let mut pools = self.pools.iter().filter(of_family).peekable();
        self.ipv4.contains(&address.is_ipv4())
            && (self.addresses.is_empty() || self.addresses.contains(&address))
            && (pools.peek().is_none() || pools.any(|pool| pool.contains(address)))
    }

    /// What is asked for of a family.
    fn wanted(&self, ipv4: bool) -> Option<Wanted> {
        if self.addresses.is_empty() {
            let pools = self.pools.iter().copied().filter(|pool| pool.is_ipv4() == ipv4).collect();
            return Some(Wanted::Any { ipv4, pools });
        }
        self.addresses.iter().find(|address| address.is_ipv4() == ipv4).copied().map(Wanted::Exactly)
    }
}

/// What is to be done for one service, one step at a time.
fn settle(service: &Service, request: Option<Request>, held: Vec<Held>, ours: &[&Pool], plan: &mut Plan) {
    let (namespace, name) = owner_of(service);
    let own = handle(&namespace, &name, service.metadata.uid.as_deref().unwrap_or_default());
    let mut keeps: BTreeMap<bool, Held> = BTreeMap::new();
    let mut goes = Vec::new();
    for held in held {
        let anothers = held.handle.as_deref().filter(|handle| *handle != own);
        // What has a handle of our making has it of a former service of this name; others' handles are taken over.
        let is_former = anothers.is_some_and(|handle| uid_of(handle, &namespace, &name).is_some());
        let is_asked_for = request.as_ref().is_some_and(|request| request.accepts(held.address));
        let ipv4 = held.address.is_ipv4();
        if is_former || !is_asked_for || keeps.contains_key(&ipv4) {
            goes.push(held);
        } else {
            keeps.insert(ipv4, held);
        }
    }
    let order = request.as_ref().map_or(&[][..], |request| &request.ipv4);
    let shown: Vec<IpAddr> = order.iter().filter_map(|ipv4| Some(keeps.get(ipv4)?.address)).collect();
    let is_ours = |address: IpAddr| {
        ours.iter().any(|pool| pool.cidr.contains(address)) || goes.iter().any(|held| held.address == address)
    };
    if let Some(patch) = status(service, &shown, is_ours) {
        plan.actions.push(Action::PatchStatus(ObjectKey::new(Kind::Service, Some(&namespace), &name), patch));
        // The rest when it is seen to say so.
        return;
    }
    if !goes.is_empty() {
        let addresses = goes.iter().map(Held::release).collect();
        plan.actions.push(Action::Release { addresses, unless: None });
        return;
    }
    let Some(request) = request.filter(|request| request.gets && !ours.is_empty()) else { return };
    let missing = request.ipv4.iter().filter(|ipv4| !keeps.contains_key(ipv4));
    let addresses: Vec<Wanted> = missing.filter_map(|ipv4| request.wanted(*ipv4)).collect();
    if !addresses.is_empty() {
        plan.actions.push(Action::Assign(ServiceRequest { namespace, handle: own, name, addresses }));
    }
}

/// What changes in the status so that it shows these of ours, and what others have written.
fn status(
    service: &Service,
    shown: &[IpAddr],
    is_ours: impl Fn(IpAddr) -> bool,
) -> Option<serde_json::Value> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let written: Vec<&LoadBalancerIngress> =
        status.iter().flat_map(|balancer| balancer.ingress.iter().flatten()).collect();
    let address = |ingress: &LoadBalancerIngress| ingress.ip.as_deref().and_then(|text| text.parse().ok());
    let mut new: Vec<LoadBalancerIngress> = Vec::new();
    for ip in shown {
        let known = written.iter().find(|ingress| address(ingress) == Some(*ip));
        let made = || LoadBalancerIngress { ip: Some(ip.to_string()), ..LoadBalancerIngress::default() };
        new.push(known.map_or_else(made, |known| (*known).clone()));
    }
    let others = written.iter().filter(|ingress| {
        address(ingress).is_none_or(|address| !is_ours(address) && !shown.contains(&address))
    });
    new.extend(others.map(|ingress| (*ingress).clone()));
    if new.iter().eq(written.iter().copied()) {
        return None;
    }
    let ingress = if new.is_empty() { json!(null) } else { json!(new) };
    Some(json!({
        "metadata": {"resourceVersion": service.metadata.resource_version, "uid": service.metadata.uid},
        "status": {"loadBalancer": {"ingress": ingress}},
    }))
}
