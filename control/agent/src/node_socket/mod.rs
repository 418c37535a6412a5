//! The node socket's serving end: the CNI plugin's questions ([`caracal_cni::node_socket`]) to the agent's one task.
//!
//! A task for each connection reads lines and hands what they ask on; [`Waiters`] are state in the agent's task. A client that hangs up
//! takes its question with it, and whoever did something for it hears that it has not been told. A lock beside the socket says whose it is, so a file that a dead agent has left is
//! replaced, and two agents never serve one.

mod waiters;

use std::fs::{File, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use caracal_cni::node_socket::DEFAULT_PATH;
use caracal_cni::node_socket::{Answer, Code, Failure, LINE_BYTES_MAX, Request};
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::{debug, warn};

pub use waiters::{Said, WAITERS_MAX, Waiters};

/// Connections at once; more wait to be accepted.
const CONNECTIONS_MAX: usize = WAITERS_MAX;
/// A client that asks nothing for so long is cut off.
const IDLE: Duration = Duration::from_secs(60);
/// A client that does not take its answer for so long is cut off.
const WRITE_PATIENCE: Duration = Duration::from_secs(5);
/// The question of a client that will say nothing more is given up after this.
const HUNG_UP: Duration = Duration::from_secs(1);
const QUESTIONS: usize = 256;
/// While nobody asks, the socket's file is looked for this often.
const LOOK: Duration = Duration::from_secs(1);

/// Why the socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum NodeSocketError {
    /// Another agent does.
    #[error("{} is served by another caracal agent; stop that one, or choose another --node-socket", .path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("{} exists and is not a socket; remove it, or choose another --node-socket", .path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The kernel refuses.
    #[error("cannot serve {}: {source}", .path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// A question, and who asks.
#[derive(Debug)]
pub struct Question {
    /// What is asked.
    pub request: Request,
    /// Whom to tell.
    pub asker: Asker,
}

/// Who has asked, and waits for the answer.
#[derive(Debug)]
pub struct Asker(oneshot::Sender<(Answer, Told)>);

/// Sent once the client's socket has the answer; dropped, if it never will.
type Told = oneshot::Sender<()>;

impl Asker {
    /// Whether nobody waits any more.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.0.is_closed()
    }

    /// Answers. Who no longer listens need not be told.
    pub fn tell(self, answer: Answer) {
        drop(self.give(answer));
    }

    /// Answers with something that must not stay where nobody has been told of it: whether the client was there to be told. A client that
    /// was killed later was killed after what it is told of had been done, and its DEL finds that.
    pub fn give(self, answer: Answer) -> impl Future<Output = bool> + Send + 'static {
        let (told, heard) = oneshot::channel();
        let _ = self.0.send((answer, told));
        async move { heard.await.is_ok() }
    }
}

/// The socket; dropped, it is gone.
#[derive(Debug)]
pub struct NodeSocket {
    questions: mpsc::Receiver<Question>,
    accept: JoinHandle<()>,
    path: PathBuf,
    _lock: Flock<File>,
}

impl NodeSocket {
    /// Serves `path` from now on.
    ///
    /// # Errors
    /// Any [`NodeSocketError`].
    pub fn open(path: &Path) -> Result<Self, NodeSocketError> {
        let failed = |source| NodeSocketError::Io { path: path.to_owned(), source };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let lock = lock(path)?;
        match std::fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(NodeSocketError::NotASocket { path: path.to_owned() });
            }
            // We have the lock: whoever served it is dead.
            Ok(_) => std::fs::remove_file(path).map_err(failed)?,
            Err(_) => {}
        }
        let listener = bind(path).map_err(failed)?;
        let (ask, questions) = mpsc::channel(QUESTIONS);
        let accept = tokio::spawn(accept(listener, path.to_owned(), ask));
        Ok(Self { questions, accept, path: path.to_owned(), _lock: lock })
    }

    /// The next question. Safe to cancel.
    pub async fn next(&mut self) -> Question {
        match self.questions.recv().await {
            Some(question) => question,
            // The accepting task runs as long as this lives.
            None => std::future::pending().await,
        }
    }
}

