//! What the Node object says of its addresses, and what it is to say. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use caracal_model::annotations::{NODE_AS_NUMBER, NODE_IPV4_ADDRESS, NODE_IPV6_ADDRESS};
use caracal_model::cidr::parse_address_and_length;
use caracal_model::convert::{NodeInfo, node_info};
use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};

use super::detect::{Hints, Interface, detect, with_length};
use super::settings::{Backend, Settings, Source};

/// Why the Node object cannot be told its addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The method finds none.
    #[error(
        "no {family} address of this node is found by {method}: set {variable} to an address, or {variable}_AUTODETECTION_METHOD to another method"
    )]
    NotFound {
        /// IPv4 or IPv6.
        family: &'static str,
        /// The method.
        method: String,
        /// `IP` or `IP6`.
        variable: &'static str,
    },
    /// Another node has it.
    #[error(
        "{address} is node {owner}'s already: give one of the two another address, or delete the Node if it is gone (DISABLE_NODE_IP_CHECK=true if both are right)"
    )]
    Conflict {
        /// The address.
        address: IpAddr,
        /// Who has it.
        owner: String,
    },
}

/// Annotations to be changed.
pub type Annotations = BTreeMap<&'static str, Option<String>>;

/// The annotations that the Node object lacks, or has wrongly. `others` are all nodes; `hints` come for each family.
///
/// # Errors
/// [`RecordError`].
pub fn annotations(
    settings: &Settings,
    node: &Node,
    others: &[Node],
    interfaces: &[Interface],
    hints: impl Fn(bool) -> Hints,
) -> Result<Annotations, RecordError> {
    let mut wanted = Annotations::new();
    for (ipv4, key) in [(true, NODE_IPV4_ADDRESS), (false, NODE_IPV6_ADDRESS)] {
        if let Some((address, length)) =
            address(settings, ipv4, annotation(node, key), interfaces, hints(ipv4))?
        {
            let text = format!("{address}/{length}");
            if annotation(node, key) != Some(&text) {
                if settings.check_conflicts
                    && let Some(owner) = owner(others, node, address)
                {
                    return Err(RecordError::Conflict { address, owner });
                }
                wanted.insert(key, Some(text));
            }
        }
    }
    if let Some(number) = settings.as_number.as_ref().filter(|_| settings.backend != Backend::None)
        && annotation(node, NODE_AS_NUMBER) != Some(number)
    {
        wanted.insert(NODE_AS_NUMBER, Some(number.clone()));
    }
    Ok(wanted)
}

/// The patch of a Node's annotations.
#[must_use]
pub fn patch(annotations: &Annotations) -> Value {
    json!({"metadata": {"annotations": annotations}})
}

/// An annotation, if it says anything.
#[must_use]
pub fn annotation<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    node.metadata.annotations.as_ref()?.get(key).map(String::as_str).filter(|text| !text.is_empty())
}

fn address(
    settings: &Settings,
    ipv4: bool,
    current: Option<&str>,
    interfaces: &[Interface],
    hints: Hints,
) -> Result<Option<(IpAddr, u8)>, RecordError> {
    let family = settings.family(ipv4);
    let is_valid = |text: &str| {
        let address = parse_address_and_length(text).map(|(address, _)| address).ok();
        address.or_else(|| text.parse().ok()).is_some_and(|address: IpAddr| address.is_ipv4() == ipv4)
    };
    let current = current.filter(|text| is_valid(text));
    match &family.source {
        Source::None => return Ok(None),
        Source::Keep if current.is_some() => return Ok(None),
        Source::Address(address, Some(length)) => return Ok(Some((*address, *length))),
        Source::Address(address, None) => return Ok(Some(with_length(*address, interfaces))),
        Source::Keep | Source::Detect => {}
    }
    match detect(&family.method, ipv4, interfaces, hints) {
        Some(found) => Ok(Some(found)),
        // An interface that is down for a moment is no reason to be another node.
        None if current.is_some() => Ok(None),
        None => {
            let (family_name, variable) = if ipv4 { ("IPv4", "IP") } else { ("IPv6", "IP6") };
            Err(RecordError::NotFound { family: family_name, method: family.method.to_string(), variable })
        }
    }
}

