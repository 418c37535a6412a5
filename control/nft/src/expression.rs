//! Expressions: what the kernel makes rules of. They load values into registers, and break off the rule when a comparison fails.
//!
//! The kernel's header linux/netfilter/nf_tables.h numbers the attributes. Registers are named by numbers of four bytes each; the first
//! is 8. A value takes as many as it has bytes, rounded up; the parts of a combined key stand one after another.

use crate::Family;
use crate::message::{Attributes, Read};
use crate::statement::{Field, Match, Side, Statement, Verdict, masked};

/// The register of the verdict.
const VERDICT: u32 = 0;
/// The first register for values, of four bytes.
const REGISTER: u32 = 8;

/// Of `NFT_META_*`.
const META_MARK: u32 = 3;
const META_INPUT_NAME: u32 = 6;
const META_OUTPUT_NAME: u32 = 7;
const META_FAMILY: u32 = 15;
const META_PROTOCOL: u32 = 16;

/// Of `NFT_PAYLOAD_*`: where the offset counts from.
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;

/// An interface's name is compared whole.
const INTERFACE_BYTES: usize = 16;
/// `RTN_UNICAST`: an address that a packet is forwarded to.
const ROUTE_UNICAST: u32 = 1;
const FIB_RESULT_ADDRESS_TYPE: u32 = 3;
const FIB_DESTINATION: u32 = 2;
const LEVEL_INFO: u32 = 6;

const NF_DROP: i32 = 0;
const NF_ACCEPT: i32 = 1;
const NFT_JUMP: i32 = -3;
const NFT_GOTO: i32 = -4;
const NFT_RETURN: i32 = -5;

/// One expression. What we never write is [`Expression::Other`] when it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expression {
    Meta {
        register: u32,
        key: u32,
    },
    MetaSet {
        register: u32,
        key: u32,
    },
    State {
        register: u32,
    },
    Payload {
        register: u32,
        base: u32,
        offset: u32,
        length: u32,
    },
    DestinationType {
        register: u32,
    },
    Bitwise {
        register: u32,
        mask: Vec<u8>,
        xor: Vec<u8>,
    },
    Compare {
        register: u32,
        is: bool,
        value: Vec<u8>,
    },
    Range {
        register: u32,
        is: bool,
        first: Vec<u8>,
        last: Vec<u8>,
    },
    Lookup {
        register: u32,
        set: String,
        is: bool,
    },
    Verdict(Verdict),
    Log {
        prefix: String,
        level: u32,
    },
    NoTrack,
    /// What it has counted is no part of what it is.
    Counter,
    Other(String),
}

impl Expression {
    /// The expressions of a rule.
    pub fn of(statements: &[Statement]) -> Vec<Expression> {
        let mut expressions = Vec::new();
        for statement in statements {
            of_statement(statement, &mut expressions);
        }
        expressions
    }

    pub fn write(&self, list: &mut Attributes) {
        type Fill<'a> = Box<dyn Fn(&mut Attributes) + 'a>;
        let (name, fill): (&str, Fill<'_>) = match self {
            Expression::Meta { register, key } => (
                "meta",
                Box::new(move |data| {
                    data.number(1, *register).number(2, *key);
                }),
            ),
            Expression::MetaSet { register, key } => (
                "meta",
                Box::new(move |data| {
                    data.number(2, *key).number(3, *register);
                }),
            ),
            Expression::State { register } => (
                "ct",
                Box::new(move |data| {
                    data.number(1, *register).number(2, 0);
                }),
            ),
            Expression::Payload { register, base, offset, length } => (
                "payload",
                Box::new(move |data| {
                    data.number(1, *register).number(2, *base).number(3, *offset).number(4, *length);
                }),
            ),
            Expression::DestinationType { register } => (
                "fib",
                Box::new(move |data| {
                    data.number(1, *register).number(2, FIB_RESULT_ADDRESS_TYPE).number(3, FIB_DESTINATION);
                }),
            ),
            Expression::Bitwise { register, mask, xor } => (
                "bitwise",
                Box::new(move |data| {
                    let length = u32::try_from(mask.len()).unwrap_or_default();
                    data.number(1, *register).number(2, *register).number(3, length);
                    value(data, 4, mask);
                    value(data, 5, xor);
                }),
            ),
            Expression::Compare { register, is, value: wanted } => (
                "cmp",
                Box::new(move |data| {
                    data.number(1, *register).number(2, u32::from(!is));
                    value(data, 3, wanted);
                }),
            ),
            Expression::Range { register, is, first, last } => (
                "range",
                Box::new(move |data| {
                    data.number(1, *register).number(2, u32::from(!is));
                    value(data, 3, first);
                    value(data, 4, last);
                }),
            ),
            Expression::Lookup { register, set, is } => (
                "lookup",
                Box::new(move |data| {
                    data.text(1, set).number(2, *register).number(5, u32::from(!is));
                }),
            ),
            Expression::Verdict(verdict) => (
                "immediate",
                Box::new(move |data| {
                    data.number(1, VERDICT).nest(2, |data| {
                        data.nest(2, |inner| {
                            let (code, chain) = code_of(verdict);
                            inner.bytes(1, &code.to_be_bytes());
                            if let Some(chain) = chain {
                                inner.text(2, chain);
                            }
                        });
                    });
                }),
            ),
            Expression::Log { prefix, level } => (
                "log",
                Box::new(move |data| {
                    data.text(2, prefix).number(5, *level);
                }),
            ),
            Expression::NoTrack => ("notrack", Box::new(|_| {})),
            Expression::Counter => ("counter", Box::new(|_| {})),
            Expression::Other(name) => (name, Box::new(|_| {})),
        };
        list.nest(1, |element| {
            element.text(1, name).nest(2, |data| fill(data));
        });
    }

