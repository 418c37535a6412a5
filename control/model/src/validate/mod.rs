//! Validation as the API servers of Kubernetes and Calico do it: all errors at once, each with its field.
//!
//! What concerns the network and the object's identity is checked; what only the kubelet would act upon (images,
//! volumes, resources) is not. Defaults have been filled in before ([`defaults`]).

mod bgp;
mod bgp_filter;
mod calico_format;
mod calico_policy;
pub(crate) mod change;
mod cluster_network_policy;
pub(crate) mod defaults;
mod endpoint_slice;
mod felix_configuration;
mod format;
mod host_endpoint;
mod ip_pool;
mod ipam;
mod kube_controllers_configuration;
mod metadata;
mod names;
mod network_policy;
mod network_set;
mod node;
mod node_status;
mod pod;
mod rule;
mod service;
mod staged_policy;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde_json::Value;

use crate::object::{FieldError, FieldErrorReason, NameFormat, Object};

/// Everything that is wrong with an object.
pub(crate) fn object(object: &Object) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata::validate(object.kind(), object.metadata(), &mut errors);
    names::validate(object, &mut errors);
    match object {
        Object::Namespace(_) | Object::ServiceAccount(_) => {}
        Object::Node(node) => node::validate(node, &mut errors),
        Object::Pod(pod) => pod::validate(pod, &mut errors),
        Object::Service(service) => service::validate(service, &mut errors),
        Object::EndpointSlice(slice) => endpoint_slice::validate(slice, &mut errors),
        Object::NetworkPolicy(policy) => network_policy::validate(policy, &mut errors),
        Object::ClusterNetworkPolicy(policy) => cluster_network_policy::validate(&policy.spec, &mut errors),
        Object::Tier(tier) => calico_policy::tier(&tier.spec, &mut errors),
        Object::CalicoNetworkPolicy(policy) => calico_policy::namespaced(&policy.spec, &mut errors),
        Object::GlobalNetworkPolicy(policy) => calico_policy::global(&policy.spec, &mut errors),
        Object::StagedNetworkPolicy(policy) => staged_policy::namespaced(&policy.spec, &mut errors),
        Object::StagedGlobalNetworkPolicy(policy) => staged_policy::global(&policy.spec, &mut errors),
        Object::StagedKubernetesNetworkPolicy(policy) => {
            staged_policy::kubernetes(&policy.spec, &mut errors);
        }
        Object::NetworkSet(set) => {
            network_set::validate(&set.metadata, set.spec.nets.as_deref(), &mut errors)
        }
        Object::GlobalNetworkSet(set) => {
            network_set::validate(&set.metadata, set.spec.nets.as_deref(), &mut errors);
        }
        Object::HostEndpoint(endpoint) => host_endpoint::validate(&endpoint.spec, &mut errors),
        Object::Profile(profile) => calico_policy::profile(&profile.spec, &mut errors),
        Object::FelixConfiguration(configuration) => {
            felix_configuration::validate(configuration, &mut errors);
        }
        Object::IPPool(pool) => ip_pool::validate(&pool.spec, &mut errors),
        Object::IPReservation(reservation) => ip_pool::reservation(&reservation.spec, &mut errors),
        Object::IPAMConfiguration(configuration) => ipam::configuration(&configuration.spec, &mut errors),
        Object::IPAMBlock(block) => ipam::block(&block.spec, &mut errors),
        Object::BlockAffinity(affinity) => ipam::block_affinity(&affinity.spec, &mut errors),
        Object::IPAMHandle(handle) => ipam::handle(&handle.spec, &mut errors),
        Object::BGPConfiguration(configuration) => bgp::configuration(configuration, &mut errors),
        Object::BGPPeer(peer) => bgp::peer(&peer.spec, &mut errors),
        Object::BGPFilter(filter) => bgp_filter::validate(&filter.spec, &mut errors),
        Object::CalicoNodeStatus(status) => node_status::validate(&status.spec, &mut errors),
        Object::ClusterInformation(_) => {}
        Object::KubeControllersConfiguration(configuration) => {
            kube_controllers_configuration::validate(&configuration.spec, &mut errors);
        }
    }
    errors.0
}

/// Everything that is wrong with the metadata of an object of some other kind.
pub(crate) fn metadata(name: NameFormat, namespaced: bool, metadata: &ObjectMeta) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata::of_other_kind(name, namespaced, metadata, &mut errors);
    errors.0
}

