//! Pods get their network as they do in a cluster: node, agent and fastpath are up, the API knows the pod; then the CNI plugin is executed in
//! the node's namespace, and its answer becomes the pod's status.
//!
//! ```text
//!   object, no addresses ─► caracal-cni ADD ─► IPAM, link, annotations, in force? ─► status.podIPs        (a runtime's and kubelet's part)
//!                           caracal-cni DEL ◄─ the lab goes
//! ```
//!
//! Which addresses a pod is to have is the case's to say, and the pod's annotations ask for them: through IPAM, where a pool has them. Where
//! agents start their nodes from nothing (`lab: {startup: true}`), IPAM says.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use caracal_cni::netns;
use caracal_model::{annotations, case::World, cidr::Cidr, object::Object};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::{
    api,
    cni::{self, Attachment, CniError, Network},
    error::LabError,
    process::MARK,
    ready,
    state::{PodState, State},
    stop::Stop,
};

/// CNI's "try again later".
const AGAIN: u64 = 11;
const PAUSE: Duration = Duration::from_millis(50);
/// How many plugins are executed at once, for each CPU.
const AT_ONCE: usize = 2;

/// The object as the API has it before pods have a network: a pod without addresses, with what it asks for; a node that its agent is to
/// start from nothing, with nothing. Others stay what they are.
pub(crate) fn before(world: &World, state: &State, object: &Object) -> Object {
    match object {
        Object::Pod(pod) => match attached(state).find(|own| is_of(object, own)) {
            Some(own) => unattached(world, pod, own).into(),
            None => object.clone(),
        },
        Object::Node(node) if world.lab.startup => {
            let mut node = node.clone();
            if let Some(annotations) = &mut node.metadata.annotations {
                annotations.retain(|name, _| !name.starts_with("projectcalico.org/"));
            }
            if let Some(spec) = &mut node.spec {
                (spec.pod_cidr, spec.pod_cidrs) = (None, None);
            }
            node.status = None;
            (*node).into()
        }
        other => other.clone(),
    }
}

fn unattached(world: &World, pod: &Pod, own: &PodState) -> Pod {
    let mut pod = pod.clone();
    let status = pod.status.get_or_insert_default();
    (status.pod_ip, status.pod_ips) = (None, None);
    status.phase = Some("Pending".into());
    if !world.lab.startup {
        let annotation = match own.addresses.iter().all(|address| is_given(world, *address)) {
            true => annotations::POD_WANTED_ADDRESSES,
            false => annotations::POD_WANTED_ADDRESSES_NO_IPAM,
        };
        let wanted = json!(own.addresses).to_string();
        pod.metadata.annotations.get_or_insert_default().insert(annotation.into(), wanted);
    }
    pod
}

/// Whether IPAM gives an address: it is in a pool that pods get addresses of.
fn is_given(world: &World, address: IpAddr) -> bool {
    world.objects.iter().any(|object| {
        let Object::IPPool(pool) = object else { return false };
        let spec = &pool.spec;
        let is_pods = spec.allowed_uses.as_ref().is_none_or(|uses| uses.iter().any(|u| u == "Workload"));
        let cidr = spec.cidr.parse::<Cidr>();
        is_pods && spec.disabled != Some(true) && cidr.is_ok_and(|cidr| cidr.contains(address))
    })
}

/// The pods that the plugin attaches: those with a namespace of their own, on nodes of ours.
fn attached(state: &State) -> impl Iterator<Item = &PodState> {
    let is_ours = |pod: &PodState| state.node(&pod.node).is_ok_and(|node| node.socket.is_some());
    state.pods.iter().filter(move |pod| !pod.interface.is_empty() && is_ours(pod))
}

fn is_of(object: &Object, pod: &PodState) -> bool {
    let key = object.key();
    key.namespace.as_deref() == Some(&pod.namespace) && key.name == pod.name
}

