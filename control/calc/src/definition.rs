//! What is in a set, and the name that follows from it.

use std::collections::BTreeSet;
use std::fmt;

use caracal_model::cidr::Cidr;
use caracal_model::names;
use caracal_model::policy::ServiceKey;
use caracal_model::protocol::Protocol;
use caracal_model::selector::Selector;

use crate::members::Member;
use crate::sources::Contents;
use crate::symbols::Symbols;

/// The name of a set: a letter for its kind and a hash of its definition.
pub(crate) type SetName = String;

/// What is in a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Definition {
    /// The addresses and networks of the sources that a selector matches.
    Selected(Selector),
    /// These networks.
    Nets(Vec<Cidr>),
    /// The ports that sources call by this name: those that the selector matches, and only of the protocol, if given.
    NamedPort { selector: Selector, protocol: Option<Protocol>, name: String },
    /// The addresses of a service's endpoints.
    ServiceAddresses(ServiceKey),
    /// The addresses of a service's endpoints, each with their protocols and ports.
    ServicePorts(ServiceKey),
}

impl Definition {
    /// Networks in whatever order, some perhaps twice.
    pub fn nets(nets: &[Cidr]) -> Self {
        let sorted: BTreeSet<Cidr> = nets.iter().copied().collect();
        Self::Nets(sorted.into_iter().collect())
    }

    /// The same for equal definitions, whenever and wherever they are made.
    pub fn name(&self) -> SetName {
        let letter = match self {
            Self::Selected(_) => 's',
            Self::Nets(_) => 'n',
            Self::NamedPort { .. } => 'p',
            Self::ServiceAddresses(_) | Self::ServicePorts(_) => 'v',
        };
        format!("{letter}:{}", names::content_hash(&self.to_string()))
    }

    /// The selector whose sources bring the members.
    pub fn selector(&self) -> Option<&Selector> {
        match self {
            Self::Selected(selector) | Self::NamedPort { selector, .. } => Some(selector),
            Self::Nets(_) | Self::ServiceAddresses(_) | Self::ServicePorts(_) => None,
        }
    }

    /// Hands over what a source that the selector matches brings, each member once and in order.
    pub fn each_member_of(&self, contents: &Contents, symbols: &Symbols, mut take: impl FnMut(Member)) {
        match self {
            Self::Selected(_) => contents.nets.iter().copied().map(Member::net).for_each(take),
            Self::NamedPort { protocol, name, .. } => {
                let mut ports: Vec<(u8, u16)> = contents
                    .ports
                    .iter()
                    .filter(|port| protocol.is_none_or(|protocol| protocol == port.protocol))
                    .filter(|port| symbols.text(port.name) == name)
                    .map(|port| (port.protocol.0, port.port))
                    .collect();
                ports.sort_unstable();
                for cidr in contents.nets.iter() {
                    for (protocol, port) in &ports {
                        take(Member { cidr: *cidr, protocol: *protocol, port: *port });
                    }
                }
            }
            Self::Nets(_) | Self::ServiceAddresses(_) | Self::ServicePorts(_) => {}
        }
    }
}

/// How many networks are spelled out for people.
const NETS_SHOWN: usize = 8;

impl Definition {
    /// What it is, in users' words.
    pub fn describe(&self) -> String {
        match self {
            Self::Nets(nets) if nets.len() > NETS_SHOWN => {
                let shown = Self::Nets(nets.iter().take(NETS_SHOWN).copied().collect());
                format!("{shown} and {} more", nets.len() - NETS_SHOWN)
            }
            Self::ServiceAddresses(service) | Self::ServicePorts(service) => format!("service {service}"),
            _ => self.to_string(),
        }
    }
}

impl fmt::Display for Definition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Selected(selector) => write!(f, "selector {selector}"),
            Self::Nets(nets) => {
                f.write_str("nets")?;
                for (index, net) in nets.iter().enumerate() {
                    write!(f, "{}{net}", if index == 0 { " " } else { ", " })?;
                }
                Ok(())
            }
            Self::NamedPort { selector, protocol, name } => {
                write!(f, "named port {name}")?;
                if let Some(protocol) = protocol {
                    write!(f, "/{protocol}")?;
                }
                write!(f, " of {selector}")
            }
            Self::ServiceAddresses(service) => write!(f, "addresses of service {service}"),
            Self::ServicePorts(service) => write!(f, "ports of service {service}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_named_after_what_is_in_it_and_described_in_users_words() {
        let nets = |texts: &[&str]| {
            Definition::nets(&texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>())
        };
        let few = nets(&["10.0.0.0/8", "192.0.2.0/24", "10.0.0.0/8"]);
        assert_eq!(few, nets(&["192.0.2.0/24", "10.0.0.0/8"]));
        assert_eq!(few.name(), nets(&["192.0.2.0/24", "10.0.0.0/8"]).name());
        assert_ne!(few.name(), nets(&["10.0.0.0/8"]).name());
        assert_eq!(few.describe(), "nets 10.0.0.0/8, 192.0.2.0/24");
        let described = |count: u8| {
            let texts: Vec<String> = (0..count).map(|number| format!("10.0.{number}.0/24")).collect();
            nets(&texts.iter().map(String::as_str).collect::<Vec<_>>()).describe()
        };
        assert!(described(20).ends_with("10.0.7.0/24 and 12 more"), "{}", described(20));
        assert!(described(8).ends_with("10.0.6.0/24, 10.0.7.0/24"), "{}", described(8));

        let selector = Selector::equal("app", "web");
        assert_eq!(Definition::Selected(selector.clone()).describe(), r#"selector app == "web""#);
        let named =
            |protocol| Definition::NamedPort { selector: selector.clone(), protocol, name: "http".into() };
        assert_eq!(named(None).describe(), r#"named port http of app == "web""#);
        assert_eq!(named(Some(Protocol::TCP)).describe(), r#"named port http/TCP of app == "web""#);
        assert_ne!(named(Some(Protocol::TCP)).name(), named(None).name());
        let service = ServiceKey { namespace: "prod".into(), name: "web".into() };
        assert_eq!(Definition::ServicePorts(service.clone()).describe(), "service prod/web");
        assert_ne!(
            Definition::ServicePorts(service.clone()).name(),
            Definition::ServiceAddresses(service).name()
        );
    }
}