/// Another node that has the address.
fn owner(nodes: &[Node], own: &Node, address: IpAddr) -> Option<String> {
    let others = nodes.iter().filter(|node| node.metadata.name != own.metadata.name).map(node_info);
    others
        .into_iter()
        .find(|info: &NodeInfo| info.addresses().any(|taken| taken == address))
        .map(|info| info.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(environment: &[(&str, &str)]) -> Settings {
        let find = |key: &str| {
            environment.iter().find(|(name, _)| *name == key).map(|(_, value)| (*value).to_owned())
        };
        Settings::read(find).unwrap()
    }

    fn node(name: &str, annotations: &[(&str, &str)]) -> Node {
        let annotations: BTreeMap<_, _> = annotations.iter().copied().collect();
        serde_json::from_value(json!({"metadata": {"name": name, "annotations": annotations}})).unwrap()
    }

    fn host() -> Vec<Interface> {
        let addresses = vec![("192.0.2.5".parse().unwrap(), 24), ("2001:db8::5".parse().unwrap(), 64)];
        vec![Interface { name: "eth0".into(), up: true, addresses }]
    }

    fn wanted(
        environment: &[(&str, &str)],
        current: &[(&str, &str)],
        others: &[Node],
    ) -> Result<String, RecordError> {
        let annotations =
            annotations(&settings(environment), &node("node1", current), others, &host(), |_| {
                Hints::default()
            })?;
        Ok(serde_json::to_string(&annotations).unwrap().replace("projectcalico.org/", ""))
    }

    #[test]
    fn what_is_missing_or_wrong_is_wanted_and_nothing_else() {
        fn ok(environment: &[(&str, &str)], current: &[(&str, &str)]) -> String {
            wanted(environment, current, &[]).unwrap()
        }
        let v4 = |text| [(NODE_IPV4_ADDRESS, text)];
        assert_eq!(ok(&[], &[]), r#"{"IPv4Address":"192.0.2.5/24"}"#);
        assert_eq!(ok(&[], &v4("198.51.100.9/24")), "{}", "somebody has written it");
        assert_eq!(ok(&[], &v4("nonsense")), r#"{"IPv4Address":"192.0.2.5/24"}"#);
        assert_eq!(ok(&[("IP", "autodetect")], &v4("198.51.100.9/24")), r#"{"IPv4Address":"192.0.2.5/24"}"#);
        assert_eq!(ok(&[("IP", "autodetect")], &v4("192.0.2.5/24")), "{}");
        assert_eq!(ok(&[("IP", "192.0.2.5")], &[]), r#"{"IPv4Address":"192.0.2.5/24"}"#);
        assert_eq!(ok(&[("IP", "192.0.2.77")], &[]), r#"{"IPv4Address":"192.0.2.77/32"}"#);
        assert_eq!(
            ok(&[("IP", "192.0.2.77/25"), ("AS", "64512")], &[]),
            r#"{"ASNumber":"64512","IPv4Address":"192.0.2.77/25"}"#
        );
        let both = ok(&[("IP6", "autodetect")], &[]);
        assert_eq!(both, r#"{"IPv4Address":"192.0.2.5/24","IPv6Address":"2001:db8::5/64"}"#);
        assert_eq!(ok(&[("IP", "none"), ("IP6", "autodetect")], &[]), r#"{"IPv6Address":"2001:db8::5/64"}"#);
        let no_routing = [("CALICO_NETWORKING_BACKEND", "none"), ("AS", "1")];
        assert_eq!(ok(&no_routing, &[]), r#"{"IPv4Address":"192.0.2.5/24"}"#);
    }

    #[test]
    fn an_address_that_is_not_found_is_an_error_unless_there_is_one_already() {
        let nowhere = ("IP_AUTODETECTION_METHOD", "interface=wlan.*");
        let error = wanted(&[nowhere], &[], &[]).unwrap_err();
        assert!(
            error.to_string().contains("IPv4") && error.to_string().contains("interface=(?:wlan.*)"),
            "{error}"
        );
        let kept = wanted(&[nowhere, ("IP", "autodetect")], &[(NODE_IPV4_ADDRESS, "192.0.2.9/24")], &[]);
        assert_eq!(kept.unwrap(), "{}");
    }

    #[test]
    fn an_address_of_another_node_is_not_taken() {
        let others = [node("node1", &[]), node("node2", &[(NODE_IPV4_ADDRESS, "192.0.2.5/24")])];
        let error = wanted(&[], &[], &others).unwrap_err();
        assert_eq!(
            error,
            RecordError::Conflict { address: "192.0.2.5".parse().unwrap(), owner: "node2".into() }
        );
        assert!(wanted(&[("DISABLE_NODE_IP_CHECK", "true")], &[], &others).is_ok());
        assert!(
            wanted(&[], &[(NODE_IPV4_ADDRESS, "192.0.2.5/24")], &others).is_ok(),
            "nothing is to be changed"
        );
    }
}
