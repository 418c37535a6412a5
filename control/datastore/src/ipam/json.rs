//! Blocks, affinities and handles as Calico writes them, and in every form in which it ever did.
//!
//! What is read is changed in place: fields that are not known here stay as they are.

use std::collections::BTreeMap;

use caracal_ipam::block::Parts;
use caracal_ipam::{Affinity, AffinityState, Attributes, Block, Handle, Nanoseconds, Owner, Record};
use caracal_model::cidr::Cidr;
use caracal_model::object::Kind;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::names::{HOST, VIRTUAL, affinity_labels};
use crate::ApiGroup;

/// What an object says, and what it says wrongly.
type Read<T> = Result<T, String>;

/// Whether an object is marked as gone: readers treat it as if it were.
pub fn is_deleted(object: &Value) -> bool {
    match object.pointer("/spec/deleted") {
        Some(Value::Bool(is)) => *is,
        Some(Value::String(text)) => text == "true",
        _ => false,
    }
}

/// Marks an object as gone.
pub fn mark_deleted(object: &mut Value, group: ApiGroup, kind: Kind) {
    set(spec(object), "deleted", deleted(true, group, kind));
}

/// The thing that an object of a kind is.
pub fn read(kind: Kind, object: &Value) -> Read<Record> {
    let spec = object.get("spec").and_then(Value::as_object).ok_or("it has no spec")?;
    match kind {
        Kind::IPAMBlock => read_block(spec).map(Record::Block),
        Kind::BlockAffinity => read_affinity(spec).map(Record::Affinity),
        _ => read_handle(spec).map(Record::Handle),
    }
}

/// Has an object say what a thing is. `object` is the one that was read, or a new one with no more than its name.
pub fn write(object: &mut Value, group: ApiGroup, record: &Record) {
    match record {
        Record::Block(block) => write_block(spec(object), group, block),
        Record::Affinity(affinity) => {
            write_affinity(spec(object), group, affinity);
            let labels = entry(entry(map(object), "metadata"), "labels");
            for (label, value) in affinity_labels(&affinity.owner, affinity.cidr) {
                labels.insert(label.to_owned(), value.into());
            }
        }
        Record::Handle(handle) => write_handle(spec(object), group, handle),
    }
}

fn read_block(spec: &Map<String, Value>) -> Read<Block> {
    let cidr = cidr(spec)?;
    let owner = match text(spec, "affinity") {
        "" => None,
        owner => Some(Owner::parse(owner).ok_or_else(|| format!("spec.affinity: {owner:?} is nobody's"))?),
    };
    let numbers = |field: &str| -> Read<Vec<Option<i64>>> {
        let number = |value: &Value| match value {
            Value::Null => Ok(None),
            value => value.as_i64().map(Some).ok_or_else(|| format!("spec.{field}: {value} is no number")),
        };
        list(spec, field).iter().map(number).collect()
    };
    let mut sequence_of = BTreeMap::new();
    for (ordinal, sequence) in
        spec.get("sequenceNumberForAllocation").and_then(Value::as_object).into_iter().flatten()
    {
        if let (Ok(ordinal), Some(sequence)) = (ordinal.parse(), sequence.as_u64()) {
            sequence_of.insert(ordinal, sequence);
        }
    }
    let parts = Parts {
        owner,
        claimed: time(spec.get("affinityClaimTime"))?,
        strict_affinity: spec.get("strictAffinity").and_then(Value::as_bool).unwrap_or(false),
        allocations: numbers("allocations")?,
        unallocated: numbers("unallocated")?.into_iter().flatten().collect(),
        attributes: list(spec, "attributes").iter().map(read_attributes).collect::<Read<_>>()?,
        sequence: spec.get("sequenceNumber").and_then(Value::as_u64).unwrap_or(0),
        sequence_of,
    };
    Block::check(cidr, parts).map_err(|error| error.to_string())
}

fn write_block(spec: &mut Map<String, Value>, group: ApiGroup, block: &Block) {
    let parts = block.parts();
    set(spec, "cidr", block.cidr().to_string());
    set_or_remove(spec, "affinity", parts.owner.map(|owner| owner.to_string()));
    set_or_remove(spec, "affinityClaimTime", parts.claimed.map(written_time));
    set(spec, "allocations", parts.allocations);
    set(spec, "unallocated", parts.unallocated);
    set(spec, "attributes", parts.attributes.into_iter().map(written_attributes).collect::<Vec<_>>());
    set(spec, "sequenceNumber", parts.sequence);
    let sequence_of = parts.sequence_of.into_iter().map(|(ordinal, of)| (ordinal.to_string(), of.into()));
    set(spec, "sequenceNumberForAllocation", sequence_of.collect::<Map<_, _>>());
    set(spec, "strictAffinity", parts.strict_affinity);
    set(spec, "deleted", deleted(false, group, Kind::IPAMBlock));
}

fn read_attributes(value: &Value) -> Read<Attributes> {
    let mut attributes = Attributes::default();
    for (field, value) in value.as_object().into_iter().flatten() {
        match field.as_str() {
            "handle_id" => {
                let Some(written) = value.as_str() else { continue };
                let id = handle_id(written);
                if id != written {
                    // It is not ours to mend.
                    attributes.others.insert(field.clone(), value.clone());
                }
                attributes.handle = Some(id.to_owned());
            }
            "secondary" => attributes.owner = texts(value),
            "alternateOwnerAttrs" => attributes.alternate_owner = texts(value),
            "releasedAt" => attributes.released = time(Some(value))?,
            _ => {
                attributes.others.insert(field.clone(), value.clone());
            }
        }
    }
    Ok(attributes)
}

