//! What the kernel holds, as it was read back.

use std::collections::{BTreeMap, BTreeSet};

use crate::Family;
use crate::expression::Expression;
use crate::message::{Read, Received};
use crate::ruleset::{Base, Hook, Ruleset};
use crate::set::{Element, FieldType, Set};
use crate::statement::Verdict;
use crate::transaction::{INTERVAL_END, key_type, stride};

/// A table of ours, as the kernel has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    pub(crate) exists: bool,
    pub(crate) chains: BTreeMap<String, ListedChain>,
    pub(crate) sets: BTreeMap<String, Set>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ListedChain {
    pub base: Option<(Option<Base>, u32)>,
    pub rules: Vec<ListedRule>,
}

/// A rule, as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedRule {
    pub(crate) expressions: Vec<Expression>,
    /// What it says of itself.
    pub comment: String,
    /// Packets counted.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A table of the kernel, whoever made it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableName {
    /// As nft(8) calls it: `ip`, `ip6`, `inet`, `arp`, `bridge`, `netdev`.
    pub family: &'static str,
    /// The table's name.
    pub name: String,
}

impl ListedRule {
    /// Whether it drops what it matches.
    #[must_use]
    pub fn drops(&self) -> bool {
        self.expressions.contains(&Expression::Verdict(Verdict::Drop))
    }

    /// Whether no connection is tracked for what it matches.
    #[must_use]
    pub fn is_untracking(&self) -> bool {
        self.expressions.contains(&Expression::NoTrack)
    }
}

impl TableName {
    pub(crate) fn read(message: &Received<'_>) -> Option<TableName> {
        Some(TableName { family: family(message.family())?, name: message.attributes().text(1)? })
    }
}

fn family(number: u8) -> Option<&'static str> {
    Some(match number {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => return None,
    })
}

impl Listing {
    /// Whether the table is there.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.exists
    }

    /// All rules, with their chains, chains in the order of their names.
    pub fn rules(&self) -> impl Iterator<Item = (&str, &ListedRule)> {
        self.chains.iter().flat_map(|(name, chain)| chain.rules.iter().map(move |rule| (name.as_str(), rule)))
    }

    /// How it differs from what was wanted, in words; None: it does not.
    #[must_use]
    pub fn difference(&self, wanted: &Ruleset) -> Option<String> {
        if !self.exists {
            return Some(format!("table inet {} is not there", wanted.table));
        }
        let names = |ours: Vec<&String>, theirs: Vec<&String>, what: &str| {
            let (ours, theirs): (BTreeSet<_>, BTreeSet<_>) =
                (ours.into_iter().collect(), theirs.into_iter().collect());
            let lacks = ours.difference(&theirs).next().map(|name| format!("{what} {name} is not there"));
            lacks.or_else(|| theirs.difference(&ours).next().map(|name| format!("{what} {name} is not ours")))
        };
        let by_name = names(wanted.sets.keys().collect(), self.sets.keys().collect(), "set")
            .or_else(|| names(wanted.chains.keys().collect(), self.chains.keys().collect(), "chain"));
        if by_name.is_some() {
            return by_name;
        }
        for (name, set) in &wanted.sets {
            if self.sets.get(name) != Some(set) {
                return Some(format!("set {name} holds something else"));
            }
        }
        for (name, chain) in &wanted.chains {
            let Some(listed) = self.chains.get(name) else { continue };
            // 1: accept.
            if listed.base != chain.base.map(|base| (Some(base), 1)) {
                return Some(format!("chain {name} is elsewhere, or does not accept at its end"));
            }
            if listed.rules.len() != chain.rules.len() {
                return Some(format!(
                    "chain {name} has {} rules, not {}",
                    listed.rules.len(),
                    chain.rules.len()
                ));
            }
            for (at, (listed, rule)) in listed.rules.iter().zip(&chain.rules).enumerate() {
                if listed.expressions != Expression::of(&rule.statements) || listed.comment != rule.comment {
                    return Some(format!("rule {at} of chain {name} is another"));
                }
            }
        }
        None
    }

    pub(crate) fn add_chain(&mut self, chain: Read<'_>) -> Option<()> {
        let base = chain.nested(4).map(|hook| {
            let priority = hook.number(2).map(|bits| bits.cast_signed());
            let hook = match hook.number(1) {
                Some(0) => Some(Hook::Prerouting),
                Some(1) => Some(Hook::Input),
                Some(2) => Some(Hook::Forward),
                Some(3) => Some(Hook::Output),
                _ => None,
            };
            let base = hook.zip(priority).map(|(hook, priority)| Base { hook, priority });
            (base, chain.number(5).unwrap_or_default())
        });
        self.chains.entry(chain.text(3)?).or_default().base = base;
        Some(())
    }

    pub(crate) fn add_rule(&mut self, rule: Read<'_>) -> Option<()> {
        let list = rule.nested(4).unwrap_or(Read::of(&[]));
        let counter = list
            .all()
            .map(|(_, element)| Read::of(element))
            .find(|e| e.text(1).as_deref() == Some("counter"));
        let counted = |kind| counter.and_then(|element| element.nested(2)?.long(kind)).unwrap_or_default();
        let listed = ListedRule {
            expressions: Expression::read_all(list),
            comment: rule.get(7).and_then(comment).unwrap_or_default(),
            packets: counted(2),
            bytes: counted(1),
        };
        self.chains.entry(rule.text(2)?).or_default().rules.push(listed);
        Some(())
    }
}

