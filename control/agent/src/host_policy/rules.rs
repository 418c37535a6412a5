//! A rule of a policy as conditions of nf_tables.
//!
//! All conditions of a rule there must hold, so what may hold instead of each other becomes alternatives, each a rule of its own:
//! versions of IP where sets of addresses are asked; protocols that have ports, or messages, or neither, where that matters; and ports
//! by number or by each set of named ones.

use caracal_nft::{Family, Field, FieldType, Match, Set, Side};
use caracal_plane_api as plane;

use super::inputs::HostPolicy;

/// The protocols whose ports rules can ask for.
pub(super) const WITH_PORTS: [u8; 3] = [6, 17, 132];
/// The protocols whose messages have a type and a code.
pub(super) const WITH_MESSAGES: [u8; 2] = [1, 58];

/// Sets that rules ask for, as they come to be asked for.
pub(super) trait Sets {
    /// The name of a set that holds this.
    fn name(&mut self, wanted: &str, set: impl FnOnce() -> Set) -> String;
}

/// The conditions of a rule: any of these lists must hold whole.
pub(super) fn alternatives(rule: &plane::Rule, policy: &HostPolicy, sets: &mut impl Sets) -> Vec<Vec<Match>> {
    let nobody = plane::Entity::default();
    let source = (Side::Source, rule.source.as_ref().unwrap_or(&nobody));
    let destination = (Side::Destination, rule.destination.as_ref().unwrap_or(&nobody));
    let sides = [source, destination];
    let mut found = Vec::new();
    for protocols in protocols(rule, &sides, sets) {
        for family in families(rule, &sides) {
            let mut conditions: Vec<Match> = family.map(Match::Family).into_iter().collect();
            conditions.extend(protocols.conditions.clone());
            if let Some(family) = family {
                for (side, entity) in &sides {
                    let sets_of = entity.in_all.iter().map(|id| (id, true));
                    for (id, is) in sets_of.chain(entity.in_none.iter().map(|id| (id, false))) {
                        let set = address_set(id, family, policy, sets);
                        conditions.push(Match::InSet {
                            fields: vec![Field::Address(*side, family)],
                            set,
                            is,
                        });
                    }
                }
            }
            if protocols.has_messages {
                let message = |icmp: &plane::Icmp, is| Match::Icmp {
                    kind: u8::try_from(icmp.r#type).unwrap_or(u8::MAX),
                    code: icmp.code.map(|code| u8::try_from(code).unwrap_or(u8::MAX)),
                    is,
                };
                conditions.extend(rule.icmp.as_ref().map(|icmp| message(icmp, true)));
                conditions.extend(rule.not_icmp.as_ref().map(|icmp| message(icmp, false)));
            }
            let mut lists = vec![conditions];
            if protocols.has_ports {
                for (side, entity) in &sides {
                    let wanted = ports(*side, entity, true, family, policy, sets);
                    if !wanted.is_empty() {
                        let extended = lists.iter().flat_map(|list| {
                            wanted.iter().map(|port| list.iter().chain([port]).cloned().collect())
                        });
                        lists = extended.collect();
                    }
                    let refused = ports(*side, entity, false, family, policy, sets);
                    lists.iter_mut().for_each(|list| list.extend(refused.iter().cloned()));
                }
            }
            found.extend(lists);
        }
    }
    found
}

/// Protocols that a rule treats alike.
struct Protocols {
    conditions: Vec<Match>,
    has_ports: bool,
    has_messages: bool,
}

type Sides<'a> = [(Side, &'a plane::Entity); 2];

