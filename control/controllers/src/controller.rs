//! What a controller is.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use caracal_ipam::{Nanoseconds, Record};
use caracal_model::object::Kind;

use crate::{Action, Cluster, settings::Settings};

/// The time, twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// For how long things have been so: never goes back.
    pub instant: Instant,
    /// What is written into objects.
    pub time: Nanoseconds,
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// In this order, each on its own: what fails does not keep the next from being done.
    pub actions: Vec<Action>,
    /// What cannot be done as long as things are as they are, for people.
    pub problems: Vec<String>,
    /// When to look again, even if nothing changes.
    pub again: Option<Duration>,
    /// When to look again at the earliest, even if something does.
    pub pause: Duration,
    /// Addresses that seem to be nobody's, with the nodes that they were given on, from who looks for such.
    pub candidates: Option<Vec<(IpAddr, Option<String>)>>,
}

/// Looks at the cluster and says what is to be done. Whoever begins to lead begins with a new one: what it remembers is
/// only since when it has seen something.
pub trait Controller: Send {
    /// Its name, in logs.
    fn name(&self) -> &'static str;

    /// What it looks at: it plans when one of these has changed.
    fn kinds(&self) -> &'static [Kind];

    /// Whether it only looks sooner when one of these has gone.
    fn is_woken_by_deletion_only(&self) -> bool {
        false
    }

    /// Whether all of address management is to be read for it, before each look at the cluster.
    fn reads_records(&self) -> bool {
        false
    }

    /// What is to be done now. `records` is empty for who does not ask for them.
    fn plan(&mut self, cluster: &Cluster, records: Vec<Record>, settings: &Settings, now: Now) -> Plan;
}
