//! Which addresses and node ports a service has. What is taken follows from the services that are there, and from nothing
//! else: there is no ledger that could disagree with them after a crash.
//!
//! ```text
//!   10.96.0.0 … 10.96.0.255   for those who ask for an address by number, and once the rest is full
//!   10.96.1.0 … 10.96.255.254 from here on for those who do not ask: the lowest that is free
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use serde_json::Value;

use crate::cidr::Cidr;
use crate::convert::cluster_ips;
use crate::object::{FieldError, FieldErrorReason};

/// From where services get what they do not ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranges {
    /// Of IPv4 addresses.
    pub v4: Cidr,
    /// Of IPv6 addresses.
    pub v6: Cidr,
    /// Of node ports.
    pub node_ports: RangeInclusive<u16>,
}

impl Default for Ranges {
    fn default() -> Self {
        let cidr = |address, length| Cidr::new(address, length).unwrap_or(Cidr::host(address));
        Self {
            v4: cidr(IpAddr::from([10, 96, 0, 0]), 16),
            v6: cidr(IpAddr::from([0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0]), 112),
            node_ports: 30_000..=32_767,
        }
    }
}

/// What services have, and which of them.
#[derive(Debug, Clone, Default)]
pub struct Taken {
    addresses: BTreeMap<IpAddr, String>,
    node_ports: BTreeMap<(String, u16), String>,
}

impl Taken {
    /// The same of a service as it is stored, without decoding it whole.
    pub fn add_stored(&mut self, service: &Value) {
        let text = |path: &str| service.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let owner = format!("{}/{}", text("/metadata/namespace"), text("/metadata/name"));
        let list = |path: &str| service.pointer(path).and_then(Value::as_array).into_iter().flatten();
        let all = list("/spec/clusterIPs").filter_map(Value::as_str).chain([text("/spec/clusterIP")]);
        for address in all.filter_map(|text| text.parse().ok()) {
            self.addresses.insert(address, owner.clone());
        }
        for port in list("/spec/ports") {
            let number =
                port.get("nodePort").and_then(Value::as_u64).and_then(|number| u16::try_from(number).ok());
            if let Some(number) = number.filter(|number| *number != 0) {
                let protocol = port.get("protocol").and_then(Value::as_str).unwrap_or("TCP");
                self.node_ports.insert((protocol.to_owned(), number), owner.clone());
            }
        }
    }

    /// A service has what its object says.
    pub fn add(&mut self, service: &Service) {
        let metadata = &service.metadata;
        let own = |text: &Option<String>| text.clone().unwrap_or_default();
        let owner = format!("{}/{}", own(&metadata.namespace), own(&metadata.name));
        let Some(spec) = &service.spec else { return };
        for address in cluster_ips(spec).filter_map(|text| text.parse().ok()) {
            self.addresses.insert(address, owner.clone());
        }
        for port in spec.ports.iter().flatten() {
            if let Some(number) = number(port.node_port) {
                let protocol = protocol(port.protocol.as_ref());
                self.node_ports.insert((protocol, number), owner.clone());
            }
        }
    }
}

/// Completes a service that is made, or that replaces `former`, with families, addresses and node ports. `taken` is what
/// all others have. Whatever is wrong is returned; then the service is not complete.
pub fn allocate(
    service: &mut Service,
    former: Option<&Service>,
    taken: &Taken,
    ranges: &Ranges,
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let Some(spec) = service.spec.as_mut() else { return errors };
    let former = former.and_then(|former| former.spec.as_ref());
    let kind = |spec: &ServiceSpec| spec.type_.clone().unwrap_or_else(|| "ClusterIP".to_owned());
    if kind(spec) == "ExternalName" {
        (spec.cluster_ip, spec.cluster_ips) = (None, None);
        (spec.ip_families, spec.ip_family_policy) = (None, None);
    } else {
        let with_address = former.filter(|former| kind(former) != "ExternalName");
        give_addresses(spec, with_address, taken, ranges, &mut errors);
    }
    give_node_ports(spec, former, taken, ranges, &mut errors);
    errors
}

