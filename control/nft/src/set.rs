//! Sets of addresses, protocols and ports, and of combinations of them.
//!
//! Members may overlap as they like; elements never do, because the kernel refuses that: one is made of the other here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::Family;

/// The type of a field of a set's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FieldType {
    /// An address.
    Address(Family),
    /// An IP protocol number.
    Protocol,
    /// A port.
    Port,
}

impl FieldType {
    /// The bytes of a value.
    pub(crate) fn width(self) -> usize {
        match self {
            FieldType::Address(Family::V4) => 4,
            FieldType::Address(Family::V6) => 16,
            FieldType::Protocol => 1,
            FieldType::Port => 2,
        }
    }

    /// The highest value.
    pub(crate) fn highest(self) -> u128 {
        u128::MAX >> (128 - 8 * self.width())
    }

    /// What nft(8) calls it, and the number by which it knows it.
    pub(crate) fn name(self) -> (&'static str, u32) {
        match self {
            FieldType::Address(Family::V4) => ("ipv4_addr", 7),
            FieldType::Address(Family::V6) => ("ipv6_addr", 8),
            FieldType::Protocol => ("inet_proto", 12),
            FieldType::Port => ("inet_service", 13),
        }
    }

    fn show(self, value: u128) -> String {
        match self {
            FieldType::Address(Family::V4) => Ipv4Addr::from_bits(value as u32).to_string(),
            FieldType::Address(Family::V6) => Ipv6Addr::from_bits(value).to_string(),
            FieldType::Protocol | FieldType::Port => value.to_string(),
        }
    }
}

/// From where to where, both inclusive, of each field.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element(pub Box<[(u128, u128)]>);

/// A set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    fields: Vec<FieldType>,
    elements: BTreeSet<Element>,
}

impl Set {
    /// A set of single values from `first` to `last`.
    #[must_use]
    pub fn of_ranges(field: FieldType, ranges: impl IntoIterator<Item = (u128, u128)>) -> Set {
        let elements = merged(ranges.into_iter().collect()).into_iter();
        Set { fields: vec![field], elements: elements.map(|range| Element(Box::new([range]))).collect() }
    }

    /// A set of the addresses of one family that are in one of these prefixes.
    #[must_use]
    pub fn of_prefixes(family: Family, prefixes: impl IntoIterator<Item = (IpAddr, u8)>) -> Set {
        let of_family = prefixes.into_iter().filter(|(address, _)| Family::of(*address) == family);
        Set::of_ranges(FieldType::Address(family), of_family.map(range_of))
    }

    /// A set of ports at addresses of one family: prefix, protocol, and the ports from where to where.
    #[must_use]
    pub fn of_ports_at(
        family: Family,
        members: impl IntoIterator<Item = ((IpAddr, u8), u8, (u16, u16))>,
    ) -> Set {
        type Member = ((u128, u128), (u128, u128));
        let mut by_protocol: BTreeMap<u8, Vec<Member>> = BTreeMap::new();
        for (prefix, protocol, (first, last)) in members {
            if Family::of(prefix.0) == family {
                let member = (range_of(prefix), (u128::from(first), u128::from(last)));
                by_protocol.entry(protocol).or_default().push(member);
            }
        }
        let mut elements = BTreeSet::new();
        for (protocol, mut members) in by_protocol {
            members.sort_unstable();
            // Addresses are cut where a member begins or ends; between two cuts the ports are the same.
            let begins = members.iter().map(|(range, _)| range.0);
            let ends = members.iter().filter_map(|(range, _)| range.1.checked_add(1));
            let cuts: BTreeSet<u128> = begins.chain(ends).collect();
            let mut waiting = members.iter().peekable();
            let mut active: Vec<&Member> = Vec::new();
            let mut cuts = cuts.into_iter().peekable();
            while let Some(first) = cuts.next() {
                active.retain(|(range, _)| range.1 >= first);
                while let Some(member) = waiting.next_if(|(range, _)| range.0 == first) {
                    active.push(member);
                }
                let top = FieldType::Address(family).highest();
                let last = cuts.peek().map_or(top, |next| next - 1);
                for ports in merged(active.iter().map(|(_, ports)| *ports).collect()) {
                    let protocol = u128::from(protocol);
                    elements.insert(Element(Box::new([(first, last), (protocol, protocol), ports])));
                }
            }
        }
        Set { fields: vec![FieldType::Address(family), FieldType::Protocol, FieldType::Port], elements }
    }

