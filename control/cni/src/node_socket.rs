//! What the CNI plugin asks the agent of its node, and how: a unix socket of the agent's, requests and answers one JSON
//! object a line, in turn.
//!
//! ```text
//!   {"op":"status"}                                                        {"ready":true,"why":""}
//!   {"op":"wait","namespace":"shop","pod":"web","containerID":"0f3c…",     {"inForce":true}
//!    "interface":"cali…","addresses":["10.244.1.2"],"timeoutMs":30000}     {"error":"…","code":"timeout"}
//!   {"op":"read","namespace":"shop","pod":"web"}                           {"pod":{…},"of":{…}}
//!   {"op":"assign","handle":"k8s-pod-network.0f3c…","namespace":"shop",    {"addresses":["10.244.1.2"]}
//!    "pod":"web","namespaceLabels":{…},"ipv4":true,"ipv6":false,           {"error":"…","code":"busy"}
//!    "ipv4Pools":[],"ipv6Pools":[]}
//!   {"op":"annotate","namespace":"shop","pod":"web","uid":"…",             {"annotated":true}
//!    "containerID":"0f3c…","addresses":["10.244.1.2"]}
//! ```
//!
//! An agent that is asked to give addresses gives them to all that ask at once, with one write; it reads pods, and writes their annotations,
//! by connections that stand. One that is `busy`, or does not know the question, leaves it to the plugin. Who hangs up before the answer
//! has no addresses and no annotations.
//!
//! A pod is *in force* when its node's fastpath has acknowledged a transaction in which its endpoint stands with exactly
//! these addresses, policy included, and its port is open: from then on its packets go where policy lets them.
//! The socket is 0600, and both ends must be root or of one user.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt::SendTimeout,
};
use nix::sys::time::{TimeVal, TimeValLike};
use serde::{Deserialize, Serialize};

/// Where agents serve it unless told otherwise.
pub const DEFAULT_PATH: &str = "/var/run/caracal/node.sock";
/// A line that is longer than this is no request and no answer.
pub const LINE_BYTES_MAX: usize = 64 << 10;
/// An agent that says nothing at all for so long is not there.
const PATIENCE: Duration = Duration::from_secs(5);
/// For how long what the agent asks the API server for is waited for: hundreds may come first.
const ERRAND_PATIENCE: Duration = Duration::from_secs(30);

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Request {
    /// Is the node ready for pods?
    Status,
    /// Tell me when a pod is in force.
    Wait(Wait),
    /// Read a pod, and its namespace, as the API server has them now.
    Read(PodName),
    /// Give a pod addresses.
    Assign(Assign),
    /// Write a pod's addresses and sandbox into its annotations.
    Annotate(Annotate),
}

/// A pod that is to be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodName {
    /// The pod's namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
}

/// What is to be written into a pod's annotations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Annotate {
    /// The pod's namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Its UID: another pod of the same name is not to have them.
    pub uid: String,
    /// Its sandbox.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// Its addresses, the first one first.
    pub addresses: Vec<IpAddr>,
}

/// A pod that is to have addresses of the node's.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Assign {
    /// By what they are released.
    pub handle: String,
    /// The pod's namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// What pools select namespaces by.
    #[serde(default)]
    pub namespace_labels: BTreeMap<String, String>,
    /// Whether it is to have an IPv4 address.
    pub ipv4: bool,
    /// Whether it is to have an IPv6 address.
    pub ipv6: bool,
    /// Exactly these pools, by name or CIDR.
    #[serde(default)]
    pub ipv4_pools: Vec<String>,
    /// The same for IPv6.
    #[serde(default)]
    pub ipv6_pools: Vec<String>,
}

/// A pod that is to be in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wait {
    /// The pod's namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Its sandbox, as the annotation `cni.projectcalico.org/containerID` says: what is in force for an earlier pod of
    /// the same name does not count. Empty: any.
    #[serde(rename = "containerID", default)]
    pub container_id: String,
    /// The host end of its link.
    pub interface: String,
    /// Its addresses, all of them, in any order.
    pub addresses: Vec<IpAddr>,
    /// How long to wait.
    pub timeout_ms: u64,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// To [`Request::Status`].
    Status(Status),
    /// To [`Request::Wait`].
    #[serde(rename_all = "camelCase")]
    Wait {
        /// Always: what is not in force is a failure.
        in_force: bool,
    },
    /// To [`Request::Assign`].
    Assigned {
        /// All that it is to have, IPv4 first.
        addresses: Vec<IpAddr>,
    },
    /// To [`Request::Read`]: as much of them as plugins look at.
    Known {
        /// The pod.
        pod: Box<Pod>,
        /// Its namespace, if there is one.
        #[serde(default)]
        of: Option<Box<Namespace>>,
    },
    /// To [`Request::Annotate`].
    Annotated {
        /// Always: what is not written is a failure.
        annotated: bool,
    },
    /// To any.
    Failure(Failure),
}

