//! Rules of policies.

use serde_json::{Value, json};

use super::{NOTHING, calico, refused};

/// The fields of a rule that it is refused for, in a policy of this kind.
fn fields(kind: &str, direction: &str, rule: &Value) -> Vec<String> {
    let prefix = format!("spec.{direction}[0]");
    let of_rule = |field: String| {
        let inner = field.strip_prefix(&prefix).unwrap_or_else(|| panic!("{field} is not of the rule"));
        inner.trim_start_matches('.').to_owned()
    };
    refused(calico(kind, json!({direction: [rule]}))).into_iter().map(of_rule).collect()
}

fn ingress(rule: &Value) -> Vec<String> {
    fields("NetworkPolicy", "ingress", rule)
}

/// Checks rules that allow and say this besides.
fn check(good: &[Value], bad: &[(Value, &[&str])]) {
    let whole = |part: &Value| {
        let mut rule = part.clone();
        let map = rule.as_object_mut().unwrap();
        map.entry("action").or_insert(json!("Allow"));
        rule
    };
    for part in good {
        assert_eq!(ingress(&whole(part)), NOTHING, "{part}");
    }
    for (part, expected) in bad {
        assert_eq!(ingress(&whole(part)), *expected, "{part}");
    }
}

#[test]
fn actions_are_four() {
    for action in ["Allow", "Deny", "Log", "Pass"] {
        assert_eq!(ingress(&json!({"action": action})), NOTHING);
    }
    for rule in [json!({}), json!({"action": ""}), json!({"action": "allow"}), json!({"action": "Accept"})] {
        assert_eq!(ingress(&rule), ["action"], "{rule}");
    }
}

#[test]
fn protocols_are_names_exactly_or_numbers() {
    let named = ["TCP", "UDP", "ICMP", "ICMPv6", "SCTP", "UDPLite"].map(|name| json!({"protocol": name}));
    let numbered = [json!({"protocol": 1}), json!({"protocol": 255}), json!({"notProtocol": "89"})];
    check(&named, &[]);
    check(&numbered, &[]);
    check(
        &[],
        &[
            (json!({"protocol": "tcp"}), &["protocol"]),
            (json!({"protocol": "ICMPV6"}), &["protocol"]),
            (json!({"protocol": ""}), &["protocol"]),
            (json!({"protocol": 0}), &["protocol"]),
            (json!({"protocol": 256}), &["protocol"]),
            (json!({"protocol": "256"}), &["protocol"]),
            (json!({"notProtocol": "GRE"}), &["notProtocol"]),
            (json!({"notProtocol": -1}), &["notProtocol"]),
        ],
    );
}

#[test]
fn ip_versions_are_those_of_icmp() {
    check(
        &[
            json!({"ipVersion": 4}),
            json!({"ipVersion": 6}),
            json!({"ipVersion": 4, "protocol": "ICMP"}),
            json!({"ipVersion": 6, "protocol": "ICMPv6"}),
            json!({"ipVersion": 6, "notProtocol": "ICMPv6"}),
            json!({"ipVersion": 6, "protocol": "TCP", "notProtocol": "UDP"}),
        ],
        &[
            (json!({"ipVersion": 5}), &["ipVersion"]),
            (json!({"ipVersion": 0}), &["ipVersion"]),
            (json!({"ipVersion": 6, "protocol": "ICMP"}), &["ipVersion"]),
            (json!({"ipVersion": 4, "protocol": "ICMPv6"}), &["ipVersion"]),
            (json!({"ipVersion": 6, "notProtocol": "ICMP"}), &["ipVersion"]),
            (json!({"ipVersion": 4, "notProtocol": "ICMPv6"}), &["ipVersion"]),
        ],
    );
}

