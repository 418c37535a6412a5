//! Reads case files.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

use super::fields::{Fields, Item, join};
use super::{
    Case, CaseError, CaseFlow, CaseObject, DEFAULT_TIMEOUT_MS, Expect, External, HostFlow, HostPath, Icmp,
    LabOptions, Party, PortReference, Reject,
};
use crate::object::{Kind, ObjectKey, kind_of};
use crate::pod_port::{PodPort, UnknownPodPort};
use crate::policy::IpVersion;
use crate::protocol::Protocol;
use crate::yaml;

/// The longest that a flow may be waited for: ten minutes.
const TIMEOUT_MS_MAX: u64 = 600_000;

impl Case {
    /// Reads a case file. Unknown fields are errors; every error names the line and the field.
    pub fn parse(text: &str) -> Result<Self, CaseError> {
        let documents = yaml::parse_documents(text).map_err(|error| CaseError {
            line: error.line,
            field: String::new(),
            message: error.message,
        })?;
        let not_one = |line| CaseError {
            line,
            field: String::new(),
            message: "a case file holds one YAML document, a map with name, objects and flows".to_owned(),
        };
        let root = match documents.as_slice() {
            [root] => root,
            [_, second, ..] => return Err(not_one(second.line)),
            [] => return Err(not_one(1)),
        };
        let mut fields =
            Item { path: String::new(), tree: root }.fields().map_err(|error| not_one(error.line))?;
        let case = Self {
            name: name(&fields.required("name")?)?,
            description: fields
                .optional("description")
                .map(|item| item.text().map(str::to_owned))
                .transpose()?,
            objects: objects(fields.list("objects")?)?,
            externals: externals(fields.list("externals")?)?,
            flows: fields.list("flows")?.iter().map(flow).collect::<Result<_, _>>()?,
            host_flows: fields.list("hostFlows")?.iter().map(host_flow).collect::<Result<_, _>>()?,
            rejects: fields.list("rejects")?.iter().map(reject).collect::<Result<_, _>>()?,
            lab: fields.optional("lab").map_or(Ok(LabOptions::default()), |item| lab(&item))?,
        };
        fields.finish()?;
        Ok(case)
    }
}

fn name(item: &Item<'_>) -> Result<String, CaseError> {
    match item.text()? {
        "" => Err(item.error("must not be empty")),
        text => Ok(text.to_owned()),
    }
}

fn objects(items: Vec<Item<'_>>) -> Result<Vec<CaseObject>, CaseError> {
    let mut lines: BTreeMap<ObjectKey, u64> = BTreeMap::new();
    let mut objects = Vec::new();
    for (index, item) in items.into_iter().enumerate() {
        let mut value = item.tree.to_json();
        let kind = kind_of(&value).map_err(|error| {
            let field = error.fields().first().copied().unwrap_or_default().to_owned();
            let (line, field) = match field.as_str() {
                "(object)" => (item.tree.line, item.path.clone()),
                field => (item.tree.line_of(field), join(&item.path, field)),
            };
            CaseError { line, field, message: error.to_string() }
        })?;
        let key = identity(kind, &mut value);
        if let Some(line) = lines.insert(key.clone(), item.tree.line) {
            return Err(item.error(format!("{key} is there already, on line {line}")));
        }
        objects.push(CaseObject { index, key, value, tree: item.tree.clone() });
    }
    Ok(objects)
}

/// Which object a manifest is, decodable or not; an object of a namespaced kind that names none is put in `default`.
fn identity(kind: Kind, value: &mut Value) -> ObjectKey {
    let mut namespace = None;
    let mut name = String::new();
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        if kind.is_namespaced() {
            let given = metadata.entry("namespace").or_insert(Value::Null);
            if given.is_null() || given.as_str() == Some("") {
                *given = Value::String("default".to_owned());
            }
            namespace = given.as_str().map(str::to_owned);
        }
        name = metadata.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    }
    ObjectKey { kind, namespace, name }
}

fn externals(items: Vec<Item<'_>>) -> Result<Vec<External>, CaseError> {
    let mut externals: Vec<External> = Vec::new();
    for item in items {
        let mut fields = item.fields()?;
        let external =
            External { name: name(&fields.required("name")?)?, ip: address(&fields.required("ip")?)? };
        fields.finish()?;
        if externals.iter().any(|known| known.name == external.name) {
            return Err(item.error(format!("the external {:?} is there already", external.name)));
        }
        externals.push(external);
    }
    Ok(externals)
}

fn address(item: &Item<'_>) -> Result<IpAddr, CaseError> {
    let text = item.text()?;
    text.parse().map_err(|_| item.error(format!("{text:?} is not an IP address")))
}

