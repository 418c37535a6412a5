//! All that address management reads and does not write: pools, reservations, settings, labels.

use caracal_ipam::{Pool, Settings, Use, World};
use caracal_model::calico;
use caracal_model::cidr::Cidr;
use caracal_model::convert::node_labels;
use caracal_model::labels::Labels;
use caracal_model::object::{Kind, Object};
use caracal_model::selector::Selector;
use serde_json::Value;
use tracing::warn;

use crate::datastore::Datastore;
use crate::error::DatastoreError;

/// The prefix lengths of blocks where a pool does not say.
const BLOCK_LENGTH_V4: u8 = 26;
const BLOCK_LENGTH_V6: u8 = 122;

impl Datastore {
    /// The world as the node and the namespace see it, by a request for each of pools, reservations, IPAMConfiguration and
    /// the names given. Without a name its labels are none; who has read the namespace already sets `namespace_labels` itself.
    ///
    /// # Errors
    /// The API server could not be asked, or there is no such node.
    pub async fn ipam_world(
        &self,
        node: Option<&str>,
        namespace: Option<&str>,
    ) -> Result<World, DatastoreError> {
        let of = async |kind: Kind, name: Option<&str>| match name {
            Some(name) => self.get(kind, None, name).await.map(Some),
            None => Ok(None),
        };
        // One after the other: a connection more costs more than a request, and plugins come in crowds.
        let pools = self.list(Kind::IPPool).await?;
        let reservations = none_if_not_served(self.list(Kind::IPReservation)).await?;
        let settings = self.ipam_settings().await?;
        let node = of(Kind::Node, node).await?;
        let namespace = match of(Kind::Namespace, namespace).await {
            // It may have gone while its last pods come and go.
            Err(error) if error.is_not_found() => None,
            namespace => namespace?,
        };
        Ok(World {
            pools: pools.iter().filter_map(pool).collect(),
            reservations: reservations.iter().flat_map(reserved).collect(),
            settings,
            node_labels: match &node {
                Some(Object::Node(node)) => node_labels(node),
                _ => Labels::new(),
            },
            namespace_labels: namespace
                .iter()
                .flat_map(|namespace| namespace.metadata().labels.iter().flatten())
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
        })
    }

    /// IPAMConfiguration `default`; where there is none, what it would say.
    ///
    /// # Errors
    /// The API server could not be asked.
    pub async fn ipam_settings(&self) -> Result<Settings, DatastoreError> {
        match self.get(Kind::IPAMConfiguration, None, "default").await {
            Ok(Object::IPAMConfiguration(configuration)) => Ok(settings(&configuration.spec)),
            Ok(_) => Ok(Settings::default()),
            Err(error) if error.is_not_found() => Ok(Settings::default()),
            Err(error) => Err(error),
        }
    }
}

/// A cluster need not know the kind.
async fn none_if_not_served(
    list: impl Future<Output = Result<Vec<Object>, DatastoreError>>,
) -> Result<Vec<Object>, DatastoreError> {
    match list.await {
        Err(error) if error.is_not_found() => Ok(Vec::new()),
        listed => listed,
    }
}

/// A pool, as far as addresses are given from it, with its defaults; `None`: it cannot be read.
#[must_use]
pub fn pool(object: &Object) -> Option<Pool> {
    let Object::IPPool(pool) = object else { return None };
    let (name, spec) = (pool.metadata.name.clone().unwrap_or_default(), &pool.spec);
    let cidr: Cidr = spec
        .cidr
        .parse()
        .inspect_err(|error| warn!("IPPool {name}: spec.cidr: {error}; it gives no addresses"))
        .ok()?;
    let block_length = match spec.block_size.filter(|length| *length != 0) {
        Some(length) => u8::try_from(length).unwrap_or(u8::MAX),
        None if cidr.is_ipv4() => BLOCK_LENGTH_V4,
        None => BLOCK_LENGTH_V6,
    };
    let selector = |field: &str, text: Option<&str>| {
        let parsed = Selector::parse(text.unwrap_or_default());
        parsed.inspect_err(|error| warn!("IPPool {name}: spec.{field}: {error}; it selects nobody")).ok()
    };
    let uses = match spec.allowed_uses.as_deref() {
        None | Some([]) => vec![Use::Workload, Use::Tunnel],
        Some(uses) => uses.iter().filter_map(|usage| usage_of(usage)).collect(),
    };
    Some(Pool {
        cidr,
        block_length,
        // One that is going, or that a controller has found to overlap another, gives nothing either.
        disabled: spec.disabled.unwrap_or(false)
            || pool.metadata.deletion_timestamp.is_some()
            || is_not_allocatable(pool.status.as_ref()),
        uses,
        manual: spec.assignment_mode.as_deref() == Some("Manual"),
        nodes: selector("nodeSelector", spec.node_selector.as_deref()),
        namespaces: selector("namespaceSelector", spec.namespace_selector.as_deref()),
        vxlan: is_on(&spec.vxlan_mode),
        ipip: is_on(&spec.ipip_mode) && cidr.is_ipv4(),
        name,
    })
}

/// Whether a mode of encapsulation is `Always` or `CrossSubnet`.
fn is_on(mode: &Option<String>) -> bool {
    mode.as_deref().is_some_and(|mode| !mode.is_empty() && mode != "Never")
}

fn usage_of(text: &str) -> Option<Use> {
    match text {
        "Workload" => Some(Use::Workload),
        "Tunnel" => Some(Use::Tunnel),
        "LoadBalancer" => Some(Use::LoadBalancer),
        _ => None,
    }
}

fn is_not_allocatable(status: Option<&Value>) -> bool {
    let conditions = status.and_then(|status| status.get("conditions")?.as_array());
    conditions.into_iter().flatten().any(|condition| {
        condition.get("type").is_some_and(|kind| kind == "Allocatable")
            && condition.get("status").is_some_and(|status| status == "False")
    })
}

/// The addresses that an IPReservation keeps.
fn reserved(object: &Object) -> Vec<Cidr> {
    let Object::IPReservation(reservation) = object else { return Vec::new() };
    let name = reservation.metadata.name.as_deref().unwrap_or_default();
    let cidrs = reservation.spec.reserved_cidrs.iter().flatten();
    cidrs
        .filter_map(|cidr| {
            let parsed = cidr.parse();
            parsed.inspect_err(|error| warn!("IPReservation {name}: {error}; it reserves nothing")).ok()
        })
        .collect()
}

fn settings(spec: &calico::IPAMConfigurationSpec) -> Settings {
    let usual = Settings::default();
    Settings {
        strict_affinity: spec.strict_affinity.unwrap_or(usual.strict_affinity),
        auto_allocate_blocks: spec.auto_allocate_blocks.unwrap_or(usual.auto_allocate_blocks),
        max_blocks_per_host: spec
            .max_blocks_per_host
            .map_or(0, |limit| u32::try_from(limit.max(0)).unwrap_or(u32::MAX)),
        cooldown_s: spec.ip_cooldown_seconds.map_or(0, |seconds| u64::try_from(seconds).unwrap_or(0)),
    }
}