    /// The expressions of a rule that the kernel has sent.
    pub fn read_all(list: Read<'_>) -> Vec<Expression> {
        list.all().map(|(_, element)| Expression::read(Read::of(element))).collect()
    }

    fn read(element: Read<'_>) -> Expression {
        let name = element.text(1).unwrap_or_default();
        let empty = Read::of(&[]);
        let data = element.nested(2).unwrap_or(empty);
        known(&name, data).unwrap_or(Expression::Other(name))
    }
}

fn known(name: &str, data: Read<'_>) -> Option<Expression> {
    let read_value = |kind: u16| Some(data.nested(kind)?.get(1)?.to_vec());
    Some(match name {
        "meta" => match (data.number(1), data.number(3)) {
            (Some(register), None) => Expression::Meta { register: named(register), key: data.number(2)? },
            (None, Some(register)) => Expression::MetaSet { register: named(register), key: data.number(2)? },
            _ => return None,
        },
        "ct" if data.number(2) == Some(0) && data.get(3).is_none() => {
            Expression::State { register: named(data.number(1)?) }
        }
        "payload" => Expression::Payload {
            register: named(data.number(1)?),
            base: data.number(2)?,
            offset: data.number(3)?,
            length: data.number(4)?,
        },
        "fib"
            if (data.number(2), data.number(3)) == (Some(FIB_RESULT_ADDRESS_TYPE), Some(FIB_DESTINATION)) =>
        {
            Expression::DestinationType { register: named(data.number(1)?) }
        }
        "bitwise" if data.number(1) == data.number(2) => Expression::Bitwise {
            register: named(data.number(1)?),
            mask: read_value(4)?,
            xor: read_value(5)?,
        },
        "cmp" => Expression::Compare {
            register: named(data.number(1)?),
            is: equality(data.number(2)?)?,
            value: read_value(3)?,
        },
        "range" => Expression::Range {
            register: named(data.number(1)?),
            is: equality(data.number(2)?)?,
            first: read_value(3)?,
            last: read_value(4)?,
        },
        "lookup" => Expression::Lookup {
            register: named(data.number(2)?),
            set: data.text(1)?,
            is: data.number(5).unwrap_or_default() == 0,
        },
        "immediate" => {
            let verdict = data.nested(2)?.nested(2)?;
            let code = i32::from_be_bytes(verdict.get(1)?.get(..4)?.try_into().ok()?);
            Expression::Verdict(match (code, verdict.text(2)) {
                (NF_DROP, _) => Verdict::Drop,
                (NF_ACCEPT, _) => Verdict::Accept,
                (NFT_RETURN, _) => Verdict::Return,
                (NFT_JUMP, Some(chain)) => Verdict::Jump(chain),
                (NFT_GOTO, Some(chain)) => Verdict::Goto(chain),
                _ => return None,
            })
        }
        "log" => Expression::Log { prefix: data.text(2)?, level: data.number(5)? },
        "notrack" => Expression::NoTrack,
        "counter" => Expression::Counter,
        _ => return None,
    })
}

/// The kernel names a register that is aligned to 16 bytes as one of the four large ones.
fn named(register: u32) -> u32 {
    match register {
        1..=4 => REGISTER + 4 * (register - 1),
        other => other,
    }
}

fn equality(operator: u32) -> Option<bool> {
    match operator {
        0 => Some(true),
        1 => Some(false),
        _ => None,
    }
}

fn code_of(verdict: &Verdict) -> (i32, Option<&str>) {
    match verdict {
        Verdict::Drop => (NF_DROP, None),
        Verdict::Accept => (NF_ACCEPT, None),
        Verdict::Return => (NFT_RETURN, None),
        Verdict::Jump(chain) => (NFT_JUMP, Some(chain)),
        Verdict::Goto(chain) => (NFT_GOTO, Some(chain)),
    }
}

fn value(data: &mut Attributes, kind: u16, bytes: &[u8]) {
    data.nest(kind, |inner| {
        inner.bytes(1, bytes);
    });
}

