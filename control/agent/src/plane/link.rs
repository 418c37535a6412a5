//! One connection to the fastpath's socket, moved by a task of its own.

use std::path::Path;

use caracal_plane_api::{Decoder, FromClient, FromFastpath, encode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

const READ_BYTES: usize = 64 << 10;
const EVENTS: usize = 256;

/// What a connection reports.
#[derive(Debug)]
pub enum LinkEvent {
    /// It is open.
    Connected,
    /// A message came.
    Received(Box<FromFastpath>),
    /// It could not be opened, or is gone; the last event.
    Lost(String),
}

/// A connection; dropped, it is closed.
#[derive(Debug)]
pub struct Link {
    // The session's window bounds what can be in here.
    outgoing: mpsc::UnboundedSender<FromClient>,
    events: mpsc::Receiver<LinkEvent>,
    task: JoinHandle<()>,
}

impl Link {
    /// Starts to connect to the socket at `path`.
    #[must_use]
    pub fn open(path: &Path) -> Self {
        let path = path.to_owned();
        let (outgoing, to_send) = mpsc::unbounded_channel();
        let (report, events) = mpsc::channel(EVENTS);
        let task = tokio::spawn(async move {
            let why = converse(&path, to_send, &report).await;
            // Fails only when the link has been dropped, and nobody wants to know.
            let _ = report.send(LinkEvent::Lost(format!("{}: {why}", path.display()))).await;
        });
        Self { outgoing, events, task }
    }

    /// Says `message`, after what was said before.
    pub fn send(&self, message: FromClient) {
        // Fails only when the connection is gone, which `next` reports.
        let _ = self.outgoing.send(message);
    }

    /// What happens next.
    pub async fn next(&mut self) -> LinkEvent {
        self.events.recv().await.unwrap_or_else(|| LinkEvent::Lost("the connection's task ended".to_owned()))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Runs the connection until it ends, and says why it did.
async fn converse(
    path: &Path,
    mut to_send: mpsc::UnboundedReceiver<FromClient>,
    report: &mpsc::Sender<LinkEvent>,
) -> String {
    let stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(e) => return format!("cannot connect: {e} (is caracal-fastpath running with this --socket?)"),
    };
    if report.send(LinkEvent::Connected).await.is_err() {
        return String::new();
    }
    let (mut reader, mut writer) = stream.into_split();
    let receive = async {
        let mut decoder = Decoder::default();
        let mut bytes = vec![0; READ_BYTES];
        loop {
            loop {
                match decoder.next_message() {
                    Ok(Some(message)) => {
                        if report.send(LinkEvent::Received(Box::new(message))).await.is_err() {
                            return String::new();
                        }
                    }
                    Ok(None) => break,
                    Err(e) => return e.to_string(),
                }
            }
            match reader.read(&mut bytes).await {
                Ok(0) => return "the fastpath closed the connection".to_owned(),
                Ok(n) => decoder.push(&bytes[..n]),
                Err(e) => return format!("reading failed: {e}"),
            }
        }
    };
    let send = async {
        let mut bytes = Vec::new();
        while let Some(message) = to_send.recv().await {
            bytes.clear();
            if let Err(e) = encode(&message, &mut bytes) {
                return e.to_string();
            }
            if let Err(e) = writer.write_all(&bytes).await {
                return format!("writing failed: {e}");
            }
        }
        String::new()
    };
    // When writing fails because the fastpath has closed, what it said before (a Refused, say) must still be read.
    tokio::pin!(receive);
    tokio::select! {
        why = &mut receive => why,
        why = send => {
            let rest = tokio::time::timeout(std::time::Duration::from_secs(1), receive).await;
            rest.unwrap_or(why)
        }
    }
}
