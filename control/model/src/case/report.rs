//! What came of running cases: one table for people, one JSON document for programs, one exit status. Every command that
//! runs cases reports with these.

use std::fmt;

use serde::{Serialize, Serializer};

use super::{Case, Expect, HostPath, Icmp, World, WorldFlow, WorldHostFlow};
use crate::protocol::Protocol;

/// What came of all cases of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// One per case, in the order in which they were given.
    pub cases: Vec<CaseReport>,
}

/// What came of one case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CaseReport {
    /// The file it was read from.
    pub file: String,
    /// Its name; empty when the file could not be read.
    pub name: String,
    /// All in all.
    pub result: CaseResult,
    /// Why it could not be run, or what besides its flows was not as expected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Its flows, in the order of the file.
    pub flows: Vec<FlowReport>,
    /// Its host flows, in the order of the file.
    pub host_flows: Vec<HostFlowReport>,
}

/// A case, all in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CaseResult {
    /// Everything was as expected.
    Pass,
    /// Something was not.
    Fail,
    /// It could not be read or set up.
    Error,
}

/// What happened to a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Observed {
    /// It was let through and answered.
    Allow,
    /// It was let through, untracked (host endpoints only).
    AllowUntracked,
    /// It was not.
    Deny,
    /// It could not be found out.
    Error,
    /// Such a packet cannot be sent here.
    Unsupported,
}

impl Observed {
    /// As reports say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::AllowUntracked => "allow-untracked",
            Self::Deny => "deny",
            Self::Error => "error",
            Self::Unsupported => "unsupported",
        }
    }

    /// Whether this is what must happen.
    pub fn is(self, expect: Expect) -> bool {
        match expect {
            Expect::Allow => self == Self::Allow,
            Expect::Deny => self == Self::Deny,
            Expect::AllowUntracked => self == Self::AllowUntracked,
        }
    }
}

/// What happened to a flow, and what decided it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// What happened.
    pub observed: Observed,
    /// Tier, policy and rule number; or the profile; or the drop reason; or why it is not known.
    pub why: String,
}

impl Observation {
    /// An observation and its reason.
    pub fn new(observed: Observed, why: impl Into<String>) -> Self {
        Self { observed, why: why.into() }
    }
}

/// What happened to the flows of a world.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observations {
    /// One per flow, in their order.
    pub flows: Vec<Observation>,
    /// One per host flow, in their order. Those that are missing count as unsupported.
    pub host_flows: Vec<Observation>,
}

/// Nothing was found out about host flows.
impl From<Vec<Observation>> for Observations {
    fn from(flows: Vec<Observation>) -> Self {
        Self { flows, host_flows: Vec::new() }
    }
}

/// One flow of a case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowReport {
    /// As written.
    pub from: String,
    /// As written.
    pub to: String,
    /// Its protocol.
    #[serde(serialize_with = "as_text")]
    pub protocol: Protocol,
    /// The destination port, a name resolved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The source port, if the case gives one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
    /// The ICMP message.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "icmp_as_map")]
    pub icmp: Option<Icmp>,
    /// What must happen.
    #[serde(serialize_with = "expect_as_text")]
    pub expect: Expect,
    /// What happened.
    pub observed: Observed,
    /// What decided.
    pub why: String,
}

/// One host flow of a case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HostFlowReport {
    /// The host endpoint's name.
    pub host_endpoint: String,
    /// Which way the packet goes.
    #[serde(serialize_with = "path_as_text")]
    pub path: HostPath,
    /// Its protocol.
    #[serde(serialize_with = "as_text")]
    pub protocol: Protocol,
    /// As written.
    pub from: String,
    /// As written.
    pub to: String,
    /// The destination port, a name resolved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The source port, if the case gives one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
    /// The ICMP message.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "icmp_as_map")]
    pub icmp: Option<Icmp>,
    /// The destination before DNAT, as written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original_to: Option<String>,
    /// Its port, as written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original_port: Option<u16>,
    /// What must happen.
    #[serde(serialize_with = "expect_as_text")]
    pub expect: Expect,
    /// What happened.
    pub observed: Observed,
    /// What decided.
    pub why: String,
}

fn as_text<T: fmt::Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn expect_as_text<S: Serializer>(expect: &Expect, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(expect.as_str())
}

fn path_as_text<S: Serializer>(path: &HostPath, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(path.as_str())
}

fn icmp_as_map<S: Serializer>(icmp: &Option<Icmp>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(icmp.iter().flat_map(|icmp| [("type", icmp.kind), ("code", icmp.code)]))
}

