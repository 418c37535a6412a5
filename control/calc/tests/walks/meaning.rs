//! What worlds mean, spelled out: that every way leads to the same state does not yet make it the right one.

use std::collections::BTreeSet;

use caracal_calc::Update;
use caracal_model::object::Object;
use caracal_plane_api::{Action, EndpointToHost, Entity, Hook, Limits, Rule, TierBinding};
use serde_json::{Value, json};

use crate::objects::{
    calico, calico_with, cluster_policy, namespace, node, pod, pod_with, policy, service_account, slice,
};
use crate::simulator::Fastpath;
use crate::told_at_once;

/// `tier[policy policy]+` for a tier that denies at its end is `-`, for one that passes `+`.
fn told(tiers: &[TierBinding]) -> String {
    let tier = |tier: &TierBinding| {
        let names: Vec<&str> = tier.policies.iter().map(|id| id.name.as_str()).collect();
        let end = if tier.default_action == i32::from(Action::Pass) { '+' } else { '-' };
        format!("{}[{}]{end}", tier.tier, names.join(" "))
    };
    tiers.iter().map(tier).collect::<Vec<_>>().join(" ")
}

fn gnp(name: &str, spec: Value) -> Object {
    calico("GlobalNetworkPolicy", name, spec)
}

fn web() -> Object {
    pod("x/web@node1", "app=web", "10.244.1.2")
}

/// Rules of the one policy that there is.
fn ingress(fastpath: &Fastpath) -> &[Rule] {
    assert_eq!(fastpath.policies.len(), 1);
    &fastpath.policies.values().next().unwrap().ingress
}

/// The members of a set, as text.
fn members(fastpath: &Fastpath, id: &str) -> BTreeSet<String> {
    let member = |(address, length, protocol, port): &(Vec<u8>, u32, u32, u32)| {
        let address: Vec<String> = address.iter().map(ToString::to_string).collect();
        let port = if *port == 0 { String::new() } else { format!(",{protocol}:{port}") };
        format!("{}/{length}{port}", address.join("."))
    };
    fastpath.sets[id].iter().map(member).collect()
}

fn only(ids: &[String]) -> &str {
    assert_eq!(ids.len(), 1, "{ids:?}");
    &ids[0]
}

fn set_of(texts: &[&str]) -> BTreeSet<String> {
    texts.iter().map(ToString::to_string).collect()
}

#[test]
fn tiers_bind_the_policies_that_select_a_pod_in_that_direction() {
    let (_, fastpath) = told_at_once([
        web(),
        calico("Tier", "early", json!({"order": 1.0, "defaultAction": "Pass"})),
        gnp("b", json!({"tier": "early", "order": 2.0, "types": ["Ingress"]})),
        gnp("a", json!({"tier": "early", "types": ["Ingress", "Egress"]})),
        gnp("elsewhere", json!({"tier": "early", "selector": "app == 'db'"})),
        gnp("nowhere", json!({"tier": "unknown", "types": ["Egress"]})),
        policy("x/k", json!({"podSelector": {}})),
        gnp("host-only", json!({"applyOnForward": true, "doNotTrack": true})),
        gnp("also-host-only", json!({"applyOnForward": true, "preDNAT": true})),
    ]);
    let web = &fastpath.endpoints["x/web"];
    assert_eq!(told(&web.ingress), "early[b a]+ default[k]-");
    assert_eq!(told(&web.egress), "early[a]+ unknown[nowhere]-");
    assert_eq!((&web.staged_ingress, &web.staged_egress), (&None, &None));
    assert_eq!(fastpath.policies.len(), 4, "policies that apply to no pod are not said");
}

