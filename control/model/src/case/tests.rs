use super::*;
use crate::convert::{node_info, pod_endpoint};
use crate::object::{Kind, Object};

mod services;

const FULL: &str = r#"
name: allow-frontend-to-backend
description: The whole form.
objects:
  - {apiVersion: v1, kind: Namespace, metadata: {name: production, labels: {env: prod}}}
  - apiVersion: v1
    kind: Pod
    metadata: {name: backend, namespace: production, labels: {app: backend}}
    spec:
      nodeName: node1
      containers: [{name: c, image: any, ports: [{name: http, containerPort: 8080, protocol: TCP}]}]
    status: {podIPs: [{ip: 10.244.1.2}]}
  - {apiVersion: v1, kind: Pod, metadata: {name: frontend, namespace: production}, spec: {containers: [{name: c}]}}
  - {apiVersion: v1, kind: Service, metadata: {name: web, namespace: production}, spec: {selector: {app: backend}, ports: [{name: web, port: 80, targetPort: http}]}}
  - {apiVersion: projectcalico.org/v3, kind: HostEndpoint, metadata: {name: eth0-node1}, spec: {node: node1, interfaceName: eth0}}
  - apiVersion: networking.k8s.io/v1
    kind: NetworkPolicy
    metadata: {name: bad, namespace: production}
    spec: {podSelector: {}, ingress: [{ports: [{port: 80, endPort: 79}]}]}
externals:
  - {name: client, ip: 203.0.113.7}
flows:
  - {from: production/frontend, to: production/backend, protocol: TCP, port: 8080, expect: allow}
  - {from: production/frontend, to: production/backend, protocol: TCP, port: http, sourcePort: 1234, expect: allow}
  - {from: external/client, to: production/backend, protocol: UDP, port: 53, expect: deny, timeout_ms: 200}
  - {from: production/frontend, to: 198.51.100.7, protocol: ICMP, icmp: {type: 8, code: 0}, expect: allow}
  - {from: production/frontend, to: service/production/web, protocol: TCP, port: 80, expect: allow}
  - {from: node/node1, to: production/backend, protocol: 132, port: 9, expect: allow}
hostFlows:
  - {hostEndpoint: eth0-node1, path: to-host, protocol: TCP, from: 203.0.113.7, to: 192.0.2.1, port: 22, expect: allow-untracked}
rejects:
  - {kind: NetworkPolicy, namespace: production, name: bad, field: "spec.ingress[0].ports[0].endPort"}
lab: {workers: 2, uplinkMTU: 9000, flows: 4096, podPort: packet, kernelNodes: [node2], startup: true}
"#;

fn world(text: &str) -> World {
    Case::parse(text).unwrap().world().unwrap()
}

fn world_error(text: &str) -> WorldError {
    Case::parse(text).unwrap().world().unwrap_err()
}

/// A case with these objects, in flow style.
fn with_objects(objects: &[&str]) -> String {
    let objects: Vec<String> = objects.iter().map(|object| format!("  - {object}\n")).collect();
    format!("name: t\nobjects:\n{}", objects.concat())
}

fn pod(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{containers: [{{name: c}}]{spec}}}}}"
    )
}

#[test]
fn the_whole_form_is_read() {
    let case = Case::parse(FULL).unwrap();
    assert_eq!(case.objects.len(), 6);
    assert_eq!(case.objects[5].key.to_string(), "NetworkPolicy production/bad");
    assert_eq!(case.flows[1].port, Some(PortReference::Name("http".to_owned())));
    assert_eq!(case.flows[1].source_port, Some(1234));
    assert_eq!((case.flows[0].timeout_ms, case.flows[2].timeout_ms), (1000, 200));
    assert_eq!(case.flows[0].line, 23);
    assert_eq!(case.flows[5].protocol, Protocol::SCTP);
    assert_eq!(case.host_flows[0].expect, Expect::AllowUntracked);
    assert_eq!(
        case.lab,
        LabOptions {
            workers: Some(2),
            uplink_mtu: Some(9000),
            flows: Some(4096),
            pod_port: PodPort::Packet,
            kernel_nodes: vec!["node2".to_owned()],
            startup: true,
        }
    );
}