fn give_addresses(
    spec: &mut ServiceSpec,
    former: Option<&ServiceSpec>,
    taken: &Taken,
    ranges: &Ranges,
    errors: &mut Vec<FieldError>,
) {
    let mut given: Vec<String> = cluster_ips(spec).cloned().collect();
    let before: Vec<String> = former.map(|former| cluster_ips(former).cloned().collect()).unwrap_or_default();
    if given.is_empty() {
        given.clone_from(&before);
    }
    if let (Some(before), Some(given)) = (before.first(), given.first())
        && before != given
    {
        errors.push(invalid("spec.clusterIPs[0]", given, "may not change once set"));
        return;
    }
    let is_headless = given.first().is_some_and(|text| text == "None");
    let families = match families(spec, former, &given) {
        Ok(families) => families,
        Err(error) => return errors.push(error),
    };
    if is_headless {
        given.truncate(1);
    } else {
        given.truncate(families.len());
        for (index, family) in families.iter().enumerate() {
            let field = format!("spec.clusterIPs[{index}]");
            match given.get(index).cloned() {
                Some(text) if before.contains(&text) => {}
                Some(text) => errors.extend(refusal(&field, &text, *family, taken, ranges)),
                None => match free_address(*family, taken, ranges) {
                    Some(address) => given.push(address.to_string()),
                    None => {
                        let why = format!("no address of {} is free", range(*family, ranges));
                        return errors.push(invalid(&field, "", &why));
                    }
                },
            }
        }
    }
    spec.cluster_ip = given.first().cloned();
    spec.cluster_ips = Some(given);
    spec.ip_families = Some(families.iter().map(|family| family.name().to_owned()).collect());
    let policy = if families.len() == 2 { "RequireDualStack" } else { "SingleStack" };
    spec.ip_family_policy.get_or_insert_with(|| policy.to_owned());
}

/// An IP version, as services name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

/// The families of a service: those that it names, those of the addresses that it gives, IPv4; and the other one where
/// its policy asks for both.
fn families(
    spec: &ServiceSpec,
    former: Option<&ServiceSpec>,
    given: &[String],
) -> Result<Vec<Family>, FieldError> {
    let named = |spec: &ServiceSpec| -> Vec<Family> {
        let names = spec.ip_families.iter().flatten();
        names.map(|name| if name == "IPv6" { Family::V6 } else { Family::V4 }).collect()
    };
    let mut families = named(spec);
    let former = former.map(named).unwrap_or_default();
    if families.is_empty() {
        families.clone_from(&former);
    }
    for (index, address) in
        given.iter().enumerate().filter_map(|(index, text)| Some((index, text.parse().ok()?)))
    {
        let own = Family::of(address);
        match families.get(index) {
            None => families.push(own),
            Some(family) if *family == own => {}
            Some(family) => {
                let why =
                    format!("expected an {} value as indicated by `ipFamilies[{index}]`", family.name());
                return Err(invalid(&format!("spec.clusterIPs[{index}]"), &address.to_string(), &why));
            }
        }
    }
    if families.is_empty() {
        families.push(Family::V4);
    }
    if let (Some(before), Some(now)) = (former.first(), families.first())
        && before != now
    {
        return Err(invalid("spec.ipFamilies[0]", now.name(), "may not change once set"));
    }
    let policy = spec.ip_family_policy.as_deref();
    match (policy, families.as_slice()) {
        (Some("RequireDualStack" | "PreferDualStack"), [one]) => families.push(one.other()),
        (Some("SingleStack"), [_, _]) if former.len() == 2 => families.truncate(1),
        (Some("SingleStack"), [_, _]) => {
            let why =
                "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified";
            return Err(invalid("spec.ipFamilyPolicy", "SingleStack", why));
        }
        _ => {}
    }
    Ok(families)
}

fn range(family: Family, ranges: &Ranges) -> Cidr {
    if family == Family::V4 { ranges.v4 } else { ranges.v6 }
}

/// Why a service may not have the address it asks for.
fn refusal(field: &str, text: &str, family: Family, taken: &Taken, ranges: &Ranges) -> Option<FieldError> {
    let address: IpAddr = text.parse().ok()?;
    let range = range(family, ranges);
    let why = if !range.contains(address) {
        format!("the provided IP is not in the valid range. The range of valid IPs is {range}")
    } else if let Some(owner) = taken.addresses.get(&address) {
        format!("the provided IP is already allocated: to {owner}")
    } else {
        return None;
    };
    Some(invalid(field, text, &format!("failed to allocate IP {text}: {why}")))
}

