//! Readiness gates: URLs that must answer before a pod is attached.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

/// How often a gate is asked.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long all gates together may take.
const LIMIT: Duration = Duration::from_secs(30);
/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// An `http://` URL, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    host: String,
    port: u16,
    path: String,
}

/// A gate that did not open in time.
#[derive(Debug, thiserror::Error)]
#[error("readiness gate {url} has not answered with 2xx or 3xx for {LIMIT:?}: {last}")]
pub struct Closed {
    url: String,
    last: String,
}

impl Gate {
    /// Takes a URL apart.
    #[must_use]
    pub fn parse(url: &str) -> Option<Self> {
        let rest = url.strip_prefix("http://")?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        // An IPv6 address stands in brackets, and has colons of its own.
        let (host, port) = match authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
            Some((host, port)) => (host, port.parse().ok()?),
            None => (authority, 80),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_clean = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if host.is_empty() || !is_clean(host) || !is_clean(path) {
            return None;
        }
        let path = if path.is_empty() { "/" } else { path };
        Some(Self { host: host.to_owned(), port, path: path.to_owned() })
    }

    /// Asks once; what it says instead of 2xx or 3xx.
    fn ask(&self) -> Result<(), String> {
        let text = |error: std::io::Error| error.to_string();
        let address = (self.host.as_str(), self.port).to_socket_addrs().map_err(text)?.next();
        let address = address.ok_or("no address of that name")?;
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(text)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(text)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(text)?;
        let request = format!("GET {} HTTP/1.0\r\nHost: {}\r\n\r\n", self.path, self.host);
        stream.write_all(request.as_bytes()).map_err(text)?;
        let mut head = [0; 12];
        stream.read_exact(&mut head).map_err(text)?;
        // HTTP/1.1 204
        let status = head.split(|&byte| byte == b' ').nth(1).unwrap_or_default();
        match status.first() {
            Some(b'2' | b'3') => Ok(()),
            _ => Err(format!("it answers {}", String::from_utf8_lossy(status))),
        }
    }
}

/// Waits until every gate has answered.
///
/// # Errors
/// One does not in time.
pub fn wait(urls: &[String]) -> Result<(), Closed> {
    wait_for(urls, INTERVAL, LIMIT)
}

fn wait_for(urls: &[String], interval: Duration, limit: Duration) -> Result<(), Closed> {
    let begin = Instant::now();
    for url in urls {
        let Some(gate) = Gate::parse(url) else { continue };
        while let Err(last) = gate.ask() {
            if begin.elapsed() + interval > limit {
                return Err(Closed { url: url.clone(), last });
            }
            thread::sleep(interval);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn urls_are_taken_apart() {
        let gate = |host: &str, port, path: &str| Some(Gate { host: host.into(), port, path: path.into() });
        assert_eq!(Gate::parse("http://localhost:9099/readiness"), gate("localhost", 9099, "/readiness"));
        assert_eq!(Gate::parse("http://gate"), gate("gate", 80, "/"));
        assert_eq!(Gate::parse("http://[::1]/x"), gate("::1", 80, "/x"));
        for url in ["https://x/", "http://", "http:///x", "http://x:y/", "http://x/\r\nHost: y", "x"] {
            assert_eq!(Gate::parse(url), None, "{url}");
        }
    }

    #[test]
    fn a_gate_is_asked_until_it_is_open_or_the_time_is_over() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let urls = [format!("http://{}/ready", listener.local_addr().unwrap())];
        let server = thread::spawn(move || {
            for answer in ["503 no", "503 no", "204 yes", "404 no"] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut line = [0; 64];
                let length = stream.read(&mut line).unwrap();
                assert!(line[..length].starts_with(b"GET /ready HTTP/1.0\r\n"));
                stream.write_all(format!("HTTP/1.1 {answer}\r\n\r\n").as_bytes()).unwrap();
            }
        });
        let interval = Duration::from_millis(1);
        wait_for(&urls, interval, Duration::from_secs(60)).unwrap();
        let error = wait_for(&urls, interval, Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains("404"), "{error}");
        server.join().unwrap();
    }
}
