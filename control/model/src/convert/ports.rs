//! Lists of ports as the fewest ranges and the sorted names.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::DroppedRule;
use crate::policy::PortRange;

/// Numbers and names of ports; either matches.
#[derive(Debug, Default)]
pub(super) struct Ports {
    pub ranges: Vec<PortRange>,
    pub names: Vec<String>,
}

impl Ports {
    /// The fewest ranges that hold the same ports, ascending, and each name once.
    pub fn merged(mut self) -> Self {
        self.ranges.sort();
        let mut ranges: Vec<PortRange> = Vec::new();
        for range in self.ranges {
            match ranges.last_mut() {
                Some(before) if u32::from(range.first) <= u32::from(before.last) + 1 => {
                    before.last = before.last.max(range.last);
                }
                _ => ranges.push(range),
            }
        }
        self.names.sort();
        self.names.dedup();
        Self { ranges, names: self.names }
    }
}

/// Calico's ports: a number, `"first:last"` or a name.
pub(super) fn calico_ports(field: &str, ports: Option<&[IntOrString]>) -> Result<Ports, DroppedRule> {
    let mut all = Ports::default();
    for (index, port) in ports.unwrap_or_default().iter().enumerate() {
        let field = format!("{field}[{index}]");
        let number = |text: &str| text.parse().map_err(|_| not_a_port(&field, text));
        match port {
            IntOrString::Int(port) => all.ranges.push(range(&field, (*port).into(), (*port).into())?),
            IntOrString::String(text) => {
                let is_numeric = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
                match text.split_once(':') {
                    Some((first, last)) if is_numeric(first) && is_numeric(last) => {
                        all.ranges.push(range(&field, number(first)?, number(last)?)?);
                    }
                    None if is_numeric(text) => all.ranges.push(range(&field, number(text)?, number(text)?)?),
                    None if !text.is_empty() => all.names.push(text.clone()),
                    _ => return Err(not_a_port(&field, text)),
                }
            }
        }
    }
    Ok(all.merged())
}

/// The ports from `first` to `last`.
pub(super) fn range(field: &str, first: i64, last: i64) -> Result<PortRange, DroppedRule> {
    let number = |port: i64| match u16::try_from(port) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(not_a_port(field, &port.to_string())),
    };
    let (first, last) = (number(first)?, number(last)?);
    if last < first {
        return Err(DroppedRule::new(field, format!("{last} is less than the first port, {first}")));
    }
    Ok(PortRange { first, last })
}

fn not_a_port(field: &str, text: &str) -> DroppedRule {
    DroppedRule::new(field, format!("{text} is not a port from 1 to 65535"))
}