#[test]
fn icmp_needs_its_protocol_and_a_code_its_type() {
    check(
        &[
            json!({"protocol": "ICMP", "icmp": {"type": 0, "code": 0}}),
            json!({"protocol": "ICMP", "icmp": {"type": 254, "code": 255}, "notICMP": {"type": 8}}),
            json!({"protocol": "ICMPv6", "notICMP": {"type": 128, "code": 0}}),
            json!({"protocol": "ICMP", "icmp": {}}),
        ],
        &[
            (json!({"protocol": "ICMP", "icmp": {"type": 255}}), &["icmp.type"]),
            (json!({"protocol": "ICMP", "icmp": {"type": -1}}), &["icmp.type"]),
            (json!({"protocol": "ICMP", "icmp": {"type": 8, "code": 256}}), &["icmp.code"]),
            (json!({"protocol": "ICMP", "icmp": {"code": 0}}), &["icmp.code"]),
            (json!({"protocol": "ICMP", "notICMP": {"code": 3}}), &["notICMP.code"]),
            (json!({"protocol": "ICMP", "notICMP": {"type": 255}}), &["notICMP.type"]),
            (json!({"protocol": "TCP", "icmp": {"type": 8}}), &["icmp"]),
            (json!({"icmp": {"type": 8}}), &["icmp"]),
            (json!({"notICMP": {"type": 8}}), &["notICMP"]),
            (json!({"notProtocol": "ICMP", "icmp": {"type": 8}}), &["icmp"]),
        ],
    );
}

#[test]
fn nets_are_masked_and_not_everything() {
    check(
        &[
            json!({"source": {"nets": ["10.0.0.0/8", "0.0.0.0/0"]}}),
            json!({"source": {"nets": ["10.1.2.3"]}, "destination": {"nets": ["10.1.2.3/32"]}}),
            json!({"source": {"nets": ["2001:db8::/32", "::/0"], "notNets": ["2001:DB8:0::1"]}}),
            json!({"source": {"nets": []}}),
        ],
        &[
            (json!({"source": {"nets": ["10.0.0.1/8"]}}), &["source.nets[0]"]),
            (json!({"destination": {"nets": ["10.0.0.0/8", "10.0.0.0/33"]}}), &["destination.nets[1]"]),
            (json!({"source": {"nets": ["10.0.0.0/08"]}}), &["source.nets[0]"]),
            (json!({"source": {"nets": ["any"]}}), &["source.nets[0]"]),
            (json!({"source": {"nets": ["2001:db8::1/32"]}}), &["source.nets[0]"]),
            (json!({"source": {"nets": ["10.0.0.0/8", "10.0.0.0/8"]}}), &["source.nets[1]"]),
            (json!({"source": {"notNets": ["0.0.0.0/0"]}}), &["source.notNets[0]"]),
            (json!({"destination": {"notNets": ["::/0"]}}), &["destination.notNets[0]"]),
            (json!({"destination": {"notNets": ["1.2.3.4/24"]}}), &["destination.notNets[0]"]),
        ],
    );
    let nets = |count: u32| (0..count).map(|i| std::net::Ipv4Addr::from(i).to_string()).collect::<Vec<_>>();
    check(
        &[json!({"source": {"nets": nets(256), "notNets": nets(256)}})],
        &[
            (json!({"source": {"nets": nets(257)}}), &["source.nets"]),
            (json!({"destination": {"notNets": nets(257)}}), &["destination.notNets"]),
        ],
    );
}

#[test]
fn all_nets_of_a_rule_are_of_one_family() {
    check(
        &[
            json!({"ipVersion": 4, "source": {"nets": ["10.0.0.0/8"]}}),
            json!({"ipVersion": 6, "destination": {"notNets": ["fd00::/8"]}}),
        ],
        &[
            (json!({"ipVersion": 6, "source": {"nets": ["10.0.0.0/8"]}}), &["source.nets[0]"]),
            (json!({"ipVersion": 4, "source": {"notNets": ["fd00::/8"]}}), &["source.notNets[0]"]),
            (json!({"source": {"nets": ["10.0.0.0/8", "fd00::/8"]}}), &["source.nets[1]"]),
            (json!({"source": {"nets": ["10.0.0.0/8"], "notNets": ["fd00::/8"]}}), &["source.notNets[0]"]),
            (
                json!({"source": {"nets": ["fd00::/8"]}, "destination": {"nets": ["10.0.0.0/8"]}}),
                &["destination.nets[0]"],
            ),
            (
                json!({"source": {"nets": ["fd00::/8"]}, "destination": {"notNets": ["10.0.0.1", "10.0.0.2"]}}),
                &["destination.notNets[0]", "destination.notNets[1]"],
            ),
        ],
    );
}

