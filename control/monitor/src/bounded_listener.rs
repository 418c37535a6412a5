//! A listener that bounds who asks for the pages: so many at once, and none that neither asks nor takes what it asked for.
//!
//! Pages may be served where every pod and every neighbour reaches them. A connection is a descriptor, of which the rest of the process
//! needs some, too. When all places are taken, whoever comes is given that of the one that has asked nothing for longest: a probe does not
//! wait for those who keep connections, or open thousands. Who sends a byte a minute leaves when its time is over.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, Sleep};

/// At once; more wait in the kernel, where they cost no descriptor.
const CONNECTIONS_MAX: usize = 64;
/// How long one may be idle, and how long a request and its answer may take: less than probes wait for their answer (10 s), so that those who
/// hold all places and never end their requests do not make a process look dead. Who scrapes over one connection makes another.
const PATIENCE: Duration = Duration::from_secs(8);

/// Who is served, by the numbers of their connections.
#[derive(Default)]
struct Guests(Mutex<BTreeMap<u64, Guest>>);

struct Guest {
    /// Whether something of a request has come that nothing of an answer has been taken to.
    asks: bool,
    since: Instant,
    /// Dropped, the connection ends.
    _stay: oneshot::Sender<()>,
}

impl Guests {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Guest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has one leave, if there are any: of those who ask nothing, if there are any, the one that has for longest.
    fn send_one_away(&self) {
        let mut guests = self.lock();
        let goes =
            guests.iter().min_by_key(|(_, guest)| (guest.asks, guest.since)).map(|(number, _)| *number);
        goes.map(|number| guests.remove(&number));
    }
}

/// A listener that accepts so many connections at once.
pub struct BoundedListener {
    listener: TcpListener,
    room: Arc<Semaphore>,
    guests: Arc<Guests>,
    next: u64,
    /// Who has come, and has no place yet.
    coming: Option<(TcpStream, SocketAddr)>,
    patience: Duration,
}

impl BoundedListener {
    /// Bounds `listener`.
    pub fn of(listener: TcpListener) -> Self {
        Self::within(listener, CONNECTIONS_MAX, PATIENCE)
    }

    fn within(listener: TcpListener, most: usize, patience: Duration) -> Self {
        let room = Arc::new(Semaphore::new(most));
        Self { listener, room, guests: Arc::default(), next: 0, coming: None, patience }
    }
}

impl Listener for BoundedListener {
    type Io = BoundedConnection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (BoundedConnection, SocketAddr) {
        if self.coming.is_none() {
            self.coming = Some(Listener::accept(&mut self.listener).await);
            if self.room.available_permits() == 0 {
                self.guests.send_one_away();
            }
        }
        // Nobody closes it.
        let Ok(place) = Arc::clone(&self.room).acquire_owned().await else {
            return std::future::pending().await;
        };
        let Some((stream, address)) = self.coming.take() else { return std::future::pending().await };
        let (patience, ends) = (self.patience, Box::pin(tokio::time::sleep(self.patience)));
        let (_stay, sent_away) = oneshot::channel();
        let (number, guests) = (self.next, Arc::clone(&self.guests));
        self.next += 1;
        guests.lock().insert(number, Guest { asks: false, since: Instant::now(), _stay });
        let connection = BoundedConnection {
            stream,
            patience,
            ends,
            asks: false,
            number,
            guests,
            sent_away,
            _place: place,
        };
        (connection, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends when its time is over. It begins anew with each request and with all that is taken of an answer; what comes of a
/// request byte by byte does not prolong it.
pub struct BoundedConnection {
    stream: TcpStream,
    patience: Duration,
    ends: Pin<Box<Sleep>>,
    /// Something of a request has come that nothing of an answer has been taken to.
    asks: bool,
    number: u64,
    guests: Arc<Guests>,
    sent_away: oneshot::Receiver<()>,
    _place: OwnedSemaphorePermit,
}

impl Drop for BoundedConnection {
    fn drop(&mut self) {
        self.guests.lock().remove(&self.number);
    }
}

impl BoundedConnection {
    fn begin_anew(&mut self) {
        let now = Instant::now();
        self.ends.as_mut().reset(now + self.patience);
        if let Some(guest) = self.guests.lock().get_mut(&self.number) {
            (guest.asks, guest.since) = (self.asks, now);
        }
    }

    /// Waits, or no longer.
    fn wait<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        let sent_away = Pin::new(&mut self.sent_away).poll(context).is_ready();
        match self.ends.as_mut().poll(context) {
            Poll::Pending if !sent_away => Poll::Pending,
            _ => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
        }
    }

    fn written<T>(&mut self, context: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_pending() {
            return self.wait(context);
        }
        self.asks = false;
        self.begin_anew();
        outcome
    }
}

impl AsyncRead for BoundedConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        if outcome.is_pending() {
            return self.wait(context);
        }
        if !std::mem::replace(&mut self.asks, true) {
            self.begin_anew();
        }
        outcome
    }
}

impl AsyncWrite for BoundedConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(context, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(context, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    // The kernel's buffers are all there are: nothing is waited for in these.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn connections(most: usize, patience: Duration) -> (BoundedListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (BoundedListener::within(listener, most, patience), address)
    }

    #[tokio::test]
    async fn no_more_are_let_in_than_there_is_room_for() {
        let (mut connections, address) = connections(1, PATIENCE).await;
        let _clients =
            [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
        let first = connections.accept().await;
        let second = tokio::time::timeout(Duration::from_millis(100), connections.accept()).await;
        assert!(second.is_err(), "there is no room");
        drop(first);
        connections.accept().await;
    }

    #[tokio::test]
    async fn who_keeps_a_connection_and_asks_nothing_makes_room_for_who_comes() {
        // Far longer than a test takes.
        let (connections, address) = connections(2, Duration::from_secs(3600)).await;
        let pages = Router::new().route("/page", get(|| async { "here" }));
        let serving = tokio::spawn(async move { axum::serve(connections, pages).await });
        let ask = async |client: &mut TcpStream| {
            client.write_all(b"GET /page HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"here") {
                let count = client.read_buf(&mut answer).await.unwrap();
                assert!(count > 0, "{}", String::from_utf8_lossy(&answer));
            }
        };
        let mut kept = Vec::new();
        for _ in 0..20 {
            let mut client = TcpStream::connect(address).await.unwrap();
            // Against hanging only.
            tokio::time::timeout(Duration::from_secs(60), ask(&mut client)).await.unwrap();
            kept.push(client);
        }
        ask(kept.last_mut().unwrap()).await;
        let mut first = String::new();
        assert_eq!(kept[0].read_to_string(&mut first).await.unwrap(), 0, "it has been sent away");
        serving.abort();
    }

    #[tokio::test]
    async fn who_never_ends_a_request_leaves_its_place_to_another() {
        let (connections, address) = connections(1, Duration::from_millis(200)).await;
        let pages = Router::new().route("/page", get(|| async { "here" }));
        let serving = tokio::spawn(async move { axum::serve(connections, pages).await });
        let mut slow = TcpStream::connect(address).await.unwrap();
        let dripping = tokio::spawn(async move {
            // A header of one byte after the other, until the other end is gone.
            slow.write_all(b"GET /page HTTP/1.1\r\n").await.unwrap();
            while slow.write_all(b"a").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let mut other = TcpStream::connect(address).await.unwrap();
        other.write_all(b"GET /page HTTP/1.0\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        other.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("here"), "{answer}");
        dripping.await.unwrap();
        serving.abort();
    }
}
