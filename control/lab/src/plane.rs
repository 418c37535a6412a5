//! Reading a fastpath's state through its plane socket.

use std::{
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use caracal_plane_api::{
    FrameError, FromClient, FromFastpath, Hello, Read, ReadReply, Role, VERSION, Welcome, What, from_client,
    from_fastpath, read_message, write_message,
};

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
        let fail = |source| PlaneError::Connect { path: path.to_owned(), source };
        let stream = UnixStream::connect(path).map_err(fail)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(fail)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(fail)?;
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
            add(&mut whole, part);
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

/// One more part of an answer.
fn add(whole: &mut ReadReply, part: ReadReply) {
    // By name, so that a new kind of rows is not forgotten here.
    let ReadReply { last, status, counters, drops, flows, routes, policies, services, nat } = part;
    whole.last = last;
    whole.status = status.or(whole.status.take());
    whole.counters.extend(counters);
    whole.drops.extend(drops);
    whole.flows.extend(flows);
    whole.routes.extend(routes);
    whole.policies.extend(policies);
    whole.services.extend(services);
    whole.nat.extend(nat);
}

#[cfg(test)]
mod tests {
    use caracal_plane_api::{NatRow, ServiceRow};

    use super::*;

    #[test]
    fn rows_of_every_part_are_in_the_answer() {
        let mut whole = ReadReply::default();
        let part = |last| ReadReply {
            last,
            services: vec![ServiceRow::default()],
            nat: vec![NatRow::default()],
            ..ReadReply::default()
        };
        add(&mut whole, part(false));
        add(&mut whole, part(true));
        assert_eq!((whole.last, whole.services.len(), whole.nat.len()), (true, 2, 2));
    }
}