/// Whether the node is ready for pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The agent knows the cluster, and the fastpath has adopted all it was told.
    pub ready: bool,
    /// What is missing, if anything is.
    #[serde(default)]
    pub why: String,
    /// Where Calico's kinds are, if the agent has found out: nobody need ask again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_group: Option<String>,
}

/// Why something is not so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{error}")]
pub struct Failure {
    /// In words.
    pub error: String,
    /// By kind.
    pub code: Code,
}

/// Kinds of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The pod is not in force, and the time is over.
    Timeout,
    /// So many wait already that one more is not taken.
    TooMany,
    /// There is no address to be had.
    NoAddress,
    /// Not by this agent now: do it yourself.
    Busy,
    /// The agent ends.
    Stopping,
    /// That was no request.
    BadRequest,
    /// One that this version does not know.
    #[serde(other)]
    Other,
}

/// Why the agent could not be asked, or what it said.
#[derive(Debug, thiserror::Error)]
pub enum NodeSocketError {
    /// Nobody serves the socket.
    #[error("cannot reach this node's agent at {}: {source} (is caracal agent running?)", .path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is there, and says nothing: stopped, stuck, or asked by too many at once.
    #[error("this node's agent at {} has not answered within {} s; if that does not pass, restart it", .path.display(), .limit.as_secs())]
    Silent {
        /// The socket.
        path: PathBuf,
        /// For how long.
        limit: Duration,
    },
    /// The conversation broke off.
    #[error("this node's agent at {} went away: {source}", .path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It said something that is no answer.
    #[error("what answers at {} is no Caracal agent of this version: {what}", .path.display())]
    Nonsense {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// It answered that it is not so.
    #[error("this node's agent: {0}")]
    Failure(#[from] Failure),
}

/// A conversation with the agent, one question at a time.
#[derive(Debug)]
pub struct NodeSocket {
    stream: BufReader<UnixStream>,
    path: PathBuf,
    /// Whether the connection has been good for an answer.
    was_answered: bool,
}

impl NodeSocket {
    /// Connects.
    ///
    /// # Errors
    /// Nobody is there.
    pub fn connect(path: &Path) -> Result<Self, NodeSocketError> {
        Self::connect_within(path, PATIENCE)
    }

    /// An agent that is stuck has its connections wait to be accepted, and one more, when those are too many, waits here: by itself for ever.
    fn connect_within(path: &Path, limit: Duration) -> Result<Self, NodeSocketError> {
        let fail = |errno| match errno {
            Errno::EAGAIN => NodeSocketError::Silent { path: path.to_owned(), limit },
            errno => NodeSocketError::Connect { path: path.to_owned(), source: errno.into() },
        };
        let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None);
        let socket = socket.map_err(fail)?;
        // Of writes, and of the connection.
        let time = TimeVal::milliseconds(i64::try_from(limit.as_millis()).unwrap_or(i64::MAX));
        setsockopt(&socket, SendTimeout, &time).map_err(fail)?;
        connect(socket.as_raw_fd(), &UnixAddr::new(path).map_err(fail)?).map_err(fail)?;
        let stream = BufReader::new(UnixStream::from(socket));
        Ok(Self { stream, path: path.to_owned(), was_answered: false })
    }

    /// Asks whether the node is ready for pods.
    ///
    /// # Errors
    /// Any [`NodeSocketError`]; a node that is not ready is no error.
    pub fn status(&mut self) -> Result<Status, NodeSocketError> {
        match self.ask(&Request::Status, PATIENCE)? {
            Answer::Status(status) => Ok(status),
            other => Err(self.misplaced(&other)),
        }
    }

    /// Returns once the pod is in force.
    ///
    /// # Errors
    /// Any [`NodeSocketError`]; that it was not in time is [`Code::Timeout`].
    pub fn wait(&mut self, wait: Wait) -> Result<(), NodeSocketError> {
        let patience = Duration::from_millis(wait.timeout_ms).saturating_add(PATIENCE);
        match self.ask(&Request::Wait(wait), patience)? {
            Answer::Wait { in_force: true } => Ok(()),
            other => Err(self.misplaced(&other)),
        }
    }

    /// The pod and its namespace, as the API server has them now; `None`: the agent leaves that to the one who asks.
    ///
    /// # Errors
    /// Any [`NodeSocketError`].
    pub fn read(
        &mut self,
        namespace: &str,
        pod: &str,
    ) -> Result<Option<(Pod, Option<Namespace>)>, NodeSocketError> {
        let name = PodName { namespace: namespace.to_owned(), pod: pod.to_owned() };
        match self.ask(&Request::Read(name), ERRAND_PATIENCE) {
            Ok(Answer::Known { pod, of }) => Ok(Some((*pod, of.map(|namespace| *namespace)))),
            answer => self.left_to_us(answer),
        }
    }

    /// Has the agent write a pod's annotations; `None`: it leaves that to the one who asks.
    ///
    /// # Errors
    /// Any [`NodeSocketError`]. It may yet be written, and is taken back when the agent finds that nobody listens.
    pub fn annotate(&mut self, annotate: Annotate) -> Result<Option<()>, NodeSocketError> {
        match self.ask_once(&Request::Annotate(annotate), ERRAND_PATIENCE) {
            Ok(Answer::Annotated { annotated: true }) => Ok(Some(())),
            answer => self.left_to_us(answer),
        }
    }

    /// The addresses that the agent gives; `None`: it leaves that to the one who asks.
    ///
    /// # Errors
    /// Any [`NodeSocketError`]; that there are none is [`Code::NoAddress`]. After anything else it may yet give some, and takes them back
    /// when it finds that nobody listens.
    pub fn assign(&mut self, assign: Assign) -> Result<Option<Vec<IpAddr>>, NodeSocketError> {
        match self.ask_once(&Request::Assign(assign), ERRAND_PATIENCE) {
            Ok(Answer::Assigned { addresses }) => Ok(Some(addresses)),
            answer => self.left_to_us(answer),
        }
    }

    /// What an agent says that does not run this errand: that it is busy, or, of an earlier version, that it does not know the question.
    fn left_to_us<T>(&self, answer: Result<Answer, NodeSocketError>) -> Result<Option<T>, NodeSocketError> {
        match answer {
            Ok(other) => Err(self.misplaced(&other)),
            Err(NodeSocketError::Failure(Failure { code: Code::Busy | Code::BadRequest, .. })) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks what may be asked twice: a connection that was idle for long may have been closed at the other end.
    fn ask(&mut self, request: &Request, patience: Duration) -> Result<Answer, NodeSocketError> {
        use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        match self.ask_once(request, patience) {
            Err(NodeSocketError::Broken { source, .. })
                if self.was_answered
                    && matches!(source.kind(), BrokenPipe | ConnectionReset | UnexpectedEof) =>
            {
                *self = Self::connect(&self.path)?;
                self.ask_once(request, patience)
            }
            answer => answer,
        }
    }

    fn ask_once(&mut self, request: &Request, patience: Duration) -> Result<Answer, NodeSocketError> {
        let path = self.path.clone();
        let broken = |source: io::Error| match source.kind() {
            // What a read says whose time is over.
            io::ErrorKind::WouldBlock => NodeSocketError::Silent { path: path.clone(), limit: patience },
            _ => NodeSocketError::Broken { path: path.clone(), source },
        };
        let mut line = serde_json::to_vec(request).map_err(|e| broken(e.into()))?;
        line.push(b'\n');
        self.stream.get_ref().set_read_timeout(Some(patience)).map_err(broken)?;
        self.stream.get_mut().write_all(&line).map_err(broken)?;
        line.clear();
        let limit = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX);
        self.stream.by_ref().take(limit).read_until(b'\n', &mut line).map_err(broken)?;
        if line.last() != Some(&b'\n') {
            return Err(broken(io::ErrorKind::UnexpectedEof.into()));
        }
        self.was_answered = true;
        match serde_json::from_slice(&line) {
            Ok(Answer::Failure(failure)) => Err(failure.into()),
            Ok(answer) => Ok(answer),
            Err(e) => Err(NodeSocketError::Nonsense { path, what: e.to_string() }),
        }
    }

    fn misplaced(&self, answer: &Answer) -> NodeSocketError {
        NodeSocketError::Nonsense { path: self.path.clone(), what: format!("it answered {answer:?}") }
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::{Backlog, bind, listen};

    use super::*;

    fn says(answer: &Answer, text: &str) {
        assert_eq!(serde_json::to_string(answer).unwrap(), text);
        assert_eq!(serde_json::from_str::<Answer>(text).unwrap(), *answer);
    }

    #[test]
    fn requests_and_answers_are_written_as_the_contract_has_them() {
        assert_eq!(serde_json::from_str::<Request>(r#"{"op":"status"}"#).unwrap(), Request::Status);
        let text = r#"{"op":"wait","namespace":"shop","pod":"web","containerID":"0f","interface":"cali1","addresses":["10.244.1.2"],"timeoutMs":30000}"#;
        let wait = Wait {
            namespace: "shop".into(),
            pod: "web".into(),
            container_id: "0f".into(),
            interface: "cali1".into(),
            addresses: vec!["10.244.1.2".parse().unwrap()],
            timeout_ms: 30_000,
        };
        assert_eq!(serde_json::to_string(&Request::Wait(wait.clone())).unwrap(), text);
        assert_eq!(serde_json::from_str::<Request>(text).unwrap(), Request::Wait(wait));
        says(
            &Answer::Status(Status { ready: true, why: String::new(), api_group: None }),
            r#"{"ready":true,"why":""}"#,
        );
        says(&Answer::Wait { in_force: true }, r#"{"inForce":true}"#);
        let failure = Failure { error: "late".into(), code: Code::TooMany };
        says(&Answer::Failure(failure), r#"{"error":"late","code":"too-many"}"#);
    }

    #[test]
    fn a_code_of_a_later_version_is_still_a_failure() {
        let answer: Answer = serde_json::from_str(r#"{"error":"x","code":"who-knows"}"#).unwrap();
        assert_eq!(answer, Answer::Failure(Failure { error: "x".into(), code: Code::Other }));
    }

    #[test]
    fn an_agent_that_accepts_nobody_is_not_waited_for_for_ever() {
        let directory = std::env::temp_dir().join(format!("caracal-node-socket-full-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("node.sock");
        let stuck = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(stuck.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&stuck, Backlog::new(1).unwrap()).unwrap();
        // Some find room to wait in.
        let limit = Duration::from_millis(20);
        let tried: Vec<_> = (0..4).map(|_| NodeSocket::connect_within(&path, limit)).collect();
        assert!(tried.first().unwrap().is_ok());
        assert!(matches!(tried.last().unwrap(), Err(NodeSocketError::Silent { .. })), "{tried:?}");
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_connection_that_the_agent_has_closed_meanwhile_is_made_anew() {
        let directory =
            std::env::temp_dir().join(format!("caracal-node-socket-again-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("node.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let agent = std::thread::spawn(move || {
            for _ in 0..2 {
                let (stream, _) = listener.accept().unwrap();
                let mut stream = BufReader::new(stream);
                stream.read_until(b'\n', &mut Vec::new()).unwrap();
                stream.get_mut().write_all(b"{\"ready\":true}\n").unwrap();
            }
        });
        let mut socket = NodeSocket::connect(&path).unwrap();
        assert!(socket.status().unwrap().ready);
        assert!(socket.status().unwrap().ready);
        // Nobody is there any more.
        agent.join().unwrap();
        assert!(matches!(socket.status(), Err(NodeSocketError::Connect { .. })));
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn an_agent_that_is_not_there_is_told_from_one_that_talks_nonsense() {
        let directory = std::env::temp_dir().join(format!("caracal-node-socket-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("node.sock");
        assert!(matches!(NodeSocket::connect(&path), Err(NodeSocketError::Connect { .. })));
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let answer = |text: &'static str| {
            let mut socket = NodeSocket::connect(&path).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(text.as_bytes()).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            socket.status().unwrap_err()
        };
        assert!(matches!(answer("220 hello\n"), NodeSocketError::Nonsense { .. }));
        assert!(matches!(answer("{\"inForce\":true}\n"), NodeSocketError::Nonsense { .. }));
        assert!(matches!(answer("{\"ready\":true"), NodeSocketError::Broken { .. }));
        assert!(matches!(answer(""), NodeSocketError::Broken { .. }));
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