/// Everything that is wrong with a label selector.
pub(crate) fn label_selector(field: &str, selector: &LabelSelector) -> Vec<FieldError> {
    let mut errors = Errors::default();
    metadata::label_selector(field, selector, &mut errors);
    errors.0
}

/// A text that was given; an empty one was not.
fn given(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

/// Collects errors in the words of Kubernetes.
#[derive(Default)]
struct Errors(Vec<FieldError>);

impl Errors {
    fn push(&mut self, field: &str, reason: FieldErrorReason, message: String) {
        self.0.push(FieldError { field: field.to_owned(), reason, message });
    }

    fn unknown(&mut self, field: &str) {
        self.0.push(FieldError::unknown(field.to_owned()));
    }

    fn required(&mut self, field: &str, why: &str) {
        let colon = if why.is_empty() { "" } else { ": " };
        self.push(field, FieldErrorReason::Required, format!("Required value{colon}{why}"));
    }

    fn invalid(&mut self, field: &str, value: impl Into<Value>, why: impl Display) {
        self.push(field, FieldErrorReason::Invalid, format!("Invalid value: {}: {why}", value.into()));
    }

    fn not_supported(&mut self, field: &str, value: &str, supported: &[&str]) {
        let supported: Vec<String> = supported.iter().map(|value| format!("{value:?}")).collect();
        let message = format!("Unsupported value: {value:?}: supported values: {}", supported.join(", "));
        self.push(field, FieldErrorReason::NotSupported, message);
    }

    fn duplicate(&mut self, field: &str, value: &str) {
        self.push(field, FieldErrorReason::Duplicate, format!("Duplicate value: {value:?}"));
    }

    fn forbidden(&mut self, field: &str, why: &str) {
        self.push(field, FieldErrorReason::Forbidden, format!("Forbidden: {why}"));
    }

    /// Records what a check of a text found, if anything.
    fn check(&mut self, field: &str, value: &str, check: Result<(), String>) {
        if let Err(why) = check {
            self.invalid(field, value, why);
        }
    }

    /// Like [`Errors::check`], for a text that need not be given.
    fn check_given(
        &mut self,
        field: &str,
        value: &Option<String>,
        check: impl Fn(&str) -> Result<(), String>,
    ) {
        if let Some(value) = given(value) {
            self.check(field, value, check(value));
        }
    }

    /// A text must be one of these, if it is given.
    fn one_of(&mut self, field: &str, value: &Option<String>, supported: &[&str]) {
        if let Some(value) = given(value).filter(|value| !supported.contains(value)) {
            self.not_supported(field, value, supported);
        }
    }

    /// A number must be in a range, if it is given.
    fn in_range(&mut self, field: &str, value: Option<i64>, range: RangeInclusive<i64>) {
        if let Some(value) = value.filter(|value| !range.contains(value)) {
            let (least, most) = range.into_inner();
            self.invalid(field, value, format!("must be between {least} and {most}, inclusive"));
        }
    }

    /// A text must not be longer than `max` characters.
    fn at_most_characters(&mut self, field: &str, value: &str, max: usize) {
        let characters = value.chars().count();
        if characters > max {
            let message = format!("Too long: has {characters} characters: may not have more than {max}");
            self.push(field, FieldErrorReason::Invalid, message);
        }
    }

    /// A list must not have more than `max` items.
    fn at_most_items<T>(&mut self, field: &str, items: &[T], max: usize) {
        let count = items.len();
        if count > max {
            let message = format!("Too many: {count}: must have at most {max} items");
            self.push(field, FieldErrorReason::Invalid, message);
        }
    }

    /// No item of a list may be there twice.
    fn unique(&mut self, field: &str, items: &[String]) {
        let mut seen = BTreeSet::new();
        for (index, item) in items.iter().enumerate() {
            if !seen.insert(item) {
                self.duplicate(&format!("{field}[{index}]"), item);
            }
        }
    }

    /// Every item of a list must be one of these, none twice.
    fn set_of(&mut self, field: &str, items: &[String], supported: &[&str]) {
        for (index, item) in items.iter().enumerate() {
            if !supported.contains(&item.as_str()) {
                self.not_supported(&format!("{field}[{index}]"), item, supported);
            }
        }
        self.unique(field, items);
    }
}
