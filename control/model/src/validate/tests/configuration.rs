//! BGP, and the configuration of nodes and controllers.

use serde_json::{Value, json};

use super::{NOTHING, calico, check, refused};
use crate::object::Object;

fn named(kind: &str, name: &str, spec: Value) -> Vec<String> {
    let mut object = calico(kind, spec);
    object["metadata"]["name"] = json!(name);
    refused(object)
}

#[test]
fn bgp_configurations_are_checked() {
    let prefix = json!([{"cidr": "10.0.0.0/8", "communities": ["a", "1:2", "1:2:3"]}]);
    let community = |value: &str| {
        let named = json!([{"name": "a", "value": value}]);
        json!({"communities": named, "prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["a"]}]})
    };
    check(
        "BGPConfiguration",
        &[
            json!({}),
            json!({"asNumber": 64512, "logSeverityScreen": "info", "listenPort": 179, "bindMode": "NodeIP"}),
            json!({"asNumber": "1.10"}),
            json!({"asNumber": 4_294_967_295_u64}),
            json!({"communities": [{"name": "a", "value": "65535:0"}], "prefixAdvertisements": prefix}),
            community("4294967295:1:2"),
            json!({"serviceClusterIPs": [{"cidr": "10.96.0.0/12"}], "serviceExternalIPs": [{"cidr": "fd00::/64"}]}),
            json!({"ignoredInterfaces": ["cali*", "eth0"]}),
            json!({"nodeMeshPassword": {"secretKeyRef": {"name": "s", "key": "k"}}, "nodeMeshMaxRestartTime": "2m"}),
            json!({"localWorkloadPeeringIPV4": "192.0.2.1", "localWorkloadPeeringIPV6": "2001:db8::1"}),
            json!({"programClusterRoutes": "EnabledIPIPOnly", "ipv4NormalRoutePriority": 1}),
        ],
        &[
            (json!({"asNumber": "1.65536"}), &["asNumber"]),
            (json!({"asNumber": -1}), &["asNumber"]),
            (json!({"asNumber": 4_294_967_296_u64}), &["asNumber"]),
            (json!({"logSeverityScreen": "Loud"}), &["logSeverityScreen"]),
            (json!({"listenPort": 0}), &["listenPort"]),
            (json!({"bindMode": "Any"}), &["bindMode"]),
            (json!({"serviceLoadBalancerAggregation": "On"}), &["serviceLoadBalancerAggregation"]),
            (json!({"programClusterRoutes": "Yes"}), &["programClusterRoutes"]),
            (json!({"ipv4NormalRoutePriority": 0}), &["ipv4NormalRoutePriority"]),
            (json!({"ipv6NormalRoutePriority": 2_147_483_647}), &["ipv6NormalRoutePriority"]),
            (json!({"serviceLoadBalancerIPs": [{"cidr": "10.0.0.1"}]}), &["serviceLoadBalancerIPs[0].cidr"]),
            (json!({"communities": [{"name": "a", "value": "1:2"}]}), &["communities"]),
            (community("65536:1"), &["communities[0].value"]),
            (community("1"), &["communities[0].value"]),
            (community("1:2:4294967296"), &["communities[0].value"]),
            (
                json!({"prefixAdvertisements": [{"cidr": "10", "communities": ["b"]}]}),
                &["prefixAdvertisements[0].cidr", "prefixAdvertisements[0].communities[0]"],
            ),
            (
                json!({"ignoredInterfaces": ["*", "a b", "sixteen-chars-xx"]}),
                &["ignoredInterfaces[0]", "ignoredInterfaces[1]", "ignoredInterfaces[2]"],
            ),
            (
                json!({"nodeToNodeMeshEnabled": false, "nodeMeshMaxRestartTime": "2m"}),
                &["nodeMeshMaxRestartTime"],
            ),
            (json!({"nodeMeshMaxRestartTime": "2 minutes"}), &["nodeMeshMaxRestartTime"]),
            (
                json!({"nodeMeshPassword": {"secretKeyRef": {"name": "s"}}}),
                &["nodeMeshPassword.secretKeyRef.key"],
            ),
            (json!({"localWorkloadPeeringIPV4": "2001:db8::1"}), &["localWorkloadPeeringIPV4"]),
        ],
    );
    assert_eq!(named("BGPConfiguration", "node.n1", json!({"listenPort": 180})), NOTHING);
    assert_eq!(named("BGPConfiguration", "other", json!({})), ["metadata.name"]);
    let mesh = json!({"nodeMeshMaxRestartTime": "2m"});
    assert_eq!(named("BGPConfiguration", "node.n1", mesh), ["spec.nodeMeshMaxRestartTime"]);
}

#[test]
fn bgp_peers_are_checked() {
    check(
        "BGPPeer",
        &[
            json!({"peerIP": "192.0.2.1", "asNumber": 64513}),
            json!({"peerIP": "192.0.2.1:1790", "asNumber": "64513", "node": "n1"}),
            json!({"peerIP": "2001:db8::1", "asNumber": 1, "reachableBy": "2001:db8::2"}),
            json!({"peerIP": "[2001:db8::1]:179", "asNumber": 1, "nextHopMode": "Self"}),
            json!({"nodeSelector": "a == 'b'", "peerSelector": "has(rr)", "reversePeering": "Manual"}),
            json!({"localWorkloadSelector": "a == 'b'", "asNumber": 1, "filters": ["a"]}),
            json!({"peerIP": "192.0.2.1", "keepOriginalNextHop": true, "maxRestartTime": "1m30s", "ttlSecurity": 1}),
        ],
        &[
            (json!({"peerIP": "192.0.2"}), &["peerIP"]),
            (json!({"peerIP": "192.0.2.1:0"}), &["peerIP"]),
            (json!({"peerIP": "192.0.2.1:65536"}), &["peerIP"]),
            (json!({"peerIP": "fe80::1%eth0"}), &["peerIP"]),
            (json!({"peerIP": "[fe80::1%1]:179"}), &["peerIP"]),
            (json!({"node": "n", "nodeSelector": "all()"}), &["nodeSelector"]),
            (json!({"peerIP": "192.0.2.1", "peerSelector": "all()"}), &["peerSelector"]),
            (json!({"peerSelector": "all()", "asNumber": 1}), &["asNumber"]),
            (json!({"peerSelector": "all("}), &["peerSelector"]),
            (json!({"localWorkloadSelector": "all()"}), &["asNumber"]),
            (json!({"localWorkloadSelector": "all()", "asNumber": 1, "peerIP": "192.0.2.1"}), &["peerIP"]),
            (json!({"reachableBy": "192.0.2.1"}), &["reachableBy"]),
            (json!({"peerIP": "192.0.2.1", "reachableBy": "2001:db8::1"}), &["reachableBy"]),
            (json!({"peerIP": "192.0.2.1", "reachableBy": "here"}), &["reachableBy"]),
            (json!({"keepOriginalNextHop": true, "nextHopMode": "Keep"}), &["keepOriginalNextHop"]),
            (json!({"nextHopMode": "self"}), &["nextHopMode"]),
            (json!({"sourceAddress": "Any"}), &["sourceAddress"]),
            (json!({"reversePeering": "No"}), &["reversePeering"]),
            (json!({"keepaliveTime": "10"}), &["keepaliveTime"]),
            (json!({"ttlSecurity": 256}), &["ttlSecurity"]),
            (json!({"password": {"secretKeyRef": {}}}), &["password.secretKeyRef.key"]),
            (json!({"filters": ["A"]}), &["filters[0]"]),
            (json!({"node": "n".repeat(254)}), &["node"]),
        ],
    );
}

#[test]
fn bgp_filters_are_checked() {
    let v4 = |rule: Value| json!({"exportV4": [rule]});
    let operations = |operations: Value| v4(json!({"action": "Accept", "operations": operations}));
    let set = json!({"setPriority": {"value": 1}});
    check(
        "BGPFilter",
        &[
            v4(json!({"action": "Accept"})),
            v4(
                json!({"action": "Reject", "cidr": "10.0.0.0/8", "matchOperator": "In", "prefixLength": {"min": 16}}),
            ),
            json!({"importV6": [{"action": "Reject", "cidr": "fd00::/8", "matchOperator": "In", "prefixLength": {"max": 128}}]}),
            v4(json!({"action": "Accept", "source": "RemotePeers", "interface": "eth*", "peerType": "eBGP"})),
            v4(
                json!({"action": "Accept", "communities": {"values": ["1:2"]}, "asPathPrefix": [64512], "priority": 1}),
            ),
            operations(
                json!([{"addCommunity": {"value": "1:2:3"}}, {"prependASPath": {"prefix": [1, 2]}}, set]),
            ),
        ],
        &[
            (v4(json!({})), &["exportV4[0].action"]),
            (v4(json!({"action": "Allow"})), &["exportV4[0].action"]),
            (v4(json!({"action": "Accept", "cidr": "10.0.0.0/8"})), &["exportV4[0].matchOperator"]),
            (v4(json!({"action": "Accept", "matchOperator": "In"})), &["exportV4[0].cidr"]),
            (
                v4(json!({"action": "Accept", "cidr": "fd00::/8", "matchOperator": "In"})),
                &["exportV4[0].cidr"],
            ),
            (
                v4(json!({"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "Is"})),
                &["exportV4[0].matchOperator"],
            ),
            (v4(json!({"action": "Accept", "prefixLength": {"min": 8}})), &["exportV4[0].prefixLength"]),
            (
                v4(
                    json!({"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "In", "prefixLength": {"max": 33}}),
                ),
                &["exportV4[0].prefixLength.max"],
            ),
            (v4(json!({"action": "Accept", "source": "Local"})), &["exportV4[0].source"]),
            (v4(json!({"action": "Accept", "interface": "a/b"})), &["exportV4[0].interface"]),
            (v4(json!({"action": "Accept", "peerType": "EBGP"})), &["exportV4[0].peerType"]),
            (
                v4(json!({"action": "Accept", "communities": {"values": []}})),
                &["exportV4[0].communities.values"],
            ),
            (
                v4(json!({"action": "Accept", "communities": {"values": ["1"]}})),
                &["exportV4[0].communities.values[0]"],
            ),
            (v4(json!({"action": "Accept", "priority": 0})), &["exportV4[0].priority"]),
            (v4(json!({"action": "Reject", "operations": [set]})), &["exportV4[0].operations"]),
            (operations(json!([])), &["exportV4[0].operations"]),
            (operations(json!(vec![set.clone(); 11])), &["exportV4[0].operations"]),
            (operations(json!([{}])), &["exportV4[0].operations[0]"]),
            (
                operations(json!([{"setPriority": {"value": 1}, "addCommunity": {"value": "1:2"}}])),
                &["exportV4[0].operations[0]"],
            ),
            (operations(json!([{"addCommunity": {}}])), &["exportV4[0].operations[0].addCommunity.value"]),
            (
                operations(json!([{"prependASPath": {"prefix": []}}])),
                &["exportV4[0].operations[0].prependASPath.prefix"],
            ),
            (
                operations(json!([{"setPriority": {"value": 0}}])),
                &["exportV4[0].operations[0].setPriority.value"],
            ),
        ],
    );
}

#[test]
fn node_statuses_and_cluster_information_are_checked() {
    check(
        "CalicoNodeStatus",
        &[json!({"node": "n", "classes": ["Agent", "BGP", "Routes"], "updatePeriodSeconds": 0})],
        &[
            (json!({}), &["node", "classes"]),
            (json!({"node": "n", "classes": ["bgp"]}), &["classes[0]"]),
            (json!({"node": "n", "classes": ["BGP", "BGP"]}), &["classes[1]"]),
            (
                json!({"node": "n", "classes": ["BGP"], "updatePeriodSeconds": 86401}),
                &["updatePeriodSeconds"],
            ),
        ],
    );
    check("ClusterInformation", &[json!({"datastoreReady": true})], &[(json!({"ready": true}), &["ready"])]);
    assert_eq!(named("ClusterInformation", "other", json!({})), ["metadata.name"]);
}

#[test]
fn configurations_of_controllers_are_checked() {
    let node = |node: Value| json!({"controllers": {"node": node}});
    let template = |template: Value| node(json!({"hostEndpoint": {"templates": [template]}}));
    check(
        "KubeControllersConfiguration",
        &[
            json!({"controllers": {}}),
            json!({"controllers": {"policy": {"reconcilerPeriod": "5m"}, "loadBalancer": {"assignIPs": "AllServices"}}}),
            node(
                json!({"leakGracePeriod": "0s", "syncLabels": "Enabled", "hostEndpoint": {"autoCreate": "Enabled"}}),
            ),
            template(
                json!({"interfaceCIDRs": ["10.0.0.0/8"], "nodeSelector": "has(a)", "labels": {"a": "b"}}),
            ),
        ],
        &[
            (json!({}), &["controllers"]),
            (json!({"controllers": {}, "logSeverityScreen": "info"}), &["logSeverityScreen"]),
            (json!({"controllers": {}, "healthChecks": "On"}), &["healthChecks"]),
            (json!({"controllers": {}, "etcdV3CompactionPeriod": "10"}), &["etcdV3CompactionPeriod"]),
            (json!({"controllers": {}, "prometheusMetricsPort": 65536}), &["prometheusMetricsPort"]),
            (json!({"controllers": {}, "debugProfilePort": -1}), &["debugProfilePort"]),
            (json!({"controllers": {"nodes": {}}}), &["controllers.nodes"]),
            (
                json!({"controllers": {"namespace": {"reconcilerPeriod": "often"}}}),
                &["controllers.namespace.reconcilerPeriod"],
            ),
            (
                json!({"controllers": {"loadBalancer": {"assignIPs": "All"}}}),
                &["controllers.loadBalancer.assignIPs"],
            ),
            (
                json!({"controllers": {"migration": {"policyNameMigrator": "Yes"}}}),
                &["controllers.migration.policyNameMigrator"],
            ),
            (node(json!({"syncLabels": "Yes"})), &["controllers.node.syncLabels"]),
            (node(json!({"leakGracePeriod": "x"})), &["controllers.node.leakGracePeriod"]),
            (
                node(json!({"hostEndpoint": {"createDefaultHostEndpoint": "No"}})),
                &["controllers.node.hostEndpoint.createDefaultHostEndpoint"],
            ),
            (
                template(json!({"interfaceCIDRs": ["10"], "nodeSelector": "a", "labels": {"a": "b c"}})),
                &[
                    "controllers.node.hostEndpoint.templates[0].interfaceCIDRs[0]",
                    "controllers.node.hostEndpoint.templates[0].nodeSelector",
                    "controllers.node.hostEndpoint.templates[0].labels",
                ],
            ),
        ],
    );
    assert_eq!(named("KubeControllersConfiguration", "x", json!({"controllers": {}})), ["metadata.name"]);
    let defaulted =
        Object::accept(calico("KubeControllersConfiguration", json!({"controllers": {"loadBalancer": {}}})));
    let value = defaulted.unwrap().to_value();
    assert_eq!(value["spec"]["controllers"]["loadBalancer"]["assignIPs"], "AllServices");
}

#[test]
fn every_field_of_a_node_configuration_has_its_type() {
    check(
        "FelixConfiguration",
        &[
            json!({}),
            json!({"bpfEnabled": true, "vxlanVNI": 4096, "vxlanPort": 4789, "interfacePrefix": "cali,tap"}),
            json!({"defaultEndpointToHostAction": "Accept", "iptablesRefreshInterval": "1m30s"}),
            json!({"defaultEndpointToHostAction": "ACCEPT", "logSeverityScreen": "debug"}),
            json!({"failsafeInboundHostPorts": [{"protocol": "tcp", "port": 22, "net": "10.0.0.0/8"}, {"port": 1}]}),
            json!({"failsafeInboundHostPorts": [], "failsafeOutboundHostPorts": "none"}),
            json!({"natPortRange": 0, "bpfPSNATPorts": "20000:29999", "kubeNodePortRanges": ["30000:32767", 80]}),
            json!({"iptablesMarkMask": 4_294_901_760_u32, "nftablesMarkMask": "0xffff0000"}),
            json!({"routeTableRange": {"min": 1, "max": 250}, "routeTableRanges": [{"min": 5, "max": 5}]}),
            json!({"healthTimeoutOverrides": [{"name": "a", "timeout": "30s"}]}),
            json!({"featureDetectOverride": "ChecksumOffloadBroken=true,", "featureGates": "A=b,C=d"}),
            json!({"logActionRateLimit": "10/minute", "logActionRateLimitBurst": 9999, "logPrefix": "a %t: /_-"}),
            json!({"bpfConntrackTimeouts": {"tcpEstablished": "1h", "tcpFinsSeen": "Auto"}}),
            json!({"bpfConntrackTimeouts": "TCPEstablished=1h,TCPFinsSeen=Auto", "bpfLogFilters": {"all": "tcp"}}),
            json!({"bpfDSROptoutCIDRs": ["10.0.0.0/8"], "externalNodesList": ["192.0.2.1"], "istioDSCPMark": 23}),
            json!({"deviceRouteProtocol": 80, "goGCThreshold": -1, "floatingIPs": "Enabled", "nodeSelector": "has(a)"}),
            json!({"vxlanMTU": null}),
        ],
        &[
            (json!({"bpfEnabledd": true}), &["bpfEnabledd"]),
            (json!({"FailsafeInboundHostPorts": []}), &["FailsafeInboundHostPorts"]),
            (json!({"etcdAddr": "127.0.0.1:2379"}), &["etcdAddr"]),
            (json!({"bpfEnabled": "true"}), &["bpfEnabled"]),
            (json!({"vxlanVNI": "4096"}), &["vxlanVNI"]),
            (json!({"vxlanMTU": 1450.5}), &["vxlanMTU"]),
            (json!({"healthPort": 65536}), &["healthPort"]),
            (json!({"ipv4ElevatedRoutePriority": 0}), &["ipv4ElevatedRoutePriority"]),
            (json!({"bpfMaglevMaxServices": 3001}), &["bpfMaglevMaxServices"]),
            (json!({"goMaxProcs": -2}), &["goMaxProcs"]),
            (json!({"interfacePrefix": 7}), &["interfacePrefix"]),
            (json!({"defaultEndpointToHostAction": "Allow"}), &["defaultEndpointToHostAction"]),
            (json!({"floatingIPs": "enabled"}), &["floatingIPs"]),
            (json!({"chainInsertMode": true}), &["chainInsertMode"]),
            (json!({"iptablesRefreshInterval": 90}), &["iptablesRefreshInterval"]),
            (json!({"iptablesRefreshInterval": "90"}), &["iptablesRefreshInterval"]),
            (json!({"failsafeInboundHostPorts": "tcp:22"}), &["failsafeInboundHostPorts"]),
            (
                json!({"failsafeOutboundHostPorts": [{"protocol": "icmp", "port": 0, "net": "x", "ports": 1}, {}, 7]}),
                &[
                    "failsafeOutboundHostPorts[0].ports",
                    "failsafeOutboundHostPorts[0].protocol",
                    "failsafeOutboundHostPorts[0].port",
                    "failsafeOutboundHostPorts[0].net",
                    "failsafeOutboundHostPorts[1].port",
                    "failsafeOutboundHostPorts[2]",
                ],
            ),
            (json!({"natPortRange": "90:80"}), &["natPortRange"]),
            (json!({"natPortRange": "http"}), &["natPortRange"]),
            (json!({"kubeNodePortRanges": ["x"]}), &["kubeNodePortRanges[0]"]),
            (json!({"iptablesMarkMask": 1}), &["iptablesMarkMask"]),
            (json!({"nftablesMarkMask": "0xfffffffff"}), &["nftablesMarkMask"]),
            (json!({"routeTableRange": {"min": 2, "max": 1}}), &["routeTableRange.max"]),
            (json!({"routeTableRanges": [{"max": 1}]}), &["routeTableRanges[0].min"]),
            (
                json!({"healthTimeoutOverrides": [{"name": 1, "timeout": "x"}]}),
                &["healthTimeoutOverrides[0].name", "healthTimeoutOverrides[0].timeout"],
            ),
            (json!({"featureDetectOverride": "A=yes"}), &["featureDetectOverride"]),
            (json!({"featureGates": "A"}), &["featureGates"]),
            (json!({"logActionRateLimit": "0/minute"}), &["logActionRateLimit"]),
            (json!({"logActionRateLimit": "10/week"}), &["logActionRateLimit"]),
            (json!({"logActionRateLimitBurst": 10000}), &["logActionRateLimitBurst"]),
            (json!({"logPrefix": "a;b"}), &["logPrefix"]),
            (
                json!({"bpfConntrackTimeouts": {"tcpEstablished": "1"}}),
                &["bpfConntrackTimeouts.tcpEstablished"],
            ),
            (json!({"bpfConntrackTimeouts": "TCPEstablished"}), &["bpfConntrackTimeouts"]),
            (json!({"bpfExcludeCIDRsFromNAT": ["10"]}), &["bpfExcludeCIDRsFromNAT[0]"]),
            (json!({"nodeSelector": "a"}), &["nodeSelector"]),
        ],
    );
}

#[test]
fn a_node_configuration_says_which_nodes_it_is_for() {
    assert_eq!(named("FelixConfiguration", "default", json!({})), NOTHING);
    assert_eq!(named("FelixConfiguration", "node.n1", json!({})), NOTHING);
    assert_eq!(named("FelixConfiguration", "racks", json!({"nodeSelector": "has(rack)"})), NOTHING);
    assert_eq!(named("FelixConfiguration", "racks", json!({})), ["spec.nodeSelector"]);
    assert_eq!(named("FelixConfiguration", "node.", json!({})), ["metadata.name", "spec.nodeSelector"]);
    let annotated = |value: &str| {
        let mut object = calico("FelixConfiguration", json!({}));
        object["metadata"]["annotations"] = json!({"projectcaracal.org/establishedFlows": value});
        refused(object)
    };
    assert_eq!(annotated("Keep"), NOTHING);
    assert_eq!(annotated("keep"), ["metadata.annotations[projectcaracal.org/establishedFlows]"]);
}
