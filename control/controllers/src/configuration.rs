//! The controllers' configuration: made where there is none, and answered with what is done because of it.

use caracal_ipam::Record;
use caracal_model::calico::KubeControllersConfiguration;
use caracal_model::object::{Kind, ObjectKey};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use crate::controller::Now;
use crate::settings::{Settings, default_configuration};
use crate::{Action, Cluster, Controller, Plan};

/// The controller.
#[derive(Debug, Default)]
pub struct Configuration;

impl Controller for Configuration {
    fn name(&self) -> &'static str {
        "configuration"
    }

    fn kinds(&self) -> &'static [Kind] {
        &[Kind::KubeControllersConfiguration]
    }

    fn plan(&mut self, cluster: &Cluster, _: Vec<Record>, settings: &Settings, _: Now) -> Plan {
        let Some(configuration) = cluster.configuration() else {
            let metadata = ObjectMeta { name: Some("default".to_owned()), ..ObjectMeta::default() };
            let new = KubeControllersConfiguration { metadata, spec: default_configuration(), status: None };
            return Plan { actions: vec![Action::Create(new.into())], ..Plan::default() };
        };
        let mut plan = Plan::default();
        if configuration.status.as_ref() != Some(settings.status()) {
            let key = ObjectKey::new(Kind::KubeControllersConfiguration, None, "default");
            let mut status = settings.status().clone();
            // In a merge patch, what goes is said to.
            if let Some(former) = &configuration.status {
                say_what_goes(former, &mut status);
            }
            let version = &configuration.metadata.resource_version;
            let patch = json!({"metadata": {"resourceVersion": version}, "status": status});
            plan.actions.push(Action::PatchStatus(key, patch));
        }
        plan
    }
}

/// Makes of a value the merge patch (RFC 7396) that leaves exactly that of `former`.
fn say_what_goes(former: &Value, new: &mut Value) {
    let (Some(former), Some(new)) = (former.as_object(), new.as_object_mut()) else { return };
    for (field, value) in former {
        say_what_goes(value, new.entry(field.clone()).or_insert(Value::Null));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_loses_what_is_no_longer_said() {
        let former = json!({"environmentVars": {"A": "1"}, "runningConfig": {"x": 1, "y": {"z": 2}}});
        let mut status = json!({"environmentVars": {}, "runningConfig": {"x": 3}});
        say_what_goes(&former, &mut status);
        assert_eq!(status, json!({"environmentVars": {"A": null}, "runningConfig": {"x": 3, "y": null}}));
    }
}