impl FlowReport {
    /// What was observed of `flow`.
    pub fn new(flow: &WorldFlow, observation: Observation) -> Self {
        Self {
            from: flow.from.clone(),
            to: flow.to.clone(),
            protocol: flow.protocol,
            port: flow.destination_port,
            source_port: flow.source_port,
            icmp: flow.icmp,
            expect: flow.expect,
            observed: observation.observed,
            why: observation.why,
        }
    }
}

impl HostFlowReport {
    /// What was observed of `flow`.
    pub fn new(flow: &WorldHostFlow, observation: Observation) -> Self {
        Self {
            host_endpoint: flow.host_endpoint.clone(),
            path: flow.path,
            protocol: flow.protocol,
            from: flow.from.clone(),
            to: flow.to.clone(),
            port: flow.destination_port,
            source_port: flow.source_port,
            icmp: flow.icmp,
            original_to: flow.original_to.clone(),
            original_port: flow.original_port,
            expect: flow.expect,
            observed: observation.observed,
            why: observation.why,
        }
    }
}

impl CaseReport {
    /// The report of a case that was run. `failures` is what besides flows was not as expected.
    pub fn new(
        file: impl Into<String>,
        case: &Case,
        world: &World,
        observations: impl Into<Observations>,
        failures: Vec<String>,
    ) -> Self {
        let seen: Observations = observations.into();
        let flows: Vec<FlowReport> =
            world.flows.iter().zip(seen.flows).map(|(flow, seen)| FlowReport::new(flow, seen)).collect();
        let not_judged = || Observation::new(Observed::Unsupported, "host flows are only judged offline");
        let host_seen = seen.host_flows.into_iter().chain(std::iter::repeat_with(not_judged));
        let host_flows: Vec<HostFlowReport> = world
            .host_flows
            .iter()
            .zip(host_seen)
            .map(|(flow, seen)| HostFlowReport::new(flow, seen))
            .collect();
        let as_expected = failures.is_empty()
            && flows.len() == world.flows.len()
            && flows.iter().all(|flow| flow.observed.is(flow.expect))
            && host_flows.iter().all(|flow| flow.observed.is(flow.expect));
        Self {
            file: file.into(),
            name: case.name.clone(),
            result: if as_expected { CaseResult::Pass } else { CaseResult::Fail },
            error: (!failures.is_empty()).then(|| failures.join("; ")),
            flows,
            host_flows,
        }
    }

    /// The report of a case that could not be read or set up.
    pub fn error(file: impl Into<String>, name: impl Into<String>, error: impl fmt::Display) -> Self {
        Self {
            file: file.into(),
            name: name.into(),
            result: CaseResult::Error,
            error: Some(error.to_string()),
            flows: Vec::new(),
            host_flows: Vec::new(),
        }
    }
}

impl Report {
    /// 0 when all was as expected, 1 when something was not, 2 when a case could not be read or set up.
    pub fn exit_status(&self) -> u8 {
        let worst = |result: CaseResult| match result {
            CaseResult::Pass => 0,
            CaseResult::Fail => 1,
            CaseResult::Error => 2,
        };
        self.cases.iter().map(|case| worst(case.result)).max().unwrap_or(0)
    }

    /// The JSON document.
    pub fn to_json(&self) -> String {
        // These types serialise into strings, numbers, lists and maps with text keys only, which cannot fail.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

/// The table for people: every flow with what decided it, then one line of sums.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows = vec![["CASE", "FLOW", "EXPECT", "OBSERVED", "WHY"].map(str::to_owned)];
        for case in &self.cases {
            rows.extend(case.rows());
        }
        let mut widths = [0; 4];
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for row in &rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(widths) {
                line.push_str(&format!("{cell:<width$}  "));
            }
            line.push_str(&row[4]);
            writeln!(f, "{}", line.trim_end())?;
        }
        let count = |result| self.cases.iter().filter(|case| case.result == result).count();
        let flows: usize = self.cases.iter().map(|case| case.flows.len() + case.host_flows.len()).sum();
        writeln!(
            f,
            "\ncases: {} passed, {} failed, {} with errors; flows: {flows}",
            count(CaseResult::Pass),
            count(CaseResult::Fail),
            count(CaseResult::Error),
        )
    }
}