fn of_statement(statement: &Statement, to: &mut Vec<Expression>) {
    let mark = |bits: u32, xor: u32, to: &mut Vec<Expression>| {
        to.push(Expression::Meta { register: REGISTER, key: META_MARK });
        let (mask, xor) = ((!bits).to_ne_bytes().to_vec(), xor.to_ne_bytes().to_vec());
        to.push(Expression::Bitwise { register: REGISTER, mask, xor });
        to.push(Expression::MetaSet { register: REGISTER, key: META_MARK });
    };
    match statement {
        Statement::Match(condition) => of_match(condition, to),
        Statement::Counter => to.push(Expression::Counter),
        Statement::Log(prefix) => {
            to.push(Expression::Log { prefix: prefix.clone(), level: LEVEL_INFO });
        }
        Statement::NoTrack => to.push(Expression::NoTrack),
        Statement::Mark(bits) => mark(*bits, *bits, to),
        Statement::Unmark(bits) => mark(*bits, 0, to),
        Statement::Verdict(verdict) => to.push(Expression::Verdict(verdict.clone())),
    }
}

fn of_match(condition: &Match, to: &mut Vec<Expression>) {
    let register = REGISTER;
    let compare = |is: bool, value: Vec<u8>| Expression::Compare { register, is, value };
    let any_bit = |bits: u32| {
        let (mask, xor) = (bits.to_ne_bytes().to_vec(), vec![0; 4]);
        [Expression::Bitwise { register, mask, xor }, compare(false, vec![0; 4])]
    };
    let meta = |key| Expression::Meta { register, key };
    match condition {
        Match::InputInterface(name) => to.extend([meta(META_INPUT_NAME), compare(true, interface(name))]),
        Match::OutputInterface(name) => to.extend([meta(META_OUTPUT_NAME), compare(true, interface(name))]),
        Match::Family(Family::V4) => to.extend([meta(META_FAMILY), compare(true, vec![2])]),
        Match::Family(Family::V6) => to.extend([meta(META_FAMILY), compare(true, vec![10])]),
        Match::Protocol { protocol, is } => to.extend([meta(META_PROTOCOL), compare(*is, vec![*protocol])]),
        Match::Address { side, prefix, length } => {
            let (address, mask) = masked(*prefix, *length);
            let xor = vec![0; mask.len()];
            let field = Field::Address(*side, Family::of(*prefix));
            to.extend([
                load(field, register),
                Expression::Bitwise { register, mask, xor },
                compare(true, address),
            ]);
        }
        Match::Port { side, first, last, is } => {
            to.push(load(Field::Port(*side), register));
            let (first, last) = (first.to_be_bytes().to_vec(), last.to_be_bytes().to_vec());
            to.push(if first == last {
                compare(*is, first)
            } else {
                Expression::Range { register, is: *is, first, last }
            });
        }
        Match::Icmp { kind, code, is } => {
            let wanted: Vec<u8> = std::iter::once(*kind).chain(*code).collect();
            let length = wanted.len() as u32;
            to.push(Expression::Payload { register, base: TRANSPORT, offset: 0, length });
            to.push(compare(*is, wanted));
        }
        Match::HopLimit(limit) => {
            to.push(Expression::Payload { register, base: NETWORK, offset: 7, length: 1 });
            to.push(compare(true, vec![*limit]));
        }
        Match::LocalDestination => {
            let unicast = ROUTE_UNICAST.to_ne_bytes().to_vec();
            to.extend([Expression::DestinationType { register }, compare(false, unicast)]);
        }
        Match::Marked(bits) => {
            to.push(meta(META_MARK));
            to.extend(any_bit(*bits));
        }
        Match::State(mask) => {
            to.push(Expression::State { register });
            to.extend(any_bit(mask.0));
        }
        Match::InSet { fields, set, is } => {
            let mut at = register;
            for field in fields {
                let next = load(*field, at);
                at += words(*field);
                to.push(next);
            }
            to.push(Expression::Lookup { register, set: set.clone(), is: *is });
        }
    }
}

/// The registers that a field takes.
fn words(field: Field) -> u32 {
    match field {
        Field::Address(_, Family::V6) => 4,
        _ => 1,
    }
}

fn load(field: Field, register: u32) -> Expression {
    let network = |offset, length| Expression::Payload { register, base: NETWORK, offset, length };
    match field {
        Field::Address(Side::Source, Family::V4) => network(12, 4),
        Field::Address(Side::Destination, Family::V4) => network(16, 4),
        Field::Address(Side::Source, Family::V6) => network(8, 16),
        Field::Address(Side::Destination, Family::V6) => network(24, 16),
        Field::Protocol => Expression::Meta { register, key: META_PROTOCOL },
        Field::Port(side) => {
            let offset = if side == Side::Source { 0 } else { 2 };
            Expression::Payload { register, base: TRANSPORT, offset, length: 2 }
        }
    }
}

fn interface(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(INTERFACE_BYTES, 0);
    bytes
}
