//! Calico's rules, read.

use caracal_model::calico;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::address::Block;
use super::cluster::{NAMESPACE, SERVICE_ACCOUNT};
use super::rule::{Action, Message, Ports, Rule, Side, Term};

/// A protocol by name or number.
pub(super) fn protocol_number(text: &str) -> Option<u8> {
    match text {
        "TCP" => Some(6),
        "UDP" => Some(17),
        "ICMP" => Some(1),
        "ICMPv6" => Some(58),
        "SCTP" => Some(132),
        "UDPLite" => Some(136),
        _ => text.parse().ok(),
    }
}

/// The rules of a direction, of a policy of `namespace` or of none.
pub(super) fn rules<'a>(
    namespace: Option<&'a str>,
    direction: &str,
    rules: Option<&'a [calico::Rule]>,
) -> Vec<Rule<'a>> {
    let rules = rules.unwrap_or_default().iter().enumerate();
    rules.filter_map(|(index, rule)| read(namespace, format!("spec.{direction}[{index}]"), rule)).collect()
}

fn read<'a>(namespace: Option<&'a str>, place: String, rule: &'a calico::Rule) -> Option<Rule<'a>> {
    let side = |side: &'a Option<calico::EntityRule>| {
        side.as_ref().map(|side| self::side(namespace, side)).unwrap_or_default()
    };
    let message = |fields: &Option<calico::IcmpFields>| {
        // Without a type nothing is asked.
        let fields = fields.as_ref().filter(|fields| fields.kind.is_some())?;
        Some(Message { kind: fields.kind, code: fields.code })
    };
    Some(Rule {
        action: match rule.action.as_str() {
            "Allow" => Action::Allow,
            "Deny" => Action::Deny,
            "Pass" => Action::Pass,
            "Log" => Action::Log,
            // Validation lets no other through.
            _ => return None,
        },
        place,
        version: rule.ip_version,
        protocol: protocol(rule.protocol.as_ref()),
        not_protocol: protocol(rule.not_protocol.as_ref()),
        icmp: message(&rule.icmp),
        not_icmp: message(&rule.not_icmp),
        source: side(&rule.source),
        destination: side(&rule.destination),
    })
}

fn protocol(protocol: Option<&IntOrString>) -> Option<u8> {
    match protocol? {
        IntOrString::Int(number) => u8::try_from(*number).ok(),
        IntOrString::String(name) => protocol_number(name),
    }
}

/// A text, if it says anything.
fn given(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.trim().is_empty())
}

fn side<'a>(namespace: Option<&'a str>, side: &'a calico::EntityRule) -> Side<'a> {
    let plain = |text| Term::Text { text, prefix: "", all: None };
    let selector = given(&side.selector).map(plain);
    let not_selector = given(&side.not_selector).map(plain);
    let accounts = side.service_accounts.as_ref();
    let account_names = accounts
        .and_then(|accounts| accounts.names.as_deref())
        .filter(|names| !names.is_empty())
        .map(|names| Term::IsOneOf(SERVICE_ACCOUNT, names));
    let account_labels = accounts.and_then(|accounts| given(&accounts.selector)).map(|text| Term::Text {
        text,
        prefix: "pcsa.",
        all: None,
    });
    let asks_who =
        selector.is_some() || not_selector.is_some() || account_names.is_some() || account_labels.is_some();
    let where_ = match given(&side.namespace_selector) {
        Some(text) => Some(Term::Namespaces(text)),
        None => namespace.filter(|_| asks_who).map(|namespace| Term::Is(NAMESPACE, namespace)),
    };
    let blocks =
        |nets: &Option<Vec<String>>| nets.iter().flatten().filter_map(|net| Block::read(net)).collect();
    let service = side
        .services
        .as_ref()
        .and_then(|service| Some((given(&service.namespace).or(namespace)?, service.name.as_deref()?)));
    Side {
        nets: blocks(&side.nets),
        not_nets: blocks(&side.not_nets),
        who: [where_, account_labels, account_names, selector].into_iter().flatten().collect(),
        not_who: not_selector,
        ports: ports(side.ports.as_deref()),
        not_ports: ports(side.not_ports.as_deref()),
        service,
    }
}

fn ports(ports: Option<&[IntOrString]>) -> Vec<Ports<'_>> {
    let read = |port| match port {
        &IntOrString::Int(number) => {
            let number = u16::try_from(number).ok()?;
            Some(Ports::Range(number, number))
        }
        IntOrString::String(text) => {
            let range = match text.split_once(':') {
                None => (text.parse(), text.parse()),
                Some((first, last)) => (first.parse(), last.parse()),
            };
            Some(match range {
                (Ok(first), Ok(last)) => Ports::Range(first, last),
                _ => Ports::Named(text),
            })
        }
    };
    ports.unwrap_or_default().iter().filter_map(read).collect()
}
