//! Changes to the kernel's tables that are made together or not at all.

use std::collections::BTreeSet;

use crate::Family;
use crate::expression::Expression;
use crate::message::{
    Attributes, BATCH_BEGIN, BATCH_END, INET, Message, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE,
};
use crate::ruleset::{Base, Rule, Ruleset};
use crate::set::{Element, FieldType, Set};

pub(crate) const NEW_TABLE: u16 = 0;
pub(crate) const DELETE_TABLE: u16 = 2;
pub(crate) const NEW_CHAIN: u16 = 3;
pub(crate) const NEW_RULE: u16 = 6;
pub(crate) const NEW_SET: u16 = 9;
pub(crate) const NEW_ELEMENT: u16 = 12;
pub(crate) const DELETE_ELEMENT: u16 = 14;

/// Flags of sets.
const SET_INTERVAL: u32 = 4;
const SET_CONCATENATION: u32 = 0x80;
/// Flag of an element: what it closes ends before it.
pub(crate) const INTERVAL_END: u32 = 1;
/// An attribute's length has 16 bits; a list of elements is begun anew before it comes near.
const LIST_BYTES: usize = 48 << 10;
/// Bits of a field's type in the type of a combination, as nft(8) reads it.
const TYPE_BITS: u32 = 6;

/// A batch of messages, and what each of them is for.
#[derive(Debug, Default)]
pub struct Transaction {
    messages: Vec<(Message, String)>,
}

impl Transaction {
    /// Puts `ruleset` in the place of its table, whether or not there was one.
    #[must_use]
    pub fn replace(ruleset: &Ruleset) -> Transaction {
        let mut transaction = Transaction::remove(&ruleset.table);
        let table = &ruleset.table;
        transaction.add(format!("add table {table}"), NEW_TABLE, NLM_F_CREATE, |to| {
            to.text(1, table);
        });
        for (id, (name, set)) in (1..).zip(&ruleset.sets) {
            transaction.new_set(table, name, set, id);
            transaction.elements(NEW_ELEMENT, table, name, set.fields(), set.elements());
        }
        for (name, chain) in &ruleset.chains {
            transaction.add(format!("add chain {name}"), NEW_CHAIN, NLM_F_CREATE, |to| {
                to.text(1, table).text(3, name);
                if let Some(Base { hook, priority }) = chain.base {
                    to.nest(4, |to| {
                        to.number(1, hook as u32).bytes(2, &priority.to_be_bytes());
                    });
                    // Accept.
                    to.number(5, 1).text(7, "filter");
                }
            });
        }
        for (name, chain) in &ruleset.chains {
            for (at, rule) in chain.rules.iter().enumerate() {
                transaction.new_rule(table, name, at, rule);
            }
        }
        transaction
    }

    /// Removes a table, whether or not there is one.
    #[must_use]
    pub fn remove(table: &str) -> Transaction {
        let mut transaction = Transaction::default();
        // Removing what is not there fails; adding what is there does not.
        transaction.add(format!("add table {table}"), NEW_TABLE, NLM_F_CREATE, |to| {
            to.text(1, table);
        });
        transaction.add(format!("delete table {table}"), DELETE_TABLE, 0, |to| {
            to.text(1, table);
        });
        transaction
    }