#[test]
fn the_world_of_the_whole_form_is_complete() {
    let world = world(FULL);
    let keys: Vec<String> = world.objects.iter().map(|object| object.key().to_string()).collect();
    assert_eq!(
        keys,
        [
            "Namespace production",
            "Node node1",
            "Node node2",
            "Pod production/backend",
            "Pod production/frontend",
            "Service production/web",
            "EndpointSlice production/web-5dc89c8bb1",
            "HostEndpoint eth0-node1",
            "IPPool default-ipv4-ippool",
        ]
    );
    assert!(world.objects.iter().all(|object| object.validate().is_empty()));
    assert_eq!(world.refused.len(), 1);
    assert!(world.refused[0].is_refused(), "{:?}", world.refused[0].errors);
    assert!(world.nodes[1].kernel);
    let ports: Vec<Option<u16>> = world.flows.iter().map(|flow| flow.destination_port).collect();
    assert_eq!(ports, [Some(8080), Some(8080), Some(53), None, Some(80), Some(9)]);
    let externals: Vec<&str> = world.externals.iter().map(|external| external.name.as_str()).collect();
    assert_eq!(externals, ["client", "198.51.100.7"]);
    let to_service = &world.flows[4];
    assert_eq!((to_service.destination, to_service.service), (Place::Service(0), Some(0)));
    assert_eq!(to_service.destination_address.to_string(), "10.96.1.0");
    assert_eq!(world.services[0].key.name, "web");
    assert_eq!(world.flows[5].source, Place::Node(0));
    assert_eq!(
        world.flows[5].source_address.to_string(),
        "10.244.1.0",
        "the host speaks from its tunnel address"
    );
}

#[test]
fn errors_name_the_line_and_the_field() {
    let flow = |flow: &str| format!("name: t\nflows:\n  - {{{flow}}}\n");
    let good = "from: a/b, to: a/c, protocol: TCP, port: 80, expect: allow";
    assert!(Case::parse(&flow(good)).is_ok());
    let cases = [
        (String::new(), 1, ""),
        ("- a\n".to_owned(), 1, ""),
        ("name: t\n---\nname: u\n".to_owned(), 3, ""),
        ("objects: []\n".to_owned(), 1, "name"),
        ("name: t\nflow: []\n".to_owned(), 2, "flow"),
        ("name: t\nobjects:\n  - 7\n".to_owned(), 3, "objects[0]"),
        ("name: t\nobjects:\n  - kind: Pod\n    apiVersion: v7\n".to_owned(), 3, "objects[0].kind"),
        ("name: t\nobjects:\n  - kind: Pod\n".to_owned(), 3, "objects[0].apiVersion"),
        (flow(&good.replace("a/b", "a")), 3, "flows[0].from"),
        (flow(&good.replace("a/b", "a/b/c")), 3, "flows[0].from"),
        (flow(&good.replace("a/b", "/b")), 3, "flows[0].from"),
        (flow(&good.replace("a/b", "service/x/y")), 3, "flows[0].from"),
        (flow(&good.replace("to: a/c, ", "")), 3, "flows[0].to"),
        (flow(&good.replace("TCP", "tcp")), 3, "flows[0].protocol"),
        (flow(&good.replace("port: 80, ", "")), 3, "flows[0].port"),
        (flow(&good.replace("80", "0")), 3, "flows[0].port"),
        (flow(&good.replace("80", "65536")), 3, "flows[0].port"),
        (flow(&good.replace("80", "{}")), 3, "flows[0].port"),
        (flow(&good.replace("TCP", "ICMP")), 3, "flows[0].port"),
        (flow(&good.replace("port: 80", "port: 80, icmp: {type: 8}")), 3, "flows[0].icmp"),
        (flow(&good.replace("TCP, port: 80", "ICMP, icmp: {type: 256}")), 3, "flows[0].icmp.type"),
        (flow(&good.replace("TCP, port: 80", "ICMP, icmp: {kind: 8}")), 3, "flows[0].icmp.type"),
        (flow(&good.replace("allow", "accept")), 3, "flows[0].expect"),
        (flow(&good.replace("allow", "allow-untracked")), 3, "flows[0].expect"),
        (flow(&format!("{good}, ipVersion: 5")), 3, "flows[0].ipVersion"),
        (flow(&format!("{good}, timeout: 5")), 3, "flows[0].timeout"),
        ("name: t\nrejects:\n  - {kind: Teir, name: x, field: y}\n".to_owned(), 3, "rejects[0].kind"),
        ("name: t\nlab: {worker: 2}\n".to_owned(), 2, "lab.worker"),
        ("name: t\nexternals: [{name: a, ip: b}]\n".to_owned(), 2, "externals[0].ip"),
    ];
    for (text, line, field) in cases {
        let error = Case::parse(&text).unwrap_err();
        assert_eq!((error.line, error.field.as_str()), (line, field), "{error}\n{text}");
    }
}

