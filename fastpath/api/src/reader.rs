//! Reading a fastpath's state through its plane socket.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{
    FrameError, FromClient, FromFastpath, Hello, Read, ReadReply, Role, VERSION, Welcome, What, from_client,
    from_fastpath, read_message, write_message,
};

/// How long a fastpath may take for a message, where the reader does not say.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a fastpath could not be read.
#[derive(Debug, thiserror::Error)]
pub enum PlaneError {
    /// Nobody listens there.
    #[error("cannot reach the fastpath at {}: {source} (is caracal-fastpath running with this --socket?)", .path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It speaks another version, or does not want us.
    #[error("the fastpath at {} refuses: {reason}", .path.display())]
    Refused {
        /// The socket.
        path: PathBuf,
        /// In its words.
        reason: String,
    },
    /// The conversation broke off.
    #[error("the fastpath at {} does not answer as it should: {source}", .path.display())]
    Conversation {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: FrameError,
    },
    /// It said something else than an answer.
    #[error("the fastpath at {} sent a message that answers nothing", .path.display())]
    Unexpected {
        /// The socket.
        path: PathBuf,
    },
}

/// A reader's connection to a fastpath.
#[derive(Debug)]
pub struct Reader {
    stream: UnixStream,
    path: PathBuf,
    welcome: Welcome,
}

impl Reader {
    /// Connects and says hello.
    ///
    /// # Errors
    /// Any [`PlaneError`].
    pub fn connect(path: &Path) -> Result<Self, PlaneError> {
        Self::connect_patiently(path, PATIENCE)
    }

    /// The same, with how long the fastpath may take for each message.
    ///
    /// # Errors
    /// Any [`PlaneError`].
    pub fn connect_patiently(path: &Path, patience: Duration) -> Result<Self, PlaneError> {
        let fail = |source| PlaneError::Connect { path: path.to_owned(), source };
        let stream = UnixStream::connect(path).map_err(fail)?;
        stream.set_read_timeout(Some(patience)).map_err(fail)?;
        stream.set_write_timeout(Some(patience)).map_err(fail)?;
        let mut reader = Self { stream, path: path.to_owned(), welcome: Welcome::default() };
        let hello = Hello { version: VERSION, role: Role::Reader.into(), name: "caracal".into() };
        reader.send(from_client::Message::Hello(hello))?;
        match reader.receive()? {
            from_fastpath::Message::Welcome(welcome) => reader.welcome = welcome,
            _ => return Err(PlaneError::Unexpected { path: reader.path }),
        }
        Ok(reader)
    }

    /// What the fastpath said of itself.
    #[must_use]
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// Reads everything of one kind.
    ///
    /// # Errors
    /// Any [`PlaneError`]; the connection is of no use afterwards.
    pub fn read(&mut self, what: What) -> Result<ReadReply, PlaneError> {
        self.send(from_client::Message::Read(Read { what: what.into() }))?;
        let mut whole = ReadReply::default();
        while !whole.last {
            let from_fastpath::Message::ReadReply(part) = self.receive()? else {
                return Err(PlaneError::Unexpected { path: self.path.clone() });
            };
            whole.add(part);
        }
        Ok(whole)
    }

    fn send(&mut self, message: from_client::Message) -> Result<(), PlaneError> {
        let message = FromClient { message: Some(message) };
        write_message(&mut &self.stream, &message).map_err(|source| self.broken(source))
    }

    fn receive(&mut self) -> Result<from_fastpath::Message, PlaneError> {
        let message: FromFastpath = read_message(&mut &self.stream).map_err(|source| self.broken(source))?;
        match message.message {
            Some(from_fastpath::Message::Refused(refused)) => {
                Err(PlaneError::Refused { path: self.path.clone(), reason: refused.reason })
            }
            Some(message) => Ok(message),
            None => Err(PlaneError::Unexpected { path: self.path.clone() }),
        }
    }

    fn broken(&self, source: FrameError) -> PlaneError {
        PlaneError::Conversation { path: self.path.clone(), source }
    }
}
