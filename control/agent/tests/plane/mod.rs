//! The fastpath's end of the plane socket, over the real framing: keeps what it is told as the contract says, with
//! mark and sweep, and remembers how it was told.
#![allow(dead_code, reason = "each test uses its part")]

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use caracal_plane_api::{
    Ack, FromClient, FromFastpath, Op, PortRow, ReadReply, Refused, Role, StatusReport, Transaction, VERSION,
    Welcome, from_client, from_fastpath, op, read_message, write_message,
};

/// Against hanging only.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a fastpath holds; it outlives its process in a test, to be looked at.
#[derive(Debug, Default)]
pub struct Told {
    /// By kind and name.
    pub objects: BTreeMap<String, Op>,
    /// What the present connection has named.
    marked: BTreeSet<String>,
    pub in_sync: bool,
    pub hellos: usize,
    pub transactions: Vec<Transaction>,
    /// Names that were ever removed.
    pub removed: BTreeSet<String>,
    /// Refuse the next transaction.
    pub refuse: bool,
    /// Acknowledge nothing until [`Plane::acknowledge`].
    pub withhold: bool,
    /// The ports that readers are told of, all open.
    pub ports: BTreeSet<String>,
    /// The controller's connection.
    controller: Option<UnixStream>,
    /// The last transaction of its.
    seq: u64,
}

pub struct Plane {
    told: Arc<(Mutex<Told>, Condvar)>,
    path: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Plane {
    /// A fastpath that has just started and serves `path`.
    pub fn start(path: &Path, instance: u64) -> Self {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).unwrap();
        let told = Arc::new((Mutex::new(Told::default()), Condvar::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (told, stop) = (told.clone(), stop.clone());
            move || serve(&listener, instance, &told, &stop)
        });
        Self { told, path: path.to_owned(), stop, thread: Some(thread) }
    }

    /// Waits for something to be so; fails with what is so instead.
    pub fn wait(&self, what: &str, mut so: impl FnMut(&Told) -> bool) {
        let (told, changed) = &*self.told;
        let guard = told.lock().unwrap();
        let (guard, timeout) = changed.wait_timeout_while(guard, PATIENCE, |told| !so(told)).unwrap();
        assert!(!timeout.timed_out(), "waited in vain for: {what}; told was {guard:#?}");
    }

    /// Acknowledges everything, from now on at once again.
    pub fn acknowledge(&self) {
        self.with(|told| {
            told.withhold = false;
            let ack = from_fastpath::Message::Ack(Ack { seq: told.seq });
            write_message(told.controller.as_mut().unwrap(), &FromFastpath { message: Some(ack) }).unwrap();
        });
    }

    /// Looks at, or changes, what it knows.
    pub fn with<T>(&self, look: impl FnOnce(&mut Told) -> T) -> T {
        look(&mut self.told.0.lock().unwrap())
    }
}