#[test]
fn an_object_given_twice_is_an_error() {
    let namespace = "{apiVersion: v1, kind: Namespace, metadata: {name: a}}";
    let error = Case::parse(&with_objects(&[namespace, namespace])).unwrap_err();
    assert_eq!((error.line, error.field.as_str()), (4, "objects[1]"));
    assert!(error.message.contains("line 3"), "{error}");
}

#[test]
fn an_object_that_the_api_refuses_makes_the_case_an_error() {
    let error = world_error(&with_objects(&[
        "{apiVersion: v1, kind: Namespace, metadata: {name: a}}",
        "apiVersion: networking.k8s.io/v1\n    kind: NetworkPolicy\n    metadata: {name: p}\n    spec:\n      ingress:\n      - ports:\n        - port: 80\n          endPort: 79",
    ]));
    assert_eq!(
        (error.line, error.field.as_str()),
        (11, "objects[1].spec.ingress[0].ports[0].endPort"),
        "{error}"
    );
    let error =
        world_error(&with_objects(&["{apiVersion: v1, kind: Namespace, metadata: {name: a}, spce: {}}"]));
    assert_eq!((error.line, error.field.as_str()), (3, "objects[0].spce"), "{error}");
}

#[test]
fn a_reject_must_be_about_an_object_and_may_fail() {
    let text = with_objects(&["{apiVersion: v1, kind: Namespace, metadata: {name: a}}"]);
    let none = format!("{text}rejects: [{{kind: Namespace, name: b, field: metadata.name}}]\n");
    assert_eq!(world_error(&none).field, "rejects[0]");
    let good = format!("{text}rejects: [{{kind: Namespace, name: a, field: metadata.name}}]\n");
    assert!(!world(&good).refused[0].is_refused(), "a valid object is not refused");
    let unknown = text.replace("metadata:", "spce: {}, metadata:");
    let unknown = format!("{unknown}rejects: [{{kind: Namespace, name: a, field: spce}}]\n");
    assert!(world(&unknown).refused[0].is_refused(), "strict decoding refuses, too");
}

#[test]
fn there_are_two_nodes_unless_others_are_named() {
    let names = |text: &str| -> Vec<String> { world(text).nodes.into_iter().map(|node| node.name).collect() };
    let on = |node: &str| pod("a", &format!(", nodeName: {node}"));
    assert_eq!(names("name: t\n"), ["node1", "node2"]);
    assert_eq!(names(&with_objects(&[&on("node2")])), ["node1", "node2"]);
    assert_eq!(names(&with_objects(&[&on("node3")])), ["node3"]);
    assert_eq!(names(&with_objects(&[&on("worker-a")])), ["worker-a"]);
    let node3 = "{apiVersion: v1, kind: Node, metadata: {name: node3}}";
    assert_eq!(
        names(&with_objects(&[node3, &on("node1"), &pod("b", ", nodeName: x")])),
        ["node1", "x", "node3"]
    );
    assert_eq!(
        names("name: t\nflows: [{from: node/n, to: 1.2.3.4, protocol: ICMP, expect: allow}]\n"),
        ["n"]
    );
}