#[test]
fn staged_tiers_are_what_would_judge() {
    let enforced = [
        web(),
        calico("NetworkPolicy", "x/p", json!({"order": 5.0, "types": ["Ingress", "Egress"]})),
        gnp("g", json!({"order": 6.0})),
    ];
    let staged = |objects: Vec<Object>| {
        let (_, fastpath) = told_at_once(enforced.iter().cloned().chain(objects));
        let web = fastpath.endpoints["x/web"].clone();
        assert_eq!((&*told(&web.ingress), &*told(&web.egress)), ("default[p g]-", "default[p]-"));
        let told = |tiers: Option<caracal_plane_api::StagedTiers>| tiers.map(|staged| told(&staged.tiers));
        (told(web.staged_ingress), told(web.staged_egress))
    };
    let some = |text: &str| Some(text.to_owned());
    let moved = calico("StagedNetworkPolicy", "x/p", json!({"order": 7.0, "types": ["Ingress"]}));
    assert_eq!(
        staged(vec![moved]),
        (some("default[g p]-"), some("")),
        "in its place, and no longer of egress"
    );
    let away = calico("StagedNetworkPolicy", "x/p", json!({"selector": "app == 'db'", "types": ["Ingress"]}));
    assert_eq!(staged(vec![away]), (some("default[g]-"), some("")));
    let delete = calico("StagedGlobalNetworkPolicy", "g", json!({"stagedAction": "Delete"}));
    assert_eq!(staged(vec![delete]), (some("default[p]-"), None));
    let new = calico("StagedGlobalNetworkPolicy", "n", json!({"tier": "kube-admin", "types": ["Egress"]}));
    assert_eq!(staged(vec![new]), (None, some("kube-admin[n]+ default[p]-")));
    let unconcerned = calico("StagedGlobalNetworkPolicy", "n", json!({"selector": "app == 'db'"}));
    let nothing_to_delete = calico("StagedNetworkPolicy", "x/none", json!({"stagedAction": "Delete"}));
    assert_eq!(staged(vec![unconcerned, nothing_to_delete]), (None, None));
}

#[test]
fn a_staged_policy_of_kubernetes_takes_the_place_of_kubernetes_own() {
    let staged = |spec: Value| {
        let enforced = [
            web(),
            policy("x/p", json!({"podSelector": {}})),
            calico("NetworkPolicy", "x/p", json!({"order": 5.0})),
        ];
        let staged = calico("StagedKubernetesNetworkPolicy", "x/p", spec);
        let (_, fastpath) = told_at_once(enforced.into_iter().chain([staged]));
        let web = &fastpath.endpoints["x/web"];
        let tiers = &web.staged_ingress.as_ref().unwrap().tiers;
        tiers.iter().flat_map(|tier| &tier.policies).map(|id| id.kind.clone()).collect::<Vec<_>>()
    };
    let set = json!({"podSelector": {"matchLabels": {"app": "web"}}});
    assert_eq!(staged(set), ["NetworkPolicy", "StagedKubernetesNetworkPolicy"]);
    let elsewhere = json!({"podSelector": {"matchLabels": {"app": "db"}}});
    assert_eq!(staged(elsewhere), ["NetworkPolicy"]);
    assert_eq!(staged(json!({"stagedAction": "Delete"})), ["NetworkPolicy"]);
}

fn host(name: &str, spec: Value) -> Object {
    let mut spec = spec;
    spec["node"] = json!("node1");
    calico_with("HostEndpoint", name, "role=host", spec)
}

#[test]
fn a_host_endpoint_has_policies_by_hook() {
    let both = json!(["Ingress", "Egress"]);
    let (_, fastpath) = told_at_once([
        node(1),
        web(),
        host("h", json!({"interfaceName": "eth0", "expectedIPs": ["192.0.2.11"], "profiles": ["p"]})),
        gnp("n", json!({"types": both})),
        gnp("f", json!({"types": both, "applyOnForward": true})),
        gnp("u", json!({"types": both, "applyOnForward": true, "doNotTrack": true})),
        gnp("d", json!({"types": ["Ingress"], "applyOnForward": true, "preDNAT": true})),
        gnp("pods", json!({"types": both, "namespaceSelector": "all()"})),
        calico("StagedGlobalNetworkPolicy", "s", json!({"selector": "role == 'host'"})),
    ]);
    let host = &fastpath.hosts["h"];
    let hook = |hook: &Option<Hook>| {
        let hook = hook.as_ref().unwrap();
        (told(&hook.ingress), told(&hook.egress))
    };
    let both = |text: &str| (text.to_owned(), text.to_owned());
    assert_eq!(hook(&host.normal), both("default[f n]-"));
    assert_eq!(hook(&host.forward), both("default[f]-"));
    assert_eq!(hook(&host.untracked), both("default[u]+"));
    assert_eq!(hook(&host.pre_dnat), ("default[d]+".to_owned(), String::new()));
    assert_eq!((host.interface.as_str(), host.profiles.as_slice()), ("eth0", &["p".to_owned()][..]));
    assert_eq!(host.addresses, [[192, 0, 2, 11]]);
    assert_eq!(told(&fastpath.endpoints["x/web"].ingress), "default[f n pods]-");
    assert_eq!(fastpath.profiles["p"].ingress, [], "a profile that is nowhere allows nothing");
}