#[test]
fn ports_are_numbers_ranges_or_names() {
    let with = |port: Value| json!({"protocol": "TCP", "destination": {"ports": [port]}});
    for port in [
        json!(1),
        json!(65535),
        json!("80"),
        json!("1:65535"),
        json!("80:80"),
        json!("http"),
        json!("A_b.c-d"),
    ] {
        check(&[with(port)], &[]);
    }
    for port in [
        json!(0),
        json!(-1),
        json!(65536),
        json!("0"),
        json!("65536"),
        json!("90:80"),
        json!("0:80"),
        json!("80:"),
        json!(":80"),
        json!("80:+90"),
        json!("1:2:3"),
        json!(""),
        json!("a b"),
        json!("a".repeat(129)),
    ] {
        check(&[], &[(with(port), &["destination.ports[0]"])]);
    }
    check(&[with(json!("a".repeat(128)))], &[]);
    let not = json!({"protocol": "TCP", "source": {"notPorts": [80, 0]}});
    check(&[], &[(not, &["source.notPorts[1]"])]);
    let many = |count: i32| json!({"protocol": "TCP", "source": {"ports": (1..=count).collect::<Vec<_>>()}});
    check(&[many(50)], &[(many(51), &["source.ports"])]);
}

#[test]
fn numbers_of_ports_need_a_protocol_that_has_them() {
    for protocol in [json!("TCP"), json!("UDP"), json!("SCTP"), json!(6), json!(17), json!(132), json!("6")] {
        check(&[json!({"protocol": protocol, "destination": {"ports": [80], "notPorts": ["http"]}})], &[]);
    }
    check(
        &[
            json!({"destination": {"ports": ["http"]}}),
            json!({"source": {"notPorts": ["http"]}}),
            json!({"protocol": "ICMP", "source": {"ports": []}}),
        ],
        &[
            (json!({"destination": {"ports": [80]}}), &["destination.ports"]),
            (json!({"destination": {"ports": ["http", "80:90"]}}), &["destination.ports"]),
            (json!({"source": {"notPorts": [80]}}), &["source.notPorts"]),
            (json!({"notProtocol": "TCP", "source": {"ports": [80]}}), &["source.ports"]),
            (json!({"protocol": "ICMP", "source": {"ports": [80]}}), &["source.ports"]),
            (json!({"protocol": "ICMP", "source": {"ports": ["http"]}}), &["source.ports"]),
            (json!({"protocol": "UDPLite", "source": {"ports": [80]}}), &["source.ports"]),
            (json!({"protocol": 1, "destination": {"notPorts": [80]}}), &["destination.notPorts"]),
        ],
    );
}

#[test]
fn selectors_parse_and_say_global_only_for_namespaces_and_alone() {
    let long = format!("a == '{}'", "x".repeat(1018));
    let fits = format!("a == '{}'", "x".repeat(1017));
    check(
        &[
            json!({"source": {"selector": "a == 'b' && has(c)", "notSelector": ""}}),
            json!({"source": {"selector": fits}}),
            json!({"source": {"namespaceSelector": "global()"}}),
            json!({"source": {"namespaceSelector": " global( ) "}}),
            json!({"destination": {"namespaceSelector": "all()", "serviceAccounts": {"selector": "a in {'b'}"}}}),
            json!({"source": {"serviceAccounts": {"names": ["a", "b.c"]}}}),
        ],
        &[
            (json!({"source": {"selector": "a = 'b'"}}), &["source.selector"]),
            (json!({"source": {"selector": long}}), &["source.selector"]),
            (json!({"source": {"notSelector": "a =="}}), &["source.notSelector"]),
            (json!({"source": {"selector": "global()"}}), &["source.selector"]),
            (json!({"source": {"notSelector": "a == 'b' || global()"}}), &["source.notSelector"]),
            (json!({"source": {"namespaceSelector": "global() && a == 'b'"}}), &["source.namespaceSelector"]),
            (json!({"source": {"namespaceSelector": "!global()"}}), &["source.namespaceSelector"]),
            (json!({"source": {"namespaceSelector": "("}}), &["source.namespaceSelector"]),
            (
                json!({"source": {"serviceAccounts": {"selector": "global()", "names": ["a", "a"]}}}),
                &["source.serviceAccounts.selector", "source.serviceAccounts.names[1]"],
            ),
        ],
    );
    let column = calico("NetworkPolicy", json!({"selector": "a == 'b' & c"}));
    let errors = crate::object::Object::accept(column).unwrap_err();
    assert!(errors[0].message.contains("column 10"), "{}", errors[0]);
}