#[test]
fn nodes_have_the_default_addresses() {
    let world = world("name: t\n");
    let node = &world.nodes[1];
    assert_eq!(node.address.to_string(), "192.0.2.12");
    assert_eq!(node.subnet.to_string(), "192.0.2.0/24");
    assert_eq!(node.router.to_string(), "192.0.2.254");
    assert_eq!(node.pod_cidr.to_string(), "10.244.2.0/24");
    assert_eq!(node.tunnel_address.to_string(), "10.244.2.0");
    let Object::Node(object) = &world.objects[1] else { panic!("{:?}", world.objects[1]) };
    let info = node_info(object);
    assert_eq!(info.address, Some(node.address));
    assert_eq!(info.subnet, Some(node.subnet));
    assert_eq!(info.vxlan_tunnel_address, Some(node.tunnel_address));
    assert_eq!(info.pod_cidrs, [node.pod_cidr]);
    let value = world.objects[1].to_value();
    assert_eq!(value["spec"]["podCIDR"], "10.244.2.0/24");
    assert_eq!(value["status"]["addresses"][0]["address"], "192.0.2.12");
}

#[test]
fn nodes_may_be_given_other_addresses_and_subnets() {
    let node = |name: &str, address: &str, block: &str| {
        format!(
            "{{apiVersion: v1, kind: Node, metadata: {{name: {name}, annotations: {{projectcalico.org/IPv4Address: {address}}}}}, spec: {{podCIDR: {block}}}}}"
        )
    };
    let world = world(&with_objects(&[
        &node("node1", "198.51.100.20/26", "10.5.0.0/26"),
        &node("node2", "192.0.2.12/24", "10.6.0.0/26"),
        &pod("a", ", nodeName: node1"),
    ]));
    assert_eq!(world.nodes[0].subnet.to_string(), "198.51.100.0/26");
    assert_eq!(world.nodes[0].router.to_string(), "198.51.100.62");
    assert_eq!(world.nodes[0].tunnel_address.to_string(), "10.5.0.0");
    assert_eq!(world.pods[0].addresses[0].to_string(), "10.5.0.2");
    let same =
        with_objects(&[&node("a", "192.0.2.1/24", "10.5.0.0/26"), &node("b", "192.0.2.1/24", "10.6.0.0/26")]);
    assert!(world_error(&same).message.contains("192.0.2.1"));
    let overlap =
        with_objects(&[&node("a", "192.0.2.1/24", "10.5.0.0/16"), &node("b", "192.0.2.2/24", "10.5.0.0/26")]);
    assert_eq!(world_error(&overlap).field, "objects[1].spec.podCIDR");
}

#[test]
fn pods_are_spread_over_the_nodes_and_counted_up() {
    let given = |name: &str, ip: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{nodeName: node1, containers: [{{name: c}}]}}, status: {{podIPs: [{{ip: {ip}}}]}}}}"
        )
    };
    let world = world(&with_objects(&[
        &pod("a", ""),
        &given("b", "10.244.1.3"),
        &pod("c", ""),
        &pod("d", ""),
        &given("e", "10.99.0.1"),
        &pod("f", ", nodeName: node1"),
    ]));
    let placed: Vec<String> =
        world.pods.iter().map(|pod| format!("{} {} {}", pod.name, pod.node, pod.addresses[0])).collect();
    assert_eq!(
        placed,
        [
            "a 0 10.244.1.2",
            "b 0 10.244.1.3",
            "c 1 10.244.2.2",
            "d 0 10.244.1.4",
            "e 0 10.99.0.1",
            "f 0 10.244.1.5"
        ]
    );
    let Some(Object::Pod(a)) = world.objects.iter().find(|object| object.key().kind == Kind::Pod) else {
        panic!()
    };
    let endpoint = pod_endpoint(a).unwrap();
    assert_eq!(endpoint.addresses, world.pods[0].addresses);
    assert_eq!(endpoint.interface, world.pods[0].interface);
    assert_eq!(endpoint.node, "node1");
    let twice = with_objects(&[&given("a", "10.244.1.9"), &given("b", "10.244.1.9")]);
    assert_eq!(world_error(&twice).field, "objects[1].status.podIPs");
}

