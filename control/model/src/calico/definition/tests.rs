use super::*;

const GROUPS: [&str; 3] = [CALICO_GROUP, STORED_GROUP, "policy.networking.k8s.io"];

/// Every schema in a definition, with where it stands.
fn schemas(schema: &Value, path: &str, found: &mut Vec<(String, Value)>) {
    found.push((path.to_owned(), schema.clone()));
    for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        schemas(property, &format!("{path}.{name}"), found);
    }
    for members in ["items", "additionalProperties"] {
        if let Some(schema) = schema.get(members) {
            schemas(schema, &format!("{path}[]"), found);
        }
    }
}

/// As Kubernetes asks of `openAPIV3Schema`; the list of formats is its own.
#[test]
fn every_schema_is_structural() {
    let known =
        ["type", "description", "properties", "items", "additionalProperties", "required", "enum", "format"];
    let (known_too, formats) =
        (["minimum", "maximum", "nullable", "uniqueItems"], ["int32", "int64", "double", "date-time"]);
    for crd in GROUPS.into_iter().flat_map(custom_resource_definitions) {
        let name = crd["metadata"]["name"].as_str().expect("a name");
        let mut all = Vec::new();
        schemas(&crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"], name, &mut all);
        for (path, schema) in all {
            let fields = schema.as_object().unwrap_or_else(|| panic!("{path}: {schema}"));
            let free = |name: &str| fields.get(name) == Some(&true.into());
            let typed = fields.get("type").is_some_and(Value::is_string);
            let open = free("x-kubernetes-int-or-string") || free("x-kubernetes-preserve-unknown-fields");
            assert!(typed || open, "{path} has no type: {schema}");
            for (name, value) in fields {
                let fine = known.contains(&name.as_str()) || known_too.contains(&name.as_str());
                assert!(fine || name.starts_with("x-kubernetes-"), "{path}: {name}: {value}");
            }
            if let Some(format) = fields.get("format").and_then(Value::as_str) {
                assert!(formats.contains(&format), "{path}: {format}");
            }
        }
    }
}

#[test]
fn every_kind_of_calico_is_defined_once_but_profiles() {
    let defined: Vec<Kind> = definitions().iter().map(|definition| definition.kind).collect();
    for &kind in Kind::ALL {
        let custom = kind.api_version().starts_with(CALICO_GROUP) || kind == Kind::ClusterNetworkPolicy;
        let times = defined.iter().filter(|defined| **defined == kind).count();
        assert_eq!(times, usize::from(custom && kind != Kind::Profile), "{kind:?}");
    }
}

#[test]
fn stored_kinds_have_the_names_and_types_that_calico_gives_them() {
    let crds = custom_resource_definitions(STORED_GROUP);
    let find = |name: &str| crds.iter().find(|crd| crd["metadata"]["name"] == name).expect("a definition");
    let configuration = find("ipamconfigs.crd.projectcalico.org");
    assert_eq!(configuration["spec"]["names"]["kind"], "IPAMConfig");
    let spec =
        |crd: &Value| crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone();
    let affinity = find("blockaffinities.crd.projectcalico.org");
    assert_eq!(spec(affinity)["properties"]["deleted"]["type"], "string");
    let block = spec(find("ipamblocks.crd.projectcalico.org"));
    let allocation = &block["properties"]["allocations"]["items"];
    assert_eq!((&allocation["type"], &allocation["nullable"]), (&json!("integer"), &json!(true)));
    assert_eq!(
        spec(find("felixconfigurations.crd.projectcalico.org"))["x-kubernetes-preserve-unknown-fields"],
        true
    );
    assert!(custom_resource_definitions("example.org").is_empty());
}
