//! KubeControllersConfiguration.

use super::calico_format::{self, Global, unlimited_selector};
use super::{Errors, given, metadata};
use crate::calico::{
    ControllersConfig, HostEndpointTemplate, KubeControllersConfigurationSpec, NodeControllerConfig,
};

const SWITCH: [&str; 2] = ["Disabled", "Enabled"];

pub(super) fn validate(spec: &KubeControllersConfigurationSpec, errors: &mut Errors) {
    let severities = ["Debug", "Error", "Fatal", "Info", "None", "Panic", "Warning"];
    errors.one_of("spec.logSeverityScreen", &spec.log_severity_screen, &severities);
    errors.one_of("spec.healthChecks", &spec.health_checks, &SWITCH);
    errors.check_given(
        "spec.etcdV3CompactionPeriod",
        &spec.etcd_v3_compaction_period,
        calico_format::duration,
    );
    errors.in_range("spec.prometheusMetricsPort", spec.prometheus_metrics_port, 0..=65535);
    errors.in_range("spec.debugProfilePort", spec.debug_profile_port, 0..=65535);
    match &spec.controllers {
        None => errors.required("spec.controllers", "the controllers that run; {} for none"),
        Some(configuration) => controllers(configuration, errors),
    }
}

fn controllers(controllers: &ControllersConfig, errors: &mut Errors) {
    for (name, controller) in [
        ("policy", &controllers.policy),
        ("workloadEndpoint", &controllers.workload_endpoint),
        ("serviceAccount", &controllers.service_account),
        ("namespace", &controllers.namespace),
    ] {
        if let Some(controller) = controller {
            let field = format!("spec.controllers.{name}.reconcilerPeriod");
            errors.check_given(&field, &controller.reconciler_period, calico_format::duration);
        }
    }
    if let Some(node) = &controllers.node {
        node_controller("spec.controllers.node", node, errors);
    }
    if let Some(load_balancer) = &controllers.load_balancer {
        errors.one_of(
            "spec.controllers.loadBalancer.assignIPs",
            &load_balancer.assign_ips,
            &["AllServices", "RequestedServicesOnly"],
        );
    }
    if let Some(migration) = &controllers.migration {
        let field = "spec.controllers.migration.policyNameMigrator";
        errors.one_of(field, &migration.policy_name_migrator, &SWITCH);
    }
}

fn node_controller(field: &str, node: &NodeControllerConfig, errors: &mut Errors) {
    errors.check_given(
        &format!("{field}.reconcilerPeriod"),
        &node.reconciler_period,
        calico_format::duration,
    );
    errors.check_given(&format!("{field}.leakGracePeriod"), &node.leak_grace_period, calico_format::duration);
    errors.one_of(&format!("{field}.syncLabels"), &node.sync_labels, &SWITCH);
    let Some(endpoints) = &node.host_endpoint else { return };
    let field = format!("{field}.hostEndpoint");
    errors.one_of(&format!("{field}.autoCreate"), &endpoints.auto_create, &SWITCH);
    errors.one_of(
        &format!("{field}.createDefaultHostEndpoint"),
        &endpoints.create_default_host_endpoint,
        &SWITCH,
    );
    for (index, written) in endpoints.templates.iter().flatten().enumerate() {
        template(&format!("{field}.templates[{index}]"), written, errors);
    }
}

fn template(field: &str, template: &HostEndpointTemplate, errors: &mut Errors) {
    if let Some(name) = given(&template.generate_name) {
        errors.at_most_characters(&format!("{field}.generateName"), name, 253);
    }
    let cidrs = template.interface_cidrs.as_deref().unwrap_or_default();
    for (index, cidr) in cidrs.iter().enumerate() {
        errors.check(&format!("{field}.interfaceCIDRs[{index}]"), cidr, calico_format::cidr(cidr));
    }
    errors.unique(&format!("{field}.interfaceCIDRs"), cidrs);
    if let Some(text) = &template.node_selector {
        unlimited_selector(&format!("{field}.nodeSelector"), text, Global::Never, errors);
    }
    if let Some(labels) = &template.labels {
        metadata::labels(&format!("{field}.labels"), labels, errors);
    }
    if let Some(annotations) = &template.annotations {
        metadata::annotations(&format!("{field}.annotations"), annotations, errors);
    }
}