fn told(world: &World, name: &str) -> Vec<String> {
    let node = world.objects.iter().find(|object| object.kind() == Kind::Node && object.key().name == name);
    let annotations = node.unwrap().metadata().annotations.clone().unwrap();
    let short = |key: &str| key.trim_start_matches("projectcalico.org/").to_owned();
    annotations.iter().map(|(key, value)| format!("{} {value}", short(key))).collect()
}

fn pool(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {{name: {name}}}, spec: {{{spec}}}}}"
    )
}

#[test]
fn without_a_pool_there_is_one_of_vxlan_and_addresses_outside_bring_their_own() {
    let given = pod("e", "").replace(
        "spec: {",
        "status: {podIPs: [{ip: 10.99.0.1}, {ip: \"fd00:1::2\"}]}, spec: {nodeName: node1, ",
    );
    let world = world(&with_objects(&[&given]));
    let pools: Vec<String> = world.pools.iter().map(|pool| pool.cidr.to_string()).collect();
    assert_eq!(pools, ["10.244.0.0/16", "fd00:10:244::/48", "10.99.0.0/16", "fd00:1::/64"]);
    let alike =
        |pool: &WorldPool| pool.vxlan == Between::All && pool.ipip == Between::Never && pool.nat_outgoing;
    assert!(world.pools.iter().all(alike), "{:?}", world.pools);
    let objects = world.objects.iter().filter(|object| object.kind() == Kind::IPPool);
    let names: Vec<String> = objects.clone().map(|object| object.key().name).collect();
    assert_eq!(names, ["default-ipv4-ippool", "default-ipv6-ippool", "pods-10-99-0-0-16", "pods-fd00-1-64"]);
    assert!(objects.clone().all(|object| object.validate().is_empty()));
}

#[test]
fn a_case_of_ipv4_has_nodes_of_ipv4() {
    let world = world(&with_objects(&[&pod("a", "")]));
    assert_eq!(told(&world, "node2"), ["IPv4Address 192.0.2.12/24", "IPv4VXLANTunnelAddr 10.244.2.0"]);
    assert_eq!((world.nodes[0].address_v6, world.nodes[0].router_v6), (None, None));
}