fn comment(userdata: &[u8]) -> Option<String> {
    let [0, length, rest @ ..] = userdata else { return None };
    let text = rest.get(..usize::from(*length).checked_sub(1)?)?;
    String::from_utf8(text.to_vec()).ok()
}

/// The fields of a set, if they are such as we make.
pub(crate) fn fields_of(set: Read<'_>) -> Vec<FieldType> {
    let key = set.number(4).unwrap_or_default();
    const ADDRESSES: [FieldType; 2] = [FieldType::Address(Family::V4), FieldType::Address(Family::V6)];
    let [v4, v6] = ADDRESSES;
    let known = [
        vec![v4],
        vec![v6],
        vec![FieldType::Protocol],
        vec![FieldType::Port],
        vec![v4, FieldType::Protocol, FieldType::Port],
        vec![v6, FieldType::Protocol, FieldType::Port],
    ];
    known.into_iter().find(|fields| key_type(fields) == key).unwrap_or_default()
}

/// Elements that the kernel has sent, in any order; those of a set with one field as where they begin and end.
#[derive(Debug, Default)]
pub(crate) struct Elements {
    whole: BTreeSet<Element>,
    /// Value, and whether something ends before it.
    edges: BTreeSet<(u128, bool)>,
}

impl Elements {
    pub fn add(&mut self, fields: &[FieldType], list: Read<'_>) {
        for (_, element) in list.all() {
            let element = Read::of(element);
            let key = |kind: u16| element.nested(kind).and_then(|value| value.get(1));
            let Some(first) = key(1) else { continue };
            if fields.len() == 1 {
                let ends = element.number(3).is_some_and(|flags| flags & INTERVAL_END != 0);
                self.edges.insert((number(first), ends));
                continue;
            }
            let last = key(10).unwrap_or(first);
            let mut at = 0;
            let ranges = fields.iter().map(|field| {
                let part = |key: &[u8]| number(key.get(at..at + field.width()).unwrap_or_default());
                let range = (part(first), part(last));
                at += stride(*field, true);
                range
            });
            self.whole.insert(Element(ranges.collect()));
        }
    }

    pub fn into_set(self, fields: Vec<FieldType>) -> Set {
        let mut elements = self.whole;
        if let [field] = &*fields {
            let mut begun = None;
            for (value, ends) in self.edges {
                if let (true, Some(first)) = (ends, begun.take()) {
                    elements.insert(Element(Box::new([(first, value.saturating_sub(1))])));
                }
                if !ends {
                    begun = Some(value);
                }
            }
            if let Some(first) = begun {
                elements.insert(Element(Box::new([(first, field.highest())])));
            }
        }
        Set::read(fields, elements)
    }
}

fn number(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0, |number, byte| number << 8 | u128::from(*byte))
}