    /// As it was read; the elements are taken as they are.
    pub(crate) fn read(fields: Vec<FieldType>, elements: BTreeSet<Element>) -> Set {
        Set { fields, elements }
    }

    /// The fields of its elements.
    #[must_use]
    pub fn fields(&self) -> &[FieldType] {
        &self.fields
    }

    /// Its elements; no two have a value in common.
    #[must_use]
    pub fn elements(&self) -> &BTreeSet<Element> {
        &self.elements
    }

    /// Whether `values` are in it.
    #[must_use]
    pub fn contains(&self, values: &[u128]) -> bool {
        self.elements.iter().any(|element| {
            values.iter().zip(&element.0).all(|(value, (first, last))| (first..=last).contains(&value))
        })
    }
}

/// Ranges without overlap, and without a seam between neighbours.
fn merged(mut ranges: Vec<(u128, u128)>) -> Vec<(u128, u128)> {
    ranges.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::new();
    for (first, last) in ranges.into_iter().filter(|(first, last)| first <= last) {
        match merged.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    merged
}

fn range_of((address, length): (IpAddr, u8)) -> (u128, u128) {
    let (value, width) = match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    let hosts = match width - u32::from(length).min(width) {
        128 => u128::MAX,
        bits => (1 << bits) - 1,
    };
    (value & !hosts, value | hosts)
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let types: Vec<&str> = self.fields.iter().map(|field| field.name().0).collect();
        writeln!(f, "\t\ttype {}\n\t\tflags interval", types.join(" . "))?;
        if self.elements.is_empty() {
            return Ok(());
        }
        f.write_str("\t\telements = { ")?;
        for (at, element) in self.elements.iter().enumerate() {
            if at > 0 {
                f.write_str(",\n\t\t\t     ")?;
            }
            for (part, ((first, last), field)) in element.0.iter().zip(&self.fields).enumerate() {
                let (first, last) = (field.show(*first), field.show(*last));
                f.write_str(if part == 0 { "" } else { " . " })?;
                if first == last { f.write_str(&first)? } else { write!(f, "{first}-{last}")? }
            }
        }
        f.write_str(" }\n")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prefixes_that_overlap_or_touch_become_one_range() {
        let prefixes =
            [("10.0.0.0", 24), ("10.0.1.0", 24), ("10.0.0.7", 32), ("2001:db8::", 32), ("9.0.0.0", 32)];
        let prefixes = prefixes.map(|(address, length)| (address.parse().unwrap(), length));
        let set = Set::of_prefixes(Family::V4, prefixes);
        let shown = set.to_string();
        assert!(shown.contains("elements = { 9.0.0.0,\n\t\t\t     10.0.0.0-10.0.1.255 }"), "{shown}");
        let all = Set::of_prefixes(Family::V6, [("::".parse().unwrap(), 0), ("::1".parse().unwrap(), 128)]);
        assert_eq!(all.elements().iter().next().unwrap().0[0], (0, u128::MAX));
        assert_eq!(all.elements().len(), 1);
    }

    proptest! {
        #[test]
        fn elements_of_ports_at_addresses_hold_what_their_members_do_and_never_overlap(
            members in prop::collection::vec((0u32..16, 28u8..=32, 6u8..8, 0u16..6, 0u16..4), 0..12),
        ) {
            let members: Vec<_> = members.iter().map(|(address, length, protocol, first, more)| {
                ((IpAddr::V4(Ipv4Addr::from_bits(*address)), *length), *protocol, (*first, first + more))
            }).collect();
            let set = Set::of_ports_at(Family::V4, members.clone());
            for address in 0..18u128 {
                for protocol in 5..9u8 {
                    for port in 0..12u16 {
                        let is_member = members.iter().any(|(prefix, of, (first, last))| {
                            let (low, high) = range_of(*prefix);
                            (low..=high).contains(&address) && *of == protocol && (*first..=*last).contains(&port)
                        });
                        let values = [address, protocol.into(), port.into()];
                        prop_assert_eq!(set.contains(&values), is_member);
                        let holding = set.elements.iter().filter(|element| {
                            values.iter().zip(&element.0).all(|(v, (first, last))| (first..=last).contains(&v))
                        });
                        prop_assert!(holding.count() <= 1);
                    }
                }
            }
        }
    }
}