#[test]
fn services_stand_alone_and_where_the_peer_is() {
    let rule = |side: &str, entity: Value| json!({"action": "Allow", side: entity, "protocol": "TCP"});
    let egress = |rule: &Value| fields("NetworkPolicy", "egress", rule);
    let name = json!({"services": {"name": "web"}});
    assert_eq!(egress(&rule("destination", name.clone())), NOTHING);
    assert_eq!(ingress(&rule("source", name.clone())), NOTHING);
    assert_eq!(egress(&rule("source", name.clone())), ["source.services"]);
    assert_eq!(ingress(&rule("destination", name.clone())), ["destination.services"]);
    assert_eq!(egress(&rule("destination", json!({"services": {}}))), ["destination.services.name"]);
    let long = json!({"services": {"name": "n".repeat(254), "namespace": "n".repeat(254)}});
    assert_eq!(
        egress(&rule("destination", long)),
        ["destination.services.name", "destination.services.namespace"]
    );
    for other in [
        json!({"selector": "all()"}),
        json!({"notSelector": "all()"}),
        json!({"namespaceSelector": "all()"}),
        json!({"nets": ["10.0.0.0/8"]}),
        json!({"notNets": ["10.0.0.0/8"]}),
        json!({"serviceAccounts": {"names": ["a"]}}),
    ] {
        let mut side = other.clone();
        side["services"] = json!({"name": "web"});
        assert_eq!(egress(&rule("destination", side.clone())), ["destination.services"], "{other}");
        assert_eq!(ingress(&rule("source", side)), ["source.services"], "{other}");
    }
    for ports in ["ports", "notPorts"] {
        let side = json!({"services": {"name": "web"}, ports: [80]});
        assert_eq!(egress(&rule("destination", side.clone())), [format!("destination.{ports}")]);
        assert_eq!(ingress(&rule("source", side)), NOTHING, "a source's ports are not the service's");
    }
    let global = |entity: Value| fields("GlobalNetworkPolicy", "egress", &rule("destination", entity));
    assert_eq!(global(name), ["destination.services.namespace"]);
    assert_eq!(global(json!({"services": {"name": "web", "namespace": "x"}})), NOTHING);
}

#[test]
fn http_is_for_allowing_tcp_in() {
    let path = |path: Value| json!({"http": {"paths": [path]}});
    check(
        &[
            json!({"http": {"methods": ["GET", "PUT"], "paths": [{"exact": "/a"}, {"prefix": "/b/"}]}}),
            json!({"protocol": "TCP", "http": {}}),
        ],
        &[
            (json!({"action": "Deny", "http": {}}), &["http"]),
            (json!({"protocol": "UDP", "http": {}}), &["http"]),
            (json!({"http": {"methods": ["GET", "GET"]}}), &["http.methods[1]"]),
            (
                json!({"http": {"methods": (0..21).map(|i| i.to_string()).collect::<Vec<_>>()}}),
                &["http.methods"],
            ),
            (json!({"http": {"paths": vec![json!({"exact": "/"}); 21]}}), &["http.paths"]),
            (path(json!({})), &["http.paths[0]"]),
            (path(json!({"exact": "/a", "prefix": "/b"})), &["http.paths[0]"]),
            (path(json!({"exact": "a"})), &["http.paths[0].exact"]),
            (path(json!({"exact": "/a?b"})), &["http.paths[0].exact"]),
            (path(json!({"prefix": "/a#b"})), &["http.paths[0].prefix"]),
            (path(json!({"prefix": "/a b"})), &["http.paths[0].prefix"]),
            (path(json!({"exact": format!("/{}", "a".repeat(1024))})), &["http.paths[0].exact"]),
        ],
    );
    let egress = fields("NetworkPolicy", "egress", &json!({"action": "Allow", "http": {}}));
    assert_eq!(egress, ["http"]);
}

#[test]
fn notes_on_rules_are_annotations() {
    check(
        &[json!({"metadata": {"annotations": {"a.b/c": "anything at all"}}})],
        &[(json!({"metadata": {"annotations": {"a b": ""}}}), &["metadata.annotations"])],
    );
}