impl CaseReport {
    fn rows(&self) -> Vec<[String; 5]> {
        let name = if self.name.is_empty() { &self.file } else { &self.name };
        let row = |flow: String, expect: Expect, observed: Observed, why: &str| {
            let mark = if observed.is(expect) { "" } else { "  ✗" };
            let observed = format!("{}{mark}", observed.as_str());
            [name.clone(), flow, expect.as_str().to_owned(), observed, why.to_owned()]
        };
        let mut rows: Vec<_> = self
            .flows
            .iter()
            .map(|flow| row(flow.to_string(), flow.expect, flow.observed, &flow.why))
            .chain(
                self.host_flows
                    .iter()
                    .map(|flow| row(flow.to_string(), flow.expect, flow.observed, &flow.why)),
            )
            .collect();
        if let Some(error) = &self.error {
            let dash = || "-".to_owned();
            rows.push([name.clone(), dash(), dash(), "error  ✗".to_owned(), error.clone()]);
        }
        rows
    }
}

impl fmt::Display for FlowReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} → {} {}", self.from, self.to, self.protocol)?;
        write_port_or_icmp(f, self.port, self.icmp)
    }
}

impl fmt::Display for HostFlowReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.as_str();
        write!(f, "{} {path}: {} → {} {}", self.host_endpoint, self.from, self.to, self.protocol)?;
        write_port_or_icmp(f, self.port, self.icmp)?;
        match (&self.original_to, self.original_port) {
            (None, None) => Ok(()),
            (Some(to), None) => write!(f, " (was to {to})"),
            (None, Some(port)) => write!(f, " (was to port {port})"),
            (Some(to), Some(port)) => write!(f, " (was to {to} {port})"),
        }
    }
}

fn write_port_or_icmp(f: &mut fmt::Formatter<'_>, port: Option<u16>, icmp: Option<Icmp>) -> fmt::Result {
    match (port, icmp) {
        (Some(port), _) => write!(f, " {port}"),
        (None, Some(icmp)) => write!(f, " {}/{}", icmp.kind, icmp.code),
        (None, None) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(expect: Expect, observed: Observed) -> FlowReport {
        FlowReport {
            from: "shop/a".to_owned(),
            to: "shop/b".to_owned(),
            protocol: Protocol::TCP,
            port: Some(80),
            source_port: None,
            icmp: None,
            expect,
            observed,
            why: "tier default · ingress default".to_owned(),
        }
    }

    fn case(result: CaseResult, flows: Vec<FlowReport>) -> CaseReport {
        CaseReport {
            file: "x.yaml".to_owned(),
            name: "x".to_owned(),
            result,
            error: None,
            flows,
            host_flows: Vec::new(),
        }
    }

    #[test]
    fn the_document_says_what_the_case_format_promises() {
        let report = Report {
            cases: vec![
                case(CaseResult::Pass, vec![flow(Expect::Deny, Observed::Deny)]),
                CaseReport::error("y.yaml", "", "line 3: flows[0].port: must be a number or a name"),
            ],
        };
        let document: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(
            document,
            serde_json::json!({"cases": [
                {"file": "x.yaml", "name": "x", "result": "pass", "hostFlows": [], "flows": [
                    {"from": "shop/a", "to": "shop/b", "protocol": "TCP", "port": 80, "expect": "deny",
                     "observed": "deny", "why": "tier default · ingress default"}]},
                {"file": "y.yaml", "name": "", "result": "error", "hostFlows": [], "flows": [],
                 "error": "line 3: flows[0].port: must be a number or a name"},
            ]})
        );
    }

    #[test]
    fn the_worst_case_gives_the_exit_status() {
        let of = |results: &[CaseResult]| {
            Report { cases: results.iter().map(|result| case(*result, Vec::new())).collect() }.exit_status()
        };
        assert_eq!(of(&[]), 0);
        assert_eq!(of(&[CaseResult::Pass, CaseResult::Pass]), 0);
        assert_eq!(of(&[CaseResult::Fail, CaseResult::Pass]), 1);
        assert_eq!(of(&[CaseResult::Error, CaseResult::Fail]), 2);
    }

    #[test]
    fn what_is_unsupported_is_never_as_expected() {
        for expect in [Expect::Allow, Expect::Deny, Expect::AllowUntracked] {
            assert!(!Observed::Unsupported.is(expect));
            assert!(!Observed::Error.is(expect));
        }
    }

    #[test]
    fn the_table_marks_what_was_not_as_expected() {
        let text = Report { cases: vec![case(CaseResult::Fail, vec![flow(Expect::Allow, Observed::Deny)])] }
            .to_string();
        assert!(text.contains("shop/a → shop/b TCP 80"), "{text}");
        assert!(text.contains("deny  ✗"), "{text}");
        assert!(text.ends_with("cases: 0 passed, 1 failed, 0 with errors; flows: 1\n"), "{text}");
    }
}
