//! What cases make of services.

use super::*;

fn service(name: &str, spec: &str) -> String {
    format!("{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{{spec}}}}}")
}

/// A world with these objects and flows.
fn asking(objects: &[&str], flows: &[&str]) -> String {
    let flows: Vec<String> = flows.iter().map(|flow| format!("  - {{{flow}, expect: allow}}\n")).collect();
    format!("{}flows:\n{}", with_objects(objects), flows.concat())
}

#[test]
fn a_service_is_asked_at_its_addresses_and_at_node_ports() {
    let web = service(
        "web",
        "type: NodePort, externalIPs: [198.51.100.1], selector: {app: web}, ports: [{name: http, port: 80}]",
    );
    let client = pod("a", "");
    let flows = [
        "from: default/a, to: service/default/web, protocol: TCP, port: http",
        "from: default/a, to: 10.96.1.0, protocol: TCP, port: 80",
        "from: 203.0.113.7, to: 198.51.100.1, protocol: TCP, port: 80",
        "from: 203.0.113.7, to: node/node2, protocol: TCP, port: 30000",
        "from: node/node1, to: service/default/web, protocol: TCP, port: 80",
        "from: default/a, to: service/default/web, protocol: TCP, port: 81",
        "from: 203.0.113.7, to: node/node2, protocol: UDP, port: 30000",
        "from: default/a, to: service/default/web, protocol: ICMP",
    ];
    let world = world(&asking(&[&web, &client], &flows));
    let told: Vec<String> = world
        .flows
        .iter()
        .map(|flow| {
            let service = flow.service.map_or("-", |_| "web");
            let port = flow.destination_port.unwrap_or_default();
            let unsupported = if flow.unsupported.is_some() { " unsupported" } else { "" };
            format!("{:?} {}:{port} {service}{unsupported}", flow.destination, flow.destination_address)
        })
        .collect();
    assert_eq!(
        told,
        [
            "Service(0) 10.96.1.0:80 web",
            "Service(0) 10.96.1.0:80 web",
            "Service(0) 198.51.100.1:80 web",
            "Node(1) 192.0.2.12:30000 web",
            "Service(0) 10.96.1.0:80 web",
            "Service(0) 10.96.1.0:81 -",
            "Node(1) 192.0.2.12:30000 - unsupported",
            "Service(0) 10.96.1.0:0 - unsupported",
        ]
    );
    let externals: Vec<&str> = world.externals.iter().map(|external| external.name.as_str()).collect();
    assert_eq!(externals, ["203.0.113.7"]);
    let service = world.objects.iter().find(|object| object.kind() == Kind::Service).unwrap().to_value();
    assert_eq!(service["spec"]["ports"][0]["nodePort"], 30000);
    assert_eq!(service["spec"]["clusterIPs"], serde_json::json!(["10.96.1.0"]));
}

#[test]
fn slices_are_made_of_pods_unless_somebody_else_makes_them() {
    let slices = |objects: &[&str]| -> Vec<String> {
        let world = world(&with_objects(objects));
        let slices = world.objects.iter().filter(|object| object.kind() == Kind::EndpointSlice);
        slices
            .map(|object| {
                let value = object.to_value();
                format!("{} {}", value["addressType"], value["endpoints"][0]["addresses"][0])
            })
            .collect()
    };
    let web = service("web", "selector: {app: web}, ipFamilyPolicy: PreferDualStack, ports: [{port: 80}]");
    let backend = pod("a", "").replace("{name: a}", "{name: a, labels: {app: web}}");
    assert_eq!(slices(&[&web, &backend]), [r#""IPv4" "10.244.1.2""#]);
    let both = web.replace("Prefer", "Require");
    let mut dual = slices(&[&both, &backend]);
    dual.sort();
    assert_eq!(dual, [r#""IPv4" "10.244.1.2""#, r#""IPv6" "fd00:10:244:1::2""#]);
    let own = "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: {name: mine, labels: {kubernetes.io/service-name: web}}, endpoints: [{addresses: [203.0.113.9]}], ports: [{port: 80}]}";
    assert_eq!(slices(&[&web, &backend, own]), [r#""IPv4" "203.0.113.9""#]);
}

#[test]
fn what_a_service_cannot_have_makes_the_case_an_error() {
    let one = service("a", "clusterIP: 10.96.0.7, ports: [{port: 80}]");
    let other = service("b", "clusterIP: 10.96.0.7, ports: [{port: 80}]");
    assert_eq!(world_error(&with_objects(&[&one, &other])).field, "objects[0].spec.clusterIPs[0]");
    let outside = service("a", "clusterIP: 10.7.0.7, ports: [{port: 80}]");
    assert_eq!(world_error(&with_objects(&[&outside])).field, "objects[0].spec.clusterIPs[0]");
    let later = service("b", "ports: [{port: 80}]");
    let world = world(&with_objects(&[&later, &one.replace("0.7", "1.0")]));
    assert_eq!(world.services[0].cluster_ips[0].to_string(), "10.96.1.1", "who asks by number has it");
    let headless = service("h", "clusterIP: None, ports: [{port: 80}]");
    let flow = "from: default/a, to: service/default/h, protocol: TCP, port: 80";
    assert_eq!(world_error(&asking(&[&headless, &pod("a", "")], &[flow])).field, "flows[0].to");
}

#[test]
fn external_addresses_lead_to_a_node_and_those_of_local_services_to_a_backends() {
    let any = service(
        "any",
        "type: NodePort, externalIPs: [198.51.100.1], selector: {app: web}, ports: [{port: 80}]",
    );
    let local = any.replace("any", "local").replace("198.51.100.1", "198.51.100.2");
    let local = local.replace("type: NodePort", "type: NodePort, externalTrafficPolicy: Local");
    let backend = pod("a", ", nodeName: node2").replace("{name: a}", "{name: a, labels: {app: web}}");
    let world = world(&with_objects(&[&any, &local, &backend]));
    let entrance = |last: u8| world.entrance([198, 51, 100, last].into());
    assert_eq!((entrance(1), entrance(2), entrance(3)), (Some(0), Some(1), None));
}
