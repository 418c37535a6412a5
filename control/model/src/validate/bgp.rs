//! BGPConfiguration and BGPPeer.

use std::net::{IpAddr, SocketAddr};

use super::calico_format::{self, Global, selector};
use super::{Errors, format, given};
use crate::calico::{BGPConfiguration, BGPConfigurationSpec, BGPPassword, BGPPeerSpec, CidrBlock};

/// The lowest and the highest priority of a route.
pub(super) const ROUTE_PRIORITIES: std::ops::RangeInclusive<i64> = 1..=2_147_483_646;
/// The most communities, and the most advertisements.
const COMMUNITIES_MAX: usize = 500;
/// The most communities of an advertisement.
const ADVERTISEMENT_COMMUNITIES_MAX: usize = 50;

/// BGPConfiguration.
pub(super) fn configuration(object: &BGPConfiguration, errors: &mut Errors) {
    let spec = &object.spec;
    log_severity("spec.logSeverityScreen", &spec.log_severity_screen, errors);
    errors.one_of(
        "spec.serviceLoadBalancerAggregation",
        &spec.service_load_balancer_aggregation,
        &["Disabled", "Enabled"],
    );
    errors.one_of("spec.bindMode", &spec.bind_mode, &["NodeIP", "None"]);
    errors.one_of(
        "spec.programClusterRoutes",
        &spec.program_cluster_routes,
        &["Disabled", "Enabled", "EnabledIPIPOnly", "EnabledNoEncapOnly"],
    );
    errors.in_range("spec.listenPort", spec.listen_port, 1..=65535);
    errors.in_range("spec.ipv4NormalRoutePriority", spec.ipv4_normal_route_priority, ROUTE_PRIORITIES);
    errors.in_range("spec.ipv6NormalRoutePriority", spec.ipv6_normal_route_priority, ROUTE_PRIORITIES);
    for (field, blocks) in [
        ("spec.serviceClusterIPs", &spec.service_cluster_ips),
        ("spec.serviceExternalIPs", &spec.service_external_ips),
        ("spec.serviceLoadBalancerIPs", &spec.service_load_balancer_ips),
    ] {
        cidrs(field, blocks.as_deref().unwrap_or_default(), errors);
    }
    communities(spec, errors);
    mesh(object, errors);
    let interfaces = spec.ignored_interfaces.as_deref().unwrap_or_default();
    for (index, pattern) in interfaces.iter().enumerate() {
        let check = match pattern.as_str() {
            "*" => Err("must not be all interfaces".to_owned()),
            pattern => calico_format::interface_pattern(pattern),
        };
        errors.check(&format!("spec.ignoredInterfaces[{index}]"), pattern, check);
    }
    errors.unique("spec.ignoredInterfaces", interfaces);
    for (field, text, is_family) in [
        (
            "spec.localWorkloadPeeringIPV4",
            &spec.local_workload_peering_ipv4,
            IpAddr::is_ipv4 as fn(&IpAddr) -> bool,
        ),
        ("spec.localWorkloadPeeringIPV6", &spec.local_workload_peering_ipv6, IpAddr::is_ipv6),
    ] {
        errors.check_given(field, text, |text| match text.parse::<IpAddr>() {
            Ok(address) if is_family(&address) => Ok(()),
            _ => Err("must be an address of that family".to_owned()),
        });
    }
}

/// Severities of logs, in any case.
pub(super) fn log_severity(field: &str, text: &Option<String>, errors: &mut Errors) {
    let supported = ["Debug", "Error", "Fatal", "Info", "Trace", "Warning"];
    let text = given(text).filter(|text| !supported.iter().any(|name| name.eq_ignore_ascii_case(text)));
    if let Some(text) = text {
        errors.not_supported(field, text, &supported);
    }
}

fn cidrs(field: &str, blocks: &[CidrBlock], errors: &mut Errors) {
    for (index, block) in blocks.iter().enumerate() {
        errors.check(&format!("{field}[{index}].cidr"), &block.cidr, calico_format::cidr(&block.cidr));
    }
}

fn communities(spec: &BGPConfigurationSpec, errors: &mut Errors) {
    let named = spec.communities.as_deref().unwrap_or_default();
    let advertisements = spec.prefix_advertisements.as_deref().unwrap_or_default();
    errors.at_most_items("spec.communities", named, COMMUNITIES_MAX);
    errors.at_most_items("spec.prefixAdvertisements", advertisements, COMMUNITIES_MAX);
    if !named.is_empty() && advertisements.is_empty() {
        errors.forbidden("spec.communities", "may be given only together with `prefixAdvertisements`");
    }
    for (index, community) in named.iter().enumerate() {
        let field = format!("spec.communities[{index}]");
        if community.name.is_empty() {
            errors.required(&format!("{field}.name"), "what `prefixAdvertisements` call it");
        }
        errors.at_most_characters(&format!("{field}.name"), &community.name, 253);
        let value = &community.value;
        errors.check(&format!("{field}.value"), value, calico_format::community(value));
    }
    for (index, advertisement) in advertisements.iter().enumerate() {
        let field = format!("spec.prefixAdvertisements[{index}]");
        let cidr = &advertisement.cidr;
        errors.check(&format!("{field}.cidr"), cidr, calico_format::cidr(cidr));
        let field = format!("{field}.communities");
        let used = advertisement.communities.as_deref().unwrap_or_default();
        errors.at_most_items(&field, used, ADVERTISEMENT_COMMUNITIES_MAX);
        for (index, community) in used.iter().enumerate() {
            if named.iter().all(|known| known.name != *community) {
                let why = |why: String| format!("{why}, or the name of one of `communities`");
                let check = calico_format::community(community).map_err(why);
                errors.check(&format!("{field}[{index}]"), community, check);
            }
        }
    }
}