    /// Leads from `old`, which the kernel has, to `new`, which differs in nothing but the elements of sets.
    #[must_use]
    pub fn between(old: &Ruleset, new: &Ruleset) -> Transaction {
        let mut transaction = Transaction::default();
        for (name, set) in &new.sets {
            let Some(before) = old.sets.get(name).filter(|before| *before != set) else { continue };
            let gone: BTreeSet<Element> = before.elements().difference(set.elements()).cloned().collect();
            let added: BTreeSet<Element> = set.elements().difference(before.elements()).cloned().collect();
            transaction.elements(DELETE_ELEMENT, &new.table, name, set.fields(), &gone);
            transaction.elements(NEW_ELEMENT, &new.table, name, set.fields(), &added);
        }
        transaction
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    fn add(&mut self, what: String, kind: u16, flags: u16, fill: impl FnOnce(&mut Attributes)) {
        self.messages.push((Message::new(kind, flags, INET, fill), what));
    }

    fn new_set(&mut self, table: &str, name: &str, set: &Set, id: u32) {
        let fields = set.fields();
        let is_combined = fields.len() > 1;
        self.add(format!("add set {name}"), NEW_SET, NLM_F_CREATE, |to| {
            let flags = if is_combined { SET_INTERVAL | SET_CONCATENATION } else { SET_INTERVAL };
            let length: usize = fields.iter().map(|field| stride(*field, is_combined)).sum();
            to.text(1, table).text(2, name).number(3, flags).number(4, key_type(fields));
            to.number(5, u32::try_from(length).unwrap_or_default());
            to.nest(9, |description| {
                if is_combined {
                    description.nest(2, |list| {
                        for field in fields {
                            list.nest(1, |element| {
                                element.number(1, field.width() as u32);
                            });
                        }
                    });
                }
            });
            to.number(10, id);
        });
    }

    fn elements(
        &mut self,
        kind: u16,
        table: &str,
        name: &str,
        fields: &[FieldType],
        elements: &BTreeSet<Element>,
    ) {
        let verb = if kind == NEW_ELEMENT { "add" } else { "delete" };
        let mut waiting = elements.iter().peekable();
        while waiting.peek().is_some() {
            self.add(format!("{verb} elements of set {name}"), kind, NLM_F_CREATE, |to| {
                to.text(1, table).text(2, name).nest(3, |list| {
                    while list.len() < LIST_BYTES
                        && let Some(element) = waiting.next()
                    {
                        write_element(list, fields, element);
                    }
                });
            });
        }
    }

    fn new_rule(&mut self, table: &str, chain: &str, at: usize, rule: &Rule) {
        self.add(
            format!("add rule {at} of chain {chain} ({rule})"),
            NEW_RULE,
            NLM_F_CREATE | NLM_F_APPEND,
            |to| {
                to.text(1, table).text(2, chain).nest(4, |list| {
                    Expression::of(&rule.statements).iter().for_each(|expression| expression.write(list));
                });
                if !rule.comment.is_empty() {
                    to.bytes(7, &comment(&rule.comment));
                }
            },
        );
    }

    /// The bytes of the batch, and the sequence number of the message that is acknowledged when all is done.
    pub(crate) fn encode(&self) -> (Vec<u8>, u32) {
        let mut bytes = Vec::new();
        Message::bracket(BATCH_BEGIN).write(0, 0, &mut bytes);
        let mut last = 0;
        for (sequence, (message, _)) in (1..).zip(&self.messages) {
            last = sequence;
            let is_last = usize::try_from(sequence) == Ok(self.messages.len());
            message.write(sequence, if is_last { NLM_F_ACK } else { 0 }, &mut bytes);
        }
        Message::bracket(BATCH_END).write(last + 1, 0, &mut bytes);
        (bytes, last)
    }

    /// What the message of this sequence number is for.
    pub(crate) fn purpose(&self, sequence: u32) -> &str {
        let index = usize::try_from(sequence).ok().and_then(|sequence| sequence.checked_sub(1));
        index.and_then(|index| self.messages.get(index)).map_or("commit the batch", |(_, what)| what)
    }
}

/// Comments are a type, a length and a text with its end.
fn comment(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len() + 1).unwrap_or(u8::MAX);
    [0, length].into_iter().chain(text.bytes()).chain([0]).collect()
}

pub(crate) fn key_type(fields: &[FieldType]) -> u32 {
    fields.iter().fold(0, |key, field| key << TYPE_BITS | field.name().1)
}

/// The bytes that a field takes in a key.
pub(crate) fn stride(field: FieldType, is_combined: bool) -> usize {
    if is_combined { field.width().next_multiple_of(4) } else { field.width() }
}

fn write_element(list: &mut Attributes, fields: &[FieldType], element: &Element) {
    let key = |pick: fn(&(u128, u128)) -> u128| -> Vec<u8> {
        let parts = element.0.iter().zip(fields);
        parts.flat_map(|(range, field)| bytes_of(pick(range), *field, fields.len() > 1)).collect()
    };
    let write = |list: &mut Attributes, first: &[u8], last: Option<&[u8]>, flags: u32| {
        list.nest(1, |to| {
            to.nest(1, |value| {
                value.bytes(1, first);
            });
            if flags != 0 {
                to.number(3, flags);
            }
            if let Some(last) = last {
                to.nest(10, |value| {
                    value.bytes(1, last);
                });
            }
        });
    };
    let first = key(|range| range.0);
    if let ([(_, last)], [field]) = (&*element.0, fields) {
        write(list, &first, None, 0);
        // The highest value of all needs no end, and could have none.
        if *last < field.highest() {
            write(list, &bytes_of(last + 1, *field, false), None, INTERVAL_END);
        }
    } else {
        write(list, &first, Some(&key(|range| range.1)), 0);
    }
}

fn bytes_of(value: u128, field: FieldType, is_combined: bool) -> Vec<u8> {
    let mut bytes: Vec<u8> = match field {
        FieldType::Address(Family::V4) => (value as u32).to_be_bytes().to_vec(),
        FieldType::Address(Family::V6) => value.to_be_bytes().to_vec(),
        FieldType::Protocol => vec![value as u8],
        FieldType::Port => (value as u16).to_be_bytes().to_vec(),
    };
    bytes.resize(stride(field, is_combined), 0);
    bytes
}
