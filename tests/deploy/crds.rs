//! The CustomResourceDefinitions.

use std::fmt::Write;

use caracal_model::calico::custom_resource_definitions;

use crate::files::is_current;

const HEADER: &str = "# Made from control/model's types by `BLESS=1 cargo test -p caracal-tests --test deploy`: not to be edited.
# Not for a cluster that has these definitions already, Calico's own among them: docs/install.md says why.
";

#[test]
fn definitions_of_custom_resources_are_those_of_the_model() {
    for group in ["crd.projectcalico.org", "projectcalico.org", "policy.networking.k8s.io"] {
        let mut made = HEADER.to_owned();
        for definition in custom_resource_definitions(group) {
            let yaml = serde_saphyr::to_string(&definition).expect("JSON is YAML");
            write!(made, "---\n{yaml}").expect("memory");
        }
        is_current(&format!("deploy/crds/{group}.yaml"), &made);
    }
}