/// The mesh is one for the whole cluster.
fn mesh(object: &BGPConfiguration, errors: &mut Errors) {
    let spec = &object.spec;
    let is_default = object.metadata.name.as_deref().is_none_or(|name| name == "default");
    for (field, is_given) in [
        ("spec.nodeMeshPassword", spec.node_mesh_password.is_some()),
        ("spec.nodeMeshMaxRestartTime", given(&spec.node_mesh_max_restart_time).is_some()),
    ] {
        if is_given && !is_default {
            errors.forbidden(
                field,
                "may be given only in the object \"default\": the mesh is the whole cluster's",
            );
        }
        if is_given && spec.node_to_node_mesh_enabled == Some(false) {
            errors.forbidden(field, "may be given only when `nodeToNodeMeshEnabled` is true");
        }
    }
    errors.check_given(
        "spec.nodeMeshMaxRestartTime",
        &spec.node_mesh_max_restart_time,
        calico_format::duration,
    );
    password("spec.nodeMeshPassword", spec.node_mesh_password.as_ref(), errors);
}

fn password(field: &str, password: Option<&BGPPassword>, errors: &mut Errors) {
    if let Some(secret) = password.and_then(|password| password.secret_key_ref.as_ref())
        && secret.key.is_empty()
    {
        errors.required(&format!("{field}.secretKeyRef.key"), "the key of the secret");
    }
}

/// BGPPeer.
pub(super) fn peer(spec: &BGPPeerSpec, errors: &mut Errors) {
    texts(spec, errors);
    let has = |text: &Option<String>| given(text).is_some();
    if has(&spec.node) && has(&spec.node_selector) {
        errors.forbidden("spec.nodeSelector", "may not be given together with `node`");
    }
    if has(&spec.peer_ip) && has(&spec.peer_selector) {
        errors.forbidden("spec.peerSelector", "may not be given together with `peerIP`");
    }
    let as_number = spec.as_number.filter(|number| number.0 != 0);
    if has(&spec.peer_selector) && as_number.is_some() {
        errors.forbidden(
            "spec.asNumber",
            "may not be given together with `peerSelector`: nodes have their own",
        );
    }
    if has(&spec.local_workload_selector) {
        for (field, text) in [("spec.peerIP", &spec.peer_ip), ("spec.peerSelector", &spec.peer_selector)] {
            if has(text) {
                errors.forbidden(field, "may not be given together with `localWorkloadSelector`");
            }
        }
        if as_number.is_none() {
            errors.required("spec.asNumber", "the AS of the workloads that `localWorkloadSelector` selects");
        }
    }
    if spec.keep_original_next_hop == Some(true) && has(&spec.next_hop_mode) {
        errors.forbidden(
            "spec.keepOriginalNextHop",
            "may not be given together with `nextHopMode`, which replaces it",
        );
    }
    let peer = given(&spec.peer_ip).and_then(peer_address);
    if let Some(text) = given(&spec.reachable_by) {
        match (text.parse::<IpAddr>(), peer) {
            (Err(_), _) => errors.invalid("spec.reachableBy", text, "must be an address"),
            (Ok(_), _) if !has(&spec.peer_ip) => {
                errors.forbidden("spec.reachableBy", "may be given only together with `peerIP`");
            }
            (Ok(gateway), Some(peer)) if gateway.is_ipv4() != peer.is_ipv4() => {
                errors.invalid("spec.reachableBy", text, "must be of the same family as `peerIP`");
            }
            _ => {}
        }
    }
    errors.in_range(
        "spec.numAllowedLocalASNumbers",
        spec.num_allowed_local_as_numbers,
        0..=i64::from(i32::MAX),
    );
    errors.in_range("spec.ttlSecurity", spec.ttl_security, 0..=255);
    password("spec.password", spec.password.as_ref(), errors);
    for (index, filter) in spec.filters.iter().flatten().enumerate() {
        errors.check(&format!("spec.filters[{index}]"), filter, format::dns_subdomain(filter));
    }
}

fn texts(spec: &BGPPeerSpec, errors: &mut Errors) {
    if let Some(node) = given(&spec.node) {
        errors.at_most_characters("spec.node", node, 253);
    }
    selector("spec.nodeSelector", spec.node_selector.as_deref(), Global::Never, errors);
    selector("spec.peerSelector", spec.peer_selector.as_deref(), Global::Never, errors);
    selector("spec.localWorkloadSelector", spec.local_workload_selector.as_deref(), Global::Never, errors);
    errors.check_given("spec.peerIP", &spec.peer_ip, |text| match peer_address(text) {
        Some(_) => Ok(()),
        None => Err("must be an address, perhaps with a port from 1 to 65535: \"192.0.2.1:179\", \"[2001:db8::1]:179\""
            .to_owned()),
    });
    errors.one_of("spec.nextHopMode", &spec.next_hop_mode, &["Auto", "Keep", "Self"]);
    errors.one_of("spec.sourceAddress", &spec.source_address, &["None", "UseNodeIP"]);
    errors.one_of("spec.reversePeering", &spec.reverse_peering, &["Auto", "Manual"]);
    errors.check_given("spec.maxRestartTime", &spec.max_restart_time, calico_format::duration);
    errors.check_given("spec.keepaliveTime", &spec.keepalive_time, calico_format::duration);
}

/// The address of a peer written `v4`, `v4:port`, `v6` or `[v6]:port`.
fn peer_address(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address);
    }
    let with_port: SocketAddr = text.parse().ok()?;
    // A scope is no part of an address, and `SocketAddr` takes "+1" for no port, but "01" for one.
    let port = text.rsplit_once(':').map(|(_, port)| port)?;
    calico_format::number(port).ok().filter(|_| !text.contains('%')).map(|_| with_port.ip())
}
