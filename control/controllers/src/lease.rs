//! The Lease in the Kubernetes API, and the task that keeps one for an [`Election`].

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::{oneshot, watch};
use tracing::{info, warn};

use crate::election::{Action, Election, Event, Found, Record, Timing};

/// Which Lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Default for LeaseName {
    fn default() -> Self {
        Self { namespace: "kube-system".to_owned(), name: "caracal-controllers".to_owned() }
    }
}

/// Whether this process may act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leadership {
    /// It may not.
    None,
    /// It may until then.
    Until(Instant),
    /// There is nobody else.
    Always,
}

impl Leadership {
    /// Whether it may act at an instant.
    pub fn is_at(self, now: Instant) -> bool {
        match self {
            Self::None => false,
            Self::Until(until) => now < until,
            Self::Always => true,
        }
    }
}

/// Stands for election until `end` says that this process has stopped acting; then gives the Lease back.
pub async fn stand(
    client: Client,
    name: LeaseName,
    identity: String,
    timing: Timing,
    leadership: watch::Sender<Leadership>,
    end: oneshot::Receiver<()>,
) {
    let api: Api<Lease> = Api::namespaced(client, &name.namespace);
    let mut election = Election::new(&identity, timing, Instant::now());
    let mut end = Some(end);
    let mut trouble = String::new();
    let mut held: Option<Lease> = None;
    let mut action = None;
    loop {
        let event = match action.take() {
            Some(Action::Done) => return,
            Some(action) => {
                let request = perform(&api, &name, &action, &mut held);
                let event = match tokio::time::timeout(timing.renew_deadline / 2, request).await {
                    Ok(Ok(event)) => {
                        if !std::mem::take(&mut trouble).is_empty() {
                            info!("lease {}/{}: the API server answers again", name.namespace, name.name);
                        }
                        event
                    }
                    failed => {
                        let why = match failed {
                            Ok(Err(error)) => caracal_datastore::causes(&error),
                            _ => "no answer in time".to_owned(),
                        };
                        if why != trouble {
                            warn!("lease {}/{}: {why}; trying again", name.namespace, name.name);
                            trouble = why;
                        }
                        match action {
                            Action::Read => Event::ReadFailed,
                            _ => Event::WriteFailed,
                        }
                    }
                };
                Some(event)
            }
            None => {
                let wake = election.wake().unwrap_or_else(Instant::now);
                tokio::select! {
                    () = tokio::time::sleep_until(wake.into()) => Some(Event::Timer),
                    () = wait(&mut end) => Some(Event::Ended),
                }
            }
        };
        let now = Instant::now();
        action = event.and_then(|event| election.on(event, now));
        let new =
            election.leads_until().filter(|until| now < *until).map_or(Leadership::None, Leadership::Until);
        let led = leadership.borrow().is_at(now);
        leadership.send_replace(new);
        match (led, new.is_at(now)) {
            (false, true) => info!("leading as {identity}"),
            (true, false) => info!("no longer leading"),
            _ => {}
        }
    }
}

/// When the other end says so, once. Its going away says nothing: something may still be under way.
async fn wait(end: &mut Option<oneshot::Receiver<()>>) {
    let said = match end {
        Some(end) => end.await.is_ok(),
        None => false,
    };
    *end = None;
    if !said {
        std::future::pending::<()>().await;
    }
}

/// Asks the API server; `held` is the Lease as it was last read, whose other fields are kept.
async fn perform(
    api: &Api<Lease>,
    name: &LeaseName,
    action: &Action,
    held: &mut Option<Lease>,
) -> Result<Event, kube::Error> {
    let Action::Write { record, replaces, acquires } = action else {
        let found = api.get_opt(&name.name).await?;
        let event = Event::Read(found.as_ref().map(read));
        *held = found;
        return Ok(event);
    };
    let known = held.take().unwrap_or_default();
    let lease = written(known, name, record, replaces.clone(), *acquires);
    let params = PostParams::default();
    let result = match replaces {
        Some(_) => api.replace(&name.name, &params, &lease).await,
        None => api.create(&params, &lease).await,
    };
    match result {
        Ok(_) => Ok(Event::Written),
        // 404: it has been deleted since it was read.
        Err(kube::Error::Api(status)) if status.code == 409 || (status.code == 404 && replaces.is_some()) => {
            Ok(Event::Refused)
        }
        Err(error) => Err(error),
    }
}

fn read(lease: &Lease) -> Found {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0);
    Found {
        record: Record {
            holder: spec.holder_identity.unwrap_or_default(),
            lease: Duration::from_secs(seconds),
            transitions: u32::try_from(spec.lease_transitions.unwrap_or(0)).unwrap_or(0),
        },
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
    }
}

fn written(
    known: Lease,
    name: &LeaseName,
    record: &Record,
    version: Option<String>,
    acquires: bool,
) -> Lease {
    // For people only: nobody compares it.
    let now = Some(MicroTime(Timestamp::now()));
    let former = known.spec.unwrap_or_default();
    // Rather too long than shorter than what it acts upon.
    let whole_seconds = record.lease.as_millis().div_ceil(1000).max(1);
    Lease {
        metadata: ObjectMeta {
            name: Some(name.name.clone()),
            namespace: Some(name.namespace.clone()),
            resource_version: version,
            ..known.metadata
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(record.holder.clone()),
            lease_duration_seconds: Some(i32::try_from(whole_seconds).unwrap_or(i32::MAX)),
            acquire_time: if acquires { now.clone() } else { former.acquire_time },
            renew_time: now,
            lease_transitions: Some(i32::try_from(record.transitions).unwrap_or(i32::MAX)),
            ..former
        }),
    }
}