fn protocols(rule: &plane::Rule, sides: &Sides<'_>, sets: &mut impl Sets) -> Vec<Protocols> {
    let wants = sides.iter().any(|(_, side)| !side.ports.is_empty() || !side.named_ports.is_empty());
    let refuses =
        sides.iter().any(|(_, side)| !side.not_ports.is_empty() || !side.not_named_ports.is_empty());
    let about_ports = wants || refuses;
    let about_messages = rule.icmp.is_some() || rule.not_icmp.is_some();
    let mut among = |numbers: &[u8], name: &str, is| {
        let set = sets.name(name, || {
            let ranges = numbers.iter().map(|number| (u128::from(*number), u128::from(*number)));
            Set::of_ranges(FieldType::Protocol, ranges)
        });
        vec![Match::InSet { fields: vec![Field::Protocol], set, is }]
    };
    let known = u8::try_from(rule.protocol).unwrap_or_default();
    let mut found = if rule.protocol != 0 {
        let (has_ports, has_messages) = (WITH_PORTS.contains(&known), WITH_MESSAGES.contains(&known));
        let conditions = vec![Match::Protocol { protocol: known, is: true }];
        vec![Protocols { conditions, has_ports, has_messages }]
    } else {
        let mut kinds = Vec::new();
        let mut kind = |conditions, has_ports, has_messages| {
            kinds.push(Protocols { conditions, has_ports, has_messages });
        };
        let (ports, messages) = ("protocols-with-ports", "protocols-with-messages");
        match (about_ports, about_messages) {
            (false, false) => kind(Vec::new(), false, false),
            (true, false) => {
                kind(among(&WITH_PORTS, ports, true), true, false);
                kind(among(&WITH_PORTS, ports, false), false, false);
            }
            (false, true) => {
                kind(among(&WITH_MESSAGES, messages, true), false, true);
                kind(among(&WITH_MESSAGES, messages, false), false, false);
            }
            (true, true) => {
                kind(among(&WITH_PORTS, ports, true), true, false);
                kind(among(&WITH_MESSAGES, messages, true), false, true);
                let others = among(&WITH_PORTS, ports, false).into_iter();
                kind(others.chain(among(&WITH_MESSAGES, messages, false)).collect(), false, false);
            }
        }
        kinds
    };
    found.retain(|kind| (kind.has_ports || !wants) && (kind.has_messages || rule.icmp.is_none()));
    if rule.not_protocol != 0 {
        let protocol = u8::try_from(rule.not_protocol).unwrap_or_default();
        found.iter_mut().for_each(|kind| kind.conditions.push(Match::Protocol { protocol, is: false }));
    }
    found
}

/// The versions of IP that a rule is told apart by; None: it is for both alike.
fn families(rule: &plane::Rule, sides: &Sides<'_>) -> Vec<Option<Family>> {
    let asks_addresses = sides.iter().any(|(_, side)| {
        [&side.in_all, &side.in_none, &side.named_ports, &side.not_named_ports]
            .iter()
            .any(|sets| !sets.is_empty())
    });
    match rule.ip_version {
        4 => vec![Some(Family::V4)],
        6 => vec![Some(Family::V6)],
        _ if asks_addresses => Family::BOTH.map(Some).to_vec(),
        _ => vec![None],
    }
}

/// The ports of a side that a rule asks for, or (`is` false) refuses.
fn ports(
    side: Side,
    entity: &plane::Entity,
    is: bool,
    family: Option<Family>,
    policy: &HostPolicy,
    sets: &mut impl Sets,
) -> Vec<Match> {
    let (numbers, names) = match is {
        true => (&entity.ports, &entity.named_ports),
        false => (&entity.not_ports, &entity.not_named_ports),
    };
    let mut ports: Vec<Match> = numbered(side, numbers, is, sets).into_iter().collect();
    ports.extend(named(side, names, family, is, policy, sets));
    ports
}

fn numbered(side: Side, ranges: &[plane::PortRange], is: bool, sets: &mut impl Sets) -> Option<Match> {
    let port = |port: u32| u16::try_from(port).unwrap_or(u16::MAX);
    match ranges {
        [] => None,
        [one] => Some(Match::Port { side, first: port(one.first), last: port(one.last), is }),
        several => {
            let ranges = several.iter().map(|range| (u128::from(range.first), u128::from(range.last)));
            let built = Set::of_ranges(FieldType::Port, ranges);
            let shown: Vec<String> =
                several.iter().map(|range| format!("{}-{}", range.first, range.last)).collect();
            let set = sets.name(&format!("ports {}", shown.join(",")), || built);
            Some(Match::InSet { fields: vec![Field::Port(side)], set, is })
        }
    }
}

fn named(
    side: Side,
    ids: &[String],
    family: Option<Family>,
    is: bool,
    policy: &HostPolicy,
    sets: &mut impl Sets,
) -> Vec<Match> {
    let Some(family) = family else { return Vec::new() };
    let fields = vec![Field::Address(side, family), Field::Protocol, Field::Port(side)];
    let mut named = Vec::new();
    for id in ids {
        let set = sets.name(&format!("{id} ports {}", number(family)), || {
            let members = policy.sets.get(id).into_iter().flat_map(|set| set.iter());
            let members = members.filter(|member| member.protocol != 0).map(|member| {
                let ports = if member.port == 0 { (0, u16::MAX) } else { (member.port, member.port) };
                (member.net, member.protocol, ports)
            });
            Set::of_ports_at(family, members)
        });
        named.push(Match::InSet { fields: fields.clone(), set, is });
    }
    named
}

fn address_set(id: &str, family: Family, policy: &HostPolicy, sets: &mut impl Sets) -> String {
    sets.name(&format!("{id} {}", number(family)), || {
        let members = policy.sets.get(id).into_iter().flat_map(|set| set.iter());
        let members = members.filter(|member| (member.protocol, member.port) == (0, 0));
        Set::of_prefixes(family, members.map(|member| member.net))
    })
}

pub(super) fn number(family: Family) -> u8 {
    match family {
        Family::V4 => 4,
        Family::V6 => 6,
    }
}
