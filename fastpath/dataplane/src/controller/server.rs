//! The plane socket: clients connect, say who they are, and are served. One thread a connection reads; what it reads
//! goes to the controller as an [`Event`]; answers are written by the controller through [`Client`].
//!
//! The socket is 0600, and its peers must be of our own user or root.

use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use caracal_plane_api::{
    self as api, Ack, FromClient, FromFastpath, Read, ReadReply, Refused, Role, Transaction, Welcome,
    from_client, from_fastpath,
};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;

/// What happens to the controller.
pub enum Event {
    /// A client said Hello as the node's control plane.
    Controller(Arc<Client>),
    /// The control plane sent a transaction.
    Transaction(Arc<Client>, Transaction),
    /// Somebody wants to read.
    Read(Arc<Client>, Read),
    /// A connection ended.
    Closed(u64),
    /// Links, addresses, routes or neighbors changed.
    Kernel,
    /// A packet needed a next hop on a device whose MAC address is not known.
    UnknownNeighbor(u32, IpAddr),
    /// Asked to end.
    Stop,
}

/// One connection.
pub struct Client {
    /// Which; never used twice.
    pub id: u64,
    /// What the client calls itself.
    pub name: String,
    stream: Mutex<UnixStream>,
}

/// How long a client may take to read an answer before it is cut off.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

impl Client {
    /// Acknowledges a transaction.
    pub fn ack(&self, seq: u64) {
        self.send(from_fastpath::Message::Ack(Ack { seq }));
    }

    /// Refuses a transaction, or the connection.
    pub fn refuse(&self, seq: u64, reason: String) {
        self.send(from_fastpath::Message::Refused(Refused { seq, reason }));
    }

    /// Sends a part of a read's answer. False: the client is gone.
    pub fn reply(&self, reply: ReadReply) -> bool {
        self.send(from_fastpath::Message::ReadReply(reply))
    }

    /// Ends the connection.
    pub fn close(&self) {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }

    fn send(&self, message: from_fastpath::Message) -> bool {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = api::write_message(&mut *stream, &FromFastpath { message: Some(message) }).is_ok();
        if !sent {
            // A client that does not read has its reader thread notice the end.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        sent
    }
}

/// What a fastpath says of itself to whoever connects.
#[derive(Clone, Debug)]
pub struct Greeting {
    /// Differs after every restart.
    pub instance: u64,
    /// How many workers.
    pub workers: u32,
}

/// Why the socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Somebody serves it.
    #[error("{path} is served by another caracal-fastpath; stop that one, or choose another --socket")]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// There is something else.
    #[error("{path} exists and is not a socket; remove it, or choose another --socket")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// Anything else.
    #[error("cannot listen on {path}: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The socket's file; removed when it goes.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Listens, and turns what clients say into events.
///
/// # Errors
/// See [`ServeError`].
pub fn serve(path: &Path, greeting: Greeting, events: Sender<Event>) -> Result<SocketFile, ServeError> {
    let failed = |source| ServeError::Io { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ServeError::NotASocket { path: path.to_owned() });
        }
        // Left behind by a killed fastpath, or alive.
        Ok(_) if UnixStream::connect(path).is_ok() => {
            return Err(ServeError::InUse { path: path.to_owned() });
        }
        Ok(_) => std::fs::remove_file(path).map_err(failed)?,
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    let accept = move || {
        let mut next = 0;
        for stream in listener.incoming().flatten() {
            next += 1;
            let (greeting, events, id) = (greeting.clone(), events.clone(), next);
            // Out of threads: this client is turned away, others may still come.
            let _ = std::thread::Builder::new().name(format!("client-{id}")).spawn(move || {
                converse(id, stream, &greeting, &events);
                let _ = events.send(Event::Closed(id));
            });
        }
    };
    std::thread::Builder::new().name("plane-accept".into()).spawn(accept).map_err(failed)?;
    Ok(SocketFile(path.to_owned()))
}

fn converse(id: u64, mut stream: UnixStream, greeting: &Greeting, events: &Sender<Event>) {
    let Ok(write_half) = stream.try_clone() else { return };
    let _ = write_half.set_write_timeout(Some(WRITE_TIMEOUT));
    let mut client = Client { id, name: String::new(), stream: Mutex::new(write_half) };
    if !may_connect(&stream) {
        client.refuse(0, "only root and the fastpath's own user may connect".into());
        return;
    }
    let Ok(FromClient { message: Some(from_client::Message::Hello(hello)) }) = api::read_message(&mut stream)
    else {
        client.refuse(0, "the first message must be Hello".into());
        return;
    };
    if hello.version != api::VERSION {
        let reason = format!(
            "version {} is spoken here, {} there: update {}",
            api::VERSION,
            hello.version,
            if hello.version < api::VERSION { "the client" } else { "the fastpath" }
        );
        client.refuse(0, reason);
        return;
    }
    let is_controller = hello.role() == Role::Controller;
    client.name = hello.name;
    let client = Arc::new(client);
    client.send(from_fastpath::Message::Welcome(Welcome {
        version: api::VERSION,
        software: env!("CARGO_PKG_VERSION").into(),
        instance: greeting.instance,
        workers: greeting.workers,
    }));
    if is_controller && events.send(Event::Controller(Arc::clone(&client))).is_err() {
        return;
    }
    loop {
        let message: FromClient = match api::read_message(&mut stream) {
            Ok(message) => message,
            Err(api::FrameError::Closed | api::FrameError::Io(_)) => return,
            Err(error) => return client.refuse(0, error.to_string()),
        };
        let event = match message.message {
            Some(from_client::Message::Transaction(transaction)) if is_controller => {
                Event::Transaction(Arc::clone(&client), transaction)
            }
            Some(from_client::Message::Transaction(transaction)) => {
                client.refuse(transaction.seq, "a reader may not send transactions".into());
                continue;
            }
            Some(from_client::Message::Read(read)) => Event::Read(Arc::clone(&client), read),
            Some(from_client::Message::Hello(_)) | None => {
                return client.refuse(0, "a message that has no place here".into());
            }
        };
        if events.send(event).is_err() {
            return;
        }
    }
}

fn may_connect(stream: &UnixStream) -> bool {
    getsockopt(stream, PeerCredentials)
        .is_ok_and(|credentials| credentials.uid() == 0 || credentials.uid() == geteuid().as_raw())
}