/// The lowest free address behind those that are for asking by number; then of these.
fn free_address(family: Family, taken: &Taken, ranges: &Ranges) -> Option<IpAddr> {
    let range = range(family, ranges);
    let bits = if family == Family::V4 { 32 } else { 128 };
    let last = 1u32.checked_shl(bits - u32::from(range.length())).map_or(u32::MAX, |size| size - 1);
    // Neither the first address of an IPv4 range nor its last.
    let last = if family == Family::V4 { last.saturating_sub(1) } else { last };
    let for_asking = (last / 16).clamp(1, 256);
    let is_free =
        |offset: &u32| range.nth(*offset).is_some_and(|address| !taken.addresses.contains_key(&address));
    (for_asking..=last).chain(1..for_asking).find(is_free).and_then(|offset| range.nth(offset))
}

fn give_node_ports(
    spec: &mut ServiceSpec,
    former: Option<&ServiceSpec>,
    taken: &Taken,
    ranges: &Ranges,
    errors: &mut Vec<FieldError>,
) {
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP").to_owned();
    let is_balanced = kind == "LoadBalancer";
    let may_have = kind == "NodePort" || is_balanced;
    let must_have =
        kind == "NodePort" || (is_balanced && spec.allocate_load_balancer_node_ports != Some(false));
    let known = former.into_iter().flat_map(|former| former.ports.iter().flatten());
    let before: BTreeMap<(String, i32), u16> = known
        .filter_map(|known| Some(((protocol(known.protocol.as_ref()), known.port), number(known.node_port)?)))
        .collect();
    let mut own = taken.node_ports.clone();
    let mut wanting = Vec::new();
    for (index, port) in spec.ports.iter_mut().flatten().enumerate() {
        let field = format!("spec.ports[{index}].nodePort");
        let protocol = protocol(port.protocol.as_ref());
        let before = before.get(&(protocol.clone(), port.port)).copied();
        if !may_have {
            if number(port.node_port).is_some_and(|port| Some(port) != before) {
                let why = format!("Forbidden: may not be used when `type` is '{kind}'");
                errors.push(FieldError { field, reason: FieldErrorReason::Forbidden, message: why });
            }
            port.node_port = None;
            continue;
        }
        let Some(number) = number(port.node_port) else {
            match before.filter(|port| !own.contains_key(&(protocol.clone(), *port))) {
                Some(number) => {
                    port.node_port = Some(number.into());
                    own.insert((protocol, number), String::new());
                }
                None if must_have => wanting.push(index),
                None => {}
            }
            continue;
        };
        if !ranges.node_ports.contains(&number) && before != Some(number) {
            let (first, last) = (ranges.node_ports.start(), ranges.node_ports.end());
            let why = format!(
                "provided port is not in the valid range. The range of valid ports is {first}-{last}"
            );
            errors.push(invalid(&field, &number.to_string(), &why));
        } else if let Some(owner) = own.insert((protocol, number), String::new()) {
            let owner = if owner.is_empty() { "this service".to_owned() } else { owner };
            errors.push(invalid(
                &field,
                &number.to_string(),
                &format!("provided port is already allocated: to {owner}"),
            ));
        }
    }
    // Whoever asked by number has been served: now those who take any. Nothing becomes free meanwhile, so that the search
    // goes on where it ended.
    let mut searches: BTreeMap<String, RangeInclusive<u16>> = BTreeMap::new();
    for index in wanting {
        let Some(port) = spec.ports.as_mut().and_then(|ports| ports.get_mut(index)) else { continue };
        let protocol = protocol(port.protocol.as_ref());
        let search = searches.entry(protocol.clone()).or_insert_with(|| ranges.node_ports.clone());
        match search.find(|number| !own.contains_key(&(protocol.clone(), *number))) {
            Some(number) => {
                own.insert((protocol, number), String::new());
                port.node_port = Some(number.into());
            }
            None => {
                let why = "failed to allocate a nodePort: all of the range are taken";
                errors.push(invalid(&format!("spec.ports[{index}].nodePort"), "", why));
            }
        }
    }
}

fn protocol(given: Option<&String>) -> String {
    given.cloned().unwrap_or_else(|| "TCP".to_owned())
}

fn number(port: Option<i32>) -> Option<u16> {
    port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)
}

fn invalid(field: &str, value: &str, why: &str) -> FieldError {
    FieldError {
        field: field.to_owned(),
        reason: FieldErrorReason::Invalid,
        message: format!("Invalid value: {value:?}: {why}"),
    }
}
