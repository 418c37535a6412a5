//! The task that owns the calc graph and everything that is decided from it.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use caracal_calc::{CalcGraph, HostServices, Update};
use caracal_cni::node_socket::{Answer, Request, Status};
use caracal_model::annotations::{NODE_IPV4_ADDRESS, NODE_IPV6_ADDRESS, POD_CONTAINER_ID};
use caracal_model::convert::node_labels;
use caracal_model::object::{Kind, Object, ObjectKey};
use caracal_plane_api::{PlaneError, Reader, StatusReport, What};
use futures::future::OptionFuture;
use kube::Client;
use tokio::sync::watch;
use tokio::time::sleep_until;
use tracing::{debug, info, warn};

use crate::addresses::Addresses;
use crate::host_policy::{HostPolicy, HostRules};
use crate::monitoring::{Now, REPORT_INTERVAL, Vitals};
use crate::node;
use crate::node_socket::{Asker, NodeSocket, Question, Said, Waiters};
use crate::plane::{Action, Event, Link, LinkEvent, Session};
use crate::pods::Pods;
use crate::programmer::{Inputs, Programmer};
use crate::syncer::{Standing, SyncEvent, Syncer};

/// Changes that come within this time of the last flush wait and go together; the first after a pause goes at once.
const FLUSH_INTERVAL: Duration = Duration::from_millis(5);
/// What is said of a fastpath that is there and does nothing.
const SILENT: &str = "the fastpath does not answer: it is stopped or stuck, and forwards nothing";

/// One node's agent.
#[derive(Debug)]
pub struct Agent {
    node: String,
    socket: PathBuf,
    syncer: Syncer,
    graph: CalcGraph,
    session: Session,
    link: Option<Link>,
    programmer: Option<Programmer>,
    inputs: Inputs,
    host_rules: Option<HostRules>,
    host_policy: HostPolicy,
    progress: Progress,
    /// Whether the API has this node's object.
    node_exists: bool,
    /// Whether that says an address of Calico's.
    node_has_address: bool,
    said_waiting: Option<bool>,
    /// Updates that have not been flushed.
    dirty: bool,
    flushed: Instant,
    /// The data is not to be used now.
    locked: bool,
    start: Option<node::Start>,
    start_progress: node::Progress,
    node_socket: Option<NodeSocket>,
    addresses: Option<Addresses>,
    pods: Option<Pods>,
    said: Said,
    waiters: Waiters<Asker>,
    vitals: Arc<Vitals>,
    report_at: Instant,
}

/// A look at the fastpath's ports, with the connection for the next one.
type Look = Pin<Box<dyn Future<Output = Result<(Reader, StatusReport), String>> + Send>>;

/// How far the start has come. Nothing goes back: once the state has been whole, an API server that is away changes
/// nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// The first lists are still coming in.
    Listing,
    /// All objects are known, but for this node's own.
    NodeMissing,
    /// The kernel is being prepared; the fastpath wants to open the host ports when it hears of them.
    Preparing,
    /// The fastpath is told everything.
    Running,
}

impl Agent {
    /// An agent for `node`, which follows the cluster of `client` and feeds the fastpath at `socket`. Without a
    /// programmer the kernel is left as it is.
    #[must_use]
    pub fn new(
        node: String,
        services: HostServices,
        client: &Client,
        socket: PathBuf,
        programmer: Option<Programmer>,
    ) -> Self {
        let now = Instant::now();
        Self {
            syncer: Syncer::start(client),
            graph: CalcGraph::with_host_services(node.clone(), services),
            session: Session::new(format!("caracal agent on {node}"), now),
            link: None,
            programmer,
            inputs: Inputs::default(),
            host_rules: None,
            host_policy: HostPolicy::default(),
            progress: Progress::Listing,
            node_exists: false,
            node_has_address: false,
            said_waiting: None,
            dirty: false,
            flushed: now,
            locked: false,
            start: None,
            start_progress: node::Progress::Started,
            node_socket: None,
            addresses: None,
            pods: None,
            said: Said::default(),
            waiters: Waiters::default(),
            vitals: Arc::default(),
            report_at: now,
            node,
            socket,
        }
    }

    /// With host endpoints' policy in the kernel, for what ends or starts on the host.
    #[must_use]
    pub fn with_host_rules(mut self, host_rules: HostRules) -> Self {
        self.host_rules = Some(host_rules);
        self
    }

    /// With the socket that the CNI plugin asks.
    #[must_use]
    pub fn with_node_socket(mut self, node_socket: NodeSocket) -> Self {
        self.node_socket = Some(node_socket);
        self.addresses = Some(Addresses::start(self.node.clone(), self.syncer.datastore()));
        self.pods = Some(Pods::start(self.syncer.datastore()));
        self
    }