fn written_attributes(attributes: Attributes) -> Value {
    let mut map = Map::new();
    set_or_remove(&mut map, "handle_id", attributes.handle);
    for (field, texts) in
        [("secondary", attributes.owner), ("alternateOwnerAttrs", attributes.alternate_owner)]
    {
        if !texts.is_empty() {
            set(
                &mut map,
                field,
                texts.into_iter().map(|(key, text)| (key, text.into())).collect::<Map<_, _>>(),
            );
        }
    }
    set_or_remove(&mut map, "releasedAt", attributes.released.map(written_time));
    map.extend(attributes.others);
    map.into()
}

fn read_affinity(spec: &Map<String, Value>) -> Read<Affinity> {
    let node = text(spec, "node").to_owned();
    let owner = match text(spec, "type") {
        // Older versions do not say.
        "" | HOST => Owner::Host(node),
        VIRTUAL => Owner::Virtual(node),
        other => return Err(format!("spec.type: {other:?} is not known here")),
    };
    let state = match text(spec, "state") {
        "confirmed" => AffinityState::Confirmed,
        // An affinity that does not say how far it is counts for nothing yet.
        "pending" | "" => AffinityState::Pending,
        "pendingDeletion" => AffinityState::PendingDeletion,
        other => return Err(format!("spec.state: {other:?} is not known here")),
    };
    Ok(Affinity { owner, cidr: cidr(spec)?, state })
}

fn write_affinity(spec: &mut Map<String, Value>, group: ApiGroup, affinity: &Affinity) {
    let (kind, node) = match &affinity.owner {
        Owner::Host(node) => (HOST, node),
        Owner::Virtual(name) => (VIRTUAL, name),
    };
    let state = match affinity.state {
        AffinityState::Pending => "pending",
        AffinityState::Confirmed => "confirmed",
        AffinityState::PendingDeletion => "pendingDeletion",
    };
    set(spec, "cidr", affinity.cidr.to_string());
    set(spec, "node", node.as_str());
    set(spec, "state", state);
    set(spec, "type", kind);
    set(spec, "deleted", deleted(false, group, Kind::BlockAffinity));
}

fn read_handle(spec: &Map<String, Value>) -> Read<Handle> {
    let mut blocks = BTreeMap::new();
    for (block, count) in spec.get("block").and_then(Value::as_object).into_iter().flatten() {
        let cidr: Cidr = block.parse().map_err(|error| format!("spec.block: {block:?}: {error}"))?;
        // What it counts too few is found by who cleans up.
        let count = count.as_i64().and_then(|count| u64::try_from(count).ok()).unwrap_or(0);
        if count > 0 {
            blocks.insert(cidr, count);
        }
    }
    Ok(Handle { id: handle_id(text(spec, "handleID")).to_owned(), blocks })
}

fn write_handle(spec: &mut Map<String, Value>, group: ApiGroup, handle: &Handle) {
    // Its own spelling stays.
    if handle_id(text(spec, "handleID")) != handle.id {
        set(spec, "handleID", handle.id.as_str());
    }
    let blocks = handle.blocks.iter().map(|(cidr, count)| (cidr.to_string(), (*count).into()));
    set(spec, "block", blocks.collect::<Map<_, _>>());
    set(spec, "deleted", deleted(false, group, Kind::IPAMHandle));
}

/// A handle's ID without what older versions of the Windows plugin left behind it.
fn handle_id(written: &str) -> &str {
    written.split('\r').next().unwrap_or(written)
}

/// Stored affinities say it as text.
fn deleted(is: bool, group: ApiGroup, kind: Kind) -> Value {
    if group == ApiGroup::Crd && kind == Kind::BlockAffinity { is.to_string().into() } else { is.into() }
}

fn time(value: Option<&Value>) -> Read<Option<Nanoseconds>> {
    let Some(text) = value.and_then(Value::as_str).filter(|text| !text.is_empty()) else { return Ok(None) };
    let time: Timestamp = text.parse().map_err(|_| format!("{text:?} is no time"))?;
    Ok(Some(Nanoseconds(u64::try_from(time.as_nanosecond()).unwrap_or(0))))
}

/// With seconds, as Kubernetes writes times.
fn written_time(time: Nanoseconds) -> String {
    let seconds = i64::try_from(time.0 / 1_000_000_000).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX).to_string()
}

fn cidr(spec: &Map<String, Value>) -> Read<Cidr> {
    let cidr = text(spec, "cidr");
    cidr.parse().map_err(|error| format!("spec.cidr: {cidr:?}: {error}"))
}

fn text<'a>(spec: &'a Map<String, Value>, field: &str) -> &'a str {
    spec.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(spec: &'a Map<String, Value>, field: &str) -> &'a [Value] {
    spec.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn texts(value: &Value) -> BTreeMap<String, String> {
    let pairs = value.as_object().into_iter().flatten();
    pairs.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

fn set(map: &mut Map<String, Value>, field: &str, value: impl Into<Value>) {
    map.insert(field.to_owned(), value.into());
}

fn set_or_remove(map: &mut Map<String, Value>, field: &str, value: Option<String>) {
    match value {
        Some(value) => set(map, field, value),
        None => drop(map.remove(field)),
    }
}

fn spec(object: &mut Value) -> &mut Map<String, Value> {
    entry(map(object), "spec")
}

/// The map under a key, made if there is none.
fn entry<'a>(parent: &'a mut Map<String, Value>, field: &str) -> &'a mut Map<String, Value> {
    map(parent.entry(field).or_insert(Value::Null))
}

/// The value as a map; anything else becomes an empty one.
fn map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("it has just been made one"),
    }
}
