//! The OpenAPI 2 document as protobuf: the messages that kubectl before 1.27 understands (`openapi.v2` of gnostic),
//! as far as the document has anything to put into them.

use prost::{Message, Oneof};
use serde_json::Value;

#[derive(Clone, PartialEq, Message)]
pub struct Document {
    #[prost(string, tag = "1")]
    swagger: String,
    #[prost(message, optional, tag = "2")]
    info: Option<Info>,
    #[prost(message, optional, tag = "8")]
    paths: Option<Paths>,
    #[prost(message, optional, tag = "9")]
    definitions: Option<Schemas>,
}

#[derive(Clone, PartialEq, Message)]
struct Info {
    #[prost(string, tag = "1")]
    title: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct Paths {
    #[prost(message, repeated, tag = "2")]
    path: Vec<NamedPathItem>,
}

#[derive(Clone, PartialEq, Message)]
struct NamedPathItem {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<PathItem>,
}

#[derive(Clone, PartialEq, Message)]
struct PathItem {
    #[prost(message, optional, tag = "2")]
    get: Option<Operation>,
    #[prost(message, optional, tag = "3")]
    put: Option<Operation>,
    #[prost(message, optional, tag = "4")]
    post: Option<Operation>,
    #[prost(message, optional, tag = "5")]
    delete: Option<Operation>,
    #[prost(message, optional, tag = "8")]
    patch: Option<Operation>,
}

#[derive(Clone, PartialEq, Message)]
struct Operation {
    #[prost(string, tag = "5")]
    operation_id: String,
    #[prost(message, repeated, tag = "8")]
    parameters: Vec<ParametersItem>,
    #[prost(message, repeated, tag = "13")]
    vendor_extension: Vec<NamedAny>,
}

/// The wrappings of a query parameter, outermost first.
#[derive(Clone, PartialEq, Message)]
struct ParametersItem {
    #[prost(message, optional, tag = "1")]
    parameter: Option<Parameter>,
}

#[derive(Clone, PartialEq, Message)]
struct Parameter {
    #[prost(message, optional, tag = "2")]
    non_body: Option<NonBodyParameter>,
}

#[derive(Clone, PartialEq, Message)]
struct NonBodyParameter {
    #[prost(message, optional, tag = "3")]
    query: Option<QueryParameter>,
}

#[derive(Clone, PartialEq, Message)]
struct QueryParameter {
    #[prost(string, tag = "2")]
    place: String,
    #[prost(string, tag = "4")]
    name: String,
    #[prost(string, tag = "6")]
    kind: String,
}

/// Definitions, and the properties of one.
#[derive(Clone, PartialEq, Message)]
struct Schemas {
    #[prost(message, repeated, tag = "1")]
    named: Vec<NamedSchema>,
}

#[derive(Clone, PartialEq, Message)]
struct NamedSchema {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Schema>,
}

#[derive(Clone, PartialEq, Message)]
struct Schema {
    #[prost(string, tag = "1")]
    reference: String,
    #[prost(string, tag = "2")]
    format: String,
    #[prost(string, tag = "4")]
    description: String,
    #[prost(string, repeated, tag = "19")]
    required: Vec<String>,
    #[prost(message, optional, boxed, tag = "21")]
    additional_properties: Option<Box<AdditionalProperties>>,
    #[prost(message, optional, tag = "22")]
    kind: Option<Types>,
    #[prost(message, optional, tag = "23")]
    items: Option<Items>,
    #[prost(message, optional, tag = "25")]
    properties: Option<Schemas>,
    #[prost(message, repeated, tag = "31")]
    vendor_extension: Vec<NamedAny>,
}

#[derive(Clone, PartialEq, Message)]
struct AdditionalProperties {
    #[prost(oneof = "Additional", tags = "1, 2")]
    additional: Option<Additional>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Additional {
    #[prost(message, boxed, tag = "1")]
    Schema(Box<Schema>),
    #[prost(bool, tag = "2")]
    Any(bool),
}

#[derive(Clone, PartialEq, Message)]
struct Types {
    #[prost(string, repeated, tag = "1")]
    value: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Items {
    #[prost(message, repeated, tag = "1")]
    schema: Vec<Schema>,
}

#[derive(Clone, PartialEq, Message)]
struct NamedAny {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "2")]
    yaml: String,
}

impl Document {
    /// The document that the JSON one says.
    pub fn from_json(document: &Value) -> Document {
        let path = |(name, item): (&String, &Value)| {
            let operation = |verb: &str| item.get(verb).map(Operation::from_json);
            let (get, put, post) = (operation("get"), operation("put"), operation("post"));
            let (delete, patch) = (operation("delete"), operation("patch"));
            NamedPathItem { name: name.clone(), value: Some(PathItem { get, put, post, delete, patch }) }
        };
        Document {
            swagger: text(document, "swagger"),
            info: Some(Info {
                title: text(&document["info"], "title"),
                version: text(&document["info"], "version"),
            }),
            paths: Some(Paths { path: members(&document["paths"]).map(path).collect() }),
            definitions: Some(Schemas::from_json(&document["definitions"])),
        }
    }
}

impl Operation {
    fn from_json(operation: &Value) -> Operation {
        let parameters = operation["parameters"].as_array().map_or(&[][..], Vec::as_slice);
        let query = |parameter: &Value| QueryParameter {
            place: text(parameter, "in"),
            name: text(parameter, "name"),
            kind: text(parameter, "type"),
        };
        let wrapped = |query| ParametersItem {
            parameter: Some(Parameter { non_body: Some(NonBodyParameter { query: Some(query) }) }),
        };
        Operation {
            operation_id: text(operation, "operationId"),
            parameters: parameters.iter().map(query).map(wrapped).collect(),
            vendor_extension: extensions(operation),
        }
    }
}

impl Schemas {
    fn from_json(schemas: &Value) -> Schemas {
        let named = |(name, schema): (&String, &Value)| NamedSchema {
            name: name.clone(),
            value: Some(Schema::from_json(schema)),
        };
        Schemas { named: members(schemas).map(named).collect() }
    }
}

impl Schema {
    fn from_json(schema: &Value) -> Schema {
        let required = schema.get("required").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let additional = schema.get("additionalProperties").map(|additional| match additional {
            Value::Bool(any) => Additional::Any(*any),
            schema => Additional::Schema(Box::new(Schema::from_json(schema))),
        });
        Schema {
            reference: text(schema, "$ref"),
            format: text(schema, "format"),
            description: text(schema, "description"),
            required: required.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            additional_properties: additional
                .map(|additional| Box::new(AdditionalProperties { additional: Some(additional) })),
            kind: schema
                .get("type")
                .and_then(Value::as_str)
                .map(|kind| Types { value: vec![kind.to_owned()] }),
            items: schema.get("items").map(|items| Items { schema: vec![Schema::from_json(items)] }),
            properties: schema.get("properties").map(Schemas::from_json),
            vendor_extension: extensions(schema),
        }
    }
}

fn text(object: &Value, field: &str) -> String {
    object.get(field).and_then(Value::as_str).unwrap_or("").to_owned()
}

fn members(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    object.as_object().into_iter().flatten()
}

/// The `x-…` fields. JSON is YAML.
fn extensions(object: &Value) -> Vec<NamedAny> {
    members(object)
        .filter(|(name, _)| name.starts_with("x-"))
        .map(|(name, value)| NamedAny { name: name.clone(), value: Some(Any { yaml: value.to_string() }) })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_protobuf_says_what_the_json_says() {
        let document = super::super::v2::document(&crate::table::Table::with(Vec::new()));
        let bytes = Document::from_json(&document).encode_to_vec();
        let read = Document::decode(bytes.as_slice()).expect("its own encoding");
        let definitions = read.definitions.expect("definitions").named;
        assert_eq!(definitions.len(), document["definitions"].as_object().expect("a map").len());
        let spec =
            definitions.iter().find(|named| named.name == "io.k8s.api.core.v1.PodSpec").expect("PodSpec");
        let properties =
            spec.value.as_ref().and_then(|schema| schema.properties.as_ref()).expect("properties");
        let containers =
            properties.named.iter().find(|named| named.name == "containers").expect("containers");
        let containers = containers.value.as_ref().expect("a schema");
        assert_eq!(containers.kind.as_ref().expect("a type").value, ["array"]);
        assert_eq!(
            containers.items.as_ref().expect("items").schema[0].reference,
            "#/definitions/io.k8s.api.core.v1.Container"
        );
        let extensions: Vec<&str> =
            containers.vendor_extension.iter().map(|extension| extension.name.as_str()).collect();
        assert_eq!(extensions, ["x-kubernetes-patch-merge-key", "x-kubernetes-patch-strategy"]);
    }
}