fn flow(item: &Item<'_>) -> Result<CaseFlow, CaseError> {
    let mut fields = item.fields()?;
    let from_item = fields.required("from")?;
    let from = party(&from_item)?;
    if matches!(from, Party::Service { .. }) {
        return Err(from_item.error("a service opens no connections; name one of its pods"));
    }
    let to = party(&fields.required("to")?)?;
    let packet = Packet::read(item, &mut fields, &from, &to)?;
    let timeout = fields.optional("timeout_ms").map(|item| item.number(1, TIMEOUT_MS_MAX)).transpose()?;
    let expect = expect(&fields.required("expect")?, false)?;
    fields.finish()?;
    Ok(CaseFlow {
        line: item.tree.line,
        from,
        to,
        protocol: packet.protocol,
        port: packet.port,
        source_port: packet.source_port,
        icmp: packet.icmp,
        ip_version: packet.ip_version,
        timeout_ms: timeout.unwrap_or(DEFAULT_TIMEOUT_MS),
        expect,
    })
}

fn host_flow(item: &Item<'_>) -> Result<HostFlow, CaseError> {
    let mut fields = item.fields()?;
    let host_endpoint = name(&fields.required("hostEndpoint")?)?;
    let path_item = fields.required("path")?;
    let path = match path_item.text()? {
        "to-host" => HostPath::ToHost,
        "from-host" => HostPath::FromHost,
        "forward-in" => HostPath::ForwardIn,
        "forward-out" => HostPath::ForwardOut,
        other => {
            let message = format!("{other:?} is not one of to-host, from-host, forward-in, forward-out");
            return Err(path_item.error(message));
        }
    };
    let from = party(&fields.required("from")?)?;
    let to = party(&fields.required("to")?)?;
    let packet = Packet::read(item, &mut fields, &from, &to)?;
    let original_to = fields.optional("originalTo").map(|item| party(&item)).transpose()?;
    let original_port = fields.optional("originalPort").map(|item| item.port()).transpose()?;
    let expect = expect(&fields.required("expect")?, true)?;
    fields.finish()?;
    Ok(HostFlow {
        line: item.tree.line,
        host_endpoint,
        path,
        protocol: packet.protocol,
        from,
        to,
        port: packet.port,
        source_port: packet.source_port,
        icmp: packet.icmp,
        ip_version: packet.ip_version,
        original_to,
        original_port,
        expect,
    })
}

/// What both kinds of flows say of their packet.
struct Packet {
    protocol: Protocol,
    port: Option<PortReference>,
    source_port: Option<u16>,
    icmp: Option<Icmp>,
    ip_version: IpVersion,
}

impl Packet {
    fn read(flow: &Item<'_>, fields: &mut Fields<'_>, from: &Party, to: &Party) -> Result<Self, CaseError> {
        let protocol_item = fields.required("protocol")?;
        let protocol: Protocol =
            protocol_item.word()?.parse().map_err(|error| protocol_item.error(format!("{error}")))?;
        let port = fields.optional("port");
        let source_port = fields.optional("sourcePort");
        if protocol.has_ports() && port.is_none() {
            let field = join(&flow.path, "port");
            return Err(CaseError {
                line: flow.tree.line,
                field,
                message: format!("is missing: {protocol} has ports"),
            });
        }
        if !protocol.has_ports()
            && let Some(item) = port.as_ref().or(source_port.as_ref())
        {
            return Err(item.error(format!("{protocol} has no ports")));
        }
        let icmp_item = fields.optional("icmp");
        let is_icmp = matches!(protocol, Protocol::ICMP | Protocol::ICMPV6);
        if let Some(item) = icmp_item.as_ref().filter(|_| !is_icmp) {
            return Err(item.error(format!("only ICMP and ICMPv6 have types, not {protocol}")));
        }
        Ok(Self {
            protocol,
            port: port.map(|item| port_reference(&item)).transpose()?,
            source_port: source_port.map(|item| item.port()).transpose()?,
            icmp: icmp_item.map(|item| icmp(&item)).transpose()?,
            ip_version: ip_version(fields, protocol, from, to)?,
        })
    }
}

/// The IP version: as said, else that of the addresses or of the protocol, else 4.
fn ip_version(
    fields: &mut Fields<'_>,
    protocol: Protocol,
    from: &Party,
    to: &Party,
) -> Result<IpVersion, CaseError> {
    if let Some(item) = fields.optional("ipVersion") {
        return match item.number(4, 6)? {
            4 => Ok(IpVersion::V4),
            6 => Ok(IpVersion::V6),
            _ => Err(item.error("must be 4 or 6")),
        };
    }
    let is_v6 = |party: &Party| matches!(party, Party::Address(IpAddr::V6(_)));
    let v6 = is_v6(from) || is_v6(to) || protocol == Protocol::ICMPV6;
    Ok(if v6 { IpVersion::V6 } else { IpVersion::V4 })
}

