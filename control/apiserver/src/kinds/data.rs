//! Kinds that are data here: kept, judged and shown, and acted upon by whoever reads them. Nothing schedules.
//!
//! What a row says of names and scope comes from the type that k8s-openapi has of the kind.

mod access;
mod configuration;
mod workload;

use caracal_model::object::NameFormat;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::api::scheduling::v1::PriorityClass;

use super::{Resource, cluster, namespaced};

/// The rows of these kinds, in the order of discovery.
pub fn rows() -> Vec<Resource> {
    vec![
        Resource {
            short_names: vec!["cm".into()],
            validate: configuration::config_map,
            validate_change: configuration::immutable,
            columns: configuration::CONFIG_MAP,
            ..namespaced::<ConfigMap>()
        },
        Resource {
            fields: &["type"],
            prepare: configuration::prepare_secret,
            validate: configuration::secret,
            validate_change: configuration::secret_change,
            columns: configuration::SECRET,
            ..namespaced::<Secret>()
        },
        Resource {
            short_names: vec!["ds".into()],
            categories: vec!["all".into()],
            status: true,
            generation: true,
            prepare: workload::prepare_daemon_set,
            validate: workload::selects_its_pods,
            validate_change: workload::keeps_its_selector,
            columns: workload::DAEMON_SET,
            ..namespaced::<DaemonSet>()
        },
        Resource {
            short_names: vec!["deploy".into()],
            categories: vec!["all".into()],
            status: true,
            generation: true,
            prepare: workload::prepare_deployment,
            validate: workload::selects_its_pods,
            validate_change: workload::keeps_its_selector,
            columns: workload::DEPLOYMENT,
            ..namespaced::<Deployment>()
        },
        Resource {
            categories: vec!["all".into()],
            status: true,
            generation: true,
            prepare: workload::prepare_job,
            validate: workload::job,
            validate_change: workload::keeps_its_template,
            columns: workload::JOB,
            ..namespaced::<Job>()
        },
        Resource { validate: configuration::lease, columns: configuration::LEASE, ..namespaced::<Lease>() },
        Resource {
            short_names: vec!["pdb".into()],
            status: true,
            generation: true,
            prepare: workload::without_status,
            validate: workload::disruption_budget,
            columns: workload::DISRUPTION_BUDGET,
            ..namespaced::<PodDisruptionBudget>()
        },
        binding(cluster::<ClusterRoleBinding>()),
        role(cluster::<ClusterRole>()),
        binding(namespaced::<RoleBinding>()),
        role(namespaced::<Role>()),
        Resource {
            short_names: vec!["pc".into()],
            prepare: workload::prepare_priority_class,
            validate: workload::priority_class,
            validate_change: workload::keeps_its_value,
            columns: workload::PRIORITY_CLASS,
            ..cluster::<PriorityClass>()
        },
    ]
}

fn role(row: Resource) -> Resource {
    Resource { names: Some(NameFormat::PathSegment), validate: access::role, columns: access::ROLE, ..row }
}

fn binding(row: Resource) -> Resource {
    Resource {
        names: Some(NameFormat::PathSegment),
        prepare: access::prepare_binding,
        validate: access::binding,
        validate_change: access::keeps_its_role,
        columns: access::BINDING,
        ..row
    }
}

#[cfg(test)]
mod tests;
