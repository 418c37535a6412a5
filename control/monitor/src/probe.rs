//! Asking a process' health over HTTP, for exec probes and people.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// Against hanging; a kubelet gives up after a second of its own by default.
const PATIENCE: Duration = Duration::from_secs(5);
/// No table of reporters is longer.
const ANSWER_MAX: u64 = 1 << 20;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Whether the process is alive.
    Live,
    /// Whether it is ready.
    Ready,
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Live => "liveness",
            Self::Ready => "readiness",
        })
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Nobody is there, or does not speak.
    #[error("cannot ask http://{address}/{question}: {error} (is it running, with this health address?)")]
    Io {
        /// Who was asked.
        address: String,
        /// What.
        question: Question,
        /// What happened.
        error: io::Error,
    },
    /// It is something else.
    #[error("what answers at http://{address}/{question} is no health endpoint: {answer}")]
    Nonsense {
        /// Who was asked.
        address: String,
        /// What.
        question: Question,
        /// The beginning of its answer.
        answer: String,
    },
}

/// Asks. Returns whether it is so, and the table that explains it.
///
/// # Errors
/// [`ProbeError`].
pub fn probe(address: &str, question: Question) -> Result<(bool, String), ProbeError> {
    let answer = ask(address, question).map_err(|error| {
        let address = address.to_owned();
        ProbeError::Io { address, question, error }
    })?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer.as_str(), ""));
    let is_so = match head.split_whitespace().nth(1) {
        Some("200") => true,
        Some("503") => false,
        _ => {
            let answer = head.lines().next().unwrap_or_default().to_owned();
            return Err(ProbeError::Nonsense { address: address.to_owned(), question, answer });
        }
    };
    Ok((is_so, body.to_owned()))
}

fn ask(address: &str, question: Question) -> io::Result<String> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => return converse(stream, question),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn converse(mut stream: TcpStream, question: Question) -> io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // HTTP 1.0: the answer ends with the connection.
    write!(stream, "GET /{question} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
