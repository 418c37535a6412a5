//! Address management's garbage: what the dead have left is found by [`caracal_ipam::gc`], and done here.
//!
//! Address management is read whole from the API server at each look, before pods and nodes are looked at: see there why.
//! Each action is asked about again before it is done: whether the pod has the address after all, whether the node is there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use caracal_ipam::Record;
use caracal_ipam::gc::{self, Pod, Snapshot};
use caracal_model::convert::{every_address, is_finished};
use caracal_model::object::{Kind, ObjectKey};
use k8s_openapi::api::core::v1 as api;

use crate::action::Living;
use crate::controller::Now;
use crate::settings::Settings;
use crate::{Action, Cluster, Controller, Plan};

/// Between two looks, however much happens: a look reads every block and handle.
const LOOK_AT_MOST: Duration = Duration::from_secs(5);

/// The controller.
#[derive(Debug, Default)]
pub struct Collector {
    collector: gc::Collector,
}

impl Controller for Collector {
    fn name(&self) -> &'static str {
        "node"
    }

    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Pod, Kind::Node, Kind::KubeControllersConfiguration]
    }

    fn is_woken_by_deletion_only(&self) -> bool {
        true
    }

    fn reads_records(&self) -> bool {
        true
    }

    fn plan(&mut self, cluster: &Cluster, records: Vec<Record>, settings: &Settings, now: Now) -> Plan {
        let mut plan = Plan { pause: LOOK_AT_MOST, ..Plan::default() };
        let Some(settings) = &settings.node else { return plan };
        let grace = Some(settings.leak_grace_period).filter(|grace| !grace.is_zero());
        let snapshot = Snapshot { records, pods: pods(cluster), nodes: nodes(cluster) };
        let look = self.collector.look(now.instant, grace, &snapshot);
        plan.again = Some(look.again_in.min(settings.period));
        plan.candidates =
            Some(self.collector.leaks().map(|(address, node)| (address, node.map(str::to_owned))).collect());
        plan.actions = look.actions.into_iter().map(|action| confirmed(action, &snapshot)).collect();
        plan
    }
}

fn nodes(cluster: &Cluster) -> BTreeSet<String> {
    cluster.nodes().filter_map(|node| node.metadata.name.clone()).collect()
}

fn pods(cluster: &Cluster) -> BTreeMap<(String, String), Pod> {
    let pods = cluster.pods().map(|pod| {
        let metadata = &pod.metadata;
        let namespace = metadata.namespace.clone().unwrap_or_else(|| "default".to_owned());
        ((namespace, metadata.name.clone().unwrap_or_default()), as_far_as_addresses_go(pod))
    });
    pods.collect()
}

/// What a pod says of its addresses, in whatever place: one of them may be behind.
pub(crate) fn as_far_as_addresses_go(pod: &api::Pod) -> Pod {
    let spec = pod.spec.as_ref();
    let node = spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    let is_finished = is_finished(pod);
    let addresses = if is_finished { Vec::new() } else { every_address(pod) };
    let has_the_hosts = spec.and_then(|spec| spec.host_network).unwrap_or(false);
    let awaits = !is_finished && !has_the_hosts && !node.is_empty() && addresses.is_empty();
    Pod { node, addresses, awaits }
}

/// The action, and who must not be there for it to be done.
fn confirmed(action: gc::Action, snapshot: &Snapshot) -> Action {
    let mut unless = Vec::new();
    let node = match &action {
        gc::Action::ReleaseAddress { node, .. } => node.as_deref(),
        gc::Action::GiveUp { owner, is_gone: true, .. } => Some(owner.name()),
        _ => None,
    };
    if let Some(name) = node.filter(|name| !snapshot.nodes.contains(*name)) {
        unless.push(Living::object(ObjectKey::new(Kind::Node, None, name)));
    }
    if let gc::Action::ReleaseAddress { address, .. } = &action
        && let Some((namespace, name)) = pod_of(*address, snapshot)
    {
        let key = ObjectKey::new(Kind::Pod, Some(&namespace), &name);
        unless.push(Living { address: Some((*address, node.map(str::to_owned))), ..Living::object(key) });
    }
    Action::Collect { action, unless }
}

/// The pod that blocks say an address was given to.
fn pod_of(address: IpAddr, snapshot: &Snapshot) -> Option<(String, String)> {
    let given = snapshot.records.iter().find_map(|record| match record {
        Record::Block(block) if block.cidr().contains(address) => block.attributes(address),
        _ => None,
    })?;
    Some((given.owner.get("namespace")?.clone(), given.owner.get("pod")?.clone()))
}

#[cfg(test)]
mod tests;