#[test]
fn where_anything_is_ipv6_nodes_are_too() {
    let v6 = pool("six", "cidr: \"fd00:66::/48\", vxlanMode: CrossSubnet");
    let host = pod("h", ", nodeName: node2, hostNetwork: true");
    let flows = "flows: [{from: node/node1, to: default/b, ipVersion: 6, protocol: ICMPv6, expect: allow}]\n";
    let text = with_objects(&[&v6, &pod("a", ""), &pod("b", ""), &host]) + flows;
    let world = world(&text);
    assert_eq!(
        told(&world, "node2"),
        [
            "IPv4Address 192.0.2.12/24",
            "IPv4VXLANTunnelAddr 10.244.2.0",
            "IPv6Address fd00:192:0:2::12/80",
            "IPv6VXLANTunnelAddr fd00:66:0:2::",
        ]
    );
    let node = &world.nodes[1];
    assert_eq!(node.router_v6.unwrap().to_string(), "fd00:192:0:2::254");
    assert_eq!(node.subnet_v6.unwrap().to_string(), "fd00:192:0:2::/80");
    let addresses = |index: usize| {
        world.pods[index].addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(addresses(1), "10.244.2.2 fd00:66:0:2::2");
    assert_eq!(addresses(2), "192.0.2.12 fd00:192:0:2::12");
    let Some(Object::Node(object)) = world.objects.iter().find(|object| object.key().name == "node2") else {
        panic!()
    };
    let info = node_info(object);
    assert_eq!(info.pod_cidrs, [node.pod_cidr, node.pod_cidr_v6.unwrap()]);
    assert_eq!(world.flows[0].source_address.to_string(), "fd00:192:0:2::11", "one subnet, no tunnel");
}

#[test]
fn pools_say_which_blocks_and_tunnels_nodes_have_and_from_where_a_host_speaks() {
    let ipip = pool("p", "cidr: 10.10.0.0/16, ipipMode: Always");
    let flow = "flows: [{from: node/node1, to: default/b, protocol: ICMP, expect: allow}]\n";
    let first = world(&(with_objects(&[&ipip, &pod("a", ""), &pod("b", "")]) + flow));
    assert_eq!(told(&first, "node2"), ["IPv4Address 192.0.2.12/24", "IPv4IPIPTunnelAddr 10.10.2.1"]);
    assert_eq!(first.pods[1].addresses[0].to_string(), "10.10.2.2");
    assert_eq!(first.flows[0].source_address.to_string(), "10.10.1.1");
    assert_eq!(first.carriage(0, 1, first.pods[1].addresses[0]), Carriage::Ipip);

    let cross = pool("p", "cidr: 10.10.0.0/16, vxlanMode: CrossSubnet");
    let elsewhere = "{apiVersion: v1, kind: Node, metadata: {name: node3, annotations: {projectcalico.org/IPv4Address: 198.51.100.9/24}}}";
    let objects = [
        &*cross,
        elsewhere,
        &pod("a", ", nodeName: node1"),
        &pod("b", ", nodeName: node2"),
        &pod("c", ", nodeName: node3"),
    ];
    let second = world(&(with_objects(&objects) + &flow.replace("default/b", "default/c")));
    let to = |to: usize| second.carriage(0, to, "10.10.3.2".parse().unwrap());
    assert_eq!((to(1), to(2)), (Carriage::Plain, Carriage::Vxlan));
    assert_eq!(second.flows[0].source_address.to_string(), "10.10.1.0");
    let narrow = pool("p", "cidr: 10.10.0.0/27, blockSize: 28");
    assert_eq!(world_error(&with_objects(&[&narrow, &pod("a", ", nodeName: node3")])).field, "objects");
    let explicit = "{apiVersion: v1, kind: Node, metadata: {name: node3}, spec: {podCIDR: 10.10.0.16/28}}";
    assert_eq!(
        world(&with_objects(&[&narrow, explicit, &pod("a", "")])).pods[0].addresses[0].to_string(),
        "10.10.0.18"
    );
}

#[test]
fn a_full_block_is_an_error() {
    let node = "{apiVersion: v1, kind: Node, metadata: {name: n}, spec: {podCIDR: 10.5.0.0/30}}";
    let pods: Vec<String> = ["a", "b", "c"].iter().map(|name| pod(name, ", nodeName: n")).collect();
    assert_eq!(
        world(&with_objects(&[node, &pods[0], &pods[1]])).pods[1].addresses[0].to_string(),
        "10.5.0.3"
    );
    let error = world_error(&with_objects(&[node, &pods[0], &pods[1], &pods[2]]));
    assert!(error.message.contains("10.5.0.0/30"), "{error}");
}

#[test]
fn host_network_pods_are_at_their_node_and_finished_ones_nowhere() {
    let finished = "{apiVersion: v1, kind: Pod, metadata: {name: done}, spec: {containers: [{name: c}]}, status: {phase: Succeeded, podIPs: [{ip: 10.244.1.9}]}}";
    let text = with_objects(&[&pod("h", ", nodeName: node2, hostNetwork: true"), finished, &pod("a", "")]);
    let text = format!(
        "{text}flows:\n  - {{from: default/h, to: default/a, protocol: TCP, port: 1, expect: deny}}\n  - {{from: default/a, to: default/done, protocol: TCP, port: 1, expect: deny}}\n"
    );
    let world = world(&text);
    assert_eq!(world.pods[0].addresses[0].to_string(), "192.0.2.12");
    assert_eq!(world.flows[0].source, Place::Node(1));
    assert!(world.pods[1].addresses.is_empty());
    assert!(world.flows[1].unsupported.is_some());
}

#[test]
fn what_is_named_but_not_given_exists() {
    let policy = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p, namespace: other}, spec: {}}";
    let world = world(&with_objects(&[&pod("a", ", serviceAccountName: robot"), policy]));
    let keys: Vec<String> = world.objects.iter().map(|object| object.key().to_string()).collect();
    assert!(keys.contains(&"Namespace default".to_owned()), "{keys:?}");
    assert!(keys.contains(&"Namespace other".to_owned()), "{keys:?}");
    assert!(keys.contains(&"ServiceAccount default/robot".to_owned()), "{keys:?}");
    let value = world.objects[0].to_value();
    assert_eq!(value["metadata"]["labels"]["kubernetes.io/metadata.name"], "default");
}