    /// Seeing to the node's start as well.
    #[must_use]
    pub fn with_start(mut self, config: node::Config) -> Self {
        let start = node::Start::spawn(&self.node, config, self.syncer.datastore());
        self.start_progress = start.progress().borrow().clone();
        self.start = Some(start);
        self
    }

    /// With somebody who watches.
    #[must_use]
    pub fn with_vitals(mut self, vitals: Arc<Vitals>) -> Self {
        self.vitals = vitals;
        self
    }

    /// Runs until `stop` is done. Nothing is removed then: the data plane outlives the control plane.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        let mut prepared: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(std::future::pending());
        let mut start_progress = self.start.as_ref().map(node::Start::progress);
        let mut reader = None;
        let mut look: Look = Box::pin(std::future::pending());
        loop {
            if Instant::now() >= self.report_at {
                self.report();
            }
            let report_at = self.report_at;
            let flush_at = self.flushed + FLUSH_INTERVAL;
            let listing = self.progress == Progress::Listing;
            let wake = self.session.wake();
            let waiters_wake = self.waiters.wake();
            tokio::select! {
                biased;
                () = &mut stop => {
                    info!("stopping; the data plane goes on with what it has");
                    answer(self.waiters.end());
                    if let Some(start) = &self.start {
                        start.last_words().await;
                    }
                    return;
                }
                event = next(self.link.as_mut()) => self.link_event(event),
                () = at(wake) => self.session_event(Event::Timer),
                () = &mut prepared => {
                    prepared = Box::pin(std::future::pending());
                    self.progress = Progress::Running;
                    self.session_event(Event::Whole);
                }
                () = sleep_until(flush_at.into()), if self.dirty && !listing && !self.locked => self.flush(),
                progress = next_progress(start_progress.as_mut()) => self.start_progress = progress,
                looked = &mut look => {
                    look = Box::pin(std::future::pending());
                    let seen = looked.map(|(returned, status)| {
                        reader = Some(returned);
                        status
                    });
                    answer(self.waiters.looked(seen.as_ref().map_err(String::as_str), Instant::now()));
                }
                () = at(waiters_wake) => {
                    let (answers, looks) = self.waiters.due(Instant::now());
                    answer(answers);
                    if looks {
                        look = Box::pin(look_at_ports(reader.take(), self.socket.clone()));
                    }
                }
                question = next_question(self.node_socket.as_mut()) => self.asked(question),
                event = self.syncer.next() => match event {
                    Some(SyncEvent::Updates(updates)) => self.updates(updates),
                    Some(SyncEvent::InSync) if listing => {
                        info!("everything in the API has been read");
                        self.progress = Progress::NodeMissing;
                        self.dirty = true;
                    }
                    Some(SyncEvent::InSync) => {}
                    None => {
                        // The tasks run for ever; should they not, what is known stays in force.
                        warn!("following the API server has ended");
                        return stop.await;
                    }
                },
                () = sleep_until(report_at.into()) => {}
            }
            // What is known but not said may be about whom somebody waits for.
            if !self.dirty && !self.waiters.is_empty() {
                self.waiters.review(&self.said, self.session.adopted(), Instant::now());
            }
            if let Some(start) = &self.start {
                let forwarding = self.progress == Progress::Running && self.session.adopted().is_some();
                start.see_forwarding(forwarding);
            }
            if self.progress == Progress::NodeMissing && self.inputs.node.is_some() && self.may_begin() {
                self.progress = Progress::Preparing;
                if let Some(rules) = &self.host_rules {
                    rules.set(&self.host_policy);
                }
                if let Some(programmer) = &self.programmer {
                    programmer.set(&self.inputs);
                }
                let rules = OptionFuture::from(self.host_rules.as_ref().map(HostRules::attempted));
                let programmer = OptionFuture::from(self.programmer.as_ref().map(Programmer::attempted));
                prepared = Box::pin(async move {
                    rules.await;
                    programmer.await;
                });
            }
        }
    }

    /// Says that the main task is there, and how far it has come.
    fn report(&mut self) {
        let now = Instant::now();
        self.report_at = now + REPORT_INTERVAL;
        let (standing, resyncs) = self.syncer.standing();
        let status = self.status();
        let known = match self.progress {
            Progress::Listing | Progress::NodeMissing => status.why.as_str(),
            Progress::Preparing | Progress::Running => "",
        };
        let now_known = Now {
            census: self.graph.census(),
            resync_state: match standing {
                Standing::Waiting => 1,
                Standing::Listing => 2,
                Standing::Following => 3,
            },
            resyncs,
            is_plane_in_sync: self.session.adopted().is_some(),
            plane_connections: self.session.connections(),
        };
        let said = match (now_known.is_plane_in_sync, known.is_empty()) {
            _ if self.session.is_silent() => SILENT,
            (true, _) => "",
            (false, true) => "the fastpath has not acknowledged this node's whole state",
            (false, false) => "there is nothing to tell the fastpath before the state is known",
        };
        self.vitals.main_came_round(known, said, now_known, now);
    }

    fn updates(&mut self, updates: Vec<Update>) {
        let begun = Instant::now();
        let kinds: Vec<Kind> = updates.iter().map(Update::kind).collect();
        updates.into_iter().for_each(|update| self.update(update));
        self.vitals.updated(kinds.into_iter(), begun.elapsed());
    }

    fn update(&mut self, update: Update) {
        match &update {
            Update::Upsert(Object::Node(node)) if node.metadata.name.as_ref() == Some(&self.node) => {
                self.node_exists = true;
                self.node_has_address = [NODE_IPV4_ADDRESS, NODE_IPV6_ADDRESS]
                    .iter()
                    .any(|key| node.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(*key)));
                self.see(|seen| seen.node = Some(node.clone().into()));
                if let Some(addresses) = &self.addresses {
                    addresses.set_node_labels(node_labels(node));
                }
            }
            Update::Delete(key) if key.kind == Kind::Node && key.name == self.node => {
                self.node_exists = false;
                self.see(|seen| seen.node = None);
            }
            Update::Upsert(Object::IPPool(_)) => self.see(|seen| seen.pools += 1),
            Update::Delete(ObjectKey { kind: Kind::IPPool, .. }) => self.see(|seen| seen.pools += 1),
            Update::Upsert(Object::ClusterInformation(information))
                if information.metadata.name.as_deref() == Some("default") =>
            {
                self.lock(information.spec.datastore_ready == Some(false));
            }
            Update::Delete(ObjectKey { kind: Kind::ClusterInformation, name, .. }) if name == "default" => {
                self.lock(false);
            }
            Update::Upsert(Object::Pod(pod)) => {
                let metadata = &pod.metadata;
                let is_here =
                    pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_ref() == Some(&self.node));
                let sandbox = metadata.annotations.as_ref().and_then(|all| all.get(POD_CONTAINER_ID));
                self.said.set_sandbox(
                    metadata.namespace.as_deref().unwrap_or_default(),
                    metadata.name.as_deref().unwrap_or_default(),
                    sandbox.filter(|_| is_here).map(String::as_str),
                );
            }
            Update::Delete(ObjectKey { kind: Kind::Pod, namespace, name }) => {
                self.said.set_sandbox(namespace.as_deref().unwrap_or_default(), name, None);
            }
            _ => {}
        }
        self.graph.apply(update);
        self.dirty = true;
    }

    fn flush(&mut self) {
        self.dirty = false;
        self.flushed = Instant::now();
        let ops = self.graph.flush();
        self.vitals.flushed(ops.len(), self.flushed.elapsed());
        self.vitals.follow(self.graph.monitoring());
        for (policy, rule) in self.graph.take_dropped_rules() {
            let (field, why) = (rule.field, rule.message);
            warn!("{policy}: {field}: {why}; it allows nothing until that is put right");
        }
        for (pod, limit) in self.graph.take_dropped_limits() {
            warn!("pod {pod}: annotation {}: {}; it is left out", limit.field, limit.message);
        }
        // The host's rules come first: what they are to deny is not to wait for anything.
        let is_for_host = self.host_policy.apply(&ops);
        if let Some(rules) = &self.host_rules
            && is_for_host
            && matches!(self.progress, Progress::Preparing | Progress::Running)
        {
            rules.set(&self.host_policy);
        }
        let mtu = self.graph.mtu();
        let of_interest = self.inputs.apply(&ops) || self.inputs.mtu != mtu;
        self.inputs.mtu = mtu;
        if let Some(programmer) = &self.programmer
            && of_interest
        {
            programmer.set(&self.inputs);
        }
        if self.inputs.node.is_none() && self.said_waiting != Some(self.node_exists) {
            self.said_waiting = Some(self.node_exists);
            if self.node_exists {
                warn!(
                    node = self.node,
                    "the Node object has no address to use (InternalIP, or the annotation projectcalico.org/IPv4Address or IPv6Address); waiting for it to get one"
                );
            } else {
                warn!(
                    node = self.node,
                    "there is no Node object of this name; waiting for it (is --node right?)"
                );
            }
        }
        if !ops.is_empty() {
            debug!(operations = ops.len(), "something has changed for this node");
            self.said.apply(&ops, self.session.changes() + 1);
            self.session_event(Event::Changed(ops));
        }
    }

    fn see(&self, change: impl FnOnce(&mut node::Seen)) {
        if let Some(start) = &self.start {
            start.see(change);
        }
    }

    /// While data is being moved, what is seen of it may be half of it: the data plane goes on with what it has.
    fn lock(&mut self, locked: bool) {
        if self.locked != locked {
            self.locked = locked;
            self.see(|seen| seen.locked = locked);
            if locked {
                warn!(
                    "ClusterInformation says datastoreReady: false; keeping what is in force until it says true"
                );
            } else {
                info!("the data may be used again");
            }
        }
    }

    /// Whether the fastpath may be told of the node as the Node object has it: a node that has never been started may
    /// yet be given another address.
    fn may_begin(&self) -> bool {
        self.node_has_address || self.start_progress == node::Progress::Started
    }

    fn asked(&mut self, question: Question) {
        let Question { request, asker } = question;
        match request {
            Request::Status => asker.tell(Answer::Status(self.status())),
            Request::Wait(wait) => {
                let added = self.waiters.add(wait, asker, |asker| !asker.is_gone(), Instant::now());
                answer(added.err().into_iter().collect());
            }
            Request::Assign(assign) => {
                if let Some(addresses) = &self.addresses {
                    addresses.ask(assign, asker);
                }
            }
            Request::Read(name) => {
                if let Some(pods) = &self.pods {
                    pods.read(name, asker);
                }
            }
            Request::Annotate(annotate) => {
                if let Some(pods) = &self.pods {
                    pods.annotate(annotate, asker);
                }
            }
        }
    }

    fn status(&self) -> Status {
        if let node::Progress::Waiting(why) = &self.start_progress {
            let why = format!("this node has not been started: {why}");
            return Status { ready: false, why, api_group: None };
        }
        let why = match self.progress {
            _ if self.locked => "ClusterInformation says datastoreReady: false",
            Progress::Listing => "the API server has not told everything yet",
            Progress::NodeMissing if self.node_exists => "the Node object has no address to use",
            Progress::NodeMissing => "there is no Node object of this node's name",
            Progress::Preparing => "the kernel is being prepared",
            Progress::Running if self.session.adopted().is_none() => "the fastpath is not in sync",
            Progress::Running if self.session.is_silent() => SILENT,
            Progress::Running => "",
        };
        let api_group = self.syncer.datastore().borrow().as_ref().map(|known| known.group().to_string());
        Status { ready: why.is_empty(), why: why.to_owned(), api_group }
    }

    fn link_event(&mut self, event: LinkEvent) {
        let event = match event {
            LinkEvent::Connected => Event::Connected,
            LinkEvent::Received(message) => Event::Received(message),
            LinkEvent::Lost(why) => {
                self.link = None;
                Event::Lost(why)
            }
        };
        self.session_event(event);
    }

    fn session_event(&mut self, event: Event) {
        let now = Instant::now();
        let standing = |session: &Session| (session.adopted().is_some(), session.is_silent());
        let before = standing(&self.session);
        let actions = self.session.on(event, now);
        self.session.take_waits().for_each(|took| self.vitals.acknowledged(took));
        if before != standing(&self.session) {
            // Whoever probes is to hear of it at once.
            self.report_at = now;
        }
        self.act(actions, now);
    }

    fn act(&mut self, actions: Vec<Action>, now: Instant) {
        for action in actions {
            match action {
                Action::Connect => self.link = Some(Link::open(&self.socket)),
                Action::Disconnect => self.link = None,
                Action::Send(message) => {
                    if let Some(link) = &self.link {
                        link.send(message);
                    }
                }
                Action::TakeState => {
                    // What is not flushed yet is not in the state, and comes with the next flush.
                    let actions = self.session.state(self.graph.state(), now);
                    self.act(actions, now);
                }
            }
        }
    }
}

