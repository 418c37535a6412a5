//! Runs case files: reads them, has their flows judged, and reports.

use caracal_model::case::report::{CaseReport, Observations};
use caracal_model::case::{Case, World};

use crate::judge;
use crate::reference::Reference;

/// Who judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judge {
    /// The production control plane, tables and pipeline.
    Production,
    /// The slow reference evaluator.
    Reference,
}

/// Runs the case that `file` holds; `text` is its contents.
pub fn run(file: &str, text: &str, by: Judge) -> CaseReport {
    let case = match Case::parse(text) {
        Ok(case) => case,
        Err(error) => return CaseReport::error(file, "", error),
    };
    let world = match case.world() {
        Ok(world) => world,
        Err(error) => return CaseReport::error(file, &case.name, error),
    };
    let observations = match by {
        Judge::Production => judge::judge(&world),
        Judge::Reference => Ok(judge_by_reference(&world)),
    };
    match observations {
        Ok(observations) => CaseReport::new(file, &case, &world, observations, taken_wrongly(&world)),
        Err(error) => CaseReport::error(file, &case.name, error),
    }
}

fn judge_by_reference(world: &World) -> Observations {
    let reference = Reference::new(world);
    Observations {
        flows: world.flows.iter().map(|flow| reference.judge(flow)).collect(),
        host_flows: world.host_flows.iter().map(|flow| reference.judge_host(flow)).collect(),
    }
}

/// The objects that must be refused and are not, or not for the field that the case names.
fn taken_wrongly(world: &World) -> Vec<String> {
    let wrong = world.refused.iter().filter(|refused| !refused.is_refused());
    wrong
        .map(|refused| {
            let (key, field) = (&refused.key, &refused.field);
            if refused.errors.is_empty() {
                return format!("rejects: {key} is taken, but must be refused for {field}");
            }
            let errors: Vec<String> = refused.errors.iter().map(ToString::to_string).collect();
            format!("rejects: {key} must be refused for {field}, but is refused for: {}", errors.join("; "))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use caracal_model::case::report::CaseResult;

    use super::*;

    const POLICY: &str = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p, namespace: n}, \
                          spec: {podSelector: {}, ingress: [{ports: [{port: PORT}]}]}}";

    fn case_with(port: &str, field: &str) -> String {
        let policy = POLICY.replace("PORT", port);
        format!(
            "name: x\nobjects:\n  - {policy}\nrejects:\n  \
             - {{kind: NetworkPolicy, namespace: n, name: p, field: \"{field}\"}}\n"
        )
    }

    #[test]
    fn an_object_that_should_be_refused_and_is_not_fails_the_case() {
        for (port, field, why) in [
            ("80", "spec.ingress[0].ports[0].port", "is taken, but must be refused"),
            ("0", "spec.podSelector", "is refused for: spec.ingress[0].ports[0].port"),
        ] {
            let report = run("x.yaml", &case_with(port, field), Judge::Reference);
            assert_eq!(report.result, CaseResult::Fail);
            let error = report.error.unwrap();
            assert!(error.contains(why), "{error}");
        }
        let right = run("x.yaml", &case_with("0", "spec.ingress[0].ports[0].port"), Judge::Reference);
        assert_eq!((right.result, right.error), (CaseResult::Pass, None));
    }

    #[test]
    fn a_case_that_cannot_be_read_is_an_error_that_names_line_and_field() {
        let text = "name: x\nflows:\n  - {from: a/b, to: a/c, protocol: TCP, port: 80, expect: allow, expects: deny}\n";
        for by in [Judge::Production, Judge::Reference] {
            let report = run("x.yaml", text, by);
            assert_eq!(report.result, CaseResult::Error);
            let error = report.error.unwrap();
            assert!(error.starts_with("line 3: flows[0].expects"), "{error}");
        }
    }

    #[test]
    fn what_neither_judge_can_send_is_unsupported_and_does_not_pass() {
        let text = "name: x\nobjects:\n  - {apiVersion: v1, kind: Pod, metadata: {name: p, namespace: n}, \
                    spec: {containers: [{name: c, image: i}]}}\nflows:\n  \
                    - {from: n/p, to: n/p, protocol: TCP, port: 80, expect: allow}\n";
        for by in [Judge::Production, Judge::Reference] {
            let report = run("x.yaml", text, by);
            assert_eq!(report.result, CaseResult::Fail);
            assert_eq!(report.flows[0].observed.as_str(), "unsupported");
        }
    }
}
