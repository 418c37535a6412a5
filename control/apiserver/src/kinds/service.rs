//! Services and their endpoint slices.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::node::or_none;
use super::{
    AGE, Column, NAME, Resource, items, model_change, model_defaults, model_validate, namespaced, text,
};

/// Their row of the table.
pub fn service() -> Resource {
    Resource {
        short_names: vec!["svc".into()],
        categories: vec!["all".into()],
        status: true,
        names: None,
        fields: &["spec.clusterIP", "spec.type"],
        prepare: |object, _| model_defaults(object),
        validate: model_validate,
        validate_change: model_change,
        columns: SERVICE_COLUMNS,
        ..namespaced::<Service>()
    }
}

const SERVICE_COLUMNS: &[Column] = &[
    NAME,
    Column::text("Type", "ClusterIP, NodePort, LoadBalancer or ExternalName.", |object, _| {
        text(object, "/spec/type").into()
    }),
    Column::text("Cluster-IP", "The address that stands for its endpoints.", |object, _| {
        or_none(text(object, "/spec/clusterIP"))
    }),
    Column::text("External-IP", "Its addresses outside.", external_ips),
    Column::text("Port(s)", "What it listens on.", service_ports),
    AGE,
    Column::text("Selector", "The pods that it is for.", |object, _| {
        let labels = object.pointer("/spec/selector").and_then(Value::as_object);
        let terms = labels.into_iter().flatten();
        let terms: Vec<String> =
            terms.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or(""))).collect();
        or_none(&terms.join(","))
    })
    .wide(),
];

/// Their row of the table.
pub fn endpoint_slice() -> Resource {
    Resource {
        generation: true,
        names: None,
        prepare: |object, _| model_defaults(object),
        validate: model_validate,
        validate_change: model_change,
        columns: ENDPOINT_SLICE_COLUMNS,
        ..namespaced::<EndpointSlice>()
    }
}

const ENDPOINT_SLICE_COLUMNS: &[Column] = &[
    NAME,
    Column::text("AddressType", "IPv4, IPv6 or FQDN.", |object, _| text(object, "/addressType").into()),
    Column::text("Ports", "The endpoints' ports.", |object, _| {
        let ports = items(object, "/ports").iter();
        shortened(ports.filter_map(|port| port.get("port")?.as_i64()).map(|port| port.to_string()))
    }),
    Column::text("Endpoints", "The endpoints' addresses.", |object, _| {
        let endpoints = items(object, "/endpoints").iter();
        let addresses = endpoints.flat_map(|endpoint| items(endpoint, "/addresses"));
        shortened(addresses.filter_map(Value::as_str).map(str::to_owned))
    }),
    AGE,
];

fn external_ips(object: &Value, _: Timestamp) -> Value {
    let name = text(object, "/spec/externalName");
    let listed = items(object, "/spec/externalIPs").iter().filter_map(Value::as_str);
    let balancers = items(object, "/status/loadBalancer/ingress").iter();
    let balancers = balancers.map(|ingress| match text(ingress, "/ip") {
        "" => text(ingress, "/hostname"),
        ip => ip,
    });
    let all: Vec<&str> = balancers.chain(listed).chain([name]).filter(|text| !text.is_empty()).collect();
    or_none(&all.join(","))
}

fn service_ports(object: &Value, _: Timestamp) -> Value {
    let one = |port: &Value| {
        let number = |field: &str| port.get(field).and_then(Value::as_i64);
        let protocol = text(port, "/protocol");
        let own = number("port").unwrap_or(0);
        match number("nodePort").filter(|node_port| *node_port != 0) {
            Some(node_port) => format!("{own}:{node_port}/{protocol}"),
            None => format!("{own}/{protocol}"),
        }
    };
    let ports: Vec<String> = items(object, "/spec/ports").iter().map(one).collect();
    or_none(&ports.join(","))
}

/// The first three, and how many more there are.
fn shortened(all: impl Iterator<Item = String>) -> Value {
    let all: Vec<String> = all.collect();
    match all.len() {
        0 => "<unset>".into(),
        1..=3 => all.join(",").into(),
        more => format!("{} + {} more...", all[..3].join(","), more - 3).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Moment;
    use super::*;
    use crate::metadata::timestamp;
    use serde_json::json;

    #[test]
    fn services_and_slices_read_as_kubectl_shows_them() {
        let mut service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" },
            "spec": { "clusterIP": "10.96.0.7", "selector": { "app": "web" }, "type": "NodePort",
                      "ports": [{ "port": 80, "nodePort": 30080 }, { "port": 53, "protocol": "UDP" }] },
        });
        super::service().prepare(&mut service, Moment::Create);
        assert_eq!(service["spec"]["ports"][0]["targetPort"], 80);
        let told = super::service().cells(&service, timestamp());
        assert_eq!(told[1..5], ["NodePort", "10.96.0.7", "<none>", "80:30080/TCP,53/UDP"]);
        assert_eq!(told[6], "app=web");
        let slice = json!({
            "metadata": { "name": "web-1" }, "addressType": "IPv4", "ports": [{ "port": 8080 }],
            "endpoints": [{ "addresses": ["10.0.0.1"] }, { "addresses": ["10.0.0.2"] },
                          { "addresses": ["10.0.0.3"] }, { "addresses": ["10.0.0.4"] }],
        });
        assert_eq!(
            endpoint_slice().cells(&slice, timestamp())[1..4],
            ["IPv4", "8080", "10.0.0.1,10.0.0.2,10.0.0.3 + 1 more..."]
        );
    }
}