impl Drop for NodeSocket {
    fn drop(&mut self) {
        self.accept.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

fn lock(path: &Path) -> Result<Flock<File>, NodeSocketError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let failed = |source| NodeSocketError::Io { path: path.to_owned(), source };
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(PathBuf::from(name))
        .map_err(failed)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        nix::errno::Errno::EWOULDBLOCK => NodeSocketError::InUse { path: path.to_owned() },
        other => failed(other.into()),
    })
}

fn bind(path: &Path) -> std::io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn accept(mut listener: UnixListener, path: PathBuf, ask: mpsc::Sender<Question>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        let Ok(accepted) = tokio::time::timeout(LOOK, listener.accept()).await else {
            // Who cleans up a folder of sockets takes this one's name, and nobody finds it any more.
            if std::fs::symlink_metadata(&path).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
                match bind(&path) {
                    Ok(again) => {
                        warn!("somebody removed {}; it is served again", path.display());
                        listener = again;
                    }
                    Err(error) => {
                        warn!("somebody removed {}, and it cannot be served again: {error}", path.display());
                    }
                }
            }
            continue;
        };
        match accepted {
            Ok((stream, _)) => {
                let ask = ask.clone();
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, &ask).await {
                        debug!("a client of the node socket is gone: {error}");
                    }
                    drop(place);
                });
            }
            // Out of file descriptors, say.
            Err(error) => {
                warn!("the node socket cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(mut stream: UnixStream, ask: &mpsc::Sender<Question>) -> std::io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    if peer != 0 && peer != geteuid().as_raw() {
        return say(&mut stream, &bad_request("only root and the agent's own user may ask")).await;
    }
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        let limit = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX);
        let mut limited = (&mut reader).take(limit);
        let read = tokio::time::timeout(IDLE, limited.read_until(b'\n', &mut line));
        if read.await.map_err(|_| std::io::Error::from(ErrorKind::TimedOut))?? == 0 {
            return Ok(());
        }
        if line.last() != Some(&b'\n') {
            if line.len() < LINE_BYTES_MAX {
                return Ok(());
            }
            return say(&mut writer, &bad_request("the line is too long")).await;
        }
        let request = match serde_json::from_slice(&line) {
            Ok(request) => request,
            Err(error) => {
                say(&mut writer, &bad_request(&format!("that is no request: {error}"))).await?;
                continue;
            }
        };
        // What is done for somebody who is gone is taken back, so that is to be known at once.
        let leaves_something = matches!(request, Request::Assign(_) | Request::Annotate(_));
        let (answer, mut answered) = oneshot::channel();
        if ask.send(Question { request, asker: Asker(answer) }).await.is_err() {
            return say(&mut writer, &stopping()).await;
        }
        let answer = tokio::select! {
            biased;
            more = reader.fill_buf() => match more? {
                [] if leaves_something => return Err(ErrorKind::BrokenPipe.into()),
                // Whether it has hung up or has just no more to ask cannot be told.
                [] => tokio::time::timeout(HUNG_UP, answered).await.map_err(|_| ErrorKind::BrokenPipe)?,
                _ => answered.await,
            },
            answer = &mut answered => answer,
        };
        let Ok((answer, told)) = answer else {
            say(&mut writer, &stopping()).await?;
            continue;
        };
        say(&mut writer, &answer).await?;
        let _ = told.send(());
    }
}

fn bad_request(error: &str) -> Answer {
    Answer::Failure(Failure { error: error.to_owned(), code: Code::BadRequest })
}

fn stopping() -> Answer {
    Answer::Failure(Failure { error: "the agent ends".to_owned(), code: Code::Stopping })
}

async fn say(writer: &mut (impl tokio::io::AsyncWrite + Unpin), answer: &Answer) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    let written = tokio::time::timeout(WRITE_PATIENCE, writer.write_all(&line));
    written.await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}