fn port_reference(item: &Item<'_>) -> Result<PortReference, CaseError> {
    let word = item.word()?;
    if word.bytes().all(|b| b.is_ascii_digit()) {
        return match word.parse() {
            Ok(number) if number != 0 => Ok(PortReference::Number(number)),
            _ => Err(item.error("must be from 1 to 65535, or the name of a container port")),
        };
    }
    Ok(PortReference::Name(word))
}

fn icmp(item: &Item<'_>) -> Result<Icmp, CaseError> {
    let mut fields = item.fields()?;
    let kind = fields.required("type")?.byte()?;
    let code = fields.optional("code").map_or(Ok(0), |item| item.byte())?;
    fields.finish()?;
    Ok(Icmp { kind, code })
}

fn expect(item: &Item<'_>, is_host_flow: bool) -> Result<Expect, CaseError> {
    match item.text()? {
        "allow" => Ok(Expect::Allow),
        "deny" => Ok(Expect::Deny),
        "allow-untracked" if is_host_flow => Ok(Expect::AllowUntracked),
        other if is_host_flow => {
            Err(item.error(format!("{other:?} is not one of allow, deny, allow-untracked")))
        }
        other => Err(item.error(format!("{other:?} is not one of allow, deny"))),
    }
}

fn party(item: &Item<'_>) -> Result<Party, CaseError> {
    let text = item.text()?;
    if let Ok(address) = text.parse() {
        return Ok(Party::Address(address));
    }
    let parts: Vec<&str> = text.split('/').collect();
    let owned = |part: &str| part.to_owned();
    match parts.as_slice() {
        _ if parts.contains(&"") => {}
        ["external", name] => return Ok(Party::External(owned(name))),
        ["node", name] => return Ok(Party::Node(owned(name))),
        ["service", namespace, name] => {
            return Ok(Party::Service { namespace: owned(namespace), name: owned(name) });
        }
        [namespace, name] => return Ok(Party::Pod { namespace: owned(namespace), name: owned(name) }),
        _ => {}
    }
    Err(item.error(format!(
        "{text:?} is not namespace/pod, external/NAME, node/NAME, service/NAMESPACE/NAME or an IP address"
    )))
}

fn reject(item: &Item<'_>) -> Result<Reject, CaseError> {
    let mut fields = item.fields()?;
    let mut text = |name| fields.optional(name).map(|item| item.text().map(str::to_owned)).transpose();
    let (api_version, namespace) = (text("apiVersion")?, text("namespace")?);
    let kind_item = fields.required("kind")?;
    let kind = kind_item.text()?.to_owned();
    let is_known = |known: &Kind| {
        known.as_str() == kind && api_version.as_deref().is_none_or(|version| version == known.api_version())
    };
    if !Kind::ALL.iter().any(is_known) {
        let version = api_version.map(|version| format!(" of {version}")).unwrap_or_default();
        return Err(kind_item.error(format!("{kind:?}{version} is not a kind that is known here")));
    }
    let name = fields.required("name")?.text()?.to_owned();
    let field = fields.required("field")?.text()?.to_owned();
    fields.finish()?;
    Ok(Reject { line: item.tree.line, kind, api_version, namespace, name, field })
}

fn lab(item: &Item<'_>) -> Result<LabOptions, CaseError> {
    let number =
        |item: Item<'_>, least, most| item.number(least, most).map(|n| u32::try_from(n).unwrap_or_default());
    let mut fields = item.fields()?;
    let options = LabOptions {
        workers: fields.optional("workers").map(|item| number(item, 1, 64)).transpose()?,
        uplink_mtu: fields.optional("uplinkMTU").map(|item| number(item, 576, 65535)).transpose()?,
        flows: fields.optional("flows").map(|item| number(item, 64, 1 << 24)).transpose()?,
        pod_port: match fields.optional("podPort") {
            Some(item) => {
                item.text()?.parse().map_err(|error: UnknownPodPort| item.error(error.to_string()))?
            }
            None => PodPort::Auto,
        },
        kernel_nodes: fields
            .list("kernelNodes")?
            .iter()
            .map(|item| item.text().map(str::to_owned))
            .collect::<Result<_, _>>()?,
        startup: fields.optional("startup").map(|item| item.boolean()).transpose()?.unwrap_or_default(),
    };
    fields.finish()?;
    Ok(options)
}