async fn look_at_ports(reader: Option<Reader>, socket: PathBuf) -> Result<(Reader, StatusReport), String> {
    let look = move || -> Result<_, PlaneError> {
        let mut reader = reader.map_or_else(|| Reader::connect(&socket), Ok)?;
        let status = reader.read(What::Status)?.status.unwrap_or_default();
        Ok((reader, status))
    };
    let looked = tokio::task::spawn_blocking(look).await.map_err(|e| e.to_string())?;
    looked.map_err(|e| e.to_string())
}

fn answer(answers: Vec<(Asker, Answer)>) {
    for (asker, answer) in answers {
        asker.tell(answer);
    }
}

async fn next_progress(progress: Option<&mut watch::Receiver<node::Progress>>) -> node::Progress {
    if let Some(progress) = progress
        && progress.changed().await.is_ok()
    {
        return progress.borrow_and_update().clone();
    }
    // None, or one that has ended: nothing more comes.
    std::future::pending().await
}

async fn next_question(socket: Option<&mut NodeSocket>) -> Question {
    match socket {
        Some(socket) => socket.next().await,
        None => std::future::pending().await,
    }
}

async fn next(link: Option<&mut Link>) -> LinkEvent {
    match link {
        Some(link) => link.next().await,
        None => std::future::pending().await,
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}