impl Drop for Plane {
    /// Dies: the socket goes, connections break.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = UnixStream::connect(&self.path);
        let _ = std::fs::remove_file(&self.path);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(listener: &UnixListener, instance: u64, told: &Arc<(Mutex<Told>, Condvar)>, stop: &AtomicBool) {
    let mut connections: Vec<UnixStream> = Vec::new();
    for stream in listener.incoming() {
        let stream = stream.unwrap();
        if stop.load(Ordering::Relaxed) {
            for connection in connections {
                let _ = connection.shutdown(std::net::Shutdown::Both);
            }
            return;
        }
        connections.push(stream.try_clone().unwrap());
        let told = told.clone();
        std::thread::spawn(move || converse(stream, instance, &told));
    }
}

fn converse(mut stream: UnixStream, instance: u64, told: &(Mutex<Told>, Condvar)) {
    let mut seq = 0;
    while let Ok(FromClient { message: Some(message) }) = read_message(&mut stream) {
        let mut state = told.0.lock().unwrap();
        let answer = match message {
            from_client::Message::Hello(hello) => {
                assert_eq!(hello.version, VERSION);
                if hello.role() == Role::Controller {
                    // The newest controller wins.
                    if let Some(old) = state.controller.replace(stream.try_clone().unwrap()) {
                        let _ = old.shutdown(std::net::Shutdown::Both);
                    }
                    state.hellos += 1;
                    state.marked.clear();
                    state.in_sync = false;
                }
                let welcome = Welcome { version: VERSION, software: "test".into(), instance, workers: 1 };
                from_fastpath::Message::Welcome(welcome)
            }
            from_client::Message::Transaction(transaction) if state.refuse => {
                state.refuse = false;
                from_fastpath::Message::Refused(Refused {
                    seq: transaction.seq,
                    reason: "a test says so".into(),
                })
            }
            from_client::Message::Transaction(transaction) => {
                seq += 1;
                assert_eq!(transaction.seq, seq, "numbers increase by one");
                // What says nothing asks whether anybody is here.
                if !transaction.ops.is_empty() || !state.in_sync {
                    state.apply(&transaction);
                    state.transactions.push(transaction);
                }
                state.seq = seq;
                if state.withhold {
                    drop(state);
                    told.1.notify_all();
                    continue;
                }
                from_fastpath::Message::Ack(Ack { seq })
            }
            from_client::Message::Read(_) => {
                let row = |name: &String| PortRow { name: name.clone(), up: true, ..PortRow::default() };
                let ports = state.ports.iter().map(row).collect();
                let status = StatusReport { in_sync: state.in_sync, ports, ..StatusReport::default() };
                let reply = ReadReply { last: true, status: Some(status), ..ReadReply::default() };
                from_fastpath::Message::ReadReply(reply)
            }
        };
        drop(state);
        told.1.notify_all();
        if write_message(&mut stream, &FromFastpath { message: Some(answer) }).is_err() {
            return;
        }
    }
}

impl Told {
    fn apply(&mut self, transaction: &Transaction) {
        for op in &transaction.ops {
            let (name, removed) = name(op.op.as_ref().unwrap());
            if removed {
                self.objects.remove(&name);
                self.marked.remove(&name);
                self.removed.insert(name);
            } else {
                self.objects.insert(name.clone(), op.clone());
                self.marked.insert(name);
            }
        }
        if transaction.in_sync && !self.in_sync {
            self.in_sync = true;
            let gone: Vec<String> =
                self.objects.keys().filter(|name| !self.marked.contains(*name)).cloned().collect();
            for name in gone {
                self.objects.remove(&name);
                self.removed.insert(name);
            }
        }
    }

    pub fn has(&self, name: &str) -> bool {
        self.objects.contains_key(name)
    }
}

fn name(op: &op::Op) -> (String, bool) {
    use op::Op;
    let prefix = |prefix: &caracal_plane_api::Prefix| format!("route {:?}/{}", prefix.address, prefix.length);
    let policy = |id: &caracal_plane_api::PolicyId| format!("policy {}/{}", id.namespace, id.name);
    match op {
        Op::NodeConfig(_) => ("node".into(), false),
        Op::IpSet(set) => (format!("ip set {}", set.id), false),
        Op::IpSetDelta(delta) => (format!("ip set delta {}", delta.id), false),
        Op::IpSetRemove(id) => (format!("ip set {id}"), true),
        Op::Policy(p) => (policy(p.id.as_ref().unwrap()), false),
        Op::PolicyRemove(id) => (policy(id), true),
        Op::Profile(profile) => (format!("profile {}", profile.name), false),
        Op::ProfileRemove(name) => (format!("profile {name}"), true),
        Op::Endpoint(endpoint) => (format!("endpoint {}", endpoint.id), false),
        Op::EndpointRemove(id) => (format!("endpoint {id}"), true),
        Op::Tunnel(tunnel) => (format!("tunnel {}", tunnel.node), false),
        Op::TunnelRemove(node) => (format!("tunnel {node}"), true),
        Op::Route(route) => (prefix(route.prefix.as_ref().unwrap()), false),
        Op::RouteRemove(p) => (prefix(p), true),
        Op::HostEndpoint(endpoint) => (format!("host endpoint {}", endpoint.id), false),
        Op::HostEndpointRemove(id) => (format!("host endpoint {id}"), true),
        Op::Service(service) => (format!("service {}", service.id), false),
        Op::ServiceRemove(id) => (format!("service {id}"), true),
    }
}
