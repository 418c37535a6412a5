//! Why a flow passes or not, and the smallest change to a policy that would make it otherwise.
//!
//! ```text
//!   objects + question ─► World ─► Cluster: calc graph and tables of each node
//!                                    │ walk   production code with a recorder: both ends, or a host endpoint
//!                                    │ judge  real frames through the pipeline: the verdict that counts
//!                                    └ change every candidate is applied, judged by the same code, and taken back
//! ```
//!
//! Nothing here knows how rules match: what matched and what did not is what the tables say, and a change is shown only
//! if the tables, told of it, come to the other verdict.

mod change;
mod cluster;
mod document;
mod edit;
mod policy;
#[cfg(test)]
mod tests;
mod words;

use std::collections::BTreeMap;

use caracal_model::case::{Case, World, WorldError};
use caracal_model::manifest;
use serde_json::{Value, json};

use crate::judge::{self, JudgeError};
use cluster::Cluster;

pub use document::{
    Change, EndReport, Explained, MismatchReport, PolicyReport, ProfileReport, RuleReport, StagedReport,
    TierReport,
};

/// Objects and where they came from.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    /// Each with the file that it was read from.
    pub manifests: Vec<(String, Value)>,
    /// The text of each file of manifests, for the lines of what is wrong in it.
    texts: BTreeMap<String, String>,
    /// Named hosts outside, as case files have them: `{name, ip}`.
    pub externals: Vec<Value>,
}

/// What is asked: a flow, or a host flow, with the fields that case files have, but for `expect`.
#[derive(Debug, Clone)]
pub enum Question {
    /// Between two ends.
    Flow(Value),
    /// At a host endpoint.
    HostFlow(Value),
}

/// Why nothing can be explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// A file is not what it should be.
    #[error("{file}: {message}")]
    File {
        /// Which.
        file: String,
        /// Line, field and what is wrong.
        message: String,
    },
    /// The question names something that is not there, or cannot be asked.
    #[error("{0}")]
    Question(String),
    /// What the objects come to cannot be judged.
    #[error(transparent)]
    Judge(#[from] JudgeError),
    /// The walk and the tables differ: a mistake of ours.
    #[error(
        "the explanation says that {explained} decides, the tables that {tables} does; please report this"
    )]
    Disagreement {
        /// What the walk says.
        explained: String,
        /// What the tables say.
        tables: String,
    },
}

impl Objects {
    /// Reads a file: manifests, any number of documents and lists, or a case file.
    ///
    /// # Errors
    /// When it is neither, naming file, line and field.
    pub fn read(&mut self, file: &str, text: &str) -> Result<(), ExplainError> {
        let error = |message: String| ExplainError::File { file: file.to_owned(), message };
        let values = manifest::parse(text).map_err(|wrong| error(wrong.to_string()))?;
        let is_case = |value: &Value| value.get("kind").is_none() && value.get("objects").is_some();
        if !values.first().is_some_and(is_case) {
            self.manifests.extend(values.into_iter().map(|value| (file.to_owned(), value)));
            self.texts.insert(file.to_owned(), text.to_owned());
            return Ok(());
        }
        let case = Case::parse(text).map_err(|wrong| error(wrong.to_string()))?;
        case.world().map_err(|wrong| error(wrong.to_string()))?;
        let taken =
            case.objects.iter().filter(|object| !case.rejects.iter().any(|reject| reject.names(&object.key)));
        self.manifests.extend(taken.map(|object| (file.to_owned(), object.value.clone())));
        self.externals.extend(
            case.externals
                .iter()
                .map(|external| json!({"name": external.name, "ip": external.ip.to_string()})),
        );
        Ok(())
    }

    /// The completed world that the question is asked of.
    fn world(&self, question: &Question) -> Result<World, ExplainError> {
        let (flows, host_flows) = match question {
            Question::Flow(flow) => (vec![with_expectation(flow)], Vec::new()),
            Question::HostFlow(flow) => (Vec::new(), vec![with_expectation(flow)]),
        };
        let objects: Vec<&Value> = self.manifests.iter().map(|(_, value)| value).collect();
        let case = json!({
            "name": "explain", "objects": objects, "externals": self.externals, "flows": flows, "hostFlows": host_flows,
        });
        let case =
            Case::parse(&case.to_string()).map_err(|error| self.error(&error.field, &error.message))?;
        case.world().map_err(|WorldError { field, message, .. }| self.error(&field, &message))
    }

    /// An error about a field of the case that was made here, as one about what it was made of.
    fn error(&self, field: &str, message: &str) -> ExplainError {
        let of_object = field.strip_prefix("objects[").and_then(|rest| rest.split_once(']'));
        let place = of_object.and_then(|(index, field)| Some((index.parse::<usize>().ok()?, field)));
        match place.and_then(|(index, field)| Some((index, self.manifests.get(index)?, field))) {
            Some((index, (file, _), field)) => {
                let field = field.trim_start_matches('.');
                let before = self.manifests.iter().take(index).filter(|(other, _)| other == file).count();
                let line = self.texts.get(file).and_then(|text| manifest::line_of(text, before, field));
                let line = line.map(|line| format!("line {line}: ")).unwrap_or_default();
                let field = if field.is_empty() { String::new() } else { format!("{field}: ") };
                ExplainError::File { file: file.clone(), message: format!("{line}{field}{message}") }
            }
            None => {
                let field = field.trim_start_matches("flows[0].").trim_start_matches("hostFlows[0].");
                ExplainError::Question(if field.is_empty() {
                    message.to_owned()
                } else {
                    format!("{field}: {message}")
                })
            }
        }
    }
}

/// The reader of cases wants to know what must happen; here nothing must.
fn with_expectation(flow: &Value) -> Value {
    let mut flow = flow.clone();
    if let Some(map) = flow.as_object_mut() {
        map.insert("expect".to_owned(), "allow".into());
    }
    flow
}

/// Explains what becomes of the flow that is asked about.
///
/// # Errors
/// When it cannot be: something that is named is not there, or an object is not valid.
pub fn explain(objects: &Objects, question: &Question) -> Result<Explained, ExplainError> {
    let world = objects.world(question)?;
    let mut cluster = Cluster::new(&world)?;
    let walks = cluster.walks(&world)?;
    let (verdict, decided_by) = verdict(&world, &walks)?;
    let found = change::find(&world, &mut cluster, &walks, &verdict)?;
    Ok(document::document(&world, &cluster, &walks, (verdict, decided_by), found))
}

/// What the production pipeline does with the flow; at a host endpoint, what the tables say.
fn verdict(world: &World, walks: &[cluster::Walk]) -> Result<(String, String), ExplainError> {
    let observations = judge::judge(world)?;
    let Some(observation) = observations.flows.into_iter().chain(observations.host_flows).next() else {
        return Err(ExplainError::Question("nothing is asked".to_owned()));
    };
    match observation.observed {
        caracal_model::case::report::Observed::Unsupported | caracal_model::case::report::Observed::Error => {
            Err(ExplainError::Question(observation.why))
        }
        observed => {
            let denied = walks.iter().find(|walk| !walk.allow);
            let is_allow = observed != caracal_model::case::report::Observed::Deny;
            if let Some(denied) = denied.filter(|_| is_allow) {
                return Err(ExplainError::Disagreement {
                    explained: denied.decided.to_string(),
                    tables: observation.why,
                });
            }
            let by = denied.map_or(observation.why, |walk| walk.decided.to_string());
            Ok((observed.as_str().to_owned(), by))
        }
    }
}