#[test]
fn flows_to_what_does_not_exist_are_errors() {
    let flow = |flow: &str| {
        let text = with_objects(&[&pod("a", ", nodeName: node1")]);
        format!("{text}flows:\n  - {{{flow}, expect: allow}}\n")
    };
    let field = |text: &str| world_error(text).field;
    assert_eq!(field(&flow("from: default/a, to: default/b, protocol: ICMP")), "flows[0].to");
    assert_eq!(field(&flow("from: external/x, to: default/a, protocol: ICMP")), "flows[0].from");
    assert_eq!(field(&flow("from: 1.2.3.4, to: default/a, protocol: TCP, port: http")), "flows[0].port");
    assert_eq!(field(&flow("from: 192.0.2.11, to: default/a, protocol: ICMP")), "flows[0].from");
    let only_v4 = flow("from: 2001:db8::1, to: default/a, protocol: ICMPv6")
        .replace("{name: a}", "{name: a}, status: {podIPs: [{ip: 10.244.1.2}]}");
    assert_eq!(field(&only_v4), "flows[0].to");
    let own = world(&flow("from: node/node1, to: default/a, protocol: ICMP"));
    assert_eq!(own.flows[0].source, Place::Node(0));
    let other = world(&flow("from: 192.0.2.12, to: default/a, protocol: ICMP"));
    assert_eq!(other.flows[0].source, Place::Node(1));
}

const TWO_POLICIES: &str = r#"
name: t
objects:
  - {apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {name: p, namespace: shop}, spec: {tier: mine, colour: red}}
  - {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p, namespace: shop}, spec: {}}
  - {apiVersion: projectcalico.org/v3, kind: Tier, metadata: {name: mine}, spec: {order: 5}}
"#;

#[test]
fn policies_of_two_apis_may_share_a_name_and_rejects_can_tell_them_apart() {
    let rejects = |reject: &str| {
        Case::parse(&format!("{TWO_POLICIES}rejects:\n  - {{{reject}, field: spec.colour}}\n"))
    };
    let error = rejects("kind: NetworkPolicy, namespace: shop, name: p").unwrap().world().unwrap_err();
    assert_eq!(error.field, "rejects[0]");
    assert!(error.message.contains("apiVersion"), "{error}");
    let calicos = "kind: NetworkPolicy, apiVersion: projectcalico.org/v3, namespace: shop, name: p";
    let world = rejects(calicos).unwrap().world().unwrap();
    assert_eq!(world.refused[0].key.kind, Kind::CalicoNetworkPolicy);
    assert!(world.refused[0].is_refused(), "{:?}", world.refused[0].errors);
    assert!(world.objects.iter().any(|object| object.kind() == Kind::NetworkPolicy));
    let error = rejects("kind: Tier, apiVersion: v1, name: mine").unwrap_err();
    assert_eq!(error.field, "rejects[0].kind");
}