/// The network of a node's pods.
#[must_use]
pub fn network(state: &State, node: &str) -> Network {
    let has_ipv6 = state.pods.iter().flat_map(|pod| &pod.addresses).any(IpAddr::is_ipv6);
    let plugin = json!({
        "type": "caracal-cni",
        "nodename": node,
        "datastore_type": "kubernetes",
        "kubernetes": {"kubeconfig": state.kubeconfig()},
        "policy": {"type": "k8s"},
        "ipam": {"type": "calico-ipam", "assign_ipv6": has_ipv6.to_string()},
        "ipam_lock_file": state.directory().join(format!("ipam-{node}.lock")),
        "feature_control": {"ip_addrs_no_ipam": true},
        "mtu_file": state.mtu_of(node),
        "require_mtu_file": true,
        "node_socket": state.node_socket_of(node),
        "bpf_dir": state.bpf_of(node),
    });
    Network {
        list: json!({"cniVersion": "1.1.0", "name": "k8s-pod-network", "plugins": [plugin]}),
        path: vec![state.plugins()],
        node_netns: state.node(node).ok().map(|node| netns::path(&node.netns)),
        environment: vec![(MARK.into(), state.run.clone())],
        log: state.log_of(&format!("cni-{node}")),
    }
}

/// A pod's place in its node's network. Its container is called like its link, which no two pods of a lab share.
fn attachment(pod: &PodState) -> Attachment {
    Attachment::of_pod(&pod.namespace, &pod.name, &pod.interface, netns::path(&pod.netns))
}

/// Attaches every pod, several at once, and writes its status; the pods as they are then.
pub(crate) fn attach(
    world: &World,
    state: &State,
    runtime: &Handle,
    client: &Client,
    stop: &Stop,
) -> Result<Vec<PodState>, LabError> {
    for_each(state, |pod| {
        let result = add(&network(state, &pod.node), &attachment(pod), stop)
            .map_err(|source| LabError::Cni { pod: label(pod), source })?;
        let addresses = cni::addresses(&result);
        let is_pod = |object: &&Object| matches!(object, Object::Pod(_)) && is_of(object, pod);
        if let Some(object) = world.objects.iter().find(is_pod) {
            runtime.block_on(api::set_status(client, object, |status| {
                status["podIP"] = json!(addresses.first());
                status["podIPs"] = addresses.iter().map(|ip| json!({ "ip": ip })).collect();
            }))?;
        }
        Ok(PodState { addresses, ..pod.clone() })
    })
}

/// Attaches, again and again as kubelet does while the node is not ready.
fn add(network: &Network, what: &Attachment, stop: &Stop) -> Result<Value, CniError> {
    let start = Instant::now();
    loop {
        match network.add(what, stop) {
            Err(error) if error.code() == Some(AGAIN) && start.elapsed() < ready::LIMIT && !stop.is_set() => {
                thread::sleep(PAUSE);
            }
            result => return result,
        }
    }
}

/// Detaches every pod, as far as that can be done: what stays is swept.
pub(crate) fn detach(state: &State, stop: &Stop) {
    let _: Result<Vec<()>, LabError> = for_each(state, |pod| {
        if let Err(error) = network(state, &pod.node).del(&attachment(pod), &Value::Null, stop) {
            eprintln!("caracal lab: pod {}: {error}", label(pod));
        }
        Ok(())
    });
}

fn label(pod: &PodState) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

/// Does something for each pod that the plugin attaches, for several at once; what came of it, in no particular order.
fn for_each<T: Send>(
    state: &State,
    each: impl Fn(&PodState) -> Result<T, LabError> + Sync,
) -> Result<Vec<T>, LabError> {
    let pods: Vec<_> = attached(state).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let Some(pod) = pods.get(next.fetch_add(1, Ordering::Relaxed)) {
            done.push(each(pod)?);
        }
        Ok(done)
    };
    let count = thread::available_parallelism().map_or(1, usize::from) * AT_ONCE;
    let parts: Result<Vec<Vec<T>>, LabError> = thread::scope(|scope| {
        let threads: Vec<_> = (0..count.min(pods.len())).map(|_| scope.spawn(work)).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    });
    Ok(parts?.into_iter().flatten().collect())
}