#[test]
fn one_host_endpoint_has_an_interface_and_the_others_wait() {
    let about = |objects: Vec<Object>| -> Vec<(String, String)> {
        let (_, fastpath) = told_at_once(objects.into_iter().chain([node(1)]));
        fastpath.hosts.values().map(|host| (host.id.clone(), host.interface.clone())).collect()
    };
    let pair = |name: &str, interface: &str| (name.to_owned(), interface.to_owned());
    let named = |name: &str| host(name, json!({"interfaceName": "eth0"}));
    assert_eq!(about(vec![named("a"), named("b")]), [pair("a", "eth0"), pair("b", "")]);
    assert_eq!(about(vec![named("b")]), [pair("b", "eth0")]);
    let by_address = |name: &str, address: &str| host(name, json!({"expectedIPs": [address]}));
    let known =
        vec![by_address("a", "203.0.113.1"), by_address("c", "192.0.2.11"), by_address("d", "192.0.2.11")];
    assert_eq!(about(known), [pair("a", ""), pair("c", "192.0.2.11"), pair("d", "")]);
}

#[test]
fn a_selector_is_the_union_of_pods_host_endpoints_and_sets() {
    let spec = json!({"selector": "app == 'web'", "ingress": [
        {"action": "Allow", "source": {"selector": "friend == 'yes' || pcns.team == 'red'"}},
        {"action": "Allow", "protocol": "TCP", "destination": {"ports": ["http"]}},
        {"action": "Allow", "source": {"notSelector": "friend == 'yes'"}},
    ]});
    let friend = |kind: &str, place: &str, spec: Value| calico_with(kind, place, "friend=yes", spec);
    let (graph, fastpath) = told_at_once([
        namespace("r", "team=red"),
        web(),
        pod("r/a@node2", "", "10.244.2.2"),
        pod_with("r/b@node2", "", "10.244.2.3", json!({}), json!({"phase": "Succeeded"})),
        calico("NetworkSet", "r/s", json!({"nets": ["10.1.0.0/16"]})),
        friend("GlobalNetworkSet", "g", json!({"nets": ["10.1.0.0/16", "10.2.0.1"]})),
        calico("Profile", "friendly", json!({"labelsToApply": {"friend": "yes"}})),
        host(
            "h",
            json!({"interfaceName": "eth0", "expectedIPs": ["192.0.2.11"], "profiles": ["friendly"],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}),
        ),
        gnp("p", spec),
    ]);
    let rules = ingress(&fastpath);
    let friends = only(&rules[0].source.as_ref().unwrap().in_all);
    assert_eq!(
        members(&fastpath, friends),
        set_of(&["10.1.0.0/16", "10.2.0.1/32", "10.244.2.2/32", "192.0.2.11/32"])
    );
    let destination: &Entity = rules[1].destination.as_ref().unwrap();
    let http = only(&destination.named_ports);
    assert_eq!(
        members(&fastpath, http),
        set_of(&["10.244.1.2/32,6:8080", "10.244.2.2/32,6:8080", "192.0.2.11/32,6:80"])
    );
    let not = rules[2].source.as_ref().unwrap();
    assert_eq!(
        members(&fastpath, only(&not.in_none)),
        set_of(&["10.1.0.0/16", "10.2.0.1/32", "192.0.2.11/32"])
    );
    assert!(not.in_all.is_empty());
    assert_eq!(
        graph.describe_set(friends).as_deref(),
        Some(r#"selector (friend == "yes" || pcns.team == "red")"#)
    );
    assert_eq!(graph.describe_set(http).as_deref(), Some("named port http/TCP of all()"));
    assert_eq!(graph.describe_set("s:none"), None);
}

#[test]
fn a_service_is_addresses_as_a_source_and_ports_as_a_destination() {
    let service = json!({"services": {"name": "s", "namespace": "y"}});
    let (graph, fastpath) = told_at_once([
        web(),
        slice("y/a@s", &["10.244.1.2", "10.244.1.3"], &[80]),
        slice("y/b@s", &["10.244.1.3"], &[81]),
        slice("y/c@other", &["10.244.1.9"], &[80]),
        calico(
            "NetworkPolicy",
            "x/p",
            json!({
            "ingress": [{"action": "Allow", "source": service}],
            "egress": [{"action": "Allow", "destination": service}]}),
        ),
    ]);
    let policy = fastpath.policies.values().next().unwrap();
    let source = policy.ingress[0].source.as_ref().unwrap();
    assert_eq!(members(&fastpath, only(&source.in_all)), set_of(&["10.244.1.2/32", "10.244.1.3/32"]));
    let destination = policy.egress[0].destination.as_ref().unwrap();
    let ports = only(&destination.named_ports);
    assert_eq!(
        members(&fastpath, ports),
        set_of(&["10.244.1.2/32,6:80", "10.244.1.3/32,6:80", "10.244.1.3/32,6:81"])
    );
    assert!(destination.in_all.is_empty() && source.named_ports.is_empty());
    assert_eq!(graph.describe_set(ports).as_deref(), Some("service y/s"));
}

#[test]
fn a_rule_keeps_every_field() {
    let (_, fastpath) = told_at_once([
        web(),
        gnp(
            "p",
            json!({"ingress": [
                {"action": "Log", "protocol": "ICMP", "icmp": {"type": 8, "code": 1}, "notICMP": {"type": 3}, "ipVersion": 4},
                {"action": "Pass", "notProtocol": 17},
                {"action": "Deny", "protocol": "TCP", "source": {"nets": ["2001:db8::/32"], "notPorts": [80, "90:99", "http"],
                    "selector": "has(app)", "notSelector": "app == 'web'"}},
            ]}),
        ),
    ]);
    let [log, pass, deny] = ingress(&fastpath) else { panic!("three rules") };
    let icmp = |icmp: &Option<caracal_plane_api::Icmp>| icmp.as_ref().map(|icmp| (icmp.r#type, icmp.code));
    assert_eq!((log.action, log.protocol, log.ip_version), (Action::Log.into(), 1, 4));
    assert_eq!((icmp(&log.icmp), icmp(&log.not_icmp)), (Some((8, Some(1))), Some((3, None))));
    assert_eq!((pass.action, pass.protocol, pass.not_protocol), (Action::Pass.into(), 0, 17));
    assert_eq!(deny.ip_version, 6);
    let source = deny.source.as_ref().unwrap();
    let ranges: Vec<(u32, u32)> = source.not_ports.iter().map(|range| (range.first, range.last)).collect();
    assert_eq!(ranges, [(80, 80), (90, 99)]);
    assert_eq!(members(&fastpath, only(&source.not_named_ports)), set_of(&[]), "web is not selected");
    assert_eq!((source.in_all.len(), source.in_none.len()), (2, 0));
}

#[test]
fn configuration_is_resolved_for_this_node() {
    let felix = |name: &str, spec: Value| calico("FelixConfiguration", name, spec);
    let (_, fastpath) = told_at_once([node(1)]);
    let config = fastpath.config.unwrap();
    assert_eq!(config.endpoint_to_host, i32::from(EndpointToHost::Accept));
    assert_eq!((config.failsafe_inbound.len(), config.failsafe_outbound.len()), (9, 9));
    assert!(!config.keep_established && !config.allow_ipip_from_workloads);
    let ssh = caracal_plane_api::Failsafe { protocol: 6, port: 22, net: None };
    assert!(config.failsafe_inbound.contains(&ssh) && !config.failsafe_outbound.contains(&ssh));
    let (_, fastpath) = told_at_once([
        node(1),
        felix("default", json!({"defaultEndpointToHostAction": "Drop", "failsafeInboundHostPorts": []})),
        felix("node.node1", json!({"defaultEndpointToHostAction": "Return"})),
        felix("node.node2", json!({"allowIPIPPacketsFromWorkloads": true})),
    ]);
    let config = fastpath.config.unwrap();
    assert_eq!(config.endpoint_to_host, i32::from(EndpointToHost::Return));
    assert_eq!((config.failsafe_inbound.len(), config.failsafe_outbound.len()), (0, 9));
    assert!(!config.allow_ipip_from_workloads);
}

#[test]
fn the_default_allow_profile_is_there_without_being_written() {
    let (_, fastpath) =
        told_at_once([host("h", json!({"interfaceName": "*", "profiles": ["projectcalico-default-allow"]}))]);
    let profile = &fastpath.profiles["projectcalico-default-allow"];
    let allows = |rules: &[Rule]| rules.len() == 1 && rules[0].action == i32::from(Action::Allow);
    assert!(allows(&profile.ingress) && allows(&profile.egress));
}

#[test]
fn what_is_selected_inherits_from_namespaces_and_service_accounts() {
    let spec = |selector: &str| json!({"ingress": [{"action": "Allow", "source": {"selector": selector}}]});
    let selected = |selector: &str| {
        let (_, fastpath) = told_at_once([
            namespace("r", "team=red"),
            service_account("r", "robot", "role=build"),
            calico_with("NetworkSet", "r/s", "app=set", json!({"nets": ["10.1.0.0/16"]})),
            pod_with("r/a@node2", "", "10.244.2.2", json!({"serviceAccountName": "robot"}), json!({})),
            web(),
            gnp("p", spec(selector)),
        ]);
        members(&fastpath, only(&ingress(&fastpath)[0].source.as_ref().unwrap().in_all))
    };
    assert_eq!(selected("pcns.team == 'red'"), set_of(&["10.1.0.0/16", "10.244.2.2/32"]));
    assert_eq!(selected("app == 'set'"), set_of(&["10.1.0.0/16"]));
    assert_eq!(selected("pcsa.role == 'build'"), set_of(&["10.244.2.2/32"]));
}

#[test]
fn cluster_policies_stand_before_and_behind_those_of_namespaces() {
    let of = |tier: &str| {
        let deny = json!([{"action": "Deny", "from": [{"namespaces": {}}]}]);
        json!({"tier": tier, "priority": 1, "subject": {"namespaces": {}}, "ingress": deny})
    };
    let (_, fastpath) = told_at_once([
        web(),
        cluster_policy("last", of("Baseline")),
        policy("x/k", json!({"podSelector": {}})),
        cluster_policy("first", of("Admin")),
    ]);
    let web = &fastpath.endpoints["x/web"];
    assert_eq!(told(&web.ingress), "kube-admin[first]+ default[k]- kube-baseline[last]+");
}

#[test]
fn what_a_pods_annotations_limit_is_told_and_what_cannot_be_had_is_said_once() {
    let pod = |annotations: Value| {
        let mut pod = web();
        pod.metadata_mut().annotations = serde_json::from_value(annotations).unwrap();
        pod
    };
    let asks = json!({
        "qos.projectcalico.org/ingressBandwidth": "10M", "qos.projectcalico.org/ingressPacketRate": "lots",
        "qos.projectcalico.org/egressMaxConnections": "3", "kubernetes.io/egress-bandwidth": "1M",
    });
    let (mut graph, mut fastpath) = told_at_once([pod(asks.clone())]);
    let limits = |fastpath: &Fastpath| {
        let endpoint = &fastpath.endpoints["x/web"];
        (endpoint.ingress_limits, endpoint.egress_limits)
    };
    let into = Limits { bits_per_second: 10_000_000, ..Limits::default() };
    let out = Limits { bits_per_second: 1_000_000, connections: 3, ..Limits::default() };
    assert_eq!(limits(&fastpath), (Some(into), Some(out)));
    let mut said =
        || graph.take_dropped_limits().into_iter().map(|(pod, what)| format!("{pod} {}", what.field));
    assert!(said().eq(["x/web qos.projectcalico.org/ingressPacketRate".to_owned()]));
    let mut again = pod(asks);
    again.metadata_mut().resource_version = Some("2".into());
    graph.apply(Update::Upsert(again));
    assert_eq!(graph.take_dropped_limits(), []);
    graph.apply(Update::Upsert(pod(json!({}))));
    fastpath.apply(&graph.flush());
    assert_eq!(limits(&fastpath), (None, None));
    assert_eq!(graph.take_dropped_limits(), []);
}
