//! The formats of values in Calico's objects. Every check says what would be right.

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Errors, format};
use crate::cidr::{Cidr, parse_address_and_length};
use crate::duration;
use crate::selector::Selector;

/// The longest selector that is a field of an object.
const SELECTOR_MAX: usize = 1024;

/// A CIDR, host bits or not.
pub(super) fn cidr(text: &str) -> Result<(), String> {
    parse_address_and_length(text).map(|_| ()).map_err(|error| format!("must be a CIDR: {error}"))
}

/// A CIDR without host bits.
pub(super) fn masked_cidr(text: &str) -> Result<Cidr, String> {
    let (address, length) =
        parse_address_and_length(text).map_err(|error| format!("must be a CIDR: {error}"))?;
    let cidr = Cidr::new(address, length).map_err(|error| error.to_string())?;
    if cidr.address() == address {
        Ok(cidr)
    } else {
        Err(format!("has host bits set: must be \"{cidr}\" or, for one address, \"{}\"", Cidr::host(address)))
    }
}

/// A CIDR or an address, host bits or not.
pub(super) fn net(text: &str) -> Result<(), String> {
    if text.parse::<IpAddr>().is_ok() || parse_address_and_length(text).is_ok() {
        return Ok(());
    }
    Err("must be an address or a CIDR, such as \"192.0.2.1\" or \"2001:db8::/32\"".to_owned())
}

/// An address.
pub(super) fn address(text: &str) -> Result<(), String> {
    text.parse::<IpAddr>()
        .map(|_| ())
        .map_err(|_| "must be an address, such as \"192.0.2.1\" or \"2001:db8::1\"".to_owned())
}

/// Go's durations: numbers with units, `1m30s`.
pub(super) fn duration(text: &str) -> Result<(), String> {
    if duration::parse(text.strip_prefix(['-', '+']).unwrap_or(text)).is_some() {
        Ok(())
    } else {
        Err("must be a duration: numbers with units (h, m, s, ms, us, ns), such as \"1m30s\"".to_owned())
    }
}

/// An interface's name.
pub(super) fn interface(text: &str) -> Result<(), String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if (1..=15).contains(&text.len()) && text.bytes().all(good) {
        return Ok(());
    }
    Err("must be an interface's name: 1 to 15 letters, digits, '_', '.' and '-'".to_owned())
}

/// An interface's name in which `*` stands for any characters.
pub(super) fn interface_pattern(text: &str) -> Result<(), String> {
    interface(&text.replace('*', "_"))
        .map_err(|_| "must be 1 to 15 letters, digits, '_', '.', '-' and, for any characters, '*'".to_owned())
}

/// A BGP community: `aa:nn`, or large, `aa:nn:mm`.
pub(super) fn community(text: &str) -> Result<(), String> {
    let parts: Vec<&str> = text.split(':').collect();
    let within = |max: u64| {
        parts.iter().all(|part| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_digit())
                && part.parse::<u64>().is_ok_and(|number| number <= max)
        })
    };
    match parts.len() {
        2 if within(u16::MAX.into()) => Ok(()),
        3 if within(u32::MAX.into()) => Ok(()),
        _ => Err("must be a community \"aa:nn\" (each 0 to 65535) or \"aa:nn:mm\" (each 0 to 4294967295)"
            .to_owned()),
    }
}

/// A port as Calico writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Port {
    /// One or some, by number.
    Numeric,
    /// By name.
    Named,
}

/// A port: a number, a range `"first:last"`, or a name.
pub(super) fn port(port: &IntOrString) -> Result<Port, String> {
    match port {
        IntOrString::Int(number) => format::port_number(*number).map(|()| Port::Numeric),
        IntOrString::String(text) => port_text(text),
    }
}

fn port_text(text: &str) -> Result<Port, String> {
    if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
        return number(text).map(|_| Port::Numeric);
    }
    if let Some((first, last)) = text.split_once(':') {
        return if number(first)? <= number(last)? {
            Ok(Port::Numeric)
        } else {
            Err("must be \"first:last\" with the lower port first".to_owned())
        };
    }
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if (1..=128).contains(&text.len()) && text.bytes().all(good) {
        return Ok(Port::Named);
    }
    Err("must be a port from 1 to 65535, a range \"first:last\", or a name of 1 to 128 letters, digits, '_', '.' \
         and '-'"
        .to_owned())
}

/// A port's number in a text.
pub(super) fn number(text: &str) -> Result<u16, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(number) if digits && number != 0 => Ok(number),
        _ => Err(format!("{text:?} must be a port from 1 to 65535")),
    }
}

/// Whether a selector may say `global()`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    /// It may not.
    Never,
    /// It may, and then nothing else.
    Alone,
}

/// A selector in a field of an object.
pub(super) fn selector(field: &str, text: Option<&str>, global: Global, errors: &mut Errors) {
    let Some(text) = text else { return };
    errors.at_most_characters(field, text, SELECTOR_MAX);
    unlimited_selector(field, text, global, errors);
}

/// A selector of any length.
pub(super) fn unlimited_selector(field: &str, text: &str, global: Global, errors: &mut Errors) {
    match Selector::parse(text) {
        Err(error) => errors.invalid(field, text, format!("must be a selector: {error}")),
        Ok(Selector::Global) if global == Global::Alone => {}
        Ok(selector) if says_global(&selector) => {
            let why = match global {
                Global::Alone => "global() must stand alone",
                Global::Never => {
                    "global() may be used only in the namespaceSelector of a rule's source or destination"
                }
            };
            errors.invalid(field, text, why);
        }
        Ok(_) => {}
    }
}

fn says_global(selector: &Selector) -> bool {
    match selector {
        Selector::Global => true,
        Selector::And(terms) | Selector::Or(terms) => terms.iter().any(says_global),
        Selector::Not(term) => says_global(term),
        _ => false,
    }
}
