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
use std::net::IpAddr;

use caracal_model::case::{Case, Place, World, WorldError, WorldFlow};
use caracal_model::convert::{Locality, ServedPort, ServiceInfo, SliceInfo, served_ports, service_slice};
use caracal_model::manifest;
use caracal_model::object::Object;
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
    let led = led_to_backend(&world)?;
    let mut cluster = Cluster::new(&led)?;
    let walks = cluster.walks(&led)?;
    let (verdict, decided_by) = verdict(&world, &walks)?;
    let found = change::find(&led, &mut cluster, &walks, &verdict)?;
    Ok(document::document(&led, &cluster, &walks, (verdict, decided_by), found))
}

/// The world with its flow led to the backend that answers for the service that it asks: policy sees that one. Where none
/// is reached, to one that could have been.
fn led_to_backend(world: &World) -> Result<World, ExplainError> {
    let mut led = world.clone();
    let Some(flow) = led.flows.first_mut() else { return Ok(led) };
    let service = flow.service.and_then(|index| world.services.get(index));
    let Some(service) = service.filter(|_| flow.unsupported.is_none()) else { return Ok(led) };
    let reached = match judge::backend(world, flow)? {
        Some(reached) => Some(reached),
        None => could_reach(world, flow, service)
            .map(|(place, address, port)| (place, flow.source_address, address, port)),
    };
    if let Some((place, client, address, port)) = reached {
        flow.to = format!("{} ({address} port {port})", flow.to);
        flow.destination = place;
        flow.destination_address = address;
        flow.destination_port = Some(port);
        if !matches!(flow.source, Place::Pod(_)) {
            flow.source_address = client;
        }
    }
    Ok(led)
}

/// A pod that a service could lead to.
fn could_reach(world: &World, flow: &WorldFlow, service: &ServiceInfo) -> Option<(Place, IpAddr, u16)> {
    let node = match (flow.source, flow.destination) {
        (_, Place::Node(node)) | (Place::Node(node), _) => Some(node),
        (Place::Pod(pod), _) => world.pods.get(pod).map(|pod| pod.node),
        (Place::External | Place::Service(_), _) => world.entrance(flow.destination_address),
    };
    let slices: Vec<SliceInfo> = world
        .objects
        .iter()
        .filter_map(|object| match object {
            Object::EndpointSlice(slice) => Some(service_slice(slice)),
            _ => None,
        })
        .filter(|slice| slice.service.as_ref() == Some(&service.key))
        .collect();
    let here = node.and_then(|node| world.nodes.get(node));
    let here = Locality { node: here.map(|node| node.name.clone()).unwrap_or_default(), zone: None };
    let asked = |port: &ServedPort| {
        port.protocol == flow.protocol
            && port.frontends.iter().any(|front| Some(front.port) == flow.destination_port)
    };
    let port = served_ports(service, slices.iter(), &here).into_iter().find(asked)?;
    let (address, number) = port
        .cluster
        .into_iter()
        .find(|(address, _)| address.is_ipv4() == flow.destination_address.is_ipv4())?;
    let pod = world.pods.iter().position(|pod| !pod.host_network && pod.addresses.contains(&address))?;
    Some((Place::Pod(pod), address, number))
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