#[test]
fn rejects_need_no_api_version_where_the_name_is_clear() {
    let text = TWO_POLICIES.replace(
        "NetworkPolicy, metadata: {name: p, namespace: shop}, spec: {}",
        "NetworkPolicy, metadata: {name: q, namespace: shop}, spec: {}",
    );
    let text = format!(
        "{text}rejects:\n  - {{kind: NetworkPolicy, namespace: shop, name: p, field: spec.colour}}\n"
    );
    assert_eq!(world(&text).refused[0].key.kind, Kind::CalicoNetworkPolicy);
}

#[test]
fn objects_come_in_an_order_in_which_they_can_be_created() {
    let text = TWO_POLICIES.replace("colour: red", "order: 1");
    let kinds: Vec<Kind> = world(&text).objects.iter().map(Object::kind).collect();
    let mut sorted = kinds.clone();
    sorted.sort();
    assert_eq!(kinds, sorted);
    let place = |kind| kinds.iter().position(|known| *known == kind);
    assert_eq!(place(Kind::Namespace), Some(0));
    assert!(place(Kind::Tier) < place(Kind::CalicoNetworkPolicy), "{kinds:?}");
}

#[test]
fn pods_may_be_given_addresses_of_both_families_and_flows_choose() {
    let dual = |name: &str, number: u8| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{containers: [{{name: c}}]}}, \
             status: {{podIPs: [{{ip: 10.244.1.{number}}}, {{ip: \"fd00:1::{number}\"}}]}}}}"
        )
    };
    let flows = |flow: &str| {
        let only_v4 = pod("c", "").replace("spec:", "status: {podIPs: [{ip: 10.244.1.4}]}, spec:");
        let text = with_objects(&[&dual("a", 2), &dual("b", 3), &only_v4]);
        format!("{text}flows:\n  - {{{flow}, protocol: TCP, port: 1, expect: allow}}\n")
    };
    let flow = &world(&flows("from: default/a, to: default/b, ipVersion: 6")).flows[0];
    assert_eq!(flow.source_address.to_string(), "fd00:1::2");
    assert_eq!(
        (flow.destination, flow.destination_address.to_string().as_str()),
        (Place::Pod(1), "fd00:1::3")
    );
    assert_eq!(flow.unsupported, None);
    let flow = &world(&flows("from: default/a, to: default/b")).flows[0];
    assert_eq!(flow.destination_address.to_string(), "10.244.1.3");
    let error = world_error(&flows("from: default/a, to: default/c, ipVersion: 6"));
    assert_eq!(error.field, "flows[0].to");
    assert!(error.message.contains("status.podIPs"), "{error}");
}

#[test]
fn host_flows_count_like_other_flows() {
    use super::report::{CaseReport, CaseResult, Observation, Observations, Observed};
    let case = Case::parse(FULL).unwrap();
    let world = case.world().unwrap();
    let report = |observed: Option<Observed>| {
        let flows = world.flows.iter().map(|flow| {
            let observed = if flow.expect == Expect::Allow { Observed::Allow } else { Observed::Deny };
            Observation::new(observed, "said so")
        });
        let host_flows = observed.map(|observed| Observation::new(observed, "policy")).into_iter().collect();
        let observations = Observations { flows: flows.collect(), host_flows };
        CaseReport::new("f", &case, &world, observations, Vec::new())
    };
    assert_eq!(report(Some(Observed::AllowUntracked)).result, CaseResult::Pass);
    assert_eq!(report(Some(Observed::Allow)).result, CaseResult::Fail);
    let not_judged = report(None);
    assert_eq!(
        (not_judged.result, not_judged.host_flows[0].observed),
        (CaseResult::Fail, Observed::Unsupported)
    );
    let json = serde_json::to_value(report(Some(Observed::AllowUntracked))).unwrap();
    assert_eq!(
        json["hostFlows"][0],
        serde_json::json!({
            "hostEndpoint": "eth0-node1", "path": "to-host", "protocol": "TCP", "from": "203.0.113.7",
            "to": "192.0.2.1", "port": 22, "expect": "allow-untracked", "observed": "allow-untracked", "why": "policy",
        })
    );
}
